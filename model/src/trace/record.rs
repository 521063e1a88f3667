//! A line as the record that `TraceRaft.tla` takes.
//!
//! A read's context is any number in the trace, and in the spec the read's place among all that begin: `Window::read` knows it.

use super::window::{Network, Window};
use crate::render::{self, entry_id, node, role};
use crate::value::Value;
use raft_io::trace::Line;
use raft_io::trace::line::{
    CompactionRecord, EntryRun, FetchRecord, MembershipRecord, PayloadName, ProgressName, ProgressRecord, ReadRecord,
    ServerState, WriteRecord,
};
use raft_io::trace::message::{MessageRecord, ResultRecord};
use raft_io::{EntryId, HardState, NodeId};

/// A line of a window, or another one in its place.
pub(super) fn line(window: &Window, at: usize, line: &Line) -> Value {
    let Network { kept, last } = window.network(at);
    let message = |message: &MessageRecord| self::message(window, message);
    let one = |sent: &Option<MessageRecord>| Value::Seq(sent.iter().map(message).collect());
    let count = |count: Option<usize>| Value::int(count.unwrap_or(0) as u64);
    let log = line.start.as_ref().map_or_else(|| Value::Seq(Vec::new()), |start| log(line.state.base, &start.log));
    let membership = line.start.as_ref().map(|start| &start.membership).or(line.membership.as_ref());
    Value::record([
        ("event", Value::str(line.event.name())),
        ("node", node(line.node)),
        ("message", one(&line.message)),
        ("writes", count(line.writes)),
        ("commands", count(line.commands)),
        ("round", Value::int(line.round.unwrap_or(0))),
        ("read", Value::int(line.context.map_or(0, |context| window.read(line.node, context)))),
        ("target", Value::Seq(line.target.into_iter().map(node).collect())),
        ("membership", Value::Seq(membership.map(self::membership).into_iter().collect())),
        ("snapshot", Value::Seq(line.snapshot.map(entry_id).into_iter().collect())),
        ("through", Value::int(line.compact_through.map_or(0, |index| index.0))),
        ("first", Value::Bool(window.is_first(line))),
        ("log", log),
        ("last", Value::Bool(*last)),
        ("kept", messages(window, line.sent.iter().filter(|message| kept.contains(message)))),
        ("sent", messages(window, &line.sent)),
        ("state", state(window, line.node, &line.state)),
    ])
}

/// What each server's disk held at the beginning.
pub(super) fn disks(window: &Window) -> Value {
    Value::function(window.starts().map(|(line, start)| {
        let disk = Value::record([
            // A server keeps its disk throughout a trace, so that the number says nothing.
            ("number", Value::int(0)),
            ("term", Value::int(line.state.current_term.0)),
            ("vote", optional(line.state.voted_for)),
            ("log", log(line.state.base, &start.log)),
            ("snapshot", entry_id(line.state.snapshot)),
            ("membership", membership(&start.membership)),
        ]);
        (node(line.node), disk)
    }))
}

/// A server's state, by the names of `Recorded` in `TraceRaft.tla`.
fn state(window: &Window, node: NodeId, state: &ServerState) -> Value {
    let own_read = |context: &u64| Value::int(window.read(node, *context));
    let nodes = |ids: &[NodeId]| Value::Set(ids.iter().copied().map(render::node).collect());
    Value::record([
        ("currentTerm", Value::int(state.current_term.0)),
        ("votedFor", optional(state.voted_for)),
        ("role", Value::str(role(state.role))),
        ("leader", optional(state.leader)),
        ("leaderIsRecent", Value::Bool(state.leader_is_recent)),
        ("session", render::session(state.session)),
        ("lost", Value::Bool(state.lost)),
        ("votesGranted", nodes(&state.votes_granted)),
        ("votesRefused", nodes(&state.votes_refused)),
        ("snapshot", entry_id(state.snapshot)),
        ("membership", membership(&state.membership)),
        ("fetching", Value::Seq(state.fetching.iter().map(fetch).collect())),
        ("base", entry_id(state.base)),
        ("last", entry_id(state.last)),
        ("durable", entry_id(state.durable)),
        ("commitIndex", Value::int(state.commit_index.0)),
        ("appliedIndex", Value::int(state.applied_index.0)),
        ("progress", Value::function(state.progress.iter().map(|peer| (render::node(peer.peer), progress(peer))))),
        ("readRound", Value::int(state.read_round)),
        ("leaseOver", Value::int(state.lease_over)),
        ("leaseGivenUp", Value::Bool(state.lease_given_up)),
        ("reads", Value::Seq(state.reads.iter().map(|each| read(window, each)).collect())),
        ("followerReads", Value::Seq(state.follower_reads.iter().map(own_read).collect())),
        ("readsAsked", Value::int(state.reads_asked as u64)),
        ("transfer", optional(state.transfer)),
        ("pending", Value::Seq(state.pending.iter().map(|each| write(window, each)).collect())),
    ])
}

