//! Reads without an entry of the log (ReadIndex).
//!
//! Dissertation §6.4. Spec: `ReadRequest`, `LeaseReadRequest`, `FollowerReadRequest`, `LeaseTimeout`,
//! `HandleConfirmLeaderRequest`, `HandleConfirmLeaderResponse`, `HandleReadIndexRequest`, `HandleReadIndexResponse`.
//!
//! A leader may answer a read from its state machine once that holds everything that was committed when the read began,
//! and if it still led at some time after that. So a read takes the commit index when it begins, and waits for a round of
//! confirmations: a quorum says that it follows this leader in this term. One round is on its way at a time and serves
//! all reads that had begun before it.
//!
//! A follower answers reads too: it asks its leader, for whom the question is a read like its own, and waits until it has
//! applied what the leader names. One question is on its way at a time and serves all reads that had begun before it.
//!
//! A confirmation is also a promise, for servers that heard their leader ignore candidates for a minimum election timeout
//! (§4.2.3). With leases a leader relies on it: until that much time has passed *since it asked*, by the slowest clock that is
//! allowed for, nobody else can have been elected, and it answers reads without asking (§6.4.1). The promise outlives a
//! change of the term and a restart of the server that gave it. Only a leader's own request to campaign overrides it
//! (§3.10), and a leader that has sent one relies on no promise any more.

use super::Protocol;
use super::progress::Progress;
use super::role::Role;
use crate::action::{Action, ActionSink};
use crate::error::{PeerMisbehaved, ReadError};
use crate::message::{
    ConfirmLeaderRequest, ConfirmLeaderResponse, Envelope, Message, ReadIndexRequest, ReadIndexResponse,
};
use crate::types::{Index, NodeId};
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// The reads that wait for a leader's confirmation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Reads {
    /// The last round that began, counted from 1 in each term; 0 before the first.
    pub(super) round: u64,
    /// In the order in which they began. Those of the present round come first, then those of the next.
    pub(super) waiting: VecDeque<WaitingRead>,
    /// The last round whose lease is over: too much time has passed since it began. 0 before the first.
    pub(super) lease_over: u64,
    /// This leader told a server to campaign, and has no lease any more in its term.
    pub(super) lease_given_up: bool,
}

/// A read that waits for its round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct WaitingRead {
    pub(super) context: u64,
    /// The follower that asked; `None` for this server's own reads.
    pub(super) reader: Option<NodeId>,
    /// The first round that began after the read did.
    pub(super) round: u64,
    /// What must be applied before the read is answered.
    pub(super) index: Index,
}

impl Reads {
    /// The read belongs to the next round: whatever is on its way was sent before.
    fn add(&mut self, context: u64, reader: Option<NodeId>, index: Index) {
        self.waiting.push_back(WaitingRead { context, reader, round: self.round + 1, index });
    }

    /// A follower asks again, for all its reads: of its earlier questions one is kept, the first whose round has begun. So of
    /// each follower two wait at most, however many heartbeats a round takes.
    fn forget_asked(&mut self, reader: NodeId) {
        let (mut is_first, present) = (true, self.round);
        let mut is_kept = |read: &WaitingRead| core::mem::take(&mut is_first) && read.round <= present;
        self.waiting.retain(|read| read.reader != Some(reader) || is_kept(read));
    }

    fn pop_confirmed(&mut self, confirmed: u64) -> Option<WaitingRead> {
        if self.waiting.front()?.round <= confirmed { self.waiting.pop_front() } else { None }
    }

    pub(super) fn rename(&mut self, rename: impl Fn(NodeId) -> NodeId) {
        self.waiting.iter_mut().for_each(|read| read.reader = read.reader.map(&rename));
    }
}

/// The reads of a follower, which wait for its leader's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct FollowerReads {
    /// Their contexts, in the order in which they began.
    waiting: VecDeque<u64>,
    /// How many of them, from the first on, the last question was about; 0 only if none waits.
    asked: usize,
}

