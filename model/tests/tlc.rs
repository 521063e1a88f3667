//! TLC's distributed mode: a server and two workers on loopback find what TLC finds alone.

use raft_model::tlc::Tlc;
use std::process::Command;

#[test]
fn a_server_and_two_workers_find_what_tlc_finds_alone() {
    if let Err(error) = Tlc::find() {
        eprintln!("skipped: {error}");
        return;
    }
    let spec = concat!(env!("CARGO_MANIFEST_DIR"), "/../spec");
    let found = |options: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_raft-model"));
        command.args(["tlc", "MCMonotone", "--json", "--workers", "2", "--spec", spec]).args(options);
        let output = command.output().expect("raft-model runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
        assert_eq!(found["verdict"], "complete", "{found}");
        found["states"].as_u64()
    };
    assert_eq!(found(&["--distributed"]), found(&[]));
    assert_eq!(found(&[]), Some(1523));
}
