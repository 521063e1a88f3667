//! Chunks: their size, their number and the chain of their checksums.

use super::{SNAPSHOT_BYTES_MAX, SnapshotInfo};
use crate::types::EntryId;
use bytes::Bytes;

/// Which chunk of which snapshot a server asks another for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ChunkRequest {
    /// The last entry that the snapshot covers.
    pub snapshot: EntryId,
    /// The chunk's number, counted from 0.
    pub chunk: u64,
}

/// One chunk of a snapshot on its way between two stores. It says of which snapshot it is and how
/// large that is, so that its receiver needs nothing else. `checksum` proves it, given the checksum
/// of the chunk before; of `total_bytes` it proves whether this is the last chunk, and if it is, all.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Chunk {
    /// The last entry that the snapshot covers.
    pub snapshot: EntryId,
    /// [`SnapshotInfo::identity`].
    pub identity: u64,
    /// The chunk's number, counted from 0.
    pub number: u64,
    /// [`SnapshotInfo::bytes`].
    pub total_bytes: u64,
    /// [`SnapshotInfo::chunk_bytes`].
    pub chunk_bytes: u32,
    /// [`SnapshotInfo::metadata`] with chunk 0, empty with every other.
    pub metadata: Bytes,
    /// The CRC-32C chain up to and with this chunk.
    pub checksum: u32,
    /// The content.
    pub data: Bytes,
}

impl Chunk {
    /// A chunk of the snapshot `info`.
    pub(super) fn of(info: &SnapshotInfo, number: u64, checksum: u32, data: Bytes) -> Self {
        Self {
            snapshot: info.last,
            identity: info.identity,
            number,
            total_bytes: info.bytes,
            chunk_bytes: info.chunk_bytes,
            metadata: if number == 0 { info.metadata.clone() } else { Bytes::new() },
            checksum,
            data,
        }
    }

    /// Whether the snapshot ends with it.
    #[must_use]
    pub const fn is_last(&self) -> bool {
        is_last(self.number, self.total_bytes, self.chunk_bytes)
    }
}

/// How many chunks a content of so many bytes has.
pub(super) const fn count(total_bytes: u64, chunk_bytes: u32) -> u64 {
    let count = total_bytes.div_ceil(if chunk_bytes == 0 { 1 } else { chunk_bytes as u64 });
    if count == 0 { 1 } else { count }
}

pub(super) const fn is_last(number: u64, total_bytes: u64, chunk_bytes: u32) -> bool {
    number == count(total_bytes, chunk_bytes) - 1
}

/// How many bytes of content chunk `number` holds; 0 beyond the last.
pub(super) fn data_bytes(number: u64, total_bytes: u64, chunk_bytes: u32) -> usize {
    let start = number.saturating_mul(u64::from(chunk_bytes));
    // At most `chunk_bytes`, a u32.
    total_bytes.saturating_sub(start).min(u64::from(chunk_bytes)) as usize
}

/// The next checksum of the chain. That of the last chunk also covers the size of the whole: no
/// other chunk passes for it, and it passes for no other.
pub(super) fn checksum(before: u32, data: &[u8], total_if_last: Option<u64>) -> u32 {
    let checksum = crc32c::crc32c_append(before, data);
    match total_if_last {
        Some(total) => crc32c::crc32c_append(checksum, &total.to_le_bytes()),
        None => checksum,
    }
}

pub(super) const fn is_size(total_bytes: u64, chunk_bytes: u32) -> bool {
    total_bytes <= SNAPSHOT_BYTES_MAX && chunk_bytes >= super::CHUNK_BYTES_MIN && chunk_bytes <= super::CHUNK_BYTES_MAX
}
