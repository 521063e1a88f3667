//! Which history a log belongs to: the identity of everything that one cluster ever committed.
//!
//! Lives here: the identity as data, its bytes, and the rules that say whether two logs, or a log and a snapshot, can belong
//! together. Does not live here: where these rules are asked (`protocol/lineage.rs`, `driver/snapshots.rs`, the handshake).
//!
//! Two clusters number their entries alike: each begins with entry 1 of term 1. So equal indexes and terms prove nothing
//! between them. The first leader of an empty log therefore puts a random [`HistoryId`] into its first entry, as a part of
//! the configuration there, and every later configuration keeps it. A recovery from a lost majority cuts a history off and
//! goes on with a child of it: the survivors adopt the child, and two recoveries of one parent never merge. A restored backup
//! is a child that nobody adopts: all servers that hold its data came after it.

use crate::types::{EntryId, Index, NodeId};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::num::NonZeroU64;
use core::str::FromStr;
use thiserror::Error;

/// The random identity of a history. Shown as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(try_from = "String", into = "String")
)]
pub struct HistoryId {
    // Two words, so that an optional one is no larger and a message stays aligned as it was.
    high: NonZeroU64,
    low: u64,
}

impl HistoryId {
    /// The identity of these random bits. Those whose upper half is zero count as if its lowest bit were set.
    #[must_use]
    pub const fn from_bits(bits: u128) -> Self {
        let high = match NonZeroU64::new((bits >> 64) as u64) {
            Some(high) => high,
            None => NonZeroU64::MIN,
        };
        Self { high, low: bits as u64 }
    }

    /// Its bits.
    #[must_use]
    pub const fn to_bits(self) -> u128 {
        (self.high.get() as u128) << 64 | self.low as u128
    }

    /// The upper half of its bits: enough to tell the histories that one cluster meets apart.
    #[must_use]
    pub const fn upper_half(self) -> NonZeroU64 {
        self.high
    }
}

impl fmt::Display for HistoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.to_bits())
    }
}

impl fmt::Debug for HistoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<HistoryId> for String {
    fn from(id: HistoryId) -> Self {
        alloc::format!("{id}")
    }
}

/// The text names no history: an identity has 32 hexadecimal digits, the first 16 of them not all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the identity of a history has 32 hexadecimal digits, and the first 16 of them are not all zero")]
pub struct HistoryIdError;

impl FromStr for HistoryId {
    type Err = HistoryIdError;

    fn from_str(text: &str) -> Result<Self, HistoryIdError> {
        let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let bits = digits.then(|| u128::from_str_radix(text, 16).ok()).flatten().ok_or(HistoryIdError)?;
        let id = Self::from_bits(bits);
        if id.to_bits() == bits { Ok(id) } else { Err(HistoryIdError) }
    }
}

impl TryFrom<String> for HistoryId {
    type Error = HistoryIdError;

    fn try_from(text: String) -> Result<Self, HistoryIdError> {
        text.parse()
    }
}

/// A history: its identity, where it begins, and what it goes on from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(try_from = "Unchecked"))]
pub struct History {
    id: HistoryId,
    since: EntryId,
    ancestors: Vec<Ancestor>,
    /// How many of the ancestors, from the oldest on, came before a restore: no server comes from these.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "is_none"))]
    closed: u16,
    /// Ascending, each once.
    lost: Vec<NodeId>,
}

#[cfg(feature = "serde")]
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks this way")]
const fn is_none(closed: &u16) -> bool {
    *closed == 0
}

/// A history as it is written down: its servers may stand in another order there, or twice, and the rest may contradict itself.
#[cfg(feature = "serde")]
#[derive(serde::Deserialize)]
struct Unchecked {
    id: HistoryId,
    since: EntryId,
    ancestors: Vec<Ancestor>,
    #[serde(default)]
    closed: u16,
    lost: Vec<NodeId>,
}

#[cfg(feature = "serde")]
impl TryFrom<Unchecked> for History {
    type Error = Contradiction;

    fn try_from(Unchecked { id, since, ancestors, closed, mut lost }: Unchecked) -> Result<Self, Contradiction> {
        lost.sort_unstable();
        lost.dedup();
        let history = Self { id, since, ancestors, closed, lost };
        if history.is_sound() { Ok(history) } else { Err(Contradiction) }
    }
}

