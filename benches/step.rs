//! What one step costs, for each kind of event, in a cluster of three.
//!
//! Each measurement steps a copy of a prepared node; making and dropping the copy is not measured.

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use raft_io::message::{
    AppendEntriesRequest, AppendEntriesResponse, AppendResult, PreVoteRequest, PreVoteResponse, RequestVoteRequest,
    RequestVoteResponse,
};
use raft_io::types::Payload;
use raft_io::{
    Action, Entries, Entry, EntryId, Envelope, Event, Index, MemoryLog, Message, NodeId, Protocol, RaftConfig, RaftLog,
    RoleKind, Term,
};
use std::hint::black_box;

/// One node and the log beneath it.
#[derive(Clone)]
struct Node {
    protocol: Protocol,
    log: MemoryLog,
    actions: Vec<Action>,
}

impl Node {
    fn follower() -> Self {
        let log = MemoryLog::new();
        let protocol = Protocol::new(&RaftConfig::new(1, [1, 2, 3]), &log).expect("a valid configuration");
        Self { protocol, log, actions: Vec::with_capacity(16) }
    }

    /// A candidate that lacks one vote.
    fn candidate() -> Self {
        let mut node = Self::follower();
        node.settle(Event::ElectionTimeout);
        let granted = PreVoteResponse { term: Term(0), campaign_term: Term(1), granted: true };
        node.settle(receive(Message::PreVoteResponse(granted)));
        assert_eq!(node.protocol.role(), RoleKind::Candidate);
        node
    }

    /// A leader whose followers hold everything.
    fn leader() -> Self {
        let mut node = Self::candidate();
        node.settle(receive(vote_granted()));
        assert_eq!(node.protocol.role(), RoleKind::Leader);
        node.settle(accepted(2, 1));
        node.settle(accepted(3, 1));
        node
    }

    /// A follower that has heard its leader.
    fn following() -> Self {
        let mut node = Self::follower();
        node.settle(append(EntryId::ZERO, 1, 0));
        assert_eq!(node.protocol.leader(), Some(NodeId(2)));
        node
    }

    fn step(&mut self, event: Event) {
        self.protocol.step(&self.log, event, &mut self.actions).expect("the event is in order");
    }

    /// Steps, and makes what comes of it durable.
    fn settle(&mut self, event: Event) {
        self.step(event);
        while self.persist() {
            let writes = self.protocol.writes_in_flight();
            self.step(Event::Persisted { writes });
        }
    }

    /// Takes the actions; whether there was a write among them, which the log now holds.
    fn persist(&mut self) -> bool {
        let writes = self.actions.drain(..).filter_map(|action| match action {
            Action::Persist(write) => Some(write),
            _ => None,
        });
        let mut writes: Vec<_> = writes.collect();
        let any = !writes.is_empty();
        let Ok(()) = self.log.append(&mut writes);
        any
    }

    /// The same, after this event and with its writes in the log, but not yet reported.
    fn after(mut self, event: Event) -> Self {
        self.step(event);
        assert!(self.persist(), "the event leads to a write");
        self
    }
}

fn receive_from(from: u64, message: Message) -> Event {
    Event::Receive(Envelope { from: NodeId(from), to: NodeId(1), message })
}

fn receive(message: Message) -> Event {
    receive_from(2, message)
}

fn command() -> Bytes {
    Bytes::from_static(&[7; 64])
}

fn vote_granted() -> Message {
    Message::RequestVoteResponse(RequestVoteResponse { term: Term(1), granted: true })
}

fn accepted(from: u64, match_index: u64) -> Event {
    let result = AppendResult::Accepted { match_index: Index(match_index) };
    receive_from(
        from,
        Message::AppendEntriesResponse(AppendEntriesResponse {
            disk: Default::default(),
            term: Term(1),
            result,
            session: Some(Index::ZERO),
        }),
    )
}

/// An append of `count` commands after `prev`, by node 2, the leader of term 1.
fn append(prev: EntryId, count: usize, commit: u64) -> Event {
    let entry = |position: usize| Entry {
        id: EntryId { index: prev.index.plus(position + 1), term: Term(1) },
        payload: Payload::Command(command()),
    };
    let entries: Entries = (0..count).map(entry).collect();
    receive(Message::AppendEntriesRequest(AppendEntriesRequest {
        acknowledged: Default::default(),
        disk: Default::default(),
        history: None,
        session: Index::ZERO,
        term: Term(1),
        prev,
        entries,
        commit: Index(commit),
    }))
}

fn step(criterion: &mut Criterion) {
    let last = EntryId::new(1, 1);
    let pre_vote = PreVoteRequest { term: Term(1), campaign_term: Term(2), last };
    let vote = RequestVoteRequest { term: Term(1), last, leadership_transfer: false };
    let granted = PreVoteResponse { term: Term(0), campaign_term: Term(1), granted: true };
    let mut pre_candidate = Node::follower();
    pre_candidate.settle(Event::ElectionTimeout);
    assert_eq!(pre_candidate.protocol.role(), RoleKind::PreCandidate);
    let mut refuser = Node::following();
    refuser.settle(Event::MinimumElectionTimeout);
    let proposed = Node::leader().after(Event::Propose(command()));
    let mut durable = proposed.clone();
    durable.step(Event::Persisted { writes: 1 });
    durable.actions.clear();
    let appended = Node::following().after(append(last, 1, 1));
    let rows: Vec<(&str, Node, Event)> = vec![
        ("election_timeout", Node::follower(), Event::ElectionTimeout),
        ("minimum_election_timeout", Node::following(), Event::MinimumElectionTimeout),
        ("heartbeat_timeout", Node::leader(), Event::HeartbeatTimeout),
        ("quorum_check_timeout", Node::leader(), Event::QuorumCheckTimeout),
        ("handle_pre_vote_request", refuser, receive_from(3, Message::PreVoteRequest(pre_vote))),
        ("handle_pre_vote_response", pre_candidate, receive(Message::PreVoteResponse(granted))),
        ("handle_request_vote_request", Node::follower(), receive(Message::RequestVoteRequest(vote))),
        ("handle_request_vote_response", Node::candidate(), receive(vote_granted())),
        ("handle_append_entries_request/heartbeat", Node::following(), append(last, 0, 1)),
        ("handle_append_entries_request/1_entry", Node::following(), append(last, 1, 1)),
        ("handle_append_entries_request/256_entries", Node::following(), append(last, 256, 1)),
        ("handle_append_entries_response/commits", durable, accepted(2, 2)),
        ("handle_append_entries_response/repeated", Node::leader(), accepted(2, 1)),
        ("client_request/1", Node::leader(), Event::Propose(command())),
        ("client_request/256", Node::leader(), Event::ProposeBatch(vec![command(); 256])),
        ("persisted/leader", proposed, Event::Persisted { writes: 1 }),
        ("persisted/follower", appended, Event::Persisted { writes: 1 }),
    ];
    let mut group = criterion.benchmark_group("step");
    for (name, node, event) in rows {
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(
                || (node.clone(), Some(event.clone())),
                |(node, event)| {
                    let event = event.take().expect("each copy is stepped once");
                    node.step(black_box(event));
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, step);
criterion_main!(benches);
