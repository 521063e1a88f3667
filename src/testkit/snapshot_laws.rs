//! The laws of snapshots (§5), for the checker of a cluster's history.

use super::invariants::{Checker, View};
use super::laws::{Checked, Law, check};
use crate::log::{LogView, MemoryLog};
use crate::types::{EntryId, NodeId};
use std::format;

impl Checker {
    /// A server's state machine becomes what a snapshot says.
    ///
    /// # Errors
    /// The law that it breaks.
    pub fn restored(&mut self, view: &View<'_>, snapshot: EntryId) -> Checked {
        let id = view.id;
        let durable = view.disk.snapshot();
        check(durable == snapshot, Law::PersistFirst, || {
            format!("node {id} restores the snapshot {snapshot}, its disk knows of {durable}")
        })?;
        let last = self.applied.insert(id, snapshot.index);
        check(last.is_none_or(|last| last < snapshot.index), Law::AppliedInOrder, || {
            format!("node {id} restores the snapshot {snapshot} when it has applied {}", last.unwrap_or_default())
        })?;
        self.check_covered(id, snapshot)
    }

    /// What is gone from a log, or in a snapshot, was committed.
    fn check_covered(&self, id: NodeId, last: EntryId) -> Checked {
        let committed = self.committed.get(&last.index).map(|committed| committed.entry.id);
        check(last == EntryId::ZERO || committed == Some(last), Law::SnapshotConsistent, || {
            format!("node {id} has a snapshot in the place of what is up to {last}, committed there is {committed:?}")
        })
    }

    pub(super) fn check_snapshots(&self, view: &View<'_>) -> Checked {
        for log in [view.log, view.disk] {
            let (base, snapshot, last) = (log.base(), log.snapshot(), log.last());
            let no_gap = base.index <= snapshot.index && snapshot.index <= last.index;
            check(no_gap, Law::CompactedIsCovered, || {
                format!(
                    "node {}'s snapshot ends at {snapshot}, its log holds what is after {base} up to {last}",
                    view.id
                )
            })?;
            self.check_covered(view.id, snapshot)?;
            self.check_covered(view.id, base)?;
        }
        Ok(())
    }

    /// A snapshot took nothing away that followed it in the log as it was, which ended with `last`.
    pub(super) fn check_kept(&self, view: &View<'_>, before: EntryId, last: EntryId) -> Checked {
        let snapshot = view.log.snapshot();
        let shorter = snapshot != before && view.log.last().index < last.index;
        check(!shorter || !self.leads_to(last, snapshot), Law::SnapshotKeepsWhatFollows, || {
            format!("node {} held what follows {snapshot} up to {last}, and lost it to a snapshot", view.id)
        })
    }

    /// Whether a log that ends with `last` holds the entry `id`.
    fn leads_to(&self, mut last: EntryId, id: EntryId) -> bool {
        while last.index > id.index {
            let Some((_, before)) = self.entries.get(&last) else { return false };
            last = *before;
        }
        last == id
    }
}

/// Whether a log holds an entry; what is compacted was held.
pub(super) fn holds(log: &MemoryLog, id: EntryId) -> bool {
    id.index < log.base().index || log.term(id.index) == Some(id.term)
}
