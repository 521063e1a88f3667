//! Stopping nodes of the kv example: a graceful stop costs no client a request that can be asked again.

#![cfg(all(unix, feature = "persistence", feature = "tcp"))]

#[allow(dead_code, reason = "each test uses its part")]
mod kv_support;
#[allow(dead_code, unused_imports, reason = "a program of its own, of which this test runs the server")]
#[path = "../examples/kv/server/mod.rs"]
mod server;

use kv_support::{Cluster, await_some, exchange};
use server::resp;
use server::store::{Operation, encode};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// Not a test: the nodes of the tests are this program running only this.
#[test]
fn node_process() {
    kv_support::node_process();
}

/// What the clients of a test share.
#[derive(Default)]
struct Clients {
    stop: AtomicBool,
    /// How many increments were acknowledged to each client.
    acknowledged: Vec<AtomicU64>,
    /// Replies that no client should get.
    refused: Mutex<Vec<String>>,
    /// Batches whose connection ended before their replies were complete.
    cut_off: AtomicU64,
    /// Clients that a node which stops sent elsewhere.
    sent_on: AtomicU64,
}

/// What a node that stops answers to the requests that it takes no more.
const STOPS: &str = "-CLUSTERDOWN this node stops; nothing ran";

impl Clients {
    const BATCH: usize = 8;

    fn new(count: usize) -> Self {
        Self { acknowledged: (0..count).map(|_| AtomicU64::new(0)).collect(), ..Self::default() }
    }

    /// Increments a counter of its own and reads it, batch by batch, until told to stop. When its node says that it stops, or
    /// ends the connection, the client goes to the next of these ports; an end is counted if a batch was under way.
    fn run(&self, ports: &[u16], number: usize) {
        let mut ports = ports.iter().cycle().copied();
        let mut port = ports.next().expect("there is a node");
        let request = [format!("INCR n{number}\r\n").repeat(Self::BATCH), format!("GET n{number}\r\n")].concat();
        let mut open: Option<TcpStream> = None;
        while !self.stop.load(Ordering::SeqCst) {
            let Some(stream) = &mut open else {
                open = TcpStream::connect(("127.0.0.1", port)).ok();
                if let Some(stream) = &open {
                    stream.set_read_timeout(Some(kv_support::PATIENCE)).expect("a timeout can be set");
                } else {
                    thread::yield_now();
                }
                continue;
            };
            // As clients do before they use a connection that was idle.
            if is_ended(stream) {
                (open, port) = (None, ports.next().expect("they never end"));
                continue;
            }
            match self.batch(stream, &request, number) {
                Ok(true) => {}
                Ok(false) => {
                    self.sent_on.fetch_add(1, Ordering::SeqCst);
                    (open, port) = (None, ports.next().expect("they never end"));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("no reply in time"),
                Err(_) => {
                    self.cut_off.fetch_add(1, Ordering::SeqCst);
                    (open, port) = (None, ports.next().expect("they never end"));
                }
            }
        }
    }

    /// Whether the node goes on serving after it.
    fn batch(&self, stream: &mut TcpStream, request: &str, number: usize) -> std::io::Result<bool> {
        stream.write_all(request.as_bytes())?;
        let (mut reply, mut chunk) = (Vec::new(), [0; 4096]);
        let lines = |reply: &[u8]| reply.iter().filter(|byte| **byte == b'\n').count();
        // The last reply is a bulk string of two lines, or an error of one.
        while lines(&reply) <= Self::BATCH || (lines(&reply) == Self::BATCH + 1 && is_bulk(&reply)) {
            match stream.read(&mut chunk)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                count => reply.extend_from_slice(&chunk[..count]),
            }
        }
        let mut serves = true;
        for line in String::from_utf8_lossy(&reply).lines() {
            if line == STOPS {
                serves = false;
            } else if line.starts_with(':') {
                self.acknowledged[number].fetch_add(1, Ordering::SeqCst);
            } else if line.starts_with('-') {
                self.refused.lock().expect("no client panicked").push(format!("client {number}: {line}"));
            }
        }
        Ok(serves)
    }

