//! What happens to servers: crashes, restarts, disks that break their promise.

use super::cluster::{Cluster, Moved, Node, impossible};
use super::render;
use crate::action::Write;
use crate::log::{LogView, MemoryLog, RaftLog};
use crate::types::{Entries, HardState, Index, NodeId};
use std::string::String;
use std::vec::Vec;
use std::{format, vec};

impl Cluster {
    /// A server dies. Of the writes in flight the oldest `keep` reached the disk, as may happen.
    ///
    /// # Errors
    /// It is down already, or a law is broken.
    pub fn crash(&mut self, id: NodeId, keep: usize) -> Moved {
        let node = self.node_mut(id)?;
        if node.protocol.take().is_none() {
            return impossible(format!("node {id} is down already"));
        }
        let keep = keep.min(node.in_flight.len());
        let mut kept = node.in_flight.drain(..keep).collect::<Vec<_>>();
        let lost = node.in_flight.len();
        let Ok(()) = node.disk.append(&mut kept);
        let backup = node.backup.take();
        *node = Node::on_disk(node.config.clone(), node.disk.clone());
        node.backup = backup;
        self.checker.crashed(id);
        let of_writes =
            if keep + lost > 0 { format!("; {keep} writes in flight kept, {lost} lost") } else { String::new() };
        self.tell(format!("{id} crashes{of_writes}"));
        Ok(self.check_move(id)?)
    }

    /// A server that is down starts again from its disk.
    ///
    /// # Errors
    /// It runs, or a law is broken.
    pub fn restart(&mut self, id: NodeId) -> Moved {
        let entries_in_memory = self.options.entries_in_memory;
        let node = self.node_mut(id)?;
        if node.protocol.is_some() {
            return impossible(format!("node {id} is running"));
        }
        node.start(entries_in_memory)?;
        let last = node.disk.last();
        #[cfg(feature = "trace")]
        self.record_start(id);
        let node = self.node_mut(id)?;
        let state = render::hard_state(node.disk.hard_state());
        self.tell(format!("{id} restarts {state} last={last}"));
        Ok(self.check_move(id)?)
    }

    /// Replaces a disk and starts the server from it: the state in which a story begins.
    ///
    /// # Errors
    /// A law is broken.
    pub fn give(&mut self, id: NodeId, hard_state: HardState, entries: Entries) -> Moved {
        let mut disk = MemoryLog::new();
        let Ok(()) = disk.append(&mut vec![Write { hard_state: Some(hard_state), entries, ..Write::default() }]);
        let entries_in_memory = self.options.entries_in_memory;
        let node = self.node_mut(id)?;
        *node = Node::on_disk(node.config.clone(), disk);
        node.start(entries_in_memory)?;
        #[cfg(feature = "trace")]
        self.record_start(id);
        self.checker.crashed(id);
        Ok(self.check_move(id)?)
    }

    /// Somebody makes a copy of a server's disk.
    ///
    /// # Errors
    /// There is no such server.
    pub fn back_up(&mut self, id: NodeId) -> Moved {
        let node = self.node_mut(id)?;
        node.backup = Some(node.disk.clone());
        let last = node.disk.last();
        self.tell(format!("{id} is copied: last={last}"));
        Ok(())
    }

    /// The copy takes the place of the disk of a server that is down, and it starts from that.
    ///
    /// # Errors
    /// The server runs, or there is no copy.
    pub fn roll_back(&mut self, id: NodeId) -> Moved {
        let node = self.node_mut(id)?;
        if node.protocol.is_some() {
            return impossible(format!("node {id} is running"));
        }
        let Some(copy) = node.backup.clone() else { return impossible(format!("there is no copy of node {id}")) };
        (node.disk, node.log) = (copy.clone(), copy);
        self.checker.rolled_back(id);
        self.restart(id)
    }

    /// The disk of a server that is down loses its entries from `first` on, against its promise.
    ///
    /// # Errors
    /// The server runs.
    pub fn lose_data(&mut self, id: NodeId, first: Index) -> Moved {
        self.checker.lost_data(id);
        let node = self.node_mut(id)?;
        if node.protocol.is_some() {
            return impossible(format!("node {id} is running"));
        }
        let Ok(()) = node.disk.append(&mut vec![Write { truncate_from: Some(first), ..Write::default() }]);
        node.log = node.disk.clone();
        self.tell(format!("{id} loses its entries from {first} on"));
        Ok(())
    }
}
