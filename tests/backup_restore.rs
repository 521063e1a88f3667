//! Whole clusters restored from backups: all that was in them, in a history of their own, or nothing at all.

#![cfg(all(feature = "persistence", feature = "testkit"))]

mod driver_support;

use driver_support::snapshots::{Group, Ledger, Member, propose};
use driver_support::{PATIENCE, config};
use raft_io::backup::{BackupError, BackupInfo, BackupReader, Restore, RestoreBackupError};
use raft_io::driver::{DriverOptions, Raft, Snapshots};
use raft_io::log::wal::{Directory, WalError, WalLog, WalOptions};
use raft_io::message::{AppendEntriesRequest, PreVoteRequest, RequestVoteRequest, TimeoutNowRequest};
use raft_io::snapshot::files::SnapshotOptions;
use raft_io::snapshot::{SnapshotFiles, SnapshotStore as _};
use raft_io::testkit::disk::FaultyDisk;
use raft_io::testkit::log_suite::Random;
use raft_io::transport::{MemoryNetwork, RaftTransport as _};
use raft_io::{
    ClusterId, DiskId, Entries, EntryId, Envelope, GroupId, HistoryId, Index, LogView as _, Message, NodeId, RoleKind,
    Term,
};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const CLUSTER: ClusterId = ClusterId(7);
/// For changes that never come to be.
const SHORT: Duration = Duration::from_millis(500);

/// Snapshots only when they are asked for, and no trail.
fn manual() -> DriverOptions {
    let mut options = DriverOptions::default();
    (options.snapshot_entries, options.snapshot_bytes, options.snapshot_trail_entries) = (usize::MAX, u64::MAX, 0);
    options
}

fn bytes_of(raft: &Raft<Ledger>) -> Vec<u8> {
    let mut file = Vec::new();
    raft.backup(PATIENCE).unwrap().read_to_end(&mut file).unwrap();
    file
}

/// A backup of a node with 20 commands, and that node.
fn backed_up() -> (Vec<u8>, Member) {
    let mut node = Member::alone(&manual());
    node.lead();
    for number in 0..20 {
        propose(node.raft(), format!("{number:0>100}"));
    }
    (bytes_of(node.raft()), node)
}

fn open(file: &[u8]) -> BackupReader<&[u8]> {
    BackupReader::open(file).unwrap()
}

fn plan(file: &[u8], id: u64) -> Restore {
    Restore::plan(open(file).info(), id).unwrap().with_cluster(CLUSTER)
}

/// A folder for nodes, each with its log and, within that, its snapshots.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn log(&self, id: u64) -> PathBuf {
        self.0.path().join(id.to_string())
    }

    fn snapshots(&self, id: u64) -> PathBuf {
        self.log(id).join("snapshots")
    }

    fn restore(&self, file: &[u8], id: u64) -> Restore {
        let restore = plan(file, id);
        restore.carry_out(open(file), self.log(id), self.snapshots(id)).unwrap();
        restore
    }

    /// Starts what is in the directories of this node; if nothing is, it is one that joins.
    fn start(&self, id: u64, network: &MemoryNetwork) -> Raft<Ledger> {
        let mut options = manual();
        let store = SnapshotFiles::open(self.snapshots(id), SnapshotOptions::new()).unwrap();
        options.snapshots = Some(Snapshots::new(store));
        let log = WalLog::open(self.log(id), WalOptions::new(CLUSTER, NodeId(id)).segment_bytes(64 << 10)).unwrap();
        let machine = Ledger::new(&Arc::default());
        Raft::start_with(config(id, &[]), options, log, network.transport(id), machine).unwrap()
    }
}

fn leads(raft: &Raft<Ledger>) {
    let leads = |role, applied, last| role == RoleKind::Leader && applied == last;
    raft.wait_for(PATIENCE, |status| leads(status.role, status.applied_index, status.last_index)).unwrap();
}

fn history(raft: &Raft<Ledger>) -> HistoryId {
    raft.wait_for(PATIENCE, |status| status.history.is_some()).unwrap().history.unwrap()
}

fn commands(raft: &Raft<Ledger>) -> Vec<bytes::Bytes> {
    raft.stale_read(Ledger::commands).unwrap()
}

