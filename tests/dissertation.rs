//! One test per claim of Figure 3.1 of the dissertation, which is Figure 2 of the Raft paper, in its order; each quotes
//! the claim. Where this implementation differs, the test says how and why. Chapter 4 has a file of its own,
//! `dissertation_membership.rs`.
//!
//! The tests play scripts (`raft_io::testkit::script`) against the real protocol, without the additions of pre-vote and
//! check-quorum, which the figure does not have.

#[allow(dead_code, reason = "each test uses its part")]
mod dissertation_support;

use dissertation_support::Story;
use raft_io::{
    Action, EntryId, Event, HardState, Index, LogView, MemoryLog, NodeId, Protocol, RaftConfig, RoleKind, Term,
};

const THREE: &str = "cluster 3 pre_vote=false check_quorum=false";
const THREE_WITH_SLOW_DISKS: &str = "cluster 3 pre_vote=false check_quorum=false disk=manual";

impl Story {
    /// Three servers, of which node 1 leads term 1 and everyone holds its no-op.
    fn led() -> Self {
        let mut story = Self::new(THREE);
        story.run("election_timeout 1; stabilize");
        story
    }

    fn disk(&self, id: u64) -> &MemoryLog {
        self.0.cluster().and_then(|cluster| cluster.disk(NodeId(id))).expect("a node")
    }

    fn applied(&self, id: u64) -> Index {
        self.0.cluster().and_then(|cluster| cluster.applied(NodeId(id))).expect("a node")
    }

    fn ids(&self, id: u64) -> Vec<EntryId> {
        self.disk(id).iter().map(|entry| entry.id).collect()
    }

    /// (match index, next index) that a leader has of a peer.
    fn progress(&self, leader: u64, peer: u64) -> (u64, u64) {
        let mut all = self.node(leader).progress();
        let (_, progress) = all.find(|(id, _)| *id == NodeId(peer)).expect("a leader and its peer");
        (progress.match_index.0, progress.next_index.0)
    }
}

fn ids(all: &[(u64, u64)]) -> Vec<EntryId> {
    all.iter().map(|(index, term)| EntryId::new(*index, *term)).collect()
}

mod state {
    use super::*;

    /// "currentTerm: latest term server has seen (initialized to 0 on first boot, increases monotonically)"
    #[test]
    fn current_term() {
        let mut story = Story::new(THREE);
        assert_eq!(story.node(1).term(), Term(0));
        story.run("inject 2 1 request_vote_request term=7 last=0@0");
        assert_eq!(story.node(1).term(), Term(7));
        story.run("inject 3 1 request_vote_request term=5 last=0@0");
        story.run("inject 3 1 append_entries_request term=6 prev=0@0");
        assert_eq!(story.node(1).term(), Term(7));
    }

    /// "votedFor: candidateId that received vote in current term (or null if none)"
    #[test]
    fn voted_for() {
        let mut story = Story::new(THREE);
        assert_eq!(story.node(1).vote(), None);
        story.run("inject 2 1 request_vote_request term=1 last=0@0");
        assert_eq!(story.node(1).vote(), Some(NodeId(2)));
        story.run("inject 3 1 append_entries_request term=2 prev=0@0");
        assert_eq!(story.node(1).vote(), None, "none yet in the new term");
    }

    /// "log[]: log entries; each entry contains command for state machine, and term when entry was received by leader
    /// (first index is 1)"
    #[test]
    fn log() {
        let mut story = Story::new(THREE);
        story.run("election_timeout 1; stabilize; client_request 1 x; stabilize");
        assert_eq!(story.ids(2), ids(&[(1, 1), (2, 1)]));
        assert_eq!(story.run("log 2"), "2 base=0@0 [1@1 2@1:x]\n");
    }

    /// "Persistent state on all servers (Updated on stable storage before responding to RPCs)": for the vote.
    #[test]
    fn a_vote_is_stable_before_the_response() {
        let mut story = Story::new(THREE_WITH_SLOW_DISKS);
        let decided = story.run("inject 1 2 request_vote_request term=1 last=0@0");
        assert!(decided.contains("persist term=1 vote=1") && !decided.contains("Response"), "{decided}");
        assert_eq!(story.disk(2).hard_state(), HardState::default());
        let durable = story.run("persisted 2");
        assert!(durable.contains("→ 1 RequestVoteResponse term=1 granted"), "{durable}");
        assert_eq!(story.disk(2).hard_state(), HardState { term: Term(1), vote: Some(NodeId(1)) });
    }

