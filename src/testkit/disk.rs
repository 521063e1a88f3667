//! A disk that fails on demand and forgets what was never synced, to put beneath a log.
//!
//! It keeps two states apart: what reads see (the page cache), and what a loss of power leaves
//! (the medium). Between them stand the pending operations in their order: writes, cut at sector
//! borders, and creations, renames and removals of names. A sync of a file makes its writes
//! durable, a sync of the directory the operations on names. [`FaultyDisk::crash_images`]
//! enumerates what a loss of power may leave.

use super::log_suite::Random;
use crate::log::wal::{Directory, LockGuard, RawFile};
use std::boxed::Box;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::string::{String, ToString};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::vec::Vec;

/// Writes within one sector reach the medium as a whole or not at all. In bytes.
pub const SECTOR_BYTES: u64 = 512;

/// The files of a disk after a loss of power, by name.
pub type Image = BTreeMap<String, Vec<u8>>;

/// A directory on a disk in memory. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct FaultyDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Debug)]
enum Pending {
    Write { file: u64, offset: u64, bytes: Vec<u8> },
    Create { name: String, file: u64 },
    Rename { from: String, to: String },
    Remove { name: String },
}

#[derive(Clone, Debug, Default)]
struct State {
    /// What is on the medium.
    durable: Files,
    /// What reads see.
    live: Files,
    pending: Vec<Pending>,
    files_created: u64,
    locked: bool,
    faults: Faults,
    syncs: u64,
    operations: u64,
    watch: Option<Watch>,
    gate: Option<Gate>,
}

/// Holds syncs back; see [`FaultyDisk::hold_syncs`].
#[derive(Clone, Debug, Default)]
pub struct Gate {
    /// Whether it is open, and how many syncs wait.
    state: Arc<(Mutex<(bool, usize)>, Condvar)>,
}

impl Gate {
    /// Waiting longer than this is a broken test.
    const PATIENCE: Duration = Duration::from_secs(20);

    fn wait(&self, mut arrive: impl FnMut(&mut (bool, usize)), done: impl Fn(&(bool, usize)) -> bool) {
        let (mutex, changed) = &*self.state;
        let mut state = mutex.lock().unwrap_or_else(PoisonError::into_inner);
        arrive(&mut state);
        changed.notify_all();
        while !done(&state) {
            let waited = changed.wait_timeout(state, Self::PATIENCE).unwrap_or_else(PoisonError::into_inner);
            assert!(!waited.1.timed_out(), "nobody came to the gate, or nobody opened it");
            state = waited.0;
        }
    }

    fn pass(&self) {
        self.wait(|state| state.1 += 1, |state| state.0);
    }

    /// Waits until a sync stands at the gate.
    pub fn wait_until_one_waits(&self) {
        self.wait(|_| {}, |state| state.1 > 0);
    }

    /// Lets every sync pass, those that wait and all later ones.
    pub fn release(&self) {
        self.wait(|state| state.0 = true, |_| true);
    }
}

#[derive(Clone, Debug)]
struct Watch {
    random: Random,
    samples: usize,
    images: Vec<Image>,
}

#[derive(Clone, Debug, Default)]
struct Files {
    names: BTreeMap<String, u64>,
    contents: BTreeMap<u64, Vec<u8>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    /// Operations of any kind until one fails.
    operation: Option<u64>,
    /// Syncs until one fails.
    sync: Option<u64>,
    /// Bytes until the disk is full.
    space: Option<u64>,
    /// What the volume holds at most, in bytes; see [`FaultyDisk::limit_volume`].
    volume: Option<u64>,
    /// Operations that may need space until one finds none.
    allocation: Option<u64>,
    /// Bytes until a read stops short.
    short_reads: Option<usize>,
    /// Whether removals fail.
    removals: bool,
}

impl Files {
    fn apply(&mut self, pending: &Pending) {
        match pending {
            Pending::Write { file, offset, bytes } => {
                let contents = self.contents.entry(*file).or_default();
                let end = *offset as usize + bytes.len();
                if contents.len() < end {
                    contents.resize(end, 0);
                }
                contents[*offset as usize..end].copy_from_slice(bytes);
            }
            Pending::Create { name, file } => {
                self.names.insert(name.clone(), *file);
                self.contents.entry(*file).or_default();
            }
            Pending::Rename { from, to } => {
                if let Some(file) = self.names.remove(from) {
                    self.names.insert(to.clone(), file);
                }
            }
            Pending::Remove { name } => {
                self.names.remove(name);
            }
        }
    }

