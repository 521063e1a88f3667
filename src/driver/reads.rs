//! The road of a linearizable read: confirmed by the protocol, then answered between two applies.
//!
//! Dissertation §6.4. A read waits in three places, one after the other: for the protocol, which
//! confirms that this node still leads, or asks the leader; for the commit of the index that the protocol
//! names; on the apply thread, for the apply of that index. The end of the leader that it was put to, this
//! node or another, ends it in the first two. In the third it needs nothing but the state machine. Each
//! read goes its own way, for the indexes of two leaders need not ascend.

use super::contain::{CodePlace, Panics};
use super::error::{Limit, RequestError};
use super::inside::NodeKey;
use super::node::{Handle, Node, State};
use super::proposals::{admit_anywhere, admit_request, not_leader};
use super::raft::{StateMachine, deadline, now};
use super::slot::{self, Completer, Completion, Outcome, Wake};
use super::stopped::StopReason;
use super::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use super::sync::lock;
use crate::event::Event;
use crate::log::SharedLog;
use crate::transport::RaftTransport;
use crate::types::Index;
use std::boxed::Box;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::string::ToString;
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};
use std::vec::Vec;

/// How long the apply thread looks before it wakes the readers whose answers it has.
const TURN_MAX: Duration = Duration::from_micros(500);

/// How a read learns which index it has to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadWay {
    /// This node leads, and asks the others whether it still does.
    Leader,
    /// This node leads, and asks nobody while it has a lease.
    Lease,
    /// Whoever leads is asked.
    AnyMember,
}

/// A read under way, whatever it reads. All of it is the user's code, its end included: no method is
/// called and none is dropped under a lock of the driver.
pub(super) trait OpenRead<M>: Send {
    /// Looks, and stores what was found. `false` if the reader has given up and nobody looked.
    fn look(&mut self, machine: &M, panics: &Panics) -> bool;
    /// Stores why there is nothing to find.
    fn refuse(&mut self, error: RequestError, panics: &Panics);
    /// Wakes the reader, once its answer and those of the reads beside it are stored.
    fn wake(&mut self, panics: &Panics);
}

pub(super) type BoxedRead<M> = Box<dyn OpenRead<M>>;
/// A read that ends without a look, and why.
pub(super) type RefusedRead<M> = (BoxedRead<M>, RequestError);

/// What a reader gets; a panic of its `look` is its own.
pub(super) type Answer<R> = Result<thread::Result<R>, RequestError>;

struct Look<R, F> {
    look: Option<F>,
    completer: Option<Completer<(), Answer<R>>>,
    wake: Option<Wake<(), Answer<R>>>,
}

impl<M, R, F> OpenRead<M> for Look<R, F>
where
    R: Send,
    F: FnOnce(&M) -> R + Send,
{
    fn look(&mut self, machine: &M, panics: &Panics) -> bool {
        let (Some(look), Some(completer)) = (self.look.take(), self.completer.take()) else { return false };
        if completer.is_cancelled() {
            panics.survive(CodePlace::LookDrop, || drop(look));
            return false;
        }
        let found = catch_unwind(AssertUnwindSafe(|| look(machine)));
        // Without a reader the answer ends here.
        self.wake = panics.survive(CodePlace::AnswerDrop, || completer.complete(Ok(found))).flatten();
        true
    }

    fn refuse(&mut self, error: RequestError, panics: &Panics) {
        let look = self.look.take();
        panics.survive(CodePlace::LookDrop, || drop(look));
        let Some(completer) = self.completer.take() else { return };
        self.wake = panics.survive(CodePlace::AnswerDrop, || completer.complete(Err(error))).flatten();
    }

    fn wake(&mut self, panics: &Panics) {
        if let Some(wake) = self.wake.take() {
            panics.survive(CodePlace::Wake, || wake.wake());
        }
    }
}

/// A new read, and its reader's side.
pub(super) fn open<M, R, F>(look: F) -> (BoxedRead<M>, Completion<(), Answer<R>>)
where
    R: Send + 'static,
    F: FnOnce(&M) -> R + Send + 'static,
{
    let (completer, completion) = slot::slot();
    (Box::new(Look { look: Some(look), completer: Some(completer), wake: None }), completion)
}

/// Reads that wait for an index.
pub(super) struct ByIndex<M>(BTreeMap<Index, Vec<BoxedRead<M>>>);

