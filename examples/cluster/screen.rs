//! What the user sees while it runs: a live line on a terminal, plain lines otherwise.

use crate::stage::Figure;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

pub(crate) struct Screen {
    started: Instant,
    /// `None` when standard error is no terminal.
    bar: Option<ProgressBar>,
    /// When `live` last said something, and how many operations it knew of.
    last: (Instant, u64),
}

impl Screen {
    pub(crate) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            let style = ProgressStyle::with_template("{spinner:.cyan} {elapsed_precise:.dim}  {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { started: Instant::now(), bar, last: (Instant::now(), 0) }
    }

    /// Something happened: a line that stays.
    pub(crate) fn say(&self, text: &str) {
        let line = format!("{:6.2} s  {text}", self.started.elapsed().as_secs_f64());
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    /// How it goes: often on a terminal, every few seconds otherwise.
    pub(crate) fn live(&mut self, doing: &str, operations: u64, unknown: u64) {
        let (at, before) = self.last;
        let pause = Duration::from_millis(if self.bar.is_some() { 250 } else { 2000 });
        let elapsed = at.elapsed();
        if elapsed < pause {
            return;
        }
        let rate = (operations - before) as f64 / elapsed.as_secs_f64();
        self.last = (Instant::now(), operations);
        let text = format!("{doing}: {rate:.0} ops/s, {operations} done, {unknown} of unknown outcome");
        match &self.bar {
            Some(bar) => bar.set_message(text),
            None => self.say(&text),
        }
    }

    /// What takes a while now.
    pub(crate) fn doing(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None => self.say(text),
        }
    }

    pub(crate) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A table of two columns, the verdicts with their marks.
pub(crate) fn print_table(figures: &[Figure], checks: &[crate::verify::Check]) {
    let names = figures.iter().map(|figure| figure.name).chain(checks.iter().map(|check| check.name));
    let width = names.map(str::len).max().unwrap_or(0);
    println!();
    for Figure { name, value, note } in figures {
        let note = if note.is_empty() { String::new() } else { format!("  ({note})") };
        println!("  {name:width$}  {value}{note}");
    }
    println!();
    for check in checks {
        let mark = if check.holds { "ok  " } else { "FAIL" };
        println!("  {:width$}  {mark}  {}", check.name, check.detail);
    }
    println!();
}
