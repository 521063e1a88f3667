//! What the dissertation claims of cluster membership changes (chapter 4), one test per claim; each quotes it. Where this
//! implementation differs, the test says how and why.
//!
//! The tests play scripts (`raft_io::testkit::script`) against the real protocol.

#[allow(dead_code, reason = "each test uses its part")]
mod dissertation_support;

use dissertation_support::Story;
use raft_io::{Index, Membership, NodeId, Protocol, RoleKind, Term};

/// Three servers, and two that belong to no cluster yet.
const FIVE: &str = "cluster 3 servers=5 pre_vote=false check_quorum=false";

impl Story {
    /// Node 1 leads term 1 and everyone holds its no-op, and knows that it is committed.
    fn led(setup: &str) -> Self {
        let mut story = Self::new(setup);
        story.run("election_timeout 1; stabilize; heartbeat_timeout 1; stabilize");
        story
    }

    /// Nodes 4 and 5 are learners.
    fn with_learners() -> Self {
        let mut story = Self::led(FIVE);
        story.run("change_membership 1 voters=1,2,3 learners=4,5; stabilize; heartbeat_timeout 1; stabilize");
        story
    }
}

fn voters(of: &Protocol) -> Vec<u64> {
    of.membership().voters().iter().map(|id| id.0).collect()
}

/// Figure 4.1, the receivers of AddServer and RemoveServer. Here there is one request, for a whole configuration, and it
/// is not answered: whoever asked looks at what is committed.
mod figure_4_1 {
    use super::*;

    /// "1. Reply NOT_LEADER if not leader (§6.2)"
    #[test]
    fn only_the_leader_changes_the_configuration() {
        let refused = Story::led(FIVE).run("change_membership 2 voters=1,2,3 learners=4");
        assert!(refused.contains("refused: not the leader in term 1; node 1 leads"), "{refused}");
    }

    /// "2. Catch up new server for fixed number of rounds. Reply TIMEOUT if new server does not make progress for an
    /// election timeout or if the last round takes longer than the election timeout (§4.2.1)". Here a new server is a
    /// learner for as long as it takes, and becomes a voter when everything that it lacks is on its way to it.
    #[test]
    fn a_new_server_catches_up_first() {
        let mut story = Story::led(FIVE);
        story.run("client_request 1 x y z; stabilize");
        let early = story.run("change_membership 1 voters=1,2,3,4");
        assert!(early.contains("refused: node 4 is not a learner"), "{early}");
        story.run("change_membership 1 voters=1,2,3 promoting=4");
        assert_eq!(voters(story.node(1)), [1, 2, 3]);
        story.run("stabilize; heartbeat_timeout 1; stabilize");
        assert_eq!((voters(story.node(1)), story.node(4).last()), (vec![1, 2, 3, 4], story.node(1).last()));
    }

    /// "3. Wait until previous configuration in log is committed (§4.1)". Here it is refused until then, so that whoever
    /// asked may think again.
    #[test]
    fn one_change_follows_the_other() {
        let mut story = Story::led(FIVE);
        let both = story.run("change_membership 1 voters=1,2,3 learners=4; change_membership 1 voters=1,2");
        assert!(both.contains("refused: the change of the configuration at index 2 is not done"), "{both}");
        let committed = story.run("stabilize; change_membership 1 voters=1,2");
        assert!(committed.contains("persist [3@1:(voters 1 2)]"), "{committed}");
    }

    /// "4. Append new configuration entry to log (old configuration plus newServer), commit it using majority of new
    /// configuration (§4.1)"
    #[test]
    fn an_addition_commits_with_a_majority_that_has_the_new_server() {
        let mut story = Story::with_learners();
        let last = story.node(1).last().index.next();
        story.run("partition 1 2 | 3 4 5; change_membership 1 voters=1,2,3,4 learners=5; stabilize");
        assert!(story.node(1).commit_index() < last, "two of three hold it, but two of four");
        story.run("heal; partition 1 2 4 | 3 5; heartbeat_timeout 1; stabilize");
        assert_eq!(story.node(1).commit_index(), last);
    }

    /// "3. Append new configuration entry to log (old configuration without oldServer), commit it using majority of new
    /// configuration (§4.1)"
    #[test]
    fn a_removal_commits_with_a_majority_of_those_who_stay() {
        let mut story = Story::led("cluster 2");
        story.run("partition 1 | 2; change_membership 1 voters=1");
        assert_eq!(story.node(1).commit_index(), Index(2), "node 1 is all that is left");
    }

