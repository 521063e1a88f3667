//! The durable log: what the protocol reads, what an implementor writes, and the contract between.
//!
//! # The durability contract
//!
//! 1. **Order.** Writes take effect in the order given; each is atomic: after a crash all of a
//!    [`Write`] is there or none of it, and never a later one without an earlier one.
//! 2. **Durable after sync.** When [`RaftLog::sync`] returned `Ok`, every write before it survives
//!    a loss of power. Before that, any suffix of the writes may be lost.
//! 3. **Fail-stop.** After [`RaftLog::append`] or [`RaftLog::sync`] failed once, every later call
//!    of either fails too. A sync is never retried: the kernel may have dropped the dirty pages.
//! 4. **No silent loss.** Opening a log either recovers everything that was durable or fails.
//! 5. **Reads see writes.** A read sees every write that `append` accepted, synced or not.
//!
//! `testkit::log_suite` checks an implementation against it.

mod memory;
#[cfg(feature = "std")]
mod shared;
#[cfg(feature = "persistence")]
pub mod wal;
mod write_through;

pub use memory::MemoryLog;
#[cfg(feature = "std")]
pub use shared::{Locked, SharedLog};
#[cfg(feature = "persistence")]
pub use wal::{WalError, WalLog, WalOptions};
pub use write_through::WriteThrough;

use crate::action::Write;
#[cfg(feature = "std")]
use crate::life::Lives;
use crate::membership::Membership;
#[cfg(feature = "std")]
use crate::peers::PeerMemory;
use crate::types::{DiskId, Entries, Entry, EntryId, HardState, Identity, Index, Payload, Term};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// The reading half of a log. All of it answers from memory: a protocol step never waits for a
/// disk (law 3); what is not in memory is [`Read::Cold`].
pub trait LogView {
    /// The hard state of the last write that had one.
    fn hard_state(&self) -> HardState;

    /// The entry right before the first that the log holds: [`EntryId::ZERO`] until the log is
    /// compacted.
    fn base(&self) -> EntryId;

    /// The last entry that the newest snapshot covers, which stands in for all entries up to it when the server starts:
    /// [`EntryId::ZERO`] until there is one. Never before the base.
    fn snapshot(&self) -> EntryId;

    /// The configurations that the log knows: the one that came with the last [`Compaction`](crate::Compaction), and that
    /// of each later entry that has one.
    fn memberships(&self) -> Memberships;

    /// The last entry, or [`LogView::base`] if there is none.
    fn last(&self) -> EntryId;

    /// The term of the entry at `index`; also known for the base; `None` outside.
    fn term(&self, index: Index) -> Option<Term>;

    /// Entries from `first` on, up to but not including `end` (clamped to the end of the log), at
    /// least one and otherwise at most `bytes_max` bytes. May return fewer than fit.
    fn read(&self, first: Index, end: Index, bytes_max: usize) -> Read;

    /// The most bytes of entries, as [`Entry::size_bytes`] counts them, that one [`Write`] may bring. A proposal that would
    /// bring more is refused: a write that fails stops a log for good. Never changes. Default: no limit.
    fn write_bytes_max(&self) -> usize {
        usize::MAX
    }

    /// Which disk this is: drawn at random when the log was created, and stored with it. A leader that names what a server
    /// acknowledged says on which disk that was, so that a late message does not accuse a server that was emptied on purpose.
    /// Never changes. Default: one number for all, which takes every disk of a server for the same.
    fn disk(&self) -> DiskId {
        DiskId::default()
    }
}

/// The configurations in a log (§4.1): each is in force from its entry on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Memberships {
    /// That of the last compaction: in force at [`LogView::snapshot`]. `None` in a log that was never compacted.
    pub at_snapshot: Option<Arc<Membership>>,
    /// Those of the entries after [`LogView::snapshot`], with the index of each, ascending.
    pub later: Vec<(Index, Arc<Membership>)>,
}

