//! A trace as a scenario script: the commands that lead the testkit's cluster the same way.
//!
//! The script is run while it is written. So every position of a message on its way is looked up rather than
//! computed, the output in the script is what the code says, and what is written replays.

use super::{Happening, Trace, words};
use crate::config::Configuration;
use crate::server::{COMMAND, Input, quietly};
use raft_io::testkit::cluster::{Cluster, MoveError};
use raft_io::testkit::script::{Script, verb};
use raft_io::{Envelope, Event, NodeId, RaftConfig};

/// A script and how it ends.
#[derive(Clone, Debug)]
pub struct Replay {
    /// The script, with its output.
    pub text: String,
    /// The law that the last command breaks, in the words of the replay; `None` if it runs through.
    pub failure: Option<String>,
    /// The cluster in the end, if the script runs through.
    pub cluster: Option<Cluster>,
}

/// The script of a trace.
#[must_use]
pub fn of_trace(trace: &Trace) -> Replay {
    let mut writer = Writer::default();
    writer.take(&[cluster_command(&trace.configuration)]);
    for (at, step) in trace.steps.iter().enumerate() {
        if writer.failure.is_some() {
            break;
        }
        let needed_later =
            |envelope: &Envelope| trace.steps[at + 1..].iter().any(|step| handles(&step.happening, envelope));
        let commands = commands(writer.cluster(), &step.happening, needed_later);
        writer.take(&commands);
    }
    if writer.failure.is_none() {
        writer.take(&["status".to_string()]);
    }
    let story = story(trace, writer.failure.as_deref());
    writer.end(&story)
}

/// The script of these commands, below a comment.
#[must_use]
pub fn of_commands(story: &str, commands: &[String]) -> Replay {
    let mut writer = Writer::default();
    for command in commands {
        if writer.failure.is_none() {
            writer.take(std::slice::from_ref(command));
        }
    }
    writer.end(story)
}

/// The comment at the head.
fn story(trace: &Trace, failure: Option<&str>) -> String {
    let configuration = &trace.configuration;
    let mut lines = Vec::new();
    for law in &trace.laws {
        lines.push(format!("# {} is broken: {}", law.name(), law.says()));
    }
    lines.extend(trace.message.iter().flat_map(|message| message.lines()).map(|line| format!("# {}", line.trim())));
    lines.push(format!(
        "# Found by `raft-model check {}` ({}): a shortest way, of {} steps.",
        configuration.name,
        configuration.bounds(),
        trace.steps.len()
    ));
    lines.push(match failure.and_then(|failure| failure.lines().next()) {
        Some(failure) => format!("# The last command fails: {failure}"),
        None => "# The script runs through: its own checker knows no law that is broken here.".to_string(),
    });
    let laws: Vec<_> = trace.laws.iter().map(|law| law.name()).collect();
    lines
        .push("# Save it below tests/scenarios/ and run `cargo test --features testkit --test scenarios`.".to_string());
    lines.extend((!laws.is_empty()).then(|| format!("# Law: {}", laws.join(", "))));
    lines.join("\n")
}

/// The command that makes the cluster of a configuration. It has no bounds.
#[must_use]
pub fn cluster_command(configuration: &Configuration) -> String {
    let config = configuration.raft_config(NodeId(1));
    let usual = RaftConfig::new(1, 1..=u64::from(configuration.servers));
    let initial = configuration.initial();
    let mut command = format!("cluster {} disk=manual", initial.voters().len());
    if initial.voters().len() < usize::from(configuration.servers) {
        command += &format!(" servers={}", configuration.servers);
    }
    command += &list("learners", initial.learners());
    let mut option = |differs: bool, text: String| command += &if differs { format!(" {text}") } else { String::new() };
    option(config.pre_vote != usual.pre_vote, format!("pre_vote={}", config.pre_vote));
    option(config.check_quorum != usual.check_quorum, format!("check_quorum={}", config.check_quorum));
    option(config.append_bytes_max != usual.append_bytes_max, format!("append_bytes_max={}", config.append_bytes_max));
    let window = config.inflight_messages_max;
    option(window != usual.inflight_messages_max, format!("inflight_messages_max={window}"));
    command
}

/// ` learners=4,5`, unless it is empty.
fn list(key: &str, ids: &[NodeId]) -> String {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    if ids.is_empty() { String::new() } else { format!(" {key}={}", ids.join(",")) }
}

fn handles(happening: &Happening, envelope: &Envelope) -> bool {
    matches!(happening, Happening::Step { input: Input::Event(Event::Receive(handled)), .. } if handled == envelope)
}

