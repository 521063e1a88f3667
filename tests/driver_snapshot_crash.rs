//! Crashes of a node while a snapshot is taken, fetched and installed, and while the log is cut behind it. Its log and its
//! snapshots are on one disk, so that what a crash leaves of the one goes with what it leaves of the other. Whatever it
//! leaves: the log begins with a snapshot that is there, whole; nothing is missing between the two; nothing acknowledged
//! is lost; and the node goes on.

#![cfg(all(feature = "persistence", feature = "testkit"))]

mod driver_support;

use driver_support::part::Part;
use driver_support::snapshots::{Group, Hooks, Ledger, Road, Tolls, propose};
use driver_support::{PATIENCE, config};
use raft_io::driver::{DriverOptions, Raft, Snapshots};
use raft_io::log::{WalLog, WalOptions};
use raft_io::snapshot::files::SnapshotOptions;
use raft_io::snapshot::{SnapshotFiles, SnapshotStore};
use raft_io::testkit::disk::{FaultyDisk, Image};
use raft_io::testkit::log_suite::{Model, Random};
use raft_io::transport::MemoryNetwork;
use raft_io::{ClusterId, EntryId, LogView, NodeId, Payload, RoleKind, StateMachine};
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

const CLUSTER: ClusterId = ClusterId(7);

fn wal_options(id: u64) -> WalOptions {
    WalOptions::new(CLUSTER, NodeId(id)).segment_bytes(4 << 10).cache_bytes(1 << 10)
}

fn files() -> SnapshotOptions {
    SnapshotOptions::new().chunk_bytes(512).sync_bytes(1 << 10)
}

fn open(disk: &FaultyDisk, id: u64) -> (WalLog, SnapshotFiles) {
    let log = WalLog::open_in(Part::of(disk, "log"), wal_options(id)).expect("a crash made the log refuse");
    let store = SnapshotFiles::open_in(Part::of(disk, "snapshots"), files());
    (log, store.expect("a crash made the store refuse"))
}

/// A snapshot every few entries; `None`: only when it is asked for. Few entries stay behind it.
fn options(every: Option<usize>) -> DriverOptions {
    let mut options = DriverOptions::default();
    (options.snapshot_entries, options.snapshot_bytes) = (every.unwrap_or(usize::MAX), u64::MAX);
    options.snapshot_trail_entries = 3;
    options
}

fn start(disk: &FaultyDisk, id: u64, voters: &[u64], network: &MemoryNetwork) -> Raft<Ledger> {
    let (log, store) = open(disk, id);
    let mut options = options(Some(8));
    options.snapshots = Some(Snapshots::new(store));
    let road = Road { inner: network.transport(id), tolls: Arc::<Tolls>::default() };
    let mut config = config(id, voters);
    if voters == [id] {
        config.tick = Duration::from_millis(1);
    }
    Raft::start_with(config, options, log, road, Ledger::new(&Arc::<Hooks>::default())).expect("it starts")
}

/// The command of this number: of a length such that snapshots have several chunks.
fn command(number: usize) -> Vec<u8> {
    format!("{number:0>120}").into_bytes()
}

/// What a log and its snapshots come to, after looking for gaps.
fn recovered(log: &WalLog, store: &SnapshotFiles) -> Vec<Vec<u8>> {
    assert!(store.damaged().is_empty(), "a crash left half of a snapshot: {:?}", store.damaged());
    let (snapshot, base) = (log.snapshot(), log.base());
    assert!(base.index <= snapshot.index, "between the snapshot {snapshot} and the log after {base} there is a gap");
    let mut ledger = Ledger::new(&Arc::<Hooks>::default());
    if snapshot != EntryId::ZERO {
        let mut reader = store.open(snapshot).unwrap_or_else(|error| panic!("the log begins with {snapshot}: {error}"));
        ledger.restore(&mut reader).expect("it restores");
    }
    let entries = Model::of(log).expect("the log reads back").entries;
    let mut expected = base.index;
    for entry in &entries {
        assert_eq!(entry.id.index, expected.next(), "the log has a gap");
        expected = entry.id.index;
        if let Payload::Command(command) = &entry.payload {
            if entry.id.index > snapshot.index {
                ledger.apply(entry.id, command);
            }
        }
    }
    ledger.commands().iter().map(|command| command.to_vec()).collect()
}

/// The first commands, at least as many as were acknowledged and no more than were proposed.
fn check(found: &[Vec<u8>], acknowledged: usize, proposed: usize) {
    let count = found.len();
    assert!((acknowledged..=proposed).contains(&count), "{acknowledged} ≤ {count} ≤ {proposed} does not hold");
    assert!(found.iter().cloned().eq((0..count).map(command)), "these are other commands, or in another order");
}

/// Images that were not seen before.
#[derive(Default)]
struct Fresh(HashSet<u64>);

