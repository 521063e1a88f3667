//! A whole node on one volume that fills up: its log, its snapshots, and the driver between them. Whichever operation finds no
//! space first, while the log goes through segments, snapshots and purges, the node stops with a reason that says so, or goes
//! on without what failed; it opens again on the volume that is still full, serves reads and leads; nothing acknowledged is
//! lost; and it works as before once there is room.

#![cfg(all(feature = "persistence", feature = "testkit"))]

mod driver_support;

use driver_support::part::Part;
use driver_support::snapshots::{Group, Hooks, Ledger};
use driver_support::{PATIENCE, config};
use raft_io::driver::{DriverOptions, Raft, RequestError, Snapshots, StopReason, TakeSnapshotError};
use raft_io::log::wal::Directory;
use raft_io::log::{WalLog, WalOptions};
use raft_io::snapshot::SnapshotFiles;
use raft_io::snapshot::files::SnapshotOptions;
use raft_io::testkit::disk::{FaultyDisk, Image};
use raft_io::transport::MemoryNetwork;
use raft_io::{ClusterId, NodeId, RoleKind};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// How many commands a run proposes: enough for several segments, snapshots and purges.
const COMMANDS: usize = 40;
/// What a full volume gets before the node makes its way out, beside room for what the node has.
const ROOM_BYTES: u64 = 32 << 10;
/// Most of the time a node waits for its election.
const AT_ONCE: usize = 6;

/// The command of this number: some ten of them fill a segment.
fn command(number: usize) -> Vec<u8> {
    format!("{number:0>350}").into_bytes()
}

/// A node that leads itself and takes a snapshot every few entries; or why it does not start, in words.
fn start(disk: &FaultyDisk) -> Result<Raft<Ledger>, String> {
    start_as(disk, 1, &[1], &MemoryNetwork::new())
}

fn start_as(disk: &FaultyDisk, id: u64, voters: &[u64], network: &MemoryNetwork) -> Result<Raft<Ledger>, String> {
    let wal = WalOptions::new(ClusterId(7), NodeId(id)).segment_bytes(4 << 10).cache_bytes(1 << 10);
    let log = WalLog::open_in(Part::of(disk, "log"), wal).map_err(|error| error.to_string())?;
    let files = SnapshotOptions::new().chunk_bytes(512).sync_bytes(1 << 10).leave_free_bytes(16 << 10);
    let store = SnapshotFiles::open_in(Part::of(disk, "snapshots"), files).map_err(|error| error.to_string())?;
    let mut options = DriverOptions::default();
    (options.snapshot_entries, options.snapshot_bytes) = (8, u64::MAX);
    (options.snapshot_trail_entries, options.snapshots) = (3, Some(Snapshots::new(store)));
    let mut config = config(id, voters);
    if voters == [id] {
        (config.tick, config.election_ticks) = (Duration::from_millis(1), 5);
    }
    let machine = Ledger::new(&Arc::<Hooks>::default());
    let raft = Raft::start_with(config, options, log, network.transport(id), machine);
    raft.map_err(|error| {
        let source = std::error::Error::source(&error).map_or_else(String::new, ToString::to_string);
        format!("{error}: {source}")
    })
}

/// Whether this says that there is no space, and in which file or directory.
fn says_full(text: &str) -> bool {
    text.contains("no storage space") && (text.contains("log") || text.contains("snapshots"))
}

/// Waits until the node leads, or has stopped; says which.
fn leads(raft: &Raft<Ledger>) -> bool {
    let status = raft.wait_for(PATIENCE, |status| {
        let leads = status.role == RoleKind::Leader && status.applied_index == status.last_index;
        status.stopped.is_some() || (leads && status.applied_index.0 > 0)
    });
    status.expect("it leads or stops").stopped.is_none()
}

/// Asks a node that stopped why: only for want of space, and only because its log found none.
fn stopped_for_want_of_space(raft: &Raft<Ledger>, story: &str) {
    let status = raft.wait_for(PATIENCE, |status| status.stopped.is_some()).expect("it stops");
    match status.stopped {
        Some(StopReason::LogWriteFailed { message }) if says_full(&message) => {}
        other => panic!("{story}: it stopped for another reason than the volume's: {other:?}"),
    }
}

/// Proposes the commands from `first` on; how many were acknowledged.
fn write(raft: &Raft<Ledger>, first: usize, count: usize, story: &str) -> usize {
    for number in first..first + count {
        match raft.propose(command(number)).wait(PATIENCE) {
            Ok(applied) => assert_eq!(applied.response, number + 1, "{story}"),
            Err(RequestError::Fatal { .. } | RequestError::OutcomeUnknown { .. }) => {
                stopped_for_want_of_space(raft, story);
                return number - first;
            }
            Err(other) => panic!("{story}: {other}"),
        }
    }
    count
}

/// What a run on a volume that filled up left.
struct Filled {
    acknowledged: usize,
    /// The size of the volume in bytes.
    volume: u64,
    /// What a kill leaves of the files, and what a loss of power leaves.
    killed: Image,
    dead: Image,
}

