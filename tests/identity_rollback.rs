//! Whole servers, with real directories and over TCP, of which one gets an older copy of its directory back, or another one:
//! it is kept out by whoever knows the later state, says so, and nothing that was acknowledged is lost.

#![cfg(all(feature = "tcp", feature = "persistence"))]

mod driver_support;

use driver_support::{PATIENCE, Recorder, config};
use raft_io::driver::{NodeRole, Raft, StopReason};
use raft_io::log::{WalError, WalLog, WalOptions};
use raft_io::transport::{TcpConfig, TcpTransport};
use raft_io::{ClusterId, NodeId, RoleKind};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{fs, thread};

const CLUSTER: ClusterId = ClusterId(7);

struct Server {
    raft: Raft<Recorder>,
    transport: TcpTransport,
}

/// Three servers with priorities, so that the first leads whenever it is there.
struct Servers {
    folder: tempfile::TempDir,
    addresses: BTreeMap<u64, String>,
    running: BTreeMap<u64, Server>,
    events: Arc<Mutex<Vec<String>>>,
    acknowledged: usize,
}

fn transport(
    id: u64,
    listen: &str,
    addresses: &BTreeMap<u64, String>,
    events: &Arc<Mutex<Vec<String>>>,
) -> TcpTransport {
    let mut config = TcpConfig::new(CLUSTER, id, listen);
    config.ping_interval = Duration::from_millis(100);
    config.silence_max = Duration::from_secs(2);
    config.backoff_first = Duration::from_millis(10);
    config.backoff_last = Duration::from_millis(100);
    for (peer, address) in addresses {
        config = config.peer(*peer, address.clone());
    }
    let events = Arc::clone(events);
    let config = config.on_event(move |event| events.lock().unwrap().push(format!("node {id}: {event}")));
    let began = Instant::now();
    loop {
        match TcpTransport::bind(config.clone()) {
            Ok(transport) => return transport,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
        }
        thread::yield_now();
    }
}

impl Servers {
    fn three() -> Self {
        let events = Arc::default();
        let folder = tempfile::tempdir().unwrap();
        // Ports that nobody has; each server binds its own again.
        let listeners: Vec<_> = (0..3).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses = (1..).zip(&listeners).map(|(id, listener)| (id, listener.local_addr().unwrap().to_string()));
        let addresses = addresses.collect();
        drop(listeners);
        let mut servers = Self { folder, addresses, running: BTreeMap::new(), events, acknowledged: 0 };
        (1..=3).for_each(|id| servers.start(id));
        servers.wait_leader(1);
        servers
    }

    fn directory(&self, id: u64) -> PathBuf {
        self.folder.path().join(format!("node-{id}"))
    }

    fn open(&self, id: u64) -> Result<WalLog, WalError> {
        WalLog::open(self.directory(id), WalOptions::new(CLUSTER, NodeId(id)).segment_bytes(64 << 10))
    }

    fn start(&mut self, id: u64) {
        let log = self.open(id).unwrap();
        let transport = transport(id, &self.addresses[&id], &self.addresses, &self.events);
        let mut config = config(id, &[1, 2, 3]);
        config.priority = [3, 1, 0][id as usize - 1];
        let raft = Raft::start(config, log, transport.clone(), Recorder::default()).unwrap();
        self.running.insert(id, Server { raft, transport });
    }

    fn stop(&mut self, id: u64) {
        let server = self.running.remove(&id).unwrap();
        server.raft.shutdown();
        drop(server);
        // The log is open until its last thread is gone.
        eventually("the log is closed", || !matches!(self.open_briefly(id), Err(WalError::Locked { .. })));
    }

    /// Looks whether the directory can be locked, without an opening of the log.
    fn open_briefly(&self, id: u64) -> Result<(), WalError> {
        use raft_io::log::wal::{Directory, OsDirectory};
        let directory = self.directory(id);
        let lock = OsDirectory::new(&directory).unwrap().try_lock("LOCK").unwrap();
        lock.map(drop).ok_or(WalError::Locked { directory })
    }

    fn at(&self, id: u64) -> &Raft<Recorder> {
        &self.running[&id].raft
    }

    fn wait_leader(&self, id: u64) {
        let leads = |status: &raft_io::Status| status.role == RoleKind::Leader;
        self.at(id).wait_for(PATIENCE, leads).unwrap();
    }

