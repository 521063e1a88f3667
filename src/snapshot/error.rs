//! What can go wrong with snapshots.

use crate::types::{EntryId, GroupId};
use std::io;
use std::path::PathBuf;
use std::string::String;
use thiserror::Error;

/// What to do about an error of the file system, to be said after it; nothing where its own words say all.
pub(crate) fn advice(error: &io::Error) -> &'static str {
    use io::ErrorKind::{FileTooLarge, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    match error.kind() {
        StorageFull => " (the volume is full: free some space on it)",
        QuotaExceeded => " (the quota is used up: raise it, or free some space)",
        FileTooLarge => " (files may not grow so large here: raise the limit, `ulimit -f`)",
        ReadOnlyFilesystem => " (the volume is read-only: the system's log says why; mount it writable)",
        PermissionDenied => " (this process may not: check the owner and the mode)",
        // ENFILE and EMFILE, which have no kind of their own.
        _ if cfg!(unix) && error.raw_os_error() == Some(24) => " (raise the limit of this process, `ulimit -n`)",
        _ if cfg!(unix) && error.raw_os_error() == Some(23) => " (the whole system has too many files open)",
        _ => "",
    }
}

/// Whether a read that failed like this may succeed when it is tried again, because nothing is wrong with the medium: the
/// process or the system has too much open, or too little memory.
pub(crate) fn passes(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, OutOfMemory, WouldBlock};
    // ENFILE and EMFILE, and ERROR_TOO_MANY_OPEN_FILES, which have no kind of their own.
    let descriptors = match error.raw_os_error() {
        Some(23 | 24) => cfg!(unix),
        Some(4) => cfg!(windows),
        _ => false,
    };
    descriptors || matches!(error.kind(), Interrupted | OutOfMemory | WouldBlock)
}

/// Why a snapshot was not written, read or kept. No other snapshot is affected.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// Another open store holds the lock. Nothing was touched; stop the other process first.
    #[error("the snapshots in {} are open already, in this or another process", directory.display())]
    Locked {
        /// The store's directory.
        directory: PathBuf,
    },
    /// There is no such complete snapshot: it never was, or was superseded and deleted.
    #[error("there is no snapshot up to entry {last}")]
    NotFound {
        /// The last entry that it would cover.
        last: EntryId,
    },
    /// A complete snapshot of this entry is there already; use it.
    #[error("the snapshot up to entry {last} is complete already")]
    Exists {
        /// The last entry that it covers.
        last: EntryId,
    },
    /// A complete snapshot of this entry is there, and it is one of another cluster, or of this one before a recovery. The
    /// store does not set it aside by itself. Nothing was touched; give the node a store of its own.
    #[error(
        "the snapshot up to entry {last} in the store is of another history than the log; give this node a store of its own"
    )]
    OtherHistory {
        /// The last entry that it covers.
        last: EntryId,
    },
    /// A snapshot of this entry is being written or received; wait for that, or drop it first.
    #[error("a snapshot up to entry {last} is being written or received already")]
    Busy {
        /// The last entry that it covers.
        last: EntryId,
    },
    /// The snapshot has fewer chunks.
    #[error("the snapshot up to entry {last} has {chunks} chunks, and no chunk {chunk}")]
    NoSuchChunk {
        /// The last entry that the snapshot covers.
        last: EntryId,
        /// The chunk asked for.
        chunk: u64,
        /// How many there are.
        chunks: u64,
    },
    /// More metadata than a snapshot carries. Nothing was begun.
    #[error("{bytes} bytes of metadata exceed the limit of {}", super::METADATA_BYTES_MAX)]
    MetadataTooLarge {
        /// Its size in bytes.
        bytes: usize,
    },
    /// The content is larger than a snapshot can be. The snapshot is lost.
    #[error("a snapshot holds at most {} bytes", super::SNAPSHOT_BYTES_MAX)]
    TooLarge,
    /// A snapshot of another group lies in the directory. Nothing was touched.
    #[error("{} belongs to group {found}, not to group {expected}", file.display())]
    WrongGroup {
        /// The file.
        file: PathBuf,
        /// The group that it belongs to.
        found: GroupId,
        /// The group asked for.
        expected: GroupId,
    },
    /// Bytes that were durable are damaged or missing. The snapshot is not listed any more; take or
    /// receive another.
    #[error("{} is damaged at byte {offset}: {reason}", file.display())]
    Corrupt {
        /// The damaged file.
        file: PathBuf,
        /// Where in the file the damage begins, at the latest, in bytes.
        offset: u64,
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
    /// An earlier write or sync of this snapshot failed. It is lost.
    #[error("the snapshot is lost after an earlier failure: {reason}")]
    Failed {
        /// The first failure.
        reason: String,
    },
    /// The file system reported an error. A snapshot that was being written or received is lost.
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

impl SnapshotError {
    /// Whether this says that a snapshot could not be opened for a reason that passes by itself: too many open files, too little
    /// memory, an interruption. It is there, and the same may succeed in a moment.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Io { source, .. } if passes(source))
    }
}

