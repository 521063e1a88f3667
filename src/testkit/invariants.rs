//! The laws of a whole cluster, checked over its history after every move.
//!
//! The five safety properties are those of Figure 3.2 of the dissertation. The others are the laws that they rest on:
//! a breach shows there earlier, and in more schedules. `docs/INVARIANTS.md` lists them all, with the places where one
//! server asserts its part alone.
//!
//! The checker sees servers only through [`View`], plain data, so its tests can feed it histories that no server of
//! ours produces.

use super::campaign_laws::Answers;
use super::laws::check;
pub use super::laws::{Checked, Law, Violation};
use super::loss_laws::names_what_is_gone;
use super::membership_laws::{FormerLife, is_quorum, of_former_life};
use super::read_laws::ReadLaws;
use super::replication_laws::ReplicationLaws;
use super::snapshot_laws::holds;
use super::transfer_laws::TransferLaws;
use crate::action::{Action, RoleKind};
use crate::history::HistoryId;
use crate::log::{LogView, MemoryLog, Read};
use crate::membership::Membership;
use crate::message::{AppendResult, Envelope, Message};
use crate::transition::Transition;
use crate::types::{Entry, EntryId, HardState, Index, NodeId, Term};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::format;
use std::sync::Arc;
use std::vec::Vec;

/// What the checker sees of one server.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// The server.
    pub id: NodeId,
    /// Its role; `None` while it is down.
    pub role: Option<RoleKind>,
    /// Whether it asks for pre-votes before it campaigns.
    pub pre_vote: bool,
    /// Term and vote as decided, durable or not.
    pub hard_state: HardState,
    /// The leader that it knows of, itself if it leads.
    pub leader: Option<NodeId>,
    /// Whether it heard its leader within the minimum election timeout.
    pub leader_is_recent: bool,
    /// Whether it found that it lost data, and does nothing any more.
    pub has_lost_data: bool,
    /// The peers of which it believes that they lost data, when it leads.
    pub accused: Vec<NodeId>,
    /// Of a leader that has a lease: the last round whose lease is over.
    pub lease_over: Option<u64>,
    /// Its commit index.
    pub commit_index: Index,
    /// Its log with the entries that are not yet durable.
    pub log: &'a MemoryLog,
    /// What would survive a crash right now.
    pub disk: &'a MemoryLog,
    /// The match index of each peer, when it leads.
    pub match_indexes: Vec<(NodeId, Index)>,
    /// The session of each peer, when it leads, and whether that answered since the last quorum check.
    pub sessions: Vec<(NodeId, Index, bool)>,
    /// The configurations that it goes by; see [`Protocol::memberships`](crate::Protocol::memberships). None while it is
    /// down.
    pub memberships: Vec<(Index, Arc<Membership>)>,
    /// The configuration that it was set up with.
    pub initial: &'a Membership,
}

impl View<'_> {
    /// The configuration that it goes by.
    pub(super) fn in_force(&self) -> Arc<Membership> {
        self.memberships.last().map(|(_, membership)| Arc::clone(membership)).unwrap_or_default()
    }
}

/// What the checker remembers of one life of a server.
#[derive(Clone, Debug)]
pub(super) struct Life {
    pub(super) role: RoleKind,
    pub(super) hard_state: HardState,
    commit_index: Index,
    /// The last entry that its newest snapshot covers.
    snapshot: EntryId,
    /// The last entry of its log.
    last: EntryId,
    in_force: Arc<Membership>,
    /// The log while it leads.
    leader_log: Option<MemoryLog>,
}

/// An entry with the term in which it was committed, and the entry before one, by position.
#[derive(Clone, Debug)]
pub(super) struct Committed {
    pub(super) entry: Entry,
    /// Not the entry's own term: an entry of term 2 may be committed in term 4, and only leaders of
    /// terms above 4 must hold it (Figure 3.7).
    in_term: Term,
    /// Whose quorum committed it: the configuration in force on the leader that did.
    by: Arc<Membership>,
}

/// What a server heard, on which a later step must rest.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard {
    pub(super) answers: Answers,
    /// The answer that this leader is about to handle is one of a former life: the server that sent it, and what the leader
    /// knew of that before. `None` for any other message.
    pub(super) former_life: Option<FormerLife>,
    /// The append that this server is about to handle names what is gone from its disk.
    pub(super) names_what_is_gone: bool,
}

