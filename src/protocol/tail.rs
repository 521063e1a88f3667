//! What has been decided and is not yet durable: the writes in flight and the messages that wait
//! for them, in one ordered stream.
//!
//! This is the door of law 2. Every message but a leader's appends leaves through it, so whatever
//! a message depends on is durable before it goes out: it stands behind that write. The order of
//! writes and messages is one stream, hence a late completion can release nothing too early, and a
//! completion of a write whose entries were replaced since (the ABA race of etcd #1690) marks none
//! of the new entries durable.
//!
//! Of entries in flight only the positions and terms are kept here. A leader sends them with the
//! step that appends them; whoever needs them later gets them from the log, once durable.

use super::state::WriteInFlight;
use crate::action::{Action, ActionSink, Durable, Write};
use crate::log::{LogView, Read};
use crate::message::Envelope;
use crate::types::{Entries, EntryId, HardState, Index, NodeId, Term};
use alloc::collections::VecDeque;

/// The end of the log, durable or not, and the way of the rest to durability.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tail {
    /// The entry before the first, as decided: the log may reach further back until it has carried out the write.
    base: EntryId,
    /// The last entry, durable or not.
    last: EntryId,
    /// The last entry that is durable and not replaced by a write in flight. Before the base while the write that makes
    /// the log begin anew is in flight; its term is then 0, for nobody may ask for it.
    durable: EntryId,
    /// Where in `(durable, last]` the term differs from the entry before, ascending.
    term_changes: VecDeque<EntryId>,
    /// The writes in flight, oldest first.
    writes: VecDeque<PendingWrite>,
    /// The messages that wait, in the order in which they were decided.
    messages: VecDeque<Envelope>,
}

/// A write in flight.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct PendingWrite {
    hard_state: Option<HardState>,
    /// Up to where the log is durable after this write, less what a later write replaces.
    durable: Index,
    /// How many of the messages stand right behind this write: they wait for it, not for the next.
    messages: usize,
}

impl Tail {
    /// The most messages that wait for one write; those beyond are lost, like any message may be. More than
    /// a server has to say to all its peers between two writes, unless one takes very long.
    const MESSAGES_BEHIND_A_WRITE_MAX: usize = 256;

    pub(super) fn new(base: EntryId, last: EntryId) -> Self {
        Self {
            base,
            last,
            durable: last,
            term_changes: VecDeque::new(),
            writes: VecDeque::new(),
            messages: VecDeque::new(),
        }
    }

    pub(super) fn base(&self) -> EntryId {
        self.base
    }

    pub(super) fn last(&self) -> EntryId {
        self.last
    }

    pub(super) fn durable(&self) -> Index {
        self.durable.index
    }

    pub(super) fn durable_id(&self) -> EntryId {
        self.durable
    }

    pub(super) fn writes(&self) -> usize {
        self.writes.len()
    }

    /// Whether a write in flight carries term and vote.
    pub(super) fn hard_state_in_flight(&self) -> bool {
        self.writes.iter().any(|write| write.hard_state.is_some())
    }

