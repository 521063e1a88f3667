//! `raft-model check`: every state of the real step function within bounds.

use super::worst;
use crate::check::{Limits, Progress, Report, Verdict, check};
use crate::config::Configuration;
use crate::configurations::{ALL, CONFORMANCE, NIGHTLY, named};
use crate::counterexample::{self, Trace, text};
use crate::laws::Law;
use crate::mutants::configurations::MUTANTS;
use crate::terminal::{Line, memory_bytes, thousands};
use clap::Args;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Explore every state of a bounded cluster of real servers, and check every law in each.
///
/// Exit code 0: every configuration is complete and clean. 1: a law is broken, a goal was never reached, or a count has
/// drifted. 2: a run was cut short, which shows nothing.
///
/// A broken law is told as a shortest way there, one transition a line, and in three files: `counterexample.html`, a page
/// with a space-time diagram; `counterexample.svg`, the diagram alone; and `counterexample.txt`, a scenario script that
/// breaks the law under `cargo test`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Configurations by name; see --list. Without any: `core`.
    configurations: Vec<String>,
    /// Every configuration of continuous integration.
    #[arg(long, conflicts_with = "configurations")]
    all: bool,
    /// Those of --all and the larger ones of the night; with names, those that are named.
    #[arg(long, conflicts_with = "all")]
    nightly: bool,
    /// List the configurations with their bounds, and end.
    #[arg(long)]
    list: bool,
    /// Only these laws count (repeatable); see docs/INVARIANTS.md and docs/VERIFICATION.md for their names.
    #[arg(long = "law", value_name = "NAME", value_parser = parse_law)]
    laws: Vec<Law>,
    /// Threads; all cores if not given.
    #[arg(long)]
    threads: Option<usize>,
    /// Cut each run short after so many seconds.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Cut each run short after so many distinct states.
    #[arg(long, value_name = "STATES")]
    max_states: Option<u64>,
    /// Where to write what tells a broken law: a page, its picture, and a scenario script that replays it.
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Print one JSON object per configuration instead of the table.
    #[arg(long)]
    json: bool,
}

fn parse_law(name: &str) -> Result<Law, String> {
    Law::named(name).ok_or_else(|| {
        let names: Vec<&str> = Law::ALL.iter().map(|law| law.name()).collect();
        format!("there are: {}", names.join(", "))
    })
}

/// Runs the command.
#[must_use]
pub fn run(arguments: &Arguments) -> ExitCode {
    let chosen = match chosen(arguments) {
        Ok(chosen) => chosen,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    if arguments.list {
        list();
        return ExitCode::SUCCESS;
    }
    let mut limits = Limits { states_max: arguments.max_states, ..Limits::default() };
    limits.threads = arguments.threads.unwrap_or(limits.threads).max(1);
    limits.timeout = arguments.timeout.map(Duration::from_secs);
    if !arguments.laws.is_empty() {
        limits.laws.clone_from(&arguments.laws);
    }
    // The model reports what stops a server; its backtrace would only hide that.
    std::panic::set_hook(Box::new(|_| {}));
    if !arguments.json {
        println!("{}", header());
    }
    let mut total = Progress::default();
    let mut codes = Vec::new();
    let several = chosen.len() > 1;
    for configuration in chosen {
        let name =
            if several { format!("counterexample-{}", configuration.name) } else { "counterexample".to_string() };
        let mut line = Line::new(configuration.name);
        let report = check(configuration, &limits, |progress| line.say(|| status(progress)));
        line.clear();
        if arguments.json {
            println!("{}", json(configuration, &report, &arguments.out, &name));
        } else {
            println!("{}", row(configuration, &report));
            explain(&report, &arguments.out, &name);
        }
        total.states += report.progress.states;
        total.steps += report.progress.steps;
        total.elapsed += report.progress.elapsed;
        codes.push(report.verdict.exit_code());
    }
    if !arguments.json && codes.len() > 1 {
        println!("{} states in {:.1} s", thousands(total.states), total.elapsed.as_secs_f64());
    }
    ExitCode::from(worst(&codes))
}

fn chosen(arguments: &Arguments) -> Result<Vec<&'static Configuration>, String> {
    if arguments.all {
        return Ok(ALL.iter().collect());
    }
    if arguments.nightly && arguments.configurations.is_empty() {
        return Ok(ALL.iter().chain(NIGHTLY).collect());
    }
    let names: Vec<&str> = if arguments.configurations.is_empty() {
        vec!["core"]
    } else {
        arguments.configurations.iter().map(String::as_str).collect()
    };
    let find = |name: &str| {
        named(name).ok_or_else(|| format!("no configuration is called {name}; see `raft-model check --list`"))
    };
    names.into_iter().map(find).collect()
}

