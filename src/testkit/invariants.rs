//! The laws of a whole cluster, checked over its history after every move.
//!
//! The five safety properties are those of Figure 3.2 of the dissertation. The others are the laws that they rest on:
//! a breach shows there earlier, and in more schedules. `docs/INVARIANTS.md` lists them all, with the places where one
//! server asserts its part alone.
//!
//! The checker sees servers only through [`View`], plain data, so its tests can feed it histories that no server of
//! ours produces.

use super::read_laws::ReadLaws;
use super::snapshot_laws::holds;
use super::transfer_laws::TransferLaws;
use crate::action::{Action, RoleKind};
use crate::log::{LogView, MemoryLog, Read};
use crate::message::{AppendResult, Envelope, Message};
use crate::quorum::majority;
use crate::transition::Transition;
use crate::types::{Entry, EntryId, HardState, Index, NodeId, Term};
use core::fmt;
use std::collections::{BTreeMap, BTreeSet};
use std::format;
use std::string::String;
use std::vec::Vec;

/// A law of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Law {
    /// At most one leader in a term, over all time (Figure 3.2).
    ElectionSafety,
    /// A leader never overwrites or deletes entries of its log (Figure 3.2).
    LeaderAppendOnly,
    /// Two entries with the same index and term are equal, and so is what precedes them, over all time (Figure 3.2).
    LogMatching,
    /// What was committed in a term is in the logs of the leaders of all higher terms (Figure 3.2).
    LeaderCompleteness,
    /// No two servers apply, or know as committed, different entries at one index (Figure 3.2).
    StateMachineSafety,
    /// A leader has the votes of a quorum, each of them durable where it was given (§3.4).
    LeaderHasQuorum,
    /// A server votes for at most one candidate in a term, over all its lives (§3.4).
    VotesGrantedOnce,
    /// `match_index = k` for a server of the leader's term: its durable log agrees with the leader's through `k` (§3.5).
    MatchIndexSound,
    /// A committed entry is durable on a quorum (§3.5, §3.8).
    CommittedIsDurable,
    /// No message leaves before what it promises is durable (Figure 3.1: "before responding to RPCs").
    PersistFirst,
    /// A server's term never decreases; nor does the durable one, over all its lives (Figure 3.1).
    TermMonotonic,
    /// A server's commit index never decreases within a life (Figure 3.1).
    CommitMonotonic,
    /// Entries are applied one after the other, each once in a life of the state machine, and only committed ones (§3.5).
    AppliedInOrder,
    /// Neither asking for a pre-vote nor granting one changes the term, the vote, or a timer of the voter (§9.6).
    PreVoteLeavesHardStateAlone,
    /// A pre-candidate campaigns only with the pre-votes of a quorum for that very term (§9.6).
    CampaignHasPreVotes,
    /// A leader stays beyond a quorum check only if a quorum answered it since the one before (§6.2).
    CheckedLeaderHasAnswers,
    /// A read is answered only where everything is applied that was committed, by whoever, when it began (§6.4).
    LinearizableRead,
    /// Each read that a server takes is answered or aborted once, at the latest when it stops leading (§6.4).
    EveryReadEndsOnce,
    /// A leader appends nothing while it hands its leadership over (§3.10).
    TransferAppendsNothing,
    /// Only a server that is known to hold its leader's whole log is told to campaign (§3.10).
    TimeoutNowAfterWholeLog,
    /// Only the leader that a server follows can make it campaign, and only in the term that it leads (§3.10).
    TimeoutNowFromOwnLeader,
    /// A transfer ends once: with the leadership, or with its timeout (§3.10).
    EveryTransferEnds,
    /// Who heard its leader just now, or leads, listens to candidates in the name of a leader and to no others (§4.2.3).
    OnlyTransfersDisrupt,
    /// What a snapshot covers, and what a log has forgotten, is committed; a state machine becomes nothing else (§5).
    SnapshotConsistent,
    /// Between a snapshot and the log that continues it nothing is missing, whenever the server crashes (§5).
    CompactedIsCovered,
    /// A log that reaches a fetched snapshot by itself keeps what follows it (§5).
    SnapshotKeepsWhatFollows,
}

impl Law {
    /// Every law.
    pub const ALL: &'static [Self] = &[
        Self::ElectionSafety,
        Self::LeaderAppendOnly,
        Self::LogMatching,
        Self::LeaderCompleteness,
        Self::StateMachineSafety,
        Self::LeaderHasQuorum,
        Self::VotesGrantedOnce,
        Self::MatchIndexSound,
        Self::CommittedIsDurable,
        Self::PersistFirst,
        Self::TermMonotonic,
        Self::CommitMonotonic,
        Self::AppliedInOrder,
        Self::PreVoteLeavesHardStateAlone,
        Self::CampaignHasPreVotes,
        Self::CheckedLeaderHasAnswers,
        Self::LinearizableRead,
        Self::EveryReadEndsOnce,
        Self::TransferAppendsNothing,
        Self::TimeoutNowAfterWholeLog,
        Self::TimeoutNowFromOwnLeader,
        Self::EveryTransferEnds,
        Self::OnlyTransfersDisrupt,
        Self::SnapshotConsistent,
        Self::CompactedIsCovered,
        Self::SnapshotKeepsWhatFollows,
    ];
}

impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A law was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub law: Law,
    /// By whom and how.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is broken: {}", self.law, self.detail)
    }
}

impl core::error::Error for Violation {}

/// Whether every law held so far.
pub type Checked = Result<(), Violation>;

pub(super) fn check(holds: bool, law: Law, detail: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(Violation { law, detail: detail() }) }
}

/// What the checker sees of one server.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// The server.
    pub id: NodeId,
    /// Its role; `None` while it is down.
    pub role: Option<RoleKind>,
    /// Term and vote as decided, durable or not.
    pub hard_state: HardState,
    /// Whether it heard its leader within the minimum election timeout.
    pub leader_is_recent: bool,
    /// Its commit index.
    pub commit_index: Index,
    /// Its log with the entries that are not yet durable.
    pub log: &'a MemoryLog,
    /// What would survive a crash right now.
    pub disk: &'a MemoryLog,
    /// The match index of each peer, when it leads.
    pub match_indexes: Vec<(NodeId, Index)>,
}

/// What the checker remembers of one life of a server.
#[derive(Clone, Debug)]
struct Life {
    role: RoleKind,
    hard_state: HardState,
    commit_index: Index,
    /// The last entry that its newest snapshot covers.
    snapshot: EntryId,
    /// The last entry of its log.
    last: EntryId,
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
}

/// What a server heard, on which a later step must rest.
#[derive(Clone, Debug, Default)]
struct Heard {
    /// Who answered this leader since its last quorum check.
    answers: BTreeSet<NodeId>,
    /// Who granted a pre-vote since this server last asked, and for a campaign in which term.
    pre_votes: BTreeSet<(NodeId, Term)>,
}

/// Checks the history of one cluster.
#[derive(Clone, Debug)]
pub struct Checker {
    voters: Vec<NodeId>,
    leaders: BTreeMap<Term, NodeId>,
    /// Every entry that any log ever held, and the id of the one before it.
    pub(super) entries: BTreeMap<EntryId, (Entry, EntryId)>,
    pub(super) committed: BTreeMap<Index, Committed>,
    /// Every vote that was durable or sent.
    votes: BTreeMap<(NodeId, Term), NodeId>,
    lives: BTreeMap<NodeId, Life>,
    heard: BTreeMap<NodeId, Heard>,
    /// Whether leaders check that a quorum answers.
    check_quorum: bool,
    reads: ReadLaws,
    transfers: TransferLaws,
    /// The last index applied in this life of each server's state machine.
    pub(super) applied: BTreeMap<NodeId, Index>,
    durable_terms: BTreeMap<NodeId, Term>,
    /// The disk of some server lost what it had reported durable: nothing can be promised of durability any more.
    lost_data: bool,
}

