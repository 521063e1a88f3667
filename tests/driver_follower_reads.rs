//! Linearizable reads on followers and learners: what they see, what they share, and that each of them ends.

#![cfg(feature = "std")]

mod driver_support;

use driver_support::{Cluster, FaultyLog, Network, PATIENCE, Recorder, propose};
use raft_io::driver::{DriverOptions, NotLeaderReason, Raft, Reading, RequestError};
use raft_io::{Membership, NodeId, RaftConfig, RoleKind};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// How many commands this node's own state machine has applied.
fn count(raft: &Raft<Recorder>) -> Reading<usize> {
    raft.follower_read(|machine| machine.applied.len())
}

const LEARNER: NodeId = NodeId(4);

/// Three voters and a learner.
fn with_learner(change: impl Fn(&mut RaftConfig)) -> Cluster {
    let cluster = Cluster::start_configured(4, DriverOptions::default(), |config| {
        config.membership = Membership::new([1, 2, 3]).with_learner(LEARNER);
        change(config);
    });
    wait_followed(&cluster, cluster.leader());
    cluster
}

/// Until they follow it there is nobody to ask.
fn wait_followed(cluster: &Cluster, leader: NodeId) {
    for raft in cluster.nodes.values() {
        raft.wait_for(PATIENCE, |status| status.leader.as_ref().is_some_and(|hint| hint.id == leader)).unwrap();
    }
}

fn assert_not_leader(outcome: &Result<usize, RequestError>) {
    assert!(matches!(outcome, Err(RequestError::NotLeader { .. })), "{outcome:?}");
}

/// In most rounds no heartbeat says what is committed: the answer itself has to.
#[test]
fn every_member_sees_an_acknowledged_write_at_once() {
    let cluster = with_learner(|config| (config.heartbeat_ticks, config.election_ticks) = (10, 50));
    let leader = cluster.leader();
    let mut quiet = 0;
    for written in 1..=40 {
        let heartbeats = cluster.network.heartbeats();
        assert_eq!(propose(&cluster.nodes[&leader], "x").unwrap().response, written);
        for (id, raft) in &cluster.nodes {
            assert_eq!(count(raft).wait(PATIENCE), Ok(written), "node {id}");
        }
        quiet += usize::from(cluster.network.heartbeats() == heartbeats);
    }
    assert!(quiet > 0, "every read waited for a heartbeat");
    for (id, raft) in &cluster.nodes {
        let counters = raft.status().counters;
        assert_eq!((counters.reads_answered, counters.reads_refused), (40, 0), "node {id}");
        assert_eq!(cluster.network.questions_of(*id).is_empty(), *id == leader, "only a leader knows by itself");
    }
    // Reads leave no entry: the no-op of the term and the writes.
    assert_eq!(cluster.nodes[&leader].status().counters.commands_proposed, 40);
}

/// An answer to what a server asked in an earlier life must find nobody.
#[test]
fn contexts_begin_at_random() {
    let mut contexts = BTreeSet::new();
    for _ in 0..2 {
        let cluster = with_learner(|_| {});
        let leader = cluster.leader();
        for id in cluster.followers(leader) {
            count(&cluster.nodes[&id]).wait(PATIENCE).expect("the leader answers");
            contexts.insert(cluster.network.questions_of(id)[0]);
        }
    }
    assert_eq!(contexts.len(), 6, "{contexts:?}");
}

#[test]
fn reads_that_begin_together_share_a_question() {
    let cluster = with_learner(|_| {});
    let leader = cluster.leader();
    propose(&cluster.nodes[&leader], "x").unwrap();
    for id in [cluster.followers(leader)[0], LEARNER] {
        // The first question is lost. On a machine that pauses here the leader is given up; then once more.
        let shared = (0..20).any(|_| {
            let before = cluster.network.questions_of(id).len();
            cluster.network.isolate(&[id]);
            let reads: Vec<_> = (0..100).map(|_| count(&cluster.nodes[&id])).collect();
            cluster.network.heal();
            let answers: Vec<_> = reads.into_iter().map(|read| read.wait(PATIENCE)).collect();
            answers.iter().all(|answer| *answer == Ok(1)) && cluster.network.questions_of(id).len() - before < 50
        });
        assert!(shared, "node {id} asked for each read");
    }
}

