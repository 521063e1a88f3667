//! Traces of simulated clusters, whatever happens to them, are behaviours of the spec; altered ones are not.

use bytes::Bytes;
use raft_io::driver::DriverOptions;
use raft_io::log::Locked;
use raft_io::testkit::walk::walk;
use raft_io::trace::{Line, TraceOptions, merge, read};
use raft_io::transport::MemoryNetwork;
use raft_io::{EntryId, Index, MemoryLog, Raft, RaftConfig, RoleKind, StateMachine, Transition};
use raft_model::tlc::{HEAP_MEBIBYTES, Tlc};
use raft_model::trace::{Error, Options, Verdict, validate_lines};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Whether TLC can be run. Where there is no Java, these tests have nothing to ask.
fn has_tlc() -> bool {
    Tlc::find().map_err(|error| eprintln!("skipped: {error}")).is_ok()
}

fn validate(lines: Vec<Line>) -> Result<Verdict, Error> {
    let spec = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../spec"));
    validate_lines(lines, &Options { events_max: usize::MAX, heap_mebibytes: HEAP_MEBIBYTES, spec: &spec }, |_| {})
}

fn recorded(setup: &str, seed: u64) -> Vec<Line> {
    let script = walk(setup, seed, 1500).expect("no law is broken");
    script.cluster().expect("a cluster").trace().to_vec()
}

#[test]
fn random_schedules_are_behaviours_of_the_spec() {
    if !has_tlc() {
        return;
    }
    let setups = [
        "cluster 3 disk=manual trace=true",
        "cluster 3 disk=manual trace=true pre_vote=false check_quorum=false inflight_messages_max=2",
        "cluster 5 disk=manual trace=true check_quorum=false",
        // Joiners: the membership changes.
        "cluster 3 servers=5 disk=manual trace=true",
        "cluster 2 servers=4 disk=manual trace=true pre_vote=false inflight_messages_max=2",
        // Who is alone confirms itself at once.
        "cluster 1 disk=manual trace=true",
    ];
    for (setup, seed) in setups.iter().zip(1..) {
        let lines = recorded(setup, seed);
        let count = lines.len();
        match validate(lines).expect("TLC runs") {
            Verdict::Accepted(accepted) => {
                assert_eq!(accepted.events, count);
                let changes = accepted.kinds.get("ChangeMembership").copied().unwrap_or(0);
                assert_eq!(changes > 0, setup.contains("servers="), "{setup}: {changes} changes");
            }
            Verdict::Rejected(rejected) => panic!("{setup}\n{rejected}"),
        }
    }
}

#[test]
fn the_first_line_that_is_not_explained_is_named_with_what_the_spec_says() {
    if !has_tlc() {
        return;
    }
    let mut lines = recorded("cluster 3 disk=manual trace=true", 1);
    let at = lines.iter().rposition(|line| line.event.name() == Transition::Persisted.name()).expect("a write");
    let commit = lines[at].state.commit_index;
    lines[at].state.commit_index = Index(commit.0 + 1);
    let Ok(Verdict::Rejected(rejected)) = validate(lines) else { panic!("it is not rejected") };
    assert_eq!((rejected.number, rejected.line.event.name()), (at + 1, "Persisted"));
    let [difference] = rejected.differences.as_slice() else { panic!("{rejected}") };
    assert_eq!(difference.field, "commitIndex");
    assert_eq!((&difference.in_trace, &difference.in_spec), (&(commit.0 + 1).to_string(), &commit.to_string()));
    assert!(rejected.to_string().contains("line "), "{rejected}");
}

#[test]
fn a_message_that_nobody_sent_is_named() {
    if !has_tlc() {
        return;
    }
    let mut lines = recorded("cluster 3 disk=manual trace=true", 1);
    let at = lines.iter().position(|line| line.message.is_some()).expect("a message");
    let message = lines[at].message.clone().expect("a message");
    lines[..at].iter_mut().for_each(|line| line.sent.retain(|sent| *sent != message));
    // Whoever sent it is not explained either; but before that line nothing is wrong.
    let Ok(Verdict::Rejected(rejected)) = validate(lines) else { panic!("it is not rejected") };
    assert!(rejected.number <= at && rejected.differences.iter().any(|it| it.field == "sent"), "{rejected}");
}

#[test]
fn what_the_spec_does_not_know_is_no_verdict() {
    let mut lines = recorded("cluster 3 disk=manual trace=true", 1);
    let other = lines.iter().rposition(|line| line.start.is_some()).expect("a start");
    if let Some(start) = &mut lines[other].start {
        start.settings.pre_vote = false;
    }
    assert!(validate(lines).is_err_and(|error| error.to_string().contains("settings differ")));
    let mut lines = recorded("cluster 3 disk=manual trace=true", 1);
    lines.retain(|line| line.node.0 != 3);
    assert!(validate(lines).is_err_and(|error| error.to_string().contains("no line of node 3")));
}

