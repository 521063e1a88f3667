//! The kv example, driven by redis-cli and by hand-made bytes, on clusters of real processes.

#![cfg(all(unix, feature = "persistence", feature = "tcp"))]

#[allow(dead_code, reason = "each test uses its part")]
mod kv_support;
#[allow(dead_code, unused_imports, reason = "a program of its own, of which this test runs the server")]
#[path = "../examples/kv/server/mod.rs"]
mod server;

use kv_support::{Cluster, await_some, exchange, redis_tool, start_in_vain};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Not a test: the nodes of the tests are this program running only this.
#[test]
fn node_process() {
    kv_support::node_process();
}

#[test]
fn every_command_on_every_node() {
    let cluster = Cluster::start(&[]);
    for node in 0..3 {
        let cli = |line: &str| cluster.cli(node, &line.split(' ').collect::<Vec<_>>());
        let key = |name: &str| format!("{name}:{node}");
        let said = |line: &str, expected: &str| assert_eq!(cli(line), expected, "{line} on node {}", node + 1);
        said("ping", "PONG");
        said("ping hello", "hello");
        said("echo hello", "hello");
        said("select 0", "OK");
        said("select 1", "ERR DB index is out of range: there is one database, 0");
        said("client setname me", "OK");
        said("command", "");
        said("config get save", "save");
        said("config get appendonly", "appendonly\nyes");
        said("config get nothing", "");
        said(&format!("get {}", key("a")), "");
        said(&format!("set {} 1", key("a")), "OK");
        said(&format!("set {} 2 nx", key("a")), "");
        said(&format!("set {} 2 xx get", key("a")), "1");
        said(&format!("set {} 3 xx nx", key("a")), "ERR syntax error");
        said(&format!("get {}", key("a")), "2");
        said(&format!("setnx {} 3", key("a")), "0");
        said(&format!("incr {}", key("a")), "3");
        said(&format!("decrby {} 5", key("a")), "-2");
        said(&format!("append {} x", key("a")), "3");
        said(&format!("incr {}", key("a")), "ERR value is not an integer or out of range");
        said(&format!("strlen {}", key("a")), "3");
        said(&format!("mset {} 1 {} 2", key("b"), key("c")), "OK");
        said(&format!("mset {} 1 2", key("b")), "ERR wrong number of arguments for 'mset' command");
        said(&format!("mget {} nothing {}", key("b"), key("c")), "1\n\n2");
        said(&format!("exists {} nothing {}", key("b"), key("c")), "2");
        said("dbsize", "3");
        said("nonsense 1 2", "ERR unknown command 'nonsense'");
        said("get", "ERR wrong number of arguments for 'get' command");
        said("cluster keyslot 123456789", "12739");
        said("cluster keyslot {user1000}.following", "3443");
        said(&format!("del {} nothing {}", key("b"), key("c")), "2");
        said("flushall", "OK");
        said("dbsize", "0");
    }
}

#[test]
fn a_node_says_who_leads_and_how_far_it_is() {
    let cluster = Cluster::start(&[]);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    assert_eq!(cluster.cli(follower, &["set", "k", "v"]), "OK");
    let info = cluster.cli(leader, &["info", "replication"]);
    assert!(info.contains("role:master\r") && info.contains("connected_slaves:2\r"), "{info}");
    assert!(info.contains("raft_role:leader\r") && info.contains("raft_term:"), "{info}");
    let info = cluster.cli(follower, &["info", "replication"]);
    assert!(info.contains("role:slave\r") && info.contains("raft_role:follower\r"), "{info}");
    assert!(info.contains(&format!("master_port:{}\r", cluster.port(leader))), "{info}");
    assert!(info.contains(&format!("raft_leader:{}\r", leader + 1)), "{info}");
    assert_eq!(cluster.raft_status(follower, "role"), "follower");
    assert_eq!(cluster.raft_status(follower, "leader"), (leader + 1).to_string());
    let slots = cluster.cli(follower, &["cluster", "slots"]);
    let expected = format!("0\n16383\n127.0.0.1\n{}\n", cluster.port(leader));
    assert!(slots.starts_with(&expected), "{slots}");
    let nodes = cluster.cli(follower, &["cluster", "nodes"]);
    assert!(nodes.lines().any(|line| line.contains("master") && line.ends_with("0-16383")), "{nodes}");
    assert!(cluster.cli(follower, &["cluster", "info"]).contains("cluster_state:ok"));
    // The same position, the same hash; a write moves both.
    let fingerprint = |node| (cluster.raft_status(node, "hash_index"), cluster.raft_status(node, "state_hash"));
    let before = fingerprint(leader);
    let equal = await_some(|| (fingerprint(0) == fingerprint(1) && fingerprint(1) == fingerprint(2)).then_some(()));
    assert!(equal.is_some(), "the replicas hash alike");
    assert_eq!(cluster.cli(follower, &["set", "k", "w"]), "OK");
    let after = fingerprint(leader);
    assert!(after.0 != before.0 && after.1 != before.1, "{before:?} {after:?}");
}

