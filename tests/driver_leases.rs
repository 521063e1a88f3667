//! Reads by leases, and leaders that give way: what the driver adds to the protocol's leases are real clocks.

#![cfg(feature = "std")]

mod driver_support;

use driver_support::{Cluster, PATIENCE, Recorder, propose};
use raft_io::driver::{DriverOptions, NodeRole, Raft, RequestError};
use raft_io::{NodeId, RoleKind};
use std::time::{Duration, Instant};

fn count(raft: &Raft<Recorder>) -> Result<usize, RequestError> {
    raft.lease_read(|machine| machine.applied.len()).wait(Duration::from_millis(100))
}

/// Ticks of 10 ms, elections after 30 of them; leases of 20.
fn with_leases() -> Cluster {
    Cluster::start_configured(3, DriverOptions::default(), |config| config.lease_ticks = Some(20))
}

#[test]
fn a_leader_with_a_lease_answers_without_its_followers_and_without_a_lease_it_does_not() {
    let cluster = with_leases();
    let leader = cluster.leader();
    let raft = &cluster.nodes[&leader];
    assert_eq!(propose(raft, "x").unwrap().response, 1);
    raft.read(|_| ()).wait(PATIENCE).expect("a round is confirmed");
    let followers = cluster.followers(leader);
    cluster.network.isolate(&followers);
    let cut = Instant::now();
    let answer = count(raft);
    // On a machine that paused here the lease may be over by now; then nobody could answer.
    if cut.elapsed() < Duration::from_millis(50) {
        assert_eq!(answer, Ok(1));
    }
    std::thread::sleep(Duration::from_millis(200));
    let answer = count(raft);
    assert!(answer.is_err(), "a lease of 200 ms answered {answer:?} after {:?}", cut.elapsed());
    cluster.network.heal();
}

/// Without `lease_ticks` the name promises nothing: the read asks, as every read does.
#[test]
fn without_leases_a_lease_read_asks_the_followers() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let raft = &cluster.nodes[&leader];
    assert_eq!(propose(raft, "x").unwrap().response, 1);
    let answer = raft.lease_read(|machine| machine.applied.len()).wait(PATIENCE);
    assert_eq!(answer, Ok(1));
    cluster.network.isolate(&cluster.followers(leader));
    assert!(count(raft).is_err());
    cluster.network.heal();
}

/// Many writes and reads while leadership is handed around: no read misses a write that was acknowledged before it began.
#[test]
fn lease_reads_see_every_acknowledged_write_across_transfers() {
    let cluster = with_leases();
    let mut written = 0;
    for round in 0..12 {
        let leader = cluster.leader();
        let raft = &cluster.nodes[&leader];
        for _ in 0..5 {
            if let Ok(applied) = raft.propose("x").wait(PATIENCE) {
                written = applied.response;
            }
            for node in cluster.nodes.values() {
                // Those that do not lead refuse; one that answers must not be behind.
                if let Ok(seen) = count(node) {
                    assert!(seen >= written, "a read saw {seen} of {written} acknowledged writes");
                }
            }
        }
        let target = cluster.followers(leader)[round % 2];
        let _ = raft.transfer_leadership(target).wait(PATIENCE);
    }
    assert!(written >= 40, "{written}");
}

/// A leader whose disk hung kept its followers quiet with heartbeats, and nobody could write for as long as it hung.
#[test]
fn a_leader_whose_disk_stalls_gives_way_and_loses_nothing() {
    let mut options = DriverOptions::default();
    options.disk_stall_max = Duration::from_millis(300);
    let cluster = Cluster::start_with(3, options);
    let leader = cluster.leader();
    let stalled = &cluster.nodes[&leader];
    assert_eq!(propose(stalled, "before").unwrap().response, 1);
    cluster.faults[&leader].sync_gate.shut();
    let pending = stalled.propose("meanwhile");
    let next = cluster.leader_among(cluster.followers(leader));
    assert_ne!(next, leader);
    assert_eq!(stalled.status().counters.disk_stalls, 1);
    let response = propose(&cluster.nodes[&next], "after").unwrap().response;
    cluster.faults[&leader].sync_gate.open();
    // It reached the followers before the leader gave way, or it did not: never is it called refused.
    let meanwhile = pending.wait(PATIENCE);
    assert!(matches!(meanwhile, Err(RequestError::OutcomeUnknown { .. })), "{meanwhile:?}");
    assert!(response == 2 || response == 3);
    let last = cluster.nodes[&next].status().last_index;
    cluster.wait_applied(leader, last);
    assert_eq!(stalled.status().role, RoleKind::Follower);
}

/// A follower's disk is no leader's business, and an idle leader's disk has nothing to do.
#[test]
fn neither_a_follower_nor_an_idle_leader_gives_way() {
    let mut options = DriverOptions::default();
    options.disk_stall_max = Duration::from_millis(50);
    let cluster = Cluster::start_with(3, options);
    let leader = cluster.leader();
    let follower: NodeId = cluster.followers(leader)[0];
    cluster.faults[&follower].sync_gate.shut();
    assert!(propose(&cluster.nodes[&leader], "x").is_ok());
    std::thread::sleep(Duration::from_millis(200));
    cluster.faults[&follower].sync_gate.open();
    let status = cluster.nodes[&leader].status();
    assert_eq!((status.role, status.counters.disk_stalls), (NodeRole::Leader, 0));
    assert_eq!(cluster.nodes[&follower].status().counters.disk_stalls, 0);
}
