//! One line of a trace, as data. Field names in the text are the spec's.

use super::message::MessageRecord;
use crate::action::{Compaction, RoleKind};
use crate::membership::Membership;
use crate::protocol::{PeerState, ProgressState, ReadState};
use crate::transition::Transition;
use crate::types::{ClusterId, Entry, EntryId, HardState, Index, NodeId, Payload, Term};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::vec::Vec;

/// One line: a start of a node, or one of its steps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Line {
    /// What happened.
    pub event: EventName,
    /// To which node.
    pub node: NodeId,
    /// In which of its lives: a number that is larger after every restart.
    pub life: u64,
    /// The position in that life. Starts at 0 with the start itself; grows by one.
    pub seq: u64,
    /// Of a start alone: what was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Start>,
    /// Of an event that handles a message, and of `SendFromLog`: the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<MessageRecord>,
    /// Of `Persisted` alone: how many writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writes: Option<usize>,
    /// Of `ClientRequest` alone: how many commands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commands: Option<usize>,
    /// Of `TransferLeadership` alone: the server that is to lead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<NodeId>,
    /// Of `LeaseTimeout` alone: the round whose lease is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<u64>,
    /// Of `FollowerReadRequest` alone: which read it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<u64>,
    /// Of `ChangeMembership` alone: the configuration that is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub membership: Option<MembershipRecord>,
    /// Of `SnapshotTaken`, `SnapshotFetched` and `SnapshotFetchFailed`: the last entry that the snapshot covers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<EntryId>,
    /// Of `SnapshotTaken` alone: up to where the log is to forget its entries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compact_through: Option<Index>,
    /// How many appends of this step wait for entries that are not in memory. Such a message is sent later, by a line
    /// `SendFromLog`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cold_reads: usize,
    /// The server after the step.
    pub state: ServerState,
    /// What the step sent at once, in this order.
    pub sent: Vec<MessageRecord>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero_round(round: &u64) -> bool {
    *round == 0
}

fn is_zero_id(id: &EntryId) -> bool {
    *id == EntryId::ZERO
}

/// Whether a session is that of a server that was a member when the term began; an answer without one counts as such.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
pub(super) fn is_first(session: &Index) -> bool {
    *session == Index::ZERO
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
pub(super) fn is_false(value: &bool) -> bool {
    !*value
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// What a line tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EventName {
    /// A step of the protocol, by the spec's name.
    Step(Transition),
    /// Something around the protocol.
    Around(AroundName),
}

/// What happens around the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum AroundName {
    /// The node started, or started again, from what its log held.
    Start,
    /// An append left whose entries had to be read from the disk first.
    SendFromLog,
}

impl EventName {
    /// A start.
    pub const START: Self = Self::Around(AroundName::Start);

    /// The name as written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Step(transition) => transition.name(),
            Self::Around(AroundName::Start) => "Start",
            Self::Around(AroundName::SendFromLog) => "SendFromLog",
        }
    }
}

impl fmt::Display for EventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a node found when it started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Start {
    /// The version of the format: [`VERSION`](super::VERSION).
    pub version: u32,
    /// The cluster.
    pub cluster: ClusterId,
    /// The settings that the spec knows, or whose limits it does without.
    pub settings: Settings,
    /// The configuration as of the newest snapshot; without one, that which the cluster began with, as far as this node knows
    /// it.
    pub membership: MembershipRecord,
    /// What the log held.
    pub log: Vec<EntryRun>,
}

/// A configuration of the cluster, without addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MembershipRecord {
    /// The voters, ascending; in a joint configuration the new ones.
    #[serde(deserialize_with = "ascending")]
    pub voters: Vec<NodeId>,
    /// The old voters of a joint configuration, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "ascending")]
    pub outgoing: Vec<NodeId>,
    /// Who gets the log and has no vote, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "ascending")]
    pub learners: Vec<NodeId>,
    /// The learners that become voters once they have caught up, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "ascending")]
    pub promoting: Vec<NodeId>,
}

/// Nobody twice, and in one order: what is equal looks equal.
fn ascending<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<NodeId>, D::Error> {
    let ids = Vec::<NodeId>::deserialize(deserializer)?;
    let ascends = ids.windows(2).all(|pair| pair[0] < pair[1]);
    if ascends { Ok(ids) } else { Err(serde::de::Error::custom("a list of servers that does not ascend")) }
}

