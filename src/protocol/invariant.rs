//! The laws that one server can check on its own, after every step of a debug build.
//!
//! Those whose breach would lose data at once are asserted where they would break, in release
//! builds too. The laws of a whole cluster are checked by the simulator and the model.
//! `docs/INVARIANTS.md` lists them all.

use super::Protocol;
use super::progress::ProgressState;
use super::role::Role;
use crate::log::LogView;
use crate::types::{Index, Term};

impl Protocol {
    /// Checks every law that this server can check alone; `log` is the one that was passed to the last step. Debug builds
    /// do it after each step.
    ///
    /// # Panics
    /// If one is broken: the message begins with its name in `docs/INVARIANTS.md`.
    pub fn check(&self, log: &impl LogView) {
        self.tail.check();
        let last = self.tail.last().index;
        assert!(self.tail.durable() <= last, "DurableWithinLog");
        assert!(self.commit_index <= last, "CommitWithinLog: {} of {last}", self.commit_index);
        assert!(self.applied_through <= self.commit_index, "AppliedIsCommitted");
        assert!(self.tail.last().term <= self.hard_state.term, "TermsWithinCurrent");
        assert!(log.base().index <= self.tail.base().index, "BaseWithinLog: the log forgets what it is told to");
        assert!(self.tail.base().index <= self.snapshot.index, "CompactedIsCovered");
        assert!(self.snapshot.index <= self.commit_index, "SnapshotIsCommitted");
        let fetches = self.fetch.as_ref().map(|fetch| fetch.last.index);
        assert!(fetches.is_none_or(|last| last > self.commit_index), "FetchesWhatIsMissing");
        let restoring = self.snapshot.index > self.applied_through;
        assert!(!restoring || self.tail.durable() < self.snapshot.index, "RestoresWhenDurable");
        assert!((last == Index::ZERO) == (self.tail.last().term == Term::ZERO), "TermsStartAtOne");
        self.check_memberships();
        self.check_role();
    }

    /// Of what the log holds durably the configurations are those; see `membership_change.rs`.
    fn check_memberships(&self) {
        let last = self.tail.last().index;
        let mut before = None;
        // What they say, and whether one may follow the other, is not asserted: leaders made them.
        for (index, _) in self.configurations.iter() {
            assert!(*index <= last && before < Some(*index), "ConfigurationFollowsLog: {index} of {last}");
            before = Some(*index);
        }
        let first = self.configurations.iter().next().map(|(index, _)| *index);
        assert_eq!(first, Some(self.snapshot.index), "ConfigurationFollowsLog: the first is the snapshot's");
    }

    fn check_role(&self) {
        let id = self.settings.id;
        match &self.role {
            Role::Follower(reads) => {
                assert_ne!(self.leader, Some(id), "FollowerFollowsAnother");
                reads.check(self.leader);
            }
            Role::PreCandidate(_) => {
                assert_eq!(self.leader, None, "CandidateKnowsNoLeader");
                assert!(self.may_campaign(), "CampaignersHaveAVote");
            }
            Role::Candidate(_) => {
                assert_eq!(self.leader, None, "CandidateKnowsNoLeader");
                assert_eq!(self.hard_state.vote, Some(id), "CandidateVotedForItself");
                assert!(self.may_campaign(), "CampaignersHaveAVote");
            }
            Role::Leader(leader) => {
                assert_eq!(self.leader, Some(id), "LeaderKnowsItself");
                assert_eq!(self.fetch, None, "FetchesWhatIsMissing: a leader has everything");
                assert_eq!(self.hard_state.vote, Some(id), "LeaderVotedForItself");
                assert!(leader.term_start <= self.tail.last().index, "LeaderHasItsNoop");
                leader.uncommitted.check(self.commit_index, self.tail.last().index);
                assert!(leader.peers.windows(2).all(|pair| pair[0].0 < pair[1].0), "PeersAscend");
                Self::check_reads(&leader.reads, &leader.peers);
                let is_peer = |target| leader.peers.iter().any(|(peer, _)| *peer == target);
                assert!(leader.transfer.is_none_or(is_peer), "TransferIsToAPeer");
                let members = self.membership().members().into_iter().filter(|member| *member != id);
                assert!(members.eq(leader.peers.iter().map(|(peer, _)| *peer)), "PeersAreMembers");
                let uncommitted = self.configurations.iter().filter(|(index, _)| *index > self.commit_index).count();
                let own = self.commit_index >= leader.term_start;
                assert!(!own || uncommitted <= 1, "OneChangeAtATime: {uncommitted} are not committed");
                for (_, peer) in &leader.peers {
                    assert!(peer.match_index < peer.next_index, "MatchBelowNext");
                    assert!(peer.next_index <= self.tail.last().index.next(), "NextWithinLog");
                    let idle = peer.state == ProgressState::Replicate || peer.inflight.len() == 0;
                    assert!(idle, "WindowOnlyWhenReplicating");
                    peer.inflight.check();
                    let nothing = (peer.match_index, peer.confirmed_round, peer.active) == (Index::ZERO, 0, false);
                    assert!(peer.lost.is_none() || nothing, "LostCountsForNothing");
                }
            }
        }
        let leads = matches!(self.role, Role::Leader(_));
        let known = self.settings.lease || (!leads && self.leader.is_some());
        assert!(!self.leader_is_recent || known, "RecentLeaderIsKnown");
        assert!(!self.leader_is_recent || self.settings.check_quorum, "RecentLeaderOnlyWithCheckQuorum");
    }
}
