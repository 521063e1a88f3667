//! `kv inspect`: what a node's directory holds and what is damaged where, found without touching it.

#![cfg(all(unix, feature = "persistence", feature = "tcp"))]

#[allow(dead_code, reason = "each test uses its part")]
mod kv_support;
#[allow(dead_code, unused_imports, reason = "a program of its own, of which this test runs the server")]
#[path = "../examples/kv/server/mod.rs"]
mod server;

use kv_support::{Cluster, run_inspect, start_in_vain};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Not a test: the nodes of the tests are this program running only this.
#[test]
fn node_process() {
    kv_support::node_process();
}

/// Every file with what it holds and when it was written, every directory with when its names changed.
fn everything(path: &Path) -> BTreeMap<PathBuf, (SystemTime, Option<Vec<u8>>)> {
    let modified = |path: &Path| fs::metadata(path).and_then(|found| found.modified()).expect("a time");
    let mut found = BTreeMap::from([(path.to_path_buf(), (modified(path), None))]);
    for entry in fs::read_dir(path).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(everything(&path));
        } else {
            found.insert(path.clone(), (modified(&path), Some(fs::read(&path).expect("it can be read"))));
        }
    }
    found
}

/// Looks twice, as a person and as a program would, and makes sure that nothing changed.
fn look(data: &Path) -> (Option<i32>, String, Value) {
    let shown = data.display().to_string();
    let before = everything(data);
    let (code, text) = run_inspect(&[&shown]);
    let (same, json) = run_inspect(&[&shown, "--json"]);
    assert!(everything(data) == before, "looking changed something");
    assert_eq!(code, same, "{text}\n{json}");
    (code, printed(&text), serde_json::from_str(&printed(&json)).unwrap_or_else(|error| panic!("{error}: {json}")))
}

/// Without what the test program itself says before it.
fn printed(output: &str) -> String {
    output.split_once("node_process ... ").map_or(output, |(_, printed)| printed).to_owned()
}

/// A cluster that wrote, took snapshots, wrote on, and of which one node is down.
fn stopped_node(cluster: &mut Cluster) -> PathBuf {
    for number in 0..40 {
        assert_eq!(cluster.cli(0, &["set", &format!("k{number}"), &"v".repeat(1000)]), "OK");
    }
    let node = cluster.follower();
    assert!(cluster.cli(node, &["raft.snapshot"]).starts_with("OK"));
    assert_eq!(cluster.cli(node, &["set", "behind", "it"]), "OK");
    cluster.kill(node);
    cluster.data(node)
}

/// Overwrites one byte with another.
fn damage(file: &Path, offset: u64) {
    let opened = fs::File::options().read(true).write(true).open(file).expect("the file");
    let mut byte = [0];
    opened.read_exact_at(&mut byte, offset).expect("a byte");
    opened.write_all_at(&[!byte[0]], offset).expect("written");
}

#[test]
fn a_clean_directory_is_described_and_left_as_it_is() {
    let mut cluster = Cluster::start(&["--snapshot-trail", "0"]);
    let data = stopped_node(&mut cluster);
    let (code, text, json) = look(&data);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.starts_with("clean: ") && text.contains("of cluster 1"), "{text}");
    for part in [
        "term ",
        "entries ",
        "begins with the snapshot ",
        "members since entry ",
        "history ",
        ".wal",
        "intact to its end",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    assert_eq!(json["clean"], true);
    assert_eq!(json["log"]["membership"]["voters"], serde_json::json!([1, 2, 3]));
    assert_eq!(json["log"]["membership"]["history"]["since"]["index"], 1, "{json:#}");
    assert!(json["log"]["snapshot"]["index"].as_u64() >= Some(40), "{json:#}");
    assert!(json["log"]["last"]["index"].as_u64() > json["log"]["snapshot"]["index"].as_u64(), "{json:#}");
    assert_eq!(json["snapshots"][0]["last"], json["log"]["snapshot"], "{json:#}");
    assert_eq!(json["process"], Value::Null);
    assert_eq!((&json["lives"][0]["count"], &json["identity"]["openings"]), (&1.into(), &1.into()), "{json:#}");
    assert!(text.contains("life 1 began in term 0"), "{text}");
}

#[test]
fn a_node_at_work_is_looked_at_without_being_disturbed() {
    let cluster = Cluster::start(&[]);
    for node in 0..3 {
        assert_eq!(cluster.cli(node, &["incr", "n"]), (node + 1).to_string());
        let (code, text) = run_inspect(&[&cluster.data(node).display().to_string()]);
        assert_eq!(code, Some(0), "{text}");
        if cfg!(target_os = "linux") {
            assert!(text.contains(&format!("process {} is at work", cluster.process_id(node))), "{text}");
        }
    }
    assert_eq!(cluster.cli(0, &["incr", "n"]), "4");
}

