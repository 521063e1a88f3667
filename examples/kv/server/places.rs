//! Who may be connected: so many clients, and the other nodes whatever the clients do.
//!
//! Every connection costs a file descriptor, and the log and the transport need theirs: a log that
//! cannot create its next segment stops for good. So the places are fitted to what the system grants, and
//! a node for which it grants too few does not start.

use super::forward;
use super::limits;
use std::io::{self, Read};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// What the log, a lane's reconnection and the process itself open at a time, generously.
const OWN_DESCRIPTORS: usize = 32;
/// For how many other nodes there is room at least: clusters grow.
const PEERS_EXPECTED: usize = 4;
/// What the transport opens for each peer: two connections, and their successors.
const DESCRIPTORS_PER_PEER: usize = 4;
/// For fewer clients a node does not start.
const CLIENTS_LEAST: usize = 8;
/// A connection beyond the clients' places says within this time that it is a node's, or leaves.
const INTRODUCTION_MAX: Duration = Duration::from_secs(1);

/// The places of a node.
pub(crate) struct Places {
    clients_max: usize,
    clients: Arc<AtomicUsize>,
    nodes_max: usize,
    nodes: Arc<AtomicUsize>,
}

/// A place among the connections, given back when it is dropped, however its thread ends.
pub(crate) struct Place {
    taken: Arc<AtomicUsize>,
    /// Only for another node.
    pub(crate) for_node: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many lanes so many nodes may have here, or the few that a cluster grows to. A lane's successor may come before its
/// predecessor is seen to have gone.
pub(crate) fn lanes_max(nodes: usize) -> usize {
    2 * forward::LANES * nodes.max(PEERS_EXPECTED)
}

impl Places {
    /// Places for `clients_wanted` clients, or fewer if the system grants no more descriptors, and for
    /// the lanes of `peers` nodes. Everything else that stays open is open already.
    ///
    /// # Errors
    /// It grants too few for a node that works, and this is what to do.
    pub(crate) fn new(
        listener: &TcpListener,
        clients_wanted: usize,
        peers: usize,
        handshakes_max: usize,
    ) -> Result<Self, String> {
        let (nodes_max, peers) = (lanes_max(peers), peers.max(PEERS_EXPECTED));
        let own = OWN_DESCRIPTORS + handshakes_max + DESCRIPTORS_PER_PEER * peers;
        let wanted = clients_wanted.saturating_add(nodes_max + own);
        let least = CLIENTS_LEAST.min(clients_wanted) + nodes_max + own;
        let granted = descriptors_granted(listener, wanted);
        if granted < least {
            let limit = limits::open_files_max().map_or(String::new(), |limit| format!(" of {limit}"));
            let taken = limits::open_files_max().map_or(0, |limit| (limit as usize).saturating_sub(granted));
            return Err(format!(
                "the limit{limit} on open files leaves room for {granted} more, and a node needs {least} at least: {own} \
                 for its log and the other nodes' messages, {nodes_max} for the commands that they forward, the rest for \
                 clients; start it with ulimit -n {}, or {} for the {clients_wanted} clients of --connections-max",
                taken + least,
                taken + wanted,
            ));
        }
        let clients_max = clients_wanted.min(granted - (nodes_max + own));
        Ok(Self { clients_max, clients: Arc::default(), nodes_max, nodes: Arc::default() })
    }

    /// How many clients may be connected.
    pub(crate) fn clients_max(&self) -> usize {
        self.clients_max
    }

    /// How many connections have a place.
    pub(crate) fn taken(&self) -> usize {
        self.clients.load(Ordering::Relaxed) + self.nodes.load(Ordering::Relaxed)
    }

    /// A place for a client, or else one for a node.
    pub(crate) fn take(&self) -> Option<Place> {
        let take = |taken: &Arc<AtomicUsize>, max, for_node| {
            let place = Place { taken: Arc::clone(taken), for_node };
            (taken.fetch_add(1, Ordering::Relaxed) < max).then_some(place)
        };
        take(&self.clients, self.clients_max, false).or_else(|| take(&self.nodes, self.nodes_max, true))
    }
}

/// How many descriptors the system grants now, at most `wanted`: found out by taking them.
fn descriptors_granted(listener: &TcpListener, wanted: usize) -> usize {
    let taken: Vec<TcpListener> = (0..wanted).map_while(|_| listener.try_clone().ok()).collect();
    taken.len()
}

/// Whether the other side begins as a node's lane does. A lane's first request leaves in one write, so
/// its start comes in one piece.
pub(crate) fn speaks_as_a_node(mut stream: &TcpStream) -> io::Result<bool> {
    let mut start = [0; 64];
    stream.set_read_timeout(Some(INTRODUCTION_MAX))?;
    let count = stream.peek(&mut start)?;
    stream.set_read_timeout(None)?;
    let name = forward::REQUEST_NAME;
    let is_node = start[..count].windows(name.len()).any(|window| window == name);
    if !is_node {
        // Closing on bytes that nobody read would take the refusal back.
        let _ = stream.read(&mut [0; 4096])?;
    }
    Ok(is_node)
}
