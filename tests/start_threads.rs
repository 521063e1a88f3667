//! A node whose system gives it too few threads. The only test of this file that starts a node, because it looks at all
//! threads of the process.

#![cfg(all(feature = "testkit", feature = "persistence", feature = "tcp"))]

mod driver_support;

use driver_support::snapshots::{Hooks, Ledger};
use driver_support::{PATIENCE, config};
use raft_io::driver::{DriverOptions, Raft, Snapshots, StartError};
use raft_io::log::{WalLog, WalOptions};
use raft_io::snapshot::SnapshotFiles;
use raft_io::snapshot::files::SnapshotOptions;
use raft_io::testkit::threads::ThreadsRefused;
use raft_io::transport::{MemoryNetwork, RaftTransport, TcpConfig, TcpTransport};
use raft_io::{ClusterId, Membership, NodeId, RoleKind};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Starts a node with this transport, on what lies in `place`. Gives what the state machine was made with, too.
fn start(place: &Path, transport: impl RaftTransport) -> (Result<Raft<Ledger>, StartError>, Weak<Hooks>) {
    let log = WalLog::open(place.join("log"), WalOptions::new(ClusterId(7), NodeId(1)).segment_bytes(64 << 10));
    let store = SnapshotFiles::open(place.join("snapshots"), SnapshotOptions::new()).expect("the store opens");
    let mut options = DriverOptions::default();
    options.snapshots = Some(Snapshots::new(store));
    let mut config = config(1, &[1]);
    // Two more, whom nobody ever hears: the transport has a thread for each.
    config.membership = Membership::new([1_u64]).with_learner(2).with_learner(3);
    let hooks = Arc::<Hooks>::default();
    let raft = Raft::start_with(config, options, log.expect("the log opens"), transport, Ledger::new(&hooks));
    (raft, Arc::downgrade(&hooks))
}

/// The names of the library's threads that there are.
fn threads() -> Vec<String> {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return Vec::new() };
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with("raft-")).collect()
}

/// A thread has a name for a moment after it was joined.
fn no_thread_is_left(story: &str) {
    let began = Instant::now();
    while !threads().is_empty() {
        assert!(began.elapsed() < PATIENCE, "{story}: {:?}", threads());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Of each transport, started with one thread more each time until it starts. How many failures there were.
fn refuse_each(place: &Path, transport: &mut dyn FnMut() -> Box<dyn Starts>) -> u64 {
    for count in 0.. {
        let story = format!("thread {count}");
        let transport = transport();
        let refusal = ThreadsRefused::after(count);
        let (raft, machine) = transport.start(place);
        let refused = refusal.count();
        drop(refusal);
        let error = match raft {
            Err(error) => error,
            Ok(raft) => {
                assert_eq!(refused, 0, "{story}: it runs without one of its threads");
                raft.wait_for(PATIENCE, |status| status.role == RoleKind::Leader).expect("it leads");
                raft.propose("x").wait(PATIENCE).expect("it works");
                raft.snapshot().wait(PATIENCE).expect("it takes snapshots");
                raft.shutdown();
                drop(raft);
                no_thread_is_left("shut down");
                return count;
            }
        };
        assert_eq!(refused, 1, "{story}: it went on after a thread was refused");
        let text = error.to_string();
        assert!(matches!(error, StartError::Thread { .. }), "{story}: {text}");
        assert!(text.contains("injected: no more threads") && text.contains("ulimit -u"), "{story}: {text}");
        no_thread_is_left(&story);
        assert!(machine.upgrade().is_none(), "{story}: the state machine is kept");
        // The transport is shut down already; nobody has let go of it.
        transport.is_free(&story);
    }
    unreachable!("it starts at last")
}

/// A transport of one of the kinds.
trait Starts {
    fn start(&self, place: &Path) -> (Result<Raft<Ledger>, StartError>, Weak<Hooks>);
    fn is_free(&self, story: &str);
}

impl Starts for TcpTransport {
    fn start(&self, place: &Path) -> (Result<Raft<Ledger>, StartError>, Weak<Hooks>) {
        start(place, self.clone())
    }

    fn is_free(&self, story: &str) {
        let address = self.local_addr();
        TcpListener::bind(address).unwrap_or_else(|error| panic!("{story}: the port {address} is taken: {error}"));
    }
}

struct InMemory(MemoryNetwork);

impl Starts for InMemory {
    fn start(&self, place: &Path) -> (Result<Raft<Ledger>, StartError>, Weak<Hooks>) {
        start(place, self.0.transport(1))
    }

    fn is_free(&self, _: &str) {}
}

/// The log's lock, the port and the threads that had begun stayed with a program that went on after the error, or there was a
/// panic in place of an error: nobody had ever tried.
#[test]
fn a_node_that_gets_too_few_threads_leaves_nothing_behind() {
    let place = tempfile::tempdir().expect("a place");
    let tcp = refuse_each(place.path(), &mut || {
        let mut config = TcpConfig::new(7, 1, "127.0.0.1:0");
        config.backoff_last = Duration::from_millis(100);
        let config = config.peer(2, "127.0.0.1:1").peer(3, "127.0.0.1:2");
        Box::new(TcpTransport::bind(config).expect("a free port"))
    });
    let memory = refuse_each(place.path(), &mut || Box::new(InMemory(MemoryNetwork::new())));
    println!("{tcp} threads over TCP, {memory} in memory, each refused once");
    assert_eq!((tcp, memory), (9, 7));
}
