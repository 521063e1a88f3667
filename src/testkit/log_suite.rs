//! What every [`RaftLog`] must do: the durability contract of [`crate::log`], as checks that any
//! implementation can run.
//!
//! Implement [`Fixture`] for a log and call [`run`]. For random sequences with shrinking, generate
//! [`Op`]s with a property-testing crate and give them to [`check_sequence`]; [`run`] itself tries
//! a few hundred seeded ones.

use crate::action::Write;
use crate::log::{LogView, RaftLog, Read};
use crate::types::{Entries, Entry, EntryId, HardState, Index, NodeId, Payload, Term};
use bytes::Bytes;
use std::vec;
use std::vec::Vec;

/// How the suite makes and treats a log.
pub trait Fixture {
    /// The log under test.
    type Log: RaftLog;

    /// A new, empty log, in a place of its own.
    fn create(&mut self) -> Self::Log;

    /// Closes the log and opens it again in its place. A log without a place returns itself.
    fn reopen(&mut self, log: Self::Log) -> Self::Log;

    /// Forgets the entries through `through`; false if this log cannot.
    fn compact(&mut self, _log: &mut Self::Log, _through: Index) -> bool {
        false
    }

    /// Makes the next write or sync of this log fail, once; false if its medium cannot fail.
    fn break_medium(&mut self, _log: &mut Self::Log) -> bool {
        false
    }
}

/// The simplest log there is, to compare with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// The hard state of the last write that had one.
    pub hard_state: HardState,
    /// The entry before the first.
    pub base: EntryId,
    /// All entries behind the base.
    pub entries: Vec<Entry>,
}

impl Model {
    /// The last entry, or the base.
    #[must_use]
    pub fn last(&self) -> EntryId {
        self.entries.last().map_or(self.base, |entry| entry.id)
    }

    /// Carries out one write.
    pub fn write(&mut self, write: &Write) {
        self.hard_state = write.hard_state.unwrap_or(self.hard_state);
        if let Some(first) = write.truncate_from {
            self.entries.retain(|entry| entry.id.index < first);
        }
        self.entries.extend(write.entries.iter().cloned());
    }

    /// Forgets the entries through `through`, which lies in `(base, last]`.
    pub fn compact(&mut self, through: Index) {
        self.base = self.entries[(through.0 - self.base.index.0 - 1) as usize].id;
        self.entries.retain(|entry| entry.id.index > through);
    }

    /// The state that a log shows.
    ///
    /// # Errors
    /// What the log does not read back, or where its answers contradict each other.
    pub fn of<L: RaftLog>(log: &L) -> Result<Self, std::string::String> {
        let (base, last) = (log.base(), log.last());
        let mut entries = Vec::new();
        let mut next = base.index.next();
        while next <= last.index {
            let run = match log.read_blocking(next, last.index.next(), usize::MAX) {
                Ok(Read::Entries(run)) if !run.is_empty() => run,
                other => return Err(std::format!("reading from {next} of {last}: {other:?}")),
            };
            for entry in run.iter() {
                if entry.id.index != next || log.term(next) != Some(entry.id.term) {
                    return Err(std::format!("entry {} where {next} of term {:?} is", entry.id, log.term(next)));
                }
                next = next.next();
            }
            entries.extend(run.iter().cloned());
        }
        let model = Self { hard_state: log.hard_state(), base, entries };
        if model.last() != last { Err(std::format!("the last entry is not {last}")) } else { Ok(model) }
    }

    /// Asserts that the log answers every question as this model does.
    ///
    /// # Panics
    /// If it does not.
    pub fn assert_equals<L: RaftLog>(&self, log: &L) {
        let found = Self::of(log).expect("the log reads back");
        assert_eq!(found, *self, "the log holds what was written");
        assert_eq!(log.term(self.base.index), Some(self.base.term), "the base has a term");
        assert_eq!(log.term(self.last().index.next()), None, "no term behind the end");
        if self.base.index > Index::ZERO {
            assert_eq!(log.term(self.base.index.previous()), None, "no term before the base");
        }
        self.assert_reads(log);
    }

