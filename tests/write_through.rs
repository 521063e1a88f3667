//! A log that is written within the step against one that is written after it: the same servers, the same messages.
//!
//! The model and the simulator step the protocol with every write in flight. That a sink which makes its writes durable
//! on the spot leads nowhere else is shown here: in random schedules each step with such a sink equals the step
//! without it and the steps of `Persisted` that follow.

use raft_io::log::{Memberships, Read};
use raft_io::node::NodeError;
use raft_io::{
    Action, ActionSink, Durable, Entry, EntryId, Envelope, Event, HardState, Index, LogView, MemoryLog, NodeId,
    Protocol, RaftConfig, RaftLog, RaftNode, RoleKind, Term, Write, WriteThrough,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A small generator, so that a seed names a schedule for ever.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % bound as u64) as usize
    }
}

struct Sink<'a, 'log, L: RaftLog> {
    log: &'a WriteThrough<'log, L>,
    actions: Vec<Action>,
}

impl<L: RaftLog> ActionSink for Sink<'_, '_, L> {
    fn push(&mut self, action: Action) {
        self.actions.push(action);
    }

    fn persist(&mut self, write: Write) -> Option<Durable> {
        self.log.write(write)
    }
}

/// One server, twice.
#[derive(Clone)]
struct Twins {
    after: (Protocol, MemoryLog),
    within: (Protocol, MemoryLog),
}

impl Twins {
    fn new(config: &RaftConfig) -> Self {
        let log = MemoryLog::new();
        let one = (Protocol::new(config, &log).expect("a valid configuration"), log);
        Self { after: one.clone(), within: one }
    }

    /// Steps both with the same event, checks that they are and say the same, and returns what they send.
    fn step(&mut self, event: &Event, context: &str) -> Vec<Envelope> {
        let after = Said::of(step_then_write(&mut self.after, event));
        let within = Said::of(step_and_write(&mut self.within, event));
        assert_eq!(after, within, "{context}");
        assert_eq!(self.after, self.within, "{context}");
        within.sent
    }
}

/// What came out of a step, in order; in what order the three kinds alternate is free.
#[derive(Debug, Default, PartialEq)]
struct Said {
    sent: Vec<Envelope>,
    /// The last position. On the way there may be a stop at what was durable before.
    apply: Option<Index>,
    others: Vec<Action>,
}

impl Said {
    fn of(actions: Vec<Action>) -> Self {
        let mut said = Self::default();
        for action in actions {
            match action {
                Action::Send(envelope) => said.sent.push(envelope),
                Action::Apply { through } => said.apply = Some(through),
                other => said.others.push(other),
            }
        }
        said
    }
}

fn step_then_write((protocol, log): &mut (Protocol, MemoryLog), event: &Event) -> Vec<Action> {
    let mut all = Vec::new();
    let mut next = Some(event.clone());
    while let Some(event) = next.take() {
        let mut actions = Vec::new();
        let _refused = protocol.step(log, event, &mut actions);
        let mut writes = Vec::new();
        for action in actions {
            if let Action::Persist(write) = action { writes.push(write) } else { all.push(action) }
        }
        if !writes.is_empty() {
            next = Some(Event::Persisted { writes: writes.len() });
            let Ok(()) = log.append(&mut writes);
        }
    }
    all
}

fn step_and_write((protocol, log): &mut (Protocol, MemoryLog), event: &Event) -> Vec<Action> {
    let mut buffer = Vec::new();
    let log = WriteThrough::new(log, &mut buffer);
    let mut sink = Sink { log: &log, actions: Vec::new() };
    let _refused = protocol.step(&log, event.clone(), &mut sink);
    let actions = sink.actions;
    let Ok(()) = log.finish();
    actions
}

fn schedule(voters: u64, seed: u64, reached: &mut BTreeMap<&'static str, usize>) {
    let configs = (1..=voters).map(|id| {
        let mut config = RaftConfig::new(id, 1..=voters);
        (config.pre_vote, config.check_quorum) = (seed % 2 == 0, seed % 3 == 0);
        (config.append_bytes_max, config.inflight_messages_max) = (40, 2);
        config
    });
    let mut servers: Vec<Twins> = configs.map(|config| Twins::new(&config)).collect();
    let mut network: Vec<Envelope> = Vec::new();
    let mut random = Random(seed);
    for step in 0..400 {
        let at = random.below(servers.len());
        let (at, event) = match random.below(16) {
            0 => (at, Event::ElectionTimeout),
            1 => (at, Event::HeartbeatTimeout),
            2 => (at, Event::MinimumElectionTimeout),
            3 if random.below(4) == 0 => (at, Event::QuorumCheckTimeout),
            4 | 5 => (at, Event::ProposeBatch(vec![vec![0; 16].into(); 1 + random.below(4)])),
            7 => {
                // Whoever leads, if anyone does, so that few are refused.
                let leads = |twins: &Twins| twins.within.0.role() == RoleKind::Leader;
                let at = servers.iter().position(leads).unwrap_or(at);
                let present = servers[at].within.0.membership().settled();
                let of = NodeId(1 + random.below(servers.len()) as u64);
                let target = match random.below(3) {
                    0 => present.with_voter(of),
                    1 => present.with_learner(of),
                    _ => present.with_promotion(of),
                };
                (at, Event::ChangeMembership { target: Arc::new(target) })
            }
            6 if !network.is_empty() => {
                network.remove(random.below(network.len()));
                continue;
            }
            _ if network.is_empty() => continue,
            // Mostly the oldest, so that there is progress; sometimes any, and sometimes it comes again.
            _ => {
                let position = if random.below(3) == 0 { random.below(network.len()) } else { 0 };
                let again = random.below(8) == 0;
                let envelope = if again { network[position].clone() } else { network.remove(position) };
                (envelope.to.0 as usize - 1, Event::Receive(envelope))
            }
        };
        let context = format!("{voters} voters, seed {seed}, step {step}: {event:?} at {}", at + 1);
        network.extend(servers[at].step(&event, &context));
        let (protocol, _) = &servers[at].within;
        assert_eq!(protocol.writes_in_flight(), 0, "{context}");
        *reached.entry(protocol.role().name()).or_default() += 1;
        if protocol.committed_membership().0 > Index::ZERO {
            *reached.entry("another configuration").or_default() += 1;
        }
        if protocol.commit_index() > Index(4) {
            *reached.entry("commit").or_default() += 1;
        }
        if protocol.role() == RoleKind::Leader && protocol.term() > Term(2) {
            *reached.entry("another leader").or_default() += 1;
        }
    }
}