#[test]
fn pipelined_commands_are_answered_in_order_on_any_node() {
    let cluster = Cluster::start(&[]);
    for node in 0..3 {
        let mut request = format!("DEL n{node}\r\n");
        let mut expected = String::from(":0\r\n");
        for number in 1..=3000 {
            // Local, replicated and refused ones take turns.
            request += &format!("*2\r\n$4\r\nINCR\r\n$2\r\nn{node}\r\nPING {number}\r\nGET n{node}\r\nGET\r\n");
            let length = number.to_string().len();
            expected += &format!(":{number}\r\n${length}\r\n{number}\r\n${length}\r\n{number}\r\n");
            expected += "-ERR wrong number of arguments for 'get' command\r\n";
        }
        request += "PING the-end\r\n";
        expected += "$7\r\nthe-end\r\n";
        let mut stream = cluster.connect(node);
        let mut writer = stream.try_clone().expect("a second handle");
        let sending = std::thread::spawn(move || writer.write_all(request.as_bytes()).expect("sent"));
        let reply = exchange(&mut stream, b"", b"the-end\r\n");
        sending.join().expect("the sender ends");
        assert_eq!(String::from_utf8_lossy(&reply), expected);
    }
}

#[test]
fn a_follower_redirects_if_told_to_and_redis_cli_follows() {
    let cluster = Cluster::start(&["--on-follower", "moved"]);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let moved = format!("MOVED 12739 127.0.0.1:{}", cluster.port(leader));
    assert_eq!(cluster.cli(follower, &["set", "123456789", "v"]), moved);
    assert_eq!(cluster.cli(follower, &["-c", "set", "123456789", "v"]), "OK");
    assert_eq!(cluster.cli(leader, &["get", "123456789"]), "v");
}

#[test]
fn without_a_quorum_there_are_stale_reads_and_nothing_else() {
    let mut cluster = Cluster::start(&["--leader-wait-ms", "500", "--result-wait-ms", "500"]);
    assert_eq!(cluster.cli(0, &["set", "k", "v"]), "OK");
    let survivor = cluster.follower();
    let caught_up = await_some(|| {
        let held = exchange(&mut cluster.connect(survivor), b"READONLY\r\nGET k\r\nQUIT\r\n", b"");
        (held == b"+OK\r\n$1\r\nv\r\n+OK\r\n").then_some(())
    });
    assert!(caught_up.is_some(), "the follower has the write");
    (0..3).filter(|node| *node != survivor).collect::<Vec<_>>().into_iter().for_each(|node| cluster.kill(node));
    for line in [["get", "k"], ["incr", "n"]] {
        let said = cluster.cli(survivor, &line);
        assert!(said.starts_with("CLUSTERDOWN "), "{line:?}: {said}");
    }
    let reply = exchange(&mut cluster.connect(survivor), b"READONLY\r\nGET k\r\nREADWRITE\r\nGET k\r\nQUIT\r\n", b"");
    let reply = String::from_utf8_lossy(&reply).into_owned();
    assert!(reply.starts_with("+OK\r\n$1\r\nv\r\n+OK\r\n-CLUSTERDOWN "), "{reply}");
    assert!(cluster.cli(survivor, &["cluster", "info"]).contains("cluster_state:fail"));
}

