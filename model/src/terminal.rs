//! What a command says while it works: a line that changes on a terminal, plain lines now and then elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a plain line is printed where there is no terminal.
const PLAIN_INTERVAL: Duration = Duration::from_secs(15);

/// How old the text of a plain line may be.
const PLAIN_AGE_MAX: Duration = Duration::from_secs(1);

/// The line of one piece of work, on standard error. It shows how long the work takes, even while nothing is said.
pub struct Line {
    form: Form,
}

enum Form {
    Terminal(ProgressBar),
    Plain(Plain),
}

impl Line {
    /// A line that begins with `title`.
    #[must_use]
    pub fn new(title: &str) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self { form: Form::Plain(Plain::new(title)) };
        }
        let style = ProgressStyle::with_template("{spinner} {prefix}  {msg}  {elapsed}").expect("a valid template");
        let bar = ProgressBar::new_spinner().with_style(style).with_prefix(title.to_string());
        bar.enable_steady_tick(Duration::from_millis(120));
        Self { form: Form::Terminal(bar) }
    }

    /// Says how it stands.
    pub fn say(&mut self, text: impl FnOnce() -> String) {
        match &mut self.form {
            Form::Terminal(bar) => bar.set_message(text()),
            Form::Plain(plain) => plain.say(text),
        }
    }

    /// Says what begins now: without a terminal this is printed at once.
    pub fn begin(&mut self, text: &str) {
        match &mut self.form {
            Form::Terminal(bar) => bar.set_message(text.to_string()),
            Form::Plain(plain) => plain.begin(text),
        }
    }

    /// Removes the line.
    pub fn clear(self) {
        if let Form::Terminal(bar) = self.form {
            bar.finish_and_clear();
        }
    }
}

/// Lines in the place of one that changes, printed by a thread of their own: the work may say nothing for minutes.
struct Plain {
    title: String,
    shared: Arc<Shared>,
    said: Option<Instant>,
    printer: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<PlainState>,
    ended: Condvar,
}

#[derive(Default)]
struct PlainState {
    text: String,
    ended: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, PlainState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Plain {
    fn new(title: &str) -> Self {
        let shared = Arc::new(Shared::default());
        let (seen, name, start) = (Arc::clone(&shared), title.to_string(), Instant::now());
        let printer = std::thread::spawn(move || {
            let mut state = seen.state();
            loop {
                let waited = seen.ended.wait_timeout_while(state, PLAIN_INTERVAL, |state| !state.ended);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
                if state.ended {
                    return;
                }
                if !state.text.is_empty() {
                    eprintln!("{name}: {} ({} s)", state.text, start.elapsed().as_secs());
                }
            }
        });
        Self { title: title.to_string(), shared, said: None, printer: Some(printer) }
    }

    fn say(&mut self, text: impl FnOnce() -> String) {
        if self.said.is_none_or(|said| said.elapsed() >= PLAIN_AGE_MAX) {
            self.said = Some(Instant::now());
            self.shared.state().text = text();
        }
    }

    fn begin(&mut self, text: &str) {
        eprintln!("{}: {text}", self.title);
        self.shared.state().text = text.to_string();
        self.said = None;
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.shared.state().ended = true;
        self.shared.ended.notify_all();
        // A printer that panicked has nothing more to print.
        let _ = self.printer.take().map(JoinHandle::join);
    }
}

/// The memory that this process occupies, in bytes, where the system tells.
#[must_use]
pub fn memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// A number with its thousands apart.
#[must_use]
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
