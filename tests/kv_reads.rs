//! Reads of the kv example: linearizable without an entry of the log, in the order of their
//! connection, and never of unknown outcome.

#![cfg(all(unix, feature = "persistence", feature = "tcp"))]

#[allow(dead_code, reason = "each test uses its part")]
mod kv_support;
#[allow(dead_code, unused_imports, reason = "a program of its own, of which this test runs the server")]
#[path = "../examples/kv/server/mod.rs"]
mod server;

use kv_support::{Cluster, exchange, text};
use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Not a test: the nodes of the tests are this program running only this.
#[test]
fn node_process() {
    kv_support::node_process();
}

#[test]
fn reads_leave_no_entry_in_the_log() {
    let cluster = Cluster::start(&[]);
    assert_eq!(cluster.cli(0, &["mset", "a", "1", "b", "22"]), "OK");
    let leader = cluster.leader();
    let before = cluster.raft_status(leader, "last_index");
    for node in 0..3 {
        let replies = text(
            &mut cluster.connect(node),
            "GET a\r\nMGET a b c\r\nEXISTS a b c\r\nSTRLEN b\r\nDBSIZE\r\nget nothing\r\n",
        );
        assert_eq!(
            replies,
            "$1\r\n1\r\n*3\r\n$1\r\n1\r\n$2\r\n22\r\n$-1\r\n:2\r\n:2\r\n:2\r\n$-1\r\n",
            "node {}",
            node + 1
        );
    }
    assert_eq!(cluster.raft_status(leader, "last_index"), before);
}

/// A read sees the writes before it on its connection, and none behind it.
#[test]
fn pipelined_reads_and_writes_run_in_their_order() {
    run_in_their_order(&[]);
}

/// Here the writes go to the leader and the reads stay.
#[test]
fn pipelined_reads_on_followers_see_the_writes_before_them() {
    run_in_their_order(&["--follower-reads"]);
}

fn run_in_their_order(options: &[&str]) {
    let cluster = Cluster::start(options);
    let request = "GET k\r\nSET k a\r\nGET k\r\nSTRLEN k\r\nAPPEND k b\r\nAPPEND k c\r\nMGET k k\r\nPING\r\n\
                   DEL k\r\nEXISTS k\r\n";
    let expected = "$-1\r\n+OK\r\n$1\r\na\r\n:1\r\n:2\r\n:3\r\n*2\r\n$3\r\nabc\r\n$3\r\nabc\r\n+PONG\r\n:1\r\n:0\r\n";
    let position = || ["term", "last_index"].map(|field| cluster.raft_status(cluster.leader(), field));
    let number = |text: &str| text.parse::<u64>().expect("a number");
    for node in 0..3 {
        let mut stream = cluster.connect(node);
        let [term, before] = position();
        for round in 0..20 {
            assert_eq!(text(&mut stream, request), expected, "node {}, round {round}", node + 1);
        }
        let [term_after, after] = position();
        // A new leader appends an entry of its own.
        if term_after == term {
            assert_eq!(number(&after) - number(&before), 20 * 4, "only writes are in the log");
        }
    }
}

#[test]
fn a_follower_that_redirects_redirects_reads_too() {
    let cluster = Cluster::start(&["--on-follower", "moved"]);
    let moved = format!("-MOVED 12739 127.0.0.1:{}\r\n", cluster.port(cluster.leader()));
    let request = "GET 123456789\r\nSET 123456789 v\r\nGET 123456789\r\n";
    assert_eq!(text(&mut cluster.connect(cluster.follower()), request), moved.repeat(3));
}

