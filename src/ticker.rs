//! Turns ticks into the protocol's named timeouts.
//!
//! Counters and randomness live here and not in the protocol, so that a model can fire a timeout
//! whenever it likes and no counter enters a protocol state. Dissertation §3.4: election timeouts
//! are drawn anew each time, which is what breaks split votes.

use crate::action::{Action, RoleKind};
use crate::config::RaftConfig;
use crate::event::Event;
use crate::message::Message;
use alloc::collections::VecDeque;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, SeedableRng};

/// The timers of one server of one group.
#[derive(Clone, Debug)]
pub struct Ticker {
    heartbeat_ticks: u32,
    /// The minimum election timeout, and the interval of quorum checks.
    election_ticks: u32,
    /// Ticks since the election timer was started.
    election_elapsed: u32,
    /// The present election timeout: in `[election_ticks, 2 * election_ticks)` for a node of the highest priority, and
    /// `election_ticks` later for each step below.
    election_timeout: u32,
    /// How many steps this node stands below the highest priority; `None` if it never campaigns of its own accord.
    steps_below: Option<u32>,
    heartbeat_elapsed: u32,
    quorum_elapsed: u32,
    /// Ticks since the transfer of leadership in progress began.
    transfer_elapsed: Option<u32>,
    /// With leases: how long one lasts, the last round of confirmation that began, and the last that had begun by each of the
    /// latest ticks.
    lease_ticks: Option<u32>,
    lease_round: u64,
    lease_rounds: VecDeque<u64>,
    /// A generator whose algorithm is named, so that a seed means the same everywhere and for ever.
    random: Xoshiro256PlusPlus,
}