/// How one node fared, and what was acknowledged.
struct Sweep {
    outcomes: Mutex<BTreeMap<&'static str, u32>>,
    /// The next operation that finds no space.
    next: AtomicU64,
    /// From this one on the run has fewer operations.
    end: AtomicU64,
}

impl Sweep {
    fn note(&self, outcome: &'static str) {
        *self.outcomes.lock().expect("no test panicked").entry(outcome).or_default() += 1;
    }

    /// Every operation of the run is the one that finds no space.
    fn run(&self) {
        loop {
            let count = self.next.fetch_add(1, Ordering::SeqCst);
            if count >= self.end.load(Ordering::SeqCst) {
                return;
            }
            let disk = FaultyDisk::new();
            disk.fill_volume_after(count);
            let story = format!("allocation {count}");
            let filled = self.fill(&disk, &story);
            if !disk.was_filled() {
                self.end.fetch_min(count, Ordering::SeqCst);
                return;
            }
            self.note("filled");
            let Some(Filled { acknowledged, volume, killed, dead }) = filled else { continue };
            // Shut down in good order; killed before that; and the machine lost its power. No byte is free in any of them.
            let roads = [("stopped", None), ("killed", Some(killed)), ("without power", Some(dead))];
            for (road, image) in roads {
                let full = match &image {
                    None => disk.clone(),
                    Some(image) => {
                        let disk = FaultyDisk::from_image(image);
                        // What a removal frees that was not durable comes back, and nobody was given its room before.
                        disk.limit_volume(Some(disk.taken().max(volume)));
                        disk
                    }
                };
                self.come_back(&full, acknowledged, &format!("{story}, {road}"));
            }
        }
    }

    /// A run on a volume that fills up at some time. `None` if the node never came into being.
    fn fill(&self, disk: &FaultyDisk, story: &str) -> Option<Filled> {
        let raft = match start(disk) {
            Ok(raft) => raft,
            Err(error) => {
                assert!(says_full(&error), "{story}: another failure than the volume's: {error}");
                self.note("not started");
                return None;
            }
        };
        let acknowledged = if leads(&raft) {
            write(&raft, 0, COMMANDS, story)
        } else {
            stopped_for_want_of_space(&raft, story);
            0
        };
        let status = raft.status();
        let outcome = match (&status.stopped, &status.snapshot.last_error) {
            (Some(_), _) => "stopped",
            (None, Some(error)) => {
                assert!(says_full(error), "{story}: {error}");
                "went on, without a snapshot"
            }
            (None, None) => "went on",
        };
        if disk.was_filled() {
            self.note(outcome);
        }
        let (killed, dead) = (disk.live_image(), disk.durable_image());
        raft.shutdown();
        // Nobody writes any more, so that the two go together.
        let volume = disk.taken() + Directory::free_bytes(disk).unwrap_or(0);
        Some(Filled { acknowledged, volume, killed, dead })
    }

    /// The node starts on the full volume, with everything, and makes its way out.
    fn come_back(&self, disk: &FaultyDisk, acknowledged: usize, story: &str) {
        let raft = start(disk).unwrap_or_else(|error| panic!("{story}: it does not start on the full volume: {error}"));
        assert!(leads(&raft), "{story}: it takes no part in elections: {:?}", raft.status().stopped);
        let found = raft.read(Ledger::commands).wait(PATIENCE).unwrap_or_else(|error| panic!("{story}: {error}"));
        assert!((acknowledged..=acknowledged + 1).contains(&found.len()), "{story}: {acknowledged}, {}", found.len());
        assert!(found.iter().enumerate().all(|(number, found)| **found == command(number)), "{story}");
        self.note("reopened on the full volume, with everything");
        match raft.snapshot().wait(PATIENCE) {
            Ok(_) => self.note("took a snapshot there"),
            Err(TakeSnapshotError::Failed { reason }) if says_full(&reason) => {
                self.note("had no room for a snapshot there")
            }
            Err(TakeSnapshotError::NothingApplied) => {}
            Err(other) => {
                stopped_for_want_of_space(&raft, &format!("{story}: {other}"));
            }
        }
        let more = write(&raft, found.len(), 10, story);
        self.note(if more == 10 { "took commands there" } else { "stopped there again" });
        let acknowledged = found.len() + more;
        raft.shutdown();
        drop(raft);
        // Room for what it has, once more, and it is out.
        disk.limit_volume(Some(disk.taken() + 2 * ((found.len() + 20) * command(0).len()) as u64 + ROOM_BYTES));
        let raft = start(disk).unwrap_or_else(|error| panic!("{story}: it does not start with room: {error}"));
        assert!(leads(&raft), "{story}");
        let found = raft.read(Ledger::commands).wait(PATIENCE).expect("it leads").len();
        assert!((acknowledged..=acknowledged + 1).contains(&found), "{story}: {acknowledged}, {found}");
        if found > 0 {
            raft.snapshot().wait(PATIENCE).unwrap_or_else(|error| panic!("{story}: {error}"));
        }
        assert_eq!(write(&raft, found, 20, story), 20, "{story}: a snapshot made no room");
        self.note("made its way out with a little room");
        raft.shutdown();
    }
}

