//! Backups that are read slowly, or never: what is kept for them, and that they end with the node.

#![cfg(all(feature = "persistence", feature = "testkit"))]

mod driver_support;

use driver_support::snapshots::{Ledger, Member, propose};
use driver_support::{PATIENCE, config};
use raft_io::backup::{Backup, BackupReader};
use raft_io::driver::{BackupEnded, DriverOptions, Raft, Snapshots, TakeBackupError};
use raft_io::log::wal::{WalLog, WalOptions};
use raft_io::snapshot::SnapshotFiles;
use raft_io::snapshot::files::SnapshotOptions;
use raft_io::testkit::disk::FaultyDisk;
use raft_io::transport::MemoryNetwork;
use raft_io::{ClusterId, NodeId, RoleKind, Status};
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Instant;

/// Snapshots only when they are asked for, and no trail.
fn manual() -> DriverOptions {
    let mut options = DriverOptions::default();
    (options.snapshot_entries, options.snapshot_bytes, options.snapshot_trail_entries) = (usize::MAX, u64::MAX, 0);
    options
}

/// Starts the node in this directory, with this store, and waits until it leads.
fn lead(path: &Path, store: SnapshotFiles, mut options: DriverOptions) -> Raft<Ledger> {
    options.snapshots = Some(Snapshots::new(store));
    let log = WalLog::open(path, WalOptions::new(ClusterId(7), NodeId(1)).segment_bytes(64 << 10)).unwrap();
    let (transport, machine) = (MemoryNetwork::new().transport(1), Ledger::new(&Arc::default()));
    let raft = Raft::start_with(config(1, &[1]), options, log, transport, machine).unwrap();
    let leads = |status: &Status| status.role == RoleKind::Leader && status.applied_index == status.last_index;
    raft.wait_for(PATIENCE, leads).unwrap();
    raft
}

fn start(folder: &Path) -> Raft<Ledger> {
    let store = SnapshotFiles::open(folder.join("snapshots"), SnapshotOptions::new().chunk_bytes(512));
    lead(&folder.join("log"), store.expect("nobody has the store open"), manual())
}

/// All of it, or why it ended before.
fn read(backup: &mut Backup) -> Result<(), BackupEnded> {
    read_on(backup, Vec::new())
}

/// The same, where this was read already.
fn read_on(backup: &mut Backup, mut file: Vec<u8>) -> Result<(), BackupEnded> {
    match backup.read_to_end(&mut file) {
        Ok(_) => {
            BackupReader::open(&file[..]).unwrap().verify().unwrap();
            Ok(())
        }
        Err(error) => {
            let again = backup.read(&mut [0; 9]).expect_err("it stays so");
            assert_eq!(again.to_string(), error.to_string());
            BackupReader::open(&file[..]).and_then(BackupReader::verify).expect_err("what was read is no backup");
            Err(*error.get_ref().expect("a cause").downcast_ref().expect("why it ended"))
        }
    }
}

/// Waits until the store holds so many snapshots.
fn keeps(node: &Member, count: usize) {
    let deadline = Instant::now() + PATIENCE;
    while node.store.lasts().len() != count {
        assert!(Instant::now() < deadline, "{:?}", node.store.lasts());
        std::thread::yield_now();
    }
}

/// A backup was still held when its node was shut down. It kept the store of the snapshots locked, and the node could not
/// be started again in the same process.
#[test]
fn a_backup_that_is_held_does_not_keep_the_node_from_starting_again() {
    let folder = tempfile::tempdir().unwrap();
    let raft = start(folder.path());
    propose(&raft, vec![b'x'; 5000]);
    let (mut held, mut begun) = (raft.backup(PATIENCE).unwrap(), raft.backup(PATIENCE).unwrap());
    begun.read_exact(&mut [0; 1000]).unwrap();
    assert_eq!(raft.status().snapshot.backups, 2);
    raft.shutdown();
    assert_eq!(raft.status().snapshot.backups, 0);
    let refused = raft.backup(PATIENCE).map(|_| ()).unwrap_err();
    assert!(matches!(refused, TakeBackupError::Snapshot(_)), "{refused}");
    drop(raft);
    let again = start(folder.path());
    for backup in [&mut held, &mut begun] {
        assert_eq!(read(backup), Err(BackupEnded::NodeStopped));
    }
    assert_eq!(read(&mut again.backup(PATIENCE).unwrap()), Ok(()));
    drop((held, begun));
}

/// The node is shut down in the midst of a backup, at any moment: once it has ended its store can be opened, and the reader is
/// told, or has all of it.
#[test]
fn a_node_that_stops_while_backups_are_read_leaves_its_store() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..15 {
        let raft = start(folder.path());
        propose(&raft, vec![b'x'; 20_000]);
        let (give, take) = mpsc::channel::<Backup>();
        let reader = std::thread::spawn(move || {
            for mut backup in take {
                if let Err(ended) = read(&mut backup) {
                    assert_eq!(ended, BackupEnded::NodeStopped);
                }
            }
        });
        for _ in 0..=round % 3 {
            give.send(raft.backup(PATIENCE).unwrap()).unwrap();
        }
        raft.shutdown();
        drop((raft, give));
        let opened = SnapshotFiles::open(folder.path().join("snapshots"), SnapshotOptions::new());
        assert!(opened.is_ok(), "round {round}: {opened:?}");
        reader.join().unwrap();
    }
}

