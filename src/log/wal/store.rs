//! The store beneath wal-db: one space of positions laid over segment files that are written full
//! of zeros before use, so that a sync changes data only.
//!
//! A record never straddles two segments: the writer calls [`SegmentStore::roll`] first when it
//! would. What was before a segment's first position is durable before the manifest lists it.
//!
//! Any failed write or sync stops the store for good: the kernel may have dropped the dirty pages,
//! so that a later sync would answer Ok for bytes that are lost.

use super::error::WalError;
use super::manifest::{Manifest, NotStored, Segment};
use super::record::u32_at;
use super::room::{Numbers, Reserve, Sizes, lacks_space};
use crate::directory::{Directory, RawFile};
use std::path::PathBuf;
use std::string::ToString;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::vec;
use std::vec::Vec;

/// The segment that records go into.
#[derive(Clone)]
struct Active {
    segment: Segment,
    file: Arc<dyn RawFile>,
}

/// What a record is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It brings commands.
    Commands,
    /// It brings none: a hard state, a no-op, a configuration, a checkpoint. A server that cannot write those cannot take
    /// part in an election, nor make room.
    Necessity,
}

/// What only the writer touches.
struct Writing {
    manifest: Manifest,
    /// Segments that are not listed: purged ones, to be used again instead of writing zeros. What they hold is of other
    /// positions and never verifies.
    spares: Vec<Segment>,
    numbers: Numbers,
    reserve: Reserve,
}

impl Writing {
    /// Takes a spare segment with room for this many bytes.
    fn take_spare(&mut self, bytes: u64) -> Option<Segment> {
        let position = self.spares.iter().rposition(|spare| spare.bytes >= bytes)?;
        Some(self.spares.remove(position))
    }

    /// Makes a segment full of zeros, durable with its name, and not listed. Fails alone: nothing is left of it.
    fn prepare(&mut self, directory: &dyn Directory, bytes: u64) -> Result<Active, WalError> {
        let segment = Segment { number: self.numbers.next(), base: 0, bytes, chain: 0 };
        let name = segment.name();
        if segment.number >= self.manifest.next_number {
            let source = std::io::Error::other("no number was set aside for it");
            return Err(WalError::Io { operation: "preparing", file: directory.path().join(name), source });
        }
        let fill = || {
            let file = directory.create(&name)?;
            zero(&*file, 0, bytes)?;
            file.sync()?;
            directory.sync()?;
            Ok(file)
        };
        let file = || directory.path().join(&name);
        let filled = fill().map_err(|source| {
            // It would hold the space that is missing.
            let _ = directory.remove(&name);
            WalError::Io { operation: "preparing", file: file(), source }
        })?;
        self.numbers.use_up();
        Ok(Active { segment, file: filled })
    }

    /// Frees what is held for times like this; false if there was nothing.
    fn give_way(&mut self, directory: &dyn Directory) -> bool {
        let spares = std::mem::take(&mut self.spares);
        let removed = spares.iter().filter(|spare| directory.remove(&spare.name()).is_ok()).count();
        self.reserve.give_up(directory) || removed > 0
    }

    fn store(&mut self, directory: &dyn Directory) -> Result<(), NotStored> {
        self.numbers.set_aside(&mut self.manifest);
        self.reserve.store(directory, &self.manifest)
    }
}

pub(super) struct SegmentStore {
    directory: Arc<dyn Directory>,
    segment_bytes: u64,
    sizes: Sizes,
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
    /// The position before which no next segment is prepared: an attempt failed not long ago.
    prepare_at: AtomicU64,
    /// Whether the last attempt found no space.
    is_short: AtomicBool,
    /// Why the store stopped.
    poison: OnceLock<std::string::String>,
}

impl SegmentStore {
    /// How many purged segments are kept, if the volume has room for many times that.
    const SPARES_MAX: usize = 4;
    const SPARES_ROOM: u64 = 32;

