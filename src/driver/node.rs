//! The node: the protocol behind one lock, and the way of a step's actions.

use super::apply::ApplyWork;
use super::changes::{Changes, MembershipChange, Wanted};
use super::contain::{Asked, CodePlace, Foreign, Panics, contain, panic_message};
use super::error::{LeadershipTransferError, MembershipChangeError, RequestError, TakeSnapshotError, UnknownReason};
use super::feed::{Feed, Reader};
use super::fetch::Order;
use super::held_up::Heard;
use super::identities;
use super::inside::NodeKey;
use super::lease::Leases;
use super::lifecycle::Lifecycle;
use super::limits;
use super::loss;
use super::mailbox::Mailbox;
use super::members::{self, Members};
use super::obstacles::Obstacles;
use super::options::DriverOptions;
use super::proposals::{Appended, Held, not_leader};
use super::raft::{Applied, RoleChange, StateMachine, WaitError};
use super::reads::{BoxedRead, ReadTally, ReadWay, Reads};
use super::recording::Recording;
use super::signal::Signal;
use super::slot::{self, Completion};
use super::snapshots::{self, Requester, Served, SnapshotState, SnapshotWork, why_not_taken};
use super::stall::Stall;
use super::start_error::StartError;
use super::status::{Counters, Status};
use super::stopped::{NodeRole, StopReason};
use super::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use super::sync::{Arc as FeedArc, Condvar, Mutex, MutexGuard, lock};
use super::threads::{self, ColdRead};
use super::trace::trace_event;
use super::transfers::{LeadershipTransfer, Transfers};
use crate::action::{Action, Actions, RoleKind, Write};
use crate::config::RaftConfig;
use crate::error::{ConfigError, StepError};
use crate::event::Event;
use crate::log::{LogView, SharedLog};
use crate::membership::Membership;
use crate::message::Envelope;
use crate::protocol::Protocol;
use crate::ticker::Ticker;
use crate::transport::RaftTransport;
use crate::types::{EntryId, Identity, NodeId, Term};
use bytes::Bytes;
use std::collections::VecDeque;
use std::format;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::string::{String, ToString};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::vec::Vec;

/// How many role changes a watch may lag behind.
const ROLE_CHANGES_MAX: usize = 1024;

/// What a proposal ends with.
pub(super) type Answer<R> = Result<Applied<R>, RequestError>;
pub(super) type Completer<R> = slot::Completer<EntryId, Answer<R>>;
/// A proposer and what it is told.
pub(super) type Settled<R> = (Completer<R>, Answer<R>);
/// The proposer's side of an open proposal.
pub(super) type Waiting<R> = Completion<EntryId, Answer<R>>;

/// A node as its handle sees it, whatever its log and transport are.
pub(super) trait Handle<M: StateMachine>: Send + Sync {
    fn id(&self) -> NodeId;
    fn key(&self) -> NodeKey;
    fn propose(&self, command: Bytes) -> Result<Waiting<M::Response>, RequestError>;
    fn propose_batch(&self, commands: Vec<Bytes>) -> Result<Vec<Waiting<M::Response>>, RequestError>;
    fn read(&self, read: BoxedRead<M>, way: ReadWay) -> Result<(), RequestError>;
    fn stale_read(&self, read: BoxedRead<M>) -> Result<(), RequestError>;
    fn transfer_leadership(&self, target: NodeId) -> LeadershipTransfer;
    fn change_membership(&self, wanted: Wanted, timeout: Duration) -> MembershipChange;
    fn snapshot(&self, requester: Requester) -> Result<(), TakeSnapshotError>;
    fn backup_source(&self) -> super::backups::Source;
    fn why_closed(&self) -> RequestError;
    fn status(&self) -> Status;
    fn watch(&self) -> Reader<RoleChange>;
    fn wait_for(
        &self,
        deadline: Option<Instant>,
        predicate: &mut dyn FnMut(&Status) -> bool,
    ) -> Result<Status, WaitError>;
    fn shutdown(self: Arc<Self>);
}

