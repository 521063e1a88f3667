//! What servers say to each other: one struct per message.
//!
//! The names are those of the spec: each `XRequest` and `XResponse` is consumed by the transition
//! `HandleXRequest` or `HandleXResponse`. Dissertation Figures 3.1 and §9.6 (pre-vote).
//!
//! The fields lie in memory in the order written here (`repr(C)`), and `term` comes first: so every message has it at one
//! place, and reading it needs no look at the kind.

use crate::history::HistoryId;
use crate::membership::Membership;
use crate::types::{DiskId, Entries, EntryId, Index, NodeId, Term};
use alloc::sync::Arc;

/// A message with its sender and receiver.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Envelope {
    /// The server that sent it; the transport vouches for it.
    pub from: NodeId,
    /// The server that it is for.
    pub to: NodeId,
    /// What it says.
    pub message: Message,
}

/// Everything that servers of one group say to each other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Message {
    /// Would you vote for me?
    PreVoteRequest(PreVoteRequest),
    /// I would, or would not.
    PreVoteResponse(PreVoteResponse),
    /// Vote for me.
    RequestVoteRequest(RequestVoteRequest),
    /// You have my vote, or not.
    RequestVoteResponse(RequestVoteResponse),
    /// Append these entries; without entries: a heartbeat or a probe.
    AppendEntriesRequest(AppendEntriesRequest),
    /// My log matches yours up to here, or it doesn't.
    AppendEntriesResponse(AppendEntriesResponse),
    /// Do you follow me?
    ConfirmLeaderRequest(ConfirmLeaderRequest),
    /// I do, or am in a later term.
    ConfirmLeaderResponse(ConfirmLeaderResponse),
    /// Up to where must I have applied to answer a read?
    ReadIndexRequest(ReadIndexRequest),
    /// Up to here.
    ReadIndexResponse(ReadIndexResponse),
    /// Campaign now.
    TimeoutNowRequest(TimeoutNowRequest),
    /// My log no longer reaches back to what you need: fetch my snapshot.
    InstallSnapshotRequest(InstallSnapshotRequest),
}

impl Message {
    /// The term under which the sender speaks. For the two pre-vote messages that is the *current*
    /// term of the sender, not the term that the candidate would campaign in.
    #[must_use]
    pub fn term(&self) -> Term {
        match self {
            Self::PreVoteRequest(m) => m.term,
            Self::PreVoteResponse(m) => m.term,
            Self::RequestVoteRequest(m) => m.term,
            Self::RequestVoteResponse(m) => m.term,
            Self::AppendEntriesRequest(m) => m.term,
            Self::AppendEntriesResponse(m) => m.term,
            Self::ConfirmLeaderRequest(m) => m.term,
            Self::ConfirmLeaderResponse(m) => m.term,
            Self::ReadIndexRequest(m) => m.term,
            Self::ReadIndexResponse(m) => m.term,
            Self::TimeoutNowRequest(m) => m.term,
            Self::InstallSnapshotRequest(m) => m.term,
        }
    }
}

/// Asks whether an election in `campaign_term` could succeed, without disturbing anyone (§9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[repr(C)]
pub struct PreVoteRequest {
    /// The sender's current term.
    pub term: Term,
    /// The term in which it would campaign: `term + 1`.
    pub campaign_term: Term,
    /// The sender's last entry.
    pub last: EntryId,
}

/// Answers a [`PreVoteRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[repr(C)]
pub struct PreVoteResponse {
    /// The responder's current term, so that a candidate that lags learns of it from a refusal.
    pub term: Term,
    /// The question's `campaign_term`, echoed: grants for another campaign do not count.
    pub campaign_term: Term,
    /// Whether the responder would vote for the sender of the question.
    pub granted: bool,
}

/// `RequestVote` (Figure 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[repr(C)]
pub struct RequestVoteRequest {
    /// The candidate's term.
    pub term: Term,
    /// The candidate's last entry.
    pub last: EntryId,
    /// The candidate campaigns because its leader told it to (§3.10): whoever heard that leader just now votes all the
    /// same.
    pub leadership_transfer: bool,
}

/// Answers a [`RequestVoteRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[repr(C)]
pub struct RequestVoteResponse {
    /// The responder's term.
    pub term: Term,
    /// Whether the candidate has the responder's vote in `term`.
    pub granted: bool,
}

