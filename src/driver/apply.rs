//! The apply thread: committed entries into the state machine, responses to their proposers, images
//! out of it and snapshots into it.

use super::contain::{CodePlace, contain};
use super::error::{RequestError, TakeSnapshotError, UnknownReason};
use super::mailbox::Mail;
use super::node::{Handle, Node, Settled, life};
use super::proposals::Appended;
use super::raft::{Applied, StateMachine};
use super::reads::{BoxedRead, ByIndex};
use super::snapshots::{self, Requester};
use super::stopped::StopReason;
use super::sync::atomic::Ordering;
use super::sync::lock;
use super::trigger::Trigger;
use super::unreadable::Unread;
use crate::log::{LogView, Read, SharedLog};
use crate::transport::RaftTransport;
use crate::types::{Entries, Entry, EntryId, Index, Payload};
use std::collections::VecDeque;
use std::format;
use std::mem;
use std::string::{String, ToString};
use std::time::{Duration, Instant};
use std::vec::Vec;

/// How many entries are applied before the thread gives answers and looks at its mail.
const ENTRIES_MAX: usize = 256;
/// How long it applies before it does: a slow state machine holds back nobody's answer but its own.
const TURN_MAX: Duration = Duration::from_micros(500);

/// What waits for the apply thread. A hundred commits while it was busy are one.
pub(super) struct ApplyWork<M: StateMachine> {
    /// The last index to apply.
    pub(super) through: Index,
    /// The snapshot that brings everything up to it, instead of the entries.
    restore: Option<EntryId>,
    /// The proposals among the entries, ascending.
    pub(super) proposals: Vec<Appended<M::Response>>,
    /// Confirmed reads, each with the index that must be applied first.
    pub(super) reads: Vec<(Index, BoxedRead<M>)>,
    /// Who wants to look at the state machine as it is. Each waits in a thread of its own.
    pub(super) stale_reads: Vec<BoxedRead<M>>,
    /// Who wants a snapshot now.
    pub(super) snapshot_requests: Vec<Requester>,
    /// A snapshot is due, whatever was counted.
    pub(super) snapshot_wanted: bool,
    /// The snapshot thread is done with its image.
    pub(super) snapshot_ended: bool,
    /// A tick passed since the log could not be read.
    pub(super) read_again: bool,
}

impl<M: StateMachine> ApplyWork<M> {
    /// The state of the snapshot takes the place of everything before it.
    pub(super) fn restore(&mut self, last: EntryId) {
        self.restore = Some(last);
        self.through = last.index;
    }
}

impl<M: StateMachine> Default for ApplyWork<M> {
    fn default() -> Self {
        Self {
            through: Index::ZERO,
            restore: None,
            proposals: Vec::new(),
            reads: Vec::new(),
            stale_reads: Vec::new(),
            snapshot_requests: Vec::new(),
            snapshot_wanted: false,
            snapshot_ended: false,
            read_again: false,
        }
    }
}

/// The apply thread's own state.
struct Applier<'a, M: StateMachine, L: SharedLog, T: RaftTransport> {
    node: &'a Node<M, L, T>,
    machine: M,
    /// The last entry applied.
    applied: EntryId,
    /// The last index to apply.
    through: Index,
    /// The proposals in `(applied, through]`, ascending.
    proposals: VecDeque<Appended<M::Response>>,
    /// Reads that wait for an index in `(applied, through]`.
    reads: ByIndex<M>,
    /// Entries read and not yet applied, from `applied + 1` on.
    entries: Entries,
    /// The log no longer holds what comes next: a snapshot that covers it is about to be installed.
    awaits_restore: bool,
    /// A snapshot that is to be restored and could not be opened; it is tried again at the next tick.
    unopened: Option<EntryId>,
    /// What comes next could not be read the last time.
    unreadable: bool,
    /// And it is tried again at the next tick.
    awaits_tick: bool,
    trigger: Trigger,
    /// The snapshot that the snapshot thread is writing.
    taking: Option<EntryId>,
    /// Who wanted to look when the node broke down.
    stale_reads: Vec<BoxedRead<M>>,
    /// Who asked for a snapshot when the node broke down.
    requesters: Vec<Requester>,
    /// Answers not yet given.
    answers: Vec<Settled<M::Response>>,
}

