//! The quick start: protocol, timers and log in one value, stepped and persisted synchronously.
//!
//! [`RaftNode`] needs no transport and no storage: feed it [`Event`]s, carry out the [`Action`]s.
//! Every step ends with everything durable that it wrote. For clocks, threads and a network, use
//! the driver (`Raft::start`).
//!
//! ```
//! use raft_io::RaftConfig;
//! use raft_io::node::{Action, Event, RaftNode};
//!
//! let mut node = RaftNode::new(RaftConfig::single(1))?;
//! while !node.is_leader() {
//!     node.step(Event::Tick)?;
//! }
//! for action in node.step(Event::Propose("set x = 1".into()))? {
//!     if let Action::Apply { index, command, .. } = action {
//!         assert_eq!((index.0, &command[..]), (2, &b"set x = 1"[..]));
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::action::{self, ActionSink, Durable, RoleKind, Write};
use crate::config::RaftConfig;
use crate::error::{PeerMisbehaved, RestoreError, StepError};
use crate::event;
use crate::log::{MemoryLog, RaftLog, Read, WriteThrough};
use crate::membership::Membership;
use crate::message::{Envelope, Message};
use crate::protocol::Protocol;
use crate::ticker::Ticker;
use crate::types::{EntryId, Index, NodeId, Payload, Term};
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;
use thiserror::Error;

/// What goes into [`RaftNode::step`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Event {
    /// A tick of the clock passed; the embedder decides how long one is.
    Tick,
    /// A message arrived.
    Receive(Envelope),
    /// A client proposes a command.
    Propose(Bytes),
    /// Clients propose several commands, which are appended together or refused together.
    ProposeBatch(Vec<Bytes>),
    /// A client wants to read what is committed. Ends with one [`Action::ReadReady`] or
    /// [`Action::ReadAborted`] of the same `context`, now or later, unless it is refused.
    Read {
        /// Whatever tells the embedder which read this is.
        context: u64,
    },
    /// As [`Event::Read`], but answered at once by a leader with a lease: linearizable as long as the clocks hold what
    /// [`RaftConfig::lease_ticks`] says.
    LeaseRead {
        /// Whatever tells the embedder which read this is.
        context: u64,
    },
    /// As [`Event::Read`], but a node that only follows takes it too, and answers from its own state machine. It is aborted
    /// when the leader changes, or is not heard for a minimum election timeout.
    FollowerRead {
        /// Which read this is; see [`crate::Event::FollowerReadRequest`].
        context: u64,
    },
    /// A leader is to lead no more, whoever comes after it.
    StepDown,
    /// Somebody wants another node to lead (§3.10). Unless it is refused, or goes on already, it ends once: with
    /// [`Action::TransferEnded`], or with the [`Action::RoleChanged`] by which this node leads no more.
    TransferLeadership {
        /// The node that is to lead.
        target: NodeId,
    },
    /// Somebody wants another configuration (§4). Unless it is refused, or in force already, it is done when
    /// [`Protocol::committed_membership`] is the one that was asked for; see [`crate::Event::ChangeMembership`].
    ChangeMembership {
        /// The configuration that is wanted, not a joint one.
        target: Arc<Membership>,
    },
    /// A snapshot of the state machine, as it is after the last [`Action::Apply`], is durable, and the log forgets what it
    /// covers up to and including `compact_through`.
    SnapshotTaken {
        /// The last entry that it covers: that of [`RaftNode::applied_index`].
        last: EntryId,
        /// What the log keeps behind this index and before `last` serves followers that are a little behind.
        compact_through: Index,
    },
    /// The snapshot of [`Action::FetchSnapshot`] is here and durable.
    SnapshotFetched {
        /// The last entry that it covers.
        last: EntryId,
    },
    /// The snapshot of [`Action::FetchSnapshot`] is not to be had.
    SnapshotFetchFailed {
        /// The last entry that it covers.
        last: EntryId,
    },
}

