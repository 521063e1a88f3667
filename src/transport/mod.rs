//! How messages and snapshots travel between servers.
//!
//! Lives here: the contract, a network in memory, and TCP on threads (feature `tcp`). Does not live
//! here: what messages say, and who fetches which snapshot when.

mod address;
mod attach;
mod fetch;
mod memory;
#[cfg_attr(not(feature = "tcp"), allow(dead_code, reason = "the network in memory uses a part of it"))]
mod queue;
#[cfg(feature = "tcp")]
pub mod tcp;

pub use address::AddressError;
pub(crate) use address::same as same_address;
pub use attach::AttachError;
pub use fetch::FetchError;
pub use memory::{MemoryNetwork, MemoryTransport};
#[cfg(feature = "tcp")]
pub use tcp::{TcpConfig, TcpTransport, TransportError, TransportEvent, TransportStats};

use crate::history::History;
use crate::life::Lives;
use crate::message::{Envelope, Message};
use crate::peers::PeerMemory;
use crate::snapshot::{Chunk, ChunkRequest};
use crate::types::{GroupId, Identity, NodeId};
use std::collections::BTreeMap;
use std::io;
use std::string::String;
use std::sync::Arc;
use std::time::Duration;

/// What `queue` synchronises with; a test puts loom in its place.
mod sync {
    pub(super) use std::sync::{Condvar, Mutex, MutexGuard};
}

/// What a transport delivers to. The driver implements it.
pub trait Receiver: Send + Sync + 'static {
    /// A message arrived from a server that the transport has identified. Called from the
    /// transport's threads; returns quickly.
    fn receive(&self, group: GroupId, envelope: Envelope);

    /// This server's data directory is an older copy of the one that it had, or another one, as a peer found that remembers
    /// more of it. The transport delivers and sends nothing any more, and neither must the server go on otherwise: it may have
    /// forgotten votes and entries that it acknowledged.
    fn data_lost(&self, reason: String) {
        let _ = reason;
    }

    /// A server that the transport has identified asks for a chunk of a snapshot; `None` if there is
    /// none, or none that is intact. Called from a thread that delivers no messages: it may read a
    /// disk.
    fn snapshot_chunk(&self, group: GroupId, from: NodeId, request: ChunkRequest) -> Option<Chunk> {
        let _ = (group, from, request);
        None
    }
}

/// Why nothing goes to a peer at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum PeerTrouble {
    /// There is no way to it.
    Unreachable {
        /// What the system said.
        reason: String,
    },
    /// One of the two refuses the other.
    Refused {
        /// What the handshake said.
        reason: String,
    },
}

/// What a transport carries in one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct MessageLimits {
    /// The most bytes of the entries of one append, as [`Entry::size_bytes`](crate::Entry::size_bytes) counts them.
    pub entry_bytes_max: usize,
    /// The most entries of one append.
    pub entries_max: usize,
}

impl MessageLimits {
    /// Any message is carried.
    pub const UNBOUNDED: Self = Self { entry_bytes_max: usize::MAX, entries_max: usize::MAX };
}

