//! A complete file as a verified stream.

use super::super::{SnapshotInfo, SnapshotReader};
use super::format::{Role, Source};
use super::{Held, SnapshotError};
use crate::log::wal::RawFile;
use std::io;
use std::sync::Arc;
use std::vec::Vec;

pub(super) struct FileReader {
    held: Held,
    file: Arc<dyn RawFile>,
    /// The chunk to be read next.
    next: u64,
    /// The checksum of the chunk before it.
    chain: u32,
    /// The content of the chunk before `next`, verified.
    buffer: Vec<u8>,
    /// How much of `buffer` was handed out, in bytes.
    at: usize,
}

impl FileReader {
    pub(super) fn new(held: Held, file: Arc<dyn RawFile>) -> Self {
        let chain = held.place().seed;
        Self { held, file, next: 0, chain, buffer: Vec::new(), at: 0 }
    }

    /// Reads the next chunk; it is the caller's only once it is verified.
    fn load(&mut self) -> Result<(), SnapshotError> {
        let last = self.held.info().last;
        let path = self.held.shared.path(last, Role::Complete);
        let source = Source { file: &*self.file, path: &path };
        self.at = 0;
        let read = source.chunk(self.held.info(), self.held.place(), self.next, self.chain, &mut self.buffer);
        if read.is_err() {
            self.buffer.clear();
        }
        self.chain = self.held.shared.note(last, read)?;
        self.next += 1;
        Ok(())
    }
}

impl io::Read for FileReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        // Also the only chunk of an empty content is verified.
        while self.at == self.buffer.len() && self.next < self.held.info().chunks() {
            self.load()?;
        }
        let rest = &self.buffer[self.at..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Ok(count)
    }
}

impl SnapshotReader for FileReader {
    fn info(&self) -> &SnapshotInfo {
        self.held.info()
    }
}
