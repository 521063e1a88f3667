//! Three durable nodes, sixty-four clients, one killed leader, and a verdict.
//!
//! ```text
//! cargo run --release --example cluster            # about 30 seconds; exit code 0 if all is well
//! cargo run --release --example cluster -- serve   # keeps the cluster up for redis-cli
//!
//! cargo run --release --features trace --example cluster -- --trace    # records target/cluster/trace.jsonl
//! cargo run --release -p raft-model -- trace target/cluster/trace.jsonl # is it a behaviour of the TLA+ spec?
//! ```
//!
//! The nodes are processes of their own: this program starting itself as the server of
//! `examples/kv`, with data under `target/cluster/`. It loads them, kills the leader with SIGKILL,
//! restarts it, and then checks what its clients saw: no acknowledged write is lost, the recorded
//! history is linearizable, all replicas hold the same state. `target/cluster/report.html` has the
//! timeline.

mod client;
mod keys;
/// The checker of `raft_io::testkit`, as a module of this program: the command to run it then needs
/// no features beyond the default ones.
#[allow(dead_code, unreachable_pub, unused_imports, reason = "it is written as a part of the library")]
#[path = "../../src/testkit/linearizability/mod.rs"]
mod linearizability;
mod load;
mod nodes;
mod report;
mod run;
mod screen;
#[allow(dead_code, reason = "the server is shared with examples/kv; this program uses its client's side too")]
#[path = "../kv/server/mod.rs"]
mod server;
mod timeline;
#[cfg(feature = "trace")]
mod traced;
mod verify;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Starts a durable three-node cluster on loopback, loads it, kills its leader and checks that
/// nothing acknowledged was lost and that the history is linearizable.
///
/// Exit code: 0 if every check holds, 1 if one fails or the cluster does not come up.
#[derive(Parser)]
#[command(name = "cluster", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: Options,
}

#[derive(clap::Args, Clone, Debug)]
struct Options {
    /// Where nodes keep their data and where report.html goes; node-* of an earlier run are removed
    #[arg(long, value_name = "DIR", default_value = "target/cluster", global = true)]
    dir: PathBuf,
    /// Client connections, spread over all nodes; with --trace 4 unless given
    #[arg(long, value_name = "N", default_value_t = 64, default_value_if("trace", "true", "4"), value_parser = clap::value_parser!(u32).range(1..=900))]
    connections: u32,
    /// Seconds of load before the kill, between kill and restart, and after the restart; with --trace 3 unless given
    #[arg(long, value_name = "S", default_value_t = 8, default_value_if("trace", "true", "3"), value_parser = clap::value_parser!(u64).range(2..=600))]
    seconds: u64,
    /// The seed of the load and of the nodes' election timeouts
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// The nodes' heartbeat interval in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 30, global = true)]
    tick_ms: u64,
    /// Record every step of every node in DIR/trace.jsonl, for `raft-model trace` to validate. The load is then light
    /// enough for TLC; the build needs `--features trace`
    #[arg(long)]
    trace: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Keep the cluster up until Ctrl-C, and print how to talk to it
    Serve,
    /// One node
    #[command(hide = true)]
    Node(Box<server::ServeOptions>),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Some(Command::Node(options)) => return server::serve(*options).into(),
        Some(Command::Serve) => run::keep_serving(&cli.options),
        None => run::run(&cli.options),
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
