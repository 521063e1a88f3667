//! The protocol: a deterministic state machine without I/O.
//!
//! Lives here: [`Protocol`], what enters it and how terms spread. Each chapter of the dissertation
//! has a room of its own: election (§3.4, §9.6), replication (§3.5, §3.6), and those of
//! membership changes (§4), snapshots (§5), reads (§6.4) and leadership transfer (§3.10). Does not
//! live here: clocks (`ticker`), storage (`log`), networks (`transport`).
//!
//! Spec: every function named in [`Transition`](crate::Transition) is one action of `Raft.tla`.

mod election;
mod gate;
mod invariant;
mod lineage;
mod loss;
mod membership_change;
mod progress;
mod read;
mod replication;
mod role;
mod snapshot;
mod state;
mod tail;
mod transfer;

pub use progress::{Progress, ProgressState};
pub use state::{PeerState, ProtocolState, ReadState, WriteInFlight};

use crate::action::{Action, ActionSink, Compaction, RoleKind, Write};
use crate::config::RaftConfig;
use crate::error::{ConfigError, RestoreError, StepError};
use crate::event::Event;
use crate::history::HistoryId;
use crate::log::LogView;
use crate::membership::Membership;
use crate::message::{Envelope, Message};
use crate::types::{DiskId, Entries, EntryId, HardState, Index, NodeId, Term};
use alloc::sync::Arc;
use membership_change::Configurations;
use read::FollowerReads;
use role::Role;
use snapshot::Fetch;
use tail::Tail;

/// One server's part of the Raft protocol for one group.
///
/// [`step`](Self::step) consumes one event and pushes actions. The same configuration, log and
/// events give the same actions on every platform (law 1), and every action may be carried out at
/// once, in the order given (law 2).
///
/// ```
/// use raft_io::{Action, Event, MemoryLog, Protocol, RaftConfig, RaftLog, RoleKind};
///
/// let mut log = MemoryLog::new();
/// let mut protocol = Protocol::new(&RaftConfig::single(1), &log)?;
/// let mut actions = Vec::new();
/// protocol.step(&log, Event::ElectionTimeout, &mut actions)?;
/// // Not yet leader: its own vote counts once it is durable.
/// assert_eq!(protocol.role(), RoleKind::Candidate);
/// for action in actions.drain(..) {
///     if let Action::Persist(write) = action {
///         log.append(&mut vec![write])?;
///     }
/// }
/// log.sync()?;
/// protocol.step(&log, Event::Persisted { writes: 1 }, &mut actions)?;
/// assert_eq!(protocol.role(), RoleKind::Leader);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Protocol {
    settings: Settings,
    /// The configurations in the log, as decided: the last is in force.
    configurations: Configurations,
    /// Term and vote as decided; durable once the writes in flight are.
    hard_state: HardState,
    /// Whether `hard_state` changed in this step and no write carries it yet. False between steps.
    hard_state_dirty: bool,
    role: Role,
    /// Whether role, term or leader changed in this step. False between steps.
    role_changed: bool,
    /// Whether a write of this step was durable at once, and what follows from it is still to be
    /// done. False between steps.
    wrote_through: bool,
    /// The leader of this term, as far as known; this node itself when it leads.
    leader: Option<NodeId>,
    /// The leader was heard within the minimum election timeout: candidates are ignored (§4.2.3).
    /// Always false without check-quorum. With leases it stays, whatever happens, until that time has passed.
    leader_is_recent: bool,
    /// The session in which the leader that this server follows last addressed it, with an append or an offer; `None` before
    /// the first, and without a leader.
    session: Option<Index>,
    /// This server found that its disk lacks what it acknowledged: it does nothing any more.
    lost: bool,
    tail: Tail,
    /// The last entry that the newest snapshot covers, as decided; [`EntryId::ZERO`] before the first. Only grows.
    snapshot: EntryId,
    /// The snapshot that is being fetched in place of entries that the leader no longer has; beyond `commit_index`. None
    /// while this server leads.
    fetch: Option<Fetch>,
    /// Highest index known committed. Starts with the log's snapshot; only grows; at most `last`.
    commit_index: Index,
    /// The last index handed out for applying, or covered by the snapshot that the state machine began with. Only grows;
    /// at most `commit_index` and durable.
    applied_through: Index,
}

