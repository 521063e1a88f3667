//! The laws of membership changes (§4), for the checker of a cluster's history.
//!
//! The checker reads the configurations off the entries of a log by itself, and counts quorums by itself.

use super::invariants::{Checker, View};
use super::laws::{Checked, Law, check};
use super::snapshot_laws::holds;
use crate::action::RoleKind;
use crate::log::{LogView, MemoryLog};
use crate::membership::Membership;
use crate::message::{Envelope, Message};
use crate::quorum::majority;
use crate::types::{EntryId, Index, NodeId, Payload};
use std::collections::BTreeSet;
use std::format;
use std::sync::Arc;
use std::vec::Vec;

/// Configurations in the order of their entries, with the index of each.
pub(super) type Configurations = Vec<(Index, Arc<Membership>)>;

/// Those in a log: the one as of its newest snapshot, which is `initial` where none was recorded, then each later one.
pub(super) fn configurations(log: &MemoryLog, initial: &Membership) -> Configurations {
    let snapshot = log.snapshot().index;
    let first = log.memberships().at_snapshot.unwrap_or_else(|| Arc::new(initial.clone()));
    let later = log.iter().filter(|entry| entry.id.index > snapshot).filter_map(|entry| match &entry.payload {
        Payload::Membership(membership) => Some((entry.id.index, Arc::clone(membership))),
        _ => None,
    });
    core::iter::once((snapshot, first)).chain(later).collect()
}

/// Whether those who are `among` decide: a majority of the voters, and in a joint configuration of the outgoing ones too.
pub(super) fn is_quorum(membership: &Membership, among: impl Fn(NodeId) -> bool) -> bool {
    let decide = |voters: &[NodeId]| voters.iter().filter(|id| among(**id)).count() >= majority(voters.len());
    decide(membership.voters()) && (!membership.is_joint() || decide(membership.outgoing()))
}

/// Whether each quorum of the one has a server in common with each of the other. If not, some set of servers is a quorum
/// of the one while those outside of it are a quorum of the other.
fn quorums_overlap(one: &Membership, other: &Membership) -> bool {
    let voters = |of: &Membership| [of.voters(), of.outgoing()].concat();
    let servers: Vec<NodeId> =
        voters(one).into_iter().chain(voters(other)).collect::<BTreeSet<_>>().into_iter().collect();
    (0u32..1 << servers.len()).all(|set| {
        let is_in = |id: NodeId| servers.iter().position(|server| *server == id).is_some_and(|at| set >> at & 1 == 1);
        !(is_quorum(one, is_in) && is_quorum(other, |id| !is_in(id)))
    })
}

/// What a leader knows of a peer: its match index, and whether it answered.
type Known = (Option<Index>, Option<bool>);

/// An answer of a former life of its sender, which is to change nothing.
#[derive(Clone, Debug)]
pub(super) struct FormerLife {
    from: NodeId,
    known: Known,
}

fn known_of(leader: &View<'_>, peer: NodeId) -> Known {
    let of_peer = |(id, index): &(NodeId, Index)| (*id == peer).then_some(*index);
    let answered = |(id, _, active): &(NodeId, Index, bool)| (*id == peer).then_some(*active);
    (leader.match_indexes.iter().find_map(of_peer), leader.sessions.iter().find_map(answered))
}

/// Whether an answer to this leader belongs to another session than its sender's present one.
pub(super) fn of_former_life(receiver: &View<'_>, envelope: &Envelope) -> Option<FormerLife> {
    let Message::AppendEntriesResponse(response) = &envelope.message else { return None };
    let from = envelope.from;
    let present = receiver.sessions.iter().find(|(peer, ..)| *peer == from).map(|(_, session, _)| *session);
    let is_late = response.session.is_some_and(|session| present.is_some_and(|present| present != session));
    let known = known_of(receiver, from);
    (is_late && response.term == receiver.hard_state.term).then_some(FormerLife { from, known })
}

