//! Who belongs to the cluster, and who of them has a vote.
//!
//! Lives here: a configuration as data, its bytes, and the rules that make one legal. Does not live here: how a cluster
//! moves from one to the next (`protocol/membership_change.rs`, dissertation §4).

use crate::history::History;
use crate::types::NodeId;
use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use thiserror::Error;

/// A cluster configuration (§4).
///
/// Lists are sorted and without duplicates, so that two equal configurations are equal values and every round of messages
/// goes out in id order. Configurations are values: each method that changes one gives a new one, and
/// [`Event::ChangeMembership`](crate::Event::ChangeMembership) takes the one that is wanted.
///
/// ```
/// use raft_io::Membership;
///
/// let three = Membership::new([1, 2, 3]);
/// let wanted = three.with_promotion(4).with_address(4, "10.0.0.4:7000").without(1);
/// assert_eq!(wanted.to_string(), "voters 2 3, learners 4 (promoting 4)");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(from = "Unsorted"))]
pub struct Membership {
    voters: Vec<NodeId>,
    outgoing: Vec<NodeId>,
    learners: Vec<NodeId>,
    promoting: Vec<NodeId>,
    addresses: Vec<(NodeId, String)>,
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    history: Option<Arc<History>>,
}

/// A configuration as someone may have written it, in any order.
#[cfg(feature = "serde")]
#[derive(serde::Deserialize)]
struct Unsorted {
    voters: Vec<NodeId>,
    #[serde(default)]
    outgoing: Vec<NodeId>,
    #[serde(default)]
    learners: Vec<NodeId>,
    #[serde(default)]
    promoting: Vec<NodeId>,
    #[serde(default)]
    addresses: Vec<(NodeId, String)>,
    #[serde(default)]
    history: Option<History>,
}

#[cfg(feature = "serde")]
impl From<Unsorted> for Membership {
    fn from(unsorted: Unsorted) -> Self {
        let Unsorted { voters, outgoing, learners, promoting, addresses, history } = unsorted;
        let mut membership = Self {
            voters: sorted(voters),
            outgoing: sorted(outgoing),
            learners: sorted(learners),
            promoting: sorted(promoting),
            addresses: Vec::new(),
            history: history.map(Arc::new),
        };
        for (id, address) in addresses {
            membership = membership.with_address(id, address);
        }
        membership.normalised()
    }
}

fn sorted(ids: impl IntoIterator<Item = NodeId>) -> Vec<NodeId> {
    ids.into_iter().collect::<BTreeSet<_>>().into_iter().collect()
}

fn insert(ids: &mut Vec<NodeId>, id: NodeId) {
    if let Err(position) = ids.binary_search(&id) {
        ids.insert(position, id);
    }
}

impl Membership {
    /// The largest encoded configuration, in bytes: it has to fit into one message and into a snapshot's metadata. That is
    /// thousands of servers, or hundreds with long addresses.
    pub const ENCODED_BYTES_MAX: usize = 48 << 10;

