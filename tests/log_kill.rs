//! A process that writes to a durable log is killed at random moments: what it acknowledged is
//! there when the log is opened again.

#![cfg(all(feature = "persistence", feature = "testkit"))]

use raft_io::action::{Compaction, Write};
use raft_io::log::{RaftLog, WalLog, WalOptions};
use raft_io::testkit::log_suite::{Model, Random};
use raft_io::{ClusterId, Entries, Entry, EntryId, HardState, Index, Membership, NodeId, Payload, Term};
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

const PLACE: &str = "RAFT_IO_TEST_LOG_KILL_PLACE";
const ROUNDS: u64 = 25;

fn open(place: &Path) -> WalLog {
    let options = WalOptions::new(ClusterId(7), NodeId(1)).segment_bytes(16 << 10).cache_bytes(4 << 10);
    WalLog::open(place, options).expect("a log opens, whenever its writer was killed")
}

/// The entry that every life of the writer puts at this index in this term.
fn entry(index: Index, term: Term) -> Entry {
    let mut random = Random(index.0 ^ term.0 << 32);
    let id = EntryId { index, term };
    if random.draw() % 16 == 0 {
        return Entry { id, payload: Payload::Membership(Arc::new(Membership::new([index.0, term.0]))) };
    }
    let bytes: Vec<u8> = (0..random.draw() % 300).map(|_| random.draw() as u8).collect();
    Entry { id, payload: Payload::Command(bytes.into()) }
}

/// What a writer does between being started and being killed: a function of the log that it finds,
/// so that the parent can tell every state that the log may be in.
struct Life {
    term: Term,
    random: Random,
    state: Model,
}

impl Life {
    fn new(found: Model) -> Self {
        let term = found.hard_state.term.next();
        Self { term, random: Random(term.0), state: found }
    }

    /// The next write; some replace the last entry, which may have been acknowledged.
    fn write(&mut self) -> Write {
        let hard_state = Some(HardState { term: self.term, vote: Some(NodeId(self.random.draw())) });
        let compaction = self.compaction();
        let mut compacted = self.state.clone();
        compacted.write(&Write { compaction: compaction.clone(), ..Write::default() });
        let last = compacted.last().index;
        let truncate = self.random.draw() % 8 == 0 && !compacted.entries.is_empty();
        let first = if truncate { last } else { last.next() };
        let count = 1 + self.random.draw() as usize % 9;
        let entries: Entries = (0..count).map(|position| entry(first.plus(position), self.term)).collect();
        let write = Write { hard_state, compaction, truncate_from: truncate.then_some(first), entries };
        self.state.write(&write);
        write
    }

    /// Now and then a snapshot: of entries that the log holds, some of which stay, or of a leader whose log reaches
    /// further.
    fn compaction(&mut self) -> Option<Compaction> {
        let entries = &self.state.entries;
        let membership = Arc::new(Membership::new([self.term.0, self.state.last().index.0 + 7]));
        match self.random.draw() % 64 {
            0..4 if entries.len() > 20 => {
                let snapshot = entries[entries.len() - 5].id;
                Some(Compaction { snapshot, base: entries[entries.len() - 10].id, membership })
            }
            4 => {
                let base = EntryId { index: self.state.last().index.plus(5), term: self.term };
                Some(Compaction { snapshot: base, base, membership })
            }
            _ => None,
        }
    }
}

/// Writes until it is killed; says after each sync how many writes are durable.
fn write_forever(place: &Path) {
    let mut log = open(place);
    let mut life = Life::new(Model::of(&log).expect("the log reads back"));
    let mut out = std::io::stdout();
    for count in 1.. {
        log.append(&mut vec![life.write()]).expect("an append succeeds");
        log.sync().expect("a sync succeeds");
        writeln!(out, "durable {count}").expect("the parent listens");
    }
}

/// Starts a writer, kills it after some acknowledgements, and returns how many writes it
/// acknowledged.
fn write_and_kill(place: &Path, test: &str, acknowledgements: u64) -> u64 {
    let mut child = Command::new(std::env::current_exe().expect("the test binary"))
        .args(["--exact", test, "--nocapture"])
        .env(PLACE, place)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the writer starts");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    // The test harness may print something of its own on the same line first.
    let parse = |line: String| line.split("durable ").nth(1).map(|count| count.parse().expect("a number"));
    let mut acknowledged = 0;
    while acknowledged < acknowledgements {
        let line = lines.next().expect("the writer goes on until it is killed").expect("a line");
        acknowledged = parse(line).unwrap_or(acknowledged);
    }
    child.kill().expect("the writer can be killed");
    child.wait().expect("the writer ends");
    // What stood in the pipe was acknowledged too.
    lines.map_while(Result::ok).filter_map(parse).last().unwrap_or(acknowledged)
}

/// The states in which a life may leave a log: after its last acknowledged write, and after the next, which may be there;
/// nothing behind that was begun.
fn possible(found: &Model, acknowledged: u64) -> [Model; 2] {
    let mut life = Life::new(found.clone());
    (0..acknowledged).for_each(|_| drop(life.write()));
    let state = life.state.clone();
    life.write();
    [state, life.state]
}

#[test]
fn a_killed_writer_loses_nothing_acknowledged() {
    if let Some(place) = std::env::var_os(PLACE) {
        write_forever(Path::new(&place));
    }
    let place = tempfile::tempdir().expect("a place for the log");
    let place = place.path().join("log");
    let mut random = Random(1);
    let mut found = Model::default();
    let mut total = 0;
    for round in 0..ROUNDS {
        let wanted = random.draw() % 24;
        let acknowledged = write_and_kill(&place, "a_killed_writer_loses_nothing_acknowledged", wanted);
        total += acknowledged;
        let log = open(&place);
        let left = Model::of(&log).expect("the log reads back");
        let possible = possible(&found, acknowledged);
        assert!(possible.contains(&left), "round {round}: {acknowledged} writes were acknowledged, found {left:?}");
        found = left;
    }
    assert!(total > 200, "only {total} writes were acknowledged");
    assert!(found.base.index > Index::ZERO, "the log was compacted on the way");
    assert!(found.at_snapshot.is_some(), "and knows the configuration of its snapshot");
}
