//! Nodes that are too far behind for their leader's log: what they fetch, what comes in between, what
//! their clients are told.

#![cfg(feature = "std")]

mod driver_support;

use bytes::Bytes;
use driver_support::PATIENCE;
use driver_support::snapshots::{Group, Ledger, propose};
use raft_io::driver::{DriverOptions, RequestError, UnknownReason};
use raft_io::snapshot::SnapshotStore;
use raft_io::{EntryId, Index, LogView, RoleKind};
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;

/// Snapshots only when they are asked for, and no trail.
fn manual() -> DriverOptions {
    let mut options = DriverOptions::default();
    (options.snapshot_entries, options.snapshot_bytes, options.snapshot_trail_entries) = (usize::MAX, u64::MAX, 0);
    options
}

/// Three nodes of which one was cut off and needs a snapshot now. The leader, the node.
fn one_is_behind(options: &DriverOptions) -> (Group, u64, u64) {
    let group = Group::start(3, options);
    let leader = group.leader();
    let behind = group.others(&[leader])[0];
    let last = group.propose(leader, 3).id.index;
    group.at(behind).wait(|status| status.applied_index >= last);
    group.network.partition([behind]);
    let last = group.propose(leader, 30).id;
    assert_eq!(group.at(leader).raft().snapshot().wait(PATIENCE).unwrap().last, last);
    (group, leader, behind)
}

fn same_commands(group: &Group, last: EntryId) {
    let mut commands: Vec<Vec<Bytes>> = Vec::new();
    for member in group.members.values().filter(|member| member.raft.is_some()) {
        member.wait(|status| status.applied_index >= last.index);
        commands.push(member.commands());
    }
    assert!(commands.windows(2).all(|pair| pair[0] == pair[1]), "{commands:?}");
}

#[test]
fn a_node_that_was_cut_off_catches_up_through_a_snapshot() {
    let (group, leader, behind) = one_is_behind(&manual());
    assert_eq!(group.at(behind).commands().len(), 3);
    group.network.heal();
    let status = group.at(behind).wait(|status| status.counters.snapshots_fetched == 1 && status.applied_index.0 >= 34);
    let info = group.at(leader).store.inner.newest().unwrap();
    group.at(behind).wait(|status| status.snapshot.last == Some(info.last));
    assert_eq!(status.snapshot.fetching, None);
    assert_eq!(group.at(behind).store.inner.newest(), Some(info.clone()));
    assert_eq!(group.at(behind).tolls.fetched.load(Ordering::SeqCst), info.chunks() as usize);
    assert!(info.chunks() > 5);
    // It did not apply what the snapshot brought, and goes on like anybody.
    assert_eq!(group.at(behind).hooks.applied.load(Ordering::SeqCst), 3);
    let last = group.propose(leader, 5).id;
    same_commands(&group, last);
    // It can take the leader's place.
    group.network.partition([leader]);
    let others = group.others(&[leader]);
    let next = group.leader_among(&others);
    let last = propose(group.at(next).raft(), "on").id;
    others.iter().for_each(|id| drop(group.at(*id).wait(|status| status.applied_index >= last.index)));
}

#[test]
fn a_node_that_fetched_a_snapshot_restarts_from_it() {
    let (mut group, leader, behind) = one_is_behind(&manual());
    group.network.heal();
    group.at(behind).wait(|status| status.applied_index.0 >= 34 && status.snapshot.last.is_some());
    let node = group.members.get_mut(&behind).unwrap();
    node.stop();
    node.hooks.applied.store(0, Ordering::SeqCst);
    node.start();
    let last = group.propose(leader, 1).id;
    same_commands(&group, last);
    assert!(group.at(behind).hooks.applied.load(Ordering::SeqCst) <= 3);
}

