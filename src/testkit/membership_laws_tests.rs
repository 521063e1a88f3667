//! Every law of membership changes can fail.

use super::*;
use crate::action::{Compaction, RoleKind, Write};
use crate::history::{History, HistoryId};
use crate::log::RaftLog;
use crate::testkit::invariants::tests::{checker, holding, law, log, noop, see, view};
use crate::types::{Entry, EntryId, Term};
use RoleKind::{Candidate, Follower, Leader, PreCandidate};
use std::vec;

fn change(index: u64, term: u64, membership: Membership) -> Entry {
    Entry { id: EntryId::new(index, term), payload: Payload::Membership(Arc::new(membership)) }
}

fn of(term: u64, vote: Option<u64>, entries: &[Entry]) -> MemoryLog {
    holding(term, vote, entries.iter().cloned().collect())
}

/// Node 1 was elected and leads with this log, of which everyone has a copy.
fn led_by(leader: &MemoryLog, commit: u64) -> Checked {
    let mut checker = checker();
    checker.elected(1, leader.hard_state().term.0);
    let followers = [2, 3, 4, 5].map(|id| view(id, Follower, leader, 0));
    see(&mut checker, &[&followers[..], &[view(1, Leader, leader, commit)]].concat())
}

fn four() -> Membership {
    Membership::new([1, 2, 3, 4])
}

#[test]
fn a_good_change_breaks_nothing() {
    let (joint, next) =
        (Membership::new([1, 4, 5]).joint_from(&Membership::new([1, 2, 3])), Membership::new([1, 4, 5]));
    let log = of(1, Some(1), &[noop(1, 1), change(2, 1, joint.clone())]);
    assert_eq!(led_by(&log, 1), Ok(()));
    // Both of the joint configuration's majorities hold it; then it is left.
    let followers = [2, 4, 5].map(|id| view(id, Follower, &log, 0));
    let mut checker = checker();
    checker.elected(1, 1);
    assert_eq!(see(&mut checker, &followers), Ok(()));
    let views = |leader| [&followers[..], &[leader]].concat();
    assert_eq!(checker.moved(NodeId(1), &views(view(1, Leader, &log, 2))), Ok(()));
    let left = of(1, Some(1), &[noop(1, 1), change(2, 1, joint), change(3, 1, next)]);
    assert_eq!(checker.moved(NodeId(1), &views(view(1, Leader, &left, 2))), Ok(()));
}

#[test]
fn a_server_that_goes_by_another_configuration_than_its_logs() {
    let law_of = |view: View<'_>| law(see(&mut checker(), &[view]));
    let log = of(1, None, &[noop(1, 1), change(2, 1, four())]);
    let broken = Some(Law::ConfigurationFollowsLog);
    assert_eq!(law_of(view(3, Follower, &log, 0)), None);
    let mut behind = view(3, Follower, &log, 0);
    behind.memberships.pop();
    assert_eq!(law_of(behind), broken, "it waits for the commit");
    let shorter = of(1, None, &[noop(1, 1)]);
    let mut ahead = view(3, Follower, &shorter, 0);
    ahead.memberships.push((Index(2), Arc::new(four())));
    assert_eq!(law_of(ahead), broken, "it was taken back");
}

#[test]
fn a_snapshot_with_the_configuration_of_another_time() {
    let entries = [noop(1, 1), change(2, 1, four()), noop(3, 1)];
    let (one, two) = (of(1, Some(1), &entries), of(1, Some(1), &entries));
    let mut checker = checker();
    let followers = [view(2, Follower, &two, 0), view(3, Follower, &two, 0)];
    checker.elected(1, 1);
    assert_eq!(see(&mut checker, &followers), Ok(()));
    assert_eq!(see(&mut checker, &[view(1, Leader, &one, 3), followers[0].clone(), followers[1].clone()]), Ok(()));
    let with = |snapshot, membership| {
        let mut log = two.clone();
        let id = EntryId::new(snapshot, 1);
        let compaction = Some(Compaction { snapshot: id, base: id, membership: Arc::new(membership) });
        let Ok(()) = log.append(&mut vec![Write { compaction, ..Write::default() }]);
        let views = [view(2, Follower, &log, 3), followers[1].clone(), view(1, Follower, &one, 3)];
        law(checker.clone().moved(NodeId(2), &views))
    };
    let broken = Some(Law::ConfigurationFollowsLog);
    assert_eq!((with(3, four()), with(1, Membership::new([1, 2, 3]))), (None, None));
    assert_eq!(with(3, Membership::new([1, 2, 3])), broken, "an earlier one");
    assert_eq!(with(1, four()), broken, "a later one");
}

