//! Two clusters never merge, though what the added server has of its own is compacted: no entry is left to compare.

#![cfg(all(feature = "persistence", feature = "testkit"))]

mod driver_support;

use driver_support::snapshots::{Group, Ledger, Member, propose};
use driver_support::{PATIENCE, config};
use raft_io::action::{Compaction, Write};
use raft_io::backup::{BackupReader, Restore};
use raft_io::driver::{DriverOptions, Raft, Recovery, Snapshots};
use raft_io::log::RaftLog as _;
use raft_io::log::wal::{WalLog, WalOptions};
use raft_io::snapshot::files::SnapshotOptions;
use raft_io::snapshot::{SnapshotFiles, SnapshotStore as _};
use raft_io::transport::MemoryNetwork;
use raft_io::{
    ClusterId, Entries, Entry, EntryId, HardState, HistoryId, LogView as _, Membership, NodeId, Payload, RoleKind, Term,
};
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

const CLUSTER: ClusterId = ClusterId(7);
/// For changes that never come to be.
const SHORT: Duration = Duration::from_secs(2);

/// Snapshots only when they are asked for, and no trail.
fn manual() -> DriverOptions {
    let mut options = DriverOptions::default();
    (options.snapshot_entries, options.snapshot_bytes, options.snapshot_trail_entries) = (usize::MAX, u64::MAX, 0);
    options
}

/// Twenty commands of this name, and a snapshot in their place.
fn compact(raft: &Raft<Ledger>, name: &str) {
    for number in 0..20 {
        propose(raft, format!("{name} {number}"));
    }
    raft.snapshot().wait(PATIENCE).unwrap();
}

/// Adds the server, which is started, at `leader`: it gets no vote, and keeps what it has.
fn is_not_added(leader: &Raft<Ledger>, server: &Member, commands: &[bytes::Bytes]) {
    let id = server.id;
    let added = leader.add_voter(id, "", SHORT);
    server.wait(|status| status.counters.messages_misbehaved > 0);
    added.wait().expect_err("a server of another history got a vote");
    assert!(!leader.status().membership.in_force.voters().contains(&NodeId(id)));
    assert_eq!(server.commands(), commands);
    propose(leader, "the cluster goes on without it");
    assert_eq!(server.commands(), commands);
}

/// A folder for one node that is restored from a backup.
struct Restored(tempfile::TempDir);

impl Restored {
    /// The node, which leads.
    fn lead(&self, file: &[u8], id: u64, network: &MemoryNetwork) -> Raft<Ledger> {
        let (log, snapshots) = (self.0.path().join("log"), self.0.path().join("snapshots"));
        let backup = BackupReader::open(file).unwrap();
        let restore = Restore::plan(backup.info(), id).unwrap().with_cluster(CLUSTER);
        restore.carry_out(backup, &log, &snapshots).unwrap();
        let mut options = manual();
        options.snapshots = Some(Snapshots::new(SnapshotFiles::open(snapshots, SnapshotOptions::new()).unwrap()));
        let log = WalLog::open(log, WalOptions::new(CLUSTER, NodeId(id)).segment_bytes(64 << 10)).unwrap();
        let machine = Ledger::new(&Arc::default());
        let raft = Raft::start_with(config(id, &[]), options, log, network.transport(id), machine).unwrap();
        raft.wait_for(PATIENCE, |status| status.role == RoleKind::Leader && status.applied_index == status.last_index)
            .unwrap();
        raft
    }
}

fn restored() -> Restored {
    Restored(tempfile::tempdir().unwrap())
}

/// A cluster of one with ten commands, and its backup.
fn backed_up() -> (Vec<u8>, Group) {
    let group = Group::start(1, &manual());
    group.leader();
    group.propose(1, 10);
    let mut file = Vec::new();
    group.at(1).raft().backup(PATIENCE).unwrap().read_to_end(&mut file).unwrap();
    (file, group)
}

/// Recovers it, with itself as the one survivor.
fn recover(server: &mut Member) {
    let survivor = [server.id];
    Recovery::plan(&server.log, server.id, survivor).unwrap().carry_out(&mut server.log).unwrap();
}

