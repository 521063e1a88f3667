//! Backups of running nodes: what is in them, and that nothing but a whole one is ever read.

#![cfg(feature = "std")]

mod driver_support;

use bytes::Bytes;
use driver_support::PATIENCE;
use driver_support::snapshots::{Group, Ledger, Member, propose};
use raft_io::StateMachine as _;
use raft_io::backup::{BackupError, BackupReader};
use raft_io::driver::{DriverOptions, TakeBackupError, TakeSnapshotError};
use raft_io::snapshot::SnapshotStore as _;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

/// Snapshots only when they are asked for, and no trail.
fn manual() -> DriverOptions {
    let mut options = DriverOptions::default();
    (options.snapshot_entries, options.snapshot_bytes, options.snapshot_trail_entries) = (usize::MAX, u64::MAX, 0);
    options
}

/// The commands that a backup holds.
fn commands(file: &[u8]) -> Vec<Bytes> {
    let mut ledger = Ledger::new(&std::sync::Arc::default());
    ledger.restore(&mut BackupReader::open(file).unwrap()).unwrap();
    ledger.commands()
}

fn taken(node: &Member) -> Vec<u8> {
    let (mut backup, mut file) = (node.raft().backup(PATIENCE).unwrap(), Vec::new());
    backup.read_to_end(&mut file).unwrap();
    assert_eq!(file.len() as u64, backup.info().file_bytes());
    file
}

/// Why these bytes are no backup.
fn refused(file: &[u8]) -> BackupError {
    BackupReader::open(file).and_then(BackupReader::verify).expect_err("it is refused")
}

/// Writes went on while the backup was taken and read: nothing that was acknowledged before it began is missing, and what is
/// in it is the log up to the entry that it names, without a gap.
#[test]
fn a_backup_under_load_holds_all_that_was_acknowledged_before_its_entry() {
    let group = Group::start(3, &manual());
    let leader = group.at(group.leader());
    let (stop, acknowledged) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 0;
            while !stop.load(Ordering::SeqCst) {
                propose(leader.raft(), format!("{number:0>100}"));
                number += 1;
                acknowledged.store(number, Ordering::SeqCst);
            }
        });
        for _ in 0..5 {
            while acknowledged.load(Ordering::SeqCst) < 20 {
                thread::yield_now();
            }
            let before = acknowledged.load(Ordering::SeqCst);
            let mut backup = leader.raft().backup(PATIENCE).unwrap();
            let info = backup.info().clone();
            let mut file = Vec::new();
            // Read in odd pieces, while writes go on.
            while io::copy(&mut backup.by_ref().take(77), &mut file).unwrap() > 0 {}
            let found = commands(&file);
            assert!(found.len() >= before, "{} of {before}", found.len());
            let expected = (0..found.len()).map(|number| Bytes::from(format!("{number:0>100}")));
            assert!(found.iter().cloned().eq(expected), "the log without a gap");
            // The first entry names the history; of one leader all others are commands.
            assert_eq!(info.last.index.0, found.len() as u64 + 1);
            assert_eq!(BackupReader::open(&file[..]).unwrap().info(), &info);
        }
        stop.store(true, Ordering::SeqCst);
    });
}

/// A follower's backup has what the follower had applied, and says so; whose it is, it says as the leader's does.
#[test]
fn a_backup_of_a_follower_says_up_to_which_entry_it_goes() {
    let group = Group::start(3, &manual());
    let leader = group.leader();
    let follower = group.others(&[leader])[0];
    let last = group.propose(leader, 5).id;
    group.at(follower).wait(|status| status.applied_index >= last.index);
    // It hears of nothing more.
    group.at(follower).hooks.applying.shut();
    group.propose(leader, 1);
    let behind = thread::scope(|scope| {
        let taking = scope.spawn(|| group.at(follower).raft().backup(PATIENCE).map(|backup| backup.info().clone()));
        group.at(follower).hooks.applying.open();
        taking.join().unwrap().unwrap()
    });
    assert!(behind.last >= last);
    assert_eq!(behind.node.0, follower);
    let file = taken(group.at(leader));
    let info = BackupReader::open(&file[..]).unwrap().info().clone();
    assert_eq!((info.node.0, commands(&file).len()), (leader, 6));
    let history = group.at(leader).raft().status().history.unwrap();
    for info in [info, behind] {
        assert_eq!(info.history().unwrap().id(), history);
        assert_eq!(info.membership.voters().len(), 3);
    }
}

/// Somebody reads a backup slowly, and snapshots go on being taken: the one that is read stays until the end.
#[test]
fn a_backup_keeps_its_snapshot_while_newer_ones_come() {
    let mut node = Member::alone(&manual());
    node.lead();
    for _ in 0..20 {
        propose(node.raft(), "x".repeat(100));
    }
    let mut backup = node.raft().backup(PATIENCE).unwrap();
    let (held, mut file) = (backup.info().last, vec![0; 100]);
    backup.read_exact(&mut file).unwrap();
    for _ in 0..3 {
        propose(node.raft(), "later");
        node.raft().snapshot().wait(PATIENCE).unwrap();
    }
    assert!(node.store.lasts().contains(&held));
    backup.read_to_end(&mut file).unwrap();
    drop(backup);
    assert_eq!(commands(&file).len(), 20);
    assert!(!node.store.lasts().contains(&held), "nobody reads it any more");
    assert!(node.store.inner.newest().is_some());
}

