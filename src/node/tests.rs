//! What a node with a log of its own does, step by step.

use super::*;
use crate::log::LogView;

/// A log that kept its entries and lost the vote must not start: the node would vote afresh.
#[test]
fn a_log_without_its_hard_state_does_not_start() {
    let mut log = MemoryLog::new();
    let entries = crate::types::Entries::one(crate::types::Entry { id: EntryId::new(1, 4), payload: Payload::Noop });
    let Ok(()) = log.append(&mut alloc::vec![Write { entries, ..Write::default() }]);
    let error = RaftNode::with_log(RaftConfig::single(1), log).expect_err("term 4 was forgotten");
    assert_eq!(error, RestoreError::HardStateLost { last: EntryId::new(1, 4), term: Term(0) });
}

/// A read that ends without entries would never advance the loop in `apply`.
#[test]
fn a_restarted_node_applies_its_log_again() {
    let mut node = RaftNode::new(RaftConfig::single(1)).expect("a valid configuration");
    while !node.is_leader() {
        node.step(Event::Tick).expect("a memory log does not fail");
    }
    for command in ["a", "b", "c"] {
        let actions = node.step(Event::Propose(command.into())).expect("it leads");
        assert!(actions.iter().any(|action| matches!(action, Action::Apply { .. })), "{actions:?}");
    }
    let mut node = RaftNode::with_log(RaftConfig::single(1), node.into_log()).expect("a valid configuration");
    let mut applied = Vec::new();
    while applied.len() < 3 {
        for action in node.step(Event::Tick).expect("a memory log does not fail") {
            if let Action::Apply { command, .. } = action {
                applied.push(command);
            }
        }
    }
    assert_eq!(applied, ["a", "b", "c"]);
}

/// Sends what `nodes[from]` says to the others, and so on until nobody has anything to say.
fn deliver(nodes: &mut [RaftNode<MemoryLog>], mut actions: Vec<Action>) {
    while !actions.is_empty() {
        let mut next = Vec::new();
        for action in actions {
            let Action::Send(envelope) = action else { continue };
            let to = envelope.to.0 as usize - 1;
            next.extend(nodes[to].step(Event::Receive(envelope)).expect("a memory log does not fail"));
        }
        actions = next;
    }
}

fn reads(actions: &[Action]) -> Vec<(u64, bool)> {
    let ended = actions.iter().filter_map(|action| match action {
        Action::ReadReady { context } => Some((*context, true)),
        Action::ReadAborted { context } => Some((*context, false)),
        _ => None,
    });
    ended.collect()
}

/// A leader whose no-op is in no other log was confirmed all the same, and lost its leadership: its read waited for
/// an index that it might never apply, and the caller for ever.
#[test]
fn a_confirmed_read_ends_with_the_leadership_that_its_index_belongs_to() {
    let node = |id| RaftNode::new(RaftConfig::new(id, [1, 2, 3])).expect("a valid configuration");
    let mut nodes = [node(1), node(2), node(3)];
    while !nodes[0].is_leader() {
        let actions = nodes[0].step(Event::Tick).expect("a memory log does not fail");
        let votes = actions.into_iter().filter(|action| {
            let Action::Send(envelope) = action else { return false };
            !matches!(envelope.message, Message::AppendEntriesRequest(_))
        });
        let mut queue: Vec<Action> = votes.collect();
        while let Some(action) = queue.pop() {
            let Action::Send(envelope) = action else { continue };
            let is_append = matches!(envelope.message, Message::AppendEntriesRequest(_));
            if !is_append {
                let to = envelope.to.0 as usize - 1;
                queue.extend(nodes[to].step(Event::Receive(envelope)).expect("a memory log does not fail"));
            }
        }
    }
    assert_eq!(nodes[0].protocol().commit_index(), Index::ZERO);
    let asked = nodes[0].step(Event::Read { context: 7 }).expect("it leads");
    let Some(Action::Send(question)) = asked.into_iter().next() else { panic!("a question") };
    let answer = nodes[1].step(Event::Receive(question)).expect("a memory log does not fail");
    let answer = answer.into_iter().find(|action| matches!(action, Action::Send(_)));
    let Some(Action::Send(answer)) = answer else { panic!("an answer") };
    let confirmed = nodes[0].step(Event::Receive(answer)).expect("a memory log does not fail");
    assert_eq!(reads(&confirmed), [], "confirmed, and not yet applied");
    let term = nodes[0].protocol().term().next();
    let request = crate::message::ConfirmLeaderRequest { term, round: 1 };
    let envelope = Envelope { from: NodeId(3), to: NodeId(1), message: Message::ConfirmLeaderRequest(request) };
    let deposed = nodes[0].step(Event::Receive(envelope)).expect("a memory log does not fail");
    assert_eq!(reads(&deposed), [(7, false)]);
}

