//! Compactions of the durable log: what they leave on the disk, what a crash in the middle of one leaves, and checkpoints
//! that contradict what stands before them.

#![cfg(all(feature = "persistence", feature = "testkit"))]

mod log_support;

use log_support::{
    BASE, Forgery, LAST, RUNS, Run, SNAPSHOT, TERM, compaction, open, put, segments, without_membership, write,
};
use raft_io::action::{Compaction, Write};
use raft_io::log::wal::{Directory, LockGuard, RawFile};
use raft_io::log::{LogView, RaftLog, Read, SharedLog, WalLog, WalOptions};
use raft_io::testkit::disk::FaultyDisk;
use raft_io::testkit::log_suite::{Model, Random};
use raft_io::{ClusterId, EntryId, HardState, Index, Membership, NodeId, Term};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Waiting longer than this is a broken test.
const PATIENCE: Duration = Duration::from_secs(20);

/// A log from its beginning on, and its last compaction: (4, 8] stay.
fn whole() -> Forgery {
    let mut run = Run::new();
    run.synced(Write {
        hard_state: Some(HardState { term: Term(2), vote: None }),
        ..write(1, &[1, 1, 1, 2, 2, 2], 40)
    });
    run.synced(compaction((5, 2), (2, 1)));
    run.synced(write(7, &[3, 3], 40));
    Forgery::new(run, compaction((6, 2), (4, 2)))
}

/// A log whose beginning is purged with its last record: only that has the state.
fn purged() -> Forgery {
    let mut run = Run::new();
    for first in [1, 4, 7] {
        run.synced(write(first, &[1, 1, 2], 1000));
    }
    let before = segments(&run.disk.live_image());
    let forgery = Forgery::new(run, compaction((8, 1), (7, 1)));
    // Its file is a spare until the log is opened again.
    let disk = FaultyDisk::from_image(&forgery.image);
    drop(open(&disk).expect("a log opens"));
    assert!(segments(&disk.live_image()).len() < before.len(), "the first segment is gone");
    forgery
}

#[test]
fn a_checkpoint_that_contradicts_what_stands_before_it_is_refused() {
    let forgery = whole();
    forgery.assert_opens(|_| {}, &forgery.model);
    forgery.assert_refused(|operations| operations[TERM] += 1, "contradicts the hard state");
    forgery.assert_refused(put(SNAPSHOT, 3, 2), "its snapshot does not cover");
    forgery.assert_refused(put(SNAPSHOT, 4, 2), "an older snapshot");
    forgery.assert_refused(put(BASE, 1, 1), "reaches behind the first entry");
    forgery.assert_refused(put(BASE, 3, 1), "contradicts the terms");
    forgery.assert_refused(put(BASE, 5, 2), "contradicts the terms");
    // Of another term: then nothing would be left.
    forgery.assert_refused(put(BASE, 4, 1), "contradicts the entries");
    forgery.assert_refused(put(LAST, 9, 3), "contradicts the entries");
    forgery.assert_refused(put(LAST, 8, 2), "contradicts the entries");
    forgery.assert_refused(put(RUNS, 5, 1), "contradicts the terms");
    forgery.assert_refused(put(RUNS + 16, 8, 3), "contradicts the terms");
}

/// Nothing stands before it any more but the entries that stayed.
#[test]
fn a_first_checkpoint_that_contradicts_the_entries_is_refused() {
    let forgery = purged();
    forgery.assert_opens(|_| {}, &forgery.model);
    forgery.assert_refused(put(SNAPSHOT, 6, 2), "its snapshot does not cover");
    forgery.assert_refused(put(LAST, 10, 2), "contradicts the entries");
    forgery.assert_refused(put(RUNS, 8, 2), "contradicts the terms");
    // Entries that it says are there, and that no segment has.
    forgery.assert_refused(put(BASE, 2, 1), "holds no checkpoint");
}

