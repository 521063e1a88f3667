//! Calls of a node's handle from code that the node itself runs: what would wait for its own thread is refused by name.

#![cfg(feature = "std")]

mod driver_support;

use bytes::Bytes;
use driver_support::{PATIENCE, config};
use raft_io::driver::{
    DriverOptions, LeadershipTransferError, MembershipChangeError, Proposal, Raft, RequestError, SnapshotImage,
    Snapshots, TakeSnapshotError, WaitError,
};
use raft_io::log::Locked;
use raft_io::snapshot::MemorySnapshots;
use raft_io::transport::MemoryNetwork;
use raft_io::{EntryId, GroupId, Index, MemoryLog, RoleKind, StateMachine};
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

type Handle = Raft<Puppet>;
type Act = Box<dyn FnOnce(&Handle) + Send>;

/// Where an act is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Apply,
    Snapshot,
    Image,
}

/// What a state machine is to do with a handle, once.
#[derive(Default)]
struct Script {
    act: Mutex<Option<(Stage, Handle, Act)>>,
}

impl Script {
    fn play(&self, stage: Stage) {
        let mut act = self.act.lock().unwrap();
        if act.as_ref().is_some_and(|(at, _, _)| *at == stage) {
            let (_, handle, act) = act.take().unwrap();
            act(&handle);
        }
    }

    fn write(&self, stage: Stage, handle: &Handle, act: impl FnOnce(&Handle) + Send + 'static) {
        *self.act.lock().unwrap() = Some((stage, handle.clone(), Box::new(act)));
    }
}

/// Plays what it is told, and counts commands.
struct Puppet {
    script: Arc<Script>,
    applied: usize,
}

impl StateMachine for Puppet {
    type Response = usize;

    fn apply(&mut self, _: EntryId, _: &Bytes) -> usize {
        self.script.play(Stage::Apply);
        self.applied += 1;
        self.applied
    }

    fn snapshot(&mut self) -> Option<SnapshotImage> {
        self.script.play(Stage::Snapshot);
        let script = self.script.clone();
        Some(SnapshotImage::new(move |out| {
            script.play(Stage::Image);
            out.write_all(b"x")
        }))
    }
}

/// A node of its own that leads.
fn start() -> (Handle, Arc<Script>) {
    let mut options = DriverOptions::default();
    options.snapshots = Some(Snapshots::new(MemorySnapshots::with_chunk_bytes(GroupId(0), 512)));
    let (script, network) = (Arc::<Script>::default(), MemoryNetwork::new());
    let machine = Puppet { script: script.clone(), applied: 0 };
    let mut config = config(1, &[1]);
    config.election_ticks = 5;
    let log = Locked::new(MemoryLog::new());
    let raft = Raft::start_with(config, options, log, network.transport(1), machine).unwrap();
    raft.wait_for(PATIENCE, |status| status.role == RoleKind::Leader && status.applied_index == Index(1)).unwrap();
    (raft, script)
}

