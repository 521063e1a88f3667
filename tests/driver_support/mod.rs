//! What the driver's tests share: a state machine, a network, logs that fail on purpose.

#![allow(dead_code)] // Each test file uses its part.

#[cfg(all(feature = "persistence", feature = "testkit"))]
pub(crate) mod part;
pub(crate) mod snapshots;
pub(crate) mod traps;

use bytes::Bytes;
use raft_io::driver::{Applied, DriverOptions, Raft, RequestError};
use raft_io::log::{Locked, Memberships, RaftLog, Read, SharedLog};
use raft_io::transport::{RaftTransport, Receiver};
use raft_io::{
    Entries, EntryId, Envelope, GroupId, HardState, Index, LogView, MemoryLog, Message, NodeId, RaftConfig, RoleKind,
    StateMachine, Term, Write,
};
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Far beyond what anything here takes, so that only a hang reaches it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Remembers what it applied and answers with how many that were.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) applied: Vec<(EntryId, Bytes)>,
    pub(crate) gate: Option<Arc<Gate>>,
}

impl StateMachine for Recorder {
    type Response = usize;

    fn apply(&mut self, id: EntryId, command: &Bytes) -> usize {
        if command.as_ref() == b"panic" {
            panic!("a command that the machine does not survive");
        }
        if let Some(gate) = &self.gate {
            gate.pass();
        }
        self.applied.push((id, command.clone()));
        self.applied.len()
    }
}

/// A gate that threads pass, or wait at while it is shut.
#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<(bool, usize)>,
    changed: Condvar,
}

impl Gate {
    /// A visitor that was missed in vain must not keep a failed test from ending.
    fn state(&self) -> MutexGuard<'_, (bool, usize)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn pass(&self) {
        let mut state = self.state();
        state.1 += 1;
        self.changed.notify_all();
        while state.0 {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.1 -= 1;
    }

    pub(crate) fn shut(&self) {
        self.state().0 = true;
    }

    pub(crate) fn open(&self) {
        self.state().0 = false;
        self.changed.notify_all();
    }

    /// Waits until a thread stands at the shut gate.
    pub(crate) fn wait_for_visitor(&self) {
        let mut state = self.state();
        while !(state.0 && state.1 > 0) {
            let (guard, timeout) = self.changed.wait_timeout(state, PATIENCE).unwrap();
            assert!(!timeout.timed_out(), "nobody came to the gate");
            state = guard;
        }
    }
}

/// A network in this process that can be partitioned.
#[derive(Clone, Default)]
pub(crate) struct Network {
    shared: Arc<Mutex<Shared>>,
    sent: Arc<Condvar>,
}

#[derive(Default)]
struct Shared {
    inboxes: BTreeMap<NodeId, Sender<(GroupId, Envelope)>>,
    alone: Vec<NodeId>,
    /// Cut off together from all others.
    apart: Vec<NodeId>,
    /// Messages sent by each node since the start, delivered or not.
    sent: BTreeMap<NodeId, usize>,
    /// Appends without entries, of all nodes since the start.
    heartbeats: usize,
    /// Questions about reads since the start: who asked, and the context.
    questions: Vec<(NodeId, u64)>,
    /// Answers to such questions that each node has taken since the start.
    answers: BTreeMap<NodeId, usize>,
}

impl Network {
    pub(crate) fn transport(&self, id: impl Into<NodeId>) -> Link {
        Link { id: id.into(), network: self.clone(), thread: Arc::default() }
    }

    /// Cuts these nodes off from everyone, each other included.
    pub(crate) fn isolate(&self, nodes: &[NodeId]) {
        self.shared.lock().unwrap().alone = nodes.to_vec();
    }

    /// Cuts these nodes off from the others, and not from each other.
    pub(crate) fn partition(&self, nodes: &[NodeId]) {
        self.shared.lock().unwrap().apart = nodes.to_vec();
    }

    pub(crate) fn heal(&self) {
        self.isolate(&[]);
        self.partition(&[]);
    }

    pub(crate) fn heartbeats(&self) -> usize {
        self.shared.lock().unwrap().heartbeats
    }

