//! The store beneath wal-db: one space of positions laid over segment files that are written full
//! of zeros before use, so that a sync changes data only.
//!
//! A record never straddles two segments: the writer calls [`SegmentStore::roll`] first when it
//! would. What was before a segment's first position is durable before the manifest lists it.
//!
//! Any failed write or sync stops the store for good: the kernel may have dropped the dirty pages,
//! so that a later sync would answer Ok for bytes that are lost.

use super::directory::{Directory, RawFile};
use super::error::WalError;
use super::manifest::{Manifest, Segment};
use super::record::u32_at;
use std::path::PathBuf;
use std::string::ToString;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::vec;
use std::vec::Vec;

/// The segment that records go into.
#[derive(Clone)]
struct Active {
    segment: Segment,
    file: Arc<dyn RawFile>,
}

/// What only the writer touches.
struct Writing {
    manifest: Manifest,
    /// Purged segments, no longer listed, to be used again instead of writing zeros. What they hold
    /// is of other positions and never verifies.
    spares: Vec<Segment>,
}

pub(super) struct SegmentStore {
    directory: Arc<dyn Directory>,
    segment_bytes: u64,
    active: RwLock<Active>,
    /// The manifest's list, for readers.
    segments: RwLock<Vec<Segment>>,
    /// Only the writer locks it.
    writing: Mutex<Writing>,
    /// Where the log ended when it was opened, verified.
    opened_at: u64,
    /// The end of the last record written.
    end: AtomicU64,
    /// The checksum of the last record written.
    chain: AtomicU32,
    /// Why the store stopped.
    poison: OnceLock<std::string::String>,
}

impl SegmentStore {
    /// How many purged segments are kept.
    const SPARES_MAX: usize = 4;

    /// A store that goes on at `end`, in the manifest's last segment. Creates the first segment if
    /// there is none.
    pub(super) fn open(
        directory: Arc<dyn Directory>,
        mut manifest: Manifest,
        segment_bytes: u64,
        end: u64,
        chain: u32,
    ) -> Result<Self, WalError> {
        let active = match manifest.segments.last() {
            Some(segment) => {
                let path = directory.path().join(segment.name());
                let opened = directory.open(&segment.name());
                let file = opened.map_err(|source| WalError::Io { operation: "opening", file: path, source })?;
                Active { segment: *segment, file }
            }
            None => {
                let segment = Segment { number: manifest.next_number, base: end, bytes: segment_bytes, chain };
                add_segment(&*directory, &mut manifest, segment)?
            }
        };
        Ok(Self {
            directory,
            segment_bytes,
            active: RwLock::new(active),
            segments: RwLock::new(manifest.segments.clone()),
            writing: Mutex::new(Writing { manifest, spares: Vec::new() }),
            opened_at: end,
            end: AtomicU64::new(end),
            chain: AtomicU32::new(chain),
            poison: OnceLock::new(),
        })
    }

