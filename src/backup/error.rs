//! What can go wrong with a backup.

#[cfg(feature = "persistence")]
use crate::log::WalError;
#[cfg(feature = "persistence")]
use crate::snapshot::SnapshotError;
use crate::snapshot::advice;
#[cfg(feature = "persistence")]
use crate::types::{NodeId, Term};
use std::io;
#[cfg(feature = "persistence")]
use std::path::PathBuf;
use thiserror::Error;

/// Why a backup cannot be read. Nothing of it was handed out that is not verified.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The bytes do not begin as those of a backup.
    #[error("this is no backup: it does not begin as one")]
    NotABackup,
    /// A backup of a format that this version does not know. Read it with a newer version.
    #[error("this backup has format {found}, and this version knows format {known}: use a newer version")]
    OtherFormat {
        /// Its format.
        found: u32,
        /// The format that this version knows.
        known: u32,
    },
    /// It was cut: it was copied in part, or taking it did not end. Use another copy.
    #[error("the backup was cut: it ends at byte {offset}, before its end; use another copy")]
    Cut {
        /// Where it ends, in bytes.
        offset: u64,
    },
    /// Bytes of it changed since it was taken. Use another copy.
    #[error("the backup is damaged at byte {offset}: {reason}; use another copy")]
    Damaged {
        /// Where the damage begins, at the latest, in bytes.
        offset: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// It could not be read.
    #[error("reading the backup failed: {source}{}", advice(source))]
    Io {
        /// What the system said.
        source: io::Error,
    },
}

/// How streams carry a [`BackupError`].
impl From<BackupError> for io::Error {
    fn from(error: BackupError) -> Self {
        let kind = match &error {
            BackupError::Io { source } => source.kind(),
            BackupError::Cut { .. } => io::ErrorKind::UnexpectedEof,
            _ => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}

/// The way back. An error that no reader of a backup made passes as one of the system's.
impl From<io::Error> for BackupError {
    fn from(error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(own) => own,
            Err(source) => Self::Io { source },
        }
    }
}

/// Why a backup was not restored. Nothing of it is left: the directories are as they were.
#[cfg(feature = "persistence")]
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RestoreBackupError {
    /// The server was a member of the cluster that was backed up. Its peers remember the directory that it had, and would take the
    /// restored server for one that lost its data. Choose an id that no server of that cluster ever had.
    #[error(
        "node {id} was a member of the cluster that was backed up, whose servers would take the restored one for it; choose \
         an id that none of them ever had"
    )]
    IdInUse {
        /// The server.
        id: NodeId,
    },
    /// Behind the backup's last term there are not enough terms left for a cluster that begins so far beyond the old one. No
    /// cluster gets there by elections: use an older backup.
    #[error(
        "the backup's last term, {term}, is too near the largest that there is; use a backup from before it came to that"
    )]
    TermsUsedUp {
        /// The backup's last term.
        term: Term,
    },
    /// The backup names no cluster, and [`Restore::with_cluster`](super::Restore::with_cluster) none either.
    #[error("the backup does not say of which cluster it is: name one")]
    NoCluster,
    /// With the address the configuration would be too large.
    #[error("the address must leave the configuration within 48 KiB")]
    AddressTooLarge,
    /// The directory holds something. A restore writes into empty directories only, so that two logs never mix.
    #[error("{} is not empty: it holds {found}; restore into an empty directory", directory.display())]
    NotEmpty {
        /// The directory.
        directory: PathBuf,
        /// One of the things in it.
        found: std::string::String,
    },
    /// Another process is at work in the directory.
    #[error("another process is at work in {}", directory.display())]
    Locked {
        /// The directory.
        directory: PathBuf,
    },
    /// The backup is another one than was planned with.
    #[error("this is another backup than the one that the restore was planned with")]
    OtherBackup,
    /// The backup cannot be read.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The snapshot was not written.
    #[error(transparent)]
    Snapshot(SnapshotError),
    /// The log was not written.
    #[error(transparent)]
    Log(#[from] WalError),
    /// The file system reported an error.
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

/// A store that reads a backup while it writes says which of the two failed.
#[cfg(feature = "persistence")]
impl From<io::Error> for RestoreBackupError {
    fn from(error: io::Error) -> Self {
        match error.downcast::<BackupError>() {
            Ok(backup) => Self::Backup(backup),
            Err(error) => Self::Snapshot(SnapshotError::from(error)),
        }
    }
}
