//! A network whose every message waits until it is told what becomes of it.

use crate::message::Envelope;
use crate::types::NodeId;
use std::collections::BTreeSet;
use std::vec::Vec;

/// The messages in flight, in the order in which they were sent, and the ways that are cut.
///
/// A message sent over a way that is cut is lost; one that is in flight when its way is cut waits for the way to heal.
#[derive(Clone, Debug, Default)]
pub struct Network {
    in_flight: Vec<Envelope>,
    /// Directed: from, to.
    cuts: BTreeSet<(NodeId, NodeId)>,
}

impl Network {
    /// Sends a message; returns whether it is now in flight, rather than lost in a cut.
    pub fn send(&mut self, envelope: Envelope) -> bool {
        let open = self.is_open(envelope.from, envelope.to);
        if open {
            self.in_flight.push(envelope);
        }
        open
    }

    /// Whether messages pass from one server to another.
    #[must_use]
    pub fn is_open(&self, from: NodeId, to: NodeId) -> bool {
        !self.cuts.contains(&(from, to))
    }

    /// Every message in flight, in the order in which they were sent.
    #[must_use]
    pub fn in_flight(&self) -> &[Envelope] {
        &self.in_flight
    }

    /// The positions in [`Network::in_flight`] of the messages on one way, oldest first.
    pub fn on_way(&self, from: NodeId, to: NodeId) -> impl Iterator<Item = usize> + '_ {
        let on_way = move |envelope: &Envelope| envelope.from == from && envelope.to == to;
        self.in_flight.iter().enumerate().filter(move |(_, envelope)| on_way(envelope)).map(|(position, _)| position)
    }

    /// Takes the message at a position of [`Network::in_flight`] out.
    ///
    /// # Panics
    /// If there is none.
    pub fn take(&mut self, position: usize) -> Envelope {
        self.in_flight.remove(position)
    }

    /// Takes out everything that can arrive now.
    pub fn take_deliverable(&mut self) -> Vec<Envelope> {
        let cuts = &self.cuts;
        let open = |envelope: &Envelope| !cuts.contains(&(envelope.from, envelope.to));
        let (arriving, waiting) = core::mem::take(&mut self.in_flight).into_iter().partition(open);
        self.in_flight = waiting;
        arriving
    }

    /// Cuts one way, in this direction only.
    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cuts.insert((from, to));
    }

    /// Opens every way.
    pub fn heal(&mut self) {
        self.cuts.clear();
    }

    /// Loses everything in flight.
    pub fn clear(&mut self) {
        self.in_flight.clear();
    }
}
