//! The bodies of message frames: one versioned pack-io struct per message.
//!
//! A field may only ever be appended, with `since = N` and the struct's version raised to N: older
//! servers skip what they do not know, newer ones fill in what is missing. The entries of an
//! append are one length-prefixed block, so that fields can follow it:
//!
//! ```text
//! block = count varint · entry × count
//! entry = term varint · kind u8 · (kind 1: length varint · command) · (kind 2: length varint · configuration)
//! ```
//!
//! An entry's index is not written: the first follows `prev`, each other the one before it.

use super::{EncodeError, FrameError, Limits, kind, write};
use crate::history::HistoryId;
use crate::membership::{Membership, MembershipError};
use crate::message::{
    AppendEntriesRequest, AppendEntriesResponse, AppendResult, ConfirmLeaderRequest, ConfirmLeaderResponse,
    InstallSnapshotRequest, Message, PreVoteRequest, PreVoteResponse, ReadIndexRequest, ReadIndexResponse,
    RequestVoteRequest, RequestVoteResponse, TimeoutNowRequest,
};
use crate::types::{DiskId, Entries, Entry, EntryId, Index, Payload, Term};
use bytes::Bytes;
use pack_io::{Config, Decode, Decoder, DeserializeView, Encode, Encoder, SerialError, Serialize, varint_len};
use std::sync::Arc;
use std::vec::Vec;

const ENTRY_NOOP: u8 = 0;
const ENTRY_COMMAND: u8 = 1;
const ENTRY_MEMBERSHIP: u8 = 2;

const RESULT_ACCEPTED: u8 = 0;
const RESULT_REJECTED: u8 = 1;
const RESULT_STALE_TERM: u8 = 2;
/// `index` is what was acknowledged, `hint_index` where the durable log ends. Only a leader that names what was acknowledged
/// gets such a result, hence none before 0.7.
const RESULT_LOST: u8 = 3;

#[derive(Serialize, DeserializeView)]
#[pack_io(version = 1)]
struct PreVoteRequestBody {
    term: u64,
    campaign_term: u64,
    last_index: u64,
    last_term: u64,
}

#[derive(Serialize, DeserializeView)]
#[pack_io(version = 1)]
struct PreVoteResponseBody {
    term: u64,
    campaign_term: u64,
    granted: bool,
}

#[derive(Serialize, DeserializeView)]
#[pack_io(version = 2)]
struct RequestVoteRequestBody {
    term: u64,
    last_index: u64,
    last_term: u64,
    /// Servers that know of no transfers campaign for themselves.
    #[pack_io(since = 2)]
    leadership_transfer: bool,
}

#[derive(Serialize, DeserializeView)]
#[pack_io(version = 1)]
struct RequestVoteResponseBody {
    term: u64,
    granted: bool,
}

#[derive(Serialize)]
#[pack_io(version = 2)]
struct AppendEntriesRequestBody<'a> {
    term: u64,
    prev_index: u64,
    prev_term: u64,
    commit: u64,
    entries: EntryBlock<'a>,
    #[pack_io(since = 2)]
    session: u64,
    /// The history's identity in two halves; zeros for none, and from servers before 0.7.
    #[pack_io(since = 2)]
    history_high: u64,
    #[pack_io(since = 2)]
    history_low: u64,
    /// 0 for nothing, and from leaders before 0.7.
    #[pack_io(since = 2)]
    acknowledged: u64,
    #[pack_io(since = 2)]
    disk: u32,
}

/// The same body as it is read: the block still in bytes.
#[derive(DeserializeView)]
#[pack_io(version = 2)]
struct AppendEntriesRequestView<'a> {
    term: u64,
    prev_index: u64,
    prev_term: u64,
    commit: u64,
    entries: &'a [u8],
    /// Leaders before 0.7 have none, and take any answer for one to what they sent.
    #[pack_io(since = 2)]
    session: u64,
    #[pack_io(since = 2)]
    history_high: u64,
    #[pack_io(since = 2)]
    history_low: u64,
    /// 0 for nothing, and from leaders before 0.7.
    #[pack_io(since = 2)]
    acknowledged: u64,
    #[pack_io(since = 2)]
    disk: u32,
}