    /// What a file takes of a volume: itself and its sectors.
    fn taken_by(bytes: u64) -> u64 {
        SECTOR_BYTES + bytes.div_ceil(SECTOR_BYTES) * SECTOR_BYTES
    }

    /// What all files take.
    fn taken(&self) -> u64 {
        let bytes = |file| self.contents.get(file).map_or(0, |contents| contents.len() as u64);
        self.names.values().map(|file| Self::taken_by(bytes(file))).sum()
    }

    fn image(&self) -> Image {
        let file = |(name, file): (&String, &u64)| (name.clone(), self.contents.get(file).cloned().unwrap_or_default());
        self.names.iter().map(file).collect()
    }
}

impl FaultyDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A disk that holds these files, durably.
    #[must_use]
    pub fn from_image(image: &Image) -> Self {
        let mut files = Files::default();
        for (number, (name, bytes)) in image.iter().enumerate() {
            files.names.insert(name.clone(), number as u64);
            files.contents.insert(number as u64, bytes.clone());
        }
        let files_created = image.len() as u64;
        let state = State { durable: files.clone(), live: files, files_created, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What reads see now.
    #[must_use]
    pub fn live_image(&self) -> Image {
        self.state().live.image()
    }

    /// What a loss of power leaves if nothing that is pending was written.
    #[must_use]
    pub fn durable_image(&self) -> Image {
        self.state().durable.image()
    }

    /// How many syncs there were, of files and of the directory.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// How many operations there were, of every kind.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// What a loss of power may leave now: every subset of the pending operations if there are few,
    /// otherwise prefixes, single omissions and `samples` seeded random subsets.
    #[must_use]
    pub fn crash_images(&self, random: &mut Random, samples: usize) -> Vec<Image> {
        self.state().crash_images(random, samples)
    }

    /// From now on notes what a loss of power may leave right before each sync, the moments when
    /// most is at stake, with `samples` random subsets each.
    pub fn watch(&self, random: Random, samples: usize) {
        self.state().watch = Some(Watch { random, samples, images: Vec::new() });
    }

    /// The images noted since the last call.
    #[must_use]
    pub fn take_watched(&self) -> Vec<Image> {
        self.state().watch.as_mut().map(|watch| std::mem::take(&mut watch.images)).unwrap_or_default()
    }

    /// Makes the sync after `count` more fail with an I/O error, once. What was pending for it is
    /// never written, while reads go on to see it: what Linux does.
    pub fn fail_sync_after(&self, count: u64) {
        self.state().faults.sync = Some(count);
    }

    /// Makes the operation after `count` more fail with an I/O error, once, whatever it is: of a write half
    /// is done before, of a sync nothing ever, of anything else nothing.
    pub fn fail_operation_after(&self, count: u64) {
        self.state().faults.operation = Some(count);
    }

    /// Makes writes fail once `bytes` more bytes are written; what fits of the last one is written.
    pub fn fill_after(&self, bytes: u64) {
        self.state().faults.space = Some(bytes);
    }

    /// Makes this a volume of so many bytes: creating and extending a file takes space, by sectors, and removing or
    /// replacing one frees it. What there is no space for fails as it does on a full volume; of a write what fits is done before. Overwriting needs no space. `None` is a volume without end.
    pub fn limit_volume(&self, bytes: Option<u64>) {
        self.state().faults.volume = bytes;
    }

    /// What the files take of the volume now, in bytes.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.state().live.taken()
    }

    /// Makes the operation after `count` more that may need space (a write, a creation, a renaming, a sync) find none, and
    /// the volume full from then on: it has what is free by removing and no more. What was pending for a sync that fails
    /// is never written.
    pub fn fill_volume_after(&self, count: u64) {
        self.state().faults.allocation = Some(count);
    }

    /// Whether [`FaultyDisk::fill_volume_after`] has come to its operation.
    #[must_use]
    pub fn was_filled(&self) -> bool {
        let state = self.state();
        state.faults.allocation.is_none() && state.faults.volume.is_some()
    }

    /// Whether writes have used up the space of [`FaultyDisk::fill_after`].
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.state().faults.space == Some(0)
    }

    /// Makes every read return at most `bytes` bytes.
    pub fn shorten_reads(&self, bytes: usize) {
        self.state().faults.short_reads = Some(bytes);
    }

    /// Makes every removal fail, as Windows does while someone has the file open.
    pub fn refuse_removals(&self) {
        self.state().faults.removals = true;
    }

    /// Ends [`FaultyDisk::refuse_removals`].
    pub fn allow_removals(&self) {
        self.state().faults.removals = false;
    }

    /// Flips the lowest bit of a byte, on the medium and in the page cache.
    ///
    /// # Panics
    /// If there is no such byte.
    pub fn flip(&self, name: &str, offset: usize) {
        let mut state = self.state();
        let file = state.live.names[name];
        let state = &mut *state;
        for files in [&mut state.live, &mut state.durable] {
            files.contents.get_mut(&file).expect("the file has bytes")[offset] ^= 1;
        }
    }

    /// Makes every sync of a file wait until the gate is released.
    #[must_use]
    pub fn hold_syncs(&self) -> Gate {
        let gate = Gate::default();
        self.state().gate = Some(gate.clone());
        gate
    }

    /// Makes the operations on names that begin with `prefix` durable, as [`Directory::sync`] does for all names: for two
    /// directories on one disk, each of which syncs its own.
    ///
    /// # Errors
    /// Any of them may be lost.
    pub fn sync_names(&self, prefix: &str) -> io::Result<()> {
        self.state().sync(|pending| match pending {
            Pending::Write { .. } => false,
            Pending::Create { name, .. } | Pending::Remove { name } | Pending::Rename { to: name, .. } => {
                name.starts_with(prefix)
            }
        })
    }

    /// Ends the faults; what they did stays.
    pub fn repair(&self) {
        self.state().faults = Faults::default();
    }
}

