//! raft-io against other Raft crates: one in-memory workload, interleaved rounds, one table. See README.md.

mod allocations;
mod callgrind;
mod contender;
#[path = "../../in_memory/mod.rs"]
#[allow(dead_code, reason = "the benches of the library ask it for more")]
mod in_memory;
mod open_raft;
mod ours;
mod published_raft_io;
mod raft_rs;
mod report;

use clap::Parser;
use contender::{Client, Cluster, Contender};
use report::Row;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: allocations::Counting = allocations::Counting;

/// Commits the same commands through raft-io and its peers and prints one table of ratios.
#[derive(Parser)]
struct Arguments {
    /// Rounds; in each, every contender is measured once. The table shows medians.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Cluster sizes.
    #[arg(long, value_delimiter = ',', default_value = "3,5")]
    nodes: Vec<u64>,
    /// How many commands are proposed together.
    #[arg(long, value_delimiter = ',', default_value = "1,64,256")]
    batches: Vec<usize>,
    /// Only these contenders: ours, raft-io-1.0.0, raft-rs-0.7.0, openraft-0.9.25.
    #[arg(long, value_delimiter = ',', value_parser = parse_contender)]
    only: Option<Vec<Contender>>,
    /// Print the rows as JSON.
    #[arg(long)]
    json: bool,
    /// Do not count instructions, even where valgrind is installed.
    #[arg(long)]
    no_instructions: bool,
    /// Fail unless ours beats the best peer 2 × with three nodes at batch 1 and 3 × with three and five at batch 256, with
    /// at most 1.5 allocations per entry there.
    #[arg(long)]
    check: bool,
    /// Measure once this many entries and print nothing: what runs under callgrind.
    #[arg(long, hide = true)]
    entries: Option<usize>,
}

fn parse_contender(name: &str) -> Result<Contender, String> {
    Contender::named(name).ok_or_else(|| {
        let names = Contender::ALL.map(Contender::name).join(", ");
        format!("there are: {names}")
    })
}

/// One measurement of one contender.
struct Sample {
    nanoseconds: f64,
    allocations: f64,
}

/// The region that is measured. Its name is what callgrind looks for.
#[unsafe(no_mangle)]
#[inline(never)]
fn measured_region(cluster: &mut dyn Cluster, batch: usize, batches: usize) {
    for _ in 0..batches {
        cluster.commit(batch);
    }
    cluster.settle();
}

fn measure(contender: Contender, nodes: u64, batch: usize, entries: usize) -> Sample {
    let mut cluster = contender.cluster(nodes);
    let batches = entries.div_ceil(batch);
    let warm_up = batches.div_ceil(16).max(4);
    for _ in 0..warm_up {
        cluster.commit(batch);
    }
    cluster.settle();
    let allocations_before = allocations::count();
    let start = Instant::now();
    measured_region(&mut *cluster, batch, batches);
    let elapsed = start.elapsed();
    let allocated = allocations::count() - allocations_before;
    let expected = Client::expected(((warm_up + batches) * batch) as u64);
    for (node, sum) in cluster.applied().into_iter().enumerate() {
        assert_eq!(sum, expected, "{}: node {} applied something else", contender.name(), node + 1);
    }
    let measured = (batches * batch) as f64;
    Sample { nanoseconds: elapsed.as_nanos() as f64 / measured, allocations: allocated as f64 / measured }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let contenders = arguments.only.clone().unwrap_or_else(|| Contender::ALL.to_vec());
    let cases: Vec<(u64, usize)> =
        arguments.nodes.iter().flat_map(|&nodes| arguments.batches.iter().map(move |&batch| (nodes, batch))).collect();
    if let Some(entries) = arguments.entries {
        for &(nodes, batch) in &cases {
            for &contender in &contenders {
                measure(contender, nodes, batch, entries);
            }
        }
        return ExitCode::SUCCESS;
    }
    let progress = std::io::stderr().is_terminal();
    let mut rows = Vec::new();
    for &(nodes, batch) in &cases {
        // Interleaved, so that whatever disturbs the machine disturbs all of them.
        let mut samples: Vec<Vec<Sample>> = contenders.iter().map(|_| Vec::new()).collect();
        for round in 0..arguments.rounds.max(1) {
            if progress {
                eprint!("\r{nodes} nodes, batch {batch}: round {} of {}   ", round + 1, arguments.rounds);
                let _ = std::io::stderr().flush();
            }
            for (at, &contender) in contenders.iter().enumerate() {
                samples[at].push(measure(contender, nodes, batch, contender.entries(batch)));
            }
        }
        for (&contender, samples) in contenders.iter().zip(&samples) {
            rows.push(Row {
                nodes,
                batch,
                contender,
                nanoseconds: median(samples.iter().map(|sample| sample.nanoseconds).collect()),
                allocations: median(samples.iter().map(|sample| sample.allocations).collect()),
                instructions: None,
            });
        }
    }
    if !arguments.no_instructions && callgrind::is_installed() {
        for row in &mut rows {
            if progress {
                eprint!("\r{} nodes, batch {}: instructions of {}      ", row.nodes, row.batch, row.contender.name());
                let _ = std::io::stderr().flush();
            }
            row.instructions = callgrind::instructions_per_entry(row.contender, row.nodes, row.batch);
        }
    }
    if progress {
        eprint!("\r{:60}\r", "");
    }
    if arguments.json {
        println!("{}", report::json(&rows));
    } else {
        print!("{}", report::table(&rows, arguments.rounds));
    }
    if !arguments.check {
        return ExitCode::SUCCESS;
    }
    let failures = report::failures(&rows);
    for failure in &failures {
        eprintln!("not reached: {failure}");
    }
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
