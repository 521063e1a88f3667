//! Membership churn: five processes, random changes in random order, clients throughout, and the same verdicts.
//!
//! Members are added, promoted, demoted and removed, leadership is handed over, processes are killed or stopped and come back. A
//! removed node's process ends and a new one takes its place under a new id, which waits to be added: there are always five.
//! Each change is sent until it is done; one that is not done within a bound is stuck, and fails the run. The order comes from
//! the seed; what each change meets also depends on timing.
//!
//! Clients leave a generation of keys behind every half minute, so that each key has a short history, however long the run.

use crate::load::{Load, Random, Recorded};
use crate::nodes::Nodes;
use crate::screen::{Screen, print_table};
use crate::stage::{self, Figure, PATIENCE, Stage, ended, milliseconds};
use crate::timeline::{self, is_write};
use crate::verify::{self, Check};
use crate::{Options, run};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

const PROCESSES: usize = 5;
/// No removal and no demotion leaves fewer.
const VOTERS_MIN: usize = 3;
/// A change that takes longer is stuck.
const CHANGE_BOUND: Duration = Duration::from_secs(60);
/// Between a process's end and its return, and between two changes, at most, in milliseconds.
const DOWN_MAX: u32 = 1500;
const REST_MAX: u32 = 600;
/// How long each client rests between two operations.
const CLIENT_PAUSE: Duration = Duration::from_millis(3);
const GENERATION: Duration = Duration::from_secs(30);
/// Snapshots are taken often enough that new members need them.
const SNAPSHOT_COMMANDS: usize = 10_000;

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct ChurnOptions {
    /// How long the members come and go; a part of a minute is allowed
    #[arg(long, value_name = "M", default_value_t = 2.0, value_parser = minutes)]
    minutes: f64,
    /// Client connections, spread over all members
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=400))]
    connections: u32,
}

fn minutes(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(minutes) if (0.05..=1440.0).contains(&minutes) => Ok(minutes),
        _ => Err("must be a number from 0.05 to 1440".into()),
    }
}

/// What may be done to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Operation {
    AddVoter(usize),
    AddLearner(usize),
    Promote(usize),
    Demote(usize),
    Remove(usize),
    Transfer(usize),
    Restart(usize),
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::AddVoter(_) => "add voter",
            Self::AddLearner(_) => "add learner",
            Self::Promote(_) => "promote",
            Self::Demote(_) => "demote",
            Self::Remove(_) => "remove",
            Self::Transfer(_) => "transfer",
            Self::Restart(_) => "restart",
        }
    }

    fn node(self) -> usize {
        match self {
            Self::AddVoter(node) | Self::AddLearner(node) | Self::Promote(node) | Self::Demote(node) => node,
            Self::Remove(node) | Self::Transfer(node) | Self::Restart(node) => node,
        }
    }
}

/// The cluster as the changes that were done have made it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Members {
    voters: BTreeSet<usize>,
    learners: BTreeSet<usize>,
    /// Processes that wait to be added.
    spares: BTreeSet<usize>,
}

impl Members {
    /// Everything that may be done next. Each sort of it is as likely as the others, whatever the number of nodes.
    fn choices(&self, nobody_is_down: bool) -> Vec<Vec<Operation>> {
        let spare = self.voters.len() > VOTERS_MIN;
        let each = |nodes: &BTreeSet<usize>, make: fn(usize) -> Operation, may: bool| -> Vec<Operation> {
            nodes.iter().filter(|_| may).map(|node| make(*node)).collect()
        };
        let mut removable = each(&self.learners, Operation::Remove, true);
        removable.extend(each(&self.voters, Operation::Remove, spare));
        let mut all = each(&self.voters, Operation::Restart, nobody_is_down);
        all.extend(each(&self.learners, Operation::Restart, nobody_is_down));
        all.extend(each(&self.spares, Operation::Restart, nobody_is_down));
        let sorts = [
            each(&self.spares, Operation::AddVoter, true),
            each(&self.spares, Operation::AddLearner, true),
            each(&self.learners, Operation::Promote, true),
            each(&self.voters, Operation::Demote, spare),
            removable,
            each(&self.voters, Operation::Transfer, true),
            all,
        ];
        sorts.into_iter().filter(|sort| !sort.is_empty()).collect()
    }

