//! The client's side: numbers, envelopes, and what has no answer yet.

use super::command::{SessionCall, SessionCommand, SessionId};
use alloc::collections::BTreeMap;
use bytes::Bytes;
use thiserror::Error;

/// Numbers the commands of one session and remembers those without an answer.
///
/// No I/O: the envelopes that it gives are to be proposed, by whatever way, as often as it takes. Give
/// it up when a [`SessionError::Expired`](super::SessionError::Expired) comes: the session is gone, and
/// whether what it still [remembers](SessionClient::unanswered) was applied is not known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SessionClient {
    session: SessionId,
    /// How many commands may be in flight, counted from the lowest one without an answer.
    window: u64,
    /// The next new number. Starts at 1; only grows.
    next: u64,
    /// The commands without an answer, by their numbers, all below `next`.
    unanswered: BTreeMap<u64, Bytes>,
}

/// A new command of a session, to be proposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRequest {
    /// Its number: what [`SessionClient::retry`] and [`SessionClient::answered`] are told.
    pub sequence: u64,
    /// What is to be proposed.
    pub envelope: Bytes,
}

/// As many commands are in flight as may be. Nothing was numbered; wait for the lowest one's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("sequence {unanswered} has no answer yet, and no more than {window} may be in flight from it on")]
pub struct WindowFull {
    /// The lowest number without an answer.
    pub unanswered: u64,
    /// The limit.
    pub window: u32,
}

impl SessionClient {
    /// What is to be proposed to open a session. Its response says the session's id. Proposed twice, it
    /// opens two: use either, the other one is evicted in time.
    #[must_use]
    pub fn open() -> Bytes {
        SessionCommand::Open.encode()
    }

    /// The client of a session that was opened just now. `window` is at most
    /// [`SessionLimits::window`](super::SessionLimits::window); 0 counts as 1.
    #[must_use]
    pub fn new(session: SessionId, window: u32) -> Self {
        Self { session, window: u64::from(window.max(1)), next: 1, unanswered: BTreeMap::new() }
    }

    /// The session.
    #[must_use]
    pub const fn session(&self) -> SessionId {
        self.session
    }

    /// Numbers a command and puts it into its envelope.
    ///
    /// # Errors
    /// Too many are in flight; nothing was numbered.
    pub fn request(&mut self, command: Bytes) -> Result<SessionRequest, WindowFull> {
        let (sequence, lowest) = (self.next, self.lowest());
        if sequence - lowest >= self.window {
            return Err(WindowFull { unanswered: lowest, window: self.window as u32 });
        }
        self.next += 1;
        self.unanswered.insert(sequence, command.clone());
        Ok(SessionRequest { sequence, envelope: self.envelope(sequence, command) })
    }

    /// The same command with the same number, to be proposed once more; `None` if it has its answer. What
    /// it acknowledges is as of now.
    #[must_use]
    pub fn retry(&self, sequence: u64) -> Option<Bytes> {
        let command = self.unanswered.get(&sequence)?;
        Some(self.envelope(sequence, command.clone()))
    }

    /// The command has its answer, or none is wanted any more: the next envelopes tell the session to
    /// forget it, and it is never sent again. Whether it had none yet.
    ///
    /// Not for [`SessionError::WindowExceeded`](super::SessionError::WindowExceeded): that is no answer.
    pub fn answered(&mut self, sequence: u64) -> bool {
        self.unanswered.remove(&sequence).is_some()
    }

    /// The commands without an answer and their numbers, ascending.
    pub fn unanswered(&self) -> impl Iterator<Item = (u64, &Bytes)> + '_ {
        self.unanswered.iter().map(|(sequence, command)| (*sequence, command))
    }

    /// What is to be proposed now and then to keep a session that has nothing to do.
    #[must_use]
    pub fn keep_alive(&self) -> Bytes {
        SessionCommand::KeepAlive { session: self.session, unanswered: self.lowest() }.encode()
    }

    /// What is to be proposed to end the session. If it comes twice, the second time the session is
    /// not there any more: that is as good.
    #[must_use]
    pub fn close(&self) -> Bytes {
        SessionCommand::Close { session: self.session }.encode()
    }

    /// The lowest number without an answer, or the next if all have theirs.
    fn lowest(&self) -> u64 {
        self.unanswered.keys().next().copied().unwrap_or(self.next)
    }

    fn envelope(&self, sequence: u64, command: Bytes) -> Bytes {
        let (session, unanswered) = (self.session, self.lowest());
        SessionCommand::Call(SessionCall { session, sequence, unanswered, command }).encode()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(envelope: &Bytes) -> (u64, u64, Bytes) {
        match SessionCommand::decode(envelope) {
            Ok(SessionCommand::Call(call)) if call.session == SessionId(9) => {
                (call.sequence, call.unanswered, call.command)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_retry_has_the_same_number_and_acknowledges_what_is_answered_by_now() {
        let mut client = SessionClient::new(SessionId(9), 3);
        let requests = ["a", "b", "c"].map(|command| client.request(command.into()).expect("there is room"));
        assert_eq!(requests.each_ref().map(|request| request.sequence), [1, 2, 3]);
        assert_eq!(call(&requests[2].envelope), (3, 1, "c".into()));
        assert_eq!(client.request("d".into()), Err(WindowFull { unanswered: 1, window: 3 }));
        // The window begins at the lowest one without an answer, whatever others have theirs.
        assert!(client.answered(2) && !client.answered(2));
        assert_eq!(client.request("d".into()), Err(WindowFull { unanswered: 1, window: 3 }));
        assert!(client.answered(1));
        assert_eq!(client.retry(1), None);
        assert_eq!(call(&client.retry(3).expect("no answer yet")), (3, 3, "c".into()));
        assert_eq!(call(&client.request("d".into()).expect("there is room").envelope), (4, 3, "d".into()));
        let left: alloc::vec::Vec<u64> = client.unanswered().map(|(sequence, _)| sequence).collect();
        assert_eq!(left, [3, 4]);
    }

    #[test]
    fn an_idle_client_acknowledges_everything_when_it_keeps_its_session() {
        let mut client = SessionClient::new(SessionId(9), 0);
        assert_eq!(client.session(), SessionId(9));
        assert!(client.request("a".into()).is_ok() && client.request("b".into()).is_err());
        client.answered(1);
        let keep_alive = SessionCommand::KeepAlive { session: SessionId(9), unanswered: 2 };
        assert_eq!(SessionCommand::decode(&client.keep_alive()), Ok(keep_alive));
        assert_eq!(SessionCommand::decode(&client.close()), Ok(SessionCommand::Close { session: SessionId(9) }));
        assert_eq!(SessionCommand::decode(&SessionClient::open()), Ok(SessionCommand::Open));
    }
}
