//! How a node ends, and the calls of the handle.

use super::backups::Source;
use super::changes::{MembershipChange, Wanted};
use super::contain::CodePlace;
use super::error::{LeadershipTransferError, MembershipChangeError, RequestError, TakeSnapshotError, UnknownReason};
use super::feed::{Feed, Reader};
use super::inside::{NodeKey, is_inside};
use super::node::{Handle, Node, Waiting, life};
use super::raft::{RoleChange, StateMachine, WaitError};
use super::reads::{BoxedRead, ReadWay};
use super::snapshots::Requester;
use super::status::Status;
use super::stopped::StopReason;
use super::sync::atomic::Ordering;
use super::sync::{Condvar, Mutex, lock, wait};
use super::transfers::LeadershipTransfer;
use crate::log::SharedLog;
use crate::threads;
use crate::transport::RaftTransport;
use crate::types::NodeId;
use bytes::Bytes;
use std::boxed::Box;
use std::mem;
use std::string::{String, ToString};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::vec::Vec;

/// The node's threads and how far its end has come.
pub(super) struct Lifecycle {
    stage: Mutex<Stage>,
    ended: Condvar,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    Closing,
    Closed,
}

impl Lifecycle {
    pub(super) fn new() -> Self {
        Self { stage: Mutex::new(Stage::Open), ended: Condvar::new(), threads: Mutex::new(Vec::new()) }
    }

    pub(super) fn add_thread(&self, thread: JoinHandle<()>) {
        lock(&self.threads).push(thread);
    }

    /// Whether the caller is the first, and so the one that closes.
    fn begin(&self) -> bool {
        let mut stage = lock(&self.stage);
        let first = *stage == Stage::Open;
        if first {
            *stage = Stage::Closing;
        }
        first
    }

    fn end(&self) {
        *lock(&self.stage) = Stage::Closed;
        self.ended.notify_all();
    }

    fn wait_for_end(&self) {
        let mut stage = lock(&self.stage);
        while *stage != Stage::Closed {
            stage = wait(&self.ended, stage);
        }
    }
}

/// Tells all who wait for the end.
struct Ends<'a>(&'a Lifecycle);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl<M: StateMachine, L: SharedLog, T: RaftTransport> Node<M, L, T> {
    /// A start that failed leaves nothing behind: waits for the threads that it began, on the caller's, which is none of them.
    pub(super) fn undo_start(&self) {
        if self.lifecycle.begin() {
            self.close();
        }
    }

    /// Refuses, drains, hands over, stops, joins. Runs once.
    fn close(&self) {
        // However it ends, nobody is to wait for ever.
        let _ends = Ends(&self.lifecycle);
        lock(&self.state).draining = true;
        self.changed.notify();
        let deadline = Instant::now().checked_add(self.options.drain_timeout);
        self.changed.wait_until(deadline, || {
            let drained = self.open.load(Ordering::SeqCst) == 0 && self.reads.open.load(Ordering::SeqCst) == 0;
            (drained || !self.is_running()).then_some(())
        });
        self.hand_over(deadline);
        self.stop();
        // The node ends anyway; its threads depend on nothing of the transport's.
        self.panics.survive(CodePlace::TransportShutdown, || self.transport.shutdown());
        let threads = mem::take(&mut *lock(&self.lifecycle.threads));
        for thread in threads {
            // A thread catches its own panics; there is nothing left to learn from its end.
            let _ = thread.join();
        }
        // A message may have been on its way through a step while the node stopped.
        self.release(lock(&self.state));
        self.changed.notify();
    }

    /// What is queued for the log still gets there; every request gets its answer now.
    fn stop(&self) {
        let mut state = lock(&self.state);
        if self.is_running() {
            self.life.store(life::STOPPED, Ordering::SeqCst);
            state.answer_held(&RequestError::Shutdown);
            state.reads.abort_all(&RequestError::Shutdown);
            state.answer_appended(UnknownReason::Shutdown);
            state.transfers.abort(&LeadershipTransferError::Shutdown);
            state.changes.abort(UnknownReason::Shutdown, &MembershipChangeError::Shutdown);
            self.halt(&mut state, StopReason::Shutdown);
        }
        self.release(state);
        self.end_backups();
    }

