//! Leader election: pre-vote, votes, and how a leader begins and ends.
//!
//! Dissertation §3.4 (election), §3.6.1 (the up-to-date check), §4.2.3 (leader stickiness), §6.2
//! (check-quorum), §9.6 (pre-vote). Spec: `ElectionTimeout`, `MinimumElectionTimeout`,
//! `QuorumCheckTimeout`, `StepDown`, `HandlePreVoteRequest`, `HandlePreVoteResponse`,
//! `HandleRequestVoteRequest`, `HandleRequestVoteResponse`.

use super::Protocol;
use super::progress::Suffrage;
use super::read::Reads;
use super::role::{Ballot, Leader, Role, Uncommitted};
use crate::action::{Action, ActionSink};
use crate::message::{Message, PreVoteRequest, PreVoteResponse, RequestVoteRequest, RequestVoteResponse};
use crate::quorum::{VoteQuorum, VoteResult, vote_result};
use crate::types::{Entries, Entry, EntryId, HardState, Index, NodeId, Payload, Term};
use alloc::vec::Vec;

/// Why a server campaigns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Campaign {
    /// No leader was heard for an election timeout.
    ElectionTimeout,
    /// Its leader told it to (§3.10).
    LeadershipTransfer,
}

impl Protocol {
    /// No leader was heard for a randomised timeout: campaign, or ask first whether to.
    pub(super) fn election_timeout(&mut self, actions: &mut impl ActionSink) {
        let is_leader = matches!(self.role, Role::Leader(_));
        // At the end of the range of terms the server goes on serving, but never campaigns again.
        if is_leader || !self.may_campaign() || self.hard_state.term >= Term::MAX {
            return;
        }
        if self.settings.pre_vote {
            self.become_pre_candidate(actions);
        } else {
            self.become_candidate(Campaign::ElectionTimeout, actions);
        }
    }

    /// The leader was not heard for the minimum election timeout: listen to candidates again, and let no read wait for it.
    pub(super) fn minimum_election_timeout(&mut self, actions: &mut impl ActionSink) {
        self.leader_is_recent = false;
        if matches!(self.role, Role::Follower(_)) {
            self.abort_reads(actions);
        }
    }

    /// A leader that no quorum answered since the last check steps down, so that its clients turn
    /// elsewhere (§6.2).
    pub(super) fn quorum_check_timeout(&mut self, actions: &mut impl ActionSink) {
        let Role::Leader(leader) = &mut self.role else { return };
        if !self.settings.check_quorum {
            return;
        }
        // The leader itself counts, where it has a vote.
        let answered = leader.reached_by_quorum(true, |peer| peer.active);
        leader.peers.iter_mut().for_each(|(_, peer)| peer.active = false);
        if !answered {
            self.become_follower(None, actions);
        }
    }

    /// A leader that cannot do its work, for its disk stalls or its program wants to rest, leads no more. Whoever is elected
    /// next has waited for an election timeout.
    pub(super) fn step_down(&mut self, actions: &mut impl ActionSink) {
        if matches!(self.role, Role::Leader(_)) {
            self.become_follower(None, actions);
        }
    }

    /// Whether candidates are ignored: this node leads, or heard its leader just now (§4.2.3).
    pub(super) fn disregards_candidates(&self) -> bool {
        self.settings.check_quorum && (self.leader_is_recent || matches!(self.role, Role::Leader(_)))
    }

    fn become_pre_candidate(&mut self, actions: &mut impl ActionSink) {
        let mut ballot = Ballot::default();
        // A pre-vote is no promise, so the own one needs no write.
        ballot.record(self.settings.id, true);
        let result = vote_result(self.membership(), &ballot.granted, &ballot.refused);
        self.abort_reads(actions);
        // Asking again in the same term is no change.
        self.role_changed |= !matches!(self.role, Role::PreCandidate(_));
        self.role = Role::PreCandidate(ballot);
        self.leader = None;
        self.session = None;
        self.leader_is_recent = false;
        if let VoteResult::Won(_) = result {
            return self.become_candidate(Campaign::ElectionTimeout, actions);
        }
        actions.push(Action::ResetElectionTimer);
        let term = self.hard_state.term;
        let request = PreVoteRequest { term, campaign_term: term.next(), last: self.tail.last() };
        self.broadcast(Message::PreVoteRequest(request), actions);
    }

    /// Starts a campaign in a new term. The own vote counts, and the requests leave, once term
    /// and vote are durable: else a crash could let this server vote twice in the term.
    pub(super) fn become_candidate(&mut self, campaign: Campaign, actions: &mut impl ActionSink) {
        self.hard_state = HardState { term: self.hard_state.term.next(), vote: Some(self.settings.id) };
        self.hard_state_dirty = true;
        self.abort_reads(actions);
        self.role = Role::Candidate(Ballot::default());
        self.role_changed = true;
        self.leader = None;
        self.session = None;
        self.leader_is_recent = false;
        actions.push(Action::ResetElectionTimer);
        self.persist_hard_state(actions);
        let leadership_transfer = campaign == Campaign::LeadershipTransfer;
        let request = RequestVoteRequest { term: self.hard_state.term, last: self.tail.last(), leadership_transfer };
        self.broadcast(Message::RequestVoteRequest(request), actions);
    }

    fn broadcast(&mut self, message: Message, actions: &mut impl ActionSink) {
        for peer in self.membership().voting_peers_of(self.settings.id) {
            self.send(peer, message.clone(), actions);
        }
    }

