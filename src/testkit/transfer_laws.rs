//! The laws of leadership transfer, checked over a cluster's history: the checker's part for them.

use super::invariants::View;
use super::laws::{Checked, Law, check};
use crate::action::{Action, RoleKind};
use crate::log::LogView;
use crate::message::{Envelope, Message};
use crate::transition::Transition;
use crate::types::{EntryId, HardState, NodeId, Payload, Term};
use std::collections::{BTreeMap, BTreeSet};
use std::format;

/// A transfer that goes on.
#[derive(Clone, Copy, Debug)]
struct Transfer {
    target: NodeId,
    term: Term,
    /// The leader's last entry when it began.
    last: EntryId,
}

/// What the step that comes next consumes.
#[derive(Clone, Copy, Debug)]
enum Asked {
    /// To campaign, by this server, in its term.
    TimeoutNow(NodeId, Term),
    /// For a vote in this term.
    Vote {
        term: Term,
        /// It is not in the name of a leader, and the receiver has one.
        is_disruptive: bool,
    },
}

/// The transfers that go on, and the campaigns that came of any.
#[derive(Clone, Debug, Default)]
pub(super) struct TransferLaws {
    /// By leader.
    transfers: BTreeMap<NodeId, Transfer>,
    /// Who campaigned in which term because its leader told it to.
    campaigns: BTreeSet<(NodeId, Term)>,
    /// By receiver.
    asked: BTreeMap<NodeId, Asked>,
}

impl TransferLaws {
    /// The server's life ends, and its transfer with it.
    pub(super) fn crashed(&mut self, id: NodeId) {
        self.transfers.remove(&id);
        self.asked.remove(&id);
    }

    /// A message leaves a server.
    pub(super) fn sent(&self, sender: &View<'_>, envelope: &Envelope) -> Checked {
        let (from, to, term) = (envelope.from, envelope.to, envelope.message.term());
        match &envelope.message {
            Message::TimeoutNowRequest(_) => {
                let last = sender.log.last().index;
                let whole = sender.match_indexes.contains(&(to, last));
                check(whole, Law::TimeoutNowAfterWholeLog, || {
                    format!(
                        "node {from} tells node {to} to campaign after term {term}, not knowing that it holds {last}"
                    )
                })
            }
            Message::RequestVoteRequest(request) if request.leadership_transfer => {
                check(self.campaigns.contains(&(from, term)), Law::TimeoutNowFromOwnLeader, || {
                    format!("node {from} campaigns in term {term} in the name of a leader that did not tell it to")
                })
            }
            _ => Ok(()),
        }
    }

    /// A message reaches a server, right before the step that consumes it.
    pub(super) fn received(&mut self, receiver: &View<'_>, envelope: &Envelope, check_quorum: bool) {
        let asked = match &envelope.message {
            Message::TimeoutNowRequest(request) => Asked::TimeoutNow(envelope.from, request.term),
            Message::RequestVoteRequest(request) => {
                let has_leader = receiver.leader_is_recent || receiver.role == Some(RoleKind::Leader);
                let is_disruptive = check_quorum && has_leader && !request.leadership_transfer;
                Asked::Vote { term: request.term, is_disruptive }
            }
            _ => return,
        };
        self.asked.insert(receiver.id, asked);
    }

    /// Whether the step that comes of what it received may make a server campaign: the leader that it follows tells it to.
    pub(super) fn is_told_to_campaign(
        &self,
        id: NodeId,
        (role, old): (RoleKind, HardState),
        leaders: &BTreeMap<Term, NodeId>,
    ) -> bool {
        let told = matches!(self.asked.get(&id), Some(Asked::TimeoutNow(from, asked))
            if *asked == old.term && leaders.get(asked) == Some(from));
        told && role == RoleKind::Follower
    }

    /// A server took a step; `before` are its role, term and vote before it, and `leaders` everyone who ever led.
    pub(super) fn stepped(
        &mut self,
        view: &View<'_>,
        before: Option<(RoleKind, HardState)>,
        transition: Transition,
        actions: &[Action],
        leaders: &BTreeMap<Term, NodeId>,
    ) -> Checked {
        let asked = self.asked.remove(&view.id);
        let misbehaved = actions.iter().any(|action| matches!(action, Action::Misbehaved { .. }));
        if let (Some(asked), Some(before), false) = (asked, before, misbehaved) {
            match asked {
                Asked::TimeoutNow(from, term) => {
                    self.check_campaign(view, before, term, leaders.get(&term) == Some(&from))?;
                }
                Asked::Vote { term, is_disruptive } => check_vote(view, before, term, is_disruptive)?,
            }
        }
        self.check_transfer(view, transition, actions)
    }

    fn check_campaign(
        &mut self,
        view: &View<'_>,
        (role, old): (RoleKind, HardState),
        asked: Term,
        by_its_leader: bool,
    ) -> Checked {
        let (id, term) = (view.id, view.hard_state.term);
        if view.role != Some(RoleKind::Candidate) || old == view.hard_state {
            return Ok(());
        }
        self.campaigns.insert((id, term));
        let obeys = by_its_leader && role == RoleKind::Follower && old.term == asked && term == asked.next();
        check(obeys, Law::TimeoutNowFromOwnLeader, || {
            format!("node {id} of term {} campaigns in term {term}, told to in term {asked}", old.term)
        })
    }

    fn check_transfer(&mut self, view: &View<'_>, transition: Transition, actions: &[Action]) -> Checked {
        let (id, term, last) = (view.id, view.hard_state.term, view.log.last());
        let leads = view.role == Some(RoleKind::Leader);
        // With its end a change of the configuration goes on that waited for it.
        let has_ended = actions.iter().any(|action| matches!(action, Action::TransferEnded { .. }));
        if let Some(transfer) = self.transfers.get(&id).filter(|transfer| leads && transfer.term == term) {
            let mut appended = view.log.iter().filter(|entry| entry.id.index > transfer.last.index);
            let only_changed = appended.all(|entry| matches!(entry.payload, Payload::Membership(_)));
            check(last == transfer.last || (has_ended && only_changed), Law::TransferAppendsNothing, || {
                format!("node {id} hands over to node {} and appends {last}", transfer.target)
            })?;
        } else {
            self.transfers.remove(&id);
        }
        let once = Law::EveryTransferEnds;
        for action in actions {
            match action {
                Action::TransferBegun { target } => {
                    let other = self.transfers.insert(id, Transfer { target: *target, term, last });
                    check(other.is_none(), once, || format!("node {id} begins a second transfer during {other:?}"))?;
                }
                Action::TransferEnded { target } => {
                    let ended = self.transfers.remove(&id).is_some_and(|transfer| transfer.target == *target);
                    check(ended, once, || format!("node {id} ends a transfer to node {target} that did not go on"))?;
                }
                _ => {}
            }
        }
        let over = transition != Transition::TransferTimeout || !self.transfers.contains_key(&id);
        check(over, once, || format!("the transfer of node {id} goes on after its timeout"))
    }
}

fn check_vote(view: &View<'_>, (role, old): (RoleKind, HardState), asked: Term, is_disruptive: bool) -> Checked {
    let id = view.id;
    let untouched = view.hard_state == old && view.role == Some(role);
    let right = if is_disruptive { untouched } else { view.has_lost_data || view.hard_state.term >= asked };
    check(right, Law::OnlyTransfersDisrupt, || {
        let what =
            if is_disruptive { "listens to a candidate that disrupts its leader" } else { "ignores a candidate" };
        format!("node {id} of term {} {what}, of term {asked}", old.term)
    })
}
