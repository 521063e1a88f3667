//! The workload, and what a contender must do for it.

use crate::in_memory::Sum;
use crate::{open_raft, ours, published_raft_io, raft_rs};

/// The size of a command in bytes.
pub const COMMAND_BYTES: usize = 64;

/// A cluster within this process that has a leader and nothing to do.
pub trait Cluster {
    /// Makes `batch` new commands, proposes them together, and works until the leader has applied all of them and no
    /// message is under way.
    fn commit(&mut self, batch: usize);

    /// Works until every node has applied everything that is committed.
    fn settle(&mut self);

    /// What each node's state machine has seen.
    fn applied(&self) -> Vec<Sum>;
}

/// The commands of a client: each a fresh allocation, each different.
#[derive(Default)]
pub struct Client {
    made: u64,
}

impl Client {
    /// The next command.
    pub fn command(&mut self) -> Vec<u8> {
        self.made += 1;
        let mut command = vec![1; COMMAND_BYTES];
        command[..8].copy_from_slice(&self.made.to_le_bytes());
        command
    }

    /// How many commands were made.
    pub fn made(&self) -> u64 {
        self.made
    }

    /// What a state machine has seen once everything made so far is applied.
    pub fn expected(commands: u64) -> Sum {
        let mut client = Self::default();
        let mut sum = Sum::default();
        for _ in 0..commands {
            sum.apply(&client.command());
        }
        sum
    }
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contender {
    Ours,
    PublishedRaftIo,
    RaftRs,
    OpenRaft,
}

impl Contender {
    /// Ours first: the others are compared with it.
    pub const ALL: [Self; 4] = [Self::Ours, Self::PublishedRaftIo, Self::RaftRs, Self::OpenRaft];

    /// The name in tables and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::PublishedRaftIo => "raft-io-1.0.0",
            Self::RaftRs => "raft-rs-0.7.0",
            Self::OpenRaft => "openraft-0.9.25",
        }
    }

    /// The contender of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|contender| contender.name() == name)
    }

    /// A fresh cluster whose first node leads.
    pub fn cluster(self, nodes: u64) -> Box<dyn Cluster> {
        match self {
            Self::Ours => Box::new(ours::Ours::new(nodes)),
            Self::PublishedRaftIo => Box::new(published_raft_io::Published::new(nodes)),
            Self::RaftRs => Box::new(raft_rs::RaftRs::new(nodes)),
            Self::OpenRaft => Box::new(open_raft::OpenRaft::new(nodes)),
        }
    }

    /// How many entries one measurement commits: enough for about a tenth of a second.
    pub fn entries(self, batch: usize) -> usize {
        let slow = self == Self::OpenRaft;
        match (batch, slow) {
            (1, true) => 4_000,
            (1, false) => 32_768,
            (_, true) => 32_768,
            (_, false) => 131_072,
        }
    }
}
