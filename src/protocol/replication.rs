//! Log replication: how a leader's entries reach its followers and become committed.
//!
//! Dissertation §3.5 (replication, Log Matching, conflict hints), §3.6.2 (what a leader may
//! commit), §10.2.1 (writing and sending in parallel, pipelining). Spec: `ClientRequest`,
//! `HeartbeatTimeout`, `HandleAppendEntriesRequest`, `HandleAppendEntriesResponse`.

use super::membership_change::Configurations;
use super::progress::{Progress, ProgressState};
use super::role::Role;
use super::tail::Tail;
use super::{Protocol, Settings};
use crate::action::{Action, ActionSink};
use crate::error::{PeerMisbehaved, ProposeError};
use crate::log::{LogView, Read};
use crate::message::{
    AppendEntriesRequest, AppendEntriesResponse, AppendResult, Envelope, InstallSnapshotRequest, Message,
};
use crate::types::{Entries, Entry, EntryId, Index, NodeId, Payload, Term};
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;

impl Protocol {
    /// Appends commands to the leader's log, all or none, and sends them on.
    pub(super) fn client_request<C>(&mut self, commands: C, actions: &mut impl ActionSink) -> Result<(), ProposeError>
    where
        C: AsRef<[Bytes]> + IntoIterator<Item = Bytes>,
        C::IntoIter: ExactSizeIterator,
    {
        let count = commands.as_ref().len();
        self.check_proposal(commands.as_ref())?;
        let first = EntryId { index: self.tail.last().index.next(), term: self.hard_state.term };
        let entry = |(position, command)| Entry {
            id: EntryId { index: first.index.plus(position), term: first.term },
            payload: Payload::Command(command),
        };
        let entries = Entries::of_commands(commands.into_iter().enumerate().map(entry));
        actions.push(Action::Proposed { first, count });
        self.append_as_leader(entries, actions);
        Ok(())
    }

    fn check_proposal(&self, commands: &[Bytes]) -> Result<(), ProposeError> {
        let Role::Leader(leader) = &self.role else {
            return Err(ProposeError::NotLeader { leader: self.leader, term: self.hard_state.term });
        };
        if let Some(target) = leader.transfer {
            return Err(ProposeError::TransferInProgress { target, term: self.hard_state.term });
        }
        if commands.is_empty() {
            return Err(ProposeError::Empty);
        }
        let limit_bytes = self.settings.command_bytes_max;
        if let Some(command) = commands.iter().find(|command| command.len() > limit_bytes) {
            return Err(ProposeError::TooLarge { bytes: command.len(), limit_bytes });
        }
        let uncommitted_bytes = leader.uncommitted.bytes();
        let proposal_bytes = commands.iter().map(|command| Entry::OVERHEAD_BYTES + command.len()).sum::<usize>();
        let limit_bytes = self.settings.write_bytes_max;
        if proposal_bytes > limit_bytes {
            return Err(ProposeError::BatchTooLarge { commands: commands.len(), bytes: proposal_bytes, limit_bytes });
        }
        let limit_bytes = self.settings.uncommitted_bytes_max;
        if uncommitted_bytes > 0 && uncommitted_bytes.saturating_add(proposal_bytes) > limit_bytes {
            return Err(ProposeError::Overloaded { uncommitted_bytes, proposal_bytes, limit_bytes });
        }
        Ok(())
    }

    /// Writes entries here and sends them to the followers in parallel (§10.2.1). The leader
    /// counts itself only once its own write is durable.
    pub(super) fn append_as_leader(&mut self, entries: Entries, actions: &mut impl ActionSink) {
        let prev = self.tail.last();
        let bytes = entries.size_bytes();
        self.persist(None, entries.clone(), EntryId::ZERO, actions);
        let Role::Leader(leader) = &mut self.role else {
            unreachable!("LeaderAppendOnly: only a leader appends as one");
        };
        assert_eq!(leader.transfer, None, "TransferAppendsNothing");
        leader.uncommitted.add(self.tail.last().index, bytes);
        let fresh = Fresh {
            from: self.settings.id,
            term: self.hard_state.term,
            commit: self.commit_index,
            configurations: &self.configurations,
            settings: &self.settings,
        };
        // The last one takes the run along instead of another reference to it.
        let Some(((last_peer, last_progress), others)) = leader.peers.split_last_mut() else { return };
        for (peer, progress) in others {
            fresh.send(*peer, progress, prev, entries.clone(), bytes, actions);
        }
        fresh.send(*last_peer, last_progress, prev, entries, bytes, actions);
    }

