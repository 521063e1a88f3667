//! A state of the model in the words of the spec.
//!
//! There is no judgement here: each variable of `spec/Raft.tla` is a part of the real server's state, of its disk, or of
//! what the model remembers of the history.

use crate::cluster::{Cluster, ReadHistory, State};
use crate::facts::PackedLog;
use crate::membership::{Masks, positions};
use crate::server::Server;
use crate::value::Value;
use raft_io::message::AppendResult;
use raft_io::protocol::{PeerState, ProgressState, ReadState, WriteInFlight};
use raft_io::types::{HardState, Index, Payload};
use raft_io::{Compaction, Entry, EntryId, Envelope, LogView, Membership, MemoryLog, Message, NodeId, RoleKind, Write};
use std::collections::{BTreeMap, BTreeSet};

/// The spec's variables in a state, by name.
#[must_use]
pub fn state(cluster: &Cluster, state: &State) -> BTreeMap<String, Value> {
    let count = usize::from(cluster.configuration().servers);
    let servers: Vec<_> = state.servers()[..count].iter().map(|&id| cluster.tables().server(id)).collect();
    let mut variables = BTreeMap::new();
    let initial = |server: &Server| cluster.configuration().membership_of(server.protocol.id());
    let per_server: Vec<BTreeMap<&str, Value>> =
        servers.iter().map(|server| self::server(server, &initial(server))).collect();
    for name in per_server[0].keys() {
        let pairs = servers.iter().zip(&per_server);
        let function = pairs.map(|(server, values)| (node(server.protocol.id()), values[name].clone()));
        variables.insert((*name).to_string(), Value::function(function));
    }
    let messages = state.messages().iter().map(|&id| envelope(&cluster.tables().message(id)));
    variables.insert("messages".to_string(), Value::Set(messages.collect()));
    let leaders = state
        .leaders()
        .map(|(term, at)| Value::Seq(vec![Value::int(u64::from(term)), node(NodeId(u64::from(at) + 1))]));
    variables.insert("leaders".to_string(), Value::Set(leaders.collect()));
    variables.insert("committed".to_string(), committed(cluster, state.committed()));
    let heard = servers.iter().enumerate().map(|(at, server)| (node(server.protocol.id()), self::heard(state, at)));
    variables.insert("heard".to_string(), Value::function(heard));
    variables.insert("readHistory".to_string(), Value::Seq(state.reads().map(read_history).collect()));
    variables.insert("transfers".to_string(), Value::int(u64::from(state.transfers())));
    variables.insert("snapshotsTaken".to_string(), Value::int(u64::from(state.snapshots())));
    variables.insert("changes".to_string(), Value::int(u64::from(state.changes())));
    variables.insert("crashes".to_string(), Value::int(u64::from(state.crashes())));
    let rolled_back = servers.iter().filter(|server| server.rolled_back).map(|server| node(server.protocol.id()));
    variables.insert("rolledBack".to_string(), Value::Set(rolled_back.collect()));
    variables.insert("losses".to_string(), Value::int(u64::from(state.losses())));
    variables
}

