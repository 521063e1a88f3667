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
//! | `read_request 1 7` | a client wants to read at server 1; 7 is how the answer names it |
//! | `transfer_leadership 1 2`, `transfer_timeout 1` | server 1 is to hand over to server 2; that took too long |
//! | `persisted 1 2` | the oldest 2 writes of server 1 are durable and it knows; all without a number |
//! | `sync 1 2` | they are durable and it does not know yet |
//! | `cold_read 1` | a read of entries that were not in memory ends |
//! | `deliver 1 2`, `deliver 1 2 at=3`, `deliver all` | the oldest, or third oldest, message from 1 to 2 arrives; everything in flight does |
//! | `drop_message 1 2`, `duplicate_message 1 2` | likewise; a duplicate is sent anew. `drop_message all` |
//! | `stabilize` | deliver and persist until nothing is left to do |
//! | `partition 1 \| 2 3`, `cut 1 2`, `heal` | no way between the groups; none from 1 to 2; every way open |
//! | `crash 1 keep=1`, `restart 1` | all but the oldest write in flight is lost |
//! | `lose_data 1 3` | the disk of a server that is down loses its entries from 3 on |
//! | `inject 2 1 append_entries_request term=5 prev=3@2 entries=4@2:x commit=3` | a message arrives that nobody sent |
//! | `tick 1 5`, `run 20` | clocks tick; whole rounds of ticks, disks and messages pass |
//! | `status`, `log 1`, `messages` | what is the case |
//! | `quietly …`, `briefly …` | without output; only with changes of role, commits and misbehaviour |
//!
//! `OPTIONS`: `pre_vote`, `without_pre_vote=3` (that server alone), `check_quorum`, `append_bytes_max`, `inflight_messages_max`, `inflight_bytes_max`,
//! `uncommitted_bytes_max`, `command_bytes_max`, `seed`, `election_ticks`, `disk=manual` (writes become durable by
//! command only), `entries_in_memory`, with the feature `trace` also `trace=true` (every step is recorded).
//!
//! The output names each event with the server that takes it and the transition that it is, and below it what follows:
//! `→ 2` is a message to server 2, `✗` one that is lost; `←` is where a message came from.

use super::cluster::{Cluster, MoveError, Moved, Options, impossible};
use super::render;
use crate::config::RaftConfig;
use crate::event::Event;
use crate::log::LogView;
use crate::message::{
    AppendEntriesRequest, AppendEntriesResponse, AppendResult, ConfirmLeaderRequest, ConfirmLeaderResponse, Envelope,
    InstallSnapshotRequest, Message, PreVoteRequest, PreVoteResponse, RequestVoteRequest, RequestVoteResponse,
    TimeoutNowRequest,
};
use crate::transition::Transition;
use crate::types::{Entries, Entry, EntryId, HardState, Index, NodeId, Payload, Term};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::format;
use std::string::{String, ToString};
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

/// Changes of role, commits and misbehaviour, each with its node in front.
fn brief(output: &str) -> String {
    let mut node = "";
    let mut kept = String::new();
    for line in output.lines() {
        match line.strip_prefix("  ") {
            None => node = line.split(' ').next().unwrap_or(""),
            Some(effect) if ["role ", "commit ", "misbehaved"].iter().any(|word| effect.starts_with(word)) => {
                kept += &format!("{node} {effect}\n");
            }
            Some(_) => {}
        }
    }
    kept
}

/// A line, taken apart.
struct Words<'a> {
    verb: &'a str,
    words: Vec<&'a str>,
    options: BTreeMap<&'a str, &'a str>,
}

impl<'a> Words<'a> {
    fn parse(line: &'a str) -> Result<Self, MoveError> {
        let mut parts = line.split_whitespace();
        let Some(verb) = parts.next() else { return impossible("an empty command") };
        let (mut words, mut options) = (Vec::new(), BTreeMap::new());
        for part in parts {
            match part.split_once('=') {
                Some((key, value)) => _ = options.insert(key, value),
                None => words.push(part),
            }
        }
        Ok(Self { verb, words, options })
    }

