//! The wire format: golden bytes, limits, sharing. `tests/wire_properties.rs` sends any message and any bytes.
#![cfg(feature = "framing")]

mod wire_support;

use bytes::Bytes;
use raft_io::life::{Life, Remembered};
use raft_io::message::{
    AppendEntriesRequest, AppendEntriesResponse, AppendResult, ConfirmLeaderRequest, ConfirmLeaderResponse,
    InstallSnapshotRequest, PreVoteRequest, PreVoteResponse, ReadIndexRequest, ReadIndexResponse, RequestVoteRequest,
    RequestVoteResponse, TimeoutNowRequest,
};
use raft_io::snapshot::{Chunk, ChunkRequest};
use raft_io::wire::{
    self, EncodeError, Frame, FrameError, HEADER_BYTES, Hello, Introduction, Limits, Purpose, Refusal, Refuser, Welcome,
};
use raft_io::{
    ClusterId, DiskId, Entry, EntryId, GroupId, HardState, History, HistoryId, Index, Lineage, Membership, Message,
    NodeId, Payload, Term,
};
use std::path::PathBuf;
use std::sync::Arc;
use wire_support::{LIMITS, decode, encode, seal, varint};

fn entry(index: u64, term: u64, command: &[u8]) -> Entry {
    Entry { id: EntryId::new(index, term), payload: Payload::Command(Bytes::copy_from_slice(command)) }
}

fn noop(index: u64, term: u64) -> Entry {
    Entry { id: EntryId::new(index, term), payload: Payload::Noop }
}

/// With something in every list.
fn membership() -> Arc<Membership> {
    let joint = Membership::new([1, 2]).with_promotion(5).with_learner(6).joint_from(&Membership::new([1, 300]));
    Arc::new(joint.with_address(5, "five:7000").with_address(300, "dreihundert:ä"))
}

fn append(prev: EntryId, entries: Vec<Entry>) -> AppendEntriesRequest {
    let (entries, commit, session, acknowledged, disk) = (entries.into(), Index(300), Index(290), Index(0), DiskId(0));
    AppendEntriesRequest { term: Term(9), prev, entries, commit, session, history: None, acknowledged, disk }
}

fn chunk(number: u64, metadata: &'static [u8]) -> Chunk {
    Chunk {
        snapshot: EntryId::new(300, 8),
        identity: 0x1234_5678_9abc_def0,
        number,
        total_bytes: 2_000,
        chunk_bytes: 512,
        metadata: Bytes::from_static(metadata),
        checksum: 0xdead_beef,
        data: Bytes::from_static(b"the state"),
    }
}

/// Features that nobody knows yet, lives with and without a vote, and all that can be remembered.
fn introduction() -> Introduction {
    let life = |count, vote, last| {
        let hard_state = HardState { term: Term(7 + count), vote };
        Life { count, id: 0x1234_5678_9abc_def0 + count, hard_state, last }
    };
    Introduction {
        features: 1 << 40 | 1,
        lives: vec![life(1, None, EntryId::ZERO), life(3, Some(NodeId(300)), EntryId::new(300, 8))],
        remembered: Some(Remembered {
            life: Some((300, 0xdead_beef)),
            term: Term(9),
            acknowledged: EntryId::new(303, 8),
            vote: Some((Term(9), NodeId(2))),
        }),
        history: None,
    }
}

/// A configuration that names a history with everything in it.
fn founding(index: u64) -> Entry {
    let id = HistoryId::from_bits;
    let parent = History::new(id(0x11 << 64), EntryId::new(1, 1));
    let child = History::child(Some(&parent), id(0x22 << 64 | 5), EntryId::new(index, 9), [2, 300_u64]);
    let membership = Membership::new([1]).with_history(Arc::new(child));
    Entry { id: EntryId::new(index, 9), payload: Payload::Membership(Arc::new(membership)) }
}

/// As a server of 0.6 says it.
fn refusal(reason: Refusal) -> Frame {
    Frame::Refusal { reason, by: Refuser::default() }
}

/// A history that goes on from two others, and gave up the receiver.
fn lineage() -> Lineage {
    let id = HistoryId::from_bits;
    let ancestors = [id(0x11 << 64), id(0x22 << 64 | 5)].map(HistoryId::upper_half).to_vec();
    let newest = id(0x0123_4567_89ab_cdef_fedc_ba98_7654_3210);
    Lineage { id: newest, ancestors, gave_up_receiver: true }
}

