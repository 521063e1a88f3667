//! The commands as a shell sees them: exit codes, messages, JSON.

use std::process::{Command, Output};

fn raft_model(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_raft-model")).args(arguments).output().expect("raft-model runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn simulate_walks_from_a_seed_and_says_how_far() {
    let arguments = ["simulate", "five", "--seed", "5", "--walks", "2", "--steps", "500", "--json"];
    let output = raft_model(&arguments);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!((&found["setup"], &found["steps"], &found["seed"]), (&"five".into(), &1000.into(), &5.into()));
    assert!(found["steps_per_second"].as_f64().is_some_and(|rate| rate > 0.0), "{found}");
    let again: serde_json::Value = serde_json::from_slice(&raft_model(&arguments).stdout).expect("one JSON object");
    for same in ["committed", "highest_term", "longest_log", "messages_max", "crashes"] {
        assert_eq!(found[same], again[same], "{same}");
    }
}

#[test]
fn a_run_cut_short_is_no_pass() {
    let output = raft_model(&["simulate", "five", "--steps", "100000000", "--timeout", "1"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains("TRUNCATED"), "{}", text(&output.stdout));
}

#[test]
fn an_unknown_name_lists_the_known_ones() {
    for command in ["simulate", "explore"] {
        let output = raft_model(&[command, "nope"]);
        assert_eq!(output.status.code(), Some(2));
        let said = text(&output.stderr);
        assert!(said.contains("nope") && said.contains("there are: ") && said.contains("core"), "{said}");
    }
}

#[test]
fn every_command_explains_itself() {
    for command in ["check", "simulate", "explore", "mutants"] {
        let output = raft_model(&[command, "--help"]);
        assert!(output.status.success());
        assert!(text(&output.stdout).lines().count() > 10, "{command}");
    }
}
