//! Seeded random walks far past the bounds of the exhaustive runs, and the way from a failure to a short script.
//!
//! The servers and their laws are those of `raft_io::testkit`: the real protocol over real logs, with the laws of
//! `docs/INVARIANTS.md` checked over the whole history after every move. There the numbers have no bounds, as the packed
//! facts of the exhaustive model do. After the last move of a walk everything is mended and nobody asks for anything: then
//! all logs must become equal. Lives here: the walk over the testkit's moves, its end, and the shrinking.

use crate::configurations::named;
use crate::counterexample::script;
use crate::server::quietly;
use raft_io::Protocol;
use raft_io::testkit::cluster::{Cluster, MoveError};
use raft_io::testkit::liveness::{ROUNDS_MAX, healing, unsettled};
use raft_io::testkit::script::Script;
use raft_io::testkit::walk::choose;
use std::time::{Duration, Instant};

/// A cluster to walk through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// The name on the command line.
    pub name: &'static str,
    /// The script command that makes the cluster.
    pub command: String,
    /// What it is for, in one line.
    pub purpose: &'static str,
}

/// The setups with a name of their own: name, command, purpose.
const SETUPS: &[(&str, &str, &str)] = &[
    ("five", "cluster 5 disk=manual", "five servers with everything on"),
    (
        "five-plain",
        "cluster 5 disk=manual pre_vote=false check_quorum=false",
        "the protocol of the paper's Figure 2: the most leaders, the most conflicts",
    ),
    (
        "three-narrow",
        "cluster 3 disk=manual pre_vote=false check_quorum=false append_bytes_max=1 inflight_messages_max=2 entries_in_memory=2",
        "one entry a message, a window of two, hardly anything in memory: followers stay far behind",
    ),
    (
        "three-windows",
        "cluster 3 disk=manual pre_vote=false append_bytes_max=200 inflight_messages_max=4 entries_in_memory=8",
        "few entries a message and several messages in flight",
    ),
    (
        "members",
        "cluster 3 servers=5 disk=manual check_quorum=false",
        "servers come and go, by joint configurations among others",
    ),
    (
        "three-bytes",
        "cluster 3 disk=manual pre_vote=false append_bytes_max=60 inflight_bytes_max=60 entries_in_memory=8",
        "windows that bytes close, and not the number of messages",
    ),
    (
        "histories",
        "cluster 3 servers=4 disk=manual pre_vote=false check_quorum=false histories=true",
        "leaders of empty logs name histories, of which one comes to be committed",
    ),
    ("seven-fast", "cluster 7 pre_vote=false", "seven servers whose disks sync within the step: the most messages"),
];

/// The setups that run when none is named.
pub fn setups() -> impl Iterator<Item = Setup> {
    SETUPS.iter().map(|(name, command, purpose)| Setup { name, command: (*command).to_string(), purpose })
}

/// The setup of this name; a configuration of `check` lends its features, without its bounds.
#[must_use]
pub fn setup(name: &str) -> Option<Setup> {
    let of_check = || {
        let found = named(name)?;
        Some(Setup { name: found.name, command: script::cluster_command(found), purpose: found.purpose })
    };
    setups().find(|setup| setup.name == name).or_else(of_check)
}

/// How far to walk.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// What the walk follows from.
    pub seed: u64,
    /// How many moves.
    pub steps: usize,
    /// When to give up.
    pub deadline: Option<Instant>,
    /// Something that must not happen beside a broken law.
    pub forbidden: fn(&Cluster) -> Option<String>,
}

impl Settings {
    /// A walk from a seed with nothing forbidden but what the laws forbid.
    #[must_use]
    pub fn new(seed: u64, steps: usize) -> Self {
        Self { seed, steps, deadline: None, forbidden: |_| None }
    }
}

/// Where a walk has been.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// Moves made.
    pub steps: usize,
    /// The highest term.
    pub term: u64,
    /// The longest log.
    pub log: u64,
    /// Entries committed.
    pub committed: u64,
    /// The most messages on their way at once.
    pub messages: usize,
    /// Crashes.
    pub crashes: usize,
}

impl Reached {
    /// This and another walk.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            steps: self.steps + other.steps,
            term: self.term.max(other.term),
            log: self.log.max(other.log),
            committed: self.committed + other.committed,
            messages: self.messages.max(other.messages),
            crashes: self.crashes + other.crashes,
        }
    }

    fn note(&mut self, cluster: &Cluster) {
        let protocols = || cluster.ids().filter_map(|id| cluster.protocol(id));
        self.term = self.term.max(protocols().map(|protocol| protocol.term().0).max().unwrap_or(0));
        self.log = self.log.max(protocols().map(Protocol::last).map(|last| last.index.0).max().unwrap_or(0));
        self.committed = cluster.committed_index().0;
        self.messages = self.messages.max(cluster.network().in_flight().len());
    }
}

/// A walk that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The law, or what stopped a server: the same for failures that count as one.
    pub law: String,
    /// What happened.
    pub words: String,
    /// Every command up to the failure.
    pub commands: Vec<String>,
}

