//! Linearizable reads through the driver: what they see, and that each of them ends.

#![cfg(feature = "std")]

mod driver_support;

use driver_support::{Cluster, Gate, PATIENCE, Recorder, block_on, propose, single};
use raft_io::driver::{
    DriverOptions, LeaderHint, Limit, NotLeaderReason, Proposal, Raft, Reading, RequestError, WaitError,
};
use raft_io::{NodeId, RoleKind};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

/// How many commands the state machine has applied.
fn count(raft: &Raft<Recorder>) -> Reading<usize> {
    raft.read(|machine| machine.applied.len())
}

fn options(change: impl FnOnce(&mut DriverOptions)) -> DriverOptions {
    let mut options = DriverOptions::default();
    change(&mut options);
    options
}

#[test]
fn a_read_sees_every_acknowledged_write_from_a_thread_and_as_a_future() {
    let cluster = Cluster::start(3);
    let raft = &cluster.nodes[&cluster.leader()];
    for written in 1..=20 {
        assert_eq!(propose(raft, "x").unwrap().response, written);
        let (here, elsewhere) = (count(raft), raft.clone());
        assert_eq!(thread::spawn(move || count(&elsewhere).wait(PATIENCE)).join().unwrap(), Ok(written));
        let (awaited, wakes) = block_on(count(raft));
        assert_eq!((awaited, here.wait(PATIENCE)), (Ok(written), Ok(written)));
        assert!(wakes <= 1);
    }
    let status = raft.wait_for(PATIENCE, |status| status.open_reads == 0).unwrap();
    let counters = status.counters;
    assert_eq!((counters.reads_answered, counters.reads_aborted, counters.reads_refused), (60, 0, 0));
    // The no-op of the term and the writes: reads leave no entry.
    assert_eq!(status.last_index, status.applied_index);
    assert_eq!(status.counters.commands_proposed, 20);
}

#[test]
fn a_read_waits_for_the_apply_of_what_was_committed_when_it_began() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let raft = &cluster.nodes[&leader];
    let gate = &cluster.gates[&leader];
    gate.shut();
    let last = raft.status().last_index.plus(10);
    let proposals: Vec<_> = (0..10).map(|_| raft.propose("x")).collect();
    gate.wait_for_visitor();
    raft.wait_for(PATIENCE, |status| status.commit_index >= last).unwrap();
    // The machine stands in the first apply for longer than a turn lasts, so the apply thread looks
    // at its mail before it applies the rest.
    let read = count(raft);
    cluster.network.wait_sent(leader, 20);
    assert_eq!(raft.status().open_reads, 1);
    gate.open();
    assert_eq!(read.wait(PATIENCE), Ok(10));
    for proposal in proposals {
        proposal.wait(PATIENCE).unwrap();
    }
}

#[test]
fn a_follower_names_the_leader() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    for id in cluster.followers(leader) {
        let raft = &cluster.nodes[&id];
        raft.wait_for(PATIENCE, |status| status.leader.as_ref().is_some_and(|hint| hint.id == leader)).unwrap();
        let term = raft.status().term;
        let hint = LeaderHint { id: leader, client_address: Some(format!("client-of-{leader}")) };
        let refused = RequestError::NotLeader { leader: Some(hint), term, reason: NotLeaderReason::Follower };
        assert_eq!(count(raft).wait(PATIENCE), Err(refused.clone()));
        assert_eq!(block_on(count(raft)), (Err(refused), 0));
        assert_eq!(raft.status().counters.reads_refused, 2);
    }
}

