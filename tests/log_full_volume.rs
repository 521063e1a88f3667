//! The durable log on a full volume: whichever operation finds no space first, nothing acknowledged is lost, the log opens
//! on the volume that is still full, and a compaction makes room on it.

#![cfg(all(feature = "persistence", feature = "testkit"))]

use raft_io::action::{Compaction, Write};
use raft_io::log::{RaftLog, WalError, WalLog, WalOptions};
use raft_io::testkit::disk::FaultyDisk;
use raft_io::testkit::log_suite::{Model, Op, Random};
use raft_io::{ClusterId, Entries, Entry, EntryId, HardState, Membership, NodeId, Payload, Term};
use std::collections::BTreeMap;
use std::sync::Arc;

fn open(disk: &FaultyDisk) -> Result<WalLog, WalError> {
    let options = WalOptions::new(ClusterId(7), NodeId(1)).segment_bytes(4096).cache_bytes(400);
    WalLog::open_in(Arc::new(disk.clone()), options)
}

/// Whether this says that the volume is full, and names a file of the log or its directory.
fn says_full(error: &WalError) -> bool {
    let text = error.to_string();
    assert!(text.contains("faulty-disk"), "no path in: {text}");
    match error {
        WalError::Io { source, .. } | WalError::NoRoom { source, .. } => {
            source.kind() == std::io::ErrorKind::StorageFull
        }
        _ => false,
    }
}

/// A log at work, with every state that it went through.
struct Run {
    log: Option<WalLog>,
    states: Vec<Model>,
    acknowledged: usize,
}

impl Run {
    fn state(&self) -> &Model {
        self.states.last().expect("there is a first state")
    }

    fn write(&mut self, write: Write) -> Result<(), WalError> {
        let mut next = self.state().clone();
        next.write(&write);
        self.states.push(next);
        self.log.as_mut().expect("the log is open").append(&mut vec![write])
    }

    fn sync(&mut self) -> Result<(), WalError> {
        self.log.as_mut().expect("the log is open").sync()?;
        self.acknowledged = self.states.len() - 1;
        Ok(())
    }

    /// A write that is synced, or the failure.
    fn synced(&mut self, write: Write) -> Result<(), WalError> {
        self.write(write)?;
        self.sync()
    }

    fn step(&mut self, disk: &FaultyDisk, op: &Op) -> Result<(), WalError> {
        match op {
            Op::Append(shapes) => {
                for shape in shapes {
                    let write = shape.write(self.state());
                    self.write(write)?;
                }
            }
            Op::Sync => self.sync()?,
            Op::Reopen => {
                self.sync()?;
                self.log = None;
                self.log = Some(open(disk)?);
            }
        }
        Ok(())
    }

    /// Opens what is there; it must be one of the possible states.
    fn reopen(&mut self, disk: &FaultyDisk) -> Result<(), WalError> {
        self.log = None;
        let log = open(disk)?;
        let recovered = Model::of(&log).expect("the log reads back");
        let possible = &self.states[self.acknowledged..];
        assert!(possible.contains(&recovered), "acknowledged ⊆ recovered ⊆ attempted does not hold for {recovered:?}");
        self.states = vec![recovered];
        (self.acknowledged, self.log) = (0, Some(log));
        Ok(())
    }
}

/// What an election writes: a term and a vote, then a no-op.
fn election(state: &Model) -> [Write; 2] {
    let last = state.last();
    let term = Term(state.hard_state.term.0.max(last.term.0) + 1);
    let hard_state = HardState { term, vote: Some(NodeId(1)) };
    let noop = Entry { id: EntryId { index: last.index.next(), term }, payload: Payload::Noop };
    [
        Write { hard_state: Some(hard_state), ..Write::default() },
        Write { entries: vec![noop].into(), ..Write::default() },
    ]
}

/// A command of so many bytes.
fn command(state: &Model, bytes: usize) -> Write {
    let last = state.last();
    let id = EntryId { index: last.index.next(), term: last.term };
    let entries: Entries = vec![Entry { id, payload: Payload::Command(vec![7; bytes].into()) }].into();
    Write { entries, ..Write::default() }
}

/// Everything is forgotten: a snapshot that covers it is elsewhere.
fn forget_all(state: &Model) -> Write {
    let last = state.last();
    let (membership, snapshot) = (Arc::new(Membership::new([1])), state.snapshot.max(last));
    Write { compaction: Some(Compaction { snapshot, base: last, membership }), ..Write::default() }
}

/// On a volume that is full and stays so: the server takes part in elections, and makes its way out. Returns whether it then
/// has room for commands again.
fn find_the_way_out(run: &mut Run, disk: &FaultyDisk, story: &str) -> bool {
    for round in 0..3 {
        for write in election(run.state()) {
            run.synced(write).unwrap_or_else(|error| panic!("{story}: an election in round {round}: {error}"));
        }
    }
    let forget = forget_all(run.state());
    run.synced(forget).expect("a compaction finds room");
    run.reopen(disk).expect("it opens once more");
    let command = command(run.state(), 3000);
    let written = run.synced(command);
    if let Err(error) = &written {
        assert!(says_full(error), "{story}: another failure than the volume's: {error}");
        run.reopen(disk).expect("it opens again and again");
    }
    written.is_ok()
}

