//! The threads of a transport, so that shutdown can wait for all of them.

use crate::threads;
use std::collections::HashSet;
use std::io;
use std::string::String;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::{Duration, Instant};

/// Who is running. Connections come and go, so handles to join are not kept; each thread signs in
/// and out.
#[derive(Default)]
pub(super) struct Threads {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    present: HashSet<ThreadId>,
    closed: bool,
}

impl Threads {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a thread that counts until `body` returned or panicked.
    pub(super) fn spawn<R: Send + 'static>(
        self: &Arc<Self>,
        name: String,
        body: impl FnOnce() -> R + Send + 'static,
    ) -> io::Result<JoinHandle<R>> {
        let threads = Arc::clone(self);
        // The child waits for this lock before it signs out, so that it cannot do so before it was
        // signed in here.
        let mut state = self.lock();
        let handle = threads::spawn(name, move || {
            let _presence = Presence { threads };
            body()
        })?;
        state.present.insert(handle.thread().id());
        drop(state);
        Ok(handle)
    }

    /// Runs something that cannot be interrupted and touches nothing shared (a name lookup, a
    /// connection attempt): shutdown does not wait for it. `None` if shutdown came meanwhile; the
    /// thread must then end without touching anything shared.
    pub(super) fn uncounted<R>(&self, work: impl FnOnce() -> R) -> Option<R> {
        self.lock().present.remove(&thread::current().id());
        self.changed.notify_all();
        let result = work();
        let mut state = self.lock();
        if state.closed {
            return None;
        }
        state.present.insert(thread::current().id());
        Some(result)
    }

    /// Refuses those who come back from [`Threads::uncounted`] and ends every [`Threads::rest`].
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Waits until closed, at most `duration`.
    pub(super) fn rest(&self, duration: Duration) {
        let deadline = Instant::now() + duration;
        let mut state = self.lock();
        while !state.closed {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            (state, _) = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until no thread but the caller's is left, at most `duration`; whether that is so.
    pub(super) fn wait(&self, duration: Duration) -> bool {
        let deadline = Instant::now() + duration;
        let own = thread::current().id();
        let mut state = self.lock();
        while state.present.iter().any(|id| *id != own) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            (state, _) = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
        true
    }
}

struct Presence {
    threads: Arc<Threads>,
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.threads.lock().present.remove(&thread::current().id());
        self.threads.changed.notify_all();
    }
}
