//! The spec's names of everything that can happen to a node, verbatim (law 7).
//!
//! `spec/Raft.tla` has one action of each name, `protocol/` one function of each name in snake
//! case, scenario scripts and traces one verb. `tests/vocabulary.rs` compares the sets.

use core::fmt;

macro_rules! transitions {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A protocol transition: one input consumed by [`Protocol::step`](crate::Protocol::step).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        #[non_exhaustive]
        pub enum Transition {
            $($(#[$doc])* $name,)*
        }

        impl Transition {
            /// Every transition, in the order of the chapters.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The spec's name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

transitions! {
    /// The randomised election timeout passed without word from a leader (§3.4).
    ElectionTimeout,
    /// The minimum election timeout passed since the leader was last heard: from now on votes for
    /// others are considered again (§4.2.3).
    MinimumElectionTimeout,
    /// It is time for the leader to send heartbeats (§3.4).
    HeartbeatTimeout,
    /// It is time for the leader to ask whether a quorum still answers (§6.2).
    QuorumCheckTimeout,
    /// A server asks whether it would get this server's vote (§9.6).
    HandlePreVoteRequest,
    /// A server answered that question (§9.6).
    HandlePreVoteResponse,
    /// A candidate asks for a vote (§3.4).
    HandleRequestVoteRequest,
    /// A server answered a request for its vote (§3.4).
    HandleRequestVoteResponse,
    /// A leader sent entries, a probe or a heartbeat (§3.5).
    HandleAppendEntriesRequest,
    /// A follower answered an append (§3.5).
    HandleAppendEntriesResponse,
    /// A client proposed commands to the leader (§3.5).
    ClientRequest,
    /// A client wants to read what is committed (§6.4).
    ReadRequest,
    /// A client wants to read what is committed, from the leader's lease if there is one (§6.4.1).
    LeaseReadRequest,
    /// A client wants to read what is committed, at a server that may only follow (§6.4).
    FollowerReadRequest,
    /// A lease's time has passed since a round of confirmation began (§6.4.1).
    LeaseTimeout,
    /// A leader is to lead no more.
    StepDown,
    /// A leader asks whether this server follows it (§6.4).
    HandleConfirmLeaderRequest,
    /// A server answered that question (§6.4).
    HandleConfirmLeaderResponse,
    /// A follower asks up to where it must have applied to answer a read (§6.4).
    HandleReadIndexRequest,
    /// The leader answered that question (§6.4).
    HandleReadIndexResponse,
    /// Somebody wants another server to lead (§3.10).
    TransferLeadership,
    /// The target of a transfer did not take over in time (§3.10).
    TransferTimeout,
    /// A leader tells this server to campaign at once (§3.10).
    HandleTimeoutNowRequest,
    /// Somebody wants another configuration of the cluster (§4).
    ChangeMembership,
    /// A snapshot of this server's state machine is durable, and a part of the log may go (§5).
    SnapshotTaken,
    /// A leader no longer holds the entries that this server needs, and offers a snapshot instead (§5).
    HandleInstallSnapshotRequest,
    /// The offered snapshot is here and durable (§5).
    SnapshotFetched,
    /// The offered snapshot could not be fetched (§5).
    SnapshotFetchFailed,
    /// The oldest writes in flight became durable.
    Persisted,
}

impl fmt::Display for Transition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
