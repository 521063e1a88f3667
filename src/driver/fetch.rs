//! The road of a leader's snapshot: offered, fetched chunk by chunk, durable, installed.
//!
//! Dissertation §5. The protocol says what to fetch and from whom, and at any time that something
//! else is wanted now, or nothing any more: then the fetch ends and what has arrived stays in the
//! store, to be gone on with. An error is followed by a pause, longer each time, during which a new
//! order or the node's end is heard. What cannot be had is reported to the protocol, which takes up
//! the leader's next offer.

use super::contain::{CodePlace, contain};
use super::mailbox::Mail;
use super::node::{Node, State};
use super::options::Snapshots;
use super::origins::{check_received, use_or_set_aside};
use super::raft::StateMachine;
use super::snapshots::panicked;
use super::status::FetchStatus;
use super::sync::lock;
use super::trace::trace_event;
use crate::event::Event;
use crate::history::History;
use crate::log::SharedLog;
use crate::snapshot::{ReceiveError, SnapshotError, SnapshotReceiver};
use crate::transport::{FetchError, RaftTransport};
use crate::types::{EntryId, NodeId};
use std::boxed::Box;
use std::string::{String, ToString};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The pause after the first error; it doubles with each that follows.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How often a peer may send what is no part of the snapshot before it is given up.
const REFUSALS_MAX: u32 = 8;

/// A snapshot to fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) from: NodeId,
    pub(super) last: EntryId,
}

/// How a fetch ended.
enum End {
    /// The snapshot is durable here.
    Complete,
    /// The protocol wants another one, or none.
    Unwanted,
    /// It cannot be had, and why.
    Failed(String),
}

/// What an error leads to.
enum Next {
    Retry(String),
    Fail(String),
}

/// Fetches what the protocol asks for, until the node stops.
pub(super) fn fetch_loop<M, L, T>(node: &Node<M, L, T>, store: &Snapshots)
where
    M: StateMachine,
    L: SharedLog,
    T: RaftTransport,
{
    let mut fetcher = Fetcher { node, store, errors: 0, refusals: 0, due: Instant::now() };
    while let Mail::Content(order) = node.fetches.take() {
        let Some(order) = order else { continue };
        if !node.is_running() {
            return;
        }
        let end = contain(|| fetcher.fetch(order)).unwrap_or_else(|message| {
            node.panics.note(CodePlace::StoreReceive, &message);
            End::Failed(panicked(CodePlace::StoreReceive, &message).to_string())
        });
        match end {
            End::Complete => {
                fetcher.errors = 0;
                node.fetch_ended(order, None);
            }
            End::Unwanted => {}
            End::Failed(reason) => {
                // The next offer comes with the next heartbeat, and may be the same.
                fetcher.pause(order);
                node.fetch_ended(order, Some(reason));
            }
        }
    }
}

struct Fetcher<'a, M: StateMachine, L: SharedLog, T: RaftTransport> {
    node: &'a Node<M, L, T>,
    store: &'a Snapshots,
    /// How many errors since the last chunk that was good.
    errors: u32,
    /// How many of them were chunks that the store did not accept.
    refusals: u32,
    /// When the next chunk may be asked for, by the limit on bytes per second.
    due: Instant,
}

