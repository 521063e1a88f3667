//! One client: pipelined requests in, their replies out in order, one write for each batch.

use super::admin;
use super::backup;
use super::command::{self, Local, Meaning};
use super::forward;
use super::node::{STOPS, Server};
use super::replies::Out;
use super::resp::{self, Decoder};
use super::router;
use super::store;
use bytes::Bytes;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

/// The most commands of one batch.
const BATCH_COMMANDS_MAX: usize = 1024;
/// A batch takes no further command once it holds this much, in bytes.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// How long a client whose connection is closed may go on sending before that takes its last reply back.
const LINGER: Duration = Duration::from_secs(1);
/// The same when the node stops, for the clients all at once.
const LINGER_WHEN_STOPPING: Duration = Duration::from_millis(100);
/// How long a client of a node that stops may think about its next request, which is then answered, and how often the node
/// looks for it.
const LAST_REQUEST_WAIT: Duration = Duration::from_millis(100);
const LOOK_FOR_LAST_REQUEST: Duration = Duration::from_millis(1);
/// How often a connection still reads once the node closes.
const LAST_ROUNDS_MAX: usize = 16;
/// Answers whatever a node has sent on its lane and this one has not read.
const LAST_WORD: &[u8] = b"-NOTLEADER this node stops; nothing ran\r\n";

/// What a client has set on its connection.
pub(crate) struct Session {
    pub(crate) id: u64,
    /// READONLY: reads are answered from this replica, possibly stale.
    pub(crate) stale_reads: bool,
    /// QUIT, or a broken framing: close after the replies are out.
    pub(crate) closing: bool,
    /// It is another node's lane: it has forwarded a batch.
    is_lane: bool,
}

/// Where the next reply of a batch comes from.
enum Source {
    /// From this part of [`Batch::local`].
    Local(Range<usize>),
    /// From the next of the commands that the leader runs.
    ForLeader,
    /// From this replica as it is then.
    Stale(Bytes),
    /// A snapshot, taken once the commands of the batch have run.
    Snapshot,
    /// A backup, likewise; possibly stale.
    Backup(bool),
}

/// Requests that are answered together.
#[derive(Default)]
struct Batch {
    sources: Vec<Source>,
    /// Replies that are there already.
    local: Vec<u8>,
    /// ForLeader commands, one behind the other.
    encoded: Vec<u8>,
    /// Where each of them ends.
    ends: Vec<usize>,
    /// Forwarded by another node. Stands alone in its batch.
    forwarded: Option<Vec<Bytes>>,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.sources.len() >= BATCH_COMMANDS_MAX || self.encoded.len() + self.local.len() >= BATCH_BYTES_MAX
    }

    fn push_local(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.local.len();
        write(&mut self.local);
        self.sources.push(Source::Local(start..self.local.len()));
    }

    /// The commands for the leader: slices of one allocation.
    fn take_commands(&mut self) -> Vec<Bytes> {
        let whole = Bytes::from(std::mem::take(&mut self.encoded));
        let mut start = 0;
        let slices = self.ends.drain(..).map(|end| whole.slice(std::mem::replace(&mut start, end)..end));
        slices.collect()
    }
}

/// Serves a client until it leaves.
pub(crate) fn serve(server: &Server, mut stream: &TcpStream, id: u64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut session = Session { id, stale_reads: false, closing: false, is_lane: false };
    let mut decoder = Decoder::default();
    let mut chunk = vec![0; 16 << 10];
    let mut out = Out::new(stream, &server.replies)?;
    let mut share = MemoryShare { server, bytes: 0 };
    let mut last_rounds = LAST_ROUNDS_MAX;
    while !session.closing && last_rounds > 0 {
        let count = match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        decoder.feed(&chunk[..count]);
        if !share.grow_to(decoder.held()) {
            session.closing = true;
            let reason = "BUSY the clients' unfinished requests take all the memory they may; nothing ran";
            resp::write_error(&mut out.bytes, reason);
            out.flush()?;
            break;
        }
        loop {
            let (mut batch, exhausted) = gather(server, &mut session, &mut decoder);
            answer(server, &mut batch, &mut out)?;
            if exhausted || session.closing {
                break;
            }
        }
        decoder.compact();
        share.shrink_to(decoder.held());
        out.flush()?;
        // What has arrived is answered; a client that goes on asking is cut off.
        last_rounds -= usize::from(server.ending.is_closing());
    }
    if server.ending.is_closing() {
        if session.is_lane {
            stream.write_all(LAST_WORD)?;
        } else {
            let why = server.why_stopped().unwrap_or(STOPS);
            answer_last(stream, &mut decoder, &mut chunk, why, &mut out)?;
        }
        farewell(stream, &mut chunk, LINGER_WHEN_STOPPING)
    } else if session.closing {
        farewell(stream, &mut chunk, LINGER)
    } else {
        Ok(())
    }
}

