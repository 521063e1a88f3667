//! The road of a membership change: from the request to the configuration that is committed.
//!
//! Dissertation §4. A request says what is wanted and not which configuration: that follows from the one in force at the
//! moment when the protocol takes the change, under the lock, so that two requests never lose each other's. Until then the
//! request waits: for the change before it, for the leader's first commit, for a learner that catches up. Once its
//! configuration is in the log it waits for the commit; of a joint one, for that of the one that follows; of a learner that is
//! to become a voter by itself, for its vote. Each request has one end, by its deadline at the latest, which the ticker keeps.

use super::contain::{CodePlace, contain};
use super::error::{LeaderHint, MembershipChangeError, UnknownReason};
use super::identities;
use super::inside::NodeKey;
use super::node::{Node, State};
use super::raft::{StateMachine, deadline, now};
use super::slot::{self, Completer, Completion, Outcome};
use super::sync::lock;
use crate::error::{ChangeError, StepError};
use crate::event::Event;
use crate::log::{LogView, SharedLog};
use crate::membership::Membership;
use crate::transport::RaftTransport;
use crate::types::{EntryId, NodeId, Term};
use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::string::{String, ToString};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use std::vec::Vec;

/// How many requests may be open at a time.
const CHANGES_MAX: usize = 1024;
/// For how many minimum election timeouts a lack of voters that answer is waited out: right after a quorum check, or an
/// election, nobody has answered yet.
const QUORUM_WAITED: u32 = 2;

type Answer = Result<Arc<Membership>, MembershipChangeError>;
/// Who waits for a change, and what is said to them.
pub(super) type SettledChange = (Completer<(), Answer>, Answer);

/// What somebody wants of the configuration. An empty address is none.
pub(super) enum Wanted {
    Learner { id: NodeId, address: String },
    Voter { id: NodeId, address: String },
    Promoted { id: NodeId },
    Demoted { id: NodeId },
    Removed { id: NodeId },
    Address { id: NodeId, address: String },
    Exactly(Membership),
}

impl Wanted {
    /// The configuration that has it, from the one in force.
    fn target(&self, present: &Membership) -> Result<Membership, MembershipChangeError> {
        let addressed = |membership: Membership, id: NodeId, address: &str| {
            if address.is_empty() { membership } else { membership.with_address(id, address) }
        };
        let member = |id: NodeId| {
            if present.contains(id) { Ok(present) } else { Err(MembershipChangeError::NotAMember { server: id }) }
        };
        Ok(match self {
            Self::Learner { id, .. } if present.is_voter(*id) => {
                return Err(MembershipChangeError::IsVoter { server: *id });
            }
            Self::Learner { id, address } => addressed(present.with_learner(*id), *id, address),
            Self::Voter { id, address } if present.is_voter(*id) => addressed(present.clone(), *id, address),
            Self::Voter { id, address } => addressed(present.with_promotion(*id), *id, address),
            Self::Promoted { id } => present.with_voter(*id),
            Self::Demoted { id } => member(*id)?.with_learner(*id),
            Self::Removed { id } => present.without(*id),
            Self::Address { id, address } => member(*id)?.with_address(*id, address.as_str()),
            // Who stays is where it is.
            Self::Exactly(target) => present.addresses().fold(target.without_history(), |target, (id, address)| {
                let keeps = target.contains(id) && target.address(id).is_none();
                if keeps { target.with_address(id, address) } else { target }
            }),
        })
    }

    /// Whom a committed configuration still has to give a vote, by itself.
    fn lacks_vote(&self, committed: &Membership) -> Option<NodeId> {
        match self {
            Self::Voter { id, .. } if !committed.is_voter(*id) => Some(*id),
            _ => None,
        }
    }
}

struct OpenChange {
    wanted: Wanted,
    deadline: Option<Instant>,
    stage: Stage,
    completer: Completer<(), Answer>,
}

enum Stage {
    /// Nothing is appended, and this is why: the protocol is asked again.
    Waiting(Option<ChangeError>),
    /// The leader of the term `led` has a configuration with what is wanted at `id`.
    Appended { id: EntryId, led: Term },
}

