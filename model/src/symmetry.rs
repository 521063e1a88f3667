//! Symmetry: states that differ in the servers' names alone are one.
//!
//! stateright's breadth-first search does not use its own symmetry option, so a state's fingerprint itself is made
//! symmetric: the least, over all permutations of the names, of the hash that the state would have under them. That the
//! protocol really treats servers alike is tested on the way: every distinct step is compared with the same step under
//! one other naming, which differs from step to step (`Law::ServersAreAlike`).

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

    /// One mask of positions per byte, each with the new names.
    #[must_use]
    pub fn apply_masks(&self, masks: u64) -> u64 {
        u64::from_le_bytes(masks.to_le_bytes().map(|mask| self.masks[usize::from(mask)]))
    }
}

/// All permutations of a configuration; the first is the identity.
#[derive(Clone, Debug)]
pub struct Permutations(Vec<Permutation>);

impl Permutations {
    /// The permutations of `servers` positions that keep the first `special` ones among themselves; the identity alone
    /// without symmetry.
    #[must_use]
    pub fn new(servers: u8, special: u8, symmetry: bool) -> Self {
        let mut all = vec![(0..servers).collect::<Vec<u8>>()];
        if symmetry {
            all = Vec::new();
            extend(&mut Vec::new(), servers, special, &mut all);
        }
        Self(all.into_iter().map(Permutation::new).collect())
    }

    /// How many there are.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "the identity is always there")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Permutation> {
        self.0.iter()
    }

    /// The one at a position.
    #[must_use]
    pub fn nth(&self, position: usize) -> &Permutation {
        &self.0[position]
    }
}

fn extend(begun: &mut Vec<u8>, servers: u8, special: u8, all: &mut Vec<Vec<u8>>) {
    let from = begun.len() as u8;
    if from == servers {
        return all.push(begun.clone());
    }
    for to in 0..servers {
        if !begun.contains(&to) && (from < special) == (to < special) {
            begun.push(to);
            extend(begun, servers, special, all);
            begun.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_permutations_are_there_once_and_the_identity_is_the_first() {
        let all = Permutations::new(3, 3, true);
        assert_eq!(all.len(), 6);
        assert_eq!(all.nth(0).to, [0, 1, 2]);
        assert_eq!(Permutations::new(3, 1, true).len(), 2);
        assert_eq!(Permutations::new(3, 3, false).len(), 1);
        assert_eq!(Permutations::new(5, 5, true).len(), 120);
    }

    #[test]
    fn names_and_masks_move_alike() {
        let rotate = Permutation::new(vec![1, 2, 0]);
        assert_eq!(rotate.apply(NodeId(3)), NodeId(1));
        assert_eq!(rotate.apply_masks(0b001 | 0b101 << 8), 0b010 | 0b011 << 8);
    }
}