/// Whether the node works. Only grows.
pub(super) mod life {
    /// It works.
    pub(in super::super) const RUNNING: u8 = 0;
    /// It is shut down: queued writes still reach the log, nothing else happens.
    pub(in super::super) const STOPPED: u8 = 1;
    /// It stopped for good: nothing happens.
    pub(in super::super) const FATAL: u8 = 2;
}

/// One running node.
pub(super) struct Node<M: StateMachine, L: SharedLog, T: RaftTransport> {
    pub(super) id: NodeId,
    pub(super) key: NodeKey,
    /// Whose log it is.
    pub(super) log_identity: Identity,
    /// Panics of code that is not ours, which the node survived.
    pub(super) panics: Panics,
    pub(super) tick: Duration,
    pub(super) election_ticks: u32,
    pub(super) command_bytes_max: usize,
    pub(super) uncommitted_bytes_max: usize,
    /// The most appends in flight to one follower, and their bytes.
    pub(super) inflight_max: (usize, usize),
    /// What the log stores in one write.
    pub(super) write_bytes_max: usize,
    pub(super) options: Foreign<DriverOptions>,
    pub(super) state: Mutex<State<M>>,
    /// Of `state`: wakes the ticker thread before its time.
    pub(super) tick_wake: Condvar,
    pub(super) view: Foreign<L::Reader>,
    pub(super) transport: Foreign<T>,
    pub(super) writes: Mailbox<Vec<Write>>,
    pub(super) applies: Mailbox<ApplyWork<M>>,
    pub(super) cold_reads: Mailbox<Vec<ColdRead>>,
    pub(super) snapshots: Mailbox<SnapshotWork>,
    /// What to fetch; a newer order replaces the one before.
    pub(super) fetches: Mailbox<Option<Order>>,
    /// There is a new order, or the node stops: for a fetch that pauses.
    pub(super) fetch_orders: Signal,
    /// What peers are fetching from here.
    pub(super) served: Served,
    /// How many who asked for a snapshot have no answer yet.
    pub(super) snapshot_requests: AtomicUsize,
    pub(super) roles: FeedArc<Feed<RoleChange>>,
    /// Something in the status changed.
    pub(super) changed: Arc<Signal>,
    /// One of [`life`]; written under the lock of `state`.
    pub(super) life: AtomicU8,
    pub(super) lifecycle: Lifecycle,
    /// How many proposals have no answer yet.
    pub(super) open: AtomicUsize,
    /// How many reads have no answer yet, and what became of the others.
    pub(super) reads: ReadTally,
    /// The highest index that the state machine has applied.
    pub(super) applied_index: AtomicU64,
    pub(super) commands_applied: AtomicU64,
    pub(super) log_syncs: AtomicU64,
    /// Whether the log was short of space at its last sync.
    pub(super) log_short: AtomicBool,
    pub(super) cold_reads_done: AtomicU64,
    pub(super) cold_reads_dropped: AtomicU64,
}

/// What the one lock guards.
pub(super) struct State<M: StateMachine> {
    /// No new proposals: the node drains.
    pub(super) draining: bool,
    /// Why the node stopped, if it did. Written once.
    pub(super) stopped: Option<StopReason>,
    pub(super) protocol: Protocol,
    pub(super) recording: Recording,
    pub(super) ticker: Ticker,
    actions: Actions,
    /// The term that this node leads, if it does.
    pub(super) leading: Option<Term>,
    /// Proposals that wait for the log to become idle, in order.
    pub(super) held: VecDeque<Held<M::Response>>,
    /// Their commands, in bytes.
    pub(super) held_bytes: usize,
    /// Proposals appended in the term that this node leads and not yet committed, in order.
    pub(super) appended: VecDeque<Appended<M::Response>>,
    /// Reads that the apply thread does not have yet.
    pub(super) reads: Reads<M>,
    /// How old the rounds are that a lease rests on.
    pub(super) leases: Leases,
    /// When each server was heard.
    pub(super) heard: Heard,
    /// What peers cannot be sent.
    pub(super) obstacles: Obstacles,
    /// Whether the log's disk works.
    pub(super) stall: Stall,
    /// The transfer of leadership that somebody waits for.
    pub(super) transfers: Transfers,
    /// The membership changes that somebody waits for.
    pub(super) changes: Changes,
    /// Whom the transport is to reach.
    pub(super) members: Members,
    pub(super) snapshots: SnapshotState,
    /// Answers that go out as soon as the lock is released: waking runs the user's code.
    pub(super) answers: Vec<Settled<M::Response>>,
    /// Messages that go out as soon as the lock is released.
    pub(super) outbox: Vec<Envelope>,
    /// An empty buffer that takes turns with `outbox`.
    pub(super) spare: Vec<Envelope>,
    /// A thread is sending: it takes along what the outbox receives meanwhile.
    pub(super) sending: bool,
    /// The ticker thread is to send.
    pub(super) handover: bool,
    pub(super) wake_log: bool,
    pub(super) wake_apply: bool,
    pub(super) wake_reader: bool,
    pub(super) wake_fetch: bool,
    pub(super) changed: bool,
    pub(super) counters: Counters,
}

