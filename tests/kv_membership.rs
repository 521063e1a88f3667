//! Who belongs to the cluster of the kv example: nodes come and go while clients are served, and the way back from a lost
//! quorum.

#![cfg(all(unix, feature = "persistence", feature = "tcp"))]

#[allow(dead_code, reason = "each test uses its part")]
mod kv_support;
#[allow(dead_code, unused_imports, reason = "a program of its own, of which this test runs the server")]
#[path = "../examples/kv/server/mod.rs"]
mod server;

use kv_support::{Cluster, await_some, redis_cli, run_recover, text};
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

/// Not a test: the nodes of the tests are this program running only this.
#[test]
fn node_process() {
    kv_support::node_process();
}

fn id(node: usize) -> String {
    (node + 1).to_string()
}

/// Sends a command to whoever leads among these nodes, again while it is told to.
fn ask_leader(cluster: &Cluster, among: &[usize], command: &[&str]) -> String {
    let answered = await_some(|| {
        let answer = cluster.cli(cluster.leader_among(among), command);
        let again =
            ["NOTLEADER", "TRYAGAIN", "PENDING", "UNKNOWN", "CLUSTERDOWN"].iter().any(|code| answer.starts_with(code));
        (!again).then_some(answer)
    });
    answered.unwrap_or_else(|| panic!("{command:?}\n{}", cluster.logs()))
}

/// The value of a field of a member in RAFT.MEMBERS.
fn member(cluster: &Cluster, node: usize, member: usize, field: &str) -> Option<String> {
    let output = cluster.cli(node, &["raft.members"]);
    let lines: Vec<&str> = output.lines().collect();
    let mut pairs = lines.chunks_exact(2).skip_while(|pair| *pair != ["id", &id(member)]).skip(1);
    pairs.by_ref().take_while(|pair| pair[0] != "id").find(|pair| pair[0] == field).map(|pair| pair[1].to_owned())
}

fn wait_applied(cluster: &Cluster, node: usize, leader: usize) {
    let applied = |node| cluster.raft_status(node, "applied_index").parse::<u64>().ok();
    let want = applied(leader);
    let caught_up = await_some(|| (applied(node) >= want).then_some(()));
    assert!(caught_up.is_some(), "node {}\n{}", node + 1, cluster.logs());
}

#[test]
fn nodes_come_and_go_while_clients_are_served() {
    let mut cluster = Cluster::start(&["--snapshot-commands", "50", "--snapshot-trail", "0"]);
    for number in 0..120 {
        assert_eq!(cluster.cli(0, &["set", &format!("k{number}"), "v"]), "OK");
    }
    let (stop, counted) = (AtomicBool::new(false), AtomicU64::new(0));
    let joined = [cluster.join(), cluster.join(), cluster.join()];
    thread::scope(|scope| {
        for node in joined {
            let (cluster, stop, counted) = (&cluster, &stop, &counted);
            scope.spawn(move || {
                let mut stream = cluster.connect(node);
                while !stop.load(Ordering::SeqCst) {
                    let reply = text(&mut stream, "INCR counter\r\n");
                    counted.fetch_add(u64::from(reply.starts_with(':')), Ordering::SeqCst);
                    let honest = [":", "-UNKNOWN", "-CLUSTERDOWN"].iter().any(|start| reply.starts_with(start));
                    assert!(honest, "{reply}");
                }
            });
        }
        let check = || {
            for node in joined {
                let answer = ask_leader(&cluster, &[0, 1, 2], &["raft.add", &id(node), &cluster.peer_address(node)]);
                assert!(answer.starts_with("OK voters 1 2 3 4"), "{answer}");
                assert_eq!(member(&cluster, node, node, "part").as_deref(), Some("voter"));
                assert_eq!(member(&cluster, node, node, "address"), Some(cluster.peer_address(node)));
            }
            // Through a node that came, to whoever leads.
            assert_eq!(cluster.cli(joined[0], &["get", "k7"]), "v");
            let everybody: Vec<usize> = (0..6).collect();
            let nodes = cluster.cli(cluster.leader_among(&everybody), &["cluster", "nodes"]);
            assert!(everybody.iter().all(|node| nodes.contains(&format!(":{}@", cluster.port(*node)))), "{nodes}");
            assert!(cluster.cli(joined[0], &["cluster", "info"]).contains("cluster_known_nodes:6"));
            // The first three leave, the leader among them.
            for leaver in 0..3 {
                let answer = ask_leader(&cluster, &everybody[leaver..], &["raft.remove", &id(leaver)]);
                assert!(answer.starts_with("OK voters"), "{answer}");
            }
        };
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check));
        stop.store(true, Ordering::SeqCst);
        if let Err(panic) = checked {
            std::panic::resume_unwind(panic);
        }
    });
    (0..3).for_each(|node| cluster.kill(node));
    let leader = cluster.leader_among(&joined);
    let counter: u64 = cluster.cli(leader, &["get", "counter"]).parse().expect("a number");
    assert!(counter >= counted.load(Ordering::SeqCst), "{counter} of {counted:?}");
    assert_eq!(cluster.cli(leader, &["dbsize"]), "121");
    assert_eq!(cluster.raft_status(leader, "members"), "voters 4 5 6");
    let slots = cluster.cli(leader, &["cluster", "slots"]);
    assert!((0..3).all(|node| !slots.lines().any(|line| line == cluster.port(node).to_string())), "{slots}");
    // A restart takes the same line, --join included.
    cluster.terminate(joined[0]);
    cluster.restart(joined[0]);
    let leader = cluster.leader_among(&joined);
    wait_applied(&cluster, joined[0], leader);
    assert_eq!(cluster.raft_status(joined[0], "members"), "voters 4 5 6");
}

