//! The lives of a data directory, and what a peer may compare them with.
//!
//! A server never comes back with less than it had: it has promised to remember its votes and the entries that it
//! acknowledged. Raft cannot see whether it keeps that promise, because an older copy of a directory looks like any other
//! server that is a little behind. So each opening of a directory is a *life*: it has a number, a random id, and a note of
//! what the directory held when the life began. The directory keeps a list of them, and says it in every handshake. A peer
//! remembers which life it spoke to last, and what that one said to be durable: its highest term, what it acknowledged and
//! whom it voted for. Then two things give an older copy away:
//!
//! * **The remembered life is missing.** The copy was made before that life began.
//! * **A later life began with less than was remembered.** The copy was made during that life.
//!
//! A higher term proves nothing about the entries: a leader of it may have removed them rightly.
//!
//! Lives here: the list, what is remembered, and the comparison, all of it pure. Does not live here: where the list is kept
//! (`log/wal/manifest.rs`), where the memory is kept ([`peers`](crate::peers)), and who refuses whom (`transport/tcp`).

use crate::types::{EntryId, HardState, Index, NodeId, Term};
use alloc::vec::Vec;
use thiserror::Error;

/// One opening of a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Life {
    /// The how manieth opening it is; from 1, grows by one with each.
    pub count: u64,
    /// Drawn at random when it began: two copies of a directory that are opened on their own go on with different lives.
    pub id: u64,
    /// The term and the vote that the directory held when it began, durably.
    pub hard_state: HardState,
    /// The last entry that it held, durably.
    pub last: EntryId,
}

/// The newest lives of one data directory, as one value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(from = "Unsorted"))]
pub struct Lives {
    /// What the handshake of 0.6 and before says of the directory; see `WalLog::incarnation`.
    incarnation: u64,
    /// Ascending by count, each once.
    kept: Vec<Life>,
}

/// Lives as they are written down: in any order, twice, or too many.
#[cfg(feature = "serde")]
#[derive(serde::Deserialize)]
struct Unsorted {
    incarnation: u64,
    kept: Vec<Life>,
}

#[cfg(feature = "serde")]
impl From<Unsorted> for Lives {
    fn from(Unsorted { incarnation, kept }: Unsorted) -> Self {
        Self::new(incarnation, kept)
    }
}

/// What one server remembers of another. All of it was durable there when it was said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Remembered {
    /// Count and id of its newest life; `None` of a server that never said any.
    pub life: Option<(u64, u64)>,
    /// The highest term of any of its messages.
    pub term: Term,
    /// The highest index that it acknowledged in the highest term in which it did.
    pub acknowledged: EntryId,
    /// The highest term in which it gave its vote, and to whom; `None` until it did.
    pub vote: Option<(Term, NodeId)>,
}

/// A directory lost what it held: it is an older copy, or a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum LostData {
    /// A life that was seen is not among its own.
    #[error("its opening number {count}, which was seen, is not among those that it remembers")]
    Life {
        /// The count of that life.
        count: u64,
    },
    /// A later life began in a lower term than an earlier one spoke in.
    #[error("it began in term {found} after it had spoken in term {term}")]
    Term {
        /// The term in which it spoke.
        term: Term,
        /// The term in which the later life began.
        found: Term,
    },
    /// A later life began in the same term with fewer entries than an earlier one had acknowledged.
    #[error("it began with its log up to {found} after it had acknowledged entry {index} in the same term")]
    Entries {
        /// The index that it acknowledged.
        index: Index,
        /// The last index that the later life began with.
        found: Index,
    },
    /// A later life began in the same term without the vote that an earlier one gave.
    #[error("it began without the vote that it gave in term {term}")]
    Vote {
        /// The term of the vote.
        term: Term,
    },
}

impl Lives {
    /// How many lives a directory keeps.
    pub const KEPT_MAX: usize = 64;

    /// Lives in any order; of equal counts the last one stays, and of too many the newest.
    #[must_use]
    pub fn new(incarnation: u64, lives: impl IntoIterator<Item = Life>) -> Self {
        let mut kept: Vec<Life> = lives.into_iter().collect();
        kept.sort_by_key(|life| life.count);
        kept.reverse();
        kept.dedup_by_key(|life| life.count);
        kept.truncate(Self::KEPT_MAX);
        kept.reverse();
        Self { incarnation, kept }
    }