impl MembershipRecord {
    /// Everybody named in it.
    pub fn members(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.voters.iter().chain(&self.outgoing).chain(&self.learners).chain(&self.promoting).copied()
    }
}

impl From<&Membership> for MembershipRecord {
    fn from(membership: &Membership) -> Self {
        Self {
            voters: membership.voters().to_vec(),
            outgoing: membership.outgoing().to_vec(),
            learners: membership.learners().to_vec(),
            promoting: membership.promoting().to_vec(),
        }
    }
}

/// What of a configuration decides which steps are right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// Whether a node asks before it campaigns.
    pub pre_vote: bool,
    /// Whether a leader without a quorum steps down, and candidates are ignored while a leader is heard.
    pub check_quorum: bool,
    /// Whether leaders answer reads by leases.
    #[serde(default, skip_serializing_if = "is_false")]
    pub leases: bool,
    /// Whether it names the history in the first entry of an empty log.
    #[serde(default, skip_serializing_if = "is_false")]
    pub names_history: bool,
    /// The most appends on their way to one follower.
    pub inflight_messages_max: usize,
    /// The most bytes of entries on their way to one follower.
    pub inflight_bytes_max: usize,
    /// The most bytes of entries in one append.
    pub append_bytes_max: usize,
}

/// Consecutive entries that are alike. What a command says is not in a trace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EntryRun {
    /// Their term.
    pub term: Term,
    /// What they carry.
    pub payload: PayloadName,
    /// How many there are; at least 1.
    pub count: u64,
    /// Of `Membership` alone: the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub membership: Option<MembershipRecord>,
}

/// What an entry carries, without its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PayloadName {
    /// The entry with which a leader begins its term.
    Noop,
    /// A client's command.
    Command,
    /// A configuration of the cluster.
    Membership,
}

/// The entries as runs.
pub fn runs<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Vec<EntryRun> {
    let mut runs = Vec::new();
    add_runs(&mut runs, entries);
    runs
}

/// Entries that follow those of `runs`.
pub fn add_runs<'a>(runs: &mut Vec<EntryRun>, entries: impl IntoIterator<Item = &'a Entry>) {
    for entry in entries {
        let (payload, membership) = match &entry.payload {
            Payload::Noop => (PayloadName::Noop, None),
            Payload::Command(_) => (PayloadName::Command, None),
            Payload::Membership(membership) => (PayloadName::Membership, Some(MembershipRecord::from(&**membership))),
        };
        let term = entry.id.term;
        let is_alike = |run: &&mut EntryRun| (run.term, run.payload, &run.membership) == (term, payload, &membership);
        match runs.last_mut().filter(is_alike) {
            Some(run) => run.count += 1,
            None => runs.push(EntryRun { term, payload, count: 1, membership }),
        }
    }
}

