//! The ways in: accept, find out who it is and what for, read messages.

use super::Shared;
use super::config::TcpConfig;
use super::events::{CloseReason, TransportEvent};
use super::peer::{Peer, Way};
use super::stream::{Awaited, Deadlined, FrameReader, Socket, close_reason};
use super::transfer;
use crate::message::Envelope;
use crate::peers::PeerNotes;
use crate::transport::Receiver;
use crate::types::NodeId;
use crate::wire::{
    self, CHUNK_FRAME_BYTES_MAX, CONTROL_FRAME_BYTES_MAX, Frame, HANDSHAKE_FRAME_BYTES_MAX, Hello, PROTOCOL, Purpose,
    Refusal, Refuser, TRANSFER_PROTOCOL, Welcome,
};
use std::collections::VecDeque;
use std::io::{self, Read};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::vec::Vec;

/// What a reader takes from the system at a time.
const READ_BYTES: usize = 64 << 10;
/// The pause after a failed accept: descriptors may be exhausted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Inbound connections that have not said who they are, oldest first. Bounded: one more displaces
/// the oldest, so that sockets which stay silent cannot keep a peer out, who speaks at once.
#[derive(Default)]
pub(super) struct Lobby {
    waiting: Mutex<VecDeque<(u64, Arc<Socket>)>>,
}

impl Lobby {
    fn waiting(&self) -> MutexGuard<'_, VecDeque<(u64, Arc<Socket>)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, serial: u64, socket: Arc<Socket>, places: usize) {
        let mut waiting = self.waiting();
        while waiting.len() >= places {
            if let Some((_, oldest)) = waiting.pop_front() {
                oldest.end();
            }
        }
        waiting.push_back((serial, socket));
    }

    /// Whether the connection was still there.
    fn leave(&self, serial: u64) -> bool {
        let mut waiting = self.waiting();
        let position = waiting.iter().position(|(other, _)| *other == serial);
        position.and_then(|position| waiting.remove(position)).is_some()
    }

    pub(super) fn close_all(&self) {
        for (_, socket) in self.waiting().iter() {
            socket.end();
        }
    }
}

/// Accepts until shutdown.
pub(super) fn accept(shared: &Arc<Shared>, listener: &TcpListener, receiver: &Arc<dyn Receiver>) {
    let mut serial = 0;
    while !shared.is_closed() {
        let accepted = listener.accept();
        // The connection that shutdown makes to end the wait must not be treated as one.
        if shared.is_closed() {
            return;
        }
        let (socket, address) = match accepted {
            Ok((stream, address)) => (Arc::new(Socket::new(stream)), address),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                shared.monitor.accept_failed(error);
                shared.threads.rest(ACCEPT_PAUSE);
                continue;
            }
        };
        serial += 1;
        shared.lobby.enter(serial, Arc::clone(&socket), shared.config.handshakes_max);
        let (own, receiver) = (Arc::clone(shared), Arc::clone(receiver));
        let spawned = shared.threads.spawn(std::format!("raft-read-{serial}"), move || {
            serve(&own, &socket, address, serial, &*receiver);
            socket.end();
        });
        if let Err(error) = spawned {
            shared.lobby.leave(serial);
            shared.monitor.accept_failed(error);
            shared.threads.rest(ACCEPT_PAUSE);
        }
    }
}

/// Ends a wait in `accept`, which nothing else can interrupt.
pub(super) fn wake_acceptor(mut address: SocketAddr) {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    // If it fails, the acceptor is not waiting: its socket is gone or its queue full.
    let _ = TcpStream::connect_timeout(&address, Duration::from_secs(1));
}

/// One inbound connection, from its first byte to its end.
fn serve(shared: &Arc<Shared>, socket: &Arc<Socket>, address: SocketAddr, serial: u64, receiver: &dyn Receiver) {
    let mut reader = FrameReader::new(HANDSHAKE_FRAME_BYTES_MAX, HANDSHAKE_FRAME_BYTES_MAX);
    let hello = match read_hello(shared, socket, &mut reader) {
        Ok(hello) => hello,
        Err(reason) => {
            let displaced = !shared.lobby.leave(serial) && !shared.is_closed();
            return shared.monitor.stranger(address, if displaced { CloseReason::Displaced } else { reason });
        }
    };
    let (peer, way, admitted) = match examine(shared, &hello, address) {
        Ok(found) => found,
        Err(refusal) => {
            shared.lobby.leave(serial);
            shared.monitor.refused(address, hello.from, refusal);
            if let Some(claimed) = shared.peer(hello.from).filter(|peer| !peer.is_guest()) {
                claimed.count_refused_claim(refusal.name());
            }
            return refuse(socket, refusal, shared.identity.refuser(hello.from));
        }
    };
    if way == Way::Messages {
        peer.learn_limit(hello.frame_bytes_max);
    }
    peer.learn(hello.incarnation, hello.introduction, hello.client_address);
    // Noted as the peer's connection before it leaves the lobby: shutdown finds it in one of them.
    if peer.begin_inbound(way, serial, Arc::clone(socket)) {
        shared.monitor.counters.replaced_connections.add(1);
    }
    shared.lobby.leave(serial);
    let _ending = Ending { peer: &peer, way, serial };
    if shared.is_closed() || shared.identity.is_lost() {
        return;
    }
    match way {
        Way::Messages => serve_messages(shared, (socket, address, serial), (&peer, admitted), &mut reader, receiver),
        Way::Snapshots => serve_snapshots(shared, socket, &peer, &mut reader, receiver),
    }
}

