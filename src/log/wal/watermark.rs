//! WATERMARK: how far the log was durable, kept outside the log. It narrows the one ambiguity that
//! a log cannot resolve from its own bytes: whether a damaged last record is a torn write that
//! nobody waited for, or an acknowledged one.
//!
//! Two slots are written in turn after each sync, without a sync of their own: the mark may lag
//! after a loss of power, but what it says is always true. A clean close writes and syncs both.

use super::error::WalError;
use super::record::{u32_at, u64_at};
use crate::directory::{Directory, RawFile, read_full};
use crate::types::{EntryId, Index, Term};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

pub(super) const WATERMARK: &str = "WATERMARK";
const MAGIC: &[u8; 8] = b"RAFTMARK";
/// In different physical sectors, so that a torn write of one leaves the other.
const SLOT_OFFSETS: [u64; 2] = [0, 4096];
const SLOT_BYTES: usize = 56;

/// What was durable at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// Everything before this position was durable; the end of a record.
    pub(super) durable: u64,
    /// The checksum of that record.
    pub(super) chain: u32,
    /// The last entry then.
    pub(super) last: EntryId,
}

pub(super) struct Watermark {
    file: Arc<dyn RawFile>,
    path: PathBuf,
    incarnation: u64,
    sequence: u64,
}

impl Watermark {
    /// Creates the file, empty; `write_both` makes it valid.
    pub(super) fn create(directory: &dyn Directory, incarnation: u64) -> Result<Self, WalError> {
        let path = directory.path().join(WATERMARK);
        match directory.create(WATERMARK) {
            Ok(file) => Ok(Self { file, path, incarnation, sequence: 0 }),
            Err(source) => Err(WalError::Io { operation: "creating", file: path, source }),
        }
    }

    /// Opens the file and finds the later of its marks.
    pub(super) fn open(directory: &dyn Directory, incarnation: u64) -> Result<(Self, Mark), WalError> {
        let path = directory.path().join(WATERMARK);
        let corrupt = |reason| WalError::Corrupt { file: path.clone(), offset: 0, first: Index(1), last: None, reason };
        let io = |source| WalError::Io { operation: "reading", file: path.clone(), source };
        let file = match directory.open(WATERMARK) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(corrupt("the file is missing")),
            opened => opened.map_err(io)?,
        };
        let mut newest: Option<(u64, Mark)> = None;
        for offset in SLOT_OFFSETS {
            let mut slot = [0; SLOT_BYTES];
            let filled = read_full(&*file, offset, &mut slot).map_err(io)?;
            let found = decode(&slot[..filled], incarnation);
            newest = newest.into_iter().chain(found).max_by_key(|(sequence, _)| *sequence);
        }
        let (sequence, mark) = newest.ok_or_else(|| corrupt("neither slot is valid"))?;
        Ok((Self { file, path, incarnation, sequence }, mark))
    }

    /// Notes a new mark, in the slot that holds the older one.
    pub(super) fn write(&mut self, mark: &Mark) -> Result<(), WalError> {
        self.sequence += 1;
        let slot = encode(self.incarnation, self.sequence, mark);
        let offset = SLOT_OFFSETS[(self.sequence % 2) as usize];
        self.file.write_at(offset, &slot).map_err(|source| self.io("writing", source))
    }

    /// Notes a mark in both slots and makes it durable.
    pub(super) fn write_both(&mut self, mark: &Mark) -> Result<(), WalError> {
        self.write(mark)?;
        self.write(mark)?;
        self.file.sync().map_err(|source| self.io("syncing", source))
    }

    fn io(&self, operation: &'static str, source: io::Error) -> WalError {
        WalError::Io { operation, file: self.path.clone(), source }
    }
}

fn encode(incarnation: u64, sequence: u64, mark: &Mark) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    slot[..8].copy_from_slice(MAGIC);
    let fields = [incarnation, sequence, mark.durable, mark.last.index.0, mark.last.term.0];
    for (position, field) in fields.into_iter().enumerate() {
        slot[8 + position * 8..16 + position * 8].copy_from_slice(&field.to_le_bytes());
    }
    slot[48..52].copy_from_slice(&mark.chain.to_le_bytes());
    let crc = crc32c::crc32c(&slot[..52]);
    slot[52..].copy_from_slice(&crc.to_le_bytes());
    slot
}

fn decode(slot: &[u8], incarnation: u64) -> Option<(u64, Mark)> {
    let valid = slot.len() == SLOT_BYTES && &slot[..8] == MAGIC && u32_at(slot, 52) == crc32c::crc32c(&slot[..52]);
    if !valid || u64_at(slot, 8) != incarnation {
        return None;
    }
    let last = EntryId { index: Index(u64_at(slot, 32)), term: Term(u64_at(slot, 40)) };
    Some((u64_at(slot, 16), Mark { durable: u64_at(slot, 24), chain: u32_at(slot, 48), last }))
}