/// A flat union: `index` is `match_index` or `prev_index`, the hint is zero unless rejected.
#[derive(Serialize, DeserializeView)]
#[pack_io(version = 2)]
struct AppendEntriesResponseBody {
    term: u64,
    result: u8,
    index: u64,
    hint_index: u64,
    hint_term: u64,
    /// One more than the session; 0 from servers before 0.7, which echo none.
    #[pack_io(since = 2)]
    session_next: u64,
    #[pack_io(since = 2)]
    disk: u32,
}

#[derive(Serialize, DeserializeView)]
#[pack_io(version = 1)]
struct ConfirmLeaderRequestBody {
    term: u64,
    round: u64,
}

#[derive(Serialize, DeserializeView)]
#[pack_io(version = 1)]
struct ConfirmLeaderResponseBody {
    term: u64,
    leader_term: u64,
    round: u64,
}

#[derive(Serialize, DeserializeView)]
#[pack_io(version = 1)]
struct ReadIndexRequestBody {
    term: u64,
    context: u64,
}

#[derive(Serialize, DeserializeView)]
#[pack_io(version = 1)]
struct ReadIndexResponseBody {
    term: u64,
    context: u64,
    index: u64,
    commit: u64,
}

#[derive(Serialize, DeserializeView)]
#[pack_io(version = 1)]
struct TimeoutNowRequestBody {
    term: u64,
}

#[derive(Serialize, DeserializeView)]
#[pack_io(version = 3)]
struct InstallSnapshotRequestBody<'a> {
    term: u64,
    last_index: u64,
    last_term: u64,
    /// Missing from those who know of no configurations; then the request is refused: a log must not begin anew after a
    /// snapshot without knowing who decides from there on.
    #[pack_io(since = 2)]
    membership: &'a [u8],
    /// As in an append.
    #[pack_io(since = 3)]
    session: u64,
}

/// Entries as they are written, with the size of their block computed once.
struct EntryBlock<'a> {
    entries: &'a [Entry],
    block_bytes: usize,
}

impl<'a> EntryBlock<'a> {
    fn new(entries: &'a [Entry]) -> Result<Self, EncodeError> {
        let mut block_bytes = varint_len(entries.len() as u64);
        for entry in entries {
            block_bytes += varint_len(entry.id.term.0) + 1;
            match &entry.payload {
                Payload::Noop => continue,
                Payload::Command(_) => {}
                Payload::Membership(membership) => check_membership(membership)?,
            }
            let bytes = entry.payload.len();
            block_bytes += varint_len(bytes as u64) + bytes;
        }
        Ok(Self { entries, block_bytes })
    }
}

impl Serialize for EntryBlock<'_> {
    fn serialize<E: Encode + ?Sized>(&self, encoder: &mut E) -> pack_io::Result<()> {
        encoder.reserve(self.block_bytes + varint_len(self.block_bytes as u64));
        encoder.write_varint_u64(self.block_bytes as u64)?;
        encoder.write_varint_u64(self.entries.len() as u64)?;
        for entry in self.entries {
            encoder.write_varint_u64(entry.id.term.0)?;
            match &entry.payload {
                Payload::Noop => encoder.write_byte(ENTRY_NOOP)?,
                Payload::Command(command) => {
                    encoder.write_byte(ENTRY_COMMAND)?;
                    encoder.write_varint_u64(command.len() as u64)?;
                    encoder.write_bytes(command)?;
                }
                Payload::Membership(membership) => {
                    encoder.write_byte(ENTRY_MEMBERSHIP)?;
                    encoder.write_varint_u64(membership.encoded_len() as u64)?;
                    encoder.write_bytes(&membership.encode())?;
                }
            }
        }
        Ok(())
    }

    fn encoded_len(&self) -> pack_io::Result<usize> {
        Ok(varint_len(self.block_bytes as u64) + self.block_bytes)
    }
}

