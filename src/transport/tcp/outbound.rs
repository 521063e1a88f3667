//! The way to one peer: connect, introduce, write what is queued, watch that the peer is there.

use super::events::{CloseReason, TransportEvent};
use super::peer::Peer;
use super::resolve::Resolver;
use super::stream::{Awaited, Deadlined, FrameReader, Socket, close_reason};
use super::{Shared, limits_of};
use crate::history::HistoryId;
use crate::message::{AppendEntriesRequest, Message};
use crate::peers::PeerMemory;
use crate::transport::PeerTrouble;
use crate::transport::queue::Popped;
use crate::types::{EntryId, GroupId, Index};
use crate::wire::{
    self, CHUNK_FRAME_BYTES_MAX, CONTROL_FRAME_BYTES_MAX, FEATURE_HISTORIES, Frame, HANDSHAKE_FRAME_BYTES_MAX, Hello,
    Limits, PROTOCOL, Purpose, Refusal, TRANSFER_PROTOCOL, Welcome,
};
use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::string::{String, ToString};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::vec::Vec;

/// Queued frames are coalesced into writes of about this size.
const WRITE_BYTES: usize = 128 << 10;
/// What the write buffer keeps after a frame that was larger.
const WRITE_BUFFER_BYTES_KEPT: usize = 1 << 20;

/// Why there is no connection.
pub(super) enum ConnectError {
    Io(io::Error),
    Refused(Refusal),
    Closed(CloseReason),
    Shutdown,
}

/// The life of a peer's thread: until shutdown.
pub(super) fn run(shared: &Arc<Shared>, peer: &Arc<Peer>) {
    let mut backoff = Backoff::new(shared.config.backoff_first, shared.config.backoff_last);
    let mut series = Series::default();
    while !shared.is_closed() {
        if shared.identity.is_lost() {
            // Nothing is sent any more; only the end is waited for.
            match peer.queue.rest(shared.config.backoff_last) {
                Popped::Closed => return,
                _ => continue,
            }
        }
        let connected = connect(shared, peer);
        shared.identity.greeting.greeted(peer.id);
        match connected {
            Ok(connection) => {
                series = Series::default();
                let began = Instant::now();
                let reason = converse(shared, peer, connection);
                // A peer that welcomes and then closes must not be dialled in a tight loop.
                if began.elapsed() >= shared.config.backoff_last {
                    backoff.reset();
                }
                let again = matches!(reason, CloseReason::AddressChanged);
                peer.note_trouble(PeerTrouble::Unreachable { reason: reason.to_string() });
                shared.monitor.count_close(&reason);
                shared.monitor.report(&TransportEvent::Disconnected { peer: peer.id, reason });
                if again {
                    continue;
                }
            }
            Err(ConnectError::Shutdown) => return,
            Err(error) => series.report(shared, peer, error),
        }
        peer.lane.close_idle(shared.config.silence_max);
        match peer.queue.rest(backoff.next_pause()) {
            Popped::Closed => return,
            // The peer showed up, or its address changed.
            Popped::Nudged => backoff.reset(),
            _ => {}
        }
    }
}

/// A series of failures, of which only the first of each sort is an event.
#[derive(Default)]
struct Series {
    failed: bool,
    refused: Option<Refusal>,
}

impl Series {
    fn report(&mut self, shared: &Shared, peer: &Peer, error: ConnectError) {
        let address = peer.address();
        if let Some(trouble) = trouble(&error, &address) {
            peer.note_trouble(trouble);
        }
        let event = match error {
            ConnectError::Refused(reason) => {
                shared.monitor.counters.refused_by_peers.add(1);
                if self.refused.replace(reason) == Some(reason) {
                    return;
                }
                TransportEvent::RefusedBy { peer: peer.id, address, reason }
            }
            ConnectError::Io(error) => {
                shared.monitor.counters.connect_failures.add(1);
                if std::mem::replace(&mut self.failed, true) {
                    return;
                }
                TransportEvent::ConnectFailed { peer: peer.id, address, error }
            }
            ConnectError::Closed(reason) => {
                shared.monitor.counters.connect_failures.add(1);
                shared.monitor.count_close(&reason);
                if std::mem::replace(&mut self.failed, true) {
                    return;
                }
                TransportEvent::Disconnected { peer: peer.id, reason }
            }
            ConnectError::Shutdown => return,
        };
        shared.monitor.report(&event);
    }
}

