//! The road of a snapshot: captured by the apply thread, written by a thread of its own, recorded by
//! the log (dissertation §5).
//!
//! The apply thread asks the state machine for an image, which is quick, and goes on applying. The
//! snapshot thread writes the image into the store; once it is durable there, the protocol lets it
//! stand in for the log's beginning, in a write like any other. Only when that is durable too is
//! whatever it supersedes deleted: before, a crash would leave a log that begins with a snapshot that
//! is gone. A crash between the two leaves a snapshot that nobody needs, or that is found complete
//! when the same one is taken again.

use super::contain::{CodePlace, contain};
use super::error::TakeSnapshotError;
use super::held_backups::HeldBackups;
use super::holds::Holds;
use super::mailbox::Mail;
use super::node::{Node, State};
use super::options::{DriverOptions, Snapshots};
use super::origins::{check_recorded, membership_as_of, use_or_set_aside};
use super::raft::StateMachine;
use super::retry::Retry;
use super::slot::Completer;
use super::start_error::StartError;
use super::status::{FetchStatus, SnapshotStatus};
use super::stopped::StopReason;
use super::sync::atomic::Ordering;
use super::sync::{Mutex, lock};
use super::trace::trace_event;
use super::trigger::Trail;
use crate::error::{SnapshotRefused, StepError};
use crate::log::{LogView, SharedLog};
use crate::membership::Membership;
use crate::snapshot::{Chunk, ChunkRequest, SnapshotError, SnapshotInfo, SnapshotReader, SnapshotWriter};
use crate::transport::RaftTransport;
use crate::types::{EntryId, NodeId};
use bytes::Bytes;
use std::boxed::Box;
use std::collections::BTreeMap;
use std::fmt;
use std::format;
use std::io;
use std::mem;
use std::string::{String, ToString};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::vec::Vec;

/// How many may wait for a snapshot at a time.
pub(super) const REQUESTS_MAX: usize = 1024;
/// How long a peer may leave off before the snapshot that it fetches is kept for it no longer.
const SERVED_IDLE_MAX: Duration = Duration::from_secs(60);

/// What a snapshot that was asked for ends with.
pub(super) type Answer = Result<SnapshotInfo, TakeSnapshotError>;
/// Who asked for a snapshot.
pub(super) type Requester = Completer<(), Answer>;

/// The state of a state machine at one moment, which can be written while the machine goes on.
pub struct SnapshotImage {
    write: Box<WriteImage>,
}

type WriteImage = dyn FnOnce(&mut dyn io::Write) -> io::Result<()> + Send;

impl SnapshotImage {
    /// An image that `write` writes, once, on a thread of the driver's. It should not hold on to more
    /// memory than it must: copy-on-write, say, and not a copy.
    pub fn new(write: impl FnOnce(&mut dyn io::Write) -> io::Result<()> + Send + 'static) -> Self {
        Self { write: Box::new(write) }
    }

    /// Writes it, as the driver does: for tests of a state machine.
    ///
    /// # Errors
    /// Those of the image, or of `out`.
    pub fn write_to(self, out: &mut dyn io::Write) -> io::Result<()> {
        (self.write)(out)
    }
}

impl fmt::Debug for SnapshotImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotImage").finish_non_exhaustive()
    }
}

/// What the lock guards of snapshots.
pub(super) struct SnapshotState {
    /// The one that the log begins with, durably; `EntryId::ZERO` without any. Only grows.
    pub(super) durable: EntryId,
    /// What the store says of it.
    pub(super) info: Option<SnapshotInfo>,
    /// The one that is being written.
    pub(super) taking: Option<EntryId>,
    /// The one that is being fetched.
    pub(super) fetch: Option<FetchStatus>,
    /// What the log keeps for peers that fetch one.
    pub(super) holds: Holds,
    /// What went wrong last.
    pub(super) failure: Option<String>,
    /// When one that failed is tried again.
    pub(super) retry: Retry,
    /// Who waits until the log has this snapshot or a later one.
    waiting: Vec<(EntryId, Requester)>,
    /// Answers that go out as soon as the lock is released.
    pub(super) settled: Vec<(Requester, Answer)>,
}

impl SnapshotState {
    pub(super) fn new(durable: EntryId, info: Option<SnapshotInfo>) -> Self {
        let (waiting, settled, retry, holds) = (Vec::new(), Vec::new(), Retry::default(), Holds::default());
        Self { durable, info, taking: None, fetch: None, holds, failure: None, retry, waiting, settled }
    }

