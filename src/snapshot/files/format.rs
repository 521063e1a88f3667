//! The bytes of a snapshot file: header, chunks, trailer (`docs/FORMAT.md`, Snapshots).

use super::super::chunk;
use super::super::{Header, METADATA_BYTES_MAX, SnapshotError, SnapshotInfo};
use crate::log::wal::{RawFile, read_full};
use crate::types::{EntryId, GroupId};
use bytes::Bytes;
use std::format;
use std::path::Path;
use std::string::String;
use std::vec;
use std::vec::Vec;

const MAGIC: &[u8; 8] = b"RAFTSNAP";
const END_MAGIC: &[u8; 8] = b"RAFTDONE";
const FORMAT: u32 = 1;
/// Magic, format and the header's size: the same in every format.
const FIXED_BYTES: usize = 16;
/// Group, index, term, identity, chunk size.
const FIELDS_BYTES: usize = 40;
const CHECKSUM_BYTES: usize = 4;
const HEADER_BYTES_MIN: usize = FIXED_BYTES + FIELDS_BYTES + CHECKSUM_BYTES;
const HEADER_BYTES_MAX: usize = HEADER_BYTES_MIN + METADATA_BYTES_MAX;
const TRAILER_BYTES: usize = 24;

/// What a file of a snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Complete and durable.
    Complete,
    /// Being written; never used again after a restart.
    Temporary,
    /// Being received; what verifies of it is used after a restart.
    Partial,
}

impl Role {
    const ALL: [Self; 3] = [Self::Complete, Self::Temporary, Self::Partial];

    /// Whether this is its extension, in whatever case.
    pub(super) fn is_extension(self, extension: &str) -> bool {
        self.extension().eq_ignore_ascii_case(extension)
    }

    const fn extension(self) -> &'static str {
        match self {
            Self::Complete => "snapshot",
            Self::Temporary => "tmp",
            Self::Partial => "partial",
        }
    }
}

pub(super) fn file_name(last: EntryId, role: Role) -> String {
    format!("{:016x}-{:016x}.{}", last.index.0, last.term.0, role.extension())
}

/// The name of a snapshot that is not of this store's log: none of ours, so it is left alone from then on.
pub(super) fn foreign_name(last: EntryId, identity: u64) -> String {
    format!("{:016x}-{:016x}-{identity:016x}.foreign", last.index.0, last.term.0)
}

/// What a name says; `None` if it is none of ours.
pub(super) fn parse_name(name: &str) -> Option<(EntryId, Role)> {
    let (index, rest) = name.split_once('-')?;
    let (term, extension) = rest.split_once('.')?;
    let number = |digits| u64::from_str_radix(digits, 16).ok();
    let last = EntryId::new(number(index)?, number(term)?);
    let role = Role::ALL.into_iter().find(|role| role.extension() == extension)?;
    // Not `+1` nor capital letters.
    (file_name(last, role) == name).then_some((last, role))
}

/// Where the content of a complete snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) header_bytes: u64,
    /// Where the chain of checksums begins.
    pub(super) seed: u32,
    /// Where it ends.
    pub(super) checksum: u32,
}

pub(super) fn encode_header(header: &Header) -> Vec<u8> {
    let fields = header.encode();
    let size = FIXED_BYTES + fields.len() + CHECKSUM_BYTES;
    let mut out = Vec::with_capacity(size);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&FORMAT.to_le_bytes());
    // At most HEADER_BYTES_MAX.
    out.extend_from_slice(&(size as u32).to_le_bytes());
    out.extend_from_slice(&fields);
    let checksum = crc32c::crc32c(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    out
}

pub(super) fn encode_trailer(total_bytes: u64, checksum: u32) -> [u8; TRAILER_BYTES] {
    let mut out = [0; TRAILER_BYTES];
    out[..8].copy_from_slice(END_MAGIC);
    out[8..16].copy_from_slice(&total_bytes.to_le_bytes());
    out[16..20].copy_from_slice(&checksum.to_le_bytes());
    let own = crc32c::crc32c(&out[..20]);
    out[20..].copy_from_slice(&own.to_le_bytes());
    out
}

