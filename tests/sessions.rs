//! The table of sessions, rule by rule; its bytes, and hostile ones. `session_reference.rs` has random schedules.

#![cfg(feature = "std")]

use bytes::Bytes;
use proptest::prelude::*;
use raft_io::Index;
use raft_io::session::{
    Forgotten, SessionCall, SessionCommand, SessionError, SessionId, SessionLimits, SessionReply, Sessions,
    SessionsReadError,
};

type Outcome = Result<SessionReply<Bytes>, SessionError>;

const TIGHT: SessionLimits = SessionLimits { sessions_max: 3, window: 4, session_bytes_max: 24, total_bytes_max: 40 };

fn call(session: u64, sequence: u64, unanswered: u64, command: &'static str) -> SessionCommand {
    let command = Bytes::from_static(command.as_bytes());
    SessionCommand::Call(SessionCall { session: SessionId(session), sequence, unanswered, command })
}

fn image(sessions: &Sessions<Bytes>) -> Vec<u8> {
    let mut bytes = Vec::new();
    sessions.image().write_to(&mut bytes).expect("memory takes everything");
    bytes
}

fn restored(bytes: &[u8]) -> Result<Sessions<Bytes>, SessionsReadError> {
    Sessions::read_from(&mut &bytes[..])
}

/// Applies one command after the other, each in an entry of its own; what is run answers with itself.
struct Machine {
    sessions: Sessions<Bytes>,
    index: u64,
    ran: Vec<Bytes>,
}

impl Machine {
    fn new(limits: SessionLimits) -> Self {
        Self { sessions: Sessions::new(limits), index: 0, ran: Vec::new() }
    }

    fn apply(&mut self, command: &SessionCommand) -> Outcome {
        self.index += 1;
        self.sessions.apply(Index(self.index), command, |command| {
            self.ran.push(command.clone());
            command.clone()
        })
    }

    fn open(&mut self) -> u64 {
        match self.apply(&SessionCommand::Open) {
            Ok(SessionReply::Opened(session)) => session.0,
            other => panic!("{other:?}"),
        }
    }
}

fn applied(response: &'static str) -> Outcome {
    Ok(SessionReply::Applied(response.into()))
}

fn repeated(response: &'static str) -> Outcome {
    Ok(SessionReply::Repeated(response.into()))
}

fn forgotten(session: u64, sequence: u64, reason: Forgotten) -> Outcome {
    Err(SessionError::ResponseForgotten { session: SessionId(session), sequence, reason })
}

fn expired(session: u64) -> Outcome {
    Err(SessionError::Expired { session: SessionId(session) })
}

#[test]
fn a_repetition_gets_the_first_response_until_its_client_has_it() {
    let mut machine = Machine::new(TIGHT);
    let session = machine.open();
    // Out of order: the second arrives first.
    assert_eq!(machine.apply(&call(session, 2, 1, "b")), applied("b"));
    assert_eq!(machine.apply(&call(session, 1, 1, "a")), applied("a"));
    assert_eq!(machine.apply(&call(session, 2, 1, "b")), repeated("b"));
    // What it is sent with the second time does not matter.
    assert_eq!(machine.apply(&call(session, 1, 1, "other")), repeated("a"));
    assert_eq!(machine.apply(&call(session, 3, 2, "c")), applied("c"));
    assert_eq!(machine.apply(&call(session, 1, 1, "a")), forgotten(session, 1, Forgotten::Acknowledged));
    assert_eq!(machine.apply(&call(session, 2, 2, "b")), repeated("b"));
    assert_eq!(machine.ran, ["b", "a", "c"]);
    assert_eq!(machine.sessions.response_bytes(), 2);
    // A number that was given up before it came is never applied after.
    assert_eq!(machine.apply(&call(session, 5, 5, "e")), applied("e"));
    assert_eq!(machine.apply(&call(session, 4, 2, "d")), forgotten(session, 4, Forgotten::Acknowledged));
}

