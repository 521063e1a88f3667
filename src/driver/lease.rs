//! Leases by this machine's clocks.
//!
//! The protocol counts a lease in ticks. A process that is stopped for a while misses ticks, and the clock of a machine that
//! sleeps may miss the sleep; so before a read goes by a lease, the time since its round began is measured: by the clock
//! that only grows and by the wall clock, and whichever says more counts. A wall clock that was set costs a round of
//! messages and nothing else.

use crate::config::RaftConfig;
use crate::message::{Envelope, Message};
use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

/// When the rounds of confirmation began that a lease may rest on.
pub(super) struct Leases {
    /// How long a lease lasts; `None` without leases.
    length: Option<Duration>,
    /// Ascending by round.
    rounds: VecDeque<Round>,
}

struct Round {
    number: u64,
    began: Moment,
}

/// The same moment on both clocks.
#[derive(Clone, Copy)]
struct Moment {
    steady: Instant,
    wall: SystemTime,
}

impl Moment {
    fn now() -> Self {
        Self { steady: Instant::now(), wall: SystemTime::now() }
    }

    /// Whether so much time has passed until `later`, or may have.
    fn is_past(self, length: Duration, later: Self) -> bool {
        let steady = later.steady.saturating_duration_since(self.steady);
        // A wall clock that went back says nothing: as good as past.
        let wall = later.wall.duration_since(self.wall).unwrap_or(Duration::MAX);
        steady >= length || wall >= length
    }
}

impl Leases {
    pub(super) fn new(config: &RaftConfig) -> Self {
        Self { length: config.lease_ticks.map(|ticks| config.tick * ticks), rounds: VecDeque::new() }
    }

    /// A message is about to leave, not before now.
    #[inline]
    pub(super) fn observe(&mut self, envelope: &Envelope) {
        if self.length.is_some() && matches!(envelope.message, Message::ConfirmLeaderRequest(_)) {
            self.note(envelope, Moment::now());
        }
    }

    fn note(&mut self, envelope: &Envelope, now: Moment) {
        let (Message::ConfirmLeaderRequest(request), Some(length)) = (&envelope.message, self.length) else { return };
        let number = request.round;
        // A leader of a later term counts from 1 again.
        while self.rounds.back().is_some_and(|last| last.number > number) {
            self.rounds.pop_back();
        }
        if self.rounds.back().is_none_or(|last| last.number < number) {
            self.rounds.push_back(Round { number, began: now });
        }
        // Of those that are over the last is enough to know.
        while self.rounds.get(1).is_some_and(|next| next.began.is_past(length, now)) {
            self.rounds.pop_front();
        }
    }

    /// The last round whose lease is over by now.
    pub(super) fn over(&mut self) -> Option<u64> {
        self.length.and_then(|length| self.over_at(length, Moment::now()))
    }

    fn over_at(&mut self, length: Duration, now: Moment) -> Option<u64> {
        let mut over = None;
        while self.rounds.front().is_some_and(|round| round.began.is_past(length, now)) {
            over = self.rounds.pop_front().map(|round| round.number);
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::ConfirmLeaderRequest;
    use crate::types::{NodeId, Term};

    const LENGTH: Duration = Duration::from_millis(100);

    fn question(round: u64) -> Envelope {
        let message = Message::ConfirmLeaderRequest(ConfirmLeaderRequest { term: Term(1), round });
        Envelope { from: NodeId(1), to: NodeId(2), message }
    }

    fn leases() -> Leases {
        Leases { length: Some(LENGTH), rounds: VecDeque::new() }
    }

    fn after(moment: Moment, steady: u64, wall: i64) -> Moment {
        let shift = Duration::from_millis(wall.unsigned_abs());
        let wall = if wall < 0 { moment.wall - shift } else { moment.wall + shift };
        Moment { steady: moment.steady + Duration::from_millis(steady), wall }
    }

    #[test]
    fn a_round_is_over_when_either_clock_says_so() {
        let begin = Moment::now();
        // The process was stopped; the machine slept; the wall clock was set back: the last of these by nothing but caution.
        for (steady, wall, over) in
            [(99, 99, None), (100, 100, Some(1)), (5000, 5000, Some(1)), (3, 3_600_000, Some(1)), (3, -1, Some(1))]
        {
            let mut leases = leases();
            leases.note(&question(1), begin);
            assert_eq!(leases.over_at(LENGTH, after(begin, steady, wall)), over, "{steady} ms, {wall} ms");
        }
    }

    #[test]
    fn a_round_is_as_old_as_its_first_question() {
        let begin = Moment::now();
        let mut leases = leases();
        for (round, at) in [(1, 0), (2, 40), (2, 80), (3, 90)] {
            leases.note(&question(round), after(begin, at, at as i64));
        }
        assert_eq!(leases.over_at(LENGTH, after(begin, 150, 150)), Some(2));
        assert_eq!(leases.over_at(LENGTH, after(begin, 150, 150)), None);
        // Another term: its first round must not pass for an old one.
        leases.note(&question(1), after(begin, 160, 160));
        assert_eq!(leases.over_at(LENGTH, after(begin, 259, 259)), None);
        assert_eq!(leases.over_at(LENGTH, after(begin, 260, 260)), Some(1));
    }

    #[test]
    fn rounds_do_not_pile_up() {
        let begin = Moment::now();
        let mut leases = leases();
        for round in 1..10_000 {
            leases.note(&question(round), after(begin, round, round as i64));
        }
        assert!(leases.rounds.len() <= 102, "{}", leases.rounds.len());
    }
}
