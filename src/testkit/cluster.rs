//! A cluster of real protocols in one thread, with every move made by hand.
//!
//! Lives here: servers with their disks, the network between them, what becomes of each action, and the
//! [`Checker`] that looks on. Does not live here: what moves exist in words ([`script`](super::script)), and who
//! chooses them ([`walk`](super::walk), a scenario, a property test).
//!
//! A write goes from the protocol to the disk in three moves, so that every race of a real log thread can be played:
//! `Persist` puts it in flight, [`Cluster::sync`] puts it on the disk, [`Cluster::persisted`] tells the protocol. A
//! crash loses what is in flight, but for a prefix that the caller chooses.

use super::clocks::Clocks;
use super::invariants::{Checked, Checker, View, Violation, entry_at};
use super::network::Network;
use super::render;
use super::warm_end::WarmEnd;
use crate::action::{Action, Actions, RoleKind, Write};
use crate::config::RaftConfig;
use crate::error::{RestoreError, StepError};
use crate::event::Event;
use crate::log::{LogView, MemoryLog, RaftLog, Read};
use crate::membership::Membership;
use crate::message::{Envelope, Message};
use crate::protocol::Protocol;
use crate::ticker::Ticker;
use crate::types::{Entry, EntryId, HardState, Index, NodeId, Payload};
use std::collections::{BTreeMap, VecDeque};
use std::string::String;
use std::vec::Vec;
use std::{format, vec};

/// What can go wrong with a move.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MoveError {
    /// A law of the cluster is broken.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// The move is not possible now; nothing happened.
    #[error("{0}")]
    Impossible(String),
    /// The configuration breaks its rules.
    #[error(transparent)]
    Restore(#[from] RestoreError),
}

/// Whether a move was made.
pub type Moved = Result<(), MoveError>;

pub(super) fn impossible<T>(why: impl Into<String>) -> Result<T, MoveError> {
    Err(MoveError::Impossible(why.into()))
}

/// How the cluster is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration of every server that belongs to the cluster from its beginning, but for its id.
    pub config: RaftConfig,
    /// Servers that run from the beginning and belong to no cluster yet.
    pub joiners: Vec<NodeId>,
    /// Servers that campaign without asking first, whatever the others do.
    pub without_pre_vote: Vec<NodeId>,
    /// Writes become durable at once, within the move that made them.
    pub sync_at_once: bool,
    /// How many entries at the end of a log are in memory; what lies before is [`Read::Cold`].
    pub entries_in_memory: u64,
}

/// One server.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) config: RaftConfig,
    /// `None` while it is down.
    pub(super) protocol: Option<Protocol>,
    pub(super) ticker: Ticker,
    /// What survives a crash.
    pub(super) disk: MemoryLog,
    /// With what is in flight to the disk.
    pub(super) log: MemoryLog,
    /// A copy of the disk that somebody made.
    pub(super) backup: Option<MemoryLog>,
    /// Writes on their way to the disk.
    pub(super) in_flight: VecDeque<Write>,
    /// Writes on the disk that the protocol does not know of yet.
    pub(super) unreported: usize,
    /// Reads of entries that were not in memory, to be sent once read.
    pub(super) cold_reads: VecDeque<(Envelope, Index, usize)>,
    /// Where this life of the state machine started.
    first_applicable: Index,
    pub(super) applied: Index,
}

/// A cluster and its history.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub(super) options: Options,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    pub(super) network: Network,
    pub(super) checker: Checker,
    pub(super) clocks: Clocks,
    transcript: Vec<String>,
    commands: Vec<(EntryId, bytes::Bytes)>,
    reads: u64,
    #[cfg(feature = "trace")]
    pub(super) recording: Option<super::recording::Recording>,
}

impl Cluster {
    /// A cluster of servers that start with empty disks.
    ///
    /// # Errors
    /// Every broken rule of the configuration.
    pub fn new(options: Options) -> Result<Self, RestoreError> {
        let members = options.config.membership.members();
        let joiners = options.joiners.clone();
        let mut cluster = Self {
            checker: Checker::new(&options.config.membership).with_check_quorum(options.config.check_quorum),
            clocks: Clocks::new(&options.config),
            options,
            nodes: BTreeMap::new(),
            network: Network::default(),
            transcript: Vec::new(),
            commands: Vec::new(),
            reads: 0,
            #[cfg(feature = "trace")]
            recording: None,
        };
        let initial = cluster.options.config.membership.clone();
        members.into_iter().try_for_each(|id| cluster.begin(id, initial.clone(), MemoryLog::new()))?;
        joiners.into_iter().try_for_each(|id| cluster.begin(id, Membership::default(), MemoryLog::new()))?;
        Ok(cluster)
    }