/// Builds the node, lets the transport deliver, starts the threads.
pub(super) fn start<M, L, T>(
    config: &RaftConfig,
    options: DriverOptions,
    mut log: L,
    transport: T,
    mut machine: M,
) -> Result<Arc<dyn Handle<M>>, StartError>
where
    M: StateMachine,
    L: SharedLog,
    T: RaftTransport,
{
    let mut problems = config.problems();
    problems.extend(options.problems());
    let carries = starting(CodePlace::TransportStart, || transport.limits())?;
    let write_bytes_max = starting(CodePlace::LogAppend, || log.write_bytes_max())?;
    problems.extend(config.log_problems(write_bytes_max));
    problems.extend(limits::problems(config, &carries));
    let addresses = || identities::address_problems(config, &options, &transport);
    problems.extend(starting(CodePlace::TransportStart, addresses)?);
    if !problems.is_empty() {
        return Err(ConfigError { problems }.into());
    }
    let ids = starting(CodePlace::LogView, || log.identity())?;
    identities::check(config, &options, ids, starting(CodePlace::TransportStart, || transport.identity())?)?;
    let config = &limits::within(config, &carries);
    let (config, overruled) = starting(CodePlace::LogAppend, || members::bootstrap(config, &mut log))??;
    let config =
        &RaftConfig { history: config.history.or_else(|| Some(members::draw_history())), ..config.into_owned() };
    let view = starting(CodePlace::LogAppend, || log.reader())?;
    let protocol = starting(CodePlace::LogView, || Protocol::new(config, &view))??;
    let snapshot = starting(CodePlace::LogView, || view.snapshot())?;
    let restored = starting(CodePlace::StoreOpen, || snapshots::restore_at_start(&options, &view, &mut machine));
    let begins_with = SnapshotState::new(snapshot, restored??);
    let identity = starting(CodePlace::LogView, || log.lives().zip(log.peer_memory()))?;
    let recording = starting(CodePlace::LogView, || Recording::start::<L>(&options, config, &protocol, &view))?;
    // From here on the transport serves this node, and is shut down with it.
    starting(CodePlace::TransportStart, || transport.attach(options.group))??;
    let changed = Arc::new(Signal::new());
    let node: Arc<Node<M, L, T>> = Arc::new(Node {
        id: config.id,
        key: NodeKey::new(),
        log_identity: ids,
        panics: Panics::new(config.id, Arc::clone(&changed)),
        tick: config.tick,
        election_ticks: config.election_ticks,
        command_bytes_max: config.command_bytes_max,
        uncommitted_bytes_max: config.uncommitted_bytes_max,
        inflight_max: (config.inflight_messages_max, config.inflight_bytes_max),
        write_bytes_max,
        options: Foreign::new(options),
        state: Mutex::new(State::new(config, protocol, recording, begins_with, overruled)),
        tick_wake: Condvar::new(),
        view: Foreign::new(view),
        transport: Foreign::new(transport),
        writes: Mailbox::new(),
        applies: Mailbox::new(),
        cold_reads: Mailbox::new(),
        snapshots: Mailbox::new(),
        fetches: Mailbox::new(),
        fetch_orders: Signal::new(),
        served: Served::new(),
        snapshot_requests: AtomicUsize::new(0),
        roles: FeedArc::new(Feed::new(ROLE_CHANGES_MAX)),
        changed,
        life: AtomicU8::new(life::RUNNING),
        lifecycle: Lifecycle::new(),
        open: AtomicUsize::new(0),
        reads: ReadTally::new(),
        applied_index: AtomicU64::new(snapshot.index.0),
        commands_applied: AtomicU64::new(0),
        log_syncs: AtomicU64::new(0),
        log_short: AtomicBool::new(false),
        cold_reads_done: AtomicU64::new(0),
        cold_reads_dropped: AtomicU64::new(0),
    });
    let first = lock(&node.state).protocol_role();
    node.roles.publish(first);
    let introduced = identity.map_or(Ok(()), |(lives, memory)| {
        starting(CodePlace::TransportStart, || node.transport.introduce(&lives, &memory))
    });
    let started = introduced.and_then(|()| {
        starting(CodePlace::TransportMembers, || node.introduce_members())?;
        starting(CodePlace::TransportStart, || threads::deliver(&node))??;
        threads::spawn(&node, log, machine, snapshot)
    });
    match started {
        Ok(()) => Ok(node),
        Err(error) => {
            node.undo_start();
            Err(error)
        }
    }
}

