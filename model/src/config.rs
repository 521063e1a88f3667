//! The configurations that are checked: which features, and within which bounds.

use raft_io::{NodeId, RaftConfig};

/// How messages travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Network {
    /// A set with at most this many messages. What is handled leaves it; anything may be lost; what finds no room is lost.
    Lossy {
        /// The most messages on their way.
        messages_max: usize,
        /// Whether a message can be handled and stay on its way.
        duplication: bool,
    },
    /// A set from which nothing is ever removed: every message can be handled at any later time, any number of times, or
    /// never.
    Monotone,
}

/// A bounded cluster. The bounds are guards on what an action may lead to, the same here and in the spec.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Configuration {
    /// The name on the command line and in reports.
    pub name: &'static str,
    /// What this configuration is for, in one line.
    pub purpose: &'static str,
    /// How many servers, at most 5.
    pub servers: u8,
    /// The highest term, at most 7.
    pub term_max: u8,
    /// The longest log, at most 8.
    pub log_max: u8,
    /// The most writes in flight of one server.
    pub pending_max: u8,
    /// The most crashes in a whole history.
    pub crashes_max: u8,
    /// The most reads in a whole history, at most 2, and the most rounds of confirmation in a term.
    pub reads_max: u8,
    /// The most transfers of leadership in a whole history.
    pub transfers_max: u8,
    /// The most snapshots taken in a whole history.
    pub snapshots_max: u8,
    /// How many of the entries that a snapshot covers the log may keep: each of these is tried.
    pub trails: &'static [u8],
    /// The network.
    pub network: Network,
    /// Ask before campaigning (§9.6).
    pub pre_vote: bool,
    /// Step down without a quorum, ignore candidates while the leader is heard (§6.2, §4.2.3).
    pub check_quorum: bool,
    /// Whether leaders send heartbeats.
    pub heartbeats: bool,
    /// Whether clients propose commands.
    pub client_requests: bool,
    /// The most appends in flight to one follower.
    pub inflight_max: usize,
    /// Whether an append carries at most one entry.
    pub single_entry_appends: bool,
    /// How many servers, the first ones, ever campaign.
    pub campaigners: u8,
    /// Whether states that differ in the servers' names alone count as one.
    pub symmetry: bool,
    /// Whether messages that the rule of dead messages names are dropped at once; the run then proves the rule.
    pub drop_dead: bool,
    /// What must be reached for the run to mean something.
    pub goals: &'static [crate::laws::Goal],
    /// The number of distinct states, as counted before. `None` until it is known.
    pub golden: Option<u64>,
}

impl Configuration {
    /// The library's configuration of one server.
    #[must_use]
    pub fn raft_config(&self, id: NodeId) -> RaftConfig {
        let mut config = RaftConfig::new(id, 1..=u64::from(self.servers));
        config.pre_vote = self.pre_vote;
        config.check_quorum = self.check_quorum;
        config.inflight_messages_max = self.inflight_max;
        if self.single_entry_appends {
            config.append_bytes_max = 1;
        }
        config
    }

    /// The servers' ids.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (1..=u64::from(self.servers)).map(NodeId)
    }

    /// How many servers make a quorum.
    #[must_use]
    pub fn quorum(&self) -> u32 {
        u32::from(self.servers) / 2 + 1
    }

    /// The names of the actions that must all be taken.
    pub fn actions(&self) -> impl Iterator<Item = &'static str> {
        let expected = |name: &str| match name {
            "MinimumElectionTimeout" | "QuorumCheckTimeout" => self.check_quorum,
            "HandlePreVoteRequest" | "HandlePreVoteResponse" => self.pre_vote,
            "HeartbeatTimeout" => self.heartbeats,
            "ClientRequest" => self.client_requests,
            "HandleAppendEntriesRequest" | "HandleAppendEntriesResponse" => self.log_max > 0,
            "ReadRequest" | "HandleConfirmLeaderRequest" | "HandleConfirmLeaderResponse" => self.reads_max > 0,
            "TransferLeadership" | "TransferTimeout" | "HandleTimeoutNowRequest" => self.transfers_max > 0,
            "SnapshotTaken" => self.snapshots_max > 0,
            "HandleInstallSnapshotRequest" | "SnapshotFetched" | "SnapshotFetchFailed" => self.snapshots_max > 0,
            "Crash" => self.crashes_max > 0,
            "DropMessage" => matches!(self.network, Network::Lossy { .. }),
            _ => true,
        };
        crate::action::names().filter(move |name| expected(name))
    }

    /// The bounds in one line.
    #[must_use]
    pub fn bounds(&self) -> String {
        let network = match self.network {
            Network::Lossy { messages_max, duplication: false } => format!("M{messages_max}"),
            Network::Lossy { messages_max, duplication: true } => format!("M{messages_max}+dup"),
            Network::Monotone => "monotone".to_string(),
        };
        let mut text = format!(
            "n{} T{} L{} {network} W{} K{}",
            self.servers, self.term_max, self.log_max, self.pending_max, self.crashes_max
        );
        if self.reads_max > 0 {
            text += &format!(" R{}", self.reads_max);
        }
        if self.transfers_max > 0 {
            text += &format!(" X{}", self.transfers_max);
        }
        if self.snapshots_max > 0 {
            text += &format!(" S{}", self.snapshots_max);
        }
        for (on, word) in [(self.pre_vote, " pre-vote"), (self.check_quorum, " check-quorum")] {
            if on {
                text += word;
            }
        }
        if self.campaigners < self.servers {
            text += &format!(" C{}", self.campaigners);
        }
        text
    }
}
