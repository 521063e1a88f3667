//! Snapshots and log compaction.
//!
//! Dissertation §5. Spec: `SnapshotTaken`, `HandleInstallSnapshotRequest`, `SnapshotFetched`, `SnapshotFetchFailed`.
//!
//! A snapshot is named by the last entry that it covers: state machines are deterministic, and the entry's id says all
//! entries before it. Each server takes its own and lets its log forget what it covers, up to a trail for followers that
//! are a little behind. One that is further behind is offered the leader's newest snapshot. It fetches the data beside the
//! stream of messages, at its own pace, and when that is durable the log begins anew right after it, in one write.

use super::Protocol;
use crate::action::{Action, ActionSink, Compaction};
use crate::error::{PeerMisbehaved, SnapshotRefused};
use crate::log::LogView;
use crate::membership::Membership;
use crate::message::{AppendResult, InstallSnapshotRequest};
use crate::types::{EntryId, Index, NodeId};
use alloc::sync::Arc;

/// A snapshot that is being fetched.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Fetch {
    /// Who offered it.
    pub(super) from: NodeId,
    /// The last entry that it covers.
    pub(super) last: EntryId,
    /// The configuration as of `last`.
    pub(super) membership: Arc<Membership>,
}

impl Protocol {
    /// A snapshot of the state machine is durable: it takes the place of the log's beginning.
    pub(super) fn snapshot_taken(
        &mut self,
        log: &impl LogView,
        last: EntryId,
        compact_through: Index,
        actions: &mut impl ActionSink,
    ) -> Result<(), SnapshotRefused> {
        if last.index < self.snapshot.index {
            return Err(SnapshotRefused::Outdated { snapshot: last, newest: self.snapshot });
        }
        if last.index > self.applied_through || self.term_at(log, last.index) != Some(last.term) {
            return Err(SnapshotRefused::NotApplied { snapshot: last, applied: self.applied_through });
        }
        let index = compact_through.min(last.index).max(self.tail.base().index);
        let term = self.term_at(log, index).expect("BaseWithinLog: what is applied is in the log or is its base");
        let base = EntryId { index, term };
        if (last, base) == (self.snapshot, self.tail.base()) {
            return Ok(());
        }
        if self.configurations.as_of(last.index).1.is_empty() {
            return Err(SnapshotRefused::MembershipUnknown { snapshot: last });
        }
        self.snapshot = last;
        self.tail.forget_through(base);
        self.configurations.forget_before(last.index);
        let membership = Arc::clone(&self.configurations.as_of(last.index).1);
        self.persist_compaction(Compaction { snapshot: last, base, membership }, actions);
        Ok(())
    }

    /// The leader's log begins after what this server needs. Fetches the snapshot, unless the log reaches as far by itself.
    pub(super) fn handle_install_snapshot_request(
        &mut self,
        log: &impl LogView,
        from: NodeId,
        request: InstallSnapshotRequest,
        actions: &mut impl ActionSink,
    ) {
        let (term, last) = (self.hard_state.term, request.last);
        let session = request.session;
        if request.term < term {
            return self.send_append_result(from, AppendResult::StaleTerm, session, actions);
        }
        let own_term = self.term_at(log, last.index);
        if let Some(leader) = self.leader.filter(|leader| *leader != from) {
            let reason = PeerMisbehaved::SecondLeader { term, leader };
            return actions.push(Action::Misbehaved { peer: from, reason });
        }
        let contradicts = last.index <= self.commit_index && own_term.is_some_and(|term| term != last.term);
        if contradicts || !self.continues_committed(log, last) {
            let reason = PeerMisbehaved::CommittedConflict { index: last.index.min(self.commit_index) };
            return actions.push(Action::Misbehaved { peer: from, reason });
        }
        self.follow(from, actions);
        self.session = Some(session);
        self.persist_hard_state(actions);
        // What is covered is committed. An entry of the same id in this log says that all before it agree, too (§3.5): then
        // a snapshot, which may be late, must not take away what follows.
        if last.index <= self.commit_index || own_term == Some(last.term) {
            self.advance_commit_to(last.index, actions);
            self.send_append_result(from, AppendResult::Accepted { match_index: last.index }, session, actions);
        } else if self.fetch.as_ref().is_none_or(|fetch| fetch.from != from) {
            // A fetch goes on though its leader has a newer snapshot by now: else one that takes longer than the time
            // between two snapshots would never end.
            self.fetch = Some(Fetch { from, last, membership: request.membership });
            actions.push(Action::FetchSnapshot { from, last });
        }
    }

    /// The snapshot is here and durable: the log begins anew right after it.
    pub(super) fn snapshot_fetched(&mut self, log: &impl LogView, last: EntryId, actions: &mut impl ActionSink) {
        let Some(fetch) = self.fetch.take_if(|fetch| fetch.last == last) else { return };
        // The entry came by itself meanwhile: what follows it may already be acknowledged.
        if self.term_at(log, last.index) == Some(last.term) {
            self.advance_commit_to(last.index, actions);
            return self.withdraw_without_vote(actions);
        }
        if !self.continues_committed(log, last) {
            return;
        }
        self.tail.begin_anew(last, self.commit_index);
        self.snapshot = last;
        self.commit_index = last.index;
        let membership = fetch.membership;
        self.configurations.begin_anew(last.index, membership);
        let membership = Arc::clone(self.membership());
        self.report_membership(actions);
        self.withdraw_without_vote(actions);
        self.persist_compaction(Compaction { snapshot: last, base: last, membership }, actions);
        // A leader that has not said yet which session it is in hears of it with the answer to its next append.
        if let (Some(leader), Some(session)) = (self.leader, self.session) {
            self.send_append_result(leader, AppendResult::Accepted { match_index: last.index }, session, actions);
        }
    }

    /// Whether an entry can follow what is known to be committed: terms only grow along a log.
    fn continues_committed(&self, log: &impl LogView, last: EntryId) -> bool {
        last.index <= self.commit_index || self.term_at(log, self.commit_index) <= Some(last.term)
    }

    /// The snapshot cannot be had: the next offer is as good as the first.
    pub(super) fn snapshot_fetch_failed(&mut self, last: EntryId) {
        self.fetch.take_if(|fetch| fetch.last == last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Envelope, Event, MemoryLog, Message, Protocol, RaftConfig, Term};
    use alloc::vec::Vec;

    /// A server took over a snapshot with an empty configuration, and knew nobody with a vote any more, itself included.
    #[test]
    fn an_offer_that_names_no_voters_is_refused() {
        let log = MemoryLog::new();
        let mut protocol = Protocol::new(&RaftConfig::new(2, [1, 2, 3]), &log).expect("a valid configuration");
        let last = EntryId::new(5, 1);
        let mut offer = |membership| {
            let (membership, session) = (Arc::new(membership), Index::ZERO);
            let request = InstallSnapshotRequest { term: Term(1), last, membership, session };
            let message = Message::InstallSnapshotRequest(request);
            let envelope = Envelope { from: NodeId(1), to: NodeId(2), message };
            let mut actions = Vec::new();
            protocol.step(&log, Event::Receive(envelope), &mut actions).expect("no message is refused");
            (actions, protocol.fetching())
        };
        let reason = PeerMisbehaved::SnapshotWithoutVoters { last };
        assert_eq!(offer(Membership::default()), (alloc::vec![Action::Misbehaved { peer: NodeId(1), reason }], None));
        assert_eq!(offer(Membership::new([1, 2])).1, Some((NodeId(1), last)));
    }
}
