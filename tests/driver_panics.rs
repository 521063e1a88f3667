//! Code that a node was given panics, in every place where it runs. The table is that of the guide, "Where your code runs".

#![cfg(feature = "std")]

mod driver_support;

use driver_support::PATIENCE;
use driver_support::traps::{Bench, Ending, Seat, Trap};
use raft_io::driver::{CodePlace, RequestError, StartError, Status, StopReason, TakeSnapshotError};
use raft_io::transport::MemoryNetwork;
use raft_io::{Index, RoleKind};
use std::future::Future;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::Duration;

/// What becomes of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It stops for good, with a reason that names the place.
    Stops,
    /// It goes on, and counts the panic.
    GoesOn,
    /// The panic comes back to the caller, whose code it was, and the node goes on.
    ComesBack,
    /// `Raft::start` fails with an error that names the place.
    DoesNotStart,
    /// The node was about to end, and does.
    EndsAnyway,
}

impl Outcome {
    /// As in the guide.
    fn name(self) -> &'static str {
        match self {
            Self::Stops => "stops",
            Self::GoesOn => "goes on",
            Self::ComesBack => "goes on; the panic comes back to the caller",
            Self::DoesNotStart => "does not start",
            Self::EndsAnyway => "ends as it was about to",
        }
    }
}

struct Row {
    place: CodePlace,
    outcome: Outcome,
    provoke: Provoke,
}

enum Provoke {
    /// On a node of its own, once the trap is armed.
    Alone(fn(&Seat)),
    /// The same, before the trap is armed and after.
    Gated(fn(&Seat)),
    /// On the follower of three nodes that has to fetch a snapshot.
    Behind,
    /// On the leader of three nodes, from whom one fetches a snapshot.
    Serving,
    /// On the leader of three nodes.
    Leading(fn(&Seat)),
    /// On a follower of three nodes.
    Following(fn(&Seat)),
    /// At the start.
    Starting,
    /// At the end.
    Ending,
}

const fn row(place: CodePlace, outcome: Outcome, provoke: Provoke) -> Row {
    Row { place, outcome, provoke }
}

/// Whatever becomes of it, it is answered.
fn propose(seat: &Seat, bytes: usize) {
    let answer = seat.raft().propose(vec![0; bytes]).wait(PATIENCE);
    assert!(!matches!(answer, Err(RequestError::DeadlineExceeded { .. })), "{answer:?}");
}

fn write(seat: &Seat) {
    propose(seat, 1);
}

/// More than every voter takes, whoever it is: the transport is asked.
fn write_much(seat: &Seat) {
    propose(seat, 1 << 20);
}

/// The heartbeats go on, and nobody waits for anything.
fn idle(_: &Seat) {}

fn snapshot(seat: &Seat) {
    seat.raft().propose("x").wait(PATIENCE).unwrap();
    let answer = seat.raft().snapshot().wait(PATIENCE);
    assert!(!matches!(answer, Err(TakeSnapshotError::DeadlineExceeded)), "{answer:?}");
}

fn read_cold(seat: &Seat) {
    seat.trap.cold.store(true, Ordering::SeqCst);
    write(seat);
}

fn add_learner(seat: &Seat) {
    drop(seat.raft().add_learner(9, "", Duration::from_millis(1)).wait());
}

fn ask_for_the_leader(seat: &Seat) {
    let refused = seat.raft().propose("x").wait(PATIENCE).unwrap_err();
    assert!(matches!(refused, RequestError::NotLeader { leader: Some(_), .. }), "{refused}");
}

struct Bell(Arc<Trap>);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.spring(CodePlace::Wake);
    }
}

