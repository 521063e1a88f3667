//! Failing disks, panics and shutdowns: the node stops where it must, and everyone is told the truth.

#![cfg(feature = "std")]

mod driver_support;

use driver_support::{Cluster, Faults, FaultyLog, Gate, Network, PATIENCE, Recorder, config, propose, single};
use raft_io::driver::{DriverOptions, Raft, RequestError, StartError, StopReason, UnknownReason, WaitError};
use raft_io::log::{Locked, LogView, RaftLog};
use raft_io::{EntryId, Index, Membership, MemoryLog, NodeId, RoleKind, StateMachine};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

fn unknown<T: std::fmt::Debug>(outcome: Result<T, RequestError>) -> (EntryId, UnknownReason) {
    match outcome {
        Err(RequestError::OutcomeUnknown { id, reason }) => (id, reason),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_failed_sync_is_fatal_and_never_retried() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let raft = &cluster.nodes[&leader];
    let acknowledged = propose(raft, "before").unwrap();
    let faults = &cluster.faults[&leader];
    faults.sync_gate.shut();
    let during = raft.propose("during");
    faults.sync_gate.wait_for_visitor();
    let held = raft.propose("held");
    faults.fail_sync.store(true, Ordering::SeqCst);
    faults.sync_gate.open();

    let status = raft.wait_for(PATIENCE, |status| status.fatal.is_some()).unwrap();
    assert!(status.fatal.unwrap().contains("failed to sync: injected: the disk is gone"));
    assert_eq!(
        unknown(during.wait(PATIENCE)),
        (EntryId { index: acknowledged.id.index.next(), ..acknowledged.id }, UnknownReason::Fatal)
    );
    // It waited for the log and was never appended.
    let outcome = held.wait(PATIENCE);
    assert!(matches!(outcome, Err(RequestError::Fatal { .. })), "{outcome:?}");
    let outcome = propose(raft, "after");
    assert!(matches!(outcome, Err(RequestError::Fatal { .. })), "{outcome:?}");
    let outcome = raft.stale_read(|machine| machine.applied.len());
    assert!(matches!(outcome, Err(RequestError::Fatal { .. })), "{outcome:?}");
    let waited = raft.wait_for(PATIENCE, |_| false);
    assert!(matches!(waited, Err(WaitError::Fatal { .. })), "{waited:?}");

    // The disk would work again, but nothing is written, sent or acknowledged.
    let (syncs, appends) = (faults.syncs.load(Ordering::SeqCst), faults.appends.load(Ordering::SeqCst));
    let sent = cluster.network.sent_by(leader);
    let new = cluster.leader_among(cluster.followers(leader));
    propose(&cluster.nodes[&new], "elsewhere").unwrap();
    cluster.network.wait_sent(new, 50);
    assert_eq!(faults.syncs.load(Ordering::SeqCst), syncs);
    assert_eq!(faults.appends.load(Ordering::SeqCst), appends);
    assert_eq!(cluster.network.sent_by(leader), sent);
    raft.shutdown();
    assert!(matches!(propose(raft, "after shutdown"), Err(RequestError::Fatal { .. })));
}

#[test]
fn a_failed_sync_on_a_follower_stops_its_acknowledgements() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let [broken, other] = cluster.followers(leader)[..] else { panic!("three nodes") };
    cluster.faults[&broken].fail_sync.store(true, Ordering::SeqCst);
    let applied = propose(&cluster.nodes[&leader], "x").unwrap();
    cluster.nodes[&broken].wait_for(PATIENCE, |status| status.fatal.is_some()).unwrap();
    // With the other follower away as well there is no quorum: the broken one must not make it.
    cluster.network.isolate(&[other]);
    unknown(propose(&cluster.nodes[&leader], "y"));
    assert_eq!(cluster.nodes[&leader].status().commit_index, applied.id.index);
}

#[test]
fn an_unreadable_committed_entry_is_fatal() {
    let (raft, faults, _network) = single(DriverOptions::default());
    let applied = propose(&raft, "x").unwrap();
    faults.fail_reads.store(true, Ordering::SeqCst);
    faults.cold.store(true, Ordering::SeqCst);
    let (id, reason) = unknown(propose(&raft, "y"));
    assert_eq!((id.index, reason), (applied.id.index.next(), UnknownReason::Fatal));
    assert!(raft.status().fatal.unwrap().contains("cannot be read from the log: injected"));
}

#[test]
fn entries_that_left_the_memory_are_applied_all_the_same() {
    let (raft, faults, _network) = single(DriverOptions::default());
    faults.cold.store(true, Ordering::SeqCst);
    assert_eq!(propose(&raft, "x").unwrap().response, 1);
}

