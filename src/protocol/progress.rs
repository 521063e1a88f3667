//! What a leader knows of one follower, and how much it may send to it.
//!
//! The three states are etcd's: *probe* until the logs are known to agree somewhere, then
//! *replicate* optimistically within a window; *snapshot* when the log no longer reaches back.
//! Dissertation §3.5 and §10.2.1 (pipelining).

use super::Settings;
use crate::membership::Membership;
use crate::types::{DiskId, Index, NodeId};
use alloc::collections::VecDeque;

/// A leader's view of one follower.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Progress {
    /// Highest index known durable on the follower and equal to the leader's. Starts at 0; only
    /// grows; less than `next_index`.
    pub match_index: Index,
    /// The next index to send. Runs ahead of the acknowledgements while replicating; falls back,
    /// but never to `match_index`, when the follower refuses.
    pub next_index: Index,
    /// How appends are sent at the moment.
    pub state: ProgressState,
    /// Whether the follower answered since the last quorum check.
    pub active: bool,
    /// The last round of confirmation, for reads, in which the follower said that it follows; 0 before the first.
    pub confirmed_round: u64,
    /// Which acquaintance this is: the index of the configuration that made the follower a member within this term; 0 if it
    /// was one when the term began. What answers another one is an answer of a former life, and changes nothing.
    pub session: Index,
    /// The disk on which the follower acknowledged `match_index`.
    pub disk: DiskId,
    /// What the follower had acknowledged when it said that it lost that; `None` unless it did. From then on it is believed
    /// nothing, gets heartbeats alone, and counts for no quorum, until it is removed and added again.
    pub lost: Option<Index>,
    /// The last round of confirmation that began before this acquaintance did: it was not asked of this follower.
    pub(super) round_before: u64,
    pub(super) inflight: Inflight,
    /// Where its vote counts.
    pub(super) suffrage: Suffrage,
}

/// In which of the two majorities of a configuration a server counts: both in a joint one, the first in a stable one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Suffrage {
    pub(super) voter: bool,
    pub(super) outgoing: bool,
}

impl Suffrage {
    pub(super) fn of(membership: &Membership, id: NodeId) -> Self {
        Self { voter: membership.voters().contains(&id), outgoing: membership.outgoing().contains(&id) }
    }

    pub(super) fn any(self) -> bool {
        self.voter || self.outgoing
    }
}

/// How appends are sent to a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum ProgressState {
    /// It is not known where the logs agree: one append at a time, the next one after an answer
    /// or with the next heartbeat.
    Probe {
        /// Whether the append is on its way.
        sent: bool,
    },
    /// The logs agree up to `match_index`: appends follow each other without waiting, within the
    /// window.
    Replicate,
    /// The leader's log no longer holds what the follower needs: no appends, only heartbeats.
    Snapshot,
}

impl ProgressState {
    /// The state's name in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Probe { .. } => "probe",
            Self::Replicate => "replicate",
            Self::Snapshot => "snapshot",
        }
    }
}

/// The appends on their way to a follower that is being replicated to, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Inflight {
    /// The last index and the bytes of each.
    appends: VecDeque<(Index, usize)>,
    bytes: usize,
}

impl Inflight {
    pub(super) fn len(&self) -> usize {
        self.appends.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The last index of each, oldest first.
    pub(super) fn last_indexes(&self) -> impl Iterator<Item = Index> + '_ {
        self.appends.iter().map(|(last, _)| *last)
    }

    fn add(&mut self, last: Index, bytes: usize) {
        self.appends.push_back((last, bytes));
        self.bytes += bytes;
    }

    fn free_through(&mut self, match_index: Index) {
        while let Some(&(last, bytes)) = self.appends.front() {
            if last > match_index {
                break;
            }
            self.bytes -= bytes;
            self.appends.pop_front();
        }
    }

    fn clear(&mut self) {
        self.appends.clear();
        self.bytes = 0;
    }

    /// The law of its bytes; see `invariant.rs`. Too many, and the window stays shut for good; too few, and it never shuts.
    pub(super) fn check(&self) {
        let sum: usize = self.appends.iter().map(|(_, bytes)| bytes).sum();
        assert_eq!(self.bytes, sum, "WindowBytesAreSummed");
        assert!(self.appends.iter().is_sorted_by_key(|(last, _)| *last), "WindowBytesAreSummed: oldest first");
    }
}

