//! A network in memory: for tests, examples and clusters within one process.
//!
//! Messages are handed over as they are, without frames. Each node has one thread that delivers to
//! it, in the order in which its messages were sent, and one bounded queue; a full queue loses the
//! newest message, as a network would.

use super::queue::{BoundedQueue, Popped};
use super::{AttachError, FetchError, RaftTransport, Receiver, message_cost};
use crate::message::Envelope;
use crate::snapshot::{Chunk, ChunkRequest};
use crate::threads;
use crate::types::{GroupId, Identity, NodeId};
use std::boxed::Box;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The most messages that wait for one node.
const INBOX_MESSAGES_MAX: usize = 65_536;
/// The most bytes that wait for one node.
const INBOX_BYTES_MAX: usize = 256 << 20;

type Filter = Box<dyn Fn(GroupId, &Envelope) -> bool + Send + Sync>;

/// A network that connects every [`MemoryTransport`] made from it, and can be broken on purpose.
///
/// Clones are handles to the same network.
#[derive(Clone, Default)]
pub struct MemoryNetwork {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    links: RwLock<Links>,
    delivered: AtomicU64,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Links {
    inboxes: BTreeMap<NodeId, Arc<Inbox>>,
    /// Who answers for a node that has started, and by which inbox it is known.
    receivers: BTreeMap<NodeId, (Arc<Inbox>, Arc<dyn Receiver>)>,
    /// One-way links that carry nothing.
    cut: BTreeSet<(NodeId, NodeId)>,
    /// One side of a partition; everyone else is on the other.
    side: Option<BTreeSet<NodeId>>,
    filter: Option<Filter>,
}

type Inbox = BoundedQueue<(GroupId, Envelope)>;

impl Links {
    fn carries(&self, group: GroupId, envelope: &Envelope) -> bool {
        self.is_open(envelope.from, envelope.to) && !self.filter.as_ref().is_some_and(|drops| drops(group, envelope))
    }

    fn is_open(&self, from: NodeId, to: NodeId) -> bool {
        let apart = self.side.as_ref().is_some_and(|side| side.contains(&from) != side.contains(&to));
        !apart && !self.cut.contains(&(from, to))
    }

    /// Forgets who answers for a node, unless another has taken over from it.
    fn silence(&mut self, id: NodeId, inbox: &Arc<Inbox>) -> Option<Arc<dyn Receiver>> {
        let own = self.receivers.get(&id).is_some_and(|(current, _)| Arc::ptr_eq(current, inbox));
        if own { self.receivers.remove(&id).map(|(_, receiver)| receiver) } else { None }
    }
}

impl MemoryNetwork {
    /// A network without nodes and without faults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The transport of one node. A second one for the same node takes over from the first, as
    /// after a restart: the first receives nothing any more.
    pub fn transport(&self, id: impl Into<NodeId>) -> MemoryTransport {
        let id = id.into();
        let inbox = Arc::new(BoundedQueue::new(INBOX_MESSAGES_MAX, INBOX_BYTES_MAX));
        let before = self.write_links(|links| links.inboxes.insert(id, Arc::clone(&inbox)));
        if let Some(before) = before {
            drop(self.write_links(|links| links.silence(id, &before)));
            self.count_dropped(before.close());
        }
        MemoryTransport {
            node: Arc::new(Node {
                id,
                network: self.clone(),
                inbox,
                delivery: Mutex::new(None),
                attached: AtomicBool::new(false),
            }),
        }
    }

    /// Cuts every link, in both directions, between the nodes named and all others. A further call
    /// replaces the partition before it.
    pub fn partition<I>(&self, side: I)
    where
        I: IntoIterator,
        I::Item: Into<NodeId>,
    {
        let side = side.into_iter().map(Into::into).collect();
        self.write_links(|links| links.side = Some(side));
    }

    /// Cuts the link from one node to another, in this direction only.
    pub fn cut(&self, from: impl Into<NodeId>, to: impl Into<NodeId>) {
        let link = (from.into(), to.into());
        self.write_links(|links| links.cut.insert(link));
    }

    /// Drops every message (and no snapshot) for which `filter` returns true, in place of the filter before. It is
    /// asked when a message is sent and again when it is delivered, under a lock: it must not call
    /// the network.
    pub fn drop_if(&self, filter: impl Fn(GroupId, &Envelope) -> bool + Send + Sync + 'static) {
        self.write_links(|links| links.filter = Some(Box::new(filter)));
    }

    /// Mends everything: no partition, no cut, no filter.
    pub fn heal(&self) {
        self.write_links(|links| {
            links.cut.clear();
            links.side = None;
            links.filter = None;
        });
    }

    /// How many messages were handed to a receiver.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.shared.delivered.load(Ordering::Relaxed)
    }

    /// How many messages were lost, to faults, to full queues or to nodes that are not there.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    fn write_links<R>(&self, change: impl FnOnce(&mut Links) -> R) -> R {
        change(&mut self.shared.links.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn carries(&self, group: GroupId, envelope: &Envelope) -> bool {
        self.shared.links.read().unwrap_or_else(PoisonError::into_inner).carries(group, envelope)
    }

    fn post(&self, group: GroupId, envelope: Envelope) {
        let links = self.shared.links.read().unwrap_or_else(PoisonError::into_inner);
        let inbox = links.inboxes.get(&envelope.to).filter(|_| links.carries(group, &envelope)).cloned();
        drop(links);
        let cost = message_cost(&envelope.message);
        if inbox.is_none_or(|inbox| inbox.push((group, envelope), cost).is_err()) {
            self.count_dropped(1);
        }
    }

    fn count_dropped(&self, messages: usize) {
        self.shared.dropped.fetch_add(messages as u64, Ordering::Relaxed);
    }
}

impl fmt::Debug for MemoryNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let links = self.shared.links.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("MemoryNetwork")
            .field("nodes", &links.inboxes.keys())
            .field("cut", &links.cut)
            .field("side", &links.side)
            .finish_non_exhaustive()
    }
}

