//! A state machine, a log, a transport and a store that panic where a test wants them to.

use super::{Gate, PATIENCE, config};
use bytes::Bytes;
use raft_io::driver::{CodePlace, DriverOptions, Raft, SnapshotImage, Snapshots, StartError, Status};
use raft_io::log::{Locked, LogView, Memberships, RaftLog, Read, SharedLog};
use raft_io::snapshot::{
    Chunk, ChunkRequest, MemorySnapshots, ReceiveError, SnapshotError, SnapshotInfo, SnapshotReader, SnapshotReceiver,
    SnapshotStore, SnapshotWriter,
};
use raft_io::transport::{FetchError, MemoryNetwork, MemoryTransport, MessageLimits, RaftTransport, Receiver};
use raft_io::{EntryId, Envelope, GroupId, HardState, Index, MemoryLog, NodeId, RoleKind, StateMachine, Term, Write};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::panic::panic_any;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Where the next panic is to be, once.
#[derive(Default)]
pub(crate) struct Trap {
    armed: Mutex<Option<(CodePlace, usize)>>,
    /// What the panic carries panics in turn when it is dropped.
    pub(crate) bomb: AtomicBool,
    pub(crate) sprung: AtomicUsize,
    /// Nothing is read from memory.
    pub(crate) cold: AtomicBool,
    pub(crate) applying: Gate,
}

/// Panics when it is dropped.
pub(crate) struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !thread::panicking() {
            panic!("what a panic carried panics as well");
        }
    }
}

impl Trap {
    pub(crate) fn arm(&self, place: CodePlace) {
        self.arm_after(place, 0);
    }

    /// The panic comes with the call after so many.
    pub(crate) fn arm_after(&self, place: CodePlace, calls: usize) {
        *self.armed.lock().unwrap() = Some((place, calls));
    }

    pub(crate) fn spring(&self, place: CodePlace) {
        if thread::panicking() {
            return;
        }
        let mut armed = self.armed.lock().unwrap();
        match &mut *armed {
            Some((at, 0)) if *at == place => *armed = None,
            Some((at, calls)) if *at == place => {
                *calls -= 1;
                return;
            }
            _ => return,
        }
        drop(armed);
        self.sprung.fetch_add(1, Ordering::SeqCst);
        if self.bomb.load(Ordering::SeqCst) {
            panic_any(Bomb);
        }
        panic!("injected at {place}");
    }
}

/// Panics at its end, if the trap is set for that.
pub(crate) struct Ending(pub(crate) Arc<Trap>, pub(crate) CodePlace);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.spring(self.1);
    }
}

/// Answers with how many commands it has applied.
pub(crate) struct Machine {
    commands: Arc<Vec<Bytes>>,
    trap: Arc<Trap>,
    _end: Ending,
}

pub(crate) struct Reply(pub(crate) usize, Ending);

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl StateMachine for Machine {
    type Response = Reply;

    fn apply(&mut self, _: EntryId, command: &Bytes) -> Reply {
        self.trap.applying.pass();
        self.trap.spring(CodePlace::Apply);
        Arc::make_mut(&mut self.commands).push(command.clone());
        Reply(self.commands.len(), Ending(self.trap.clone(), CodePlace::AnswerDrop))
    }

    fn snapshot(&mut self) -> Option<SnapshotImage> {
        self.trap.spring(CodePlace::Snapshot);
        let (commands, trap) = (self.commands.clone(), self.trap.clone());
        Some(SnapshotImage::new(move |out| {
            trap.spring(CodePlace::Image);
            commands.iter().try_for_each(|_| out.write_all(&[0; 100]))
        }))
    }

    fn restore(&mut self, content: &mut dyn io::Read) -> io::Result<()> {
        self.trap.spring(CodePlace::Restore);
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes)?;
        self.commands = Arc::new(vec![Bytes::from_static(b"x"); bytes.len() / 100]);
        Ok(())
    }
}

pub(crate) struct Log {
    log: Locked<MemoryLog>,
    trap: Arc<Trap>,
    _end: Ending,
}

impl Log {
    fn new(log: Locked<MemoryLog>, trap: &Arc<Trap>) -> Self {
        Self { log, trap: trap.clone(), _end: Ending(trap.clone(), CodePlace::LogDrop) }
    }
}

impl Clone for Log {
    fn clone(&self) -> Self {
        Self::new(self.log.clone(), &self.trap)
    }
}

impl LogView for Log {
    fn hard_state(&self) -> HardState {
        self.trap.spring(CodePlace::LogView);
        self.log.hard_state()
    }

    fn base(&self) -> EntryId {
        self.trap.spring(CodePlace::LogView);
        self.log.base()
    }

    fn snapshot(&self) -> EntryId {
        self.trap.spring(CodePlace::LogView);
        self.log.snapshot()
    }

    fn memberships(&self) -> Memberships {
        self.trap.spring(CodePlace::LogView);
        self.log.memberships()
    }

    fn last(&self) -> EntryId {
        self.trap.spring(CodePlace::LogView);
        self.log.last()
    }

