//! Leadership transfers through the driver: each of them ends once, and says how.

#![cfg(feature = "std")]

mod driver_support;

use driver_support::{Cluster, PATIENCE, Recorder, block_on, propose, single};
use raft_io::driver::{DriverOptions, LeaderHint, LeadershipTransferError, Raft, RequestError};
use raft_io::error::TransferError;
use raft_io::{NodeId, RoleKind, Status};
use std::thread;
use std::time::{Duration, Instant};

/// Looks again and again: what a leader knows of its peers changes without a signal.
fn look_for(raft: &Raft<Recorder>, what: impl Fn(&Status) -> bool) {
    let began = Instant::now();
    while !what(&raft.status()) {
        assert!(began.elapsed() < PATIENCE, "{:?}", raft.status());
        thread::sleep(Duration::from_millis(1));
    }
}

/// A leader whose followers have acknowledged its log.
fn settled(cluster: &Cluster) -> NodeId {
    let leader = cluster.leader();
    propose(&cluster.nodes[&leader], "x").unwrap();
    look_for(&cluster.nodes[&leader], |status| {
        status.peers.iter().all(|peer| peer.match_index == status.last_index && peer.active)
    });
    leader
}

#[test]
fn the_target_leads_the_next_term_long_before_any_election_timeout() {
    // Nobody's election timer runs out within this test.
    let cluster = Cluster::start_configured(3, DriverOptions::default(), |config| {
        if config.id != NodeId(1) {
            config.election_ticks = 30_000;
        }
    });
    let leader = settled(&cluster);
    assert_eq!(leader, NodeId(1));
    let raft = &cluster.nodes[&leader];
    let (status, target) = (raft.status(), cluster.followers(leader)[0]);
    assert_eq!(status.transfer_target, None);
    let term = raft.transfer_leadership(target).wait(PATIENCE).unwrap();
    assert_eq!(term, status.term.next());
    let new = cluster.nodes[&target].wait_for(PATIENCE, |status| status.role == RoleKind::Leader).unwrap();
    assert_eq!(new.term, term);
    assert_eq!(raft.status().leader.map(|leader| leader.id), Some(target));
    propose(&cluster.nodes[&target], "y").unwrap();
}

#[test]
fn a_transfer_can_be_awaited_and_joined_and_one_to_the_leader_is_done_at_once() {
    let cluster = Cluster::start(3);
    let leader = settled(&cluster);
    let (raft, target) = (&cluster.nodes[&leader], cluster.followers(leader)[0]);
    let term = raft.status().term;
    assert_eq!(raft.transfer_leadership(leader).wait(PATIENCE), Ok(term));
    let (one, other) = (raft.transfer_leadership(target), raft.transfer_leadership(target));
    let elsewhere = thread::spawn(move || other.wait(PATIENCE));
    assert_eq!(block_on(one).0, Ok(term.next()));
    // It began while the first one went on, or found another leader already.
    let joined = elsewhere.join().unwrap();
    assert!(matches!(joined, Ok(_) | Err(LeadershipTransferError::NotLeader { .. })), "{joined:?}");
}

#[test]
fn who_does_not_lead_names_the_leader_and_who_cannot_lead_is_refused() {
    let cluster = Cluster::start(3);
    let leader = settled(&cluster);
    let follower = cluster.followers(leader)[0];
    let raft = &cluster.nodes[&follower];
    raft.wait_for(PATIENCE, |status| status.leader.as_ref().is_some_and(|hint| hint.id == leader)).unwrap();
    let term = raft.status().term;
    let hint = Some(LeaderHint { id: leader, client_address: Some(format!("client-of-{leader}")) });
    let refused = raft.transfer_leadership(follower).wait(PATIENCE);
    assert_eq!(refused, Err(LeadershipTransferError::NotLeader { leader: hint, term }));
    let stranger = NodeId(9);
    let refused = cluster.nodes[&leader].transfer_leadership(stranger).wait(PATIENCE);
    assert_eq!(refused, Err(LeadershipTransferError::Refused(TransferError::NotAVoter { target: stranger })));
    let (alone, _faults, _network) = single(DriverOptions::default());
    alone.wait_for(PATIENCE, |status| status.role == RoleKind::Leader).unwrap();
    assert_eq!(alone.transfer_leadership(alone.id()).wait(PATIENCE), Ok(alone.status().term));
}

/// A dead target costs at most one election timeout: published raft-io 1.0.0 refused writes for ever.
#[test]
fn a_dead_target_times_out_and_proposals_go_on() {
    let cluster = Cluster::start(3);
    let leader = settled(&cluster);
    let (raft, target) = (&cluster.nodes[&leader], cluster.followers(leader)[0]);
    let term = raft.status().term;
    cluster.network.isolate(&[target]);
    let transfer = raft.transfer_leadership(target);
    let status = raft.wait_for(PATIENCE, |status| status.transfer_target.is_some()).unwrap();
    assert_eq!(status.transfer_target, Some(target));
    let hint = LeaderHint { id: target, client_address: Some(format!("client-of-{target}")) };
    assert_eq!(propose(raft, "during").unwrap_err(), RequestError::TransferInProgress { target: hint, term });
    let other = cluster.followers(leader)[1];
    let refused = raft.transfer_leadership(other).wait(PATIENCE);
    assert_eq!(refused, Err(LeadershipTransferError::Refused(TransferError::InProgress { target })));
    // Reads go on meanwhile.
    assert_eq!(raft.read(|machine| machine.applied.len()).wait(PATIENCE), Ok(1));
    assert_eq!(transfer.wait(PATIENCE), Err(LeadershipTransferError::TimedOut { target, term }));
    propose(raft, "after").unwrap();
    assert_eq!(raft.status().transfer_target, None);
}

