//! A cluster within one thread: `Protocol` and `MemoryLog` with nothing between them but a queue of messages.
//!
//! What the library costs when nothing else does. `benches/commit.rs` measures it, and so does `benches/peers`.

use bytes::Bytes;
use raft_io::types::Payload;
use raft_io::{
    Action, ActionSink, Durable, Envelope, Event, Index, MemoryLog, Protocol, RaftConfig, RoleKind, Write, WriteThrough,
};
use std::collections::VecDeque;

/// A state machine: it reads every byte of every command, and costs next to nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    /// Commands applied.
    pub(crate) commands: u64,
    /// The sum of their 64-bit words.
    pub(crate) words: u64,
}

impl Sum {
    /// Applies one command.
    pub(crate) fn apply(&mut self, command: &[u8]) {
        self.commands += 1;
        let words = command.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes")));
        self.words = words.fold(self.words, u64::wrapping_add);
    }
}

/// A cluster whose first node leads.
pub(crate) struct InMemory {
    nodes: Vec<Node>,
    /// Messages under way, to any node, oldest first.
    network: VecDeque<Envelope>,
    /// Room for what a step writes.
    writes: Vec<Write>,
}

struct Node {
    protocol: Protocol,
    log: MemoryLog,
    applied: Index,
    sum: Sum,
}

impl InMemory {
    /// A fresh cluster of this size, after the first node's election.
    pub(crate) fn new(nodes: u64) -> Self {
        let node = |id| {
            let log = MemoryLog::new();
            let protocol = Protocol::new(&RaftConfig::new(id, 1..=nodes), &log).expect("a valid configuration");
            Node { protocol, log, applied: Index::ZERO, sum: Sum::default() }
        };
        let nodes = (1..=nodes).map(node).collect();
        let mut cluster = Self { nodes, network: VecDeque::new(), writes: Vec::new() };
        cluster.step_leader(Event::ElectionTimeout);
        assert_eq!(cluster.nodes[0].protocol.role(), RoleKind::Leader);
        cluster
    }

    /// Commits one command; the leader has applied it when this returns.
    pub(crate) fn commit(&mut self, command: Bytes) {
        self.step_leader(Event::Propose(command));
    }

    /// Commits commands that are proposed together.
    pub(crate) fn commit_batch(&mut self, commands: Vec<Bytes>) {
        self.step_leader(Event::ProposeBatch(commands));
    }

    /// One round of heartbeats; afterwards every node has applied everything that is committed.
    pub(crate) fn heartbeat(&mut self) {
        self.step_leader(Event::HeartbeatTimeout);
    }

    /// What each node's state machine has seen.
    pub(crate) fn applied(&self) -> Vec<Sum> {
        self.nodes.iter().map(|node| node.sum).collect()
    }

    /// What the leader's state machine has seen.
    pub(crate) fn applied_by_leader(&self) -> Sum {
        self.nodes[0].sum
    }

    /// Steps the leader, then delivers until nothing is under way.
    fn step_leader(&mut self, event: Event) {
        self.step(0, event);
        while let Some(envelope) = self.network.pop_front() {
            self.step(envelope.to.0 as usize - 1, Event::Receive(envelope));
        }
    }

    /// Steps one node and carries out what it asks for.
    fn step(&mut self, at: usize, event: Event) {
        let node = &mut self.nodes[at];
        let log = WriteThrough::new(&mut node.log, &mut self.writes);
        let mut out = Out { network: &mut self.network, log: &log, apply: None };
        node.protocol.step(&log, event, &mut out).expect("the event is in order");
        let apply = out.apply;
        let Ok(()) = log.finish();
        if let Some(through) = apply {
            node.apply(through);
        }
    }
}

/// Takes each action where it belongs. Messages may go at once (law 2), and here none of them arrives
/// before the step is over.
struct Out<'a, 'log> {
    network: &'a mut VecDeque<Envelope>,
    log: &'a WriteThrough<'log, MemoryLog>,
    apply: Option<Index>,
}

impl ActionSink for Out<'_, '_> {
    // Where the action is made, its kind is known: inlined, nothing is left of the match.
    #[inline(always)]
    fn push(&mut self, action: Action) {
        match action {
            Action::Send(envelope) => self.network.push_back(envelope),
            Action::Apply { through } => self.apply = Some(through),
            _ => {}
        }
    }

    #[inline]
    fn persist(&mut self, write: Write) -> Option<Durable> {
        self.log.write(write)
    }
}

impl Node {
    fn apply(&mut self, through: Index) {
        self.log.range(self.applied.next(), through.next()).for_each(|entry| {
            if let Payload::Command(command) = &entry.payload {
                self.sum.apply(command);
            }
        });
        self.applied = through;
    }
}