#[test]
fn when_the_leader_dies_during_a_fetch_the_next_one_offers_its_own() {
    let (mut group, leader, behind) = one_is_behind(&manual());
    let third = group.others(&[leader, behind])[0];
    group.at(third).wait(|status| status.applied_index.0 >= 34);
    // Of the same entry and other bytes on the way: their chunks must not mix.
    group.at(third).raft().snapshot().wait(PATIENCE).unwrap();
    let tolls = group.at(behind).tolls.clone();
    tolls.gate_from.store(2, Ordering::SeqCst);
    tolls.gate.shut();
    group.network.heal();
    tolls.gate.wait_for_visitor();
    assert_eq!(tolls.fetched.load(Ordering::SeqCst), 2);
    tolls.unreachable.store(true, Ordering::SeqCst);
    tolls.gate.open();
    group.members.get_mut(&leader).unwrap().stop();
    // It leads, and commits nothing before the other one has its snapshot.
    group.at(third).wait(|status| status.role == RoleKind::Leader);
    tolls.unreachable.store(false, Ordering::SeqCst);
    let last = group.propose(third, 3).id;
    same_commands(&group, last);
    // What it had of the first leader's was of no use.
    let info = group.at(third).store.inner.newest().unwrap();
    assert_eq!(group.at(behind).store.inner.newest(), Some(info));
}

#[test]
fn a_peer_that_does_not_answer_is_asked_again_and_the_fetch_goes_on_where_it_was() {
    let (group, leader, behind) = one_is_behind(&manual());
    let tolls = group.at(behind).tolls.clone();
    tolls.unreachable.store(true, Ordering::SeqCst);
    group.network.heal();
    while tolls.asked.load(Ordering::SeqCst) < 3 {
        thread::yield_now();
    }
    let status = group.at(behind).wait(|status| status.snapshot.fetching.is_some());
    let fetch = status.snapshot.fetching.unwrap();
    let info = group.at(leader).store.inner.newest().unwrap();
    assert_eq!((fetch.from.0, fetch.last, fetch.bytes), (leader, info.last, 0));
    assert!(status.snapshot.last_error.is_some_and(|error| error.contains("injected")));
    tolls.unreachable.store(false, Ordering::SeqCst);
    same_commands(&group, info.last);
    assert_eq!(tolls.fetched.load(Ordering::SeqCst), info.chunks() as usize);
}

/// A leader's snapshot came while an image of an older state was being written. Who asked for one after that joined the one
/// being written, which then was of no use, and waited for the next (found by reading).
#[test]
fn who_asks_while_a_snapshot_is_overtaken_is_told_too() {
    let (group, _, behind) = one_is_behind(&manual());
    let node = group.at(behind);
    node.hooks.writing.shut();
    let before = node.raft().snapshot();
    node.hooks.writing.wait_for_visitor();
    group.network.heal();
    let status = node.wait(|status| status.counters.snapshots_fetched == 1 && status.applied_index.0 >= 34);
    let fetched = status.snapshot.last.or_else(|| node.wait(|status| status.snapshot.last.is_some()).snapshot.last);
    let after = node.raft().snapshot();
    node.hooks.writing.open();
    for request in [before, after] {
        assert_eq!(Some(request.wait(PATIENCE).unwrap().last), fetched);
    }
}

/// Who takes snapshots faster than they are fetched must not starve the follower.
#[test]
fn a_snapshot_that_is_being_fetched_stays_while_newer_ones_come() {
    let (group, leader, behind) = one_is_behind(&manual());
    let offered = group.at(leader).store.inner.newest().unwrap();
    let tolls = group.at(behind).tolls.clone();
    // The first chunk is answered; then the leader goes on.
    tolls.gate_from.store(1, Ordering::SeqCst);
    tolls.gate.shut();
    group.network.heal();
    tolls.gate.wait_for_visitor();
    for _ in 0..3 {
        group.propose(leader, 1);
        group.at(leader).raft().snapshot().wait(PATIENCE).unwrap();
    }
    assert_eq!(group.at(leader).store.inner.open(offered.last).map(|reader| reader.info().last).unwrap(), offered.last);
    tolls.gate.open();
    let last = group.propose(leader, 1).id;
    same_commands(&group, last);
    assert_eq!(group.at(behind).raft().status().counters.snapshot_fetches_failed, 0);
}

#[test]
fn a_store_that_cannot_receive_costs_the_fetch_and_the_next_offer_is_taken_up() {
    let (group, leader, behind) = one_is_behind(&manual());
    group.at(behind).store.faults.receive_fails.store(true, Ordering::SeqCst);
    group.network.heal();
    let status = group.at(behind).wait(|status| status.counters.snapshot_fetches_failed >= 2);
    assert!(status.fatal.is_none() && status.snapshot.last_error.unwrap().contains("the disk is full"));
    group.at(behind).store.faults.receive_fails.store(false, Ordering::SeqCst);
    let last = group.propose(leader, 1).id;
    same_commands(&group, last);
}

