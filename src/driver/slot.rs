//! A completion slot: one answer, handed from the thread that has it to the one that wants it,
//! which waits for it as a thread or as a task of any async runtime.
//!
//! The answer comes exactly once. A slot whose completer is dropped without an answer says so.
//! Storing an answer and waking the waiter are two acts: who completes a batch stores all its
//! answers first and wakes afterwards, so a client that waits for one of them finds the rest.

use super::sync::{Arc, Condvar, Mutex, lock, wait, wait_until};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

/// A slot of its own for one answer of type `T`. `N` is what becomes known on the way to it.
pub(crate) fn slot<N: Copy, T>() -> (Completer<N, T>, Completion<N, T>) {
    let slot =
        Arc::new(Slot { inner: Mutex::new(Inner { stage: Stage::Idle, waiter: Waiter::None }), done: Condvar::new() });
    (Completer { slot: Some(slot.clone()) }, Completion { slot })
}

/// How a wait ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome<N, T> {
    /// The answer.
    Done(T),
    /// The deadline passed. Without a note the work had not begun, and now never will.
    Expired(Option<N>),
    /// There will be no answer.
    Abandoned(Option<N>),
}

enum Stage<N, T> {
    /// Nothing happened yet; the waiter may still cancel.
    Idle,
    /// The waiter gave up before the work began: it must not begin.
    Cancelled,
    /// The work has begun. Lasts microseconds: a note or the answer follows.
    Begun,
    /// The work is under way and known as this.
    Noted(N),
    /// The answer, not yet taken.
    Done(T),
    /// The completer is gone without an answer.
    Abandoned(Option<N>),
    /// The answer has been handed out.
    Taken,
}

enum Waiter {
    None,
    /// A thread, on the condition variable.
    Thread,
    /// A thread whose deadline passed just when the work began: it waits for the note.
    ExpiredThread,
    Task(Waker),
}

struct Inner<N, T> {
    stage: Stage<N, T>,
    waiter: Waiter,
}

struct Slot<N, T> {
    inner: Mutex<Inner<N, T>>,
    done: Condvar,
}

/// The side that has the answer.
pub(crate) struct Completer<N: Copy, T> {
    /// `None` once completed.
    slot: Option<Arc<Slot<N, T>>>,
}

/// What remains to be done after an answer was stored.
#[must_use = "the waiter sleeps until this is called"]
pub(crate) struct Wake<N, T> {
    slot: Arc<Slot<N, T>>,
    waiter: Waiter,
}

impl<N, T> Wake<N, T> {
    /// Wakes who waits for the answer. Runs the waker of the user's runtime: call it without locks.
    pub(crate) fn wake(self) {
        match self.waiter {
            Waiter::None => {}
            Waiter::Thread | Waiter::ExpiredThread => self.slot.done.notify_one(),
            Waiter::Task(waker) => waker.wake(),
        }
    }
}

impl<N: Copy, T> Completer<N, T> {
    /// The work begins now, unless the waiter has given up: then `false`.
    pub(crate) fn begin(&self) -> bool {
        let Some(slot) = &self.slot else { return false };
        let mut inner = lock(&slot.inner);
        match inner.stage {
            Stage::Idle => {
                inner.stage = Stage::Begun;
                true
            }
            Stage::Cancelled => false,
            _ => true,
        }
    }

    /// Whether the waiter has given up. It still may: the work does not begin by this.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.slot.as_ref().is_none_or(|slot| matches!(lock(&slot.inner).stage, Stage::Cancelled))
    }

    /// The work is under way, and known as `note` from now on.
    pub(crate) fn note(&self, note: N) {
        let Some(slot) = &self.slot else { return };
        let mut inner = lock(&slot.inner);
        if matches!(inner.stage, Stage::Idle | Stage::Begun) {
            inner.stage = Stage::Noted(note);
            if matches!(inner.waiter, Waiter::ExpiredThread) {
                drop(inner);
                slot.done.notify_one();
            }
        }
    }

    /// Stores the answer. `None` when nobody waits yet, or nobody ever will.
    pub(crate) fn complete(mut self, answer: T) -> Option<Wake<N, T>> {
        let slot = self.slot.take()?;
        let mut inner = lock(&slot.inner);
        if matches!(inner.stage, Stage::Cancelled) {
            return None;
        }
        inner.stage = Stage::Done(answer);
        let waiter = mem::replace(&mut inner.waiter, Waiter::None);
        drop(inner);
        match waiter {
            Waiter::None => None,
            waiter => Some(Wake { slot, waiter }),
        }
    }
}

