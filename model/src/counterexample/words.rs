//! Values and actions in short words: what a person reads of a state, a message or a step.
//!
//! Entries are written `index@term payload`, as in scenario scripts, and who led when `s1 in term 2`; everything else
//! keeps the spec's names.

use crate::render;
use crate::server::Input;
use crate::value::Value;
use raft_io::{Envelope, Event, Membership, NodeId};
use std::collections::BTreeMap;

/// A server: `s1`.
#[must_use]
pub fn node(id: NodeId) -> String {
    format!("s{id}")
}

/// A message: `RequestVoteRequest(s1 -> s2, term 2, last 1@1)`.
#[must_use]
pub fn message(envelope: &Envelope) -> String {
    value(&render::envelope(envelope))
}

/// A step of one server: its transition with what it takes.
#[must_use]
pub fn input(id: NodeId, input: &Input) -> String {
    let name = input.name();
    let server = node(id);
    match input {
        Input::Event(Event::Receive(envelope)) => format!("Handle{}", message(envelope)),
        Input::Event(Event::SnapshotTaken { last, compact_through }) => {
            format!("{name}({server}, up to {last}, forgetting through {compact_through})")
        }
        Input::Event(
            Event::ReadRequest { context }
            | Event::LeaseReadRequest { context }
            | Event::FollowerReadRequest { context },
        ) => format!("{name}({server}, read {context})"),
        Input::Event(Event::LeaseTimeout { round }) => format!("{name}({server}, round {round})"),
        Input::Event(Event::TransferLeadership { target }) => format!("{name}({server}, to {})", node(*target)),
        Input::Event(Event::ChangeMembership { target }) => format!("{name}({server}, to {})", membership(target)),
        Input::Event(Event::Persisted { writes: 1 }) => format!("{name}({server}, 1 write)"),
        Input::Event(Event::Persisted { writes }) => format!("{name}({server}, {writes} writes)"),
        Input::Crash { survive } => format!("{name}({server}, {survive} of its writes in flight kept)"),
        Input::Event(_) | Input::Wipe | Input::BackUp | Input::RollBack => format!("{name}({server})"),
    }
}

/// A configuration of the cluster: `voters s1 s2, learners s3`.
#[must_use]
pub fn membership(membership: &Membership) -> String {
    value(&render::membership(membership))
}

/// A value.
#[must_use]
pub fn value(value: &Value) -> String {
    match value {
        Value::Str(text) | Value::Model(text) => text.clone(),
        Value::Bool(true) => "yes".to_string(),
        Value::Bool(false) => "no".to_string(),
        Value::Int(number) => number.to_string(),
        Value::Set(items) if items.is_empty() => "{}".to_string(),
        Value::Set(items) => format!("{{{}}}", list(items.iter())),
        Value::Seq(items) if items.is_empty() => "<<>>".to_string(),
        Value::Seq(items) if items.iter().all(is_entry) => entries(items, 1),
        Value::Seq(items) if matches!(items.as_slice(), [Value::Int(_), Value::Model(_)]) => {
            format!("{} in term {}", items[1], items[0])
        }
        Value::Seq(items) => format!("<<{}>>", list(items.iter())),
        Value::Function(pairs) => lines(pairs).join("; "),
        Value::Record(fields) => record(fields),
    }
}

/// The pairs of a function, one each: `s2: Probe, match 0, next 1`.
#[must_use]
pub fn lines(pairs: &BTreeMap<Value, Value>) -> Vec<String> {
    pairs.iter().map(|(argument, result)| format!("{}: {}", value(argument), value(result))).collect()
}

fn list<'a>(items: impl Iterator<Item = &'a Value>) -> String {
    items.map(value).collect::<Vec<_>>().join(", ")
}

/// Whether this is an entry of a log.
#[must_use]
pub fn is_entry(value: &Value) -> bool {
    matches!(value, Value::Record(fields) if fields.contains_key("payload"))
}

