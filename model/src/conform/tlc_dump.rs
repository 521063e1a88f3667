//! The spec's side: the graph that TLC writes with `-dump dot,actionlabels`.
//!
//! A state is `<number> [label="<variables>"…]`, a transition `<number> -> <number> [label="<action>"…]`; within a label
//! `\n`, `\\` and `\"` stand for what they stand for everywhere. Up to TLC 2.18 a transition's label is the name of its
//! action; since 2.20 the action's arguments follow it: `ElectionTimeout(s1)`. The model names actions without arguments.

use super::graph::{Graph, StateId};
use crate::value::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Why a dump could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DumpError {
    /// The file cannot be read.
    #[error("reading {path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// A line is not what TLC writes.
    #[error("line {line} of TLC's dump: {problem}")]
    Malformed {
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
}

/// Reads a dump.
///
/// # Errors
/// The file cannot be read, or is not a dump.
pub(super) fn read(path: &Path) -> Result<Graph, DumpError> {
    let text = std::fs::read_to_string(path).map_err(|error| DumpError::Io { path: path.to_path_buf(), error })?;
    parse(text)
}

/// A node's or an edge's ends.
enum Line<'a> {
    State { number: &'a str, label: &'a str, initial: bool },
    Transition { from: &'a str, to: &'a str, label: &'a str },
    Other,
}

fn parse(text: String) -> Result<Graph, DumpError> {
    let mut graph = Graph::default();
    let mut ids: HashMap<i64, StateId> = HashMap::new();
    // Where the label of each state stands, to show it again.
    let mut labels: Vec<(usize, usize)> = Vec::new();
    let malformed = |line: usize, problem: &str| DumpError::Malformed { line: line + 1, problem: problem.to_string() };
    let number = |text: &str, line| text.trim().parse::<i64>().map_err(|_| malformed(line, "no number of a state"));
    for (at, line) in text.lines().enumerate() {
        if let Line::State { number: name, label, initial } = classify(line) {
            let variables = Value::parse_state(&unescape(label)).map_err(|error| malformed(at, &error.to_string()))?;
            let id = graph.add_state(&variables);
            if id as usize == labels.len() {
                let start = label.as_ptr() as usize - text.as_ptr() as usize;
                labels.push((start, start + label.len()));
            }
            ids.insert(number(name, at)?, id);
            if initial {
                graph.add_initial(id);
            }
        }
    }
    // A transition may stand before the state that it leads to.
    for (at, line) in text.lines().enumerate() {
        if let Line::Transition { from, to, label } = classify(line) {
            let find = |name| {
                let name = number(name, at)?;
                ids.get(&name).copied().ok_or_else(|| malformed(at, "a transition of an unknown state"))
            };
            graph.add_transition(find(from)?, action_name(label), find(to)?);
        }
    }
    graph.set_render(Box::new(move |id| {
        let (start, end) = labels[id as usize];
        Value::parse_state(&unescape(&text[start..end])).unwrap_or_default()
    }));
    Ok(graph)
}

fn classify(line: &str) -> Line<'_> {
    let Some((ends, rest)) = line.split_once(" [label=\"") else { return Line::Other };
    if let Some((from, to)) = ends.split_once(" -> ") {
        // The arguments of an action may hold quotes and line breaks; its name comes before all of them.
        return Line::Transition { from, to, label: rest };
    }
    let Some(length) = end_of_label(rest) else { return Line::Other };
    let (label, rest) = rest.split_at(length);
    if ends.trim().parse::<i64>().is_ok() {
        return Line::State { number: ends, label, initial: rest.contains("style = filled") };
    }
    Line::Other
}

/// The name at the beginning of a transition's label: all of its letters, digits and underscores.
fn action_name(label: &str) -> &str {
    let length = label.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    &label[..length.unwrap_or(label.len())]
}

/// The position of the quote that ends a label.
fn end_of_label(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, letter) in text.bytes().enumerate() {
        match letter {
            b'"' if !escaped => return Some(at),
            b'\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    None
}

fn unescape(label: &str) -> String {
    let mut text = String::with_capacity(label.len());
    let mut letters = label.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => match letters.next() {
                Some('n') => text.push('\n'),
                Some(other) => text.push(other),
                None => {}
            },
            other => text.push(other),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_and_transitions_are_read() {
        let dump = r#"strict digraph DiskGraph {
nodesep=0.35;
subgraph cluster_graph {
color="white";
-12 [label="/\\ x = 0\n/\\ s = \"a\"",style = filled]
-12 -> 34 [label="Step",color="black",fontcolor="black"];
34 [label="/\\ x = 1\n/\\ s = \"a\"",tooltip="/\\ x = 1"];
34 -> 34 [label="Step"];
34 -> -12 [label="Back"];
}
}
"#;
        let graph = parse(dump.to_string()).expect("a dump");
        assert_eq!((graph.states(), graph.transitions()), (2, 2));
    }

    /// The transitions of a dump of three states, with these labels.
    fn labelled(labels: [&str; 3]) -> Graph {
        let states = (0..3).map(|x| format!("{x} [label=\"x = {x}\"]\n"));
        let ends = ["0 -> 1", "1 -> 2", "2 -> 0"].into_iter();
        let transitions =
            ends.zip(labels).map(|(ends, label)| format!("{ends} [label=\"{label}\",color=\"black\"];\n"));
        parse(states.chain(transitions).collect()).expect("a dump")
    }

    /// TLC 2.20 began to write an action's arguments into its label, and every transition of the spec became one that the
    /// code did not have: 17,492 differences between equal graphs.
    #[test]
    fn the_arguments_of_an_action_are_not_in_its_name() {
        let names = labelled(["ElectionTimeout", "Receive", "Propose"]);
        let same = [
            ["ElectionTimeout(s1)", "Receive(s1, s2)", "Propose(1)"],
            ["ElectionTimeout( s1 )", "Receive([type |-> Vote, from |-> (s1)], {s2, s3})", "Propose(<<1, 2>>)"],
            [r#"ElectionTimeout(\"a, (b\")"#, r#"Receive([s |-> \"] -> )\"])"#, r#"Propose(\"\\\"(\")"#],
            // Quotes that are not escaped, and line breaks of either kind.
            [r#"ElectionTimeout("a, (b")"#, "Receive([from |-> s1,\n  to |-> s2])", r"Propose(1)\nNext"],
        ];
        for labels in same {
            let arguments = labelled(labels);
            assert_eq!(super::super::graph::differences(&names, &arguments, 9).1, 0, "{labels:?}");
        }
        for labels in [["ElectionTimeou", "Receive", "Propose"], ["ElectionTimeout2(s1)", "Receive", "Propose"]] {
            assert_eq!(super::super::graph::differences(&names, &labelled(labels), 9).1, 2, "{labels:?}");
        }
    }

    #[test]
    fn an_unknown_state_is_an_error() {
        assert!(parse("1 -> 2 [label=\"A\"]\n".to_string()).is_err());
        assert!(parse("1 [label=\"x = {\"]\n".to_string()).is_err());
    }
}