impl FollowerReads {
    pub(super) fn contexts(&self) -> impl Iterator<Item = u64> + '_ {
        self.waiting.iter().copied()
    }

    pub(super) fn asked(&self) -> usize {
        self.asked
    }

    /// The question about all that wait: it names the last one.
    fn ask(&mut self) -> Option<u64> {
        self.asked = self.waiting.len();
        self.waiting.back().copied()
    }

    /// Takes those that the answer to this question serves: none if it does not wait any more.
    fn take_through(&mut self, context: u64) -> VecDeque<u64> {
        let served = self.waiting.iter().position(|waiting| *waiting == context).map_or(0, |position| position + 1);
        self.asked -= served.min(self.asked);
        let later = self.waiting.split_off(served);
        core::mem::replace(&mut self.waiting, later)
    }

    /// The laws of a follower's reads; see `invariant.rs`.
    pub(super) fn check(&self, leader: Option<NodeId>) {
        let (waiting, asked) = (self.waiting.len(), self.asked);
        assert!(asked <= waiting && (asked == 0) == (waiting == 0), "FollowerReadsAreAsked: {asked} of {waiting}");
        assert!(waiting == 0 || leader.is_some(), "FollowerReadsAreAsked: without a leader");
    }
}

impl Protocol {
    /// A read begins, if this server leads.
    pub(super) fn read_request(&mut self, context: u64, actions: &mut impl ActionSink) -> Result<(), ReadError> {
        if !matches!(self.role, Role::Leader(_)) {
            return Err(ReadError::NotLeader { leader: self.leader, term: self.hard_state.term });
        }
        self.begin_read(context, None, actions);
        Ok(())
    }

    fn begin_read(&mut self, context: u64, reader: Option<NodeId>, actions: &mut impl ActionSink) {
        let Role::Leader(leader) = &mut self.role else { return };
        // Everything that earlier leaders committed lies before this term's no-op, whether this leader knows it to be
        // committed or not.
        let index = self.commit_index.max(leader.term_start);
        let idle = leader.reads.waiting.is_empty();
        leader.reads.add(context, reader, index);
        if idle {
            self.begin_read_round(actions);
        }
    }

    /// A read begins, if this server leads or knows who does.
    pub(super) fn follower_read_request(
        &mut self,
        context: u64,
        actions: &mut impl ActionSink,
    ) -> Result<(), ReadError> {
        let (Role::Follower(reads), Some(_)) = (&mut self.role, self.leader) else {
            return self.read_request(context, actions);
        };
        reads.waiting.push_back(context);
        if reads.asked == 0 {
            self.ask_read_index(actions);
        }
        Ok(())
    }

    /// Asks the leader about all reads that wait. With a heartbeat again: question or answer may have got lost.
    pub(super) fn ask_read_index(&mut self, actions: &mut impl ActionSink) {
        let (Role::Follower(reads), Some(leader)) = (&mut self.role, self.leader) else { return };
        let Some(context) = reads.ask() else { return };
        let request = ReadIndexRequest { term: self.hard_state.term, context };
        self.send_after_term(leader, Message::ReadIndexRequest(request), actions);
    }

    /// A follower's read begins here, as if it were this leader's own.
    pub(super) fn handle_read_index_request(
        &mut self,
        from: NodeId,
        request: ReadIndexRequest,
        actions: &mut impl ActionSink,
    ) {
        if request.term != self.hard_state.term {
            return;
        }
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.progress(from).is_some() {
            leader.reads.forget_asked(from);
            self.begin_read(request.context, Some(from), actions);
        }
    }

