//! What an operator may mix up is found before anything runs: whose log, whose transport, who is where.

#![cfg(all(feature = "tcp", feature = "persistence"))]

mod driver_support;

use driver_support::{PATIENCE, Recorder, config};
use raft_io::driver::{DriverOptions, MembershipChangeError, Raft, StartError};
use raft_io::log::{Locked, LogView, MemoryLog, WalLog, WalOptions};
use raft_io::node::RaftNode;
use raft_io::transport::{AddressError, MemoryNetwork, TcpConfig, TcpTransport, TransportError};
use raft_io::{ClusterId, GroupId, Identity, Membership, NodeId, RaftConfig, RoleKind};
use std::path::PathBuf;

/// A directory of this test, gone with it.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("raft-io-identities-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }

    fn log(&self, cluster: u64, node: u64, group: u64) -> WalLog {
        let options = WalOptions::new(ClusterId(cluster), NodeId(node)).group(GroupId(group));
        WalLog::open(&self.0, options).unwrap()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn tcp(cluster: u64, node: u64) -> TcpTransport {
    TcpTransport::bind(TcpConfig::new(cluster, node, "127.0.0.1:0")).unwrap()
}

/// The log of node 1, the configuration of node 2 and the transport of node 3 made a node that ran.
#[test]
fn a_node_starts_with_its_own_log_and_transport_only() {
    let directory = Directory::new("start");
    let log = directory.log(7, 1, 0);
    let refused = Raft::start(config(2, &[1, 2, 3]), log, tcp(7, 3), Recorder::default()).unwrap_err();
    let text = "the configuration is that of node 2 (group 0), the log that of node 1 of cluster 7 (group 0), \
                the transport that of node 3 of cluster 7; start each node with its own log and transport";
    assert_eq!(refused.to_string(), text);
    // Nothing was written: the log does not take those for its members.
    assert_eq!(directory.log(7, 1, 0).memberships(), raft_io::log::Memberships::default());
    let own = |node| Identity { cluster: None, node: Some(NodeId(node)), group: Some(GroupId(0)) };
    let identities = |cluster, node, group, transport, options: DriverOptions| {
        let directory = Directory::new("one");
        let (log, config) = (directory.log(cluster, node, group), config(1, &[1]));
        match Raft::start_with(config, options, log, transport, Recorder::default()) {
            Ok(raft) => {
                raft.shutdown();
                None
            }
            Err(StartError::Identity(found)) => Some((found.configuration, found.log, found.transport)),
            Err(error) => panic!("{error}"),
        }
    };
    // Each alone: the log's node, the transport's node, their clusters, the group.
    let plain = DriverOptions::default;
    assert_eq!(identities(7, 1, 0, tcp(7, 1), plain()), None);
    let (configuration, log, transport) = identities(7, 2, 0, tcp(7, 1), plain()).unwrap();
    assert_eq!((configuration, log.node, transport.node), (own(1), Some(NodeId(2)), Some(NodeId(1))));
    assert_eq!(identities(7, 1, 0, tcp(7, 2), plain()).unwrap().2.node, Some(NodeId(2)));
    let (_, log, transport) = identities(7, 1, 0, tcp(8, 1), plain()).unwrap();
    assert_eq!((log.cluster, transport.cluster), (Some(ClusterId(7)), Some(ClusterId(8))));
    assert_eq!(identities(7, 1, 5, tcp(7, 1), plain()).unwrap().1.group, Some(GroupId(5)));
    let mut grouped = plain();
    grouped.group = GroupId(5);
    assert_eq!(identities(7, 1, 5, tcp(7, 1), grouped.clone()), None);
    assert_eq!(identities(7, 1, 0, tcp(7, 1), grouped).unwrap().0.group, Some(GroupId(5)));
}

/// The same for a network in memory, and for a log that stands behind a lock.
#[test]
fn a_network_in_memory_knows_whose_it_is() {
    let network = MemoryNetwork::new();
    let start = |node| {
        Raft::start(config(1, &[1]), Locked::<MemoryLog>::default(), network.transport(node), Recorder::default())
    };
    assert!(matches!(start(2_u64), Err(StartError::Identity(_))));
    start(1).unwrap().shutdown();
    let directory = Directory::new("locked");
    let log = Locked::new(directory.log(7, 2, 0));
    let refused = Raft::start(config(1, &[1]), log, network.transport(1_u64), Recorder::default());
    assert!(matches!(refused, Err(StartError::Identity(_))));
}

/// `RaftConfig::new(1, [])` made a server that waited for ever to be added somewhere.
#[test]
fn a_configuration_of_nobody_is_for_servers_that_say_that_they_join() {
    let refused = RaftConfig::new(1, [] as [u64; 0]).validate().unwrap_err().to_string();
    let text = "invalid configuration: membership = nobody: must name at least one voter; a server that joins a cluster \
                which runs is configured by RaftConfig::joining";
    assert_eq!(refused, text);
    assert!(RaftNode::new(RaftConfig::new(1, [] as [u64; 0])).is_err());
    RaftConfig::joining(1).validate().unwrap();
    RaftNode::new(RaftConfig::joining(1)).unwrap();
    let mut learners_only = RaftConfig::joining(1);
    learners_only.membership = Membership::default().with_learner(1);
    learners_only.validate().unwrap_err();
}

#[test]
fn a_transport_is_not_bound_with_addresses_at_which_nobody_can_be_found() {
    let bind = |change: &dyn Fn(TcpConfig) -> TcpConfig| {
        TcpTransport::bind(change(TcpConfig::new(7, 1, "127.0.0.1:0"))).map(|_| ())
    };
    for (address, reason) in [
        ("db-7", AddressError::NoPort),
        ("db-7:0", AddressError::Port),
        ("db-7:http", AddressError::Port),
        (":7001", AddressError::EmptyHost),
        ("::1:7001", AddressError::Host),
    ] {
        match bind(&|config| config.peer(2, address)) {
            Err(TransportError::Address { peer: NodeId(2), address: at, reason: why }) => {
                assert_eq!((at.as_str(), why), (address, reason));
            }
            other => panic!("{address}: {other:?}"),
        }
    }
    // A peer that would be this server itself, by the address that it advertises or listens at.
    let own = bind(&|config| config.peer_address("DB-1.example:7001").peer(2, "db-1.example.:7001")).unwrap_err();
    assert!(matches!(own, TransportError::Address { reason: AddressError::Own, .. }), "{own}");
    let listens = |mut config: TcpConfig| {
        config.listen = "127.0.0.1:7991".to_string();
        config.peer(2, "127.0.0.1:7991")
    };
    let own = bind(&listens).unwrap_err();
    assert!(matches!(own, TransportError::Address { reason: AddressError::Own, .. }), "{own}");
    let two = bind(&|config| config.peer(2, "db-2:7001").peer(3, "DB-2:7001")).unwrap_err();
    assert_eq!(
        two.to_string(),
        "nodes 2 and 3 are both at DB-2:7001; give each its own address, or set shared_addresses"
    );
    let shared = |config: TcpConfig| {
        let mut config = config.peer(2, "db-2:7001").peer(3, "DB-2:7001");
        config.shared_addresses = true;
        config
    };
    bind(&shared).unwrap();
    // Its own line among the peers' is no mistake.
    bind(&|config| config.peer_address("db-1:7001").peer(1, "db-1:7001").peer(2, "db-2:7001")).unwrap();
}

/// A change with an address at which nobody can be was appended, and the server that it added was never reached.
#[test]
fn a_change_with_an_address_at_which_nobody_can_be_found_appends_nothing() {
    let transport = tcp(7, 1);
    let own = transport.local_addr().to_string();
    let mut config = config(1, &[]);
    config.membership = Membership::new([1_u64]).with_address(1, &own);
    let raft = Raft::start(config, Locked::<MemoryLog>::default(), transport, Recorder::default()).unwrap();
    let leads = |status: &raft_io::driver::Status| status.role == RoleKind::Leader && status.applied_index.0 == 1;
    raft.wait_for(PATIENCE, leads).unwrap();
    let address = |server, address: &str, reason| {
        Err(MembershipChangeError::Address { server: NodeId(server), address: address.to_string(), reason })
    };
    let learner = |id: u64, at: &str| raft.add_learner(id, at, PATIENCE).wait();
    assert_eq!(learner(2, "db-2"), address(2, "db-2", AddressError::NoPort));
    assert_eq!(raft.add_voter(2, ":7001", PATIENCE).wait(), address(2, ":7001", AddressError::EmptyHost));
    assert_eq!(learner(2, &own), address(2, &own, AddressError::Own));
    assert_eq!(raft.set_address(1, "db-1:0", PATIENCE).wait(), address(1, "db-1:0", AddressError::Port));
    let whole = Membership::new([1_u64]).with_learner(2).with_address(2, "db-2:x");
    assert_eq!(raft.change_membership(whole, PATIENCE).wait(), address(2, "db-2:x", AddressError::Port));
    assert_eq!(raft.status().last_index.0, 1, "nothing was appended");
    learner(2, "db-2:7001").unwrap();
    let last = raft.status().last_index;
    let both = |servers: [u64; 2], at: &str| {
        Err(MembershipChangeError::SharedAddress { servers: servers.map(NodeId), address: at.to_string() })
    };
    assert_eq!(learner(3, "DB-2.:7001"), both([2, 3], "DB-2.:7001"));
    assert_eq!(raft.set_address(1, "db-2:7001", PATIENCE).wait(), both([1, 2], "db-2:7001"));
    assert_eq!(raft.status().last_index, last, "nothing was appended");
    // Where it is already it may stay, and what is free may be taken.
    learner(2, "db-2:7001").unwrap();
    learner(3, "db-2:7002").unwrap();
    raft.shutdown();
}

/// The configuration that a cluster begins with is looked at as well, all of it.
#[test]
fn a_cluster_does_not_begin_with_two_members_at_one_address() {
    let start = |options: DriverOptions, addresses: [&str; 3]| {
        let mut config = config(1, &[]);
        let members = (1_u64..).zip(addresses);
        config.membership = members.fold(Membership::new([1, 2, 3_u64]), |membership, (id, address)| {
            if address.is_empty() { membership } else { membership.with_address(id, address) }
        });
        Raft::start_with(config, options, Locked::<MemoryLog>::default(), tcp(7, 1), Recorder::default())
            .map(|raft| raft.shutdown())
    };
    let refused = start(DriverOptions::default(), ["db-1:7001", "db-2", "DB-1:7001"]).unwrap_err().to_string();
    let text = "invalid configuration: membership = node 2 at \"db-2\": must end with a port: HOST:PORT; \
                membership = nodes 1 and 3 at \"DB-1:7001\": must give each member an address of its own, unless \
                DriverOptions::shared_addresses is set";
    assert_eq!(refused, text);
    let mut shared = DriverOptions::default();
    shared.shared_addresses = true;
    start(shared, ["db-1:7001", "", "DB-1:7001"]).unwrap();
    start(DriverOptions::default(), ["db-1:7001", "", ""]).unwrap();
}

/// Addresses in the words of another transport mean what they mean there; only equal ones are one.
#[test]
fn a_transport_of_its_own_words_is_asked_for_nothing_but_one_member_in_one_place() {
    let network = MemoryNetwork::new();
    let mut config = config(1, &[]);
    config.membership = Membership::new([1_u64]).with_address(1, "rack 4");
    let log = Locked::<MemoryLog>::default();
    let raft = Raft::start(config, log, network.transport(1_u64), Recorder::default()).unwrap();
    raft.wait_for(PATIENCE, |status| status.role == RoleKind::Leader).unwrap();
    raft.add_learner(2, "Rack 4", PATIENCE).wait().unwrap();
    let refused = raft.add_learner(3, "rack 4", PATIENCE).wait().unwrap_err();
    assert!(matches!(refused, MembershipChangeError::SharedAddress { .. }), "{refused}");
    raft.shutdown();
}