fn list() {
    let lists = [("--all", ALL), ("--nightly", NIGHTLY), ("conform", CONFORMANCE), ("mutants", MUTANTS)];
    for (title, configurations) in lists {
        println!("{title}");
        for configuration in configurations {
            println!("  {:<22} {:<44} {}", configuration.name, configuration.bounds(), configuration.purpose);
        }
    }
}

fn status(progress: &Progress) -> String {
    let memory = memory_bytes().map_or(String::new(), |bytes| format!("  {} MiB", thousands(bytes >> 20)));
    format!(
        "depth {}  queue {}  states {}  {}/s{memory}",
        progress.depth,
        thousands(progress.queue),
        thousands(progress.states),
        thousands(progress.rate() as u64)
    )
}

fn header() -> String {
    format!(
        "{:<22} {:<44} {:>12} {:>6} {:>8} {:>10}  verdict",
        "configuration", "bounds", "states", "depth", "seconds", "states/s"
    )
}

fn row(configuration: &Configuration, report: &Report) -> String {
    let progress = &report.progress;
    format!(
        "{:<22} {:<44} {:>12} {:>6} {:>8.1} {:>10}  {}",
        configuration.name,
        configuration.bounds(),
        thousands(progress.states),
        progress.depth,
        progress.elapsed.as_secs_f64(),
        thousands(progress.rate() as u64),
        report.verdict.summary()
    )
}

/// Tells a broken law: on standard output, and in files.
fn explain(report: &Report, out: &Path, name: &str) {
    let Verdict::Violated(violation) = &report.verdict else { return };
    let trace = Trace::of_violation(&report.cluster, violation);
    println!("\n{}", text::of_trace(&trace));
    if trace.steps.is_empty() {
        return;
    }
    match counterexample::write_files(&trace, out, name) {
        Ok(files) => {
            println!("page     {}", files.page.display());
            println!("picture  {}", files.picture.display());
            println!("script   {}", files.script.display());
        }
        Err(error) => eprintln!("cannot write to {}: {error}; choose another place with --out", out.display()),
    }
}

fn json(configuration: &Configuration, report: &Report, out: &Path, name: &str) -> serde_json::Value {
    let progress = &report.progress;
    let (servers, messages, steps) = report.cluster.tables().sizes();
    let trace = match &report.verdict {
        Verdict::Violated(violation) => Some(Trace::of_violation(&report.cluster, violation)),
        _ => None,
    };
    let laws: Vec<&str> = trace.iter().flat_map(|trace| &trace.laws).map(|law| law.name()).collect();
    let message = match &report.verdict {
        Verdict::Violated(violation) => violation.message.as_deref(),
        _ => None,
    };
    let path: Vec<&str> = trace.iter().flat_map(|trace| &trace.steps).map(|step| step.label.as_str()).collect();
    let files = trace.as_ref().filter(|trace| !trace.steps.is_empty()).and_then(|trace| {
        let files = counterexample::write_files(trace, out, name).ok()?;
        Some([files.page, files.picture, files.script].map(|path| path.display().to_string()))
    });
    serde_json::json!({
        "configuration": configuration.name,
        "bounds": configuration.bounds(),
        "states": progress.states,
        "transitions": progress.steps,
        "depth": progress.depth,
        "seconds": progress.elapsed.as_secs_f64(),
        "states_per_second": progress.rate(),
        "distinct_servers": servers,
        "distinct_messages": messages,
        "distinct_steps": steps,
        "dead_messages_proven": report.proven.dead_messages,
        "renamed_steps_proven": report.proven.renamed_steps,
        "collision_probability": (progress.states as f64).powi(2) / 2_f64.powi(65),
        "verdict": report.verdict.summary(),
        "laws": laws,
        "message": message,
        "counterexample": path,
        "files": files,
        "exit_code": report.verdict.exit_code(),
    })
}
