//! What the log keeps for peers that fetch a snapshot.
//!
//! A peer that fetches a snapshot needs, when it has it, what follows: if the log has forgotten that by then, the peer begins
//! anew with the next snapshot, and never catches up where snapshots are due faster than it fetches. So while a peer is being
//! served, and until everything has been sent to it, compaction stops at what it holds, within a bound in bytes
//! (`DriverOptions::snapshot_hold_bytes`). Beyond the bound, or when the log's disk runs out of space, what was kept goes,
//! and the status says so.

use super::node::{Node, State};
use super::raft::StateMachine;
use super::trace::trace_event;
use crate::event::Event;
use crate::log::{LogView, SharedLog};
use crate::protocol::{Progress, ProgressState};
use crate::snapshot::Chunk;
use crate::transport::RaftTransport;
use crate::types::{EntryId, Index, NodeId};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a peer may neither ask for a chunk nor acknowledge anything before the log keeps nothing for it any longer.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// What is kept for one peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hold {
    /// The last entry that the snapshot covers.
    pub(super) last: EntryId,
    /// What it has fetched, and the size of the whole, in bytes.
    pub(super) bytes: u64,
    pub(super) total_bytes: u64,
    /// What it acknowledged; at least the snapshot, once it has that.
    matched: Index,
    /// When it last did anything.
    seen: Instant,
    /// The log keeps nothing for it any longer.
    pub(super) given_up: bool,
}

/// What is kept for whom.
#[derive(Default)]
pub(super) struct Holds {
    peers: BTreeMap<NodeId, Hold>,
    /// Up to where the log would have been compacted without anybody being served.
    wanted: Index,
}

impl Holds {
    pub(super) fn of(&self, peer: NodeId) -> Option<&Hold> {
        self.peers.get(&peer)
    }

    /// A peer gets this chunk.
    fn note(&mut self, peer: NodeId, chunk: &Chunk) {
        let (last, seen) = (chunk.snapshot, Instant::now());
        let bytes = chunk.number.saturating_mul(u64::from(chunk.chunk_bytes)).saturating_add(chunk.data.len() as u64);
        let total_bytes = chunk.total_bytes;
        match self.peers.get_mut(&peer).filter(|hold| hold.last == last) {
            Some(hold) => (hold.bytes, hold.seen) = (bytes, seen),
            None => {
                let hold = Hold { last, bytes, total_bytes, matched: Index::ZERO, seen, given_up: false };
                self.peers.insert(peer, hold);
            }
        }
    }

    /// Up to where the log is compacted, where all up to `wanted` could go: at what the peers need, as long as that lies
    /// after `floor`, the bound. Those who need more are given up.
    fn hold_back(&mut self, wanted: Index, floor: Index) -> Index {
        self.wanted = wanted;
        let mut through = wanted;
        for hold in self.peers.values_mut() {
            let needs = hold.last.index.max(hold.matched);
            hold.given_up |= needs < floor.min(wanted);
            if !hold.given_up {
                through = through.min(needs);
            }
        }
        through
    }

    /// Whoever has been sent everything, or does nothing any more, needs nothing.
    fn release<'a>(&mut self, progress: impl Iterator<Item = (NodeId, &'a Progress)>, durable: Index) {
        let mut kept = BTreeMap::new();
        for (peer, progress) in progress {
            let Some(mut hold) = self.peers.remove(&peer) else { continue };
            if progress.match_index > hold.matched {
                (hold.matched, hold.seen) = (progress.match_index, Instant::now());
            }
            let follows = progress.state == ProgressState::Replicate && progress.next_index > durable;
            let done = follows && hold.matched >= hold.last.index;
            if !done && hold.seen.elapsed() < IDLE_MAX {
                kept.insert(peer, hold);
            }
        }
        // The others are no members any more, or this node does not lead.
        self.peers = kept;
    }
}

impl<M: StateMachine, L: SharedLog, T: RaftTransport> Node<M, L, T> {
    /// A peer gets this chunk: the log keeps what follows its snapshot.
    pub(super) fn hold_for(&self, state: &mut State<M>, peer: NodeId, chunk: &Chunk) {
        if state.leading.is_some() {
            state.snapshots.holds.note(peer, chunk);
            state.changed = true;
        }
    }

    /// Up to where the log is compacted with a snapshot; see [`Holds::hold_back`].
    pub(super) fn hold_back(&self, state: &mut State<M>, wanted: Index, floor: Index) -> Index {
        let State { protocol, snapshots, counters, .. } = state;
        snapshots.holds.release(protocol.progress(), protocol.durable_index());
        let given_up = |holds: &Holds| holds.peers.values().filter(|hold| hold.given_up).count() as u64;
        let before = given_up(&snapshots.holds);
        let through = snapshots.holds.hold_back(wanted, floor);
        let more = given_up(&snapshots.holds) - before;
        if more > 0 {
            counters.log_holds_given_up += more;
            trace_event!(
                warn,
                node = self.id.0,
                "the log keeps no more for {more} who fetch a snapshot: too much of it"
            );
        }
        through
    }

    /// A tick passed: what nobody needs any more goes.
    pub(super) fn tick_holds(&self, state: &mut State<M>) {
        let State { protocol, snapshots, .. } = state;
        let wanted = snapshots.holds.wanted;
        if snapshots.holds.peers.is_empty() && wanted == Index::ZERO {
            return;
        }
        snapshots.holds.release(protocol.progress(), protocol.durable_index());
        // None of those who are left is given up by this: the bound is for what comes with the next snapshot.
        let through = snapshots.holds.hold_back(wanted, Index::ZERO);
        let last = protocol.snapshot();
        if through == wanted {
            snapshots.holds.wanted = Index::ZERO;
        }
        if through > self.view.base().index && last.index >= through && snapshots.durable == last {
            // It can only be refused as outdated, and then a newer one does the same.
            let _ = self.step(state, Event::SnapshotTaken { last, compact_through: through });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn chunk(last: u64, number: u64) -> Chunk {
        Chunk {
            snapshot: EntryId::new(last, 1),
            identity: 1,
            number,
            total_bytes: 30,
            chunk_bytes: 10,
            metadata: Bytes::new(),
            checksum: 0,
            data: Bytes::from_static(&[0; 10]),
        }
    }

    #[test]
    fn compaction_stops_at_what_the_furthest_behind_needs_within_the_bound() {
        let mut holds = Holds::default();
        assert_eq!(holds.hold_back(Index(100), Index(50)), Index(100), "nobody is served");
        holds.note(NodeId(2), &chunk(90, 0));
        holds.note(NodeId(3), &chunk(70, 1));
        assert_eq!(holds.of(NodeId(3)).map(|hold| (hold.bytes, hold.total_bytes)), Some((20, 30)));
        assert_eq!(holds.hold_back(Index(200), Index(50)), Index(70));
        // One needs more than the bound allows: what it needed goes, what the other needs stays.
        assert_eq!(holds.hold_back(Index(300), Index(80)), Index(90));
        let given_up = |holds: &Holds, peer| holds.of(NodeId(peer)).is_some_and(|hold| hold.given_up);
        assert!(given_up(&holds, 3) && !given_up(&holds, 2));
        // Space wins.
        assert_eq!(holds.hold_back(Index(400), Index::MAX), Index(400));
        assert!(given_up(&holds, 2));
        // A fetch that begins anew is a new beginning.
        holds.note(NodeId(2), &chunk(400, 0));
        assert_eq!(holds.hold_back(Index(500), Index(300)), Index(400));
    }
}
