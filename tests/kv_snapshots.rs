//! Snapshots of the kv example: RAFT.SNAPSHOT, restarts from one, and a node that lost everything.

#![cfg(all(unix, feature = "persistence", feature = "tcp"))]

#[allow(dead_code, reason = "each test uses its part")]
mod kv_support;
#[allow(dead_code, unused_imports, reason = "a program of its own, of which this test runs the server")]
#[path = "../examples/kv/server/mod.rs"]
mod server;

use bytes::Bytes;
use kv_support::{Cluster, await_some, start_in_vain, text};
use raft_io::EntryId;
use raft_io::driver::StateMachine;
use server::store::{Operation, Store, encode};
use std::fs;

/// Not a test: the nodes of the tests are this program running only this.
#[test]
fn node_process() {
    kv_support::node_process();
}

fn number(cluster: &Cluster, node: usize, field: &str) -> u64 {
    cluster.raft_status(node, field).parse().unwrap_or(0)
}

/// Waits until all nodes are equally far and hold the same.
fn agree(cluster: &Cluster) {
    let print = |node| ["hash_index", "state_hash", "history_hash"].map(|field| cluster.raft_status(node, field));
    let equal = await_some(|| {
        let first = print(0);
        (!first[0].is_empty() && first == print(1) && first == print(2)).then_some(())
    });
    assert!(equal.is_some(), "{:?} {:?} {:?}\n{}", print(0), print(1), print(2), cluster.logs());
}

/// Writes keys with values of their own, pipelined.
fn write(cluster: &Cluster, node: usize, range: std::ops::Range<u32>) {
    let mut request = String::new();
    range.for_each(|key| request.push_str(&format!("SET key:{key} {key:0>100}\r\n")));
    let replies = text(&mut cluster.connect(node), &request);
    assert!(!format!("\n{replies}").contains("\n-"), "{replies}");
}

#[test]
fn a_snapshot_on_demand_shortens_the_log_and_survives_a_kill() {
    let mut cluster = Cluster::start(&["--snapshot-trail", "0"]);
    let node = cluster.follower();
    write(&cluster, node, 0..500);
    agree(&cluster);
    // It covers what came before it on the connection.
    let replies = text(&mut cluster.connect(cluster.leader()), "SET last one\r\nGET last\r\nRAFT.SNAPSHOT\r\n");
    assert!(replies.starts_with("+OK\r\n$3\r\none\r\n+OK up to entry "), "{replies}");
    let replied = cluster.cli(node, &["raft.snapshot"]);
    assert!(replied.starts_with("OK up to entry ") && replied.contains(" bytes"), "{replied}");
    let index = number(&cluster, node, "first_index") - 1;
    assert!(index >= 500, "{index}");
    assert_eq!(cluster.raft_status(node, "snapshot").split('@').next(), Some(index.to_string().as_str()));
    assert!(cluster.cli(node, &["info", "persistence"]).contains(&format!("raft_snapshot_index:{index}")));
    assert!(cluster.data(node).join("snapshots").is_dir());
    cluster.kill(node);
    cluster.restart(node);
    cluster.leader();
    write(&cluster, node, 500..510);
    agree(&cluster);
    assert_eq!(cluster.cli(node, &["get", "key:7"]), format!("{:0>100}", 7));
    assert_eq!(cluster.cli(node, &["dbsize"]), "511");
}

#[test]
fn a_node_that_is_far_behind_gets_a_snapshot() {
    let mut cluster = Cluster::start(&["--snapshot-commands", "100", "--snapshot-trail", "10"]);
    let node = cluster.follower();
    write(&cluster, node, 0..20);
    agree(&cluster);
    cluster.kill(node);
    let leader = cluster.leader();
    write(&cluster, leader, 20..1000);
    assert!(number(&cluster, leader, "snapshots_taken") > 1, "{}", cluster.logs());
    cluster.restart(node);
    agree(&cluster);
    assert!(number(&cluster, node, "snapshots_fetched") >= 1, "{}", cluster.logs());
    assert!(number(&cluster, node, "first_index") > 500);
    write(&cluster, node, 1000..1010);
    agree(&cluster);
}