/// Applies until the node stops; the machine has the state after `applied`. Commands that were committed and not applied by then are answered as
/// unknown, reads as refused.
pub(super) fn apply_loop<M, L, T>(node: &Node<M, L, T>, machine: M, applied: EntryId)
where
    M: StateMachine,
    L: SharedLog,
    T: RaftTransport,
{
    let mut applier = Applier {
        node,
        machine,
        applied,
        through: applied.index,
        proposals: VecDeque::new(),
        reads: ByIndex::new(),
        entries: Entries::EMPTY,
        awaits_restore: false,
        unopened: None,
        unreadable: false,
        awaits_tick: false,
        trigger: Trigger::new(&node.options),
        taking: None,
        stale_reads: Vec::new(),
        requesters: Vec::new(),
        answers: Vec::new(),
    };
    match contain(|| applier.run()) {
        Ok(Ok(())) => {}
        Ok(Err(reason)) => node.fail_now(reason),
        Err(message) => {
            let message = format!("the apply thread panicked: {message}");
            node.fail_now(StopReason::Internal { message });
        }
    }
    applier.abandon();
}

impl<M: StateMachine, L: SharedLog, T: RaftTransport> Applier<'_, M, L, T> {
    fn run(&mut self) -> Result<(), StopReason> {
        while self.node.is_running() {
            match if self.can_apply() { self.node.applies.poll() } else { self.node.applies.take() } {
                Mail::Closed => return Ok(()),
                Mail::Nothing => {}
                Mail::Content(work) => self.accept(work)?,
            }
            if self.can_apply() && self.node.is_running() {
                self.take_turn()?;
            }
            let due = self.trigger.is_due() && self.taking.is_none() && !self.awaits_restore;
            if due && self.node.is_running() {
                self.capture(Vec::new())?;
            }
        }
        Ok(())
    }

    fn can_apply(&self) -> bool {
        self.applied.index < self.through && !self.awaits_restore && !self.awaits_tick
    }

    fn accept(&mut self, work: ApplyWork<M>) -> Result<(), StopReason> {
        self.through = self.through.max(work.through);
        self.proposals.extend(work.proposals);
        if work.snapshot_ended {
            self.taking = None;
        }
        let mut restore = work.restore;
        if work.read_again {
            self.awaits_tick = false;
            restore = restore.or(self.unopened);
        }
        if let Some(last) = restore {
            if let Err(reason) = self.restore(last) {
                // What would be lost here is refused with the rest.
                self.reads.add_all(work.reads);
                self.stale_reads.extend(work.stale_reads);
                self.requesters.extend(work.snapshot_requests);
                return Err(reason);
            }
        }
        for mut read in work.stale_reads {
            read.look(&self.machine, &self.node.panics);
            read.wake(&self.node.panics);
        }
        let applied = self.applied.index;
        let (due, later): (Vec<_>, Vec<_>) = work.reads.into_iter().partition(|(index, _)| *index <= applied);
        self.reads.add_all(later);
        self.node.answer_reads(&self.machine, due.into_iter().map(|(_, read)| read));
        if !work.snapshot_requests.is_empty() || work.snapshot_wanted {
            self.take_snapshot(work.snapshot_requests, work.snapshot_wanted)?;
        }
        Ok(())
    }

    /// Replaces the machine's state with a leader's snapshot. What is covered by it and was not applied
    /// here is applied by that, without a response.
    fn restore(&mut self, last: EntryId) -> Result<(), StopReason> {
        if last.index <= self.applied.index {
            return Ok(());
        }
        let node = self.node;
        let failed = |message: String| StopReason::SnapshotNotRestored { snapshot: last, message };
        let store = node.options.snapshots.as_ref().ok_or_else(|| failed("there is no store for it".to_string()))?;
        let panicked = |message: String| failed(snapshots::panicked(CodePlace::StoreOpen, &message).to_string());
        self.unopened = None;
        let mut reader = match contain(|| store.open(last)).map_err(panicked)? {
            Ok(reader) => reader,
            // A newer one superseded it while this thread was busy, and is about to come.
            Err(_) if self.ask(CodePlace::LogView, |view| view.snapshot())?.index > last.index => {
                self.awaits_restore = true;
                return Ok(());
            }
            Err(error) if error.is_transient() => {
                (self.unopened, self.awaits_restore, self.unreadable) = (Some(last), true, true);
                return node.unreadable_for_machine(failed(error.to_string()));
            }
            Err(error) => return Err(failed(error.to_string())),
        };
        snapshots::restore(&mut self.machine, &mut *reader).map_err(|error| failed(error.to_string()))?;
        node.panics.survive(CodePlace::StoreOpen, || drop(reader));
        self.entries = Entries::EMPTY;
        self.awaits_restore = false;
        self.log_is_readable();
        self.applied = last;
        self.trigger.begin_anew();
        while self.proposals.front().is_some_and(|proposal| proposal.id.index <= last.index) {
            let Some(Appended { id, completer }) = self.proposals.pop_front() else { break };
            let reason = UnknownReason::CoveredBySnapshot;
            self.answers.push((completer, Err(RequestError::OutcomeUnknown { id, reason })));
        }
        self.publish();
        Ok(())
    }

    /// Takes a snapshot for who asks for one: a new one, unless one is being written or the log begins
    /// with the present state already.
    fn take_snapshot(&mut self, requesters: Vec<Requester>, replaces_damaged: bool) -> Result<(), StopReason> {
        if let Some(last) = self.taking {
            self.node.join_snapshot(last, requesters);
            return Ok(());
        }
        if self.applied == EntryId::ZERO {
            let answers = requesters.into_iter().map(|requester| (requester, Err(TakeSnapshotError::NothingApplied)));
            self.node.answer_requesters(answers.collect());
            return Ok(());
        }
        let covered = !replaces_damaged && lock(&self.node.state).protocol.snapshot() == self.applied;
        // The log says that it begins with it; only the store can say that it is there.
        if covered && self.node.has_snapshot(self.applied) {
            self.node.join_snapshot(self.applied, requesters);
            return Ok(());
        }
        self.capture(requesters)
    }

    /// Asks the machine for an image and hands it on.
    fn capture(&mut self, requesters: Vec<Requester>) -> Result<(), StopReason> {
        if self.node.options.snapshots.is_none() {
            self.trigger.reset();
            return Ok(());
        }
        let (machine, last) = (&mut self.machine, self.applied);
        let image = match contain(|| machine.snapshot()) {
            Ok(image) => image,
            Err(message) => {
                self.requesters.extend(requesters);
                return Err(StopReason::Panicked { place: CodePlace::Snapshot, entry: None, message });
            }
        };
        self.trigger.reset();
        match image {
            Some(image) => {
                self.taking = Some(last);
                self.node.begin_snapshot(last, self.trigger.trail(last), image, requesters);
            }
            None => {
                let answers = requesters.into_iter().map(|requester| (requester, Err(TakeSnapshotError::Unsupported)));
                self.node.answer_requesters(answers.collect());
            }
        }
        Ok(())
    }

    /// Applies for a while, then gives the answers together.
    fn take_turn(&mut self) -> Result<(), StopReason> {
        let started = Instant::now();
        if self.entries.is_empty() {
            match self.read()? {
                Next::Entries(entries) => self.entries = entries,
                Next::Snapshot => self.awaits_restore = true,
                Next::Unreadable => (self.unreadable, self.awaits_tick) = (true, true),
            }
            if self.awaits_restore || self.awaits_tick {
                return Ok(());
            }
            self.log_is_readable();
        }
        let entries = mem::take(&mut self.entries);
        let mut done = 0;
        let mut commands = 0;
        let mut result = Ok(());
        for entry in entries.iter().take(ENTRIES_MAX) {
            result = self.apply(entry);
            if result.is_err() {
                break;
            }
            done += 1;
            commands += u64::from(matches!(entry.payload, Payload::Command(_)));
            if started.elapsed() >= TURN_MAX {
                break;
            }
        }
        self.entries = entries.slice(done, entries.len());
        self.node.commands_applied.fetch_add(commands, Ordering::Relaxed);
        self.publish();
        result
    }

    /// Gives the answers, and tells how far the machine is.
    fn publish(&mut self) {
        let (node, applied) = (self.node, self.applied.index);
        node.applied_index.store(applied.0, Ordering::SeqCst);
        node.answer(mem::take(&mut self.answers));
        if !self.reads.is_empty() {
            let due = self.reads.take_through(applied);
            node.answer_reads(&self.machine, due.map(|(_, read)| read));
        }
        node.changed.notify();
    }

    /// The next entries, wherever the log has them.
    fn read(&self) -> Result<Next, StopReason> {
        let (first, end) = (self.applied.index.next(), self.through.next());
        let node = self.node;
        let bytes_max = node.options.apply_bytes_max;
        let read = match self.ask(CodePlace::LogView, |view| view.read(first, end, bytes_max))? {
            Read::Cold => match node.read_cold("committed entries", first, end, bytes_max) {
                Ok(read) => read,
                Err(Unread::Transient(error)) => {
                    let message = format!("committed entries from {first} on cannot be read from the log: {error}");
                    let reason = StopReason::LogReadFailed { message };
                    return node.unreadable_for_machine(reason).map(|()| Next::Unreadable);
                }
                Err(Unread::Lost(reason)) => return Err(reason),
            },
            read => read,
        };
        match read {
            Read::Entries(entries) if entries.first().is_some_and(|entry| entry.id.index == first) => {
                Ok(Next::Entries(entries))
            }
            Read::Compacted if self.ask(CodePlace::LogView, |view| view.snapshot())?.index >= first => {
                Ok(Next::Snapshot)
            }
            other => Err(StopReason::LogInconsistent {
                message: format!("the log does not give the committed entry {first}: {}", found(&other)),
            }),
        }
    }

    fn log_is_readable(&mut self) {
        self.awaits_tick = false;
        if mem::take(&mut self.unreadable) {
            self.node.readable_for_machine();
        }
    }

    fn ask<R>(&self, place: CodePlace, ask: impl FnOnce(&L::Reader) -> R) -> Result<R, StopReason> {
        contain(|| ask(&self.node.view)).map_err(|message| StopReason::Panicked { place, entry: None, message })
    }

    fn apply(&mut self, entry: &Entry) -> Result<(), StopReason> {
        let id = entry.id;
        // The state machine is given every entry once, in the order of the log, whatever the log's reader says.
        if id.index != self.applied.index.next() || id.term < self.applied.term {
            let message = format!("the log gives {id} where the entry after {} is to be applied", self.applied);
            return Err(StopReason::LogInconsistent { message });
        }
        if let Payload::Command(command) = &entry.payload {
            let machine = &mut self.machine;
            let place = CodePlace::Apply;
            let response = contain(|| machine.apply(id, command)).map_err(|message| StopReason::Panicked {
                place,
                entry: Some(id),
                message,
            })?;
            self.respond(entry, response)?;
        }
        self.applied = id;
        self.trigger.count(entry);
        Ok(())
    }

    fn respond(&mut self, entry: &Entry, response: M::Response) -> Result<(), StopReason> {
        let id = entry.id;
        match self.proposals.front() {
            Some(proposal) if proposal.id.index <= id.index => {}
            _ => {
                // Nobody here waits for it.
                if mem::needs_drop::<M::Response>() {
                    self.node.panics.survive(CodePlace::AnswerDrop, || drop(response));
                }
                return Ok(());
            }
        }
        let Some(proposal) = self.proposals.pop_front() else { return Ok(()) };
        if proposal.id != id {
            let message = format!("the log gives {id} where this node committed its proposal {}", proposal.id);
            return Err(StopReason::LogInconsistent { message });
        }
        self.answers.push((proposal.completer, Ok(Applied { id, response })));
        Ok(())
    }

    /// The node stops: the rest is committed, but its responses will not be known here.
    fn abandon(mut self) {
        // From here on a read is refused; one that came before is in what follows.
        self.node.applies.close();
        let mut reads: Vec<BoxedRead<M>> = self.reads.take_all().collect();
        let mut requesters = mem::take(&mut self.requesters);
        while let Mail::Content(work) = self.node.applies.poll() {
            requesters.extend(work.snapshot_requests);
            self.stale_reads.extend(work.stale_reads);
            self.proposals.extend(work.proposals);
            reads.extend(work.reads.into_iter().map(|(_, read)| read));
        }
        if !reads.is_empty() {
            let error = self.node.why_closed();
            self.node.refuse_reads(reads.into_iter().map(|read| (read, error.clone())).collect());
        }
        for mut read in mem::take(&mut self.stale_reads) {
            read.refuse(self.node.why_closed(), &self.node.panics);
            read.wake(&self.node.panics);
        }
        self.node.refuse_requesters(requesters);
        let fatal = self.node.life.load(Ordering::SeqCst) == life::FATAL;
        let reason = if fatal { UnknownReason::Fatal } else { UnknownReason::Shutdown };
        let rest = self.proposals.drain(..);
        let unknown =
            rest.map(|Appended { id, completer }| (completer, Err(RequestError::OutcomeUnknown { id, reason })));
        self.answers.extend(unknown);
        self.node.answer(mem::take(&mut self.answers));
        let machine = self.machine;
        self.node.panics.survive(CodePlace::MachineDrop, || drop(machine));
        self.node.changed.notify();
    }
}

/// What comes next for the state machine.
enum Next {
    Entries(Entries),
    /// The log began anew behind a leader's snapshot, which covers what this machine did not apply.
    Snapshot,
    /// The log cannot read it at the moment.
    Unreadable,
}

fn found(read: &Read) -> &'static str {
    match read {
        Read::Entries(entries) if entries.is_empty() => "it ends before",
        Read::Entries(_) => "it gives other ones",
        Read::Cold => "it claims to need the medium after waiting for it",
        Read::Compacted => "it was compacted away",
    }
}
