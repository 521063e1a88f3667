//! Getting a batch of commands to the leader and its answers back.
//!
//! A command that was refused did not run and may go elsewhere; one that may have been proposed is
//! never sent twice. A batch is one proposal and, when forwarded, one request, so that it is refused
//! or taken as a whole and its order holds.

use super::node::Server;
use super::options::OnFollower;
use super::reply::{ReplyReader, Value};
use super::resp;
use super::store::{self, Reply};
use bytes::Bytes;
use raft_io::driver::{LeaderHint, RequestError};
use std::io::{self, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// How often a waiting batch looks for a leader.
const LOOK_AGAIN: Duration = Duration::from_millis(25);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// One answer, ready to be written.
pub(crate) enum Answer {
    Reply(Reply),
    Error(String),
    /// As another node wrote it: this many bytes of [`Answers::raw`].
    Raw(usize),
}

/// Answers in the order of their commands.
#[derive(Default)]
pub(crate) struct Answers {
    list: Vec<Answer>,
    raw: Vec<u8>,
}

impl Answers {
    fn errors(count: usize, message: &str) -> Self {
        Self { list: (0..count).map(|_| Answer::Error(message.to_owned())).collect(), raw: Vec::new() }
    }

    /// Gives each answer to a caller that writes it.
    pub(crate) fn writers(&self) -> impl Iterator<Item = impl FnOnce(&mut Vec<u8>) + use<'_>> {
        let mut raw = self.raw.as_slice();
        self.list.iter().map(move |answer| {
            let mut own: &[u8] = &[];
            if let Answer::Raw(length) = answer {
                (own, raw) = raw.split_at(*length);
            }
            move |out: &mut Vec<u8>| match answer {
                Answer::Reply(reply) => reply.write(out),
                Answer::Error(message) => resp::write_error(out, message),
                Answer::Raw(_) => out.extend_from_slice(own),
            }
        })
    }
}

/// What became of one attempt.
enum Attempt {
    Answered(Answers),
    /// Nothing ran. Where to go next, if known.
    Refused(Option<LeaderHint>),
}

/// A connection's way to the leader.
#[derive(Default)]
pub(crate) struct Router {
    upstream: Option<(String, ReplyReader)>,
}

