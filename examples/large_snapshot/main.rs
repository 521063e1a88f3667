//! A large snapshot under load: does it cost memory, an election, or the clients' patience?
//!
//! ```text
//! cargo run --release --example large_snapshot            # 2 GiB; exit code 0 if every criterion holds
//! cargo run --release --example large_snapshot -- --mib 64 # a quick look
//! ```
//!
//! Three nodes, processes of their own, hold a state of so many bytes in files. Under a steady load of writes the leader
//! takes a snapshot, and a fourth node joins, fetches and installs it. Measured are the resident memory of every process
//! above what it was, terms and changes of role, how long writes took before and during; and compared are the states of
//! all four at the end. On the disk it takes about six times the state, which is removed at the end.

mod blocks;
#[path = "../cluster/folder.rs"]
mod folder;
mod load;
mod node;
mod nodes;
mod run;
mod verdict;

use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::{Command as Process, ExitCode};
use std::time::{Duration, Instant};

/// Takes a snapshot of a large state under load and has a new member join with it.
///
/// Exit code: 0 if every criterion holds, 1 if one does not or the cluster does not come up.
#[derive(Parser)]
#[command(name = "large_snapshot", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// The size of the state in GiB
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=64))]
    gib: u64,
    /// The size of the state in MiB, instead
    #[arg(long, value_name = "N", conflicts_with = "gib", value_parser = clap::value_parser!(u64).range(1..=65536))]
    mib: Option<u64>,
    /// How fast a snapshot is written, fetched and restored at most, in MiB per second; 0 for no limit
    #[arg(long, value_name = "N", default_value_t = 64)]
    limit_mib: u64,
    /// Writes per second, of all clients together
    #[arg(long, value_name = "N", default_value_t = 400, value_parser = clap::value_parser!(u64).range(1..))]
    rate: u64,
    /// Clients, each with a connection to the leader
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=500))]
    clients: u64,
    /// The size of a write in bytes
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(8..=4096))]
    value_bytes: u64,
    /// How long the load is watched before and after, in seconds
    #[arg(long, value_name = "S", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Where the nodes keep their data; its node-* are removed before and after
    #[arg(long, value_name = "DIR", default_value = "target/large_snapshot")]
    dir: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Leave the nodes' data where it is
    #[arg(long)]
    keep: bool,
}

/// How long nodes of an earlier run that was killed may take to end.
const NODES_END_WITHIN: Duration = Duration::from_secs(10);

#[derive(Subcommand)]
enum Command {
    /// One node
    #[command(hide = true)]
    Node { id: u64, directory: PathBuf, bytes_per_second: u64, value_bytes: usize },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match &cli.command {
        Some(Command::Node { id, directory, bytes_per_second, value_bytes }) => {
            let bytes_per_second = Some(*bytes_per_second).filter(|limit| *limit > 0);
            let (id, value_bytes) = (*id, *value_bytes);
            let options = node::NodeOptions { id, directory: directory.clone(), bytes_per_second, value_bytes };
            node::serve(&options).map(|()| true)
        }
        None => measure(&cli).map_err(Into::into),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(cli: &Cli) -> std::io::Result<bool> {
    let _folder = folder::Folder::take(&cli.dir, "large_snapshot", NODES_END_WITHIN)?;
    let plan = run::Plan {
        directory: cli.dir.clone(),
        state_bytes: cli.mib.map_or(cli.gib << 30, |mib| mib << 20),
        bytes_per_second: Some(cli.limit_mib << 20).filter(|limit| *limit > 0),
        clients: cli.clients,
        rate: cli.rate,
        value_bytes: cli.value_bytes as usize,
        seconds: cli.seconds,
    };
    let program = std::env::current_exe()?;
    let command = |options: &node::NodeOptions| {
        let mut command = Process::new(&program);
        command.arg("node").arg(options.id.to_string()).arg(&options.directory);
        command.arg(options.bytes_per_second.unwrap_or(0).to_string()).arg(options.value_bytes.to_string());
        command
    };
    let began = Instant::now();
    let bar = std::io::stderr().is_terminal().then(spinner);
    let say = |text: &str| {
        let line = format!("{:6.2} s  {text}", began.elapsed().as_secs_f64());
        match &bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    };
    let live = |text: String| {
        if let Some(bar) = &bar {
            bar.set_message(text);
        }
    };
    let ran = run::run(&plan, command, &say, &live);
    if let Some(bar) = &bar {
        bar.finish_and_clear();
    }
    for id in (1..=4).filter(|_| !cli.keep && ran.is_ok()) {
        // They are gigabytes.
        let _ = std::fs::remove_dir_all(cli.dir.join(format!("node-{id}")));
    }
    let outcome = ran?;
    let checks = verdict::checks(&outcome);
    if cli.json {
        println!("{:#}", verdict::json(&plan, &outcome, &checks));
    } else {
        verdict::print(&plan, &outcome, &checks);
    }
    Ok(checks.iter().all(|check| check.holds))
}

fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("{spinner:.cyan} {elapsed_precise:.dim}  {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
