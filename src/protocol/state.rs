//! A server's whole state as plain data: what a trace records, what the model renders in the words of the spec, what
//! an operator may want to look at. Nothing here decides anything.

use super::Protocol;
use super::progress::{Progress, ProgressState};
use super::read::{FollowerReads, WaitingRead};
use super::role::Role;
use super::snapshot::Fetch;
use crate::action::RoleKind;
use crate::membership::Membership;
use crate::message::Envelope;
use crate::types::{DiskId, EntryId, HardState, Index, NodeId};
use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Everything that a [`Protocol`] holds beside its settings, as data. The variables of the spec are made of this and of
/// the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ProtocolState {
    /// Term and vote as decided; durable once the writes in flight are.
    pub hard_state: HardState,
    /// The role.
    pub role: RoleKind,
    /// The leader of the term, as far as known.
    pub leader: Option<NodeId>,
    /// Whether candidates are ignored because the leader was heard just now (§4.2.3).
    pub leader_is_recent: bool,
    /// The session in which the leader that this server follows last addressed it, with an append or an offer; `None` before
    /// the first, and without a leader.
    #[cfg_attr(feature = "serde", serde(default))]
    pub session: Option<Index>,
    /// Whether this server found that its disk lacks what it acknowledged, and does nothing any more.
    #[cfg_attr(feature = "serde", serde(default))]
    pub lost: bool,
    /// Who granted in this campaign, ascending; empty unless campaigning.
    pub votes_granted: Vec<NodeId>,
    /// Who refused in this campaign, ascending; empty unless campaigning.
    pub votes_refused: Vec<NodeId>,
    /// The last entry that the newest snapshot covers, as decided.
    pub snapshot: EntryId,
    /// The snapshot that is being fetched: who offered it, and the last entry that it covers.
    pub fetching: Option<(NodeId, EntryId)>,
    /// The entry before the log's first, as decided.
    pub base: EntryId,
    /// The last entry, durable or not.
    pub last: EntryId,
    /// The last entry that is durable and that no write in flight replaces. Before the base, and with term 0, while the
    /// write that makes the log begin anew is in flight.
    pub durable: EntryId,
    /// The highest index known committed.
    pub commit_index: Index,
    /// The last index handed out for applying.
    pub applied_through: Index,
    /// The configuration as of the snapshot, at that index, and each later one of the log, with the index of its entry: the
    /// last is in force.
    pub memberships: Vec<(Index, Arc<Membership>)>,
    /// What a leader knows of each peer, ascending by id; empty in other roles.
    pub progress: Vec<PeerState>,
    /// The last round of confirmation that a leader began; 0 in other roles and before the first.
    pub read_round: u64,
    /// The last round whose lease is over; 0 in other roles.
    pub lease_over: u64,
    /// Whether a leader told a server to campaign, and has no lease any more; false in other roles and without leases.
    pub lease_given_up: bool,
    /// The reads that wait for a leader's confirmation, in the order in which they began; empty in other roles.
    pub reads: Vec<ReadState>,
    /// The contexts of the reads that wait for the answer of the leader that this server follows, in the order in which they
    /// began; empty in other roles.
    pub follower_reads: Vec<u64>,
    /// How many of these, from the first on, the last question to the leader was about.
    pub reads_asked: usize,
    /// Whom a leader hands over to; `None` without a transfer and in other roles.
    pub transfer: Option<NodeId>,
    /// The writes in flight, oldest first.
    pub writes: Vec<WriteInFlight>,
}

/// What a leader knows of one peer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PeerState {
    /// The peer.
    pub peer: NodeId,
    /// Highest index known durable on the peer and equal to the leader's.
    pub match_index: Index,
    /// The next index to send.
    pub next_index: Index,
    /// How appends are sent at the moment.
    pub state: ProgressState,
    /// Whether the peer answered since the last quorum check.
    pub active: bool,
    /// The last round of confirmation in which the peer said that it follows; 0 before the first.
    pub confirmed_round: u64,
    /// Which acquaintance with the peer this is; see [`Progress::session`].
    #[cfg_attr(feature = "serde", serde(default))]
    pub session: Index,
    /// The disk on which the peer acknowledged `match_index`.
    #[cfg_attr(feature = "serde", serde(default))]
    pub disk: DiskId,
    /// What the peer had acknowledged when it said that it lost that; see [`Progress::lost`].
    #[cfg_attr(feature = "serde", serde(default))]
    pub lost: Option<Index>,
    /// The last round of confirmation that began before this acquaintance did.
    #[cfg_attr(feature = "serde", serde(default))]
    pub round_before: u64,
    /// The last index of each append in flight, oldest first.
    pub inflight: Vec<Index>,
}

/// A read that waits for a leader's confirmation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ReadState {
    /// Whose read it is, as said by who asked.
    pub context: u64,
    /// The follower that asked; `None` for this server's own reads.
    pub reader: Option<NodeId>,
    /// The first round that began after the read did.
    pub round: u64,
    /// What must be applied before it is answered.
    pub index: Index,
}

/// A write that was emitted and is not yet reported durable, as the protocol remembers it: its entries are in the
/// [`Action::Persist`](crate::Action::Persist) that the log works on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct WriteInFlight {
    /// The hard state that it carries, if any.
    pub hard_state: Option<HardState>,
    /// Up to where the log is durable after this write, less what a later write replaces.
    pub durable: Index,
    /// The messages that wait for it, in the order in which they were decided.
    pub messages: Vec<Envelope>,
}