    /// A leader assures every follower that it leads, and finds out what got lost: the heartbeat
    /// is an empty append after the last entry sent.
    pub(super) fn heartbeat_timeout(&mut self, log: &impl LogView, actions: &mut impl ActionSink) {
        let (sender, role) = self.split(log);
        let Role::Leader(leader) = role else { return };
        for (peer, progress) in &mut leader.peers {
            sender.send_heartbeat(*peer, progress, actions);
        }
        self.repeat_read_round(actions);
        self.send_timeout_now(actions);
    }

    /// Takes over a leader's entries, as far as the logs agree before them (§3.5).
    pub(super) fn handle_append_entries_request(
        &mut self,
        log: &impl LogView,
        from: NodeId,
        request: AppendEntriesRequest,
        actions: &mut impl ActionSink,
    ) {
        let term = self.hard_state.term;
        if request.term < term {
            return self.send_append_result(from, AppendResult::StaleTerm, request.session, actions);
        }
        // Taken apart, so that what follows needs no copy of the whole.
        let AppendEntriesRequest { prev, entries, commit, session, acknowledged, disk, .. } = request;
        let decision = match self.decide_append(log, from, prev, &entries) {
            Err(reason) => return actions.push(Action::Misbehaved { peer: from, reason }),
            Ok(decision) => decision,
        };
        if self.lacks_acknowledged((acknowledged, disk), prev, &decision) {
            return self.lose(from, (term, acknowledged, session), actions);
        }
        self.follow(from, actions);
        let is_heartbeat = entries.is_empty();
        self.session = Some(session);
        let result = match decision {
            Decision::Reject(hint) => {
                self.persist_hard_state(actions);
                AppendResult::Rejected { prev_index: prev.index, hint }
            }
            Decision::Accept { known, truncate_from } => {
                self.accept_entries((prev, entries, commit), known, truncate_from, actions)
            }
        };
        self.send_append_result(from, result, session, actions);
        if is_heartbeat {
            self.ask_read_index(actions);
        }
    }

    /// Decides what to do with an append of the present term; changes nothing.
    fn decide_append(
        &self,
        log: &impl LogView,
        from: NodeId,
        prev: EntryId,
        entries: &Entries,
    ) -> Result<Decision, PeerMisbehaved> {
        if let Some(leader) = self.leader.filter(|leader| *leader != from) {
            return Err(PeerMisbehaved::SecondLeader { term: self.hard_state.term, leader });
        }
        let own_term = self.term_at(log, prev.index);
        if prev.index <= self.commit_index {
            // What is committed agrees with every later leader's log (Leader Completeness); what
            // is compacted was committed.
            if own_term.is_some_and(|term| term != prev.term) {
                return Err(PeerMisbehaved::CommittedConflict { index: prev.index });
            }
        } else if own_term != Some(prev.term) {
            let bound = prev.index.min(self.tail.last().index);
            return Ok(Decision::Reject(self.tail.agree_max(log, bound, prev.term)));
        }
        for (known, entry) in entries.iter().enumerate() {
            let index = entry.id.index;
            if index > self.tail.last().index {
                return Ok(Decision::Accept { known, truncate_from: None });
            }
            let differs = self.term_at(log, index).is_some_and(|term| term != entry.id.term);
            if differs && index <= self.commit_index {
                return Err(PeerMisbehaved::CommittedConflict { index });
            }
            if differs {
                return Ok(Decision::Accept { known, truncate_from: Some(index) });
            }
        }
        Ok(Decision::Accept { known: entries.len(), truncate_from: None })
    }