/// What comes out of [`RaftNode::step`], in the order in which to carry it out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Action {
    /// Apply a committed command to the state machine. Comes once per entry and life of the node,
    /// in log order; after a restart again from the log's snapshot, or its start, on.
    Apply {
        /// The entry's index.
        index: Index,
        /// The entry's term.
        term: Term,
        /// The command.
        command: Bytes,
    },
    /// Send a message to another node. Loss, duplication and reordering are allowed.
    Send(Envelope),
    /// The proposal was appended; it is not yet committed.
    Proposed {
        /// The id of the first command; the others follow at consecutive indexes.
        first: EntryId,
        /// How many commands.
        count: usize,
    },
    /// Answer this read now, from the state machine as it is after the actions before this one: it
    /// holds everything that was committed when the read began (§6.4).
    ReadReady {
        /// That of the [`Event::Read`].
        context: u64,
    },
    /// This node stopped leading, or lost its leader, before it could answer the read; ask the next leader.
    ReadAborted {
        /// That of the [`Event::Read`].
        context: u64,
    },
    /// A transfer of leadership ended by its timeout, an election timeout after it began: this node leads on, and takes
    /// proposals again.
    TransferEnded {
        /// The node that was to lead.
        target: NodeId,
    },
    /// Another configuration is in force on this node, not necessarily committed: these are the nodes to be reached from now
    /// on.
    MembershipChanged {
        /// The index of its entry, or the last that the snapshot covers with which it came.
        index: Index,
        /// Who belongs to the cluster now.
        membership: Arc<Membership>,
    },
    /// Role, term or known leader changed.
    RoleChanged {
        /// The role after this step.
        role: RoleKind,
        /// The term after this step.
        term: Term,
        /// The leader of that term, as far as known.
        leader: Option<NodeId>,
    },
    /// Fetch this snapshot, however the embedder moves snapshots, and step [`Event::SnapshotFetched`] once it is durable
    /// here, or [`Event::SnapshotFetchFailed`]. Replaces the fetch asked for before.
    FetchSnapshot {
        /// The node that offers it.
        from: NodeId,
        /// The last entry that it covers.
        last: EntryId,
    },
    /// Replace the state of the state machine with the fetched snapshot; what follows applies on top of it.
    RestoreSnapshot {
        /// The last entry that the snapshot covers.
        last: EntryId,
    },
    /// This server's disk lacks what it acknowledged to its leader: an older copy of it was put back, for instance. It has told
    /// the leader, and does nothing any more: stop it. It cannot keep what it promised, so it must not vote or acknowledge
    /// again before it is replaced: removed, emptied, and added again.
    LostAcknowledged {
        /// The leader to which it acknowledged.
        leader: NodeId,
        /// The leader's term.
        term: Term,
        /// What it acknowledged.
        acknowledged: Index,
        /// Where its durable log ends.
        durable: Index,
    },
    /// A peer of this leader says that it lost what it acknowledged. It counts for no quorum until it is replaced: removed,
    /// emptied, and added again.
    PeerLostData {
        /// The peer.
        peer: NodeId,
        /// What it acknowledged in this term.
        acknowledged: Index,
        /// Where its durable log ends.
        durable: Index,
    },
    /// A peer broke the protocol; its message was dropped.
    Misbehaved {
        /// Who.
        peer: NodeId,
        /// How.
        reason: PeerMisbehaved,
    },
}