/// 0.4.0 knew no snapshots: what it forgot must be covered by one. Nor did it know configurations.
#[test]
fn checkpoints_of_0_4_0_are_read() {
    let older = |operations: &mut Vec<u8>| {
        without_membership(operations);
        operations[0] = 5;
        operations.drain(SNAPSHOT..BASE);
    };
    let purged = purged();
    purged.assert_opens(older, &Model { snapshot: purged.model.base, at_snapshot: None, ..purged.model.clone() });
    let mut run = Run::new();
    run.synced(write(1, &[1, 1, 2], 40));
    let whole = Forgery::new(run, compaction((2, 1), (2, 1)));
    whole.assert_opens(older, &Model { at_snapshot: None, ..whole.model.clone() });
}

/// After the base that it begins anew at, no older record counts, also not those with entries behind the base, whether
/// their segments are still there or not.
#[test]
fn a_log_that_began_anew_needs_nothing_older() {
    for rounds in [1, 4] {
        let mut run = Run::new();
        for round in 0..rounds {
            run.synced(write(1 + 3 * round, &[1, 1, 2], 500));
        }
        let last = run.log.last();
        for base in [(last.index.0 - 1, 3), (last.index.0 + 7, 4)] {
            run.synced(Write { entries: write(base.0 + 1, &[base.1], 30).entries, ..compaction(base, base) });
            run.model.assert_equals(&run.log);
            run.model.assert_equals(&run.recovered().expect("a log opens"));
        }
        // The term of the base is known though no entry has it: an append behind it can be compared.
        let recovered = run.recovered().expect("a log opens");
        assert_eq!(recovered.term(recovered.base().index), Some(Term(4)));
    }
}

/// What a checkpoint counts stays until the next one, even if the same write truncates it: a log whose first checkpoint
/// counts entries that are gone knows no state.
#[test]
fn entries_that_a_checkpoint_counts_outlive_their_truncation() {
    for (same_write, purge_fails) in [(true, false), (false, false), (true, true), (false, true)] {
        let mut run = Run::new();
        for round in 0..4 {
            run.synced(write(1 + 3 * round, &[1, 1, 1], 1000));
        }
        // All that it counts, from the first entry of a record on.
        let replace = Write { truncate_from: Some(Index(4)), ..write(4, &[2, 2], 30) };
        let forget = compaction((3, 1), (3, 1));
        let mut writes =
            if same_write { vec![Write { compaction: forget.compaction, ..replace }] } else { vec![forget, replace] };
        writes.iter().for_each(|write| run.model.write(write));
        run.log.append(&mut writes).expect("an append succeeds");
        if purge_fails {
            // The record becomes durable, the new manifest does not, and the one before stays.
            run.disk.fail_sync_after(1);
        }
        run.log.sync().expect("a purge that fails costs space and nothing else");
        run.model.assert_equals(&run.recovered().expect("a log opens"));
        // What opening purges, or left alone, is opened again.
        let disk = FaultyDisk::from_image(&run.disk.durable_image());
        (0..3).for_each(|_| run.model.assert_equals(&open(&disk).expect("a log opens")));
        if purge_fails {
            continue;
        }
        run.synced(compaction((5, 2), (5, 2)));
        run.model.assert_equals(&run.recovered().expect("a log opens"));
        assert!(segments(&run.disk.durable_image()).len() <= 6, "the segments are gone, or spares");
    }
}

/// A crash between a durable checkpoint and the purge leaves segments that the opening removes.
#[test]
fn a_purge_that_a_crash_prevented_is_made_up_for() {
    let mut prevented = 0;
    for failing in 0..4 {
        let mut run = Run::new();
        for round in 0..5 {
            run.synced(write(1 + 3 * round, &[1, 1, 1], 1000));
        }
        let before = segments(&run.disk.live_image()).len();
        run.model.write(&compaction((15, 1), (14, 1)));
        run.log.append(&mut vec![compaction((15, 1), (14, 1))]).expect("an append succeeds");
        run.disk.fail_sync_after(1 + failing);
        let failed = run.log.sync().is_err();
        drop(run.log);
        run.disk.repair();
        let disk = FaultyDisk::from_image(&run.disk.durable_image());
        let left = segments(&disk.live_image()).len();
        prevented += usize::from(failed && left == before);
        run.model.assert_equals(&open(&disk).expect("a log opens"));
        let now = segments(&disk.live_image()).len();
        assert!(now <= 2, "{before} segments, {left} after the crash, and {now} after opening");
    }
    assert!(prevented > 0, "no purge was prevented");
}

