//! Messages and snapshots on the wire: frames with a checksum around pack-io bodies (`docs/FORMAT.md`,
//! Frames).
//!
//! Lives here: encoding into a buffer that the caller reuses, and decoding that is total on
//! arbitrary bytes and shares the frame instead of copying commands out of it. Does not live here:
//! sockets, and any judgement of what a message says: a term or an index of any size decodes, and
//! the protocol refuses it.
//!
//! ```text
//!  0        4         8          9      11      12       20
//! ┌────────┬─────────┬──────────┬──────┬───────┬────────┬───────────────┐
//! │ length │ crc32c  │ protocol │ kind │ flags │ group  │ body          │
//! │ u32    │ u32     │ u8       │ u16  │ u8    │ u64    │ pack-io       │
//! └────────┴─────────┴──────────┴──────┴───────┴────────┴───────────────┘
//!                     └── the checksum covers and length counts these ──┘
//! ```

mod body;
mod handshake;
mod introduction;
mod refusal;
mod transfer;

pub use handshake::{CLIENT_ADDRESS_BYTES_MAX, Hello, Purpose, Welcome};
pub use introduction::{FEATURE_HISTORIES, Introduction, LIVES_BYTES_MAX, Refuser};
pub use refusal::Refusal;
pub use transfer::CHUNK_FRAME_BYTES_MAX;

use crate::history::Lineage;
use crate::message::Message;
use crate::snapshot::{Chunk, ChunkRequest};
use crate::types::{EntryId, GroupId, Index};
use bytes::Bytes;
use pack_io::{Encoder, Serialize};
use std::cell::OnceCell;
use std::mem;
use std::vec::Vec;
use thiserror::Error;

/// The version of the message frames that this library speaks, and the only one so far.
pub const PROTOCOL: u8 = 1;
/// The version of the frames that carry snapshots. Counted apart from [`PROTOCOL`], and far from it: a
/// server that knows nothing of snapshots refuses a connection for them as one of a version that it does
/// not speak, instead of taking it for one with messages.
pub const TRANSFER_PROTOCOL: u8 = 65;
/// The version byte of connection control (handshake, ping): it never changes, so that two servers
/// of any versions understand each other's refusals.
pub const CONTROL_PROTOCOL: u8 = 0;
/// Bytes before the body.
pub const HEADER_BYTES: usize = 20;
/// The largest frame of connection control, in bytes; but a hello and a welcome may have [`HANDSHAKE_FRAME_BYTES_MAX`].
pub const CONTROL_FRAME_BYTES_MAX: usize = 1024;
/// The largest hello or welcome, in bytes. Servers of 0.6 take [`CONTROL_FRAME_BYTES_MAX`], which only the history of a cluster
/// exceeds that was recovered more than sixteen times; none of them is a member of such a one.
pub const HANDSHAKE_FRAME_BYTES_MAX: usize = 2048;
/// What one entry of an append counts in memory, whatever its command: the number of entries in a
/// frame is at most `frame_bytes_max / ENTRY_MEMORY_BYTES`.
pub const ENTRY_MEMORY_BYTES: usize = 64;

/// Bytes that the length field does not count: itself and the checksum.
const UNCOUNTED_BYTES: usize = 8;
/// What the length field counts beside the body.
const COUNTED_HEADER_BYTES: usize = HEADER_BYTES - UNCOUNTED_BYTES;

const _: () = assert!(mem::size_of::<crate::types::Entry>() <= ENTRY_MEMORY_BYTES);

/// What a receiver accepts; checked before anything is allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// The largest frame in bytes, header included; at least [`CONTROL_FRAME_BYTES_MAX`]. A decoded
    /// frame takes at most about as much again in memory.
    pub frame_bytes_max: usize,
}

impl Limits {
    /// The most entries that one append may carry.
    #[must_use]
    pub const fn entries_max(&self) -> usize {
        self.frame_bytes_max / ENTRY_MEMORY_BYTES
    }
}

/// 16 MiB.
impl Default for Limits {
    fn default() -> Self {
        Self { frame_bytes_max: 16 << 20 }
    }
}

