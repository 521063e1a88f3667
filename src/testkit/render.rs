//! What happened, in the words of scenario scripts.
//!
//! Entries are written `index@term`, a command behind a colon: `3@1:x`; a no-op has none. A run of more than eight is
//! `3@1 … 40@2 (38 entries)`. A configuration stands in parentheses: `4@1:(voters 1 2 3, learners 4)`.

use crate::action::{Compaction, RoleKind, Write};
use crate::membership::Membership;
use crate::message::{AppendResult, Envelope, Message};
use crate::types::{Entry, HardState, Index, Payload};
use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

/// The message's name as in the spec, without its content.
#[must_use]
pub const fn message_name(message: &Message) -> &'static str {
    match message {
        Message::PreVoteRequest(_) => "PreVoteRequest",
        Message::PreVoteResponse(_) => "PreVoteResponse",
        Message::RequestVoteRequest(_) => "RequestVoteRequest",
        Message::RequestVoteResponse(_) => "RequestVoteResponse",
        Message::AppendEntriesRequest(_) => "AppendEntriesRequest",
        Message::AppendEntriesResponse(_) => "AppendEntriesResponse",
        Message::ConfirmLeaderRequest(_) => "ConfirmLeaderRequest",
        Message::ConfirmLeaderResponse(_) => "ConfirmLeaderResponse",
        Message::ReadIndexRequest(_) => "ReadIndexRequest",
        Message::ReadIndexResponse(_) => "ReadIndexResponse",
        Message::TimeoutNowRequest(_) => "TimeoutNowRequest",
        Message::InstallSnapshotRequest(_) => "InstallSnapshotRequest",
    }
}

/// The content of a message: `term=1 prev=1@1 [2@1:x] commit=1`.
#[must_use]
pub fn message_content(message: &Message) -> String {
    let granted = |granted: bool| if granted { "granted" } else { "refused" };
    let content = match message {
        Message::PreVoteRequest(m) => format!("campaign_term={} last={}", m.campaign_term, m.last),
        Message::PreVoteResponse(m) => format!("campaign_term={} {}", m.campaign_term, granted(m.granted)),
        Message::RequestVoteRequest(m) if m.leadership_transfer => format!("last={} leadership_transfer", m.last),
        Message::RequestVoteRequest(m) => format!("last={}", m.last),
        Message::RequestVoteResponse(m) => granted(m.granted).to_string(),
        Message::AppendEntriesRequest(m) => {
            let run = if m.entries.is_empty() { String::new() } else { format!(" {}", entries(&m.entries)) };
            format!("prev={}{run} commit={}{}", m.prev, m.commit, session(m.session))
        }
        Message::AppendEntriesResponse(m) => {
            let result = match m.result {
                AppendResult::Accepted { match_index } => format!("accepted match={match_index}"),
                AppendResult::Rejected { prev_index, hint } => format!("rejected prev={prev_index} hint={hint}"),
                AppendResult::StaleTerm => "stale".to_string(),
                AppendResult::LostAcknowledged { acknowledged, durable } => {
                    format!("lost acknowledged={acknowledged} durable={durable}")
                }
            };
            format!("{result}{}", m.session.map_or(" session=none".to_string(), session))
        }
        Message::ConfirmLeaderRequest(m) => format!("round={}", m.round),
        Message::InstallSnapshotRequest(m) => {
            format!("last={} ({}){}", m.last, membership(&m.membership), session(m.session))
        }
        Message::ConfirmLeaderResponse(m) => format!("leader_term={} round={}", m.leader_term, m.round),
        Message::ReadIndexRequest(m) => format!("context={}", m.context),
        Message::ReadIndexResponse(m) => format!("context={} index={} commit={}", m.context, m.index, m.commit),
        Message::TimeoutNowRequest(_) => return format!("term={}", message.term()),
    };
    format!("term={} {content}", message.term())
}

/// Nothing for a server that was a member when the term began.
fn session(session: Index) -> String {
    if session == Index::ZERO { String::new() } else { format!(" session={session}") }
}

/// A message with its way: `1 → 2 RequestVoteRequest term=1 last=0@0`.
#[must_use]
pub fn envelope(envelope: &Envelope) -> String {
    let (from, to, message) = (envelope.from, envelope.to, &envelope.message);
    format!("{from} → {to} {} {}", message_name(message), message_content(message))
}

/// One entry.
#[must_use]
pub fn entry(entry: &Entry) -> String {
    match &entry.payload {
        Payload::Command(command) if command.len() > 16 => format!("{}:({} bytes)", entry.id, command.len()),
        Payload::Command(command) => format!("{}:{}", entry.id, String::from_utf8_lossy(command)),
        Payload::Noop => entry.id.to_string(),
        Payload::Membership(m) => format!("{}:({})", entry.id, membership(m)),
    }
}

/// A configuration with its addresses: `voters 1 2, learners 4, at 4=host`.
#[must_use]
pub fn membership(membership: &Membership) -> String {
    if *membership == Membership::default() {
        return "nobody".to_string();
    }
    let addresses = membership.addresses().map(|(id, address)| format!(" {id}={address}")).collect::<String>();
    let at = if addresses.is_empty() { "" } else { ", at" };
    format!("{membership}{at}{addresses}")
}

/// A run of entries, in brackets.
#[must_use]
pub fn entries(run: &[Entry]) -> String {
    match run {
        [first, .., last] if run.len() > 8 => format!("[{} … {} ({} entries)]", first.id, last.id, run.len()),
        _ => format!("[{}]", run.iter().map(entry).collect::<Vec<_>>().join(" ")),
    }
}

/// Term and vote: `term=2 vote=1`.
#[must_use]
pub fn hard_state(state: HardState) -> String {
    match state.vote {
        Some(vote) => format!("term={} vote={vote}", state.term),
        None => format!("term={} vote=none", state.term),
    }
}

/// One write: `snapshot=5@2 base=3@1 (voters 1 2 3)`, or `term=2 vote=none truncate=3 [3@2]`.
#[must_use]
pub fn write(write: &Write) -> String {
    let mut parts = Vec::new();
    parts.extend(write.hard_state.map(hard_state));
    parts.extend(write.compaction.as_ref().map(|compaction| {
        let Compaction { snapshot, base, membership: as_of } = compaction;
        format!("snapshot={snapshot} base={base} ({})", membership(as_of))
    }));
    parts.extend(write.truncate_from.map(|first| format!("truncate={first}")));
    if !write.entries.is_empty() {
        parts.push(entries(&write.entries));
    }
    parts.join(" ")
}

/// A role, or `down`.
#[must_use]
pub const fn role(role: Option<RoleKind>) -> &'static str {
    match role {
        Some(role) => role.name(),
        None => "down",
    }
}