    /// The answer to an append or an offer; it leaves once what it says is durable.
    pub(super) fn send_append_result(
        &mut self,
        to: NodeId,
        result: AppendResult,
        session: Index,
        actions: &mut impl ActionSink,
    ) {
        let response = self.append_response(result, session);
        self.send(to, Message::AppendEntriesResponse(response), actions);
    }

    pub(super) fn append_response(&self, result: AppendResult, session: Index) -> AppendEntriesResponse {
        let (term, disk) = (self.hard_state.term, self.settings.disk);
        AppendEntriesResponse { term, result, session: Some(session), disk }
    }

    /// `from` leads this term.
    pub(super) fn follow(&mut self, from: NodeId, actions: &mut impl ActionSink) {
        if self.leader != Some(from) || !matches!(self.role, Role::Follower(_)) {
            self.become_follower(Some(from), actions);
        }
        self.leader_is_recent = self.settings.check_quorum;
        actions.push(Action::ResetElectionTimer);
    }

    /// Appends what is new. Entries that are already there stay: a delayed message must not undo a
    /// later one (only a real conflict truncates, Figure 3.1).
    fn accept_entries(
        &mut self,
        (prev, entries, commit): (EntryId, Entries, Index),
        known: usize,
        truncate_from: Option<Index>,
        actions: &mut impl ActionSink,
    ) -> AppendResult {
        // Only up to the last entry that this request vouches for: what follows in this log may
        // differ from the leader's (§3.5).
        let match_index = prev.index.plus(entries.len());
        if known == entries.len() {
            self.persist_hard_state(actions);
        } else if known == 0 {
            self.follow_memberships(truncate_from, &entries, 0, actions);
            self.persist(truncate_from, entries, prev, actions);
        } else {
            let before = entries[known - 1].id;
            self.follow_memberships(truncate_from, &entries, known, actions);
            self.persist(truncate_from, entries.slice(known, entries.len()), before, actions);
        }
        self.advance_commit_to(commit.min(match_index), actions);
        AppendResult::Accepted { match_index }
    }

    /// Learns what a follower holds, commits what a majority holds, and sends what comes next.
    pub(super) fn handle_append_entries_response(
        &mut self,
        log: &impl LogView,
        from: NodeId,
        response: AppendEntriesResponse,
        actions: &mut impl ActionSink,
    ) {
        // An answer to an earlier term's append says nothing about this term's.
        if response.term != self.hard_state.term {
            return;
        }
        let last = self.tail.last().index;
        let Role::Leader(leader) = &mut self.role else { return };
        let is_target = leader.transfer == Some(from);
        let Some(progress) = leader.progress_mut(from) else { return };
        // Nor does one of a former life, before the server was removed and added again.
        if response.session.is_some_and(|session| session != progress.session) {
            return;
        }
        // It is believed nothing since it lost data.
        if progress.lost.is_some() {
            return;
        }
        let matched_before = progress.match_index;
        // What is dropped changes nothing: only what is believed shows that the follower is there.
        match response.result {
            AppendResult::Accepted { match_index } if match_index > last => {
                let reason = PeerMisbehaved::AcknowledgedUnsent { index: match_index };
                return actions.push(Action::Misbehaved { peer: from, reason });
            }
            AppendResult::Accepted { match_index } => progress.accepted(match_index, response.disk),
            AppendResult::Rejected { prev_index, hint } => {
                if !progress.refusal_is_current(prev_index) {
                    // One that waits for a snapshot has no other answer to a heartbeat.
                    progress.active |= progress.state == ProgressState::Snapshot;
                    return;
                }
                let bound = hint.index.min(prev_index.previous());
                progress.refused(self.tail.agree_max(log, bound, hint.term).index);
            }
            AppendResult::StaleTerm => return,
            AppendResult::LostAcknowledged { acknowledged, durable } => {
                return Self::learn_of_loss(from, progress, (acknowledged, durable), response.disk, actions);
            }
        }
        progress.active = true;
        let catches_up = is_target && progress.match_index > matched_before;
        let may_commit = progress.match_index > self.commit_index;
        let may_send = progress.may_send(self.tail.durable());
        if may_commit {
            self.advance_commit(actions);
        }
        if may_send {
            self.replicate_to(log, from, actions);
        }
        if catches_up {
            self.send_timeout_now(actions);
        }
        self.advance_membership(Some(from), actions);
    }

