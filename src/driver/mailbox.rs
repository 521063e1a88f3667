//! A mailbox: what other threads leave for a thread that works through it.
//!
//! Its content is a value, not a queue of messages, so that posts can be merged: a hundred posts
//! while the owner was busy cost it one look. The writes for the log thread and the work of the
//! apply thread wait in one.

use super::sync::{Condvar, Mutex, lock, wait};
use std::mem;

/// A mailbox with content of type `T`; an empty one is `T::default()`.
pub(crate) struct Mailbox<T> {
    state: Mutex<State<T>>,
    posted: Condvar,
}

struct State<T> {
    content: T,
    /// There is something to take.
    full: bool,
    /// The owner sleeps, or is about to.
    sleeping: bool,
    /// Nothing comes any more.
    closed: bool,
}

/// What a look into the mailbox found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Mail<T> {
    /// Everything posted since the last look.
    Content(T),
    /// Nothing, for now.
    Nothing,
    /// Nothing, and nothing will come.
    Closed,
}

impl<T: Default> Mailbox<T> {
    pub(crate) fn new() -> Self {
        let state = State { content: T::default(), full: false, sleeping: false, closed: false };
        Self { state: Mutex::new(state), posted: Condvar::new() }
    }

    /// Adds to the content. Whether the owner sleeps: then call [`Mailbox::wake`] soon. A closed
    /// mailbox takes nothing and hands the post back as `None`.
    pub(crate) fn post(&self, add: impl FnOnce(&mut T)) -> Option<bool> {
        let mut state = lock(&self.state);
        if state.closed {
            return None;
        }
        add(&mut state.content);
        state.full = true;
        // One wake-up is enough, however many post before the owner runs.
        Some(mem::replace(&mut state.sleeping, false))
    }

    /// Wakes the owner.
    pub(crate) fn wake(&self) {
        self.posted.notify_one();
    }

    /// Takes the content; sleeps until there is some.
    pub(crate) fn take(&self) -> Mail<T> {
        let mut state = lock(&self.state);
        loop {
            match look(&mut state) {
                Mail::Nothing => {
                    state.sleeping = true;
                    state = wait(&self.posted, state);
                }
                mail => {
                    state.sleeping = false;
                    return mail;
                }
            }
        }
    }

    /// Takes the content if there is some.
    pub(crate) fn poll(&self) -> Mail<T> {
        look(&mut lock(&self.state))
    }

    /// Takes no more posts. What is in it can still be taken.
    pub(crate) fn close(&self) {
        lock(&self.state).closed = true;
        self.posted.notify_one();
    }
}

fn look<T: Default>(state: &mut State<T>) -> Mail<T> {
    if state.full {
        state.full = false;
        Mail::Content(mem::take(&mut state.content))
    } else if state.closed {
        Mail::Closed
    } else {
        Mail::Nothing
    }
}
