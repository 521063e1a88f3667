//! The linearizability checker against histories of known verdict, and against a second checker
//! that tries every order.

#![cfg(feature = "testkit")]

use bytes::Bytes;
use proptest::prelude::*;
use raft_io::testkit::linearizability::{
    KeyValue, KeyValueInput as In, KeyValueOutput as Out, Operation, Specification, Step, Verdict, check, check_each,
    check_within,
};
use std::collections::HashSet;
use std::time::{Duration, Instant};

type Op = Operation<In, Out>;

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn get(called: u64, returned: u64, seen: Option<&str>) -> Op {
    Op::completed(In::Get, called, returned, Out::Value(seen.map(bytes)))
}

fn set(called: u64, returned: u64, value: &str) -> Op {
    Op::completed(In::Set(bytes(value)), called, returned, Out::Done)
}

fn set_unknown(called: u64, value: &str) -> Op {
    Op::unknown(In::Set(bytes(value)), called)
}

fn increment(called: u64, returned: u64, after: i64) -> Op {
    Op::completed(In::Increment, called, returned, Out::Number(after))
}

/// The name of each history says what it shows; the verdict is known by hand.
fn known() -> Vec<(&'static str, bool, Vec<Op>)> {
    vec![
        ("nothing happened", true, vec![]),
        ("read your write", true, vec![set(0, 1, "a"), get(2, 3, Some("a"))]),
        ("stale read", false, vec![set(0, 1, "a"), set(2, 3, "b"), get(4, 5, Some("a"))]),
        ("lost write", false, vec![set(0, 1, "a"), get(2, 3, None)]),
        ("read from nowhere", false, vec![set(0, 1, "a"), get(2, 3, Some("b"))]),
        ("a read during a write sees either", true, vec![set(0, 9, "a"), get(1, 2, None), get(3, 4, Some("a"))]),
        ("new then old during one write", false, vec![set(0, 9, "a"), get(1, 2, Some("a")), get(3, 4, None)]),
        ("equal stamps are concurrent", true, vec![set(0, 5, "a"), get(5, 6, None)]),
        ("later by one stamp is not", false, vec![set(0, 5, "a"), get(6, 7, None)]),
        (
            "two readers disagree on the order of two writes",
            false,
            vec![set(0, 10, "a"), set(0, 10, "b"), get(11, 12, Some("a")), get(13, 14, Some("b"))],
        ),
        ("an unknown write may take effect", true, vec![set_unknown(0, "a"), get(50, 51, Some("a"))]),
        ("an unknown write may never take effect", true, vec![set_unknown(0, "a"), get(50, 51, None)]),
        (
            "an unknown write may take effect late",
            true,
            vec![set_unknown(0, "a"), get(1, 2, None), set(3, 4, "b"), get(5, 6, Some("b")), get(7, 8, Some("a"))],
        ),
        (
            "an unknown write takes effect once",
            false,
            vec![set_unknown(0, "a"), get(1, 2, Some("a")), set(3, 4, "b"), get(5, 6, Some("b")), get(7, 8, Some("a"))],
        ),
        ("an unknown write cannot precede its call", false, vec![get(0, 1, Some("a")), set_unknown(2, "a")]),
        (
            "dirty read: seen, then gone",
            false,
            vec![set(0, 1, "a"), set_unknown(2, "b"), get(3, 4, Some("b")), get(5, 6, Some("a"))],
        ),
        ("increments count", true, vec![increment(0, 9, 2), increment(0, 9, 1), get(10, 11, Some("2"))]),
        ("lost update", false, vec![increment(0, 9, 1), increment(0, 9, 1)]),
        ("an increment replayed", false, vec![increment(0, 1, 1), increment(2, 3, 3)]),
        (
            "an unknown increment explains the gap",
            true,
            vec![increment(0, 1, 1), Op::unknown(In::Increment, 1), increment(2, 3, 3)],
        ),
        (
            "an unknown increment cannot count twice",
            false,
            vec![increment(0, 1, 1), Op::unknown(In::Increment, 1), increment(2, 3, 4)],
        ),
        (
            "one winner of two conditional writes",
            true,
            vec![
                Op::completed(In::SetIfAbsent(bytes("a")), 0, 9, Out::ConditionFailed),
                Op::completed(In::SetIfAbsent(bytes("b")), 0, 9, Out::Done),
            ],
        ),
        (
            "two winners of two conditional writes",
            false,
            vec![
                Op::completed(In::SetIfAbsent(bytes("a")), 0, 9, Out::Done),
                Op::completed(In::SetIfAbsent(bytes("b")), 0, 9, Out::Done),
            ],
        ),
        (
            "appends in one order",
            true,
            vec![
                Op::completed(In::Append(bytes("x")), 0, 9, Out::Length(2)),
                Op::completed(In::Append(bytes("y")), 0, 9, Out::Length(1)),
                get(10, 11, Some("yx")),
            ],
        ),
        (
            "appends against their lengths",
            false,
            vec![
                Op::completed(In::Append(bytes("x")), 0, 9, Out::Length(2)),
                Op::completed(In::Append(bytes("y")), 0, 9, Out::Length(1)),
                get(10, 11, Some("xy")),
            ],
        ),
        (
            "writing what is there already may still come later",
            true,
            vec![set(0, 1, "a"), set(2, 9, "a"), set(3, 4, "b"), get(10, 11, Some("a"))],
        ),
        ("an answer of another operation", false, vec![Op::completed(In::Get, 0, 1, Out::Done)]),
    ]
}

