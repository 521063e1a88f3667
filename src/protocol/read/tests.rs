//! Reads, by hand.

use super::*;
use crate::message::{AppendEntriesRequest, AppendEntriesResponse, AppendResult, RequestVoteResponse};
use crate::types::{Entries, Entry, EntryId, Payload, Term};
use crate::{MemoryLog, RaftConfig, event};
use alloc::vec::Vec;

/// Without leases there is none that could be over: the state stays as the spec has it.
#[test]
fn a_lease_timeout_is_nothing_without_leases() {
    for (lease_ticks, over) in [(None, 0), (Some(5), 1)] {
        let mut config = RaftConfig::single(1);
        config.lease_ticks = lease_ticks;
        let log = MemoryLog::new();
        let mut protocol = Protocol::new(&config, &log).expect("a valid configuration");
        step(&mut protocol, &log, event::Event::ElectionTimeout);
        step(&mut protocol, &log, event::Event::Persisted { writes: 1 });
        step(&mut protocol, &log, event::Event::ReadRequest { context: 1 });
        // Of these rounds only the first has begun.
        for round in [1, 2] {
            step(&mut protocol, &log, event::Event::LeaseTimeout { round });
        }
        assert_eq!(protocol.state().lease_over, over, "{lease_ticks:?}");
    }
}

#[test]
fn an_answer_takes_the_reads_up_to_its_question_and_no_others() {
    let mut reads = FollowerReads { waiting: [3, 1, 4].into(), asked: 0 };
    assert_eq!(reads.ask(), Some(4));
    reads.waiting.extend([5, 9]);
    assert_eq!((reads.take_through(8), reads.asked(), reads.waiting.len()), (VecDeque::new(), 3, 5), "not asked for");
    // An earlier question was answered, which covered fewer.
    assert_eq!((reads.take_through(1), reads.asked()), ([3, 1].into(), 1));
    assert_eq!((reads.take_through(1), reads.asked()), (VecDeque::new(), 1), "once");
    assert_eq!((reads.take_through(4), reads.asked()), ([4].into(), 0));
    assert_eq!((reads.ask(), reads.asked()), (Some(9), 2));
    reads.check(Some(NodeId(1)));
    assert_eq!((reads.take_through(9), reads.ask(), reads.asked()), ([5, 9].into(), None, 0));
}

#[test]
fn a_follower_that_asks_again_gives_up_what_waits_for_the_next_round() {
    let mut reads = Reads { round: 1, ..Reads::default() };
    let (two, three) = (Some(NodeId(2)), Some(NodeId(3)));
    reads.waiting.push_back(WaitingRead { context: 1, reader: two, round: 1, index: Index(1) });
    for (context, reader) in [(2, two), (3, three), (4, None)] {
        reads.add(context, reader, Index(1));
    }
    reads.forget_asked(NodeId(2));
    let contexts = |reads: &Reads| reads.waiting.iter().map(|read| read.context).collect::<Vec<_>>();
    assert_eq!(contexts(&reads), [1, 3, 4], "the present round's stays, and whatever others wait for");
    reads.forget_asked(NodeId(3));
    assert_eq!(contexts(&reads), [1, 4]);
}

/// Each heartbeat begins a round before the follower hears it and asks again: without a quorum the leader kept one
/// question more with each.
#[test]
fn however_often_a_follower_asks_two_of_its_questions_wait() {
    let mut reads = Reads::default();
    for context in 1..=10 {
        reads.forget_asked(NodeId(2));
        reads.add(context, Some(NodeId(2)), Index(1));
        reads.round += 1;
        let contexts: Vec<u64> = reads.waiting.iter().map(|read| read.context).collect();
        assert_eq!(contexts, if context == 1 { alloc::vec![1] } else { alloc::vec![1, context] });
    }
}

fn step(protocol: &mut Protocol, log: &MemoryLog, event: event::Event) -> Vec<Action> {
    let mut actions = Vec::new();
    protocol.step(log, event, &mut actions).expect("it is not refused");
    actions
}

fn receive(from: u64, to: u64, message: Message) -> event::Event {
    event::Event::Receive(Envelope { from: NodeId(from), to: NodeId(to), message })
}

