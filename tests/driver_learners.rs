//! Learners among the members of a running cluster: they get everything, and nothing waits for them or goes by them.

#![cfg(feature = "std")]

mod driver_support;

use driver_support::{Cluster, PATIENCE, propose};
use raft_io::driver::{DriverOptions, NodeRole, RequestError};
use raft_io::{Index, Membership, NodeId, RaftConfig, RoleKind};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The lowest id: a leader that ignores votes chooses it among equals.
const LEARNER: NodeId = NodeId(1);

/// Three voters and a learner, all of which follow one leader.
fn with_learner() -> (Cluster, NodeId) {
    with_learner_and(|_| {})
}

fn with_learner_and(change: impl Fn(&mut RaftConfig)) -> (Cluster, NodeId) {
    let cluster = Cluster::start_configured(4, DriverOptions::default(), |config| {
        config.membership = Membership::new([2, 3, 4]).with_learner(LEARNER);
        change(config);
    });
    let leader = cluster.leader();
    for raft in cluster.nodes.values() {
        raft.wait_for(PATIENCE, |status| status.leader.as_ref().is_some_and(|hint| hint.id == leader)).unwrap();
    }
    (cluster, leader)
}

fn voting_followers(cluster: &Cluster, leader: NodeId) -> Vec<NodeId> {
    cluster.followers(leader).into_iter().filter(|id| *id != LEARNER).collect()
}

#[test]
fn a_commit_needs_no_learner_and_a_learner_makes_none() {
    let (cluster, leader) = with_learner();
    let raft = &cluster.nodes[&leader];
    cluster.network.isolate(&[LEARNER]);
    let applied = propose(raft, "without the learner").expect("the voters are enough");
    cluster.network.heal();
    cluster.wait_applied(LEARNER, applied.id.index);
    // One voter and the learner are two of four servers, and one of three votes.
    cluster.network.isolate(&voting_followers(&cluster, leader));
    let alone = raft.propose("with the learner alone").wait(PATIENCE);
    assert!(matches!(alone, Err(RequestError::OutcomeUnknown { .. })), "{alone:?}");
    let learned = cluster.nodes[&LEARNER].status();
    assert!(learned.commit_index <= applied.id.index, "{learned:?}");
    cluster.network.heal();
    let next = cluster.leader();
    assert!(propose(&cluster.nodes[&next], "with everyone").is_ok());
}

#[test]
fn a_learner_that_hears_nobody_never_campaigns_and_catches_up() {
    let (cluster, leader) = with_learner();
    let before = cluster.nodes[&leader].status().term;
    cluster.network.isolate(&[LEARNER]);
    // Several election timeouts, of 300 to 600 ms.
    let lost = cluster.nodes[&LEARNER]
        .wait_for(Duration::from_secs(2), |status| status.role != RoleKind::Follower || status.term != before);
    assert!(lost.is_err(), "a learner campaigned: {lost:?}");
    let last = propose(&cluster.nodes[&leader], "meanwhile").expect("a quorum is there").id.index;
    cluster.network.heal();
    cluster.wait_applied(LEARNER, last);
    let status = cluster.nodes[&leader].status();
    assert_eq!((status.role, status.term), (NodeRole::Leader, before), "it disturbed nobody");
}

/// All hold the same, and of equals the learner has the lowest id. The others would not campaign by themselves for minutes.
#[test]
fn a_leader_that_shuts_down_hands_over_to_a_voter() {
    let (cluster, leader) = with_learner_and(|config| {
        if config.id != NodeId(2) {
            config.election_ticks = 30_000;
        }
    });
    let last = propose(&cluster.nodes[&leader], "x").unwrap().id.index;
    cluster.nodes.keys().for_each(|id| cluster.wait_applied(*id, last));
    cluster.nodes[&leader].shutdown();
    let next = cluster.leader_among(voting_followers(&cluster, leader));
    assert!(propose(&cluster.nodes[&next], "y").is_ok());
    assert_eq!(cluster.nodes[&LEARNER].status().role, NodeRole::Follower);
}

/// The learner answers as often as the voters do, and its answers are no reason to go on leading.
#[test]
fn the_answers_of_a_learner_keep_no_leader() {
    let (cluster, leader) = with_learner();
    cluster.network.isolate(&voting_followers(&cluster, leader));
    let raft = &cluster.nodes[&leader];
    raft.wait_for(PATIENCE, |status| status.role != RoleKind::Leader).expect("without a quorum it steps down");
    cluster.network.heal();
    cluster.leader();
}

#[test]
fn a_learner_whose_disk_fails_costs_the_others_nothing() {
    let (cluster, leader) = with_learner();
    let raft = &cluster.nodes[&leader];
    cluster.faults[&LEARNER].fail_sync.store(true, Ordering::SeqCst);
    assert!(propose(raft, "x").is_ok());
    cluster.nodes[&LEARNER].wait_for(PATIENCE, |_| false).expect_err("its log has failed");
    for _ in 0..20 {
        assert!(propose(raft, "y").is_ok());
    }
    assert_eq!(raft.status().role, NodeRole::Leader);
    let peers = raft.status().peers;
    let known = peers.iter().find(|peer| peer.id == LEARNER).map(|peer| peer.match_index);
    assert!(known.is_some_and(|known| known < raft.status().commit_index), "{known:?}");
}

/// A slow learner has a window like everyone, and holds up nobody.
#[test]
fn a_learner_whose_disk_hangs_holds_up_nobody_and_gets_everything_afterwards() {
    let (cluster, leader) = with_learner();
    let raft = &cluster.nodes[&leader];
    cluster.faults[&LEARNER].sync_gate.shut();
    let mut last = Index(0);
    for _ in 0..100 {
        last = propose(raft, "x").expect("nobody waits for the learner").id.index;
    }
    assert!(cluster.nodes[&LEARNER].status().applied_index < last);
    cluster.faults[&LEARNER].sync_gate.open();
    cluster.wait_applied(LEARNER, last);
}
