//! What a restored node begins with, and writing it into directories: all of it or nothing.
//!
//! A restore makes one node, the only voter of a cluster of its own; others join it with empty directories, as they join any
//! cluster. So there is one child history for each restore, and two restores of one backup are two clusters that never merge.
//!
//! The log begins with the snapshot, and knows from its first moment of the child history: it is not for a quorum to decide
//! whether it is in force. Of the old members it knows nobody. The first entry behind the snapshot brings the child, in a
//! term that no leader of the old cluster can have led.

use super::fresh::Fresh;
use super::{BackupInfo, BackupReader, RestoreBackupError};
use crate::action::{Compaction, Write};
use crate::history::{History, HistoryId};
use crate::log::RaftLog;
use crate::log::wal::{Directory, OsDirectory, WalLog, WalOptions};
use crate::membership::Membership;
use crate::snapshot::SnapshotStore;
use crate::snapshot::files::{SnapshotFiles, SnapshotOptions};
use crate::types::{ClusterId, Entries, Entry, EntryId, HardState, NodeId, Payload, Term};
use bytes::Bytes;
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::string::ToString;
use std::sync::Arc;
use std::vec::Vec;

/// How many terms are skipped: more than any cluster goes through after a backup of it.
const TERMS_SKIPPED: u64 = 1 << 20;

/// More than two configurations need, which is what goes into the log.
const SEGMENT_BYTES: u64 = 256 << 10;

/// What would be restored. Nothing is, before [`Restore::carry_out`].
///
/// ```no_run
/// use raft_io::backup::{BackupReader, Restore};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let backup = BackupReader::open(std::fs::File::open("cluster.backup")?)?;
/// // An id that no server of the old cluster ever had.
/// let restore = Restore::plan(backup.info(), 11)?.with_address("10.0.0.11:7001")?;
/// println!("history {}, from entry {} on", restore.history.id(), restore.entry);
/// restore.carry_out(backup, "data/node-11/log", "data/node-11/snapshots")?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Restore {
    /// What is restored.
    pub backup: BackupInfo,
    /// The server that it becomes.
    pub id: NodeId,
    /// The cluster that it belongs to: that of the backup unless set.
    pub cluster: Option<ClusterId>,
    /// Its configuration: the server alone.
    pub membership: Arc<Membership>,
    /// The entry that begins the child history.
    pub entry: EntryId,
    /// The child history: no server that holds data of the old cluster ever follows it.
    pub history: Arc<History>,
}

impl Restore {
    /// What a restore as this server would make of the backup. Each plan draws a history of its own.
    ///
    /// # Errors
    /// [`RestoreBackupError::IdInUse`], as far as the backup tells: never use an id of a server that was added to the old
    /// cluster later either. [`RestoreBackupError::TermsUsedUp`].
    pub fn plan(backup: &BackupInfo, id: impl Into<NodeId>) -> Result<Self, RestoreBackupError> {
        let id = id.into();
        let parent = backup.history().map(|history| &**history);
        let was_given_up = parent.is_some_and(|history| history.lost().contains(&id));
        if backup.node == id || backup.membership.contains(id) || was_given_up {
            return Err(RestoreBackupError::IdInUse { id });
        }
        let term = backup.last.term;
        // The restored node leads in a later term still.
        if term.0 >= Term::MAX.0 - TERMS_SKIPPED {
            return Err(RestoreBackupError::TermsUsedUp { term });
        }
        let entry = EntryId { index: backup.last.index.next(), term: Term(term.0 + TERMS_SKIPPED) };
        let history = Arc::new(History::restored(parent, draw_history(), entry));
        let membership = Arc::new(Membership::new([id]).with_history(Arc::clone(&history)));
        Ok(Self { backup: backup.clone(), id, cluster: backup.cluster, membership, entry, history })
    }

    /// The same, with the address where the servers that are added later find this one.
    ///
    /// # Errors
    /// [`RestoreBackupError::AddressTooLarge`].
    pub fn with_address(self, address: impl ToString) -> Result<Self, RestoreBackupError> {
        let membership = self.membership.with_address(self.id, address.to_string());
        if membership.encoded_len() > Membership::ENCODED_BYTES_MAX {
            return Err(RestoreBackupError::AddressTooLarge);
        }
        Ok(Self { membership: Arc::new(membership), ..self })
    }

    /// The same, as a cluster of another identity than the backup's.
    #[must_use]
    pub fn with_cluster(self, cluster: ClusterId) -> Self {
        Self { cluster: Some(cluster), ..self }
    }

    /// Writes it into two directories, which are made if they are missing and must be empty otherwise: the log's, and that of
    /// the snapshots, which may lie in the first. Durable when this returns. The node starts then as ever, with the log, the
    /// snapshots and the id, and its log prevails over whatever else it is configured with.
    ///
    /// The backup is read once, to its end, and nothing counts before all of it is verified.
    ///
    /// # Errors
    /// [`RestoreBackupError`]. Nothing is left then. If the process dies instead, no node starts on what is there.
    pub fn carry_out<R: Read>(
        &self,
        backup: BackupReader<R>,
        log: impl AsRef<Path>,
        snapshots: impl AsRef<Path>,
    ) -> Result<(), RestoreBackupError> {
        let paths = [log.as_ref(), snapshots.as_ref()];
        let missing: Vec<PathBuf> = paths.iter().flat_map(|path| missing(path)).collect();
        let restored = self.carry_out_at(backup, paths);
        if restored.is_err() {
            // Those that were made here; one that is not empty is not ours.
            missing.iter().rev().for_each(|path| drop(fs::remove_dir(path)));
        }
        restored
    }