/// Snapshots and bases only grow, and a snapshot covers the base: a caller that says otherwise is stopped before anything
/// is written.
#[test]
fn a_compaction_that_takes_something_back_is_refused() {
    for wrong in [compaction((4, 1), (1, 1)), compaction((3, 1), (3, 1)), compaction((4, 1), (5, 1))] {
        let mut run = Run::new();
        run.synced(write(1, &[1, 1, 1, 1, 1], 10));
        run.synced(compaction((4, 1), (2, 1)));
        let before = run.disk.live_image();
        let appended = catch_unwind(AssertUnwindSafe(|| run.log.append(&mut vec![wrong.clone()])));
        assert!(appended.is_err(), "{wrong:?} was taken");
        assert_eq!(run.disk.live_image(), before, "something was written");
    }
}

/// What is forgotten leaves the disk: a log that is compacted regularly stays as large as what it holds.
#[test]
fn a_log_that_is_compacted_regularly_does_not_grow() {
    let mut run = Run::new();
    let mut random = Random(3);
    let mut most = 0;
    for round in 1..400 {
        let last = run.log.last();
        let kept = run.log.base().index.0.max(last.index.0.saturating_sub(10));
        let compaction = match random.draw() % 8 {
            0 => compaction((last.index.0 + 3, round), (last.index.0 + 3, round)).compaction,
            1..6 => {
                let base = EntryId { index: Index(kept), term: run.log.term(Index(kept)).expect("it is held") };
                let membership = Arc::new(Membership::new([round]));
                Some(Compaction { snapshot: last.max(run.log.snapshot()), base, membership })
            }
            _ => None,
        };
        let first = compaction.as_ref().map_or(last.index, |compaction| compaction.base.index.max(last.index)).next();
        run.synced(Write { compaction, ..write(first.0, &[round, round, round, round], 200) });
        most = most.max(segments(&run.disk.live_image()).len());
        if round % 50 == 0 {
            drop(run.log);
            run.log = open(&run.disk).expect("a log opens");
            run.model.assert_equals(&run.log);
            let left = segments(&run.disk.live_image()).len();
            assert!(left <= 7, "{left} segments of 4 KiB for {} entries", run.model.entries.len());
        }
    }
    assert!(most <= 11, "{most} segments, of which four may be spares");
}

/// A directory in which one opening of a file waits, when it is asked to, unless its writer opens it.
struct Gated {
    writer: std::thread::ThreadId,
    disk: FaultyDisk,
    /// Says that the opening waits, and hears that it may go on.
    gate: Mutex<Option<(Sender<()>, Receiver<()>)>>,
}

impl Directory for Gated {
    fn path(&self) -> &Path {
        self.disk.path()
    }