/// Two tasks wait; the waker of the first panics. The second is answered, and so is a thread.
fn wake(seat: &Seat) {
    seat.trap.applying.shut();
    let mut first = pin!(seat.raft().propose("first"));
    let waker = Waker::from(Arc::new(Bell(seat.trap.clone())));
    assert!(first.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let beside = seat.raft().propose("beside");
    seat.trap.applying.wait_for_visitor();
    seat.trap.applying.open();
    assert_eq!(beside.wait(PATIENCE).unwrap().response.0, 2);
}

fn look(seat: &Seat) {
    let raft = seat.raft();
    for way in 0..4 {
        let trap = seat.trap.clone();
        trap.arm(CodePlace::Look);
        let look = move |_: &_| trap.spring(CodePlace::Look);
        let asked = catch_unwind(AssertUnwindSafe(|| match way {
            0 => raft.read(look).wait(PATIENCE),
            1 => raft.lease_read(look).wait(PATIENCE),
            2 => raft.follower_read(look).wait(PATIENCE),
            _ => raft.stale_read(look),
        }));
        // It may carry what panics when it is dropped.
        mem::forget(asked.unwrap_err());
    }
}

/// A reader gives up before anybody looks for it.
fn drop_a_look(seat: &Seat) {
    seat.trap.applying.shut();
    drop(seat.raft().propose("x"));
    seat.trap.applying.wait_for_visitor();
    let brought = Ending(seat.trap.clone(), CodePlace::LookDrop);
    let read = seat.raft().read(move |_| {
        let _ = &brought;
    });
    assert!(read.wait(Duration::from_millis(1)).is_err());
    seat.trap.applying.open();
}

fn take_no_answer(seat: &Seat) {
    seat.trap.applying.shut();
    let proposal = seat.raft().propose("x");
    seat.trap.applying.wait_for_visitor();
    drop(proposal);
    seat.trap.applying.open();
}

fn predicate(seat: &Seat) {
    let asked = catch_unwind(AssertUnwindSafe(|| {
        seat.raft().wait_for(PATIENCE, |_| {
            seat.trap.spring(CodePlace::Predicate);
            false
        })
    }));
    mem::forget(asked.unwrap_err());
}

use Outcome::{ComesBack, DoesNotStart, EndsAnyway, GoesOn, Stops};
use Provoke::{Alone, Behind, Following, Gated, Leading, Serving, Starting};

const ROWS: &[Row] = &[
    row(CodePlace::Apply, Stops, Alone(write)),
    row(CodePlace::Snapshot, Stops, Alone(snapshot)),
    row(CodePlace::Restore, Stops, Behind),
    row(CodePlace::Image, GoesOn, Alone(snapshot)),
    row(CodePlace::MachineDrop, EndsAnyway, Provoke::Ending),
    row(CodePlace::LogAppend, Stops, Alone(write)),
    row(CodePlace::LogSync, Stops, Alone(write)),
    row(CodePlace::LogView, Stops, Alone(write)),
    row(CodePlace::LogRead, Stops, Alone(read_cold)),
    row(CodePlace::LogDrop, EndsAnyway, Provoke::Ending),
    row(CodePlace::TransportStart, DoesNotStart, Starting),
    row(CodePlace::TransportSend, Stops, Leading(idle)),
    row(CodePlace::TransportMembers, Stops, Alone(add_learner)),
    row(CodePlace::TransportLimits, GoesOn, Leading(write_much)),
    row(CodePlace::TransportFetch, GoesOn, Behind),
    row(CodePlace::TransportAddress, GoesOn, Following(ask_for_the_leader)),
    row(CodePlace::TransportShutdown, EndsAnyway, Provoke::Ending),
    row(CodePlace::TransportDrop, EndsAnyway, Provoke::Ending),
    row(CodePlace::StoreOpen, Stops, Behind),
    row(CodePlace::StoreWrite, GoesOn, Alone(snapshot)),
    row(CodePlace::StoreReceive, GoesOn, Behind),
    row(CodePlace::StoreChunk, GoesOn, Serving),
    row(CodePlace::StoreList, GoesOn, Alone(snapshot)),
    row(CodePlace::StoreRetain, GoesOn, Alone(snapshot)),
    row(CodePlace::Wake, GoesOn, Gated(wake)),
    row(CodePlace::Look, ComesBack, Alone(look)),
    row(CodePlace::LookDrop, GoesOn, Gated(drop_a_look)),
    row(CodePlace::AnswerDrop, GoesOn, Gated(take_no_answer)),
    row(CodePlace::Predicate, ComesBack, Alone(predicate)),
];

/// What everybody sees of a node whose code panicked there.
fn assert_outcome(seat: &mut Seat, place: CodePlace, outcome: Outcome, bomb: bool) {
    let said = if bomb { "a panic without a message" } else { "injected at" };
    match outcome {
        Stops => {
            let status = seat.wait(|status| status.stopped.is_some());
            let reason = status.stopped.unwrap();
            let text = reason.to_string();
            assert!(text.contains(place.name()) && text.contains(said), "{place}: {text}");
            match reason {
                StopReason::Panicked { place: found, .. } => assert_eq!(found, place),
                StopReason::SnapshotNotRestored { .. } => {}
                other => panic!("{place}: {other:?}"),
            }
            let refused = seat.raft().propose("x").wait(PATIENCE);
            assert!(matches!(refused, Err(RequestError::Fatal { .. })), "{place}: {refused:?}");
        }
        GoesOn => {
            let status = seat.wait(|status| status.counters.panics_survived > 0);
            let text = status.last_panic.clone().unwrap();
            assert!(text.starts_with(place.name()) && text.contains(said), "{place}: {text}");
            assert!(status.prometheus().contains(&format!("raft_panics_survived_total{{node=\"{}\"}} 1", seat.id)));
        }
        ComesBack => assert_eq!(seat.raft().status().counters.panics_survived, 0, "{place}"),
        DoesNotStart | EndsAnyway => {}
    }
    if matches!(outcome, GoesOn | ComesBack) {
        let status = seat.raft().status();
        assert_eq!(status.stopped, None, "{place}");
        if status.role == RoleKind::Leader {
            let before = status.applied_index;
            assert!(seat.raft().propose("after").wait(PATIENCE).unwrap().id.index > before, "{place}");
            seat.raft().snapshot().wait(PATIENCE).unwrap();
        }
    }
    seat.end();
}

fn run(row: &Row, bomb: bool) {
    let place = row.place;
    println!("{place}: the node {}{}", row.outcome.name(), if bomb { ", with a payload that panics" } else { "" });
    let size = if matches!(row.provoke, Behind | Serving | Leading(_) | Following(_)) { 3 } else { 1 };
    if matches!(row.provoke, Starting) {
        let mut seat = Seat::new(1);
        seat.trap.bomb.store(bomb, Ordering::SeqCst);
        seat.trap.arm(place);
        let error = seat.start(&MemoryNetwork::new(), &[1]).unwrap_err();
        assert!(matches!(error, StartError::Panicked { place: found, .. } if found == place), "{error}");
        return;
    }
    let mut bench = Bench::start(size);
    let leader = bench.leader();
    let trapped = match &row.provoke {
        Alone(provoke) | Gated(provoke) => {
            arm(&bench.seats[0], place, bomb);
            provoke(&bench.seats[0]);
            0
        }
        Behind | Serving => {
            let (leader, behind) = bench.leave_behind();
            let trapped = if matches!(row.provoke, Behind) { behind } else { leader };
            arm(&bench.seats[trapped], place, bomb);
            bench.network.heal();
            if row.outcome == GoesOn {
                // It is tried again.
                let last = bench.seats[leader].raft().status().last_index;
                bench.seats[behind].wait(|status| status.applied_index >= last);
            }
            trapped
        }
        Leading(provoke) => {
            arm(&bench.seats[leader], place, bomb);
            provoke(&bench.seats[leader]);
            leader
        }
        Following(provoke) => {
            let follower = (leader + 1) % 3;
            bench.seats[follower].wait(|status| status.leader.is_some());
            arm(&bench.seats[follower], place, bomb);
            provoke(&bench.seats[follower]);
            follower
        }
        Provoke::Ending => {
            arm(&bench.seats[0], place, bomb);
            0
        }
        Starting => unreachable!("it never ran"),
    };
    let trap = bench.seats[trapped].trap.clone();
    assert_outcome(&mut bench.seats[trapped], place, row.outcome, bomb);
    assert!(trap.sprung.load(Ordering::SeqCst) > 0, "{place}: nothing panicked");
    bench.seats.iter_mut().for_each(Seat::end);
}

/// Most of the time is waited for elections: a few rows go beside each other.
fn run_all(picks: fn(&Row) -> bool, bomb: bool) {
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(row) = ROWS.get(next.fetch_add(1, Ordering::SeqCst)) {
            if !picks(row) {
                continue;
            }
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(row, bomb))) {
                let said = panic.downcast_ref::<String>().cloned();
                // The harness would not survive to drop a payload that panics.
                mem::forget(panic);
                panic!("{} does not end as it says: {said:?}", row.place);
            }
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(work)).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

