//! raft-rs 0.7: `RawNode` on a plain vector, with the ready loop that its documentation asks for.

use crate::contender::{Client, Cluster};
use crate::in_memory::Sum;
use raft::eraftpb::{ConfState, Entry, EntryType, HardState, Message, MessageType, Snapshot};
use raft::{Config, GetEntriesContext, RaftState, RawNode, StateRole, Storage, StorageError};

/// Its own `MemStorage` copies every entry once more than this.
#[derive(Default)]
struct Log {
    hard_state: HardState,
    voters: Vec<u64>,
    /// The first has index 1.
    entries: Vec<Entry>,
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), ConfState::from((self.voters.clone(), Vec::new()))))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let mut entries = self.entries[low as usize - 1..high as usize - 1].to_vec();
        raft::util::limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        match index {
            0 => Ok(0),
            _ => self.entries.get(index as usize - 1).map(|entry| entry.term).ok_or(StorageError::Unavailable.into()),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.entries.len() as u64)
    }

    fn snapshot(&self, _request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        Err(StorageError::SnapshotTemporarilyUnavailable.into())
    }
}

impl Log {
    fn append(&mut self, entries: Vec<Entry>) {
        if let Some(first) = entries.first() {
            self.entries.truncate(first.index as usize - 1);
            self.entries.extend(entries);
        }
    }
}

struct Node {
    raft: RawNode<Log>,
    inbox: Vec<Message>,
    sum: Sum,
}

/// A cluster of raft-rs.
pub struct RaftRs {
    nodes: Vec<Node>,
    client: Client,
    outbox: Vec<Message>,
}

impl RaftRs {
    /// A cluster whose first node leads.
    pub fn new(nodes: u64) -> Self {
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = |id| {
            let config = Config {
                id,
                // The default is one entry per message.
                max_size_per_msg: 1 << 20,
                max_inflight_msgs: 256,
                max_committed_size_per_ready: u64::MAX,
                check_quorum: true,
                pre_vote: true,
                // As with the other two, followers learn of a commit with the next append.
                skip_bcast_commit: true,
                batch_append: true,
                ..Config::default()
            };
            let log = Log { voters: (1..=nodes).collect(), ..Log::default() };
            let raft = RawNode::new(&config, log, &logger).expect("a valid configuration");
            Node { raft, inbox: Vec::new(), sum: Sum::default() }
        };
        let mut cluster =
            Self { nodes: (1..=nodes).map(node).collect(), client: Client::default(), outbox: Vec::new() };
        cluster.nodes[0].raft.campaign().expect("a campaign");
        cluster.run();
        assert_eq!(cluster.nodes[0].raft.raft.state, StateRole::Leader);
        cluster
    }

    /// Every node takes what has arrived and handles one ready for all of it; until nothing is under way.
    fn run(&mut self) {
        let mut busy = true;
        while busy {
            busy = false;
            for at in 0..self.nodes.len() {
                let node = &mut self.nodes[at];
                for message in node.inbox.drain(..) {
                    node.raft.step(message).expect("the message is in order");
                }
                while node.raft.has_ready() {
                    busy = true;
                    node.handle_ready(&mut self.outbox);
                }
                for message in self.outbox.drain(..) {
                    self.nodes[message.to as usize - 1].inbox.push(message);
                }
            }
        }
    }
}

impl Node {
    fn handle_ready(&mut self, outbox: &mut Vec<Message>) {
        let mut ready = self.raft.ready();
        outbox.extend(ready.take_messages());
        self.apply(ready.take_committed_entries());
        let log = self.raft.mut_store();
        log.append(ready.take_entries());
        if let Some(hard_state) = ready.hs() {
            log.hard_state = hard_state.clone();
        }
        outbox.extend(ready.take_persisted_messages());
        let mut light = self.raft.advance(ready);
        if let Some(commit) = light.commit_index() {
            self.raft.mut_store().hard_state.commit = commit;
        }
        outbox.extend(light.take_messages());
        self.apply(light.take_committed_entries());
        self.raft.advance_apply();
    }

    fn apply(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            if entry.get_entry_type() == EntryType::EntryNormal && !entry.data.is_empty() {
                self.sum.apply(&entry.data);
            }
        }
    }
}

impl Cluster for RaftRs {
    fn commit(&mut self, batch: usize) {
        // One proposal message for the batch, so that one append goes to each follower.
        let entries = (0..batch).map(|_| Entry { data: self.client.command(), ..Entry::default() }).collect();
        let mut message = Message { from: 1, to: 1, entries, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        self.nodes[0].raft.raft.step(message).expect("the leader takes proposals");
        self.run();
    }

    fn settle(&mut self) {
        self.nodes[0].raft.ping();
        self.run();
    }

    fn applied(&self) -> Vec<Sum> {
        self.nodes.iter().map(|node| node.sum).collect()
    }
}