/// Writes went on during the backup. The restored cluster has what the backup had, in order and without a gap; it goes on in
/// a child of the old history, and grows by servers that begin with nothing.
#[test]
fn a_restored_cluster_has_what_the_backup_had_and_goes_on() {
    let group = Group::start(3, &manual());
    let leader = group.leader();
    group.propose(leader, 30);
    let before = group.at(leader).commands();
    let file = bytes_of(group.at(leader).raft());
    group.propose(leader, 5);
    let (folder, network) = (Folder::new(), MemoryNetwork::new());
    let restore = folder.restore(&file, 11);
    let first = folder.start(11, &network);
    leads(&first);
    assert_eq!(commands(&first), before);
    assert_eq!(history(&first), restore.history.id());
    let old = history(group.at(leader).raft());
    assert_eq!((restore.history.parent(), restore.history.closed().len()), (Some(old), 1));
    assert_eq!(restore.history.since(), restore.entry);
    let status = first.status();
    assert_eq!((status.membership.in_force.voters(), status.term > restore.entry.term), (&[NodeId(11)][..], true));
    // Others join it with empty directories: by the snapshot, and by the log.
    propose(&first, "after");
    let others = [12, 13].map(|id| folder.start(id, &network));
    for raft in &others {
        first.add_voter(raft.id(), "", PATIENCE).wait().unwrap();
    }
    let last = propose(&first, "all").id;
    for raft in &others {
        raft.wait_for(PATIENCE, |status| status.applied_index >= last.index).unwrap();
        assert_eq!((commands(raft), history(raft)), (commands(&first), restore.history.id()));
        assert_eq!(raft.status().counters.messages_misbehaved, 0);
    }
    // After a restart too, with a snapshot of its own.
    first.snapshot().wait(PATIENCE).unwrap();
    first.shutdown();
    // The store is the node's until its last handle is gone.
    drop(first);
    let again = folder.start(11, &network);
    assert_eq!(history(&again), restore.history.id());
    assert_eq!(commands(&again).len(), before.len() + 2);
}

/// The old cluster still runs, and is told to add the restored node: whatever reaches the one from the other is refused by
/// name, before its term counts. Where the old one has written nothing since the backup, its heartbeats name an entry that
/// both have; they were answered with the term of the restored cluster, which unseated the old one's leader.
#[test]
fn a_restored_node_takes_nothing_from_the_cluster_that_was_backed_up() {
    for later in [10, 0] {
        let group = Group::start(3, &manual());
        let leader = group.leader();
        group.propose(leader, 10);
        let file = bytes_of(group.at(leader).raft());
        for _ in 0..later {
            propose(group.at(leader).raft(), "later");
        }
        let folder = Folder::new();
        let restore = folder.restore(&file, 11);
        // On the network of the old cluster.
        let restored = folder.start(11, &group.network);
        leads(&restored);
        let had = commands(&restored);
        let term = restored.status().term;
        let old = group.at(leader).raft();
        let before = old.status().term;
        old.add_learner(11, "", PATIENCE).wait().unwrap();
        restored.wait_for(PATIENCE, |status| status.counters.messages_misbehaved > 3).unwrap();
        old.promote(11, SHORT).wait().expect_err("it is of another history");
        // And what else a server of it may send.
        let stranger = group.network.transport(99);
        let asks = [
            Message::PreVoteRequest(PreVoteRequest {
                term: before,
                campaign_term: before.next(),
                last: restore.backup.last,
            }),
            Message::RequestVoteRequest(RequestVoteRequest {
                term: before,
                last: restore.backup.last,
                leadership_transfer: true,
            }),
            Message::TimeoutNowRequest(TimeoutNowRequest { term: before }),
            // In whatever term, if it comes from behind the point where the two parted.
            Message::AppendEntriesRequest(AppendEntriesRequest {
                term: Term(term.0 + 7),
                prev: EntryId { index: Index(restore.entry.index.0 + 3), term: before },
                entries: Entries::default(),
                commit: Index::ZERO,
                session: Index::ZERO,
                history: restore.history.parent(),
                acknowledged: Index::ZERO,
                disk: DiskId::default(),
            }),
        ];
        let counters = restored.status().counters;
        for message in asks {
            stranger.send(GroupId(0), Envelope { from: NodeId(99), to: NodeId(11), message });
        }
        // Those and, behind them, some of what the old leader goes on sending: all of it is refused.
        let status =
            restored.wait_for(PATIENCE, |status| status.counters.messages_received > counters.messages_received + 20);
        let now = status.unwrap().counters;
        let (refused, received) = (now.messages_misbehaved, now.messages_received);
        assert_eq!(refused - counters.messages_misbehaved, received - counters.messages_received);
        assert_eq!((commands(&restored), restored.status().term), (had, term));
        assert_eq!(history(&restored), restore.history.id());
        assert_eq!(old.status().term, before, "nobody was unseated");
        propose(old, "it goes on");
    }
}