    /// The configuration of these voters; duplicates count once.
    pub fn new<I>(voters: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<NodeId>,
    {
        Self { voters: sorted(voters.into_iter().map(Into::into)), ..Self::default() }
    }

    /// This configuration with `id` as a voter.
    #[must_use]
    pub fn with_voter(&self, id: impl Into<NodeId>) -> Self {
        let (id, mut changed) = (id.into(), self.clone());
        insert(&mut changed.voters, id);
        changed.normalised()
    }

    /// This configuration with `id` as a learner: it gets the log, and has no vote (§4.2.1). A voter is demoted.
    #[must_use]
    pub fn with_learner(&self, id: impl Into<NodeId>) -> Self {
        let (id, mut changed) = (id.into(), self.clone());
        changed.voters.retain(|voter| *voter != id);
        changed.promoting.retain(|learner| *learner != id);
        insert(&mut changed.learners, id);
        changed.normalised()
    }

    /// This configuration with `id` as a learner that becomes a voter by itself as soon as it has caught up. A voter stays
    /// one.
    #[must_use]
    pub fn with_promotion(&self, id: impl Into<NodeId>) -> Self {
        let (id, mut changed) = (id.into(), self.clone());
        insert(&mut changed.learners, id);
        insert(&mut changed.promoting, id);
        changed.normalised()
    }

    /// This configuration without `id`, and without its address.
    #[must_use]
    pub fn without(&self, id: impl Into<NodeId>) -> Self {
        let (id, mut changed) = (id.into(), self.clone());
        changed.voters.retain(|voter| *voter != id);
        changed.learners.retain(|learner| *learner != id);
        changed.normalised()
    }

    /// This configuration with an address for `id`, in the words of whatever transport is used. Addresses of servers that
    /// are no members are forgotten with the next change.
    #[must_use]
    pub fn with_address(&self, id: impl Into<NodeId>, address: impl Into<String>) -> Self {
        let (id, mut changed) = (id.into(), self.clone());
        match changed.addresses.binary_search_by_key(&id, |(of, _)| *of) {
            Ok(position) => changed.addresses[position].1 = address.into(),
            Err(position) => changed.addresses.insert(position, (id, address.into())),
        }
        changed
    }

    /// This configuration as one of that history.
    #[must_use]
    pub fn with_history(&self, history: Arc<History>) -> Self {
        Self { history: Some(history), ..self.clone() }
    }

    /// Who belongs to the cluster, without the history: to compare with a configuration that somebody wrote.
    #[must_use]
    pub fn without_history(&self) -> Self {
        Self { history: None, ..self.clone() }
    }

    /// The joint configuration that leads from `present` to this one: the majorities of both decide (§4.3).
    #[must_use]
    pub fn joint_from(&self, present: &Self) -> Self {
        let mut joint = Self { outgoing: present.voters.clone(), ..self.clone() };
        // Whoever leaves is reached until it has left.
        for (id, address) in present.addresses().filter(|(id, _)| present.is_voter(*id)) {
            if joint.address(id).is_none() {
                joint = joint.with_address(id, address);
            }
        }
        joint
    }

    /// The configuration that a joint one leads to; a stable one is that already.
    #[must_use]
    pub fn settled(&self) -> Self {
        Self { outgoing: Vec::new(), ..self.clone() }.normalised()
    }

    /// Who has a vote is no learner; only learners are promoted; only members have addresses.
    fn normalised(mut self) -> Self {
        let Self { voters, outgoing, learners, promoting, addresses, history: _ } = &mut self;
        learners.retain(|id| voters.binary_search(id).is_err());
        promoting.retain(|id| learners.binary_search(id).is_ok());
        addresses.retain(|(id, _)| [&*voters, outgoing, learners].iter().any(|ids| ids.binary_search(id).is_ok()));
        self
    }

    /// The voters, ascending: in a joint configuration the new ones.
    #[must_use]
    pub fn voters(&self) -> &[NodeId] {
        &self.voters
    }

    /// The voters of the configuration that a joint one leaves, ascending; empty unless this is a joint one.
    #[must_use]
    pub fn outgoing(&self) -> &[NodeId] {
        &self.outgoing
    }

    /// The learners, ascending.
    #[must_use]
    pub fn learners(&self) -> &[NodeId] {
        &self.learners
    }

    /// The learners that become voters once they have caught up, ascending.
    #[must_use]
    pub fn promoting(&self) -> &[NodeId] {
        &self.promoting
    }

    /// The address of `id`, if one is known.
    #[must_use]
    pub fn address(&self, id: NodeId) -> Option<&str> {
        let position = self.addresses.binary_search_by_key(&id, |(of, _)| *of).ok()?;
        Some(&self.addresses[position].1)
    }

    /// Every known address, ascending by id.
    pub fn addresses(&self) -> impl Iterator<Item = (NodeId, &str)> {
        self.addresses.iter().map(|(id, address)| (*id, address.as_str()))
    }

    /// The history that the configuration belongs to: that of the log which it is in. `None` in a cluster that is older than
    /// histories, and in a configuration that somebody wrote.
    #[inline]
    #[must_use]
    pub const fn history(&self) -> Option<&Arc<History>> {
        self.history.as_ref()
    }

    /// Whether two majorities decide: a change from one set of voters to another is under way (§4.3).
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether nobody has a vote: what a server knows that joins a cluster and has not heard of it yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.voters.is_empty()
    }

    /// Whether `id` has a vote, be it as one of the new voters or of the old.
    #[must_use]
    pub fn is_voter(&self, id: NodeId) -> bool {
        // A handful: looking at each is quicker than halving.
        self.voters.contains(&id) || self.outgoing.contains(&id)
    }

    /// Whether `id` gets the log and has no vote.
    #[must_use]
    pub fn is_learner(&self, id: NodeId) -> bool {
        self.learners.contains(&id) && !self.is_voter(id)
    }

