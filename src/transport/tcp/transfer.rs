//! Snapshots between two servers: on a connection of their own, so that they never delay a message.
//!
//! Who needs a snapshot opens the connection and asks for one chunk after the other; who has it only
//! answers. So a transfer goes no faster than its puller wants, holds one chunk of memory on either side,
//! and is gone on with on the next connection as on this one.
//!
//! Asking happens on the caller's thread, answering on the thread that reads the connection. The puller keeps
//! its connection for the next request; whoever finds it idle for too long closes it.

use super::Shared;
use super::events::CloseReason;
use super::outbound::{self, ConnectError, Reached};
use super::peer::Peer;
use super::stream::{Deadlined, FrameReader, Socket, close_reason};
use crate::snapshot::{Chunk, ChunkRequest};
use crate::transport::{FetchError, Receiver};
use crate::types::GroupId;
use crate::wire::{self, CHUNK_FRAME_BYTES_MAX, CONTROL_FRAME_BYTES_MAX, Frame, FrameError, Purpose, Refusal};
use std::io::{self, Read};
use std::string::{String, ToString};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::vec::Vec;

/// What the puller takes from the system at a time; a chunk is larger and gets an allocation of its own.
const READ_BYTES: usize = 16 << 10;
/// A chunk that keeps arriving may take this many times the time after which silence is given up: a slow
/// line must not ask for the same chunk for ever, and one that trickles must not hold a thread for ever.
const PATIENCE: u32 = 16;
/// More is the same: no caller waits for longer, and clocks do not overflow.
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// The way on which this server fetches from one peer: at most one connection, used by one at a time.
#[derive(Default)]
pub(super) struct Lane {
    state: Mutex<State>,
    changed: Condvar,
    /// Whether a connection attempt is under way that nobody may be waiting for any more.
    dialling: AtomicBool,
}

#[derive(Default)]
struct State {
    /// Whether someone has the lane.
    busy: bool,
    /// The connection between two requests.
    idle: Option<Idle>,
    /// The connection in use, from before its handshake on, so that others can end it.
    socket: Option<Arc<Socket>>,
    /// Ends a wait for a connection attempt.
    waker: Option<SyncSender<Dialled>>,
    /// Final.
    closed: bool,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

/// A connection after its handshake.
struct Connection {
    socket: Arc<Socket>,
    address_version: u64,
    reader: FrameReader,
    /// What is written; kept between requests.
    buffer: Vec<u8>,
}

enum Dialled {
    Done(io::Result<Reached>),
    Shutdown,
}

impl State {
    fn end_connection(&self) {
        if let Some(socket) = &self.socket {
            socket.end();
        }
    }
}

impl Lane {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody else has the lane.
    fn take(&self, timeout: Duration) -> Result<(Turn<'_>, Option<Connection>), FetchError> {
        let deadline = Instant::now() + timeout;
        let mut state = self.state();
        while state.busy && !state.closed {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(FetchError::TimedOut);
            }
            (state, _) = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return Err(FetchError::Shutdown);
        }
        state.busy = true;
        let connection = state.idle.take().map(|idle| idle.connection);
        state.socket = connection.as_ref().map(|connection| Arc::clone(&connection.socket));
        Ok((Turn { lane: self }, connection))
    }

    /// Ends the connection, because the peer's address changed.
    pub(super) fn reset(&self) {
        let mut state = self.state();
        state.idle = None;
        state.end_connection();
    }

    /// Ends a connection that nobody has used for so long.
    pub(super) fn close_idle(&self, idle_max: Duration) {
        let mut state = self.state();
        if state.idle.as_ref().is_some_and(|idle| idle.since.elapsed() >= idle_max) {
            state.idle = None;
        }
    }

