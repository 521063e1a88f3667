//! A leader whose disk stalls gives way.
//!
//! A disk that takes no writes for seconds, and then goes on, is no failure: nothing is lost, and nobody but its own server
//! notices. But a leader that cannot write applies nothing and answers nobody, while its heartbeats keep the others from
//! electing one who could. So it leads no more. It cannot lead again before its disk works, for it votes for itself only
//! with a vote that is durable.

use super::node::{Node, State};
use super::raft::StateMachine;
use super::sync::atomic::Ordering;
use super::trace::trace_event;
use crate::action::RoleKind;
use crate::event::Event;
use crate::log::SharedLog;
use crate::transport::RaftTransport;
use std::time::Instant;

/// The write that the log works on.
#[derive(Default)]
pub(super) struct Stall {
    /// How many syncs were done when it was first seen, and when that was.
    seen: Option<(u64, Instant)>,
}

impl<M: StateMachine, L: SharedLog, T: RaftTransport> Node<M, L, T> {
    /// A tick passed: has the log done anything since the last one?
    pub(super) fn tick_disk(&self, state: &mut State<M>) {
        let syncs = self.log_syncs.load(Ordering::Relaxed);
        if state.protocol.role() != RoleKind::Leader || state.protocol.writes_in_flight() == 0 {
            state.stall.seen = None;
            return;
        }
        match state.stall.seen {
            Some((before, since)) if before == syncs => {
                if since.elapsed() >= self.options.disk_stall_max {
                    state.stall.seen = None;
                    state.counters.disk_stalls += 1;
                    trace_event!(warn, node = self.id.0, "the log's disk stalls: this node leads no more");
                    let _ = self.step(state, Event::StepDown);
                }
            }
            _ => state.stall.seen = Some((syncs, Instant::now())),
        }
    }
}