    fn choose(&self, nobody_is_down: bool, random: &mut Random) -> Operation {
        let choices = self.choices(nobody_is_down);
        let sort = &choices[random.below(choices.len() as u32) as usize];
        sort[random.below(sort.len() as u32) as usize]
    }

    /// A change is done.
    fn follow(&mut self, operation: Operation) {
        let node = operation.node();
        if matches!(operation, Operation::Transfer(_) | Operation::Restart(_)) {
            return;
        }
        for part in [&mut self.voters, &mut self.learners, &mut self.spares] {
            part.remove(&node);
        }
        match operation {
            Operation::AddVoter(_) | Operation::Promote(_) => drop(self.voters.insert(node)),
            Operation::AddLearner(_) | Operation::Demote(_) => drop(self.learners.insert(node)),
            _ => {}
        }
    }

    /// As the kv server writes it.
    fn text(&self) -> String {
        let list = |nodes: &BTreeSet<usize>| nodes.iter().map(|node| format!(" {}", node + 1)).collect::<String>();
        let learners = if self.learners.is_empty() { "" } else { ", learners" };
        format!("voters{}{learners}{}", list(&self.voters), list(&self.learners))
    }
}

/// The changes of a run.
struct Churn {
    random: Random,
    members: Members,
    /// The process that is down, and when it comes back.
    down: Option<(usize, Instant)>,
    /// How often each sort was done, and how long the longest took.
    done: BTreeMap<&'static str, (u64, Duration)>,
    /// Handovers that ended without the target leading: it was down, or too slow.
    not_handed_over: u64,
    stuck: Vec<String>,
}

/// Changes until the time is over, then the verdicts. `Ok(false)` when a check fails.
pub(crate) fn run(options: &Options, churn: &ChurnOptions) -> Result<bool, String> {
    let snapshot_commands = options.snapshot_commands.or(Some(SNAPSHOT_COMMANDS));
    let options = Options { snapshot_commands, ..options.clone() };
    let screen = Screen::new();
    let nodes = run::start(&options, PROCESSES, &screen)?;
    let load = Load::start(&nodes, churn.connections, options.seed, CLIENT_PAUSE, Some(GENERATION));
    let mut stage = Stage::new(nodes, load.map_err(|error| error.to_string())?, screen);
    let mut state = Churn {
        random: Random(options.seed),
        members: Members { voters: (0..PROCESSES).collect(), ..Members::default() },
        down: None,
        done: BTreeMap::new(),
        not_handed_over: 0,
        stuck: Vec::new(),
    };
    let deadline = Instant::now() + Duration::from_secs_f64(churn.minutes * 60.0);
    while Instant::now() < deadline && state.stuck.is_empty() {
        state.step(&mut stage)?;
        let rest = Instant::now() + Duration::from_millis(state.random.below(REST_MAX).into());
        while Instant::now() < rest {
            state.idle(&mut stage)?;
            thread::sleep(Duration::from_millis(5));
        }
    }
    while state.down.is_some() {
        state.idle(&mut stage)?;
        thread::sleep(Duration::from_millis(5));
    }
    conclude(stage, state)
}

impl Churn {
    /// One operation, from the choice to its end.
    fn step(&mut self, stage: &mut Stage) -> Result<(), String> {
        let operation = self.members.choose(self.down.is_none(), &mut self.random);
        let (node, id) = (operation.node(), (operation.node() + 1).to_string());
        let address = stage.nodes.peer_address(node);
        let began = Instant::now();
        let words: Vec<&str> = match operation {
            Operation::AddVoter(_) => vec!["RAFT.ADD", &id, &address],
            Operation::AddLearner(_) => vec!["RAFT.ADD", &id, &address, "LEARNER"],
            Operation::Promote(_) => vec!["RAFT.PROMOTE", &id],
            Operation::Demote(_) => vec!["RAFT.DEMOTE", &id],
            Operation::Remove(_) => vec!["RAFT.REMOVE", &id],
            Operation::Transfer(_) => vec!["RAFT.TRANSFER", &id],
            Operation::Restart(_) => vec![],
        };
        match operation {
            Operation::Restart(node) => self.take_down(stage, node)?,
            Operation::Transfer(_) => self.transfer(stage, &words)?,
            _ => {
                let nodes = stage.nodes.clone();
                let mut failed = Ok(());
                let idle = || {
                    if failed.is_ok() {
                        failed = self.idle(stage);
                    }
                };
                let asked = stage::ask_leader(&nodes, &words, CHANGE_BOUND, idle);
                failed?;
                if let Err(message) = asked {
                    stage.screen.say(&format!("stuck: {message}"));
                    self.stuck.push(message);
                    return Ok(());
                }
            }
        }
        let took = began.elapsed();
        let (count, longest) = self.done.entry(operation.name()).or_default();
        *count += 1;
        *longest = took.max(*longest);
        self.members.follow(operation);
        self.settle(stage, operation)?;
        let (name, members) = (operation.name(), self.members.text());
        stage.screen.say(&format!("{name} {id} in {}: {members}", milliseconds(took.as_nanos() as u64)));
        Ok(())
    }

