//! Reads of the log that fail and may succeed in a moment, and who waits for them.
//!
//! A process that has too many files open cannot open a segment either; the entries in it are as durable as before. So such a
//! failure ([`RaftLog::is_transient`](crate::log::RaftLog::is_transient)) stops nobody at once. A read for a peer is dropped
//! like a message, and its next heartbeat finds that out and asks for the entries again. A read for the state machine is tried
//! again at each tick, and so is the opening of a snapshot that stands for it, for [`PATIENCE_TIMEOUTS`] minimum election timeouts; meanwhile the node does not campaign, and if it
//! leads it steps down, because its clients wait for what it cannot apply. Any other failure says that durable entries are
//! lost here, and stops the node at once.

use super::contain::{CodePlace, contain};
use super::held_up::HeldUp;
use super::node::{Node, State};
use super::obstacles::STUCK_TIMEOUTS;
use super::raft::StateMachine;
use super::stopped::StopReason;
use super::sync::lock;
use super::trace::trace_event;
use crate::event::Event;
use crate::log::{Read, SharedLog};
use crate::transport::RaftTransport;
use crate::types::{Index, NodeId};
use std::collections::BTreeMap;
use std::format;
use std::string::{String, ToString};

/// For how many minimum election timeouts a read for the state machine is tried again: 30 seconds by default.
const PATIENCE_TIMEOUTS: u32 = 60;

/// What the log cannot read at the moment.
#[derive(Default)]
pub(super) struct Unreadable {
    /// For each peer that waits: the first entry that it needs, and what the log said.
    peers: BTreeMap<NodeId, (Index, String)>,
    /// The state machine waits.
    apply: Option<Waiting>,
}

/// A read for the state machine that failed.
struct Waiting {
    /// What it needs, and what the log or the store of snapshots said the last time.
    reason: String,
    /// For how many ticks it has waited.
    ticks: u32,
    /// How often the log was asked.
    tries: u32,
}

impl Unreadable {
    pub(super) fn held_up(&self, peer: NodeId) -> Option<HeldUp> {
        let (first, reason) = self.peers.get(&peer)?.clone();
        Some(HeldUp::LogUnreadable { first, reason })
    }

    pub(super) fn concerns(&self, peer: NodeId) -> bool {
        self.peers.contains_key(&peer)
    }

    pub(super) fn keeps_from_applying(&self) -> bool {
        self.apply.is_some()
    }

    /// What the log said, while the state machine waits for it.
    pub(super) fn status(&self) -> Option<String> {
        self.apply.as_ref().map(|waiting| waiting.reason.clone())
    }

    /// The log read something for this peer.
    pub(super) fn was_read(&mut self, peer: NodeId) {
        self.peers.remove(&peer);
    }

    /// Only these peers lag, and hold what is given here.
    pub(super) fn keep_only(&mut self, lagging: &[(NodeId, Index)]) {
        self.peers.retain(|peer, (first, _)| lagging.iter().any(|(id, held)| id == peer && held < first));
    }

    pub(super) fn forget_peers(&mut self) {
        self.peers.clear();
    }
}

/// Why a read failed.
pub(super) enum Unread {
    /// For a reason that passes.
    Transient(String),
    /// For good: what the node stops with.
    Lost(StopReason),
}

impl<M: StateMachine, L: SharedLog, T: RaftTransport> Node<M, L, T> {
    /// Reads entries from the medium for somebody.
    pub(super) fn read_cold(&self, whom: &str, first: Index, end: Index, bytes_max: usize) -> Result<Read, Unread> {
        let describe = |error: &L::Error| (L::is_transient(error), error.to_string());
        let read = contain(|| L::read_cold(&self.view, first, end, bytes_max).map_err(|error| describe(&error)));
        match read {
            Ok(Ok(read)) => Ok(read),
            Ok(Err((true, error))) => Err(Unread::Transient(error)),
            Ok(Err((false, error))) => {
                let message = format!("{whom} from {first} on cannot be read from the log: {error}");
                Err(Unread::Lost(StopReason::LogReadFailed { message }))
            }
            Err(message) => Err(Unread::Lost(StopReason::Panicked { place: CodePlace::LogRead, entry: None, message })),
        }
    }

    /// Entries for this peer could not be read. Its next heartbeat has them read again.
    pub(super) fn unreadable_for_peer(&self, peer: NodeId, first: Index, reason: String) {
        let mut state = lock(&self.state);
        state.counters.log_reads_failed += 1;
        state.changed = true;
        if !state.obstacles.unreadable.concerns(peer) {
            trace_event!(
                warn,
                node = self.id.0,
                peer = peer.0,
                "entries from {first} on cannot be read for a peer: {reason}"
            );
        }
        state.obstacles.unreadable.peers.insert(peer, (first, reason));
        self.release(state);
    }

    /// What the state machine needs next could not be read: the next tick tells the apply thread to try again. If that goes on
    /// for too long, the node stops for this reason.
    ///
    /// # Errors
    /// It has gone on for too long.
    pub(super) fn unreadable_for_machine(&self, stops: StopReason) -> Result<(), StopReason> {
        let reason = stops.to_string();
        let mut state = lock(&self.state);
        state.counters.log_reads_failed += 1;
        state.changed = true;
        let (ticks, tries) = match &state.obstacles.unreadable.apply {
            Some(waiting) => (waiting.ticks, waiting.tries + 1),
            None => {
                trace_event!(warn, node = self.id.0, "{reason}; this is tried again at each tick");
                (0, 1)
            }
        };
        state.obstacles.unreadable.apply = Some(Waiting { reason, ticks, tries });
        self.release(state);
        if ticks < PATIENCE_TIMEOUTS * self.election_ticks {
            return Ok(());
        }
        let tried = format!("; it was tried {tries} times in {ticks} ticks");
        Err(match stops {
            StopReason::SnapshotNotRestored { snapshot, message } => {
                StopReason::SnapshotNotRestored { snapshot, message: message + &tried }
            }
            StopReason::LogReadFailed { message } => StopReason::LogReadFailed { message: message + &tried },
            other => other,
        })
    }

    /// The state machine has what it waited for.
    pub(super) fn readable_for_machine(&self) {
        let mut state = lock(&self.state);
        if let Some(Waiting { tries, ticks, .. }) = state.obstacles.unreadable.apply.take() {
            trace_event!(info, node = self.id.0, "the log can be read again, after {tries} tries in {ticks} ticks");
            let _ = (tries, ticks);
            state.changed = true;
        }
        self.release(state);
    }

    /// A tick passed: the apply thread tries again what it could not read.
    pub(super) fn tick_unreadable(&self, state: &mut State<M>) {
        let Some(waiting) = &mut state.obstacles.unreadable.apply else { return };
        waiting.ticks += 1;
        let stuck = waiting.ticks >= STUCK_TIMEOUTS * self.election_ticks;
        state.wake_apply |= self.applies.post(|work| work.read_again = true) == Some(true);
        if stuck && state.leading.is_some() {
            trace_event!(warn, node = self.id.0, "this node cannot apply what is committed: it steps down");
            let _ = self.step(state, Event::StepDown);
        }
    }
}
