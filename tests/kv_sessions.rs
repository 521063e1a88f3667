//! Sessions of the kv example: what is sent again runs once, over failovers, restarts and snapshots.

#![cfg(all(unix, feature = "persistence", feature = "tcp"))]

#[allow(dead_code, reason = "each test uses its part")]
mod kv_support;
#[allow(dead_code, unused_imports, reason = "a program of its own, of which this test runs the server")]
#[path = "../examples/kv/server/mod.rs"]
mod server;

use bytes::Bytes;
use kv_support::{Cluster, await_some, text};
use proptest::prelude::*;
use raft_io::EntryId;
use raft_io::driver::StateMachine;
use raft_io::session::{SessionClient, SessionId, SessionResponse};
use server::store::{Operation, Reply, Store, encode};

/// Not a test: the nodes of the tests are this program running only this.
#[test]
fn node_process() {
    kv_support::node_process();
}

/// Sends a line until it has an answer that is one: what a session is for.
fn insist(cluster: &Cluster, node: usize, line: &str) -> String {
    let reply = await_some(|| {
        let reply = text(&mut cluster.connect(node), &format!("{line}\r\n"));
        let has_no_answer = reply.starts_with("-UNKNOWN") || reply.starts_with("-CLUSTERDOWN");
        (!has_no_answer).then_some(reply)
    });
    reply.unwrap_or_else(|| panic!("no answer to {line}\n{}", cluster.logs()))
}

fn open(cluster: &Cluster, node: usize) -> u64 {
    let reply = insist(cluster, node, "RAFT.SESSION OPEN");
    let id = reply.trim_end().strip_prefix(':').and_then(|id| id.parse().ok());
    id.unwrap_or_else(|| panic!("{reply}"))
}

#[test]
fn a_repeated_increment_runs_once_whoever_leads() {
    let mut cluster = Cluster::start(&[]);
    let session = open(&cluster, cluster.follower());
    let (first, second) = (format!("RAFT.CALL {session} 1 1 INCR n"), format!("RAFT.CALL {session} 2 1 INCR n"));
    assert_eq!(insist(&cluster, cluster.follower(), &first), ":1\r\n");
    assert_eq!(insist(&cluster, cluster.leader(), &first), ":1\r\n");
    let leader = cluster.leader();
    cluster.kill(leader);
    let node = (leader + 1) % 3;
    // The second one is under way while nobody leads.
    assert_eq!(insist(&cluster, node, &second), ":2\r\n");
    assert_eq!(insist(&cluster, node, &first), ":1\r\n");
    cluster.restart(leader);
    cluster.leader();
    assert_eq!(insist(&cluster, leader, &second), ":2\r\n");
    assert_eq!(insist(&cluster, leader, &format!("RAFT.CALL {session} 3 3 GET n")), "$1\r\n2\r\n");
    let acknowledged = insist(&cluster, leader, &first);
    assert!(acknowledged.starts_with("-FORGOTTEN "), "{acknowledged}");
    assert_eq!(cluster.cli(node, &["get", "n"]), "2");
}

#[test]
fn a_repeated_increment_runs_once_over_restarts_and_snapshots() {
    let mut cluster = Cluster::start(&["--snapshot-trail", "0"]);
    let session = open(&cluster, 0);
    let first = format!("RAFT.CALL {session} 1 1 INCR n");
    assert_eq!(insist(&cluster, 0, &first), ":1\r\n");
    (0..3).for_each(|node| cluster.kill(node));
    (0..3).for_each(|node| cluster.restart(node));
    cluster.leader();
    assert_eq!(insist(&cluster, 1, &first), ":1\r\n", "from the log");

    for node in 0..3 {
        let taken = await_some(|| cluster.cli(node, &["raft.snapshot"]).starts_with("OK").then_some(()));
        assert!(taken.is_some(), "{}", cluster.logs());
        assert_eq!(cluster.raft_status(node, "sessions"), "1");
    }
    (0..3).for_each(|node| cluster.kill(node));
    (0..3).for_each(|node| cluster.restart(node));
    cluster.leader();
    assert_eq!(insist(&cluster, 2, &first), ":1\r\n", "from the snapshot");
    assert_eq!(cluster.cli(0, &["get", "n"]), "1");
}

