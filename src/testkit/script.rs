//! Schedules in words: one command a line, in the spec's verbs (law 7).
//!
//! A transition's verb is its name in snake case. Those that consume a message name its way and take the oldest message
//! of that kind on it: `handle_pre_vote_request 1 2` is what node 2 does with the question of node 1.
//!
//! | Command | Meaning |
//! |---|---|
//! | `cluster 3 pre_vote=false disk=manual` | servers 1 to 3 with empty disks; see `OPTIONS` below |
//! | `given 1 term=3 vote=2 log=1x3,2` | server 1 starts instead with this hard state and entries of these terms |
//! | `election_timeout 1`, `minimum_election_timeout`, `heartbeat_timeout`, `quorum_check_timeout` | a timeout fires at each server named, or at `all` |
//! | `client_request 1 x y` | commands are proposed, as one batch; `bytes=99` is one of that size |
//! | `read_request 1 7`, `lease_read_request 1 7` | a client wants to read at server 1, by a lease if there is one; 7 is how the answer names it |
//! | `follower_read_request 2 7` | likewise, but a server that only follows takes it too |
//! | `lease_timeout 1 3` | the time of a lease has passed since server 1 began round 3 |
//! | `step_down 1` | server 1 is to lead no more |
//! | `change_membership 1 voters=1,2,4 learners=5,6 promoting=6 addresses=4:host` | server 1 is to bring this configuration about |
//! | `transfer_leadership 1 2`, `transfer_timeout 1` | server 1 is to hand over to server 2; that took too long |
//! | `persisted 1 2` | the oldest 2 writes of server 1 are durable and it knows; all without a number |
//! | `sync 1 2` | they are durable and it does not know yet |
//! | `cold_read 1` | a read of entries that were not in memory ends |
//! | `deliver 1 2`, `deliver 1 2 at=3`, `deliver all` | the oldest, or third oldest, message from 1 to 2 arrives; everything in flight does |
//! | `drop_message 1 2`, `duplicate_message 1 2` | likewise; a duplicate is sent anew. `drop_message all` |
//! | `stabilize` | deliver and persist until nothing is left to do |
//! | `partition 1 \| 2 3`, `cut 1 2`, `heal` | no way between the groups; none from 1 to 2; every way open |
//! | `crash 1 keep=1`, `restart 1` | all but the oldest write in flight is lost |
//! | `join 4` | server 4 starts with an empty disk, and knows nobody |
//! | `wipe 4` | a server that is down, and joined, starts again with an empty disk, and knows nobody |
//! | `back_up 2`, `roll_back 2` | the disk is copied; the copy takes the place of the disk of a server that is down, and it starts |
//! | `lose_data 1 3` | the disk of a server that is down loses its entries from 3 on |
//! | `inject 2 1 append_entries_request term=5 prev=3@2 entries=4@2:x commit=3` | a message arrives that nobody sent; an entry `4@2:voters=1+2/learners=3` is a configuration |
//! | `tick 1 5`, `run 20` | clocks tick; whole rounds of ticks, disks and messages pass |
//! | `status`, `log 1`, `messages` | what is the case |
//! | `quietly …`, `briefly …` | without output; only with changes of role and of configuration, commits and misbehaviour |
//!
//! `OPTIONS`: `servers=5` (those beyond the voters run and know nobody), `learners` and `promoting` as in `change_membership`, `pre_vote`, `without_pre_vote=3` (that server alone), `check_quorum`, `append_bytes_max`, `inflight_messages_max`, `inflight_bytes_max`,
//! `uncommitted_bytes_max`, `command_bytes_max`, `seed`, `election_ticks`, `lease_ticks`, `disk=manual` (writes become durable by
//! command only), `entries_in_memory`, with the feature `trace` also `trace=true` (every step is recorded).
//!
//! The output names each event with the server that takes it and the transition that it is, and below it what follows:
//! `→ 2` is a message to server 2, `✗` one that is lost; `←` is where a message came from.

use super::cluster::{Cluster, MoveError, Moved, impossible};
use super::render;
use super::words::{Words, entries_of_terms, message, number};
use crate::event::Event;
use crate::log::LogView;
use crate::message::Envelope;
use crate::transition::Transition;
use crate::types::{HardState, Index, NodeId, Term};
use bytes::Bytes;
use std::format;
use std::string::{String, ToString};
use std::sync::Arc;
use std::vec::Vec;

