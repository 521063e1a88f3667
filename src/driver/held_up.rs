//! Why a member does not catch up with its leader.

use super::contain::CodePlace;
use super::node::{Node, State};
use super::raft::StateMachine;
use crate::log::SharedLog;
use crate::protocol::{Progress, ProgressState};
use crate::transport::{PeerTrouble, RaftTransport};
use crate::types::{EntryId, Index, NodeId};
use std::fmt;
use std::string::String;
use std::time::Duration;
use std::vec::Vec;

/// Why a member does not catch up with its leader.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum HeldUp {
    /// Nothing came from it for a minimum election timeout or longer, and the transport does not know why.
    Silent {
        /// Since when; since this node started if it never said anything.
        lasting: Duration,
    },
    /// Nothing came from it, and the transport finds no way to it.
    Unreachable {
        /// What the transport says.
        reason: String,
    },
    /// Nothing came from it, and it refuses this node in the handshake, or this node it.
    Refused {
        /// What the handshake said.
        reason: String,
    },
    /// The next entry for it is larger than what it takes in one message. If the entry is committed, the leader takes a
    /// snapshot that covers it, and the member gets that. If it is not, and too few can take it, the leader steps down.
    EntryTooLarge {
        /// The entry.
        index: Index,
        /// Its size in bytes.
        bytes: usize,
        /// What the member takes.
        limit_bytes: usize,
    },
    /// The log no longer holds what it needs, and it does not fetch the snapshot that it is offered.
    NeedsSnapshot {
        /// The last entry that the snapshot covers.
        last: EntryId,
    },
    /// It fetches a snapshot.
    FetchingSnapshot {
        /// The last entry that the snapshot covers.
        last: EntryId,
        /// What it was sent, in bytes.
        bytes: u64,
        /// The size of the whole in bytes.
        total_bytes: u64,
        /// The log keeps what follows the snapshot. Otherwise that was too much for `snapshot_hold_bytes`, or for the disk,
        /// and the member will need another snapshot.
        log_is_kept: bool,
    },
    /// It lost what it had acknowledged in this term, and stopped. It counts for no quorum until it is replaced: removed, and
    /// added under a new id, with an empty directory.
    LostData {
        /// What it had acknowledged.
        acknowledged: Index,
    },
    /// It is not known yet where its log agrees with this one.
    Probing,
    /// This node's log has the next entries for it and cannot read them at the moment, for a reason that passes: the process
    /// has too many files open, for example. They are read again with each heartbeat. If too few are left to commit anything,
    /// the leader steps down.
    LogUnreadable {
        /// The first entry that it needs.
        first: Index,
        /// What the log said.
        reason: String,
    },
    /// As much is on its way to it as may be, and it acknowledges too slowly.
    WindowFull {
        /// Appends on their way to it.
        messages: usize,
        /// Their entries, in bytes.
        bytes: usize,
    },
}

impl HeldUp {
    /// Every name, as in the Prometheus text.
    pub(super) const NAMES: [&'static str; 10] = [
        "silent",
        "unreachable",
        "refused",
        "entry_too_large",
        "needs_snapshot",
        "fetching_snapshot",
        "lost_data",
        "probing",
        "log_unreadable",
        "window_full",
    ];

    /// Its name in lower case, without what is the matter in particular.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Silent { .. } => "silent",
            Self::Unreachable { .. } => "unreachable",
            Self::Refused { .. } => "refused",
            Self::EntryTooLarge { .. } => "entry_too_large",
            Self::NeedsSnapshot { .. } => "needs_snapshot",
            Self::FetchingSnapshot { .. } => "fetching_snapshot",
            Self::LostData { .. } => "lost_data",
            Self::Probing => "probing",
            Self::LogUnreadable { .. } => "log_unreadable",
            Self::WindowFull { .. } => "window_full",
        }
    }
}

