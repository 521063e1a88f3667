//! The threads that wait: for the disk, for cold reads, for the clock, for peers.

use super::apply::apply_loop;
use super::beat::Beat;
use super::contain::{CodePlace, contain};
use super::fetch::fetch_loop;
use super::mailbox::Mail;
use super::node::{Node, State};
use super::raft::StateMachine;
use super::snapshots::snapshot_loop;
use super::start_error::StartError;
use super::stopped::StopReason;
use super::sync::atomic::Ordering;
use super::sync::{lock, wait_until};
use super::unreadable::Unread;
use crate::event::Event;
use crate::log::{Read, SharedLog};
use crate::message::{Envelope, Message};
use crate::snapshot::{Chunk, ChunkRequest};
use crate::threads;
use crate::transport::{RaftTransport, Receiver};
use crate::types::{EntryId, GroupId, Index, NodeId};
use std::format;
use std::io;
use std::string::{String, ToString};
use std::sync::{Arc, Weak};
use std::time::Instant;
use std::vec::Vec;

/// An append whose entries are read off the protocol's road.
pub(super) struct ColdRead {
    /// Without its entries.
    pub(super) envelope: Envelope,
    /// The position after the last entry to send.
    pub(super) end: Index,
    /// The most to send, though always at least one entry.
    pub(super) bytes_max: usize,
}

/// Lets the transport deliver to the node.
pub(super) fn deliver<M, L, T>(node: &Arc<Node<M, L, T>>) -> Result<(), StartError>
where
    M: StateMachine,
    L: SharedLog,
    T: RaftTransport,
{
    let started = node.transport.try_start(Arc::new(Inbound::new(node)));
    started.map_err(|source| StartError::Thread { thread: "transport's", source })
}

/// Starts the node's threads. The machine has the state after `applied`. After an error some of them run, and nothing is left
/// of the log and the machine if their threads do not.
pub(super) fn spawn<M, L, T>(node: &Arc<Node<M, L, T>>, log: L, machine: M, applied: EntryId) -> Result<(), StartError>
where
    M: StateMachine,
    L: SharedLog,
    T: RaftTransport,
{
    let applying =
        spawn_one(node, "raft-apply", CodePlace::MachineDrop, move |node| apply_loop(node, machine, applied));
    if applying.is_err() {
        node.panics.survive(CodePlace::LogDrop, || drop(log));
        return applying;
    }
    spawn_one(node, "raft-log", CodePlace::LogDrop, move |node| log_loop(node, log))?;
    spawn_one(node, "raft-read", CodePlace::LogDrop, read_loop)?;
    if let Some(store) = node.options.snapshots.clone() {
        let own = store.clone();
        spawn_one(node, "raft-snapshot", CodePlace::StoreOpen, move |node| snapshot_loop(node, &own))?;
        spawn_one(node, "raft-fetch", CodePlace::StoreOpen, move |node| fetch_loop(node, &store))?;
    }
    spawn_one(node, "raft-tick", CodePlace::LogDrop, tick_loop)
}

/// Starts one thread. Without it what it was to own is dropped here, which is the user's code: `place`.
fn spawn_one<M, L, T>(
    node: &Arc<Node<M, L, T>>,
    name: &'static str,
    place: CodePlace,
    work: impl FnOnce(&Node<M, L, T>) + Send + 'static,
) -> Result<(), StartError>
where
    M: StateMachine,
    L: SharedLog,
    T: RaftTransport,
{
    let shared = Arc::clone(node);
    let run = move || {
        let _inside = shared.key.enter();
        if let Err(message) = contain(|| work(&shared)) {
            let message = format!("the {name} thread panicked: {message}");
            shared.fail_now(StopReason::Internal { message });
        }
    };
    let spawned = node.panics.survive(place, || threads::spawn(name.to_string(), run));
    let spawned = spawned.unwrap_or_else(|| Err(io::Error::other(format!("there is none, and {place} panicked"))));
    let handle = spawned.map_err(|source| StartError::Thread { thread: name, source })?;
    node.lifecycle.add_thread(handle);
    Ok(())
}