#[test]
fn histories_of_known_verdict() {
    for (name, linearizable, history) in known() {
        let verdict = check(&KeyValue, &history);
        assert_eq!(verdict.is_linearizable(), linearizable, "{name}: {verdict:?}");
        assert_eq!(try_every_order(&history), linearizable, "{name}, by trying every order");
        assert_explains(&history, &verdict);
    }
}

#[test]
fn a_violation_names_where_it_got_stuck() {
    let history = [set(0, 1, "a"), set(2, 3, "b"), get(4, 5, Some("a")), get(6, 7, Some("b"))];
    assert_eq!(check(&KeyValue, &history), Verdict::Violation { order: vec![0, 1], stuck: vec![2] });
}

#[test]
fn keys_are_checked_apart_and_failures_keep_their_positions() {
    let history = vec![
        ("k", set(0, 1, "a")),
        ("good", set(0, 1, "x")),
        ("k", get(2, 3, None)),
        ("good", get(4, 5, Some("x"))),
        ("open", set_unknown(1, "y")),
    ];
    let summary = check_each(&KeyValue, &history);
    assert_eq!((summary.objects, summary.operations, summary.unknown), (3, 5, 1));
    assert_eq!(summary.failures, vec![("k", Verdict::Violation { order: vec![0], stuck: vec![2] })]);
    assert!(!summary.is_linearizable());
    assert!(summary.to_string().contains("1 objects not linearizable"), "{summary}");
}

#[test]
fn giving_up_is_not_a_pass() {
    // Concurrent writes and a read of none of them: every subset and last write is a configuration.
    let mut history: Vec<Op> = (0..20).map(|n| set(0, 100, &n.to_string())).collect();
    history.push(get(0, 100, Some("none of them")));
    let verdict = check_within(&KeyValue, &history, 1000);
    assert!(matches!(verdict, Verdict::Undecided { configurations } if configurations > 1000), "{verdict:?}");
    assert!(!verdict.is_linearizable());
}