/// What is the matter with the member: `node 4: it …`.
impl fmt::Display for HeldUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent { lasting } => write!(f, "it has said nothing for {lasting:?}"),
            Self::Unreachable { reason } => write!(f, "it cannot be reached: {reason}"),
            Self::Refused { reason } => write!(f, "the handshake with it fails: {reason}"),
            Self::EntryTooLarge { index, bytes, limit_bytes } => write!(
                f,
                "entry {index} has {bytes} bytes and it takes {limit_bytes} in one message; it needs a snapshot, or a \
                 larger frame_bytes_max"
            ),
            Self::NeedsSnapshot { last } => write!(f, "it needs the snapshot up to {last} and does not fetch it"),
            Self::FetchingSnapshot { last, bytes, total_bytes, log_is_kept } => {
                write!(f, "it fetches the snapshot up to {last} and has {bytes} of {total_bytes} bytes")?;
                if *log_is_kept {
                    Ok(())
                } else {
                    f.write_str("; it will need another, because what follows was too much to keep")
                }
            }
            Self::LostData { acknowledged } => write!(
                f,
                "it lost what it had acknowledged, up to entry {acknowledged}, and counts for no quorum: remove it, \
                 and add it under a new id, with an empty directory"
            ),
            Self::Probing => f.write_str("it is being asked where its log agrees with the leader's"),
            Self::LogUnreadable { first, reason } => {
                write!(f, "entries from {first} on cannot be read for it at the moment, and are tried again: {reason}")
            }
            Self::WindowFull { messages, bytes } => {
                write!(f, "it acknowledges too slowly: {messages} messages with {bytes} bytes are on their way to it")
            }
        }
    }
}

/// When something last came from each server, in ticks of this node.
#[derive(Default)]
pub(super) struct Heard {
    now: u64,
    peers: Vec<(NodeId, u64)>,
}

impl Heard {
    /// Servers that may be remembered: each message names one, and nobody vouches for how many there are.
    const PEERS_MAX: usize = 64;

    pub(super) fn tick(&mut self) {
        self.now += 1;
    }

    #[inline]
    pub(super) fn note(&mut self, peer: NodeId) {
        match self.peers.iter_mut().find(|(id, _)| *id == peer) {
            Some((_, at)) => *at = self.now,
            None => {
                if self.peers.len() == Self::PEERS_MAX {
                    self.peers.remove(0);
                }
                self.peers.push((peer, self.now));
            }
        }
    }

    /// For how many ticks nothing came from it.
    fn silent_ticks(&self, peer: NodeId) -> u64 {
        let at = self.peers.iter().find(|(id, _)| *id == peer).map_or(0, |(_, at)| *at);
        self.now - at
    }
}

impl<M: StateMachine, L: SharedLog, T: RaftTransport> Node<M, L, T> {
    /// What is the matter with a member, as far as this node knows without its transport.
    pub(super) fn held_up(&self, state: &State<M>, peer: NodeId, progress: &Progress) -> Option<HeldUp> {
        if let Some(acknowledged) = progress.lost {
            return Some(HeldUp::LostData { acknowledged });
        }
        let silent_ticks = state.heard.silent_ticks(peer);
        if silent_ticks >= u64::from(self.election_ticks) {
            let ticks = u32::try_from(silent_ticks).unwrap_or(u32::MAX);
            return Some(HeldUp::Silent { lasting: self.tick.saturating_mul(ticks) });
        }
        if let Some(obstacle) = state.obstacles.held_up(peer) {
            return Some(obstacle);
        }
        match progress.state {
            ProgressState::Snapshot => {
                let fetches = state.snapshots.holds.of(peer).map(|hold| HeldUp::FetchingSnapshot {
                    last: hold.last,
                    bytes: hold.bytes,
                    total_bytes: hold.total_bytes,
                    log_is_kept: !hold.given_up,
                });
                Some(fetches.unwrap_or(HeldUp::NeedsSnapshot { last: state.protocol.snapshot() }))
            }
            ProgressState::Probe { .. } => Some(HeldUp::Probing),
            ProgressState::Replicate => {
                let (messages, bytes) = (progress.inflight_messages(), progress.inflight_bytes());
                let (messages_max, bytes_max) = self.inflight_max;
                let full = messages >= messages_max || bytes >= bytes_max;
                let has_more = progress.next_index <= state.protocol.durable_index();
                (full && has_more).then_some(HeldUp::WindowFull { messages, bytes })
            }
        }
    }

    /// Adds what the transport knows of it. Not under the lock.
    pub(super) fn explain(&self, peer: NodeId, held_up: &mut Option<HeldUp>) {
        if !matches!(held_up, Some(HeldUp::Silent { .. })) {
            return;
        }
        match self.panics.survive(CodePlace::TransportAddress, || self.transport.trouble(peer)).flatten() {
            Some(PeerTrouble::Refused { reason }) => *held_up = Some(HeldUp::Refused { reason }),
            Some(PeerTrouble::Unreachable { reason }) => *held_up = Some(HeldUp::Unreachable { reason }),
            None => {}
        }
    }
}
