//! Replies of the kv example to clients that do not read: bounded by one figure for the process, and nobody else waits for them.

#![cfg(all(target_os = "linux", feature = "persistence", feature = "tcp"))]

#[allow(dead_code, reason = "each test uses its part")]
mod kv_support;
#[allow(dead_code, unused_imports, reason = "a program of its own, of which this test runs the server")]
#[path = "../examples/kv/server/mod.rs"]
mod server;

use kv_support::{Cluster, await_some, exchange};
use std::io::{Read, Write};
use std::net::TcpStream;

/// Not a test: the nodes of the tests are this program running only this.
#[test]
fn node_process() {
    kv_support::node_process();
}

const MIB: usize = 1 << 20;
/// What the replies may hold in these tests, in MiB.
const REPLIES_MIB: usize = 64;
/// What a node needs beside: threads, allocators that keep what was freed, its log's caches.
const SLACK_MIB: usize = 96;

/// The most that the node ever held, in MiB.
fn peak_mib(cluster: &Cluster, node: usize) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", cluster.process_id(node))).expect("Linux has it");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") / 1024
}

fn start(extra: &[&str]) -> Cluster {
    let figures = ["--reply-memory-mib", "64", "--connections-max", "100"];
    Cluster::start(&[&figures[..], extra].concat())
}

/// Sets `key` to a value of one MiB on each of `count` keys.
fn fill(cluster: &Cluster, count: usize) {
    let mut stream = cluster.connect(cluster.leader());
    for number in 0..count {
        let key = format!("k{number}");
        let head = format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${MIB}\r\n", key.len());
        let set = [head.as_bytes(), &vec![b'a' + number as u8; MIB], b"\r\n"].concat();
        assert_eq!(exchange(&mut stream, &set, b"\r\n"), b"+OK\r\n");
    }
}

/// Clients that send this and never read.
fn ask_and_leave(cluster: &Cluster, node: usize, count: usize, request: &[u8]) -> Vec<TcpStream> {
    let ask = |_| {
        let mut stream = cluster.connect(node);
        stream.write_all(request).expect("sent");
        stream
    };
    (0..count).map(ask).collect()
}

/// Reads one bulk string, of which every byte is to be this one.
fn read_value(stream: &mut TcpStream, byte: u8) {
    let head = format!("${MIB}\r\n");
    let mut reply = vec![0; head.len() + MIB + 2];
    stream.read_exact(&mut reply).expect("a reply");
    assert!(reply.starts_with(head.as_bytes()), "{}", String::from_utf8_lossy(&reply[..40]));
    assert!(reply[head.len()..head.len() + MIB].iter().all(|found| *found == byte));
}

/// Waits until the node has worked on what its silent clients asked for and does so no more.
fn settle(cluster: &Cluster, node: usize) {
    let held = || cluster.raft_status(node, "reply_bytes").parse::<usize>().ok();
    assert!(await_some(|| (held()? > MIB).then_some(())).is_some(), "replies are waiting: {:?}", held());
}

/// Thirty clients of a follower asked for a thousand values of 1 MiB each and did not read: the node held 1.9 GiB of replies
/// after five seconds.
#[test]
fn replies_that_nobody_reads_share_a_bounded_memory() {
    let cluster = start(&[]);
    fill(&cluster, 1);
    for node in [cluster.follower(), cluster.leader()] {
        let before = peak_mib(&cluster, node);
        let silent = ask_and_leave(&cluster, node, 30, &b"GET k0\r\n".repeat(1000));
        settle(&cluster, node);
        // Others go on, with large replies too.
        let mut reader = cluster.connect(node);
        for _ in 0..20 {
            reader.write_all(b"GET k0\r\nGET k0\r\n").expect("sent");
            read_value(&mut reader, b'a');
            read_value(&mut reader, b'a');
            assert_eq!(cluster.cli(node, &["set", "small", "v"]), "OK");
            assert_eq!(cluster.cli(node, &["get", "small"]), "v");
        }
        let after = peak_mib(&cluster, node);
        assert!(after < before + REPLIES_MIB + SLACK_MIB, "node {}: {before} MiB before, {after} after", node + 1);
        drop(silent);
        let free = await_some(|| (cluster.raft_status(node, "reply_bytes") == "0").then_some(()));
        assert!(free.is_some(), "what they held is free again: {}", cluster.raft_status(node, "reply_bytes"));
    }
}

