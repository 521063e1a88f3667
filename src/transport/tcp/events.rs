//! What a transport tells its operator: counters and events.

use crate::types::NodeId;
use crate::wire::{FrameError, Refusal};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::string::String;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The most events per kind and second that are reported; the rest is only counted.
const EVENTS_PER_SECOND_MAX: u32 = 5;

/// What [`TcpConfig::on_event`](super::TcpConfig::on_event) takes.
pub(super) type EventHandler = Arc<dyn Fn(&TransportEvent) + Send + Sync>;

/// Something that happened to a connection.
#[derive(Debug)]
#[non_exhaustive]
pub enum TransportEvent {
    /// This server's way to a peer is open.
    Connected {
        /// The peer.
        peer: NodeId,
        /// Its address as resolved.
        address: SocketAddr,
    },
    /// This server's way to a peer closed; it is being opened again.
    Disconnected {
        /// The peer.
        peer: NodeId,
        /// Why.
        reason: CloseReason,
    },
    /// A connection attempt failed; only the first of a series is reported.
    ConnectFailed {
        /// The peer.
        peer: NodeId,
        /// Its address as configured.
        address: String,
        /// What the system said.
        error: io::Error,
    },
    /// A peer refused this server; only the first of a series is reported.
    RefusedBy {
        /// The peer.
        peer: NodeId,
        /// Its address as configured.
        address: String,
        /// Its reason.
        reason: Refusal,
    },
    /// A peer opened its way to this server.
    Accepted {
        /// The peer.
        peer: NodeId,
        /// From where.
        address: SocketAddr,
    },
    /// A peer's way to this server closed.
    Closed {
        /// The peer.
        peer: NodeId,
        /// Why.
        reason: CloseReason,
    },
    /// This server refused a connection.
    Refused {
        /// From where it came.
        address: SocketAddr,
        /// Who it claimed to be.
        claimed: NodeId,
        /// Why.
        reason: Refusal,
        /// How many events of this kind were counted but not reported before this one.
        unreported: u64,
    },
    /// An inbound connection was closed before it said who it is: a stranger, or not a raft-io.
    Stranger {
        /// From where it came.
        address: SocketAddr,
        /// Why it was closed.
        reason: CloseReason,
        /// How many events of this kind were counted but not reported before this one.
        unreported: u64,
    },
    /// A peer's incarnation is remembered in memory alone: after a restart of this server it is not known whether the peer
    /// is the same.
    IdentityNotSaved {
        /// The peer.
        peer: NodeId,
        /// What the system said.
        error: io::Error,
    },
    /// This server lost data: a peer remembers more of it than its data directory holds. It takes part in nothing any more:
    /// it closes its connections, and opens and accepts none.
    DataLost {
        /// The peer that found it.
        peer: NodeId,
        /// What it found.
        reason: Refusal,
    },
    /// A message was not sent because the peer would not accept its frame: it has one entry that is too large by itself. The
    /// driver brings the peer its effect with a snapshot; where there is none, replication to this peer stands still until
    /// it accepts larger frames.
    Oversized {
        /// The peer.
        peer: NodeId,
        /// Why it was not encoded.
        error: crate::wire::EncodeError,
        /// How many events of this kind were counted but not reported before this one.
        unreported: u64,
    },
    /// The names of two peers lead to one address: at most one of the two can be found. Said once for each pair, when a connection
    /// is made; not with [`TcpConfig::shared_addresses`](super::TcpConfig::shared_addresses).
    SamePlace {
        /// The two, ascending.
        peers: [NodeId; 2],
        /// The address.
        address: SocketAddr,
    },
    /// The system starts no thread for a peer: nothing is sent to it until one can be started.
    NoThread {
        /// The peer.
        peer: NodeId,
        /// What the system said.
        error: io::Error,
    },
    /// Inbound connections cannot be accepted at the moment.
    AcceptFailed {
        /// What the system said.
        error: io::Error,
        /// How many events of this kind were counted but not reported before this one.
        unreported: u64,
    },
}

