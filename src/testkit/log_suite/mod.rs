//! What every [`RaftLog`] must do: the durability contract of [`crate::log`], as checks that any
//! implementation can run.
//!
//! Implement [`Fixture`] for a log and call [`run`]. For random sequences with shrinking, generate
//! [`Op`]s with a property-testing crate and give them to [`check_sequence`]; [`run`] itself tries
//! a few hundred seeded ones.

mod compaction;
mod memberships;
mod model;
mod sequence;

pub use model::Model;
pub use sequence::{Cut, Op, Random, Shape, writes_of};

use crate::action::Write;
use crate::log::{LogView, Memberships, RaftLog, Read};
use crate::membership::Membership;
use crate::types::{Entries, Entry, EntryId, HardState, Index, NodeId, Payload, Term};
use bytes::Bytes;
use std::sync::Arc;
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

    /// Makes the next write or sync of this log fail, once; false if its medium cannot fail.
    fn break_medium(&mut self, _log: &mut Self::Log) -> bool {
        false
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
    compaction::run(fixture);
    memberships::run(fixture);
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
                append_each_way(&mut log, writes_of(shapes, &mut model));
            }
            Op::Sync => log.sync().expect("a sync succeeds"),
            Op::Reopen => {
                log.sync().expect("a sync succeeds");
                log = fixture.reopen(log);
            }
        }
        model.assert_equals(&log);
    }
}

/// Appends the writes: several as a list, one alone as the one that it is.
fn append_each_way<L: RaftLog>(log: &mut L, mut writes: Vec<Write>) {
    if let [write] = &mut writes[..] {
        let (write, mut buffer) = (core::mem::take(write), Vec::new());
        log.append_one(write, &mut buffer).expect("an append succeeds");
        return assert!(buffer.is_empty(), "an append leaves its buffer empty");
    }
    log.append(&mut writes).expect("an append succeeds");
    assert!(writes.is_empty(), "an append takes the writes");
}

/// A configuration of this number: of two numbers they are two, of all sizes and shapes.
fn membership(seed: u64) -> Arc<Membership> {
    let voters = (0..=seed % 5).map(|voter| seed.wrapping_mul(31).wrapping_add(voter));
    let stable = Membership::new(voters).with_voter(seed);
    let learner = seed.wrapping_add(1 << 20);
    Arc::new(match seed % 7 {
        0 => stable.with_learner(learner).with_address(learner, std::format!("address of {learner}")),
        1 => stable.joint_from(&Membership::new([1, 2])),
        2 => stable.with_promotion(learner).with_address(seed, "x".repeat(200)),
        _ => stable,
    })
}

/// Writes, compares, and compares once more after reopening.
fn check<F: Fixture>(fixture: &mut F, mut log: F::Log, model: &mut Model, writes: &[Write]) -> F::Log {
    append_each_way(&mut log, writes.to_vec());
    writes.iter().for_each(|write| model.write(write));
    model.assert_equals(&log);
    log.sync().expect("a sync succeeds");
    model.assert_equals(&log);
    let log = fixture.reopen(log);
    model.assert_equals(&log);
    log
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
    assert_eq!(log.memberships(), Memberships::default(), "a new log knows no configuration, not even an empty one");
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
