//! Configurations in the durable log: what a checkpoint says of them, what the entries say, and what is neither.

#![cfg(all(feature = "persistence", feature = "testkit"))]

mod log_support;

use log_support::{Forgery, Run, compaction, membership_at, open, segments, without_membership, write};
use raft_io::action::{Compaction, Write};
use raft_io::log::{LogView, RaftLog, WalError};
use raft_io::membership::MembershipError;
use raft_io::testkit::disk::FaultyDisk;
use raft_io::testkit::log_suite::Model;
use raft_io::{Entry, EntryId, Index, Membership, NodeId, Payload};
use std::sync::Arc;

fn membership(seed: u64) -> Arc<Membership> {
    Arc::new(Membership::new([1, 2, seed]).with_learner(seed + 1).with_address(seed, format!("server {seed}")))
}

fn configuring(index: u64, term: u64, membership: &Arc<Membership>) -> Write {
    let entry = Entry { id: EntryId::new(index, term), payload: Payload::Membership(Arc::clone(membership)) };
    Write { entries: [entry].into_iter().collect(), ..Write::default() }
}

/// One entry after another without an end, and a snapshot now and then: whatever is purged, the configurations behind the
/// snapshot are still in the entries, and the one before them in the checkpoint.
#[test]
fn configurations_outlive_the_segments_before_them() {
    // How far the base lies behind the snapshot, and the snapshot behind the end.
    for (trail, behind) in [(0, 0), (0, 9), (4, 9), (13, 2)] {
        let (mut run, mut purged) = (Run::new(), 0);
        let mut in_force = Vec::new();
        for index in 1..90 {
            if index % 7 == 3 {
                in_force.push((index, membership(index)));
                run.synced(configuring(index, 1, &membership(index)));
            } else {
                run.synced(write(index, &[1], 900));
            }
            if index % 5 == 0 && index > trail + behind {
                let snapshot = index - behind;
                let as_of = in_force.iter().rev().find(|(at, _)| *at <= snapshot);
                let mut compaction = compaction((snapshot, 1), (snapshot - trail, 1));
                compaction.compaction.as_mut().expect("a compaction").membership =
                    as_of.map_or_else(Arc::default, |(_, membership)| Arc::clone(membership));
                run.synced(compaction);
            }
            let recovered = run.recovered().expect("a log opens");
            run.model.assert_equals(&recovered);
            let told = recovered.memberships();
            let last = told.later.last().map(|(_, membership)| membership).or(told.at_snapshot.as_ref());
            assert_eq!(last, in_force.last().map(|(_, membership)| membership), "the one in force");
            // Segments are numbered from 1, and one that is purged becomes a spare with a new number.
            purged = purged.max(segments(&run.disk.live_image()).len());
        }
        assert!(purged < 15, "what holds 80 entries of 900 bytes was purged on the way");
    }
}

/// What is truncated behind a checkpoint may stand in records before it, and before the first that is left.
#[test]
fn truncated_configurations_do_not_come_back() {
    let mut run = Run::new();
    for index in 1..12 {
        run.synced(configuring(index, 1, &membership(index)));
        run.synced(Write { truncate_from: Some(Index(index)), ..write(index, &[1], 900) });
        run.synced(configuring(index + 1, 1, &membership(100 + index)));
        run.synced(Write { truncate_from: Some(Index(index + 1)), ..compaction((index, 1), (index, 1)) });
        assert_eq!(run.log.memberships().later, []);
        run.model.assert_equals(&run.recovered().expect("a log opens"));
    }
    // Nor do those of a log that began anew come back, whether it reached further or not.
    for anew in [12, 20] {
        run.synced(configuring(run.log.last().index.0 + 1, 1, &membership(7)));
        run.synced(compaction((anew, 2), (anew, 2)));
        run.model.assert_equals(&run.recovered().expect("a log opens"));
    }
}

