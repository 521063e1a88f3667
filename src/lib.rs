//! raft-io: a Raft consensus engine.

#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

pub mod action;
pub mod config;
#[cfg(feature = "std")]
pub mod driver;
pub mod error;
pub mod event;
pub mod log;
pub mod membership;
pub mod message;
pub mod node;
pub mod protocol;
pub mod quorum;
#[cfg(feature = "testkit")]
pub mod testkit;
pub mod ticker;
pub mod transition;
#[cfg(feature = "std")]
pub mod transport;
pub mod types;
#[cfg(feature = "framing")]
pub mod wire;

pub use action::{Action, Actions, RoleKind, Write};
pub use config::RaftConfig;
pub use event::Event;
pub use log::{LogView, MemoryLog, RaftLog};
pub use membership::Membership;
pub use message::{Envelope, Message};
pub use node::RaftNode;
pub use protocol::Protocol;
pub use transition::Transition;
pub use types::{ClusterId, Entries, Entry, EntryId, GroupId, HardState, Index, NodeId, Payload, Term};