#[test]
fn a_damaged_snapshot_is_replaced_by_a_new_one() {
    let (group, leader, behind) = one_is_behind(&manual());
    let last = group.propose(leader, 1).id;
    let damaged = &group.at(leader).store.faults.damaged;
    damaged.store(true, Ordering::SeqCst);
    group.network.heal();
    // Nobody asks for it but the peer that got no chunk.
    let status = group.at(leader).wait(|status| status.snapshot.last == Some(last));
    assert!(status.snapshot.last_error.is_some_and(|error| error.contains("a bit is flipped")));
    damaged.store(false, Ordering::SeqCst);
    let last = group.propose(leader, 1).id;
    same_commands(&group, last);
    assert!(group.at(behind).raft().status().counters.snapshots_fetched >= 1);
}

/// A crash after a fetched snapshot was complete and before the log began with it.
#[test]
fn a_snapshot_that_is_there_already_is_not_fetched_again() {
    let (mut group, leader, behind) = one_is_behind(&manual());
    let info = group.at(leader).store.inner.newest().unwrap();
    let from = group.at(leader).store.clone();
    let node = group.members.get_mut(&behind).unwrap();
    node.stop();
    let mut receiver = node.store.receive(info.last).unwrap();
    while receiver.accept(&from.chunk(receiver.next()).unwrap()).unwrap().is_none() {}
    drop(receiver);
    node.start();
    // The log's beginning decides what is restored, not what the store holds.
    assert_eq!(node.hooks.restored.load(Ordering::SeqCst), 0);
    group.network.heal();
    let last = group.propose(leader, 1).id;
    same_commands(&group, last);
    assert_eq!(group.at(behind).tolls.fetched.load(Ordering::SeqCst), 0);
    assert_eq!(group.at(behind).log.snapshot(), info.last);
}

#[test]
fn a_snapshot_that_the_machine_does_not_restore_stops_the_node() {
    let (group, leader, behind) = one_is_behind(&manual());
    group.at(behind).hooks.restore_fails.store(true, Ordering::SeqCst);
    group.network.heal();
    let status = group.at(behind).wait(|status| status.fatal.is_some());
    let reason = status.fatal.unwrap();
    assert!(reason.contains("cannot be restored: injected: this is not understood"), "{reason}");
    let refused = group.at(behind).raft().stale_read(Ledger::commands).unwrap_err();
    assert!(matches!(refused, RequestError::Fatal { .. }), "{refused}");
    assert_eq!(group.propose(leader, 1).response, 34);
}