/// Entries that stand from index `first` on: `1@1 Noop, 2@1 Command`.
#[must_use]
pub fn entries(items: &[Value], first: i64) -> String {
    let entry = |(index, item): (i64, &Value)| {
        let Value::Record(fields) = item else { return value(item) };
        let commit_term = fields.get("commitTerm").map_or(String::new(), |term| format!(" in term {}", value(term)));
        let content = fields.get("membership").and_then(|membership| sequence(membership).first());
        let content = content.map_or_else(String::new, |membership| format!(" of {}", value(membership)));
        format!("{index}@{} {}{content}{commit_term}", value(&fields["term"]), value(&fields["payload"]))
    };
    (first..).zip(items).map(entry).collect::<Vec<_>>().join(", ")
}

fn record(fields: &BTreeMap<String, Value>) -> String {
    let has = |name: &str| fields.contains_key(name);
    if has("type") {
        return message_record(fields);
    }
    if has("index") && has("term") {
        return format!("{}@{}", value(&fields["index"]), value(&fields["term"]));
    }
    if has("nextIndex") {
        return progress(fields);
    }
    if has("hardState") {
        return write(fields);
    }
    if has("kind") {
        return append_result(fields);
    }
    if has("voters") {
        return lists(fields);
    }
    fields.iter().map(|(name, field)| format!("{name} {}", value(field))).collect::<Vec<_>>().join(", ")
}

/// The lists of a configuration, but for empty ones.
fn lists(fields: &BTreeMap<String, Value>) -> String {
    let of = |name: &str| match fields.get(name) {
        Some(Value::Set(items)) => items.iter().map(value).collect(),
        _ => Vec::new(),
    };
    let names = ["voters", "outgoing", "learners", "promoting"].map(|name| (name, of(name)));
    let said = names.iter().filter(|(_, ids)| !ids.is_empty()).map(|(name, ids)| format!("{name} {}", ids.join(" ")));
    let said: Vec<String> = said.collect();
    if said.is_empty() { "nobody".to_string() } else { said.join(", ") }
}

fn number(value: &Value) -> i64 {
    if let Value::Int(number) = value { *number } else { 0 }
}

fn sequence(value: &Value) -> &[Value] {
    if let Value::Seq(items) = value { items } else { &[] }
}

fn message_record(fields: &BTreeMap<String, Value>) -> String {
    let word = |name: &str| fields.get(name).map(value);
    let mut parts = vec![format!("{} -> {}", value(&fields["from"]), value(&fields["to"]))];
    parts.push(format!("term {}", value(&fields["term"])));
    parts.extend(word("campaignTerm").map(|term| format!("campaign term {term}")));
    parts.extend(word("last").map(|last| format!("last {last}")));
    parts.extend(word("membership"));
    if fields.get("leadershipTransfer") == Some(&Value::Bool(true)) {
        parts.push("leadership transfer".to_string());
    }
    parts.extend(word("prev").map(|prev| format!("prev {prev}")));
    if let Some(carried) = fields.get("entries").filter(|carried| !sequence(carried).is_empty()) {
        let first = match &fields["prev"] {
            Value::Record(prev) => number(&prev["index"]) + 1,
            _ => 1,
        };
        parts.push(format!("[{}]", entries(sequence(carried), first)));
    }
    parts.extend(word("context").map(|context| format!("read {context}")));
    parts.extend(word("index").map(|index| format!("index {index}")));
    parts.extend(word("commit").map(|commit| format!("commit {commit}")));
    parts.extend(word("leaderTerm").map(|term| format!("leader term {term}")));
    parts.extend(word("round").map(|round| format!("round {round}")));
    if let Some(granted) = fields.get("granted") {
        parts.push(if *granted == Value::Bool(true) { "granted" } else { "refused" }.to_string());
    }
    parts.extend(word("result"));
    format!("{}({})", value(&fields["type"]), parts.join(", "))
}

fn append_result(fields: &BTreeMap<String, Value>) -> String {
    match (fields.get("matchIndex"), fields.get("prevIndex")) {
        (Some(matched), _) => format!("accepted through {}", value(matched)),
        (_, Some(prev)) => format!("rejected after {}, hint {}", value(prev), value(&fields["hint"])),
        _ => "stale term".to_string(),
    }
}

