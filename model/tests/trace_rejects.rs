//! Of an accepted trace no field of any kind of event can be altered: each alteration is refused, by the reader or by the
//! spec. All that the reader lets through are tried in one run of TLC. A story of the simulator has every kind of event;
//! `RECORDED_TRACE=FILE` alters the trace of another run too (`scripts/check spec`: the one of the cluster example).

use raft_io::testkit::script::Script;
use raft_io::trace::Line;
use raft_model::tlc::Tlc;
use raft_model::trace::{Options, Variant, Window, explained_variants};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Elections, appends, reads at leaders and followers, snapshots, transfers of leadership, a batch, every timer, a refusal, a crash that keeps one of two
/// writes, a restart; a joiner that becomes a learner by a snapshot and a voter by itself, a joint configuration, a leader that removes
/// itself.
const STORY: &[&str] = &[
    "cluster 3 servers=4 disk=manual trace=true",
    // One voter alone is asked: with two answers on their way, either could be the first, and both would be right.
    "election_timeout 1",
    "drop_message 1 3",
    "deliver 1 2",
    "deliver 2 1",
    "persisted 1",
    "drop_message 1 3",
    "deliver 1 2",
    "persisted 2",
    "deliver 2 1",
    "stabilize",
    "read_request 1 1",
    "read_request 1 2",
    "drop_message 1 3",
    "deliver 1 2",
    "deliver 2 1",
    "drop_message 1 3",
    "deliver 1 2",
    "deliver 2 1",
    // The second read is asked for once the first is answered; a context may be any number.
    "follower_read_request 2 3",
    "follower_read_request 2 18446744073709551614",
    "deliver 2 1",
    "drop_message 1 3",
    "deliver 1 2",
    "deliver 2 1",
    "deliver 1 2",
    "deliver 2 1",
    "drop_message 1 3",
    "deliver 1 2",
    "deliver 2 1",
    "deliver 1 2",
    "follower_read_request 1 5",
    "drop_message 1 3",
    "deliver 1 2",
    "deliver 2 1",
    "client_request 1 x y",
    "client_request 1 z",
    "heartbeat_timeout 1",
    "quorum_check_timeout 1",
    "persisted 1 1",
    "deliver 1 2",
    "deliver 1 2",
    "crash 2 keep=1",
    "restart 2",
    "stabilize",
    "minimum_election_timeout 3",
    "minimum_election_timeout 2",
    "transfer_leadership 1 2",
    "transfer_timeout 1",
    "drop_message 1 2",
    "crash 1",
    "follower_read_request 3 6",
    "election_timeout 2",
    "deliver 2 3",
    "deliver 3 2",
    "persisted 2",
    "stabilize",
    "client_request 2 w",
    "restart 1",
    "stabilize",
    // Asked again with the heartbeat.
    "follower_read_request 3 7",
    "drop_message 3 2",
    "heartbeat_timeout 2",
    "stabilize",
    // Node 1 falls behind what node 2 then forgets: it fetches a snapshot, at the second try.
    "partition 2 3 | 1",
    "client_request 2 p q",
    "stabilize",
    "heartbeat_timeout 2",
    "stabilize",
    "snapshot_taken 2 8 through=7",
    "persisted 2",
    "heal",
    "heartbeat_timeout 2",
    "deliver 2 1",
    "deliver 1 2",
    "deliver 2 1",
    "snapshot_fetch_failed 1",
    "heartbeat_timeout 2",
    "deliver 2 1",
    "deliver 2 1",
    "snapshot_fetched 1",
    "persisted 1",
    "crash 1",
    "restart 1",
    "stabilize",
    "transfer_leadership 2 3",
    "handle_timeout_now_request 2 3",
    "stabilize",
    "snapshot_taken 3 9 through=8",
    "persisted 3",
    "change_membership 3 voters=1,2,3 learners=4 promoting=4",
    "stabilize",
    "heartbeat_timeout 3",
    "stabilize",
    "heartbeat_timeout 3",
    "stabilize",
    "change_membership 3 voters=3,4 learners=1",
    "stabilize",
    // Who hears no leader gives its reads up, and takes no answer any more.
    "follower_read_request 1 8",
    "minimum_election_timeout 1",
    "stabilize",
    "change_membership 3 voters=4",
    "stabilize",
    "transfer_timeout 3",
];

/// Reads by a lease and without one, a lease that is over, a leader that is told to lead no more.
const LEASES: &[&str] = &[
    "cluster 3 disk=manual trace=true lease_ticks=5",
    "minimum_election_timeout 2",
    "election_timeout 1",
    "drop_message 1 3",
    "deliver 1 2",
    "deliver 2 1",
    "persisted 1",
    "drop_message 1 3",
    "deliver 1 2",
    "persisted 2",
    "deliver 2 1",
    "stabilize",
    "read_request 1 1",
    "drop_message 1 3",
    "deliver 1 2",
    "deliver 2 1",
    "lease_read_request 1 2",
    "lease_timeout 1 1",
    "lease_read_request 1 3",
    "drop_message 1 3",
    "deliver 1 2",
    "deliver 2 1",
    "step_down 1",
];

