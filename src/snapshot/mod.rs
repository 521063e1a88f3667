//! Snapshots: the state machine's whole state as of one entry, stored and transferred (dissertation §5).
//!
//! Lives here: the contract of a store of snapshots, chunks and their checksums, a store in memory
//! and one in a directory. Does not live here: when a snapshot is taken, what is in it, whom it is
//! fetched from and when the log forgets what it covers; that is the driver's.
//!
//! A snapshot is known by the last entry that it covers. Its content is a stream of bytes that the
//! state machine wrote, of any size; stored and sent in chunks, so that nobody ever holds more of it
//! than a few of those. Each chunk's checksum continues the one before it, from the snapshot's header
//! on: a chunk verifies only in its place of its snapshot, and the last one, which also covers the
//! size, only if the whole is there. `docs/FORMAT.md` has the bytes.
//!
//! # The contract of a store
//!
//! 1. **All or nothing.** A snapshot is listed once it is complete and durable, and never before.
//!    After a crash at any moment it is there as a whole or not at all.
//! 2. **Verified.** Nothing is handed out that its checksum does not cover, nothing is missing
//!    without an error that says where.
//! 3. **The newest stays.** [`SnapshotStore::retain`] never deletes the newest complete snapshot, nor
//!    one that is open for reading.
//! 4. **A failure costs one snapshot.** After a failed write or sync the snapshot being written is
//!    lost, and nothing is tried again on its file: the kernel may have dropped what it could not
//!    write. The snapshots before it are unharmed and the store goes on. The node need not stop:
//!    nobody was told that the snapshot exists, and the log still holds what it covers.
//! 5. **Receiving resumes.** What of a snapshot has arrived and verifies is kept until the rest
//!    arrives, across reconnects and restarts, or until it is abandoned or overtaken.

mod assembly;
mod catalogue;
mod chunk;
mod error;
#[cfg(feature = "persistence")]
pub mod files;
mod memory;

pub use chunk::{Chunk, ChunkRequest};
pub(crate) use error::advice;
#[cfg(feature = "persistence")]
pub(crate) use error::passes;
pub use error::{ReceiveError, SnapshotError};
#[cfg(feature = "persistence")]
pub use files::SnapshotFiles;
pub use memory::MemorySnapshots;

use crate::history::History;
use crate::membership::{Membership, MembershipError};
use crate::types::{EntryId, GroupId};
use bytes::Bytes;
use std::boxed::Box;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::Arc;
use std::vec::Vec;

/// The usual size of a chunk, in bytes.
pub const CHUNK_BYTES: u32 = 256 << 10;
/// The smallest chunk that a store may be asked to make, in bytes.
pub const CHUNK_BYTES_MIN: u32 = 512;
/// The largest chunk that a store accepts, in bytes: what a peer can make it hold.
pub const CHUNK_BYTES_MAX: u32 = 1 << 20;
/// The most metadata that a snapshot carries beside its content, in bytes.
pub const METADATA_BYTES_MAX: usize = 64 << 10;
/// The largest snapshot, in bytes; no arithmetic on an accepted size can wrap.
pub const SNAPSHOT_BYTES_MAX: u64 = 1 << 60;

/// A complete snapshot, as it is listed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SnapshotInfo {
    /// The last entry that it covers.
    pub last: EntryId,
    /// Drawn at random when it was begun. Two servers may take snapshots of the same entry that
    /// differ in their bytes; these are two snapshots, and their chunks never mix.
    pub identity: u64,
    /// The size of its content in bytes.
    pub bytes: u64,
    /// The size of its chunks in bytes; only the last may be smaller.
    pub chunk_bytes: u32,
    /// What was given along at [`SnapshotStore::begin`]: at most [`METADATA_BYTES_MAX`] bytes, opaque
    /// here. It says itself which version of it it is.
    pub metadata: Bytes,
}