fn arm(seat: &Seat, place: CodePlace, bomb: bool) {
    seat.trap.bomb.store(bomb, Ordering::SeqCst);
    seat.trap.arm(place);
}

/// A panic in a transport's `client_address`, on a client's thread, left a node behind that ran on and sent nothing any
/// more. So each place is tried, and each node is asked afterwards what it does.
#[test]
fn a_panic_in_each_place_ends_as_the_guide_says() {
    assert_eq!(ROWS.iter().map(|row| row.place).collect::<Vec<_>>(), CodePlace::ALL, "a place without a row");
    run_all(|_| true, false);
}

/// What a panic carries is dropped by whoever caught it, and may panic as well.
#[test]
fn a_panic_whose_payload_panics_ends_no_differently() {
    run_all(|row| !matches!(row.provoke, Behind | Serving), true);
}

#[test]
fn the_guide_has_the_same_rows() {
    let guide = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/GUIDE.md")).unwrap();
    let (_, section) = guide.split_once("Where your code runs").expect("the section");
    let rows = section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let found: Vec<(String, String)> = rows
        .skip(2)
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            (cells[0].trim_matches('`').to_string(), cells[2].to_string())
        })
        .collect();
    for (row, (place, outcome)) in ROWS.iter().zip(&found) {
        assert_eq!(place, row.place.name());
        assert!(outcome.starts_with(row.outcome.name()), "{place}: {outcome} is not: {}", row.outcome.name());
    }
    assert_eq!(found.len(), ROWS.len());
}

