//! Everything that goes into [`Protocol::step`](crate::Protocol::step).

use crate::membership::Membership;
use crate::message::{Envelope, Message};
use crate::transition::Transition;
use crate::types::{EntryId, Index, NodeId};
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;

/// One input of the protocol. Time enters only as named timeouts; whoever drives the protocol
/// decides when they fire (the ticker in [`RaftNode`](crate::RaftNode) and in the driver; a model
/// whenever it likes). Each is ignored in roles that it does not concern, so a timer that fires
/// late is harmless.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Event {
    /// The randomised election timeout passed since [`Action::ResetElectionTimer`](crate::Action).
    ElectionTimeout,
    /// The minimum election timeout passed since [`Action::ResetElectionTimer`](crate::Action), or since this event came last.
    MinimumElectionTimeout,
    /// A heartbeat interval passed.
    HeartbeatTimeout,
    /// An election timeout passed since the last quorum check.
    QuorumCheckTimeout,
    /// An election timeout passed since [`Action::TransferBegun`](crate::Action::TransferBegun).
    TransferTimeout,
    /// A message arrived.
    Receive(Envelope),
    /// A client proposes one command.
    Propose(Bytes),
    /// Clients propose several commands, which are appended together or refused together.
    ProposeBatch(Vec<Bytes>),
    /// A client wants to read what is committed. Answered by one [`Action::ReadReady`](crate::Action::ReadReady) or
    /// [`Action::ReadAborted`](crate::Action::ReadAborted) with the same `context`, now or later, unless it is refused. The
    /// caller bounds how many wait: without a quorum none is answered.
    ReadRequest {
        /// Whatever tells the reader which read this is. The protocol does not look at it.
        context: u64,
    },
    /// As [`Event::ReadRequest`], but a leader with a lease answers at once (§6.4.1). Without one, or without
    /// [`RaftConfig::lease_ticks`](crate::RaftConfig::lease_ticks), nothing is different.
    LeaseReadRequest {
        /// Whatever tells the reader which read this is. The protocol does not look at it.
        context: u64,
    },
    /// As [`Event::ReadRequest`], but a follower that knows its leader takes it too, with a vote or without: it asks the
    /// leader for the index, and answers from its own state machine. A leader treats it as a [`Event::ReadRequest`].
    FollowerReadRequest {
        /// Which read this is. No two of one server have the same, and no answer to one that it asked in an earlier life
        /// may be taken for that of another: begin with a random number and count from there.
        context: u64,
    },
    /// [`RaftConfig::lease_ticks`](crate::RaftConfig::lease_ticks) passed since the leader sent the questions of this round: the
    /// promises of that round and those before it count no more. Late is unsafe, early is not.
    LeaseTimeout {
        /// The round of a [`ConfirmLeaderRequest`](crate::message::ConfirmLeaderRequest) of this term.
        round: u64,
    },
    /// A leader is to lead no more, whoever comes after it: its disk stalls, or its program wants to rest. To have a certain
    /// server lead, ask for a transfer.
    StepDown,
    /// Somebody wants another server to lead (§3.10). Unless it is refused, or a transfer to this very server goes on
    /// already, it begins with one [`Action::TransferBegun`](crate::Action::TransferBegun) and ends once: with
    /// [`Action::TransferEnded`](crate::Action::TransferEnded), or with the
    /// [`Action::RoleChanged`](crate::Action::RoleChanged) by which this server leads no more; the leader that becomes
    /// known next is the target, or it is not.
    TransferLeadership {
        /// The server that is to lead.
        target: NodeId,
    },
    /// Somebody wants another configuration (§4). Unless it is refused, or in force already, the leader appends what leads
    /// there: the configuration itself, or first a joint one, which it follows up by itself once that is committed. Done when
    /// [`Protocol::committed_membership`](crate::Protocol::committed_membership) is the one that was asked for. Another
    /// leader may replace it before it is committed.
    ChangeMembership {
        /// The configuration that is wanted, not a joint one.
        target: Arc<Membership>,
    },
    /// A snapshot of this server's state machine is durable. From now on it stands in for the entries up to `last`.
    SnapshotTaken {
        /// The last entry that it covers; applied, and not before the last one of the snapshot before.
        last: EntryId,
        /// The log forgets the entries up to and including this index, or `last` if that comes first. What it keeps
        /// before `last` serves followers that are a little behind.
        compact_through: Index,
    },
    /// The snapshot that [`Action::FetchSnapshot`](crate::Action::FetchSnapshot) asked for is here and durable. Ignored
    /// if it is no longer needed.
    SnapshotFetched {
        /// The last entry that it covers.
        last: EntryId,
    },
    /// The snapshot that [`Action::FetchSnapshot`](crate::Action::FetchSnapshot) asked for cannot be had. Ignored if it is
    /// no longer wanted; else the next offer of a leader is taken up.
    SnapshotFetchFailed {
        /// The last entry that it covers.
        last: EntryId,
    },
    /// The oldest `writes` of the [`Action::Persist`](crate::Action::Persist) still in flight are
    /// durable, in the order in which they came out, and the log passed to this step holds them.
    /// Not for writes that the sink proved [durable](crate::action::Durable) within their step.
    Persisted {
        /// How many; at least 1, at most the number in flight.
        writes: usize,
    },
}

