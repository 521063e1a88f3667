//! What the words of a request mean.

use super::members::Change;
use super::resp::Request;
use super::sessions;
use super::store::{self, Operation};

/// The largest command in its encoding, in bytes.
pub(crate) const COMMAND_BYTES_MAX: usize = 8 << 20;

/// A request, understood.
pub(crate) enum Meaning {
    /// The leader runs it; its encoding was added to the batch.
    ForLeader,
    /// Commands of another node's clients, encoded.
    Forwarded,
    /// Answered by this node alone.
    Local(Local),
    /// Refused, with this message.
    Refused(String),
}

/// Commands that a node answers by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Local {
    Ping,
    Echo,
    Hello,
    Select,
    Client,
    Quit,
    Command,
    Config,
    Info,
    RaftStatus,
    RaftMembers,
    RaftChange(Change),
    RaftTransfer,
    RaftSnapshot,
    RaftBackup,
    Cluster,
    ReadOnly,
    ReadWrite,
}

/// How many arguments a command takes, its name included.
#[derive(Clone, Copy)]
enum Arity {
    Exactly(usize),
    AtLeast(usize),
    /// Name, then pairs, at least one.
    Pairs,
}

impl Arity {
    fn admits(self, count: usize) -> bool {
        match self {
            Self::Exactly(exactly) => count == exactly,
            Self::AtLeast(least) => count >= least,
            Self::Pairs => count >= 3 && count % 2 == 1,
        }
    }
}

enum Kind {
    ForLeader(Operation),
    Add(i64),
    AddArgument(i64),
    SetNx,
    Session,
    Call,
    Local(Local),
    Forward,
}

const TABLE: &[(&str, Arity, Kind)] = &[
    ("get", Arity::Exactly(2), Kind::ForLeader(Operation::Get)),
    ("set", Arity::AtLeast(3), Kind::ForLeader(Operation::Set)),
    ("setnx", Arity::Exactly(3), Kind::SetNx),
    ("del", Arity::AtLeast(2), Kind::ForLeader(Operation::Delete)),
    ("exists", Arity::AtLeast(2), Kind::ForLeader(Operation::Exists)),
    ("incr", Arity::Exactly(2), Kind::Add(1)),
    ("decr", Arity::Exactly(2), Kind::Add(-1)),
    ("incrby", Arity::Exactly(3), Kind::AddArgument(1)),
    ("decrby", Arity::Exactly(3), Kind::AddArgument(-1)),
    ("append", Arity::Exactly(3), Kind::ForLeader(Operation::Append)),
    ("mget", Arity::AtLeast(2), Kind::ForLeader(Operation::MultiGet)),
    ("mset", Arity::Pairs, Kind::ForLeader(Operation::MultiSet)),
    ("strlen", Arity::Exactly(2), Kind::ForLeader(Operation::Length)),
    ("dbsize", Arity::Exactly(1), Kind::ForLeader(Operation::Count)),
    ("flushall", Arity::AtLeast(1), Kind::ForLeader(Operation::Clear)),
    ("ping", Arity::AtLeast(1), Kind::Local(Local::Ping)),
    ("echo", Arity::Exactly(2), Kind::Local(Local::Echo)),
    ("hello", Arity::AtLeast(1), Kind::Local(Local::Hello)),
    ("select", Arity::Exactly(2), Kind::Local(Local::Select)),
    ("client", Arity::AtLeast(2), Kind::Local(Local::Client)),
    ("quit", Arity::AtLeast(1), Kind::Local(Local::Quit)),
    ("command", Arity::AtLeast(1), Kind::Local(Local::Command)),
    ("config", Arity::AtLeast(2), Kind::Local(Local::Config)),
    ("info", Arity::AtLeast(1), Kind::Local(Local::Info)),
    ("raft.status", Arity::Exactly(1), Kind::Local(Local::RaftStatus)),
    ("raft.members", Arity::Exactly(1), Kind::Local(Local::RaftMembers)),
    ("raft.add", Arity::AtLeast(3), Kind::Local(Local::RaftChange(Change::Add))),
    ("raft.promote", Arity::Exactly(2), Kind::Local(Local::RaftChange(Change::Promote))),
    ("raft.demote", Arity::Exactly(2), Kind::Local(Local::RaftChange(Change::Demote))),
    ("raft.remove", Arity::Exactly(2), Kind::Local(Local::RaftChange(Change::Remove))),
    ("raft.address", Arity::Exactly(3), Kind::Local(Local::RaftChange(Change::Address))),
    ("raft.transfer", Arity::Exactly(2), Kind::Local(Local::RaftTransfer)),
    ("raft.snapshot", Arity::Exactly(1), Kind::Local(Local::RaftSnapshot)),
    ("raft.backup", Arity::AtLeast(1), Kind::Local(Local::RaftBackup)),
    ("raft.session", Arity::AtLeast(2), Kind::Session),
    ("raft.call", Arity::AtLeast(5), Kind::Call),
    ("raft.forward", Arity::AtLeast(2), Kind::Forward),
    ("cluster", Arity::AtLeast(2), Kind::Local(Local::Cluster)),
    ("readonly", Arity::Exactly(1), Kind::Local(Local::ReadOnly)),
    ("readwrite", Arity::Exactly(1), Kind::Local(Local::ReadWrite)),
];