/// A server, as far as the spec knows it; the log itself is known from its beginning and what every step adds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServerState {
    /// The term, durable or not.
    pub current_term: Term,
    /// The vote in it, durable or not.
    pub voted_for: Option<NodeId>,
    /// The role.
    pub role: RoleKind,
    /// The leader of the term, as far as known.
    pub leader: Option<NodeId>,
    /// Whether candidates are ignored because the leader was heard just now.
    pub leader_is_recent: bool,
    /// The session in which the leader that it follows last addressed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Index>,
    /// Whether it found that its disk lacks what it acknowledged, and does nothing any more.
    #[serde(default, skip_serializing_if = "is_false")]
    pub lost: bool,
    /// Who granted in this campaign, ascending.
    pub votes_granted: Vec<NodeId>,
    /// Who refused in this campaign, ascending.
    pub votes_refused: Vec<NodeId>,
    /// The last entry that the newest snapshot covers.
    #[serde(default, skip_serializing_if = "is_zero_id")]
    pub snapshot: EntryId,
    /// The configuration in force: the last one in the log, or that of the snapshot.
    pub membership: MembershipRecord,
    /// The snapshot that is being fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetching: Option<FetchRecord>,
    /// The entry before the log's first.
    #[serde(default, skip_serializing_if = "is_zero_id")]
    pub base: EntryId,
    /// The last entry, durable or not.
    pub last: EntryId,
    /// The last entry that is durable and not replaced by a write in flight.
    pub durable: EntryId,
    /// The highest index known committed.
    pub commit_index: Index,
    /// The last index handed out for applying.
    pub applied_index: Index,
    /// What a leader knows of its peers, ascending by id.
    pub progress: Vec<ProgressRecord>,
    /// The last round of confirmation that a leader began.
    #[serde(default, skip_serializing_if = "is_zero_round")]
    pub read_round: u64,
    /// The last round whose lease is over.
    #[serde(default, skip_serializing_if = "is_zero_round")]
    pub lease_over: u64,
    /// Whether a leader told a server to campaign, and has no lease any more.
    #[serde(default, skip_serializing_if = "is_false")]
    pub lease_given_up: bool,
    /// The reads that wait for a leader's confirmation, in the order in which they began.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reads: Vec<ReadRecord>,
    /// The contexts of a follower's reads that wait for its leader's answer, in the order in which they began.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub follower_reads: Vec<u64>,
    /// How many of these the last question to the leader was about.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reads_asked: usize,
    /// Whom a leader hands over to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer: Option<NodeId>,
    /// The writes in flight, oldest first.
    pub pending: Vec<WriteRecord>,
}

/// A snapshot that is being fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FetchRecord {
    /// Who offered it.
    pub from: NodeId,
    /// The last entry that it covers.
    pub last: EntryId,
    /// The configuration as of that.
    pub membership: MembershipRecord,
}

/// A snapshot that takes the place of a log's beginning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CompactionRecord {
    /// The last entry that the snapshot covers.
    pub snapshot: EntryId,
    /// The last entry that the log forgets.
    pub base: EntryId,
    /// The configuration as of the snapshot.
    pub membership: MembershipRecord,
}

impl From<&Compaction> for CompactionRecord {
    fn from(compaction: &Compaction) -> Self {
        let membership = MembershipRecord::from(&*compaction.membership);
        Self { snapshot: compaction.snapshot, base: compaction.base, membership }
    }
}

/// A read that waits for a leader's confirmation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReadRecord {
    /// The follower that asked, and its context; of the leader's own reads nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reader: Option<ReaderRecord>,
    /// The first round that began after the read did.
    pub round: u64,
    /// What must be applied before it is answered.
    pub index: Index,
}

impl From<&ReadState> for ReadRecord {
    fn from(read: &ReadState) -> Self {
        let reader = read.reader.map(|node| ReaderRecord { node, context: read.context });
        Self { reader, round: read.round, index: read.index }
    }
}

/// A follower's read, as its leader knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReaderRecord {
    /// The follower.
    pub node: NodeId,
    /// Which of its reads it is.
    pub context: u64,
}

/// What a leader knows of a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProgressRecord {
    /// The peer.
    pub peer: NodeId,
    /// Highest index known durable on it.
    pub match_index: Index,
    /// The next index to send to it.
    pub next_index: Index,
    /// How appends are sent to it.
    pub state: ProgressName,
    /// Whether it answered since the last quorum check.
    pub active: bool,
    /// The last round of confirmation in which it said that it follows.
    #[serde(default, skip_serializing_if = "is_zero_round")]
    pub confirmed_round: u64,
    /// Which acquaintance with it this is.
    #[serde(default, skip_serializing_if = "is_first")]
    pub session: Index,
    /// What it had acknowledged when it said that it lost that; 0 unless it did.
    #[serde(default, skip_serializing_if = "is_first")]
    pub lost: Index,
    /// The last round of confirmation that began before this acquaintance did.
    #[serde(default, skip_serializing_if = "is_zero_round")]
    pub round_before: u64,
    /// The last index of each append on its way, oldest first.
    pub inflight: Vec<Index>,
}

/// How appends are sent to a peer, in the spec's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "they are those of `ProgressState`")]
pub enum ProgressName {
    Probe,
    ProbeSent,
    Replicate,
    Snapshot,
}