/// Tells a client that the node stops, in answer to the next that it asks for, so that it asks elsewhere; only then does its
/// connection end. A request that finds the connection ended gets no answer, and the client does not know whether it ran. One
/// that asks for nothing for a while loses nothing.
fn answer_last(
    mut stream: &TcpStream,
    decoder: &mut Decoder,
    chunk: &mut [u8],
    why: &str,
    out: &mut Out<'_>,
) -> io::Result<()> {
    let deadline = Instant::now() + LAST_REQUEST_WAIT;
    let mut told = false;
    loop {
        // What is no request gets no answer, as the connection ends anyway.
        while let Ok(Some(request)) = decoder.next() {
            told = true;
            if request.get(0).eq_ignore_ascii_case(forward::REQUEST_NAME) {
                out.bytes.extend_from_slice(LAST_WORD);
            } else {
                resp::write_error(&mut out.bytes, why);
            }
        }
        decoder.compact();
        out.flush()?;
        // Of requests that are sent together the rest is on its way.
        let done = told && decoder.held() == 0;
        if done || decoder.held() > BATCH_BYTES_MAX || Instant::now() >= deadline {
            return Ok(());
        }
        match stream.read(chunk) {
            // Not the client's end: the node has ended this side, so that nobody waits in a read any more.
            Ok(0) => thread::sleep(LOOK_FOR_LAST_REQUEST),
            Ok(count) => decoder.feed(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// What a connection holds of the memory for unfinished requests; given back when it ends.
struct MemoryShare<'a> {
    server: &'a Server,
    bytes: usize,
}

impl MemoryShare<'_> {
    fn grow_to(&mut self, bytes: usize) -> bool {
        let granted = self.server.account(self.bytes, bytes);
        if granted {
            self.bytes = bytes;
        }
        granted
    }

    fn shrink_to(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.server.account(self.bytes, bytes);
        self.bytes = bytes;
    }
}

impl Drop for MemoryShare<'_> {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

/// Lets the client read its last reply: closing on bytes that nobody read would take it back.
fn farewell(mut stream: &TcpStream, chunk: &mut [u8], linger: Duration) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    stream.set_read_timeout(Some(linger))?;
    let mut patience = 64;
    while patience > 0 && stream.read(chunk)? > 0 {
        patience -= 1;
    }
    Ok(())
}

/// Takes requests until none is complete (then `true`) or the batch is full.
fn gather(server: &Server, session: &mut Session, decoder: &mut Decoder) -> (Batch, bool) {
    let mut batch = Batch::default();
    while !batch.is_full() {
        let request = match decoder.next() {
            Ok(Some(request)) => request,
            Ok(None) => return (batch, true),
            Err(error) => {
                session.closing = true;
                batch.push_local(|out| resp::write_error(out, &format!("ERR {error}")));
                return (batch, true);
            }
        };
        match command::interpret(&request, &mut batch.encoded) {
            Meaning::Local(Local::RaftSnapshot) => {
                batch.sources.push(Source::Snapshot);
                return (batch, false);
            }
            Meaning::Local(Local::RaftBackup) if backup::is_asked_for(&request) => {
                batch.sources.push(Source::Backup(request.len() > 1));
                return (batch, false);
            }
            Meaning::Local(local) => {
                batch.push_local(|out| admin::answer(server, session, local, &request, out));
                if local == Local::Quit {
                    return (batch, true);
                }
            }
            Meaning::Refused(message) => batch.push_local(|out| resp::write_error(out, &message)),
            Meaning::ForLeader => {
                let start = batch.ends.last().copied().unwrap_or(0);
                if session.stale_reads && store::is_read(&batch.encoded[start..]) {
                    let command = batch.encoded.split_off(start);
                    batch.sources.push(Source::Stale(command.into()));
                } else {
                    batch.ends.push(batch.encoded.len());
                    batch.sources.push(Source::ForLeader);
                }
            }
            Meaning::Forwarded => {
                session.is_lane = true;
                batch.forwarded = Some(request.from(1).map(Bytes::copy_from_slice).collect());
                return (batch, false);
            }
        }
    }
    (batch, false)
}

/// Runs a batch and writes its replies in the order of the requests. They go to the client as they pile up, and what comes
/// next runs once they have gone: a thousand short requests can ask for gigabytes.
fn answer(server: &Server, batch: &mut Batch, out: &mut Out<'_>) -> io::Result<()> {
    let commands = batch.take_commands();
    let mut run = router::Run::new(server, &commands);
    let mut answers = Vec::new().into_iter();
    for source in &batch.sources {
        match source {
            Source::Local(range) => out.bytes.extend_from_slice(&batch.local[range.clone()]),
            Source::Snapshot => admin::snapshot(server, &mut out.bytes),
            Source::Backup(stale) => backup::stream(server, *stale, out)?,
            Source::Stale(command) => {
                let (answer, allowance) = router::read_stale(server, command);
                out.begin(&allowance);
                out.answer(&answer)?;
            }
            Source::ForLeader => {
                if answers.len() == 0 {
                    answers = run.next().into_iter();
                }
                out.begin(run.allowance());
                match answers.next() {
                    Some(answer) => out.answer(&answer)?,
                    None => {
                        let reason = "UNKNOWN the answer was lost; the command may or may not have run";
                        resp::write_error(&mut out.bytes, reason);
                    }
                }
            }
        }
        out.relieve()?;
    }
    match batch.forwarded.take() {
        Some(commands) => router::run_forwarded(server, &commands, out),
        None => Ok(()),
    }
}
