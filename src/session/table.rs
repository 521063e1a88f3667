//! The table of sessions: which numbers were applied, and with what response.
//!
//! Gate, then apply, then record, within one call: there is no state in between that a snapshot could
//! catch or a forgetful caller leave behind.

use super::command::{SessionCall, SessionCommand, SessionId};
use super::error::{Forgotten, SessionError};
use super::response::SessionResponse;
use crate::types::Index;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use bytes::Bytes;

/// How much the sessions may hold. A part of the replicated state: every replica must begin with the
/// same, a snapshot carries them, and only an applied command may change them
/// ([`Sessions::set_limits`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SessionLimits {
    /// Sessions at once; one more evicts the one that was longest without a command. At least 1.
    pub sessions_max: u32,
    /// How many numbers, from the lowest without an answer on, a session may be ahead: more is refused.
    /// Bounds what is remembered of a session beside responses. At least 1.
    pub window: u32,
    /// The responses of one session, in bytes: for a further one the lowest numbers' make room.
    pub session_bytes_max: u32,
    /// The responses of all sessions, in bytes: for a further one the oldest in the log make room.
    pub total_bytes_max: u64,
}

impl Default for SessionLimits {
    /// 10,000 sessions, 256 commands of each in flight, 1 MiB of responses of each and 64 MiB together.
    fn default() -> Self {
        Self { sessions_max: 10_000, window: 256, session_bytes_max: 1 << 20, total_bytes_max: 64 << 20 }
    }
}

impl SessionLimits {
    /// With zeros raised to one: with no session at all nothing could ever be opened.
    const fn sound(self) -> Self {
        let sessions_max = if self.sessions_max == 0 { 1 } else { self.sessions_max };
        let window = if self.window == 0 { 1 } else { self.window };
        Self { sessions_max, window, ..self }
    }
}

/// What a command of a session came to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum SessionReply<R> {
    /// The session is open.
    Opened(SessionId),
    /// The session is still there.
    Alive(SessionId),
    /// The session ended; nothing of it is remembered.
    Closed(SessionId),
    /// The command was applied by this entry, with this response.
    Applied(R),
    /// The command was applied before, with this response; this entry applied nothing.
    Repeated(R),
}

impl<R> SessionReply<R> {
    /// The state machine's response, whichever entry applied the command.
    pub fn into_response(self) -> Option<R> {
        match self {
            Self::Applied(response) | Self::Repeated(response) => Some(response),
            Self::Opened(_) | Self::Alive(_) | Self::Closed(_) => None,
        }
    }
}

/// The sessions of a state machine, with responses `R`. See the [module](super) for an example.
///
/// It is a part of the state: feed it from applied entries only, and put it into every snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sessions<R> {
    pub(super) limits: SessionLimits,
    /// The highest id given out. Starts at 0; only grows; outlives the session.
    pub(super) last_id: u64,
    pub(super) open: BTreeMap<SessionId, Arc<Session<R>>>,
    /// All sessions, the one longest without a command first.
    by_use: BTreeSet<(Index, SessionId)>,
    /// All responses that are kept, the one of the oldest entry first.
    kept: BTreeSet<(Index, SessionId, u64)>,
    /// The responses that are kept, in bytes.
    bytes: u64,
}

/// What is remembered of a session. Shared with images of the table until it changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Session<R> {
    /// The entry of its last command.
    pub(super) last_used: Index,
    /// The lowest number whose answer the client lacks. Starts at 1; only grows.
    pub(super) unanswered: u64,
    /// The numbers that were applied, from `unanswered` on.
    pub(super) applied: BTreeMap<u64, AppliedCall<R>>,
    /// Its responses that are kept, in bytes.
    pub(super) bytes: u64,
}

/// A command that was applied.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct AppliedCall<R> {
    /// The entry that applied it.
    pub(super) at: Index,
    /// Its response and how many bytes that counts, unless it had to make room.
    pub(super) kept: Option<(R, u32)>,
}

impl<R> Default for Sessions<R> {
    fn default() -> Self {
        Self::new(SessionLimits::default())
    }
}

impl<R> Sessions<R> {
    /// No sessions yet. All replicas begin with the same limits.
    #[must_use]
    pub const fn new(limits: SessionLimits) -> Self {
        Self {
            limits: limits.sound(),
            last_id: 0,
            open: BTreeMap::new(),
            by_use: BTreeSet::new(),
            kept: BTreeSet::new(),
            bytes: 0,
        }
    }

    /// The limits in force: those of the snapshot, once one was restored.
    #[must_use]
    pub const fn limits(&self) -> SessionLimits {
        self.limits
    }