    /// The leader answers: what it names is what has to be applied. What it says to be committed this server holds, and
    /// durably, for the leader knows that from it.
    pub(super) fn handle_read_index_response(
        &mut self,
        from: NodeId,
        response: ReadIndexResponse,
        actions: &mut impl ActionSink,
    ) {
        let term = self.hard_state.term;
        let Some(leader) = self.leader.filter(|_| response.term == term) else { return };
        if leader != from {
            return actions
                .push(Action::Misbehaved { peer: from, reason: PeerMisbehaved::SecondLeader { term, leader } });
        }
        // Of what a snapshot covers less may be durable.
        if response.commit > self.tail.durable().max(self.commit_index) {
            let reason = PeerMisbehaved::CommittedUnheld { index: response.commit };
            return actions.push(Action::Misbehaved { peer: from, reason });
        }
        let Role::Follower(reads) = &mut self.role else { return };
        let ready = reads.take_through(response.context);
        let asks = reads.asked == 0;
        if ready.is_empty() {
            return;
        }
        self.advance_commit_to(response.commit, actions);
        for context in ready {
            actions.push(Action::ReadReady { context, index: response.index });
        }
        if asks {
            self.ask_read_index(actions);
        }
    }

    /// A read begins, and is answered at once if this leader has a lease.
    pub(super) fn lease_read_request(&mut self, context: u64, actions: &mut impl ActionSink) -> Result<(), ReadError> {
        let Role::Leader(leader) = &self.role else {
            return Err(ReadError::NotLeader { leader: self.leader, term: self.hard_state.term });
        };
        if !self.has_lease() {
            return self.read_request(context, actions);
        }
        let index = self.commit_index.max(leader.term_start);
        actions.push(Action::ReadReady { context, index });
        Ok(())
    }

    /// A lease's time has passed since this round, and those before it, began.
    pub(super) fn lease_timeout(&mut self, round: u64) {
        let Role::Leader(leader) = &mut self.role else { return };
        if self.settings.lease && round <= leader.reads.round {
            leader.reads.lease_over = leader.reads.lease_over.max(round);
        }
    }

