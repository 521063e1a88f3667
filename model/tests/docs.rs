//! The numbers in the documents are those that the runs assert, and every configuration of the spec checks every law.

use raft_model::config::Configuration;
use raft_model::configurations::{ALL, CONFORMANCE, CONFORMANCE_NIGHTLY, NIGHTLY, named};
use raft_model::terminal::thousands;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn path(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The row of a table whose first cell begins with this name in backquotes.
fn row<'a>(text: &'a str, name: &str) -> Option<Vec<&'a str>> {
    let line = text.lines().find(|line| line.starts_with(&format!("| `{name}`")))?;
    Some(line.trim_matches('|').split('|').map(str::trim).collect())
}

/// What of these configurations does not stand in the document as it is asserted.
fn wrong(document: &str, configurations: &[&Configuration], name: impl Fn(&Configuration) -> String) -> Vec<String> {
    let text = read(document);
    let mut wrong = Vec::new();
    for configuration in configurations {
        let golden = configuration.golden.unwrap_or_else(|| panic!("{} asserts no number", configuration.name));
        let states = thousands(golden);
        match row(&text, &name(configuration)) {
            None => wrong.push(format!("{document} has no row of {}", name(configuration))),
            Some(cells) if !cells.contains(&states.as_str()) => {
                wrong.push(format!("{document}: {} has {states} states, not {cells:?}", name(configuration)));
            }
            Some(_) => {}
        }
    }
    wrong
}

#[test]
fn the_numbers_of_states_are_the_asserted_ones() {
    let all: Vec<&Configuration> = ALL.iter().chain(NIGHTLY).chain(CONFORMANCE).collect();
    let conformance: Vec<&Configuration> = CONFORMANCE.iter().chain(CONFORMANCE_NIGHTLY).collect();
    let mut wrong_rows = wrong("docs/VERIFICATION.md", &all, |each| each.name.to_string());
    let spec_name = |each: &Configuration| raft_model::conform::spec_name(each.name);
    wrong_rows.extend(wrong("spec/README.md", &conformance, spec_name));
    assert!(wrong_rows.is_empty(), "{wrong_rows:#?}");
    let sum = thousands(CONFORMANCE.iter().filter_map(|each| each.golden).sum());
    let text = read("docs/VERIFICATION.md");
    let transitions = |each: &Configuration| {
        let cells = row(&text, each.name).unwrap_or_default();
        cells.last().and_then(|cell| cell.replace(',', "").parse::<u64>().ok()).unwrap_or_default()
    };
    let transitions = thousands(CONFORMANCE.iter().map(transitions).sum());
    let sentence = format!("{sum} states, {transitions} transitions");
    assert!(text.contains(&sentence), "together they have {sentence}");
}

#[test]
fn every_configuration_of_the_spec_checks_every_law() {
    let text = read("spec/RaftLaws.tla");
    // What comes before `TypeOK` are the words of the laws; what takes arguments is a part of one.
    let laws: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.split_once(" ==").map(|(name, _)| name))
        .filter(|name| name.chars().all(char::is_alphanumeric))
        .skip_while(|name| *name != "TypeOK")
        .collect();
    assert!(laws.len() > 30, "{laws:?}");
    let files = fs::read_dir(path("spec")).expect("the spec").map(|entry| entry.expect("an entry").path());
    let is_checked = |file: &PathBuf| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(".cfg") && (name.starts_with("MC") || name.starts_with("Nightly")) && name != "MCLiveness.cfg"
    };
    let files: Vec<PathBuf> = files.filter(is_checked).collect();
    assert!(files.len() >= 8, "{files:?}");
    for file in files {
        let text = fs::read_to_string(&file).expect("a configuration");
        let words: BTreeSet<&str> = text.split_whitespace().collect();
        let missing: Vec<&&str> = laws.iter().filter(|law| !words.contains(*law)).collect();
        assert!(missing.is_empty(), "{} does not check {missing:?}", file.display());
    }
}

/// A window that any append fills by its bytes is one that holds one append: the runs of both assert one number of states.
#[test]
fn windows_by_bytes_reach_the_states_of_windows_by_number() {
    for (by_bytes, by_number) in [("core-bytes", "core"), ("conform-windows", "conform-replication")] {
        let [by_bytes, by_number] = [by_bytes, by_number].map(|name| named(name).expect("a configuration"));
        assert!(by_bytes.window_by_bytes && !by_number.window_by_bytes && by_number.inflight_max == 1);
        assert_eq!(by_bytes.golden, by_number.golden, "{}", by_bytes.name);
        let count_is_no_limit = by_bytes.raft_config(raft_io::NodeId(1)).inflight_messages_max == usize::MAX;
        assert!(count_is_no_limit, "{}: bytes alone narrow its windows", by_bytes.name);
    }
}