    /// The contexts of all questions about reads that this node asked its leaders, in order.
    pub(crate) fn questions_of(&self, id: NodeId) -> Vec<u64> {
        let shared = self.shared.lock().unwrap();
        shared.questions.iter().filter(|(from, _)| *from == id).map(|(_, context)| *context).collect()
    }

    pub(crate) fn sent_by(&self, id: NodeId) -> usize {
        self.shared.lock().unwrap().sent.get(&id).copied().unwrap_or(0)
    }

    /// Waits until the node has sent `more` messages from now on.
    pub(crate) fn wait_sent(&self, id: NodeId, more: usize) {
        let enough = self.sent_by(id) + more;
        self.wait_until(&format!("node {id} is silent"), |shared| shared.sent.get(&id) >= Some(&enough));
    }

    /// Waits until each of these nodes has taken an answer to a question about reads.
    pub(crate) fn wait_answered(&self, ids: &[NodeId]) {
        self.wait_until("no answer to a read", |shared| ids.iter().all(|id| shared.answers.contains_key(id)));
    }

    fn wait_until(&self, problem: &str, holds: impl Fn(&Shared) -> bool) {
        let mut shared = self.shared.lock().unwrap();
        while !holds(&shared) {
            let (guard, timeout) = self.sent.wait_timeout(shared, PATIENCE).unwrap();
            assert!(!timeout.timed_out(), "{problem}");
            shared = guard;
        }
    }
}

pub(crate) struct Link {
    id: NodeId,
    network: Network,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl RaftTransport for Link {
    fn start(&self, receiver: Arc<dyn Receiver>) {
        let (sender, inbox) = mpsc::channel();
        self.network.shared.lock().unwrap().inboxes.insert(self.id, sender);
        let network = self.network.clone();
        let deliver = move || {
            for (group, envelope) in inbox {
                let [from, to] = [envelope.from, envelope.to];
                let passes = {
                    let shared = network.shared.lock().unwrap();
                    let [alone, apart] = [&shared.alone, &shared.apart];
                    !alone.contains(&from) && !alone.contains(&to) && apart.contains(&from) == apart.contains(&to)
                };
                if passes {
                    let answers = matches!(envelope.message, Message::ReadIndexResponse(_));
                    receiver.receive(group, envelope);
                    if answers {
                        *network.shared.lock().unwrap().answers.entry(to).or_default() += 1;
                        network.sent.notify_all();
                    }
                }
            }
        };
        *self.thread.lock().unwrap() = Some(thread::spawn(deliver));
    }

    fn send(&self, group: GroupId, envelope: Envelope) {
        let mut shared = self.network.shared.lock().unwrap();
        *shared.sent.entry(self.id).or_default() += 1;
        match &envelope.message {
            Message::AppendEntriesRequest(request) if request.entries.is_empty() => shared.heartbeats += 1,
            Message::ReadIndexRequest(request) => shared.questions.push((self.id, request.context)),
            _ => {}
        }
        self.network.sent.notify_all();
        if let Some(inbox) = shared.inboxes.get(&envelope.to) {
            // A node that is gone receives nothing.
            let _ = inbox.send((group, envelope));
        }
    }

    fn client_address(&self, peer: NodeId) -> Option<String> {
        Some(format!("client-of-{peer}"))
    }

    fn shutdown(&self) {
        self.network.shared.lock().unwrap().inboxes.remove(&self.id);
        if let Some(thread) = self.thread.lock().unwrap().take() {
            thread.join().unwrap();
        }
    }
}

/// A log in memory whose writer can be held up or fail; reads never wait for it.
pub(crate) struct FaultyLog {
    log: Locked<MemoryLog>,
    faults: Arc<Faults>,
}

#[derive(Default)]
pub(crate) struct Faults {
    /// Syncs wait here while it is shut.
    pub(crate) sync_gate: Gate,
    /// The next sync fails, once.
    pub(crate) fail_sync: AtomicBool,
    /// Every read from the medium fails, for good.
    pub(crate) fail_reads: AtomicBool,
    /// So many reads from the medium fail for want of a descriptor; how many were there.
    pub(crate) unreadable: AtomicUsize,
    pub(crate) medium_reads: AtomicUsize,
    /// The second entry of what is read and the last one change places, or the second is missing.
    pub(crate) scrambled: AtomicBool,
    pub(crate) gap: AtomicBool,
    /// The medium has too little space.
    pub(crate) short_of_space: AtomicBool,
    /// Nothing is answered from memory.
    pub(crate) cold: AtomicBool,
    pub(crate) syncs: AtomicUsize,
    pub(crate) appends: AtomicUsize,
}

impl Faults {
    fn disorder(&self, entries: Entries) -> Entries {
        let mut listed: Vec<_> = entries.iter().cloned().collect();
        let last = listed.len() - 1;
        if self.scrambled.load(Ordering::SeqCst) {
            listed.swap(1, last);
        }
        if self.gap.load(Ordering::SeqCst) {
            listed.remove(1);
        }
        listed.into_iter().collect()
    }
}

impl FaultyLog {
    pub(crate) fn new() -> (Self, Arc<Faults>) {
        let faults = Arc::<Faults>::default();
        (Self { log: Locked::default(), faults: faults.clone() }, faults)
    }
}

#[derive(Clone)]
pub(crate) struct FaultyReader {
    log: Locked<MemoryLog>,
    faults: Arc<Faults>,
}

macro_rules! log_view {
    ($name:ident) => {
        impl LogView for $name {
            fn hard_state(&self) -> HardState {
                self.log.hard_state()
            }

            fn base(&self) -> EntryId {
                self.log.base()
            }

            fn snapshot(&self) -> EntryId {
                self.log.snapshot()
            }

            fn memberships(&self) -> Memberships {
                self.log.memberships()
            }

            fn last(&self) -> EntryId {
                self.log.last()
            }

            fn term(&self, index: Index) -> Option<Term> {
                self.log.term(index)
            }

            fn read(&self, first: Index, end: Index, bytes_max: usize) -> Read {
                match self.log.read(first, end, bytes_max) {
                    Read::Entries(entries) if !entries.is_empty() && self.faults.cold.load(Ordering::SeqCst) => {
                        Read::Cold
                    }
                    Read::Entries(entries) if entries.len() > 2 => Read::Entries(self.faults.disorder(entries)),
                    read => read,
                }
            }
        }
    };
}

log_view!(FaultyLog);
log_view!(FaultyReader);

impl RaftLog for FaultyLog {
    type Error = io::Error;

