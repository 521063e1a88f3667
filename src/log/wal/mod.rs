//! [`WalLog`]: the durable log, on wal-db (feature `persistence`).
//!
//! One directory holds one log: `LOCK`, `MANIFEST`, `WATERMARK` and segment files. wal-db frames,
//! checksums and orders the records and coordinates the syncs; the bytes lie in a store of our own
//! (`store.rs`), because its stock stores lose or resurrect records in some crashes. One batch of
//! writes is one record, with a header that ties it to its log, its place and the record before
//! it (`record.rs`). Conflicting entries are removed logically, in the same record that replaces
//! them; positions are never used twice. A compaction is recorded with its write, as a checkpoint:
//! it says what the log holds from there on, so that the sync that makes it durable may purge the
//! segments before. `docs/FORMAT.md` has the bytes and what is assumed of the media.
//!
//! What a failed write or sync means is the contract of [`crate::log`]: the log stops for good.

mod error;
mod inspect;
mod manifest;
mod options;
mod peers;
mod reader;
mod record;
mod recovery;
mod room;
mod shadow;
mod store;
mod view;
mod watermark;

pub use crate::directory::{Directory, LockGuard, OsDirectory, RawFile};
pub use error::WalError;
pub use inspect::{WalContent, WalIdentity, WalInspection, WalSegment, inspect};
pub(crate) use manifest::{MANIFEST, RESTORING};
pub use options::WalOptions;
pub use reader::WalReader;
pub use shadow::ShadowDirectory;

use crate::directory::media;
pub(crate) use crate::directory::read_full;

use super::{LogView, Memberships, RaftLog, Read, SharedLog};
use crate::action::{Compaction, Write};
use crate::life::Lives;
use crate::peers::PeerMemory;
use crate::types::{DiskId, EntryId, GroupId, HardState, Identity, Index, Payload, Term};
use reader::Shared;
use record::{Encoder, FRAME_BYTES, Header};
use recovery::Recovered;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::vec::Vec;
use store::{Purpose, SegmentStore, StoreHandle};
use view::{Place, View};
use wal_db::{OpenPolicy, Wal, WalConfig};
use watermark::{Mark, Watermark};

/// Held while the log is open.
const LOCK: &str = "LOCK";
/// A record is closed when it has this many bytes and another write waits.
const RECORD_BYTES: usize = 1 << 20;
/// No record, and so no single write, is larger than this many bytes.
const RECORD_BYTES_MAX: usize = 256 << 20;
/// What the entries of one write may have, as [`Entry::size_bytes`](crate::Entry::size_bytes) counts them, which is more
/// than an entry takes here. The rest is for writes that came before in the same record, and for what is no entry.
const WRITE_BYTES_MAX: usize = RECORD_BYTES_MAX - 2 * RECORD_BYTES;

/// A durable log in a directory of its own.
///
/// Appending encodes a batch once and hands it to the operating system; [`RaftLog::sync`] makes it
/// durable. Memory is bounded: the newest entries within [`WalOptions::cache_bytes`], and a few
/// bytes per term and per 64 KiB of log.
pub struct WalLog {
    shared: Arc<Shared>,
    wal: Wal<StoreHandle>,
    encoder: Encoder,
    watermark: Watermark,
    opening: u64,
    lives: Lives,
    memory: PeerMemory,
    /// Where the last record of this opening stands that says what peers said to be durable, or where the opening began.
    memory_written: u64,
    /// How many records were written since.
    records_since: u64,
    /// Everything before this position is durable. ≤ the end of the last record.
    durable: u64,
    /// The position that records are needed from once the newest checkpoint is durable; the sync that makes it so purges
    /// what is before.
    floor: Option<u64>,
    group: GroupId,
    identity: Identity,
    cache_bytes: usize,
    directory: PathBuf,
    foreign: Vec<PathBuf>,
    media_warning: Option<String>,
    /// Released last, when nothing of this log can write any more.
    _lock: LockGuard,
}

