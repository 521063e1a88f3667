//! The apply thread: committed entries into the state machine, responses to their proposers.

use super::error::{RequestError, UnknownReason};
use super::mailbox::Mail;
use super::node::{Handle, Node, Settled, StaleRead, life, panic_message};
use super::proposals::Appended;
use super::raft::{Applied, StateMachine};
use super::reads::{BoxedRead, ByIndex};
use super::sync::atomic::Ordering;
use crate::log::{LogView, Read, SharedLog};
use crate::transport::RaftTransport;
use crate::types::{Entries, Entry, Index, Payload};
use std::collections::VecDeque;
use std::format;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::string::String;
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
    /// The proposals among the entries, ascending.
    pub(super) proposals: Vec<Appended<M::Response>>,
    /// Confirmed reads, each with the index that must be applied first.
    pub(super) reads: Vec<(Index, BoxedRead<M>)>,
    /// Who wants to look at the state machine as it is. Each waits in a thread of its own.
    pub(super) stale_reads: Vec<StaleRead<M>>,
}

impl<M: StateMachine> Default for ApplyWork<M> {
    fn default() -> Self {
        Self { through: Index::ZERO, proposals: Vec::new(), reads: Vec::new(), stale_reads: Vec::new() }
    }
}

/// The apply thread's own state.
struct Applier<'a, M: StateMachine, L: SharedLog, T: RaftTransport> {
    node: &'a Node<M, L, T>,
    machine: M,
    /// The last index applied.
    applied: Index,
    /// The last index to apply.
    through: Index,
    /// The proposals in `(applied, through]`, ascending.
    proposals: VecDeque<Appended<M::Response>>,
    /// Reads that wait for an index in `(applied, through]`.
    reads: ByIndex<M>,
    /// Entries read and not yet applied, from `applied + 1` on.
    entries: Entries,
    /// Answers not yet given.
    answers: Vec<Settled<M::Response>>,
}

/// Applies until the node stops. Commands that were committed and not applied by then are answered as
/// unknown, reads as refused.
pub(super) fn apply_loop<M, L, T>(node: &Node<M, L, T>, machine: M)
where
    M: StateMachine,
    L: SharedLog,
    T: RaftTransport,
{
    let mut applier = Applier {
        node,
        machine,
        applied: Index::ZERO,
        through: Index::ZERO,
        proposals: VecDeque::new(),
        reads: ByIndex::new(),
        entries: Entries::EMPTY,
        answers: Vec::new(),
    };
    let ran = catch_unwind(AssertUnwindSafe(|| applier.run()));
    match ran {
        Ok(Ok(())) => {}
        Ok(Err(reason)) => node.fail_now(reason),
        Err(panic) => node.fail_now(format!("the apply thread panicked: {}", panic_message(&*panic))),
    }
    applier.abandon();
}

impl<M: StateMachine, L: SharedLog, T: RaftTransport> Applier<'_, M, L, T> {
    fn run(&mut self) -> Result<(), String> {
        while self.node.is_running() {
            let idle = self.applied == self.through;
            match if idle { self.node.applies.take() } else { self.node.applies.poll() } {
                Mail::Closed => return Ok(()),
                Mail::Nothing => {}
                Mail::Content(work) => self.accept(work),
            }
            if self.applied < self.through && self.node.is_running() {
                self.take_turn()?;
            }
        }
        Ok(())
    }

    fn accept(&mut self, work: ApplyWork<M>) {
        self.through = self.through.max(work.through);
        self.proposals.extend(work.proposals);
        for look in work.stale_reads {
            look(&self.machine);
        }
        let (due, later): (Vec<_>, Vec<_>) = work.reads.into_iter().partition(|(index, _)| *index <= self.applied);
        for (index, read) in later {
            self.reads.add(index, read);
        }
        self.node.answer_reads(&self.machine, due.into_iter().map(|(_, read)| read));
    }

    /// Applies for a while, then gives the answers together.
    fn take_turn(&mut self) -> Result<(), String> {
        let started = Instant::now();
        if self.entries.is_empty() {
            self.entries = self.read()?;
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
        let node = self.node;
        node.commands_applied.fetch_add(commands, Ordering::Relaxed);
        node.applied_index.store(self.applied.0, Ordering::SeqCst);
        node.answer(mem::take(&mut self.answers));
        if !self.reads.is_empty() {
            let due = self.reads.take_through(self.applied);
            node.answer_reads(&self.machine, due.map(|(_, read)| read));
        }
        node.changed.notify();
        result
    }

    /// The next entries, wherever the log has them.
    fn read(&self) -> Result<Entries, String> {
        let (first, end) = (self.applied.next(), self.through.next());
        let node = self.node;
        let bytes_max = node.options.apply_bytes_max;
        let read = match node.view.read(first, end, bytes_max) {
            Read::Cold => L::read_cold(&node.view, first, end, bytes_max)
                .map_err(|error| format!("committed entries from {first} on cannot be read from the log: {error}"))?,
            read => read,
        };
        match read {
            Read::Entries(entries) if entries.first().is_some_and(|entry| entry.id.index == first) => Ok(entries),
            other => Err(format!("the log does not give the committed entry {first}: {}", found(&other))),
        }
    }

    fn apply(&mut self, entry: &Entry) -> Result<(), String> {
        let id = entry.id;
        if let Payload::Command(command) = &entry.payload {
            let machine = &mut self.machine;
            let response = catch_unwind(AssertUnwindSafe(|| machine.apply(id, command)))
                .map_err(|panic| format!("the state machine panicked at {id}: {}", panic_message(&*panic)))?;
            self.respond(entry, response)?;
        }
        self.applied = id.index;
        Ok(())
    }

    fn respond(&mut self, entry: &Entry, response: M::Response) -> Result<(), String> {
        let id = entry.id;
        match self.proposals.front() {
            Some(proposal) if proposal.id.index <= id.index => {}
            _ => return Ok(()),
        }
        let Some(proposal) = self.proposals.pop_front() else { return Ok(()) };
        if proposal.id != id {
            return Err(format!("the log gives {id} where this node committed its proposal {}", proposal.id));
        }
        self.answers.push((proposal.completer, Ok(Applied { id, response })));
        Ok(())
    }

    /// The node stops: the rest is committed, but its responses will not be known here.
    fn abandon(mut self) {
        // From here on a read is refused; one that came before is in what follows.
        self.node.applies.close();
        let mut reads: Vec<BoxedRead<M>> = self.reads.take_all().collect();
        while let Mail::Content(work) = self.node.applies.poll() {
            // Dropped stale reads tell their callers by themselves.
            self.proposals.extend(work.proposals);
            reads.extend(work.reads.into_iter().map(|(_, read)| read));
        }
        if !reads.is_empty() {
            let error = self.node.why_closed();
            self.node.refuse_reads(reads.into_iter().map(|read| (read, error.clone())).collect());
        }
        let fatal = self.node.life.load(Ordering::SeqCst) == life::FATAL;
        let reason = if fatal { UnknownReason::Fatal } else { UnknownReason::Shutdown };
        let rest = self.proposals.drain(..);
        let unknown =
            rest.map(|Appended { id, completer }| (completer, Err(RequestError::OutcomeUnknown { id, reason })));
        self.answers.extend(unknown);
        self.node.answer(self.answers);
        self.node.changed.notify();
    }
}

fn found(read: &Read) -> &'static str {
    match read {
        Read::Entries(entries) if entries.is_empty() => "it ends before",
        Read::Entries(_) => "it gives other ones",
        Read::Cold => "it claims to need the medium after waiting for it",
        Read::Compacted => "it was compacted away",
    }
}
