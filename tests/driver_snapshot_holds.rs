//! While somebody fetches a snapshot, the log keeps what follows it, within a bound.

#![cfg(feature = "std")]

mod driver_support;

use driver_support::PATIENCE;
use driver_support::snapshots::{Group, Member, propose};
use raft_io::driver::{DriverOptions, Status};
use raft_io::{Index, NodeId};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Snapshots are due every 100 entries, and the log keeps nothing behind them.
fn often() -> DriverOptions {
    let mut options = DriverOptions::default();
    (options.snapshot_entries, options.snapshot_trail_entries) = (100, 0);
    options
}

/// A server joins this group, and its fetches wait at a gate from the second chunk on.
fn joins_at_a_gate(group: &Group, leader: u64, options: &DriverOptions) -> (Member, Index) {
    let mut member = Member::new(4, &[], &group.network, options);
    member.tolls.gate_from.store(1, Ordering::SeqCst);
    member.tolls.gate.shut();
    member.start();
    let raft = group.at(leader).raft().clone();
    drop(raft.add_learner(4, "", PATIENCE));
    member.tolls.gate.wait_for_visitor();
    let last = member.raft().status().snapshot.fetching.unwrap().last.index;
    (member, last)
}

fn snapshot_after(group: &Group, leader: u64, index: Index) -> Status {
    group.at(leader).wait(|status| status.snapshot.last.is_some_and(|last| last.index > index))
}

/// Snapshots were due faster than a joiner fetched them: what followed the one that it had was gone each time, and it fetched
/// the next one, for ever.
#[test]
fn a_joiner_that_fetches_slowly_becomes_a_voter_while_snapshots_are_due_all_the_time() {
    let group = Group::start(3, &often());
    let leader = group.leader();
    group.propose(leader, 300);
    let stop = Arc::new(AtomicBool::new(false));
    let (writer, stopped) = (group.at(leader).raft().clone(), Arc::clone(&stop));
    let writing = thread::spawn(move || {
        let mut written = 0;
        while !stopped.load(Ordering::SeqCst) {
            propose(&writer, vec![7; 20]);
            written += 1;
        }
        written
    });
    let mut slow = often();
    slow.snapshot_fetch_bytes_per_second = Some(40_000);
    let mut joiner = Member::new(4, &[], &group.network, &slow);
    joiner.start();
    let voters = group.at(leader).raft().add_voter(4, "", PATIENCE).wait().unwrap();
    assert!(voters.is_voter(NodeId(4)));
    stop.store(true, Ordering::SeqCst);
    let written = writing.join().unwrap();
    let fetched = joiner.raft().status().counters.snapshots_fetched;
    assert!((1..=2).contains(&fetched), "{fetched} fetches while {written} commands were written");
    let taken = group.at(leader).raft().status().counters.snapshots_taken;
    assert!(taken > 3, "{taken} snapshots were taken meanwhile");
}

/// What is kept goes by itself once everybody has it, without waiting for the next snapshot.
#[test]
fn the_log_keeps_what_follows_a_snapshot_until_its_receiver_has_it() {
    let group = Group::start(3, &often());
    let leader = group.leader();
    group.propose(leader, 150);
    let (joiner, fetching) = joins_at_a_gate(&group, leader, &often());
    for _ in 0..3 {
        let last = group.propose(leader, 110).id.index;
        let status = snapshot_after(&group, leader, Index(last.0 - 110));
        assert!(status.first_index <= fetching.next(), "{} after {fetching}", status.first_index);
    }
    joiner.tolls.gate.open();
    let last = group.at(leader).raft().status().last_index;
    joiner.wait(|status| status.applied_index >= last);
    assert_eq!(joiner.raft().status().counters.snapshots_fetched, 1);
    let status =
        group.at(leader).wait(|status| Some(status.first_index.previous()) == status.snapshot.last.map(|id| id.index));
    assert_eq!(status.counters.log_holds_given_up, 0);
}

#[test]
fn what_is_kept_for_a_receiver_is_bounded_and_then_the_fetch_begins_anew() {
    let mut bounded = often();
    bounded.snapshot_hold_bytes = 20_000;
    let group = Group::start(3, &bounded);
    let leader = group.leader();
    group.propose(leader, 150);
    let (joiner, fetching) = joins_at_a_gate(&group, leader, &bounded);
    // Each has 116 bytes as limits count them: not 200 fit.
    let status = loop {
        group.propose(leader, 110);
        let status = group.at(leader).raft().status();
        if status.counters.log_holds_given_up > 0 {
            break status;
        }
        assert!(status.last_index.0 < 2000, "the bound is kept: {status:?}");
    };
    let given_up = group.at(leader).wait(|status| status.first_index > fetching.next());
    assert!(given_up.snapshot.last.is_some_and(|last| last.index.0 <= fetching.0 + 400), "{status:?}");
    joiner.tolls.gate.open();
    let last = group.at(leader).raft().status().last_index;
    joiner.wait(|status| status.applied_index >= last);
    assert_eq!(joiner.raft().status().counters.snapshots_fetched, 2);
}

#[test]
fn without_space_nothing_is_kept_for_a_receiver() {
    let group = Group::start(3, &often());
    let leader = group.leader();
    group.propose(leader, 150);
    let (joiner, fetching) = joins_at_a_gate(&group, leader, &often());
    group.at(leader).faults.short_of_space.store(true, Ordering::SeqCst);
    group.propose(leader, 110);
    let status = group.at(leader).wait(|status| status.first_index > fetching.next());
    assert_eq!(status.counters.log_holds_given_up, 1);
    joiner.tolls.gate.open();
    let last = group.at(leader).raft().status().last_index;
    joiner.wait(|status| status.applied_index >= last);
}
