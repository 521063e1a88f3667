//! The laws of reads, checked over a cluster's history: the checker's part for them.

use super::invariants::View;
use super::laws::{Checked, Law, check};
use super::membership_laws::is_quorum;
use crate::action::{Action, RoleKind};
use crate::message::{Envelope, Message};
use crate::types::{Index, NodeId, Term};
use std::collections::{BTreeMap, BTreeSet};
use std::format;

/// The reads that have no answer yet.
#[derive(Clone, Debug, Default)]
pub(super) struct ReadLaws {
    /// By reader and context.
    waiting: BTreeMap<(NodeId, u64), Waiting>,
    /// By leader and term: the last round that it asked.
    asked: BTreeMap<(NodeId, Term), u64>,
    /// By leader, term and follower: the last round in which this one said that it follows.
    confirmed: BTreeMap<(NodeId, Term, NodeId), u64>,
    /// By leader, term, follower and context: the last round in which a quorum followed the leader when it answered this
    /// follower's question for the first time.
    answers: BTreeMap<(NodeId, Term, NodeId, u64), u64>,
    /// The answer that a server is about to take: who gives it, in which term and to which question.
    taken: Option<(NodeId, Term, u64)>,
}

/// A read without an answer.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    /// What was committed, by whoever, when the read began.
    committed: Index,
    /// A quorum has to follow in a later round than this: the last that the leader had asked by then, or with a lease the last
    /// whose lease was over.
    round: u64,
    /// The term in which it began, and who led it. It ends with either.
    term: Term,
    leader: Option<NodeId>,
    /// It goes by a lease: then the clocks count too.
    by_lease: bool,
}

impl ReadLaws {
    /// A read begins at a server, unless it refuses.
    pub(super) fn begun(&mut self, reader: &View<'_>, context: u64, by_lease: bool, committed: Index) {
        let over = reader.lease_over.filter(|_| by_lease);
        let (term, leader) = (reader.hard_state.term, reader.leader);
        let asked = || leader.and_then(|leader| self.asked.get(&(leader, term)).copied()).unwrap_or(0);
        let round = over.unwrap_or_else(asked);
        let waiting = Waiting { committed, round, term, leader, by_lease: over.is_some() };
        self.waiting.insert((reader.id, context), waiting);
    }

    /// A message leaves a server.
    pub(super) fn sent(&mut self, sender: &View<'_>, envelope: &Envelope) {
        match &envelope.message {
            Message::ConfirmLeaderRequest(request) => {
                self.asked.insert((envelope.from, request.term), request.round);
            }
            Message::ReadIndexResponse(response) => {
                let round = self.confirmed_round(sender, response.term);
                let question = (envelope.from, response.term, envelope.to, response.context);
                self.answers.entry(question).or_insert(round);
            }
            _ => {}
        }
    }

    /// The last round in which a quorum said that it follows this leader.
    fn confirmed_round(&self, leader: &View<'_>, term: Term) -> u64 {
        let (id, in_force) = (leader.id, leader.in_force());
        let last = |follower| self.confirmed.get(&(id, term, follower)).copied().unwrap_or(0);
        // A leader that is a quorum by itself needs no round.
        let rounds = in_force.members().into_iter().map(last).chain([u64::MAX]);
        let by_quorum = |round: &u64| is_quorum(&in_force, |follower| follower == id || last(follower) >= *round);
        rounds.filter(by_quorum).max().unwrap_or(0)
    }

    /// A message reaches a server.
    pub(super) fn received(&mut self, envelope: &Envelope) {
        self.taken = None;
        match &envelope.message {
            Message::ConfirmLeaderResponse(response) if response.leader_term == response.term => {
                let last = self.confirmed.entry((envelope.to, response.term, envelope.from)).or_default();
                *last = response.round.max(*last);
            }
            Message::ReadIndexResponse(response) => {
                self.taken = Some((envelope.from, response.term, response.context));
            }
            _ => {}
        }
    }

    /// The server refused it: there will be no answer.
    pub(super) fn refused(&mut self, id: NodeId, context: u64) {
        self.waiting.remove(&(id, context));
    }

    /// The server's life ends, and its reads with it.
    pub(super) fn crashed(&mut self, id: NodeId) {
        self.waiting.retain(|(reader, _), _| *reader != id);
    }

    /// A server took a step with these actions.
    pub(super) fn stepped(&mut self, view: &View<'_>, actions: &[Action], clocks_broken: bool) -> Checked {
        let (id, role, term) = (view.id, view.role, view.hard_state.term);
        let once = Law::EveryReadEndsOnce;
        let taken = self.taken.take();
        for action in actions {
            let (context, index) = match action {
                Action::ReadReady { context, index } => (*context, Some(*index)),
                Action::ReadAborted { context } => (*context, None),
                _ => continue,
            };
            let begun = self.waiting.remove(&(id, context));
            check(begun.is_some(), once, || format!("node {id} answers read {context}, which waits for no answer"))?;
            let (Some(Waiting { committed, round, by_lease, leader, .. }), Some(index)) = (begun, index) else {
                continue;
            };
            let is_fresh = index >= committed || (by_lease && clocks_broken);
            check(is_fresh, Law::LinearizableRead, || {
                format!("node {id} answers read {context} at {index}; {committed} was committed when it began")
            })?;
            let confirmed = if leader == Some(id) {
                self.confirmed_round(view, term)
            } else {
                // The leader counted the quorum when it answered.
                let answer = taken.filter(|(from, in_term, _)| Some(*from) == leader && *in_term == term);
                let asked = answer.map(|(from, in_term, question)| (from, in_term, id, question));
                asked.and_then(|question| self.answers.get(&question).copied()).unwrap_or(0)
            };
            check(confirmed > round, Law::LinearizableRead, || {
                format!("node {id} answers read {context}, and no quorum has followed its leader since that began")
            })?;
        }
        let campaigns = matches!(role, Some(RoleKind::PreCandidate | RoleKind::Candidate));
        let goes_on = |read: &Waiting| !campaigns && read.term == term && read.leader == view.leader;
        let forgotten = self.waiting.iter().find(|((reader, _), read)| *reader == id && !goes_on(read));
        check(forgotten.is_none(), once, || {
            format!("node {id} leads no more, or follows another, and has not answered {forgotten:?}")
        })
    }

    /// After a step the server itself keeps these reads, without an answer.
    pub(super) fn kept(&self, id: NodeId, contexts: &BTreeSet<u64>) -> Checked {
        let waiting: BTreeSet<u64> =
            self.waiting.keys().filter(|(reader, _)| *reader == id).map(|(_, context)| *context).collect();
        check(*contexts == waiting, Law::EveryReadEndsOnce, || {
            format!("of node {id} the reads {waiting:?} wait for an answer, and it keeps {contexts:?}")
        })
    }
}

#[cfg(test)]
#[path = "read_laws_tests.rs"]
mod tests;
