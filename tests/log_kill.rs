//! A process that writes to a durable log is killed at random moments: what it acknowledged is
//! there when the log is opened again.

#![cfg(all(feature = "persistence", feature = "testkit"))]

use raft_io::action::Write;
use raft_io::log::{LogView, RaftLog, WalLog, WalOptions};
use raft_io::testkit::log_suite::{Model, Random};
use raft_io::{ClusterId, Entries, Entry, EntryId, HardState, Index, NodeId, Payload, Term};
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

const PLACE: &str = "RAFT_IO_TEST_LOG_KILL_PLACE";
const ROUNDS: u64 = 25;

fn open(place: &Path) -> WalLog {
    let options = WalOptions::new(ClusterId(7), NodeId(1)).segment_bytes(16 << 10).cache_bytes(4 << 10);
    WalLog::open(place, options).expect("a log opens, whenever its writer was killed")
}

/// The entry that every life of the writer puts at this index in this term.
fn entry(index: Index, term: Term) -> Entry {
    let mut random = Random(index.0 ^ term.0 << 32);
    let bytes: Vec<u8> = (0..random.draw() % 300).map(|_| random.draw() as u8).collect();
    Entry { id: EntryId { index, term }, payload: Payload::Command(bytes.into()) }
}

/// What a writer does between being started and being killed: a function of the log that it finds,
/// so that the parent can tell every state that the log may be in.
struct Life {
    term: Term,
    random: Random,
}

impl Life {
    fn new(found: HardState) -> Self {
        let term = found.term.next();
        Self { term, random: Random(term.0) }
    }

    /// The next write; some replace the last entry, which may have been acknowledged.
    fn write(&mut self, base: Index, last: Index) -> Write {
        let truncate = self.random.draw() % 8 == 0 && last > base.next();
        let first = if truncate { last } else { last.next() };
        let count = 1 + self.random.draw() as usize % 9;
        let hard_state = Some(HardState { term: self.term, vote: Some(NodeId(self.random.draw())) });
        let entries: Entries = (0..count).map(|position| entry(first.plus(position), self.term)).collect();
        Write { hard_state, truncate_from: truncate.then_some(first), entries }
    }

    /// The entry to compact through after a write, now and then.
    fn compaction(&mut self, base: Index, last: Index) -> Option<Index> {
        (self.random.draw() % 16 == 0 && last.0 > base.0 + 20).then(|| Index(last.0 - 10))
    }
}

/// Writes until it is killed; says after each sync how many writes are durable.
fn write_forever(place: &Path) {
    let mut log = open(place);
    let mut life = Life::new(log.hard_state());
    let mut out = std::io::stdout();
    for count in 1.. {
        let write = life.write(log.base().index, log.last().index);
        log.append(&mut vec![write]).expect("an append succeeds");
        log.sync().expect("a sync succeeds");
        writeln!(out, "durable {count}").expect("the parent listens");
        if let Some(through) = life.compaction(log.base().index, log.last().index) {
            log.compact(through).expect("a compaction succeeds");
        }
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

/// The states in which a life may leave a log: all that follow its last acknowledged write.
fn possible(found: &Model, acknowledged: u64) -> Vec<Model> {
    let mut life = Life::new(found.hard_state);
    let mut state = found.clone();
    let mut states = vec![state.clone()];
    for count in 1..=acknowledged + 1 {
        if count == acknowledged {
            states.clear();
        }
        state.write(&life.write(state.base.index, state.last().index));
        states.push(state.clone());
        if let Some(through) = life.compaction(state.base.index, state.last().index) {
            state.compact(through);
            states.push(state.clone());
        }
    }
    // The write after the last acknowledged one may be there; nothing after that was begun.
    states.truncate(3);
    states
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
}
