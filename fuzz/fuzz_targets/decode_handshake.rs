//! Any bytes as the body of a hello, a welcome, a refusal, a position or a history. What decodes must encode to something
//! that decodes to the same.
//!
//! `cargo +nightly fuzz run decode_handshake`
#![no_main]

use libfuzzer_sys::fuzz_target;
use raft_io::wire::{self, Limits};
use raft_io_fuzz::seal;

fuzz_target!(|input: (u8, &[u8])| {
    let (kind, body) = input;
    let limits = Limits::default();
    let kinds = [wire::kind::HELLO, wire::kind::WELCOME, wire::kind::REFUSAL, wire::kind::POSITION, wire::kind::HISTORY];
    let kind = kinds[usize::from(kind) % kinds.len()];
    if let Ok(frame) = wire::decode_borrowed(&seal(wire::CONTROL_PROTOCOL, kind, 0, 0, body), &limits) {
        let mut again = Vec::new();
        wire::encode_control(&frame, &mut again).expect("what was decoded is within the limits");
        assert_eq!(wire::decode_borrowed(&again, &limits), Ok(frame));
    }
});