#[test]
fn a_node_that_fetched_its_state_knows_the_sessions_when_it_leads() {
    let mut cluster = Cluster::start(&["--snapshot-commands", "50", "--snapshot-trail", "0"]);
    let away = cluster.follower();
    cluster.kill(away);
    let leader = cluster.leader();
    let session = open(&cluster, leader);
    let first = format!("RAFT.CALL {session} 1 1 INCR n");
    assert_eq!(insist(&cluster, leader, &first), ":1\r\n");
    let sets: String = (0..300).map(|key| format!("SET key:{key} v\r\n")).collect();
    assert_eq!(text(&mut cluster.connect(leader), &sets), "+OK\r\n".repeat(300));
    cluster.restart(away);
    let applied = |node| cluster.raft_status(node, "applied_index");
    let caught_up = await_some(|| (applied(away) == applied(leader)).then_some(()));
    assert!(caught_up.is_some() && cluster.raft_status(away, "snapshots_fetched") != "0", "{}", cluster.logs());
    let transferred = await_some(|| {
        let target = (away + 1).to_string();
        (cluster.cli(cluster.leader(), &["raft.transfer", &target]) == "OK").then_some(())
    });
    assert!(transferred.is_some() && cluster.leader() == away, "{}", cluster.logs());
    assert_eq!(insist(&cluster, away, &first), ":1\r\n");
}

#[test]
fn a_session_that_ended_says_so_and_runs_nothing() {
    let cluster = Cluster::start(&[]);
    let closed = open(&cluster, 0);
    assert_eq!(insist(&cluster, 0, &format!("RAFT.CALL {closed} 1 1 INCR n")), ":1\r\n");
    assert_eq!(insist(&cluster, 1, &format!("RAFT.SESSION CLOSE {closed}")), "+OK\r\n");
    let evicted = open(&cluster, 0);
    assert_eq!(insist(&cluster, 0, &format!("RAFT.CALL {evicted} 1 1 INCR n")), ":2\r\n");
    let kept = open(&cluster, 0);
    for half in [1000, 24] {
        let opened = text(&mut cluster.connect(2), &"RAFT.SESSION OPEN\r\n".repeat(half));
        assert_eq!(opened.matches(':').count(), half, "{opened}");
        if half == 1000 {
            assert_eq!(insist(&cluster, 2, &format!("RAFT.SESSION KEEPALIVE {kept} 1")), "+OK\r\n");
        }
    }
    assert_eq!(cluster.raft_status(cluster.leader(), "sessions"), "1024");
    for line in [
        format!("RAFT.CALL {closed} 1 1 INCR n"),
        format!("RAFT.CALL {evicted} 1 1 INCR n"),
        format!("RAFT.CALL {evicted} 2 1 INCR n"),
        "RAFT.CALL 1000000 1 1 INCR n".to_owned(),
        format!("RAFT.SESSION KEEPALIVE {evicted} 1"),
        format!("RAFT.SESSION CLOSE {closed}"),
    ] {
        let reply = insist(&cluster, 0, &line);
        assert!(reply.starts_with("-SESSIONEXPIRED "), "{line}: {reply}");
    }
    assert_eq!(cluster.cli(0, &["get", "n"]), "2");
    assert_eq!(insist(&cluster, 0, &format!("RAFT.CALL {kept} 1 1 INCR n")), ":3\r\n");
    let early = insist(&cluster, 0, &format!("RAFT.CALL {kept} 300 1 INCR n"));
    assert!(early.starts_with("-BUSY "), "{early}");
    // What is no command of a session is refused before it is proposed.
    for (line, says) in [
        (format!("RAFT.CALL {kept} 2 3 INCR n"), "-ERR numbers begin at 1"),
        (format!("RAFT.CALL {kept} 0 0 INCR n"), "-ERR numbers begin at 1"),
        (format!("RAFT.CALL {kept} two 1 INCR n"), "-ERR a session, a sequence"),
        (format!("RAFT.CALL {kept} 2 1 PING"), "-ERR RAFT.CALL takes a command on keys"),
        (format!("RAFT.CALL {kept} 2 1 RAFT.CALL {kept} 3 1 INCR n"), "-ERR RAFT.CALL takes a command on keys"),
        (format!("RAFT.CALL {kept} 2 1 INCR"), "-ERR wrong number of arguments for 'incr'"),
        ("RAFT.SESSION RENEW".to_owned(), "-ERR use RAFT.SESSION OPEN"),
        ("RAFT.SESSION CLOSE".to_owned(), "-ERR use RAFT.SESSION OPEN"),
    ] {
        let reply = text(&mut cluster.connect(0), &format!("{line}\r\n"));
        assert!(reply.starts_with(says), "{line}: {reply}");
    }
    assert_eq!(cluster.cli(0, &["get", "n"]), "3");
}