#[test]
fn what_cannot_be_is_refused_and_says_what_to_do() {
    let mut cluster = Cluster::start(&["--result-wait-ms", "700"]);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let ask = |command: &[&str]| cluster.cli(leader, command);
    let address = format!("127.0.0.1:{}", cluster.port(leader));
    let refused = cluster.cli(follower, &["raft.remove", "1"]);
    assert!(
        refused.starts_with("NOTLEADER ") && refused.contains(&address) && refused.contains("send it there"),
        "{refused}"
    );
    assert!(ask(&["raft.promote", "9"]).starts_with("ERR node 9 is not a learner; RAFT.ADD it first"));
    assert!(ask(&["raft.demote", "9"]).starts_with("ERR node 9 is not a member; RAFT.ADD it first"));
    assert!(ask(&["raft.address", "9", "host:1"]).starts_with("ERR node 9 is not a member"));
    assert!(ask(&["raft.add", "1", "host:1", "learner"]).starts_with("ERR node 1 has a vote; RAFT.DEMOTE"));
    assert!(ask(&["raft.add", "9", "host"]).starts_with("ERR host: is not of the form HOST:PORT"));
    assert!(ask(&["raft.add", "x", "host:1"]).starts_with("ERR the first argument is the id"));
    assert!(ask(&["raft.add", "9", "host:1", "voter"]).starts_with("ERR RAFT.ADD takes"));
    assert_eq!(ask(&["raft.remove", "9"]), "OK voters 1 2 3");
    // Nobody is there yet.
    let waiting = ask(&["raft.add", "9", "127.0.0.1:1"]);
    assert!(waiting.starts_with("PENDING node 9 is a member now"), "{waiting}");
    assert_eq!(member(&cluster, leader, 8, "part").as_deref(), Some("promoting"));
    assert_eq!(member(&cluster, leader, 8, "online").as_deref(), Some("no"));
    let silent = ask(&["raft.promote", "9"]);
    assert!(silent.starts_with("TRYAGAIN ") && silent.contains("did not answer lately"), "{silent}");
    assert_eq!(ask(&["raft.remove", "9"]), "OK voters 1 2 3");
    // With a node down, another one must not be taken away.
    cluster.kill(follower);
    let gone = || (member(&cluster, leader, follower, "online").as_deref() == Some("no")).then_some(());
    await_some(gone).expect("the leader notices");
    let ask = |command: &[&str]| cluster.cli(leader, command);
    let other = (0..3).find(|node| ![leader, follower].contains(node)).expect("there are three");
    let careful = ask(&["raft.remove", &id(other)]);
    let code = careful.starts_with("ERR ") || careful.starts_with("TRYAGAIN ");
    assert!(code && careful.contains("are needed to commit"), "{careful}");
    assert_eq!(ask(&["raft.remove", &id(follower)]).split(' ').next(), Some("OK"));
}

