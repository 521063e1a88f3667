//! Reads of the log that fail for a reason that passes, such as too many open files: nobody stops for them at once, and
//! nobody waits for ever.

#![cfg(feature = "std")]

mod driver_support;

use driver_support::snapshots::{Group, Member};
use driver_support::{Cluster, FaultyLog, Network, PATIENCE, Recorder, config, propose, single};
use raft_io::driver::{DriverOptions, HeldUp, Raft, StopReason, UnknownReason};
use raft_io::transport::MemoryNetwork;
use raft_io::{Index, Message, NodeId, RoleKind};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

/// More reads than any test makes.
const ALL: usize = usize::MAX;

/// Waits for what is seen from outside only.
fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until what was sent to a node that is isolated is lost: it has heard nothing for an election timeout.
fn wait_until_cut_off(cluster: &Cluster, node: NodeId) {
    cluster.nodes[&node].wait_for(PATIENCE, |status| status.leader.is_none()).unwrap();
}

fn held_up(raft: &Raft<Recorder>, peer: NodeId) -> Option<HeldUp> {
    raft.status().peers.into_iter().find(|found| found.id == peer).and_then(|peer| peer.held_up)
}

/// A follower lags, and the entries that it needs are on the leader's disk only. The leader had too many files open to read
/// them, and stopped for good.
#[test]
fn an_append_that_cannot_be_read_for_now_is_read_again() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let (raft, faults) = (&cluster.nodes[&leader], &cluster.faults[&leader]);
    let lagging = cluster.followers(leader)[0];
    cluster.network.isolate(&[lagging]);
    for _ in 0..10 {
        propose(raft, "x").unwrap();
    }
    let last = propose(raft, "x").unwrap().id.index;
    wait_until_cut_off(&cluster, lagging);
    faults.cold.store(true, Ordering::SeqCst);
    faults.unreadable.store(ALL, Ordering::SeqCst);
    cluster.network.heal();
    wait_until("it is not said why the follower lags", || {
        matches!(held_up(raft, lagging), Some(HeldUp::LogUnreadable { .. }))
    });
    let status = raft.status();
    let text = held_up(raft, lagging).unwrap().to_string();
    assert!(text.starts_with("entries from ") && text.ends_with("injected: too many open files"), "{text}");
    let metric = format!("raft_peer_held_up{{node=\"{leader}\",peer=\"{lagging}\",reason=\"log_unreadable\"}} 1\n");
    assert!(status.prometheus().contains(&metric), "{}", status.prometheus());
    // It goes on trying, and leads on meanwhile: the other follower has everything.
    let failed = status.counters.log_reads_failed;
    wait_until("it does not try again", || raft.status().counters.log_reads_failed >= failed + 5);
    assert_eq!((raft.status().stopped, raft.status().role), (None, RoleKind::Leader.into()));
    faults.unreadable.store(0, Ordering::SeqCst);
    cluster.wait_applied(lagging, last);
    wait_until("it is held up for ever", || held_up(raft, lagging).is_none());
    assert_eq!(raft.status().term, status.term, "there was no election");
    assert_eq!(raft.status().log_unreadable, None);
}

/// Durable entries that are lost are another matter: whoever has them must lead.
#[test]
fn an_append_that_cannot_be_read_for_good_stops_the_leader_at_once() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let (raft, faults) = (&cluster.nodes[&leader], &cluster.faults[&leader]);
    let lagging = cluster.followers(leader)[0];
    cluster.network.isolate(&[lagging]);
    propose(raft, "x").unwrap();
    wait_until_cut_off(&cluster, lagging);
    faults.fail_reads.store(true, Ordering::SeqCst);
    faults.cold.store(true, Ordering::SeqCst);
    cluster.network.heal();
    let status = raft.wait_for(PATIENCE, |status| status.stopped.is_some()).unwrap();
    let Some(StopReason::LogReadFailed { message }) = status.stopped else { panic!("{:?}", status.stopped) };
    assert!(message.starts_with("entries for a peer from ") && message.contains("unreadable"), "{message}");
    assert_eq!(status.counters.log_reads_failed, 0);
}

/// A committed entry has left the memory when the state machine comes to it, and cannot be read back for some ticks. The
/// node stopped for good.
#[test]
fn an_entry_that_cannot_be_read_for_now_is_applied_later() {
    for failures in 1..6 {
        let (raft, faults, _network) = single(DriverOptions::default());
        faults.cold.store(true, Ordering::SeqCst);
        faults.unreadable.store(failures, Ordering::SeqCst);
        let proposal = raft.propose("x");
        assert_eq!(proposal.wait(PATIENCE).unwrap().response, 1);
        let status = raft.wait_for(PATIENCE, |status| status.log_unreadable.is_none()).unwrap();
        assert_eq!((status.counters.log_reads_failed, status.stopped), (failures as u64, None));
        assert_eq!(propose(&raft, "y").unwrap().response, 2);
        raft.shutdown();
    }
}

