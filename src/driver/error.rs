//! What the driver answers when it does not answer with a result.

use super::held_up::HeldUp;
use crate::error::{ChangeError, TransferError};
use crate::membership::Membership;
use crate::transport::AddressError;
use crate::types::{EntryId, Index, NodeId, Term};
use std::fmt;
use std::string::String;
use std::sync::Arc;
use thiserror::Error;

/// A leader, and where clients find it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct LeaderHint {
    /// Its id.
    pub id: NodeId,
    /// What it advertises to clients; `None` while this node has no connection to it.
    pub client_address: Option<String>,
}

impl fmt::Display for LeaderHint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.id)?;
        match &self.client_address {
            Some(address) => write!(f, " at {address}"),
            None => Ok(()),
        }
    }
}

/// Why a request was not answered with a result (law 5: each request ends exactly once).
///
/// Retry safety: after `NotLeader`, `TransferInProgress`, `Overloaded`, `TooLarge`, `TooLargeForPeer`, `BatchTooLarge`, `Shutdown`, `Fatal` and
/// `DeadlineExceeded` or `CalledFromWithin` with `proposed: None` the command is in no log and never will be through this
/// request, so a retry cannot apply it twice. After `OutcomeUnknown` and
/// `DeadlineExceeded` or `CalledFromWithin` with `proposed: Some(..)` it may or may not be applied, now or later: retry only
/// what is idempotent, or within a client session. A read changes nothing, so after any error it can
/// be tried again.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum RequestError {
    /// This node does not lead, or led no longer when it should have answered a read, or lost the leader whom it asked
    /// for one; nothing was appended. Ask the leader, if one is named.
    #[error("not the leader in term {term}: {reason}{}", hint(leader.as_ref()))]
    NotLeader {
        /// The leader, as far as this node knows.
        leader: Option<LeaderHint>,
        /// This node's term.
        term: Term,
        /// Why it cannot take the request.
        reason: NotLeaderReason,
    },
    /// This node leads and is handing its leadership over, so it appends nothing for a moment. Retry
    /// at the target; if that does not take over within an election timeout, this node goes on.
    #[error("the leader of term {term} is handing over to {target}; nothing was appended, retry in a moment")]
    TransferInProgress {
        /// The node that is to lead.
        target: LeaderHint,
        /// This node's term.
        term: Term,
    },
    /// The command was appended to this node's log and its fate is open.
    #[error("the outcome of the command at {id} is unknown: {reason}; it may still be applied")]
    OutcomeUnknown {
        /// Where it was appended. It is applied exactly if an entry with this index *and* term is
        /// ever committed.
        id: EntryId,
        /// Why this node cannot tell.
        reason: UnknownReason,
    },
    /// Too much is in progress; nothing was appended. Retry later, or shed load.
    #[error("overloaded: {limit}; nothing was appended, retry after a pause")]
    Overloaded {
        /// The limit that was hit.
        limit: Limit,
    },
    /// The command can never be accepted.
    #[error("a command of {bytes} bytes exceeds command_bytes_max = {limit_bytes}; split it or raise the limit")]
    TooLarge {
        /// The command's size in bytes.
        bytes: usize,
        /// `command_bytes_max` of the configuration.
        limit_bytes: usize,
    },
    /// One of the voters takes less in one message than this node: the command would never reach it. Nothing was appended.
    #[error(
        "a command of {bytes} bytes is more than the {limit_bytes} that node {peer} takes in one message; \
         nothing was appended, split it or raise the limit of that node's transport (frame_bytes_max)"
    )]
    TooLargeForPeer {
        /// The voter that takes least.
        peer: NodeId,
        /// The command's size in bytes.
        bytes: usize,
        /// The largest command that it takes.
        limit_bytes: usize,
    },
    /// The commands of a batch are written and sent as one, and the log does not store so much in one write: they can never
    /// be accepted together. Nothing was appended.
    #[error(
        "a batch of {commands} commands and {bytes} bytes exceeds what the log stores in one write, {limit_bytes} bytes; \
         nothing was appended, split it"
    )]
    BatchTooLarge {
        /// How many commands there are.
        commands: usize,
        /// Their bytes, with what each entry costs beside its command.
        bytes: usize,
        /// [`LogView::write_bytes_max`](crate::LogView::write_bytes_max) of the log.
        limit_bytes: usize,
    },
    /// The caller's deadline passed first.
    #[error("the deadline passed{}", proposed_hint(*proposed))]
    DeadlineExceeded {
        /// Where the command was appended; `None` for a read, and for a command that was not and
        /// never will be.
        proposed: Option<EntryId>,
    },
    /// The node is shut down, or shutting down; nothing was appended.
    #[error("the node is shut down; nothing was appended")]
    Shutdown,
    /// The node stopped for good; nothing was appended. Ask another node, and look at the log or
    /// the disk of this one.
    #[error("the node has stopped for good: {reason}; nothing was appended")]
    Fatal {
        /// What happened.
        reason: String,
    },
    /// The call came from code that this node runs itself, a state machine, a look or a waker, and would wait for its own
    /// thread. A read is not answered; of a command `proposed` says whether it is appended. Await the outcome, which does not
    /// block, or wait on another thread.
    #[error("the node itself runs the code that waits for it here{}; await it or wait on another thread", proposed_hint(*proposed))]
    CalledFromWithin {
        /// Where the command was appended; `None` for a read, and for a command that was not and never will be.
        proposed: Option<EntryId>,
    },
}

