//! A signal: something changed, look again.
//!
//! Who changes the state calls [`Signal::notify`] after it, which costs a fence and a load while
//! nobody waits. Who waits registers, *then* looks at the state, then sleeps. The two fences are what
//! makes that right: either the waiter saw the change, or the change saw the waiter, whatever the
//! state itself is kept in.

use super::sync::atomic::{AtomicUsize, Ordering, fence};
use super::sync::{Condvar, Mutex, lock, wait_until};
use std::time::Instant;

/// Wakes everyone who waits for some condition over a state that lives elsewhere.
pub(crate) struct Signal {
    listeners: AtomicUsize,
    /// Counts the notifications; only grows.
    version: Mutex<u64>,
    notified: Condvar,
}

impl Signal {
    pub(crate) fn new() -> Self {
        Self { listeners: AtomicUsize::new(0), version: Mutex::new(0), notified: Condvar::new() }
    }

    /// The state changed. Call it after the change.
    pub(crate) fn notify(&self) {
        fence(Ordering::SeqCst);
        if self.listeners.load(Ordering::Relaxed) > 0 {
            *lock(&self.version) += 1;
            self.notified.notify_all();
        }
    }

    /// Calls `look` now and after each change until it gives a value; `None` at the deadline. No
    /// lock is held during the calls.
    pub(crate) fn wait_until<R>(&self, deadline: Option<Instant>, mut look: impl FnMut() -> Option<R>) -> Option<R> {
        let _registered = Registered::new(self);
        let mut in_time = true;
        loop {
            let seen = *lock(&self.version);
            if let Some(found) = look() {
                return Some(found);
            }
            if !in_time {
                return None;
            }
            let mut version = lock(&self.version);
            while *version == seen && in_time {
                (version, in_time) = wait_until(&self.notified, version, deadline);
            }
        }
    }
}

/// Takes the registration back however the wait ends: `look` is the caller's code and may panic.
struct Registered<'a>(&'a Signal);

impl<'a> Registered<'a> {
    fn new(signal: &'a Signal) -> Self {
        signal.listeners.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        Self(signal)
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.0.listeners.fetch_sub(1, Ordering::Relaxed);
    }
}
