//! A log of which only the end is in memory.

use crate::log::{LogView, Memberships, MemoryLog, Read};
use crate::types::{DiskId, EntryId, HardState, Index, Term};

/// The protocol's view of a disk of which only the end is in memory.
pub(super) struct WarmEnd<'a> {
    pub(super) disk: &'a MemoryLog,
    pub(super) entries_in_memory: u64,
}

impl LogView for WarmEnd<'_> {
    fn hard_state(&self) -> HardState {
        self.disk.hard_state()
    }

    fn base(&self) -> EntryId {
        self.disk.base()
    }

    fn snapshot(&self) -> EntryId {
        self.disk.snapshot()
    }

    fn memberships(&self) -> Memberships {
        self.disk.memberships()
    }

    fn last(&self) -> EntryId {
        self.disk.last()
    }

    fn term(&self, index: Index) -> Option<Term> {
        self.disk.term(index)
    }

    fn read(&self, first: Index, end: Index, bytes_max: usize) -> Read {
        let cold = first.0.saturating_add(self.entries_in_memory) <= self.disk.last().index.0;
        match self.disk.read(first, end, bytes_max) {
            Read::Entries(entries) if cold && !entries.is_empty() => Read::Cold,
            read => read,
        }
    }

    fn write_bytes_max(&self) -> usize {
        self.disk.write_bytes_max()
    }

    fn disk(&self) -> DiskId {
        self.disk.disk()
    }
}