    /// "4. Reply OK and, if this server was removed, step down (§4.2.2)". Here it hands its leadership over first.
    #[test]
    fn a_removed_leader_steps_down() {
        let mut story = Story::led(FIVE);
        let removed = story.run("change_membership 1 voters=2,3; stabilize; heartbeat_timeout 1; stabilize");
        assert!(removed.contains("  transfer to "), "{removed}");
        assert!(!story.leads(1) && (story.leads(2) || story.leads(3)));
    }
}

mod safety {
    use super::*;

    /// "The new configuration takes effect on each server as soon as it is added to that server's log" (§4.1)
    #[test]
    fn a_configuration_is_in_force_before_it_is_committed() {
        let mut story = Story::led(FIVE);
        story.run("change_membership 1 voters=1,2; deliver 1 2");
        assert_eq!((voters(story.node(1)), voters(story.node(2))), (vec![1, 2], vec![1, 2]));
        assert_eq!((story.node(1).commit_index(), voters(story.node(3))), (Index(1), vec![1, 2, 3]));
    }

    /// "a log entry for a configuration change can be removed (if leadership changes); in this case, a server must be
    /// prepared to fall back to the previous configuration in its log" (§4.1)
    #[test]
    fn a_configuration_goes_with_its_entry() {
        let mut story = Story::led(FIVE);
        story.run("partition 1 | 2 3; change_membership 1 voters=1,2,3 learners=4");
        assert!(story.node(1).membership().is_learner(NodeId(4)));
        story.run("election_timeout 2; stabilize; heal; heartbeat_timeout 2; stabilize");
        assert_eq!(**story.node(1).membership(), Membership::new([1, 2, 3]));
    }

    /// "A server accepts AppendEntries requests from a leader that is not part of the server's latest configuration" (§4.1)
    #[test]
    fn entries_are_taken_from_a_stranger() {
        let mut story = Story::led(FIVE);
        let accepted = story.run("inject 9 3 append_entries_request term=5 prev=1@1 entries=2@5");
        assert!(accepted.contains("→ 9 AppendEntriesResponse term=5 accepted match=2"), "{accepted}");
    }

    /// "A server also grants its vote to a candidate that is not part of the server's latest configuration (if the
    /// candidate has a sufficiently up-to-date log and a current term)" (§4.1)
    #[test]
    fn a_vote_goes_to_a_stranger() {
        let mut story = Story::led(FIVE);
        let granted = story.run("inject 9 3 request_vote_request term=5 last=7@4");
        assert!(granted.contains("→ 9 RequestVoteResponse term=5 granted"), "{granted}");
        let refused = story.run("inject 8 3 request_vote_request term=6 last=0@0");
        assert!(refused.contains("→ 8 RequestVoteResponse term=6 refused"), "{refused}");
    }

    /// The correction of 2015: a leader may change the configuration only once it has committed an entry of its own term.
    #[test]
    fn no_change_before_an_entry_of_the_own_term_is_committed() {
        let mut story = Story::led(FIVE);
        story.run("election_timeout 2; deliver 2 1; deliver 1 2");
        assert!(story.leads(2));
        let refused = story.run("change_membership 2 voters=1,2");
        assert!(refused.contains("refused: the leader of term 2 has committed nothing yet"), "{refused}");
        let taken = story.run("stabilize; change_membership 2 voters=1,2");
        assert!(taken.contains("membership 3: voters 1 2"), "{taken}");
    }
}

mod availability {
    use super::*;

    /// "a new server joins the cluster as a non-voting member. The leader replicates log entries to it, but it is not yet
    /// counted towards majorities for voting or commitment purposes" (§4.2.1)
    #[test]
    fn learners_get_entries_and_do_not_count() {
        let mut story = Story::with_learners();
        let before = story.node(1).commit_index();
        story.run("partition 1 4 5 | 2 3; client_request 1 x; stabilize");
        assert_eq!((story.node(4).last(), story.node(5).last()), (story.node(1).last(), story.node(1).last()));
        assert_eq!(story.node(1).commit_index(), before);
    }

