//! The road of a leadership transfer: from the request to the leader that follows.
//!
//! Dissertation §3.10. A transfer waits in three places, one after the other: for its target to be
//! ready, while proposals go on; for the target to take over, while they are refused; once this node
//! leads no more, for word of the next leader. Each has its end: the first and the last by the
//! ticks that are counted here, the second by the protocol's own timeout.

use super::contain::CodePlace;
use super::error::{LeaderHint, LeadershipTransferError};
use super::inside::NodeKey;
use super::node::{Node, State};
use super::raft::{StateMachine, deadline, now};
use super::slot::{self, Completer, Completion, Outcome};
use super::sync::lock;
use crate::action::RoleKind;
use crate::error::{StepError, TransferError};
use crate::event::Event;
use crate::log::SharedLog;
use crate::protocol::{Progress, ProgressState, Protocol};
use crate::transport::RaftTransport;
use crate::types::{NodeId, Term};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use std::vec::Vec;

/// How many minimum election timeouts the next leader is waited for. An election that fails is
/// repeated after less than two.
const ELECTIONS_WAITED: u32 = 4;

type Answer = Result<Term, LeadershipTransferError>;
/// Who waits for a transfer, and what is said to them.
pub(super) type SettledTransfer = (Vec<Completer<(), Answer>>, Answer);

/// The transfer that somebody waits for: there is one at a time.
pub(super) struct Transfers {
    open: Option<OpenTransfer>,
    /// They are answered as soon as the lock is released.
    pub(super) settled: Vec<SettledTransfer>,
}

struct OpenTransfer {
    target: NodeId,
    stage: Stage,
    /// How long it has been in its stage.
    ticks: u32,
    waiters: Vec<Completer<(), Answer>>,
}

#[derive(Clone, Copy)]
enum Stage {
    /// The target is not ready, and this is why: the protocol is asked again with each tick.
    Waiting(TransferError),
    /// The leader of this term hands over.
    Begun(Term),
    /// It leads no more, and who does is not known yet.
    Left(Term),
}

impl Transfers {
    pub(super) const fn new() -> Self {
        Self { open: None, settled: Vec::new() }
    }

    fn enter(&mut self, stage: Stage) {
        if let Some(open) = &mut self.open {
            (open.stage, open.ticks) = (stage, 0);
        }
    }

    fn settle(&mut self, answer: Answer) {
        self.settled.extend(self.open.take().map(|open| (open.waiters, answer)));
    }

    /// The protocol gave up on the target and leads on.
    pub(super) fn ended(&mut self, target: NodeId) {
        if let Some(OpenTransfer { stage: Stage::Begun(term), .. }) = self.open {
            self.settle(Err(LeadershipTransferError::TimedOut { target, term }));
        }
    }

    /// The node's role, term or leader changed.
    pub(super) fn role_changed(&mut self, role: RoleKind, term: Term, leader: Option<NodeId>) {
        let Some(open) = &self.open else { return };
        let hint = |id| LeaderHint { id, client_address: None };
        match (open.stage, leader) {
            (Stage::Waiting(_), _) if role == RoleKind::Leader => {}
            (_, Some(leader)) if leader == open.target => self.settle(Ok(term)),
            (Stage::Waiting(_), _) => {
                self.settle(Err(LeadershipTransferError::NotLeader { leader: leader.map(hint), term }));
            }
            (Stage::Begun(_) | Stage::Left(_), Some(leader)) => {
                self.settle(Err(LeadershipTransferError::OtherLeader { leader: hint(leader), term }));
            }
            (Stage::Begun(led), None) => self.enter(Stage::Left(led)),
            (Stage::Left(_), None) => {}
        }
    }

    /// Nothing of this will be answered here.
    pub(super) fn abort(&mut self, error: &LeadershipTransferError) {
        self.settle(Err(error.clone()));
    }
}