#[test]
fn a_panic_of_the_state_machine_is_fatal_and_stays_inside() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let raft = &cluster.nodes[&leader];
    let good = propose(raft, "good").unwrap();
    let (id, reason) = unknown(propose(raft, "panic"));
    assert_eq!((id.index, reason), (good.id.index.next(), UnknownReason::Fatal));
    let fatal = raft.status().fatal.unwrap();
    assert!(fatal.contains("StateMachine::apply panicked at") && fatal.contains("does not survive"), "{fatal}");
    assert!(matches!(propose(raft, "more"), Err(RequestError::Fatal { .. })));
}

#[test]
fn a_panic_of_a_stale_read_comes_back_to_its_caller_alone() {
    let (raft, _faults, _network) = single(DriverOptions::default());
    let asking = raft.clone();
    let panic = thread::spawn(move || asking.stale_read(|_| panic!("mine"))).join().unwrap_err();
    assert_eq!(*panic.downcast::<&str>().unwrap(), "mine");
    assert_eq!(propose(&raft, "x").unwrap().response, 1);
}

#[test]
fn a_shutdown_during_a_sync_answers_at_once_and_ends_after_it() {
    let mut options = DriverOptions::default();
    options.drain_timeout = Duration::from_millis(20);
    let (raft, faults, _network) = single(options);
    faults.sync_gate.shut();
    let appended = raft.propose("appended");
    faults.sync_gate.wait_for_visitor();
    let held = raft.propose("held");
    let (done, ended) = mpsc::channel();
    for _ in 0..2 {
        let (raft, done) = (raft.clone(), done.clone());
        thread::spawn(move || {
            raft.shutdown();
            done.send(()).unwrap();
        });
    }
    let (id, reason) = unknown(appended.wait(PATIENCE));
    assert_eq!((id.index, reason), (Index(2), UnknownReason::Shutdown));
    assert_eq!(held.wait(PATIENCE), Err(RequestError::Shutdown));
    assert_eq!(propose(&raft, "late"), Err(RequestError::Shutdown));
    assert_eq!(raft.stale_read(|_| ()), Err(RequestError::Shutdown));
    assert!(ended.try_recv().is_err(), "the sync is still in progress");
    faults.sync_gate.open();
    for _ in 0..2 {
        ended.recv_timeout(PATIENCE).unwrap();
    }
    raft.shutdown();
    assert!(raft.status().shutdown);
}

#[test]
fn a_shutdown_drains_what_it_can() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let raft = &cluster.nodes[&leader];
    let faults = &cluster.faults[&leader];
    faults.sync_gate.shut();
    let first = raft.propose("first");
    faults.sync_gate.wait_for_visitor();
    let held = raft.propose("held");
    let closing = {
        let raft = raft.clone();
        thread::spawn(move || raft.shutdown())
    };
    raft.wait_for(PATIENCE, |status| status.shutdown).unwrap();
    assert_eq!(propose(raft, "late"), Err(RequestError::Shutdown));
    faults.sync_gate.open();
    assert_eq!(first.wait(PATIENCE).unwrap().response, 1);
    assert_eq!(held.wait(PATIENCE).unwrap().response, 2);
    closing.join().unwrap();
}

#[test]
fn the_last_handle_shuts_the_node_down() {
    let (log, faults) = FaultyLog::new();
    let network = Network::default();
    let raft = Raft::start(config(1, &[1]), log, network.transport(1), Recorder::default()).unwrap();
    let other = raft.clone();
    let mut watch = raft.watch();
    drop(raft);
    other.wait_for(PATIENCE, |status| status.role == RoleKind::Leader).unwrap();
    let open = other.propose("x");
    drop(other);
    // Drained before the end, then nothing is left running.
    assert_eq!(open.wait(Duration::ZERO).unwrap().response, 1);
    while watch.next(Duration::ZERO).is_some() {}
    assert_eq!(Arc::strong_count(&faults), 1, "the log and its readers are gone");
}

/// Drops its own node's last handle from within.
struct Suicidal {
    own: mpsc::Receiver<Raft<Suicidal>>,
    _alive: Arc<()>,
}

impl StateMachine for Suicidal {
    type Response = ();

    fn apply(&mut self, _: EntryId, _: &bytes::Bytes) {
        drop(self.own.recv().unwrap());
    }
}