    pub(super) fn status(&self, backups: usize) -> SnapshotStatus {
        SnapshotStatus {
            last: (self.durable != EntryId::ZERO).then_some(self.durable),
            bytes: self.info.as_ref().map(|info| info.bytes),
            taking: self.taking,
            fetching: self.fetch,
            last_error: self.failure.clone(),
            failures: self.retry.failures,
            retry_after: self.retry.after(),
            backups,
        }
    }

    /// Everybody who waits is told the same.
    pub(super) fn refuse_all(&mut self, error: &TakeSnapshotError) {
        self.settled.extend(self.waiting.drain(..).map(|(_, requester)| (requester, Err(error.clone()))));
    }

    /// The snapshot up to `last` will not be.
    fn refuse(&mut self, last: EntryId, error: &TakeSnapshotError) {
        let waiting = mem::take(&mut self.waiting);
        let (lost, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|(target, _)| *target == last);
        self.waiting = rest;
        self.settled.extend(lost.into_iter().map(|(_, requester)| (requester, Err(error.clone()))));
    }

    /// Who waits for what the log has by now.
    fn confirm(&mut self) {
        let lost = || TakeSnapshotError::Failed { reason: "the store has it no longer".to_string() };
        let answer = self.info.clone().ok_or_else(lost);
        let (durable, waiting) = (self.durable.index, mem::take(&mut self.waiting));
        let (done, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|(target, _)| target.index <= durable);
        self.waiting = rest;
        self.settled.extend(done.into_iter().map(|(_, requester)| (requester, answer.clone())));
    }
}

/// What waits for the snapshot thread.
#[derive(Default)]
pub(super) struct SnapshotWork {
    job: Option<SnapshotJob>,
    /// The log has recorded a snapshot: those before it can go.
    recorded: bool,
}

/// An image to be written.
struct SnapshotJob {
    last: EntryId,
    trail: Trail,
    /// The configuration as of `last`; empty if this node does not know it.
    membership: Arc<Membership>,
    image: SnapshotImage,
}

/// The snapshots that peers are fetching, each held open so that it stays while newer ones come. A
/// peer that was offered one would else never come to the end of any, if taking one is faster than
/// fetching it.
pub(super) struct Served {
    peers: Mutex<BTreeMap<NodeId, ServedSnapshot>>,
    backups: Arc<HeldBackups>,
}

struct ServedSnapshot {
    last: EntryId,
    asked: Instant,
    /// Dropped without the lock: that may delete it.
    _reader: Box<dyn SnapshotReader>,
}

impl Served {
    pub(super) fn new() -> Self {
        Self { peers: Mutex::new(BTreeMap::new()), backups: Arc::new(HeldBackups::new()) }
    }

    /// A peer asked for a chunk that it gets.
    fn note(&self, store: &Snapshots, peer: NodeId, chunk: &Chunk) {
        let last = chunk.snapshot;
        if chunk.is_last() {
            let done = lock(&self.peers).remove(&peer);
            return drop(done);
        }
        if let Some(served) = lock(&self.peers).get_mut(&peer).filter(|served| served.last == last) {
            served.asked = Instant::now();
            return;
        }
        let Ok(reader) = store.open(last) else { return };
        let served = ServedSnapshot { last, asked: Instant::now(), _reader: reader };
        let before = lock(&self.peers).insert(peer, served);
        drop(before);
    }

    /// Lets go of what peers have left off fetching.
    fn release_idle(&self) {
        let mut idle = Vec::new();
        let mut served = lock(&self.peers);
        for (peer, snapshot) in mem::take(&mut *served) {
            if snapshot.asked.elapsed() > SERVED_IDLE_MAX {
                idle.push(snapshot);
            } else {
                served.insert(peer, snapshot);
            }
        }
        drop(served);
    }
}

/// Restores what the log begins with, before anything runs; `None` without a snapshot.
pub(super) fn restore_at_start<M: StateMachine>(
    options: &DriverOptions,
    log: &impl LogView,
    machine: &mut M,
) -> Result<Option<SnapshotInfo>, StartError> {
    let snapshot = log.snapshot();
    if snapshot == EntryId::ZERO {
        return Ok(None);
    }
    let store = options.snapshots.as_ref().ok_or(StartError::NoSnapshotStore { snapshot })?;
    let mut reader = store.open(snapshot).map_err(|source| StartError::SnapshotUnavailable { snapshot, source })?;
    check_recorded(reader.info(), log)?;
    let restored = restore(machine, &mut *reader);
    restored.map_err(|source| StartError::RestoreSnapshot { snapshot, source })?;
    Ok(Some(reader.info().clone()))
}