    /// A store that goes on behind what was recovered, in the manifest's last segment. Creates the first segment if
    /// there is none, and the reserve if there is room for it.
    pub(super) fn open(
        directory: Arc<dyn Directory>,
        segment_bytes: u64,
        manifest: Manifest,
        numbers: Numbers,
        reserve: Reserve,
        (end, chain): (u64, u32),
    ) -> Result<Self, WalError> {
        let mut writing = Writing { manifest, spares: Vec::new(), numbers, reserve };
        if writing.manifest.segments.is_empty() {
            // A new log is not begun without it.
            writing.reserve.restore(&*directory)?;
            let Active { segment, .. } = writing.prepare(&*directory, segment_bytes)?;
            let segment = Segment { base: end, chain, ..segment };
            writing.manifest.segments.push(segment);
            writing.store(&*directory).map_err(|failed| failed.error)?;
        }
        let active = open_active(&*directory, *writing.manifest.segments.last().expect("there is one at least"))?;
        // A full volume is no reason not to open.
        let _ = writing.reserve.restore(&*directory);
        Ok(Self {
            directory,
            segment_bytes,
            sizes: Sizes::of(segment_bytes),
            active: RwLock::new(active),
            segments: RwLock::new(writing.manifest.segments.clone()),
            writing: Mutex::new(writing),
            opened_at: end,
            end: AtomicU64::new(end),
            chain: AtomicU32::new(chain),
            prepare_at: AtomicU64::new(0),
            is_short: AtomicBool::new(false),
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

    /// Whether a record of this size goes into the segment that is being written. Commands leave its last bytes to what
    /// must be written, unless the next segment is there already.
    pub(super) fn has_room(&self, bytes: u64, purpose: Purpose) -> bool {
        let active = self.active().segment;
        let end = active.base + active.bytes;
        if purpose == Purpose::Necessity || self.end() + bytes + self.sizes.tail <= end {
            return self.end() + bytes <= end;
        }
        self.end() + bytes <= end && self.writing().spares.iter().any(|spare| spare.bytes >= self.segment_bytes)
    }

    /// Starts a new segment at the end of the log, with room for at least `bytes_min` bytes. The
    /// caller has synced everything before.
    pub(super) fn roll(&self, bytes_min: u64, purpose: Purpose) -> Result<(), WalError> {
        self.check()?;
        self.try_roll(bytes_min, purpose).map_err(|error| self.stop(error))
    }

    fn try_roll(&self, bytes_min: u64, purpose: Purpose) -> Result<(), WalError> {
        let writing = &mut *self.writing();
        let next = match writing.take_spare(self.segment_bytes.max(bytes_min)) {
            Some(spare) => open_active(&*self.directory, spare)?,
            None => self.prepare_next(writing, bytes_min, purpose)?,
        };
        self.go_on_in(writing, next).map_err(|failed| failed.error)
    }

    /// Lists a segment, in which the log goes on.
    fn go_on_in(&self, writing: &mut Writing, next: Active) -> Result<(), NotStored> {
        let segment = Segment { base: self.end(), chain: self.chain(), ..next.segment };
        writing.manifest.segments.push(segment);
        if let Err(failed) = writing.store(&*self.directory) {
            writing.manifest.segments.pop();
            writing.spares.push(next.segment);
            return Err(failed);
        }
        *self.segments.write().unwrap_or_else(PoisonError::into_inner) = writing.manifest.segments.clone();
        *self.active.write().unwrap_or_else(PoisonError::into_inner) = Active { segment, file: next.file };
        Ok(())
    }

    /// On a volume without room, before a checkpoint of so many bytes: starts a small segment for it, in the room of the
    /// reserve if need be, so that the segment before it can be purged at once. False if that cannot be; the checkpoint
    /// then goes where there is room. The caller has synced everything before.
    pub(super) fn roll_to_purge(&self, bytes: u64) -> Result<bool, WalError> {
        self.check()?;
        let writing = &mut *self.writing();
        let size = self.sizes.small_segment.max(bytes + self.sizes.tail);
        let mut prepared = writing.prepare(&*self.directory, size);
        if prepared.is_err() && writing.give_way(&*self.directory) {
            prepared = writing.prepare(&*self.directory, size);
        }
        let Ok(next) = prepared else { return Ok(false) };
        match self.go_on_in(writing, next) {
            Ok(()) => Ok(true),
            Err(NotStored { renamed: false, .. }) => Ok(false),
            Err(NotStored { error, .. }) => Err(self.stop(error)),
        }
    }

    /// Prepares a segment for a record of `bytes_min` bytes. On a full volume what must be written gets a small one, in the
    /// room of the reserve; a command gets none.
    fn prepare_next(&self, writing: &mut Writing, bytes_min: u64, purpose: Purpose) -> Result<Active, WalError> {
        let directory = &*self.directory;
        // Commands get no room as long as there is too little set aside for what must be written.
        let reserved = if purpose == Purpose::Commands { writing.reserve.restore(directory) } else { Ok(()) };
        let usual = reserved.and_then(|()| writing.prepare(directory, self.segment_bytes.max(bytes_min)));
        let lacking = |error: &WalError| matches!(error, WalError::Io { source, .. } if lacks_space(source));
        let Err(error) = usual else { return usual };
        let prepared = if purpose == Purpose::Necessity && lacking(&error) && writing.give_way(directory) {
            writing.prepare(directory, self.sizes.small_segment.max(bytes_min + self.sizes.tail))
        } else {
            Err(error)
        };
        prepared.map_err(|error| match error {
            WalError::Io { source, .. } if lacks_space(&source) => {
                WalError::NoRoom { directory: directory.path().to_path_buf(), bytes: bytes_min, source }
            }
            error => error,
        })
    }

    /// Prepares the next segment once a quarter of this one is used. If that fails, nothing is lost but time: it is tried
    /// again after a while, and once more when the next segment is needed.
    pub(super) fn prepare_ahead(&self) {
        let active = self.active().segment;
        let end = self.end();
        // A log that is short of space looks at once whether a purge has made room.
        let early = end < active.base + active.bytes / 4 && !self.is_short();
        if early || end < self.prepare_at.load(Ordering::Relaxed) {
            return;
        }
        let writing = &mut *self.writing();
        let mut prepared = Ok(());
        if !writing.spares.iter().any(|spare| spare.bytes >= self.segment_bytes) {
            prepared = writing.reserve.restore(&*self.directory);
            prepared = prepared.and_then(|()| {
                writing.prepare(&*self.directory, self.segment_bytes).map(|next| writing.spares.push(next.segment))
            });
        }
        let lacking = matches!(&prepared, Err(WalError::Io { source, .. }) if lacks_space(source));
        self.is_short.store(lacking, Ordering::Relaxed);
        let again = if prepared.is_ok() { active.base + active.bytes } else { end + self.segment_bytes / 16 };
        self.prepare_at.store(again, Ordering::Relaxed);
    }

    /// Whether there was no space for the next segment.
    pub(super) fn is_short(&self) -> bool {
        self.is_short.load(Ordering::Relaxed)
    }

    /// Checks that what was just written is where somebody else would look for it.
    pub(super) fn check_in_place(&self) -> Result<(), WalError> {
        let displaced = |file, error: std::io::Error| WalError::Displaced { file, reason: error.to_string() };
        let directory = &self.directory;
        directory.check_in_place().map_err(|error| displaced(directory.path().to_path_buf(), error))?;
        let active = self.active();
        if active.file.has_name().unwrap_or(true) {
            return Ok(());
        }
        // Some file systems count no names. Only one that cannot be opened either has gone.
        let opened = directory.open(&active.segment.name()).map(|_| ());
        opened.map_err(|error| displaced(self.path_of(&active.segment), error))
    }

    /// Removes the segments that lie wholly before `floor`: from the manifest first. A few stay to be
    /// used again.
    pub(super) fn purge(&self, floor: u64) -> Result<(), WalError> {
        self.check()?;
        self.try_purge(floor).map_err(|error| self.stop(error))
    }

    fn try_purge(&self, floor: u64) -> Result<(), WalError> {
        let writing = &mut *self.writing();
        let before = writing.manifest.segments.clone();
        let removed = writing.manifest.remove_before(floor);
        if removed.is_empty() {
            return Ok(());
        }
        if let Err(NotStored { renamed, error }) = writing.store(&*self.directory) {
            if renamed {
                return Err(error);
            }
            // The one before is in force. The next purge takes these along.
            writing.manifest.segments = before;
            return Ok(());
        }
        *self.segments.write().unwrap_or_else(PoisonError::into_inner) = writing.manifest.segments.clone();
        let roomy = self.directory.free_bytes().is_none_or(|free| free / Self::SPARES_ROOM >= self.segment_bytes);
        let spares_max = if roomy { Self::SPARES_MAX } else { 1 };
        for segment in removed {
            if writing.spares.len() < spares_max && segment.bytes == self.segment_bytes {
                writing.spares.push(segment);
                continue;
            }
            // One that cannot be removed goes at the next opening. Nor does it matter when one comes back with the power.
            let _ = self.directory.remove(&segment.name());
        }
        // Without it the log goes on; the next purge tries again.
        let _ = writing.reserve.replenish(&*self.directory);
        self.prepare_at.store(0, Ordering::Relaxed);
        Ok(())
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

/// Opens a segment that is there already.
fn open_active(directory: &dyn Directory, segment: Segment) -> Result<Active, WalError> {
    let file = || directory.path().join(segment.name());
    let opened = directory.open(&segment.name());
    let opened = opened.map_err(|source| WalError::Io { operation: "opening", file: file(), source })?;
    Ok(Active { segment, file: opened })
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
