//! A state machine with snapshots, stores that fail, a road on which chunks can be held up.

use super::{Faults, FaultyLog, Gate, PATIENCE, config};
use bytes::Bytes;
use raft_io::driver::{Applied, DriverOptions, Raft, SnapshotImage, Snapshots, StartError, Status};
use raft_io::log::Locked;
use raft_io::snapshot::{
    Chunk, ChunkRequest, MemorySnapshots, SnapshotError, SnapshotInfo, SnapshotReader, SnapshotReceiver, SnapshotStore,
    SnapshotWriter,
};
use raft_io::transport::{FetchError, MemoryNetwork, MemoryTransport, RaftTransport, Receiver};
use raft_io::{EntryId, Envelope, GroupId, Index, MemoryLog, NodeId, RoleKind, StateMachine};
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Remembers every command; a snapshot of it is all of them.
pub(crate) struct Ledger {
    commands: Arc<Vec<Bytes>>,
    hooks: Arc<Hooks>,
}

/// What a test does to the machine of one node, and sees of it.
#[derive(Default)]
pub(crate) struct Hooks {
    /// Every apply passes here.
    pub(crate) applying: Gate,
    /// Every image passes here before its first byte.
    pub(crate) writing: Gate,
    /// The machine has no snapshots.
    pub(crate) without: AtomicBool,
    /// Images fail after some bytes.
    pub(crate) image_fails: AtomicBool,
    /// Images panic.
    pub(crate) image_panics: AtomicBool,
    /// Images never end.
    pub(crate) image_endless: AtomicBool,
    pub(crate) restore_fails: AtomicBool,
    /// Commands applied, snapshots asked for, snapshots restored.
    pub(crate) applied: AtomicUsize,
    pub(crate) asked: AtomicUsize,
    pub(crate) restored: AtomicUsize,
}

impl Ledger {
    pub(crate) fn new(hooks: &Arc<Hooks>) -> Self {
        Self { commands: Arc::default(), hooks: Arc::clone(hooks) }
    }

    pub(crate) fn commands(&self) -> Vec<Bytes> {
        self.commands.to_vec()
    }
}

fn is(flag: &AtomicBool) -> bool {
    flag.load(Ordering::SeqCst)
}

impl StateMachine for Ledger {
    type Response = usize;

    fn apply(&mut self, _: EntryId, command: &Bytes) -> usize {
        self.hooks.applying.pass();
        self.hooks.applied.fetch_add(1, Ordering::SeqCst);
        Arc::make_mut(&mut self.commands).push(command.clone());
        self.commands.len()
    }

    fn snapshot(&mut self) -> Option<SnapshotImage> {
        self.hooks.asked.fetch_add(1, Ordering::SeqCst);
        if is(&self.hooks.without) {
            return None;
        }
        let (commands, hooks) = (Arc::clone(&self.commands), Arc::clone(&self.hooks));
        Some(SnapshotImage::new(move |out| {
            hooks.writing.pass();
            assert!(!is(&hooks.image_panics), "injected: the image panics");
            for command in commands.iter() {
                out.write_all(&(command.len() as u32).to_le_bytes())?;
                out.write_all(command)?;
                if is(&hooks.image_fails) {
                    return Err(io::Error::other("injected: the image fails"));
                }
            }
            while is(&hooks.image_endless) {
                out.write_all(&[0; 4096])?;
            }
            Ok(())
        }))
    }

