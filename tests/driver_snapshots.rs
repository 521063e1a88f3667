//! Snapshots of the driver's own state machine: when they are taken, what they cost, how a node starts
//! from one.

#![cfg(feature = "std")]

mod driver_support;

use bytes::Bytes;
use driver_support::snapshots::{FlakyStore, Hooks, Ledger, Member, propose};
use driver_support::{FaultyLog, Network, PATIENCE, Recorder, block_on, config};
use raft_io::driver::{DriverOptions, Raft, Snapshots, StartError, TakeSnapshotError};
use raft_io::log::Locked;
use raft_io::snapshot::{SnapshotError, SnapshotStore};
use raft_io::{Index, LogView, MemoryLog, RoleKind};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Snapshots only when they are asked for, and no trail.
fn manual() -> DriverOptions {
    let mut options = DriverOptions::default();
    (options.snapshot_entries, options.snapshot_bytes, options.snapshot_trail_entries) = (usize::MAX, u64::MAX, 0);
    options
}

#[test]
fn so_many_entries_make_a_snapshot_and_the_log_shrinks() {
    let mut options = manual();
    (options.snapshot_entries, options.snapshot_trail_entries) = (10, 4);
    let mut node = Member::alone(&options);
    node.lead();
    for _ in 0..100 {
        propose(node.raft(), "x");
    }
    // With the no-op there are 101 entries: after one of these ten none is due any more.
    let status = node.wait(|status| status.snapshot.last.is_some_and(|last| last.index >= Index(92)));
    let last = status.snapshot.last.unwrap();
    // The log keeps the trail and no more.
    assert!(status.first_index.0 > last.index.0 - 4, "{status:?}");
    assert!(node.log.base().index >= Index(88) && node.log.snapshot() == last);
    assert!(status.counters.snapshots_taken >= 2, "{status:?}");
    node.stop();
    assert_eq!(node.store.inner.newest().unwrap().last, node.log.snapshot());
}

#[test]
fn so_many_bytes_make_a_snapshot() {
    let mut options = manual();
    (options.snapshot_bytes, options.snapshot_trail_entries) = (10_000, 1_000);
    options.snapshot_trail_bytes = 2_000;
    let mut node = Member::alone(&options);
    node.lead();
    for _ in 0..100 {
        propose(node.raft(), vec![7; 1_000]);
    }
    let status = node.wait(|status| status.snapshot.last.is_some_and(|last| last.index >= Index(80)));
    // Two entries at most: the trail is bounded by bytes, too.
    assert!(status.first_index.0 + 2 > status.snapshot.last.unwrap().index.0, "{status:?}");
}

#[test]
fn a_restart_goes_on_from_the_snapshot_and_the_log_behind_it() {
    let mut node = Member::alone(&manual());
    node.lead();
    for number in 0..10 {
        propose(node.raft(), format!("{number}"));
    }
    let info = node.raft().snapshot().wait(PATIENCE).unwrap();
    assert_eq!((info.last, info.last.index), (node.log.snapshot(), Index(11)));
    for number in 10..15 {
        propose(node.raft(), format!("{number}"));
    }
    let before = node.commands();
    node.stop();
    node.hooks.applied.store(0, Ordering::SeqCst);
    let status = node.lead().status();
    assert_eq!((status.snapshot.last, status.snapshot.bytes), (Some(info.last), Some(info.bytes)));
    assert_eq!((node.commands(), before.len()), (before, 15));
    let seen = |counter: &std::sync::atomic::AtomicUsize| counter.load(Ordering::SeqCst);
    assert_eq!((seen(&node.hooks.restored), seen(&node.hooks.applied)), (1, 5));
    assert_eq!(propose(node.raft(), "on").response, 16);
    assert_eq!(node.raft().read(|ledger| ledger.commands().len()).wait(PATIENCE).unwrap(), 16);
}

