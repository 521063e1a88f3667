//! Everything that comes out of [`Protocol::step`](crate::Protocol::step).

use crate::error::PeerMisbehaved;
use crate::membership::Membership;
use crate::message::Envelope;
use crate::types::{Entries, EntryId, HardState, Index, NodeId, Term};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// One output of the protocol. Law 2: each may be carried out at once, in the order given.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Action {
    /// Make this write durable, after all earlier ones, then step [`Event::Persisted`](crate::Event::Persisted).
    /// Writes may be grouped under one sync; they must not be reordered.
    Persist(Write),
    /// Send a message. Loss, duplication and reordering are allowed.
    Send(Envelope),
    /// The proposal of this step was appended at these positions. Always the first action of its
    /// step. The commands are not yet committed.
    Proposed {
        /// The id of the first command; the others follow at consecutive indexes in the same term.
        first: EntryId,
        /// How many commands; at least 1.
        count: usize,
    },
    /// Entries up to and including this index are committed and durable in this node's log: apply
    /// them in order. Only grows.
    Apply {
        /// The last index to apply.
        through: Index,
    },
    /// A read may be answered from the state machine as soon as this index is applied: whatever was committed when the
    /// read began lies at or before it, and the leader still led after that. If an [`Action::RoleChanged`] comes first, or a
    /// server that does not lead steps a [`MinimumElectionTimeout`](crate::Event::MinimumElectionTimeout), the read is to be
    /// given up: the next leader's log may never reach that index.
    ReadReady {
        /// That of the [`Event::ReadRequest`](crate::Event::ReadRequest).
        context: u64,
        /// What must be applied; it may lie beyond what is committed so far.
        index: Index,
    },
    /// This server stopped leading, or lost the leader that it followed, before it could answer a read; ask the next leader.
    ReadAborted {
        /// That of the [`Event::ReadRequest`](crate::Event::ReadRequest).
        context: u64,
    },
    /// A transfer of leadership begins: step [`Event::TransferTimeout`](crate::Event::TransferTimeout) an election timeout
    /// from now. Until the transfer ends proposals are refused.
    TransferBegun {
        /// The server that is to lead.
        target: NodeId,
    },
    /// A transfer of leadership ended by its timeout: this server leads on, and takes proposals again. The target may have
    /// been told to campaign all the same, and do so later.
    TransferEnded {
        /// The server that was to lead.
        target: NodeId,
    },
    /// Start the election timer anew, with a fresh random duration, and the minimum election
    /// timeout with it.
    ResetElectionTimer,
    /// The node's role, term or known leader changed.
    RoleChanged {
        /// The role after this step.
        role: RoleKind,
        /// The term after this step.
        term: Term,
        /// The leader of that term, as far as known.
        leader: Option<NodeId>,
    },
    /// Another configuration is in force on this server: it was appended, or the one before it is in force again because a
    /// later leader's entries replaced it, or it came with a snapshot. It need not be committed.
    MembershipChanged {
        /// The index of its entry, or the last that the snapshot covers.
        index: Index,
        /// Who belongs to the cluster now.
        membership: Arc<Membership>,
    },
    /// Fetch this snapshot, for this server's log ends before the leader's begins. Once it is durable here, step
    /// [`Event::SnapshotFetched`](crate::Event::SnapshotFetched), or
    /// [`Event::SnapshotFetchFailed`](crate::Event::SnapshotFetchFailed) if it is not to be had. Replaces the fetch asked for
    /// before.
    FetchSnapshot {
        /// The server that offers it.
        from: NodeId,
        /// The last entry that it covers.
        last: EntryId,
    },
    /// Replace the state of the state machine with the fetched snapshot: everything up to `last` counts as applied. What
    /// an [`Action::Apply`] before this one has not yet applied is covered, and may no longer be in the log.
    RestoreSnapshot {
        /// The last entry that the snapshot covers.
        last: EntryId,
    },
    /// The log holds the entries for this message, but not in memory: read from `prev.index + 1` up
    /// to but not including `end`, off the protocol's road, put what fits into the request's
    /// `entries`, and send it if this node still leads the request's term. (A leader never
    /// truncates its log, so under that condition the entries are those of the request.)
    SendFromLog {
        /// An [`AppendEntriesRequest`](crate::message::AppendEntriesRequest) without its entries.
        envelope: Envelope,
        /// The position after the last entry to send.
        end: Index,
        /// The most that the message may carry, though always at least one entry.
        bytes_max: usize,
    },
    /// This server's disk lacks what it acknowledged to its leader: an older copy of it was put back, for instance. It has told
    /// the leader, and does nothing any more: stop it. It cannot keep what it promised, so it must not vote or acknowledge
    /// again before it is replaced: removed, emptied, and added again.
    LostAcknowledged {
        /// The leader to which it acknowledged.
        leader: NodeId,
        /// The leader's term.
        term: Term,
        /// What it acknowledged.
        acknowledged: Index,
        /// Where its durable log ends.
        durable: Index,
    },
    /// A peer of this leader says that it lost what it acknowledged. It counts for no quorum until it is replaced: removed,
    /// emptied, and added again.
    PeerLostData {
        /// The peer.
        peer: NodeId,
        /// What it acknowledged in this term.
        acknowledged: Index,
        /// Where its durable log ends.
        durable: Index,
    },
    /// A peer broke the protocol; its message was dropped.
    Misbehaved {
        /// Who.
        peer: NodeId,
        /// How.
        reason: PeerMisbehaved,
    },
}