    /// Ends everything for good, under the hands of those who wait.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.idle = None;
        state.end_connection();
        if let Some(waker) = state.waker.take() {
            // If it is full, the attempt has just ended by itself.
            let _ = waker.try_send(Dialled::Shutdown);
        }
        drop(state);
        self.changed.notify_all();
    }

    fn is_closed(&self) -> bool {
        self.state().closed
    }
}

/// Whoever has the lane, until dropped.
struct Turn<'a> {
    lane: &'a Lane,
}

impl Turn<'_> {
    /// Takes note of a connection, so that others can end it.
    fn begin(&self, socket: &Arc<Socket>) -> Result<(), FetchError> {
        let mut state = self.lane.state();
        if state.closed {
            return Err(FetchError::Shutdown);
        }
        state.socket = Some(Arc::clone(socket));
        Ok(())
    }

    /// Keeps a connection for the next request.
    fn keep(&self, connection: Connection) {
        let mut state = self.lane.state();
        if !state.closed {
            state.idle = Some(Idle { connection, since: Instant::now() });
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.lane.state();
        state.busy = false;
        state.socket = None;
        state.waker = None;
        drop(state);
        self.lane.changed.notify_one();
    }
}

/// Why an exchange gave no answer.
enum Broken {
    /// The connection ended, before the answer or in the middle of it.
    Ended(CloseReason),
    Failed(FetchError),
}

/// Asks the peer for a chunk, on the caller's thread.
pub(super) fn fetch(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    group: GroupId,
    request: ChunkRequest,
    timeout: Duration,
) -> Result<Chunk, FetchError> {
    if shared.is_closed() {
        return Err(FetchError::Shutdown);
    }
    let timeout = timeout.min(TIMEOUT_MAX);
    let (turn, kept) = peer.lane.take(timeout)?;
    let fetched = fetch_in_turn(shared, peer, &turn, kept, (group, request), timeout);
    match &fetched {
        // Whatever it looked like from here.
        Err(_) if peer.lane.is_closed() => return Err(FetchError::Shutdown),
        Ok(chunk) => {
            shared.monitor.counters.received_chunks.add(1);
            shared.monitor.counters.received_chunk_bytes.add(chunk.data.len() as u64);
        }
        Err(_) => {}
    }
    fetched
}

fn fetch_in_turn(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    turn: &Turn<'_>,
    kept: Option<Connection>,
    question: (GroupId, ChunkRequest),
    timeout: Duration,
) -> Result<Chunk, FetchError> {
    if let Some(connection) = kept.filter(|kept| kept.address_version == peer.address_version()) {
        match exchange(shared, connection, turn, question, timeout) {
            // The peer closed it while it was idle; that says nothing of the peer.
            Err(Broken::Ended(_)) => {}
            Err(Broken::Failed(error)) => return Err(error),
            Ok(chunk) => return Ok(chunk),
        }
    }
    let connection = connect(shared, peer, turn, timeout)?;
    exchange(shared, connection, turn, question, timeout).map_err(|broken| match broken {
        Broken::Ended(reason) => FetchError::Unreachable { reason: reason.to_string() },
        Broken::Failed(error) => error,
    })
}