/// What the protocol needs of a [`RaftConfig`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Settings {
    id: NodeId,
    pre_vote: bool,
    check_quorum: bool,
    lease: bool,
    append_bytes_max: usize,
    append_entries_max: usize,
    inflight_messages_max: usize,
    inflight_bytes_max: usize,
    uncommitted_bytes_max: usize,
    command_bytes_max: usize,
    /// What the log takes in one write.
    write_bytes_max: usize,
    history: Option<HistoryId>,
    /// That of the log.
    disk: DiskId,
}

impl Protocol {
    /// A server that starts, or starts again, from what `log` holds.
    ///
    /// # Errors
    /// Every broken rule of the configuration at once, those about the log's limits included, or a log that has lost its
    /// hard state.
    pub fn new(config: &RaftConfig, log: &impl LogView) -> Result<Self, RestoreError> {
        let write_bytes_max = log.write_bytes_max();
        let mut problems = config.problems();
        problems.extend(config.log_problems(write_bytes_max));
        if !problems.is_empty() {
            return Err(ConfigError { problems }.into());
        }
        let (last, term) = (log.last(), log.hard_state().term);
        if last.term > term {
            return Err(RestoreError::HardStateLost { last, term });
        }
        let (base, snapshot) = (log.base(), log.snapshot());
        if snapshot.index < base.index || snapshot.index > last.index {
            return Err(RestoreError::SnapshotGap { snapshot, base, last });
        }
        Ok(Self {
            settings: Settings {
                id: config.id,
                pre_vote: config.pre_vote,
                check_quorum: config.check_quorum,
                lease: config.lease_ticks.is_some(),
                append_bytes_max: config.append_bytes_max,
                append_entries_max: config.append_entries_max,
                inflight_messages_max: config.inflight_messages_max,
                inflight_bytes_max: config.inflight_bytes_max,
                uncommitted_bytes_max: config.uncommitted_bytes_max,
                command_bytes_max: config.command_bytes_max,
                write_bytes_max,
                history: config.history,
                disk: log.disk(),
            },
            configurations: Configurations::new(snapshot.index, log.memberships(), &config.membership),
            hard_state: log.hard_state(),
            hard_state_dirty: false,
            role: Role::Follower(FollowerReads::default()),
            role_changed: false,
            wrote_through: false,
            leader: None,
            // Before it stopped, this server may have promised a leader to ignore candidates.
            leader_is_recent: config.lease_ticks.is_some(),
            session: None,
            lost: false,
            tail: Tail::new(base, last),
            snapshot,
            fetch: None,
            commit_index: snapshot.index,
            applied_through: snapshot.index,
        })
    }

    /// Consumes one event and pushes what follows from it onto `actions`.
    ///
    /// `log` holds at least every write reported as persisted, this event included.
    ///
    /// # Errors
    /// The event was refused and changed nothing: see [`StepError`].
    ///
    /// # Panics
    /// If an invariant of this node itself is broken; continuing could lose data.
    pub fn step(&mut self, log: &impl LogView, event: Event, actions: &mut impl ActionSink) -> Result<(), StepError> {
        // A request is refused, because this server knows no leader.
        if self.lost && !event.is_request() {
            return Ok(());
        }
        let result = match event {
            Event::Receive(envelope) => {
                self.receive(log, envelope, actions);
                Ok(())
            }
            Event::Propose(command) => self.client_request([command], actions).map_err(StepError::from),
            Event::ProposeBatch(commands) => self.client_request(commands, actions).map_err(StepError::from),
            Event::ReadRequest { context } => self.read_request(context, actions).map_err(StepError::from),
            Event::FollowerReadRequest { context } => {
                self.follower_read_request(context, actions).map_err(StepError::from)
            }
            Event::ChangeMembership { target } => self.change_membership(target, actions).map_err(StepError::from),
            Event::LeaseReadRequest { context } => self.lease_read_request(context, actions).map_err(StepError::from),
            Event::TransferLeadership { target } => self.transfer_leadership(target, actions).map_err(StepError::from),
            Event::SnapshotTaken { last, compact_through } => {
                self.snapshot_taken(log, last, compact_through, actions).map_err(StepError::from)
            }
            Event::SnapshotFetched { last } => {
                self.snapshot_fetched(log, last, actions);
                Ok(())
            }
            Event::SnapshotFetchFailed { last } => {
                self.snapshot_fetch_failed(last);
                Ok(())
            }
            Event::Persisted { writes } => self.persisted(log, writes, actions),
            Event::ElectionTimeout => {
                self.election_timeout(actions);
                Ok(())
            }
            Event::MinimumElectionTimeout => {
                self.minimum_election_timeout(actions);
                Ok(())
            }
            Event::HeartbeatTimeout => {
                self.heartbeat_timeout(log, actions);
                Ok(())
            }
            Event::QuorumCheckTimeout => {
                self.quorum_check_timeout(actions);
                Ok(())
            }
            Event::LeaseTimeout { round } => {
                self.lease_timeout(round);
                Ok(())
            }
            Event::StepDown => {
                self.step_down(actions);
                Ok(())
            }
            Event::TransferTimeout => {
                self.transfer_timeout(actions);
                Ok(())
            }
        };
        self.conclude(log, actions);
        assert!(!self.hard_state_dirty, "PersistFirst: a step must write the hard state that it changed");
        if cfg!(debug_assertions) {
            self.check(log);
        }
        result
    }

