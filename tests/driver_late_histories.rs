//! Backups and recoveries of odd clusters: what is made of them opens, or nothing is made.
//!
//! One kind are snapshots that name a history which began behind them. A cluster of 0.6.0 gets its history by an entry behind all others. Whoever takes a snapshot before it has applied that
//! entry, or gets one from a leader, learns the history from the snapshot's metadata.

#![cfg(all(feature = "persistence", feature = "testkit"))]

mod driver_support;

use driver_support::snapshots::{Ledger, Member, propose};
use driver_support::{PATIENCE, config};
use raft_io::action::{Compaction, Write};
use raft_io::backup::{BackupReader, Restore, RestoreBackupError};
use raft_io::driver::{DriverOptions, Raft, Recovery, Snapshots};
use raft_io::log::RaftLog as _;
use raft_io::log::wal::{WalLog, WalOptions};
use raft_io::snapshot::files::SnapshotOptions;
use raft_io::snapshot::{SnapshotFiles, SnapshotStore as _};
use raft_io::transport::MemoryNetwork;
use raft_io::{
    ClusterId, Entries, Entry, EntryId, HardState, History, HistoryId, Membership, NodeId, Payload, RoleKind, Status,
    Term,
};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;

const CLUSTER: ClusterId = ClusterId(7);
const LAST: EntryId = EntryId { index: raft_io::Index(4), term: Term(1) };

/// Snapshots only when they are asked for, and no trail.
fn manual() -> DriverOptions {
    let mut options = DriverOptions::default();
    (options.snapshot_entries, options.snapshot_bytes, options.snapshot_trail_entries) = (usize::MAX, u64::MAX, 0);
    options
}

/// That of a cluster which got it with entry 7, after a recovery of another one at entry 6.
fn late() -> Arc<History> {
    let first = History::new(HistoryId::from_bits(8 << 64), EntryId::new(6, 1));
    Arc::new(History::child(Some(&first), HistoryId::from_bits(9 << 64), EntryId::new(7, 2), [3_u64]))
}

/// One of two voters. Its log begins with a snapshot of three commands, and ends there.
fn behind_its_history(id: u64, network: &MemoryNetwork) -> Member {
    let mut node = Member::new(id, &[], network, &manual());
    let entry = |index: u64| Entry {
        id: EntryId::new(index, 1),
        payload: if index == 1 { Payload::Noop } else { Payload::Command(format!("{index}").into()) },
    };
    let write = Write {
        hard_state: Some(HardState { term: Term(1), vote: None }),
        entries: (1..=LAST.index.0).map(entry).collect::<Entries>(),
        ..Write::default()
    };
    let membership = Membership::new([1_u64, 2]).with_history(late());
    let mut writer = node.store.begin(LAST, membership.encode().into()).unwrap();
    for number in 2..=LAST.index.0 {
        writer.write_all(&1_u32.to_le_bytes()).unwrap();
        writer.write_all(number.to_string().as_bytes()).unwrap();
    }
    writer.finish().unwrap();
    let compaction = Some(Compaction { snapshot: LAST, base: LAST, membership: Arc::new(membership) });
    for write in [write, Write { compaction, ..Write::default() }] {
        node.log.append(&mut vec![write]).unwrap();
        node.log.sync().unwrap();
    }
    node
}

/// Starts the node 11 that was restored there, and waits until it leads.
fn lead(path: &Path) -> Raft<Ledger> {
    let log = WalLog::open(path, WalOptions::new(CLUSTER, NodeId(11)).segment_bytes(64 << 10)).unwrap();
    let mut options = manual();
    let store = SnapshotFiles::open(path.join("snapshots"), SnapshotOptions::new()).unwrap();
    options.snapshots = Some(Snapshots::new(store));
    let transport = MemoryNetwork::new().transport(11);
    let raft = Raft::start_with(config(11, &[]), options, log, transport, Ledger::new(&Arc::default())).unwrap();
    let leads = |status: &Status| status.role == RoleKind::Leader && status.applied_index == status.last_index;
    raft.wait_for(PATIENCE, leads).unwrap();
    raft
}