/// The spec's variables of one server, by name. It began with the configuration `initial`.
#[must_use]
pub fn server(server: &Server, initial: &Membership) -> BTreeMap<&'static str, Value> {
    let state = server.state();
    let nodes = |ids: &[NodeId]| Value::Set(ids.iter().copied().map(node).collect());
    let as_of_it = server.protocol.fetching_membership();
    let fetching = state.fetching.zip(as_of_it).map(|((from, last), membership)| (from, last, &**membership));
    let pending = state.writes.iter().zip(&server.in_flight).map(|(waiting, write)| pending_write(waiting, write));
    BTreeMap::from([
        ("currentTerm", Value::int(state.hard_state.term.0)),
        ("votedFor", optional(state.hard_state.vote)),
        ("role", Value::str(role(state.role))),
        ("leader", optional(state.leader)),
        ("leaderIsRecent", Value::Bool(state.leader_is_recent)),
        ("session", session(state.session)),
        ("lost", Value::Bool(state.lost)),
        ("votesGranted", nodes(&state.votes_granted)),
        ("votesRefused", nodes(&state.votes_refused)),
        ("log", log(&server.log())),
        ("snapshot", entry_id(state.snapshot)),
        ("snapshotMembership", membership(&state.memberships[0].1)),
        ("fetch", Value::Seq(fetching.map(fetch).into_iter().collect())),
        ("commitIndex", Value::int(state.commit_index.0)),
        ("appliedIndex", Value::int(state.applied_through.0)),
        ("durableIndex", Value::int(state.durable.index.0)),
        ("progress", Value::function(state.progress.iter().map(|peer| (node(peer.peer), progress(peer))))),
        ("readRound", Value::int(state.read_round)),
        ("leaseOver", Value::int(state.lease_over)),
        ("leaseGivenUp", Value::Bool(state.lease_given_up)),
        ("reads", Value::Seq(state.reads.iter().map(waiting_read).collect())),
        ("followerReads", Value::Seq(state.follower_reads.iter().map(|context| Value::int(*context)).collect())),
        ("readsAsked", Value::int(state.reads_asked as u64)),
        ("transfer", optional(state.transfer)),
        ("pending", Value::Seq(pending.collect())),
        ("disk", disk(&server.disk, initial)),
        ("backup", Value::Seq(server.backup.iter().map(|backup| disk(backup, initial)).collect())),
    ])
}

fn disk(log: &MemoryLog, initial: &Membership) -> Value {
    let hard_state = log.hard_state();
    Value::record([
        ("number", Value::int(u64::from(log.disk().0))),
        ("term", Value::int(hard_state.term.0)),
        ("vote", optional(hard_state.vote)),
        ("log", self::log(log)),
        ("snapshot", entry_id(log.snapshot())),
        ("membership", membership(log.memberships().at_snapshot.as_deref().unwrap_or(initial))),
    ])
}

/// The last round that a server heard in each term.
fn heard(state: &State, at: usize) -> Value {
    let pair = |(term, round): (u8, u8)| Value::Seq(vec![Value::int(u64::from(term)), Value::int(u64::from(round))]);
    Value::Set(state.heard(at).map(pair).collect())
}

/// A role, as the spec writes it.
#[must_use]
pub fn role(role: RoleKind) -> &'static str {
    match role {
        RoleKind::Follower => "Follower",
        RoleKind::PreCandidate => "PreCandidate",
        RoleKind::Candidate => "Candidate",
        RoleKind::Leader => "Leader",
    }
}

/// A server's name in the spec.
#[must_use]
pub fn node(id: NodeId) -> Value {
    Value::Model(format!("s{id}"))
}

fn optional(id: Option<NodeId>) -> Value {
    id.map_or_else(|| Value::Model("Nil".to_string()), node)
}

/// The id of an entry.
pub(crate) fn entry_id(id: EntryId) -> Value {
    Value::record([("index", Value::int(id.index.0)), ("term", Value::int(id.term.0))])
}

/// A session, if there is one.
pub(crate) fn session(session: Option<Index>) -> Value {
    session.map_or_else(|| Value::Model("Nil".to_string()), |session| Value::int(session.0))
}

fn entries<'a>(entries: impl Iterator<Item = &'a Entry>) -> Value {
    let value = |item: &Entry| match &item.payload {
        Payload::Noop => entry(item.id.term.0, "Noop", None),
        Payload::Command(_) => entry(item.id.term.0, "Command", None),
        Payload::Membership(changed) => entry(item.id.term.0, "Membership", Some(membership(changed))),
        other => unreachable!("the spec has no payload like {other:?}"),
    };
    Value::Seq(entries.map(value).collect())
}

/// A configuration of the cluster. The spec knows no addresses.
pub(crate) fn membership(membership: &Membership) -> Value {
    masks(Masks::of(membership))
}

fn masks(masks: Masks) -> Value {
    let nodes = |mask| Value::Set(positions(mask).map(|at| node(NodeId(u64::from(at) + 1))).collect());
    Value::record([
        ("voters", nodes(masks.voters)),
        ("outgoing", nodes(masks.outgoing)),
        ("learners", nodes(masks.learners)),
        ("promoting", nodes(masks.promoting)),
    ])
}

