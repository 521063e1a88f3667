//! The road of a proposal: admitted, held while the log is busy, appended, committed.

use super::error::{Limit, NotLeaderReason, RequestError};
use super::node::{Completer, Node, State, Waiting};
use super::obstacles::ALWAYS_TAKEN_BYTES;
use super::raft::StateMachine;
use super::slot::slot;
use super::sync::atomic::Ordering;
use super::sync::lock;
use crate::error::{ProposeError, StepError};
use crate::event::Event;
use crate::log::SharedLog;
use crate::transport::RaftTransport;
use crate::types::{Entry, EntryId};
use bytes::Bytes;
use std::iter;
use std::vec::Vec;

/// Commands that are appended together or refused together, each with its proposer.
pub(super) struct Held<R> {
    first: (Bytes, Completer<R>),
    /// Does not allocate when there is but one command.
    rest: Vec<(Bytes, Completer<R>)>,
}

/// A proposal in this node's log.
pub(super) struct Appended<R> {
    pub(super) id: EntryId,
    pub(super) completer: Completer<R>,
}

impl<R> Held<R> {
    pub(super) fn len(&self) -> usize {
        1 + self.rest.len()
    }

    fn size_bytes(&self) -> usize {
        self.commands().map(size_bytes).sum()
    }

    fn commands(&self) -> impl Iterator<Item = &Bytes> {
        iter::once(&self.first).chain(&self.rest).map(|(command, _)| command)
    }

    fn completers(&self) -> impl Iterator<Item = &Completer<R>> {
        iter::once(&self.first).chain(&self.rest).map(|(_, completer)| completer)
    }

    pub(super) fn into_completers(self) -> impl Iterator<Item = Completer<R>> {
        self.into_parts().map(|(_, completer)| completer)
    }

    fn into_parts(self) -> impl Iterator<Item = (Bytes, Completer<R>)> {
        iter::once(self.first).chain(self.rest)
    }
}

/// A command's size as limits count it, in bytes.
fn size_bytes(command: &Bytes) -> usize {
    Entry::OVERHEAD_BYTES + command.len()
}

impl<M: StateMachine, L: SharedLog, T: RaftTransport> Node<M, L, T> {
    pub(super) fn propose_one(&self, command: Bytes) -> Result<Waiting<M::Response>, RequestError> {
        self.check_size(&command)?;
        if command.len() > ALWAYS_TAKEN_BYTES {
            self.check_voters(command.len())?;
        }
        let (completer, completion) = slot();
        self.submit(Held { first: (command, completer), rest: Vec::new() })?;
        Ok(completion)
    }

    pub(super) fn propose_many(&self, commands: Vec<Bytes>) -> Result<Vec<Waiting<M::Response>>, RequestError> {
        let largest = commands.iter().map(Bytes::len).max().unwrap_or(0);
        if largest > ALWAYS_TAKEN_BYTES && largest <= self.command_bytes_max {
            self.check_voters(largest)?;
        }
        let mut completions = Vec::with_capacity(commands.len());
        let mut parts = Vec::with_capacity(commands.len());
        for command in commands {
            self.check_size(&command)?;
            let (completer, completion) = slot();
            parts.push((command, completer));
            completions.push(completion);
        }
        let mut parts = parts.into_iter();
        if let Some(first) = parts.next() {
            self.submit(Held { first, rest: parts.collect() })?;
        }
        Ok(completions)
    }

    fn check_size(&self, command: &Bytes) -> Result<(), RequestError> {
        let (bytes, limit_bytes) = (command.len(), self.command_bytes_max);
        if bytes > limit_bytes { Err(RequestError::TooLarge { bytes, limit_bytes }) } else { Ok(()) }
    }

    /// A command that one of the voters would not take is refused: whatever the others take, it could be they who fail next.
    fn check_voters(&self, bytes: usize) -> Result<(), RequestError> {
        match self.narrowest_voter() {
            Some((peer, limit_bytes)) if bytes > limit_bytes => {
                lock(&self.state).counters.commands_refused += 1;
                Err(RequestError::TooLargeForPeer { peer, bytes, limit_bytes })
            }
            _ => Ok(()),
        }
    }

    /// Admits and appends, or holds until the log is idle.
    fn submit(&self, held: Held<M::Response>) -> Result<(), RequestError> {
        let mut state = lock(&self.state);
        if let Err(mut error) = self.admit(&state, &held) {
            state.counters.commands_refused += held.len() as u64;
            drop(state);
            self.name_leader(&mut error);
            return Err(error);
        }
        self.open.fetch_add(held.len(), Ordering::SeqCst);
        state.held_bytes += held.size_bytes();
        state.held.push_back(held);
        // A write of its own would wait for the one in progress anyway: with others it is cheaper.
        if state.protocol.writes_in_flight() == 0 {
            self.append_held(&mut state);
        }
        self.release(state);
        Ok(())
    }