impl OpenChange {
    /// What is known of it when no more can be learnt.
    fn unknown(&self, reason: UnknownReason, otherwise: MembershipChangeError) -> MembershipChangeError {
        match self.stage {
            Stage::Waiting(_) => otherwise,
            Stage::Appended { id, .. } => MembershipChangeError::OutcomeUnknown { id, reason },
        }
    }

    fn expired(&self) -> MembershipChangeError {
        let (appended, refusal) = match self.stage {
            Stage::Waiting(refusal) => (None, refusal),
            Stage::Appended { id, .. } => (Some(id), None),
        };
        MembershipChangeError::DeadlineExceeded { appended, refusal }
    }
}

/// The changes that somebody waits for, in the order in which they came.
pub(super) struct Changes {
    open: Vec<OpenChange>,
    /// Something happened that a change may have waited for.
    pub(super) due: bool,
    /// They are being looked at: a step in the middle of it does not look again.
    advancing: bool,
    /// Ticks since voters that would be too few began to be waited for.
    quorum_ticks: u32,
    /// They are answered as soon as the lock is released.
    pub(super) settled: Vec<SettledChange>,
}

impl Changes {
    pub(super) const fn new() -> Self {
        Self { open: Vec::new(), due: false, advancing: false, quorum_ticks: 0, settled: Vec::new() }
    }

    pub(super) fn open(&self) -> usize {
        self.open.len()
    }

    /// What the first one that is not in the log waits for.
    pub(super) fn refusal(&self) -> Option<ChangeError> {
        self.open.iter().find_map(|change| if let Stage::Waiting(refusal) = change.stage { refusal } else { None })
    }

    fn settle(&mut self, change: OpenChange, answer: Answer) {
        self.settled.push((change.completer, answer));
    }

    /// Nothing of this will be answered here.
    pub(super) fn abort(&mut self, reason: UnknownReason, error: &MembershipChangeError) {
        for change in mem::take(&mut self.open) {
            let error = change.unknown(reason, error.clone());
            self.settle(change, Err(error));
        }
    }
}

impl<M: StateMachine, L: SharedLog, T: RaftTransport> Node<M, L, T> {
    /// Takes a request.
    pub(super) fn begin_change(&self, wanted: Wanted, timeout: Duration) -> MembershipChange {
        if let Err(error) = self.check_addresses(&wanted) {
            return MembershipChange { node: self.key, stage: ChangeStage::Ready(Some(Err(error))) };
        }
        let mut state = lock(&self.state);
        let refused = match state.fatal() {
            Some(reason) => Some(MembershipChangeError::Fatal { reason }),
            None if state.draining => Some(MembershipChangeError::Shutdown),
            None if state.changes.open() >= CHANGES_MAX => Some(MembershipChangeError::Overloaded { max: CHANGES_MAX }),
            None => None,
        };
        if let Some(error) = refused {
            return MembershipChange { node: self.key, stage: ChangeStage::Ready(Some(Err(error))) };
        }
        let (completer, completion) = slot::slot();
        let stage = Stage::Waiting(None);
        state.changes.open.push(OpenChange { wanted, deadline: deadline(timeout), stage, completer });
        state.changes.due = true;
        state.changed = true;
        self.advance_changes(&mut state);
        self.release(state);
        MembershipChange { node: self.key, stage: ChangeStage::Open(completion) }
    }

    /// Asks the transport, which is the user's code, whether somebody can be there. Not under the lock.
    fn check_addresses(&self, wanted: &Wanted) -> Result<(), MembershipChangeError> {
        let check = |server: NodeId, address: &str| {
            let ask = || self.transport.check_address(server, address);
            // After a panic nothing is known against the address.
            let checked = self.panics.survive(CodePlace::TransportAddress, ask).unwrap_or(Ok(()));
            checked.map_err(|reason| MembershipChangeError::Address { server, address: address.to_string(), reason })
        };
        match wanted {
            Wanted::Learner { id, address } | Wanted::Voter { id, address } if !address.is_empty() => {
                check(*id, address)
            }
            Wanted::Address { id, address } => check(*id, address),
            Wanted::Exactly(target) => target.addresses().try_for_each(|(id, address)| check(id, address)),
            _ => Ok(()),
        }
    }

