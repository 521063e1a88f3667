//! Code that is not this library's, and what becomes of its panics.
//!
//! A node calls the state machine, the log, the transport, the store of snapshots, and whatever wakers and looks clients
//! bring along. Each of those calls is made through this module, so that a panic there ends as the guide says ("Where your
//! code runs"): the node goes on and counts it, or it stops with a reason that names the place, or the panic comes back to
//! the caller whose code it was. None unwinds through the driver, and none is lost.

use super::signal::Signal;
use super::sync::atomic::{AtomicU64, Ordering};
use super::sync::{Mutex, lock};
use super::trace::trace_event;
use crate::log::{LogView, Memberships, Read};
use crate::types::{DiskId, EntryId, HardState, Index, NodeId, Term};
use std::any::Any;
use std::boxed::Box;
use std::cell::Cell;
use std::fmt;
use std::mem;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::string::{String, ToString};
use std::sync::Arc;

/// A place where a node runs code that it was given. The guide says for each what a panic there does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum CodePlace {
    /// [`StateMachine::apply`](super::StateMachine::apply).
    Apply,
    /// [`StateMachine::snapshot`](super::StateMachine::snapshot).
    Snapshot,
    /// [`StateMachine::restore`](super::StateMachine::restore).
    Restore,
    /// The closure of a [`SnapshotImage`](super::SnapshotImage).
    Image,
    /// The state machine is dropped.
    MachineDrop,
    /// [`RaftLog::append`](crate::RaftLog::append), and the log's other methods while the node starts.
    LogAppend,
    /// [`RaftLog::sync`](crate::RaftLog::sync).
    LogSync,
    /// [`LogView`](crate::LogView) of the log's reader.
    LogView,
    /// [`SharedLog::read_cold`](crate::log::SharedLog::read_cold).
    LogRead,
    /// The log is dropped, or one of its readers.
    LogDrop,
    /// [`RaftTransport::start`](crate::transport::RaftTransport::start), and what is asked before it.
    TransportStart,
    /// [`RaftTransport::send`](crate::transport::RaftTransport::send).
    TransportSend,
    /// [`RaftTransport::members`](crate::transport::RaftTransport::members), and
    /// [`RaftTransport::history`](crate::transport::RaftTransport::history).
    TransportMembers,
    /// [`RaftTransport::limits_of`](crate::transport::RaftTransport::limits_of).
    TransportLimits,
    /// [`RaftTransport::fetch_chunk`](crate::transport::RaftTransport::fetch_chunk).
    TransportFetch,
    /// [`RaftTransport::client_address`](crate::transport::RaftTransport::client_address), and what else is asked about a
    /// peer: why nothing goes to it, whether it knows histories, and whether a server can be at an address.
    TransportAddress,
    /// [`RaftTransport::shutdown`](crate::transport::RaftTransport::shutdown).
    TransportShutdown,
    /// The transport is dropped.
    TransportDrop,
    /// A snapshot is opened and read, to be restored.
    StoreOpen,
    /// [`SnapshotStore::begin`](crate::snapshot::SnapshotStore::begin) and the writer that it gives.
    StoreWrite,
    /// [`SnapshotStore::receive`](crate::snapshot::SnapshotStore::receive) and the receiver that it gives.
    StoreReceive,
    /// [`SnapshotStore::chunk`](crate::snapshot::SnapshotStore::chunk), and the reader that is held open for a peer.
    StoreChunk,
    /// [`SnapshotStore::list`](crate::snapshot::SnapshotStore::list).
    StoreList,
    /// [`SnapshotStore::retain`](crate::snapshot::SnapshotStore::retain).
    StoreRetain,
    /// [`Waker::wake`](std::task::Waker::wake) of a task that waits, and the end of that waker.
    Wake,
    /// The closure of a read.
    Look,
    /// The closure of a read that nobody waits for is dropped.
    LookDrop,
    /// An answer is dropped that nobody takes: a response, or what a look found.
    AnswerDrop,
    /// The predicate of [`Raft::wait_for`](super::Raft::wait_for).
    Predicate,
}

