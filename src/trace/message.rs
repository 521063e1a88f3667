//! Messages, as a trace writes them: each with its way, in the spec's words.

use super::line::{EntryRun, MembershipRecord, is_false, is_first, runs};
use crate::message::{AppendResult, Envelope, Message};
use crate::transition::Transition;
use crate::types::{EntryId, Index, NodeId, Term};
use serde::{Deserialize, Serialize};
use std::vec::Vec;

/// A message with its way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "type", rename_all_fields = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields are those of `Envelope` and of the structs in `message`")]
pub enum MessageRecord {
    /// See [`PreVoteRequest`](crate::message::PreVoteRequest).
    PreVoteRequest { from: NodeId, to: NodeId, term: Term, campaign_term: Term, last: EntryId },
    /// See [`PreVoteResponse`](crate::message::PreVoteResponse).
    PreVoteResponse { from: NodeId, to: NodeId, term: Term, campaign_term: Term, granted: bool },
    /// See [`RequestVoteRequest`](crate::message::RequestVoteRequest).
    RequestVoteRequest {
        from: NodeId,
        to: NodeId,
        term: Term,
        last: EntryId,
        #[serde(default, skip_serializing_if = "is_false")]
        leadership_transfer: bool,
    },
    /// See [`RequestVoteResponse`](crate::message::RequestVoteResponse).
    RequestVoteResponse { from: NodeId, to: NodeId, term: Term, granted: bool },
    /// See [`AppendEntriesRequest`](crate::message::AppendEntriesRequest).
    AppendEntriesRequest {
        from: NodeId,
        to: NodeId,
        term: Term,
        prev: EntryId,
        entries: Vec<EntryRun>,
        commit: Index,
        #[serde(default, skip_serializing_if = "is_first")]
        session: Index,
        #[serde(default, skip_serializing_if = "is_first")]
        acknowledged: Index,
    },
    /// See [`AppendEntriesResponse`](crate::message::AppendEntriesResponse).
    AppendEntriesResponse {
        from: NodeId,
        to: NodeId,
        term: Term,
        result: ResultRecord,
        #[serde(default, skip_serializing_if = "is_first")]
        session: Index,
    },
    /// See [`ConfirmLeaderRequest`](crate::message::ConfirmLeaderRequest).
    ConfirmLeaderRequest { from: NodeId, to: NodeId, term: Term, round: u64 },
    /// See [`ConfirmLeaderResponse`](crate::message::ConfirmLeaderResponse).
    ConfirmLeaderResponse { from: NodeId, to: NodeId, term: Term, leader_term: Term, round: u64 },
    /// See [`ReadIndexRequest`](crate::message::ReadIndexRequest).
    ReadIndexRequest { from: NodeId, to: NodeId, term: Term, context: u64 },
    /// See [`ReadIndexResponse`](crate::message::ReadIndexResponse).
    ReadIndexResponse { from: NodeId, to: NodeId, term: Term, context: u64, index: Index, commit: Index },
    /// See [`TimeoutNowRequest`](crate::message::TimeoutNowRequest).
    TimeoutNowRequest { from: NodeId, to: NodeId, term: Term },
    /// See [`InstallSnapshotRequest`](crate::message::InstallSnapshotRequest).
    InstallSnapshotRequest {
        from: NodeId,
        to: NodeId,
        term: Term,
        last: EntryId,
        membership: MembershipRecord,
        #[serde(default, skip_serializing_if = "is_first")]
        session: Index,
    },
}

/// What became of an append.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all_fields = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields are those of `AppendResult`")]
pub enum ResultRecord {
    /// See [`AppendResult::Accepted`].
    Accepted { match_index: Index },
    /// See [`AppendResult::Rejected`].
    Rejected { prev_index: Index, hint: EntryId },
    /// See [`AppendResult::StaleTerm`].
    StaleTerm {},
    /// See [`AppendResult::LostAcknowledged`].
    LostAcknowledged { acknowledged: Index, durable: Index },
}