/// The first and only record of a new log.
#[test]
fn a_bootstrap_record_is_all_that_a_log_needs() {
    let mut run = Run::new();
    run.synced(compaction((0, 0), (0, 0)));
    let recovered = run.recovered().expect("a log opens");
    run.model.assert_equals(&recovered);
    assert_eq!(recovered.memberships().at_snapshot.as_deref(), Some(&Membership::new([0])));
    // A crash before it is durable leaves a new log, which knows none.
    let mut run = Run::new();
    run.log.append(&mut vec![compaction((0, 0), (0, 0))]).expect("an append succeeds");
    assert!(run.log.memberships().at_snapshot.is_some(), "reads see writes");
    assert_eq!(run.recovered().expect("a log opens").memberships().at_snapshot, None);
}

/// They cannot say, and nothing takes the place of what they do not say; entries behind them say all the same.
#[test]
fn checkpoints_without_configurations_are_read() {
    let mut run = Run::new();
    run.synced(write(1, &[1, 1, 2], 40));
    run.synced(configuring(4, 2, &membership(4)));
    let forgery = Forgery::new(run, compaction((2, 1), (1, 1)));
    let older = Model { at_snapshot: None, ..forgery.model.clone() };
    forgery.assert_opens(without_membership, &older);
    assert_eq!(older.memberships().later, [(Index(4), membership(4))]);
    // Of an older log that was purged only the checkpoint is left.
    let mut run = Run::new();
    for first in [1, 4, 7] {
        run.synced(write(first, &[1, 1, 2], 1000));
    }
    let forgery = Forgery::new(run, compaction((8, 1), (8, 1)));
    let older = Model { at_snapshot: None, ..forgery.model.clone() };
    forgery.assert_opens(without_membership, &older);
    // The next compaction says it.
    let (image, ..) = forgery.with(without_membership);
    let mut log = open(&FaultyDisk::from_image(&image)).expect("an older log opens");
    let mut model = older;
    let next = compaction((8, 1), (8, 1));
    model.write(&next);
    log.append(&mut vec![next]).expect("an append succeeds");
    model.assert_equals(&log);
    assert!(log.memberships().at_snapshot.is_some());
}

/// Opens a log whose last record was changed, and asserts that it is refused as something that this version does not know.
fn assert_unsupported(forgery: &Forgery, change: impl FnOnce(&mut Vec<u8>), expected: &str) {
    let (image, name, place) = forgery.with(change);
    match open(&FaultyDisk::from_image(&image)) {
        Err(WalError::Unsupported { file, offset, what }) => {
            assert!(file.ends_with(&name) && offset <= place, "{expected}: {file:?} {offset}");
            assert!(what.contains(expected), "{what}, not: {expected}");
        }
        other => panic!("{expected}: {other:?}"),
    }
}

#[test]
fn a_checkpoint_with_a_configuration_that_is_none_is_refused() {
    let mut run = Run::new();
    run.synced(write(1, &[1, 1, 2, 2], 40));
    let forgery = Forgery::new(run, compaction((3, 2), (2, 1)));
    forgery.assert_opens(|_| {}, &forgery.model);
    // Its own bytes: format, voters, outgoing, learners, promoting, addresses.
    let at = |operations: &[u8]| membership_at(operations) + 4;
    let none = "a configuration that is none";
    assert_unsupported(
        &forgery,
        |operations| {
            let at = at(operations);
            operations[at] = 3
        },
        "an unknown format",
    );
    assert_unsupported(
        &forgery,
        |operations| {
            let at = at(operations);
            operations[at + 1] = 3
        },
        none,
    );
    assert_unsupported(
        &forgery,
        |operations| {
            let at = at(operations);
            operations[at + 5] = 9
        },
        none,
    );
    assert_unsupported(
        &forgery,
        |operations| {
            let at = at(operations);
            operations[at + 4] = 255
        },
        none,
    );
    // A length that says less, more, and far more than there is.
    let length = |change: fn(u8) -> u8| {
        move |operations: &mut Vec<u8>| {
            let at = membership_at(operations);
            operations[at] = change(operations[at]);
        }
    };
    assert_unsupported(&forgery, length(|bytes| bytes - 1), none);
    assert_unsupported(&forgery, length(|bytes| bytes + 1), "ends early");
    assert_unsupported(
        &forgery,
        |operations| {
            let at = membership_at(operations);
            operations[at + 3] = 255
        },
        "ends early",
    );
    assert_unsupported(
        &forgery,
        |operations| {
            let at = membership_at(operations);
            operations.truncate(at)
        },
        "ends early",
    );
    // Nobody has a vote, and yet somebody is named.
    assert_unsupported(
        &forgery,
        |operations| {
            let at = membership_at(operations);
            operations.truncate(at);
            let bytes = Membership::default().encode();
            operations.extend((bytes.len() as u32).to_le_bytes());
            operations.extend(bytes);
        },
        none,
    );
    // No bytes at all are the empty configuration, which has no other form.
    let empty = Model { at_snapshot: Some(Arc::default()), ..forgery.model.clone() };
    forgery.assert_opens(
        |operations| {
            let at = membership_at(operations);
            operations.truncate(at);
            operations.extend([0; 4])
        },
        &empty,
    );
}

