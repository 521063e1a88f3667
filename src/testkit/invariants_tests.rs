//! Every law can fail: histories that no server of ours produces, and the law that each breaks.

use super::*;
use crate::action::Write;
use crate::log::RaftLog;
use crate::message::{
    AppendEntriesResponse, PreVoteResponse, RequestVoteRequest, RequestVoteResponse, TimeoutNowRequest,
};
use crate::testkit::membership_laws::configurations;
use crate::types::{Entries, Payload};
use bytes::Bytes;
use std::sync::OnceLock;
use std::vec;

pub(in crate::testkit) fn noop(index: u64, term: u64) -> Entry {
    Entry { id: EntryId::new(index, term), payload: Payload::Noop }
}

/// A log with no-ops of these terms, and this hard state.
pub(in crate::testkit) fn log(term: u64, vote: Option<u64>, terms: &[u64]) -> MemoryLog {
    let entries = terms.iter().zip(1..).map(|(term, index)| noop(index, *term)).collect();
    holding(term, vote, entries)
}

pub(in crate::testkit) fn holding(term: u64, vote: Option<u64>, entries: Entries) -> MemoryLog {
    let mut log = MemoryLog::new();
    let hard_state = Some(HardState { term: Term(term), vote: vote.map(NodeId) });
    let Ok(()) = log.append(&mut vec![Write { hard_state, entries, ..Write::default() }]);
    log
}

fn three() -> &'static Membership {
    static THREE: OnceLock<Membership> = OnceLock::new();
    THREE.get_or_init(|| Membership::new([1, 2, 3]))
}

/// A server of three whose log is durable as a whole.
pub(in crate::testkit) fn view(id: u64, role: RoleKind, log: &MemoryLog, commit: u64) -> View<'_> {
    let memberships = configurations(log, three());
    let members = memberships.last().map(|(_, membership)| membership.members()).unwrap_or_default();
    let peers = members.into_iter().filter(|member| role == Leader && *member != NodeId(id));
    View {
        id: NodeId(id),
        role: Some(role),
        pre_vote: true,
        hard_state: log.hard_state(),
        leader: (role == Leader).then_some(NodeId(id)),
        leader_is_recent: false,
        has_lost_data: false,
        accused: Vec::new(),
        lease_over: None,
        commit_index: Index(commit),
        log,
        disk: log,
        match_indexes: peers.map(|peer| (peer, Index::ZERO)).collect(),
        sessions: Vec::new(),
        memberships,
        initial: three(),
    }
}

pub(in crate::testkit) fn checker() -> Checker {
    Checker::new(three())
}

impl Checker {
    /// Lets it know of a vote.
    pub(in crate::testkit) fn vote_of(&mut self, voter: u64, term: u64, candidate: u64) {
        self.votes.insert((NodeId(voter), Term(term)), NodeId(candidate));
    }

    /// Lets it know who was elected.
    pub(in crate::testkit) fn elected(&mut self, leader: u64, term: u64) {
        self.leaders.insert(Term(term), NodeId(leader));
    }
}

