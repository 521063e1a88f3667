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
//!
//! Replies are counted before they are fetched (`replies`). A read whose reply finds no room is asked again
//! once there is room; a write that may answer much has its room before it runs.

use super::forward::Leader;
use super::node::Server;
use super::options::OnFollower;
use super::replies::{Allowance, Out, SINGLE_BYTES_MAX, SharedAllowance};
use super::resp;
use super::sessions::unwrapped;
use super::store::{self, Reply, Store};
use bytes::Bytes;
use raft_io::driver::{LeaderHint, RequestError, WaitError};
use std::io;
use std::slice;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// How often a waiting batch looks for a leader.
const LOOK_AGAIN: Duration = Duration::from_millis(25);

/// One answer, ready to be written.
pub(crate) enum Answer {
    Reply(Reply),
    Error(String),
    /// As another node wrote it, in pieces.
    Raw(Vec<Bytes>),
    /// Not fetched: the reply to a read holds so many bytes, and there was no room for it.
    NoRoom(usize),
}

impl Answer {
    /// The time for the batch is spent, and whether there is a leader is in doubt.
    fn is_lost(&self) -> bool {
        let message = match self {
            Self::Reply(_) | Self::NoRoom(_) => return false,
            Self::Error(message) => message.as_bytes(),
            Self::Raw(pieces) => pieces.first().and_then(|start| start.strip_prefix(b"-")).unwrap_or_default(),
        };
        [&b"UNKNOWN "[..], b"CLUSTERDOWN "].iter().any(|code| message.starts_with(code))
    }

    /// The same error for each of `count` commands.
    pub(crate) fn errors(count: usize, message: &str) -> Vec<Self> {
        (0..count).map(|_| Self::Error(message.to_owned())).collect()
    }