#[test]
fn an_unknown_session_is_refused_and_never_created() {
    let mut machine = Machine::new(TIGHT);
    assert_eq!(machine.apply(&call(1, 1, 1, "a")), expired(1));
    assert_eq!(machine.apply(&SessionCommand::KeepAlive { session: SessionId(1), unanswered: 1 }), expired(1));
    assert_eq!(machine.apply(&SessionCommand::Close { session: SessionId(1) }), expired(1));
    assert!(machine.sessions.is_empty() && machine.ran.is_empty());
}

#[test]
fn a_closed_session_stays_closed_and_so_does_an_evicted_one() {
    let mut machine = Machine::new(TIGHT);
    let [first, second, third] = [machine.open(), machine.open(), machine.open()];
    assert_eq!(machine.apply(&call(first, 1, 1, "a")), applied("a"));
    assert_eq!(machine.apply(&call(second, 1, 1, "b")), applied("b"));
    // The third was used least recently: it was opened before the others' commands.
    let fourth = machine.open();
    assert_eq!(machine.apply(&call(third, 1, 1, "c")), expired(third));
    // A repetition keeps a session too.
    assert_eq!(machine.apply(&call(first, 1, 1, "a")), repeated("a"));
    assert_eq!(
        machine.apply(&SessionCommand::KeepAlive { session: SessionId(fourth), unanswered: 1 }),
        Ok(SessionReply::Alive(SessionId(fourth)))
    );
    machine.open();
    assert_eq!(machine.apply(&call(second, 1, 1, "b")), expired(second));
    let close = SessionCommand::Close { session: SessionId(first) };
    assert_eq!(machine.apply(&close), Ok(SessionReply::Closed(SessionId(first))));
    assert_eq!(machine.apply(&close), expired(first));
    assert_eq!(machine.apply(&call(first, 1, 1, "a")), expired(first));
    assert_eq!(machine.ran, ["a", "b"]);
    assert_eq!((machine.sessions.len(), machine.sessions.response_bytes()), (2, 0));
}

#[test]
fn an_id_is_the_entrys_index_and_never_given_twice() {
    let mut machine = Machine::new(TIGHT);
    machine.index = 40;
    assert_eq!(machine.open(), 41);
    // An entry that opens two.
    machine.index = 40;
    assert_eq!(machine.open(), 42);
    assert_eq!(
        machine.apply(&SessionCommand::Close { session: SessionId(42) }),
        Ok(SessionReply::Closed(SessionId(42)))
    );
    // Not even after its session is gone and a snapshot was restored.
    machine.sessions = restored(&image(&machine.sessions)).unwrap();
    machine.index = 40;
    assert_eq!(machine.open(), 43);
}

#[test]
fn what_exceeds_a_limit_says_so_and_is_not_applied_again() {
    let mut machine = Machine::new(TIGHT);
    let session = machine.open();
    let window = SessionError::WindowExceeded { session: SessionId(session), sequence: 5, unanswered: 1, window: 4 };
    assert_eq!(machine.apply(&call(session, 5, 1, "early")), Err(window));
    // Larger than a session may keep: its own client still gets it once.
    let large = "larger than twenty-four bytes";
    assert_eq!(machine.apply(&call(session, 1, 1, large)), applied(large));
    assert_eq!(machine.apply(&call(session, 1, 1, large)), forgotten(session, 1, Forgotten::OverLimit));
    // The session's bytes: the lowest number makes room.
    for (sequence, response) in [(2, "ten bytes."), (3, "ten more.."), (4, "ten again.")] {
        assert_eq!(machine.apply(&call(session, sequence, 1, response)), applied(response));
    }
    assert_eq!(machine.apply(&call(session, 2, 1, "ten bytes.")), forgotten(session, 2, Forgotten::OverLimit));
    assert_eq!(machine.apply(&call(session, 3, 1, "ten more..")), repeated("ten more.."));
    // All bytes together: the oldest entry's make room, whosever it is.
    let other = machine.open();
    assert_eq!(machine.apply(&call(other, 1, 1, "twenty-four bytes there.")), applied("twenty-four bytes there."));
    assert_eq!(machine.apply(&call(session, 3, 1, "ten more..")), forgotten(session, 3, Forgotten::OverLimit));
    assert_eq!(machine.apply(&call(session, 4, 1, "ten again.")), repeated("ten again."));
    assert_eq!(machine.sessions.response_bytes(), 34);
    // The number that was too early is free.
    assert_eq!(machine.apply(&call(session, 5, 2, "early")), applied("early"));
}

