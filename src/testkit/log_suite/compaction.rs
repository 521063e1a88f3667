//! Compactions: what a log forgets, when it begins anew, and that it does so within the write that says so.

use super::{Fixture, Model, append, check, membership, write};
use crate::action::{Compaction, Write};
use crate::log::LogView;
use crate::types::{EntryId, HardState, Index, NodeId, Term};
use std::vec;
use std::vec::Vec;

pub(super) fn run<F: Fixture>(fixture: &mut F) {
    forgets_the_prefix(fixture);
    begins_anew_without_the_base(fixture);
    remembers_a_snapshot_beyond_the_base(fixture);
    takes_the_same_compaction_again(fixture);
    compacts_before_it_truncates_and_appends(fixture);
    compacts_what_the_batch_appends(fixture);
}

pub(super) fn compaction(snapshot: EntryId, base: EntryId) -> Write {
    let membership = membership(snapshot.index.0);
    Write { compaction: Some(Compaction { snapshot, base, membership }), ..Write::default() }
}

fn forgets_the_prefix<F: Fixture>(fixture: &mut F) {
    let (mut log, mut model) = append(fixture, &[write(1, &[1, 1, 2]), write(4, &[2, 3, 3])]);
    for (index, term) in [(2, 1), (4, 2), (6, 3)] {
        let base = EntryId::new(index, term);
        log = check(fixture, log, &mut model, &[compaction(base, base)]);
        assert_eq!((log.snapshot(), log.base(), log.last()), (base, base, EntryId::new(6, 3)));
    }
    check(fixture, log, &mut model, &[write(7, &[3, 4])]);
}

/// What the log holds does not lead to the snapshot: it is shorter, or another history.
fn begins_anew_without_the_base<F: Fixture>(fixture: &mut F) {
    let shorter = EntryId::new(9, 2);
    let at_the_end = EntryId::new(4, 3);
    let inside = EntryId::new(2, 3);
    for base in [shorter, at_the_end, inside] {
        let (log, mut model) = append(fixture, &[write(1, &[1, 1, 1]), write(4, &[2])]);
        let log = check(fixture, log, &mut model, &[compaction(base, base)]);
        assert_eq!((log.snapshot(), log.base(), log.last()), (base, base, base));
        assert_eq!(log.term(base.index.next()), None, "nothing behind the base");
        let log = check(fixture, log, &mut model, &[write(base.index.0 + 1, &[3, 4])]);
        // And again, now that there is a base.
        let base = EntryId::new(base.index.0 + 1, 5);
        let log = check(fixture, log, &mut model, &[compaction(base, base), write(base.index.0 + 1, &[5])]);
        assert_eq!((log.base(), log.last()), (base, EntryId::new(base.index.0 + 1, 5)));
    }
    // A log that never held anything.
    let (log, mut model) = append(fixture, &[]);
    let log = check(fixture, log, &mut model, &[compaction(shorter, shorter)]);
    check(fixture, log, &mut model, &[write(10, &[2])]);
}

/// The entries between serve followers that are a little behind.
fn remembers_a_snapshot_beyond_the_base<F: Fixture>(fixture: &mut F) {
    let (log, mut model) = append(fixture, &[write(1, &[1, 1, 2, 2, 2])]);
    let log = check(fixture, log, &mut model, &[compaction(EntryId::new(4, 2), EntryId::new(2, 1))]);
    assert_eq!((log.snapshot(), log.base()), (EntryId::new(4, 2), EntryId::new(2, 1)));
    // A newer snapshot alone, then the entries up to it.
    let log = check(fixture, log, &mut model, &[compaction(EntryId::new(5, 2), EntryId::new(2, 1))]);
    let log = check(fixture, log, &mut model, &[compaction(EntryId::new(5, 2), EntryId::new(5, 2))]);
    assert_eq!((log.snapshot(), log.base(), log.last()), (EntryId::new(5, 2), EntryId::new(5, 2), EntryId::new(5, 2)));
    // Nothing is forgotten yet: a snapshot alone in front of a whole log, and of an empty one.
    for entries in [vec![write(1, &[1, 1])], Vec::new()] {
        let (log, mut model) = append(fixture, &entries);
        let log = check(fixture, log, &mut model, &[compaction(EntryId::new(2, 1), EntryId::ZERO)]);
        assert_eq!((log.snapshot(), log.base()), (EntryId::new(2, 1), EntryId::ZERO));
    }
}

