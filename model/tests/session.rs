//! The shipped table of sessions in every state within small bounds, and broken ones that must be found.

use raft_io::Index;
use raft_io::session::{Forgotten, SessionCommand, SessionError, SessionId, SessionLimits, SessionReply, Sessions};
use raft_model::session::{Bounds, LAWS, SessionModel, Table};
use stateright::{Checker, HasDiscoveries, Model};
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::hash::Hash;
use std::marker::PhantomData;

type Outcome = Result<SessionReply<u64>, SessionError>;

/// One response of eight bytes fits into a session.
const LIMITS: SessionLimits = SessionLimits { sessions_max: 1, window: 2, session_bytes_max: 8, total_bytes_max: 64 };

/// Two clients take each other's session away.
const EVICTION: Bounds = Bounds { clients: 2, opens_max: 2, sequence_max: 1, entries_max: 5, limits: LIMITS };

/// Two sessions at once, and room for one response of the two.
const TWO_SESSIONS: Bounds = Bounds {
    clients: 2,
    opens_max: 1,
    sequence_max: 1,
    entries_max: 5,
    limits: SessionLimits { sessions_max: 2, total_bytes_max: 8, ..LIMITS },
};

/// One client with more in flight than there is room for.
const WINDOW: Bounds = Bounds { clients: 1, opens_max: 1, sequence_max: 3, entries_max: 5, limits: LIMITS };

/// All states within the bounds: how many, and what was found in them.
fn explore<T: Table + Send + Sync + 'static>(bounds: Bounds) -> (usize, BTreeSet<&'static str>) {
    let checker = SessionModel::<T>::new(bounds).checker().threads(2);
    let checker = checker.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    (checker.unique_state_count(), checker.discoveries().into_keys().collect())
}

/// The laws that break in some state.
fn laws_that_break<T: Table + Send + Sync + 'static>(bounds: Bounds) -> Vec<&'static str> {
    let (_, found) = explore::<T>(bounds);
    LAWS.into_iter().filter(|law| found.contains(law)).collect()
}

/// Whether this law breaks, whatever else does.
fn breaks<T: Table + Send + Sync + 'static>(bounds: Bounds, law: &'static str) -> bool {
    let checker = SessionModel::<T>::new(bounds).checker().threads(2);
    let checker = checker.finish_when(HasDiscoveries::AnyOf([law].into())).spawn_bfs().join();
    checker.discovery(law).is_some()
}

/// Every state keeps the laws, the goals are reached, and the number of states is the one counted before.
fn check(bounds: Bounds, states: usize, goals: &[&'static str]) {
    let (found_states, found) = explore::<Sessions<u64>>(bounds);
    let goals: BTreeSet<&str> = goals.iter().copied().collect();
    assert_eq!((found_states, found), (states, goals));
}

/// What a session with one command cannot come to.
const SEVERAL: [&str; 3] = ["acknowledged", "out of order", "over the limit"];
const ALWAYS: [&str; 3] = ["late for its session", "repeated", "restored"];

#[test]
fn sessions_that_evict_each_other_apply_once() {
    check(EVICTION, 22_973, &ALWAYS);
}

#[test]
fn two_sessions_that_share_the_room_for_responses_apply_once() {
    check(TWO_SESSIONS, 16_961, &[&ALWAYS[..], &["over the limit", "two sessions"]].concat());
}

#[test]
fn a_session_with_more_in_flight_than_fits_applies_once() {
    check(WINDOW, 57_314, &[&ALWAYS[..], &SEVERAL, &["too early"]].concat());
}

/// Each with two commands. They take minutes without optimisation: `cargo test --release -p raft-model --test session`.
#[cfg(not(debug_assertions))]
#[test]
fn two_commands_of_each_session_apply_once() {
    check(Bounds { sequence_max: 2, ..EVICTION }, 543_114, &[&ALWAYS[..], &SEVERAL].concat());
    check(Bounds { sequence_max: 2, ..TWO_SESSIONS }, 537_101, &[&ALWAYS[..], &SEVERAL, &["two sessions"]].concat());
}

/// A mistake in a table: what it makes of the real one's answers, and of its snapshots.
trait Mistake: Clone + Debug + Eq + Hash + Send + Sync + 'static {
    /// What it answers instead in this entry.
    fn answer(outcome: Outcome, _index: u64) -> Outcome {
        outcome
    }

    /// What it restores.
    fn restore(table: &Sessions<u64>) -> Sessions<u64> {
        table.restored()
    }
}

/// The real table with a mistake.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Broken<M> {
    table: Sessions<u64>,
    mistake: PhantomData<M>,
}