/// How a walk ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Every move was made and every law holds.
    Clean,
    /// The deadline came first.
    Truncated,
    /// A law is broken.
    Failed(Failure),
}

/// splitmix64: a generator that is the same everywhere and for ever.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }
}

/// A script under way, with what is forbidden beside the laws.
struct Run {
    script: Script,
    forbidden: fn(&Cluster) -> Option<String>,
}

/// What a command led to.
enum Ran {
    Moved,
    Impossible,
    /// The law, and what happened.
    Failed(String, String),
}

impl Run {
    fn new(forbidden: fn(&Cluster) -> Option<String>) -> Self {
        Self { script: Script::default(), forbidden }
    }

    fn run(&mut self, command: &str) -> Ran {
        let script = &mut self.script;
        let said = match quietly(|| script.run(command)) {
            Ok(Ok(said)) => said,
            Ok(Err(MoveError::Impossible(_))) => return Ran::Impossible,
            Ok(Err(MoveError::Violation(violation))) => {
                return Ran::Failed(violation.law.to_string(), first_line(&violation.to_string()));
            }
            Ok(Err(error)) => return Ran::Failed("RestoreError".to_string(), error.to_string()),
            Err(message) => return Ran::Failed(without_numbers(&message), message),
        };
        // Only this cluster's own servers speak here, and they are honest.
        if let Some(line) = said.lines().find(|line| line.trim_start().starts_with("misbehaved")) {
            return Ran::Failed(
                "HonestServersBehave".to_string(),
                format!("HonestServersBehave is broken: {}", line.trim()),
            );
        }
        let found = self.script.cluster().and_then(|cluster| (self.forbidden)(cluster));
        found.map_or(Ran::Moved, |words| Ran::Failed("Forbidden".to_string(), words))
    }
}

/// What a walk breaks after which the cluster does not come to rest: no law of a state, so that it has no row of its own in
/// `docs/INVARIANTS.md`.
pub const CONVERGENCE: &str = "LogsConverge";

impl Run {
    /// Mends everything and waits until all logs are equal, without a proposal; what is broken by then, and how.
    fn settle(&mut self) -> Option<(String, String)> {
        let mut commands = self.script.cluster().map(healing)?.into_iter();
        for _ in 0..ROUNDS_MAX {
            let waits_for = self.script.cluster().and_then(unsettled);
            let next = commands.next().or_else(|| waits_for.is_some().then(|| "run 1".to_string()))?;
            if let Ran::Failed(law, words) = self.run(&next) {
                return Some((law, words));
            }
        }
        let words = self.script.cluster().and_then(unsettled)?;
        Some((CONVERGENCE.to_string(), format!("{CONVERGENCE} is broken: healed, and {words}")))
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_string()
}

/// What one assertion says, whoever says it.
fn without_numbers(message: &str) -> String {
    first_line(message).chars().filter(|letter| !letter.is_ascii_digit()).collect()
}

/// Walks from a seed. `watch` is told now and then how far it is.
pub fn walk(setup: &Setup, settings: &Settings, mut watch: impl FnMut(&Reached)) -> (Reached, End) {
    let mut random = Random(settings.seed);
    let mut run = Run::new(settings.forbidden);
    let mut reached = Reached::default();
    let mut commands = Vec::new();
    let mut next = Some(setup.command.clone());
    loop {
        if let Some(command) = next.take() {
            let ran = run.run(&command);
            reached.crashes += usize::from(command.starts_with("crash"));
            commands.push(command);
            match ran {
                Ran::Moved => {}
                // A read that nobody waits for.
                Ran::Impossible => _ = commands.pop(),
                Ran::Failed(law, words) => return (reached, End::Failed(Failure { law, words, commands })),
            }
        }
        if reached.steps.is_multiple_of(64) {
            run.script.cluster().into_iter().for_each(|cluster| reached.note(cluster));
            watch(&reached);
            if settings.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return (reached, End::Truncated);
            }
        }
        if reached.steps == settings.steps {
            run.script.cluster().into_iter().for_each(|cluster| reached.note(cluster));
            let end = run.settle().map_or(End::Clean, |(law, words)| End::Failed(Failure { law, words, commands }));
            return (reached, end);
        }
        reached.steps += 1;
        next = run.script.cluster().and_then(|cluster| move_of(cluster, reached.steps, random.next()));
    }
}

/// How many moves the stormy weather lasts, and the calm.
const WEATHER_STEPS: usize = 250;

/// The move that a number chooses. The testkit's choice leaves out the ends of reads that were not in memory; and it
/// lets leaders hardly ever rule for long, so every other while nothing speaks against them: logs and windows fill.
fn move_of(cluster: &Cluster, step: usize, number: u64) -> Option<String> {
    let (kind, rest, pick) = (number as u8, (number >> 8) as u8, (number >> 32) as u32);
    if rest.is_multiple_of(16) {
        return cluster.ids().nth(pick as usize % cluster.ids().count()).map(|id| format!("cold_read {id}"));
    }
    let calm = (step / WEATHER_STEPS) % 2 == 1 && cluster.leader().is_some();
    let disturbs = |command: &String| {
        ["election_timeout", "quorum_check", "crash", "partition"].iter().any(|verb| command.starts_with(verb))
    };
    choose(cluster, kind, pick).filter(|command| !(calm && disturbs(command)))
}

