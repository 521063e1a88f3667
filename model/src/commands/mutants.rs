//! `raft-model mutants`: mistakes that the laws must find.

use crate::check::{Limits, Verdict, check};
use crate::mutants::scratch::{Bounds, Outcome, Program, Scratch, Trouble};
use crate::mutants::{Expectation, Mutant, MutantError, catalogue, root};
use crate::terminal::{Line, thousands};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

/// Make mistakes in the real code, one at a time, and check that each breaks the law that forbids it.
///
/// Each mutant is a patch in model/mutants. It is applied to a scratch copy of the workspace, which is built and checked
/// with that law alone. Exit code 0: each mutant died or survived as expected. 1: one did not, or its patch no longer
/// applies or builds. 2: the mutants could not be run.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Mutants by number, or by the name of a configuration in which they must die or survive. Without any: all of them.
    mutants: Vec<String>,
    /// All of them.
    #[arg(long, conflicts_with_all = ["mutants", "representative"])]
    all: bool,
    /// All of them, as --all; with numbers or names, those that are named.
    #[arg(long, conflicts_with_all = ["all", "representative"])]
    nightly: bool,
    /// The few that stand for all, in a few minutes.
    #[arg(long, conflicts_with = "mutants")]
    representative: bool,
    /// List them, and end.
    #[arg(long)]
    list: bool,
    /// First check that the code without any mistake breaks no law in the same configurations.
    #[arg(long)]
    unmutated: bool,
    /// Cut each check short after so many seconds; that is no death.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
    /// Threads of each check; with one, depth and states are the same every time.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Where to copy and build. [default: mutants in the target folder]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Print one JSON object per mutant and configuration instead of the table.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
#[must_use]
pub fn run(arguments: &Arguments) -> ExitCode {
    match run_all(arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}

fn run_all(arguments: &Arguments) -> Result<bool, String> {
    let root = root().map_err(|error| error.to_string())?;
    let mutants = match catalogue(&root) {
        Ok(mutants) => mutants,
        Err(error @ (MutantError::Io { .. } | MutantError::NoFolder(_))) => return Err(error.to_string()),
        Err(error) => {
            eprintln!("{error}");
            return Ok(false);
        }
    };
    let chosen = choose(arguments, &mutants)?;
    if !arguments.json {
        println!("{}", header());
    }
    if arguments.list {
        for mutant in chosen {
            mutant.expectations.iter().for_each(|expectation| say(arguments, mutant, expectation, None));
        }
        return Ok(true);
    }
    let mut all_expected = !arguments.unmutated || check_unmutated(arguments, &chosen);
    let folder = arguments.scratch.clone().unwrap_or_else(|| {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        target.join("mutants")
    });
    let scratch = Scratch::new(&root, &folder).map_err(|error| error.to_string())?;
    let count = chosen.len();
    for (at, mutant) in chosen.into_iter().enumerate() {
        let mut line = Line::new(&format!("{} of {count}  {}", at + 1, mutant.title()));
        line.say(|| "building".to_string());
        let outcomes = run_one(arguments, &scratch, mutant, &mut line);
        line.clear();
        match outcomes {
            Ok(outcomes) => {
                for (expectation, outcome) in mutant.expectations.iter().zip(&outcomes) {
                    all_expected &= outcome.is_expected;
                    say(arguments, mutant, expectation, Some(outcome));
                }
            }
            Err(Trouble::Stale(why)) => {
                all_expected = false;
                let outcome = Outcome { is_expected: false, verdict: why, depth: 0, states: 0, seconds: 0.0 };
                say(arguments, mutant, &mutant.expectations[0], Some(&outcome));
            }
            Err(Trouble::Broken(why)) => return Err(format!("{}: {why}", mutant.title())),
        }
    }
    Ok(all_expected)
}

fn choose<'a>(arguments: &Arguments, mutants: &'a [Mutant]) -> Result<Vec<&'a Mutant>, String> {
    if arguments.representative {
        return Ok(mutants.iter().filter(|mutant| mutant.representative).collect());
    }
    if arguments.mutants.is_empty() {
        return Ok(mutants.iter().collect());
    }
    let mut chosen: Vec<&Mutant> = Vec::new();
    for name in &arguments.mutants {
        let number: Option<u32> = name.parse().ok();
        let is_meant = |mutant: &&Mutant| {
            let configurations = mutant.expectations.iter().map(Expectation::place);
            number.map_or_else(|| configurations.into_iter().any(|each| each == name), |number| mutant.number == number)
        };
        let found: Vec<&Mutant> = mutants.iter().filter(is_meant).collect();
        if found.is_empty() {
            return Err(format!(
                "there is no mutant {name}, and none in a configuration of that name; see `raft-model mutants --list`"
            ));
        }
        chosen.extend(
            found
                .into_iter()
                .filter(|mutant| !chosen.iter().any(|each| each.number == mutant.number))
                .collect::<Vec<_>>(),
        );
    }
    Ok(chosen)
}