/// One frame of every kind, and of every shape that a kind has.
fn golden_frames() -> Vec<(&'static str, Frame)> {
    let message = |message| Frame::Message { group: GroupId(0x0102_0304_0506_0708), message };
    let last = EntryId::new(300, 8);
    let hello = Hello {
        cluster: ClusterId(0xfeed),
        from: NodeId(1),
        to: NodeId(2),
        incarnation: 0x1234_5678_9abc_def0,
        version_first: 1,
        version_last: 1,
        frame_bytes_max: 16 << 20,
        client_address: Some("10.0.0.1:6379".into()),
        peer_address: None,
        purpose: Purpose::Messages,
        introduction: Introduction::default(),
    };
    let to_fetch = Hello {
        version_first: wire::TRANSFER_PROTOCOL,
        version_last: wire::TRANSFER_PROTOCOL,
        frame_bytes_max: wire::CHUNK_FRAME_BYTES_MAX as u32,
        purpose: Purpose::Snapshots,
        ..hello.clone()
    };
    let to_join = Hello { peer_address: Some("10.0.0.1:7000".into()), ..hello.clone() };
    let welcome = Welcome {
        from: NodeId(2),
        incarnation: 7,
        version: 1,
        frame_bytes_max: 16 << 20,
        client_address: None,
        introduction: Introduction::default(),
    };
    let introduced_hello = Hello { introduction: introduction(), ..to_join.clone() };
    let with_history = || Introduction { history: Some(lineage()), ..introduction() };
    let hello_of_history = Hello { introduction: with_history(), ..to_join.clone() };
    let welcome_of_history = Welcome { introduction: with_history(), ..welcome.clone() };
    let by = Refuser { features: 1, history: Some(lineage()) };
    let request_vote = |leadership_transfer| {
        message(Message::RequestVoteRequest(RequestVoteRequest { term: Term(9), last, leadership_transfer }))
    };
    let response = |result| {
        let (session, disk) = (Some(Index::ZERO), DiskId(0x0123_4567));
        message(Message::AppendEntriesResponse(AppendEntriesResponse { term: Term(9), result, session, disk }))
    };
    let (acknowledged, durable, disk) = (Index(300), Index(290), DiskId(0x89ab_cdef));
    let named = AppendEntriesRequest { acknowledged, disk, ..append(last, Vec::new()) };
    let entries = vec![noop(301, 8), entry(302, 9, b"set x = 1"), entry(303, 9, b"")];
    let configuring =
        |index, membership| Entry { id: EntryId::new(index, 9), payload: Payload::Membership(membership) };
    let configurations =
        vec![configuring(301, membership()), entry(302, 9, b"x"), configuring(303, Arc::new(Membership::new([7])))];
    vec![
        ("hello", Frame::Hello(hello)),
        ("hello_for_snapshots", Frame::Hello(to_fetch)),
        ("hello_with_peer_address", Frame::Hello(to_join)),
        ("hello_with_lives", Frame::Hello(introduced_hello)),
        ("hello_with_history", Frame::Hello(hello_of_history)),
        ("welcome_with_history", Frame::Welcome(welcome_of_history)),
        ("welcome_with_lives", Frame::Welcome(Welcome { introduction: introduction(), ..welcome.clone() })),
        ("welcome", Frame::Welcome(welcome)),
        ("refusal_foreign_cluster", refusal(Refusal::ForeignCluster { cluster: ClusterId(0xbeef) })),
        ("refusal_wrong_receiver", refusal(Refusal::WrongReceiver { id: NodeId(3) })),
        ("refusal_unknown_sender", refusal(Refusal::UnknownSender)),
        ("refusal_own_id", refusal(Refusal::OwnId)),
        ("refusal_version", refusal(Refusal::Version { first: 1, last: 3 })),
        ("refusal_unacceptable", refusal(Refusal::Unacceptable)),
        ("refusal_shutting_down", refusal(Refusal::ShuttingDown)),
        ("refusal_other_data", refusal(Refusal::OtherData)),
        ("refusal_older_data", refusal(Refusal::OlderData)),
        ("refusal_lost_life", refusal(Refusal::LostLife { count: 300 })),
        ("refusal_lost_term", refusal(Refusal::LostTerm { term: Term(9) })),
        ("refusal_lost_entries", refusal(Refusal::LostEntries { index: Index(300) })),
        ("refusal_lost_vote", refusal(Refusal::LostVote { term: Term(9) })),
        ("refusal_own_data_lost", refusal(Refusal::OwnDataLost)),
        ("refusal_other_history", Frame::Refusal { reason: Refusal::OtherHistory { history: lineage().id }, by }),
        ("refusal_other", refusal(Refusal::Other { code: 500 })),
        ("ping", Frame::Ping),
        ("pong", Frame::Pong),
        ("position", Frame::Position { group: GroupId(5), last }),
        ("history", Frame::History { lineage: lineage() }),
        (
            "pre_vote_request",
            message(Message::PreVoteRequest(PreVoteRequest { term: Term(8), campaign_term: Term(9), last })),
        ),
        (
            "pre_vote_response",
            message(Message::PreVoteResponse(PreVoteResponse { term: Term(8), campaign_term: Term(9), granted: true })),
        ),
        ("request_vote_request", request_vote(false)),
        ("request_vote_request_leadership_transfer", request_vote(true)),
        (
            "request_vote_response",
            message(Message::RequestVoteResponse(RequestVoteResponse { term: Term(9), granted: false })),
        ),
        ("append_entries_request", message(Message::AppendEntriesRequest(append(last, entries)))),
        ("append_entries_request_memberships", message(Message::AppendEntriesRequest(append(last, configurations)))),
        ("append_entries_request_heartbeat", message(Message::AppendEntriesRequest(append(last, Vec::new())))),
        ("append_entries_response_accepted", response(AppendResult::Accepted { match_index: Index(303) })),
        (
            "append_entries_response_rejected",
            response(AppendResult::Rejected { prev_index: Index(300), hint: EntryId::new(299, 7) }),
        ),
        ("append_entries_response_stale_term", response(AppendResult::StaleTerm)),
        (
            "confirm_leader_request",
            message(Message::ConfirmLeaderRequest(ConfirmLeaderRequest { term: Term(9), round: 300 })),
        ),
        (
            "confirm_leader_response",
            message(Message::ConfirmLeaderResponse(ConfirmLeaderResponse {
                term: Term(10),
                leader_term: Term(9),
                round: 300,
            })),
        ),
        (
            "read_index_request",
            message(Message::ReadIndexRequest(ReadIndexRequest { term: Term(9), context: 0x1234_5678_9abc_def0 })),
        ),
        (
            "read_index_response",
            message(Message::ReadIndexResponse(ReadIndexResponse {
                term: Term(9),
                context: 0x1234_5678_9abc_def0,
                index: Index(303),
                commit: Index(300),
            })),
        ),
        ("timeout_now_request", message(Message::TimeoutNowRequest(TimeoutNowRequest { term: Term(9) }))),
        (
            "install_snapshot_request",
            message(Message::InstallSnapshotRequest(InstallSnapshotRequest {
                term: Term(9),
                last,
                membership: membership(),
                session: Index(290),
            })),
        ),
        (
            "append_entries_request_history",
            message(Message::AppendEntriesRequest(AppendEntriesRequest {
                history: Some(HistoryId::from_bits(0x0123_4567_89ab_cdef_fedc_ba98_7654_3210)),
                ..append(last, vec![founding(301)])
            })),
        ),
        ("append_entries_request_acknowledged", message(Message::AppendEntriesRequest(named))),
        ("append_entries_response_lost", response(AppendResult::LostAcknowledged { acknowledged, durable })),
        (
            "chunk_request",
            Frame::ChunkRequest { group: GroupId(5), request: ChunkRequest { snapshot: last, chunk: 3 } },
        ),
        ("chunk_first", Frame::Chunk { group: GroupId(5), chunk: chunk(0, b"members") }),
        ("chunk", Frame::Chunk { group: GroupId(5), chunk: chunk(3, b"") }),
        ("no_chunk", Frame::NoChunk { group: GroupId(5), request: ChunkRequest { snapshot: last, chunk: 4 } }),
        (
            "request_vote_request_beyond_every_range",
            message(Message::RequestVoteRequest(RequestVoteRequest {
                term: Term(u64::MAX),
                last: EntryId::new(u64::MAX, u64::MAX),
                leadership_transfer: false,
            })),
        ),
    ]
}