impl Checker {
    /// A checker of a cluster with these voters.
    #[must_use]
    pub fn new(voters: &[NodeId]) -> Self {
        Self {
            voters: voters.to_vec(),
            leaders: BTreeMap::new(),
            entries: BTreeMap::new(),
            committed: BTreeMap::new(),
            votes: BTreeMap::new(),
            lives: BTreeMap::new(),
            heard: BTreeMap::new(),
            check_quorum: false,
            reads: ReadLaws::default(),
            transfers: TransferLaws::default(),
            applied: BTreeMap::new(),
            durable_terms: BTreeMap::new(),
            lost_data: false,
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
        self.applied.remove(&id);
    }

    /// A disk broke its promise: the laws that rest on it are not checked any more.
    pub fn lost_data(&mut self) {
        self.lost_data = true;
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
        check(durable.term >= term, law, || {
            format!("node {from} speaks in term {term}, its durable term is {}", durable.term)
        })?;
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
        self.transfers.received(receiver, envelope, self.check_quorum);
        let heard = self.heard.entry(receiver.id).or_default();
        match &envelope.message {
            _ if !self.voters.contains(&envelope.from) => {}
            Message::AppendEntriesResponse(response) if response.term == receiver.hard_state.term => {
                heard.answers.insert(envelope.from);
            }
            Message::ConfirmLeaderResponse(response) if response.term == receiver.hard_state.term => {
                heard.answers.insert(envelope.from);
            }
            Message::PreVoteResponse(response) if response.granted => {
                heard.pre_votes.insert((envelope.from, response.campaign_term));
            }
            _ => {}
        }
    }

    /// A read begins at a server, right before the step that takes it.
    pub fn read_begins(&mut self, id: NodeId, context: u64) {
        self.reads.begun(id, context, self.committed_index());
    }

    /// The server refused the read.
    pub fn read_refused(&mut self, id: NodeId, context: u64) {
        self.reads.refused(id, context);
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
        self.check_heard(id, transition, views)?;
        if let Some(view) = views.iter().find(|view| view.id == id) {
            self.reads.stepped(id, view.role, actions)?;
            let before = self.lives.get(&id).map(|life| (life.role, life.hard_state));
            self.transfers.stepped(view, before, transition, actions, &self.leaders)?;
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
        self.check_life(view)?;
        self.check_leader(view)?;
        self.check_commit(view)?;
        self.check_snapshots(view)?;
        for leader in views.iter().filter(|view| view.role == Some(RoleKind::Leader)) {
            self.check_completeness(leader)?;
            self.check_match_indexes(leader, views)?;
        }
        self.check_durability(views)
    }

    fn check_pre_vote(&self, id: NodeId, transition: Transition, actions: &[Action], views: &[View<'_>]) -> Checked {
        let (Some(before), Some(view)) = (self.lives.get(&id), views.iter().find(|view| view.id == id)) else {
            return Ok(());
        };
        let law = Law::PreVoteLeavesHardStateAlone;
        let same = before.hard_state == view.hard_state;
        if transition == Transition::HandlePreVoteRequest {
            let role = view.role.is_some_and(|role| role == before.role);
            let touched =
                actions.iter().any(|action| matches!(action, Action::Persist(_) | Action::ResetElectionTimer));
            check(same && role && !touched, law, || format!("a question changed node {id}, which was asked"))?;
        }
        if transition == Transition::ElectionTimeout && view.role == Some(RoleKind::PreCandidate) {
            check(same, law, || format!("node {id} changed its term or vote to ask for pre-votes"))?;
        }
        Ok(())
    }

    fn check_heard(&mut self, id: NodeId, transition: Transition, views: &[View<'_>]) -> Checked {
        let needed = majority(self.voters.len());
        let (Some(before), Some(view)) = (self.lives.get(&id), views.iter().find(|view| view.id == id)) else {
            return Ok(());
        };
        let heard = self.heard.entry(id).or_default();
        let led = before.role == RoleKind::Leader;
        if view.role == Some(RoleKind::Candidate) && before.role == RoleKind::PreCandidate {
            let term = view.hard_state.term;
            let pre_votes = 1 + heard.pre_votes.iter().filter(|(from, of)| *from != id && *of == term).count();
            check(pre_votes >= needed, Law::CampaignHasPreVotes, || {
                format!("node {id} campaigns in term {term} with {pre_votes} pre-votes")
            })?;
        }
        if transition == Transition::ElectionTimeout {
            heard.pre_votes.clear();
        }
        if transition == Transition::QuorumCheckTimeout || !led {
            let answers = 1 + core::mem::take(&mut heard.answers).len();
            let stays = led && view.role == Some(RoleKind::Leader) && self.check_quorum;
            check(!stays || answers >= needed, Law::CheckedLeaderHasAnswers, || {
                format!("node {id} goes on leading term {} with {answers} answers", view.hard_state.term)
            })?;
        }
        Ok(())
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
        let leader = *self.leaders.entry(term).or_insert(id);
        check(leader == id, Law::ElectionSafety, || format!("nodes {leader} and {id} both lead term {term}"))?;
        let votes = self.voters.iter().filter(|voter| self.votes.get(&(**voter, term)) == Some(&id)).count();
        check(votes >= majority(self.voters.len()), Law::LeaderHasQuorum, || {
            format!("node {id} leads term {term} with {votes} votes of {}", self.voters.len())
        })
    }

    fn check_commit(&mut self, view: &View<'_>) -> Checked {
        if view.role.is_none() {
            return Ok(());
        }
        let last = view.log.last().index;
        check(view.commit_index <= last, Law::StateMachineSafety, || {
            format!("node {} commits {} of a log that ends at {last}", view.id, view.commit_index)
        })?;
        for entry in view.log.iter().take_while(|entry| entry.id.index <= view.commit_index) {
            let in_term = view.hard_state.term;
            let committed =
                self.committed.entry(entry.id.index).or_insert_with(|| Committed { entry: entry.clone(), in_term });
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
        let copies = views.iter().filter(|view| self.voters.contains(&view.id) && holds(view.disk, id)).count();
        check(copies >= majority(self.voters.len()), Law::CommittedIsDurable, || {
            format!("{id} is committed and durable on {copies} of {} servers", self.voters.len())
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
mod tests;
