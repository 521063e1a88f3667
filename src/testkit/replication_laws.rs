//! The laws of what a leader asks its followers, checked over a cluster's history: the checker's part for them.
//!
//! A breach of these loses no data. It costs time, and only a message more or less shows it.

use super::invariants::View;
use super::laws::{Checked, Law, check};
use crate::action::Action;
use crate::log::MemoryLog;
use crate::message::{AppendEntriesRequest, Envelope, Message};
use crate::types::{EntryId, Index, NodeId, Term};
use std::collections::{BTreeMap, BTreeSet};
use std::format;

/// What leaders asked so far.
#[derive(Clone, Debug, Default)]
pub(super) struct ReplicationLaws {
    /// By leader and follower.
    probes: BTreeMap<(NodeId, NodeId), Probes>,
    /// By receiver: who offers it a snapshot with the message that its next step consumes, in which term, and which one.
    offered: BTreeMap<NodeId, (NodeId, Term, EntryId)>,
}

/// How a leader looks for the place where a follower's log agrees with its own.
#[derive(Clone, Copy, Debug)]
struct Probes {
    /// The leader's term.
    term: Term,
    /// What the follower was known to hold then: with more, the search is over.
    match_index: Index,
    /// The lowest index after which the leader asked to append.
    lowest: Index,
    /// How often it has gone lower: once for each refusal that counts.
    lowered: usize,
    /// How often it may.
    lowered_max: usize,
}

impl ReplicationLaws {
    /// The server's life ends. What it had not yet on its disk is gone, so that a conflict may cost more.
    pub(super) fn crashed(&mut self, id: NodeId) {
        self.probes.retain(|(leader, follower), _| *leader != id && *follower != id);
        self.offered.remove(&id);
    }

    /// A message reaches a server, right before the step that consumes it.
    pub(super) fn received(&mut self, receiver: NodeId, envelope: &Envelope) {
        self.offered.remove(&receiver);
        if let Message::InstallSnapshotRequest(offer) = &envelope.message {
            self.offered.insert(receiver, (envelope.from, offer.term, offer.last));
        }
    }

    /// A server took a step with these actions; `views` are all servers after it.
    pub(super) fn stepped(&mut self, view: &View<'_>, actions: &[Action], views: &[View<'_>]) -> Checked {
        check_rounds(view, actions)?;
        self.check_fetch(view, actions)?;
        for action in actions {
            let (Action::Send(envelope) | Action::SendFromLog { envelope, .. }) = action else { continue };
            if let Message::AppendEntriesRequest(request) = &envelope.message {
                self.check_probe(view, envelope.to, request, views)?;
            }
        }
        Ok(())
    }

    /// What a server begins to fetch was offered by its leader, in the message that it handled.
    fn check_fetch(&self, view: &View<'_>, actions: &[Action]) -> Checked {
        let (id, offered) = (view.id, self.offered.get(&view.id));
        for action in actions {
            let Action::FetchSnapshot { from, last } = action else { continue };
            let by_leader = view.leader == Some(*from) && offered == Some(&(*from, view.hard_state.term, *last));
            check(by_leader, Law::FetchesFromOwnLeader, || {
                format!("node {id} follows {:?}, which offers {offered:?}, and fetches {last} from {from}", view.leader)
            })?;
        }
        Ok(())
    }

    /// After a step a server is fetching this: never from an earlier leader once the present one has offered a snapshot.
    pub(super) fn fetches(&mut self, view: &View<'_>, fetching: Option<(NodeId, EntryId)>) -> Checked {
        let Some((leader, term, offered)) = self.offered.remove(&view.id) else { return Ok(()) };
        let follows = view.leader == Some(leader) && view.hard_state.term == term;
        let right = !follows || fetching.is_none_or(|(from, _)| from == leader);
        check(right, Law::FetchesFromOwnLeader, || {
            format!("node {} follows {leader}, which offers {offered}, and goes on fetching {fetching:?}", view.id)
        })
    }

    /// Each refusal leaves out the rest of a term, of the leader's log or of the follower's, or what the follower lacks.
    fn check_probe(
        &mut self,
        view: &View<'_>,
        to: NodeId,
        request: &AppendEntriesRequest,
        views: &[View<'_>],
    ) -> Checked {
        let (id, term, prev) = (view.id, request.term, request.prev.index);
        let known = view.match_indexes.iter().find(|(peer, _)| *peer == to);
        let Some(match_index) = known.map(|(_, match_index)| *match_index) else { return Ok(()) };
        let Some(follower) = views.iter().find(|view| view.id == to) else { return Ok(()) };
        let begun = Probes { term, match_index, lowest: prev, lowered: 0, lowered_max: 0 };
        let probes = self.probes.entry((id, to)).or_insert(begun);
        if (probes.term, probes.match_index) != (term, match_index) {
            *probes = begun;
        }
        let terms = |log: &MemoryLog| -> BTreeSet<Term> {
            log.iter().map(|entry| entry.id).filter(|id| id.index > match_index).map(|id| id.term).collect()
        };
        if prev < probes.lowest {
            let terms = &terms(view.log) | &terms(follower.log);
            probes.lowered_max = probes.lowered_max.max(terms.len() + 1);
            probes.lowered += 1;
            probes.lowest = prev;
        }
        check(probes.lowered <= probes.lowered_max, Law::ConflictsCostTerms, || {
            format!(
                "node {id} has gone back {} times to agree with node {to}, now to {prev}: {probes:?}",
                probes.lowered
            )
        })
    }
}

/// A round of confirmation asks every other server that has a vote, in either majority of a joint configuration, and
/// no other.
fn check_rounds(view: &View<'_>, actions: &[Action]) -> Checked {
    let mut rounds: BTreeMap<u64, BTreeSet<NodeId>> = BTreeMap::new();
    for action in actions {
        let Action::Send(envelope) = action else { continue };
        if let Message::ConfirmLeaderRequest(request) = &envelope.message {
            rounds.entry(request.round).or_default().insert(envelope.to);
        }
    }
    let in_force = view.in_force();
    let voters = in_force.voters().iter().chain(in_force.outgoing()).copied();
    let others: BTreeSet<NodeId> = voters.filter(|voter| *voter != view.id).collect();
    let wrong = rounds.iter().find(|(_, asked)| **asked != others);
    check(wrong.is_none(), Law::RoundsAskVoters, || {
        format!("node {} asks {wrong:?}, the other servers with a vote in ({in_force}) are {others:?}", view.id)
    })
}

#[cfg(test)]
#[path = "replication_laws_tests.rs"]
mod tests;