#[test]
fn commands_are_applied_while_an_image_is_written() {
    let mut node = Member::alone(&manual());
    node.lead();
    propose(node.raft(), "before");
    node.hooks.writing.shut();
    let first = node.raft().snapshot();
    node.hooks.writing.wait_for_visitor();
    // The image stands still; the machine does not.
    for number in 2..=20 {
        assert_eq!(propose(node.raft(), "meanwhile").response, number);
    }
    assert_eq!(node.raft().status().snapshot.taking.unwrap().index, Index(2));
    let joins = node.raft().snapshot();
    assert_eq!(node.raft().snapshot().wait(Duration::ZERO), Err(TakeSnapshotError::DeadlineExceeded));
    node.hooks.writing.open();
    let info = first.wait(PATIENCE).unwrap();
    // As it was when it was asked for.
    assert_eq!((info.last.index, info.bytes), (Index(2), 4 + 6));
    // The same, or the next if that request came a moment too late for this.
    let joined = block_on(joins).0.unwrap();
    assert!(joined.last == info.last || joined.last.index == Index(21), "{joined:?}");
    // What is there is found.
    let present = node.raft().snapshot().wait(PATIENCE).unwrap();
    assert_eq!(present.last.index, Index(21));
    let asked = node.hooks.asked.load(Ordering::SeqCst);
    assert_eq!(node.raft().snapshot().wait(PATIENCE).unwrap(), present);
    assert_eq!(node.hooks.asked.load(Ordering::SeqCst), asked);
}

#[test]
fn a_snapshot_that_is_due_while_one_is_written_is_taken_after_it() {
    let mut options = manual();
    options.snapshot_entries = 5;
    let mut node = Member::alone(&options);
    node.hooks.writing.shut();
    node.lead();
    for _ in 0..20 {
        propose(node.raft(), "x");
    }
    node.hooks.writing.wait_for_visitor();
    node.hooks.writing.open();
    // Nothing is proposed any more, and still it comes.
    node.wait(|status| status.snapshot.last.is_some_and(|last| last.index == Index(21)));
}

#[test]
fn what_fails_costs_one_snapshot() {
    type Fault = fn(&Member) -> &std::sync::atomic::AtomicBool;
    let faults: [(Fault, &str); 4] = [
        (|node| &node.hooks.image_fails, "the image fails"),
        (|node| &node.hooks.image_panics, "the image panics"),
        (|node| &node.store.faults.begin_fails, "the disk is full"),
        (|node| &node.store.faults.finish_fails, "the disk is full"),
    ];
    let mut node = Member::alone(&manual());
    node.lead();
    propose(node.raft(), "a");
    let kept = node.raft().snapshot().wait(PATIENCE).unwrap();
    for (round, (fault, reason)) in faults.into_iter().enumerate() {
        propose(node.raft(), "b");
        fault(&node).store(true, Ordering::SeqCst);
        let error = node.raft().snapshot().wait(PATIENCE).unwrap_err();
        assert!(matches!(&error, TakeSnapshotError::Failed { reason: said } if said.contains(reason)), "{error}");
        fault(&node).store(false, Ordering::SeqCst);
        let status = node.wait(|status| status.snapshot.taking.is_none());
        assert_eq!((status.fatal, status.snapshot.last), (None, Some(kept.last)));
        assert_eq!(status.counters.snapshots_failed, round as u64 + 1);
        assert!(status.snapshot.last_error.unwrap().contains(reason));
        assert_eq!((node.log.snapshot(), node.store.lasts()), (kept.last, vec![kept.last]));
    }
    let next = node.raft().snapshot().wait(PATIENCE).unwrap();
    assert_eq!(next.last.index, Index(6));
}

#[test]
fn a_machine_without_snapshots_is_asked_at_each_trigger_and_no_more() {
    let mut options = manual();
    options.snapshot_entries = 10;
    let mut node = Member::alone(&options);
    node.hooks.without.store(true, Ordering::SeqCst);
    node.lead();
    for _ in 0..29 {
        propose(node.raft(), "x");
    }
    let last = node.raft().status().last_index;
    assert_eq!(last, Index(30));
    // The request is answered behind the last trigger.
    assert_eq!(node.raft().snapshot().wait(PATIENCE), Err(TakeSnapshotError::Unsupported));
    assert_eq!(node.hooks.asked.load(Ordering::SeqCst), 3 + 1);
    assert_eq!((node.log.base().index, node.raft().status().snapshot.last), (Index::ZERO, None));
}

