//! Snapshots on the wire: limits, versions, sharing, totality on arbitrary bytes. `tests/wire.rs` has their golden
//! bytes.
#![cfg(feature = "framing")]

mod wire_support;

use bytes::Bytes;
use proptest::prelude::*;
use raft_io::snapshot::{CHUNK_BYTES_MAX, Chunk, ChunkRequest, METADATA_BYTES_MAX};
use raft_io::wire::{self, EncodeError, Frame, FrameError, HEADER_BYTES, Limits, Purpose};
use raft_io::{EntryId, GroupId};
use wire_support::{decode, encode, seal, varint};

fn golden(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/wire_golden/{name}.hex", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

fn chunk(data: Vec<u8>, metadata: Vec<u8>) -> Chunk {
    Chunk {
        snapshot: EntryId::new(300, 8),
        identity: 7,
        number: 0,
        total_bytes: 2_000,
        chunk_bytes: 512,
        metadata: metadata.into(),
        checksum: 0xdead_beef,
        data: data.into(),
    }
}

#[test]
fn a_chunk_is_a_slice_of_its_frame_and_no_larger_than_any_can_be() {
    let limits = Limits { frame_bytes_max: wire::CHUNK_FRAME_BYTES_MAX };
    let (data, metadata) = (vec![7; CHUNK_BYTES_MAX as usize], vec![8; METADATA_BYTES_MAX]);
    let whole = chunk(data, metadata);
    let frame = |chunk: &Chunk| Frame::Chunk { group: GroupId(0), chunk: chunk.clone() };
    let bytes = Bytes::from(encode(&frame(&whole)));
    let Ok(Frame::Chunk { chunk, .. }) = wire::decode(&bytes, &limits) else { panic!("not a chunk") };
    assert_eq!(chunk, whole, "the largest that a sender makes is taken");
    for part in [&chunk.data, &chunk.metadata] {
        assert!(bytes.as_ptr_range().contains(&part.as_ptr()), "a part was copied");
    }
    let mut buffer = Vec::new();
    let large = Chunk { data: vec![7; CHUNK_BYTES_MAX as usize + 1].into(), ..whole.clone() };
    assert_eq!(wire::encode_transfer(&frame(&large), &mut buffer), Err(EncodeError::Field { field: "data" }));
    let large = Chunk { metadata: vec![8; METADATA_BYTES_MAX + 1].into(), ..whole };
    assert_eq!(wire::encode_transfer(&frame(&large), &mut buffer), Err(EncodeError::Field { field: "metadata" }));
    assert_eq!(wire::encode_transfer(&Frame::Ping, &mut buffer), Err(EncodeError::Field { field: "kind" }));
    assert!(buffer.is_empty());
}

/// Version and length of a chunk's body, its numbers, and then two lengths that lie.
#[test]
fn lengths_within_a_chunk_are_checked_before_anything_is_allocated() {
    let numbers = [1, 1, 1, 0, 9, 0, 0, 0];
    for lie in [u64::MAX, 1 << 32, 100] {
        let mut fields = numbers[..7].to_vec();
        varint(lie, &mut fields);
        let body = [&[1, fields.len() as u8][..], &fields].concat();
        let error = decode(&seal(wire::TRANSFER_PROTOCOL, wire::kind::CHUNK, 0, 0, &body)).unwrap_err();
        let expected = ["a length exceeds the body", "ends too early"];
        let FrameError::Body { kind: wire::kind::CHUNK, what } = error else { panic!("{error}") };
        assert!(expected.contains(&what), "{what}");
    }
}

/// Whatever frames a receiver takes: parts that no store makes are refused.
#[test]
fn parts_of_a_chunk_are_no_longer_than_any_can_be() {
    let limits = Limits { frame_bytes_max: 16 << 20 };
    let decoded = |metadata: usize, data: usize| {
        let mut fields = vec![1, 1, 1, 0, 9, 0, 0];
        for length in [metadata, data] {
            varint(length as u64, &mut fields);
            fields.resize(fields.len() + length, 7);
        }
        let mut body = vec![1];
        varint(fields.len() as u64, &mut body);
        body.extend(fields);
        wire::decode(&seal(wire::TRANSFER_PROTOCOL, wire::kind::CHUNK, 0, 0, &body).into(), &limits)
    };
    let (metadata, data) = (METADATA_BYTES_MAX, CHUNK_BYTES_MAX as usize);
    assert!(matches!(decoded(metadata, data), Ok(Frame::Chunk { .. })));
    for refused in [decoded(metadata + 1, 0), decoded(0, data + 1)] {
        assert!(matches!(refused, Err(FrameError::Body { kind: wire::kind::CHUNK, .. })), "{refused:?}");
    }
}

#[test]
fn the_transfer_has_versions_of_its_own() {
    let request = |protocol| decode(&seal(protocol, wire::kind::CHUNK_REQUEST, 0, 0, &[1, 3, 7, 2, 0]));
    let expected = ChunkRequest { snapshot: EntryId::new(7, 2), chunk: 0 };
    assert_eq!(request(65), Ok(Frame::ChunkRequest { group: GroupId(0), request: expected }));
    assert_eq!(request(1), Err(FrameError::Protocol { protocol: 1, kind: 64 }));
    assert_eq!(decode(&seal(65, 127, 0, 0, b"later")), Ok(Frame::Unknown { kind: 127 }));
    assert_eq!(decode(&seal(65, 128, 0, 0, b"later")), Err(FrameError::Protocol { protocol: 65, kind: 128 }));
}

/// A hello of a server that knows nothing of purposes is one for messages; a purpose of a later version is
/// told apart from both.
#[test]
fn a_hello_says_what_for() {
    let purpose = |name: &str| match decode(&golden(name)) {
        Ok(Frame::Hello(hello)) => hello.purpose,
        other => panic!("{other:?}"),
    };
    assert_eq!(purpose("hello"), Purpose::Messages);
    assert_eq!(purpose("hello_for_snapshots"), Purpose::Snapshots);
    let mut later = golden("hello_for_snapshots");
    *later.last_mut().unwrap() = 9;
    let Ok(Frame::Hello(hello)) = decode(&seal(0, 1, 0, 0, &later[HEADER_BYTES..])) else { panic!("not a hello") };
    assert_eq!(hello.purpose, Purpose::Other { code: 9 });
}

fn numbers() -> impl Strategy<Value = u64> {
    prop_oneof![0u64..200, any::<u64>(), Just(u64::MAX), Just(1 << 62)]
}

fn ids() -> impl Strategy<Value = EntryId> {
    (numbers(), numbers()).prop_map(|(index, term)| EntryId::new(index, term))
}

fn transfers() -> impl Strategy<Value = Frame> {
    let bytes = |most| prop::collection::vec(any::<u8>(), 0..most).prop_map(Bytes::from);
    let chunks = (ids(), numbers(), numbers(), numbers(), any::<u32>(), any::<u32>(), bytes(40), bytes(300)).prop_map(
        |(snapshot, identity, number, total_bytes, chunk_bytes, checksum, metadata, data)| Chunk {
            snapshot,
            identity,
            number,
            total_bytes,
            chunk_bytes,
            metadata,
            checksum,
            data,
        },
    );
    let requests = (ids(), numbers()).prop_map(|(snapshot, chunk)| ChunkRequest { snapshot, chunk });
    (numbers(), any::<bool>(), requests, prop::option::of(chunks)).prop_map(|(group, none, request, chunk)| {
        let group = GroupId(group);
        match chunk {
            Some(chunk) => Frame::Chunk { group, chunk },
            None if none => Frame::NoChunk { group, request },
            None => Frame::ChunkRequest { group, request },
        }
    })
}

/// Bytes that are almost a frame: a good one with a few bytes of its body changed, cut or added, under a
/// right checksum, so that the damage reaches the body's decoder.
fn mutants() -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    let tails = prop::collection::vec(any::<u8>(), 0..4);
    (transfers().boxed(), changes, any::<prop::sample::Index>(), tails).prop_map(|(frame, changes, cut, tail)| {
        let frame = encode(&frame);
        let mut body = frame[HEADER_BYTES..].to_vec();
        for (at, byte) in changes {
            let at = at.index(body.len());
            body[at] = byte;
        }
        if cut.index(4) == 0 {
            body.truncate(cut.index(body.len()));
        }
        body.extend(tail);
        seal(frame[8], u16::from_le_bytes([frame[9], frame[10]]), 0, 0, &body)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn every_chunk_comes_back_as_it_was(frame in transfers().boxed()) {
        prop_assert_eq!(decode(&encode(&frame)), Ok(frame));
    }

    #[test]
    fn arbitrary_bodies_never_panic(kind in 60u16..130, body in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&seal(wire::TRANSFER_PROTOCOL, kind, 0, 0, &body));
    }

    /// What decodes at all, encodes again to something that decodes to the same.
    #[test]
    fn mutated_frames_decode_to_something_sound_or_nothing(bytes in mutants()) {
        if let Ok(frame) = decode(&bytes) {
            prop_assert_eq!(decode(&encode(&frame)), Ok(frame));
        }
    }
}