    /// The writes in flight with the messages behind each, oldest first.
    pub(super) fn writes_in_flight(&self) -> impl Iterator<Item = WriteInFlight> + '_ {
        let mut messages = self.messages.iter();
        self.writes.iter().map(move |write| WriteInFlight {
            hard_state: write.hard_state,
            durable: write.durable,
            messages: messages.by_ref().take(write.messages).cloned().collect(),
        })
    }

    /// Renames every server. What waits for one write leaves at once, so its order means nothing, and is made that of the
    /// receivers' new names.
    pub(super) fn rename(&mut self, rename: &impl Fn(NodeId) -> NodeId) {
        for write in &mut self.writes {
            write.hard_state = write.hard_state.map(|state| HardState { vote: state.vote.map(rename), ..state });
        }
        for envelope in &mut self.messages {
            (envelope.from, envelope.to) = (rename(envelope.from), rename(envelope.to));
        }
        let mut waiting = self.messages.make_contiguous();
        for write in &self.writes {
            let (behind, later) = waiting.split_at_mut(write.messages);
            behind.sort_by_key(|envelope| envelope.to);
            waiting = later;
        }
    }

    /// Emits a write and returns whether it is durable already. `truncate_from` comes with the id of
    /// the entry before it.
    pub(super) fn write(&mut self, write: Write, before: EntryId, actions: &mut impl ActionSink) -> bool {
        if write.truncate_from.is_some() {
            self.truncate_after(before);
        }
        self.extend(&write.entries);
        let hard_state = write.hard_state;
        let Some(Durable(())) = actions.persist(write) else {
            self.writes.push_back(PendingWrite { hard_state, durable: self.last.index, messages: 0 });
            return false;
        };
        assert!(self.writes.is_empty(), "WritesInOrder: an earlier write is not yet reported durable");
        self.durable = self.last;
        self.term_changes.clear();
        true
    }

    /// The log forgets the entries up to and including `base`, which it holds durably.
    pub(super) fn forget_through(&mut self, base: EntryId) {
        self.base = base;
    }

    /// The log forgets all that it holds and begins anew right after `base`. Of what was durable only the part up to
    /// `agreed` still counts, which the snapshot in its place covers.
    pub(super) fn begin_anew(&mut self, base: EntryId, agreed: Index) {
        let durable = self.durable.index.min(agreed);
        (self.base, self.last, self.durable) = (base, base, EntryId { index: durable, term: Term::ZERO });
        self.term_changes.clear();
        self.term_changes.push_back(base);
        self.writes.iter_mut().for_each(|write| write.durable = write.durable.min(durable));
    }

    /// The entries after `last` are replaced: those in flight no longer count.
    fn truncate_after(&mut self, last: EntryId) {
        self.last = last;
        if self.durable.index > last.index {
            self.durable = last;
        }
        while self.term_changes.back().is_some_and(|change| change.index > last.index) {
            self.term_changes.pop_back();
        }
        for write in &mut self.writes {
            write.durable = write.durable.min(last.index);
        }
    }

    fn extend(&mut self, entries: &Entries) {
        let (Some(first), Some(last)) = (entries.first_id(), entries.last_id()) else { return };
        assert!(first.index == self.last.index.next(), "LogContiguous: entries must follow the last one");
        // Terms only grow along a log: with the same term at both ends there is no other between.
        if last.term != self.last.term {
            let mut term = self.last.term;
            for entry in entries.iter().filter(|entry| core::mem::replace(&mut term, entry.id.term) != entry.id.term) {
                self.term_changes.push_back(entry.id);
            }
        }
        self.last = last;
    }

    /// Sends a message once all that is in flight is durable; at once if nothing is.
    #[inline]
    pub(super) fn send(&mut self, envelope: Envelope, actions: &mut impl ActionSink) {
        let Some(write) = self.writes.back_mut() else {
            return actions.push(Action::Send(envelope));
        };
        // A stalled disk must not let answers pile up, whatever peers ask meanwhile.
        if write.messages == 0 || Self::adds_something(&self.messages, write.messages, &envelope) {
            write.messages += 1;
            self.messages.push_back(envelope);
        }
    }

    /// One of a kind behind one write is enough, and a message may be lost.
    #[cold]
    fn adds_something(messages: &VecDeque<Envelope>, behind: usize, envelope: &Envelope) -> bool {
        behind < Self::MESSAGES_BEHIND_A_WRITE_MAX
            && messages.iter().rev().take(behind).all(|waiting| waiting != envelope)
    }

    /// The oldest write is durable: releases what waited for it alone and returns its hard state.
    ///
    /// The caller has checked that a write is in flight.
    pub(super) fn pop_write(&mut self, actions: &mut impl ActionSink) -> Option<HardState> {
        let write = self.writes.pop_front().expect("a write is in flight");
        if write.durable > self.durable.index {
            self.durable.index = write.durable;
            while let Some(change) = self.term_changes.front().filter(|change| change.index <= write.durable) {
                self.durable.term = change.term;
                self.term_changes.pop_front();
            }
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
        } else if index == self.base.index {
            Some(self.base.term)
        } else if index > self.last.index || index < self.base.index {
            None
        } else if index >= self.durable.index {
            let change = self.term_changes.iter().rev().find(|change| change.index <= index);
            Some(change.map_or(self.durable.term, |change| change.term))
        } else {
            log.term(index)
        }
    }

    /// Consecutive durable entries from `first` on and before `end`, which lies after `first` and in what is durable or
    /// right after it: at least one if there is any, and otherwise at most `bytes_max` bytes.
    pub(super) fn read(&self, log: &impl LogView, first: Index, end: Index, bytes_max: usize) -> Read {
        if first <= self.base.index {
            return Read::Compacted;
        }
        if first > self.durable.index {
            return Read::Entries(Entries::EMPTY);
        }
        let read = log.read(first, end, bytes_max);
        if let Read::Entries(entries) = &read {
            let begins = entries.first().is_some_and(|entry| entry.id.index == first);
            assert!(begins, "ReadsSeeWrites: the log holds entry {first} and did not return it");
        }
        read
    }

    /// The last entry at or before `bound` whose term is at most `term_max`: beyond it this log
    /// cannot agree with one whose entry at `bound` has that term. Terms only grow along a log, so
    /// halving finds it, however long the conflict.
    pub(super) fn agree_max(&self, log: &impl LogView, bound: Index, term_max: Term) -> EntryId {
        // What lies before the base is committed: no leader's log differs there.
        let term_at = |index| self.term_at(log, index).unwrap_or(self.base.term);
        let (mut low, mut high) = (self.base.index.min(bound), bound);
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

    /// The laws of the queue; see `invariant.rs`.
    pub(super) fn check(&self) {
        assert!(self.durable.index <= self.last.index, "DurableWithinLog");
        assert!(self.base.index <= self.last.index, "BaseWithinLog");
        let mut previous = self.durable;
        for change in &self.term_changes {
            assert!(change.index > previous.index && change.term > previous.term, "TermsGrow");
            previous = *change;
        }
        assert_eq!(previous.term, self.last.term, "TermsGrow: the last entry");
        let promised = self.writes.back().map_or(self.durable.index, |write| write.durable);
        assert_eq!(promised, self.last.index, "EveryEntryHasItsWrite");
        let waiting: usize = self.writes.iter().map(|write| write.messages).sum();
        assert_eq!(waiting, self.messages.len(), "MessagesWaitBehindWrites");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Memberships;
    use crate::message::{Message, PreVoteResponse};
    use alloc::vec::Vec;

    fn refusal(to: u64, campaign_term: u64) -> Envelope {
        let response = PreVoteResponse { term: Term(1), campaign_term: Term(campaign_term), granted: false };
        Envelope { from: NodeId(1), to: NodeId(to), message: Message::PreVoteResponse(response) }
    }

    /// Two peers that asked in turns made the queue of a server with a stalled disk grow for ever:
    /// no answer equalled the one before it.
    #[test]
    fn a_stalled_disk_does_not_let_messages_pile_up() {
        let mut tail = Tail::new(EntryId::ZERO, EntryId::ZERO);
        let mut actions = Vec::<Action>::new();
        tail.write(Write::default(), EntryId::ZERO, &mut actions);
        for round in 0..10_000 {
            tail.send(refusal(2 + round % 2, 2), &mut actions);
        }
        assert_eq!(tail.messages, [refusal(2, 2), refusal(3, 2)]);
        for round in 0..10_000 {
            tail.send(refusal(2, round), &mut actions);
        }
        assert_eq!(tail.messages.len(), Tail::MESSAGES_BEHIND_A_WRITE_MAX);
        actions.clear();
        tail.pop_write(&mut actions);
        assert_eq!(actions.len(), Tail::MESSAGES_BEHIND_A_WRITE_MAX);
        tail.check();
    }

    /// What waits for a later write says that this write is durable too: it is not the same.
    #[test]
    fn a_message_waits_again_behind_a_later_write() {
        let mut tail = Tail::new(EntryId::ZERO, EntryId::ZERO);
        let mut actions = Vec::<Action>::new();
        for _ in 0..2 {
            tail.write(Write::default(), EntryId::ZERO, &mut actions);
            tail.send(refusal(2, 2), &mut actions);
        }
        let waiting: Vec<usize> = tail.writes.iter().map(|write| write.messages).collect();
        assert_eq!(waiting, [1, 1]);
    }

    /// A log that knows of an entry and never returns it.
    struct Withholding;

    impl LogView for Withholding {
        fn hard_state(&self) -> HardState {
            HardState { term: Term(1), vote: None }
        }

        fn base(&self) -> EntryId {
            EntryId::ZERO
        }

        fn snapshot(&self) -> EntryId {
            EntryId::ZERO
        }

        fn memberships(&self) -> Memberships {
            Memberships::default()
        }

        fn last(&self) -> EntryId {
            EntryId::new(1, 1)
        }

        fn term(&self, _index: Index) -> Option<Term> {
            Some(Term(1))
        }

        fn read(&self, _first: Index, _end: Index, _bytes_max: usize) -> Read {
            Read::Entries(Entries::EMPTY)
        }
    }

    /// A leader would ask such a log for the same entry for ever.
    #[test]
    #[should_panic(expected = "ReadsSeeWrites")]
    fn a_log_that_withholds_an_entry_stops_the_node() {
        let _ = Tail::new(EntryId::ZERO, Withholding.last()).read(&Withholding, Index(1), Index(2), 1);
    }
}
