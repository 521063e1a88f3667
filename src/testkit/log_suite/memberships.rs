//! Configurations: a log tells the one that came with its last compaction and those of the entries after its snapshot, however
//! these come and go.

use super::compaction::compaction;
use super::{Fixture, append, check, membership, write};
use crate::action::{Compaction, Write};
use crate::history::{History, HistoryId};
use crate::log::{LogView, Memberships, RaftLog, Read};
use crate::membership::Membership;
use crate::types::{Entry, EntryId, Index, Payload};
use std::sync::Arc;
use std::vec;
use std::vec::Vec;

pub(super) fn run<F: Fixture>(fixture: &mut F) {
    appends_and_truncates(fixture);
    keeps_those_behind_the_snapshot(fixture);
    begins_anew_with_that_of_the_snapshot(fixture);
    takes_a_bootstrap_record(fixture);
    keeps_an_empty_one(fixture);
    counts_no_entry_that_the_snapshot_covers(fixture);
    keeps_the_largest(fixture);
    keeps_the_history(fixture);
}

/// Entries of one term, those at these positions with a configuration of the index's number.
fn configuring(first: u64, count: u64, term: u64, at: &[u64]) -> Write {
    let entry = |index: u64| {
        let payload = if at.contains(&index) {
            Payload::Membership(membership(index))
        } else {
            Payload::Command(vec![7; 20].into())
        };
        Entry { id: EntryId::new(index, term), payload }
    };
    Write { entries: (first..first + count).map(entry).collect(), ..Write::default() }
}

/// Asserts what the log tells, in so many words: the model computes it.
fn assert_tells(log: &impl LogView, at_snapshot: Option<u64>, later: &[u64]) {
    let at_snapshot = at_snapshot.map(membership);
    let later = later.iter().map(|&index| (Index(index), membership(index))).collect::<Vec<_>>();
    assert_eq!(log.memberships(), Memberships { at_snapshot, later });
}

fn appends_and_truncates<F: Fixture>(fixture: &mut F) {
    let (log, mut model) = append(fixture, &[configuring(1, 6, 1, &[1, 3, 4, 6])]);
    let log = check(fixture, log, &mut model, &[write(7, &[1, 2])]);
    assert_tells(&log, None, &[1, 3, 4, 6]);
    // Between two of them, at one, and in the write that brings another at the same index.
    let cut = |first: u64, write: Write| Write { truncate_from: Some(Index(first)), ..write };
    let log = check(fixture, log, &mut model, &[cut(5, Write::default())]);
    assert_tells(&log, None, &[1, 3, 4]);
    let log = check(fixture, log, &mut model, &[cut(4, configuring(4, 3, 3, &[5]))]);
    assert_tells(&log, None, &[1, 3, 5]);
    let other = Write {
        entries: [Entry { id: EntryId::new(5, 4), payload: other() }].into_iter().collect(),
        ..cut(5, Write::default())
    };
    let log = check(fixture, log, &mut model, &[other]);
    assert_ne!(log.memberships().later[2], (Index(5), membership(5)));
    // In one batch one comes and goes.
    let log = check(fixture, log, &mut model, &[configuring(6, 2, 4, &[6, 7]), cut(1, configuring(1, 2, 5, &[2]))]);
    assert_tells(&log, None, &[2]);
    check(fixture, log, &mut model, &[cut(1, Write::default())]);
}

fn other() -> Payload {
    Payload::Membership(membership(777))
}

