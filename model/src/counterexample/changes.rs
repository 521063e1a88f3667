//! What differs between two states, as short as it can be said.

use super::words;
use crate::value::Value;
use std::collections::BTreeMap;

/// A state in the spec's words.
pub type Variables = BTreeMap<String, Value>;

/// The variables of one server in the order in which a reader wants them. Others follow, by name.
const ORDER: &[&str] = &[
    "role",
    "currentTerm",
    "votedFor",
    "leader",
    "leaderIsRecent",
    "votesGranted",
    "votesRefused",
    "log",
    "commitIndex",
    "appliedIndex",
    "durableIndex",
    "progress",
    "pending",
    "disk",
];

/// What concerns the whole cluster.
const OF_THE_CLUSTER: &[&str] = &["messages", "leaders", "committed", "crashes"];

/// The names of the variables that each server has, in reading order.
#[must_use]
pub fn per_server(state: &Variables) -> Vec<&str> {
    let known = ORDER.iter().copied().filter(|name| state.contains_key(*name));
    let others = state.keys().map(String::as_str);
    known.chain(others.filter(|name| !ORDER.contains(name) && !OF_THE_CLUSTER.contains(name))).collect()
}

/// A server's value of a variable.
#[must_use]
pub fn of_server<'a>(state: &'a Variables, name: &str, server: &str) -> Option<&'a Value> {
    let Some(Value::Function(values)) = state.get(name) else { return None };
    values.get(&Value::Model(server.to_string()))
}

/// What changed, one change each: `s2.votedFor: Nil -> s1`.
#[must_use]
pub fn changes(servers: &[String], before: &Variables, after: &Variables) -> Vec<String> {
    let mut found = Vec::new();
    for server in servers {
        for name in per_server(after) {
            if let (Some(old), Some(new)) = (of_server(before, name, server), of_server(after, name, server)) {
                differences(&format!("{server}.{name}"), old, new, &mut found);
            }
        }
    }
    for name in OF_THE_CLUSTER {
        if let (Some(old), Some(new)) = (before.get(*name), after.get(*name)) {
            differences(name, old, new, &mut found);
        }
    }
    found
}

fn differences(path: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
    if old == new {
        return;
    }
    let empty = |value: &Value| matches!(value, Value::Seq(items) if items.is_empty());
    match (old, new) {
        (Value::Record(old), Value::Record(new)) if !old.contains_key("index") && old.keys().eq(new.keys()) => {
            for (name, value) in new {
                differences(&format!("{path}.{name}"), &old[name], value, found);
            }
        }
        (Value::Function(_), new) if empty(new) => found.push(format!("{path}: cleared")),
        (old, Value::Function(new)) if empty(old) => in_function(path, &BTreeMap::new(), new, found),
        (Value::Function(old), Value::Function(new)) => in_function(path, old, new, found),
        (Value::Set(old), Value::Set(new)) => {
            found.extend(old.difference(new).map(|gone| format!("{path}: - {}", words::value(gone))));
            found.extend(new.difference(old).map(|added| format!("{path}: + {}", words::value(added))));
        }
        (Value::Seq(old), Value::Seq(new)) => in_sequence(path, old, new, found),
        _ => found.push(format!("{path}: {} -> {}", words::value(old), words::value(new))),
    }
}

fn in_function(path: &str, old: &BTreeMap<Value, Value>, new: &BTreeMap<Value, Value>, found: &mut Vec<String>) {
    for (argument, value) in new {
        let path = format!("{path}[{}]", words::value(argument));
        match old.get(argument) {
            Some(old) => differences(&path, old, value, found),
            None => found.push(format!("{path}: {}", words::value(value))),
        }
    }
    let gone = old.keys().filter(|argument| !new.contains_key(*argument));
    found.extend(gone.map(|argument| format!("{path}[{}]: gone", words::value(argument))));
}

/// A log changes at its end; a queue also at its front.
fn in_sequence(path: &str, old: &[Value], new: &[Value], found: &mut Vec<String>) {
    let is_log = old.iter().chain(new).all(words::is_entry);
    let kept_from = if is_log { 0 } else { (0..=old.len()).find(|&at| new.starts_with(&old[at..])).unwrap_or(0) };
    let rest = &old[kept_from..];
    let same = rest.iter().zip(new).take_while(|(old, new)| old == new).count();
    let said = |items: &[Value], first: usize| {
        if is_log {
            words::entries(items, first as i64 + 1)
        } else {
            items.iter().map(words::value).collect::<Vec<_>>().join(", ")
        }
    };
    if kept_from > 0 {
        found.push(format!(
            "{path}: - the first{}",
            if kept_from > 1 { format!(" {kept_from}") } else { String::new() }
        ));
    }
    if rest.len() > same {
        found.push(format!("{path}: - {}", said(&rest[same..], same)));
    }
    if new.len() > same {
        found.push(format!("{path}: + {}", said(&new[same..], same)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(old: &str, new: &str) -> Vec<String> {
        let mut found = Vec::new();
        let parse = |text| Value::parse(text).expect("a value");
        differences("x", &parse(old), &parse(new), &mut found);
        found
    }

    #[test]
    fn only_what_changed_is_said() {
        assert_eq!(found("Nil", "s1"), ["x: Nil -> s1"]);
        assert_eq!(found("{1, 2}", "{2, 3}"), ["x: - 1", "x: + 3"]);
        assert_eq!(found("[a |-> 1, b |-> 2]", "[a |-> 1, b |-> 3]"), ["x.b: 2 -> 3"]);
        assert_eq!(found("[index |-> 1, term |-> 2]", "[index |-> 2, term |-> 2]"), ["x: 1@2 -> 2@2"]);
        assert_eq!(found("<<>>", "(s2 :> 4)"), ["x[s2]: 4"]);
        assert_eq!(found("(s2 :> 4)", "<<>>"), ["x: cleared"]);
        assert_eq!(found("1", "1"), Vec::<String>::new());
    }

    #[test]
    fn a_log_loses_and_gains_entries_at_its_end_and_a_queue_also_at_its_front() {
        let entry = |term: u8| format!("[term |-> {term}, payload |-> \"Noop\"]");
        let log =
            |terms: &[u8]| format!("<<{}>>", terms.iter().map(|term| entry(*term)).collect::<Vec<_>>().join(", "));
        assert_eq!(found(&log(&[1, 1]), &log(&[1, 2])), ["x: - 2@1 Noop", "x: + 2@2 Noop"]);
        assert_eq!(found("<<4, 5>>", "<<5, 6>>"), ["x: - the first", "x: + 6"]);
        assert_eq!(found("<<4, 5>>", "<<>>"), ["x: - the first 2"]);
    }
}