/// An old server comes back and is added to the restored cluster with all that it has: a member as of the backup, and one
/// that was added after it, which the backup knows nothing of. Neither adopts the child, and neither is counted on.
#[test]
fn an_old_server_that_is_added_to_the_restored_cluster_is_refused() {
    let mut group = Group::start(1, &manual());
    group.leader();
    group.propose(1, 10);
    let file = bytes_of(group.at(1).raft());
    let mut late = Member::new(9, &[], &group.network, &manual());
    late.start();
    group.at(1).raft().add_voter(9, "", PATIENCE).wait().unwrap();
    group.members.insert(9, late);
    let last = group.propose(1, 5).id;
    for node in group.members.values() {
        node.wait(|status| status.applied_index >= last.index);
    }
    group.members.values_mut().for_each(Member::stop);
    let (folder, network) = (Folder::new(), MemoryNetwork::new());
    folder.restore(&file, 11);
    let restored = folder.start(11, &network);
    leads(&restored);
    propose(&restored, "of the child");
    for (_, node) in group.members {
        let id = node.id;
        let mut node = node.on(&network).joining();
        let before = node.log.last();
        node.start();
        restored.add_learner(id, "", PATIENCE).wait().unwrap();
        node.wait(|status| status.counters.messages_misbehaved > 0);
        restored.promote(id, SHORT).wait().expect_err("it holds data of the old cluster");
        assert_eq!(node.log.last(), before, "node {id} keeps what it had");
        restored.remove(id, PATIENCE).wait().unwrap();
        node.stop();
    }
    assert!(restored.status().role == RoleKind::Leader);
}

/// Two people restore one backup: two clusters, which never merge. And a restored cluster is backed up and restored again.
#[test]
fn two_restores_are_two_clusters_and_a_restored_one_can_be_restored() {
    let (file, old) = backed_up();
    let (folder, network) = (Folder::new(), MemoryNetwork::new());
    let [one, other] = [11, 12].map(|id| folder.restore(&file, id));
    assert_ne!(one.history.id(), other.history.id());
    let [first, second] = [11, 12].map(|id| folder.start(id, &network));
    leads(&first);
    leads(&second);
    first.add_learner(12, "", PATIENCE).wait().unwrap();
    second.wait_for(PATIENCE, |status| status.counters.messages_misbehaved > 0).unwrap();
    first.remove(12, PATIENCE).wait().unwrap();
    propose(&first, "of the child");
    let again = bytes_of(&first);
    let grandchild = folder.restore(&again, 21);
    let ids = |restore: &Restore| restore.history.closed().iter().map(|known| known.id).collect::<Vec<_>>();
    assert_eq!(ids(&grandchild), [history(old.raft()), one.history.id()]);
    assert!(grandchild.entry.term > first.status().term);
    let third = folder.start(21, &network);
    leads(&third);
    assert_eq!((commands(&third), history(&third)), (commands(&first), grandchild.history.id()));
    // Its parents are other clusters to it, and it to them.
    third.add_learner(11, "", PATIENCE).wait().unwrap();
    first.wait_for(PATIENCE, |status| status.counters.messages_misbehaved > 0).unwrap();
    assert_eq!(history(&first), one.history.id());
}

