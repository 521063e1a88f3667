//! Configurations on the wire: what of hostile bytes is one, and what fits. `tests/wire.rs` has their golden bytes and
//! sends any of them.
#![cfg(feature = "framing")]

#[allow(dead_code, reason = "each test uses its part")]
mod wire_support;

use raft_io::message::{AppendEntriesRequest, InstallSnapshotRequest};
use raft_io::wire::{self, EncodeError, Frame, FrameError, Limits, kind};
use raft_io::{Entry, EntryId, GroupId, Index, Membership, Message, Payload, Term};
use std::sync::Arc;
use wire_support::{LIMITS, decode, varint};

/// A frame with a right length and checksum around a body with these fields.
fn seal(kind: u16, version: u8, fields: &[u8]) -> Vec<u8> {
    let body = [&[version][..], &prefixed(fields)].concat();
    wire_support::seal(wire::PROTOCOL, kind, 0, 0, &body)
}

fn prefixed(bytes: &[u8]) -> Vec<u8> {
    let mut prefixed = Vec::new();
    varint(bytes.len() as u64, &mut prefixed);
    prefixed.extend(bytes);
    prefixed
}

/// The two places where a configuration stands, around any bytes.
fn frames(configuration: &[u8]) -> [(u16, Vec<u8>); 2] {
    let block = [&[1, 9, 2][..], &prefixed(configuration)].concat();
    // Session 3; of an append, no history, and nothing that was acknowledged on no disk that is known.
    let append = [&[9, 0, 0, 0][..], &prefixed(&block), &[3, 0, 0, 0, 0]].concat();
    let install = [&[9, 4, 8][..], &prefixed(configuration), &[3]].concat();
    let (append_kind, install_kind) = (kind::APPEND_ENTRIES_REQUEST, kind::INSTALL_SNAPSHOT_REQUEST);
    [(append_kind, seal(append_kind, 2, &append)), (install_kind, seal(install_kind, 3, &install))]
}

fn messages(membership: &Arc<Membership>) -> [Message; 2] {
    let entry = Entry { id: EntryId::new(1, 9), payload: Payload::Membership(Arc::clone(membership)) };
    let (term, prev, commit) = (Term(9), EntryId::ZERO, Index(0));
    let append = AppendEntriesRequest {
        acknowledged: Default::default(),
        disk: Default::default(),
        history: None,
        term,
        prev,
        entries: [entry].into_iter().collect(),
        commit,
        session: Index(3),
    };
    let (last, membership, session) = (EntryId::new(4, 8), Arc::clone(membership), Index(3));
    let install = InstallSnapshotRequest { term, last, membership, session };
    [Message::AppendEntriesRequest(append), Message::InstallSnapshotRequest(install)]
}

fn encode(message: &Message, limits: &Limits) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = b"before".to_vec();
    let encoded = wire::encode_message(GroupId(0), message, limits, &mut bytes);
    assert!(bytes.starts_with(b"before") && (encoded.is_ok() || bytes.len() == 6), "the buffer is as it was");
    encoded.map(|()| bytes[6..].to_vec())
}

fn example() -> Membership {
    Membership::new([1, 2]).with_promotion(5).joint_from(&Membership::new([1, 3])).with_address(5, "five")
}

/// A configuration of exactly this many bytes.
fn of_bytes(bytes: usize) -> Membership {
    let plain = Membership::new([1, 2, 3]);
    let address = bytes - plain.encoded_len() - 12;
    plain.with_address(2, "a".repeat(address))
}

/// The layout of docs/FORMAT.md, spelt out without the encoder.
#[test]
fn configurations_are_laid_out_as_documented() {
    let membership = Arc::new(example());
    for (message, (_, frame)) in messages(&membership).into_iter().zip(frames(&membership.encode())) {
        assert_eq!(encode(&message, &LIMITS).unwrap(), frame);
        assert_eq!(decode(&frame), Ok(Frame::Message { group: GroupId(0), message }));
    }
}