fn golden_path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/wire_golden").join(format!("{name}.hex"))
}

fn to_hex(bytes: &[u8]) -> String {
    let lines =
        bytes.chunks(16).map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" "));
    lines.map(|line| line + "\n").collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

/// The files are the format. A difference means that servers of two versions no longer understand
/// each other; `RAFT_IO_BLESS=1` writes files for *new* frames.
#[test]
fn every_frame_has_its_golden_bytes() {
    for (name, frame) in golden_frames() {
        let (path, encoded) = (golden_path(name), encode(&frame));
        if std::env::var_os("RAFT_IO_BLESS").is_some() && !path.exists() {
            std::fs::write(&path, to_hex(&encoded)).unwrap();
        }
        let golden = from_hex(&std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}")));
        assert_eq!(to_hex(&encoded), to_hex(&golden), "{name} encodes to its golden bytes");
        assert_eq!(decode(&golden).unwrap(), frame, "{name} decodes from its golden bytes");
    }
}

/// What a server wrote that knew of no transfers.
const REQUEST_VOTE_REQUEST_VERSION_1: &str = "request_vote_request_version_1";

#[test]
fn a_request_of_version_1_is_no_leadership_transfer() {
    let golden = from_hex(&std::fs::read_to_string(golden_path(REQUEST_VOTE_REQUEST_VERSION_1)).unwrap());
    let (_, present) = golden_frames().into_iter().find(|(name, _)| *name == "request_vote_request").unwrap();
    assert_eq!(decode(&golden).unwrap(), present);
}

