//! The subcommands of `raft-model`, one file each: arguments in, lines and an exit code out.

pub mod check;
pub mod conform;
pub mod explore;
pub mod mutants;
pub mod simulate;
pub mod tlc;
pub mod trace;
