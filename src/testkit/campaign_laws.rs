//! The laws of campaigns and of the leaders that come of them: pre-votes, and the answers of a quorum.

use super::invariants::{Checker, View};
use super::laws::{Checked, Law, check};
use super::membership_laws::is_quorum;
use crate::action::{Action, RoleKind};
use crate::message::{Envelope, Message};
use crate::transition::Transition;
use crate::types::{HardState, NodeId, Term};
use std::collections::BTreeSet;
use std::format;

/// What a server heard, on which a campaign or a leadership must rest.
#[derive(Clone, Debug, Default)]
pub(super) struct Answers {
    /// Who answered this leader since its last quorum check.
    of_leader: BTreeSet<NodeId>,
    /// Who granted a pre-vote since this server last asked, and for a campaign in which term.
    pre_votes: BTreeSet<(NodeId, Term)>,
}

impl Answers {
    /// A message reaches the server, right before the step that consumes it.
    pub(super) fn received(&mut self, receiver: &View<'_>, envelope: &Envelope) {
        match &envelope.message {
            Message::AppendEntriesResponse(response) if response.term == receiver.hard_state.term => {
                self.of_leader.insert(envelope.from);
            }
            Message::ConfirmLeaderResponse(response) if response.term == receiver.hard_state.term => {
                self.of_leader.insert(envelope.from);
            }
            Message::PreVoteResponse(response) if response.granted => {
                self.pre_votes.insert((envelope.from, response.campaign_term));
            }
            _ => {}
        }
    }
}

impl Checker {
    pub(super) fn check_pre_vote(
        &self,
        id: NodeId,
        transition: Transition,
        actions: &[Action],
        views: &[View<'_>],
    ) -> Checked {
        let (Some(before), Some(view)) = (self.lives.get(&id), views.iter().find(|view| view.id == id)) else {
            return Ok(());
        };
        let law = Law::PreVoteLeavesHardStateAlone;
        let same = before.hard_state == view.hard_state;
        if transition == Transition::HandlePreVoteRequest {
            let role = view.role.is_some_and(|role| role == before.role);
            let touched =
                actions.iter().any(|action| matches!(action, Action::Persist(_) | Action::ResetElectionTimer));
            check(same && role && !touched, law, || format!("a question changed node {id}, which was asked"))?;
        }
        if transition == Transition::ElectionTimeout && view.role == Some(RoleKind::PreCandidate) {
            check(same, law, || format!("node {id} changed its term or vote to ask for pre-votes"))?;
        }
        Ok(())
    }

    /// Whoever begins a campaign has the pre-votes of a quorum for that very term, its own among them, or was told to by the
    /// leader that it followed. The pre-votes of others count for nobody but a pre-candidate.
    pub(super) fn check_campaign(
        &mut self,
        view: &View<'_>,
        before: Option<(RoleKind, HardState)>,
        transition: Transition,
        told: bool,
    ) -> Checked {
        let Some((role, HardState { term: old_term, .. })) = before else { return Ok(()) };
        let id = view.id;
        let answers = &mut self.heard.entry(id).or_default().answers;
        if transition == Transition::ElectionTimeout {
            answers.pre_votes.clear();
        }
        let term = view.hard_state.term;
        let begins = view.role == Some(RoleKind::Candidate) && (role != RoleKind::Candidate || term != old_term);
        if !begins || !view.pre_vote || told {
            return Ok(());
        }
        let asked = role == RoleKind::PreCandidate;
        let granted = |from| from == id || (asked && answers.pre_votes.contains(&(from, term)));
        let enough = term == old_term.next() && is_quorum(&view.in_force(), granted);
        check(enough, Law::CampaignHasPreVotes, || {
            format!("node {id}, {:?} of term {old_term}, campaigns in term {term} with {answers:?}", role)
        })
    }

    pub(super) fn check_answers(&mut self, id: NodeId, transition: Transition, views: &[View<'_>]) -> Checked {
        let (Some(before), Some(view)) = (self.lives.get(&id), views.iter().find(|view| view.id == id)) else {
            return Ok(());
        };
        let led = before.role == RoleKind::Leader;
        if transition != Transition::QuorumCheckTimeout && led {
            return Ok(());
        }
        let answers = core::mem::take(&mut self.heard.entry(id).or_default().answers.of_leader);
        let stays = led && view.role == Some(RoleKind::Leader) && self.check_quorum;
        let answered = |from| from == id || answers.contains(&from);
        check(!stays || is_quorum(&view.in_force(), answered), Law::CheckedLeaderHasAnswers, || {
            format!("node {id} goes on leading term {} with answers of {answers:?}", view.hard_state.term)
        })
    }
}
