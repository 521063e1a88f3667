//! Opening the log: what is there, whose it is, whether all of it that was durable is intact.
//!
//! The rules: everything live is synced before it is looked at, so that nothing is built on bytes
//! that only the page cache holds. A record counts if its checksum, identity, position and link to
//! the record before it hold. Behind the last such record is either a torn write that nobody
//! waited for, which is cut, or damage, which is refused: damage is what lies before a position
//! that the watermark, the manifest or any later record says was durable.

use super::error::WalError;
use super::manifest::{MANIFEST, MANIFEST_NEW, Manifest, RESTORING, Segment};
use super::options::WalOptions;
use super::record::{Checkpoint, FRAME_BYTES, Frame, HEADER_BYTES, Header, Malformed, Op, payload_len};
use super::room::{Found, Numbers, Reserve, Sizes, lacks_space};
use super::store::zero;
use super::view::{Place, View};
use super::watermark::{Mark, WATERMARK, Watermark};
use crate::directory::{Directory, RawFile, read_full};
use crate::life::Remembered;
use crate::types::{EntryId, Index, NodeId, Term};
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::PathBuf;
use std::string::String;
use std::sync::Arc;
use std::vec::Vec;

/// A log found intact, ready to be written.
pub(super) struct Recovered {
    pub(super) manifest: Manifest,
    pub(super) watermark: Watermark,
    pub(super) view: View,
    /// What peers said to be durable.
    pub(super) peers: BTreeMap<NodeId, Remembered>,
    /// The end of the last record.
    pub(super) end: u64,
    /// The checksum of the last record.
    pub(super) chain: u32,
    pub(super) reserve: Reserve,
    /// The numbers that new segments may have.
    pub(super) numbers: Numbers,
    /// What looks like a segment and is none of this log's.
    pub(super) foreign: Vec<PathBuf>,
}

/// Opens what is in the directory, or makes a new log in an empty one. Everything that it returns
/// is durable.
pub(super) fn recover(directory: &dyn Directory, options: &WalOptions) -> Result<Recovered, WalError> {
    let lacking = match recover_once(directory, options, false) {
        Err(WalError::Io { source, operation, file }) if lacks_space(&source) => {
            WalError::Io { source, operation, file }
        }
        ended => return ended,
    };
    // Where overwriting needs space, the reserve is the last that there is. All of it once more: a sync may have failed, and
    // only what is read and written again is known to be there.
    let mut reserve = Reserve::find(&Found::look(directory)?, 0);
    if reserve.spend(directory) { recover_once(directory, options, true) } else { Err(lacking) }
}

fn recover_once(directory: &dyn Directory, options: &WalOptions, spent: bool) -> Result<Recovered, WalError> {
    let found = Found::look(directory)?;
    let mut reserve = Reserve::find(&found, Sizes::of(options.real_segment_bytes()).reserve);
    if spent {
        reserve.spend(directory);
    }
    let (mut manifest, mut watermark, mark) = load_or_create(directory, options, &found, &mut reserve)?;
    // What the manifest says is durable before anything goes by it; and what goes, goes before anything is written, for
    // on a full volume there is no room before.
    sync_directory(directory)?;
    let foreign = found.foreign(directory, &manifest)?;
    remove_files(directory, &found.leftovers(directory, &manifest)?)?;
    let numbers = Numbers::new(&manifest, &found);
    sync_segments(directory, &manifest)?;
    let mut replay = Replay::new(directory, &manifest, options, mark);
    replay.scan()?;
    replay.check_mark()?;
    replay.settle_tail()?;
    let Replay { mut view, peers, floor, position: end, chain, .. } = replay;
    view.close_block();
    // Durable with the manifest below, before anybody can hear of this life.
    manifest.begin_life(random(), view.hard_state, view.last);
    numbers.set_aside(&mut manifest);
    // A crash may have come between a checkpoint and its purge.
    let purged = manifest.remove_before(floor);
    reserve.store(directory, &manifest).map_err(|failed| failed.error)?;
    remove_files(directory, &purged.iter().map(Segment::name).collect::<Vec<_>>())?;
    watermark.write_both(&Mark { durable: end, chain, last: view.last })?;
    Ok(Recovered { manifest, watermark, view, peers, end, chain, reserve, numbers, foreign })
}