impl Checker {
    pub(super) fn check_memberships(&mut self, view: &View<'_>) -> Checked {
        let of_log = configurations(view.log, view.initial);
        let of_disk = configurations(view.disk, view.initial);
        self.check_successive(view.id, &of_log)?;
        self.check_successive(view.id, &of_disk)?;
        self.check_configuration(view, &of_log)?;
        self.check_history(view)?;
        match view.role {
            Some(RoleKind::Leader) => check_changes(view, &of_log),
            Some(RoleKind::PreCandidate | RoleKind::Candidate) => check_campaigner(view, &of_log),
            Some(RoleKind::Follower) | None => Ok(()),
        }
    }

    /// The oldest configuration that a server knows names the history once that is committed, and what is committed stays. A
    /// leader of an empty log that was not elected by all may have named another one: that counts for nothing.
    fn check_history(&mut self, view: &View<'_>) -> Checked {
        let oldest = view.memberships.first().filter(|(index, _)| *index <= view.commit_index);
        let Some(settled) = oldest.and_then(|(_, membership)| membership.history()) else { return Ok(()) };
        let first = *self.history.get_or_insert(settled.id());
        check(first == settled.id(), Law::HistoryIsOne, || {
            format!("node {} belongs to the history {}, another one to {first}", view.id, settled.id())
        })
    }

    /// A server goes by what its log says, and its snapshot says what those before it committed.
    fn check_configuration(&self, view: &View<'_>, of_log: &Configurations) -> Checked {
        let law = Law::ConfigurationFollowsLog;
        let id = view.id;
        let knows = |position: usize, (known, logged): (&Membership, &Membership)| {
            // The oldest one names the history from when that is committed, whatever the log says of that time; a server that
            // joined knows of nobody then, and learns it from the entry that names the history.
            let by_history = logged.is_empty() && known.history().is_some();
            known == logged || (position == 0 && (by_history || known.without_history() == logged.without_history()))
        };
        let mut pairs = view.memberships.iter().zip(of_log).enumerate();
        let follows = view.memberships.len() == of_log.len()
            && pairs.all(|(position, (known, logged))| known.0 == logged.0 && knows(position, (&known.1, &logged.1)));
        check(view.role.is_none() || follows, law, || {
            format!("node {id} goes by {:?}, its log says {of_log:?}", view.memberships)
        })?;
        for log in [view.log, view.disk] {
            let (snapshot, at_snapshot) = (log.snapshot().index, log.memberships().at_snapshot);
            let Some(found) = at_snapshot.filter(|_| snapshot > Index::ZERO) else { continue };
            let committed = self.committed_membership(snapshot);
            check(found.without_history() == committed.without_history(), law, || {
                format!("node {id}'s snapshot up to {snapshot} says ({found}), committed was ({committed})")
            })?;
        }
        Ok(())
    }

    /// What the cluster had committed as its configuration when `index` was.
    fn committed_membership(&self, index: Index) -> Arc<Membership> {
        let until = self.committed.range(..=index).rev().map(|(_, committed)| &committed.entry.payload);
        let last = until.filter_map(|payload| match payload {
            Payload::Membership(membership) => Some(Arc::clone(membership)),
            _ => None,
        });
        { last }.next().unwrap_or_else(|| Arc::clone(&self.initial))
    }