/// Where chunk `number` begins. Does not overflow: sizes are bounded by `SNAPSHOT_BYTES_MAX`.
pub(super) fn chunk_offset(header_bytes: u64, number: u64, chunk_bytes: u32) -> u64 {
    header_bytes + number * (u64::from(chunk_bytes) + CHECKSUM_BYTES as u64)
}

/// Where the trailer begins.
pub(super) fn trailer_offset(header_bytes: u64, total_bytes: u64, chunk_bytes: u32) -> u64 {
    header_bytes + total_bytes + chunk::count(total_bytes, chunk_bytes) * CHECKSUM_BYTES as u64
}

pub(super) fn file_bytes(header_bytes: u64, total_bytes: u64, chunk_bytes: u32) -> u64 {
    trailer_offset(header_bytes, total_bytes, chunk_bytes) + TRAILER_BYTES as u64
}

/// An open file with its path, for messages.
pub(super) struct Source<'a> {
    pub(super) file: &'a dyn RawFile,
    pub(super) path: &'a Path,
}

impl Source<'_> {
    pub(super) fn corrupt(&self, offset: u64, reason: &'static str) -> SnapshotError {
        SnapshotError::Corrupt { file: self.path.to_path_buf(), offset, reason }
    }

    /// Fills the buffer, or reports where the file ends too early.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), SnapshotError> {
        let io = |source| SnapshotError::Io { operation: "reading", file: self.path.to_path_buf(), source };
        let filled = read_full(self.file, offset, buffer).map_err(io)?;
        if filled == buffer.len() { Ok(()) } else { Err(self.corrupt(offset + filled as u64, "it ends too early")) }
    }

    /// Reads and checks a header; also its size.
    pub(super) fn header(&self) -> Result<(Header, u64), SnapshotError> {
        let mut fixed = [0; FIXED_BYTES];
        self.read(0, &mut fixed)?;
        let size = u32_at(&fixed, 12) as usize;
        if &fixed[..8] != MAGIC || !(HEADER_BYTES_MIN..=HEADER_BYTES_MAX).contains(&size) {
            return Err(self.corrupt(0, "the header has no valid form"));
        }
        let mut bytes = vec![0; size];
        self.read(0, &mut bytes).map_err(|error| match error {
            SnapshotError::Corrupt { .. } => self.corrupt(12, "the header is larger than the file"),
            error => error,
        })?;
        let body = &bytes[..size - CHECKSUM_BYTES];
        if u32_at(&bytes, size - CHECKSUM_BYTES) != crc32c::crc32c(body) {
            return Err(self.corrupt(0, "the header's checksum does not hold"));
        }
        // The format stands at a fixed place in every version, under the same checksum.
        if u32_at(&bytes, 8) != FORMAT {
            return Err(SnapshotError::Unsupported { file: self.path.to_path_buf(), offset: 8, what: "the format" });
        }
        let chunk_bytes = u32::try_from(u64_at(body, 48)).unwrap_or(u32::MAX);
        if !chunk::is_size(0, chunk_bytes) {
            return Err(self.corrupt(48, "the size of a chunk is out of range"));
        }
        let header = Header {
            group: GroupId(u64_at(body, 16)),
            last: EntryId::new(u64_at(body, 24), u64_at(body, 32)),
            identity: u64_at(body, 40),
            chunk_bytes,
            metadata: Bytes::copy_from_slice(&body[FIXED_BYTES + FIELDS_BYTES..]),
        };
        Ok((header, size as u64))
    }

    /// Reads and checks header, trailer and size of what should be a complete file.
    pub(super) fn complete(&self) -> Result<(Header, SnapshotInfo, Place), SnapshotError> {
        let (header, header_bytes) = self.header()?;
        let io = |source| SnapshotError::Io { operation: "reading", file: self.path.to_path_buf(), source };
        let size = self.file.size().map_err(io)?;
        let Some(offset) = size.checked_sub(TRAILER_BYTES as u64).filter(|offset| *offset >= header_bytes) else {
            return Err(self.corrupt(size, "it ends too early"));
        };
        let mut trailer = [0; TRAILER_BYTES];
        self.read(offset, &mut trailer)?;
        if &trailer[..8] != END_MAGIC || u32_at(&trailer, 20) != crc32c::crc32c(&trailer[..20]) {
            return Err(self.corrupt(offset, "there is no trailer where the file ends"));
        }
        let (total_bytes, checksum) = (u64_at(&trailer, 8), u32_at(&trailer, 16));
        let fits = chunk::is_size(total_bytes, header.chunk_bytes)
            && trailer_offset(header_bytes, total_bytes, header.chunk_bytes) == offset;
        if !fits {
            return Err(self.corrupt(offset, "the file is not as large as its trailer says"));
        }
        let place = Place { header_bytes, seed: header.seed(), checksum };
        let info = header.info(total_bytes);
        Ok((header, info, place))
    }

    /// Reads a chunk of a complete file into `buffer` and checks that it follows a chunk with the
    /// checksum `before`; returns its own.
    pub(super) fn chunk(
        &self,
        info: &SnapshotInfo,
        place: &Place,
        number: u64,
        before: u32,
        buffer: &mut Vec<u8>,
    ) -> Result<u32, SnapshotError> {
        let offset = chunk_offset(place.header_bytes, number, info.chunk_bytes);
        let data_bytes = chunk::data_bytes(number, info.bytes, info.chunk_bytes);
        let total_if_last = chunk::is_last(number, info.bytes, info.chunk_bytes).then_some(info.bytes);
        let checksum = self.chunk_at(offset, data_bytes, before, total_if_last, buffer)?;
        if total_if_last.is_some() && checksum != place.checksum {
            let offset = trailer_offset(place.header_bytes, info.bytes, info.chunk_bytes);
            return Err(self.corrupt(offset, "the trailer belongs to another content"));
        }
        Ok(checksum)
    }

    /// Reads `data_bytes` and their checksum, and checks it.
    pub(super) fn chunk_at(
        &self,
        offset: u64,
        data_bytes: usize,
        before: u32,
        total_if_last: Option<u64>,
        buffer: &mut Vec<u8>,
    ) -> Result<u32, SnapshotError> {
        buffer.resize(data_bytes + CHECKSUM_BYTES, 0);
        self.read(offset, buffer)?;
        let stored = u32_at(buffer, data_bytes);
        buffer.truncate(data_bytes);
        if chunk::checksum(before, buffer, total_if_last) == stored {
            Ok(stored)
        } else {
            buffer.clear();
            Err(self.corrupt(offset, "a chunk's checksum does not hold"))
        }
    }

    /// The stored checksum of chunk `number`, unverified.
    pub(super) fn checksum_of(&self, info: &SnapshotInfo, place: &Place, number: u64) -> Result<u32, SnapshotError> {
        let end = chunk_offset(place.header_bytes, number + 1, info.chunk_bytes);
        let mut checksum = [0; CHECKSUM_BYTES];
        self.read(end - CHECKSUM_BYTES as u64, &mut checksum)?;
        Ok(u32::from_le_bytes(checksum))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_read() {
        for role in Role::ALL {
            let name = file_name(EntryId::new(300, 7), role);
            assert_eq!(parse_name(&name), Some((EntryId::new(300, 7), role)), "{name}");
            assert_eq!(parse_name(&name.to_uppercase()), None);
            assert_eq!(parse_name(&format!("{name}~")), None);
        }
        for name in
            ["MANIFEST.tmp", "LOCK", "0000000000000001.wal", "1-1.snapshot", "+000000000000001-0000000000000001.tmp"]
        {
            assert_eq!(parse_name(name), None, "{name}");
        }
    }
}