#[test]
fn a_state_machine_may_drop_the_last_handle_of_its_node() {
    let (give, own) = mpsc::channel();
    let alive = Arc::new(());
    let machine = Suicidal { own, _alive: alive.clone() };
    let network = Network::default();
    let raft = Raft::start(config(1, &[1]), Locked::new(MemoryLog::new()), network.transport(1), machine).unwrap();
    raft.wait_for(PATIENCE, |status| status.role == RoleKind::Leader).unwrap();
    let mut watch = raft.watch();
    let proposal = raft.propose("x");
    give.send(raft).unwrap();
    proposal.wait(PATIENCE).unwrap();
    // The feed ends with the node.
    while watch.next(PATIENCE).is_some() {}
    drop(watch);
}

#[test]
fn a_cancelled_proposal_is_never_appended() {
    let (raft, faults, _network) = single(DriverOptions::default());
    faults.sync_gate.shut();
    let first = raft.propose("first");
    faults.sync_gate.wait_for_visitor();
    let outcome = raft.propose("too late").wait(Duration::from_millis(1));
    assert_eq!(outcome, Err(RequestError::DeadlineExceeded { proposed: None }));
    let mut batch = raft.propose_batch(vec!["a".into(), "b".into()]).into_iter();
    let (_, last) = (batch.next().unwrap(), batch.next().unwrap());
    assert_eq!(last.wait(Duration::from_millis(1)), Err(RequestError::DeadlineExceeded { proposed: None }));
    let kept = raft.propose("kept");
    faults.sync_gate.open();
    first.wait(PATIENCE).unwrap();
    assert_eq!(kept.wait(PATIENCE).unwrap().response, 2);
    let commands: Vec<bytes::Bytes> =
        raft.stale_read(|machine| machine.applied.iter().map(|(_, c)| c.clone()).collect()).unwrap();
    assert_eq!(commands, ["first", "kept"]);
}

#[test]
fn what_arrives_during_a_sync_goes_into_the_next_as_one_write() {
    let (raft, faults, _network) = single(DriverOptions::default());
    let (syncs, writes) = (faults.syncs.load(Ordering::SeqCst), raft.status().counters.log_writes);
    faults.sync_gate.shut();
    let mut proposals = vec![raft.propose("first")];
    faults.sync_gate.wait_for_visitor();
    proposals.extend((0..100).map(|_| raft.propose("more")));
    faults.sync_gate.open();
    for proposal in proposals {
        proposal.wait(PATIENCE).unwrap();
    }
    assert_eq!(faults.syncs.load(Ordering::SeqCst) - syncs, 2);
    assert_eq!(raft.status().counters.log_writes - writes, 2);
}

#[test]
fn a_compacted_log_without_a_snapshot_does_not_start() {
    let mut log = MemoryLog::new();
    let mut node = raft_io::RaftNode::new(config(1, &[1])).unwrap();
    while !node.is_leader() {
        node.step(raft_io::node::Event::Tick).unwrap();
    }
    let base = node.log().last();
    let compaction = Some(raft_io::Compaction { snapshot: base, base, membership: Arc::new(Membership::new([1_u64])) });
    let hard_state = Some(raft_io::HardState { term: base.term, vote: None });
    let mut writes = vec![raft_io::Write { hard_state, compaction, ..Default::default() }];
    log.append(&mut writes).unwrap();
    let network = Network::default();
    let error = Raft::start(config(1, &[1]), Locked::new(log), network.transport(1), Recorder::default()).unwrap_err();
    assert!(matches!(error, StartError::NoSnapshotStore { snapshot } if snapshot == base), "{error}");
}

#[test]
fn a_restart_applies_the_log_again() {
    let network = Network::default();
    let log = Locked::new(MemoryLog::new());
    let mut ids = Vec::new();
    for life in 1..=3 {
        let raft = Raft::start(config(1, &[1]), log.clone(), network.transport(1), Recorder::default()).unwrap();
        raft.wait_for(PATIENCE, |status| status.role == RoleKind::Leader).unwrap();
        let applied = propose(&raft, "x").unwrap();
        assert_eq!(applied.response, life);
        ids.push(applied.id);
        let seen: Vec<EntryId> =
            raft.stale_read(|machine| machine.applied.iter().map(|(id, _)| *id).collect()).unwrap();
        assert_eq!(seen, ids);
        raft.shutdown();
    }
}

