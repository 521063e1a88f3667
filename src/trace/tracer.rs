//! From steps to lines.

use super::VERSION;
use super::line::{
    AroundName, CompactionRecord, EntryRun, EventName, FetchRecord, Line, MembershipRecord, ProgressRecord, ReadRecord,
    ServerState, Settings, Start, WriteRecord, runs,
};
use super::message::MessageRecord;
use crate::action::{Action, Write};
use crate::config::RaftConfig;
use crate::event::Event;
use crate::message::Envelope;
use crate::protocol::Protocol;
use crate::types::{ClusterId, EntryId, Index, NodeId};
use std::collections::VecDeque;
use std::vec;
use std::vec::Vec;

/// Makes the lines of one node's life.
#[derive(Clone, Debug)]
pub struct Tracer {
    node: NodeId,
    life: u64,
    /// Of the next line.
    seq: u64,
    /// The contents of the writes in flight, oldest first: the protocol does not keep them.
    writes: VecDeque<Content>,
}

#[derive(Clone, Debug)]
struct Content {
    compaction: Option<CompactionRecord>,
    truncate_from: Option<Index>,
    entries: Vec<EntryRun>,
}

/// What a step consumes, noted before it does.
#[derive(Clone, Debug)]
pub struct Input {
    event: EventName,
    message: Option<MessageRecord>,
    writes: Option<usize>,
    commands: Option<usize>,
    target: Option<NodeId>,
    round: Option<u64>,
    context: Option<u64>,
    membership: Option<MembershipRecord>,
    snapshot: Option<EntryId>,
    compact_through: Option<Index>,
}

impl Input {
    /// What an event brings.
    #[must_use]
    pub fn of(event: &Event) -> Self {
        let mut input = Self {
            event: EventName::Step(event.transition()),
            message: None,
            writes: None,
            commands: None,
            target: None,
            round: None,
            context: None,
            membership: None,
            snapshot: None,
            compact_through: None,
        };
        match event {
            Event::Receive(envelope) => input.message = Some(envelope.into()),
            Event::Propose(_) => input.commands = Some(1),
            Event::ProposeBatch(commands) => input.commands = Some(commands.len()),
            Event::Persisted { writes } => input.writes = Some(*writes),
            Event::LeaseTimeout { round } => input.round = Some(*round),
            Event::FollowerReadRequest { context } => input.context = Some(*context),
            Event::TransferLeadership { target } => input.target = Some(*target),
            Event::ChangeMembership { target } => input.membership = Some(MembershipRecord::from(&**target)),
            Event::SnapshotTaken { last, compact_through } => {
                (input.snapshot, input.compact_through) = (Some(*last), Some(*compact_through));
            }
            Event::SnapshotFetched { last } | Event::SnapshotFetchFailed { last } => input.snapshot = Some(*last),
            Event::ElectionTimeout
            | Event::MinimumElectionTimeout
            | Event::HeartbeatTimeout
            | Event::QuorumCheckTimeout
            | Event::TransferTimeout
            | Event::StepDown
            | Event::ReadRequest { .. }
            | Event::LeaseReadRequest { .. } => {}
        }
        input
    }
}

impl Tracer {
    /// A life begins: the protocol as it started, and the entries that it found.
    #[must_use]
    pub fn start(
        cluster: ClusterId,
        life: u64,
        config: &RaftConfig,
        protocol: &Protocol,
        log: Vec<EntryRun>,
    ) -> (Self, Line) {
        let mut tracer = Self { node: protocol.id(), life, seq: 0, writes: VecDeque::new() };
        let settings = Settings {
            pre_vote: config.pre_vote,
            check_quorum: config.check_quorum,
            leases: config.lease_ticks.is_some(),
            names_history: config.history.is_some(),
            inflight_messages_max: config.inflight_messages_max,
            inflight_bytes_max: config.inflight_bytes_max,
            append_bytes_max: config.append_bytes_max,
        };
        let first = protocol.memberships().next().expect("a configuration is always in force").1;
        let start = Start { version: VERSION, cluster, settings, membership: MembershipRecord::from(&**first), log };
        let line = Line { start: Some(start), ..tracer.line(EventName::START, protocol, Vec::new()) };
        (tracer, line)
    }

