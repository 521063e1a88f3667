//! A node on a volume that fills up, and one whose snapshot goes away: what fails alone, what is tried again, and what
//! makes room.

#![cfg(all(feature = "persistence", feature = "testkit"))]

mod driver_support;

use bytes::Bytes;
use driver_support::snapshots::{Hooks, Ledger, propose};
use driver_support::{PATIENCE, config};
use raft_io::driver::{DriverOptions, Raft, Snapshots, TakeSnapshotError};
use raft_io::log::wal::Directory;
use raft_io::log::{WalLog, WalOptions};
use raft_io::snapshot::files::SnapshotOptions;
use raft_io::snapshot::{SnapshotFiles, SnapshotStore};
use raft_io::testkit::disk::FaultyDisk;
use raft_io::transport::MemoryNetwork;
use raft_io::{ClusterId, EntryId, NodeId, RoleKind};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Segments of 64 KiB, on this disk.
fn log_on(disk: &FaultyDisk) -> WalLog {
    let options = WalOptions::new(ClusterId(7), NodeId(1)).segment_bytes(64 << 10);
    WalLog::open_in(Arc::new(disk.clone()), options).expect("the log opens")
}

fn snapshots_on(disk: &FaultyDisk) -> SnapshotFiles {
    SnapshotFiles::open_in(Arc::new(disk.clone()), SnapshotOptions::new()).expect("the store opens")
}

/// A node that leads itself and takes snapshots when it must.
fn alone(log: WalLog, store: SnapshotFiles) -> Raft<Ledger> {
    let mut options = DriverOptions::default();
    (options.snapshot_entries, options.snapshots) = (usize::MAX, Some(Snapshots::new(store)));
    let transport = MemoryNetwork::new().transport(1);
    let raft = Raft::start_with(config(1, &[1]), options, log, transport, Ledger::new(&Arc::new(Hooks::default())));
    let raft = raft.expect("the node starts");
    raft.wait_for(PATIENCE, |status| status.role == RoleKind::Leader && status.applied_index == status.last_index)
        .expect("it leads");
    raft
}

/// The story of the state of 48 MB on a volume of 130 MiB: the snapshot took the last room, and the node stopped for good.
#[test]
fn a_snapshot_that_does_not_fit_fails_alone_and_is_tried_again() {
    let volume = FaultyDisk::new();
    volume.limit_volume(Some(8_000));
    let raft = alone(log_on(&FaultyDisk::new()), snapshots_on(&volume));
    for _ in 0..20 {
        propose(&raft, vec![b'x'; 1000]);
    }
    let refused = raft.snapshot().wait(PATIENCE).expect_err("there is no room for it");
    let TakeSnapshotError::Failed { reason } = &refused else { panic!("{refused}") };
    assert!(reason.contains("no storage space") && reason.contains(".tmp"), "{reason}");
    let status = raft.status();
    assert_eq!((status.stopped.clone(), status.snapshot.failures), (None, 1));
    assert!(status.snapshot.retry_after.is_some(), "{status:?}");
    assert_eq!(volume.live_image().len(), 0, "nothing is left of it");
    // The node works, and comes back to it by itself, also when it fails once more.
    propose(&raft, "y");
    raft.wait_for(PATIENCE, |status| status.snapshot.failures == 2).expect("it is tried again");
    volume.limit_volume(None);
    let status = raft.wait_for(PATIENCE, |status| status.snapshot.last.is_some()).expect("it is tried until it fits");
    assert_eq!((status.snapshot.failures, status.snapshot.retry_after), (0, None));
    raft.shutdown();
}

/// The log says that it is short of space while it has room for a while: all that a snapshot covers leaves it, and writes go
/// on for ever on a volume that holds a fraction of them.
#[test]
fn a_log_short_of_space_gets_a_snapshot_and_goes_on() {
    let volume = FaultyDisk::new();
    volume.limit_volume(Some(400 << 10));
    let mut short = 0;
    let raft = alone(log_on(&volume), snapshots_on(&FaultyDisk::new()));
    for round in 0..700 {
        propose(&raft, vec![b'x'; 1000]);
        if raft.status().log_short_of_space {
            short += 1;
            let roomy = raft.wait_for(PATIENCE, |status| !status.log_short_of_space);
            roomy.unwrap_or_else(|error| panic!("no room was made in round {round}: {error}"));
        }
    }
    let status = raft.status();
    assert!(short > 0 && status.snapshot.last.is_some(), "it was short {short} times");
    assert_eq!(status.stopped, None);
    raft.shutdown();
}

fn snapshot_files(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    files.filter(|file| file.extension().is_some_and(|extension| extension == "snapshot")).collect()
}