    /// Waits until every client was acknowledged `more` increments beyond those that it has.
    fn progress(&self, more: u64) {
        let least: Vec<u64> = self.acknowledged.iter().map(|count| count.load(Ordering::SeqCst) + more).collect();
        let reached =
            || self.acknowledged.iter().zip(&least).all(|(count, least)| count.load(Ordering::SeqCst) >= *least);
        if await_some(|| reached().then_some(())).is_none() {
            // The others would go on for ever.
            self.stop.store(true, Ordering::SeqCst);
            panic!("clients wait: {:?} of {least:?}", self.acknowledged);
        }
    }

    /// Every acknowledged increment is there, and none ran twice: a client's count is at most what it was told plus the
    /// batches that it was cut off from.
    fn check_counts(&self, cluster: &Cluster, node: usize) {
        let most_unknown = self.cut_off.load(Ordering::SeqCst) * Self::BATCH as u64;
        for (number, acknowledged) in self.acknowledged.iter().enumerate() {
            let acknowledged = acknowledged.load(Ordering::SeqCst);
            let counted: u64 = cluster.cli(node, &["get", &format!("n{number}")]).parse().expect("a number");
            assert!(
                (acknowledged..=acknowledged + most_unknown).contains(&counted),
                "client {number}: {counted} counted, {acknowledged} acknowledged, {most_unknown} unknown at most"
            );
        }
    }

    fn check_refused(&self, cluster: &Cluster) {
        let refused = self.refused.lock().expect("no client panicked");
        assert!(
            refused.is_empty(),
            "{} refused: {:#?}\n{}",
            refused.len(),
            &refused[..refused.len().min(8)],
            cluster.logs()
        );
    }
}

/// Whether the node has ended the connection, as far as is known without asking.
fn is_ended(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("it can be set");
    let ended = !matches!(stream.peek(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock);
    stream.set_nonblocking(false).expect("it can be set");
    ended
}

fn is_bulk(reply: &[u8]) -> bool {
    let last = reply.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty());
    last.is_some_and(|line| line.starts_with(b"$") && line != b"$-1\r")
}

/// A leader that drained answered forwarded batches "the node is shut down; nothing was appended", and its followers passed
/// that on to their clients, by the hundred, instead of asking the next leader.
#[test]
fn a_leader_that_is_told_to_stop_costs_no_client_of_a_follower_a_request() {
    for reads in [&[][..], &["--follower-reads"], &["--lease-ticks", "8"]] {
        stop_the_leader_under_load(reads);
    }
}

fn stop_the_leader_under_load(extra: &[&str]) {
    let mut cluster = Cluster::start(extra);
    for _ in 0..2 {
        let leader = cluster.leader();
        let followers: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
        let clients = Clients::new(12);
        thread::scope(|scope| {
            for number in 0..clients.acknowledged.len() {
                let (clients, port) = (&clients, cluster.port(followers[number % 2]));
                scope.spawn(move || clients.run(&[port], number));
            }
            clients.progress(200);
            assert_eq!(cluster.terminate(leader), Some(0), "{}", cluster.logs());
            clients.progress(200);
            clients.stop.store(true, Ordering::SeqCst);
        });
        clients.check_refused(&cluster);
        assert_eq!(clients.cut_off.load(Ordering::SeqCst), 0);
        clients.check_counts(&cluster, followers[0]);
        assert_eq!(cluster.cli(followers[0], &["flushall"]), "OK");
        cluster.restart(leader);
    }
}

/// One node after the other is stopped and started, the leader among them. Each answers the requests that it has before it
/// closes its clients' connections. The request that crossed that was never answered, so that its client did not know whether
/// it ran: now it is told that it did not, and nobody is refused anything else.
#[test]
fn a_rolling_restart_refuses_nobody_anything() {
    let mut cluster = Cluster::start(&[]);
    let clients = Clients::new(9);
    thread::scope(|scope| {
        for number in 0..clients.acknowledged.len() {
            let (clients, ports) = (&clients, [0, 1, 2].map(|step| cluster.port((number + step) % 3)));
            scope.spawn(move || clients.run(&ports, number));
        }
        for node in 0..3 {
            clients.progress(100);
            assert_eq!(cluster.terminate(node), Some(0), "{}", cluster.logs());
            cluster.restart(node);
            cluster.leader();
        }
        clients.progress(100);
        clients.stop.store(true, Ordering::SeqCst);
    });
    clients.check_refused(&cluster);
    assert_eq!(clients.cut_off.load(Ordering::SeqCst), 0, "requests without an answer\n{}", cluster.logs());
    assert!(clients.sent_on.load(Ordering::SeqCst) > 0, "no request ever crossed");
    clients.check_counts(&cluster, cluster.leader());
}

