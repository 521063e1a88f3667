//! MANIFEST: whose log this is and which segments it consists of. Replaced as a whole: written
//! beside, synced, renamed, and the directory synced.

use super::directory::{Directory, read_full};
use super::error::WalError;
use super::record::{u32_at, u64_at};
use crate::types::{ClusterId, Index, NodeId};
use std::format;
use std::string::String;
use std::vec;
use std::vec::Vec;

pub(super) const MANIFEST: &str = "MANIFEST";
pub(super) const MANIFEST_NEW: &str = "MANIFEST.tmp";
const MAGIC: &[u8; 8] = b"RAFTWAL\0";
const FORMAT: u32 = 1;
const HEAD_BYTES: usize = 56;
const SEGMENT_BYTES: usize = 32;
/// More segments than any log has; bounds what a damaged length can make us read.
const SIZE_MAX: u64 = 64 << 20;

/// One segment file: the positions `[base, base of the next)`, or `[base, base + bytes)` for the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// Names the file. A purged file may come back at another position.
    pub(super) number: u64,
    /// The position of the file's first byte. Everything before it was durable when this was listed.
    pub(super) base: u64,
    /// The file's size, in bytes.
    pub(super) bytes: u64,
    /// The checksum of the record right before `base`.
    pub(super) chain: u32,
}

impl Segment {
    pub(super) fn name(&self) -> String {
        format!("{:016x}.wal", self.number)
    }
}

/// The number in the name of a segment; `None` for every name that no log gives.
pub(super) fn segment_number(name: &str) -> Option<u64> {
    let number = u64::from_str_radix(name.strip_suffix(".wal")?, 16).ok()?;
    // Not `+1` nor capital letters.
    (format!("{number:016x}.wal") == name).then_some(number)
}

/// Why a manifest was not stored.
pub(super) struct NotStored {
    /// Whether the one before may have been replaced. If not, nothing has changed.
    pub(super) renamed: bool,
    pub(super) error: WalError,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) cluster: ClusterId,
    pub(super) node: NodeId,
    /// The random identity of this directory, chosen when it was created.
    pub(super) incarnation: u64,
    /// How many times the log was opened.
    pub(super) opening: u64,
    /// The lowest number that is not set aside for a segment file: the log makes files below it only.
    pub(super) next_number: u64,
    /// In the order of their positions, without gaps.
    pub(super) segments: Vec<Segment>,
}

impl Manifest {
    fn encode(&self) -> Vec<u8> {
        let size = HEAD_BYTES + self.segments.len() * SEGMENT_BYTES + 4;
        let mut out = Vec::with_capacity(size);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&(self.segments.len() as u32).to_le_bytes());
        for field in [self.cluster.0, self.node.0, self.incarnation, self.opening, self.next_number] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        for segment in &self.segments {
            for field in [segment.number, segment.base, segment.bytes, u64::from(segment.chain)] {
                out.extend_from_slice(&field.to_le_bytes());
            }
        }
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        if bytes.len() < HEAD_BYTES + 4 {
            return Err("the manifest is too short");
        }
        let (body, crc) = bytes.split_at(bytes.len() - 4);
        if u32_at(crc, 0) != crc32c::crc32c(body) {
            return Err("the manifest's checksum does not hold");
        }
        let count = u32_at(body, 12) as usize;
        if &body[..8] != MAGIC || body.len() != HEAD_BYTES + count * SEGMENT_BYTES {
            return Err("the manifest has no valid form");
        }
        let segment = |bytes: &[u8]| Segment {
            number: u64_at(bytes, 0),
            base: u64_at(bytes, 8),
            bytes: u64_at(bytes, 16),
            chain: u32_at(bytes, 24),
        };
        Ok(Self {
            cluster: ClusterId(u64_at(body, 16)),
            node: NodeId(u64_at(body, 24)),
            incarnation: u64_at(body, 32),
            opening: u64_at(body, 40),
            next_number: u64_at(body, 48),
            segments: body[HEAD_BYTES..].chunks_exact(SEGMENT_BYTES).map(segment).collect(),
        })
    }

    /// Reads the manifest; `None` if there is none.
    pub(super) fn load(directory: &dyn Directory) -> Result<Option<Self>, WalError> {
        let file_path = directory.path().join(MANIFEST);
        let io = |source| WalError::Io { operation: "reading", file: file_path.clone(), source };
        let file = match directory.open(MANIFEST) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
        };
        let mut bytes = vec![0; file.size().map_err(io)?.min(SIZE_MAX) as usize];
        let filled = read_full(&*file, 0, &mut bytes).map_err(io)?;
        match Self::decode(&bytes[..filled]) {
            // The format stands at a fixed place in every version, under the same checksum.
            Ok(_) if u32_at(&bytes, 8) != FORMAT => {
                Err(WalError::Unsupported { file: file_path, offset: 8, what: "the manifest's format" })
            }
            Ok(manifest) => Ok(Some(manifest)),
            Err(reason) => Err(WalError::Corrupt { file: file_path, offset: 0, first: Index(1), last: None, reason }),
        }
    }

    /// Takes the segments that lie wholly before `floor` off the list; never the last.
    pub(super) fn remove_before(&mut self, floor: u64) -> Vec<Segment> {
        let dead = self.segments.windows(2).take_while(|pair| pair[1].base <= floor).count();
        self.segments.drain(..dead).collect()
    }

    /// Removes a manifest that is not in force yet, for good.
    pub(super) fn discard_new(directory: &dyn Directory) -> std::io::Result<()> {
        match directory.remove(MANIFEST_NEW) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            removed => removed?,
        }
        directory.sync()
    }

    /// Makes this the manifest, durably.
    pub(super) fn store(&self, directory: &dyn Directory) -> Result<(), NotStored> {
        let prepare = || {
            let file = directory.create(MANIFEST_NEW)?;
            file.write_at(0, &self.encode())?;
            file.sync()
        };
        let failed = |renamed, operation, name, source| {
            let error = WalError::Io { operation, file: directory.path().join(name), source };
            NotStored { renamed, error }
        };
        prepare().map_err(|source| {
            // It would hold the space that is missing. It is gone for good before another has its name, or none ever has.
            let gone = Self::discard_new(directory);
            failed(gone.is_err(), "writing", MANIFEST_NEW, source)
        })?;
        let renamed = directory.rename(MANIFEST_NEW, MANIFEST);
        renamed.map_err(|source| failed(true, "replacing", MANIFEST, source))?;
        directory.sync().map_err(|source| failed(true, "syncing the directory of", MANIFEST, source))
    }
}
