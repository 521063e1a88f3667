//! Getting a batch of commands to the leader and its answers back.
//!
//! Writes go through the log, reads do not. So a batch runs in segments, each of one kind, one after
//! the other: a read sees the writes before it and none behind it. A segment of writes is one
//! proposal, a segment of reads one look at the leader's state machine, and either is one request when
//! forwarded: it is refused or taken as a whole and its order holds. With --follower-reads the look is at
//! this node's own state machine, and reads stay here.
//!
//! A command that was refused did not run and may go elsewhere: whoever refuses it, this node or the one
//! it was forwarded to, it is tried again until --leader-wait-ms is over. A write that may have been
//! proposed is never sent twice. A read has no effect, so it is tried again until somebody answers it.

use super::forward::Leader;
use super::node::Server;
use super::options::OnFollower;
use super::resp;
use super::sessions::unwrapped;
use super::store::{self, Reply, Store};
use bytes::Bytes;
use raft_io::driver::{LeaderHint, RequestError, WaitError};
use std::thread;
use std::time::{Duration, Instant};

/// How often a waiting batch looks for a leader.
const LOOK_AGAIN: Duration = Duration::from_millis(25);

/// One answer, ready to be written.
pub(crate) enum Answer {
    Reply(Reply),
    Error(String),
    /// As another node wrote it.
    Raw(Bytes),
}

impl Answer {
    /// The time for the batch is spent, and whether there is a leader is in doubt.
    fn is_lost(&self) -> bool {
        let message = match self {
            Self::Reply(_) => return false,
            Self::Error(message) => message.as_bytes(),
            Self::Raw(bytes) => bytes.strip_prefix(b"-").unwrap_or_default(),
        };
        [&b"UNKNOWN "[..], b"CLUSTERDOWN "].iter().any(|code| message.starts_with(code))
    }

    /// The same error for each of `count` commands.
    pub(crate) fn errors(count: usize, message: &str) -> Vec<Self> {
        (0..count).map(|_| Self::Error(message.to_owned())).collect()
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Reply(reply) => reply.write(out),
            Self::Error(message) => resp::write_error(out, message),
            Self::Raw(bytes) => out.extend_from_slice(bytes),
        }
    }
}

/// What became of one attempt.
pub(crate) enum Attempt {
    /// One answer for each command.
    Answered(Vec<Answer>),
    /// Nothing ran, and the same commands can be asked again.
    Refused(Refusal),
}

/// Why nothing ran.
pub(crate) enum Refusal {
    /// Another node leads, or soon will. Where to go next, if known.
    Elsewhere(Option<LeaderHint>),
    /// This node was told to stop and takes no requests any more; others do.
    Stopping,
    /// This node has stopped for good, with this message.
    Stopped(String),
}

impl Refusal {
    /// Another node leads, and which one will show.
    pub(crate) const SOMEWHERE: Self = Self::Elsewhere(None);
}

/// Runs a batch for a client of this node.
pub(crate) fn run(server: &Server, commands: &[Bytes]) -> Vec<Answer> {
    match in_segments(commands, |segment| Attempt::Answered(run_segment(server, segment))) {
        Attempt::Answered(answers) => answers,
        Attempt::Refused(_) => Vec::new(),
    }
}

/// Whether the commands of a segment are reads.
pub(crate) fn are_reads(segment: &[Bytes]) -> bool {
    segment.first().is_some_and(|command| store::is_read(command))
}

/// Runs a batch segment by segment. It is refused if the first one is. Behind commands without an
/// answer nothing runs: their clients would wait for each segment anew.
fn in_segments(commands: &[Bytes], mut run: impl FnMut(&[Bytes]) -> Attempt) -> Attempt {
    let mut answers: Vec<Answer> = Vec::with_capacity(commands.len());
    for segment in commands.chunk_by(|one, next| store::is_read(one) == store::is_read(next)) {
        let count = segment.len();
        if answers.last().is_some_and(Answer::is_lost) {
            answers.extend(Answer::errors(count, "CLUSTERDOWN one before it got no answer; the command did not run"));
            continue;
        }
        match run(segment) {
            Attempt::Answered(part) => answers.extend(part),
            Attempt::Refused(refusal) if answers.is_empty() => return Attempt::Refused(refusal),
            Attempt::Refused(_) => {
                answers.extend(Answer::errors(count, "CLUSTERDOWN the leader changed; the command did not run"));
            }
        }
    }
    Attempt::Answered(answers)
}

fn run_segment(server: &Server, commands: &[Bytes]) -> Vec<Answer> {
    let deadline = Instant::now() + server.settings.leader_wait;
    loop {
        let (hint, may_stay) = match run_here(server, commands) {
            Attempt::Answered(answers) => return answers,
            Attempt::Refused(Refusal::Elsewhere(hint)) => (hint, true),
            // It does not lead any more, or hands over: the next leader is the one that it knows then.
            Attempt::Refused(Refusal::Stopping) => (server.raft.status().leader, false),
            Attempt::Refused(Refusal::Stopped(message)) => {
                return Answer::errors(commands.len(), &format!("CLUSTERDOWN {message}"));
            }
        };
        let stays = may_stay && server.settings.options.follower_reads && are_reads(commands);
        let elsewhere = hint.filter(|hint| hint.id != server.raft.id() && !stays);
        let elsewhere = elsewhere.and_then(|hint| Some(Leader { id: hint.id, address: hint.client_address? }));
        // A node that has stopped hears of no further leader.
        let is_hopeless = elsewhere.is_none() && server.ending.is_closing();
        if let Some(leader) = elsewhere {
            if server.settings.options.on_follower == OnFollower::Moved {
                return moved(commands, &leader.address);
            }
            match server.forwarder.forward(server, &leader, commands) {
                Attempt::Answered(answers) => return answers,
                Attempt::Refused(_) => {}
            }
        }
        let remaining = deadline.saturating_duration_since(Instant::now());
        if is_hopeless {
            return Answer::errors(commands.len(), "CLUSTERDOWN this node stops; the command did not run");
        }
        if remaining.is_zero() {
            return Answer::errors(commands.len(), "CLUSTERDOWN no leader; the command did not run");
        }
        await_change(server, remaining.min(LOOK_AGAIN));
    }
}

