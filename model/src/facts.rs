//! What the laws need of a server and of a message, in a few words of memory, so that a state is judged without looking
//! at a single heap object.

use crate::membership::Masks;
use crate::server::Server;
use raft_io::protocol::ProtocolState;
use raft_io::types::Payload;
use raft_io::{EntryId, Envelope, LogView, Membership, MemoryLog, Message, NodeId, RoleKind};

/// The most reads of a configuration.
pub const READS_MAX: usize = 2;

/// The most servers of a configuration.
pub const SERVERS_MAX: usize = 5;

/// The number of a configuration, from 1 on; 0 is none. The tables know them.
pub type MembershipNumber = u8;

/// A log of at most 8 entries with terms up to 7, two bytes each: the lowest is the first. Two bytes are
/// `membership (8) | present (1) | commit term (3) | command (1) | term (3)`; the commit term is used only in the log of what
/// is committed. In a server's log it marks what is forgotten, with all its bits: of that only the base, the last one, has
/// a term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PackedLog(pub u128);

/// The lowest bit of each entry.
const EACH: u128 = 0x0001_0001_0001_0001_0001_0001_0001_0001;
const ENTRY: u128 = EACH * 0xff8f;
const FORGOTTEN: u128 = 0xf0;
/// One of the bits that mark what is forgotten, in each entry.
const MARK: u128 = EACH << 4;
/// What an entry has besides its term.
const CONTENT: u128 = 0xff08;

impl PackedLog {
    fn of(log: &MemoryLog, number: impl Fn(&Membership) -> MembershipNumber) -> Self {
        let mut packed = Self::default();
        let base = log.base();
        for at in 0..base.index.0 {
            packed.0 |= FORGOTTEN << (16 * at);
        }
        if base.index.0 > 0 {
            packed.0 |= u128::from(base.term.0) << (16 * (base.index.0 - 1));
        }
        for (at, entry) in (base.index.0..).zip(log.iter()) {
            let content = match &entry.payload {
                Payload::Noop => 0,
                Payload::Command(_) => 0x08,
                Payload::Membership(membership) => u128::from(number(membership)) << 8,
                other => unreachable!("the spec has no payload like {other:?}"),
            };
            packed.0 |= (0x80 | content | u128::from(entry.id.term.0)) << (16 * at);
        }
        packed
    }

    /// How many entries a server's log has forgotten.
    #[must_use]
    pub fn base(self) -> u32 {
        (self.0 & MARK).count_ones()
    }

    /// Where two logs differ, as far as neither has forgotten it: at the base only the terms are compared.
    fn difference(self, other: Self, base: u32) -> u128 {
        let difference = (self.0 ^ other.0) & ENTRY;
        match base {
            0 => difference,
            base => {
                let at_base = 16 * (base - 1);
                (difference & !(CONTENT << at_base)) >> at_base << at_base
            }
        }
    }

    /// Whether up to `count` this log holds the entries of `other`, which has forgotten none, or has forgotten them.
    #[must_use]
    pub fn holds(self, other: Self, count: u32) -> bool {
        Self(self.difference(other, self.base())).prefix(count).is_empty()
    }

    /// Whether up to `count` two servers' logs hold the same entries, as far as neither has forgotten them.
    #[must_use]
    pub fn agrees(self, other: Self, count: u32) -> bool {
        Self(self.difference(other, self.base().max(other.base()))).prefix(count).is_empty()
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(self) -> u32 {
        8 - self.0.leading_zeros() / 16
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The first `count` entries.
    #[must_use]
    pub fn prefix(self, count: u32) -> Self {
        if count >= 8 { self } else { Self(self.0 & ((1 << (16 * count)) - 1)) }
    }

    /// The term of the entry at this position, counted from 0.
    #[must_use]
    pub fn term(self, at: u32) -> u8 {
        (self.0 >> (16 * at)) as u8 & 0x07
    }

    /// The number of the configuration that the entry at this position, counted from 0, is; 0 if it is none.
    #[must_use]
    pub fn membership(self, at: u32) -> MembershipNumber {
        (self.0 >> (16 * at + 8)) as u8
    }

    /// The last configuration among the first `count` entries; 0 if there is none.
    #[must_use]
    pub fn last_membership(self, count: u32) -> MembershipNumber {
        (0..count).rev().map(|at| self.membership(at)).find(|number| *number != 0).unwrap_or(0)
    }

    /// Whether the entry at this position, counted from 0, is a command.
    #[must_use]
    pub fn is_command(self, at: u32) -> bool {
        (self.0 >> (16 * at)) as u8 & 0x08 != 0
    }

    /// The term in which the entry at this position was committed.
    #[must_use]
    pub fn commit_term(self, at: u32) -> u8 {
        (self.0 >> (16 * at)) as u8 >> 4 & 0x07
    }

    /// The entries without their commit terms.
    #[must_use]
    pub fn entries(self) -> Self {
        Self(self.0 & ENTRY)
    }

    /// Entries of `log` from this one's end up to `end`, as committed in `term`.
    #[must_use]
    pub fn commit(self, log: Self, end: u32, term: u8) -> Self {
        let fresh = log.prefix(end).0 & ENTRY & !Self(u128::MAX).prefix(self.len()).0;
        let present = (fresh >> 7) & EACH;
        let terms = present * (u128::from(term) << 4);
        Self(self.0 | fresh | terms)
    }

    /// Log Matching for two logs: from the first difference on, no two entries at one index have the same term.
    #[must_use]
    pub fn matches(self, other: Self) -> bool {
        let difference = self.difference(other, self.base().max(other.base()));
        if difference == 0 {
            return true;
        }
        let first = difference.trailing_zeros() / 16;
        (first..self.len().min(other.len())).all(|at| self.term(at) != other.term(at))
    }
}

/// What is remembered of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadHistory {
    /// How much was committed, by whoever, when it began.
    pub floor: u8,
    /// Where it was answered, if it was.
    pub index: Option<u8>,
}

impl ReadHistory {
    pub(crate) fn is_linearizable(self) -> bool {
        self.index.is_none_or(|index| index >= self.floor)
    }

