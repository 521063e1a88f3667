//! The bytes of a backup: header, chunks, trailer (`docs/FORMAT.md`, Backups).

use super::{BackupError, BackupInfo};
use crate::membership::Membership;
use crate::snapshot::{CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, METADATA_BYTES_MAX, SNAPSHOT_BYTES_MAX};
use crate::types::{ClusterId, EntryId, GroupId, Index, NodeId, Term};
use std::sync::Arc;
use std::vec::Vec;

const MAGIC: &[u8; 8] = b"RAFTBACK";
const END_MAGIC: &[u8; 8] = b"BACKDONE";
const FORMAT: u32 = 1;
/// Magic, format and the header's size: the same in every format.
pub(super) const FIXED_BYTES: usize = 16;
/// Flags, chunk size, eight numbers.
const FIELDS_BYTES: usize = 4 + 4 + 8 * 8;
pub(super) const CHECKSUM_BYTES: usize = 4;
const HEADER_BYTES_MIN: usize = FIXED_BYTES + FIELDS_BYTES + CHECKSUM_BYTES;
const HEADER_BYTES_MAX: usize = HEADER_BYTES_MIN + METADATA_BYTES_MAX;
pub(super) const TRAILER_BYTES: usize = 24;
/// Of the flags: the cluster is known.
const HAS_CLUSTER: u32 = 1;

/// What a header says.
#[derive(Clone, Debug)]
pub(super) struct Header {
    pub(super) info: BackupInfo,
    /// Its checksum, with which the chain of the chunks' checksums begins.
    pub(super) seed: u32,
}

pub(super) fn encode_header(info: &BackupInfo) -> Vec<u8> {
    let membership = info.membership.encode();
    let size = HEADER_BYTES_MIN + membership.len();
    let mut out = Vec::with_capacity(size);
    out.extend_from_slice(MAGIC);
    let flags = if info.cluster.is_some() { HAS_CLUSTER } else { 0 };
    // The size is at most HEADER_BYTES_MAX: a configuration is bounded.
    for field in [FORMAT, size as u32, flags, info.chunk_bytes] {
        out.extend_from_slice(&field.to_le_bytes());
    }
    let cluster = info.cluster.unwrap_or_default().0;
    let identity = [cluster, info.group.0, info.node.0, info.last.index.0, info.last.term.0];
    for field in identity.into_iter().chain([info.snapshot, info.bytes, info.unix_seconds]) {
        out.extend_from_slice(&field.to_le_bytes());
    }
    out.extend_from_slice(&membership);
    let checksum = crc32c::crc32c(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    out
}

/// The size of the whole header, as its first bytes tell.
pub(super) fn header_bytes(fixed: &[u8; FIXED_BYTES]) -> Result<usize, BackupError> {
    if &fixed[..8] != MAGIC {
        return Err(BackupError::NotABackup);
    }
    let size = u32_at(fixed, 12) as usize;
    let in_range = (HEADER_BYTES_MIN..=HEADER_BYTES_MAX).contains(&size);
    match u32_at(fixed, 8) {
        FORMAT if in_range => Ok(size),
        FORMAT => Err(BackupError::Damaged { offset: 12, reason: "its header has an impossible size" }),
        found => Err(BackupError::OtherFormat { found, known: FORMAT }),
    }
}

/// A whole header.
pub(super) fn decode_header(bytes: &[u8]) -> Result<Header, BackupError> {
    let damaged = |offset, reason| BackupError::Damaged { offset, reason };
    let (body, checksum) = bytes.split_at(bytes.len() - CHECKSUM_BYTES);
    let seed = u32_at(checksum, 0);
    if crc32c::crc32c(body) != seed {
        return Err(damaged(0, "the checksum of its header does not hold"));
    }
    let flags = u32_at(body, 16);
    let field = |number: usize| u64_at(body, 24 + 8 * number);
    let membership = Membership::decode(&body[FIXED_BYTES + FIELDS_BYTES..]);
    let membership = membership.map_err(|_| damaged(88, "this version does not understand its configuration"))?;
    let info = BackupInfo {
        cluster: (flags & HAS_CLUSTER != 0).then(|| ClusterId(field(0))),
        group: GroupId(field(1)),
        node: NodeId(field(2)),
        last: EntryId::new(field(3), field(4)),
        snapshot: field(5),
        bytes: field(6),
        chunk_bytes: u32_at(body, 20),
        unix_seconds: field(7),
        membership: Arc::new(membership),
    };
    if flags & !HAS_CLUSTER != 0 {
        return Err(damaged(16, "it has flags that this version does not know"));
    }
    if info.bytes > SNAPSHOT_BYTES_MAX || !(CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&info.chunk_bytes) {
        return Err(damaged(20, "its sizes are out of range"));
    }
    if info.last.index == Index::ZERO || info.last.index >= Index::MAX || info.last.term >= Term::MAX {
        return Err(damaged(48, "it ends with an impossible entry"));
    }
    Ok(Header { info, seed })
}

pub(super) fn encode_trailer(bytes: u64, chain: u32) -> [u8; TRAILER_BYTES] {
    let mut out = [0; TRAILER_BYTES];
    out[..8].copy_from_slice(END_MAGIC);
    out[8..16].copy_from_slice(&bytes.to_le_bytes());
    out[16..20].copy_from_slice(&chain.to_le_bytes());
    let own = crc32c::crc32c(&out[..20]);
    out[20..].copy_from_slice(&own.to_le_bytes());
    out
}

/// The next checksum of the chain. That of the last chunk also covers the size of the whole.
pub(super) fn checksum(before: u32, data: &[u8], total_if_last: Option<u64>) -> u32 {
    let checksum = crc32c::crc32c_append(before, data);
    total_if_last.map_or(checksum, |total| crc32c::crc32c_append(checksum, &total.to_le_bytes()))
}

/// How many chunks a content has: at least one, which is empty if the content is.
pub(super) fn chunks(info: &BackupInfo) -> u64 {
    // Somebody may have written the numbers down; a file of a backup never says 0.
    info.bytes.div_ceil(u64::from(info.chunk_bytes).max(1)).max(1)
}

pub(super) fn file_bytes(info: &BackupInfo) -> u64 {
    let header = (HEADER_BYTES_MIN + info.membership.encoded_len()) as u64;
    let checksums = chunks(info).saturating_mul(CHECKSUM_BYTES as u64);
    [info.bytes, checksums, TRAILER_BYTES as u64].iter().fold(header, |sum, part| sum.saturating_add(*part))
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(number)
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(number)
}