/// What is forgotten stays as a place without content; of the base the term is known.
fn log(log: &MemoryLog) -> Value {
    let Value::Seq(held) = entries(log.iter()) else { unreachable!("entries are a sequence") };
    Value::Seq(forgotten(log.base()).chain(held).collect())
}

/// The places of what a log has forgotten.
pub(crate) fn forgotten(base: EntryId) -> impl Iterator<Item = Value> {
    (1..=base.index.0).map(move |index| {
        let term = if index == base.index.0 { base.term.0 } else { 0 };
        entry(term, "Forgotten", None)
    })
}

/// A snapshot that is being fetched.
pub(crate) fn fetch((from, last, changed): (NodeId, EntryId, &Membership)) -> Value {
    Value::record([("from", node(from)), ("last", entry_id(last)), ("membership", membership(changed))])
}

/// The part of a write that puts a snapshot in the place of the log's beginning.
pub(crate) fn compaction(compaction: &Compaction) -> Value {
    Value::record([
        ("snapshot", entry_id(compaction.snapshot)),
        ("base", entry_id(compaction.base)),
        ("membership", membership(&compaction.membership)),
    ])
}

/// An entry of a log.
pub(crate) fn entry(term: u64, payload: &str, membership: Option<Value>) -> Value {
    let membership = Value::Seq(membership.into_iter().collect());
    Value::record([("term", Value::int(term)), ("payload", Value::str(payload)), ("membership", membership)])
}

fn committed(cluster: &Cluster, log: PackedLog) -> Value {
    let entry = |at| {
        let (payload, changed) = match (log.membership(at), log.is_command(at)) {
            (0, true) => ("Command", None),
            (0, false) => ("Noop", None),
            (number, _) => ("Membership", Some(masks(cluster.tables().membership(number)))),
        };
        let Value::Record(mut fields) = entry(u64::from(log.term(at)), payload, changed) else { unreachable!() };
        fields.insert("commitTerm".to_string(), Value::int(u64::from(log.commit_term(at))));
        Value::Record(fields)
    };
    Value::Seq((0..log.len()).map(entry).collect())
}

fn progress(peer: &PeerState) -> Value {
    let state = match peer.state {
        ProgressState::Probe { sent: false } => "Probe",
        ProgressState::Probe { sent: true } => "ProbeSent",
        ProgressState::Replicate => "Replicate",
        ProgressState::Snapshot => "Snapshot",
    };
    Value::record([
        ("matchIndex", Value::int(peer.match_index.0)),
        ("nextIndex", Value::int(peer.next_index.0)),
        ("state", Value::str(state)),
        ("active", Value::Bool(peer.active)),
        ("confirmedRound", Value::int(peer.confirmed_round)),
        ("session", Value::int(peer.session.0)),
        ("disk", Value::int(u64::from(peer.disk.0))),
        ("lost", Value::int(peer.lost.unwrap_or_default().0)),
        ("roundBefore", Value::int(peer.round_before)),
        ("inflight", Value::Seq(peer.inflight.iter().map(|last| Value::int(last.0)).collect())),
    ])
}

fn waiting_read(read: &ReadState) -> Value {
    Value::record([
        ("context", Value::int(read.context)),
        ("reader", optional(read.reader)),
        ("round", Value::int(read.round)),
        ("index", Value::int(read.index.0)),
    ])
}

fn read_history(read: ReadHistory) -> Value {
    let index = read.index.map_or_else(|| Value::Model("Nil".to_string()), |index| Value::int(u64::from(index)));
    Value::record([("floor", Value::int(u64::from(read.floor))), ("index", index)])
}

fn pending_write(waiting: &WriteInFlight, write: &Write) -> Value {
    let hard_state =
        |state: HardState| Value::record([("term", Value::int(state.term.0)), ("vote", optional(state.vote))]);
    Value::record([
        ("hardState", Value::Seq(write.hard_state.map(hard_state).into_iter().collect())),
        ("compaction", Value::Seq(write.compaction.as_ref().map(compaction).into_iter().collect())),
        ("truncateFrom", Value::int(write.truncate_from.map_or(0, |index| index.0))),
        ("entries", entries(write.entries.iter())),
        ("durable", Value::int(waiting.durable.0)),
        // They leave together, so their order is none of the spec's business.
        ("messages", Value::Set(waiting.messages.iter().map(envelope).collect())),
    ])
}

