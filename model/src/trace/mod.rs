//! Recorded traces, judged by the spec: `raft-model trace`.
//!
//! A trace (docs/TRACE.md) becomes the constants of `spec/TraceRaft.tla`, and TLC says how far the spec explains it. There
//! is no judgement here, apart from what must be known before TLC can be asked: that the lines follow each other, that
//! all nodes have the same settings, and that the spec knows what happened.

mod module;
mod record;
mod verdict;
mod window;

pub use verdict::{Accepted, Difference, Rejected, Verdict};
pub use window::Window;

use crate::tlc::{Run, Tlc, TlcError};
use raft_io::trace::{Line, TraceError};
use std::path::Path;

/// How a trace is validated.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// How many lines from the beginning count. Every message in a trace is sent before it is handled, so any beginning
    /// is whole.
    pub events_max: usize,
    /// The memory that TLC may take for its objects, in MiB.
    pub heap_mebibytes: u64,
    /// The folder with `Raft.tla` and `TraceRaft.tla`.
    pub spec: &'a Path,
}

/// Why a trace could not be judged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It is not one.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The spec knows nothing like it.
    #[error("line {line}: {problem}")]
    Unsupported {
        /// The line, from 1 on.
        line: usize,
        /// What it is.
        problem: String,
    },
    /// TLC would need more memory than it may take.
    #[error(
        "{steps} steps are too many for a heap of {heap_mebibytes} MiB: it takes about {needed_mebibytes} MiB to judge them, \
         and TLC was not started; judge the first {steps_max} (--events {steps_max}), or give it more memory (--heap)"
    )]
    TooLarge {
        /// How many there are.
        steps: usize,
        /// How many of them, from the beginning, it can hold.
        steps_max: usize,
        /// The memory that it may take, in MiB.
        heap_mebibytes: u64,
        /// The memory that it would take, in MiB.
        needed_mebibytes: u64,
    },
    /// TLC could not be run.
    #[error(transparent)]
    Tlc(#[from] TlcError),
    /// TLC ran and did not say what it should.
    #[error("TLC failed: {0}")]
    Failed(String),
}

/// What is being done, for whoever waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// The trace is read.
    Reading,
    /// TLC reads the trace as a module of TLA+, which can take minutes.
    Parsing {
        /// How many steps the trace has.
        steps: usize,
    },
    /// TLC explains one step after the other.
    Explaining {
        /// How many steps are explained.
        explained: usize,
        /// How many there are.
        steps: usize,
    },
}

/// Judges the trace in a file. `watch` is told what is being done.
///
/// # Errors
/// The trace cannot be judged: it is none, or TLC cannot be run, or not with so little memory.
pub fn validate(path: &Path, options: &Options<'_>, mut watch: impl FnMut(Stage)) -> Result<Verdict, Error> {
    watch(Stage::Reading);
    validate_lines(raft_io::trace::read(path)?, options, watch)
}

/// Judges a trace.
///
/// # Errors
/// As [`validate`].
pub fn validate_lines(lines: Vec<Line>, options: &Options<'_>, watch: impl FnMut(Stage)) -> Result<Verdict, Error> {
    let window = Window::new(lines, options.events_max)?;
    let (explained, outcome) = ask(&window, &[], options, watch)?;
    Ok(verdict::verdict(&window, &explained, &outcome))
}

/// Tries other lines in the place of lines of an accepted trace, each by itself: which of them does the spec explain?
///
/// # Errors
/// As [`validate`]; or the trace itself is not accepted.
pub fn explained_variants(window: &Window, variants: &[Variant], options: &Options<'_>) -> Result<Vec<usize>, Error> {
    let (explained, _) = ask(window, variants, options, |_| {})?;
    if explained.reached(0) != window.lines().len() {
        return Err(Error::Failed(format!("the trace itself is explained up to line {} alone", explained.reached(0))));
    }
    Ok((1..=variants.len()).filter(|variant| explained.reached(*variant) > 0).map(|variant| variant - 1).collect())
}

/// Another line in the place of one of a trace.
#[derive(Clone, Debug)]
pub struct Variant {
    /// Which one, from 0 on.
    pub at: usize,
    /// The other line.
    pub line: Line,
}

fn ask(
    window: &Window,
    variants: &[Variant],
    options: &Options<'_>,
    mut watch: impl FnMut(Stage),
) -> Result<(verdict::Explained, crate::tlc::Outcome), Error> {
    let steps = window.lines().len();
    let tlc = Tlc::find()?.with_heap(options.heap_mebibytes);
    watch(Stage::Parsing { steps });
    let folder = module::folder(options, window, variants)?;
    let run = Run { folder: folder.path(), module: module::NAME, config: module::NAME, workers: 1, dump: None };
    let mut explained = verdict::Explained::default();
    let outcome = tlc.run(&run, |line, _| {
        // Before the first state TLC has read the module and worked out its constants.
        if explained.hear(line) || line.starts_with("Finished computing initial states") {
            watch(Stage::Explaining { explained: explained.reached(0), steps });
        }
    })?;
    if !outcome.complete {
        return Err(Error::Failed(outcome.errors.join("\n")));
    }
    Ok((explained, outcome))
}
