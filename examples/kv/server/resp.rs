//! RESP2, the protocol of Redis: requests in, replies out.
//!
//! Lives here: framing. What a command means is in `command`. The decoder is total: any bytes give
//! requests, a wish for more, or an error, and memory follows what arrived, never what was announced.

use std::fmt;
use std::ops::Range;

/// The largest request in bytes, framing included: bounds what one connection can hold.
pub(crate) const REQUEST_BYTES_MAX: usize = 16 << 20;
/// The longest bulk string in bytes.
const BULK_BYTES_MAX: usize = 9 << 20;
/// The most arguments of one request.
pub(crate) const ARGUMENTS_MAX: usize = 1 << 16;
/// The longest line: an inline command, or the header of an array or bulk string.
const LINE_BYTES_MAX: usize = 64 << 10;

/// What a client did wrong. The connection cannot go on: its framing is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ProtocolError {
    /// An array announces a count that is no number, or too many arguments.
    ArrayLength,
    /// A bulk string announces a length that is no number, or beyond the limit.
    BulkLength,
    /// Something other than a bulk string stands in a request.
    ExpectedBulk(u8),
    /// A bulk string does not end where it said.
    Unterminated,
    /// A line without an end.
    LineTooLong,
    /// Quotes of an inline command do not match.
    UnbalancedQuotes,
    /// The request as a whole is too large.
    RequestTooLarge,
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Protocol error: ")?;
        match self {
            Self::ArrayLength => f.write_str("invalid multibulk length"),
            Self::BulkLength => f.write_str("invalid bulk length"),
            Self::ExpectedBulk(found) => write!(f, "expected '$', got '{}'", found.escape_ascii()),
            Self::Unterminated => f.write_str("a bulk string does not end in CRLF"),
            Self::LineTooLong => f.write_str("too big inline request"),
            Self::UnbalancedQuotes => f.write_str("unbalanced quotes in request"),
            Self::RequestTooLarge => write!(f, "a request exceeds {REQUEST_BYTES_MAX} bytes"),
        }
    }
}

/// Takes bytes as they arrive and gives out requests.
///
/// A request that arrives in pieces is not scanned again from its start for each piece.
#[derive(Default)]
pub(crate) struct Decoder {
    bytes: Vec<u8>,
    /// Where the unfinished request starts.
    start: usize,
    /// Where scanning goes on.
    at: usize,
    /// Arguments that the unfinished request still lacks; `None` before its header.
    missing: Option<usize>,
    /// The complete arguments of the unfinished request.
    arguments: Vec<Range<usize>>,
    /// An inline command with quotes, unescaped.
    unescaped: Vec<u8>,
}

/// A request: the name of a command and its arguments.
pub(crate) struct Request<'a> {
    bytes: &'a [u8],
    arguments: &'a [Range<usize>],
}

impl<'a> Request<'a> {
    /// How many arguments, the command's name included.
    pub(crate) fn len(&self) -> usize {
        self.arguments.len()
    }

    /// The argument at this position; empty beyond the last.
    pub(crate) fn get(&self, position: usize) -> &'a [u8] {
        self.arguments.get(position).map_or(&[], |range| &self.bytes[range.clone()])
    }

    /// The request that begins at this position.
    pub(crate) fn tail(&self, position: usize) -> Self {
        Self { bytes: self.bytes, arguments: self.arguments.get(position..).unwrap_or_default() }
    }

    /// The arguments from this position on.
    pub(crate) fn from(&self, position: usize) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (bytes, rest) = (self.bytes, self.arguments.get(position..).unwrap_or_default());
        rest.iter().map(move |range| &bytes[range.clone()])
    }
}

impl Decoder {
    /// Adds what arrived.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// How many bytes it holds.
    pub(crate) fn held(&self) -> usize {
        self.bytes.len()
    }

    /// Drops the requests that were given out. Called between batches, so that a batch costs one
    /// move of the remainder.
    pub(crate) fn compact(&mut self) {
        if self.missing.is_none() {
            // Those of a request that was given out; an inline one's lie elsewhere.
            self.arguments.clear();
        }
        if self.start == 0 {
            return;
        }
        let start = self.start;
        self.bytes.drain(..start);
        self.at -= start;
        for range in &mut self.arguments {
            *range = range.start - start..range.end - start;
        }
        self.start = 0;
        // One large request must not keep its memory for the life of the connection.
        if self.bytes.capacity() > 1 << 20 && self.bytes.len() < 1 << 16 {
            self.bytes.shrink_to(1 << 16);
        }
    }

