//! What each role knows. The data of a role lives and dies with it.

use super::progress::Progress;
use super::read::Reads;
use crate::action::RoleKind;
use crate::types::{Index, NodeId};
use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;

/// A server's role with the data that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Role {
    Follower,
    PreCandidate(Ballot),
    Candidate(Ballot),
    Leader(Leader),
}

impl Role {
    pub(super) fn kind(&self) -> RoleKind {
        match self {
            Self::Follower => RoleKind::Follower,
            Self::PreCandidate(_) => RoleKind::PreCandidate,
            Self::Candidate(_) => RoleKind::Candidate,
            Self::Leader(_) => RoleKind::Leader,
        }
    }
}

/// The votes of one campaign. Sets, so that a duplicated answer counts once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Ballot {
    pub(super) granted: BTreeSet<NodeId>,
    pub(super) refused: BTreeSet<NodeId>,
}

impl Ballot {
    pub(super) fn record(&mut self, voter: NodeId, granted: bool) {
        if granted {
            self.granted.insert(voter);
        } else {
            self.refused.insert(voter);
        }
    }
}

/// What only a leader knows (the last box of Figure 3.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Leader {
    /// The other voters, ascending by id.
    pub(super) peers: Vec<(NodeId, Progress)>,
    /// The index of this term's no-op. What lies at or after it is of this term, so that the
    /// commit rule needs no look into the log. Never changes within a term.
    pub(super) term_start: Index,
    pub(super) uncommitted: Uncommitted,
    pub(super) reads: Reads,
    /// Whom leadership is handed over to (§3.10). While it is, this leader appends nothing.
    pub(super) transfer: Option<NodeId>,
}

impl Leader {
    pub(super) fn progress_mut(&mut self, peer: NodeId) -> Option<&mut Progress> {
        self.peers.iter_mut().find(|(id, _)| *id == peer).map(|(_, progress)| progress)
    }
}

/// The size of what this leader proposed and has not yet committed, for back-pressure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Uncommitted {
    /// Per proposal: its last index and its bytes, ascending.
    proposals: VecDeque<(Index, usize)>,
    bytes: usize,
}

impl Uncommitted {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn add(&mut self, last: Index, bytes: usize) {
        self.proposals.push_back((last, bytes));
        self.bytes += bytes;
    }

    /// Forgets the proposals that are committed as a whole.
    pub(super) fn release(&mut self, commit: Index) {
        while let Some(&(last, bytes)) = self.proposals.front() {
            if last > commit {
                break;
            }
            self.bytes -= bytes;
            self.proposals.pop_front();
        }
    }
}