impl<M: StateMachine, L: SharedLog, T: RaftTransport> Node<M, L, T> {
    /// Begins a transfer, or joins the one to the same target.
    pub(super) fn begin_transfer(&self, target: NodeId) -> LeadershipTransfer {
        let mut state = lock(&self.state);
        let joined = self.admit_transfer(&mut state, target);
        self.release(state);
        let stage = match joined {
            Ok(completion) => TransferStage::Open(completion),
            Err(mut answer) => {
                self.name_next_leader(&mut answer);
                TransferStage::Ready(Some(answer))
            }
        };
        LeadershipTransfer { node: self.key, stage }
    }

    fn admit_transfer(&self, state: &mut State<M>, target: NodeId) -> Result<Completion<(), Answer>, Answer> {
        if let Some(reason) = state.fatal() {
            return Err(Err(LeadershipTransferError::Fatal { reason }));
        }
        if state.draining {
            return Err(Err(LeadershipTransferError::Shutdown));
        }
        match &state.transfers.open {
            Some(open) if open.target != target => {
                return Err(Err(TransferError::InProgress { target: open.target }.into()));
            }
            Some(_) => {}
            None => {
                let stage = self.ask_for_transfer(state, target)?;
                state.transfers.open = Some(OpenTransfer { target, stage, ticks: 0, waiters: Vec::new() });
            }
        }
        let (completer, completion) = slot::slot();
        if let Some(open) = &mut state.transfers.open {
            // Who gave up leaves no trace, however often callers come back.
            open.waiters.retain(|waiter| !waiter.is_cancelled());
            open.waiters.push(completer);
        }
        Ok(completion)
    }

    /// What the protocol makes of it, unless that is the end of it.
    fn ask_for_transfer(&self, state: &mut State<M>, target: NodeId) -> Result<Stage, Answer> {
        match self.step(state, Event::TransferLeadership { target }) {
            // The step broke down, and nothing of it left the node.
            _ if !self.is_running() => Err(Err(closed(state))),
            Err(StepError::Transfer(TransferError::AlreadyLeads { term })) => Err(Ok(term)),
            Err(StepError::Transfer(
                error @ (TransferError::TargetSilent { .. } | TransferError::TargetBehind { .. }),
            )) => Ok(Stage::Waiting(error)),
            Err(StepError::Transfer(error)) => Err(Err(error.into())),
            Ok(_) | Err(_) => Ok(Stage::Begun(state.protocol.term())),
        }
    }

    /// A tick passed.
    pub(super) fn tick_transfers(&self, state: &mut State<M>) {
        let Some(open) = &mut state.transfers.open else { return };
        open.ticks += 1;
        let (target, stage, ticks) = (open.target, open.stage, open.ticks);
        match stage {
            Stage::Waiting(error) => {
                open.waiters.retain(|waiter| !waiter.is_cancelled());
                if open.waiters.is_empty() || ticks >= self.election_ticks {
                    return state.transfers.settle(Err(error.into()));
                }
                match self.ask_for_transfer(state, target) {
                    Ok(Stage::Waiting(error)) => {
                        if let Some(open) = &mut state.transfers.open {
                            open.stage = Stage::Waiting(error);
                        }
                    }
                    Ok(begun) => state.transfers.enter(begun),
                    Err(answer) => state.transfers.settle(answer),
                }
            }
            Stage::Left(term) if ticks >= ELECTIONS_WAITED * self.election_ticks => {
                state.transfers.settle(Err(LeadershipTransferError::NextLeaderUnknown { term }));
            }
            Stage::Begun(_) | Stage::Left(_) => {}
        }
    }

    /// Answers, without the lock: first all of them, then the wake-ups.
    pub(super) fn answer_transfers(&self, settled: Vec<SettledTransfer>) {
        let mut wakes = Vec::new();
        for (waiters, mut answer) in settled {
            self.name_next_leader(&mut answer);
            wakes.extend(waiters.into_iter().filter_map(|waiter| {
                self.panics.survive(CodePlace::AnswerDrop, || waiter.complete(answer.clone())).flatten()
            }));
        }
        self.wake_all(wakes);
    }

