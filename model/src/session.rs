//! The shipped table of client sessions in every state that a few clients and a short log can bring it to.
//!
//! Nothing of the table is in here: entries are applied to a real [`Sessions`], envelopes come from real
//! [`SessionClient`]s. What was proposed once may be applied at any later time, any number of times, or never: that is all
//! that leaders, crashes and retries can do to a log. Between any two entries the replica may be restored from a snapshot of
//! itself. What the laws compare with are ghosts that remember everything.

use bytes::Bytes;
use raft_io::Index;
use raft_io::session::{
    Forgotten, SessionClient, SessionCommand, SessionError, SessionId, SessionLimits, SessionReply, Sessions,
};
use stateright::{Model, Property};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::hash::Hash;

/// What the model asks of a table: the tests give it broken ones too.
pub trait Table: Clone + Debug + Eq + Hash {
    /// No sessions yet.
    fn new(limits: SessionLimits) -> Self;

    /// Applies an entry; a command that runs answers with the entry's index.
    ///
    /// # Errors
    /// As [`Sessions::apply`].
    fn apply(&mut self, index: u64, command: &SessionCommand) -> Result<SessionReply<u64>, SessionError>;

    /// The table of a replica that was restored from a snapshot of this one.
    #[must_use]
    fn restored(&self) -> Self;
}

impl Table for Sessions<u64> {
    fn new(limits: SessionLimits) -> Self {
        Self::new(limits)
    }

    fn apply(&mut self, index: u64, command: &SessionCommand) -> Result<SessionReply<u64>, SessionError> {
        self.apply(Index(index), command, |_| index)
    }

    fn restored(&self) -> Self {
        let mut bytes = Vec::new();
        self.image().write_to(&mut bytes).expect("memory takes everything");
        Self::read_from(&mut &bytes[..]).expect("its own bytes")
    }
}

/// How far to look.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How many clients.
    pub clients: usize,
    /// How many sessions each client opens, one after the other.
    pub opens_max: u8,
    /// How many commands it sends in each.
    pub sequence_max: u64,
    /// How many entries are applied.
    pub entries_max: u64,
    /// The table's limits, and by `window` the clients' too.
    pub limits: SessionLimits,
}

/// The model.
#[derive(Clone, Debug)]
pub struct SessionModel<T> {
    bounds: Bounds,
    empty: T,
}

impl<T: Table> SessionModel<T> {
    /// With these bounds.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, empty: T::new(bounds.limits) }
    }
}

/// A client: what it has asked for, and its session once it knows of one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Client {
    opens: u8,
    waits_for_a_session: bool,
    session: Option<SessionClient>,
}

/// What a step was, as far as goals ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Seen {
    /// None of these.
    Other,
    /// A command was applied after one of a higher number.
    OutOfOrder,
    /// A repetition got its response.
    Repeated,
    /// A command came when its session had been evicted, after it had been applied there.
    LateForItsSession,
    /// A repetition came that its client no longer waits for.
    Acknowledged,
    /// A repetition came whose response had made room.
    OverLimit,
    /// A command was too far ahead.
    TooEarly,
    /// A replica was restored, with a response in its table.
    Restored,
}

/// The replica, the clients, what is on its way, and everything that ever was.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State<T> {
    table: T,
    clients: Vec<Client>,
    /// Everything that was ever proposed.
    proposed: BTreeSet<Bytes>,
    /// How many entries were applied.
    entries: u64,
    /// Ghost: the responses of each number of each session, one for each time that it was applied.
    applied: BTreeMap<(SessionId, u64), Vec<u64>>,
    /// Ghost: the sessions that should be there, the one longest without a command first.
    by_use: Vec<SessionId>,
    /// Ghost: every id that was given out.
    ids: Vec<SessionId>,
    /// Ghost: a repetition got another response than the first.
    answered_differently: bool,
    /// Ghost: a session was refused that should be there, or taken that should not.
    ended_without_reason: bool,
    seen: Seen,
}

/// What can happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A client asks for a session.
    Open(usize),
    /// It sends its next command.
    Request(usize),
    /// It sends one again.
    Retry(usize, u64),
    /// It wants no answer to one any more.
    GiveUp(usize, u64),
    /// It ends its session.
    Close(usize),
    /// Something that was proposed is applied, and the answer reaches a client or nobody.
    Apply(Bytes, Option<usize>),
    /// The replica is restored from a snapshot of itself.
    Restore,
}