    /// Ends or resumes what a process has to do with clients, and replaces one that was removed.
    fn settle(&mut self, stage: &mut Stage, operation: Operation) -> Result<(), String> {
        let node = operation.node();
        match operation {
            Operation::AddVoter(_) | Operation::AddLearner(_) => {
                stage.nodes.set_serving(node, true);
                stage.load.call_home();
            }
            Operation::Remove(_) => {
                stage.nodes.set_serving(node, false);
                stage.load.call_home();
                self.down = self.down.filter(|(down, _)| *down != node);
                stage.nodes.stop(node).map_err(|error| error.to_string())?;
                // It may be down already, or never have come far enough to have data.
                let _ = stage.nodes.wipe(node);
                let new = stage.nodes.join().map_err(|error| error.to_string())?;
                self.members.spares.insert(new);
            }
            _ => {}
        }
        Ok(())
    }

    /// Ends a process in one of two ways. It comes back while other things go on.
    fn take_down(&mut self, stage: &mut Stage, node: usize) -> Result<(), String> {
        let ended = if self.random.below(2) == 0 { stage.nodes.kill(node) } else { stage.nodes.stop(node) };
        ended.map_err(|error| error.to_string())?;
        self.down = Some((node, Instant::now() + Duration::from_millis(self.random.below(DOWN_MAX).into())));
        Ok(())
    }

    /// A handover may fail; but it ends.
    fn transfer(&mut self, stage: &mut Stage, words: &[&str]) -> Result<(), String> {
        let nodes = stage.nodes.clone();
        let asked = thread::scope(|scope| {
            let asking = scope.spawn(|| stage::ask(&nodes, words));
            while !asking.is_finished() {
                self.idle(stage)?;
                thread::sleep(Duration::from_millis(5));
            }
            Ok::<_, String>(asking.join().unwrap_or_else(|_| Err("the asking thread panicked".into())))
        })?;
        self.not_handed_over += u64::from(asked.is_err());
        Ok(())
    }

    /// What goes on beside everything: the process that is down comes back, the screen shows how it goes.
    fn idle(&mut self, stage: &mut Stage) -> Result<(), String> {
        if let Some((node, _)) = self.down.filter(|(_, back)| Instant::now() >= *back) {
            stage.nodes.restart(node).map_err(|error| error.to_string())?;
            self.down = None;
            stage.load.call_home();
        }
        if let Some(node) = stage.nodes.find_ended() {
            return Err(ended(&stage.nodes, node));
        }
        stage.live("churn");
        Ok(())
    }
}

