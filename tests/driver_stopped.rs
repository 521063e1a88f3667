//! The end of a node is a state: nobody who looks at a stopped node sees one that works.

#![cfg(feature = "std")]

mod driver_support;

use driver_support::{Cluster, PATIENCE, Recorder, propose, single};
use raft_io::driver::{CodePlace, DriverOptions, NodeRole, Raft, RoleChange, Status, StopReason, WaitError, Watch};
use raft_io::{Index, RoleKind};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

/// What everybody who looks at a stopped node is to see of it.
fn assert_stopped(raft: &Raft<Recorder>, reason: &StopReason) {
    let status = raft.status();
    assert_eq!((status.role, &status.leader, status.transfer_target), (NodeRole::Stopped, &None, None));
    assert_eq!((status.peers.len(), status.uncommitted_bytes), (0, 0));
    assert_eq!(status.stopped.as_ref(), Some(reason));
    assert_eq!(status.fatal.is_some(), reason.is_fatal());
    let name = reason.name();
    let text = status.prometheus();
    let id = raft.id();
    for line in [
        format!("raft_role{{node=\"{id}\",role=\"stopped\"}} 1"),
        format!("raft_role{{node=\"{id}\",role=\"leader\"}} 0"),
        format!("raft_has_leader{{node=\"{id}\"}} 0"),
        format!("raft_leader_id{{node=\"{id}\"}} 0"),
        format!("raft_transfer_target{{node=\"{id}\"}} 0"),
        format!("raft_stopped{{node=\"{id}\",reason=\"{name}\"}} 1"),
        format!("raft_fatal{{node=\"{id}\"}} {}", u8::from(reason.is_fatal())),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("raft_peer_"), "a stopped node knows nothing of its peers:\n{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("raft_stopped") && line.ends_with(" 1")).count(), 1);
    // What was true when it stopped, and is no longer.
    let waited = raft.wait_for(PATIENCE, |status| status.role == RoleKind::Leader);
    let over = match &status.fatal {
        Some(reason) => WaitError::Fatal { reason: reason.clone() },
        None => WaitError::Shutdown,
    };
    assert_eq!(waited, Err(over.clone()));
    assert_eq!(raft.wait_for(PATIENCE, |status| status.leader.is_some()), Err(over));
    assert!(raft.wait_for(PATIENCE, |status| status.stopped.is_some()).is_ok());
    // A watch that is taken now begins, and ends, with the reason.
    let mut late = raft.watch();
    assert_end(late.next(PATIENCE), reason);
    assert_eq!(late.next(PATIENCE), None);
}

fn assert_end(change: Option<RoleChange>, reason: &StopReason) {
    let change = change.expect("the end is told");
    assert_eq!((change.role, change.leader, change.stopped.as_ref()), (NodeRole::Stopped, None, Some(reason)));
}

/// Everything to the end of it; nothing comes after the end of the node.
fn assert_ends(mut watch: Watch, reason: &StopReason) {
    let mut last = None;
    while let Some(change) = watch.next(PATIENCE) {
        assert!(last.is_none_or(|before: RoleChange| before.stopped.is_none()), "{change:?} comes after the end");
        last = Some(change);
    }
    assert_end(last, reason);
}

fn reason_of(raft: &Raft<Recorder>) -> StopReason {
    let stopped = |status: &Status| status.stopped.is_some();
    raft.wait_for(PATIENCE, stopped).unwrap().stopped.unwrap()
}

/// The leader's state machine panicked; it went on saying that it led, in its status and its metrics, its watches were
/// silent, and who waited for it to lead was told that it did.
#[test]
fn a_leader_whose_state_machine_panics_leads_no_longer() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let raft = &cluster.nodes[&leader];
    let watch = raft.watch();
    let good = propose(raft, "good").unwrap();
    drop(propose(raft, "panic"));
    let reason = reason_of(raft);
    let StopReason::Panicked { place, entry, message } = &reason else { panic!("{reason}") };
    let index = entry.unwrap().index;
    assert_eq!((*place, index), (CodePlace::Apply, good.id.index.next()));
    assert!(message.contains("does not survive"), "{message}");
    assert_stopped(raft, &reason);
    assert_ends(watch, &reason);
    raft.shutdown();
    assert_stopped(raft, &reason);
}