    /// What was not sent when it was appended follows once it is durable here.
    pub(super) fn replicate_durable(&mut self, log: &impl LogView, actions: &mut impl ActionSink) {
        let durable = self.tail.durable();
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.peers.iter().any(|(_, progress)| progress.may_send(durable)) {
            let peers: Vec<NodeId> = leader.peers.iter().map(|(peer, _)| *peer).collect();
            peers.into_iter().for_each(|peer| self.replicate_to(log, peer, actions));
        }
    }

    /// What a leader's messages are made of, apart from what it knows of its peers.
    fn split<'a, L>(&'a mut self, log: &'a L) -> (Sender<'a, L>, &'a mut Role) {
        let sender = Sender {
            settings: &self.settings,
            tail: &self.tail,
            log,
            term: self.hard_state.term,
            commit: self.commit_index,
            snapshot: self.snapshot,
            configurations: &self.configurations,
        };
        (sender, &mut self.role)
    }

    fn replicate_to(&mut self, log: &impl LogView, peer: NodeId, actions: &mut impl ActionSink) {
        let (sender, role) = self.split(log);
        let Role::Leader(leader) = role else { return };
        if let Some(progress) = leader.progress_mut(peer) {
            sender.replicate(peer, progress, actions);
        }
    }

    /// A leader commits what a majority holds durably, itself among them once its own write is
    /// durable, but only from its own term on: older entries commit with the first of its own
    /// (§3.6.2, Figure 3.7).
    pub(super) fn advance_commit(&mut self, actions: &mut impl ActionSink) {
        let durable = self.tail.durable();
        let Role::Leader(leader) = &mut self.role else { return };
        let candidate = leader.reached_by_quorum(durable, |peer| peer.match_index);
        if candidate > self.commit_index && candidate >= leader.term_start {
            leader.uncommitted.release(candidate);
            self.commit_index = candidate;
            self.advance_apply(actions);
        }
    }

    /// A follower learns that everything up to `index` is committed; a late message may say less than is known.
    pub(super) fn advance_commit_to(&mut self, index: Index, actions: &mut impl ActionSink) {
        self.commit_index = self.commit_index.max(index);
        // Whatever a snapshot that is being fetched would bring is here.
        self.fetch.take_if(|fetch| fetch.last.index <= self.commit_index);
        self.advance_apply(actions);
    }

    /// Hands out what is committed and durable here. Waiting for the own disk keeps a state machine
    /// that is durable itself from getting ahead of the log that it would be replayed from.
    pub(super) fn advance_apply(&mut self, actions: &mut impl ActionSink) {
        self.advance_history();
        let last = self.snapshot;
        if last.index > self.applied_through {
            if self.tail.durable() < last.index {
                return;
            }
            self.applied_through = last.index;
            actions.push(Action::RestoreSnapshot { last });
        }
        let through = self.commit_index.min(self.tail.durable());
        if through > self.applied_through {
            self.applied_through = through;
            actions.push(Action::Apply { through });
        }
    }
}

/// What to do with an append.
pub(super) enum Decision {
    /// No entry `prev` here; the logs agree at most up to this one.
    Reject(EntryId),
    /// The first `known` entries are here already; remove what conflicts; append the rest.
    Accept { known: usize, truncate_from: Option<Index> },
}

/// What messages with entries just appended are made of. They leave before their write is durable.
struct Fresh<'a> {
    from: NodeId,
    term: Term,
    commit: Index,
    configurations: &'a Configurations,
    settings: &'a Settings,
}

