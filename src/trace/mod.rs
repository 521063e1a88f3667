//! Traces: every step of a running node as a line of text, for the spec to judge.
//!
//! Lives here: what a [`Line`] holds, who makes lines of steps ([`tracer`]), the [`file`](mod@file) that they go to, and how
//! the files of several nodes become one ([`merge`](mod@merge)). Does not live here: whether a trace is right, which TLC decides
//! (`raft-model trace`, `spec/TraceRaft.tla`). The format is documented in `docs/TRACE.md`.
//!
//! A trace names what happened in the spec's words (law 7): events are the names of
//! [`Transition`](crate::Transition), fields those of the spec's variables and messages.

pub mod file;
pub mod line;
pub mod merge;
pub mod message;
pub mod tracer;

pub use file::{TraceFile, TraceOptions};
pub use line::{EventName, Line};
pub use merge::{Merged, TraceError, merge, read, write};
pub use tracer::{Input, Tracer};

/// The version of the format; it grows with every change that an older reader would misunderstand.
pub const VERSION: u32 = 2;