/// Where the fields of a run of entries are: its code, the first one's id, count and length, and the entries.
const CODE: usize = 0;
const COUNT: usize = 17;
const ENTRIES: usize = 25;

#[test]
fn an_entry_with_a_configuration_that_is_none_is_refused() {
    let mut run = Run::new();
    run.synced(write(1, &[1], 40));
    let forgery = Forgery::new(run, configuring(2, 1, &membership(5)));
    forgery.assert_opens(|_| {}, &forgery.model);
    let none = "a configuration that is none";
    assert_unsupported(&forgery, |operations| operations[ENTRIES + 5] = 3, "an unknown format");
    assert_unsupported(&forgery, |operations| operations[ENTRIES + 5] = 2, none);
    assert_unsupported(&forgery, |operations| operations[ENTRIES + 6] = 4, none);
    assert_unsupported(&forgery, |operations| operations[ENTRIES + 1] -= 1, none);
    assert_unsupported(&forgery, |operations| operations[ENTRIES + 1] += 1, "ends early");
    assert_unsupported(&forgery, |operations| operations[COUNT] = 2, "ends early");
    assert_unsupported(&forgery, |operations| operations[ENTRIES] = 3, "an unknown kind of entry");
    // Under the code that says that there is none among the entries.
    assert_unsupported(&forgery, |operations| operations[CODE] = 4, "an unknown kind of entry");
}

/// What could not be read back is not written: a defect of the caller, which must not cost what is there.
#[test]
fn a_configuration_that_cannot_be_read_back_is_refused() {
    let large = Arc::new(Membership::new([1]).with_address(1, "x".repeat(Membership::ENCODED_BYTES_MAX)));
    let nobody = Arc::new(Membership::default().with_learner(3));
    for (refused, reason) in
        [(&large, MembershipError::TooLarge { bytes: large.encoded_len() }), (&nobody, MembershipError::NoVoters)]
    {
        let in_checkpoint =
            Compaction { snapshot: EntryId::new(1, 1), base: EntryId::ZERO, membership: Arc::clone(refused) };
        let in_checkpoint = Write { compaction: Some(in_checkpoint), ..Write::default() };
        for wrong in [configuring(2, 1, refused), in_checkpoint] {
            let mut run = Run::new();
            run.synced(write(1, &[1], 40));
            let before = run.disk.live_image();
            match run.log.append(&mut vec![Write::default(), wrong]) {
                Err(WalError::Membership { source }) => assert_eq!(source, reason),
                other => panic!("{other:?}"),
            }
            assert_eq!(run.disk.live_image(), before, "nothing was written");
            run.model.assert_equals(&run.log);
            assert!(matches!(run.log.sync(), Err(WalError::Poisoned { .. })), "the log takes nothing more");
            run.model.assert_equals(&run.recovered().expect("a log opens"));
        }
    }
}

/// An entry may carry the empty configuration, though no leader makes one.
#[test]
fn an_empty_configuration_is_one() {
    let mut run = Run::new();
    run.synced(configuring(1, 1, &Arc::default()));
    run.synced(configuring(2, 1, &membership(9)));
    let recovered = run.recovered().expect("a log opens");
    run.model.assert_equals(&recovered);
    assert_eq!(recovered.memberships().later[0], (Index(1), Arc::default()));
    assert!(recovered.memberships().later[1].1.is_voter(NodeId(9)));
}
