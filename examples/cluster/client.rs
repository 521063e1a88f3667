//! A client of one node.

use crate::server::reply::{ReplyReader, Value};
use crate::server::resp;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// Longer than a server ever makes a client wait.
const PATIENCE: Duration = Duration::from_secs(25);

pub(crate) struct Client {
    reader: ReplyReader,
    request: Vec<u8>,
}

/// Why a call brought no reply.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The request did not leave as a whole: it did not run.
    NotSent,
    /// It left, and no reply came: it may have run.
    Lost,
}

impl Client {
    /// Connects to a node on this machine.
    pub(crate) fn connect(port: u16) -> io::Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { reader: ReplyReader::new(stream), request: Vec::new() })
    }

    /// One request, one reply.
    pub(crate) fn call<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> Result<Value, CallError> {
        self.request.clear();
        resp::write_request(&mut self.request, arguments);
        self.reader.stream().write_all(&self.request).map_err(|_| CallError::NotSent)?;
        self.reader.read().map_err(|_| CallError::Lost)
    }

    /// Many requests in one write, and their replies.
    pub(crate) fn pipeline<A: AsRef<[u8]>>(&mut self, requests: &[Vec<A>]) -> io::Result<Vec<Value>> {
        self.request.clear();
        requests.iter().for_each(|request| resp::write_request(&mut self.request, request));
        self.reader.stream().write_all(&self.request)?;
        requests.iter().map(|_| self.reader.read()).collect()
    }

    /// What the node says of itself; `None` when it says nothing.
    pub(crate) fn status(&mut self) -> Option<NodeStatus> {
        let Ok(Value::Array(fields)) = self.call(&["RAFT.STATUS"]) else { return None };
        let field = |name: &str| {
            let at = fields.iter().step_by(2).position(|field| *field == Value::Bulk(name.into()))?;
            fields.get(2 * at + 1)
        };
        let number = |name: &str| match field(name)? {
            Value::Integer(number) => u64::try_from(*number).ok(),
            _ => None,
        };
        let text = |name: &str| match field(name)? {
            Value::Bulk(bytes) => String::from_utf8(bytes.clone()).ok(),
            _ => None,
        };
        Some(NodeStatus {
            leads: text("role")? == "leader",
            term: number("term")?,
            leader: number("leader"),
            commit_index: number("commit_index")?,
            applied_index: number("applied_index")?,
            keys: number("keys")?,
            hash_index: number("hash_index")?,
            members: text("members")?,
            snapshots_fetched: number("snapshots_fetched")?,
            hashes: (text("state_hash")?, text("history_hash")?),
        })
    }
}

/// What RAFT.STATUS answers, as far as this program needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeStatus {
    pub(crate) leads: bool,
    pub(crate) term: u64,
    pub(crate) leader: Option<u64>,
    pub(crate) commit_index: u64,
    pub(crate) applied_index: u64,
    pub(crate) keys: u64,
    /// The command up to which the hashes were taken.
    pub(crate) hash_index: u64,
    /// As in "voters 1 2 3".
    pub(crate) members: String,
    pub(crate) snapshots_fetched: u64,
    /// Of the state, and of all commands.
    pub(crate) hashes: (String, String),
}
