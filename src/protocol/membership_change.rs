//! Membership changes: who belongs to the cluster, and how that changes while it runs.
//!
//! Dissertation §4.1 (one server at a time), §4.2 (learners, leaders that leave), §4.3 (joint consensus). Spec:
//! `ChangeMembership`.
//!
//! A configuration is an entry of the log. It is in force on a server as soon as it is appended there, committed or not, and
//! no longer once it is truncated: which one is in force is a function of the log. A leader appends one only when the one
//! before is committed, and when it has committed an entry of its own term: then whatever an earlier leader appended can
//! no longer come back beside it (the flaw that Ongaro published in 2015).
//!
//! A server gets a vote only once it has acknowledged the log up to the configuration in force and lacks no more than is on
//! its way to it: before that, commits would need it and it could not help (§4.2.1).
//!
//! A change of one voter goes in one step, for majorities of the two configurations overlap. Any other goes through a
//! joint configuration, in which both majorities decide, and which its leader follows up by itself.

use super::Protocol;
use super::progress::{Progress, ProgressState, Suffrage};
use super::role::{Leader, Role};
use crate::action::{Action, ActionSink};
use crate::error::ChangeError;
use crate::history::{History, HistoryId};
use crate::log::Memberships;
use crate::membership::Membership;
use crate::quorum::majority;
use crate::types::{Entries, Entry, EntryId, Index, NodeId, Payload};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// The configurations in the log, as decided: the one as of the newest snapshot, then those of the entries after it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Configurations {
    /// Never empty, ascending by index.
    list: Vec<(Index, Arc<Membership>)>,
    /// The history that is known to be committed.
    history: Option<Arc<History>>,
    /// The first in the list that brings another one; [`Configurations::NEVER`] if none does.
    history_due: Index,
    /// From here on all entries are of this history, and no configuration is known to follow. It follows from the list;
    /// nearly every message asks for it.
    newest: (Index, Option<HistoryId>),
}

/// Whether `one` goes on where `known` ends. A snapshot may name a history that begins behind it; one that was recovered from
/// that snapshot begins earlier.
fn is_newer(one: &History, known: &History) -> bool {
    one.since().index > known.since().index || one.descends_from(known.id())
}

impl Configurations {
    const NEVER: Index = Index(u64::MAX);

    /// Those of a log whose newest snapshot covers what is up to `snapshot`; a log that knows of none begins with `initial`.
    pub(super) fn new(snapshot: Index, memberships: Memberships, initial: &Membership) -> Self {
        let first = memberships.at_snapshot.unwrap_or_else(|| Arc::new(initial.clone()));
        let mut list = Vec::with_capacity(1 + memberships.later.len());
        list.push((snapshot, first));
        list.extend(memberships.later);
        let history = list[0].1.history().cloned();
        let mut configurations = Self { list, history, history_due: Self::NEVER, newest: (Self::NEVER, None) };
        configurations.look_for_history();
        configurations
    }

    /// The history that is known to be committed.
    #[inline]
    pub(super) const fn history(&self) -> Option<&Arc<History>> {
        self.history.as_ref()
    }

    /// The index of the first entry that brings another history than the one known; beyond any log if none does.
    #[inline]
    pub(super) const fn history_due(&self) -> Index {
        self.history_due
    }

    #[cold]
    fn look_for_history(&mut self) {
        let brings = |membership: &Membership| {
            membership.history().is_some_and(|one| self.history.as_ref().is_none_or(|known| is_newer(one, known)))
        };
        let first = self.list.iter().find(|(_, membership)| brings(membership));
        self.history_due = first.map_or(Self::NEVER, |(index, _)| *index);
        let (index, membership) = self.in_force();
        self.newest = match membership.history() {
            Some(history) => (history.since().index.max(*index), Some(history.id())),
            None => (*index, None),
        };
    }

    /// The history of the entry at `index`, committed or not.
    #[inline]
    pub(super) fn history_at(&self, index: Index) -> Option<HistoryId> {
        let (from, history) = self.newest;
        if index >= from { history } else { self.earlier_history_at(index) }
    }

