//! Three nodes of the driver: what clients are told, whatever happens to the leader.

#![cfg(feature = "std")]

mod driver_support;

use bytes::Bytes;
use driver_support::{Cluster, PATIENCE, Recorder, block_on, config, propose};
use raft_io::driver::{
    DriverOptions, LeaderHint, Limit, NodeRole, NotLeaderReason, Raft, RequestError, StartError, UnknownReason,
    WaitError,
};
use raft_io::log::Locked;
use raft_io::transport::MemoryNetwork;
use raft_io::{Index, MemoryLog, NodeId, RoleKind, Term};
use std::sync::atomic::Ordering;
use std::time::Duration;

#[test]
fn a_proposal_resolves_after_apply_with_the_response() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    for expected in 1..=5 {
        let applied = propose(&cluster.nodes[&leader], "x").unwrap();
        assert_eq!(applied.response, expected);
        // Applied here already: a stale read on this node sees it.
        let seen = cluster.nodes[&leader].stale_read(|machine| machine.applied.last().map(|(id, _)| *id)).unwrap();
        assert!(seen >= Some(applied.id), "{seen:?} {}", applied.id);
    }
    let last = cluster.nodes[&leader].status().last_index;
    for (&id, raft) in &cluster.nodes {
        cluster.wait_applied(id, last);
        assert_eq!(raft.stale_read(|machine| machine.applied.len()).unwrap(), 5, "node {id}");
    }
}

#[test]
fn a_follower_names_the_leader_and_its_address() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    for id in cluster.followers(leader) {
        cluster.nodes[&id]
            .wait_for(PATIENCE, |status| status.leader.as_ref().is_some_and(|hint| hint.id == leader))
            .unwrap();
        let before = cluster.nodes[&id].status();
        let Err(RequestError::NotLeader { leader: Some(hint), term, reason }) = propose(&cluster.nodes[&id], "x")
        else {
            panic!("a follower took a proposal");
        };
        assert_eq!(hint, LeaderHint { id: leader, client_address: Some(format!("client-of-{leader}")) });
        assert_eq!((term, reason), (before.term, NotLeaderReason::Follower));
    }
}

#[test]
fn a_batch_is_appended_in_order_and_each_command_has_an_outcome() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let commands: Vec<Bytes> = (0..1000).map(|number| Bytes::from(format!("{number}"))).collect();
    let proposals = cluster.nodes[&leader].propose_batch(commands.clone());
    let ids: Vec<_> = proposals.into_iter().map(|proposal| proposal.wait(PATIENCE).unwrap().id).collect();
    assert!(ids.windows(2).all(|pair| pair[1].index == pair[0].index.next() && pair[1].term == pair[0].term));
    let applied: Vec<Bytes> = cluster.nodes[&leader]
        .stale_read(|machine| machine.applied.iter().map(|(_, command)| command.clone()).collect())
        .unwrap();
    assert_eq!(applied, commands);
    assert!(cluster.nodes[&leader].propose_batch(Vec::new()).is_empty());
}

#[test]
fn an_isolated_leader_answers_unknown_and_the_others_go_on() {
    let cluster = Cluster::start(3);
    let old = cluster.leader();
    let before = propose(&cluster.nodes[&old], "before").unwrap();
    cluster.network.isolate(&[old]);
    // Check-quorum makes it step down; it must not stay silent until the network heals.
    let outcome = propose(&cluster.nodes[&old], "lost");
    let Err(RequestError::OutcomeUnknown { id, reason: UnknownReason::LeadershipLost }) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!((id.term, id.index), (before.id.term, before.id.index.next()));
    let outcome = propose(&cluster.nodes[&old], "refused");
    assert!(matches!(outcome, Err(RequestError::NotLeader { .. })), "{outcome:?}");

    let new = cluster.leader_among(cluster.followers(old));
    assert_ne!(new, old);
    let after = propose(&cluster.nodes[&new], "after").unwrap();
    assert!(after.id.term > before.id.term);
    cluster.network.heal();
    cluster.wait_applied(old, after.id.index);
    let commands: Vec<Bytes> = cluster.nodes[&old]
        .stale_read(|machine| machine.applied.iter().map(|(_, command)| command.clone()).collect())
        .unwrap();
    assert_eq!(commands, ["before", "after"]);
}

