//! `LeaseSafe` can fail, and is not checked where clocks are off.

use super::*;
use crate::testkit::invariants::Checker;
use crate::testkit::invariants::tests::{checker, law, log, see, view};
use crate::testkit::laws::Law;
use crate::testkit::script::Script;
use crate::types::Index;
use RoleKind::{Follower, Leader};
use std::vec;

#[test]
fn a_lease_beside_a_later_leader() {
    let (old, new) = (log(1, Some(1), &[1]), log(2, Some(2), &[1, 2]));
    let mut checker = checker();
    [(2, 1, 1), (1, 1, 1), (3, 2, 2), (2, 2, 2)]
        .into_iter()
        .for_each(|(voter, term, to)| checker.vote_of(voter, term, to));
    checker.elected(1, 1);
    checker.elected(2, 2);
    let mut leader = view(1, Leader, &old, 0);
    let mut all = |lease_over| {
        leader.lease_over = lease_over;
        vec![leader.clone(), view(2, Leader, &new, 0), view(3, Follower, &new, 0)]
    };
    assert_eq!(law(see(&mut checker.clone(), &all(None))), None);
    assert_eq!(law(see(&mut checker.clone(), &all(Some(0)))), Some(Law::LeaseSafe));
    checker.clocks_broken();
    assert_eq!(law(see(&mut checker, &all(Some(0)))), None);
}

#[test]
fn a_lease_read_without_a_quorum_in_a_round_that_is_not_over_or_behind_what_is_committed() {
    let one = log(1, Some(1), &[1, 1]);
    let mut leader = view(1, Leader, &one, 2);
    leader.lease_over = Some(0);
    let mut checker = checker();
    checker.vote_of(1, 1, 1);
    checker.vote_of(2, 1, 1);
    let two = log(1, Some(1), &[1, 1]);
    let views = [view(2, Follower, &two, 0), leader.clone(), view(3, Follower, &two, 0)];
    assert_eq!(law(see(&mut checker, &views)), None);
    let answered = |checker: &mut Checker, index| {
        checker.read_begins(&leader, 7, true);
        let ready = crate::Action::ReadReady { context: 7, index: Index(index) };
        law(checker.stepped(NodeId(1), crate::Transition::LeaseReadRequest, &[ready], &views))
    };
    assert_eq!(answered(&mut checker.clone(), 2), Some(Law::LinearizableRead), "nobody confirmed anything");
    let response = crate::message::ConfirmLeaderResponse { term: Term(1), leader_term: Term(1), round: 1 };
    let message = Message::ConfirmLeaderResponse(response);
    checker.received(&leader, &Envelope { from: NodeId(2), to: NodeId(1), message });
    assert_eq!(answered(&mut checker.clone(), 2), None);
    assert_eq!(answered(&mut checker.clone(), 1), Some(Law::LinearizableRead));
    checker.clocks_broken();
    assert_eq!(answered(&mut checker, 1), None);
}

/// Timeouts by name keep to the clocks; ticks may break what leases ask of them.
#[test]
fn who_is_bound_by_a_lease_gets_no_election_timeout() {
    let mut script = Script::default();
    let setup = ["cluster 3 lease_ticks=4", "minimum_election_timeout all", "election_timeout 1", "stabilize"];
    for command in setup.into_iter().chain(["heartbeat_timeout 1", "stabilize"]) {
        assert!(script.run(command).is_ok(), "{command}");
    }
    for command in ["election_timeout 2", "minimum_election_timeout 2"] {
        let refused = script.run(command).expect_err("node 2 promised something");
        assert!(refused.to_string().contains("lease of node 1"), "{refused}");
    }
    let ticks = script.run("tick 2 9").expect("a tick");
    assert!(!ticks.contains("too fast"), "{ticks}");
    let ticks = script.run("tick 2 1").expect("a tick");
    assert!(ticks.contains("too fast"), "{ticks}");
    assert!(script.run("minimum_election_timeout 2").is_ok());
}