/// `AppendEntries` (Figure 3.1). The sender is the leader of `term`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[repr(C)]
pub struct AppendEntriesRequest {
    /// The leader's term.
    pub term: Term,
    /// The entry that immediately precedes `entries`; [`EntryId::ZERO`] at the start of the log.
    pub prev: EntryId,
    /// Consecutive entries from `prev.index + 1`; empty for a heartbeat or a probe.
    pub entries: Entries,
    /// The leader's commit index, which may lie beyond these entries.
    pub commit: Index,
    /// Which of the leader's acquaintances with the receiver this belongs to: the index of the configuration that made it a
    /// member within this term; 0 if it was one when the term began. The answer echoes it.
    pub session: Index,
    /// The history that `prev` belongs to; `None` before there was one, and from leaders of before 0.7. A follower that has
    /// this very entry and another history takes nothing from this leader.
    pub history: Option<HistoryId>,
    /// The highest index that the receiver acknowledged to this leader in this term and session; 0 for none, and from leaders
    /// before 0.7. A receiver whose log lacks it has lost data, if it has the disk that is named.
    pub acknowledged: Index,
    /// The disk on which the receiver acknowledged that, as its answer said.
    pub disk: DiskId,
}

/// Answers an [`AppendEntriesRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[repr(C)]
pub struct AppendEntriesResponse {
    /// The responder's term.
    pub term: Term,
    /// What became of the request.
    pub result: AppendResult,
    /// The request's `session`, echoed: an answer of a server's former life, from before it was removed, wiped and added
    /// again, says nothing about the present one. `None` from servers before 0.7, which echo nothing: those are believed.
    pub session: Option<Index>,
    /// Which disk the responder has.
    pub disk: DiskId,
}

/// What became of an [`AppendEntriesRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum AppendResult {
    /// The responder's durable log agrees with the leader's up to and including `match_index`.
    Accepted {
        /// `prev.index` of the request plus the number of its entries; never the responder's own
        /// last index, which may hold entries the leader does not have.
        match_index: Index,
    },
    /// The responder has no entry `prev`; nothing was appended.
    Rejected {
        /// `prev.index` of the refused request, so that a late refusal is recognised.
        prev_index: Index,
        /// The responder's last entry at or before `prev` whose term is at most `prev.term`: the
        /// logs cannot agree beyond it (§3.5, the optimisation by terms).
        hint: EntryId,
    },
    /// The request came from a leader of an older term; `term` of the response tells it.
    StaleTerm,
    /// The responder's disk lacks what it acknowledged in this term: it lost data, and the responder does nothing any more.
    /// This promises nothing, not even the term.
    LostAcknowledged {
        /// What the request says that the responder acknowledged.
        acknowledged: Index,
        /// Where the responder's durable log ends. It may be longer and hold other entries.
        durable: Index,
    },
}

/// Asks whether the receiver follows the sender, the leader of `term`: reads wait for the answers of a quorum (§6.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[repr(C)]
pub struct ConfirmLeaderRequest {
    /// The leader's term.
    pub term: Term,
    /// Counts the leader's questions of this term, from 1.
    pub round: u64,
}

/// Answers a [`ConfirmLeaderRequest`]. It promises nothing about the time after: only that the responder's term was not
/// later than `term` when it answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[repr(C)]
pub struct ConfirmLeaderResponse {
    /// The responder's term. It follows the leader if this is `leader_term`.
    pub term: Term,
    /// The question's `term`, echoed: a leader that comes back in a later term counts its rounds from 1 again.
    pub leader_term: Term,
    /// The question's `round`, echoed.
    pub round: u64,
}

/// Asks the leader of `term` up to which index the sender must have applied, to answer a read that began there (§6.4). The
/// answer serves the reads that began before it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[repr(C)]
pub struct ReadIndexRequest {
    /// The sender's term. Only who leads this very term answers.
    pub term: Term,
    /// Which read it is; the sender uses no number twice, not even after a restart.
    pub context: u64,
}

/// Answers a [`ReadIndexRequest`] once a quorum has confirmed the leader of `term`, in a round that began after the request
/// came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[repr(C)]
pub struct ReadIndexResponse {
    /// The leader's term.
    pub term: Term,
    /// The question's `context`, echoed.
    pub context: u64,
    /// Whatever was committed when the question came lies at or before this index.
    pub index: Index,
    /// How much of what the receiver is known to hold is committed: so that it need not wait for the next append to learn
    /// that it may apply it.
    pub commit: Index,
}

/// Tells a follower that holds the whole log of the leader of `term` to campaign at once, as if its election timer had run
/// out (§3.10). There is no answer: the campaign is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[repr(C)]
pub struct TimeoutNowRequest {
    /// The leader's term.
    pub term: Term,
}

/// `InstallSnapshot` (Figure 5.3), without the data: the leader of `term` offers its newest snapshot to a follower that needs
/// entries from before the leader's log. The follower fetches it beside the stream of messages, and says with an
/// [`AppendEntriesResponse`] that it holds everything up to `last` once that is true.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[repr(C)]
pub struct InstallSnapshotRequest {
    /// The leader's term.
    pub term: Term,
    /// The last entry that the snapshot covers. It is committed.
    pub last: EntryId,
    /// The configuration as of `last` (§5.1): who takes over the snapshot takes this over with it.
    pub membership: Arc<Membership>,
    /// As in an [`AppendEntriesRequest`]: the answer echoes it.
    pub session: Index,
}