    #[cold]
    fn earlier_history_at(&self, index: Index) -> Option<HistoryId> {
        self.in_force().1.history().and_then(|history| history.at(index))
    }

    /// Whether an append behind `prev` is of the newest history and comes after all configurations that are known here.
    #[inline]
    pub(super) fn is_newest(&self, prev: Index, history: Option<HistoryId>) -> bool {
        prev >= self.newest.0 && history == self.newest.1
    }

    /// What is up to `commit` is committed, and the history with it. The oldest configuration says so from now on, if this
    /// server knows who belonged to the cluster then.
    #[cold]
    pub(super) fn settle_history(&mut self, commit: Index) {
        let Some(history) = self.as_of(commit).1.history().cloned() else { return };
        // A server that joined knows of nobody before the first entry; that entry repeats who there was.
        if self.list[0].1.is_empty() && history.since().index == self.list[0].0.next() && self.list.len() > 1 {
            self.list[0].1 = Arc::new(self.list[1].1.settled());
        }
        self.history = Some(history);
        self.keep_history();
        self.look_for_history();
    }

    /// The oldest configuration is that of a snapshot or the first of all: what it was as of then, of the history that is
    /// known by now.
    fn keep_history(&mut self) {
        let Some(history) = &self.history else { return };
        let first = &self.list[0].1;
        let named = first.with_history(Arc::clone(history));
        let fits = named.encoded_len() <= Membership::ENCODED_BYTES_MAX;
        if fits && !first.is_empty() && first.history().is_none_or(|known| is_newer(history, known)) {
            self.list[0].1 = Arc::new(named);
        }
    }

    /// The configuration in force, and the index of its entry.
    #[inline]
    pub(super) fn in_force(&self) -> &(Index, Arc<Membership>) {
        self.list.last().expect("ConfigurationFollowsLog: a configuration is always in force")
    }

    /// The configuration that `index` left in force; that of the snapshot for what comes before it.
    pub(super) fn as_of(&self, index: Index) -> &(Index, Arc<Membership>) {
        let later = self.list.iter().rev().find(|(at, _)| *at <= index);
        later.unwrap_or(&self.list[0])
    }

    /// Ascending by index, the first as of the snapshot.
    pub(super) fn iter(&self) -> impl Iterator<Item = &(Index, Arc<Membership>)> {
        self.list.iter()
    }

    pub(super) fn push(&mut self, index: Index, membership: Arc<Membership>) {
        self.list.push((index, membership));
        self.look_for_history();
    }

    /// The entries from `first` on are replaced. Whether another configuration is in force now.
    fn truncate_from(&mut self, first: Index) -> bool {
        let before = self.list.len();
        while self.list.len() > 1 && self.in_force().0 >= first {
            self.list.pop();
        }
        self.look_for_history();
        self.list.len() < before
    }

    /// The newest snapshot covers what is up to `snapshot`.
    pub(super) fn forget_before(&mut self, snapshot: Index) {
        while self.list.get(1).is_some_and(|(index, _)| *index <= snapshot) {
            self.list.remove(0);
        }
        self.list[0].0 = snapshot;
        self.keep_history();
        self.look_for_history();
    }

    /// The log begins anew after a snapshot.
    pub(super) fn begin_anew(&mut self, snapshot: Index, membership: Arc<Membership>) {
        self.list.clear();
        self.history = membership.history().or(self.history.as_ref()).cloned();
        self.list.push((snapshot, membership));
        self.keep_history();
        self.look_for_history();
    }

    pub(super) fn rename(&mut self, rename: impl Fn(NodeId) -> NodeId) {
        for (_, membership) in &mut self.list {
            *membership = Arc::new(membership.rename(&rename));
        }
        self.history = self.history.as_ref().map(|history| Arc::new(history.rename(&rename)));
        self.look_for_history();
    }
}

