//! [`SnapshotFiles`]: snapshots in a directory, one file each (feature `persistence`).
//!
//! A snapshot is written beside its name, synced, renamed, and the directory synced; what is found
//! under its name after a crash is complete. What is being received has a name of its own, under
//! which it is found again. Both are synced piece by piece. What the page cache shows of a file whose
//! sync failed may not be on the medium: so what is found of a reception is written once more before it
//! is gone on with, and it is renamed before its last sync, after which it would count as whole. Opening syncs the directory before it looks, so that what it lists stays.

mod format;
mod reader;
mod receiver;
mod writer;

use super::catalogue::{Catalogue, Item};
use super::chunk::{Chunk, ChunkRequest};
use super::{
    CHUNK_BYTES, CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, Header, SnapshotError, SnapshotInfo, SnapshotReader,
    SnapshotReceiver, SnapshotStore, SnapshotWriter, passes,
};
use crate::log::wal::{Directory, LockGuard, OsDirectory, RawFile};
use crate::types::{EntryId, GroupId};
use bytes::Bytes;
use format::{Place, Role, Source, file_name, foreign_name, parse_name};
use reader::FileReader;
use receiver::FileReceiver;
use std::boxed::Box;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::vec::Vec;
use writer::FileWriter;

/// What waits for the disk of one snapshot at most, in bytes, unless an option says otherwise.
const SYNC_BYTES: u64 = 2 << 20;
/// What snapshots leave free on their volume, in bytes, unless an option says otherwise: twice what the log sets aside for a
/// full volume.
const LEAVE_FREE_BYTES: u64 = 512 << 10;
/// Held while the store is open.
const LOCK: &str = "LOCK";

/// How to open a directory of snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct SnapshotOptions {
    /// The group whose snapshots they are. 0 unless set.
    pub group: GroupId,
    /// The size of the chunks of snapshots taken from now on, in bytes; brought within
    /// [`CHUNK_BYTES_MIN`] and [`CHUNK_BYTES_MAX`]. [`CHUNK_BYTES`] unless set.
    pub chunk_bytes: u32,
    /// After how many bytes a snapshot that is being written or received is synced, at the latest. Gigabytes that wait
    /// for one sync at the end hold up everybody else's on the same disk, the log's first of all. 2 MiB unless set.
    pub sync_bytes: u64,
    /// What snapshots leave free on their volume, in bytes: one that would take more fails as on a full volume. A log on the same
    /// volume gives up what it has set aside for a moment when it replaces its manifest there; a snapshot that took that room
    /// would keep the log from ever opening again. 512 KiB unless set.
    #[cfg_attr(feature = "serde", serde(default = "leave_free_bytes"))]
    pub leave_free_bytes: u64,
}

/// The default of a field that options of 0.6 do not have.
#[cfg(feature = "serde")]
const fn leave_free_bytes() -> u64 {
    LEAVE_FREE_BYTES
}

impl SnapshotOptions {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        let leave_free_bytes = LEAVE_FREE_BYTES;
        Self { group: GroupId(0), chunk_bytes: CHUNK_BYTES, sync_bytes: SYNC_BYTES, leave_free_bytes }
    }

    /// Sets [`SnapshotOptions::group`].
    #[must_use]
    pub fn group(mut self, group: GroupId) -> Self {
        self.group = group;
        self
    }

    /// Sets [`SnapshotOptions::chunk_bytes`].
    #[must_use]
    pub fn chunk_bytes(mut self, bytes: u32) -> Self {
        self.chunk_bytes = bytes;
        self
    }

    /// Sets [`SnapshotOptions::sync_bytes`].
    #[must_use]
    pub fn sync_bytes(mut self, bytes: u64) -> Self {
        self.sync_bytes = bytes;
        self
    }

    /// Sets [`SnapshotOptions::leave_free_bytes`].
    #[must_use]
    pub fn leave_free_bytes(mut self, bytes: u64) -> Self {
        self.leave_free_bytes = bytes;
        self
    }
}