impl Router {
    /// Runs a batch for a client of this node.
    pub(crate) fn run(&mut self, server: &Server, commands: &[Bytes]) -> Answers {
        let deadline = Instant::now() + server.settings.leader_wait;
        loop {
            let hint = match propose(server, commands) {
                Attempt::Answered(answers) => return answers,
                Attempt::Refused(hint) => hint,
            };
            let elsewhere = hint.filter(|hint| hint.id != server.raft.id()).and_then(|hint| hint.client_address);
            if let Some(address) = elsewhere {
                if server.settings.options.on_follower == OnFollower::Moved {
                    return moved(commands, &address);
                }
                match self.forward(server, &address, commands) {
                    Attempt::Answered(answers) => return answers,
                    Attempt::Refused(_) => {}
                }
            }
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                return Answers::errors(commands.len(), "CLUSTERDOWN no leader; the command did not run");
            }
            await_change(server, remaining.min(LOOK_AGAIN));
        }
    }

    /// Hands a batch to the node at `address`.
    fn forward(&mut self, server: &Server, address: &str, commands: &[Bytes]) -> Attempt {
        let Ok(upstream) = self.connect(server, address) else { return Attempt::Refused(None) };
        let mut request = Vec::new();
        resp::write_array(&mut request, commands.len() + 1);
        resp::write_bulk(&mut request, b"RAFT.FORWARD");
        commands.iter().for_each(|command| resp::write_bulk(&mut request, command));
        if upstream.stream().write_all(&request).is_err() {
            // The request did not leave as a whole, and a part of one never runs.
            self.upstream = None;
            return Attempt::Refused(None);
        }
        match receive(upstream, commands.len()) {
            Ok(attempt) => attempt,
            Err(error) => {
                self.upstream = None;
                let message = format!("UNKNOWN lost node at {address} ({error}); the command may or may not have run");
                Attempt::Answered(Answers::errors(commands.len(), &message))
            }
        }
    }

    fn connect(&mut self, server: &Server, address: &str) -> io::Result<&mut ReplyReader> {
        // A leader that died since the last batch is found out here, before anything is sent.
        let usable = self.upstream.as_ref().is_some_and(|(known, reader)| known == address && is_open(reader));
        if !usable {
            self.upstream = None;
            let mut last = io::Error::from(io::ErrorKind::NotFound);
            for resolved in address.to_socket_addrs()? {
                match TcpStream::connect_timeout(&resolved, CONNECT_TIMEOUT) {
                    Ok(stream) => {
                        stream.set_nodelay(true)?;
                        stream.set_write_timeout(Some(CONNECT_TIMEOUT))?;
                        stream.set_read_timeout(Some(server.settings.result_wait + Duration::from_secs(1)))?;
                        self.upstream = Some((address.to_owned(), ReplyReader::new(stream)));
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

fn receive(upstream: &mut ReplyReader, count: usize) -> io::Result<Attempt> {
    match upstream.read_array_header()? {
        Ok(found) if found == count => {
            let mut answers = Answers::default();
            for _ in 0..count {
                let before = answers.raw.len();
                upstream.copy(&mut answers.raw)?;
                answers.list.push(Answer::Raw(answers.raw.len() - before));
            }
            Ok(Attempt::Answered(answers))
        }
        Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "it answered another number of commands")),
        Err(Value::Error(message)) if message.starts_with(NOT_LEADER) => Ok(Attempt::Refused(None)),
        Err(Value::Error(message)) => Ok(Attempt::Answered(Answers::errors(count, &message))),
        Err(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "it answered something else")),
    }
}

const NOT_LEADER: &str = "NOTLEADER";

/// Runs a batch that another node forwarded; never forwards it again. Writes one array, or one error
/// if nothing ran.
pub(crate) fn run_forwarded(server: &Server, commands: &[Bytes], out: &mut Vec<u8>) {
    match propose(server, commands) {
        Attempt::Refused(_) => resp::write_error(out, "NOTLEADER this node does not lead; nothing ran"),
        Attempt::Answered(answers) => {
            resp::write_array(out, commands.len());
            answers.writers().for_each(|write| write(out));
        }
    }
}

/// Proposes a batch on this node and waits for all of it.
fn propose(server: &Server, commands: &[Bytes]) -> Attempt {
    let deadline = Instant::now() + server.settings.result_wait;
    let proposals = server.raft.propose_batch(commands.to_vec());
    let mut outcomes: Vec<Result<Reply, RequestError>> = Vec::with_capacity(proposals.len());
    // The last one first: it resolves after all others, so this thread sleeps and wakes once.
    for proposal in proposals.into_iter().rev() {
        let outcome = proposal.wait(deadline.saturating_duration_since(Instant::now()));
        let outcome = outcome.map(|applied| applied.response);
        if let Err(RequestError::NotLeader { leader, .. }) = outcome {
            return Attempt::Refused(leader);
        }
        outcomes.push(outcome);
    }
    let answers = outcomes.into_iter().rev().map(|outcome| match outcome {
        Ok(reply) => Answer::Reply(reply),
        Err(error) => Answer::Error(explain(&error)),
    });
    Attempt::Answered(Answers { list: answers.collect(), raw: Vec::new() })
}

/// The first word tells a client what it may do next.
fn explain(error: &RequestError) -> String {
    match error {
        RequestError::OutcomeUnknown { .. } | RequestError::DeadlineExceeded { proposed: Some(_) } => {
            format!("UNKNOWN {error}")
        }
        RequestError::Overloaded { .. } => format!("BUSY {error}"),
        RequestError::TooLarge { .. } => format!("ERR {error}"),
        _ => format!("CLUSTERDOWN {error}"),
    }
}

fn moved(commands: &[Bytes], address: &str) -> Answers {
    let message = |command: &Bytes| format!("MOVED {} {address}", super::admin::slot(store::first_key(command)));
    Answers { list: commands.iter().map(|command| Answer::Error(message(command))).collect(), raw: Vec::new() }
}

/// Waits until this node sees another leader or term, at most `timeout`.
fn await_change(server: &Server, timeout: Duration) {
    let before = server.raft.status();
    let _ = server.raft.wait_for(timeout, |now| now.term != before.term || now.leader != before.leader);
}
