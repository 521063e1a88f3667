//! Messages and snapshots over TCP, on threads of the standard library: a cluster has a handful of peers.
//!
//! Each server opens one connection to every peer and sends on it; what it receives comes on the
//! connections that its peers opened. Two connections per pair, one for each direction, need no
//! rule for simultaneous opens, each side alone decides when to try again, and a line that is dead
//! one way is dead one way here too. On either connection only the side that opened it sends
//! messages; the other answers probes. Snapshots travel on a third, opened by whoever fetches one and while
//! it does.
//!
//! Threads: one per peer that connects and writes, one per open connection that reads (pongs there,
//! messages here), one that accepts. A peer that stalls stalls its own threads only.
//!
//! Peers are those of the configuration of this transport until the cluster's own names others, and those of the cluster's
//! from then on. A server that connects and is neither is a guest: its configuration is newer than this one's, or older. A guest
//! says where it is to be found, and is answered there. Whoever was a member and is none any more is parted with; as a guest it
//! may come back.
//!
//! What waits for a peer is bounded by messages and by bytes. A full queue loses the *newest*
//! message, so that the appends before it stay an unbroken run; while there is no connection,
//! messages are lost at once, because an old message is worth less than the retry that follows.
//!
//! Nothing here is authenticated: whoever reaches the port and knows the cluster's number and the
//! servers' ids can pass for a peer. Keep the port on a network that only the cluster shares.

mod config;
mod events;
mod identity;
mod inbound;
mod members;
mod outbound;
mod peer;
mod resolve;
mod stream;
mod threads;
mod transfer;

pub use config::{TcpConfig, TransportError};
pub use events::{CloseReason, PeerStats, TransportEvent, TransportStats};

use super::queue::Refused;
use super::{
    AddressError, AttachError, FetchError, MessageLimits, PeerTrouble, RaftTransport, Receiver, address, message_cost,
    same_address,
};
use crate::history::History;
use crate::life::Lives;
use crate::message::Envelope;
use crate::peers::PeerMemory;
use crate::snapshot::{Chunk, ChunkRequest};
use crate::types::{GroupId, Identity, NodeId};
use crate::wire::FEATURE_HISTORIES;
use crate::wire::{self, CONTROL_FRAME_BYTES_MAX};
use events::Monitor;
use identity::Recognition;
use inbound::Lobby;
use peer::Peer;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::string::String;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use threads::Threads;

/// The longest that shutdown waits for the transport's threads. All of them are told to end and
/// none of them waits for anything but the receiver; on Windows also for a peer that takes nothing, until its
/// silence is over.
const SHUTDOWN_MAX: Duration = Duration::from_secs(5);

/// A [`RaftTransport`] over TCP. Clones are handles to the same transport, which shuts down with
/// the last of them.
#[derive(Clone)]
pub struct TcpTransport {
    handle: Arc<Handle>,
}

/// Ends the threads, which share everything else, when nobody uses the transport any more.
struct Handle {
    shared: Arc<Shared>,
}

struct Shared {
    config: TcpConfig,
    local_address: SocketAddr,
    monitor: Monitor,
    threads: Arc<Threads>,
    lobby: Lobby,
    identity: Recognition,
    closed: AtomicBool,
    peers: RwLock<BTreeMap<NodeId, Arc<Peer>>>,
    start: Mutex<Start>,
    /// Who was found at one address with whom, and it was said.
    same_place: Mutex<BTreeSet<[NodeId; 2]>>,
    /// A node starts on it, or has started.
    attached: AtomicBool,
}

enum Start {
    /// Bound; connections wait in the system's queue.
    Bound(TcpListener),
    Running,
    Shutdown,
}

impl TcpTransport {
    /// Binds the port. Peers can connect from now on, but are answered only after `start`.
    ///
    /// # Errors
    /// The configuration breaks a rule, what is remembered of the peers cannot be read, or the address cannot be bound.
    pub fn bind(config: TcpConfig) -> Result<Self, TransportError> {
        config.validate()?;
        let memory = identity::open(config.identities_place()).map_err(|source| TransportError::Identities {
            file: config.identities_place().map(|place| place.path()).unwrap_or_default(),
            source,
        })?;
        let failed = |source| TransportError::Bind { address: config.listen.clone(), source };
        let listener = TcpListener::bind(&config.listen).map_err(failed)?;
        let local_address = listener.local_addr().map_err(failed)?;
        let peers = config.peers.iter().filter(|(id, _)| **id != config.id);
        let peers = peers.map(|(id, address)| (*id, Arc::new(members::peer(&config, *id, address.clone())))).collect();
        let shared = Arc::new(Shared {
            monitor: Monitor::new(config.event_handler()),
            config,
            local_address,
            threads: Arc::default(),
            lobby: Lobby::default(),
            identity: Recognition::new(memory),
            closed: AtomicBool::new(false),
            peers: RwLock::new(peers),
            start: Mutex::new(Start::Bound(listener)),
            same_place: Mutex::default(),
            attached: AtomicBool::new(false),
        });
        Ok(Self { handle: Arc::new(Handle { shared }) })
    }