/// Why a connection ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum CloseReason {
    /// The other side closed it.
    Ended,
    /// Nothing came for too long.
    Silent,
    /// What came is not a frame.
    Frame(FrameError),
    /// A frame that has no place at this point of the conversation.
    Unexpected {
        /// What it was.
        what: &'static str,
    },
    /// A newer connection of the same peer, or a crowd of strangers, took its place.
    Displaced,
    /// The address of the peer was changed.
    AddressChanged,
    /// The peer's data directory is not the one that it had.
    Identity(Refusal),
    /// The transport was shut down.
    Shutdown,
    /// The system failed it.
    Io(io::Error),
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended => f.write_str("the other side closed it"),
            Self::Silent => f.write_str("nothing came in time"),
            Self::Frame(error) => error.fmt(f),
            Self::Unexpected { what } => f.write_str(what),
            Self::Displaced => f.write_str("a newer connection took its place"),
            Self::AddressChanged => f.write_str("the peer's address was changed"),
            Self::Identity(refusal) => refusal.fmt(f),
            Self::Shutdown => f.write_str("shutdown"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl fmt::Display for TransportEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (text, unreported) = match self {
            Self::Connected { peer, address } => return write!(f, "connected to node {peer} at {address}"),
            Self::Disconnected { peer, reason } => return write!(f, "lost the connection to node {peer}: {reason}"),
            Self::ConnectFailed { peer, address, error } => {
                return write!(f, "cannot connect to node {peer} at {address}: {error}; trying again");
            }
            Self::RefusedBy { peer, address, reason } => {
                return write!(f, "node {peer} at {address} refuses this server: {reason}");
            }
            Self::Accepted { peer, address } => return write!(f, "node {peer} connected from {address}"),
            Self::Closed { peer, reason } => return write!(f, "node {peer} disconnected: {reason}"),
            Self::NoThread { peer, error } => return write!(f, "cannot start a thread for node {peer}: {error}"),
            Self::SamePlace { peers: [one, other], address } => {
                return write!(
                    f,
                    "the addresses of nodes {one} and {other} both lead to {address}; one of them is wrong"
                );
            }
            Self::IdentityNotSaved { peer, error } => {
                return write!(f, "cannot save the identity of node {peer}: {error}; a restart forgets it");
            }
            Self::DataLost { peer, reason } => {
                return write!(
                    f,
                    "this server's data directory lost what node {peer} remembers of it ({}): it is an older copy, or \
                     another one, and takes part in nothing any more; stop this server, remove its id from the cluster, and \
                     add it under a new id",
                    reason.name()
                );
            }
            Self::Refused { address, claimed, reason, unreported } => {
                (std::format!("refused {address}, which claims to be node {claimed}: {reason}"), unreported)
            }
            Self::Stranger { address, reason, unreported } => {
                (std::format!("closed a connection from {address} before its handshake: {reason}"), unreported)
            }
            Self::Oversized { peer, error, unreported } => {
                (std::format!("did not send a message to node {peer}: {error}"), unreported)
            }
            Self::AcceptFailed { error, unreported } => {
                (std::format!("cannot accept connections: {error}"), unreported)
            }
        };
        f.write_str(&text)?;
        if *unreported > 0 { write!(f, " (and {unreported} more like it)") } else { Ok(()) }
    }
}

/// A transport's counters since it was bound, and the state of its connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct TransportStats {
    /// The peers, by id.
    pub peers: BTreeMap<NodeId, PeerStats>,
    /// Messages handed to the system for sending.
    pub sent_messages: u64,
    /// Their bytes, and those of pings.
    pub sent_bytes: u64,
    /// Messages delivered to the receiver.
    pub received_messages: u64,
    /// Bytes of frames read after a handshake.
    pub received_bytes: u64,
    /// Messages dropped because the way to their receiver was closed, or closed before they left.
    pub dropped_disconnected: u64,
    /// Messages dropped because their receiver's queue was full.
    pub dropped_full: u64,
    /// Messages dropped because their receiver would not accept their frame.
    pub dropped_oversized: u64,
    /// Messages dropped because no peer has their receiver's id, or they were not from this server.
    pub dropped_misaddressed: u64,
    /// Handshakes that this server refused, by [`Refusal::name`].
    pub refused: BTreeMap<String, u64>,
    /// Handshakes of this server that peers refused.
    pub refused_by_peers: u64,
    /// Inbound connections closed before a valid hello: garbage, silence, other protocols.
    pub strangers: u64,
    /// Of these, the ones closed to make room for newer ones.
    pub displaced_handshakes: u64,
    /// Frames with a wrong checksum; each closed its connection.
    pub frames_corrupt: u64,
    /// Frames whose length field is beyond the limit; each closed its connection.
    pub frames_oversized: u64,
    /// Frames with a right checksum and a wrong content; each closed its connection.
    pub frames_malformed: u64,
    /// Frames of kinds that this version does not know; each was skipped.
    pub frames_unknown: u64,
    /// Connections closed because nothing came back in time.
    pub silent_connections: u64,
    /// Inbound connections closed by a newer one of the same peer.
    pub replaced_connections: u64,
    /// Attempts to connect that failed.
    pub connect_failures: u64,
    /// Connections opened with a completed handshake.
    pub connects: u64,
    /// Chunks of snapshots that peers fetched from this server.
    pub sent_chunks: u64,
    /// Their content in bytes.
    pub sent_chunk_bytes: u64,
    /// Chunks of snapshots that this server fetched.
    pub received_chunks: u64,
    /// Their content in bytes.
    pub received_chunk_bytes: u64,
    /// Connections that peers opened to fetch snapshots.
    pub snapshot_connections: u64,
}

