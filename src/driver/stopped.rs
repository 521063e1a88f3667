//! The end of a node as a state: the role `Stopped`, and why.
//!
//! A node that is shut down or has stopped for good leads nobody and follows nobody, whatever its protocol did last. So the
//! role that the driver shows is one of its own: the protocol's while the node works, [`NodeRole::Stopped`] from then on.

use super::contain::CodePlace;
use crate::action::RoleKind;
use crate::types::{EntryId, Index, NodeId, Term};
use std::string::String;
use thiserror::Error;

/// What a node is at the moment: its protocol's role while it works, and `Stopped` from its end on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum NodeRole {
    /// It follows a leader, or waits for one.
    Follower,
    /// It asks whether an election could succeed (§9.6).
    PreCandidate,
    /// It runs for leader in its term.
    Candidate,
    /// It leads its term.
    Leader,
    /// It is shut down or has stopped for good: it answers nothing, sends nothing and writes nothing.
    Stopped,
}

impl NodeRole {
    /// Every role.
    pub const ALL: [Self; 5] = [Self::Follower, Self::PreCandidate, Self::Candidate, Self::Leader, Self::Stopped];

    /// The role's name in lower case, as in status output: `follower`, `pre-candidate`, …
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Follower => RoleKind::Follower.name(),
            Self::PreCandidate => RoleKind::PreCandidate.name(),
            Self::Candidate => RoleKind::Candidate.name(),
            Self::Leader => RoleKind::Leader.name(),
            Self::Stopped => "stopped",
        }
    }
}

impl From<RoleKind> for NodeRole {
    fn from(role: RoleKind) -> Self {
        match role {
            RoleKind::Follower => Self::Follower,
            RoleKind::PreCandidate => Self::PreCandidate,
            RoleKind::Candidate => Self::Candidate,
            RoleKind::Leader => Self::Leader,
        }
    }
}

/// A stopped node has none of the protocol's roles.
impl PartialEq<RoleKind> for NodeRole {
    fn eq(&self, role: &RoleKind) -> bool {
        *self == Self::from(*role)
    }
}

impl PartialEq<NodeRole> for RoleKind {
    fn eq(&self, role: &NodeRole) -> bool {
        role == self
    }
}

/// Why a node stopped. Only [`Shutdown`](Self::Shutdown) was asked for; after any other reason the node has stopped for
/// good (law 6): find the cause, then start the program anew.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum StopReason {
    /// It was shut down, or its last handle was dropped.
    #[error("it was shut down")]
    Shutdown,
    /// The log failed to append or to sync. What it was writing may be lost here, and was acknowledged to nobody. Look at
    /// the disk.
    #[error("{message}")]
    LogWriteFailed {
        /// What failed, and what the log said.
        message: String,
    },
    /// The log could not read back entries that it holds: for the state machine, or for a peer. Look at the disk.
    #[error("{message}")]
    LogReadFailed {
        /// What failed, and what the log said.
        message: String,
    },
    /// The log gave other entries than those that are committed, or none. It breaks its contract; do not start this server
    /// with it again before that is understood.
    #[error("{message}")]
    LogInconsistent {
        /// What was asked for and what came.
        message: String,
    },
    /// A leader's snapshot could not be restored: the state machine's state is neither the old nor the new one. A restart
    /// restores it anew.
    #[error("the snapshot up to {snapshot} cannot be restored: {message}")]
    SnapshotNotRestored {
        /// The last entry that it covers.
        snapshot: EntryId,
        /// What the store or the state machine said.
        message: String,
    },
    /// Code that the node was given panicked in a place where it cannot go on without it.
    #[error("{place} panicked{}: {message}", at(*entry))]
    Panicked {
        /// Where.
        place: CodePlace,
        /// The entry that the state machine was applying.
        entry: Option<EntryId>,
        /// What the panic said.
        message: String,
    },
    /// The log's directory is an older copy of the one that this server had, or another one: a peer remembers more of it. It
    /// may have forgotten votes and acknowledged entries. Remove its id from the cluster, and add the server under a new id.
    #[error("{message}")]
    DataLost {
        /// Who found it, and what is missing.
        message: String,
    },
    /// The leader named what this server had acknowledged to it in this term, and the disk lacks that: an older copy of it was
    /// put back, or it did not keep what it had synced. The server may have forgotten votes too. Do not start it again with
    /// this disk: remove its id from the cluster, and add the server under a new id, with an empty directory.
    #[error(
        "this server acknowledged entries up to {acknowledged} to node {leader} in term {term}, and its disk, which holds \
         entries up to {durable}, lacks some of them: it lost data, and votes may be among it; remove its id from the cluster, \
         and add the server under a new id, with an empty directory"
    )]
    LostAcknowledged {
        /// The leader to which it acknowledged.
        leader: NodeId,
        /// The leader's term.
        term: Term,
        /// What it acknowledged.
        acknowledged: Index,
        /// Where its durable log ends.
        durable: Index,
    },
    /// An invariant of this library is broken: a bug, please report it.
    #[error("{message}")]
    Internal {
        /// What was found.
        message: String,
    },
}