impl Progress {
    /// A follower of a leader whose last index is `last` (Figure 3.1: `nextIndex` starts right after the leader's last entry,
    /// `matchIndex` at 0). Rounds of confirmation up to `round_before` began before that.
    pub(super) fn new(last: Index, session: Index, round_before: u64) -> Self {
        Self {
            match_index: Index::ZERO,
            next_index: last.next(),
            state: ProgressState::Probe { sent: false },
            active: false,
            confirmed_round: 0,
            session,
            disk: DiskId::default(),
            lost: None,
            round_before,
            inflight: Inflight::default(),
            suffrage: Suffrage::default(),
        }
    }

    /// What the follower acknowledged in this session, as appends to it say.
    #[inline]
    pub(super) fn acknowledged(&self) -> Index {
        self.lost.unwrap_or(self.match_index)
    }

    /// The follower lost what it acknowledged: nothing that was known of it is true any more.
    pub(super) fn lose(&mut self) {
        self.lost = Some(self.match_index);
        self.match_index = Index::ZERO;
        self.confirmed_round = 0;
        self.active = false;
        self.become_waiting_probe();
    }

    /// How many appends are in flight to the follower.
    #[must_use]
    pub fn inflight_messages(&self) -> usize {
        self.inflight.len()
    }

    /// How many entry bytes are in flight to the follower.
    #[must_use]
    pub fn inflight_bytes(&self) -> usize {
        self.inflight.bytes()
    }

    /// Whether the window has room for another append.
    pub(super) fn window_open(&self, settings: &Settings) -> bool {
        self.inflight.len() < settings.inflight_messages_max && self.inflight.bytes() < settings.inflight_bytes_max
    }

    /// Whether there is something to send, as far as the log is durable up to `durable`.
    pub(super) fn may_send(&self, durable: Index) -> bool {
        match self.state {
            ProgressState::Probe { sent } => !sent,
            ProgressState::Replicate => self.next_index <= durable,
            ProgressState::Snapshot => false,
        }
    }

    /// Whether entries from `first` on, just appended, can go to the follower as they are: it has
    /// been sent all that came before, and its state and window let them pass.
    pub(super) fn takes_next(&self, first: Index, settings: &Settings) -> bool {
        let allowed = match self.state {
            ProgressState::Probe { sent } => !sent,
            ProgressState::Replicate => self.window_open(settings),
            ProgressState::Snapshot => false,
        };
        allowed && self.next_index == first
    }

    /// An append with `bytes` of entries up to `last` leaves.
    pub(super) fn sent(&mut self, last: Index, bytes: usize) {
        match &mut self.state {
            // What a probe carries counts as sent once the probe is answered.
            ProgressState::Probe { sent } => *sent = true,
            ProgressState::Replicate => {
                self.next_index = last.next();
                self.inflight.add(last, bytes);
            }
            ProgressState::Snapshot => {}
        }
    }

    /// The follower's log agrees up to `match_index`, on the disk that it names.
    pub(super) fn accepted(&mut self, match_index: Index, disk: DiskId) {
        // A late answer to a probe, older than what is known, proves nothing about the present one.
        if match_index < self.match_index {
            return;
        }
        let grew = match_index > self.match_index;
        self.match_index = match_index;
        self.disk = disk;
        self.next_index = self.next_index.max(match_index.next());
        self.inflight.free_through(match_index);
        match self.state {
            ProgressState::Replicate => {}
            ProgressState::Probe { .. } => self.become_replicate(),
            ProgressState::Snapshot if grew => self.become_replicate(),
            ProgressState::Snapshot => {}
        }
    }

    fn become_replicate(&mut self) {
        self.state = ProgressState::Replicate;
        self.next_index = self.match_index.next();
    }

    /// Whether a refusal of an append after `prev_index` concerns what was sent last, rather than
    /// arriving late.
    pub(super) fn refusal_is_current(&self, prev_index: Index) -> bool {
        match self.state {
            ProgressState::Replicate => prev_index > self.match_index && prev_index < self.next_index,
            ProgressState::Probe { .. } => prev_index > self.match_index && prev_index.next() == self.next_index,
            ProgressState::Snapshot => false,
        }
    }

    /// The follower refused; the logs cannot agree beyond `agree_max`.
    pub(super) fn refused(&mut self, agree_max: Index) {
        self.inflight.clear();
        self.state = ProgressState::Probe { sent: false };
        self.next_index = agree_max.next().max(self.match_index.next()).min(self.next_index);
    }

    pub(super) fn become_snapshot(&mut self) {
        self.inflight.clear();
        self.state = ProgressState::Snapshot;
    }

    /// One append is sent and waits for its answer before the next.
    pub(super) fn become_waiting_probe(&mut self) {
        self.inflight.clear();
        self.state = ProgressState::Probe { sent: true };
    }
}