/// As above, with a disk that fails.
#[test]
fn a_leader_whose_log_fails_leads_no_longer() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let raft = &cluster.nodes[&leader];
    let watch = raft.watch();
    cluster.faults[&leader].fail_sync.store(true, Ordering::SeqCst);
    drop(propose(raft, "x"));
    let reason = reason_of(raft);
    assert!(
        matches!(&reason, StopReason::LogWriteFailed { message } if message.contains("the disk is gone")),
        "{reason}"
    );
    assert_stopped(raft, &reason);
    assert_ends(watch, &reason);
}

/// The log fails under a follower: it hears its leader no longer, so it names none.
#[test]
fn a_follower_that_stopped_names_no_leader() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let follower = cluster.followers(leader)[0];
    let raft = &cluster.nodes[&follower];
    raft.wait_for(PATIENCE, |status| status.leader.is_some()).unwrap();
    cluster.faults[&follower].fail_sync.store(true, Ordering::SeqCst);
    propose(&cluster.nodes[&leader], "x").unwrap();
    assert_stopped(raft, &reason_of(raft));
}

#[test]
fn a_log_that_cannot_be_read_is_a_reason_of_its_own() {
    let (raft, faults, _network) = single(DriverOptions::default());
    faults.fail_reads.store(true, Ordering::SeqCst);
    faults.cold.store(true, Ordering::SeqCst);
    drop(propose(&raft, "x"));
    let reason = reason_of(&raft);
    assert!(matches!(&reason, StopReason::LogReadFailed { message } if message.contains("unreadable")), "{reason}");
    assert_stopped(&raft, &reason);
}

/// A node that is shut down has ended as well: its handles, of which there may be many, see that it leads no longer.
#[test]
fn a_node_that_is_shut_down_leads_no_longer() {
    let (raft, _faults, _network) = single(DriverOptions::default());
    let watch = raft.watch();
    raft.shutdown();
    assert_stopped(&raft, &StopReason::Shutdown);
    assert_ends(watch, &StopReason::Shutdown);
}

/// A thread that waits for a node to lead, while that stops, is told; it need not have looked at the right moment.
#[test]
fn a_wait_ends_with_the_node() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    for id in cluster.followers(leader).into_iter().chain([leader]) {
        let raft = cluster.nodes[&id].clone();
        let (waiting, mut watch) = (raft.clone(), raft.watch());
        let waiter = thread::spawn(move || waiting.wait_for(PATIENCE, |status| status.applied_index == Index(1 << 40)));
        let watcher = thread::spawn(move || {
            let mut last = None;
            while let Some(change) = watch.next(PATIENCE) {
                last = Some(change);
            }
            last
        });
        cluster.faults[&id].fail_sync.store(true, Ordering::SeqCst);
        drop(cluster.nodes[&leader].propose("x"));
        let reason = reason_of(&raft);
        assert_end(watcher.join().unwrap(), &reason);
        let waited = waiter.join().unwrap();
        assert!(matches!(waited, Err(WaitError::Fatal { .. })), "{waited:?}");
    }
}

/// A leader that hands over while its log fails has no target any more.
#[test]
fn a_transfer_ends_with_the_node() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let raft = &cluster.nodes[&leader];
    let target = cluster.followers(leader)[0];
    let faults = &cluster.faults[&leader];
    faults.sync_gate.shut();
    let open = raft.propose("x");
    faults.sync_gate.wait_for_visitor();
    cluster.network.isolate(&[target]);
    let transfer = raft.transfer_leadership(target);
    faults.fail_sync.store(true, Ordering::SeqCst);
    faults.sync_gate.open();
    let reason = reason_of(raft);
    assert!(transfer.wait(PATIENCE).is_err());
    assert!(open.wait(Duration::ZERO).is_err());
    assert_stopped(raft, &reason);
}