impl Protocol {
    /// Begins the way to another configuration.
    pub(super) fn change_membership(
        &mut self,
        target: Arc<Membership>,
        actions: &mut impl ActionSink,
    ) -> Result<(), ChangeError> {
        let term = self.hard_state.term;
        let Role::Leader(leader) = &self.role else {
            return Err(ChangeError::NotLeader { leader: self.leader, term });
        };
        // An entry has addresses of members alone; a joint target is refused below.
        let target = if target.is_joint() { target } else { Arc::new(target.settled()) };
        let (index, present) = self.configurations.in_force();
        let target = match (present.history(), target.history()) {
            // Whoever asks for a change cannot move the cluster into another history.
            (Some(history), _) => Arc::new(target.with_history(Arc::clone(history))),
            // A cluster that is older than histories gets one: this entry will have brought it.
            (None, Some(history)) => {
                let since = EntryId { index: self.tail.last().index.next(), term };
                Arc::new(target.with_history(Arc::new(History::new(history.id(), since))))
            }
            (None, None) => target,
        };
        if present.settled() == *target {
            return Ok(());
        }
        if let Some(target) = leader.transfer {
            return Err(ChangeError::TransferInProgress { target, term });
        }
        if present.is_joint() || *index > self.commit_index {
            return Err(ChangeError::InProgress { index: *index });
        }
        if self.commit_index < leader.term_start {
            return Err(ChangeError::TermNotCommitted { term });
        }
        self.check_target(leader, present, &target)?;
        let differ = |one: &Membership, other: &Membership| {
            one.voters().iter().filter(|id| other.voters().binary_search(id).is_err()).count()
        };
        let changed = differ(present, &target) + differ(&target, present);
        let next = if changed > 1 { Arc::new(target.joint_from(present)) } else { target };
        self.append_membership(next, actions);
        Ok(())
    }

    /// Whether a cluster of these members could commit anything.
    fn check_target(&self, leader: &Leader, present: &Membership, target: &Membership) -> Result<(), ChangeError> {
        if target.is_empty() {
            return Err(ChangeError::NoVoters);
        }
        if target.is_joint() {
            return Err(ChangeError::IsJoint);
        }
        let (bytes, limit_bytes) = (target.joint_from(present).encoded_len(), Membership::ENCODED_BYTES_MAX);
        if bytes > limit_bytes {
            return Err(ChangeError::TooLarge { bytes, limit_bytes });
        }
        let last_index = self.tail.last().index;
        for &server in target.voters().iter().filter(|id| !present.is_voter(**id)) {
            let Some(progress) = leader.progress(server) else { return Err(ChangeError::NotALearner { server }) };
            if !progress.active {
                return Err(ChangeError::LearnerSilent { server });
            }
            if !progress.has_caught_up(self.promotion_floor(leader), last_index) {
                return Err(ChangeError::LearnerBehind { server, match_index: progress.match_index, last_index });
            }
        }
        let answers = |id: &&NodeId| **id == self.settings.id || leader.progress(**id).is_some_and(|peer| peer.active);
        let (answering, needed) = (target.voters().iter().filter(answers).count(), majority(target.voters().len()));
        if answering < needed { Err(ChangeError::WouldLoseQuorum { answering, needed }) } else { Ok(()) }
    }

    /// Appends a configuration, which is in force with that: its entry already goes to its members.
    fn append_membership(&mut self, membership: Arc<Membership>, actions: &mut impl ActionSink) {
        self.assert_promoted(&membership);
        let last = self.tail.last().index;
        let id = EntryId { index: last.next(), term: self.hard_state.term };
        let (committed_at, committed) = self.configurations.in_force();
        let settled = *committed_at <= self.commit_index && (!committed.is_joint() || !membership.is_joint());
        assert!(settled, "OneChangeAtATime: the configuration at {committed_at} is not done");
        let Role::Leader(leader) = &mut self.role else {
            unreachable!("LeaderAppendOnly: only a leader appends as one");
        };
        assert!(self.commit_index >= leader.term_start, "ChangesAfterOwnCommit");
        self.configurations.push(id.index, Arc::clone(&membership));
        leader.reconfigure(self.settings.id, &membership, last, id.index);
        actions.push(Action::MembershipChanged { index: id.index, membership: Arc::clone(&membership) });
        self.append_as_leader(Entries::one(Entry { id, payload: Payload::Membership(membership) }), actions);
    }

