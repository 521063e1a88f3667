//! The one concurrent structure of the transports: a bounded queue with many senders and one
//! receiver that takes everything waiting.
//!
//! Small on purpose: `tests/loom_queue.rs` compiles this very file against loom. Hence `super::sync`
//! and nothing else from this crate.

use super::sync::{Condvar, Mutex, MutexGuard};
use std::collections::VecDeque;
use std::mem;
use std::sync::PoisonError;
use std::time::Duration;

/// A queue bounded by number and by cost. What does not fit is refused, never waited for: the
/// newest is lost, so that what is queued stays an unbroken run of what was sent.
pub(crate) struct BoundedQueue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    items_max: usize,
    cost_max: usize,
}

struct State<T> {
    items: VecDeque<T>,
    /// The sum of the costs of `items`.
    cost: usize,
    /// Whether anything may be pushed. A queue starts open.
    open: bool,
    /// Whether the receiver should look at something beside the items.
    nudged: bool,
    /// Final: nothing is pushed or popped any more.
    closed: bool,
}

/// Why an item was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The queue is at one of its bounds.
    Full,
    /// The way is not open, or no longer.
    Closed,
}

/// Why [`BoundedQueue::pop_all`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Popped {
    /// There are items in the output.
    Items,
    /// Someone called [`BoundedQueue::nudge`].
    Nudged,
    /// The time passed.
    Timeout,
    /// The queue is closed; what was still in it is gone.
    Closed,
}

impl<T> BoundedQueue<T> {
    /// An open queue. `cost_max` bounds the sum of costs, though one item always fits into an
    /// empty queue.
    pub(crate) fn new(items_max: usize, cost_max: usize) -> Self {
        let state = State { items: VecDeque::new(), cost: 0, open: true, nudged: false, closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new(), items_max, cost_max }
    }

    /// Nothing that runs under the lock can panic half-way, so a poisoned lock still guards a valid
    /// state.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues an item, or refuses it at once.
    pub(crate) fn push(&self, item: T, cost: usize) -> Result<(), Refused> {
        let mut state = self.lock();
        if !state.open || state.closed {
            return Err(Refused::Closed);
        }
        let cost_after = state.cost.saturating_add(cost);
        if state.items.len() >= self.items_max || (cost_after > self.cost_max && !state.items.is_empty()) {
            return Err(Refused::Full);
        }
        state.cost = cost_after;
        let wake = state.items.is_empty();
        state.items.push_back(item);
        drop(state);
        // A receiver that has items to take does not sleep.
        if wake {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Moves everything queued into `output`, which must be empty; waits for the first item, at
    /// most `timeout` (`None`: for ever). The receiver is one thread.
    pub(crate) fn pop_all(&self, output: &mut VecDeque<T>, timeout: Option<Duration>) -> Popped {
        let mut state = self.lock();
        loop {
            if state.closed {
                return Popped::Closed;
            }
            if mem::take(&mut state.nudged) {
                return Popped::Nudged;
            }
            if !state.items.is_empty() {
                // The two buffers change places: neither is ever allocated anew.
                mem::swap(&mut state.items, output);
                state.cost = 0;
                return Popped::Items;
            }
            match timeout {
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(timeout) => {
                    let (woken, result) =
                        self.changed.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner);
                    state = woken;
                    // A wake-up without cause restarts the wait: late at worst, never lost.
                    if result.timed_out() && state.items.is_empty() && !state.closed && !state.nudged {
                        return Popped::Timeout;
                    }
                }
            }
        }
    }

    /// Waits until nudged or closed, at most `timeout`, without looking at the items.
    pub(crate) fn rest(&self, timeout: Duration) -> Popped {
        let mut state = self.lock();
        if !state.closed && !state.nudged {
            let (woken, _) = self.changed.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner);
            state = woken;
        }
        match (state.closed, mem::take(&mut state.nudged)) {
            (true, _) => Popped::Closed,
            (false, true) => Popped::Nudged,
            (false, false) => Popped::Timeout,
        }
    }

    /// Opens or shuts the way in; shutting drops what is queued and returns how many that were.
    pub(crate) fn set_open(&self, open: bool) -> usize {
        let mut state = self.lock();
        state.open = open;
        if open { 0 } else { Self::clear(&mut state) }
    }

    /// Makes the receiver look up.
    pub(crate) fn nudge(&self) {
        self.lock().nudged = true;
        self.changed.notify_one();
    }

    /// Forgets a nudge that the receiver has not seen yet.
    pub(crate) fn take_nudge(&self) {
        self.lock().nudged = false;
    }

    /// Ends the queue for good and returns how many items were lost with it.
    pub(crate) fn close(&self) -> usize {
        let mut state = self.lock();
        state.closed = true;
        let lost = Self::clear(&mut state);
        drop(state);
        self.changed.notify_all();
        lost
    }

    /// Whether [`BoundedQueue::close`] was called.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// How many items wait, and their cost.
    pub(crate) fn load(&self) -> (usize, usize) {
        let state = self.lock();
        (state.items.len(), state.cost)
    }

    fn clear(state: &mut State<T>) -> usize {
        let lost = state.items.len();
        state.items.clear();
        state.cost = 0;
        lost
    }
}