    fn restore(&mut self, content: &mut dyn Read) -> io::Result<()> {
        if is(&self.hooks.restore_fails) {
            return Err(io::Error::other("injected: this is not understood"));
        }
        let (mut bytes, mut commands) = (Vec::new(), Vec::new());
        content.read_to_end(&mut bytes)?;
        let mut rest = &bytes[..];
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let (command, after) = after.split_at(u32::from_le_bytes(*length) as usize);
            commands.push(Bytes::copy_from_slice(command));
            rest = after;
        }
        self.commands = Arc::new(commands);
        self.hooks.restored.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// A store in memory that fails on demand.
#[derive(Clone)]
pub(crate) struct FlakyStore {
    pub(crate) inner: MemorySnapshots,
    pub(crate) faults: Arc<StoreFaults>,
}

#[derive(Default)]
pub(crate) struct StoreFaults {
    pub(crate) begin_fails: AtomicBool,
    pub(crate) finish_fails: AtomicBool,
    pub(crate) receive_fails: AtomicBool,
    /// It is a store from before there were histories.
    pub(crate) keeps_foreign: AtomicBool,
    /// No chunk can be read.
    pub(crate) damaged: AtomicBool,
    /// So many times opening one fails for want of a descriptor.
    pub(crate) unopened: AtomicUsize,
}

impl FlakyStore {
    /// With the smallest chunks.
    pub(crate) fn new() -> Self {
        Self { inner: MemorySnapshots::with_chunk_bytes(GroupId(0), 512), faults: Arc::default() }
    }

    /// The last entry of each snapshot.
    pub(crate) fn lasts(&self) -> Vec<EntryId> {
        self.inner.list().iter().map(|info| info.last).collect()
    }
}

fn injected(operation: &'static str) -> SnapshotError {
    SnapshotError::Io { operation, file: "a snapshot".into(), source: io::Error::other("injected: the disk is full") }
}

struct FlakyWriter(Box<dyn SnapshotWriter>, Arc<StoreFaults>);

impl io::Write for FlakyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl SnapshotWriter for FlakyWriter {
    fn finish(self: Box<Self>) -> Result<SnapshotInfo, SnapshotError> {
        if is(&self.1.finish_fails) { Err(injected("syncing")) } else { self.0.finish() }
    }
}

impl SnapshotStore for FlakyStore {
    fn begin(&self, last: EntryId, metadata: Bytes) -> Result<Box<dyn SnapshotWriter>, SnapshotError> {
        if is(&self.faults.begin_fails) {
            return Err(injected("creating"));
        }
        Ok(Box::new(FlakyWriter(self.inner.begin(last, metadata)?, Arc::clone(&self.faults))))
    }

    fn list(&self) -> Vec<SnapshotInfo> {
        self.inner.list()
    }

    fn open(&self, last: EntryId) -> Result<Box<dyn SnapshotReader>, SnapshotError> {
        let left = |left: usize| left.checked_sub(1);
        if self.faults.unopened.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left).is_ok() {
            let source = io::ErrorKind::WouldBlock.into();
            return Err(SnapshotError::Io { operation: "opening", file: "a snapshot".into(), source });
        }
        self.inner.open(last)
    }

    fn chunk(&self, request: ChunkRequest) -> Result<Chunk, SnapshotError> {
        if is(&self.faults.damaged) {
            let reason = "injected: a bit is flipped";
            return Err(SnapshotError::Corrupt { file: "a snapshot".into(), offset: 0, reason });
        }
        self.inner.chunk(request)
    }

    fn receive(&self, last: EntryId) -> Result<Box<dyn SnapshotReceiver>, SnapshotError> {
        if is(&self.faults.receive_fails) { Err(injected("creating")) } else { self.inner.receive(last) }
    }

    fn set_aside(&self, last: EntryId) -> Result<(), SnapshotError> {
        if is(&self.faults.keeps_foreign) {
            return Err(SnapshotError::OtherHistory { last });
        }
        self.inner.set_aside(last)
    }

    fn retain(&self, last: EntryId) {
        self.inner.retain(last);
    }
}

/// A node's road to the others, on which its fetches of chunks can be held up or fail.
pub(crate) struct Road {
    pub(crate) inner: MemoryTransport,
    pub(crate) tolls: Arc<Tolls>,
}