    /// A write with this hard state became durable; it may be the own vote of this campaign.
    pub(super) fn own_vote_durable(&mut self, durable: HardState, actions: &mut impl ActionSink) {
        if durable == self.hard_state && matches!(self.role, Role::Candidate(_)) {
            self.record_vote(self.settings.id, true, actions);
        }
    }

    /// Answers whether `from` would get this node's vote. Changes nothing here: neither term nor
    /// vote nor timers (§9.6).
    pub(super) fn handle_pre_vote_request(
        &mut self,
        from: NodeId,
        request: PreVoteRequest,
        actions: &mut impl ActionSink,
    ) {
        if self.disregards_candidates() {
            return;
        }
        let granted = request.campaign_term > self.hard_state.term && self.is_up_to_date(request.last);
        let response = PreVoteResponse { term: self.hard_state.term, campaign_term: request.campaign_term, granted };
        self.send(from, Message::PreVoteResponse(response), actions);
    }

    /// Counts an answer to the present question.
    pub(super) fn handle_pre_vote_response(
        &mut self,
        from: NodeId,
        response: PreVoteResponse,
        actions: &mut impl ActionSink,
    ) {
        let Role::PreCandidate(ballot) = &mut self.role else { return };
        let membership = &self.configurations.in_force().1;
        if response.campaign_term != self.hard_state.term.next() || !membership.is_voter(from) {
            return;
        }
        ballot.record(from, response.granted);
        match vote_result(membership, &ballot.granted, &ballot.refused) {
            VoteResult::Won(_) => self.become_candidate(Campaign::ElectionTimeout, actions),
            VoteResult::Lost => self.become_follower(None, actions),
            VoteResult::Pending => {}
        }
    }

    /// Grants this node's vote at most once per term, to a candidate whose log holds everything
    /// that may be committed (§3.4, §3.6.1).
    pub(super) fn handle_request_vote_request(
        &mut self,
        from: NodeId,
        request: RequestVoteRequest,
        actions: &mut impl ActionSink,
    ) {
        let current = request.term == self.hard_state.term;
        let free = self.hard_state.vote.is_none_or(|vote| vote == from);
        let granted = current && free && self.is_up_to_date(request.last);
        if granted {
            if self.hard_state.vote.is_none() {
                self.hard_state.vote = Some(from);
                self.hard_state_dirty = true;
            }
            if matches!(self.role, Role::PreCandidate(_)) {
                // It supports another candidate now; answers to its own question no longer matter.
                self.become_follower(None, actions);
            }
            actions.push(Action::ResetElectionTimer);
        }
        self.persist_hard_state(actions);
        let response = RequestVoteResponse { term: self.hard_state.term, granted };
        self.send(from, Message::RequestVoteResponse(response), actions);
    }

    /// Counts an answer of the present campaign.
    pub(super) fn handle_request_vote_response(
        &mut self,
        from: NodeId,
        response: RequestVoteResponse,
        actions: &mut impl ActionSink,
    ) {
        let Role::Candidate(ballot) = &self.role else { return };
        // The requests leave once the own vote is durable and counted. What comes earlier answers
        // no question of this campaign: a fabrication, or one asked before a disk was rolled back.
        let asked = ballot.granted.contains(&self.settings.id);
        if asked && response.term == self.hard_state.term && self.membership().is_voter(from) {
            self.record_vote(from, response.granted, actions);
        }
    }

    fn record_vote(&mut self, voter: NodeId, granted: bool, actions: &mut impl ActionSink) {
        let Role::Candidate(ballot) = &mut self.role else { return };
        ballot.record(voter, granted);
        match vote_result(&self.configurations.in_force().1, &ballot.granted, &ballot.refused) {
            VoteResult::Won(quorum) => self.become_leader(quorum, actions),
            VoteResult::Lost => self.become_follower(None, actions),
            VoteResult::Pending => {}
        }
    }

    /// Leads the term: appends a no-op, whose commit commits everything before it (§3.6.2, §6.4). In an empty log the entry
    /// says who belongs to the cluster, and which one that is.
    fn become_leader(&mut self, _proof: VoteQuorum, actions: &mut impl ActionSink) {
        assert_eq!(self.hard_state.vote, Some(self.settings.id), "ElectionSafety: a leader voted for itself");
        assert!(!self.tail.hard_state_in_flight(), "PersistFirst: a leader's term and vote are durable");
        self.fetch = None;
        let last = self.tail.last().index;
        let mut leader = Leader {
            peers: Vec::new(),
            suffrage: Suffrage::default(),
            voters: (0, 0),
            is_settled: true,
            term_start: last.next(),
            uncommitted: Uncommitted::default(),
            reads: Reads::default(),
            transfer: None,
        };
        leader.reconfigure(self.settings.id, self.membership(), last, Index::ZERO);
        self.role = Role::Leader(leader);
        self.role_changed = true;
        self.leader = Some(self.settings.id);
        self.leader_is_recent = false;
        let id = EntryId { index: last.next(), term: self.hard_state.term };
        let payload = self.found_history(id, actions).unwrap_or(Payload::Noop);
        self.append_as_leader(Entries::one(Entry { id, payload }), actions);
    }

    /// Whether a log that ends with `last` holds every entry that this server's log could have
    /// helped to commit (§3.6.1): the later term wins, then the longer log.
    fn is_up_to_date(&self, last: EntryId) -> bool {
        last >= self.tail.last()
    }
}
