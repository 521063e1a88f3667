//! The state machine: a file of blocks, written through, of which memory holds next to nothing.
//!
//! A snapshot is the stream of that file as of one entry. While it is written, whoever overwrites a block that the
//! stream has not reached keeps the old content in a second file first: copy on write, on the disk. So capturing costs the
//! apply thread nothing but a flag, and a write meanwhile at most one block more.

use bytes::{BufMut, Bytes, BytesMut};
use raft_io::EntryId;
use raft_io::driver::{SnapshotImage, StateMachine};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub(crate) const BLOCK_BYTES: usize = 4096;
/// How many blocks are moved at once.
const RUN_BLOCKS: u64 = 64;
/// How much of a restored state may wait for the disk: more would hold up the syncs of everybody else on it.
const UNSYNCED_BYTES_MAX: u64 = 2 << 20;
const MAGIC: &[u8; 8] = b"blocks-1";

const FILL: u8 = 1;
const WRITE: u8 = 2;

/// A command that gives `count` blocks from `first` on their first content, a function of their numbers.
pub(crate) fn fill(first: u64, count: u64) -> Bytes {
    let mut command = BytesMut::new();
    command.put_u8(FILL);
    command.put_u64_le(first);
    command.put_u64_le(count);
    command.freeze()
}

/// A command that overwrites the beginning of a block with `bytes` bytes, a function of `seed`.
pub(crate) fn write(block: u64, seed: u64, bytes: usize) -> Bytes {
    let mut command = BytesMut::zeroed(9 + bytes.min(BLOCK_BYTES));
    command[0] = WRITE;
    command[1..9].copy_from_slice(&block.to_le_bytes());
    scramble(seed, &mut command[9..]);
    command.freeze()
}

/// Content that no file system and no compressor makes smaller (splitmix64).
fn scramble(seed: u64, out: &mut [u8]) {
    let mut state = seed;
    for word in out.chunks_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes()[..word.len()]);
    }
}

/// Positioned reads and writes.
fn write_at(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::write_all_at(file, bytes, offset);
    #[cfg(windows)]
    {
        let mut done = 0;
        while done < bytes.len() {
            done += std::os::windows::fs::FileExt::seek_write(file, &bytes[done..], offset + done as u64)?;
        }
        Ok(())
    }
}

fn read_at(file: &File, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset);
    #[cfg(windows)]
    {
        let mut done = 0;
        while done < bytes.len() {
            match std::os::windows::fs::FileExt::seek_read(file, &mut bytes[done..], offset + done as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => done += read,
            }
        }
        Ok(())
    }
}

/// Where a block begins, in bytes.
fn place(block: u64) -> u64 {
    block * BLOCK_BYTES as u64
}

/// What the machine and an image of it that is being written share.
struct Shared {
    file: File,
    /// Blocks that an image still needs as they were.
    spill: File,
    freeze: Mutex<Option<Freeze>>,
}

/// An image that is being written.
struct Freeze {
    /// The first block that it has not read.
    next: u64,
    /// How many blocks it has.
    end: u64,
    /// Overwritten blocks of `[next, end)`, and which block of the spill holds what they were.
    kept: BTreeMap<u64, u64>,
}

impl Shared {
    fn freeze(&self) -> MutexGuard<'_, Option<Freeze>> {
        self.freeze.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes into a block, after its content was put aside if an image needs it.
    fn overwrite(&self, block: u64, bytes: &[u8]) -> io::Result<()> {
        if let Some(freeze) = &mut *self.freeze() {
            if (freeze.next..freeze.end).contains(&block) && !freeze.kept.contains_key(&block) {
                let (mut old, slot) = ([0; BLOCK_BYTES], freeze.kept.len() as u64);
                read_at(&self.file, place(block), &mut old)?;
                write_at(&self.spill, place(slot), &old)?;
                freeze.kept.insert(block, slot);
            }
        }
        write_at(&self.file, place(block), bytes)
    }

    /// Reads blocks as they were when the image was captured. The lock is not held while the disk is read; what was
    /// overwritten meanwhile is known after it, and was put aside before.
    fn read_frozen(&self, first: u64, run: &mut [u8]) -> io::Result<()> {
        read_at(&self.file, place(first), run)?;
        let mut guard = self.freeze();
        let freeze = guard.as_mut().ok_or_else(|| io::Error::other("the image was given up"))?;
        let end = first + (run.len() / BLOCK_BYTES) as u64;
        let kept: Vec<(u64, u64)> = freeze.kept.range(first..end).map(|(block, slot)| (*block, *slot)).collect();
        freeze.next = end;
        drop(guard);
        for (block, slot) in kept {
            let at = place(block - first) as usize;
            read_at(&self.spill, place(slot), &mut run[at..at + BLOCK_BYTES])?;
        }
        Ok(())
    }
}

/// Ends the copying on write, however the image ends.
struct Frozen(Arc<Shared>);

impl Drop for Frozen {
    fn drop(&mut self) {
        *self.0.freeze() = None;
    }
}

/// Holds a stream down to some bytes per second, in small steps, so that nobody else on the disk waits for long.
struct Pace {
    began: Instant,
    done: u64,
    bytes_per_second: Option<u64>,
}

impl Pace {
    fn new(bytes_per_second: Option<u64>) -> Self {
        Self { began: Instant::now(), done: 0, bytes_per_second }
    }

