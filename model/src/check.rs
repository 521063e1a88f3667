//! Exhaustive exploration of one configuration, and what may be concluded from it.

use crate::action::Action;
use crate::cluster::{Cluster, State};
use crate::config::Configuration;
use crate::laws::{Goal, Law};
use crate::proofs;
use crate::search::{self, Counts, Found};
use std::panic::resume_unwind;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How far to look, and with what.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Threads, at least 1.
    pub threads: usize,
    /// Give up after this long.
    pub timeout: Option<Duration>,
    /// Give up after this many distinct states.
    pub states_max: Option<u64>,
    /// The laws that count.
    pub laws: Vec<Law>,
}

impl Default for Limits {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        Self { threads, timeout: None, states_max: None, laws: Law::ALL.to_vec() }
    }
}

impl Limits {
    /// Which limit is exceeded, if one is.
    fn exceeded(&self, progress: &Progress) -> Option<String> {
        if let Some(max) = self.states_max.filter(|max| progress.states >= *max) {
            return Some(format!("stopped after {max} states"));
        }
        let timeout = self.timeout.filter(|timeout| progress.elapsed >= *timeout)?;
        Some(format!("stopped after {} s", timeout.as_secs()))
    }
}

/// How a run stands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Distinct states found.
    pub states: u64,
    /// Steps taken, to new states or known ones.
    pub steps: u64,
    /// Distinct states found and not yet looked at.
    pub queue: u64,
    /// The longest path so far.
    pub depth: u64,
    /// Time since the start.
    pub elapsed: Duration,
}

impl Progress {
    /// Distinct states per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.states as f64 / self.elapsed.as_secs_f64().max(1e-6)
    }
}

/// What may be concluded from a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every state within the bounds was looked at and every law holds.
    Complete,
    /// A law is broken.
    Violated(Violation),
    /// The run ended before every state was looked at: it shows nothing.
    Truncated(String),
    /// Every law holds, but something that should happen never did: the laws hold of too little.
    Vacuous(Vec<String>),
    /// Every law holds, in another number of states than counted before.
    Drifted {
        /// The number counted before.
        golden: u64,
    },
}

impl Verdict {
    /// 0 complete and clean, 1 something is wrong, 2 truncated.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Complete => 0,
            Self::Violated(_) | Self::Vacuous(_) | Self::Drifted { .. } => 1,
            Self::Truncated(_) => 2,
        }
    }

    /// In one line.
    #[must_use]
    pub fn summary(&self) -> String {
        match self {
            Self::Complete => "complete".to_string(),
            Self::Violated(violation) => {
                let names: Vec<&str> = violation.laws.iter().map(|law| law.name()).collect();
                match violation.path.len() {
                    0 => format!("VIOLATED {}", names.join(", ")),
                    states => format!("VIOLATED {} after {} steps", names.join(", "), states - 1),
                }
            }
            Self::Truncated(why) => format!("TRUNCATED: {why}"),
            Self::Vacuous(missing) => format!("VACUOUS: never reached {}", missing.join(", ")),
            Self::Drifted { golden } => format!("DRIFTED: {golden} states were counted before"),
        }
    }
}

/// A broken law and a shortest way to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The laws that the last state, or the step to it, breaks.
    pub laws: Vec<Law>,
    /// The states from the first to the one that breaks the law, each with the action that follows; empty if what is broken
    /// is a rule by which states were left out.
    pub path: Vec<(State, Option<Action>)>,
    /// What the server said that stopped itself, if one did.
    pub message: Option<String>,
}

/// For how much the rules were proven by which an exploration leaves states out; see [`proofs`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Proven {
    /// Pairs of server and dead message.
    pub dead_messages: u64,
    /// Pairs of step and renaming.
    pub renamed_steps: u64,
}

/// The result of a run.
pub struct Report {
    /// The cluster, with its tables: what the path's numbers mean.
    pub cluster: Cluster,
    /// How far it went.
    pub progress: Progress,
    /// For how much the exploration was proven to be right in what it left out.
    pub proven: Proven,
    /// What may be concluded.
    pub verdict: Verdict,
}

