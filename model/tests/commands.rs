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

/// `--nightly` with a name was refused, though the names of the night are in the list that it asks to look into.
#[test]
fn nightly_with_a_name_runs_what_is_named() {
    let output = raft_model(&["check", "--nightly", "mutant-election", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(found["configuration"], "mutant-election");

    let listed = |arguments: &[&str]| {
        let output = raft_model(&[&["mutants", "--list"], arguments].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout).lines().skip(1).map(str::to_string).collect::<Vec<_>>()
    };
    let one = listed(&["--nightly", "mutant-second-leadership"]);
    assert!(one.len() == 1 && one[0].starts_with("27 "), "{one:?}");
    let several = listed(&["--nightly", "27", "mutant-second-leadership", "4"]);
    assert!(several.len() == 2 && several[1].contains(" 4 "), "{several:?}");
    assert_eq!(listed(&["--nightly"]), listed(&["--all"]));

    for command in ["check", "conform", "mutants"] {
        let output = raft_model(&[command, "--nightly", "nope"]);
        assert_eq!(output.status.code(), Some(2), "{command}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains("nope"), "{command}: {}", text(&output.stderr));
    }
}