/// What was read is no history.
#[cfg(feature = "serde")]
#[derive(Debug, Error)]
#[error(
    "a history begins with an entry from index 1 on, goes on from at most {} others, none of which begins behind the \
     next one or behind it, and counts no more of them as closed than there are",
    History::ANCESTORS_MAX
)]
struct Contradiction;

/// A history that was cut off: its entries end right before the one with which the next history begins. It has none where
/// both begin with the same index: then the log was cut off before the entry that brought it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Ancestor {
    /// Its identity.
    pub id: HistoryId,
    /// The entry that brought it.
    pub since: EntryId,
}

impl History {
    /// The most ancestors that a history names; it forgets the oldest beyond them. A server that is still of one of these is
    /// refused. Each takes 32 of the 48 KiB of a configuration.
    pub const ANCESTORS_MAX: usize = 64;

    /// A history without ancestors, brought by the entry `since`.
    #[must_use]
    pub const fn new(id: HistoryId, since: EntryId) -> Self {
        Self { id, since, ancestors: Vec::new(), closed: 0, lost: Vec::new() }
    }

    /// A history that goes on from `parent`, if there was one, with the entry `since`, and without the servers `lost`: these
    /// may hold entries of the parent that were cut off, and never adopt the child.
    pub fn child<I>(parent: Option<&Self>, id: HistoryId, since: EntryId, lost: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<NodeId>,
    {
        let mut child = Self::new(id, since);
        child.lost.extend(lost.into_iter().map(Into::into));
        if let Some(parent) = parent {
            let forgotten = (parent.ancestors.len() + 1).saturating_sub(Self::ANCESTORS_MAX);
            child.ancestors.extend_from_slice(&parent.ancestors[forgotten..]);
            // Sixty-four at most.
            child.closed = parent.closed.saturating_sub(forgotten as u16);
            child.ancestors.push(Ancestor { id: parent.id, since: parent.since });
            // A snapshot names the history of its cluster, also one that began with an entry behind it. What goes on from there
            // has nothing of that history, and names it all the same.
            let begins = |ancestor: &mut Ancestor| {
                if ancestor.since.index > since.index {
                    ancestor.since = since;
                }
            };
            child.ancestors.iter_mut().for_each(begins);
            child.lost.extend_from_slice(&parent.lost);
        }
        child.lost.sort_unstable();
        child.lost.dedup();
        child
    }

    /// A history that goes on from a backup of `parent`, if there was one, with the entry `since`. It has no survivors: whoever
    /// holds entries of the parent, or of what that goes on from, never adopts it, whatever its id.
    #[must_use]
    pub fn restored(parent: Option<&Self>, id: HistoryId, since: EntryId) -> Self {
        let mut child = Self::child(parent, id, since, [] as [NodeId; 0]);
        // Sixty-four at most.
        child.closed = child.ancestors.len() as u16;
        child.lost.clear();
        child
    }

    /// Its identity.
    #[must_use]
    pub const fn id(&self) -> HistoryId {
        self.id
    }

    /// The entry that brought it: that with index 1 of a cluster that began with one, a later one of a cluster that is older
    /// than histories, or that of a recovery.
    #[must_use]
    pub const fn since(&self) -> EntryId {
        self.since
    }

    /// The history that this one goes on from.
    #[must_use]
    pub fn parent(&self) -> Option<HistoryId> {
        self.ancestors.last().map(|parent| parent.id)
    }

    /// Every history that this one goes on from, oldest first, at most [`History::ANCESTORS_MAX`].
    #[must_use]
    pub fn ancestors(&self) -> &[Ancestor] {
        &self.ancestors
    }

    /// The ancestors that came before a restore, oldest first: no server that holds entries of these follows this history.
    #[must_use]
    pub fn closed(&self) -> &[Ancestor] {
        &self.ancestors[..usize::from(self.closed)]
    }

    /// The entry with which the newest restore began, if there was one: no server of this history speaks in a term before its.
    #[must_use]
    pub fn restored_by(&self) -> Option<EntryId> {
        let after = self.ancestors.get(usize::from(self.closed)).map_or(self.since, |ancestor| ancestor.since);
        (self.closed > 0).then_some(after)
    }

    /// The servers that a recovery gave up, ascending.
    #[must_use]
    pub fn lost(&self) -> &[NodeId] {
        &self.lost
    }

    /// The same, brought by another entry.
    #[must_use]
    pub fn brought_by(&self, since: EntryId) -> Self {
        Self { since, ..self.clone() }
    }

    /// The history that the entry at `index` belongs to: this one or an ancestor. `None` for entries from before there was
    /// one, and for those of ancestors that are forgotten.
    #[inline]
    #[must_use]
    pub fn at(&self, index: Index) -> Option<HistoryId> {
        if index >= self.since.index { Some(self.id) } else { self.ancestor_at(index) }
    }

    #[cold]
    fn ancestor_at(&self, index: Index) -> Option<HistoryId> {
        self.ancestors.iter().rev().find(|ancestor| ancestor.since.index <= index).map(|ancestor| ancestor.id)
    }

    /// Whether nothing is known any more of the entry at `index`: an ancestor had it that is forgotten, or there was none yet.
    #[must_use]
    pub fn has_forgotten(&self, index: Index) -> bool {
        let is_full = self.ancestors.len() == Self::ANCESTORS_MAX;
        is_full && self.ancestors.first().is_some_and(|oldest| index < oldest.since.index)
    }

    /// Whether this history goes on from `id`.
    #[must_use]
    pub fn descends_from(&self, id: HistoryId) -> bool {
        self.ancestors.iter().any(|ancestor| ancestor.id == id)
    }

    /// Whether a server that holds entries of `id` may follow this history: they are one, or this one goes on from it, by
    /// recoveries alone, and did not give up the server.
    #[must_use]
    pub fn takes_in(&self, server: NodeId, id: HistoryId) -> bool {
        let open = &self.ancestors[usize::from(self.closed)..];
        id == self.id || (open.iter().any(|ancestor| ancestor.id == id) && !self.lost.contains(&server))
    }

    /// Whether what the one and the other cover up to `last` can be the same entries: the two are one history, or one goes
    /// on from the other and they part later. `None` is data from before there was a history; it is as good as any other
    /// only where the history began after `last`.
    #[must_use]
    pub fn agree(one: Option<&Self>, other: Option<&Self>, last: Index) -> bool {
        match (one, other) {
            (Some(one), Some(other)) => {
                let related = one.descends_from(other.id) || other.descends_from(one.id);
                one.id == other.id || (related && one.at(last) == other.at(last))
            }
            (Some(known), None) | (None, Some(known)) => known.at(last).is_none(),
            (None, None) => true,
        }
    }

    /// The history with every server renamed.
    pub(crate) fn rename(&self, rename: impl Fn(NodeId) -> NodeId) -> Self {
        let mut lost: Vec<_> = self.lost.iter().map(|&id| rename(id)).collect();
        lost.sort_unstable();
        Self { lost, ..self.clone() }
    }
}

/// What a server says of its history to another one, in few bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Lineage {
    /// The history.
    pub id: HistoryId,
    /// Every history that it is known to go on from, oldest first, each by the upper half of its identity. Those from before
    /// a restore are not among them: no server comes from there.
    pub ancestors: Vec<NonZeroU64>,
    /// A recovery of this history gave up the server that is spoken to.
    pub gave_up_receiver: bool,
}