/// Only writes are the leader's business: a client that reads at one node sees what another wrote at the leader.
#[test]
fn with_follower_reads_every_node_answers_what_it_holds_itself() {
    for lease in [&[][..], &["--lease-ticks", "5"]] {
        let cluster = Cluster::start(&[&["--follower-reads", "--on-follower", "moved"], lease].concat());
        let leader = cluster.leader();
        let (mut writer, mut readers) = (cluster.connect(leader), [0, 1, 2].map(|node| cluster.connect(node)));
        for round in 0..50 {
            assert_eq!(text(&mut writer, &format!("SET k {round:02}\r\n")), "+OK\r\n");
            for (node, reader) in readers.iter_mut().enumerate() {
                assert_eq!(text(reader, "GET k\r\n"), format!("$2\r\n{round:02}\r\n"), "node {}", node + 1);
            }
        }
        let moved = format!("-MOVED 12739 127.0.0.1:{}\r\n", cluster.port(leader));
        let request = "GET 123456789\r\nSET 123456789 v\r\n";
        assert_eq!(text(&mut cluster.connect(cluster.follower()), request), format!("$-1\r\n{moved}"));
    }
}

/// The reply to a read that was forwarded to it will not come, and so the read goes to the next.
#[test]
fn reads_on_their_way_to_a_leader_that_hangs_go_to_the_next() {
    let cluster = Cluster::start(&["--result-wait-ms", "600000"]);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    assert_eq!(cluster.cli(follower, &["set", "k", "v"]), "OK");
    cluster.signal(leader, "-STOP");
    // More clients than there are lanes to the leader.
    let mut streams: Vec<TcpStream> = (0..20).map(|_| cluster.connect(follower)).collect();
    streams.iter_mut().for_each(|stream| stream.write_all(b"GET k\r\nPING end\r\n").expect("sent"));
    for stream in &mut streams {
        assert_eq!(exchange(stream, b"", b"$3\r\nend\r\n"), b"$1\r\nv\r\n$3\r\nend\r\n");
    }
    cluster.signal(leader, "-CONT");
}

/// A leader that was stopped and goes on still believes that it leads. It must not answer from what
/// it has.
#[test]
fn a_deposed_leader_answers_nothing_stale() {
    answers_nothing_stale(&[]);
}

/// While it was stopped it missed all the ticks that would have ended its lease.
#[test]
fn a_leader_that_slept_through_its_lease_answers_nothing_stale() {
    answers_nothing_stale(&["--lease-ticks", "9"]);
}

/// On the leader the option changes nothing.
#[test]
fn a_deposed_leader_with_follower_reads_answers_nothing_stale() {
    answers_nothing_stale(&["--follower-reads"]);
}

fn answers_nothing_stale(options: &[&str]) {
    let cluster = Cluster::start(options);
    let (old, other) = (cluster.leader(), cluster.follower());
    assert_eq!(cluster.cli(old, &["set", "k", "old"]), "OK");
    let mut streams: Vec<TcpStream> = (0..8).map(|_| cluster.connect(old)).collect();
    streams.iter_mut().for_each(|stream| drop(text(stream, "")));
    cluster.signal(old, "-STOP");
    // The first may have been on its way to the old leader.
    let set = kv_support::await_some(|| (cluster.cli(other, &["set", "k", "new"]) == "OK").then_some(()));
    assert!(set.is_some(), "another leads");
    streams.iter_mut().for_each(|stream| stream.write_all(b"GET k\r\nPING end\r\n").expect("sent"));
    cluster.signal(old, "-CONT");
    for stream in &mut streams {
        let reply = String::from_utf8(exchange(stream, b"", b"$3\r\nend\r\n")).expect("replies are text");
        assert_eq!(reply, "$3\r\nnew\r\n$3\r\nend\r\n");
    }
}

/// A follower that was stopped for several election timeouts believes, when it goes on, that it heard its leader just now. Its
/// clients' requests waited for it meanwhile. It must answer them by what was written in that time, not by what it holds.
#[test]
fn a_follower_that_was_stopped_answers_nothing_stale() {
    for options in [&["--follower-reads"][..], &["--follower-reads", "--lease-ticks", "9"]] {
        goes_on_beside_a_stopped_follower(options, false);
    }
}