/// Shows every server's state to the checker, in order.
pub(in crate::testkit) fn see(checker: &mut Checker, views: &[View<'_>]) -> Checked {
    views.iter().try_for_each(|view| checker.moved(view.id, views))
}

pub(in crate::testkit) fn law(found: Checked) -> Option<Law> {
    found.err().map(|violation| violation.law)
}

use RoleKind::{Candidate, Follower, Leader, PreCandidate};

/// Two of three servers voted for node 1 in term 1.
fn elected() -> (MemoryLog, MemoryLog, MemoryLog) {
    (log(1, Some(1), &[1, 1]), log(1, Some(1), &[1, 1]), log(1, None, &[]))
}

#[test]
fn a_good_history_breaks_nothing() {
    let (one, two, three) = elected();
    let mut checker = checker();
    let views = [view(2, Follower, &two, 0), view(1, Leader, &one, 2), view(3, Follower, &three, 0)];
    assert_eq!(see(&mut checker, &views), Ok(()));
    assert_eq!(checker.applied(NodeId(1), Index(1), &noop(1, 1)), Ok(()));
    assert_eq!(checker.applied(NodeId(1), Index(1), &noop(2, 1)), Ok(()));
    checker.crashed(NodeId(1));
    assert_eq!(checker.applied(NodeId(1), Index(1), &noop(1, 1)), Ok(()), "a new life applies again");
}

#[test]
fn two_leaders_in_one_term() {
    let (one, two, three) = elected();
    let views = [view(2, Follower, &two, 0), view(1, Leader, &one, 0), view(3, Leader, &three, 0)];
    assert_eq!(law(see(&mut checker(), &views)), Some(Law::ElectionSafety));
}

#[test]
fn a_second_leader_in_a_term_after_the_first_has_gone() {
    let (one, two, three) = elected();
    let mut checker = checker();
    assert_eq!(see(&mut checker, &[view(2, Follower, &two, 0), view(1, Leader, &one, 0)]), Ok(()));
    let follows = [view(1, Follower, &one, 0), view(2, Follower, &two, 0), view(3, Leader, &three, 0)];
    assert_eq!(law(see(&mut checker, &follows)), Some(Law::ElectionSafety));
}

#[test]
fn a_leader_that_truncates_its_log() {
    let (one, two, _) = elected();
    let mut checker = checker();
    assert_eq!(see(&mut checker, &[view(2, Follower, &two, 0), view(1, Leader, &one, 0)]), Ok(()));
    let shorter = log(1, Some(1), &[1]);
    let views = [view(2, Follower, &two, 0), view(1, Leader, &shorter, 0)];
    assert_eq!(law(see(&mut checker, &views)), Some(Law::LeaderAppendOnly));
}

#[test]
fn one_id_with_two_contents() {
    let other = Entry { payload: Payload::Command(Bytes::from_static(b"x")), ..noop(2, 1) };
    let (one, two) = (log(1, None, &[1, 1]), holding(1, None, [noop(1, 1), other].into_iter().collect()));
    let views = [view(1, Follower, &one, 0), view(2, Follower, &two, 0)];
    assert_eq!(law(see(&mut checker(), &views)), Some(Law::LogMatching));
}

#[test]
fn one_id_with_two_pasts() {
    let (one, two) = (log(2, None, &[1, 2]), log(3, None, &[1, 1, 2]));
    let three = log(3, None, &[2, 2]);
    assert_eq!(see(&mut checker(), &[view(1, Follower, &one, 0), view(2, Follower, &two, 0)]), Ok(()));
    let views = [view(1, Follower, &one, 0), view(3, Follower, &three, 0)];
    assert_eq!(law(see(&mut checker(), &views)), Some(Law::LogMatching));
}

#[test]
fn a_later_leader_without_a_committed_entry() {
    let (one, two, _) = elected();
    let mut checker = checker();
    assert_eq!(see(&mut checker, &[view(2, Follower, &two, 0), view(1, Leader, &one, 2)]), Ok(()));
    let (voter, leader) = (log(2, Some(3), &[1, 1]), log(2, Some(3), &[1, 2]));
    let views = [view(1, Follower, &one, 2), view(2, Follower, &voter, 0), view(3, Leader, &leader, 0)];
    assert_eq!(law(see(&mut checker, &views)), Some(Law::LeaderCompleteness));
}

/// The commit term decides, not the entry's: a leader between the two need not hold the entry (Figure 3.7).
#[test]
fn a_leader_of_a_term_before_the_commit_may_lack_the_entry() {
    let (one, two) = (log(4, Some(1), &[1, 2, 4]), log(4, Some(1), &[1, 2, 4]));
    let old = log(3, Some(3), &[1, 3]);
    let mut checker = checker();
    checker.vote_of(2, 3, 3);
    let views = [view(2, Follower, &two, 0), view(3, Leader, &old, 0), view(1, Leader, &one, 3)];
    assert_eq!(see(&mut checker, &views), Ok(()));
}

#[test]
fn two_servers_that_commit_different_entries() {
    let (one, two, _) = elected();
    let mut checker = checker();
    assert_eq!(see(&mut checker, &[view(2, Follower, &two, 0), view(1, Leader, &one, 2)]), Ok(()));
    let other = log(3, None, &[1, 3]);
    let views = [view(1, Follower, &one, 2), view(2, Follower, &two, 0), view(3, Follower, &other, 2)];
    assert_eq!(law(see(&mut checker, &views)), Some(Law::StateMachineSafety));
    assert_eq!(law(checker.applied(NodeId(3), Index(1), &noop(1, 3))), Some(Law::StateMachineSafety));
}

#[test]
fn a_commit_index_beyond_the_log() {
    let (one, two, _) = elected();
    let views = [view(2, Follower, &two, 3), view(1, Follower, &one, 0)];
    assert_eq!(law(see(&mut checker(), &views)), Some(Law::StateMachineSafety));
}

#[test]
fn a_leader_with_too_few_votes() {
    let (one, _, three) = elected();
    let views = [view(3, Follower, &three, 0), view(1, Leader, &one, 0)];
    assert_eq!(law(see(&mut checker(), &views)), Some(Law::LeaderHasQuorum));
}

#[test]
fn a_server_that_votes_twice() {
    let (first, second) = (log(1, Some(1), &[]), log(1, Some(2), &[]));
    let mut checker = checker();
    assert_eq!(see(&mut checker, &[view(3, Follower, &first, 0)]), Ok(()));
    checker.crashed(NodeId(3));
    assert_eq!(law(see(&mut checker, &[view(3, Follower, &second, 0)])), Some(Law::VotesGrantedOnce));
}

#[test]
fn a_match_index_beyond_the_followers_disk() {
    let (one, mut two, _) = elected();
    let mut checker = checker();
    let mut leader = view(1, Leader, &one, 0);
    leader.match_indexes = vec![(NodeId(2), Index(2)), (NodeId(3), Index(0))];
    assert_eq!(see(&mut checker, &[view(2, Follower, &two, 0), leader.clone()]), Ok(()));
    let Ok(()) = two.append(&mut vec![Write { truncate_from: Some(Index(2)), ..Write::default() }]);
    assert_eq!(law(see(&mut checker, &[view(2, Follower, &two, 0), leader])), Some(Law::MatchIndexSound));
}

#[test]
fn a_commit_with_one_durable_copy() {
    let (one, _, three) = elected();
    let voted = log(1, Some(1), &[]);
    let views = [view(2, Follower, &voted, 0), view(1, Leader, &one, 1), view(3, Follower, &three, 0)];
    assert_eq!(law(see(&mut checker(), &views)), Some(Law::CommittedIsDurable));
}

#[test]
fn a_term_that_falls() {
    let (high, low) = (log(5, None, &[]), log(4, None, &[]));
    let mut checker = checker();
    assert_eq!(see(&mut checker, &[view(1, Follower, &high, 0)]), Ok(()));
    assert_eq!(law(see(&mut checker.clone(), &[view(1, Follower, &low, 0)])), Some(Law::TermMonotonic));
    checker.crashed(NodeId(1));
    assert_eq!(law(see(&mut checker, &[view(1, Follower, &low, 0)])), Some(Law::TermMonotonic), "a disk forgot");
}

#[test]
fn a_commit_index_that_falls() {
    let (one, two, _) = elected();
    let mut checker = checker();
    let other = [view(1, Follower, &one, 0), view(2, Follower, &two, 2)];
    assert_eq!(see(&mut checker, &other), Ok(()));
    let views = [view(1, Follower, &one, 0), view(2, Follower, &two, 1)];
    assert_eq!(law(see(&mut checker, &views)), Some(Law::CommitMonotonic));
}

#[test]
fn entries_applied_twice_skipped_or_uncommitted() {
    let (one, two, _) = elected();
    let mut checker = checker();
    assert_eq!(see(&mut checker, &[view(2, Follower, &two, 0), view(1, Leader, &one, 1)]), Ok(()));
    let mut twice = checker.clone();
    assert_eq!(twice.applied(NodeId(1), Index(1), &noop(1, 1)), Ok(()));
    assert_eq!(law(twice.applied(NodeId(1), Index(1), &noop(1, 1))), Some(Law::AppliedInOrder));
    assert_eq!(law(checker.clone().applied(NodeId(1), Index(1), &noop(2, 1))), Some(Law::AppliedInOrder));
    assert_eq!(checker.applied(NodeId(1), Index(1), &noop(1, 1)), Ok(()));
    assert_eq!(law(checker.applied(NodeId(1), Index(1), &noop(2, 1))), Some(Law::AppliedInOrder), "not committed");
}

#[test]
fn messages_that_leave_before_their_write() {
    let disk = log(1, None, &[1]);
    let sender = view(2, Follower, &disk, 0);
    let send = |message| {
        let envelope = Envelope { from: NodeId(2), to: NodeId(1), message };
        law(checker().sent(&sender, &envelope))
    };
    let term = Term(1);
    let granted = |term, granted| Message::RequestVoteResponse(RequestVoteResponse { term, granted });
    assert_eq!(send(granted(term, true)), Some(Law::PersistFirst), "the vote is not durable");
    assert_eq!(send(granted(term, false)), None);
    assert_eq!(send(granted(Term(2), false)), Some(Law::PersistFirst), "the term is not durable");
    let asks =
        Message::RequestVoteRequest(RequestVoteRequest { term, last: EntryId::ZERO, leadership_transfer: false });
    assert_eq!(send(asks), Some(Law::PersistFirst), "the own vote is not durable");
    let accepted = |match_index| {
        let result = AppendResult::Accepted { match_index: Index(match_index) };
        Message::AppendEntriesResponse(AppendEntriesResponse {
            disk: Default::default(),
            term,
            result,
            session: Some(Index::ZERO),
        })
    };
    assert_eq!(send(accepted(1)), None);
    assert_eq!(send(accepted(2)), Some(Law::PersistFirst), "the entry is not durable");
}

#[test]
fn a_vote_told_to_two_candidates() {
    let mut checker = checker();
    let disk = log(1, Some(1), &[]);
    let tell = |checker: &mut Checker, term, to| {
        let message = Message::RequestVoteResponse(RequestVoteResponse { term: Term(term), granted: true });
        let later = holding(9, None, Entries::EMPTY);
        let disk = if term == 1 { &disk } else { &later };
        checker.sent(&view(3, Follower, disk, 0), &Envelope { from: NodeId(3), to: NodeId(to), message })
    };
    assert_eq!(tell(&mut checker, 1, 1), Ok(()));
    assert_eq!(tell(&mut checker, 8, 1), Ok(()));
    assert_eq!(law(tell(&mut checker, 8, 2)), Some(Law::VotesGrantedOnce));
}

#[test]
fn pre_votes_that_change_something() {
    let (before, bumped) = (log(1, None, &[]), log(2, None, &[]));
    let mut checker = checker();
    assert_eq!(see(&mut checker, &[view(1, Follower, &before, 0)]), Ok(()));
    let step = |transition, actions: &[Action], view: View<'_>| {
        law(checker.clone().stepped(NodeId(1), transition, actions, &[view]))
    };
    let broken = Some(Law::PreVoteLeavesHardStateAlone);
    let asked = Transition::HandlePreVoteRequest;
    assert_eq!(step(asked, &[], view(1, Follower, &before, 0)), None);
    assert_eq!(step(asked, &[], view(1, Follower, &bumped, 0)), broken);
    assert_eq!(step(asked, &[Action::ResetElectionTimer], view(1, Follower, &before, 0)), broken);
    assert_eq!(step(asked, &[Action::Persist(Write::default())], view(1, Follower, &before, 0)), broken);
    assert_eq!(step(asked, &[], view(1, PreCandidate, &before, 0)), broken);
    let asks = Transition::ElectionTimeout;
    assert_eq!(step(asks, &[], view(1, PreCandidate, &before, 0)), None);
    assert_eq!(step(asks, &[], view(1, PreCandidate, &bumped, 0)), broken);
}