#[test]
fn a_request_that_cannot_be_met_is_told_why() {
    let network = Network::default();
    let raft = Raft::start(config(1, &[1]), Locked::<MemoryLog>::default(), network.transport(1), Recorder::default());
    assert_eq!(raft.unwrap().snapshot().wait(PATIENCE), Err(TakeSnapshotError::NoStore));

    // A machine as it comes has no snapshots.
    let mut options = DriverOptions::default();
    options.snapshots = Some(Snapshots::new(FlakyStore::new()));
    let log = Locked::<MemoryLog>::default();
    let raft = Raft::start_with(config(1, &[1, 2]), options.clone(), log, network.transport(1), Recorder::default());
    let raft = raft.unwrap();
    assert_eq!(raft.snapshot().wait(PATIENCE), Err(TakeSnapshotError::NothingApplied));
    raft.shutdown();
    assert_eq!(raft.snapshot().wait(PATIENCE), Err(TakeSnapshotError::Shutdown));
    let raft = driver_support::single(options).0;
    assert_eq!(raft.snapshot().wait(PATIENCE), Err(TakeSnapshotError::Unsupported));
}

#[test]
fn broken_options_are_named() {
    let mut options = DriverOptions::default();
    (options.snapshot_entries, options.snapshot_bytes) = (0, 0);
    options.snapshot_fetch_bytes_per_second = Some(0);
    options.snapshot_chunk_timeout = Duration::ZERO;
    let log = Locked::<MemoryLog>::default();
    let started = Raft::start_with(config(1, &[1]), options, log, Network::default().transport(1), Recorder::default());
    let Err(StartError::Config(error)) = started else { panic!("it started") };
    let fields: Vec<_> = error.problems.iter().map(|problem| problem.field).collect();
    let expected = ["snapshot_entries", "snapshot_bytes", "snapshot_fetch_bytes_per_second", "snapshot_chunk_timeout"];
    assert_eq!(fields, expected);
}

#[test]
fn a_log_without_its_snapshot_does_not_start() {
    let mut node = Member::alone(&manual());
    node.lead();
    propose(node.raft(), "x");
    let last = node.raft().snapshot().wait(PATIENCE).unwrap().last;
    node.stop();
    let start = |store: Option<FlakyStore>, hooks: &Arc<Hooks>| {
        let mut options = manual();
        options.snapshots = store.map(Snapshots::new);
        let road = Network::default().transport(1);
        Raft::start_with(config(1, &[1]), options, node.log.clone(), road, Ledger::new(hooks)).map(drop)
    };
    let error = start(None, &node.hooks).unwrap_err();
    assert!(matches!(error, StartError::NoSnapshotStore { snapshot } if snapshot == last), "{error}");
    assert!(error.to_string().contains("start with the store that this node had"), "{error}");
    let error = start(Some(FlakyStore::new()), &node.hooks).unwrap_err();
    let lost = matches!(error, StartError::SnapshotUnavailable { snapshot, source: SnapshotError::NotFound { .. } }
        if snapshot == last);
    assert!(lost, "{error}");
    node.hooks.restore_fails.store(true, Ordering::SeqCst);
    let error = start(Some(node.store.clone()), &node.hooks).unwrap_err();
    assert!(matches!(error, StartError::RestoreSnapshot { snapshot, .. } if snapshot == last), "{error}");
    assert!(error.to_string().contains("this is not understood"), "{error}");
    // Nothing was changed: with what it needs it starts.
    node.hooks.restore_fails.store(false, Ordering::SeqCst);
    start(Some(node.store.clone()), &node.hooks).unwrap();
}

