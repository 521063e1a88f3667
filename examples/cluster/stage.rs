//! What every part of a run works with: the nodes, the load, the screen, and what is noted on the way.

use crate::client::{CallError, Client};
use crate::load::Load;
use crate::nodes::{Nodes, await_some};
use crate::screen::Screen;
use crate::server::reply::Value;
use crate::timeline::{Events, Mark, Phase};
use crate::verify::Check;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

/// How long the cluster may take for a leader, a restart, a catch-up, one change of its members.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// One figure, with what may be said about it.
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) value: String,
    pub(crate) note: String,
}

pub(crate) struct Stage {
    pub(crate) nodes: Nodes,
    pub(crate) load: Load,
    pub(crate) screen: Screen,
    pub(crate) events: Events,
    pub(crate) figures: Vec<Figure>,
    pub(crate) checks: Vec<Check>,
}

impl Stage {
    pub(crate) fn new(nodes: Nodes, load: Load, screen: Screen) -> Self {
        Self { nodes, load, screen, events: Events::default(), figures: Vec::new(), checks: Vec::new() }
    }

    /// Nanoseconds since the start of the load.
    pub(crate) fn now(&self) -> u64 {
        self.load.shared.now()
    }

    /// Lets the clients work for a while.
    pub(crate) fn keep_loading(&mut self, doing: &str, time: Duration) -> Result<(), String> {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            thread::sleep(Duration::from_millis(50));
            self.live(doing);
            if let Some(node) = self.nodes.find_ended() {
                return Err(ended(&self.nodes, node));
            }
        }
        Ok(())
    }

    pub(crate) fn live(&mut self, doing: &str) {
        let shared = &self.load.shared;
        self.screen.live(doing, shared.completed.load(Relaxed), shared.unknown.load(Relaxed));
    }

    /// Waits until `check` gives something; `None` when patience ends first.
    pub(crate) fn await_some<T>(&mut self, doing: &str, mut check: impl FnMut(&Nodes) -> Option<T>) -> Option<T> {
        let nodes = self.nodes.clone();
        await_some(Instant::now() + PATIENCE, || self.live(doing), || check(&nodes))
    }

    /// Something happened: a line on the screen and a mark on the timeline. Gives the time.
    pub(crate) fn mark(&mut self, class: &'static str, label: String, text: &str) -> u64 {
        let at = self.now();
        self.screen.say(text);
        self.events.marks.push(Mark { at, class, label });
        at
    }

    /// A part of the run, which began at `from`, is over.
    pub(crate) fn end_phase(&mut self, name: &'static str, from: u64) {
        let to = self.now();
        self.events.phases.push(Phase { from, to, name });
    }

    pub(crate) fn figure(&mut self, name: &'static str, value: String, note: String) {
        self.figures.push(Figure { name, value, note });
    }

    pub(crate) fn check(&mut self, name: &'static str, holds: bool, detail: String) {
        self.checks.push(Check { name, holds, detail });
    }

    pub(crate) fn leader(&self) -> Result<(usize, u64), String> {
        let deadline = Instant::now() + PATIENCE;
        await_some(deadline, || {}, || self.nodes.leader()).ok_or_else(|| format!("no node leads within {PATIENCE:?}"))
    }

    /// Waits until a node has applied what is committed; how many entries it lacked when it first answered.
    pub(crate) fn wait_caught_up(&mut self, node: usize) -> Result<u64, String> {
        let mut first_lag = None;
        let caught_up = self.await_some("catching up", |nodes| {
            // The goal is read before the follower is: having reached it means having had everything that was committed at
            // that moment.
            let (leader, _) = nodes.leader()?;
            let goal = nodes.status(leader)?.commit_index;
            let applied = nodes.status(node)?.applied_index;
            first_lag.get_or_insert(goal.saturating_sub(applied));
            (applied >= goal).then_some(())
        });
        match caught_up {
            Some(()) => Ok(first_lag.unwrap_or(0)),
            None => Err(format!("node {} does not catch up; see {}", node + 1, self.nodes.log_path(node).display())),
        }
    }

    /// Sends a command to whoever leads, again while it fails, until it is done: what was answered behind the OK. All commands
    /// for which this serves say what is wanted, so that sending them twice is safe.
    pub(crate) fn ask_leader(&mut self, words: &[&str]) -> Result<String, String> {
        let nodes = self.nodes.clone();
        ask_leader(&nodes, words, PATIENCE, || self.live(&words.join(" ")))
    }
}

/// As [`Stage::ask_leader`], calling `idle` meanwhile.
pub(crate) fn ask_leader(
    nodes: &Nodes,
    words: &[&str],
    patience: Duration,
    mut idle: impl FnMut(),
) -> Result<String, String> {
    let deadline = Instant::now() + patience;
    let mut last = "there is no leader".to_owned();
    while Instant::now() < deadline {
        let asked = thread::scope(|scope| {
            let asking = scope.spawn(|| ask(nodes, words));
            while !asking.is_finished() {
                idle();
                thread::sleep(Duration::from_millis(5));
            }
            asking.join().unwrap_or_else(|_| Err("the asking thread panicked".into()))
        });
        match asked {
            Ok(members) => return Ok(members),
            Err(message) => last = message,
        }
        idle();
        thread::sleep(Duration::from_millis(30));
    }
    Err(format!("{} is not done within {patience:?}; the last answer: {last}", words.join(" ")))
}

/// Asks whoever leads once.
pub(crate) fn ask(nodes: &Nodes, words: &[&str]) -> Result<String, String> {
    let (leader, _) = nodes.leader().ok_or("there is no leader")?;
    let mut client = Client::connect(nodes.port(leader)).map_err(|error| error.to_string())?;
    match client.call(words) {
        Ok(Value::Simple(text)) if text.starts_with("OK") => Ok(text["OK".len()..].trim_start().to_owned()),
        Ok(Value::Error(message)) => Err(message),
        Ok(other) => Err(format!("{other:?}")),
        Err(CallError::NotSent | CallError::Lost) => Err(format!("node {} gave no answer", leader + 1)),
    }
}

/// Why a node is gone.
pub(crate) fn ended(nodes: &Nodes, node: usize) -> String {
    let log = nodes.log_path(node);
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    let last: Vec<&str> = text.lines().rev().take(5).collect();
    let last: Vec<&str> = last.into_iter().rev().collect();
    format!("node {} ended by itself; the end of {}:\n{}", node + 1, log.display(), last.join("\n"))
}

pub(crate) fn milliseconds(nanoseconds: u64) -> String {
    match nanoseconds as f64 / 1e6 {
        small if small < 10.0 => format!("{small:.2} ms"),
        large if large < 10_000.0 => format!("{large:.0} ms"),
        long => format!("{:.1} s", long / 1e3),
    }
}
