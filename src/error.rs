//! Errors, one enum per operation, sorted by who acted: the caller, a peer, the disk.

use crate::history::HistoryId;
use crate::types::{EntryId, Index, NodeId, Term};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use thiserror::Error;

/// Why [`Protocol::step`](crate::Protocol::step) refused an event. The state is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum StepError {
    /// The proposal was refused; nothing was appended.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// The read was refused; there will be no answer to it.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The transfer of leadership was refused; nothing began.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// The change of the configuration was refused; nothing was appended.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The snapshot was refused; the log forgets nothing.
    #[error(transparent)]
    Snapshot(#[from] SnapshotRefused),
    /// `Persisted` reported more writes than are in flight: a defect of the caller.
    #[error("Persisted {{ writes: {reported} }} with {in_flight} writes in flight; report each Persist action once")]
    NotInFlight {
        /// What the event claimed.
        reported: usize,
        /// What the protocol is waiting for.
        in_flight: usize,
    },
}

/// Why a proposal was refused. In every case nothing was appended, so a retry is safe.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum ProposeError {
    /// This node does not lead; ask the leader, if one is named.
    #[error("not the leader in term {term}; {}", leader_hint(*leader))]
    NotLeader {
        /// The leader that this node follows, if it knows one.
        leader: Option<NodeId>,
        /// This node's term.
        term: Term,
    },
    /// This node leads and is handing its leadership over, so it appends nothing; ask the target soon, or this node again
    /// if the target does not take over within an election timeout.
    #[error("the leader of term {term} is handing over to node {target}; retry there in a moment")]
    TransferInProgress {
        /// The server that is to lead.
        target: NodeId,
        /// This node's term.
        term: Term,
    },
    /// Too much is proposed and not yet committed; try again once commits progress.
    #[error(
        "overloaded: {uncommitted_bytes} bytes are uncommitted and the proposal has {proposal_bytes}, over the limit of {limit_bytes}; retry after commits progress"
    )]
    Overloaded {
        /// What the leader has proposed and not yet committed, in bytes.
        uncommitted_bytes: usize,
        /// The size of the refused proposal, in bytes.
        proposal_bytes: usize,
        /// `uncommitted_bytes_max` of the configuration.
        limit_bytes: usize,
    },
    /// A single command exceeds `command_bytes_max`; it can never be accepted.
    #[error("a command of {bytes} bytes exceeds command_bytes_max = {limit_bytes}; split it or raise the limit")]
    TooLarge {
        /// The command's size in bytes.
        bytes: usize,
        /// The configured limit in bytes.
        limit_bytes: usize,
    },
    /// The log does not store so much in one write; it can never be accepted as one batch.
    #[error(
        "a batch of {commands} commands and {bytes} bytes exceeds what the log stores in one write, {limit_bytes} bytes; \
         split it"
    )]
    BatchTooLarge {
        /// How many commands there are.
        commands: usize,
        /// Their bytes as limits count them.
        bytes: usize,
        /// [`LogView::write_bytes_max`](crate::LogView::write_bytes_max).
        limit_bytes: usize,
    },
    /// The batch had no command in it.
    #[error("an empty batch of commands was proposed")]
    Empty,
}

/// Why a read was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum ReadError {
    /// This node does not lead; ask the leader, if one is named.
    #[error("not the leader in term {term}; {}", leader_hint(*leader))]
    NotLeader {
        /// The leader that this node follows, if it knows one.
        leader: Option<NodeId>,
        /// This node's term.
        term: Term,
    },
}

/// Why a transfer of leadership was refused. In every case nothing changed: who led leads, and takes proposals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum TransferError {
    /// This node does not lead, so it has nothing to hand over; ask the leader, if one is named.
    #[error("not the leader in term {term}; {}", leader_hint(*leader))]
    NotLeader {
        /// The leader that this node follows, if it knows one.
        leader: Option<NodeId>,
        /// This node's term.
        term: Term,
    },
    /// The target is this node, which leads: what was asked for is the case.
    #[error("this node leads term {term} already; there is nothing to transfer")]
    AlreadyLeads {
        /// This node's term.
        term: Term,
    },
    /// The target has no vote in this cluster, so it can never lead; name a voter.
    #[error("node {target} is not a voter of this cluster and cannot lead; name a voter")]
    NotAVoter {
        /// The server that was to lead.
        target: NodeId,
    },
    /// Leadership is on its way to another server; wait for the end of that, an election timeout at most.
    #[error("a transfer to node {target} is in progress; wait until it has ended")]
    InProgress {
        /// The target of that transfer.
        target: NodeId,
    },
    /// The target did not answer since the last check, so it may be down, and nobody could write while it is waited for;
    /// try again after a heartbeat, or name another.
    #[error("node {target} did not answer lately; retry after a heartbeat, or name another")]
    TargetSilent {
        /// The server that was to lead.
        target: NodeId,
    },
    /// The target lacks more than is on its way to it, and nobody could write until it has that; try again once it has
    /// caught up, or name another.
    #[error(
        "node {target} is too far behind: it holds entries up to {match_index} of {last_index}; retry once it has caught up"
    )]
    TargetBehind {
        /// The server that was to lead.
        target: NodeId,
        /// Highest index known durable on it.
        match_index: Index,
        /// The leader's last index.
        last_index: Index,
    },
}