#[test]
fn a_deadline_tells_where_the_command_was_appended() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let last = cluster.nodes[&leader].status().last_index;
    for id in cluster.followers(leader) {
        cluster.faults[&id].sync_gate.shut();
    }
    let outcome = cluster.nodes[&leader].propose("slow").wait(Duration::from_millis(50));
    let Err(RequestError::DeadlineExceeded { proposed: Some(id) }) = outcome else { panic!("{outcome:?}") };
    assert_eq!(id.index, last.next());
    for id in cluster.followers(leader) {
        cluster.faults[&id].sync_gate.open();
    }
    // It was proposed, and so it is applied in the end.
    cluster.wait_applied(leader, id.index);
    assert_eq!(cluster.nodes[&leader].stale_read(|machine| machine.applied.len()).unwrap(), 1);
}

#[test]
fn a_slow_state_machine_stops_neither_heartbeats_nor_commits() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let term = cluster.nodes[&leader].status().term;
    let gate = &cluster.gates[&leader];
    gate.shut();
    let stuck = cluster.nodes[&leader].propose("stuck");
    gate.wait_for_visitor();
    let mut more = Vec::new();
    for _ in 0..100 {
        more.push(cluster.nodes[&leader].propose("more"));
    }
    let last = cluster.nodes[&leader].status().applied_index.plus(101);
    cluster.nodes[&leader].wait_for(PATIENCE, |status| status.commit_index >= last).unwrap();
    // Followers apply on, and hear their leader through several election timeouts.
    for id in cluster.followers(leader) {
        cluster.wait_applied(id, last);
    }
    cluster.network.wait_sent(leader, 200);
    let status = cluster.nodes[&leader].status();
    assert_eq!((status.role, status.term, status.open_proposals), (NodeRole::Leader, term, 101));
    gate.open();
    assert_eq!(stuck.wait(PATIENCE).unwrap().response, 1);
    assert_eq!(more.pop().unwrap().wait(PATIENCE).unwrap().response, 101);
}

#[test]
fn a_role_watch_is_ordered_and_terms_only_grow() {
    let cluster = Cluster::start(3);
    let watched = NodeId(1);
    let mut watch = cluster.nodes[&watched].watch();
    let first = cluster.leader();
    cluster.network.isolate(&[first]);
    let second = cluster.leader_among(cluster.followers(first));
    cluster.network.heal();
    let term = cluster.nodes[&second].status().term;
    cluster.nodes[&watched].wait_for(PATIENCE, |status| status.term >= term && status.leader.is_some()).unwrap();
    let now = cluster.nodes[&watched].status();
    let mut seen = vec![watch.next(PATIENCE).unwrap()];
    while seen.last().unwrap().term < now.term || seen.last().unwrap().leader.is_none() {
        seen.push(watch.next(PATIENCE).unwrap());
    }
    assert!(seen.len() >= 3, "{seen:?}");
    assert!(seen.windows(2).all(|pair| pair[0] != pair[1] && pair[0].term <= pair[1].term), "{seen:?}");
    assert_eq!(watch.missed(), 0);
    // A later watch begins with the present state.
    let present = cluster.nodes[&watched].watch().next(Duration::ZERO).unwrap();
    assert!(present.term >= term);
}

#[test]
fn a_proposal_is_a_future() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let (applied, wakes) = block_on(cluster.nodes[&leader].propose("x"));
    assert_eq!(applied.unwrap().response, 1);
    assert!(wakes <= 1);
    let follower = cluster.followers(leader)[0];
    let (refused, wakes) = block_on(cluster.nodes[&follower].propose("x"));
    assert!(matches!(refused, Err(RequestError::NotLeader { .. })));
    assert_eq!(wakes, 0);
}

#[test]
fn a_lagging_follower_is_fed_from_the_cold_log() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let lagging = cluster.followers(leader)[0];
    cluster.network.isolate(&[lagging]);
    for _ in 0..50 {
        propose(&cluster.nodes[&leader], "x").unwrap();
    }
    let last = cluster.nodes[&leader].status().commit_index;
    for faults in cluster.faults.values() {
        faults.cold.store(true, Ordering::SeqCst);
    }
    cluster.network.heal();
    cluster.wait_applied(lagging, last);
    let cold_reads: u64 = cluster.nodes.values().map(|raft| raft.status().counters.cold_reads).sum();
    assert!(cold_reads > 0);
}