#[test]
fn the_leader_dies_and_what_was_acknowledged_stays() {
    let mut cluster = Cluster::start(&[]);
    for number in 0..20 {
        assert_eq!(cluster.cli(number % 3, &["set", &format!("k{number}"), &number.to_string()]), "OK");
    }
    let victim = cluster.leader();
    cluster.kill(victim);
    // Asked at once: the survivor waits for the new leader on the client's behalf.
    let survivor = (victim + 1) % 3;
    assert_eq!(cluster.cli(survivor, &["append", "after", "the kill"]), "8");
    for number in 0..20 {
        assert_eq!(cluster.cli(survivor, &["get", &format!("k{number}")]), number.to_string());
    }
    cluster.restart(victim);
    cluster.leader();
    assert_eq!(cluster.cli(victim, &["get", "after"]), "the kill");
    let goal: u64 = cluster.raft_status(survivor, "applied_index").parse().expect("a number");
    let caught_up = await_some(|| {
        let applied = cluster.raft_status(victim, "applied_index").parse::<u64>().ok()?;
        (applied >= goal).then_some(())
    });
    assert!(caught_up.is_some(), "the restarted node catches up\n{}", cluster.logs());
}

/// A leader that hangs closes no connection: its followers must notice by themselves, or all their
/// clients would wait for it.
#[test]
fn a_leader_that_hangs_does_not_hold_up_the_clients_of_the_others() {
    let cluster = Cluster::start(&["--result-wait-ms", "600000"]);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    assert_eq!(cluster.cli(follower, &["set", "k", "v"]), "OK");
    cluster.signal(leader, "-STOP");
    // More clients than there are lanes to the leader.
    let mut streams: Vec<TcpStream> = (0..20).map(|_| cluster.connect(follower)).collect();
    streams.iter_mut().for_each(|stream| stream.write_all(b"APPEND k x\r\nPING end\r\n").expect("sent"));
    for stream in &mut streams {
        let reply = String::from_utf8(exchange(stream, b"", b"$3\r\nend\r\n")).expect("replies are text");
        assert!(reply.starts_with("-UNKNOWN ") || reply.starts_with(':'), "{reply}");
    }
    assert_eq!(cluster.cli(follower, &["get", "k"]).trim_end_matches('x'), "v");
    cluster.signal(leader, "-CONT");
    assert_eq!(cluster.cli(leader, &["get", "k"]).trim_end_matches('x'), "v");
}

#[test]
fn everything_survives_the_death_of_all_nodes() {
    let mut cluster = Cluster::start(&[]);
    assert_eq!(cluster.cli(0, &["set", "k", "v"]), "OK");
    (0..3).for_each(|node| cluster.kill(node));
    (0..3).for_each(|node| cluster.restart(node));
    cluster.leader();
    assert_eq!(cluster.cli(2, &["get", "k"]), "v");
}

#[test]
fn benchmark_runs_through_a_follower_and_through_the_death_of_the_leader() {
    let mut cluster = Cluster::start(&[]);
    let arguments = ["-t", "set,get", "-n", "20000", "-c", "64", "-P", "16", "-q"];
    let benchmark = |cluster: &Cluster, node: usize| {
        let output = redis_tool("redis-benchmark", cluster.port(node), &arguments);
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("SET: ") && said.contains("GET: ") && !said.contains("rror"), "{said}");
    };
    let survivor = cluster.follower();
    benchmark(&cluster, survivor);

    let port = cluster.port(survivor).to_string();
    let mut endless = Command::new("redis-benchmark");
    endless.args(["-p", &port, "-t", "set", "-n", "100000000", "-c", "64", "-P", "16", "-q"]);
    let endless = endless.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it ran before");
    let victim = cluster.leader();
    let applied = |node| cluster.raft_status(node, "applied_index").parse::<u64>().ok();
    let before = applied(victim).expect("the leader answers");
    let under_load = await_some(|| (applied(victim)? > before + 2000).then_some(()));
    assert!(under_load.is_some(), "the benchmark writes");
    cluster.kill(victim);
    // redis-benchmark ends at the first error reply. What was on its way to the dead leader has an
    // unknown outcome, and nobody may claim anything else.
    let output = endless.wait_with_output().expect("the benchmark ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("UNKNOWN ") || said.contains("CLUSTERDOWN "), "{said}");
    cluster.leader();
    cluster.restart(victim);
    benchmark(&cluster, survivor);
    cluster.leader();
    benchmark(&cluster, victim);
}