/// "It may still come to be in force" was said when the learner was in force; and nobody said that the node does not answer.
#[test]
fn adding_a_node_that_never_answers_says_what_is_in_force() {
    let cluster = Cluster::start(&["--result-wait-ms", "1500"]);
    let leader = cluster.leader();
    let answer = cluster.cli(leader, &["raft.add", "9", "127.0.0.1:9"]);
    assert!(answer.starts_with("PENDING node 9 is a member now, as a learner"), "{answer}");
    assert!(answer.contains("it does not answer") && answer.contains("RAFT.REMOVE 9"), "{answer}");
    assert!(cluster.cli(leader, &["raft.members"]).contains("promoting"));
    assert_eq!(cluster.cli(leader, &["set", "k", "v"]), "OK");
    assert!(ask_leader(&cluster, &[0, 1, 2], &["raft.remove", "9"]).starts_with("OK"));
}

/// After a change of the members, a restart by the line that the cluster began with was a warning, for ever.
#[test]
fn a_restart_by_the_first_line_says_whom_the_log_knows() {
    let mut cluster = Cluster::start(&[]);
    let said = |cluster: &Cluster| cluster.logs().matches("as its log knows").count();
    cluster.kill(0);
    cluster.restart(0);
    cluster.leader();
    assert_eq!(said(&cluster), 0, "nothing has changed: {}", cluster.logs());
    let joined = cluster.join();
    let answer = ask_leader(&cluster, &[0, 1, 2], &["raft.add", &id(joined), &cluster.peer_address(joined)]);
    assert!(answer.starts_with("OK"), "{answer}");
    wait_applied(&cluster, 0, cluster.leader());
    cluster.kill(0);
    cluster.restart(0);
    cluster.leader();
    assert_eq!(said(&cluster), 1, "{}", cluster.logs());
    assert!(!cluster.logs().to_lowercase().contains("warn"), "{}", cluster.logs());
    assert!(cluster.raft_status(0, "members").contains('4'));
}

#[test]
fn a_learner_serves_and_a_node_moves() {
    let mut cluster = Cluster::start(&[]);
    assert_eq!(cluster.cli(0, &["set", "k", "v"]), "OK");
    let learner = cluster.join();
    let add = ["raft.add", &id(learner), &cluster.peer_address(learner), "LEARNER"];
    assert_eq!(ask_leader(&cluster, &[0, 1, 2], &add), "OK voters 1 2 3, learners 4");
    assert_eq!(cluster.cli(learner, &["get", "k"]), "v");
    // It may know its leader before it has the entry that names it.
    wait_applied(&cluster, learner, cluster.leader());
    assert_eq!(cluster.raft_status(learner, "part"), "learner");
    // It moves, and says so.
    cluster.terminate(learner);
    cluster.move_peer_port(learner);
    cluster.restart(learner);
    let moved = ["raft.address", &id(learner), &cluster.peer_address(learner)];
    assert_eq!(ask_leader(&cluster, &[0, 1, 2], &moved), "OK voters 1 2 3, learners 4");
    assert_eq!(cluster.cli(0, &["set", "k", "w"]), "OK");
    wait_applied(&cluster, learner, cluster.leader());
    assert_eq!(member(&cluster, learner, learner, "address"), Some(cluster.peer_address(learner)));
    assert_eq!(ask_leader(&cluster, &[0, 1, 2], &["raft.promote", &id(learner)]), "OK voters 1 2 3 4");
    assert_eq!(ask_leader(&cluster, &[0, 1, 2], &["raft.demote", &id(learner)]), "OK voters 1 2 3, learners 4");
}

