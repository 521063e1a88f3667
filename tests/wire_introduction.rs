//! What the two sides of a handshake say of their data: golden bytes are in `tests/wire.rs`; here limits, hostile lists,
//! and servers of 0.6, which say none of it.
#![cfg(feature = "framing")]

#[allow(dead_code, reason = "each test uses its part")]
mod wire_support;

use proptest::prelude::*;
use raft_io::life::{Life, Lives, Remembered};
use raft_io::wire::{
    self, CONTROL_FRAME_BYTES_MAX, Frame, FrameError, HEADER_BYTES, Hello, Introduction, LIVES_BYTES_MAX, Purpose,
    Refusal, Refuser, Welcome, kind,
};
use raft_io::{ClusterId, EntryId, HardState, HistoryId, Lineage, NodeId, Term};
use wire_support::{decode, encode, seal, varint};

fn hello(introduction: Introduction) -> Frame {
    Frame::Hello(Hello {
        cluster: ClusterId(7),
        from: NodeId(1),
        to: NodeId(2),
        incarnation: 3,
        version_first: 1,
        version_last: 1,
        frame_bytes_max: 4096,
        client_address: None,
        peer_address: None,
        purpose: Purpose::Messages,
        introduction,
    })
}

fn welcome(introduction: Introduction) -> Frame {
    let (from, incarnation) = (NodeId(2), 7);
    Frame::Welcome(Welcome { from, incarnation, version: 1, frame_bytes_max: 4096, client_address: None, introduction })
}

fn life(count: u64, vote: Option<u64>) -> Life {
    let hard_state = HardState { term: Term(count), vote: vote.map(NodeId) };
    Life { count, id: count ^ 0xfeed, hard_state, last: EntryId::new(count.wrapping_mul(10), count) }
}

fn introduction_of(frame: &Frame) -> &Introduction {
    match frame {
        Frame::Hello(hello) => &hello.introduction,
        Frame::Welcome(welcome) => &welcome.introduction,
        other => panic!("not a handshake: {other:?}"),
    }
}

/// One that says this many ancestors.
fn lineage(ancestors: usize) -> Lineage {
    let id = |bits: usize| HistoryId::from_bits(u128::MAX - ((bits as u128) << 64));
    let ancestors = (0..ancestors).map(|ancestor| id(1 + ancestor).upper_half()).collect();
    Lineage { id: id(0), ancestors, gave_up_receiver: true }
}

/// The body of a hello of version 5 with these blocks, byte by byte (`docs/FORMAT.md`).
fn hello_body(blocks: [&[u8]; 3]) -> Vec<u8> {
    let mut fields = b"raft-io\0".to_vec();
    for number in [7, 1, 2, 3] {
        varint(number, &mut fields);
    }
    fields.extend([1, 1]);
    varint(4096, &mut fields);
    fields.extend([0, 0, 0]);
    varint(0, &mut fields);
    for block in blocks {
        varint(block.len() as u64, &mut fields);
        fields.extend_from_slice(block);
    }
    let mut body = Vec::new();
    varint(5, &mut body);
    varint(fields.len() as u64, &mut body);
    [body, fields].concat()
}

fn decode_blocks(lives: &[u8], remembered: &[u8]) -> Result<Frame, FrameError> {
    decode_all_blocks([lives, remembered, &[]])
}

fn decode_all_blocks(blocks: [&[u8]; 3]) -> Result<Frame, FrameError> {
    decode(&seal(0, kind::HELLO, 0, 0, &hello_body(blocks)))
}

/// One life as bytes.
fn life_bytes(count: u64, last: [u64; 2]) -> Vec<u8> {
    let mut bytes = Vec::new();
    varint(count, &mut bytes);
    bytes.extend_from_slice(&5u64.to_le_bytes());
    varint(count, &mut bytes);
    bytes.push(0);
    last.iter().for_each(|number| varint(*number, &mut bytes));
    bytes
}

#[test]
fn what_a_later_version_can_do_is_told_and_ignored() {
    for frame in [hello, welcome].map(|frame| frame(Introduction { features: u64::MAX, ..Introduction::default() })) {
        assert_eq!(introduction_of(&decode(&encode(&frame)).unwrap()).features, u64::MAX);
    }
}

/// A server of 0.6 says no lives; what it says is what it always said.
#[test]
fn a_server_that_says_nothing_of_its_data_writes_the_bytes_of_before() {
    let empty = encode(&hello(Introduction::default()));
    assert_eq!(empty[HEADER_BYTES], 1, "the version of the body");
    assert_eq!(introduction_of(&decode(&empty).unwrap()), &Introduction::default());
    assert_eq!(encode(&welcome(Introduction::default()))[HEADER_BYTES], 1);
}