/// Led twice, so that its term is higher than that of one which led once.
fn lead_twice(leader: &mut Member) {
    leader.lead();
    leader.stop();
    leader.lead();
    propose(leader.raft(), "a");
}

/// Server 4 ran as a cluster of its own, took a snapshot and stopped. Its history was compared only where its log knew the
/// term, and an append from before its base was answered with "accepted": it got a vote at the leader of another cluster.
#[test]
fn a_server_of_another_cluster_with_a_compacted_log_gets_no_vote() {
    let network = MemoryNetwork::new();
    let mut ghost = Member::new(4, &[4], &MemoryNetwork::new(), &manual());
    ghost.lead();
    compact(ghost.raft(), "ghost");
    let commands = ghost.commands();
    ghost.stop();
    let mut leader = Member::new(1, &[1], &network, &manual());
    lead_twice(&mut leader);
    let mut ghost = ghost.on(&network).joining();
    ghost.start();
    is_not_added(leader.raft(), &ghost, &commands);
}

/// The same of a leader whose own log is compacted, so that it offers its snapshot. What that covers is behind the base here.
#[test]
fn a_snapshot_of_another_cluster_from_before_the_base_is_not_acknowledged() {
    let network = MemoryNetwork::new();
    let mut ghost = Member::new(4, &[], &network, &manual());
    directory_of_0_6(&mut ghost);
    let mut leader = Member::new(1, &[1], &network, &manual());
    lead_twice(&mut leader);
    leader.raft().snapshot().wait(PATIENCE).unwrap();
    ghost.start();
    is_not_added(leader.raft(), &ghost, &ghost.commands());
}

/// The leader's snapshot reaches further than the log of the server, which would have begun anew with it: all that its own
/// cluster committed was given up without a word.
#[test]
fn a_snapshot_of_another_cluster_does_not_replace_what_a_cluster_of_0_6_committed() {
    let network = MemoryNetwork::new();
    let mut ghost = Member::new(4, &[], &network, &manual());
    directory_of_0_6(&mut ghost);
    let mut leader = Member::new(1, &[1], &network, &manual());
    lead_twice(&mut leader);
    (0..2).for_each(|_| compact(leader.raft(), "a"));
    ghost.start();
    is_not_added(leader.raft(), &ghost, &ghost.commands());
}

/// An old server went on after the backup and compacted its log beyond the first entry of the restored cluster.
#[test]
fn an_old_server_with_a_compacted_log_gets_no_vote_in_the_restored_cluster() {
    let (file, mut group) = backed_up();
    compact(group.at(1).raft(), "old");
    let mut old = group.members.remove(&1).unwrap();
    let commands = old.commands();
    old.stop();
    let (folder, network) = (restored(), MemoryNetwork::new());
    let leader = folder.lead(&file, 11, &network);
    propose(&leader, "of the child");
    let mut old = old.on(&network).joining();
    old.start();
    is_not_added(&leader, &old, &commands);
}

/// The other way round: the restored cluster has compacted its log, and the old one, whose terms are as high since it was
/// recovered, is told to add the restored node. That acknowledged entries of the old cluster, and got a vote there.
#[test]
fn a_restored_node_with_a_compacted_log_takes_nothing_from_a_recovered_old_cluster() {
    let (file, mut group) = backed_up();
    let mut old = group.members.remove(&1).unwrap();
    old.stop();
    (0..2).for_each(|_| recover(&mut old));
    let (folder, network) = (restored(), MemoryNetwork::new());
    let node = folder.lead(&file, 11, &network);
    compact(&node, "new");
    let commands = node.stale_read(Ledger::commands).unwrap();
    let mut old = old.on(&network);
    old.lead();
    let added = old.raft().add_voter(11, "", SHORT);
    node.wait_for(PATIENCE, |status| status.counters.messages_misbehaved > 0).unwrap();
    added.wait().expect_err("it acknowledged entries of the old cluster");
    propose(old.raft(), "old");
    assert_eq!(node.stale_read(Ledger::commands).unwrap(), commands);
}

