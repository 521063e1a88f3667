//! MANIFEST: whose log this is, its lives, and which segments it consists of. Replaced as a whole: written
//! beside, synced, renamed, and the directory synced.

use super::error::WalError;
use super::record::{u32_at, u64_at};
use crate::directory::{Directory, read_full};
use crate::life::{Life, Lives};
use crate::types::{ClusterId, EntryId, HardState, Index, NodeId, Term};
use std::format;
use std::string::String;
use std::vec;
use std::vec::Vec;

pub(crate) const MANIFEST: &str = "MANIFEST";
/// In the place of the manifest of a log that a restore has begun to make. No log opens beside it.
pub(crate) const RESTORING: &str = "RESTORING";
pub(super) const MANIFEST_NEW: &str = "MANIFEST.tmp";
const MAGIC: &[u8; 8] = b"RAFTWAL\0";
const FORMAT: u32 = 2;
/// As 0.6.0 and before wrote it: without lives. Only read.
const FORMAT_WITHOUT_LIVES: u32 = 1;
const HEAD_BYTES: usize = 56;
const SEGMENT_BYTES: usize = 32;
const LIFE_BYTES: usize = 56;
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
    /// The newest openings, ascending by count; at most [`Lives::KEPT_MAX`].
    pub(super) lives: Vec<Life>,
}

impl Manifest {
    fn encode(&self) -> Vec<u8> {
        let size = HEAD_BYTES + self.segments.len() * SEGMENT_BYTES + 8 + self.lives.len() * LIFE_BYTES + 4;
        let mut out = Vec::with_capacity(size);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&(self.segments.len() as u32).to_le_bytes());
        let mut put = |fields: &[u64]| fields.iter().for_each(|field| out.extend_from_slice(&field.to_le_bytes()));
        put(&[self.cluster.0, self.node.0, self.incarnation, self.opening, self.next_number]);
        for segment in &self.segments {
            put(&[segment.number, segment.base, segment.bytes, u64::from(segment.chain)]);
        }
        put(&[self.lives.len() as u64]);
        for Life { count, id, hard_state, last } in &self.lives {
            let vote = hard_state.vote;
            put(&[*count, *id, hard_state.term.0, u64::from(vote.is_some()), vote.unwrap_or_default().0]);
            put(&[last.index.0, last.term.0]);
        }
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a manifest whose checksum and magic hold.
    fn decode(body: &[u8]) -> Result<Self, &'static str> {
        const NO_FORM: &str = "the manifest has no valid form";
        let segments_end = HEAD_BYTES + u32_at(body, 12) as usize * SEGMENT_BYTES;
        let (fixed, rest) = body.split_at_checked(segments_end).ok_or(NO_FORM)?;
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
            segments: fixed[HEAD_BYTES..].chunks_exact(SEGMENT_BYTES).map(segment).collect(),
            lives: if u32_at(body, 8) == FORMAT { decode_lives(rest).ok_or(NO_FORM)? } else { no_lives(rest)? },
        })
    }

    /// Notes that the log is opened once more, and what it holds; durable with the next [`Manifest::store`].
    pub(super) fn begin_life(&mut self, id: u64, hard_state: HardState, last: EntryId) {
        self.opening += 1;
        let surplus = (self.lives.len() + 1).saturating_sub(Lives::KEPT_MAX);
        self.lives.drain(..surplus);
        self.lives.push(Life { count: self.opening, id, hard_state, last });
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
        let corrupt =
            |reason| WalError::Corrupt { file: file_path.clone(), offset: 0, first: Index(1), last: None, reason };
        let body = verify(&bytes[..filled]).map_err(corrupt)?;
        // The format stands at a fixed place in every version, under the same checksum.
        if ![FORMAT, FORMAT_WITHOUT_LIVES].contains(&u32_at(body, 8)) {
            return Err(WalError::Unsupported { file: file_path, offset: 8, what: "the manifest's format" });
        }
        Self::decode(body).map(Some).map_err(corrupt)
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

/// What the checksum at the end covers.
fn verify(bytes: &[u8]) -> Result<&[u8], &'static str> {
    if bytes.len() < HEAD_BYTES + 4 {
        return Err("the manifest is too short");
    }
    let (body, crc) = bytes.split_at(bytes.len() - 4);
    if u32_at(crc, 0) != crc32c::crc32c(body) {
        return Err("the manifest's checksum does not hold");
    }
    if body.starts_with(MAGIC) { Ok(body) } else { Err("the manifest has no valid form") }
}

/// The lives behind the segments; `None` if they are not where they should end.
fn decode_lives(bytes: &[u8]) -> Option<Vec<Life>> {
    let (count, lives) = bytes.split_first_chunk().map(|(count, lives)| (u64::from_le_bytes(*count), lives))?;
    if count > Lives::KEPT_MAX as u64 || lives.len() != count as usize * LIFE_BYTES {
        return None;
    }
    let life = |bytes: &[u8]| Life {
        count: u64_at(bytes, 0),
        id: u64_at(bytes, 8),
        hard_state: HardState {
            term: Term(u64_at(bytes, 16)),
            vote: (u64_at(bytes, 24) != 0).then(|| NodeId(u64_at(bytes, 32))),
        },
        last: EntryId::new(u64_at(bytes, 40), u64_at(bytes, 48)),
    };
    Some(lives.chunks_exact(LIFE_BYTES).map(life).collect())
}

/// A manifest of 0.6.0 ends with its segments: its list of lives begins with the next opening.
fn no_lives(rest: &[u8]) -> Result<Vec<Life>, &'static str> {
    if rest.is_empty() { Ok(Vec::new()) } else { Err("the manifest has no valid form") }
}