impl Event {
    /// Whether a caller waits for what becomes of this, and is told if it is refused.
    pub(crate) fn is_request(&self) -> bool {
        matches!(
            self,
            Self::Propose(_)
                | Self::ProposeBatch(_)
                | Self::ReadRequest { .. }
                | Self::LeaseReadRequest { .. }
                | Self::FollowerReadRequest { .. }
                | Self::ChangeMembership { .. }
                | Self::TransferLeadership { .. }
        )
    }

    /// The transition that consumes this event.
    #[must_use]
    pub fn transition(&self) -> Transition {
        match self {
            Self::ElectionTimeout => Transition::ElectionTimeout,
            Self::MinimumElectionTimeout => Transition::MinimumElectionTimeout,
            Self::HeartbeatTimeout => Transition::HeartbeatTimeout,
            Self::QuorumCheckTimeout => Transition::QuorumCheckTimeout,
            Self::TransferTimeout => Transition::TransferTimeout,
            Self::Receive(envelope) => match envelope.message {
                Message::PreVoteRequest(_) => Transition::HandlePreVoteRequest,
                Message::PreVoteResponse(_) => Transition::HandlePreVoteResponse,
                Message::RequestVoteRequest(_) => Transition::HandleRequestVoteRequest,
                Message::RequestVoteResponse(_) => Transition::HandleRequestVoteResponse,
                Message::AppendEntriesRequest(_) => Transition::HandleAppendEntriesRequest,
                Message::AppendEntriesResponse(_) => Transition::HandleAppendEntriesResponse,
                Message::ConfirmLeaderRequest(_) => Transition::HandleConfirmLeaderRequest,
                Message::ConfirmLeaderResponse(_) => Transition::HandleConfirmLeaderResponse,
                Message::ReadIndexRequest(_) => Transition::HandleReadIndexRequest,
                Message::ReadIndexResponse(_) => Transition::HandleReadIndexResponse,
                Message::TimeoutNowRequest(_) => Transition::HandleTimeoutNowRequest,
                Message::InstallSnapshotRequest(_) => Transition::HandleInstallSnapshotRequest,
            },
            Self::Propose(_) | Self::ProposeBatch(_) => Transition::ClientRequest,
            Self::ReadRequest { .. } => Transition::ReadRequest,
            Self::LeaseReadRequest { .. } => Transition::LeaseReadRequest,
            Self::FollowerReadRequest { .. } => Transition::FollowerReadRequest,
            Self::LeaseTimeout { .. } => Transition::LeaseTimeout,
            Self::StepDown => Transition::StepDown,
            Self::TransferLeadership { .. } => Transition::TransferLeadership,
            Self::ChangeMembership { .. } => Transition::ChangeMembership,
            Self::SnapshotTaken { .. } => Transition::SnapshotTaken,
            Self::SnapshotFetched { .. } => Transition::SnapshotFetched,
            Self::SnapshotFetchFailed { .. } => Transition::SnapshotFetchFailed,
            Self::Persisted { .. } => Transition::Persisted,
        }
    }
}
