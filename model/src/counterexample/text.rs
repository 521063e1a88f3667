//! A trace as lines of text.

use super::Trace;
use std::fmt::Write;

/// How wide a line of changes gets before the next one begins.
const WIDTH: usize = 112;

/// The trace, one transition a line with what it changed below, and the laws that are broken at its end.
#[must_use]
pub fn of_trace(trace: &Trace) -> String {
    let mut text = String::new();
    for (at, step) in trace.steps.iter().enumerate() {
        _ = writeln!(text, "{:>4}  {}", at + 1, step.label);
        for line in filled(&step.changes, WIDTH - 8) {
            _ = writeln!(text, "        {line}");
        }
    }
    text + &verdict(trace)
}

/// The laws that are broken and what they say.
#[must_use]
pub fn verdict(trace: &Trace) -> String {
    let mut text = String::new();
    for law in &trace.laws {
        _ = writeln!(text, "{} is broken: {}", law.name(), law.says());
    }
    if let Some(message) = &trace.message {
        _ = writeln!(text, "  {message}");
    }
    text
}

/// Changes side by side as far as they fit.
fn filled(changes: &[String], width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for change in changes {
        match lines.last_mut() {
            Some(line) if line.chars().count() + change.chars().count() + 3 <= width => {
                *line += &format!("   {change}")
            }
            _ => lines.push(change.clone()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::filled;

    #[test]
    fn lines_are_filled_and_never_broken() {
        let changes = ["aaaa", "bbbb", "cccccccccccccccc"].map(str::to_string);
        assert_eq!(filled(&changes, 12), ["aaaa   bbbb", "cccccccccccccccc"]);
    }
}
