//! Any bytes as a frame of any kind, under a right length and checksum, so that the fuzzer reaches
//! the body's decoder at once. What decodes must encode to something that decodes to the same.
//!
//! `cargo +nightly fuzz run decode_frame`
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use raft_io::wire::{self, Frame, Limits};
use raft_io_fuzz::seal;

fuzz_target!(|input: (u8, u16, u8, u64, &[u8])| {
    let (family, kind, flags, group, body) = input;
    let limits = Limits { frame_bytes_max: 64 << 10 };
    // The bytes as they are, too: length and checksum are decoded from strangers as well.
    let _ = wire::decode_borrowed(body, &limits);

    let (protocol, first) = match family % 3 {
        0 => (wire::CONTROL_PROTOCOL, 0),
        1 => (wire::PROTOCOL, wire::kind::MESSAGES),
        _ => (wire::TRANSFER_PROTOCOL, wire::kind::TRANSFER),
    };
    let kind = first + kind % 14;
    let frame = Bytes::from(seal(protocol, kind, flags & 1, group, body));
    let decoded = wire::decode(&frame, &limits);
    assert_eq!(decoded, wire::decode_borrowed(&frame, &limits));
    let mut again = Vec::new();
    // A varint may come longer than needed, so that a frame may only shrink.
    match &decoded {
        Ok(Frame::Message { group, message }) => wire::encode_message(*group, message, &limits, &mut again),
        Ok(frame @ (Frame::ChunkRequest { .. } | Frame::Chunk { .. } | Frame::NoChunk { .. })) => {
            wire::encode_transfer(frame, &mut again)
        }
        _ => return,
    }
    .expect("what was decoded is within the limits");
    assert_eq!(wire::decode(&Bytes::from(again), &limits), decoded);
});
