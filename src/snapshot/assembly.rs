//! Which chunk comes next and whether it fits: what receiving is, wherever the bytes are put.

use super::chunk::{self, Chunk, ChunkRequest};
use super::{Header, METADATA_BYTES_MAX, ReceiveError};
use crate::types::{EntryId, GroupId};

/// How far a snapshot has been received.
#[derive(Clone, Debug)]
pub(super) struct Assembly {
    group: GroupId,
    last: EntryId,
    /// Known from chunk 0 on.
    pub(super) header: Option<Header>,
    /// The number of the chunk needed next. Only grows.
    next: u64,
    /// The checksum of the chunk before, or the header's seed.
    chain: u32,
    /// What the chunk before said; not known right after resuming. For progress only: a checksum
    /// covers it with the last chunk and not before.
    total_bytes: Option<u64>,
}

impl Assembly {
    pub(super) fn new(group: GroupId, last: EntryId) -> Self {
        Self { group, last, header: None, next: 0, chain: 0, total_bytes: None }
    }

    /// Goes on after `chunks` that were found and verified, the last of them with this checksum.
    #[cfg(feature = "persistence")]
    pub(super) fn resume(header: Header, chunks: u64, chain: u32) -> Self {
        Self { group: header.group, last: header.last, header: Some(header), next: chunks, chain, total_bytes: None }
    }

    pub(super) fn next(&self) -> ChunkRequest {
        ChunkRequest { snapshot: self.last, chunk: self.next }
    }

    pub(super) fn progress(&self) -> (u64, Option<u64>) {
        let chunk_bytes = self.header.as_ref().map_or(0, |header| u64::from(header.chunk_bytes));
        let received = self.next.saturating_mul(chunk_bytes);
        (self.total_bytes.map_or(received, |total| received.min(total)), self.total_bytes)
    }

    /// Whether `chunk` is the one needed next; changes nothing. The header is that of the snapshot.
    pub(super) fn check(&self, chunk: &Chunk) -> Result<Header, ReceiveError> {
        let refuse = |reason| Err(ReceiveError::Refused { chunk: chunk.number, reason });
        if chunk.snapshot != self.last {
            return refuse("it is of a snapshot of another entry");
        }
        if chunk.number != self.next {
            return Err(ReceiveError::OutOfOrder { expected: self.next, found: chunk.number });
        }
        if !chunk::is_size(chunk.total_bytes, chunk.chunk_bytes) {
            return refuse("its sizes are out of range");
        }
        let header = match &self.header {
            Some(header) => header.clone(),
            None => Header {
                group: self.group,
                last: self.last,
                identity: chunk.identity,
                chunk_bytes: chunk.chunk_bytes,
                metadata: chunk.metadata.clone(),
            },
        };
        if header.identity != chunk.identity || header.chunk_bytes != chunk.chunk_bytes {
            return Err(ReceiveError::OtherSnapshot { expected: header.identity, found: chunk.identity });
        }
        if chunk.metadata.len() > METADATA_BYTES_MAX || (chunk.number > 0 && !chunk.metadata.is_empty()) {
            return refuse("its metadata is too large, or not with chunk 0");
        }
        if chunk.number >= chunk::count(chunk.total_bytes, chunk.chunk_bytes) {
            return refuse("it lies behind the end");
        }
        if chunk.data.len() != chunk::data_bytes(chunk.number, chunk.total_bytes, chunk.chunk_bytes) {
            return refuse("its content has not the prescribed size");
        }
        let before = if self.header.is_some() { self.chain } else { header.seed() };
        let total_if_last = chunk.is_last().then_some(chunk.total_bytes);
        if chunk::checksum(before, &chunk.data, total_if_last) != chunk.checksum {
            return refuse("its checksum does not hold");
        }
        Ok(header)
    }

    /// Takes note that a checked chunk was stored.
    pub(super) fn advance(&mut self, header: Header, chunk: &Chunk) {
        self.header = Some(header);
        self.next += 1;
        self.chain = chunk.checksum;
        self.total_bytes = Some(chunk.total_bytes);
    }
}