/// Leaves out whatever the failure does without: ever smaller parts of the schedule, until no single command can go
/// (delta debugging), or the time is up. What has become impossible in a shorter schedule is left out too.
pub fn shrink(failure: &Failure, settings: &Settings, time: Duration, mut watch: impl FnMut(usize)) -> Failure {
    let deadline = Instant::now() + time;
    let mut best = failure.clone();
    // The first command makes the cluster.
    let mut part = best.commands.len() / 2;
    while part > 0 {
        let mut at = 1;
        let mut shorter = false;
        while at < best.commands.len() {
            if Instant::now() >= deadline {
                return best;
            }
            let end = (at + part).min(best.commands.len());
            let candidate = [&best.commands[..at], &best.commands[end..]].concat();
            match replay(&candidate, settings, &failure.law).filter(|found| found.law == failure.law) {
                Some(found) => {
                    best = found;
                    shorter = true;
                    watch(best.commands.len());
                }
                None => at = end,
            }
        }
        // Once more with single commands while that helps: leaving one out may free another.
        part = if part == 1 { usize::from(shorter) } else { part / 2 };
    }
    best
}

/// Runs commands, leaves out what is impossible, and returns the failure that they lead to; of convergence, by what follows.
fn replay(commands: &[String], settings: &Settings, law: &str) -> Option<Failure> {
    let mut run = Run::new(settings.forbidden);
    let mut made = Vec::new();
    for command in commands {
        match run.run(command) {
            Ran::Impossible => {}
            Ran::Moved => made.push(command.clone()),
            Ran::Failed(law, words) => {
                made.push(command.clone());
                return Some(Failure { law, words, commands: made });
            }
        }
    }
    let (law, words) = (law == CONVERGENCE).then(|| run.settle())??;
    Some(Failure { law, words, commands: made })
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft_io::LogView;

    /// As if no entry of a second term were allowed to commit.
    fn a_commit_in_a_later_term(cluster: &Cluster) -> Option<String> {
        let committed = |protocol: &Protocol| {
            let disk = cluster.disk(protocol.id())?;
            disk.term(protocol.commit_index()).filter(|term| term.0 >= 2)
        };
        let found = cluster.ids().filter_map(|id| cluster.protocol(id)).find_map(committed)?;
        Some(format!("an entry of term {found} is committed"))
    }

    fn settings(seed: u64, steps: usize) -> Settings {
        Settings { forbidden: a_commit_in_a_later_term, ..Settings::new(seed, steps) }
    }

    #[test]
    fn a_failure_shrinks_to_what_it_needs() {
        let setup = setup("five-plain").expect("a setup");
        let (_, end) = walk(&setup, &settings(1, 5000), |_| {});
        let End::Failed(failure) = end else { panic!("{end:?}") };
        let shrunk = shrink(&failure, &settings(1, 5000), Duration::from_secs(60), |_| {});
        assert_eq!(shrunk.law, "Forbidden");
        // Two elections of a quorum and one commit.
        assert!(shrunk.commands.len() < 30, "{} of {}: {shrunk:?}", shrunk.commands.len(), failure.commands.len());
        assert_eq!(
            replay(&shrunk.commands, &settings(1, 0), "Forbidden").as_ref(),
            Some(&shrunk),
            "what is left replays"
        );
        let without_one = (1..shrunk.commands.len()).filter(|at| {
            let mut commands = shrunk.commands.clone();
            commands.remove(*at);
            replay(&commands, &settings(1, 0), "Forbidden").is_some()
        });
        assert_eq!(without_one.count(), 0, "no single command can go");
    }

    #[test]
    fn a_seed_gives_one_walk_and_it_goes_far() {
        let setup = setup("five").expect("a setup");
        let (first, end) = walk(&setup, &Settings::new(7, 3000), |_| {});
        assert_eq!(end, End::Clean);
        assert_eq!((first, End::Clean), walk(&setup, &Settings::new(7, 3000), |_| {}));
        assert!(first.committed > 20 && first.log > 20 && first.crashes > 5 && first.messages > 5, "{first:?}");
    }

    #[test]
    fn every_setup_and_every_configuration_of_check_can_be_walked() {
        for name in setups().map(|setup| setup.name).chain(crate::explore::names()) {
            let setup = setup(name).expect("a setup");
            let (reached, end) = walk(&setup, &Settings::new(3, 300), |_| {});
            assert_eq!((reached.steps, end), (300, End::Clean), "{name}");
        }
        assert_eq!(setup("nope"), None);
    }

    #[test]
    fn a_walk_that_runs_out_of_time_says_so() {
        let settings = Settings { deadline: Some(Instant::now()), ..Settings::new(1, 1000) };
        assert_eq!(walk(&setup("five").expect("a setup"), &settings, |_| {}).1, End::Truncated);
    }
}