    fn leader(&self) -> u64 {
        let mut found = None;
        eventually("somebody leads", || {
            let leads = |server: &&Server| server.raft.status().role == RoleKind::Leader;
            found = self.running.values().find(leads).map(|server| server.raft.id().0);
            found.is_some()
        });
        found.unwrap()
    }

    fn write(&mut self, count: usize) {
        for _ in 0..count {
            let command = self.acknowledged.to_string();
            eventually("a write is acknowledged", || {
                self.at(self.leader()).propose(command.clone()).wait(PATIENCE).is_ok()
            });
            self.acknowledged += 1;
        }
    }

    fn wait_all_applied(&self) {
        let last = self.at(self.leader()).status().last_index;
        for server in self.running.values() {
            server.raft.wait_for(PATIENCE, |status| status.applied_index >= last).unwrap();
        }
    }

    /// A node that is to have stopped for good, because of its data.
    fn assert_lost(&self, id: u64, found: &str) {
        let stopped = self.at(id).status().stopped;
        eventually("the server stops", || self.at(id).status().stopped.is_some());
        let status = self.at(id).status();
        assert_eq!(status.role, NodeRole::Stopped);
        match status.stopped {
            Some(StopReason::DataLost { message }) => {
                assert!(message.contains(found) && message.contains("add it under a new id"), "{message}");
            }
            other => panic!("{other:?}, before {stopped:?}: {:#?}", self.events.lock().unwrap()),
        }
        eventually("nobody has a connection with it", || {
            let others = self.running.iter().filter(|(other, _)| **other != id);
            others.map(|(_, server)| server.transport.stats()).all(|stats| {
                let peer = &stats.peers[&NodeId(id)];
                !peer.accepted && !peer.connected
            })
        });
    }

    /// Everything that was acknowledged is in each of these logs' machines, once and in order.
    fn assert_holds_all(&self, id: u64) {
        let expected: Vec<_> = (0..self.acknowledged).collect();
        eventually("everything is applied", || {
            let applied = self.at(id).stale_read(|machine: &Recorder| machine.applied.clone()).unwrap();
            let number = |command: &[u8]| std::str::from_utf8(command).unwrap().parse().unwrap();
            let mut numbers: Vec<usize> = applied.iter().map(|(_, command)| number(command)).collect();
            // A write whose first answer was lost on the way may be there twice.
            numbers.dedup();
            assert!(numbers.iter().zip(&expected).all(|(found, expected)| found == expected), "{numbers:?}");
            numbers.len() >= expected.len()
        });
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "not in time: {what}");
        thread::park_timeout(Duration::from_millis(2));
    }
}