/// What a server wrote that knew of no configurations.
const INSTALL_SNAPSHOT_REQUEST_VERSION_1: &str = "install_snapshot_request_version_1";

/// Who took it would begin a log of which nobody knows who decides.
#[test]
fn an_offer_without_a_configuration_is_refused() {
    let golden = from_hex(&std::fs::read_to_string(golden_path(INSTALL_SNAPSHOT_REQUEST_VERSION_1)).unwrap());
    let what = "a configuration that does not end where its lists do";
    assert_eq!(decode(&golden), Err(FrameError::Body { kind: wire::kind::INSTALL_SNAPSHOT_REQUEST, what }));
}

/// What servers wrote that knew of no sessions.
const WITHOUT_SESSIONS: [&str; 3] = [
    "append_entries_request_version_1",
    "append_entries_response_accepted_version_1",
    "install_snapshot_request_version_2",
];

/// A leader before 0.7 names none, and a follower before 0.7 echoes none.
#[test]
fn messages_without_a_session_are_understood() {
    let decoded = WITHOUT_SESSIONS.map(|name| {
        let golden = from_hex(&std::fs::read_to_string(golden_path(name)).unwrap());
        match decode(&golden).unwrap() {
            Frame::Message { message: Message::AppendEntriesRequest(request), .. } => Some(request.session),
            Frame::Message { message: Message::AppendEntriesResponse(response), .. } => response.session,
            Frame::Message { message: Message::InstallSnapshotRequest(request), .. } => Some(request.session),
            other => panic!("{other:?}"),
        }
    });
    assert_eq!(decoded, [Some(Index::ZERO), None, Some(Index::ZERO)]);
}

#[test]
fn golden_files_and_golden_frames_are_the_same_set() {
    let files = std::fs::read_dir(golden_path("x").parent().unwrap()).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path().file_stem().unwrap().to_owned()).collect();
    files.sort();
    let older = [REQUEST_VOTE_REQUEST_VERSION_1, INSTALL_SNAPSHOT_REQUEST_VERSION_1];
    let names = golden_frames().into_iter().map(|(name, _)| name).chain(older).chain(WITHOUT_SESSIONS);
    let mut names: Vec<_> = names.map(std::ffi::OsString::from).collect();
    names.sort();
    assert_eq!(files, names);
}