    /// "Persistent state on all servers (Updated on stable storage before responding to RPCs)": for entries.
    #[test]
    fn entries_are_stable_before_the_response() {
        let mut story = Story::new(THREE_WITH_SLOW_DISKS);
        let decided = story.run("inject 1 2 append_entries_request term=1 prev=0@0 entries=1@1");
        assert!(decided.contains("[1@1]") && !decided.contains("Response"), "{decided}");
        assert_eq!(story.disk(2).last(), EntryId::ZERO);
        let durable = story.run("persisted 2");
        assert!(durable.contains("→ 1 AppendEntriesResponse term=1 accepted match=1"), "{durable}");
    }

    /// "commitIndex: index of highest log entry known to be committed (initialized to 0, increases monotonically)"
    #[test]
    fn commit_index() {
        let mut story = Story::new(THREE);
        assert_eq!(story.node(2).commit_index(), Index(0));
        story.run("election_timeout 1; stabilize; client_request 1 x; stabilize; heartbeat_timeout 1; stabilize");
        assert_eq!(story.node(2).commit_index(), Index(2));
        story.run("inject 1 2 append_entries_request term=1 prev=1@1 commit=1");
        assert_eq!(story.node(2).commit_index(), Index(2));
    }

    /// "lastApplied: index of highest log entry applied to state machine (initialized to 0, increases monotonically)"
    #[test]
    fn last_applied() {
        let mut story = Story::new(THREE);
        assert_eq!(story.node(1).applied_through(), Index(0));
        let mut last = Index(0);
        story.run("election_timeout 1; stabilize");
        for _ in 0..5 {
            story.run("client_request 1 x; stabilize");
            assert_eq!(story.node(1).applied_through(), story.applied(1));
            assert!(story.applied(1) > last);
            last = story.applied(1);
        }
    }

    /// "nextIndex[]: for each server, index of the next log entry to send to that server (initialized to leader last
    /// log index + 1)". The leader's no-op follows that index, so it is sent first.
    #[test]
    fn next_index() {
        let mut story = Story::new(THREE);
        story.run("given 1 term=1 log=1x4; given 2 term=1 log=1x4; election_timeout 1; deliver 1 2; deliver 2 1");
        assert_eq!((story.progress(1, 2), story.progress(1, 3)), ((0, 5), (0, 5)));
    }

    /// "matchIndex[]: for each server, index of highest log entry known to be replicated on server (initialized to 0,
    /// increases monotonically)"
    #[test]
    fn match_index() {
        let mut story = Story::led();
        story.run("client_request 1 x; client_request 1 y; deliver 1 2; deliver 1 2");
        story.run("deliver 2 1 at=2");
        assert_eq!(story.progress(1, 2).0, 3);
        story.run("deliver 2 1");
        assert_eq!(story.progress(1, 2).0, 3, "the acknowledgement of 2 came late");
    }

    /// "Volatile state on leaders (Reinitialized after election)"
    #[test]
    fn leader_state_is_reinitialized_after_election() {
        let mut story = Story::led();
        assert_eq!(story.progress(1, 2), (1, 2));
        story.run("election_timeout 2; stabilize");
        assert_eq!(story.node(1).progress().count(), 0, "a follower has none");
        story.run("election_timeout 1; deliver 1 2; deliver 2 1");
        assert_eq!(story.progress(1, 2), (0, 3));
    }
}

mod append_entries {
    use super::*;

    /// "1. Reply false if term < currentTerm (§5.1)"
    #[test]
    fn replies_false_to_an_older_term() {
        let mut story = Story::new(THREE);
        story.run("given 2 term=3 log=1");
        let reply = story.run("inject 1 2 append_entries_request term=2 prev=1@1 entries=2@2 commit=2");
        assert!(reply.contains("→ 1 AppendEntriesResponse term=3 stale"), "{reply}");
        assert_eq!((story.ids(2), story.node(2).leader()), (ids(&[(1, 1)]), None));
    }

    /// "2. Reply false if log doesn't contain an entry at prevLogIndex whose term matches prevLogTerm (§5.3)"
    #[test]
    fn replies_false_without_the_previous_entry() {
        let mut story = Story::new(THREE);
        story.run("given 2 term=3 log=1,2");
        for prev in ["2@3", "3@2", "9@3"] {
            let reply = story.run(&format!("inject 1 2 append_entries_request term=3 prev={prev} commit=1"));
            assert!(reply.contains("→ 1 AppendEntriesResponse term=3 rejected"), "{reply}");
        }
        assert_eq!((story.ids(2), story.node(2).commit_index()), (ids(&[(1, 1), (2, 2)]), Index(0)));
    }