/// Of a long life's list the newest are sent, and the whole stays within a frame of connection control: servers of 0.6 take
/// no larger one.
#[test]
fn the_newest_lives_are_sent_that_fit() {
    let lives: Vec<_> = (1..=Lives::KEPT_MAX as u64).map(|count| life(count, None)).collect();
    let huge = u64::MAX - 200;
    let far: Vec<_> =
        (0..64).map(|count| Life { last: EntryId::new(huge, huge), ..life(huge + count, Some(huge)) }).collect();
    for (lives, at_least) in [(lives, 12), (far, 3)] {
        let remembered = Remembered {
            life: Some((u64::MAX, u64::MAX)),
            term: Term(u64::MAX),
            acknowledged: EntryId::new(u64::MAX, u64::MAX),
            vote: Some((Term(u64::MAX), NodeId(u64::MAX))),
        };
        for (ancestors, bytes_max) in
            [(16, CONTROL_FRAME_BYTES_MAX), (Lineage::ANCESTORS_MAX, wire::HANDSHAKE_FRAME_BYTES_MAX)]
        {
            let history = Some(lineage(ancestors));
            let said = Introduction { features: u64::MAX, lives: lives.clone(), remembered: Some(remembered), history };
            let Frame::Hello(small) = hello(said) else { unreachable!() };
            let largest = Frame::Hello(Hello {
                cluster: ClusterId(u64::MAX),
                from: NodeId(u64::MAX),
                to: NodeId(u64::MAX - 1),
                incarnation: u64::MAX,
                frame_bytes_max: u32::MAX,
                client_address: Some("x".repeat(256)),
                peer_address: Some("y".repeat(256)),
                purpose: Purpose::Other { code: 255 },
                ..small
            });
            let bytes = encode(&largest);
            assert!(bytes.len() <= bytes_max, "{}", bytes.len());
            let decoded = decode(&bytes).unwrap();
            let kept = &introduction_of(&decoded).lives;
            assert!(kept.len() >= at_least && lives.ends_with(kept), "{} lives", kept.len());
            assert_eq!(introduction_of(&decoded).remembered, Some(remembered));
        }
    }
}

#[test]
fn hostile_lists_of_lives_are_errors() {
    let error = |lives: &[u8]| match decode_blocks(lives, &[]) {
        Err(FrameError::Body { kind: kind::HELLO, what }) => what,
        other => panic!("{other:?}"),
    };
    let good = [life_bytes(1, [0, 0]), life_bytes(u64::MAX, [u64::MAX, u64::MAX])].concat();
    assert_eq!(introduction_of(&decode_blocks(&good, &[]).unwrap()).lives.len(), 2);
    for unsorted in [[2, 1], [2, 2], [u64::MAX, 1], [0, 1]] {
        let lives = unsorted.map(|count| life_bytes(count, [0, 0])).concat();
        assert_eq!(error(&lives), "lives that do not ascend", "{unsorted:?}");
    }
    let many: Vec<u8> = (1..40).flat_map(|count| life_bytes(count, [0, 0])).collect();
    assert!(many.len() > LIVES_BYTES_MAX);
    assert_eq!(error(&many), "a list of lives that is too long");
    for cut in 1..good.len() {
        if cut != life_bytes(1, [0, 0]).len() {
            assert_eq!(error(&good[..cut]), "a list of lives that ends in the middle of one", "{cut}");
        }
    }
    let mut vote = life_bytes(1, [0, 0]);
    vote[10] = 2;
    assert_eq!(error(&vote), "a vote that is neither given nor not");
}

#[test]
fn hostile_memories_are_errors() {
    for (remembered, expected) in [
        (&[4, 0, 0, 0][..], "a memory of a peer that has no form that this version knows"),
        (&[0, 0, 0, 0, 0], "a memory of a peer that has no form that this version knows"),
        (&[0, 0, 0], "a memory of a peer that ends too early"),
        (&[1, 0, 0, 0], "a memory of a peer that ends too early"),
        (&[2, 0, 0, 0], "a memory of a peer that ends too early"),
    ] {
        let error = decode_blocks(&[], remembered);
        assert_eq!(error, Err(FrameError::Body { kind: kind::HELLO, what: expected }), "{remembered:?}");
    }
    let decoded = decode_blocks(&[], &[0, 0, 0, 0]).unwrap();
    assert_eq!(introduction_of(&decoded).remembered, Some(Remembered::default()));
}

/// A length that claims more than there is costs no memory.
#[test]
fn hostile_histories_are_errors() {
    let refused = |history: &[u8]| match decode_all_blocks([&[], &[], history]) {
        Err(FrameError::Body { kind: kind::HELLO, what }) => what.contains("no form that this version knows"),
        _ => false,
    };
    let with = |flags: u8, bytes: usize| [vec![flags], vec![7; bytes]].concat();
    assert!(decode_all_blocks([&[], &[], &with(0, 16)]).is_ok());
    assert!(decode_all_blocks([&[], &[], &with(0xfe, 16 + 64 * 8)]).is_ok(), "flags of a later version are ignored");
    let told = |history: &[u8]| {
        let body = [&[1, 1 + history.len() as u8, history.len() as u8], history].concat();
        decode(&seal(0, kind::HISTORY, 0, 0, &body))
    };
    assert!(matches!(told(&with(0, 16 + 4 * 8)), Ok(Frame::History { lineage }) if lineage.ancestors.len() == 4));
    assert!([&[][..], &with(0, 15), &with(0, 17)].iter().all(|odd| told(odd).is_err()));
    for bytes in [0, 15, 17, 23, 25, 16 + 63 * 8 + 1, 16 + 65 * 8] {
        assert!(refused(&with(0, bytes)), "{bytes} bytes");
    }
    let no_upper_half = [vec![1; 8], vec![0; 8]].concat();
    assert!(refused(&[vec![0], no_upper_half].concat()), "no identity has an upper half of zero");
    assert!(refused(&[with(0, 16), vec![0; 8]].concat()), "nor has an ancestor");
}

