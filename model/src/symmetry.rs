//! Symmetry: states that differ in the servers' names alone are one.
//!
//! A state's fingerprint is the least, over all permutations of the names, of the hash that the state would have under
//! them, so that whoever searches by fingerprints needs to know nothing of it. That the protocol really treats servers alike is proven after every run ([`proofs`](crate::proofs), `Law::ServersAreAlike`).

use raft_io::NodeId;

/// A renaming of the servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permutation {
    /// The new position of each position.
    to: Vec<u8>,
    /// The new mask of each mask of positions.
    masks: Vec<u8>,
}

impl Permutation {
    fn new(to: Vec<u8>) -> Self {
        let masks = (0..1_u16 << to.len())
            .map(|mask| {
                let moved = to.iter().enumerate().filter(|(from, _)| mask & 1 << from != 0);
                moved.fold(0, |moved, (_, to)| moved | 1 << to)
            })
            .collect();
        Self { to, masks }
    }

    /// The new name of a server.
    #[must_use]
    pub fn apply(&self, id: NodeId) -> NodeId {
        NodeId(u64::from(self.to[id.0 as usize - 1]) + 1)
    }

    /// A mask of positions, with the new names.
    #[must_use]
    pub fn apply_mask(&self, mask: u8) -> u8 {
        self.masks[usize::from(mask)]
    }
}

/// All permutations of a configuration; the first is the identity.
#[derive(Clone, Debug)]
pub struct Permutations {
    all: Vec<Permutation>,
    /// For each term and mask of positions one hash per permutation: a look instead of the work, in every state.
    leader_hashes: Vec<u64>,
    masks: usize,
}

/// Terms are counted from 0 to 7 (`facts::PackedLog`).
const TERMS: u64 = 8;

impl Permutations {
    /// The permutations of `servers` positions that keep the first `campaigners` among themselves, and the last `readers`;
    /// the identity alone without symmetry.
    #[must_use]
    pub fn new(servers: u8, campaigners: u8, readers: u8, symmetry: bool) -> Self {
        let mut all = vec![(0..servers).collect::<Vec<u8>>()];
        if symmetry {
            all = Vec::new();
            let kinds: Vec<_> = (0..servers).map(|at| (at < campaigners, at + readers >= servers)).collect();
            extend(&mut Vec::new(), &kinds, &mut all);
        }
        let all: Vec<Permutation> = all.into_iter().map(Permutation::new).collect();
        let masks = 1_usize << servers;
        let pairs = (0..TERMS).flat_map(|term| (0..masks).map(move |mask| (term, mask as u8)));
        let hashes = pairs.flat_map(|(term, mask)| {
            all.iter().map(move |permutation| mix(term << 8 | u64::from(permutation.apply_mask(mask))))
        });
        Self { leader_hashes: hashes.collect(), masks, all }
    }

    /// For who led a term, as a mask of positions, one hash per permutation.
    #[must_use]
    pub fn leader_hashes(&self, term: usize, mask: u8) -> &[u64] {
        &self.leader_hashes[(term * self.masks + usize::from(mask)) * self.len()..][..self.len()]
    }

    /// How many there are.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "the identity is always there")]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Permutation> {
        self.all.iter()
    }

    /// The one at a position.
    #[must_use]
    pub fn nth(&self, position: usize) -> &Permutation {
        &self.all[position]
    }
}

/// Spreads every bit over the whole word (the finaliser of splitmix64).
#[must_use]
pub fn mix(mut word: u64) -> u64 {
    word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

/// Positions of one kind may change places.
fn extend(begun: &mut Vec<u8>, kinds: &[(bool, bool)], all: &mut Vec<Vec<u8>>) {
    let from = begun.len();
    if from == kinds.len() {
        return all.push(begun.clone());
    }
    for (to, kind) in (0..).zip(kinds) {
        if !begun.contains(&to) && kinds[from] == *kind {
            begun.push(to);
            extend(begun, kinds, all);
            begun.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_permutations_are_there_once_and_the_identity_is_the_first() {
        let all = Permutations::new(3, 3, 0, true);
        assert_eq!(all.len(), 6);
        assert_eq!(all.nth(0).to, [0, 1, 2]);
        assert_eq!(Permutations::new(3, 1, 0, true).len(), 2);
        assert_eq!(Permutations::new(3, 3, 0, false).len(), 1);
        assert_eq!(Permutations::new(5, 5, 0, true).len(), 120);
        assert_eq!(Permutations::new(4, 2, 1, true).len(), 2);
        assert_eq!(Permutations::new(3, 3, 1, true).len(), 2);
        assert_eq!(Permutations::new(3, 3, 3, true).len(), 6);
    }

    #[test]
    fn names_and_masks_move_alike() {
        let rotate = Permutation::new(vec![1, 2, 0]);
        assert_eq!(rotate.apply(NodeId(3)), NodeId(1));
        assert_eq!((rotate.apply_mask(0b001), rotate.apply_mask(0b101)), (0b010, 0b011));
    }

    #[test]
    fn who_led_has_the_hashes_that_it_would_have_under_each_naming() {
        let all = Permutations::new(3, 3, 0, true);
        for (at, permutation) in all.iter().enumerate() {
            let renamed = permutation.apply_mask(0b011);
            assert_eq!(all.leader_hashes(2, 0b011)[at], all.leader_hashes(2, renamed)[0]);
        }
        assert_ne!(all.leader_hashes(1, 0b001), all.leader_hashes(2, 0b001));
    }
}
