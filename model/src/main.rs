//! `raft-model`: exhaustive checking of raft-io's shipped step function, its TLA+ spec, and their agreement.

use clap::{Parser, Subcommand};
use raft_model::commands;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Checks raft-io: the shipped step function exhaustively, the TLA+ spec with TLC, and that both agree.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Check(commands::check::Arguments),
    Conform(commands::conform::Arguments),
    Explore(commands::explore::Arguments),
    Mutants(commands::mutants::Arguments),
    Simulate(commands::simulate::Arguments),
    Tlc(commands::tlc::Arguments),
    Trace(commands::trace::Arguments),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Check(arguments) => commands::check::run(&arguments),
        Command::Conform(arguments) => commands::conform::run(&arguments),
        Command::Explore(arguments) => commands::explore::run(&arguments),
        Command::Mutants(arguments) => commands::mutants::run(&arguments),
        Command::Simulate(arguments) => commands::simulate::run(&arguments),
        Command::Tlc(arguments) => commands::tlc::run(&arguments),
        Command::Trace(arguments) => commands::trace::run(&arguments),
    }
}