/// A copy that did not end, whatever part is missing, is no backup; neither is one behind which something was written.
#[test]
fn a_backup_that_is_cut_anywhere_is_refused() {
    let mut node = Member::alone(&manual());
    node.lead();
    for _ in 0..20 {
        propose(node.raft(), "x".repeat(100));
    }
    let mut file = taken(&node);
    assert_eq!(commands(&file).len(), 20);
    for cut in 0..file.len() {
        match refused(&file[..cut]) {
            BackupError::Cut { offset } => assert_eq!(offset, cut as u64),
            BackupError::NotABackup => assert!(cut < 8, "cut at {cut}"),
            other => panic!("cut at {cut}: {other}"),
        }
    }
    file.push(0);
    assert!(matches!(refused(&file), BackupError::Damaged { .. }));
}

/// One bit of one byte changed, anywhere.
#[test]
fn a_backup_with_any_flipped_byte_is_refused() {
    let mut node = Member::alone(&manual());
    node.lead();
    for _ in 0..20 {
        propose(node.raft(), "x".repeat(100));
    }
    let mut file = taken(&node);
    for position in 0..file.len() {
        for bit in [0, 7] {
            file[position] ^= 1 << bit;
            let error = refused(&file);
            let expected = match position {
                0..8 => matches!(error, BackupError::NotABackup),
                8..12 => matches!(error, BackupError::OtherFormat { known: 1, .. }),
                _ => matches!(error, BackupError::Damaged { .. } | BackupError::Cut { .. }),
            };
            assert!(expected, "byte {position}: {error}");
            file[position] ^= 1 << bit;
        }
    }
    assert_eq!(commands(&file).len(), 20);
}

/// A header that somebody made, with a checksum that holds: whatever it says, nothing is allocated by it, nothing panics, and
/// what does not fit is refused.
#[test]
fn a_forged_header_is_refused_or_read() {
    let mut node = Member::alone(&manual());
    node.lead();
    propose(node.raft(), "x".repeat(100));
    let file = taken(&node);
    let header = u32::from_le_bytes(file[12..16].try_into().unwrap()) as usize;
    let forged = |offset: usize, bytes: &[u8]| {
        let mut forged = file.clone();
        forged[offset..offset + bytes.len()].copy_from_slice(bytes);
        let checksum = crc32c::crc32c(&forged[..header - 4]);
        forged[header - 4..header].copy_from_slice(&checksum.to_le_bytes());
        BackupReader::open(&forged[..]).and_then(BackupReader::verify)
    };
    for (what, offset, width) in
        [("flags", 16, 4), ("chunk size", 20, 4), ("index", 48, 8), ("term", 56, 8), ("total", 72, 8)]
    {
        for value in [0, 2, 511, 1 << 21, 1 << 31, 1 << 62, u64::MAX] {
            if file[offset..offset + width] == value.to_le_bytes()[..width] {
                continue;
            }
            let ended = forged(offset, &value.to_le_bytes()[..width]);
            // Chunks do not verify behind another header either.
            assert!(
                matches!(ended, Err(BackupError::Damaged { .. } | BackupError::Cut { .. })),
                "{what} {value}: {ended:?}"
            );
        }
    }
    for offset in 88..header - 4 {
        assert!(forged(offset, &[0xff]).is_err(), "members at {offset}");
    }
}

/// A state of exactly one chunk, of nothing at all, and of a byte more than a chunk.
#[test]
fn contents_of_every_size_come_back() {
    for size in [0, 508 - 4, 508, 509, 1020, 3000] {
        let mut node = Member::alone(&manual());
        node.lead();
        if size > 0 {
            propose(node.raft(), vec![7; size]);
        }
        let file = taken(&node);
        let found = commands(&file).iter().map(Bytes::len).sum::<usize>();
        assert_eq!(found, size);
    }
}

/// A node that can't give one says why, and goes on.
#[test]
fn a_node_without_snapshots_says_why_it_gives_no_backup() {
    let mut node = Member::alone(&manual());
    node.lead();
    node.hooks.without.store(true, Ordering::SeqCst);
    let error = node.raft().backup(PATIENCE).unwrap_err();
    assert!(matches!(error, TakeBackupError::Snapshot(TakeSnapshotError::Unsupported)), "{error}");
    node.hooks.without.store(false, Ordering::SeqCst);
    node.hooks.image_fails.store(true, Ordering::SeqCst);
    propose(node.raft(), "a");
    let error = node.raft().backup(PATIENCE).unwrap_err();
    assert!(matches!(error, TakeBackupError::Snapshot(TakeSnapshotError::Failed { .. })), "{error}");
    node.hooks.image_fails.store(false, Ordering::SeqCst);
    assert_eq!(commands(&taken(&node)).len(), 1);
}