    fn fatal_reason(&self) -> Option<String> {
        lock(&self.state).fatal()
    }
}

impl<M: StateMachine, L: SharedLog, T: RaftTransport> Handle<M> for Node<M, L, T> {
    fn id(&self) -> NodeId {
        self.id
    }

    fn key(&self) -> NodeKey {
        self.key
    }

    fn propose(&self, command: Bytes) -> Result<Waiting<M::Response>, RequestError> {
        self.propose_one(command)
    }

    fn propose_batch(&self, commands: Vec<Bytes>) -> Result<Vec<Waiting<M::Response>>, RequestError> {
        self.propose_many(commands)
    }

    fn read(&self, read: BoxedRead<M>, way: ReadWay) -> Result<(), RequestError> {
        self.begin_read(read, way)
    }

    fn stale_read(&self, read: BoxedRead<M>) -> Result<(), RequestError> {
        if lock(&self.state).draining {
            return Err(self.why_closed());
        }
        match self.applies.post(|work| work.stale_reads.push(read)) {
            Some(true) => self.applies.wake(),
            Some(false) => {}
            None => return Err(self.why_closed()),
        }
        Ok(())
    }

    fn transfer_leadership(&self, target: NodeId) -> LeadershipTransfer {
        self.begin_transfer(target)
    }

    fn change_membership(&self, wanted: Wanted, timeout: Duration) -> MembershipChange {
        self.begin_change(wanted, timeout)
    }

    fn snapshot(&self, requester: Requester) -> Result<(), TakeSnapshotError> {
        self.request_snapshot(requester)
    }

    fn backup_source(&self) -> Source {
        let (snapshots, held) = (self.options.snapshots.clone(), Arc::clone(self.backups()));
        Source { snapshots, held, log: self.log_identity }
    }

    fn why_closed(&self) -> RequestError {
        self.fatal_reason().map_or(RequestError::Shutdown, |reason| RequestError::Fatal { reason })
    }

    fn status(&self) -> Status {
        self.status_now()
    }

    fn watch(&self) -> Reader<RoleChange> {
        Feed::subscribe(&self.roles)
    }

    fn wait_for(
        &self,
        deadline: Option<Instant>,
        predicate: &mut dyn FnMut(&Status) -> bool,
    ) -> Result<Status, WaitError> {
        let waits = deadline.is_none_or(|deadline| deadline > Instant::now());
        let within = waits && self.key.is_entered();
        let mut last = None;
        let found = self.changed.wait_until(deadline, || {
            let status = self.status_now();
            if predicate(&status) {
                return Some(Ok(status));
            }
            // It is a stopped node's last one.
            let over = status.stopped.as_ref().map(|_| match status.fatal.clone() {
                Some(reason) => WaitError::Fatal { reason },
                None => WaitError::Shutdown,
            });
            last = Some(status);
            over.or_else(|| within.then_some(WaitError::CalledFromWithin)).map(Err)
        });
        match (found, last) {
            (Some(result), _) => result,
            (None, last) => {
                let last = Box::new(last.unwrap_or_else(|| self.status_now()));
                Err(WaitError::Timeout { last })
            }
        }
    }

    fn shutdown(self: Arc<Self>) {
        let inside = is_inside();
        if !self.lifecycle.begin() {
            if !inside {
                self.lifecycle.wait_for_end();
            }
            return;
        }
        if !inside {
            return self.close();
        }
        // A thread cannot wait for its own end: another one does.
        let node = Arc::clone(&self);
        let spawned = threads::spawn("raft-shutdown".to_string(), move || node.close());
        if spawned.is_err() {
            // Without a thread to wait for them, the others still stop, and the transport's too.
            lock(&self.state).draining = true;
            self.stop();
            self.panics.survive(CodePlace::TransportShutdown, || self.transport.shutdown());
            self.lifecycle.end();
        }
    }
}
