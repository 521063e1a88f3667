//! The kv example under limits of the system, and the end of a node whose disk fails.

#![cfg(all(target_os = "linux", feature = "persistence", feature = "tcp"))]

#[allow(dead_code, reason = "each test uses its part")]
mod kv_support;
#[allow(dead_code, unused_imports, reason = "a program of its own, of which this test runs the server")]
#[path = "../examples/kv/server/mod.rs"]
mod server;

use kv_support::{Cluster, await_some, start_in_vain_with_open_files, text};
use std::process::Command;

/// Not a test: the nodes of the tests are this program running only this.
#[test]
fn node_process() {
    kv_support::node_process();
}

/// From now on the node's files may have so many bytes: the next write beyond that fails with `EFBIG`.
fn limit_files(cluster: &Cluster, node: usize, bytes: u64) {
    let process = cluster.process_id(node).to_string();
    let limited = Command::new("prlimit").args(["--pid", &process, &format!("--fsize={bytes}:")]).status();
    assert!(limited.expect("prlimit (util-linux) runs").success());
}

/// With `ulimit -f` the signal SIGXFSZ ended the process without a word: nobody knew why, and no client was told.
#[test]
fn a_file_that_may_not_grow_is_an_error_of_the_disk_and_no_signal() {
    let mut cluster = Cluster::start(&[]);
    let leader = cluster.leader();
    assert_eq!(cluster.cli(leader, &["set", "k", "v"]), "OK");
    limit_files(&cluster, leader, 4096);
    let mut client = cluster.connect(leader);
    let reply = text_or_end(&mut client, "SET k w\r\n");
    assert!(reply.starts_with("-UNKNOWN ") || reply.starts_with("-CLUSTERDOWN "), "{reply}");
    assert_eq!(cluster.await_end(leader), Some(3), "{}", cluster.logs());
    assert!(cluster.logs().contains("File too large"), "{}", cluster.logs());
    // The others go on, and a restart without the limit has everything.
    let next = cluster.leader();
    assert_eq!(cluster.cli(next, &["set", "k", "x"]), "OK");
    cluster.restart(leader);
    cluster.leader();
    assert_eq!(cluster.cli(leader, &["get", "k"]), "x");
}

/// What the node replies to one line, or the start of it if it ends the connection.
fn text_or_end(stream: &mut std::net::TcpStream, line: &str) -> String {
    use std::io::{Read, Write};
    stream.write_all(line.as_bytes()).expect("sent");
    let (mut reply, mut byte) = (Vec::new(), [0]);
    while !reply.ends_with(b"\r\n") && stream.read(&mut byte).expect("a reply in time") == 1 {
        reply.push(byte[0]);
    }
    String::from_utf8_lossy(&reply).into_owned()
}

/// A snapshot beyond the limit fails alone: the node says so and serves on.
#[test]
fn a_snapshot_that_may_not_grow_fails_alone() {
    let cluster = Cluster::start(&[]);
    let leader = cluster.leader();
    let value = "x".repeat(100_000);
    for number in 0..20 {
        assert_eq!(cluster.cli(leader, &["set", &format!("k{number}"), &value]), "OK");
    }
    // The log's segments are larger already, and written to within their size.
    limit_files(&cluster, leader, 1 << 20);
    let reply = text(&mut cluster.connect(leader), "RAFT.SNAPSHOT\r\n");
    assert!(reply.starts_with("-ERR ") && reply.contains("File too large"), "{reply}");
    limit_files(&cluster, leader, 1 << 30);
    let reply = text(&mut cluster.connect(leader), "RAFT.SNAPSHOT\r\n");
    assert!(reply.starts_with("+OK "), "{reply}");
    assert_eq!(cluster.cli(leader, &["set", "k", "v"]), "OK");
}