    /// Whether this server leads and knows that nobody else can: a quorum confirmed it in a round that began less than a
    /// lease ago.
    #[must_use]
    pub fn has_lease(&self) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        let confirmed = leader.reached_by_quorum(leader.reads.round, |peer| peer.confirmed_round);
        self.settings.lease && !leader.reads.lease_given_up && confirmed > leader.reads.lease_over
    }

    /// With a heartbeat what was lost of a round is asked again, as a new round. With leases it renews them.
    pub(super) fn repeat_read_round(&mut self, actions: &mut impl ActionSink) {
        let renews = self.settings.lease;
        if matches!(&self.role, Role::Leader(leader) if renews || !leader.reads.waiting.is_empty()) {
            self.begin_read_round(actions);
        }
    }

    /// Asks all followers whether they follow this leader. Like its appends this waits for no write.
    fn begin_read_round(&mut self, actions: &mut impl ActionSink) {
        let (from, term) = (self.settings.id, self.hard_state.term);
        let Role::Leader(leader) = &mut self.role else { return };
        leader.reads.round += 1;
        let message = Message::ConfirmLeaderRequest(ConfirmLeaderRequest { term, round: leader.reads.round });
        for (to, _) in leader.peers.iter().filter(|(_, peer)| peer.suffrage.any()) {
            actions.push(Action::Send(Envelope { from, to: *to, message: message.clone() }));
        }
        self.answer_reads(actions);
    }

    /// Says whether this server follows the sender in its term.
    pub(super) fn handle_confirm_leader_request(
        &mut self,
        from: NodeId,
        request: ConfirmLeaderRequest,
        actions: &mut impl ActionSink,
    ) {
        let term = self.hard_state.term;
        if request.term == term {
            if let Some(leader) = self.leader.filter(|leader| *leader != from) {
                return actions
                    .push(Action::Misbehaved { peer: from, reason: PeerMisbehaved::SecondLeader { term, leader } });
            }
            self.follow(from, actions);
        }
        self.persist_hard_state(actions);
        let response = ConfirmLeaderResponse { term, leader_term: request.term, round: request.round };
        self.send_after_term(from, Message::ConfirmLeaderResponse(response), actions);
    }

    /// Counts an answer to a question of this term.
    pub(super) fn handle_confirm_leader_response(
        &mut self,
        from: NodeId,
        response: ConfirmLeaderResponse,
        actions: &mut impl ActionSink,
    ) {
        let term = self.hard_state.term;
        // The question may be one of an earlier term, in which this server led too, and which counted its rounds from 1.
        if response.term != term || response.leader_term != term {
            return;
        }
        let Role::Leader(leader) = &mut self.role else { return };
        let asked = leader.reads.round;
        let Some(progress) = leader.progress_mut(from) else { return };
        // The question was put to a former life, before the server was removed and added again; or it lost data since.
        if response.round <= progress.round_before || progress.lost.is_some() {
            return;
        }
        if response.round > asked {
            let reason = PeerMisbehaved::ConfirmedUnasked { round: response.round };
            return actions.push(Action::Misbehaved { peer: from, reason });
        }
        progress.active = true;
        if response.round > progress.confirmed_round {
            progress.confirmed_round = response.round;
            self.answer_reads(actions);
        }
    }

    /// Lets go of the reads whose round a quorum confirmed, this server among it, and begins the next round if reads wait
    /// for it.
    fn answer_reads(&mut self, actions: &mut impl ActionSink) {
        let Role::Leader(leader) = &mut self.role else { return };
        let confirmed = leader.reached_by_quorum(leader.reads.round, |peer| peer.confirmed_round);
        while let Some(WaitingRead { context, reader, index, .. }) = leader.reads.pop_confirmed(confirmed) {
            let Some(to) = reader else {
                actions.push(Action::ReadReady { context, index });
                continue;
            };
            // Who is no member any more gets no answer.
            let Some(progress) = leader.progress(to) else { continue };
            let commit = self.commit_index.min(progress.match_index);
            let response = ReadIndexResponse { term: self.hard_state.term, context, index, commit };
            let message = Message::ReadIndexResponse(response);
            actions.push(Action::Send(Envelope { from: self.settings.id, to, message }));
        }
        if leader.reads.waiting.front().is_some_and(|read| read.round > leader.reads.round) {
            self.begin_read_round(actions);
        }
    }

    /// This server leads no more, or has lost its leader: its reads that wait get no answer here. Followers notice by
    /// themselves.
    pub(super) fn abort_reads(&mut self, actions: &mut impl ActionSink) {
        match &mut self.role {
            Role::Leader(leader) => {
                for read in leader.reads.waiting.drain(..).filter(|read| read.reader.is_none()) {
                    actions.push(Action::ReadAborted { context: read.context });
                }
            }
            Role::Follower(reads) => {
                for context in core::mem::take(reads).waiting {
                    actions.push(Action::ReadAborted { context });
                }
            }
            Role::PreCandidate(_) | Role::Candidate(_) => {}
        }
    }

    /// The laws of waiting reads; see `invariant.rs`.
    pub(super) fn check_reads(reads: &Reads, peers: &[(NodeId, Progress)]) {
        let mut before = WaitingRead { context: 0, reader: None, round: 1, index: Index::ZERO };
        for read in &reads.waiting {
            let in_order = read.round >= before.round && read.round <= reads.round + 1 && read.index >= before.index;
            assert!(in_order, "ReadsInOrder: {read:?} after {before:?} in round {}", reads.round);
            before = *read;
        }
        assert!(
            reads.waiting.front().is_none_or(|read| read.round <= reads.round),
            "ReadsInOrder: a round is on its way"
        );
        // Of a server that came, or came back, in this term no earlier round was asked.
        let was_asked = |peer: &Progress| {
            let round = peer.confirmed_round;
            round == 0 || (round > peer.round_before && round <= reads.round)
        };
        assert!(peers.iter().all(|(_, peer)| was_asked(peer)), "ConfirmedWasAsked");
        let mut asked: Vec<NodeId> = reads.waiting.iter().filter_map(|read| read.reader).collect();
        asked.sort_unstable();
        assert!(asked.windows(3).all(|of| of[0] != of[2]), "TwoQuestionsPerFollower: {asked:?}");
    }
}

#[cfg(test)]
mod tests;
