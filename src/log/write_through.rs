//! A log that is written within the step that asks for it.

use super::{LogView, Memberships, RaftLog, Read};
use crate::action::{Durable, Write};
use crate::types::{DiskId, EntryId, HardState, Index, Term};
use alloc::vec::Vec;
use core::cell::RefCell;

/// A log during one step that makes every write durable at once: what the step reads, and where its
/// [`ActionSink::persist`](crate::ActionSink::persist) writes.
///
/// For programs that would wait for the log after the step anyway: those with a log in memory, or
/// with one thread for everything. [`RaftNode`](crate::RaftNode) is one.
#[derive(Debug)]
pub struct WriteThrough<'a, L: RaftLog> {
    inner: RefCell<Inner<'a, L>>,
}

#[derive(Debug)]
struct Inner<'a, L: RaftLog> {
    log: &'a mut L,
    buffer: &'a mut Vec<Write>,
    failure: Option<L::Error>,
}

impl<'a, L: RaftLog> WriteThrough<'a, L> {
    /// Takes `log` for one step. The buffer is empty and reused between steps.
    #[inline]
    pub fn new(log: &'a mut L, buffer: &'a mut Vec<Write>) -> Self {
        Self { inner: RefCell::new(Inner { log, buffer, failure: None }) }
    }

    /// Appends and syncs. Returns the proof that the write is durable, and none from the first
    /// failure on: what depends on the write then stays in the protocol.
    #[inline]
    pub fn write(&self, write: Write) -> Option<Durable> {
        let Inner { log, buffer, failure } = &mut *self.inner.borrow_mut();
        if failure.is_some() {
            return None;
        }
        match log.append_one(write, buffer).and_then(|()| log.sync()) {
            Ok(()) => Some(Durable(())),
            Err(error) => {
                *failure = Some(error);
                None
            }
        }
    }

    /// Ends the step.
    ///
    /// # Errors
    /// The first failure of the log, which accepts nothing from now on.
    #[inline]
    pub fn finish(self) -> Result<(), L::Error> {
        self.inner.into_inner().failure.map_or(Ok(()), Err)
    }
}

impl<L: RaftLog> LogView for WriteThrough<'_, L> {
    fn hard_state(&self) -> HardState {
        self.inner.borrow().log.hard_state()
    }

    fn base(&self) -> EntryId {
        self.inner.borrow().log.base()
    }

    fn snapshot(&self) -> EntryId {
        self.inner.borrow().log.snapshot()
    }

    fn memberships(&self) -> Memberships {
        self.inner.borrow().log.memberships()
    }

    fn last(&self) -> EntryId {
        self.inner.borrow().log.last()
    }

    fn term(&self, index: Index) -> Option<Term> {
        self.inner.borrow().log.term(index)
    }

    fn read(&self, first: Index, end: Index, bytes_max: usize) -> Read {
        self.inner.borrow().log.read(first, end, bytes_max)
    }

    fn write_bytes_max(&self) -> usize {
        self.inner.borrow().log.write_bytes_max()
    }

    fn disk(&self) -> DiskId {
        self.inner.borrow().log.disk()
    }
}
