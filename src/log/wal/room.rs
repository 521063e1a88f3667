//! Room on a full volume: a reserve that the log gives up when it could not go on otherwise, and the files that it makes
//! way with.
//!
//! Two things must succeed on a full volume, so that a node opens there and purges its way out: the manifest is replaced,
//! and a hard state, a no-op or a checkpoint finds room in the log. The file RESERVE holds the space for both. It is full of
//! zeros, so that the volume really set it aside; removing it is the only use of it. It is made again as soon as there is
//! room.

use super::error::WalError;
use super::manifest::{MANIFEST_NEW, Manifest, NotStored, segment_number};
use super::peers::MEMORY_NEW;
use super::store::zero;
use crate::directory::{Directory, read_full};
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::string::String;
use std::vec::Vec;

pub(super) const RESERVE: &str = "RESERVE";
/// Enough for a manifest with thousands of segments, and for a small segment.
const RESERVE_BYTES: u64 = 256 << 10;
/// A segment for what must be written on a full volume: elections, and the checkpoint that makes room.
const SMALL_SEGMENT_BYTES: u64 = 64 << 10;
/// What commands leave of each segment for that, unless the next one is prepared.
const TAIL_BYTES: u64 = 64 << 10;

/// Whether the file system says that there is no space, or no more for us.
pub(super) fn lacks_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The sizes of what is set aside, for segments of this size: small logs set little aside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) reserve: u64,
    pub(super) small_segment: u64,
    pub(super) tail: u64,
}

impl Sizes {
    pub(super) fn of(segment_bytes: u64) -> Self {
        Self {
            reserve: RESERVE_BYTES.min(segment_bytes.saturating_mul(2)),
            small_segment: SMALL_SEGMENT_BYTES.min(segment_bytes),
            tail: TAIL_BYTES.min(segment_bytes / 8),
        }
    }
}

/// What lies in a directory: by whom and what for.
pub(super) struct Found {
    /// Regular files, by name.
    files: BTreeSet<String>,
    /// What is none: directories, links, devices.
    others: BTreeSet<String>,
}

impl Found {
    pub(super) fn look(directory: &dyn Directory) -> Result<Self, WalError> {
        let failed = |source| WalError::Io { operation: "listing", file: directory.path().to_path_buf(), source };
        let files = directory.names().map_err(failed)?.into_iter().collect();
        let others = directory.others().map_err(failed)?.into_iter().collect();
        Ok(Self { files, others })
    }

    pub(super) fn has_file(&self, name: &str) -> bool {
        self.files.contains(name)
    }

    /// Whether there are segments, or what passes for some.
    pub(super) fn has_segments(&self) -> bool {
        self.files.iter().chain(&self.others).any(|name| segment_number(name).is_some())
    }

    /// Whether it is the log's own file, listed or not: a regular file with the name of a segment whose number the manifest
    /// set aside. Version 0.6.0 set a number aside only once its file was full of zeros: one that is being made then has the
    /// next number and nothing in it.
    fn is_own(&self, directory: &dyn Directory, manifest: &Manifest, name: &str) -> Result<bool, WalError> {
        let Some(number) = segment_number(name).filter(|_| self.has_file(name)) else { return Ok(false) };
        if number != manifest.next_number {
            return Ok((1..manifest.next_number).contains(&number));
        }
        let mut head = [0; 4096];
        let read = directory.open(name).and_then(|file| read_full(&*file, 0, &mut head));
        read.map_err(|source| WalError::Io { operation: "reading", file: directory.path().join(name), source })?;
        Ok(head.iter().all(|byte| *byte == 0))
    }

    /// The log's own files that nothing needs: a manifest and segments that were being made when the process died, and
    /// purged segments.
    pub(super) fn leftovers(&self, directory: &dyn Directory, manifest: &Manifest) -> Result<Vec<String>, WalError> {
        let mut leftovers = Vec::new();
        for name in &self.files {
            if [MANIFEST_NEW, MEMORY_NEW].contains(&name.as_str())
                || (!is_listed(manifest, name) && self.is_own(directory, manifest, name)?)
            {
                leftovers.push(name.clone());
            }
        }
        Ok(leftovers)
    }

    /// What looks like a segment and is none that this log made. It is left alone.
    pub(super) fn foreign(&self, directory: &dyn Directory, manifest: &Manifest) -> Result<Vec<PathBuf>, WalError> {
        let mut foreign = Vec::new();
        for name in self.files.iter().chain(&self.others) {
            let alike = name.len() >= 4 && name.is_char_boundary(name.len() - 4);
            let alike = alike && name[name.len() - 4..].eq_ignore_ascii_case(".wal");
            if alike && !is_listed(manifest, name) && !self.is_own(directory, manifest, name)? {
                foreign.push(directory.path().join(name));
            }
        }
        Ok(foreign)
    }
}

/// The numbers that new segments may have, each once.
#[derive(Debug)]
pub(super) struct Numbers {
    next: u64,
    /// At or after `next`: their names were taken when the log was opened.
    taken: BTreeSet<u64>,
}

impl Numbers {
    /// How many the manifest sets aside: more than are ever made between two manifests.
    const AHEAD: u64 = 16;

