//! Membership changes over TCP: the transport goes by the configuration, and by nothing else.

#![cfg(feature = "tcp")]

mod driver_support;

use driver_support::snapshots::{Hooks, Ledger};
use driver_support::{PATIENCE, config};
use raft_io::driver::{DriverOptions, HeldUp, MemberPart, NodeRole, Raft, Snapshots, Status};
use raft_io::log::Locked;
use raft_io::snapshot::MemorySnapshots;
use raft_io::transport::{TcpConfig, TcpTransport};
use raft_io::{GroupId, Membership, MemoryLog, NodeId, RoleKind};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

struct Server {
    raft: Raft<Ledger>,
    transport: TcpTransport,
}

#[derive(Default)]
struct Servers {
    logs: BTreeMap<u64, Locked<MemoryLog>>,
    running: BTreeMap<u64, Server>,
}

/// A server's way into the world, on a port of its own; it is told of nobody.
fn bind(id: u64) -> TcpTransport {
    let mut config = TcpConfig::new(7, id, "127.0.0.1:0").client_address(format!("client-of-{id}"));
    config.ping_interval = Duration::from_millis(100);
    config.silence_max = Duration::from_secs(1);
    config.backoff_first = Duration::from_millis(10);
    config.backoff_last = Duration::from_millis(100);
    TcpTransport::bind(config).unwrap()
}

impl Servers {
    /// Three servers, whose addresses only the configuration knows.
    fn three() -> Self {
        let transports: Vec<_> = (1..=3).map(bind).collect();
        let addressed = |membership: Membership, (id, transport): (u64, &TcpTransport)| {
            membership.with_address(id, transport.local_addr().to_string())
        };
        let membership = (1..).zip(&transports).fold(Membership::new([1, 2, 3_u64]), addressed);
        let mut servers = Self::default();
        for (id, transport) in (1..).zip(transports) {
            servers.start(id, &membership, transport);
        }
        servers
    }

    fn start(&mut self, id: u64, membership: &Membership, transport: TcpTransport) {
        let mut config = config(id, &[]);
        config.membership = membership.clone();
        let mut options = DriverOptions::default();
        options.snapshots = Some(Snapshots::new(MemorySnapshots::with_chunk_bytes(GroupId(0), 512)));
        (options.snapshot_trail_entries, options.snapshot_trail_bytes) = (0, 0);
        let log = self.logs.entry(id).or_default().clone();
        let machine = Ledger::new(&Arc::<Hooks>::default());
        let raft = Raft::start_with(config, options, log, transport.clone(), machine).unwrap();
        self.running.insert(id, Server { raft, transport });
    }

    fn at(&self, id: u64) -> &Raft<Ledger> {
        &self.running[&id].raft
    }

    fn stop(&mut self, id: u64) {
        self.running.remove(&id).unwrap().raft.shutdown();
    }

    fn leader(&self) -> u64 {
        let mut found = None;
        eventually("somebody leads", || {
            let leads = |raft: &Raft<Ledger>| {
                let status = raft.status();
                status.role == RoleKind::Leader && status.applied_index == status.last_index
            };
            found = self.running.iter().find(|(_, server)| leads(&server.raft)).map(|(id, _)| *id);
            found.is_some()
        });
        found.unwrap()
    }

    fn write(&self, id: u64, count: usize) {
        for _ in 0..count {
            self.at(id).propose("x").wait(PATIENCE).unwrap();
        }
    }