/// The snake-case verb of a transition.
#[must_use]
pub fn verb(transition: Transition) -> String {
    let mut verb = String::new();
    for letter in transition.name().chars() {
        if letter.is_ascii_uppercase() && !verb.is_empty() {
            verb.push('_');
        }
        verb.push(letter.to_ascii_lowercase());
    }
    verb
}

/// Runs commands, one after the other, against one cluster.
#[derive(Clone, Debug, Default)]
pub struct Script {
    cluster: Option<Cluster>,
}

/// Runs a whole script and returns it with the output that it gives now.
///
/// Blocks are separated by empty lines; a block is comments, commands, and after `---` their output.
///
/// # Errors
/// The line and what was wrong: an unknown command, one that is not possible, a broken law.
pub fn golden(text: &str) -> Result<String, String> {
    let mut script = Script::default();
    let mut blocks = Vec::new();
    for block in text.split("\n\n").map(|block| block.trim_matches('\n')).filter(|block| !block.is_empty()) {
        let head = block.lines().take_while(|line| *line != "---").collect::<Vec<_>>();
        let commands = head.iter().filter(|line| !line.starts_with('#')).collect::<Vec<_>>();
        let mut output = String::new();
        for command in &commands {
            output += &script.run(command).map_err(|error| format!("{command}: {error}\n{output}"))?;
        }
        let mut golden = head.join("\n");
        if !commands.is_empty() {
            let output = if output.is_empty() { "ok" } else { output.trim_end() };
            golden += &format!("\n---\n{output}");
        }
        blocks.push(golden);
    }
    Ok(blocks.join("\n\n") + "\n")
}

impl Script {
    /// The cluster, once there is one.
    #[must_use]
    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// Runs one command and returns its output.
    ///
    /// # Errors
    /// It is unknown, or not possible now, or a law was broken.
    pub fn run(&mut self, line: &str) -> Result<String, MoveError> {
        if let Some(rest) = line.strip_prefix("quietly ") {
            return self.run(rest).map(|_| String::new());
        }
        if let Some(rest) = line.strip_prefix("briefly ") {
            return self.run(rest).map(|output| brief(&output));
        }
        let words = Words::parse(line)?;
        if words.verb == "cluster" {
            #[allow(unused_mut, reason = "it is changed with the feature `trace` alone")]
            let mut cluster = Cluster::new(words.options()?)?;
            #[cfg(feature = "trace")]
            if words.options.get("trace") == Some(&"true") {
                cluster.record();
            }
            self.cluster = Some(cluster);
            return Ok(String::new());
        }
        let Some(cluster) = &mut self.cluster else { return impossible("the first command is `cluster`") };
        let moved = run(cluster, &words);
        let output = cluster.take_transcript().into_iter().map(|line| line + "\n").collect::<String>();
        match moved {
            Ok(()) => Ok(output),
            Err(MoveError::Impossible(why)) => impossible(format!("{why}\n{output}")),
            Err(MoveError::Violation(mut violation)) => {
                violation.detail += &format!("\n{output}");
                Err(violation.into())
            }
            Err(error) => Err(error),
        }
    }
}

/// Changes of role and of configuration, commits and misbehaviour, each with its node in front.
fn brief(output: &str) -> String {
    let mut node = "";
    let mut kept = String::new();
    for line in output.lines() {
        match line.strip_prefix("  ") {
            None => node = line.split(' ').next().unwrap_or(""),
            Some(effect)
                if ["role ", "commit ", "membership ", "misbehaved"].iter().any(|word| effect.starts_with(word)) =>
            {
                kept += &format!("{node} {effect}\n");
            }
            Some(_) => {}
        }
    }
    kept
}

fn run(cluster: &mut Cluster, words: &Words<'_>) -> Moved {
    if let Some(transition) = Transition::ALL.iter().find(|transition| verb(**transition) == words.verb) {
        return run_transition(cluster, *transition, words);
    }
    match words.verb {
        "deliver" | "drop_message" | "duplicate_message" | "partition" | "cut" | "heal" | "inject" => {
            run_network(cluster, words)
        }
        "stabilize" => cluster.stabilize(),
        "sync" => cluster.sync(words.node(0)?, words.count(1)?),
        "cold_read" => cluster.cold_read(words.node(0)?),
        "crash" => cluster.crash(words.node(0)?, words.option("keep")?.unwrap_or(0) as usize),
        "restart" => cluster.restart(words.node(0)?),
        "join" => words.words.iter().try_for_each(|word| cluster.join(NodeId(number(word)?))),
        "wipe" => cluster.wipe(words.node(0)?),
        "back_up" => cluster.back_up(words.node(0)?),
        "roll_back" => cluster.roll_back(words.node(0)?),
        "lose_data" => cluster.lose_data(words.node(0)?, Index(words.number(1)?)),
        "given" => {
            let vote = words.option("vote")?.map(NodeId);
            let hard_state = HardState { term: Term(words.required("term")?), vote };
            cluster.give(words.node(0)?, hard_state, entries_of_terms(words.options.get("log").unwrap_or(&""))?)
        }
        "tick" => {
            let id = words.node(0)?;
            (0..words.number(1)?).try_for_each(|_| cluster.tick(id))
        }
        "run" => (0..words.number(0)?).try_for_each(|_| cluster.round()),
        "status" | "log" | "messages" => run_question(cluster, words),
        other => impossible(format!("there is no command {other}")),
    }
}

