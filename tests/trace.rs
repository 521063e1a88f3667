//! Recorded traces: complete, readable, and never in the way. Whether they are right is for `model/tests/trace*.rs`.

mod driver_support;

use driver_support::{Network, PATIENCE, Recorder, config, propose};
use raft_io::driver::{DriverOptions, LeadershipTransferError, Raft};
use raft_io::log::Locked;
use raft_io::testkit::walk::walk;
use raft_io::trace::{EventName, Line, TraceOptions, merge, read};
use raft_io::{ClusterId, MemoryLog, NodeId, RoleKind, Term, Transition};
use std::collections::BTreeMap;
use std::path::Path;

const IDS: [u64; 3] = [1, 2, 3];

/// What only nodes with a snapshot store do.
const SNAPSHOTS: [Transition; 4] = [
    Transition::SnapshotTaken,
    Transition::HandleInstallSnapshotRequest,
    Transition::SnapshotFetched,
    Transition::SnapshotFetchFailed,
];

/// What only servers with leases do, and what nobody asks of these nodes.
const LEASES: [Transition; 3] = [Transition::LeaseReadRequest, Transition::LeaseTimeout, Transition::StepDown];

/// Every event of the vocabulary but these occurs, and every line comes back from its text.
fn check_complete(lines: &[Line], but: &[Transition], path: &Path) {
    let kinds: Vec<&str> = lines.iter().map(|line| line.event.name()).collect();
    let expected = Transition::ALL.iter().filter(|transition| !but.contains(transition));
    for name in expected.map(|transition| transition.name()).chain(["Start"]) {
        assert!(kinds.contains(&name), "no {name} among {} lines", lines.len());
    }
    raft_io::trace::write(path, lines).unwrap();
    assert_eq!(read(path).unwrap(), lines);
}

#[test]
fn a_simulated_run_is_recorded_completely() {
    let folder = tempfile::tempdir().unwrap();
    let script = walk("cluster 3 servers=5 disk=manual trace=true", 4, 9000).unwrap();
    let lines = script.cluster().unwrap().trace();
    check_complete(lines, &LEASES, &folder.path().join("trace.jsonl"));
    let merged = merge(vec![lines.to_vec()]).unwrap();
    assert_eq!(merged.left_out, Vec::new());
    assert_eq!(merged.lines.len(), lines.len());
    let script = walk("cluster 3 disk=manual lease_ticks=4 election_ticks=5 trace=true", 1, 3000).unwrap();
    let lines = script.cluster().unwrap().trace();
    let others: Vec<Transition> = Transition::ALL.iter().copied().filter(|other| !LEASES.contains(other)).collect();
    check_complete(lines, &others, &folder.path().join("leases.jsonl"));
}

/// Three nodes of the driver, each recording into a folder.
struct Nodes {
    network: Network,
    logs: BTreeMap<u64, Locked<MemoryLog>>,
    running: BTreeMap<u64, Raft<Recorder>>,
    lives: BTreeMap<u64, u64>,
    folder: tempfile::TempDir,
}

impl Nodes {
    fn start() -> Self {
        let (network, folder) = (Network::default(), tempfile::tempdir().unwrap());
        let (logs, running, lives) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut nodes = Self { network, logs, running, lives, folder };
        IDS.into_iter().for_each(|id| nodes.start_one(id));
        nodes
    }

    fn start_one(&mut self, id: u64) {
        let life = self.lives.entry(id).or_default();
        *life += 1;
        let path = self.folder.path().join(format!("{id}-{life}.jsonl"));
        let mut options = DriverOptions::default();
        options.trace = Some(TraceOptions::new(path).cluster(ClusterId(7)).life(*life));
        let log = self.logs.entry(id).or_default().clone();
        let transport = self.network.transport(id);
        let raft = Raft::start_with(config(id, &IDS), options, log, transport, Recorder::default()).unwrap();
        self.running.insert(id, raft);
    }

    /// The leader that `from` knows, other than `not`.
    fn leader(&self, from: u64, not: Option<NodeId>) -> u64 {
        let status = self.running[&from]
            .wait_for(PATIENCE, |status| status.leader.as_ref().is_some_and(|leader| Some(leader.id) != not));
        let leader = status.unwrap().leader.unwrap().id.0;
        self.running[&leader].wait_for(PATIENCE, |status| status.role == RoleKind::Leader).unwrap();
        leader
    }

    /// Whoever leads hands over to `target`, until the outcome is the one that is looked for: on a busy machine leadership
    /// may move by itself meanwhile.
    fn transfer(&self, target: u64, cut_off: bool, is_wanted: impl Fn(&Result<Term, LeadershipTransferError>) -> bool) {
        let mut outcomes = Vec::new();
        for _ in 0..20 {
            self.network.heal();
            let other = IDS.into_iter().find(|id| *id != target).unwrap();
            let leader = self.leader(other, None);
            let target = if leader == target { other } else { target };
            let last = self.running[&leader].status().last_index;
            self.running[&target].wait_for(PATIENCE, |status| status.applied_index >= last).unwrap();
            if cut_off {
                self.network.isolate(&[NodeId(target)]);
            }
            let outcome = self.running[&leader].transfer_leadership(target).wait(PATIENCE);
            self.network.heal();
            if is_wanted(&outcome) {
                return;
            }
            outcomes.push(outcome);
        }
        panic!("{outcomes:?}");
    }

