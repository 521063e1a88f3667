//! The table, the JSON, and the goals.

use crate::contender::Contender;
use std::fmt::Write;

/// The medians of one contender in one case, per entry committed and applied on every node.
pub struct Row {
    pub nodes: u64,
    pub batch: usize,
    pub contender: Contender,
    pub nanoseconds: f64,
    pub allocations: f64,
    pub instructions: Option<f64>,
}

/// What ours must reach against the best peer in one run: (nodes, batch, times faster). The rows of the performance
/// budget; five nodes with one entry at a time are none of them.
const FASTER_MIN: [(u64, usize, f64); 3] = [(3, 1, 2.0), (3, 256, 3.0), (5, 256, 3.0)];
/// What ours may allocate per entry: (batch, allocations).
const ALLOCATIONS_MAX: [(usize, f64); 1] = [(256, 1.5)];

fn ours<'a>(rows: &'a [Row], row: &Row) -> Option<&'a Row> {
    rows.iter().find(|other| other.contender == Contender::Ours && (other.nodes, other.batch) == (row.nodes, row.batch))
}

/// The fastest peer in the case of `row`.
fn best_peer<'a>(rows: &'a [Row], row: &Row) -> Option<&'a Row> {
    rows.iter()
        .filter(|other| other.contender != Contender::Ours && (other.nodes, other.batch) == (row.nodes, row.batch))
        .min_by(|a, b| a.nanoseconds.total_cmp(&b.nanoseconds))
}

/// One line per case and contender; the ratios are "this one / ours".
pub fn table(rows: &[Row], rounds: usize) -> String {
    let mut text = format!(
        "64 B commands, in memory; per entry committed and applied on every node; medians of {rounds} interleaved rounds\n\
         {:>5} {:>5}  {:<16} {:>9} {:>7} {:>7} {:>7} {:>9} {:>7}\n",
        "nodes", "batch", "", "ns", "× ours", "allocs", "× ours", "instr", "× ours"
    );
    let mut case = None;
    for row in rows {
        if case.is_some_and(|case| case != (row.nodes, row.batch)) {
            text.push('\n');
        }
        case = Some((row.nodes, row.batch));
        let ours = ours(rows, row);
        let ratio = |value: Option<f64>, of: fn(&Row) -> Option<f64>| match (value, ours.and_then(of)) {
            (Some(value), Some(ours)) if ours > 0.0 => format!("{:.2}", value / ours),
            _ => String::from("-"),
        };
        let instructions = row.instructions.map_or(String::from("-"), |count| format!("{count:.0}"));
        let _ = writeln!(
            text,
            "{:>5} {:>5}  {:<16} {:>9.1} {:>7} {:>7.2} {:>7} {:>9} {:>7}",
            row.nodes,
            row.batch,
            row.contender.name(),
            row.nanoseconds,
            ratio(Some(row.nanoseconds), |row| Some(row.nanoseconds)),
            row.allocations,
            ratio(Some(row.allocations), |row| Some(row.allocations)),
            instructions,
            ratio(row.instructions, |row| row.instructions),
        );
    }
    text
}

/// The rows as one JSON array.
pub fn json(rows: &[Row]) -> String {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            serde_json::json!({
                "nodes": row.nodes,
                "batch": row.batch,
                "contender": row.contender.name(),
                "nanoseconds_per_entry": row.nanoseconds,
                "allocations_per_entry": row.allocations,
                "instructions_per_entry": row.instructions,
            })
        })
        .collect();
    format!("{:#}", serde_json::Value::Array(rows))
}

/// The goals that these rows miss.
pub fn failures(rows: &[Row]) -> Vec<String> {
    let mut failures = Vec::new();
    for row in rows.iter().filter(|row| row.contender == Contender::Ours) {
        let case = format!("{} nodes, batch {}", row.nodes, row.batch);
        let goal = FASTER_MIN.iter().find(|(nodes, batch, _)| (*nodes, *batch) == (row.nodes, row.batch));
        if let (Some((.., goal)), Some(peer)) = (goal, best_peer(rows, row)) {
            let faster = peer.nanoseconds / row.nanoseconds;
            if faster < *goal {
                failures.push(format!("{case}: {faster:.2} × faster than {}, goal {goal} ×", peer.contender.name()));
            }
        }
        let most = ALLOCATIONS_MAX.iter().find(|(batch, _)| *batch == row.batch).map(|(_, most)| *most);
        if let Some(most) = most.filter(|most| row.allocations > *most) {
            failures.push(format!("{case}: {:.2} allocations per entry, at most {most}", row.allocations));
        }
    }
    failures
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(ours: f64, allocations: f64) -> Vec<Row> {
        let row = |contender, nanoseconds, allocations| Row {
            nodes: 3,
            batch: 256,
            contender,
            nanoseconds,
            allocations,
            instructions: None,
        };
        vec![
            row(Contender::Ours, ours, allocations),
            row(Contender::RaftRs, 900.0, 4.0),
            row(Contender::OpenRaft, 2000.0, 9.0),
        ]
    }

    #[test]
    fn goals_compare_with_the_best_peer() {
        assert_eq!(failures(&rows(300.0, 1.5)), [""; 0]);
        assert_eq!(failures(&rows(301.0, 1.6)).len(), 2);
    }

    #[test]
    fn the_table_shows_ratios_to_ours() {
        let text = table(&rows(300.0, 1.0), 1);
        assert!(text.contains("900.0    3.00    4.00    4.00"), "{text}");
    }
}