fn under_session(envelope: &Bytes) -> Bytes {
    [&[Operation::Session as u8, 0][..], envelope].concat().into()
}

#[test]
fn a_snapshot_from_before_there_were_sessions_is_restored_without_any() {
    let mut store = Store::default();
    let mut set = Vec::new();
    encode(&mut set, Operation::Set, 0, [&b"k"[..], b"v"].into_iter());
    store.apply(EntryId::new(1, 1), &set.clone().into());
    let mut bytes = Vec::new();
    store.snapshot().unwrap().write_to(&mut bytes).unwrap();
    // The version before ended where the sessions begin: an empty table of 52 bytes.
    bytes.truncate(bytes.len() - 52);
    bytes[..8].copy_from_slice(b"raft-kv1");
    let before = store.fingerprint();
    assert_eq!(store.apply(EntryId::new(2, 1), &under_session(&SessionClient::open())), Reply::Integer(2));
    assert_eq!(store.fingerprint().sessions, 1);
    store.restore(&mut &bytes[..]).unwrap();
    assert_eq!(store.fingerprint(), before);
    // A session's command is no command that another session could carry.
    assert_eq!(store.apply(EntryId::new(3, 1), &under_session(&SessionClient::open())), Reply::Integer(3));
    let nested = SessionClient::new(SessionId(3), 1).request(under_session(&SessionClient::open())).unwrap();
    let reply = store.apply(EntryId::new(4, 1), &under_session(&nested.envelope));
    assert_eq!(reply, Reply::Error("ERR malformed command in the log".into()));
}

fn replies() -> impl Strategy<Value = Reply> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..20);
    let flat = prop_oneof![
        Just(Reply::Ok),
        Just(Reply::Nil),
        any::<i64>().prop_map(Reply::Integer),
        bytes().prop_map(|bytes| Reply::Bulk(bytes.into())),
        "[a-zA-Z ]{0,20}".prop_map(|text| Reply::Error(text.into())),
    ];
    prop_oneof![flat.clone(), proptest::collection::vec(flat, 0..5).prop_map(Reply::Array)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_reply_comes_back_from_its_session(reply in replies()) {
        let mut bytes = Vec::new();
        reply.encode(&mut bytes);
        prop_assert_eq!(reply.encoded_len(), bytes.len());
        prop_assert_eq!(Reply::decode(bytes.into()), Some(reply));
    }

    #[test]
    fn any_bytes_are_a_reply_or_none(bytes in proptest::collection::vec(prop_oneof![Just(b'*'), Just(b'$'), Just(0u8), any::<u8>()], 0..40)) {
        if let Some(reply) = Reply::decode(bytes.clone().into()) {
            let mut again = Vec::new();
            reply.encode(&mut again);
            prop_assert_eq!(again, bytes);
        }
    }
}