/// The kinds of frames that this version knows.
pub mod kind {
    /// The first frame of a connection, from the side that opened it.
    pub const HELLO: u16 = 1;
    /// The answer to [`HELLO`]: speak.
    pub const WELCOME: u16 = 2;
    /// The answer to [`HELLO`]: no, and why.
    pub const REFUSAL: u16 = 3;
    /// Are you still there?
    pub const PING: u16 = 4;
    /// The answer to [`PING`].
    pub const PONG: u16 = 5;
    /// What the sender's log holds durably; since 0.7.0, older servers skip it.
    pub const POSITION: u16 = 6;
    /// Which history the sender's log belongs to from now on; since 0.7.0, older servers skip it.
    pub const HISTORY: u16 = 7;
    /// The first kind that is a message; those below are connection control.
    pub const MESSAGES: u16 = 16;
    /// [`PreVoteRequest`](crate::message::PreVoteRequest).
    pub const PRE_VOTE_REQUEST: u16 = 16;
    /// [`PreVoteResponse`](crate::message::PreVoteResponse).
    pub const PRE_VOTE_RESPONSE: u16 = 17;
    /// [`RequestVoteRequest`](crate::message::RequestVoteRequest).
    pub const REQUEST_VOTE_REQUEST: u16 = 18;
    /// [`RequestVoteResponse`](crate::message::RequestVoteResponse).
    pub const REQUEST_VOTE_RESPONSE: u16 = 19;
    /// [`AppendEntriesRequest`](crate::message::AppendEntriesRequest).
    pub const APPEND_ENTRIES_REQUEST: u16 = 20;
    /// [`AppendEntriesResponse`](crate::message::AppendEntriesResponse).
    pub const APPEND_ENTRIES_RESPONSE: u16 = 21;
    /// [`ConfirmLeaderRequest`](crate::message::ConfirmLeaderRequest).
    pub const CONFIRM_LEADER_REQUEST: u16 = 22;
    /// [`ConfirmLeaderResponse`](crate::message::ConfirmLeaderResponse).
    pub const CONFIRM_LEADER_RESPONSE: u16 = 23;
    /// [`TimeoutNowRequest`](crate::message::TimeoutNowRequest).
    pub const TIMEOUT_NOW_REQUEST: u16 = 24;
    /// [`InstallSnapshotRequest`](crate::message::InstallSnapshotRequest).
    pub const INSTALL_SNAPSHOT_REQUEST: u16 = 25;
    /// [`ReadIndexRequest`](crate::message::ReadIndexRequest).
    pub const READ_INDEX_REQUEST: u16 = 26;
    /// [`ReadIndexResponse`](crate::message::ReadIndexResponse).
    pub const READ_INDEX_RESPONSE: u16 = 27;
    /// The first kind of the frames that carry snapshots, on connections of their own.
    pub const TRANSFER: u16 = 64;
    /// Asks for a chunk of a snapshot.
    pub const CHUNK_REQUEST: u16 = 64;
    /// An answer to [`CHUNK_REQUEST`]: the chunk.
    pub const CHUNK: u16 = 65;
    /// An answer to [`CHUNK_REQUEST`]: there is none, or no longer.
    pub const NO_CHUNK: u16 = 66;
    /// The last kind of the frames that carry snapshots, in any version.
    pub const TRANSFER_LAST: u16 = 127;
}

/// A decoded frame.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Frame {
    /// The opening of a connection.
    Hello(Hello),
    /// The handshake succeeded.
    Welcome(Welcome),
    /// The handshake failed.
    Refusal {
        /// Why.
        reason: Refusal,
        /// What the server that refuses says of itself.
        by: Refuser,
    },
    /// Are you still there?
    Ping,
    /// Yes.
    Pong,
    /// What the sender's log holds durably, all of it for good while the term lasts.
    Position {
        /// The group whose log it is.
        group: GroupId,
        /// The last entry, which is of the sender's current term.
        last: EntryId,
    },
    /// The history that the sender's log belongs to, committed since the handshake.
    History {
        /// As in [`Introduction::history`].
        lineage: Lineage,
    },
    /// A message for a group. Sender and receiver are those of the connection.
    Message {
        /// The group whose log the message is about.
        group: GroupId,
        /// The message.
        message: Message,
    },
    /// One server asks another for a chunk of a snapshot.
    ChunkRequest {
        /// The group whose snapshot it is.
        group: GroupId,
        /// Which chunk.
        request: ChunkRequest,
    },
    /// The chunk asked for.
    Chunk {
        /// The group whose snapshot it is.
        group: GroupId,
        /// The chunk, not verified: that needs the chunk before.
        chunk: Chunk,
    },
    /// The server asked has no such chunk, or no longer.
    NoChunk {
        /// The group whose snapshot it is.
        group: GroupId,
        /// Which chunk was asked for.
        request: ChunkRequest,
    },
    /// A frame of a kind that this version does not know, with a valid checksum: skip it.
    Unknown {
        /// Its kind.
        kind: u16,
    },
}