    fn lines(self) -> (Vec<Line>, tempfile::TempDir) {
        self.running.values().for_each(Raft::shutdown);
        let paths = std::fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let merged = merge(paths.map(|path| read(&path).unwrap()).collect()).unwrap();
        assert_eq!(merged.left_out, Vec::new());
        (merged.lines, self.folder)
    }
}

#[test]
fn nodes_are_recorded_over_an_election_and_a_restart() {
    let mut nodes = Nodes::start();
    let first = nodes.leader(1, None);
    for command in ["a", "b", "c"] {
        propose(&nodes.running[&first], command).unwrap();
    }
    assert_eq!(nodes.running[&first].read(|machine| machine.applied.len()).wait(PATIENCE), Ok(3));
    // A follower asks for the index, and answers itself.
    let other = IDS.into_iter().find(|id| *id != first).unwrap();
    nodes.leader(other, None);
    assert_eq!(nodes.running[&other].follower_read(|machine| machine.applied.len()).wait(PATIENCE), Ok(3));
    // Cut off, it steps down at its quorum check, and the others elect another.
    nodes.network.isolate(&[NodeId(first)]);
    let second = nodes.leader(other, Some(NodeId(first)));
    propose(&nodes.running[&second], "d").unwrap();
    nodes.running[&first].wait_for(PATIENCE, |status| status.role != RoleKind::Leader).unwrap();
    nodes.running.remove(&first).unwrap().shutdown();
    nodes.network.heal();
    nodes.start_one(first);
    // A transfer that times out, and one that does not.
    nodes.transfer(first, true, |outcome| matches!(outcome, Err(LeadershipTransferError::TimedOut { .. })));
    nodes.transfer(first, false, Result::is_ok);
    let leader = nodes.leader(1, None);
    nodes.running[&leader].add_learner(4, "", PATIENCE).wait().unwrap();
    let (lines, folder) = nodes.lines();
    check_complete(&lines, &[&SNAPSHOTS[..], &LEASES].concat(), &folder.path().join("trace.jsonl"));
    let starts: Vec<&Line> = lines.iter().filter(|line| line.event == EventName::START).collect();
    assert_eq!(starts.len(), 4);
    let again = starts.iter().find(|line| line.life == 2).expect("a second life");
    assert_eq!(again.node, NodeId(first));
    let held: u64 = again.start.as_ref().unwrap().log.iter().map(|run| run.count).sum();
    assert!(held >= 4 && held == again.state.last.index.0, "{again:?}");
}

#[test]
fn a_trace_that_cannot_be_written_harms_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let taken = folder.path().join("taken.jsonl");
    std::fs::write(&taken, "somebody's").unwrap();
    for path in [folder.path().join("no such folder/trace.jsonl"), taken.clone()] {
        let mut options = DriverOptions::default();
        options.trace = Some(TraceOptions::new(path));
        let (raft, _, _network) = driver_support::single(options);
        propose(&raft, "x").unwrap();
        assert!(raft.status().trace_stopped.is_some_and(|why| why.contains("jsonl")));
    }
    assert_eq!(std::fs::read_to_string(taken).unwrap(), "somebody's");
}

#[test]
fn a_trace_ends_at_its_limit_and_the_node_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.jsonl");
    let mut options = DriverOptions::default();
    options.trace = Some(TraceOptions::new(&path).lines_max(5));
    let (raft, _, _network) = driver_support::single(options);
    for _ in 0..10 {
        propose(&raft, "x").unwrap();
    }
    assert!(raft.status().trace_stopped.is_some_and(|why| why.contains("all the lines")));
    assert_eq!(read(&path).unwrap().len(), 5);
}

/// A node that is killed while it writes leaves a piece of a line; nothing of that step has left the node.
#[test]
fn an_unfinished_last_line_is_left_out_and_a_broken_one_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.jsonl");
    let script = walk("cluster 1 disk=manual trace=true", 1, 50).unwrap();
    let lines = script.cluster().unwrap().trace();
    raft_io::trace::write(&path, lines).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, &text[..text.len() - 20]).unwrap();
    assert_eq!(read(&path).unwrap(), &lines[..lines.len() - 1]);
    std::fs::write(&path, text.replacen("currentTerm", "presentTerm", 1)).unwrap();
    let error = read(&path).unwrap_err().to_string();
    assert!(error.contains("trace.jsonl:1:") && error.contains("presentTerm"), "{error}");
}

#[test]
fn lines_of_a_node_must_follow_each_other() {
    let script = walk("cluster 3 disk=manual trace=true", 1, 300).unwrap();
    let lines = script.cluster().unwrap().trace().to_vec();
    let gap = lines.iter().position(|line| line.seq == 2).unwrap();
    let mut broken = lines;
    broken.remove(gap);
    assert!(merge(vec![broken]).unwrap_err().to_string().contains("follows line 1"));
}

#[test]
fn the_documented_line_is_one() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/TRACE.md")).unwrap();
    let sample = page.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let line: Line = serde_json::from_str(sample).unwrap();
    assert_eq!(line.problem(), None);
    // Its fields, its state's and its message's are all that there are: none is left to a default.
    let written = serde_json::to_value(&line).unwrap();
    assert_eq!(written, serde_json::from_str::<serde_json::Value>(sample).unwrap());
}