#[test]
fn a_campaign_without_pre_votes() {
    let (before, after) = (log(1, None, &[]), log(2, Some(1), &[]));
    let mut checker = checker();
    assert_eq!(see(&mut checker, &[view(1, PreCandidate, &before, 0)]), Ok(()));
    let grant = |checker: &mut Checker, from: u64, campaign_term: u64| {
        let response = PreVoteResponse { term: Term(1), campaign_term: Term(campaign_term), granted: true };
        let message = Message::PreVoteResponse(response);
        let envelope = Envelope { from: NodeId(from), to: NodeId(1), message };
        checker.received(&view(1, PreCandidate, &before, 0), &envelope);
    };
    let campaign = |checker: &Checker| {
        let views = [view(1, Candidate, &after, 0)];
        law(checker.clone().stepped(NodeId(1), Transition::HandlePreVoteResponse, &[], &views))
    };
    grant(&mut checker, 2, 3);
    grant(&mut checker, 9, 2);
    assert_eq!(campaign(&checker), Some(Law::CampaignHasPreVotes), "for another term, and of a stranger");
    grant(&mut checker, 2, 2);
    assert_eq!(campaign(&checker), None);
    let asks_again = [view(1, PreCandidate, &before, 0)];
    assert_eq!(checker.stepped(NodeId(1), Transition::ElectionTimeout, &[], &asks_again), Ok(()));
    assert_eq!(campaign(&checker), Some(Law::CampaignHasPreVotes), "granted before it asked");
}