#[test]
#[should_panic(expected = "before its call")]
fn an_operation_cannot_return_before_its_call() {
    check(&KeyValue, &[set(5, 4, "a")]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_trying_every_order(history in arbitrary_history(6)) {
        let verdict = check(&KeyValue, &history);
        prop_assert_eq!(verdict.is_linearizable(), try_every_order(&history), "{:?}", verdict);
        assert_explains(&history, &verdict);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn accepts_what_a_real_object_did(seed in any::<u64>()) {
        let history = execution(&mut Rng(seed), 120, 8, 0.1);
        let verdict = check(&KeyValue, &history);
        prop_assert!(verdict.is_linearizable(), "{:?}", verdict);
        assert_explains(&history, &verdict);
    }

    /// Serving one read from the past, after everything concurrent to it is over, is a violation.
    #[test]
    fn refuses_a_stale_read_anywhere(seed in any::<u64>()) {
        let mut rng = Rng(seed);
        let mut history = execution(&mut rng, 60, 4, 0.0);
        let end = 1 + history.iter().filter_map(|op| op.returned.as_ref()).map(|(at, _)| *at).max().unwrap();
        history.push(set(end, end + 1, "before the last"));
        history.push(set(end + 2, end + 3, "the last"));
        history.push(get(end + 4, end + 5, Some("before the last")));
        let violated = matches!(check(&KeyValue, &history), Verdict::Violation { .. });
        prop_assert!(violated);
    }
}

#[test]
fn a_hundred_thousand_operations_on_three_hundred_keys() {
    let mut rng = Rng(7);
    let mut history = Vec::new();
    for key in 0..300u32 {
        history.extend(execution(&mut rng, 340, 12, 0.01).into_iter().map(|operation| (key, operation)));
    }
    let start = Instant::now();
    let summary = check_each(&KeyValue, &history);
    let elapsed = start.elapsed();
    assert!(summary.is_linearizable(), "{summary}");
    assert_eq!(summary.operations, 102_000);
    assert!(summary.unknown > 500, "the history has open operations: {}", summary.unknown);
    // A second even unoptimised on a slow machine; the bound catches a search that is not linear.
    assert!(elapsed < Duration::from_secs(30), "{elapsed:?}");
}

#[test]
fn one_hot_key_under_sixteen_clients() {
    let history = execution(&mut Rng(11), 10_000, 16, 0.001);
    let verdict = check(&KeyValue, &history);
    assert!(verdict.is_linearizable(), "{:?}", matches!(verdict, Verdict::Violation { .. }));
    assert_explains(&history, &verdict);
}

/// The order of a `Linearizable` verdict is itself a proof: it must respect real time, hold every
/// operation that returned, and give every answer.
fn assert_explains(history: &[Op], verdict: &Verdict) {
    let Verdict::Linearizable { order } = verdict else { return };
    let distinct: HashSet<usize> = order.iter().copied().collect();
    assert_eq!(distinct.len(), order.len(), "an operation occurs twice");
    let completed = (0..history.len()).filter(|position| history[*position].returned.is_some());
    assert!(completed.clone().all(|position| distinct.contains(&position)), "an operation is missing");
    let mut state = None;
    let mut latest_call = 0;
    for position in order {
        let operation = &history[*position];
        let returned = operation.returned.as_ref().map_or(u64::MAX, |(at, _)| *at);
        latest_call = latest_call.max(operation.called);
        assert!(returned >= latest_call, "operation {position} returned before one placed ahead of it was called");
        let output = operation.returned.as_ref().map(|(_, output)| output);
        match KeyValue.step(&state, &operation.input, output) {
            Step::Impossible => panic!("operation {position} cannot answer so in {state:?}"),
            Step::Unchanged => {}
            Step::Changed(after) => state = after,
        }
    }
}

/// Every permutation of every choice of unknown operations, straight from the definition.
fn try_every_order(history: &[Op]) -> bool {
    fn extend(history: &[Op], done: &mut Vec<usize>, state: &Option<Bytes>) -> bool {
        let rest = || (0..history.len()).filter(|position| !done.contains(position));
        if rest().all(|position| history[position].returned.is_none()) {
            return true;
        }
        for position in rest().collect::<Vec<_>>() {
            let called = history[position].called;
            let precedes = |other: usize| history[other].returned.as_ref().is_some_and(|(at, _)| *at < called);
            if (0..history.len()).any(|other| !done.contains(&other) && precedes(other)) {
                continue;
            }
            let output = history[position].returned.as_ref().map(|(_, output)| output);
            let after = match KeyValue.step(state, &history[position].input, output) {
                Step::Impossible => continue,
                Step::Unchanged => state.clone(),
                Step::Changed(after) => after,
            };
            done.push(position);
            let explained = extend(history, done, &after);
            done.pop();
            if explained {
                return true;
            }
        }
        false
    }
    extend(history, &mut Vec::new(), &None)
}

/// Short histories with few values, so that about half of them are linearizable.
fn arbitrary_history(operations_max: usize) -> impl Strategy<Value = Vec<Op>> {
    let value = prop::sample::select(vec!["1", "2"]);
    let seen = prop::sample::select(vec![None, Some("1"), Some("2"), Some("3"), Some("11"), Some("12")]);
    let input_output = prop_oneof![
        4 => seen.prop_map(|seen| (In::Get, Out::Value(seen.map(bytes)))),
        3 => value.clone().prop_map(|value| (In::Set(bytes(value)), Out::Done)),
        1 => (value.clone(), any::<bool>()).prop_map(|(value, held)| {
            (In::SetIfAbsent(bytes(value)), if held { Out::Done } else { Out::ConditionFailed })
        }),
        1 => (value.clone(), any::<bool>()).prop_map(|(value, held)| {
            (In::SetIfPresent(bytes(value)), if held { Out::Done } else { Out::ConditionFailed })
        }),
        1 => any::<bool>().prop_map(|present| (In::Delete, Out::Deleted(present))),
        2 => (1i64..4).prop_map(|after| (In::Increment, Out::Number(after))),
        1 => (value, 1usize..3).prop_map(|(value, length)| (In::Append(bytes(value)), Out::Length(length))),
    ];
    let operation = (input_output, 0u64..12, 0u64..6, prop::bool::weighted(0.2));
    let operation = operation.prop_map(|((input, output), called, lasted, unknown)| {
        if unknown { Op::unknown(input, called) } else { Op::completed(input, called, called + lasted, output) }
    });
    prop::collection::vec(operation, 0..=operations_max)
}

/// splitmix64: a reproducible source for generated executions.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn chance(&mut self, probability: f64) -> bool {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64 <= probability && probability > 0.0
    }
}