/// The driver has what no script has: threads, batches of many clients' commands, reports of many writes at once.
#[test]
fn a_run_of_the_driver_is_a_behaviour_of_the_spec() {
    if !has_tlc() {
        return;
    }
    let folder = std::env::temp_dir().join(format!("raft-model-traced-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let network = MemoryNetwork::new();
    let nodes: Vec<Raft<Ignorant>> = (1..=3).map(|id| start(id, &network, &folder)).collect();
    let up = nodes[0].wait_for(PATIENCE, |status| status.leader.is_some()).expect("a leader");
    let leader = &nodes[up.leader.expect("a leader").id.0 as usize - 1];
    leader.wait_for(PATIENCE, |status| status.role == RoleKind::Leader).expect("it leads");
    for round in 0..20 {
        let batch = leader.propose_batch(vec!["x".into(); 1 + round % 4]);
        let one = leader.propose("y");
        batch.into_iter().chain([one]).for_each(|proposal| _ = proposal.wait(PATIENCE).expect("it is applied"));
    }
    nodes.iter().for_each(Raft::shutdown);
    let traces = std::fs::read_dir(&folder).expect("the folder").map(|entry| entry.expect("a file").path());
    let merged = merge(traces.map(|path| read(&path).expect("a trace")).collect()).expect("they fit");
    std::fs::remove_dir_all(&folder).expect("it is no longer needed");
    assert!(merged.left_out.is_empty() && merged.lines.iter().any(|line| line.commands > Some(1)));
    let verdict = validate(merged.lines).expect("TLC runs");
    assert!(matches!(verdict, Verdict::Accepted(_)), "{verdict:?}");
}

const PATIENCE: Duration = Duration::from_secs(30);

/// A state machine that does nothing.
struct Ignorant;

impl StateMachine for Ignorant {
    type Response = ();

    fn apply(&mut self, _: EntryId, _: &Bytes) {}
}

fn start(id: u64, network: &MemoryNetwork, folder: &Path) -> Raft<Ignorant> {
    let mut options = DriverOptions::default();
    options.trace = Some(TraceOptions::new(folder.join(format!("{id}.jsonl"))));
    let config = RaftConfig::new(id, [1, 2, 3]);
    let log = Locked::new(MemoryLog::new());
    Raft::start_with(config, options, log, network.transport(id), Ignorant).expect("it starts")
}

#[test]
fn the_command_says_yes_or_no_or_that_it_cannot() {
    let folder = std::env::temp_dir().join(format!("raft-model-judged-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join("trace.jsonl");
    let judge = |arguments: &[&str]| {
        let command = Command::new(env!("CARGO_BIN_EXE_raft-model")).arg("trace").arg(&path).args(arguments).output();
        let output = command.expect("raft-model runs");
        // Where there is no terminal, progress goes to standard error in lines of its own.
        (output.status.code(), output.stdout, output.stderr)
    };
    let said = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
    std::fs::write(&path, "{}\n").expect("a file");
    let (code, _, text) = judge(&[]);
    assert!(code == Some(2) && said(&text).contains("trace.jsonl:1:"), "{}", said(&text));
    if has_tlc() {
        let mut lines = recorded("cluster 3 disk=manual trace=true", 2);
        lines.truncate(60);
        raft_io::trace::write(&path, &lines).expect("a file");
        let object = |text: &[u8], errors: &[u8]| -> serde_json::Value {
            serde_json::from_slice(text).unwrap_or_else(|error| panic!("{error}: {}{}", said(text), said(errors)))
        };
        let (code, text, errors) = judge(&["--json", "--events", "40"]);
        let found = object(&text, &errors);
        assert_eq!((code, &found["events"], &found["all"]), (Some(0), &40.into(), &false.into()), "{found}");
        let (code, text, errors) = judge(&["--json", "--heap", "70"]);
        assert_eq!((code, said(&text).as_str()), (Some(2), ""), "{}", said(&errors));
        assert!(said(&errors).contains("60 steps are too many for a heap of 70 MiB"), "{}", said(&errors));
        // As many as it names are not too many.
        let told = said(&errors);
        let steps = told.split("--events ").nth(1).and_then(|rest| rest.split(')').next()).expect("a number of steps");
        let (code, text, errors) = judge(&["--json", "--heap", "70", "--events", steps]);
        let found = object(&text, &errors);
        assert_eq!((code, found["events"].to_string().as_str()), (Some(0), steps), "{found}");
        // What it does is said before anything is known.
        let told = said(&errors);
        let stages: Vec<&str> = told.lines().map(|line| line.split(' ').nth(1).unwrap_or("")).collect();
        assert!(stages.starts_with(&["reading", "TLC", "TLC"]), "{told}");
        lines[50].state.commit_index = Index(99);
        raft_io::trace::write(&path, &lines).expect("a file");
        let (code, text, errors) = judge(&["--json"]);
        let found = object(&text, &errors);
        assert_eq!((code, &found["number"]), (Some(1), &51.into()), "{found}");
        assert_eq!(found["differences"]["commitIndex"]["trace"], "99");
    }
    std::fs::remove_dir_all(&folder).expect("it is no longer needed");
}
