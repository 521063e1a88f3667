//! Durable nodes, sixty-four clients, everything that goes wrong, and a verdict.
//!
//! ```text
//! cargo run --release --example cluster            # about a minute; exit code 0 if all is well
//! cargo run --release --example cluster -- serve   # keeps the cluster up for redis-cli
//! cargo run --release --example cluster -- churn --minutes 10 --seed 1   # members come and go at random
//!
//! cargo run --release --features trace --example cluster -- --trace    # records target/cluster/trace.jsonl
//! cargo run --release -p raft-model -- trace target/cluster/trace.jsonl # is it a behaviour of the TLA+ spec?
//! ```
//!
//! The nodes are processes of their own: this program starting itself as the server of
//! `examples/kv`, with data under `target/cluster/`. Under load
//!
//! 1. the leader is killed with SIGKILL, and restarts;
//! 2. the leader is cut off from the others, and connected again;
//! 3. three members become five, and three again, the leader among those that leave;
//! 4. a follower loses its data: refused under its old id, it is back under a new one through a snapshot;
//! 5. every node restarts, one by one.
//!
//! Then it checks what the clients saw: no acknowledged write is lost, the recorded history is linearizable, all replicas
//! hold the same state. `target/cluster/report.html` has the timeline.
//!
//! | Room | What it holds |
//! |---|---|
//! | `run`, `churn` | the two schedules |
//! | `faults`, `members` | the parts of the first one |
//! | `stage` | what they share |
//! | `folder` | the folder that one run has at a time |
//! | `nodes`, `links` | the processes, and the connections between them that can be cut |
//! | `load`, `client`, `keys` | the clients, and what they write down |
//! | `verify`, `timeline` | the verdicts and the figures |
//! | `screen`, `report` | what the user sees |

mod churn;
mod client;
mod faults;
mod folder;
mod keys;
/// The checker of `raft_io::testkit`, as a module of this program: the command to run it then needs
/// no features beyond the default ones.
#[allow(dead_code, unreachable_pub, unused_imports, reason = "it is written as a part of the library")]
#[path = "../../src/testkit/linearizability/mod.rs"]
mod linearizability;
mod links;
mod load;
mod members;
mod nodes;
mod report;
mod run;
mod screen;
#[allow(dead_code, reason = "the server is shared with examples/kv; this program uses its client's side too")]
#[path = "../kv/server/mod.rs"]
mod server;
mod stage;
mod timeline;
#[cfg(feature = "trace")]
mod traced;
mod verify;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Starts a durable three-node cluster on loopback and loads it. Under load it kills the leader and restarts it, cuts the
/// leader off from the others and connects it again, grows to five members and shrinks to three, wipes a follower and
/// replaces it through a snapshot, and restarts every node. Then it checks that nothing acknowledged was lost, that the history
/// is linearizable and that the replicas are equal.
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
    /// Seconds of load before the kill and between kill and restart, half as many between the later parts; with --trace 3
    /// unless given
    #[arg(long, value_name = "S", default_value_t = 6, default_value_if("trace", "true", "3"), value_parser = clap::value_parser!(u64).range(2..=600))]
    seconds: u64,
    /// The seed of the load and of the nodes' election timeouts
    #[arg(long, value_name = "N", default_value_t = 1, global = true)]
    seed: u64,
    /// The nodes' heartbeat interval in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 30, global = true)]
    tick_ms: u64,
    /// After how many commands a node takes a snapshot; its log keeps a tenth of that behind it. 50000 unless given, with churn
    /// 10000
    #[arg(long, value_name = "N", global = true)]
    snapshot_commands: Option<usize>,
    /// Record every step of every node in DIR/trace.jsonl, for `raft-model trace` to validate. The load is then light
    /// enough for TLC, and the run ends with the killed leader's return; the build needs `--features trace`
    #[arg(long)]
    trace: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Keep the cluster up until Ctrl-C, and print how to talk to it
    Serve,
    /// Add, promote, demote, remove, transfer and restart at random on five processes under load, then check the same
    Churn(churn::ChurnOptions),
    /// One node
    #[command(hide = true)]
    Node(Box<server::ServeOptions>),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Some(Command::Node(options)) => return server::serve(*options).into(),
        Some(Command::Serve) => run::keep_serving(&cli.options),
        Some(Command::Churn(churn)) => churn::run(&cli.options, &churn),
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