    /// A step that was not refused: what it consumed, the protocol after it, and what came out.
    pub fn step(&mut self, input: Input, protocol: &Protocol, actions: &[Action]) -> Line {
        self.writes.drain(..input.writes.unwrap_or(0).min(self.writes.len()));
        let mut sent = Vec::new();
        let mut cold_reads = 0;
        for action in actions {
            match action {
                Action::Persist(write) => self.writes.push_back(Content::of(write)),
                Action::Send(envelope) => sent.push(envelope.into()),
                Action::SendFromLog { .. } => cold_reads += 1,
                _ => {}
            }
        }
        let Input { event, message, writes, commands, target, round, context, membership, snapshot, compact_through } =
            input;
        let line = self.line(event, protocol, sent);
        Line {
            message,
            writes,
            commands,
            target,
            round,
            context,
            membership,
            snapshot,
            compact_through,
            cold_reads,
            ..line
        }
    }

    /// An append leaves whose entries had to be read first.
    pub fn sent_from_log(&mut self, envelope: &Envelope, protocol: &Protocol) -> Line {
        let message = MessageRecord::from(envelope);
        let line = self.line(EventName::Around(AroundName::SendFromLog), protocol, vec![message.clone()]);
        Line { message: Some(message), ..line }
    }

    fn line(&mut self, event: EventName, protocol: &Protocol, sent: Vec<MessageRecord>) -> Line {
        let seq = self.seq;
        self.seq += 1;
        Line {
            event,
            node: self.node,
            life: self.life,
            seq,
            start: None,
            message: None,
            writes: None,
            commands: None,
            target: None,
            round: None,
            context: None,
            membership: None,
            snapshot: None,
            compact_through: None,
            cold_reads: 0,
            state: self.state(protocol),
            sent,
        }
    }

    fn state(&self, protocol: &Protocol) -> ServerState {
        let state = protocol.state();
        let as_of_it = protocol.fetching_membership().map(|membership| MembershipRecord::from(&**membership));
        let fetching = state.fetching.zip(as_of_it);
        let pending = state.writes.iter().zip(&self.writes).map(|(waiting, content)| WriteRecord {
            hard_state: waiting.hard_state,
            compaction: content.compaction.clone(),
            truncate_from: content.truncate_from,
            entries: content.entries.clone(),
            durable: waiting.durable,
            messages: waiting.messages.iter().map(MessageRecord::from).collect(),
        });
        ServerState {
            pending: pending.collect(),
            progress: state.progress.iter().map(ProgressRecord::from).collect(),
            current_term: state.hard_state.term,
            voted_for: state.hard_state.vote,
            role: state.role,
            leader: state.leader,
            leader_is_recent: state.leader_is_recent,
            session: state.session,
            lost: state.lost,
            votes_granted: state.votes_granted,
            votes_refused: state.votes_refused,
            snapshot: state.snapshot,
            membership: MembershipRecord::from(&**protocol.membership()),
            fetching: fetching.map(|((from, last), membership)| FetchRecord { from, last, membership }),
            base: state.base,
            last: state.last,
            durable: state.durable,
            commit_index: state.commit_index,
            applied_index: state.applied_through,
            read_round: state.read_round,
            lease_over: state.lease_over,
            lease_given_up: state.lease_given_up,
            reads: state.reads.iter().map(ReadRecord::from).collect(),
            follower_reads: state.follower_reads,
            reads_asked: state.reads_asked,
            transfer: state.transfer,
        }
    }
}

impl Content {
    fn of(write: &Write) -> Self {
        Self {
            compaction: write.compaction.as_ref().map(CompactionRecord::from),
            truncate_from: write.truncate_from,
            entries: runs(write.entries.iter()),
        }
    }
}