/// Runs what is not ours while nothing else runs yet.
fn starting<R>(place: CodePlace, run: impl FnOnce() -> R) -> Result<R, StartError> {
    contain(run).map_err(|message| StartError::Panicked { place, message })
}

impl<M: StateMachine> State<M> {
    fn new(
        config: &RaftConfig,
        protocol: Protocol,
        recording: Recording,
        snapshots: SnapshotState,
        overruled: Option<Arc<Membership>>,
    ) -> Self {
        let mut reads = Reads::new();
        reads.through = snapshots.durable.index;
        let members = Members::new(overruled, &protocol);
        Self {
            draining: false,
            stopped: None,
            protocol,
            recording,
            ticker: Ticker::new(config),
            actions: Actions::new(),
            leading: None,
            held: VecDeque::new(),
            held_bytes: 0,
            appended: VecDeque::new(),
            reads,
            leases: Leases::new(config),
            heard: Heard::default(),
            obstacles: Obstacles::default(),
            stall: Stall::default(),
            transfers: Transfers::new(),
            changes: Changes::new(),
            members,
            snapshots,
            answers: Vec::new(),
            outbox: Vec::new(),
            spare: Vec::new(),
            sending: false,
            handover: false,
            wake_log: false,
            wake_apply: false,
            wake_reader: false,
            wake_fetch: false,
            changed: false,
            counters: Counters::default(),
        }
    }

    fn protocol_role(&self) -> RoleChange {
        let Self { protocol, .. } = self;
        RoleChange { role: protocol.role().into(), term: protocol.term(), leader: protocol.leader(), stopped: None }
    }

    /// Why the node stopped for good, if it did.
    pub(super) fn fatal(&self) -> Option<String> {
        self.stopped.as_ref().filter(|reason| reason.is_fatal()).map(ToString::to_string)
    }

    pub(super) fn has_to_send(&self) -> bool {
        !self.outbox.is_empty() || self.members.is_due()
    }

    /// Every proposal in this node's log that is not committed: its fate is open.
    pub(super) fn answer_appended(&mut self, reason: UnknownReason) {
        for Appended { id, completer } in self.appended.drain(..) {
            self.answers.push((completer, Err(RequestError::OutcomeUnknown { id, reason })));
        }
    }

    /// Every proposal that is in no log.
    pub(super) fn answer_held(&mut self, error: &RequestError) {
        self.held_bytes = 0;
        for held in self.held.drain(..) {
            self.counters.commands_refused += held.len() as u64;
            self.answers.extend(held.into_completers().map(|completer| (completer, Err(error.clone()))));
        }
    }
}

pub(super) type Guard<'a, M> = MutexGuard<'a, State<M>>;

impl<M: StateMachine, L: SharedLog, T: RaftTransport> Node<M, L, T> {
    pub(super) fn is_running(&self) -> bool {
        self.life.load(Ordering::Acquire) == life::RUNNING
    }