/// A node whose disk failed lived on and said that it leads, that all is well, and PONG; told to stop, it ended with code 0.
#[test]
fn a_node_that_has_stopped_for_good_tells_everybody() {
    let mut cluster = Cluster::start(&["--stay"]);
    let leader = cluster.leader();
    assert_eq!(cluster.cli(leader, &["set", "k", "v"]), "OK");
    limit_files(&cluster, leader, 4096);
    let _ = cluster.cli(leader, &["set", "k", "w"]);
    let stopped = await_some(|| (cluster.raft_status(leader, "role") == "stopped").then_some(()));
    assert!(stopped.is_some(), "{}", cluster.logs());
    let refusal = |reply: String| {
        let refused = reply.starts_with("CLUSTERDOWN ") && reply.contains("File too large");
        assert!(refused, "{reply}");
    };
    let told = await_some(|| cluster.cli(leader, &["ping"]).starts_with("CLUSTERDOWN ").then_some(()));
    assert!(told.is_some(), "{}", cluster.cli(leader, &["ping"]));
    refusal(cluster.cli(leader, &["ping"]));
    refusal(cluster.cli(leader, &["ping", "hello"]));
    refusal(cluster.cli(leader, &["set", "k", "w"]));
    refusal(cluster.cli(leader, &["get", "k"]));
    let mut client = cluster.connect(leader);
    assert_eq!(text_or_end(&mut client, "READONLY\r\n"), "+OK\r\n");
    let stale = text_or_end(&mut client, "GET k\r\n");
    assert!(stale.starts_with("-CLUSTERDOWN "), "{stale}");
    let info = cluster.cli(leader, &["info"]);
    assert!(info.contains("role:stopped\r") && info.contains("master_link_status:down\r"), "{info}");
    assert!(!info.contains("role:master") && !info.contains("slave0:") && info.contains("File too large"), "{info}");
    let cluster_info = cluster.cli(leader, &["cluster", "info"]);
    assert!(cluster_info.contains("cluster_state:fail") && cluster_info.contains("slots_ok:0"), "{cluster_info}");
    for view in ["slots", "shards", "nodes"] {
        let found = cluster.cli(leader, &["cluster", view]);
        assert!(found.is_empty() || !found.contains("master"), "{view}: {found}");
        assert!(!found.contains(&cluster.port(leader).to_string()), "{view}: {found}");
    }
    assert!(cluster.raft_status(leader, "fatal").contains("File too large"));
    // The others do not take it for the leader, and tell clients so.
    let others: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
    let next = await_some(|| {
        let named = cluster.raft_status(others[0], "leader").parse::<usize>().ok()? - 1;
        (named != leader).then_some(named)
    });
    assert!(next.is_some_and(|next| others.contains(&next)), "{next:?}");
    assert_eq!(cluster.cli(others[1], &["set", "k", "x"]), "OK");
    assert_eq!(cluster.terminate(leader), Some(3), "told to stop, it still does not end well");
}

/// A node started with few open files, and stopped for good once clients had taken those of its log.
#[test]
fn too_few_open_files_are_refused_with_the_figure() {
    let mut cluster = Cluster::start(&[]);
    cluster.kill(0);
    for limit in [30, 48, 100] {
        let (code, said) = start_in_vain_with_open_files(limit, &cluster.line(0));
        assert_eq!(code, Some(2), "{limit}: {said}");
        assert!(said.contains("open files") || said.contains("Too many open files"), "{limit}: {said}");
        if limit > 30 {
            assert!(said.contains("ulimit -n "), "{limit}: {said}");
        }
    }
    // The figure that it names is enough.
    let (_, said) = start_in_vain_with_open_files(48, &cluster.line(0));
    let figure = said.split("ulimit -n ").nth(1).and_then(|rest| rest.split(',').next()).expect("a figure");
    let least: u32 = figure.parse().expect("a number");
    drop(cluster);
    let cluster = Cluster::start_with_open_files(least, &[]);
    assert_eq!(cluster.cli(0, &["set", "k", "v"]), "OK");
    assert_eq!(cluster.cli(1, &["get", "k"]), "v");
}
