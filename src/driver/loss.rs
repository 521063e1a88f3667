//! Servers that lost what they acknowledged: this one, and peers of a leader. `protocol/loss.rs` finds them.

use super::node::{Node, State};
use super::raft::StateMachine;
use super::trace::trace_event;
use crate::log::SharedLog;
use crate::message::{AppendResult, Envelope, Message};
use crate::transport::RaftTransport;
use crate::types::{Index, NodeId};

/// Whether a message says that its sender lost what it acknowledged. Of what a node that stops was about to send this alone
/// promises nothing, and so leaves.
pub(super) fn is_told_by(envelope: &Envelope) -> bool {
    let Message::AppendEntriesResponse(response) = &envelope.message else { return false };
    matches!(response.result, AppendResult::LostAcknowledged { .. })
}

impl<M: StateMachine, L: SharedLog, T: RaftTransport> Node<M, L, T> {
    /// A peer says that it lost what it acknowledged to this leader. `Status` shows it until the peer is replaced.
    pub(super) fn note_loss(&self, state: &mut State<M>, peer: NodeId, acknowledged: Index, durable: Index) {
        trace_event!(
            error,
            node = self.id.0,
            peer = peer.0,
            acknowledged = acknowledged.0,
            durable = durable.0,
            "a peer lost what it acknowledged, and counts for no quorum: remove it, and add it under a new id"
        );
        let _ = (peer, acknowledged, durable);
        state.changed = true;
    }
}