    /// "there will be a period of time (while it is committing Cnew) when a leader can manage a cluster that does not
    /// include itself; it replicates log entries but does not count itself in majorities" (§4.2.2)
    #[test]
    fn a_leader_that_is_being_removed_does_not_count_itself() {
        let mut story = Story::led(FIVE);
        story.run("change_membership 1 voters=2,3; deliver 1 2; deliver 2 1");
        assert_eq!(
            (story.leads(1), story.node(1).commit_index()),
            (true, Index(1)),
            "nodes 1 and 2 of 2 and 3 hold it"
        );
        story.run("deliver 1 3; deliver 3 1");
        assert_eq!(story.node(1).commit_index(), Index(2));
    }

    /// "a server that is not part of its own latest configuration should still start new elections, as it might still be
    /// needed until the Cnew entry is committed" (§4.2.2). Not after that: who knows of the commit has no business there.
    #[test]
    fn a_server_that_is_being_removed_may_lead() {
        let mut story = Story::led("cluster 2 pre_vote=false check_quorum=false");
        story.run("change_membership 1 voters=2; drop_message all; crash 1; restart 1; election_timeout 1");
        assert_eq!(story.node(1).role(), RoleKind::Candidate);
        story.run("deliver 1 2; deliver 2 1");
        assert!(story.leads(1), "with the vote of node 2 alone");
        story.run("stabilize; heartbeat_timeout 1; stabilize; election_timeout 1");
        assert_eq!((story.node(1).role(), story.leads(2)), (RoleKind::Follower, true));
    }

    /// "if a server receives a RequestVote request within the minimum election timeout of hearing from a current leader, it
    /// does not update its term or grant its vote" (§4.2.3)
    #[test]
    fn removed_servers_do_not_disrupt() {
        let mut story = Story::led("cluster 3 pre_vote=false");
        story.run("change_membership 1 voters=1,2; stabilize; heartbeat_timeout 1; stabilize; election_timeout 3");
        story.run("deliver all");
        assert_eq!((story.node(3).term(), story.node(2).term(), story.leads(1)), (Term(2), Term(1), true));
    }
}

/// "Log entries are replicated to all servers in both configurations. Any server from either configuration may serve as
/// leader. Agreement (for elections and entry commitment) requires majorities from both the old and new configurations."
/// (§4.3)
mod joint_consensus {
    use super::*;

    /// The voters 1, 2 and 3 give way to 1, 4 and 5.
    fn joint() -> Story {
        let mut story = Story::with_learners();
        story.run("change_membership 1 voters=1,4,5");
        assert!(story.node(1).membership().is_joint());
        story
    }

    #[test]
    fn entries_go_to_the_servers_of_both() {
        let sent = joint().run("client_request 1 x");
        for server in 2..=5 {
            assert!(sent.contains(&format!("→ {server} AppendEntriesRequest")), "{sent}");
        }
    }

    #[test]
    fn a_server_of_either_may_lead() {
        for leader in 2..=5 {
            let mut story = joint();
            let everyone = (2..=5).map(|id| format!("deliver 1 {id}")).collect::<Vec<_>>().join("; ");
            story.run(&everyone);
            story.run(&format!("drop_message all; election_timeout {leader}; deliver all; deliver all"));
            assert!(story.leads(leader), "node {leader}");
        }
    }

    #[test]
    fn both_majorities_commit() {
        for (holders, commits) in [([2, 3], false), ([4, 5], false), ([2, 4], true)] {
            let mut story = joint();
            let before = story.node(1).commit_index();
            for holder in holders {
                story.run(&format!("deliver 1 {holder}; deliver {holder} 1"));
            }
            assert_eq!(story.node(1).commit_index() > before, commits, "{holders:?}");
        }
    }

    #[test]
    fn both_majorities_elect() {
        // Node 1 is in both and votes for itself; one more of each makes two majorities.
        for (voters, elected) in [([2, 3], false), ([4, 5], false), ([3, 5], true)] {
            let mut story = joint();
            story.run("drop_message all; crash 1; restart 1; election_timeout 1");
            for voter in voters {
                story.run(&format!("deliver 1 {voter}; deliver {voter} 1"));
            }
            assert_eq!(story.leads(1), elected, "{voters:?}");
        }
    }

    /// "Once Cold,new has been committed, neither Cold nor Cnew can make decisions without approval of the other ... it is
    /// now safe for the leader to create a log entry describing Cnew". Here it does so at once.
    #[test]
    fn the_new_configuration_follows_by_itself() {
        let mut story = joint();
        story.run("stabilize; heartbeat_timeout 1; stabilize");
        for id in [1, 4, 5] {
            assert_eq!(**story.node(id).membership(), Membership::new([1, 4, 5]), "node {id}");
        }
    }
}
