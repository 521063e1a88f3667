//! The trace of a simulated cluster: the lines of all servers, in the order in which it happened.

use super::cluster::Cluster;
use crate::action::Action;
use crate::message::Envelope;
use crate::protocol::Protocol;
use crate::trace::line::runs;
use crate::trace::{Input, Line, Tracer};
use crate::types::{ClusterId, NodeId};
use std::collections::BTreeMap;
use std::vec::Vec;

/// What was recorded so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Recording {
    tracers: BTreeMap<NodeId, (u64, Tracer)>,
    lines: Vec<Line>,
}

impl Cluster {
    /// Records every step from now on, when no server has made any.
    pub fn record(&mut self) {
        self.recording = Some(Recording::default());
        for id in self.ids().collect::<Vec<_>>() {
            self.record_start(id);
        }
    }

    /// The lines of the trace, from the starts on; none without [`Cluster::record`].
    #[must_use]
    pub fn trace(&self) -> &[Line] {
        self.recording.as_ref().map_or(&[], |recording| &recording.lines)
    }

    pub(super) fn record_step(&mut self, id: NodeId, input: Input, actions: &[Action]) {
        self.record_line(id, |tracer, protocol| tracer.step(input, protocol, actions));
    }

    pub(super) fn record_sent_from_log(&mut self, id: NodeId, envelope: &Envelope) {
        self.record_line(id, |tracer, protocol| tracer.sent_from_log(envelope, protocol));
    }

    fn record_line(&mut self, id: NodeId, line: impl FnOnce(&mut Tracer, &Protocol) -> Line) {
        let Some(recording) = &mut self.recording else { return };
        let protocol = self.nodes.get(&id).and_then(|node| node.protocol.as_ref());
        if let (Some((_, tracer)), Some(protocol)) = (recording.tracers.get_mut(&id), protocol) {
            recording.lines.push(line(tracer, protocol));
        }
    }

    /// A server started from its disk. One that had made no step yet only now begins its first life.
    pub(super) fn record_start(&mut self, id: NodeId) {
        let Some(recording) = &mut self.recording else { return };
        let Some(node) = self.nodes.get(&id) else { return };
        let Some(protocol) = &node.protocol else { return };
        let made_steps = recording.lines.iter().any(|line| line.node == id && line.seq > 0);
        let lives = recording.tracers.get(&id).map_or(0, |(life, _)| *life);
        let life = if made_steps || lives == 0 { lives + 1 } else { lives };
        recording.lines.retain(|line| line.node != id || made_steps);
        let (tracer, line) = Tracer::start(ClusterId(0), life, &node.config, protocol, runs(node.disk.iter()));
        recording.tracers.insert(id, (life, tracer));
        recording.lines.push(line);
    }
}
