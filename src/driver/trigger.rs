//! When a snapshot is due, and how far the log is forgotten with it.

use super::options::DriverOptions;
use crate::types::{Entry, EntryId, Index};
use std::collections::VecDeque;
use std::vec::Vec;

/// How finely the log's bytes are known: in so many parts of what the trail may hold.
const SAMPLES: u64 = 256;
/// The same, of what it may hold for peers that fetch a snapshot.
const HOLD_SAMPLES: u64 = 64;
/// A trail of this size is kept whatever the size of the snapshot.
const TRAIL_BYTES_MIN: u64 = 1 << 20;

/// How far back the log goes behind a snapshot that is being taken, and how many bytes that is.
pub(super) struct Trail {
    last: Index,
    entries_max: u64,
    bytes_max: u64,
    /// Some entries before `last`, ascending, each with the bytes behind it.
    samples: Vec<(Index, u64)>,
    /// The bytes of all entries that are known.
    total: u64,
    hold_floor: Index,
}

impl Trail {
    /// What follows this index may be kept for peers that fetch a snapshot; nothing, if the log is short of space.
    pub(super) fn hold_floor(&self, is_short: bool) -> Index {
        if is_short { Index::MAX } else { self.hold_floor }
    }

    /// The log forgets up to this index with a snapshot of so many bytes. A follower that lacks more than the snapshot has
    /// is better served by that, so no more than this is kept; nothing, if the log is short of space. Of entries that were
    /// never counted the bytes are not known.
    pub(super) fn compact_through(&self, snapshot_bytes: u64, is_short: bool) -> Index {
        let bytes_max = if is_short { 0 } else { self.bytes_max.min(snapshot_bytes.max(TRAIL_BYTES_MIN)) };
        let entries_max = if is_short { 0 } else { self.entries_max };
        let by_entries = Index(self.last.0.saturating_sub(entries_max));
        let by_bytes = if self.total > bytes_max {
            self.samples.iter().find(|(_, behind)| *behind <= bytes_max).map_or(self.last, |(index, _)| *index)
        } else {
            Index::ZERO
        };
        by_entries.max(by_bytes)
    }
}

/// What was applied since the last snapshot, and what the log holds right before.
pub(super) struct Trigger {
    entries_max: u64,
    bytes_max: u64,
    trail_entries: u64,
    trail_bytes: u64,
    hold_bytes: u64,
    entries: u64,
    bytes: u64,
    /// The bytes of all entries counted so far.
    total: u64,
    /// Some of the entries counted, each with the bytes up to and including it, ascending. Those that
    /// lie too far behind for any trail are gone.
    samples: VecDeque<(Index, u64)>,
    /// The same, for what peers that fetch a snapshot may need.
    held: VecDeque<(Index, u64)>,
}

impl Trigger {
    pub(super) fn new(options: &DriverOptions) -> Self {
        Self {
            entries_max: options.snapshot_entries as u64,
            bytes_max: options.snapshot_bytes,
            trail_entries: options.snapshot_trail_entries as u64,
            trail_bytes: options.snapshot_trail_bytes,
            hold_bytes: options.snapshot_hold_bytes,
            entries: 0,
            bytes: 0,
            total: 0,
            samples: VecDeque::new(),
            held: VecDeque::new(),
        }
    }

    /// Counts an entry that was applied.
    pub(super) fn count(&mut self, entry: &Entry) {
        let bytes = entry.size_bytes() as u64;
        self.entries += 1;
        self.bytes += bytes;
        self.total += bytes;
        let (index, total) = (entry.id.index, self.total);
        sample(&mut self.samples, (index, total), self.trail_bytes, SAMPLES);
        sample(&mut self.held, (index, total), self.hold_bytes, HOLD_SAMPLES);
    }

    pub(super) fn is_due(&self) -> bool {
        self.entries >= self.entries_max || self.bytes >= self.bytes_max
    }

    /// A snapshot was asked of the state machine, whatever came of it: the next is due in its time.
    pub(super) fn reset(&mut self) {
        (self.entries, self.bytes) = (0, 0);
    }

    /// A snapshot took the place of what was counted.
    pub(super) fn begin_anew(&mut self) {
        self.reset();
        self.total = 0;
        self.samples.clear();
        self.held.clear();
    }

    /// What the log may keep behind a snapshot up to `last`, the last entry counted.
    pub(super) fn trail(&self, last: EntryId) -> Trail {
        Trail {
            last: last.index,
            entries_max: self.trail_entries,
            bytes_max: self.trail_bytes,
            samples: self.samples.iter().map(|(index, at)| (*index, self.total - at)).collect(),
            total: self.total,
            hold_floor: floor(&self.held, self.total, self.hold_bytes),
        }
    }
}

/// Takes one of these entries in so many, and forgets those that lie more than `bytes_max` back.
fn sample(samples: &mut VecDeque<(Index, u64)>, (index, total): (Index, u64), bytes_max: u64, parts: u64) {
    if samples.back().is_none_or(|(_, at)| total - at > bytes_max / parts) {
        samples.push_back((index, total));
    }
    while samples.front().is_some_and(|(_, at)| total - at > bytes_max) {
        samples.pop_front();
    }
}

