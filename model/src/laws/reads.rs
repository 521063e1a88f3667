//! The laws of reads that one step of a server must keep.

use crate::server::Input;
use raft_io::protocol::ProtocolState;
use raft_io::{Action, Event, RoleKind};

/// Of the reads that waited, and the one that begins, each is answered, is aborted, or waits, and only one of these. What
/// waits at a leader for somebody else is a question, and no read of its own.
pub(super) fn end_once(old: &ProtocolState, new: &ProtocolState, input: &Input, actions: &[Action]) -> bool {
    let waiting = |state: &ProtocolState| {
        let own = state.reads.iter().filter(|read| read.reader.is_none()).map(|read| read.context);
        own.chain(state.follower_reads.iter().copied()).collect::<Vec<u64>>()
    };
    let mut open = waiting(old);
    let follows = old.role == RoleKind::Follower && old.leader.is_some();
    match input {
        Input::Event(Event::ReadRequest { context } | Event::LeaseReadRequest { context })
            if old.role == RoleKind::Leader =>
        {
            open.push(*context);
        }
        Input::Event(Event::FollowerReadRequest { context }) if old.role == RoleKind::Leader || follows => {
            open.push(*context);
        }
        _ => {}
    }
    let ended = actions.iter().filter_map(|action| match action {
        Action::ReadReady { context, .. } | Action::ReadAborted { context } => Some(*context),
        _ => None,
    });
    let mut accounted: Vec<u64> = waiting(new).into_iter().chain(ended).collect();
    open.sort_unstable();
    accounted.sort_unstable();
    let led_by = |state: &ProtocolState| (state.role, state.hard_state.term, state.leader);
    let heard = led_by(old) == led_by(new) && !matches!(input, Input::Event(Event::MinimumElectionTimeout));
    open == accounted && (heard || new.follower_reads.is_empty())
}