fn run_transition(cluster: &mut Cluster, transition: Transition, words: &Words<'_>) -> Moved {
    let timeout = match transition {
        Transition::ElectionTimeout => Event::ElectionTimeout,
        Transition::MinimumElectionTimeout => Event::MinimumElectionTimeout,
        Transition::HeartbeatTimeout => Event::HeartbeatTimeout,
        Transition::QuorumCheckTimeout => Event::QuorumCheckTimeout,
        Transition::TransferTimeout => Event::TransferTimeout,
        Transition::StepDown => Event::StepDown,
        Transition::LeaseTimeout => {
            let round = words.number(1)?;
            return cluster.step(words.node(0)?, Event::LeaseTimeout { round });
        }
        Transition::LeaseReadRequest => {
            let context = words.number(1)?;
            return cluster.step(words.node(0)?, Event::LeaseReadRequest { context });
        }
        Transition::FollowerReadRequest => {
            let context = words.number(1)?;
            return cluster.step(words.node(0)?, Event::FollowerReadRequest { context });
        }
        Transition::Persisted => return cluster.persisted(words.node(0)?, words.count(1)?),
        Transition::ClientRequest => return cluster.step(words.node(0)?, client_request(words)?),
        Transition::ReadRequest => {
            let context = words.number(1)?;
            return cluster.step(words.node(0)?, Event::ReadRequest { context });
        }
        Transition::TransferLeadership => {
            let target = words.node(1)?;
            return cluster.step(words.node(0)?, Event::TransferLeadership { target });
        }
        Transition::ChangeMembership => {
            let target = Arc::new(words.membership()?);
            return cluster.step(words.node(0)?, Event::ChangeMembership { target });
        }
        Transition::SnapshotTaken => {
            let index = words.number(1)?;
            let through = words.option("through")?.unwrap_or(index);
            return cluster.snapshot_taken(words.node(0)?, Index(index), Index(through));
        }
        Transition::SnapshotFetched => return cluster.snapshot_fetched(words.node(0)?),
        Transition::SnapshotFetchFailed => return cluster.snapshot_fetch_failed(words.node(0)?),
        _ => return handle(cluster, transition, words),
    };
    let is_of_elections = matches!(timeout, Event::ElectionTimeout | Event::MinimumElectionTimeout);
    words.nodes(cluster)?.into_iter().try_for_each(|id| match cluster.bound_by(id).filter(|_| is_of_elections) {
        Some(leader) => impossible(format!("the lease of node {leader} is over before node {id} may elect another")),
        None => cluster.step(id, timeout.clone()),
    })
}

fn client_request(words: &Words<'_>) -> Result<Event, MoveError> {
    let mut commands = words.words[1..].iter().map(|word| Bytes::from((*word).to_string())).collect::<Vec<_>>();
    commands.extend(words.option("bytes")?.map(|bytes| Bytes::from("x".repeat(bytes as usize))));
    Ok(match commands.as_slice() {
        [command] => Event::Propose(command.clone()),
        _ => Event::ProposeBatch(commands),
    })
}

/// Delivers the oldest message of the transition's kind on the way named.
fn handle(cluster: &mut Cluster, transition: Transition, words: &Words<'_>) -> Moved {
    let (from, to) = (words.node(0)?, words.node(1)?);
    let network = cluster.network();
    let consumed = |position: &usize| Event::Receive(network.in_flight()[*position].clone()).transition() == transition;
    let position = network.on_way(from, to).find(consumed);
    match position {
        Some(position) => cluster.deliver(position),
        None => impossible(format!("no message from {from} to {to} is for {transition}")),
    }
}