/// The snapshot's file is deleted under a running node. Asked for a snapshot when nothing was applied since, it used to say
/// Ok without one.
#[test]
fn a_snapshot_that_is_gone_is_never_confirmed() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = SnapshotFiles::open(folder.path(), SnapshotOptions::new()).expect("the store opens");
    let raft = alone(log_on(&FaultyDisk::new()), store.clone());
    propose(&raft, "x");
    let first = raft.snapshot().wait(PATIENCE).expect("it is taken");
    type Harm = fn(&Path);
    let harms: [(&str, Harm); 3] = [
        ("deleted", |file| std::fs::remove_file(file).unwrap()),
        ("emptied", |file| std::fs::write(file, "").unwrap()),
        ("replaced by a link to nowhere", |file| {
            std::fs::remove_file(file).unwrap();
            #[cfg(unix)]
            std::os::unix::fs::symlink("nowhere", file).unwrap();
        }),
    ];
    for (name, harm) in harms {
        harm(&snapshot_files(folder.path())[0]);
        let again = raft.snapshot().wait(PATIENCE).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(again.last, first.last, "{name}");
        assert_ne!(again.identity, first.identity, "{name}: it is another one");
        assert_eq!(raft.status().snapshot.bytes, Some(again.bytes));
        let file = &snapshot_files(folder.path())[0];
        assert!(std::fs::metadata(file).unwrap().len() > again.bytes, "{name}: it is there");
        store.open(again.last).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    // One that cannot be put there is not confirmed either.
    let file = &snapshot_files(folder.path())[0];
    std::fs::remove_file(file).unwrap();
    std::fs::create_dir(file).unwrap();
    raft.snapshot().wait(PATIENCE).expect_err("a directory is in its place");
    assert_eq!(raft.status().stopped, None);
    std::fs::remove_dir(file).unwrap();
    raft.snapshot().wait(PATIENCE).expect("there is room for it again");
    raft.shutdown();
}

/// The same, and a learner is added, which needs it: it used to wait for ever.
#[test]
fn a_learner_that_needs_a_snapshot_that_is_gone_gets_a_new_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = SnapshotFiles::open(folder.path(), SnapshotOptions::new()).expect("the store opens");
    let network = MemoryNetwork::new();
    let mut options = DriverOptions::default();
    (options.snapshot_entries, options.snapshot_trail_entries) = (usize::MAX, 0);
    let start = |id: u64, voters: &[u64], log: WalLog, store: SnapshotFiles| {
        let mut options = options.clone();
        options.snapshots = Some(Snapshots::new(store));
        let machine = Ledger::new(&Arc::new(Hooks::default()));
        Raft::start_with(config(id, voters), options, log, network.transport(id), machine).expect("the node starts")
    };
    let leader = start(1, &[1], log_on(&FaultyDisk::new()), store);
    leader.wait_for(PATIENCE, |status| status.role == RoleKind::Leader).expect("it leads");
    for _ in 0..10 {
        propose(&leader, "x");
    }
    let first = leader.snapshot().wait(PATIENCE).expect("it is taken");
    std::fs::remove_file(&snapshot_files(folder.path())[0]).unwrap();
    let log = WalLog::open_in(Arc::new(FaultyDisk::new()), WalOptions::new(ClusterId(7), NodeId(2))).expect("a log");
    let learner = start(2, &[], log, snapshots_on(&FaultyDisk::new()));
    leader.add_learner(2, "", PATIENCE).wait().expect("it is a learner");
    let caught_up = learner.wait_for(PATIENCE, |status| status.applied_index >= first.last.index);
    caught_up.unwrap_or_else(|error| panic!("{error}: {:?} {:?}", leader.status(), learner.status()));
    learner.shutdown();
    leader.shutdown();
}

/// The log on a full volume gives up what it has set aside while it replaces its manifest. A snapshot that was being written
/// on the same volume took that room, and the log could never be opened again.
#[test]
fn a_snapshot_leaves_the_last_room_of_a_volume_to_the_log() {
    let volume = FaultyDisk::new();
    volume.limit_volume(Some(100_000));
    let options = SnapshotOptions::new().chunk_bytes(512).leave_free_bytes(20_000);
    let store = SnapshotFiles::open_in(Arc::new(volume.clone()), options).expect("the store opens");
    let last = EntryId::new(7, 1);
    let mut writer = store.begin(last, Bytes::new()).expect("it begins");
    let refused = std::iter::repeat_with(|| writer.write_all(&[7; 500])).find_map(Result::err).expect("it is full");
    assert!(refused.to_string().contains("no storage space"), "{refused}");
    let free = Directory::free_bytes(&volume).expect("it is limited");
    assert!((20_000..22_000).contains(&free), "{free} bytes are left, while it holds its own");
    writer.finish().expect_err("it is not whole");
    assert_eq!(volume.taken(), 0, "nothing is left of it");
    // So does one that comes from a leader.
    let (whole, leader) = (FaultyDisk::new(), SnapshotOptions::new().chunk_bytes(512));
    let leader = SnapshotFiles::open_in(Arc::new(whole), leader).expect("the store opens");
    let mut writer = leader.begin(last, Bytes::new()).expect("it begins");
    writer.write_all(&[7; 200_000]).expect("it has room");
    writer.finish().expect("it is taken");
    let mut receiver = store.receive(last).expect("it begins");
    let mut received = 0;
    let refused = loop {
        received = received.max(receiver.progress().0);
        let chunk = leader.chunk(receiver.next()).expect("the leader has it");
        if let Err(refused) = receiver.accept(&chunk) {
            break refused;
        }
    };
    assert!(refused.to_string().contains("no storage space"), "{refused}");
    assert!((70_000..80_000).contains(&received), "it took {received} bytes");
}