    /// Where this server listens; tells the port that was picked for port 0.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.handle.shared.local_address
    }

    /// Changes where a peer is to be found, `HOST:PORT`, or adds a peer. A connection to the
    /// address before is closed and what waits for it dropped. This server's own id is ignored.
    ///
    /// # Errors
    /// [`TransportError::Address`] or [`TransportError::SharedAddress`], by the rules of [`TcpTransport::bind`]: nothing changed.
    pub fn set_address(&self, id: impl Into<NodeId>, address: impl Into<String>) -> Result<(), TransportError> {
        let (shared, id, address) = (&self.handle.shared, id.into(), address.into());
        if id == shared.config.id {
            return Ok(());
        }
        let start = shared.start();
        shared.check_new_address(id, &address)?;
        shared.set_address(&start, id, address);
        Ok(())
    }

    /// Counters and the state of the connections, as they are now.
    #[must_use]
    pub fn stats(&self) -> TransportStats {
        let shared = &self.handle.shared;
        let peers = shared.peers.read().unwrap_or_else(PoisonError::into_inner);
        let peers = peers.iter().map(|(id, peer)| (*id, peer.stats())).collect();
        TransportStats { peers, ..shared.monitor.counters.snapshot() }
    }
}

/// What a server takes that accepts frames of this size. An entry takes no more of a frame than limits count for it
/// (`Entry::size_bytes`); the rest is for what is around the entries.
pub(super) fn limits_of(frame_bytes_max: usize) -> MessageLimits {
    let limits = wire::Limits { frame_bytes_max };
    MessageLimits {
        entry_bytes_max: frame_bytes_max.saturating_sub(CONTROL_FRAME_BYTES_MAX),
        entries_max: limits.entries_max(),
    }
}

impl RaftTransport for TcpTransport {
    fn attach(&self, _: GroupId) -> Result<(), AttachError> {
        let shared = &self.handle.shared;
        let start = shared.start();
        match *start {
            Start::Bound(_) if !shared.attached.swap(true, Ordering::SeqCst) => Ok(()),
            Start::Bound(_) | Start::Running => Err(AttachError::InUse),
            Start::Shutdown => Err(AttachError::Shutdown),
        }
    }

    /// # Panics
    /// If called twice, or if the system cannot start a thread.
    fn start(&self, receiver: Arc<dyn Receiver>) {
        self.try_start(receiver).expect("the system can start a thread");
    }

    /// # Panics
    /// If called twice.
    fn try_start(&self, receiver: Arc<dyn Receiver>) -> io::Result<()> {
        let shared = &self.handle.shared;
        let mut start = shared.start();
        let listener = match std::mem::replace(&mut *start, Start::Running) {
            Start::Bound(listener) => listener,
            Start::Running => panic!("start is called once"),
            Start::Shutdown => {
                *start = Start::Shutdown;
                return Ok(());
            }
        };
        shared.identity.set_receiver(&receiver);
        let ids: Vec<NodeId> = shared.peers.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect();
        // Half of the silence that ends a connection: nothing that waits is taken for dead.
        shared.identity.greeting.begin(ids, shared.config.connect_timeout.min(shared.config.silence_max / 2));
        let own = Arc::clone(shared);
        let name = std::format!("raft-accept-{}", shared.config.id);
        shared.threads.spawn(name, move || inbound::accept(&own, &listener, &receiver))?;
        let peers = shared.peers.read().unwrap_or_else(PoisonError::into_inner);
        peers.values().try_for_each(|peer| shared.spawn_peer(peer))
    }

    fn send(&self, group: GroupId, envelope: Envelope) {
        let shared = &self.handle.shared;
        let counters = &shared.monitor.counters;
        let peers = shared.peers.read().unwrap_or_else(PoisonError::into_inner);
        let Some(peer) = peers.get(&envelope.to).filter(|_| envelope.from == shared.config.id) else {
            return counters.dropped_misaddressed.add(1);
        };
        if shared.identity.is_lost() {
            return counters.dropped_disconnected.add(1);
        }
        let cost = message_cost(&envelope.message);
        match peer.queue.push((group, envelope.message), cost) {
            Ok(()) => {}
            Err(Refused::Full) => counters.dropped_full.add(1),
            Err(Refused::Closed) => counters.dropped_disconnected.add(1),
        }
    }