/// What must hold in every state.
pub const LAWS: [&str; 4] = ["SessionAppliedOnce", "SessionAnswersAlike", "SessionEndsForAReason", "SessionIdUnique"];

impl<T: Table> State<T> {
    fn keeps(&self, law: &str) -> bool {
        match law {
            "SessionAppliedOnce" => self.applied.values().all(|responses| responses.len() == 1),
            "SessionAnswersAlike" => !self.answered_differently,
            "SessionEndsForAReason" => !self.ended_without_reason,
            _ => self.ids.iter().collect::<BTreeSet<_>>().len() == self.ids.len(),
        }
    }

    fn propose(&mut self, envelope: Bytes) {
        self.proposed.insert(envelope);
    }

    fn apply(&mut self, envelope: &Bytes, to: Option<usize>, limits: &SessionLimits) {
        self.entries += 1;
        let command = SessionCommand::decode(envelope).expect("a client made it");
        let outcome = self.table.apply(self.entries, &command);
        self.note(&command, &outcome, limits);
        if let Some(client) = to {
            self.clients[client].hear(&command, &outcome);
        }
    }

    /// Brings the ghosts up to date and judges the outcome by them.
    fn note(
        &mut self,
        command: &SessionCommand,
        outcome: &Result<SessionReply<u64>, SessionError>,
        limits: &SessionLimits,
    ) {
        let session = match (command, outcome) {
            (_, Ok(SessionReply::Opened(session))) => {
                while self.by_use.len() >= limits.sessions_max as usize {
                    self.by_use.remove(0);
                }
                self.by_use.push(*session);
                self.ids.push(*session);
                return;
            }
            (SessionCommand::Call(call), _) => call.session,
            (SessionCommand::Close { session }, _) => *session,
            other => panic!("no client of the model does this: {other:?}"),
        };
        let should_be_there = self.by_use.contains(&session);
        let is_taken = !matches!(outcome, Err(SessionError::Expired { .. }));
        self.ended_without_reason |= should_be_there != is_taken;
        self.by_use.retain(|other| *other != session);
        let SessionCommand::Call(call) = command else { return };
        if should_be_there {
            self.by_use.push(session);
        }
        let key = (session, call.sequence);
        let first = self.applied.get(&key).and_then(|responses| responses.first().copied());
        let is_out_of_order = self.applied.keys().any(|(other, number)| *other == session && *number > call.sequence);
        self.seen = match outcome {
            Ok(SessionReply::Applied(response)) => {
                self.applied.entry(key).or_default().push(*response);
                if is_out_of_order { Seen::OutOfOrder } else { Seen::Other }
            }
            Ok(SessionReply::Repeated(response)) => {
                self.answered_differently |= first != Some(*response);
                Seen::Repeated
            }
            Err(SessionError::Expired { .. }) if first.is_some() => Seen::LateForItsSession,
            Err(SessionError::ResponseForgotten { reason: Forgotten::Acknowledged, .. }) => Seen::Acknowledged,
            Err(SessionError::ResponseForgotten { .. }) => {
                // It claims that the command was applied.
                self.answered_differently |= first.is_none();
                Seen::OverLimit
            }
            Err(SessionError::WindowExceeded { .. }) => Seen::TooEarly,
            _ => Seen::Other,
        };
    }
}

impl Client {
    /// Whether an answer to this command is for this client.
    fn waits_for(&self, command: &SessionCommand) -> bool {
        match (command, &self.session) {
            (SessionCommand::Open, None) => self.waits_for_a_session,
            (SessionCommand::Call(call), Some(client)) => {
                client.session() == call.session && client.retry(call.sequence).is_some()
            }
            (SessionCommand::Close { session }, Some(client)) => client.session() == *session,
            _ => false,
        }
    }

    fn hear(&mut self, command: &SessionCommand, outcome: &Result<SessionReply<u64>, SessionError>) {
        match (outcome, command, &mut self.session) {
            (Ok(SessionReply::Opened(session)), ..) => {
                self.waits_for_a_session = false;
                // One more than the table allows, so that the table has something to refuse.
                self.session = Some(SessionClient::new(*session, 3));
            }
            (Ok(SessionReply::Closed(_)) | Err(SessionError::Expired { .. }), ..) => self.session = None,
            (Ok(_) | Err(SessionError::ResponseForgotten { .. }), SessionCommand::Call(call), Some(client)) => {
                client.answered(call.sequence);
            }
            _ => {}
        }
    }

    fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        self.session.iter().flat_map(|client| client.unanswered().map(|(sequence, _)| sequence))
    }
}

impl<T: Table> Model for SessionModel<T> {
    type State = State<T>;
    type Action = Action;

    fn init_states(&self) -> Vec<State<T>> {
        vec![State {
            table: self.empty.clone(),
            clients: vec![Client::default(); self.bounds.clients],
            proposed: BTreeSet::new(),
            entries: 0,
            applied: BTreeMap::new(),
            by_use: Vec::new(),
            ids: Vec::new(),
            answered_differently: false,
            ended_without_reason: false,
            seen: Seen::Other,
        }]
    }

    fn actions(&self, state: &State<T>, actions: &mut Vec<Action>) {
        if state.entries == self.bounds.entries_max {
            return;
        }
        actions.push(Action::Restore);
        for (at, client) in state.clients.iter().enumerate() {
            match &client.session {
                None if !client.waits_for_a_session && client.opens < self.bounds.opens_max => {
                    actions.push(Action::Open(at));
                }
                None => {}
                Some(_) => {
                    actions.extend([Action::Request(at), Action::Close(at)]);
                    actions.extend(client.numbers().map(|sequence| Action::Retry(at, sequence)));
                    actions.extend(client.numbers().map(|sequence| Action::GiveUp(at, sequence)));
                }
            }
        }
        for envelope in &state.proposed {
            actions.push(Action::Apply(envelope.clone(), None));
            let command = SessionCommand::decode(envelope).expect("a client made it");
            let waiting = (0..state.clients.len()).filter(|at| state.clients[*at].waits_for(&command));
            actions.extend(waiting.map(|at| Action::Apply(envelope.clone(), Some(at))));
        }
    }

    fn next_state(&self, before: &State<T>, action: Action) -> Option<State<T>> {
        let mut state = before.clone();
        state.seen = Seen::Other;
        match action {
            Action::Open(at) => {
                let client = &mut state.clients[at];
                client.opens += 1;
                client.waits_for_a_session = true;
                state.propose(SessionClient::open());
            }
            Action::Request(at) => {
                let client = state.clients[at].session.as_mut()?;
                let request = client.request(Bytes::new()).ok()?;
                if request.sequence > self.bounds.sequence_max {
                    return None;
                }
                state.propose(request.envelope);
            }
            Action::Retry(at, sequence) => {
                let envelope = state.clients[at].session.as_ref()?.retry(sequence)?;
                state.propose(envelope);
            }
            Action::GiveUp(at, sequence) => {
                state.clients[at].session.as_mut()?.answered(sequence);
            }
            Action::Close(at) => {
                let envelope = state.clients[at].session.as_ref()?.close();
                state.propose(envelope);
            }
            Action::Apply(envelope, to) => state.apply(&envelope, to, &self.bounds.limits),
            Action::Restore => {
                state.table = state.table.restored();
                if !state.applied.is_empty() {
                    state.seen = Seen::Restored;
                }
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(LAWS[0], |_, state: &State<T>| state.keeps(LAWS[0])),
            Property::always(LAWS[1], |_, state: &State<T>| state.keeps(LAWS[1])),
            Property::always(LAWS[2], |_, state: &State<T>| state.keeps(LAWS[2])),
            Property::always(LAWS[3], |_, state: &State<T>| state.keeps(LAWS[3])),
            Property::sometimes("out of order", |_, state: &State<T>| state.seen == Seen::OutOfOrder),
            Property::sometimes("repeated", |_, state: &State<T>| state.seen == Seen::Repeated),
            Property::sometimes("late for its session", |_, state: &State<T>| state.seen == Seen::LateForItsSession),
            Property::sometimes("acknowledged", |_, state: &State<T>| state.seen == Seen::Acknowledged),
            Property::sometimes("over the limit", |_, state: &State<T>| state.seen == Seen::OverLimit),
            Property::sometimes("too early", |_, state: &State<T>| state.seen == Seen::TooEarly),
            Property::sometimes("restored", |_, state: &State<T>| state.seen == Seen::Restored),
            Property::sometimes("two sessions", |_, state: &State<T>| state.by_use.len() == 2),
        ]
    }
}