fn log_loop<M: StateMachine, L: SharedLog, T: RaftTransport>(node: &Node<M, L, T>, mut log: L) {
    write_all(node, &mut log);
    node.panics.survive(CodePlace::LogDrop, || drop(log));
}

/// Everything that is queued becomes one append and one sync. After a failure nothing is tried
/// again (law 6): what the kernel did with the dirty pages is unknown.
fn write_all<M: StateMachine, L: SharedLog, T: RaftTransport>(node: &Node<M, L, T>, log: &mut L) {
    while let Mail::Content(mut batch) = node.writes.take() {
        if node.is_fatal() {
            return;
        }
        let writes = batch.len();
        let compaction = batch.iter().filter_map(|write| write.compaction.clone()).next_back();
        let appended = contain(|| log.append(&mut batch).map_err(|error| error.to_string()));
        if let Err(reason) = written(CodePlace::LogAppend, "append", appended) {
            return node.fail_now(reason);
        }
        let synced = contain(|| log.sync().map_err(|error| error.to_string()));
        if let Err(reason) = written(CodePlace::LogSync, "sync", synced) {
            return node.fail_now(reason);
        }
        node.log_syncs.fetch_add(1, Ordering::Relaxed);
        let is_short = match contain(|| log.is_short_of_space()) {
            Ok(is_short) => is_short,
            Err(message) => {
                let place = CodePlace::LogSync;
                return node.fail_now(StopReason::Panicked { place, entry: None, message });
            }
        };
        node.step_event(Event::Persisted { writes });
        if let Some(compaction) = compaction {
            node.snapshot_recorded(compaction.snapshot);
        }
        node.note_space(is_short);
    }
}

/// What a call of the log came to: an error, or a panic.
fn written(place: CodePlace, verb: &str, result: Result<Result<(), String>, String>) -> Result<(), StopReason> {
    match result {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(StopReason::LogWriteFailed { message: format!("the log failed to {verb}: {error}") }),
        Err(message) => Err(StopReason::Panicked { place, entry: None, message }),
    }
}