/// The restored node is started with the old server's directory of snapshots: there is the one that the backup was made of,
/// which is as good as its own, and a later one with entries that this cluster never had.
#[test]
fn later_snapshots_of_the_old_cluster_are_never_used() {
    let (file, old) = backed_up();
    let (folder, network) = (Folder::new(), MemoryNetwork::new());
    let restore = folder.restore(&file, 11);
    std::fs::remove_dir_all(folder.snapshots(11)).unwrap();
    let info = open(&file).info().clone();
    let later = EntryId { index: Index(info.last.index.0 + 5), ..info.last };
    {
        let store = SnapshotFiles::open(folder.snapshots(11), SnapshotOptions::new()).unwrap();
        for (last, command) in [(info.last, &[][..]), (later, &["of the old cluster"][..])] {
            let mut writer = store.begin(last, info.membership.encode().into()).unwrap();
            std::io::copy(&mut open(&file), &mut writer).unwrap();
            for command in command {
                std::io::Write::write_all(&mut writer, &(command.len() as u32).to_le_bytes()).unwrap();
                std::io::Write::write_all(&mut writer, command.as_bytes()).unwrap();
            }
            writer.finish().unwrap();
        }
    }
    let mut expected = old.commands();
    for life in 0..3 {
        let raft = folder.start(11, &network);
        leads(&raft);
        assert_eq!((commands(&raft), history(&raft)), (expected.clone(), restore.history.id()), "life {life}");
        propose(&raft, format!("{life}"));
        expected.push(life.to_string().into());
        assert_eq!(raft.snapshot().wait(PATIENCE).unwrap().history().unwrap().unwrap().id(), restore.history.id());
        raft.shutdown();
    }
}

/// The peers of the old cluster remember the directories of its servers.
#[test]
fn an_id_of_the_old_cluster_is_not_given_again() {
    let mut group = Group::start(3, &manual());
    let leader = group.leader();
    group.propose(leader, 1);
    let mut file = bytes_of(group.at(leader).raft());
    let refused = |info: &BackupInfo, id| matches!(Restore::plan(info, id), Err(RestoreBackupError::IdInUse { .. }));
    for id in [1_u64, 2, 3] {
        assert!(refused(open(&file).info(), id), "node {id}");
    }
    // One that a recovery gave up long before.
    let mut survivor = group.members.remove(&leader).unwrap();
    survivor.stop();
    let recovery = raft_io::driver::Recovery::plan(&survivor.log, leader, [leader]).unwrap();
    recovery.carry_out(&mut survivor.log).unwrap();
    survivor.lead();
    file = bytes_of(survivor.raft());
    assert_eq!(open(&file).info().membership.voters(), [NodeId(leader)]);
    assert!([1_u64, 2, 3].into_iter().all(|id| refused(open(&file).info(), id)));
    assert!(!refused(open(&file).info(), 4));
    let nameless = Restore::plan(open(&file).info(), 4_u64).unwrap();
    let none = nameless.carry_out(open(&file), "never", "made").unwrap_err();
    assert!(matches!(none, RestoreBackupError::NoCluster), "a log in memory knows of no cluster: {none}");
}

fn is_untouched(path: &Path) -> bool {
    !path.exists()
}

/// The copy of a backup that is to be restored was cut, or a bit of it flipped, anywhere: refused, by name, and no directory
/// is left.
#[test]
fn a_damaged_or_cut_backup_restores_nothing() {
    let (file, _node) = backed_up();
    let folder = Folder::new();
    let restore = plan(&file, 11);
    let refused = |bytes: &[u8], what: String| {
        let Ok(reader) = BackupReader::open(bytes) else { return };
        let ended = restore.carry_out(reader, folder.log(11), folder.snapshots(11));
        let error = ended.expect_err(&what);
        let expected = matches!(
            error,
            RestoreBackupError::Backup(BackupError::Cut { .. } | BackupError::Damaged { .. })
                | RestoreBackupError::OtherBackup
        );
        assert!(expected, "{what}: {error:?}");
        assert!(is_untouched(&folder.log(11)), "{what}");
    };
    let header = file.len() - 2200;
    for cut in (header..file.len()).step_by(61).chain(file.len() - 30..file.len()) {
        refused(&file[..cut], format!("cut at {cut}"));
    }
    for position in (header..file.len()).step_by(67).chain(file.len() - 24..file.len()) {
        let mut flipped = file.clone();
        flipped[position] ^= 0x10;
        refused(&flipped, format!("byte {position}"));
    }
    folder.restore(&file, 11);
}

