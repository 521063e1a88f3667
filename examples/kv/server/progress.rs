//! How far a long piece of work has come, for a person at a terminal.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// How often it is said.
const SAID_EACH: Duration = Duration::from_millis(500);

/// Says on standard error how much is done, if that is a terminal and it takes a while.
pub(crate) struct Progress {
    what: &'static str,
    total: Option<u64>,
    done: u64,
    begun: Instant,
    /// `None` while nobody looks.
    said: Option<Instant>,
    was_said: bool,
}

impl Progress {
    /// Of so much, if that is known.
    pub(crate) fn new(what: &'static str, total: impl Into<Option<u64>>) -> Self {
        let said = io::stderr().is_terminal().then(Instant::now);
        Self { what, total: total.into(), done: 0, begun: Instant::now(), said, was_said: false }
    }

    /// So much more is done.
    pub(crate) fn advance(&mut self, count: u64) {
        self.done += count;
        let Some(said) = self.said.filter(|said| said.elapsed() >= SAID_EACH) else { return };
        let rate = self.done as f64 / self.begun.elapsed().as_secs_f64();
        let of = self.total.map_or(String::new(), |total| format!(" of {}", megabytes(total)));
        // Over the line before, which may have been longer.
        let _ = write!(io::stderr(), "\r{}: {}{of}, {}/s   ", self.what, megabytes(self.done), megabytes(rate as u64));
        self.said = Some(said + SAID_EACH);
        self.was_said = true;
    }

    /// The line is done with.
    pub(crate) fn end(&self) {
        if self.was_said {
            eprintln!();
        }
    }
}

/// A size for a person.
pub(crate) fn megabytes(bytes: u64) -> String {
    match bytes {
        0..=9999 => format!("{bytes} bytes"),
        10_000..=9_999_999 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}
