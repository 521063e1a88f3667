//! TLC as it is run: in its distributed mode a server and two workers on loopback find what it finds alone, and the spec's
//! folder stays as it is.

use raft_model::tlc::Tlc;
use std::collections::BTreeSet;
use std::process::Command;

const SPEC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../spec");

/// What `raft-model tlc` prints; it must succeed.
fn tlc(arguments: &[&str]) -> Vec<u8> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raft-model"));
    let output = command.args(["tlc", "--spec", SPEC]).args(arguments).output().expect("raft-model runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn a_server_and_two_workers_find_what_tlc_finds_alone() {
    if let Err(error) = Tlc::find() {
        eprintln!("skipped: {error}");
        return;
    }
    let found = |options: &[&str]| {
        let printed = tlc(&[&["MCMonotone", "--json", "--workers", "2"], options].concat());
        let found: serde_json::Value = serde_json::from_slice(&printed).expect("one JSON object");
        assert_eq!(found["verdict"], "complete", "{found}");
        found["states"].as_u64()
    };
    assert_eq!(found(&["--distributed"]), found(&[]));
    assert_eq!(found(&[]), Some(1523));
}

/// Newer versions of TLC than 2.15 write the trace of a violation into a module beside the spec: runs of goals, which are there
/// to be violated, left two files each in the checkout.
#[test]
fn the_specs_folder_stays_as_it_is() {
    if let Err(error) = Tlc::find() {
        eprintln!("skipped: {error}");
        return;
    }
    let files =
        || -> BTreeSet<_> { std::fs::read_dir(SPEC).unwrap().map(|entry| entry.unwrap().file_name()).collect() };
    let before = files();
    tlc(&["GoalLeader"]);
    assert_eq!(files(), before);
}