    /// The directory's random number and the count of its openings, as `WalLog::incarnation` says them; 0 for a server that
    /// keeps no data.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The lives that are kept, ascending by count.
    #[must_use]
    pub fn as_slice(&self) -> &[Life] {
        &self.kept
    }

    /// The life that goes on now: count and id.
    #[must_use]
    pub fn current(&self) -> Option<(u64, u64)> {
        self.kept.last().map(|life| (life.count, life.id))
    }

    /// Whether the remembered life is among these, or none is remembered. Of one that is older than all of these nothing is
    /// known: the list is cut short.
    #[must_use]
    pub fn include(&self, remembered: &Remembered) -> bool {
        remembered.life.is_none_or(|seen| self.kept.iter().any(|life| (life.count, life.id) == seen))
    }

    /// Whether the directory still holds what is remembered of it. A life that is older than all that it keeps is not held
    /// against it, and neither is anything by a directory that says no lives.
    ///
    /// # Errors
    /// What it lost. It may have forgotten votes and acknowledged entries, and must not take part any more.
    pub fn check(&self, remembered: &Remembered) -> Result<(), LostData> {
        let Some(oldest) = self.kept.first() else { return Ok(()) };
        let seen = remembered.life.map_or(0, |(count, _)| count);
        if let Some((count, id)) = remembered.life {
            let is_kept = self.kept.iter().any(|life| (life.count, life.id) == (count, id));
            if count >= oldest.count && !is_kept {
                return Err(LostData::Life { count });
            }
        }
        // Terms never fall. Within one, a log never loses what it acknowledged, nor a server its vote. So what holds for the
        // first life after the remembered one holds for every later one.
        self.kept.iter().filter(|life| life.count > seen).try_for_each(|life| life.check(remembered))
    }
}

impl Life {
    /// Whether it began with all that is remembered of lives before it.
    fn check(&self, remembered: &Remembered) -> Result<(), LostData> {
        let (found, last) = (self.hard_state.term, self.last.index);
        if found < remembered.term {
            return Err(LostData::Term { term: remembered.term, found });
        }
        let EntryId { index, term } = remembered.acknowledged;
        if found == term && last < index {
            return Err(LostData::Entries { index, found: last });
        }
        match remembered.vote {
            Some((term, vote)) if term == found && self.hard_state.vote != Some(vote) => Err(LostData::Vote { term }),
            _ => Ok(()),
        }
    }
}

impl Remembered {
    /// It spoke in this term.
    pub fn note_term(&mut self, term: Term) {
        self.term = self.term.max(term);
    }

    /// It acknowledged the log of this term's leader up to this index.
    pub fn note_acknowledged(&mut self, term: Term, index: Index) {
        let EntryId { term: before, index: highest } = self.acknowledged;
        if term > before || (term == before && index > highest) {
            self.acknowledged = EntryId { index, term };
        }
    }

    /// It gave its vote in this term.
    pub fn note_vote(&mut self, term: Term, to: NodeId) {
        if self.vote.is_none_or(|(before, _)| term > before) {
            self.vote = Some((term, to));
        }
    }

