//! What the durable log's tests share: a log on a disk with what it must hold, and forged last records.

#![allow(dead_code)] // Each test file uses its part.

use raft_io::action::{Compaction, Write};
use raft_io::log::{LogView, RaftLog, SharedLog, WalError, WalLog, WalOptions};
use raft_io::testkit::disk::{FaultyDisk, Image};
use raft_io::testkit::log_suite::Model;
use raft_io::{ClusterId, Entries, Entry, EntryId, Index, Membership, NodeId, Payload};
use std::ops::Range;
use std::sync::Arc;

const WATERMARK: &str = "WATERMARK";

pub(crate) fn open(disk: &FaultyDisk) -> Result<WalLog, WalError> {
    let options = WalOptions::new(ClusterId(7), NodeId(1)).segment_bytes(4096).cache_bytes(300);
    WalLog::open_in(Arc::new(disk.clone()), options)
}

pub(crate) fn write(first: u64, terms: &[u64], bytes: usize) -> Write {
    let entry = |(position, term): (usize, &u64)| {
        let id = EntryId::new(Index(first).plus(position), *term);
        Entry { id, payload: Payload::Command(vec![first as u8; bytes].into()) }
    };
    Write { entries: terms.iter().enumerate().map(entry).collect::<Entries>(), ..Write::default() }
}

pub(crate) fn compaction(snapshot: (u64, u64), base: (u64, u64)) -> Write {
    let [snapshot, base] = [snapshot, base].map(|(index, term)| EntryId::new(index, term));
    let membership = Arc::new(Membership::new([snapshot.index.0, base.index.0]));
    Write { compaction: Some(Compaction { snapshot, base, membership }), ..Write::default() }
}

/// A log on a disk, and what it must hold.
pub(crate) struct Run {
    pub(crate) disk: FaultyDisk,
    pub(crate) log: WalLog,
    pub(crate) model: Model,
}

impl Run {
    pub(crate) fn new() -> Self {
        let disk = FaultyDisk::new();
        let log = open(&disk).expect("a new log opens");
        Self { disk, log, model: Model::default() }
    }

    pub(crate) fn synced(&mut self, write: Write) {
        self.model.write(&write);
        self.log.append(&mut vec![write]).expect("an append succeeds");
        self.log.sync().expect("a sync succeeds");
        let reader = self.log.reader();
        assert_eq!((reader.snapshot(), reader.base()), (self.model.snapshot, self.model.base));
        assert_eq!(reader.memberships(), self.model.memberships());
    }

    /// What is there after a loss of power.
    pub(crate) fn recovered(&self) -> Result<WalLog, WalError> {
        open(&FaultyDisk::from_image(&self.disk.durable_image()))
    }
}

pub(crate) fn segments(image: &Image) -> Vec<String> {
    image.keys().filter(|name| name.ends_with(".wal")).cloned().collect()
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The segment with the last record, and where this stands in it, frame included (`docs/FORMAT.md`).
pub(crate) fn last_record(image: &Image) -> (String, Range<usize>) {
    let base = |name: &String| u64_at(&image[name], 32);
    let name = segments(image).into_iter().max_by_key(base).expect("a segment");
    let segment = &image[&name];
    let mut last = 0..0;
    loop {
        let start = last.end;
        let end = start + 8 + u32_at(segment, start + 4) as usize;
        // What comes later is full of zeros, or of an earlier use of the file.
        if end == start + 8 || u64_at(segment, start + 32) != base(&name) + start as u64 {
            return (name, last);
        }
        last = start..end;
    }
}

/// A log whose last record is a compaction, to be changed.
pub(crate) struct Forgery {
    pub(crate) image: Image,
    pub(crate) model: Model,
}

impl Forgery {
    pub(crate) fn new(mut run: Run, last: Write) -> Self {
        let mark = run.disk.live_image()[WATERMARK].clone();
        run.synced(last);
        let mut image = run.disk.live_image();
        // The mark lags, as it may after a loss of power: nothing but the record itself speaks of it.
        image.insert(WATERMARK.into(), mark);
        Self { image, model: run.model }
    }

    /// Changes the operations of the last record, behind the group, and makes its checksum hold.
    pub(crate) fn with(&self, change: impl FnOnce(&mut Vec<u8>)) -> (Image, String, u64) {
        let (name, place) = last_record(&self.image);
        let mut image = self.image.clone();
        let segment = image.get_mut(&name).expect("the segment");
        let mut operations = segment[place.start + 57..place.end].to_vec();
        change(&mut operations);
        let end = place.start + 57 + operations.len();
        segment[place.start..].fill(0);
        segment[place.start..end]
            .copy_from_slice(&[&self.image[&name][place.start..place.start + 57], &operations].concat());
        let length = (end - place.start - 8) as u32;
        segment[place.start + 4..place.start + 8].copy_from_slice(&length.to_le_bytes());
        let crc = crc32c::crc32c(&segment[place.start + 4..end]);
        segment[place.start..place.start + 4].copy_from_slice(&crc.to_le_bytes());
        (image, name, place.start as u64)
    }

    pub(crate) fn assert_opens(&self, change: impl FnOnce(&mut Vec<u8>), expected: &Model) {
        let (image, ..) = self.with(change);
        let log = open(&FaultyDisk::from_image(&image)).expect("nothing contradicts");
        expected.assert_equals(&log);
    }

    pub(crate) fn assert_refused(&self, change: impl FnOnce(&mut Vec<u8>), expected: &str) {
        let (image, name, place) = self.with(change);
        match open(&FaultyDisk::from_image(&image)) {
            Err(WalError::Corrupt { file, offset, reason, .. }) => {
                assert!(file.ends_with(&name) && offset >= place, "{expected}: {file:?} {offset}");
                assert!(reason.contains(expected), "{reason}, not: {expected}");
            }
            other => panic!("{expected}: {other:?}"),
        }
    }
}

/// Where the fields of a checkpoint are, its code included.
pub(crate) const TERM: usize = 1;
pub(crate) const SNAPSHOT: usize = 18;
pub(crate) const BASE: usize = 34;
pub(crate) const LAST: usize = 50;
pub(crate) const RUNS: usize = 70;

/// Puts an entry's index and term there.
pub(crate) fn put(at: usize, index: u64, term: u64) -> impl FnOnce(&mut Vec<u8>) {
    move |operations| {
        operations[at..at + 8].copy_from_slice(&index.to_le_bytes());
        operations[at + 8..at + 16].copy_from_slice(&term.to_le_bytes());
    }
}

/// Makes a checkpoint, the only operation, one that knows of no configurations.
pub(crate) fn without_membership(operations: &mut Vec<u8>) {
    operations[0] = 6;
    operations.truncate(membership_at(operations));
}

/// Where the length of a checkpoint's configuration is.
pub(crate) fn membership_at(operations: &[u8]) -> usize {
    RUNS + 16 * u32_at(operations, RUNS - 4) as usize
}
