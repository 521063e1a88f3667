//! What can go wrong with the log on a disk.

use crate::membership::MembershipError;
use crate::snapshot::{advice, passes};
use crate::types::{ClusterId, GroupId, Index, NodeId};
use std::io;
use std::path::PathBuf;
use std::string::String;

/// Why the log was not opened, written or read. After a failed write or sync the log accepts
/// nothing until it is opened again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalError {
    /// Another open log holds the lock. Nothing was touched; stop the other process first.
    #[error("the log in {} is open already, in this or another process", directory.display())]
    Locked {
        /// The log's directory.
        directory: PathBuf,
    },
    /// The directory belongs to another cluster. Nothing was touched.
    #[error("the log belongs to cluster {found}, not to cluster {expected}")]
    WrongCluster {
        /// The cluster that the directory was created for.
        found: ClusterId,
        /// The cluster asked for.
        expected: ClusterId,
    },
    /// The directory belongs to another node. Nothing was touched.
    #[error("the log belongs to node {found}, not to node {expected}")]
    WrongNode {
        /// The node that the directory was created for.
        found: NodeId,
        /// The node asked for.
        expected: NodeId,
    },
    /// The log holds records of another group. Nothing that it needs was touched.
    #[error("the log holds group {found}, not group {expected}")]
    WrongGroup {
        /// The group found in a record.
        found: GroupId,
        /// The group asked for.
        expected: GroupId,
    },
    /// Bytes that were durable are damaged or missing. The log was not opened, or these entries
    /// were not read; nothing was changed. The hard state may be damaged too: rejoin with a new
    /// node id, or restore the files.
    #[error(
        "{} is damaged at byte {offset}: {reason}; entries from {first} on are affected",
        file.display()
    )]
    Corrupt {
        /// The damaged or missing file.
        file: PathBuf,
        /// Where in the file the damage begins, in bytes.
        offset: u64,
        /// The first entry that may be lost.
        first: Index,
        /// The last entry known to have been acknowledged; `None` if that is not known.
        last: Option<Index>,
        /// What is wrong.
        reason: &'static str,
    },
    /// What the log remembers of its peers is damaged. The log was not opened, though it may be intact: what is missing may be
    /// what keeps a wiped server out. Restore the file; if no other server lost data, removing it is safe.
    #[error(
        "{} is damaged: {reason}; restore it, or remove it if you know that no other server of the cluster lost data",
        file.display()
    )]
    PeerMemory {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// Intact bytes that this version does not understand, written by a newer one. Nothing was
    /// touched.
    #[error("{} holds something newer than this version at byte {offset}: {what}", file.display())]
    Unsupported {
        /// The file.
        file: PathBuf,
        /// Where in the file, in bytes.
        offset: u64,
        /// What is not understood.
        what: &'static str,
    },
    /// One write is larger than a record can be. Nothing of it was written; the log accepts
    /// nothing more.
    #[error("a write of {bytes} bytes exceeds the {bytes_max} bytes of a record")]
    TooLarge {
        /// The encoded size in bytes.
        bytes: u64,
        /// The largest size in bytes.
        bytes_max: u64,
    },
    /// A configuration could not be read back if it were written. Nothing of its write was; the log accepts nothing more.
    #[error("a configuration that cannot be stored: {source}")]
    Membership {
        /// What is wrong with it.
        source: MembershipError,
    },
    /// The volume is full: a record found no room in its segment, and no further segment could be made. Nothing of the
    /// record was written; the log accepts nothing more. Everything acknowledged is durable. Opened again it serves reads,
    /// keeps a little room for elections, and a snapshot makes more: free some space for that, then take one.
    #[error(
        "the volume of {} has no room for a record of {bytes} bytes: {source}; free some, start again and take a snapshot",
        directory.display()
    )]
    NoRoom {
        /// The log's directory.
        directory: PathBuf,
        /// The record's size in bytes.
        bytes: u64,
        /// The system's error.
        source: io::Error,
    },
    /// The log's directory, or the file that it writes, is not where it was: somebody moved, deleted or replaced it while
    /// the log was open. What was appended since the last sync is not acknowledged; what was durable is where the
    /// directory has gone, if it still exists. The log accepts nothing more. Put the directory back and start again, or
    /// let the node rejoin under a new id.
    #[error(
        "{} was moved, deleted or replaced while the log was open ({reason}): put it back and start again, or rejoin \
         under a new id",
        file.display()
    )]
    Displaced {
        /// The directory or file that is missed.
        file: PathBuf,
        /// What was found instead.
        reason: String,
    },
    /// An earlier write or sync failed. Nothing was written; open the log again to learn what is
    /// durable.
    #[error("the log stopped after an earlier failure: {reason}")]
    Poisoned {
        /// The first failure.
        reason: String,
    },
    /// The file system reported an error. If it was a write or a sync, the log accepts nothing
    /// more; what was not synced may be lost.
    #[error("{operation} {} failed: {source}{}", file.display(), advice(source))]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The file or directory.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

impl WalError {
    /// Whether this says that a read failed for a reason that passes by itself: too many open files, too little memory, an
    /// interruption. The entries are there, and the same read may succeed in a moment. Never true of a write or a sync:
    /// those are not tried again (law 6).
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Io { operation: Self::READING, source, .. } if passes(source))
    }

    /// The operation that names a read of entries.
    pub(super) const READING: &'static str = "reading";

    /// Carries this error through wal-db, whose own error can only hold an [`io::Error`].
    pub(super) fn into_wal_db(self) -> wal_db::WalError {
        wal_db::WalError::from(io::Error::other(self))
    }

    /// The way back.
    pub(super) fn from_wal_db(error: wal_db::WalError, file: PathBuf) -> Self {
        let source = match error {
            wal_db::WalError::Io { source, .. } => source,
            other => io::Error::other(std::string::ToString::to_string(&other)),
        };
        match source.downcast::<Self>() {
            Ok(own) => own,
            Err(source) => Self::Io { operation: "writing", file, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(operation: &'static str, source: io::Error) -> WalError {
        WalError::Io { operation, file: "node-1/0000000000000001.wal".into(), source }
    }

    /// EMFILE, ENFILE, EINTR, EAGAIN and ENOMEM pass; EIO, ESTALE, ENOENT, EACCES, ENOSPC and EROFS do not.
    #[cfg(target_os = "linux")]
    #[test]
    fn only_what_says_nothing_of_the_medium_passes() {
        for number in [24, 23, 4, 11, 12] {
            assert!(failed("reading", io::Error::from_raw_os_error(number)).is_transient(), "{number}");
        }
        for number in [5, 116, 2, 13, 28, 30] {
            assert!(!failed("reading", io::Error::from_raw_os_error(number)).is_transient(), "{number}");
        }
        assert!(!failed("reading", io::Error::other("who knows")).is_transient());
    }

    /// The same errors of a write or a sync: what the kernel did with the dirty pages is unknown.
    #[test]
    fn no_error_of_a_write_passes() {
        for operation in ["writing", "syncing", "preparing", "opening", "replacing", "making"] {
            assert!(!failed(operation, io::ErrorKind::Interrupted.into()).is_transient(), "{operation}");
        }
        let (file, first) = ("node-1/0000000000000001.wal".into(), Index(7));
        assert!(!WalError::Corrupt { file, offset: 0, first, last: None, reason: "damaged" }.is_transient());
    }
}
