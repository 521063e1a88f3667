//! The handle that a program holds, and what its calls give back.

use super::backups::{self, TakeBackupError};
use super::changes::{MembershipChange, Wanted};
use super::error::{RequestError, UnknownReason};
use super::feed;
use super::inside::NodeKey;
use super::node::{self, Answer, Handle, Waiting};
use super::options::DriverOptions;
use super::reads::{self, ReadWay, Reading};
use super::slot::{self, Outcome};
use super::snapshots::SnapshotImage;
use super::start_error::StartError;
use super::status::Status;
use super::stopped::{NodeRole, StopReason};
use super::taking::TakingSnapshot;
use super::transfers::LeadershipTransfer;
use crate::backup::Backup;
use crate::config::RaftConfig;
use crate::log::SharedLog;
use crate::membership::Membership;
use crate::transport::RaftTransport;
use crate::types::{EntryId, NodeId, Term};
use bytes::Bytes;
use std::boxed::Box;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::string::String;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use std::vec::Vec;
use thiserror::Error;

/// What a cluster replicates: a deterministic machine that turns commands into state and responses.
///
/// It starts empty with each [`Raft::start`] and is given the log from its first entry on, or restores
/// the snapshot with which the log begins and is given what follows it.
pub trait StateMachine: Send + 'static {
    /// What a proposal resolves to.
    type Response: Send + 'static;

    /// Applies one command. Called on the apply thread, in log order, exactly once per entry and
    /// life of the machine; must depend on nothing but the machine and its arguments. A command
    /// that makes no sense is a response, not an error: there is no way to refuse what is committed.
    /// A panic stops this node for good.
    fn apply(&mut self, id: EntryId, command: &Bytes) -> Self::Response;

    /// The state as it is now, to be written while commands go on being applied. Called on the apply
    /// thread, so it must be quick: hand out what is shared and copied on write, not a copy. Everything
    /// that [`apply`](Self::apply) depends on belongs to it, responses that are remembered for retries
    /// included: servers restore each other's snapshots and must go on alike.
    ///
    /// An image that fails or panics while it is written costs that snapshot and nothing else; the log
    /// keeps what it would have covered. `None`, as without an own implementation: this machine has no
    /// snapshots, and its log never shrinks. It is asked again when the next one is due.
    fn snapshot(&mut self) -> Option<SnapshotImage> {
        None
    }

    /// Replaces the whole state with the one that an image wrote, on this server or another; called in
    /// place of the applies that it covers, or at the start of a node. All of the content is to be read:
    /// its end says that it is whole.
    ///
    /// # Errors
    /// The content cannot be understood, or not be read. The node does not start then, and one that
    /// runs stops for good, because its state is neither the old nor the new one.
    fn restore(&mut self, content: &mut dyn io::Read) -> io::Result<()> {
        let _ = content;
        Err(io::Error::new(io::ErrorKind::Unsupported, "this state machine has no snapshots"))
    }
}

/// A running node. Clones are handles to the same node; when the last one is dropped, the node
/// shuts down as by [`Raft::shutdown`].
pub struct Raft<M: StateMachine> {
    owner: Arc<Owner<M>>,
}

/// Shared by the handles, and by nothing else: its end is the end of the last handle.
struct Owner<M: StateMachine> {
    node: Arc<dyn Handle<M>>,
}

impl<M: StateMachine> Drop for Owner<M> {
    fn drop(&mut self) {
        Arc::clone(&self.node).shutdown();
    }
}

impl<M: StateMachine> Clone for Raft<M> {
    fn clone(&self) -> Self {
        Self { owner: Arc::clone(&self.owner) }
    }
}

impl<M: StateMachine> fmt::Debug for Raft<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Raft").field("id", &self.owner.node.id()).finish_non_exhaustive()
    }
}

impl<M: StateMachine> Raft<M> {
    /// Starts a node with the default [`DriverOptions`]. A first start and a restart are the same:
    /// the log tells.
    ///
    /// If the log begins with a snapshot, the state machine restores it before this returns, on the
    /// caller's thread: a node that cannot does not start, and nobody takes it for a member that works.
    /// However long that takes, the others go on without it.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub fn start<L, T>(config: RaftConfig, log: L, transport: T, machine: M) -> Result<Self, StartError>
    where
        L: SharedLog,
        T: RaftTransport,
    {
        Self::start_with(config, DriverOptions::default(), log, transport, machine)
    }