/// Why bytes are not a frame. The stream they came from cannot be trusted any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The length field is below the header or above the limit; nothing was allocated.
    #[error("a frame claims {claimed} bytes, outside {HEADER_BYTES} to {limit}")]
    Length {
        /// What the frame claims, in bytes, header included.
        claimed: u64,
        /// The largest that is accepted here.
        limit: usize,
    },
    /// There are fewer or more bytes than the length field says.
    #[error("a frame of {expected} bytes came as {actual}")]
    Incomplete {
        /// The size by the length field.
        expected: usize,
        /// The bytes at hand.
        actual: usize,
    },
    /// The checksum does not match: the bytes were damaged on their way.
    #[error("a frame's checksum is {actual:#010x} where its header says {expected:#010x}")]
    Checksum {
        /// By the header.
        expected: u32,
        /// By the bytes.
        actual: u32,
    },
    /// A version that was not agreed on.
    #[error("a frame of kind {kind} has protocol version {protocol}")]
    Protocol {
        /// The frame's version byte.
        protocol: u8,
        /// The frame's kind.
        kind: u16,
    },
    /// Flags that this version does not know.
    #[error("a frame has unknown flags {flags:#04x}")]
    Flags {
        /// The flags.
        flags: u8,
    },
    /// The body is not what its kind prescribes.
    #[error("a frame of kind {kind} has a malformed body: {what}")]
    Body {
        /// The frame's kind.
        kind: u16,
        /// What is wrong.
        what: &'static str,
    },
    /// An entry of a kind that this version does not know. It must not be skipped: a log with a
    /// hole is not a log.
    #[error("an entry has the unknown kind {kind}; a newer version wrote it")]
    UnknownEntryKind {
        /// The entry's kind.
        kind: u8,
    },
    /// More entries than the limit; nothing was allocated.
    #[error("an append claims {claimed} entries, over the limit of {limit}")]
    TooManyEntries {
        /// What the append claims.
        claimed: u64,
        /// [`Limits::entries_max`].
        limit: usize,
    },
}

/// Why a message was not encoded. The buffer is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The frame would exceed what the receiver accepts.
    #[error("a frame of {bytes} bytes exceeds the limit of {limit}; raise frame_bytes_max on every server")]
    TooLarge {
        /// The frame's size.
        bytes: usize,
        /// The receiver's limit.
        limit: usize,
    },
    /// More entries than the receiver accepts in one append.
    #[error("an append of {entries} entries exceeds the limit of {limit}; raise frame_bytes_max on every server")]
    TooManyEntries {
        /// How many there are.
        entries: usize,
        /// [`Limits::entries_max`] of the receiver.
        limit: usize,
    },
    /// The entries do not have consecutive indexes from `prev` on, so the frame, which holds only
    /// the first, would change them: a defect of the caller.
    #[error("the entries of an append do not follow entry {prev}")]
    NotConsecutive {
        /// `prev.index` of the request.
        prev: Index,
    },
    /// A field is larger than its limit.
    #[error("{field} is too long")]
    Field {
        /// Its name.
        field: &'static str,
    },
}

/// The fixed part of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Header {
    /// The whole frame in bytes, this header included.
    pub frame_bytes: usize,
    /// CRC-32C of everything after the checksum.
    pub checksum: u32,
    /// [`PROTOCOL`], [`TRANSFER_PROTOCOL`] or [`CONTROL_PROTOCOL`].
    pub protocol: u8,
    /// One of [`kind`], or unknown.
    pub kind: u16,
    /// None are defined.
    pub flags: u8,
    /// The group, 0 for connection control.
    pub group: GroupId,
}