/// The checker once looked at pre-candidates alone, so a follower or a candidate that never asked broke nothing.
#[test]
fn a_campaign_of_whoever_never_asked() {
    let (before, after, later) = (log(1, None, &[]), log(2, Some(1), &[]), log(3, Some(1), &[]));
    let campaign = |before: View<'_>, after: View<'_>, told_by: Option<u64>| {
        let mut checker = checker();
        checker.elected(2, 1);
        assert_eq!(see(&mut checker, std::slice::from_ref(&before)), Ok(()));
        if let Some(from) = told_by {
            let message = Message::TimeoutNowRequest(TimeoutNowRequest { term: Term(1) });
            checker.received(&before, &Envelope { from: NodeId(from), to: NodeId(1), message });
        }
        for from in [2, 3] {
            let response = PreVoteResponse { term: Term(1), campaign_term: Term(2), granted: true };
            let message = Message::PreVoteResponse(response);
            checker.received(&before, &Envelope { from: NodeId(from), to: NodeId(1), message });
        }
        law(checker.stepped(NodeId(1), Transition::HandlePreVoteResponse, &[], &[after]))
    };
    let broken = Some(Law::CampaignHasPreVotes);
    let without = |view| View { pre_vote: false, ..view };
    let candidate = |log| view(1, Candidate, log, 0);
    assert_eq!(campaign(view(1, PreCandidate, &before, 0), candidate(&after), None), None);
    assert_eq!(campaign(view(1, PreCandidate, &before, 0), candidate(&later), None), broken, "a term too many");
    assert_eq!(campaign(view(1, Follower, &before, 0), candidate(&after), None), broken, "a follower asked nobody");
    assert_eq!(campaign(view(1, Candidate, &before, 0), candidate(&after), None), broken, "a candidate asks anew");
    assert_eq!(campaign(view(1, Follower, &before, 0), without(candidate(&after)), None), None, "no pre-votes");
    assert_eq!(campaign(view(1, Follower, &before, 0), candidate(&after), Some(2)), None, "its leader told it to");
    let told = campaign(view(1, Follower, &before, 0), candidate(&after), Some(3));
    assert_eq!(told, Some(Law::TimeoutNowFromOwnLeader), "somebody else told it to: that law speaks first");
}