/// The layout of docs/FORMAT.md, spelt out without the encoder.
#[test]
fn a_frame_is_laid_out_as_documented() {
    let message = Message::RequestVoteResponse(RequestVoteResponse { term: Term(300), granted: true });
    let frame = encode(&Frame::Message { group: GroupId(5), message });
    // Version 1, three bytes: 300 as a varint, true.
    assert_eq!(frame, seal(1, 19, 0, 5, &[1, 3, 0xac, 0x02, 1]));
    let request = append(EntryId::new(1, 1), vec![noop(2, 9), entry(3, 9, b"ab")]);
    let frame = encode(&Frame::Message { group: GroupId(0), message: Message::AppendEntriesRequest(request) });
    // Term, prev index, prev term, commit 300; a block of 8 bytes: 2 entries, each term, kind and,
    // for a command, length and bytes; session 290; no history, two halves of 0; nothing acknowledged, on disk 0.
    let fields = [9, 1, 1, 0xac, 0x02];
    let block = [8, 2, 9, 0, 9, 1, 2, b'a', b'b'];
    let body = [&[2, 20][..], &fields, &block, &[0xa2, 0x02, 0, 0, 0, 0]].concat();
    assert_eq!(frame, seal(1, 20, 0, 0, &body));
}

#[test]
fn every_flipped_bit_is_noticed() {
    for (name, frame) in golden_frames() {
        let good = encode(&frame);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let error = decode(&bad).expect_err(name);
            let in_length = bit < 32;
            assert!(
                if in_length {
                    matches!(error, FrameError::Length { .. } | FrameError::Incomplete { .. })
                } else {
                    matches!(error, FrameError::Checksum { .. })
                },
                "{name}, bit {bit}: {error}"
            );
        }
    }
}

#[test]
fn every_truncation_is_noticed() {
    for (name, frame) in golden_frames() {
        let good = encode(&frame);
        for length in 0..good.len() {
            assert!(matches!(decode(&good[..length]), Err(FrameError::Incomplete { .. })), "{name} cut to {length}");
        }
        let longer = [&good[..], &[0]].concat();
        assert!(matches!(decode(&longer), Err(FrameError::Incomplete { .. })), "{name} and a byte more");
    }
}

#[test]
fn a_claimed_length_is_checked_before_anything_is_read() {
    for claimed in [u32::MAX, 1 << 31, LIMITS.frame_bytes_max as u32 - 7, 11, 0] {
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&claimed.to_le_bytes());
        let error = wire::Header::parse(&header, LIMITS.frame_bytes_max).unwrap_err();
        let claimed = u64::from(claimed) + 8;
        assert_eq!(error, FrameError::Length { claimed, limit: LIMITS.frame_bytes_max });
    }
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&(LIMITS.frame_bytes_max as u32 - 8).to_le_bytes());
    assert_eq!(wire::Header::parse(&header, LIMITS.frame_bytes_max).unwrap().frame_bytes, LIMITS.frame_bytes_max);
}

/// An append body around a block of entries.
fn append_frame(block: &[u8]) -> Vec<u8> {
    let mut fields = vec![1, 0, 0, 0];
    varint(block.len() as u64, &mut fields);
    fields.extend(block);
    let mut body = vec![1];
    varint(fields.len() as u64, &mut body);
    body.extend(fields);
    seal(1, wire::kind::APPEND_ENTRIES_REQUEST, 0, 0, &body)
}

#[test]
fn a_claimed_number_of_entries_is_checked_before_they_are_read() {
    let limit = LIMITS.entries_max();
    for claimed in [u64::MAX, 1 << 60, limit as u64 + 1] {
        let mut block = Vec::new();
        varint(claimed, &mut block);
        assert_eq!(decode(&append_frame(&block)), Err(FrameError::TooManyEntries { claimed, limit }));
    }
    // Within the limit, but the entries are not there.
    let mut block = Vec::new();
    varint(limit as u64, &mut block);
    let error = decode(&append_frame(&block)).unwrap_err();
    assert_eq!(error, FrameError::Body { kind: wire::kind::APPEND_ENTRIES_REQUEST, what: "ends too early" });
}