/// An old leader whose machine is slow: what it committed and did not apply is covered by the snapshot
/// of the next leader.
#[test]
fn what_waits_for_an_apply_that_a_snapshot_covers_gets_its_answer() {
    let group = Group::start(3, &manual());
    let old = group.leader();
    let raft = group.at(old).raft();
    let applied = group.propose(old, 3).id.index;
    group.at(old).hooks.applying.shut();
    let mut proposals: Vec<_> = (0..5).map(|_| raft.propose("covered")).collect();
    let committed = Index(applied.0 + 5);
    group.at(old).wait(|status| status.commit_index >= committed);
    group.at(old).hooks.applying.wait_for_visitor();
    let read = raft.read(|ledger| ledger.commands().len());
    // Confirmed by the others, it waits for the fifth.
    let others = group.others(&[old]);
    others.iter().for_each(|id| drop(group.at(*id).wait(|status| status.applied_index >= committed)));
    group.at(old).wait(|status| status.peers.iter().all(|peer| peer.inflight_messages == 0));
    group.network.partition([old]);
    let next = group.leader_among(&others);
    group.propose(next, 10);
    let info = group.at(next).raft().snapshot().wait(PATIENCE).unwrap();
    group.network.heal();
    // The log begins anew while the machine stands at the gate.
    group.at(old).wait(|status| status.first_index > info.last.index);
    assert_eq!(group.at(old).hooks.restored.load(Ordering::SeqCst), 0);
    group.at(old).hooks.applying.open();
    let first = proposals.remove(0).wait(PATIENCE);
    // What it was at when the snapshot came; entries read before are applied in their turn, or covered.
    let mut outcomes = vec![first];
    outcomes.extend(proposals.into_iter().map(|proposal| proposal.wait(PATIENCE)));
    for (offset, outcome) in outcomes.iter().enumerate() {
        match outcome {
            Ok(applied) => assert_eq!(applied.response, 4 + offset),
            Err(RequestError::OutcomeUnknown { id, reason: UnknownReason::CoveredBySnapshot }) => {
                assert_eq!(id.index.0, applied.0 + 1 + offset as u64);
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(outcomes.iter().any(Result::is_err), "{outcomes:?}");
    match read.wait(PATIENCE) {
        // With all that was committed when it began, or more.
        Ok(found) => assert!(found >= 8, "{found}"),
        // It had not been confirmed when the others were lost.
        Err(error) => assert!(matches!(error, RequestError::NotLeader { .. }), "{error}"),
    }
    let last = group.propose(group.leader(), 1).id;
    same_commands(&group, last);
}

/// The log has begun anew and is not durable yet, so nothing tells the machine to restore; and what it
/// is to apply next is gone.
#[test]
fn a_machine_that_is_behind_waits_for_the_snapshot_that_covers_what_the_log_lost() {
    let group = Group::start(3, &manual());
    let leader = group.leader();
    let (behind, applied) = (group.others(&[leader])[0], group.propose(leader, 3).id.index);
    let node = group.at(behind);
    node.wait(|status| status.applied_index >= applied);
    node.hooks.applying.shut();
    group.propose(leader, 1);
    node.hooks.applying.wait_for_visitor();
    // Committed here, and read from the log only when the machine comes to it.
    let committed = group.propose(leader, 4).id.index;
    node.wait(|status| status.commit_index >= committed);
    group.network.partition([behind]);
    group.propose(leader, 30);
    let info = group.at(leader).raft().snapshot().wait(PATIENCE).unwrap();
    node.tolls.gate.shut();
    group.network.heal();
    node.tolls.gate.wait_for_visitor();
    let term = group.at(group.leader()).raft().status().term;
    // Nothing is on its way to the disk but what comes with the snapshot.
    let idle = || {
        let counts = [&node.faults.appends, &node.faults.syncs].map(|count| count.load(Ordering::SeqCst));
        counts[0] == counts[1] && node.log.hard_state().term == term
    };
    while !idle() {
        thread::yield_now();
    }
    node.faults.sync_gate.shut();
    node.tolls.gate.open();
    while node.log.snapshot() != info.last {
        thread::yield_now();
    }
    node.hooks.applying.open();
    node.wait(|status| status.applied_index > applied);
    // Between the first of these looks and the second it has asked the log for more.
    (0..2).for_each(|_| assert_eq!(node.commands().len(), 4));
    let status = node.raft().status();
    assert_eq!((status.fatal, status.applied_index, status.snapshot.last), (None, applied.next(), None));
    node.faults.sync_gate.open();
    let last = group.propose(group.leader(), 1).id;
    same_commands(&group, last);
    assert_eq!(node.hooks.restored.load(Ordering::SeqCst), 1);
}

#[test]
fn a_shutdown_during_a_fetch_does_not_wait_for_it() {
    let mut options = manual();
    // The second chunk is due in minutes.
    options.snapshot_fetch_bytes_per_second = Some(1);
    let (mut group, leader, behind) = one_is_behind(&options);
    group.network.heal();
    let total = group.at(leader).store.inner.newest().unwrap().bytes;
    let status =
        group.at(behind).wait(|status| status.snapshot.fetching.is_some_and(|fetch| fetch.total_bytes.is_some()));
    let fetch = status.snapshot.fetching.unwrap();
    assert_eq!((fetch.bytes, fetch.total_bytes), (512, Some(total)));
    let raft = group.members.get_mut(&behind).unwrap().raft.take().unwrap();
    let (done, ended) = mpsc::channel();
    thread::spawn(move || {
        raft.shutdown();
        done.send(()).unwrap();
    });
    ended.recv_timeout(PATIENCE).expect("the fetch holds the shutdown up");
    // What arrived is gone on with.
    assert_eq!(group.at(behind).store.receive(fetch.last).unwrap().next().chunk, 1);
    assert_eq!(group.at(leader).raft().status().role, RoleKind::Leader);
}
