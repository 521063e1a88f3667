//! What a log on a disk keeps in memory: the hard state, the term of every entry (as runs), where
//! the entries are on the disk (as blocks), and the newest entries themselves. Its size does not
//! grow with the number of entries, only with the number of terms and of 64 KiB blocks.

use super::record::Checkpoint;
use crate::action::Compaction;
use crate::log::{LogView, Memberships, Read};
use crate::membership::Membership;
use crate::types::{Entries, EntryId, HardState, Index, Term};
use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::vec::Vec;

/// Entries from `first` up to the next run have this term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TermRun {
    pub(super) first: Index,
    pub(super) term: Term,
}

/// Consecutive records of one segment with consecutive entries: what one cold read fetches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// The first entry for which this block is the place to look.
    pub(super) first: Index,
    /// The position of the first record.
    pub(super) lsn: u64,
    /// The end of the last record.
    pub(super) end: u64,
}

/// Where a cold entry is: a block, and the end of the indexes that it answers for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) block: Block,
    pub(super) end: Index,
}

/// Where a record stands: `[lsn, end)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) lsn: u64,
    pub(super) end: u64,
}

/// The state of the log in memory.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) hard_state: HardState,
    pub(super) snapshot: EntryId,
    pub(super) base: EntryId,
    pub(super) last: EntryId,
    /// The configurations; a handful.
    pub(super) memberships: Memberships,
    /// The terms of `(base, last]`, ascending.
    terms: VecDeque<TermRun>,
    /// Ascending by `first`; together they hold `(base, last]`.
    blocks: VecDeque<Block>,
    /// Whether the next record may still join the last block.
    block_open: bool,
    /// The newest entries: consecutive non-empty runs up to `last`.
    cache: VecDeque<Entries>,
    /// The sum of their sizes.
    cache_bytes: usize,
}

impl View {
    /// A block is closed once it has this many bytes.
    const BLOCK_BYTES: u64 = 64 << 10;

    /// The first entry in records that stand in `[start, end)`.
    pub(super) fn first_in(&self, start: u64, end: u64) -> Option<Index> {
        self.blocks.iter().find(|block| (start..end).contains(&block.lsn)).map(|block| block.first)
    }

    /// Makes the next record begin a block of its own.
    pub(super) fn close_block(&mut self) {
        self.block_open = false;
    }

    /// Forgets every entry; the next one stands right after `base`.
    pub(super) fn restart(&mut self, base: EntryId) {
        let Self { hard_state, snapshot, .. } = *self;
        let memberships = Memberships { later: Vec::new(), ..mem::take(&mut self.memberships) };
        *self = Self { hard_state, snapshot, base, last: base, memberships, ..Self::default() };
    }

    /// Removes the entries from `first` on, which lies behind the base.
    pub(super) fn truncate_from(&mut self, first: Index) {
        if first > self.last.index {
            return;
        }
        while self.terms.back().is_some_and(|run| run.first >= first) {
            self.terms.pop_back();
        }
        while self.blocks.back().is_some_and(|block| block.first >= first) {
            self.blocks.pop_back();
        }
        self.close_block();
        self.memberships.truncate_from(first);
        while let Some(run) = self.cache.back_mut() {
            if run[0].id.index < first {
                let kept = run.range(run[0].id.index, first);
                self.cache_bytes = self.cache_bytes + kept.size_bytes() - run.size_bytes();
                *run = kept;
                break;
            }
            self.cache_bytes -= run.size_bytes();
            self.cache.pop_back();
        }
        self.last = match self.terms.back() {
            Some(run) => EntryId { index: first.previous(), term: run.term },
            None => self.base,
        };
    }

    /// Notes that `count` entries of one term, the first right after the last, stand in the record
    /// at `place`.
    pub(super) fn append(&mut self, first: EntryId, count: u64, place: Place) {
        match self.blocks.back_mut() {
            Some(block) if self.block_open && block.end - block.lsn < Self::BLOCK_BYTES => block.end = place.end,
            _ => self.blocks.push_back(Block { first: first.index, lsn: place.lsn, end: place.end }),
        }
        self.block_open = true;
        if self.terms.back().is_none_or(|run| run.term != first.term) {
            self.terms.push_back(TermRun { first: first.index, term: first.term });
        }
        self.last = EntryId { index: Index(first.index.0 + count - 1), term: first.term };
    }