/// Everything that waits, and what it says. Nothing of it may take any time. On a thread that holds up nothing, the answer may
/// be there by then.
fn everything_that_waits(raft: &Handle) -> Vec<(&'static str, String)> {
    let within = RequestError::CalledFromWithin { proposed: None };
    let began = Instant::now();
    assert_eq!(raft.stale_read(|machine| machine.applied), Err(within.clone()));
    for read in [
        raft.read(|machine| machine.applied),
        raft.lease_read(|machine| machine.applied),
        raft.follower_read(|machine| machine.applied),
    ] {
        let read = read.wait(PATIENCE);
        assert!(read.is_ok() && !holds_up_applies() || read == Err(within.clone()), "{read:?}");
    }
    let proposed = raft.propose("from within").wait(PATIENCE);
    let refused = matches!(proposed, Err(RequestError::CalledFromWithin { .. }));
    assert!(refused || proposed.is_ok() && !holds_up_applies(), "{proposed:?}");
    assert_eq!(raft.snapshot().wait(PATIENCE), Err(TakeSnapshotError::CalledFromWithin));
    let changed = raft.add_learner(9, "", PATIENCE).wait();
    assert!(matches!(changed, Ok(_) | Err(MembershipChangeError::CalledFromWithin)), "{changed:?}");
    let transferred = raft.transfer_leadership(9).wait(PATIENCE);
    assert!(
        matches!(transferred, Err(LeadershipTransferError::CalledFromWithin | LeadershipTransferError::Refused(_))),
        "{transferred:?}"
    );
    assert_eq!(raft.wait_for(PATIENCE, |_| false), Err(WaitError::CalledFromWithin));
    // What needs no waiting is answered.
    assert!(raft.wait_for(PATIENCE, |status| status.role == RoleKind::Leader).is_ok());
    let polled = raft.propose("polled").wait(Duration::ZERO);
    assert!(matches!(polled, Err(RequestError::DeadlineExceeded { .. })), "{polled:?}");
    assert!(matches!(raft.wait_for(Duration::ZERO, |_| false), Err(WaitError::Timeout { .. })));
    assert!(began.elapsed() < PATIENCE / 2, "it waited");
    vec![
        ("read", within.to_string()),
        ("propose", RequestError::CalledFromWithin { proposed: Some(EntryId::new(7, 1)) }.to_string()),
        ("snapshot", TakeSnapshotError::CalledFromWithin.to_string()),
        ("wait_for", WaitError::CalledFromWithin.to_string()),
    ]
}

fn holds_up_applies() -> bool {
    thread::current().name() == Some("raft-apply")
}

/// The node goes on, and its shutdown returns.
fn assert_well(raft: Handle) {
    let applied = raft.propose("after").wait(PATIENCE).unwrap();
    assert_eq!(raft.stale_read(|machine| machine.applied), Ok(applied.response));
    assert_eq!(raft.read(|machine| machine.applied).wait(PATIENCE), Ok(applied.response));
    let status = raft.status();
    assert_eq!((status.counters.panics_survived, status.stopped), (0, None));
    let (ended, end) = mpsc::channel();
    thread::spawn(move || {
        raft.shutdown();
        ended.send(()).unwrap();
    });
    end.recv_timeout(PATIENCE).expect("the shutdown returns");
}

fn tell<T>(to: &Sender<T>, what: T) {
    to.send(what).unwrap();
}

/// `stale_read` from within `apply` waited for the thread that was waiting: the node was wedged in silence, and its
/// shutdown never returned. So did every other call that waits.
#[test]
fn whatever_would_wait_for_the_apply_thread_is_refused_there() {
    let (raft, script) = start();
    let (to, told) = mpsc::channel();
    script.write(Stage::Apply, &raft, move |raft| tell(&to, everything_that_waits(raft)));
    assert_eq!(raft.propose("x").wait(PATIENCE).unwrap().response, 1);
    for (call, said) in told.recv_timeout(PATIENCE).unwrap() {
        assert!(said.contains("the node itself runs the code that waits for it here"), "{call}: {said}");
        assert!(said.contains("another thread"), "{call} does not say what to do: {said}");
    }
    // What was proposed there is applied all the same.
    raft.wait_for(PATIENCE, |status| status.open_proposals == 0).unwrap();
    assert_well(raft);
}

/// The same from the other places where a node runs what it was given.
#[test]
fn whatever_would_wait_is_refused_wherever_the_node_runs_what_it_was_given() {
    for stage in [Stage::Snapshot, Stage::Image] {
        let (raft, script) = start();
        let (to, told) = mpsc::channel();
        script.write(stage, &raft, move |raft| tell(&to, everything_that_waits(raft)));
        raft.propose("x").wait(PATIENCE).unwrap();
        raft.snapshot().wait(PATIENCE).unwrap();
        told.recv_timeout(PATIENCE).unwrap();
        assert_well(raft);
    }
    // A look, on each way.
    for way in 0..4 {
        let (raft, _script) = start();
        let own = raft.clone();
        let look = move |_: &Puppet| everything_that_waits(&own).len();
        let looked = match way {
            0 => raft.read(look).wait(PATIENCE),
            1 => raft.lease_read(look).wait(PATIENCE),
            2 => raft.follower_read(look).wait(PATIENCE),
            _ => raft.stale_read(look),
        };
        assert_eq!(looked, Ok(4));
        assert_well(raft);
    }
}