impl<M: StateMachine, L: SharedLog, T: RaftTransport> Fetcher<'_, M, L, T> {
    fn fetch(&mut self, order: Order) -> End {
        let mut receiver = loop {
            if !self.node.note_fetch(order, (0, None)) {
                return End::Unwanted;
            }
            match self.store.receive(order.last) {
                Ok(receiver) => break receiver,
                // Fetched in an earlier life that did not come to installing it; or one of another cluster.
                Err(SnapshotError::Exists { .. }) => {
                    let offered = self.node.offered_history(order);
                    match use_or_set_aside(self.node.id, self.store, order.last, offered.as_ref(), false) {
                        Ok(true) => return End::Complete,
                        Ok(false) => {}
                        Err(error) => return End::Failed(error.to_string()),
                    }
                }
                // It is being deleted, or written by this very node.
                Err(SnapshotError::Busy { .. }) => self.pause(order),
                Err(error) => return End::Failed(error.to_string()),
            }
        };
        self.refusals = 0;
        self.due = Instant::now();
        while self.node.note_fetch(order, receiver.progress()) {
            let next = match self.fetch_chunk(order, &mut receiver) {
                Ok(true) => return End::Complete,
                Ok(false) => continue,
                Err(next) => next,
            };
            match next {
                Next::Fail(reason) => return End::Failed(reason),
                Next::Retry(reason) => {
                    self.node.note_fetch_error(reason);
                    self.pause(order);
                }
            }
        }
        End::Unwanted
    }

    /// Whether it was the last one.
    fn fetch_chunk(&mut self, order: Order, receiver: &mut Box<dyn SnapshotReceiver>) -> Result<bool, Next> {
        let asked = Instant::now();
        if asked < self.due {
            self.wait(order, self.due);
            return Ok(false);
        }
        let options = &self.node.options;
        // A slow line gets more time, and not the same question for ever.
        let timeout = options.snapshot_chunk_timeout.saturating_mul(1 << self.errors.min(3));
        let (group, request) = (options.group, receiver.next());
        let transport = &self.node.transport;
        let fetched = contain(|| transport.fetch_chunk(group, order.from, request, timeout)).map_err(|message| {
            self.node.panics.note(CodePlace::TransportFetch, &message);
            Next::Fail(panicked(CodePlace::TransportFetch, &message).to_string())
        })?;
        let chunk = fetched.map_err(|error| {
            let reason = std::format!("from node {}: {error}", order.from);
            match error {
                FetchError::Unreachable { .. } | FetchError::TimedOut | FetchError::Corrupt { .. } => {
                    Next::Retry(reason)
                }
                _ => Next::Fail(reason),
            }
        })?;
        if let Some(limit) = options.snapshot_fetch_bytes_per_second {
            let nanos = (chunk.data.len() as u64).saturating_mul(1_000_000_000) / limit.max(1);
            self.due = asked + Duration::from_nanos(nanos);
        }
        match receiver.accept(&chunk) {
            Ok(complete) => {
                (self.errors, self.refusals) = (0, 0);
                let Some(info) = complete else { return Ok(false) };
                let offered = self.node.offered_history(order);
                check_received(self.node.id, self.store, &info, offered.as_ref()).map_err(Next::Fail)?;
                Ok(true)
            }
            Err(error) => Err(self.refused(receiver, error)),
        }
    }

    fn refused(&mut self, receiver: &mut Box<dyn SnapshotReceiver>, error: ReceiveError) -> Next {
        let reason = error.to_string();
        let restarted = match error {
            ReceiveError::Store(error) => return Next::Fail(error.to_string()),
            // The peer took it anew, or another peer's was being received: chunks of the two do not mix.
            ReceiveError::OtherSnapshot { .. } => receiver.restart(),
            _ => Ok(()),
        };
        self.refusals += 1;
        match restarted {
            Ok(()) if self.refusals < REFUSALS_MAX => Next::Retry(reason),
            Ok(()) => Next::Fail(reason),
            Err(error) => Next::Fail(error.to_string()),
        }
    }

    fn pause(&mut self, order: Order) {
        let pause = PAUSE_MIN.saturating_mul(1 << self.errors.min(16)).min(PAUSE_MAX);
        self.errors = self.errors.saturating_add(1);
        self.wait(order, Instant::now() + pause);
    }

    /// Sleeps, unless the order is withdrawn.
    fn wait(&self, order: Order, until: Instant) {
        self.node.fetch_orders.wait_until(Some(until), || (!self.node.wants(order)).then_some(()));
    }
}

impl<M: StateMachine, L: SharedLog, T: RaftTransport> Node<M, L, T> {
    /// Whether the protocol still wants this snapshot from this server.
    fn wants(&self, order: Order) -> bool {
        self.is_running() && lock(&self.state).protocol.fetching() == Some((order.from, order.last))
    }

    /// The history that the offer named which this fetch follows.
    fn offered_history(&self, order: Order) -> Option<Arc<History>> {
        let state = lock(&self.state);
        let offered = state.protocol.fetching_membership()?;
        let wanted = state.protocol.fetching() == Some((order.from, order.last));
        wanted.then(|| offered.history().cloned())?
    }

    /// Takes note how far a fetch is. Whether it is still wanted.
    fn note_fetch(&self, order: Order, (bytes, total_bytes): (u64, Option<u64>)) -> bool {
        let mut state = lock(&self.state);
        let wanted = self.is_running() && state.protocol.fetching() == Some((order.from, order.last));
        let Order { from, last } = order;
        state.snapshots.fetch = wanted.then_some(FetchStatus { from, last, bytes, total_bytes });
        state.changed = true;
        self.release(state);
        wanted
    }

    fn note_fetch_error(&self, reason: String) {
        trace_event!(warn, node = self.id.0, "a chunk of a snapshot did not come: {reason}");
        lock(&self.state).snapshots.failure = Some(reason);
    }

    /// Tells the protocol what came of a fetch.
    fn fetch_ended(&self, order: Order, failure: Option<String>) {
        let last = order.last;
        let mut state = lock(&self.state);
        state.snapshots.fetch = None;
        state.changed = true;
        let event = match failure {
            None => {
                state.counters.snapshots_fetched += 1;
                Event::SnapshotFetched { last }
            }
            Some(reason) => {
                trace_event!(warn, node = self.id.0, last = %last, "a snapshot was not fetched: {reason}");
                state.counters.snapshot_fetches_failed += 1;
                state.snapshots.failure = Some(reason.to_string());
                // Another server may have offered the same one meanwhile: that fetch has not failed.
                if state.protocol.fetching() != Some((order.from, last)) {
                    return self.release(state);
                }
                Event::SnapshotFetchFailed { last }
            }
        };
        // Neither is ever refused.
        let _ = self.step(&mut state, event);
        self.release(state);
    }

    /// The protocol wants a snapshot of another server.
    pub(super) fn order_fetch(&self, state: &mut State<M>, order: Order) {
        trace_event!(info, node = self.id.0, from = order.from.0, last = %order.last, "needs a snapshot");
        if self.options.snapshots.is_none() {
            state.snapshots.failure = Some(format!("node {} offers one, and there is no store for it", order.from));
        }
        self.fetches.post(|orders| *orders = Some(order));
        state.wake_fetch = true;
    }
}
