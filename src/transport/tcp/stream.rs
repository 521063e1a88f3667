//! Frames out of a byte stream.

use super::events::CloseReason;
use crate::wire::{self, Frame, FrameError, HEADER_BYTES, Header, Limits};
use bytes::Bytes;
use std::io::{self, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use std::vec;
use std::vec::Vec;

/// Reserved at once for a frame that does not fit the read buffer; the rest grows as bytes arrive,
/// so that a claimed length alone costs no more than this.
const LARGE_FRAME_BYTES_FIRST: usize = 64 << 10;

/// Reads frames through a buffer of fixed size, many per system call; a frame larger than the
/// buffer is read into an allocation of its own.
pub(super) struct FrameReader {
    /// `buffer[start..end]` was read and not yet decoded.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    limits: Limits,
}

impl FrameReader {
    /// `buffer_bytes` is at least a header.
    pub(super) fn new(buffer_bytes: usize, frame_bytes_max: usize) -> Self {
        let limits = Limits { frame_bytes_max };
        Self { buffer: vec![0; buffer_bytes], start: 0, end: 0, limits }
    }

    /// Changes buffer and limit, after a handshake; what was read already is kept.
    pub(super) fn grow(&mut self, buffer_bytes: usize, frame_bytes_max: usize) {
        self.buffer.resize(self.buffer.len().max(buffer_bytes), 0);
        self.limits = Limits { frame_bytes_max };
    }

    /// The next frame and its size. Commands are slices of an allocation that holds this frame and
    /// nothing else, so that a command kept does not keep other traffic.
    pub(super) fn next(&mut self, source: &mut impl Read) -> Result<(Frame, usize), CloseReason> {
        self.fill(source, HEADER_BYTES)?;
        let first = self.buffered().first_chunk::<HEADER_BYTES>().ok_or(CloseReason::Ended)?;
        let header = Header::parse(first, self.limits.frame_bytes_max).map_err(CloseReason::Frame)?;
        let bytes = header.frame_bytes;
        if bytes > self.buffer.len() {
            return Ok((self.next_large(source, bytes)?, bytes));
        }
        self.fill(source, bytes)?;
        let frame = &self.buffer[self.start..self.start + bytes];
        let decoded = wire::decode_borrowed(frame, &self.limits);
        self.start += bytes;
        Ok((decoded.map_err(CloseReason::Frame)?, bytes))
    }

    fn next_large(&mut self, source: &mut impl Read, bytes: usize) -> Result<Frame, CloseReason> {
        let mut frame = Vec::with_capacity(bytes.min(LARGE_FRAME_BYTES_FIRST).max(self.buffered().len()));
        frame.extend_from_slice(self.buffered());
        (self.start, self.end) = (0, 0);
        let missing = bytes - frame.len();
        let read = source.take(missing as u64).read_to_end(&mut frame).map_err(close_reason)?;
        if read < missing {
            return Err(CloseReason::Frame(FrameError::Incomplete { expected: bytes, actual: frame.len() }));
        }
        wire::decode(&Bytes::from(frame), &self.limits).map_err(CloseReason::Frame)
    }

    fn buffered(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Reads until at least `bytes` are buffered; `bytes` is at most the buffer's size.
    fn fill(&mut self, source: &mut impl Read, bytes: usize) -> Result<(), CloseReason> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        while self.end - self.start < bytes {
            if self.start + bytes > self.buffer.len() {
                self.buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            }
            match source.read(&mut self.buffer[self.end..]) {
                Ok(0) if self.start == self.end => return Err(CloseReason::Ended),
                Ok(0) => {
                    let (expected, actual) = (bytes, self.end - self.start);
                    return Err(CloseReason::Frame(FrameError::Incomplete { expected, actual }));
                }
                Ok(read) => self.end += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(close_reason(error)),
            }
        }
        Ok(())
    }
}

/// What an error of a socket with a time limit means.
pub(super) fn close_reason(error: io::Error) -> CloseReason {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => CloseReason::Silent,
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
            CloseReason::Ended
        }
        _ => CloseReason::Io(error),
    }
}

/// A socket whose reads end at one deadline, however the bytes trickle in.
pub(super) struct Deadlined<'a> {
    pub(super) stream: &'a TcpStream,
    pub(super) deadline: Instant,
}

impl Read for Deadlined<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // A timeout below the clock's granularity must not round to zero, which means for ever.
        self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let mut stream = self.stream;
        stream.read(buffer)
    }
}