/// A target that is known to be down is not waited for at the expense of writers.
#[test]
fn a_silent_target_is_refused_while_proposals_go_on() {
    let cluster = Cluster::start(3);
    let leader = settled(&cluster);
    let (raft, target) = (&cluster.nodes[&leader], cluster.followers(leader)[0]);
    cluster.network.isolate(&[target]);
    // Two checks: the first may have counted an answer from before.
    thread::sleep(Duration::from_millis(650));
    look_for(raft, |status| status.peers.iter().any(|peer| peer.id == target && !peer.active));
    let transfer = raft.transfer_leadership(target);
    for _ in 0..5 {
        propose(raft, "meanwhile").unwrap();
    }
    let refused = transfer.wait(PATIENCE);
    assert!(
        matches!(
            refused,
            Err(LeadershipTransferError::Refused(
                TransferError::TargetSilent { .. } | TransferError::TargetBehind { .. }
            ))
        ),
        "{refused:?}"
    );
    assert_eq!(raft.status().role, RoleKind::Leader);
}

#[test]
fn a_target_that_comes_back_in_time_takes_over() {
    let cluster = Cluster::start(3);
    let leader = settled(&cluster);
    let (raft, target) = (&cluster.nodes[&leader], cluster.followers(leader)[0]);
    cluster.network.isolate(&[target]);
    propose(raft, "missed").unwrap();
    look_for(raft, |status| status.peers.iter().any(|peer| peer.id == target && !peer.active));
    let transfer = raft.transfer_leadership(target);
    cluster.network.heal();
    let outcome = transfer.wait(PATIENCE);
    // On a machine that stood still for an election timeout it may have been given up.
    let gave_up =
        matches!(outcome, Err(LeadershipTransferError::Refused(_) | LeadershipTransferError::TimedOut { .. }));
    assert!(outcome.is_ok() || gave_up, "{outcome:?}");
    let leader = cluster.leader();
    propose(&cluster.nodes[&leader], "after").unwrap();
}

/// A leader that loses its quorum and its target in the middle of a transfer: the waiting ends all the same.
#[test]
fn a_leader_that_is_cut_off_learns_of_the_next_leader_or_gives_up() {
    let cluster = Cluster::start(3);
    let leader = settled(&cluster);
    let (raft, target) = (&cluster.nodes[&leader], cluster.followers(leader)[0]);
    let term = raft.status().term;
    cluster.network.isolate(&[leader]);
    let transfer = raft.transfer_leadership(target);
    let outcome = transfer.wait(PATIENCE);
    // The timeout and the quorum check are an election timeout each: either may come first.
    assert!(
        matches!(
            outcome,
            Err(LeadershipTransferError::TimedOut { .. } | LeadershipTransferError::NextLeaderUnknown { .. })
        ),
        "{outcome:?}"
    );
    cluster.network.heal();
    let next = cluster.leader();
    assert!(cluster.nodes[&next].status().term > term || next == leader);
}

#[test]
fn a_deadline_and_a_shutdown_end_a_transfer() {
    let cluster = Cluster::start(3);
    let leader = settled(&cluster);
    let (raft, target) = (&cluster.nodes[&leader], cluster.followers(leader)[0]);
    cluster.network.isolate(&[target]);
    let (expiring, waiting) = (raft.transfer_leadership(target), raft.transfer_leadership(target));
    assert_eq!(expiring.wait(Duration::from_millis(1)), Err(LeadershipTransferError::DeadlineExceeded));
    raft.shutdown();
    let outcome = waiting.wait(PATIENCE);
    // The shutdown waits for the transfer in progress, for as long as that lasts.
    assert!(
        matches!(outcome, Err(LeadershipTransferError::Shutdown | LeadershipTransferError::TimedOut { .. })),
        "{outcome:?}"
    );
    assert_eq!(raft.transfer_leadership(target).wait(PATIENCE), Err(LeadershipTransferError::Shutdown));
}

/// A leader that is shut down hands over first: the others need not wait for an election timeout.
#[test]
fn a_leader_hands_over_when_it_is_shut_down() {
    let cluster = Cluster::start_configured(3, DriverOptions::default(), |config| {
        if config.id != NodeId(1) {
            config.election_ticks = 30_000;
        }
    });
    let leader = settled(&cluster);
    let began = Instant::now();
    cluster.nodes[&leader].shutdown();
    let others = cluster.followers(leader);
    let next = cluster.leader_among(others);
    assert_ne!(next, leader);
    assert!(began.elapsed() < PATIENCE);
    propose(&cluster.nodes[&next], "y").unwrap();
    // With two of three gone there is nobody to hand over to, and nothing to wait for.
    cluster.network.isolate(&[leader, next]);
    cluster.nodes[&next].shutdown();
}