fn load_or_create(
    directory: &dyn Directory,
    options: &WalOptions,
    found: &Found,
    reserve: &mut Reserve,
) -> Result<(Manifest, Watermark, Mark), WalError> {
    let manifest = match Manifest::load(directory)? {
        Some(manifest) => manifest,
        None => create(directory, options, found, reserve)?,
    };
    if manifest.cluster != options.cluster {
        return Err(WalError::WrongCluster { found: manifest.cluster, expected: options.cluster });
    }
    if manifest.node != options.node {
        return Err(WalError::WrongNode { found: manifest.node, expected: options.node });
    }
    if manifest.segments.is_empty() {
        // The creation did not get as far as the first segment: nothing was ever written.
        let mark = Mark { durable: 0, chain: 0, last: EntryId::ZERO };
        let mut watermark = Watermark::create(directory, manifest.incarnation)?;
        watermark.write_both(&mark)?;
        sync_directory(directory)?;
        return Ok((manifest, watermark, mark));
    }
    let (watermark, mark) = Watermark::open(directory, manifest.incarnation)?;
    Ok((manifest, watermark, mark))
}

/// Makes the manifest of a new log. It lists no segment yet: segments come into being only when
/// the manifest is durable, so that segments without a manifest are never a crashed creation.
fn create(
    directory: &dyn Directory,
    options: &WalOptions,
    found: &Found,
    reserve: &mut Reserve,
) -> Result<Manifest, WalError> {
    let restoring = found.has_file(RESTORING);
    if restoring || found.has_segments() || found.has_file(WATERMARK) {
        let reason = if restoring {
            "a restore of a backup into this directory did not end; empty it, and restore again"
        } else {
            "the manifest is missing"
        };
        let file = directory.path().join(MANIFEST);
        return Err(WalError::Corrupt { file, offset: 0, first: Index(1), last: None, reason });
    }
    if found.has_file(MANIFEST_NEW) {
        let file = directory.path().join(MANIFEST_NEW);
        Manifest::discard_new(directory).map_err(|source| WalError::Io { operation: "removing", file, source })?;
    }
    let manifest = Manifest {
        cluster: options.cluster,
        node: options.node,
        incarnation: random(),
        opening: 0,
        next_number: 1,
        segments: Vec::new(),
        lives: Vec::new(),
    };
    reserve.store(directory, &manifest).map_err(|failed| failed.error)?;
    Ok(manifest)
}

/// A number that no other log has. The standard library seeds its hashers from the operating
/// system; this is not a secret.
fn random() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.finish()
}

fn sync_directory(directory: &dyn Directory) -> Result<(), WalError> {
    let file = directory.path().to_path_buf();
    directory.sync().map_err(|source| WalError::Io { operation: "syncing", file, source })
}

fn sync_segments(directory: &dyn Directory, manifest: &Manifest) -> Result<(), WalError> {
    for segment in &manifest.segments {
        let path = directory.path().join(segment.name());
        let corrupt =
            |offset, reason| WalError::Corrupt { file: path.clone(), offset, first: Index(1), last: None, reason };
        let io = |source| WalError::Io { operation: "opening", file: path.clone(), source };
        let file = match directory.open(&segment.name()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(corrupt(0, "the segment is missing")),
            opened => opened.map_err(io)?,
        };
        let size = file.size().map_err(io)?;
        if size < segment.bytes {
            return Err(corrupt(size, "the segment is shorter than when it was created"));
        }
        file.sync().map_err(|source| WalError::Io { operation: "syncing", file: path, source })?;
    }
    Ok(())
}

/// Removes files that nothing needs. One that cannot be removed costs space, and is tried again at the next opening: no
/// other file ever takes its name.
fn remove_files(directory: &dyn Directory, names: &[String]) -> Result<(), WalError> {
    for name in names {
        let _ = directory.remove(name);
    }
    if names.is_empty() { Ok(()) } else { sync_directory(directory) }
}

/// Goes through the records in order and rebuilds the state in memory.
struct Replay<'a> {
    directory: &'a dyn Directory,
    manifest: &'a Manifest,
    options: &'a WalOptions,
    mark: Mark,
    view: View,
    peers: BTreeMap<NodeId, Remembered>,
    /// Whether the state is known from here on: from the first record of a log that was never
    /// purged, or from the first checkpoint of one that was.
    based: bool,
    /// The floor of the newest checkpoint: nothing before it is needed.
    floor: u64,
    /// The end of the last good record.
    position: u64,
    /// Its checksum.
    chain: u32,
    /// Its opening.
    opening: u64,
    /// Everything before this position is known to have been durable before this opening.
    proven: u64,
    mark_seen: bool,
    segment: Segment,
}