/// And the leader that it knew leads no more: what that one would answer counts for nothing.
#[test]
fn a_follower_that_slept_through_a_change_of_leader_answers_nothing_stale() {
    goes_on_beside_a_stopped_follower(&["--follower-reads"], true);
}

fn goes_on_beside_a_stopped_follower(options: &[&str], leader_changes: bool) {
    let cluster = Cluster::start(options);
    let (leader, stopped) = (cluster.leader(), cluster.follower());
    let others: Vec<usize> = (0..3).filter(|node| *node != stopped).collect();
    assert_eq!(cluster.cli(leader, &["set", "k", "old"]), "OK");
    let mut streams: Vec<TcpStream> = (0..8).map(|_| cluster.connect(stopped)).collect();
    streams.iter_mut().for_each(|stream| assert_eq!(text(stream, "GET k\r\n"), "$3\r\nold\r\n"));
    cluster.signal(stopped, "-STOP");
    // The others go on without it, for longer than any election timeout (20 ticks of 60 ms).
    let (began, mut writes) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(2) || writes < 10 {
        assert_eq!(cluster.cli(leader, &["set", "k", "new"]), "OK", "after {writes} writes beside a stopped follower");
        writes += 1;
    }
    if leader_changes {
        let target = others.iter().find(|node| **node != cluster.leader_among(&others)).expect("the other one") + 1;
        let handed_over = kv_support::await_some(|| {
            let _ = cluster.cli(leader, &["raft.transfer", &target.to_string()]);
            (cluster.leader_among(&others) == target - 1).then_some(())
        });
        assert!(handed_over.is_some(), "node {target} leads");
        assert_eq!(cluster.cli(others[0], &["set", "k", "new"]), "OK");
    }
    streams.iter_mut().for_each(|stream| stream.write_all(b"GET k\r\nPING end\r\n").expect("sent"));
    cluster.signal(stopped, "-CONT");
    for stream in &mut streams {
        let reply = String::from_utf8(exchange(stream, b"", b"$3\r\nend\r\n")).expect("replies are text");
        assert_eq!(reply, "$3\r\nnew\r\n$3\r\nend\r\n");
    }
    // All three have one leader again, and the stopped one takes writes for it and reads them.
    let leader = cluster.leader();
    assert_eq!(text(&mut streams[0], "SET k end\r\nGET k\r\n"), "+OK\r\n$3\r\nend\r\n", "node {}", leader + 1);
}

/// Whoever reads while the leader dies waits for the next one, and no error reaches him.
#[test]
fn readers_do_not_notice_the_death_of_the_leader() {
    read_on_over_the_death_of_the_leader(&[]);
}

/// Their questions are with the leader when it dies, and are put to the next.
#[test]
fn readers_at_a_follower_do_not_notice_the_death_of_the_leader() {
    read_on_over_the_death_of_the_leader(&["--follower-reads"]);
}

fn read_on_over_the_death_of_the_leader(options: &[&str]) {
    let mut cluster = Cluster::start(options);
    assert_eq!(cluster.cli(0, &["set", "k", "v"]), "OK");
    let (victim, survivor) = (cluster.leader(), cluster.follower());
    let mut streams: Vec<TcpStream> = (0..12).map(|_| cluster.connect(survivor)).collect();
    let (stop, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    let read_on = |more: usize| {
        let enough = rounds.load(Ordering::SeqCst) + more;
        assert!(kv_support::await_some(|| (rounds.load(Ordering::SeqCst) >= enough).then_some(())).is_some());
    };
    thread::scope(|scope| {
        for stream in &mut streams {
            let (stop, rounds) = (&stop, &rounds);
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    assert_eq!(text(stream, &"GET k\r\n".repeat(4)), "$1\r\nv\r\n".repeat(4));
                    rounds.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        read_on(200);
        cluster.kill(victim);
        read_on(200);
        stop.store(true, Ordering::SeqCst);
    });
}
