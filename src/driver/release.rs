//! What a step leaves behind when the lock is released: wake-ups, messages, answers.

use super::contain::{CodePlace, contain};
use super::loss;
use super::members::Told;
use super::node::{Guard, Node, Settled};
use super::raft::StateMachine;
use super::slot::Wake;
use super::stopped::StopReason;
use super::sync::atomic::Ordering;
use super::sync::lock;
use crate::log::SharedLog;
use crate::message::Envelope;
use crate::transport::RaftTransport;
use std::mem;
use std::vec::Vec;

/// How many rounds of messages a thread sends for others before it hands that over to the ticker.
const SEND_ROUNDS_MAX: usize = 8;

impl<M: StateMachine, L: SharedLog, T: RaftTransport> Node<M, L, T> {
    /// Releases the lock and does what must not happen under it: wakes threads, gives answers,
    /// sends. One thread sends at a time, so messages leave in the order of the steps.
    pub(super) fn release(&self, state: Guard<'_, M>) {
        let mut state = state;
        let mut rounds = 0;
        loop {
            let wake_log = mem::take(&mut state.wake_log);
            let wake_apply = mem::take(&mut state.wake_apply);
            let wake_reader = mem::take(&mut state.wake_reader);
            let wake_fetch = mem::take(&mut state.wake_fetch);
            let changed = mem::take(&mut state.changed);
            let answers = mem::take(&mut state.answers);
            let refused_reads = mem::take(&mut state.reads.refused);
            let transfers = mem::take(&mut state.transfers.settled);
            let changes = mem::take(&mut state.changes.settled);
            let requesters = mem::take(&mut state.snapshots.settled);
            let mut batch = Vec::new();
            let mut told = Told::default();
            let sends = !state.sending && state.has_to_send() && rounds < SEND_ROUNDS_MAX;
            if sends {
                rounds += 1;
                state.sending = true;
                told = state.members.take();
                state.counters.messages_sent += state.outbox.len() as u64;
                let spare = mem::take(&mut state.spare);
                batch = mem::replace(&mut state.outbox, spare);
            }
            drop(state);
            let dispatched = contain(|| {
                let _inside = self.key.enter();
                // The disk takes longest: it starts first.
                if wake_log {
                    self.writes.wake();
                }
                if wake_apply {
                    self.applies.wake();
                }
                if wake_reader {
                    self.cold_reads.wake();
                }
                if wake_fetch {
                    self.fetches.wake();
                    self.fetch_orders.notify();
                }
                self.send_all(&told, &mut batch);
                self.answer(answers);
                self.refuse_reads(refused_reads);
                self.answer_transfers(transfers);
                self.answer_changes(changes);
                self.answer_requesters(requesters);
                if changed {
                    self.changed.notify();
                }
            });
            let broken = dispatched.err();
            if !sends && broken.is_none() {
                return;
            }
            state = lock(&self.state);
            if sends {
                state.sending = false;
                state.spare = batch;
            }
            if let Some(message) = broken {
                // What was to be given out is lost with it, so the node cannot go on.
                self.fail(&mut state, StopReason::Internal { message });
            }
            let answered = state.answers.is_empty() && state.snapshots.settled.is_empty();
            let settled = answered && state.reads.refused.is_empty() && state.transfers.settled.is_empty();
            // A transport that panicked stopped the node: that is told as well.
            let told = settled && state.changes.settled.is_empty() && !state.changed;
            if !state.has_to_send() && told {
                return;
            }
            if rounds == SEND_ROUNDS_MAX && state.has_to_send() {
                // Others step faster than this thread sends: it has its own work to return to.
                state.handover = true;
                self.tick_wake.notify_all();
            }
        }
    }

    fn send_all(&self, told: &Told, batch: &mut Vec<Envelope>) {
        let group = self.options.group;
        // Who is new is known before the first message to it.
        if let Err(message) = contain(|| self.tell(told)) {
            return self.fail_at(&mut lock(&self.state), CodePlace::TransportMembers, message);
        }
        let sent = contain(|| {
            for envelope in batch.drain(..) {
                if self.is_running() || loss::is_told_by(&envelope) {
                    self.transport.send(group, envelope);
                }
            }
        });
        if let Err(message) = sent {
            self.fail_at(&mut lock(&self.state), CodePlace::TransportSend, message);
        }
    }

    /// Gives answers: first all of them, then the wake-ups.
    pub(super) fn answer(&self, answers: Vec<Settled<M::Response>>) {
        if answers.is_empty() {
            return;
        }
        self.open.fetch_sub(answers.len(), Ordering::SeqCst);
        let mut wakes = Vec::new();
        for (completer, mut answer) in answers {
            if let Err(error) = &mut answer {
                self.name_leader(error);
            }
            wakes.extend(self.panics.survive(CodePlace::AnswerDrop, || completer.complete(answer)).flatten());
        }
        self.wake_all(wakes);
    }

    /// The wakers are the user's code: the panic of one is no reason to lose the others.
    pub(super) fn wake_all<N, A>(&self, wakes: Vec<Wake<N, A>>) {
        for wake in wakes {
            self.panics.survive(CodePlace::Wake, || wake.wake());
        }
    }
}