#[test]
fn a_leader_that_nobody_answered_stays() {
    let (one, two, _) = elected();
    let mut checker = checker().with_check_quorum(true);
    let views = [view(1, Leader, &one, 0), view(2, Follower, &two, 0)];
    assert_eq!(see(&mut checker, &views[1..]), Ok(()));
    assert_eq!(see(&mut checker, &views), Ok(()));
    let quorum_check =
        |checker: &mut Checker| law(checker.stepped(NodeId(1), Transition::QuorumCheckTimeout, &[], &views));
    assert_eq!(quorum_check(&mut checker.clone()), Some(Law::CheckedLeaderHasAnswers));
    let result = AppendResult::Accepted { match_index: Index(1) };
    let message = Message::AppendEntriesResponse(AppendEntriesResponse {
        disk: Default::default(),
        term: Term(1),
        result,
        session: Some(Index::ZERO),
    });
    checker.received(&views[0], &Envelope { from: NodeId(2), to: NodeId(1), message });
    assert_eq!(quorum_check(&mut checker), None);
    assert_eq!(quorum_check(&mut checker), Some(Law::CheckedLeaderHasAnswers), "an answer counts for one check");
    assert_eq!(quorum_check(&mut checker.with_check_quorum(false)), None);
}

/// Nodes 1 and 2 with a log of two entries, of which node 1 leads.
fn leading(checker: &mut Checker, one: &MemoryLog, two: &MemoryLog) {
    let views = [view(1, Leader, one, 0), view(2, Follower, two, 0)];
    assert_eq!(see(checker, &views[1..]), Ok(()));
    assert_eq!(see(checker, &views), Ok(()));
}

