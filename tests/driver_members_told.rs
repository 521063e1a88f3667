//! What the driver tells its transport of who belongs to the cluster.

#![cfg(feature = "std")]

use bytes::Bytes;
use raft_io::driver::{Raft, StateMachine};
use raft_io::log::Locked;
use raft_io::message::AppendEntriesRequest;
use raft_io::transport::{RaftTransport, Receiver};
use raft_io::{
    Entry, EntryId, Envelope, GroupId, Index, Membership, MemoryLog, Message, NodeId, Payload, RaftConfig, Term,
};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

type Told = BTreeMap<NodeId, Option<String>>;

/// Sends nothing, and writes down what it is told.
#[derive(Clone, Default)]
struct Listener {
    receiver: Arc<Mutex<Option<Arc<dyn Receiver>>>>,
    told: Arc<Mutex<Vec<Told>>>,
}

impl RaftTransport for Listener {
    fn start(&self, receiver: Arc<dyn Receiver>) {
        *self.receiver.lock().unwrap() = Some(receiver);
    }

    fn send(&self, _group: GroupId, _envelope: Envelope) {}

    fn members(&self, _group: GroupId, members: &Told) {
        self.told.lock().unwrap().push(members.clone());
    }

    fn shutdown(&self) {}
}

struct Nothing;

impl StateMachine for Nothing {
    type Response = ();

    fn apply(&mut self, _id: EntryId, _command: &Bytes) {}
}

/// A later leader's configuration came to stand at the index of an earlier one's. The transport was not told, and when the
/// follower led next it knew no way to the new member until that was committed.
#[test]
fn a_configuration_that_replaces_another_at_its_index_is_told() {
    let listener = Listener::default();
    let config = RaftConfig::new(2, [1, 2, 3]);
    let raft = Raft::start(config, Locked::new(MemoryLog::new()), listener.clone(), Nothing).unwrap();
    let receiver = listener.receiver.lock().unwrap().clone().expect("it was started");
    let append = |leader: u64, term: u64, membership: Membership, commit: u64| {
        let noop = Entry { id: EntryId::new(1, term), payload: Payload::Noop };
        let change = Entry { id: EntryId::new(2, term), payload: Payload::Membership(Arc::new(membership)) };
        let (entries, commit) = ([noop, change].into_iter().collect(), Index(commit));
        let request = AppendEntriesRequest {
            acknowledged: Default::default(),
            disk: Default::default(),
            history: None,
            term: Term(term),
            prev: EntryId::ZERO,
            entries,
            commit,
            session: raft_io::Index::ZERO,
        };
        let message = Message::AppendEntriesRequest(request);
        receiver.receive(GroupId(0), Envelope { from: NodeId(leader), to: NodeId(2), message });
    };
    let three = Membership::new([1, 2, 3_u64]);
    append(1, 1, three.with_learner(6).with_address(6, "six:1"), 0);
    append(3, 2, three.with_learner(7).with_address(7, "seven:1"), 1);
    let in_force = |membership: &Membership| membership.contains(NodeId(7));
    raft.wait_for(Duration::from_secs(10), |status| in_force(&status.membership.in_force)).unwrap();
    let told = listener.told.lock().unwrap().last().cloned().expect("it was told");
    assert_eq!(told.get(&NodeId(7)), Some(&Some("seven:1".to_string())), "{told:?}");
    assert!(!told.contains_key(&NodeId(6)), "{told:?}");
    raft.shutdown();
}