impl MessageRecord {
    /// The transition that consumes this message.
    #[must_use]
    pub const fn handled_by(&self) -> Transition {
        match self {
            Self::PreVoteRequest { .. } => Transition::HandlePreVoteRequest,
            Self::PreVoteResponse { .. } => Transition::HandlePreVoteResponse,
            Self::RequestVoteRequest { .. } => Transition::HandleRequestVoteRequest,
            Self::RequestVoteResponse { .. } => Transition::HandleRequestVoteResponse,
            Self::AppendEntriesRequest { .. } => Transition::HandleAppendEntriesRequest,
            Self::AppendEntriesResponse { .. } => Transition::HandleAppendEntriesResponse,
            Self::ConfirmLeaderRequest { .. } => Transition::HandleConfirmLeaderRequest,
            Self::ConfirmLeaderResponse { .. } => Transition::HandleConfirmLeaderResponse,
            Self::ReadIndexRequest { .. } => Transition::HandleReadIndexRequest,
            Self::ReadIndexResponse { .. } => Transition::HandleReadIndexResponse,
            Self::TimeoutNowRequest { .. } => Transition::HandleTimeoutNowRequest,
            Self::InstallSnapshotRequest { .. } => Transition::HandleInstallSnapshotRequest,
        }
    }

    /// Who sent it, and whom it is for.
    #[must_use]
    pub const fn way(&self) -> (NodeId, NodeId) {
        match self {
            Self::PreVoteRequest { from, to, .. }
            | Self::PreVoteResponse { from, to, .. }
            | Self::RequestVoteRequest { from, to, .. }
            | Self::RequestVoteResponse { from, to, .. }
            | Self::AppendEntriesRequest { from, to, .. }
            | Self::AppendEntriesResponse { from, to, .. }
            | Self::ConfirmLeaderRequest { from, to, .. }
            | Self::ConfirmLeaderResponse { from, to, .. }
            | Self::ReadIndexRequest { from, to, .. }
            | Self::ReadIndexResponse { from, to, .. }
            | Self::TimeoutNowRequest { from, to, .. }
            | Self::InstallSnapshotRequest { from, to, .. } => (*from, *to),
        }
    }
}

impl From<&Envelope> for MessageRecord {
    fn from(envelope: &Envelope) -> Self {
        let (from, to, term) = (envelope.from, envelope.to, envelope.message.term());
        match &envelope.message {
            Message::PreVoteRequest(m) => {
                Self::PreVoteRequest { from, to, term, campaign_term: m.campaign_term, last: m.last }
            }
            Message::PreVoteResponse(m) => {
                Self::PreVoteResponse { from, to, term, campaign_term: m.campaign_term, granted: m.granted }
            }
            Message::RequestVoteRequest(m) => {
                let (last, leadership_transfer) = (m.last, m.leadership_transfer);
                Self::RequestVoteRequest { from, to, term, last, leadership_transfer }
            }
            Message::RequestVoteResponse(m) => Self::RequestVoteResponse { from, to, term, granted: m.granted },
            Message::AppendEntriesRequest(m) => {
                let entries = runs(m.entries.iter());
                let (prev, commit, session, acknowledged) = (m.prev, m.commit, m.session, m.acknowledged);
                Self::AppendEntriesRequest { from, to, term, prev, entries, commit, session, acknowledged }
            }
            Message::AppendEntriesResponse(m) => {
                let result = match m.result {
                    AppendResult::Accepted { match_index } => ResultRecord::Accepted { match_index },
                    AppendResult::Rejected { prev_index, hint } => ResultRecord::Rejected { prev_index, hint },
                    AppendResult::StaleTerm => ResultRecord::StaleTerm {},
                    AppendResult::LostAcknowledged { acknowledged, durable } => {
                        ResultRecord::LostAcknowledged { acknowledged, durable }
                    }
                };
                Self::AppendEntriesResponse { from, to, term, result, session: m.session.unwrap_or_default() }
            }
            Message::InstallSnapshotRequest(m) => {
                let membership = MembershipRecord::from(&*m.membership);
                Self::InstallSnapshotRequest { from, to, term, last: m.last, membership, session: m.session }
            }
            Message::ConfirmLeaderRequest(m) => Self::ConfirmLeaderRequest { from, to, term, round: m.round },
            Message::ConfirmLeaderResponse(m) => {
                Self::ConfirmLeaderResponse { from, to, term, leader_term: m.leader_term, round: m.round }
            }
            Message::ReadIndexRequest(m) => Self::ReadIndexRequest { from, to, term, context: m.context },
            Message::ReadIndexResponse(m) => {
                let (context, index, commit) = (m.context, m.index, m.commit);
                Self::ReadIndexResponse { from, to, term, context, index, commit }
            }
            Message::TimeoutNowRequest(_) => Self::TimeoutNowRequest { from, to, term },
        }
    }
}
