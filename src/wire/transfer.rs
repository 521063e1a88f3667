//! The bodies of the frames that carry snapshots: a request, a chunk, and that there is none.

use super::body::view;
use super::{EncodeError, Frame, FrameError, kind, write};
use crate::snapshot::{CHUNK_BYTES_MAX, Chunk, ChunkRequest, METADATA_BYTES_MAX};
use crate::types::{EntryId, GroupId};
use bytes::Bytes;
use pack_io::{DeserializeView, Encoder, Serialize};

/// The largest frame with a chunk, in bytes: content, metadata, and what is around them.
pub const CHUNK_FRAME_BYTES_MAX: usize = CHUNK_BYTES_MAX as usize + METADATA_BYTES_MAX + 1024;

/// The body of a request, and of the answer that there is no such chunk.
#[derive(Serialize, DeserializeView)]
#[pack_io(version = 1)]
struct ChunkRequestBody {
    last_index: u64,
    last_term: u64,
    chunk: u64,
}

#[derive(Serialize, DeserializeView)]
#[pack_io(version = 1)]
struct ChunkBody<'a> {
    last_index: u64,
    last_term: u64,
    identity: u64,
    number: u64,
    total_bytes: u64,
    chunk_bytes: u32,
    checksum: u32,
    metadata: &'a [u8],
    data: &'a [u8],
}

/// The kind and the group of a frame that carries snapshots; `None` for any other.
pub(super) fn kind_of(frame: &Frame) -> Option<(u16, GroupId)> {
    match frame {
        Frame::ChunkRequest { group, .. } => Some((kind::CHUNK_REQUEST, *group)),
        Frame::Chunk { group, .. } => Some((kind::CHUNK, *group)),
        Frame::NoChunk { group, .. } => Some((kind::NO_CHUNK, *group)),
        _ => None,
    }
}

pub(super) fn encode(frame: &Frame, encoder: &mut Encoder) -> Result<(), EncodeError> {
    match frame {
        Frame::ChunkRequest { request, .. } | Frame::NoChunk { request, .. } => {
            let ChunkRequest { snapshot, chunk } = *request;
            write(encoder, &ChunkRequestBody { last_index: snapshot.index.0, last_term: snapshot.term.0, chunk })
        }
        Frame::Chunk { chunk, .. } => encode_chunk(chunk, encoder),
        _ => Err(EncodeError::Field { field: "kind" }),
    }
}

fn encode_chunk(chunk: &Chunk, encoder: &mut Encoder) -> Result<(), EncodeError> {
    // Before it is copied: what nobody would accept must not grow the buffer for good.
    if chunk.metadata.len() > METADATA_BYTES_MAX {
        return Err(EncodeError::Field { field: "metadata" });
    }
    if chunk.data.len() > CHUNK_BYTES_MAX as usize {
        return Err(EncodeError::Field { field: "data" });
    }
    write(
        encoder,
        &ChunkBody {
            last_index: chunk.snapshot.index.0,
            last_term: chunk.snapshot.term.0,
            identity: chunk.identity,
            number: chunk.number,
            total_bytes: chunk.total_bytes,
            chunk_bytes: chunk.chunk_bytes,
            checksum: chunk.checksum,
            metadata: &chunk.metadata,
            data: &chunk.data,
        },
    )
}

pub(super) fn decode(
    kind: u16,
    group: GroupId,
    body: &[u8],
    share: impl Fn(&[u8]) -> Bytes,
) -> Result<Frame, FrameError> {
    let request = || {
        let body: ChunkRequestBody = view(kind, body)?;
        Ok(ChunkRequest { snapshot: EntryId::new(body.last_index, body.last_term), chunk: body.chunk })
    };
    match kind {
        kind::CHUNK_REQUEST => Ok(Frame::ChunkRequest { group, request: request()? }),
        kind::NO_CHUNK => Ok(Frame::NoChunk { group, request: request()? }),
        kind::CHUNK => {
            let body: ChunkBody<'_> = view(kind, body)?;
            if body.metadata.len() > METADATA_BYTES_MAX || body.data.len() > CHUNK_BYTES_MAX as usize {
                return Err(FrameError::Body { kind, what: "a chunk is larger than any can be" });
            }
            let chunk = Chunk {
                snapshot: EntryId::new(body.last_index, body.last_term),
                identity: body.identity,
                number: body.number,
                total_bytes: body.total_bytes,
                chunk_bytes: body.chunk_bytes,
                metadata: share(body.metadata),
                checksum: body.checksum,
                data: share(body.data),
            };
            Ok(Frame::Chunk { group, chunk })
        }
        // Of a later version of the transfer.
        kind => Ok(Frame::Unknown { kind }),
    }
}