/// Checks the history of one cluster.
#[derive(Clone, Debug)]
pub struct Checker {
    /// The configuration that the cluster began with.
    pub(super) initial: Arc<Membership>,
    /// Successive configurations of which it is known that their quorums overlap.
    pub(super) overlapping: HashSet<(Arc<Membership>, Arc<Membership>)>,
    pub(super) leaders: BTreeMap<Term, NodeId>,
    /// Every entry that any log ever held, and the id of the one before it.
    pub(super) entries: BTreeMap<EntryId, (Entry, EntryId)>,
    pub(super) committed: BTreeMap<Index, Committed>,
    /// Every vote that was durable or sent.
    votes: BTreeMap<(NodeId, Term), NodeId>,
    pub(super) lives: BTreeMap<NodeId, Life>,
    pub(super) heard: BTreeMap<NodeId, Heard>,
    /// Whether leaders check that a quorum answers.
    pub(super) check_quorum: bool,
    reads: ReadLaws,
    pub(super) transfers: TransferLaws,
    replication: ReplicationLaws,
    /// The last index applied in this life of each server's state machine.
    pub(super) applied: BTreeMap<NodeId, Index>,
    durable_terms: BTreeMap<NodeId, Term>,
    /// The first history that any server knew to be committed.
    pub(super) history: Option<HistoryId>,
    /// The disk of some server lost what it had reported durable: nothing can be promised of durability any more.
    pub(super) lost_data: bool,
    /// The servers of whom that is true.
    pub(super) rolled_back: BTreeSet<NodeId>,
    /// Some clock is too fast for another: nothing can be promised of leases any more.
    clocks_broken: bool,
}

impl Checker {
    /// A checker of a cluster that begins with this configuration.
    #[must_use]
    pub fn new(initial: &Membership) -> Self {
        Self {
            initial: Arc::new(initial.clone()),
            overlapping: HashSet::new(),
            leaders: BTreeMap::new(),
            entries: BTreeMap::new(),
            committed: BTreeMap::new(),
            votes: BTreeMap::new(),
            lives: BTreeMap::new(),
            heard: BTreeMap::new(),
            check_quorum: false,
            reads: ReadLaws::default(),
            transfers: TransferLaws::default(),
            replication: ReplicationLaws::default(),
            applied: BTreeMap::new(),
            durable_terms: BTreeMap::new(),
            history: None,
            lost_data: false,
            rolled_back: BTreeSet::new(),
            clocks_broken: false,
        }
    }

    /// A checker of a cluster whose leaders do, or do not, check that a quorum answers.
    #[must_use]
    pub fn with_check_quorum(mut self, check_quorum: bool) -> Self {
        self.check_quorum = check_quorum;
        self
    }

    /// The highest index that was ever committed.
    #[must_use]
    pub fn committed_index(&self) -> Index {
        self.committed.keys().next_back().copied().unwrap_or(Index::ZERO)
    }

    /// A server lost its volatile state.
    pub fn crashed(&mut self, id: NodeId) {
        self.lives.remove(&id);
        self.heard.remove(&id);
        self.reads.crashed(id);
        self.transfers.crashed(id);
        self.replication.crashed(id);
        self.applied.remove(&id);
    }

    /// A server that was removed begins anew with an empty disk: what it promised in its former life binds it no more.
    pub fn wiped(&mut self, id: NodeId) {
        self.crashed(id);
        self.durable_terms.remove(&id);
        self.rolled_back.remove(&id);
        self.votes.retain(|(voter, _), _| *voter != id);
    }

    /// The clocks broke their promise: the laws that rest on it are not checked any more.
    pub fn clocks_broken(&mut self) {
        self.clocks_broken = true;
    }

    pub(super) fn has_lost_data(&self) -> bool {
        self.lost_data
    }

    pub(super) fn are_clocks_broken(&self) -> bool {
        self.clocks_broken
    }