impl Default for SnapshotOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// A [`SnapshotStore`] in a directory of its own. Clones are handles to the same store; the last of
/// them and of what it gave out unlocks the directory.
///
/// Memory is bounded: a chunk for each snapshot that is being written, read or received.
#[derive(Clone)]
pub struct SnapshotFiles {
    shared: Arc<Shared>,
}

struct Shared {
    directory: Arc<dyn Directory>,
    group: GroupId,
    chunk_bytes: u32,
    sync_bytes: u64,
    leave_free_bytes: u64,
    state: Mutex<State>,
    foreign: Vec<PathBuf>,
    _lock: LockGuard,
}

#[derive(Default)]
struct State {
    catalogue: Catalogue<Place>,
    /// Snapshots that should be complete and are not: where their files are damaged, and how.
    damaged: BTreeMap<EntryId, (u64, &'static str)>,
}

impl SnapshotFiles {
    /// Opens the directory at `path`, created if it is missing. Not the log's: each syncs its
    /// directory by itself, and a failure that one was told of may be the other's.
    ///
    /// Damaged snapshots do not keep it from opening: they are not listed, and
    /// [`SnapshotFiles::damaged`] says where. If the log no longer holds what the newest one covered,
    /// this node must fetch another from a peer before it serves.
    ///
    /// # Errors
    /// [`SnapshotError::Locked`], [`SnapshotError::WrongGroup`], [`SnapshotError::Unsupported`], or the
    /// disk's.
    pub fn open(path: impl Into<PathBuf>, options: SnapshotOptions) -> Result<Self, SnapshotError> {
        let path = path.into();
        let directory = OsDirectory::new(path.clone()).map_err(|source| SnapshotError::Io {
            operation: "creating",
            file: path,
            source,
        })?;
        Self::open_in(Arc::new(directory), options)
    }

    /// Opens the store in any [`Directory`], such as a faulty one.
    ///
    /// # Errors
    /// As [`SnapshotFiles::open`].
    pub fn open_in(directory: Arc<dyn Directory>, options: SnapshotOptions) -> Result<Self, SnapshotError> {
        let at = |operation, file: &str| {
            let file = directory.path().join(file);
            move |source| SnapshotError::Io { operation, file, source }
        };
        let lock = directory.try_lock(LOCK).map_err(at("locking", LOCK))?;
        let lock = lock.ok_or_else(|| SnapshotError::Locked { directory: directory.path().to_path_buf() })?;
        // What is seen here may be acted on: entries may leave the log. It must not go away again.
        directory.sync().map_err(at("syncing", ""))?;
        let names = directory.names().map_err(at("listing", ""))?;
        let chunk_bytes = options.chunk_bytes.clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX);
        let SnapshotOptions { group, sync_bytes, leave_free_bytes, .. } = options;
        let foreign = foreign(&*directory, &names)?;
        let state = Mutex::default();
        let shared =
            Shared { directory, group, chunk_bytes, sync_bytes, leave_free_bytes, state, foreign, _lock: lock };
        let ours: Vec<(EntryId, Role)> = names.iter().filter_map(|name| parse_name(name)).collect();
        for (last, _) in ours.iter().filter(|(_, role)| *role == Role::Complete) {
            shared.load(*last)?;
        }
        let newest = shared.state().catalogue.newest();
        for (last, role) in ours {
            let overtaken = role == Role::Partial && Some(last) <= newest;
            if role == Role::Temporary || overtaken {
                // What stays costs space and is tried again at the next opening.
                let _ = shared.remove(last, role);
            }
        }
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The snapshots that were found damaged, each as [`SnapshotError::Corrupt`], oldest first. Their
    /// files stay until the same snapshot is written or received again, or a newer one is retained.
    #[must_use]
    pub fn damaged(&self) -> Vec<SnapshotError> {
        let state = self.shared.state();
        state.damaged.iter().map(|(last, found)| self.shared.corrupt(*last, *found)).collect()
    }

