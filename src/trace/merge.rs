//! The traces of several nodes as one, in an order in which everything could have happened.

use super::line::{EventName, Line};
use super::message::MessageRecord;
use crate::types::NodeId;
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::string::{String, ToString};
use std::vec::Vec;

/// Why traces cannot be read or put together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The file is not to be had.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// A line is not one of this format.
    #[error("{}:{line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1 on.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// The lines of a node do not follow each other.
    #[error("node {node}: {problem}")]
    Order {
        /// The node.
        node: NodeId,
        /// What is wrong.
        problem: String,
    },
}

/// Reads a trace. What a node did not finish writing when it was killed is left out: nothing of that step left it.
///
/// # Errors
/// The file cannot be read, or a line is not one of this format.
pub fn read(path: &Path) -> Result<Vec<Line>, TraceError> {
    let text = fs::read(path).map_err(|error| TraceError::Io { path: path.to_owned(), error })?;
    let mut lines = Vec::new();
    for (at, bytes) in text.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let Some(bytes) = bytes.strip_suffix(b"\n") else { break };
        let wrong = |problem: String| TraceError::Line { path: path.to_owned(), line: at + 1, problem };
        let line: Line = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
        if let Some(problem) = line.problem() {
            return Err(wrong(problem.to_string()));
        }
        lines.push(line);
    }
    Ok(lines)
}

/// Writes a trace.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, lines: &[Line]) -> Result<(), TraceError> {
    let to = || -> io::Result<()> {
        let mut file = BufWriter::new(fs::File::create(path)?);
        for line in lines {
            serde_json::to_writer(&mut file, line)?;
            file.write_all(b"\n")?;
        }
        file.flush()
    };
    to().map_err(|error| TraceError::Io { path: path.to_owned(), error })
}

/// Traces put together.
#[derive(Clone, Debug, Default)]
pub struct Merged {
    /// The lines: every node's in their own order, and every message sent before it is handled.
    pub lines: Vec<Line>,
    /// The lines that no such order has a place for, because they handle a message that no line sends or come after one
    /// that does; empty if all nodes were recorded to the end.
    pub left_out: Vec<Line>,
}

/// Puts the lines of several nodes and lives together.
///
/// # Errors
/// A node's lives overlap, or lines are missing between others.
pub fn merge(traces: Vec<Vec<Line>>) -> Result<Merged, TraceError> {
    let mut nodes: BTreeMap<NodeId, Vec<Line>> = BTreeMap::new();
    for line in traces.into_iter().flatten() {
        nodes.entry(line.node).or_default().push(line);
    }
    for (node, lines) in &mut nodes {
        lines.sort_by_key(|line| (line.life, line.seq));
        check_order(*node, &*lines)?;
    }
    let mut queues: Vec<Queue> = nodes.into_values().map(Queue::new).collect();
    let mut sent = HashSet::new();
    let mut lines = Vec::new();
    while let Some(next) = choose(&queues, &sent) {
        queues[next].taken += 1;
        let Some(line) = queues[next].lines.next() else { break };
        sent.extend(line.sent.iter().cloned());
        lines.push(line);
    }
    Ok(Merged { lines, left_out: queues.into_iter().flat_map(|queue| queue.lines).collect() })
}

/// The lines of one node that are not yet placed.
struct Queue {
    lines: std::vec::IntoIter<Line>,
    /// How many are placed.
    taken: usize,
}

impl Queue {
    fn new(lines: Vec<Line>) -> Self {
        Self { lines: lines.into_iter(), taken: 0 }
    }
}

/// Whose line is next: a message is handled as soon as it may be, otherwise the node that is behind goes on.
fn choose(queues: &[Queue], sent: &HashSet<MessageRecord>) -> Option<usize> {
    let possible = queues.iter().enumerate().filter_map(|(at, queue)| {
        let line = queue.lines.as_slice().first()?;
        let handles = line.message.as_ref().filter(|_| matches!(line.event, EventName::Step(_)));
        match handles {
            Some(message) => sent.contains(message).then_some((false, queue.taken, at)),
            None => Some((true, queue.taken, at)),
        }
    });
    possible.min().map(|(_, _, at)| at)
}

/// A node's lines follow each other: lives one after the other, each counted from its start.
pub fn check_order<'a>(node: NodeId, lines: impl IntoIterator<Item = &'a Line>) -> Result<(), TraceError> {
    let wrong = |problem: String| Err(TraceError::Order { node, problem });
    let mut last: Option<&Line> = None;
    for line in lines {
        let (life, seq) = (line.life, line.seq);
        match last {
            None if seq != 0 => return wrong(std::format!("its first line is not a start but {seq} of life {life}")),
            Some(before) if before.life == life && before.seq + 1 != seq => {
                return wrong(std::format!("in life {life}, line {seq} follows line {}", before.seq));
            }
            Some(before) if before.life > life => {
                return wrong(std::format!("life {life} follows life {}", before.life));
            }
            Some(before) if before.life < life && seq != 0 => {
                return wrong(std::format!("life {life} does not begin with a start but with line {seq}"));
            }
            _ => {}
        }
        last = Some(line);
    }
    Ok(())
}