    /// Gate, then let the term spread, then dispatch.
    fn receive(&mut self, log: &impl LogView, envelope: Envelope, actions: &mut impl ActionSink) {
        let from = envelope.from;
        let checked = self.check_message(&envelope).and_then(|()| self.check_history(log, &envelope.message));
        if let Err(reason) = checked {
            actions.push(Action::Misbehaved { peer: from, reason });
            return;
        }
        let term = envelope.message.term();
        match &envelope.message {
            // A question about a possible election changes nobody's term (§9.6).
            Message::PreVoteRequest(_) => {}
            // Nor does a candidate that this node has no reason to listen to (§4.2.3); one that campaigns because its
            // leader wants it has a reason (§3.10).
            Message::RequestVoteRequest(request) if !request.leadership_transfer && self.disregards_candidates() => {
                return;
            }
            message if term > self.hard_state.term => {
                if let Message::AppendEntriesRequest(request) = message {
                    // This server acknowledged something in a term that its disk does not know any more.
                    if self.is_named(request.acknowledged, request.disk) {
                        return self.lose(from, (term, request.acknowledged, request.session), actions);
                    }
                }
                self.update_term(term, actions);
            }
            _ => {}
        }
        self.dispatch(log, from, envelope.message, actions);
        self.persist_hard_state(actions);
    }

    fn dispatch(&mut self, log: &impl LogView, from: NodeId, message: Message, actions: &mut impl ActionSink) {
        match message {
            Message::PreVoteRequest(request) => self.handle_pre_vote_request(from, request, actions),
            Message::PreVoteResponse(response) => self.handle_pre_vote_response(from, response, actions),
            Message::RequestVoteRequest(request) => self.handle_request_vote_request(from, request, actions),
            Message::RequestVoteResponse(response) => {
                self.handle_request_vote_response(from, response, actions);
            }
            Message::AppendEntriesRequest(request) => {
                self.handle_append_entries_request(log, from, request, actions);
            }
            Message::AppendEntriesResponse(response) => {
                self.handle_append_entries_response(log, from, response, actions);
            }
            Message::ConfirmLeaderRequest(request) => self.handle_confirm_leader_request(from, request, actions),
            Message::ConfirmLeaderResponse(response) => self.handle_confirm_leader_response(from, response, actions),
            Message::ReadIndexRequest(request) => self.handle_read_index_request(from, request, actions),
            Message::ReadIndexResponse(response) => self.handle_read_index_response(from, response, actions),
            Message::TimeoutNowRequest(request) => self.handle_timeout_now_request(from, request, actions),
            Message::InstallSnapshotRequest(request) => {
                self.handle_install_snapshot_request(log, from, request, actions);
            }
        }
    }

