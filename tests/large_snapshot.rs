//! The measurement of large snapshots, with a small one: real processes, a snapshot under load, a new member. That it
//! runs and that the states agree is tested here; how long writes take is not, for this machine may be busy.

#![cfg(all(feature = "persistence", feature = "tcp"))]

#[path = "../examples/large_snapshot/blocks.rs"]
mod blocks;
#[allow(dead_code, reason = "the program prints more than is tested")]
#[path = "../examples/large_snapshot/load.rs"]
mod load;
#[path = "../examples/large_snapshot/node.rs"]
mod node;
#[path = "../examples/large_snapshot/nodes.rs"]
mod nodes;
#[path = "../examples/large_snapshot/run.rs"]
mod run;
#[allow(dead_code, reason = "nothing is printed here")]
#[path = "../examples/large_snapshot/verdict.rs"]
mod verdict;

use node::NodeOptions;
use raft_io::EntryId;
use raft_io::driver::StateMachine;
use std::process::Command;

/// What makes a process of this program a node: its id, limit and directory.
const NODE: &str = "RAFT_IO_TEST_LARGE_SNAPSHOT_NODE";
const VALUE_BYTES: usize = 1024;

/// Not a test but a process that the test below starts.
#[test]
fn node_process() {
    let Ok(line) = std::env::var(NODE) else { return };
    let mut parts = line.splitn(3, ' ');
    let mut number = || parts.next().and_then(|part| part.parse().ok()).expect("a number");
    let (id, limit) = (number(), number());
    let directory = parts.next().expect("a directory").into();
    let options = NodeOptions { id, directory, bytes_per_second: Some(limit), value_bytes: VALUE_BYTES };
    node::serve(&options).expect("the node runs");
}

#[test]
fn a_new_member_joins_with_a_snapshot_under_load() {
    let directory = tempfile::tempdir().expect("a directory");
    let plan = run::Plan {
        directory: directory.path().to_path_buf(),
        state_bytes: 32 << 20,
        bytes_per_second: Some(32 << 20),
        clients: 4,
        rate: 100,
        value_bytes: VALUE_BYTES,
        seconds: 1,
    };
    let command = |options: &NodeOptions| {
        let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
        command.args(["node_process", "--exact", "--nocapture", "--test-threads", "1"]);
        let limit = options.bytes_per_second.unwrap_or(u64::MAX);
        command.env(NODE, format!("{} {limit} {}", options.id, options.directory.display()));
        command
    };
    let outcome = run::run(&plan, command, &|text| println!("{text}"), &|_| {}).expect("it runs to its end");
    assert!(outcome.snapshot_bytes > plan.state_bytes);
    // Those of what must hold on any machine, however busy: an election is none of them.
    let must = ["resident memory bounded", "states equal", "acknowledged writes lost", "joined by the snapshot"];
    let checks = verdict::checks(&outcome);
    for check in checks.iter().filter(|check| must.contains(&check.name)) {
        assert!(check.holds, "{}: {}", check.name, check.detail);
    }
    assert_eq!(checks.iter().filter(|check| must.contains(&check.name)).count(), must.len());
}

/// An image is the state as it was, whatever is written while it is read.
#[test]
fn an_image_does_not_see_what_is_written_meanwhile() {
    let directory = tempfile::tempdir().expect("a directory");
    let create = |name| blocks::Blocks::create(&directory.path().join(name), None).expect("an empty state");
    let (mut machine, mut copy, mut later) = (create("one"), create("two"), create("three"));
    machine.apply(EntryId::new(1, 1), &blocks::fill(0, 200));
    let before = machine.checksum().expect("a checksum");
    let image = machine.snapshot().expect("it has snapshots");
    // Before the image is read, and for some blocks twice.
    for block in (0..200).step_by(3).chain((0..200).step_by(7)) {
        machine.apply(EntryId::new(2, 1), &blocks::write(block, block + 1, 1024));
    }
    machine.apply(EntryId::new(3, 1), &blocks::fill(200, 10));
    let mut bytes = Vec::new();
    image.write_to(&mut bytes).expect("it is written");
    copy.restore(&mut &bytes[..]).expect("it is restored");
    assert_eq!(copy.checksum().expect("a checksum"), before);
    let now = machine.checksum().expect("a checksum");
    assert_ne!(now, before);
    let mut bytes = Vec::new();
    machine.snapshot().expect("the next").write_to(&mut bytes).expect("it is written");
    later.restore(&mut &bytes[..]).expect("it is restored");
    assert_eq!(later.checksum().expect("a checksum"), now);
}