/// The usual output buffer of a step, owned and reused by the caller.
pub type Actions = Vec<Action>;

/// Where the actions of a step go, in order. A vector collects them; a program in a hurry can take
/// each one where it belongs without the stop in between.
pub trait ActionSink {
    /// Takes the next action.
    fn push(&mut self, action: Action);

    /// Takes the next action, an [`Action::Persist`].
    ///
    /// A sink that makes the write durable on the spot returns the proof, and the step goes on as if
    /// the [`Event::Persisted`](crate::Event::Persisted) of this write had come: none must be
    /// stepped for it. All earlier writes must be reported by then.
    #[inline]
    fn persist(&mut self, write: Write) -> Option<Durable> {
        self.push(Action::Persist(write));
        None
    }
}

/// The proof that a write is durable. Only [`WriteThrough`](crate::log::WriteThrough) makes one, from
/// a log that has synced.
#[derive(Debug)]
#[must_use]
pub struct Durable(pub(crate) ());

impl ActionSink for Vec<Action> {
    #[inline]
    fn push(&mut self, action: Action) {
        Vec::push(self, action);
    }
}

/// One ordered, atomic change of the durable state: all of it survives a crash, or none.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Write {
    /// The new hard state, if it changed.
    pub hard_state: Option<HardState>,
    /// A snapshot takes the place of the log's beginning, before anything else happens to the entries.
    pub compaction: Option<Compaction>,
    /// Remove the entries from this index on, before appending.
    pub truncate_from: Option<Index>,
    /// Entries to append; the first stands right after the last that remains.
    pub entries: Entries,
}

/// A snapshot takes the place of the log's beginning (§5).
///
/// The snapshot itself is durable already, in a place of its own. It may reach further than what is removed: the entries
/// between serve followers that are a little behind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Compaction {
    /// The last entry that the snapshot covers. From now on the log answers it as its
    /// [`snapshot`](crate::LogView::snapshot). Never before the one that the log has.
    pub snapshot: EntryId,
    /// The new [`base`](crate::LogView::base): the entries up to and including this one are forgotten. At most `snapshot`
    /// and never before the present base. A log that does not hold this very entry forgets all that it holds and begins
    /// anew right after it (Figure 5.3, steps 6 and 7).
    pub base: EntryId,
    /// The configuration as of `snapshot`: in force with that entry, before any later one. From now on the log answers it as
    /// its [`memberships`](crate::LogView::memberships) do.
    pub membership: Arc<Membership>,
}

/// A server's role, without the data that belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum RoleKind {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether an election could succeed (§9.6).
    PreCandidate,
    /// Runs for leader in its term.
    Candidate,
    /// Leads its term.
    Leader,
}

impl RoleKind {
    /// The role's name in lower case, as in status output: `follower`, `pre-candidate`, …
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Follower => "follower",
            Self::PreCandidate => "pre-candidate",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
        }
    }
}
