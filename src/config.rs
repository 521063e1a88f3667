//! The configuration of a node, checked once, as a whole.

use crate::error::{ConfigError, ConfigProblem};
use crate::history::HistoryId;
use crate::membership::Membership;
use crate::types::{Entry, NodeId};
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
    /// prevails. Empty on a server that [joins](RaftConfig::joining), and only there.
    pub membership: Membership,
    /// This server joins a cluster that runs: `membership` may be empty. Default false; [`RaftConfig::joining`] sets it.
    #[cfg_attr(feature = "serde", serde(default))]
    pub joins: bool,
    /// The length of a tick where clocks exist (the driver). Default 50 ms.
    pub tick: Duration,
    /// Heartbeat interval in ticks, at least 1. Default 1.
    pub heartbeat_ticks: u32,
    /// Minimum election timeout in ticks, at least 5 heartbeats; each timeout is drawn uniformly
    /// from `[election_ticks, 2 * election_ticks)` (§3.4). Default 10.
    pub election_ticks: u32,
    /// How readily this node campaigns, at most [`RaftConfig::PRIORITY_MAX`]. Each step below that makes it wait another
    /// `election_ticks` before it does, so that of the nodes that could be elected one of the highest priority usually is. 0:
    /// it never campaigns of its own accord, and leads only when leadership is transferred to it; at least one voter must
    /// have another. It changes nothing about who may be elected. Default `PRIORITY_MAX`.
    pub priority: u8,
    /// The seed of this node's random timeouts, mixed with its id. Default 0: a node's timeouts
    /// are reproducible, and differ between nodes.
    pub seed: u64,
    /// Ask before campaigning (§9.6). Default true.
    pub pre_vote: bool,
    /// A leader steps down when no quorum answered for an election timeout, and a node that hears
    /// its leader ignores candidates (§6.2, §4.2.3). Without it a leader takes everybody for alive that answered once: neither
    /// transfers nor changes of the membership are refused for servers that went down since. Default true.
    pub check_quorum: bool,
    /// How long after it asked whether it still leads a leader may answer reads by the answers alone, in ticks: a lease
    /// (§6.4.1). Less than `election_ticks`, needs `check_quorum`. This, `election_ticks` and `tick` must be the same on all nodes:
    /// before any of them changes on one, all programs stop lease reads, and go on with them when it has changed on all. It rests
    /// on clocks: **while no
    /// node's clock runs faster than another's by more than `(election_ticks - 1) / lease_ticks`, such reads are
    /// linearizable; beyond that they may be stale.** Others, which ask anew each time, never are. A node that starts
    /// ignores candidates for a minimum election timeout. Default none: every read asks.
    pub lease_ticks: Option<u32>,
    /// The most that one append message carries, though always at least one entry. Default 1 MiB.
    pub append_bytes_max: usize,
    /// The most entries that one append message carries. The driver lowers it to what its transport carries. Default 65,536.
    #[cfg_attr(feature = "serde", serde(default = "append_entries_max"))]
    pub append_entries_max: usize,
    /// The most append messages in flight to one follower. Default 256.
    pub inflight_messages_max: usize,
    /// The most entry bytes in flight to one follower. Default 16 MiB.
    pub inflight_bytes_max: usize,
    /// The most entry bytes that a leader holds uncommitted before it refuses proposals; a single
    /// proposal is accepted whatever its size when nothing is uncommitted. Default 64 MiB.
    pub uncommitted_bytes_max: usize,
    /// The largest command. Default 8 MiB.
    pub command_bytes_max: usize,
    /// Random bits: the identity of the cluster's [history](crate::History), if this node turns out to be its first leader.
    /// Draw new ones at each start. The driver draws them where there are none. Without them the cluster has no identity
    /// until a node with them leads. Default none.
    pub history: Option<HistoryId>,
}

/// The default of a field that configurations of 0.6 do not have.
const fn append_entries_max() -> usize {
    1 << 16
}

impl RaftConfig {
    /// The highest priority in elections.
    pub const PRIORITY_MAX: u8 = 3;

