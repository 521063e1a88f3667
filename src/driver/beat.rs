//! When the ticker's next tick is due.

use std::time::{Duration, Instant};

/// Ticks of a clock that may be late.
///
/// After a pause of the process the missed ticks are gone: a burst of them would be an election timeout that nobody waited
/// for. Nor are two ticks ever less than one apart: a server that promised its leader something just before them would
/// count too much (`lease_ticks`).
pub(super) struct Beat {
    tick: Duration,
    next: Instant,
}

impl Beat {
    /// The first tick is due one tick from `now`.
    pub(super) fn new(tick: Duration, now: Instant) -> Self {
        Self { tick, next: now + tick }
    }

    /// Whether a tick is due. If so it counts as done, and the next one is a whole tick away from `now`.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let due = now >= self.next;
        if due {
            self.next = now + self.tick;
        }
        due
    }

    /// When the next tick is due.
    pub(super) fn next(&self) -> Instant {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(10);

    /// How many ticks pass when the ticker looks at its clock at these times, in milliseconds.
    fn ticks(looks: &[u64]) -> usize {
        let begin = Instant::now();
        let mut beat = Beat::new(TICK, begin);
        looks.iter().filter(|at| beat.is_due(begin + Duration::from_millis(**at))).count()
    }

    /// A follower that was stopped for a minute had a minute's ticks at once, and campaigned against a leader that had
    /// heartbeats on their way to it.
    #[test]
    fn a_pause_is_one_tick_however_long_it_was() {
        assert_eq!(ticks(&[60_000, 60_000, 60_001, 60_009]), 1);
        assert_eq!(ticks(&[10, 60_000, 60_000, 60_010]), 3);
    }

    /// Ticks that are late by turns were made up for, so that two of them were hardly apart: what a follower had promised
    /// for two ticks was over after one.
    #[test]
    fn a_late_tick_brings_the_next_one_no_nearer() {
        assert_eq!(ticks(&[19, 20, 28]), 1);
        assert_eq!(ticks(&[19, 29, 38, 39]), 3);
        let begin = Instant::now();
        let mut beat = Beat::new(TICK, begin);
        assert!(beat.is_due(begin + Duration::from_millis(19)));
        assert_eq!(beat.next(), begin + Duration::from_millis(29));
    }

    #[test]
    fn no_tick_comes_early() {
        assert_eq!(ticks(&[0, 5, 9]), 0);
        assert_eq!(ticks(&[0, 5, 9, 10, 19, 20]), 2);
    }
}