impl Fresh<'_> {
    /// Sends the run if the follower's state and window allow it. What does not go now follows
    /// once it is durable.
    #[inline]
    fn send(
        &self,
        to: NodeId,
        progress: &mut Progress,
        prev: EntryId,
        run: Entries,
        bytes: usize,
        actions: &mut impl ActionSink,
    ) {
        if bytes > self.settings.append_bytes_max || run.len() > self.settings.append_entries_max {
            self.send_in_pieces(to, progress, prev, &run, actions);
        } else if progress.takes_next(prev.index.next(), self.settings) {
            self.send_piece(to, progress, prev, run, bytes, actions);
        }
    }

    fn send_in_pieces(
        &self,
        to: NodeId,
        progress: &mut Progress,
        prev: EntryId,
        run: &Entries,
        actions: &mut impl ActionSink,
    ) {
        let mut prev = prev;
        while progress.takes_next(prev.index.next(), self.settings) {
            let first = prev.index.next();
            let end = first.plus(self.settings.append_entries_max.min(run.len()));
            let piece = run.range_within(first, end, self.settings.append_bytes_max);
            let Some(last) = piece.last_id() else { return };
            let bytes = piece.size_bytes();
            self.send_piece(to, progress, prev, piece, bytes, actions);
            prev = last;
        }
    }

    #[inline(always)]
    fn send_piece(
        &self,
        to: NodeId,
        progress: &mut Progress,
        prev: EntryId,
        entries: Entries,
        bytes: usize,
        actions: &mut impl ActionSink,
    ) {
        progress.sent(prev.index.plus(entries.len()), bytes);
        let (term, commit, session) = (self.term, self.commit, progress.session);
        let history = self.configurations.history_at(prev.index);
        let (acknowledged, disk) = (progress.acknowledged(), progress.disk);
        let request = AppendEntriesRequest { term, prev, entries, commit, session, history, acknowledged, disk };
        let message = Message::AppendEntriesRequest(request);
        actions.push(Action::Send(Envelope { from: self.from, to, message }));
    }
}

/// What a leader's messages are made of.
struct Sender<'a, L> {
    settings: &'a Settings,
    tail: &'a Tail,
    log: &'a L,
    term: Term,
    commit: Index,
    snapshot: EntryId,
    configurations: &'a Configurations,
}