/// The entries after this one have no more than `bytes_max` bytes, as far as they were counted.
fn floor(samples: &VecDeque<(Index, u64)>, total: u64, bytes_max: u64) -> Index {
    match samples.front() {
        Some((index, _)) if total > bytes_max => *index,
        _ => Index::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Payload, Term};
    use bytes::Bytes;

    fn entry(index: u64, bytes: usize) -> Entry {
        let command = Bytes::from(std::vec![0; bytes - Entry::OVERHEAD_BYTES]);
        Entry { id: id(index), payload: Payload::Command(command) }
    }

    fn id(index: u64) -> EntryId {
        EntryId { index: Index(index), term: Term(1) }
    }

    fn trigger(change: impl FnOnce(&mut DriverOptions)) -> Trigger {
        let mut options = DriverOptions::default();
        change(&mut options);
        Trigger::new(&options)
    }

    impl Trigger {
        /// With a large snapshot, and room for everything.
        fn compact_through(&self, last: EntryId) -> Index {
            self.trail(last).compact_through(u64::MAX, false)
        }
    }

    /// The story of the snapshot of 800 KB on a volume of 40 MiB: 64 MiB might stay behind it, so that nothing was freed.
    #[test]
    fn the_trail_is_no_larger_than_the_snapshot_and_nothing_if_space_is_short() {
        let mut trigger = trigger(|options| options.snapshot_trail_bytes = 64 << 20);
        (1..=4000).for_each(|index| trigger.count(&entry(index, 8 << 10)));
        let trail = trigger.trail(id(4000));
        for mebibytes in [0, 1, 2, 8, 20] {
            let kept = 4000 - trail.compact_through(mebibytes << 20, false).0;
            let most = (mebibytes.max(1) << 20) / (8 << 10);
            assert!(kept <= most && kept + 33 >= most, "{kept} entries of 8 KiB behind {mebibytes} MiB");
        }
        assert_eq!(trail.compact_through(u64::MAX, false), Index::ZERO, "all of it is within the option");
        assert_eq!(trail.compact_through(u64::MAX, true), Index(4000));
        assert_eq!(trail.compact_through(0, true), Index(4000));
    }

    #[test]
    fn whichever_comes_first_makes_a_snapshot_due() {
        let mut trigger = trigger(|options| (options.snapshot_entries, options.snapshot_bytes) = (3, 1000));
        trigger.count(&entry(1, 100));
        trigger.count(&entry(2, 100));
        assert!(!trigger.is_due());
        trigger.count(&entry(3, 100));
        assert!(trigger.is_due());
        trigger.reset();
        trigger.count(&entry(4, 999));
        assert!(!trigger.is_due());
        trigger.count(&entry(5, 100));
        assert!(trigger.is_due());
    }

    #[test]
    fn the_trail_is_bounded_by_entries_and_by_bytes() {
        let mut trigger = trigger(|options| {
            (options.snapshot_trail_entries, options.snapshot_trail_bytes) = (50, 1600);
        });
        for index in 1..=16 {
            trigger.count(&entry(index, 100));
        }
        // All of it fits.
        assert_eq!(trigger.compact_through(id(16)), Index::ZERO);
        for index in 17..=1000 {
            trigger.count(&entry(index, 100));
            let kept = index - trigger.compact_through(id(index)).0;
            assert!((14..=16).contains(&kept), "{kept} entries of 100 bytes at {index}");
        }
        for index in 1001..=1100 {
            trigger.count(&entry(index, Entry::OVERHEAD_BYTES));
        }
        assert_eq!(trigger.compact_through(id(1100)), Index(1050));
        // One entry is too large for the trail by itself.
        trigger.count(&entry(1101, 2000));
        assert_eq!(trigger.compact_through(id(1101)), Index(1101));
        trigger.begin_anew();
        assert_eq!(trigger.compact_through(id(1101)), Index(1051));
    }

    #[test]
    fn what_may_be_held_is_bounded_by_bytes_alone() {
        let mut trigger = trigger(|options| {
            (options.snapshot_trail_entries, options.snapshot_hold_bytes) = (0, 6400);
        });
        (1..=64).for_each(|index| trigger.count(&entry(index, 100)));
        let floor = |trigger: &Trigger, index| trigger.trail(id(index)).hold_floor(false);
        assert_eq!(floor(&trigger, 64), Index::ZERO, "all of it fits");
        for index in 65..=1000 {
            trigger.count(&entry(index, 100));
            let held = index - floor(&trigger, index).0;
            assert!((62..=64).contains(&held), "{held} entries of 100 bytes at {index}");
        }
        assert_eq!(trigger.compact_through(id(1000)), Index(1000), "the trail is a matter of its own");
        assert_eq!(trigger.trail(id(1000)).hold_floor(true), Index::MAX, "without space nothing may be held");
    }

    #[test]
    fn without_a_trail_everything_is_forgotten() {
        let mut trigger = trigger(|options| options.snapshot_trail_bytes = 0);
        (1..=3).for_each(|index| trigger.count(&entry(index, 100)));
        assert_eq!(trigger.compact_through(id(3)), Index(3));
    }
}