/// What the answers to a forwarded batch may hold together, in bytes.
const FORWARDED_BYTES_MAX: usize = 64 << 20;
/// Answers up to this size are always given.
const SHORT_ANSWER_BYTES: usize = 512;

/// Begins the answer to a forwarded batch of which nothing ran.
pub(crate) const NOT_LEADER: &str = "NOTLEADER";

/// Runs a batch that another node forwarded; never forwards it again. Writes one array, or one error
/// if nothing ran.
pub(crate) fn run_forwarded(server: &Server, commands: &[Bytes], out: &mut Vec<u8>) {
    match in_segments(commands, |segment| run_here(server, segment)) {
        Attempt::Refused(_) => resp::write_error(out, "NOTLEADER this node does not lead; nothing ran"),
        Attempt::Answered(answers) => {
            resp::write_array(out, commands.len());
            answers.iter().for_each(|answer| write_forwarded(answer, out));
        }
    }
}

/// Writes an answer that another node will hold in memory together with the rest of its batch. A large
/// one that no longer fits is left out, and says that its command ran.
fn write_forwarded(answer: &Answer, out: &mut Vec<u8>) {
    let start = out.len();
    answer.write(out);
    if out.len() > FORWARDED_BYTES_MAX && out.len() - start > SHORT_ANSWER_BYTES {
        out.truncate(start);
        resp::write_error(out, "ERR the command ran, but the replies exceed 64 MiB; ask for less at a time");
    }
}

/// Runs a segment on this node, if it leads, or may read without.
fn run_here(server: &Server, commands: &[Bytes]) -> Attempt {
    if are_reads(commands) { read(server, commands) } else { propose(server, commands) }
}

/// Looks once for all of them.
fn read(server: &Server, commands: &[Bytes]) -> Attempt {
    let look = || {
        let asked = commands.to_vec();
        move |store: &Store| asked.iter().map(|command| store.read(command)).collect::<Vec<_>>()
    };
    let (options, patience) = (&server.settings.options, server.settings.result_wait);
    let outcome = if options.follower_reads && options.lease_ticks.is_none() {
        server.raft.follower_read(look()).wait(patience)
    } else {
        // Without --lease-ticks this asks, as every read does.
        match server.raft.lease_read(look()).wait(patience) {
            Err(RequestError::NotLeader { .. }) if options.follower_reads => {
                server.raft.follower_read(look()).wait(patience)
            }
            outcome => outcome,
        }
    };
    match outcome {
        Ok(replies) => Attempt::Answered(replies.into_iter().map(Answer::Reply).collect()),
        Err(error) => refused(&error)
            .map_or_else(|| Attempt::Answered(Answer::errors(commands.len(), &explain(&error))), Attempt::Refused),
    }
}

/// Whether a node refused this because it does not lead or will not any more: then nothing was appended, and it can be asked
/// again. Too much work, or a command that is too large, is no such reason.
fn refused(error: &RequestError) -> Option<Refusal> {
    match error {
        RequestError::NotLeader { leader, .. } => Some(Refusal::Elsewhere(leader.clone())),
        // Its target leads in a moment, or this node takes commands again: where to go shows then.
        RequestError::TransferInProgress { .. } => Some(Refusal::SOMEWHERE),
        RequestError::Shutdown => Some(Refusal::Stopping),
        RequestError::Fatal { .. } => Some(Refusal::Stopped(error.to_string())),
        _ => None,
    }
}

/// Proposes commands on this node and waits for all of them.
fn propose(server: &Server, commands: &[Bytes]) -> Attempt {
    let deadline = Instant::now() + server.settings.result_wait;
    let proposals = server.raft.propose_batch(commands.to_vec());
    let mut outcomes: Vec<Result<Reply, RequestError>> = Vec::with_capacity(proposals.len());
    // The last one first: it resolves after all others, so this thread sleeps and wakes once.
    for proposal in proposals.into_iter().rev() {
        let outcome = proposal.wait(deadline.saturating_duration_since(Instant::now()));
        let outcome = outcome.map(|applied| applied.response);
        // They are appended together or refused together.
        if let Some(refusal) = outcome.as_ref().err().and_then(refused) {
            return Attempt::Refused(refusal);
        }
        outcomes.push(outcome);
    }
    let answers = outcomes.into_iter().rev().map(|outcome| match outcome {
        Ok(reply) => Answer::Reply(reply),
        Err(error) => Answer::Error(explain(&error)),
    });
    Attempt::Answered(answers.collect())
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

fn moved(commands: &[Bytes], address: &str) -> Vec<Answer> {
    let message =
        |command: &Bytes| format!("MOVED {} {address}", super::admin::slot(store::first_key(&unwrapped(command))));
    commands.iter().map(|command| Answer::Error(message(command))).collect()
}

/// Waits until this node sees another leader or term, at most `timeout`.
fn await_change(server: &Server, timeout: Duration) {
    let before = server.raft.status();
    let changed = server.raft.wait_for(timeout, |now| now.term != before.term || now.leader != before.leader);
    if matches!(changed, Err(WaitError::Shutdown | WaitError::Fatal { .. })) {
        // Nothing changes here any more, but the node that was asked may.
        thread::sleep(timeout);
    }
}