impl<'a> Replay<'a> {
    fn new(directory: &'a dyn Directory, manifest: &'a Manifest, options: &'a WalOptions, mark: Mark) -> Self {
        let empty = Segment { number: 0, base: 0, bytes: 0, chain: 0 };
        let segment = manifest.segments.first().copied().unwrap_or(empty);
        Self {
            directory,
            manifest,
            options,
            mark,
            view: View::default(),
            peers: BTreeMap::new(),
            based: segment.base == 0,
            floor: segment.base,
            position: segment.base,
            chain: segment.chain,
            opening: 0,
            proven: mark.durable,
            mark_seen: mark.durable < segment.base,
            segment,
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join(self.segment.name())
    }

    /// Damage at the current position, with the range of entries that may be lost.
    fn corrupt(&self, reason: &'static str) -> WalError {
        let first = self.view.last.index.next();
        let last = Some(self.mark.last.index).filter(|last| *last >= first);
        WalError::Corrupt { file: self.path(), offset: self.position - self.segment.base, first, last, reason }
    }

    fn unsupported(&self, what: &'static str) -> WalError {
        WalError::Unsupported { file: self.path(), offset: self.position - self.segment.base, what }
    }

    fn io(&self, operation: &'static str, source: io::Error) -> WalError {
        WalError::Io { operation, file: self.path(), source }
    }

    fn window(&self) -> Result<Window, WalError> {
        let file = self.directory.open(&self.segment.name()).map_err(|error| self.io("opening", error))?;
        Ok(Window { file, size: self.segment.bytes, start: 0, bytes: Vec::new() })
    }

    fn scan(&mut self) -> Result<(), WalError> {
        let segments = &self.manifest.segments;
        for (position, segment) in segments.iter().enumerate() {
            self.segment = *segment;
            let sealed_at = segments.get(position + 1);
            if self.position != segment.base || self.chain != segment.chain {
                return Err(self.corrupt("the segments do not follow each other"));
            }
            self.proven = self.proven.max(segment.base);
            self.view.close_block();
            let mut window = self.window()?;
            while sealed_at.is_none_or(|next| self.position < next.base) && self.record(&mut window)? {}
            if let Some(next) = sealed_at {
                if self.position != next.base || self.chain != next.chain {
                    return Err(self.corrupt("a record that was durable does not verify"));
                }
            }
        }
        Ok(())
    }

    /// Takes the record at the current position; false if there is no valid one.
    fn record(&mut self, window: &mut Window) -> Result<bool, WalError> {
        self.see_mark()?;
        let offset = self.position - self.segment.base;
        let frame = window.frame(offset).map_err(|error| self.io("reading", error))?;
        let Some(frame) = frame else { return Ok(false) };
        let header = frame.header;
        let at_home = header.incarnation == self.manifest.incarnation && header.lsn == self.position;
        let in_order = header.opening >= self.opening && header.opening <= self.manifest.opening;
        if !at_home || !in_order || header.chain != self.chain || header.durable > header.lsn {
            return Ok(false);
        }
        if !Header::is_supported(frame.payload) {
            return Err(self.unsupported("a record's format"));
        }
        let end = self.position + (FRAME_BYTES + frame.payload.len()) as u64;
        let place = Place { lsn: self.position, end };
        for op in frame.ops() {
            let (group, op) = op.map_err(|what| self.unsupported(what))?;
            if group != self.options.group {
                return Err(WalError::WrongGroup { found: group, expected: self.options.group });
            }
            self.apply(op, place).map_err(|reason| self.corrupt(reason))?;
        }
        self.proven = self.proven.max(header.durable);
        (self.position, self.chain, self.opening) = (end, frame.crc, header.opening);
        Ok(true)
    }

    fn apply(&mut self, op: Op<'_>, place: Place) -> Result<(), Malformed> {
        match op {
            Op::HardState(hard_state) => self.view.hard_state = hard_state,
            Op::TruncateFrom(first) if first > self.view.base.index => self.view.truncate_from(first),
            // Behind a purge the first records may speak of entries that are gone.
            Op::TruncateFrom(first) if !self.based && first > Index::ZERO => self.restart(first),
            Op::TruncateFrom(_) => return Err("a truncation reaches behind the first entry"),
            Op::Entries(entries) => {
                if !self.based && self.view.last == self.view.base {
                    self.restart(entries.first.index);
                }
                if entries.count == 0 || entries.first.index != self.view.last.index.next() {
                    return Err("entries do not follow the last one");
                }
                self.view.append(entries.first, u64::from(entries.count), place);
                self.view.append_memberships(entries.memberships);
            }
            // Each is all that was known then; the newest prevails, for it only grows.
            Op::Peers(peers) => self.peers.extend(peers),
            Op::Checkpoint(checkpoint) => {
                self.check_checkpoint(checkpoint)?;
                self.floor = if self.based { self.view.floor(place.lsn) } else { self.floor };
            }
        }
        Ok(())
    }

    /// Forgets every entry; the next one is expected at `first`.
    fn restart(&mut self, first: Index) {
        self.view.restart(EntryId { index: first.previous(), term: Term::ZERO });
    }

    /// Carries out a compaction, and compares what it leaves with what the checkpoint says.
    fn check_checkpoint(&mut self, mut checkpoint: Checkpoint) -> Result<(), Malformed> {
        let Checkpoint { snapshot, base, .. } = checkpoint;
        let membership = checkpoint.membership.take();
        if snapshot.index < base.index {
            return Err("a checkpoint forgets entries that its snapshot does not cover");
        }
        if snapshot < self.view.snapshot {
            return Err("a checkpoint has an older snapshot than the one before it");
        }
        if !self.based {
            self.view.hard_state = checkpoint.hard_state;
            self.view.take_snapshot(snapshot, membership);
            return self.take_checkpoint(&checkpoint);
        }
        if checkpoint.hard_state != self.view.hard_state {
            return Err("a checkpoint contradicts the hard state before it");
        }
        if base.index < self.view.base.index {
            return Err("a checkpoint reaches behind the first entry");
        }
        self.view.compact(snapshot, base, membership);
        self.compare_last(&checkpoint)?;
        self.compare_terms(&checkpoint)
    }

    /// Behind a purge the first checkpoints may speak of entries that only a purged segment had;
    /// then a later one forgets those. The state is known from the first that all of is there.
    fn take_checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<(), Malformed> {
        let base = checkpoint.base;
        if checkpoint.last == base {
            // Nothing is left of what stood before, whether it was forgotten or never led here.
            self.view.restart(base);
        } else if self.view.last == self.view.base {
            self.view.restart(checkpoint.last);
        }
        if base.index < self.view.base.index {
            return self.compare_last(checkpoint);
        }
        self.compare_last(checkpoint)?;
        self.view.forget_through(base);
        self.based = true;
        self.compare_terms(checkpoint)
    }

    fn compare_last(&self, checkpoint: &Checkpoint) -> Result<(), Malformed> {
        if checkpoint.last == self.view.last { Ok(()) } else { Err("a checkpoint contradicts the entries before it") }
    }

    fn compare_terms(&self, checkpoint: &Checkpoint) -> Result<(), Malformed> {
        if checkpoint.terms != self.view.terms() {
            return Err("a checkpoint contradicts the terms before it");
        }
        Ok(())
    }

    /// Compares the watermark when the scan reaches its position.
    fn see_mark(&mut self) -> Result<(), WalError> {
        if self.position == self.mark.durable {
            self.mark_seen = true;
            if self.chain != self.mark.chain {
                return Err(self.corrupt("another record stands where the watermark was"));
            }
        }
        Ok(())
    }

    fn check_mark(&mut self) -> Result<(), WalError> {
        self.see_mark()?;
        if self.position < self.mark.durable {
            return Err(self.corrupt("a record that was durable does not verify"));
        }
        if !self.mark_seen {
            return Err(self.corrupt("the watermark stands inside a record"));
        }
        if !self.based {
            return Err(self.corrupt("the log was purged but holds no checkpoint"));
        }
        Ok(())
    }

    /// Makes the end of the log what the scan says it is: refuses if something behind it proves
    /// that more was durable, rewrites what is not proven to be on the medium, and cuts the rest.
    fn settle_tail(&mut self) -> Result<(), WalError> {
        if self.manifest.segments.is_empty() {
            return Ok(());
        }
        let mut window = self.window()?;
        let remains = self.inspect_tail(&mut window)?;
        let end = self.position - self.segment.base;
        // After a failed sync the page cache may show bytes that the medium never got, and a sync
        // may answer Ok for them. Written again, they are dirty again.
        let unproven = self.proven - self.segment.base;
        let mut settle = || -> io::Result<()> {
            let mut offset = unproven;
            while offset < end {
                let count = (end - offset).min(Window::BYTES);
                let bytes = window.get(offset, count as usize)?.ok_or(io::ErrorKind::UnexpectedEof)?.to_vec();
                window.file.write_at(offset, &bytes)?;
                offset += count;
            }
            if let Some((start, stop)) = remains {
                zero(&*window.file, start, stop)?;
            }
            if unproven < end || remains.is_some() { window.file.sync() } else { Ok(()) }
        };
        settle().map_err(|error| self.io("settling the end of", error))
    }

    /// The range of bytes behind the end that are not zero, as offsets in the file.
    fn inspect_tail(&self, window: &mut Window) -> Result<Option<(u64, u64)>, WalError> {
        const CHUNK_BYTES: u64 = 64 << 10;
        let io = |error| self.io("reading", error);
        let end = self.position - self.segment.base;
        let mut remains = None;
        let mut offset = end;
        while offset < self.segment.bytes {
            let stop = self.segment.bytes.min(offset + CHUNK_BYTES);
            let chunk = window.get(offset, (stop - offset) as usize).map_err(io)?;
            let chunk = chunk.ok_or_else(|| self.corrupt("the segment ends early"))?;
            if chunk.iter().any(|byte| *byte != 0) {
                remains = Some((remains.map_or(offset, |(start, _)| start), stop));
                // A frame's first bytes may be the last zeros of the chunk before.
                let start = offset.saturating_sub(FRAME_BYTES as u64).max(end + 1);
                for candidate in start..stop {
                    if self.proves_loss(window, candidate).map_err(io)? {
                        return Err(self.corrupt("a later record says that more was durable"));
                    }
                }
            }
            offset = stop;
        }
        Ok(remains)
    }

    /// Whether an intact record of this log stands here that was written when bytes behind the end
    /// were durable.
    fn proves_loss(&self, window: &mut Window, offset: u64) -> io::Result<bool> {
        let lsn = self.segment.base + offset;
        let incarnation = self.manifest.incarnation;
        match window.get(offset, FRAME_BYTES + HEADER_BYTES)? {
            Some(bytes) if Header::could_start(bytes, incarnation, lsn) => {}
            _ => return Ok(false),
        }
        let frame = window.frame(offset)?;
        Ok(frame.is_some_and(|frame| frame.header.durable > self.position))
    }
}

/// A run of a file's bytes held in memory.
struct Window {
    file: Arc<dyn RawFile>,
    /// How far to read at most.
    size: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    const BYTES: u64 = 1 << 20;

    /// The bytes at `[offset, offset + count)`; `None` if the file ends before.
    fn get(&mut self, offset: u64, count: usize) -> io::Result<Option<&[u8]>> {
        let end = offset + count as u64;
        if end > self.size {
            return Ok(None);
        }
        if offset < self.start || end > self.start + self.bytes.len() as u64 {
            let wanted = (self.size - offset).min(Self::BYTES.max(count as u64));
            self.bytes.resize(wanted as usize, 0);
            self.start = offset;
            let filled = read_full(&*self.file, offset, &mut self.bytes)?;
            self.bytes.truncate(filled);
            if filled < count {
                return Ok(None);
            }
        }
        let from = (offset - self.start) as usize;
        Ok(Some(&self.bytes[from..from + count]))
    }

    /// The frame at `offset`, if its checksum holds.
    fn frame(&mut self, offset: u64) -> io::Result<Option<Frame<'_>>> {
        let Some(head) = self.get(offset, FRAME_BYTES)? else { return Ok(None) };
        let Some(payload) = payload_len(head) else { return Ok(None) };
        Ok(self.get(offset, FRAME_BYTES + payload)?.and_then(Frame::verify))
    }
}