impl WalLog {
    /// Opens the log in `directory`, or makes a new one if the directory is missing or empty.
    ///
    /// Reads the whole log once, and leaves the newest entries in memory. Everything found is
    /// durable when this returns.
    ///
    /// # Errors
    /// [`WalError::Locked`] if it is open already; [`WalError::WrongCluster`],
    /// [`WalError::WrongNode`] or [`WalError::WrongGroup`] if it is someone else's;
    /// [`WalError::Corrupt`] if something that was durable is damaged or missing.
    pub fn open(directory: impl AsRef<Path>, options: WalOptions) -> Result<Self, WalError> {
        let path = directory.as_ref();
        let opened = OsDirectory::new(path);
        let opened =
            opened.map_err(|source| WalError::Io { operation: "creating", file: path.to_path_buf(), source })?;
        Self::open_in(Arc::new(opened), options)
    }

    /// As [`WalLog::open`], on any [`Directory`].
    ///
    /// # Errors
    /// As [`WalLog::open`].
    pub fn open_in(directory: Arc<dyn Directory>, options: WalOptions) -> Result<Self, WalError> {
        let path = directory.path().to_path_buf();
        let locked = directory.try_lock(LOCK);
        let locked = locked.map_err(|source| WalError::Io { operation: "locking", file: path.join(LOCK), source })?;
        let lock = locked.ok_or_else(|| WalError::Locked { directory: path.clone() })?;

        let recovered = recovery::recover(&*directory, &options)?;
        let file_system = directory.file_system();
        let Recovered { manifest, watermark, view, peers, end, chain, reserve, numbers, foreign } = recovered;
        let memory = peers::load(&directory, options.group, &peers)?;
        let (incarnation, opening) = (manifest.incarnation, manifest.opening);
        let lives = Lives::new(identity(incarnation, opening), manifest.lives.iter().copied());
        let end_and_chain = (end, chain);
        let store =
            SegmentStore::open(directory, options.real_segment_bytes(), manifest, numbers, reserve, end_and_chain)?;
        let store = Arc::new(store);
        for file in &foreign {
            name_foreign(file);
        }
        let media_warning = warn_of(file_system.as_deref(), &path);
        let config =
            WalConfig::new().with_open_policy(OpenPolicy::Strict).with_max_record_size(RECORD_BYTES_MAX as u32);
        let wal = Wal::with_store_and_config(StoreHandle(Arc::clone(&store)), config);
        let wal = wal.map_err(|error| WalError::from_wal_db(error, path.clone()))?;
        let log = Self {
            shared: Arc::new(Shared::new(view, store, incarnation)),
            wal,
            encoder: Encoder::default(),
            watermark,
            opening,
            lives,
            memory,
            memory_written: end,
            records_since: 0,
            durable: end,
            floor: None,
            group: options.group,
            identity: Identity { cluster: Some(options.cluster), node: Some(options.node), group: Some(options.group) },
            cache_bytes: options.cache_bytes,
            directory: path,
            foreign,
            media_warning,
            _lock: lock,
        };
        log.warm_cache()?;
        log.tell_held();
        Ok(log)
    }