    fn names(&self) -> io::Result<Vec<String>> {
        self.disk.names()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn RawFile>> {
        self.disk.create(name)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn RawFile>> {
        let writes = std::thread::current().id() == self.writer;
        if let Some((waits, goes_on)) = (!writes).then(|| self.gate.lock().expect("no panic").take()).flatten() {
            waits.send(()).expect("the test listens");
            goes_on.recv_timeout(PATIENCE).expect("the test goes on");
        }
        self.disk.open(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync(&self) -> io::Result<()> {
        Directory::sync(&self.disk)
    }

    fn try_lock(&self, name: &str) -> io::Result<Option<LockGuard>> {
        self.disk.try_lock(name)
    }
}

/// The file that a cold read is about to open is purged, and other entries have the same indexes now: it looks again.
#[test]
fn a_read_that_a_purge_overtakes_looks_again() {
    for (truncates, expected) in [(false, EntryId::new(4, 5)), (true, EntryId::new(4, 2))] {
        let writer = std::thread::current().id();
        let directory = Arc::new(Gated { writer, disk: FaultyDisk::new(), gate: Mutex::default() });
        let options = WalOptions::new(ClusterId(7), NodeId(1)).segment_bytes(4096).cache_bytes(300);
        let mut log = WalLog::open_in(Arc::clone(&directory) as Arc<dyn Directory>, options).expect("a new log opens");
        // Segments larger than usual do not become spares.
        for first in [1, 4, 7] {
            log.append(&mut vec![write(first, &[1; 3], 2000)]).expect("an append succeeds");
            log.sync().expect("a sync succeeds");
        }
        let reader = log.reader();
        assert_eq!(reader.read(Index(4), Index(5), usize::MAX), Read::Cold);
        let ((waits, waiting), (go_on, goes_on)) = (channel(), channel());
        *directory.gate.lock().expect("no panic") = Some((waits, goes_on));
        let reading = std::thread::spawn(move || WalLog::read_cold(&reader, Index(4), Index(5), usize::MAX));
        waiting.recv_timeout(PATIENCE).expect("the reader opens a file");
        let mut overtaking = if truncates {
            vec![Write { truncate_from: Some(Index(4)), ..write(4, &[2, 2], 10) }, compaction((3, 1), (3, 1))]
        } else {
            vec![Write { entries: write(3, &[5, 5, 5], 10).entries, ..compaction((2, 5), (2, 5)) }]
        };
        log.append(&mut overtaking).expect("an append succeeds");
        log.sync().expect("a sync succeeds");
        go_on.send(()).expect("the reader waits");
        match reading.join().expect("the reader ends") {
            Ok(Read::Entries(found)) => assert_eq!(found[0].id, expected),
            other => panic!("{other:?}"),
        }
    }
}

/// Cold reads beside a writer that forgets, replaces and begins anew, and whose files are purged and used again: whoever
/// reads gets entries that were there, or learns that they are gone.
#[test]
fn readers_beside_a_compacting_writer_never_see_damage() {
    let mut run = Run::new();
    let done = Arc::new(AtomicBool::new(false));
    let readers = [1, 2].map(|seed| {
        let (reader, done) = (run.log.reader(), Arc::clone(&done));
        std::thread::spawn(move || {
            let (mut random, mut cold) = (Random(seed), 0);
            while !done.load(Ordering::Relaxed) {
                let (base, last) = (reader.base().index, reader.last().index);
                let index = Index(base.0 + random.draw() % (last.0.saturating_sub(base.0) + 2));
                cold += u64::from(reader.read(index, index.next(), usize::MAX) == Read::Cold);
                match WalLog::read_cold(&reader, index, index.next(), usize::MAX).expect("nothing is damaged") {
                    Read::Entries(found) => assert!(found.iter().all(|entry| entry.id.index == index)),
                    Read::Compacted => {}
                    Read::Cold => panic!("a blocking read is never cold"),
                }
            }
            cold
        })
    });
    let mut random = Random(9);
    for round in 1..1500 {
        let (base, last) = (run.log.base(), run.log.last());
        let mut next = write(last.index.0 + 1, &[round, round], 700);
        match random.draw() % 12 {
            0..3 => next.compaction = compaction((last.index.0, last.term.0), (last.index.0, last.term.0)).compaction,
            3 if last.index > base.index => {
                // Begins anew inside of what it holds.
                let anew = (base.index.0 + 1, round);
                next = Write { entries: write(anew.0 + 1, &[round; 3], 700).entries, ..compaction(anew, anew) };
            }
            4 if last.index > base.index => {
                next = write(base.index.0 + 1, &[round; 3], 700);
                next.truncate_from = Some(base.index.next());
            }
            _ => {}
        }
        run.log.append(&mut vec![next]).expect("an append succeeds");
        run.log.sync().expect("a sync succeeds");
    }
    done.store(true, Ordering::Relaxed);
    let cold: u64 = readers.map(|reader| reader.join().expect("a reader ends")).iter().sum();
    assert!(cold > 100, "only {cold} reads went to the disk");
}
