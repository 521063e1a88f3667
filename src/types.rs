//! The words of the log: who, when, where, what.
//!
//! Lives here: identifiers, positions, entries and the hard state. Does not live here: anything that
//! decides. Section 3 of the dissertation, Figure 3.1 (the same table is Figure 2 of the Raft paper).

use crate::membership::Membership;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;
use core::fmt;
use core::hash::{Hash, Hasher};
use core::ops::Deref;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
        pub struct $name(pub u64);

        impl From<u64> for $name {
            fn from(value: u64) -> Self {
                Self(value)
            }
        }

        impl From<$name> for u64 {
            fn from(value: $name) -> Self {
                value.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

number! {
    /// A server's identity within its cluster. Chosen by the operator, never reused.
    NodeId
}

number! {
    /// One replicated log among the many that a process may host. A single-group program uses 0.
    GroupId
}

number! {
    /// The identity of a whole cluster, chosen by the operator: data directories and connections
    /// of another cluster are refused.
    ClusterId
}

number! {
    /// An election term, the logical clock of Raft (dissertation §3.3). Starts at 0; the first
    /// leader has term 1; only grows; never above [`Term::MAX`].
    Term
}

number! {
    /// A position in the log. The first entry has index 1. [`Index::ZERO`] is the position before
    /// the first entry, as in Figure 3.1 (`commitIndex` and `matchIndex` start there). Never above
    /// [`Index::MAX`].
    Index
}

/// Which disk a server has: a number drawn when its log was created, and never again. A server that was emptied has another
/// one; one whose directory was put back to an older copy has the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct DiskId(pub u32);

impl Term {
    /// The term of a node that has never seen an election.
    pub const ZERO: Self = Self(0);
    /// The highest term that a peer may claim. Far below the width of the number, so that no
    /// arithmetic on an accepted term can wrap.
    pub const MAX: Self = Self(1 << 62);

    /// The following term. The caller has checked that `self` is below [`Term::MAX`].
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Index {
    /// The position before the first entry.
    pub const ZERO: Self = Self(0);
    /// The highest index that a peer may claim; the same margin as [`Term::MAX`].
    pub const MAX: Self = Self(1 << 62);

    /// The following position.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The preceding position; that of [`Index::ZERO`] is itself.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// `self + count`.
    #[must_use]
    pub const fn plus(self, count: usize) -> Self {
        Self(self.0 + count as u64)
    }
}

/// What identifies an entry in the whole cluster: two entries with the same index and term are the
/// same entry, and so is everything before them (Log Matching, dissertation §3.5).
///
/// The order is that of the up-to-date check: by term, then by index (§3.6.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct EntryId {
    /// The position in the log.
    pub index: Index,
    /// The term in which a leader created the entry.
    pub term: Term,
}

impl EntryId {
    /// The position before the first entry of an empty log.
    pub const ZERO: Self = Self { index: Index::ZERO, term: Term::ZERO };

    /// An id from plain numbers.
    pub fn new(index: impl Into<Index>, term: impl Into<Term>) -> Self {
        Self { index: index.into(), term: term.into() }
    }
}

impl PartialOrd for EntryId {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for EntryId {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        (self.term, self.index).cmp(&(other.term, other.index))
    }
}

/// Written `index@term`, as in scenario scripts: `7@3`.
impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}

impl fmt::Debug for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What an entry carries.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Payload {
    /// A leader's first entry in its term, which lets it commit what came before (§3.6.2, §6.4).
    Noop,
    /// A command for the state machine, opaque to the protocol.
    Command(Bytes),
    /// The cluster's configuration from here on (§4): in force on a server as soon as it is in its log.
    Membership(Arc<Membership>),
}

impl Payload {
    /// The size of the content in bytes, encoded; 0 for a no-op.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Noop => 0,
            Self::Command(command) => command.len(),
            Self::Membership(membership) => membership.encoded_len(),
        }
    }

    /// Whether this is a configuration.
    #[inline]
    pub(crate) const fn is_membership(&self) -> bool {
        matches!(self, Self::Membership(_))
    }

    /// Whether there is no content, or an empty command.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One entry of the replicated log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Entry {
    /// Where it stands and which leader's term created it.
    pub id: EntryId,
    /// What it carries.
    pub payload: Payload,
}

impl Entry {
    /// What an entry costs beside its payload, for limits in bytes.
    pub const OVERHEAD_BYTES: usize = 16;

    /// The size that limits count: payload plus a fixed overhead, in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        Self::OVERHEAD_BYTES + self.payload.len()
    }
}

/// A run of consecutive entries, shared by reference: the leader's log, its messages to every
/// follower and their logs hold the same allocation. Cloning and slicing never copy an entry.
#[derive(Clone, Default)]
pub struct Entries {
    /// `None` only when empty, so that an empty run allocates nothing.
    shared: Option<Arc<[Entry]>>,
    /// Where the run begins, and in the highest bit whether a configuration may be among the entries: whoever follows a log looks
    /// for them in no other run.
    start: u32,
    end: u32,
}

impl Entries {
    /// A run of no entries.
    pub const EMPTY: Self = Self { shared: None, start: 0, end: 0 };

    /// A run of one.
    #[inline]
    #[must_use]
    pub fn one(entry: Entry) -> Self {
        let start = Self::flag(entry.payload.is_membership());
        Self { shared: Some(Arc::from([entry])), start, end: 1 }
    }

    /// A run of commands: nothing else may be among the entries.
    #[inline]
    pub(crate) fn of_commands(entries: impl ExactSizeIterator<Item = Entry>) -> Self {
        let end = Self::end(entries.len());
        let shared: Arc<[Entry]> = entries.collect();
        debug_assert!(!shared.iter().any(|entry| entry.payload.is_membership()), "a run of commands");
        Self { shared: (end > 0).then_some(shared), start: 0, end }
    }