/// A node that lost its data voted a second time in its term, under its old id. It is kept out under that, and comes back as a
/// new one, with a snapshot.
#[test]
fn a_wiped_node_is_refused_under_its_id_and_comes_back_under_another() {
    let mut cluster = Cluster::start(&["--snapshot-commands", "100", "--snapshot-trail", "10"]);
    let node = cluster.follower();
    write(&cluster, node, 0..300);
    agree(&cluster);
    cluster.kill(node);
    fs::remove_dir_all(cluster.data(node)).unwrap();
    cluster.restart(node);
    // A peer says so in its answer to this node's hello, or this node finds it in a peer's hello: the first of the two counts.
    let lost = await_some(|| cluster.logs().contains("data directory lost what node").then_some(()));
    assert!(lost.is_some(), "{}", cluster.logs());
    let others: Vec<usize> = (0..3).filter(|other| *other != node).collect();
    let leader = cluster.leader_among(&others);
    let removed = cluster.cli(leader, &["raft.remove", &(node + 1).to_string()]);
    assert!(removed.starts_with("OK"), "{removed}");
    cluster.kill(node);
    let joined = cluster.join();
    let added = cluster.cli(leader, &["raft.add", &(joined + 1).to_string(), &cluster.peer_address(joined)]);
    assert!(added.starts_with("OK"), "{added}{}", cluster.logs());
    assert!(number(&cluster, joined, "snapshots_fetched") >= 1, "{}", cluster.logs());
    let size = await_some(|| (cluster.cli(joined, &["dbsize"]) == "300").then_some(()));
    assert!(size.is_some(), "{}", cluster.logs());
}

#[test]
fn a_node_without_its_snapshots_does_not_start_and_says_so() {
    let mut cluster = Cluster::start(&["--snapshot-trail", "0"]);
    let node = cluster.follower();
    write(&cluster, node, 0..10);
    assert!(cluster.cli(node, &["raft.snapshot"]).starts_with("OK"));
    cluster.kill(node);
    fs::remove_dir_all(cluster.data(node).join("snapshots")).unwrap();
    let (code, said) = start_in_vain(&cluster.line(node));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("the log begins with the snapshot up to entry"), "{said}");
    assert!(said.contains("start with the store that this node had"), "{said}");
    let mut line = cluster.line(node);
    line.extend(["--snapshot-mib".into(), "0".into()]);
    let (code, said) = start_in_vain(&line);
    assert!(code == Some(2) && said.contains("--snapshot-mib 0: must be at least 1"), "{said}");
}

fn set(store: &mut Store, index: u64, key: &str, value: &str) {
    let mut command = Vec::new();
    encode(&mut command, Operation::Set, 0, [key.as_bytes(), value.as_bytes()].into_iter());
    store.apply(EntryId::new(index, 1), &command.into());
}

#[test]
fn an_image_is_the_state_at_its_moment_and_restores_to_it() {
    let mut store = Store::default();
    (1..=5000).for_each(|index| set(&mut store, index, &format!("key:{index}"), &"v".repeat(index as usize % 300)));
    let before = store.fingerprint();
    let image = store.snapshot().unwrap();
    // What comes now is not in it, whatever shares memory with it.
    (5001..=6000).for_each(|index| set(&mut store, index, &format!("key:{}", index - 5000), "other"));
    let mut clear = Vec::new();
    encode(&mut clear, Operation::Clear, 0, std::iter::empty());
    store.apply(EntryId::new(6001, 1), &Bytes::from(clear));
    let mut bytes = Vec::new();
    image.write_to(&mut bytes).unwrap();
    let mut restored = Store::default();
    set(&mut restored, 1, "gone", "after");
    restored.restore(&mut &bytes[..]).unwrap();
    assert_eq!(restored.fingerprint(), before);
    // It goes on as the original would have.
    (5001..=5010).for_each(|index| set(&mut restored, index, "on", "v"));
    assert_eq!(restored.fingerprint().keys, 5001);

    let whole = restored.fingerprint();
    for cut in [0, 7, 40, 72, bytes.len() - 1] {
        assert!(restored.restore(&mut &bytes[..cut]).is_err(), "{cut}");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(restored.restore(&mut &longer[..]).is_err());
    // The last byte of the last value: behind it is the table of sessions, which is empty.
    let at = bytes.len() - 53;
    bytes[at] ^= 1;
    let error = restored.restore(&mut &bytes[..]).unwrap_err();
    assert!(error.to_string().contains("do not have its hash"), "{error}");
    assert_eq!(restored.fingerprint(), whole);
}
