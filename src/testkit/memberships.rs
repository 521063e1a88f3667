//! Who belongs to a simulated cluster, and who comes to it.

use super::cluster::{Cluster, MoveError, Moved, Node, impossible};
use crate::config::RaftConfig;
use crate::error::RestoreError;
use crate::history::HistoryId;
use crate::log::{LogView, MemoryLog};
use crate::membership::Membership;
use crate::types::{DiskId, NodeId};
use std::format;

impl Cluster {
    /// The configuration that the cluster began with.
    #[must_use]
    pub fn initial_membership(&self) -> &Membership {
        &self.options.config.membership
    }

    /// Whether servers were set up that belong to the cluster only once it takes them.
    pub(super) fn has_joiners(&self) -> bool {
        !self.options.joiners.is_empty()
    }

    /// A further server starts, with an empty disk, and knows nobody.
    ///
    /// # Errors
    /// There is one of that id already.
    pub fn join(&mut self, id: NodeId) -> Moved {
        if self.nodes.contains_key(&id) {
            return impossible(format!("there is a node {id} already"));
        }
        self.begin(id, Membership::default(), MemoryLog::new()).map_err(MoveError::from)?;
        #[cfg(feature = "trace")]
        self.record_start(id);
        Ok(())
    }

    /// A server that is down, and was no member from the beginning, starts again with an empty disk, as one that joins. What
    /// it said before may still be on its way.
    ///
    /// # Errors
    /// It runs, or belonged to the cluster from the beginning.
    pub fn wipe(&mut self, id: NodeId) -> Moved {
        let node = self.node_mut(id)?;
        if node.protocol.is_some() || !node.config.membership.is_empty() {
            return impossible(format!("node {id} is running, or did not join"));
        }
        let disk = MemoryLog::on_disk(DiskId(node.disk.disk().0 + 1));
        self.checker.wiped(id);
        self.begin(id, Membership::default(), disk).map_err(MoveError::from)?;
        #[cfg(feature = "trace")]
        self.record_start(id);
        self.tell(format!("{id} starts with an empty disk"));
        Ok(())
    }

    /// A server starts with an empty disk, which is this one.
    pub(super) fn begin(&mut self, id: NodeId, membership: Membership, disk: MemoryLog) -> Result<(), RestoreError> {
        let mut config =
            RaftConfig { id, joins: membership == Membership::default(), membership, ..self.options.config.clone() };
        // Each draws one of its own, though all are configured alike.
        config.history = config.history.map(|drawn| HistoryId::from_bits(drawn.to_bits() ^ u128::from(id.0)));
        config.pre_vote &= !self.options.without_pre_vote.contains(&id);
        config.validate()?;
        let mut node = Node::on_disk(config, disk);
        node.start(self.options.entries_in_memory)?;
        self.nodes.insert(id, node);
        Ok(())
    }
}
