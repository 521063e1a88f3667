//! raft-io, this repository: `Protocol` and `MemoryLog`, without the driver.

use crate::contender::{Client, Cluster};
use crate::in_memory::{InMemory, Sum};
use bytes::Bytes;

/// A cluster of ours.
pub struct Ours {
    cluster: InMemory,
    client: Client,
}

impl Ours {
    /// A cluster whose first node leads.
    pub fn new(nodes: u64) -> Self {
        Self { cluster: InMemory::new(nodes), client: Client::default() }
    }
}

impl Cluster for Ours {
    fn commit(&mut self, batch: usize) {
        if batch == 1 {
            self.cluster.commit(Bytes::from(self.client.command()));
        } else {
            self.cluster.commit_batch((0..batch).map(|_| Bytes::from(self.client.command())).collect());
        }
    }

    fn settle(&mut self) {
        self.cluster.heartbeat();
    }

    fn applied(&self) -> Vec<Sum> {
        self.cluster.applied()
    }
}
