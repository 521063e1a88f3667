//! The envelope of a session around a state machine's command, as it stands in the log.

use super::error::SessionCommandError;
use alloc::vec::Vec;
use bytes::Bytes;
use core::fmt;

/// A session's identity: the index of the entry that opened it, or a higher number if the entry opened several. Never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct SessionId(pub u64);

impl From<u64> for SessionId {
    fn from(value: u64) -> Self {
        Self(value)
    }
}

impl From<SessionId> for u64 {
    fn from(value: SessionId) -> Self {
        value.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The first byte of each kind. They never change their meaning.
const OPEN: u8 = 1;
const CALL: u8 = 2;
const KEEP_ALIVE: u8 = 3;
const CLOSE: u8 = 4;
const PLAIN: u8 = 5;

/// A numbered command of a session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SessionCall {
    /// The session.
    pub session: SessionId,
    /// The command's number: the same whenever it is sent, another for each command. Starts at 1.
    pub sequence: u64,
    /// The lowest number whose answer the client lacks: all below are never sent again, and their
    /// responses may be forgotten. In `[1, sequence]`; only grows.
    pub unanswered: u64,
    /// The state machine's own command.
    pub command: Bytes,
}

/// What a state machine with sessions finds in an entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum SessionCommand {
    /// Opens a session. Sent twice, it opens two: the one that nobody uses is evicted in time.
    Open,
    /// A command that is applied once.
    Call(SessionCall),
    /// Keeps a session from being the one that was longest without a command.
    KeepAlive {
        /// The session.
        session: SessionId,
        /// As in [`SessionCall::unanswered`]. At least 1; beyond the last number if all are answered.
        unanswered: u64,
    },
    /// Ends a session.
    Close {
        /// The session.
        session: SessionId,
    },
    /// A command outside of any session: applied as often as it stands in the log.
    Plain(Bytes),
}

impl SessionCommand {
    /// As bytes for the log; `docs/FORMAT.md` has them.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        self.encode_into(&mut out);
        out.into()
    }

    /// Appends the command as bytes for the log.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        match self {
            Self::Open => out.push(OPEN),
            Self::Call(SessionCall { session, sequence, unanswered, command }) => {
                out.push(CALL);
                // What lies between the two is the client's window, so mostly one byte.
                for number in [session.0, *unanswered, sequence.saturating_sub(*unanswered)] {
                    put_number(out, number);
                }
                out.extend_from_slice(command);
            }
            Self::KeepAlive { session, unanswered } => {
                out.push(KEEP_ALIVE);
                put_number(out, session.0);
                put_number(out, *unanswered);
            }
            Self::Close { session } => {
                out.push(CLOSE);
                put_number(out, session.0);
            }
            Self::Plain(command) => {
                out.push(PLAIN);
                out.extend_from_slice(command);
            }
        }
    }

    /// The command of these bytes. The state machine's own shares their memory.
    ///
    /// # Errors
    /// What is wrong with them. Total: the log may hold what a client forged.
    pub fn decode(bytes: &Bytes) -> Result<Self, SessionCommandError> {
        let mut rest = &bytes[..];
        let kind = take_byte(&mut rest)?;
        let command = match kind {
            OPEN => Self::Open,
            CALL => {
                let [session, unanswered, ahead] =
                    [take_number(&mut rest)?, take_number(&mut rest)?, take_number(&mut rest)?];
                let sequence = unanswered.checked_add(ahead).ok_or(SessionCommandError::Number)?;
                let command = bytes.slice(bytes.len() - rest.len()..);
                let call = SessionCall { session: SessionId(session), sequence, unanswered, command };
                call.check()?;
                return Ok(Self::Call(call));
            }
            KEEP_ALIVE => {
                let (session, unanswered) = (SessionId(take_number(&mut rest)?), take_number(&mut rest)?);
                if unanswered == 0 {
                    return Err(SessionCommandError::Sequence);
                }
                Self::KeepAlive { session, unanswered }
            }
            CLOSE => Self::Close { session: SessionId(take_number(&mut rest)?) },
            PLAIN => return Ok(Self::Plain(bytes.slice(1..))),
            _ => return Err(SessionCommandError::UnknownKind { kind }),
        };
        if rest.is_empty() { Ok(command) } else { Err(SessionCommandError::Length) }
    }
}

impl SessionCall {
    /// Refuses a command that would acknowledge itself.
    pub(super) fn check(&self) -> Result<(), SessionCommandError> {
        if self.unanswered == 0 || self.sequence < self.unanswered {
            return Err(SessionCommandError::Sequence);
        }
        Ok(())
    }
}

/// Seven bits per byte, low bits first, the top bit set on all but the last.
fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take_byte(rest: &mut &[u8]) -> Result<u8, SessionCommandError> {
    let (byte, behind) = rest.split_first().ok_or(SessionCommandError::Length)?;
    *rest = behind;
    Ok(*byte)
}

/// Only the shortest way to write a number is one: equal commands have equal bytes.
fn take_number(rest: &mut &[u8]) -> Result<u64, SessionCommandError> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = take_byte(rest)?;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits || (byte == 0 && shift > 0) {
            return Err(SessionCommandError::Number);
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(SessionCommandError::Number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn call(session: u64, sequence: u64, unanswered: u64, command: &'static str) -> SessionCommand {
        SessionCommand::Call(SessionCall { session: SessionId(session), sequence, unanswered, command: command.into() })
    }

    #[test]
    fn every_kind_comes_back_as_it_was() {
        let all = [
            (SessionCommand::Open, vec![1]),
            (call(300, 7, 5, "go"), vec![2, 0xac, 2, 5, 2, b'g', b'o']),
            (call(u64::MAX, u64::MAX, 1, ""), vec![]),
            (SessionCommand::KeepAlive { session: SessionId(1), unanswered: 128 }, vec![3, 1, 0x80, 1]),
            (SessionCommand::Close { session: SessionId(127) }, vec![4, 127]),
            (SessionCommand::Plain("go".into()), vec![5, b'g', b'o']),
            (SessionCommand::Plain(Bytes::new()), vec![5]),
        ];
        for (command, bytes) in all {
            let encoded = command.encode();
            assert!(bytes.is_empty() || encoded == bytes, "{command:?} is {encoded:?}");
            assert_eq!(SessionCommand::decode(&encoded), Ok(command));
        }
    }

    #[test]
    fn what_no_client_makes_is_refused_and_says_why() {
        use SessionCommandError::{Length, Number, Sequence, UnknownKind};
        let cases: [(&[u8], SessionCommandError); 14] = [
            (&[], Length),
            (&[0], UnknownKind { kind: 0 }),
            (&[6, 1], UnknownKind { kind: 6 }),
            (&[1, 1], Length),
            (&[2, 1, 1], Length),
            (&[2, 1, 0, 1], Sequence),
            (&[2, 1, 0x80, 0, 1], Number),
            (&[2, 0x80], Length),
            (&[3, 1, 0], Sequence),
            (&[3, 1, 1, 1], Length),
            (&[4], Length),
            (&[4, 1, 1], Length),
            (&[4, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2], Number),
            (&[2, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 1], Number),
        ];
        for (bytes, error) in cases {
            assert_eq!(SessionCommand::decode(&Bytes::from_static(bytes)), Err(error), "{bytes:?}");
        }
    }
}