    fn step(&mut self, bytes: usize) {
        self.done += bytes as u64;
        let Some(limit) = self.bytes_per_second else { return };
        let due = self.began + Duration::from_secs_f64(self.done as f64 / limit.max(1) as f64);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

pub(crate) struct Blocks {
    shared: Arc<Shared>,
    count: u64,
    /// How many writes were applied.
    writes: u64,
    bytes_per_second: Option<u64>,
}

impl Blocks {
    /// An empty state, in files anew. Snapshots of it are written and restored with so many bytes per second at most.
    pub(crate) fn create(directory: &Path, bytes_per_second: Option<u64>) -> io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let open = |name| File::options().read(true).write(true).create(true).truncate(true).open(directory.join(name));
        let shared = Shared { file: open("blocks")?, spill: open("spill")?, freeze: Mutex::new(None) };
        Ok(Self { shared: Arc::new(shared), count: 0, writes: 0, bytes_per_second })
    }

    pub(crate) fn writes(&self) -> u64 {
        self.writes
    }

    /// All of the content that is in the file, and how many writes led to it.
    pub(crate) fn checksum(&self) -> io::Result<u64> {
        let mut sum = self.writes ^ self.count.rotate_left(32);
        let mut run = vec![0; place(RUN_BLOCKS) as usize];
        let mut next = 0;
        while next < self.count {
            let blocks = RUN_BLOCKS.min(self.count - next);
            let run = &mut run[..place(blocks) as usize];
            read_at(&self.shared.file, place(next), run)?;
            for word in run.chunks_exact(8) {
                let word = u64::from_le_bytes(word.try_into().expect("eight bytes"));
                sum = (sum ^ word).wrapping_mul(0x9fb2_1c65_1e98_df25).rotate_left(23);
            }
            next += blocks;
        }
        Ok(sum)
    }

    /// Waits until the disk has it all: for a quiet disk, not for safety.
    pub(crate) fn settle(&self) -> io::Result<()> {
        self.shared.file.sync_data()
    }

    fn try_apply(&mut self, command: &[u8]) -> io::Result<()> {
        let number = |at: usize| command.get(at..at + 8).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("8")));
        match (command.first(), number(1)) {
            (Some(&FILL), Some(first)) => {
                let end = first + number(9).unwrap_or(0);
                let mut content = vec![0; BLOCK_BYTES];
                for block in first..end {
                    scramble(block.wrapping_mul(0x2545_f491_4f6c_dd1d), &mut content);
                    self.shared.overwrite(block, &content)?;
                }
                self.count = self.count.max(end);
            }
            (Some(&WRITE), Some(block)) if block < self.count => {
                self.shared.overwrite(block, &command[9..])?;
                self.writes += 1;
            }
            // What makes no sense changes nothing, on every node alike.
            _ => {}
        }
        Ok(())
    }
}

impl StateMachine for Blocks {
    type Response = u64;

    fn apply(&mut self, _: EntryId, command: &Bytes) -> u64 {
        // A replica whose disk fails must not go on as if it had applied.
        self.try_apply(command).unwrap_or_else(|error| panic!("the state's disk fails: {error}"));
        self.writes
    }

    fn snapshot(&mut self) -> Option<SnapshotImage> {
        let (end, writes, shared) = (self.count, self.writes, Arc::clone(&self.shared));
        *shared.freeze() = Some(Freeze { next: 0, end, kept: BTreeMap::new() });
        let (frozen, mut pace) = (Frozen(shared), Pace::new(self.bytes_per_second));
        Some(SnapshotImage::new(move |out| {
            pace.began = Instant::now();
            out.write_all(MAGIC)?;
            out.write_all(&end.to_le_bytes())?;
            out.write_all(&writes.to_le_bytes())?;
            let mut run = vec![0; place(RUN_BLOCKS) as usize];
            let mut next = 0;
            while next < end {
                let blocks = RUN_BLOCKS.min(end - next);
                let run = &mut run[..place(blocks) as usize];
                frozen.0.read_frozen(next, run)?;
                out.write_all(run)?;
                pace.step(run.len());
                next += blocks;
            }
            Ok(())
        }))
    }

    fn restore(&mut self, content: &mut dyn Read) -> io::Result<()> {
        let mut head = [[0; 8]; 3];
        for part in &mut head {
            content.read_exact(part)?;
        }
        let [magic, count, writes] = head;
        if &magic != MAGIC {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no snapshot of blocks"));
        }
        (self.count, self.writes) = (u64::from_le_bytes(count), u64::from_le_bytes(writes));
        self.shared.file.set_len(0)?;
        let (mut pace, mut unsynced) = (Pace::new(self.bytes_per_second), 0);
        let mut run = vec![0; place(RUN_BLOCKS) as usize];
        let mut next = 0;
        while next < self.count {
            let blocks = RUN_BLOCKS.min(self.count - next);
            let run = &mut run[..place(blocks) as usize];
            content.read_exact(run)?;
            write_at(&self.shared.file, place(next), run)?;
            unsynced += run.len() as u64;
            if unsynced >= UNSYNCED_BYTES_MAX {
                self.shared.file.sync_data()?;
                unsynced = 0;
            }
            pace.step(run.len());
            next += blocks;
        }
        Ok(())
    }
}