#[test]
fn a_leader_without_its_quorum_never_answers_a_read() {
    let cluster = Cluster::start(3);
    let old = cluster.leader();
    let raft = &cluster.nodes[&old];
    propose(raft, "before").unwrap();
    cluster.network.isolate(&[old]);
    let looked = Arc::<AtomicUsize>::default();
    let look = || {
        let looked = looked.clone();
        move |_: &Recorder| looked.fetch_add(1, Ordering::SeqCst)
    };
    // It still believes that it leads.
    let (waiting, expiring) = (raft.read(look()), raft.read(look()));
    let outcome = expiring.wait(Duration::from_millis(1));
    assert_eq!(outcome, Err(RequestError::DeadlineExceeded { proposed: None }));
    // Check-quorum makes it step down.
    let outcome = waiting.wait(PATIENCE);
    assert!(matches!(outcome, Err(RequestError::NotLeader { leader: None, .. })), "{outcome:?}");
    assert_eq!(looked.load(Ordering::SeqCst), 0);
    let status = raft.wait_for(PATIENCE, |status| status.open_reads == 0).unwrap();
    assert_eq!((status.role == RoleKind::Leader, status.counters.reads_aborted), (false, 2));

    let new = cluster.leader_among(cluster.followers(old));
    propose(&cluster.nodes[&new], "after").unwrap();
    assert_eq!(count(&cluster.nodes[&new]).wait(PATIENCE), Ok(2));
}

/// The followers commit what the leader's own disk does not have: it cannot be applied there, and a read of it, though
/// confirmed, waits.
fn read_of_what_only_the_followers_have(cluster: &Cluster, leader: NodeId) -> (Proposal<usize>, Reading<usize>) {
    let raft = &cluster.nodes[&leader];
    let faults = &cluster.faults[&leader];
    faults.sync_gate.shut();
    let last = raft.status().last_index.next();
    let proposal = raft.propose("x");
    faults.sync_gate.wait_for_visitor();
    while raft.status().commit_index < last {
        cluster.network.wait_sent(leader, 1);
    }
    let read = count(raft);
    cluster.network.wait_sent(leader, 20);
    (proposal, read)
}

#[test]
fn a_confirmed_read_of_a_lost_leadership_ends_with_it() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let (proposal, read) = read_of_what_only_the_followers_have(&cluster, leader);
    cluster.network.isolate(&[leader]);
    let outcome = read.wait(PATIENCE);
    assert!(matches!(outcome, Err(RequestError::NotLeader { .. })), "{outcome:?}");
    cluster.faults[&leader].sync_gate.open();
    cluster.network.heal();
    assert!(proposal.wait(PATIENCE).is_err());
}

#[test]
fn a_read_waits_for_the_disk_that_the_commit_did_not_need() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let (proposal, read) = read_of_what_only_the_followers_have(&cluster, leader);
    assert_eq!(cluster.nodes[&leader].status().open_reads, 1);
    cluster.faults[&leader].sync_gate.open();
    assert_eq!(read.wait(PATIENCE), Ok(1));
    assert_eq!(proposal.wait(PATIENCE).unwrap().response, 1);
}

