//! `raft-model simulate`: long random walks.

use crate::counterexample::script;
use crate::explore;
use crate::simulate::{End, Failure, Reached, Settings, Setup, setup, setups, shrink, walk};
use crate::terminal::{Line, thousands};
use clap::Args;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{fs, io};

/// Walk at random, from a seed, far past the bounds of `check`: many servers, terms, entries, crashes, messages.
///
/// The servers are the real ones and the laws those of docs/INVARIANTS.md, checked after every move. A failure is shrunk
/// to the commands that it needs, written as a scenario script, and reported with the one command that repeats it.
///
/// Exit code 0: every walk was clean. 1: a law is broken. 2: the time was up before the last walk had ended.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Setups by name; see --list. Without any: all that have a name of their own.
    setups: Vec<String>,
    /// The seed of the first walk; the next one has the next number.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Moves in each walk.
    #[arg(long, default_value_t = 20_000)]
    steps: usize,
    /// Walks through each setup.
    #[arg(long, default_value_t = 4)]
    walks: u64,
    /// Cut the run short after so many seconds.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// The longest that a failure is shrunk.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    shrink: u64,
    /// Where to write the script of a failure.
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// List the setups, and end.
    #[arg(long)]
    list: bool,
    /// Print one JSON object per setup instead of the table.
    #[arg(long)]
    json: bool,
}

/// What a setup's walks came to.
struct Result {
    reached: Reached,
    seconds: f64,
    /// The seed, with what failed there: as found, and shrunk.
    failed: Option<(u64, Failure, Failure)>,
    truncated: bool,
}

impl Result {
    fn exit_code(&self) -> u8 {
        if self.failed.is_some() { 1 } else { 2 * u8::from(self.truncated) }
    }

    fn verdict(&self) -> String {
        match &self.failed {
            Some((seed, failure, _)) => format!("FAILED {} at step {} of seed {seed}", failure.law, self.reached.steps),
            None if self.truncated => "TRUNCATED: the time was up".to_string(),
            None => "clean".to_string(),
        }
    }

    fn rate(&self) -> f64 {
        self.reached.steps as f64 / self.seconds.max(1e-6)
    }
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
        setups()
            .for_each(|setup| println!("  {:<14} {}\n                 {}", setup.name, setup.purpose, setup.command));
        println!("  and the configurations of `raft-model check --list`, without their bounds");
        return ExitCode::SUCCESS;
    }
    // A server that stops itself is reported; its backtrace would only hide that.
    std::panic::set_hook(Box::new(|_| {}));
    if !arguments.json {
        println!("{}", header());
    }
    let deadline = arguments.timeout.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut code = 0;
    for setup in &chosen {
        let result = walks(arguments, setup, deadline);
        let written = result.failed.as_ref().map(|(seed, found, shrunk)| {
            let story = story(arguments, setup, *seed, found, shrunk);
            write_script(&arguments.out, setup, *seed, &script::of_commands(&story, &shrunk.commands).text)
        });
        if arguments.json {
            println!("{}", json(arguments, setup, &result, written.as_ref()));
        } else {
            println!("{}", row(setup, &result));
            explain(arguments, setup, &result, written.as_ref());
        }
        // A failure weighs more than a run cut short.
        code = if code == 1 || result.exit_code() == 1 { 1 } else { code.max(result.exit_code()) };
    }
    ExitCode::from(code)
}

fn chosen(arguments: &Arguments) -> std::result::Result<Vec<Setup>, String> {
    if arguments.setups.is_empty() {
        return Ok(setups().collect());
    }
    let names = || setups().map(|setup| setup.name).chain(explore::names()).collect::<Vec<_>>().join(", ");
    let find = |name: &String| setup(name).ok_or_else(|| format!("no setup is called {name}; there are: {}", names()));
    arguments.setups.iter().map(find).collect()
}