#[derive(Default)]
pub(crate) struct Tolls {
    /// Every fetch passes here, of a chunk with this number or a later one.
    pub(crate) gate: Gate,
    pub(crate) gate_from: AtomicUsize,
    /// No chunk comes.
    pub(crate) unreachable: AtomicBool,
    pub(crate) asked: AtomicUsize,
    pub(crate) fetched: AtomicUsize,
    /// Servers of before 0.7.
    pub(crate) older: Mutex<Vec<NodeId>>,
}

impl RaftTransport for Road {
    fn start(&self, receiver: Arc<dyn Receiver>) {
        self.inner.start(receiver);
    }

    fn send(&self, group: GroupId, envelope: Envelope) {
        self.inner.send(group, envelope);
    }

    fn fetch_chunk(
        &self,
        group: GroupId,
        from: NodeId,
        request: ChunkRequest,
        timeout: Duration,
    ) -> Result<Chunk, FetchError> {
        self.tolls.asked.fetch_add(1, Ordering::SeqCst);
        if request.chunk >= self.tolls.gate_from.load(Ordering::SeqCst) as u64 {
            self.tolls.gate.pass();
        }
        if is(&self.tolls.unreachable) {
            return Err(FetchError::Unreachable { reason: "injected".into() });
        }
        let chunk = self.inner.fetch_chunk(group, from, request, timeout);
        self.tolls.fetched.fetch_add(usize::from(chunk.is_ok()), Ordering::SeqCst);
        chunk
    }

    fn knows_histories(&self, peer: NodeId) -> bool {
        !self.tolls.older.lock().unwrap().contains(&peer) && self.inner.knows_histories(peer)
    }

    fn shutdown(&self) {
        self.inner.shutdown();
    }
}

/// One node, and what survives its restart.
pub(crate) struct Member {
    pub(crate) id: u64,
    voters: Vec<u64>,
    network: MemoryNetwork,
    options: DriverOptions,
    pub(crate) log: Locked<MemoryLog>,
    /// Those of the log.
    pub(crate) faults: Arc<Faults>,
    pub(crate) store: FlakyStore,
    pub(crate) hooks: Arc<Hooks>,
    pub(crate) tolls: Arc<Tolls>,
    pub(crate) raft: Option<Raft<Ledger>>,
}

/// A test that fails lets its nodes end.
impl Drop for Member {
    fn drop(&mut self) {
        let gates = [&self.hooks.applying, &self.hooks.writing, &self.tolls.gate, &self.faults.sync_gate];
        gates.into_iter().for_each(Gate::open);
        self.hooks.image_endless.store(false, Ordering::SeqCst);
    }
}

impl Member {
    /// With no voters it is one that joins.
    pub(crate) fn new(id: u64, voters: &[u64], network: &MemoryNetwork, options: &DriverOptions) -> Self {
        let store = FlakyStore::new();
        let mut options = options.clone();
        options.snapshots = Some(Snapshots::new(store.clone()));
        Self {
            id,
            voters: voters.to_vec(),
            network: network.clone(),
            options,
            log: Locked::default(),
            faults: Arc::default(),
            store,
            hooks: Arc::default(),
            tolls: Arc::default(),
            raft: None,
        }
    }

    /// The same with this store, whatever is in it.
    pub(crate) fn with_store(mut self, store: &FlakyStore) -> Self {
        self.store = store.clone();
        self.options.snapshots = Some(Snapshots::new(store.clone()));
        self
    }

    /// The same on another network.
    pub(crate) fn on(mut self, network: &MemoryNetwork) -> Self {
        self.network = network.clone();
        self
    }

    /// The same, configured as one that joins.
    pub(crate) fn joining(mut self) -> Self {
        self.voters.clear();
        self
    }

    /// What a start of it ends with, if it does not start.
    pub(crate) fn refused(&self) -> Option<StartError> {
        let road = Road { inner: self.network.transport(self.id), tolls: Arc::clone(&self.tolls) };
        let log = FaultyLog { log: self.log.clone(), faults: Arc::clone(&self.faults) };
        let (config, machine) = (config(self.id, &self.voters), Ledger::new(&self.hooks));
        Raft::start_with(config, self.options.clone(), log, road, machine).err()
    }