impl SnapshotInfo {
    /// How many chunks it consists of; at least one, which is empty if the content is.
    #[must_use]
    pub const fn chunks(&self) -> u64 {
        chunk::count(self.bytes, self.chunk_bytes)
    }

    /// Who belonged to the cluster as of [`last`](Self::last): what the driver gives along as metadata. `None` if nothing was
    /// given, as before there were membership changes.
    #[must_use]
    pub fn membership(&self) -> Option<Result<Membership, MembershipError>> {
        (!self.metadata.is_empty()).then(|| Membership::decode(&self.metadata))
    }

    /// The history that it belongs to, as the driver gives it along with the membership. `None` if it says none: one that was
    /// taken before there were histories.
    ///
    /// # Errors
    /// The metadata does not decode.
    pub fn history(&self) -> Result<Option<Arc<History>>, MembershipError> {
        Ok(self.membership().transpose()?.and_then(|membership| membership.history().cloned()))
    }
}

/// Where the snapshots of one group are kept. Shared by the threads that take, receive, serve and
/// install them; no method waits for a write or sync of another.
pub trait SnapshotStore: Send + Sync + 'static {
    /// Begins a snapshot of the state after `last`. The content is written to what is returned.
    ///
    /// # Errors
    /// [`SnapshotError::Exists`], [`SnapshotError::Busy`], [`SnapshotError::MetadataTooLarge`], or
    /// the disk's. Nothing was begun.
    fn begin(&self, last: EntryId, metadata: Bytes) -> Result<Box<dyn SnapshotWriter>, SnapshotError>;

    /// The complete snapshots, oldest first. One that was found damaged is not among them.
    fn list(&self) -> Vec<SnapshotInfo>;

    /// The newest complete snapshot.
    fn newest(&self) -> Option<SnapshotInfo> {
        self.list().pop()
    }

    /// Opens a complete snapshot. While it is open it stays listed and readable, also if it is
    /// superseded: whoever serves a snapshot to a slow peer holds it open.
    ///
    /// # Errors
    /// [`SnapshotError::NotFound`], [`SnapshotError::Corrupt`], or the disk's.
    fn open(&self, last: EntryId) -> Result<Box<dyn SnapshotReader>, SnapshotError>;

    /// Reads one chunk of a complete snapshot, verified, to send it to a peer.
    ///
    /// # Errors
    /// [`SnapshotError::NotFound`], [`SnapshotError::NoSuchChunk`], [`SnapshotError::Corrupt`], or the
    /// disk's.
    fn chunk(&self, request: ChunkRequest) -> Result<Chunk, SnapshotError>;

    /// Begins to receive a snapshot from a peer, or goes on where receiving it ended before: that reads
    /// what is there, and takes what verifies. Of other
    /// snapshots that were being received what nobody works at is deleted: one at a time.
    ///
    /// # Errors
    /// [`SnapshotError::Exists`], [`SnapshotError::Busy`], or the disk's. Nothing was begun.
    fn receive(&self, last: EntryId) -> Result<Box<dyn SnapshotReceiver>, SnapshotError>;

    /// Takes a complete snapshot out of the list, for it is one of another cluster, or of another history of this one: its
    /// name is free then for the one that belongs to this log. It should be kept where a person finds it, and is never used
    /// again.
    ///
    /// # Errors
    /// [`SnapshotError::NotFound`], [`SnapshotError::OtherHistory`] of a store that cannot do this, or the disk's: it is listed
    /// still.
    fn set_aside(&self, last: EntryId) -> Result<(), SnapshotError> {
        Err(SnapshotError::OtherHistory { last })
    }

    /// Deletes what is not needed once the snapshot of `last` is: older snapshots, damaged ones
    /// included, and what was received of snapshots that are not newer than the newest. It keeps the
    /// newest complete snapshot, whatever `last` is, and what is in use. What cannot be deleted now
    /// is deleted when its last reader is done, or by a later call.
    fn retain(&self, last: EntryId);
}