#[test]
fn transfers_that_append_or_have_no_end() {
    let (one, two, _) = elected();
    let longer = log(1, Some(1), &[1, 1, 1]);
    let mut checker = checker();
    leading(&mut checker, &one, &two);
    let step = |checker: &mut Checker, transition, actions: &[Action], log: &MemoryLog| {
        law(checker.stepped(NodeId(1), transition, actions, &[view(1, Leader, log, 0), view(2, Follower, &two, 0)]))
    };
    let begun = Action::TransferBegun { target: NodeId(2) };
    let ended = |target| Action::TransferEnded { target: NodeId(target) };
    let (asked, over) = (Transition::TransferLeadership, Transition::TransferTimeout);
    let once = Some(Law::EveryTransferEnds);
    assert_eq!(step(&mut checker.clone(), over, &[ended(2)], &one), once, "none went on");
    assert_eq!(step(&mut checker, asked, std::slice::from_ref(&begun), &one), None);
    assert_eq!(step(&mut checker.clone(), asked, &[begun], &one), once, "one goes on");
    assert_eq!(step(&mut checker.clone(), over, &[], &one), once, "it goes on after its timeout");
    assert_eq!(step(&mut checker.clone(), over, &[ended(3)], &one), once, "it was to another");
    let client_request = Transition::ClientRequest;
    assert_eq!(step(&mut checker.clone(), client_request, &[], &longer), Some(Law::TransferAppendsNothing));
    assert_eq!(step(&mut checker, over, &[ended(2)], &one), None);
    assert_eq!(step(&mut checker, client_request, &[], &longer), None);
}

#[test]
fn requests_to_campaign_that_come_too_early() {
    let (one, _, _) = elected();
    let message = Message::TimeoutNowRequest(TimeoutNowRequest { term: Term(1) });
    let envelope = Envelope { from: NodeId(1), to: NodeId(2), message };
    let send = |match_index| {
        let mut leader = view(1, Leader, &one, 0);
        leader.match_indexes = vec![(NodeId(2), Index(match_index)), (NodeId(3), Index(2))];
        law(checker().sent(&leader, &envelope))
    };
    assert_eq!(send(1), Some(Law::TimeoutNowAfterWholeLog));
    assert_eq!(send(2), None);
}

#[test]
fn campaigns_that_no_leader_asked_for() {
    let (one, two, _) = elected();
    let mut checker = checker();
    leading(&mut checker, &one, &two);
    let after = log(2, Some(2), &[1, 1]);
    let campaign = |from: u64, term: u64| {
        let mut checker = checker.clone();
        let message = Message::TimeoutNowRequest(TimeoutNowRequest { term: Term(term) });
        let envelope = Envelope { from: NodeId(from), to: NodeId(2), message };
        checker.received(&view(2, Follower, &two, 0), &envelope);
        let views = [view(1, Leader, &one, 0), view(2, Candidate, &after, 0)];
        let told = law(checker.stepped(NodeId(2), Transition::HandleTimeoutNowRequest, &[], &views));
        (told, checker)
    };
    let broken = Some(Law::TimeoutNowFromOwnLeader);
    assert_eq!(campaign(3, 1).0, broken, "node 3 leads nothing");
    assert_eq!(campaign(1, 0).0, broken, "its term is over");
    let (told, mut obedient) = campaign(1, 1);
    assert_eq!(told, None);
    let last = EntryId::new(2, 1);
    let request = RequestVoteRequest { term: Term(2), last, leadership_transfer: true };
    let envelope = Envelope { from: NodeId(2), to: NodeId(1), message: Message::RequestVoteRequest(request) };
    let candidate = view(2, Candidate, &after, 0);
    assert_eq!(obedient.sent(&candidate, &envelope), Ok(()));
    assert_eq!(law(checker.sent(&candidate, &envelope)), broken, "nobody told it to");
}