    /// Those that the manifest set aside before are not used: nobody knows which of them were.
    pub(super) fn new(manifest: &Manifest, found: &Found) -> Self {
        let next = manifest.next_number;
        let numbers = found.files.iter().chain(&found.others).filter_map(|name| segment_number(name));
        Self { next, taken: numbers.filter(|number| *number >= next).collect() }
    }

    /// Before the manifest is stored: it sets aside the numbers of the segments that are made before the next one.
    pub(super) fn set_aside(&self, manifest: &mut Manifest) {
        let ahead = Self::AHEAD + self.taken.len() as u64;
        manifest.next_number = manifest.next_number.max(self.next.saturating_add(ahead));
    }

    /// The number of the next segment.
    pub(super) fn next(&mut self) -> u64 {
        while self.taken.contains(&self.next) {
            self.next += 1;
        }
        self.next
    }

    /// There is a file with the next number.
    pub(super) fn use_up(&mut self) {
        self.next += 1;
    }
}

fn failed_to_make(directory: &dyn Directory, source: io::Error) -> WalError {
    WalError::Io { operation: "making", file: directory.path().join(RESERVE), source }
}

fn is_listed(manifest: &Manifest, name: &str) -> bool {
    manifest.segments.iter().any(|segment| segment.name() == name)
}

/// The reserve of one log.
#[derive(Debug)]
pub(super) struct Reserve {
    bytes: u64,
    /// Whether it is there.
    held: bool,
    /// Whether it is known to have its full size.
    whole: bool,
    /// Whether its room is needed for overwriting, on a file system that copies on write: it is not made again before a
    /// purge.
    spent: bool,
}

impl Reserve {
    /// Less than this is no reserve: a manifest of a few segments.
    const BYTES_MIN: u64 = 4096;

    /// One that is too small is made anew once the log is open; until then it is better than none.
    pub(super) fn find(found: &Found, bytes: u64) -> Self {
        Self { bytes, held: found.has_file(RESERVE), whole: false, spent: false }
    }

    /// Makes it if it is missing or too small.
    ///
    /// # Errors
    /// There is no room for all of it. What fits is kept: it is enough for a manifest at least, or there is none.
    pub(super) fn restore(&mut self, directory: &dyn Directory) -> Result<(), WalError> {
        if self.spent {
            return Err(failed_to_make(directory, io::ErrorKind::StorageFull.into()));
        }
        self.whole = self.whole || (self.held && self.is_whole(directory));
        if self.whole {
            return Ok(());
        }
        let failed = |source| failed_to_make(directory, source);
        let file = directory.create(RESERVE).map_err(failed)?;
        self.held = true;
        let filled = zero(&*file, 0, self.bytes);
        let kept = filled.is_ok() || file.size().is_ok_and(|size| size >= Self::BYTES_MIN);
        let durable = file.sync().and_then(|()| directory.sync());
        if !kept || durable.is_err() {
            self.give_up(directory);
        }
        self.whole = self.held && filled.is_ok();
        filled.and(durable).map_err(failed)
    }

    fn is_whole(&self, directory: &dyn Directory) -> bool {
        directory.open(RESERVE).and_then(|file| file.size()).is_ok_and(|size| size >= self.bytes)
    }

    /// Frees its space; false if there was none.
    pub(super) fn give_up(&mut self, directory: &dyn Directory) -> bool {
        self.whole = false;
        if !std::mem::take(&mut self.held) {
            return false;
        }
        // Nothing depends on it being gone; on some file systems the space is free only after a sync.
        directory.remove(RESERVE).is_ok_and(|()| {
            let _ = directory.sync();
            true
        })
    }

    /// Frees its space for overwriting; false if there was none. It stays away until a purge.
    pub(super) fn spend(&mut self, directory: &dyn Directory) -> bool {
        self.spent = true;
        self.give_up(directory)
    }

    /// A purge made room: the reserve may be made again.
    pub(super) fn replenish(&mut self, directory: &dyn Directory) -> Result<(), WalError> {
        self.spent = false;
        self.restore(directory)
    }

    /// Stores the manifest, with the reserve's space if there is no other.
    pub(super) fn store(&mut self, directory: &dyn Directory, manifest: &Manifest) -> Result<(), NotStored> {
        match manifest.store(directory) {
            Err(NotStored { renamed: false, error: WalError::Io { source, .. } })
                if lacks_space(&source) && self.give_up(directory) =>
            {
                let stored = manifest.store(directory);
                // The manifest before it has gone, so that there is room again; whoever comes next must not get it.
                let _ = self.restore(directory);
                stored
            }
            stored => stored,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_the_log_gives_are_those_of_segments() {
        assert_eq!(segment_number("00000000000000ff.wal"), Some(255));
        for name in [
            "backup.wal",
            "0000000000000001 (copy).wal",
            "00000000000000FF.wal",
            "00000000000000ff.WAL",
            "+000000000000001.wal",
            "1.wal",
            "00000000000000001.wal",
            "0000000000000001.wal~",
            "0000000000000001",
            ".wal",
            "",
        ] {
            assert_eq!(segment_number(name), None, "{name}");
        }
    }
}