/// Why a step failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NodeError<E: core::error::Error> {
    /// The event was refused; nothing happened.
    #[error(transparent)]
    Step(#[from] StepError),
    /// The log failed. The node does nothing from now on (law 6). A read that fails for a reason that passes
    /// ([`RaftLog::is_transient`]) is no such failure: for a peer it is dropped like a message, for the state machine it is tried
    /// again at each tick.
    #[error("the log failed, and this node has stopped: {0}")]
    Log(#[source] E),
    /// The log failed earlier.
    #[error("this node has stopped, because its log failed earlier")]
    Stopped,
}

/// Writes what is to be persisted, and keeps the other actions for after the step.
struct Sink<'a, 'log, L: RaftLog> {
    log: &'a WriteThrough<'log, L>,
    actions: &'a mut action::Actions,
}

impl<L: RaftLog> ActionSink for Sink<'_, '_, L> {
    fn push(&mut self, action: action::Action) {
        self.actions.push(action);
    }

    fn persist(&mut self, write: Write) -> Option<Durable> {
        self.log.write(write)
    }
}

/// One node of one group, with its timers and its log.
#[derive(Clone, Debug)]
pub struct RaftNode<L: RaftLog = MemoryLog> {
    protocol: Protocol,
    ticker: Ticker,
    log: L,
    applied: Index,
    /// The last index to apply. Not below `applied`, but for a snapshot that was restored; above it only while the log cannot
    /// read what comes next.
    apply_through: Index,
    stopped: bool,
    /// Reused between steps.
    actions: action::Actions,
    writes: Vec<Write>,
    /// Confirmed reads that wait for this index to be applied.
    reads: Vec<(Index, u64)>,
    /// Whether in this step the role, the term or the leader changed, or a follower missed its leader. False between steps.
    leader_lost: bool,
}

impl RaftNode<MemoryLog> {
    /// A node with an empty log in memory.
    ///
    /// # Errors
    /// Every broken rule of the configuration at once.
    pub fn new(config: RaftConfig) -> Result<Self, RestoreError> {
        Self::with_log(config, MemoryLog::new())
    }
}

impl<L: RaftLog> RaftNode<L> {
    /// A node that starts, or starts again, from what `log` holds. If that has a [`snapshot`](crate::LogView::snapshot), the
    /// embedder begins with the state machine of that snapshot: only what follows it comes out as applied.
    ///
    /// # Errors
    /// Every broken rule of the configuration at once, or a log that has lost its hard state or entries.
    pub fn with_log(config: RaftConfig, log: L) -> Result<Self, RestoreError> {
        Ok(Self {
            protocol: Protocol::new(&config, &log)?,
            ticker: Ticker::new(&config),
            applied: log.snapshot().index,
            apply_through: log.snapshot().index,
            log,
            stopped: false,
            actions: Vec::new(),
            writes: Vec::new(),
            reads: Vec::new(),
            leader_lost: false,
        })
    }

    /// Consumes one event, makes durable what it wrote, and returns what to do.
    ///
    /// # Errors
    /// A refused event changes nothing. After a failed log every later step fails.
    pub fn step(&mut self, event: Event) -> Result<Vec<Action>, NodeError<L::Error>> {
        if self.stopped {
            return Err(NodeError::Stopped);
        }
        let mut out = Vec::new();
        let stepped = match event {
            Event::Tick => self.tick(&mut out),
            Event::Receive(envelope) => self.run(event::Event::Receive(envelope), &mut out),
            Event::Propose(command) => self.run(event::Event::Propose(command), &mut out),
            Event::Read { context } => self.run(event::Event::ReadRequest { context }, &mut out),
            Event::LeaseRead { context } => self.run(event::Event::LeaseReadRequest { context }, &mut out),
            Event::FollowerRead { context } => self.run(event::Event::FollowerReadRequest { context }, &mut out),
            Event::StepDown => self.run(event::Event::StepDown, &mut out),
            Event::ProposeBatch(commands) => self.run(event::Event::ProposeBatch(commands), &mut out),
            Event::TransferLeadership { target } => self.run(event::Event::TransferLeadership { target }, &mut out),
            Event::ChangeMembership { target } => self.run(event::Event::ChangeMembership { target }, &mut out),
            Event::SnapshotTaken { last, compact_through } => {
                self.run(event::Event::SnapshotTaken { last, compact_through }, &mut out)
            }
            Event::SnapshotFetched { last } => self.run(event::Event::SnapshotFetched { last }, &mut out),
            Event::SnapshotFetchFailed { last } => self.run(event::Event::SnapshotFetchFailed { last }, &mut out),
        };
        if let Err(NodeError::Log(_)) = stepped {
            self.stopped = true;
        }
        stepped.map(|()| out)
    }

    fn tick(&mut self, out: &mut Vec<Action>) -> Result<(), NodeError<L::Error>> {
        if self.applied < self.apply_through {
            self.apply(self.apply_through, out)?;
            self.answer_reads(out);
        }
        let mut due = Vec::new();
        self.ticker.tick(self.protocol.role(), &mut |event| due.push(event));
        due.into_iter().try_for_each(|event| {
            // A follower's leader is gone, though nobody may follow it: as if it had another one.
            self.leader_lost |= event == event::Event::MinimumElectionTimeout;
            self.run(event, out)
        })
    }

    /// Steps the protocol, which finds each of its writes durable at once.
    fn run(&mut self, event: event::Event, out: &mut Vec<Action>) -> Result<(), NodeError<L::Error>> {
        let log = WriteThrough::new(&mut self.log, &mut self.writes);
        let mut sink = Sink { log: &log, actions: &mut self.actions };
        self.protocol.step(&log, event, &mut sink)?;
        log.finish().map_err(NodeError::Log)?;
        let mut actions = core::mem::take(&mut self.actions);
        for action in actions.drain(..) {
            self.ticker.observe(&action);
            self.carry_out(action, out)?;
        }
        self.actions = actions;
        self.answer_reads(out);
        Ok(())
    }

    /// Answers the confirmed reads whose index is applied. The others wait for as long as the leader is the same; afterwards
    /// their index may never be reached here.
    fn answer_reads(&mut self, out: &mut Vec<Action>) {
        let (applied, leader_lost) = (self.applied, core::mem::take(&mut self.leader_lost));
        self.reads.retain(|&(index, context)| {
            if index <= applied {
                out.push(Action::ReadReady { context });
            } else if leader_lost {
                out.push(Action::ReadAborted { context });
            }
            index > applied && !leader_lost
        });
    }

    fn carry_out(&mut self, action: action::Action, out: &mut Vec<Action>) -> Result<(), NodeError<L::Error>> {
        match action {
            action::Action::Persist(_) => unreachable!("PersistFirst: the sink has written it"),
            action::Action::Send(envelope) => out.push(Action::Send(envelope)),
            action::Action::Proposed { first, count } => out.push(Action::Proposed { first, count }),
            action::Action::Apply { through } => self.apply(through, out)?,
            action::Action::ReadReady { context, index } => self.reads.push((index, context)),
            action::Action::ReadAborted { context } => out.push(Action::ReadAborted { context }),
            action::Action::ResetElectionTimer | action::Action::TransferBegun { .. } => {}
            action::Action::TransferEnded { target } => out.push(Action::TransferEnded { target }),
            action::Action::RoleChanged { role, term, leader } => {
                self.leader_lost = true;
                out.push(Action::RoleChanged { role, term, leader });
            }
            action::Action::MembershipChanged { index, membership } => {
                out.push(Action::MembershipChanged { index, membership });
            }
            action::Action::FetchSnapshot { from, last } => out.push(Action::FetchSnapshot { from, last }),
            action::Action::RestoreSnapshot { last } => {
                self.applied = last.index;
                out.push(Action::RestoreSnapshot { last });
            }
            action::Action::LostAcknowledged { leader, term, acknowledged, durable } => {
                out.push(Action::LostAcknowledged { leader, term, acknowledged, durable });
            }
            action::Action::PeerLostData { peer, acknowledged, durable } => {
                out.push(Action::PeerLostData { peer, acknowledged, durable });
            }
            action::Action::Misbehaved { peer, reason } => out.push(Action::Misbehaved { peer, reason }),
            action::Action::SendFromLog { mut envelope, end, bytes_max } => {
                if let Message::AppendEntriesRequest(request) = &mut envelope.message {
                    let first = request.prev.index.next();
                    if let Some(Read::Entries(entries)) = self.read(first, end, bytes_max)? {
                        request.entries = entries;
                        out.push(Action::Send(envelope));
                    }
                }
            }
        }
        Ok(())
    }

    /// `None` if the log cannot read it at the moment.
    fn read(&self, first: Index, end: Index, bytes_max: usize) -> Result<Option<Read>, NodeError<L::Error>> {
        match self.log.read_blocking(first, end, bytes_max) {
            Ok(read) => Ok(Some(read)),
            Err(error) if L::is_transient(&error) => Ok(None),
            Err(error) => Err(NodeError::Log(error)),
        }
    }

    fn apply(&mut self, through: Index, out: &mut Vec<Action>) -> Result<(), NodeError<L::Error>> {
        /// How much is read at once.
        const READ_BYTES: usize = 1 << 20;
        self.apply_through = through;
        while self.applied < through {
            let first = self.applied.next();
            let Some(read) = self.read(first, through.next(), READ_BYTES)? else { return Ok(()) };
            let Read::Entries(entries) = read else {
                panic!("AppliedIsCommitted: the log has lost entry {first}, which is not yet applied");
            };
            let begins = entries.first().is_some_and(|entry| entry.id.index == first);
            assert!(begins, "ReadsSeeWrites: the log holds entry {first} and did not return it");
            for entry in entries.iter() {
                self.applied = entry.id.index;
                if let Payload::Command(command) = &entry.payload {
                    out.push(Action::Apply { index: entry.id.index, term: entry.id.term, command: command.clone() });
                }
            }
        }
        Ok(())
    }

    /// Whether this node leads its term.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.protocol.role() == RoleKind::Leader
    }

    /// The protocol's state.
    #[must_use]
    pub fn protocol(&self) -> &Protocol {
        &self.protocol
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> &L {
        &self.log
    }

    /// The last index that came out as applied, no-ops included.
    #[must_use]
    pub fn applied_index(&self) -> Index {
        self.applied
    }

    /// Stops the node and gives its log back.
    #[must_use]
    pub fn into_log(self) -> L {
        self.log
    }
}

#[cfg(test)]
mod tests;