fn at(entry: Option<EntryId>) -> String {
    entry.map_or_else(String::new, |id| std::format!(" at {id}"))
}

impl StopReason {
    /// The name of every reason, as in the Prometheus text.
    pub(super) const NAMES: [&'static str; 9] = [
        "shutdown",
        "log_write",
        "log_read",
        "log_inconsistent",
        "snapshot_restore",
        "panic",
        "data_lost",
        "lost_acknowledged",
        "internal",
    ];

    /// Its name in lower case, without what happened in particular: `shutdown`, `log_write`, …
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Shutdown => "shutdown",
            Self::LogWriteFailed { .. } => "log_write",
            Self::LogReadFailed { .. } => "log_read",
            Self::LogInconsistent { .. } => "log_inconsistent",
            Self::SnapshotNotRestored { .. } => "snapshot_restore",
            Self::Panicked { .. } => "panic",
            Self::DataLost { .. } => "data_lost",
            Self::LostAcknowledged { .. } => "lost_acknowledged",
            Self::Internal { .. } => "internal",
        }
    }

    /// The node did not stop because it was asked to.
    #[must_use]
    pub const fn is_fatal(&self) -> bool {
        !matches!(self, Self::Shutdown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn a_stopped_node_has_no_role_of_the_protocol() {
        for role in [RoleKind::Follower, RoleKind::PreCandidate, RoleKind::Candidate, RoleKind::Leader] {
            assert_ne!(NodeRole::Stopped, role);
            assert_eq!(NodeRole::from(role), role);
            assert_eq!(role, NodeRole::from(role));
            assert_eq!(NodeRole::from(role).name(), role.name());
        }
    }

    #[test]
    fn every_reason_has_a_name_and_says_what_happened() {
        let message = || "the disk is gone".to_string();
        let reasons = [
            StopReason::Shutdown,
            StopReason::LogWriteFailed { message: message() },
            StopReason::LogReadFailed { message: message() },
            StopReason::LogInconsistent { message: message() },
            StopReason::SnapshotNotRestored { snapshot: EntryId::new(7, 2), message: message() },
            StopReason::Panicked { place: CodePlace::Apply, entry: Some(EntryId::new(7, 2)), message: message() },
            StopReason::DataLost { message: message() },
            StopReason::LostAcknowledged {
                leader: NodeId(1),
                term: Term(2),
                acknowledged: Index(7),
                durable: Index(3),
            },
            StopReason::Internal { message: message() },
        ];
        assert_eq!(reasons.each_ref().map(StopReason::name), StopReason::NAMES);
        for reason in &reasons[1..] {
            let says = ["the disk is gone", "remove its id from the cluster, and add the server under a new id"];
            assert!(reason.is_fatal() && says.iter().any(|says| reason.to_string().contains(says)), "{reason}");
        }
        assert!(!reasons[0].is_fatal());
        assert_eq!(reasons[5].to_string(), "StateMachine::apply panicked at 7@2: the disk is gone");
    }
}