/// What a failure says of the peer.
fn trouble(error: &ConnectError, address: &str) -> Option<PeerTrouble> {
    Some(match error {
        ConnectError::Refused(refusal) => {
            PeerTrouble::Refused { reason: std::format!("at {address} it says: {refusal}") }
        }
        ConnectError::Closed(CloseReason::Identity(refusal)) => PeerTrouble::Refused { reason: refusal.to_string() },
        ConnectError::Closed(reason) => PeerTrouble::Unreachable { reason: std::format!("at {address}: {reason}") },
        ConnectError::Io(error) => PeerTrouble::Unreachable { reason: std::format!("at {address}: {error}") },
        ConnectError::Shutdown => return None,
    })
}

/// A connection after its handshake.
struct Connection {
    socket: Arc<Socket>,
    address: SocketAddr,
    address_version: u64,
    /// Keeps what it read beyond the welcome.
    reader: FrameReader,
    /// What the peer accepts.
    limits: Limits,
    /// Whether it remembers what it is told of this server's log.
    remembers: bool,
    /// Whether it understands what it is told of this server's history.
    knows_histories: bool,
    /// The history that the hello named, or an older one.
    told: Option<HistoryId>,
}

fn connect(shared: &Shared, peer: &Peer) -> Result<Connection, ConnectError> {
    let (configured, address_version) = peer.addresses();
    let timeout = shared.config.connect_timeout;
    let dialled = shared.threads.uncounted(|| dial(&configured, &shared.config.resolver, timeout));
    let dialled = dialled.ok_or(ConnectError::Shutdown)?;
    shared.note_place(peer, dialled.as_ref().ok().map(|reached| reached.address));
    let Reached { stream, address, name } = dialled.map_err(ConnectError::Io)?;
    let socket = Arc::new(Socket::new(stream));
    if !peer.begin_outbound(&socket, address_version) {
        return Err(ConnectError::Closed(CloseReason::AddressChanged));
    }
    // Shutdown raises its flag before it closes what is noted: one of the two sees the other.
    if shared.is_closed() {
        return Err(ConnectError::Shutdown);
    }
    let deadline = Instant::now() + shared.config.handshake_timeout;
    let told = shared.identity.history_id();
    let introduced = introduce(shared, peer, (&socket, &name), Purpose::Messages, deadline);
    match introduced {
        Ok((welcome, reader)) => {
            let limits = Limits { frame_bytes_max: welcome.frame_bytes_max as usize };
            let remembers = !welcome.introduction.lives.is_empty();
            let knows_histories = welcome.introduction.features & FEATURE_HISTORIES != 0;
            Ok(Connection { socket, address, address_version, reader, limits, remembers, knows_histories, told })
        }
        Err(error) => {
            shared.count_disconnected(peer.end_outbound());
            Err(error)
        }
    }
}

/// Whoever answered, and the name by which it was found.
pub(super) struct Reached {
    pub(super) stream: TcpStream,
    address: SocketAddr,
    pub(super) name: String,
}

