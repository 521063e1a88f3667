//! raft-io: a Raft consensus engine to embed in databases, brokers, metadata stores and schedulers.
//!
//! # Where to begin
//!
//! | You want | Use |
//! |---|---|
//! | to try Raft in ten lines | [`RaftNode`]: no transport, no storage, no threads |
//! | a replicated service | `Raft::start` in `driver`: give it a log, a transport and your state machine |
//! | your own event loop | [`Protocol`]: `step(event)` pushes [`Action`]s, nothing else happens |
//! | your own storage | implement [`RaftLog`]; `testkit::log_suite` checks it |
//! | your own network | implement `RaftTransport` |
//! | commands that are applied once, however often they are sent | [`session`] beside your state machine |
//! | your own place for snapshots | implement `SnapshotStore` in `snapshot`; `testkit::snapshot_suite` checks it |
//!
//! ```
//! use raft_io::RaftConfig;
//! use raft_io::node::{Action, Event, RaftNode};
//!
//! let mut node = RaftNode::new(RaftConfig::single(1))?;
//! while !node.is_leader() {
//!     node.step(Event::Tick)?;
//! }
//! for action in node.step(Event::Propose("set x = 1".into()))? {
//!     if let Action::Apply { index, command, .. } = action {
//!         println!("entry {index}: {command:?}");
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The laws
//!
//! 1. **Determinism.** The same configuration, seed and events give the same actions, byte for byte, on
//!    every platform. There is no clock, thread, I/O, global generator or hash order in the protocol.
//! 2. **Persist first.** Every action that comes out of a step may be carried out at once, in the
//!    order given. A message that depends on state not yet durable stays inside until the log
//!    reported it durable.
//! 3. **No waiting.** A protocol step never waits for disk, network or application.
//! 4. **Total on peers.** No bytes and no message from a peer can panic a node, make it allocate
//!    without bound, or overflow an index. A broken *internal* invariant stops the node.
//! 5. **One outcome.** Every request ends exactly once: applied with the state machine's response,
//!    definitely not applied, or unknown (with index and term).
//! 6. **Fail-stop storage.** After a failed write or sync the node never acknowledges anything again;
//!    the process lives and can say why.
//! 7. **One vocabulary.** A protocol transition has one name: in the spec, in [`Transition`], as a
//!    function, in traces and in scenario scripts.
//!
//! # The rooms
//!
//! [`types`], [`message`], [`event`] and [`action`] are the vocabulary; [`quorum`] is the algebra of
//! majorities; [`protocol`] is Raft itself, one file per chapter of the dissertation; [`ticker`]
//! turns ticks into the protocol's timeouts; [`log`], `snapshot` and `transport` are what it stands on; [`life`] and `peers` tell
//! a server from an older copy of itself;
//! [`node`] and `driver` put them together; [`session`] is for state machines. References such as §3.5 are to Diego Ongaro's dissertation,
//! *Consensus: Bridging Theory and Practice* (Stanford, 2014).
//!
//! # Features
//!
//! | Feature | Default | What it adds |
//! |---|---|---|
//! | `std` | yes | clocks, threads, the driver, the memory transport, snapshots in memory; without it the protocol, `RaftNode` and `MemoryLog` are `no_std + alloc` |
//! | `persistence` | yes | `WalLog`, the durable log on wal-db; `SnapshotFiles` |
//! | `framing` | yes | `wire`, pack-io message framing |
//! | `tcp` | yes | `TcpTransport` |
//! | `serde` | no | `Serialize` and `Deserialize` on public data types |
//! | `tracing` | no | events from the driver and the transport |
//! | `trace` | no | recording every step of a node, for `raft-model trace` to validate against the spec |
//! | `testkit` | no | simulator, fault injection, conformance suites, checkers |

#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

pub mod action;
#[cfg(feature = "std")]
pub mod backup;
pub mod config;
#[cfg(any(feature = "persistence", feature = "tcp"))]
#[cfg_attr(not(feature = "persistence"), allow(dead_code, unreachable_pub, reason = "the transport uses a part of it"))]
mod directory;
#[cfg(feature = "std")]
pub mod driver;
pub mod error;
pub mod event;
pub mod history;
pub mod life;
pub mod log;
pub mod membership;
pub mod message;
pub mod node;
#[cfg(feature = "std")]
#[cfg_attr(
    not(all(feature = "persistence", feature = "tcp")),
    allow(dead_code, reason = "logs and transports use a part of it each")
)]
pub mod peers;
pub mod protocol;
pub mod quorum;
pub mod session;
#[cfg(feature = "std")]
pub mod snapshot;
#[cfg(feature = "testkit")]
pub mod testkit;
#[cfg(feature = "std")]
mod threads;
pub mod ticker;
#[cfg(feature = "trace")]
pub mod trace;
pub mod transition;
#[cfg(feature = "std")]
pub mod transport;
pub mod types;
#[cfg(feature = "framing")]
pub mod wire;

pub use action::{Action, ActionSink, Actions, Compaction, Durable, RoleKind, Write};
pub use config::RaftConfig;
#[cfg(feature = "std")]
pub use driver::{Raft, StateMachine, Status};
pub use event::Event;
pub use history::{History, HistoryId, Lineage};
pub use life::Lives;
pub use log::{LogView, Memberships, MemoryLog, RaftLog, WriteThrough};
pub use membership::Membership;
pub use message::{Envelope, Message};
pub use node::RaftNode;
pub use protocol::Protocol;
pub use session::{SessionClient, SessionCommand, SessionError, SessionId, SessionLimits, SessionReply, Sessions};
pub use transition::Transition;
pub use types::{
    ClusterId, DiskId, Entries, Entry, EntryId, GroupId, HardState, Identity, Index, NodeId, Payload, Term,
};

/// The README's programs compile and run.
#[cfg(all(doctest, feature = "persistence", feature = "tcp"))]
#[doc = include_str!("../README.md")]
struct Readme;
