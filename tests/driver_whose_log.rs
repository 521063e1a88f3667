//! Whose log is it: two clusters never merge, whatever was typed.

#![cfg(feature = "std")]

mod driver_support;

use bytes::Bytes;
use driver_support::PATIENCE;
use driver_support::snapshots::{Group, Member, propose};
use raft_io::driver::{DriverOptions, Recovery};
use raft_io::transport::MemoryNetwork;
use raft_io::{HistoryId, Index, LogView, RoleKind};
use std::time::Duration;

/// Snapshots only when they are asked for, and no trail.
fn manual() -> DriverOptions {
    let mut options = DriverOptions::default();
    (options.snapshot_entries, options.snapshot_bytes, options.snapshot_trail_entries) = (usize::MAX, u64::MAX, 0);
    options
}

/// A server that ran as a cluster of its own, in this many terms, committed these, and was stopped.
fn ghost(id: u64, terms: usize, commands: &[&'static str]) -> Member {
    let mut ghost = Member::new(id, &[id], &MemoryNetwork::new(), &manual());
    for term in 0..terms {
        ghost.lead();
        let here = if term + 1 == terms { commands } else { &[] };
        here.iter().for_each(|command| assert!(propose(ghost.raft(), *command).response > 0));
        ghost.stop();
    }
    ghost
}

/// What becomes of adding it to a cluster that has written `a`: nothing of the one log is ever in the other.
fn add_to_another_cluster(ghost: Member, compacted: bool) -> Member {
    let id = ghost.id;
    let mut group = Group::start(3, &manual());
    let leader = group.leader();
    propose(group.at(leader).raft(), "a");
    if compacted {
        group.at(leader).raft().snapshot().wait(PATIENCE).unwrap();
    }
    // Restarted with `RaftConfig::joining`, as the members of this one know it.
    let mut ghost = ghost.on(&group.network).joining();
    let before = (ghost.log.last().index, ghost.log.memberships().later.first().cloned());
    ghost.start();
    ghost.wait(|status| status.applied_index >= before.0);
    let own = ghost.commands();
    let added = group.at(leader).raft().add_voter(id, "", Duration::from_secs(2));
    ghost.wait(|status| status.counters.messages_misbehaved > 0);
    added.wait().expect_err("it is no member of this cluster and never becomes one");
    // The cluster goes on without it.
    let leader = group.leader();
    for command in ["b", "c"] {
        propose(group.at(leader).raft(), command);
    }
    assert_eq!(group.at(leader).commands(), ["a", "b", "c"]);
    assert_eq!(ghost.commands(), own, "and it keeps what it had");
    assert_eq!(ghost.log.memberships().later.first().cloned(), before.1);
    assert_ne!(known(&ghost), known(group.at(leader)));
    group.members.insert(id, ghost);
    group.members.values_mut().for_each(Member::stop);
    group.members.remove(&id).unwrap()
}

fn known(node: &Member) -> Option<HistoryId> {
    node.raft().status().history
}

/// Server 4 ran as a cluster of its own under the same number, committed `ghost`, and stopped. Restarted as one that joins, it
/// was added at a leader with `a`: "voters 1 2 3 4"; it applied `ghost b c`, the leader `a b c`, and nobody said anything.
#[test]
fn a_server_with_a_log_of_another_cluster_never_joins() {
    let ghost = add_to_another_cluster(ghost(4, 1, &["ghost"]), false);
    assert_eq!(ghost.log.last().index, Index(3), "its own: what it led, and the term that it began");
}

#[test]
fn a_ghost_with_a_higher_term_never_joins() {
    add_to_another_cluster(ghost(4, 6, &["ghost"]), false);
}

#[test]
fn a_ghost_with_a_shorter_log_never_joins() {
    add_to_another_cluster(ghost(4, 1, &[]), false);
}

#[test]
fn a_ghost_with_a_longer_log_never_joins() {
    add_to_another_cluster(ghost(4, 1, &["one", "two", "three", "four", "five", "six", "seven"]), false);
}

/// The leader's log no longer reaches back: the snapshot that it offers would replace the whole log.
#[test]
fn a_ghost_does_not_take_a_snapshot_either() {
    let ghost = add_to_another_cluster(ghost(4, 1, &["ghost"]), true);
    assert_eq!(ghost.store.lasts(), []);
}

/// `stranger` leads a cluster of its own in a higher term, and is told to add this leader's server: that goes on as it did.
fn does_not_unseat(stranger: &Member, leader: &Member) {
    let before = leader.raft().status().term;
    assert!(before < stranger.raft().status().term);
    stranger.raft().add_learner(leader.id, "", PATIENCE).wait().unwrap();
    let after = leader.wait(|status| status.counters.messages_misbehaved > 3);
    assert!(after.term == before && after.role == RoleKind::Leader, "{:?} in term {}", after.role, after.term);
    propose(leader.raft(), "it goes on");
    assert_eq!(leader.raft().status().term, before);
}

/// Where a transport has no handshake, the leader of another cluster was told by mistake to add this one's server. It asked from
/// behind what that holds, so nothing could be compared, and its higher term counted: this leader lost its leadership.
#[test]
fn the_leader_of_another_cluster_does_not_unseat_this_one() {
    let network = MemoryNetwork::new();
    let mut leader = Member::new(1, &[1], &network, &manual());
    leader.lead();
    let mut stranger = ghost(9, 6, &["one", "two", "three"]).on(&network);
    stranger.lead();
    does_not_unseat(&stranger, &leader);
}

/// Two servers of one cluster were both recovered, each by itself: neither recovery unseats the other's leader.
#[test]
fn the_leader_of_one_recovery_does_not_unseat_that_of_another() {
    let mut group = Group::start(2, &manual());
    let last = group.propose(group.leader(), 3).id.index;
    for node in group.members.values_mut() {
        node.wait(|status| status.applied_index >= last && status.history.is_some());
        node.stop();
    }
    let network = MemoryNetwork::new();
    let [mut one, mut two] = [1, 2].map(|id| group.members.remove(&id).unwrap().on(&network));
    for (server, times) in [(&mut one, 1), (&mut two, 2)] {
        for _ in 0..times {
            Recovery::plan(&server.log, server.id, [server.id]).unwrap().carry_out(&mut server.log).unwrap();
        }
        server.lead();
    }
    does_not_unseat(&two, &one);
}

/// Three lose their majority; two are recovered, one is given up. The one that comes back by mistake, and is added under its
/// old id with its old log, adopts nothing; the other survivor adopts the child of its history.
#[test]
fn a_survivor_adopts_the_recovered_history_and_a_server_that_was_given_up_does_not() {
    let mut group = Group::start(3, &manual());
    let leader = group.leader();
    let parent = group.at(leader).wait(|status| status.history.is_some()).history;
    group.propose(leader, 3);
    let last = group.at(leader).raft().status().last_index;
    for node in group.members.values_mut() {
        node.wait(|status| status.applied_index >= last && status.history == parent);
        node.stop();
    }
    let network = MemoryNetwork::new();
    let [one, two, lost] = [1, 2, 3].map(|id| group.members.remove(&id).unwrap().on(&network));
    let (mut one, mut two, mut lost) = (one, two, lost.joining());
    let recovery = Recovery::plan(&one.log, 1, [1_u64, 2]).unwrap();
    recovery.carry_out(&mut one.log).unwrap();
    let child = recovery.history.id();
    one.start();
    two.start();
    for node in [&one, &two] {
        node.wait(|status| status.history == Some(child));
    }
    assert_eq!(recovery.history.parent(), parent);
    let leader = two.wait(|status| status.leader.is_some()).leader.unwrap().id;
    let leader = if leader.0 == 1 { &one } else { &two };
    propose(leader.raft(), "after");
    lost.start();
    let last = lost.log.last();
    leader.raft().add_voter(3, "", Duration::from_secs(2)).wait().expect_err("it was given up");
    lost.wait(|status| status.counters.messages_misbehaved > 0);
    // What was committed before is the same for all of them; nothing of the child is in its log.
    assert_eq!((lost.log.last(), lost.commands().contains(&Bytes::from("after"))), (last, false));
    assert_ne!(known(&lost), Some(child));
    // Emptied, and under a new id, a server is welcome.
    let mut fresh = Member::new(9, &[], &network, &manual());
    fresh.start();
    leader.raft().remove(3, PATIENCE).wait().unwrap();
    leader.raft().add_voter(9, "", PATIENCE).wait().unwrap();
    fresh.wait(|status| status.history == Some(child));
    let last = leader.raft().status().last_index;
    fresh.wait(|status| status.applied_index >= last);
    assert_eq!(fresh.commands().last(), Some(&Bytes::from("after")));
}

/// A recovery began a child with an entry that no snapshot covers yet. A server that was added next got the snapshot from before it,
/// with the child's identity, and then refused the very entry that brings the child, for ever: it took it for another history.
#[test]
fn a_server_that_is_added_after_a_recovery_gets_a_snapshot_from_before_it() {
    let network = MemoryNetwork::new();
    let mut survivor = Member::new(1, &[1], &network, &manual());
    survivor.lead();
    propose(survivor.raft(), "a");
    let _ = survivor.raft().snapshot().wait(PATIENCE).unwrap();
    propose(survivor.raft(), "b");
    survivor.stop();
    let recovery = Recovery::plan(&survivor.log, 1, [1_u64]).unwrap();
    recovery.carry_out(&mut survivor.log).unwrap();
    survivor.lead();
    propose(survivor.raft(), "c");
    let child = recovery.history.id();
    survivor.wait(|status| status.history == Some(child));
    let mut fresh = Member::new(9, &[], &network, &manual());
    fresh.start();
    survivor.raft().add_voter(9, "", PATIENCE).wait().unwrap();
    let last = survivor.raft().status().last_index;
    let status = fresh.wait(|status| status.applied_index >= last);
    assert_eq!((status.history, status.counters.snapshots_fetched), (Some(child), 1));
    assert_eq!((status.counters.messages_misbehaved, fresh.commands()), (0, survivor.commands()));
}

/// A server slept through so many recoveries of its cluster, none of which gave it up, that the newest history did not name
/// any more the one which it knew. It was refused for ever, and the recovered node itself did not start again: its snapshot was
/// of that history too.
#[test]
fn survivors_and_snapshots_from_before_many_recoveries_count() {
    for recoveries in [16, 17, 40, 64] {
        let mut group = Group::start(2, &manual());
        let leader = group.leader();
        propose(group.at(leader).raft(), "a");
        let last = group.at(leader).raft().status().last_index;
        for node in group.members.values_mut() {
            node.wait(|status| status.applied_index >= last && status.history.is_some());
            node.raft().snapshot().wait(PATIENCE).unwrap();
            node.stop();
        }
        let [mut one, mut two] = [1, 2].map(|id| group.members.remove(&id).unwrap());
        let mut child = None;
        for _ in 0..recoveries {
            let recovery = Recovery::plan(&one.log, 1, [1_u64, 2]).unwrap();
            recovery.carry_out(&mut one.log).unwrap();
            child = Some(recovery.history.id());
        }
        one.start();
        two.start();
        for node in [&one, &two] {
            node.wait(|status| status.history == child && status.leader.is_some());
        }
        // The next write of the log says whose its snapshot is.
        let leader = if one.raft().status().role == RoleKind::Leader { &one } else { &two };
        let last = propose(leader.raft(), "b").id.index;
        for node in [&one, &two] {
            node.wait(|status| status.applied_index >= last);
        }
        for node in [&mut one, &mut two] {
            node.stop();
            assert!(node.refused().is_none(), "node {} after {recoveries} recoveries: {:?}", node.id, node.refused());
        }
    }
}

/// After still more of them nobody can tell whose the snapshot is; the node starts all the same.
#[test]
fn a_node_starts_after_more_recoveries_than_its_history_names() {
    let mut node = Member::alone(&manual());
    node.lead();
    propose(node.raft(), "a");
    node.raft().snapshot().wait(PATIENCE).unwrap();
    for recoveries in [60, 10] {
        node.stop();
        let mut child = None;
        for _ in 0..recoveries {
            let recovery = Recovery::plan(&node.log, 1, [1_u64]).unwrap();
            recovery.carry_out(&mut node.log).unwrap();
            child = Some(recovery.history.id());
        }
        node.lead();
        node.wait(|status| status.history == child);
        propose(node.raft(), "b");
    }
    node.stop();
    assert!(node.refused().is_none(), "{:?}", node.refused());
    node.lead();
    node.wait(|status| status.applied_index == status.last_index);
    assert_eq!(node.commands(), ["a", "b", "b"]);
}