    /// Whether configurations may be among the entries. A part of a run says what the whole does.
    #[inline]
    #[must_use]
    pub fn may_hold_memberships(&self) -> bool {
        self.start & Self::MEMBERSHIPS != 0
    }

    const MEMBERSHIPS: u32 = 1 << 31;

    fn end(length: usize) -> u32 {
        let end = u32::try_from(length).ok().filter(|end| end & Self::MEMBERSHIPS == 0);
        end.expect("a run holds fewer than 2^31 entries")
    }

    const fn flag(memberships: bool) -> u32 {
        if memberships { Self::MEMBERSHIPS } else { 0 }
    }

    #[inline]
    const fn start(&self) -> usize {
        (self.start & !Self::MEMBERSHIPS) as usize
    }

    /// The entries at positions `[start, end)` of this run, counted from its first.
    ///
    /// # Panics
    /// If the range does not lie within the run.
    #[inline]
    #[must_use]
    pub fn slice(&self, start: usize, end: usize) -> Self {
        assert!(start <= end && end <= self.len(), "slice [{start}, {end}) of {} entries", self.len());
        if start == end {
            return Self::EMPTY;
        }
        let offset = self.start() as u32;
        // The flag goes with the start.
        Self { shared: self.shared.clone(), start: self.start + start as u32, end: offset + end as u32 }
    }

    /// The part with an index in `[first, end)`; empty when there is none.
    #[inline]
    #[must_use]
    pub fn range(&self, first: Index, end: Index) -> Self {
        self.range_within(first, end, usize::MAX)
    }

    /// The part with an index in `[first, end)`, cut to the longest prefix within `bytes_max`
    /// bytes, but to no less than one entry.
    #[must_use]
    pub fn range_within(&self, first: Index, end: Index, bytes_max: usize) -> Self {
        let Some(own_first) = self.first().map(|entry| entry.id.index) else { return Self::EMPTY };
        let position = |index: Index| (index.0.saturating_sub(own_first.0) as usize).min(self.len());
        let (start, stop) = (position(first), position(end));
        if start >= stop {
            return Self::EMPTY;
        }
        let mut fits = stop;
        if bytes_max != usize::MAX {
            let mut bytes = self[start].size_bytes();
            fits = start + 1;
            while fits < stop {
                bytes = bytes.saturating_add(self[fits].size_bytes());
                if bytes > bytes_max {
                    break;
                }
                fits += 1;
            }
        }
        self.slice(start, fits)
    }

    /// The id of the first entry.
    #[inline]
    #[must_use]
    pub fn first_id(&self) -> Option<EntryId> {
        // A run with an allocation has entries: no need to look at its length.
        self.shared.as_ref().map(|shared| shared[self.start()].id)
    }

    /// The id of the last entry.
    #[inline]
    #[must_use]
    pub fn last_id(&self) -> Option<EntryId> {
        self.shared.as_ref().map(|shared| shared[self.end as usize - 1].id)
    }

    /// How many entries there are.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.end as usize - self.start()
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start() == self.end as usize
    }

    /// The sum of [`Entry::size_bytes`].
    #[inline]
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.iter().map(Entry::size_bytes).sum()
    }
}

impl Deref for Entries {
    type Target = [Entry];

    #[inline]
    fn deref(&self) -> &[Entry] {
        match &self.shared {
            Some(shared) => &shared[self.start()..self.end as usize],
            None => &[],
        }
    }
}

impl From<Vec<Entry>> for Entries {
    fn from(entries: Vec<Entry>) -> Self {
        if entries.is_empty() {
            return Self::EMPTY;
        }
        let end = Self::end(entries.len());
        let start = Self::flag(entries.iter().any(|entry| entry.payload.is_membership()));
        Self { shared: Some(entries.into()), start, end }
    }
}

impl FromIterator<Entry> for Entries {
    /// One allocation when the iterator knows its length.
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Self {
        let mut entries = entries.into_iter();
        if entries.size_hint() == (1, Some(1)) {
            let Some(entry) = entries.next() else { return Self::EMPTY };
            return Self::one(entry);
        }
        let shared: Arc<[Entry]> = entries.collect();
        if shared.is_empty() {
            return Self::EMPTY;
        }
        let end = Self::end(shared.len());
        let start = Self::flag(shared.iter().any(|entry| entry.payload.is_membership()));
        Self { shared: Some(shared), start, end }
    }
}

impl PartialEq for Entries {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Entries {}

impl Hash for Entries {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Entries {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (**self).serialize(serializer)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Entries {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::<Entry>::deserialize(deserializer).map(Self::from)
    }
}

/// Whose something is: a log, or a transport. What it does not know of itself is `None`, and compared with nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Identity {
    /// The cluster that it belongs to.
    pub cluster: Option<ClusterId>,
    /// The node that it belongs to.
    pub node: Option<NodeId>,
    /// The group that it belongs to.
    pub group: Option<GroupId>,
}

/// `node 1 of cluster 7 (group 0)`, as far as known.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.node {
            Some(node) => write!(f, "node {node}")?,
            None => f.write_str("any node")?,
        }
        if let Some(cluster) = self.cluster {
            write!(f, " of cluster {cluster}")?;
        }
        self.group.map_or(Ok(()), |group| write!(f, " (group {group})"))
    }
}

/// What a server must never forget: its term and its vote in it (`currentTerm` and `votedFor` of
/// Figure 3.1). Durable before any message that depends on it leaves the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct HardState {
    /// The latest term that this server has seen. Starts at 0; only grows.
    pub term: Term,
    /// The candidate that got this server's vote in `term`, if any.
    pub vote: Option<NodeId>,
}