    /// A higher term was seen: this node follows in it (`UpdateTerm` of raft.tla). The new term is
    /// written by the end of the step, before any answer in it leaves.
    fn update_term(&mut self, term: Term, actions: &mut impl ActionSink) {
        assert!(term > self.hard_state.term, "TermMonotonic: {term} after {}", self.hard_state.term);
        self.hard_state = HardState { term, vote: None };
        self.hard_state_dirty = true;
        self.become_follower(None, actions);
    }

    /// Follows in the present term. The vote stays: it belongs to the term, not to the role.
    fn become_follower(&mut self, leader: Option<NodeId>, actions: &mut impl ActionSink) {
        if matches!(self.role, Role::Leader(_)) {
            // A leader runs no election timer.
            actions.push(Action::ResetElectionTimer);
        }
        self.abort_reads(actions);
        self.role = Role::Follower(FollowerReads::default());
        self.role_changed = true;
        self.leader = leader;
        self.session = None;
        self.leader_is_recent &= self.settings.lease;
    }

    /// The oldest `writes` in flight are durable.
    fn persisted(&mut self, log: &impl LogView, writes: usize, actions: &mut impl ActionSink) -> Result<(), StepError> {
        let in_flight = self.tail.writes();
        if writes == 0 || writes > in_flight {
            return Err(StepError::NotInFlight { reported: writes, in_flight });
        }
        for _ in 0..writes {
            if let Some(durable) = self.tail.pop_write(actions) {
                self.own_vote_durable(durable, actions);
            }
        }
        self.advance_durable(log, actions);
        Ok(())
    }

    /// What follows once more of this log is durable.
    #[inline]
    fn advance_durable(&mut self, log: &impl LogView, actions: &mut impl ActionSink) {
        if matches!(self.role, Role::Leader(_)) {
            self.advance_durable_as_leader(log, actions);
        } else if self.commit_index > self.applied_through {
            self.advance_apply(actions);
        }
    }

    fn advance_durable_as_leader(&mut self, log: &impl LogView, actions: &mut impl ActionSink) {
        self.advance_commit(actions);
        self.advance_apply(actions);
        self.advance_membership(None, actions);
        self.replicate_durable(log, actions);
    }

    /// Reports the role, and draws the consequences of what was written through in this step.
    fn conclude(&mut self, log: &impl LogView, actions: &mut impl ActionSink) {
        self.report_role(actions);
        while core::mem::take(&mut self.wrote_through) {
            self.own_vote_durable(self.hard_state, actions);
            // A leader that this vote made has written its first entry: what follows, follows from that.
            if !self.wrote_through {
                self.advance_durable(log, actions);
            }
            self.report_role(actions);
        }
    }

    fn report_role(&mut self, actions: &mut impl ActionSink) {
        if self.role_changed {
            self.role_changed = false;
            let (role, term, leader) = (self.role.kind(), self.hard_state.term, self.leader);
            actions.push(Action::RoleChanged { role, term, leader });
        }
    }

    /// Emits a write of the hard state alone, if it changed and no other write carried it.
    fn persist_hard_state(&mut self, actions: &mut impl ActionSink) {
        if self.hard_state_dirty {
            self.persist(None, Entries::EMPTY, EntryId::ZERO, actions);
        }
    }

    /// Emits a write that puts a snapshot in the place of the log's beginning. The tail has been told.
    fn persist_compaction(&mut self, compaction: Compaction, actions: &mut impl ActionSink) {
        let write = Write { compaction: Some(compaction), ..Write::default() };
        self.wrote_through |= self.tail.write(write, EntryId::ZERO, actions);
    }

    /// Emits one atomic write: the hard state if it changed, a truncation, entries. `before` is
    /// the entry before the truncation; without one it is not looked at.
    fn persist(
        &mut self,
        truncate_from: Option<Index>,
        entries: Entries,
        before: EntryId,
        actions: &mut impl ActionSink,
    ) {
        let hard_state = self.hard_state_dirty.then_some(self.hard_state);
        self.hard_state_dirty = false;
        self.wrote_through |=
            self.tail.write(Write { hard_state, compaction: None, truncate_from, entries }, before, actions);
    }

