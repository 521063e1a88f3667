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
    /// TLC could not be run.
    #[error(transparent)]
    Tlc(#[from] TlcError),
    /// TLC ran and did not say what it should.
    #[error("TLC failed: {0}")]
    Failed(String),
}

/// Judges the trace in a file. `watch` is told how many lines are explained so far, and how many there are.
///
/// # Errors
/// The trace cannot be judged: it is none, or TLC cannot be run.
pub fn validate(path: &Path, options: &Options<'_>, watch: impl FnMut(usize, usize)) -> Result<Verdict, Error> {
    validate_lines(raft_io::trace::read(path)?, options, watch)
}

/// Judges a trace.
///
/// # Errors
/// As [`validate`].
pub fn validate_lines(
    lines: Vec<Line>,
    options: &Options<'_>,
    mut watch: impl FnMut(usize, usize),
) -> Result<Verdict, Error> {
    let window = Window::new(lines, options.events_max)?;
    let count = window.lines().len();
    let (explained, outcome) = ask(&window, &[], options, |explained| watch(explained, count))?;
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
    mut watch: impl FnMut(usize),
) -> Result<(verdict::Explained, crate::tlc::Outcome), Error> {
    let tlc = Tlc::find()?;
    let folder = module::folder(options.spec, window, variants)?;
    let run = Run { folder: folder.path(), module: module::NAME, config: module::NAME, workers: 1, dump: None };
    let mut explained = verdict::Explained::default();
    let outcome = tlc.run(&run, |line, _| {
        if explained.hear(line) {
            watch(explained.reached(0));
        }
    })?;
    if !outcome.complete {
        return Err(Error::Failed(outcome.errors.join("\n")));
    }
    Ok((explained, outcome))
}