    /// "3. If an existing entry conflicts with a new one (same index but different terms), delete the existing entry
    /// and all that follow it (§5.3)"
    #[test]
    fn deletes_conflicting_entries_and_all_that_follow() {
        let mut story = Story::new(THREE);
        story.run("given 2 term=3 log=1,1,2,2; inject 1 2 append_entries_request term=3 prev=1@1 entries=2@1,3@3");
        assert_eq!(story.ids(2), ids(&[(1, 1), (2, 1), (3, 3)]));
    }

    /// "4. Append any new entries not already in the log": and what is there already stays, with all that follows.
    #[test]
    fn appends_what_is_new() {
        let mut story = Story::new(THREE);
        story.run("given 2 term=1 log=1,1,1; inject 1 2 append_entries_request term=1 prev=0@0 entries=1@1,2@1");
        assert_eq!(story.ids(2), ids(&[(1, 1), (2, 1), (3, 1)]));
        let appended = story.run("inject 1 2 append_entries_request term=1 prev=2@1 entries=3@1,4@1");
        assert!(appended.contains("persist [4@1]"), "{appended}");
    }

    /// "5. If leaderCommit > commitIndex, set commitIndex = min(leaderCommit, index of last new entry)": the last entry
    /// that the request vouches for, not the last of the log.
    #[test]
    fn advances_the_commit_index_within_the_request() {
        let mut story = Story::new(THREE);
        story.run("given 1 term=3 log=1,1,3; given 2 term=2 log=1,1,2; given 3 term=3 log=1,1,3");
        story.run("inject 1 2 append_entries_request term=3 prev=1@1 entries=2@1 commit=3");
        assert_eq!(story.node(2).commit_index(), Index(2));
        story.run("inject 1 2 append_entries_request term=3 prev=2@1 entries=3@3 commit=2");
        assert_eq!(story.node(2).commit_index(), Index(2));
    }
}

mod request_vote {
    use super::*;

    /// "1. Reply false if term < currentTerm (§5.1)"
    #[test]
    fn replies_false_to_an_older_term() {
        let mut story = Story::new(THREE);
        story.run("given 2 term=3");
        let reply = story.run("inject 1 2 request_vote_request term=2 last=9@2");
        assert!(reply.contains("→ 1 RequestVoteResponse term=3 refused"), "{reply}");
    }

    /// "2. If votedFor is null or candidateId, and candidate's log is at least as up-to-date as receiver's log, grant
    /// vote (§5.2, §5.4)"
    #[test]
    fn grants_to_the_first_up_to_date_candidate() {
        let ask = |setup: &str, request: &str| {
            let mut story = Story::new(THREE);
            story.run(setup);
            story.run(request).contains("granted")
        };
        let log = "given 2 term=4 log=1,3,3";
        let from_1 = |last: &str| format!("inject 1 2 request_vote_request term=4 last={last}");
        assert!(ask(log, &from_1("3@3")), "votedFor is null, the logs are equal");
        assert!(ask(log, &from_1("2@4")), "a later last term");
        assert!(ask(log, &from_1("4@3")), "a longer log");
        assert!(!ask(log, &from_1("2@3")), "a shorter log");
        assert!(!ask(log, &from_1("9@2")), "an older last term");
        assert!(ask("given 2 term=4 vote=1 log=1,3,3", &from_1("3@3")), "votedFor is the candidate");
        assert!(!ask("given 2 term=4 vote=3 log=1,3,3", &from_1("3@3")), "votedFor is another");
    }
}

mod all_servers {
    use super::*;

    /// "If commitIndex > lastApplied: increment lastApplied, apply log[lastApplied] to state machine (§5.3)". Here
    /// applying waits until the entry is durable on this server, too.
    #[test]
    fn apply_what_is_committed() {
        let mut story = Story::led();
        story.run("client_request 1 x y");
        let committed = story.run("stabilize");
        assert!(committed.contains("commit 3\n  apply [2@1:x 3@1:y]"), "{committed}");
        assert_eq!(story.applied(1), Index(3));
    }

    /// "If RPC request or response contains term T > currentTerm: set currentTerm = T, convert to follower (§5.1)"
    #[test]
    fn follow_in_a_higher_term() {
        for message in [
            "request_vote_request term=9 last=0@0",
            "request_vote_response term=9",
            "append_entries_request term=9 prev=5@5",
            "append_entries_response term=9 stale",
        ] {
            let mut story = Story::led();
            story.run(&format!("inject 2 1 {message}"));
            assert_eq!((story.node(1).term(), story.node(1).role()), (Term(9), RoleKind::Follower), "{message}");
        }
    }
}