fn hint(leader: Option<&LeaderHint>) -> String {
    leader.map_or_else(String::new, |leader| std::format!("; ask {leader}"))
}

fn proposed_hint(proposed: Option<EntryId>) -> String {
    match proposed {
        Some(id) => std::format!("; the command is appended at {id} and may still be applied"),
        None => String::from("; nothing was appended, nor will be"),
    }
}

/// Why a node cannot take a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum NotLeaderReason {
    /// It follows another leader.
    #[error("it follows another node")]
    Follower,
    /// It knows of no leader in its term: an election is under way, or no quorum can be reached.
    #[error("no leader is known")]
    NoLeader,
}

/// Why the outcome of an appended command is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum UnknownReason {
    /// The node lost its leadership before the command committed; the next leader decides.
    #[error("this node lost its leadership")]
    LeadershipLost,
    /// The node was shut down before the command was applied.
    #[error("this node was shut down")]
    Shutdown,
    /// The node stopped for good before the command was applied.
    #[error("this node stopped for good")]
    Fatal,
    /// The node fell behind, and a leader's snapshot brought it the effect of the command without its
    /// response. The command is applied.
    #[error("this node took over a snapshot that covers it")]
    CoveredBySnapshot,
}

/// A limit that a request ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Limit {
    /// Too many proposals without an answer yet: `proposals_max` of the driver's options.
    #[error("{open} proposals are open, proposals_max = {max}")]
    Proposals {
        /// How many were open.
        open: usize,
        /// The limit.
        max: usize,
    },
    /// Too many reads without an answer yet: `reads_max` of the driver's options.
    #[error("{open} reads are open, reads_max = {max}")]
    Reads {
        /// How many were open.
        open: usize,
        /// The limit.
        max: usize,
    },
    /// Too many bytes proposed and not yet committed: `uncommitted_bytes_max` of the configuration.
    #[error("{uncommitted_bytes} bytes are uncommitted, the proposal has {proposal_bytes}, the limit is {max_bytes}")]
    UncommittedBytes {
        /// What is uncommitted, in bytes.
        uncommitted_bytes: usize,
        /// The refused proposal, in bytes.
        proposal_bytes: usize,
        /// The limit, in bytes.
        max_bytes: usize,
    },
}

