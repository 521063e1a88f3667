//! Leadership transfer: a leader has one of its followers take over, without the wait for an election timeout.
//!
//! Dissertation §3.10. Spec: `TransferLeadership`, `TransferTimeout`, `HandleTimeoutNowRequest`.
//!
//! A leader that is asked to hand over appends nothing any more, so that its target can come to hold the whole log; once it
//! does, the leader tells it to campaign as if its election timer had run out. The target asks for no pre-votes, and says
//! in its requests that its leader wanted this, so that servers which heard that leader just now vote all the same.
//!
//! The campaign is one like any other, so safety does not rest on any of this. What a transfer can cost is time in which
//! nobody may write: it begins only with a target that answers and was sent the whole log, and a timeout ends it.

use super::Protocol;
use super::election::Campaign;
use super::role::Role;
use crate::action::{Action, ActionSink};
use crate::error::{PeerMisbehaved, TransferError};
use crate::message::{Envelope, Message, TimeoutNowRequest};
use crate::types::{NodeId, Term};

impl Protocol {
    /// Begins to hand leadership over to `target`. Asking again for the same one changes nothing.
    pub(super) fn transfer_leadership(
        &mut self,
        target: NodeId,
        actions: &mut impl ActionSink,
    ) -> Result<(), TransferError> {
        let last_index = self.tail.last().index;
        let Role::Leader(leader) = &mut self.role else {
            return Err(TransferError::NotLeader { leader: self.leader, term: self.hard_state.term });
        };
        match leader.transfer {
            Some(present) if present == target => return Ok(()),
            Some(present) => return Err(TransferError::InProgress { target: present }),
            None if target == self.settings.id => {
                return Err(TransferError::AlreadyLeads { term: self.hard_state.term });
            }
            None => {}
        }
        let Some(progress) = leader.progress_mut(target) else { return Err(TransferError::NotAVoter { target }) };
        if !progress.suffrage.any() {
            return Err(TransferError::NotAVoter { target });
        }
        if !progress.active {
            return Err(TransferError::TargetSilent { target });
        }
        // What it lacks must be on its way: to a server further behind than that nobody could write for too long.
        if !progress.is_sent_all(last_index) {
            return Err(TransferError::TargetBehind { target, match_index: progress.match_index, last_index });
        }
        self.begin_transfer(target, actions);
        Ok(())
    }

    pub(super) fn begin_transfer(&mut self, target: NodeId, actions: &mut impl ActionSink) {
        let Role::Leader(leader) = &mut self.role else { return };
        leader.transfer = Some(target);
        actions.push(Action::TransferBegun { target });
        self.send_timeout_now(actions);
    }

    /// The target did not take over in time: this leader takes proposals again, unless it has no vote any more.
    pub(super) fn transfer_timeout(&mut self, actions: &mut impl ActionSink) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(target) = leader.transfer.take() else { return };
        if self.has_left() {
            return self.become_follower(None, actions);
        }
        actions.push(Action::TransferEnded { target });
        self.advance_membership(None, actions);
    }

    /// Tells the target of the transfer, if there is one and it holds the whole log, to campaign. Like a leader's appends
    /// this promises nothing but that it leads its term, which is durable: it waits for no write.
    pub(super) fn send_timeout_now(&self, actions: &mut impl ActionSink) {
        let Role::Leader(leader) = &self.role else { return };
        let Some(to) = leader.transfer else { return };
        let last = self.tail.last().index;
        if leader.peers.iter().any(|(peer, progress)| *peer == to && progress.match_index == last) {
            let message = Message::TimeoutNowRequest(TimeoutNowRequest { term: self.hard_state.term });
            actions.push(Action::Send(Envelope { from: self.settings.id, to, message }));
        }
    }

    /// Campaigns at once, if the leader that this server follows in its present term says so.
    ///
    /// A request of an earlier term is late. A server that knows no leader, because it started just now or gave its leader
    /// up, does not obey: its leader repeats the request right behind a heartbeat, by which it follows again.
    pub(super) fn handle_timeout_now_request(
        &mut self,
        from: NodeId,
        request: TimeoutNowRequest,
        actions: &mut impl ActionSink,
    ) {
        let term = self.hard_state.term;
        let Some(leader) = self.leader.filter(|_| request.term == term) else { return };
        if leader != from {
            return actions
                .push(Action::Misbehaved { peer: from, reason: PeerMisbehaved::SecondLeader { term, leader } });
        }
        if self.may_campaign() && term < Term::MAX {
            self.become_candidate(Campaign::LeadershipTransfer, actions);
        }
    }

    /// The server that this leader hands over to; `None` without a transfer and in other roles.
    #[must_use]
    pub fn transfer_target(&self) -> Option<NodeId> {
        match &self.role {
            Role::Leader(leader) => leader.transfer,
            _ => None,
        }
    }
}
