//! Handing batches to the leader for the clients of a node that does not lead.
//!
//! The node keeps a few connections to the leader, its *lanes*. A client's thread that finds a lane
//! free sends its batch at once. Otherwise it queues, and whoever is done with a lane passes it to the
//! first in the queue, who sends for all that have gathered: the busier, the larger the requests, and
//! no thread is woken for nothing. Batches of different clients become one proposal, in which each
//! keeps its order, or one read: a read among writes would wait for a sync, and they for it.

use super::node::{NO_THREAD, Server, TOO_MANY_CLIENTS};
use super::replies::{Allowance, SharedAllowance};
use super::reply::{ReplyReader, Value};
use super::resp;
use super::router::{self, Answer, Attempt, NO_ROOM, NOT_LEADER, REPLY_DROPPED, Refusal, SHORT_ANSWER_BYTES};
use bytes::Bytes;
use raft_io::NodeId;
use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How many connections a node keeps to the leader.
pub(crate) const LANES: usize = 4;
/// The command that hands over a batch.
pub(crate) const REQUEST_NAME: &[u8] = b"RAFT.FORWARD";
/// What several batches may hold together; a single one may be larger.
const GROUP_COMMANDS_MAX: usize = 1024;
const GROUP_BYTES_MAX: usize = 1 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a leader that was replaced may take for the replies that it owes: one that handed over has them all.
const REPLACED_WAIT: Duration = Duration::from_secs(1);
/// How often a thread that waits for the leader's reply looks whether it still leads.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Where to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leader {
    pub(crate) id: NodeId,
    pub(crate) address: String,
}

/// The lanes of a node and the queue for them.
pub(crate) struct Forwarder {
    state: Mutex<State>,
}

struct State {
    free: Vec<Lane>,
    queue: VecDeque<Queued>,
}

/// A batch, reads or writes, that waits for a lane.
struct Queued {
    batch: Batch,
    wake: SyncSender<Wake>,
}

/// Commands of one client, and what their replies may hold.
struct Batch {
    commands: Vec<Bytes>,
    allowance: SharedAllowance,
    /// It has taken room for large replies, which those of others must not fill up.
    is_alone: bool,
}

/// What a queued thread wakes up to.
enum Wake {
    /// Somebody sent its batch.
    Done(Attempt),
    /// It is its turn to send, its own batch first.
    Send(Lane, Batch),
}

