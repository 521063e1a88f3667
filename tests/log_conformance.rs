//! Every log of this crate keeps the durability contract, by the suite that users can run on
//! theirs.

#![cfg(all(feature = "persistence", feature = "testkit"))]

use proptest::prelude::*;
use raft_io::action::{Compaction, Write};
use raft_io::log::{Locked, LogView, Memberships, RaftLog, Read, WalLog, WalOptions, wal::OsDirectory};
use raft_io::testkit::disk::FaultyDisk;
use raft_io::testkit::log_suite::{self, Cut, Fixture, Op, Shape};
use raft_io::{ClusterId, EntryId, HardState, Index, MemoryLog, NodeId, Term};
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

struct Memory;

impl Fixture for Memory {
    type Log = MemoryLog;

    fn create(&mut self) -> MemoryLog {
        MemoryLog::new()
    }

    fn reopen(&mut self, log: MemoryLog) -> MemoryLog {
        log
    }
}

struct LockedMemory;

impl Fixture for LockedMemory {
    type Log = Locked<MemoryLog>;

    fn create(&mut self) -> Locked<MemoryLog> {
        Locked::new(MemoryLog::new())
    }

    fn reopen(&mut self, log: Locked<MemoryLog>) -> Locked<MemoryLog> {
        log
    }
}

/// Small segments and a small cache, so that short sequences roll, purge and read cold.
fn small() -> WalOptions {
    WalOptions::new(ClusterId(7), NodeId(1)).segment_bytes(4096).cache_bytes(300)
}

#[derive(Default)]
struct WalOnFaultyDisk {
    disk: FaultyDisk,
}

impl Fixture for WalOnFaultyDisk {
    type Log = WalLog;

    fn create(&mut self) -> WalLog {
        self.disk = FaultyDisk::new();
        self.disk.shorten_reads(700);
        WalLog::open_in(Arc::new(self.disk.clone()), small()).expect("a new log opens")
    }

    fn reopen(&mut self, log: WalLog) -> WalLog {
        drop(log);
        WalLog::open_in(Arc::new(self.disk.clone()), small()).expect("a closed log opens")
    }

    fn break_medium(&mut self, _log: &mut WalLog) -> bool {
        self.disk.fail_sync_after(0);
        true
    }
}

/// The same with a disk that is full instead of failing to sync.
#[derive(Default)]
struct WalOnFullDisk(WalOnFaultyDisk);

impl Fixture for WalOnFullDisk {
    type Log = WalLog;

    fn create(&mut self) -> WalLog {
        self.0.create()
    }

    fn reopen(&mut self, log: WalLog) -> WalLog {
        self.0.disk.repair();
        self.0.reopen(log)
    }

    fn break_medium(&mut self, _log: &mut WalLog) -> bool {
        self.0.disk.fill_after(20);
        true
    }
}

struct WalOnRealDisk {
    place: tempfile::TempDir,
    created: u32,
}

impl WalOnRealDisk {
    fn open(&self) -> WalLog {
        let directory = OsDirectory::new(self.place.path().join(self.created.to_string())).expect("a directory");
        WalLog::open_in(Arc::new(directory), small()).expect("a log opens")
    }
}

impl Fixture for WalOnRealDisk {
    type Log = WalLog;

    fn create(&mut self) -> WalLog {
        self.created += 1;
        self.open()
    }

    fn reopen(&mut self, log: WalLog) -> WalLog {
        log.close().expect("a log closes");
        self.open()
    }
}

#[test]
fn memory_log_keeps_the_contract() {
    log_suite::run(&mut Memory);
}

#[test]
fn locked_memory_log_keeps_the_contract() {
    log_suite::run(&mut LockedMemory);
}

#[test]
fn wal_log_keeps_the_contract_on_a_failing_disk() {
    log_suite::run(&mut WalOnFaultyDisk::default());
    log_suite::run(&mut WalOnFullDisk::default());
}

#[test]
fn wal_log_keeps_the_contract_on_a_real_disk() {
    let mut fixture = WalOnRealDisk { place: tempfile::tempdir().expect("a place for the log"), created: 0 };
    for seed in 0..3 {
        let mut random = log_suite::Random(seed);
        let ops: Vec<Op> = (0..40).map(|_| Op::random(|| random.draw())).collect();
        log_suite::check_sequence(&mut fixture, &ops);
    }
}

fn shapes() -> impl Strategy<Value = Shape> {
    let sizes = prop_oneof![8 => 0u16..200, 1 => 3000u16..6000];
    let cuts = (prop::bool::weighted(0.7), any::<u8>(), 0u8..4, any::<u8>())
        .prop_map(|(held, base, ahead, membership)| Cut { held, base, ahead, membership });
    let cuts = prop::option::weighted(0.15, cuts);
    let truncations = prop_oneof![3 => Just(0u8), 1 => any::<u8>()];
    let memberships = prop_oneof![3 => Just(0u8), 1 => any::<u8>()];
    (any::<bool>(), cuts, truncations, 0u8..8, sizes, prop::bool::weighted(0.2), memberships).prop_map(
        |(hard_state, compaction, truncate, entries, bytes, new_term, memberships)| Shape {
            hard_state,
            compaction,
            truncate,
            entries,
            bytes,
            new_term,
            memberships,
        },
    )
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        6 => prop::collection::vec(shapes(), 0..4).prop_map(Op::Append),
        3 => Just(Op::Sync),
        1 => Just(Op::Reopen),
    ];
    prop::collection::vec(op, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn wal_log_equals_the_model_for_any_sequence(ops in ops()) {
        log_suite::check_sequence(&mut WalOnFaultyDisk::default(), &ops);
    }

    #[test]
    fn memory_log_equals_the_model_for_any_sequence(ops in ops()) {
        log_suite::check_sequence(&mut Memory, &ops);
    }
}