    /// Keeps the entries that were just appended, and as many older ones as the budget allows.
    pub(super) fn cache_newest(&mut self, entries: Entries, bytes_max: usize) {
        if entries.is_empty() {
            return;
        }
        self.cache_bytes += entries.size_bytes();
        self.cache.push_back(entries);
        while self.cache_bytes > bytes_max && self.cache.len() > 1 {
            let oldest = self.cache.pop_front().expect("more than one");
            self.cache_bytes -= oldest.size_bytes();
        }
    }

    /// Puts older entries before the cached ones; false once that would exceed the budget.
    pub(super) fn cache_older(&mut self, entries: Entries, bytes_max: usize) -> bool {
        let bytes = entries.size_bytes();
        if self.cache_bytes + bytes > bytes_max {
            return false;
        }
        if !entries.is_empty() {
            self.cache_bytes += bytes;
            self.cache.push_front(entries);
        }
        true
    }

    /// The law of the cache: it has the bytes that it counts, and ends with the log. Too many, and it keeps less and less; too
    /// few, and the memory has no bound.
    /// Not of a large one: counting it after each record would make tests slow, and nothing else.
    pub(super) fn check_cache(&self) {
        const ENTRIES_MAX: usize = 4096;
        if self.cache.iter().map(|run| run.len()).sum::<usize>() > ENTRIES_MAX {
            return;
        }
        let sum: usize = self.cache.iter().map(|run| run.size_bytes()).sum();
        assert_eq!(self.cache_bytes, sum, "CacheBytesAreSummed");
        let last = self.cache.back().and_then(Entries::last_id);
        assert!(last.is_none_or(|last| last == self.last), "CacheBytesAreSummed: the newest entries are {last:?}");
    }

    /// The first cached entry; the end of the log if none is cached.
    pub(super) fn cached_from(&self) -> Index {
        self.cache.front().map_or(self.last.index.next(), |run| run[0].id.index)
    }

    /// Whether the entry is the base or one behind it.
    fn holds(&self, id: EntryId) -> bool {
        self.term(id.index) == Some(id.term)
    }

    /// A snapshot up to `snapshot`, with that configuration if it is known, takes the place of what comes before.
    pub(super) fn take_snapshot(&mut self, snapshot: EntryId, membership: Option<Arc<Membership>>) {
        self.snapshot = snapshot;
        self.memberships.compact(snapshot.index, membership);
    }

    /// The entries at these places, which were just appended, carry configurations.
    pub(super) fn append_memberships(&mut self, appended: Vec<(Index, Arc<Membership>)>) {
        // Of entries that the snapshot covers only the last one counts, and that came with it.
        self.memberships.later.extend(appended.into_iter().filter(|(index, _)| *index > self.snapshot.index));
    }

    /// Carries out a compaction.
    pub(super) fn compact(&mut self, snapshot: EntryId, base: EntryId, membership: Option<Arc<Membership>>) {
        self.take_snapshot(snapshot, membership);
        if self.holds(base) {
            self.forget_through(base);
        } else {
            self.restart(base);
        }
    }

    /// Forgets the entries up to and including `base`, which the log holds.
    pub(super) fn forget_through(&mut self, base: EntryId) {
        self.base = base;
        if self.last.index <= base.index {
            self.last = base;
        }
        let first = base.index.next();
        while self.terms.len() > 1 && self.terms[1].first <= first {
            self.terms.pop_front();
        }
        while self.blocks.len() > 1 && self.blocks[1].first <= first {
            self.blocks.pop_front();
        }
        if first > self.last.index {
            self.terms.clear();
            self.blocks.clear();
            self.close_block();
        }
        if let Some(run) = self.terms.front_mut() {
            run.first = run.first.max(first);
        }
        while let Some(run) = self.cache.front_mut() {
            let own_first = run[0].id.index;
            if own_first >= first {
                break;
            }
            let kept = run.range(first, own_first.plus(run.len()));
            self.cache_bytes = self.cache_bytes + kept.size_bytes() - run.size_bytes();
            if kept.is_empty() {
                self.cache.pop_front();
            } else {
                *run = kept;
            }
        }
    }

