//! Backups that are being read: what they keep of the store, within which bound, and what ends them before their end.
//!
//! A backup reads a snapshot that the node holds open for it. Once a newer snapshot is there, the older one is kept for the
//! backup alone. Readers may be slow, or never come back: so all that is kept for them together is bounded
//! (`DriverOptions::snapshot_hold_bytes`), except for the one that was read last, which may be as large as it is. When the
//! log's disk runs out of space, or that of the snapshots, nothing is kept. And nothing is kept of a node that was shut down: its store is to be opened
//! anew. A backup that ends for one of these reasons says so to its reader.

use super::contain::CodePlace;
use super::error::TakeSnapshotError;
use super::node::Node;
use super::raft::StateMachine;
use super::sync::atomic::{AtomicBool, Ordering};
use super::sync::{Condvar, Mutex, lock, wait_until};
use super::trace::trace_event;
use crate::log::SharedLog;
use crate::snapshot::{SnapshotInfo, SnapshotReader};
use crate::transport::RaftTransport;
use crate::types::EntryId;
use std::boxed::Box;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use std::vec::Vec;
use thiserror::Error;

/// How long the end of a node waits for a chunk that is being read: a disk that stands still is not to hold it up.
const STOP_WAIT: Duration = Duration::from_secs(10);

/// Why a backup ended before its end. What was read of it is no backup. Errors of [`Backup`](crate::backup::Backup) carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum BackupEnded {
    /// The node was shut down. Take another one once it runs, or on another node.
    #[error("the node was shut down; what was read is no backup: take another one once it runs, or on another node")]
    NodeStopped,
    /// Newer snapshots came, and with the one of this backup too much was kept for backups. Others were read more recently.
    #[error(
        "the snapshot up to entry {last} is superseded, and backups keep no more than {bytes_max} bytes of such ones; what was \
         read is no backup: take another one, and read it without a pause"
    )]
    TooMuchKept {
        /// The last entry of the backup.
        last: EntryId,
        /// The bound: [`DriverOptions::snapshot_hold_bytes`](super::DriverOptions::snapshot_hold_bytes).
        bytes_max: u64,
    },
    /// Newer snapshots came, and the log's disk or that of the snapshots is short of space. Free space, or take the backup on another node.
    #[error(
        "the snapshot up to entry {last} is superseded, and the disk is short of space; what was read is no backup: \
         free space, or take it on another node"
    )]
    ShortOfSpace {
        /// The last entry of the backup.
        last: EntryId,
    },
}

impl From<BackupEnded> for io::Error {
    fn from(ended: BackupEnded) -> Self {
        Self::other(ended)
    }
}

/// The backups of one node that are being read.
pub(super) struct HeldBackups {
    table: Mutex<Table>,
    /// A snapshot found no space.
    is_full: AtomicBool,
}

#[derive(Default)]
struct Table {
    /// The node was shut down.
    is_closed: bool,
    begun: u64,
    running: BTreeMap<u64, Arc<Held>>,
}

/// The snapshot of one backup.
struct Held {
    last: EntryId,
    bytes: u64,
    state: Mutex<HeldState>,
    read: Condvar,
}

struct HeldState {
    /// `None` while it is read, and at the end.
    content: Option<Box<dyn SnapshotReader>>,
    is_read: bool,
    is_done: bool,
    ended: Option<BackupEnded>,
    last_read: Instant,
}

impl Held {
    /// Ends it. What it held is to be dropped without a lock, because that may delete files. Waits for a chunk that is being read
    /// until `deadline`; who reads it lets go of the snapshot then.
    fn end(&self, why: BackupEnded, deadline: Instant) -> Option<Box<dyn SnapshotReader>> {
        let mut state = lock(&self.state);
        state.ended.get_or_insert(why);
        let content = state.content.take();
        while state.is_read {
            let (guard, in_time) = wait_until(&self.read, state, Some(deadline));
            if !in_time {
                break;
            }
            state = guard;
        }
        content
    }
}

impl HeldBackups {
    pub(super) fn new() -> Self {
        Self { table: Mutex::new(Table::default()), is_full: AtomicBool::new(false) }
    }

    /// A snapshot was not written.
    pub(super) fn note_failure(&self, error: &io::Error) {
        if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            self.is_full.store(true, Ordering::SeqCst);
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        lock(&self.table).running.len()
    }

    /// The same content, as long as the node holds it.
    pub(super) fn hold(
        self: &Arc<Self>,
        content: Box<dyn SnapshotReader>,
    ) -> Result<Box<dyn SnapshotReader>, TakeSnapshotError> {
        let info = content.info().clone();
        let last_read = Instant::now();
        let state = HeldState { content: Some(content), is_read: false, is_done: false, ended: None, last_read };
        let held = Held { last: info.last, bytes: info.bytes, state: Mutex::new(state), read: Condvar::new() };
        let held = Arc::new(held);
        let mut table = lock(&self.table);
        if table.is_closed {
            // Its content goes without the lock.
            drop(table);
            return Err(TakeSnapshotError::Shutdown);
        }
        table.begun += 1;
        let number = table.begun;
        table.running.insert(number, Arc::clone(&held));
        drop(table);
        Ok(Box::new(HeldReader { info, held, number, backups: Arc::clone(self) }))
    }

