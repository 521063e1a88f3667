//! A backup of a running node: its newest snapshot, held open while it is read.

use super::error::TakeSnapshotError;
use super::held_backups::HeldBackups;
use super::node::Handle;
use super::options::Snapshots;
use super::raft::StateMachine;
use super::slot;
use super::taking::TakingSnapshot;
use crate::backup::{Backup, BackupInfo};
use crate::snapshot::{SnapshotError, SnapshotInfo, SnapshotReader};
use crate::types::{Identity, NodeId};
use std::boxed::Box;
use std::string::ToString;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use thiserror::Error;

/// How often a snapshot may be superseded and deleted between being taken and being opened.
const TRIES_MAX: u32 = 8;

/// What a backup is made of.
pub(super) struct Source {
    /// The store, if the node has one.
    pub(super) snapshots: Option<Snapshots>,
    /// Those that are being read.
    pub(super) held: Arc<HeldBackups>,
    /// Whose log it is.
    pub(super) log: Identity,
}

/// Why no backup was begun. The node goes on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TakeBackupError {
    /// No snapshot was taken.
    #[error(transparent)]
    Snapshot(#[from] TakeSnapshotError),
    /// The snapshot was taken, and the store does not give it. Try again.
    #[error("the store does not give the snapshot that was taken: {source}; try again")]
    Store {
        /// Why not.
        source: SnapshotError,
    },
    /// The snapshot does not say who belonged to the cluster, as those of a program from before 0.5 do not. Take one with this
    /// version: propose something, and try again.
    #[error(
        "the snapshot up to entry {} does not say who belonged to the cluster; propose something, and try again",
        info.last
    )]
    NoMembership {
        /// The snapshot.
        info: Box<SnapshotInfo>,
    },
}

/// Takes a snapshot, or finds the one of the present state, and opens it.
pub(super) fn begin<M: StateMachine>(node: &dyn Handle<M>, timeout: Duration) -> Result<Backup, TakeBackupError> {
    let source = node.backup_source();
    let store = source.snapshots.ok_or(TakeSnapshotError::NoStore)?;
    let deadline = Instant::now().checked_add(timeout);
    let mut tries = 0;
    let content = loop {
        let (requester, completion) = slot::slot();
        let left = deadline.map_or(timeout, |deadline| deadline.saturating_duration_since(Instant::now()));
        let taking = TakingSnapshot::new(node.key(), node.snapshot(requester).map(|()| completion));
        let taken = taking.wait(left)?;
        tries += 1;
        match store.open(taken.last) {
            Ok(content) => break content,
            // A newer one was due meanwhile, and this one went.
            Err(SnapshotError::NotFound { .. }) if tries < TRIES_MAX => {}
            Err(source) => return Err(TakeBackupError::Store { source }),
        }
    };
    describe(source.log, node.id(), source.held.hold(content)?)
}

fn describe(log: Identity, node: NodeId, content: Box<dyn SnapshotReader>) -> Result<Backup, TakeBackupError> {
    let found = content.info();
    let membership = match found.membership() {
        Some(Ok(membership)) => Arc::new(membership),
        Some(Err(error)) => {
            let source = SnapshotError::from(std::io::Error::other(error.to_string()));
            return Err(TakeBackupError::Store { source });
        }
        None => return Err(TakeBackupError::NoMembership { info: Box::new(found.clone()) }),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let info = BackupInfo {
        cluster: log.cluster,
        group: log.group.unwrap_or_default(),
        node,
        last: found.last,
        snapshot: found.identity,
        bytes: found.bytes,
        chunk_bytes: found.chunk_bytes,
        unix_seconds: now.map_or(0, |since| since.as_secs()),
        membership,
    };
    Ok(Backup::new(info, content))
}