/// The restored history would have begun before its own parent: the restore wrote a log that nothing could open.
#[test]
fn a_backup_from_before_its_history_began_is_restored() {
    let mut node = behind_its_history(1, &MemoryNetwork::new());
    node.start();
    let mut file = Vec::new();
    node.raft().backup(PATIENCE).unwrap().read_to_end(&mut file).unwrap();
    let backup = BackupReader::open(&file[..]).unwrap();
    assert_eq!((backup.info().last, backup.info().history()), (LAST, Some(&late())));
    let restore = Restore::plan(backup.info(), 11).unwrap().with_cluster(CLUSTER);
    let folder = tempfile::tempdir().unwrap();
    let snapshots = folder.path().join("snapshots");
    restore.carry_out(backup, folder.path(), &snapshots).unwrap();
    let raft = lead(folder.path());
    assert_eq!(raft.stale_read(Ledger::commands).unwrap(), ["2", "3", "4"]);
    assert_eq!(raft.status().history, Some(restore.history.id()));
    // No server of the old cluster follows it.
    assert!(restore.history.descends_from(late().id()) && !restore.history.takes_in(NodeId(9), late().id()));
    propose(&raft, "more");
    raft.snapshot().wait(PATIENCE).unwrap();
    raft.shutdown();
    drop(raft);
    assert_eq!(lead(folder.path()).stale_read(Ledger::commands).unwrap().len(), 4);
}

/// A majority was lost, and the survivors had no more than the snapshot. The recovered log could not be opened, for the same
/// reason. Both of them follow the child, and so does a server that comes later.
#[test]
fn survivors_from_before_their_history_began_are_recovered() {
    let network = MemoryNetwork::new();
    let [mut one, mut two] = [1, 2].map(|id| behind_its_history(id, &network));
    let recovery = Recovery::plan(&one.log, 1, [1_u64, 2]).unwrap();
    recovery.carry_out(&mut one.log).unwrap();
    assert_eq!((recovery.history.parent(), recovery.entry.index), (Some(late().id()), LAST.index.next()));
    one.start();
    two.start();
    let child = Some(recovery.history.id());
    for node in [&one, &two] {
        node.wait(|status| status.history == child);
    }
    let leader = two.wait(|status| status.leader.is_some()).leader.unwrap().id;
    let leader = if leader.0 == 1 { &one } else { &two };
    propose(leader.raft(), "after");
    leader.raft().snapshot().wait(PATIENCE).unwrap();
    let mut fresh = Member::new(9, &[], &network, &manual());
    fresh.start();
    leader.raft().add_voter(9, "", PATIENCE).wait().unwrap();
    let last = leader.raft().status().last_index;
    fresh.wait(|status| status.history == child && status.applied_index >= last);
    for node in [&mut one, &mut two, &mut fresh] {
        node.wait(|status| status.applied_index >= last);
        assert_eq!(node.commands(), ["2", "3", "4", "after"]);
        assert_eq!(node.raft().status().counters.messages_misbehaved, 0, "node {}", node.id);
        node.stop();
        node.start();
        assert_eq!(node.raft().status().history, child, "node {} after a restart", node.id);
    }
}

/// The largest term is 2^62. A backup from just before it was restored to a log that nothing opens.
#[test]
fn a_backup_whose_terms_are_used_up_is_not_restored() {
    const SKIPPED: u64 = 1 << 20;
    for below in [1, SKIPPED / 2, SKIPPED, SKIPPED + 2, SKIPPED + 3] {
        let term = Term::MAX.0 - below;
        let mut node = Member::alone(&manual());
        let first = Entry { id: EntryId::new(1, term - 1), payload: Payload::Noop };
        let hard_state = Some(HardState { term: Term(term - 1), vote: Some(NodeId(1)) });
        node.log.append(&mut vec![Write { hard_state, entries: Entries::one(first), ..Write::default() }]).unwrap();
        node.log.sync().unwrap();
        // In the next term.
        node.lead();
        propose(node.raft(), "a");
        let mut file = Vec::new();
        node.raft().backup(PATIENCE).unwrap().read_to_end(&mut file).unwrap();
        let backup = BackupReader::open(&file[..]).unwrap();
        let last = backup.info().last.term;
        assert_eq!(last, Term(term));
        let planned = Restore::plan(backup.info(), 11);
        if below <= SKIPPED {
            let refused = matches!(planned, Err(RestoreBackupError::TermsUsedUp { term }) if term == last);
            assert!(refused, "{planned:?}");
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let snapshots = folder.path().join("snapshots");
        planned.unwrap().with_cluster(CLUSTER).carry_out(backup, folder.path(), &snapshots).unwrap();
        assert_eq!(lead(folder.path()).stale_read(Ledger::commands).unwrap(), ["a"]);
    }
}
