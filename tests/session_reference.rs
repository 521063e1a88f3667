//! The table of sessions against a reference that remembers everything, over random schedules of commands, repetitions,
//! evictions and restored snapshots.

#![cfg(feature = "std")]

use bytes::Bytes;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use raft_io::Index;
use raft_io::session::{
    Forgotten, SessionCall, SessionCommand, SessionError, SessionId, SessionLimits, SessionReply, Sessions,
};
use std::collections::BTreeMap;

type Outcome = Result<SessionReply<Bytes>, SessionError>;

const TIGHT: SessionLimits = SessionLimits { sessions_max: 3, window: 4, session_bytes_max: 24, total_bytes_max: 40 };

fn image(sessions: &Sessions<Bytes>) -> Vec<u8> {
    let mut bytes = Vec::new();
    sessions.image().write_to(&mut bytes).expect("memory takes everything");
    bytes
}

fn forgotten(session: u64, sequence: u64, reason: Forgotten) -> Outcome {
    Err(SessionError::ResponseForgotten { session: SessionId(session), sequence, reason })
}

fn expired(session: u64) -> Outcome {
    Err(SessionError::Expired { session: SessionId(session) })
}

/// What may come next in the log, or happen to the replica.
#[derive(Clone, Debug)]
enum Step {
    Open,
    /// Of the session at this place among all that ever were, or of none; numbers count from how far the schedule is.
    Call {
        session: usize,
        sequence: u64,
        behind: u64,
        bytes: usize,
    },
    KeepAlive {
        session: usize,
        unanswered: u64,
    },
    Close {
        session: usize,
    },
    /// The replica is restored from a snapshot of itself.
    Restore,
}

/// Numbers rise in the course of a schedule, as a client's do; each command may come early, late or again.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let session = || prop_oneof![12 => 0..3usize, 1 => 3..8usize];
    let call = (session(), 0..4u64, 0..5u64, 0..14usize).prop_map(|(session, sequence, behind, bytes)| Step::Call {
        session,
        sequence,
        behind,
        bytes,
    });
    let step = prop_oneof![
        2 => Just(Step::Open),
        40 => call,
        1 => (session(), 0..4u64).prop_map(|(session, unanswered)| Step::KeepAlive { session, unanswered }),
        1 => session().prop_map(|session| Step::Close { session }),
        3 => Just(Step::Restore),
    ];
    proptest::collection::vec(step, 1..120)
}

/// A session as somebody would write it who has no care for cost.
#[derive(Clone, Debug)]
struct Naive {
    id: u64,
    last_used: u64,
    unanswered: u64,
    /// Number, entry, response if it is kept.
    calls: Vec<(u64, u64, Option<Bytes>)>,
}

/// Remembers everything that ever was.
#[derive(Default)]
struct Reference {
    open: Vec<Naive>,
    /// All ids that were given out.
    ids: Vec<u64>,
    /// What each number of each session got the first time, for ever.
    first: BTreeMap<(u64, u64), Bytes>,
}

impl Reference {
    fn kept(&self) -> Vec<(u64, u64, u64, usize)> {
        let each = |session: &Naive| {
            let id = session.id;
            let kept = session.calls.iter().filter_map(move |(sequence, at, response)| {
                response.as_ref().map(|response| (*at, id, *sequence, response.len()))
            });
            kept.collect::<Vec<_>>()
        };
        let mut kept: Vec<_> = self.open.iter().flat_map(each).collect();
        kept.sort_unstable();
        kept
    }

    fn drop_response(&mut self, id: u64, sequence: u64) {
        let session = self.open.iter_mut().find(|session| session.id == id).expect("it is open");
        session.calls.iter_mut().find(|call| call.0 == sequence).expect("it was applied").2 = None;
    }

    /// What must come of a command in this entry; `response` is what it would answer.
    fn expect(&mut self, index: u64, command: &SessionCommand, response: &Bytes) -> Outcome {
        let (id, acknowledged) = match command {
            SessionCommand::Open => {
                if self.open.len() == TIGHT.sessions_max as usize {
                    let oldest = self.open.iter().map(|session| session.last_used).min();
                    self.open.retain(|session| Some(session.last_used) != oldest);
                }
                self.open.push(Naive { id: index, last_used: index, unanswered: 1, calls: Vec::new() });
                self.ids.push(index);
                return Ok(SessionReply::Opened(SessionId(index)));
            }
            SessionCommand::Call(call) => (call.session.0, call.unanswered),
            SessionCommand::KeepAlive { session, unanswered } => (session.0, *unanswered),
            SessionCommand::Close { session } => (session.0, 1),
            other => panic!("{other:?}"),
        };
        let Some(session) = self.open.iter_mut().find(|session| session.id == id) else { return expired(id) };
        session.last_used = index;
        session.unanswered = session.unanswered.max(acknowledged);
        let unanswered = session.unanswered;
        session.calls.retain(|(sequence, ..)| *sequence >= unanswered);
        let SessionCommand::Call(call) = command else {
            if matches!(command, SessionCommand::Close { .. }) {
                self.open.retain(|session| session.id != id);
                return Ok(SessionReply::Closed(SessionId(id)));
            }
            return Ok(SessionReply::Alive(SessionId(id)));
        };
        if call.sequence < unanswered {
            return forgotten(id, call.sequence, Forgotten::Acknowledged);
        }
        if let Some((_, _, kept)) = session.calls.iter().find(|(sequence, ..)| *sequence == call.sequence) {
            return match kept {
                Some(response) => Ok(SessionReply::Repeated(response.clone())),
                None => forgotten(id, call.sequence, Forgotten::OverLimit),
            };
        }
        if call.sequence >= unanswered + u64::from(TIGHT.window) {
            let (session, window) = (SessionId(id), TIGHT.window);
            return Err(SessionError::WindowExceeded { session, sequence: call.sequence, unanswered, window });
        }
        session.calls.push((call.sequence, index, Some(response.clone())));
        session.calls.sort_unstable_by_key(|call| call.0);
        self.keep_to_limits(id, call.sequence, response.len());
        Ok(SessionReply::Applied(response.clone()))
    }