    /// About what it holds in memory.
    fn bytes(&self) -> usize {
        match self {
            Self::Reply(reply) => reply.bytes(),
            Self::Raw(pieces) => pieces.iter().map(Bytes::len).sum(),
            Self::Error(_) | Self::NoRoom(_) => 0,
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

/// A batch of a client of this node, which runs as its replies are written.
pub(crate) struct Run<'a> {
    server: &'a Server,
    /// Those that have not run.
    rest: &'a [Bytes],
    is_lost: bool,
    allowance: SharedAllowance,
}

impl<'a> Run<'a> {
    pub(crate) fn new(server: &'a Server, commands: &'a [Bytes]) -> Self {
        Self { server, rest: commands, is_lost: false, allowance: Allowance::new(&server.replies) }
    }

    /// What the answers hold that were given out last.
    pub(crate) fn allowance(&self) -> &Mutex<Allowance> {
        &self.allowance
    }

    /// The next answers: one at least, if a command has not run. Those before are written.
    pub(crate) fn next(&mut self) -> Vec<Answer> {
        let segment = first_segment(self.rest);
        self.allowance = Allowance::new(&self.server.replies);
        let answers = if self.is_lost {
            // Its client would wait for each segment anew.
            Answer::errors(segment.len(), "CLUSTERDOWN one before it got no answer; the command did not run")
        } else {
            self.run(segment)
        };
        self.is_lost |= answers.last().is_some_and(Answer::is_lost);
        self.rest = &self.rest[answers.len().min(self.rest.len())..];
        answers
    }

    /// Runs a segment, or as much from its start as there is room for.
    fn run(&mut self, segment: &[Bytes]) -> Vec<Answer> {
        let deadline = Instant::now() + self.server.settings.result_wait;
        let mut wanted = segment.iter().map(store::write_reply_bytes_max).sum();
        loop {
            if wanted > 0 {
                match self.server.replies.take(wanted, deadline) {
                    Some(room) => self.allowance = Allowance::with(room),
                    None => return Answer::errors(segment.len(), NO_ROOM_IN_TIME),
                }
            }
            let mut answers = run_segment(self.server, segment, &self.allowance);
            let lacking = answers.iter().position(|answer| matches!(answer, Answer::NoRoom(_)));
            answers.truncate(lacking.map_or(answers.len(), |at| at.max(1)));
            match answers.first() {
                Some(Answer::NoRoom(bytes)) if *bytes > SINGLE_BYTES_MAX => {
                    return vec![Answer::Error("ERR the reply is too large".into())];
                }
                Some(Answer::NoRoom(bytes)) => wanted = *bytes,
                _ => {
                    Allowance::lock(&self.allowance).keep(answers.iter().map(Answer::bytes).sum());
                    return answers;
                }
            }
        }
    }
}

/// Answers a read from this replica as it is, and what its reply holds.
pub(crate) fn read_stale(server: &Server, command: &Bytes) -> (Answer, SharedAllowance) {
    let deadline = Instant::now() + server.settings.result_wait;
    let mut allowance = Allowance::new(&server.replies);
    loop {
        match server.raft.stale_read(fetch(slice::from_ref(command), &allowance)).as_deref() {
            Ok([Answer::NoRoom(bytes)]) => match server.replies.take(*bytes, deadline) {
                Some(room) => allowance = Allowance::with(room),
                None => return (Answer::Error(NO_ROOM_IN_TIME.into()), allowance),
            },
            Ok([Answer::Reply(reply)]) => return (Answer::Reply(reply.clone()), allowance),
            Ok(_) => return (Answer::Error("ERR the read has no answer".into()), allowance),
            Err(error) => return (Answer::Error(format!("CLUSTERDOWN {error}")), allowance),
        }
    }
}

/// Whether the commands of a segment are reads.
pub(crate) fn are_reads(segment: &[Bytes]) -> bool {
    segment.first().is_some_and(|command| store::is_read(command))
}

/// The commands at the start that run together: of one kind, and a write that may answer much by itself.
fn first_segment(commands: &[Bytes]) -> &[Bytes] {
    let alone = |command: &Bytes| store::write_reply_bytes_max(command) > 0;
    commands
        .chunk_by(|one, next| store::is_read(one) == store::is_read(next) && !alone(one) && !alone(next))
        .next()
        .unwrap_or_default()
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

fn run_segment(server: &Server, commands: &[Bytes], allowance: &SharedAllowance) -> Vec<Answer> {
    let deadline = Instant::now() + server.settings.leader_wait;
    loop {
        Allowance::lock(allowance).reset();
        let (hint, may_stay) = match run_here(server, commands, allowance) {
            Attempt::Answered(answers) => return answers,
            Attempt::Refused(Refusal::Elsewhere(hint)) => (hint, true),
            // It does not lead any more, or hands over: the next leader is the one that it knows then.
            Attempt::Refused(Refusal::Stopping) => (next_leader(server), false),
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
            match server.forwarder.forward(server, &leader, commands, allowance) {
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

/// The leader, as this node knows it while it stops and after.
fn next_leader(server: &Server) -> Option<LeaderHint> {
    let stopped = || server.ending.next_leader().map(|id| LeaderHint { id, client_address: server.address_of(id) });
    server.raft.status().leader.or_else(stopped)
}

/// Answers to writes up to this size are always given.
pub(crate) const SHORT_ANSWER_BYTES: usize = 512;
/// How long a lane waits for room: others need it too.
const LANE_ROOM_WAIT: Duration = Duration::from_secs(1);
const NO_ROOM_IN_TIME: &str =
    "BUSY the replies to other clients take all the memory that replies may; the command did not run";
/// A command ran that cannot be asked again, and its reply is lost.
pub(crate) const REPLY_DROPPED: &str = "ERR the command ran, but there was no memory for its reply";
/// Tells another node that a read has not been answered, and the size of its reply.
pub(crate) const NO_ROOM: &str = "NOROOM";

/// Begins the answer to a forwarded batch of which nothing ran.
pub(crate) const NOT_LEADER: &str = "NOTLEADER";

/// Runs a batch that another node forwarded; never forwards it again. Writes one array, or one error
/// if nothing ran.
pub(crate) fn run_forwarded(server: &Server, commands: &[Bytes], out: &mut Out<'_>) -> io::Result<()> {
    let mut allowance = Allowance::new(&server.replies);
    let mut wanted = commands.iter().map(store::write_reply_bytes_max).sum::<usize>().min(SINGLE_BYTES_MAX);
    let mut deadline = Instant::now() + server.settings.result_wait;
    let answers = loop {
        if wanted > 0 {
            match server.replies.take(wanted, deadline) {
                Some(room) => allowance = Allowance::with(room),
                None => {
                    resp::write_error(&mut out.bytes, NO_ROOM_IN_TIME);
                    return Ok(());
                }
            }
        }
        match in_segments(commands, |segment| run_here(server, segment, &allowance)) {
            Attempt::Refused(_) => {
                resp::write_error(&mut out.bytes, &format!("{NOT_LEADER} this node does not lead; nothing ran"));
                return Ok(());
            }
            // Only reads have no room, and are asked again.
            Attempt::Answered(answers) => match answers.first() {
                Some(Answer::NoRoom(bytes)) if wanted == 0 && are_reads(commands) => {
                    (wanted, deadline) = (*bytes, Instant::now() + LANE_ROOM_WAIT);
                }
                _ => break answers,
            },
        }
    };
    out.begin(&allowance);
    resp::write_array(&mut out.bytes, commands.len());
    for (position, (answer, command)) in answers.iter().zip(commands).enumerate() {
        let admitted = store::is_read(command)
            || answer.bytes() <= SHORT_ANSWER_BYTES
            || Allowance::lock(&allowance).admit(answer.bytes(), position == 0);
        if admitted { out.answer(answer)? } else { resp::write_error(&mut out.bytes, REPLY_DROPPED) }
    }
    out.flush()
}

/// Tells another node that a read has no answer yet.
pub(crate) fn write_no_room(out: &mut Vec<u8>, bytes: usize) {
    resp::write_error(out, &format!("{NO_ROOM} {bytes} bytes of reply found no room; ask for less at a time"));
}

/// Runs a segment on this node, if it leads, or may read without.
fn run_here(server: &Server, commands: &[Bytes], allowance: &SharedAllowance) -> Attempt {
    if are_reads(commands) { read(server, commands, allowance) } else { propose(server, commands) }
}

/// Looks for the replies to these reads, and takes those that may be held.
fn fetch(commands: &[Bytes], allowance: &SharedAllowance) -> impl FnOnce(&Store) -> Vec<Answer> + Send + use<> {
    let (asked, allowance) = (commands.to_vec(), Arc::clone(allowance));
    move |store| {
        let mut allowance = Allowance::lock(&allowance);
        let answer = |(position, command): (usize, &Bytes)| {
            let reply = store.read(command);
            let bytes = reply.bytes();
            if allowance.admit(bytes, position == 0) { Answer::Reply(reply) } else { Answer::NoRoom(bytes) }
        };
        asked.iter().enumerate().map(answer).collect()
    }
}

/// Looks once for all of them.
fn read(server: &Server, commands: &[Bytes], allowance: &SharedAllowance) -> Attempt {
    let look = || fetch(commands, allowance);
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
        Ok(answers) => Attempt::Answered(answers),
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