mod followers {
    use super::*;

    /// "Respond to RPCs from candidates and leaders"
    #[test]
    fn respond() {
        let mut story = Story::new(THREE);
        let vote = story.run("inject 1 2 request_vote_request term=1 last=0@0");
        assert!(vote.contains("→ 1 RequestVoteResponse"), "{vote}");
        let append = story.run("inject 1 2 append_entries_request term=1 prev=0@0");
        assert!(append.contains("→ 1 AppendEntriesResponse"), "{append}");
    }

    /// "If election timeout elapses without receiving AppendEntries RPC from current leader or granting vote to
    /// candidate: convert to candidate". The timer is the embedder's; these events restart it, and no others.
    #[test]
    fn become_candidates_when_nothing_restarts_the_timer() {
        let restarts = |message: &str| {
            let mut story = Story::new(THREE);
            story.run("given 2 term=2 vote=3 log=1");
            // The minimum election timeout is ten ticks.
            story.run("tick 2 9");
            story.run(message);
            !story.run("tick 2 1").contains("MinimumElectionTimeout")
        };
        assert!(restarts("inject 3 2 append_entries_request term=2 prev=1@1"), "from the current leader");
        assert!(restarts("inject 3 2 request_vote_request term=2 last=1@1"), "granting a vote");
        assert!(!restarts("inject 1 2 request_vote_request term=2 last=1@1"), "refusing a vote");
        assert!(!restarts("inject 1 2 append_entries_request term=1 prev=1@1"), "from an old leader");
        let mut story = Story::new(THREE);
        story.run("election_timeout 2");
        assert_eq!(story.node(2).role(), RoleKind::Candidate);
    }
}

mod candidates {
    use super::*;

    /// "On conversion to candidate, start election: increment currentTerm; vote for self; reset election timer; send
    /// RequestVote RPCs to all other servers". The requests leave once term and vote are durable.
    #[test]
    fn start_an_election() {
        let mut config = RaftConfig::new(1, [1, 2, 3]);
        config.pre_vote = false;
        let log = MemoryLog::new();
        let mut protocol = Protocol::new(&config, &log).expect("a valid configuration");
        let mut actions = Vec::new();
        protocol.step(&log, Event::ElectionTimeout, &mut actions).expect("a timeout is not refused");
        assert_eq!((protocol.term(), protocol.vote()), (Term(1), Some(NodeId(1))));
        assert!(actions.contains(&Action::ResetElectionTimer), "{actions:?}");

        let mut story = Story::new(THREE);
        let sent = story.run("election_timeout 1");
        assert!(sent.contains("→ 2 RequestVoteRequest term=1 last=0@0"), "{sent}");
        assert!(sent.contains("→ 3 RequestVoteRequest term=1 last=0@0"), "{sent}");
    }

    /// "If votes received from majority of servers: become leader"
    #[test]
    fn lead_with_the_votes_of_a_majority() {
        let mut story = Story::new("cluster 5 pre_vote=false check_quorum=false");
        story.run("election_timeout 1; deliver all; deliver 2 1");
        assert_eq!(story.node(1).role(), RoleKind::Candidate, "two of five");
        story.run("deliver 3 1");
        assert_eq!(story.node(1).role(), RoleKind::Leader, "three of five");
    }

    /// "If AppendEntries RPC received from new leader: convert to follower"
    #[test]
    fn follow_the_leader_of_their_term() {
        let mut story = Story::new(THREE);
        story.run("election_timeout 2; inject 1 2 append_entries_request term=1 prev=0@0");
        assert_eq!((story.node(2).role(), story.node(2).leader()), (RoleKind::Follower, Some(NodeId(1))));
        assert_eq!((story.node(2).term(), story.node(2).vote()), (Term(1), Some(NodeId(2))), "the vote stays");
    }

    /// "If election timeout elapses: start new election"
    #[test]
    fn start_over_when_the_election_takes_too_long() {
        let mut story = Story::new(THREE);
        story.run("election_timeout 1; deliver 1 2; election_timeout 1");
        assert_eq!((story.node(1).term(), story.node(1).role()), (Term(2), RoleKind::Candidate));
        story.run("deliver 2 1");
        assert_eq!(story.node(1).role(), RoleKind::Candidate, "the vote was for the election before");
    }
}

mod leaders {
    use super::*;