/// The state of the connections with one peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct PeerStats {
    /// Its address as configured.
    pub address: String,
    /// Whether the way to it is open.
    pub connected: bool,
    /// Whether its way to this server is open.
    pub accepted: bool,
    /// Its incarnation, from its last handshake.
    pub incarnation: Option<u64>,
    /// What it advertises to clients, from its last handshake.
    pub client_address: Option<String>,
    /// Handshakes that this server refused and whose opener claimed to be this member, by [`Refusal::name`]. Claimed, not proven:
    /// it may have been another server.
    pub claims_refused: BTreeMap<String, u64>,
    /// Messages waiting to be sent to it.
    pub queued_messages: usize,
    /// Their bytes.
    pub queued_bytes: usize,
}

macro_rules! counters {
    ($($name:ident),* $(,)?) => {
        /// The counters behind [`TransportStats`].
        #[derive(Default)]
        pub(super) struct Counters {
            $(pub(super) $name: Counter,)*
            pub(super) refused: Mutex<BTreeMap<&'static str, u64>>,
        }

        impl Counters {
            pub(super) fn snapshot(&self) -> TransportStats {
                let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
                TransportStats {
                    peers: BTreeMap::new(),
                    refused: refused.iter().map(|(name, count)| (String::from(*name), *count)).collect(),
                    $($name: self.$name.get(),)*
                }
            }
        }
    };
}

counters! {
    sent_messages, sent_bytes, received_messages, received_bytes, dropped_disconnected, dropped_full,
    dropped_oversized, dropped_misaddressed, refused_by_peers, strangers, displaced_handshakes,
    frames_corrupt, frames_oversized, frames_malformed, frames_unknown, silent_connections,
    replaced_connections, connect_failures, connects, sent_chunks, sent_chunk_bytes, received_chunks,
    received_chunk_bytes, snapshot_connections,
}

/// A number that only grows. Relaxed: nothing is ordered by it.
#[derive(Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts and reports.
#[derive(Default)]
pub(super) struct Monitor {
    pub(super) counters: Counters,
    handler: Option<EventHandler>,
    strangers: RateLimit,
    refusals: RateLimit,
    oversized: RateLimit,
    accepts: RateLimit,
}

impl Monitor {
    pub(super) fn new(handler: Option<EventHandler>) -> Self {
        Self { handler, ..Self::default() }
    }

    pub(super) fn report(&self, event: &TransportEvent) {
        #[cfg(feature = "tracing")]
        tracing::info!(target: "raft_io::transport", "{event}");
        if let Some(handler) = &self.handler {
            // The user's code, on a thread that carries messages: a panic of it costs this report and nothing else.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| handler(event))) {
                mem::forget(panic);
            }
        }
    }

    pub(super) fn refused(&self, address: SocketAddr, claimed: NodeId, reason: Refusal) {
        let mut refused = self.counters.refused.lock().unwrap_or_else(PoisonError::into_inner);
        *refused.entry(reason.name()).or_default() += 1;
        drop(refused);
        if let Some(unreported) = self.refusals.admit() {
            self.report(&TransportEvent::Refused { address, claimed, reason, unreported });
        }
    }

    pub(super) fn stranger(&self, address: SocketAddr, reason: CloseReason) {
        self.counters.strangers.add(1);
        self.count_close(&reason);
        if matches!(reason, CloseReason::Displaced) {
            self.counters.displaced_handshakes.add(1);
        }
        if let Some(unreported) = self.strangers.admit() {
            self.report(&TransportEvent::Stranger { address, reason, unreported });
        }
    }

    pub(super) fn oversized(&self, peer: NodeId, error: crate::wire::EncodeError) {
        self.counters.dropped_oversized.add(1);
        if let Some(unreported) = self.oversized.admit() {
            self.report(&TransportEvent::Oversized { peer, error, unreported });
        }
    }

    pub(super) fn accept_failed(&self, error: io::Error) {
        if let Some(unreported) = self.accepts.admit() {
            self.report(&TransportEvent::AcceptFailed { error, unreported });
        }
    }

    pub(super) fn count_close(&self, reason: &CloseReason) {
        match reason {
            CloseReason::Frame(FrameError::Checksum { .. }) => self.counters.frames_corrupt.add(1),
            CloseReason::Frame(FrameError::Length { .. }) => self.counters.frames_oversized.add(1),
            CloseReason::Frame(_) => self.counters.frames_malformed.add(1),
            CloseReason::Silent => self.counters.silent_connections.add(1),
            _ => {}
        }
    }
}

/// Lets a few events per second through and counts the others.
#[derive(Default)]
struct RateLimit {
    window: Mutex<Option<Window>>,
}

struct Window {
    began: Instant,
    admitted: u32,
    unreported: u64,
}

impl RateLimit {
    /// `Some` with the number of events held back so far, if this one may be reported.
    fn admit(&self) -> Option<u64> {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let window = window.get_or_insert(Window { began: now, admitted: 0, unreported: 0 });
        if now.duration_since(window.began) >= Duration::from_secs(1) {
            window.began = now;
            window.admitted = 0;
        }
        if window.admitted < EVENTS_PER_SECOND_MAX {
            window.admitted += 1;
            Some(std::mem::take(&mut window.unreported))
        } else {
            window.unreported += 1;
            None
        }
    }
}