/// Why a change of the configuration was refused. In every case nothing was appended, so a retry is safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum ChangeError {
    /// This node does not lead; ask the leader, if one is named.
    #[error("not the leader in term {term}; {}", leader_hint(*leader))]
    NotLeader {
        /// The leader that this node follows, if it knows one.
        leader: Option<NodeId>,
        /// This node's term.
        term: Term,
    },
    /// This node leads and is handing its leadership over, so it appends nothing; ask the target soon, or this node again
    /// if the target does not take over within an election timeout.
    #[error("the leader of term {term} is handing over to node {target}; retry there in a moment")]
    TransferInProgress {
        /// The server that is to lead.
        target: NodeId,
        /// This node's term.
        term: Term,
    },
    /// A change is under way, and there is never more than one (§4.1, §4.3); retry once it is done.
    #[error("the change of the configuration at index {index} is not done; retry once it is")]
    InProgress {
        /// The index of the configuration that is not committed, or is a joint one.
        index: Index,
    },
    /// This leader has not committed an entry of its own term yet, so a change of an earlier leader may be about to come back
    /// (the flaw of single-server changes that Ongaro published in 2015); retry in a moment.
    #[error("the leader of term {term} has committed nothing yet; retry in a moment")]
    TermNotCommitted {
        /// This node's term.
        term: Term,
    },
    /// A cluster needs a voter.
    #[error("a configuration without voters; name at least one")]
    NoVoters,
    /// A joint configuration is a step on a way, not where one leads.
    #[error("a joint configuration cannot be asked for; name the voters that are wanted in the end")]
    IsJoint,
    /// The configuration, with its addresses, is larger than a message may be.
    #[error("a configuration of {bytes} bytes exceeds the limit of {limit_bytes}; shorten its addresses")]
    TooLarge {
        /// Its encoded size in bytes.
        bytes: usize,
        /// [`Membership::ENCODED_BYTES_MAX`](crate::Membership::ENCODED_BYTES_MAX).
        limit_bytes: usize,
    },
    /// A server that is to get a vote is no learner: it holds nothing yet, and nothing could be committed until it has caught
    /// up (§4.2.1). Add it as a learner first, or as one that is promoted by itself.
    #[error("node {server} is not a learner; add it as one and let it catch up before it gets a vote")]
    NotALearner {
        /// The server that was to get a vote.
        server: NodeId,
    },
    /// A learner that is to get a vote did not answer since the last check, so it may be down; retry after a heartbeat.
    #[error("node {server} did not answer lately; retry after a heartbeat")]
    LearnerSilent {
        /// The server that was to get a vote.
        server: NodeId,
    },
    /// A learner that is to get a vote lacks more than is on its way to it; retry once it has caught up.
    #[error(
        "node {server} is too far behind: it holds entries up to {match_index} of {last_index}; retry once it has caught up"
    )]
    LearnerBehind {
        /// The server that was to get a vote.
        server: NodeId,
        /// Highest index known durable on it.
        match_index: Index,
        /// The leader's last index.
        last_index: Index,
    },
    /// Too few of the voters that there would be answered since the last check: nothing could be committed any more. Bring
    /// them back first, or keep more of those that answer.
    #[error("only {answering} of the voters that there would be answered lately, and {needed} are needed to commit")]
    WouldLoseQuorum {
        /// How many of them answered, this node among them.
        answering: usize,
        /// Their majority.
        needed: usize,
    },
}

/// Why a snapshot that was taken was refused. The snapshot before it stays in force.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum SnapshotRefused {
    /// It covers more than this server has applied, or other entries: it is not one of this server's state machine.
    #[error("a snapshot up to entry {snapshot}, of a state machine that has applied what is up to index {applied}")]
    NotApplied {
        /// The last entry that it claims to cover.
        snapshot: EntryId,
        /// The last index handed out for applying.
        applied: Index,
    },
    /// A newer one, perhaps fetched from a leader, came first: delete this one.
    #[error("a snapshot up to entry {snapshot} comes after the one up to entry {newest}")]
    Outdated {
        /// The last entry that it covers.
        snapshot: EntryId,
        /// The last entry that the newest covers.
        newest: EntryId,
    },
    /// This server has not heard yet who belonged to the cluster then: it has joined, and its log does not reach as far as
    /// its own addition. Take the next one.
    #[error("a snapshot up to entry {snapshot} cannot name the cluster's members: this server does not know them yet")]
    MembershipUnknown {
        /// The last entry that it covers.
        snapshot: EntryId,
    },
}

fn history(id: Option<HistoryId>) -> String {
    id.map_or_else(|| String::from("none"), |id| alloc::format!("{id}"))
}

