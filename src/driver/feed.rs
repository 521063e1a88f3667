//! A feed: changes in the order in which they happened, for any number of readers.
//!
//! All readers share one ring of the latest changes and keep a position in it, so publishing costs
//! the same with none and with many, and a reader that sleeps for ever holds nothing up.

use super::sync::{Arc, Condvar, Mutex, lock, wait_until};
use std::collections::VecDeque;
use std::time::Instant;

/// The publisher's side, and the ring.
pub(crate) struct Feed<T> {
    ring: Mutex<Ring<T>>,
    published: Condvar,
    /// How many changes the ring holds at most, at least 1.
    changes_max: usize,
}

struct Ring<T> {
    changes: VecDeque<T>,
    /// The number of the oldest change in the ring. Starts at 0; only grows.
    first: u64,
    closed: bool,
    sleepers: usize,
}

impl<T: Clone> Feed<T> {
    pub(crate) fn new(changes_max: usize) -> Self {
        let ring = Ring { changes: VecDeque::new(), first: 0, closed: false, sleepers: 0 };
        Self { ring: Mutex::new(ring), published: Condvar::new(), changes_max }
    }

    /// Appends a change; the oldest one makes room. A closed feed takes none.
    pub(crate) fn publish(&self, change: T) {
        let mut ring = lock(&self.ring);
        if ring.closed {
            return;
        }
        if ring.changes.len() == self.changes_max {
            ring.changes.pop_front();
            ring.first += 1;
        }
        ring.changes.push_back(change);
        let sleepers = ring.sleepers;
        drop(ring);
        if sleepers > 0 {
            self.published.notify_all();
        }
    }

    /// Nothing is published any more; readers still get what is in the ring.
    pub(crate) fn close(&self) {
        lock(&self.ring).closed = true;
        self.published.notify_all();
    }

    /// A reader whose first change is the latest one published.
    pub(crate) fn subscribe(feed: &Arc<Self>) -> Reader<T> {
        let ring = lock(&feed.ring);
        let next = ring.first + ring.changes.len().saturating_sub(1) as u64;
        drop(ring);
        Reader { feed: Arc::clone(feed), next, missed: 0 }
    }
}

/// One reader and its position.
pub(crate) struct Reader<T> {
    feed: Arc<Feed<T>>,
    /// The number of the change to read next.
    next: u64,
    /// How many changes left the ring before this reader came to them.
    missed: u64,
}

impl<T: Clone> Reader<T> {
    /// The next change; `None` at the deadline, or at the end of a closed feed.
    pub(crate) fn next(&mut self, deadline: Option<Instant>) -> Option<T> {
        let feed = &self.feed;
        let mut ring = lock(&feed.ring);
        let mut in_time = true;
        loop {
            if self.next < ring.first {
                self.missed += ring.first - self.next;
                self.next = ring.first;
            }
            if let Some(change) = ring.changes.get((self.next - ring.first) as usize) {
                self.next += 1;
                return Some(change.clone());
            }
            if ring.closed || !in_time {
                return None;
            }
            ring.sleepers += 1;
            (ring, in_time) = wait_until(&feed.published, ring, deadline);
            ring.sleepers -= 1;
        }
    }

    /// How many changes this reader was too slow for.
    pub(crate) fn missed(&self) -> u64 {
        self.missed
    }
}

impl<T> Clone for Reader<T> {
    fn clone(&self) -> Self {
        Self { feed: Arc::clone(&self.feed), next: self.next, missed: self.missed }
    }
}