impl State {
    fn crash_images(&self, random: &mut Random, samples: usize) -> Vec<Image> {
        let count = self.pending.len();
        let mut images = Vec::new();
        let mut push = |keep: &mut dyn FnMut(usize) -> bool| {
            let mut files = self.durable.clone();
            for (position, pending) in self.pending.iter().enumerate() {
                if keep(position) {
                    files.apply(pending);
                }
            }
            images.push(files.image());
        };
        if count <= 4 {
            (0..1u32 << count).for_each(|subset| push(&mut |position| subset >> position & 1 == 1));
            return images;
        }
        // Long queues are the zeros of a new file; every prefix of those says little.
        let step = count.div_ceil(12);
        (0..count).step_by(step).for_each(|length| push(&mut |position| position < length));
        (0..count).step_by(step).for_each(|dropped| push(&mut |position| position != dropped));
        push(&mut |_| true);
        (0..samples).for_each(|_| push(&mut |_| random.draw() & 1 == 0));
        images
    }

    fn note_watched(&mut self) {
        if let Some(mut watch) = self.watch.take() {
            let images = self.crash_images(&mut watch.random, watch.samples);
            watch.images.extend(images);
            self.watch = Some(watch);
        }
    }

    /// Counts an operation; fails if it is its turn.
    fn operate(&mut self) -> io::Result<()> {
        self.operations += 1;
        let failed = self.faults.operation == Some(0);
        self.faults.operation = self.faults.operation.and_then(|left| left.checked_sub(1));
        if failed { Err(io::Error::other("injected failure of an operation")) } else { Ok(()) }
    }