    fn append(&mut self, writes: &mut Vec<Write>) -> io::Result<()> {
        self.faults.appends.fetch_add(1, Ordering::SeqCst);
        self.log.append(writes).map_err(io::Error::other)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.faults.sync_gate.pass();
        self.faults.syncs.fetch_add(1, Ordering::SeqCst);
        if self.faults.fail_sync.swap(false, Ordering::SeqCst) {
            return Err(io::Error::other("injected: the disk is gone"));
        }
        Ok(())
    }

    fn is_short_of_space(&self) -> bool {
        self.faults.short_of_space.load(Ordering::SeqCst)
    }

    fn read_blocking(&self, first: Index, end: Index, bytes_max: usize) -> io::Result<Read> {
        FaultyLog::read_cold(&self.reader(), first, end, bytes_max)
    }

    fn is_transient(error: &io::Error) -> bool {
        error.to_string().contains("too many open files")
    }
}

impl SharedLog for FaultyLog {
    type Reader = FaultyReader;

    fn reader(&self) -> FaultyReader {
        FaultyReader { log: self.log.clone(), faults: self.faults.clone() }
    }

    fn read_cold(reader: &FaultyReader, first: Index, end: Index, bytes_max: usize) -> io::Result<Read> {
        if reader.faults.fail_reads.load(Ordering::SeqCst) {
            return Err(io::Error::other("injected: the sector is unreadable"));
        }
        reader.faults.medium_reads.fetch_add(1, Ordering::SeqCst);
        let left = |left: usize| left.checked_sub(1);
        if reader.faults.unreadable.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left).is_ok() {
            return Err(io::Error::other("injected: too many open files"));
        }
        Ok(reader.log.read(first, end, bytes_max))
    }
}

/// A configuration with timeouts that a busy machine keeps.
pub(crate) fn config(id: u64, voters: &[u64]) -> RaftConfig {
    let mut config = RaftConfig::new(id, voters.iter().copied());
    config.joins = voters.is_empty();
    config.tick = Duration::from_millis(10);
    config.election_ticks = 30;
    config
}