impl Fresh {
    fn pick(&mut self, images: Vec<Image>) -> Vec<Image> {
        let mut new = |image: &Image| {
            let mut hasher = DefaultHasher::new();
            image.hash(&mut hasher);
            self.0.insert(hasher.finish())
        };
        images.into_iter().filter(|image| new(image)).collect()
    }
}

fn lead(raft: &Raft<Ledger>) {
    let leads = raft.wait_for(PATIENCE, |status| {
        status.role == RoleKind::Leader && status.applied_index == status.last_index && status.applied_index.0 > 0
    });
    leads.expect("it leads itself");
}

fn commands(raft: &Raft<Ledger>) -> Vec<Vec<u8>> {
    let found = raft.stale_read(Ledger::commands).expect("it answers");
    found.iter().map(|command| command.to_vec()).collect()
}

#[test]
fn a_crash_at_any_moment_of_taking_a_snapshot_loses_nothing() {
    let (mut fresh, mut checked, mut restarted, mut with_snapshot) = (Fresh::default(), 0, 0, HashSet::new());
    let mut random = Random(11);
    let disk = FaultyDisk::new();
    let raft = start(&disk, 1, &[1], &MemoryNetwork::new());
    lead(&raft);
    disk.watch(Random(12), 1);
    for number in 0..60 {
        propose(&raft, command(number));
        // Noted before this proposal was answered, and after the one before.
        let mut images = disk.take_watched();
        let during = images.len();
        images.extend(disk.crash_images(&mut random, 1));
        for (at, image) in images.into_iter().enumerate() {
            let acknowledged = if at < during { number } else { number + 1 };
            for image in fresh.pick(vec![image]) {
                checked += 1;
                let disk = FaultyDisk::from_image(&image);
                let (log, store) = open(&disk, 1);
                check(&recovered(&log, &store), acknowledged, number + 1);
                with_snapshot.insert(log.snapshot());
                drop((log, store));
                if random.draw() % 24 == 0 {
                    restarted += 1;
                    go_on(&disk, acknowledged, number + 1);
                }
            }
        }
    }
    assert!(
        checked > 500 && restarted > 20,
        "only {checked} crash images were checked, {restarted} of them by a start"
    );
    assert!(with_snapshot.len() > 4, "the log began with only {with_snapshot:?}");
}

/// A node starts from what a crash left, writes, takes a snapshot, and could crash again.
fn go_on(disk: &FaultyDisk, acknowledged: usize, proposed: usize) {
    let raft = start(disk, 1, &[1], &MemoryNetwork::new());
    lead(&raft);
    let found = commands(&raft);
    check(&found, acknowledged, proposed);
    let next = found.len();
    propose(&raft, command(next));
    let last = raft.snapshot().wait(PATIENCE).expect("a snapshot is taken").last;
    raft.shutdown();
    let disk = FaultyDisk::from_image(&disk.durable_image());
    let (log, store) = open(&disk, 1);
    assert!(log.snapshot() >= last);
    check(&recovered(&log, &store), next + 1, next + 1);
}

/// A leader whose log begins with a snapshot, of some chunks.
fn leader_with_a_snapshot(count: usize) -> Group {
    let group = Group::start(1, &options(None));
    group.leader();
    for number in 0..count {
        propose(group.at(1).raft(), command(number));
    }
    group.at(1).raft().snapshot().wait(PATIENCE).expect("a snapshot is taken");
    for number in count..count + 5 {
        propose(group.at(1).raft(), command(number));
    }
    group
}

#[test]
fn a_crash_at_any_moment_of_a_fetch_leaves_no_gap() {
    let group = leader_with_a_snapshot(40);
    let leader = group.at(1).raft();
    let disk = FaultyDisk::new();
    disk.watch(Random(21), 2);
    let raft = start(&disk, 2, &[], &group.network);
    leader.add_voter(2, "", PATIENCE).wait().expect("it gets its vote");
    raft.wait_for(PATIENCE, |status| status.snapshot.last.is_some() && status.applied_index.0 > 45)
        .expect("it follows");
    let mut random = Random(22);
    let (mut fresh, mut checked, mut snapshots) = (Fresh::default(), 0, HashSet::new());
    let mut proposed = 45;
    let mut examine = |acknowledged, proposed, images| {
        for image in fresh.pick(images) {
            checked += 1;
            let (log, store) = open(&FaultyDisk::from_image(&image), 2);
            check(&recovered(&log, &store), acknowledged, proposed);
            snapshots.insert(log.snapshot());
        }
    };
    // It promised nothing until it had a vote.
    examine(0, proposed, disk.take_watched());
    // From here on no write is acknowledged that it does not have; it goes on to take snapshots of its own.
    for _ in 0..30 {
        propose(leader, command(proposed));
        examine(proposed, proposed + 1, disk.take_watched());
        proposed += 1;
        examine(proposed, proposed, disk.crash_images(&mut random, 2));
    }
    assert!(checked > 300, "only {checked} crash images were checked");
    assert!(snapshots.len() > 3 && snapshots.contains(&EntryId::ZERO), "the log began with only {snapshots:?}");
    assert!(raft.status().counters.snapshots_fetched == 1);
}