/// Carries messages between servers. Loss, duplication and reordering are allowed, invention and
/// corruption are not: `envelope.from` of a delivered message is the server that sent it.
pub trait RaftTransport: Send + Sync + 'static {
    /// A node is about to start on this transport: asked before anything is changed for it, so that a transport which
    /// serves another node refuses without a trace of this one. After an error nothing else is called, not even `shutdown`.
    /// Default: it is taken.
    ///
    /// # Errors
    /// The transport cannot serve this node.
    fn attach(&self, group: GroupId) -> Result<(), AttachError> {
        let _ = group;
        Ok(())
    }

    /// Who this server is by its log, and what the log remembers of the peers, so that a server which lost data is noticed by
    /// whoever knows. Called before `start`, unless the log says neither.
    fn introduce(&self, lives: &Lives, memory: &PeerMemory) {
        let _ = (lives, memory);
    }

    /// Begins to deliver. Called once, before the first send.
    fn start(&self, receiver: Arc<dyn Receiver>);

    /// As [`start`](Self::start), for a transport that may be refused a thread, or whatever else it needs. A node calls this one.
    /// After an error `shutdown` is called, and nothing else. Default: it cannot fail.
    ///
    /// # Errors
    /// It does not deliver.
    fn try_start(&self, receiver: Arc<dyn Receiver>) -> io::Result<()> {
        self.start(receiver);
        Ok(())
    }

    /// Sends a message to `envelope.to`. Never blocks; drops the message when the way is closed or
    /// its queue full.
    fn send(&self, group: GroupId, envelope: Envelope);

    /// Whose transport this is. A node starts with its own only. Asked before [`start`](Self::start). Default: it does not
    /// know.
    fn identity(&self) -> Identity {
        Identity::default()
    }

    /// Whether `peer` can be found at this address, in the words that [`Membership`](crate::Membership) was given. Asked
    /// before a configuration with it is taken, at the start and in a change. Default: it can.
    ///
    /// # Errors
    /// It cannot, and why.
    fn check_address(&self, peer: NodeId, address: &str) -> Result<(), AddressError> {
        let _ = (peer, address);
        Ok(())
    }

    /// What one message may carry. A node does not start with a configuration that lets it accept more, and sends no more
    /// entries in one message. Asked before [`start`](Self::start); never changes. Default: unbounded.
    fn limits(&self) -> MessageLimits {
        MessageLimits::UNBOUNDED
    }

    /// What is known of what one message to this peer may carry, now; less than [`limits`](Self::limits) if the peer takes
    /// less. A leader accepts nothing that one of the voters would not take. Default: the same to everybody.
    fn limits_of(&self, peer: NodeId) -> MessageLimits {
        let _ = peer;
        self.limits()
    }

    /// Who belongs to the cluster from now on, this server included, each with its address if the configuration names one, in
    /// whatever words [`Membership`](crate::Membership) was given. Called before `start`, and whenever it changes; never
    /// by two threads at a time. Who is not named can be forgotten, though servers that are may still hear from it, and it
    /// from them: a server whose configuration is older or newer than this one's.
    fn members(&self, group: GroupId, members: &BTreeMap<NodeId, Option<String>>) {
        let _ = (group, members);
    }

    /// Which history this server's log belongs to, now that the entry which brought it is committed. Called before `start` if
    /// that is known then, and whenever it changes; never by two threads at a time. Servers of two histories of which neither
    /// goes on from the other have nothing to say to each other ([`History::speaks_with`]). They may have met before either
    /// knew its own: so TCP tells servers that are connected as well. Default: it does not matter.
    fn history(&self, group: GroupId, history: &Arc<History>) {
        let _ = (group, history);
    }

    /// Fetches one chunk of a snapshot from a peer: beside the messages, which it does not delay.
    /// Blocks; `timeout` is how long nothing may come before it gives up, and what keeps coming may take
    /// several times as long. Fetches from one peer wait for each other.
    ///
    /// The chunk is the answer to this request, and undamaged on its way. Whether it goes with the chunks
    /// before it, only the store that receives it can tell.
    ///
    /// # Errors
    /// There is no chunk; [`FetchError`] says whether to ask again.
    fn fetch_chunk(
        &self,
        group: GroupId,
        from: NodeId,
        request: ChunkRequest,
        timeout: Duration,
    ) -> Result<Chunk, FetchError> {
        let _ = (group, from, request, timeout);
        Err(FetchError::Unsupported)
    }

    /// Whether this peer is known to understand configurations that name a history, as servers from 0.7 on do. A cluster that
    /// is older than histories gets one once its leader knows that of every member. False unless a transport says otherwise.
    fn knows_histories(&self, _peer: NodeId) -> bool {
        false
    }

    /// What `peer` advertises to clients, learnt from its handshake; `None` until connected.
    fn client_address(&self, peer: NodeId) -> Option<String> {
        let _ = peer;
        None
    }

    /// Why nothing goes to this peer at the moment; `None` if its way is open, or nothing is known. Default: nothing is.
    fn trouble(&self, peer: NodeId) -> Option<PeerTrouble> {
        let _ = peer;
        None
    }

    /// Stops delivering and joins the transport's threads. Later sends are dropped.
    fn shutdown(&self);
}

/// What a queued message counts towards a bound in bytes: its entries and a flat part.
fn message_cost(message: &Message) -> usize {
    const FLAT_BYTES: usize = 64;
    match message {
        Message::AppendEntriesRequest(append) => FLAT_BYTES.saturating_add(append.entries.size_bytes()),
        _ => FLAT_BYTES,
    }
}