fn progress(fields: &BTreeMap<String, Value>) -> String {
    let mut text = format!(
        "{}, match {}, next {}",
        value(&fields["state"]),
        value(&fields["matchIndex"]),
        value(&fields["nextIndex"])
    );
    if fields["active"] == Value::Bool(true) {
        text += ", active";
    }
    if !sequence(&fields["inflight"]).is_empty() {
        text += &format!(", in flight {}", list(sequence(&fields["inflight"]).iter()));
    }
    text
}

/// A write in flight, and what leaves once it is durable.
fn write(fields: &BTreeMap<String, Value>) -> String {
    let mut parts = Vec::new();
    if let Some(Value::Record(state)) = sequence(&fields["hardState"]).first() {
        parts.push(format!("term {} vote {}", value(&state["term"]), value(&state["vote"])));
    }
    if let Some(Value::Record(compaction)) = fields.get("compaction").and_then(|each| sequence(each).first()) {
        let part = |name: &str| value(&compaction[name]);
        let (snapshot, base) = (part("snapshot"), part("base"));
        parts.push(format!("snapshot up to {snapshot} with {}, log after {base}", part("membership")));
    }
    if number(&fields["truncateFrom"]) > 0 {
        parts.push(format!("truncate from {}", value(&fields["truncateFrom"])));
    }
    let written = sequence(&fields["entries"]);
    if !written.is_empty() {
        let first = number(&fields["durable"]) - written.len() as i64 + 1;
        parts.push(format!("write {}", entries(written, first)));
    }
    let messages = sequence(&fields["messages"]);
    if !messages.is_empty() {
        parts.push(format!("then send {}", list(messages.iter())));
    }
    format!("[{}]", parts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words_of(text: &str) -> String {
        value(&Value::parse(text).expect("a value"))
    }

    #[test]
    fn a_message_says_what_it_carries() {
        let text = "[type |-> \"AppendEntriesRequest\", from |-> s1, to |-> s2, term |-> 2, prev |-> [index |-> 1, \
                    term |-> 1], entries |-> <<[term |-> 2, payload |-> \"Noop\"]>>, commit |-> 1]";
        assert_eq!(words_of(text), "AppendEntriesRequest(s1 -> s2, term 2, prev 1@1, [2@2 Noop], commit 1)");
        let text = "[type |-> \"AppendEntriesResponse\", from |-> s2, to |-> s1, term |-> 2, result |-> [kind |-> \
                    \"Rejected\", prevIndex |-> 3, hint |-> [index |-> 1, term |-> 1]]]";
        assert_eq!(words_of(text), "AppendEntriesResponse(s2 -> s1, term 2, rejected after 3, hint 1@1)");
    }

    #[test]
    fn a_configuration_says_who_belongs_to_it() {
        let membership = "[voters |-> {s1, s3}, outgoing |-> {s1, s2}, learners |-> {}, promoting |-> {}]";
        assert_eq!(words_of(membership), "voters s1 s3, outgoing s1 s2");
        let entry = format!("<<[term |-> 1, payload |-> \"Membership\", membership |-> <<{membership}>>]>>");
        assert_eq!(words_of(&entry), "1@1 Membership of voters s1 s3, outgoing s1 s2");
        assert_eq!(words_of(&membership.replace("s1, s3", "").replace("s1, s2", "")), "nobody");
    }

    #[test]
    fn a_write_says_what_follows_it() {
        let text = "[hardState |-> <<[term |-> 1, vote |-> s1]>>, truncateFrom |-> 2, entries |-> <<[term |-> 1, \
                    payload |-> \"Command\"]>>, durable |-> 2, messages |-> <<[type |-> \"RequestVoteRequest\", \
                    from |-> s1, to |-> s2, term |-> 1, last |-> [index |-> 0, term |-> 0]]>>]";
        let words = "[term 1 vote s1; truncate from 2; write 2@1 Command; then send RequestVoteRequest(s1 -> s2, term 1, last 0@0)]";
        assert_eq!(words_of(text), words);
    }
}