/// While it waits for the log, the apply thread does everything else: it answers stale reads, and ends with the node.
#[test]
fn a_node_that_cannot_apply_answers_and_ends() {
    let (raft, faults, _network) = single(DriverOptions::default());
    propose(&raft, "x").unwrap();
    faults.cold.store(true, Ordering::SeqCst);
    faults.unreadable.store(ALL, Ordering::SeqCst);
    let waits = raft.propose("y");
    let status = raft.wait_for(PATIENCE, |status| status.log_unreadable.is_some()).unwrap();
    let reason = status.log_unreadable.clone().unwrap();
    assert_eq!(reason, "committed entries from 3 on cannot be read from the log: injected: too many open files");
    assert!(status.prometheus().contains("raft_log_unreadable{node=\"1\"} 1\n"), "{}", status.prometheus());
    assert_eq!(raft.stale_read(|machine| machine.applied.len()).unwrap(), 1);
    raft.shutdown();
    let outcome = waits.wait(PATIENCE);
    assert!(format!("{outcome:?}").contains(&format!("{:?}", UnknownReason::Shutdown)), "{outcome:?}");
    assert_eq!(raft.status().stopped, Some(StopReason::Shutdown));
}

/// It is not waited for ever.
#[test]
fn a_log_that_stays_unreadable_stops_the_node_in_the_end() {
    let (log, faults) = FaultyLog::new();
    let network = Network::default();
    let mut config = config(1, &[1]);
    (config.tick, config.election_ticks) = (Duration::from_millis(1), 5);
    let raft = Raft::start(config, log, network.transport(1), Recorder::default()).unwrap();
    raft.wait_for(PATIENCE, |status| status.role == RoleKind::Leader && status.applied_index >= Index(1)).unwrap();
    faults.cold.store(true, Ordering::SeqCst);
    faults.unreadable.store(ALL, Ordering::SeqCst);
    drop(raft.propose("x"));
    // Its clients wait in vain, so it does not lead.
    raft.wait_for(PATIENCE, |status| status.role == RoleKind::Follower).unwrap();
    let status = raft.wait_for(PATIENCE, |status| status.stopped.is_some()).unwrap();
    let Some(StopReason::LogReadFailed { message }) = &status.stopped else { panic!("{:?}", status.stopped) };
    let tried = message.split("too many open files; it was tried ").nth(1).expect("it says how often");
    let ticks =
        tried.split(" times in ").nth(1).and_then(|rest| rest.strip_suffix(" ticks")).expect("and for how long");
    assert!((300..400).contains(&ticks.parse::<u32>().expect("a number")), "{message}");
    assert_eq!(status.log_unreadable, None, "it has stopped");
    let tries = faults.medium_reads.load(Ordering::SeqCst);
    assert!((2..400).contains(&tries), "{tries} tries, one a tick at most");
}

/// A leader that cannot read what its followers need, when too few have it, commits nothing any more. Another one leads. The
/// followers answer its heartbeats all the while.
#[test]
fn a_leader_that_can_send_to_too_few_steps_down() {
    let network = MemoryNetwork::new();
    let start = |id: u64| {
        let (log, faults) = FaultyLog::new();
        let mut config = config(id, &[1, 2, 3]);
        config.priority = if id == 1 { 3 } else { 2 };
        let raft = Raft::start(config, log, network.transport(id), Recorder::default()).unwrap();
        (raft, faults)
    };
    let servers: Vec<_> = (1..=3).map(start).collect();
    let (raft, faults) = &servers[0];
    raft.wait_for(PATIENCE, |status| status.role == RoleKind::Leader && status.applied_index.0 > 0).unwrap();
    propose(raft, "x").unwrap();
    network.drop_if(|_, envelope| match &envelope.message {
        Message::AppendEntriesRequest(request) => envelope.from == NodeId(1) && !request.entries.is_empty(),
        _ => false,
    });
    let lost = raft.propose("y");
    wait_until("it is not durable", || raft.status().durable_index == Index(3));
    faults.cold.store(true, Ordering::SeqCst);
    faults.unreadable.store(ALL, Ordering::SeqCst);
    let status = servers[1].0.wait_for(PATIENCE, |status| {
        status.leader.as_ref().is_some_and(|leader| leader.id != NodeId(1)) && status.commit_index.0 > 2
    });
    let new = status.unwrap().leader.unwrap().id;
    assert_eq!(propose(&servers[new.0 as usize - 1].0, "z").unwrap().response, 2);
    let outcome = lost.wait(PATIENCE);
    assert!(format!("{outcome:?}").contains(&format!("{:?}", UnknownReason::LeadershipLost)), "{outcome:?}");
    // It stops for nothing of this, and follows.
    faults.unreadable.store(0, Ordering::SeqCst);
    let commands = |machine: &Recorder| machine.applied.iter().map(|(_, command)| command.clone()).collect::<Vec<_>>();
    wait_until("it does not follow", || raft.stale_read(commands).unwrap() == ["x", "z"]);
    assert_eq!(raft.status().stopped, None);
    servers.iter().for_each(|(raft, _)| raft.shutdown());
}

