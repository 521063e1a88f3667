//! What each role knows. The data of a role lives and dies with it.

use super::progress::{Progress, Suffrage};
use super::read::{FollowerReads, Reads};
use crate::action::RoleKind;
use crate::quorum::reached_by_majority;
use crate::types::{Index, NodeId};
use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;

/// A server's role with the data that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Role {
    Follower(FollowerReads),
    PreCandidate(Ballot),
    Candidate(Ballot),
    Leader(Leader),
}

impl Role {
    pub(super) fn kind(&self) -> RoleKind {
        match self {
            Self::Follower(_) => RoleKind::Follower,
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
    /// The other members, ascending by id.
    pub(super) peers: Vec<(NodeId, Progress)>,
    /// Where this leader's own vote counts.
    pub(super) suffrage: Suffrage,
    /// How many voters there are in the two majorities; the second is 0 unless the configuration is joint.
    pub(super) voters: (usize, usize),
    /// No change is under way, none is due by itself, and this leader has a vote.
    pub(super) is_settled: bool,
    /// The index of this term's no-op. What lies at or after it is of this term, so that the
    /// commit rule needs no look into the log. Never changes within a term.
    pub(super) term_start: Index,
    pub(super) uncommitted: Uncommitted,
    pub(super) reads: Reads,
    /// Whom leadership is handed over to (§3.10). While it is, this leader appends nothing.
    pub(super) transfer: Option<NodeId>,
}

impl Leader {
    pub(super) fn progress(&self, peer: NodeId) -> Option<&Progress> {
        self.peers.iter().find(|(id, _)| *id == peer).map(|(_, progress)| progress)
    }

    pub(super) fn progress_mut(&mut self, peer: NodeId) -> Option<&mut Progress> {
        self.peers.iter_mut().find(|(id, _)| *id == peer).map(|(_, progress)| progress)
    }

    /// The highest value that a quorum has reached, given this leader's own and its peers': a majority of the voters, and
    /// in a joint configuration one of the outgoing voters too (§4.3).
    #[inline]
    pub(super) fn reached_by_quorum<V>(&self, own: V, of_peer: impl Fn(&Progress) -> V) -> V
    where
        V: Copy + Ord + Default,
    {
        let reached = |counts: fn(Suffrage) -> bool, count| {
            let own = counts(self.suffrage).then_some(own);
            let peers = self.peers.iter().filter(move |(_, peer)| counts(peer.suffrage)).map(|(_, peer)| of_peer(peer));
            reached_by_majority(own.into_iter().chain(peers), count)
        };
        let by_voters = reached(|suffrage| suffrage.voter, self.voters.0);
        if self.voters.1 == 0 {
            return by_voters;
        }
        by_voters.min(reached(|suffrage| suffrage.outgoing, self.voters.1))
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

    /// The law of its bytes; see `invariant.rs`. Too many, and a leader refuses proposals for good; too few, and it never does.
    pub(super) fn check(&self, commit: Index, last: Index) {
        let sum: usize = self.proposals.iter().map(|(_, bytes)| bytes).sum();
        assert_eq!(self.bytes, sum, "UncommittedBytesAreSummed");
        let open = self.proposals.iter().all(|(index, _)| *index > commit && *index <= last);
        assert!(open, "UncommittedBytesAreSummed: of what is not committed");
    }
}