/// Tells the clients to end, however the test does.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Clients write, and read from the leader and from whichever node they come to, through two changes of leadership. `seen`
/// is the most that any client knows to be there; no later read may find less. Without check-quorum the
/// old leaders believe in themselves until the network heals.
#[test]
fn reads_under_writes_never_go_back_in_time_and_all_end() {
    let cluster = Cluster::start_configured(3, DriverOptions::default(), |config| config.check_quorum = false);
    let timeout = Duration::from_millis(50);
    let mut leader = cluster.leader();
    let (seen, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (read, reads) = mpsc::channel();
    let client = |number: usize, read: Sender<()>| {
        for raft in cluster.nodes.values().cycle().take_while(|_| !done.load(Ordering::SeqCst)) {
            let known = seen.load(Ordering::SeqCst);
            let found = match number {
                0 | 1 => raft.propose("x").wait(timeout).map(|applied| applied.response),
                2 | 3 => count(raft).wait(timeout),
                _ => raft.follower_read(|machine| machine.applied.len()).wait(timeout),
            };
            match found {
                Ok(found) => {
                    assert!(found >= known, "node {} gave {found} after {known}", raft.id());
                    seen.fetch_max(found, Ordering::SeqCst);
                    let _ = read.send(());
                }
                Err(
                    RequestError::NotLeader { .. }
                    | RequestError::OutcomeUnknown { .. }
                    | RequestError::DeadlineExceeded { .. },
                ) => {}
                Err(error) => panic!("{error}"),
            }
        }
    };
    let go_on = || {
        while reads.try_recv().is_ok() {}
        (0..400).for_each(|_| reads.recv_timeout(PATIENCE).expect("the clients go on"));
    };
    thread::scope(|scope| {
        let _done = Done(&done);
        for number in 0..6 {
            let (client, read) = (&client, read.clone());
            scope.spawn(move || client(number, read));
        }
        for _ in 0..2 {
            go_on();
            cluster.network.isolate(&[leader]);
            cluster.leader_among(cluster.followers(leader));
            go_on();
            cluster.network.heal();
            leader = cluster.leader();
        }
    });
    for raft in cluster.nodes.values() {
        raft.wait_for(PATIENCE, |status| status.open_reads == 0).unwrap();
    }
}

#[test]
fn reads_beyond_the_limit_are_overloaded_and_later_ones_are_not() {
    let cluster = Cluster::start_with(3, options(|options| options.reads_max = 4));
    let leader = cluster.leader();
    let raft = &cluster.nodes[&leader];
    cluster.gates[&leader].shut();
    let stuck = raft.propose("x");
    cluster.gates[&leader].wait_for_visitor();
    let taken: Vec<_> = (0..4).map(|_| count(raft)).collect();
    let limit = Limit::Reads { open: 4, max: 4 };
    assert_eq!(count(raft).wait(PATIENCE), Err(RequestError::Overloaded { limit }));
    assert_eq!(limit.to_string(), "4 reads are open, reads_max = 4");
    cluster.gates[&leader].open();
    for read in taken {
        assert_eq!(read.wait(PATIENCE), Ok(1));
    }
    assert_eq!(stuck.wait(PATIENCE).unwrap().response, 1);
    assert_eq!(count(raft).wait(PATIENCE), Ok(1));
    let counters = raft.status().counters;
    assert_eq!((counters.reads_answered, counters.reads_refused), (5, 1));
    assert!(raft.status().prometheus().contains("raft_reads_answered_total"));
}

#[test]
fn nobody_looks_for_a_reader_that_gave_up() {
    let cluster = Cluster::start(1);
    let leader = cluster.leader();
    let raft = &cluster.nodes[&leader];
    cluster.gates[&leader].shut();
    let stuck = raft.propose("x");
    cluster.gates[&leader].wait_for_visitor();
    let looked = Arc::<AtomicBool>::default();
    let looks = looked.clone();
    let read = raft.read(move |_| looks.store(true, Ordering::SeqCst));
    assert_eq!(read.wait(Duration::from_millis(1)), Err(RequestError::DeadlineExceeded { proposed: None }));
    cluster.gates[&leader].open();
    stuck.wait(PATIENCE).unwrap();
    assert_eq!(count(raft).wait(PATIENCE), Ok(1));
    assert!(!looked.load(Ordering::SeqCst));
    let counters = raft.status().counters;
    assert_eq!((counters.reads_answered, counters.reads_aborted), (1, 1));
}

#[test]
fn a_panic_of_a_read_comes_back_to_its_reader_alone() {
    let (raft, _faults, _network) = single(DriverOptions::default());
    let says = |panic: Box<dyn std::any::Any + Send>| *panic.downcast::<&str>().unwrap();
    let mine = raft.read(|_| -> usize { panic!("mine") });
    let others = count(&raft);
    assert_eq!(says(catch_unwind(AssertUnwindSafe(|| mine.wait(PATIENCE))).unwrap_err()), "mine");
    let mine = raft.read(|_| -> usize { panic!("awaited") });
    assert_eq!(says(catch_unwind(AssertUnwindSafe(|| block_on(mine))).unwrap_err()), "awaited");
    assert_eq!(others.wait(PATIENCE), Ok(0));
    assert_eq!(propose(&raft, "x").unwrap().response, 1);
}

/// Whatever a read brings along is the user's code when it is dropped or woken.
struct Nosy(Raft<Recorder>, Sender<NodeId>);

impl Nosy {
    fn ask(&self) {
        // Would wait for ever for a lock that its own thread holds.
        let _ = self.1.send(self.0.status().id);
        drop(count(&self.0));
    }
}

impl Drop for Nosy {
    fn drop(&mut self) {
        self.ask();
    }
}

impl Wake for Nosy {
    fn wake(self: Arc<Self>) {
        self.ask();
    }
}

/// Cannot even be dropped.
struct Rude;

impl Drop for Rude {
    fn drop(&mut self) {
        if !thread::panicking() {
            panic!("nobody else's business");
        }
    }
}

#[test]
fn no_code_of_a_reader_runs_under_a_lock_or_costs_others_their_answers() {
    let cluster = Cluster::start(3);
    let old = cluster.leader();
    let raft = &cluster.nodes[&old];
    cluster.network.isolate(&[old]);
    let (told, tells) = mpsc::channel();
    let brought = (Nosy(raft.clone(), told.clone()), Rude);
    let mut read = pin!(raft.read(move |_| {
        let _ = &brought;
    }));
    let waker = Waker::from(Arc::new(Nosy(raft.clone(), told)));
    let mut context = Context::from_waker(&waker);
    assert!(read.as_mut().poll(&mut context).is_pending());
    let outcome = count(raft).wait(PATIENCE);
    assert!(matches!(outcome, Err(RequestError::NotLeader { .. })), "{outcome:?}");
    // Dropped with its panic, then woken.
    tells.recv_timeout(PATIENCE).unwrap();
    tells.recv_timeout(PATIENCE).unwrap();
    let Poll::Ready(outcome) = read.as_mut().poll(&mut context) else { panic!("it was woken") };
    assert!(matches!(outcome, Err(RequestError::NotLeader { .. })), "{outcome:?}");
    assert_eq!(raft.status().fatal, None);
}

#[test]
fn an_answer_that_nobody_takes_costs_no_others_theirs() {
    let cluster = Cluster::start(1);
    let leader = cluster.leader();
    let raft = &cluster.nodes[&leader];
    cluster.gates[&leader].shut();
    let stuck = raft.propose("x");
    cluster.gates[&leader].wait_for_visitor();
    drop(raft.read(|_| Rude));
    let beside = count(raft);
    cluster.gates[&leader].open();
    assert_eq!(beside.wait(PATIENCE), Ok(1));
    assert_eq!(stuck.wait(PATIENCE).unwrap().response, 1);
    assert_eq!(raft.status().fatal, None);
}

/// A test that fails lets its node end.
struct Opens(Arc<Gate>);

impl Drop for Opens {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// Holds the apply thread up in a look: nothing is open but reads, this one among them.
fn hold(raft: &Raft<Recorder>, gate: &Arc<Gate>) -> Reading<()> {
    gate.shut();
    let passes = gate.clone();
    let held = raft.read(move |_| passes.pass());
    gate.wait_for_visitor();
    held
}

/// A proposal that is open as well would keep the drain waiting, whatever became of the reads.
#[test]
fn a_shutdown_lets_open_reads_finish_and_refuses_new_ones() {
    let cluster = Cluster::start_with(3, options(|options| options.drain_timeout = PATIENCE));
    let raft = cluster.nodes[&cluster.leader()].clone();
    let gate = Arc::<Gate>::default();
    let _opens = Opens(gate.clone());
    let held = hold(&raft, &gate);
    let open = count(&raft);
    let closing = thread::spawn({
        let raft = raft.clone();
        move || raft.shutdown()
    });
    raft.wait_for(PATIENCE, |status| status.shutdown).unwrap();
    assert_eq!(count(&raft).wait(PATIENCE), Err(RequestError::Shutdown));
    // Longer than it takes to hand over, which comes next.
    cluster.network.wait_sent(raft.id(), 20);
    assert_eq!((raft.status().stopped, raft.status().open_reads), (None, 1));
    gate.open();
    assert_eq!((held.wait(PATIENCE), open.wait(PATIENCE)), (Ok(()), Ok(0)));
    closing.join().unwrap();
    assert_eq!(count(&raft).wait(PATIENCE), Err(RequestError::Shutdown));
}

/// Nothing else happens that would have the drain look again: the answer to the last read has to say so.
#[test]
fn a_drain_ends_once_the_last_read_is_answered() {
    let cluster = Cluster::start_with(1, options(|options| options.drain_timeout = Duration::from_secs(3600)));
    let raft = cluster.nodes[&cluster.leader()].clone();
    let gate = Arc::<Gate>::default();
    let _opens = Opens(gate.clone());
    let held = hold(&raft, &gate);
    let open = count(&raft);
    let (ended, end) = mpsc::channel();
    thread::spawn({
        let raft = raft.clone();
        move || {
            raft.shutdown();
            ended.send(()).unwrap();
        }
    });
    raft.wait_for(PATIENCE, |status| status.shutdown).unwrap();
    gate.open();
    end.recv_timeout(PATIENCE).unwrap();
    assert_eq!((held.wait(Duration::ZERO), open.wait(Duration::ZERO)), (Ok(()), Ok(0)));
}

#[test]
fn a_shutdown_ends_reads_wherever_they_wait() {
    let cluster = Cluster::start_with(3, options(|options| options.drain_timeout = Duration::from_millis(20)));
    let leader = cluster.leader();
    let raft = cluster.nodes[&leader].clone();
    cluster.gates[&leader].shut();
    let stuck = raft.propose("x");
    cluster.gates[&leader].wait_for_visitor();
    let confirmed = count(&raft);
    cluster.network.wait_sent(leader, 20);
    cluster.network.isolate(&[leader]);
    let unconfirmed = count(&raft);
    let closing = thread::spawn({
        let raft = raft.clone();
        move || raft.shutdown()
    });
    let outcome = unconfirmed.wait(PATIENCE);
    // A machine that stood still for an election timeout may have made it step down before.
    assert!(matches!(outcome, Err(RequestError::Shutdown | RequestError::NotLeader { .. })), "{outcome:?}");
    let stopped = raft.wait_for(PATIENCE, |_| false);
    assert_eq!(stopped.unwrap_err(), WaitError::Shutdown);
    cluster.gates[&leader].open();
    assert_eq!(confirmed.wait(PATIENCE), Err(RequestError::Shutdown));
    closing.join().unwrap();
    drop(stuck);
    assert_eq!(raft.status().open_reads, 0);
}

#[test]
fn a_fatal_node_ends_reads_wherever_they_wait() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let raft = &cluster.nodes[&leader];
    let (gate, faults) = (&cluster.gates[&leader], &cluster.faults[&leader]);
    gate.shut();
    let stuck = raft.propose("x");
    gate.wait_for_visitor();
    let confirmed = count(raft);
    cluster.network.wait_sent(leader, 20);
    faults.sync_gate.shut();
    faults.fail_sync.store(true, Ordering::SeqCst);
    let failing = raft.propose("y");
    faults.sync_gate.wait_for_visitor();
    cluster.network.isolate(&[leader]);
    let unconfirmed = count(raft);
    faults.sync_gate.open();
    let outcome = unconfirmed.wait(PATIENCE);
    // As above.
    assert!(matches!(outcome, Err(RequestError::Fatal { .. } | RequestError::NotLeader { .. })), "{outcome:?}");
    raft.wait_for(PATIENCE, |status| status.fatal.is_some()).unwrap();
    gate.open();
    let outcome = confirmed.wait(PATIENCE);
    assert!(matches!(outcome, Err(RequestError::Fatal { .. })), "{outcome:?}");
    let outcome = count(raft).wait(PATIENCE);
    assert!(matches!(outcome, Err(RequestError::Fatal { .. })), "{outcome:?}");
    drop((stuck, failing));
    raft.shutdown();
    assert_eq!(raft.status().open_reads, 0);
}

#[test]
fn a_state_machine_that_panics_ends_the_reads_behind_it() {
    let cluster = Cluster::start(1);
    let leader = cluster.leader();
    let raft = &cluster.nodes[&leader];
    cluster.gates[&leader].shut();
    let stuck = raft.propose_batch(vec!["x".into(), "panic".into()]);
    cluster.gates[&leader].wait_for_visitor();
    let read = count(raft);
    cluster.gates[&leader].open();
    let outcome = read.wait(PATIENCE);
    assert!(matches!(outcome, Err(RequestError::Fatal { .. })), "{outcome:?}");
    drop(stuck);
}
