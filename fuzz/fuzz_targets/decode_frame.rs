//! Any bytes as a frame of any kind, under a right length and checksum, so that the fuzzer reaches
//! the body's decoder at once. What decodes must encode to something that decodes to the same.
//!
//! `cargo +nightly fuzz run decode_frame`
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use raft_io::wire::{self, Frame, Limits};
use raft_io_fuzz::seal;

fuzz_target!(|input: (bool, u16, u8, u64, &[u8])| {
    let (control, kind, flags, group, body) = input;
    let limits = Limits { frame_bytes_max: 64 << 10 };
    // The bytes as they are, too: length and checksum are decoded from strangers as well.
    let _ = wire::decode_borrowed(body, &limits);

    let protocol = if control { wire::CONTROL_PROTOCOL } else { wire::PROTOCOL };
    let kind = if control { kind % 8 } else { wire::kind::MESSAGES + kind % 8 };
    let frame = Bytes::from(seal(protocol, kind, flags & 1, group, body));
    let decoded = wire::decode(&frame, &limits);
    assert_eq!(decoded, wire::decode_borrowed(&frame, &limits));
    if let Ok(Frame::Message { group, message }) = decoded {
        let mut again = Vec::new();
        // A varint may come longer than needed, so that a frame may only shrink.
        wire::encode_message(group, &message, &limits, &mut again).expect("what was decoded is within the limits");
        let again = wire::decode(&Bytes::from(again), &limits).expect("what was encoded decodes");
        assert_eq!(again, Frame::Message { group, message });
    }
});