    /// A message leaves a server.
    ///
    /// # Errors
    /// The law that it breaks.
    pub fn sent(&mut self, sender: &View<'_>, envelope: &Envelope) -> Checked {
        let law = Law::PersistFirst;
        let durable = sender.disk.hard_state();
        let from = envelope.from;
        let term = envelope.message.term();
        let tells_loss = matches!(&envelope.message, Message::AppendEntriesResponse(response)
            if matches!(response.result, AppendResult::LostAcknowledged { .. }));
        // That data was lost is no promise.
        check(durable.term >= term || tells_loss, law, || {
            format!("node {from} speaks in term {term}, its durable term is {}", durable.term)
        })?;
        self.reads.sent(sender, envelope);
        self.transfers.sent(sender, envelope)?;
        match &envelope.message {
            Message::RequestVoteRequest(_) => {
                // A later term may have followed while the request waited for the disk.
                check(durable.term > term || durable.vote == Some(from), law, || {
                    format!("node {from} asks for votes in term {term}, its own vote is not durable")
                })?;
                self.vote(from, term, from)
            }
            Message::RequestVoteResponse(response) if response.granted => {
                check(durable.term > term || durable.vote == Some(envelope.to), law, || {
                    format!("node {from} tells node {} of a vote that is not durable", envelope.to)
                })?;
                self.vote(from, term, envelope.to)
            }
            Message::AppendEntriesResponse(response) => match response.result {
                // A later leader may have replaced the entries while the answer waited for the disk.
                AppendResult::Accepted { match_index } if durable.term == term => {
                    let last = sender.disk.last().index;
                    check(last >= match_index, law, || {
                        format!("node {from} acknowledges {match_index}, its durable log ends at {last}")
                    })
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// A message reaches a server, right before the step that consumes it.
    pub fn received(&mut self, receiver: &View<'_>, envelope: &Envelope) {
        self.reads.received(envelope);
        self.transfers.received(receiver, envelope, self.check_quorum);
        self.replication.received(receiver.id, envelope);
        let heard = self.heard.entry(receiver.id).or_default();
        heard.former_life = of_former_life(receiver, envelope);
        heard.names_what_is_gone = names_what_is_gone(receiver, envelope);
        heard.answers.received(receiver, envelope);
    }

    /// A read begins at a server, right before the step that takes it.
    pub fn read_begins(&mut self, reader: &View<'_>, context: u64, by_lease: bool) {
        self.reads.begun(reader, context, by_lease, self.committed_index());
    }

    /// The server refused the read.
    pub fn read_refused(&mut self, id: NodeId, context: u64) {
        self.reads.refused(id, context);
    }

    /// The reads that a server keeps after a step, without an answer: those that began there, by their contexts.
    ///
    /// # Errors
    /// One was forgotten, or answered and kept.
    pub fn reads_kept(&self, id: NodeId, contexts: &BTreeSet<u64>) -> Checked {
        self.reads.kept(id, contexts)
    }

    /// What a server is fetching after a step: from whom, and the last entry that the snapshot covers.
    ///
    /// # Errors
    /// The leader that it follows has just offered it a snapshot, and it goes on with an earlier leader's.
    pub fn fetches(&mut self, view: &View<'_>, fetching: Option<(NodeId, EntryId)>) -> Checked {
        self.replication.fetches(view, fetching)
    }

    /// A server applies an entry.
    ///
    /// # Errors
    /// The law that it breaks.
    pub fn applied(&mut self, id: NodeId, first_possible: Index, entry: &Entry) -> Checked {
        let index = entry.id.index;
        let last = self.applied.insert(id, index);
        let expected = last.map_or(first_possible, Index::next);
        check(index == expected, Law::AppliedInOrder, || {
            format!("node {id} applies entry {index} when entry {expected} is next")
        })?;
        match self.committed.get(&index) {
            Some(committed) => check(committed.entry == *entry, Law::StateMachineSafety, || {
                format!("node {id} applies {}, committed is {}", entry.id, committed.entry.id)
            }),
            None => Err(Violation {
                law: Law::AppliedInOrder,
                detail: format!("node {id} applies {}, which is not committed", entry.id),
            }),
        }
    }

    /// A server took a step with these actions; `views` are all servers after it, ascending by id.
    ///
    /// # Errors
    /// The first law that is broken.
    pub fn stepped(&mut self, id: NodeId, transition: Transition, actions: &[Action], views: &[View<'_>]) -> Checked {
        self.check_pre_vote(id, transition, actions, views)?;
        self.check_answers(id, transition, views)?;
        self.check_former_life(id, views)?;
        self.check_loss(id, views)?;
        if let Some(view) = views.iter().find(|view| view.id == id) {
            self.reads.stepped(view, actions, self.clocks_broken)?;
            let before = self.lives.get(&id).map(|life| (life.role, life.hard_state));
            let told = before.is_some_and(|before| self.transfers.is_told_to_campaign(id, before, &self.leaders));
            self.transfers.stepped(view, before, transition, actions, &self.leaders)?;
            self.check_campaign(view, before, transition, told)?;
            self.replication.stepped(view, actions, views)?;
        }
        self.moved(id, views)
    }

    /// Something else happened to a server: a write reached its disk, it crashed, it restarted.
    ///
    /// # Errors
    /// The first law that is broken.
    pub fn moved(&mut self, id: NodeId, views: &[View<'_>]) -> Checked {
        let Some(view) = views.iter().find(|view| view.id == id) else { return Ok(()) };
        self.check_disk(view)?;
        self.check_log(id, view.log)?;
        let before = self.lives.get(&id).filter(|life| life.role == RoleKind::Leader);
        // What a step commits, it commits by the configuration from before a change that it begins.
        let by = before.map_or_else(|| view.in_force(), |leader| Arc::clone(&leader.in_force));
        self.check_life(view)?;
        self.check_leader(view)?;
        self.check_commit(view, &by)?;
        self.check_snapshots(view)?;
        self.check_memberships(view)?;
        for leader in views.iter().filter(|view| view.role == Some(RoleKind::Leader)) {
            self.check_completeness(leader)?;
            self.check_lease(leader)?;
            self.check_match_indexes(leader, views)?;
            self.check_promoted(leader, views)?;
        }
        self.check_durability(views)
    }

    /// What is durable obeys the laws on its own: it is what a crash would leave.
    fn check_disk(&mut self, view: &View<'_>) -> Checked {
        let durable = view.disk.hard_state();
        let before = self.durable_terms.insert(view.id, durable.term).unwrap_or(Term::ZERO);
        check(durable.term >= before, Law::TermMonotonic, || {
            format!("the durable term of node {} fell from {before} to {}", view.id, durable.term)
        })?;
        if let Some(candidate) = durable.vote {
            self.vote(view.id, durable.term, candidate)?;
        }
        self.check_log(view.id, view.disk)
    }

    fn vote(&mut self, voter: NodeId, term: Term, candidate: NodeId) -> Checked {
        let first = *self.votes.entry((voter, term)).or_insert(candidate);
        check(first == candidate, Law::VotesGrantedOnce, || {
            format!("node {voter} voted for node {first} and for node {candidate} in term {term}")
        })
    }

    /// Entries with the same id have the same content and the same predecessor; by induction, the same past.
    fn check_log(&mut self, id: NodeId, log: &MemoryLog) -> Checked {
        let mut before = log.base();
        for entry in log.iter() {
            let known = self.entries.entry(entry.id).or_insert_with(|| (entry.clone(), before));
            let equal = known.0 == *entry && known.1 == before;
            check(equal, Law::LogMatching, || {
                format!("node {id} holds {entry:?} after {before}, seen before: {:?} after {}", known.0, known.1)
            })?;
            before = entry.id;
        }
        Ok(())
    }

    fn check_life(&mut self, view: &View<'_>) -> Checked {
        let Some(role) = view.role else { return Ok(()) };
        let leads = role == RoleKind::Leader;
        let life = Life {
            role,
            hard_state: view.hard_state,
            commit_index: view.commit_index,
            snapshot: view.log.snapshot(),
            last: view.log.last(),
            in_force: view.in_force(),
            leader_log: leads.then(|| view.log.clone()),
        };
        let Some(before) = self.lives.insert(view.id, life) else { return Ok(()) };
        let (id, term) = (view.id, view.hard_state.term);
        check(term >= before.hard_state.term, Law::TermMonotonic, || {
            format!("the term of node {id} fell from {} to {term}", before.hard_state.term)
        })?;
        check(view.commit_index >= before.commit_index, Law::CommitMonotonic, || {
            format!("the commit index of node {id} fell from {} to {}", before.commit_index, view.commit_index)
        })?;
        self.check_kept(view, before.snapshot, before.last)?;
        match before.leader_log {
            Some(log) if leads && before.hard_state.term == term => {
                let lost = log.iter().find(|entry| !holds(view.log, entry.id));
                check(lost.is_none(), Law::LeaderAppendOnly, || {
                    format!("node {id}, leader of term {term}, no longer holds {lost:?}")
                })
            }
            _ => Ok(()),
        }
    }

    fn check_leader(&mut self, view: &View<'_>) -> Checked {
        if view.role != Some(RoleKind::Leader) {
            return Ok(());
        }
        let (id, term) = (view.id, view.hard_state.term);
        if let Some(&leader) = self.leaders.get(&term) {
            // Whose votes it had is a matter of the configuration by which it was elected.
            return check(leader == id, Law::ElectionSafety, || {
                format!("nodes {leader} and {id} both lead term {term}")
            });
        }
        self.leaders.insert(term, id);
        let in_force = view.in_force();
        let voted = |voter| self.votes.get(&(voter, term)) == Some(&id);
        check(is_quorum(&in_force, voted), Law::LeaderHasQuorum, || {
            let votes: Vec<_> = in_force.members().into_iter().filter(|member| voted(*member)).collect();
            format!("node {id} leads term {term} with the votes {votes:?} of ({in_force})")
        })
    }

    fn check_commit(&mut self, view: &View<'_>, by: &Arc<Membership>) -> Checked {
        if view.role.is_none() {
            return Ok(());
        }
        let last = view.log.last().index;
        check(view.commit_index <= last, Law::StateMachineSafety, || {
            format!("node {} commits {} of a log that ends at {last}", view.id, view.commit_index)
        })?;
        for entry in view.log.iter().take_while(|entry| entry.id.index <= view.commit_index) {
            let in_term = view.hard_state.term;
            let newly = || Committed { entry: entry.clone(), in_term, by: Arc::clone(by) };
            let committed = self.committed.entry(entry.id.index).or_insert_with(newly);
            check(committed.entry == *entry, Law::StateMachineSafety, || {
                format!("node {} commits {}, committed before: {}", view.id, entry.id, committed.entry.id)
            })?;
        }
        Ok(())
    }

    fn check_completeness(&self, leader: &View<'_>) -> Checked {
        let term = leader.hard_state.term;
        let missing = self
            .committed
            .values()
            .find(|committed| committed.in_term <= term && !holds(leader.log, committed.entry.id));
        match missing {
            Some(committed) => Err(Violation {
                law: Law::LeaderCompleteness,
                detail: format!(
                    "node {}, leader of term {term}, lacks {}, committed in term {}",
                    leader.id, committed.entry.id, committed.in_term
                ),
            }),
            None => Ok(()),
        }
    }

    /// Who was elected since leads a later term: then the lease was none.
    fn check_lease(&self, leader: &View<'_>) -> Checked {
        let term = leader.hard_state.term;
        let later = self.leaders.range(term.next()..).next().filter(|_| leader.lease_over.is_some());
        check(later.is_none() || self.clocks_broken, Law::LeaseSafe, || {
            format!("node {} has a lease in term {term}, and another was elected: {later:?}", leader.id)
        })
    }

    fn check_match_indexes(&self, leader: &View<'_>, views: &[View<'_>]) -> Checked {
        for &(peer, match_index) in &leader.match_indexes {
            let Some(view) = views.iter().find(|view| view.id == peer) else { continue };
            if self.lost_data || view.disk.hard_state().term != leader.hard_state.term {
                continue;
            }
            let agreed = leader.log.term(match_index).is_some_and(|term| {
                let id = EntryId { index: match_index, term };
                match_index == Index::ZERO || holds(view.disk, id)
            });
            let compacted = match_index < leader.log.base().index;
            check(agreed || compacted, Law::MatchIndexSound, || {
                format!(
                    "node {} believes that node {peer} holds its log through {match_index}; the disk there ends at {}",
                    leader.id,
                    view.disk.last()
                )
            })?;
        }
        Ok(())
    }

    /// The last committed entry is enough: with Log Matching, what holds it holds all before it.
    fn check_durability(&self, views: &[View<'_>]) -> Checked {
        let Some(committed) = self.committed.values().next_back().filter(|_| !self.lost_data) else { return Ok(()) };
        let id = committed.entry.id;
        let has_copy = |id_of| views.iter().any(|view| view.id == id_of && holds(view.disk, id));
        check(is_quorum(&committed.by, has_copy), Law::CommittedIsDurable, || {
            let copies: Vec<_> = views.iter().filter(|view| holds(view.disk, id)).map(|view| view.id).collect();
            format!("{id} is committed and durable on {copies:?}, no quorum of ({})", committed.by)
        })
    }
}

/// The entry at `index`, if the log holds it.
#[must_use]
pub fn entry_at(log: &MemoryLog, index: Index) -> Option<Entry> {
    match log.read(index, index.next(), usize::MAX) {
        Read::Entries(entries) => entries.first().cloned(),
        Read::Cold | Read::Compacted => None,
    }
}

#[cfg(test)]
#[path = "invariants_tests.rs"]
pub(super) mod tests;
