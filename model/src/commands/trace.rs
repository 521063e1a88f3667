//! `raft-model trace`: whether a recorded trace is a behaviour of the spec.

use crate::terminal::{Line, thousands};
use crate::tlc::{HEAP_MEBIBYTES, spec_folder};
use crate::trace::{Error, Options, Stage, Verdict, validate};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

/// Validate a recorded trace against the TLA+ spec with TLC.
///
/// Every line of the trace (docs/TRACE.md) must be explained by the spec's action of the same name: it is possible there,
/// leads to the recorded state and sends the recorded messages. Exit code 0: every line is. 1: one is not; it is printed
/// with what the spec says instead. 2: the trace cannot be judged.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The trace: one file with the lines of all nodes, as `cluster --trace` and `raft_io::trace::merge` make it.
    file: PathBuf,
    /// Judge so many lines from the beginning. TLC takes a few milliseconds for each, and longer as the logs grow.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    events: usize,
    /// The memory that TLC may take, in MiB. A trace that needs more is refused, with the number of steps that fit.
    #[arg(long, value_name = "MIB", default_value_t = HEAP_MEBIBYTES)]
    heap: u64,
    /// The spec's folder, if it is not `spec` here or above.
    #[arg(long, value_name = "DIR")]
    spec: Option<PathBuf>,
    /// Print one JSON object instead of the lines.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
#[must_use]
pub fn run(arguments: &Arguments) -> ExitCode {
    match judge(arguments) {
        Ok(verdict) => {
            print(arguments, &verdict);
            ExitCode::from(u8::from(matches!(verdict, Verdict::Rejected(_))))
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn judge(arguments: &Arguments) -> Result<Verdict, Error> {
    let spec = spec_folder(arguments.spec.as_deref())?;
    let options = Options { events_max: arguments.events, heap_mebibytes: arguments.heap, spec: &spec };
    let mut progress = Line::new("trace");
    let number = |count: usize| thousands(count as u64);
    let watch = |stage| match stage {
        Stage::Reading => progress.begin(&format!("reading {}", arguments.file.display())),
        Stage::Parsing { steps } => progress.begin(&format!("TLC reads {} steps as a module", number(steps))),
        Stage::Explaining { explained: 0, steps } => progress.begin(&format!("TLC explains {} steps", number(steps))),
        Stage::Explaining { explained, steps } => {
            progress.say(|| format!("{} of {} steps explained", number(explained), number(steps)));
        }
    };
    let verdict = validate(&arguments.file, &options, watch);
    progress.clear();
    verdict
}

fn print(arguments: &Arguments, verdict: &Verdict) {
    let file = arguments.file.display();
    match verdict {
        Verdict::Accepted(accepted) if arguments.json => {
            let seconds = accepted.elapsed.as_secs_f64();
            let object = serde_json::json!({
                "file": file.to_string(), "accepted": true, "events": accepted.events,
                "all": accepted.events == accepted.events_in_file, "kinds": accepted.kinds, "seconds": seconds,
            });
            println!("{object}");
        }
        Verdict::Rejected(rejected) if arguments.json => {
            let differences: serde_json::Map<_, _> = rejected
                .differences
                .iter()
                .map(|it| (it.field.clone(), serde_json::json!({ "trace": it.in_trace, "spec": it.in_spec })))
                .collect();
            let object = serde_json::json!({
                "file": file.to_string(), "accepted": false, "number": rejected.number, "line": rejected.line,
                "differences": differences,
            });
            println!("{object}");
        }
        Verdict::Accepted(accepted) => {
            for (kind, count) in &accepted.kinds {
                println!("{kind:<30} {:>8}", thousands(*count as u64));
            }
            let (events, in_file) = (accepted.events as u64, accepted.events_in_file as u64);
            let part = if events == in_file { String::new() } else { format!(" of {}", thousands(in_file)) };
            let seconds = accepted.elapsed.as_secs_f64();
            println!(
                "{file}: accepted, {} steps{part} are a behaviour of the spec ({seconds:.1} s)",
                thousands(events)
            );
        }
        Verdict::Rejected(rejected) => println!("{file}: REJECTED\n{rejected}"),
    }
}