/// One question and its answer. Only a connection that answered is kept: on any other a late answer
/// would pass for that to the next question.
fn exchange(
    shared: &Shared,
    mut connection: Connection,
    turn: &Turn<'_>,
    (group, request): (GroupId, ChunkRequest),
    timeout: Duration,
) -> Result<Chunk, Broken> {
    connection.buffer.clear();
    let asked = Frame::ChunkRequest { group, request };
    wire::encode_transfer(&asked, &mut connection.buffer).expect("a request has only numbers");
    connection.socket.write_all(&connection.buffer).map_err(|error| Broken::Ended(close_reason(error)))?;
    let mut source = Patient {
        socket: &connection.socket,
        silence_max: timeout,
        deadline: Instant::now() + timeout.saturating_mul(PATIENCE),
    };
    let answer = loop {
        match connection.reader.next(&mut source) {
            Ok((Frame::Unknown { .. }, _)) => shared.monitor.counters.frames_unknown.add(1),
            Ok((frame, _)) => break frame,
            Err(CloseReason::Silent) => return Err(Broken::Failed(FetchError::TimedOut)),
            Err(reason) if is_damage(&reason) => {
                shared.monitor.count_close(&reason);
                return Err(Broken::Failed(FetchError::Corrupt { reason: reason.to_string() }));
            }
            Err(reason) => return Err(Broken::Ended(reason)),
        }
    };
    match answer {
        Frame::Chunk { group: of, chunk } if of == group && is_answer(&chunk, request) => {
            // With the last chunk the transfer is over.
            if !chunk.is_last() {
                turn.keep(connection);
            }
            Ok(chunk)
        }
        Frame::NoChunk { group: of, request: asked } if of == group && asked == request => {
            turn.keep(connection);
            Err(Broken::Failed(FetchError::NotFound))
        }
        _ => Err(Broken::Failed(FetchError::Corrupt { reason: "it answers another question".to_string() })),
    }
}

/// Whether what came is no frame, rather than half of one.
fn is_damage(reason: &CloseReason) -> bool {
    matches!(reason, CloseReason::Frame(error) if !matches!(error, FrameError::Incomplete { .. }))
}

fn is_answer(chunk: &Chunk, request: ChunkRequest) -> bool {
    chunk.snapshot == request.snapshot && chunk.number == request.chunk
}

/// A socket that gives up after silence, and in the end in any case.
struct Patient<'a> {
    socket: &'a Socket,
    silence_max: Duration,
    deadline: Instant,
}

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let deadline = self.deadline.min(Instant::now() + self.silence_max);
        Deadlined { socket: self.socket, deadline }.read(buffer)
    }
}

fn connect(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    turn: &Turn<'_>,
    timeout: Duration,
) -> Result<Connection, FetchError> {
    let (configured, address_version) = peer.addresses();
    let deadline = Instant::now() + timeout;
    let Reached { stream, name, .. } = dial(shared, peer, turn, configured, timeout)?;
    let socket = Arc::new(Socket::new(stream));
    turn.begin(&socket)?;
    let deadline = deadline.min(Instant::now() + shared.config.handshake_timeout);
    let introduced = outbound::introduce(shared, peer, (&socket, &name), Purpose::Snapshots, deadline);
    let (_, mut reader) = introduced.map_err(fetch_error)?;
    reader.grow(READ_BYTES, CHUNK_FRAME_BYTES_MAX);
    Ok(Connection { socket, address_version, reader, buffer: Vec::new() })
}

/// Dials on a thread of its own: neither a name lookup nor an attempt to connect can be interrupted, and
/// the caller has a limit and may be shut down.
fn dial(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    turn: &Turn<'_>,
    configured: Vec<String>,
    timeout: Duration,
) -> Result<Reached, FetchError> {
    let unreachable = |reason: &dyn ToString| FetchError::Unreachable { reason: reason.to_string() };
    if peer.lane.dialling.swap(true, Ordering::SeqCst) {
        return Err(unreachable(&"an earlier attempt to connect is still under way"));
    }
    let (sender, dialled) = mpsc::sync_channel(1);
    let (own, dialler) = (Arc::clone(shared), Arc::clone(peer));
    let waker = sender.clone();
    let spawned = shared.threads.spawn(std::format!("raft-dial-{}", peer.id), move || {
        let connect_timeout = own.config.connect_timeout;
        let result = own.threads.uncounted(|| {
            let result = outbound::dial(&configured, &own.config.resolver, connect_timeout);
            dialler.lane.dialling.store(false, Ordering::SeqCst);
            result
        });
        if let Some(result) = result {
            // If nobody waits any more, the connection is closed with it.
            let _ = sender.try_send(Dialled::Done(result));
        }
    });
    if let Err(error) = spawned {
        peer.lane.dialling.store(false, Ordering::SeqCst);
        return Err(unreachable(&error));
    }
    {
        let mut state = turn.lane.state();
        if state.closed {
            return Err(FetchError::Shutdown);
        }
        state.waker = Some(waker);
    }
    match dialled.recv_timeout(timeout) {
        Ok(Dialled::Done(Ok(reached))) => Ok(reached),
        Ok(Dialled::Done(Err(error))) => Err(unreachable(&error)),
        Err(RecvTimeoutError::Timeout) => Err(FetchError::TimedOut),
        Ok(Dialled::Shutdown) | Err(RecvTimeoutError::Disconnected) => Err(FetchError::Shutdown),
    }
}