#[test]
fn configuration_errors_come_all_at_once() {
    let mut config = config(9, &[1, 2]);
    config.election_ticks = 4;
    let mut options = DriverOptions::default();
    options.proposals_max = 0;
    let network = driver_support::Network::default();
    let log = Locked::new(MemoryLog::new());
    let error = Raft::start_with(config, options, log, network.transport(9), Recorder::default()).unwrap_err();
    let StartError::Config(error) = error else { panic!("{error:?}") };
    let fields: Vec<&str> = error.problems.iter().map(|problem| problem.field).collect();
    assert_eq!(fields, ["id", "election_ticks", "proposals_max"]);
    let text = error.to_string();
    assert!(text.contains("election_ticks = 4: must be at least 5 times heartbeat_ticks"), "{text}");
}

#[test]
fn wait_for_gives_up_with_the_last_status() {
    let cluster = Cluster::start(1);
    let raft = &cluster.nodes[&NodeId(1)];
    let Err(WaitError::Timeout { last }) = raft.wait_for(Duration::from_millis(20), |status| status.term > Term(1000))
    else {
        panic!("the term is above 1000");
    };
    assert_eq!(last.id, NodeId(1));
    cluster.leader();
    raft.shutdown();
    assert_eq!(raft.wait_for(PATIENCE, |status| status.term > Term(1000)).unwrap_err(), WaitError::Shutdown);
}

#[test]
fn proposals_beyond_the_limit_are_overloaded_and_later_ones_are_not() {
    let mut options = DriverOptions::default();
    options.proposals_max = 4;
    let cluster = Cluster::start_with(3, options);
    let leader = cluster.leader();
    let raft = &cluster.nodes[&leader];
    cluster.gates[&leader].shut();
    let taken: Vec<_> = (0..4).map(|_| raft.propose("x")).collect();
    let outcome = propose(raft, "y");
    let Err(RequestError::Overloaded { limit }) = outcome else { panic!("{outcome:?}") };
    assert_eq!(limit, Limit::Proposals { open: 4, max: 4 });
    cluster.gates[&leader].open();
    for proposal in taken {
        proposal.wait(PATIENCE).unwrap();
    }
    assert_eq!(propose(raft, "z").unwrap().response, 5);
    let too_large = Bytes::from(vec![0; (8 << 20) + 1]);
    let outcome = raft.propose(too_large).wait(PATIENCE);
    assert_eq!(outcome, Err(RequestError::TooLarge { bytes: (8 << 20) + 1, limit_bytes: 8 << 20 }));
    assert!(raft.status().last_index > Index::ZERO);
}

#[test]
fn three_nodes_over_the_memory_network_survive_their_leader() {
    let network = MemoryNetwork::new();
    let start = |id: u64| {
        let log = Locked::new(MemoryLog::new());
        Raft::start(config(id, &[1, 2, 3]), log, network.transport(id), Recorder::default()).unwrap()
    };
    let nodes: Vec<Raft<Recorder>> = (1..=3).map(start).collect();
    let node = |id: NodeId| &nodes[id.0 as usize - 1];
    let led = |status: &raft_io::Status| status.leader.is_some() && status.commit_index > Index::ZERO;
    let old = node(NodeId(1)).wait_for(PATIENCE, led).unwrap().leader.unwrap().id;
    node(old).wait_for(PATIENCE, |status| status.role == RoleKind::Leader).unwrap();
    let first = propose(node(old), "first").unwrap();
    network.partition([old]);
    let lost = propose(node(old), "lost");
    assert!(matches!(lost, Err(RequestError::OutcomeUnknown { .. })), "{lost:?}");

    let survivor = nodes.iter().find(|raft| raft.id() != old).unwrap();
    let new = survivor
        .wait_for(PATIENCE, |status| status.term > first.id.term && status.leader.is_some())
        .unwrap()
        .leader
        .unwrap()
        .id;
    assert_ne!(new, old);
    node(new).wait_for(PATIENCE, |status| status.role == RoleKind::Leader).unwrap();
    let second = propose(node(new), "second").unwrap();
    assert_eq!(second.response, 2);
    network.heal();
    for raft in &nodes {
        raft.wait_for(PATIENCE, |status| status.applied_index >= second.id.index).unwrap();
        let commands: Vec<Bytes> =
            raft.stale_read(|machine| machine.applied.iter().map(|(_, command)| command.clone()).collect()).unwrap();
        assert_eq!(commands, ["first", "second"], "node {}", raft.id());
    }
    for raft in nodes {
        raft.shutdown();
    }
}
