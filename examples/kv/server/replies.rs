//! What the replies of all clients may hold together, and writing them to a client.
//!
//! A few bytes of requests can ask for gigabytes of replies, and a client need not read them. So a reply is counted before
//! it is fetched. Each connection holds a little at any time; for more it takes *room* from what all share, and while there is
//! none it waits without holding anything. A connection gives its room back once its client has taken the replies. A client
//! that takes its time is cut off when others wait for the room that it holds.

use super::resp;
use super::router::Answer;
use super::store::Reply;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What each connection may hold without asking.
pub(crate) const OWN_BYTES: usize = 64 << 10;
/// What a connection may hold in several replies; a single one may be larger.
pub(crate) const SEVERAL_BYTES_MAX: usize = 4 << 20;
/// A single reply holds no more: MGET's, and its framing.
pub(crate) const SINGLE_BYTES_MAX: usize = 36 << 20;
/// A payload of this size is written from where it lies instead of being copied.
const DIRECT_BYTES: usize = 16 << 10;
/// A client that takes no byte of its replies for this long is cut off.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a write that waits for its client looks whether others wait for the room.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// While others wait for their room, a client may pause so long in taking its replies, and take so long in all, and so much
/// longer for each MiB.
const TAKING_MAX: Duration = Duration::from_secs(1);

/// The memory that connections share for what exceeds their own. Large replies never take all of it, so that others need not
/// wait for the clients that ask for those.
pub(crate) struct ReplyMemory {
    max: usize,
    state: Mutex<Taken>,
    changed: Condvar,
}

#[derive(Default)]
struct Taken {
    bytes: usize,
    /// Of these, in rooms for large replies.
    large_bytes: usize,
    /// Who waits for large rooms, and who for others, in order: one that needs much would wait for ever while those that
    /// need little pass it.
    waiting: [VecDeque<u64>; 2],
    last_ticket: u64,
}

/// A part of it, given back when it is dropped.
pub(crate) struct Room {
    memory: Arc<ReplyMemory>,
    bytes: usize,
}

/// Whether a room of this size is a large one.
fn is_large(bytes: usize) -> bool {
    bytes > SEVERAL_BYTES_MAX
}

