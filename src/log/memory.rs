//! A log in memory: for tests, models, caches and single-process clusters.

use super::{LogView, RaftLog, Read};
use crate::action::Write;
use crate::types::{Entries, Entry, EntryId, HardState, Index, Term};
use alloc::vec::Vec;
use core::convert::Infallible;
use core::hash::{Hash, Hasher};

/// A log in memory. Its durability is that of the process: `sync` has nothing to do.
///
/// Entries stay in the shared runs in which they came, so an append takes the time of a batch, not
/// of its entries, and reading back what was appended copies nothing.
#[derive(Clone, Debug, Default)]
pub struct MemoryLog {
    hard_state: HardState,
    base: EntryId,
    last: EntryId,
    /// Consecutive non-empty runs; the first begins right after `base`.
    runs: Vec<Entries>,
}

impl MemoryLog {
    /// An empty log.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets the entries up to and including `through`, which must not lie beyond the last.
    pub fn compact(&mut self, through: Index) {
        let Some(term) = self.term(through) else { return };
        let whole = self.runs.partition_point(|run| run[run.len() - 1].id.index <= through);
        self.runs.drain(..whole);
        if let Some(run) = self.runs.first_mut() {
            *run = run.range(through.next(), Index::MAX);
        }
        self.base = EntryId { index: through, term };
    }

    /// Every entry in order.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.runs.iter().flat_map(|run| run.iter())
    }

    /// The entries with an index in `[first, end)`, as far as the log holds them, in order.
    #[inline]
    pub fn range(&self, first: Index, end: Index) -> impl Iterator<Item = &Entry> {
        let first = first.max(self.base.index.next());
        let end = end.min(self.last.index.next());
        if first >= end {
            return Range { current: [].iter(), runs: &self.runs, position: 0, count: 0 };
        }
        let position = self.run_of(first);
        let run = &self.runs[position];
        let current = run[(first.0 - run[0].id.index.0) as usize..].iter();
        Range { current, runs: &self.runs, position, count: (end.0 - first.0) as usize }
    }

    /// The position of the run that holds `index`, which lies in `(base, last]`.
    #[inline]
    fn run_of(&self, index: Index) -> usize {
        // Reads near the end are by far the most frequent: look there before halving the whole.
        const NEAR: usize = 8;
        let mut position = self.runs.len() - 1;
        let far = position.saturating_sub(NEAR);
        while self.runs[position][0].id.index > index {
            if position == far {
                return self.runs.partition_point(|run| run[0].id.index <= index) - 1;
            }
            position -= 1;
        }
        position
    }

    fn truncate_from(&mut self, first: Index) {
        while let Some(run) = self.runs.last_mut() {
            if run[0].id.index >= first {
                self.runs.pop();
            } else {
                let start = run[0].id.index;
                *run = run.range(start, first);
                break;
            }
        }
        self.last = self.runs.last().and_then(Entries::last_id).unwrap_or(self.base);
    }

    fn write(&mut self, write: Write) {
        if let Some(hard_state) = write.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(first) = write.truncate_from {
            assert!(first > self.base.index, "truncation from {first} reaches behind the base {}", self.base);
            self.truncate_from(first);
        }
        if let (Some(first), Some(last)) = (write.entries.first_id(), write.entries.last_id()) {
            assert!(first.index == self.last.index.next(), "entries must follow the last one");
            self.last = last;
            self.runs.push(write.entries);
        }
    }
}

/// The entries that are left of a range: those of the present run, then the following runs.
struct Range<'a> {
    current: core::slice::Iter<'a, Entry>,
    runs: &'a [Entries],
    position: usize,
    count: usize,
}

impl<'a> Iterator for Range<'a> {
    type Item = &'a Entry;

    #[inline]
    fn next(&mut self) -> Option<&'a Entry> {
        if self.count == 0 {
            return None;
        }
        self.count -= 1;
        if self.current.as_slice().is_empty() {
            self.position += 1;
            self.current = self.runs[self.position].iter();
        }
        self.current.next()
    }
}

impl LogView for MemoryLog {
    fn hard_state(&self) -> HardState {
        self.hard_state
    }

    fn base(&self) -> EntryId {
        self.base
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
            let run = &self.runs[self.run_of(index)];
            Some(run[(index.0 - run[0].id.index.0) as usize].id.term)
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
        let position = self.run_of(first);
        let run = &self.runs[position];
        if run[0].id.index.plus(run.len()) >= end {
            return Read::Entries(run.range_within(first, end, bytes_max));
        }
        // Entries of several runs go into a run of their own: only a reader that lags asks for them.
        let mut bytes = 0usize;
        let mut gathered = Vec::new();
        for entry in
            self.runs[position..].iter().flat_map(|run| run.iter()).skip((first.0 - run[0].id.index.0) as usize)
        {
            bytes = bytes.saturating_add(entry.size_bytes());
            if entry.id.index >= end || (bytes > bytes_max && !gathered.is_empty()) {
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
        if writes.len() == 1 {
            // By far the most frequent, and cheaper than a drain.
            writes.pop().into_iter().for_each(|write| self.write(write));
        } else {
            writes.drain(..).for_each(|write| self.write(write));
        }
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
        self.hard_state == other.hard_state
            && self.base == other.base
            && self.last == other.last
            && self.iter().eq(other.iter())
    }
}

impl Eq for MemoryLog {}

impl Hash for MemoryLog {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hard_state.hash(state);
        self.base.hash(state);
        self.last.hash(state);
        for entry in self.iter() {
            entry.hash(state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Entry, Payload};

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

    #[test]
    fn a_range_is_what_the_log_holds_of_it() {
        let mut log = log_of_runs(&[3, 1, 4, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
        log.compact(Index(2));
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
}
