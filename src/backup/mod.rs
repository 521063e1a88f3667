//! Backups: the state of a whole cluster as of one entry, in one file that says whose it is.
//!
//! A running node makes one ([`Raft::backup`](crate::Raft::backup)): it takes a snapshot, holds it open, and hands out the
//! bytes of the file as a stream, while it goes on working. Days later, when the cluster is gone or somebody wants to see what
//! it held, `Restore` makes a node of the file, in empty directories. That node is a cluster of its own: it goes on in a
//! *child history*, which no server of the old cluster ever follows, and other servers join it as they join any cluster.
//!
//! | File | What it holds |
//! |---|---|
//! | `format` | the header and the trailer as bytes (`docs/FORMAT.md`, Backups) |
//! | `stream` | a snapshot that becomes the bytes of a backup |
//! | `reader` | the way back: nothing is handed out that is not verified |
//! | `restore` | what a restored node begins with, and writing it into directories: all of it or nothing |
//! | `fresh` | a directory that counts only once it is whole |

mod error;
mod format;
#[cfg(feature = "persistence")]
mod fresh;
mod reader;
#[cfg(feature = "persistence")]
mod restore;
mod stream;

pub use error::BackupError;
#[cfg(feature = "persistence")]
pub use error::RestoreBackupError;
pub use reader::BackupReader;
#[cfg(feature = "persistence")]
pub use restore::Restore;
pub use stream::Backup;

use crate::history::History;
use crate::membership::Membership;
use crate::types::{ClusterId, EntryId, GroupId, NodeId};
use std::sync::Arc;

/// What a backup says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct BackupInfo {
    /// The cluster that it was taken of, if the log of that node knew.
    pub cluster: Option<ClusterId>,
    /// The group that it was taken of.
    pub group: GroupId,
    /// The node that it was taken on.
    pub node: NodeId,
    /// The last entry whose effect is in it: all entries up to this one are, and none after it.
    pub last: EntryId,
    /// [`SnapshotInfo::identity`](crate::snapshot::SnapshotInfo::identity) of the snapshot that it was made of.
    pub snapshot: u64,
    /// The size of the state in bytes.
    pub bytes: u64,
    /// The size of the chunks in bytes that it is stored and checked in; only the last may be smaller.
    pub chunk_bytes: u32,
    /// When it was taken, in seconds since 1970, by the clock of that node.
    pub unix_seconds: u64,
    /// Who belonged to the cluster then.
    pub membership: Arc<Membership>,
}

impl BackupInfo {
    /// The history that it belongs to. `None` if the cluster had none: every server of 0.7.0 or later gives it one.
    #[must_use]
    pub fn history(&self) -> Option<&Arc<History>> {
        self.membership.history()
    }

    /// The size of the whole file in bytes.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        format::file_bytes(self)
    }
}