    /// Starts a node; see [`Raft::start`].
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub fn start_with<L, T>(
        config: RaftConfig,
        options: DriverOptions,
        log: L,
        transport: T,
        machine: M,
    ) -> Result<Self, StartError>
    where
        L: SharedLog,
        T: RaftTransport,
    {
        let node = node::start(&config, options, log, transport, machine)?;
        Ok(Self { owner: Arc::new(Owner { node }) })
    }

    /// This node's id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.owner.node.id()
    }

    /// Proposes a command. The proposal resolves once this node has applied it.
    pub fn propose(&self, command: impl Into<Bytes>) -> Proposal<M::Response> {
        let node = &self.owner.node;
        Proposal::new(node.key(), node.propose(command.into()))
    }

    /// Proposes commands that are appended next to each other in this order, or refused together.
    /// Each has an outcome of its own. To wait for all, wait for the last first: the others are
    /// then there already.
    pub fn propose_batch(&self, commands: Vec<Bytes>) -> Vec<Proposal<M::Response>> {
        let (count, key) = (commands.len(), self.owner.node.key());
        match self.owner.node.propose_batch(commands) {
            Ok(completions) => completions.into_iter().map(|completion| Proposal::new(key, Ok(completion))).collect(),
            Err(error) => (0..count).map(|_| Proposal::new(key, Err(error.clone()))).collect(),
        }
    }

    /// Reads linearizably: `look` sees every write that was acknowledged, and whatever an earlier
    /// read saw, before this call, on whichever node. Only the leader answers; with
    /// [`follower_read`](Self::follower_read) every member does. Nothing is appended or synced for it:
    /// the price is a round of messages to the followers and back, which reads share.
    ///
    /// `look` runs between two applies, on the apply thread, so it must be quick; never wait for a
    /// read from within the state machine or another read. It does not begin after the deadline of
    /// [`Reading::wait`] has passed. A panic in it comes back to the caller. A read that failed, for
    /// whatever reason, can safely be tried again, here or on another node.
    pub fn read<R: Send + 'static>(&self, look: impl FnOnce(&M) -> R + Send + 'static) -> Reading<R> {
        self.open_read(look, ReadWay::Leader)
    }

    /// Reads by the leader's lease: as [`read`](Self::read), without the round of messages. With
    /// [`RaftConfig::lease_ticks`] a leader that a quorum confirmed less than a lease ago answers at once, for nobody else
    /// can lead yet. That is linearizable **while the clocks hold what `lease_ticks` says**, and may be stale if they do
    /// not. Without `lease_ticks`, or without a lease at the moment, nothing is different from `read`.
    pub fn lease_read<R: Send + 'static>(&self, look: impl FnOnce(&M) -> R + Send + 'static) -> Reading<R> {
        self.open_read(look, ReadWay::Lease)
    }

    /// Reads linearizably from this node's own state machine, on **any** member: the leader, a follower, or a learner
    /// (§6.4). It promises what [`read`](Self::read) does, and `look` runs as there. A follower asks its leader, for whom
    /// the question is a read like its own, how much it has to see, and looks once it has applied so much. Reads that begin
    /// while an answer is on its way share the next question, and leader and followers share the rounds. So the price is a
    /// message to the leader and back, and the leader's round; the work is this node's. On the leader nothing is different
    /// from `read`.
    ///
    /// It ends with [`RequestError::NotLeader`] while no leader is known, and when the leader changes, or is not heard for an
    /// election timeout, before the answer is here. A leader that is heard and cannot answer is waited for: have a deadline.
    /// A follower that is behind answers late, and never stale.
    pub fn follower_read<R: Send + 'static>(&self, look: impl FnOnce(&M) -> R + Send + 'static) -> Reading<R> {
        self.open_read(look, ReadWay::AnyMember)
    }

    fn open_read<R: Send + 'static>(&self, look: impl FnOnce(&M) -> R + Send + 'static, way: ReadWay) -> Reading<R> {
        let node = &self.owner.node;
        let (read, completion) = reads::open(look);
        match node.read(read, way) {
            Ok(()) => Reading::open(node.key(), completion),
            Err(error) => Reading::refused(node.key(), error),
        }
    }

    /// Looks at the state machine as far as this node has applied: local, on any node, without a
    /// message, and possibly stale by any amount; [`follower_read`](Self::follower_read) is not. Runs between two
    /// applies, on the apply thread, so it must be quick; never call it from within the state
    /// machine. A panic in `look` comes back to the caller.
    ///
    /// # Errors
    /// [`RequestError::Shutdown`] or [`RequestError::Fatal`].
    pub fn stale_read<R: Send + 'static>(
        &self,
        look: impl FnOnce(&M) -> R + Send + 'static,
    ) -> Result<R, RequestError> {
        let node = &self.owner.node;
        if node.key().is_entered() {
            return Err(RequestError::CalledFromWithin { proposed: None });
        }
        let (read, completion) = reads::open(look);
        node.stale_read(read)?;
        match completion.wait(None) {
            Outcome::Expired(_) | Outcome::Abandoned(_) => Err(node.why_closed()),
            outcome => reads::settle(outcome),
        }
    }

    /// Has another node take over leadership: it is brought up to date and campaigns at once, so
    /// that clients wait for a round of votes instead of an election timeout. Only the leader can do
    /// it. Until the target leads proposals are refused with [`RequestError::TransferInProgress`],
    /// for a minimum election timeout at most; reads go on. A target that does not answer, or is far
    /// behind, is first waited for without that, for as long.
    ///
    /// The transfer ends with the term that the target leads, or with why it does not. Asking again
    /// for the same target joins the transfer in progress, and a target that leads already is
    /// answered at once.
    pub fn transfer_leadership(&self, target: impl Into<NodeId>) -> LeadershipTransfer {
        self.owner.node.transfer_leadership(target.into())
    }

    /// Adds a server that gets the log and has no vote (§4.2.1): a replica for reads or a backup, or one that is to have a
    /// vote later. `address` is where the other servers' transports reach it, or empty for a transport that needs none.
    /// The server itself starts with [`RaftConfig::joining`], before or after.
    ///
    /// Only the leader changes the membership. A change waits for whatever passes by itself until `timeout` is over, for
    /// the change before it for example, and ends once: with the configuration that is committed, or with an error
    /// that says whether anything was appended. What is the case already is answered at once.
    pub fn add_learner(
        &self,
        id: impl Into<NodeId>,
        address: impl Into<String>,
        timeout: Duration,
    ) -> MembershipChange {
        self.change(Wanted::Learner { id: id.into(), address: address.into() }, timeout)
    }

    /// Adds a server that gets a vote as soon as it has caught up: as a learner until then, so that nothing waits for it.
    /// Ends when it has its vote. After the deadline it stays the learner that it is, and may get its vote later; see
    /// [`add_learner`](Self::add_learner) for the rest.
    pub fn add_voter(&self, id: impl Into<NodeId>, address: impl Into<String>, timeout: Duration) -> MembershipChange {
        self.change(Wanted::Voter { id: id.into(), address: address.into() }, timeout)
    }

    /// Gives a learner a vote, once it has caught up; see [`add_learner`](Self::add_learner).
    pub fn promote(&self, id: impl Into<NodeId>, timeout: Duration) -> MembershipChange {
        self.change(Wanted::Promoted { id: id.into() }, timeout)
    }

    /// Takes a voter's vote and makes it a learner; see [`add_learner`](Self::add_learner). A leader that loses its vote
    /// hands over.
    pub fn demote(&self, id: impl Into<NodeId>, timeout: Duration) -> MembershipChange {
        self.change(Wanted::Demoted { id: id.into() }, timeout)
    }

    /// Removes a server; see [`add_learner`](Self::add_learner). One that is no member is removed already. A leader may remove
    /// itself: it answers once that is committed, and hands over. A server that is removed does not always hear of it:
    /// stop it then.
    pub fn remove(&self, id: impl Into<NodeId>, timeout: Duration) -> MembershipChange {
        self.change(Wanted::Removed { id: id.into() }, timeout)
    }

    /// Says where a member is to be found from now on; see [`add_learner`](Self::add_learner).
    pub fn set_address(
        &self,
        id: impl Into<NodeId>,
        address: impl Into<String>,
        timeout: Duration,
    ) -> MembershipChange {
        self.change(Wanted::Address { id: id.into(), address: address.into() }, timeout)
    }

    /// Changes to any other configuration, by joint consensus (§4.3) if more than one voter differs; each new voter has
    /// to be a learner that has caught up. Unlike the others, this replaces the whole: what another change does at the
    /// same time is undone. Only addresses stay, unless the target has others. See [`add_learner`](Self::add_learner) for the rest.
    pub fn change_membership(&self, target: Membership, timeout: Duration) -> MembershipChange {
        self.change(Wanted::Exactly(target), timeout)
    }

    fn change(&self, wanted: Wanted, timeout: Duration) -> MembershipChange {
        self.owner.node.change_membership(wanted, timeout)
    }

    /// Takes a snapshot of the state machine as it is now, on any node, leader or not. It resolves once
    /// the snapshot is durable and the log begins with it. One that is being taken already is joined,
    /// and one of the present state is found; a newer one that a leader sent meanwhile will do as well.
    ///
    /// A node with a store takes snapshots by itself: see [`DriverOptions::snapshot_entries`].
    pub fn snapshot(&self) -> TakingSnapshot {
        let (requester, completion) = slot::slot();
        let node = &self.owner.node;
        TakingSnapshot::new(node.key(), node.snapshot(requester).map(|()| completion))
    }

    /// Takes a backup of the whole state as of one entry, on any node, leader or not: a stream of bytes that says whose it is and
    /// up to which entry it goes ([`Backup::info`]). Commands go on being applied, and nothing waits for whoever reads it.
    ///
    /// It has what this node had applied when it was called. A follower may be behind; wait for a
    /// [`follower_read`](Self::follower_read) first, and everything that was acknowledged before that is in it.
    ///
    /// It takes a snapshot, as [`snapshot`](Self::snapshot) does, or finds the one of the present state, within `timeout`, and
    /// holds it open until the backup is read or dropped: the store keeps its file for so long. Where newer snapshots come
    /// meanwhile that is bounded by [`DriverOptions::snapshot_hold_bytes`], and nothing is kept while the disk is short of space
    /// or once the node is shut down: reading fails with [`BackupEnded`](super::BackupEnded) then.
    /// [`backup::Restore`](crate::backup) makes a cluster of it again.
    ///
    /// # Errors
    /// [`TakeBackupError`]; the node goes on.
    pub fn backup(&self, timeout: Duration) -> Result<Backup, TakeBackupError> {
        backups::begin(&*self.owner.node, timeout)
    }

    /// The node's state now.
    #[must_use]
    pub fn status(&self) -> Status {
        self.owner.node.status()
    }

    /// The changes of role, term and leader, in order; the first one is the present state.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch { reader: self.owner.node.watch() }
    }

    /// Waits until `predicate` holds for the status. No lock is held while it runs.
    ///
    /// A node that has stopped changes no more: `predicate` sees its last status, in which it leads nobody
    /// ([`NodeRole::Stopped`]). If it does not hold there, it never will, and the error says why.
    ///
    /// # Errors
    /// [`WaitError`], if it did not hold within `timeout` or never will.
    pub fn wait_for(&self, timeout: Duration, mut predicate: impl FnMut(&Status) -> bool) -> Result<Status, WaitError> {
        self.owner.node.wait_for(deadline(timeout), &mut predicate)
    }

    /// Shuts down: refuses new requests, lets open ones finish, and hands leadership over if this
    /// node leads, within [`DriverOptions::drain_timeout`] for both; answers the other proposals `OutcomeUnknown` and the other
    /// reads `Shutdown`, writes what is queued
    /// for the log, stops the transport and joins all threads. Waits for a write, an apply or a restore
    /// in progress; an image that is being written fails at its next write. Any thread may call it, any number of times; every later call on the node answers
    /// [`RequestError::Shutdown`]. Called from the node's own threads (a state machine, a waker) it
    /// returns at once and the rest happens behind it.
    pub fn shutdown(&self) {
        Arc::clone(&self.owner.node).shutdown();
    }
}

