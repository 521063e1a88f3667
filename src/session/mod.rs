//! Client sessions: a command that is sent again is applied once (dissertation §6.3).
//!
//! Lives here: the table of sessions that a state machine holds beside its data, the envelope around
//! its commands, the client's numbering, the table's place in a snapshot. Does not live here: how a
//! client reaches the leader, when it tries again, and anything of consensus: for the log a session's
//! command is a command like any other.
//!
//! # Why
//!
//! A proposal whose outcome is unknown may have been applied. Proposed again, it may be applied twice.
//! With a session, the client numbers its commands, and each replica remembers which numbers it has
//! applied and with what response: the second time it gives the response and applies nothing.
//!
//! # The state machine
//!
//! ```
//! use bytes::Bytes;
//! use raft_io::EntryId;
//! use raft_io::session::{SessionCommand, SessionError, SessionLimits, SessionReply, Sessions};
//!
//! struct Counter {
//!     count: u64,
//!     sessions: Sessions<u64>,
//! }
//!
//! impl Counter {
//!     /// What `StateMachine::apply` does.
//!     fn apply(&mut self, id: EntryId, command: &Bytes) -> Result<SessionReply<u64>, SessionError> {
//!         let command = SessionCommand::decode(command)?;
//!         self.sessions.apply(id.index, &command, |command| {
//!             self.count += command.len() as u64;
//!             self.count
//!         })
//!     }
//! }
//!
//! let mut counter = Counter { count: 0, sessions: Sessions::new(SessionLimits::default()) };
//! let mut log = 0;
//! let mut commit = |command: Bytes| {
//!     log += 1;
//!     counter.apply(EntryId::new(log, 1), &command)
//! };
//!
//! // The client opens a session and numbers its commands.
//! use raft_io::session::SessionClient;
//! let Ok(SessionReply::Opened(session)) = commit(SessionClient::open()) else { panic!("the first of all") };
//! let mut client = SessionClient::new(session, 16);
//! let request = client.request("four".into())?;
//! assert_eq!(commit(request.envelope), Ok(SessionReply::Applied(4)));
//! // The answer is lost on its way. Once more, with the same number: the same answer, and still four.
//! let again = client.retry(request.sequence).expect("it has no answer yet");
//! assert_eq!(commit(again), Ok(SessionReply::Repeated(4)));
//! client.answered(request.sequence);
//! # Ok::<(), raft_io::session::WindowFull>(())
//! ```
//!
//! # Laws
//!
//! 1. **Once.** For each session and sequence number the command runs at most once, over all entries,
//!    snapshots and restarts (`SessionAppliedOnce`).
//! 2. **The same answer or an error.** A repetition gets the response of the first time. If that is no
//!    longer there, it gets a [`SessionError`] that says why. It is never applied as if it were new.
//! 3. **Never created.** A session begins by [`SessionCommand::Open`] alone. A command of an unknown
//!    session is refused: the session may have been closed or evicted, and what it had applied with it.
//!    No two sessions have one id, not even over evictions (`SessionIdUnique`).
//! 4. **Deterministic.** The table depends on the applied entries and on nothing else: no clock, no
//!    chance, no hash order. All replicas have the same one, and the same bytes of it in a snapshot.
//! 5. **Bounded.** The number of sessions, of commands that a session has in flight, and of bytes of
//!    responses, by session and together, have limits ([`SessionLimits`]). They are part of the
//!    replicated state.
//!
//! # What ends a session
//!
//! Its client closes it, or it is the one that was longest without a command, in the order of the log,
//! when another is opened and there are as many as may be. A client that has nothing to do and wants to
//! keep its session sends [`SessionCommand::KeepAlive`] now and then.
//!
//! Whether a command without an answer was applied cannot be known once its session ended. Sent again
//! in another session it may be applied twice: that is the one thing that a client must not do by itself.
//!
//! # Snapshots
//!
//! The table belongs to the state machine's snapshot: [`Sessions::image`] when the snapshot is taken,
//! [`SessionsImage::write_to`] when it is written, [`Sessions::read_from`] when it is restored. A state
//! machine that forgets it applies old commands again after a restart. `docs/FORMAT.md` has the bytes.

mod client;
mod command;
mod error;
mod response;
#[cfg(feature = "std")]
mod stream;
mod table;

pub use client::{SessionClient, SessionRequest, WindowFull};
pub use command::{SessionCall, SessionCommand, SessionId};
pub use error::{Forgotten, SessionCommandError, SessionError};
pub use response::SessionResponse;
#[cfg(feature = "std")]
pub use stream::{SessionsImage, SessionsReadError};
pub use table::{SessionLimits, SessionReply, Sessions};