pub(crate) struct Cluster {
    pub(crate) network: Network,
    pub(crate) nodes: BTreeMap<NodeId, Raft<Recorder>>,
    pub(crate) faults: BTreeMap<NodeId, Arc<Faults>>,
    pub(crate) gates: BTreeMap<NodeId, Arc<Gate>>,
}

/// A test that fails lets its nodes end.
impl Drop for Cluster {
    fn drop(&mut self) {
        self.gates.values().for_each(|gate| gate.open());
        self.faults.values().for_each(|faults| faults.sync_gate.open());
    }
}

impl Cluster {
    pub(crate) fn start(size: u64) -> Self {
        Self::start_with(size, DriverOptions::default())
    }

    pub(crate) fn start_with(size: u64, options: DriverOptions) -> Self {
        Self::start_configured(size, options, |_| {})
    }

    pub(crate) fn start_configured(size: u64, options: DriverOptions, change: impl Fn(&mut RaftConfig)) -> Self {
        let ids: Vec<u64> = (1..=size).collect();
        let mut cluster = Self {
            network: Network::default(),
            nodes: BTreeMap::new(),
            faults: BTreeMap::new(),
            gates: BTreeMap::new(),
        };
        for &id in &ids {
            let (log, faults) = FaultyLog::new();
            let gate = Arc::<Gate>::default();
            let machine = Recorder { gate: Some(gate.clone()), ..Recorder::default() };
            let transport = cluster.network.transport(id);
            let mut config = config(id, &ids);
            change(&mut config);
            let raft = Raft::start_with(config, options.clone(), log, transport, machine).unwrap();
            cluster.nodes.insert(id.into(), raft);
            cluster.faults.insert(id.into(), faults);
            cluster.gates.insert(id.into(), gate);
        }
        cluster
    }

    /// Waits for a leader among these nodes that has committed an entry of its term.
    pub(crate) fn leader_among(&self, ids: impl IntoIterator<Item = NodeId>) -> NodeId {
        let ids: Vec<NodeId> = ids.into_iter().collect();
        let first = &self.nodes[&ids[0]];
        let found = first.wait_for(PATIENCE, |status| {
            let Some(leader) = &status.leader else { return false };
            ids.contains(&leader.id) && {
                let its = self.nodes[&leader.id].status();
                its.role == RoleKind::Leader && its.term == status.term && status.commit_index > Index::ZERO
            }
        });
        found.unwrap().leader.unwrap().id
    }

    pub(crate) fn leader(&self) -> NodeId {
        self.leader_among(self.nodes.keys().copied())
    }

    pub(crate) fn followers(&self, leader: NodeId) -> Vec<NodeId> {
        self.nodes.keys().copied().filter(|&id| id != leader).collect()
    }

    pub(crate) fn wait_applied(&self, id: NodeId, index: Index) {
        self.nodes[&id].wait_for(PATIENCE, |status| status.applied_index >= index).unwrap();
    }
}

/// A node of its own with a log that can fail.
pub(crate) fn single(options: DriverOptions) -> (Raft<Recorder>, Arc<Faults>, Network) {
    let (log, faults) = FaultyLog::new();
    let network = Network::default();
    let raft = Raft::start_with(config(1, &[1]), options, log, network.transport(1), Recorder::default()).unwrap();
    raft.wait_for(PATIENCE, |status| status.role == RoleKind::Leader && status.applied_index >= Index(1)).unwrap();
    (raft, faults, network)
}

pub(crate) fn propose(raft: &Raft<Recorder>, command: &'static str) -> Result<Applied<usize>, RequestError> {
    raft.propose(command).wait(PATIENCE)
}

struct Unpark(thread::Thread, AtomicUsize);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.unpark();
    }
}

/// Runs a future on this thread. Its output, and how often it was woken.
pub(crate) fn block_on<F: Future>(future: F) -> (F::Output, usize) {
    let unpark = Arc::new(Unpark(thread::current(), AtomicUsize::new(0)));
    let waker = Waker::from(unpark.clone());
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return (output, unpark.1.load(Ordering::SeqCst)),
            Poll::Pending => thread::park(),
        }
    }
}
