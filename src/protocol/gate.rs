//! What a well-behaved peer never sends: numbers out of range, messages for others, entries that do not follow each other.
//! A message is refused here before anything of it counts.

use super::{Protocol, replication};
use crate::error::PeerMisbehaved;
use crate::message::{Envelope, Message};
use crate::types::{EntryId, Index, Term};

impl Protocol {
    /// What a well-behaved peer never sends. Nothing here may depend on this node's state, but for
    /// its id.
    pub(super) fn check_message(&self, envelope: &Envelope) -> Result<(), PeerMisbehaved> {
        if envelope.to != self.settings.id {
            return Err(PeerMisbehaved::WrongReceiver { to: envelope.to });
        }
        // Who else sends may be one that this server has not heard of: its configuration may be an old one (§4.1).
        if envelope.from == self.settings.id {
            return Err(PeerMisbehaved::OwnId);
        }
        let is_pre_vote = matches!(envelope.message, Message::PreVoteRequest(_) | Message::PreVoteResponse(_));
        if envelope.message.term() == Term::ZERO && !is_pre_vote {
            return Err(PeerMisbehaved::TermZero);
        }
        let in_range = |id: EntryId| id.index <= Index::MAX && id.term <= Term::MAX;
        let numbers_in_range = match &envelope.message {
            Message::PreVoteRequest(request) => {
                // The range first: after the largest number there is comes 0.
                let fits = request.term < Term::MAX && request.campaign_term <= Term::MAX && in_range(request.last);
                if fits && request.campaign_term != request.term.next() {
                    return Err(PeerMisbehaved::CampaignTermMismatch);
                }
                fits
            }
            Message::RequestVoteRequest(request) => request.term <= Term::MAX && in_range(request.last),
            Message::AppendEntriesRequest(request) => return replication::check_entries(request),
            Message::AppendEntriesResponse(response) => replication::is_in_range(response),
            Message::PreVoteResponse(response) => response.term <= Term::MAX,
            Message::RequestVoteResponse(response) => response.term <= Term::MAX,
            Message::ConfirmLeaderRequest(request) => request.term <= Term::MAX,
            Message::ConfirmLeaderResponse(response) => response.term.max(response.leader_term) <= Term::MAX,
            Message::ReadIndexRequest(request) => request.term <= Term::MAX,
            Message::ReadIndexResponse(response) => {
                response.term <= Term::MAX && response.index.max(response.commit) <= Index::MAX
            }
            Message::TimeoutNowRequest(request) => request.term <= Term::MAX,
            Message::InstallSnapshotRequest(request) => {
                let last = request.last;
                let fits = request.term <= Term::MAX && in_range(last) && request.session <= Index::MAX;
                if fits && (last.index == Index::ZERO || last.term == Term::ZERO || last.term > request.term) {
                    return Err(PeerMisbehaved::SnapshotOfNothing { last });
                }
                if fits && request.membership.is_empty() {
                    return Err(PeerMisbehaved::SnapshotWithoutVoters { last });
                }
                fits
            }
        };
        if numbers_in_range { Ok(()) } else { Err(PeerMisbehaved::NumberOutOfRange) }
    }
}
