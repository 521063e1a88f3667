//! A server with a real log gets an older copy of its directory back, behind a transport that compares nothing: the leader's
//! appends name what the server acknowledged, so it finds the loss itself, says so, and stops.

#![cfg(feature = "persistence")]

mod driver_support;

use driver_support::{PATIENCE, Recorder, config};
use raft_io::driver::{HeldUp, NodeRole, Raft, Status, StopReason, WaitError};
use raft_io::log::{WalError, WalLog, WalOptions};
use raft_io::transport::MemoryNetwork;
use raft_io::{ClusterId, Index, NodeId, RoleKind, Term};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

struct Servers {
    folder: tempfile::TempDir,
    network: MemoryNetwork,
    running: BTreeMap<u64, Raft<Recorder>>,
}

impl Servers {
    /// Three servers of which the first leads.
    fn three() -> Self {
        let (folder, network) = (tempfile::tempdir().unwrap(), MemoryNetwork::new());
        let mut servers = Self { folder, network, running: BTreeMap::new() };
        (1..=3).for_each(|id| servers.start(id));
        servers.leads();
        servers
    }

    fn directory(&self, id: u64) -> PathBuf {
        self.folder.path().join(format!("node-{id}"))
    }

    fn open(&self, id: u64) -> WalLog {
        let began = Instant::now();
        loop {
            match WalLog::open(self.directory(id), WalOptions::new(ClusterId(7), NodeId(id))) {
                Ok(log) => return log,
                // It is open until the last thread of the server before is gone.
                Err(WalError::Locked { .. }) => assert!(began.elapsed() < PATIENCE, "the log of {id} stays open"),
                Err(error) => panic!("{error}"),
            }
            thread::yield_now();
        }
    }

    fn start(&mut self, id: u64) {
        let mut config = config(id, &[1, 2, 3]);
        config.priority = [3, 0, 0][id as usize - 1];
        let raft = Raft::start(config, self.open(id), self.network.transport(id), Recorder::default()).unwrap();
        self.running.insert(id, raft);
    }

    /// The server is gone, and its directory may be copied.
    fn stop(&mut self, id: u64) {
        self.running.remove(&id).unwrap().shutdown();
        drop(self.open(id));
    }

    fn at(&self, id: u64) -> &Raft<Recorder> {
        &self.running[&id]
    }

    fn leads(&self) {
        self.at(1).wait_for(PATIENCE, |status| status.role == RoleKind::Leader && status.applied_index.0 > 0).unwrap();
    }

    fn write(&self, count: usize) {
        for _ in 0..count {
            driver_support::propose(self.at(1), "x").unwrap();
        }
    }

    /// Waits until the leader knows that a follower holds its whole log.
    fn acknowledged(&self, id: u64) -> Index {
        let holds = |status: &Status| {
            status.peers.iter().any(|peer| peer.id == NodeId(id) && peer.match_index == status.last_index)
        };
        eventually("the follower has acknowledged all", || holds(&self.at(1).status()));
        self.at(1).status().last_index
    }

    /// Why a follower does not catch up with the leader.
    fn held_up(&self, id: u64) -> Option<HeldUp> {
        self.at(1).status().peers.into_iter().find(|peer| peer.id == NodeId(id))?.held_up
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "not in time: {what}");
        thread::park_timeout(Duration::from_millis(2));
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

fn put_back(from: &Path, to: &Path) {
    fs::remove_dir_all(to).unwrap();
    copy(from, to);
}

/// The leader went on to believe that the follower had what it had acknowledged, probed for ever behind that, and the
/// follower voted: with the other follower gone, what was acknowledged by these two could be lost.
#[test]
fn a_follower_whose_directory_was_put_back_stops_and_its_leader_counts_it_no_more() {
    let mut servers = Servers::three();
    servers.write(3);
    servers.acknowledged(3);
    servers.stop(3);
    let backup = servers.folder.path().join("backup");
    copy(&servers.directory(3), &backup);
    servers.start(3);
    servers.write(4);
    let acknowledged = servers.acknowledged(3);
    let term = servers.at(1).status().term;
    servers.stop(3);
    put_back(&backup, &servers.directory(3));
    servers.start(3);

    // It stops by itself, and says what to do.
    let stopped = servers.at(3).wait_for(PATIENCE, |_| false).unwrap_err();
    assert!(matches!(stopped, WaitError::Fatal { .. }), "{stopped}");
    let status = servers.at(3).status();
    assert_eq!(status.role, NodeRole::Stopped);
    let durable = Index(acknowledged.0 - 4);
    let reason = StopReason::LostAcknowledged { leader: NodeId(1), term, acknowledged, durable };
    assert_eq!(status.stopped, Some(reason));
    let words = status.fatal.unwrap();
    assert!(words.contains("it lost data") && words.contains("add the server under a new id"), "{words}");

    // Its leader heard of it although it stopped, believes it nothing, and goes on with the other follower.
    let lost = Some(HeldUp::LostData { acknowledged });
    eventually("the leader says so", || servers.held_up(3) == lost);
    servers.write(2);
    let status = servers.at(1).status();
    let peer = status.peers.iter().find(|peer| peer.id == NodeId(3)).unwrap();
    assert_eq!((peer.match_index, peer.active), (Index(0), false));
    assert!(status.prometheus().contains("raft_peer_held_up{node=\"1\",peer=\"3\",reason=\"lost_data\"} 1"));
    assert!(peer.held_up.as_ref().unwrap().to_string().contains("counts for no quorum"));

    // Started again with the same disk it is told again.
    servers.stop(3);
    servers.start(3);
    servers.at(3).wait_for(PATIENCE, |_| false).unwrap_err();
    assert!(matches!(servers.at(3).status().stopped, Some(StopReason::LostAcknowledged { .. })));
}

/// The leader believes the follower nothing any more: without the other one nothing commits, and it steps down.
#[test]
fn a_leader_with_a_follower_that_lost_data_and_no_other_has_no_quorum() {
    let mut servers = Servers::three();
    servers.stop(3);
    let backup = servers.folder.path().join("backup");
    copy(&servers.directory(3), &backup);
    servers.start(3);
    servers.write(3);
    let acknowledged = servers.acknowledged(3);
    servers.stop(3);
    put_back(&backup, &servers.directory(3));
    servers.start(3);
    eventually("the leader says so", || servers.held_up(3) == Some(HeldUp::LostData { acknowledged }));
    servers.stop(2);
    let ends = servers.at(1).propose("nobody but the leader has it").wait(PATIENCE);
    assert!(ends.is_err(), "{ends:?}");
    servers.at(1).wait_for(PATIENCE, |status| status.role != RoleKind::Leader).unwrap();
    assert!(servers.at(3).status().stopped.is_some());
}

/// A follower that crashes, or is stopped and started, has all that it acknowledged: nobody is accused.
#[test]
fn a_follower_that_is_started_again_is_not_accused() {
    let mut servers = Servers::three();
    for round in 0..5 {
        servers.write(2);
        servers.acknowledged(3);
        servers.stop(3);
        servers.write(2);
        servers.start(3);
        servers.acknowledged(3);
        assert_eq!(servers.at(3).status().stopped, None, "round {round}");
    }
    assert!(servers.at(1).status().term >= Term(1));
    assert_eq!(servers.held_up(3), None);
}
