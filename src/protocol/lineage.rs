//! Which history the log belongs to: how it gets one, and when that is settled.
//!
//! No part of the dissertation, in which there is one cluster; of the spec neither, whose states hold no random bits. The
//! first leader of an empty log names the history in its first entry, in the place of the no-op: the configuration that is in
//! force anyway, with the identity. So followers, snapshots and checkpoints get it with the configuration, and a truncation
//! takes an uncommitted one back. Once that entry is committed the history is settled, and the oldest configuration that
//! this server remembers says so too: from then on a compaction keeps it.
//!
//! `HistoryIsOne`: where the logs of two servers agree by index and term, they agree on the history. A leader says which
//! history the entry before its own belongs to, and a follower that finds another one there takes nothing from it: that
//! leader's cluster and this one have each put an entry there. What a peer sends is refused and reported, before anything of
//! it counts, its term included. The rule holds for compacted entries too: their terms are gone, but they were committed,
//! so the settled history says whose they were.

use super::Protocol;
use crate::action::ActionSink;
use crate::error::PeerMisbehaved;
use crate::history::{History, HistoryId};
use crate::log::LogView;
use crate::membership::Membership;
use crate::message::{AppendEntriesRequest, InstallSnapshotRequest, Message};
use crate::types::{Entry, EntryId, Index, Payload, Term};
use alloc::sync::Arc;

impl Protocol {
    /// The first entry of an empty log, if this server has an identity for the history that begins with it.
    pub(super) fn found_history(&mut self, since: EntryId, actions: &mut impl ActionSink) -> Option<Payload> {
        let id = self.settings.history?;
        let present = self.membership();
        if self.tail.last() != EntryId::ZERO || present.history().is_some() {
            return None;
        }
        let membership = Arc::new(present.with_history(Arc::new(History::new(id, since))));
        // The largest configurations leave no room for it. Such a cluster has no history, as before there were any.
        if membership.encoded_len() > Membership::ENCODED_BYTES_MAX {
            return None;
        }
        self.configurations.push(since.index, Arc::clone(&membership));
        self.report_membership(actions);
        Some(Payload::Membership(membership))
    }

    /// The history that this log is known to belong to: an entry that is committed brought it, or the snapshot did.
    #[inline]
    #[must_use]
    pub const fn history(&self) -> Option<&Arc<History>> {
        self.configurations.history()
    }

    /// What is committed may have brought a history.
    #[inline]
    pub(super) fn advance_history(&mut self) {
        if self.configurations.history_due() <= self.commit_index {
            self.configurations.settle_history(self.commit_index);
        }
    }
}

impl Protocol {
    /// The history of the entry at `index` of this log, committed or not.
    #[inline]
    pub(super) fn history_at(&self, index: Index) -> Option<HistoryId> {
        self.configurations.history_at(index)
    }

    /// The history of an entry that this log has compacted, or of the one at its base. Compacted entries were committed, so
    /// the settled history says whose they were; a log without a history had none there. Each leader that may go on from
    /// this log says the same of them, because it holds all that was ever committed here.
    #[cold]
    fn compacted_history_at(&self, index: Index) -> Option<HistoryId> {
        self.history().and_then(|history| history.at(index))
    }

    /// Whether what a peer asks can be of the history that this log belongs to.
    #[inline]
    pub(super) fn check_history(&self, log: &impl LogView, message: &Message) -> Result<(), PeerMisbehaved> {
        match message {
            Message::AppendEntriesRequest(request) => {
                // Most appends: entries behind all configurations that this server knows, and none among them.
                let is_newest = self.configurations.is_newest(request.prev.index, request.history);
                if is_newest && !request.entries.may_hold_memberships() {
                    return Ok(());
                }
                self.check_appended_history(log, request)
            }
            Message::InstallSnapshotRequest(request) => self.check_offered_history(log, request),
            Message::PreVoteRequest(_)
            | Message::RequestVoteRequest(_)
            | Message::ConfirmLeaderRequest(_)
            | Message::ReadIndexRequest(_)
            | Message::TimeoutNowRequest(_) => self.check_term_of_history(message.term()),
            // An answer unseats nobody: one of an earlier term is dropped.
            Message::PreVoteResponse(_)
            | Message::RequestVoteResponse(_)
            | Message::AppendEntriesResponse(_)
            | Message::ConfirmLeaderResponse(_)
            | Message::ReadIndexResponse(_) => Ok(()),
        }
    }

