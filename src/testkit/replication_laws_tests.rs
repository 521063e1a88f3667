//! Each of these laws can fail: steps that no server of ours takes, and the law that each breaks.

use super::*;
use crate::action::RoleKind::{Follower, Leader};
use crate::membership::Membership;
use crate::message::{ConfirmLeaderRequest, InstallSnapshotRequest};
use crate::testkit::invariants::tests::{law, log, view};
use crate::types::Entries;
use std::sync::Arc;
use std::vec::Vec;

fn send(from: u64, to: u64, message: Message) -> Action {
    Action::Send(Envelope { from: NodeId(from), to: NodeId(to), message })
}

fn ask(to: u64, round: u64) -> Action {
    send(1, to, Message::ConfirmLeaderRequest(ConfirmLeaderRequest { term: Term(1), round }))
}

#[test]
fn a_round_asks_whoever_has_a_vote_and_nobody_else() {
    let log = log(1, Some(1), &[1]);
    let mut leader = view(1, Leader, &log, 1);
    let found = |leader: &View<'_>, actions: &[Action]| law(check_rounds(leader, actions));
    assert_eq!(found(&leader, &[ask(2, 1), ask(3, 1)]), None);
    assert_eq!(found(&leader, &[ask(2, 1)]), Some(Law::RoundsAskVoters));
    assert_eq!(found(&leader, &[ask(2, 1), ask(3, 1), ask(3, 2)]), Some(Law::RoundsAskVoters));
    // Of a joint configuration the outgoing voters decide too, and a learner does not.
    let joint = Membership::new([1, 2]).with_learner(4).joint_from(&Membership::new([1, 3]).with_learner(4));
    leader.memberships.push((Index(1), Arc::new(joint)));
    assert_eq!(found(&leader, &[ask(2, 1), ask(3, 1)]), None);
    assert_eq!(found(&leader, &[ask(2, 1)]), Some(Law::RoundsAskVoters));
    assert_eq!(found(&leader, &[ask(2, 1), ask(3, 1), ask(4, 1)]), Some(Law::RoundsAskVoters));
}

#[test]
fn a_snapshot_is_fetched_from_the_leader_that_offers_it() {
    let log = log(2, None, &[]);
    let mut follower = view(3, Follower, &log, 0);
    follower.leader = Some(NodeId(2));
    let last = EntryId::new(5, 1);
    let offer = |from: u64, term: u64| {
        let membership = Arc::new(Membership::new([1, 2, 3]));
        let message = Message::InstallSnapshotRequest(InstallSnapshotRequest {
            term: Term(term),
            last,
            membership,
            session: Index::ZERO,
        });
        Envelope { from: NodeId(from), to: NodeId(3), message }
    };
    let fetch = |from: u64, last| Action::FetchSnapshot { from: NodeId(from), last };
    let found = |offered: &Envelope, action: Option<Action>, fetching: Option<u64>| {
        let mut laws = ReplicationLaws::default();
        laws.received(NodeId(3), offered);
        let actions: Vec<Action> = action.into_iter().collect();
        let stepped = laws.stepped(&follower, &actions, core::slice::from_ref(&follower));
        law(stepped.and_then(|()| laws.fetches(&follower, fetching.map(|from| (NodeId(from), last)))))
    };
    let broken = Some(Law::FetchesFromOwnLeader);
    assert_eq!(found(&offer(2, 2), Some(fetch(2, last)), Some(2)), None);
    // From somebody else, something else, or in reply to nothing that the leader of this term said.
    assert_eq!(found(&offer(2, 2), Some(fetch(1, last)), Some(1)), broken);
    assert_eq!(found(&offer(2, 2), Some(fetch(2, EntryId::new(4, 1))), Some(2)), broken);
    assert_eq!(found(&offer(1, 1), Some(fetch(1, last)), Some(1)), broken);
    // A fetch from an earlier leader goes on though the present one offers its snapshot; an earlier one's offer changes nothing.
    assert_eq!(found(&offer(2, 2), None, Some(1)), broken);
    assert_eq!(found(&offer(2, 2), None, None), None);
    assert_eq!(found(&offer(1, 1), None, Some(2)), None);
}

#[test]
fn a_conflict_costs_no_more_refusals_than_terms() {
    let (own, other) = (log(4, Some(1), &[1, 1, 1, 1, 1, 1, 4]), log(4, None, &[1, 2, 2, 2, 3, 3]));
    let (leader, follower) = (view(1, Leader, &own, 1), view(2, Follower, &other, 1));
    let views = [leader.clone(), follower];
    let probe = |prev: u64| {
        let prev = EntryId::new(prev, 1);
        let request = AppendEntriesRequest {
            acknowledged: Default::default(),
            disk: Default::default(),
            term: Term(4),
            prev,
            entries: Entries::EMPTY,
            commit: Index(1),
            session: Index::ZERO,
            history: None,
        };
        send(1, 2, Message::AppendEntriesRequest(request))
    };
    let found = |prevs: &[u64], matched: Option<(usize, u64)>| {
        let mut laws = ReplicationLaws::default();
        let mut leader = leader.clone();
        let step = |(at, prev): (usize, &u64)| {
            if matched.is_some_and(|(then, _)| then == at) {
                leader.match_indexes[0].1 = Index(matched.expect("it is there").1);
            }
            laws.stepped(&leader, &[probe(*prev)], &views)
        };
        law(prevs.iter().enumerate().try_for_each(step))
    };
    // Four terms are above the match index, and the follower may lack entries besides: five times.
    assert_eq!(found(&[7, 6, 4, 3, 2, 1], None), None);
    assert_eq!(found(&[7, 6, 6, 5, 5, 5, 4, 3, 2], None), None);
    assert_eq!(found(&[7, 6, 5, 4, 3, 2, 1], None), Some(Law::ConflictsCostTerms));
    // Once the logs agree somewhere, another search may begin.
    assert_eq!(found(&[7, 6, 5, 4, 3, 2, 1], Some((4, 1))), None);
}
