//! Frames from and to bytes, for all tests of the wire.

use bytes::Bytes;
use raft_io::wire::{self, Frame, FrameError, Limits};

pub(crate) const LIMITS: Limits = Limits { frame_bytes_max: 1 << 20 };

/// The bytes of a frame that may be sent.
pub(crate) fn encode(frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    match frame {
        Frame::Message { group, message } => wire::encode_message(*group, message, &LIMITS, &mut bytes).unwrap(),
        Frame::ChunkRequest { .. } | Frame::Chunk { .. } | Frame::NoChunk { .. } => {
            wire::encode_transfer(frame, &mut bytes).unwrap();
        }
        control => wire::encode_control(control, &mut bytes).unwrap(),
    }
    bytes
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Frame, FrameError> {
    let shared = wire::decode(&Bytes::copy_from_slice(bytes), &LIMITS);
    assert_eq!(shared, wire::decode_borrowed(bytes, &LIMITS), "both decoders agree");
    shared
}

/// A frame with a right length and checksum around anything.
pub(crate) fn seal(protocol: u8, kind: u16, flags: u8, group: u64, body: &[u8]) -> Vec<u8> {
    let counted = [&[protocol][..], &kind.to_le_bytes(), &[flags], &group.to_le_bytes(), body].concat();
    let checksum = crc32c::crc32c(&counted).to_le_bytes();
    [&(counted.len() as u32).to_le_bytes()[..], &checksum, &counted].concat()
}

/// Unsigned LEB128, as pack-io writes numbers.
pub(crate) fn varint(mut value: u64, output: &mut Vec<u8>) {
    while value >= 0x80 {
        output.push(value as u8 | 0x80);
        value >>= 7;
    }
    output.push(value as u8);
}