struct Waking(Mutex<Option<(Handle, Sender<()>)>>);

impl Wake for Waking {
    fn wake(self: Arc<Self>) {
        if let Some((raft, to)) = self.0.lock().unwrap().take() {
            everything_that_waits(&raft);
            tell(&to, ());
        }
    }
}

/// A waker runs on whichever thread has the answer: here the apply thread.
#[test]
fn a_waker_waits_for_no_node_that_calls_it() {
    let (raft, script) = start();
    let (to, told) = mpsc::channel();
    let waker = Waker::from(Arc::new(Waking(Mutex::new(Some((raft.clone(), to))))));
    let (go, gone) = mpsc::channel::<()>();
    script.write(Stage::Apply, &raft, move |_| gone.recv_timeout(PATIENCE).unwrap());
    let mut proposal = pin!(raft.propose("x"));
    assert!(proposal.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    tell(&go, ());
    told.recv_timeout(PATIENCE).unwrap();
    assert_well(raft.clone());
}

/// A machine may keep a future of its own node, and look at it whenever it is called.
#[test]
fn a_future_can_be_polled_from_within_apply() {
    let (raft, script) = start();
    let kept = Arc::new(Mutex::new(None::<Pin<Box<Proposal<usize>>>>));
    let keeps = kept.clone();
    script.write(Stage::Apply, &raft, move |raft| {
        let mut proposal = Box::pin(raft.propose("from within"));
        assert!(proposal.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        *keeps.lock().unwrap() = Some(proposal);
    });
    raft.propose("x").wait(PATIENCE).unwrap();
    raft.wait_for(PATIENCE, |status| status.open_proposals == 0).unwrap();
    let polled = kept.clone();
    let (to, told) = mpsc::channel();
    script.write(Stage::Apply, &raft, move |_| {
        let mut proposal = polled.lock().unwrap().take().unwrap();
        tell(&to, proposal.as_mut().poll(&mut Context::from_waker(Waker::noop())));
    });
    raft.propose("y").wait(PATIENCE).unwrap();
    let Poll::Ready(Ok(applied)) = told.recv_timeout(PATIENCE).unwrap() else { panic!("it is applied") };
    assert_eq!(applied.response, 2);
    assert_well(raft);
}

/// Two nodes of one process are strangers: the one may wait for the other wherever it likes.
#[test]
fn a_state_machine_may_wait_for_another_node() {
    let (raft, script) = start();
    let (other, _other_script) = start();
    let (to, told) = mpsc::channel();
    let asked = other.clone();
    script.write(Stage::Apply, &raft, move |own| {
        let there = asked.propose("x").wait(PATIENCE).map(|applied| applied.response);
        let read = asked.read(|machine| machine.applied).wait(PATIENCE);
        let stale = asked.stale_read(|machine| machine.applied);
        let waited = asked.wait_for(PATIENCE, |status| status.open_proposals == 0).is_ok();
        let taken = asked.snapshot().wait(PATIENCE).is_ok();
        let refused = own.stale_read(|machine| machine.applied);
        tell(&to, (there, read, stale, waited && taken, refused));
    });
    raft.propose("x").wait(PATIENCE).unwrap();
    let within = Err(RequestError::CalledFromWithin { proposed: None });
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), (Ok(1), Ok(1), Ok(1), true, within));
    // From the apply thread of the other it is the other way round.
    let own = raft.clone();
    let looked = other.stale_read(move |_| own.stale_read(|machine| machine.applied));
    assert_eq!(looked, Ok(Ok(1)));
    assert_well(other);
    assert_well(raft);
}