/// A deadline that has passed: for a look at what is there.
#[allow(clippy::unnecessary_wraps, reason = "it is a deadline like any other")]
pub(super) fn now() -> Option<Instant> {
    Some(Instant::now())
}

/// A deadline; `None` when it is too far away to be one.
pub(super) fn deadline(timeout: Duration) -> Option<Instant> {
    Instant::now().checked_add(timeout)
}

/// A command that was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Applied<R> {
    /// Its place in the log.
    pub id: EntryId,
    /// What the state machine answered.
    pub response: R,
}

/// A proposal under way. Await it, or [`wait`](Self::wait) for it; a dropped one goes its way
/// without a witness.
#[must_use = "the outcome is known only here"]
pub struct Proposal<R> {
    node: NodeKey,
    state: State<R>,
}

enum State<R> {
    Refused(Option<RequestError>),
    Open(Waiting<R>),
}

impl<R> Proposal<R> {
    fn new(node: NodeKey, result: Result<Waiting<R>, RequestError>) -> Self {
        let state = match result {
            Ok(completion) => State::Open(completion),
            Err(error) => State::Refused(Some(error)),
        };
        Self { node, state }
    }

    /// Waits for the outcome for at most `timeout`.
    ///
    /// # Errors
    /// [`RequestError`]; of them [`RequestError::DeadlineExceeded`] when the time is over. Then the
    /// command was not appended and never will be, or it was, and the error says where.
    pub fn wait(self, timeout: Duration) -> Result<Applied<R>, RequestError> {
        match self.state {
            State::Refused(error) => Err(error.unwrap_or(RequestError::Shutdown)),
            State::Open(completion) if self.node.would_wait_for_itself(timeout) => match completion.wait(now()) {
                Outcome::Expired(proposed) => Err(RequestError::CalledFromWithin { proposed }),
                outcome => settle(outcome),
            },
            State::Open(completion) => settle(completion.wait(deadline(timeout))),
        }
    }
}

