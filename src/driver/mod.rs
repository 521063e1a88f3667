//! The driver: threads and clocks around the protocol, and the handle that a program holds.
//!
//! [`Raft::start`] runs one node. Its protocol has no thread of its own: whoever brings an event
//! steps it to completion under one short lock, a client in [`Raft::propose`], the transport's
//! thread with a message, the log thread with a finished write, the ticker thread with a timeout.
//! What must wait does so elsewhere (law 3):
//!
//! | Thread | Waits for |
//! |---|---|
//! | `raft-log` | the disk: takes every write that is queued, appends them as one, syncs once |
//! | `raft-apply` | the state machine: reads committed entries from the log, applies, answers |
//! | `raft-read` | cold reads of the log for lagging followers |
//! | `raft-tick` | the clock |
//! | `raft-snapshot` | the store: writes images of the state machine, deletes what they supersede |
//! | `raft-fetch` | a peer: fetches a leader's snapshot, chunk by chunk |
//!
//! The last two run on a node that has a store of snapshots. What peers fetch from it, the transport's
//! own threads read.
//!
//! While the log is writing, proposals gather and go into the log, and to each follower, as one
//! batch when it is done: the busier the node, the larger the batch, and an idle one adds no delay.
//! Messages leave in the order of the steps, without the lock, by whoever stepped first.
//!
//! A linearizable read ([`Raft::read`]) appends nothing: the protocol asks a quorum whether this node
//! still leads, and the apply thread answers once it has applied what was committed when the read
//! began. Reads that begin while an answer is on its way share the next question. On a follower or a
//! learner ([`Raft::follower_read`]) it asks the leader, and the rest is the same.
//!
//! A leader hands over on request ([`Raft::transfer_leadership`]), and by itself when it shuts down:
//! the target campaigns at once, and proposals wait for a moment instead of an election timeout.
//!
//! Who belongs to the cluster changes while it runs ([`Raft::add_voter`], [`Raft::remove`], [`Raft::change_membership`] and
//! the like), and is a part of the log: `RaftConfig::membership` is what an empty log begins with, once. The transport
//! learns from the configuration who is to be reached, and where.
//!
//! A snapshot ([`Raft::snapshot`], or by itself when the log has grown) stops nothing: the apply
//! thread takes an image, which another one writes. A node that is too far behind for its leader's log
//! fetches the leader's snapshot and goes on from there; at the start it goes on from its own.
//!
//! After a failed write, a failed read of committed entries, a panic of the state machine or a snapshot
//! that it does not restore the node is *fatal* (law 6): it acknowledges and sends nothing any more, every call says why, the
//! process lives.
//! A read that fails for a reason that passes, such as too many open files, is tried again instead (`unreadable`).
//!
//! The end of a node is a state ([`NodeRole::Stopped`]): [`Status`] and the last change of every [`Watch`] say why
//! ([`StopReason`]), whether it was shut down or is fatal.
//!
//! The pieces that threads meet in are small and checked with loom: `slot` (one answer), `mailbox`
//! (work for a thread), `feed` (role changes), `signal` (look again). No user code ever runs under
//! a lock of the driver.

mod apply;
mod backups;
mod beat;
mod changes;
mod contain;
mod error;
mod feed;
mod fetch;
mod held_backups;
mod held_up;
mod holds;
mod identities;
mod inside;
mod lease;
mod lifecycle;
mod limits;
mod loss;
mod mailbox;
mod members;
mod node;
mod obstacles;
mod options;
mod origins;
mod proposals;
mod raft;
mod reads;
mod recording;
mod recovery;
mod release;
mod retry;
mod signal;
mod slot;
mod snapshots;
mod stall;
mod start_error;
mod status;
mod stopped;
mod sync;
mod taking;
mod threads;
mod trace;
mod transfers;
mod trigger;
mod unreadable;

pub use backups::TakeBackupError;
pub use changes::MembershipChange;
pub use contain::CodePlace;
pub use error::{
    LeaderHint, LeadershipTransferError, Limit, MembershipChangeError, NotLeaderReason, RequestError,
    TakeSnapshotError, UnknownReason,
};
pub use held_backups::BackupEnded;
pub use held_up::HeldUp;
pub use options::{DriverOptions, Snapshots};
pub use raft::{Applied, Proposal, Raft, RoleChange, StateMachine, WaitError, Watch};
pub use reads::Reading;
pub use recovery::{Recovery, RecoveryError};
pub use snapshots::SnapshotImage;
pub use start_error::{IdentityMismatch, StartError};
pub use status::{Counters, FetchStatus, MemberPart, MembershipStatus, PeerStatus, SnapshotStatus, Status};
pub use stopped::{NodeRole, StopReason};
pub use taking::TakingSnapshot;
pub use transfers::LeadershipTransfer;