impl<M: StateMachine, L: SharedLog, T: RaftTransport> Node<M, L, T> {
    /// A cold read is a message: when too many wait, this one is lost.
    pub(super) fn queue_cold_read(&self, state: &mut State<M>, read: ColdRead) {
        let mut taken = false;
        let post = self.cold_reads.post(|reads| {
            taken = reads.len() < self.options.cold_reads_max;
            if taken {
                reads.push(read);
            }
        });
        state.wake_reader |= post == Some(true);
        if !taken {
            self.cold_reads_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn read_loop<M: StateMachine, L: SharedLog, T: RaftTransport>(node: &Node<M, L, T>) {
    while let Mail::Content(reads) = node.cold_reads.take() {
        for read in reads {
            if !node.is_running() {
                return;
            }
            let ColdRead { envelope, end, bytes_max } = read;
            let Message::AppendEntriesRequest(request) = &envelope.message else { continue };
            let (peer, first) = (envelope.to, request.prev.index.next());
            match node.read_cold("entries for a peer", first, end, bytes_max) {
                Ok(found) => send_filled(node, fill(envelope, first, found)),
                // Lost like a message; the peer is told of it by its next heartbeat.
                Err(Unread::Transient(reason)) => node.unreadable_for_peer(peer, first, reason),
                // Durable entries that cannot be read are lost: another node must lead.
                Err(Unread::Lost(reason)) => return node.fail_now(reason),
            }
        }
    }
}

/// Puts the entries into the request; `None` if the log does not hold them any more.
fn fill(mut envelope: Envelope, first: Index, found: Read) -> Option<Envelope> {
    let (Message::AppendEntriesRequest(request), Read::Entries(entries)) = (&mut envelope.message, found) else {
        return None;
    };
    let follows = entries.first().is_some_and(|entry| entry.id.index == first);
    request.entries = entries;
    follows.then_some(envelope)
}

/// Only the leader of the request's term may send it: whoever leads has not truncated its log, so
/// these are the entries that it meant.
fn send_filled<M: StateMachine, L: SharedLog, T: RaftTransport>(node: &Node<M, L, T>, filled: Option<Envelope>) {
    let mut state = lock(&node.state);
    match filled {
        Some(envelope) if node.is_running() && state.leading == Some(envelope.message.term()) => {
            node.cold_reads_done.fetch_add(1, Ordering::Relaxed);
            let State { recording, protocol, obstacles, outbox, .. } = &mut *state;
            recording.sent_from_log(&envelope, protocol);
            obstacles.note_cold(&envelope);
            outbox.push(envelope);
        }
        _ => {
            node.cold_reads_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
    node.release(state);
}

/// Ticks, and sends when the other threads have better things to do.
fn tick_loop<M: StateMachine, L: SharedLog, T: RaftTransport>(node: &Node<M, L, T>) {
    let mut beat = Beat::new(node.tick, Instant::now());
    let mut due = Vec::new();
    let mut state = lock(&node.state);
    while node.is_running() {
        if beat.is_due(Instant::now()) {
            let role = state.protocol.role();
            state.ticker.tick(role, &mut |event| due.push(event));
            for event in due.drain(..) {
                if event == Event::ElectionTimeout && state.obstacles.abstains() {
                    continue;
                }
                // Timeouts are never refused.
                let _ = node.step(&mut state, event);
            }
            node.tick_disk(&mut state);
            node.tick_unreadable(&mut state);
            node.tick_transfers(&mut state);
            state.heard.tick();
            node.tick_changes(&mut state);
            node.tick_snapshots(&mut state);
            node.tick_holds(&mut state);
            state.handover = false;
            node.release(state);
            node.tick_obstacles();
            node.tick_history();
            state = lock(&node.state);
        } else if state.handover {
            state.handover = false;
            node.release(state);
            state = lock(&node.state);
        } else {
            (state, _) = wait_until(&node.tick_wake, state, Some(beat.next()));
        }
    }
}

/// What the transport delivers to. It does not keep the node alive.
pub(super) struct Inbound<M: StateMachine, L: SharedLog, T: RaftTransport> {
    node: Weak<Node<M, L, T>>,
}

impl<M: StateMachine, L: SharedLog, T: RaftTransport> Inbound<M, L, T> {
    pub(super) fn new(node: &Arc<Node<M, L, T>>) -> Self {
        Self { node: Arc::downgrade(node) }
    }
}

impl<M: StateMachine, L: SharedLog, T: RaftTransport> Receiver for Inbound<M, L, T> {
    fn receive(&self, group: GroupId, envelope: Envelope) {
        let Some(node) = self.node.upgrade() else { return };
        if group != node.options.group || !node.is_running() {
            return;
        }
        let _inside = node.key.enter();
        let mut state = lock(&node.state);
        state.counters.messages_received += 1;
        state.heard.note(envelope.from);
        // Messages are never refused.
        let _ = node.step(&mut state, Event::Receive(envelope));
        node.release(state);
    }

    fn data_lost(&self, reason: String) {
        let Some(node) = self.node.upgrade() else { return };
        let _inside = node.key.enter();
        node.fail_now(StopReason::DataLost { message: reason });
    }

    fn snapshot_chunk(&self, group: GroupId, from: NodeId, request: ChunkRequest) -> Option<Chunk> {
        let node = self.node.upgrade()?;
        let _inside = node.key.enter();
        (group == node.options.group && node.is_running()).then(|| node.serve_chunk(from, request))?
    }
}