    /// Who gets a vote with the next configuration has the log.
    fn assert_promoted(&self, next: &Membership) {
        let Role::Leader(leader) = &self.role else { return };
        let (floor, present) = (self.promotion_floor(leader), self.membership());
        let has_log = |id: &NodeId| leader.progress(*id).is_some_and(|peer| peer.match_index >= floor);
        let mut promoted = next.voters().iter().filter(|id| !present.is_voter(**id));
        assert!(promoted.all(has_log), "PromotedHasLog: a vote for a server that has not acknowledged {floor}");
    }

    /// Goes on with a change once its configuration is committed: leaves a joint one, hands over if this leader has no
    /// vote any more, gives a vote to a learner that has caught up. `heard` is the server whose answer this follows from.
    #[inline]
    pub(super) fn advance_membership(&mut self, heard: Option<NodeId>, actions: &mut impl ActionSink) {
        if matches!(&self.role, Role::Leader(leader) if !leader.is_settled) {
            self.advance_change(heard, actions);
        }
    }

    #[cold]
    fn advance_change(&mut self, heard: Option<NodeId>, actions: &mut impl ActionSink) {
        let Role::Leader(leader) = &self.role else { return };
        let (index, present) = self.configurations.in_force();
        if leader.transfer.is_some() || *index > self.commit_index || self.commit_index < leader.term_start {
            return;
        }
        if present.is_joint() {
            let next = Arc::new(present.settled());
            return self.append_membership(next, actions);
        }
        let Some(heard) = heard else { return };
        if !present.is_voter(self.settings.id) {
            if present.is_voter(heard) {
                self.begin_transfer(heard, actions);
            }
            return;
        }
        let is_promoted = present.promoting().contains(&heard);
        let (floor, last) = (self.promotion_floor(leader), self.tail.last().index);
        let is_ready = |peer: &Progress| peer.active && peer.has_caught_up(floor, last);
        if is_promoted && leader.progress(heard).is_some_and(is_ready) {
            let next = Arc::new(present.with_voter(heard));
            self.append_membership(next, actions);
        }
    }

    /// What a server must have acknowledged to this leader before it gets a vote: the configuration in force, hence the one
    /// that made it a learner, and this leader's first entry. Of earlier terms a leader has no memory.
    fn promotion_floor(&self, leader: &Leader) -> Index {
        leader.term_start.max(self.configurations.in_force().0)
    }

    /// Whether this server leads and its removal, or demotion, is done: it has to leave (§4.2.2).
    pub(super) fn has_left(&self) -> bool {
        let (index, present) = self.configurations.in_force();
        *index <= self.commit_index && !present.is_joint() && !present.is_voter(self.settings.id)
    }

    /// Whether this server has a vote in the last configuration that it knows to be committed, or in a later one. One that
    /// is removed by an entry that only it holds must be able to lead, or nobody could: others have shorter logs (§4.2.2).
    pub(super) fn may_campaign(&self) -> bool {
        let committed = self.configurations.as_of(self.commit_index).0;
        let mut candidates = self.configurations.iter().filter(|(index, _)| *index >= committed);
        candidates.any(|(_, membership)| membership.is_voter(self.settings.id))
    }

    /// A fetched snapshot brings another configuration, or word that the last one is committed: a campaign may have lost its
    /// ground.
    pub(super) fn withdraw_without_vote(&mut self, actions: &mut impl ActionSink) {
        if matches!(self.role, Role::PreCandidate(_) | Role::Candidate(_)) && !self.may_campaign() {
            self.become_follower(None, actions);
        }
    }