impl CodePlace {
    /// Every place, in the order of the guide.
    pub const ALL: &'static [Self] = &[
        Self::Apply,
        Self::Snapshot,
        Self::Restore,
        Self::Image,
        Self::MachineDrop,
        Self::LogAppend,
        Self::LogSync,
        Self::LogView,
        Self::LogRead,
        Self::LogDrop,
        Self::TransportStart,
        Self::TransportSend,
        Self::TransportMembers,
        Self::TransportLimits,
        Self::TransportFetch,
        Self::TransportAddress,
        Self::TransportShutdown,
        Self::TransportDrop,
        Self::StoreOpen,
        Self::StoreWrite,
        Self::StoreReceive,
        Self::StoreChunk,
        Self::StoreList,
        Self::StoreRetain,
        Self::Wake,
        Self::Look,
        Self::LookDrop,
        Self::AnswerDrop,
        Self::Predicate,
    ];

    /// Its name, as in the code.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Apply => "StateMachine::apply",
            Self::Snapshot => "StateMachine::snapshot",
            Self::Restore => "StateMachine::restore",
            Self::Image => "SnapshotImage",
            Self::MachineDrop => "StateMachine (drop)",
            Self::LogAppend => "RaftLog::append",
            Self::LogSync => "RaftLog::sync",
            Self::LogView => "LogView",
            Self::LogRead => "SharedLog::read_cold",
            Self::LogDrop => "SharedLog (drop)",
            Self::TransportStart => "RaftTransport::start",
            Self::TransportSend => "RaftTransport::send",
            Self::TransportMembers => "RaftTransport::members",
            Self::TransportLimits => "RaftTransport::limits_of",
            Self::TransportFetch => "RaftTransport::fetch_chunk",
            Self::TransportAddress => "RaftTransport::client_address",
            Self::TransportShutdown => "RaftTransport::shutdown",
            Self::TransportDrop => "RaftTransport (drop)",
            Self::StoreOpen => "SnapshotStore::open",
            Self::StoreWrite => "SnapshotStore::begin",
            Self::StoreReceive => "SnapshotStore::receive",
            Self::StoreChunk => "SnapshotStore::chunk",
            Self::StoreList => "SnapshotStore::list",
            Self::StoreRetain => "SnapshotStore::retain",
            Self::Wake => "Waker::wake",
            Self::Look => "look",
            Self::LookDrop => "look (drop)",
            Self::AnswerDrop => "answer (drop)",
            Self::Predicate => "predicate",
        }
    }
}

impl fmt::Display for CodePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a panic said. What it carried is dropped here, and may panic in turn.
pub(super) fn panic_message(panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        // It could go on like this for ever.
        mem::forget(panic);
    }
    text.unwrap_or_else(|| "a panic without a message".to_string())
}

/// Runs what is not ours; or what its panic said.
pub(super) fn contain<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(panic_message)
}

/// The panics of a node that it survived.
pub(super) struct Panics {
    #[cfg_attr(not(feature = "tracing"), allow(dead_code, reason = "only events name it"))]
    node: NodeId,
    /// Of the node's status.
    changed: Arc<Signal>,
    count: AtomicU64,
    last: Mutex<Option<String>>,
}

impl Panics {
    pub(super) fn new(node: NodeId, changed: Arc<Signal>) -> Self {
        Self { node, changed, count: AtomicU64::new(0), last: Mutex::new(None) }
    }

    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    pub(super) fn last(&self) -> Option<String> {
        lock(&self.last).clone()
    }

    /// Runs what is not ours where the node can do without it: `None` after a panic, which is told.
    pub(super) fn survive<T>(&self, place: CodePlace, run: impl FnOnce() -> T) -> Option<T> {
        contain(run).map_err(|message| self.note(place, &message)).ok()
    }

    #[cold]
    pub(super) fn note(&self, place: CodePlace, message: &str) {
        let text = std::format!("{place} panicked: {message}");
        trace_event!(error, node = self.node.0, place = place.name(), "the node goes on: {text}");
        self.count.fetch_add(1, Ordering::Relaxed);
        *lock(&self.last) = Some(text);
        self.changed.notify();
    }
}

/// What is not ours and lives as long as the node: dropped by whoever lets go of the node last, without a panic.
pub(super) struct Foreign<T> {
    /// `None` only while it is dropped.
    value: Option<T>,
}

impl<T> Foreign<T> {
    pub(super) const fn new(value: T) -> Self {
        Self { value: Some(value) }
    }
}

impl<T> Deref for Foreign<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.value.as_ref().expect("it is there until it is dropped")
    }
}

impl<T> Drop for Foreign<T> {
    fn drop(&mut self) {
        let value = self.value.take();
        if let Err(message) = contain(|| drop(value)) {
            trace_event!(error, "code that a node was given panicked when it was dropped: {message}");
            let _ = message;
        }
    }
}

/// A log's reader that the protocol asks. After a panic it says whose that was.
pub(super) struct Asked<'a, V> {
    view: &'a V,
    inside: Cell<bool>,
}

impl<'a, V: LogView> Asked<'a, V> {
    pub(super) const fn new(view: &'a V) -> Self {
        Self { view, inside: Cell::new(false) }
    }

    /// A call of the reader did not come back.
    pub(super) fn panicked(&self) -> bool {
        self.inside.get()
    }

    #[inline]
    fn ask<T>(&self, ask: impl FnOnce(&V) -> T) -> T {
        self.inside.set(true);
        let answer = ask(self.view);
        self.inside.set(false);
        answer
    }
}

impl<V: LogView> LogView for Asked<'_, V> {
    fn hard_state(&self) -> HardState {
        self.ask(V::hard_state)
    }

    fn base(&self) -> EntryId {
        self.ask(V::base)
    }

    fn snapshot(&self) -> EntryId {
        self.ask(V::snapshot)
    }

    fn memberships(&self) -> Memberships {
        self.ask(V::memberships)
    }

    fn last(&self) -> EntryId {
        self.ask(V::last)
    }

    fn term(&self, index: Index) -> Option<Term> {
        self.ask(|view| view.term(index))
    }

    fn read(&self, first: Index, end: Index, bytes_max: usize) -> Read {
        self.ask(|view| view.read(first, end, bytes_max))
    }

    fn write_bytes_max(&self) -> usize {
        self.ask(V::write_bytes_max)
    }

    fn disk(&self) -> DiskId {
        self.ask(V::disk)
    }
}