    fn carry_out_at<R: Read>(&self, backup: BackupReader<R>, paths: [&Path; 2]) -> Result<(), RestoreBackupError> {
        for path in paths {
            check_unused(path, paths[1])?;
        }
        let open = |path: &Path| {
            let opened = OsDirectory::new(path);
            let failed = |source| RestoreBackupError::Io { operation: "creating", file: path.to_path_buf(), source };
            opened.map(|directory| Arc::new(directory) as Arc<dyn Directory>).map_err(failed)
        };
        self.carry_out_in(backup, open(paths[0])?, open(paths[1])?)
    }

    /// As [`Restore::carry_out`], in any two [`Directory`]s.
    ///
    /// # Errors
    /// As [`Restore::carry_out`].
    pub fn carry_out_in<R: Read>(
        &self,
        backup: BackupReader<R>,
        log: Arc<dyn Directory>,
        snapshots: Arc<dyn Directory>,
    ) -> Result<(), RestoreBackupError> {
        let cluster = self.cluster.ok_or(RestoreBackupError::NoCluster)?;
        if *backup.info() != self.backup || backup.is_begun() {
            return Err(RestoreBackupError::OtherBackup);
        }
        let nested = snapshots.path().to_path_buf();
        let log = Fresh::claim(log, &nested)?;
        let claimed = Fresh::claim(snapshots, Path::new(""));
        let restored = claimed.and_then(|snapshots| {
            let written = self.write(backup, cluster, &log, &snapshots).and_then(|()| log.publish());
            if written.is_err() {
                snapshots.abandon();
            }
            written
        });
        if restored.is_err() {
            log.abandon();
        }
        restored
    }

    /// Everything, durably; the log does not count yet.
    fn write<R: Read>(
        &self,
        mut backup: BackupReader<R>,
        cluster: ClusterId,
        log: &Arc<Fresh>,
        snapshots: &Arc<Fresh>,
    ) -> Result<(), RestoreBackupError> {
        let (last, group) = (self.backup.last, self.backup.group);
        log.begin()?;
        // For two entries' worth of records; the node makes its segments as large as it is told.
        let options = WalOptions::new(cluster, self.id).group(group).segment_bytes(SEGMENT_BYTES);
        let mut log = WalLog::open_in(Arc::clone(log) as Arc<dyn Directory>, options)?;
        let directory = Arc::clone(snapshots) as Arc<dyn Directory>;
        let store = SnapshotFiles::open_in(directory, SnapshotOptions::new().group(group));
        let store = store.map_err(RestoreBackupError::Snapshot)?;
        let begun = store.begin(last, Bytes::from(self.membership.encode()));
        let mut writer = begun.map_err(RestoreBackupError::Snapshot)?;
        io::copy(&mut backup, &mut writer)?;
        // Only from here on it is listed.
        writer.finish().map_err(RestoreBackupError::Snapshot)?;
        let hard_state = Some(HardState { term: self.entry.term, vote: Some(self.id) });
        let compaction = Some(Compaction { snapshot: last, base: last, membership: Arc::clone(&self.membership) });
        let payload = Payload::Membership(Arc::clone(&self.membership));
        let entries = Entries::one(Entry { id: self.entry, payload });
        log.append(&mut std::vec![Write { hard_state, compaction, truncate_from: None, entries }])?;
        Ok(log.close()?)
    }
}

/// The directories of this path that are missing, the topmost first.
fn missing(path: &Path) -> Vec<PathBuf> {
    let missing = path.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists());
    let mut missing: Vec<PathBuf> = missing.map(Path::to_path_buf).collect();
    missing.reverse();
    missing
}

/// Refuses what is in use before anything is made beside it.
fn check_unused(path: &Path, nested: &Path) -> Result<(), RestoreBackupError> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries,
    };
    let failed = |source| RestoreBackupError::Io { operation: "listing", file: path.to_path_buf(), source };
    let absolute = |path: &Path| std::path::absolute(path).map_err(failed);
    let nested = absolute(nested)?;
    for entry in entries.map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        // Those that may be there are looked at once the directory is locked.
        let may_be = ["LOCK", "lost+found", crate::log::wal::RESTORING].iter().any(|known| name == *known);
        if !may_be && absolute(&path.join(&name))? != nested {
            let (directory, found) = (path.to_path_buf(), name.to_string_lossy().into_owned());
            return Err(RestoreBackupError::NotEmpty { directory, found });
        }
    }
    Ok(())
}

/// The identity of a child history.
fn draw_history() -> HistoryId {
    // The standard library's random keys, the only randomness that it offers; each has its own.
    let word = || u128::from(RandomState::new().build_hasher().finish());
    HistoryId::from_bits(word() << 64 | word())
}