impl<M: Mistake> Table for Broken<M> {
    fn new(limits: SessionLimits) -> Self {
        Self { table: Sessions::new(limits), mistake: PhantomData }
    }

    fn apply(&mut self, index: u64, command: &SessionCommand) -> Outcome {
        let outcome = self.table.apply(Index(index), command, |_| index);
        let is_about_one = matches!(command, SessionCommand::Call(_)) || outcome.is_ok();
        if is_about_one { M::answer(outcome, index) } else { outcome }
    }

    fn restored(&self) -> Self {
        Self { table: M::restore(&self.table), mistake: PhantomData }
    }
}

macro_rules! mistakes {
    ($($name:ident { $($body:tt)* })*) => {
        $(
            #[derive(Clone, Debug, PartialEq, Eq, Hash)]
            struct $name;

            impl Mistake for $name { $($body)* }
        )*
    };
}

mistakes! {
    None {}
    UnknownSessionIsCreated {
        fn answer(outcome: Outcome, index: u64) -> Outcome {
            if matches!(outcome, Err(SessionError::Expired { .. })) { applied(index) } else { outcome }
        }
    }
    TableIsNotInTheSnapshot {
        fn restore(table: &Sessions<u64>) -> Sessions<u64> {
            Sessions::new(table.limits())
        }
    }
    NumbersAreNotInTheSnapshot {
        fn restore(table: &Sessions<u64>) -> Sessions<u64> {
            let mut sessions = Sessions::new(table.limits());
            for id in table.ids() {
                Table::apply(&mut sessions, id.0, &SessionCommand::Open).expect("there is room");
            }
            sessions
        }
    }
    RepetitionRunsAgain {
        fn answer(outcome: Outcome, index: u64) -> Outcome {
            if matches!(outcome, Ok(SessionReply::Repeated(_))) { applied(index) } else { outcome }
        }
    }
    RepetitionGetsWhatIsThereNow {
        fn answer(outcome: Outcome, index: u64) -> Outcome {
            outcome.map(|reply| if let SessionReply::Repeated(_) = reply { SessionReply::Repeated(index) } else { reply })
        }
    }
    AcknowledgedPassesForNew {
        fn answer(outcome: Outcome, index: u64) -> Outcome {
            if is_forgotten(&outcome, Forgotten::Acknowledged) { applied(index) } else { outcome }
        }
    }
    DroppedResponsePassesForNew {
        fn answer(outcome: Outcome, index: u64) -> Outcome {
            if is_forgotten(&outcome, Forgotten::OverLimit) { applied(index) } else { outcome }
        }
    }
    IdIsUsedAgain {
        fn answer(outcome: Outcome, _index: u64) -> Outcome {
            outcome.map(|reply| if let SessionReply::Opened(_) = reply { SessionReply::Opened(SessionId(1)) } else { reply })
        }
    }
}

fn applied(response: u64) -> Outcome {
    Ok(SessionReply::Applied(response))
}

fn is_forgotten(outcome: &Outcome, why: Forgotten) -> bool {
    matches!(outcome, Err(SessionError::ResponseForgotten { reason, .. }) if *reason == why)
}

/// Only the law in question counts: one that breaks earlier does not hide it.
#[test]
fn each_mistake_breaks_the_law_that_forbids_it() {
    let once = "SessionAppliedOnce";
    assert!(breaks::<Broken<UnknownSessionIsCreated>>(EVICTION, once));
    assert!(breaks::<Broken<NumbersAreNotInTheSnapshot>>(EVICTION, once));
    assert!(breaks::<Broken<RepetitionRunsAgain>>(EVICTION, once));
    assert!(breaks::<Broken<AcknowledgedPassesForNew>>(WINDOW, once));
    assert!(breaks::<Broken<DroppedResponsePassesForNew>>(WINDOW, once));
    assert!(breaks::<Broken<TableIsNotInTheSnapshot>>(EVICTION, "SessionEndsForAReason"));
    assert!(breaks::<Broken<RepetitionGetsWhatIsThereNow>>(EVICTION, "SessionAnswersAlike"));
    assert!(breaks::<Broken<IdIsUsedAgain>>(EVICTION, "SessionIdUnique"));
}

#[test]
fn without_a_mistake_no_law_breaks() {
    assert_eq!(laws_that_break::<Broken<None>>(EVICTION), [""; 0]);
    // What it lost it refuses: that is no second time, and all the same a loss.
    assert!(!breaks::<Broken<TableIsNotInTheSnapshot>>(WINDOW, "SessionAppliedOnce"));
}