    fn number(&self, position: usize) -> Result<u64, MoveError> {
        match self.words.get(position) {
            Some(word) => number(word),
            None => impossible(format!("{} needs another number", self.verb)),
        }
    }

    fn node(&self, position: usize) -> Result<NodeId, MoveError> {
        self.number(position).map(NodeId)
    }

    fn count(&self, position: usize) -> Result<usize, MoveError> {
        if self.words.len() > position { self.number(position).map(|count| count as usize) } else { Ok(usize::MAX) }
    }

    fn option(&self, key: &str) -> Result<Option<u64>, MoveError> {
        self.options.get(key).map(|value| number(value)).transpose()
    }

    fn required(&self, key: &str) -> Result<u64, MoveError> {
        self.option(key)?.map_or_else(|| impossible(format!("{} needs {key}=", self.verb)), Ok)
    }

    fn id(&self, key: &str) -> Result<EntryId, MoveError> {
        self.options.get(key).map_or_else(|| impossible(format!("{} needs {key}=", self.verb)), |id| entry_id(id))
    }

    fn nodes(&self, cluster: &Cluster) -> Result<Vec<NodeId>, MoveError> {
        match self.words.as_slice() {
            ["all"] => Ok(cluster.ids().filter(|id| cluster.protocol(*id).is_some()).collect()),
            words => words.iter().map(|word| number(word).map(NodeId)).collect(),
        }
    }

    fn options(&self) -> Result<Options, MoveError> {
        let mut config = RaftConfig::new(1, 1..=self.number(0)?);
        let mut options = Options {
            config: config.clone(),
            without_pre_vote: Vec::new(),
            sync_at_once: true,
            entries_in_memory: u64::MAX,
        };
        for (key, value) in &self.options {
            match *key {
                "pre_vote" => config.pre_vote = *value == "true",
                "without_pre_vote" => options.without_pre_vote.push(NodeId(number(value)?)),
                "check_quorum" => config.check_quorum = *value == "true",
                "append_bytes_max" => config.append_bytes_max = number(value)? as usize,
                "inflight_messages_max" => config.inflight_messages_max = number(value)? as usize,
                "inflight_bytes_max" => config.inflight_bytes_max = number(value)? as usize,
                "uncommitted_bytes_max" => config.uncommitted_bytes_max = number(value)? as usize,
                "command_bytes_max" => config.command_bytes_max = number(value)? as usize,
                "election_ticks" => config.election_ticks = number(value)? as u32,
                "seed" => config.seed = number(value)?,
                "disk" => options.sync_at_once = *value != "manual",
                #[cfg(feature = "trace")]
                "trace" => {}
                "entries_in_memory" => options.entries_in_memory = number(value)?,
                _ => return impossible(format!("there is no option {key}")),
            }
        }
        options.config = config;
        Ok(options)
    }
}

/// A number; `max` is the largest there is and `2^62` the largest that a peer may claim.
fn number(word: &str) -> Result<u64, MoveError> {
    match word {
        "max" => Ok(u64::MAX),
        "2^62" => Ok(1 << 62),
        _ => word.parse().map_or_else(|_| impossible(format!("{word} is not a number")), Ok),
    }
}

/// `7@3` is index 7 of term 3.
fn entry_id(word: &str) -> Result<EntryId, MoveError> {
    match word.split_once('@') {
        Some((index, term)) => Ok(EntryId::new(number(index)?, number(term)?)),
        None => impossible(format!("{word} is not an entry: write index@term")),
    }
}

/// `7@3:x` has a command, `7@3` is a no-op.
fn entry(word: &str) -> Result<Entry, MoveError> {
    let (id, payload) = match word.split_once(':') {
        Some((id, command)) => (id, Payload::Command(Bytes::from(command.to_string()))),
        None => (word, Payload::Noop),
    };
    Ok(Entry { id: entry_id(id)?, payload })
}