    /// Sends a message once everything decided so far is durable (law 2).
    fn send(&mut self, to: NodeId, message: Message, actions: &mut impl ActionSink) {
        assert!(!self.hard_state_dirty, "PersistFirst: a message must stand behind the write it depends on");
        self.tail.send(Envelope { from: self.settings.id, to, message }, actions);
    }

    /// Sends a message that promises nothing but this server's term, once that is durable.
    fn send_after_term(&mut self, to: NodeId, message: Message, actions: &mut impl ActionSink) {
        assert!(!self.hard_state_dirty, "PersistFirst: a message must stand behind the write it depends on");
        if self.tail.hard_state_in_flight() {
            return self.send(to, message, actions);
        }
        actions.push(Action::Send(Envelope { from: self.settings.id, to, message }));
    }

    /// The term of the entry at `index`, durable or not; `None` if the log holds no such entry.
    fn term_at(&self, log: &impl LogView, index: Index) -> Option<Term> {
        self.tail.term_at(log, index)
    }

    /// This server's id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.settings.id
    }

    /// The current term.
    #[must_use]
    pub fn term(&self) -> Term {
        self.hard_state.term
    }

    /// Who has this server's vote in the current term.
    #[must_use]
    pub fn vote(&self) -> Option<NodeId> {
        self.hard_state.vote
    }

    /// The role.
    #[must_use]
    pub fn role(&self) -> RoleKind {
        self.role.kind()
    }

    /// The leader of the current term, as far as known.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// Whether candidates are ignored because the leader was heard within the minimum election
    /// timeout.
    #[must_use]
    pub fn leader_is_recent(&self) -> bool {
        self.leader_is_recent
    }

    /// The highest index known committed.
    #[must_use]
    pub fn commit_index(&self) -> Index {
        self.commit_index
    }

    /// The last index handed out for applying.
    #[must_use]
    pub fn applied_through(&self) -> Index {
        self.applied_through
    }

    /// The last entry that the newest snapshot covers; [`EntryId::ZERO`] before the first.
    #[must_use]
    pub fn snapshot(&self) -> EntryId {
        self.snapshot
    }

    /// The entry before the log's first, as decided.
    #[cfg(feature = "std")]
    pub(crate) fn base(&self) -> EntryId {
        self.tail.base()
    }

    /// The snapshot that is being fetched: who offered it, and the last entry that it covers.
    #[must_use]
    pub fn fetching(&self) -> Option<(NodeId, EntryId)> {
        self.fetch.as_ref().map(|fetch| (fetch.from, fetch.last))
    }

    /// The configuration as of the snapshot that is being fetched.
    #[must_use]
    pub fn fetching_membership(&self) -> Option<&Arc<Membership>> {
        self.fetch.as_ref().map(|fetch| &fetch.membership)
    }

    /// The last entry, durable or not.
    #[must_use]
    pub fn last(&self) -> EntryId {
        self.tail.last()
    }

    /// The last index that is durable on this server.
    #[must_use]
    pub fn durable_index(&self) -> Index {
        self.tail.durable()
    }

    /// How many writes were emitted and not yet reported persisted.
    #[must_use]
    pub fn writes_in_flight(&self) -> usize {
        self.tail.writes()
    }

    /// What this leader proposed and has not yet committed, in bytes; 0 in other roles.
    #[must_use]
    pub fn uncommitted_bytes(&self) -> usize {
        match &self.role {
            Role::Leader(leader) => leader.uncommitted.bytes(),
            _ => 0,
        }
    }

    /// What this leader knows of each peer, ascending by id; empty in other roles.
    pub fn progress(&self) -> impl Iterator<Item = (NodeId, &Progress)> {
        let peers = match &self.role {
            Role::Leader(leader) => leader.peers.as_slice(),
            _ => &[],
        };
        peers.iter().map(|(id, progress)| (*id, progress))
    }

    /// The votes granted so far in this campaign, ascending; empty unless campaigning.
    pub fn votes_granted(&self) -> impl Iterator<Item = NodeId> + '_ {
        let granted = match &self.role {
            Role::PreCandidate(ballot) | Role::Candidate(ballot) => Some(&ballot.granted),
            _ => None,
        };
        granted.into_iter().flatten().copied()
    }
}
