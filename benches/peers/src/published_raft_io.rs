//! raft-io 1.0.0 as published: `RaftNode` on its own `MemoryLog`.

use crate::contender::{Client, Cluster};
use crate::in_memory::Sum;
use published::{Action, Event, Message, RaftConfig, RaftNode};

struct Node {
    raft: RaftNode,
    inbox: Vec<Message>,
    sum: Sum,
}

/// A cluster of raft-io 1.0.0.
pub struct Published {
    nodes: Vec<Node>,
    client: Client,
    messages: Vec<Message>,
}

impl Published {
    /// A cluster whose first node leads.
    pub fn new(nodes: u64) -> Self {
        let node = |id| {
            let config = RaftConfig::new(id, 1..=nodes).with_max_batch(4096).with_snapshot_threshold(usize::MAX);
            Node { raft: RaftNode::new(config), inbox: Vec::new(), sum: Sum::default() }
        };
        let nodes = (1..=nodes).map(node).collect();
        let mut cluster = Self { nodes, client: Client::default(), messages: Vec::new() };
        while !cluster.nodes[0].raft.is_leader() {
            cluster.step(0, Event::Tick);
            cluster.run();
        }
        cluster
    }

    fn step(&mut self, at: usize, event: Event) {
        let actions = self.nodes[at].raft.step(event).expect("the event is in order");
        for action in actions {
            match action {
                Action::Send { to, message } => self.nodes[to as usize - 1].inbox.push(message),
                // Its leader's no-op is an empty command, which a client here never sends.
                Action::Apply { command, .. } if !command.is_empty() => self.nodes[at].sum.apply(&command),
                _ => {}
            }
        }
    }

    fn run(&mut self) {
        let mut busy = true;
        while busy {
            busy = false;
            for at in 0..self.nodes.len() {
                std::mem::swap(&mut self.nodes[at].inbox, &mut self.messages);
                let mut messages = std::mem::take(&mut self.messages);
                busy |= !messages.is_empty();
                for message in messages.drain(..) {
                    self.step(at, Event::Message(message));
                }
                self.messages = messages;
            }
        }
    }
}

impl Cluster for Published {
    fn commit(&mut self, batch: usize) {
        for _ in 0..batch {
            let command = self.client.command();
            self.step(0, Event::Propose(command));
        }
        self.run();
    }

    fn settle(&mut self) {
        let behind = |cluster: &Self| cluster.nodes.iter().any(|node| node.sum != cluster.nodes[0].sum);
        while behind(self) {
            self.step(0, Event::Tick);
            self.run();
        }
    }

    fn applied(&self) -> Vec<Sum> {
        self.nodes.iter().map(|node| node.sum).collect()
    }
}