    pub(super) fn is_fatal(&self) -> bool {
        self.life.load(Ordering::Acquire) == life::FATAL
    }

    /// Steps the protocol on this thread and carries its actions out.
    pub(super) fn step_event(&self, event: Event) {
        let mut state = lock(&self.state);
        // Only proposals, reads, transfers and snapshots are refused, and those have roads of their own.
        let _ = self.step(&mut state, event);
        self.release(state);
    }

    /// Steps the protocol. Gives the id of the first command if this appended any.
    pub(super) fn step(&self, state: &mut State<M>, event: Event) -> Result<Option<EntryId>, StepError> {
        if !self.is_running() {
            return Ok(None);
        }
        let persisted = matches!(event, Event::Persisted { .. });
        // A follower's leader is gone, though nobody may follow it.
        state.reads.leader_lost |= matches!(event, Event::MinimumElectionTimeout) && state.leading.is_none();
        let State { protocol, actions, recording, .. } = state;
        let input = recording.input(&event);
        let view = Asked::new(&*self.view);
        match catch_unwind(AssertUnwindSafe(|| protocol.step(&view, event, actions))) {
            Ok(Ok(())) => {}
            Ok(Err(
                error @ (StepError::Propose(_)
                | StepError::Read(_)
                | StepError::Transfer(_)
                | StepError::Snapshot(_)
                | StepError::Change(_)),
            )) => {
                return Err(error);
            }
            Ok(Err(error)) => {
                let message = format!("the driver broke the protocol's contract: {error}");
                self.fail(state, StopReason::Internal { message });
                return Ok(None);
            }
            Err(panic) if view.panicked() => {
                self.fail_at(state, CodePlace::LogView, panic_message(panic));
                return Ok(None);
            }
            Err(panic) => {
                let message = format!("an invariant of the protocol is broken: {}", panic_message(panic));
                self.fail(state, StopReason::Internal { message });
                return Ok(None);
            }
        }
        // Before anything of it leaves: what others see of this node, its trace tells.
        recording.step(input, protocol, actions);
        let first = self.carry_out(state);
        if persisted || state.leading.is_none() {
            self.append_held(state);
        }
        self.note_members(state);
        self.advance_changes(state);
        Ok(first)
    }

    /// Queues each action where it belongs, in order.
    fn carry_out(&self, state: &mut State<M>) -> Option<EntryId> {
        let (mut first, mut lost) = (None, None);
        let mut actions = mem::take(&mut state.actions);
        state.members.record_history(&state.protocol, &mut actions);
        for action in actions.drain(..) {
            state.ticker.observe(&action);
            match action {
                Action::Persist(write) => {
                    state.counters.log_writes += 1;
                    state.wake_log |= self.writes.post(|writes| writes.push(write)) == Some(true);
                }
                Action::Send(envelope) => {
                    state.leases.observe(&envelope);
                    state.outbox.push(envelope);
                }
                Action::Proposed { first: id, .. } => first = Some(id),
                Action::Apply { through } => {
                    state.changed = true;
                    state.changes.due = true;
                    state.reads.through = through;
                    let State { appended, .. } = state;
                    let committed = appended.partition_point(|proposal| proposal.id.index <= through);
                    let post = self.applies.post(|work| {
                        work.through = through;
                        work.proposals.extend(appended.drain(..committed));
                    });
                    state.wake_apply |= post == Some(true);
                }
                Action::RoleChanged { role, term, leader } => self.change_role(state, role, term, leader),
                Action::SendFromLog { envelope, end, bytes_max } => {
                    self.queue_cold_read(state, ColdRead { envelope, end, bytes_max });
                }
                Action::LostAcknowledged { leader, term, acknowledged, durable } => {
                    lost = Some(StopReason::LostAcknowledged { leader, term, acknowledged, durable });
                }
                Action::PeerLostData { peer, acknowledged, durable } => {
                    self.note_loss(state, peer, acknowledged, durable);
                }
                Action::Misbehaved { peer, reason } => {
                    state.counters.messages_misbehaved += 1;
                    state.changed = true;
                    trace_event!(warn, node = self.id.0, peer = peer.0, "peer {reason}");
                    let _ = (peer, reason);
                }
                Action::FetchSnapshot { from, last } => self.order_fetch(state, Order { from, last }),
                Action::RestoreSnapshot { last } => {
                    state.changed = true;
                    state.reads.through = last.index;
                    let post = self.applies.post(|work| work.restore(last));
                    state.wake_apply |= post == Some(true);
                }
                Action::ReadReady { context, index } => state.reads.confirm(context, index),
                Action::ReadAborted { context } => {
                    let error = not_leader(state);
                    state.reads.abort(context, error);
                }
                Action::ResetElectionTimer => {}
                Action::MembershipChanged { index, membership } => {
                    trace_event!(info, node = self.id.0, index = index.0, "the configuration is: {membership}");
                    let _ = (index, membership);
                    state.changed = true;
                    state.changes.due = true;
                }
                Action::TransferBegun { .. } => state.changed = true,
                Action::TransferEnded { target } => {
                    trace_event!(info, node = self.id.0, target = target.0, "a transfer of leadership timed out");
                    state.changed = true;
                    state.changes.due = true;
                    state.transfers.ended(target);
                }
            }
        }
        state.actions = actions;
        self.settle_reads(state);
        if let Some(reason) = lost {
            self.fail(state, reason);
        }
        first
    }

