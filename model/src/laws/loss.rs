//! The laws of servers whose disk was put back to an older state.

use crate::server::{Input, Server, Stepped};
use raft_io::message::{AppendEntriesRequest, AppendResult};
use raft_io::protocol::ProtocolState;
use raft_io::{Action, Envelope, Event, LogView, Message};

/// Whether a message says that its sender lost data.
pub(super) fn is_told_by(envelope: &Envelope) -> bool {
    let Message::AppendEntriesResponse(response) = &envelope.message else { return false };
    matches!(response.result, AppendResult::LostAcknowledged { .. })
}

/// A server to which an append names something that is gone from the disk on which it acknowledged it says so, and does nothing
/// any more, whatever comes.
pub(super) fn is_told(before: &Server, input: &Input, stepped: &Stepped, new: &ProtocolState) -> bool {
    let Input::Event(Event::Receive(Envelope { message, .. })) = input else { return true };
    if before.protocol.has_lost_data() {
        return stepped.server == *before && stepped.sent.is_empty() && stepped.actions.is_empty();
    }
    let Message::AppendEntriesRequest(request) = message else { return true };
    let misbehaved = || stepped.actions.iter().any(|action| matches!(action, Action::Misbehaved { .. }));
    let told = || new.lost && stepped.sent.iter().any(is_told_by);
    !names_what_is_gone(before, request) || told() || misbehaved()
}

/// The disk does not know the request's term; or it is too short; or the entry that follows what was acknowledged has no place
/// there. No snapshot covers it.
fn names_what_is_gone(server: &Server, request: &AppendEntriesRequest) -> bool {
    let (state, disk) = (server.state(), &server.disk);
    let term = state.hard_state.term;
    let differs = || {
        let held = disk.term(request.prev.index);
        request.prev.index >= disk.base().index && held != Some(request.prev.term)
    };
    let gone = request.term > term
        || (request.term == term && request.acknowledged > disk.last().index)
        || (request.term == term && request.acknowledged == request.prev.index && differs());
    request.acknowledged > state.snapshot.index && request.disk == disk.disk() && gone
}