    /// Limits by index and by bytes, from memory and from the medium.
    fn assert_reads<L: RaftLog>(&self, log: &L) {
        let (first, end) = (self.base.index.next(), self.last().index.next());
        for bytes_max in [0, 40, 200, usize::MAX] {
            let reading = |from: Index, to: Index| {
                let blocking = log.read_blocking(from, to, bytes_max).expect("a blocking read succeeds");
                assert_ne!(blocking, Read::Cold, "a blocking read is never cold");
                match log.read(from, to, bytes_max) {
                    Read::Cold => {}
                    answered => self.assert_read(&answered, from, to, bytes_max),
                }
                self.assert_read(&blocking, from, to, bytes_max);
            };
            reading(self.base.index, end);
            reading(end, end.plus(3));
            reading(first, Index::MAX);
            let middle = Index(u64::midpoint(first.0, end.0));
            for to in [middle, middle.next(), end] {
                reading(middle, to);
            }
        }
    }

    fn assert_read(&self, read: &Read, first: Index, end: Index, bytes_max: usize) {
        if first <= self.base.index {
            assert_eq!(*read, Read::Compacted, "nothing before the base");
            return;
        }
        let Read::Entries(found) = read else { panic!("{read:?} for [{first}, {end})") };
        let start = ((first.0 - self.base.index.0 - 1) as usize).min(self.entries.len());
        let stop = ((end.0 - self.base.index.0 - 1) as usize).clamp(start, self.entries.len());
        let expected = &self.entries[start..stop];
        assert_eq!(**found, expected[..found.len().min(expected.len())], "a prefix of [{first}, {end})");
        assert_eq!(found.is_empty(), expected.is_empty(), "at least one entry if there is one");
        assert!(found.len() <= 1 || found.size_bytes() <= bytes_max, "no more than {bytes_max} bytes");
    }
}

/// One step of a sequence. Its numbers are taken modulo what the log's state allows, so that any
/// sequence is legal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Append writes, as one batch.
    Append(Vec<Shape>),
    /// Sync.
    Sync,
    /// Close and open again, after a sync.
    Reopen,
    /// Compact through an entry, counted from the first.
    Compact(u8),
}

/// What one write looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Whether it has a hard state.
    pub hard_state: bool,
    /// How many of the last entries it removes.
    pub truncate: u8,
    /// How many entries it appends.
    pub entries: u8,
    /// The size of each command in bytes; the first entry of a new term is a no-op.
    pub bytes: u16,
    /// Whether its entries are of a new term.
    pub new_term: bool,
}

impl Shape {
    /// The write of this shape that fits the model.
    #[must_use]
    pub fn write(&self, model: &Model) -> Write {
        let removed = usize::from(self.truncate) % (model.entries.len() + 1);
        let kept = model.entries.len() - removed;
        let before = kept.checked_sub(1).map_or(model.base, |position| model.entries[position].id);
        // Terms only grow, so that a replacing entry differs from the one it replaces.
        let term = Term(model.last().term.0.max(1) + u64::from(self.new_term || removed > 0));
        let entry = |position: usize| {
            let index = before.index.plus(position + 1);
            let noop = position == 0 && term != before.term;
            let fill = (index.0 ^ term.0).to_le_bytes()[0];
            let payload = if noop { Payload::Noop } else { Payload::Command(vec![fill; self.bytes.into()].into()) };
            Entry { id: EntryId { index, term }, payload }
        };
        let vote = self.new_term.then(|| NodeId(u64::from(self.bytes)));
        Write {
            hard_state: self.hard_state.then(|| HardState { term: model.hard_state.term.next(), vote }),
            truncate_from: (removed > 0).then(|| before.index.next()),
            entries: (0..usize::from(self.entries)).map(entry).collect(),
        }
    }
}

impl Op {
    /// A random step, from a source of random numbers.
    pub fn random(mut next: impl FnMut() -> u64) -> Self {
        match next() % 16 {
            0 | 1 => Self::Reopen,
            2 => Self::Compact(next() as u8),
            3..=6 => Self::Sync,
            _ => Self::Append((0..next() % 4).map(|_| Shape::random(&mut next)).collect()),
        }
    }
}

impl Shape {
    /// A random write, from a source of random numbers.
    pub fn random(mut next: impl FnMut() -> u64) -> Self {
        let bits = next();
        Self {
            hard_state: bits & 3 == 0,
            truncate: if bits & 0x1c == 0 { (bits >> 8) as u8 % 8 } else { 0 },
            entries: (bits >> 16) as u8 % 6,
            bytes: (bits >> 24) as u16 % 120,
            new_term: bits & 0xe0 == 0,
        }
    }
}

