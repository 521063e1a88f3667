//! A snapshot of a peer, on its way into a file.

use super::super::assembly::Assembly;
use super::super::chunk::{Chunk, ChunkRequest};
use super::super::{Header, ReceiveError, SnapshotInfo, SnapshotReceiver};
use super::format::{
    Place, Role, Source, chunk_offset, encode_header, encode_trailer, file_bytes, file_name, trailer_offset,
};
use super::{Claim, SnapshotError, Unsynced};
use crate::log::wal::RawFile;
use std::boxed::Box;
use std::io;
use std::sync::Arc;
use std::vec::Vec;

pub(super) struct FileReceiver {
    claim: Claim,
    assembly: Assembly,
    /// There is one from the first chunk on.
    file: Option<Arc<dyn RawFile>>,
    /// Why nothing is accepted any more: complete, or failed.
    ended: Option<SnapshotError>,
    /// A chunk with its checksum; kept between chunks.
    buffer: Vec<u8>,
    unsynced: Unsynced,
}

impl FileReceiver {
    /// Goes on with what is found, as far as it verifies.
    pub(super) fn begin(claim: Claim) -> Result<Self, SnapshotError> {
        let assembly = Assembly::new(claim.shared.group, claim.last);
        let unsynced = Unsynced::default();
        let mut receiver = Self { claim, assembly, file: None, ended: None, buffer: Vec::new(), unsynced };
        receiver.resume()?;
        Ok(receiver)
    }

    fn resume(&mut self) -> Result<(), SnapshotError> {
        let (shared, last) = (&self.claim.shared, self.claim.last);
        let file = match shared.directory.open(&file_name(last, Role::Partial)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened.map_err(shared.io("opening", last, Role::Partial))?,
        };
        let path = shared.path(last, Role::Partial);
        let source = Source { file: &*file, path: &path };
        // Torn before its first chunk was there, not readable, or of another version: begin anew.
        let Ok((header, header_bytes)) = source.header() else { return Ok(()) };
        if header.last != last || header.group != shared.group {
            return Ok(());
        }
        let (mut chunks, mut chain) = (0, header.seed());
        let writing = || shared.io("writing", last, Role::Partial);
        loop {
            let offset = chunk_offset(header_bytes, chunks, header.chunk_bytes);
            // The last chunk, if it is there, does not verify as any other would; like one that cannot be read
            // it is fetched again.
            let found = source.chunk_at(offset, header.chunk_bytes as usize, chain, None, &mut self.buffer);
            let Ok(checksum) = found else { break };
            if chunks == 0 {
                self.unsynced.write_at(shared, &*file, 0, &encode_header(&header)).map_err(writing())?;
            }
            // Once more: an earlier life's sync may have failed, after which the page cache shows what the medium
            // never got, and no later sync would bring it there.
            self.buffer.extend_from_slice(&checksum.to_le_bytes());
            self.unsynced.write_at(shared, &*file, offset, &self.buffer).map_err(writing())?;
            (chunks, chain) = (chunks + 1, checksum);
        }
        if chunks > 0 {
            self.assembly = Assembly::resume(header, chunks, chain);
            self.file = Some(file);
        }
        Ok(())
    }

    fn store(&mut self, header: &Header, chunk: &Chunk) -> Result<Option<SnapshotInfo>, SnapshotError> {
        let (shared, last) = (&self.claim.shared, self.claim.last);
        let encoded = encode_header(header);
        let header_bytes = encoded.len() as u64;
        let file = match self.file.take().filter(|_| chunk.number > 0) {
            Some(file) => file,
            None => {
                let created = shared.directory.create(&file_name(last, Role::Partial));
                let file = created.map_err(shared.io("creating", last, Role::Partial))?;
                file.write_at(0, &encoded).map_err(shared.io("writing", last, Role::Partial))?;
                file
            }
        };
        self.buffer.clear();
        self.buffer.extend_from_slice(&chunk.data);
        self.buffer.extend_from_slice(&chunk.checksum.to_le_bytes());
        let offset = chunk_offset(header_bytes, chunk.number, header.chunk_bytes);
        let written = self.unsynced.write_at(shared, &*file, offset, &self.buffer);
        written.map_err(shared.io("writing", last, Role::Partial))?;
        if chunk.is_last() {
            return self.complete(&*file, header, header_bytes, chunk).map(Some);
        }
        self.file = Some(file);
        Ok(None)
    }

    /// The chain of checksums has come to its end, which is a checksum of the whole.
    fn complete(
        &self,
        file: &dyn RawFile,
        header: &Header,
        header_bytes: u64,
        chunk: &Chunk,
    ) -> Result<SnapshotInfo, SnapshotError> {
        let (shared, last) = (&self.claim.shared, self.claim.last);
        let trailer = encode_trailer(chunk.total_bytes, chunk.checksum);
        let offset = trailer_offset(header_bytes, chunk.total_bytes, header.chunk_bytes);
        file.write_at(offset, &trailer).map_err(shared.io("writing", last, Role::Partial))?;
        let size = file.size().map_err(shared.io("measuring", last, Role::Partial))?;
        if size != file_bytes(header_bytes, chunk.total_bytes, header.chunk_bytes) {
            let source = Source { file, path: &shared.path(last, Role::Partial) };
            return Err(source.corrupt(size, "it is not as large as what was written to it"));
        }
        // Whole, it goes the way of a snapshot of one's own: one whose last sync fails is not gone on with.
        let renamed = shared.directory.rename(&file_name(last, Role::Partial), &file_name(last, Role::Temporary));
        renamed.map_err(shared.io("renaming", last, Role::Partial))?;
        let place = Place { header_bytes, seed: header.seed(), checksum: chunk.checksum };
        shared.publish(file, header, chunk.total_bytes, place)
    }

    /// Removes the file, under whichever name it has.
    fn discard(&mut self) {
        self.file = None;
        for role in [Role::Partial, Role::Temporary] {
            // There may be none. One that stays is written once more before it is gone on with.
            let _ = self.claim.shared.remove(self.claim.last, role);
        }
    }
}

impl SnapshotReceiver for FileReceiver {
    fn next(&self) -> ChunkRequest {
        self.assembly.next()
    }

    fn progress(&self) -> (u64, Option<u64>) {
        self.assembly.progress()
    }

    fn accept(&mut self, chunk: &Chunk) -> Result<Option<SnapshotInfo>, ReceiveError> {
        if let Some(ended) = &self.ended {
            return Err(ended.again().into());
        }
        let header = self.assembly.check(chunk)?;
        match self.store(&header, chunk) {
            Ok(complete) => {
                self.assembly.advance(header, chunk);
                if complete.is_some() {
                    self.ended = Some(SnapshotError::Exists { last: self.claim.last });
                }
                Ok(complete)
            }
            Err(error) => {
                self.discard();
                self.ended = Some(error.again());
                Err(error.into())
            }
        }
    }

    fn restart(&mut self) -> Result<(), SnapshotError> {
        if let Some(ended) = &self.ended {
            return Err(ended.again());
        }
        self.discard();
        self.assembly = Assembly::new(self.claim.shared.group, self.claim.last);
        Ok(())
    }

    fn abandon(mut self: Box<Self>) {
        if self.ended.is_none() {
            self.discard();
        }
    }
}