impl<R> Future for Proposal<R> {
    type Output = Result<Applied<R>, RequestError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.state {
            State::Refused(error) => Poll::Ready(Err(error.take().unwrap_or(RequestError::Shutdown))),
            State::Open(completion) => completion.poll(context).map(settle),
        }
    }
}

fn settle<R>(outcome: Outcome<EntryId, Answer<R>>) -> Answer<R> {
    match outcome {
        Outcome::Done(answer) => answer,
        Outcome::Expired(proposed) => Err(RequestError::DeadlineExceeded { proposed }),
        Outcome::Abandoned(Some(id)) => Err(RequestError::OutcomeUnknown { id, reason: UnknownReason::Shutdown }),
        Outcome::Abandoned(None) => Err(RequestError::Shutdown),
    }
}

impl<R> fmt::Debug for Proposal<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proposal").finish_non_exhaustive()
    }
}

/// One change of a node's role, term or known leader.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct RoleChange {
    /// The role from now on.
    pub role: NodeRole,
    /// The term: a fencing token, since it only grows and has at most one leader.
    pub term: Term,
    /// The leader of that term, as far as known.
    pub leader: Option<NodeId>,
    /// Why the node stopped: with the role `Stopped`, and with no other. This change is the last.
    pub stopped: Option<StopReason>,
}

