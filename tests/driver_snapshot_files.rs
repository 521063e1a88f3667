//! Snapshots end to end as they are deployed: logs and snapshots in files, messages and chunks over TCP.

#![cfg(all(feature = "persistence", feature = "tcp"))]

mod driver_support;

use driver_support::snapshots::{Hooks, Ledger, propose};
use driver_support::{PATIENCE, config};
use raft_io::driver::{DriverOptions, Raft, Snapshots, StartError};
use raft_io::log::{WalLog, WalOptions};
use raft_io::snapshot::SnapshotFiles;
use raft_io::snapshot::files::SnapshotOptions;
use raft_io::transport::{TcpConfig, TcpTransport};
use raft_io::{ClusterId, EntryId, NodeId, RoleKind};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const CLUSTER: ClusterId = ClusterId(7);

fn options(directory: &Path) -> DriverOptions {
    let mut options = DriverOptions::default();
    (options.snapshot_entries, options.snapshot_trail_entries) = (20, 5);
    let files = SnapshotOptions::new().chunk_bytes(512);
    options.snapshots = Some(Snapshots::new(SnapshotFiles::open(directory.join("snapshots"), files).unwrap()));
    options
}

/// The nodes' sockets, each on a port of its own, known to the others whenever it starts.
#[derive(Default)]
struct Sockets(BTreeMap<u64, TcpTransport>);

impl Sockets {
    fn bind(&mut self, id: u64, incarnation: u64) -> TcpTransport {
        let mut tcp = TcpConfig::new(CLUSTER, id, "127.0.0.1:0").incarnation(incarnation);
        for peer in (1..=3).filter(|peer| *peer != id) {
            // Nobody is there before it has said where it is.
            let address =
                self.0.get(&peer).map_or_else(|| format!("127.0.0.1:{peer}"), |peer| peer.local_addr().to_string());
            tcp = tcp.peer(peer, address);
        }
        let transport = TcpTransport::bind(tcp).unwrap();
        self.0.values().for_each(|peer| peer.set_address(id, transport.local_addr().to_string()).unwrap());
        self.0.insert(id, transport.clone());
        transport
    }
}

/// Starts a node over what its directory holds.
fn start(id: u64, directory: &Path, sockets: &mut Sockets, hooks: &Arc<Hooks>) -> Result<Raft<Ledger>, StartError> {
    let log = WalLog::open(directory.join("log"), WalOptions::new(CLUSTER, NodeId(id))).unwrap();
    // The socket of its earlier life is none of its peers.
    sockets.0.remove(&id);
    let transport = sockets.bind(id, log.incarnation());
    Raft::start_with(config(id, &[1, 2, 3]), options(directory), log, transport, Ledger::new(hooks))
}

fn leader(nodes: &BTreeMap<u64, Raft<Ledger>>) -> u64 {
    let any = nodes.values().next().unwrap();
    let found = any.wait_for(PATIENCE, |status| {
        let Some(leader) = status.leader.as_ref().and_then(|leader| nodes.get(&leader.id.0)) else { return false };
        let its = leader.status();
        its.role == RoleKind::Leader && its.commit_index.0 > 0
    });
    found.unwrap().leader.unwrap().id.0
}

fn same(nodes: &BTreeMap<u64, Raft<Ledger>>, last: EntryId, count: usize) {
    for node in nodes.values() {
        node.wait_for(PATIENCE, |status| status.applied_index >= last.index).unwrap();
        assert_eq!(node.stale_read(|ledger| ledger.commands().len()).unwrap(), count);
    }
}

#[test]
fn a_node_that_was_down_catches_up_through_files_and_sockets() {
    let directory = tempfile::tempdir().unwrap();
    let place = |id: &u64| directory.path().join(id.to_string());
    let hooks: BTreeMap<u64, Arc<Hooks>> = (1..=3).map(|id| (id, Arc::default())).collect();
    let mut sockets = Sockets::default();
    let mut begin = |id: u64| start(id, &place(&id), &mut sockets, &hooks[&id]).unwrap();
    let mut nodes: BTreeMap<u64, Raft<Ledger>> = (1..=3).map(|id| (id, begin(id))).collect();

    let first = leader(&nodes);
    let behind = nodes.keys().copied().find(|id| *id != first).unwrap();
    let last = propose(&nodes[&first], "first").id;
    same(&nodes, last, 1);
    nodes.remove(&behind).unwrap().shutdown();
    let first = leader(&nodes);
    for number in 0..100 {
        propose(&nodes[&first], format!("{number:0>200}"));
    }
    nodes[&first].wait_for(PATIENCE, |status| status.snapshot.last.is_some_and(|last| last.index.0 > 60)).unwrap();
    hooks[&behind].applied.store(0, Ordering::SeqCst);
    nodes.insert(behind, begin(behind));
    let last = propose(&nodes[&leader(&nodes)], "last").id;
    same(&nodes, last, 102);
    let status = nodes[&behind].status();
    assert!(status.counters.snapshots_fetched >= 1 && status.snapshot.last.is_some(), "{status:?}");
    assert!(hooks[&behind].applied.load(Ordering::SeqCst) < 60);

    // All of them again, each from its own snapshot and what follows it.
    drop(nodes);
    let nodes: BTreeMap<u64, Raft<Ledger>> = (1..=3).map(|id| (id, begin(id))).collect();
    let last = propose(&nodes[&leader(&nodes)], "on").id;
    same(&nodes, last, 103);
    drop(nodes);

    // Without its snapshots the log is only a part of the state.
    std::fs::remove_dir_all(place(&1).join("snapshots")).unwrap();
    let error = start(1, &place(&1), &mut sockets, &hooks[&1]).unwrap_err();
    assert!(matches!(error, StartError::SnapshotUnavailable { .. }), "{error}");
}