    /// To whom a leader gave a vote with the configuration in force, that server has on its disk what there was before: the configuration that it replaces, and
    /// the leader's first entry of the term. Of what the leader has forgotten since nothing is said.
    pub(super) fn check_promoted(&self, leader: &View<'_>, views: &[View<'_>]) -> Checked {
        let (id, term) = (leader.id, leader.hard_state.term);
        let of_log = configurations(leader.log, leader.initial);
        let first = leader.log.iter().find(|entry| entry.id.term == term).filter(|_| leader.log.base().term < term);
        if let Some((position, pair)) = of_log.windows(2).enumerate().next_back() {
            let [(at, before), (index, after)] = pair else { return Ok(()) };
            if self.has_lost_data() || before.is_empty() || leader.log.term(*index) != Some(term) {
                return Ok(());
            }
            let replaced = if position == 0 { Index::ZERO } else { *at };
            let floor = replaced.max(first.map_or(Index::ZERO, |first| first.id.index));
            let due = leader.log.term(floor).map(|term| EntryId { index: floor, term });
            for voter in after.voters().iter().filter(|voter| !before.is_voter(**voter)) {
                let disk = views.iter().find(|view| view.id == *voter).map(|view| view.disk);
                let has_it = floor == Index::ZERO || due.zip(disk).is_none_or(|(due, disk)| holds(disk, due));
                check(has_it, Law::PromotedHasLog, || {
                    format!("node {id} gave a vote to node {voter} at {index}, which does not hold {floor}")
                })?;
            }
        }
        Ok(())
    }

    /// An answer of a former life changes nothing at the leader that gets it.
    pub(super) fn check_former_life(&mut self, id: NodeId, views: &[View<'_>]) -> Checked {
        let late = self.heard.get_mut(&id).and_then(|heard| heard.former_life.take());
        let (Some(before), Some(view)) = (late, views.iter().find(|view| view.id == id)) else { return Ok(()) };
        let after = known_of(view, before.from);
        check(after == before.known, Law::AnswersOfThisLife, || {
            format!("node {id} believes a former life of node {}: {:?}, then {after:?}", before.from, before.known)
        })
    }

    fn check_successive(&mut self, id: NodeId, configurations: &Configurations) -> Checked {
        for pair in configurations.windows(2) {
            let [(_, before), (index, after)] = pair else { continue };
            // A server that joined does not know what came before.
            if before.is_empty() || self.overlapping.contains(&(Arc::clone(before), Arc::clone(after))) {
                continue;
            }
            check(quorums_overlap(before, after), Law::QuorumsOverlap, || {
                format!("in the log of node {id}, ({after}) at {index} has a quorum apart from one of ({before})")
            })?;
            self.overlapping.insert((Arc::clone(before), Arc::clone(after)));
        }
        Ok(())
    }
}

fn check_changes(view: &View<'_>, of_log: &Configurations) -> Checked {
    let (id, term, commit) = (view.id, view.hard_state.term, view.commit_index);
    let uncommitted: Vec<Index> = of_log.iter().map(|(index, _)| *index).filter(|index| *index > commit).collect();
    // A leader that has just been elected may not know yet what was committed before it.
    let own = uncommitted.iter().filter(|index| view.log.term(**index) == Some(term)).count();
    check(own == 0 || uncommitted.len() == 1, Law::OneChangeAtATime, || {
        format!(
            "node {id}, leader of term {term}, appended a configuration when one before was not committed: {uncommitted:?}"
        )
    })?;
    // What a log has forgotten was committed.
    let first = view.log.iter().find(|entry| entry.id.term == term).filter(|_| view.log.base().term < term);
    // The first leader of an empty log names the history in its first entry, and changes nothing else.
    let names_history = |pair: &[(Index, Arc<Membership>)]| {
        pair[1].0 == Index(1) && pair[1].1.without_history() == pair[0].1.without_history()
    };
    let founds = of_log.windows(2).last().is_some_and(names_history);
    let after_own = own == 0 || founds || first.is_none_or(|first| first.id.index <= commit);
    check(after_own, Law::ChangesAfterOwnCommit, || {
        format!("node {id} appended a configuration in term {term}, of which it has committed nothing")
    })?;
    let in_force = of_log.last().map(|(_, membership)| membership.members()).unwrap_or_default();
    let peers = in_force.iter().copied().filter(|member| *member != id);
    let known = view.match_indexes.iter().map(|(peer, _)| *peer);
    check(peers.clone().eq(known.clone()), Law::PeersAreMembers, || {
        format!("node {id} leads the members {in_force:?} and keeps account of {:?}", known.collect::<Vec<_>>())
    })
}

fn check_campaigner(view: &View<'_>, of_log: &Configurations) -> Checked {
    let committed = of_log.iter().rposition(|(index, _)| *index <= view.commit_index).unwrap_or(0);
    let has_vote = of_log[committed..].iter().any(|(_, membership)| membership.is_voter(view.id));
    check(has_vote, Law::CampaignersHaveAVote, || {
        format!("node {} campaigns and has a vote in none of {:?}", view.id, &of_log[committed..])
    })
}

#[cfg(test)]
#[path = "membership_laws_tests.rs"]
mod tests;
