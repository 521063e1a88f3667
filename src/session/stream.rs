//! The table of sessions as bytes, within a state machine's snapshot.
//!
//! The bytes end where they say: a state machine may write what it likes before and behind them. Reading
//! is total: whatever the bytes, there comes a table that could have been written, or an error, and no
//! more is allocated than there is to read.

use super::command::SessionId;
use super::response::SessionResponse;
use super::table::{AppliedCall, Session, SessionLimits, Sessions};
use crate::types::Index;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;
use std::io::{self, Read, Write};
use thiserror::Error;

const MAGIC: &[u8; 8] = b"RAFTSESS";
const FORMAT: u32 = 1;
/// How a number is told that was applied and whose response is gone, and one with its response.
const DROPPED: u8 = 0;
const KEPT: u8 = 1;
/// Above any index or id of a log; no arithmetic on an accepted one can wrap.
const NUMBER_MAX: u64 = 1 << 63;

/// Why bytes are no table of sessions. Nothing was restored.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SessionsReadError {
    /// The bytes are something else. Perhaps the snapshot is from before the state machine had sessions.
    #[error("the bytes are no table of sessions")]
    NotSessions,
    /// Written by a newer version.
    #[error("the table of sessions has format {format}, which is newer than this version")]
    Unsupported {
        /// The format that the bytes name.
        format: u32,
    },
    /// The bytes are damaged.
    #[error("the table of sessions is damaged: {reason}")]
    Corrupt {
        /// What is wrong.
        reason: &'static str,
    },
    /// A response is none of this state machine's.
    #[error("the response of session {session} to {sequence} cannot be read")]
    Response {
        /// The session.
        session: SessionId,
        /// The sequence number.
        sequence: u64,
    },
    /// The bytes could not be read, or ended too early.
    #[error("the table of sessions cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// How `StateMachine::restore` hands it on.
impl From<SessionsReadError> for io::Error {
    fn from(error: SessionsReadError) -> Self {
        match error {
            SessionsReadError::Io(error) => error,
            other => Self::new(io::ErrorKind::InvalidData, other),
        }
    }
}

const fn corrupt(reason: &'static str) -> SessionsReadError {
    SessionsReadError::Corrupt { reason }
}

/// The table at one moment, to be written into a snapshot while the table goes on.
#[derive(Clone, Debug)]
pub struct SessionsImage<R> {
    limits: SessionLimits,
    last_id: u64,
    open: BTreeMap<SessionId, Arc<Session<R>>>,
}

impl<R: SessionResponse> SessionsImage<R> {
    /// Writes the table. Of equal tables the bytes are equal.
    ///
    /// # Errors
    /// The writer's own, or [`SessionResponse::encoded_len`] counts what
    /// [`SessionResponse::encode`] does not write.
    pub fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut out = Summing { stream: out, crc: 0 };
        let SessionLimits { sessions_max, window, session_bytes_max, total_bytes_max } = self.limits;
        out.write(MAGIC)?;
        for number in [FORMAT, sessions_max, window, session_bytes_max] {
            out.write(&number.to_le_bytes())?;
        }
        for number in [total_bytes_max, self.last_id, self.open.len() as u64] {
            out.write(&number.to_le_bytes())?;
        }
        let mut response = Vec::new();
        for (id, session) in &self.open {
            for number in [id.0, session.last_used.0, session.unanswered, session.applied.len() as u64] {
                out.write(&number.to_le_bytes())?;
            }
            for (sequence, call) in &session.applied {
                out.write(&sequence.to_le_bytes())?;
                out.write(&call.at.0.to_le_bytes())?;
                let Some((kept, bytes)) = &call.kept else {
                    out.write(&[DROPPED])?;
                    continue;
                };
                response.clear();
                kept.encode(&mut response);
                if response.len() as u64 != u64::from(*bytes) {
                    return Err(io::Error::other("SessionResponse::encoded_len counts what encode does not write"));
                }
                out.write(&[KEPT])?;
                out.write(&bytes.to_le_bytes())?;
                out.write(&response)?;
            }
        }
        let crc = out.crc;
        out.stream.write_all(&crc.to_le_bytes())
    }
}

impl<R: SessionResponse> Sessions<R> {
    /// The table as it is now, for a snapshot. Costs one reference for each session.
    #[must_use]
    pub fn image(&self) -> SessionsImage<R> {
        SessionsImage { limits: self.limits, last_id: self.last_id, open: self.open.clone() }
    }