    /// Takes over what another memory of the same server knows and this one does not.
    pub fn merge(&mut self, other: &Self) {
        if other.life.map(|(count, _)| count) > self.life.map(|(count, _)| count) {
            self.life = other.life;
        }
        self.note_term(other.term);
        self.note_acknowledged(other.acknowledged.term, other.acknowledged.index);
        if let Some((term, to)) = other.vote {
            self.note_vote(term, to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn life(count: u64, id: u64, term: u64, last: (u64, u64)) -> Life {
        let hard_state = HardState { term: Term(term), vote: None };
        Life { count, id, hard_state, last: EntryId::new(last.0, last.1) }
    }

    fn remembered(life: (u64, u64), term: u64, acknowledged: (u64, u64)) -> Remembered {
        let acknowledged = EntryId::new(acknowledged.0, acknowledged.1);
        Remembered { life: Some(life), term: Term(term), acknowledged, vote: None }
    }

    #[test]
    fn a_directory_that_goes_on_lost_nothing() {
        let lives = Lives::new(0, [life(1, 10, 0, (0, 0)), life(2, 20, 4, (7, 4)), life(3, 30, 5, (6, 5))]);
        for known in [
            Remembered::default(),
            remembered((1, 10), 4, (7, 4)),
            remembered((2, 20), 5, (6, 5)),
            // A leader of term 5 removed entry 7 rightly.
            remembered((2, 20), 4, (7, 4)),
            // Of the life that goes on now nothing was found yet.
            remembered((3, 30), 9, (99, 9)),
        ] {
            assert_eq!(lives.check(&known), Ok(()), "{known:?}");
        }
    }

    /// The copy was made before the life that was seen began.
    #[test]
    fn a_life_that_was_seen_is_missing() {
        let lives = Lives::new(0, [life(1, 10, 0, (0, 0)), life(2, 21, 4, (7, 4))]);
        assert_eq!(lives.check(&remembered((2, 20), 4, (0, 0))), Err(LostData::Life { count: 2 }));
        assert_eq!(lives.check(&remembered((3, 30), 4, (0, 0))), Err(LostData::Life { count: 3 }));
    }

    /// The copy was made during the life that was seen.
    #[test]
    fn a_later_life_began_with_less() {
        let lives = Lives::new(0, [life(1, 10, 0, (0, 0)), life(2, 20, 4, (7, 4))]);
        let lost = |known| lives.check(&known).unwrap_err();
        assert_eq!(lost(remembered((1, 10), 5, (0, 0))), LostData::Term { term: Term(5), found: Term(4) });
        let expected = LostData::Entries { index: Index(8), found: Index(7) };
        assert_eq!(lost(remembered((1, 10), 4, (8, 4))), expected);
        let voted = Remembered { vote: Some((Term(4), NodeId(3))), ..remembered((1, 10), 4, (7, 4)) };
        assert_eq!(lost(voted), LostData::Vote { term: Term(4) });
        let voted = Remembered { vote: Some((Term(3), NodeId(3))), ..voted };
        assert_eq!(lives.check(&voted), Ok(()), "of an older term nothing is known any more");
    }

    #[test]
    fn a_life_older_than_all_that_are_kept_is_not_missed_but_its_term_is() {
        let lives = Lives::new(0, (1..=200).map(|count| life(count, count, count / 10, (count, 1))));
        assert_eq!((lives.as_slice().len(), lives.current()), (64, Some((200, 200))));
        assert_eq!(lives.as_slice()[0].count, 137);
        assert_eq!(lives.check(&remembered((136, 999), 1, (0, 0))), Ok(()));
        assert_eq!(lives.check(&remembered((137, 999), 1, (0, 0))), Err(LostData::Life { count: 137 }));
        let lost = LostData::Term { term: Term(14), found: Term(13) };
        assert_eq!(lives.check(&remembered((100, 999), 14, (0, 0))), Err(lost));
    }

    /// A server of 0.6 says no lives. When it was upgraded, its first life must hold what it said before.
    #[test]
    fn lives_that_begin_with_an_upgrade_hold_what_was_said_before_it() {
        let before = Remembered { life: None, ..remembered((0, 0), 4, (7, 4)) };
        assert_eq!(Lives::default().check(&before), Ok(()));
        assert_eq!(Lives::new(0, [life(9, 90, 4, (7, 4))]).check(&before), Ok(()));
        assert!(Lives::new(0, [life(9, 90, 4, (6, 4))]).check(&before).is_err());
    }

    #[test]
    fn what_is_remembered_only_grows() {
        let mut known = Remembered::default();
        known.note_acknowledged(Term(2), Index(9));
        known.note_acknowledged(Term(2), Index(5));
        known.note_acknowledged(Term(1), Index(99));
        assert_eq!(known.acknowledged, EntryId::new(9, 2));
        known.note_acknowledged(Term(3), Index(4));
        known.note_vote(Term(3), NodeId(2));
        known.note_vote(Term(3), NodeId(1));
        known.note_term(Term(3));
        let mut other = remembered((4, 40), 2, (100, 2));
        other.merge(&known);
        assert_eq!((other.life, other.term, other.acknowledged), (Some((4, 40)), Term(3), EntryId::new(4, 3)));
        assert_eq!(other.vote, Some((Term(3), NodeId(2))));
    }

    #[test]
    fn lives_are_put_in_order() {
        let lives = Lives::new(7, vec![life(3, 1, 0, (0, 0)), life(1, 1, 0, (0, 0)), life(3, 2, 0, (0, 0))]);
        let counts: Vec<_> = lives.as_slice().iter().map(|life| (life.count, life.id)).collect();
        assert_eq!((lives.incarnation(), counts), (7, vec![(1, 1), (3, 2)]));
    }
}