    /// Adds the leader's address to an answer that names a leader. Not under the lock: it asks the
    /// transport.
    fn name_next_leader(&self, answer: &mut Answer) {
        if let Err(
            LeadershipTransferError::NotLeader { leader: Some(leader), .. }
            | LeadershipTransferError::OtherLeader { leader, .. },
        ) = answer
        {
            leader.client_address = self.client_address(leader.id);
        }
    }

    /// A node that stops and leads has the follower that holds most take over, so that the others
    /// need not wait for an election timeout. Takes two of those at most.
    pub(super) fn hand_over(&self, until: Option<Instant>) {
        let longest = Instant::now().checked_add(self.tick * (2 * self.election_ticks));
        let until = [until, longest].into_iter().flatten().min();
        let mut state = lock(&self.state);
        let term = state.protocol.term();
        let target = successor(&state.protocol);
        let begun = target.map(|target| self.step(&mut state, Event::TransferLeadership { target }));
        self.release(state);
        // Refused, it is too far behind or gone: there is nobody to tell.
        if !matches!(begun, Some(Ok(_))) {
            return;
        }
        self.changed.wait_until(until, || {
            let state = lock(&self.state);
            // In its term it leads and hands over, or does neither any more. In a later one this node is
            // needed until the next leader is known, for that may need its vote.
            let over = if state.protocol.term() == term {
                state.protocol.transfer_target().is_none()
            } else {
                state.protocol.leader().is_some()
            };
            (over || !self.is_running()).then_some(())
        });
    }
}

/// Of the followers that answer and have a vote, the one that holds most.
fn successor(protocol: &Protocol) -> Option<NodeId> {
    let membership = protocol.membership();
    let ready = |peer: &Progress| peer.active && peer.state == ProgressState::Replicate;
    let answering = protocol.progress().filter(|(id, peer)| membership.is_voter(*id) && ready(peer));
    answering.max_by_key(|(id, peer)| (peer.match_index, core::cmp::Reverse(*id))).map(|(id, _)| id)
}

fn closed<M: StateMachine>(state: &State<M>) -> LeadershipTransferError {
    state.fatal().map_or(LeadershipTransferError::Shutdown, |reason| LeadershipTransferError::Fatal { reason })
}

/// A leadership transfer under way. Await it, or [`wait`](Self::wait) for it; a dropped one goes its
/// way without a witness.
#[must_use = "the outcome is known only here"]
pub struct LeadershipTransfer {
    node: NodeKey,
    stage: TransferStage,
}

enum TransferStage {
    Ready(Option<Answer>),
    Open(Completion<(), Answer>),
}

impl LeadershipTransfer {
    /// Waits for at most `timeout` until the target leads. The term that it leads.
    ///
    /// # Errors
    /// [`LeadershipTransferError`]; of them [`LeadershipTransferError::DeadlineExceeded`] when the
    /// time is over.
    pub fn wait(self, timeout: Duration) -> Result<Term, LeadershipTransferError> {
        match self.stage {
            TransferStage::Ready(answer) => answer.unwrap_or(Err(LeadershipTransferError::Shutdown)),
            TransferStage::Open(completion) if self.node.would_wait_for_itself(timeout) => match completion.wait(now())
            {
                Outcome::Expired(_) => Err(LeadershipTransferError::CalledFromWithin),
                outcome => settle(outcome),
            },
            TransferStage::Open(completion) => settle(completion.wait(deadline(timeout))),
        }
    }
}

impl Future for LeadershipTransfer {
    type Output = Result<Term, LeadershipTransferError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.stage {
            TransferStage::Ready(answer) => {
                Poll::Ready(answer.take().unwrap_or(Err(LeadershipTransferError::Shutdown)))
            }
            TransferStage::Open(completion) => completion.poll(context).map(settle),
        }
    }
}

fn settle(outcome: Outcome<(), Answer>) -> Answer {
    match outcome {
        Outcome::Done(answer) => answer,
        Outcome::Expired(_) => Err(LeadershipTransferError::DeadlineExceeded),
        Outcome::Abandoned(_) => Err(LeadershipTransferError::Shutdown),
    }
}

impl fmt::Debug for LeadershipTransfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeadershipTransfer").finish_non_exhaustive()
    }
}