    fn term(&self, index: Index) -> Option<Term> {
        self.trap.spring(CodePlace::LogView);
        self.log.term(index)
    }

    fn read(&self, first: Index, end: Index, bytes_max: usize) -> Read {
        self.trap.spring(CodePlace::LogView);
        match self.log.read(first, end, bytes_max) {
            Read::Entries(entries) if !entries.is_empty() && self.trap.cold.load(Ordering::SeqCst) => Read::Cold,
            read => read,
        }
    }
}

impl RaftLog for Log {
    type Error = Infallible;

    fn append(&mut self, writes: &mut Vec<Write>) -> Result<(), Infallible> {
        self.trap.spring(CodePlace::LogAppend);
        self.log.append(writes)
    }

    fn sync(&mut self) -> Result<(), Infallible> {
        self.trap.spring(CodePlace::LogSync);
        self.log.sync()
    }

    fn read_blocking(&self, first: Index, end: Index, bytes_max: usize) -> Result<Read, Infallible> {
        self.log.read_blocking(first, end, bytes_max)
    }
}

impl SharedLog for Log {
    type Reader = Log;

    fn reader(&self) -> Log {
        self.clone()
    }

    fn read_cold(reader: &Log, first: Index, end: Index, bytes_max: usize) -> Result<Read, Infallible> {
        reader.trap.spring(CodePlace::LogRead);
        reader.log.read_blocking(first, end, bytes_max)
    }
}

struct Road {
    inner: MemoryTransport,
    trap: Arc<Trap>,
    _end: Ending,
}

impl RaftTransport for Road {
    fn start(&self, receiver: Arc<dyn Receiver>) {
        self.trap.spring(CodePlace::TransportStart);
        self.inner.start(receiver);
    }

    fn send(&self, group: GroupId, envelope: Envelope) {
        self.trap.spring(CodePlace::TransportSend);
        self.inner.send(group, envelope);
    }

    fn members(&self, group: GroupId, members: &BTreeMap<NodeId, Option<String>>) {
        self.trap.spring(CodePlace::TransportMembers);
        self.inner.members(group, members);
    }

    fn fetch_chunk(
        &self,
        group: GroupId,
        from: NodeId,
        request: ChunkRequest,
        timeout: Duration,
    ) -> Result<Chunk, FetchError> {
        self.trap.spring(CodePlace::TransportFetch);
        self.inner.fetch_chunk(group, from, request, timeout)
    }

    fn limits_of(&self, peer: NodeId) -> MessageLimits {
        self.trap.spring(CodePlace::TransportLimits);
        self.inner.limits_of(peer)
    }

    fn client_address(&self, peer: NodeId) -> Option<String> {
        self.trap.spring(CodePlace::TransportAddress);
        Some(format!("client-of-{peer}"))
    }

    fn shutdown(&self) {
        let trap = self.trap.clone();
        self.inner.shutdown();
        trap.spring(CodePlace::TransportShutdown);
    }
}

struct Store(MemorySnapshots, Arc<Trap>);
struct Part<T: ?Sized>(Box<T>, Arc<Trap>);

impl io::Write for Part<dyn SnapshotWriter> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1.spring(CodePlace::StoreWrite);
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl SnapshotWriter for Part<dyn SnapshotWriter> {
    fn finish(self: Box<Self>) -> Result<SnapshotInfo, SnapshotError> {
        self.1.spring(CodePlace::StoreWrite);
        self.0.finish()
    }
}

impl io::Read for Part<dyn SnapshotReader> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.1.spring(CodePlace::StoreOpen);
        self.0.read(bytes)
    }
}

impl SnapshotReader for Part<dyn SnapshotReader> {
    fn info(&self) -> &SnapshotInfo {
        self.0.info()
    }
}

impl SnapshotReceiver for Part<dyn SnapshotReceiver> {
    fn next(&self) -> ChunkRequest {
        self.1.spring(CodePlace::StoreReceive);
        self.0.next()
    }

    fn progress(&self) -> (u64, Option<u64>) {
        self.1.spring(CodePlace::StoreReceive);
        self.0.progress()
    }

    fn accept(&mut self, chunk: &Chunk) -> Result<Option<SnapshotInfo>, ReceiveError> {
        self.1.spring(CodePlace::StoreReceive);
        self.0.accept(chunk)
    }

    fn restart(&mut self) -> Result<(), SnapshotError> {
        self.0.restart()
    }

    fn abandon(self: Box<Self>) {
        self.0.abandon();
    }
}

impl SnapshotStore for Store {
    fn begin(&self, last: EntryId, metadata: Bytes) -> Result<Box<dyn SnapshotWriter>, SnapshotError> {
        self.1.spring(CodePlace::StoreWrite);
        Ok(Box::new(Part(self.0.begin(last, metadata)?, self.1.clone())))
    }

    fn list(&self) -> Vec<SnapshotInfo> {
        self.1.spring(CodePlace::StoreList);
        self.0.list()
    }