/// Clients that go on after errors, sixteen commands at a time, see the two honest ones only. A
/// command that was replayed after its answer was lost would count more than was acknowledged and
/// unknown together.
#[test]
fn pipelining_clients_see_only_honest_errors_while_the_leader_dies() {
    let mut cluster = Cluster::start(&[]);
    let (victim, survivor) = (cluster.leader(), cluster.follower());
    let (stop, killed) = (AtomicBool::new(false), AtomicBool::new(false));
    let acknowledged: Vec<AtomicU64> = (0..8).map(|_| AtomicU64::new(0)).collect();
    let client = &|mut stream: TcpStream, number: usize| {
        let request = [format!("INCR n{number}\r\n").repeat(16), "PING end\r\n".into()].concat();
        let (mut last, mut unknown) = (0u64, 0u64);
        while !stop.load(Ordering::SeqCst) {
            let reply = exchange(&mut stream, request.as_bytes(), b"$3\r\nend\r\n");
            for line in String::from_utf8(reply).expect("replies are text").lines().take(16) {
                if let Some(number_after) = line.strip_prefix(':') {
                    let after: u64 = number_after.parse().expect("a number");
                    assert!(after > last, "{after} after {last}");
                    last = after;
                    acknowledged[number].fetch_add(1, Ordering::SeqCst);
                } else {
                    assert!(killed.load(Ordering::SeqCst), "{line}");
                    assert!(line.starts_with("-UNKNOWN ") || line.starts_with("-CLUSTERDOWN "), "{line}");
                    unknown += u64::from(line.starts_with("-UNKNOWN "));
                }
            }
        }
        let known = acknowledged[number].load(Ordering::SeqCst);
        assert!(
            (known..=known + unknown).contains(&last),
            "{known} acknowledged, {unknown} unknown, but {last} counted"
        );
    };
    std::thread::scope(|scope| {
        for number in 0..acknowledged.len() {
            let stream = cluster.connect(survivor);
            scope.spawn(move || client(stream, number));
        }
        let progress = |than: u64| {
            let all = || acknowledged.iter().all(|count| count.load(Ordering::SeqCst) > than);
            await_some(|| all().then_some(())).is_some()
        };
        let busy = progress(300);
        killed.store(true, Ordering::SeqCst);
        cluster.kill(victim);
        let most = acknowledged.iter().map(|count| count.load(Ordering::SeqCst)).max().unwrap_or(0);
        let resumed = progress(most + 300);
        stop.store(true, Ordering::SeqCst);
        assert!(busy && resumed, "busy: {busy}, resumed: {resumed}\n{}", cluster.logs());
    });
}

