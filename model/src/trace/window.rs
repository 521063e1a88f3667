//! The part of a trace that is judged, and what must be right before TLC is asked.

use super::Error;
use raft_io::trace::line::{AroundName, Settings, Start};
use raft_io::trace::message::MessageRecord;
use raft_io::trace::{EventName, Line, TraceError};
use raft_io::{NodeId, Transition};
use std::collections::{BTreeMap, HashSet};

/// The beginning of a trace.
#[derive(Clone, Debug)]
pub struct Window {
    lines: Vec<Line>,
    lines_in_file: usize,
    /// The first start of each server, in the window or after it.
    starts: BTreeMap<NodeId, Line>,
    settings: Settings,
    /// For each line, what becomes of messages.
    network: Vec<Network>,
    /// The reads of followers, by server and context: the place of each among all reads that begin, from 1 on.
    reads: BTreeMap<(NodeId, u64), u64>,
}

/// What is on its way after a line, apart from what was before.
#[derive(Clone, Debug, Default)]
pub(super) struct Network {
    /// What of the sent messages is handled later.
    pub(super) kept: Vec<MessageRecord>,
    /// The message of this line is not handled again, unless it is sent again.
    pub(super) last: bool,
}

impl Window {
    /// The first `events_max` lines of a trace.
    ///
    /// # Errors
    /// The lines do not follow each other, or the spec knows nothing like them.
    pub fn new(mut lines: Vec<Line>, events_max: usize) -> Result<Self, Error> {
        let mut starts: BTreeMap<NodeId, Line> = BTreeMap::new();
        for line in &lines {
            starts.entry(line.node).or_insert_with(|| line.clone());
        }
        for node in starts.keys() {
            raft_io::trace::merge::check_order(*node, lines.iter().filter(|line| line.node == *node))?;
        }
        let settings = check_settings(&lines)?;
        let named = lines.iter().flat_map(|line| {
            let start = line.start.iter().flat_map(|start| start.membership.members());
            start.chain(line.state.membership.members())
        });
        if let Some(silent) = named.into_iter().find(|member| !starts.contains_key(member)) {
            return Err(unsupported(
                1,
                format!("there is no line of node {silent}, which is a member of this cluster"),
            ));
        }
        let lines_in_file = lines.len();
        lines.truncate(events_max);
        check_events(&lines)?;
        let network = networks(&lines);
        let reads = reads(&lines);
        Ok(Self { lines, lines_in_file, starts, settings, network, reads })
    }

    /// The lines.
    #[must_use]
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    pub(super) fn lines_in_file(&self) -> usize {
        self.lines_in_file
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn network(&self, at: usize) -> &Network {
        &self.network[at]
    }

    /// The number that a server's read has in the spec; 0 if it did not begin in this window.
    pub(super) fn read(&self, reader: NodeId, context: u64) -> u64 {
        self.reads.get(&(reader, context)).copied().unwrap_or(0)
    }

    /// The servers, ascending.
    pub(super) fn servers(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.starts.keys().copied()
    }

    /// The first start of each server.
    pub(super) fn starts(&self) -> impl Iterator<Item = (&Line, &Start)> {
        self.starts.values().filter_map(|line| Some((line, line.start.as_ref()?)))
    }

    /// Whether this line is the first of its node.
    pub(super) fn is_first(&self, line: &Line) -> bool {
        self.starts.get(&line.node).is_some_and(|first| (first.life, first.seq) == (line.life, line.seq))
    }
}

fn unsupported(line: usize, problem: impl Into<String>) -> Error {
    Error::Unsupported { line, problem: problem.into() }
}

/// All nodes in all lives have the same settings and belong to one cluster.
fn check_settings(lines: &[Line]) -> Result<Settings, Error> {
    let mut first: Option<&Start> = None;
    for (at, line) in lines.iter().enumerate() {
        let Some(start) = &line.start else { continue };
        let same = first.get_or_insert(start);
        if same.cluster != start.cluster {
            return Err(unsupported(at + 1, format!("cluster {} after cluster {}", start.cluster, same.cluster)));
        }
        if same.settings != start.settings {
            let (one, other) = (&same.settings, &start.settings);
            return Err(unsupported(at + 1, format!("the settings differ from those before: {other:?}, not {one:?}")));
        }
    }
    let first = first.ok_or_else(|| unsupported(1, "the trace is empty"))?;
    Ok(first.settings.clone())
}

/// The spec knows no disks that are slow to read.
fn check_events(lines: &[Line]) -> Result<(), Error> {
    for (at, line) in lines.iter().enumerate() {
        if let Some(problem) = line.problem() {
            let node = line.node;
            return Err(TraceError::Order { node, problem: format!("line {}: {problem}", at + 1) }.into());
        }
        if line.cold_reads > 0 || line.event == EventName::Around(AroundName::SendFromLog) {
            let problem = "entries for a follower came from the disk; the spec knows no such step: give the log a larger \
                           cache (`cache_bytes`) while recording";
            return Err(unsupported(at + 1, problem));
        }
    }
    Ok(())
}

/// Every line that asks for a read begins one: a trace has no line of what is refused.
fn reads(lines: &[Line]) -> BTreeMap<(NodeId, u64), u64> {
    let begins = |line: &&Line| {
        use Transition::{FollowerReadRequest, LeaseReadRequest, ReadRequest};
        matches!(line.event, EventName::Step(ReadRequest | LeaseReadRequest | FollowerReadRequest))
    };
    let numbered = (1..).zip(lines.iter().filter(begins));
    numbered.filter_map(|(number, line)| Some(((line.node, line.context?), number))).collect()
}

/// Going backwards, what is needed is what later lines handle.
fn networks(lines: &[Line]) -> Vec<Network> {
    let mut needed: HashSet<&MessageRecord> = HashSet::new();
    let mut networks: Vec<Network> = Vec::with_capacity(lines.len());
    for line in lines.iter().rev() {
        let kept = line.sent.iter().filter(|message| needed.contains(message)).cloned().collect();
        let last = line.message.as_ref().is_some_and(|message| !needed.contains(message));
        networks.push(Network { kept, last });
        for message in &line.sent {
            needed.remove(message);
        }
        needed.extend(&line.message);
    }
    networks.reverse();
    networks
}