    fn open(&self, last: EntryId) -> Result<Box<dyn SnapshotReader>, SnapshotError> {
        self.1.spring(CodePlace::StoreOpen);
        Ok(Box::new(Part(self.0.open(last)?, self.1.clone())))
    }

    fn chunk(&self, request: ChunkRequest) -> Result<Chunk, SnapshotError> {
        self.1.spring(CodePlace::StoreChunk);
        self.0.chunk(request)
    }

    fn receive(&self, last: EntryId) -> Result<Box<dyn SnapshotReceiver>, SnapshotError> {
        self.1.spring(CodePlace::StoreReceive);
        Ok(Box::new(Part(self.0.receive(last)?, self.1.clone())))
    }

    fn retain(&self, last: EntryId) {
        self.1.spring(CodePlace::StoreRetain);
        self.0.retain(last);
    }
}

/// A node all of whose foreign code is trapped.
pub(crate) struct Seat {
    pub(crate) id: u64,
    pub(crate) trap: Arc<Trap>,
    log: Locked<MemoryLog>,
    store: MemorySnapshots,
    raft: Option<Raft<Machine>>,
}

/// A test that fails lets its nodes end.
impl Drop for Seat {
    fn drop(&mut self) {
        self.trap.applying.open();
    }
}

impl Seat {
    pub(crate) fn new(id: u64) -> Self {
        let store = MemorySnapshots::with_chunk_bytes(GroupId(0), 512);
        Self { id, trap: Arc::default(), log: Locked::default(), store, raft: None }
    }

    pub(crate) fn start(&mut self, network: &MemoryNetwork, voters: &[u64]) -> Result<(), StartError> {
        let mut config = config(self.id, voters);
        if voters.len() == 1 {
            config.election_ticks = 5;
        }
        let mut options = DriverOptions::default();
        options.snapshots = Some(Snapshots::new(Store(self.store.clone(), self.trap.clone())));
        (options.snapshot_trail_entries, options.snapshot_trail_bytes) = (0, 0);
        let trap = &self.trap;
        let road = Road {
            inner: network.transport(self.id),
            trap: trap.clone(),
            _end: Ending(trap.clone(), CodePlace::TransportDrop),
        };
        let machine = Machine {
            commands: Arc::default(),
            trap: trap.clone(),
            _end: Ending(trap.clone(), CodePlace::MachineDrop),
        };
        self.raft = Some(Raft::start_with(config, options, Log::new(self.log.clone(), trap), road, machine)?);
        Ok(())
    }

    pub(crate) fn raft(&self) -> &Raft<Machine> {
        self.raft.as_ref().unwrap()
    }

    pub(crate) fn wait(&self, holds: impl FnMut(&Status) -> bool) -> Status {
        let began = Instant::now();
        match self.raft().wait_for(PATIENCE, holds) {
            Ok(status) => {
                assert!(began.elapsed() < PATIENCE, "node {}: nobody was told of a change", self.id);
                status
            }
            Err(error) => panic!("node {}: {error}: {:?}", self.id, self.raft().status()),
        }
    }

    /// Shuts down and lets go of the node: however it ends, that comes back.
    pub(crate) fn end(&mut self) {
        let Some(raft) = self.raft.take() else { return };
        let (ended, end) = mpsc::channel();
        thread::spawn(move || {
            raft.shutdown();
            drop(raft);
            let _ = ended.send(());
        });
        assert_eq!(end.recv_timeout(PATIENCE), Ok(()), "the shutdown of node {} does not return", self.id);
    }
}

/// Some nodes on one network.
pub(crate) struct Bench {
    pub(crate) network: MemoryNetwork,
    pub(crate) seats: Vec<Seat>,
}

impl Bench {
    pub(crate) fn start(size: u64) -> Self {
        let (network, voters) = (MemoryNetwork::new(), (1..=size).collect::<Vec<_>>());
        let mut seats: Vec<Seat> = voters.iter().map(|id| Seat::new(*id)).collect();
        seats.iter_mut().for_each(|seat| seat.start(&network, &voters).unwrap());
        Self { network, seats }
    }

    /// The seat of the node that leads.
    pub(crate) fn leader(&self) -> usize {
        let leads = |status: &Status| status.leader.as_ref().is_some_and(|leader| leader.id.0 > 0);
        let leader = self.seats[0].wait(leads).leader.unwrap().id.0 as usize - 1;
        self.seats[leader].wait(|status| status.role == RoleKind::Leader && status.applied_index >= Index(1));
        leader
    }

    /// A follower lacks what its leader's log no longer has. The seats of both.
    pub(crate) fn leave_behind(&self) -> (usize, usize) {
        let leader = self.leader();
        let behind = (leader + 1) % self.seats.len();
        self.network.partition([self.seats[behind].id]);
        let raft = self.seats[leader].raft();
        for _ in 0..20 {
            raft.propose("x").wait(PATIENCE).unwrap();
        }
        raft.snapshot().wait(PATIENCE).unwrap();
        (leader, behind)
    }
}
