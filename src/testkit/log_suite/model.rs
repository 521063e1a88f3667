//! The simplest log there is, and every question that a log can be asked.

use crate::action::{Compaction, Write};
use crate::log::{Memberships, RaftLog, Read};
use crate::membership::Membership;
use crate::types::{Entry, EntryId, HardState, Index, Payload};
use std::sync::Arc;
use std::vec::Vec;

/// The simplest log there is, to compare with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// The hard state of the last write that had one.
    pub hard_state: HardState,
    /// The last entry that the newest snapshot covers.
    pub snapshot: EntryId,
    /// The configuration that came with the last compaction.
    pub at_snapshot: Option<Arc<Membership>>,
    /// The entry before the first.
    pub base: EntryId,
    /// All entries behind the base.
    pub entries: Vec<Entry>,
}

impl Model {
    /// The last entry, or the base.
    #[must_use]
    pub fn last(&self) -> EntryId {
        self.entries.last().map_or(self.base, |entry| entry.id)
    }

    /// The configurations, as the entries behind the snapshot have them.
    #[must_use]
    pub fn memberships(&self) -> Memberships {
        let later = self.entries.iter().filter(|entry| entry.id.index > self.snapshot.index);
        let later = later.filter_map(|entry| match &entry.payload {
            Payload::Membership(membership) => Some((entry.id.index, Arc::clone(membership))),
            _ => None,
        });
        Memberships { at_snapshot: self.at_snapshot.clone(), later: later.collect() }
    }

    /// Carries out one write.
    pub fn write(&mut self, write: &Write) {
        self.hard_state = write.hard_state.unwrap_or(self.hard_state);
        if let Some(compaction) = &write.compaction {
            self.compact(compaction);
        }
        if let Some(first) = write.truncate_from {
            self.entries.retain(|entry| entry.id.index < first);
        }
        self.entries.extend(write.entries.iter().cloned());
    }

    fn compact(&mut self, compaction: &Compaction) {
        let Compaction { snapshot, base, .. } = *compaction;
        let held = base == self.base || self.entries.iter().any(|entry| entry.id == base);
        self.entries.retain(|entry| held && entry.id.index > base.index);
        (self.snapshot, self.base) = (snapshot, base);
        self.at_snapshot = Some(Arc::clone(&compaction.membership));
    }

    /// The state that a log shows.
    ///
    /// # Errors
    /// What the log does not read back, or where its answers contradict each other.
    pub fn of<L: RaftLog>(log: &L) -> Result<Self, std::string::String> {
        let (base, last) = (log.base(), log.last());
        let mut entries = Vec::new();
        let mut next = base.index.next();
        while next <= last.index {
            let run = match log.read_blocking(next, last.index.next(), usize::MAX) {
                Ok(Read::Entries(run)) if !run.is_empty() => run,
                other => return Err(std::format!("reading from {next} of {last}: {other:?}")),
            };
            for entry in run.iter() {
                if entry.id.index != next || log.term(next) != Some(entry.id.term) {
                    return Err(std::format!("entry {} where {next} of term {:?} is", entry.id, log.term(next)));
                }
                next = next.next();
            }
            entries.extend(run.iter().cloned());
        }
        let memberships = log.memberships();
        let at_snapshot = memberships.at_snapshot.clone();
        let model = Self { hard_state: log.hard_state(), snapshot: log.snapshot(), at_snapshot, base, entries };
        if model.snapshot.index < base.index {
            return Err(std::format!("the base {base} lies behind the snapshot {}", model.snapshot));
        }
        if model.memberships() != memberships {
            return Err(std::format!("configurations {:?} of entries that have others", memberships.later));
        }
        if model.last() != last { Err(std::format!("the last entry is not {last}")) } else { Ok(model) }
    }

    /// Asserts that the log answers every question as this model does.
    ///
    /// # Panics
    /// If it does not.
    pub fn assert_equals<L: RaftLog>(&self, log: &L) {
        let found = Self::of(log).expect("the log reads back");
        assert_eq!(found, *self, "the log holds what was written");
        assert_eq!(log.term(self.base.index), Some(self.base.term), "the base has a term");
        assert_eq!(log.term(self.last().index.next()), None, "no term behind the end");
        if self.base.index > Index::ZERO {
            assert_eq!(log.term(self.base.index.previous()), None, "no term before the base");
        }
        self.assert_reads(log);
    }

    /// Limits by index and by bytes, from memory and from the medium.
    fn assert_reads<L: RaftLog>(&self, log: &L) {
        let (first, end) = (self.base.index.next(), self.last().index.next());
        for bytes_max in [0, 40, 200, usize::MAX] {
            let reading = |from: Index, to: Index| {
                let blocking = log.read_blocking(from, to, bytes_max).expect("a blocking read succeeds");
                assert_ne!(blocking, Read::Cold, "a blocking read is never cold");
                match log.read(from, to, bytes_max) {
                    Read::Cold => {}
                    answered => self.assert_read(&answered, from, to, bytes_max),
                }
                self.assert_read(&blocking, from, to, bytes_max);
            };
            reading(self.base.index, end);
            reading(end, end.plus(3));
            reading(first, Index::MAX);
            let middle = Index(u64::midpoint(first.0, end.0));
            for to in [middle, middle.next(), end] {
                reading(middle, to);
            }
        }
    }

    fn assert_read(&self, read: &Read, first: Index, end: Index, bytes_max: usize) {
        if first <= self.base.index {
            assert_eq!(*read, Read::Compacted, "nothing before the base");
            return;
        }
        let Read::Entries(found) = read else { panic!("{read:?} for [{first}, {end})") };
        let start = ((first.0 - self.base.index.0 - 1) as usize).min(self.entries.len());
        let stop = ((end.0 - self.base.index.0 - 1) as usize).clamp(start, self.entries.len());
        let expected = &self.entries[start..stop];
        assert_eq!(**found, expected[..found.len().min(expected.len())], "a prefix of [{first}, {end})");
        assert_eq!(found.is_empty(), expected.is_empty(), "at least one entry if there is one");
        assert!(found.len() <= 1 || found.size_bytes() <= bytes_max, "no more than {bytes_max} bytes");
    }
}