/// The base is held; the entries between it and the snapshot stay, and their configurations do not count.
fn keeps_those_behind_the_snapshot<F: Fixture>(fixture: &mut F) {
    let (log, mut model) = append(fixture, &[configuring(1, 9, 1, &[2, 4, 5, 6, 8])]);
    let log = check(fixture, log, &mut model, &[compaction(EntryId::new(5, 1), EntryId::new(3, 1))]);
    assert_tells(&log, Some(5), &[6, 8]);
    assert!(
        matches!(log.read_blocking(Index(4), Index(5), 99), Ok(Read::Entries(found)) if found[0].payload == Payload::Membership(membership(4)))
    );
    // The base alone moves; then the snapshot takes the last of them.
    let log = check(fixture, log, &mut model, &[compaction(EntryId::new(5, 1), EntryId::new(5, 1))]);
    assert_tells(&log, Some(5), &[6, 8]);
    let log = check(fixture, log, &mut model, &[configuring(10, 2, 2, &[11])]);
    let log = check(fixture, log, &mut model, &[compaction(EntryId::new(8, 1), EntryId::new(5, 1))]);
    assert_tells(&log, Some(8), &[11]);
    // All four parts in one write: what the compaction leaves is truncated, and another comes.
    let all = Write { truncate_from: Some(Index(10)), ..configuring(10, 3, 3, &[12]) };
    let all = Write { compaction: compaction(EntryId::new(9, 1), EntryId::new(9, 1)).compaction, ..all };
    let log = check(fixture, log, &mut model, &[all]);
    assert_tells(&log, Some(9), &[12]);
    // Much later they stand in records that only the entries themselves keep.
    let mut log = log;
    for round in 0..12 {
        let first = 13 + 3 * round;
        let entries: Vec<u64> = vec![3; 3];
        log = check(fixture, log, &mut model, &[write(first, &entries)]);
        log = check(fixture, log, &mut model, &[compaction(EntryId::new(11, 3), EntryId::new(11, 3))]);
        assert_tells(&log, Some(11), &[12]);
    }
}

/// The base is not held: of the log's own nothing counts any more.
fn begins_anew_with_that_of_the_snapshot<F: Fixture>(fixture: &mut F) {
    for base in [EntryId::new(9, 2), EntryId::new(6, 2), EntryId::new(2, 2)] {
        let (log, mut model) = append(fixture, &[configuring(1, 6, 1, &[1, 3, 6])]);
        let log = check(fixture, log, &mut model, &[compaction(base, base)]);
        assert_tells(&log, Some(base.index.0), &[]);
        let next = base.index.0 + 1;
        let log = check(fixture, log, &mut model, &[configuring(next, 3, 2, &[next, next + 2])]);
        assert_tells(&log, Some(base.index.0), &[next, next + 2]);
        // And with entries in the same write.
        let anew = EntryId::new(next + 2, 3);
        let entries = configuring(next + 3, 2, 3, &[next + 3]).entries;
        let log = check(fixture, log, &mut model, &[Write { entries, ..compaction(anew, anew) }]);
        assert_tells(&log, Some(next + 2), &[next + 3]);
    }
}

/// The first record of a log may say who the cluster begins with: a snapshot of nothing.
fn takes_a_bootstrap_record<F: Fixture>(fixture: &mut F) {
    let record = compaction(EntryId::ZERO, EntryId::ZERO);
    let (log, mut model) = append(fixture, &[]);
    let log = check(fixture, log, &mut model, std::slice::from_ref(&record));
    assert_tells(&log, Some(0), &[]);
    assert_eq!((log.snapshot(), log.base(), log.last()), (EntryId::ZERO, EntryId::ZERO, EntryId::ZERO));
    let log = check(fixture, log, &mut model, &[configuring(1, 3, 1, &[2])]);
    assert_tells(&log, Some(0), &[2]);
    let log = check(fixture, log, &mut model, &[compaction(EntryId::new(2, 1), EntryId::new(1, 1))]);
    assert_tells(&log, Some(2), &[]);
    drop(log);
    // With its first entries in the same write and in the same batch, and in front of a log that an older version wrote.
    let whole = Write { entries: configuring(1, 2, 1, &[1]).entries, ..record.clone() };
    for writes in [&[whole][..], &[record.clone(), configuring(1, 2, 1, &[1])], &[configuring(1, 2, 1, &[1]), record]] {
        let (log, mut model) = append(fixture, &[]);
        let log = check(fixture, log, &mut model, writes);
        assert_tells(&log, Some(0), &[1]);
    }
}

/// A server that joins a cluster knows none yet, which is not the same as a log that says nothing.
fn keeps_an_empty_one<F: Fixture>(fixture: &mut F) {
    let (log, mut model) = append(fixture, &[write(1, &[1, 1])]);
    let empty = Compaction { snapshot: EntryId::new(1, 1), base: EntryId::new(1, 1), membership: Arc::default() };
    let log = check(fixture, log, &mut model, &[Write { compaction: Some(empty), ..Write::default() }]);
    assert_eq!(log.memberships().at_snapshot.as_deref(), Some(&Membership::default()));
    let log = check(fixture, log, &mut model, &[compaction(EntryId::new(2, 1), EntryId::new(1, 1))]);
    assert_tells(&log, Some(2), &[]);
}