fn leader_hint(leader: Option<NodeId>) -> String {
    match leader {
        Some(id) => alloc::format!("node {id} leads"),
        None => String::from("no leader is known"),
    }
}

/// How a peer broke the protocol. The message was dropped; at most its term was taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum PeerMisbehaved {
    /// The message is for another server.
    #[error("sent a message for node {to} to this node")]
    WrongReceiver {
        /// The receiver that it names.
        to: NodeId,
    },
    /// The sender claims this node's own id.
    #[error("claims this node's own id")]
    OwnId,
    /// A term or index beyond what any cluster reaches.
    #[error("claims a term or index beyond 2^62")]
    NumberOutOfRange,
    /// Nobody campaigns or leads in term 0, so nobody answers such a server either.
    #[error("campaigns or leads in term 0, or answers one that does")]
    TermZero,
    /// The entries are not consecutive, or their terms decrease or exceed the message's.
    #[error("sent entries that do not follow each other")]
    EntriesNotConsecutive,
    /// A second server claims to lead this term.
    #[error("claims to lead term {term}, which node {leader} leads")]
    SecondLeader {
        /// The term in question.
        term: Term,
        /// The leader that this node has seen.
        leader: NodeId,
    },
    /// An append or a snapshot would replace an entry that this node knows to be committed.
    #[error("would replace the committed entry {index}")]
    CommittedConflict {
        /// The first index in conflict.
        index: Index,
    },
    /// A leader's log is of another history than this one: another cluster under the same number, this one before a recovery,
    /// or another recovery of it. Its entries and snapshots are not taken; take the server out that is in the wrong cluster,
    /// empty its directory, and let it join under a new id.
    #[error(
        "follows another history: entry {index} is of {} there and of {} here; one of the two servers is in the wrong cluster",
        history(*theirs),
        history(*ours)
    )]
    OtherHistory {
        /// The entry that shows it.
        index: Index,
        /// The history that this log has there.
        ours: Option<HistoryId>,
        /// The history that the peer's log has there.
        theirs: Option<HistoryId>,
    },
    /// It offers a snapshot of no entry, or of one from a term after its own.
    #[error("offers a snapshot up to {last}, which its term cannot have committed")]
    SnapshotOfNothing {
        /// The last entry that it claims the snapshot to cover.
        last: EntryId,
    },
    /// It offers a snapshot without saying who has a vote: whoever took it over could never elect anybody.
    #[error("offers a snapshot up to {last} with a configuration without voters")]
    SnapshotWithoutVoters {
        /// The last entry that it claims the snapshot to cover.
        last: EntryId,
    },
    /// A response acknowledges entries that the leader never sent.
    #[error("acknowledges index {index}, beyond the leader's last")]
    AcknowledgedUnsent {
        /// The index that it claims to hold.
        index: Index,
    },
    /// A response confirms a round of questions that the leader has not begun.
    #[error("confirms round {round} of a leader that has not asked it")]
    ConfirmedUnasked {
        /// The round that it claims to confirm.
        round: u64,
    },
    /// A leader says that entries are committed which this node does not hold durably.
    #[error("says that this node holds the committed entry {index}, which it does not")]
    CommittedUnheld {
        /// The index that it names.
        index: Index,
    },
    /// The campaign term of a pre-vote is not the one after the sender's term.
    #[error("asks for a pre-vote in a term that is not its next")]
    CampaignTermMismatch,
}

/// Why a server cannot start from what its log holds. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The configuration breaks rules: all of them, each with field, value and rule.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The log holds entries of a term that the hard state has never seen. The hard state was lost or
    /// is older than the log: a server that started with it could vote twice in one term.
    #[error(
        "the log ends with entry {last}, but the hard state knows only term {term}: a vote may be lost; \
         do not start this server from this data, bring it back as a new member"
    )]
    HardStateLost {
        /// The last entry of the log.
        last: EntryId,
        /// The term of the hard state.
        term: Term,
    },
    /// The log begins after what its snapshot covers, or ends before: entries between are lost.
    #[error(
        "the newest snapshot covers the entries up to {snapshot}, but the log holds only those after {base} and up to \
         {last}: entries are lost; do not start this server from this data, bring it back as a new member"
    )]
    SnapshotGap {
        /// The last entry that the newest snapshot covers.
        snapshot: EntryId,
        /// The entry before the log's first.
        base: EntryId,
        /// The log's last entry.
        last: EntryId,
    },
}

/// Everything wrong with a configuration, at once.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct ConfigError {
    /// Each broken rule.
    pub problems: Vec<ConfigProblem>,
}

/// One broken rule of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct ConfigProblem {
    /// The field's name.
    pub field: &'static str,
    /// The value seen.
    pub value: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid configuration")?;
        for (position, problem) in self.problems.iter().enumerate() {
            let separator = if position == 0 { ": " } else { "; " };
            write!(f, "{separator}{} = {}: {}", problem.field, problem.value, problem.rule)?;
        }
        Ok(())
    }
}
