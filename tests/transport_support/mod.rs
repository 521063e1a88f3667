//! What the transport tests share: a receiver that collects, waits with a deadline, messages.
#![allow(dead_code)]

pub(crate) mod proxy;
pub(crate) mod snapshots;

use bytes::Bytes;
use raft_io::message::{AppendEntriesRequest, RequestVoteRequest};
use raft_io::transport::Receiver;
#[cfg(feature = "tcp")]
use raft_io::wire::{Frame, Refusal, Refuser};
use raft_io::{Entry, EntryId, Envelope, GroupId, Index, Message, NodeId, Payload, Term};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Far longer than anything here takes; reached only on failure.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) type Received = Vec<(GroupId, Envelope)>;

/// Collects what a transport delivers.
pub(crate) struct Inbox {
    shared: Arc<Collected>,
}

#[derive(Default)]
pub(crate) struct Collected {
    messages: Mutex<Received>,
    changed: Condvar,
}

struct Collector<F> {
    shared: Arc<Collected>,
    then: F,
}

impl<F: Fn() + Send + Sync + 'static> Receiver for Collector<F> {
    fn receive(&self, group: GroupId, envelope: Envelope) {
        self.shared.messages.lock().unwrap().push((group, envelope));
        self.shared.changed.notify_all();
        (self.then)();
    }
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self { shared: Arc::default() }
    }

    pub(crate) fn receiver(&self) -> Arc<dyn Receiver> {
        self.receiver_then(|| {})
    }

    /// A receiver that also calls `then` after each message.
    pub(crate) fn receiver_then(&self, then: impl Fn() + Send + Sync + 'static) -> Arc<dyn Receiver> {
        Arc::new(Collector { shared: Arc::clone(&self.shared), then })
    }

    pub(crate) fn len(&self) -> usize {
        self.shared.messages.lock().unwrap().len()
    }

    pub(crate) fn messages(&self) -> Received {
        self.shared.messages.lock().unwrap().clone()
    }

    /// How many hold on to this inbox, itself included.
    pub(crate) fn holders(&self) -> usize {
        Arc::strong_count(&self.shared)
    }

    /// Waits for at least `count` messages and returns all.
    pub(crate) fn wait_for(&self, count: usize) -> Received {
        let mut messages = self.shared.messages.lock().unwrap();
        let deadline = Instant::now() + DEADLINE;
        while messages.len() < count {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{} of {count} messages came", messages.len());
            messages = self.shared.changed.wait_timeout(messages, left).unwrap().0;
        }
        messages.clone()
    }
}

/// Polls until `condition` holds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::yield_now();
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

pub(crate) fn envelope(from: u64, to: u64, message: Message) -> Envelope {
    Envelope { from: NodeId(from), to: NodeId(to), message }
}

pub(crate) fn vote(term: u64) -> Message {
    Message::RequestVoteRequest(RequestVoteRequest {
        term: Term(term),
        last: EntryId::ZERO,
        leadership_transfer: false,
    })
}

/// An append of commands after an empty log.
pub(crate) fn append(term: u64, commands: &[&str]) -> Message {
    append_bytes(term, commands.iter().map(|command| Bytes::copy_from_slice(command.as_bytes())))
}

pub(crate) fn append_bytes(term: u64, commands: impl IntoIterator<Item = Bytes>) -> Message {
    let entries = commands.into_iter().zip(1..);
    let entry =
        |(command, index): (Bytes, u64)| Entry { id: EntryId::new(index, term), payload: Payload::Command(command) };
    Message::AppendEntriesRequest(AppendEntriesRequest {
        acknowledged: Default::default(),
        disk: Default::default(),
        history: None,
        session: Index::ZERO,
        term: Term(term),
        prev: EntryId::ZERO,
        entries: entries.map(entry).collect(),
        commit: Index::ZERO,
    })
}

/// Test configurations are impatient: what takes seconds in production takes a tenth of it here.
#[cfg(feature = "tcp")]
pub(crate) fn config(id: u64) -> raft_io::transport::TcpConfig {
    let mut config = raft_io::transport::TcpConfig::new(CLUSTER, id, "127.0.0.1:0");
    config.ping_interval = Duration::from_millis(100);
    config.silence_max = Duration::from_secs(1);
    config.backoff_first = Duration::from_millis(10);
    config.backoff_last = Duration::from_millis(100);
    config
}

pub(crate) const CLUSTER: u64 = 42;

/// A refusal as a server of 0.6 says it.
#[cfg(feature = "tcp")]
pub(crate) fn refused(reason: Refusal) -> Frame {
    Frame::Refusal { reason, by: Refuser::default() }
}

/// Why a server refuses, if that is its answer.
#[cfg(feature = "tcp")]
pub(crate) fn refusal(answer: Option<Frame>) -> Option<Refusal> {
    match answer {
        Some(Frame::Refusal { reason, .. }) => Some(reason),
        _ => None,
    }
}