fn run_one(
    arguments: &Arguments,
    scratch: &Scratch,
    mutant: &Mutant,
    line: &mut Line,
) -> Result<Vec<Outcome>, Trouble> {
    let bounds = Bounds { timeout_seconds: arguments.timeout, threads: arguments.threads.max(1) };
    let check_all = |program: &Program<'_>| {
        let each = |expectation: &Expectation| {
            line.say(|| format!("checking {}", expectation.place()));
            program.check(expectation, bounds)
        };
        mutant.expectations.iter().map(each).collect()
    };
    scratch.with(mutant, check_all)?
}

/// Whether the code as it is breaks no law where the mutants must.
fn check_unmutated(arguments: &Arguments, mutants: &[&Mutant]) -> bool {
    let mut configurations: Vec<_> =
        mutants.iter().flat_map(|mutant| mutant.expectations.iter().filter_map(Expectation::configuration)).collect();
    configurations.sort_by_key(|configuration| configuration.name);
    configurations.dedup_by_key(|configuration| configuration.name);
    // The model reports what stops a server; its backtrace would only hide that.
    std::panic::set_hook(Box::new(|_| {}));
    let timeout = Some(std::time::Duration::from_secs(arguments.timeout));
    let mut all_clean = true;
    for configuration in configurations {
        let mut line = Line::new(configuration.name);
        let limits = Limits { timeout, ..Limits::default() };
        let report = check(configuration, &limits, |progress| {
            line.say(|| format!("depth {}  states {}", progress.depth, thousands(progress.states)));
        });
        line.clear();
        let is_expected = report.verdict == Verdict::Complete;
        all_clean &= is_expected;
        let progress = report.progress;
        let (states, seconds) = (progress.states, progress.elapsed.as_secs_f64());
        let verdict = report.verdict.summary();
        let outcome = Outcome { is_expected, verdict, depth: progress.depth, states, seconds };
        if arguments.json {
            println!("{}", json(None, "-", configuration.name, Some(&outcome)));
        } else {
            println!("{}", row("-  no mistake", "-", configuration.name, Some(&outcome)));
        }
    }
    all_clean
}

fn say(arguments: &Arguments, mutant: &Mutant, expectation: &Expectation, outcome: Option<&Outcome>) {
    let (law, configuration) = (expectation.law_name(), expectation.place());
    if arguments.json {
        println!("{}", json(Some(mutant), law, configuration, outcome));
        return;
    }
    println!("{}", row(&format!("{:>2} {}", mutant.number, mutant.name), law, configuration, outcome));
    if let (Expectation::Survives { reason, .. }, Some(_)) = (expectation, outcome) {
        println!("   because {reason}");
    }
}

fn header() -> String {
    format!(
        "{:<40} {:<28} {:<30} {:>5} {:>12} {:>8}  verdict",
        " # mutant", "law", "configuration", "depth", "states", "seconds"
    )
}

fn row(title: &str, law: &str, configuration: &str, outcome: Option<&Outcome>) -> String {
    let row = format!("{title:<40} {law:<28} {configuration:<30}");
    match outcome {
        Some(Outcome { verdict, depth, states, seconds, .. }) => {
            format!("{row} {depth:>5} {:>12} {seconds:>8.1}  {verdict}", thousands(*states))
        }
        None => row.trim_end().to_string(),
    }
}

fn json(mutant: Option<&Mutant>, law: &str, configuration: &str, outcome: Option<&Outcome>) -> serde_json::Value {
    serde_json::json!({
        "number": mutant.map(|mutant| mutant.number),
        "name": mutant.map(|mutant| &mutant.name),
        "does": mutant.map(|mutant| &mutant.does),
        "law": law,
        "configuration": configuration,
        "depth": outcome.map(|outcome| outcome.depth),
        "states": outcome.map(|outcome| outcome.states),
        "seconds": outcome.map(|outcome| outcome.seconds),
        "verdict": outcome.map(|outcome| &outcome.verdict),
        "as_expected": outcome.map(|outcome| outcome.is_expected),
    })
}