impl<L: LogView> Sender<'_, L> {
    fn envelope(&self, to: NodeId, progress: &Progress, prev: EntryId, entries: Entries) -> Envelope {
        let (term, commit, session) = (self.term, self.commit, progress.session);
        let history = self.configurations.history_at(prev.index);
        let (acknowledged, disk) = (progress.acknowledged(), progress.disk);
        let request = AppendEntriesRequest { term, prev, entries, commit, session, history, acknowledged, disk };
        Envelope { from: self.settings.id, to, message: Message::AppendEntriesRequest(request) }
    }

    /// Sends what the follower's state and window allow.
    fn replicate(&self, to: NodeId, progress: &mut Progress, actions: &mut impl ActionSink) {
        loop {
            let probing = match progress.state {
                ProgressState::Probe { sent: true } | ProgressState::Snapshot => return,
                ProgressState::Probe { sent: false } => true,
                ProgressState::Replicate => false,
            };
            let has_more = progress.next_index <= self.tail.durable();
            let allowed = probing || (has_more && progress.window_open(self.settings));
            if !allowed {
                return;
            }
            self.send_next(to, progress, actions);
        }
    }

    /// Sends one append from `next_index` on, of what is durable here. Always makes progress: the window fills, a probe is
    /// on its way, or the state is `Snapshot`.
    fn send_next(&self, to: NodeId, progress: &mut Progress, actions: &mut impl ActionSink) {
        let first = progress.next_index;
        let bytes_max = self.settings.append_bytes_max;
        let end =
            self.tail.durable().next().min(Index(first.0.saturating_add(self.settings.append_entries_max as u64)));
        let prev_term = self.tail.term_at(self.log, first.previous());
        let (Some(term), read) = (prev_term, self.tail.read(self.log, first, end, bytes_max)) else {
            return self.fall_back_to_snapshot(to, progress, actions);
        };
        let prev = EntryId { index: first.previous(), term };
        match read {
            Read::Entries(entries) => {
                let last = entries.last_id().map_or(prev.index, |last| last.index);
                progress.sent(last, entries.size_bytes());
                actions.push(Action::Send(self.envelope(to, progress, prev, entries)));
            }
            Read::Cold => {
                // One message at a time until the follower is back in reach of the memory.
                progress.become_waiting_probe();
                let envelope = self.envelope(to, progress, prev, Entries::EMPTY);
                actions.push(Action::SendFromLog { envelope, end, bytes_max });
            }
            Read::Compacted => self.fall_back_to_snapshot(to, progress, actions),
        }
    }

    fn fall_back_to_snapshot(&self, to: NodeId, progress: &mut Progress, actions: &mut impl ActionSink) {
        progress.become_snapshot();
        self.offer_snapshot(to, progress.session, actions);
    }

    /// The data is fetched by the follower, and not with this message.
    fn offer_snapshot(&self, to: NodeId, session: Index, actions: &mut impl ActionSink) {
        let membership = Arc::clone(&self.configurations.as_of(self.snapshot.index).1);
        let request = InstallSnapshotRequest { term: self.term, last: self.snapshot, membership, session };
        let message = Message::InstallSnapshotRequest(request);
        actions.push(Action::Send(Envelope { from: self.settings.id, to, message }));
    }

    /// An empty append after what was sent last. A probe is repeated by its heartbeat, without the
    /// entries: those follow once the logs agree. With the heartbeat to a follower that needs a snapshot this is offered
    /// again: the offer or the follower's wish may have got lost.
    fn send_heartbeat(&self, to: NodeId, progress: &mut Progress, actions: &mut impl ActionSink) {
        let index = progress.next_index.previous();
        let sent_last = self.tail.term_at(self.log, index).map(|term| EntryId { index, term });
        let prev = sent_last.unwrap_or(self.tail.base());
        actions.push(Action::Send(self.envelope(to, progress, prev, Entries::EMPTY)));
        // No answer to a heartbeat would ever show where the logs agree: that is before the leader's first entry.
        if sent_last.is_none() && progress.lost.is_none() {
            self.fall_back_to_snapshot(to, progress, actions);
        }
    }
}

/// Checks that the entries of a request follow each other and `prev`, with numbers in range.
pub(super) fn check_entries(request: &AppendEntriesRequest) -> Result<(), PeerMisbehaved> {
    let prev = request.prev;
    let end_in_range = prev.index <= Index::MAX && prev.index.plus(request.entries.len()) <= Index::MAX;
    let indexes_in_range = request.commit.max(request.session).max(request.acknowledged) <= Index::MAX;
    if !(end_in_range && indexes_in_range && request.term <= Term::MAX) {
        return Err(PeerMisbehaved::NumberOutOfRange);
    }
    let mut last = prev;
    let mut consecutive = (prev.index == Index::ZERO) == (prev.term == Term::ZERO);
    for entry in request.entries.iter() {
        // Terms start at 1, and from there on only grow.
        consecutive &= entry.id.index == last.index.next() && entry.id.term >= last.term.max(Term(1));
        last = entry.id;
    }
    consecutive &= last.term <= request.term;
    if consecutive { Ok(()) } else { Err(PeerMisbehaved::EntriesNotConsecutive) }
}

/// Whether the numbers of a response are in range.
pub(super) fn is_in_range(response: &AppendEntriesResponse) -> bool {
    let result = match response.result {
        AppendResult::Accepted { match_index } => match_index <= Index::MAX,
        AppendResult::Rejected { prev_index, hint } => {
            prev_index <= Index::MAX && hint.index <= prev_index && hint.term <= Term::MAX
        }
        AppendResult::StaleTerm => true,
        AppendResult::LostAcknowledged { acknowledged, durable } => acknowledged.max(durable) <= Index::MAX,
    };
    result && response.term <= Term::MAX && response.session.is_none_or(|session| session <= Index::MAX)
}
