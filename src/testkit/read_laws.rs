//! The laws of reads, checked over a cluster's history: the checker's part for them.

use super::invariants::View;
use super::laws::{Checked, Law, check};
use super::membership_laws::is_quorum;
use crate::action::{Action, RoleKind};
use crate::message::{Envelope, Message};
use crate::types::{Index, NodeId, Term};
use std::collections::BTreeMap;
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
}

/// A read without an answer.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    /// What was committed, by whoever, when the read began.
    committed: Index,
    /// A quorum has to follow in a later round than this: the last that its leader had asked by then, or with a lease the last
    /// whose lease was over.
    round: u64,
    /// It goes by a lease: then the clocks count too.
    by_lease: bool,
}

impl ReadLaws {
    /// A read begins at a server, unless it refuses.
    pub(super) fn begun(&mut self, reader: &View<'_>, context: u64, by_lease: bool, committed: Index) {
        let over = reader.lease_over.filter(|_| by_lease);
        let asked = || self.asked.get(&(reader.id, reader.hard_state.term)).copied().unwrap_or(0);
        let round = over.unwrap_or_else(asked);
        self.waiting.insert((reader.id, context), Waiting { committed, round, by_lease: over.is_some() });
    }

    /// A message leaves a server.
    pub(super) fn sent(&mut self, envelope: &Envelope) {
        if let Message::ConfirmLeaderRequest(request) = &envelope.message {
            self.asked.insert((envelope.from, request.term), request.round);
        }
    }

    /// A message reaches a server.
    pub(super) fn received(&mut self, envelope: &Envelope) {
        let Message::ConfirmLeaderResponse(response) = &envelope.message else { return };
        if response.leader_term == response.term {
            let last = self.confirmed.entry((envelope.to, response.term, envelope.from)).or_default();
            *last = response.round.max(*last);
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
        let (id, role, term, in_force) = (view.id, view.role, view.hard_state.term, view.in_force());
        let once = Law::EveryReadEndsOnce;
        for action in actions {
            let (context, index) = match action {
                Action::ReadReady { context, index } => (*context, Some(*index)),
                Action::ReadAborted { context } => (*context, None),
                _ => continue,
            };
            let begun = self.waiting.remove(&(id, context));
            check(begun.is_some(), once, || format!("node {id} answers read {context}, which waits for no answer"))?;
            let (Some(Waiting { committed, round, by_lease }), Some(index)) = (begun, index) else { continue };
            let is_fresh = index >= committed || (by_lease && clocks_broken);
            check(is_fresh, Law::LinearizableRead, || {
                format!("node {id} answers read {context} at {index}; {committed} was committed when it began")
            })?;
            let last = |follower| self.confirmed.get(&(id, term, follower)).copied().unwrap_or(0);
            let follows = |follower| follower == id || last(follower) > round;
            check(is_quorum(&in_force, follows), Law::LinearizableRead, || {
                format!(
                    "node {id} answers read {context}, and no quorum of ({in_force}) has followed it since that began"
                )
            })?;
        }
        let forgotten = self.waiting.keys().find(|(reader, _)| *reader == id && role != Some(RoleKind::Leader));
        check(forgotten.is_none(), once, || format!("node {id} leads no more and has not answered {forgotten:?}"))
    }
}