#[test]
fn a_command_longer_than_its_frame_is_refused() {
    let mut block = vec![1, 1, 1];
    varint(u64::MAX, &mut block);
    let error = decode(&append_frame(&block)).unwrap_err();
    assert_eq!(error, FrameError::Body { kind: wire::kind::APPEND_ENTRIES_REQUEST, what: "a length exceeds the body" });
}

#[test]
fn unknown_kinds_of_frames_are_skipped_and_of_entries_are_not() {
    assert_eq!(decode(&seal(1, 999, 0, 0, b"from the future")), Ok(Frame::Unknown { kind: 999 }));
    assert_eq!(decode(&seal(0, 15, 0, 0, b"from the future")), Ok(Frame::Unknown { kind: 15 }));
    let error = decode(&append_frame(&[1, 1, 7])).unwrap_err();
    assert_eq!(error, FrameError::UnknownEntryKind { kind: 7 });
}

#[test]
fn unknown_versions_and_flags_fail_closed() {
    assert_eq!(decode(&seal(2, 19, 0, 0, &[])), Err(FrameError::Protocol { protocol: 2, kind: 19 }));
    assert_eq!(decode(&seal(0, 19, 0, 0, &[])), Err(FrameError::Protocol { protocol: 0, kind: 19 }));
    assert_eq!(decode(&seal(1, 4, 0, 0, &[])), Err(FrameError::Protocol { protocol: 1, kind: 4 }));
    assert_eq!(decode(&seal(1, 19, 1, 0, &[])), Err(FrameError::Flags { flags: 1 }));
}

#[test]
fn fields_that_a_newer_version_appends_are_skipped() {
    let expected = Message::RequestVoteResponse(RequestVoteResponse { term: Term(3), granted: true });
    let frame = seal(1, 19, 0, 0, &[2, 5, 3, 1, 0xaa, 0xbb, 0xcc]);
    assert_eq!(decode(&frame), Ok(Frame::Message { group: GroupId(0), message: expected }));
    // Beyond the struct, nothing may follow.
    let error = decode(&seal(1, 19, 0, 0, &[1, 2, 3, 1, 0xaa])).unwrap_err();
    assert_eq!(error, FrameError::Body { kind: 19, what: "trailing bytes" });
}

#[test]
fn control_frames_are_small() {
    let is_large =
        |kind, bytes| matches!(decode(&seal(0, kind, 0, 0, &vec![0; bytes])), Err(FrameError::Length { .. }));
    assert!(is_large(wire::kind::REFUSAL, wire::CONTROL_FRAME_BYTES_MAX));
    assert!(is_large(wire::kind::HELLO, wire::HANDSHAKE_FRAME_BYTES_MAX));
}

#[test]
fn an_advertised_address_is_short_and_printable() {
    let hello = |address: String| {
        Frame::Hello(Hello {
            cluster: ClusterId(1),
            from: NodeId(1),
            to: NodeId(2),
            incarnation: 0,
            version_first: 1,
            version_last: 1,
            frame_bytes_max: 1024,
            client_address: Some(address),
            peer_address: None,
            purpose: Purpose::Messages,
            introduction: Introduction::default(),
        })
    };
    let mut bytes = Vec::new();
    assert_eq!(
        wire::encode_control(&hello("x".repeat(257)), &mut bytes),
        Err(EncodeError::Field { field: "client_address" })
    );
    assert!(bytes.is_empty());
    assert_eq!(decode(&encode(&hello("x".repeat(256)))).unwrap(), hello("x".repeat(256)));
    assert!(matches!(decode(&encode(&hello("evil\r\n+OK".into()))), Err(FrameError::Body { kind: 1, .. })));
}

#[test]
fn commands_are_slices_of_the_frame() {
    let request = append(EntryId::ZERO, vec![entry(1, 1, b"first"), noop(2, 1), entry(3, 1, &[7; 500])]);
    let frame =
        Bytes::from(encode(&Frame::Message { group: GroupId(0), message: Message::AppendEntriesRequest(request) }));
    let Ok(Frame::Message { message: Message::AppendEntriesRequest(request), .. }) = wire::decode(&frame, &LIMITS)
    else {
        panic!("not an append")
    };
    let range = frame.as_ptr_range();
    let mut commands = 0;
    for entry in request.entries.iter() {
        if let Payload::Command(command) = &entry.payload {
            assert!(range.contains(&command.as_ptr()), "entry {} was copied", entry.id);
            commands += 1;
        }
    }
    assert_eq!(commands, 2);
}