impl ReplyMemory {
    /// The least that it may be: a large reply fits in.
    pub(crate) const LEAST_BYTES: usize = SINGLE_BYTES_MAX / 3 * 4;

    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, state: Mutex::default(), changed: Condvar::new() })
    }

    /// How much is taken.
    pub(crate) fn taken(&self) -> usize {
        self.lock().bytes
    }

    /// Takes so much, as soon as there is so much; `None` if there was not until then.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize, deadline: Instant) -> Option<Room> {
        let mut room = Room { memory: Arc::clone(self), bytes: 0 };
        let mut state = self.lock();
        state.last_ticket += 1;
        let ticket = state.last_ticket;
        let line = usize::from(is_large(bytes));
        state.waiting[line].push_back(ticket);
        loop {
            let took = state.waiting[line].front() == Some(&ticket) && self.resize(&mut state, &mut room, bytes);
            let remaining = deadline.saturating_duration_since(Instant::now());
            if took || remaining.is_zero() {
                state.waiting[line].retain(|other| *other != ticket);
                drop(state);
                // The next one in line may find room too.
                self.changed.notify_all();
                return took.then_some(room);
            }
            state = self.changed.wait_timeout(state, remaining).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Gives a room another size, if there is so much.
    fn resize(&self, state: &mut Taken, room: &mut Room, bytes: usize) -> bool {
        let large = |bytes| if is_large(bytes) { bytes } else { 0 };
        let sum = state.bytes - room.bytes + bytes;
        let large_sum = state.large_bytes - large(room.bytes) + large(bytes);
        let fits = bytes <= room.bytes || sum <= self.max && large_sum <= self.max / 4 * 3;
        if fits {
            (state.bytes, state.large_bytes, room.bytes) = (sum, large_sum, bytes);
        }
        fits
    }

    fn is_short(&self) -> bool {
        self.lock().waiting.iter().any(|line| !line.is_empty())
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Room {
    /// Takes more, if there is more and nobody waits for it.
    fn try_grow(&mut self, bytes: usize) -> bool {
        let (memory, sum) = (Arc::clone(&self.memory), self.bytes + bytes);
        let mut state = memory.lock();
        state.waiting[usize::from(is_large(sum))].is_empty() && memory.resize(&mut state, self, sum)
    }

    fn shrink_to(&mut self, bytes: usize) {
        if bytes < self.bytes {
            let memory = Arc::clone(&self.memory);
            memory.resize(&mut memory.lock(), self, bytes);
            memory.changed.notify_all();
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

/// Shared by a connection and whatever fetches its replies.
pub(crate) type SharedAllowance = Arc<Mutex<Allowance>>;

/// What the replies of one batch may hold. Shared with who fetches them: the state machine's thread, or that of a lane.
pub(crate) struct Allowance {
    room: Room,
    /// What they hold so far.
    held: usize,
}

impl Allowance {
    pub(crate) fn new(memory: &Arc<ReplyMemory>) -> SharedAllowance {
        Self::with(Room { memory: Arc::clone(memory), bytes: 0 })
    }

    /// One with room that was taken for it.
    pub(crate) fn with(room: Room) -> SharedAllowance {
        Arc::new(Mutex::new(Self { room, held: 0 }))
    }

    /// Counts a reply, or a part of one: whether it may be held. The first reply may have any size; several together are
    /// bounded.
    pub(crate) fn admit(&mut self, bytes: usize, is_first: bool) -> bool {
        let sum = self.held + bytes;
        let missing = sum.saturating_sub(OWN_BYTES + self.room.bytes);
        let admitted = missing == 0 || ((is_first || sum <= SEVERAL_BYTES_MAX) && self.room.try_grow(missing));
        self.held += if admitted { bytes } else { 0 };
        admitted
    }

    /// Begins anew: nothing was fetched. The room stays.
    pub(crate) fn reset(&mut self) {
        self.held = 0;
    }

    /// Takes back what was counted for a reply that is not held after all.
    pub(crate) fn take_back(&mut self, bytes: usize) {
        self.keep(self.held - bytes);
    }

    /// The replies hold no more than this: gives back the room for the rest.
    pub(crate) fn keep(&mut self, bytes: usize) {
        self.held = bytes;
        self.room.shrink_to(bytes.saturating_sub(OWN_BYTES));
    }

    /// Whether room was taken for it.
    pub(crate) fn has_room(&self) -> bool {
        self.room.bytes > 0
    }

    pub(crate) fn lock(shared: &Mutex<Self>) -> MutexGuard<'_, Self> {
        shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reply {
    /// At least what it holds, and its framing.
    pub(crate) fn bytes(&self) -> usize {
        const FRAMING: usize = 16;
        match self {
            Self::Bulk(bytes) => FRAMING + bytes.len(),
            Self::Array(elements) => FRAMING + elements.iter().map(Self::bytes).sum::<usize>(),
            Self::Error(message) => FRAMING + message.len(),
            Self::Ok | Self::Nil | Self::Integer(_) => FRAMING,
        }
    }
}

/// Replies on their way to a client. Small ones are gathered; the payload of a large one is never copied.
pub(crate) struct Out<'a> {
    pub(crate) bytes: Vec<u8>,
    stream: &'a TcpStream,
    memory: &'a Arc<ReplyMemory>,
    /// The room that is held for what the client is to take, in bytes, and since when.
    held: (usize, Instant),
}

impl<'a> Out<'a> {
    pub(crate) fn new(stream: &'a TcpStream, memory: &'a Arc<ReplyMemory>) -> io::Result<Self> {
        stream.set_write_timeout(Some(LOOK_AGAIN))?;
        Ok(Self { bytes: Vec::new(), stream, memory, held: (0, Instant::now()) })
    }

    /// From now on its client has other replies to take, for which this allowance holds room.
    pub(crate) fn begin(&mut self, allowance: &Mutex<Allowance>) {
        self.held = (Allowance::lock(allowance).room.bytes, Instant::now());
    }

    pub(crate) fn answer(&mut self, answer: &Answer) -> io::Result<()> {
        match answer {
            Answer::Reply(reply) => self.reply(reply)?,
            Answer::Raw(pieces) => pieces.iter().try_for_each(|piece| self.payload(piece))?,
            Answer::Error(message) => resp::write_error(&mut self.bytes, message),
            Answer::NoRoom(bytes) => super::router::write_no_room(&mut self.bytes, *bytes),
        }
        self.relieve()
    }

    fn reply(&mut self, reply: &Reply) -> io::Result<()> {
        match reply {
            Reply::Bulk(bytes) if bytes.len() >= DIRECT_BYTES => {
                resp::write_bulk_header(&mut self.bytes, bytes.len());
                self.payload(bytes)?;
                self.bytes.extend_from_slice(b"\r\n");
            }
            Reply::Array(elements) => {
                resp::write_array(&mut self.bytes, elements.len());
                for element in elements {
                    self.reply(element)?;
                }
            }
            small => small.write(&mut self.bytes),
        }
        self.relieve()
    }

    fn payload(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() < DIRECT_BYTES {
            self.bytes.extend_from_slice(bytes);
            return Ok(());
        }
        self.flush()?;
        self.send(bytes)
    }

    /// Sends what was gathered once it is much.
    pub(crate) fn relieve(&mut self) -> io::Result<()> {
        if self.bytes.len() >= OWN_BYTES { self.flush() } else { Ok(()) }
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        let mut bytes = std::mem::take(&mut self.bytes);
        let sent = self.send(&bytes);
        bytes.clear();
        bytes.shrink_to(2 * OWN_BYTES);
        self.bytes = bytes;
        sent
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let (mut rest, mut progress) = (bytes, Instant::now());
        while !rest.is_empty() {
            match (&*self.stream).write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    rest = &rest[count..];
                    progress = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_timeout(&error) && progress.elapsed() < WRITE_TIMEOUT => {}
                Err(error) => return Err(error),
            }
            let (held, since) = self.held;
            let allowed = TAKING_MAX + TAKING_MAX * (held >> 20) as u32;
            let too_slow = progress.elapsed() > TAKING_MAX || since.elapsed() > allowed;
            if held > 0 && too_slow && self.memory.is_short() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "others wait for the memory of its replies"));
            }
        }
        Ok(())
    }
}

/// Systems differ in how they name it.
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