    /// A restored cluster begins in a term far beyond those of the one that was backed up, and no server comes from there: who
    /// speaks in an earlier term is of that one. It is not told the term here, which would unseat its leader.
    fn check_term_of_history(&self, term: Term) -> Result<(), PeerMisbehaved> {
        let Some(history) = self.history() else { return Ok(()) };
        match history.restored_by() {
            Some(entry) if term < entry.term => {
                Err(PeerMisbehaved::OtherHistory { index: entry.index, ours: history.at(entry.index), theirs: None })
            }
            _ => Ok(()),
        }
    }

    #[cold]
    fn check_appended_history(&self, log: &impl LogView, request: &AppendEntriesRequest) -> Result<(), PeerMisbehaved> {
        self.check_term_of_history(request.term)?;
        let prev = request.prev;
        let differs = |index, ours, theirs| Err(PeerMisbehaved::OtherHistory { index, ours, theirs });
        let base = self.tail.base().index;
        let mut theirs = request.history;
        let is_compacted = prev.index < base;
        let ours = if is_compacted { self.compacted_history_at(prev.index) } else { self.history_at(prev.index) };
        if (is_compacted || self.term_at(log, prev.index) == Some(prev.term)) && theirs != ours {
            return differs(prev.index, ours, theirs);
        }
        // An entry of an ancestor, where this log is known to be past it: of servers that did not follow here. They ask for
        // nothing that this log holds, so only this tells them apart, before their term counts.
        let left_behind = |known: &Arc<History>| {
            known.since().index <= prev.index && theirs.is_some_and(|theirs| known.descends_from(theirs))
        };
        if self.history().is_some_and(left_behind) || self.is_strange(request) {
            return differs(prev.index, self.history().map(|history| history.id()), theirs);
        }
        // What is compacted was committed, and agrees with the log of every leader of its history.
        let mut agrees = is_compacted || self.term_at(log, prev.index) == Some(prev.term);
        // A snapshot brings the history with it that its leader knows of, which may begin with an entry that is still to come.
        let known = self.history().filter(|history| history.since().index <= self.tail.last().index);
        for entry in request.entries.iter() {
            let index = entry.id.index;
            let brought = Self::history_after(theirs, entry);
            // The compacted entry cannot be looked at, but its history is known.
            if index <= base {
                let (ours, theirs) = (self.compacted_history_at(index), brought.unwrap_or(theirs));
                if ours != theirs {
                    return differs(index, ours, theirs);
                }
            } else {
                agrees &= self.term_at(log, index) == Some(entry.id.term);
                let settled = known.map(|history| history.since().index);
                let is_other = if agrees { !self.holds(entry) } else { settled >= Some(index) };
                if is_other {
                    return differs(index, self.history_at(index), brought.unwrap_or(theirs));
                }
            }
            let Some(brought) = brought else { return differs(index, theirs, None) };
            let adopts = |known: &Arc<History>| match &entry.payload {
                Payload::Membership(membership) => {
                    membership.history().is_none_or(|new| new.takes_in(self.settings.id, known.id()))
                }
                _ => true,
            };
            if !agrees && !known.is_none_or(adopts) {
                return differs(index, known.map(|history| history.id()), brought);
            }
            theirs = brought;
        }
        Ok(())
    }

    /// Whether a later term is to begin here by an append of a history that this server knows nothing of, while it leads, or
    /// hears its leader. It cannot tell a child of its own history from a sibling or another cluster's before it sees the
    /// entry that brings it. But a cluster is recovered because it has lost its leader: where there is one, the other cannot
    /// be a child that this server is to follow, and its term does not count (as candidates do not, §4.2.3).
    fn is_strange(&self, request: &AppendEntriesRequest) -> bool {
        let (Some(settled), Some(theirs)) = (self.history(), request.history) else { return false };
        let knows = |ours: &Arc<History>| ours.id() == theirs || ours.descends_from(theirs);
        // A child that this server follows already may not be settled yet.
        let is_known = knows(settled) || self.membership().history().is_some_and(knows);
        !is_known && request.term > self.hard_state.term && self.disregards_candidates()
    }