    /// The network.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The network, to cut and to heal.
    pub fn network_mut(&mut self) -> &mut Network {
        &mut self.network
    }

    /// The servers' ids, ascending.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes.keys().copied()
    }

    /// A running server's protocol.
    #[must_use]
    pub fn protocol(&self, id: NodeId) -> Option<&Protocol> {
        self.nodes.get(&id).and_then(|node| node.protocol.as_ref())
    }

    /// What would survive if this server crashed now.
    #[must_use]
    pub fn disk(&self, id: NodeId) -> Option<&MemoryLog> {
        self.nodes.get(&id).map(|node| &node.disk)
    }

    /// The last index that this server's state machine applied in its present life.
    #[must_use]
    pub fn applied(&self, id: NodeId) -> Option<Index> {
        self.nodes.get(&id).map(|node| node.applied)
    }

    /// How many of a server's writes are on their way: in flight to the disk, and on it but not yet reported.
    #[must_use]
    pub fn writes(&self, id: NodeId) -> (usize, usize) {
        self.nodes.get(&id).map_or((0, 0), |node| (node.in_flight.len(), node.unreported))
    }

    /// The server that leads the highest term, if one leads.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        let protocols = self.nodes.values().filter_map(|node| node.protocol.as_ref());
        let leaders = protocols.filter(|protocol| protocol.role() == RoleKind::Leader);
        leaders.max_by_key(|protocol| protocol.term()).map(Protocol::id)
    }

    /// The highest index that was ever committed.
    #[must_use]
    pub fn committed_index(&self) -> Index {
        self.checker.committed_index()
    }

    /// The commands that leaders took, with their positions; committed or not.
    #[must_use]
    pub fn commands(&self) -> &[(EntryId, bytes::Bytes)] {
        &self.commands
    }

    /// How many reads clients asked for so far.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.reads
    }

    /// What happened since the last call, a line each.
    pub fn take_transcript(&mut self) -> Vec<String> {
        core::mem::take(&mut self.transcript)
    }

    pub(super) fn tell(&mut self, line: String) {
        self.transcript.push(line);
    }

    pub(super) fn node_mut(&mut self, id: NodeId) -> Result<&mut Node, MoveError> {
        self.nodes.get_mut(&id).ok_or_else(|| MoveError::Impossible(format!("there is no node {id}")))
    }

    /// Hands an event to a server.
    ///
    /// # Errors
    /// The server is down, or a law is broken by what follows. A refusal by the protocol is told, not an error.
    pub fn step(&mut self, id: NodeId, event: Event) -> Moved {
        let transition = event.transition();
        let source = match &event {
            Event::Receive(envelope) => {
                format!(" ← {} {}", envelope.from, render::message_content(&envelope.message))
            }
            Event::Propose(command) => format!(" {}", command_words(command)),
            Event::ProposeBatch(commands) => {
                commands.iter().map(|command| format!(" {}", command_words(command))).collect()
            }
            Event::Persisted { writes } => format!(" {writes}"),
            Event::ReadRequest { context }
            | Event::LeaseReadRequest { context }
            | Event::FollowerReadRequest { context } => format!(" {context}"),
            Event::LeaseTimeout { round } => format!(" {round}"),
            Event::TransferLeadership { target } => format!(" {target}"),
            Event::ChangeMembership { target } => format!(" {}", render::membership(target)),
            Event::SnapshotTaken { last, compact_through } => format!(" {last} through={compact_through}"),
            Event::SnapshotFetched { last } | Event::SnapshotFetchFailed { last } => format!(" {last}"),
            _ => String::new(),
        };
        let heard = Clocks::heard_in(&event);
        let proposed = match &event {
            Event::Propose(command) => vec![command.clone()],
            Event::ProposeBatch(commands) => commands.clone(),
            _ => Vec::new(),
        };
        if let (Event::Receive(envelope), Some(node)) = (&event, self.nodes.get(&id)) {
            self.checker.received(&node.view(id), envelope);
        }
        let read = match event {
            Event::ReadRequest { context }
            | Event::LeaseReadRequest { context }
            | Event::FollowerReadRequest { context } => Some(context),
            _ => None,
        };
        if let (Some(context), Some(node)) = (read, self.nodes.get(&id).filter(|node| node.protocol.is_some())) {
            self.checker.read_begins(&node.view(id), context, matches!(event, Event::LeaseReadRequest { .. }));
            self.reads += 1;
        }
        let entries_in_memory = self.options.entries_in_memory;
        #[cfg(feature = "trace")]
        let input = self.recording.as_ref().map(|_| crate::trace::Input::of(&event));
        let node = self.node_mut(id)?;
        let Some(protocol) = node.protocol.as_mut() else { return impossible(format!("node {id} is down")) };
        let before = protocol.commit_index();
        let mut actions = Actions::new();
        let view = WarmEnd { disk: &node.disk, entries_in_memory };
        let result = protocol.step(&view, event, &mut actions);
        let (commit, term) = (protocol.commit_index(), protocol.term());
        self.clocks.heard(id, term, heard);
        #[cfg(feature = "trace")]
        if let (Some(input), Ok(())) = (input, &result) {
            self.record_step(id, input, &actions);
        }
        self.tell(format!("{id} {transition}{source}"));
        if commit != before {
            self.tell(format!("  commit {commit}"));
        }
        if let Err(error) = result {
            self.tell(format!("  refused: {}", step_error_words(&error)));
            read.into_iter().for_each(|context| self.checker.read_refused(id, context));
        }
        let mut to_apply = Vec::new();
        for action in &actions {
            if let Action::Proposed { first, .. } = action {
                let position = |at: usize| EntryId { index: first.index.plus(at), term: first.term };
                self.commands.extend(proposed.iter().enumerate().map(|(at, command)| (position(at), command.clone())));
            }
            self.carry_out(id, action, &mut to_apply)?;
        }
        self.check_step(id, transition, &actions, &to_apply)?;
        if self.options.sync_at_once && self.writes(id) != (0, 0) {
            return self.persisted(id, usize::MAX);
        }
        Ok(())
    }

    fn check_step(
        &mut self,
        id: NodeId,
        transition: crate::Transition,
        actions: &[Action],
        to_apply: &[Entry],
    ) -> Moved {
        let views = self.nodes.iter().map(|(id, node)| node.view(*id)).collect::<Vec<_>>();
        self.checker.stepped(id, transition, actions, &views)?;
        if let Some(protocol) = self.protocol(id) {
            let state = protocol.state();
            let own = state.reads.iter().filter(|read| read.reader.is_none()).map(|read| read.context);
            self.checker.reads_kept(id, &own.chain(state.follower_reads).collect())?;
            let fetching = protocol.fetching();
            self.checker.fetches(&self.nodes[&id].view(id), fetching)?;
        }
        let first_applicable = self.nodes[&id].first_applicable;
        for entry in to_apply {
            self.checker.applied(id, first_applicable, entry)?;
        }
        Ok(())
    }

    pub(super) fn check_move(&mut self, id: NodeId) -> Checked {
        let views = self.nodes.iter().map(|(id, node)| node.view(*id)).collect::<Vec<_>>();
        self.checker.moved(id, &views)
    }

    fn carry_out(&mut self, id: NodeId, action: &Action, to_apply: &mut Vec<Entry>) -> Moved {
        let sync_at_once = self.options.sync_at_once;
        let node = self.node_mut(id)?;
        node.ticker.observe(action);
        match action {
            Action::Persist(write) => {
                let Ok(()) = node.log.append(&mut vec![write.clone()]);
                node.in_flight.push_back(write.clone());
                self.tell(format!("  persist {}", render::write(write)));
            }
            Action::Send(envelope) => self.send(envelope.clone())?,
            Action::Proposed { first, count } => self.tell(match count {
                1 => format!("  proposed {first}"),
                _ => format!("  proposed {first} and {} more", count - 1),
            }),
            Action::Apply { through } => {
                let mut applied = Vec::new();
                while node.applied < *through {
                    let next = node.applied.next();
                    let Some(entry) = entry_at(&node.disk, next) else {
                        return impossible(format!("node {id} applies {next}, which is not durable there"));
                    };
                    applied.push(entry);
                    node.applied = next;
                }
                self.tell(format!("  apply {}", render::entries(&applied)));
                to_apply.extend(applied);
            }
            Action::ReadReady { context, index } => self.tell(format!("  read {context} ready at {index}")),
            Action::ReadAborted { context } => self.tell(format!("  read {context} aborted")),
            Action::ResetElectionTimer => {}
            Action::MembershipChanged { index, membership } => {
                self.tell(format!("  membership {index}: {}", render::membership(membership)));
            }
            Action::TransferBegun { target } => self.tell(format!("  transfer to {target} begins")),
            Action::TransferEnded { target } => self.tell(format!("  transfer to {target} ended")),
            Action::RoleChanged { role, term, leader } => {
                let leader = leader.map_or(String::new(), |leader| format!(" leader={leader}"));
                self.tell(format!("  role {} term={term}{leader}", role.name()));
            }
            Action::FetchSnapshot { from, last } => self.tell(format!("  fetch snapshot {last} from {from}")),
            Action::RestoreSnapshot { last } => {
                node.applied = last.index;
                node.first_applicable = last.index.next();
                self.tell(format!("  restore snapshot {last}"));
                let node = &self.nodes[&id];
                self.checker.restored(&node.view(id), *last)?;
            }
            Action::SendFromLog { envelope, end, bytes_max } => {
                node.cold_reads.push_back((envelope.clone(), *end, *bytes_max));
                let first = envelope_prev(envelope).next();
                self.tell(format!("  read from disk {first} to {} for {}", end.previous(), envelope.to));
                if sync_at_once {
                    self.cold_read(id)?;
                }
            }
            Action::LostAcknowledged { leader, acknowledged, durable, .. } => {
                self.tell(format!("  lost acknowledged={acknowledged} to={leader} durable={durable}"));
            }
            Action::PeerLostData { peer, acknowledged, durable } => {
                self.tell(format!("  peer {peer} lost acknowledged={acknowledged} durable={durable}"));
            }
            Action::Misbehaved { peer, reason } => self.tell(format!("  misbehaved: node {peer} {reason}")),
        }
        Ok(())
    }

    fn send(&mut self, envelope: Envelope) -> Moved {
        let (from, to) = (envelope.from, envelope.to);
        let (name, content) = (render::message_name(&envelope.message), render::message_content(&envelope.message));
        let lost = if self.network.is_open(from, to) { "" } else { " ✗" };
        self.tell(format!("  → {to} {name} {content}{lost}"));
        if let Some(node) = self.nodes.get(&from) {
            self.checker.sent(&node.view(from), &envelope)?;
        }
        self.clocks.sent(&envelope);
        self.network.send(envelope);
        Ok(())
    }

    /// Finishes the oldest read of entries that were not in memory, and sends them if the server still leads.
    ///
    /// # Errors
    /// There is none.
    pub fn cold_read(&mut self, id: NodeId) -> Moved {
        let node = self.node_mut(id)?;
        let Some((mut envelope, end, bytes_max)) = node.cold_reads.pop_front() else {
            return impossible(format!("node {id} reads nothing from its disk"));
        };
        let first = envelope_prev(&envelope).next();
        let leads =
            |protocol: &Protocol| protocol.role() == RoleKind::Leader && protocol.term() == envelope.message.term();
        let Some(Message::AppendEntriesRequest(request)) =
            node.protocol.as_ref().is_some_and(leads).then_some(&mut envelope.message)
        else {
            self.tell(format!("{id} leads no more: the read from {first} on is dropped"));
            return Ok(());
        };
        if let Read::Entries(entries) = node.disk.read(first, end, bytes_max) {
            request.entries = entries;
            #[cfg(feature = "trace")]
            self.record_sent_from_log(id, &envelope);
            self.send(envelope)?;
        }
        Ok(())
    }

    /// Puts the oldest `count` writes in flight on the disk, without telling the protocol.
    ///
    /// # Errors
    /// There are none, or a law is broken.
    pub fn sync(&mut self, id: NodeId, count: usize) -> Moved {
        let node = self.node_mut(id)?;
        let count = count.min(node.in_flight.len());
        if count == 0 {
            return impossible(format!("node {id} has no writes in flight"));
        }
        let mut writes = node.in_flight.drain(..count).collect::<Vec<_>>();
        let Ok(()) = node.disk.append(&mut writes);
        node.unreported += count;
        Ok(self.check_move(id)?)
    }

    /// Tells a server that its oldest `count` writes are durable, and makes them so first.
    ///
    /// # Errors
    /// There are none, or a law is broken.
    pub fn persisted(&mut self, id: NodeId, count: usize) -> Moved {
        let (in_flight, unreported) = self.writes(id);
        let count = count.min(in_flight + unreported);
        if count == 0 {
            return impossible(format!("node {id} has no writes in flight"));
        }
        if count > unreported {
            self.sync(id, count - unreported)?;
        }
        self.node_mut(id)?.unreported -= count;
        self.step(id, Event::Persisted { writes: count })
    }

    /// Delivers the message at a position of the network.
    ///
    /// # Errors
    /// Its way is cut, or a law is broken by what follows. To a server that is down it is lost.
    pub fn deliver(&mut self, position: usize) -> Moved {
        let Some(envelope) = self.network.in_flight().get(position) else { return impossible("there is no message") };
        if !self.network.is_open(envelope.from, envelope.to) {
            return impossible(format!("the way from {} to {} is cut", envelope.from, envelope.to));
        }
        let envelope = self.network.take(position);
        self.arrive(envelope)
    }

    /// A message arrives, whoever sent it.
    ///
    /// # Errors
    /// A law is broken by what follows.
    pub fn arrive(&mut self, envelope: Envelope) -> Moved {
        let to = envelope.to;
        if self.protocol(to).is_none() {
            self.tell(format!("{} ✗", render::envelope(&envelope)));
            return Ok(());
        }
        self.step(to, Event::Receive(envelope))
    }

    /// Delivers everything that is in flight now, in the order in which it was sent.
    ///
    /// # Errors
    /// A law is broken by what follows.
    pub fn deliver_all(&mut self) -> Moved {
        self.network.take_deliverable().into_iter().try_for_each(|envelope| self.arrive(envelope))
    }

    /// Delivers, persists, reads and fetches until nothing is left to do.
    ///
    /// # Errors
    /// A law is broken, or there is no end to it.
    pub fn stabilize(&mut self) -> Moved {
        for _ in 0..10_000 {
            let mut quiet = true;
            for id in self.ids().collect::<Vec<_>>() {
                if self.protocol(id).is_some() && self.writes(id) != (0, 0) {
                    self.persisted(id, usize::MAX)?;
                    quiet = false;
                }
                while self.nodes.get(&id).is_some_and(|node| !node.cold_reads.is_empty()) {
                    self.cold_read(id)?;
                    quiet = false;
                }
                quiet &= !self.fetch(id)?;
            }
            let arriving = self.network.take_deliverable();
            if quiet && arriving.is_empty() {
                return Ok(());
            }
            arriving.into_iter().try_for_each(|envelope| self.arrive(envelope))?;
        }
        impossible("the cluster does not come to rest within 10,000 rounds")
    }
}

