//! Who belongs to the cluster, and who of them has a vote.
//!
//! Lives here: a configuration as data and the rules that make one legal. Does not live here: how a
//! cluster moves from one to the next (`protocol/membership_change.rs`, dissertation §4).

use crate::types::NodeId;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

/// A cluster configuration: the voters, in the order of their ids.
///
/// Sorted and without duplicates, so that two equal configurations are equal values and every
/// round of messages goes out in id order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(from = "Unsorted"))]
pub struct Membership {
    voters: Vec<NodeId>,
}

/// A configuration as someone may have written it, in any order.
#[cfg(feature = "serde")]
#[derive(serde::Deserialize)]
struct Unsorted {
    voters: Vec<NodeId>,
}

#[cfg(feature = "serde")]
impl From<Unsorted> for Membership {
    fn from(unsorted: Unsorted) -> Self {
        Self::new(unsorted.voters)
    }
}

impl Membership {
    /// The configuration of these voters; duplicates count once.
    pub fn new<I>(voters: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<NodeId>,
    {
        let voters: BTreeSet<NodeId> = voters.into_iter().map(Into::into).collect();
        Self { voters: voters.into_iter().collect() }
    }

    /// The voters, ascending.
    #[must_use]
    pub fn voters(&self) -> &[NodeId] {
        &self.voters
    }

    /// Whether `id` has a vote.
    #[must_use]
    pub fn is_voter(&self, id: NodeId) -> bool {
        // A handful: looking at each is quicker than halving.
        self.voters.contains(&id)
    }

    /// The voters other than `id`, ascending.
    pub fn peers_of(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        self.voters.iter().copied().filter(move |&peer| peer != id)
    }
}
