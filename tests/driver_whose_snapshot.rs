//! Whose snapshot is it: the same index and term is not the same content.

#![cfg(feature = "std")]

mod driver_support;

use bytes::Bytes;
use driver_support::PATIENCE;
use driver_support::snapshots::{FlakyStore, Group, Member, propose};
use raft_io::driver::{DriverOptions, Recovery, StartError, TakeSnapshotError};
use raft_io::snapshot::{SnapshotError, SnapshotInfo, SnapshotStore};
use raft_io::transport::MemoryNetwork;
use raft_io::{EntryId, LogView, Membership};
use std::io::Write;
use std::sync::atomic::Ordering;

/// Snapshots only when they are asked for, and no trail.
fn manual() -> DriverOptions {
    let mut options = DriverOptions::default();
    (options.snapshot_entries, options.snapshot_bytes, options.snapshot_trail_entries) = (usize::MAX, u64::MAX, 0);
    options
}

/// Five writes of a cluster of one, in five entries after its first.
fn write_five(node: &mut Member, name: &str) -> Vec<Bytes> {
    let raft = node.lead();
    (0..5).for_each(|number| assert!(propose(raft, format!("{name} {number}")).response > number));
    assert_eq!(node.log.last(), EntryId::new(6, 1));
    node.commands()
}

/// A cluster of one that has filled this store up to entry 6@1, and has stopped.
fn stopped_after_a_snapshot(name: &str, store: &FlakyStore) -> (Member, SnapshotInfo) {
    let mut node = Member::alone(&manual()).with_store(store);
    write_five(&mut node, name);
    let info = node.raft().snapshot().wait(PATIENCE).unwrap();
    assert_eq!(info.last, EntryId::new(6, 1));
    node.stop();
    (node, info)
}

/// One node. Cluster 7: five writes, a snapshot at 6@1, stop. Cluster 8: an empty log and the same directory of snapshots:
/// five other writes, a snapshot, which the store had already, and a restart. The old cluster's five values came up, and the
/// acknowledged ones were gone.
#[test]
fn a_snapshot_of_another_cluster_is_not_taken_for_ones_own() {
    let store = FlakyStore::new();
    let (_, seven) = stopped_after_a_snapshot("seven", &store);
    let mut eight = Member::alone(&manual()).with_store(&store);
    let written = write_five(&mut eight, "eight");
    let info = eight.raft().snapshot().wait(PATIENCE).unwrap();
    assert_eq!(info.last, seven.last);
    assert_ne!(info.identity, seven.identity, "taken anew");
    assert_eq!(store.inner.aside(), [seven], "and nothing of the other cluster is deleted");
    eight.stop();
    eight.lead();
    assert_eq!(eight.commands(), written);
}

/// A store from before there were histories cannot set anything aside; then the snapshot fails, by name, and the log keeps
/// what it would have covered.
#[test]
fn a_store_that_sets_nothing_aside_refuses_by_name() {
    let store = FlakyStore::new();
    let (_, seven) = stopped_after_a_snapshot("seven", &store);
    store.faults.keeps_foreign.store(true, Ordering::SeqCst);
    let mut eight = Member::alone(&manual()).with_store(&store);
    let written = write_five(&mut eight, "eight");
    let Err(TakeSnapshotError::Failed { reason }) = eight.raft().snapshot().wait(PATIENCE) else {
        panic!("it is foreign")
    };
    assert!(reason.contains("of another history than the log"), "{reason}");
    assert_eq!((store.inner.list(), eight.log.base()), (vec![seven], EntryId::ZERO));
    eight.stop();
    eight.lead();
    assert_eq!(eight.commands(), written);
}

/// Two clusters, each with a snapshot at 6@1; somebody exchanges their directories. Each log begins with 6@1.
#[test]
fn exchanged_directories_are_refused_at_start() {
    let [first, second] = [FlakyStore::new(), FlakyStore::new()];
    let (one, info) = stopped_after_a_snapshot("one", &first);
    let (_, other) = stopped_after_a_snapshot("other", &second);
    let mut one = one.with_store(&second);
    let refused = one.refused();
    let Some(StartError::SnapshotOfOtherHistory { snapshot, found, expected }) = refused else { panic!("{refused:?}") };
    let history = |info: &SnapshotInfo| info.history().unwrap().map(|history| history.id());
    assert_eq!((snapshot, found, expected), (info.last, history(&other), history(&info)));
    assert!(found != expected && expected.is_some());
    assert_eq!((store_of(&one).list(), store_of(&one).aside()), (vec![other], vec![]), "and nothing is touched");
    // With its own it starts.
    one = one.with_store(&first);
    one.lead();
    assert_eq!(one.commands()[0], "one 0");
}

fn store_of(node: &Member) -> &raft_io::snapshot::MemorySnapshots {
    &node.store.inner
}

/// Of one cluster the snapshots of one entry are the same state, whoever took them.
#[test]
fn a_snapshot_of_another_node_of_the_cluster_is_as_good() {
    let mut group = Group::start(3, &manual());
    let leader = group.leader();
    group.propose(leader, 5);
    let last = group.at(leader).raft().status().last_index;
    let followers = group.others(&[leader]);
    let expected = group.at(leader).commands();
    for node in group.members.values_mut() {
        node.wait(|status| status.applied_index >= last);
        assert_eq!(node.raft().snapshot().wait(PATIENCE).unwrap().last.index, last);
        node.stop();
    }
    let one = group.members.remove(&followers[0]).unwrap();
    let mut one = one.with_store(&group.at(followers[1]).store);
    one.start();
    assert_eq!(one.commands(), expected);
}