impl Memberships {
    /// A snapshot up to `snapshot` takes the place of what comes before; `membership` is the one in force there, if that is
    /// known.
    pub fn compact(&mut self, snapshot: Index, membership: Option<Arc<Membership>>) {
        self.at_snapshot = membership;
        self.later.retain(|(index, _)| *index > snapshot);
    }

    /// The entries from `first` on are gone.
    pub fn truncate_from(&mut self, first: Index) {
        let kept = self.later.iter().take_while(|(index, _)| *index < first).count();
        self.later.truncate(kept);
    }

    /// These entries follow the last one. Those that the snapshot up to `snapshot` covers do not count.
    pub fn extend(&mut self, snapshot: Index, entries: &[Entry]) {
        for entry in entries {
            match &entry.payload {
                Payload::Membership(membership) if entry.id.index > snapshot => {
                    self.later.push((entry.id.index, Arc::clone(membership)));
                }
                _ => {}
            }
        }
    }
}

/// What a read from memory found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Read {
    /// Consecutive entries from the index asked for; empty only if that lies at the log's end.
    Entries(Entries),
    /// The log holds them, but not in memory.
    Cold,
    /// The log no longer holds them.
    Compacted,
}

/// A log: plain blocking storage. An implementor need not think of threads.
pub trait RaftLog: LogView {
    /// What can go wrong on the medium.
    type Error: core::error::Error + Send + Sync + 'static;

    /// Takes these writes, in order, and leaves the vector empty, so that the entries move on
    /// without being counted again and its capacity can be reused. They need not be durable yet.
    /// What each does, it does in the order of its fields: hard state, compaction, truncation, entries.
    ///
    /// # Errors
    /// The log accepts nothing from now on; what was not synced may be lost.
    fn append(&mut self, writes: &mut Vec<Write>) -> Result<(), Self::Error>;

    /// Takes one write, as [`append`](Self::append) takes a list of one. `buffer` is empty, for logs that want a list, and
    /// left empty. Default: that list. A log that needs none spares [`WriteThrough`] the way through it.
    ///
    /// # Errors
    /// As those of [`append`](Self::append).
    #[inline]
    fn append_one(&mut self, write: Write, buffer: &mut Vec<Write>) -> Result<(), Self::Error> {
        buffer.push(write);
        self.append(buffer)
    }

    /// Makes everything appended so far durable.
    ///
    /// # Errors
    /// The log accepts nothing from now on; what was not synced may be lost.
    fn sync(&mut self) -> Result<(), Self::Error>;

    /// Whose log this is. A node starts with its own only. Default: it does not know.
    fn identity(&self) -> Identity {
        Identity::default()
    }

    /// Reads entries wherever they are, as [`LogView::read`] does, and waits for the medium if it
    /// must; never [`Read::Cold`].
    ///
    /// # Errors
    /// The entries cannot be read back.
    fn read_blocking(&self, first: Index, end: Index, bytes_max: usize) -> Result<Read, Self::Error>;

    /// Whether this error of a *read* passes by itself: the process or the system has too many files open, or too little
    /// memory, at the moment. Such a read is tried again: for a peer with the next heartbeat, for the state machine at each
    /// tick. Any other error of reading says that durable entries are lost here, and stops the node, as any error of
    /// [`append`](Self::append) and [`sync`](Self::sync) does, whatever it is. Default: no error passes.
    fn is_transient(error: &Self::Error) -> bool
    where
        Self: Sized,
    {
        let _ = error;
        false
    }

    /// Whether space runs out, so that a compaction is wanted now: there is still room, but not for much. Asked after each
    /// sync. Never unless overridden.
    fn is_short_of_space(&self) -> bool {
        false
    }

    /// The openings of the directory that the log lies in, if it keeps a list of them.
    #[cfg(feature = "std")]
    fn lives(&self) -> Option<Lives> {
        None
    }

    /// What the log remembers of the peers, if it does. The transport asks and tells it.
    #[cfg(feature = "std")]
    fn peer_memory(&self) -> Option<PeerMemory> {
        None
    }
}