/// A message.
#[must_use]
pub fn envelope(envelope: &Envelope) -> Value {
    let term = Value::int(envelope.message.term().0);
    let (kind, fields): (&str, Vec<(&str, Value)>) = match &envelope.message {
        Message::PreVoteRequest(m) => {
            ("PreVoteRequest", vec![("campaignTerm", Value::int(m.campaign_term.0)), ("last", entry_id(m.last))])
        }
        Message::PreVoteResponse(m) => (
            "PreVoteResponse",
            vec![("campaignTerm", Value::int(m.campaign_term.0)), ("granted", Value::Bool(m.granted))],
        ),
        Message::RequestVoteRequest(m) => (
            "RequestVoteRequest",
            vec![("last", entry_id(m.last)), ("leadershipTransfer", Value::Bool(m.leadership_transfer))],
        ),
        Message::RequestVoteResponse(m) => ("RequestVoteResponse", vec![("granted", Value::Bool(m.granted))]),
        Message::AppendEntriesRequest(m) => (
            "AppendEntriesRequest",
            vec![
                ("prev", entry_id(m.prev)),
                ("entries", entries(m.entries.iter())),
                ("commit", Value::int(m.commit.0)),
                ("session", Value::int(m.session.0)),
                ("acknowledged", Value::int(m.acknowledged.0)),
                ("disk", Value::int(u64::from(m.disk.0))),
            ],
        ),
        Message::AppendEntriesResponse(m) => {
            let disk = Value::int(u64::from(m.disk.0));
            let fields = vec![("result", append_result(m.result)), ("session", session(m.session)), ("disk", disk)];
            ("AppendEntriesResponse", fields)
        }
        Message::ConfirmLeaderRequest(m) => ("ConfirmLeaderRequest", vec![("round", Value::int(m.round))]),
        Message::ConfirmLeaderResponse(m) => {
            ("ConfirmLeaderResponse", vec![("leaderTerm", Value::int(m.leader_term.0)), ("round", Value::int(m.round))])
        }
        Message::ReadIndexRequest(m) => ("ReadIndexRequest", vec![("context", Value::int(m.context))]),
        Message::ReadIndexResponse(m) => (
            "ReadIndexResponse",
            vec![
                ("context", Value::int(m.context)),
                ("index", Value::int(m.index.0)),
                ("commit", Value::int(m.commit.0)),
            ],
        ),
        Message::TimeoutNowRequest(_) => ("TimeoutNowRequest", vec![]),
        Message::InstallSnapshotRequest(m) => (
            "InstallSnapshotRequest",
            vec![
                ("last", entry_id(m.last)),
                ("membership", membership(&m.membership)),
                ("session", Value::int(m.session.0)),
            ],
        ),
        other => unreachable!("the spec has no message like {other:?}"),
    };
    let ends = [("type", Value::str(kind)), ("from", node(envelope.from)), ("to", node(envelope.to)), ("term", term)];
    Value::Record(ends.into_iter().chain(fields).map(|(name, value)| (name.to_string(), value)).collect())
}

fn append_result(result: AppendResult) -> Value {
    match result {
        AppendResult::Accepted { match_index } => {
            Value::record([("kind", Value::str("Accepted")), ("matchIndex", Value::int(match_index.0))])
        }
        AppendResult::Rejected { prev_index, hint } => Value::record([
            ("kind", Value::str("Rejected")),
            ("prevIndex", Value::int(prev_index.0)),
            ("hint", entry_id(hint)),
        ]),
        AppendResult::StaleTerm => Value::record([("kind", Value::str("StaleTerm"))]),
        AppendResult::LostAcknowledged { acknowledged, durable } => Value::record([
            ("kind", Value::str("LostAcknowledged")),
            ("acknowledged", Value::int(acknowledged.0)),
            ("durable", Value::int(durable.0)),
        ]),
    }
}

/// The names of the spec's variables that differ between two states.
#[must_use]
pub fn changed(before: &BTreeMap<String, Value>, after: &BTreeMap<String, Value>) -> BTreeSet<String> {
    after.iter().filter(|(name, value)| before.get(*name) != Some(value)).map(|(name, _)| name.clone()).collect()
}