fn membership(membership: &MembershipRecord) -> Value {
    let nodes = |ids: &[NodeId]| Value::Set(ids.iter().copied().map(node).collect());
    Value::record([
        ("voters", nodes(&membership.voters)),
        ("outgoing", nodes(&membership.outgoing)),
        ("learners", nodes(&membership.learners)),
        ("promoting", nodes(&membership.promoting)),
    ])
}

fn fetch(fetch: &FetchRecord) -> Value {
    Value::record([
        ("from", node(fetch.from)),
        ("last", entry_id(fetch.last)),
        ("membership", membership(&fetch.membership)),
    ])
}

fn compaction(compaction: &CompactionRecord) -> Value {
    Value::record([
        ("snapshot", entry_id(compaction.snapshot)),
        ("base", entry_id(compaction.base)),
        ("membership", membership(&compaction.membership)),
    ])
}

/// Of a leader's own reads a trace has no context.
fn read(window: &Window, read: &ReadRecord) -> Value {
    let context = read.reader.map_or(0, |reader| window.read(reader.node, reader.context));
    Value::record([
        ("context", Value::int(context)),
        ("reader", optional(read.reader.map(|reader| reader.node))),
        ("round", Value::int(read.round)),
        ("index", Value::int(read.index.0)),
    ])
}

fn progress(peer: &ProgressRecord) -> Value {
    let state = match peer.state {
        ProgressName::Probe => "Probe",
        ProgressName::ProbeSent => "ProbeSent",
        ProgressName::Replicate => "Replicate",
        ProgressName::Snapshot => "Snapshot",
    };
    Value::record([
        ("matchIndex", Value::int(peer.match_index.0)),
        ("nextIndex", Value::int(peer.next_index.0)),
        ("state", Value::str(state)),
        ("active", Value::Bool(peer.active)),
        ("confirmedRound", Value::int(peer.confirmed_round)),
        ("session", Value::int(peer.session.0)),
        ("disk", Value::int(0)),
        ("lost", Value::int(peer.lost.0)),
        ("roundBefore", Value::int(peer.round_before)),
        ("inflight", Value::Seq(peer.inflight.iter().map(|last| Value::int(last.0)).collect())),
    ])
}

fn write(window: &Window, write: &WriteRecord) -> Value {
    let hard_state =
        |state: HardState| Value::record([("term", Value::int(state.term.0)), ("vote", optional(state.vote))]);
    Value::record([
        ("hardState", Value::Seq(write.hard_state.map(hard_state).into_iter().collect())),
        ("compaction", Value::Seq(write.compaction.iter().map(compaction).collect())),
        ("truncateFrom", Value::int(write.truncate_from.map_or(0, |index| index.0))),
        ("entries", entries(&write.entries)),
        ("durable", Value::int(write.durable.0)),
        ("messages", messages(window, &write.messages)),
    ])
}

fn messages<'a>(window: &Window, messages: impl IntoIterator<Item = &'a MessageRecord>) -> Value {
    Value::Set(messages.into_iter().map(|each| message(window, each)).collect())
}