impl From<&PeerState> for ProgressRecord {
    fn from(peer: &PeerState) -> Self {
        Self {
            peer: peer.peer,
            match_index: peer.match_index,
            next_index: peer.next_index,
            state: match peer.state {
                ProgressState::Probe { sent: false } => ProgressName::Probe,
                ProgressState::Probe { sent: true } => ProgressName::ProbeSent,
                ProgressState::Replicate => ProgressName::Replicate,
                ProgressState::Snapshot => ProgressName::Snapshot,
            },
            active: peer.active,
            session: peer.session,
            lost: peer.lost.unwrap_or_default(),
            round_before: peer.round_before,
            confirmed_round: peer.confirmed_round,
            inflight: peer.inflight.clone(),
        }
    }
}

/// A write in flight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WriteRecord {
    /// The term and vote that it carries, if any.
    pub hard_state: Option<HardState>,
    /// The snapshot that takes the place of the log's beginning, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compaction: Option<CompactionRecord>,
    /// Entries from this index on go first, if any.
    pub truncate_from: Option<Index>,
    /// The entries to append.
    pub entries: Vec<EntryRun>,
    /// Up to where the log is durable after it, less what a later write replaces.
    pub durable: Index,
    /// The messages that wait for it.
    pub messages: Vec<MessageRecord>,
}

impl Line {
    /// What is wrong with the line by itself: each kind of event has its own fields.
    #[must_use]
    pub fn problem(&self) -> Option<&'static str> {
        let is_start = self.event == EventName::START;
        let (takes_message, is_request, is_report) = match self.event {
            EventName::Step(transition) => {
                let handles = self.message.as_ref().map(MessageRecord::handled_by);
                let takes = transition.name().starts_with("Handle");
                if takes && handles.is_some_and(|handled_by| handled_by != transition) {
                    return Some("the event handles another type of message");
                }
                (takes, transition == Transition::ClientRequest, transition == Transition::Persisted)
            }
            EventName::Around(name) => (name == AroundName::SendFromLog, false, false),
        };
        if self.start.is_some() != is_start {
            return Some("a `start` belongs to the event Start and to no other");
        }
        if self.message.is_some() != takes_message {
            return Some("a `message` belongs to events that handle one and to no other");
        }
        if self.writes.is_some() != is_report || self.writes == Some(0) {
            return Some("`writes`, at least 1, belongs to the event Persisted and to no other");
        }
        if self.commands.is_some() != is_request || self.commands == Some(0) {
            return Some("`commands`, at least 1, belongs to the event ClientRequest and to no other");
        }
        if self.target.is_some() != (self.event == EventName::Step(Transition::TransferLeadership)) {
            return Some("a `target` belongs to the event TransferLeadership and to no other");
        }
        if self.round.is_some() != (self.event == EventName::Step(Transition::LeaseTimeout)) {
            return Some("a `round` belongs to the event LeaseTimeout and to no other");
        }
        if self.context.is_some() != (self.event == EventName::Step(Transition::FollowerReadRequest)) {
            return Some("a `context` of its own belongs to the event FollowerReadRequest and to no other");
        }
        if self.membership.is_some() != (self.event == EventName::Step(Transition::ChangeMembership)) {
            return Some("a `membership` of its own belongs to the event ChangeMembership and to no other");
        }
        let is_taken = self.event == EventName::Step(Transition::SnapshotTaken);
        let has_snapshot = is_taken
            || self.event == EventName::Step(Transition::SnapshotFetched)
            || self.event == EventName::Step(Transition::SnapshotFetchFailed);
        if self.snapshot.is_some() != has_snapshot || self.compact_through.is_some() != is_taken {
            return Some("`snapshot` and `compactThrough` belong to events about a snapshot and to no other");
        }
        if is_start != (self.seq == 0) {
            return Some("a life begins with its Start, which has `seq` 0");
        }
        if is_start && self.start.as_ref().is_some_and(|start| start.version != super::VERSION) {
            return Some("this version of the format is not known here");
        }
        let receiver =
            self.message.as_ref().map(MessageRecord::way).filter(|_| matches!(self.event, EventName::Step(_)));
        if receiver.is_some_and(|(_, to)| to != self.node) {
            return Some("the message is for another node");
        }
        None
    }
}
