//! The configurations that are checked: which features, and within which bounds.

use crate::membership::{Masks, Target};
use raft_io::{Membership, NodeId, RaftConfig};

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
    /// The voters and learners that the cluster begins with. Empty: all servers vote. Whoever is neither joins.
    pub voters: &'static [u64],
    /// See `voters`.
    pub learners: &'static [u64],
    /// The configurations that are ever asked for, and what the spec calls this set.
    pub targets: (&'static str, &'static [Target]),
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
    /// The most changes of the configuration asked for in a whole history.
    pub changes_max: u8,
    /// The most disks wiped in a whole history, each of a server that was removed; it joins again.
    pub wipes_max: u8,
    /// Of how many servers, the last ones, the disk may be put back to a copy, each once.
    pub restorable: u8,
    /// How many of the entries that a snapshot covers the log may keep: each of these is tried.
    pub trails: &'static [u8],
    /// The network.
    pub network: Network,
    /// Ask before campaigning (§9.6).
    pub pre_vote: bool,
    /// Step down without a quorum, ignore candidates while the leader is heard (§6.2, §4.2.3).
    pub check_quorum: bool,
    /// Whether leaders answer reads by leases (§6.4.1), and the clocks hold what that asks of them.
    pub leases: bool,
    /// Whether leaders are told to lead no more.
    pub step_downs: bool,
    /// Whether leaders send heartbeats.
    pub heartbeats: bool,
    /// Whether clients propose commands.
    pub client_requests: bool,
    /// The most appends in flight to one follower.
    pub inflight_max: usize,
    /// Whether bytes narrow that window and not the number of appends: one append fills it, as with an `inflight_max` of 1.
    pub window_by_bytes: bool,
    /// Whether an append carries at most one entry.
    pub single_entry_appends: bool,
    /// How many servers, the first ones, ever campaign.
    pub campaigners: u8,
    /// At how many servers, the last ones, clients read though they follow.
    pub readers: u8,
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
        let mut config = RaftConfig::joining(id);
        config.membership = self.membership_of(id);
        config.pre_vote = self.pre_vote;
        config.check_quorum = self.check_quorum;
        // How long one lasts, the events say.
        config.lease_ticks = self.leases.then_some(1);
        config.inflight_messages_max = self.inflight_max;
        if self.window_by_bytes {
            // A window is open as long as it holds less than this, so that any entry shuts it.
            config.inflight_messages_max = usize::MAX;
            config.inflight_bytes_max = 1;
        }
        if self.single_entry_appends {
            config.append_bytes_max = 1;
        }
        config
    }

    /// Whether clients read at this server, by its position, though it follows.
    #[must_use]
    pub fn reads_at(&self, position: u8) -> bool {
        position + self.readers >= self.servers
    }

    /// Whether the disk of the server at this position may be put back to a copy.
    #[must_use]
    pub fn is_restorable(&self, position: u8) -> bool {
        position + self.restorable >= self.servers
    }

    /// The servers' ids.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (1..=u64::from(self.servers)).map(NodeId)
    }

    /// The configuration that the cluster begins with.
    #[must_use]
    pub fn initial(&self) -> Membership {
        let all: Vec<NodeId> = self.ids().collect();
        let given: Vec<NodeId> = self.voters.iter().copied().map(NodeId).collect();
        let voters = Membership::new(if given.is_empty() { all } else { given });
        self.learners.iter().fold(voters, |membership, id| membership.with_learner(*id))
    }

    /// The configuration that a server begins with: a joiner knows none.
    #[must_use]
    pub fn membership_of(&self, id: NodeId) -> Membership {
        let initial = self.initial();
        if initial.contains(id) { initial } else { Membership::default() }
    }

    /// The configurations of which a leader may count the votes while `committed` is the last one that is committed: that
    /// one and those that may follow it.
    pub fn after(&self, committed: Masks) -> impl Iterator<Item = Masks> + '_ {
        let targets = self.targets.1.iter().map(move |target| committed.towards(Masks::of(&target.membership())));
        let promoted = crate::membership::positions(committed.promoting).map(move |at| committed.promoted(at));
        [committed, committed.settled()].into_iter().chain(targets).chain(promoted)
    }

    /// The names of the actions that must all be taken.
    pub fn actions(&self) -> impl Iterator<Item = &'static str> {
        let expected = |name: &str| match name {
            "MinimumElectionTimeout" => self.check_quorum || self.readers > 0,
            "QuorumCheckTimeout" => self.check_quorum,
            "HandlePreVoteRequest" | "HandlePreVoteResponse" => {
                self.pre_vote && (self.term_max > 1 || self.initial().voters().len() > 1)
            }
            "HandleRequestVoteRequest" | "HandleRequestVoteResponse" => {
                self.term_max > 1 || self.initial().voters().len() > 1
            }
            "HeartbeatTimeout" => self.heartbeats,
            "ClientRequest" => self.client_requests,
            "HandleAppendEntriesRequest" | "HandleAppendEntriesResponse" => self.log_max > 0,
            "ReadRequest" | "HandleConfirmLeaderRequest" | "HandleConfirmLeaderResponse" => self.reads_max > 0,
            "LeaseReadRequest" | "LeaseTimeout" => self.leases,
            "FollowerReadRequest" | "HandleReadIndexRequest" | "HandleReadIndexResponse" => self.readers > 0,
            "StepDown" => self.step_downs,
            "TransferLeadership" => self.transfers_max > 0,
            "TransferTimeout" | "HandleTimeoutNowRequest" => {
                self.transfers_max > 0 || self.goals.contains(&crate::laws::Goal::LeaderLeft)
            }
            "ChangeMembership" => self.changes_max > 0,
            "SnapshotTaken" => self.snapshots_max > 0,
            "HandleInstallSnapshotRequest" | "SnapshotFetched" | "SnapshotFetchFailed" => self.snapshots_max > 0,
            "Crash" => self.crashes_max > 0,
            "Wipe" => self.wipes_max > 0,
            "BackUp" | "RollBack" => self.restorable > 0,
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
        if self.changes_max > 0 {
            text += &format!(" D{}", self.changes_max);
        }
        if self.wipes_max > 0 {
            text += &format!(" wipes {}", self.wipes_max);
        }
        if self.restorable > 0 {
            text += &format!(" restored {}", self.restorable);
        }
        for (on, word) in [(self.pre_vote, " pre-vote"), (self.check_quorum, " check-quorum"), (self.leases, " leases")]
        {
            if on {
                text += word;
            }
        }
        if self.campaigners < self.servers {
            text += &format!(" C{}", self.campaigners);
        }
        if self.readers > 0 {
            text += &format!(" F{}", self.readers);
        }
        text
    }
}