#[test]
fn a_follower_on_the_side_of_a_deposed_leader_answers_nothing_stale() {
    let cluster = Cluster::start_configured(5, DriverOptions::default(), |config| config.check_quorum = false);
    let old = cluster.leader();
    wait_followed(&cluster, old);
    propose(&cluster.nodes[&old], "before").unwrap();
    let follower = cluster.followers(old)[0];
    let side = [old, follower];
    cluster.network.partition(&side);
    let new = cluster.leader_among(cluster.nodes.keys().copied().filter(|id| !side.contains(id)));
    propose(&cluster.nodes[&new], "after").unwrap();
    let looked = Arc::<AtomicUsize>::default();
    let raft = &cluster.nodes[&follower];
    let stale = raft.follower_read({
        let looked = looked.clone();
        move |machine| looked.fetch_max(machine.applied.len(), Ordering::SeqCst)
    });
    // It hears its leader, which hears no quorum.
    let outcome = count(raft).wait(Duration::from_millis(300));
    assert!(outcome.is_err(), "{outcome:?}");
    assert_eq!(looked.load(Ordering::SeqCst), 0);
    for id in cluster.followers(old).into_iter().filter(|id| *id != follower) {
        assert_eq!(count(&cluster.nodes[&id]).wait(PATIENCE), Ok(2), "node {id}");
    }
    cluster.network.heal();
    // The end of its leader is the end of its reads.
    let outcome = stale.wait(PATIENCE);
    assert_not_leader(&outcome);
    assert_eq!(looked.load(Ordering::SeqCst), 0);
    raft.wait_for(PATIENCE, |status| status.leader.as_ref().is_some_and(|hint| hint.id != old)).unwrap();
    assert_eq!(count(raft).wait(PATIENCE), Ok(2));
}

/// A learner, and a voter that never campaigns, go on following whom they knew: they notice by the silence.
#[test]
fn reads_end_with_the_leader_on_every_kind_of_member() {
    let never = NodeId(3);
    let cluster =
        with_learner(|config| config.priority = if config.id == never { 0 } else { RaftConfig::PRIORITY_MAX });
    let leader = cluster.leader();
    let followers = cluster.followers(leader);
    assert!(followers.contains(&never));
    let all: Vec<NodeId> = cluster.nodes.keys().copied().collect();
    cluster.network.isolate(&all);
    let reads: Vec<_> = followers.iter().map(|id| (id, count(&cluster.nodes[id]))).collect();
    for (id, read) in reads {
        assert_not_leader(&read.wait(PATIENCE));
        let status = cluster.nodes[id].wait_for(PATIENCE, |status| status.open_reads == 0).unwrap();
        assert_eq!(status.counters.reads_aborted, 1, "node {id}");
    }
    for id in [never, LEARNER] {
        let raft = &cluster.nodes[&id];
        assert_eq!(raft.status().role, RoleKind::Follower);
        // What begins while the leader is silent ends too.
        assert_not_leader(&count(raft).wait(PATIENCE));
        let status = raft.wait_for(PATIENCE, |status| status.open_reads == 0).unwrap();
        assert_eq!(status.counters.reads_aborted, 2, "node {id}");
    }
    cluster.network.heal();
    let leader = cluster.leader();
    propose(&cluster.nodes[&leader], "x").unwrap();
    for raft in cluster.nodes.values() {
        let read = || count(raft).wait(PATIENCE).ok();
        assert_eq!((0..1000).find_map(|_| read().or_else(pause)), Some(1), "node {}", raft.id());
    }
}

fn pause<R>() -> Option<R> {
    thread::sleep(Duration::from_millis(10));
    None
}

/// What the leader names, the follower does not hold durably: it cannot be applied yet, and perhaps never.
#[test]
fn a_confirmed_read_waits_for_the_own_disk_or_ends_with_the_leader() {
    for leader_stays in [true, false] {
        let cluster = with_learner(|_| {});
        let leader = cluster.leader();
        let voter = *cluster.followers(leader).iter().find(|id| **id != LEARNER).expect("a voter");
        let slow = [voter, LEARNER];
        slow.iter().for_each(|id| cluster.faults[id].sync_gate.shut());
        assert_eq!(propose(&cluster.nodes[&leader], "x").unwrap().response, 1);
        let reads: Vec<_> = slow.iter().map(|id| count(&cluster.nodes[id])).collect();
        cluster.network.wait_answered(&slow);
        assert!(slow.iter().all(|id| cluster.nodes[id].status().open_reads == 1));
        if leader_stays {
            slow.iter().for_each(|id| cluster.faults[id].sync_gate.open());
            reads.into_iter().for_each(|read| assert_eq!(read.wait(PATIENCE), Ok(1)));
        } else {
            let all: Vec<NodeId> = cluster.nodes.keys().copied().collect();
            cluster.network.isolate(&all);
            reads.into_iter().for_each(|read| assert_not_leader(&read.wait(PATIENCE)));
        }
    }
}