/// Backups were taken and not read, each of a newer snapshot: the store kept all of these for ever. It keeps what the bound
/// allows, and the one that was read last, whatever it takes.
#[test]
fn backups_that_nobody_reads_keep_no_more_than_the_bound() {
    let mut options = manual();
    options.snapshot_hold_bytes = 25_000;
    let mut node = Member::alone(&options);
    node.lead();
    let (mut held, mut first) = (Vec::new(), Vec::new());
    for _ in 0..8 {
        propose(node.raft(), vec![b'x'; 10_000]);
        held.push(node.raft().backup(PATIENCE).unwrap());
        // The first is read on all the time.
        let read = held[0].by_ref().take(600).read_to_end(&mut first).unwrap();
        assert_eq!(read, 600);
    }
    propose(node.raft(), "the newest");
    node.raft().snapshot().wait(PATIENCE).unwrap();
    // Of 10, 20, .., 80 kB. The first was read last; beside it none fits.
    let status = node.wait(|status| status.counters.backups_given_up == 7);
    assert_eq!(status.snapshot.backups, 1);
    keeps(&node, 2);
    let lasts: Vec<_> = held.iter().map(|backup| backup.info().last).collect();
    assert_eq!(read_on(&mut held[0], first), Ok(()));
    node.wait(|status| status.snapshot.backups == 0);
    for (backup, last) in held.iter_mut().zip(lasts).skip(1) {
        assert_eq!(read(backup), Err(BackupEnded::TooMuchKept { last, bytes_max: 25_000 }));
    }
    keeps(&node, 1);
    // Two of one snapshot keep it once.
    let both = [node.raft().backup(PATIENCE).unwrap(), node.raft().backup(PATIENCE).unwrap()];
    propose(node.raft(), "newer");
    node.raft().snapshot().wait(PATIENCE).unwrap();
    for mut backup in both {
        assert_eq!(read(&mut backup), Ok(()));
    }
    assert_eq!(node.raft().status().counters.backups_given_up, 7);
}

/// Space wins: while the log is short of it nothing is kept for backups, not even what is read. It does not wait for the
/// snapshot that is to make more room.
#[test]
fn a_backup_gives_way_to_a_log_that_is_short_of_space() {
    let mut node = Member::alone(&manual());
    node.lead();
    propose(node.raft(), vec![b'x'; 10_000]);
    let mut old = node.raft().backup(PATIENCE).unwrap();
    propose(node.raft(), "later");
    let mut newest = node.raft().backup(PATIENCE).unwrap();
    old.read_exact(&mut [0; 600]).unwrap();
    assert_eq!(node.raft().status().snapshot.backups, 2);
    node.hooks.writing.shut();
    node.faults.short_of_space.store(true, std::sync::atomic::Ordering::SeqCst);
    propose(node.raft(), "the log says so after its next sync");
    let status = node.wait(|status| status.counters.backups_given_up == 1);
    assert_eq!(status.snapshot.backups, 1, "that of the newest one costs nothing");
    node.hooks.writing.open();
    let last = old.info().last;
    assert_eq!(read(&mut old), Err(BackupEnded::ShortOfSpace { last }));
    // Until there is a newer one.
    node.wait(|status| status.counters.backups_given_up == 2);
    assert!(matches!(read(&mut newest), Err(BackupEnded::ShortOfSpace { .. })));
}

/// The volume of the snapshots is full of one that a backup keeps. The next one found no space, whatever was tried, and the log
/// grew for ever.
#[test]
fn a_backup_gives_way_to_a_snapshot_that_finds_no_space() {
    let folder = tempfile::tempdir().unwrap();
    let volume = FaultyDisk::new();
    // The volume is far smaller than what snapshots leave free elsewhere.
    let options = SnapshotOptions::new().leave_free_bytes(0);
    let store = SnapshotFiles::open_in(Arc::new(volume.clone()), options).unwrap();
    let raft = lead(folder.path(), store, manual());
    propose(&raft, vec![b'x'; 40_000]);
    let mut old = raft.backup(PATIENCE).unwrap();
    propose(&raft, "later");
    raft.snapshot().wait(PATIENCE).unwrap();
    // Two of these fit.
    volume.limit_volume(Some(100_000));
    propose(&raft, "still later");
    let refused = raft.snapshot().wait(PATIENCE).map(|_| ()).unwrap_err();
    assert!(refused.to_string().contains("no storage space"), "{refused}");
    raft.wait_for(PATIENCE, |status| status.counters.backups_given_up == 1).unwrap();
    let last = old.info().last;
    assert_eq!(read(&mut old), Err(BackupEnded::ShortOfSpace { last }));
    // It is tried again by itself.
    let applied = raft.status().applied_index;
    raft.wait_for(PATIENCE, |status| status.snapshot.last.is_some_and(|last| last.index >= applied)).unwrap();
}

/// What carries the reason is an ordinary error of a stream.
#[test]
fn why_a_backup_ended_says_what_to_do() {
    let error = io::Error::from(BackupEnded::NodeStopped).to_string();
    assert!(error.contains("what was read is no backup: take another one"), "{error}");
}