#[test]
fn writing_within_the_step_equals_reporting_after_it() {
    let mut reached = BTreeMap::new();
    for seed in 0..300 {
        schedule([1, 2, 3, 3, 5][seed as usize % 5], seed, &mut reached);
    }
    for goal in
        ["follower", "pre-candidate", "candidate", "leader", "commit", "another leader", "another configuration"]
    {
        assert!(reached.get(goal).is_some_and(|count| *count > 100), "{goal} was reached too rarely: {reached:?}");
    }
}

/// A log in memory that fails from some sync on.
#[derive(Debug, Default)]
struct Failing {
    log: MemoryLog,
    syncs_left: usize,
}

impl LogView for Failing {
    fn hard_state(&self) -> HardState {
        self.log.hard_state()
    }

    fn base(&self) -> EntryId {
        self.log.base()
    }

    fn snapshot(&self) -> EntryId {
        self.log.snapshot()
    }

    fn memberships(&self) -> Memberships {
        self.log.memberships()
    }

    fn last(&self) -> EntryId {
        self.log.last()
    }

    fn term(&self, index: Index) -> Option<Term> {
        self.log.term(index)
    }

    fn read(&self, first: Index, end: Index, bytes_max: usize) -> Read {
        self.log.read(first, end, bytes_max)
    }
}

impl RaftLog for Failing {
    type Error = std::fmt::Error;

    fn append(&mut self, writes: &mut Vec<Write>) -> Result<(), Self::Error> {
        let Ok(()) = self.log.append(writes);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Self::Error> {
        self.syncs_left = self.syncs_left.checked_sub(1).ok_or(std::fmt::Error)?;
        Ok(())
    }

    fn read_blocking(&self, first: Index, end: Index, bytes_max: usize) -> Result<Read, Self::Error> {
        Ok(self.log.read(first, end, bytes_max))
    }
}

/// A vote whose write failed is never sent, and the failure comes out (laws 2 and 6).
#[test]
fn nothing_that_depends_on_a_failed_write_leaves() {
    use raft_io::message::{Message, RequestVoteRequest};
    let request = RequestVoteRequest { term: Term(1), last: EntryId::ZERO, leadership_transfer: false };
    let request = Message::RequestVoteRequest(request);
    for syncs_left in [0, 1] {
        let mut log = Failing { syncs_left, ..Failing::default() };
        let mut protocol = Protocol::new(&RaftConfig::new(1, 1..=3), &log).expect("a valid configuration");
        let mut buffer = Vec::new();
        let through = WriteThrough::new(&mut log, &mut buffer);
        let mut sink = Sink { log: &through, actions: Vec::new() };
        let envelope = Envelope { from: NodeId(2), to: NodeId(1), message: request.clone() };
        protocol.step(&through, Event::Receive(envelope), &mut sink).expect("the event is in order");
        let answered = sink.actions.iter().any(|action| matches!(action, Action::Send(_)));
        assert_eq!(answered, syncs_left == 1);
        assert_eq!(protocol.writes_in_flight(), 1 - syncs_left);
        assert_eq!(through.finish().is_ok(), syncs_left == 1);
    }
}

#[test]
fn a_node_whose_log_fails_stops() {
    let mut node = RaftNode::with_log(RaftConfig::single(1), Failing { syncs_left: 2, ..Failing::default() })
        .expect("a valid configuration");
    while !node.is_leader() {
        node.step(raft_io::node::Event::Tick).expect("two writes go well");
    }
    let propose = || raft_io::node::Event::Propose("x".into());
    assert_eq!(node.step(propose()), Err(NodeError::Log(std::fmt::Error)));
    assert_eq!(node.step(propose()), Err(NodeError::Stopped));
    let entries: Vec<Entry> = node.log().log.iter().cloned().collect();
    assert_eq!(node.applied_index(), Index(1), "of {entries:?} only the no-op is applied");
}