fn serve_messages(
    shared: &Shared,
    (socket, address, serial): (&Socket, SocketAddr, u64),
    (peer, admitted): (&Peer, bool),
    reader: &mut FrameReader,
    receiver: &dyn Receiver,
) {
    shared.monitor.report(&TransportEvent::Accepted { peer: peer.id, address });
    // It is there, so the way back is worth a try now.
    peer.queue.nudge();
    let mut reason = match welcome(shared, socket, peer.id, (PROTOCOL, shared.config.frame_bytes_max)) {
        Ok(()) => {
            shared.identity.greeting.wait();
            read_messages(shared, socket, (peer, admitted), reader, receiver)
        }
        Err(error) => close_reason(error),
    };
    if shared.is_closed() {
        reason = CloseReason::Shutdown;
    } else if !peer.end_inbound(Way::Messages, serial) {
        reason = CloseReason::Displaced;
    }
    shared.monitor.count_close(&reason);
    shared.monitor.report(&TransportEvent::Closed { peer: peer.id, reason });
}

/// These connections come and go with what is fetched; only damage is worth a word.
fn serve_snapshots(shared: &Shared, socket: &Socket, peer: &Peer, reader: &mut FrameReader, receiver: &dyn Receiver) {
    shared.monitor.counters.snapshot_connections.add(1);
    if welcome(shared, socket, peer.id, (TRANSFER_PROTOCOL, transfer::REQUEST_BYTES_MAX)).is_err() {
        return;
    }
    let reason = transfer::serve(shared, socket, peer, reader, receiver);
    if matches!(reason, CloseReason::Frame(_)) {
        shared.monitor.count_close(&reason);
    }
}

/// Forgets a connection on every way out, a panic of the receiver included.
struct Ending<'a> {
    peer: &'a Peer,
    way: Way,
    serial: u64,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.peer.end_inbound(self.way, self.serial);
    }
}

fn read_hello(shared: &Shared, socket: &Socket, reader: &mut FrameReader) -> Result<Hello, CloseReason> {
    let timeout = shared.config.handshake_timeout;
    let deadline = Instant::now() + timeout;
    socket.stream.set_nodelay(true).map_err(close_reason)?;
    // For everything that is written on this connection: the answer to the hello, and pongs.
    socket.stream.set_write_timeout(Some(timeout)).map_err(close_reason)?;
    match reader.next(&mut Deadlined { socket, deadline })? {
        (Frame::Hello(hello), _) => Ok(hello),
        _ => Err(CloseReason::Unexpected { what: "the first frame is not a hello" }),
    }
}

/// Who may come in, what for, and whether it is remembered already that it did.
fn examine(shared: &Arc<Shared>, hello: &Hello, address: SocketAddr) -> Result<(Arc<Peer>, Way, bool), Refusal> {
    let config = &shared.config;
    if shared.is_closed() {
        return Err(Refusal::ShuttingDown);
    }
    if hello.cluster != config.cluster {
        return Err(Refusal::ForeignCluster { cluster: config.cluster });
    }
    if hello.from == config.id {
        return Err(Refusal::OwnId);
    }
    if hello.to != config.id {
        return Err(Refusal::WrongReceiver { id: config.id });
    }
    let (way, version, frame_bytes_min) = match hello.purpose {
        Purpose::Messages => (Way::Messages, PROTOCOL, CONTROL_FRAME_BYTES_MAX),
        Purpose::Snapshots => (Way::Snapshots, TRANSFER_PROTOCOL, CHUNK_FRAME_BYTES_MAX),
        Purpose::Other { .. } => return Err(Refusal::Unacceptable),
    };
    if !(hello.version_first..=hello.version_last).contains(&version) {
        return Err(Refusal::Version { first: version, last: version });
    }
    if (hello.frame_bytes_max as usize) < frame_bytes_min {
        return Err(Refusal::Unacceptable);
    }
    let admitted = shared.recognise_hello(hello)?;
    // Last, for this may make a peer of a stranger.
    let peer = shared.peer_or_guest(hello, address).ok_or(Refusal::UnknownSender)?;
    Ok((peer, way, admitted))
}