#[test]
fn hostile_bytes_get_an_error_and_the_cluster_serves_on() {
    let cluster = Cluster::start(&[]);
    let hostile: [(&[u8], &str); 7] = [
        (b"*1\r\n$4294967296\r\n", "-ERR Protocol error: invalid bulk length\r\n"),
        (b"*1\r\n$18446744073709551615\r\n", "-ERR Protocol error: invalid bulk length\r\n"),
        (b"*1\r\n$-7\r\n", "-ERR Protocol error: invalid bulk length\r\n"),
        (b"*4294967296\r\n", "-ERR Protocol error: invalid multibulk length\r\n"),
        (b"*2\r\n$4\r\nECHO\r\n:1\r\n", "-ERR Protocol error: expected '$', got ':'\r\n"),
        (b"*1\r\n$4\r\nPINGPING\r\n", "-ERR Protocol error: a bulk string does not end in CRLF\r\n"),
        (b"set k \"v\r\n", "-ERR Protocol error: unbalanced quotes in request\r\n"),
    ];
    for (request, expected) in hostile {
        let reply = exchange(&mut cluster.connect(0), request, b"");
        assert_eq!(String::from_utf8_lossy(&reply), expected, "{}", request.escape_ascii());
    }
    // Random bytes, each kind in a connection of its own: any reply, then an end or silence.
    for seed in 0..50u32 {
        let noise: Vec<u8> =
            (0..4000u32).map(|at| (at.wrapping_mul(2_654_435_761).wrapping_add(seed * 977) >> 13) as u8).collect();
        let mut stream = cluster.connect(seed as usize % 3);
        stream.write_all(&noise).and_then(|()| stream.shutdown(std::net::Shutdown::Write)).expect("sent");
        stream.read_to_end(&mut Vec::new()).expect("the server closes in an orderly way");
    }
    // A line that never ends is cut off at 64 KiB, not collected for ever.
    let mut stream = cluster.connect(0);
    let reply = exchange(&mut stream, &[b'x'; 1 << 16], b"");
    assert_eq!(reply, b"-ERR Protocol error: too big inline request\r\n");
    assert_eq!(cluster.cli(0, &["set", "k", "v"]), "OK");
}

#[test]
fn announced_sizes_cost_no_memory() {
    let cluster = Cluster::start(&[]);
    let resident = || {
        let status = fs::read_to_string(format!("/proc/{}/status", cluster.process_id(0))).expect("Linux has it");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a resident size").to_owned();
        line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok()).expect("a number")
    };
    if !cfg!(target_os = "linux") {
        return;
    }
    let before = resident();
    let streams: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = cluster.connect(0);
            stream.write_all(b"*65536\r\n$9000000\r\nx").expect("sent");
            stream
        })
        .collect();
    // Answered after the hundred were read, and while they are open.
    assert_eq!(cluster.cli(0, &["set", "k", "v"]), "OK");
    let after = resident();
    assert!(after < before + 64 * 1024, "{before} kB before, {after} kB after {} announcements", streams.len());
}

#[test]
fn unfinished_requests_share_a_bounded_memory() {
    let cluster = Cluster::start(&["--request-memory-mib", "4"]);
    let unfinished = [&b"*2\r\n$4\r\nECHO\r\n$3000000\r\n"[..], &[b'x'; 2_900_000]].concat();
    let mut first = cluster.connect(0);
    first.write_all(&unfinished).expect("the first fits");
    let held = || cluster.raft_status(0, "request_bytes").parse::<usize>().ok();
    assert!(await_some(|| (held()? > 2_900_000).then_some(())).is_some(), "the first is read: {:?}", held());
    let mut second = cluster.connect(0);
    // It may be cut off while it still sends.
    let _ = second.write_all(&unfinished);
    let mut reply = [0; 5];
    second.read_exact(&mut reply).expect("the second gets an answer");
    assert_eq!(&reply, b"-BUSY");
    assert_eq!(cluster.cli(0, &["set", "k", "v"]), "OK");
    let reply = exchange(&mut first, &[&[b'x'; 100_000][..], b"\r\nPING\r\n"].concat(), b"+PONG\r\n");
    assert!(reply.starts_with(b"$3000000\r\nxxx"), "the first is served");
    // What the first held is free again.
    assert!(await_some(|| (held()? < 1_000_000).then_some(())).is_some(), "{:?}", held());
    let reply =
        exchange(&mut cluster.connect(0), &[&unfinished[..], &[b'x'; 100_000], b"\r\nPING\r\n"].concat(), b"+PONG\r\n");
    assert!(reply.starts_with(b"$3000000\r\nxxx"), "the next is served");
}