#[test]
fn a_read_waits_for_the_own_state_machine() {
    let cluster = with_learner(|_| {});
    let leader = cluster.leader();
    let slow: Vec<NodeId> = cluster.followers(leader);
    slow.iter().for_each(|id| cluster.gates[id].shut());
    assert_eq!(propose(&cluster.nodes[&leader], "x").unwrap().response, 1);
    let reads: Vec<_> = slow.iter().map(|id| count(&cluster.nodes[id])).collect();
    slow.iter().for_each(|id| cluster.gates[id].wait_for_visitor());
    cluster.network.wait_answered(&slow);
    assert!(slow.iter().all(|id| cluster.nodes[id].status().open_reads == 1));
    // With the index known and committed here, no leader is needed any more.
    let all: Vec<NodeId> = cluster.nodes.keys().copied().collect();
    cluster.network.isolate(&all);
    slow.iter().for_each(|id| cluster.gates[id].open());
    reads.into_iter().for_each(|read| assert_eq!(read.wait(PATIENCE), Ok(1)));
}

/// Many writes, and reads on all members, while leadership is handed around: none misses a write that was acknowledged
/// before it began, and each of them ends.
#[test]
fn reads_on_all_members_see_every_acknowledged_write_across_transfers() {
    let cluster = with_learner(|_| {});
    let (mut written, mut answered) = (0, 0);
    for round in 0..8 {
        let leader = cluster.leader();
        for _ in 0..5 {
            if let Ok(applied) = cluster.nodes[&leader].propose("x").wait(PATIENCE) {
                written = applied.response;
            }
            let reads: Vec<_> = cluster.nodes.values().map(count).collect();
            for seen in reads.into_iter().map(|read| read.wait(PATIENCE)) {
                match seen {
                    Ok(seen) => {
                        assert!(seen >= written, "a read saw {seen} of {written} acknowledged writes");
                        answered += 1;
                    }
                    refused => assert_not_leader(&refused),
                }
            }
        }
        let voters: Vec<NodeId> = cluster.followers(leader).into_iter().filter(|id| *id != LEARNER).collect();
        let transfer = cluster.nodes[&leader].transfer_leadership(voters[round % 2]);
        // Some of them are on their way to the leader when it goes.
        let reads: Vec<_> = cluster.nodes.values().map(count).collect();
        for seen in reads.into_iter().map(|read| read.wait(PATIENCE)) {
            seen.map_or_else(|error| assert_not_leader(&Err(error)), |seen| assert!(seen >= written));
        }
        let _ = transfer.wait(PATIENCE);
    }
    assert!(written >= 30 && answered >= 100, "{written} writes, {answered} reads");
}

#[test]
fn who_knows_no_leader_refuses() {
    let (log, _faults) = FaultyLog::new();
    let transport = Network::default().transport(1);
    let raft = Raft::start(RaftConfig::joining(1), log, transport, Recorder::default()).unwrap();
    let outcome = count(&raft).wait(PATIENCE);
    let no_leader =
        matches!(outcome, Err(RequestError::NotLeader { leader: None, reason: NotLeaderReason::NoLeader, .. }));
    assert!(no_leader, "{outcome:?}");
    assert_eq!(raft.status().counters.reads_refused, 1);
}

#[test]
fn a_follower_that_shuts_down_answers_its_open_reads() {
    let mut options = DriverOptions::default();
    options.drain_timeout = PATIENCE;
    let cluster = Cluster::start_with(3, options);
    let leader = cluster.leader();
    wait_followed(&cluster, leader);
    let follower = cluster.followers(leader)[0];
    let raft = cluster.nodes[&follower].clone();
    cluster.gates[&follower].shut();
    propose(&cluster.nodes[&leader], "x").unwrap();
    let open = count(&raft);
    cluster.gates[&follower].wait_for_visitor();
    let closing = thread::spawn({
        let raft = raft.clone();
        move || raft.shutdown()
    });
    raft.wait_for(PATIENCE, |status| status.shutdown).unwrap();
    assert_eq!(count(&raft).wait(PATIENCE), Err(RequestError::Shutdown));
    cluster.gates[&follower].open();
    assert_eq!(open.wait(PATIENCE), Ok(1));
    closing.join().unwrap();
    assert_eq!(raft.status().open_reads, 0);
}

#[test]
fn a_follower_that_shuts_down_refuses_what_its_leader_does_not_answer() {
    let mut options = DriverOptions::default();
    options.drain_timeout = Duration::from_millis(20);
    let cluster = Cluster::start_with(3, options);
    let leader = cluster.leader();
    wait_followed(&cluster, leader);
    let follower = cluster.followers(leader)[0];
    let raft = cluster.nodes[&follower].clone();
    cluster.network.isolate(&[follower]);
    let open = count(&raft);
    raft.shutdown();
    let outcome = open.wait(PATIENCE);
    // A machine that paused for an election timeout may have given its leader up before.
    assert!(matches!(outcome, Err(RequestError::Shutdown | RequestError::NotLeader { .. })), "{outcome:?}");
    assert_eq!(raft.status().open_reads, 0);
}
