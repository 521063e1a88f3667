//! The nodes' traces, put together.

use crate::nodes::Nodes;
use crate::screen::Screen;
use raft_io::trace;
use std::fs;
use std::path::Path;

/// Puts the traces of all nodes and lives into `trace.jsonl`, in an order in which it can have happened.
pub(crate) fn put_together(nodes: &Nodes, dir: &Path, screen: &Screen) -> Result<(), String> {
    let Some(traces) = nodes.traces() else { return Ok(()) };
    let io = |error: std::io::Error| format!("{}: {error}", traces.display());
    let mut parts = Vec::new();
    for entry in fs::read_dir(traces).map_err(io)? {
        parts.push(trace::read(&entry.map_err(io)?.path()).map_err(|error| error.to_string())?);
    }
    let merged = trace::merge(parts).map_err(|error| error.to_string())?;
    if let Some(line) = merged.left_out.first() {
        let (count, node, life, seq) = (merged.left_out.len(), line.node, line.life, line.seq);
        return Err(format!(
            "{count} recorded steps have no place in a trace; the first one is node {node}, life {life}, seq {seq}: {}",
            line.event
        ));
    }
    let path = dir.join("trace.jsonl");
    trace::write(&path, &merged.lines).map_err(|error| error.to_string())?;
    let count = merged.lines.len();
    screen.say(&format!("{count} steps recorded in {}; `raft-model trace` validates them", path.display()));
    Ok(())
}