/// Whatever lies in one of the directories stays as it is, and nothing is made beside it.
#[test]
fn a_directory_that_holds_anything_is_refused() {
    let (file, _node) = backed_up();
    let restore = plan(&file, 11);
    for (place, name) in [("log", "notes.txt"), ("log", "MANIFEST"), ("snapshots", "old.snapshot"), ("log", "sub/x")] {
        let folder = Folder::new();
        let (log, snapshots) = (folder.log(11), folder.0.path().join("snapshots"));
        let strange = if place == "log" { log.join(name) } else { snapshots.join(name) };
        std::fs::create_dir_all(strange.parent().unwrap()).unwrap();
        std::fs::write(&strange, "theirs").unwrap();
        let error = restore.carry_out(open(&file), &log, &snapshots).unwrap_err();
        assert!(matches!(error, RestoreBackupError::NotEmpty { .. }), "{error}");
        assert_eq!(std::fs::read(&strange).unwrap(), b"theirs");
        let at = if place == "log" { &log } else { &snapshots };
        assert_eq!(std::fs::read_dir(at).unwrap().count(), 1);
        assert!(!log.exists() || place == "log", "the other one was not made");
    }
    // The same directory twice, and the one of a node that runs.
    let folder = Folder::new();
    folder.restore(&file, 11);
    let running = folder.start(11, &MemoryNetwork::new());
    let again = plan(&file, 11).carry_out(open(&file), folder.log(11), folder.snapshots(11));
    assert!(matches!(again, Err(RestoreBackupError::NotEmpty { .. })), "{again:?}");
    leads(&running);
    // Empty ones that are there already, with what every volume has at its top.
    let folder = Folder::new();
    std::fs::create_dir_all(folder.log(11).join("lost+found")).unwrap();
    std::fs::create_dir_all(folder.snapshots(11)).unwrap();
    folder.restore(&file, 11);
}

/// A source that breaks some bytes before its end; somebody puts files into both directories at that moment.
struct Interrupted<'a> {
    rest: &'a [u8],
    strange: Vec<PathBuf>,
}

impl std::io::Read for Interrupted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = buffer.len().min(self.rest.len().saturating_sub(200));
        if count == 0 {
            self.strange.iter().for_each(|path| std::fs::write(path, "theirs").unwrap());
            return Err(std::io::Error::other("injected: the pipe broke"));
        }
        self.rest.read(&mut buffer[..count])
    }
}

/// Somebody put a file into each directory while a restore ran, which then failed and removed both. It replaces none either.
#[test]
fn a_restore_that_fails_removes_only_what_it_made() {
    let (file, _node) = backed_up();
    // A foreign file under a name that the restore needs later makes it fail by itself.
    for name in ["theirs.txt", "0000000000000007.wal", "MANIFEST"] {
        for made_before in [true, false] {
            let folder = Folder::new();
            let strange = vec![folder.log(11).join(name), folder.snapshots(11).join(name)];
            if made_before {
                std::fs::create_dir_all(folder.snapshots(11)).unwrap();
                std::fs::write(folder.log(11).join("LOCK"), "").unwrap();
            }
            let backup = BackupReader::open(Interrupted { rest: &file, strange: strange.clone() }).unwrap();
            let error = plan(&file, 11).carry_out(backup, folder.log(11), folder.snapshots(11)).unwrap_err();
            assert!(matches!(error, RestoreBackupError::Backup(BackupError::Io { .. })), "{error}");
            for path in &strange {
                assert_eq!(std::fs::read(path).ok().as_deref(), Some(&b"theirs"[..]), "{} is gone", path.display());
            }
            let names = |path: PathBuf| std::fs::read_dir(path).unwrap().count();
            assert_eq!((names(folder.log(11)), names(folder.snapshots(11))), (2 + usize::from(made_before), 1));
        }
    }
}

/// What somebody else makes while a restore runs is not replaced by it.
#[test]
fn a_restore_replaces_nothing() {
    /// Puts the file there once the first chunk is asked for.
    struct Disturbed<'a>(&'a [u8], Option<PathBuf>, usize);
    impl std::io::Read for Disturbed<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let count = self.0.read(buffer)?;
            self.2 += count;
            if let Some(path) = self.1.take_if(|_| self.2 > 300) {
                std::fs::write(path, "theirs").unwrap();
            }
            Ok(count)
        }
    }
    let (file, _node) = backed_up();
    let folder = Folder::new();
    let strange = folder.log(11).join("MANIFEST");
    let backup = BackupReader::open(Disturbed(&file, Some(strange.clone()), 0)).unwrap();
    let error = plan(&file, 11).carry_out(backup, folder.log(11), folder.snapshots(11)).unwrap_err();
    assert!(error.to_string().contains("somebody else made MANIFEST meanwhile"), "{error}");
    assert_eq!(std::fs::read(&strange).unwrap(), b"theirs");
    assert_eq!(std::fs::read_dir(folder.log(11)).unwrap().count(), 1);
}

