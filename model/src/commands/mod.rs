//! The subcommands of `raft-model`, one file each: arguments in, lines and an exit code out.

pub mod check;
pub mod conform;
pub mod explore;
pub mod mutants;
pub mod simulate;
pub mod tlc;
pub mod trace;

/// The exit code of several: something wrong weighs more than something cut short.
fn worst(codes: &[u8]) -> u8 {
    if codes.contains(&1) { 1 } else { codes.iter().copied().max().unwrap_or(0) }
}