    /// How many sessions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether there is no session.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Whether there is this session.
    #[must_use]
    pub fn contains(&self, session: SessionId) -> bool {
        self.open.contains_key(&session)
    }

    /// The sessions, the one opened first at the beginning.
    pub fn ids(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.open.keys().copied()
    }

    /// What the responses that are kept count, in bytes.
    #[must_use]
    pub const fn response_bytes(&self) -> u64 {
        self.bytes
    }
}

impl<R: SessionResponse> Sessions<R> {
    /// Applies what stands in the entry `index`. `run` is the state machine's own: it gets the command
    /// within the envelope, and is called if the command is to be applied, else not.
    ///
    /// # Errors
    /// The command was not applied by this entry, and why; [`SessionError`] says what to do.
    pub fn apply(
        &mut self,
        index: Index,
        command: &SessionCommand,
        run: impl FnOnce(&Bytes) -> R,
    ) -> Result<SessionReply<R>, SessionError> {
        match command {
            SessionCommand::Open => Ok(SessionReply::Opened(self.open(index))),
            SessionCommand::Call(call) => self.call(index, call, run),
            SessionCommand::KeepAlive { session, unanswered } => {
                self.touch(index, *session)?;
                self.acknowledge(*session, *unanswered);
                Ok(SessionReply::Alive(*session))
            }
            SessionCommand::Close { session } => match self.end(*session) {
                true => Ok(SessionReply::Closed(*session)),
                false => Err(SessionError::Expired { session: *session }),
            },
            SessionCommand::Plain(command) => Ok(SessionReply::Applied(run(command))),
        }
    }

    /// Opens a session: its id is the entry's index, or the next free number if the entry opens several.
    fn open(&mut self, index: Index) -> SessionId {
        while self.open.len() >= self.limits.sessions_max as usize {
            self.evict();
        }
        // Ids are told apart from all that ever were, the evicted ones too: were one given out again, the
        // commands of its first owner would pass for the second's.
        let id = index.0.max(self.last_id.saturating_add(1));
        assert!(id > self.last_id, "SessionIdUnique: session {id} was opened before");
        self.last_id = id;
        let session = SessionId(id);
        let new = Session { last_used: index, unanswered: 1, applied: BTreeMap::new(), bytes: 0 };
        self.open.insert(session, Arc::new(new));
        self.by_use.insert((index, session));
        session
    }

    fn call(
        &mut self,
        index: Index,
        call: &SessionCall,
        run: impl FnOnce(&Bytes) -> R,
    ) -> Result<SessionReply<R>, SessionError> {
        let SessionCall { session, sequence, unanswered, ref command } = *call;
        call.check()?;
        self.touch(index, session)?;
        self.acknowledge(session, unanswered);
        let known = self.open.get(&session).ok_or(SessionError::Expired { session })?;
        let unanswered = known.unanswered;
        if sequence < unanswered {
            return Err(SessionError::ResponseForgotten { session, sequence, reason: Forgotten::Acknowledged });
        }
        match known.applied.get(&sequence) {
            Some(AppliedCall { kept: Some((response, _)), .. }) => return Ok(SessionReply::Repeated(response.clone())),
            Some(AppliedCall { kept: None, .. }) => {
                return Err(SessionError::ResponseForgotten { session, sequence, reason: Forgotten::OverLimit });
            }
            None => {}
        }
        let window = self.limits.window;
        if sequence - unanswered >= u64::from(window) {
            return Err(SessionError::WindowExceeded { session, sequence, unanswered, window });
        }
        let response = run(command);
        self.record(index, session, sequence, response.clone());
        Ok(SessionReply::Applied(response))
    }

    /// Changes the limits and makes room at once. To be called while a command is applied that says so,
    /// and never otherwise: replicas with different limits forget differently.
    pub fn set_limits(&mut self, limits: SessionLimits) {
        self.limits = limits.sound();
        while self.open.len() > self.limits.sessions_max as usize {
            self.evict();
        }
        let sessions: alloc::vec::Vec<SessionId> = self.ids().collect();
        for session in sessions {
            self.make_room_in(session, 0);
        }
        self.make_room(0);
    }

    /// Whatever a session sends keeps it, also what is refused.
    fn touch(&mut self, index: Index, session: SessionId) -> Result<(), SessionError> {
        // An unknown session is never created here: it may have been evicted, and what it had applied would
        // be applied again (§6.3).
        let known = self.open.get_mut(&session).ok_or(SessionError::Expired { session })?;
        let known = Arc::make_mut(known);
        self.by_use.remove(&(known.last_used, session));
        self.by_use.insert((index, session));
        known.last_used = index;
        Ok(())
    }