#[cfg(feature = "persistence")]
impl SnapshotError {
    /// What later calls say after this one.
    pub(super) fn again(&self) -> Self {
        match self {
            Self::Exists { last } => Self::Exists { last: *last },
            Self::Failed { reason } => Self::Failed { reason: reason.clone() },
            first => Self::Failed { reason: std::string::ToString::to_string(first) },
        }
    }
}

/// How streams carry a [`SnapshotError`].
impl From<SnapshotError> for io::Error {
    fn from(error: SnapshotError) -> Self {
        let kind = match &error {
            SnapshotError::Corrupt { .. } | SnapshotError::Unsupported { .. } => io::ErrorKind::InvalidData,
            SnapshotError::Io { source, .. } => source.kind(),
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// The way back. An error that no store made passes as one of the system's: of a state machine that
/// was writing or reading.
impl From<io::Error> for SnapshotError {
    fn from(error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(own) => own,
            Err(source) => Self::Io { operation: "streaming", file: PathBuf::from("a snapshot"), source },
        }
    }
}

/// Why a chunk from a peer was not accepted.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// Not the chunk that is needed next; nothing changed. Ask for the one that is.
    #[error("chunk {found} came where chunk {expected} is needed")]
    OutOfOrder {
        /// The chunk that is needed.
        expected: u64,
        /// The chunk that came.
        found: u64,
    },
    /// The peer's snapshot of this entry is not the one received so far: another server, or another
    /// life of it, took it. Nothing changed. Begin anew with [`SnapshotReceiver::restart`], or ask
    /// the server that the chunks so far came from.
    ///
    /// [`SnapshotReceiver::restart`]: super::SnapshotReceiver::restart
    #[error("the chunk is of another snapshot of the same entry: identity {found:#x} instead of {expected:#x}")]
    OtherSnapshot {
        /// The identity of the snapshot received so far.
        expected: u64,
        /// That of the chunk.
        found: u64,
    },
    /// The chunk does not verify: damaged on its way, or not what a store makes. Nothing changed. Ask
    /// for it again, and another server if that does not help.
    #[error("chunk {chunk} is not acceptable: {reason}")]
    Refused {
        /// The chunk.
        chunk: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// The own store failed. What was received is lost.
    #[error(transparent)]
    Store(#[from] SnapshotError),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each says which file, what the system said, and what to do.
    #[cfg(target_os = "linux")]
    #[test]
    fn errors_of_the_disk_say_what_to_do() {
        let errors = [
            (28, "free some space"),
            (122, "the quota"),
            (27, "`ulimit -f`"),
            (30, "read-only: "),
            (13, "the owner and the mode"),
            (24, "`ulimit -n`"),
            (23, "the whole system"),
        ];
        for (number, says) in errors {
            let source = io::Error::from_raw_os_error(number);
            let words = std::string::ToString::to_string(&source);
            let error = SnapshotError::Io { operation: "writing", file: PathBuf::from("/data/x"), source };
            let text = std::string::ToString::to_string(&error);
            assert!(
                text.starts_with("writing /data/x failed: ") && text.contains(&words) && text.contains(says),
                "{text}"
            );
        }
        assert_eq!(advice(&io::Error::from_raw_os_error(5)), "", "an I/O error says all");
    }
}