#[test]
fn new_limits_make_room_at_once_and_travel_with_a_snapshot() {
    let mut machine = Machine::new(TIGHT);
    let [first, second] = [machine.open(), machine.open()];
    assert_eq!(machine.apply(&call(second, 1, 1, "ten bytes.")), applied("ten bytes."));
    assert_eq!(machine.apply(&call(first, 3, 1, "ten bytes.")), applied("ten bytes."));
    let smaller = SessionLimits { sessions_max: 0, window: 0, session_bytes_max: 9, ..TIGHT };
    machine.sessions.set_limits(smaller);
    assert_eq!(machine.sessions.limits(), SessionLimits { sessions_max: 1, window: 1, ..smaller });
    assert_eq!(machine.apply(&call(second, 1, 1, "ten bytes.")), expired(second));
    assert_eq!(machine.apply(&call(first, 3, 1, "ten bytes.")), forgotten(first, 3, Forgotten::OverLimit));
    // It is ahead of the smaller window, and in the snapshot all the same.
    let back = restored(&image(&machine.sessions)).unwrap();
    assert_eq!(back, machine.sessions);
}

#[test]
fn a_command_that_acknowledges_itself_is_refused() {
    let mut machine = Machine::new(TIGHT);
    let session = machine.open();
    for (sequence, unanswered) in [(0, 0), (1, 0), (1, 2)] {
        let refused = machine.apply(&call(session, sequence, unanswered, "a"));
        assert!(matches!(refused, Err(SessionError::Malformed(_))), "{refused:?}");
    }
    assert_eq!(machine.apply(&call(session, u64::MAX, u64::MAX, "a")), applied("a"));
    assert_eq!(restored(&image(&machine.sessions)).unwrap(), machine.sessions);
    assert_eq!(machine.apply(&call(session, u64::MAX, u64::MAX, "a")), repeated("a"));
}

/// A table with every kind of content.
fn varied() -> Machine {
    let mut machine = Machine::new(TIGHT);
    let [first, second] = [machine.open(), machine.open()];
    for (session, sequence, response) in
        [(first, 1, "one"), (second, 2, "two"), (first, 3, "a response that exceeds the limit"), (first, 4, "")]
    {
        machine.apply(&call(session, sequence, 1, response)).unwrap();
    }
    machine
}

#[test]
fn an_image_is_its_moment_and_the_bytes_end_where_they_say() {
    let mut machine = varied();
    let moment = machine.sessions.image();
    let before = machine.sessions.clone();
    machine.apply(&call(1, 1, 1, "one")).unwrap();
    machine.apply(&call(1, 4, 4, "")).unwrap();
    assert_ne!(machine.sessions, before);
    let mut bytes = Vec::new();
    moment.write_to(&mut bytes).unwrap();
    let length = bytes.len();
    bytes.extend_from_slice(b"what the state machine writes behind it");
    let mut rest = &bytes[..];
    assert_eq!(Sessions::<Bytes>::read_from(&mut rest).unwrap(), before);
    assert_eq!(rest.len(), bytes.len() - length);
}