    /// Refuses if the store has stopped.
    pub(super) fn check(&self) -> Result<(), WalError> {
        match self.poison.get() {
            Some(reason) => Err(WalError::Poisoned { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    /// Stops the store for good; the first reason stays.
    pub(super) fn stop(&self, error: WalError) -> WalError {
        let _ = self.poison.set(error.to_string());
        error
    }

    pub(super) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    pub(super) fn chain(&self) -> u32 {
        self.chain.load(Ordering::Acquire)
    }

    /// The file that holds `lsn`, and the position of its first byte.
    pub(super) fn segment_of(&self, lsn: u64) -> Option<Segment> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let position = segments.partition_point(|segment| segment.base <= lsn);
        position.checked_sub(1).map(|position| segments[position])
    }

    pub(super) fn path_of(&self, segment: &Segment) -> PathBuf {
        self.directory.path().join(segment.name())
    }

    /// A handle for positioned reads beside the writer.
    pub(super) fn open_segment(&self, segment: &Segment) -> std::io::Result<Arc<dyn RawFile>> {
        let active = self.active();
        if active.segment.number == segment.number {
            return Ok(active.file);
        }
        self.directory.open(&segment.name())
    }

    /// Whether a record of this size goes into the segment that is being written.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        let active = self.active().segment;
        self.end() + bytes <= active.base + active.bytes
    }

    /// Starts a new segment at the end of the log, with room for at least `bytes_min` bytes. The
    /// caller has synced everything before.
    pub(super) fn roll(&self, bytes_min: u64) -> Result<(), WalError> {
        self.check()?;
        self.try_roll(bytes_min).map_err(|error| self.stop(error))
    }

    fn try_roll(&self, bytes_min: u64) -> Result<(), WalError> {
        let Writing { manifest, spares } = &mut *self.writing();
        let (base, chain) = (self.end(), self.chain());
        let bytes = self.segment_bytes.max(bytes_min);
        let active = match spares.last().is_some_and(|spare| spare.bytes >= bytes).then(|| spares.pop()).flatten() {
            Some(spare) => {
                let opened = self.directory.open(&spare.name());
                let file = || self.path_of(&spare);
                let opened = opened.map_err(|source| WalError::Io { operation: "opening", file: file(), source })?;
                list_segment(&*self.directory, manifest, Segment { base, chain, ..spare }, opened)?
            }
            None => {
                let segment = Segment { number: manifest.next_number, base, bytes, chain };
                add_segment(&*self.directory, manifest, segment)?
            }
        };
        *self.segments.write().unwrap_or_else(PoisonError::into_inner) = manifest.segments.clone();
        *self.active.write().unwrap_or_else(PoisonError::into_inner) = active;
        Ok(())
    }

    /// Removes the segments that lie wholly before `floor`: from the manifest first. A few stay to be
    /// used again.
    pub(super) fn purge(&self, floor: u64) -> Result<(), WalError> {
        self.check()?;
        self.try_purge(floor).map_err(|error| self.stop(error))
    }

    fn try_purge(&self, floor: u64) -> Result<(), WalError> {
        let Writing { manifest, spares } = &mut *self.writing();
        let removed = manifest.remove_before(floor);
        if removed.is_empty() {
            return Ok(());
        }
        manifest.store(&*self.directory)?;
        *self.segments.write().unwrap_or_else(PoisonError::into_inner) = manifest.segments.clone();
        for segment in removed {
            if spares.len() < Self::SPARES_MAX && segment.bytes == self.segment_bytes {
                spares.push(segment);
                continue;
            }
            let removing = self.directory.remove(&segment.name());
            let file = || self.path_of(&segment);
            removing.map_err(|source| WalError::Io { operation: "removing", file: file(), source })?;
        }
        let file = self.directory.path().to_path_buf();
        self.directory.sync().map_err(|source| WalError::Io { operation: "syncing", file, source })
    }

    fn active(&self) -> Active {
        self.active.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn writing(&self) -> MutexGuard<'_, Writing> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_write(&self, offset: u64, bytes: &[u8]) -> Result<(), WalError> {
        let active = self.active();
        let end = offset + bytes.len() as u64;
        assert_eq!(offset, self.end(), "records follow each other");
        assert!(end <= active.segment.base + active.segment.bytes, "a record fits its segment");
        let written = active.file.write_at(offset - active.segment.base, bytes);
        let file = || self.path_of(&active.segment);
        written.map_err(|source| WalError::Io { operation: "writing", file: file(), source })?;
        // The frame begins with its checksum, which is the next record's link to it.
        self.chain.store(u32_at(bytes, 0), Ordering::Release);
        self.end.store(end, Ordering::Release);
        Ok(())
    }

    fn try_sync(&self) -> Result<(), WalError> {
        let active = self.active();
        let file = || self.path_of(&active.segment);
        active.file.sync().map_err(|source| WalError::Io { operation: "syncing", file: file(), source })
    }
}

/// The store as wal-db sees it.
pub(super) struct StoreHandle(pub(super) Arc<SegmentStore>);

impl wal_db::WalStore for StoreHandle {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> wal_db::Result<()> {
        let store = &self.0;
        let written = store.check().and_then(|()| store.try_write(offset, bytes).map_err(|error| store.stop(error)));
        written.map_err(WalError::into_wal_db)
    }

    /// Our own recovery and cold reads go to the files; wal-db has no record left to look at.
    fn read_at(&self, offset: u64, _buffer: &mut [u8]) -> wal_db::Result<usize> {
        Err(wal_db::WalError::Corruption { offset, reason: "records are not read through wal-db" })
    }

    fn truncate(&self, len: u64) -> wal_db::Result<()> {
        Err(wal_db::WalError::Corruption { offset: len, reason: "the log is never cut through wal-db" })
    }

    fn sync(&self) -> wal_db::Result<()> {
        let store = &self.0;
        let synced = store.check().and_then(|()| store.try_sync().map_err(|error| store.stop(error)));
        synced.map_err(WalError::into_wal_db)
    }

    fn len(&self) -> wal_db::Result<u64> {
        Ok(self.0.end())
    }

    /// wal-db scans from here when it opens. Our recovery has verified every record already, by
    /// more than its checksum, so that nothing is left to scan.
    fn head(&self) -> wal_db::Result<u64> {
        Ok(self.0.opened_at)
    }
}

/// Creates a segment file full of zeros and, when it and its name are durable, lists it.
fn add_segment(directory: &dyn Directory, manifest: &mut Manifest, segment: Segment) -> Result<Active, WalError> {
    let name = segment.name();
    let fill = || {
        let file = directory.create(&name)?;
        zero(&*file, 0, segment.bytes)?;
        file.sync()?;
        directory.sync()?;
        Ok(file)
    };
    let file = || directory.path().join(&name);
    let filled = fill().map_err(|source| WalError::Io { operation: "preparing", file: file(), source })?;
    manifest.next_number = segment.number + 1;
    list_segment(directory, manifest, segment, filled)
}

fn list_segment(
    directory: &dyn Directory,
    manifest: &mut Manifest,
    segment: Segment,
    file: Arc<dyn RawFile>,
) -> Result<Active, WalError> {
    manifest.segments.push(segment);
    manifest.store(directory)?;
    Ok(Active { segment, file })
}

/// Writes zeros over `[start, end)` of a file.
pub(super) fn zero(file: &dyn RawFile, start: u64, end: u64) -> std::io::Result<()> {
    const CHUNK_BYTES: u64 = 1 << 20;
    let zeros = vec![0; (end - start).min(CHUNK_BYTES) as usize];
    let mut offset = start;
    while offset < end {
        let count = (end - offset).min(CHUNK_BYTES);
        file.write_at(offset, &zeros[..count as usize])?;
        offset += count;
    }
    Ok(())
}
