//! Lost data: a server whose disk lacks what it acknowledged to the leader of its term.
//!
//! Dissertation §3.8: what a server promised has to be on its disk. An acknowledgement leaves only once the entries are
//! durable; from then on neither a crash nor a leader of the same term takes them away. So a leader names with each append
//! what its receiver acknowledged in this term, and a receiver that lacks it knows that its disk went back: an older copy of
//! its directory was put in its place, say, or a sync lied. It cannot keep its promises, votes among them. It tells the
//! leader and does nothing any more, and the leader counts it for no quorum until it is replaced: removed, emptied, and
//! added again.
//!
//! A refusal alone proves nothing: it may be late, or come twice. And a server that was replaced has rightly lost everything,
//! while appends to its former life may still be on their way. So an answer says on which disk the server acknowledged, and
//! an append names that disk too: only the disk that acknowledged can have lost it.
//!
//! A server whose disk went back is found only by a leader that knows the later state, and only when it hears that leader: before,
//! it may vote. Spec: `HandleAppendEntriesRequest`, `HandleAppendEntriesResponse`, `RollBack`.

use super::Protocol;
use super::progress::Progress;
use super::replication::Decision;
use crate::action::{Action, ActionSink};
use crate::error::PeerMisbehaved;
use crate::message::{AppendResult, Envelope, Message};
use crate::types::{DiskId, EntryId, Index, NodeId, Term};

impl Protocol {
    /// Whether this server found that its disk lacks what it acknowledged, and does nothing any more; see
    /// [`Action::LostAcknowledged`].
    #[must_use]
    pub fn has_lost_data(&self) -> bool {
        self.lost
    }

    /// Whether an append names something that was acknowledged on this very disk, in its term.
    #[inline]
    pub(super) fn is_named(&self, acknowledged: Index, disk: DiskId) -> bool {
        acknowledged > Index::ZERO && disk == self.settings.disk
    }

    /// Whether this log lacks what an append of the present term, behind `prev`, names.
    #[inline]
    pub(super) fn lacks_acknowledged(
        &self,
        (acknowledged, disk): (Index, DiskId),
        prev: EntryId,
        decision: &Decision,
    ) -> bool {
        // A snapshot that was fetched covers it, though the write that says so may be in flight.
        let is_short = acknowledged > self.tail.durable().max(self.snapshot.index);
        // Other entries stand in its place. The leader sends what follows it; where the logs agree up to there, they can
        // agree at least as far.
        let differs = || match decision {
            Decision::Reject(hint) => prev.index <= acknowledged || hint.index < acknowledged,
            Decision::Accept { .. } => false,
        };
        self.is_named(acknowledged, disk) && (is_short || differs())
    }

    /// Tells the leader, whose append named what is lacking, and does nothing any more. This promises nothing, so it waits for
    /// no write; what waits for one never leaves.
    #[cold]
    pub(super) fn lose(
        &mut self,
        leader: NodeId,
        (term, acknowledged, session): (Term, Index, Index),
        actions: &mut impl ActionSink,
    ) {
        let durable = self.tail.durable();
        self.become_follower(None, actions);
        self.fetch = None;
        self.lost = true;
        let mut response = self.append_response(AppendResult::LostAcknowledged { acknowledged, durable }, session);
        response.term = term;
        let message = Message::AppendEntriesResponse(response);
        actions.push(Action::Send(Envelope { from: self.settings.id, to: leader, message }));
        actions.push(Action::LostAcknowledged { leader, term, acknowledged, durable });
    }

    /// A follower says that it lost what it acknowledged in its present session.
    #[cold]
    pub(super) fn learn_of_loss(
        peer: NodeId,
        progress: &mut Progress,
        (acknowledged, durable): (Index, Index),
        disk: DiskId,
        actions: &mut impl ActionSink,
    ) {
        // It was emptied without being removed: nothing of this leader names its new disk yet.
        if disk != progress.disk {
            return;
        }
        if acknowledged == Index::ZERO || acknowledged > progress.match_index {
            let reason = PeerMisbehaved::AcknowledgedUnsent { index: acknowledged };
            return actions.push(Action::Misbehaved { peer, reason });
        }
        progress.lose();
        actions.push(Action::PeerLostData { peer, acknowledged, durable });
    }
}