/// A snapshot that is being taken. Dropped without [`SnapshotWriter::finish`] it leaves nothing.
///
/// Errors carry a [`SnapshotError`] (`SnapshotError::from` takes it out); after the first, every
/// further write and `finish` fail. Flushing does nothing: only `finish` makes anything durable.
pub trait SnapshotWriter: io::Write + Send {
    /// Ends the content, makes it durable and lists the snapshot.
    ///
    /// # Errors
    /// The disk's. The snapshot is lost; begin it anew if it is still wanted.
    fn finish(self: Box<Self>) -> Result<SnapshotInfo, SnapshotError>;
}

/// A complete snapshot that is being read, from its beginning.
///
/// Every chunk is verified before any of its bytes is handed out. Errors carry a [`SnapshotError`]
/// (`SnapshotError::from` takes it out), damage with [`io::ErrorKind::InvalidData`]. The end of the
/// stream is the end of the whole snapshot and nothing else.
pub trait SnapshotReader: io::Read + Send {
    /// What is being read.
    fn info(&self) -> &SnapshotInfo;
}

/// A snapshot that is being received. Dropped before its end, it can be gone on with: by
/// [`SnapshotStore::receive`] in this life of the process or the next.
pub trait SnapshotReceiver: Send {
    /// The chunk needed next. Grows by one with each that is accepted.
    fn next(&self) -> ChunkRequest;

    /// What is known so far: content received in bytes, and the size of the whole once a chunk told it.
    fn progress(&self) -> (u64, Option<u64>);

    /// Takes the chunk that [`SnapshotReceiver::next`] asked for. With the last one the snapshot is
    /// complete, durable and listed: `Some`, and nothing more is taken.
    ///
    /// # Errors
    /// By who acted: the peer's chunk is none that fits, and nothing changed; or the store failed,
    /// what was received is lost, and every further call fails.
    fn accept(&mut self, chunk: &Chunk) -> Result<Option<SnapshotInfo>, ReceiveError>;

    /// Forgets what was received and begins with the first chunk again: after
    /// [`ReceiveError::OtherSnapshot`].
    ///
    /// # Errors
    /// The disk's.
    fn restart(&mut self) -> Result<(), SnapshotError>;

    /// Forgets what was received, for good.
    fn abandon(self: Box<Self>);
}

/// What is fixed when a snapshot is begun.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Header {
    group: GroupId,
    last: EntryId,
    identity: u64,
    chunk_bytes: u32,
    metadata: Bytes,
}

impl Header {
    /// The header of a new snapshot.
    fn draw(group: GroupId, last: EntryId, chunk_bytes: u32, metadata: Bytes) -> Result<Self, SnapshotError> {
        if metadata.len() > METADATA_BYTES_MAX {
            return Err(SnapshotError::MetadataTooLarge { bytes: metadata.len() });
        }
        // The standard library's per-process random keys, the only randomness that it offers.
        let identity = RandomState::new().build_hasher().finish();
        Ok(Self { group, last, identity, chunk_bytes, metadata })
    }

    fn info(&self, bytes: u64) -> SnapshotInfo {
        let Self { last, identity, chunk_bytes, ref metadata, .. } = *self;
        SnapshotInfo { last, identity, bytes, chunk_bytes, metadata: metadata.clone() }
    }

    /// The part of a stored header that identifies the snapshot; see `docs/FORMAT.md`.
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(40 + self.metadata.len());
        for field in [self.group.0, self.last.index.0, self.last.term.0, self.identity] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&u64::from(self.chunk_bytes).to_le_bytes());
        out.extend_from_slice(&self.metadata);
        out
    }

    /// Where the chain of the chunks' checksums begins. It does not depend on how a header is stored,
    /// so that servers with different formats on their disks still agree on it.
    fn seed(&self) -> u32 {
        crc32c::crc32c(&self.encode())
    }
}