/// Node 2 follows node 1 in term 1, with one entry of which it does not know yet that it is durable; read 7 waits.
fn follower() -> (Protocol, MemoryLog) {
    let log = MemoryLog::new();
    let mut protocol = Protocol::new(&RaftConfig::new(2, [1, 2, 3]), &log).expect("a valid configuration");
    let append = |prev, entries| {
        let (commit, session) = (Index::ZERO, Index::ZERO);
        let request = AppendEntriesRequest {
            acknowledged: Default::default(),
            disk: Default::default(),
            history: None,
            term: Term(1),
            prev,
            entries,
            commit,
            session,
        };
        receive(1, 2, Message::AppendEntriesRequest(request))
    };
    step(&mut protocol, &log, append(EntryId::ZERO, Entries::default()));
    step(&mut protocol, &log, event::Event::Persisted { writes: 1 });
    let noop = Entry { id: EntryId::new(1, 1), payload: Payload::Noop };
    step(&mut protocol, &log, append(EntryId::ZERO, Entries::one(noop)));
    step(&mut protocol, &log, event::Event::FollowerReadRequest { context: 7 });
    (protocol, log)
}

#[test]
fn an_answer_counts_from_the_own_leader_and_with_what_this_server_holds() {
    let (mut protocol, log) = follower();
    let before = protocol.clone();
    let answer = |from, term, commit| {
        let response = ReadIndexResponse { term: Term(term), context: 7, index: Index(1), commit: Index(commit) };
        receive(from, 2, Message::ReadIndexResponse(response))
    };
    // The entry is on its way to the disk: its leader cannot know that it is there.
    let reason = PeerMisbehaved::CommittedUnheld { index: Index(1) };
    assert_eq!(step(&mut protocol, &log, answer(1, 1, 1)), [Action::Misbehaved { peer: NodeId(1), reason }]);
    let reason = PeerMisbehaved::SecondLeader { term: Term(1), leader: NodeId(1) };
    assert_eq!(step(&mut protocol, &log, answer(3, 1, 0)), [Action::Misbehaved { peer: NodeId(3), reason }]);
    assert_eq!(protocol, before, "nothing of it counts");
    let ready = Action::ReadReady { context: 7, index: Index(1) };
    assert_eq!(step(&mut protocol, &log, answer(1, 1, 0)), [ready]);
    assert_eq!(step(&mut protocol, &log, answer(1, 1, 0)), [], "nothing waits for it any more");
}

/// The leader answers with what is committed of what the follower is known to hold, and answers no stranger.
#[test]
fn an_answer_says_no_more_committed_than_the_reader_holds() {
    let (log, term) = (MemoryLog::new(), Term(1));
    let mut config = RaftConfig::new(1, [1, 2, 3]);
    config.pre_vote = false;
    let mut protocol = Protocol::new(&config, &log).expect("a valid configuration");
    step(&mut protocol, &log, event::Event::ElectionTimeout);
    step(&mut protocol, &log, event::Event::Persisted { writes: 1 });
    let granted = Message::RequestVoteResponse(RequestVoteResponse { term, granted: true });
    step(&mut protocol, &log, receive(3, 1, granted));
    step(&mut protocol, &log, event::Event::Persisted { writes: 1 });
    let result = AppendResult::Accepted { match_index: Index(1) };
    let acknowledged =
        Message::AppendEntriesResponse(AppendEntriesResponse { disk: Default::default(), term, result, session: None });
    step(&mut protocol, &log, receive(3, 1, acknowledged));
    assert_eq!(protocol.commit_index(), Index(1));
    for (reader, commit) in [(2, 0), (3, 1)] {
        let question = Message::ReadIndexRequest(ReadIndexRequest { term, context: 5 });
        let asked = step(&mut protocol, &log, receive(reader, 1, question));
        assert_eq!(asked.len(), 2, "a question to each of the others");
        let round = protocol.state().read_round;
        let confirmed = Message::ConfirmLeaderResponse(ConfirmLeaderResponse { term, leader_term: term, round });
        let sent = step(&mut protocol, &log, receive(3, 1, confirmed));
        let (index, commit) = (Index(1), Index(commit));
        let message = Message::ReadIndexResponse(ReadIndexResponse { term, context: 5, index, commit });
        assert_eq!(sent, [Action::Send(Envelope { from: NodeId(1), to: NodeId(reader), message })]);
    }
    let question = Message::ReadIndexRequest(ReadIndexRequest { term, context: 5 });
    assert_eq!(step(&mut protocol, &log, receive(9, 1, question)), [], "a stranger");
}
