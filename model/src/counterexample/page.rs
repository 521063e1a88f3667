//! A trace as a page: one file that needs nothing else, and the data that the pages' scripts read.

use super::changes::{Variables, of_server, per_server};
use super::diagram::{self, Layout, escape};
use super::{Trace, text, words};
use crate::value::Value;
use serde_json::{Value as Json, json};

/// What pages look like beside the diagram.
pub const STYLE: &str = include_str!("../assets/page.css");
/// How a state becomes a table; shared by all pages.
pub const STATE_SCRIPT: &str = include_str!("../assets/state.js");
/// What the lines and marks of a diagram mean.
pub const LEGEND: &str = include_str!("../assets/legend.html");
const PAGE: &str = include_str!("../assets/counterexample.html");
const SCRIPT: &str = include_str!("../assets/counterexample.js");

/// The page of a counterexample.
#[must_use]
pub fn of_counterexample(trace: &Trace) -> String {
    let names: Vec<&str> = trace.laws.iter().map(|law| law.name()).collect();
    let laws = trace.laws.iter().map(|law| format!("<p class=\"law\"><b>{}</b> {}</p>", law.name(), law.says()));
    let message = trace.message.iter().map(|message| format!("<p class=\"law\"><code>{}</code></p>", escape(message)));
    let configuration = &trace.configuration;
    let found = format!("{}, {}: after {} steps", configuration.name, configuration.bounds(), trace.steps.len());
    fill(
        PAGE,
        &[
            ("style", &format!("{}\n{STYLE}", diagram::STYLE)),
            ("title", &format!("{} is broken", names.join(", "))),
            ("found", &escape(&found)),
            ("laws", &laws.chain(message).collect::<String>()),
            ("legend", LEGEND),
            ("diagram", &diagram::drawing(trace, Layout::page(trace.servers.len()))),
            ("text", &escape(&text::of_trace(trace))),
            ("script", &format!("{STATE_SCRIPT}\n{SCRIPT}")),
            ("trace", &in_script(&data(trace))),
        ],
    )
}

/// Puts texts in the places of a page that are named `{{name}}`. A text is not looked at again.
#[must_use]
pub fn fill(page: &str, texts: &[(&str, &str)]) -> String {
    let mut filled = String::new();
    let mut rest = page;
    while let Some((before, place)) = rest.split_once("{{") {
        let (name, after) = place.split_once("}}").expect("a place is closed");
        let text = texts.iter().find(|(each, _)| *each == name).map(|(_, text)| *text);
        filled += before;
        filled += text.unwrap_or_else(|| panic!("nothing stands for {name}"));
        rest = after;
    }
    filled + rest
}

/// JSON that may stand in a script element.
fn in_script(json: &Json) -> String {
    json.to_string().replace('<', "\\u003c")
}

/// A trace as the pages' scripts read it.
#[must_use]
pub fn data(trace: &Trace) -> Json {
    let states: Vec<Json> = (0..=trace.steps.len()).map(|at| state(&trace.servers, trace.state(at))).collect();
    let steps = trace.steps.iter().map(|step| json!({ "label": step.label, "changes": step.changes }));
    let laws = trace.laws.iter().map(|law| json!({ "name": law.name(), "says": law.says() }));
    json!({
        "configuration": trace.configuration.name,
        "bounds": trace.configuration.bounds(),
        "servers": trace.servers,
        "states": states,
        "steps": steps.collect::<Vec<_>>(),
        "laws": laws.collect::<Vec<_>>(),
        "message": trace.message,
    })
}

/// A state: a row for each variable with a cell for each server, and what concerns all. A cell is a list of lines.
fn state(servers: &[String], state: &Variables) -> Json {
    let mut rows = Vec::new();
    for name in per_server(state) {
        let values: Vec<Option<&Value>> = servers.iter().map(|server| of_server(state, name, server)).collect();
        // A record is easier to compare field by field.
        if let Some(Some(Value::Record(fields))) = values.first() {
            for field in fields.keys() {
                let of = |value: &Option<&Value>| match value {
                    Some(Value::Record(fields)) => cell(&fields[field]),
                    _ => Vec::new(),
                };
                rows.push(
                    json!({ "name": format!("{name}.{field}"), "cells": values.iter().map(of).collect::<Vec<_>>() }),
                );
            }
        } else {
            let of = |value: &Option<&Value>| value.map_or_else(Vec::new, cell);
            rows.push(json!({ "name": name, "cells": values.iter().map(of).collect::<Vec<_>>() }));
        }
    }
    let lines = |name: &str| state.get(name).map_or_else(Vec::new, cell);
    json!({
        "rows": rows,
        "messages": lines("messages"),
        "leaders": lines("leaders"),
        "committed": lines("committed"),
        "crashes": lines("crashes"),
    })
}

/// A value, a line for each of its parts.
fn cell(value: &Value) -> Vec<String> {
    match value {
        Value::Function(pairs) => words::lines(pairs),
        Value::Set(items) if items.iter().all(|item| matches!(item, Value::Model(_))) && !items.is_empty() => {
            vec![words::value(value)]
        }
        Value::Set(items) => items.iter().map(words::value).collect(),
        Value::Seq(items) if items.iter().all(words::is_entry) => {
            (1..).zip(items).map(|(index, item)| words::entries(std::slice::from_ref(item), index)).collect()
        }
        Value::Seq(items) => items.iter().map(words::value).collect(),
        _ => vec![words::value(value)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_filled_once() {
        assert_eq!(fill("<a>{{x}}</a>{{y}}", &[("x", "{{y}}"), ("y", "2")]), "<a>{{y}}</a>2");
        assert_eq!(in_script(&json!("</script>")), "\"\\u003c/script>\"");
    }
}