/// docs/RECOVERY.md, step by step.
#[test]
fn a_lost_quorum_is_given_up_by_hand_and_written_down() {
    let mut cluster = Cluster::start(&[]);
    assert_eq!(cluster.cli(0, &["set", "k", "v"]), "OK");
    let survivor = cluster.follower();
    wait_applied(&cluster, survivor, cluster.leader());
    let data = cluster.data(survivor).display().to_string();
    let (number, alone) = (id(survivor), ["--survivors", &id(survivor)].map(str::to_owned));
    let line = ["--id", &number, "--data", &data, &alone[0], &alone[1]];
    let sure = [&line[..], &["--yes-i-lose-data"]].concat();
    // Not while it runs.
    let (code, said) = run_recover(&sure);
    assert!(code == Some(2) && said.contains("stop the node first"), "{said}");
    (0..3).filter(|node| *node != survivor).for_each(|node| cluster.kill(node));
    cluster.terminate(survivor);
    // Not by accident.
    let (code, said) = run_recover(&line);
    assert!(code == Some(2) && said.contains("nothing was changed") && said.contains("--yes-i-lose-data"), "{said}");
    assert!(said.contains("knows the members: voters 1 2 3"), "{said}");
    let (code, said) = run_recover(&["--id", &number, "--data", &data, "--survivors", "9"]);
    assert!(code == Some(2) && said.contains("node 9 is not a member"), "{said}");
    let (code, said) = run_recover(&["--id", &number, "--data", "/nowhere/at/all", &alone[0], &alone[1]]);
    assert!(code == Some(2) && said.contains("--data /nowhere/at/all"), "{said}");
    let (code, said) = run_recover(&sure);
    assert!(code == Some(0) && said.contains("done, and written down in"), "{said}");
    let audit = fs::read_to_string(cluster.data(survivor).join("recoveries.txt")).expect("it is written down");
    let lines: Vec<&str> = audit.lines().collect();
    let to = format!("from=[voters 1 2 3] to=[voters {number}]");
    assert!(lines.len() == 2 && lines.iter().all(|line| line.ends_with(&to) && line.contains(" by=")), "{audit}");
    assert!(lines[0].contains("recovery begins") && lines[1].contains("recovery is done"), "{audit}");
    // It goes on alone, with everything that it had.
    cluster.restart(survivor);
    assert_eq!(cluster.leader_among(&[survivor]), survivor);
    assert_eq!(cluster.cli(survivor, &["get", "k"]), "v");
    assert_eq!(cluster.cli(survivor, &["set", "k", "w"]), "OK");
    let term: u64 = cluster.raft_status(survivor, "term").parse().expect("a number");
    assert!(term > 1 << 20, "the fence: {term}");
    // One that is back by mistake, with what it had: it is no member, and is not heard.
    let lost = if survivor == 0 { 1 } else { 0 };
    cluster.restart(lost);
    thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(cluster.raft_status(survivor, "role"), "leader");
    assert_eq!(cluster.cli(survivor, &["get", "k"]), "w");
    assert_ne!(cluster.raft_status(lost, "role"), "leader");
    cluster.kill(lost);
    // New nodes under new ids make it three again.
    for _ in 0..2 {
        let node = cluster.join();
        let added = ask_leader(&cluster, &[survivor], &["raft.add", &id(node), &cluster.peer_address(node)]);
        assert!(added.starts_with("OK voters"), "{added}");
    }
    cluster.kill(survivor);
    let leader = cluster.leader_among(&[3, 4]);
    assert_eq!(redis_cli(cluster.port(leader), &["get", "k"]), "w");
}

/// Two of five would do; here two of three are left, and the third is given up so that it can be empty again.
#[test]
fn the_other_survivors_follow_the_recovered_one() {
    let mut cluster = Cluster::start(&[]);
    assert_eq!(cluster.cli(0, &["set", "k", "v"]), "OK");
    let leader = cluster.leader();
    let others: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
    (0..3).for_each(|node| cluster.kill(node));
    // The leader has everything. Another survivor has moved meanwhile.
    cluster.move_peer_port(others[0]);
    let survivors = format!("{},{}", id(leader), id(others[0]));
    let moved = format!("{}={}", id(others[0]), cluster.peer_address(others[0]));
    let data = cluster.data(leader).display().to_string();
    let number = id(leader);
    let line = ["--id", &number, "--data", &data, "--survivors", &survivors, "--addresses", &moved];
    let (code, said) = run_recover(&[&line[..], &["--yes-i-lose-data"]].concat());
    assert_eq!(code, Some(0), "{said}");
    cluster.restart(leader);
    cluster.restart(others[0]);
    let both = [leader, others[0]];
    assert_eq!(cluster.leader_among(&both), leader);
    assert_eq!(cluster.cli(others[0], &["set", "k", "w"]), "OK");
    wait_applied(&cluster, others[0], leader);
    assert_eq!(member(&cluster, others[0], others[0], "address"), Some(cluster.peer_address(others[0])));
    assert_eq!(member(&cluster, others[0], others[1], "part"), None);
}
