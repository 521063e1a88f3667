//! The mutants' files against the sources and the catalogue, without building any of them.

use raft_io::testkit::invariants;
use raft_model::laws::Law;
use raft_model::mutants::{Expectation, Mutant, catalogue};
use raft_model::simulate::CONVERGENCE;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Reads every header: each names a law and a configuration that exist, and no number comes twice.
fn mutants() -> Vec<Mutant> {
    catalogue(&root()).unwrap_or_else(|error| panic!("{error}"))
}

/// What the catalogue has of election, persistence, replication, membership, pre-vote, check-quorum, reads and snapshots; from 61 to 73,
/// one for each law that none of those breaks; from 120 on, those that die on walks.
const CATALOGUE: [RangeInclusive<u32>; 4] = [1..=38, 40..=54, 56..=117, 120..=124];

#[test]
fn every_patch_applies_to_the_sources() {
    for mutant in mutants() {
        let files = mutant.apply(&root()).unwrap_or_else(|error| panic!("{error}"));
        for (path, patched) in files {
            let source = std::fs::read_to_string(&path).expect("it was read before");
            assert_ne!(source, patched, "{} changes nothing in {}", mutant.title(), path.display());
        }
    }
}

/// A check that cannot fail is a defect: every law of the model has a mutant that breaks it.
#[test]
fn every_law_breaks_in_some_mutant() {
    let mutants = mutants();
    let expectations = mutants.iter().flat_map(|mutant| &mutant.expectations);
    let broken: BTreeSet<Law> = expectations
        .filter_map(|expectation| match expectation {
            Expectation::Dies { law, .. } => Some(*law),
            Expectation::DiesOnWalks { .. } | Expectation::Survives { .. } => None,
        })
        .collect();
    let unbroken: Vec<Law> = Law::ALL.iter().copied().filter(|law| !broken.contains(law)).collect();
    assert!(unbroken.is_empty(), "no mutant breaks {unbroken:?}");
}

/// Laws of the simulation that the model does not have need mutants of their own, which die on walks.
#[test]
fn every_law_of_the_simulation_alone_breaks_on_some_walk() {
    let mutants = mutants();
    let names = mutants.iter().flat_map(|mutant| &mutant.expectations);
    let broken: BTreeSet<&str> = names
        .filter(|expectation| matches!(expectation, Expectation::DiesOnWalks { .. }))
        .map(Expectation::law_name)
        .collect();
    let in_model = |name: &String| Law::named(name).is_some();
    let alone = invariants::Law::ALL.iter().map(ToString::to_string).filter(|name| !in_model(name));
    let unbroken: Vec<String> =
        alone.chain([CONVERGENCE.to_string()]).filter(|name| !broken.contains(name.as_str())).collect();
    assert!(unbroken.is_empty(), "no mutant breaks {unbroken:?}");
}

#[test]
fn the_mutants_are_those_of_the_catalogue() {
    let numbers: Vec<u32> = mutants().iter().map(|mutant| mutant.number).collect();
    let expected: Vec<u32> = CATALOGUE.into_iter().flatten().collect();
    assert_eq!(numbers, expected);
}

/// A few stand for all: every part of the protocol, and one that must survive.
#[test]
fn the_representative_mutants_are_few_and_of_every_kind() {
    let representative: Vec<Mutant> = mutants().into_iter().filter(|mutant| mutant.representative).collect();
    assert!((5..=8).contains(&representative.len()), "{}", representative.len());
    let laws: BTreeSet<&str> =
        representative.iter().flat_map(|mutant| mutant.expectations.iter().map(Expectation::law_name)).collect();
    for law in ["ElectionSafety", "StateMachineSafety", "LeaderCompleteness", "LinearizableRead", "AllLaws"] {
        assert!(laws.contains(law), "{law} is not among {laws:?}");
    }
}

/// The README's table has one row for each, and no other.
#[test]
fn every_mutant_has_its_row_in_the_table() {
    let path = root().join("model/mutants/README.md");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut rows: Vec<(u32, String, String)> = text
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix('|')?.split('|').map(|cell| cell.trim().trim_matches('`').to_string());
            Some((cells.next()?.parse().ok()?, cells.next()?, cells.next()?))
        })
        .collect();
    let mut expected: Vec<(u32, String, String)> = mutants()
        .iter()
        .flat_map(|mutant| {
            let row = |each: &Expectation| (mutant.number, mutant.name.clone(), each.law_name().to_string());
            mutant.expectations.iter().map(row).collect::<Vec<_>>()
        })
        .collect();
    rows.sort();
    expected.sort();
    assert_eq!(rows, expected);
}

#[test]
fn a_number_that_no_mutant_has_is_no_pass() {
    let command = std::process::Command::new(env!("CARGO_BIN_EXE_raft-model")).args(["mutants", "999"]).output();
    let output = command.expect("raft-model runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("there is no mutant 999"));
}
