//! How a node ends for its clients: it answers the requests that it has, and then closes their connections.
//!
//! A node that is told to stop first hands its leadership over. Meanwhile it serves everybody as before: it proposes nothing
//! any more, so clients' batches wait and go to the next leader, and other nodes are told that nothing ran. Then it closes:
//! each connection answers what has arrived, tells its client with the next answer that the node stops and nothing ran, and
//! ends. A client that asks for nothing in a tenth of a second finds the connection ended. On a lane, the last word says that
//! whatever comes next did not run, so a node whose batch crossed it on the way asks the next leader.

use raft_io::NodeId;
use std::collections::BTreeMap;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// The connections of a node and whether they are to end.
#[derive(Default)]
pub(crate) struct Ending {
    /// Written under the lock.
    closing: AtomicBool,
    /// Who led when the driver stopped; set before the connections close.
    next_leader: OnceLock<NodeId>,
    open: Mutex<BTreeMap<u64, Arc<TcpStream>>>,
    left: Condvar,
}

/// A connection that the end of the node waits for, until this is dropped.
pub(crate) struct Entered<'a> {
    ending: &'a Ending,
    id: u64,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.ending.lock().remove(&self.id);
        self.ending.left.notify_all();
    }
}

impl Ending {
    /// Adds a connection under a number of its own; `None` once the node closes them.
    pub(crate) fn enter(&self, id: u64, stream: &Arc<TcpStream>) -> Option<Entered<'_>> {
        let mut open = self.lock();
        if self.is_closing() {
            return None;
        }
        open.insert(id, Arc::clone(stream));
        Some(Entered { ending: self, id })
    }

    /// The driver has stopped: this node learns of no further leader, and connections end as soon as they can.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    /// Who led when the driver stopped, which knows of no leader any more.
    pub(crate) fn next_leader(&self) -> Option<NodeId> {
        self.next_leader.get().copied()
    }

    /// Has every connection answer what it took, with the help of this leader, and end. Returns once all have, or after
    /// `longest`.
    pub(crate) fn close(&self, next_leader: Option<NodeId>, longest: Duration) {
        if let Some(leader) = next_leader {
            let _ = self.next_leader.set(leader);
        }
        let deadline = Instant::now() + longest;
        let mut open = self.lock();
        self.closing.store(true, Ordering::SeqCst);
        for stream in open.values() {
            // Wakes a thread that waits for a request. One that the client has closed meanwhile ends by itself.
            let _ = stream.shutdown(Shutdown::Read);
        }
        while !open.is_empty() {
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                return;
            }
            open = self.left.wait_timeout(open, remaining).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<TcpStream>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
