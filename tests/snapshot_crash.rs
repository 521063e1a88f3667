//! Loss of power, failed operations and a full disk beneath the store of snapshots: what was listed
//! stays, whole; what was not is there as a whole or not at all; a mere crash never makes opening
//! refuse, and what is resumed from is what was received.

#![cfg(all(feature = "persistence", feature = "testkit"))]

use raft_io::EntryId;
use raft_io::log::wal::Directory;
use raft_io::snapshot::files::SnapshotOptions;
use raft_io::snapshot::{MemorySnapshots, ReceiveError, SnapshotError, SnapshotFiles, SnapshotStore};
use raft_io::testkit::disk::{FaultyDisk, Image};
use raft_io::testkit::log_suite::Random;
use raft_io::testkit::snapshot_suite::{content, read, take};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::sync::Arc;

/// Sectors of the disk and chunks of a snapshot never coincide.
const CHUNK_BYTES: u32 = 700;
/// A sync with every other chunk.
const SYNC_BYTES: u64 = 1000;

fn open(disk: &FaultyDisk) -> Result<SnapshotFiles, SnapshotError> {
    SnapshotFiles::open_in(
        Arc::new(disk.clone()),
        SnapshotOptions::new().chunk_bytes(CHUNK_BYTES).sync_bytes(SYNC_BYTES),
    )
}

fn id(index: u64) -> EntryId {
    EntryId::new(index, 1 + index / 4)
}

fn length_of(index: u64) -> usize {
    [0, 100, 700, 1500, 2800, 3333][(index % 6) as usize]
}

/// The peer that snapshots are received from.
fn peer() -> MemorySnapshots {
    let peer = MemorySnapshots::with_chunk_bytes(raft_io::GroupId(0), CHUNK_BYTES);
    for index in 1..60 {
        take(&peer, id(index), b"members", &content(index, length_of(index))).expect("a peer takes a snapshot");
    }
    peer
}

/// A store at work.
struct Run {
    disk: FaultyDisk,
    store: Option<SnapshotFiles>,
    peer: MemorySnapshots,
    /// The last entry of the next new snapshot.
    next: u64,
    /// Listed and not superseded: must be there after any crash.
    acknowledged: BTreeSet<EntryId>,
    /// Begun: may be there after a crash.
    attempted: BTreeSet<EntryId>,
}

impl Run {
    fn new(disk: FaultyDisk) -> Result<Self, SnapshotError> {
        let store = Some(open(&disk)?);
        Ok(Self { disk, store, peer: peer(), next: 1, acknowledged: BTreeSet::new(), attempted: BTreeSet::new() })
    }

    fn store(&self) -> &SnapshotFiles {
        self.store.as_ref().expect("the store is open")
    }

    fn take(&mut self) -> Result<(), SnapshotError> {
        let last = id(self.next);
        self.next += 1;
        self.attempted.insert(last);
        take(self.store(), last, b"own", &content(last.index.0, length_of(last.index.0)))?;
        self.acknowledged.insert(last);
        Ok(())
    }