    fn admit(&self, state: &State<M>, held: &Held<M::Response>) -> Result<(), RequestError> {
        admit_request(state)?;
        // What is alone is always let through: the limits are for what piles up.
        let (open, max) = (self.open.load(Ordering::SeqCst), self.options.proposals_max);
        if open > 0 && open + held.len() > max {
            return Err(RequestError::Overloaded { limit: Limit::Proposals { open, max } });
        }
        let uncommitted_bytes = state.protocol.uncommitted_bytes() + state.held_bytes;
        let proposal_bytes = held.size_bytes();
        let limit_bytes = self.write_bytes_max;
        if proposal_bytes > limit_bytes {
            return Err(RequestError::BatchTooLarge { commands: held.len(), bytes: proposal_bytes, limit_bytes });
        }
        let max_bytes = self.uncommitted_bytes_max;
        if uncommitted_bytes > 0 && uncommitted_bytes + proposal_bytes > max_bytes {
            let limit = Limit::UncommittedBytes { uncommitted_bytes, proposal_bytes, max_bytes };
            return Err(RequestError::Overloaded { limit });
        }
        Ok(())
    }

    /// Appends everything held: as one batch, one write and one message to each follower, unless that is more than the log
    /// stores in one write.
    pub(super) fn append_held(&self, state: &mut State<M>) {
        while !state.held.is_empty() {
            if state.leading.is_none() {
                let error = not_leader(state);
                state.answer_held(&error);
                return;
            }
            self.append_batch(state);
        }
    }

    /// How many of those that are held go into one write, and their bytes. None was let in that is too large by itself.
    fn next_batch(&self, state: &State<M>) -> (usize, usize) {
        if state.held_bytes <= self.write_bytes_max {
            return (state.held.len(), state.held_bytes);
        }
        let (mut count, mut bytes) = (0, 0);
        for held in &state.held {
            let more = held.size_bytes();
            if count > 0 && bytes + more > self.write_bytes_max {
                break;
            }
            (count, bytes) = (count + 1, bytes + more);
        }
        (count, bytes)
    }

    fn append_batch(&self, state: &mut State<M>) {
        let mut commands = Vec::new();
        let mut completers = Vec::new();
        let (count, bytes) = self.next_batch(state);
        state.held_bytes -= bytes;
        for held in state.held.drain(..count) {
            // One proposer of a batch that gave up in time cancels the whole batch.
            let begun = held.completers().all(Completer::begin);
            for (command, completer) in held.into_parts() {
                if begun {
                    commands.push(command);
                    completers.push(completer);
                } else {
                    state.answers.push((completer, Err(RequestError::DeadlineExceeded { proposed: None })));
                }
            }
        }
        let count = commands.len() as u64;
        let event = match commands.len() {
            0 => return,
            1 => Event::Propose(commands.swap_remove(0)),
            _ => Event::ProposeBatch(commands),
        };
        let error = match self.step(state, event) {
            Ok(Some(first)) => {
                state.counters.commands_proposed += count;
                for (offset, completer) in completers.into_iter().enumerate() {
                    let id = EntryId { index: first.index.plus(offset), term: first.term };
                    completer.note(id);
                    state.appended.push_back(Appended { id, completer });
                }
                return;
            }
            // The step broke down, and nothing of it left the node.
            Ok(None) => state.fatal().map_or(RequestError::Shutdown, |reason| RequestError::Fatal { reason }),
            Err(error) => refusal(state, error),
        };
        state.counters.commands_refused += count;
        state.answers.extend(completers.into_iter().map(|completer| (completer, Err(error.clone()))));
    }
}

/// What every request needs, whatever it asks for: a node that works and leads.
pub(super) fn admit_request<M: StateMachine>(state: &State<M>) -> Result<(), RequestError> {
    admit_anywhere(state)?;
    if state.leading.is_none() { Err(not_leader(state)) } else { Ok(()) }
}

/// What every request needs, whoever leads.
pub(super) fn admit_anywhere<M: StateMachine>(state: &State<M>) -> Result<(), RequestError> {
    if let Some(reason) = state.fatal() {
        return Err(RequestError::Fatal { reason });
    }
    if state.draining {
        return Err(RequestError::Shutdown);
    }
    Ok(())
}

pub(super) fn not_leader<M: StateMachine>(state: &State<M>) -> RequestError {
    let leader = state.protocol.leader();
    let reason = if leader.is_some() { NotLeaderReason::Follower } else { NotLeaderReason::NoLeader };
    // The address is looked up when the lock is released.
    let leader = leader.map(|id| super::error::LeaderHint { id, client_address: None });
    RequestError::NotLeader { leader, term: state.protocol.term(), reason }
}

fn refusal<M: StateMachine>(state: &State<M>, error: StepError) -> RequestError {
    match error {
        StepError::Propose(ProposeError::Overloaded { uncommitted_bytes, proposal_bytes, limit_bytes }) => {
            RequestError::Overloaded {
                limit: Limit::UncommittedBytes { uncommitted_bytes, proposal_bytes, max_bytes: limit_bytes },
            }
        }
        // The address is looked up when the lock is released.
        StepError::Propose(ProposeError::TransferInProgress { target, term }) => RequestError::TransferInProgress {
            target: super::error::LeaderHint { id: target, client_address: None },
            term,
        },
        StepError::Propose(ProposeError::TooLarge { bytes, limit_bytes }) => {
            RequestError::TooLarge { bytes, limit_bytes }
        }
        StepError::Propose(ProposeError::BatchTooLarge { commands, bytes, limit_bytes }) => {
            RequestError::BatchTooLarge { commands, bytes, limit_bytes }
        }
        _ => not_leader(state),
    }
}