/// Restores a machine, all of it; a panic is a failure like any other.
pub(super) fn restore<M: StateMachine>(machine: &mut M, mut reader: &mut dyn SnapshotReader) -> io::Result<()> {
    // A reference to the reference: compilers before 1.86 do not make a `dyn Read` of the reader itself.
    contain(|| machine.restore(&mut reader)).unwrap_or_else(|message| Err(panicked(CodePlace::Restore, &message)))?;
    // Only the end of the stream says that what was read was the whole.
    let rest = contain(|| io::copy(reader, &mut io::sink()));
    match rest.unwrap_or_else(|message| Err(panicked(CodePlace::StoreOpen, &message)))? {
        0 => Ok(()),
        rest => Err(io::Error::new(io::ErrorKind::InvalidData, format!("{rest} bytes at its end were not read"))),
    }
}

pub(super) fn panicked(place: CodePlace, message: &str) -> io::Error {
    io::Error::other(format!("{place} panicked: {message}"))
}

/// Writes images and deletes what they supersede, until the node stops.
pub(super) fn snapshot_loop<M, L, T>(node: &Node<M, L, T>, store: &Snapshots)
where
    M: StateMachine,
    L: SharedLog,
    T: RaftTransport,
{
    while let Mail::Content(work) = node.snapshots.take() {
        if work.recorded {
            node.retain_recorded(store);
        }
        match work.job {
            Some(job) if node.is_running() => node.take_snapshot(store, job),
            job => drop(node.panics.survive(CodePlace::Image, || drop(job))),
        }
    }
}

/// A writer that ends with the node, so that nobody waits for the rest of a large image.
struct WhileRunning<'a, M: StateMachine, L: SharedLog, T: RaftTransport> {
    node: &'a Node<M, L, T>,
    writer: &'a mut dyn SnapshotWriter,
}