    /// A server was added that has no vote yet, and what it lacks.
    fn vote_pending(&self, state: &State<M>, change: &OpenChange) -> Option<MembershipChangeError> {
        let Stage::Appended { id, .. } = change.stage else { return None };
        let (index, committed) = state.protocol.committed_membership();
        let server = change.wanted.lacks_vote(committed).filter(|server| committed.promoting().contains(server))?;
        let (_, progress) = state.protocol.progress().find(|(peer, _)| *peer == server)?;
        (index >= id.index).then(|| MembershipChangeError::VotePending {
            server,
            membership: Arc::new(committed.without_history()),
            answers: progress.active,
            match_index: progress.match_index,
            last_index: state.protocol.last().index,
            held_up: self.held_up(state, server, progress),
        })
    }

    /// Looks which changes are done, and whether others can begin.
    #[inline]
    pub(super) fn advance_changes(&self, state: &mut State<M>) {
        if !state.changes.open.is_empty() && !state.changes.advancing {
            self.advance_open_changes(state);
        }
    }

    #[cold]
    fn advance_open_changes(&self, state: &mut State<M>) {
        state.changes.advancing = true;
        loop {
            let due = mem::take(&mut state.changes.due);
            for mut change in mem::take(&mut state.changes.open) {
                let answer = match change.stage {
                    Stage::Appended { id, led } => self.look_at_appended(state, &change.wanted, id, led),
                    Stage::Waiting(_) if due => self.try_change(state, &mut change),
                    Stage::Waiting(_) => None,
                };
                match answer {
                    Some(answer) => state.changes.settle(change, answer),
                    None => state.changes.open.push(change),
                }
            }
            if !state.changes.due || state.changes.open.is_empty() {
                break;
            }
        }
        state.changes.advancing = false;
        if !self.is_running() {
            // The node stopped in the middle of it.
            let error = closed(state);
            state.changes.abort(UnknownReason::Fatal, &error);
        }
    }

    /// Whether what is in the log is committed by now; `None` as long as that is open.
    fn look_at_appended(&self, state: &mut State<M>, wanted: &Wanted, id: EntryId, led: Term) -> Option<Answer> {
        if state.leading != Some(led) {
            let reason = UnknownReason::LeadershipLost;
            return Some(Err(MembershipChangeError::OutcomeUnknown { id, reason }));
        }
        let (index, committed) = state.protocol.committed_membership();
        // A joint configuration is followed by the one that was wanted.
        if index < id.index || committed.is_joint() {
            return None;
        }
        match wanted.lacks_vote(committed) {
            Some(server) if committed.promoting().contains(&server) => None,
            Some(_) => {
                let membership = Arc::new(committed.without_history());
                Some(Err(MembershipChangeError::Overtaken { membership }))
            }
            None => Some(Ok(Arc::new(committed.without_history()))),
        }
    }

    /// Asks the protocol for it.
    fn try_change(&self, state: &mut State<M>, change: &mut OpenChange) -> Option<Answer> {
        let Some(led) = state.leading else { return Some(Err(not_leading(state))) };
        let present = state.protocol.membership().settled();
        let target = change.wanted.target(&present).and_then(|target| {
            identities::check_change(&present, &target, &self.options)?;
            Ok(Arc::new(target))
        });
        let target = match target {
            Ok(target) => target,
            Err(error) => return Some(Err(error)),
        };
        let refusal = match self.step(state, Event::ChangeMembership { target }) {
            _ if !self.is_running() => return Some(Err(closed(state))),
            Err(StepError::Change(refusal)) => refusal,
            Ok(_) | Err(_) => {
                let index = state.protocol.membership_index();
                // Found in force already, it may be of an earlier term; what is being written is of this one.
                let term = match contain(|| self.view.term(index)) {
                    Ok(term) => term.unwrap_or(led),
                    Err(message) => {
                        self.fail_at(state, CodePlace::LogView, message);
                        return Some(Err(closed(state)));
                    }
                };
                let id = EntryId { index, term };
                change.stage = Stage::Appended { id, led };
                return self.look_at_appended(state, &change.wanted, id, led);
            }
        };
        let quorum_waited = state.changes.quorum_ticks >= QUORUM_WAITED * self.election_ticks;
        match refusal {
            ChangeError::InProgress { .. }
            | ChangeError::TermNotCommitted { .. }
            | ChangeError::LearnerSilent { .. }
            | ChangeError::LearnerBehind { .. }
            | ChangeError::TransferInProgress { .. } => {}
            ChangeError::WouldLoseQuorum { .. } if !quorum_waited => {}
            ChangeError::NotLeader { .. } => return Some(Err(not_leading(state))),
            refusal => return Some(Err(MembershipChangeError::Refused(refusal))),
        }
        change.stage = Stage::Waiting(Some(refusal));
        None
    }