/// The same with replies that are large each, of every kind of command, and of replicas as they are.
#[test]
fn large_single_replies_share_it_too() {
    let cluster = start(&[]);
    fill(&cluster, 26);
    let keys: String = (0..26).map(|number| format!(" k{number}")).collect();
    let session = exchange(&mut cluster.connect(cluster.leader()), b"RAFT.SESSION OPEN\r\n", b"\r\n");
    let session = String::from_utf8_lossy(&session).trim_end().trim_start_matches(':').to_owned();
    let calls: String =
        (1..=40).map(|number| format!("RAFT.CALL {session} {number} {number} MGET{keys}\r\n")).collect();
    let requests = [
        format!("MGET{keys}\r\n").repeat(40),
        format!("READONLY\r\n{}", format!("MGET{keys}\r\nGET k1\r\n").repeat(40)),
        "SET k1 v XX GET\r\nGET k2\r\n".repeat(100),
        calls,
    ];
    for node in [cluster.follower(), cluster.leader()] {
        for request in &requests {
            let before = peak_mib(&cluster, node);
            let silent = ask_and_leave(&cluster, node, 20, request.as_bytes());
            settle(&cluster, node);
            let mut reader = cluster.connect(node);
            for _ in 0..3 {
                reader.write_all(b"GET k0\r\n").expect("sent");
                read_value(&mut reader, b'a');
                assert_eq!(cluster.cli(node, &["set", "small", "v"]), "OK");
            }
            let after = peak_mib(&cluster, node);
            let asked: String = request.chars().take(20).collect();
            assert!(after < before + REPLIES_MIB + SLACK_MIB, "node {}: {before} MiB, {after} after {asked}", node + 1);
            drop(silent);
            let free = await_some(|| (cluster.raft_status(node, "reply_bytes") == "0").then_some(()));
            assert!(free.is_some(), "what they held is free again: {}", cluster.raft_status(node, "reply_bytes"));
        }
    }
}

/// Clients that read nothing hold all the room. Who asks for a large reply then waits a moment, until they are cut off.
#[test]
fn a_client_that_reads_gets_the_room_of_those_that_do_not() {
    let cluster = start(&[]);
    fill(&cluster, 26);
    let keys: String = (0..26).map(|number| format!(" k{number}")).collect();
    for node in [cluster.follower(), cluster.leader()] {
        let mut silent = ask_and_leave(&cluster, node, 30, format!("MGET{keys}\r\n").repeat(10).as_bytes());
        settle(&cluster, node);
        let mut reader = cluster.connect(node);
        reader.write_all(format!("MGET{keys}\r\n").as_bytes()).expect("sent");
        let mut head = [0; 5];
        reader.read_exact(&mut head).expect("a reply");
        if &head == b"*26\r\n" {
            (0..26).for_each(|number| read_value(&mut reader, b'a' + number));
        } else {
            // So many wait before it that its turn did not come in time.
            assert_eq!(&head, b"-BUSY");
        }
        // At least one of them was cut off, for the others to go on.
        let cut_off = await_some(|| silent.iter_mut().find_map(|stream| ended(stream).then_some(())));
        assert!(cut_off.is_some());
    }
}

/// Whether the node has ended the connection, as far as this side can tell without reading what was sent.
fn ended(stream: &mut TcpStream) -> bool {
    stream.write_all(b"PING\r\n").is_err()
}