    /// "Upon election: send initial empty AppendEntries RPCs (heartbeat) to each server; repeat during idle periods to
    /// prevent election timeouts (§5.2)". The initial message carries the no-op of §6.4 instead of nothing.
    #[test]
    fn assert_their_leadership() {
        let mut story = Story::new(THREE);
        story.run("election_timeout 1; deliver 1 2");
        let elected = story.run("deliver 2 1");
        assert!(elected.contains("→ 2 AppendEntriesRequest term=1 prev=0@0 [1@1]"), "{elected}");
        assert!(elected.contains("→ 3 AppendEntriesRequest term=1 prev=0@0 [1@1]"), "{elected}");
        story.run("stabilize");
        let idle = story.run("heartbeat_timeout 1");
        assert!(idle.contains("→ 2 AppendEntriesRequest term=1 prev=1@1 commit=1\n"), "{idle}");
        assert!(idle.contains("→ 3 AppendEntriesRequest term=1 prev=1@1 commit=1\n"), "{idle}");
        // Heartbeats every tick keep everyone quiet for many election timeouts.
        story.run("run 200");
        assert_eq!((story.node(1).role(), story.node(1).term()), (RoleKind::Leader, Term(1)));
    }

    /// "If command received from client: append entry to local log, respond after entry applied to state machine
    /// (§5.3)". The protocol says when to apply; the driver answers the client then.
    #[test]
    fn append_commands_and_apply_them_before_the_answer() {
        let mut story = Story::led();
        let appended = story.run("client_request 1 x");
        assert!(appended.contains("persist [2@1:x]") && !appended.contains("apply"), "{appended}");
        let committed = story.run("deliver 1 2; deliver 2 1");
        assert!(committed.contains("apply [2@1:x]"), "{committed}");
    }

    /// "If last log index ≥ nextIndex for a follower: send AppendEntries RPC with log entries starting at nextIndex"
    #[test]
    fn send_what_a_follower_lacks() {
        let mut story = Story::led();
        let first = story.run("client_request 1 x");
        assert!(first.contains("→ 2 AppendEntriesRequest term=1 prev=1@1 [2@1:x]"), "{first}");
        let second = story.run("client_request 1 y");
        assert!(second.contains("→ 2 AppendEntriesRequest term=1 prev=2@1 [3@1:y]"), "{second}");
    }

    /// "If successful: update nextIndex and matchIndex for follower (§5.3)". While pipelining, the next index is
    /// updated when the entries leave.
    #[test]
    fn learn_from_success() {
        let mut story = Story::led();
        story.run("client_request 1 x");
        assert_eq!(story.progress(1, 2), (1, 3));
        story.run("deliver 1 2; deliver 2 1");
        assert_eq!(story.progress(1, 2), (2, 3));
    }

    /// "If AppendEntries fails because of log inconsistency: decrement nextIndex and retry (§5.3)". By as much as the
    /// follower's hint allows, rather than by one.
    #[test]
    fn go_back_after_a_refusal() {
        let mut story = Story::new(THREE);
        story.run("given 1 term=1 log=1x9; given 3 term=1 log=1x9; election_timeout 1; deliver 1 3; deliver 3 1");
        story.run("deliver 1 2; deliver 1 2");
        let retry = story.run("deliver 2 1; deliver 2 1");
        assert!(retry.contains("rejected prev=9 hint=0@0"), "{retry}");
        assert!(retry.contains("→ 2 AppendEntriesRequest term=2 prev=0@0 [1@1 … 10@2 (10 entries)]"), "{retry}");
    }

    /// "If there exists an N such that N > commitIndex, a majority of matchIndex[i] ≥ N, and log[N].term ==
    /// currentTerm: set commitIndex = N (§5.3, §5.4)"
    #[test]
    fn commit_what_a_majority_holds_of_their_own_term() {
        let mut story = Story::new("cluster 5 pre_vote=false check_quorum=false append_bytes_max=1");
        for id in 1..=5 {
            story.run(&format!("given {id} term=1 log=1x3"));
        }
        story.run("election_timeout 1; deliver 1 2; deliver 1 3; deliver 2 1; deliver 3 1");
        for id in 2..=5 {
            story.run(&format!("inject {id} 1 append_entries_response term=2 accepted match=3"));
        }
        assert_eq!(story.node(1).commit_index(), Index(0), "everyone holds 3, an entry of term 1");
        story.run("deliver 1 2; deliver 2 1");
        assert_eq!(story.node(1).commit_index(), Index(0), "two of five hold 4, of term 2");
        story.run("deliver 1 3; deliver 3 1");
        assert_eq!(story.node(1).commit_index(), Index(4), "three of five do");
    }
}