    /// Those that keep a snapshot which is older than `newest`, and are beyond the bound; without one, all of them.
    fn beyond(&self, newest: EntryId, bytes_max: Option<u64>) -> Vec<(Arc<Held>, BackupEnded)> {
        let running: Vec<_> = lock(&self.table).running.values().map(Arc::clone).collect();
        let mut superseded: Vec<_> = running
            .into_iter()
            .filter(|held| held.last < newest)
            .map(|held| {
                let last_read = lock(&held.state).last_read;
                (Reverse(last_read), held)
            })
            .collect();
        superseded.sort_by_key(|(last_read, _)| *last_read);
        let (mut kept, mut bytes) = (BTreeSet::new(), 0_u64);
        let mut beyond = Vec::new();
        for (_, held) in superseded {
            let last = held.last;
            let with = bytes.saturating_add(if kept.contains(&last) { 0 } else { held.bytes });
            match bytes_max {
                None => beyond.push((held, BackupEnded::ShortOfSpace { last })),
                Some(bytes_max) if with > bytes_max && !kept.is_empty() && !kept.contains(&last) => {
                    beyond.push((held, BackupEnded::TooMuchKept { last, bytes_max }));
                }
                Some(_) => {
                    kept.insert(last);
                    bytes = with;
                }
            }
        }
        beyond
    }

    /// Ends what is beyond the bound; hands out what is to be dropped.
    fn bound(&self, newest: EntryId, bytes_max: Option<u64>) -> Vec<Option<Box<dyn SnapshotReader>>> {
        let beyond = self.beyond(newest, bytes_max);
        let mut table = lock(&self.table);
        table.running.retain(|_, held| !beyond.iter().any(|(ended, _)| Arc::ptr_eq(held, ended)));
        drop(table);
        beyond.into_iter().map(|(held, why)| held.end(why, Instant::now())).collect()
    }

    /// Ends all, for good.
    fn close(&self) -> Vec<Option<Box<dyn SnapshotReader>>> {
        let mut table = lock(&self.table);
        table.is_closed = true;
        let running = std::mem::take(&mut table.running);
        drop(table);
        let deadline = Instant::now() + STOP_WAIT;
        running.into_values().map(|held| held.end(BackupEnded::NodeStopped, deadline)).collect()
    }

    fn remove(&self, number: u64) {
        let held = lock(&self.table).running.remove(&number);
        drop(held);
    }
}

/// What a backup reads.
struct HeldReader {
    info: SnapshotInfo,
    held: Arc<Held>,
    number: u64,
    backups: Arc<HeldBackups>,
}

/// The content while it is read, without the lock. It is put back, unless the backup has ended or its reader panicked.
struct Reading<'a> {
    held: &'a Held,
    content: Option<Box<dyn SnapshotReader>>,
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.held.state);
        state.last_read = Instant::now();
        if state.ended.is_none() && !thread::panicking() {
            state.content = self.content.take();
        }
        drop(state);
        // Deletes the file, if nobody needs it any longer. Whoever waits goes on only then.
        self.content = None;
        lock(&self.held.state).is_read = false;
        self.held.read.notify_all();
    }
}

impl HeldReader {
    fn begin(&self) -> io::Result<Option<Reading<'_>>> {
        let mut state = lock(&self.held.state);
        if let Some(ended) = state.ended {
            return Err(ended.into());
        }
        if state.is_done {
            return Ok(None);
        }
        let content = state.content.take();
        let content = content.ok_or_else(|| io::Error::other("the reader of the snapshot panicked"))?;
        state.is_read = true;
        Ok(Some(Reading { held: &self.held, content: Some(content) }))
    }
}

impl Read for HeldReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(mut reading) = self.begin()? else { return Ok(0) };
        let content = reading.content.as_mut().expect("it was just begun");
        let count = content.read(buffer)?;
        if count > 0 || buffer.is_empty() {
            return Ok(count);
        }
        // All of it was read: nothing has to be kept.
        lock(&self.held.state).is_done = true;
        drop(reading.content.take());
        drop(reading);
        self.backups.remove(self.number);
        Ok(0)
    }
}

impl SnapshotReader for HeldReader {
    fn info(&self) -> &SnapshotInfo {
        &self.info
    }
}

impl Drop for HeldReader {
    fn drop(&mut self) {
        self.backups.remove(self.number);
        let content = lock(&self.held.state).content.take();
        drop(content);
    }
}

impl<M: StateMachine, L: SharedLog, T: RaftTransport> Node<M, L, T> {
    /// The log begins with this snapshot now, or a disk is short of space: backups keep no more of older ones than they may.
    pub(super) fn bound_backups(&self, newest: EntryId) {
        let is_full = self.backups().is_full.swap(false, Ordering::SeqCst);
        let is_short = is_full || self.log_short.load(Ordering::Relaxed);
        let bytes_max = (!is_short).then_some(self.options.snapshot_hold_bytes);
        let ended = self.backups().bound(newest, bytes_max);
        if ended.is_empty() {
            return;
        }
        let count = ended.len() as u64;
        self.panics.survive(CodePlace::StoreOpen, || drop(ended));
        trace_event!(warn, node = self.id.0, "{count} backups are given up: too much is kept for them");
        let mut state = lock(&self.state);
        state.counters.backups_given_up += count;
        state.changed = true;
        self.release(state);
    }

    /// The node was shut down: its store is to be opened anew.
    pub(super) fn end_backups(&self) {
        let ended = self.backups().close();
        self.panics.survive(CodePlace::StoreOpen, || drop(ended));
    }
}