    /// Forgets what the client has answers to. A late command that says less changes nothing.
    fn acknowledge(&mut self, session: SessionId, unanswered: u64) {
        let Some(known) = self.open.get_mut(&session).filter(|known| known.unanswered < unanswered) else { return };
        let known = Arc::make_mut(known);
        known.unanswered = unanswered;
        let still_unanswered = known.applied.split_off(&unanswered);
        for (sequence, call) in core::mem::replace(&mut known.applied, still_unanswered) {
            if let Some((_, bytes)) = call.kept {
                self.kept.remove(&(call.at, session, sequence));
                known.bytes -= u64::from(bytes);
                self.bytes -= u64::from(bytes);
            }
        }
    }

    /// Remembers that a number was applied, and its response if there is room for it.
    fn record(&mut self, index: Index, session: SessionId, sequence: u64, response: R) {
        let bytes = u32::try_from(response.encoded_len()).ok();
        let bytes = bytes.filter(|bytes| {
            *bytes <= self.limits.session_bytes_max && u64::from(*bytes) <= self.limits.total_bytes_max
        });
        if let Some(bytes) = bytes {
            self.make_room_in(session, bytes);
            self.make_room(bytes);
        }
        let Some(known) = self.open.get_mut(&session) else { return };
        let known = Arc::make_mut(known);
        let kept = bytes.map(|bytes| (response, bytes));
        if let Some(bytes) = bytes {
            known.bytes += u64::from(bytes);
            self.bytes += u64::from(bytes);
            self.kept.insert((index, session, sequence));
        }
        let before = known.applied.insert(sequence, AppliedCall { at: index, kept });
        assert!(before.is_none(), "SessionAppliedOnce: session {session} applied {sequence} before");
    }

    /// Drops responses of this session until there is room for so many bytes more, of the lowest numbers
    /// first: these are the likeliest to be answered.
    fn make_room_in(&mut self, session: SessionId, bytes: u32) {
        let limit = u64::from(self.limits.session_bytes_max);
        while let Some(known) = self.open.get(&session).filter(|known| known.bytes + u64::from(bytes) > limit) {
            let kept = known.applied.iter().find(|(_, call)| call.kept.is_some());
            let Some((at, sequence)) = kept.map(|(sequence, call)| (call.at, *sequence)) else { return };
            self.drop_response(at, session, sequence);
        }
    }

    /// Drops responses of whichever session until there is room for so many bytes more, oldest first.
    fn make_room(&mut self, bytes: u32) {
        while self.bytes + u64::from(bytes) > self.limits.total_bytes_max {
            let Some(&(at, session, sequence)) = self.kept.first() else { return };
            self.drop_response(at, session, sequence);
        }
    }

    /// The response goes, the mark that its command was applied stays.
    fn drop_response(&mut self, at: Index, session: SessionId, sequence: u64) {
        self.kept.remove(&(at, session, sequence));
        let Some(known) = self.open.get_mut(&session).map(Arc::make_mut) else { return };
        let Some((_, bytes)) = known.applied.get_mut(&sequence).and_then(|call| call.kept.take()) else { return };
        known.bytes -= u64::from(bytes);
        self.bytes -= u64::from(bytes);
    }

    /// Ends the session that was longest without a command.
    fn evict(&mut self) {
        if let Some(&(_, session)) = self.by_use.first() {
            self.end(session);
        }
    }

    /// Forgets all of a session; whether there was one.
    fn end(&mut self, session: SessionId) -> bool {
        let Some(known) = self.open.remove(&session) else { return false };
        self.by_use.remove(&(known.last_used, session));
        self.bytes -= known.bytes;
        for (sequence, call) in &known.applied {
            self.kept.remove(&(call.at, session, *sequence));
        }
        true
    }
}

impl<R> Sessions<R> {
    /// Puts the table together that these sessions make: what is derived of them follows.
    #[cfg(feature = "std")]
    pub(super) fn of(limits: SessionLimits, last_id: u64, open: BTreeMap<SessionId, Arc<Session<R>>>) -> Self {
        let mut sessions = Self { last_id, ..Self::new(limits) };
        for (id, session) in &open {
            sessions.by_use.insert((session.last_used, *id));
            sessions.bytes += session.bytes;
            let kept = session.applied.iter().filter(|(_, call)| call.kept.is_some());
            sessions.kept.extend(kept.map(|(sequence, call)| (call.at, *id, *sequence)));
        }
        sessions.open = open;
        sessions
    }
}
