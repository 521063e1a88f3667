//! The replicated state: keys and values, and what each command does to them.
//!
//! Lives here: the encoding of commands in the log, the state machine, its hash. Does not live here:
//! Redis syntax, which ends in `command`.

use super::replies::SINGLE_BYTES_MAX;
use super::resp;
use super::sessions;
use super::shards::Shards;
use bytes::{Bytes, BytesMut};
use raft_io::driver::{SnapshotImage, StateMachine};
use raft_io::{EntryId, Sessions};
use std::borrow::Cow;
use std::io;

/// The longest value that APPEND may build, in bytes.
pub(crate) const VALUE_BYTES_MAX: usize = 8 << 20;
/// The most that one reply holds, in bytes.
const REPLY_BYTES_MAX: usize = 32 << 20;

/// What a command does. The number is its first byte in the log and never changes its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Operation {
    Get = 1,
    /// Flags: [`SET_IF_ABSENT`], [`SET_IF_PRESENT`], [`SET_RETURNS_OLD`],
    /// [`SET_REPLIES_INTEGER`].
    Set = 2,
    Delete = 3,
    Exists = 4,
    /// Arguments: key, and a signed 64-bit number, big-endian.
    Add = 5,
    Append = 6,
    MultiGet = 7,
    MultiSet = 8,
    Length = 9,
    Count = 10,
    Clear = 11,
    /// No arguments: the library's envelope of a session follows.
    Session = 12,
}

pub(crate) const SET_IF_ABSENT: u8 = 1;
pub(crate) const SET_IF_PRESENT: u8 = 2;
pub(crate) const SET_RETURNS_OLD: u8 = 4;
/// SETNX answers 1 or 0 where SET NX answers OK or nothing.
pub(crate) const SET_REPLIES_INTEGER: u8 = 8;

impl Operation {
    const ALL: [Self; 12] = [
        Self::Get,
        Self::Set,
        Self::Delete,
        Self::Exists,
        Self::Add,
        Self::Append,
        Self::MultiGet,
        Self::MultiSet,
        Self::Length,
        Self::Count,
        Self::Clear,
        Self::Session,
    ];

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| *operation as u8 == byte)
    }

    /// Whether it leaves the state as it is.
    pub(crate) fn is_read(self) -> bool {
        matches!(self, Self::Get | Self::Exists | Self::MultiGet | Self::Length | Self::Count)
    }
}

/// Writes a command as it stands in the log: operation, flags, then each argument behind its length
/// as a variable-length number.
pub(crate) fn encode<'a>(
    out: &mut Vec<u8>,
    operation: Operation,
    flags: u8,
    arguments: impl Iterator<Item = &'a [u8]>,
) {
    out.extend_from_slice(&[operation as u8, flags]);
    for argument in arguments {
        let mut length = argument.len();
        while length >= 0x80 {
            out.push(length as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend_from_slice(argument);
    }
}

/// A command of the log, taken apart. Total: the log may hold what a client forged.
struct Command<'a> {
    operation: Operation,
    flags: u8,
    arguments: Arguments<'a>,
}

impl<'a> Command<'a> {
    fn decode(bytes: &'a [u8]) -> Option<Self> {
        let [operation, flags, rest @ ..] = bytes else { return None };
        let arguments = Arguments(rest);
        arguments.are_well_formed().then_some(())?;
        Some(Self { operation: Operation::from_byte(*operation)?, flags: *flags, arguments })
    }
}

#[derive(Clone)]
struct Arguments<'a>(&'a [u8]);

impl Arguments<'_> {
    fn are_well_formed(&self) -> bool {
        let mut rest = self.clone();
        while rest.next().is_some() {}
        rest.0.is_empty()
    }
}

impl<'a> Iterator for Arguments<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (mut length, mut at) = (0usize, 0);
        loop {
            let byte = *self.0.get(at)?;
            if at >= 4 {
                return None;
            }
            length |= usize::from(byte & 0x7f) << (7 * at);
            at += 1;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let argument = self.0.get(at..at + length)?;
        self.0 = &self.0[at + length..];
        Some(argument)
    }
}

/// The first key of an encoded command; empty if it has none.
pub(crate) fn first_key(command: &[u8]) -> &[u8] {
    command.get(2..).and_then(|rest| Arguments(rest).next()).unwrap_or_default()
}

/// Whether an encoded command leaves the state as it is.
pub(crate) fn is_read(command: &[u8]) -> bool {
    command.first().and_then(|byte| Operation::from_byte(*byte)).is_some_and(Operation::is_read)
}