#[test]
fn damage_is_named_with_its_place_and_what_may_be_lost() {
    let mut cluster = Cluster::start(&[]);
    let data = stopped_node(&mut cluster);
    let (_, _, clean) = look(&data);
    let segment = PathBuf::from(clean["segments"][0]["file"].as_str().expect("a file"));
    let snapshot =
        fs::read_dir(data.join("snapshots")).expect("snapshots").map(|entry| entry.expect("an entry").path());
    let snapshot =
        snapshot.into_iter().find(|path| path.extension().is_some_and(|end| end == "snapshot")).expect("one");
    damage(&segment, 5000);
    let (code, text, json) = look(&data);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.starts_with("DAMAGED: ") && text.contains(&segment.display().to_string()), "{text}");
    assert!(text.contains("may be lost") && text.contains("nothing was changed"), "{text}");
    let (place, last) = (&json["damaged_at"], &clean["log"]["last"]["index"]);
    assert!(place["offset"].as_u64().is_some_and(|offset| offset <= 5000), "{json:#}");
    assert!(place["first_index"].as_u64() <= last.as_u64() && place["last_acknowledged"].as_u64() <= last.as_u64());
    damage(&segment, 5000);
    assert_eq!(look(&data).0, Some(0), "as it was");

    let middle = fs::metadata(&snapshot).expect("a size").len() / 2;
    damage(&snapshot, middle);
    let (code, text, json) = look(&data);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("snapshot") && text.contains("DAMAGED"), "{text}");
    assert!(
        json["snapshots"].as_array().is_some_and(|all| all.iter().any(|one| one["damage"].is_string())),
        "{json:#}"
    );
    assert!(json["damaged_at"].is_null() && json["log"].is_object(), "the log is intact: {json:#}");
    damage(&snapshot, middle);

    fs::remove_file(&segment).expect("removed");
    let (code, text, _) = look(&data);
    assert!(code == Some(1) && text.contains("the segment is missing") && text.contains("MISSING"), "{text}");
    fs::remove_file(data.join("MANIFEST")).expect("removed");
    let (code, text, json) = look(&data);
    assert!(code == Some(1) && text.contains("MANIFEST") && json["identity"].is_null(), "{text}");
}

#[test]
fn where_there_is_no_log_there_is_nothing_to_look_at() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for path in [dir.path().to_path_buf(), dir.path().join("missing")] {
        let (code, said) = run_inspect(&[&path.display().to_string()]);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("inspect: ") && said.contains(&path.display().to_string()), "{said}");
    }
    assert!(!dir.path().join("missing").exists());
}

/// A node that starts said nothing of files that look like its own and are none, nor of a file system that promises too little:
/// the library knew both, and nobody asked it.
#[test]
fn a_starting_node_names_what_is_foreign_in_its_directories_and_what_its_file_system_does_not_promise() {
    let in_memory = tempfile::tempdir_in("/dev/shm");
    let folder = in_memory.or_else(|_| tempfile::tempdir()).expect("a temporary directory");
    let data = folder.path().join("data");
    // The address is taken, so that each start opens everything, and ends.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let listen = taken.local_addr().expect("an address").to_string();
    let line: Vec<String> = [
        ("--id", "1"),
        ("--listen", listen.as_str()),
        ("--peer-listen", "127.0.0.1:0"),
        ("--peers", "1=127.0.0.1:7371"),
        ("--data", data.to_str().expect("plain letters")),
    ]
    .into_iter()
    .flat_map(|(name, value)| [name.to_owned(), value.to_owned()])
    .collect();
    let (code, said) = start_in_vain(&line);
    assert_eq!(code, Some(2), "{said}");
    assert!(!said.contains("is left alone"), "its own files are not foreign: {said}");

    let foreign = [data.join("copy.wal"), data.join("snapshots").join("copy.partial")];
    foreign.iter().for_each(|file| fs::write(file, b"").expect("a file"));
    let (code, said) = start_in_vain(&line);
    assert_eq!(code, Some(2), "{said}");
    for file in &foreign {
        assert_eq!(said.matches(&file.display().to_string()).count(), 1, "once: {said}");
        assert!(file.exists(), "{}", file.display());
    }
    assert!(said.contains("the log made, and is left alone") && said.contains("the store of snapshots made"), "{said}");
    let on_tmpfs = fs::read_to_string("/proc/self/mountinfo")
        .is_ok_and(|mounts| mounts.lines().any(|line| line.contains(" /dev/shm ") && line.contains(" - tmpfs ")));
    if on_tmpfs && folder.path().starts_with("/dev/shm") {
        assert_eq!(said.matches("lies on tmpfs").count(), 1, "{said}");
    }
}
