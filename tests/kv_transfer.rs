//! `RAFT.TRANSFER` of the kv example: another node leads, and no client notices.

#![cfg(all(unix, feature = "persistence", feature = "tcp"))]

#[allow(dead_code, reason = "each test uses its part")]
mod kv_support;
#[allow(dead_code, unused_imports, reason = "a program of its own, of which this test runs the server")]
#[path = "../examples/kv/server/mod.rs"]
mod server;

use kv_support::{Cluster, text};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

/// Not a test: the nodes of the tests are this program running only this.
#[test]
fn node_process() {
    kv_support::node_process();
}

fn transfer(cluster: &Cluster, node: usize, target: &str) -> String {
    text(&mut cluster.connect(node), &format!("RAFT.TRANSFER {target}\r\n"))
}

fn term(cluster: &Cluster, node: usize) -> u64 {
    cluster.raft_status(node, "term").parse().expect("a number")
}

#[test]
fn leadership_goes_round_without_an_election_timeout_in_between() {
    let cluster = Cluster::start(&[]);
    assert_eq!(cluster.cli(0, &["set", "k", "v"]), "OK");
    for _ in 0..2 {
        for target in 0..3 {
            let leader = cluster.leader();
            let before = term(&cluster, leader);
            let reply = transfer(&cluster, leader, &(target + 1).to_string());
            assert_eq!(reply, "+OK\r\n", "node {} hands over to node {}", leader + 1, target + 1);
            assert_eq!(cluster.raft_status(target, "role"), "leader");
            assert_eq!(term(&cluster, target), before + u64::from(leader != target), "one election, and no other");
        }
    }
    assert_eq!(cluster.cli(0, &["get", "k"]), "v");
}

#[test]
fn what_cannot_be_is_refused_and_says_why() {
    let mut cluster = Cluster::start(&[]);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let address = format!("127.0.0.1:{}", cluster.port(leader));
    let reply = transfer(&cluster, follower, "1");
    assert!(reply.starts_with("-NOTLEADER ") && reply.contains(&address), "{reply}");
    let reply = transfer(&cluster, leader, "9");
    assert!(reply.starts_with("-ERR node 9 is not a voter"), "{reply}");
    let reply = transfer(&cluster, leader, "first");
    assert!(reply.starts_with("-ERR RAFT.TRANSFER takes the id"), "{reply}");
    cluster.kill(follower);
    // Whether the leader has noticed its death or not: in the end it leads on and takes commands.
    let reply = transfer(&cluster, leader, &(follower + 1).to_string());
    assert!(reply.starts_with("-TRYAGAIN "), "{reply}");
    assert_eq!(cluster.cli(leader, &["set", "k", "v"]), "OK");
    assert_eq!(cluster.leader(), leader);
}

/// Writers and readers at all nodes go on while leadership goes round: nothing fails, nothing is lost, nothing runs twice.
#[test]
fn clients_do_not_notice_transfers() {
    let cluster = Cluster::start(&[]);
    let (stop, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for node in 0..3 {
            let (cluster, stop, acknowledged) = (&cluster, &stop, &acknowledged);
            scope.spawn(move || {
                let mut stream = cluster.connect(node);
                while !stop.load(Ordering::SeqCst) {
                    let reply = text(&mut stream, "INCR counter\r\n");
                    assert!(reply.starts_with(':') || reply.starts_with("-UNKNOWN"), "{reply}");
                    if reply.starts_with(':') {
                        acknowledged.fetch_add(1, Ordering::SeqCst);
                    }
                    let reply = text(&mut stream, "GET counter\r\n");
                    assert!(reply.starts_with('$'), "{reply}");
                }
            });
        }
        for round in 0..6 {
            let leader = cluster.leader();
            let target = (leader + 1 + round % 2) % 3;
            assert_eq!(transfer(&cluster, leader, &(target + 1).to_string()), "+OK\r\n");
            let more = acknowledged.load(Ordering::SeqCst) + 20;
            let went_on = kv_support::await_some(|| (acknowledged.load(Ordering::SeqCst) >= more).then_some(()));
            assert!(went_on.is_some(), "writes go on under the next leader");
        }
        stop.store(true, Ordering::SeqCst);
    });
    let counted: u64 = cluster.cli(0, &["get", "counter"]).parse().expect("a number");
    assert!(counted >= acknowledged.load(Ordering::SeqCst), "{counted} of {acknowledged:?}");
}