/// All that a history names is said, or nothing: of two servers that had not said all, each let the other in.
#[test]
fn no_ancestor_is_left_out() {
    let said = |ancestors| hello(Introduction { history: Some(lineage(ancestors)), ..Introduction::default() });
    let most = said(Lineage::ANCESTORS_MAX);
    assert_eq!(decode(&encode(&most)), Ok(most));
    let error = wire::encode_control(&said(Lineage::ANCESTORS_MAX + 1), &mut Vec::new());
    assert_eq!(error, Err(wire::EncodeError::Field { field: "history" }));
}

#[test]
fn a_block_that_claims_more_than_there_is_is_an_error() {
    let mut body = hello_body([&[]; 3]);
    let length = body.len();
    body.truncate(length - 2);
    body.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]);
    let fields = body.len() - 2;
    body[1] = fields as u8;
    assert!(matches!(decode(&seal(0, kind::HELLO, 0, 0, &body)), Err(FrameError::Body { .. })));
}

fn numbers() -> impl Strategy<Value = u64> {
    prop_oneof![1u64..200, any::<u64>(), Just(u64::MAX)]
}

fn introductions() -> impl Strategy<Value = Introduction> {
    let found = (any::<u64>(), numbers(), prop::option::of(numbers()), numbers(), numbers());
    // At most three fit whatever their numbers are.
    let lives = prop::collection::btree_map(1u64.., found, 0..4).prop_map(|lives| {
        let life = |(count, (id, term, vote, index, last_term)): (u64, (u64, u64, Option<u64>, u64, u64))| {
            let hard_state = HardState { term: Term(term), vote: vote.map(NodeId) };
            Life { count, id, hard_state, last: EntryId::new(index, last_term) }
        };
        lives.into_iter().map(life).collect()
    });
    let pair = || prop::option::of((numbers(), numbers()));
    let remembered =
        (pair(), numbers(), numbers(), numbers(), pair()).prop_map(|(life, term, index, acknowledged, vote)| {
            let vote = vote.map(|(term, to)| (Term(term), NodeId(to)));
            Remembered { life, term: Term(term), acknowledged: EntryId::new(index, acknowledged), vote }
        });
    (any::<u64>(), lives, prop::option::of(remembered), prop::option::of(lineages()))
        .prop_map(|(features, lives, remembered, history)| Introduction { features, lives, remembered, history })
}

fn lineages() -> impl Strategy<Value = Lineage> {
    let id = || any::<u128>().prop_map(HistoryId::from_bits);
    let ancestors = prop::collection::vec(id().prop_map(HistoryId::upper_half), 0..=Lineage::ANCESTORS_MAX);
    (id(), ancestors, any::<bool>()).prop_map(|(id, ancestors, gave_up_receiver)| Lineage {
        id,
        ancestors,
        gave_up_receiver,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn every_introduction_comes_back_as_it_was(said in introductions()) {
        for frame in [hello(said.clone()), welcome(said)] {
            prop_assert_eq!(decode(&encode(&frame)), Ok(frame));
        }
    }

    /// With a refusal of any history, too.
    #[test]
    fn every_refuser_comes_back_as_it_was(features in any::<u64>(), history in prop::option::of(lineages()), of in lineages()) {
        for reason in [Refusal::OtherHistory { history: of.id }, Refusal::OtherData] {
            let frame = Frame::Refusal { reason, by: Refuser { features, history: history.clone() } };
            prop_assert_eq!(decode(&encode(&frame)), Ok(frame));
        }
    }

    /// What decodes at all, encodes again to something that decodes to the same.
    #[test]
    fn arbitrary_blocks_are_sound_or_nothing(
        history in prop::collection::vec(any::<u8>(), 0..600),
        lives in prop::collection::vec(prop_oneof![Just(0u8), Just(1), any::<u8>()], 0..260),
        remembered in prop::collection::vec(prop_oneof![Just(0u8), Just(3), any::<u8>()], 0..40),
    ) {
        for frame in [decode_blocks(&lives, &remembered), decode_all_blocks([&[], &[], &history])].into_iter().flatten() {
            prop_assert_eq!(decode(&encode(&frame)), Ok(frame));
        }
    }

    /// No list of a peer's, however it came about, makes the comparison panic or overflow.
    #[test]
    fn any_lists_can_be_compared(said in introductions(), other in introductions()) {
        if let Some(remembered) = &other.remembered {
            let _ = Lives::new(1, said.lives).check(remembered);
        }
    }
}

#[test]
fn a_control_frame_is_as_large_as_before() {
    // Servers of 0.6 refuse larger ones unread.
    assert_eq!(wire::CONTROL_FRAME_BYTES_MAX, 1024);
}