/// Zeros are none; other bits have to be an identity, or there would be two encodings of one.
fn decode_history(high: u64, low: u64) -> Result<Option<HistoryId>, FrameError> {
    if (high, low) == (0, 0) {
        return Ok(None);
    }
    let bits = u128::from(high) << 64 | u128::from(low);
    let id = Some(HistoryId::from_bits(bits)).filter(|id| id.to_bits() == bits);
    id.map(Some).ok_or(FrameError::Body { kind: kind::APPEND_ENTRIES_REQUEST, what: "the identity of no history" })
}

/// What a receiver would not take must not be sent.
fn check_membership(membership: &Membership) -> Result<(), EncodeError> {
    if membership.is_empty() || membership.encoded_len() > Membership::ENCODED_BYTES_MAX {
        return Err(EncodeError::Field { field: "membership" });
    }
    Ok(())
}

pub(super) fn kind_of(message: &Message) -> u16 {
    match message {
        Message::PreVoteRequest(_) => kind::PRE_VOTE_REQUEST,
        Message::PreVoteResponse(_) => kind::PRE_VOTE_RESPONSE,
        Message::RequestVoteRequest(_) => kind::REQUEST_VOTE_REQUEST,
        Message::RequestVoteResponse(_) => kind::REQUEST_VOTE_RESPONSE,
        Message::AppendEntriesRequest(_) => kind::APPEND_ENTRIES_REQUEST,
        Message::AppendEntriesResponse(_) => kind::APPEND_ENTRIES_RESPONSE,
        Message::ConfirmLeaderRequest(_) => kind::CONFIRM_LEADER_REQUEST,
        Message::ConfirmLeaderResponse(_) => kind::CONFIRM_LEADER_RESPONSE,
        Message::ReadIndexRequest(_) => kind::READ_INDEX_REQUEST,
        Message::ReadIndexResponse(_) => kind::READ_INDEX_RESPONSE,
        Message::TimeoutNowRequest(_) => kind::TIMEOUT_NOW_REQUEST,
        Message::InstallSnapshotRequest(_) => kind::INSTALL_SNAPSHOT_REQUEST,
    }
}

pub(super) fn is_message(kind: u16) -> bool {
    (kind::PRE_VOTE_REQUEST..=kind::READ_INDEX_RESPONSE).contains(&kind)
}

pub(super) fn encode(message: &Message, limits: &Limits, encoder: &mut Encoder) -> Result<(), EncodeError> {
    match message {
        Message::PreVoteRequest(m) => write(
            encoder,
            &PreVoteRequestBody {
                term: m.term.0,
                campaign_term: m.campaign_term.0,
                last_index: m.last.index.0,
                last_term: m.last.term.0,
            },
        ),
        Message::PreVoteResponse(m) => write(
            encoder,
            &PreVoteResponseBody { term: m.term.0, campaign_term: m.campaign_term.0, granted: m.granted },
        ),
        Message::RequestVoteRequest(m) => write(
            encoder,
            &RequestVoteRequestBody {
                term: m.term.0,
                last_index: m.last.index.0,
                last_term: m.last.term.0,
                leadership_transfer: m.leadership_transfer,
            },
        ),
        Message::RequestVoteResponse(m) => {
            write(encoder, &RequestVoteResponseBody { term: m.term.0, granted: m.granted })
        }
        Message::AppendEntriesRequest(m) => encode_append(m, limits, encoder),
        Message::AppendEntriesResponse(m) => write(encoder, &append_response_body(m)),
        Message::InstallSnapshotRequest(m) => {
            check_membership(&m.membership)?;
            let (term, membership) = (m.term.0, &*m.membership.encode());
            let (last_index, last_term, session) = (m.last.index.0, m.last.term.0, m.session.0);
            write(encoder, &InstallSnapshotRequestBody { term, last_index, last_term, membership, session })
        }
        Message::ConfirmLeaderRequest(m) => {
            write(encoder, &ConfirmLeaderRequestBody { term: m.term.0, round: m.round })
        }
        Message::ConfirmLeaderResponse(m) => {
            write(encoder, &ConfirmLeaderResponseBody { term: m.term.0, leader_term: m.leader_term.0, round: m.round })
        }
        Message::ReadIndexRequest(m) => write(encoder, &ReadIndexRequestBody { term: m.term.0, context: m.context }),
        Message::ReadIndexResponse(m) => {
            let (term, context, index, commit) = (m.term.0, m.context, m.index.0, m.commit.0);
            write(encoder, &ReadIndexResponseBody { term, context, index, commit })
        }
        Message::TimeoutNowRequest(m) => write(encoder, &TimeoutNowRequestBody { term: m.term.0 }),
    }
}