#[test]
fn prometheus_text_is_well_formed() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    propose(&cluster.nodes[&leader], "x").unwrap();
    let status = cluster.nodes[&leader].status();
    let text = status.prometheus();
    let mut family = String::new();
    let mut families = std::collections::BTreeSet::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            family = help.split(' ').next().unwrap().to_string();
            assert!(families.insert(family.clone()), "{family} twice");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(name, family);
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
        } else {
            let (name, rest) = line.split_once('{').unwrap();
            assert_eq!(name, family);
            let (labels, value) = rest.split_once("} ").unwrap();
            assert!(
                labels.starts_with(&format!("node=\"{leader}\"")) && labels.matches('"').count() % 2 == 0,
                "{line}"
            );
            value.parse::<u64>().unwrap();
        }
    }
    assert!(text.ends_with('\n'));
    assert!(text.contains(&format!("raft_role{{node=\"{leader}\",role=\"leader\"}} 1\n")), "{text}");
    assert!(text.contains(&format!("raft_term{{node=\"{leader}\"}} {}\n", status.term)));
    for peer in cluster.followers(leader) {
        assert!(text.contains(&format!("raft_peer_match_index{{node=\"{leader}\",peer=\"{peer}\"}}")), "{text}");
    }
    assert_eq!(status.peers.iter().map(|peer| peer.id).collect::<Vec<NodeId>>(), cluster.followers(leader));
}

/// What a log gives in another order than that of the indexes was applied as it came, for only the first entry was looked at.
#[test]
fn entries_out_of_order_are_never_applied() {
    let swapped: fn(&Faults) = |faults| faults.scrambled.store(true, Ordering::SeqCst);
    let missing: fn(&Faults) = |faults| faults.gap.store(true, Ordering::SeqCst);
    for disorder in [swapped, missing] {
        let (log, faults) = FaultyLog::new();
        let network = Network::default();
        let gate = Arc::<Gate>::default();
        let machine = Recorder { gate: Some(gate.clone()), ..Recorder::default() };
        let raft = Raft::start(config(1, &[1]), log, network.transport(1), machine).unwrap();
        raft.wait_for(PATIENCE, |status| status.role == RoleKind::Leader && status.applied_index >= Index(1)).unwrap();
        disorder(&faults);
        gate.shut();
        let first = raft.propose("first");
        gate.wait_for_visitor();
        // All of these are committed before the next look into the log.
        let last = raft.status().last_index.plus(4);
        let rest = raft.propose_batch(vec!["a".into(), "b".into(), "c".into(), "d".into()]);
        raft.wait_for(PATIENCE, |status| status.commit_index >= last).unwrap();
        gate.open();
        assert_eq!(first.wait(PATIENCE).unwrap().response, 1);
        let stopped = raft.wait_for(PATIENCE, |status| status.stopped.is_some()).unwrap();
        let reason = stopped.stopped.unwrap();
        assert!(matches!(reason, StopReason::LogInconsistent { .. }), "{reason}");
        assert!(reason.to_string().contains("where the entry after 3@1 is to be applied"), "{reason}");
        assert_eq!(stopped.applied_index, Index(3));
        for proposal in rest.into_iter().skip(1) {
            unknown(proposal.wait(PATIENCE));
        }
    }
}

/// Shuts its own node down from within, on a thread that is given no further thread.
#[cfg(all(feature = "testkit", feature = "tcp"))]
struct LastThread {
    own: mpsc::Receiver<Raft<LastThread>>,
}

#[cfg(all(feature = "testkit", feature = "tcp"))]
impl StateMachine for LastThread {
    type Response = ();

    fn apply(&mut self, _: EntryId, _: &bytes::Bytes) {
        let refusal = raft_io::testkit::threads::ThreadsRefused::after(0);
        self.own.recv().unwrap().shutdown();
        assert_eq!(refusal.count(), 1);
    }
}

/// A shutdown from within waits for the node's threads on another thread. Without one the node stopped, and its transport
/// went on listening.
#[cfg(all(feature = "testkit", feature = "tcp"))]
#[test]
fn a_shutdown_from_within_needs_no_further_thread() {
    use raft_io::transport::{TcpConfig, TcpTransport};
    let (give, own) = mpsc::channel();
    let transport = TcpTransport::bind(TcpConfig::new(7, 1, "127.0.0.1:0")).unwrap();
    let address = transport.local_addr();
    let (log, machine) = (Locked::new(MemoryLog::new()), LastThread { own });
    let raft = Raft::start(config(1, &[1]), log, transport.clone(), machine).unwrap();
    raft.wait_for(PATIENCE, |status| status.role == RoleKind::Leader).unwrap();
    let mut watch = raft.watch();
    let proposal = raft.propose("x");
    give.send(raft.clone()).unwrap();
    let _ = proposal.wait(PATIENCE);
    while watch.next(PATIENCE).is_some() {}
    assert_eq!(raft.status().stopped, Some(StopReason::Shutdown));
    raft.shutdown();
    std::net::TcpListener::bind(address).expect("the port is free");
}