    /// The identity of this directory: the high 32 bits were drawn at random when it was created, the low 32 count how
    /// often it was opened. A node that comes back with another random number, or with a smaller count, has lost what it
    /// knew, and peers refuse it.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.lives.incarnation()
    }

    /// The newest openings of this directory, this one last, each with what the log held then. Handshakes say them, so that
    /// peers notice an older copy of the directory (`docs/RECOVERY.md`). Durable before the log was opened.
    #[must_use]
    pub fn lives(&self) -> &Lives {
        &self.lives
    }

    /// What this log remembers of the peers, for the transport to ask and tell. What they said to be durable is written with
    /// the next records, seldom enough to cost less than a hundredth, and never synced for itself.
    #[must_use]
    pub fn peer_memory(&self) -> PeerMemory {
        self.memory.clone()
    }

    /// Where the log is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What looked like a segment when the log was opened and is none that it made: other names that end in `.wal`,
    /// numbers that it never gave, directories and links. It leaves them alone; whoever put them there may remove them.
    #[must_use]
    pub fn foreign_files(&self) -> &[PathBuf] {
        &self.foreign
    }

    /// What the file system that the log lies on does not promise, as far as its name tells: one that copies on write, one
    /// over a network, one in memory. `None` where nothing is known against it.
    #[must_use]
    pub fn media_warning(&self) -> Option<&str> {
        self.media_warning.as_deref()
    }

    /// Syncs what was appended and notes where the log ends. Dropping the log notes the end too,
    /// but cannot report a failure, and syncs nothing.
    ///
    /// # Errors
    /// As [`RaftLog::sync`].
    pub fn close(mut self) -> Result<(), WalError> {
        self.sync()?;
        self.note_end()
    }

    /// Removes the files that nothing needs any more, if a checkpoint just became durable. Never before: until then
    /// a crash brings back what it forgets.
    fn purge(&mut self) -> Result<(), WalError> {
        self.floor.take().map_or(Ok(()), |floor| self.shared.store.purge(floor))
    }

    fn note_end(&mut self) -> Result<(), WalError> {
        // What peers said since the last record would be forgotten otherwise. Of no concern to the log itself.
        let _ = self.memory.save_noted();
        let mark = self.mark();
        self.watermark.write_both(&mark).map_err(|error| self.shared.store.stop(error))
    }

    /// The mark for a log whose last record is durable.
    fn mark(&self) -> Mark {
        Mark { durable: self.durable, chain: self.shared.store.chain(), last: self.shared.view().last }
    }

    /// Reads the newest blocks back into the cache.
    fn warm_cache(&self) -> Result<(), WalError> {
        loop {
            let (location, first, end) = {
                let view = self.shared.view();
                let end = view.cached_from();
                if end <= view.base.index.next() {
                    return Ok(());
                }
                let location = view.locate(end.previous());
                (location, location.block.first.max(view.base.index.next()), end)
            };
            let entries = self.shared.read_block(location)?.range(first, end);
            if entries.is_empty() || !self.shared.view_mut().cache_older(entries, self.cache_bytes) {
                return Ok(());
            }
        }
    }

    /// Writes as many records as the writes need: usually one.
    fn append_records(&mut self, writes: &mut Vec<Write>) -> Result<(), WalError> {
        self.shared.store.check()?;
        while !writes.is_empty() {
            self.encoder.begin(self.group);
            let empty = self.encoder.len();
            let count = self.encode_record(writes);
            if self.encoder.len() == empty {
                writes.drain(..count);
                continue;
            }
            self.encode_memory(&writes[..count]);
            if let Some(source) = self.encoder.refused() {
                return Err(self.shared.store.stop(WalError::Membership { source }));
            }
            let commands =
                |write: &Write| write.entries.iter().any(|entry| matches!(entry.payload, Payload::Command(_)));
            let purpose = if writes[..count].iter().any(commands) { Purpose::Commands } else { Purpose::Necessity };
            let compacts = writes[..count].iter().any(|write| write.compaction.is_some());
            let place = self.write_record(purpose, compacts)?;
            let view = &mut self.shared.view_mut();
            let floor = note_writes(view, writes.drain(..count), place, self.cache_bytes);
            self.floor = floor.or(self.floor);
        }
        Ok(())
    }

    /// Encodes as many writes as go into one record; returns how many these are.
    fn encode_record(&mut self, writes: &[Write]) -> usize {
        let view = self.shared.view();
        let mut count = 0;
        let (mut base, mut next) = (view.base.index, view.last.index.next());
        for write in writes {
            // A checkpoint says what the log holds: what stands before it must be in the view by then.
            if count > 0 && (write.compaction.is_some() || self.encoder.len() >= RECORD_BYTES) {
                break;
            }
            let checkpoint = write.compaction.as_ref().map(|compaction| {
                check_grows(compaction, &view);
                view.checkpoint(write.hard_state, compaction)
            });
            if let Some(checkpoint) = &checkpoint {
                (base, next) = (checkpoint.base.index, checkpoint.last.index.next());
            }
            next = check_follows(write, base, next);
            self.encoder.write(write, checkpoint.as_ref());
            count += 1;
        }
        count
    }

    /// Everything in memory is durable: the peers may be told, if it stands for good.
    fn tell_held(&self) {
        let (hard_state, last) = {
            let view = self.shared.view();
            (view.hard_state, view.last)
        };
        if last.term == hard_state.term {
            self.memory.set_held(last);
        }
    }

    /// Adds what peers said to be durable to the record, if it is due. A checkpoint has it always: the records before it may
    /// be purged.
    fn encode_memory(&mut self, writes: &[Write]) {
        let end = self.shared.store.end();
        let due = if writes.iter().any(|write| write.compaction.is_some()) {
            Some(self.memory.take_all()).filter(|peers| !peers.is_empty())
        } else {
            self.memory.take_due(end - self.memory_written, self.records_since)
        };
        self.records_since += 1;
        if let Some(peers) = due {
            (self.memory_written, self.records_since) = (end, 0);
            self.encoder.peers(&peers);
        }
    }

    /// Writes the record in the encoder; starts a new segment first if it needs one.
    fn write_record(&mut self, purpose: Purpose, compacts: bool) -> Result<Place, WalError> {
        let store = Arc::clone(&self.shared.store);
        let payload_bytes = self.encoder.len();
        if payload_bytes > RECORD_BYTES_MAX {
            let (bytes, bytes_max) = (payload_bytes as u64, RECORD_BYTES_MAX as u64);
            return Err(store.stop(WalError::TooLarge { bytes, bytes_max }));
        }
        let frame_bytes = (FRAME_BYTES + payload_bytes) as u64;
        if compacts && store.is_short() {
            self.sync()?;
            if store.roll_to_purge(frame_bytes)? {
                self.shared.view_mut().close_block();
            }
        }
        if !store.has_room(frame_bytes, purpose) {
            self.sync()?;
            store.roll(frame_bytes, purpose)?;
            self.shared.view_mut().close_block();
        }
        let lsn = store.end();
        let header = Header {
            chain: store.chain(),
            incarnation: self.shared.incarnation,
            opening: self.opening,
            lsn,
            durable: self.durable,
        };
        let appended = self.wal.append(self.encoder.finish(&header));
        let appended = appended.map_err(|error| store.stop(WalError::from_wal_db(error, self.directory.clone())))?;
        assert_eq!(appended.get(), lsn, "a record lands where its header says");
        Ok(Place { lsn, end: lsn + frame_bytes })
    }
}

