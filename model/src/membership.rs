//! Configurations of the cluster as masks of positions: small enough to be a part of every state, and quick to count votes in.
//!
//! What is said here of quorums is said for the laws, apart from the code that they judge.

use raft_io::{Membership, NodeId};

/// A configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Masks {
    /// The voters; in a joint configuration the new ones.
    pub voters: u8,
    /// The old voters of a joint configuration.
    pub outgoing: u8,
    /// Who gets the log and has no vote.
    pub learners: u8,
    /// The learners that become voters once they have caught up.
    pub promoting: u8,
}

/// A configuration that may be asked for: the ids of its voters, its learners, and those of them that are promoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The voters.
    pub voters: &'static [u64],
    /// The learners.
    pub learners: &'static [u64],
    /// The learners that become voters by themselves.
    pub promoting: &'static [u64],
}

impl Target {
    /// A configuration of voters alone.
    #[must_use]
    pub const fn of_voters(voters: &'static [u64]) -> Self {
        Self { voters, learners: &[], promoting: &[] }
    }

    /// As the library has it.
    #[must_use]
    pub fn membership(&self) -> Membership {
        let learners = self.learners.iter().fold(Membership::new(self.voters.to_vec()), |m, id| m.with_learner(*id));
        self.promoting.iter().fold(learners, |m, id| m.with_promotion(*id))
    }
}

fn mask<'a>(ids: impl IntoIterator<Item = &'a NodeId>) -> u8 {
    ids.into_iter().fold(0, |mask, id| mask | 1 << (id.0 - 1))
}

/// The positions in a mask, ascending.
pub fn positions(mask: u8) -> impl Iterator<Item = u8> {
    (0..8).filter(move |at| mask & 1 << at != 0)
}

fn is_majority(servers: u8, voters: u8) -> bool {
    2 * (servers & voters).count_ones() > voters.count_ones()
}

impl Masks {
    /// Of a configuration as the library has it.
    #[must_use]
    pub fn of(membership: &Membership) -> Self {
        Self {
            voters: mask(membership.voters()),
            outgoing: mask(membership.outgoing()),
            learners: mask(membership.learners()),
            promoting: mask(membership.promoting()),
        }
    }

    /// Whoever has a vote.
    #[must_use]
    pub fn voting(self) -> u8 {
        self.voters | self.outgoing
    }

    /// Whoever gets the log.
    #[must_use]
    pub fn members(self) -> u8 {
        self.voting() | self.learners
    }

    /// Whether two majorities decide.
    #[must_use]
    pub fn is_joint(self) -> bool {
        self.outgoing != 0
    }

    /// Whether these servers can decide.
    #[must_use]
    pub fn is_quorum(self, servers: u8) -> bool {
        is_majority(servers, self.voters) && (!self.is_joint() || is_majority(servers, self.outgoing))
    }

    /// Whether any quorum of the one and any of the other have a server in common.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        let all = self.members() | other.members();
        (0..=all).all(|servers| !(self.is_quorum(servers) && other.is_quorum(all & !servers)))
    }

    /// The configuration that a joint one leads to.
    #[must_use]
    pub fn settled(self) -> Self {
        Self { outgoing: 0, ..self }
    }

    /// The next one on the way to another.
    #[must_use]
    pub fn towards(self, target: Self) -> Self {
        if (self.voters ^ target.voters).count_ones() <= 1 { target } else { Self { outgoing: self.voters, ..target } }
    }

    /// A learner gets its vote.
    #[must_use]
    pub fn promoted(self, at: u8) -> Self {
        let bit = 1 << at;
        Self { voters: self.voters | bit, learners: self.learners & !bit, promoting: self.promoting & !bit, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn majorities_of_neighbours_overlap_and_others_need_a_joint_configuration() {
        let of = |voters| Masks { voters, ..Masks::default() };
        assert!(of(0b0111).overlaps(of(0b1111)) && of(0b0011).overlaps(of(0b0001)));
        assert!(!of(0b0001).overlaps(of(0b0010)) && !of(0b0011).overlaps(of(0b1100)));
        let joint = of(0b0001).towards(of(0b0010));
        assert!(joint.is_joint() && of(0b0001).overlaps(joint) && joint.overlaps(joint.settled()));
        assert!(joint.is_quorum(0b0011) && !joint.is_quorum(0b0010) && !of(0).is_quorum(0b1111));
        assert_eq!(of(0b0111).towards(of(0b0011)), of(0b0011));
    }

    #[test]
    fn masks_are_those_of_the_library() {
        let target = Target { voters: &[1, 2], learners: &[3, 4], promoting: &[4] };
        let masks = Masks::of(&target.membership());
        assert_eq!(masks, Masks { voters: 0b0011, outgoing: 0, learners: 0b1100, promoting: 0b1000 });
        assert_eq!(masks.promoted(3), Masks { voters: 0b1011, learners: 0b0100, ..Masks::default() });
        assert_eq!(positions(0b1010).collect::<Vec<_>>(), [1, 3]);
        assert_eq!((masks.voting(), masks.members()), (0b0011, 0b1111));
    }
}
