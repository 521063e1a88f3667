//! The laws of followers' reads can fail: histories that no server of ours produces.

use super::*;
use crate::log::MemoryLog;
use crate::message::{ConfirmLeaderRequest, ConfirmLeaderResponse, ReadIndexResponse};
use crate::testkit::invariants::Checker;
use crate::testkit::invariants::tests::{checker, law, log, see, view};
use crate::transition::Transition;
use RoleKind::{Follower, Leader, PreCandidate};

const ONCE: Option<Law> = Some(Law::EveryReadEndsOnce);
const LINEARIZABLE: Option<Law> = Some(Law::LinearizableRead);

/// Node 1 leads term 1 and has committed two entries; node 2 follows it.
struct History {
    one: MemoryLog,
    checker: Checker,
}

impl History {
    fn new() -> Self {
        let mut history = Self { one: log(1, Some(1), &[1, 1]), checker: checker() };
        history.checker.elected(1, 1);
        let (mut checker, views) = (history.checker.clone(), history.views());
        assert_eq!(see(&mut checker, &views), Ok(()));
        drop(views);
        history.checker = checker;
        history
    }

    fn follower(&self, role: RoleKind, leader: Option<u64>) -> View<'_> {
        View { leader: leader.map(NodeId), ..view(2, role, &self.one, 2) }
    }

    fn views(&self) -> [View<'_>; 3] {
        [view(1, Leader, &self.one, 2), self.follower(Follower, Some(1)), view(3, Follower, &self.one, 0)]
    }

    fn begin(&mut self, context: u64) {
        let mut checker = self.checker.clone();
        checker.read_begins(&self.follower(Follower, Some(1)), context, false);
        self.checker = checker;
    }

    /// A round of confirmations, up to the answer of a quorum.
    fn round(&mut self, round: u64) {
        let (term, mut checker) = (Term(1), self.checker.clone());
        let views = self.views();
        let request = Message::ConfirmLeaderRequest(ConfirmLeaderRequest { term, round });
        assert_eq!(checker.sent(&views[0], &Envelope { from: NodeId(1), to: NodeId(3), message: request }), Ok(()));
        let response = ConfirmLeaderResponse { term, leader_term: term, round };
        let message = Message::ConfirmLeaderResponse(response);
        checker.received(&views[0], &Envelope { from: NodeId(3), to: NodeId(1), message });
        drop(views);
        self.checker = checker;
    }

    /// Node 1 answers a question of node 2.
    fn answer(&mut self, context: u64) -> Envelope {
        let response = ReadIndexResponse { term: Term(1), context, index: Index(2), commit: Index(2) };
        let envelope = Envelope { from: NodeId(1), to: NodeId(2), message: Message::ReadIndexResponse(response) };
        let mut checker = self.checker.clone();
        assert_eq!(checker.sent(&self.views()[0], &envelope), Ok(()));
        self.checker = checker;
        envelope
    }

    /// Node 2 takes a message, if any, and does this, after which it looks so.
    fn step(&self, message: Option<&Envelope>, action: Option<Action>, after: View<'_>) -> Option<Law> {
        let (mut checker, mut views) = (self.checker.clone(), self.views());
        message.into_iter().for_each(|message| checker.received(&views[1], message));
        views[1] = after;
        let actions: Vec<Action> = action.into_iter().collect();
        law(checker.stepped(NodeId(2), Transition::HandleReadIndexResponse, &actions, &views))
    }

    /// Node 2 takes an answer and lets a read go.
    fn ready(&self, message: Option<&Envelope>, context: u64, index: u64) -> Option<Law> {
        let action = Action::ReadReady { context, index: Index(index) };
        self.step(message, Some(action), self.follower(Follower, Some(1)))
    }
}

#[test]
fn an_answer_to_a_follower_that_no_quorum_confirmed_since_the_read_began() {
    let mut history = History::new();
    history.round(1);
    history.begin(7);
    // The leader answers at once, by a round that began before.
    let mut early = History { one: history.one.clone(), checker: history.checker.clone() };
    let answer = early.answer(7);
    assert_eq!(early.ready(Some(&answer), 7, 2), LINEARIZABLE);
    // It answers after a round of its own.
    history.round(2);
    let answer = history.answer(7);
    assert_eq!(history.ready(Some(&answer), 7, 2), None);
    assert_eq!(history.ready(Some(&answer), 7, 1), LINEARIZABLE, "behind what was committed");
    assert_eq!(history.ready(None, 7, 2), LINEARIZABLE, "nobody answered");
    let of_another = Envelope { from: NodeId(3), ..answer };
    assert_eq!(history.ready(Some(&of_another), 7, 2), LINEARIZABLE, "whom it does not follow");
}

#[test]
fn an_answer_that_serves_a_read_that_began_after_its_round() {
    let mut history = History::new();
    history.begin(7);
    history.round(1);
    history.begin(8);
    let answer = history.answer(7);
    assert_eq!((history.ready(Some(&answer), 7, 2), history.ready(Some(&answer), 8, 2)), (None, LINEARIZABLE));
}

#[test]
fn a_followers_read_that_ends_twice_or_outlives_its_leader() {
    let mut history = History::new();
    assert_eq!(history.step(None, Some(Action::ReadAborted { context: 7 }), history.views()[1].clone()), ONCE);
    history.begin(7);
    assert_eq!(history.step(None, None, history.follower(Follower, Some(1))), None, "it waits");
    assert_eq!(history.step(None, None, history.follower(Follower, Some(3))), ONCE, "for another leader");
    assert_eq!(history.step(None, None, history.follower(PreCandidate, None)), ONCE, "for no leader");
    let later = log(2, None, &[1, 1]);
    let later = View { leader: Some(NodeId(1)), ..view(2, Follower, &later, 2) };
    assert_eq!(history.step(None, None, later.clone()), ONCE, "in another term");
    assert_eq!(history.step(None, Some(Action::ReadAborted { context: 7 }), later), None);
}

#[test]
fn a_read_that_a_server_forgets_or_keeps_after_its_end() {
    let mut history = History::new();
    let kept = |history: &History, contexts: &[u64]| {
        law(history.checker.reads_kept(NodeId(2), &contexts.iter().copied().collect()))
    };
    history.begin(7);
    assert_eq!((kept(&history, &[7]), kept(&history, &[]), kept(&history, &[7, 8])), (None, ONCE, ONCE));
    history.checker.crashed(NodeId(2));
    assert_eq!((kept(&history, &[]), kept(&history, &[7])), (None, ONCE));
}