/// Whether a log opens in what is left on this disk, and what it begins with.
fn opens(disk: &FaultyDisk) -> Result<EntryId, WalError> {
    WalLog::open_in(Arc::new(disk.clone()), WalOptions::new(CLUSTER, NodeId(11))).map(|log| log.last())
}

fn attempt(file: &[u8], restore: &Restore, log: &FaultyDisk, snapshots: &FaultyDisk) -> Result<(), RestoreBackupError> {
    restore.carry_out_in(open(file), Arc::new(log.clone()), Arc::new(snapshots.clone()))
}

/// The volume fills up at any moment of a restore, or any operation fails: nothing is left of it, or at worst something that
/// no node starts on, where even removing fails.
#[test]
fn a_full_disk_at_a_restore_leaves_nothing_that_starts() {
    let (file, _node) = backed_up();
    let restore = plan(&file, 11);
    let mut counts = [0; 3];
    for of_log in [true, false] {
        for fault in [FaultyDisk::fill_volume_after, FaultyDisk::fail_operation_after, FaultyDisk::fail_sync_after] {
            for count in 0.. {
                let (log, snapshots) = (FaultyDisk::new(), FaultyDisk::new());
                fault(if of_log { &log } else { &snapshots }, count);
                let restored = attempt(&file, &restore, &log, &snapshots);
                [&log, &snapshots].into_iter().for_each(FaultyDisk::repair);
                log.limit_volume(None);
                let left: Vec<_> = [&log, &snapshots].into_iter().flat_map(|disk| disk.names().unwrap()).collect();
                match restored {
                    Ok(()) => {
                        assert_eq!(opens(&log).unwrap(), restore.entry);
                        counts[0] += 1;
                        break;
                    }
                    Err(_) if left.is_empty() => counts[1] += 1,
                    Err(error) => {
                        // The operation that failed was one of those that clean up.
                        let opened = opens(&log);
                        assert!(matches!(opened, Err(WalError::Corrupt { .. })), "{error}, left {left:?}: {opened:?}");
                        counts[2] += 1;
                    }
                }
            }
        }
    }
    println!("{} restored in the end, {} left nothing, {} left what does not open", counts[0], counts[1], counts[2]);
    assert_eq!(counts[0], 6);
    assert!(counts[1] > 60, "{counts:?}");
}

/// The power goes at any moment of a restore: what is found is nothing, or something that no node starts on, or all of it.
#[test]
fn a_restore_that_is_cut_short_by_a_loss_of_power_is_whole_or_does_not_start() {
    let (file, _node) = backed_up();
    let restore = plan(&file, 11);
    let mut counts = [0; 3];
    let (log, snapshots) = (FaultyDisk::new(), FaultyDisk::new());
    log.watch(Random(1), 20);
    attempt(&file, &restore, &log, &snapshots).unwrap();
    let mut images = log.take_watched();
    images.push(log.durable_image());
    for image in &images {
        let disk = FaultyDisk::from_image(image);
        if image.keys().all(|name| name == "LOCK") {
            counts[0] += 1;
            continue;
        }
        match opens(&disk) {
            Err(WalError::Corrupt { reason, .. }) => {
                assert!(reason.contains("restore"), "{reason}");
                counts[1] += 1;
            }
            Ok(last) => {
                assert_eq!(last, restore.entry, "a part of it: {:?}", image.keys());
                counts[2] += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    println!("{} empty, {} do not start, {} whole", counts[0], counts[1], counts[2]);
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    // What the log begins with was durable in the other directory before the log counted.
    let store =
        SnapshotFiles::open_in(Arc::new(FaultyDisk::from_image(&snapshots.durable_image())), SnapshotOptions::new());
    assert_eq!(store.unwrap().newest().unwrap().last, restore.backup.last);
}

/// A restore died half-way: the directory says so to whoever starts a node on it, or restores into it again.
#[test]
fn a_directory_of_a_restore_that_did_not_end_says_so() {
    let (file, _node) = backed_up();
    let folder = Folder::new();
    std::fs::create_dir_all(folder.log(11)).unwrap();
    std::fs::write(folder.log(11).join("RESTORING"), "").unwrap();
    let error = WalLog::open(folder.log(11), WalOptions::new(CLUSTER, NodeId(11))).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("did not end; empty it, and restore again"), "{error}");
    let again = plan(&file, 11).carry_out(open(&file), folder.log(11), folder.snapshots(11)).unwrap_err().to_string();
    assert!(again.contains("the rest of a restore that did not end"), "{again}");
}