/// The commands of one step. The model's network is a set and the cluster's a queue on each way: a message that is
/// handled again later, without being sent again, must be duplicated first.
fn commands(cluster: &Cluster, happening: &Happening, needed_later: impl Fn(&Envelope) -> bool) -> Vec<String> {
    match happening {
        Happening::DropMessage(envelope) => {
            let at = position(cluster, envelope).map(|position| on_way("drop_message", cluster, position));
            at.into_iter().collect()
        }
        Happening::Step { input: Input::Event(Event::Receive(envelope)), stays, .. } => {
            let Some(at) = position(cluster, envelope) else {
                return vec![format!("# {} is not on its way here", words::message(envelope))];
            };
            let mut commands = Vec::new();
            if *stays && needed_later(envelope) && copies(cluster, envelope) == 1 {
                commands.push(on_way("duplicate_message", cluster, at));
            }
            commands.push(handle(cluster, at));
            commands
        }
        Happening::Step { server, input: Input::Crash { survive }, .. } => {
            vec![format!("crash {server} keep={survive}"), format!("restart {server}")]
        }
        Happening::Step { server, input: Input::Wipe, .. } => {
            vec![format!("crash {server}"), format!("wipe {server}")]
        }
        Happening::Step { server, input: Input::BackUp, .. } => vec![format!("back_up {server}")],
        Happening::Step { server, input: Input::RollBack, .. } => {
            vec![format!("crash {server}"), format!("roll_back {server}")]
        }
        Happening::Step { server, input: Input::Event(event), .. } => {
            let verb = verb(event.transition());
            vec![match event {
                Event::Persisted { writes } => format!("{verb} {server} {writes}"),
                Event::ReadRequest { context }
                | Event::LeaseReadRequest { context }
                | Event::FollowerReadRequest { context } => format!("{verb} {server} {context}"),
                Event::LeaseTimeout { round } => format!("{verb} {server} {round}"),
                Event::SnapshotTaken { last, compact_through } => {
                    format!("{verb} {server} {} through={compact_through}", last.index)
                }
                Event::TransferLeadership { target } => format!("{verb} {server} {target}"),
                Event::ChangeMembership { target } => {
                    let lists = [("voters", target.voters()), ("learners", target.learners())];
                    let lists: String = lists.into_iter().map(|(key, ids)| list(key, ids)).collect();
                    format!("{verb} {server}{lists}{}", list("promoting", target.promoting()))
                }
                Event::Propose(_) => format!("{verb} {server} {}", String::from_utf8_lossy(COMMAND)),
                _ => format!("{verb} {server}"),
            }]
        }
    }
}

fn position(cluster: &Cluster, envelope: &Envelope) -> Option<usize> {
    cluster.network().in_flight().iter().position(|each| each == envelope)
}

fn copies(cluster: &Cluster, envelope: &Envelope) -> usize {
    cluster.network().in_flight().iter().filter(|each| *each == envelope).count()
}

/// A command about the message at a position of the network.
fn on_way(verb: &str, cluster: &Cluster, position: usize) -> String {
    let network = cluster.network();
    let Envelope { from, to, .. } = network.in_flight()[position];
    let at = 1 + network.on_way(from, to).take_while(|earlier| *earlier < position).count();
    if at == 1 { format!("{verb} {from} {to}") } else { format!("{verb} {from} {to} at={at}") }
}

/// The transition's own verb takes the oldest message of its kind; any other one is delivered by its position.
fn handle(cluster: &Cluster, position: usize) -> String {
    let network = cluster.network();
    let transition = |position: usize| Event::Receive(network.in_flight()[position].clone()).transition();
    let (Envelope { from, to, .. }, kind) = (&network.in_flight()[position], transition(position));
    if network.on_way(*from, *to).find(|&earlier| transition(earlier) == kind) == Some(position) {
        return format!("{} {from} {to}", verb(kind));
    }
    on_way("deliver", cluster, position)
}

/// Runs commands and keeps them with their output.
#[derive(Default)]
struct Writer {
    script: Script,
    blocks: Vec<String>,
    /// Commands whose block is not yet complete.
    failure: Option<String>,
}

impl Writer {
    fn end(self, story: &str) -> Replay {
        let text = format!("{story}\n\n{}\n", self.blocks.join("\n\n"));
        let cluster = self.script.cluster().filter(|_| self.failure.is_none()).cloned();
        Replay { text, failure: self.failure, cluster }
    }

    fn cluster(&self) -> &Cluster {
        self.script.cluster().expect("the first command makes one")
    }

    /// Runs the commands of one block.
    fn take(&mut self, commands: &[String]) {
        let mut block = Vec::new();
        let mut output = String::new();
        for command in commands {
            block.push(command.clone());
            if command.starts_with('#') {
                self.failure = Some(command.clone());
                break;
            }
            let script = &mut self.script;
            match quietly(|| script.run(command)) {
                Ok(Ok(said)) => output += &said,
                Ok(Err(error)) => self.failure = Some(law_of(&error)),
                Err(message) => self.failure = Some(message),
            }
            if self.failure.is_some() {
                break;
            }
        }
        if block.is_empty() {
            return;
        }
        let output = if output.is_empty() { "ok" } else { output.trim_end() };
        let end = if self.failure.is_some() { String::new() } else { format!("\n---\n{output}") };
        self.blocks.push(block.join("\n") + &end);
    }
}

/// The first line of an error: the law, without the transcript.
fn law_of(error: &MoveError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_string()
}