#[test]
fn voters_that_listen_to_a_disruption_or_not_to_their_leader() {
    let (one, two, three) = elected();
    let mut checker = checker().with_check_quorum(true);
    leading(&mut checker, &one, &two);
    assert_eq!(see(&mut checker, &[view(3, Follower, &three, 0)]), Ok(()));
    let moved_on = log(2, None, &[1, 1]);
    let ask = |leadership_transfer, is_recent, after: &MemoryLog| {
        let mut checker = checker.clone();
        let request = RequestVoteRequest { term: Term(2), last: EntryId::ZERO, leadership_transfer };
        let envelope = Envelope { from: NodeId(3), to: NodeId(2), message: Message::RequestVoteRequest(request) };
        let mut voter = view(2, Follower, &two, 0);
        voter.leader_is_recent = is_recent;
        checker.received(&voter, &envelope);
        let views = [view(1, Leader, &one, 0), view(2, Follower, after, 0)];
        law(checker.stepped(NodeId(2), Transition::HandleRequestVoteRequest, &[], &views))
    };
    let broken = Some(Law::OnlyTransfersDisrupt);
    assert_eq!((ask(false, true, &moved_on), ask(false, true, &two)), (broken, None));
    assert_eq!((ask(true, true, &moved_on), ask(true, true, &two)), (None, broken));
    assert_eq!((ask(false, false, &moved_on), ask(false, false, &two)), (None, broken));
}

/// The log after a snapshot took the place of its beginning.
fn compacted(mut log: MemoryLog, snapshot: EntryId, base: EntryId) -> MemoryLog {
    let compaction = Some(crate::action::Compaction { snapshot, base, membership: three().clone().into() });
    let Ok(()) = log.append(&mut vec![Write { compaction, ..Write::default() }]);
    log
}

#[test]
fn a_snapshot_of_what_was_never_committed() {
    let (one, two, three) = elected();
    let mut checker = checker();
    let views = [view(2, Follower, &two, 0), view(1, Leader, &one, 1), view(3, Follower, &three, 0)];
    assert_eq!(see(&mut checker, &views), Ok(()));
    let committed = compacted(one.clone(), EntryId::new(1, 1), EntryId::new(1, 1));
    let views = [view(2, Follower, &two, 0), view(1, Follower, &committed, 1), view(3, Follower, &three, 0)];
    assert_eq!(see(&mut checker.clone(), &views), Ok(()));
    assert_eq!(checker.clone().restored(&view(1, Follower, &committed, 1), EntryId::new(1, 1)), Ok(()));
    let early = compacted(one, EntryId::new(2, 1), EntryId::new(1, 1));
    assert_eq!(law(see(&mut checker.clone(), &[view(1, Follower, &early, 1)])), Some(Law::SnapshotConsistent));
    let other = compacted(three.clone(), EntryId::new(1, 2), EntryId::new(1, 2));
    assert_eq!(law(checker.restored(&view(3, Follower, &other, 1), EntryId::new(1, 2))), Some(Law::SnapshotConsistent));
}

#[test]
fn a_gap_between_a_snapshot_and_its_log() {
    let gap = compacted(log(1, None, &[1, 1]), EntryId::new(3, 1), EntryId::new(1, 1));
    assert_eq!(law(see(&mut checker(), &[view(1, Follower, &gap, 0)])), Some(Law::CompactedIsCovered));
}

#[test]
fn a_snapshot_restored_before_it_is_durable_or_behind_what_is_applied() {
    let (one, two, three) = elected();
    let mut checker = checker();
    let views = [view(2, Follower, &two, 0), view(1, Leader, &one, 2), view(3, Follower, &three, 0)];
    assert_eq!(see(&mut checker, &views), Ok(()));
    let restored = EntryId::new(1, 1);
    assert_eq!(law(checker.clone().restored(&view(2, Follower, &two, 1), restored)), Some(Law::PersistFirst));
    assert_eq!(checker.applied(NodeId(2), Index(1), &noop(1, 1)), Ok(()));
    let late = compacted(two, restored, restored);
    assert_eq!(law(checker.restored(&view(2, Follower, &late, 1), restored)), Some(Law::AppliedInOrder));
}

#[test]
fn a_snapshot_that_takes_away_what_follows_it() {
    let (one, two, three) = elected();
    let mut checker = checker();
    let views = [view(2, Follower, &two, 0), view(1, Leader, &one, 1), view(3, Follower, &three, 0)];
    assert_eq!(see(&mut checker, &views), Ok(()));
    let snapshot = EntryId::new(1, 1);
    let kept = compacted(two, snapshot, snapshot);
    let views = [view(2, Follower, &kept, 1), view(1, Leader, &one, 1), view(3, Follower, &three, 0)];
    assert_eq!(see(&mut checker.clone(), &views), Ok(()));
    let emptied = compacted(log(1, Some(1), &[]), snapshot, snapshot);
    assert_eq!(law(see(&mut checker, &[view(2, Follower, &emptied, 1)])), Some(Law::SnapshotKeepsWhatFollows));
}