/// Tries each address of each name in turn. The first failure tells most: that of the name that comes first.
pub(super) fn dial(names: &[String], resolver: &Resolver, timeout: Duration) -> io::Result<Reached> {
    let mut failure = None;
    for name in names {
        match dial_name(name, resolver, timeout) {
            Ok((stream, address)) => return Ok(Reached { stream, address, name: name.clone() }),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    Err(failure.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no address is known")))
}

fn dial_name(name: &str, resolver: &Resolver, timeout: Duration) -> io::Result<(TcpStream, SocketAddr)> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in resolver.resolve(name, timeout)? {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => return Ok((stream, address)),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// What a connection for this purpose speaks and, of the server that opens it, accepts.
fn terms(shared: &Shared, purpose: Purpose) -> (u8, usize) {
    match purpose {
        Purpose::Snapshots => (TRANSFER_PROTOCOL, CHUNK_FRAME_BYTES_MAX),
        _ => (PROTOCOL, shared.config.frame_bytes_max),
    }
}

/// The handshake, from the side that opened the connection.
pub(super) fn introduce(
    shared: &Shared,
    peer: &Peer,
    (socket, name): (&Socket, &str),
    purpose: Purpose,
    deadline: Instant,
) -> Result<(Welcome, FrameReader), ConnectError> {
    let config = &shared.config;
    let (version, frame_bytes_max) = terms(shared, purpose);
    let hello = Hello {
        cluster: config.cluster,
        from: config.id,
        to: peer.id,
        incarnation: shared.identity.incarnation(config.incarnation),
        version_first: version,
        version_last: version,
        frame_bytes_max: u32::try_from(frame_bytes_max).unwrap_or(u32::MAX),
        client_address: config.client_address.clone(),
        peer_address: Some(shared.peer_address()),
        purpose,
        introduction: shared.identity.introduction(peer.id),
    };
    let mut frame = Vec::new();
    wire::encode_control(&Frame::Hello(hello), &mut frame).expect("the configuration was validated");
    socket.stream.set_nodelay(true).map_err(ConnectError::Io)?;
    socket.stream.set_write_timeout(Some(config.handshake_timeout)).map_err(ConnectError::Io)?;
    socket.write_all(&frame).map_err(ConnectError::Io)?;
    let mut reader = FrameReader::new(HANDSHAKE_FRAME_BYTES_MAX, HANDSHAKE_FRAME_BYTES_MAX);
    match reader.next(&mut Deadlined { socket, deadline }) {
        Ok((Frame::Welcome(welcome), _)) => {
            let unexpected = |what| Err(ConnectError::Closed(CloseReason::Unexpected { what }));
            if welcome.from != peer.id {
                peer.is_not_at(name);
                return unexpected("another node answers at the peer's address");
            }
            if welcome.version != version || (welcome.frame_bytes_max as usize) < CONTROL_FRAME_BYTES_MAX {
                return unexpected("the peer's welcome is not acceptable");
            }
            let known = shared.recognise(peer.id, welcome.incarnation, &welcome.introduction);
            known.map_err(|refusal| ConnectError::Closed(CloseReason::Identity(refusal)))?;
            if shared.identity.is_lost() {
                return Err(ConnectError::Closed(CloseReason::Identity(Refusal::OwnDataLost)));
            }
            if purpose == Purpose::Messages {
                peer.learn_limit(welcome.frame_bytes_max);
            }
            peer.learn(welcome.incarnation, welcome.introduction.clone(), welcome.client_address.clone());
            Ok((welcome, reader))
        }
        Ok((Frame::Refusal { reason, by }, _)) => {
            // A port that was the peer's may have become another server's.
            if matches!(reason, Refusal::WrongReceiver { .. } | Refusal::OwnId | Refusal::ForeignCluster { .. }) {
                peer.is_not_at(name);
            }
            shared.hear_refusal(peer.id, reason, &by);
            Err(ConnectError::Refused(reason))
        }
        Ok(_) => Err(ConnectError::Closed(CloseReason::Unexpected { what: "neither a welcome nor a refusal" })),
        Err(reason) => Err(ConnectError::Closed(reason)),
    }
}

/// Carries messages until the connection ends, and says why it did.
fn converse(shared: &Arc<Shared>, peer: &Arc<Peer>, connection: Connection) -> CloseReason {
    shared.identity.greeting.wait();
    if shared.identity.is_lost() {
        shared.count_disconnected(peer.end_outbound());
        return CloseReason::Identity(Refusal::OwnDataLost);
    }
    let Connection { socket, address, address_version, reader, limits, remembers, knows_histories, told } = connection;
    let ended = Arc::new(AtomicBool::new(false));
    let watcher = match watch(shared, peer, &socket, reader, &ended) {
        Ok(watcher) => watcher,
        Err(error) => {
            shared.count_disconnected(peer.end_outbound());
            return CloseReason::Io(error);
        }
    };
    peer.set_connected();
    shared.monitor.counters.connects.add(1);
    shared.monitor.report(&TransportEvent::Connected { peer: peer.id, address });
    let mut writer = Writer {
        socket: &socket,
        buffer: Vec::new(),
        messages: 0,
        limits,
        ping_interval: shared.config.ping_interval,
        // The first probe goes out at once: its answer proves both directions.
        next_ping: Instant::now(),
        memory: remembers.then(|| shared.identity.memory()),
        told_position: EntryId::ZERO,
        knows_histories,
        told_history: told,
    };
    let mut batch = VecDeque::new();
    let done = || ended.load(Ordering::Acquire) || peer.address_version() != address_version;
    let failed = write_until(shared, peer, &mut writer, &mut batch, done).err();
    shared.count_disconnected(batch.len() + writer.messages + peer.end_outbound());
    // The watcher never panics; if it did, its reason is lost and the connection closed all the same.
    let watched = watcher.join().unwrap_or(CloseReason::Ended);
    // The watcher's nudge has served; left behind, it would pass for one of the peer's.
    peer.queue.take_nudge();
    if shared.is_closed() {
        CloseReason::Shutdown
    } else if peer.address_version() != address_version {
        CloseReason::AddressChanged
    } else {
        match (watched, failed) {
            (CloseReason::Ended | CloseReason::Io(_), Some(error)) => close_reason(error),
            (watched, _) => watched,
        }
    }
}

fn write_until(
    shared: &Shared,
    peer: &Peer,
    writer: &mut Writer<'_>,
    batch: &mut VecDeque<(GroupId, Message)>,
    done: impl Fn() -> bool,
) -> io::Result<()> {
    // The pong side ends a connection that stalls, so that writes need no limit where that wakes them.
    writer.socket.limit_writes(shared.config.silence_max)?;
    writer.flush(shared)?;
    loop {
        let timeout = writer.next_ping.saturating_duration_since(Instant::now());
        match peer.queue.pop_all(batch, Some(timeout)) {
            Popped::Closed => return Ok(()),
            Popped::Nudged if done() => return Ok(()),
            // Nothing to send: time to look at the other connection to this peer.
            Popped::Timeout => peer.lane.close_idle(shared.config.silence_max),
            _ => {}
        }
        writer.tell_history(shared, peer);
        while let Some((group, message)) = batch.pop_front() {
            if let Err(error) = writer.push(group, &message) {
                shared.monitor.oversized(peer.id, error);
            }
            if writer.buffer.len() >= WRITE_BYTES {
                writer.flush(shared)?;
            }
        }
        writer.flush(shared)?;
    }
}

struct Writer<'a> {
    socket: &'a Socket,
    /// Encoded and not yet written; kept between writes.
    buffer: Vec<u8>,
    /// How many messages are in `buffer`.
    messages: usize,
    limits: Limits,
    ping_interval: Duration,
    next_ping: Instant,
    /// Tells what this server's log holds durably; none for a peer that would not remember it.
    memory: Option<PeerMemory>,
    /// What the peer was told last of it.
    told_position: EntryId,
    knows_histories: bool,
    /// Which history the peer was told last.
    told_history: Option<HistoryId>,
}

impl Writer<'_> {
    fn push(&mut self, group: GroupId, message: &Message) -> Result<(), wire::EncodeError> {
        match wire::encode_message(group, message, &self.limits, &mut self.buffer) {
            Ok(()) => self.messages += 1,
            Err(error) => match message {
                Message::AppendEntriesRequest(request) if request.entries.len() > 1 => {
                    self.push_in_pieces(group, request)?;
                }
                _ => return Err(error),
            },
        }
        Ok(())
    }

    /// To a peer that takes less in one message than this server an append goes in several, each after the one before it.
    /// What follows an entry that is too large by itself would be refused there.
    fn push_in_pieces(&mut self, group: GroupId, request: &AppendEntriesRequest) -> Result<(), wire::EncodeError> {
        let takes = limits_of(self.limits.frame_bytes_max);
        let mut prev = request.prev;
        loop {
            let first = prev.index.next();
            let end = Index(first.0.saturating_add(takes.entries_max as u64));
            let entries = request.entries.range_within(first, end, takes.entry_bytes_max);
            let Some(last) = entries.last_id() else { return Ok(()) };
            let piece = AppendEntriesRequest { prev, entries, ..request.clone() };
            let piece = Message::AppendEntriesRequest(piece);
            wire::encode_message(group, &piece, &self.limits, &mut self.buffer)?;
            self.messages += 1;
            prev = last;
        }
    }

    /// Tells what is durable here with whatever goes out: so the peer knows if it is lost.
    fn tell_position(&mut self) {
        let Some(memory) = &self.memory else { return };
        let last = memory.held();
        if last != self.told_position {
            self.told_position = last;
            let frame = Frame::Position { group: memory.group(), last };
            wire::encode_control(&frame, &mut self.buffer).expect("a position has only numbers");
        }
    }

    /// Tells the history of this server's log if it was committed after the handshake, before any message that follows: the
    /// peer may have one of its own by then, and the two may be of different clusters.
    fn tell_history(&mut self, shared: &Shared, peer: &Peer) {
        if !self.knows_histories || shared.identity.history_id() == self.told_history {
            return;
        }
        if let Some(history) = shared.identity.history() {
            self.told_history = Some(history.id());
            let frame = Frame::History { lineage: history.lineage(peer.id) };
            wire::encode_control(&frame, &mut self.buffer).expect("a history has no more ancestors than fit");
        }
    }

    /// Writes everything, with a probe if one is due.
    fn flush(&mut self, shared: &Shared) -> io::Result<()> {
        let now = Instant::now();
        if now >= self.next_ping {
            self.next_ping = now + self.ping_interval;
            wire::encode_control(&Frame::Ping, &mut self.buffer).expect("a ping has no fields");
        }
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.tell_position();
        self.socket.write_all(&self.buffer)?;
        shared.monitor.counters.sent_bytes.add(self.buffer.len() as u64);
        shared.monitor.counters.sent_messages.add(self.messages as u64);
        self.messages = 0;
        self.buffer.clear();
        self.buffer.shrink_to(WRITE_BUFFER_BYTES_KEPT);
        Ok(())
    }
}

/// Reads the peer's pongs on a thread of its own. Silence, or anything else than a pong, ends the
/// connection, also under a writer that is stuck.
fn watch(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    socket: &Arc<Socket>,
    reader: FrameReader,
    ended: &Arc<AtomicBool>,
) -> io::Result<JoinHandle<CloseReason>> {
    let (peer, socket, ended) = (Arc::clone(peer), Arc::clone(socket), Arc::clone(ended));
    let silence_max = shared.config.silence_max;
    shared.threads.spawn(std::format!("raft-pong-{}", peer.id), move || {
        let reason = match Awaited::new(&socket, silence_max) {
            Ok(mut source) => read_pongs(reader, &mut source),
            Err(error) => CloseReason::Io(error),
        };
        ended.store(true, Ordering::Release);
        socket.end();
        peer.queue.nudge();
        reason
    })
}

fn read_pongs(mut reader: FrameReader, source: &mut Awaited<'_>) -> CloseReason {
    loop {
        match reader.next(source) {
            Ok((Frame::Pong | Frame::Unknown { .. }, _)) => {}
            Ok((Frame::Refusal { .. }, _)) => return CloseReason::Unexpected { what: "a refusal after the welcome" },
            Ok(_) => return CloseReason::Unexpected { what: "something else than a pong" },
            Err(reason) => return reason,
        }
    }
}

/// Pauses that double, with jitter, so that servers that failed together do not come back together.
struct Backoff {
    first: Duration,
    last: Duration,
    next: Duration,
    random: u64,
}

impl Backoff {
    fn new(first: Duration, last: Duration) -> Self {
        // The standard library's per-process random keys, the only randomness that it offers.
        let random = RandomState::new().build_hasher().finish();
        Self { first, last, next: first, random }
    }

    fn reset(&mut self) {
        self.next = self.first;
    }

    /// Between half of the current length and all of it.
    fn next_pause(&mut self) -> Duration {
        let whole = self.next.min(self.last);
        self.next = whole.saturating_mul(2);
        // An xorshift step; quality hardly matters here.
        self.random |= 1;
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        whole / 2 + whole / 2 * ((self.random >> 40) as u32) / (1 << 24)
    }
}