/// Three lose their majority, and two people recover one server each. Both go on with entries of the same numbers; a snapshot of
/// the one recovery is none of the other, though what was before is the same for both.
#[test]
fn a_snapshot_of_another_recovery_is_refused() {
    let mut group = Group::start(3, &manual());
    let leader = group.leader();
    group.propose(leader, 5);
    let last = group.at(leader).raft().status().last_index;
    for node in group.members.values_mut() {
        node.wait(|status| status.applied_index >= last && status.history.is_some());
        node.stop();
    }
    let network = MemoryNetwork::new();
    let mut recovered = Vec::new();
    for id in [1, 2] {
        let mut node = group.members.remove(&id).unwrap().on(&network);
        let recovery = Recovery::plan(&node.log, id, [id]).unwrap();
        recovery.carry_out(&mut node.log).unwrap();
        propose(node.lead(), format!("of {id}"));
        let info = node.raft().snapshot().wait(PATIENCE).unwrap();
        assert_eq!(info.history().unwrap().as_ref(), Some(&recovery.history));
        node.stop();
        recovered.push((node, info, recovery));
    }
    let ((two, other, _), (one, own, recovery)) = (recovered.pop().unwrap(), recovered.pop().unwrap());
    assert_eq!((own.last, recovery.history.ancestors().len()), (other.last, 1));
    let own_store = one.store.clone();
    let one = one.with_store(&two.store);
    let refused = one.refused();
    assert!(matches!(refused, Some(StartError::SnapshotOfOtherHistory { .. })), "{refused:?}");
    // With its own it starts.
    let mut one = one.with_store(&own_store);
    one.lead();
    assert_eq!(one.commands().last().unwrap(), "of 1");
}

/// A snapshot as 0.6.0 took it, which names no history.
fn older(store: &FlakyStore, last: EntryId) {
    let mut writer = store.inner.begin(last, Membership::new([1_u64]).encode().into()).unwrap();
    writer.write_all(&[5, 0, 0, 0, b'o', b'l', b'd', b'e', b'r']).unwrap();
    writer.finish().unwrap();
}

/// It counts where the log's own record names it, and nowhere else.
#[test]
fn a_snapshot_without_a_history_counts_only_if_the_log_names_it() {
    // Nothing of the log names it.
    let store = FlakyStore::new();
    older(&store, EntryId::new(6, 1));
    let mut node = Member::alone(&manual()).with_store(&store);
    let written = write_five(&mut node, "own");
    node.raft().snapshot().wait(PATIENCE).unwrap();
    assert_eq!(store.inner.aside().len(), 1);
    node.stop();
    node.lead();
    assert_eq!(node.commands(), written);
    node.stop();
    // The log names another of that entry, which has a history.
    let older_one = FlakyStore::new();
    older(&older_one, EntryId::new(6, 1));
    let node = node.with_store(&older_one);
    let refused = node.refused();
    assert!(matches!(refused, Some(StartError::SnapshotOfOtherHistory { found: None, .. })), "{refused:?}");
}

/// A server that joins is offered the snapshot of 6@1; what lies under that name in its store is of another cluster.
#[test]
fn a_foreign_snapshot_does_not_stand_in_for_the_one_that_is_offered() {
    let store = FlakyStore::new();
    let (_, foreign) = stopped_after_a_snapshot("foreign", &store);
    let network = MemoryNetwork::new();
    let mut leader = Member::new(1, &[1], &network, &manual());
    let written = write_five(&mut leader, "own");
    assert_eq!(leader.raft().snapshot().wait(PATIENCE).unwrap().last, foreign.last);
    let mut joiner = Member::new(2, &[], &network, &manual()).with_store(&store);
    joiner.start();
    leader.raft().add_voter(2, "", PATIENCE).wait().unwrap();
    joiner.wait(|status| status.applied_index.0 >= 6);
    assert_eq!((joiner.commands(), store.inner.aside()), (written, vec![foreign]));
}

/// What a leader serves under the name that it offered may be of another cluster too: of a store that was exchanged under it.
#[test]
fn a_snapshot_of_another_history_is_not_received() {
    let network = MemoryNetwork::new();
    let mut leader = Member::new(1, &[1], &network, &manual());
    write_five(&mut leader, "own");
    let own = leader.raft().snapshot().wait(PATIENCE).unwrap();
    // Under the running leader its file is replaced.
    leader.store.inner.set_aside(own.last).unwrap();
    let mut writer = leader.store.inner.begin(own.last, foreign_metadata()).unwrap();
    writer.write_all(&[7, 0, 0, 0, b'f', b'o', b'r', b'e', b'i', b'g', b'n']).unwrap();
    writer.finish().unwrap();
    let mut joiner = Member::new(2, &[], &network, &manual());
    joiner.start();
    let adding = leader.raft().add_voter(2, "", PATIENCE);
    let status = joiner.wait(|status| status.counters.snapshot_fetches_failed > 0);
    let reason = status.snapshot.last_error.unwrap();
    assert!(reason.contains("is of another history than was offered"), "{reason}");
    assert_eq!((joiner.commands(), joiner.log.snapshot()), (Vec::<Bytes>::new(), EntryId::ZERO));
    drop(adding);
}

/// What another cluster's snapshots say of themselves.
fn foreign_metadata() -> Bytes {
    let mut foreign = Member::alone(&manual());
    write_five(&mut foreign, "foreign");
    let info = foreign.raft().snapshot().wait(PATIENCE).unwrap();
    assert!(matches!(foreign.store.inner.set_aside(EntryId::new(9, 9)), Err(SnapshotError::NotFound { .. })));
    info.metadata
}
