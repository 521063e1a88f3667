//! Sessions of clients: `RAFT.CALL` applies a command once, however often it is sent.
//!
//! Lives here: the requests as entries of the log, and what the table of sessions answers, in the words of Redis. Does not
//! live here: the table itself, which is the library's.

use super::resp::Request;
use super::store::{Operation, Reply, Store};
use bytes::Bytes;
use raft_io::EntryId;
use raft_io::session::{
    Forgotten, SessionCall, SessionCommand, SessionError, SessionId, SessionLimits, SessionReply, SessionResponse,
};

/// Of every node, for they are a part of the replicated state.
pub(crate) const LIMITS: SessionLimits =
    SessionLimits { sessions_max: 1024, window: 256, session_bytes_max: 1 << 20, total_bytes_max: 64 << 20 };

/// Behind the two bytes that every command begins with stands the library's envelope.
const HEAD: [u8; 2] = [Operation::Session as u8, 0];

/// Adds `RAFT.SESSION …` to the batch, encoded.
pub(crate) fn encode_session(request: &Request<'_>, batch: &mut Vec<u8>) -> Result<(), String> {
    let number = |position| number(request.get(position));
    let command = match (request.get(1).to_ascii_lowercase().as_slice(), request.len()) {
        (b"open", 2) => SessionCommand::Open,
        (b"close", 3) => SessionCommand::Close { session: SessionId(number(2)?) },
        (b"keepalive", 4) => SessionCommand::KeepAlive { session: SessionId(number(2)?), unanswered: number(3)? },
        _ => return Err("ERR use RAFT.SESSION OPEN, CLOSE <id> or KEEPALIVE <id> <lowest unanswered>".into()),
    };
    put(&command, batch)
}

/// Adds `RAFT.CALL <session> <sequence> <lowest unanswered> …` to the batch, around the encoding of its command.
pub(crate) fn encode_call(request: &Request<'_>, command: Vec<u8>, batch: &mut Vec<u8>) -> Result<(), String> {
    let numbers = [number(request.get(1))?, number(request.get(2))?, number(request.get(3))?];
    let [session, sequence, unanswered] = numbers;
    let session = SessionId(session);
    put(&SessionCommand::Call(SessionCall { session, sequence, unanswered, command: command.into() }), batch)
}

/// What would be refused when it is applied is refused before it is proposed.
fn put(command: &SessionCommand, batch: &mut Vec<u8>) -> Result<(), String> {
    let envelope = command.encode();
    if SessionCommand::decode(&envelope).as_ref() != Ok(command) {
        return Err("ERR numbers begin at 1, and the lowest unanswered is not above the sequence".into());
    }
    batch.extend_from_slice(&HEAD);
    batch.extend_from_slice(&envelope);
    Ok(())
}

fn number(text: &[u8]) -> Result<u64, String> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| "ERR a session, a sequence or the lowest unanswered is not a number".into())
}

/// The envelope of an encoded command; `None` if it has none.
fn envelope(command: &Bytes) -> Option<Bytes> {
    command.starts_with(&HEAD).then(|| command.slice(HEAD.len()..))
}

/// The command within an envelope, of which the key is to be known; itself if it has none.
pub(crate) fn unwrapped(command: &Bytes) -> Bytes {
    match envelope(command).as_ref().map(SessionCommand::decode) {
        Some(Ok(SessionCommand::Call(call))) => call.command,
        Some(_) => Bytes::new(),
        None => command.clone(),
    }
}

impl Store {
    /// Applies the command of a session, if it is one.
    pub(super) fn apply_session(&mut self, id: EntryId, command: &Bytes) -> Option<Reply> {
        let envelope = envelope(command)?;
        let command = match SessionCommand::decode(&envelope) {
            Ok(command) => command,
            Err(error) => return Some(refusal(&error.into())),
        };
        // The table lies aside while the command runs on the rest of the store.
        let mut sessions = std::mem::take(&mut self.sessions);
        let outcome = sessions.apply(id.index, &command, |command| self.run(command));
        self.sessions = sessions;
        Some(match outcome {
            Ok(SessionReply::Opened(session)) => Reply::Integer(session.0 as i64),
            Ok(SessionReply::Applied(reply) | SessionReply::Repeated(reply)) => reply,
            Ok(_) => Reply::Ok,
            Err(error) => refusal(&error),
        })
    }
}

/// The first word tells a client what it may do next.
fn refusal(error: &SessionError) -> Reply {
    let message = match error {
        SessionError::Expired { .. } => {
            "SESSIONEXPIRED the session was closed, evicted or never opened; the command did not run now"
        }
        SessionError::ResponseForgotten { reason: Forgotten::Acknowledged, .. } => {
            "FORGOTTEN the sequence is below the lowest unanswered; the command did not run now"
        }
        SessionError::ResponseForgotten { .. } => {
            "FORGOTTEN the command ran before and its reply is kept no longer; it did not run now"
        }
        SessionError::WindowExceeded { .. } => {
            "BUSY the sequence is too far beyond the lowest unanswered; the command did not run"
        }
        _ => "ERR malformed command of a session in the log",
    };
    Reply::Error(message.into())
}

/// A reply as the session keeps it: RESP, but for what a decoder must tell apart.
impl SessionResponse for Reply {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Ok => out.push(b'+'),
            Self::Nil => out.push(b'_'),
            Self::Integer(number) => {
                out.push(b':');
                out.extend_from_slice(&number.to_le_bytes());
            }
            Self::Bulk(bytes) => part(out, b'$', bytes),
            Self::Error(message) => part(out, b'-', message.as_bytes()),
            Self::Array(elements) => {
                out.push(b'*');
                out.extend_from_slice(&(elements.len() as u32).to_le_bytes());
                elements.iter().for_each(|element| element.encode(out));
            }
        }
    }

    fn decode(bytes: Bytes) -> Option<Self> {
        let mut rest = bytes;
        let reply = take_reply(&mut rest, 1)?;
        rest.is_empty().then_some(reply)
    }
}

fn part(out: &mut Vec<u8>, kind: u8, bytes: &[u8]) {
    out.push(kind);
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Takes one reply off the bytes; an array within an array is none of this store's.
fn take_reply(rest: &mut Bytes, depth: usize) -> Option<Reply> {
    let kind = *take(rest, 1)?.first()?;
    match kind {
        b'+' => Some(Reply::Ok),
        b'_' => Some(Reply::Nil),
        b':' => Some(Reply::Integer(i64::from_le_bytes(take(rest, 8)?.as_ref().try_into().ok()?))),
        b'*' if depth > 0 => {
            let count = take_length(rest)?;
            // Collecting stops at the first that is not there: no memory is asked for in advance.
            let mut elements = Vec::new();
            for _ in 0..count {
                elements.push(take_reply(rest, depth - 1)?);
            }
            Some(Reply::Array(elements))
        }
        b'$' | b'-' => {
            let length = take_length(rest)?;
            let bytes = take(rest, length)?;
            match kind {
                b'$' => Some(Reply::Bulk(bytes)),
                _ => Some(Reply::Error(std::str::from_utf8(&bytes).ok()?.to_owned().into())),
            }
        }
        _ => None,
    }
}

fn take_length(rest: &mut Bytes) -> Option<usize> {
    Some(u32::from_le_bytes(take(rest, 4)?.as_ref().try_into().ok()?) as usize)
}

fn take(rest: &mut Bytes, count: usize) -> Option<Bytes> {
    (count <= rest.len()).then(|| rest.split_to(count))
}