#[test]
fn leadership_is_handed_over_or_kept_after_the_timeout() {
    let node = |id| RaftNode::new(RaftConfig::new(id, [1, 2])).expect("a valid configuration");
    let mut nodes = [node(1), node(2)];
    let target = NodeId(2);
    // Refused while nobody leads, and while the other has not answered since the last check.
    let begin = |nodes: &mut [RaftNode<MemoryLog>]| loop {
        let actions = nodes[0].step(Event::Tick).expect("a memory log does not fail");
        deliver(nodes, actions);
        if let Ok(begun) = nodes[0].step(Event::TransferLeadership { target }) {
            return begun;
        }
    };
    let lost = begin(&mut nodes);
    assert_eq!(lost.len(), 1, "the request to campaign");
    assert!(nodes[0].step(Event::Propose("x".into())).is_err(), "it hands over");
    let mut ended = 0;
    for _ in 0..10 {
        for action in nodes[0].step(Event::Tick).expect("a memory log does not fail") {
            ended += u32::from(action == Action::TransferEnded { target });
        }
    }
    // Nobody answered, so the quorum check ended the leadership in the same tick, or the timeout the transfer.
    assert_eq!(ended + u32::from(!nodes[0].is_leader()), 1);
    let told = begin(&mut nodes);
    deliver(&mut nodes, told);
    assert!(nodes[1].is_leader());
    assert_eq!(nodes[0].protocol().leader(), Some(target));
}

#[test]
fn a_read_is_answered_once_what_was_committed_is_applied() {
    let mut single = RaftNode::new(RaftConfig::single(1)).expect("a valid configuration");
    assert!(single.step(Event::Read { context: 1 }).is_err(), "nobody leads yet");
    while !single.is_leader() {
        single.step(Event::Tick).expect("a memory log does not fail");
    }
    single.step(Event::Propose("x".into())).expect("it leads");
    let actions = single.step(Event::Read { context: 2 }).expect("it leads");
    assert_eq!(reads(&actions), [(2, true)]);
    let node = |id| RaftNode::new(RaftConfig::new(id, [1, 2])).expect("a valid configuration");
    let mut nodes = [node(1), node(2)];
    while !nodes[0].is_leader() {
        let actions = nodes[0].step(Event::Tick).expect("a memory log does not fail");
        deliver(&mut nodes, actions);
    }
    let asked = nodes[0].step(Event::Read { context: 3 }).expect("it leads");
    assert_eq!(reads(&asked), [], "nobody has confirmed it yet");
    let mut ended = Vec::new();
    for action in asked {
        let Action::Send(question) = action else { continue };
        for answer in nodes[1].step(Event::Receive(question)).expect("a memory log does not fail") {
            let Action::Send(answer) = answer else { continue };
            ended.extend(reads(&nodes[0].step(Event::Receive(answer)).expect("a memory log does not fail")));
        }
    }
    assert_eq!(ended, [(3, true)]);
}

fn message(from: u64, to: u64, message: Message) -> Event {
    Event::Receive(Envelope { from: NodeId(from), to: NodeId(to), message })
}

/// Node 2, or learner 4, has the no-op of leader 1 and does not know that it is committed; read 7 is confirmed and waits
/// for it. Read 8 waits for an answer.
fn follower_with_reads(id: u64, priority: u8) -> RaftNode<MemoryLog> {
    use crate::message::{AppendEntriesRequest, ReadIndexRequest, ReadIndexResponse};
    let membership = Membership::new([1, 2, 3]).with_learner(4);
    let config = RaftConfig { membership, priority, ..RaftConfig::new(id, [1, 2, 3]) };
    let mut node = RaftNode::new(config).expect("a valid configuration");
    assert!(node.step(Event::FollowerRead { context: 6 }).is_err(), "no leader is known");
    let (term, noop) = (Term(1), crate::types::Entry { id: EntryId::new(1, 1), payload: Payload::Noop });
    let entries = crate::types::Entries::one(noop);
    let append = AppendEntriesRequest {
        acknowledged: Default::default(),
        disk: Default::default(),
        history: None,
        term,
        prev: EntryId::ZERO,
        entries,
        commit: Index::ZERO,
        session: Index::ZERO,
    };
    node.step(message(1, id, Message::AppendEntriesRequest(append))).expect("a memory log does not fail");
    let asked = node.step(Event::FollowerRead { context: 7 }).expect("it follows");
    let question = Message::ReadIndexRequest(ReadIndexRequest { term, context: 7 });
    assert!(matches!(&asked[..], [Action::Send(Envelope { message, .. })] if *message == question), "{asked:?}");
    let answer = ReadIndexResponse { term, context: 7, index: Index(1), commit: Index::ZERO };
    let answered = node.step(message(1, id, Message::ReadIndexResponse(answer)));
    assert_eq!(reads(&answered.expect("a memory log does not fail")), [], "confirmed, and not yet applied");
    let asked = node.step(Event::FollowerRead { context: 8 }).expect("it follows");
    assert_eq!((reads(&asked), asked.len()), (Vec::new(), 1));
    node
}