/// Role changes in order. Clones read on from the same position, independently.
#[derive(Clone)]
pub struct Watch {
    reader: feed::Reader<RoleChange>,
}

impl Watch {
    /// The next change; `None` if none comes within `timeout`, or the node has stopped and all were
    /// read. The first call gives the state at the time of [`Raft::watch`]. The last change of a node is its end: its role is
    /// [`NodeRole::Stopped`], and [`RoleChange::stopped`] says why. A watch that is taken later gets it at once.
    pub fn next(&mut self, timeout: Duration) -> Option<RoleChange> {
        self.reader.next(deadline(timeout))
    }

    /// How many changes this watch never saw because it was read too rarely: the node remembers the
    /// last 1,024.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.reader.missed()
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("missed", &self.missed()).finish_non_exhaustive()
    }
}

/// Why [`Raft::wait_for`] gave up.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum WaitError {
    /// The predicate did not hold in time.
    #[error("the condition did not hold in time; the node is {} in term {}", last.role.name(), last.term)]
    Timeout {
        /// The last status that was looked at.
        last: Box<Status>,
    },
    /// The node was shut down.
    #[error("the node is shut down")]
    Shutdown,
    /// The node stopped for good.
    #[error("the node has stopped for good: {reason}")]
    Fatal {
        /// What happened.
        reason: String,
    },
    /// The call came from code that this node runs itself, and would wait for its own thread. Wait on another thread.
    #[error("the node itself runs the code that waits for it here; wait on another thread")]
    CalledFromWithin,
}