fn encode_append(m: &AppendEntriesRequest, limits: &Limits, encoder: &mut Encoder) -> Result<(), EncodeError> {
    if m.entries.len() > limits.entries_max() {
        return Err(EncodeError::TooManyEntries { entries: m.entries.len(), limit: limits.entries_max() });
    }
    let mut indexes = m.entries.iter().zip(1u64..);
    if !indexes.all(|(entry, distance)| entry.id.index.0 == m.prev.index.0.saturating_add(distance)) {
        return Err(EncodeError::NotConsecutive { prev: m.prev.index });
    }
    let entries = EntryBlock::new(&m.entries)?;
    // Before the payload is copied: an append over the limit must not grow the buffer for good.
    if entries.block_bytes > limits.frame_bytes_max {
        return Err(EncodeError::TooLarge { bytes: entries.block_bytes, limit: limits.frame_bytes_max });
    }
    let history = m.history.map_or(0, HistoryId::to_bits);
    write(
        encoder,
        &AppendEntriesRequestBody {
            term: m.term.0,
            prev_index: m.prev.index.0,
            prev_term: m.prev.term.0,
            commit: m.commit.0,
            entries,
            session: m.session.0,
            history_high: (history >> 64) as u64,
            history_low: history as u64,
            acknowledged: m.acknowledged.0,
            disk: m.disk.0,
        },
    )
}

fn append_response_body(m: &AppendEntriesResponse) -> AppendEntriesResponseBody {
    let (result, index, hint) = match m.result {
        AppendResult::Accepted { match_index } => (RESULT_ACCEPTED, match_index, EntryId::ZERO),
        AppendResult::Rejected { prev_index, hint } => (RESULT_REJECTED, prev_index, hint),
        AppendResult::StaleTerm => (RESULT_STALE_TERM, Index::ZERO, EntryId::ZERO),
        AppendResult::LostAcknowledged { acknowledged, durable } => {
            (RESULT_LOST, acknowledged, EntryId { index: durable, term: Term::ZERO })
        }
    };
    AppendEntriesResponseBody {
        term: m.term.0,
        result,
        index: index.0,
        hint_index: hint.index.0,
        hint_term: hint.term.0,
        session_next: m.session.map_or(0, |session| session.0.saturating_add(1)),
        disk: m.disk.0,
    }
}

