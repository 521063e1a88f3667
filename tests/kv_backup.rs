//! `kv backup` and `kv restore`: a cluster that runs becomes a file, and the file a cluster.

#![cfg(all(unix, feature = "persistence", feature = "tcp"))]

#[allow(dead_code, reason = "each test uses its part")]
mod kv_support;
#[allow(dead_code, unused_imports, reason = "a program of its own, of which this test runs the server")]
#[path = "../examples/kv/server/mod.rs"]
mod server;

use kv_support::{Cluster, await_some, begin_restore, run_backup, run_restore, start_in_vain, text};
use serde_json::Value;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

/// Not a test: the nodes of the tests are this program running only this.
#[test]
fn node_process() {
    kv_support::node_process();
}

fn shown(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// Without what the test program itself says before it.
fn printed(output: &str) -> &str {
    output.split_once("node_process ... ").map_or(output, |(_, printed)| printed)
}

fn json(output: &str) -> Value {
    serde_json::from_str(printed(output)).unwrap_or_else(|error| panic!("{error}: {output}"))
}

fn client(cluster: &Cluster, node: usize) -> String {
    format!("127.0.0.1:{}", cluster.port(node))
}

/// A backup of this node, as a file beside the nodes' directories, and what was said of it.
fn back_up(cluster: &Cluster, node: usize, name: &str, extra: &[&str]) -> (PathBuf, Value) {
    let file = cluster.data(0).with_file_name(name);
    let from = client(cluster, node);
    let line: Vec<&str> = [shown(&file), "--from", &from, "--json"].into_iter().chain(extra.iter().copied()).collect();
    let (code, output) = run_backup(&line);
    assert_eq!(code, Some(0), "{output}\n{}", cluster.logs());
    (file, json(&output))
}

/// Restores a file as this node, which is down and has nothing yet.
fn restore(cluster: &Cluster, file: &Path, node: usize) -> Value {
    let (id, data, address) = ((node + 1).to_string(), cluster.data(node), cluster.peer_address(node));
    let (code, output) =
        run_restore(&[shown(file), "--id", &id, "--data", shown(&data), "--address", &address, "--json"]);
    assert_eq!(code, Some(0), "{output}");
    json(&output)
}

/// Starts a restored node, and waits until it leads its cluster.
fn start(cluster: &mut Cluster, node: usize) {
    cluster.restart(node);
    assert_eq!(cluster.leader_among(&[node]), node);
}

/// Writes went on all the time. Backups of the leader and of a follower have everything that was acknowledged before they
/// began; what is restored has it, answers a repeated command as the old one did, and grows to three nodes.
#[test]
fn a_backup_under_load_is_restored_with_all_that_was_acknowledged_before_it() {
    let mut cluster = Cluster::start(&["--snapshot-trail", "0"]);
    let session = text(&mut cluster.connect(0), "RAFT.SESSION OPEN\r\n");
    let call = format!("RAFT.CALL {} 1 1 INCR n\r\n", session.trim_start_matches(':').trim());
    assert_eq!(text(&mut cluster.connect(0), &call), ":1\r\n");
    let (stop, acknowledged) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut backups = Vec::new();
    thread::scope(|scope| {
        let (cluster, stop, acknowledged) = (&cluster, &stop, &acknowledged);
        scope.spawn(move || {
            let mut stream = cluster.connect(0);
            while !stop.load(Ordering::SeqCst) {
                let number = acknowledged.load(Ordering::SeqCst);
                assert_eq!(text(&mut stream, &format!("SET k{number} {number}\r\n")), "+OK\r\n");
                acknowledged.store(number + 1, Ordering::SeqCst);
            }
        });
        for (node, name) in [(cluster.leader(), "leader.backup"), (cluster.follower(), "follower.backup")] {
            let before = acknowledged.load(Ordering::SeqCst);
            let (file, info) = back_up(cluster, node, name, &[]);
            assert_eq!((info["node"].as_u64(), info["cluster"].as_u64()), (Some(node as u64 + 1), Some(1)));
            assert_eq!(info["history"]["id"], cluster.raft_status(node, "history").as_str());
            assert_eq!(info["file_bytes"].as_u64(), Some(fs::metadata(&file).expect("the file").len()));
            backups.push((file, before));
        }
        stop.store(true, Ordering::SeqCst);
    });
    for (file, before) in backups {
        let node = cluster.place();
        let restored = restore(&cluster, &file, node);
        start(&mut cluster, node);
        assert_eq!(restored["parent"], cluster.raft_status(0, "history").as_str());
        assert_eq!(restored["history"], cluster.raft_status(node, "history").as_str());
        assert!(before > 0);
        for number in [0, before / 2, before - 1] {
            assert_eq!(cluster.cli(node, &["get", &format!("k{number}")]), number.to_string());
        }
        // Sent again, because its answer was lost with the old cluster.
        assert_eq!(text(&mut cluster.connect(node), &call), ":1\r\n");
        assert_eq!(cluster.cli(node, &["get", "n"]), "1");
        let joined = [cluster.join(), cluster.join()];
        for new in joined {
            let added = await_some(|| {
                let reply = cluster.cli(node, &["raft.add", &(new + 1).to_string(), &cluster.peer_address(new)]);
                reply.starts_with("OK").then_some(())
            });
            assert!(added.is_some(), "{}", cluster.logs());
        }
        assert_eq!(cluster.cli(node, &["set", "after", "it"]), "OK");
        let all = [node, joined[0], joined[1]];
        let hashes = await_some(|| {
            let hashes = all.map(|node| cluster.raft_status(node, "state_hash"));
            hashes.iter().all(|hash| *hash == hashes[0]).then_some(())
        });
        assert!(hashes.is_some(), "{}", cluster.logs());
    }
    assert_eq!(cluster.cli(0, &["get", "after"]), "", "the old cluster is another one");
}

/// All is lost and restored, under a new id at the address of a server that was. Days later an old server is switched on: it
/// is told whom it has met, the other says who came, and neither takes anything from the other.
#[test]
fn an_old_server_that_comes_back_is_refused_by_name_on_both_sides() {
    let mut cluster = Cluster::start(&["--result-wait-ms", "2000"]);
    assert_eq!(cluster.cli(0, &["set", "k", "before"]), "OK");
    let (file, _) = back_up(&cluster, 0, "cluster.backup", &[]);
    assert_eq!(cluster.cli(0, &["set", "k", "lost"]), "OK");
    (0..3).for_each(|node| cluster.kill(node));
    let node = cluster.place();
    cluster.take_peer_port_of(node, 0);
    restore(&cluster, &file, node);
    start(&mut cluster, node);
    assert_eq!(cluster.cli(node, &["get", "k"]), "before");
    assert_eq!(cluster.cli(node, &["set", "k", "after"]), "OK");
    cluster.restart(1);
    let told = await_some(|| {
        let logs = cluster.logs();
        let old = logs.lines().any(|line| line.starts_with("node 2: ") && line.contains("this server is node 4"));
        let new = logs.lines().any(|line| line.starts_with("node 4: ") && line.contains("refused"));
        (old && new).then_some(())
    });
    assert!(told.is_some(), "{}", cluster.logs());
    // Added by mistake, with what it holds: refused by its history, and it keeps what it has.
    let before = cluster.raft_status(1, "last_index");
    let added = cluster.cli(node, &["raft.add", "2", &cluster.peer_address(1)]);
    assert!(added.starts_with("PENDING"), "{added}");
    let told = await_some(|| {
        let logs = cluster.logs();
        let says =
            |begin: &str| logs.lines().any(|line| line.starts_with(begin) && line.contains("belongs to history"));
        (says("node 4: node 2 at ") && says("node 2: refused ")).then_some(())
    });
    assert!(told.is_some(), "{}", cluster.logs());
    let restored = cluster.raft_status(node, "history");
    assert_eq!(cluster.cli(node, &["raft.remove", "2"]).split_whitespace().next(), Some("OK"));
    assert_ne!(cluster.raft_status(1, "history"), restored);
    assert_eq!(cluster.raft_status(1, "last_index"), before);
    assert_eq!(cluster.cli(node, &["get", "k"]), "after");
}

/// A copy that was cut, or of which a bit flipped: exit code 1, and no directory is made. `--check` says it beforehand.
#[test]
fn a_damaged_backup_is_refused_and_leaves_nothing() {
    let mut cluster = Cluster::start(&[]);
    assert_eq!(cluster.cli(0, &["set", "k", &"v".repeat(2000)]), "OK");
    let (file, _) = back_up(&cluster, 0, "cluster.backup", &[]);
    let (code, output) = run_restore(&[shown(&file), "--check"]);
    assert_eq!(code, Some(0), "{output}");
    assert!(printed(&output).starts_with("whole: ") && output.contains("members then: voters 1 2 3"), "{output}");
    let bytes = fs::read(&file).expect("the file");
    let node = cluster.place();
    let data = cluster.data(node);
    for at in [0, 9, 40, 100, bytes.len() / 2, bytes.len() - 1] {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        for (what, damaged) in [("cut", &bytes[..at]), ("flipped", &flipped[..])] {
            let copy = file.with_extension("damaged");
            fs::write(&copy, damaged).expect("written");
            let address = cluster.peer_address(node);
            let line = [shown(&copy), "--id", "4", "--data", shown(&data), "--address", &address];
            let (code, output) = run_restore(&line);
            // A format that is not known is none that is damaged.
            let expected = if what == "flipped" && at == 9 { 2 } else { 1 };
            assert_eq!(code, Some(expected), "{what} at {at}: {output}");
            assert_eq!(run_restore(&[shown(&copy), "--check"]).0, Some(expected), "{what} at {at}");
            assert!(!data.exists(), "{what} at {at}");
        }
    }
    restore(&cluster, &file, node);
    let again = run_restore(&[shown(&file), "--id", "5", "--data", shown(&data), "--address", "127.0.0.1:1"]);
    assert!(again.0 == Some(2) && again.1.contains("is not empty"), "{}", again.1);
    let old = run_restore(&[shown(&file), "--id", "2", "--data", "never-made", "--address", "127.0.0.1:1"]);
    assert!(old.0 == Some(2) && old.1.contains("choose an id that none of them ever had"), "{}", old.1);
    assert!(!Path::new("never-made").exists());
}

/// Begins to restore a backup of which so many bytes are missing for the time being, as this node.
fn restore_in_part(line: &[&str], file: &[u8], missing: usize) -> (Child, ChildStdin) {
    let mut restoring = begin_restore(line);
    let mut input = restoring.stdin.take().expect("it reads from here");
    input.write_all(&file[..file.len() - missing]).expect("it reads");
    (restoring, input)
}

/// `kill -9` at any moment of a restore: there is nothing yet, or no node starts there and it says why, or it is whole.
#[test]
fn a_restore_that_is_killed_is_whole_or_does_not_start() {
    let mut cluster = Cluster::start(&[]);
    let value = "v".repeat(100_000);
    for number in 0..30 {
        assert_eq!(cluster.cli(0, &["set", &format!("k{number}"), &value]), "OK");
    }
    let (file, _) = back_up(&cluster, 0, "cluster.backup", &[]);
    let bytes = fs::read(&file).expect("a backup");
    let node = cluster.place();
    let (data, address) = (cluster.data(node), cluster.peer_address(node));
    let line = ["-", "--id", "4", "--data", shown(&data), "--address", &address];
    // It waits for the rest of its input, and is killed once this file was there; then it has all, and is killed at once or
    // when it counts.
    let names = ["snapshots", "RESTORING", "WATERMARK", "RESERVE", "snapshots/LOCK"].map(|name| (name, 1_000_000));
    let ends = ["snapshots/LOCK", "snapshots/LOCK", "snapshots/LOCK", "MANIFEST"].map(|name| (name, 0));
    let mut outcomes = [0; 3];
    for (name, missing) in names.into_iter().chain(ends) {
        let (mut restoring, input) = restore_in_part(&line, &bytes, missing);
        // Nothing counts before the end of the input was seen.
        let _open = (missing > 0).then_some(input);
        assert!(await_some(|| data.join(name).exists().then_some(())).is_some(), "{name} never came");
        restoring.kill().expect("it can be killed");
        restoring.wait().expect("it ends");
        if data.join("MANIFEST").exists() {
            start(&mut cluster, node);
            assert_eq!(cluster.cli(node, &["strlen", "k29"]), "100000", "killed at {name}");
            cluster.kill(node);
            outcomes[0] += 1;
        } else if data.join("RESTORING").exists() {
            let (code, said) = start_in_vain(&cluster.line(node));
            assert!(code == Some(2) && said.contains("did not end; empty it, and restore again"), "{name}: {said}");
            let (code, said) = run_restore(&[&[shown(&file)], &line[1..]].concat());
            assert!(code == Some(2) && said.contains("is not empty"), "{said}");
            outcomes[1] += 1;
        } else {
            // As good as a new one.
            restore(&cluster, &file, node);
            outcomes[2] += 1;
        }
        fs::remove_dir_all(&data).expect("it goes");
    }
    let [whole, refused, empty] = outcomes;
    println!("{whole} whole, {refused} do not start, {empty} empty");
    assert!(whole > 0 && refused >= 3, "{outcomes:?}");
    restore(&cluster, &file, node);
    start(&mut cluster, node);
}

/// What keeps a backup from being made is said, with exit code 2, and no file is left: the file is there already, nobody
/// answers, nobody leads. The last of them a person may want all the same.
#[test]
fn a_backup_that_is_not_made_leaves_no_file() {
    let mut cluster = Cluster::start(&["--result-wait-ms", "1000"]);
    assert_eq!(cluster.cli(0, &["set", "k", "v"]), "OK");
    let (file, _) = back_up(&cluster, 0, "cluster.backup", &[]);
    let from = client(&cluster, 0);
    let before = fs::read(&file).expect("the file");
    let (code, output) = run_backup(&[shown(&file), "--from", &from]);
    assert!(code == Some(2) && output.contains("exists; nothing was done"), "{output}");
    assert_eq!(fs::read(&file).expect("the file"), before);
    let other = file.with_extension("other");
    let (code, output) = run_backup(&[shown(&other), "--from", &cluster.peer_address(0)]);
    assert!(code == Some(2), "{output}");
    assert_eq!(cluster.cli(0, &["raft.backup", "fresh"]), "ERR RAFT.BACKUP takes nothing, or STALE");
    let leader = cluster.leader();
    let left = cluster.follower();
    (0..3).filter(|node| *node != left).for_each(|node| cluster.kill(node));
    assert_ne!(leader, left);
    let (code, output) = run_backup(&[shown(&other), "--from", &client(&cluster, left)]);
    assert!(code == Some(2) && output.contains("RAFT.BACKUP STALE takes what this node has"), "{output}");
    let names = fs::read_dir(file.parent().expect("a folder")).expect("a folder");
    let names: Vec<String> = names.map(|entry| entry.expect("an entry").file_name().into_string().unwrap()).collect();
    assert!(!names.iter().any(|name| name.contains("other") || name.contains("partial")), "{names:?}");
    let (stale, _) = back_up(&cluster, left, "stale.backup", &["--stale"]);
    assert_eq!(run_restore(&[shown(&stale), "--check"]).0, Some(0));
}

/// A client asks for a backup of 40 MB and reads nothing of it: the node holds a chunk for it, serves the others, and ends
/// with its snapshot's file released.
#[test]
fn a_client_that_does_not_read_its_backup_costs_a_chunk() {
    let cluster = Cluster::start(&[]);
    let mut stream = cluster.connect(0);
    let value = "v".repeat(1 << 20);
    for number in 0..40 {
        let request = format!("*3\r\n$3\r\nSET\r\n$3\r\nk{number:02}\r\n$1048576\r\n{value}\r\n");
        assert_eq!(kv_support::exchange(&mut stream, request.as_bytes(), b"\r\n"), b"+OK\r\n");
    }
    let mut asking = cluster.connect(1);
    asking.write_all(b"RAFT.BACKUP\r\n").expect("it is sent");
    let mut head = [0; 1];
    asking.read_exact(&mut head).expect("it begins");
    assert_eq!(&head, b"$");
    assert_eq!(cluster.raft_status(1, "reply_bytes"), (1 << 20).to_string());
    assert_eq!(cluster.cli(1, &["set", "other", "clients"]), "OK");
    drop(asking);
    let released = await_some(|| (cluster.raft_status(1, "reply_bytes") == "0").then_some(()));
    assert!(released.is_some());
}