impl Forwarder {
    pub(crate) fn new() -> Self {
        let free = (0..LANES).map(|_| Lane::default()).collect();
        Self { state: Mutex::new(State { free, queue: VecDeque::new() }) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a batch to the leader, alone or with those of other clients.
    pub(crate) fn forward(
        &self,
        server: &Server,
        leader: &Leader,
        commands: &[Bytes],
        allowance: &SharedAllowance,
    ) -> Attempt {
        let is_alone = Allowance::lock(allowance).has_room();
        let batch = Batch { commands: commands.to_vec(), allowance: Arc::clone(allowance), is_alone };
        let mut state = self.lock();
        let (mut lane, own) = match state.free.pop() {
            Some(lane) => (lane, batch),
            None => {
                let (wake, woken) = sync_channel(1);
                state.queue.push_back(Queued { batch, wake });
                drop(state);
                match woken.recv() {
                    Ok(Wake::Done(attempt)) => return attempt,
                    Ok(Wake::Send(lane, own)) => {
                        state = self.lock();
                        (lane, own)
                    }
                    // Only a panic of the sending thread loses a sender. Nobody knows how far it came.
                    Err(_) => return lost("the forwarding thread broke down", commands),
                }
            }
        };
        let group = state.take_group(&own);
        drop(state);
        let all: Vec<&Batch> = std::iter::once(&own).chain(group.iter().map(|queued| &queued.batch)).collect();
        let attempt = lane.send(server, leader, &all);
        self.release(lane);
        distribute(attempt, own.commands.len(), group)
    }

    /// Passes a lane to the first in the queue.
    fn release(&self, lane: Lane) {
        let mut state = self.lock();
        match state.queue.pop_front() {
            None => state.free.push(lane),
            Some(Queued { batch, wake }) => {
                drop(state);
                // The thread waits in `recv`, so this neither fails nor blocks.
                let _ = wake.send(Wake::Send(lane, batch));
            }
        }
    }
}

impl State {
    /// Takes as many queued batches of the same kind as fit into one request with `own`.
    fn take_group(&mut self, own: &Batch) -> Vec<Queued> {
        let bytes = |batch: &Batch| batch.commands.iter().map(Bytes::len).sum::<usize>();
        let (mut count, mut size) = (own.commands.len(), bytes(own));
        let (mut group, mut rest) = (Vec::new(), VecDeque::new());
        let mut full = own.is_alone;
        for next in self.queue.drain(..) {
            let same_kind = router::are_reads(&next.batch.commands) == router::are_reads(&own.commands);
            if full || next.batch.is_alone || !same_kind {
                rest.push_back(next);
                continue;
            }
            count += next.batch.commands.len();
            size += bytes(&next.batch);
            full = count > GROUP_COMMANDS_MAX || size > GROUP_BYTES_MAX;
            if full { rest.push_back(next) } else { group.push(next) }
        }
        self.queue = rest;
        group
    }
}

/// Gives each batch of a group its part of the outcome, and returns that of the sender.
fn distribute(attempt: Attempt, own_count: usize, group: Vec<Queued>) -> Attempt {
    let mut rest = match attempt {
        Attempt::Answered(answers) => answers,
        Attempt::Refused(_) => {
            for queued in group {
                let _ = queued.wake.send(Wake::Done(Attempt::Refused(Refusal::SOMEWHERE)));
            }
            return Attempt::Refused(Refusal::SOMEWHERE);
        }
    };
    let mut others = rest.split_off(own_count);
    for queued in group {
        let rest = others.split_off(queued.batch.commands.len());
        let part = std::mem::replace(&mut others, rest);
        let _ = queued.wake.send(Wake::Done(Attempt::Answered(part)));
    }
    Attempt::Answered(rest)
}

/// A connection to the leader, or to who it was when it was last needed.
#[derive(Default)]
struct Lane {
    upstream: Option<(Leader, ReplyReader)>,
}

impl Lane {
    fn send(&mut self, server: &Server, leader: &Leader, batches: &[&Batch]) -> Attempt {
        let Ok(upstream) = self.connect(server, leader) else { return Attempt::Refused(Refusal::SOMEWHERE) };
        let commands = || batches.iter().flat_map(|batch| &batch.commands);
        let mut request = Vec::new();
        resp::write_array(&mut request, commands().count() + 1);
        resp::write_bulk(&mut request, REQUEST_NAME);
        commands().for_each(|command| resp::write_bulk(&mut request, command));
        if upstream.stream().write_all(&request).is_err() {
            // The request did not leave as a whole, and a part of one never runs.
            self.upstream = None;
            return Attempt::Refused(Refusal::SOMEWHERE);
        }
        match receive(upstream, batches) {
            Ok(attempt) => attempt,
            Err(error) => {
                self.upstream = None;
                let commands: Vec<Bytes> = commands().cloned().collect();
                lost(&format!("lost node {} at {} ({error})", leader.id, leader.address), &commands)
            }
        }
    }

    fn connect(&mut self, server: &Server, leader: &Leader) -> io::Result<&mut ReplyReader> {
        // A leader that died since the last batch is found out here, before anything is sent.
        let usable = self.upstream.as_ref().is_some_and(|(known, reader)| known == leader && is_open(reader));
        if !usable {
            self.upstream = None;
            let mut last = io::Error::from(io::ErrorKind::NotFound);
            for resolved in leader.address.to_socket_addrs()? {
                match TcpStream::connect_timeout(&resolved, CONNECT_TIMEOUT) {
                    Ok(stream) => {
                        stream.set_nodelay(true)?;
                        stream.set_write_timeout(Some(CONNECT_TIMEOUT))?;
                        stream.set_read_timeout(Some(LOOK_AGAIN))?;
                        let reader = ReplyReader::new(stream).keep_waiting(patience(server, leader.id));
                        self.upstream = Some((leader.clone(), reader));
                        break;
                    }
                    Err(error) => last = error,
                }
            }
            if self.upstream.is_none() {
                return Err(last);
            }
        }
        self.upstream.as_mut().map(|(_, reader)| reader).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

/// Waits for a reply as long as `node` may still give one: not beyond the time that a command may
/// take, and once another node leads only for the reply that may be on its way.
fn patience(server: &Server, node: NodeId) -> impl Fn(Instant) -> bool + Send + 'static {
    let raft = server.raft.clone();
    let longest = server.settings.result_wait + Duration::from_secs(1);
    // For the wait that began then: since when another node leads.
    let replaced: Cell<Option<(Instant, Instant)>> = Cell::new(None);
    move |since| {
        if raft.status().leader.is_none_or(|leader| leader.id == node) {
            replaced.set(None);
            return since.elapsed() < longest;
        }
        let known = replaced.get().filter(|(wait, _)| *wait == since);
        let (_, at) = known.unwrap_or_else(|| (since, Instant::now()));
        replaced.set(Some((since, at)));
        at.elapsed() < REPLACED_WAIT && since.elapsed() < longest
    }
}

/// Whether the other side has neither closed nor said anything unasked.
fn is_open(reader: &ReplyReader) -> bool {
    let stream = reader.stream();
    let peek = |stream: &TcpStream| -> io::Result<bool> {
        stream.set_nonblocking(true)?;
        let peeked = stream.peek(&mut [0]);
        stream.set_nonblocking(false)?;
        Ok(matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock))
    };
    !reader.has_unread() && peek(stream).unwrap_or(false)
}

fn receive(upstream: &mut ReplyReader, batches: &[&Batch]) -> io::Result<Attempt> {
    let count = batches.iter().map(|batch| batch.commands.len()).sum();
    match upstream.read_array_header()? {
        Ok(found) if found == count => {
            let mut answers = Vec::with_capacity(count);
            for batch in batches {
                receive_batch(upstream, batch, &mut answers)?;
            }
            // A leader of version 0.6 that stops says so to each command.
            let is_refusal = |answer: &Answer| match answer {
                Answer::Raw(reply) => {
                    reply.first().and_then(|start| start.strip_prefix(b"-")).is_some_and(says_that_nothing_ran)
                }
                _ => false,
            };
            if answers.iter().all(is_refusal) {
                return Ok(Attempt::Refused(Refusal::SOMEWHERE));
            }
            Ok(Attempt::Answered(answers))
        }
        Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "it answered another number of commands")),
        Err(Value::Error(message)) if says_that_nothing_ran(message.as_bytes()) => {
            Ok(Attempt::Refused(Refusal::SOMEWHERE))
        }
        Err(Value::Error(message)) => Ok(Attempt::Answered(Answer::errors(count, &message))),
        Err(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "it answered something else")),
    }
}