impl<M> ByIndex<M> {
    pub(super) const fn new() -> Self {
        Self(BTreeMap::new())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn add(&mut self, index: Index, read: BoxedRead<M>) {
        self.0.entry(index).or_default().push(read);
    }

    pub(super) fn add_all(&mut self, reads: impl IntoIterator<Item = (Index, BoxedRead<M>)>) {
        reads.into_iter().for_each(|(index, read)| self.add(index, read));
    }

    /// Those whose index is at most `through`, ascending.
    pub(super) fn take_through(&mut self, through: Index) -> impl Iterator<Item = (Index, BoxedRead<M>)> + use<M> {
        let later = self.0.split_off(&through.next());
        let due = mem::replace(&mut self.0, later);
        due.into_iter().flat_map(|(index, reads)| reads.into_iter().map(move |read| (index, read)))
    }

    pub(super) fn take_all(&mut self) -> impl Iterator<Item = BoxedRead<M>> + use<M> {
        mem::take(&mut self.0).into_values().flatten()
    }
}

/// The reads that the lock guards.
pub(super) struct Reads<M> {
    /// The next read's context. Begins with a random number and counts up from there: an answer to what this
    /// node asked in an earlier life must find nobody.
    next_context: u64,
    /// Those that the protocol has not answered, by context.
    asked: BTreeMap<u64, BoxedRead<M>>,
    /// Confirmed, with an index that the apply thread has not been told of.
    confirmed: ByIndex<M>,
    /// Confirmed in this step and on the way to the apply thread.
    ready: Vec<(Index, BoxedRead<M>)>,
    /// The protocol told an outcome of a read that does not wait for one.
    unasked: bool,
    /// In this step the role, the term or the leader changed, or a follower missed its leader. False between steps.
    pub(super) leader_lost: bool,
    /// The last index that the apply thread was told to apply. Only grows.
    pub(super) through: Index,
    /// They end as soon as the lock is released.
    pub(super) refused: Vec<RefusedRead<M>>,
}

impl<M> Reads<M> {
    pub(super) fn new() -> Self {
        Self {
            next_context: RandomState::new().build_hasher().finish(),
            asked: BTreeMap::new(),
            confirmed: ByIndex::new(),
            ready: Vec::new(),
            unasked: false,
            leader_lost: false,
            through: Index::ZERO,
            refused: Vec::new(),
        }
    }

    /// Takes a read in. Its context.
    fn begin(&mut self, read: BoxedRead<M>) -> u64 {
        let context = self.next_context;
        self.next_context = self.next_context.wrapping_add(1);
        self.asked.insert(context, read);
        context
    }

    /// The protocol confirmed a read: its one outcome.
    pub(super) fn confirm(&mut self, context: u64, index: Index) {
        let Some(read) = self.asked.remove(&context) else {
            self.unasked = true;
            return;
        };
        if index <= self.through {
            self.ready.push((index, read));
        } else {
            self.confirmed.add(index, read);
        }
    }

    /// The protocol gave a read up, or did not take it: its one outcome.
    pub(super) fn abort(&mut self, context: u64, error: RequestError) {
        let read = self.asked.remove(&context);
        self.unasked |= read.is_none();
        self.refused.extend(read.map(|read| (read, error)));
    }

    /// After a step: each read has one outcome, here or at the leader. None that was answered is answered again, and none is
    /// left waiting for a leader that is lost: nothing would ever end it.
    fn check(&self) -> Result<(), &'static str> {
        if self.unasked {
            return Err("OneOutcomePerRead: an outcome of a read that does not wait for one");
        }
        if self.leader_lost && !self.asked.is_empty() {
            return Err("OneOutcomePerRead: a read waits for a leader that is lost");
        }
        Ok(())
    }

    /// Whoever leads next may never reach these indexes.
    fn abort_confirmed(&mut self, error: &RequestError) {
        self.refused.extend(self.confirmed.take_all().map(|read| (read, error.clone())));
    }

    /// Nothing of this will be answered here.
    pub(super) fn abort_all(&mut self, error: &RequestError) {
        let asked = mem::take(&mut self.asked).into_values();
        let ready = self.ready.drain(..).map(|(_, read)| read);
        let all = asked.chain(self.confirmed.take_all()).chain(ready);
        self.refused.extend(all.map(|read| (read, error.clone())));
    }
}

