//! Public data survives a round trip through serde (feature `serde`).

#![cfg(all(feature = "serde", feature = "std"))]

use raft_io::driver::RequestError;
use raft_io::error::{PeerMisbehaved, ProposeError, StepError};
use raft_io::life::{Life, Lives};
use raft_io::message::{
    AppendEntriesRequest, AppendEntriesResponse, AppendResult, InstallSnapshotRequest, ReadIndexRequest,
    ReadIndexResponse,
};
use raft_io::session::{Forgotten, SessionCall, SessionCommand, SessionError, SessionId, SessionLimits, SessionReply};
use raft_io::snapshot::{Chunk, ChunkRequest, SnapshotInfo};
use raft_io::{
    Action, Compaction, Entries, Entry, EntryId, Envelope, Event, HardState, History, HistoryId, Index, Membership,
    Message, NodeId, Payload, RaftConfig, RoleKind, Term, Transition, Write, node,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::Arc;

fn round_trip<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) -> String {
    let text = serde_json::to_string(value).expect("it can be written");
    let back: T = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
    assert_eq!(&back, value, "{text}");
    text
}

/// With something in every list.
fn membership() -> Arc<Membership> {
    let joint = Membership::new([1, 2]).with_promotion(5).with_learner(6).joint_from(&Membership::new([1, 3]));
    Arc::new(joint.with_address(5, "five:7"))
}

fn append() -> Envelope {
    let entry = |index: u64, payload| Entry { id: EntryId::new(index, 3), payload };
    let entries = vec![
        entry(7, Payload::Noop),
        entry(8, Payload::Command("x".into())),
        entry(9, Payload::Membership(membership())),
    ];
    let entries = Entries::from(entries);
    let request = AppendEntriesRequest {
        acknowledged: Default::default(),
        disk: Default::default(),
        history: None,
        term: Term(3),
        prev: EntryId::new(6, 2),
        entries,
        commit: Index(6),
        session: Index(0),
    };
    Envelope { from: NodeId(1), to: NodeId(2), message: Message::AppendEntriesRequest(request) }
}

#[test]
fn events_actions_and_messages_come_back_as_they_were() {
    let envelope = append();
    round_trip(&Event::Receive(envelope.clone()));
    round_trip(&Event::LeaseReadRequest { context: 7 });
    round_trip(&Event::FollowerReadRequest { context: u64::MAX });
    round_trip(&Event::LeaseTimeout { round: 3 });
    round_trip(&Event::StepDown);
    round_trip(&Event::ProposeBatch(vec!["a".into(), "b".into()]));
    round_trip(&Event::Persisted { writes: 2 });
    round_trip(&Action::SendFromLog { envelope: envelope.clone(), end: Index(9), bytes_max: 10 });
    let Message::AppendEntriesRequest(request) = &envelope.message else { panic!("it is an append") };
    let hard_state = Some(HardState { term: Term(3), vote: Some(NodeId(2)) });
    let compaction =
        Some(Compaction { snapshot: EntryId::new(6, 2), base: EntryId::new(4, 1), membership: membership() });
    let entries = request.entries.clone();
    round_trip(&Action::Persist(Write { hard_state, compaction, truncate_from: Some(Index(7)), entries }));
    round_trip(&Action::RoleChanged { role: RoleKind::PreCandidate, term: Term(3), leader: None });
    round_trip(&Action::Misbehaved { peer: NodeId(3), reason: PeerMisbehaved::WrongReceiver { to: NodeId(9) } });
    round_trip(&Event::ChangeMembership { target: membership() });
    round_trip(&Action::MembershipChanged { index: Index(9), membership: membership() });
    let request =
        InstallSnapshotRequest { term: Term(3), last: EntryId::new(6, 2), membership: membership(), session: Index(0) };
    round_trip(&Envelope { message: Message::InstallSnapshotRequest(request), ..envelope.clone() });
    let request = ReadIndexRequest { term: Term(3), context: u64::MAX };
    round_trip(&Envelope { message: Message::ReadIndexRequest(request), ..envelope.clone() });
    let response = ReadIndexResponse { term: Term(3), context: 7, index: Index(9), commit: Index(6) };
    round_trip(&Envelope { message: Message::ReadIndexResponse(response), ..envelope.clone() });
    round_trip(&Action::Misbehaved { peer: NodeId(3), reason: PeerMisbehaved::CommittedUnheld { index: Index(9) } });
    round_trip(&node::Event::FollowerRead { context: 7 });
    let result = AppendResult::Rejected { prev_index: Index(6), hint: EntryId::new(4, 1) };
    let response =
        AppendEntriesResponse { disk: Default::default(), term: Term(3), result, session: Some(Index::ZERO) };
    round_trip(&Envelope { message: Message::AppendEntriesResponse(response), ..envelope });
    round_trip(&node::Event::Tick);
    round_trip(&node::Action::Apply { index: Index(1), term: Term(1), command: "x".into() });
    for transition in Transition::ALL {
        assert_eq!(round_trip(transition), format!("\"{}\"", transition.name()));
    }
}

