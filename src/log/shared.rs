//! Logs whose readers are split from the writer, so that no read ever waits for an fsync.

use super::{LogView, Memberships, RaftLog, Read};
use crate::action::Write;
use crate::life::Lives;
use crate::peers::PeerMemory;
use crate::types::{DiskId, EntryId, HardState, Identity, Index, Term};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::vec::Vec;

/// A log that hands out readers for other threads. The driver takes one of these.
pub trait SharedLog: RaftLog + Send + 'static {
    /// A reader that sees every write accepted by the log it came from.
    type Reader: LogView + Clone + Send + Sync + 'static;

    /// Another reader of this log.
    fn reader(&self) -> Self::Reader;

    /// Reads through a reader, waiting for the medium if it must; see [`RaftLog::read_blocking`].
    ///
    /// # Errors
    /// The entries cannot be read back.
    fn read_cold(reader: &Self::Reader, first: Index, end: Index, bytes_max: usize) -> Result<Read, Self::Error>;
}

/// Makes any [`RaftLog`] shareable behind one lock. Reads then wait for writes and syncs: right
/// for logs in memory; a log on a disk does better to implement [`SharedLog`] itself.
#[derive(Debug, Default)]
pub struct Locked<L> {
    inner: Arc<RwLock<L>>,
}

impl<L> Clone for Locked<L> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<L> Locked<L> {
    /// Puts `log` behind a lock.
    pub fn new(log: L) -> Self {
        Self { inner: Arc::new(RwLock::new(log)) }
    }

    /// A panic while the lock was held leaves the log as the last completed call left it: reads
    /// stay valid, and the driver stops the node anyway.
    fn reading(&self) -> RwLockReadGuard<'_, L> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> RwLockWriteGuard<'_, L> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<L: LogView> LogView for Locked<L> {
    fn hard_state(&self) -> HardState {
        self.reading().hard_state()
    }

    fn base(&self) -> EntryId {
        self.reading().base()
    }

    fn snapshot(&self) -> EntryId {
        self.reading().snapshot()
    }

    fn memberships(&self) -> Memberships {
        self.reading().memberships()
    }

    fn last(&self) -> EntryId {
        self.reading().last()
    }

    fn term(&self, index: Index) -> Option<Term> {
        self.reading().term(index)
    }

    fn read(&self, first: Index, end: Index, bytes_max: usize) -> Read {
        self.reading().read(first, end, bytes_max)
    }

    fn write_bytes_max(&self) -> usize {
        self.reading().write_bytes_max()
    }

    fn disk(&self) -> DiskId {
        self.reading().disk()
    }
}

impl<L: RaftLog> RaftLog for Locked<L> {
    type Error = L::Error;

    fn append(&mut self, writes: &mut Vec<Write>) -> Result<(), L::Error> {
        self.writing().append(writes)
    }

    fn sync(&mut self) -> Result<(), L::Error> {
        self.writing().sync()
    }

    fn identity(&self) -> Identity {
        self.reading().identity()
    }

    fn read_blocking(&self, first: Index, end: Index, bytes_max: usize) -> Result<Read, L::Error> {
        self.reading().read_blocking(first, end, bytes_max)
    }

    fn is_transient(error: &L::Error) -> bool {
        L::is_transient(error)
    }

    fn is_short_of_space(&self) -> bool {
        self.reading().is_short_of_space()
    }

    fn lives(&self) -> Option<Lives> {
        self.reading().lives()
    }

    fn peer_memory(&self) -> Option<PeerMemory> {
        self.reading().peer_memory()
    }
}

impl<L: RaftLog + Send + Sync + 'static> SharedLog for Locked<L> {
    type Reader = Self;

    fn reader(&self) -> Self {
        self.clone()
    }

    fn read_cold(reader: &Self, first: Index, end: Index, bytes_max: usize) -> Result<Read, L::Error> {
        reader.read_blocking(first, end, bytes_max)
    }
}