fn refuse(socket: &Socket, reason: Refusal, by: Refuser) {
    let mut frame = Vec::new();
    wire::encode_control(&Frame::Refusal { reason, by }, &mut frame).expect("a refusal has only numbers");
    // Whether it arrives or not, the connection is over.
    let _ = socket.write_all(&frame).and_then(|()| socket.stream.shutdown(Shutdown::Write));
}

/// Says yes, and what this side speaks and accepts on the connection.
fn welcome(shared: &Shared, socket: &Socket, to: NodeId, (version, frame_bytes_max): (u8, usize)) -> io::Result<()> {
    let config = &shared.config;
    let welcome = Welcome {
        from: config.id,
        incarnation: shared.identity.incarnation(config.incarnation),
        version,
        frame_bytes_max: u32::try_from(frame_bytes_max).unwrap_or(u32::MAX),
        client_address: config.client_address.clone(),
        introduction: shared.identity.introduction(to),
    };
    let mut frame = Vec::new();
    wire::encode_control(&Frame::Welcome(welcome), &mut frame).expect("the configuration was validated");
    socket.write_all(&frame)
}

fn read_messages(
    shared: &Shared,
    socket: &Socket,
    (peer, admitted): (&Peer, bool),
    reader: &mut FrameReader,
    receiver: &dyn Receiver,
) -> CloseReason {
    reader.grow(READ_BYTES, shared.config.frame_bytes_max);
    let counters = &shared.monitor.counters;
    let mut source = match Answering::new(socket, &shared.config) {
        Ok(source) => source,
        Err(error) => return close_reason(error),
    };
    let mut notes = if admitted { shared.identity.memory().notes(peer.id) } else { None };
    loop {
        let (frame, bytes) = match reader.next(&mut source) {
            Ok(read) => read,
            Err(reason) => return reason,
        };
        counters.received_bytes.add(bytes as u64);
        match frame {
            Frame::Message { group, message } => {
                if shared.is_closed() {
                    return CloseReason::Shutdown;
                }
                if shared.identity.is_lost() {
                    return CloseReason::Identity(Refusal::OwnDataLost);
                }
                counters.received_messages.add(1);
                if let Err(refusal) = remember_member(shared, peer, &mut notes) {
                    return CloseReason::Identity(refusal);
                }
                if let Some(notes) = &notes {
                    notes.note(group, shared.config.id, &message);
                }
                // Frames name no sender: it is who the handshake established, always.
                receiver.receive(group, Envelope { from: peer.id, to: shared.config.id, message });
            }
            Frame::Position { group, last } => {
                if let Err(refusal) = remember_member(shared, peer, &mut notes) {
                    return CloseReason::Identity(refusal);
                }
                if let Some(notes) = &notes {
                    notes.note_held(group, last);
                }
            }
            Frame::History { lineage } => {
                if let Err(refusal) = shared.hear_history(peer, lineage) {
                    return CloseReason::Identity(refusal);
                }
            }
            Frame::Ping => {
                if let Err(error) = source.pong() {
                    return close_reason(error);
                }
            }
            Frame::Unknown { .. } => counters.frames_unknown.add(1),
            _ => return CloseReason::Unexpected { what: "connection control after the handshake" },
        }
    }
}

/// A guest has become a member since its handshake, or a peer was told first what is remembered of it: what it says is noted
/// from now on.
fn remember_member(shared: &Shared, peer: &Peer, notes: &mut Option<PeerNotes>) -> Result<(), Refusal> {
    if notes.is_none() && !peer.is_guest() {
        shared.remember_member(peer)?;
        *notes = shared.identity.memory().notes(peer.id);
    }
    Ok(())
}

/// A socket that says now and then that bytes arrive: a probe stuck behind a large frame on a slow
/// line would come too late to prove it.
struct Answering<'a> {
    source: Awaited<'a>,
    sink: &'a Socket,
    pong: Vec<u8>,
    interval: Duration,
    last_pong: Instant,
}

impl<'a> Answering<'a> {
    fn new(socket: &'a Socket, config: &TcpConfig) -> io::Result<Self> {
        let mut pong = Vec::new();
        wire::encode_control(&Frame::Pong, &mut pong).expect("a pong has no fields");
        let (source, interval) = (Awaited::new(socket, config.silence_max)?, config.ping_interval);
        Ok(Self { source, sink: socket, pong, interval, last_pong: Instant::now() })
    }

    fn pong(&mut self) -> io::Result<()> {
        self.last_pong = Instant::now();
        self.sink.write_all(&self.pong)
    }
}

impl Read for Answering<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        if read > 0 && self.last_pong.elapsed() >= self.interval {
            self.pong()?;
        }
        Ok(read)
    }
}