/// Looks at every state of a configuration. `watch` is told how it goes, several times a second.
pub fn check(configuration: &Configuration, limits: &Limits, mut watch: impl FnMut(&Progress)) -> Report {
    let start = Instant::now();
    let cluster = Cluster::watching(configuration.clone(), &limits.laws);
    let counts = Counts::default();
    let breaks_a_law = |state: &State| !cluster.keeps_the_laws(state);
    let (found, exceeded) = std::thread::scope(|scope| {
        let searching = scope.spawn(|| search::search(&cluster, limits.threads, &counts, breaks_a_law));
        let mut exceeded = None;
        while !searching.is_finished() {
            std::thread::sleep(Duration::from_millis(5));
            let now = progress(&counts, start);
            watch(&now);
            exceeded = exceeded.or_else(|| limits.exceeded(&now));
            counts.stop.fetch_or(exceeded.is_some(), Ordering::Relaxed);
        }
        (searching.join().unwrap_or_else(|payload| resume_unwind(payload)), exceeded)
    });
    let mut proven = Proven::default();
    let verdict = match found {
        Found::Way(path) => Verdict::Violated(violation(&cluster, path)),
        Found::Stopped => Verdict::Truncated(exceeded.unwrap_or_default()),
        Found::Nothing => match prove(&cluster, limits.threads) {
            Ok(all) => {
                proven = all;
                conclude(&cluster, counts.states.load(Ordering::Relaxed))
            }
            Err(violation) => Verdict::Violated(violation),
        },
    };
    let progress = progress(&counts, start);
    Report { cluster, progress, proven, verdict }
}

fn progress(counts: &Counts, start: Instant) -> Progress {
    let [states, steps, looked_at, depth] =
        [&counts.states, &counts.steps, &counts.looked_at, &counts.depth].map(|count| count.load(Ordering::Relaxed));
    Progress { states, steps, queue: states.saturating_sub(looked_at), depth, elapsed: start.elapsed() }
}

fn violation(cluster: &Cluster, path: Vec<(State, Option<Action>)>) -> Violation {
    let laws = path.last().map_or(Vec::new(), |(state, _)| cluster.broken_laws(state));
    let message = laws.contains(&Law::ServerLaws).then(|| cluster.tables().panics().first().cloned()).flatten();
    Violation { laws, path, message }
}

/// Proves that what the exploration left out could be left out.
fn prove(cluster: &Cluster, threads: usize) -> Result<Proven, Violation> {
    let (configuration, tables) = (cluster.configuration(), cluster.tables());
    let violation = |law| move |message| Violation { laws: vec![law], path: Vec::new(), message: Some(message) };
    let mut proven = Proven::default();
    if configuration.drop_dead && cluster.watches(Law::DeadMessagesAreDead) {
        let proof = proofs::dead_messages(tables, configuration);
        proven.dead_messages = proof.map_err(violation(Law::DeadMessagesAreDead))?;
    }
    if cluster.watches(Law::ServersAreAlike) {
        let proof = proofs::servers_alike(tables, configuration, cluster.permutations(), threads);
        proven.renamed_steps = proof.map_err(violation(Law::ServersAreAlike))?;
    }
    Ok(proven)
}

/// Every state was looked at and no law was broken: does that mean something?
fn conclude(cluster: &Cluster, states: u64) -> Verdict {
    let missing = never_reached(cluster);
    match cluster.configuration().golden {
        _ if !missing.is_empty() => Verdict::Vacuous(missing),
        Some(golden) if golden != states => Verdict::Drifted { golden },
        _ => Verdict::Complete,
    }
}

/// The names of the goals that a complete exploration should have reached and of the actions that it should have taken,
/// but did not.
#[must_use]
pub fn never_reached(cluster: &Cluster) -> Vec<String> {
    let configuration = cluster.configuration();
    let reached: Vec<Goal> = cluster.goals_reached().collect();
    let goals = configuration.goals.iter().filter(|goal| !reached.contains(goal)).map(|goal| goal.name());
    let taken: Vec<&str> = cluster.names_taken().collect();
    let names = configuration.actions().filter(|name| !taken.contains(name));
    goals.chain(names).map(str::to_string).collect()
}