/// The story of the node on a volume of 130 MiB, whose snapshot took the room that the log needed, for every moment at which
/// the room may end.
#[test]
fn whichever_allocation_of_a_node_fails_it_comes_back_on_the_full_volume_with_everything() {
    let sweep = Sweep { outcomes: Mutex::default(), next: AtomicU64::new(0), end: AtomicU64::new(u64::MAX) };
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| sweep.run());
        }
    });
    let outcomes = sweep.outcomes.into_inner().expect("no test panicked");
    println!("of {} allocations, each the one that fails: {outcomes:?}", sweep.end.load(Ordering::SeqCst));
    assert!(outcomes["stopped"] > 50 && outcomes["went on, without a snapshot"] > 20, "{outcomes:?}");
    assert!(outcomes["took commands there"] > 100, "{outcomes:?}");
}

/// A leader whose log begins with a snapshot of some chunks, in memory.
fn leader_with_a_snapshot() -> Group {
    let mut options = DriverOptions::default();
    (options.snapshot_entries, options.snapshot_trail_entries) = (usize::MAX, 3);
    let group = Group::start(1, &options);
    let leader = group.leader();
    for number in 0..COMMANDS {
        group.at(leader).raft().propose(command(number)).wait(PATIENCE).expect("it leads");
    }
    group.at(leader).raft().snapshot().wait(PATIENCE).expect("a snapshot is taken");
    for number in COMMANDS..COMMANDS + 5 {
        group.at(leader).raft().propose(command(number)).wait(PATIENCE).expect("it leads");
    }
    group
}

/// A learner whose volume fills up while it fetches the snapshot that it needs, installs it and goes on from there.
fn learn(sweep: &Sweep) {
    let group = leader_with_a_snapshot();
    let leader = group.at(1).raft();
    loop {
        let count = sweep.next.fetch_add(1, Ordering::SeqCst);
        if count >= sweep.end.load(Ordering::SeqCst) {
            return;
        }
        let (story, id) = (format!("allocation {count} of a learner"), 10 + count);
        let disk = FaultyDisk::new();
        disk.fill_volume_after(count);
        leader.add_learner(id, "", PATIENCE).wait().expect("it is added");
        let everything = leader.status().commit_index;
        match start_as(&disk, id, &[], &group.network) {
            Ok(raft) => {
                let status = raft.wait_for(PATIENCE, |status| {
                    let failed = status.snapshot.last_error.is_some();
                    status.stopped.is_some() || failed || status.applied_index >= everything
                });
                let status = status.unwrap_or_else(|error| panic!("{story}: {error}"));
                match (status.stopped, status.snapshot.last_error) {
                    (Some(_), _) => {
                        stopped_for_want_of_space(&raft, &story);
                        sweep.note("stopped");
                    }
                    (None, Some(error)) => {
                        assert!(says_full(&error), "{story}: {error}");
                        sweep.note("went on, without the snapshot");
                    }
                    (None, None) if disk.was_filled() => sweep.note("caught up all the same"),
                    (None, None) => {}
                }
                raft.shutdown();
            }
            Err(error) => {
                assert!(says_full(&error), "{story}: another failure than the volume's: {error}");
                sweep.note("not started");
            }
        }
        if !disk.was_filled() {
            sweep.end.fetch_min(count, Ordering::SeqCst);
            return;
        }
        disk.limit_volume(None);
        let raft = start_as(&disk, id, &[], &group.network).unwrap_or_else(|error| panic!("{story}: {error}"));
        raft.wait_for(PATIENCE, |status| status.applied_index >= everything)
            .unwrap_or_else(|error| panic!("{story}: it does not catch up when there is room: {error}"));
        let found = raft.stale_read(Ledger::commands).expect("it works");
        assert!(found.len() == COMMANDS + 5, "{story}: {}", found.len());
        assert!(found.iter().enumerate().all(|(number, found)| **found == command(number)), "{story}");
        sweep.note("caught up when there was room");
        leader.remove(id, PATIENCE).wait().expect("it is removed");
        raft.shutdown();
    }
}

/// The same for a server that joins, whose snapshot comes from its leader. The leader goes on as if nothing were.
#[test]
fn whichever_allocation_of_a_learner_fails_it_catches_up_when_there_is_room() {
    let sweep = Sweep { outcomes: Mutex::default(), next: AtomicU64::new(0), end: AtomicU64::new(u64::MAX) };
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| learn(&sweep));
        }
    });
    let outcomes = sweep.outcomes.into_inner().expect("no test panicked");
    println!("of {} allocations of a learner, each the one that fails: {outcomes:?}", sweep.end.load(Ordering::SeqCst));
    assert!(outcomes["stopped"] > 5 && outcomes["went on, without the snapshot"] > 5, "{outcomes:?}");
}