/// A few kilobytes of requests asked for gigabytes of replies, which the node put together in memory,
/// until the system killed it.
#[test]
fn replies_cost_no_more_memory_than_the_client_takes() {
    let cluster = Cluster::start(&[]);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let value = vec![b'x'; 4 << 20];
    let set = [b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4194304\r\n", &value[..], b"\r\n"].concat();
    assert_eq!(exchange(&mut cluster.connect(leader), &set, b"\r\n"), b"+OK\r\n");
    let again_and_again = format!("MGET{}\r\n", " k".repeat(1000));
    for node in [leader, follower] {
        let reply = exchange(&mut cluster.connect(node), again_and_again.as_bytes(), b"\r\n");
        assert!(reply.starts_with(b"-ERR the reply would exceed"), "{}", String::from_utf8_lossy(&reply));
    }
    let resident = |node| {
        let status = fs::read_to_string(format!("/proc/{}/status", cluster.process_id(node))).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok()
    };
    for (node, most) in [(leader, 64 << 20), (follower, 256 << 20)] {
        let before = resident(node);
        let mut client = cluster.connect(node);
        client.write_all(&b"GET k\r\n".repeat(200)).expect("sent");
        let mut received = 0;
        let mut chunk = vec![0; 1 << 16];
        // The last of 200 replies of 4 MiB, or of those that a forwarded batch has room for, and errors.
        client.write_all(b"PING last\r\n").expect("sent");
        let mut end = Vec::new();
        while !end.ends_with(b"$4\r\nlast\r\n") {
            let count = client.read(&mut chunk).expect("the node answers");
            assert_ne!(count, 0, "the node lives");
            received += count;
            end.extend_from_slice(&chunk[..count]);
            end.drain(..end.len().saturating_sub(16));
        }
        assert!(received > 32 << 20, "{received} bytes");
        if let (Some(before), Some(after)) = (before, resident(node)) {
            assert!(after < before + most / 1024, "{before} kB before, {after} kB after {received} bytes");
        }
    }
    assert_eq!(cluster.cli(follower, &["set", "k", "v"]), "OK");
}

#[test]
fn too_many_clients_are_told_so_and_leave_room_again() {
    let cluster = Cluster::start(&["--connections-max", "10"]);
    let mut held: Vec<TcpStream> = Vec::new();
    let refused = await_some(|| {
        let mut stream = cluster.connect(0);
        stream.write_all(b"PING\r\n").ok()?;
        let mut reply = [0; 64];
        let count = stream.read(&mut reply).ok()?;
        if reply[..count].starts_with(b"+PONG") {
            held.push(stream);
            return None;
        }
        Some(String::from_utf8_lossy(&reply[..count]).into_owned())
    });
    assert_eq!(refused.as_deref(), Some("-ERR max number of clients reached\r\n"));
    assert!(held.len() <= 10, "{} clients", held.len());
    held.clear();
    let admitted = await_some(|| (cluster.cli(0, &["ping"]) == "PONG").then_some(()));
    assert!(admitted.is_some(), "room is free again");
}

/// Idle clients took every place of the leader, and with them the followers' way to it: no node but
/// the leader could take a write.
#[test]
fn idle_clients_do_not_keep_the_nodes_apart() {
    let cluster = Cluster::start(&["--connections-max", "5"]);
    let leader = cluster.leader();
    let mut speaking: Vec<TcpStream> = (0..3).map(|node| cluster.connect(node)).collect();
    for stream in &mut speaking {
        assert_eq!(exchange(stream, b"PING\r\n", b"\r\n"), b"+PONG\r\n");
    }
    let idle = fill(&cluster, leader, 50);
    for (node, stream) in speaking.iter_mut().enumerate() {
        let reply = exchange(stream, b"SET k v\r\n", b"\r\n");
        assert_eq!(reply, b"+OK\r\n", "node {}: {}", node + 1, String::from_utf8_lossy(&reply));
    }
    drop(idle);
}

/// Connects clients that say nothing, until the node refuses one more.
fn fill(cluster: &Cluster, node: usize, count: usize) -> Vec<TcpStream> {
    let idle = (0..count).map(|_| cluster.connect(node)).collect();
    let refused = await_some(|| cluster.cli(node, &["ping"]).starts_with("ERR max").then_some(()));
    assert!(refused.is_some(), "the places are taken");
    idle
}

/// A node took as many clients as its limit of open files allowed. Then the log could not create its
/// next segment, and the node stopped for good.
#[test]
fn idle_clients_leave_the_log_its_files() {
    let cluster = Cluster::start_with_open_files(200, &["--connections-max", "1024"]);
    let leader = cluster.leader();
    let mut writer = cluster.connect(leader);
    assert_eq!(exchange(&mut writer, b"PING\r\n", b"\r\n"), b"+PONG\r\n");
    let idle = fill(&cluster, leader, 250);
    // More than a segment of the log.
    let value = vec![b'x'; 4 << 20];
    let set = [b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4194304\r\n", &value[..], b"\r\n"].concat();
    for _ in 0..6 {
        let reply = exchange(&mut writer, &set, b"\r\n");
        assert_eq!(reply, b"+OK\r\n", "{}", String::from_utf8_lossy(&reply));
    }
    let segments = fs::read_dir(cluster.data(leader)).expect("the directory is there");
    let names = segments.map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name"));
    assert!(names.filter(|name| name.ends_with(".wal")).count() > 1, "a segment was added meanwhile");
    drop(idle);
}

#[test]
fn a_node_that_cannot_start_says_everything_that_is_wrong() {
    let mut cluster = Cluster::start(&[]);
    let with = |line: &[String], option: &str, value: &str| {
        let mut line = line.to_vec();
        let at = line.iter().position(|word| word == option).expect("the option is there");
        line[at + 1] = value.to_owned();
        line
    };
    // Everything is taken by the node that runs.
    let (code, said) = start_in_vain(&cluster.line(0));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("--data ") && said.contains("is open already"), "{said}");
    assert!(said.contains("--listen ") && said.contains("--peer-listen "), "{said}");

    cluster.kill(0);
    let other_node = with(&cluster.line(1), "--data", &cluster.data(0).display().to_string());
    let (code, said) = start_in_vain(&other_node);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("belongs to node 1, not to node 2"), "{said}");

    let mut other_cluster = cluster.line(0);
    other_cluster.extend(["--cluster-id".into(), "77".into()]);
    let (code, said) = start_in_vain(&other_cluster);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("belongs to cluster 1, not to cluster 77"), "{said}");

    let nonsense = with(&cluster.line(0), "--peers", "1=127.0.0.1:7001,1=127.0.0.1:7002,x=y,3=nowhere");
    let nonsense = with(&with(&nonsense, "--listen", "0.0.0.0:7000"), "--id", "9");
    let (code, said) = start_in_vain(&nonsense);
    assert_eq!(code, Some(2), "{said}");
    for problem in ["node 1 occurs twice", "\"x\" is not a node id", "3=nowhere", "--advertise", "--id 9: is not in"] {
        assert!(said.contains(problem), "{problem} is missing in:\n{said}");
    }
}

#[test]
fn a_signal_stops_a_node_gracefully() {
    let mut cluster = Cluster::start(&[]);
    assert_eq!(cluster.cli(0, &["set", "k", "v"]), "OK");
    let node = cluster.leader();
    assert_eq!(cluster.terminate(node), Some(0), "{}", cluster.logs());
    assert_eq!(cluster.cli((node + 1) % 3, &["get", "k"]), "v");
}

#[test]
fn a_client_that_reads_nothing_does_not_stop_the_others() {
    let cluster = Cluster::start(&[]);
    assert_eq!(cluster.cli(0, &["set", "big", &"x".repeat(100_000)]), "OK");
    let stream = cluster.connect(cluster.leader());
    let mut writer = stream.try_clone().expect("a second handle");
    writer.set_write_timeout(Some(Duration::from_millis(500))).expect("a timeout can be set");
    // Asks until the server, stuck on replies that nobody reads, takes no more.
    let line = b"GET big\r\n".repeat(1000);
    while writer.write_all(&line).is_ok() {}
    for node in 0..3 {
        assert_eq!(cluster.cli(node, &["append", "small", "x"]), (node + 1).to_string());
    }
}