impl<M: StateMachine, L: SharedLog, T: RaftTransport> io::Write for WhileRunning<'_, M, L, T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.node.is_running() {
            return Err(io::Error::other("the node stops"));
        }
        // The image is another's code than the store: which of them panicked is to be told.
        contain(|| self.writer.write(bytes)).unwrap_or_else(|message| {
            self.node.panics.note(CodePlace::StoreWrite, &message);
            Err(panicked(CodePlace::StoreWrite, &message))
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl<M: StateMachine, L: SharedLog, T: RaftTransport> Node<M, L, T> {
    /// Hands an image to the snapshot thread, on behalf of these requesters and whoever joins them.
    pub(super) fn begin_snapshot(&self, last: EntryId, trail: Trail, image: SnapshotImage, requesters: Vec<Requester>) {
        let mut state = lock(&self.state);
        let membership = membership_as_of(&state.protocol, last.index);
        let mut job = Some(SnapshotJob { last, trail, membership, image });
        if self.snapshots.post(|work| work.job = job.take()) == Some(true) {
            self.snapshots.wake();
        }
        state.snapshots.taking = Some(last);
        state.snapshots.retry.begun();
        state.changed = true;
        self.await_snapshot(&mut state, last, requesters);
        self.release(state);
        // The node has stopped. An image is not ours: it is dropped without the lock.
        self.panics.survive(CodePlace::Image, || drop(job));
    }

    /// These wait for a snapshot that is being written.
    pub(super) fn join_snapshot(&self, last: EntryId, requesters: Vec<Requester>) {
        let mut state = lock(&self.state);
        self.await_snapshot(&mut state, last, requesters);
        self.release(state);
    }

    fn await_snapshot(&self, state: &mut State<M>, last: EntryId, requesters: Vec<Requester>) {
        state.snapshots.waiting.extend(requesters.into_iter().map(|requester| (last, requester)));
        if !self.is_running() {
            let error = why_not_taken(state);
            state.snapshots.refuse_all(&error);
        } else if state.snapshots.taking == Some(last) {
            // The snapshot thread tells them.
        } else if state.protocol.snapshot().index >= last.index {
            // It was written while they were on their way, and the log has it or is about to.
            state.snapshots.confirm();
        } else {
            let reason = state.snapshots.failure.clone().unwrap_or_else(|| "it was not written".to_string());
            state.snapshots.refuse(last, &TakeSnapshotError::Failed { reason });
        }
    }

    fn take_snapshot(&self, store: &Snapshots, job: SnapshotJob) {
        let SnapshotJob { last, trail, membership, image } = job;
        let known = !membership.is_empty();
        let written = if known {
            contain(|| self.write_image(store, last, &membership, image)).unwrap_or_else(|message| {
                self.panics.note(CodePlace::StoreWrite, &message);
                Err(panicked(CodePlace::StoreWrite, &message).to_string())
            })
        } else {
            self.panics.survive(CodePlace::Image, || drop(image));
            Err(SnapshotRefused::MembershipUnknown { snapshot: last }.to_string())
        };
        let written = written.and_then(|()| {
            let listed = self.panics.survive(CodePlace::StoreList, || store.list()).unwrap_or_default();
            let info = listed.into_iter().find(|info| info.last == last);
            info.ok_or_else(|| "the store has it no longer".to_string())
        });
        let is_short = self.log_short.load(Ordering::Relaxed);
        let mut state = lock(&self.state);
        state.snapshots.taking = None;
        state.changed = true;
        let (mut superseded, failed) = (false, written.is_err());
        match written {
            Ok(info) => match self.note_written(&mut state, info, &trail, is_short) {
                Ok(_) => {
                    state.counters.snapshots_taken += 1;
                    state.snapshots.confirm();
                }
                // A leader's was faster; who waits gets that one, which may be in the log already.
                Err(StepError::Snapshot(SnapshotRefused::Outdated { .. })) => {
                    superseded = true;
                    state.snapshots.confirm();
                }
                // It did not know then, and may have learnt since who belonged to the cluster at an earlier index.
                Err(StepError::Snapshot(error @ SnapshotRefused::MembershipUnknown { .. })) => {
                    state.snapshots.refuse(last, &TakeSnapshotError::Failed { reason: error.to_string() });
                }
                Err(error) => {
                    let message = format!("the driver broke the protocol's contract: {error}");
                    self.fail(&mut state, StopReason::Internal { message });
                }
            },
            // A server that has just joined. The next one is as good.
            Err(reason) if !known => state.snapshots.refuse(last, &TakeSnapshotError::Failed { reason }),
            Err(reason) => {
                trace_event!(warn, node = self.id.0, last = %last, "no snapshot was taken: {reason}");
                state.counters.snapshots_failed += 1;
                state.snapshots.refuse(last, &TakeSnapshotError::Failed { reason: reason.clone() });
                state.snapshots.failure = Some(reason);
                state.snapshots.retry.failed();
            }
        }
        // The next one may be due already. Before anybody is told: who asks again then begins a new one.
        state.wake_apply |= self.applies.post(|work| work.snapshot_ended = true) == Some(true);
        self.release(state);
        if superseded || failed {
            self.retain_recorded(store);
        }
    }

    /// Makes the snapshot durable in the store. It says by itself who belonged to the cluster.
    fn write_image(
        &self,
        store: &Snapshots,
        last: EntryId,
        membership: &Membership,
        image: SnapshotImage,
    ) -> Result<(), String> {
        let begin = || store.begin(last, Bytes::from(membership.encode()));
        let begun = match begin() {
            // Of an earlier life that did not come to recording it, or fetched in vain; or of another cluster.
            Err(SnapshotError::Exists { .. }) => {
                let recorded = lock(&self.state).protocol.snapshot() == last;
                match use_or_set_aside(self.id, store, last, membership.history(), recorded) {
                    Ok(true) => return Ok(()),
                    Ok(false) => begin(),
                    Err(error) => Err(error),
                }
            }
            begun => begun,
        };
        let failed = |error: io::Error| {
            self.backups().note_failure(&error);
            error.to_string()
        };
        let mut writer = begun.map_err(|error| failed(error.into()))?;
        let mut out = WhileRunning { node: self, writer: &mut *writer };
        match contain(|| image.write_to(&mut out)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(failed(error)),
            Err(message) => {
                self.panics.note(CodePlace::Image, &message);
                return Err(panicked(CodePlace::Image, &message).to_string());
            }
        }
        writer.finish().map(|_| ()).map_err(|error| failed(error.into()))
    }

    /// The write that records this snapshot is durable. Called by the log thread.
    pub(super) fn snapshot_recorded(&self, last: EntryId) {
        // A write that named the history, in a log without a snapshot.
        if last == EntryId::ZERO {
            return;
        }
        // Not under the lock: it asks the user's store.
        let list = |store: &Snapshots| self.panics.survive(CodePlace::StoreList, || store.list());
        let listed = self.options.snapshots.as_ref().and_then(list);
        let info = listed.and_then(|list| list.into_iter().find(|info| info.last == last));
        let mut state = lock(&self.state);
        state.snapshots.durable = last;
        state.snapshots.info = info;
        state.changed = true;
        state.snapshots.confirm();
        self.release(state);
        self.release_superseded();
    }

    /// The backups that are being read.
    pub(super) fn backups(&self) -> &Arc<HeldBackups> {
        &self.served.backups
    }

    /// Has the snapshot thread delete what is not needed.
    pub(super) fn release_superseded(&self) {
        if self.options.snapshots.is_some() && self.snapshots.post(|work| work.recorded = true) == Some(true) {
            self.snapshots.wake();
        }
    }

    /// Deletes what the snapshot supersedes that the log has, durably.
    fn retain_recorded(&self, store: &Snapshots) {
        self.panics.survive(CodePlace::StoreChunk, || self.served.release_idle());
        let durable = lock(&self.state).snapshots.durable;
        self.bound_backups(durable);
        self.panics.survive(CodePlace::StoreRetain, || store.retain(durable));
    }

    /// A peer asks for a chunk. Called by the transport; reads the disk.
    pub(super) fn serve_chunk(&self, peer: NodeId, request: ChunkRequest) -> Option<Chunk> {
        let store = self.options.snapshots.as_ref()?;
        match self.panics.survive(CodePlace::StoreChunk, || store.chunk(request))? {
            Ok(chunk) => {
                self.panics.survive(CodePlace::StoreChunk, || self.served.note(store, peer, &chunk));
                let mut state = lock(&self.state);
                self.hold_for(&mut state, peer, &chunk);
                self.release(state);
                Some(chunk)
            }
            Err(error) => {
                trace_event!(warn, node = self.id.0, peer = peer.0, "a chunk of a snapshot is not given: {error}");
                // A chunk that is none is the peer's mistake. Everything else says that this store cannot read it.
                if !matches!(error, SnapshotError::NoSuchChunk { .. }) {
                    self.replace_damaged(request.snapshot, &error);
                }
                None
            }
        }
    }

    /// The snapshot that the log begins with is damaged, gone, or cannot be read: neither a peer nor the next start can do
    /// anything with it. The state machine still has what was in it.
    fn replace_damaged(&self, last: EntryId, error: &SnapshotError) {
        let mut state = lock(&self.state);
        state.snapshots.failure = Some(error.to_string());
        // While one is being taken, or will be tried again, the peer asks again.
        let idle = state.snapshots.is_idle() && state.snapshots.retry.after().is_none();
        let needed = idle && state.snapshots.durable == last;
        self.release(state);
        if needed && self.applies.post(|work| work.snapshot_wanted = true) == Some(true) {
            self.applies.wake();
        }
    }

    /// Takes a request for a snapshot.
    pub(super) fn request_snapshot(&self, requester: Requester) -> Result<(), TakeSnapshotError> {
        if self.options.snapshots.is_none() {
            return Err(TakeSnapshotError::NoStore);
        }
        let state = lock(&self.state);
        if state.draining || state.stopped.is_some() {
            return Err(why_not_taken(&state));
        }
        drop(state);
        if self.snapshot_requests.fetch_add(1, Ordering::SeqCst) >= REQUESTS_MAX {
            self.snapshot_requests.fetch_sub(1, Ordering::SeqCst);
            return Err(TakeSnapshotError::Overloaded { max: REQUESTS_MAX });
        }
        match self.applies.post(|work| work.snapshot_requests.push(requester)) {
            Some(true) => self.applies.wake(),
            Some(false) => {}
            None => {
                self.snapshot_requests.fetch_sub(1, Ordering::SeqCst);
                return Err(self.why_no_snapshot());
            }
        }
        Ok(())
    }

    pub(super) fn why_no_snapshot(&self) -> TakeSnapshotError {
        why_not_taken(&lock(&self.state))
    }

    /// The node ends: whoever still asks is told so.
    pub(super) fn refuse_requesters(&self, requesters: Vec<Requester>) {
        if requesters.is_empty() {
            return;
        }
        let error = self.why_no_snapshot();
        self.answer_requesters(requesters.into_iter().map(|requester| (requester, Err(error.clone()))).collect());
    }

    /// Tells those who asked for snapshots: first all of them, then the wake-ups.
    pub(super) fn answer_requesters(&self, settled: Vec<(Requester, Answer)>) {
        if settled.is_empty() {
            return;
        }
        self.snapshot_requests.fetch_sub(settled.len(), Ordering::SeqCst);
        let wakes = settled.into_iter().filter_map(|(requester, answer)| {
            self.panics.survive(CodePlace::AnswerDrop, || requester.complete(answer)).flatten()
        });
        self.wake_all(wakes.collect());
    }
}

/// Why a node that is about to end, or has ended, takes no snapshot.
pub(super) fn why_not_taken<M: StateMachine>(state: &State<M>) -> TakeSnapshotError {
    state.fatal().map_or(TakeSnapshotError::Shutdown, |reason| TakeSnapshotError::Fatal { reason })
}