/// All walks through one setup, up to the first failure.
fn walks(arguments: &Arguments, setup: &Setup, deadline: Option<Instant>) -> Result {
    let start = Instant::now();
    let mut line = Line::new(setup.name);
    let mut result = Result { reached: Reached::default(), seconds: 0.0, failed: None, truncated: false };
    for at in 0..arguments.walks {
        let settings = Settings { deadline, ..Settings::new(arguments.seed.wrapping_add(at), arguments.steps) };
        let before = result.reached;
        let (reached, end) = walk(setup, &settings, |reached| {
            let sum = before.and(*reached);
            let rate = sum.steps as f64 / start.elapsed().as_secs_f64().max(1e-6);
            line.say(|| {
                format!(
                    "walk {} of {}  step {}  {}/s  term {}  log {}  committed {}",
                    at + 1,
                    arguments.walks,
                    thousands(reached.steps as u64),
                    thousands(rate as u64),
                    reached.term,
                    reached.log,
                    reached.committed
                )
            });
        });
        result.reached = before.and(reached);
        result.seconds = start.elapsed().as_secs_f64();
        match end {
            End::Clean => {}
            End::Truncated => result.truncated = true,
            End::Failed(failure) => {
                // The failing walk alone says at which step.
                result.reached = reached;
                let time = Duration::from_secs(arguments.shrink);
                let shrunk =
                    shrink(&failure, &settings, time, |left| line.say(|| format!("shrinking: {left} commands")));
                result.failed = Some((settings.seed, failure, shrunk));
            }
        }
        if result.failed.is_some() || result.truncated {
            break;
        }
    }
    line.clear();
    result
}

/// The one command that leads to the failure again.
fn replay_command(arguments: &Arguments, setup: &Setup, seed: u64) -> String {
    format!("raft-model simulate {} --seed {seed} --walks 1 --steps {}", setup.name, arguments.steps)
}

fn story(arguments: &Arguments, setup: &Setup, seed: u64, found: &Failure, shrunk: &Failure) -> String {
    let commands = format!("{} of {} commands are left", shrunk.commands.len(), found.commands.len());
    let words = shrunk.words.lines().map(|line| format!("# {}", line.trim())).collect::<Vec<_>>().join("\n");
    format!("{words}\n# Found by `{}`; {commands}.", replay_command(arguments, setup, seed))
}

fn write_script(out: &Path, setup: &Setup, seed: u64, text: &str) -> io::Result<PathBuf> {
    fs::create_dir_all(out)?;
    let path = out.join(format!("simulate-{}-{seed}.txt", setup.name));
    fs::write(&path, text)?;
    Ok(path)
}

fn header() -> String {
    format!(
        "{:<18} {:>10} {:>8} {:>9} {:>6} {:>6} {:>10} {:>9} {:>8}  verdict",
        "setup", "steps", "seconds", "steps/s", "term", "log", "committed", "messages", "crashes"
    )
}

fn row(setup: &Setup, result: &Result) -> String {
    let reached = &result.reached;
    format!(
        "{:<18} {:>10} {:>8.1} {:>9} {:>6} {:>6} {:>10} {:>9} {:>8}  {}",
        setup.name,
        thousands(reached.steps as u64),
        result.seconds,
        thousands(result.rate() as u64),
        reached.term,
        reached.log,
        thousands(reached.committed),
        reached.messages,
        reached.crashes,
        result.verdict()
    )
}

fn explain(arguments: &Arguments, setup: &Setup, result: &Result, written: Option<&io::Result<PathBuf>>) {
    let Some((seed, found, shrunk)) = &result.failed else { return };
    println!("\n{}\n", shrunk.words);
    for command in &shrunk.commands {
        println!("  {command}");
    }
    println!("\n{} of {} commands are left", shrunk.commands.len(), found.commands.len());
    match written {
        Some(Ok(path)) => println!("script   {}", path.display()),
        Some(Err(error)) => {
            eprintln!("cannot write to {}: {error}; choose another place with --out", arguments.out.display())
        }
        None => {}
    }
    println!("replay   {}", replay_command(arguments, setup, *seed));
}

fn json(
    arguments: &Arguments,
    setup: &Setup,
    result: &Result,
    written: Option<&io::Result<PathBuf>>,
) -> serde_json::Value {
    let reached = &result.reached;
    let failed = result.failed.as_ref();
    serde_json::json!({
        "setup": setup.name,
        "command": setup.command,
        "seed": arguments.seed,
        "steps": reached.steps,
        "seconds": result.seconds,
        "steps_per_second": result.rate(),
        "highest_term": reached.term,
        "longest_log": reached.log,
        "committed": reached.committed,
        "messages_max": reached.messages,
        "crashes": reached.crashes,
        "verdict": result.verdict(),
        "law": failed.map(|(_, failure, _)| &failure.law),
        "script": failed.map(|(_, _, shrunk)| &shrunk.commands),
        "file": written.and_then(|path| path.as_ref().ok()).map(|path| path.display().to_string()),
        "replay": failed.map(|(seed, _, _)| replay_command(arguments, setup, *seed)),
        "exit_code": result.exit_code(),
    })
}