    fn change_role(&self, state: &mut State<M>, role: RoleKind, term: Term, leader: Option<NodeId>) {
        trace_event!(info, node = self.id.0, role = role.name(), term = term.0, leader = leader.map(|id| id.0), "role");
        state.changed = true;
        state.changes.due = true;
        state.counters.role_changes += 1;
        let leading = (role == RoleKind::Leader).then_some(term);
        if state.leading != leading {
            state.answer_appended(UnknownReason::LeadershipLost);
            state.leading = leading;
        }
        state.reads.leader_lost = true;
        state.transfers.role_changed(role, term, leader);
        self.roles.publish(RoleChange { role: role.into(), term, leader, stopped: None });
    }

    /// The node stops for good. Nothing is acknowledged, sent or written from here on.
    pub(super) fn fail(&self, state: &mut State<M>, stopped: StopReason) {
        if !self.is_running() {
            return;
        }
        let reason = stopped.to_string();
        trace_event!(error, node = self.id.0, reason = stopped.name(), "stopped for good: {reason}");
        self.life.store(life::FATAL, Ordering::SeqCst);
        state.transfers.abort(&LeadershipTransferError::Fatal { reason: reason.clone() });
        let change = MembershipChangeError::Fatal { reason: reason.clone() };
        state.changes.abort(UnknownReason::Fatal, &change);
        let error = RequestError::Fatal { reason: reason.clone() };
        state.answer_held(&error);
        state.reads.abort_all(&error);
        state.answer_appended(UnknownReason::Fatal);
        self.halt(state, stopped);
    }

    /// What is not ours panicked, and the node cannot do without it.
    pub(super) fn fail_at(&self, state: &mut State<M>, place: CodePlace, message: String) {
        self.fail(state, StopReason::Panicked { place, entry: None, message });
    }

    /// [`fail`](Self::fail) for threads that do not hold the lock.
    pub(super) fn fail_now(&self, reason: StopReason) {
        let mut state = lock(&self.state);
        self.fail(&mut state, reason);
        self.release(state);
    }

    /// Nothing happens any more: says so to whoever watches, and closes what threads wait for.
    pub(super) fn halt(&self, state: &mut State<M>, reason: StopReason) {
        let (role, term) = (NodeRole::Stopped, state.protocol.term());
        self.roles.publish(RoleChange { role, term, leader: None, stopped: Some(reason.clone()) });
        state.stopped = Some(reason);
        state.actions.clear();
        state.outbox.retain(loss::is_told_by);
        state.members.forget();
        state.recording.flush();
        state.changed = true;
        let error = why_not_taken(state);
        state.snapshots.refuse_all(&error);
        state.snapshots.fetch = None;
        state.wake_fetch = true;
        self.writes.close();
        self.applies.close();
        self.cold_reads.close();
        self.snapshots.close();
        self.fetches.close();
        self.roles.close();
        self.tick_wake.notify_all();
    }
}