/// Runs a sequence until a step fails, or to its end.
fn run_until_failure(disk: &FaultyDisk, seed: u64, steps: usize) -> (Run, Result<(), WalError>) {
    let mut random = Random(seed);
    let mut run = Run { log: None, states: vec![Model::default()], acknowledged: 0 };
    match open(disk) {
        Ok(log) => run.log = Some(log),
        Err(error) => return (run, Err(error)),
    }
    for _ in 0..steps {
        if let Err(error) = run.step(disk, &Op::random(|| random.draw())) {
            return (run, Err(error));
        }
    }
    (run, Ok(()))
}

/// The story of the node that could not open any more: its volume was full, partly of a segment that it had been making
/// when it stopped. Here every write, creation, renaming and sync of a run with segments and purges is the one that finds no
/// space, and the volume stays full.
#[test]
fn whichever_allocation_fails_the_log_opens_on_the_full_volume_and_loses_nothing() {
    let mut outcomes: BTreeMap<&str, u32> = BTreeMap::new();
    for seed in 0..8 {
        for killed in [false, true] {
            for count in 0.. {
                let disk = FaultyDisk::new();
                disk.fill_volume_after(count);
                if killed {
                    // Nothing is tidied away: the process dies at once.
                    disk.refuse_removals();
                }
                let (mut run, ended) = run_until_failure(&disk, seed, 24);
                if !disk.was_filled() {
                    break;
                }
                let outcome = match &ended {
                    Ok(()) => "went on",
                    Err(error) => {
                        assert!(says_full(error), "another failure than the volume's: {error}");
                        "stopped"
                    }
                };
                *outcomes.entry(outcome).or_default() += 1;
                disk.allow_removals();
                let existed = run.log.is_some() || run.acknowledged > 0;
                match run.reopen(&disk) {
                    Ok(()) => {
                        *outcomes.entry("reopened").or_default() += 1;
                        let story = format!("seed {seed}, allocation {count}, {ended:?}");
                        let again = find_the_way_out(&mut run, &disk, &story);
                        *outcomes.entry(if again { "takes commands again" } else { "still full" }).or_default() += 1;
                    }
                    // Of a log that never came into being there is nothing to open, and no room to make one.
                    Err(error) if !existed && says_full(&error) => *outcomes.entry("never made").or_default() += 1,
                    Err(error) => panic!("seed {seed}, allocation {count}: it does not open: {error}"),
                }
            }
        }
    }
    println!("allocations that failed: {outcomes:?}");
    assert!(outcomes["stopped"] > 300 && outcomes["went on"] > 50, "{outcomes:?}");
    assert!(outcomes["takes commands again"] > 500, "{outcomes:?}");
}

/// The same on volumes of every size, which fill up as volumes do: a segment that does not fit is there in part, and stays if
/// the process dies.
#[test]
fn a_log_fills_volumes_of_every_size_and_opens_on_each() {
    let mut outcomes: BTreeMap<&str, u32> = BTreeMap::new();
    for bytes in (0..60_000).step_by(700) {
        for killed in [false, true] {
            let disk = FaultyDisk::new();
            disk.limit_volume(Some(bytes));
            if killed {
                disk.refuse_removals();
            }
            let mut run = Run { log: None, states: vec![Model::default()], acknowledged: 0 };
            let stopped = match open(&disk) {
                Err(error) => error,
                Ok(log) => {
                    run.log = Some(log);
                    for write in election(run.state()) {
                        run.synced(write).expect("a new log has room for an election");
                    }
                    loop {
                        let command = command(run.state(), 700);
                        if let Err(error) = run.synced(command) {
                            break error;
                        }
                    }
                }
            };
            disk.allow_removals();
            assert!(says_full(&stopped), "{bytes} bytes: another failure than the volume's: {stopped}");
            if run.log.is_none() {
                *outcomes.entry("too small").or_default() += 1;
                continue;
            }
            run.reopen(&disk).unwrap_or_else(|error| panic!("{bytes} bytes: it does not open: {error}"));
            let segments = disk.live_image().keys().filter(|name| name.ends_with(".wal")).count();
            let again = find_the_way_out(&mut run, &disk, &format!("{bytes} bytes"));
            assert!(again, "{bytes} bytes, {segments} segments: a purge made no room");
            *outcomes.entry("takes commands again").or_default() += 1;
        }
    }
    println!("volumes: {outcomes:?}");
    assert!(outcomes["takes commands again"] > 100, "{outcomes:?}");
}