/// `docs/FORMAT.md` says these bytes, and they do not change.
#[test]
fn the_bytes_are_those_of_the_document() {
    let mut machine = Machine::new(TIGHT);
    machine.open();
    machine.apply(&call(1, 1, 1, "ok")).unwrap();
    machine.apply(&call(1, 2, 1, "a response that exceeds the limit")).unwrap();
    let mut expected = b"RAFTSESS\x01\0\0\0\x03\0\0\0\x04\0\0\0\x18\0\0\0".to_vec();
    // All bytes, last id, sessions; id, last used, unanswered, numbers; number 1 and its entry.
    for number in [40u64, 1, 1, 1, 3, 1, 2, 1, 2] {
        expected.extend_from_slice(&number.to_le_bytes());
    }
    expected.extend_from_slice(b"\x01\x02\0\0\0ok");
    for number in [2u64, 3] {
        expected.extend_from_slice(&number.to_le_bytes());
    }
    expected.push(0);
    let bytes = image(&machine.sessions);
    assert_eq!(bytes[..bytes.len() - 4], expected);
    assert_eq!(bytes[bytes.len() - 4..], crc32c::crc32c(&expected).to_le_bytes());
}

#[test]
fn damaged_bytes_give_an_error_whichever_bit_it_is() {
    let bytes = image(&varied().sessions);
    assert!(restored(&bytes).is_ok());
    for cut in 0..bytes.len() {
        assert!(matches!(restored(&bytes[..cut]), Err(SessionsReadError::Io(_))), "{cut}");
    }
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(restored(&damaged).is_err(), "bit {bit}");
    }
    let mut newer = bytes.clone();
    newer[8] = 2;
    assert!(matches!(restored(&newer), Err(SessionsReadError::Unsupported { format: 2 })));
    assert!(matches!(restored(b"raft-kv1 and more"), Err(SessionsReadError::NotSessions)));
    let error: std::io::Error = restored(&newer).unwrap_err().into();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    assert!(matches!(
        Sessions::<u64>::read_from(&mut &bytes[..]),
        Err(SessionsReadError::Response { sequence: 1, .. })
    ));
}

/// With a right checksum it is the contents that must be refused.
#[test]
fn a_table_that_contradicts_itself_is_refused() {
    let base = image(&varied().sessions);
    // Where a number stands, what is written there, and what is said of it.
    let cases: [(usize, u64, &str); 8] = [
        (12, 0, "header"),
        (32, 1 << 63, "header"),
        (40, 1 << 40, "header"),
        (48, 0, "id is out of order"),
        (48, 9, "id is out of order"),
        (56, 1 << 63, "session contradicts"),
        (64, 0, "session contradicts"),
        (80, 0, "sequence number is out of order"),
    ];
    for (at, number, reason) in cases {
        let mut bytes = base.clone();
        let width = if at == 12 { 4 } else { 8 };
        bytes[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]);
        let end = bytes.len() - 4;
        let crc = crc32c::crc32c(&bytes[..end]);
        bytes[end..].copy_from_slice(&crc.to_le_bytes());
        let error = restored(&bytes).expect_err(reason).to_string();
        assert!(error.contains(reason), "{at}: {error}");
    }
    // A length that claims gigabytes costs what is there.
    let mut bytes = base.clone();
    bytes[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
    bytes[24..32].copy_from_slice(&u64::MAX.to_le_bytes());
    bytes[97..101].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(restored(&bytes), Err(SessionsReadError::Io(_))));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_a_command_that_comes_back_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        let bytes = Bytes::from(bytes);
        if let Ok(command) = SessionCommand::decode(&bytes) {
            prop_assert_eq!(command.encode(), bytes);
        }
    }

    #[test]
    fn any_bytes_are_a_table_that_comes_back_or_an_error(
        tail in proptest::collection::vec(prop_oneof![Just(0u8), Just(1), any::<u8>()], 0..200),
        sound in any::<bool>(),
    ) {
        let mut bytes = image(&varied().sessions);
        let keep = if sound { 48 } else { 24 };
        bytes.truncate(keep);
        bytes.extend_from_slice(&tail);
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        if let Ok(table) = restored(&bytes) {
            prop_assert_eq!(restored(&image(&table)).expect("its own bytes"), table);
        }
    }
}