/// A crash after a snapshot was finished and before the log recorded it.
#[test]
fn a_finished_snapshot_that_the_log_does_not_know_is_used() {
    let mut node = Member::alone(&manual());
    node.lead();
    let last = propose(node.raft(), "x").id;
    let mut writer = node.store.begin(last, Bytes::new()).unwrap();
    writer.write_all(b"\x01\0\0\0x").unwrap();
    let written = writer.finish().unwrap();
    node.stop();
    // It is of no use to a start that does not need it.
    node.hooks.applying.shut();
    node.start();
    node.hooks.applying.wait_for_visitor();
    assert_eq!(node.hooks.restored.load(Ordering::SeqCst), 0);
    node.hooks.applying.open();
    // Taken of the very same entry, it is found complete: a second life has an entry of its own, so
    // the first one's is made the newest again.
    node.wait(|status| status.role == RoleKind::Leader && status.applied_index == Index(3));
    let last = node.log.last();
    // As this node would have written it: it says whose it is.
    let membership = node.log.memberships().later[0].1.encode();
    let mut writer = node.store.begin(last, membership.into()).unwrap();
    writer.write_all(b"\x01\0\0\0x").unwrap();
    let again = writer.finish().unwrap();
    let info = node.raft().snapshot().wait(PATIENCE).unwrap();
    assert_eq!((info.identity, node.log.snapshot()), (again.identity, last));
    assert_ne!(info.identity, written.identity);
    node.stop();
    assert_eq!(node.store.lasts().last(), Some(&last));
    assert_eq!(node.lead().stale_read(Ledger::commands).unwrap(), ["x"]);
}

#[test]
fn what_is_superseded_stays_until_the_log_has_the_next_one_durably() {
    let (log, faults) = FaultyLog::new();
    let (store, hooks) = (FlakyStore::new(), Arc::<Hooks>::default());
    let mut options = manual();
    options.snapshots = Some(Snapshots::new(store.clone()));
    let raft = Raft::start_with(config(1, &[1]), options, log, Network::default().transport(1), Ledger::new(&hooks));
    let raft = raft.unwrap();
    raft.wait_for(PATIENCE, |status| status.role == RoleKind::Leader).unwrap();
    propose(&raft, "a");
    let first = raft.snapshot().wait(PATIENCE).unwrap().last;
    propose(&raft, "b");
    faults.sync_gate.shut();
    let taking = raft.snapshot();
    faults.sync_gate.wait_for_visitor();
    // Finished in the store and appended to the log, and the log may still lose it.
    let status = raft.wait_for(PATIENCE, |status| status.counters.snapshots_taken == 2).unwrap();
    let listed = store.lasts();
    faults.sync_gate.open();
    assert_eq!((status.snapshot.last, listed.len(), listed[0]), (Some(first), 2, first));
    let second = taking.wait(PATIENCE).unwrap().last;
    raft.shutdown();
    // Whether the last deletion came before the shutdown is left open; the newest is there.
    assert_eq!(store.lasts().last(), Some(&second));
}

#[test]
fn a_shutdown_does_not_wait_for_the_end_of_an_image() {
    let mut node = Member::alone(&manual());
    node.lead();
    propose(node.raft(), "x");
    node.hooks.image_endless.store(true, Ordering::SeqCst);
    node.hooks.writing.shut();
    let taking = node.raft().snapshot();
    node.hooks.writing.wait_for_visitor();
    node.hooks.writing.open();
    node.stop();
    assert_eq!(taking.wait(PATIENCE), Err(TakeSnapshotError::Shutdown));
    assert!(node.store.lasts().is_empty());
}

#[test]
fn the_status_tells_of_snapshots() {
    let mut node = Member::alone(&manual());
    node.lead();
    propose(node.raft(), "x");
    let info = node.raft().snapshot().wait(PATIENCE).unwrap();
    let text = node.raft().status().prometheus();
    for line in [
        format!("raft_snapshot_index{{node=\"1\"}} {}", info.last.index),
        format!("raft_snapshot_bytes{{node=\"1\"}} {}", info.bytes),
        "raft_snapshot_taking{node=\"1\"} 0".into(),
        "raft_snapshots_taken_total{node=\"1\"} 1".into(),
        format!("raft_first_index{{node=\"1\"}} {}", info.last.index.next()),
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}
