//! What a command of a session may end with instead of a response.

use super::command::SessionId;
use core::fmt;
use thiserror::Error;

/// Why a command of a session was not applied by this entry. Every replica says the same.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum SessionError {
    /// There is no such session: it was closed, or evicted to make room, or it never was. Nothing was
    /// applied now. Whether an earlier attempt was applied is not known any more: open a session for
    /// what comes next, and do not send this command again in it unless it may be applied twice.
    #[error("session {session} is not there: closed, evicted or never opened; this entry applied nothing")]
    Expired {
        /// The session that the command names.
        session: SessionId,
    },
    /// The response is not there any more. Nothing was applied now.
    #[error("session {session} has no response to {sequence} any more: {reason}; this entry applied nothing")]
    ResponseForgotten {
        /// The session.
        session: SessionId,
        /// The sequence number that came again.
        sequence: u64,
        /// Why.
        reason: Forgotten,
    },
    /// The number is too far ahead of the lowest one without an answer. Nothing was applied now, and
    /// the number stays free: send it again once earlier ones are answered.
    #[error(
        "sequence {sequence} of session {session} is beyond the window of {window} that begins at {unanswered}; retry once earlier ones are answered"
    )]
    WindowExceeded {
        /// The session.
        session: SessionId,
        /// The sequence number.
        sequence: u64,
        /// The lowest number without an answer that the session knows of.
        unanswered: u64,
        /// The limit.
        window: u32,
    },
    /// The command is none that a client makes. Nothing was applied.
    #[error(transparent)]
    Malformed(#[from] SessionCommandError),
}

/// Why a response is not there any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Forgotten {
    /// The client has said that it has an answer to this number or wants none, so this is a late
    /// repetition that nobody waits for.
    Acknowledged,
    /// The command was applied, and its response was too large to keep, or made room for later ones.
    OverLimit,
}

impl fmt::Display for Forgotten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Acknowledged => "its client has acknowledged it",
            Self::OverLimit => "it was applied, and its response exceeded a limit",
        })
    }
}

/// Why bytes are no command of a session. Nothing was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum SessionCommandError {
    /// The first byte is no kind of this version.
    #[error("a command of kind {kind} is unknown to this version")]
    UnknownKind {
        /// The byte.
        kind: u8,
    },
    /// The bytes end before the command does, or go on behind it.
    #[error("a command of a session has the wrong length")]
    Length,
    /// A number is not written in the shortest way, or exceeds 64 bits.
    #[error("a number in a command of a session is not well formed")]
    Number,
    /// Numbers begin at 1, and a command's own is not below the lowest that it calls unanswered.
    #[error("a sequence number is below 1, or below the lowest that its command calls unanswered")]
    Sequence,
}