/// What a log that is broken does to its configurations.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// Nothing: the others break what this one does right.
    None,
    /// The one of the last compaction is gone when the log is opened again.
    ForgetsTheSnapshots,
    /// So are those of entries.
    ForgetsTheEntries,
    /// What a compaction says is not noted.
    IgnoresCompactions,
    /// The empty one counts as none.
    ForgetsAnEmptyOne,
    /// A compaction whose snapshot does not grow is no news.
    IgnoresTheBootstrapRecord,
    /// They stay when their entries go.
    KeepsTheTruncated,
    /// They stay when the log begins anew.
    KeepsTheReplaced,
    /// Entries between base and snapshot count.
    CountsTheTrail,
}

/// A log in memory that tells what a broken one would.
struct Broken {
    log: MemoryLog,
    fault: Fault,
    told: Memberships,
}

impl Broken {
    fn note(&mut self, write: &Write) {
        let told = &mut self.told;
        if let Some(Compaction { snapshot, base, membership }) = &write.compaction {
            let held = self.log.term(base.index) == Some(base.term);
            let is_news = *snapshot > self.log.snapshot() || self.fault != Fault::IgnoresTheBootstrapRecord;
            if self.fault != Fault::IgnoresCompactions && is_news {
                told.at_snapshot = Some(Arc::clone(membership));
            }
            if self.fault == Fault::ForgetsAnEmptyOne && membership.is_empty() {
                told.at_snapshot = None;
            }
            let through = if self.fault == Fault::CountsTheTrail { base.index } else { snapshot.index };
            told.later.retain(|(index, _)| *index > through && (held || self.fault == Fault::KeepsTheReplaced));
        }
        if let Some(first) = write.truncate_from.filter(|_| self.fault != Fault::KeepsTheTruncated) {
            told.truncate_from(first);
        }
        let snapshot = write.compaction.as_ref().map_or(self.log.snapshot(), |compaction| compaction.snapshot);
        told.extend(if self.fault == Fault::CountsTheTrail { Index::ZERO } else { snapshot.index }, &write.entries);
    }
}

impl LogView for Broken {
    fn hard_state(&self) -> HardState {
        self.log.hard_state()
    }

    fn base(&self) -> EntryId {
        self.log.base()
    }

    fn snapshot(&self) -> EntryId {
        self.log.snapshot()
    }

    fn memberships(&self) -> Memberships {
        self.told.clone()
    }

    fn last(&self) -> EntryId {
        self.log.last()
    }

    fn term(&self, index: Index) -> Option<Term> {
        self.log.term(index)
    }

    fn read(&self, first: Index, end: Index, bytes_max: usize) -> Read {
        self.log.read(first, end, bytes_max)
    }
}

impl RaftLog for Broken {
    type Error = Infallible;

    fn append(&mut self, writes: &mut Vec<Write>) -> Result<(), Infallible> {
        for write in writes.drain(..) {
            self.note(&write);
            self.log.append(&mut vec![write])?;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Infallible> {
        self.log.sync()
    }

    fn read_blocking(&self, first: Index, end: Index, bytes_max: usize) -> Result<Read, Infallible> {
        self.log.read_blocking(first, end, bytes_max)
    }
}

impl Fixture for Fault {
    type Log = Broken;

    fn create(&mut self) -> Broken {
        Broken { log: MemoryLog::new(), fault: *self, told: Memberships::default() }
    }

    fn reopen(&mut self, mut log: Broken) -> Broken {
        match self {
            Self::ForgetsTheSnapshots => log.told.at_snapshot = None,
            Self::ForgetsTheEntries => log.told.later.clear(),
            _ => {}
        }
        log
    }
}

/// The suite finds each way to lose a configuration, or to keep one too long, and so do random sequences alone.
#[test]
fn a_log_with_wrong_configurations_fails_the_suite() {
    let random = |fault: Fault| {
        for seed in 0..200 {
            let mut random = log_suite::Random(seed);
            let ops: Vec<Op> = (0..30).map(|_| Op::random(|| random.draw())).collect();
            log_suite::check_sequence(&mut fault.clone(), &ops);
        }
    };
    log_suite::run(&mut Fault::None.clone());
    for fault in [
        Fault::ForgetsTheSnapshots,
        Fault::ForgetsTheEntries,
        Fault::IgnoresCompactions,
        Fault::ForgetsAnEmptyOne,
        Fault::IgnoresTheBootstrapRecord,
        Fault::KeepsTheTruncated,
        Fault::KeepsTheReplaced,
        Fault::CountsTheTrail,
    ] {
        let passes = |run: &dyn Fn()| catch_unwind(AssertUnwindSafe(run)).is_ok();
        assert!(!passes(&|| log_suite::run(&mut fault.clone())), "{fault:?} passes the suite");
        assert!(!passes(&|| random(fault)), "{fault:?} passes random sequences");
    }
}