    fn peers(&self, id: u64) -> BTreeMap<NodeId, String> {
        self.running[&id].transport.stats().peers.into_iter().map(|(id, peer)| (id, peer.address)).collect()
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "not in time: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

fn caught_up(raft: &Raft<Ledger>, with: &Raft<Ledger>) -> Status {
    let last = with.status().last_index;
    raft.wait_for(PATIENCE, |status| status.applied_index >= last).unwrap()
}

/// It is told of nobody: the leader comes to it, and it answers where the leader says that it is.
#[test]
fn a_server_joins_that_knows_nobody_and_begins_with_a_snapshot() {
    let mut servers = Servers::three();
    let leader = servers.leader();
    servers.write(leader, 50);
    servers.at(leader).snapshot().wait(PATIENCE).unwrap();
    let transport = bind(4);
    let address = transport.local_addr().to_string();
    servers.start(4, &Membership::default(), transport);
    let membership = servers.at(leader).add_voter(4, &address, PATIENCE).wait().unwrap();
    assert_eq!(membership.voters().len(), 4);
    let status = caught_up(servers.at(4), servers.at(leader));
    assert_eq!(status.counters.snapshots_fetched, 1);
    assert_eq!(servers.at(4).stale_read(Ledger::commands).unwrap().len(), 50);
    assert_eq!(status.leader.unwrap().client_address, Some(format!("client-of-{leader}")));
    // By now it knows everybody, and everybody it.
    eventually("all are connected to it", || {
        let stats = servers.running[&4].transport.stats();
        stats.peers.len() == 3 && stats.peers.values().all(|peer| peer.connected && peer.accepted)
    });
    for id in 1..=3 {
        assert_eq!(servers.peers(id).get(&NodeId(4)), Some(&address), "node {id}");
    }
    // With a vote it can lead.
    servers.at(leader).transfer_leadership(4).wait(PATIENCE).unwrap();
    servers.write(4, 1);
}

/// Server 4 ran as a cluster of its own under the same number. It was stopped, and added here with its log: every message of its own
/// went on counting here, its votes included, and nobody said anything but that it does not catch up.
#[test]
fn a_server_with_a_log_of_another_cluster_is_refused_before_any_message() {
    let mut servers = Servers::three();
    servers.start(4, &Membership::new([4_u64]), bind(4));
    servers.at(4).wait_for(PATIENCE, |status| status.role == RoleKind::Leader).unwrap();
    servers.write(4, 3);
    servers.stop(4);
    let leader = servers.leader();
    servers.write(leader, 2);
    let ours = servers.at(leader).status().history.expect("a leader that has written has one");
    let transport = bind(4);
    let address = transport.local_addr().to_string();
    servers.start(4, &Membership::default(), transport);
    let theirs = servers.at(4).status().history;
    let (seen, count) = (servers.at(4).status().term, servers.at(leader).status().counters.messages_misbehaved);
    let added = servers.at(leader).add_voter(4, &address, Duration::from_secs(2));
    // The leader comes to it and is refused there: both know. It knows nobody whom it could ask itself.
    let stats = |id: u64| servers.running[&id].transport.stats();
    eventually("it refuses", || stats(4).refused.contains_key("other_history") && stats(leader).refused_by_peers > 0);
    eventually("the leader says so", || {
        let four = servers.at(leader).status().peers.into_iter().find(|peer| peer.id == NodeId(4));
        matches!(four.and_then(|four| four.held_up), Some(HeldUp::Refused { reason }) if reason.contains("belongs to history"))
    });
    added.wait().expect_err("it never becomes a member that has a vote");
    let four = servers.at(4).status();
    assert_eq!((four.history, four.counters.messages_misbehaved), (theirs, 0), "no message came to it");
    assert!(four.term >= seen && theirs != Some(ours));
    assert_eq!(servers.at(leader).status().counters.messages_misbehaved, count);
    assert_eq!(servers.at(4).stale_read(Ledger::commands).unwrap().len(), 3);
    servers.write(leader, 1);
}

#[test]
fn a_moved_server_is_found_at_its_new_address() {
    let mut servers = Servers::three();
    let leader = servers.leader();
    servers.write(leader, 10);
    let moved = if leader == 3 { 2 } else { 3 };
    servers.stop(moved);
    servers.write(leader, 10);
    let transport = bind(moved);
    let address = transport.local_addr().to_string();
    // Its own log says where the others are.
    servers.start(moved, &Membership::default(), transport);
    let membership = servers.at(leader).set_address(moved, &address, PATIENCE).wait().unwrap();
    assert_eq!(membership.address(NodeId(moved)), Some(&*address));
    caught_up(servers.at(moved), servers.at(leader));
    for id in (1..=3).filter(|id| *id != moved) {
        eventually("the new address is known", || servers.peers(id)[&NodeId(moved)] == address);
    }
    // Saying it again changes nothing.
    let index = servers.at(leader).status().membership.index;
    servers.at(leader).set_address(moved, &address, PATIENCE).wait().unwrap();
    assert_eq!(servers.at(leader).status().membership.index, index);
}

/// All at once, so that nobody could agree on a new address: each shows up at the others by itself.
#[test]
fn servers_that_all_moved_find_each_other_while_one_address_holds() {
    let mut servers = Servers::three();
    let leader = servers.leader();
    servers.write(leader, 10);
    let moved: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    moved.iter().for_each(|id| servers.stop(*id));
    for &id in &moved {
        servers.start(id, &Membership::default(), bind(id));
    }
    let next = servers.leader();
    servers.write(next, 10);
    for id in moved {
        caught_up(servers.at(id), servers.at(next));
    }
}

#[test]
fn a_removed_server_is_parted_with() {
    let servers = Servers::three();
    let leader = servers.leader();
    servers.write(leader, 10);
    let removed = if leader == 3 { 2 } else { 3 };
    let other = 6 - leader - removed;
    servers.at(leader).remove(removed, PATIENCE).wait().unwrap();
    servers.write(leader, 1);
    caught_up(servers.at(other), servers.at(leader));
    for id in [leader, other] {
        // As a guest it may come back, and be told nothing.
        eventually("it is no peer, or a guest", || {
            let status = servers.at(id).status();
            let peers = servers.running[&id].transport.stats().peers;
            status.membership.is_committed && peers.len() <= 2 && peers.contains_key(&NodeId(leader + other - id))
        });
    }
    let term = servers.at(leader).status().term;
    // It campaigns in vain, and disturbs nobody (§4.2.3).
    thread::sleep(Duration::from_millis(1500));
    let status = servers.at(leader).status();
    assert_eq!((status.term, status.role), (term, NodeRole::Leader));
    assert_ne!(servers.at(removed).status().role, RoleKind::Leader);
    assert_eq!(servers.at(removed).status().membership.part, MemberPart::Voter, "nobody has told it");
}