    /// A node of a cluster with these voters, with defaults for the rest.
    pub fn new<I>(id: impl Into<NodeId>, voters: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<NodeId>,
    {
        Self {
            id: id.into(),
            membership: Membership::new(voters),
            joins: false,
            tick: Duration::from_millis(50),
            heartbeat_ticks: 1,
            election_ticks: 10,
            priority: Self::PRIORITY_MAX,
            seed: 0,
            pre_vote: true,
            check_quorum: true,
            lease_ticks: None,
            append_bytes_max: 1 << 20,
            append_entries_max: append_entries_max(),
            inflight_messages_max: 256,
            inflight_bytes_max: 16 << 20,
            uncommitted_bytes_max: 64 << 20,
            command_bytes_max: 8 << 20,
            history: None,
        }
    }

    /// A node that joins a cluster which runs: it knows nobody, and is added there (§4.2.1). It never campaigns before the
    /// cluster has given it a vote. The rest as [`RaftConfig::new`].
    pub fn joining(id: impl Into<NodeId>) -> Self {
        Self { joins: true, ..Self::new(id, [] as [NodeId; 0]) }
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
        let problems = self.problems();
        if problems.is_empty() { Ok(()) } else { Err(ConfigError { problems }) }
    }

    /// Every broken rule.
    pub(crate) fn problems(&self) -> Vec<ConfigProblem> {
        let mut problems = Vec::new();
        let mut check = |holds: bool, field: &'static str, value: &dyn ToString, rule: &'static str| {
            if !holds {
                problems.push(ConfigProblem { field, value: value.to_string(), rule });
            }
        };
        let nobody = self.membership == Membership::default();
        let joins = nobody && self.joins;
        check(
            joins || !self.membership.is_empty(),
            "membership",
            if nobody { &"nobody" } else { &self.membership },
            "must name at least one voter; a server that joins a cluster which runs is configured by RaftConfig::joining",
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
        check(nobody || self.membership.contains(self.id), "id", &self.id, "must be one of the members in membership");
        check(!self.tick.is_zero(), "tick", &"0", "must be longer than zero");
        check(self.heartbeat_ticks >= 1, "heartbeat_ticks", &self.heartbeat_ticks, "must be at least 1");
        check(
            u64::from(self.election_ticks) >= 5 * u64::from(self.heartbeat_ticks),
            "election_ticks",
            &self.election_ticks,
            "must be at least 5 times heartbeat_ticks",
        );
        check(self.election_ticks <= 1 << 24, "election_ticks", &self.election_ticks, "must be at most 2^24");
        if let Some(lease_ticks) = self.lease_ticks {
            let fits = lease_ticks >= 1 && lease_ticks < self.election_ticks;
            check(fits, "lease_ticks", &lease_ticks, "must be at least 1 and less than election_ticks");
            check(self.check_quorum, "lease_ticks", &lease_ticks, "needs check_quorum");
        }
        check(self.priority <= Self::PRIORITY_MAX, "priority", &self.priority, "must be at most 3");
        check(self.append_bytes_max >= 1, "append_bytes_max", &self.append_bytes_max, "must be at least 1");
        check(self.append_entries_max >= 1, "append_entries_max", &self.append_entries_max, "must be at least 1");
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
        problems
    }

    /// Every rule that this configuration breaks with a log that stores so many bytes in one write.
    pub(crate) fn log_problems(&self, write_bytes_max: usize) -> Vec<ConfigProblem> {
        let mut problems = Vec::new();
        let value = |bytes| alloc::format!("{bytes} (the log stores {write_bytes_max} in one write)");
        if self.command_bytes_max.saturating_add(Entry::OVERHEAD_BYTES) > write_bytes_max {
            let rule = "must be at least 16 bytes less than the log stores in one write; lower it";
            problems.push(ConfigProblem { field: "command_bytes_max", value: value(self.command_bytes_max), rule });
        }
        if self.append_bytes_max > write_bytes_max {
            let rule = "must be at most what the log stores in one write; lower it";
            problems.push(ConfigProblem { field: "append_bytes_max", value: value(self.append_bytes_max), rule });
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fields whose rules are broken.
    fn problems(change: impl FnOnce(&mut RaftConfig)) -> Vec<&'static str> {
        let mut config = RaftConfig::new(1, [1, 2, 3]);
        change(&mut config);
        config
            .validate()
            .err()
            .map_or_else(Vec::new, |error| error.problems.iter().map(|problem| problem.field).collect())
    }

    #[test]
    fn a_lease_is_shorter_than_an_election_timeout_and_needs_check_quorum() {
        let lease = |ticks| problems(|config| config.lease_ticks = Some(ticks));
        assert_eq!((lease(1), lease(9)), (Vec::new(), Vec::new()));
        assert_eq!((lease(0), lease(10)), (alloc::vec!["lease_ticks"], alloc::vec!["lease_ticks"]));
        let without = problems(|config| (config.lease_ticks, config.check_quorum) = (Some(5), false));
        assert_eq!(without, ["lease_ticks"]);
    }

    #[test]
    fn a_priority_is_at_most_the_highest() {
        let priority = |priority| problems(|config| config.priority = priority);
        assert_eq!((priority(0), priority(RaftConfig::PRIORITY_MAX)), (Vec::new(), Vec::new()));
        assert_eq!(priority(RaftConfig::PRIORITY_MAX + 1), ["priority"]);
    }
}
