//! What concerns the driver alone and not the protocol.

use crate::error::ConfigProblem;
use crate::snapshot::SnapshotStore;
use crate::types::GroupId;
use std::fmt;
use std::ops::Deref;
use std::string::ToString;
use std::sync::Arc;
use std::time::Duration;
use std::vec::Vec;

/// The driver's own limits; the defaults suit a server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct DriverOptions {
    /// The group whose messages this node sends and takes. Default 0.
    pub group: GroupId,
    /// Whether several members may have one address: something between them tells by other means who is meant. Default
    /// false: such a configuration is refused, at the start and in a change.
    pub shared_addresses: bool,
    /// The most proposals without an answer, at least 1; further ones are `Overloaded`. Default
    /// 65,536.
    pub proposals_max: usize,
    /// The most linearizable reads without an answer, at least 1; further ones are `Overloaded`.
    /// Default 65,536.
    pub reads_max: usize,
    /// What the apply thread reads from the log at once, in bytes, at least 1. Default 1 MiB.
    pub apply_bytes_max: usize,
    /// The most cold reads for lagging followers that wait for the reader thread, at least 1;
    /// further ones are dropped, which Raft repairs like any lost message. Default 64.
    pub cold_reads_max: usize,
    /// How long a shutdown waits for open requests before it answers proposals `OutcomeUnknown` and
    /// reads `Shutdown`. Default 1 s.
    pub drain_timeout: Duration,
    /// How long a leader waits for its log's disk before it leads no more, so that a server whose disk works can take over;
    /// a leader that cannot write applies nothing and answers nobody. Longer than zero. Default 2 s.
    pub disk_stall_max: Duration,
    /// Where this node keeps its snapshots. Default `None`: it takes none, its log only grows, and it
    /// cannot catch up with a leader whose log no longer holds what it needs. Held until the last handle
    /// to the node is dropped.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub snapshots: Option<Snapshots>,
    /// A snapshot is due once so many entries were applied since the last one, at least 1; or when
    /// `snapshot_bytes` says so, if that comes first. Default 100,000.
    pub snapshot_entries: usize,
    /// A snapshot is due once the entries applied since the last one have so many bytes, at least 1.
    /// It bounds the log on the disk, which a number of entries alone does not. Default 256 MiB.
    pub snapshot_bytes: u64,
    /// How many entries the log keeps behind a snapshot, for followers that are a little behind.
    /// Default 10,000.
    pub snapshot_trail_entries: usize,
    /// How many bytes of entries it keeps there at most. It never keeps more than the snapshot has (1 MiB, if the snapshot
    /// is smaller): a follower that lacks more is better served by the snapshot. It keeps none while the log is short of
    /// space. Default 64 MiB.
    pub snapshot_trail_bytes: u64,
    /// How many bytes of entries it keeps behind a snapshot at most, for peers that fetch an earlier one: what follows that
    /// is kept until they have it, else they would begin anew where snapshots are due faster than they fetch. Compared
    /// whenever a snapshot is taken. On a disk without space nothing is kept for them. 0: nothing ever is. As many
    /// bytes, counted apart, have the older snapshots that the store keeps for backups ([`Raft::backup`](super::Raft::backup)).
    /// Default 1 GiB.
    pub snapshot_hold_bytes: u64,
    /// How long a peer of whom a chunk of a snapshot was asked may be silent before it is asked
    /// again; longer than zero. A chunk that keeps coming may take longer. Default 10 s.
    pub snapshot_chunk_timeout: Duration,
    /// The most that is fetched of a snapshot, in bytes per second, at least 1. Default `None`: as
    /// fast as it comes.
    pub snapshot_fetch_bytes_per_second: Option<u64>,
    /// Where every step is recorded, for `raft-model trace` to validate. Default `None`: nowhere. A trace that cannot be
    /// written ends; the node goes on, and its status says why.
    #[cfg(feature = "trace")]
    pub trace: Option<crate::trace::TraceOptions>,
}

impl Default for DriverOptions {
    fn default() -> Self {
        Self {
            group: GroupId(0),
            shared_addresses: false,
            proposals_max: 65_536,
            reads_max: 65_536,
            apply_bytes_max: 1 << 20,
            cold_reads_max: 64,
            drain_timeout: Duration::from_secs(1),
            disk_stall_max: Duration::from_secs(2),
            snapshots: None,
            snapshot_entries: 100_000,
            snapshot_bytes: 256 << 20,
            snapshot_trail_entries: 10_000,
            snapshot_trail_bytes: 64 << 20,
            snapshot_hold_bytes: 1 << 30,
            snapshot_chunk_timeout: Duration::from_secs(10),
            snapshot_fetch_bytes_per_second: None,
            #[cfg(feature = "trace")]
            trace: None,
        }
    }
}

impl DriverOptions {
    /// Every broken rule.
    pub(super) fn problems(&self) -> Vec<ConfigProblem> {
        let at_least_1 = [
            ("proposals_max", self.proposals_max as u64),
            ("reads_max", self.reads_max as u64),
            ("apply_bytes_max", self.apply_bytes_max as u64),
            ("cold_reads_max", self.cold_reads_max as u64),
            ("snapshot_entries", self.snapshot_entries as u64),
            ("snapshot_bytes", self.snapshot_bytes),
            ("snapshot_fetch_bytes_per_second", self.snapshot_fetch_bytes_per_second.unwrap_or(1)),
        ];
        let broken = at_least_1.into_iter().filter(|&(_, value)| value == 0);
        let mut problems: Vec<ConfigProblem> = broken
            .map(|(field, value)| ConfigProblem { field, value: value.to_string(), rule: "must be at least 1" })
            .collect();
        let longer_than_zero =
            [("snapshot_chunk_timeout", self.snapshot_chunk_timeout), ("disk_stall_max", self.disk_stall_max)];
        for (field, _) in longer_than_zero.into_iter().filter(|(_, value)| value.is_zero()) {
            problems.push(ConfigProblem { field, value: "0".to_string(), rule: "must be longer than zero" });
        }
        problems
    }
}

/// A store of snapshots, shared with whoever else holds it.
#[derive(Clone)]
pub struct Snapshots(Arc<dyn SnapshotStore>);

impl Snapshots {
    /// Makes a store one that a node can be given.
    pub fn new(store: impl SnapshotStore) -> Self {
        Self(Arc::new(store))
    }
}

impl From<Arc<dyn SnapshotStore>> for Snapshots {
    fn from(store: Arc<dyn SnapshotStore>) -> Self {
        Self(store)
    }
}

impl Deref for Snapshots {
    type Target = dyn SnapshotStore;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

/// Two are equal if they are the same store.
impl PartialEq for Snapshots {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Snapshots {}

impl fmt::Debug for Snapshots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Snapshots").field(&self.list()).finish()
    }
}