    /// A tick passed.
    pub(super) fn tick_changes(&self, state: &mut State<M>) {
        if state.changes.open.is_empty() {
            state.changes.quorum_ticks = 0;
            return;
        }
        let lacks_quorum =
            |change: &OpenChange| matches!(change.stage, Stage::Waiting(Some(ChangeError::WouldLoseQuorum { .. })));
        let waits = state.changes.open.iter().any(lacks_quorum);
        state.changes.quorum_ticks = if waits { state.changes.quorum_ticks + 1 } else { 0 };
        state.changes.due = true;
        self.advance_changes(state);
        let now = Instant::now();
        for change in mem::take(&mut state.changes.open) {
            if change.deadline.is_some_and(|deadline| deadline <= now) {
                let error = self.vote_pending(state, &change).unwrap_or_else(|| change.expired());
                state.changes.settle(change, Err(error));
            } else {
                state.changes.open.push(change);
            }
        }
    }

    /// Answers, without the lock: first all of them, then the wake-ups.
    pub(super) fn answer_changes(&self, settled: Vec<SettledChange>) {
        let mut wakes = Vec::new();
        for (completer, mut answer) in settled {
            if let Err(MembershipChangeError::NotLeader { leader: Some(leader), .. }) = &mut answer {
                leader.client_address = self.client_address(leader.id);
            }
            if let Err(MembershipChangeError::VotePending { server, held_up, .. }) = &mut answer {
                self.explain(*server, held_up);
            }
            wakes.extend(self.panics.survive(CodePlace::AnswerDrop, || completer.complete(answer)).flatten());
        }
        self.wake_all(wakes);
    }
}

fn not_leading<M: StateMachine>(state: &State<M>) -> MembershipChangeError {
    // The address is looked up when the lock is released.
    let leader = state.protocol.leader().map(|id| LeaderHint { id, client_address: None });
    MembershipChangeError::NotLeader { leader, term: state.protocol.term() }
}

fn closed<M: StateMachine>(state: &State<M>) -> MembershipChangeError {
    state.fatal().map_or(MembershipChangeError::Shutdown, |reason| MembershipChangeError::Fatal { reason })
}

/// A membership change under way. Await it, or [`wait`](Self::wait) for it; a dropped one goes its way without a witness,
/// until its deadline.
#[must_use = "the outcome is known only here"]
pub struct MembershipChange {
    node: NodeKey,
    stage: ChangeStage,
}

enum ChangeStage {
    Ready(Option<Answer>),
    Open(Completion<(), Answer>),
}

impl MembershipChange {
    /// Waits for the end of it, which its deadline bounds. The configuration that is committed with what was wanted.
    ///
    /// # Errors
    /// [`MembershipChangeError`].
    pub fn wait(self) -> Result<Arc<Membership>, MembershipChangeError> {
        match self.stage {
            ChangeStage::Ready(answer) => answer.unwrap_or(Err(MembershipChangeError::Shutdown)),
            ChangeStage::Open(completion) if self.node.is_entered() => match completion.wait(now()) {
                Outcome::Expired(_) => Err(MembershipChangeError::CalledFromWithin),
                outcome => settle(outcome),
            },
            ChangeStage::Open(completion) => settle(completion.wait(None)),
        }
    }
}

impl Future for MembershipChange {
    type Output = Result<Arc<Membership>, MembershipChangeError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.stage {
            ChangeStage::Ready(answer) => Poll::Ready(answer.take().unwrap_or(Err(MembershipChangeError::Shutdown))),
            ChangeStage::Open(completion) => completion.poll(context).map(settle),
        }
    }
}

fn settle(outcome: Outcome<(), Answer>) -> Answer {
    match outcome {
        Outcome::Done(answer) => answer,
        Outcome::Expired(_) | Outcome::Abandoned(_) => Err(MembershipChangeError::Shutdown),
    }
}

impl fmt::Debug for MembershipChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MembershipChange").finish_non_exhaustive()
    }
}