    /// Whether `id` gets the log, with a vote or without.
    #[must_use]
    pub fn contains(&self, id: NodeId) -> bool {
        self.is_voter(id) || self.learners.contains(&id)
    }

    /// Everyone who gets the log, ascending.
    #[must_use]
    pub fn members(&self) -> Vec<NodeId> {
        sorted(self.voters.iter().chain(&self.outgoing).chain(&self.learners).copied())
    }

    /// Everyone with a vote but `id`, ascending.
    #[must_use]
    pub fn voting_peers_of(&self, id: NodeId) -> Vec<NodeId> {
        sorted(self.voters.iter().chain(&self.outgoing).copied().filter(|&peer| peer != id))
    }

    /// The configuration with every server renamed; see [`Protocol::permute`](crate::Protocol::permute).
    #[must_use]
    pub fn rename(&self, rename: impl Fn(NodeId) -> NodeId) -> Self {
        let renamed = |ids: &[NodeId]| sorted(ids.iter().map(|&id| rename(id)));
        let mut addresses: Vec<_> = self.addresses.iter().map(|(id, address)| (rename(*id), address.clone())).collect();
        addresses.sort_unstable();
        Self {
            voters: renamed(&self.voters),
            outgoing: renamed(&self.outgoing),
            learners: renamed(&self.learners),
            promoting: renamed(&self.promoting),
            addresses,
            history: self.history.as_ref().map(|history| Arc::new(history.rename(&rename))),
        }
    }
}

impl core::fmt::Display for Membership {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let list = |f: &mut core::fmt::Formatter<'_>, title: &str, ids: &[NodeId]| {
            f.write_str(title)?;
            ids.iter().try_for_each(|id| write!(f, " {id}"))
        };
        list(f, "voters", &self.voters)?;
        if self.is_joint() {
            list(f, ", outgoing", &self.outgoing)?;
        }
        if !self.learners.is_empty() {
            list(f, ", learners", &self.learners)?;
        }
        if !self.promoting.is_empty() {
            list(f, " (promoting", &self.promoting)?;
            f.write_str(")")?;
        }
        Ok(())
    }
}

/// Why bytes are no configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum MembershipError {
    /// The bytes end too early, or too late.
    #[error("a configuration of {bytes} bytes does not end where its lists do")]
    Length {
        /// How many there are.
        bytes: usize,
    },
    /// More bytes than any configuration has.
    #[error("a configuration of {bytes} bytes exceeds the {} that one may have", Membership::ENCODED_BYTES_MAX)]
    TooLarge {
        /// How many there are.
        bytes: usize,
    },
    /// The first byte names no format that this version knows.
    #[error("a configuration in format {format}, which this version does not know")]
    Format {
        /// The first byte.
        format: u8,
    },
    /// A list is not ascending, a learner has a vote, a server is promoted that is no learner, or a stranger has an address.
    #[error("a configuration that contradicts itself: {0}")]
    Contradiction(&'static str),
    /// Nobody has a vote.
    #[error("a configuration without voters")]
    NoVoters,
    /// The history that it belongs to is none.
    #[error("a configuration of a history that is none")]
    History,
}

/// The bytes of a configuration; `docs/FORMAT.md` has the table.
impl Membership {
    const FORMAT: u8 = 1;
    /// As [`Membership::FORMAT`], with the history behind the addresses.
    const FORMAT_WITH_HISTORY: u8 = 2;