fn fetch_error(error: ConnectError) -> FetchError {
    let unreachable = |reason: &dyn ToString| FetchError::Unreachable { reason: reason.to_string() };
    match error {
        ConnectError::Io(error) => match close_reason(error) {
            CloseReason::Silent => FetchError::TimedOut,
            reason => unreachable(&reason),
        },
        // A server that knows nothing of snapshots takes the hello for one with messages of a version
        // that it does not speak.
        ConnectError::Refused(Refusal::Version { .. }) => FetchError::Unsupported,
        ConnectError::Refused(reason @ Refusal::ShuttingDown) => unreachable(&reason),
        ConnectError::Refused(reason) => FetchError::Refused { reason: reason.to_string() },
        ConnectError::Closed(CloseReason::Silent) => FetchError::TimedOut,
        ConnectError::Closed(reason) if is_damage(&reason) => FetchError::Corrupt { reason: reason.to_string() },
        ConnectError::Closed(reason) => unreachable(&reason),
        ConnectError::Shutdown => FetchError::Shutdown,
    }
}

/// Answers a peer's requests until the connection ends.
pub(super) fn serve(
    shared: &Shared,
    socket: &Socket,
    peer: &Peer,
    reader: &mut FrameReader,
    receiver: &dyn Receiver,
) -> CloseReason {
    let counters = &shared.monitor.counters;
    // A puller that does not take its chunk is given up like one that does not ask for the next.
    let idle_max = shared.config.silence_max;
    if let Err(error) = socket.stream.set_write_timeout(Some(idle_max)) {
        return CloseReason::Io(error);
    }
    let mut buffer = Vec::new();
    loop {
        let deadline = Instant::now() + idle_max;
        let (group, request) = match reader.next(&mut Deadlined { socket, deadline }) {
            Ok((Frame::ChunkRequest { group, request }, _)) => (group, request),
            Ok((Frame::Unknown { .. }, _)) => {
                counters.frames_unknown.add(1);
                continue;
            }
            Ok(_) => return CloseReason::Unexpected { what: "something else than a request for a chunk" },
            Err(reason) => return reason,
        };
        if shared.is_closed() {
            return CloseReason::Shutdown;
        }
        let chunk = receiver.snapshot_chunk(group, peer.id, request).filter(|chunk| is_answer(chunk, request));
        let bytes = chunk.as_ref().map(|chunk| chunk.data.len());
        let answer = chunk.map_or(Frame::NoChunk { group, request }, |chunk| Frame::Chunk { group, chunk });
        buffer.clear();
        if wire::encode_transfer(&answer, &mut buffer).is_err() {
            // A store that makes chunks which nobody accepts.
            wire::encode_transfer(&Frame::NoChunk { group, request }, &mut buffer).expect("it has only numbers");
        }
        if let Err(error) = socket.write_all(&buffer) {
            return close_reason(error);
        }
        if let Some(bytes) = bytes {
            counters.sent_chunks.add(1);
            counters.sent_chunk_bytes.add(bytes as u64);
        }
    }
}

/// What a connection for snapshots accepts from the side that opened it: requests, which are small.
pub(super) const REQUEST_BYTES_MAX: usize = CONTROL_FRAME_BYTES_MAX;