/// Lines of each kind that are altered: those that say most.
const LINES_OF_A_KIND: usize = 3;

fn recorded(story: &[&str]) -> Vec<Line> {
    let mut script = Script::default();
    for command in story {
        script.run(command).unwrap_or_else(|error| panic!("{command}: {error}"));
    }
    script.cluster().expect("a cluster").trace().to_vec()
}

/// The positions of the lines to alter.
fn chosen(lines: &[Line]) -> Vec<usize> {
    let mut kinds: BTreeMap<(&str, u64), Vec<(usize, usize)>> = BTreeMap::new();
    for (at, line) in lines.iter().enumerate() {
        let text = serde_json::to_string(line).expect("a line");
        // A start and a restart are two kinds.
        let life = if line.start.is_some() { line.life.min(2) } else { 0 };
        kinds.entry((line.event.name(), life)).or_default().push((text.len(), at));
    }
    let richest = |mut of_kind: Vec<(usize, usize)>| {
        of_kind.sort_unstable();
        of_kind.into_iter().rev().take(LINES_OF_A_KIND).map(|(_, at)| at)
    };
    kinds.into_values().flat_map(richest).collect()
}

/// Every value that differs from `value` in one place, with the way there.
fn altered(value: &Value, way: &str) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    let mut note = |other: Value| found.push((way.to_string(), other));
    let field = way.rsplit('/').find(|part| part.parse::<usize>().is_err()).unwrap_or("");
    let is_node = [
        "node",
        "from",
        "to",
        "peer",
        "votedFor",
        "vote",
        "leader",
        "votesGranted",
        "votesRefused",
        "voters",
        "outgoing",
        "learners",
        "promoting",
        "transfer",
        "target",
    ]
    .contains(&field);
    match value {
        Value::Number(number) if is_node => note(json!(number.as_u64().unwrap_or(0) % 3 + 1)),
        Value::Number(number) => note(json!(number.as_u64().unwrap_or(0) + 1)),
        Value::Bool(yes) => note(json!(!yes)),
        Value::Null if field == "hardState" => note(json!({ "term": 1, "vote": null })),
        Value::Null => note(json!(1)),
        Value::String(word) => note(json!(other_word(word))),
        Value::Array(items) => {
            if let Some((_, rest)) = items.split_last() {
                note(json!(rest));
            }
            note(json!([items.as_slice(), &[one_more(field)]].concat()));
            for (at, item) in items.iter().enumerate() {
                for (way, other) in altered(item, &format!("{way}/{at}")) {
                    let mut all = items.clone();
                    all[at] = other;
                    found.push((way, json!(all)));
                }
            }
        }
        Value::Object(fields) => {
            for (name, inner) in fields {
                for (way, other) in altered(inner, &format!("{way}/{name}")) {
                    let mut all = fields.clone();
                    all.insert(name.clone(), other);
                    found.push((way, Value::Object(all)));
                }
            }
        }
    }
    found
}

fn other_word(word: &str) -> &'static str {
    match word {
        "Follower" => "PreCandidate",
        "PreCandidate" | "Leader" => "Candidate",
        "Candidate" => "Follower",
        "Noop" => "Command",
        "Command" => "Noop",
        "Probe" => "ProbeSent",
        "ProbeSent" | "Snapshot" => "Replicate",
        "Replicate" => "Probe",
        "Accepted" | "Rejected" => "StaleTerm",
        "ElectionTimeout" => "HeartbeatTimeout",
        "HeartbeatTimeout" | "MinimumElectionTimeout" => "QuorumCheckTimeout",
        "QuorumCheckTimeout" | "TransferLeadership" => "ElectionTimeout",
        "TransferTimeout" => "HeartbeatTimeout",
        "RequestVoteRequest" => "PreVoteRequest",
        "HandleRequestVoteRequest" => "HandlePreVoteRequest",
        "ClientRequest" => "ReadRequest",
        "ReadRequest" => "HeartbeatTimeout",
        "ConfirmLeaderRequest" => "ConfirmLeaderResponse",
        "HandleConfirmLeaderRequest" => "HandleConfirmLeaderResponse",
        "HandleConfirmLeaderResponse" | "HandleReadIndexResponse" => "HandleConfirmLeaderRequest",
        "HandleReadIndexRequest" => "HandleReadIndexResponse",
        "FollowerReadRequest" => "ReadRequest",
        _ => "AppendEntriesResponse",
    }
}

/// An element that a list of this name could have.
fn one_more(field: &str) -> Value {
    let message = json!({ "type": "RequestVoteResponse", "from": 3, "to": 2, "term": 1, "granted": false });
    match field {
        "entries" | "log" => json!({ "term": 1, "payload": "Command", "count": 1 }),
        "progress" => json!({
            "peer": 3, "matchIndex": 0, "nextIndex": 1, "state": "Probe", "active": false, "inflight": []
        }),
        "pending" => json!({
            "hardState": null, "truncateFrom": null, "entries": [], "durable": 0, "messages": []
        }),
        "messages" | "sent" => message,
        "reads" => json!({ "round": 1, "index": 1 }),
        _ => json!(3),
    }
}

