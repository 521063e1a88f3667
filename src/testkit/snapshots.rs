//! Snapshots in a simulated cluster: taken, fetched, not to be had. One is its name, the last entry that it covers.

use super::cluster::{Cluster, MoveError, Moved, impossible};
use crate::event::Event;
use crate::log::LogView;
use crate::protocol::Protocol;
use crate::types::{EntryId, Index, NodeId};
use std::format;

impl Cluster {
    /// A snapshot of what this server has applied is durable, up to `index`; its log forgets what is up to `through`.
    ///
    /// # Errors
    /// The server is down, or a law is broken.
    pub fn snapshot_taken(&mut self, id: NodeId, index: Index, through: Index) -> Moved {
        let term = self.node_mut(id)?.log.term(index).unwrap_or_default();
        let last = EntryId { index, term };
        self.step(id, Event::SnapshotTaken { last, compact_through: through })
    }

    /// The snapshot that this server fetches arrives whole and is durable.
    ///
    /// # Errors
    /// It fetches none, or a law is broken.
    pub fn snapshot_fetched(&mut self, id: NodeId) -> Moved {
        match self.protocol(id).and_then(Protocol::fetching) {
            Some((_, last)) => self.step(id, Event::SnapshotFetched { last }),
            None => impossible(format!("node {id} fetches no snapshot")),
        }
    }

    /// The snapshot that this server fetches is not to be had.
    ///
    /// # Errors
    /// It fetches none, or a law is broken.
    pub fn snapshot_fetch_failed(&mut self, id: NodeId) -> Moved {
        match self.protocol(id).and_then(Protocol::fetching) {
            Some((_, last)) => self.step(id, Event::SnapshotFetchFailed { last }),
            None => impossible(format!("node {id} fetches no snapshot")),
        }
    }

    /// Finishes the fetch of a server whose source is up and in reach; whether there was one.
    pub(super) fn fetch(&mut self, id: NodeId) -> Result<bool, MoveError> {
        let Some((from, _)) = self.protocol(id).and_then(Protocol::fetching) else { return Ok(false) };
        let in_reach = self.network.is_open(from, id) && self.network.is_open(id, from);
        if !in_reach || self.protocol(from).is_none() {
            return Ok(false);
        }
        self.snapshot_fetched(id).map(|()| true)
    }
}
