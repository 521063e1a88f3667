//! A snapshot that failed is tried again, later each time; and a log that is short of space gets one at once.

use super::contain::CodePlace;
use super::node::{Node, State};
use super::options::Snapshots;
use super::raft::StateMachine;
use super::snapshots::SnapshotState;
use super::sync::atomic::Ordering;
use super::sync::lock;
use super::trace::trace_event;
use super::trigger::Trail;
use crate::error::StepError;
use crate::event::Event;
use crate::log::SharedLog;
use crate::snapshot::SnapshotInfo;
use crate::transport::RaftTransport;
use crate::types::EntryId;
use std::time::{Duration, Instant};

/// How long the first repetition waits; each later one waits twice as long as the one before.
const RETRY_MIN: Duration = Duration::from_secs(1);
/// The longest wait.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// How long a log that is still short of space waits for the next.
const PRESSED_AGAIN: Duration = Duration::from_secs(10);

/// When a snapshot that failed is tried again.
#[derive(Debug, Default)]
pub(super) struct Retry {
    /// How many have failed since the last that did not.
    pub(super) failures: u32,
    at: Option<Instant>,
    /// When the log was last given one because it was short of space.
    pressed: Option<Instant>,
}

impl Retry {
    pub(super) fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
        let doubled = 1 << (self.failures - 1).min(16);
        self.at = Some(Instant::now() + RETRY_MIN.saturating_mul(doubled).min(RETRY_MAX));
    }

    /// One is being taken, for whatever reason.
    pub(super) fn begun(&mut self) {
        self.at = None;
    }

    /// One was taken.
    pub(super) fn succeeded(&mut self) {
        (self.failures, self.at) = (0, None);
    }

    /// How long until the next try; `None` if none is due.
    pub(super) fn after(&self) -> Option<Duration> {
        self.at.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Whether it is time; once.
    fn is_due(&mut self) -> bool {
        self.at.take_if(|at| *at <= Instant::now()).is_some()
    }

    /// Whether a log that is short of space gets another.
    fn is_pressed(&mut self) -> bool {
        let due = self.at.is_none() && self.pressed.is_none_or(|at| at.elapsed() >= PRESSED_AGAIN);
        if due {
            self.pressed = Some(Instant::now());
        }
        due
    }
}

impl SnapshotState {
    pub(super) fn is_idle(&self) -> bool {
        self.taking.is_none()
    }
}

impl<M: StateMachine, L: SharedLog, T: RaftTransport> Node<M, L, T> {
    /// Tries a snapshot again that failed some time ago, and takes another for a log that is short of space.
    pub(super) fn tick_snapshots(&self, state: &mut State<M>) {
        if self.options.snapshots.is_none() || !state.snapshots.is_idle() {
            return;
        }
        let is_short = self.log_short.load(Ordering::Relaxed);
        if state.snapshots.retry.is_due() || (is_short && state.snapshots.retry.is_pressed()) {
            state.wake_apply |= self.applies.post(|work| work.snapshot_wanted = true) == Some(true);
        }
    }

    /// The store has the snapshot: the protocol may let it stand in for the log's beginning.
    pub(super) fn note_written(
        &self,
        state: &mut State<M>,
        info: SnapshotInfo,
        trail: &Trail,
        is_short: bool,
    ) -> Result<Option<EntryId>, StepError> {
        state.snapshots.retry.succeeded();
        let last = info.last;
        let wanted = trail.compact_through(info.bytes, is_short);
        let compact_through = self.hold_back(state, wanted, trail.hold_floor(is_short));
        if state.snapshots.durable == last {
            // Taken once more, because the one before could not be read.
            state.snapshots.info = Some(info);
        }
        self.step(state, Event::SnapshotTaken { last, compact_through })
    }

    /// Whether the store can read the beginning and the end of this snapshot.
    pub(super) fn has_snapshot(&self, last: EntryId) -> bool {
        // One that panics has it no more than one that fails.
        let opens = |store: &Snapshots| self.panics.survive(CodePlace::StoreOpen, || store.open(last).is_ok());
        self.options.snapshots.as_ref().and_then(opens).unwrap_or(false)
    }

    /// The log says whether it is short of space. Called by the log thread, after each sync: when it is, a snapshot takes
    /// the place of all that it covers. If that is not enough, another is tried later.
    pub(super) fn note_space(&self, is_short: bool) {
        if self.log_short.swap(is_short, Ordering::Relaxed) == is_short {
            return;
        }
        let mut state = lock(&self.state);
        state.changed = true;
        state.snapshots.retry.pressed = None;
        if is_short {
            trace_event!(warn, node = self.id.0, "the log is short of space");
            self.tick_snapshots(&mut state);
        }
        self.release(state);
        if is_short {
            // What backups keep goes before another snapshot is written.
            self.release_superseded();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_doubles_the_wait_up_to_a_minute() {
        let mut retry = Retry::default();
        assert_eq!(retry.after(), None);
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            retry.failed();
            let after = retry.after().expect("it is tried again");
            assert!(after <= Duration::from_secs(seconds) && after > Duration::from_secs(seconds - 1), "{after:?}");
            assert!(!retry.is_due());
        }
        retry.begun();
        assert_eq!((retry.after(), retry.failures), (None, 8));
        retry.succeeded();
        assert_eq!(retry.failures, 0);
        (0..100).for_each(|_| retry.failed());
        assert!(retry.after().expect("it is tried again") <= RETRY_MAX);
    }
}