/// What the reply of an encoded command that writes may hold, if that is much; 0 if not. A read can be asked again when
/// there is no memory for its reply, but a write runs once.
pub(crate) fn write_reply_bytes_max(command: &Bytes) -> usize {
    let [operation, flags, ..] = command[..] else { return 0 };
    match Operation::from_byte(operation) {
        Some(Operation::Set) if flags & SET_RETURNS_OLD != 0 => VALUE_BYTES_MAX,
        Some(Operation::Session) => match sessions::unwrapped(command) {
            inner if inner.starts_with(&[Operation::Get as u8]) => VALUE_BYTES_MAX,
            inner if inner.starts_with(&[Operation::MultiGet as u8]) => SINGLE_BYTES_MAX,
            inner if inner.starts_with(&[Operation::Session as u8]) => 0,
            inner => write_reply_bytes_max(&inner),
        },
        _ => 0,
    }
}

/// What a command answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Ok,
    Nil,
    Integer(i64),
    Bulk(Bytes),
    Array(Vec<Reply>),
    Error(Cow<'static, str>),
}

impl Reply {
    /// As RESP2.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Ok => resp::write_simple(out, "OK"),
            Self::Nil => resp::write_nil(out),
            Self::Integer(number) => resp::write_integer(out, *number),
            Self::Bulk(bytes) => resp::write_bulk(out, bytes),
            Self::Array(elements) => {
                resp::write_array(out, elements.len());
                elements.iter().for_each(|element| element.write(out));
            }
            Self::Error(message) => resp::write_error(out, message),
        }
    }

    fn value(value: Option<&Bytes>) -> Self {
        value.map_or(Self::Nil, |value| Self::Bulk(value.clone()))
    }

    fn count(count: usize) -> Self {
        Self::Integer(count as i64)
    }
}

const MALFORMED: Reply = Reply::Error(Cow::Borrowed("ERR malformed command in the log"));

/// How far a replica is and what it holds: equal positions must mean equal hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Fingerprint {
    /// The last command applied.
    pub applied: EntryId,
    /// The keys and values, whatever their order.
    pub state: u128,
    /// Every command since the first, in order.
    pub history: u128,
    /// How many keys.
    pub keys: usize,
    /// How many sessions.
    pub sessions: usize,
}

/// The state machine.
pub(crate) struct Store {
    pub(super) values: Shards,
    /// The sum of a digest of each pair, so that a write costs what it touches and order is nothing.
    pub(super) state: u128,
    pub(super) history: u128,
    pub(super) applied: EntryId,
    pub(super) sessions: Sessions<Reply>,
}

impl Default for Store {
    fn default() -> Self {
        let sessions = Sessions::new(sessions::LIMITS);
        Self { values: Shards::default(), state: 0, history: 0, applied: EntryId::default(), sessions }
    }
}

impl StateMachine for Store {
    type Response = Reply;

    fn apply(&mut self, id: EntryId, command: &Bytes) -> Reply {
        self.applied = id;
        self.history = digest(&[&self.history.to_le_bytes(), command]);
        self.apply_session(id, command).unwrap_or_else(|| self.run(command))
    }

    fn snapshot(&mut self) -> Option<SnapshotImage> {
        let frozen = self.freeze();
        Some(SnapshotImage::new(move |out| frozen.write(out)))
    }

    fn restore(&mut self, content: &mut dyn io::Read) -> io::Result<()> {
        *self = Self::thaw(content)?;
        Ok(())
    }
}