impl Header {
    /// Reads a header and checks the length that it claims, so that the caller may allocate it.
    ///
    /// # Errors
    /// [`FrameError::Length`].
    pub fn parse(bytes: &[u8; HEADER_BYTES], limit: usize) -> Result<Self, FrameError> {
        let claimed = u64::from(u32_at(bytes, 0)) + UNCOUNTED_BYTES as u64;
        if claimed < HEADER_BYTES as u64 || claimed > limit as u64 {
            return Err(FrameError::Length { claimed, limit });
        }
        let mut group = [0; 8];
        group.copy_from_slice(&bytes[12..20]);
        Ok(Self {
            frame_bytes: claimed as usize,
            checksum: u32_at(bytes, 4),
            protocol: bytes[8],
            kind: u16::from_le_bytes([bytes[9], bytes[10]]),
            flags: bytes[11],
            group: GroupId(u64::from_le_bytes(group)),
        })
    }
}

fn u32_at(bytes: &[u8; HEADER_BYTES], offset: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(number)
}

/// Appends a message's frame to `buffer`. Allocates only when the buffer must grow.
///
/// # Errors
/// The message exceeds the limits; the buffer is as it was.
pub fn encode_message(
    group: GroupId,
    message: &Message,
    limits: &Limits,
    buffer: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let kind = body::kind_of(message);
    encode_frame(PROTOCOL, kind, group, limits.frame_bytes_max, buffer, |encoder| {
        body::encode(message, limits, encoder)
    })
}

/// Appends a frame that carries a snapshot to `buffer`: a request, a chunk, or that there is none.
///
/// # Errors
/// A chunk is larger than any can be; the buffer is as it was. Other frames carry no snapshot:
/// [`EncodeError::Field`].
pub fn encode_transfer(frame: &Frame, buffer: &mut Vec<u8>) -> Result<(), EncodeError> {
    let Some((kind, group)) = transfer::kind_of(frame) else { return Err(EncodeError::Field { field: "kind" }) };
    encode_frame(TRANSFER_PROTOCOL, kind, group, CHUNK_FRAME_BYTES_MAX, buffer, |encoder| {
        transfer::encode(frame, encoder)
    })
}

/// Appends a frame of connection control to `buffer`.
///
/// # Errors
/// A field is longer than its limit; the buffer is as it was. Other frames are not connection control:
/// [`EncodeError::Field`].
pub fn encode_control(frame: &Frame, buffer: &mut Vec<u8>) -> Result<(), EncodeError> {
    let kind = match frame {
        Frame::Hello(_) => kind::HELLO,
        Frame::Welcome(_) => kind::WELCOME,
        Frame::Refusal { .. } => kind::REFUSAL,
        Frame::Ping => kind::PING,
        Frame::Pong => kind::PONG,
        Frame::Position { .. } => kind::POSITION,
        Frame::History { .. } => kind::HISTORY,
        _ => return Err(EncodeError::Field { field: "kind" }),
    };
    encode_frame(CONTROL_PROTOCOL, kind, GroupId(0), control_bytes_max(kind), buffer, |encoder| match frame {
        Frame::Hello(hello) => handshake::encode_hello(hello, encoder),
        Frame::Welcome(welcome) => handshake::encode_welcome(welcome, encoder),
        Frame::Refusal { reason, by } => refusal::encode_refusal(reason, by, encoder),
        Frame::Position { group, last } => introduction::encode_position(*group, *last, encoder),
        Frame::History { lineage } => introduction::encode_history(lineage, encoder),
        _ => Ok(()),
    })
}

