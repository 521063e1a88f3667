//! Getting a batch of commands to the leader and its answers back.
//!
//! A command that was refused did not run and may go elsewhere; one that may have been proposed is
//! never sent twice. A batch is one proposal and, when forwarded, one request, so that it is refused
//! or taken as a whole and its order holds.

use super::forward::Leader;
use super::node::Server;
use super::options::OnFollower;
use super::resp;
use super::store::{self, Reply};
use bytes::Bytes;
use raft_io::driver::{LeaderHint, RequestError};
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
    /// Nothing ran. Where to go next, if known.
    Refused(Option<LeaderHint>),
}

/// Runs a batch for a client of this node.
pub(crate) fn run(server: &Server, commands: &[Bytes]) -> Vec<Answer> {
    let deadline = Instant::now() + server.settings.leader_wait;
    loop {
        let hint = match propose(server, commands) {
            Attempt::Answered(answers) => return answers,
            Attempt::Refused(hint) => hint,
        };
        let elsewhere = hint.filter(|hint| hint.id != server.raft.id());
        let elsewhere = elsewhere.and_then(|hint| Some(Leader { id: hint.id, address: hint.client_address? }));
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
    match propose(server, commands) {
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
    let message = |command: &Bytes| format!("MOVED {} {address}", super::admin::slot(store::first_key(command)));
    commands.iter().map(|command| Answer::Error(message(command))).collect()
}

/// Waits until this node sees another leader or term, at most `timeout`.
fn await_change(server: &Server, timeout: Duration) {
    let before = server.raft.status();
    let _ = server.raft.wait_for(timeout, |now| now.term != before.term || now.leader != before.leader);
}