    /// The next complete request; `None` if it has not arrived yet. Empty requests are skipped.
    pub(crate) fn next(&mut self) -> Result<Option<Request<'_>>, ProtocolError> {
        loop {
            if self.missing.is_none() {
                self.arguments.clear();
                let Some(line) = self.line()? else { return Ok(None) };
                if self.bytes[line.start..line.end].first() != Some(&b'*') {
                    self.start = self.at;
                    if self.inline(line)? {
                        return Ok(Some(Request { bytes: &self.unescaped, arguments: &self.arguments }));
                    }
                    continue;
                }
                let count = number(&self.bytes[line.start + 1..line.end]).ok_or(ProtocolError::ArrayLength)?;
                // Zero and the null array are requests for nothing.
                let count = usize::try_from(count).unwrap_or(0);
                if count > ARGUMENTS_MAX {
                    return Err(ProtocolError::ArrayLength);
                }
                self.missing = Some(count);
            }
            while self.missing.is_some_and(|missing| missing > 0) {
                if !self.bulk()? {
                    return Ok(None);
                }
            }
            self.missing = None;
            self.start = self.at;
            if !self.arguments.is_empty() {
                return Ok(Some(Request { bytes: &self.bytes, arguments: &self.arguments }));
            }
        }
    }

    /// Takes one bulk string off the buffer, whole or not at all.
    fn bulk(&mut self) -> Result<bool, ProtocolError> {
        let header = self.at;
        let Some(line) = self.line()? else { return Ok(false) };
        match self.bytes[line.clone()].split_first() {
            Some((b'$', _)) => {}
            Some((other, _)) => return Err(ProtocolError::ExpectedBulk(*other)),
            None => return Err(ProtocolError::ExpectedBulk(b'\r')),
        }
        let length = number(&self.bytes[line.start + 1..line.end]).ok_or(ProtocolError::BulkLength)?;
        let length = usize::try_from(length).map_err(|_| ProtocolError::BulkLength)?;
        if length > BULK_BYTES_MAX {
            return Err(ProtocolError::BulkLength);
        }
        if self.at - self.start + length > REQUEST_BYTES_MAX {
            return Err(ProtocolError::RequestTooLarge);
        }
        let end = self.at + length;
        match self.bytes.get(end..end + 2) {
            None => {
                self.at = header;
                Ok(false)
            }
            Some(b"\r\n") => {
                self.arguments.push(self.at..end);
                self.at = end + 2;
                self.missing = self.missing.map(|missing| missing - 1);
                Ok(true)
            }
            Some(_) => Err(ProtocolError::Unterminated),
        }
    }

    /// Takes a line off the buffer, without its end.
    fn line(&mut self) -> Result<Option<Range<usize>>, ProtocolError> {
        let rest = &self.bytes[self.at..];
        let Some(length) = rest.iter().take(LINE_BYTES_MAX).position(|byte| *byte == b'\n') else {
            return if rest.len() >= LINE_BYTES_MAX { Err(ProtocolError::LineTooLong) } else { Ok(None) };
        };
        let start = self.at;
        self.at += length + 1;
        let end = start + length;
        let end = if end > start && self.bytes[end - 1] == b'\r' { end - 1 } else { end };
        Ok(Some(start..end))
    }

    /// Splits an inline command at blanks, with the quotes of redis-cli; `false` for a blank line.
    fn inline(&mut self, line: Range<usize>) -> Result<bool, ProtocolError> {
        self.unescaped.clear();
        let mut rest = self.bytes[line].iter().copied().peekable();
        loop {
            while rest.next_if(u8::is_ascii_whitespace).is_some() {}
            if rest.peek().is_none() {
                return Ok(!self.arguments.is_empty());
            }
            let start = self.unescaped.len();
            let quote = rest.next_if(|byte| matches!(byte, b'"' | b'\''));
            loop {
                let byte = match (rest.next(), quote) {
                    (None, None) => break,
                    (None, Some(_)) => return Err(ProtocolError::UnbalancedQuotes),
                    (Some(byte), Some(quote)) if byte == quote => {
                        if rest.peek().is_some_and(|byte| !byte.is_ascii_whitespace()) {
                            return Err(ProtocolError::UnbalancedQuotes);
                        }
                        break;
                    }
                    (Some(b'\\'), Some(b'"')) => match rest.next() {
                        Some(b'n') => b'\n',
                        Some(b'r') => b'\r',
                        Some(b't') => b'\t',
                        Some(other) => other,
                        None => return Err(ProtocolError::UnbalancedQuotes),
                    },
                    (Some(byte), None) if byte.is_ascii_whitespace() => break,
                    (Some(byte), _) => byte,
                };
                self.unescaped.push(byte);
            }
            self.arguments.push(start..self.unescaped.len());
            if self.arguments.len() > ARGUMENTS_MAX {
                return Err(ProtocolError::ArrayLength);
            }
        }
    }
}

/// A decimal number as it stands in a header.
fn number(digits: &[u8]) -> Option<i64> {
    if digits.is_empty() || digits.len() > 20 || digits[0] == b'+' {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// `+OK`
pub(crate) fn write_simple(out: &mut Vec<u8>, text: &str) {
    line(out, b'+', text);
}

/// `-ERR …`; the code is the message's first word.
pub(crate) fn write_error(out: &mut Vec<u8>, message: &str) {
    line(out, b'-', message);
}

/// `:42`
pub(crate) fn write_integer(out: &mut Vec<u8>, number: i64) {
    header(out, b':', number);
}

/// The start of a bulk string; its bytes follow, and CRLF.
pub(crate) fn write_bulk_header(out: &mut Vec<u8>, length: usize) {
    header(out, b'$', length as i64);
}

/// `$3 foo`
pub(crate) fn write_bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    write_bulk_header(out, bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// The absent value.
pub(crate) fn write_nil(out: &mut Vec<u8>) {
    out.extend_from_slice(b"$-1\r\n");
}

/// The start of an array; its elements follow.
pub(crate) fn write_array(out: &mut Vec<u8>, length: usize) {
    header(out, b'*', length as i64);
}

/// A whole request.
pub(crate) fn write_request<A: AsRef<[u8]>>(out: &mut Vec<u8>, arguments: &[A]) {
    write_array(out, arguments.len());
    for argument in arguments {
        write_bulk(out, argument.as_ref());
    }
}

fn header(out: &mut Vec<u8>, kind: u8, number: i64) {
    use std::io::Write;
    out.push(kind);
    // Writing to a vector cannot fail.
    let _ = write!(out, "{number}");
    out.extend_from_slice(b"\r\n");
}

/// A line break inside the text would end the reply early: it becomes a blank.
fn line(out: &mut Vec<u8>, kind: u8, text: &str) {
    out.push(kind);
    out.extend(text.bytes().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }));
    out.extend_from_slice(b"\r\n");
}