impl Lineage {
    /// The most ancestors that are said: all that a history names.
    pub const ANCESTORS_MAX: usize = History::ANCESTORS_MAX;

    /// Whether it goes on from the other one.
    #[must_use]
    pub fn goes_on_from(&self, other: &Self) -> bool {
        self.ancestors.contains(&other.id.upper_half())
    }
}

impl History {
    /// What a server of this history says of it to `receiver`.
    #[must_use]
    pub fn lineage(&self, receiver: NodeId) -> Lineage {
        let open = &self.ancestors[usize::from(self.closed)..];
        Lineage {
            id: self.id,
            ancestors: open.iter().map(|ancestor| ancestor.id.upper_half()).collect(),
            gave_up_receiver: self.lost.contains(&receiver),
        }
    }

    /// Whether a server of this history may speak with `peer`, which says that its own is `theirs`: they are one, or one of
    /// them goes on from the other and did not give up the server that is still of the other.
    ///
    /// Either side finds the same. A server that was away while its cluster went through more recoveries than a history
    /// names ancestors is not known any more, and is refused.
    #[must_use]
    pub fn speaks_with(&self, peer: NodeId, theirs: &Lineage) -> bool {
        self.takes_in(peer, theirs.id) || (!theirs.gave_up_receiver && theirs.ancestors.contains(&self.id.upper_half()))
    }
}

