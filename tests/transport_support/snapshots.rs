//! A receiver that serves snapshots, and fetching them to their end.

use super::Inbox;
use raft_io::snapshot::{Chunk, ChunkRequest, SnapshotInfo, SnapshotReceiver, SnapshotStore};
use raft_io::transport::{FetchError, RaftTransport, Receiver};
use raft_io::{EntryId, Envelope, GroupId, NodeId};
use std::sync::Arc;
use std::time::Duration;

pub(crate) const GROUP: GroupId = GroupId(3);
/// Far longer than any fetch takes that succeeds.
pub(crate) const PATIENT: Duration = Duration::from_secs(20);

/// Serves what a store has, collects messages, and may do something before each answer.
pub(crate) struct Serving<S> {
    pub(crate) store: S,
    messages: Arc<dyn Receiver>,
    before: Box<dyn Fn(NodeId, ChunkRequest) + Send + Sync>,
}

impl<S: SnapshotStore> Serving<S> {
    pub(crate) fn of(store: S, inbox: &Inbox) -> Arc<dyn Receiver> {
        Self::after(store, inbox, |_, _| {})
    }

    pub(crate) fn after(
        store: S,
        inbox: &Inbox,
        before: impl Fn(NodeId, ChunkRequest) + Send + Sync + 'static,
    ) -> Arc<dyn Receiver> {
        Arc::new(Self { store, messages: inbox.receiver(), before: Box::new(before) })
    }
}

impl<S: SnapshotStore> Receiver for Serving<S> {
    fn receive(&self, group: GroupId, envelope: Envelope) {
        self.messages.receive(group, envelope);
    }

    fn snapshot_chunk(&self, group: GroupId, from: NodeId, request: ChunkRequest) -> Option<Chunk> {
        (self.before)(from, request);
        (group == GROUP).then(|| self.store.chunk(request).ok()).flatten()
    }
}

pub(crate) fn fetch(transport: &impl RaftTransport, from: u64, last: EntryId, chunk: u64) -> Result<Chunk, FetchError> {
    transport.fetch_chunk(GROUP, NodeId(from), ChunkRequest { snapshot: last, chunk }, PATIENT)
}

/// Fetches until the snapshot is complete, or `chunks` chunks.
pub(crate) fn fetch_into(
    receiver: &mut dyn SnapshotReceiver,
    transport: &impl RaftTransport,
    from: u64,
    chunks: u64,
) -> Result<Option<SnapshotInfo>, FetchError> {
    for _ in 0..chunks {
        let chunk = transport.fetch_chunk(GROUP, NodeId(from), receiver.next(), PATIENT)?;
        if let Some(info) = receiver.accept(&chunk).unwrap() {
            return Ok(Some(info));
        }
    }
    Ok(None)
}