/// Each part of a store may panic, not only its first call: the writer at any write, the receiver at any chunk.
#[test]
fn a_store_may_panic_at_any_call() {
    for calls in 1..=3 {
        let mut bench = Bench::start(1);
        bench.leader();
        let seat = &bench.seats[0];
        seat.trap.arm_after(CodePlace::StoreWrite, calls);
        (0..3).for_each(|_| write(seat));
        let taken = seat.raft().snapshot().wait(PATIENCE);
        assert_eq!(taken.is_err(), seat.trap.sprung.load(Ordering::SeqCst) == 1);
        assert_outcome(
            &mut bench.seats[0],
            CodePlace::StoreWrite,
            if taken.is_ok() { ComesBack } else { GoesOn },
            false,
        );
    }
    for calls in [1, 3, 6] {
        let mut bench = Bench::start(3);
        let (leader, behind) = bench.leave_behind();
        bench.seats[behind].trap.arm_after(CodePlace::StoreReceive, calls);
        bench.network.heal();
        let last = bench.seats[leader].raft().status().last_index;
        bench.seats[behind].wait(|status| status.applied_index >= last);
        assert_outcome(&mut bench.seats[behind], CodePlace::StoreReceive, GoesOn, false);
    }
    for calls in [0, 1, 2] {
        let mut bench = Bench::start(3);
        let (_, behind) = bench.leave_behind();
        bench.seats[behind].trap.arm_after(CodePlace::StoreOpen, calls);
        bench.network.heal();
        let stopped = |status: &Status| status.stopped.is_some();
        let reason = bench.seats[behind].wait(stopped).stopped.unwrap();
        assert!(matches!(reason, StopReason::SnapshotNotRestored { .. }), "{reason}");
        bench.seats[behind].end();
    }
}

/// Every call that a node makes before it runs, one after the other.
#[test]
fn a_panic_while_a_node_starts_is_an_error() {
    let places = [CodePlace::LogAppend, CodePlace::LogSync, CodePlace::LogView, CodePlace::TransportMembers];
    for place in places.into_iter().chain([CodePlace::TransportStart]) {
        for calls in 0.. {
            let mut seat = Seat::new(1);
            seat.trap.arm_after(place, calls);
            match seat.start(&MemoryNetwork::new(), &[1]) {
                Err(error) => assert!(matches!(error, StartError::Panicked { .. }), "{error}"),
                Ok(()) => {
                    assert!(calls > 0, "{place} is not called");
                    seat.end();
                    break;
                }
            }
        }
    }
    // With a snapshot to restore.
    for place in [CodePlace::StoreOpen, CodePlace::Restore] {
        let mut bench = Bench::start(1);
        bench.leader();
        let seat = &mut bench.seats[0];
        snapshot(seat);
        seat.end();
        seat.trap.arm(place);
        let error = seat.start(&MemoryNetwork::new(), &[1]).unwrap_err();
        assert!(error.to_string().contains(place.name()), "{place}: {error}");
        // The next start finds everything as it was.
        seat.start(&MemoryNetwork::new(), &[1]).unwrap();
        seat.wait(|status| status.role == RoleKind::Leader && status.applied_index > Index(1));
        seat.end();
    }
}

/// The answers to a leader's proposals, when it loses its leadership, name the next leader, whose address the transport
/// is asked for. That panicked on the thread that was sending for all others, and nobody ever sent again.
#[test]
fn a_node_whose_transport_panics_at_an_address_goes_on_sending() {
    let mut bench = Bench::start(3);
    let leader = bench.leader();
    let (seat, target) = (&bench.seats[leader], (leader + 1) % 3);
    let transfer = seat.raft().transfer_leadership(bench.seats[target].id);
    seat.trap.arm(CodePlace::TransportAddress);
    // Refused by the transfer, or by the next leader: both name somebody.
    while seat.trap.sprung.load(Ordering::SeqCst) == 0 {
        write(seat);
    }
    transfer.wait(PATIENCE).unwrap();
    // It has a vote and gives it, and follows: both need messages of its own.
    let third = &bench.seats[(leader + 2) % 3];
    bench.network.partition([third.id]);
    let applied = bench.seats[target].raft().propose("y").wait(PATIENCE).unwrap();
    seat.wait(|status| status.applied_index >= applied.id.index);
    assert_eq!(seat.raft().status().counters.panics_survived, 1);
    bench.seats.iter_mut().for_each(Seat::end);
}
