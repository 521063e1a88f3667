//! Whether a snapshot in the store is one of this log: the same entry's index and term say nothing about that.
//!
//! Each cluster begins with entry 1 of term 1. A store that another cluster filled, or this one before a recovery, has
//! snapshots under the very names that this node is about to use. So a snapshot counts if it names the history of the log,
//! or one from before, up to where they part; without a history it counts only where the log's own record names it.

use super::options::Snapshots;
use super::start_error::StartError;
use super::trace::trace_event;
use crate::history::History;
use crate::log::LogView;
use crate::membership::Membership;
use crate::protocol::Protocol;
use crate::snapshot::{SnapshotError, SnapshotInfo};
use crate::types::{EntryId, Index, NodeId};
use std::format;
use std::string::{String, ToString};
use std::sync::Arc;

/// Whether this snapshot, which the log's own record names, is the one that the log means.
pub(super) fn check_recorded(info: &SnapshotInfo, log: &impl LogView) -> Result<(), StartError> {
    let recorded = log.memberships().at_snapshot;
    let expected = recorded.as_deref().and_then(|membership| membership.history().map(|history| &**history));
    let found = info.history().map_err(|error| StartError::SnapshotUnavailable {
        snapshot: info.last,
        source: SnapshotError::from(std::io::Error::other(error)),
    })?;
    // After so many recoveries without a snapshot the log cannot tell, and its record must do: a node starts.
    let is_forgotten = expected.is_some_and(|history| history.has_forgotten(info.last.index));
    if is_forgotten || History::agree(found.as_deref(), expected, info.last.index) {
        return Ok(());
    }
    let (found, expected) = (found.map(|history| history.id()), expected.map(History::id));
    Err(StartError::SnapshotOfOtherHistory { snapshot: info.last, found, expected })
}

/// Whether this snapshot, found in the store, may stand for the log's beginning. `recorded`: the log's own record names it.
fn is_of(info: &SnapshotInfo, history: Option<&Arc<History>>, recorded: bool) -> bool {
    let Ok(found) = info.history() else { return false };
    let (found, history) = (found.as_deref(), history.map(|history| &**history));
    History::agree(found, history, info.last.index) && (recorded || (found.is_some() && history.is_some()))
}

/// A complete snapshot is in the way of one that is to be taken or received. Whether it is as good as that one; otherwise it
/// is set aside, and there is none.
pub(super) fn use_or_set_aside(
    node: NodeId,
    store: &Snapshots,
    last: EntryId,
    history: Option<&Arc<History>>,
    recorded: bool,
) -> Result<bool, SnapshotError> {
    let found = store.list().into_iter().find(|info| info.last == last);
    match found {
        Some(info) if is_of(&info, history, recorded) => Ok(true),
        Some(info) => set_aside(node, store, &info).map(|()| false),
        // Deleted meanwhile.
        None => Ok(false),
    }
}

fn set_aside(node: NodeId, store: &Snapshots, info: &SnapshotInfo) -> Result<(), SnapshotError> {
    trace_event!(
        warn,
        node = node.0,
        last = %info.last,
        "a snapshot in the store is not one of this log: {}; it is set aside",
        whose(info)
    );
    let _ = node;
    store.set_aside(info.last)
}

/// The configuration that was in force after the entry at `index`, which no snapshot covers yet.
pub(super) fn membership_as_of(protocol: &Protocol, index: Index) -> Arc<Membership> {
    let mut found = Arc::clone(protocol.membership());
    for (at, membership) in protocol.memberships() {
        if at > index {
            break;
        }
        found = Arc::clone(membership);
    }
    match protocol.history() {
        // A cluster that is older than its history: whose the snapshot is, it says all the same.
        Some(history) if found.history().is_none() => Arc::new(found.with_history(Arc::clone(history))),
        _ => found,
    }
}

/// A snapshot that was received completely; `offered` is the history that the leader's offer named. Why it is not what was
/// offered, if it is not: then it is set aside.
pub(super) fn check_received(
    node: NodeId,
    store: &Snapshots,
    info: &SnapshotInfo,
    offered: Option<&Arc<History>>,
) -> Result<(), String> {
    // Its sender's log names it: so none is as good as one that began later.
    if is_of(info, offered, true) {
        return Ok(());
    }
    let reason =
        format!("the snapshot up to entry {} is of another history than was offered: {}", info.last, whose(info));
    match set_aside(node, store, info) {
        Ok(()) => Err(reason),
        Err(error) => Err(format!("{reason}; {error}")),
    }
}

fn whose(info: &SnapshotInfo) -> String {
    match info.history() {
        Ok(Some(history)) => format!("it names the history {}", history.id()),
        Ok(None) => "it names no history".to_string(),
        Err(error) => format!("its metadata is {error}"),
    }
}
