//! Why a node did not start.

use super::contain::CodePlace;
use crate::error::{ConfigError, RestoreError};
use crate::history::HistoryId;
use crate::snapshot::SnapshotError;
use crate::transport::AttachError;
use crate::types::{EntryId, Identity};
use std::boxed::Box;
use std::error::Error as StdError;
use std::io;
use std::string::{String, ToString};
use thiserror::Error;

fn history(id: Option<HistoryId>) -> String {
    id.map_or_else(|| "no history".to_string(), |id| std::format!("history {id}"))
}

/// Why a node did not start. Nothing runs.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration or the options break rules: all of them, each with field, value and rule.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The log, the transport and the configuration are not of one node of one cluster and group. Nothing was written: start
    /// each node with what is its own.
    #[error(transparent)]
    Identity(Box<IdentityMismatch>),
    /// The log begins with a snapshot, and the options name no store to find it in. Give
    /// [`DriverOptions::snapshots`](super::DriverOptions::snapshots) the store that this node had.
    #[error(
        "the log begins with the snapshot up to entry {snapshot}, and no snapshot store was given; \
         start with the store that this node had"
    )]
    NoSnapshotStore {
        /// The last entry that it covers.
        snapshot: EntryId,
    },
    /// The log begins with a snapshot that the store does not give. Without it the state is lost here:
    /// bring the store back, or this server as a new member.
    #[error(
        "the log begins with the snapshot up to entry {snapshot}, which the store does not give: {source}; \
         start with the store that this node had, or bring it back as a new member"
    )]
    SnapshotUnavailable {
        /// The last entry that it covers.
        snapshot: EntryId,
        /// Why the store does not give it.
        source: SnapshotError,
    },
    /// The log begins with a snapshot, and the one of that name in the store belongs to another history: it was taken by
    /// another cluster, or by this one before a recovery. Nothing was restored. Start with the store that this node had.
    #[error(
        "the log begins with the snapshot up to entry {snapshot} of {}, and the one in the store is of {}; \
         start with the store that this node had, or bring it back as a new member",
        history(*expected),
        history(*found)
    )]
    SnapshotOfOtherHistory {
        /// The last entry that both cover.
        snapshot: EntryId,
        /// The history that the one in the store names.
        found: Option<HistoryId>,
        /// The history of the log.
        expected: Option<HistoryId>,
    },
    /// The state machine did not restore the snapshot with which the log begins. It is intact if the
    /// store did not say otherwise: start with a state machine that understands it.
    #[error("the state machine does not restore the snapshot up to entry {snapshot}: {source}")]
    RestoreSnapshot {
        /// The last entry that it covers.
        snapshot: EntryId,
        /// What the state machine said, or the store while it was read.
        source: io::Error,
    },
    /// The log did not take the configuration that the cluster begins with. Nothing of it may be durable: start again once
    /// the log works.
    #[error("the log does not take the configuration that the cluster begins with: {source}")]
    Bootstrap {
        /// What the log said.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The log has lost its hard state; see [`RestoreError`].
    #[error(transparent)]
    Restore(RestoreError),
    /// Code that the node was given panicked before anything ran. What was made for the node is shut down again.
    #[error("{place} panicked: {message}")]
    Panicked {
        /// Where.
        place: CodePlace,
        /// What the panic said.
        message: String,
    },
    /// The transport takes no node, or not this one. Whatever it serves goes on; nothing of this start is left.
    #[error(transparent)]
    Transport(#[from] AttachError),
    /// The system gave no thread. What was begun has ended: the log is closed, the transport shut down. Raise the limit of
    /// threads, and start again with both opened anew.
    #[error(
        "cannot start the {thread} thread: {source}; nothing runs, and the log and the port are free; raise the limit of \
         threads (ulimit -u, pids.max) and start again"
    )]
    Thread {
        /// Which: one of the node's, or the transport's.
        thread: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Whose the parts of a node are that do not belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[error(
    "the configuration is that of {configuration}, the log that of {log}, the transport that of {transport}; \
     start each node with its own log and transport"
)]
pub struct IdentityMismatch {
    /// What `RaftConfig` and `DriverOptions` say.
    pub configuration: Identity,
    /// What the log says.
    pub log: Identity,
    /// What the transport says.
    pub transport: Identity,
}

impl From<RestoreError> for StartError {
    fn from(error: RestoreError) -> Self {
        match error {
            RestoreError::Config(error) => Self::Config(error),
            error => Self::Restore(error),
        }
    }
}
