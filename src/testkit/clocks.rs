//! The clocks of a cluster: ticks, and what leases ask of them.
//!
//! A lease is safe while no clock is so much faster than another that a follower counts `election_ticks` since it heard a
//! round of its leader, and the leader not even `lease_ticks` since it began that round. [`Clocks`] counts both, from the
//! messages and the ticks alone, whatever the protocol's timers make of them. So the checker knows whether `LeaseSafe` is
//! to be had: a `tick` beyond that breaks the assumption, and from then on nothing that rests on it is checked. `run` keeps to
//! it, and so does a walk; of the timeouts that a script fires by name those are refused that the assumption
//! forbids while it holds, as in the spec (`IsBound`).

use super::cluster::{Cluster, Moved, impossible};
use crate::action::RoleKind;
use crate::config::RaftConfig;
use crate::event::Event;
use crate::message::{Envelope, Message};
use crate::types::{NodeId, Term};
use std::collections::BTreeMap;
use std::format;
use std::vec::Vec;

/// A round of a leader in its term.
type Round = (NodeId, Term, u64);

/// What every clock counted, and since when.
#[derive(Clone, Debug)]
pub(super) struct Clocks {
    /// None without leases.
    lease_ticks: Option<u32>,
    election_ticks: u32,
    /// The ticks of each server, over all its lives.
    ticks: BTreeMap<NodeId, u64>,
    /// When each round began, by its leader's clock.
    asked: BTreeMap<Round, u64>,
    /// By follower, leader and term: the last round that the follower heard, and when, by its own clock. It outlives a crash:
    /// so does the promise.
    heard: BTreeMap<(NodeId, NodeId, Term), (u64, u64)>,
}

impl Clocks {
    pub(super) fn new(config: &RaftConfig) -> Self {
        Self {
            lease_ticks: config.lease_ticks,
            election_ticks: config.election_ticks,
            ticks: BTreeMap::new(),
            asked: BTreeMap::new(),
            heard: BTreeMap::new(),
        }
    }

    fn now(&self, id: NodeId) -> u64 {
        self.ticks.get(&id).copied().unwrap_or(0)
    }

    /// A message leaves its sender: a round may begin with it.
    pub(super) fn sent(&mut self, envelope: &Envelope) {
        if let (Message::ConfirmLeaderRequest(request), Some(_)) = (&envelope.message, self.lease_ticks) {
            let now = self.now(envelope.from);
            self.asked.entry((envelope.from, request.term, request.round)).or_insert(now);
        }
    }

    /// The round that an event is about for who takes it.
    pub(super) fn heard_in(event: &Event) -> Option<Round> {
        let Event::Receive(Envelope { from, message: Message::ConfirmLeaderRequest(request), .. }) = event else {
            return None;
        };
        Some((*from, request.term, request.round))
    }

    /// A server took the event, and is in this term now.
    pub(super) fn heard(&mut self, id: NodeId, term: Term, round: Option<Round>) {
        let Some((leader, of_term, round)) = round.filter(|round| round.1 == term && self.lease_ticks.is_some()) else {
            return;
        };
        let now = self.now(id);
        let last = self.heard.entry((id, leader, of_term)).or_insert((round, now));
        if round > last.0 {
            *last = (round, now);
        }
    }
}

impl Cluster {
    /// Whether leaders answer reads by leases.
    pub(super) fn has_leases(&self) -> bool {
        self.clocks.lease_ticks.is_some()
    }

    /// Who leads, in which term, and the last round whose lease is over.
    fn leases(&self) -> impl Iterator<Item = (NodeId, Term, u64)> + '_ {
        let protocols = self.nodes.values().filter_map(|node| node.protocol.as_ref());
        let leaders = protocols.filter(|protocol| protocol.role() == RoleKind::Leader);
        leaders.map(|protocol| (protocol.id(), protocol.term(), protocol.state().lease_over))
    }

    /// The leader whose lease has to be over before an election timeout can pass at this server.
    pub(super) fn bound_by(&self, id: NodeId) -> Option<NodeId> {
        self.clocks.lease_ticks.filter(|_| !self.checker.are_clocks_broken())?;
        let binds = |(leader, term, over): &(NodeId, Term, u64)| {
            self.clocks.heard.get(&(id, *leader, *term)).is_some_and(|(round, _)| round > over)
        };
        self.leases().find(binds).map(|(leader, ..)| leader)
    }

    /// The leader whose clock has to tick before this server's can, unless that is too fast for it.
    pub(super) fn waits_for_clock_of(&self, id: NodeId) -> Option<NodeId> {
        let clocks = &self.clocks;
        let lease_ticks = u64::from(clocks.lease_ticks?);
        let is_too_slow = |(leader, term, _): &(NodeId, Term, u64)| {
            let Some((round, since)) = clocks.heard.get(&(id, *leader, *term)) else { return false };
            let Some(asked) = clocks.asked.get(&(*leader, *term, *round)) else { return false };
            clocks.now(id) + 1 - since >= u64::from(clocks.election_ticks) && clocks.now(*leader) - asked < lease_ticks
        };
        self.leases().filter(|(leader, ..)| *leader != id).find(is_too_slow).map(|(leader, ..)| leader)
    }

    /// A tick of a server's clock: the timeouts that are due fire.
    ///
    /// # Errors
    /// The server is down, or a law is broken.
    pub fn tick(&mut self, id: NodeId) -> Moved {
        if self.protocol(id).is_none() {
            return impossible(format!("node {id} is down"));
        }
        if let Some(leader) = self.waits_for_clock_of(id) {
            self.tell(format!(
                "{id} ticks too fast for the lease of {leader}: nothing is promised of leases from now on"
            ));
            self.checker.clocks_broken();
        }
        *self.clocks.ticks.entry(id).or_default() += 1;
        let node = self.node_mut(id)?;
        let Some(protocol) = &node.protocol else { return impossible(format!("node {id} is down")) };
        let mut due = Vec::new();
        node.ticker.tick(protocol.role(), &mut |event| due.push(event));
        due.into_iter().try_for_each(|event| self.step(id, event))
    }

    /// One round of time: every clock ticks, every disk syncs, everything in flight arrives. A clock that is ahead by as much as
    /// leases allow waits.
    ///
    /// # Errors
    /// A law is broken.
    pub fn round(&mut self) -> Moved {
        for id in self.ids().collect::<Vec<_>>() {
            if self.protocol(id).is_some() && self.waits_for_clock_of(id).is_none() {
                self.tick(id)?;
            }
            if self.protocol(id).is_some() && self.writes(id) != (0, 0) {
                self.persisted(id, usize::MAX)?;
            }
            while self.nodes.get(&id).is_some_and(|node| !node.cold_reads.is_empty()) {
                self.cold_read(id)?;
            }
            self.fetch(id)?;
        }
        self.deliver_all()
    }
}

#[cfg(test)]
#[path = "clocks_tests.rs"]
mod tests;
