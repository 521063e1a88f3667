//! The laws of membership changes, and what the others need of configurations.

use super::{Law, positions_of};
use crate::config::Configuration;
use crate::facts::{Facts, PackedLog, position};
use crate::membership::Masks;
use crate::server::{Input, Server, Stepped};
use raft_io::protocol::ProtocolState;
use raft_io::types::Index;
use raft_io::{Envelope, Event, LogView, Membership, Message, RoleKind};
use std::sync::Arc;

/// What is known of the configurations of the cluster.
#[derive(Clone, Copy, Debug)]
pub struct Memberships<'a> {
    /// What is explored.
    pub configuration: &'a Configuration,
    /// The one that the cluster began with.
    pub initial: Masks,
    /// Those that were met, by number less one.
    pub known: &'a [Masks],
}

impl Memberships<'_> {
    /// The configuration after the first `count` of these entries, of which none is forgotten.
    fn after(self, entries: PackedLog, count: u32) -> Masks {
        match entries.last_membership(count) {
            0 => self.initial,
            number => self.known[usize::from(number) - 1],
        }
    }

    /// The configuration that elected a leader: that of its log before its first entry. History remembers what the log
    /// has forgotten.
    pub(super) fn elected(self, leader: &Facts, committed: PackedLog) -> Masks {
        if self.configuration.changes_max == 0 {
            return self.initial;
        }
        let whole = with_forgotten(leader.log, committed);
        let before = (0..whole.len()).take_while(|at| whole.term(*at) < leader.term).count();
        self.after(whole, before as u32)
    }

    /// Whether everybody to whom this leader gave a vote with the configuration in force holds durably what its log has before that: each configuration, hence
    /// the one that made it a learner, and the first entry of the term.
    pub(super) fn promoted_hold_the_log(self, leader: &Facts, servers: &[&Facts], committed: PackedLog) -> bool {
        if self.configuration.changes_max == 0 {
            return true;
        }
        let (log, whole) = (leader.log, with_forgotten(leader.log, committed));
        let own = |at: &u32| log.term(*at) == leader.term;
        let in_force = { log.base()..log.len() }.rfind(|at| log.membership(*at) != 0);
        in_force.filter(own).is_none_or(|at| {
            let [before, next] = [at, at + 1].map(|count| self.after(whole, count));
            let is_first = |at: u32| log.term(at) == leader.term && (at == 0 || whole.term(at - 1) < leader.term);
            let due = { log.base()..at }.rfind(|at| log.membership(*at) != 0 || is_first(*at)).map_or(0, |at| at + 1);
            servers
                .iter()
                .filter(|server| !server.rolled_back && next.voters & !before.voting() & 1 << server.position != 0)
                .all(|server| server.disk_log.len() >= due && server.disk_log.agrees(log, due))
        })
    }

    /// Whether these servers are a quorum of the configuration by which the last entry was committed.
    pub(super) fn is_durable(self, holders: u8, committed: PackedLog) -> bool {
        let last = self.after(committed, committed.len());
        last.is_quorum(holders)
            || (self.configuration.changes_max > 0
                && self.configuration.after(last).any(|next| next.is_quorum(holders)))
    }
}

/// A log with what it has forgotten: history remembers that.
fn with_forgotten(log: PackedLog, committed: PackedLog) -> PackedLog {
    let forgotten = committed.prefix(log.base()).entries();
    PackedLog(forgotten.0 | (log.0 & !PackedLog(u128::MAX).prefix(log.base()).0))
}

/// The laws of membership that a server breaks, as a mask.
pub(super) fn of_membership(configuration: &Configuration, server: &Server, state: &ProtocolState) -> u64 {
    let mut broken = 0;
    let mut check = |holds: bool, law: Law| broken |= if holds { 0 } else { law.bit() };
    let (id, log) = (server.protocol.id(), server.log());
    let in_log = log.memberships();
    let first = in_log.at_snapshot.unwrap_or_else(|| Arc::new(configuration.membership_of(id)));
    let expected = std::iter::once((log.snapshot().index, first)).chain(in_log.later);
    check(expected.eq(state.memberships.iter().cloned()), Law::ConfigurationFollowsLog);
    let (known, in_force) = (&state.memberships, server.protocol.membership());
    for pair in known.windows(2) {
        let [before, next] = [&pair[0].1, &pair[1].1].map(|membership| Masks::of(membership));
        check(before.voters == 0 || before.overlaps(next), Law::QuorumsOverlap);
    }
    let has_own_commit = log.term(state.commit_index) == Some(state.hard_state.term);
    match state.role {
        RoleKind::Leader => {
            let uncommitted = known.iter().filter(|(index, _)| *index > state.commit_index).count();
            check(!has_own_commit || uncommitted <= 1, Law::OneChangeAtATime);
            let own = |(index, _): &(Index, Arc<Membership>)| log.term(*index) == Some(state.hard_state.term);
            check(has_own_commit || !known.iter().any(own), Law::ChangesAfterOwnCommit);
            let members = Masks::of(in_force).members() & !(1 << position(id));
            let peers = positions_of(state.progress.iter().map(|peer| peer.peer));
            check(peers == members, Law::PeersAreMembers);
        }
        RoleKind::Candidate | RoleKind::PreCandidate => {
            let committed = known.iter().rposition(|(index, _)| *index <= state.commit_index).unwrap_or(0);
            let may = known[committed..].iter().any(|(_, membership)| membership.is_voter(id));
            check(may, Law::CampaignersHaveAVote);
        }
        RoleKind::Follower => {}
    }
    broken
}

/// What answers another session than the present one of its sender, or a round from before it, changes nothing.
pub(super) fn answers_of_this_life(input: &Input, stepped: &Stepped, old: &ProtocolState, new: &ProtocolState) -> bool {
    let Input::Event(Event::Receive(Envelope { from, message, .. })) = input else { return true };
    let peer = old.progress.iter().find(|peer| peer.peer == *from);
    let is_late = match message {
        Message::AppendEntriesResponse(response) => peer.is_none_or(|peer| response.session != Some(peer.session)),
        Message::ConfirmLeaderResponse(response) => peer.is_none_or(|peer| response.round <= peer.round_before),
        _ => false,
    };
    let counts = is_late && old.role == RoleKind::Leader && message.term() == old.hard_state.term;
    !counts || (new == old && stepped.sent.is_empty() && stepped.actions.is_empty())
}