#[test]
fn borrowed_bytes_are_copied_once_for_all_commands() {
    let request = append(EntryId::ZERO, vec![entry(1, 1, b"first"), entry(2, 1, b""), entry(3, 1, &[7; 500])]);
    let message = Message::AppendEntriesRequest(request);
    let frame = encode(&Frame::Message { group: GroupId(0), message: message.clone() });
    let decoded = wire::decode_borrowed(&frame, &LIMITS).unwrap();
    assert_eq!(decoded, Frame::Message { group: GroupId(0), message });
    let Frame::Message { message: Message::AppendEntriesRequest(request), .. } = decoded else { unreachable!() };
    let place = |position: usize| match &request.entries[position].payload {
        Payload::Command(command) => command.as_ptr() as usize,
        _ => panic!("not a command"),
    };
    // Of the second entry lie in between: term, kind, length; of the third the same with a longer length.
    assert_eq!(place(2) - place(0), 5 + 3 + 4);
    assert!(!frame.as_ptr_range().contains(&(place(0) as *const u8)));
}

#[test]
fn a_reused_buffer_is_not_allocated_anew() {
    let entries = (1..=16).map(|index| entry(index, 1, &[1; 64])).collect();
    let message = Message::AppendEntriesRequest(append(EntryId::ZERO, entries));
    let mut buffer = Vec::with_capacity(4096);
    let (place, capacity) = (buffer.as_ptr(), buffer.capacity());
    for _ in 0..100 {
        buffer.clear();
        wire::encode_message(GroupId(0), &message, &LIMITS, &mut buffer).unwrap();
        wire::encode_message(GroupId(1), &message, &LIMITS, &mut buffer).unwrap();
        assert_eq!((buffer.as_ptr(), buffer.capacity()), (place, capacity));
    }
}

#[test]
fn what_cannot_be_sent_leaves_the_buffer_alone() {
    let mut buffer = b"before".to_vec();
    let mut refuse = |request, limits: &Limits| {
        let message = Message::AppendEntriesRequest(request);
        let error = wire::encode_message(GroupId(0), &message, limits, &mut buffer).unwrap_err();
        assert_eq!(buffer, b"before");
        error
    };
    let small = Limits { frame_bytes_max: 1024 };
    let error = refuse(append(EntryId::ZERO, vec![entry(1, 1, &[0; 1000])]), &small);
    assert_eq!(error, EncodeError::TooLarge { bytes: 1041, limit: 1024 });
    let many = (1..=17).map(|index| noop(index, 1)).collect();
    assert_eq!(refuse(append(EntryId::ZERO, many), &small), EncodeError::TooManyEntries { entries: 17, limit: 16 });
    let gap = append(EntryId::new(4, 1), vec![entry(5, 1, b"x"), entry(7, 1, b"y")]);
    assert_eq!(refuse(gap, &LIMITS), EncodeError::NotConsecutive { prev: Index(4) });
    assert_eq!(
        wire::encode_control(&Frame::Unknown { kind: 9 }, &mut buffer),
        Err(EncodeError::Field { field: "kind" })
    );
}

/// The largest frame that a sender makes is the largest that a receiver takes.
#[test]
fn both_sides_agree_on_the_limit() {
    let limits = Limits { frame_bytes_max: 1024 };
    let mut largest = 0;
    for length in 0..1100 {
        let message = Message::AppendEntriesRequest(append(EntryId::ZERO, vec![entry(1, 1, &vec![0; length])]));
        let mut frame = Vec::new();
        if wire::encode_message(GroupId(0), &message, &limits, &mut frame).is_ok() {
            largest = frame.len();
            assert!(wire::decode_borrowed(&frame, &limits).is_ok(), "{length}");
        }
    }
    assert_eq!(largest, 1024);
    let message = Message::AppendEntriesRequest(append(EntryId::ZERO, (1..=16).map(|index| noop(index, 1)).collect()));
    let mut frame = Vec::new();
    wire::encode_message(GroupId(0), &message, &limits, &mut frame).unwrap();
    assert!(wire::decode_borrowed(&frame, &limits).is_ok());
}
