//! What can go wrong with a backup.

use crate::snapshot::advice;
use std::io;
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