/// Why [`Raft::transfer_leadership`](super::Raft::transfer_leadership) did not end with its target
/// as the leader. It can always be tried again.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum LeadershipTransferError {
    /// This node does not lead, so it has nothing to hand over. Ask the leader, if one is named.
    #[error("not the leader in term {term}{}", hint(leader.as_ref()))]
    NotLeader {
        /// The leader, as far as this node knows.
        leader: Option<LeaderHint>,
        /// This node's term.
        term: Term,
    },
    /// The transfer never began: this node leads on, and took proposals all the time. A target that
    /// did not answer, or was too far behind, was given a minimum election timeout to recover.
    #[error(transparent)]
    Refused(TransferError),
    /// The target did not take over within a minimum election timeout: this node leads on, and takes
    /// proposals again. The target may have been told to campaign, and do so yet.
    #[error("node {target} did not take over in time; this node leads term {term} on and takes proposals again")]
    TimedOut {
        /// The node that was to lead.
        target: NodeId,
        /// The term that this node leads.
        term: Term,
    },
    /// Another node than the target came to lead.
    #[error("{leader} came to lead instead, in term {term}")]
    OtherLeader {
        /// The leader.
        leader: LeaderHint,
        /// The term that it leads.
        term: Term,
    },
    /// This node leads no more, and no later leader made itself known to it for several election
    /// timeouts: the target may lead or not. Ask the other nodes.
    #[error("this node led term {term} and leads no more; it has not heard of the next leader")]
    NextLeaderUnknown {
        /// The term that this node led.
        term: Term,
    },
    /// The caller's deadline passed first; the transfer goes its way.
    #[error("the deadline passed; the target may come to lead all the same")]
    DeadlineExceeded,
    /// The node is shut down, or shutting down. A leader hands over by itself then.
    #[error("the node is shut down")]
    Shutdown,
    /// The node stopped for good.
    #[error("the node has stopped for good: {reason}")]
    Fatal {
        /// What happened.
        reason: String,
    },
    /// The call came from code that this node runs itself, and would wait for its own thread. The transfer goes on. Await it, which
    /// does not block, or wait on another thread.
    #[error(
        "the node itself runs the code that waits for it here; the target may come to lead all the same; await it or wait on another thread"
    )]
    CalledFromWithin,
}

/// Why a change of the membership did not end with its configuration committed.
///
/// Retry safety: asking again is always safe, for each request says what is wanted and is answered at once if that is so
/// already. After `OutcomeUnknown` and `DeadlineExceeded { appended: Some(..) }` the change may still come about, by itself.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum MembershipChangeError {
    /// This node does not lead; nothing was appended. Ask the leader, if one is named.
    #[error("not the leader in term {term}{}", hint(leader.as_ref()))]
    NotLeader {
        /// The leader, as far as this node knows.
        leader: Option<LeaderHint>,
        /// This node's term.
        term: Term,
    },
    /// The configuration would not be a sound one; nothing was appended. Refusals that pass are waited out instead, until
    /// the deadline.
    #[error(transparent)]
    Refused(ChangeError),
    /// It concerns a server that is no member, which would have to be added first; nothing was appended.
    #[error("node {server} is not a member of the cluster; add it first")]
    NotAMember {
        /// The server.
        server: NodeId,
    },
    /// A server that has a vote was to be added as a learner, which would take its vote away; nothing was appended. Demote
    /// it, if that is what is wanted.
    #[error("node {server} has a vote; demote it to make it a learner")]
    IsVoter {
        /// The server.
        server: NodeId,
    },
    /// The server cannot be found at this address; nothing was appended.
    #[error("node {server} cannot be found at \"{address}\": {reason}; nothing was appended")]
    Address {
        /// The server.
        server: NodeId,
        /// The address that it was to have.
        address: String,
        /// What is wrong with it.
        reason: AddressError,
    },
    /// Two members would be at one address; nothing was appended. If that is meant,
    /// [`DriverOptions::shared_addresses`](super::DriverOptions::shared_addresses) says so.
    #[error(
        "nodes {} and {} would both be at {address}; nothing was appended, give each its own address",
        servers[0], servers[1]
    )]
    SharedAddress {
        /// The two.
        servers: [NodeId; 2],
        /// The address.
        address: String,
    },
    /// The server was added as a learner that becomes a voter by itself, and another change put an end to that.
    #[error("another change took its place: {membership}")]
    Overtaken {
        /// The configuration that is committed now.
        membership: Arc<Membership>,
    },
    /// The configuration is in this node's log and its fate is open. Look at what the next leader has, or ask again.
    #[error("the outcome of the configuration at {id} is unknown: {reason}; it may still come to be in force")]
    OutcomeUnknown {
        /// Where it was appended.
        id: EntryId,
        /// Why this node cannot tell.
        reason: UnknownReason,
    },
    /// The server was to get a vote, and the deadline passed first. It is a learner from now on, which is committed and stays,
    /// and it gets its vote by itself once it has caught up: start it if it is down, or remove it.
    #[error(
        "node {server} is a member now, as a learner, and has no vote yet: {}; it gets its vote by itself once it has caught up",
        lag(*answers, *match_index, *last_index, held_up.as_ref())
    )]
    VotePending {
        /// The server.
        server: NodeId,
        /// The configuration that is committed.
        membership: Arc<Membership>,
        /// Whether it answered the leader lately.
        answers: bool,
        /// Highest index known durable on it.
        match_index: Index,
        /// The leader's last index.
        last_index: Index,
        /// Why it does not catch up; `None` if it is about to.
        held_up: Option<HeldUp>,
    },
    /// The deadline passed first.
    #[error("the deadline passed{}", change_hint(*appended, *refusal))]
    DeadlineExceeded {
        /// Where the configuration was appended, which may still be committed; `None` if none was, nor will be through this
        /// request.
        appended: Option<EntryId>,
        /// What was waited for until then.
        refusal: Option<ChangeError>,
    },
    /// Too many changes are waiting already; nothing was appended.
    #[error("{max} membership changes are waiting already; nothing was appended")]
    Overloaded {
        /// The limit.
        max: usize,
    },
    /// The node is shut down, or shutting down; nothing was appended.
    #[error("the node is shut down; nothing was appended")]
    Shutdown,
    /// The node stopped for good; nothing was appended.
    #[error("the node has stopped for good: {reason}; nothing was appended")]
    Fatal {
        /// What happened.
        reason: String,
    },
    /// The call came from code that this node runs itself, and would wait for its own thread. The change goes on until its deadline. Await it, which
    /// does not block, or wait on another thread.
    #[error(
        "the node itself runs the code that waits for it here; the change goes on until its deadline; await it or wait on another thread"
    )]
    CalledFromWithin,
}

