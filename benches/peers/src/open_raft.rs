//! openraft 0.9: its tasks on one single-threaded tokio runtime, with channels where the others have function calls.

use crate::contender::{Client, Cluster};
use crate::in_memory::Sum;
use bytes::Bytes;
use openraft::error::{InstallSnapshotError, RPCError, RaftError, RemoteError};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use openraft::storage::{LogFlushed, LogState, RaftLogReader, RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{
    BasicNode, Config, Entry, EntryPayload, LogId, OptionalSend, Raft, Snapshot, SnapshotMeta, SnapshotPolicy,
    StorageError, StoredMembership, Vote,
};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::Cursor;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::runtime::Runtime;

openraft::declare_raft_types!(
    pub Types:
        D = Bytes,
        R = (),
);

type Failure = StorageError<u64>;

#[derive(Default)]
struct Data {
    vote: Option<Vote<u64>>,
    /// The first has index 0.
    entries: Vec<Entry<Types>>,
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Data>>);

impl Log {
    fn data(&self) -> MutexGuard<'_, Data> {
        self.0.lock().expect("no panic while locked")
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry<Types>>, Failure> {
        let data = self.data();
        let first = match range.start_bound() {
            Bound::Included(first) => *first as usize,
            Bound::Excluded(before) => *before as usize + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => *last as usize + 1,
            Bound::Excluded(end) => *end as usize,
            Bound::Unbounded => usize::MAX,
        };
        let end = end.min(data.entries.len());
        Ok(data.entries[first.min(end)..end].to_vec())
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, Failure> {
        Ok(LogState { last_purged_log_id: None, last_log_id: self.data().entries.last().map(|entry| entry.log_id) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), Failure> {
        self.data().vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, Failure> {
        Ok(self.data().vote)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), Failure>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.data().entries.extend(entries);
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId<u64>) -> Result<(), Failure> {
        self.data().entries.truncate(log_id.index as usize);
        Ok(())
    }

    async fn purge(&mut self, _log_id: LogId<u64>) -> Result<(), Failure> {
        Ok(())
    }
}

#[derive(Clone, Default)]
struct Machine {
    sum: Arc<Mutex<Sum>>,
    applied: Option<LogId<u64>>,
    membership: StoredMembership<u64, BasicNode>,
}

impl Machine {
    fn snapshot(&self) -> Snapshot<Types> {
        let meta = SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
            snapshot_id: String::from("sum"),
        };
        Snapshot { meta, snapshot: Box::new(Cursor::new(Vec::new())) }
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, Failure> {
        Ok(self.snapshot())
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId<u64>>, StoredMembership<u64, BasicNode>), Failure> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<()>, Failure>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut sum = self.sum.lock().expect("no panic while locked");
        let mut responses = Vec::new();
        for entry in entries {
            self.applied = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Normal(command) => sum.apply(&command),
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                }
                EntryPayload::Blank => {}
            }
            responses.push(());
        }
        Ok(responses)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, Failure> {
        Ok(Box::new(Cursor::new(Vec::new())))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, BasicNode>,
        _snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), Failure> {
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, Failure> {
        Ok(None)
    }
}

/// Every node of the cluster, to be called directly.
#[derive(Clone, Default)]
struct Router(Arc<Mutex<BTreeMap<u64, Raft<Types>>>>);

struct Connection {
    target: u64,
    raft: Raft<Types>,
}

impl RaftNetworkFactory<Types> for Router {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, _node: &BasicNode) -> Connection {
        let nodes = self.0.lock().expect("no panic while locked");
        Connection { target, raft: nodes[&target].clone() }
    }
}

type CallError<E = openraft::error::Infallible> = RPCError<u64, BasicNode, RaftError<u64, E>>;

impl RaftNetwork<Types> for Connection {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, CallError> {
        let answer = self.raft.append_entries(request).await;
        answer.map_err(|error| RPCError::RemoteError(RemoteError::new(self.target, error)))
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<Types>,
        _option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, CallError<InstallSnapshotError>> {
        let answer = self.raft.install_snapshot(request).await;
        answer.map_err(|error| RPCError::RemoteError(RemoteError::new(self.target, error)))
    }

    async fn vote(&mut self, request: VoteRequest<u64>, _option: RPCOption) -> Result<VoteResponse<u64>, CallError> {
        let answer = self.raft.vote(request).await;
        answer.map_err(|error| RPCError::RemoteError(RemoteError::new(self.target, error)))
    }
}

/// A cluster of openraft.
pub struct OpenRaft {
    runtime: Runtime,
    nodes: Vec<Raft<Types>>,
    sums: Vec<Arc<Mutex<Sum>>>,
    client: Client,
}

impl OpenRaft {
    /// A cluster whose first node leads.
    pub fn new(nodes: u64) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let config = Config {
            // No timer fires during a measurement, also not under valgrind.
            heartbeat_interval: 60_000,
            election_timeout_min: 300_000,
            election_timeout_max: 600_000,
            max_payload_entries: 4096,
            snapshot_policy: SnapshotPolicy::Never,
            ..Config::default()
        };
        let config = Arc::new(config.validate().expect("a valid configuration"));
        let router = Router::default();
        let mut cluster = Self { runtime, nodes: Vec::new(), sums: Vec::new(), client: Client::default() };
        for id in 1..=nodes {
            let machine = Machine::default();
            cluster.sums.push(Arc::clone(&machine.sum));
            let raft = Raft::new(id, Arc::clone(&config), router.clone(), Log::default(), machine);
            let raft = cluster.runtime.block_on(raft).expect("a node");
            router.0.lock().expect("no panic while locked").insert(id, raft.clone());
            cluster.nodes.push(raft);
        }
        let members: BTreeMap<u64, BasicNode> = (1..=nodes).map(|id| (id, BasicNode::default())).collect();
        let first = &cluster.nodes[0];
        cluster.runtime.block_on(async {
            first.initialize(members).await.expect("a fresh cluster");
            let wait = first.wait(Some(Duration::from_secs(60)));
            wait.current_leader(1, "the first node leads").await.expect("a leader");
        });
        cluster
    }
}

impl Cluster for OpenRaft {
    fn commit(&mut self, batch: usize) {
        let leader = &self.nodes[0];
        let client = &mut self.client;
        self.runtime.block_on(async {
            let mut answers = Vec::with_capacity(batch);
            for _ in 0..batch {
                let command = Bytes::from(client.command());
                answers.push(leader.client_write_ff(command).await.expect("the leader takes proposals"));
            }
            for answer in answers {
                answer.await.expect("an answer").expect("applied");
            }
        });
    }

    fn settle(&mut self) {
        self.runtime.block_on(async {
            // The first two entries are the membership and the leader's blank one, from index 0 on.
            let applied = Some(self.client.made() + 1);
            for node in &self.nodes {
                let wait = node.wait(Some(Duration::from_secs(60)));
                wait.applied_index_at_least(applied, "everything is applied").await.expect("the others follow");
            }
        });
    }

    fn applied(&self) -> Vec<Sum> {
        self.sums.iter().map(|sum| *sum.lock().expect("no panic while locked")).collect()
    }
}

impl Drop for OpenRaft {
    fn drop(&mut self) {
        for node in &self.nodes {
            // A node that already stopped is as good.
            let _ = self.runtime.block_on(node.shutdown());
        }
    }
}