fn run_network(cluster: &mut Cluster, words: &Words<'_>) -> Moved {
    match (words.verb, words.words.as_slice()) {
        ("deliver", ["all"]) => cluster.deliver_all(),
        ("drop_message", ["all"]) => {
            cluster.network_mut().clear();
            Ok(())
        }
        ("deliver", _) => {
            let position = on_way(cluster, words)?;
            cluster.deliver(position)
        }
        ("drop_message", _) => {
            let position = on_way(cluster, words)?;
            let envelope = cluster.network_mut().take(position);
            cluster.tell(format!("{} ✗", render::envelope(&envelope)));
            Ok(())
        }
        ("duplicate_message", _) => {
            let position = on_way(cluster, words)?;
            let envelope = cluster.network().in_flight()[position].clone();
            cluster.tell(format!("{} again", render::envelope(&envelope)));
            cluster.network_mut().send(envelope);
            Ok(())
        }
        ("partition", groups) => {
            let groups = groups.split(|word| *word == "|").collect::<Vec<_>>();
            for (at, group) in groups.iter().enumerate() {
                let others = groups.iter().enumerate().filter(|(other, _)| *other != at).flat_map(|(_, other)| *other);
                for other in others {
                    for own in *group {
                        cluster.network_mut().cut(NodeId(number(own)?), NodeId(number(other)?));
                    }
                }
            }
            Ok(())
        }
        ("cut", _) => {
            cluster.network_mut().cut(words.node(0)?, words.node(1)?);
            Ok(())
        }
        ("heal", _) => {
            cluster.network_mut().heal();
            Ok(())
        }
        _ => {
            let message = message(words, cluster.initial_membership())?;
            let envelope = Envelope { from: words.node(0)?, to: words.node(1)?, message };
            cluster.arrive(envelope)
        }
    }
}

fn on_way(cluster: &Cluster, words: &Words<'_>) -> Result<usize, MoveError> {
    let (from, to) = (words.node(0)?, words.node(1)?);
    let nth = words.option("at")?.unwrap_or(1).saturating_sub(1) as usize;
    let position = cluster.network().on_way(from, to).nth(nth);
    position.map_or_else(|| impossible(format!("no such message from {from} to {to} is in flight")), Ok)
}

fn run_question(cluster: &mut Cluster, words: &Words<'_>) -> Moved {
    let lines = match words.verb {
        "messages" => cluster.network().in_flight().iter().map(render::envelope).collect(),
        "log" => {
            let id = words.node(0)?;
            let Some(disk) = cluster.disk(id) else { return impossible(format!("there is no node {id}")) };
            let entries = disk.iter().map(render::entry).collect::<Vec<_>>().join(" ");
            std::vec![format!("{id} base={} [{entries}]", disk.base())]
        }
        _ => cluster.ids().flat_map(|id| status(cluster, id)).collect::<Vec<_>>(),
    };
    let nothing = lines.is_empty();
    lines.into_iter().for_each(|line| cluster.tell(line));
    if nothing {
        cluster.tell("none".to_string());
    }
    Ok(())
}

fn status(cluster: &Cluster, id: NodeId) -> Vec<String> {
    let Some(protocol) = cluster.protocol(id) else { return std::vec![format!("{id} down")] };
    let state = render::hard_state(HardState { term: protocol.term(), vote: protocol.vote() });
    let leader = protocol.leader().map_or("none".to_string(), |leader| leader.to_string());
    let mut lines = std::vec![format!(
        "{id} {} {state} leader={leader} last={} durable={} commit={} applied={}",
        protocol.role().name(),
        protocol.last(),
        protocol.durable_index(),
        protocol.commit_index(),
        protocol.applied_through(),
    )];
    let (index, membership) = protocol.memberships().last().unwrap_or((Index::ZERO, protocol.membership()));
    if **membership != *cluster.initial_membership() {
        let committed = if index > protocol.commit_index() { ", not committed" } else { "" };
        lines.push(format!("  membership {index}: {}{committed}", render::membership(membership)));
    }
    lines.extend(protocol.has_lease().then(|| "  has a lease".to_string()));
    lines.extend(protocol.transfer_target().map(|target| format!("  hands over to {target}")));
    lines.extend(protocol.progress().map(|(peer, progress)| {
        format!(
            "  {peer} {} match={} next={} inflight={}",
            progress.state.name(),
            progress.match_index,
            progress.next_index,
            progress.inflight_messages()
        )
    }));
    lines
}
