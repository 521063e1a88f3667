//! Membership changes under load, and of servers that begin with a snapshot.

#![cfg(all(feature = "std", feature = "testkit"))]

mod driver_support;

use driver_support::snapshots::{Group, Member};
use driver_support::{Cluster, PATIENCE, Recorder, config};
use raft_io::driver::{DriverOptions, MembershipChange, MembershipChangeError, Raft, TakeSnapshotError};
use raft_io::log::Locked;
use raft_io::snapshot::SnapshotInfo;
use raft_io::testkit::linearizability::{
    KeyValue, KeyValueInput as In, KeyValueOutput as Out, Operation, Verdict, check,
};
use raft_io::{Membership, MemoryLog, NodeId, RoleKind};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

type Nodes = BTreeMap<NodeId, Raft<Recorder>>;

fn leading(nodes: &Nodes) -> Option<&Raft<Recorder>> {
    nodes.values().find(|raft| raft.status().role == RoleKind::Leader)
}

/// Asks whoever leads until it is done.
fn until_done(
    nodes: &Nodes,
    what: impl Fn(&Raft<Recorder>) -> MembershipChange,
) -> Result<Arc<Membership>, MembershipChangeError> {
    for _ in 0..300 {
        match leading(nodes).map(|raft| what(raft).wait()) {
            Some(Ok(membership)) => return Ok(membership),
            Some(Err(MembershipChangeError::NotLeader { .. } | MembershipChangeError::OutcomeUnknown { .. }))
            | None => {
                thread::sleep(Duration::from_millis(20));
            }
            Some(Err(error)) => return Err(error),
        }
    }
    panic!("no leader")
}

#[test]
fn from_three_to_five_and_back_no_client_notices() {
    let mut cluster = Cluster::start(3);
    cluster.leader();
    for id in [4_u64, 5] {
        let transport = cluster.network.transport(id);
        let log = Locked::<MemoryLog>::default();
        let raft = Raft::start(config(id, &[]), log, transport, Recorder::default()).unwrap();
        cluster.nodes.insert(id.into(), raft);
    }
    let (stop, clock) = (AtomicBool::new(false), AtomicU64::new(0));
    let history = Mutex::new(Vec::new());
    let now = || clock.fetch_add(1, Ordering::SeqCst);
    let nodes = &cluster.nodes;
    let increment = || {
        let Some(raft) = leading(nodes) else { return thread::sleep(Duration::from_millis(1)) };
        let called = now();
        let operation = match raft.propose("x").wait(PATIENCE) {
            Ok(applied) => Operation::completed(In::Increment, called, now(), Out::Number(applied.response as i64)),
            Err(error) => {
                use raft_io::driver::RequestError::{DeadlineExceeded, OutcomeUnknown};
                if !matches!(error, OutcomeUnknown { .. } | DeadlineExceeded { proposed: Some(_) }) {
                    return thread::sleep(Duration::from_millis(1));
                }
                Operation::unknown(In::Increment, called)
            }
        };
        history.lock().unwrap().push(operation);
    };
    let read = || {
        let Some(raft) = leading(nodes) else { return thread::sleep(Duration::from_millis(1)) };
        let called = now();
        if let Ok(count) = raft.read(|machine| machine.applied.len()).wait(PATIENCE) {
            let value = (count > 0).then(|| count.to_string().into());
            history.lock().unwrap().push(Operation::completed(In::Get, called, now(), Out::Value(value)));
        }
    };
    thread::scope(|scope| {
        for worker in 0..4 {
            let (stop, increment, read) = (&stop, &increment, &read);
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    if worker % 2 == 0 {
                        increment()
                    } else {
                        read()
                    }
                    thread::sleep(Duration::from_micros(500));
                }
            });
        }
        // Whatever the configuration, there is load.
        let more = || {
            let (began, before) = (Instant::now(), history.lock().unwrap().len());
            while history.lock().unwrap().len() < before + 40 {
                assert!(began.elapsed() < PATIENCE, "nobody is served");
                thread::sleep(Duration::from_millis(1));
            }
        };
        let until_done = |nodes, what: &dyn Fn(&Raft<Recorder>) -> MembershipChange| {
            more();
            until_done(nodes, what)
        };
        let changes = || -> Result<(), MembershipChangeError> {
            for _ in 0..2 {
                until_done(nodes, &|raft| raft.add_voter(4, "", PATIENCE))?;
                until_done(nodes, &|raft| raft.add_voter(5, "", PATIENCE))?;
                let three =
                    until_done(nodes, &|raft| raft.change_membership(Membership::new([3, 4, 5_u64]), PATIENCE))?;
                assert_eq!(*three, Membership::new([3, 4, 5_u64]));
                until_done(nodes, &|raft| raft.add_voter(1, "", PATIENCE))?;
                until_done(nodes, &|raft| raft.add_voter(2, "", PATIENCE))?;
                until_done(nodes, &|raft| raft.change_membership(Membership::new([1, 2, 3_u64]), PATIENCE))?;
            }
            Ok(())
        };
        let changed = catch_unwind(AssertUnwindSafe(changes));
        stop.store(true, Ordering::SeqCst);
        changed.unwrap().unwrap();
    });
    let history = history.into_inner().unwrap();
    let unknown = history.iter().filter(|operation| operation.returned.is_none()).count();
    let verdict = check(&KeyValue, &history);
    assert!(matches!(verdict, Verdict::Linearizable { .. }), "{unknown} unknown: {verdict:?}");
}

