//! Entries that a peer cannot be sent, and the way around them.
//!
//! A leader accepts no command that one of the voters would not take (`proposals`). But its log may hold one from an earlier
//! configuration or transport, or a peer may come back with smaller frames than it had. Such an entry never arrives, and
//! nothing behind it does. If it is committed, a snapshot brings its effect: the leader takes one, and its log forgets the
//! entry, so that the peer is offered the snapshot. If it is not, and without the peers that cannot take it there is no
//! quorum, nothing would be committed any more: the leader steps down and for a while does not campaign, so that one can be
//! elected which does not have the entry and replaces it. Either way the status says which entry it is and what to do.
//! The same holds for peers whose entries the log cannot read at the moment ([`super::unreadable`]).

use super::contain::{CodePlace, contain};
use super::held_up::HeldUp;
use super::node::{Node, State};
use super::raft::StateMachine;
use super::sync::atomic::Ordering;
use super::sync::lock;
use super::trace::trace_event;
use super::unreadable::Unreadable;
use crate::event::Event;
use crate::log::{LogView, Read, SharedLog};
use crate::membership::Membership;
use crate::message::{Envelope, Message};
use crate::protocol::{Progress, ProgressState};
use crate::transport::{MessageLimits, RaftTransport};
use crate::types::{Entry, Index, NodeId};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use std::vec::Vec;

/// For how many minimum election timeouts a leader leads on though nothing can be committed.
pub(super) const STUCK_TIMEOUTS: u32 = 2;
/// For how many of them it does not campaign afterwards.
const ABSTAINING_TIMEOUTS: u32 = 8;
/// How long before a snapshot that did not come is asked for again.
const SNAPSHOT_AGAIN: Duration = Duration::from_secs(5);

/// An entry that a peer does not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TooLarge {
    index: Index,
    bytes: usize,
    limit_bytes: usize,
}

/// What a leader's peers cannot be sent.
#[derive(Default)]
pub(super) struct Obstacles {
    too_large: BTreeMap<NodeId, TooLarge>,
    /// The size of the entry that was last read from the log for each peer, if it was read alone.
    cold: BTreeMap<NodeId, (Index, usize)>,
    /// What the log cannot read at the moment.
    pub(super) unreadable: Unreadable,
    /// For how many ticks nothing could be committed because of them.
    stuck_ticks: u32,
    /// For how many ticks this node does not campaign.
    abstaining_ticks: u32,
    /// When a snapshot was asked for.
    asked: Option<Instant>,
}

impl Obstacles {
    pub(super) fn abstains(&self) -> bool {
        self.abstaining_ticks > 0 || self.unreadable.keeps_from_applying()
    }

    pub(super) fn held_up(&self, peer: NodeId) -> Option<HeldUp> {
        match self.too_large.get(&peer) {
            Some(&TooLarge { index, bytes, limit_bytes }) => Some(HeldUp::EntryTooLarge { index, bytes, limit_bytes }),
            None => self.unreadable.held_up(peer),
        }
    }

    /// This was read from the log for a peer, and is sent now.
    pub(super) fn note_cold(&mut self, envelope: &Envelope) {
        let Message::AppendEntriesRequest(request) = &envelope.message else { return };
        self.unreadable.was_read(envelope.to);
        if let [entry] = &request.entries[..] {
            self.cold.insert(envelope.to, (entry.id.index, entry.size_bytes()));
        }
    }

    fn forget(&mut self) {
        self.too_large.clear();
        self.cold.clear();
        self.unreadable.forget_peers();
        self.stuck_ticks = 0;
        self.asked = None;
    }
}

impl<M: StateMachine, L: SharedLog, T: RaftTransport> Node<M, L, T> {
    /// The voter that takes least in one message, if it is less than this node's transport carries: the most bytes that a
    /// command may have for it. `None` where nobody is led.
    pub(super) fn narrowest_voter(&self) -> Option<(NodeId, usize)> {
        let state = lock(&self.state);
        let membership = state.protocol.membership();
        let votes = |id: NodeId| membership.is_voter(id) || membership.outgoing().contains(&id);
        let voters: Vec<_> = state.protocol.progress().map(|(id, _)| id).filter(|id| votes(*id)).collect();
        drop(state);
        let takes = self.limits_of_peers(voters);
        let narrowest = takes.into_iter().min_by_key(|(_, limits)| limits.entry_bytes_max);
        narrowest.map(|(id, limits)| (id, limits.entry_bytes_max.saturating_sub(Entry::OVERHEAD_BYTES)))
    }

    /// Asks the transport, which is the user's code: not under the lock.
    fn limits_of_peers(&self, peers: Vec<NodeId>) -> Vec<(NodeId, MessageLimits)> {
        let ask = || peers.into_iter().map(|peer| (peer, self.transport.limits_of(peer))).collect();
        self.panics.survive(CodePlace::TransportLimits, ask).unwrap_or_default()
    }

