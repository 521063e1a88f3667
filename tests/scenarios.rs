//! Scenario scripts: one story each, against the real protocol, with the output that a reader has judged right.
//!
//! `tests/scenarios/<chapter>/<sentence>.txt` starts with the story as comments. The last line of these names the law that
//! the story is about: `# Law: LogMatching`, or `# Law: none: why`. `tests/invariants.rs` holds scripts and laws together.
//! The commands are described in `raft_io::testkit::script`. After every command the laws of the whole cluster are
//! checked; a breach fails the script.
//! With `UPDATE_SCENARIOS=1` the output in the files is replaced by what the code does now: read the difference.

use raft_io::Transition;
use raft_io::testkit::script::{golden, verb};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn scripts_of(chapter: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios").join(chapter);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut scripts: Vec<PathBuf> = entries.map(|entry| entry.expect("a directory entry").path()).collect();
    scripts.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    scripts.sort();
    scripts
}

/// What is wrong with a script, if anything.
fn check(path: &Path) -> Option<String> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    if !text.starts_with("# ") {
        return Some(format!("{name}: a script starts with its story"));
    }
    let found = match std::panic::catch_unwind(|| golden(&text)) {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return Some(format!("{name}: {error}")),
        Err(_) => return Some(format!("{name}: the protocol stopped itself, see above")),
    };
    if found == text {
        return None;
    }
    if std::env::var_os("UPDATE_SCENARIOS").is_some() {
        fs::write(path, found).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        return None;
    }
    Some(format!("{name}: the output differs\n{}", first_difference(&text, &found)))
}

fn first_difference(expected: &str, found: &str) -> String {
    let (expected, found): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), found.lines().collect());
    let at = expected.iter().zip(&found).take_while(|(left, right)| left == right).count();
    let around = |lines: &[&str]| lines[at.saturating_sub(4)..lines.len().min(at + 4)].join("\n    ");
    format!("  line {}, expected\n    {}\n  found\n    {}", at + 1, around(&expected), around(&found))
}

fn run_chapter(chapter: &str, scripts_min: usize) {
    let scripts = scripts_of(chapter);
    assert!(scripts.len() >= scripts_min, "{chapter} has {} scripts, of at least {scripts_min}", scripts.len());
    let wrong: Vec<String> = scripts.iter().filter_map(|path| check(path)).collect();
    assert!(wrong.is_empty(), "{} of {} scripts:\n\n{}", wrong.len(), scripts.len(), wrong.join("\n\n"));
}

#[test]
fn election() {
    run_chapter("election", 40);
}

#[test]
fn replication() {
    run_chapter("replication", 40);
}

#[test]
fn snapshots() {
    run_chapter("snapshots", 12);
}

#[test]
fn persistence() {
    run_chapter("persistence", 20);
}

#[test]
fn transfer() {
    run_chapter("transfer", 16);
}

#[test]
fn reads() {
    run_chapter("reads", 30);
}

#[test]
fn leases() {
    run_chapter("leases", 14);
}

#[test]
fn membership() {
    run_chapter("membership", 48);
}

/// Law 7: every transition is a verb, and some script uses it.
#[test]
fn every_transition_is_a_verb_that_some_script_uses() {
    let chapters = ["election", "replication", "persistence", "reads", "transfer", "snapshots", "membership", "leases"];
    let scripts = chapters.into_iter().flat_map(scripts_of);
    let texts: Vec<String> = scripts.map(|path| fs::read_to_string(&path).expect("a script")).collect();
    let verbs = texts.iter().flat_map(|text| text.lines()).filter_map(|line| {
        let command = line.trim_start_matches("quietly ").trim_start_matches("briefly ");
        command.split(' ').next()
    });
    let verbs: BTreeSet<&str> = verbs.collect();
    let unused: Vec<String> = Transition::ALL.iter().map(|transition| verb(*transition)).collect();
    let unused: Vec<&String> = unused.iter().filter(|verb| !verbs.contains(verb.as_str())).collect();
    assert!(unused.is_empty(), "no script says {unused:?}");
}

/// A changed line, a broken law and an impossible command are all noticed.
#[test]
fn a_script_can_fail() {
    let script = "# A leader is elected.\n\ncluster 1\nelection_timeout 1\n---\n";
    let found = golden(script).expect("the script runs");
    assert!(found.contains("role leader term=1 leader=1"), "{found}");
    assert_eq!(golden(&found), Ok(found.clone()), "running it again changes nothing");
    assert_ne!(golden(script), Ok(script.to_string()), "missing output is a difference");

    let unknown = golden("# x\n\ncluster 1\nelect 1\n").expect_err("an unknown command");
    assert!(unknown.contains("there is no command elect"), "{unknown}");
    let impossible = golden("# x\n\ncluster 2\ndeliver 1 2\n").expect_err("no message is in flight");
    assert!(impossible.contains("no such message"), "{impossible}");

    // A false acknowledgement commits what only one server holds.
    let lie = "# x\n\ncluster 3\nquietly election_timeout 1\nquietly stabilize\npartition 1 | 2 3\nclient_request 1 x\ninject 2 1 append_entries_response term=1 accepted match=2\n";
    let lie = golden(lie).expect_err("MatchIndexSound");
    assert!(lie.contains("MatchIndexSound is broken"), "{lie}");
}