    /// Counts an operation that may need space; fails if it is its turn to find none.
    fn allocate(&mut self) -> io::Result<()> {
        let failed = self.faults.allocation == Some(0);
        self.faults.allocation = self.faults.allocation.and_then(|left| left.checked_sub(1));
        if failed {
            self.faults.volume = Some(self.live.taken());
        }
        if failed { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    /// What is free on the volume, in bytes.
    fn free(&self) -> u64 {
        self.faults.volume.map_or(u64::MAX / 2, |volume| volume.saturating_sub(self.live.taken()))
    }

    /// Whether the volume has room for what it would hold then.
    fn has_room(&self, before: u64, after: u64) -> bool {
        after <= before || self.faults.volume.is_none_or(|volume| self.live.taken() - before + after <= volume)
    }

    /// Syncs the pending operations that `concerns` picks.
    fn sync(&mut self, concerns: impl Fn(&Pending) -> bool) -> io::Result<()> {
        self.note_watched();
        self.syncs += 1;
        let full = self.allocate();
        let failed = full.is_err() | self.operate().is_err() | (self.faults.sync == Some(0));
        self.faults.sync = self.faults.sync.and_then(|left| left.checked_sub(1));
        for pending in std::mem::take(&mut self.pending) {
            if !concerns(&pending) {
                self.pending.push(pending);
            } else if !failed {
                self.durable.apply(&pending);
            }
        }
        full?;
        if failed { Err(io::Error::other("injected failure of a sync")) } else { Ok(()) }
    }

    fn change(&mut self, pending: Pending) {
        self.live.apply(&pending);
        self.pending.push(pending);
    }
}

impl Directory for FaultyDisk {
    fn path(&self) -> &Path {
        Path::new("faulty-disk")
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut state = self.state();
        state.operate()?;
        Ok(state.live.names.keys().cloned().collect())
    }

    fn free_bytes(&self) -> Option<u64> {
        let state = self.state();
        state.faults.volume.map(|_| state.free())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn RawFile>> {
        let mut state = self.state();
        state.operate()?;
        state.allocate()?;
        let before = state.live.names.get(name).map(|file| state.live.contents.get(file).map_or(0, Vec::len));
        if !state.has_room(before.map_or(0, |bytes| Files::taken_by(bytes as u64)), Files::taken_by(0)) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        // A new file even if the name exists: emptying one in place and replacing it by another
        // look alike, and the latter loses more.
        state.files_created += 1;
        let file = state.files_created + 1_000;
        state.change(Pending::Create { name: name.to_string(), file });
        Ok(Arc::new(FaultyFile { disk: self.clone(), file }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn RawFile>> {
        let mut state = self.state();
        state.operate()?;
        let file = state.live.names.get(name).copied().ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(FaultyFile { disk: self.clone(), file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        state.allocate()?;
        state.change(Pending::Rename { from: from.to_string(), to: to.to_string() });
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        if state.faults.removals {
            return Err(io::Error::other("injected refusal of a removal"));
        }
        state.change(Pending::Remove { name: name.to_string() });
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.state().sync(|pending| !matches!(pending, Pending::Write { .. }))
    }

    fn try_lock(&self, _name: &str) -> io::Result<Option<LockGuard>> {
        let mut state = self.state();
        if state.locked {
            return Ok(None);
        }
        state.locked = true;
        Ok(Some(Box::new(Unlock(self.clone()))))
    }
}

struct Unlock(FaultyDisk);

impl Drop for Unlock {
    fn drop(&mut self) {
        self.0.state().locked = false;
    }
}

struct FaultyFile {
    disk: FaultyDisk,
    file: u64,
}

impl RawFile for FaultyFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        let size = state.live.contents.get(&self.file).map_or(0, |contents| contents.len() as u64);
        let grown = size.max(offset + bytes.len() as u64);
        let refused = state.allocate().is_err();
        let failed = state.operate().is_err();
        let full = refused || !state.has_room(Files::taken_by(size), Files::taken_by(grown));
        let space = match (full, failed) {
            // As many sectors as there are.
            (true, _) if grown > size => {
                Some((size.next_multiple_of(SECTOR_BYTES) + state.free()).saturating_sub(offset))
            }
            (false, false) => state.faults.space,
            _ => Some(bytes.len() as u64 / 2),
        };
        let fitting = space.map_or(bytes.len(), |space| bytes.len().min(space as usize));
        let lacking = full || !failed;
        state.faults.space = state.faults.space.map(|space| space.saturating_sub(fitting as u64));
        let mut at = 0;
        while at < fitting {
            let position = offset + at as u64;
            let sector_left = (SECTOR_BYTES - position % SECTOR_BYTES) as usize;
            let count = sector_left.min(fitting - at);
            let bytes = bytes[at..at + count].to_vec();
            state.change(Pending::Write { file: self.file, offset: position, bytes });
            at += count;
        }
        match fitting == bytes.len() && !full {
            true => Ok(()),
            false if lacking => Err(io::ErrorKind::StorageFull.into()),
            false => Err(io::Error::other("injected failure of an operation")),
        }
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.disk.state();
        state.operate()?;
        let contents = state.live.contents.get(&self.file).ok_or(io::ErrorKind::NotFound)?;
        let rest = contents.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buffer.len()).min(state.faults.short_reads.unwrap_or(usize::MAX));
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn sync(&self) -> io::Result<()> {
        let gate = self.disk.state().gate.clone();
        if let Some(gate) = gate {
            gate.pass();
        }
        let file = self.file;
        self.disk.state().sync(|pending| matches!(pending, Pending::Write { file: own, .. } if *own == file))
    }

    fn size(&self) -> io::Result<u64> {
        let mut state = self.disk.state();
        state.operate()?;
        Ok(state.live.contents.get(&self.file).map_or(0, |contents| contents.len() as u64))
    }
}