    /// The position that records are needed from when a checkpoint stands there: its own, or that of the oldest entry that
    /// it counts. Entries that are truncated later count too, until the next checkpoint: without them, recovery could not
    /// tell that this one is complete.
    pub(super) fn floor(&self, checkpoint: u64) -> u64 {
        self.blocks.front().map_or(checkpoint, |oldest| oldest.lsn.min(checkpoint))
    }

    /// What the log will hold after a compaction in a write that brings this hard state, if any.
    pub(super) fn checkpoint(&self, hard_state: Option<HardState>, compaction: &Compaction) -> Checkpoint {
        let hard_state = hard_state.unwrap_or(self.hard_state);
        let Compaction { snapshot, base, .. } = *compaction;
        let membership = Some(Arc::clone(&compaction.membership));
        if !self.holds(base) || base.index == self.last.index {
            return Checkpoint { hard_state, snapshot, base, membership, last: base, terms: Vec::new() };
        }
        let first = base.index.next();
        let straddling = self.terms.partition_point(|run| run.first <= first).saturating_sub(1);
        let live = self.terms.range(straddling..);
        let terms = live.map(|run| TermRun { first: run.first.max(first), term: run.term }).collect();
        Checkpoint { hard_state, snapshot, base, membership, last: self.last, terms }
    }

    /// The term runs, for comparing with a checkpoint.
    pub(super) fn terms(&self) -> Vec<TermRun> {
        self.terms.iter().copied().collect()
    }

    /// Where the entry at `index`, which lies in `(base, last]`, is on the disk.
    pub(super) fn locate(&self, index: Index) -> Location {
        let position = self.blocks.partition_point(|block| block.first <= index) - 1;
        let end = self.blocks.get(position + 1).map_or(self.last.index.next(), |next| next.first);
        Location { block: self.blocks[position], end }
    }

    /// Whether the log still holds an entry at `index`, and in this block.
    pub(super) fn is_at(&self, index: Index, block: Block) -> bool {
        (self.base.index.next()..=self.last.index).contains(&index) && self.locate(index).block == block
    }

    /// The cached run that holds `index`, which is cached.
    fn run_of(&self, index: Index) -> usize {
        match self.cache.back() {
            Some(run) if run[0].id.index <= index => self.cache.len() - 1,
            _ => self.cache.partition_point(|run| run[0].id.index <= index) - 1,
        }
    }
}

impl LogView for View {
    fn hard_state(&self) -> HardState {
        self.hard_state
    }

    fn base(&self) -> EntryId {
        self.base
    }

    fn snapshot(&self) -> EntryId {
        self.snapshot
    }

    fn memberships(&self) -> Memberships {
        self.memberships.clone()
    }

    fn last(&self) -> EntryId {
        self.last
    }

    fn term(&self, index: Index) -> Option<Term> {
        if index == self.last.index {
            Some(self.last.term)
        } else if index == self.base.index {
            Some(self.base.term)
        } else if index < self.base.index || index > self.last.index {
            None
        } else {
            let position = self.terms.partition_point(|run| run.first <= index) - 1;
            Some(self.terms[position].term)
        }
    }

    fn read(&self, first: Index, end: Index, bytes_max: usize) -> Read {
        if first <= self.base.index {
            return Read::Compacted;
        }
        let end = end.min(self.last.index.next());
        if first >= end {
            return Read::Entries(Entries::EMPTY);
        }
        if first < self.cached_from() {
            return Read::Cold;
        }
        let position = self.run_of(first);
        let run = &self.cache[position];
        if run[0].id.index.plus(run.len()) >= end {
            return Read::Entries(run.range_within(first, end, bytes_max));
        }
        let run = run.range(first, end);
        // Entries of several runs go into a run of their own: only a reader that lags asks for them.
        let mut bytes = 0usize;
        let mut gathered = Vec::new();
        for entry in run.iter().chain(self.cache.range(position + 1..).flat_map(|run| run.iter())) {
            bytes = bytes.saturating_add(entry.size_bytes());
            if entry.id.index >= end || (bytes > bytes_max && !gathered.is_empty()) {
                break;
            }
            gathered.push(entry.clone());
        }
        Read::Entries(gathered.into())
    }
}
