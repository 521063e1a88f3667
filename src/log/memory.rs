//! A log in memory: for tests, models, caches and single-process clusters.

use super::{LogView, Memberships, RaftLog, Read};
use crate::action::{Compaction, Write};
use crate::types::{DiskId, Entries, Entry, EntryId, HardState, Index, Term};
use alloc::vec::Vec;
use core::convert::Infallible;
use core::hash::{Hash, Hasher};
use core::{iter, mem};

/// A log in memory. Its durability is that of the process: `sync` has nothing to do.
///
/// Entries stay in the shared runs in which they came, so an append takes the time of a batch, not
/// of its entries, and reading back what was appended copies nothing.
#[derive(Clone, Debug, Default)]
pub struct MemoryLog {
    disk: DiskId,
    hard_state: HardState,
    snapshot: EntryId,
    base: EntryId,
    last: EntryId,
    memberships: Memberships,
    runs: Runs,
}

impl MemoryLog {
    /// An empty log.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty log that stands for this disk.
    #[must_use]
    pub fn on_disk(disk: DiskId) -> Self {
        Self { disk, ..Self::default() }
    }

    /// Every entry in order.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.runs.iter().flat_map(|run| run.iter())
    }

    /// The entries with an index in `[first, end)`, as far as the log holds them, in order.
    #[inline]
    pub fn range(&self, first: Index, end: Index) -> impl Iterator<Item = &Entry> {
        let mut next = first.max(self.base.index.next());
        let end = end.min(self.last.index.next());
        let run = move || {
            let left = end.0.checked_sub(next.0).filter(|&left| left > 0)? as usize;
            let (run, start) = self.runs.find(next);
            let entries = &run[start..];
            let entries = &entries[..left.min(entries.len())];
            next = next.plus(entries.len());
            Some(entries)
        };
        iter::from_fn(run).flatten()
    }

    fn compact(&mut self, Compaction { snapshot, base, membership }: Compaction) {
        assert!(
            base.index <= snapshot.index,
            "no snapshot covers the entries up to {base}: the newest covers {snapshot}"
        );
        assert!(snapshot >= self.snapshot && base.index >= self.base.index, "snapshots and bases only grow");
        self.snapshot = snapshot;
        self.memberships.compact(snapshot.index, Some(membership));
        if self.term(base.index) == Some(base.term) {
            self.runs.remove_through(base.index);
        } else {
            self.runs = Runs::default();
            self.memberships.later.clear();
            self.last = base;
        }
        self.base = base;
    }

    fn truncate_from(&mut self, first: Index) {
        self.runs.remove_from(first);
        self.memberships.truncate_from(first);
        self.last = self.runs.last.last().and_then(Entries::last_id).unwrap_or(self.base);
    }

    /// Takes the entries and leaves the rest.
    fn write(&mut self, write: &mut Write) {
        if let Some(hard_state) = write.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(compaction) = write.compaction.take() {
            self.compact(compaction);
        }
        if let Some(first) = write.truncate_from {
            assert!(first > self.base.index, "truncation from {first} reaches behind the base {}", self.base);
            self.truncate_from(first);
        }
        if let (Some(first), Some(last)) = (write.entries.first_id(), write.entries.last_id()) {
            assert!(first.index == self.last.index.next(), "entries must follow the last one");
            self.last = last;
            if write.entries.may_hold_memberships() {
                self.memberships.extend(self.snapshot.index, &write.entries);
            }
            self.runs.push(mem::take(&mut write.entries));
        }
    }
}

/// Consecutive non-empty runs, in blocks: a log that grows never moves what it holds.
#[derive(Clone, Debug, Default)]
struct Runs {
    /// The blocks before the last, none of them empty.
    earlier: Vec<Vec<Entries>>,
    /// The last block; empty only when there are no runs.
    last: Vec<Entries>,
}

impl Runs {
    /// How many runs a block takes.
    const BLOCK: usize = 512;

    fn iter(&self) -> impl Iterator<Item = &Entries> {
        self.earlier.iter().flatten().chain(&self.last)
    }

    fn push(&mut self, run: Entries) {
        if self.last.len() == Self::BLOCK {
            self.earlier.push(mem::replace(&mut self.last, Vec::with_capacity(Self::BLOCK)));
        }
        self.last.push(run);
    }

    /// The run that holds `index`, which no caller asks for unless there is one, and the position in it.
    #[inline]
    fn find(&self, index: Index) -> (&Entries, usize) {
        // Reads near the end are by far the most frequent: look there before halving the whole.
        const NEAR: usize = 4;
        let position_in = |run: &Entries| index.0.checked_sub(run.first_id()?.index.0);
        for run in self.last.iter().rev().take(NEAR) {
            if let Some(position) = position_in(run) {
                return (run, position as usize);
            }
        }
        self.find_far(index)
    }

    #[cold]
    fn find_far(&self, index: Index) -> (&Entries, usize) {
        let begins_by = |run: &Entries| run[0].id.index <= index;
        let in_last = self.last.first().is_some_and(begins_by);
        let earlier = self.earlier.partition_point(|block| begins_by(&block[0]));
        let block = if in_last { &self.last } else { &self.earlier[earlier - 1] };
        let run = &block[block.partition_point(begins_by) - 1];
        (run, (index.0 - run[0].id.index.0) as usize)
    }

    /// Removes the entries up to and including `through`.
    fn remove_through(&mut self, through: Index) {
        let ends_by = |run: &Entries| run[run.len() - 1].id.index <= through;
        let whole = self.earlier.partition_point(|block| block.last().is_some_and(ends_by));
        self.earlier.drain(..whole);
        let block = self.earlier.first_mut().unwrap_or(&mut self.last);
        block.drain(..block.partition_point(ends_by));
        if let Some(run) = block.first_mut() {
            *run = run.range(through.next(), Index::MAX);
        }
    }