    /// Reads a table and nothing behind it. The limits are those of the table that was written.
    ///
    /// Each number is read on its own: give it a buffered reader.
    ///
    /// # Errors
    /// The bytes are no table, damaged, or of a newer version.
    pub fn read_from(content: &mut dyn Read) -> Result<Self, SessionsReadError> {
        let mut content = Summing { stream: content, crc: 0 };
        if &content.array::<8>()? != MAGIC {
            return Err(SessionsReadError::NotSessions);
        }
        let format = content.u32()?;
        if format != FORMAT {
            return Err(SessionsReadError::Unsupported { format });
        }
        let (sessions_max, window, session_bytes_max) = (content.u32()?, content.u32()?, content.u32()?);
        let (total_bytes_max, last_id, count) = (content.u64()?, content.u64()?, content.u64()?);
        let limits = SessionLimits { sessions_max, window, session_bytes_max, total_bytes_max };
        if sessions_max == 0 || window == 0 || last_id >= NUMBER_MAX || count > u64::from(sessions_max) {
            return Err(corrupt("its header contradicts itself"));
        }
        let mut open = BTreeMap::new();
        let (mut last, mut bytes) = (0, 0u64);
        for _ in 0..count {
            let id = content.u64()?;
            if id <= last || id > last_id {
                return Err(corrupt("an id is out of order"));
            }
            last = id;
            let session = read_session(&mut content, SessionId(id), &limits)?;
            bytes = bytes.saturating_add(session.bytes);
            if bytes > total_bytes_max {
                return Err(corrupt("its responses exceed its own limit"));
            }
            open.insert(SessionId(id), Arc::new(session));
        }
        let crc = content.crc;
        if content.u32()? != crc {
            return Err(corrupt("its checksum is another one"));
        }
        Ok(Self::of(limits, last_id, open))
    }
}

fn read_session<R: SessionResponse>(
    content: &mut Summing<'_, dyn Read + '_>,
    id: SessionId,
    limits: &SessionLimits,
) -> Result<Session<R>, SessionsReadError> {
    let (last_used, unanswered, count) = (content.u64()?, content.u64()?, content.u64()?);
    if last_used >= NUMBER_MAX || unanswered == 0 {
        return Err(corrupt("a session contradicts itself"));
    }
    let mut session = Session { last_used: Index(last_used), unanswered, applied: BTreeMap::new(), bytes: 0 };
    // The lowest number that may come next; none behind the highest that there is.
    let mut lowest = Some(unanswered);
    for _ in 0..count {
        let (sequence, at) = (content.u64()?, content.u64()?);
        if lowest.is_none_or(|lowest| sequence < lowest) || at >= NUMBER_MAX {
            return Err(corrupt("a sequence number is out of order"));
        }
        lowest = sequence.checked_add(1);
        let kept = match content.array::<1>()? {
            [DROPPED] => None,
            [KEPT] => {
                let bytes = content.u32()?;
                session.bytes += u64::from(bytes);
                if session.bytes > u64::from(limits.session_bytes_max) {
                    return Err(corrupt("a session's responses exceed its own limit"));
                }
                let response = R::decode(content.bytes(bytes)?);
                let response = response.filter(|response| response.encoded_len() as u64 == u64::from(bytes));
                Some((response.ok_or(SessionsReadError::Response { session: id, sequence })?, bytes))
            }
            _ => return Err(corrupt("a response is neither there nor gone")),
        };
        session.applied.insert(sequence, AppliedCall { at: Index(at), kept });
    }
    Ok(session)
}

/// A stream and the checksum of what passed through it.
struct Summing<'a, S: ?Sized> {
    stream: &'a mut S,
    crc: u32,
}

impl<S: Write + ?Sized> Summing<'_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.stream.write_all(bytes)
    }
}

impl<S: Read + ?Sized> Summing<'_, S> {
    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes)?;
        self.crc = crc32c::crc32c_append(self.crc, &bytes);
        Ok(bytes)
    }

    fn u32(&mut self) -> io::Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> io::Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Memory follows what there is, not what the length claims.
    fn bytes(&mut self, count: u32) -> io::Result<Bytes> {
        let mut bytes = Vec::new();
        (&mut *self.stream).take(count.into()).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != u64::from(count) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.crc = crc32c::crc32c_append(self.crc, &bytes);
        Ok(bytes.into())
    }
}
