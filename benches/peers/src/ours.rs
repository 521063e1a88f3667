//! raft-io, this repository: `Protocol` and `MemoryLog`, without the driver.

use crate::contender::{Client, Cluster, Sum};
use bytes::Bytes;
use raft_io::log::Read;
use raft_io::types::Payload;
use raft_io::{Action, Envelope, Event, Index, LogView, MemoryLog, Protocol, RaftConfig, RaftLog, RoleKind, Write};
use std::collections::VecDeque;

struct Node {
    protocol: Protocol,
    log: MemoryLog,
    applied: Index,
    sum: Sum,
}

/// A cluster of ours.
pub struct Ours {
    nodes: Vec<Node>,
    client: Client,
    /// Messages under way, to any node, oldest first.
    network: VecDeque<Envelope>,
    /// The output buffer of every step.
    actions: Vec<Action>,
    /// What a step asks to persist.
    writes: Vec<Write>,
}

impl Ours {
    /// A cluster whose first node leads.
    pub fn new(nodes: u64) -> Self {
        let node = |id| {
            let log = MemoryLog::new();
            let protocol = Protocol::new(&RaftConfig::new(id, 1..=nodes), &log).expect("a valid configuration");
            Node { protocol, log, applied: Index::ZERO, sum: Sum::default() }
        };
        let nodes = (1..=nodes).map(node).collect();
        let mut cluster = Self {
            nodes,
            client: Client::default(),
            network: VecDeque::new(),
            actions: Vec::new(),
            writes: Vec::new(),
        };
        cluster.step(0, Event::ElectionTimeout);
        cluster.run();
        assert_eq!(cluster.nodes[0].protocol.role(), RoleKind::Leader);
        cluster
    }

    /// Steps one node and carries out what it asks for, in the order given.
    fn step(&mut self, at: usize, event: Event) {
        let node = &mut self.nodes[at];
        let mut event = event;
        loop {
            node.protocol.step(&node.log, event, &mut self.actions).expect("the event is in order");
            for action in self.actions.drain(..) {
                match action {
                    Action::Persist(write) => self.writes.push(write),
                    Action::Send(envelope) => self.network.push_back(envelope),
                    Action::Apply { through } => node.apply(through),
                    _ => {}
                }
            }
            if self.writes.is_empty() {
                return;
            }
            event = Event::Persisted { writes: self.writes.len() };
            let Ok(()) = node.log.append(&mut self.writes);
            let Ok(()) = node.log.sync();
        }
    }

    /// Delivers until nothing is under way.
    fn run(&mut self) {
        while let Some(envelope) = self.network.pop_front() {
            self.step(envelope.to.0 as usize - 1, Event::Receive(envelope));
        }
    }
}

impl Node {
    fn apply(&mut self, through: Index) {
        while self.applied < through {
            let read = self.log.read(self.applied.next(), through.next(), usize::MAX);
            let Read::Entries(entries) = read else { panic!("a log in memory is never cold") };
            for entry in entries.iter() {
                if let Payload::Command(command) = &entry.payload {
                    self.sum.apply(command);
                }
            }
            self.applied = self.applied.plus(entries.len());
        }
    }
}

impl Cluster for Ours {
    fn commit(&mut self, batch: usize) {
        let event = if batch == 1 {
            Event::Propose(Bytes::from(self.client.command()))
        } else {
            Event::ProposeBatch((0..batch).map(|_| Bytes::from(self.client.command())).collect())
        };
        self.step(0, event);
        self.run();
    }

    fn settle(&mut self) {
        self.step(0, Event::HeartbeatTimeout);
        self.run();
    }

    fn applied(&self) -> Vec<Sum> {
        self.nodes.iter().map(|node| node.sum).collect()
    }
}
