//! The status says of each member why it does not catch up.

#![cfg(feature = "tcp")]

mod driver_support;

use driver_support::snapshots::{Group, Member};
use driver_support::{Cluster, PATIENCE, Recorder, config};
use raft_io::driver::{DriverOptions, HeldUp, Raft, Status};
use raft_io::log::Locked;
use raft_io::transport::{MemoryNetwork, TcpConfig, TcpTransport};
use raft_io::{Membership, MemoryLog, Message, NodeId, RoleKind};
use std::net::TcpListener;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

/// Waits until this is why node `peer` does not catch up with node `raft`. What peers do is no change of a node's own.
fn why(status: impl Fn() -> Status, peer: u64, holds: impl Fn(Option<&HeldUp>) -> bool) -> Option<HeldUp> {
    let began = Instant::now();
    loop {
        let status = status();
        let found = status.peers.iter().find(|found| found.id == NodeId(peer));
        if let Some(found) = found.filter(|found| holds(found.held_up.as_ref())) {
            let text = status.prometheus();
            let labels = |reason: &str| format!("peer=\"{peer}\",reason=\"{reason}\"}} 1");
            match &found.held_up {
                Some(held_up) => assert!(text.contains(&labels(held_up.name())), "{text}"),
                None => assert!(!text.contains(&format!(
                    "raft_peer_held_up{{node=\"{}\",peer=\"{peer}\",reason=\"silent\"}} 1",
                    status.id
                ))),
            }
            return found.held_up.clone();
        }
        assert!(began.elapsed() < PATIENCE, "{:?}", status.peers);
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_member_that_says_nothing_is_silent_and_one_that_follows_is_not_held_up() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let [one, other] = cluster.followers(leader)[..] else { panic!("there are two") };
    let status = || cluster.nodes[&leader].status();
    why(status, one.0, |held_up| held_up.is_none());
    cluster.network.isolate(&[one]);
    let silent = why(status, one.0, |held_up| matches!(held_up, Some(HeldUp::Silent { .. })));
    assert!(silent.unwrap().to_string().starts_with("it has said nothing for "));
    why(status, other.0, |held_up| held_up.is_none());
    cluster.network.heal();
    why(status, one.0, |held_up| held_up.is_none());
}

#[test]
fn a_member_that_needs_a_snapshot_fetches_it_and_then_follows() {
    let mut options = DriverOptions::default();
    (options.snapshot_entries, options.snapshot_trail_entries) = (100, 0);
    let group = Group::start(3, &options);
    let leader = group.leader();
    group.propose(leader, 150);
    group.at(leader).wait(|status| status.snapshot.last.is_some());
    let mut joiner = Member::new(4, &[], &group.network, &options);
    joiner.tolls.gate_from.store(1, Ordering::SeqCst);
    joiner.tolls.gate.shut();
    joiner.tolls.unreachable.store(true, Ordering::SeqCst);
    joiner.start();
    group.at(leader).raft().add_learner(4, "", PATIENCE).wait().unwrap();
    let status = || group.at(leader).raft().status();
    why(status, 4, |held_up| matches!(held_up, Some(HeldUp::NeedsSnapshot { .. })));
    joiner.tolls.unreachable.store(false, Ordering::SeqCst);
    let fetching = |held_up: Option<&HeldUp>| matches!(held_up, Some(HeldUp::FetchingSnapshot { bytes, total_bytes, log_is_kept: true, .. }) if bytes < total_bytes);
    let text = why(status, 4, fetching).unwrap().to_string();
    assert!(text.starts_with("it fetches the snapshot up to 100@1 and has 512 of "), "{text}");
    joiner.tolls.gate.open();
    why(status, 4, |held_up| held_up.is_none());
}

/// It answers heartbeats, and no append with entries reaches it.
#[test]
fn a_window_that_is_full_and_a_probe_are_told_apart() {
    let network = MemoryNetwork::new();
    let start = |id: u64| {
        let mut config = config(id, &[1, 2, 3]);
        config.priority = if id == 1 { 3 } else { 0 };
        (config.inflight_messages_max, config.append_bytes_max) = (2, 100);
        Raft::start(config, Locked::<MemoryLog>::default(), network.transport(id), Recorder::default()).unwrap()
    };
    let servers: Vec<_> = (1..=3).map(start).collect();
    servers[0].wait_for(PATIENCE, |status| status.role == RoleKind::Leader && status.applied_index.0 > 0).unwrap();
    let status = || servers[0].status();
    why(status, 3, |held_up| held_up.is_none());
    network.drop_if(|_, envelope| match &envelope.message {
        Message::AppendEntriesRequest(request) => envelope.to == NodeId(3) && !request.entries.is_empty(),
        _ => false,
    });
    driver_support::propose(&servers[0], "x").unwrap();
    for proposal in servers[0].propose_batch(vec![vec![7; 50].into(); 20]) {
        proposal.wait(PATIENCE).unwrap();
    }
    let full = why(status, 3, |held_up| matches!(held_up, Some(HeldUp::WindowFull { messages: 2, .. })));
    assert!(full.unwrap().to_string().contains("it acknowledges too slowly: 2 messages with "));
    why(status, 3, |held_up| held_up == Some(&HeldUp::Probing));
    network.heal();
    why(status, 3, |held_up| held_up.is_none());
    servers.iter().for_each(Raft::shutdown);
}

/// Three servers over TCP of which the last is not there.
fn two_of_three(third: &str) -> (Vec<Raft<Recorder>>, Vec<TcpTransport>) {
    let bind = |id: u64| {
        let mut config = TcpConfig::new(7, id, "127.0.0.1:0");
        config.backoff_last = Duration::from_millis(100);
        TcpTransport::bind(config).unwrap()
    };
    let transports = vec![bind(1), bind(2)];
    let addressed = |membership: Membership, (id, transport): (u64, &TcpTransport)| {
        membership.with_address(id, transport.local_addr().to_string())
    };
    let membership = (1..).zip(&transports).fold(Membership::new([1, 2, 3_u64]), addressed).with_address(3, third);
    let start = |(id, transport): (u64, &TcpTransport)| {
        let mut config = config(id, &[]);
        config.membership = membership.clone();
        config.priority = if id == 1 { 3 } else { 0 };
        Raft::start(config, Locked::<MemoryLog>::default(), transport.clone(), Recorder::default()).unwrap()
    };
    let servers: Vec<_> = (1..).zip(&transports).map(start).collect();
    servers[0].wait_for(PATIENCE, |status| status.role == RoleKind::Leader && status.applied_index.0 > 0).unwrap();
    (servers, transports)
}

#[test]
fn the_transport_tells_why_a_member_is_not_heard() {
    // Nobody listens there any more.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (servers, _transports) = two_of_three(&closed);
    let unreachable = why(|| servers[0].status(), 3, |held_up| matches!(held_up, Some(HeldUp::Unreachable { .. })));
    assert!(unreachable.unwrap().to_string().contains(&closed));
    servers.iter().for_each(Raft::shutdown);
    // Somebody of another cluster does.
    let foreign = TcpTransport::bind(TcpConfig::new(8, 3, "127.0.0.1:0")).unwrap();
    let other = Raft::start(config(3, &[3]), Locked::<MemoryLog>::default(), foreign.clone(), Recorder::default());
    let other = other.unwrap();
    let (servers, _transports) = two_of_three(&foreign.local_addr().to_string());
    let refused = why(|| servers[0].status(), 3, |held_up| matches!(held_up, Some(HeldUp::Refused { .. })));
    let text = refused.unwrap().to_string();
    assert!(text.contains("the handshake with it fails") && text.contains("cluster 8"), "{text}");
    servers.iter().for_each(Raft::shutdown);
    other.shutdown();
}