/// A client that asks for one thing after the other, and thinks for a moment in between, found the connection ended and its
/// request without an answer: it could not know whether that ran.
#[test]
fn the_last_answer_of_a_node_that_stops_sends_its_client_elsewhere() {
    let mut cluster = Cluster::start(&[]);
    let leader = cluster.leader();
    for node in [(leader + 1) % 3, leader] {
        let mut idle = cluster.connect(node);
        assert_eq!(exchange(&mut idle, b"PING\r\n", b"\r\n"), b"+PONG\r\n");
        let acknowledged = AtomicU64::new(0);
        let ask_until_told = |mut stream: TcpStream, pause: Duration| {
            let last = loop {
                match exchange(&mut stream, b"INCR n\r\n", b"\r\n") {
                    reply if reply.starts_with(b":") => acknowledged.fetch_add(1, Ordering::SeqCst),
                    reply => break String::from_utf8(reply).expect("text"),
                };
                thread::sleep(pause);
            };
            assert_eq!(last, format!("{STOPS}\r\n"));
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).expect("it ends in an orderly way");
            assert_eq!(rest, b"", "one answer to each request");
        };
        thread::scope(|scope| {
            for pause in 0..4 {
                let (stream, ask) = (cluster.connect(node), &ask_until_told);
                scope.spawn(move || ask(stream, Duration::from_millis(2 * pause)));
            }
            assert!(await_some(|| (acknowledged.load(Ordering::SeqCst) > 20).then_some(())).is_some());
            cluster.signal(node, "-TERM");
        });
        let mut rest = Vec::new();
        idle.read_to_end(&mut rest).expect("it ends in an orderly way");
        assert_eq!(rest, b"", "whoever asked for nothing is told nothing");
        assert_eq!(cluster.await_end(node), Some(0));
        cluster.restart(node);
        let now = cluster.leader();
        assert_eq!(cluster.cli(now, &["get", "n"]), acknowledged.into_inner().to_string());
        assert_eq!(cluster.cli(now, &["del", "n"]), "1");
    }
}

/// A node that forwards a batch may send it while the other side ends the connection. The last word on the lane is the answer
/// to such a batch: it did not run, so it is asked again elsewhere instead of "may or may not have run".
#[test]
fn the_last_word_on_a_lane_answers_the_batch_that_crosses_it() {
    let mut cluster = Cluster::start(&[]);
    let leader = cluster.leader();
    let mut lane = cluster.connect(leader);
    let mut command = Vec::new();
    encode(&mut command, Operation::Add, 0, [&b"n"[..], &1i64.to_be_bytes()].into_iter());
    let mut request = Vec::new();
    resp::write_request(&mut request, &[&b"RAFT.FORWARD"[..], &command]);
    assert_eq!(exchange(&mut lane, &request, b":1\r\n"), b"*1\r\n:1\r\n");
    cluster.signal(leader, "-TERM");
    let mut last = Vec::new();
    lane.read_to_end(&mut last).expect("it ends in an orderly way");
    assert_eq!(String::from_utf8_lossy(&last), "-NOTLEADER this node stops; nothing ran\r\n");
    assert_eq!(cluster.await_end(leader), Some(0));
    let next = cluster.leader();
    assert_eq!(cluster.cli(next, &["get", "n"]), "1");
}

/// A node without a majority cannot learn of a leader any more once it stops: its clients are told at once.
#[test]
fn a_node_that_stops_alone_tells_its_waiting_clients() {
    let mut cluster = Cluster::start(&["--leader-wait-ms", "600000"]);
    let leader = cluster.leader();
    let (last, other) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.kill(leader);
    cluster.kill(other);
    let alone = await_some(|| (cluster.raft_status(last, "leader") == "none").then_some(()));
    assert!(alone.is_some(), "it notices\n{}", cluster.logs());
    let mut stream = cluster.connect(last);
    assert_eq!(exchange(&mut stream, b"PING\r\n", b"\r\n"), b"+PONG\r\n");
    stream.write_all(b"INCR n\r\n").expect("sent");
    cluster.signal(last, "-TERM");
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).expect("it ends in an orderly way");
    let reply = String::from_utf8_lossy(&reply);
    assert!(reply.starts_with("-CLUSTERDOWN this node "), "{reply}");
    assert_eq!(cluster.await_end(last), Some(0));
}
