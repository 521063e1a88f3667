//! Directories that 0.6.0 wrote: they open, serve, and their cluster gets a history once all of its servers know what that is.

#![cfg(all(feature = "std", feature = "persistence"))]

mod driver_support;

use bytes::Bytes;
use driver_support::snapshots::{Hooks, Ledger, Road, Tolls};
use driver_support::{PATIENCE, config};
use raft_io::driver::{DriverOptions, Raft, Snapshots};
use raft_io::log::{WalLog, WalOptions};
use raft_io::snapshot::files::SnapshotOptions;
use raft_io::snapshot::{SnapshotFiles, SnapshotStore};
use raft_io::transport::MemoryNetwork;
use raft_io::{ClusterId, EntryId, Index, LogView, NodeId};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A copy of one server's directory.
fn copied(id: u64, into: &Path) -> PathBuf {
    let from = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden_0_6/node-{id}"));
    let to = into.join(format!("node-{id}"));
    for part in ["log", "snapshots"] {
        fs::create_dir_all(to.join(part)).unwrap();
        for file in fs::read_dir(from.join(part)).into_iter().flatten() {
            let file = file.unwrap();
            fs::copy(file.path(), to.join(part).join(file.file_name())).unwrap();
        }
    }
    to
}

struct Server {
    raft: Raft<Ledger>,
    tolls: Arc<Tolls>,
    store: SnapshotFiles,
}

/// Starts a server on its directory; `older` are the peers that it knows to be of before 0.7.
fn start(id: u64, directory: &Path, network: &MemoryNetwork, older: &[u64]) -> Server {
    let options = WalOptions::new(ClusterId(7), NodeId(id)).segment_bytes(4096);
    let log = WalLog::open(directory.join("log"), options).unwrap();
    let store = SnapshotFiles::open(directory.join("snapshots"), SnapshotOptions::new().chunk_bytes(512)).unwrap();
    let mut options = DriverOptions::default();
    (options.snapshot_entries, options.snapshot_bytes, options.snapshot_trail_entries) = (usize::MAX, u64::MAX, 2);
    options.snapshots = Some(Snapshots::new(store.clone()));
    let tolls = Arc::<Tolls>::default();
    *tolls.older.lock().unwrap() = older.iter().copied().map(NodeId).collect();
    let road = Road { inner: network.transport(id), tolls: Arc::clone(&tolls) };
    let machine = Ledger::new(&Arc::<Hooks>::default());
    let raft = Raft::start_with(config(id, &[1, 2, 3]), options, log, road, machine).unwrap();
    Server { raft, tolls, store }
}

fn commands(count: usize) -> Vec<Bytes> {
    (1..=count).map(|number| Bytes::from(format!("command {number}"))).collect()
}

#[test]
fn every_directory_opens_with_what_it_held() {
    let place = tempfile::tempdir().unwrap();
    for (id, base) in [(1, EntryId::new(7, 1)), (2, EntryId::new(7, 1)), (3, EntryId::ZERO)] {
        let directory = copied(id, place.path());
        let options = WalOptions::new(ClusterId(7), NodeId(id)).segment_bytes(4096);
        let log = WalLog::open(directory.join("log"), options).unwrap();
        assert_eq!((log.base(), log.last()), (base, EntryId::new(13, 1)), "node {id}");
        assert_eq!(log.memberships().at_snapshot.unwrap().history(), None);
        let store = SnapshotFiles::open(directory.join("snapshots"), SnapshotOptions::new()).unwrap();
        let newest = store.newest();
        assert_eq!(newest.as_ref().map(|info| info.last), (id < 3).then_some(EntryId::new(9, 1)));
        assert!(newest.is_none_or(|info| info.history().unwrap().is_none()));
    }
}

/// One server after the other is upgraded. As long as the leader knows one that is older nobody names a history, which that one
/// would refuse, and all entries after it; then the leader does, and the next snapshots say so.
#[test]
fn the_cluster_gets_a_history_once_every_server_understands_it() {
    let (place, network) = (tempfile::tempdir().unwrap(), MemoryNetwork::new());
    let servers = [1, 2, 3].map(|id| start(id, &copied(id, place.path()), &network, &[3]));
    let leader = servers[0].raft.wait_for(PATIENCE, |status| status.leader.is_some()).unwrap().leader.unwrap().id;
    let leader = &servers[leader.0 as usize - 1];
    let applied = leader.raft.propose("command 13").wait(PATIENCE).unwrap();
    for server in &servers {
        server.raft.wait_for(PATIENCE, |status| status.applied_index >= applied.id.index).unwrap();
        assert_eq!(server.raft.stale_read(Ledger::commands).unwrap(), commands(13));
        assert_eq!(server.raft.status().history, None);
    }
    // A snapshot of a cluster without a history, as ever.
    let info = leader.raft.snapshot().wait(PATIENCE).unwrap();
    assert_eq!(info.history().unwrap(), None);
    for server in &servers {
        server.tolls.older.lock().unwrap().clear();
    }
    let known = servers
        .each_ref()
        .map(|server| server.raft.wait_for(PATIENCE, |status| status.history.is_some()).unwrap().history.unwrap());
    assert!(known.iter().all(|id| *id == known[0]), "{known:?}");
    let applied = leader.raft.propose("command 14").wait(PATIENCE).unwrap();
    for server in &servers {
        server.raft.wait_for(PATIENCE, |status| status.applied_index >= applied.id.index).unwrap();
        let info = server.raft.snapshot().wait(PATIENCE).unwrap();
        let history = info.history().unwrap().unwrap();
        assert_eq!((history.id(), history.parent()), (known[0], None));
        assert!(history.since().index > Index(14), "the entry that brought it comes after those of 0.6.0");
        assert_eq!(server.raft.stale_read(Ledger::commands).unwrap(), commands(14));
        assert_eq!(server.store.newest(), Some(info));
    }
    // And they start again with what they have now.
    for server in servers {
        server.raft.shutdown();
    }
    let network = MemoryNetwork::new();
    for id in [1, 2, 3] {
        let server = start(id, &place.path().join(format!("node-{id}")), &network, &[]);
        assert_eq!(server.raft.status().history, Some(known[0]), "node {id}");
        assert_eq!(server.raft.stale_read(Ledger::commands).unwrap(), commands(14));
    }
}