/// One learner after the other, each stopped at a later moment of its life, and started again from what a loss of power
/// may have left of it then.
#[test]
fn a_learner_that_crashes_during_a_fetch_or_after_it_catches_up() {
    let group = leader_with_a_snapshot(40);
    let leader = group.at(1).raft();
    let (mut random, mut unfetched, mut unrecorded, mut recorded) = (Random(31), 0, 0, 0);
    for round in 0..48_u64 {
        let id = 10 + round;
        let disk = FaultyDisk::new();
        let raft = start(&disk, id, &[], &group.network);
        leader.add_learner(id, "", PATIENCE).wait().expect("it is added");
        let enough = 4 + 2 * round;
        let done = || raft.status().applied_index >= leader.status().commit_index;
        while disk.operations() < enough && !done() {
            thread::yield_now();
        }
        // What it says from here on nobody hears, so that it can promise nothing that the image lacks.
        group.network.partition([id]);
        let images = disk.crash_images(&mut random, 2);
        raft.shutdown();
        drop(raft);
        let image = &images[random.draw() as usize % images.len()];
        let disk = FaultyDisk::from_image(image);
        let (log, store) = open(&disk, id);
        let proposed = 45 + round as usize;
        check(&recovered(&log, &store), 0, proposed);
        match (log.snapshot() == EntryId::ZERO, store.newest().is_none()) {
            (true, true) => unfetched += 1,
            (true, false) => unrecorded += 1,
            (false, _) => recorded += 1,
        }
        drop((log, store));
        let raft = start(&disk, id, &[], &group.network);
        group.network.heal();
        propose(leader, command(proposed));
        let last = leader.status().commit_index;
        raft.wait_for(PATIENCE, |status| status.applied_index >= last).expect("it catches up");
        check(&commands(&raft), proposed + 1, proposed + 1);
        leader.remove(id, PATIENCE).wait().expect("it is removed");
        raft.shutdown();
    }
    let moments = format!("{unfetched} before the fetch ended, {unrecorded} before the log had it, {recorded} after");
    println!("{moments}");
    assert!(unfetched > 5 && recorded > 5, "{moments}");
}

const PLACE: &str = "RAFT_IO_TEST_DRIVER_SNAPSHOT_CRASH_PLACE";
const ROUNDS: u64 = 20;

fn open_files(place: &Path) -> (WalLog, SnapshotFiles) {
    let log = WalLog::open(place.join("log"), wal_options(1)).expect("a log opens, whenever its node was killed");
    let store = SnapshotFiles::open(place.join("snapshots"), files());
    (log, store.expect("a store opens, whenever its node was killed"))
}

/// Writes and takes snapshots until it is killed; says after each write how many there are.
fn write_forever(place: &Path) {
    let (log, store) = open_files(place);
    let mut options = options(Some(8));
    options.snapshots = Some(Snapshots::new(store));
    let mut config = config(1, &[1]);
    config.tick = Duration::from_millis(1);
    let machine = Ledger::new(&Arc::<Hooks>::default());
    let raft = Raft::start_with(config, options, log, MemoryNetwork::new().transport(1), machine).expect("it starts");
    lead(&raft);
    let mut out = io::stdout();
    for number in commands(&raft).len().. {
        let applied = propose(&raft, command(number));
        assert_eq!(applied.response, number + 1);
        writeln!(out, "durable {}", applied.response).expect("the parent listens");
    }
}

#[test]
fn a_killed_node_that_takes_snapshots_loses_nothing_acknowledged() {
    if let Some(place) = std::env::var_os(PLACE) {
        write_forever(Path::new(&place));
    }
    let place = tempfile::tempdir().expect("a place");
    let (mut random, mut before, mut snapshots) = (Random(1), 0, HashSet::new());
    for _ in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().expect("this program has a path"))
            .args(["--exact", "a_killed_node_that_takes_snapshots_loses_nothing_acknowledged", "--nocapture"])
            .env(PLACE, place.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the node starts");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let parse = |line: String| line.split("durable ").nth(1).map(|count| count.parse().expect("a number"));
        let (enough, mut acknowledged) = (before + random.draw() as usize % 24, before);
        while acknowledged < enough {
            let line = lines.next().expect("it goes on until it is killed").expect("a line");
            acknowledged = parse(line).unwrap_or(acknowledged);
        }
        // Some way into whatever comes next.
        thread::sleep(Duration::from_micros(random.draw() % 4000));
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
        acknowledged = lines.map_while(Result::ok).filter_map(parse).last().unwrap_or(acknowledged);
        let (log, store) = open_files(place.path());
        let found = recovered(&log, &store);
        check(&found, acknowledged, acknowledged + 1);
        before = found.len();
        snapshots.insert(log.snapshot());
    }
    assert!(before > 100 && snapshots.len() > 5, "{before} writes, snapshots {snapshots:?}");
}