    /// A follower's log goes on with the entries of this run from position `known` on, after a truncation if there is one.
    #[inline]
    pub(super) fn follow_memberships(
        &mut self,
        truncate_from: Option<Index>,
        run: &Entries,
        known: usize,
        actions: &mut impl ActionSink,
    ) {
        if truncate_from.is_some() || run.may_hold_memberships() {
            self.take_memberships(truncate_from, &run[known..], actions);
        }
    }

    #[cold]
    fn take_memberships(&mut self, truncate_from: Option<Index>, entries: &[Entry], actions: &mut impl ActionSink) {
        let mut changed = truncate_from.is_some_and(|first| self.configurations.truncate_from(first));
        for entry in entries {
            if let Payload::Membership(membership) = &entry.payload {
                self.configurations.push(entry.id.index, Arc::clone(membership));
                changed = true;
            }
        }
        if changed {
            self.report_membership(actions);
        }
    }

    pub(super) fn report_membership(&self, actions: &mut impl ActionSink) {
        let (index, membership) = self.configurations.in_force();
        actions.push(Action::MembershipChanged { index: *index, membership: Arc::clone(membership) });
    }

    /// The configuration in force: the last in the log, committed or not.
    #[inline]
    #[must_use]
    pub fn membership(&self) -> &Arc<Membership> {
        &self.configurations.in_force().1
    }

    /// The index of the configuration in force: that of its entry, or of the snapshot with which it came.
    #[cfg(feature = "std")]
    #[inline]
    pub(crate) fn membership_index(&self) -> Index {
        self.configurations.in_force().0
    }

    /// The last configuration that is known to be committed, and the index of its entry.
    #[must_use]
    pub fn committed_membership(&self) -> (Index, &Arc<Membership>) {
        let (index, membership) = self.configurations.as_of(self.commit_index);
        (*index, membership)
    }

    /// The configuration as of the newest snapshot, at that index, then each later one of the log, with the index of its entry.
    pub fn memberships(&self) -> impl Iterator<Item = (Index, &Arc<Membership>)> {
        self.configurations.iter().map(|(index, membership)| (*index, membership))
    }
}

impl Leader {
    /// Another configuration is in force; its entry comes right after `last`. Who stays keeps what is known of it; with who
    /// comes, or comes back, a new session begins.
    pub(super) fn reconfigure(&mut self, own: NodeId, membership: &Membership, last: Index, session: Index) {
        let round = self.reads.round;
        let mut known = core::mem::take(&mut self.peers).into_iter().peekable();
        let peers = membership.members().into_iter().filter(|&id| id != own).map(|id| {
            while known.peek().is_some_and(|(peer, _)| *peer < id) {
                known.next();
            }
            let kept = known.next_if(|(peer, _)| *peer == id);
            let mut progress = kept.map_or_else(|| Progress::new(last, session, round), |(_, progress)| progress);
            progress.suffrage = Suffrage::of(membership, id);
            (id, progress)
        });
        self.peers = peers.collect::<Vec<_>>();
        self.suffrage = Suffrage::of(membership, own);
        self.voters = (membership.voters().len(), membership.outgoing().len());
        let promotes = !membership.promoting().is_empty();
        self.is_settled = !membership.is_joint() && self.suffrage.voter && !promotes;
    }
}

impl Progress {
    /// Whether the follower was sent everything up to `last`: what it lacks is on its way.
    pub(super) fn is_sent_all(&self, last: Index) -> bool {
        self.state == ProgressState::Replicate && self.next_index > last
    }

    /// Whether the follower *acknowledged* the log up to `floor`, and lacks of the rest no more than one window holds
    /// (`inflight_messages_max`, `inflight_bytes_max`). Who was sent everything and answers heartbeats alone may hold
    /// nothing; who waits for a snapshot lacks what it covers.
    fn has_caught_up(&self, floor: Index, last: Index) -> bool {
        self.match_index >= floor && self.is_sent_all(last)
    }
}