    pub(crate) fn bits(self) -> u64 {
        0x8000 | u64::from(self.floor) << 8 | self.index.map_or(0, |index| 0x80 | u64::from(index))
    }
}

/// What the laws need of one server.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// The role.
    pub role: RoleKind,
    /// Position in `0..servers`.
    pub position: u8,
    /// Term as decided.
    pub term: u8,
    /// Vote as decided, as a position; `NOBODY` if none.
    pub vote: u8,
    /// Term on disk.
    pub disk_term: u8,
    /// Vote on disk.
    pub disk_vote: u8,
    /// Whether candidates are ignored.
    pub leader_is_recent: bool,
    /// Whether it found that it lost data, and does nothing any more.
    pub lost: bool,
    /// Whether there is a copy of its disk.
    pub has_backup: bool,
    /// Whether that is another disk than the present one.
    pub may_roll_back: bool,
    /// Whether its disk was put back to its copy.
    pub rolled_back: bool,
    /// The peers, by their positions, of whom a leader believes that they lost data.
    pub accused: u8,
    /// Writes in flight.
    pub pending: u8,
    /// Commit index.
    pub commit: u8,
    /// The last index handed out for applying.
    pub applied: u8,
    /// The last entry that the newest snapshot covers, as decided: index and term.
    pub snapshot: (u8, u8),
    /// The same on disk.
    pub disk_snapshot: (u8, u8),
    /// Whether a snapshot is being fetched.
    pub fetching: bool,
    /// Whether it follows a leader that it knows.
    pub follows: bool,
    /// How many of a follower's reads wait for its leader's answer; 0 elsewhere.
    pub follower_reads: u8,
    /// The last round of confirmation that a leader began; 0 elsewhere.
    pub read_round: u8,
    /// The last round whose lease is over; 0 elsewhere.
    pub lease_over: u8,
    /// Whether it is a leader that answers reads without asking.
    pub has_lease: bool,
    /// Whether it is a leader that hands over.
    pub hands_over: bool,
    /// The configuration in force, and the index of its entry.
    pub in_force: (u8, Masks),
    /// From here on the server knows the configuration: it takes no snapshot of what comes before.
    pub knows_from: u8,
    /// The log as decided.
    pub log: PackedLog,
    /// The log on disk.
    pub disk_log: PackedLog,
    /// A leader's match index per position; 0 elsewhere.
    pub matches: [u8; SERVERS_MAX],
}

/// No server's position.
pub const NOBODY: u8 = u8::MAX;

/// A server's position, counted from 0.
#[must_use]
pub fn position(id: NodeId) -> u8 {
    id.0 as u8 - 1
}

fn packed_id(id: EntryId) -> (u8, u8) {
    (id.index.0 as u8, id.term.0 as u8)
}

impl Facts {
    /// The facts of a server, with its state; `number` knows the number of each configuration.
    #[must_use]
    pub fn of(server: &Server, state: &ProtocolState, number: impl Fn(&Membership) -> MembershipNumber) -> Self {
        let (index, membership) = state.memberships.last().expect("a configuration is always in force");
        let known = state.memberships.iter().find(|(_, membership)| !membership.is_empty());
        let disk = server.disk.hard_state();
        let mut matches = [0; SERVERS_MAX];
        for peer in &state.progress {
            matches[position(peer.peer) as usize] = peer.match_index.0 as u8;
        }
        Self {
            role: state.role,
            position: position(server.protocol.id()),
            term: state.hard_state.term.0 as u8,
            vote: state.hard_state.vote.map_or(NOBODY, position),
            disk_term: disk.term.0 as u8,
            disk_vote: disk.vote.map_or(NOBODY, position),
            leader_is_recent: state.leader_is_recent,
            lost: state.lost,
            has_backup: server.backup.is_some(),
            may_roll_back: server.backup.as_ref().is_some_and(|backup| *backup != server.disk),
            rolled_back: server.rolled_back,
            accused: state
                .progress
                .iter()
                .filter(|peer| peer.lost.is_some())
                .fold(0, |mask, peer| mask | 1 << position(peer.peer)),
            pending: state.writes.len() as u8,
            commit: state.commit_index.0 as u8,
            applied: state.applied_through.0 as u8,
            snapshot: packed_id(state.snapshot),
            disk_snapshot: packed_id(server.disk.snapshot()),
            fetching: state.fetching.is_some(),
            follows: state.role == RoleKind::Follower && state.leader.is_some(),
            follower_reads: state.follower_reads.len() as u8,
            read_round: state.read_round as u8,
            lease_over: state.lease_over as u8,
            has_lease: server.protocol.has_lease(),
            hands_over: state.transfer.is_some(),
            in_force: (index.0 as u8, Masks::of(membership)),
            knows_from: known.map_or(u8::MAX, |(index, _)| index.0 as u8),
            log: PackedLog::of(&server.log(), &number),
            disk_log: PackedLog::of(&server.disk, &number),
            matches,
        }
    }
}