fn takes_the_same_compaction_again<F: Fixture>(fixture: &mut F) {
    let (mut log, mut model) = append(fixture, &[write(1, &[1, 1, 2, 2])]);
    let same = compaction(EntryId::new(3, 2), EntryId::new(2, 1));
    for _ in 0..3 {
        log = check(fixture, log, &mut model, &[same.clone(), same.clone()]);
    }
    assert_eq!((log.base(), log.last()), (EntryId::new(2, 1), EntryId::new(4, 2)));
    // The base is the last entry: still held, not another beginning.
    let last = compaction(EntryId::new(4, 2), EntryId::new(4, 2));
    log = check(fixture, log, &mut model, std::slice::from_ref(&last));
    let log = check(fixture, log, &mut model, &[last.clone(), write(5, &[2]), last]);
    assert_eq!((log.base(), log.last()), (EntryId::new(4, 2), EntryId::new(5, 2)));
}

/// All four parts in one write, with the base held and not.
fn compacts_before_it_truncates_and_appends<F: Fixture>(fixture: &mut F) {
    let hard_state = Some(HardState { term: Term(4), vote: Some(NodeId(2)) });
    let entries = [write(1, &[1, 1, 2, 2, 2])];
    let (log, mut model) = append(fixture, &entries);
    let whole = Write {
        hard_state,
        truncate_from: Some(Index(4)),
        ..Write { entries: write(4, &[4, 4]).entries, ..compaction(EntryId::new(2, 1), EntryId::new(2, 1)) }
    };
    let log = check(fixture, log, &mut model, &[whole]);
    assert_eq!((log.base(), log.last(), log.hard_state().term), (EntryId::new(2, 1), EntryId::new(5, 4), Term(4)));

    // Entries of the old history stood where those of the new one stand now.
    let (log, mut model) = append(fixture, &entries);
    let base = EntryId::new(3, 3);
    let anew = Write { hard_state, entries: write(4, &[3, 4, 4]).entries, ..compaction(base, base) };
    let log = check(fixture, log, &mut model, &[anew]);
    assert_eq!((log.base(), log.last(), log.term(Index(4))), (base, EntryId::new(6, 4), Some(Term(3))));

    // The truncation finds nothing behind a base that was not held.
    let (log, mut model) = append(fixture, &entries);
    let anew = Write { truncate_from: Some(Index(4)), ..compaction(base, base) };
    let log = check(fixture, log, &mut model, &[anew]);
    assert_eq!(log.last(), base);
}

/// In one batch entries are appended, forgotten, and begun anew.
fn compacts_what_the_batch_appends<F: Fixture>(fixture: &mut F) {
    let log = fixture.create();
    let mut model = Model::default();
    let anew = Write { entries: write(7, &[5, 5]).entries, ..compaction(EntryId::new(6, 5), EntryId::new(6, 5)) };
    let batch = [
        write(1, &[1, 1, 2]),
        compaction(EntryId::new(2, 1), EntryId::new(2, 1)),
        write(4, &[2, 2]),
        Write { truncate_from: Some(Index(5)), ..write(5, &[3]) },
        compaction(EntryId::new(5, 3), EntryId::new(4, 2)),
        anew,
        write(9, &[5]),
        compaction(EntryId::new(7, 5), EntryId::new(7, 5)),
    ];
    let log = check(fixture, log, &mut model, &batch);
    assert_eq!((log.base(), log.last()), (EntryId::new(7, 5), EntryId::new(9, 5)));
    // Each prefix of the batch is a log too.
    for count in 1..batch.len() {
        let log = fixture.create();
        check(fixture, log, &mut Model::default(), &batch[..count]);
    }
}
