//! Which snapshots there are, which are in use, and which may go: the same wherever they are kept.

use super::{SnapshotError, SnapshotInfo};
use crate::types::EntryId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::vec::Vec;

/// A complete snapshot. Whoever reads it holds a reference; they are only made under the catalogue's
/// lock, so that a snapshot of which the catalogue has the only one stays unused.
pub(super) struct Item<T> {
    pub(super) info: SnapshotInfo,
    /// Where its content is.
    pub(super) place: T,
}

pub(super) struct Catalogue<T> {
    /// Complete and durable.
    complete: BTreeMap<EntryId, Arc<Item<T>>>,
    /// Those of `complete` that go once nobody reads them.
    doomed: BTreeSet<EntryId>,
    /// Being written, received or deleted: nobody else may use their names.
    busy: BTreeSet<EntryId>,
}

impl<T> Default for Catalogue<T> {
    fn default() -> Self {
        Self { complete: BTreeMap::new(), doomed: BTreeSet::new(), busy: BTreeSet::new() }
    }
}

impl<T> Catalogue<T> {
    pub(super) fn list(&self) -> Vec<SnapshotInfo> {
        self.complete.values().map(|item| item.info.clone()).collect()
    }

    pub(super) fn newest(&self) -> Option<EntryId> {
        self.complete.last_key_value().map(|(last, _)| *last)
    }

    pub(super) fn find(&self, last: EntryId) -> Result<Arc<Item<T>>, SnapshotError> {
        self.complete.get(&last).cloned().ok_or(SnapshotError::NotFound { last })
    }

    /// Takes the names of a snapshot that is to be written or received.
    pub(super) fn claim(&mut self, last: EntryId) -> Result<(), SnapshotError> {
        if self.complete.contains_key(&last) {
            return Err(SnapshotError::Exists { last });
        }
        if self.reserve(last) { Ok(()) } else { Err(SnapshotError::Busy { last }) }
    }

    /// Takes the names of a snapshot, complete or not; false if someone else has them.
    pub(super) fn reserve(&mut self, last: EntryId) -> bool {
        self.busy.insert(last)
    }

    /// Gives the names back.
    pub(super) fn release(&mut self, last: EntryId) {
        self.busy.remove(&last);
    }

    /// Lists a snapshot that has become complete.
    pub(super) fn insert(&mut self, info: SnapshotInfo, place: T) {
        self.complete.insert(info.last, Arc::new(Item { info, place }));
    }

    /// Lists a snapshot no longer that is damaged, or not of this log.
    pub(super) fn remove(&mut self, last: EntryId) {
        self.complete.remove(&last);
        self.doomed.remove(&last);
    }

    /// Picks what is superseded by the snapshot of `last`, and never the newest.
    pub(super) fn doom_before(&mut self, last: EntryId) {
        let Some(newest) = self.newest() else { return };
        self.doomed.extend(self.complete.range(..last.min(newest)).map(|(last, _)| *last));
    }

    /// Takes out what is doomed and not in use. It stays claimed until [`Catalogue::release`]: its
    /// names are not free before it is deleted.
    pub(super) fn sweep(&mut self) -> Vec<Arc<Item<T>>> {
        // What was superseded may have become the newest again, when the newest was found damaged.
        let newest = self.newest();
        let unused = |last: &EntryId| {
            Some(*last) != newest && self.complete.get(last).is_some_and(|item| Arc::strong_count(item) == 1)
        };
        let going: Vec<EntryId> = self.doomed.iter().copied().filter(unused).collect();
        self.doomed.retain(|last| !going.contains(last));
        self.busy.extend(&going);
        going.iter().filter_map(|last| self.complete.remove(last)).collect()
    }

    /// Takes back what could not be deleted, to try again later.
    #[cfg(feature = "persistence")]
    pub(super) fn put_back(&mut self, item: Arc<Item<T>>) {
        let last = item.info.last;
        self.busy.remove(&last);
        self.complete.insert(last, item);
        self.doomed.insert(last);
    }
}
