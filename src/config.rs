//! The configuration of a node, checked once, as a whole.

use crate::error::{ConfigError, ConfigProblem};
use crate::membership::Membership;
use crate::types::NodeId;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::time::Duration;

/// The configuration of one node of one group.
///
/// Every field has a default that suits a cluster in one data centre; `RaftConfig::new` sets them.
/// Sizes are bytes, timeouts are ticks of the length `tick`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct RaftConfig {
    /// This node's id; one of the members in `membership`, unless that is empty.
    pub id: NodeId,
    /// The configuration that the cluster begins with, the same on all its first servers. A log that knows a later one
    /// prevails. Empty on a server that [joins](RaftConfig::joining).
    pub membership: Membership,
    /// The length of a tick where clocks exist (the driver). Default 50 ms.
    pub tick: Duration,
    /// Heartbeat interval in ticks, at least 1. Default 1.
    pub heartbeat_ticks: u32,
    /// Minimum election timeout in ticks, at least 5 heartbeats; each timeout is drawn uniformly
    /// from `[election_ticks, 2 * election_ticks)` (§3.4). Default 10.
    pub election_ticks: u32,
    /// The seed of this node's random timeouts, mixed with its id. Default 0: a node's timeouts
    /// are reproducible, and differ between nodes.
    pub seed: u64,
    /// Ask before campaigning (§9.6). Default true.
    pub pre_vote: bool,
    /// A leader steps down when no quorum answered for an election timeout, and a node that hears
    /// its leader ignores candidates (§6.2, §4.2.3). Default true.
    pub check_quorum: bool,
    /// The most that one append message carries, though always at least one entry. Default 1 MiB.
    pub append_bytes_max: usize,
    /// The most append messages in flight to one follower. Default 256.
    pub inflight_messages_max: usize,
    /// The most entry bytes in flight to one follower. Default 16 MiB.
    pub inflight_bytes_max: usize,
    /// The most entry bytes that a leader holds uncommitted before it refuses proposals; a single
    /// proposal is accepted whatever its size when nothing is uncommitted. Default 64 MiB.
    pub uncommitted_bytes_max: usize,
    /// The largest command. Default 8 MiB.
    pub command_bytes_max: usize,
}

impl RaftConfig {
    /// A node of a cluster with these voters, with defaults for the rest.
    pub fn new<I>(id: impl Into<NodeId>, voters: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<NodeId>,
    {
        Self {
            id: id.into(),
            membership: Membership::new(voters),
            tick: Duration::from_millis(50),
            heartbeat_ticks: 1,
            election_ticks: 10,
            seed: 0,
            pre_vote: true,
            check_quorum: true,
            append_bytes_max: 1 << 20,
            inflight_messages_max: 256,
            inflight_bytes_max: 16 << 20,
            uncommitted_bytes_max: 64 << 20,
            command_bytes_max: 8 << 20,
        }
    }

    /// A node that joins a cluster which runs: it knows nobody, and is added there (§4.2.1). It never campaigns before the
    /// cluster has given it a vote. The rest as [`RaftConfig::new`].
    pub fn joining(id: impl Into<NodeId>) -> Self {
        Self::new(id, [] as [NodeId; 0])
    }

    /// A cluster of one.
    pub fn single(id: impl Into<NodeId>) -> Self {
        let id = id.into();
        Self::new(id, [id])
    }

    /// Checks every rule.
    ///
    /// # Errors
    /// All broken rules at once, each with field, value and rule.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut problems = Vec::new();
        let mut check = |holds: bool, field: &'static str, value: &dyn ToString, rule: &'static str| {
            if !holds {
                problems.push(ConfigProblem { field, value: value.to_string(), rule });
            }
        };
        let joins = self.membership == Membership::default();
        check(
            joins || !self.membership.is_empty(),
            "membership",
            &self.membership,
            "must name at least one voter, or nobody at all on a server that joins",
        );
        check(!self.membership.is_joint(), "membership", &self.membership, "must not be a joint configuration");
        let is_member = |id| self.membership.contains(id);
        check(
            self.membership.addresses().all(|(id, _)| is_member(id)),
            "membership",
            &self.membership,
            "must give addresses to members only",
        );
        check(
            self.membership.encoded_len() <= Membership::ENCODED_BYTES_MAX,
            "membership",
            &self.membership.encoded_len(),
            "must be at most 48 KiB, encoded",
        );
        check(joins || self.membership.contains(self.id), "id", &self.id, "must be one of the members in membership");
        check(!self.tick.is_zero(), "tick", &"0", "must be longer than zero");
        check(self.heartbeat_ticks >= 1, "heartbeat_ticks", &self.heartbeat_ticks, "must be at least 1");
        check(
            u64::from(self.election_ticks) >= 5 * u64::from(self.heartbeat_ticks),
            "election_ticks",
            &self.election_ticks,
            "must be at least 5 times heartbeat_ticks",
        );
        check(self.election_ticks <= 1 << 24, "election_ticks", &self.election_ticks, "must be at most 2^24");
        check(self.append_bytes_max >= 1, "append_bytes_max", &self.append_bytes_max, "must be at least 1");
        check(
            self.inflight_messages_max >= 1,
            "inflight_messages_max",
            &self.inflight_messages_max,
            "must be at least 1",
        );
        check(
            self.inflight_bytes_max >= self.append_bytes_max,
            "inflight_bytes_max",
            &self.inflight_bytes_max,
            "must be at least append_bytes_max",
        );
        check(self.command_bytes_max >= 1, "command_bytes_max", &self.command_bytes_max, "must be at least 1");
        check(
            self.uncommitted_bytes_max >= self.command_bytes_max,
            "uncommitted_bytes_max",
            &self.uncommitted_bytes_max,
            "must be at least command_bytes_max",
        );
        if problems.is_empty() { Ok(()) } else { Err(ConfigError { problems }) }
    }
}