/// A small generator with a state of 64 bits (SplitMix64), for seeded sequences.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Runs every check.
///
/// # Panics
/// If the log does not keep the contract.
pub fn run<F: Fixture>(fixture: &mut F) {
    starts_empty(fixture);
    appends_in_order(fixture);
    truncates_and_replaces_in_one_write(fixture);
    keeps_the_last_hard_state(fixture);
    reads_see_unsynced_writes(fixture);
    survives_reopening(fixture);
    forgets_what_was_compacted(fixture);
    stops_after_a_failure(fixture);
    for seed in 0..200 {
        let mut random = Random(seed);
        let ops: Vec<Op> = (0..30).map(|_| Op::random(|| random.draw())).collect();
        check_sequence(fixture, &ops);
    }
}

/// Runs a sequence on a new log and on a [`Model`] and compares them after every step.
///
/// # Panics
/// If they ever differ.
pub fn check_sequence<F: Fixture>(fixture: &mut F, ops: &[Op]) {
    let mut log = fixture.create();
    let mut model = Model::default();
    for op in ops {
        match op {
            Op::Append(shapes) => {
                let mut writes = writes_of(shapes, &mut model);
                log.append(&mut writes).expect("an append succeeds");
                assert!(writes.is_empty(), "an append takes the writes");
            }
            Op::Sync => log.sync().expect("a sync succeeds"),
            Op::Reopen => {
                log.sync().expect("a sync succeeds");
                log = fixture.reopen(log);
            }
            Op::Compact(at) if !model.entries.is_empty() => {
                let through = model.entries[usize::from(*at) % model.entries.len()].id.index;
                if fixture.compact(&mut log, through) {
                    model.compact(through);
                }
            }
            Op::Compact(_) => {}
        }
        model.assert_equals(&log);
    }
}

/// The writes of these shapes, which are carried out on the model.
pub fn writes_of(shapes: &[Shape], model: &mut Model) -> Vec<Write> {
    let write = |shape: &Shape| {
        let write = shape.write(model);
        model.write(&write);
        write
    };
    shapes.iter().map(write).collect()
}

fn entries(first: u64, terms: &[u64]) -> Entries {
    let entry = |(position, term): (usize, &u64)| {
        let id = EntryId::new(Index(first).plus(position), *term);
        Entry { id, payload: Payload::Command(Bytes::from(std::format!("command {id}"))) }
    };
    terms.iter().enumerate().map(entry).collect()
}

fn write(first: u64, terms: &[u64]) -> Write {
    Write { entries: entries(first, terms), ..Write::default() }
}

fn append<F: Fixture>(fixture: &mut F, writes: &[Write]) -> (F::Log, Model) {
    let mut log = fixture.create();
    let mut model = Model::default();
    log.append(&mut writes.to_vec()).expect("an append succeeds");
    writes.iter().for_each(|write| model.write(write));
    (log, model)
}

fn starts_empty<F: Fixture>(fixture: &mut F) {
    let log = fixture.create();
    assert_eq!(log.hard_state(), HardState::default());
    assert_eq!((log.base(), log.last()), (EntryId::ZERO, EntryId::ZERO));
    assert_eq!(log.read(Index(1), Index(5), 100), Read::Entries(Entries::EMPTY), "the end of an empty log");
    assert_eq!(log.read(Index(0), Index(5), 100), Read::Compacted, "no entry has index 0");
    Model::default().assert_equals(&log);
}

fn appends_in_order<F: Fixture>(fixture: &mut F) {
    let (mut log, mut model) = append(fixture, &[write(1, &[1, 1, 2]), write(4, &[2]), write(5, &[3, 5])]);
    model.assert_equals(&log);
    let more = [write(7, &[5]), Write::default(), write(8, &[5, 5])];
    log.append(&mut more.to_vec()).expect("an append succeeds");
    more.iter().for_each(|write| model.write(write));
    model.assert_equals(&log);
    assert_eq!(log.last(), EntryId::new(9, 5));
    log.append(&mut Vec::new()).expect("no writes are no failure");
    log.sync().expect("a sync succeeds");
    log.sync().expect("a sync with nothing to do succeeds");
    model.assert_equals(&log);
}