pub(super) fn decode(
    kind: u16,
    body: &[u8],
    limits: &Limits,
    share: impl Fn(&[u8]) -> Bytes,
) -> Result<Message, FrameError> {
    match kind {
        kind::PRE_VOTE_REQUEST => view(kind, body).map(|b: PreVoteRequestBody| {
            Message::PreVoteRequest(PreVoteRequest {
                term: Term(b.term),
                campaign_term: Term(b.campaign_term),
                last: EntryId::new(b.last_index, b.last_term),
            })
        }),
        kind::INSTALL_SNAPSHOT_REQUEST => {
            let b: InstallSnapshotRequestBody<'_> = view(kind, body)?;
            Ok(Message::InstallSnapshotRequest(InstallSnapshotRequest {
                term: Term(b.term),
                last: EntryId::new(b.last_index, b.last_term),
                membership: decode_membership(kind, b.membership)?,
                session: Index(b.session),
            }))
        }
        kind::PRE_VOTE_RESPONSE => view(kind, body).map(|b: PreVoteResponseBody| {
            Message::PreVoteResponse(PreVoteResponse {
                term: Term(b.term),
                campaign_term: Term(b.campaign_term),
                granted: b.granted,
            })
        }),
        kind::REQUEST_VOTE_REQUEST => view(kind, body).map(|b: RequestVoteRequestBody| {
            Message::RequestVoteRequest(RequestVoteRequest {
                term: Term(b.term),
                last: EntryId::new(b.last_index, b.last_term),
                leadership_transfer: b.leadership_transfer,
            })
        }),
        kind::REQUEST_VOTE_RESPONSE => view(kind, body).map(|b: RequestVoteResponseBody| {
            Message::RequestVoteResponse(RequestVoteResponse { term: Term(b.term), granted: b.granted })
        }),
        kind::APPEND_ENTRIES_REQUEST => decode_append(body, limits, share),
        kind::APPEND_ENTRIES_RESPONSE => {
            let b: AppendEntriesResponseBody = view(kind, body)?;
            let result = match b.result {
                RESULT_ACCEPTED => AppendResult::Accepted { match_index: Index(b.index) },
                RESULT_REJECTED => {
                    AppendResult::Rejected { prev_index: Index(b.index), hint: EntryId::new(b.hint_index, b.hint_term) }
                }
                RESULT_STALE_TERM => AppendResult::StaleTerm,
                RESULT_LOST => {
                    AppendResult::LostAcknowledged { acknowledged: Index(b.index), durable: Index(b.hint_index) }
                }
                _ => return Err(FrameError::Body { kind, what: "unknown result" }),
            };
            let session = b.session_next.checked_sub(1).map(Index);
            let (term, disk) = (Term(b.term), DiskId(b.disk));
            Ok(Message::AppendEntriesResponse(AppendEntriesResponse { term, result, session, disk }))
        }
        kind::CONFIRM_LEADER_REQUEST => view(kind, body).map(|b: ConfirmLeaderRequestBody| {
            Message::ConfirmLeaderRequest(ConfirmLeaderRequest { term: Term(b.term), round: b.round })
        }),
        kind::CONFIRM_LEADER_RESPONSE => view(kind, body).map(|b: ConfirmLeaderResponseBody| {
            Message::ConfirmLeaderResponse(ConfirmLeaderResponse {
                term: Term(b.term),
                leader_term: Term(b.leader_term),
                round: b.round,
            })
        }),
        kind::READ_INDEX_REQUEST => view(kind, body).map(|b: ReadIndexRequestBody| {
            Message::ReadIndexRequest(ReadIndexRequest { term: Term(b.term), context: b.context })
        }),
        kind::READ_INDEX_RESPONSE => view(kind, body).map(|b: ReadIndexResponseBody| {
            Message::ReadIndexResponse(ReadIndexResponse {
                term: Term(b.term),
                context: b.context,
                index: Index(b.index),
                commit: Index(b.commit),
            })
        }),
        kind::TIMEOUT_NOW_REQUEST => view(kind, body)
            .map(|b: TimeoutNowRequestBody| Message::TimeoutNowRequest(TimeoutNowRequest { term: Term(b.term) })),
        _ => Err(FrameError::Body { kind, what: "not a message" }),
    }
}

fn decode_append(body: &[u8], limits: &Limits, share: impl Fn(&[u8]) -> Bytes) -> Result<Message, FrameError> {
    let b: AppendEntriesRequestView<'_> = view(kind::APPEND_ENTRIES_REQUEST, body)?;
    Ok(Message::AppendEntriesRequest(AppendEntriesRequest {
        term: Term(b.term),
        prev: EntryId::new(b.prev_index, b.prev_term),
        entries: decode_entries(b.entries, Index(b.prev_index), limits, share)?,
        commit: Index(b.commit),
        session: Index(b.session),
        history: decode_history(b.history_high, b.history_low)?,
        acknowledged: Index(b.acknowledged),
        disk: DiskId(b.disk),
    }))
}