impl Node {
    pub(super) fn on_disk(config: RaftConfig, disk: MemoryLog) -> Self {
        Self {
            ticker: Ticker::new(&config),
            config,
            protocol: None,
            log: disk.clone(),
            first_applicable: disk.snapshot().index.next(),
            applied: disk.snapshot().index,
            disk,
            backup: None,
            in_flight: VecDeque::new(),
            unreported: 0,
            cold_reads: VecDeque::new(),
        }
    }

    pub(super) fn start(&mut self, entries_in_memory: u64) -> Result<(), RestoreError> {
        let view = WarmEnd { disk: &self.disk, entries_in_memory };
        self.protocol = Some(Protocol::new(&self.config, &view)?);
        Ok(())
    }

    fn view(&self, id: NodeId) -> View<'_> {
        let protocol = self.protocol.as_ref();
        let durable = self.disk.hard_state();
        View {
            id,
            role: protocol.map(Protocol::role),
            pre_vote: self.config.pre_vote,
            hard_state: protocol.map_or(durable, |protocol| HardState { term: protocol.term(), vote: protocol.vote() }),
            leader: protocol.and_then(Protocol::leader),
            leader_is_recent: protocol.is_some_and(Protocol::leader_is_recent),
            accused: protocol.map_or_else(Vec::new, |protocol| {
                protocol.progress().filter(|(_, progress)| progress.lost.is_some()).map(|(peer, _)| peer).collect()
            }),
            has_lost_data: protocol.is_some_and(Protocol::has_lost_data),
            lease_over: protocol.filter(|protocol| protocol.has_lease()).map(|protocol| protocol.state().lease_over),
            commit_index: protocol.map_or(Index::ZERO, Protocol::commit_index),
            log: &self.log,
            disk: &self.disk,
            match_indexes: protocol.map_or_else(Vec::new, |protocol| {
                protocol.progress().map(|(peer, progress)| (peer, progress.match_index)).collect()
            }),
            sessions: protocol.map_or_else(Vec::new, |protocol| {
                protocol.progress().map(|(peer, progress)| (peer, progress.session, progress.active)).collect()
            }),
            memberships: protocol.map_or_else(Vec::new, |protocol| {
                protocol.memberships().map(|(index, membership)| (index, membership.clone())).collect()
            }),
            initial: &self.config.membership,
        }
    }
}

fn envelope_prev(envelope: &Envelope) -> Index {
    match &envelope.message {
        Message::AppendEntriesRequest(request) => request.prev.index,
        _ => Index::ZERO,
    }
}

fn command_words(command: &bytes::Bytes) -> String {
    render::entry(&Entry { id: EntryId::ZERO, payload: Payload::Command(command.clone()) }).replacen("0@0:", "", 1)
}

fn step_error_words(error: &StepError) -> String {
    format!("{error}")
}