    /// Removes the entries from `first` on.
    fn remove_from(&mut self, first: Index) {
        while let Some(run) = self.last.last_mut() {
            let start = run[0].id.index;
            if start < first {
                *run = run.range(start, first);
                return;
            }
            self.last.pop();
            if self.last.is_empty() {
                self.last = self.earlier.pop().unwrap_or_default();
            }
        }
    }
}

impl LogView for MemoryLog {
    fn disk(&self) -> DiskId {
        self.disk
    }

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
            let (run, position) = self.runs.find(index);
            Some(run[position].id.term)
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
        let (run, position) = self.runs.find(first);
        if first.plus(run.len() - position) >= end {
            return Read::Entries(run.range_within(first, end, bytes_max));
        }
        // Entries of several runs go into a run of their own: only a reader that lags asks for them.
        let mut bytes = 0usize;
        let mut gathered = Vec::new();
        for entry in self.range(first, end) {
            bytes = bytes.saturating_add(entry.size_bytes());
            if bytes > bytes_max && !gathered.is_empty() {
                break;
            }
            gathered.push(entry.clone());
        }
        Read::Entries(gathered.into())
    }
}

impl RaftLog for MemoryLog {
    type Error = Infallible;

    fn append(&mut self, writes: &mut Vec<Write>) -> Result<(), Infallible> {
        writes.iter_mut().for_each(|write| self.write(write));
        writes.clear();
        Ok(())
    }

    #[inline]
    fn append_one(&mut self, mut write: Write, _: &mut Vec<Write>) -> Result<(), Infallible> {
        self.write(&mut write);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Infallible> {
        Ok(())
    }

    fn read_blocking(&self, first: Index, end: Index, bytes_max: usize) -> Result<Read, Infallible> {
        Ok(self.read(first, end, bytes_max))
    }
}

/// Two logs are equal when they hold the same entries, however these are grouped into runs.
impl PartialEq for MemoryLog {
    fn eq(&self, other: &Self) -> bool {
        self.disk == other.disk
            && self.hard_state == other.hard_state
            && self.snapshot == other.snapshot
            && self.base == other.base
            && self.last == other.last
            && self.memberships == other.memberships
            && self.iter().eq(other.iter())
    }
}

impl Eq for MemoryLog {}

impl Hash for MemoryLog {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.disk.hash(state);
        self.hard_state.hash(state);
        self.snapshot.hash(state);
        self.base.hash(state);
        self.last.hash(state);
        self.memberships.hash(state);
        for entry in self.iter() {
            entry.hash(state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Entry, Payload};
    use alloc::sync::Arc;

    fn log_of_runs(lengths: &[u64]) -> MemoryLog {
        let mut log = MemoryLog::new();
        for &length in lengths {
            let first = log.last.index.next();
            let entry =
                |at| Entry { id: EntryId { index: first.plus(at as usize), term: Term(1) }, payload: Payload::Noop };
            let mut writes = alloc::vec![Write { entries: (0..length).map(entry).collect(), ..Write::default() }];
            let Ok(()) = log.append(&mut writes);
        }
        log
    }

    /// With a snapshot that covers the log as far as it is forgotten.
    fn compact(log: &mut MemoryLog, through: u64) {
        let base = EntryId { index: Index(through), term: log.term(Index(through)).expect("the log holds it") };
        let mut writes = alloc::vec![Write {
            compaction: Some(Compaction { snapshot: base, base, membership: Arc::default() }),
            ..Write::default()
        }];
        let Ok(()) = log.append(&mut writes);
    }

    #[test]
    fn a_range_is_what_the_log_holds_of_it() {
        let mut log = log_of_runs(&[3, 1, 4, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
        compact(&mut log, 2);
        let last = log.last.index.0;
        for first in 0..last + 3 {
            for end in 0..last + 3 {
                let found: Vec<u64> = log.range(Index(first), Index(end)).map(|entry| entry.id.index.0).collect();
                let expected: Vec<u64> = (first.max(3)..end.min(last + 1)).collect();
                assert_eq!(found, expected, "[{first}, {end})");
            }
        }
        assert_eq!(MemoryLog::new().range(Index(0), Index(5)).count(), 0);
    }

    /// Whatever is cut off at either end, the rest is found, across the blocks of runs.
    #[test]
    fn a_log_of_many_runs_is_cut_at_both_ends() {
        let lengths: Vec<u64> = (0..3 * Runs::BLOCK as u64).map(|run| 1 + run % 2).collect();
        let whole = log_of_runs(&lengths);
        let end = whole.last.index.0 + 1;
        let cuts = [1, 2, 700, 767, 768, 769, 1500, 1536, 1537, 2000, end - 2, end - 1, end];
        for (first, end) in cuts.iter().flat_map(|&first| cuts.map(|end| (first, end))).filter(|(f, e)| f <= e) {
            let mut log = whole.clone();
            let truncation = Write { truncate_from: Some(Index(end)), ..Write::default() };
            let Ok(()) = log.append(&mut alloc::vec![truncation]);
            compact(&mut log, first - 1);
            let found: Vec<u64> = log.iter().map(|entry| entry.id.index.0).collect();
            assert_eq!(found, (first..end).collect::<Vec<u64>>(), "[{first}, {end})");
            assert_eq!((log.base.index.0, log.last.index.0), (first - 1, end - 1));
            for index in (first..end).step_by(97) {
                let from_there: Vec<u64> =
                    log.range(Index(index), Index(index + 600)).map(|entry| entry.id.index.0).collect();
                assert_eq!(from_there, (index..end.min(index + 600)).collect::<Vec<u64>>());
            }
        }
    }
}
