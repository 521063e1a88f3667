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
        if self.history().is_some_and(left_behind) {
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