#[test]
fn configuration_and_errors_come_back_as_they_were() {
    let mut config = RaftConfig::new(1, [1, 2, 3]);
    round_trip(&config);
    (config.lease_ticks, config.priority) = (Some(9), 1);
    round_trip(&config);
    let text = round_trip(&Membership::new([3, 1, 2]));
    assert_eq!(text, r#"{"voters":[1,2,3],"outgoing":[],"learners":[],"promoting":[],"addresses":[]}"#);
    round_trip(&*membership());
    round_trip(&Membership::default());
    let refused = ProposeError::NotLeader { leader: Some(NodeId(2)), term: Term(4) };
    round_trip(&StepError::Propose(refused));
    round_trip(&RequestError::Shutdown);
    let mut broken = config;
    broken.heartbeat_ticks = 0;
    let error = broken.validate().expect_err("a heartbeat needs a tick");
    let text = serde_json::to_string(&error).expect("it can be written");
    assert!(text.contains("heartbeat_ticks") && text.contains("must be at least 1"), "{text}");
}

#[test]
fn snapshots_come_back_as_they_were() {
    let snapshot = EntryId::new(7, 3);
    round_trip(&ChunkRequest { snapshot, chunk: 2 });
    round_trip(&SnapshotInfo { last: snapshot, identity: 9, bytes: 600, chunk_bytes: 512, metadata: "who".into() });
    round_trip(&Chunk {
        snapshot,
        identity: 9,
        number: 1,
        total_bytes: 600,
        chunk_bytes: 512,
        metadata: "".into(),
        checksum: 3,
        data: "x".into(),
    });
}

/// Members in another order, or twice, would make two values of one configuration.
#[test]
fn a_membership_is_sorted_whatever_is_read() {
    let read: Membership = serde_json::from_str(r#"{"voters":[3,1,3]}"#).expect("it is a membership");
    assert_eq!(read, Membership::new([1, 3]));
    let text = r#"{"voters":[2,1],"learners":[4,2,3],"promoting":[9,3],"addresses":[[3,"c"],[9,"stranger"],[1,"a"]]}"#;
    let read: Membership = serde_json::from_str(text).expect("it is a membership");
    let expected = Membership::new([1, 2]).with_learner(4).with_promotion(3);
    assert_eq!(read, expected.with_address(1, "a").with_address(3, "c"));
}

fn history() -> History {
    let id = |bits: u128| HistoryId::from_bits(bits << 64);
    let first = History::new(id(1), EntryId::new(1, 1));
    let restored = History::restored(Some(&first), id(2), EntryId::new(8, 5));
    History::child(Some(&restored), id(3), EntryId::new(20, 9), [7_u64, 4])
}

/// One that said more of its ancestors to be closed than it had was taken as it was, and whoever asked what it takes in fell over
/// it, far from whatever had read it. The bytes of a log were checked all the time.
#[test]
fn a_history_that_contradicts_itself_is_not_read() {
    let text = round_trip(&history());
    round_trip(&history().lineage(NodeId(7)));
    let with_history = membership().with_history(Arc::new(history()));
    let of_membership = round_trip(&with_history);
    let ancestor = r#"{"id":"00000000000000010000000000000000","since":{"index":1,"term":1}}"#;
    for (sound, odd) in [
        (r#""closed":1"#, r#""closed":3"#.to_string()),
        (r#""closed":1"#, r#""closed":65536"#.to_string()),
        (r#""since":{"index":20"#, r#""since":{"index":7"#.to_string()),
        (r#""since":{"index":20"#, format!(r#""since":{{"index":{}"#, u64::MAX)),
        (r#""index":8"#, r#""index":21"#.to_string()),
        (r#""index":1"#, r#""index":0"#.to_string()),
        (ancestor, [ancestor; 64].join(",")),
        (r#""id":"00000000000000030000000000000000""#, r#""id":"00000000000000000000000000000003""#.to_string()),
    ] {
        assert!(text.contains(sound), "{text}");
        let read = serde_json::from_str::<History>(&text.replacen(sound, &odd, 1));
        assert!(read.is_err(), "{odd}");
        assert!(serde_json::from_str::<Membership>(&of_membership.replacen(sound, &odd, 1)).is_err(), "{odd}");
    }
    let error = serde_json::from_str::<History>(&text.replacen(r#""closed":1"#, r#""closed":3"#, 1)).unwrap_err();
    assert!(error.to_string().contains("no more of them as closed than there are"), "{error}");
    // Servers in another order, or twice, are the same servers.
    let read: History = serde_json::from_str(&text.replacen("[4,7]", "[7,4,7]", 1)).expect("it is a history");
    assert_eq!(read, history());
    // What 0.7 wrote of a history that nothing is restored of.
    let plain = History::new(HistoryId::from_bits(1 << 64), EntryId::new(1, 1));
    assert!(!round_trip(&plain).contains("closed"));
}

/// They ascend, each once, and so are compared: in another order a server would seem to have lost its data.
#[test]
fn lives_are_put_in_order_whatever_is_read() {
    let life = |count: u64| Life { count, id: count ^ 7, hard_state: HardState::default(), last: EntryId::ZERO };
    let lives = Lives::new(7, (1..=3).map(life));
    let text = round_trip(&lives);
    let one = |count: u64| serde_json::to_string(&life(count)).unwrap();
    let kept = |counts: &[u64]| counts.iter().map(|count| one(*count)).collect::<Vec<_>>().join(",");
    assert!(text.contains(&kept(&[1, 2, 3])), "{text}");
    let read: Lives = serde_json::from_str(&text.replacen(&kept(&[1, 2, 3]), &kept(&[3, 1, 2, 1]), 1)).unwrap();
    assert_eq!(read, lives);
    let many: Vec<u64> = (1..=99).collect();
    let read: Lives = serde_json::from_str(&text.replacen(&kept(&[1, 2, 3]), &kept(&many), 1)).unwrap();
    assert_eq!((read.as_slice().len(), read.current()), (Lives::KEPT_MAX, Some((99, 99 ^ 7))));
}

/// The size of a file was asked of numbers that no backup has.
#[cfg(feature = "persistence")]
#[test]
fn a_backup_of_odd_numbers_has_some_size() {
    let text = |bytes: u64, chunk_bytes: u32| {
        format!(r#"{{"cluster":null,"group":0,"node":1,"last":{{"index":1,"term":1}},"snapshot":0,"bytes":{bytes},"#)
            + &format!(r#""chunk_bytes":{chunk_bytes},"unix_seconds":0,"membership":{{"voters":[1]}}}}"#)
    };
    let size = |bytes, chunk_bytes| {
        let info: raft_io::backup::BackupInfo = serde_json::from_str(&text(bytes, chunk_bytes)).unwrap();
        round_trip(&info);
        info.file_bytes()
    };
    assert!(size(600, 512) > 600 && size(0, 0) > 0);
    assert_eq!([size(u64::MAX, 0), size(u64::MAX, 1)], [u64::MAX; 2]);
}

#[test]
fn sessions_come_back_as_they_were() {
    let session = SessionId(7);
    assert_eq!(round_trip(&session), "7");
    round_trip(&SessionCommand::Call(SessionCall { session, sequence: 3, unanswered: 2, command: "x".into() }));
    round_trip(&SessionCommand::KeepAlive { session, unanswered: 2 });
    round_trip(&SessionReply::Repeated(5u64));
    round_trip(&SessionError::ResponseForgotten { session, sequence: 1, reason: Forgotten::Acknowledged });
    round_trip(&SessionLimits::default());
}