#[test]
fn a_followers_read_is_answered_once_its_index_is_applied() {
    use crate::message::ReadIndexResponse;
    for id in [2, 4] {
        let mut node = follower_with_reads(id, 3);
        let answer = ReadIndexResponse { term: Term(1), context: 8, index: Index(1), commit: Index(1) };
        let answered = node.step(message(1, id, Message::ReadIndexResponse(answer)));
        assert_eq!(reads(&answered.expect("a memory log does not fail")), [(7, true), (8, true)]);
        assert_eq!(node.applied_index(), Index(1));
    }
}

/// The next leader's log may never reach the index, whether the read was confirmed or not.
#[test]
fn a_followers_reads_end_with_its_leader() {
    let term = Term(2);
    let of_another = crate::message::ConfirmLeaderRequest { term, round: 1 };
    let candidate = crate::message::RequestVoteRequest { term, last: EntryId::ZERO, leadership_transfer: true };
    for request in [Message::ConfirmLeaderRequest(of_another), Message::RequestVoteRequest(candidate)] {
        for id in [2, 4] {
            let ended = follower_with_reads(id, 3).step(message(3, id, request.clone()));
            let mut ended = reads(&ended.expect("a memory log does not fail"));
            ended.sort_unstable();
            assert_eq!(ended, [(7, false), (8, false)], "{request:?}");
        }
    }
}

/// A learner, and a server of priority 0, keeps its role and its leader when it hears nobody: its reads waited for ever.
#[test]
fn a_followers_reads_end_when_its_leader_is_silent() {
    for (id, priority) in [(2, 3), (2, 0), (4, 3), (4, 0)] {
        let (mut node, mut ended) = (follower_with_reads(id, priority), Vec::new());
        for _ in 0..40 {
            ended.extend(reads(&node.step(Event::Tick).expect("a memory log does not fail")));
        }
        ended.sort_unstable();
        assert_eq!(ended, [(7, false), (8, false)]);
    }
}

/// A log in memory from which so many reads fail, for a reason that passes or not.
struct Flaky {
    log: MemoryLog,
    failures: core::cell::Cell<u32>,
    passes: bool,
}

#[derive(Debug, Error)]
#[error("{}", if *.0 { "too many open files" } else { "the sector is unreadable" })]
struct Failed(bool);

impl LogView for Flaky {
    fn hard_state(&self) -> crate::types::HardState {
        self.log.hard_state()
    }

    fn base(&self) -> EntryId {
        self.log.base()
    }

    fn snapshot(&self) -> EntryId {
        self.log.snapshot()
    }

    fn memberships(&self) -> crate::log::Memberships {
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

impl RaftLog for Flaky {
    type Error = Failed;

    fn append(&mut self, writes: &mut Vec<Write>) -> Result<(), Failed> {
        let Ok(()) = self.log.append(writes);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Failed> {
        Ok(())
    }

    fn read_blocking(&self, first: Index, end: Index, bytes_max: usize) -> Result<Read, Failed> {
        if let Some(left) = self.failures.get().checked_sub(1) {
            self.failures.set(left);
            return Err(Failed(self.passes));
        }
        Ok(self.log.read(first, end, bytes_max))
    }

    fn is_transient(error: &Failed) -> bool {
        error.0
    }
}

/// A node that was once refused a descriptor for reading what it was to apply had stopped for good.
#[test]
fn a_read_that_fails_for_now_is_tried_again_at_the_next_tick() {
    let flaky = |passes| Flaky { log: MemoryLog::new(), failures: 0.into(), passes };
    let mut node = RaftNode::with_log(RaftConfig::single(1), flaky(true)).expect("a valid configuration");
    while !node.is_leader() {
        node.step(Event::Tick).expect("it does not fail yet");
    }
    node.log.failures.set(2);
    let actions = node.step(Event::Propose("x".into())).expect("a failure that passes");
    assert!(!actions.iter().any(|action| matches!(action, Action::Apply { .. })), "{actions:?}");
    assert!(node.step(Event::Tick).expect("the second one").is_empty());
    let actions = node.step(Event::Tick).expect("it works again");
    assert!(matches!(&actions[..], [Action::Apply { command, .. }] if command == "x"), "{actions:?}");
    assert!(node.step(Event::Tick).expect("it is applied once").is_empty());

    // Durable entries that are lost are no such failure.
    let mut node = RaftNode::with_log(RaftConfig::single(1), flaky(false)).expect("a valid configuration");
    while !node.is_leader() {
        node.step(Event::Tick).expect("it does not fail yet");
    }
    node.log.failures.set(1);
    let error = node.step(Event::Propose("x".into())).expect_err("the log has lost it");
    assert!(matches!(error, NodeError::Log(Failed(false))), "{error}");
    assert!(matches!(node.step(Event::Tick), Err(NodeError::Stopped)));
}