    fn keep_to_limits(&mut self, id: u64, sequence: u64, bytes: usize) {
        if bytes > TIGHT.session_bytes_max as usize || bytes as u64 > TIGHT.total_bytes_max {
            return self.drop_response(id, sequence);
        }
        loop {
            let own: Vec<_> = self.kept().into_iter().filter(|kept| kept.1 == id).collect();
            if own.iter().map(|kept| kept.3).sum::<usize>() <= TIGHT.session_bytes_max as usize {
                break;
            }
            let lowest = own.iter().map(|kept| kept.2).filter(|other| *other != sequence).min();
            self.drop_response(id, lowest.expect("it fits alone"));
        }
        while self.kept().iter().map(|kept| kept.3 as u64).sum::<u64>() > TIGHT.total_bytes_max {
            let (_, id, sequence, _) = self.kept()[0];
            self.drop_response(id, sequence);
        }
    }

    fn id(&self, place: usize) -> SessionId {
        SessionId(self.ids.iter().rev().nth(place).copied().unwrap_or(1 << 40))
    }
}

/// Runs a schedule; how many commands were applied, repeated and refused.
fn run(steps: &[Step]) -> [usize; 3] {
    let mut reference = Reference::default();
    // One replica is restored now and then, one never: they must not differ.
    let (mut restarting, mut steady) = (Sessions::new(TIGHT), Sessions::new(TIGHT));
    let mut counts = [0; 3];
    for (at, step) in steps.iter().enumerate() {
        let (index, base) = (at as u64 + 1, at as u64 / 12 + 1);
        let mut bytes = 0;
        let command = match *step {
            Step::Open => SessionCommand::Open,
            Step::KeepAlive { session, unanswered } => {
                SessionCommand::KeepAlive { session: reference.id(session), unanswered: base + unanswered }
            }
            Step::Close { session } => SessionCommand::Close { session: reference.id(session) },
            Step::Call { session, sequence, behind, bytes: wanted } => {
                bytes = if wanted == 13 { 50 } else { wanted };
                let (sequence, session) = (base + sequence, reference.id(session));
                let unanswered = sequence.saturating_sub(behind).max(1);
                SessionCommand::Call(SessionCall { session, sequence, unanswered, command: Bytes::new() })
            }
            Step::Restore => {
                restarting = Sessions::read_from(&mut &image(&restarting)[..]).expect("its own bytes");
                continue;
            }
        };
        // No two runs answer alike, but for the shortest answers.
        let response: Bytes = index.to_le_bytes().iter().copied().cycle().take(bytes).collect();
        let expected = reference.expect(index, &command, &response);
        let outcomes =
            [&mut restarting, &mut steady].map(|sessions| sessions.apply(Index(index), &command, |_| response.clone()));
        assert_eq!(outcomes, [expected.clone(), expected.clone()], "entry {index}: {command:?}");
        assert_eq!(restarting, steady, "after entry {index}");
        assert_eq!(image(&restarting), image(&steady), "after entry {index}");
        let SessionCommand::Call(call) = &command else { continue };
        let key = (call.session.0, call.sequence);
        match &expected {
            Ok(SessionReply::Applied(response)) => {
                counts[0] += 1;
                assert!(reference.first.insert(key, response.clone()).is_none(), "{key:?} was applied twice");
            }
            Ok(SessionReply::Repeated(response)) => {
                counts[1] += 1;
                assert_eq!(reference.first.get(&key), Some(response), "{key:?} got another response");
            }
            _ => counts[2] += 1,
        }
    }
    counts
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_table_does_what_one_would_that_remembers_everything(steps in steps()) {
        run(&steps);
    }
}

/// Of schedules in which nothing happens nothing follows.
#[test]
fn the_schedules_apply_repeat_and_refuse() {
    let mut runner = TestRunner::deterministic();
    let mut sum = [0; 3];
    for _ in 0..200 {
        let schedule = steps().new_tree(&mut runner).expect("a schedule").current();
        let counts = run(&schedule);
        (0..3).for_each(|kind| sum[kind] += counts[kind]);
    }
    assert!(sum.iter().all(|count| *count > 1000), "{sum:?}");
}
