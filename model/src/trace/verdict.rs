//! What TLC says of a trace, in the words of the trace.

use super::record;
use super::window::Window;
use crate::tlc::Outcome;
use crate::value::Value;
use raft_io::Transition;
use raft_io::trace::{EventName, Line};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Whether the spec explains a trace.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// Every line is a step of the spec.
    Accepted(Accepted),
    /// One is not.
    Rejected(Box<Rejected>),
}

/// A trace that the spec explains.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// How many lines it has.
    pub events: usize,
    /// How many the whole trace has.
    pub events_in_file: usize,
    /// How many of each kind, by name.
    pub kinds: BTreeMap<&'static str, usize>,
    /// How long TLC took.
    pub elapsed: Duration,
}

/// The first line that the spec does not explain.
#[derive(Clone, Debug)]
pub struct Rejected {
    /// Its number, from 1 on: so many lines less one are explained.
    pub number: usize,
    /// The line.
    pub line: Line,
    /// What the spec says instead; empty if it knows no step of that name there.
    pub differences: Vec<Difference>,
}

/// A field of which trace and spec disagree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its name.
    pub field: String,
    /// What the line says, in TLA+.
    pub in_trace: String,
    /// What follows from the spec, in TLA+.
    pub in_spec: String,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Line { event, node, life, seq, .. } = &self.line;
        writeln!(f, "line {}: node {node}, life {life}, seq {seq}: {event}", self.number)?;
        if self.differences.is_empty() {
            writeln!(f, "  no step of the spec explains it: {}", self.not_possible())?;
        } else {
            writeln!(f, "  no step of the spec explains it; the step of this name leads elsewhere:")?;
        }
        for Difference { field, in_trace, in_spec } in &self.differences {
            writeln!(f, "  {field}\n    trace  {in_trace}\n    spec   {in_spec}")?;
        }
        let text = serde_json::to_string(&self.line).map_err(|_| fmt::Error)?;
        write!(f, "  {text}")
    }
}

impl Rejected {
    /// Why the step of this name cannot be taken.
    fn not_possible(&self) -> &'static str {
        match self.line.event {
            EventName::Step(Transition::ClientRequest | Transition::ReadRequest | Transition::LeaseReadRequest) => {
                "this node does not lead"
            }
            EventName::Step(Transition::FollowerReadRequest) => "this node neither leads nor knows who does",
            EventName::Step(Transition::Persisted) => "this node has fewer writes in flight",
            EventName::Step(_) if self.line.message.is_some() => {
                "nobody sent this message, or it was handled as often as it was sent"
            }
            EventName::Step(_) => {
                "the timeout has an effect where it should have none, or none where it should have one"
            }
            EventName::Around(_) => "this node cannot start with such a log",
        }
    }
}

/// What TLC printed.
#[derive(Debug, Default)]
pub(super) struct Explained {
    /// The lines explained, by variant; 0 is the trace itself.
    reached: BTreeMap<usize, usize>,
    /// What the spec says of a line instead, by variant and line.
    differences: BTreeMap<(usize, usize), BTreeMap<String, Vec<Value>>>,
    /// A printed value of which the end is still to come.
    partial: String,
}

impl Explained {
    /// Takes a line of TLC's output; whether it is news.
    pub(super) fn hear(&mut self, text: &str) -> bool {
        let begins = ["<<\"explained\"", "<< \"explained\"", "<<\"differs\"", "<< \"differs\""];
        if begins.iter().any(|begin| text.starts_with(begin)) {
            self.partial = text.to_string();
        } else if !self.partial.is_empty() && !text.starts_with("Progress(") {
            self.partial += " ";
            self.partial += text;
        } else {
            return false;
        }
        let Ok(Value::Seq(values)) = Value::parse(&self.partial) else { return false };
        self.partial.clear();
        match values.as_slice() {
            [Value::Str(_), Value::Int(variant), Value::Int(line)] => {
                let reached = self.reached.entry(*variant as usize).or_default();
                *reached = (*reached).max(*line as usize);
                true
            }
            [Value::Str(_), Value::Int(variant), Value::Int(line), fields] => {
                let at = self.differences.entry((*variant as usize, *line as usize)).or_default();
                for (field, value) in fields_of(fields) {
                    let values = at.entry(field).or_default();
                    if !values.contains(&value) {
                        values.push(value);
                    }
                }
                true
            }
            _ => false,
        }
    }

    /// How many lines are explained, up to the last one that is; of a variant 0 if its own line is not.
    pub(super) fn reached(&self, variant: usize) -> usize {
        self.reached.get(&variant).copied().unwrap_or(0)
    }
}

/// A record, or a function of strings, which is the same.
fn fields_of(value: &Value) -> Vec<(String, Value)> {
    match value {
        Value::Record(fields) => fields.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        Value::Function(pairs) => {
            let name = |name: &Value| if let Value::Str(name) = name { name.clone() } else { name.to_string() };
            pairs.iter().map(|(field, value)| (name(field), value.clone())).collect()
        }
        _ => Vec::new(),
    }
}

pub(super) fn verdict(window: &Window, explained: &Explained, outcome: &Outcome) -> Verdict {
    let reached = explained.reached(0);
    let Some(line) = window.lines().get(reached) else {
        let mut kinds = BTreeMap::new();
        for line in window.lines() {
            *kinds.entry(line.event.name()).or_default() += 1;
        }
        let (events, events_in_file) = (window.lines().len(), window.lines_in_file());
        return Verdict::Accepted(Accepted { events, events_in_file, kinds, elapsed: outcome.elapsed });
    };
    let recorded = record::line(window, reached, line);
    let field = |name: &str| {
        let Value::Record(fields) = &recorded else { return None };
        let Some(Value::Record(state)) = fields.get("state") else { return None };
        state.get(name).or_else(|| fields.get(name)).map(ToString::to_string)
    };
    let differing = explained.differences.get(&(0, reached + 1)).into_iter().flatten();
    let differences = differing.map(|(name, values)| Difference {
        field: name.clone(),
        in_trace: field(name).unwrap_or_default(),
        in_spec: values.iter().map(ToString::to_string).collect::<Vec<_>>().join("  or  "),
    });
    Verdict::Rejected(Box::new(Rejected {
        number: reached + 1,
        line: line.clone(),
        differences: differences.collect(),
    }))
}
