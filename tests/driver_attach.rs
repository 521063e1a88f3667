//! One node on one transport: a second start on it is refused, and the first node does not notice.

#![cfg(feature = "tcp")]

mod driver_support;

use driver_support::{PATIENCE, Recorder, config, propose};
use raft_io::driver::{DriverOptions, Raft, StartError};
use raft_io::log::Locked;
use raft_io::transport::{AttachError, MemoryNetwork, RaftTransport, TcpConfig, TcpTransport};
use raft_io::{GroupId, Index, Membership, MemoryLog, NodeId, RaftConfig, RoleKind};

fn bind(id: u64) -> TcpTransport {
    TcpTransport::bind(TcpConfig::new(7, id, "127.0.0.1:0")).unwrap()
}

fn start<T: RaftTransport>(config: RaftConfig, group: u64, transport: T) -> Result<Raft<Recorder>, StartError> {
    let mut options = DriverOptions::default();
    options.group = GroupId(group);
    Raft::start_with(config, options, Locked::new(MemoryLog::new()), transport, Recorder::default())
}

fn leads(raft: &Raft<Recorder>) {
    raft.wait_for(PATIENCE, |status| status.role == RoleKind::Leader && status.applied_index >= Index(1)).unwrap();
}

/// The start of a second group on a clone of a transport panicked. Without that it would have told the transport of its own
/// members, so that the first group lost its peers, and shut it down when it failed.
#[test]
fn a_second_group_on_one_transport_is_refused_and_the_first_goes_on() {
    let transports = [bind(1), bind(2)];
    let mut membership = Membership::new([1, 2_u64]);
    for transport in &transports {
        let id = transport.identity().node.map_or(0, |node| node.0);
        membership = membership.with_address(id, transport.local_addr().to_string());
    }
    let nodes: Vec<Raft<Recorder>> = (1..)
        .zip(&transports)
        .map(|(id, transport)| {
            let mut config = config(id, &[]);
            config.membership = membership.clone();
            start(config, 0, transport.clone()).unwrap()
        })
        .collect();
    let known = nodes[0].wait_for(PATIENCE, |status| status.leader.is_some()).unwrap();
    let leader = &nodes[known.leader.unwrap().id.0 as usize - 1];
    leads(leader);
    for group in [0, 1] {
        let refused = start(config(1, &[1]), group, transports[0].clone()).unwrap_err();
        assert!(matches!(refused, StartError::Transport(AttachError::InUse)), "{refused}");
        assert!(refused.to_string().contains("a transport of its own"), "{refused}");
    }
    // Two of two have to take part in this.
    assert_eq!(propose(leader, "x").unwrap().response, 1);
    assert!(transports[0].stats().peers.contains_key(&NodeId(2)), "the peers are those of the first group");
    nodes.iter().for_each(Raft::shutdown);
}

/// A node on a transport that was shut down ran, and was deaf for ever.
#[test]
fn a_transport_that_is_shut_down_takes_no_node() {
    let transport = bind(1);
    let first = start(config(1, &[1]), 0, transport.clone()).unwrap();
    first.shutdown();
    let refused = start(config(1, &[1]), 0, transport).unwrap_err();
    assert!(matches!(refused, StartError::Transport(AttachError::Shutdown)), "{refused}");
}

/// What was refused for another reason can be tried again on the same transport.
#[test]
fn a_start_that_fails_before_it_needs_the_transport_leaves_it_free() {
    let transport = bind(1);
    let mut wrong = config(1, &[1]);
    wrong.election_ticks = 0;
    let refused = start(wrong, 0, transport.clone()).unwrap_err();
    assert!(matches!(refused, StartError::Config(_)), "{refused}");
    leads(&start(config(1, &[1]), 0, transport).unwrap());
}

#[test]
fn a_network_in_memory_has_one_node_to_a_transport_as_well() {
    let transport = MemoryNetwork::new().transport(1);
    let first = start(config(1, &[1]), 0, transport.clone()).unwrap();
    leads(&first);
    let refused = start(config(1, &[1]), 1, transport).unwrap_err();
    assert!(matches!(refused, StartError::Transport(AttachError::InUse)), "{refused}");
    assert_eq!(propose(&first, "x").unwrap().response, 1);
}