/// One node's access to a [`MemoryNetwork`]. Clones are handles to the same node.
#[derive(Clone)]
pub struct MemoryTransport {
    node: Arc<Node>,
}

struct Node {
    id: NodeId,
    network: MemoryNetwork,
    inbox: Arc<Inbox>,
    delivery: Mutex<Option<JoinHandle<()>>>,
    /// A node starts on it, or has started.
    attached: AtomicBool,
}

/// A transport that nobody holds any more delivers nothing any more.
impl Drop for Node {
    fn drop(&mut self) {
        self.close();
    }
}

impl Node {
    fn close(&self) {
        // Dropped outside the lock: it may hold on to a transport.
        drop(self.network.write_links(|links| links.silence(self.id, &self.inbox)));
        self.network.count_dropped(self.inbox.close());
    }
}

impl MemoryTransport {
    /// The node whose transport this is.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.node.id
    }

    fn delivery(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.node.delivery.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RaftTransport for MemoryTransport {
    fn attach(&self, _: GroupId) -> Result<(), AttachError> {
        if self.node.attached.swap(true, Ordering::SeqCst) { Err(AttachError::InUse) } else { Ok(()) }
    }

    fn start(&self, receiver: Arc<dyn Receiver>) {
        self.try_start(receiver).expect("the system can start a thread");
    }

    fn try_start(&self, receiver: Arc<dyn Receiver>) -> io::Result<()> {
        let (network, inbox) = (self.node.network.clone(), Arc::clone(&self.node.inbox));
        let mut delivery = self.delivery();
        assert!(delivery.is_none(), "start is called once");
        let answering = (Arc::clone(&self.node.inbox), Arc::clone(&receiver));
        self.node.network.write_links(|links| {
            // Shut down or replaced before it began, it answers nothing.
            let current = links.inboxes.get(&self.node.id).is_some_and(|inbox| Arc::ptr_eq(inbox, &answering.0));
            if current && !answering.0.is_closed() {
                links.receivers.insert(self.node.id, answering);
            }
        });
        let name = std::format!("raft-memory-{}", self.node.id);
        *delivery = Some(threads::spawn(name, move || deliver(&network, &inbox, &*receiver))?);
        Ok(())
    }

    fn identity(&self) -> Identity {
        Identity { node: Some(self.node.id), ..Identity::default() }
    }

    fn send(&self, group: GroupId, envelope: Envelope) {
        if envelope.from == self.node.id && !self.node.inbox.is_closed() {
            self.node.network.post(group, envelope);
        } else {
            self.node.network.count_dropped(1);
        }
    }

    /// Asks the other node's receiver on the caller's thread; never waits for anything else.
    fn fetch_chunk(
        &self,
        group: GroupId,
        from: NodeId,
        request: ChunkRequest,
        timeout: Duration,
    ) -> Result<Chunk, FetchError> {
        let _ = timeout;
        let (own, network) = (self.node.id, &self.node.network);
        let connected = || {
            if self.node.inbox.is_closed() {
                return Err(FetchError::Shutdown);
            }
            let links = network.shared.links.read().unwrap_or_else(PoisonError::into_inner);
            let open = links.is_open(own, from) && links.is_open(from, own);
            let receiver = links.receivers.get(&from).filter(|_| open).map(|(_, receiver)| Arc::clone(receiver));
            receiver.ok_or_else(|| FetchError::Unreachable { reason: "there is no way to it".into() })
        };
        let answer = connected()?.snapshot_chunk(group, own, request);
        // An answer in flight when a link breaks is lost with it.
        connected()?;
        answer.ok_or(FetchError::NotFound)
    }

    /// All nodes of a process are of one version.
    fn knows_histories(&self, _: NodeId) -> bool {
        true
    }

    fn shutdown(&self) {
        self.node.close();
        let handle = self.delivery().take();
        // A receiver that shuts its own transport down would wait for itself.
        if let Some(handle) = handle.filter(|handle| handle.thread().id() != thread::current().id()) {
            // A receiver that panicked has said so on its own thread; there is nobody left to tell.
            let _ = handle.join();
        }
    }
}

impl fmt::Debug for MemoryTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryTransport").field("id", &self.node.id).finish_non_exhaustive()
    }
}

fn deliver(network: &MemoryNetwork, inbox: &Inbox, receiver: &dyn Receiver) {
    let mut batch = VecDeque::new();
    while inbox.pop_all(&mut batch, None) != Popped::Closed {
        for (group, envelope) in batch.drain(..) {
            // A message in flight when a link breaks is lost with it.
            if !inbox.is_closed() && network.carries(group, &envelope) {
                network.shared.delivered.fetch_add(1, Ordering::Relaxed);
                receiver.receive(group, envelope);
            } else {
                network.count_dropped(1);
            }
        }
    }
}
