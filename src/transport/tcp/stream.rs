//! Connections that can be ended while they are used, and frames out of them.

use super::events::CloseReason;
use crate::wire::{self, Frame, FrameError, HEADER_BYTES, Header, Limits};
use bytes::Bytes;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
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

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// What an error of a socket with a time limit means.
pub(super) fn close_reason(error: io::Error) -> CloseReason {
    match error.kind() {
        _ if is_timeout(&error) => CloseReason::Silent,
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
            CloseReason::Ended
        }
        _ => CloseReason::Io(error),
    }
}

/// How long a read sleeps at about most before it looks whether its connection was ended. On Windows a shutdown does not
/// wake a read that sleeps already (<https://github.com/rust-lang/rust/issues/121594>); elsewhere it does, and none has to look.
const SLEEP_MAX: Duration = if cfg!(windows) { Duration::from_millis(100) } else { Duration::MAX };
/// How much is written at a time. On Windows nothing wakes a write that sleeps, so that each has a limit, and one that
/// was cut short says not how much of it went out: on a slow line a piece has to get through within the silence that ends
/// a connection.
const WRITE_BYTES_MAX: usize = if cfg!(windows) { 16 << 10 } else { usize::MAX };

/// A connection that others can end under the hands of the threads that use it.
pub(super) struct Socket {
    /// To write to and to set options of. Reads go through [`Awaited`] or [`Deadlined`].
    pub(super) stream: TcpStream,
    ended: AtomicBool,
}

impl Socket {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, ended: AtomicBool::new(false) }
    }

    /// Gives writes no limit where an end wakes them, and elsewhere so much time for each piece.
    pub(super) fn limit_writes(&self, stall_max: Duration) -> io::Result<()> {
        self.stream.set_write_timeout(cfg!(windows).then_some(stall_max))
    }

    pub(super) fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        bytes.chunks(WRITE_BYTES_MAX).try_for_each(|piece| (&self.stream).write_all(piece))
    }

    /// For good. Reads find the end of the stream.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        // An error means that it is closed already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// Reads that give up after so much silence.
pub(super) struct Awaited<'a> {
    socket: &'a Socket,
    silence_max: Duration,
}

impl<'a> Awaited<'a> {
    pub(super) fn new(socket: &'a Socket, silence_max: Duration) -> io::Result<Self> {
        socket.stream.set_read_timeout(Some(silence_max.min(SLEEP_MAX)))?;
        Ok(Self { socket, silence_max })
    }
}

impl Read for Awaited<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.silence_max > SLEEP_MAX && !self.wait()? {
            return Ok(0);
        }
        (&self.socket.stream).read(buffer)
    }
}

impl Awaited<'_> {
    /// Sleeps until there is something to read, or false: the connection was ended. It peeks, for of a read that its limit
    /// cuts short Windows may lose what arrives just then.
    fn wait(&self) -> io::Result<bool> {
        let began = Instant::now();
        loop {
            match self.socket.stream.peek(&mut [0]) {
                Err(_) if self.socket.ended.load(Ordering::SeqCst) => return Ok(false),
                Err(error) if !is_timeout(&error) || began.elapsed() >= self.silence_max => return Err(error),
                Err(_) => {}
                Ok(_) => return Ok(true),
            }
        }
    }
}

/// Reads that end at one deadline, however the bytes trickle in.
pub(super) struct Deadlined<'a> {
    pub(super) socket: &'a Socket,
    pub(super) deadline: Instant,
}

impl Read for Deadlined<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // A timeout below the clock's granularity must not round to zero, which means for ever.
        Awaited::new(self.socket, left.max(Duration::from_millis(1)))?.read(buffer)
    }
}