    fn identity(&self) -> Identity {
        let config = &self.handle.shared.config;
        Identity { cluster: Some(config.cluster), node: Some(config.id), group: None }
    }

    /// It must be `HOST:PORT`, and for another server not this one's.
    fn check_address(&self, peer: NodeId, address: &str) -> Result<(), AddressError> {
        let shared = &self.handle.shared;
        address::normalise(address)?;
        let own = peer != shared.config.id && same_address(address, &shared.peer_address());
        if own && !shared.config.shared_addresses { Err(AddressError::Own) } else { Ok(()) }
    }

    /// As the peer said in its last handshake with this server.
    fn knows_histories(&self, peer: NodeId) -> bool {
        let peers = self.handle.shared.peers.read().unwrap_or_else(PoisonError::into_inner);
        let said = peers.get(&peer).and_then(|peer| peer.said());
        said.is_some_and(|(_, said)| said.features & FEATURE_HISTORIES != 0)
    }

    /// What fits into a frame of `frame_bytes_max`.
    fn limits(&self) -> MessageLimits {
        limits_of(self.handle.shared.config.frame_bytes_max)
    }

    /// What fits into a frame that the peer takes, once it has said so in a handshake.
    fn limits_of(&self, peer: NodeId) -> MessageLimits {
        let shared = &self.handle.shared;
        let said = shared.peer(peer).and_then(|peer| peer.frame_bytes_max());
        limits_of(said.unwrap_or(shared.config.frame_bytes_max))
    }

    /// What the log's directory says of itself is what handshakes say, and what it remembers of the peers prevails over
    /// [`TcpConfig::identities`].
    fn introduce(&self, lives: &Lives, memory: &PeerMemory) {
        let shared = &self.handle.shared;
        if let Err(error) = shared.identity.introduce(lives, memory) {
            shared.monitor.report(&TransportEvent::IdentityNotSaved { peer: shared.config.id, error });
        }
    }

    /// Handshakes say it from now on.
    fn history(&self, _: GroupId, history: &Arc<History>) {
        self.handle.shared.set_history(history);
    }

    /// Connects to the members where the configuration says that they are, and parts with everybody else.
    fn members(&self, _: GroupId, members: &BTreeMap<NodeId, Option<String>>) {
        self.handle.shared.set_members(members);
    }

    fn fetch_chunk(
        &self,
        group: GroupId,
        from: NodeId,
        request: ChunkRequest,
        timeout: Duration,
    ) -> Result<Chunk, FetchError> {
        let shared = &self.handle.shared;
        let unknown = || FetchError::Unreachable { reason: String::from("no peer has this id") };
        transfer::fetch(shared, &shared.peer(from).ok_or_else(unknown)?, group, request, timeout)
    }

    /// The last failure to connect, while there is no connection.
    fn trouble(&self, peer: NodeId) -> Option<PeerTrouble> {
        self.handle.shared.peer(peer)?.trouble()
    }

    fn client_address(&self, peer: NodeId) -> Option<String> {
        self.handle.shared.peer(peer)?.client_address()
    }

    fn shutdown(&self) {
        self.handle.shared.shutdown();
    }
}

impl Shared {
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    fn start(&self) -> MutexGuard<'_, Start> {
        self.start.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn peer(&self, id: NodeId) -> Option<Arc<Peer>> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    fn count_disconnected(&self, messages: usize) {
        self.monitor.counters.dropped_disconnected.add(messages as u64);
    }

    fn spawn_peer(self: &Arc<Self>, peer: &Arc<Peer>) -> std::io::Result<()> {
        let (shared, own) = (Arc::clone(self), Arc::clone(peer));
        let name = std::format!("raft-send-{}", peer.id);
        self.threads.spawn(name, move || outbound::run(&shared, &own)).map(drop)
    }

    fn shutdown(&self) {
        let mut start = self.start();
        let before = std::mem::replace(&mut *start, Start::Shutdown);
        drop(start);
        // Whoever notes a connection from here on sees the flag; what was noted before is closed
        // below.
        self.closed.store(true, Ordering::SeqCst);
        self.identity.greeting.end();
        self.threads.close();
        self.lobby.close_all();
        for peer in self.peers.read().unwrap_or_else(PoisonError::into_inner).values() {
            self.count_disconnected(peer.shutdown());
        }
        if matches!(before, Start::Running) {
            inbound::wake_acceptor(self.local_address);
        }
        // A receiver that takes longer than this holds a thread of ours; it is told nothing more.
        self.threads.wait(SHUTDOWN_MAX);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.shutdown();
    }
}

impl fmt::Debug for TcpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = &self.handle.shared;
        f.debug_struct("TcpTransport")
            .field("id", &shared.config.id)
            .field("local_address", &shared.local_address)
            .finish_non_exhaustive()
    }
}