#[test]
fn a_vote_for_a_server_that_does_not_hold_what_made_it_a_learner() {
    let learner = Membership::new([1, 2, 3, 5]).with_learner(4);
    let entries = [noop(1, 1), change(2, 1, learner), change(3, 1, four())];
    let leader = of(1, Some(1), &entries);
    let with = |held: usize| {
        let mut checker = checker();
        checker.elected(1, 1);
        let learner = of(1, None, &entries[..held]);
        let followers = [view(2, Follower, &leader, 0), view(3, Follower, &leader, 0), view(4, Follower, &learner, 0)];
        law(see(&mut checker, &[&followers[..], &[view(1, Leader, &leader, 2)]].concat()))
    };
    assert_eq!((with(3), with(2)), (None, None), "what is on its way need not have arrived");
    assert_eq!((with(1), with(0)), (Some(Law::PromotedHasLog), Some(Law::PromotedHasLog)));
}

#[test]
fn a_change_before_the_last_is_committed() {
    let five = four().with_voter(5);
    let log = of(1, Some(1), &[noop(1, 1), change(2, 1, four()), change(3, 1, five.clone())]);
    assert_eq!(led_by(&log, 2), Ok(()), "the first is committed");
    assert_eq!(law(led_by(&log, 1)), Some(Law::OneChangeAtATime));
    // A leader that was elected just now may find two, of which its commit index does not know yet.
    let found = of(2, Some(1), &[noop(1, 1), change(2, 1, four()), change(3, 1, five), noop(4, 2)]);
    let mut checker = checker();
    checker.elected(1, 2);
    assert_eq!(see(&mut checker, &[view(1, Leader, &found, 0)]), Ok(()));
}

#[test]
fn a_change_before_an_entry_of_the_own_term_is_committed() {
    let log = |commit| led_by(&of(2, Some(1), &[noop(1, 1), noop(2, 2), change(3, 2, four())]), commit);
    assert_eq!(log(2), Ok(()));
    assert_eq!(law(log(1)), Some(Law::ChangesAfterOwnCommit));
}

#[test]
fn quorums_without_a_server_in_common() {
    let apart = |one: &Membership, other: &Membership| !quorums_overlap(one, other);
    let three = Membership::new([1, 2, 3]);
    let five = Membership::new([1, 2, 3, 4, 5]);
    assert!(!apart(&three, &three) && !apart(&three, &four()) && !apart(&four(), &three));
    assert!(apart(&three, &five) && apart(&five, &three), "two of three, and three of five");
    assert!(!apart(&five.joint_from(&three), &three) && !apart(&five.joint_from(&three), &five));
    assert!(!apart(&three, &three.with_learner(7)) && !apart(&Membership::new([1]), &Membership::new([1, 2])));
    assert!(apart(&Membership::new([1]), &Membership::new([2])));
    let jump = of(1, None, &[noop(1, 1), change(2, 1, five)]);
    assert_eq!(law(see(&mut checker(), &[view(3, Follower, &jump, 0)])), Some(Law::QuorumsOverlap));
}

#[test]
fn a_campaign_without_a_vote() {
    let removed = of(1, Some(3), &[noop(1, 1), change(2, 1, Membership::new([1, 2]))]);
    let campaign = |role, commit| {
        let views = [view(1, Follower, &removed, 0), view(2, Follower, &removed, 0), view(3, role, &removed, commit)];
        law(see(&mut checker(), &views))
    };
    let broken = Some(Law::CampaignersHaveAVote);
    assert_eq!((campaign(Candidate, 0), campaign(PreCandidate, 1)), (None, None), "its removal is not committed");
    assert_eq!((campaign(Candidate, 2), campaign(PreCandidate, 2), campaign(Follower, 2)), (broken, broken, None));
}

#[test]
fn a_leader_that_keeps_account_of_a_stranger_or_not_of_a_member() {
    let (one, two) = (log(1, Some(1), &[1]), log(1, Some(1), &[1]));
    let led = |peers: &[u64]| {
        let mut leader = view(1, Leader, &one, 0);
        leader.match_indexes = peers.iter().map(|peer| (NodeId(*peer), Index::ZERO)).collect();
        law(see(&mut checker(), &[view(2, Follower, &two, 0), leader]))
    };
    let broken = Some(Law::PeersAreMembers);
    assert_eq!((led(&[2, 3]), led(&[2]), led(&[2, 3, 4]), led(&[1, 2, 3])), (None, broken, broken, broken));
}

/// A majority of either set alone is none of the joint configuration.
#[test]
fn leaders_and_commits_of_half_a_joint_configuration() {
    let joint = Membership::new([3, 4, 5]).joint_from(&Membership::new([1, 2, 3]));
    let entries = [noop(1, 1), change(2, 1, joint)];
    let (voted, other) = (of(2, Some(3), &entries), of(2, None, &entries));
    let led = |voters: &[u64], commit, holders: &[u64]| {
        let mut checker = checker();
        voters.iter().for_each(|voter| checker.vote_of(*voter, 2, 3));
        let empty = of(2, None, &[]);
        let views =
            [1u64, 2, 4, 5].map(|id| view(id, Follower, if holders.contains(&id) { &other } else { &empty }, 0));
        let views = [&views[..2], &[view(3, Leader, &voted, commit)], &views[2..]].concat();
        law(checker.moved(NodeId(3), &views))
    };
    let (led_without, durable) = (Some(Law::LeaderHasQuorum), Some(Law::CommittedIsDurable));
    assert_eq!((led(&[4], 0, &[]), led(&[1, 2], 0, &[]), led(&[1, 4], 0, &[])), (led_without, led_without, None));
    assert_eq!(
        (led(&[1, 4], 2, &[4, 5]), led(&[1, 4], 2, &[1, 2]), led(&[1, 4], 2, &[2, 5])),
        (durable, durable, None)
    );
}

