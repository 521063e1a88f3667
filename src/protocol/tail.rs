//! What has been decided and is not yet durable: the writes in flight and the messages that wait
//! for them, in one queue.
//!
//! This is the door of law 2. Every message but a leader's appends leaves through it, so whatever
//! a message depends on is durable before it goes out: it stands behind that write in the queue.
//! The order of writes and messages is one stream, hence a late completion can release nothing
//! too early, and a completion of a write whose entries were replaced since (the ABA race of
//! etcd #1690) marks none of the new entries durable.

use crate::action::{Action, Actions, Write};
use crate::log::{LogView, Read};
use crate::message::Envelope;
use crate::types::{Entries, EntryId, HardState, Index, Term};
use alloc::collections::VecDeque;

/// The end of the log, durable or not, and the way of the rest to durability.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tail {
    /// The last entry, durable or not.
    last: EntryId,
    /// Entries up to here are durable and not replaced by a write in flight. The entries of the
    /// writes in flight follow right after it.
    durable: Index,
    /// The writes in flight, oldest first.
    writes: VecDeque<PendingWrite>,
    /// The messages that wait, in the order in which they were decided.
    messages: VecDeque<Envelope>,
}

/// A write in flight.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct PendingWrite {
    hard_state: Option<HardState>,
    /// The entries of the write, less those that a later write replaces.
    entries: Entries,
    /// How many of the messages stand right behind this write: they wait for it, not for the next.
    messages: usize,
}

impl Tail {
    pub(super) fn new(last: EntryId) -> Self {
        Self { last, durable: last.index, writes: VecDeque::new(), messages: VecDeque::new() }
    }

    pub(super) fn last(&self) -> EntryId {
        self.last
    }

    pub(super) fn durable(&self) -> Index {
        self.durable
    }

    pub(super) fn writes(&self) -> usize {
        self.writes.len()
    }

    /// Emits a write. `truncate_from` comes with the id of the entry before it.
    pub(super) fn write(&mut self, write: Write, before: EntryId, actions: &mut Actions) {
        if let Some(first) = write.truncate_from {
            self.forget_from(first);
            self.last = before;
        }
        if let (Some(first), Some(last)) = (write.entries.first(), write.entries.last()) {
            assert!(first.id.index == self.last.index.next(), "LogContiguous: entries must follow the last one");
            self.last = last.id;
        }
        let (hard_state, entries) = (write.hard_state, write.entries.clone());
        self.writes.push_back(PendingWrite { hard_state, entries, messages: 0 });
        actions.push(Action::Persist(write));
    }

    /// The entries from `first` on are replaced: those in flight no longer count.
    fn forget_from(&mut self, first: Index) {
        self.durable = self.durable.min(first.previous());
        for write in &mut self.writes {
            if write.entries.last_id().is_some_and(|last| last.index >= first) {
                write.entries = write.entries.range(Index::ZERO, first);
            }
        }
    }

    /// Sends a message once all that is in flight is durable; at once if nothing is.
    #[inline]
    pub(super) fn send(&mut self, envelope: Envelope, actions: &mut Actions) {
        let Some(write) = self.writes.back_mut() else {
            return actions.push(Action::Send(envelope));
        };
        // A duplicate right behind its like adds nothing; without this a stalled disk would let
        // the answers to heartbeats pile up.
        if write.messages == 0 || self.messages.back() != Some(&envelope) {
            write.messages += 1;
            self.messages.push_back(envelope);
        }
    }

    /// The oldest write is durable: releases what waited for it alone and returns its hard state.
    ///
    /// The caller has checked that a write is in flight.
    pub(super) fn pop_write(&mut self, actions: &mut Actions) -> Option<HardState> {
        let write = self.writes.pop_front().expect("a write is in flight");
        if let Some(last) = write.entries.last() {
            self.durable = last.id.index;
        }
        for _ in 0..write.messages {
            let envelope = self.messages.pop_front().expect("MessagesWaitBehindWrites");
            actions.push(Action::Send(envelope));
        }
        write.hard_state
    }

    /// The term of the entry at `index`, durable or not; `None` if the log holds no such entry.
    pub(super) fn term_at(&self, log: &impl LogView, index: Index) -> Option<Term> {
        if index == self.last.index {
            Some(self.last.term)
        } else if index > self.last.index {
            None
        } else if index > self.durable {
            let run = self.run_with(index);
            Some(run[(index.0 - run[0].id.index.0) as usize].id.term)
        } else {
            log.term(index)
        }
    }

    /// Consecutive entries from `first` on, durable or not, at least one if there is any and
    /// otherwise at most `bytes_max` bytes.
    pub(super) fn read(&self, log: &impl LogView, first: Index, bytes_max: usize) -> Read {
        if first > self.last.index {
            Read::Entries(Entries::EMPTY)
        } else if first > self.durable {
            Read::Entries(self.run_with(first).range_within(first, self.last.index.next(), bytes_max))
        } else {
            log.read(first, self.durable.next(), bytes_max)
        }
    }

    /// The last entry at or before `bound` whose term is at most `term_max`: beyond it this log
    /// cannot agree with one whose entry at `bound` has that term. Terms only grow along a log, so
    /// halving finds it, however long the conflict.
    pub(super) fn agree_max(&self, log: &impl LogView, bound: Index, term_max: Term) -> EntryId {
        let base = log.base();
        let term_at = |index| self.term_at(log, index).unwrap_or(base.term);
        let (mut low, mut high) = (base.index.min(bound), bound);
        while low < high {
            let middle = Index(low.0 + (high.0 - low.0).div_ceil(2));
            if term_at(middle) <= term_max {
                low = middle;
            } else {
                high = middle.previous();
            }
        }
        EntryId { index: low, term: term_at(low) }
    }

    fn run_with(&self, index: Index) -> &Entries {
        let mut runs = self.writes.iter().rev().map(|write| &write.entries).filter(|entries| !entries.is_empty());
        runs.find(|entries| entries[0].id.index <= index)
            .expect("TailContiguous: the writes in flight hold every entry that is not durable")
    }

    /// The laws of the queue; see `invariant.rs`.
    pub(super) fn check(&self) {
        let mut next = self.durable.next();
        for entry in self.writes.iter().flat_map(|write| write.entries.iter()) {
            assert_eq!(entry.id.index, next, "TailContiguous");
            next = next.next();
        }
        assert_eq!(next, self.last.index.next(), "TailContiguous: the end");
        let waiting: usize = self.writes.iter().map(|write| write.messages).sum();
        assert_eq!(waiting, self.messages.len(), "MessagesWaitBehindWrites");
    }
}