/// Says once what is known against the file system below the log.
fn warn_of(file_system: Option<&str>, directory: &Path) -> Option<String> {
    let name = file_system?;
    let warning = std::format!("{} lies on {name}: {}", directory.display(), media::warning(name)?);
    #[cfg(feature = "tracing")]
    tracing::warn!("{warning}");
    Some(warning)
}

/// Names a file that the log leaves alone, once.
fn name_foreign(file: &Path) {
    #[cfg(feature = "tracing")]
    tracing::warn!(file = %file.display(), "looks like a segment of the log and is none that it made: left alone");
    let _ = file;
}

/// Adds the writes of a record at `place` to the state in memory; returns the floor of its checkpoint, if it has one.
fn note_writes(view: &mut View, writes: impl Iterator<Item = Write>, place: Place, cache_bytes: usize) -> Option<u64> {
    let mut floor = None;
    for write in writes {
        if let Some(hard_state) = write.hard_state {
            view.hard_state = hard_state;
        }
        if let Some(Compaction { snapshot, base, membership }) = write.compaction {
            view.compact(snapshot, base, Some(membership));
            floor = Some(view.floor(place.lsn));
        }
        if let Some(first) = write.truncate_from {
            view.truncate_from(first);
        }
        for run in write.entries.chunk_by(|a, b| a.id.term == b.id.term) {
            view.append(run[0].id, run.len() as u64, place);
        }
        if write.entries.may_hold_memberships() {
            view.memberships.extend(view.snapshot.index, &write.entries);
        }
        view.cache_newest(write.entries, cache_bytes);
    }
    if cfg!(debug_assertions) {
        view.check_cache();
    }
    floor
}

/// A directory of 0.4 said its whole random number. Where the low half of that may pass for a count it goes on from there, so
/// that the count never falls.
fn identity(random: u64, opening: u64) -> u64 {
    const COUNT_MAX: u64 = 1 << 24;
    let low = random & u64::from(u32::MAX);
    let before = if low <= COUNT_MAX { low } else { 0 };
    random >> 32 << 32 | (before + opening.min(COUNT_MAX))
}