/// Two passes over the block: the first finds every fault and allocates nothing but the configurations, the second
/// knows the count and fills one allocation.
fn decode_entries(
    block: &[u8],
    prev: Index,
    limits: &Limits,
    share: impl Fn(&[u8]) -> Bytes,
) -> Result<Entries, FrameError> {
    let broken = |error| malformed(kind::APPEND_ENTRIES_REQUEST, &error);
    let mut check = Decoder::new(block);
    let claimed = check.read_varint_u64().map_err(broken)?;
    let limit = limits.entries_max();
    let count = usize::try_from(claimed)
        .ok()
        .filter(|&count| count <= limit)
        .ok_or(FrameError::TooManyEntries { claimed, limit })?;
    let start = check.position();
    let mut memberships = Vec::new();
    for _ in 0..count {
        if let (_, Content::Membership(bytes)) = read_entry(&mut check).map_err(broken)?? {
            memberships.push(decode_membership(kind::APPEND_ENTRIES_REQUEST, bytes)?);
        }
    }
    if !check.is_empty() {
        return Err(FrameError::Body { kind: kind::APPEND_ENTRIES_REQUEST, what: "trailing bytes after the entries" });
    }
    let mut entries = Decoder::new(&block[start..]);
    let mut memberships = memberships.into_iter();
    Ok((0..count)
        .map(|position| {
            // The first pass read the same bytes without a fault.
            let (term, content) = match read_entry(&mut entries) {
                Ok(Ok(entry)) => entry,
                _ => unreachable!("an entry changed between two passes over the same bytes"),
            };
            // Saturates only when `prev` itself is far out of range; the protocol refuses that.
            let index = Index(prev.0.saturating_add(1).saturating_add(position as u64));
            let payload = match content {
                Content::Noop => Payload::Noop,
                Content::Command(command) => Payload::Command(share(command)),
                Content::Membership(_) => Payload::Membership(memberships.next().expect("one for each entry with one")),
            };
            Entry { id: EntryId { index, term }, payload }
        })
        .collect())
}

/// What an entry carries, still in bytes.
enum Content<'a> {
    Noop,
    Command(&'a [u8]),
    Membership(&'a [u8]),
}

/// The term and the content of the next entry.
#[allow(clippy::type_complexity)]
fn read_entry<'a>(decoder: &mut Decoder<'a>) -> Result<Result<(Term, Content<'a>), FrameError>, SerialError> {
    let term = Term(decoder.read_varint_u64()?);
    Ok(match decoder.read_byte()? {
        ENTRY_NOOP => Ok((term, Content::Noop)),
        ENTRY_COMMAND => Ok((term, Content::Command(decoder.read_length_prefixed_borrowed()?))),
        ENTRY_MEMBERSHIP => Ok((term, Content::Membership(decoder.read_length_prefixed_borrowed()?))),
        kind => Err(FrameError::UnknownEntryKind { kind }),
    })
}

fn decode_membership(kind: u16, bytes: &[u8]) -> Result<Arc<Membership>, FrameError> {
    Membership::decode(bytes).map(Arc::new).map_err(|error| FrameError::Body {
        kind,
        what: match error {
            MembershipError::Length { .. } => "a configuration that does not end where its lists do",
            MembershipError::TooLarge { .. } => "a configuration that is too large",
            MembershipError::Format { .. } => "a configuration in an unknown format",
            MembershipError::Contradiction(_) => "a configuration that contradicts itself",
            MembershipError::NoVoters => "a configuration without voters",
            MembershipError::History => "a configuration of a history that is none",
        },
    })
}

/// Reads a whole body.
pub(super) fn view<'a, T: DeserializeView<'a>>(kind: u16, body: &'a [u8]) -> Result<T, FrameError> {
    // No length within the body can exceed the body, which the frame limit bounds.
    let config = Config::new().with_max_alloc(body.len().max(1));
    pack_io::decode_view_with_config(body, config).map_err(|error| malformed(kind, &error))
}

fn malformed(kind: u16, error: &SerialError) -> FrameError {
    let what = match error {
        SerialError::UnexpectedEof { .. } => "ends too early",
        SerialError::InvalidLength { .. } => "a length exceeds the body",
        SerialError::VarintOverflow | SerialError::IntegerOutOfRange => "a number is out of range",
        SerialError::InvalidBool { .. } => "not a boolean",
        SerialError::InvalidUtf8 => "text is not UTF-8",
        SerialError::TrailingBytes { .. } => "trailing bytes",
        SerialError::InvalidVersion { .. } => "version 0",
        _ => "not the prescribed fields",
    };
    FrameError::Body { kind, what }
}