impl Ticker {
    /// Timers for this node. Nodes with different ids draw different timeouts from the same seed.
    #[must_use]
    pub fn new(config: &RaftConfig) -> Self {
        // An odd multiplier maps different ids to different seeds, and neighbours far apart.
        let seed = config.seed.wrapping_add(config.id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut ticker = Self {
            heartbeat_ticks: config.heartbeat_ticks,
            election_ticks: config.election_ticks,
            election_elapsed: 0,
            election_timeout: 0,
            steps_below: (config.priority > 0).then(|| u32::from(RaftConfig::PRIORITY_MAX - config.priority)),
            heartbeat_elapsed: 0,
            quorum_elapsed: 0,
            transfer_elapsed: None,
            lease_ticks: config.lease_ticks,
            lease_round: 0,
            lease_rounds: VecDeque::new(),
            random: Xoshiro256PlusPlus::seed_from_u64(seed),
        };
        ticker.reset_election_timer();
        ticker
    }

    /// One tick passed: passes each timeout that is due to `fire`, for a server in this role.
    pub fn tick(&mut self, role: RoleKind, fire: &mut impl FnMut(Event)) {
        if role == RoleKind::Leader {
            // First of all: what other timeouts do may rest on a lease.
            self.tick_lease(fire);
            self.heartbeat_elapsed += 1;
            if self.heartbeat_elapsed >= self.heartbeat_ticks {
                self.heartbeat_elapsed = 0;
                fire(Event::HeartbeatTimeout);
            }
            self.quorum_elapsed += 1;
            if self.quorum_elapsed >= self.election_ticks {
                self.quorum_elapsed = 0;
                fire(Event::QuorumCheckTimeout);
            }
            self.tick_transfer(fire);
        } else {
            self.election_elapsed = self.election_elapsed.wrapping_add(1);
            // Again and again where no election timeout begins it anew: reads that began meanwhile end by it too.
            if self.election_elapsed % self.election_ticks == 0 {
                fire(Event::MinimumElectionTimeout);
            }
            if self.steps_below.is_some() && self.election_elapsed >= self.election_timeout {
                self.reset_election_timer();
                fire(Event::ElectionTimeout);
            }
        }
    }

    /// A target that has not taken over within a minimum election timeout is waited for no longer: the next one would be
    /// elected in about that time without its leader's help.
    fn tick_transfer(&mut self, fire: &mut impl FnMut(Event)) {
        let Some(elapsed) = &mut self.transfer_elapsed else { return };
        *elapsed += 1;
        if *elapsed >= self.election_ticks {
            self.transfer_elapsed = None;
            fire(Event::TransferTimeout);
        }
    }

    /// A round that began before the first of `lease_ticks` ticks is over with the last of them.
    fn tick_lease(&mut self, fire: &mut impl FnMut(Event)) {
        let Some(lease_ticks) = self.lease_ticks else { return };
        self.lease_rounds.push_back(self.lease_round);
        if self.lease_rounds.len() < lease_ticks as usize {
            return;
        }
        match self.lease_rounds.pop_front() {
            Some(round) if round > 0 => fire(Event::LeaseTimeout { round }),
            _ => {}
        }
    }

    /// Learns what a step asks of the timers.
    pub fn observe(&mut self, action: &Action) {
        match action {
            Action::ResetElectionTimer => self.reset_election_timer(),
            Action::RoleChanged { role: RoleKind::Leader, .. } => {
                self.heartbeat_elapsed = 0;
                self.quorum_elapsed = 0;
                self.transfer_elapsed = None;
                self.lease_round = 0;
                self.lease_rounds.clear();
            }
            Action::Send(envelope) if self.lease_ticks.is_some() => {
                if let Message::ConfirmLeaderRequest(request) = &envelope.message {
                    self.lease_round = request.round;
                }
            }
            Action::TransferBegun { .. } => self.transfer_elapsed = Some(0),
            _ => {}
        }
    }

    fn reset_election_timer(&mut self) {
        self.election_elapsed = 0;
        // At most 2^24 ticks each.
        let waits = 1 + self.steps_below.unwrap_or_default();
        self.election_timeout = waits * self.election_ticks + self.below(self.election_ticks);
    }

    /// A number in `[0, bound)`: the high half of a widening product, the same on every platform.
    /// Its bias, at most `bound / 2^64`, is far below anything that timeouts could notice.
    fn below(&mut self, bound: u32) -> u32 {
        ((u128::from(self.random.next_u64()) * u128::from(bound)) >> 64) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{NodeId, Term};
    use alloc::vec::Vec;

    fn timeouts(id: u64, seed: u64, count: usize) -> Vec<u32> {
        let mut config = RaftConfig::new(id, [1, 2, 3]);
        config.seed = seed;
        let mut ticker = Ticker::new(&config);
        let mut found = Vec::new();
        let mut ticks = 0;
        while found.len() < count {
            ticks += 1;
            ticker.tick(RoleKind::Follower, &mut |event| {
                if event == Event::ElectionTimeout {
                    found.push(ticks);
                    ticks = 0;
                }
            });
        }
        found
    }

    #[test]
    fn election_timeouts_fill_their_range() {
        let drawn = timeouts(1, 7, 1000);
        assert!(drawn.iter().all(|ticks| (10..20).contains(ticks)));
        assert!((10..20).all(|ticks| drawn.contains(&ticks)));
    }

    /// Unseeded generators gave every node the same timeouts, and elections that never ended
    /// (canonical/raft PR 197).
    #[test]
    fn nodes_draw_different_timeouts_from_one_seed() {
        assert_ne!(timeouts(1, 0, 20), timeouts(2, 0, 20));
        assert_ne!(timeouts(1, 0, 20), timeouts(1, 1, 20));
    }

    /// Law 1: these numbers must never change, on any platform.
    #[test]
    fn a_seed_means_the_same_everywhere() {
        assert_eq!(timeouts(1, 0, 10), [13, 13, 13, 11, 19, 14, 17, 16, 14, 19]);
    }

    #[test]
    fn the_higher_priority_campaigns_first_and_none_never() {
        let drawn = |id: u64, priority: u8| {
            let mut config = RaftConfig::new(id, [1, 2, 3]);
            config.priority = priority;
            let mut ticker = Ticker::new(&config);
            let mut found = (Vec::new(), 0);
            let mut ticks = 0;
            (0..10_000).for_each(|_| {
                ticks += 1;
                ticker.tick(RoleKind::Follower, &mut |event| match event {
                    Event::ElectionTimeout => found.0.push(core::mem::take(&mut ticks)),
                    Event::MinimumElectionTimeout => found.1 += 1,
                    _ => {}
                });
            });
            found
        };
        let ranges = [(3, 10..20), (2, 20..30), (1, 30..40)];
        for (priority, range) in ranges {
            let (timeouts, minimum) = drawn(u64::from(priority), priority);
            assert!(
                timeouts.len() > 200 && timeouts.iter().all(|ticks| range.contains(ticks)),
                "{priority}: {timeouts:?}"
            );
            assert!(minimum >= timeouts.len(), "candidates are listened to as early as ever");
        }
        assert_eq!(drawn(1, 0), (Vec::new(), 1_000), "what waits for a leader is ended again and again");
    }

    #[test]
    fn a_transfer_times_out_once_and_not_in_the_next_leadership() {
        let mut ticker = Ticker::new(&RaftConfig::new(1, [1, 2, 3]));
        let timeouts = |ticker: &mut Ticker, ticks: u32| {
            let mut count = 0;
            for _ in 0..ticks {
                ticker.tick(RoleKind::Leader, &mut |event| count += u32::from(event == Event::TransferTimeout));
            }
            count
        };
        let begun = Action::TransferBegun { target: NodeId(2) };
        assert_eq!(timeouts(&mut ticker, 30), 0);
        ticker.observe(&begun);
        assert_eq!((timeouts(&mut ticker, 9), timeouts(&mut ticker, 1), timeouts(&mut ticker, 30)), (0, 1, 0));
        ticker.observe(&begun);
        assert_eq!(timeouts(&mut ticker, 5), 0);
        ticker.observe(&Action::RoleChanged { role: RoleKind::Leader, term: Term(2), leader: Some(NodeId(1)) });
        assert_eq!(timeouts(&mut ticker, 30), 0);
    }

    #[test]
    fn a_lease_is_over_with_the_last_of_its_ticks() {
        let mut config = RaftConfig::new(1, [1, 2, 3]);
        config.lease_ticks = Some(3);
        let mut ticker = Ticker::new(&config);
        let ask = |ticker: &mut Ticker, round| {
            let message = Message::ConfirmLeaderRequest(crate::message::ConfirmLeaderRequest { term: Term(1), round });
            ticker.observe(&Action::Send(crate::Envelope { from: NodeId(1), to: NodeId(2), message }));
        };
        let over = |ticker: &mut Ticker| {
            let mut rounds = Vec::new();
            ticker.tick(RoleKind::Leader, &mut |event| {
                if let Event::LeaseTimeout { round } = event {
                    rounds.push(round);
                }
            });
            rounds
        };
        ask(&mut ticker, 1);
        assert_eq!((over(&mut ticker), over(&mut ticker)), (Vec::new(), Vec::new()));
        ask(&mut ticker, 2);
        ask(&mut ticker, 3);
        assert_eq!(over(&mut ticker), [1], "its third tick");
        assert_eq!((over(&mut ticker), over(&mut ticker)), (alloc::vec![1], alloc::vec![3]));
        ticker.observe(&Action::RoleChanged { role: RoleKind::Leader, term: Term(2), leader: Some(NodeId(1)) });
        assert_eq!((over(&mut ticker), over(&mut ticker), over(&mut ticker)), (Vec::new(), Vec::new(), Vec::new()));
    }

    #[test]
    fn a_leader_gets_heartbeats_and_quorum_checks() {
        let mut ticker = Ticker::new(&RaftConfig::new(1, [1, 2, 3]));
        let mut fired = Vec::new();
        for _ in 0..10 {
            ticker.tick(RoleKind::Leader, &mut |event| fired.push(event));
        }
        assert_eq!(fired.iter().filter(|event| **event == Event::HeartbeatTimeout).count(), 10);
        assert_eq!(fired.iter().filter(|event| **event == Event::QuorumCheckTimeout).count(), 1);
    }
}
