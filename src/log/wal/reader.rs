//! Reading a log on a disk beside its writer: from memory under a short lock that is never held
//! during I/O, and cold entries with positioned reads on files of their own.

use super::error::WalError;
use super::manifest::Segment;
use super::record::{FRAME_BYTES, Frame, Op, payload_len};
use super::store::SegmentStore;
use super::view::{Location, View};
use crate::directory::read_full;
use crate::log::{LogView, Memberships, Read};
use crate::types::{DiskId, Entries, Entry, EntryId, HardState, Index, Term};
use bytes::Bytes;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::vec;
use std::vec::Vec;

/// What the writer and all readers of one log share.
pub(super) struct Shared {
    view: RwLock<View>,
    pub(super) store: Arc<SegmentStore>,
    pub(super) incarnation: u64,
    /// The block that was read last: a reader that lags asks for neighbours.
    cold: Mutex<Option<(Location, Entries)>>,
}

impl Shared {
    /// The high half was drawn when the directory was created.
    pub(super) fn disk(&self) -> DiskId {
        DiskId((self.incarnation >> 32) as u32)
    }

    pub(super) fn new(view: View, store: Arc<SegmentStore>, incarnation: u64) -> Self {
        Self { view: RwLock::new(view), store, incarnation, cold: Mutex::new(None) }
    }

    /// A panic under the lock leaves the view as the last completed write left it, or the writer
    /// stopped: reads stay valid.
    pub(super) fn view(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn view_mut(&self) -> RwLockWriteGuard<'_, View> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn read_blocking(&self, first: Index, end: Index, bytes_max: usize) -> Result<Read, WalError> {
        loop {
            let (location, log_end) = {
                let view = self.view();
                match view.read(first, end, bytes_max) {
                    Read::Cold => (view.locate(first), view.last.index.next()),
                    answered => return Ok(answered),
                }
            };
            match self.read_block(location) {
                Ok(block) => {
                    let entries = block.range_within(first, end.min(location.end).min(log_end), bytes_max);
                    if entries.first().is_none_or(|entry| entry.id.index != first) {
                        let segment = self.store.segment_of(location.block.lsn);
                        return Err(self.corrupt(segment, location, location.block.lsn, "a block lacks its entries"));
                    }
                    return Ok(Read::Entries(entries));
                }
                Err(error) if self.view().is_at(first, location.block) => return Err(error),
                // A purge between looking and reading took the file away, with entries that the log no longer holds.
                Err(_) => {}
            }
        }
    }

    /// All entries of a block, from memory if it was the last one read.
    pub(super) fn read_block(&self, location: Location) -> Result<Entries, WalError> {
        let mut cold = self.cold.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, entries)) = cold.as_ref().filter(|(known, _)| known.block == location.block) {
            return Ok(entries.clone());
        }
        // Positions are never used twice, so a block with the same bounds has the same bytes.
        let entries = self.fetch(location)?;
        *cold = Some((location, entries.clone()));
        Ok(entries)
    }

    fn fetch(&self, location: Location) -> Result<Entries, WalError> {
        let block = location.block;
        let segment = self.store.segment_of(block.lsn);
        let Some(found) = segment else {
            return Err(self.corrupt(segment, location, block.lsn, "the segment is missing"));
        };
        let mut bytes = vec![0; (block.end - block.lsn) as usize];
        let reading = self.store.open_segment(&found);
        let reading = reading.and_then(|file| read_full(&*file, block.lsn - found.base, &mut bytes));
        let filled = match reading {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(self.corrupt(segment, location, block.lsn, "the segment is missing"));
            }
            Err(source) => {
                return Err(WalError::Io { operation: WalError::READING, file: self.store.path_of(&found), source });
            }
            Ok(filled) => filled,
        };
        bytes.truncate(filled);
        self.decode(segment, location, &Bytes::from(bytes))
    }

    /// Replays the records of a block.
    fn decode(&self, segment: Option<Segment>, location: Location, bytes: &Bytes) -> Result<Entries, WalError> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut lsn = location.block.lsn;
        while lsn < location.block.end {
            let rest = &bytes[((lsn - location.block.lsn) as usize).min(bytes.len())..];
            let frame = rest.get(..FRAME_BYTES).and_then(payload_len);
            let frame = frame.and_then(|len| rest.get(..FRAME_BYTES + len)).and_then(Frame::verify);
            let known = frame.filter(|frame| frame.header.lsn == lsn && frame.header.incarnation == self.incarnation);
            let Some(frame) = known else {
                return Err(self.corrupt(segment, location, lsn, "a record does not verify"));
            };
            for op in frame.ops() {
                let applied = match op {
                    Ok((_, Op::TruncateFrom(first))) => {
                        entries.truncate(entries.partition_point(|entry| entry.id.index < first));
                        Ok(())
                    }
                    Ok((_, Op::Entries(run))) => run.decode_into(bytes, &mut entries),
                    Ok(_) => Ok(()),
                    Err(what) => Err(what),
                };
                let file = || segment.map(|segment| self.store.path_of(&segment)).unwrap_or_default();
                let offset = lsn - segment.map_or(0, |segment| segment.base);
                applied.map_err(|what| WalError::Unsupported { file: file(), offset, what })?;
            }
            lsn += (FRAME_BYTES + frame.payload.len()) as u64;
        }
        Ok(entries.into())
    }

    fn corrupt(&self, segment: Option<Segment>, location: Location, lsn: u64, reason: &'static str) -> WalError {
        WalError::Corrupt {
            file: segment.map(|segment| self.store.path_of(&segment)).unwrap_or_default(),
            offset: lsn - segment.map_or(0, |segment| segment.base),
            first: location.block.first,
            last: Some(location.end.previous()),
            reason,
        }
    }
}

/// A reader of a [`WalLog`](super::WalLog) for another thread. It sees every write that the log
/// accepted, and never waits for a sync.
#[derive(Clone)]
pub struct WalReader {
    pub(super) shared: Arc<Shared>,
}

impl std::fmt::Debug for WalReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let view = self.shared.view();
        f.debug_struct("WalReader").field("base", &view.base).field("last", &view.last).finish_non_exhaustive()
    }
}

impl LogView for WalReader {
    fn hard_state(&self) -> HardState {
        self.shared.view().hard_state()
    }

    fn base(&self) -> EntryId {
        self.shared.view().base()
    }

    fn snapshot(&self) -> EntryId {
        self.shared.view().snapshot()
    }

    fn memberships(&self) -> Memberships {
        self.shared.view().memberships()
    }

    fn last(&self) -> EntryId {
        self.shared.view().last()
    }

    fn term(&self, index: Index) -> Option<Term> {
        self.shared.view().term(index)
    }

    fn read(&self, first: Index, end: Index, bytes_max: usize) -> Read {
        self.shared.view().read(first, end, bytes_max)
    }

    fn write_bytes_max(&self) -> usize {
        super::WRITE_BYTES_MAX
    }

    fn disk(&self) -> DiskId {
        self.shared.disk()
    }
}