    /// Receives at most `chunks` chunks of the newest snapshot that the peer has and we do not.
    fn receive(&mut self, chunks: u64) -> Result<(), SnapshotError> {
        let last = id(self.next);
        self.attempted.insert(last);
        let mut receiver = self.store().receive(last)?;
        for _ in 0..chunks {
            let chunk = self.peer.chunk(receiver.next()).expect("the peer has it");
            let accepted = receiver.accept(&chunk).map_err(|error| match error {
                ReceiveError::Store(error) => error,
                wrong => panic!("what the peer has was refused: {wrong}"),
            });
            match accepted {
                Ok(None) => {}
                Ok(Some(_)) => {
                    self.next += 1;
                    self.acknowledged.insert(last);
                    return Ok(());
                }
                Err(error) => {
                    // Never tried again on that file: from here on it is another snapshot.
                    assert!(matches!(receiver.accept(&chunk), Err(ReceiveError::Store(SnapshotError::Failed { .. }))));
                    self.next += 1;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn step(&mut self, draw: u64) -> Result<(), SnapshotError> {
        match draw % 8 {
            0 | 1 => self.take(),
            2..=4 => self.receive(1 + draw / 8 % 6),
            5 => {
                let last = id((draw / 8) % self.next.max(1));
                let newest = self.acknowledged.last().copied();
                self.acknowledged.retain(|listed| *listed >= last || Some(*listed) == newest);
                self.store().retain(last);
                Ok(())
            }
            6 => {
                let receiver = self.store().receive(id(self.next))?;
                receiver.abandon();
                Ok(())
            }
            _ => {
                self.store = None;
                self.store = Some(open(&self.disk)?);
                Ok(())
            }
        }
    }

    fn expectation(&self) -> Expectation<'_> {
        Expectation { acknowledged: self.acknowledged.clone(), attempted: &self.attempted, peer: &self.peer }
    }
}

struct Expectation<'a> {
    acknowledged: BTreeSet<EntryId>,
    attempted: &'a BTreeSet<EntryId>,
    peer: &'a MemorySnapshots,
}

/// Opens what is on the disk; returns what it lists.
fn recover(disk: &FaultyDisk, expected: &Expectation<'_>) -> (SnapshotFiles, BTreeSet<EntryId>) {
    let store = match open(disk) {
        Ok(store) => store,
        Err(error) => panic!("a crash made opening refuse: {error}"),
    };
    assert!(store.damaged().is_empty(), "a crash left half of a snapshot: {:?}", store.damaged());
    let listed: BTreeSet<EntryId> = store.list().iter().map(|info| info.last).collect();
    assert!(expected.acknowledged.is_subset(&listed), "{:?} ⊆ {listed:?} does not hold", expected.acknowledged);
    assert!(listed.is_subset(expected.attempted), "{listed:?} ⊆ {:?} does not hold", expected.attempted);
    for last in &listed {
        let read = read(&store, *last).expect("what is listed reads back");
        assert_eq!(read, content(last.index.0, length_of(last.index.0)), "{last} is another content");
    }
    (store, listed)
}

/// Whatever was received of a snapshot, it can be gone on with to its end.
fn go_on(store: &SnapshotFiles, disk: &FaultyDisk, peer: &MemorySnapshots) {
    let partial: Vec<_> = disk.live_image().into_keys().filter(|name| name.ends_with(".partial")).collect();
    for name in partial {
        let index = u64::from_str_radix(&name[..16], 16).expect("a name of ours");
        let mut receiver = store.receive(id(index)).expect("it is gone on with");
        let chunk = |request| peer.chunk(request).expect("the peer has it");
        while receiver.accept(&chunk(receiver.next())).expect("what verified before goes with the rest").is_none() {}
        drop(receiver);
        assert_eq!(read(store, id(index)).expect("it reads back"), content(index, length_of(index)));
    }
}

fn hash(image: &Image) -> u64 {
    let mut hasher = DefaultHasher::new();
    image.hash(&mut hasher);
    hasher.finish()
}

/// Checks each image that was not seen under the same expectation; on some, also crashes during and
/// after the recovery.
fn check_images(images: Vec<Image>, expected: &Expectation<'_>, random: &mut Random) -> usize {
    let mut seen = HashSet::new();
    let mut checked = 0;
    for image in images.into_iter().filter(|image| seen.insert(hash(image))) {
        checked += 1;
        let disk = FaultyDisk::from_image(&image);
        let nested = random.draw() % 4 == 0;
        if nested {
            disk.watch(random.clone(), 2);
        }
        let (store, listed) = recover(&disk, expected);
        if nested {
            // What an opened store lists may be acted on: it must survive from then on.
            let mut attempted = expected.attempted.clone();
            for image in disk.take_watched().iter().chain(&disk.crash_images(random, 2)) {
                recover(&FaultyDisk::from_image(image), &Expectation { acknowledged: listed.clone(), ..*expected });
            }
            take(&store, id(59), b"", &content(59, length_of(59))).expect("a snapshot is taken");
            attempted.insert(id(59));
            let acknowledged = listed.into_iter().chain([id(59)]).collect();
            let durable = FaultyDisk::from_image(&disk.durable_image());
            recover(&durable, &Expectation { acknowledged, attempted: &attempted, peer: expected.peer });
        }
        go_on(&store, &disk, expected.peer);
    }
    checked
}

#[test]
fn power_loss_at_any_moment_leaves_whole_snapshots_only() {
    let mut checked = 0;
    for seed in 0..8 {
        let mut random = Random(seed);
        let disk = FaultyDisk::new();
        disk.watch(Random(seed), 2);
        let mut run = Run::new(disk).expect("a new store opens");
        for _ in 0..24 {
            let before = run.acknowledged.clone();
            run.step(random.draw()).expect("a step succeeds");
            // What a step supersedes may be gone before it ends.
            let acknowledged: BTreeSet<_> = before.intersection(&run.acknowledged).copied().collect();
            let during = Expectation { acknowledged, ..run.expectation() };
            checked += check_images(run.disk.take_watched(), &during, &mut random);
            let now = run.disk.crash_images(&mut random, 3);
            checked += check_images(now, &run.expectation(), &mut random);
        }
    }
    assert!(checked > 1_500, "only {checked} crash images were checked");
}

/// Steps until one fails, or to the end; whether one failed.
fn run_until_failure(disk: FaultyDisk, seed: u64, steps: usize) -> Option<(Run, bool)> {
    let mut random = Random(seed);
    let mut run = Run::new(disk).ok()?;
    for _ in 0..steps {
        if let Err(error) = run.step(random.draw()) {
            assert!(matches!(error, SnapshotError::Io { .. }), "not the disk's error: {error}");
            return Some((run, true));
        }
    }
    Some((run, false))
}

/// After a failure: nothing half-made is visible, now, after the death of the process, and after a
/// loss of power; and the same store goes on.
fn check_failed(run: &mut Run, random: &mut Random) {
    run.disk.repair();
    let crashed = run.disk.crash_images(random, 3);
    check_images(crashed, &run.expectation(), random);
    if let Some(store) = &run.store {
        let listed: BTreeSet<EntryId> = store.list().iter().map(|info| info.last).collect();
        assert!(run.acknowledged.is_subset(&listed), "older snapshots are unharmed");
        for last in listed {
            let read = read(store, last).expect("what is listed reads back");
            assert_eq!(read, content(last.index.0, length_of(last.index.0)));
        }
        run.take().expect("a later snapshot is none the worse for it");
        let durable = FaultyDisk::from_image(&run.disk.durable_image());
        recover(&durable, &run.expectation());
    }
    run.store = None;
    // The process is dead, the page cache lives, and may show what the medium never got.
    let (store, listed) = recover(&run.disk, &run.expectation());
    let durable = FaultyDisk::from_image(&run.disk.durable_image());
    recover(&durable, &Expectation { acknowledged: listed, ..run.expectation() });
    go_on(&store, &run.disk, &run.peer);
    let listed = store.list().iter().map(|info| info.last).collect();
    let durable = FaultyDisk::from_image(&run.disk.durable_image());
    recover(&durable, &Expectation { acknowledged: listed, ..run.expectation() });
}

#[test]
fn whichever_operation_fails_costs_one_snapshot_at_most() {
    let mut failures = BTreeMap::new();
    for seed in 0..2 {
        for count in 0.. {
            let disk = FaultyDisk::new();
            disk.fail_operation_after(count);
            let run = run_until_failure(disk.clone(), seed, 16);
            if disk.operations() <= count {
                break;
            }
            // Removals that fail are no errors.
            let Some((mut run, failed)) = run else { continue };
            *failures.entry(failed).or_insert(0) += 1;
            check_failed(&mut run, &mut Random(count));
        }
    }
    assert!(failures[&true] > 150, "only {failures:?} operations failed");
}

#[test]
fn a_full_disk_costs_one_snapshot_at_most() {
    let mut failures = 0;
    for seed in 0..2 {
        for space in (0..).step_by(211) {
            let disk = FaultyDisk::new();
            disk.fill_after(space);
            let run = run_until_failure(disk.clone(), seed, 16);
            if !disk.is_full() {
                break;
            }
            let (mut run, failed) = run.expect("opening writes nothing");
            failures += u64::from(failed);
            check_failed(&mut run, &mut Random(space));
        }
    }
    assert!(failures > 60, "only {failures} disks were full");
}

/// The story of fsyncgate: the sync of a received snapshot fails, the process dies at once, and the
/// page cache shows the next one a complete file that is not on the medium.
#[test]
fn a_file_whose_sync_failed_is_never_used_again() {
    for kill in [false, true] {
        let disk = FaultyDisk::new();
        let (store, peer) = (open(&disk).unwrap(), peer());
        let last = id(5);
        let mut receiver = store.receive(last).unwrap();
        let count = peer.open(last).unwrap().info().chunks();
        for number in 0..count {
            if number + 1 == count {
                disk.fail_sync_after(0);
            }
            if kill {
                // The process dies before it can remove anything.
                disk.refuse_removals();
            }
            let accepted = receiver.accept(&peer.chunk(receiver.next()).unwrap());
            assert_eq!(accepted.is_err(), number + 1 == count);
        }
        drop((receiver, store));
        disk.repair();
        let store = open(&disk).unwrap();
        assert_eq!(store.newest(), None);
        assert_eq!(store.receive(last).unwrap().next().chunk, 0, "what the page cache shows is not resumed from");
    }
}

/// The same in the middle of a reception: what was received is gone on with, and none of it may be only in the page cache.
#[test]
fn what_is_resumed_after_a_failed_sync_is_written_once_more() {
    let (disk, peer, last) = (FaultyDisk::new(), peer(), id(5));
    let store = open(&disk).unwrap();
    let mut receiver = store.receive(last).unwrap();
    assert_eq!(receiver.accept(&peer.chunk(receiver.next()).unwrap()).unwrap(), None);
    disk.fail_sync_after(0);
    // The process dies before it can remove anything.
    disk.refuse_removals();
    receiver.accept(&peer.chunk(receiver.next()).unwrap()).unwrap_err();
    drop((receiver, store));
    disk.repair();
    let store = open(&disk).unwrap();
    let mut receiver = store.receive(last).unwrap();
    assert_eq!(receiver.next().chunk, 2, "the page cache shows two chunks");
    while receiver.accept(&peer.chunk(receiver.next()).unwrap()).unwrap().is_none() {}
    drop((receiver, store));
    let store = open(&FaultyDisk::from_image(&disk.durable_image())).unwrap();
    assert_eq!(read(&store, last).unwrap(), content(5, length_of(5)));
}

/// The process died between the renaming and the sync of the directory: what the next one lists, and
/// lets its log rely on, must not go away with the power.
#[test]
fn what_opening_lists_is_durable() {
    let disk = FaultyDisk::new();
    take(&open(&disk).unwrap(), id(5), b"", &content(5, 2000)).unwrap();
    let image = disk.durable_image();
    let name = image.keys().find(|name| name.ends_with(".snapshot")).unwrap();
    let mut before = image.clone();
    let bytes = before.remove(name).unwrap();
    before.insert(name.replace(".snapshot", ".tmp"), bytes);
    let disk = FaultyDisk::from_image(&before);
    disk.rename(&name.replace(".snapshot", ".tmp"), name).unwrap();
    assert_eq!(open(&disk).unwrap().list().len(), 1);
    assert_eq!(open(&FaultyDisk::from_image(&disk.durable_image())).unwrap().list().len(), 1);
}

/// Also one that failed: a full disk must not stay full of it.
#[test]
fn what_was_not_finished_is_removed_at_once() {
    let disk = FaultyDisk::new();
    let store = open(&disk).unwrap();
    let before = disk.live_image();
    drop(store.begin(id(5), b"x".to_vec().into()).unwrap());
    assert_eq!(disk.live_image(), before);
    disk.fill_after(1500);
    take(&store, id(5), b"", &content(5, 9000)).unwrap_err();
    assert_eq!(disk.live_image(), before);
    disk.fill_after(1500);
    let (peer, mut receiver) = (peer(), store.receive(id(5)).unwrap());
    while receiver.accept(&peer.chunk(receiver.next()).unwrap()).is_ok() {}
    assert_eq!(disk.live_image(), before);
}

/// A state machine that overlooks an error must not end up with a snapshot that lacks a part.
#[test]
fn a_writer_that_failed_once_finishes_nothing() {
    for count in 0..6 {
        let disk = FaultyDisk::new();
        let store = open(&disk).unwrap();
        let mut writer = store.begin(id(5), bytes::Bytes::new()).unwrap();
        disk.fail_operation_after(count);
        let bytes = content(5, 6 * CHUNK_BYTES as usize);
        let failed = bytes.chunks(333).filter(|piece| writer.write_all(piece).is_err()).count();
        assert!(count >= 5 || failed > 1, "every write after the first that failed fails");
        assert!(writer.finish().is_err());
        assert_eq!(store.newest(), None);
    }
}

#[test]
fn what_cannot_be_removed_now_is_removed_later() {
    let disk = FaultyDisk::new();
    let store = open(&disk).unwrap();
    for index in 1..=3 {
        take(&store, id(index), b"", &content(index, 2000)).unwrap();
    }
    let names = || disk.live_image().into_keys().filter(|name| name.ends_with(".snapshot")).count();
    disk.refuse_removals();
    store.retain(id(3));
    assert_eq!((names(), store.list().len()), (3, 3));
    assert_eq!(read(&store, id(1)).unwrap(), content(1, 2000), "what is still there is still whole");
    disk.repair();
    store.retain(id(3));
    assert_eq!((names(), store.list().len()), (1, 1));
}
