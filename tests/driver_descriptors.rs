//! A node whose process has no descriptor left. The only test of this file, because the limit is the process's.

#![cfg(all(unix, feature = "persistence"))]

mod driver_support;

use driver_support::{PATIENCE, Recorder, config, propose};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use raft_io::driver::{HeldUp, Raft};
use raft_io::log::{SharedLog, WalLog, WalOptions};
use raft_io::transport::MemoryNetwork;
use raft_io::{ClusterId, Index, LogView, NodeId, RoleKind};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

fn log_in(place: &Path, id: u64) -> WalLog {
    let options = WalOptions::new(ClusterId(7), NodeId(id)).segment_bytes(16 << 10).cache_bytes(1 << 10);
    WalLog::open(place.join(id.to_string()), options).expect("the log opens")
}

/// No file can be opened any more; those that are open work.
fn take_all_descriptors() -> u64 {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("there is a limit");
    setrlimit(Resource::RLIMIT_NOFILE, 3, hard).expect("it can be lowered");
    std::fs::File::open("/dev/null").expect_err("there is no descriptor left");
    soft
}

fn give_descriptors_back(soft: u64) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("there is a limit");
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("it can be raised again");
}

/// A follower was away for many segments. When it came back, the leader had too many files open to read them, and stopped
/// for good with all that it had.
#[test]
fn a_leader_without_descriptors_leads_on_and_helps_its_follower_later() {
    let place = tempfile::tempdir().expect("a place");
    let network = MemoryNetwork::new();
    let start = |id: u64| {
        let mut config = config(id, &[1, 2, 3]);
        config.priority = if id == 1 { 3 } else { 0 };
        Raft::start(config, log_in(place.path(), id), network.transport(id), Recorder::default()).expect("it starts")
    };
    let servers: Vec<_> = (1..=3).map(start).collect();
    let leader = &servers[0];
    leader
        .wait_for(PATIENCE, |status| status.role == RoleKind::Leader && status.applied_index.0 > 0)
        .expect("it leads");
    servers[2].wait_for(PATIENCE, |status| status.applied_index.0 > 0).expect("it follows");
    network.partition([3]);
    for _ in 0..60 {
        leader.propose(vec![b'x'; 1000]).wait(PATIENCE).expect("two of three are there");
    }
    let last = leader.status().last_index;
    servers[1].wait_for(PATIENCE, |status| status.applied_index == last).expect("it follows");
    let soft = take_all_descriptors();
    network.heal();
    let began = Instant::now();
    let reason = loop {
        let status = leader.status();
        assert_eq!((status.stopped, status.role), (None, RoleKind::Leader.into()));
        match status.peers.iter().find(|peer| peer.id == NodeId(3)).and_then(|peer| peer.held_up.clone()) {
            Some(HeldUp::LogUnreadable { reason, .. }) if status.counters.log_reads_failed > 3 => break reason,
            _ => assert!(began.elapsed() < PATIENCE, "it is not said why the follower lags"),
        }
        thread::sleep(Duration::from_millis(1));
    };
    assert!(reason.contains(".wal failed: ") && reason.contains("ulimit -n"), "{reason}");
    give_descriptors_back(soft);
    servers[2].wait_for(PATIENCE, |status| status.applied_index == last).expect("it catches up");
    assert_eq!(propose(leader, "y").expect("it leads on").response, 61);
    servers.iter().for_each(Raft::shutdown);

    // The log says the same without a node around it, and is whole.
    drop(servers);
    let log = log_in(place.path(), 1);
    let read = || WalLog::read_cold(&log.reader(), Index(2), Index(3), usize::MAX);
    let soft = take_all_descriptors();
    let error = read().expect_err("there is no descriptor for it");
    assert!(error.is_transient(), "{error}");
    give_descriptors_back(soft);
    read().expect("it is read again");
    assert!(log.last().index > last);
}