/// Understands a request. A command for the leader is added to `batch` in its encoding.
pub(crate) fn interpret(request: &Request<'_>, batch: &mut Vec<u8>) -> Meaning {
    let name = request.get(0);
    let Some((name, arity, kind)) = TABLE.iter().find(|(known, ..)| name.eq_ignore_ascii_case(known.as_bytes())) else {
        let shown: Vec<u8> = name.iter().copied().take(64).collect();
        return Meaning::Refused(format!("ERR unknown command '{}'", shown.escape_ascii()));
    };
    if !arity.admits(request.len()) {
        return Meaning::Refused(format!("ERR wrong number of arguments for '{name}' command"));
    }
    let start = batch.len();
    let encoded = match kind {
        Kind::Local(local) => return Meaning::Local(*local),
        Kind::Forward => return Meaning::Forwarded,
        Kind::ForLeader(Operation::Set) => set(request, batch),
        Kind::ForLeader(Operation::Clear) => {
            store::encode(batch, Operation::Clear, 0, std::iter::empty());
            Ok(())
        }
        Kind::ForLeader(operation) => {
            store::encode(batch, *operation, 0, request.from(1));
            Ok(())
        }
        Kind::SetNx => {
            store::encode(batch, Operation::Set, store::SET_IF_ABSENT | store::SET_REPLIES_INTEGER, request.from(1));
            Ok(())
        }
        Kind::Session => sessions::encode_session(request, batch),
        Kind::Call => call(request, batch),
        Kind::Add(delta) => add(request.get(1), Some(*delta), batch),
        Kind::AddArgument(sign) => add(request.get(1), argument(request.get(2), *sign), batch),
    };
    match encoded {
        Ok(()) if batch.len() - start <= COMMAND_BYTES_MAX => Meaning::ForLeader,
        Ok(()) => {
            batch.truncate(start);
            Meaning::Refused(format!("ERR the command exceeds {COMMAND_BYTES_MAX} bytes"))
        }
        Err(message) => {
            batch.truncate(start);
            Meaning::Refused(message)
        }
    }
}

/// A command under a session's number. No command of this server's own, another call least of all.
fn call(request: &Request<'_>, batch: &mut Vec<u8>) -> Result<(), String> {
    const ONLY_DATA: &str = "ERR RAFT.CALL takes a command on keys";
    let (inner, mut command) = (request.tail(4), Vec::new());
    // Looked at first: a call within a call within a call could exhaust the stack.
    if inner.get(0).get(..5).is_some_and(|name| name.eq_ignore_ascii_case(b"raft.")) {
        return Err(ONLY_DATA.into());
    }
    match interpret(&inner, &mut command) {
        Meaning::ForLeader => sessions::encode_call(request, command, batch),
        Meaning::Refused(message) => Err(message),
        Meaning::Local(_) | Meaning::Forwarded => Err(ONLY_DATA.into()),
    }
}

fn argument(text: &[u8], sign: i64) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse::<i64>().ok()?.checked_mul(sign)
}

fn add(key: &[u8], delta: Option<i64>, batch: &mut Vec<u8>) -> Result<(), String> {
    let delta = delta.ok_or("ERR value is not an integer or out of range")?;
    store::encode(batch, Operation::Add, 0, [key, &delta.to_be_bytes()[..]].into_iter());
    Ok(())
}

fn set(request: &Request<'_>, batch: &mut Vec<u8>) -> Result<(), String> {
    let mut flags = 0;
    for option in request.from(3) {
        flags |= match option.to_ascii_lowercase().as_slice() {
            b"nx" => store::SET_IF_ABSENT,
            b"xx" => store::SET_IF_PRESENT,
            b"get" => store::SET_RETURNS_OLD,
            b"ex" | b"px" | b"exat" | b"pxat" | b"keepttl" => {
                return Err("ERR keys do not expire here: EX, PX, EXAT, PXAT and KEEPTTL are not supported".into());
            }
            _ => return Err("ERR syntax error".into()),
        };
    }
    if flags & store::SET_IF_ABSENT != 0 && flags & store::SET_IF_PRESENT != 0 {
        return Err("ERR syntax error".into());
    }
    store::encode(batch, Operation::Set, flags, [request.get(1), request.get(2)].into_iter());
    Ok(())
}