    /// What looked like a snapshot when the store was opened and is none that a store made: other names that end in
    /// `.snapshot` or `.partial`, directories and links. It leaves them alone.
    #[must_use]
    pub fn foreign_files(&self) -> &[PathBuf] {
        &self.shared.foreign
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.shared.directory.path()
    }
}

impl Shared {
    /// Nothing that runs under the lock can panic half-way, so a poisoned lock still guards a valid
    /// state.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, last: EntryId, role: Role) -> PathBuf {
        self.directory.path().join(file_name(last, role))
    }

    fn corrupt(&self, last: EntryId, (offset, reason): (u64, &'static str)) -> SnapshotError {
        SnapshotError::Corrupt { file: self.path(last, Role::Complete), offset, reason }
    }

    fn io(&self, operation: &'static str, last: EntryId, role: Role) -> impl FnOnce(io::Error) -> SnapshotError {
        let file = self.path(last, role);
        move |source| SnapshotError::Io { operation, file, source }
    }

    fn remove(&self, last: EntryId, role: Role) -> io::Result<()> {
        self.directory.remove(&file_name(last, role))
    }

    /// Lists what is found under the name of a complete snapshot, or notes its damage.
    fn load(&self, last: EntryId) -> Result<(), SnapshotError> {
        let opened = self.open_complete(last);
        let mut state = self.state();
        match opened {
            Ok((_, info, place)) => state.catalogue.insert(info, place),
            Err(SnapshotError::Corrupt { offset, reason, .. }) => {
                state.damaged.insert(last, (offset, reason));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Opens a complete file and checks everything but its chunks.
    fn open_complete(&self, last: EntryId) -> Result<(Arc<dyn RawFile>, SnapshotInfo, Place), SnapshotError> {
        let path = self.path(last, Role::Complete);
        let opened = self.directory.open(&file_name(last, Role::Complete));
        let file = opened.map_err(self.io("opening", last, Role::Complete))?;
        let source = Source { file: &*file, path: &path };
        let (header, info, place) = source.complete()?;
        if header.last != last {
            return Err(source.corrupt(24, "it is another snapshot than its name says"));
        }
        if header.group != self.group {
            return Err(SnapshotError::WrongGroup { file: path, found: header.group, expected: self.group });
        }
        Ok((file, info, place))
    }

    /// Lists a snapshot no longer that an error shows to be damaged, gone or not readable: then another may be taken or
    /// received in its place.
    fn note<T>(&self, last: EntryId, result: Result<T, SnapshotError>) -> Result<T, SnapshotError> {
        let found = match &result {
            Err(SnapshotError::Corrupt { offset, reason, .. }) => (*offset, *reason),
            Err(SnapshotError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => (0, "it is gone"),
            Err(SnapshotError::Io { source, .. }) if !passes(source) && source.kind() != io::ErrorKind::TimedOut => {
                (0, "it cannot be read")
            }
            _ => return result,
        };
        let mut state = self.state();
        state.catalogue.remove(last);
        state.damaged.insert(last, found);
        result
    }

    /// Opens the file of a complete snapshot and checks that it is what was listed: everything but its chunks.
    fn check(&self, held: &Held) -> Result<Arc<dyn RawFile>, SnapshotError> {
        let last = held.info().last;
        let opened = self.open_complete(last).and_then(|(file, info, _)| match &info == held.info() {
            true => Ok(file),
            false => Err(self.corrupt(last, (0, "it is not what it was when it was listed"))),
        });
        self.note(last, opened)
    }

    /// Holds a complete snapshot, or says why there is none.
    fn hold(self: &Arc<Self>, last: EntryId) -> Result<Held, SnapshotError> {
        let state = self.state();
        if let Some(found) = state.damaged.get(&last) {
            return Err(self.corrupt(last, *found));
        }
        let item = state.catalogue.find(last)?;
        Ok(Held { shared: Arc::clone(self), item: Some(item) })
    }

    /// Takes the names of a snapshot that is to be written or received. One that is listed counts only if it is there.
    fn claim(self: &Arc<Self>, last: EntryId) -> Result<Claim, SnapshotError> {
        if self.hold(last).is_ok_and(|held| self.check(&held).is_ok()) {
            return Err(SnapshotError::Exists { last });
        }
        self.state().catalogue.claim(last)?;
        Ok(Claim { shared: Arc::clone(self), last })
    }

    /// Makes the finished temporary file the complete one, durably, and lists it. Whatever fails, the
    /// snapshot is lost: nothing is tried twice on a file whose sync may have failed.
    fn publish(
        &self,
        file: &dyn RawFile,
        header: &Header,
        total: u64,
        place: Place,
    ) -> Result<SnapshotInfo, SnapshotError> {
        let last = header.last;
        let (from, to) = (file_name(last, Role::Temporary), file_name(last, Role::Complete));
        file.sync().map_err(self.io("syncing", last, Role::Temporary))?;
        self.directory.rename(&from, &to).map_err(self.io("renaming", last, Role::Temporary))?;
        if let Err(source) = self.directory.sync().and_then(|()| self.directory.check_in_place()) {
            // If even this fails, a later opening finds a complete snapshot, which does no harm.
            let _ = self.remove(last, Role::Complete);
            let file = self.directory.path().to_path_buf();
            return Err(SnapshotError::Io { operation: "syncing", file, source });
        }
        let info = header.info(total);
        let mut state = self.state();
        state.damaged.remove(&last);
        state.catalogue.insert(info.clone(), place);
        Ok(info)
    }

    /// Deletes what is doomed and no longer in use.
    fn sweep(&self) {
        let going = self.state().catalogue.sweep();
        for item in going {
            let last = item.info.last;
            let removed = self.remove(last, Role::Complete);
            let mut state = self.state();
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => state.catalogue.put_back(item),
                _ => state.catalogue.release(last),
            }
        }
    }

    /// Deletes the partial files that `picks` picks and nobody works at.
    fn remove_partials(&self, picks: impl Fn(EntryId) -> bool) {
        for name in self.directory.names().unwrap_or_default() {
            let Some((last, Role::Partial)) = parse_name(&name) else { continue };
            // Reserved while it is being deleted, so that nobody begins to receive into it.
            if picks(last) && self.state().catalogue.reserve(last) {
                let _ = self.remove(last, Role::Partial);
                self.state().catalogue.release(last);
            }
        }
    }
}

/// What looks like a snapshot and is none of a store's files: left alone, and named once.
fn foreign(directory: &dyn Directory, names: &[String]) -> Result<Vec<PathBuf>, SnapshotError> {
    let listing = |source| SnapshotError::Io { operation: "listing", file: directory.path().to_path_buf(), source };
    let alike = |name: &String| {
        let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
        [Role::Complete, Role::Partial].iter().any(|role| extension.is_some_and(|own| role.is_extension(own)))
    };
    let others = directory.others().map_err(listing)?;
    let foreign = names.iter().filter(|name| parse_name(name).is_none()).chain(&others).filter(|name| alike(name));
    let foreign: Vec<PathBuf> = foreign.map(|name| directory.path().join(name)).collect();
    #[cfg(feature = "tracing")]
    for file in &foreign {
        tracing::warn!(file = %file.display(), "looks like a snapshot and is none of the store's: left alone");
    }
    Ok(foreign)
}

/// The bytes of a file that no sync has covered.
#[derive(Default)]
struct Unsynced(u64);

impl Unsynced {
    /// Writes, and syncs if enough has come together.
    fn write_at(&mut self, shared: &Shared, file: &dyn RawFile, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let needed = shared.leave_free_bytes.saturating_add(bytes.len() as u64);
        if shared.directory.free_bytes().is_some_and(|free| free < needed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        file.write_at(offset, bytes)?;
        self.0 += bytes.len() as u64;
        if self.0 >= shared.sync_bytes {
            self.0 = 0;
            file.sync()?;
        }
        Ok(())
    }
}

/// A complete snapshot in use: it is not deleted before this is dropped, and then at once if it is
/// superseded.
struct Held {
    shared: Arc<Shared>,
    /// `None` only while it is dropped.
    item: Option<Arc<Item<Place>>>,
}

impl Held {
    fn item(&self) -> &Item<Place> {
        self.item.as_ref().expect("a snapshot is held until it is dropped")
    }

    fn info(&self) -> &SnapshotInfo {
        &self.item().info
    }

    fn place(&self) -> &Place {
        &self.item().place
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.item = None;
        self.shared.sweep();
    }
}

/// The names of a snapshot that is not complete yet, taken until this is dropped.
struct Claim {
    shared: Arc<Shared>,
    last: EntryId,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.shared.state().catalogue.release(self.last);
    }
}

impl SnapshotStore for SnapshotFiles {
    fn begin(&self, last: EntryId, metadata: Bytes) -> Result<Box<dyn SnapshotWriter>, SnapshotError> {
        let header = Header::draw(self.shared.group, last, self.shared.chunk_bytes, metadata)?;
        Ok(Box::new(FileWriter::begin(self.shared.claim(last)?, header)?))
    }

    fn list(&self) -> Vec<SnapshotInfo> {
        self.shared.state().catalogue.list()
    }

    fn open(&self, last: EntryId) -> Result<Box<dyn SnapshotReader>, SnapshotError> {
        let held = self.shared.hold(last)?;
        let file = self.shared.check(&held)?;
        Ok(Box::new(FileReader::new(held, file)))
    }

    fn chunk(&self, request: ChunkRequest) -> Result<Chunk, SnapshotError> {
        let (last, number) = (request.snapshot, request.chunk);
        let held = self.shared.hold(last)?;
        let (info, place) = (held.info(), held.place());
        let chunks = info.chunks();
        if number >= chunks {
            return Err(SnapshotError::NoSuchChunk { last, chunk: number, chunks });
        }
        let path = self.shared.path(last, Role::Complete);
        let opened = self.shared.directory.open(&file_name(last, Role::Complete));
        let file = self.shared.note(last, opened.map_err(self.shared.io("opening", last, Role::Complete)))?;
        let source = Source { file: &*file, path: &path };
        let mut data = Vec::new();
        let before = match number.checked_sub(1) {
            Some(before) => source.checksum_of(info, place, before),
            None => Ok(place.seed),
        };
        let read = before.and_then(|before| source.chunk(info, place, number, before, &mut data));
        let checksum = self.shared.note(last, read)?;
        Ok(Chunk::of(info, number, checksum, Bytes::from(data)))
    }

    fn receive(&self, last: EntryId) -> Result<Box<dyn SnapshotReceiver>, SnapshotError> {
        let receiver = FileReceiver::begin(self.shared.claim(last)?)?;
        self.shared.remove_partials(|other| other != last);
        Ok(Box::new(receiver))
    }

    fn set_aside(&self, last: EntryId) -> Result<(), SnapshotError> {
        let identity = self.shared.state().catalogue.find(last)?.info.identity;
        let (from, to) = (file_name(last, Role::Complete), foreign_name(last, identity));
        let io = |operation| self.shared.io(operation, last, Role::Complete);
        self.shared.directory.rename(&from, &to).map_err(io("renaming"))?;
        self.shared.state().catalogue.remove(last);
        // Else a crash would bring it back under its name.
        self.shared.directory.sync().map_err(io("syncing the directory of"))
    }

    fn retain(&self, last: EntryId) {
        let (newest, damaged) = {
            let mut state = self.shared.state();
            state.catalogue.doom_before(last);
            let Some(newest) = state.catalogue.newest() else { return };
            let older = state.damaged.range(..last.min(newest)).map(|(last, _)| *last);
            (newest, older.collect::<Vec<_>>())
        };
        self.shared.sweep();
        for last in damaged {
            if self.shared.remove(last, Role::Complete).is_ok() {
                self.shared.state().damaged.remove(&last);
            }
        }
        self.shared.remove_partials(|partial| partial <= newest);
    }
}

impl fmt::Debug for SnapshotFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotFiles").field("path", &self.path()).field("complete", &self.list()).finish()
    }
}
