//! The algebra of majorities: pure functions, no state.

use crate::membership::Membership;
use crate::types::{Index, NodeId};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

/// The proof that a quorum granted its votes. Only [`vote_result`] makes one, and only with one
/// can a node become a leader or a candidate.
#[derive(Debug)]
#[must_use]
pub struct VoteQuorum(());

/// The state of a ballot.
#[derive(Debug)]
pub enum VoteResult {
    /// A quorum granted.
    Won(VoteQuorum),
    /// So many refused that no quorum can grant any more.
    Lost,
    /// Not yet decided.
    Pending,
}

/// How many of `voters` make a majority.
#[must_use]
pub const fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// The result of a ballot in which these servers granted and refused. In a joint configuration it is won with both
/// majorities, and lost as soon as one of them is out of reach (§4.3). Without voters it is lost.
pub fn vote_result(membership: &Membership, granted: &BTreeSet<NodeId>, refused: &BTreeSet<NodeId>) -> VoteResult {
    let count = |voters: &[NodeId], set: &BTreeSet<NodeId>| voters.iter().filter(|id| set.contains(id)).count();
    let is_won = |voters: &[NodeId]| count(voters, granted) >= majority(voters.len());
    let is_lost = |voters: &[NodeId]| voters.len() - count(voters, refused) < majority(voters.len());
    let (voters, outgoing) = (membership.voters(), membership.outgoing());
    if is_lost(voters) || (membership.is_joint() && is_lost(outgoing)) {
        VoteResult::Lost
    } else if is_won(voters) && (!membership.is_joint() || is_won(outgoing)) {
        VoteResult::Won(VoteQuorum(()))
    } else {
        VoteResult::Pending
    }
}

/// The highest index that a majority of voters has reached, given the index of each; O(voters) for
/// clusters of the usual size.
#[must_use]
pub fn committed_index(matches: impl ExactSizeIterator<Item = Index>) -> Index {
    let count = matches.len();
    reached_by_majority(matches, count)
}

/// The highest value that a majority of `count` voters has reached, given the value of each. Without voters: the least
/// value there is.
pub(crate) fn reached_by_majority<V>(reached: impl Iterator<Item = V>, count: usize) -> V
where
    V: Copy + Ord + Default,
{
    const INLINE: usize = 9;
    if count == 0 {
        return V::default();
    }
    if count == 3 {
        // By far the most frequent: of three, the one in the middle.
        let mut of_three = reached;
        let mut next = || of_three.next().unwrap_or_default();
        let (a, b, c) = (next(), next(), next());
        return a.min(b).max(a.max(b).min(c));
    }
    // With the values descending, everything before the position of the majority is at least the
    // one there: a majority has reached it.
    let position = majority(count) - 1;
    if count > INLINE {
        let mut all: Vec<V> = reached.collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        return all[position];
    }
    let mut descending = [V::default(); INLINE];
    for (placed, value) in reached.enumerate() {
        let mut slot = placed;
        while slot > 0 && descending[slot - 1] < value {
            descending[slot] = descending[slot - 1];
            slot -= 1;
        }
        descending[slot] = value;
    }
    descending[position]
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn index_of(matches: &[u64]) -> u64 {
        committed_index(matches.iter().map(|&m| Index(m))).0
    }

    #[test]
    fn a_majority_decides_the_commit_index() {
        assert_eq!(index_of(&[]), 0);
        assert_eq!(index_of(&[7]), 7);
        assert_eq!(index_of(&[7, 3]), 3);
        assert_eq!(index_of(&[7, 3, 5]), 5);
        assert_eq!(index_of(&[7, 3, 5, 1]), 3);
        assert_eq!(index_of(&[7, 3, 5, 1, 9]), 5);
        assert_eq!(index_of(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]), 6);
    }

    #[test]
    fn a_ballot_is_won_lost_or_open() {
        let membership = Membership::new([1, 2, 3]);
        let set = |ids: &[u64]| ids.iter().map(|&id| NodeId(id)).collect::<BTreeSet<_>>();
        let result = |granted: &[u64], refused: &[u64]| match vote_result(&membership, &set(granted), &set(refused)) {
            VoteResult::Won(_) => "won",
            VoteResult::Lost => "lost",
            VoteResult::Pending => "pending",
        };
        let rows = vec![
            (result(&[1], &[]), "pending"),
            (result(&[1, 2], &[]), "won"),
            (result(&[1], &[2]), "pending"),
            (result(&[1], &[2, 3]), "lost"),
            // A stranger's vote counts for nothing.
            (result(&[1, 9], &[]), "pending"),
        ];
        for (found, expected) in rows {
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_joint_ballot_needs_both_majorities() {
        let joint = Membership::new([3, 4, 5]).joint_from(&Membership::new([1, 2, 3]));
        let set = |ids: &[u64]| ids.iter().map(|&id| NodeId(id)).collect::<BTreeSet<_>>();
        let result = |granted: &[u64], refused: &[u64]| match vote_result(&joint, &set(granted), &set(refused)) {
            VoteResult::Won(_) => "won",
            VoteResult::Lost => "lost",
            VoteResult::Pending => "pending",
        };
        assert_eq!(result(&[3, 4, 5], &[]), "pending");
        assert_eq!(result(&[1, 2], &[]), "pending");
        assert_eq!(result(&[1, 3, 4], &[]), "won");
        assert_eq!(result(&[3, 4, 5], &[1, 2]), "lost");
        assert_eq!(result(&[1, 2, 3], &[4, 5]), "lost");
        let nobody = vote_result(&Membership::default(), &set(&[1]), &set(&[]));
        assert!(matches!(nobody, VoteResult::Lost));
    }
}