impl Protocol {
    /// Everything that this server holds, as data.
    #[must_use]
    pub fn state(&self) -> ProtocolState {
        let (granted, refused) = match &self.role {
            Role::PreCandidate(ballot) | Role::Candidate(ballot) => (Some(&ballot.granted), Some(&ballot.refused)),
            Role::Follower(_) | Role::Leader(_) => (None, None),
        };
        let reads = if let Role::Leader(leader) = &self.role { Some(&leader.reads) } else { None };
        let follower_reads = if let Role::Follower(reads) = &self.role { Some(reads) } else { None };
        let ascending = |votes: Option<&BTreeSet<NodeId>>| votes.into_iter().flatten().copied().collect();
        ProtocolState {
            hard_state: self.hard_state,
            role: self.role(),
            leader: self.leader,
            leader_is_recent: self.leader_is_recent,
            session: self.session,
            lost: self.lost,
            votes_granted: ascending(granted),
            votes_refused: ascending(refused),
            snapshot: self.snapshot,
            fetching: self.fetching(),
            base: self.tail.base(),
            last: self.tail.last(),
            durable: self.tail.durable_id(),
            commit_index: self.commit_index,
            applied_through: self.applied_through,
            memberships: self.configurations.iter().cloned().collect(),
            progress: self.progress().map(|(peer, progress)| progress.peer_state(peer)).collect(),
            read_round: reads.map_or(0, |reads| reads.round),
            lease_over: reads.map_or(0, |reads| reads.lease_over),
            lease_given_up: reads.is_some_and(|reads| reads.lease_given_up),
            reads: reads.into_iter().flat_map(|reads| &reads.waiting).map(WaitingRead::state).collect(),
            follower_reads: follower_reads.into_iter().flat_map(FollowerReads::contexts).collect(),
            reads_asked: follower_reads.map_or(0, FollowerReads::asked),
            transfer: self.transfer_target(),
            writes: self.tail.writes_in_flight().collect(),
        }
    }

    /// This server after every server was renamed: the server that a cluster with the new names would have in its
    /// place. The protocol treats all servers alike, so exhaustive checking may take one of several states that differ
    /// in the names alone (symmetry). Messages that wait for one write come in the order of their receivers.
    ///
    /// # Panics
    /// If `rename` maps two members onto one.
    #[must_use]
    pub fn permute(&self, rename: impl Fn(NodeId) -> NodeId) -> Self {
        let members = self.membership().members();
        let renamed: BTreeSet<NodeId> = members.iter().map(|&id| rename(id)).collect();
        assert_eq!(renamed.len(), members.len(), "a permutation keeps servers apart");
        let mut permuted = self.clone();
        permuted.settings.id = rename(self.settings.id);
        permuted.configurations.rename(&rename);
        permuted.hard_state.vote = self.hard_state.vote.map(&rename);
        permuted.leader = self.leader.map(&rename);
        permuted.fetch = self.fetch.as_ref().map(|fetch| Fetch {
            from: rename(fetch.from),
            last: fetch.last,
            membership: Arc::new(fetch.membership.rename(&rename)),
        });
        permuted.tail.rename(&rename);
        match &mut permuted.role {
            Role::Follower(_) => {}
            Role::PreCandidate(ballot) | Role::Candidate(ballot) => {
                ballot.granted = ballot.granted.iter().map(|&id| rename(id)).collect();
                ballot.refused = ballot.refused.iter().map(|&id| rename(id)).collect();
            }
            Role::Leader(leader) => {
                leader.peers.iter_mut().for_each(|(peer, _)| *peer = rename(*peer));
                leader.peers.sort_by_key(|(peer, _)| *peer);
                leader.transfer = leader.transfer.map(&rename);
                leader.reads.rename(&rename);
            }
        }
        permuted
    }
}

impl WaitingRead {
    fn state(&self) -> ReadState {
        ReadState { context: self.context, reader: self.reader, round: self.round, index: self.index }
    }
}

impl Progress {
    fn peer_state(&self, peer: NodeId) -> PeerState {
        PeerState {
            peer,
            match_index: self.match_index,
            next_index: self.next_index,
            state: self.state,
            active: self.active,
            confirmed_round: self.confirmed_round,
            session: self.session,
            disk: self.disk,
            lost: self.lost,
            round_before: self.round_before,
            inflight: self.inflight.last_indexes().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Action, Event, MemoryLog, RaftConfig, RaftLog};

    /// A candidate of three, with its own vote durable.
    fn candidate(id: u64) -> Protocol {
        let mut log = MemoryLog::new();
        let mut config = RaftConfig::new(id, [1, 2, 3]);
        config.pre_vote = false;
        let mut protocol = Protocol::new(&config, &log).expect("a valid configuration");
        let mut actions = Vec::new();
        protocol.step(&log, Event::ElectionTimeout, &mut actions).expect("a timeout is never refused");
        for action in actions.drain(..) {
            if let Action::Persist(write) = action {
                let Ok(()) = log.append(&mut alloc::vec![write]);
            }
        }
        protocol.step(&log, Event::Persisted { writes: 1 }, &mut actions).expect("one write is in flight");
        protocol
    }

    #[test]
    fn renaming_a_server_gives_the_server_of_that_name() {
        let swap = |id: NodeId| NodeId([0, 2, 1, 3][id.0 as usize]);
        assert_ne!(candidate(1), candidate(2));
        assert_eq!(candidate(1).permute(swap), candidate(2));
        assert_eq!(candidate(1).permute(swap).permute(swap), candidate(1));
    }

    #[test]
    fn the_state_shows_the_campaign() {
        let state = candidate(2).state();
        assert_eq!((state.role, state.hard_state.vote), (RoleKind::Candidate, Some(NodeId(2))));
        assert_eq!(state.votes_granted, [NodeId(2)]);
        assert_eq!(state.writes, []);
    }
}