fn message(window: &Window, message: &MessageRecord) -> Value {
    let (from, to) = message.way();
    let (kind, term, fields) = match message {
        MessageRecord::PreVoteRequest { term, campaign_term, last, .. } => {
            ("PreVoteRequest", term, vec![("campaignTerm", Value::int(campaign_term.0)), ("last", entry_id(*last))])
        }
        MessageRecord::PreVoteResponse { term, campaign_term, granted, .. } => (
            "PreVoteResponse",
            term,
            vec![("campaignTerm", Value::int(campaign_term.0)), ("granted", Value::Bool(*granted))],
        ),
        MessageRecord::RequestVoteRequest { term, last, leadership_transfer, .. } => (
            "RequestVoteRequest",
            term,
            vec![("last", entry_id(*last)), ("leadershipTransfer", Value::Bool(*leadership_transfer))],
        ),
        MessageRecord::RequestVoteResponse { term, granted, .. } => {
            ("RequestVoteResponse", term, vec![("granted", Value::Bool(*granted))])
        }
        MessageRecord::AppendEntriesRequest { term, prev, entries: sent, commit, session, acknowledged, .. } => (
            "AppendEntriesRequest",
            term,
            vec![
                ("prev", entry_id(*prev)),
                ("entries", entries(sent)),
                ("commit", Value::int(commit.0)),
                ("session", Value::int(session.0)),
                ("acknowledged", Value::int(acknowledged.0)),
                ("disk", Value::int(0)),
            ],
        ),
        MessageRecord::AppendEntriesResponse { term, result, session, .. } => (
            "AppendEntriesResponse",
            term,
            vec![("result", self::result(result)), ("session", Value::int(session.0)), ("disk", Value::int(0))],
        ),
        MessageRecord::ConfirmLeaderRequest { term, round, .. } => {
            ("ConfirmLeaderRequest", term, vec![("round", Value::int(*round))])
        }
        MessageRecord::ConfirmLeaderResponse { term, leader_term, round, .. } => (
            "ConfirmLeaderResponse",
            term,
            vec![("leaderTerm", Value::int(leader_term.0)), ("round", Value::int(*round))],
        ),
        MessageRecord::ReadIndexRequest { term, context, .. } => {
            ("ReadIndexRequest", term, vec![("context", Value::int(window.read(from, *context)))])
        }
        MessageRecord::ReadIndexResponse { term, context, index, commit, .. } => (
            "ReadIndexResponse",
            term,
            vec![
                ("context", Value::int(window.read(to, *context))),
                ("index", Value::int(index.0)),
                ("commit", Value::int(commit.0)),
            ],
        ),
        MessageRecord::TimeoutNowRequest { term, .. } => ("TimeoutNowRequest", term, vec![]),
        MessageRecord::InstallSnapshotRequest { term, last, membership: changed, session, .. } => (
            "InstallSnapshotRequest",
            term,
            vec![("last", entry_id(*last)), ("membership", membership(changed)), ("session", Value::int(session.0))],
        ),
    };
    let ends = [("type", Value::str(kind)), ("from", node(from)), ("to", node(to)), ("term", Value::int(term.0))];
    Value::Record(ends.into_iter().chain(fields).map(|(name, value)| (name.to_string(), value)).collect())
}

fn result(result: &ResultRecord) -> Value {
    match result {
        ResultRecord::Accepted { match_index } => {
            Value::record([("kind", Value::str("Accepted")), ("matchIndex", Value::int(match_index.0))])
        }
        ResultRecord::Rejected { prev_index, hint } => Value::record([
            ("kind", Value::str("Rejected")),
            ("prevIndex", Value::int(prev_index.0)),
            ("hint", entry_id(*hint)),
        ]),
        ResultRecord::StaleTerm {} => Value::record([("kind", Value::str("StaleTerm"))]),
        ResultRecord::LostAcknowledged { acknowledged, durable } => Value::record([
            ("kind", Value::str("LostAcknowledged")),
            ("acknowledged", Value::int(acknowledged.0)),
            ("durable", Value::int(durable.0)),
        ]),
    }
}

fn optional(id: Option<NodeId>) -> Value {
    id.map_or_else(|| Value::Model("Nil".to_string()), node)
}

/// What a log held at a start, behind what it had forgotten.
fn log(base: EntryId, runs: &[EntryRun]) -> Value {
    let Value::Seq(held) = entries(runs) else { unreachable!("entries are a sequence") };
    Value::Seq(render::forgotten(base).chain(held).collect())
}

fn entries(runs: &[EntryRun]) -> Value {
    let entry = |run: &EntryRun| {
        let payload = match run.payload {
            PayloadName::Noop => "Noop",
            PayloadName::Command => "Command",
            PayloadName::Membership => "Membership",
        };
        render::entry(run.term.0, payload, run.membership.as_ref().map(membership))
    };
    Value::Seq(runs.iter().flat_map(|run| std::iter::repeat_n(entry(run), run.count as usize)).collect())
}