/// What `clients` clients record of a correct object: each operation takes effect at one instant
/// between its call and its return. An unknown one loses its answer, and half of those their effect
/// too; its client goes on under a new name, as a reconnected one would.
fn execution(rng: &mut Rng, operations: usize, clients: usize, unknown: f64) -> Vec<Op> {
    enum Client {
        Idle,
        Called { input: In, called: u64 },
        TookEffect { input: In, called: u64, output: Out },
    }
    let mut history = Vec::new();
    let mut state: Option<Bytes> = None;
    let mut clients: Vec<Client> = (0..clients).map(|_| Client::Idle).collect();
    let (mut now, mut started) = (0u64, 0usize);
    while history.len() < operations {
        now += 1 + rng.below(3);
        let chosen = rng.below(clients.len() as u64) as usize;
        clients[chosen] = match std::mem::replace(&mut clients[chosen], Client::Idle) {
            Client::Idle if started < operations => {
                started += 1;
                Client::Called { input: arbitrary_input(rng, started), called: now }
            }
            Client::Idle => Client::Idle,
            Client::Called { input, called } if rng.chance(unknown) => {
                if rng.chance(0.5) {
                    state = answer(&state, &input).1;
                }
                history.push(Op::unknown(input, called));
                Client::Idle
            }
            Client::Called { input, called } => {
                let (output, after) = answer(&state, &input);
                state = after;
                Client::TookEffect { input, called, output }
            }
            Client::TookEffect { input, called, output } => {
                history.push(Op::completed(input, called, now, output));
                Client::Idle
            }
        };
    }
    history
}

fn arbitrary_input(rng: &mut Rng, unique: usize) -> In {
    let value = bytes(&format!("{unique};"));
    match rng.below(12) {
        0..=4 => In::Get,
        5..=7 => In::Set(value),
        8 => In::SetIfAbsent(value),
        9 => In::Delete,
        10 => In::Increment,
        _ => In::Append(value),
    }
}

/// The object itself, written apart from the specification under test.
fn answer(state: &Option<Bytes>, input: &In) -> (Out, Option<Bytes>) {
    let text = state.as_ref().map(|value| String::from_utf8(value.to_vec()).unwrap());
    match input {
        In::Set(value) => (Out::Done, Some(value.clone())),
        In::SetIfAbsent(value) if text.is_none() => (Out::Done, Some(value.clone())),
        In::SetIfPresent(value) if text.is_some() => (Out::Done, Some(value.clone())),
        In::SetIfAbsent(_) | In::SetIfPresent(_) => (Out::ConditionFailed, state.clone()),
        In::Delete => (Out::Deleted(text.is_some()), None),
        In::Increment => match text.unwrap_or("0".into()).parse::<i64>() {
            Ok(number) => (Out::Number(number + 1), Some(bytes(&(number + 1).to_string()))),
            Err(_) => (Out::NotANumber, state.clone()),
        },
        In::Append(suffix) => {
            let value = text.unwrap_or_default() + std::str::from_utf8(suffix).unwrap();
            (Out::Length(value.len()), Some(bytes(&value)))
        }
        _ => (Out::Value(state.clone()), state.clone()),
    }
}