/// A leader whose state machine cannot be given what is committed serves nobody. It steps down, and applies it later.
#[test]
fn a_leader_that_cannot_apply_steps_down() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let (raft, faults, gate) = (&cluster.nodes[&leader], &cluster.faults[&leader], &cluster.gates[&leader]);
    gate.shut();
    let first = raft.propose("first");
    gate.wait_for_visitor();
    let second = raft.propose("second");
    // Everybody has it, so that only the state machine needs to read.
    for id in cluster.followers(leader) {
        cluster.nodes[&id].wait_for(PATIENCE, |status| status.applied_index >= status.last_index).unwrap();
    }
    raft.wait_for(PATIENCE, |status| {
        status.commit_index == status.last_index
            && status.peers.iter().all(|peer| peer.match_index == status.last_index)
    })
    .unwrap();
    faults.cold.store(true, Ordering::SeqCst);
    faults.unreadable.store(ALL, Ordering::SeqCst);
    gate.open();
    assert_eq!(first.wait(PATIENCE).unwrap().response, 1);
    let new = cluster.leader_among(cluster.followers(leader));
    propose(&cluster.nodes[&new], "third").unwrap();
    assert_eq!(raft.status().stopped, None);
    assert!(raft.status().log_unreadable.is_some());
    faults.unreadable.store(0, Ordering::SeqCst);
    assert_eq!(second.wait(PATIENCE).unwrap().response, 2);
    cluster.wait_applied(leader, cluster.nodes[&new].status().commit_index);
}

/// A learner has fetched the snapshot that it needs, and has too many files open to open it. It stopped for good.
#[test]
fn a_snapshot_that_cannot_be_opened_for_now_is_restored_later() {
    let mut options = DriverOptions::default();
    (options.snapshot_entries, options.snapshot_trail_entries) = (usize::MAX, 0);
    let group = Group::start(1, &options);
    let leader = group.leader();
    group.propose(leader, 20);
    let last = group.at(leader).raft().snapshot().wait(PATIENCE).unwrap().last;
    for (id, failures) in [(2, 1), (3, 4), (4, ALL)] {
        let mut learner = Member::new(id, &[], &group.network, &options);
        learner.store.faults.unopened.store(failures, Ordering::SeqCst);
        learner.start();
        group.at(leader).raft().add_learner(id, "", PATIENCE).wait().unwrap();
        if failures == ALL {
            let status = learner.raft().wait_for(PATIENCE, |status| status.counters.log_reads_failed > 3).unwrap();
            let reason = status.log_unreadable.expect("it says what it waits for");
            assert!(reason.starts_with(&format!("the snapshot up to {last} cannot be restored: opening")), "{reason}");
            assert_eq!((status.stopped, status.applied_index), (None, Index::ZERO));
            // Nobody need wait for it meanwhile: it is asked, and ends when it is told to.
            assert_eq!(learner.raft().stale_read(|machine| machine.commands().len()).unwrap(), 0);
            let refused = learner.raft().snapshot().wait(PATIENCE);
            refused.expect_err("nothing is applied yet");
            learner.raft().shutdown();
            continue;
        }
        let status = learner.raft().wait_for(PATIENCE, |status| status.applied_index >= last.index).unwrap();
        assert_eq!((status.counters.log_reads_failed, status.stopped), (failures as u64, None));
        learner.raft().wait_for(PATIENCE, |status| status.log_unreadable.is_none()).unwrap();
        assert_eq!(learner.raft().stale_read(|machine| machine.commands().len()).unwrap(), 20);
    }
}