    /// A cluster of its own that leads itself, once it is started.
    pub(crate) fn alone(options: &DriverOptions) -> Self {
        Self::new(1, &[1], &MemoryNetwork::new(), options)
    }

    pub(crate) fn start(&mut self) -> &Raft<Ledger> {
        let road = Road { inner: self.network.transport(self.id), tolls: Arc::clone(&self.tolls) };
        let (config, machine) = (config(self.id, &self.voters), Ledger::new(&self.hooks));
        let log = FaultyLog { log: self.log.clone(), faults: Arc::clone(&self.faults) };
        let started = Raft::start_with(config, self.options.clone(), log, road, machine);
        self.raft.insert(started.unwrap())
    }

    /// Starts, and waits until it leads and has applied the entry of its term.
    pub(crate) fn lead(&mut self) -> &Raft<Ledger> {
        let raft = self.start();
        let leads = |status: &Status| status.role == RoleKind::Leader && status.applied_index == status.last_index;
        raft.wait_for(PATIENCE, |status| leads(status) && status.commit_index == status.last_index).unwrap();
        raft
    }

    pub(crate) fn stop(&mut self) {
        self.raft.take().unwrap().shutdown();
    }

    pub(crate) fn raft(&self) -> &Raft<Ledger> {
        self.raft.as_ref().unwrap()
    }

    pub(crate) fn commands(&self) -> Vec<Bytes> {
        self.raft().stale_read(Ledger::commands).unwrap()
    }

    pub(crate) fn wait(&self, holds: impl FnMut(&Status) -> bool) -> Status {
        match self.raft().wait_for(PATIENCE, holds) {
            Ok(status) => status,
            Err(error) => panic!("node {}: {error}: {:?}", self.id, self.raft().status()),
        }
    }
}

pub(crate) fn propose(raft: &Raft<Ledger>, command: impl Into<Bytes>) -> Applied<usize> {
    raft.propose(command).wait(PATIENCE).unwrap()
}

/// Some nodes on one network.
pub(crate) struct Group {
    pub(crate) network: MemoryNetwork,
    pub(crate) members: BTreeMap<u64, Member>,
}

impl Group {
    pub(crate) fn start(size: u64, options: &DriverOptions) -> Self {
        let (network, ids) = (MemoryNetwork::new(), (1..=size).collect::<Vec<_>>());
        let mut members: BTreeMap<u64, Member> =
            ids.iter().map(|id| (*id, Member::new(*id, &ids, &network, options))).collect();
        members.values_mut().for_each(|member| drop(member.start().status()));
        Self { network, members }
    }

    pub(crate) fn leader_among(&self, ids: &[u64]) -> u64 {
        let known = self.members[&ids[0]].wait(|status| {
            let Some(leader) = status.leader.as_ref().filter(|leader| ids.contains(&leader.id.0)) else { return false };
            let its = self.members[&leader.id.0].raft().status();
            let established = its.applied_index > Index::ZERO && its.applied_index >= its.last_index;
            its.role == RoleKind::Leader && its.term == status.term && established
        });
        known.leader.unwrap().id.0
    }

    pub(crate) fn leader(&self) -> u64 {
        self.leader_among(&self.members.keys().copied().collect::<Vec<_>>())
    }

    pub(crate) fn others(&self, than: &[u64]) -> Vec<u64> {
        self.members.keys().copied().filter(|id| !than.contains(id)).collect()
    }

    pub(crate) fn at(&self, id: u64) -> &Member {
        &self.members[&id]
    }

    pub(crate) fn propose(&self, id: u64, count: usize) -> Applied<usize> {
        let propose = |number| propose(self.at(id).raft(), format!("{number:0>100}"));
        for number in 1..count {
            propose(number);
        }
        propose(count)
    }
}