fn encode_frame(
    protocol: u8,
    kind: u16,
    group: GroupId,
    limit: usize,
    buffer: &mut Vec<u8>,
    body: impl FnOnce(&mut Encoder) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let start = buffer.len();
    let mut header = [0; HEADER_BYTES];
    header[8] = protocol;
    header[9..11].copy_from_slice(&kind.to_le_bytes());
    header[12..20].copy_from_slice(&group.0.to_le_bytes());
    buffer.extend_from_slice(&header);
    // The encoder owns its buffer while it writes; taking and giving back moves three words.
    let mut encoder = Encoder::into_buffer(mem::take(buffer));
    let encoded = body(&mut encoder);
    *buffer = encoder.into_inner();
    let bytes = buffer.len() - start;
    let checked = encoded.and_then(|()| match u32::try_from(bytes - UNCOUNTED_BYTES) {
        Ok(length) if bytes <= limit => Ok(length),
        _ => Err(EncodeError::TooLarge { bytes, limit }),
    });
    match checked {
        Ok(length) => {
            let checksum = crc32c::crc32c(&buffer[start + UNCOUNTED_BYTES..]);
            buffer[start..start + 4].copy_from_slice(&length.to_le_bytes());
            buffer[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
            Ok(())
        }
        Err(error) => {
            buffer.truncate(start);
            Err(error)
        }
    }
}

/// Writes a pack-io value. Into memory that cannot fail but for lengths beyond the address space,
/// which the limits exclude.
fn write(encoder: &mut Encoder, value: &impl Serialize) -> Result<(), EncodeError> {
    encoder.write(value).map_err(|_| EncodeError::Field { field: "body" })
}

/// Decodes exactly one frame. The commands of an append and the content of a chunk are slices of
/// `frame`, which lives as long as any of them.
///
/// # Errors
/// The bytes are not one whole frame within the limits. Never panics.
pub fn decode(frame: &Bytes, limits: &Limits) -> Result<Frame, FrameError> {
    decode_with(frame, limits, |command| frame.slice_ref(command))
}

/// Decodes exactly one frame from borrowed bytes. A frame with commands or content is copied, once, and
/// they are slices of that copy; otherwise nothing is allocated.
///
/// # Errors
/// As [`decode`].
pub fn decode_borrowed(frame: &[u8], limits: &Limits) -> Result<Frame, FrameError> {
    let copy = OnceCell::new();
    decode_with(frame, limits, |command| {
        let copy = copy.get_or_init(|| Bytes::copy_from_slice(frame));
        let start = command.as_ptr() as usize - frame.as_ptr() as usize;
        copy.slice(start..start + command.len())
    })
}

fn decode_with(frame: &[u8], limits: &Limits, share: impl Fn(&[u8]) -> Bytes) -> Result<Frame, FrameError> {
    let Some(first) = frame.first_chunk::<HEADER_BYTES>() else {
        return Err(FrameError::Incomplete { expected: HEADER_BYTES, actual: frame.len() });
    };
    let header = Header::parse(first, limits.frame_bytes_max)?;
    if frame.len() != header.frame_bytes {
        return Err(FrameError::Incomplete { expected: header.frame_bytes, actual: frame.len() });
    }
    let actual = crc32c::crc32c(&frame[UNCOUNTED_BYTES..]);
    if actual != header.checksum {
        return Err(FrameError::Checksum { expected: header.checksum, actual });
    }
    let control = header.kind < kind::MESSAGES;
    let transfer = (kind::TRANSFER..=kind::TRANSFER_LAST).contains(&header.kind);
    let protocol = match (control, transfer) {
        (true, _) => CONTROL_PROTOCOL,
        (_, true) => TRANSFER_PROTOCOL,
        _ => PROTOCOL,
    };
    if header.protocol != protocol {
        return Err(FrameError::Protocol { protocol: header.protocol, kind: header.kind });
    }
    if header.flags != 0 {
        return Err(FrameError::Flags { flags: header.flags });
    }
    let limit = control_bytes_max(header.kind);
    if control && frame.len() > limit {
        return Err(FrameError::Length { claimed: frame.len() as u64, limit });
    }
    let body = &frame[HEADER_BYTES..];
    match header.kind {
        kind::HELLO => handshake::decode_hello(body).map(Frame::Hello),
        kind::WELCOME => handshake::decode_welcome(body).map(Frame::Welcome),
        kind::REFUSAL => refusal::decode_refusal(body),
        kind::PING => empty(header.kind, body, Frame::Ping),
        kind::PONG => empty(header.kind, body, Frame::Pong),
        kind::POSITION => introduction::decode_position(body),
        kind::HISTORY => introduction::decode_history(body),
        known if body::is_message(known) => {
            let message = body::decode(known, body, limits, share)?;
            Ok(Frame::Message { group: header.group, message })
        }
        kind if transfer => transfer::decode(kind, header.group, body, share),
        kind => Ok(Frame::Unknown { kind }),
    }
}

/// The largest frame of this kind of connection control.
const fn control_bytes_max(kind: u16) -> usize {
    if matches!(kind, kind::HELLO | kind::WELCOME) { HANDSHAKE_FRAME_BYTES_MAX } else { CONTROL_FRAME_BYTES_MAX }
}

fn empty(kind: u16, body: &[u8], frame: Frame) -> Result<Frame, FrameError> {
    if body.is_empty() { Ok(frame) } else { Err(FrameError::Body { kind, what: "trailing bytes" }) }
}

const _: () = assert!(COUNTED_HEADER_BYTES == 12);