impl<N: Copy, T> Drop for Completer<N, T> {
    fn drop(&mut self) {
        let Some(slot) = self.slot.take() else { return };
        let mut inner = lock(&slot.inner);
        let note = match inner.stage {
            Stage::Cancelled => return,
            Stage::Noted(note) => Some(note),
            _ => None,
        };
        inner.stage = Stage::Abandoned(note);
        let waiter = mem::replace(&mut inner.waiter, Waiter::None);
        drop(inner);
        // This may be a thread that unwinds: a second panic would end the process.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| Wake { slot, waiter }.wake())) {
            mem::forget(panic);
        }
    }
}

/// The side that wants the answer.
pub(crate) struct Completion<N, T> {
    slot: Arc<Slot<N, T>>,
}

impl<N: Copy, T> Completion<N, T> {
    /// Waits for the answer until `deadline`, or for as long as it takes without one.
    pub(crate) fn wait(self, deadline: Option<Instant>) -> Outcome<N, T> {
        let slot = &self.slot;
        let mut inner = lock(&slot.inner);
        let mut in_time = true;
        loop {
            if let Some(outcome) = take(&mut inner.stage) {
                return outcome;
            }
            if !in_time {
                match inner.stage {
                    Stage::Noted(note) => return Outcome::Expired(Some(note)),
                    Stage::Idle | Stage::Cancelled => {
                        inner.stage = Stage::Cancelled;
                        return Outcome::Expired(None);
                    }
                    // Whether it was proposed is about to be known.
                    _ => {
                        inner.waiter = Waiter::ExpiredThread;
                        inner = wait(&slot.done, inner);
                        continue;
                    }
                }
            }
            inner.waiter = Waiter::Thread;
            (inner, in_time) = wait_until(&slot.done, inner, deadline);
        }
    }

    /// The answer if it is there; otherwise the task is woken when it comes.
    pub(crate) fn poll(&self, context: &Context<'_>) -> Poll<Outcome<N, T>> {
        let mut inner = lock(&self.slot.inner);
        if let Some(outcome) = take(&mut inner.stage) {
            return Poll::Ready(outcome);
        }
        if matches!(&inner.waiter, Waiter::Task(waker) if waker.will_wake(context.waker())) {
            return Poll::Pending;
        }
        // Cloning a waker and dropping one is the user's code: neither happens under the lock. The answer may come meanwhile.
        drop(inner);
        let waker = context.waker().clone();
        let mut inner = lock(&self.slot.inner);
        if let Some(outcome) = take(&mut inner.stage) {
            drop(inner);
            return Poll::Ready(outcome);
        }
        let replaced = mem::replace(&mut inner.waiter, Waiter::Task(waker));
        drop(inner);
        drop(replaced);
        Poll::Pending
    }
}

fn take<N: Copy, T>(stage: &mut Stage<N, T>) -> Option<Outcome<N, T>> {
    match stage {
        Stage::Done(_) | Stage::Abandoned(_) => match mem::replace(stage, Stage::Taken) {
            Stage::Done(answer) => Some(Outcome::Done(answer)),
            Stage::Abandoned(note) => Some(Outcome::Abandoned(note)),
            _ => None,
        },
        // Polled again after it was ready: against the contract of a future, but not worth a panic.
        Stage::Taken => Some(Outcome::Abandoned(None)),
        _ => None,
    }
}