/// A leader that has no vote is not one of those who have to follow it.
#[test]
fn a_read_without_a_quorum_that_follows() {
    use crate::action::Action;
    use crate::message::{ConfirmLeaderRequest, ConfirmLeaderResponse, Envelope, Message};
    use crate::transition::Transition;
    let removed = of(1, Some(1), &[noop(1, 1), change(2, 1, Membership::new([2, 3]))]);
    let (whole, term) = (of(1, Some(1), &[noop(1, 1)]), Term(1));
    let ready = |log: &MemoryLog, rounds: &[(u64, u64)]| {
        let mut checker = checker();
        checker.elected(1, 1);
        let views = [view(1, Leader, log, 1), view(2, Follower, log, 1), view(3, Follower, log, 1)];
        assert_eq!(see(&mut checker, &views), Ok(()));
        let ask = |checker: &mut Checker, round| {
            let message = Message::ConfirmLeaderRequest(ConfirmLeaderRequest { term, round });
            checker.sent(&views[0], &Envelope { from: NodeId(1), to: NodeId(2), message })
        };
        assert_eq!(ask(&mut checker, 1), Ok(()));
        checker.read_begins(&views[0], 7, false);
        assert_eq!(ask(&mut checker, 2), Ok(()));
        for (from, round) in rounds {
            let response = ConfirmLeaderResponse { term, leader_term: term, round: *round };
            let message = Message::ConfirmLeaderResponse(response);
            checker.received(&views[0], &Envelope { from: NodeId(*from), to: NodeId(1), message });
        }
        let actions = [Action::ReadReady { context: 7, index: Index(1) }];
        law(checker.stepped(NodeId(1), Transition::HandleConfirmLeaderResponse, &actions, &views))
    };
    let broken = Some(Law::LinearizableRead);
    assert_eq!((ready(&whole, &[(2, 2)]), ready(&removed, &[(2, 2), (3, 2)])), (None, None));
    assert_eq!((ready(&whole, &[]), ready(&whole, &[(2, 1)])), (broken, broken), "asked before the read began");
    assert_eq!((ready(&removed, &[(2, 2)]), ready(&whole, &[(9, 2)])), (broken, broken), "it counts itself");
}

/// Only what a change appends may follow a transfer in the same step.
#[test]
fn what_follows_a_transfer_in_its_last_step() {
    use crate::action::Action;
    use crate::transition::Transition;
    let (one, two) = (log(1, Some(1), &[1, 1]), log(1, Some(1), &[1, 1]));
    let mut checker = checker();
    let follower = view(2, Follower, &two, 0);
    assert_eq!(see(&mut checker, &[follower.clone(), view(1, Leader, &one, 2)]), Ok(()));
    let begun = [Action::TransferBegun { target: NodeId(2) }];
    let views = [view(1, Leader, &one, 2), follower.clone()];
    assert_eq!(checker.stepped(NodeId(1), Transition::TransferLeadership, &begun, &views), Ok(()));
    let over = |last: Entry| {
        let log = of(1, Some(1), &[noop(1, 1), noop(2, 1), last]);
        let ended = [Action::TransferEnded { target: NodeId(2) }];
        let views = [view(1, Leader, &log, 2), follower.clone()];
        law(checker.clone().stepped(NodeId(1), Transition::TransferTimeout, &ended, &views))
    };
    assert_eq!((over(change(3, 1, four())), over(noop(3, 1))), (None, Some(Law::TransferAppendsNothing)));
}

/// Two servers know two histories to be committed.
#[test]
fn histories_of_which_one_only_can_be_committed() {
    let named = |id: u128| {
        let history = Arc::new(History::new(HistoryId::from_bits(id << 64), EntryId::new(1, 1)));
        Membership::new([1, 2, 3]).with_history(history)
    };
    let empty = of(1, None, &[]);
    let knows = |node, id| {
        let mut view = view(node, Follower, &empty, 0);
        view.memberships[0].1 = Arc::new(named(id));
        view
    };
    assert_eq!(see(&mut checker(), &[knows(2, 7), knows(3, 7)]), Ok(()));
    assert_eq!(law(see(&mut checker(), &[knows(2, 7), knows(3, 8)])), Some(Law::HistoryIsOne));
    // Of an entry that is not committed nothing is said.
    let founded = |id| of(1, None, &[change(1, 1, named(id))]);
    let (one, other) = (founded(7), founded(7));
    assert_eq!(see(&mut checker(), &[view(2, Follower, &one, 0), view(3, Follower, &other, 0)]), Ok(()));
}