/// Checks that a compaction takes nothing back. Only a broken caller fails.
fn check_grows(&Compaction { snapshot, base, .. }: &Compaction, view: &View) {
    assert!(base.index <= snapshot.index, "no snapshot covers the entries up to {base}: the newest covers {snapshot}");
    assert!(snapshot >= view.snapshot && base.index >= view.base.index, "snapshots and bases only grow");
}

/// Checks that a write fits the log and returns the index after it. Only a broken caller fails.
fn check_follows(write: &Write, base: Index, mut next: Index) -> Index {
    if let Some(first) = write.truncate_from {
        assert!(first > base, "truncation from {first} reaches behind the base {base}");
        next = next.min(first);
    }
    if let Some(first) = write.entries.first() {
        assert_eq!(first.id.index, next, "entries must follow the last one");
    }
    next.plus(write.entries.len())
}

impl RaftLog for WalLog {
    type Error = WalError;

    fn append(&mut self, writes: &mut Vec<Write>) -> Result<(), WalError> {
        let appended = self.append_records(writes);
        writes.clear();
        appended
    }

    fn sync(&mut self) -> Result<(), WalError> {
        let store = Arc::clone(&self.shared.store);
        store.check()?;
        if self.durable == store.end() {
            return Ok(());
        }
        self.wal.sync().map_err(|error| store.stop(WalError::from_wal_db(error, self.directory.clone())))?;
        store.check_in_place().map_err(|error| store.stop(error))?;
        self.durable = store.end();
        self.tell_held();
        let mark = self.mark();
        self.watermark.write(&mark).map_err(|error| store.stop(error))?;
        self.purge()?;
        store.prepare_ahead();
        Ok(())
    }

    /// That of its directory, which was compared with the options when it was opened.
    fn identity(&self) -> Identity {
        self.identity
    }

    fn read_blocking(&self, first: Index, end: Index, bytes_max: usize) -> Result<Read, WalError> {
        self.shared.read_blocking(first, end, bytes_max)
    }

    fn is_transient(error: &WalError) -> bool {
        error.is_transient()
    }

    fn is_short_of_space(&self) -> bool {
        self.shared.store.is_short()
    }

    fn lives(&self) -> Option<Lives> {
        Some(self.lives.clone())
    }

    fn peer_memory(&self) -> Option<PeerMemory> {
        Some(self.memory.clone())
    }
}

impl SharedLog for WalLog {
    type Reader = WalReader;

    fn reader(&self) -> WalReader {
        WalReader { shared: Arc::clone(&self.shared) }
    }

    fn read_cold(reader: &WalReader, first: Index, end: Index, bytes_max: usize) -> Result<Read, WalError> {
        reader.shared.read_blocking(first, end, bytes_max)
    }
}

impl LogView for WalLog {
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
        WRITE_BYTES_MAX
    }

    fn disk(&self) -> DiskId {
        self.shared.disk()
    }
}

impl Drop for WalLog {
    fn drop(&mut self) {
        // Only a mark that is true: what was appended but not synced may be lost.
        if self.shared.store.check().is_ok() && self.durable == self.shared.store.end() {
            let _ = self.note_end();
        }
    }
}

impl std::fmt::Debug for WalLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let view = self.shared.view();
        f.debug_struct("WalLog")
            .field("directory", &self.directory)
            .field("base", &view.base)
            .field("last", &view.last)
            .field("durable", &self.durable)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::identity;

    /// One server in 256 said less after its upgrade than before, and was taken for an older copy of itself.
    #[test]
    fn the_count_of_openings_never_falls_at_an_upgrade() {
        let directory = 7 << 32;
        for low in [0, 1, 3, (1 << 24) - 1, 1 << 24] {
            let before = directory | low;
            assert!(identity(before, 1) > before, "{low:#x}");
            assert_eq!(identity(before, 2), identity(before, 1) + 1, "{low:#x}");
        }
        // What is higher passes for no count: it is told apart by that, and counting begins.
        for low in [(1 << 24) + 1, 0xfeed_beef, u64::from(u32::MAX)] {
            assert_eq!(identity(directory | low, 5), directory | 5);
        }
        assert_eq!(identity(u64::MAX, u64::MAX), u64::from(u32::MAX) << 32 | 1 << 24);
    }
}
