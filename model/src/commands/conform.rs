//! `raft-model conform`: the spec under TLC against the shipped code under the model.

use super::worst;
use crate::config::Configuration;
use crate::configurations::{CONFORMANCE, CONFORMANCE_NIGHTLY};
use crate::conform::{Comparison, ConformError, Side, compare};
use crate::terminal::{Line, thousands};
use crate::tlc::{Tlc, spec_folder};
use clap::Args;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Compare every state and transition of the spec, as TLC finds them, with those of the shipped code.
///
/// Exit code 0: equal. 1: different; each difference is printed with the way to it. 2: no comparison could be made.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Configurations by name (`conform-…`). Without any: all of them.
    configurations: Vec<String>,
    /// All of them, and the larger ones of the night; with names, those that are named.
    #[arg(long)]
    nightly: bool,
    /// The spec's folder, if it is not `spec` here or above.
    #[arg(long, value_name = "DIR")]
    spec: Option<PathBuf>,
    /// How many differences of each side to print.
    #[arg(long, default_value_t = 3)]
    differences: usize,
    /// Print one JSON object per configuration instead of the table.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
#[must_use]
pub fn run(arguments: &Arguments) -> ExitCode {
    let prepared = chosen(arguments).and_then(|chosen| {
        let tlc = Tlc::find().map_err(|error| error.to_string())?;
        let folder = spec_folder(arguments.spec.as_deref()).map_err(|error| error.to_string())?;
        Ok((chosen, tlc, folder))
    });
    let (chosen, tlc, folder) = match prepared {
        Ok(prepared) => prepared,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    if !arguments.json {
        println!(
            "{:<22} {:>10} {:>10} {:>12} {:>12} {:>8} {:>8}  verdict",
            "configuration", "spec", "code", "transitions", "", "TLC s", "model s"
        );
    }
    let codes: Vec<u8> = chosen.iter().map(|each| compare_one(each, &tlc, &folder, arguments)).collect();
    ExitCode::from(worst(&codes))
}

fn chosen(arguments: &Arguments) -> Result<Vec<&'static Configuration>, String> {
    let all = || CONFORMANCE.iter().chain(CONFORMANCE_NIGHTLY);
    if arguments.configurations.is_empty() {
        return Ok(if arguments.nightly { all().collect() } else { CONFORMANCE.iter().collect() });
    }
    let find = |name: &String| {
        let known: Vec<&str> = all().map(|configuration| configuration.name).collect();
        let found = all().find(|configuration| configuration.name == name);
        found.ok_or_else(|| format!("no conformance configuration is called {name}; there are: {}", known.join(", ")))
    };
    arguments.configurations.iter().map(find).collect()
}

fn compare_one(configuration: &Configuration, tlc: &Tlc, folder: &Path, arguments: &Arguments) -> u8 {
    let mut line = Line::new(configuration.name);
    let compared = compare(configuration, tlc, folder, arguments.differences, |text| line.say(|| text.to_string()));
    line.clear();
    match compared {
        Ok(comparison) => {
            if arguments.json {
                println!("{}", json(configuration, &comparison));
            } else {
                print(configuration, &comparison);
            }
            let empty = !comparison.missing.is_empty();
            u8::from(comparison.differences_count > 0 || empty || drifted(configuration, &comparison))
        }
        Err(error) => {
            eprintln!("{}: {error}", configuration.name);
            // A spec that TLC finds wrong is a result; everything else kept the comparison from being made.
            if matches!(error, ConformError::Incomplete { .. } | ConformError::OtherBounds { .. }) { 1 } else { 2 }
        }
    }
}

/// Whether both sides have another number of states than counted before: both may have lost the same action.
fn drifted(configuration: &Configuration, comparison: &Comparison) -> bool {
    configuration.golden.is_some_and(|golden| golden != comparison.code.states() as u64)
}

fn print(configuration: &Configuration, comparison: &Comparison) {
    let verdict = match comparison.differences_count {
        0 if !comparison.missing.is_empty() => {
            format!("equal, but VACUOUS: never reached {}", comparison.missing.join(", "))
        }
        0 if drifted(configuration, comparison) => "equal, but DRIFTED: other states were counted before".to_string(),
        0 => "equal".to_string(),
        count => format!("{} DIFFERENCES", thousands(count as u64)),
    };
    let count = |number: usize| thousands(number as u64);
    println!(
        "{:<22} {:>10} {:>10} {:>12} {:>12} {:>8.1} {:>8.1}  {verdict}",
        configuration.name,
        count(comparison.spec.states()),
        count(comparison.code.states()),
        count(comparison.spec.transitions()),
        count(comparison.code.transitions()),
        comparison.elapsed[0].as_secs_f64(),
        comparison.elapsed[1].as_secs_f64(),
    );
    for difference in &comparison.differences {
        let side = match difference.side {
            Side::Spec => "the spec has, and the code has not",
            Side::Code => "the code has, and the spec has not",
        };
        println!("\n  {side}: after {} steps: {}", difference.path.len(), difference.path.join(", "));
        difference.text.iter().for_each(|line| println!("    {line}"));
    }
}

fn json(configuration: &Configuration, comparison: &Comparison) -> serde_json::Value {
    let differences: Vec<_> = comparison
        .differences
        .iter()
        .map(|difference| {
            let side = if difference.side == Side::Spec { "spec" } else { "code" };
            serde_json::json!({ "side": side, "path": difference.path, "text": difference.text })
        })
        .collect();
    serde_json::json!({
        "configuration": configuration.name,
        "bounds": configuration.bounds(),
        "spec_states": comparison.spec.states(),
        "code_states": comparison.code.states(),
        "spec_transitions": comparison.spec.transitions(),
        "code_transitions": comparison.code.transitions(),
        "tlc_seconds": comparison.elapsed[0].as_secs_f64(),
        "model_seconds": comparison.elapsed[1].as_secs_f64(),
        "never_reached": comparison.missing,
        "drifted": drifted(configuration, comparison),
        "differences_count": comparison.differences_count,
        "differences": differences,
    })
}