/// No-ops of these terms from index 1 on: `1x3,2` is three of term 1 and one of term 2.
fn entries_of_terms(words: &str) -> Result<Entries, MoveError> {
    let mut terms = Vec::new();
    for run in words.split(',').filter(|run| !run.is_empty()) {
        let (term, count) = run.split_once('x').unwrap_or((run, "1"));
        terms.extend(core::iter::repeat_n(Term(number(term)?), number(count)? as usize));
    }
    let ids = terms.into_iter().zip(1u64..).map(|(term, index)| EntryId { index: Index(index), term });
    Ok(ids.map(|id| Entry { id, payload: Payload::Noop }).collect())
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
        Transition::SnapshotTaken => {
            let index = words.number(1)?;
            let through = words.option("through")?.unwrap_or(index);
            return cluster.snapshot_taken(words.node(0)?, Index(index), Index(through));
        }
        Transition::SnapshotFetched => return cluster.snapshot_fetched(words.node(0)?),
        Transition::SnapshotFetchFailed => return cluster.snapshot_fetch_failed(words.node(0)?),
        _ => return handle(cluster, transition, words),
    };
    words.nodes(cluster)?.into_iter().try_for_each(|id| cluster.step(id, timeout.clone()))
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
            let envelope = Envelope { from: words.node(0)?, to: words.node(1)?, message: message(words)? };
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

/// The message that `inject` describes.
fn message(words: &Words<'_>) -> Result<Message, MoveError> {
    let term = Term(words.required("term")?);
    let granted = words.words.contains(&"granted");
    let campaign_term = |words: &Words<'_>| words.required("campaign_term").map(Term);
    Ok(match words.words.get(2).copied() {
        Some("pre_vote_request") => Message::PreVoteRequest(PreVoteRequest {
            term,
            campaign_term: campaign_term(words)?,
            last: words.id("last")?,
        }),
        Some("pre_vote_response") => {
            Message::PreVoteResponse(PreVoteResponse { term, campaign_term: campaign_term(words)?, granted })
        }
        Some("request_vote_request") => {
            let leadership_transfer = words.words.contains(&"leadership_transfer");
            Message::RequestVoteRequest(RequestVoteRequest { term, last: words.id("last")?, leadership_transfer })
        }
        Some("request_vote_response") => Message::RequestVoteResponse(RequestVoteResponse { term, granted }),
        Some("append_entries_request") => {
            let entries = words.options.get("entries").map_or("", |entries| *entries);
            let entries = entries.split(',').filter(|word| !word.is_empty()).map(entry).collect::<Result<_, _>>()?;
            let commit = Index(words.option("commit")?.unwrap_or(0));
            Message::AppendEntriesRequest(AppendEntriesRequest { term, prev: words.id("prev")?, entries, commit })
        }
        Some("append_entries_response") => {
            let result = match words.words.get(3).copied() {
                Some("accepted") => AppendResult::Accepted { match_index: Index(words.required("match")?) },
                Some("rejected") => {
                    AppendResult::Rejected { prev_index: Index(words.required("prev")?), hint: words.id("hint")? }
                }
                _ => AppendResult::StaleTerm,
            };
            Message::AppendEntriesResponse(AppendEntriesResponse { term, result })
        }
        Some("confirm_leader_request") => {
            Message::ConfirmLeaderRequest(ConfirmLeaderRequest { term, round: words.required("round")? })
        }
        Some("confirm_leader_response") => Message::ConfirmLeaderResponse(ConfirmLeaderResponse {
            term,
            leader_term: Term(words.required("leader_term")?),
            round: words.required("round")?,
        }),
        Some("timeout_now_request") => Message::TimeoutNowRequest(TimeoutNowRequest { term }),
        Some("install_snapshot_request") => Message::InstallSnapshotRequest(InstallSnapshotRequest {
            term,
            last: words.id("last")?,
            membership: Default::default(),
        }),
        other => return impossible(format!("there is no message {}", other.unwrap_or(""))),
    })
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