fn options() -> DriverOptions {
    let mut options = DriverOptions::default();
    options.snapshot_trail_entries = 0;
    options.snapshot_trail_bytes = 0;
    options
}

/// A snapshot's file alone says who belonged to the cluster, so that one can be built anew from it.
#[test]
fn a_snapshot_says_who_belonged_to_the_cluster() {
    let mut alone = Member::alone(&options());
    alone.lead();
    alone.raft().add_learner(7, "host:7", PATIENCE).wait().unwrap();
    // A change is done when it is committed; a snapshot covers what is applied.
    alone.raft().wait_for(PATIENCE, |status| status.applied_index >= status.membership.index).unwrap();
    let info = alone.raft().snapshot().wait(PATIENCE).unwrap();
    let membership = info.membership().unwrap().unwrap();
    assert_eq!(membership.without_history(), Membership::new([1_u64]).with_learner(7).with_address(7, "host:7"));
    // It prevails after a restart, too, though the entry is gone.
    alone.stop();
    let status = alone.lead().status();
    assert_eq!(*status.membership.in_force, membership.without_history());
    assert!(status.history.is_some(), "{status:?}");
    assert_eq!(status.snapshot.last, Some(info.last));
}

#[test]
fn a_server_that_joins_begins_with_the_leaders_snapshot() {
    let group = Group::start(3, &options());
    let leader = group.leader();
    group.propose(leader, 50);
    group.at(leader).raft().snapshot().wait(PATIENCE).unwrap();
    group.propose(leader, 5);
    let network = group.network.clone();
    let mut joiner = Member::new(4, &[], &network, &options());
    joiner.start();
    // Nobody to name: nothing is applied, and nothing of it is an error of the node.
    let refused = joiner.raft().snapshot().wait(PATIENCE);
    assert_eq!(refused, Err(TakeSnapshotError::NothingApplied));
    group.at(leader).raft().add_voter(4, "", PATIENCE).wait().unwrap();
    let last = group.at(leader).raft().status().last_index;
    joiner.wait(|status| status.applied_index >= last);
    assert_eq!(joiner.commands().len(), 55);
    assert_eq!(joiner.raft().status().counters.snapshots_fetched, 1);
    joiner.stop();
    joiner.start();
    let status = joiner.wait(|status| status.applied_index >= last);
    assert_eq!(*status.membership.in_force, Membership::new([1, 2, 3, 4_u64]));
}

/// Snapshots are due long before the log of a server that joins comes to the configuration that names it. Each says who
/// belonged to the cluster as of its last entry, and none fails.
#[test]
fn a_server_that_joins_says_in_each_snapshot_who_belonged_to_the_cluster() {
    let group = Group::start(3, &DriverOptions::default());
    let leader = group.leader();
    for _ in 0..20 {
        // A few of these are a message.
        driver_support::snapshots::propose(group.at(leader).raft(), vec![7; 200_000]);
    }
    let mut eager = options();
    eager.snapshot_entries = 2;
    let mut joiner = Member::new(4, &[], &group.network, &eager);
    joiner.start();
    group.at(leader).raft().add_voter(4, "", PATIENCE).wait().unwrap();
    joiner.wait(|status| status.applied_index >= group.at(leader).raft().status().last_index);
    let members = |info: SnapshotInfo| info.membership().unwrap().unwrap().without_history();
    let taken = members(joiner.raft().snapshot().wait(PATIENCE).unwrap());
    // The first may be one that was being written before the last configurations were applied.
    let founders = Membership::new([1, 2, 3_u64]);
    assert!(taken == founders || taken.contains(NodeId(4)), "{taken:?}");
    assert!(members(joiner.raft().snapshot().wait(PATIENCE).unwrap()).is_voter(NodeId(4)));
    let status = joiner.raft().status();
    assert_eq!((status.counters.snapshots_failed, status.snapshot.last_error, status.fatal), (0, None, None));
    assert_eq!(joiner.commands().len(), 20);
}