fn truncates_and_replaces_in_one_write<F: Fixture>(fixture: &mut F) {
    let replace = Write { truncate_from: Some(Index(3)), ..write(3, &[4, 4]) };
    let (log, model) = append(fixture, &[write(1, &[1, 1, 1, 1, 1]), replace]);
    assert_eq!((log.last(), log.term(Index(2))), (EntryId::new(4, 4), Some(Term(1))));
    model.assert_equals(&log);
    // All of it, then from the middle of a run, twice, and behind the end.
    let all = Write { truncate_from: Some(Index(1)), ..write(1, &[5, 5, 5]) };
    let middle = Write { truncate_from: Some(Index(2)), ..write(2, &[6, 6, 6]) };
    let shorter = Write { truncate_from: Some(Index(4)), ..Write::default() };
    let behind = Write { truncate_from: Some(Index(4)), ..write(4, &[7]) };
    let (log, model) = append(fixture, &[write(1, &[1, 2]), all, middle, shorter, behind]);
    model.assert_equals(&log);
    let mut log = fixture.reopen({
        let mut log = log;
        log.sync().expect("a sync succeeds");
        log
    });
    model.assert_equals(&log);
    log.append(&mut vec![write(5, &[8])]).expect("an append succeeds");
    assert_eq!(log.last(), EntryId::new(5, 8));
}

fn keeps_the_last_hard_state<F: Fixture>(fixture: &mut F) {
    let state = |term, vote| Some(HardState { term: Term(term), vote });
    let writes = [
        Write { hard_state: state(1, None), ..Write::default() },
        Write { hard_state: state(2, Some(NodeId(0))), ..write(1, &[2]) },
        write(2, &[2]),
    ];
    let (mut log, model) = append(fixture, &writes);
    assert_eq!(log.hard_state().vote, Some(NodeId(0)), "a vote for node 0 is a vote");
    log.sync().expect("a sync succeeds");
    let log = fixture.reopen(log);
    model.assert_equals(&log);
}

fn reads_see_unsynced_writes<F: Fixture>(fixture: &mut F) {
    let (mut log, mut model) = append(fixture, &[write(1, &[1])]);
    model.assert_equals(&log);
    log.sync().expect("a sync succeeds");
    let next = Write { hard_state: Some(HardState { term: Term(9), vote: None }), ..write(2, &[9]) };
    log.append(&mut vec![next.clone()]).expect("an append succeeds");
    model.write(&next);
    model.assert_equals(&log);
}

fn survives_reopening<F: Fixture>(fixture: &mut F) {
    let (mut log, mut model) = append(fixture, &[write(1, &[1, 1, 3])]);
    for round in 0..4 {
        log.sync().expect("a sync succeeds");
        log = fixture.reopen(log);
        model.assert_equals(&log);
        let next = Write {
            truncate_from: Some(log.last().index),
            ..write(log.last().index.0, &[4 + round, 4 + round, 4 + round])
        };
        log.append(&mut vec![next.clone()]).expect("an append succeeds");
        model.write(&next);
        model.assert_equals(&log);
    }
}

fn forgets_what_was_compacted<F: Fixture>(fixture: &mut F) {
    let (mut log, mut model) = append(fixture, &[write(1, &[1, 1, 2]), write(4, &[2, 3, 3])]);
    for through in [2, 4, 6] {
        if !fixture.compact(&mut log, Index(through)) {
            return;
        }
        model.compact(Index(through));
        model.assert_equals(&log);
        log.sync().expect("a sync succeeds");
        log = fixture.reopen(log);
        model.assert_equals(&log);
    }
    let next = write(7, &[3, 4]);
    log.append(&mut vec![next.clone()]).expect("an append succeeds");
    model.write(&next);
    model.assert_equals(&log);
}

fn stops_after_a_failure<F: Fixture>(fixture: &mut F) {
    let (mut log, model) = append(fixture, &[write(1, &[1])]);
    log.sync().expect("a sync succeeds");
    if !fixture.break_medium(&mut log) {
        return;
    }
    let failed = log.append(&mut vec![write(2, &[1])]).is_err() || log.sync().is_err();
    assert!(failed, "a failure of the medium is reported");
    for _ in 0..3 {
        assert!(log.append(&mut vec![write(log.last().index.0 + 1, &[1])]).is_err(), "a stopped log takes nothing");
        assert!(log.append(&mut Vec::new()).is_err(), "a stopped log takes nothing, not even nothing");
        assert!(log.sync().is_err(), "a failed sync is never retried");
    }
    let log = fixture.reopen(log);
    let recovered = Model::of(&log).expect("the log reads back");
    assert_eq!(recovered.entries[..1], model.entries[..1], "what was synced before is there");
}