impl Facts {
    /// Whether this server leads, and has committed a configuration without the one at this position.
    #[must_use]
    pub fn has_removed(&self, position: u8) -> bool {
        let (index, membership) = self.in_force;
        self.role == RoleKind::Leader && index <= self.commit && membership.members() & 1 << position == 0
    }

    /// Whether there is anything on its disk.
    #[must_use]
    pub fn holds_something(&self) -> bool {
        self.disk_term > 0 || !self.disk_log.is_empty() || self.disk_snapshot != (0, 0)
    }
}

/// What the model needs of a message.
#[derive(Clone, Copy, Debug)]
pub struct MessageFacts {
    /// The receiver's position.
    pub to: u8,
    /// An answer to a question of this term, or to one about a campaign in this term, or a question to the leader of this
    /// term alone: a receiver whose disk knows a later one has no use for it. `NEVER_DEAD` for anything else.
    pub answers_term: u8,
    /// The term and the round of a leader's question whether it is followed: who answers it promises something.
    pub asks: Option<(u8, u8)>,
}

/// No term: the message may have an effect, or an answer, in any later one.
const NEVER_DEAD: u8 = u8::MAX;

impl MessageFacts {
    /// The facts of a message.
    #[must_use]
    pub fn of(envelope: &Envelope) -> Self {
        let answers_term = match &envelope.message {
            // Counts for a campaign in this term alone, which begins in the term before; but a higher term spreads.
            Message::PreVoteResponse(response) => (response.campaign_term.0 - 1).max(response.term.0) as u8,
            Message::RequestVoteResponse(response) => response.term.0 as u8,
            Message::AppendEntriesResponse(response) => response.term.0 as u8,
            // The responder's term is never before that of the question.
            Message::ConfirmLeaderResponse(response) => response.term.0 as u8,
            // Who leads, or follows, another term neither answers nor takes an answer.
            Message::ReadIndexRequest(request) => request.term.0 as u8,
            Message::ReadIndexResponse(response) => response.term.0 as u8,
            _ => NEVER_DEAD,
        };
        let asks = match &envelope.message {
            Message::ConfirmLeaderRequest(request) => Some((request.term.0 as u8, request.round as u8)),
            _ => None,
        };
        Self { to: position(envelope.to), answers_term, asks }
    }

    /// The rule of dead messages: the receiver can have no use for this one, now or ever. It rests on the term on *disk*,
    /// which no crash takes back. Every run proves it; see `Law::DeadMessagesAreDead`.
    #[must_use]
    pub fn is_dead(self, receiver: &Facts) -> bool {
        self.answers_term < receiver.disk_term
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(terms: &[u64]) -> PackedLog {
        PackedLog(terms.iter().enumerate().map(|(at, term)| (0x80 | u128::from(*term)) << (16 * at)).sum())
    }

    #[test]
    fn a_packed_log_keeps_its_entries_apart() {
        let packed = log(&[1, 1, 3]);
        assert_eq!((packed.len(), packed.term(0), packed.term(2)), (3, 1, 3));
        assert_eq!(packed.prefix(2), log(&[1, 1]));
        assert_eq!(packed.prefix(8), packed);
        assert!(PackedLog::default().is_empty());
        let committed = log(&[1]).commit(packed, 3, 5);
        assert_eq!(
            (committed.len(), committed.commit_term(0), committed.commit_term(1), committed.commit_term(2)),
            (3, 0, 5, 5)
        );
        assert_eq!(committed.entries(), packed);
        assert_eq!(committed.commit(packed, 2, 6), committed);
        let changed = PackedLog(packed.0 | 3 << 24);
        assert_eq!((changed.membership(0), changed.membership(1), changed.len()), (0, 3, 3));
        assert_eq!((changed.last_membership(1), changed.last_membership(3)), (0, 3));
        assert!(!changed.matches(packed) && !changed.agrees(packed, 2) && changed.agrees(packed, 1));
    }

    #[test]
    fn logs_match_or_do_not() {
        assert!(log(&[1, 1]).matches(log(&[1, 1, 2])));
        assert!(log(&[1, 1, 2]).matches(log(&[1, 2])));
        assert!(!log(&[1, 1, 3]).matches(log(&[1, 2, 3])));
        assert!(!PackedLog(0x88).matches(PackedLog(0x80)));
    }
}