    /// A tick passed: is there anything that a peer is not sent because it would not take it?
    pub(super) fn tick_obstacles(&self) {
        let mut state = lock(&self.state);
        state.obstacles.abstaining_ticks = state.obstacles.abstaining_ticks.saturating_sub(1);
        let last = state.protocol.last().index;
        let lags = |progress: &Progress| progress.match_index < last && progress.state != ProgressState::Snapshot;
        let lagging = state.protocol.progress().filter(|(_, progress)| lags(progress));
        let lagging: Vec<_> = lagging.map(|(id, progress)| (id, progress.match_index)).collect();
        state.obstacles.unreadable.keep_only(&lagging);
        let lagging: Vec<_> = lagging.into_iter().map(|(id, _)| id).collect();
        if lagging.is_empty() {
            return state.obstacles.forget();
        }
        drop(state);
        let limits = self.limits_of_peers(lagging);
        let mut state = lock(&self.state);
        let mut found = BTreeMap::new();
        for (peer, limits) in limits {
            match contain(|| self.too_large(&state, peer, limits)) {
                Ok(entry) => found.extend(entry.map(|entry| (peer, entry))),
                Err(message) => {
                    self.fail_at(&mut state, CodePlace::LogView, message);
                    return self.release(state);
                }
            }
        }
        for (peer, &TooLarge { index, bytes, limit_bytes }) in &found {
            if state.obstacles.too_large.get(peer).is_none_or(|known| known.index != index) {
                state.counters.entries_too_large += 1;
                let held_up = HeldUp::EntryTooLarge { index, bytes, limit_bytes };
                trace_event!(warn, node = self.id.0, peer = peer.0, "a peer does not catch up: {held_up}");
                let _ = held_up;
            }
        }
        state.changed |= found != state.obstacles.too_large;
        state.obstacles.too_large = found;
        self.go_around(&mut state);
        self.release(state);
    }

    /// The next entry for this peer, if it does not take it.
    fn too_large(&self, state: &State<M>, peer: NodeId, limits: MessageLimits) -> Option<TooLarge> {
        let (_, progress) = state.protocol.progress().find(|(id, _)| *id == peer)?;
        let index = progress.match_index.next();
        // A probe that goes on looks for where the logs agree.
        let agrees = progress.state == ProgressState::Replicate || progress.next_index == index;
        if !agrees {
            return None;
        }
        let bytes = match self.view.read(index, index.next(), 0) {
            Read::Entries(entries) => entries.first()?.size_bytes(),
            Read::Cold => state.obstacles.cold.get(&peer).filter(|(read, _)| *read == index)?.1,
            Read::Compacted => return None,
        };
        let limit_bytes = limits.entry_bytes_max;
        (bytes > limit_bytes).then_some(TooLarge { index, bytes, limit_bytes })
    }

    fn go_around(&self, state: &mut State<M>) {
        let committed = state.protocol.commit_index();
        let applied = Index(self.applied_index.load(Ordering::SeqCst)).min(committed);
        let covers =
            state.obstacles.too_large.values().map(|entry| entry.index).filter(|index| *index <= applied).max();
        if let Some(index) = covers {
            self.cover(state, index);
        }
        let waits = state.protocol.last().index > committed;
        let blocks = |id: NodeId| {
            let Obstacles { too_large, unreadable, .. } = &state.obstacles;
            too_large.get(&id).is_some_and(|entry| entry.index > committed) || (waits && unreadable.concerns(id))
        };
        if !state.protocol.progress().any(|(id, _)| blocks(id)) || has_quorum(state, self.id, blocks) {
            state.obstacles.stuck_ticks = 0;
            return;
        }
        state.obstacles.stuck_ticks += 1;
        if state.obstacles.stuck_ticks >= STUCK_TIMEOUTS * self.election_ticks {
            trace_event!(warn, node = self.id.0, "too few can be sent the next entry: this node steps down");
            state.obstacles.forget();
            state.obstacles.abstaining_ticks = ABSTAINING_TIMEOUTS * self.election_ticks;
            let _ = self.step(state, Event::StepDown);
        }
    }

    /// Has a snapshot take the place of everything up to `index`, which is applied.
    fn cover(&self, state: &mut State<M>, index: Index) {
        let last = state.protocol.snapshot();
        if self.options.snapshots.is_none() || state.snapshots.taking.is_some() {
            return;
        }
        if last.index >= index {
            // It can only be refused as outdated, and then a newer one does the same.
            let _ = self.step(state, Event::SnapshotTaken { last, compact_through: index });
        } else if state.obstacles.asked.is_none_or(|asked| asked.elapsed() >= SNAPSHOT_AGAIN) {
            state.obstacles.asked = Some(Instant::now());
            state.wake_apply |= self.applies.post(|work| work.snapshot_wanted = true) == Some(true);
        }
    }
}

/// Whether those who answer, without the ones that cannot be sent what comes next, can commit it.
fn has_quorum<M: StateMachine>(state: &State<M>, own: NodeId, blocks: impl Fn(NodeId) -> bool) -> bool {
    let answers = |id| state.protocol.progress().any(|(peer, progress)| peer == id && progress.active);
    let takes = |id: &&NodeId| **id == own || (answers(**id) && !blocks(**id));
    let majority = |voters: &[NodeId]| voters.is_empty() || 2 * voters.iter().filter(takes).count() > voters.len();
    let membership = state.protocol.membership();
    majority(membership.voters()) && majority(membership.outgoing())
}

/// Commands up to this many bytes every peer takes, because it takes any configuration.
pub(super) const ALWAYS_TAKEN_BYTES: usize = Membership::ENCODED_BYTES_MAX;
