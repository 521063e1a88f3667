//! A snapshot of the own state machine, on its way into a file.

use super::super::{Header, SNAPSHOT_BYTES_MAX, SnapshotInfo, SnapshotWriter, chunk};
use super::format::{Place, Role, chunk_offset, encode_header, encode_trailer, file_name, trailer_offset};
use super::{Claim, SnapshotError, Unsynced};
use crate::log::wal::RawFile;
use std::boxed::Box;
use std::io;
use std::sync::Arc;
use std::vec::Vec;

pub(super) struct FileWriter {
    claim: Claim,
    header: Header,
    header_bytes: u64,
    file: Arc<dyn RawFile>,
    /// The chunk that is being filled; full only until it is known whether it is the last.
    buffer: Vec<u8>,
    /// Its number.
    next: u64,
    /// The checksum of the chunk before it.
    chain: u32,
    /// Content taken so far, in bytes.
    total: u64,
    unsynced: Unsynced,
    /// After it nothing is written any more.
    failed: Option<SnapshotError>,
    published: bool,
}

impl FileWriter {
    pub(super) fn begin(claim: Claim, header: Header) -> Result<Self, SnapshotError> {
        let created = claim.shared.directory.create(&file_name(claim.last, Role::Temporary));
        let file = created.map_err(claim.shared.io("creating", claim.last, Role::Temporary))?;
        let (encoded, chain) = (encode_header(&header), header.seed());
        let mut writer = Self {
            claim,
            header,
            header_bytes: encoded.len() as u64,
            file,
            buffer: Vec::new(),
            next: 0,
            chain,
            total: 0,
            unsynced: Unsynced::default(),
            failed: None,
            published: false,
        };
        writer.put(0, &encoded)?;
        Ok(writer)
    }

    fn put(&mut self, offset: u64, bytes: &[u8]) -> Result<(), SnapshotError> {
        let written = self.unsynced.write_at(&self.claim.shared, &*self.file, offset, bytes);
        written.map_err(self.claim.shared.io("writing", self.claim.last, Role::Temporary))
    }

    fn close_chunk(&mut self, total_if_last: Option<u64>) -> Result<(), SnapshotError> {
        self.chain = chunk::checksum(self.chain, &self.buffer, total_if_last);
        self.buffer.extend_from_slice(&self.chain.to_le_bytes());
        let offset = chunk_offset(self.header_bytes, self.next, self.header.chunk_bytes);
        let buffer = std::mem::take(&mut self.buffer);
        self.put(offset, &buffer)?;
        self.buffer = buffer;
        self.buffer.clear();
        self.next += 1;
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) -> Result<usize, SnapshotError> {
        let chunk_bytes = self.header.chunk_bytes as usize;
        if self.buffer.len() == chunk_bytes {
            self.close_chunk(None)?;
        }
        let taken = bytes.len().min(chunk_bytes - self.buffer.len());
        if self.total + taken as u64 > SNAPSHOT_BYTES_MAX {
            return Err(SnapshotError::TooLarge);
        }
        self.buffer.extend_from_slice(&bytes[..taken]);
        self.total += taken as u64;
        Ok(taken)
    }

    fn complete(&mut self) -> Result<SnapshotInfo, SnapshotError> {
        self.close_chunk(Some(self.total))?;
        let trailer = encode_trailer(self.total, self.chain);
        self.put(trailer_offset(self.header_bytes, self.total, self.header.chunk_bytes), &trailer)?;
        let place = Place { header_bytes: self.header_bytes, seed: self.header.seed(), checksum: self.chain };
        let info = self.claim.shared.publish(&*self.file, &self.header, self.total, place)?;
        self.published = true;
        Ok(info)
    }
}

impl io::Write for FileWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(failed) = &self.failed {
            return Err(failed.again().into());
        }
        if bytes.is_empty() {
            return Ok(0);
        }
        self.take(bytes).map_err(|error| {
            self.failed = Some(error.again());
            error.into()
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl SnapshotWriter for FileWriter {
    fn finish(mut self: Box<Self>) -> Result<SnapshotInfo, SnapshotError> {
        match self.failed.take() {
            Some(failed) => Err(failed),
            None => self.complete(),
        }
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        if !self.published {
            // What stays is removed at the next opening.
            let _ = self.claim.shared.remove(self.claim.last, Role::Temporary);
        }
    }
}
