//! Reading RESP2 replies: what a node needs to forward, and a client to understand.

use std::io::{self, Read};
use std::net::TcpStream;
use std::time::Instant;

/// Arrays within arrays deeper than this are refused.
const DEPTH_MAX: usize = 8;
/// The largest single reply in bytes.
const REPLY_BYTES_MAX: usize = 1 << 30;

/// A reply as a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// `+OK`
    Simple(String),
    /// `-ERR …`
    Error(String),
    /// `:42`
    Integer(i64),
    /// `$3 foo`
    Bulk(Vec<u8>),
    /// The absent value.
    Nil,
    /// `*2 …`
    Array(Vec<Value>),
}

/// Reads replies off a connection.
pub(crate) struct ReplyReader {
    stream: TcpStream,
    bytes: Vec<u8>,
    at: usize,
    /// Asked at each read timeout of the connection, with the start of the wait: whether to go on.
    keep_waiting: KeepWaiting,
    since: Instant,
}

type KeepWaiting = Box<dyn Fn(Instant) -> bool + Send>;

impl ReplyReader {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, bytes: Vec::new(), at: 0, keep_waiting: Box::new(|_| false), since: Instant::now() }
    }

    /// Goes on waiting after a read timeout of the connection while `keep_waiting`, given the start
    /// of the wait, says so.
    pub(crate) fn keep_waiting(mut self, keep_waiting: impl Fn(Instant) -> bool + Send + 'static) -> Self {
        self.keep_waiting = Box::new(keep_waiting);
        self
    }

    /// The connection, for writing.
    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Bytes that arrived and belong to no reply read so far.
    pub(crate) fn has_unread(&self) -> bool {
        self.at < self.bytes.len()
    }

    /// The next reply.
    pub(crate) fn read(&mut self) -> io::Result<Value> {
        self.compact();
        self.value(DEPTH_MAX)
    }

    /// The header of an array whose elements are read next; anything else is given as it is.
    pub(crate) fn read_array_header(&mut self) -> io::Result<Result<usize, Value>> {
        self.compact();
        self.fill(1)?;
        if self.bytes[self.at] != b'*' {
            return self.value(DEPTH_MAX).map(Err);
        }
        let (_, line) = self.line()?;
        Ok(Ok(length(&line)?.unwrap_or(0)))
    }

    /// Gives the next reply piece by piece, as it stands and as it arrives: no more of it is held here.
    pub(crate) fn pass(&mut self, piece: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        self.compact();
        self.pass_value(DEPTH_MAX, piece)
    }

    fn compact(&mut self) {
        self.since = Instant::now();
        if self.at == self.bytes.len() {
            self.bytes.clear();
        } else {
            self.bytes.drain(..self.at);
        }
        self.at = 0;
    }

    fn value(&mut self, depth: usize) -> io::Result<Value> {
        let (kind, line) = self.line()?;
        let text = || String::from_utf8_lossy(&line).into_owned();
        match kind {
            b'+' => Ok(Value::Simple(text())),
            b'-' => Ok(Value::Error(text())),
            b':' => text().parse().map(Value::Integer).map_err(|_| malformed("an integer reply is no number")),
            b'$' => match length(&line)? {
                None => Ok(Value::Nil),
                Some(length) => {
                    self.fill(length + 2)?;
                    let bulk = self.bytes[self.at..self.at + length].to_vec();
                    self.at += length + 2;
                    Ok(Value::Bulk(bulk))
                }
            },
            b'*' if depth == 0 => Err(malformed("a reply nests too deeply")),
            b'*' => match length(&line)? {
                None => Ok(Value::Nil),
                Some(count) => (0..count).map(|_| self.value(depth - 1)).collect::<io::Result<_>>().map(Value::Array),
            },
            _ => Err(malformed("a reply of unknown kind")),
        }
    }

    fn pass_value(&mut self, depth: usize, piece: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        if self.at == self.bytes.len() {
            self.bytes.clear();
            self.at = 0;
        }
        let start = self.at;
        let (kind, line) = self.line()?;
        piece(&self.bytes[start..self.at]);
        match kind {
            b'$' => length(&line)?.map_or(Ok(()), |length| self.pass_bytes(length + 2, piece)),
            b'*' if depth == 0 => Err(malformed("a reply nests too deeply")),
            b'*' => (0..length(&line)?.unwrap_or(0)).try_for_each(|_| self.pass_value(depth - 1, piece)),
            b'+' | b'-' | b':' => Ok(()),
            _ => Err(malformed("a reply of unknown kind")),
        }
    }

    fn pass_bytes(&mut self, count: usize, piece: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let mut missing = count;
        while missing > 0 {
            if self.at == self.bytes.len() {
                self.bytes.clear();
                self.at = 0;
                self.receive()?;
            }
            let end = self.bytes.len().min(self.at + missing);
            piece(&self.bytes[self.at..end]);
            missing -= end - self.at;
            self.at = end;
        }
        Ok(())
    }

    /// Kind and rest of the next line.
    fn line(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut scanned = 0;
        loop {
            if let Some(end) = self.bytes[self.at + scanned..].iter().position(|byte| *byte == b'\n') {
                let line = &self.bytes[self.at..self.at + scanned + end];
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                let (kind, rest) = line.split_first().ok_or_else(|| malformed("an empty line for a reply"))?;
                let found = (*kind, rest.to_vec());
                self.at += scanned + end + 1;
                return Ok(found);
            }
            scanned = self.bytes.len() - self.at;
            if scanned > 1 << 16 {
                return Err(malformed("a line without an end"));
            }
            self.receive()?;
        }
    }

    /// Waits until `count` bytes are there.
    fn fill(&mut self, count: usize) -> io::Result<()> {
        while self.bytes.len() - self.at < count {
            self.receive()?;
        }
        Ok(())
    }

    fn receive(&mut self) -> io::Result<()> {
        if self.bytes.len() > REPLY_BYTES_MAX {
            return Err(malformed("a reply is too large"));
        }
        let mut chunk = [0; 16 << 10];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.bytes.extend_from_slice(&chunk[..count]);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_timeout(&error) && (self.keep_waiting)(self.since) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Systems differ in how they name it.
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// The length in a header, `None` for the absent value.
fn length(line: &[u8]) -> io::Result<Option<usize>> {
    let text = std::str::from_utf8(line).map_err(|_| malformed("a length is no number"))?;
    match text.parse::<i64>() {
        Ok(-1) => Ok(None),
        Ok(length) if (0..=REPLY_BYTES_MAX as i64).contains(&length) => Ok(Some(length as usize)),
        _ => Err(malformed("a length out of range")),
    }
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