/// The verdicts and the table.
fn conclude(mut stage: Stage, state: Churn) -> Result<bool, String> {
    let (leader, _) = stage.leader()?;
    stage.events.end = stage.now();
    let Stage { nodes, load, screen, mut events, .. } = stage;
    let shared = std::sync::Arc::clone(&load.shared);
    let mut notes = load.stop()?;
    screen.doing("reading every key back");
    let replies = verify::check_replies(&notes);
    let operations: Vec<Recorded> = notes.iter_mut().flat_map(|notes| notes.operations.drain(..)).collect();
    let timeline = timeline::measure(operations.iter(), &mut events);
    let gap = longest_gap(&operations);
    let reads = verify::read_back(&shared, nodes.port(leader), &operations)?;
    let lost = verify::check_lost(&operations, &reads);
    screen.doing("comparing the replicas");
    let replicas = verify::check_replicas(&nodes, PATIENCE);
    let members = check_members(&nodes, &state.members);
    screen.doing("checking the history");
    let history = operations.into_iter().chain(reads).collect();
    let checks = [lost, verify::check_history(history), replicas, replies, check_changes(&state), members];
    nodes.end_all();
    screen.finish();
    let quantile = |q: f64| milliseconds(timeline.latencies.value_at_quantile(q));
    let figure = |name, value: String, note: String| Figure { name, value, note };
    let mut figures = vec![
        figure("throughput", format!("{:.0} ops/s", timeline.per_second), String::new()),
        figure(
            "operations",
            timeline.latencies.len().to_string(),
            format!(
                "{} of them acknowledged writes; {} refused, {} of unknown outcome",
                timeline.writes_acknowledged,
                shared.refused.load(Relaxed),
                shared.unknown.load(Relaxed)
            ),
        ),
        figure("latency p50 / p99 / p99.9", [0.5, 0.99, 0.999].map(quantile).join(" / "), String::new()),
        figure("longest time without a write", milliseconds(gap), String::new()),
    ];
    for (name, (count, longest)) in &state.done {
        let mut note = format!("the longest took {}", milliseconds(longest.as_nanos() as u64));
        if *name == "transfer" {
            note.push_str(&format!("; {} did not end with the target leading", state.not_handed_over));
        }
        figures.push(figure(name, count.to_string(), note));
    }
    print_table(&figures, &checks);
    Ok(checks.iter().all(|check| check.holds))
}

/// The longest time from one acknowledged write to the next, in nanoseconds.
fn longest_gap(operations: &[Recorded]) -> u64 {
    let writes = operations.iter().filter(|(_, operation)| is_write(&operation.input));
    let mut returned: Vec<u64> = writes.filter_map(|(_, write)| Some(write.returned.as_ref()?.0)).collect();
    returned.sort_unstable();
    returned.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
}

fn check_changes(state: &Churn) -> Check {
    let changes = state.done.iter().filter(|(name, _)| !["transfer", "restart"].contains(name));
    let (count, longest) =
        changes.fold((0, Duration::ZERO), |(count, longest), (_, (more, took))| (count + more, longest.max(*took)));
    let mut detail = format!(
        "{} of {}, the longest took {} of at most {CHANGE_BOUND:?}",
        state.stuck.len(),
        count + state.stuck.len() as u64,
        milliseconds(longest.as_nanos() as u64)
    );
    state.stuck.iter().for_each(|message| detail.push_str(&format!("; {message}")));
    Check { name: "changes stuck", holds: state.stuck.is_empty() && count > 0, detail }
}

/// Whether every member knows the members that the changes have made.
fn check_members(nodes: &Nodes, members: &Members) -> Check {
    let wanted = members.text();
    let known: Vec<_> = nodes.serving().into_iter().map(|node| nodes.status(node).map(|of| of.members)).collect();
    let holds = known.iter().all(|known| known.as_ref() == Some(&wanted));
    let detail = if holds { wanted } else { format!("{wanted} are wanted; the members know {known:?}") };
    Check { name: "members as changed", holds, detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_change_leaves_too_few_voters_and_five_processes_stay() {
        let mut members = Members { voters: (0..PROCESSES).collect(), ..Members::default() };
        let (mut random, mut next, mut seen) = (Random(7), PROCESSES, BTreeSet::new());
        for round in 0..2000 {
            let operation = members.choose(round % 2 == 0, &mut random);
            seen.insert(operation.name());
            members.follow(operation);
            if matches!(operation, Operation::Remove(_)) {
                members.spares.insert(next);
                next += 1;
            }
            assert!(members.voters.len() >= VOTERS_MIN, "{operation:?}: {members:?}");
            let all = members.voters.len() + members.learners.len() + members.spares.len();
            assert_eq!(all, PROCESSES, "{operation:?}: {members:?}");
            assert!(round % 2 == 0 || !matches!(operation, Operation::Restart(_)));
        }
        assert_eq!(seen.len(), 7, "{seen:?}");
    }

    #[test]
    fn members_read_as_the_server_writes_them() {
        let mut members = Members { voters: BTreeSet::from([0, 2, 3]), ..Members::default() };
        assert_eq!(members.text(), "voters 1 3 4");
        members.follow(Operation::AddLearner(6));
        assert_eq!(members.text(), "voters 1 3 4, learners 7");
        members.follow(Operation::Promote(6));
        members.follow(Operation::Remove(0));
        assert_eq!(members.text(), "voters 3 4 7");
    }
}