/// A snapshot that reaches beyond the log, whose entries come all the same.
fn counts_no_entry_that_the_snapshot_covers<F: Fixture>(fixture: &mut F) {
    let (log, mut model) = append(fixture, &[configuring(1, 2, 1, &[1])]);
    let log = check(fixture, log, &mut model, &[compaction(EntryId::new(4, 1), EntryId::ZERO)]);
    assert_tells(&log, Some(4), &[]);
    let log = check(fixture, log, &mut model, &[configuring(3, 4, 1, &[3, 4, 5])]);
    assert_tells(&log, Some(4), &[5]);
}

/// As large as one can be, in an entry and with a compaction.
fn keeps_the_largest<F: Fixture>(fixture: &mut F) {
    let mut largest = Membership::new([1, 2, 3]);
    let address = Membership::ENCODED_BYTES_MAX - largest.encoded_len() - 12;
    largest = largest.with_address(2, "a".repeat(address));
    assert_eq!(largest.encoded_len(), Membership::ENCODED_BYTES_MAX);
    let largest = Arc::new(largest);
    let entry = Entry { id: EntryId::new(1, 1), payload: Payload::Membership(Arc::clone(&largest)) };
    let (log, mut model) = append(fixture, &[Write { entries: [entry].into_iter().collect(), ..Write::default() }]);
    let log = check(fixture, log, &mut model, &[write(2, &[1])]);
    let compaction = Compaction { snapshot: EntryId::new(1, 1), base: EntryId::ZERO, membership: largest };
    check(fixture, log, &mut model, &[Write { compaction: Some(compaction), ..Write::default() }]);
}

/// A configuration says which history it belongs to: in an entry, after a compaction that changes nothing else, behind a
/// snapshot, and when the log begins anew. A truncation takes back what no compaction has said.
fn keeps_the_history<F: Fixture>(fixture: &mut F) {
    let of = |membership: &Membership, id: u128| {
        let since = EntryId::new(1, 1);
        Arc::new(membership.with_history(Arc::new(History::new(HistoryId::from_bits(id), since))))
    };
    let founded = |id, term| {
        let payload = Payload::Membership(of(&membership(0), id));
        let entries = [Entry { id: EntryId::new(1, term), payload }].into_iter().collect();
        Write { entries, ..Write::default() }
    };
    let told = |log: &F::Log| {
        let Memberships { at_snapshot, later } = log.memberships();
        let id = |membership: &Arc<Membership>| membership.history().map(|history| history.id().to_bits() as u64);
        (at_snapshot.as_ref().and_then(id), later.iter().map(|(_, membership)| id(membership)).collect::<Vec<_>>())
    };
    let (log, mut model) = append(fixture, &[compaction(EntryId::ZERO, EntryId::ZERO), founded(7, 1)]);
    assert_eq!(told(&log), (None, vec![Some(7)]));
    let replaced = Write { truncate_from: Some(Index(1)), ..founded(8, 2) };
    let log = check(fixture, log, &mut model, &[replaced, write(2, &[2, 2])]);
    assert_eq!(told(&log), (None, vec![Some(8)]));
    let named = |id: EntryId| {
        let membership = of(&membership(0), 8);
        Write { compaction: Some(Compaction { snapshot: id, base: id, membership }), ..Write::default() }
    };
    let log = check(fixture, log, &mut model, &[Write { entries: write(4, &[2]).entries, ..named(EntryId::ZERO) }]);
    assert_eq!((told(&log), log.last()), ((Some(8), vec![Some(8)]), EntryId::new(4, 2)));
    let log = check(fixture, log, &mut model, &[named(EntryId::new(3, 2))]);
    assert_eq!((told(&log), log.last()), ((Some(8), vec![]), EntryId::new(4, 2)));
    let log = check(fixture, log, &mut model, &[named(EntryId::new(9, 3)), write(10, &[3])]);
    assert_eq!((told(&log), log.last()), ((Some(8), vec![]), EntryId::new(10, 3)));
}