impl Store {
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        let Self { ref values, state, history, applied, ref sessions } = *self;
        Fingerprint { applied, state, history, keys: values.len(), sessions: sessions.len() }
    }

    /// Runs an encoded command that is no session's, or the one in its envelope.
    pub(super) fn run(&mut self, command: &[u8]) -> Reply {
        match Command::decode(command) {
            // Reads are proposed within sessions alone, but older versions did.
            Some(command) if command.operation.is_read() => self.look(&command),
            Some(command) => self.write(command),
            None => MALFORMED,
        }
    }

    /// Answers an encoded command that only reads, from this replica as it is.
    pub(crate) fn read(&self, command: &[u8]) -> Reply {
        match Command::decode(command) {
            Some(command) if command.operation.is_read() => self.look(&command),
            _ => MALFORMED,
        }
    }

    fn look(&self, command: &Command<'_>) -> Reply {
        let mut arguments = command.arguments.clone();
        match command.operation {
            Operation::Get => Reply::value(arguments.next().and_then(|key| self.values.get(key))),
            Operation::Exists => Reply::count(arguments.filter(|key| self.values.contains_key(key)).count()),
            Operation::MultiGet => self.get_all(arguments),
            Operation::Length => {
                Reply::count(arguments.next().and_then(|key| self.values.get(key)).map_or(0, Bytes::len))
            }
            Operation::Count => Reply::count(self.values.len()),
            _ => MALFORMED,
        }
    }

    /// A key may be named thousands of times: what is short to ask for need not be short to answer.
    fn get_all(&self, keys: Arguments<'_>) -> Reply {
        let values = || keys.clone().map(|key| self.values.get(key));
        if values().map(|value| value.map_or(0, Bytes::len)).sum::<usize>() > REPLY_BYTES_MAX {
            return Reply::Error("ERR the reply would exceed 32 MiB; ask for fewer keys at a time".into());
        }
        Reply::Array(values().map(Reply::value).collect())
    }

    fn write(&mut self, mut command: Command<'_>) -> Reply {
        let arguments = &mut command.arguments;
        match command.operation {
            Operation::Set => match (arguments.next(), arguments.next()) {
                (Some(key), Some(value)) => self.set(key, value, command.flags),
                _ => MALFORMED,
            },
            Operation::Delete => Reply::count(arguments.filter(|key| self.remove(key).is_some()).count()),
            Operation::Add => match (arguments.next(), arguments.next().map(<[u8; 8]>::try_from)) {
                (Some(key), Some(Ok(delta))) => self.add(key, i64::from_be_bytes(delta)),
                _ => MALFORMED,
            },
            Operation::Append => match (arguments.next(), arguments.next()) {
                (Some(key), Some(suffix)) => self.append(key, suffix),
                _ => MALFORMED,
            },
            Operation::MultiSet => {
                while let (Some(key), Some(value)) = (arguments.next(), arguments.next()) {
                    self.insert(key, Bytes::copy_from_slice(value));
                }
                Reply::Ok
            }
            Operation::Clear => {
                self.values = Shards::default();
                self.state = 0;
                Reply::Ok
            }
            _ => MALFORMED,
        }
    }

    fn set(&mut self, key: &[u8], value: &[u8], flags: u8) -> Reply {
        let old = self.values.get(key);
        let refused = flags & SET_IF_ABSENT != 0 && old.is_some() || flags & SET_IF_PRESENT != 0 && old.is_none();
        let reply = match (flags & SET_RETURNS_OLD != 0, refused) {
            _ if flags & SET_REPLIES_INTEGER != 0 => Reply::Integer(i64::from(!refused)),
            (true, _) => Reply::value(old),
            (false, true) => Reply::Nil,
            (false, false) => Reply::Ok,
        };
        if !refused {
            self.insert(key, Bytes::copy_from_slice(value));
        }
        reply
    }

    fn add(&mut self, key: &[u8], delta: i64) -> Reply {
        let before = match self.values.get(key) {
            None => 0,
            Some(value) => match integer(value) {
                Some(number) => number,
                None => return Reply::Error("ERR value is not an integer or out of range".into()),
            },
        };
        let Some(after) = before.checked_add(delta) else {
            return Reply::Error("ERR increment or decrement would overflow".into());
        };
        self.insert(key, Bytes::from(after.to_string()));
        Reply::Integer(after)
    }

    fn append(&mut self, key: &[u8], suffix: &[u8]) -> Reply {
        let length = self.values.get(key).map_or(0, Bytes::len) + suffix.len();
        if length > VALUE_BYTES_MAX {
            return Reply::Error("ERR string exceeds maximum allowed size".into());
        }
        // Extended in place unless a reply or a snapshot still holds it.
        let before = self.remove(key).unwrap_or_default();
        let mut value = before.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        value.extend_from_slice(suffix);
        self.insert(key, value.freeze());
        Reply::count(length)
    }

    fn insert(&mut self, key: &[u8], value: Bytes) {
        self.state = self.state.wrapping_add(digest(&[key, &value]));
        if let Some(old) = self.values.insert(key, value) {
            self.state = self.state.wrapping_sub(digest(&[key, &old]));
        }
    }

    fn remove(&mut self, key: &[u8]) -> Option<Bytes> {
        let old = self.values.remove(key)?;
        self.state = self.state.wrapping_sub(digest(&[key, &old]));
        Some(old)
    }
}

/// A value as a number, with the rule of Redis: no plus, no blanks, no leading zeros.
fn integer(value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?;
    let number: i64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// A 128-bit digest of byte strings, the same on every platform. It tells replicas apart that
/// diverged by a defect; against an adversary it claims nothing.
pub(super) fn digest(parts: &[&[u8]]) -> u128 {
    const FACTORS: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xc2b2_ae3d_27d4_eb4f];
    let fold = |state: u64, word: u64, factor: u64| {
        let product = u128::from(state ^ word) * u128::from(factor);
        (product as u64) ^ ((product >> 64) as u64).rotate_left(29) ^ word.wrapping_mul(factor)
    };
    let mut lanes = [0x2545_f491_4f6c_dd1d, 0x8ebc_6af0_9c88_c6e3];
    let mut absorb = |word: u64| {
        for (lane, factor) in lanes.iter_mut().zip(FACTORS) {
            *lane = fold(*lane, word, factor);
        }
    };
    for part in parts {
        absorb(part.len() as u64);
        for chunk in part.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            absorb(u64::from_le_bytes(word));
        }
    }
    absorb(0x6a09_e667_f3bc_c909);
    u128::from(lanes[0]) << 64 | u128::from(lanes[1])
}