/// Of a log that runs the watermark must be the oldest part, as it is on a disk.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let mut names: Vec<_> = fs::read_dir(from).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort_by_key(|name| (name != "WATERMARK", name.clone()));
    for name in names.iter().filter(|name| *name != "LOCK") {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

fn put_back(from: &Path, to: &Path) {
    fs::remove_dir_all(to).unwrap();
    copy(from, to);
}

/// An older copy of a directory was let in: the leader believed that it had what it had acknowledged, never sent the rest, and
/// with a second server down acknowledged writes were lost.
#[test]
fn an_older_copy_of_a_directory_is_kept_out() {
    let mut servers = Servers::three();
    servers.write(2);
    servers.wait_all_applied();
    servers.stop(3);
    let older = servers.folder.path().join("older");
    copy(&servers.directory(3), &older);
    servers.start(3);
    servers.write(300);
    servers.wait_all_applied();
    servers.stop(3);
    put_back(&older, &servers.directory(3));
    servers.start(3);
    servers.assert_lost(3, "lost_life");
    // It counts for no quorum: without server 2 nothing is committed, and with it everything is there.
    servers.stop(2);
    let proposal = servers.at(1).propose("302");
    assert!(servers.at(1).wait_for(Duration::from_secs(1), |status| status.commit_index.0 > 303).is_err());
    servers.start(2);
    drop(proposal.wait(PATIENCE));
    servers.write(0);
    eventually("it is committed", || servers.running.values().any(|server| server.raft.status().commit_index.0 > 303));
    // It cannot come back, however often it is started.
    servers.stop(3);
    servers.start(3);
    servers.assert_lost(3, "lost_");
}

/// The copy was made while the server ran, and put back without an opening in between: every life in it is known.
#[test]
fn a_hot_copy_of_a_directory_is_kept_out() {
    let mut servers = Servers::three();
    servers.write(5);
    servers.wait_all_applied();
    let older = servers.folder.path().join("older");
    copy(&servers.directory(3), &older);
    servers.write(50);
    servers.wait_all_applied();
    servers.stop(3);
    put_back(&older, &servers.directory(3));
    servers.start(3);
    servers.assert_lost(3, "lost_entries");
    servers.write(5);
    servers.assert_holds_all(1);
    servers.assert_holds_all(2);
}

/// Of the leader's own directory nobody gets an acknowledgement: it says itself what it holds.
#[test]
fn a_hot_copy_of_the_leaders_directory_is_kept_out() {
    let mut servers = Servers::three();
    servers.write(5);
    servers.wait_all_applied();
    let older = servers.folder.path().join("older");
    copy(&servers.directory(1), &older);
    servers.write(50);
    servers.wait_all_applied();
    // Without an election meanwhile, so that the term is the same.
    servers.stop(3);
    servers.stop(2);
    servers.stop(1);
    put_back(&older, &servers.directory(1));
    servers.start(2);
    servers.start(1);
    servers.assert_lost(1, "lost_entries");
    servers.start(3);
    servers.write(5);
    servers.assert_holds_all(2);
    servers.assert_holds_all(3);
}

/// As a snapshot of a file system that is put back under two servers of three: the third knows, and one is not enough to lead.
#[test]
fn two_servers_of_three_that_are_put_back_do_not_lead_together() {
    let mut servers = Servers::three();
    servers.write(5);
    servers.wait_all_applied();
    for id in [2, 3] {
        servers.stop(id);
        copy(&servers.directory(id), &servers.folder.path().join(format!("older-{id}")));
        servers.start(id);
    }
    servers.write(50);
    servers.wait_all_applied();
    for id in [2, 3] {
        servers.stop(id);
    }
    for id in [2, 3] {
        let older = servers.folder.path().join(format!("older-{id}"));
        put_back(&older, &servers.directory(id));
        servers.start(id);
    }
    servers.assert_lost(2, "lost_life");
    servers.assert_lost(3, "lost_life");
    eventually("nobody follows it", || servers.at(1).status().role != RoleKind::Leader);
    servers.assert_holds_all(1);
}

#[test]
fn a_wiped_directory_is_kept_out() {
    let mut servers = Servers::three();
    servers.write(5);
    servers.wait_all_applied();
    servers.stop(3);
    fs::remove_dir_all(servers.directory(3)).unwrap();
    servers.start(3);
    // By its random number, or by the life that it lacks: whichever side says hello first.
    servers.assert_lost(3, "remembers of it");
    servers.write(5);
    servers.assert_holds_all(1);
}

#[test]
fn directories_that_were_swapped_open_as_nobodys() {
    let mut servers = Servers::three();
    servers.write(5);
    servers.wait_all_applied();
    servers.stop(2);
    servers.stop(3);
    let aside = servers.folder.path().join("aside");
    fs::rename(servers.directory(2), &aside).unwrap();
    fs::rename(servers.directory(3), servers.directory(2)).unwrap();
    fs::rename(&aside, servers.directory(3)).unwrap();
    for (id, other) in [(2, 3), (3, 2)] {
        let error = servers.open(id).unwrap_err();
        assert!(matches!(error, WalError::WrongNode { found, .. } if found == NodeId(other)), "{error}");
    }
}

/// Nobody is accused who lost nothing: servers that come and go one after the other, and all at once, tools that open a
/// directory while its server is down, and a copy that is put back of a server that did nothing since.
#[test]
fn servers_that_lost_nothing_are_let_in() {
    let mut servers = Servers::three();
    for round in 0..4 {
        for id in [3, 2, 1] {
            servers.stop(id);
            if round == 1 {
                drop(servers.open(id).unwrap());
            }
            servers.write(2);
            servers.start(id);
            servers.wait_all_applied();
        }
    }
    for id in 1..=3 {
        servers.stop(id);
    }
    for id in [2, 3, 1] {
        servers.start(id);
    }
    servers.write(3);
    servers.wait_all_applied();
    servers.stop(3);
    let same = servers.folder.path().join("same");
    copy(&servers.directory(3), &same);
    put_back(&same, &servers.directory(3));
    servers.start(3);
    servers.write(3);
    servers.wait_all_applied();
    let events = servers.events.lock().unwrap();
    let accused: Vec<_> = events.iter().filter(|event| event.contains("lost") && event.contains("new id")).collect();
    assert_eq!(accused, Vec::<&String>::new());
    drop(events);
    (1..=3).for_each(|id| servers.assert_holds_all(id));
}