/// What became of the reads, counted outside the lock.
pub(super) struct ReadTally {
    /// Taken and not yet ended.
    pub(super) open: AtomicUsize,
    pub(super) answered: AtomicU64,
    pub(super) aborted: AtomicU64,
}

impl ReadTally {
    pub(super) fn new() -> Self {
        Self { open: AtomicUsize::new(0), answered: AtomicU64::new(0), aborted: AtomicU64::new(0) }
    }
}

impl<M: StateMachine, L: SharedLog, T: RaftTransport> Node<M, L, T> {
    /// Takes a read, and asks the protocol for its confirmation.
    pub(super) fn begin_read(&self, read: BoxedRead<M>, way: ReadWay) -> Result<(), RequestError> {
        let mut state = lock(&self.state);
        if let Err(mut error) = self.admit_read(&state, way) {
            state.counters.reads_refused += 1;
            drop(state);
            self.name_leader(&mut error);
            return Err(error);
        }
        self.reads.open.fetch_add(1, Ordering::SeqCst);
        let context = state.reads.begin(read);
        let event = match way {
            ReadWay::Leader => Event::ReadRequest { context },
            ReadWay::Lease => {
                // What the clocks say counts, and not how many ticks were noticed.
                if let Some(round) = state.leases.over() {
                    let _ = self.step(&mut state, Event::LeaseTimeout { round });
                }
                Event::LeaseReadRequest { context }
            }
            ReadWay::AnyMember => Event::FollowerReadRequest { context },
        };
        if self.step(&mut state, event).is_err() {
            let error = not_leader(&state);
            state.reads.abort(context, error);
        }
        self.release(state);
        Ok(())
    }

    fn admit_read(&self, state: &State<M>, way: ReadWay) -> Result<(), RequestError> {
        if way == ReadWay::AnyMember {
            admit_anywhere(state)?;
            if state.protocol.leader().is_none() {
                return Err(not_leader(state));
            }
        } else {
            admit_request(state)?;
        }
        let (open, max) = (self.reads.open.load(Ordering::SeqCst), self.options.reads_max);
        if open >= max { Err(RequestError::Overloaded { limit: Limit::Reads { open, max } }) } else { Ok(()) }
    }

    /// After a step: what was confirmed and is committed goes to the apply thread; the rest waits, or
    /// ends with the leader that named its index, which may never be reached without it. What was not confirmed
    /// the protocol has given up then.
    pub(super) fn settle_reads(&self, state: &mut State<M>) {
        if let Err(law) = state.reads.check() {
            state.reads.leader_lost = false;
            return self.fail(state, StopReason::Internal { message: law.to_string() });
        }
        let State { reads, wake_apply, .. } = state;
        if !reads.confirmed.is_empty() {
            let due = reads.confirmed.take_through(reads.through);
            reads.ready.extend(due);
        }
        if !reads.ready.is_empty() {
            match self.applies.post(|work| work.reads.append(&mut reads.ready)) {
                Some(asleep) => *wake_apply |= asleep,
                None => reads.abort_all(&RequestError::Shutdown),
            }
        }
        if mem::take(&mut state.reads.leader_lost) && !state.reads.confirmed.is_empty() {
            let error = not_leader(state);
            state.reads.abort_confirmed(&error);
        }
    }

    /// Answers reads whose index is applied. Called by the apply thread between two applies.
    pub(super) fn answer_reads(&self, machine: &M, reads: impl IntoIterator<Item = BoxedRead<M>>) {
        let mut stored: Vec<BoxedRead<M>> = Vec::new();
        let mut began = None;
        for mut read in reads {
            let began = began.get_or_insert_with(Instant::now);
            // Looked at while the read still counts as open: a drain that sees none open any more stops the node, and
            // this one is to be answered.
            let running = self.is_running();
            self.reads.open.fetch_sub(1, Ordering::SeqCst);
            let looked = if running {
                read.look(machine, &self.panics)
            } else {
                read.refuse(self.why_closed(), &self.panics);
                false
            };
            let tally = if looked { &self.reads.answered } else { &self.reads.aborted };
            tally.fetch_add(1, Ordering::Relaxed);
            stored.push(read);
            if began.elapsed() >= TURN_MAX {
                stored.drain(..).for_each(|mut read| read.wake(&self.panics));
                *began = Instant::now();
            }
        }
        stored.into_iter().for_each(|mut read| read.wake(&self.panics));
        if began.is_some() {
            self.changed.notify();
        }
    }