    /// The history of a log that goes on with `entry` after one of `before`; the outer `None` if it cannot.
    fn history_after(before: Option<HistoryId>, entry: &Entry) -> Option<Option<HistoryId>> {
        let Payload::Membership(membership) = &entry.payload else { return Some(before) };
        match membership.history() {
            None => before.is_none().then_some(None),
            Some(history) if Some(history.id()) == before => Some(before),
            // Its parent, unless that never got as far as here.
            Some(history) => {
                let goes_on = history.since() == entry.id && history.at(entry.id.index.previous()) == before;
                goes_on.then_some(Some(history.id()))
            }
        }
    }

    /// Whether an entry that this log has by index and term is that very entry, as far as configurations tell.
    fn holds(&self, entry: &Entry) -> bool {
        let known = self.configurations.iter().skip(1).find(|(index, _)| *index == entry.id.index);
        match (&entry.payload, known) {
            (Payload::Membership(theirs), Some((_, ours))) => theirs == ours,
            // Covered by the snapshot, which took its configuration along.
            (Payload::Membership(_), None) => entry.id.index <= self.snapshot.index,
            (_, known) => known.is_none(),
        }
    }

    #[cold]
    fn check_offered_history(
        &self,
        log: &impl LogView,
        request: &InstallSnapshotRequest,
    ) -> Result<(), PeerMisbehaved> {
        self.check_term_of_history(request.term)?;
        let last = request.last;
        let offered = request.membership.history();
        let theirs = offered.and_then(|history| history.at(last.index));
        let holds = self.term_at(log, last.index) == Some(last.term);
        // A snapshot covers the same entries as this log's compacted part, as far as both reach.
        let both_cover = last.index.min(self.tail.base().index);
        let fits = match (self.history(), offered) {
            _ if offered.and_then(|history| history.at(both_cover)) != self.compacted_history_at(both_cover) => false,
            _ if holds && theirs != self.history_at(last.index) => false,
            (Some(settled), Some(offered)) => offered.takes_in(self.settings.id, settled.id()),
            // Taken before there was one, by a leader that does not know yet that it is committed.
            (Some(settled), None) => settled.at(last.index).is_none(),
            // Two leaders cannot have led one term.
            (None, Some(offered)) => self
                .membership()
                .history()
                .is_none_or(|known| known.id() == offered.id() || known.since() != offered.since()),
            (None, None) => true,
        };
        let ours = self.membership().history().map(|history| history.id());
        let theirs = offered.map(|history| history.id());
        if fits { Ok(()) } else { Err(PeerMisbehaved::OtherHistory { index: last.index, ours, theirs }) }
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::action::{Action, Write};
    use crate::config::RaftConfig;
    use crate::event::Event;
    use crate::log::{MemoryLog, RaftLog};
    use crate::message::Envelope;
    use crate::types::{Entries, HardState, NodeId};
    use alloc::vec;
    use alloc::vec::Vec;

    fn id(bits: u128) -> HistoryId {
        HistoryId::from_bits(bits << 64 | bits)
    }

    /// Server 1 of three, which follows server 2 in term 1, and knows that the first three entries are committed: the first
    /// brought its history.
    struct Follower {
        log: MemoryLog,
        protocol: Protocol,
    }

    impl Follower {
        fn new() -> Self {
            let membership = Membership::new([1, 2, 3]).with_history(Arc::new(History::new(id(1), EntryId::new(1, 1))));
            let first = Entry { id: EntryId::new(1, 1), payload: Payload::Membership(Arc::new(membership)) };
            let more = [2, 3].map(|index| Entry { id: EntryId::new(index, 1), payload: Payload::Noop });
            let entries = [first].into_iter().chain(more).collect();
            let hard_state = Some(HardState { term: Term(1), vote: Some(NodeId(2)) });
            let mut log = MemoryLog::default();
            log.append(&mut vec![Write { hard_state, entries, ..Write::default() }]).unwrap();
            log.sync().unwrap();
            let protocol = Protocol::new(&RaftConfig::new(1, [1, 2, 3]), &log).unwrap();
            let mut follower = Self { log, protocol };
            assert_eq!(follower.append(2, 1, (3, 1), id(1), Entries::EMPTY), Ok(Term(1)));
            assert_eq!(follower.protocol.history().map(|history| history.id()), Some(id(1)));
            follower
        }

        /// An append behind the entry `prev`, which is of this history: the term after it, or the reason of its refusal.
        fn append(
            &mut self,
            from: u64,
            term: u64,
            prev: (u64, u64),
            history: HistoryId,
            entries: Entries,
        ) -> Result<Term, PeerMisbehaved> {
            let request = AppendEntriesRequest {
                term: Term(term),
                prev: EntryId::new(prev.0, prev.1),
                entries,
                commit: Index(3),
                session: Index::ZERO,
                history: Some(history),
                acknowledged: Index::ZERO,
                disk: Default::default(),
            };
            let message = Message::AppendEntriesRequest(request);
            self.step(Event::Receive(Envelope { from: NodeId(from), to: NodeId(1), message }))
        }

        fn step(&mut self, event: Event) -> Result<Term, PeerMisbehaved> {
            let mut actions = Vec::new();
            self.protocol.step(&self.log, event, &mut actions).unwrap();
            for action in actions {
                match action {
                    Action::Misbehaved { reason, .. } => return Err(reason),
                    Action::Persist(write) => {
                        self.log.append(&mut vec![write]).unwrap();
                        self.log.sync().unwrap();
                        self.step(Event::Persisted { writes: 1 })?;
                    }
                    _ => {}
                }
            }
            Ok(self.protocol.term())
        }
    }

    /// The leader of another cluster, in a higher term and with a longer log, was told by mistake to add a server of this one. There was
    /// nothing to compare, so its term counted, and with its next answer the server took its own leader's away.
    #[test]
    fn a_follower_that_hears_its_leader_learns_no_term_of_another_history() {
        let mut follower = Follower::new();
        let refused =
            |ours| Err(PeerMisbehaved::OtherHistory { index: Index(9), ours: Some(ours), theirs: Some(id(7)) });
        assert_eq!(follower.append(9, 7, (9, 7), id(7), Entries::EMPTY), refused(id(1)));
        assert_eq!((follower.protocol.term(), follower.protocol.leader()), (Term(1), Some(NodeId(2))));
        // A new leader of its own history, which may know more of it, is followed at once.
        assert_eq!(follower.append(3, 8, (9, 8), id(1), Entries::EMPTY), Ok(Term(8)));
    }

    /// The leader of a recovered cluster brought the child, which is not settled here yet; then another one leads.
    #[test]
    fn a_child_that_is_followed_is_known_before_it_is_settled() {
        let mut follower = Follower::new();
        let parent = follower.protocol.history().map(Arc::clone).unwrap();
        let child = History::child(Some(&parent), id(2), EntryId::new(4, 7), [NodeId(4)]);
        let entry = |index: u64, term: u64, voters: &[u64]| {
            let membership = Membership::new(voters.iter().copied()).with_history(Arc::new(child.clone()));
            let payload = Payload::Membership(Arc::new(membership));
            [Entry { id: EntryId::new(index, term), payload }].into_iter().collect::<Entries>()
        };
        follower.step(Event::MinimumElectionTimeout).unwrap();
        assert_eq!(follower.append(2, 7, (3, 1), id(1), entry(4, 7, &[1, 2, 3])), Ok(Term(7)));
        assert_eq!(follower.protocol.history(), Some(&parent), "nobody has said that it is committed");
        assert_eq!(follower.append(3, 8, (4, 7), id(2), entry(5, 8, &[1, 2, 3, 5])), Ok(Term(8)));
        assert_eq!(follower.protocol.last(), EntryId::new(5, 8));
    }

    /// After a recovery the other survivors do not know the child yet: whoever has no leader any more must listen.
    #[test]
    fn a_follower_that_misses_its_leader_listens_to_a_history_that_it_does_not_know() {
        let mut follower = Follower::new();
        assert_eq!(follower.step(Event::MinimumElectionTimeout), Ok(Term(1)));
        assert_eq!(follower.append(3, 7, (9, 7), id(7), Entries::EMPTY), Ok(Term(7)));
        assert_eq!(follower.protocol.leader(), Some(NodeId(3)));
    }
}