/// A recovery gave server 2 up, and by mistake that was recovered as well, in higher terms. Server 1 has compacted its log beyond the
/// first entry of either recovery.
#[test]
fn two_recoveries_of_one_cluster_do_not_merge_though_a_log_is_compacted() {
    let mut group = Group::start(1, &manual());
    group.leader();
    group.propose(1, 3);
    let mut two = Member::new(2, &[], &group.network, &manual());
    two.start();
    group.at(1).raft().add_voter(2, "", PATIENCE).wait().unwrap();
    let last = propose(group.at(1).raft(), "both").id;
    two.wait(|status| status.applied_index >= last.index);
    two.stop();
    let mut one = group.members.remove(&1).unwrap();
    one.stop();
    let network = MemoryNetwork::new();
    recover(&mut one);
    let mut one = one.on(&network);
    one.lead();
    compact(one.raft(), "one");
    let commands = one.commands();
    one.stop();
    (0..2).for_each(|_| recover(&mut two));
    let mut two = two.on(&network);
    two.lead();
    propose(two.raft(), "two");
    let mut one = one.joining();
    one.start();
    is_not_added(two.raft(), &one, &commands);
}

/// A log of 0.6.0, in term 1, with twenty commands: there is no history. All of it is compacted.
fn directory_of_0_6(node: &mut Member) {
    let last = EntryId::new(21, 1);
    let entry = |index: u64| Entry {
        id: EntryId::new(index, 1),
        payload: if index == 1 { Payload::Noop } else { Payload::Command(format!("ghost {index}").into()) },
    };
    let write = Write {
        hard_state: Some(HardState { term: Term(1), vote: Some(NodeId(node.id)) }),
        entries: (1..=last.index.0).map(entry).collect::<Entries>(),
        ..Write::default()
    };
    // Of two, so that it does not lead alone.
    let membership = Membership::new([4_u64, 5]);
    let mut writer = node.store.begin(last, membership.encode().into()).unwrap();
    for number in 2..=last.index.0 {
        let command = format!("ghost {number}");
        writer.write_all(&(command.len() as u32).to_le_bytes()).unwrap();
        writer.write_all(command.as_bytes()).unwrap();
    }
    writer.finish().unwrap();
    let compaction = Some(Compaction { snapshot: last, base: last, membership: Arc::new(membership) });
    for write in [write, Write { compaction, ..Write::default() }] {
        node.log.append(&mut vec![write]).unwrap();
        node.log.sync().unwrap();
    }
}

/// A directory of 0.6.0 has no history, so every handshake lets it in. It ran as a cluster of its own, and is compacted.
#[test]
fn a_compacted_directory_of_a_cluster_of_0_6_does_not_join_another_cluster() {
    let network = MemoryNetwork::new();
    let mut ghost = Member::new(4, &[], &network, &manual());
    directory_of_0_6(&mut ghost);
    let mut leader = Member::new(1, &[1], &network, &manual());
    lead_twice(&mut leader);
    ghost.start();
    is_not_added(leader.raft(), &ghost, &ghost.commands());
    assert_eq!(ghost.raft().status().history, None);
}

/// The servers of one cluster of 0.6.0 are upgraded with their logs compacted: it gets its history, and both follow it.
#[test]
fn a_cluster_of_0_6_with_compacted_logs_gets_its_history() {
    let network = MemoryNetwork::new();
    let mut members: Vec<Member> = [4, 5].into_iter().map(|id| Member::new(id, &[], &network, &manual())).collect();
    for member in &mut members {
        directory_of_0_6(member);
    }
    for member in &mut members {
        member.start();
    }
    let history = |member: &Member| -> HistoryId { member.wait(|status| status.history.is_some()).history.unwrap() };
    assert_eq!(history(&members[0]), history(&members[1]));
    let last = members[0].raft().status().last_index;
    members.iter().for_each(|member| drop(member.wait(|status| status.applied_index >= last)));
    assert_eq!(members[0].commands(), members[1].commands());
    assert_eq!(members[0].log.base(), EntryId::new(21, 1));
}