/// Reads the replies to one client's batch, and keeps those that may be held. The others are passed over, for a lane waits
/// for nobody: a read is asked again when there is room for its reply.
fn receive_batch(upstream: &mut ReplyReader, batch: &Batch, answers: &mut Vec<Answer>) -> io::Result<()> {
    let mut allowance = Allowance::lock(&batch.allowance);
    let are_reads = router::are_reads(&batch.commands);
    for position in 0..batch.commands.len() {
        let (mut reply, mut size, mut counted, mut is_kept) = (Pieces::default(), 0, 0, true);
        upstream.pass(&mut |piece| {
            size += piece.len();
            if !is_kept {
                return;
            }
            let admitted = allowance.admit(piece.len(), position == 0);
            counted += if admitted { piece.len() } else { 0 };
            is_kept = admitted || !are_reads && size <= SHORT_ANSWER_BYTES;
            if is_kept {
                reply.push(piece);
            }
        })?;
        if is_kept {
            let reply = reply.finish();
            let lacking = reply.first().and_then(|start| no_room(start)).filter(|_| are_reads);
            answers.push(lacking.map_or(Answer::Raw(reply), Answer::NoRoom));
        } else {
            allowance.take_back(counted);
            answers.push(if are_reads { Answer::NoRoom(size) } else { Answer::Error(REPLY_DROPPED.into()) });
        }
    }
    Ok(())
}

/// A reply as it arrives. In pieces, because allocators keep large blocks that were freed, each thread's for itself.
#[derive(Default)]
struct Pieces {
    full: Vec<Bytes>,
    last: Vec<u8>,
}

impl Pieces {
    const BYTES: usize = 64 << 10;

    fn push(&mut self, bytes: &[u8]) {
        if self.last.len() + bytes.len() > Self::BYTES {
            self.full.push(std::mem::take(&mut self.last).into());
            self.last.reserve_exact(Self::BYTES);
        }
        self.last.extend_from_slice(bytes);
    }

    fn finish(mut self) -> Vec<Bytes> {
        self.full.push(self.last.into());
        self.full
    }
}

/// The size of a reply for which the leader had no room.
fn no_room(reply: &[u8]) -> Option<usize> {
    let rest = reply.strip_prefix(b"-")?.strip_prefix(NO_ROOM.as_bytes())?.strip_prefix(b" ")?;
    let digits = rest.split(|byte| *byte == b' ').next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Whether an error says that nothing ran and that it can be asked again, here or elsewhere.
fn says_that_nothing_ran(message: &[u8]) -> bool {
    let codes = [NOT_LEADER, "CLUSTERDOWN "];
    codes.iter().any(|code| message.starts_with(code.as_bytes()))
        || [TOO_MANY_CLIENTS, NO_THREAD].iter().any(|known| message.trim_ascii_end() == known.as_bytes())
}

/// The reply to a request will not come. Reads may be asked anew: they have no effect.
fn lost(reason: &str, commands: &[Bytes]) -> Attempt {
    if router::are_reads(commands) {
        return Attempt::Refused(Refusal::SOMEWHERE);
    }
    let message = format!("UNKNOWN {reason}; the command may or may not have run");
    Attempt::Answered(Answer::errors(commands.len(), &message))
}