    /// How many bytes [`Membership::encode`] gives.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let ids = self.voters.len() + self.outgoing.len() + self.learners.len() + self.promoting.len();
        let addresses = self.addresses.iter().map(|(_, address)| 8 + 4 + address.len()).sum::<usize>();
        1 + 5 * 4 + 8 * ids + addresses + self.history.as_deref().map_or(0, History::encoded_len)
    }

    /// The bytes of this configuration. The same configuration always gives the same ones.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.encoded_len());
        out.push(if self.history.is_some() { Self::FORMAT_WITH_HISTORY } else { Self::FORMAT });
        let count = |count: usize| u32::try_from(count).expect("a list of servers has fewer than 2^32").to_le_bytes();
        for ids in [&self.voters, &self.outgoing, &self.learners, &self.promoting] {
            out.extend_from_slice(&count(ids.len()));
            ids.iter().for_each(|id| out.extend_from_slice(&id.0.to_le_bytes()));
        }
        out.extend_from_slice(&count(self.addresses.len()));
        for (id, address) in &self.addresses {
            out.extend_from_slice(&id.0.to_le_bytes());
            out.extend_from_slice(&count(address.len()));
            out.extend_from_slice(address.as_bytes());
        }
        if let Some(history) = &self.history {
            history.encode_into(&mut out);
        }
        out
    }

    /// The configuration of these bytes. Every configuration has one encoding, and other bytes are refused.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn decode(bytes: &[u8]) -> Result<Self, MembershipError> {
        if bytes.len() > Self::ENCODED_BYTES_MAX {
            return Err(MembershipError::TooLarge { bytes: bytes.len() });
        }
        let mut reader = Reader { left: bytes, bytes: bytes.len() };
        let [format] = reader.take()?;
        if format != Self::FORMAT && format != Self::FORMAT_WITH_HISTORY {
            return Err(MembershipError::Format { format });
        }
        let (voters, outgoing) = (reader.ids()?, reader.ids()?);
        let (learners, promoting) = (reader.ids()?, reader.ids()?);
        let addresses = reader.addresses()?;
        let mut history = None;
        if format == Self::FORMAT_WITH_HISTORY {
            let (found, left) = History::decode_from(reader.left).ok_or(MembershipError::History)?;
            (history, reader.left) = (Some(Arc::new(found)), left);
        }
        if !reader.left.is_empty() {
            return Err(MembershipError::Length { bytes: bytes.len() });
        }
        let membership = Self { voters, outgoing, learners, promoting, addresses, history };
        if membership.is_empty() {
            return Err(MembershipError::NoVoters);
        }
        if membership.clone().normalised() != membership {
            return Err(MembershipError::Contradiction("a learner with a vote, or a stranger with an address"));
        }
        Ok(membership)
    }
}