    /// Ends reads without an answer: first all of them, then the wake-ups.
    pub(super) fn refuse_reads(&self, mut reads: Vec<RefusedRead<M>>) {
        let count = reads.len();
        if count == 0 {
            return;
        }
        self.reads.open.fetch_sub(count, Ordering::SeqCst);
        self.reads.aborted.fetch_add(count as u64, Ordering::Relaxed);
        for (read, error) in &mut reads {
            self.name_leader(error);
            read.refuse(error.clone(), &self.panics);
        }
        reads.into_iter().for_each(|(mut read, _)| read.wake(&self.panics));
        self.changed.notify();
    }
}

/// A linearizable read under way. Await it, or [`wait`](Self::wait) for it; a dropped one goes its
/// way without a witness.
#[must_use = "what was read is known only here"]
pub struct Reading<R> {
    node: NodeKey,
    stage: Stage<R>,
}

enum Stage<R> {
    Refused(Option<RequestError>),
    Open(Completion<(), Answer<R>>),
}

impl<R> Reading<R> {
    pub(super) fn open(node: NodeKey, completion: Completion<(), Answer<R>>) -> Self {
        Self { node, stage: Stage::Open(completion) }
    }

    pub(super) fn refused(node: NodeKey, error: RequestError) -> Self {
        Self { node, stage: Stage::Refused(Some(error)) }
    }

    /// Waits for the answer for at most `timeout`.
    ///
    /// # Errors
    /// [`RequestError`]; of them [`RequestError::DeadlineExceeded`] when the time is over. Whichever
    /// it is, reading again is safe.
    ///
    /// # Panics
    /// As `look` did.
    pub fn wait(self, timeout: Duration) -> Result<R, RequestError> {
        match self.stage {
            Stage::Refused(error) => Err(error.unwrap_or(RequestError::Shutdown)),
            Stage::Open(completion) if self.node.would_wait_for_itself(timeout) => match completion.wait(now()) {
                Outcome::Expired(_) => Err(RequestError::CalledFromWithin { proposed: None }),
                outcome => settle(outcome),
            },
            Stage::Open(completion) => settle(completion.wait(deadline(timeout))),
        }
    }
}

impl<R> Future for Reading<R> {
    type Output = Result<R, RequestError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.stage {
            Stage::Refused(error) => Poll::Ready(Err(error.take().unwrap_or(RequestError::Shutdown))),
            Stage::Open(completion) => completion.poll(context).map(settle),
        }
    }
}

pub(super) fn settle<R>(outcome: Outcome<(), Answer<R>>) -> Result<R, RequestError> {
    match outcome {
        Outcome::Done(Ok(Ok(found))) => Ok(found),
        Outcome::Done(Ok(Err(panic))) => resume_unwind(panic),
        Outcome::Done(Err(error)) => Err(error),
        Outcome::Expired(_) => Err(RequestError::DeadlineExceeded { proposed: None }),
        Outcome::Abandoned(_) => Err(RequestError::Shutdown),
    }
}

impl<R> fmt::Debug for Reading<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(reads: &mut Reads<()>) -> (u64, Completion<(), Answer<()>>) {
        let (read, completion) = open(|(): &()| ());
        (reads.begin(read), completion)
    }

    #[test]
    fn each_read_has_one_outcome() {
        let mut reads = Reads::new();
        let (first, _first) = asked(&mut reads);
        let (second, _second) = asked(&mut reads);
        reads.confirm(first, Index(7));
        reads.abort(second, RequestError::Shutdown);
        reads.leader_lost = true;
        assert_eq!(reads.check(), Ok(()));
        for again in [first, second, second.wrapping_add(1)] {
            let mut told = Reads::<()>::new();
            told.confirm(again, Index(7));
            assert!(told.check().unwrap_err().starts_with("OneOutcomePerRead"));
            let mut told = Reads::<()>::new();
            told.abort(again, RequestError::Shutdown);
            assert!(told.check().is_err());
        }
    }

    #[test]
    fn no_read_waits_for_a_leader_that_is_lost() {
        let mut reads = Reads::new();
        let (context, _waits) = asked(&mut reads);
        assert_eq!(reads.check(), Ok(()));
        reads.leader_lost = true;
        assert!(reads.check().is_err());
        reads.confirm(context, Index(7));
        assert_eq!(reads.check(), Ok(()));
    }
}