#[test]
fn bytes_that_are_no_configuration_are_refused() {
    let good = example().encode();
    let mut hostile = vec![
        (vec![], "a configuration that does not end where its lists do"),
        ([&good[..], &[0]].concat(), "a configuration that does not end where its lists do"),
        ([&[3], &good[1..]].concat(), "a configuration in an unknown format"),
        ([&[2], &good[1..]].concat(), "a configuration of a history that is none"),
        (Membership::default().encode(), "a configuration without voters"),
        (vec![1; Membership::ENCODED_BYTES_MAX + 1], "a configuration that is too large"),
        // A list that says that it has four thousand millions.
        (vec![1, 255, 255, 255, 255], "a configuration that does not end where its lists do"),
    ];
    hostile.extend(
        (1..good.len()).map(|cut| (good[..cut].to_vec(), "a configuration that does not end where its lists do")),
    );
    // The first two voters, 1 and 2, the other way round, and twice the same.
    let (mut descending, mut twice) = (good.clone(), good.clone());
    (descending[5], descending[13], twice[13]) = (2, 1, 1);
    hostile.extend([descending, twice].map(|bytes| (bytes, "a configuration that contradicts itself")));
    for (bytes, expected) in hostile {
        for (kind, frame) in frames(&bytes) {
            assert_eq!(decode(&frame), Err(FrameError::Body { kind, what: expected }), "{bytes:02x?}");
        }
    }
}

/// Any byte of one changed to any other is another configuration or none, and never a panic.
#[test]
fn every_changed_byte_decodes_to_something_sound_or_nothing() {
    let good = example().encode();
    let (mut sound, mut refused) = (0, 0);
    for at in 0..good.len() {
        for byte in 0..=255 {
            let mut changed = good.clone();
            changed[at] = byte;
            for (_, frame) in frames(&changed) {
                match decode(&frame) {
                    Ok(Frame::Message { message, .. }) => {
                        sound += 1;
                        assert_eq!(encode(&message, &LIMITS).unwrap(), frame, "every configuration has one encoding");
                    }
                    Err(FrameError::Body { .. }) => refused += 1,
                    other => panic!("{other:?}"),
                }
            }
        }
    }
    assert!(sound > 1000 && refused > 1000, "{sound} and {refused}");
}

/// An entry's configuration that ends outside of its block.
#[test]
fn a_length_beyond_the_block_is_refused() {
    let (kind, what) = (kind::APPEND_ENTRIES_REQUEST, "a length exceeds the body");
    for length in [200, usize::MAX] {
        let mut block = vec![1, 9, 2];
        varint(length as u64, &mut block);
        let fields = [&[9, 0, 0, 0][..], &prefixed(&block)].concat();
        assert_eq!(decode(&seal(kind, 1, &fields)), Err(FrameError::Body { kind, what }));
    }
}

/// The largest configuration is sent and taken; a larger one, and one without voters, neither.
#[test]
fn what_a_receiver_would_refuse_is_not_sent() {
    let largest = Arc::new(of_bytes(Membership::ENCODED_BYTES_MAX));
    for message in messages(&largest) {
        let frame = encode(&message, &LIMITS).unwrap();
        assert_eq!(decode(&frame), Ok(Frame::Message { group: GroupId(0), message }));
    }
    let nobody = Membership::default().with_learner(2);
    for refused in [of_bytes(Membership::ENCODED_BYTES_MAX + 1), nobody, Membership::default()] {
        for message in messages(&Arc::new(refused)) {
            assert_eq!(encode(&message, &LIMITS), Err(EncodeError::Field { field: "membership" }));
        }
    }
}

/// A receiver with a limit below that gets what fits, and what does not fit is not sent.
#[test]
fn a_configuration_keeps_to_the_limit_of_the_frame() {
    let limits = Limits { frame_bytes_max: 1024 };
    let mut largest = [0; 2];
    for bytes in 100..1100 {
        for (largest, message) in largest.iter_mut().zip(messages(&Arc::new(of_bytes(bytes)))) {
            match encode(&message, &limits) {
                Ok(frame) => {
                    *largest = frame.len();
                    assert!(wire::decode_borrowed(&frame, &limits).is_ok(), "{bytes}");
                }
                Err(EncodeError::TooLarge { bytes, limit: 1024 }) => assert!(bytes > 1024),
                Err(other) => panic!("{other}"),
            }
        }
    }
    assert_eq!(largest, [1024; 2]);
}