#[test]
fn no_field_of_any_event_can_be_altered() {
    let (lines, leases) = (recorded(STORY), recorded(LEASES));
    let has = |name: &str, lives: std::ops::RangeInclusive<u64>| {
        lines.iter().chain(&leases).any(|line| line.event.name() == name && lives.contains(&line.life))
    };
    for transition in raft_io::Transition::ALL {
        assert!(has(transition.name(), 0..=u64::MAX), "the story has no {transition}");
    }
    assert!(has("Start", 1..=1) && has("Start", 2..=u64::MAX), "the story has no restart");
    assert_no_alteration_is_explained(&lines, 500);
    assert_no_alteration_is_explained(&leases, 100);
}

#[test]
fn no_field_of_a_recorded_run_can_be_altered() {
    let Some(file) = std::env::var_os("RECORDED_TRACE") else {
        return eprintln!("skipped, RECORDED_TRACE names no file");
    };
    let lines = raft_io::trace::read(file.as_ref()).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    assert_no_alteration_is_explained(&lines, 200);
}

fn assert_no_alteration_is_explained(lines: &[Line], variants_min: usize) {
    let window = Window::new(lines.to_vec(), usize::MAX).expect("a trace");
    let (mut variants, mut ways, mut refused) = (Vec::new(), Vec::new(), 0);
    for at in chosen(lines) {
        let line = &lines[at];
        for (way, other) in altered(&serde_json::to_value(line).expect("a line"), "") {
            let mut trace = lines.to_vec();
            let Ok(other) = serde_json::from_value::<Line>(other) else {
                refused += 1;
                continue;
            };
            if other == *line || same_set(line, &other) {
                continue;
            }
            trace[at] = other.clone();
            if Window::new(trace, usize::MAX).is_err() {
                refused += 1;
                continue;
            }
            ways.push(format!("line {}, {}{way}: {other:?}", at + 1, line.event));
            variants.push(Variant { at, line: other });
        }
    }
    let spec = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../spec"));
    let options = Options { events_max: usize::MAX, heap_mebibytes: raft_model::tlc::HEAP_MEBIBYTES, spec: &spec };
    if let Err(error) = Tlc::find() {
        return eprintln!("skipped, there is no TLC to ask: {error}");
    }
    let explained = explained_variants(&window, &variants, &options).expect("TLC runs");
    let (alike, wrongly): (Vec<usize>, Vec<usize>) =
        explained.into_iter().partition(|variant| could_have_been(lines, &variants[*variant]));
    let wrongly: Vec<&String> = wrongly.into_iter().map(|variant| &ways[variant]).collect();
    assert!(wrongly.is_empty(), "{} alterations are explained:\n{wrongly:#?}", wrongly.len());
    // One timer and one answer at most: were it more, the spec might have stopped to look at something.
    assert!(alike.len() <= 4, "{} alterations could have been: {:#?}", alike.len(), alike);
    let by_spec = variants.len() - alike.len();
    eprintln!("{} lines, {refused} alterations refused by the reader, {by_spec} by the spec", lines.len());
    alike.into_iter().for_each(|variant| eprintln!("could have been: {}", ways[variant]));
    assert!(variants.len() > variants_min, "only {} alterations were tried", variants.len());
}

/// Whether the altered line tells of another run that could have been and would have ended alike, so that nobody could tell:
/// of timers that change nothing any may have run out, and of equal answers on their way any may have come first.
fn could_have_been(lines: &[Line], altered: &Variant) -> bool {
    let (line, other) = (&lines[altered.at], &altered.line);
    let earlier = &lines[..altered.at];
    let before = earlier.iter().rfind(|each| each.node == line.node);
    let nothing = before.is_some_and(|before| before.state == line.state) && line.sent.is_empty();
    let is_timer = |line: &Line| line.event.name().ends_with("Timeout");
    let only_event = Line { event: line.event, ..other.clone() } == *line;
    let only_message = Line { message: line.message.clone(), ..other.clone() } == *line;
    let was_sent = || {
        line.message.as_ref().map(|m| m.way().1) == other.message.as_ref().map(|m| m.way().1)
            && earlier.iter().any(|each| other.message.as_ref().is_some_and(|message| each.sent.contains(message)))
    };
    (nothing && only_event && is_timer(line) && is_timer(other)) || (only_message && was_sent())
}

/// Votes are sets: the same one twice says nothing new.
fn same_set(line: &Line, other: &Line) -> bool {
    let mut one = other.clone();
    let sorted = |ids: &[raft_io::NodeId]| ids.iter().copied().collect::<std::collections::BTreeSet<_>>();
    let votes = |line: &Line| (sorted(&line.state.votes_granted), sorted(&line.state.votes_refused));
    let same = votes(line) == votes(other);
    one.state.votes_granted.clone_from(&line.state.votes_granted);
    one.state.votes_refused.clone_from(&line.state.votes_refused);
    same && one == *line
}
