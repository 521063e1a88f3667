//! The laws of servers whose disk was put back to an older state.

use super::invariants::{Checker, View};
use super::laws::{Checked, Law, check};
use crate::log::LogView;
use crate::message::{AppendEntriesRequest, Envelope, Message};
use crate::types::{Index, NodeId};
use std::format;

impl Checker {
    /// The disk of a server was put back to an older state: it no longer knows what it promised.
    pub fn rolled_back(&mut self, id: NodeId) {
        self.wiped(id);
        self.rolled_back.insert(id);
        self.lost_data = true;
    }

    /// A disk broke its promise: the laws that rest on it are not checked any more.
    pub fn lost_data(&mut self, id: NodeId) {
        self.rolled_back.insert(id);
        self.lost_data = true;
    }

    /// A server to which an append named what is gone does nothing any more. Nobody else stops for such a reason, and no leader
    /// believes that of anybody else.
    pub(super) fn check_loss(&mut self, id: NodeId, views: &[View<'_>]) -> Checked {
        let named = self.heard.get_mut(&id).is_some_and(|heard| std::mem::take(&mut heard.names_what_is_gone));
        let Some(view) = views.iter().find(|view| view.id == id) else { return Ok(()) };
        check(!named || view.has_lost_data, Law::LossIsTold, || {
            format!("node {id} lacks what an append says that it acknowledged, and goes on")
        })?;
        check(!view.has_lost_data || self.rolled_back.contains(&id), Law::NobodyIsAccused, || {
            format!("node {id} finds that it lost data, and nobody touched its disk")
        })?;
        let accused = view.accused.iter().find(|peer| !self.rolled_back.contains(peer));
        check(accused.is_none(), Law::NobodyIsAccused, || {
            format!("node {id} believes that node {accused:?} lost data, and nobody touched its disk")
        })
    }
}

/// Whether a message to a server names what is gone from the disk on which that acknowledged it: right before it is handled.
pub(super) fn names_what_is_gone(receiver: &View<'_>, envelope: &Envelope) -> bool {
    let Message::AppendEntriesRequest(request) = &envelope.message else { return false };
    let (term, disk) = (receiver.hard_state.term, receiver.disk);
    let covered = receiver.memberships.first().map_or(Index::ZERO, |(index, _)| *index);
    let of_another_leader = request.term == term && receiver.leader.is_some_and(|leader| leader != envelope.from);
    let is_named = request.disk == disk.disk() && request.acknowledged > covered;
    let is_gone = request.term > term || (request.term == term && is_short_of(receiver, request));
    is_named && is_gone && !of_another_leader && !receiver.has_lost_data && receiver.role.is_some()
}

/// The disk is too short, or the entry that follows what was acknowledged has no place there.
fn is_short_of(receiver: &View<'_>, request: &AppendEntriesRequest) -> bool {
    let (disk, prev) = (receiver.disk, request.prev);
    let differs = prev.index >= disk.base().index && disk.term(prev.index) != Some(prev.term);
    request.acknowledged > disk.last().index || (request.acknowledged == prev.index && differs)
}
