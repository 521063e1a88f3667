//! The identity of a cluster's history: who draws it, how every server comes to know it, and where it is kept.

#![cfg(feature = "std")]

mod driver_support;

use driver_support::snapshots::{Group, Member, propose};
use driver_support::{PATIENCE, config};
use raft_io::driver::DriverOptions;
use raft_io::snapshot::SnapshotStore;
use raft_io::{EntryId, HistoryId, Index, LogView};

/// Snapshots only when they are asked for, and no trail.
fn manual() -> DriverOptions {
    let mut options = DriverOptions::default();
    (options.snapshot_entries, options.snapshot_bytes, options.snapshot_trail_entries) = (usize::MAX, u64::MAX, 0);
    options
}

/// The history that the oldest configuration in a log names.
fn recorded(node: &Member) -> Option<HistoryId> {
    node.log.memberships().at_snapshot?.history().map(|history| history.id())
}

fn known(node: &Member) -> HistoryId {
    node.wait(|status| status.history.is_some()).history.unwrap()
}

/// Every founder could draw an identity; one does, and all of them know that one.
#[test]
fn the_first_leader_of_an_empty_log_names_the_history_and_the_others_adopt_it() {
    let mut group = Group::start(3, &manual());
    let leader = group.leader();
    let id = known(group.at(leader));
    for node in group.members.values() {
        assert_eq!(known(node), id, "node {}", node.id);
    }
    group.propose(leader, 3);
    let last = group.at(leader).raft().status().last_index;
    for node in group.members.values_mut() {
        node.wait(|status| status.applied_index >= last);
        let memberships = node.log.memberships();
        let (index, first) = &memberships.later[0];
        let history = first.history().expect("the first entry names it");
        assert_eq!((*index, history.id(), history.since().index, history.parent()), (Index(1), id, Index(1), None));
        assert_eq!(memberships.later.len(), 1);
        // Who belongs to the cluster is what it was, for whoever asks.
        assert_eq!(*node.raft().status().membership.in_force, config(1, &[1, 2, 3]).membership);
        node.stop();
    }
    for node in group.members.values_mut() {
        node.start();
        assert_eq!(known(node), id, "after a restart");
    }
}

/// A purge removes entry 1, and with it the entry that named the history.
#[test]
fn the_history_outlives_the_entry_that_named_it() {
    let mut node = Member::alone(&manual());
    node.lead();
    let id = known(&node);
    assert_eq!(recorded(&node), None, "it waits for the next write");
    propose(node.raft(), "a");
    assert_eq!(recorded(&node), Some(id), "the write of the first command says that the history is settled");
    let info = node.raft().snapshot().wait(PATIENCE).unwrap();
    assert_eq!((node.log.base(), recorded(&node)), (info.last, Some(id)));
    assert_eq!(info.history().unwrap().unwrap().id(), id, "the snapshot says whose it is");
    node.stop();
    node.lead();
    assert_eq!(known(&node), id);
    propose(node.raft(), "b");
    let info = node.raft().snapshot().wait(PATIENCE).unwrap();
    assert_eq!(info.history().unwrap().unwrap().id(), id);
}

/// A server that joined knew of nobody before entry 1; a snapshot that it fetched, and its own log, tell it the history.
#[test]
fn a_server_that_joins_adopts_the_history_by_entries_and_by_a_snapshot() {
    for compacted in [false, true] {
        let mut group = Group::start(1, &manual());
        let leader = group.leader();
        group.propose(leader, 3);
        if compacted {
            group.at(leader).raft().snapshot().wait(PATIENCE).unwrap();
        }
        let id = known(group.at(leader));
        let mut joiner = Member::new(2, &[], &group.network, &manual());
        joiner.start();
        let membership = group.at(leader).raft().add_voter(2, "", PATIENCE).wait().unwrap();
        assert_eq!(membership.history(), None, "who belongs to the cluster, and no more");
        group.members.insert(2, joiner);
        assert_eq!(known(group.at(2)), id);
        group.propose(leader, 1);
        let last = group.at(leader).raft().status().last_index;
        group.at(2).wait(|status| status.applied_index >= last);
        assert_eq!(recorded(group.at(2)), Some(id), "compacted: {compacted}");
        let fetched = group.at(2).store.inner.newest().map(|info| info.history().unwrap().unwrap().id());
        assert_eq!(fetched, compacted.then_some(id));
    }
}

/// Two clusters of the same shape, with the same entries, are two histories.
#[test]
fn two_clusters_draw_two_identities() {
    let mut one = Member::alone(&manual());
    let mut other = Member::alone(&manual());
    one.lead();
    other.lead();
    assert_eq!(one.log.last(), other.log.last());
    assert_eq!(one.log.last(), EntryId::new(1, 1));
    assert_ne!(known(&one), known(&other));
}