/// The bytes of a history, at the end of a configuration's; `docs/FORMAT.md` has the table.
impl History {
    const ANCESTOR_BYTES: usize = 16 + 16;

    pub(crate) fn encoded_len(&self) -> usize {
        Self::ANCESTOR_BYTES + 4 + Self::ANCESTOR_BYTES * self.ancestors.len() + 4 + 8 * self.lost.len()
    }

    pub(crate) fn encode_into(&self, out: &mut Vec<u8>) {
        let ancestor = |out: &mut Vec<u8>, id: HistoryId, since: EntryId| {
            out.extend_from_slice(&id.to_bits().to_le_bytes());
            out.extend_from_slice(&since.index.0.to_le_bytes());
            out.extend_from_slice(&since.term.0.to_le_bytes());
        };
        ancestor(out, self.id, self.since);
        // Sixty-four at most, and servers are counted in 32 bits everywhere.
        out.extend_from_slice(&(self.ancestors.len() as u16).to_le_bytes());
        out.extend_from_slice(&self.closed.to_le_bytes());
        self.ancestors.iter().for_each(|known| ancestor(out, known.id, known.since));
        out.extend_from_slice(&(self.lost.len() as u32).to_le_bytes());
        self.lost.iter().for_each(|server| out.extend_from_slice(&server.0.to_le_bytes()));
    }

    /// The history of these bytes, and what follows it. `None` if they are none.
    pub(crate) fn decode_from(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let mut left = bytes;
        let first = ancestor(&mut left)?;
        let counts = half_words(&mut left)?;
        let ancestors = list(&mut left, usize::from(counts[0]), Self::ANCESTOR_BYTES, ancestor)?;
        let closed = counts[1];
        let servers = count(&mut left)?;
        let lost = list(&mut left, servers, 8, |left| word(left).map(NodeId))?;
        let history = Self { id: first.id, since: first.since, ancestors, closed, lost };
        history.is_sound().then_some((history, left))
    }

    /// The histories follow each other along one log, some of them without an entry, and each server is lost once.
    fn is_sound(&self) -> bool {
        let mut before = Index(1);
        let begins = self.ancestors.iter().map(|known| known.since).chain([self.since]);
        begins.into_iter().all(|since| core::mem::replace(&mut before, since.index) <= since.index)
            && self.lost.windows(2).all(|pair| pair[0] < pair[1])
            && self.ancestors.len() <= Self::ANCESTORS_MAX
            && usize::from(self.closed) <= self.ancestors.len()
            && self.since.index <= Index::MAX
    }
}

fn word(left: &mut &[u8]) -> Option<u64> {
    let (taken, rest) = left.split_first_chunk()?;
    *left = rest;
    Some(u64::from_le_bytes(*taken))
}

fn ancestor(left: &mut &[u8]) -> Option<Ancestor> {
    let (taken, rest) = left.split_first_chunk()?;
    *left = rest;
    let bits = u128::from_le_bytes(*taken);
    let id = Some(HistoryId::from_bits(bits)).filter(|id| id.to_bits() == bits)?;
    Some(Ancestor { id, since: EntryId::new(word(left)?, word(left)?) })
}

fn count(left: &mut &[u8]) -> Option<usize> {
    let (count, rest) = left.split_first_chunk()?;
    *left = rest;
    Some(u32::from_le_bytes(*count) as usize)
}

fn half_words(left: &mut &[u8]) -> Option<[u16; 2]> {
    let word = count(left)?;
    // The lower half and the upper one.
    Some([word as u16, (word >> 16) as u16])
}

/// So many items of `bytes` bytes each. Nothing is allocated before its bytes were seen.
fn list<T>(left: &mut &[u8], count: usize, bytes: usize, item: impl Fn(&mut &[u8]) -> Option<T>) -> Option<Vec<T>> {
    if count.checked_mul(bytes)? > left.len() {
        return None;
    }
    (0..count).map(|_| item(left)).collect()
}

#[cfg(test)]
mod tests;