/// What is left of the bytes of a configuration. Nothing is allocated before its bytes were seen.
struct Reader<'a> {
    left: &'a [u8],
    bytes: usize,
}

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], MembershipError> {
        let (taken, left) = self.left.split_first_chunk().ok_or(MembershipError::Length { bytes: self.bytes })?;
        self.left = left;
        Ok(*taken)
    }

    /// The next list: its length, and the bytes of its items of at least `item` bytes each.
    fn count(&mut self, item: usize) -> Result<usize, MembershipError> {
        let count = u32::from_le_bytes(self.take()?) as usize;
        let fits = count.checked_mul(item).is_some_and(|bytes| bytes <= self.left.len());
        if fits { Ok(count) } else { Err(MembershipError::Length { bytes: self.bytes }) }
    }

    fn id(&mut self) -> Result<NodeId, MembershipError> {
        Ok(NodeId(u64::from_le_bytes(self.take()?)))
    }

    fn ids(&mut self) -> Result<Vec<NodeId>, MembershipError> {
        let count = self.count(8)?;
        let ids = (0..count).map(|_| self.id()).collect::<Result<Vec<_>, _>>()?;
        if ids.windows(2).all(|pair| pair[0] < pair[1]) {
            Ok(ids)
        } else {
            Err(MembershipError::Contradiction("a list that does not ascend"))
        }
    }

    fn addresses(&mut self) -> Result<Vec<(NodeId, String)>, MembershipError> {
        let count = self.count(8 + 4)?;
        let mut addresses = Vec::with_capacity(count);
        for _ in 0..count {
            let id = self.id()?;
            if addresses.last().is_some_and(|(before, _)| *before >= id) {
                return Err(MembershipError::Contradiction("addresses that do not ascend"));
            }
            let length = self.count(1)?;
            let (address, left): (&'a [u8], _) = self.left.split_at(length);
            self.left = left;
            let address = core::str::from_utf8(address);
            let address = address.map_err(|_| MembershipError::Contradiction("an address that is not UTF-8"))?;
            addresses.push((id, String::from(address)));
        }
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::HistoryId;
    use crate::types::EntryId;
    use alloc::string::ToString;
    use alloc::vec;

    fn ids(ids: &[u64]) -> Vec<NodeId> {
        ids.iter().map(|&id| NodeId(id)).collect()
    }

    #[test]
    fn who_has_a_vote_is_no_learner() {
        let three = Membership::new([3, 1, 2, 1]);
        assert_eq!(three.voters(), ids(&[1, 2, 3]));
        let four = three.with_promotion(4).with_learner(5);
        assert_eq!((four.learners(), four.promoting()), (&ids(&[4, 5])[..], &ids(&[4])[..]));
        assert!(four.is_learner(NodeId(4)) && !four.is_voter(NodeId(4)) && four.contains(NodeId(5)));
        let promoted = four.with_voter(4);
        assert_eq!((promoted.learners(), promoted.promoting()), (&ids(&[5])[..], &[][..]));
        assert_eq!(promoted.with_promotion(4), promoted, "a voter stays one");
        let demoted = promoted.with_learner(1);
        assert_eq!((demoted.voters(), demoted.learners()), (&ids(&[2, 3, 4])[..], &ids(&[1, 5])[..]));
        assert_eq!(demoted.without(5).without(1).without(4), Membership::new([2, 3]));
    }

    #[test]
    fn a_joint_configuration_has_the_votes_of_both() {
        let (old, new) = (Membership::new([1, 2, 3]), Membership::new([3, 4, 5]).with_learner(1));
        let joint = new.joint_from(&old);
        assert!(joint.is_joint() && joint.is_voter(NodeId(1)) && joint.is_voter(NodeId(5)));
        assert!(!joint.is_learner(NodeId(1)), "it still has a vote");
        assert_eq!(joint.members(), ids(&[1, 2, 3, 4, 5]));
        assert_eq!(joint.voting_peers_of(NodeId(3)), ids(&[1, 2, 4, 5]));
        assert_eq!(joint.settled(), new);
        assert_eq!(joint.to_string(), "voters 3 4 5, outgoing 1 2 3, learners 1");
    }

    #[test]
    fn addresses_stay_with_their_members() {
        let two = Membership::new([1, 2]).with_address(2, "b").with_address(1, "a").with_address(2, "c");
        assert_eq!(two.addresses().collect::<Vec<_>>(), [(NodeId(1), "a"), (NodeId(2), "c")]);
        assert_eq!(two.without(1).addresses().count(), 1);
        let joint = Membership::new([3, 4]).joint_from(&two);
        assert_eq!((joint.address(NodeId(1)), joint.settled().address(NodeId(1))), (Some("a"), None));
    }

    #[test]
    fn bytes_come_back_as_they_were() {
        let plain = Membership::new([1, 2, u64::MAX]);
        let full = plain.with_learner(7).with_promotion(9).with_address(7, "höst:1").with_address(1, "");
        let history = History::new(HistoryId::from_bits(7), EntryId::new(1, 1));
        let child = History::child(Some(&history), HistoryId::from_bits(8), EntryId::new(9, 2), [4_u64]);
        let (old, later) = (plain.with_history(Arc::new(history)), full.with_history(Arc::new(child)));
        assert_eq!(later.joint_from(&old).history(), later.history());
        for membership in [plain.clone(), full.clone(), full.joint_from(&Membership::new([4, 5])), old, later] {
            let bytes = membership.encode();
            assert_eq!(bytes.len(), membership.encoded_len());
            assert_eq!(Membership::decode(&bytes), Ok(membership.clone()));
            for cut in 0..bytes.len() {
                assert!(Membership::decode(&bytes[..cut]).is_err(), "cut at {cut}");
            }
            let longer = [&bytes[..], &[0]].concat();
            assert_eq!(Membership::decode(&longer), Err(MembershipError::Length { bytes: longer.len() }));
        }
    }

    #[test]
    fn other_bytes_are_refused() {
        let encode = |voters: &[u64], learners: &[u64], promoting: &[u64]| {
            let odd = Membership {
                voters: ids(voters),
                learners: ids(learners),
                promoting: ids(promoting),
                ..Membership::default()
            };
            Membership::decode(&odd.encode())
        };
        assert_eq!(encode(&[], &[1], &[]), Err(MembershipError::NoVoters));
        for refused in [encode(&[2, 1], &[], &[]), encode(&[1], &[1], &[]), encode(&[1], &[2], &[3])] {
            assert!(matches!(refused, Err(MembershipError::Contradiction(_))), "{refused:?}");
        }
        assert_eq!(Membership::decode(&[3]), Err(MembershipError::Format { format: 3 }));
        let mut history = Membership::new([1]).encode();
        history[0] = 2;
        history.extend_from_slice(&[0; 40]);
        assert_eq!(Membership::decode(&history), Err(MembershipError::History), "a history of no identity");
        let large = vec![1; Membership::ENCODED_BYTES_MAX + 1];
        assert_eq!(Membership::decode(&large), Err(MembershipError::TooLarge { bytes: large.len() }));
        // A length without its items must not make anything be allocated.
        assert_eq!(Membership::decode(&[1, 255, 255, 255, 255]), Err(MembershipError::Length { bytes: 5 }));
    }
}