fn lag(answers: bool, match_index: Index, last_index: Index, held_up: Option<&HeldUp>) -> String {
    let lag = if answers {
        std::format!("it holds entries up to {match_index} of {last_index}")
    } else {
        String::from("it does not answer")
    };
    match held_up {
        Some(held_up) => std::format!("{lag}, {held_up}"),
        None => lag,
    }
}

fn change_hint(appended: Option<EntryId>, refusal: Option<ChangeError>) -> String {
    match (appended, refusal) {
        (Some(id), _) => std::format!("; the configuration is appended at {id} and may still come to be in force"),
        (None, Some(refusal)) => std::format!("; nothing was appended, nor will be: {refusal}"),
        (None, None) => String::from("; nothing was appended, nor will be"),
    }
}

/// Why a snapshot that was asked for was not taken. Those before it stay in force.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum TakeSnapshotError {
    /// [`DriverOptions::snapshots`](super::DriverOptions::snapshots) names no store.
    #[error("this node has no snapshot store")]
    NoStore,
    /// [`StateMachine::snapshot`](super::StateMachine::snapshot) gave none.
    #[error("the state machine has no snapshots")]
    Unsupported,
    /// The state machine is as it was at the very beginning.
    #[error("nothing is applied yet")]
    NothingApplied,
    /// The image or the store failed. The log keeps what the snapshot would have covered; try again.
    #[error("the snapshot is lost: {reason}")]
    Failed {
        /// What happened.
        reason: String,
    },
    /// Too many wait for one already.
    #[error("{max} requests wait for a snapshot already")]
    Overloaded {
        /// The limit.
        max: usize,
    },
    /// The caller's deadline passed first. The snapshot may still be taken.
    #[error("the deadline passed; the snapshot may still be taken")]
    DeadlineExceeded,
    /// The node is shut down, or shutting down.
    #[error("the node is shut down")]
    Shutdown,
    /// The node stopped for good.
    #[error("the node has stopped for good: {reason}")]
    Fatal {
        /// What happened.
        reason: String,
    },
    /// The call came from code that this node runs itself, and would wait for its own thread. The snapshot may still be taken. Await it, which
    /// does not block, or wait on another thread.
    #[error(
        "the node itself runs the code that waits for it here; the snapshot may still be taken; await it or wait on another thread"
    )]
    CalledFromWithin,
}

impl From<TransferError> for LeadershipTransferError {
    fn from(error: TransferError) -> Self {
        match error {
            TransferError::NotLeader { leader, term } => {
                Self::NotLeader { leader: leader.map(|id| LeaderHint { id, client_address: None }), term }
            }
            error => Self::Refused(error),
        }
    }
}
