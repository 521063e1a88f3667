//! Every distinct server, message and step, once.
//!
//! A cluster of three servers reaches millions of states out of a few thousand distinct states of one server. So servers
//! and messages are numbered, and a step of the real protocol is run once for each pair of server and input; after that
//! it is a look into a table. [`Tables`] is shared by all threads and only grows; each thread reads a copy of its own
//! ([`Copies`]), which it brings up to date when it meets a number that it does not know.

use crate::config::Configuration;
use crate::facts::{Facts, MembershipNumber, MessageFacts, READS_MAX};
use crate::laws::{self, Law};
use crate::membership::Masks;
use crate::server::{Input, Server, Stepped, permute_envelope};
use crate::symmetry::Permutations;
use raft_io::types::Index;
use raft_io::{Action, EntryId, Envelope, Event, LogView, NodeId};
use rustc_hash::FxHashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// The number of a distinct server.
pub type ServerId = u32;
/// The number of a distinct message.
pub type MessageId = u16;

/// An input in one word: what happens, and with which message or how many writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// `ElectionTimeout`.
    ElectionTimeout,
    /// `MinimumElectionTimeout`.
    MinimumElectionTimeout,
    /// `HeartbeatTimeout`.
    HeartbeatTimeout,
    /// `QuorumCheckTimeout`.
    QuorumCheckTimeout,
    /// `ClientRequest`.
    ClientRequest,
    /// `ReadRequest`, by the read's context.
    ReadRequest(u8),
    /// `LeaseReadRequest`, by the read's context.
    LeaseReadRequest(u8),
    /// `FollowerReadRequest`, by the read's context.
    FollowerReadRequest(u8),
    /// `LeaseTimeout`, by the round.
    LeaseTimeout(u8),
    /// `StepDown`.
    StepDown,
    /// `TransferLeadership`, by the position of the server that is to lead.
    TransferLeadership(u8),
    /// `TransferTimeout`.
    TransferTimeout,
    /// `ChangeMembership`, to the target of this number in the configuration.
    ChangeMembership(u8),
    /// `SnapshotTaken`, up to this index; the log keeps so many of the entries that it covers.
    SnapshotTaken(u8, u8),
    /// `SnapshotFetched`.
    SnapshotFetched,
    /// `SnapshotFetchFailed`.
    SnapshotFetchFailed,
    /// One of the `Handle…`.
    Receive(MessageId),
    /// `Persisted`, of so many writes.
    Persisted(u8),
    /// `Crash`; so many writes survive.
    Crash(u8),
    /// `Wipe`.
    Wipe,
    /// `BackUp`.
    BackUp,
    /// `RollBack`.
    RollBack,
}

impl Code {
    fn key(self, server: ServerId) -> u64 {
        let code = match self {
            Self::ElectionTimeout => 0x1_0000,
            Self::MinimumElectionTimeout => 0x1_0001,
            Self::HeartbeatTimeout => 0x1_0002,
            Self::QuorumCheckTimeout => 0x1_0003,
            Self::ClientRequest => 0x1_0004,
            Self::SnapshotFetched => 0x1_0006,
            Self::SnapshotFetchFailed => 0x1_0007,
            Self::SnapshotTaken(index, trail) => 0x6_0000 | u32::from(index) << 8 | u32::from(trail),
            Self::Receive(message) => u32::from(message),
            Self::ReadRequest(context) => 0x4_0000 | u32::from(context),
            Self::LeaseReadRequest(context) => 0x8_0000 | u32::from(context),
            Self::FollowerReadRequest(context) => 0xa_0000 | u32::from(context),
            Self::LeaseTimeout(round) => 0x9_0000 | u32::from(round),
            Self::StepDown => 0x1_0008,
            Self::Wipe => 0x1_0009,
            Self::BackUp => 0x1_000a,
            Self::RollBack => 0x1_000b,
            Self::TransferLeadership(target) => 0x5_0000 | u32::from(target),
            Self::TransferTimeout => 0x1_0005,
            Self::ChangeMembership(target) => 0x7_0000 | u32::from(target),
            Self::Persisted(writes) => 0x2_0000 | u32::from(writes),
            Self::Crash(survive) => 0x3_0000 | u32::from(survive),
        };
        u64::from(server) << 32 | u64::from(code)
    }
}

/// What comes of a step, by numbers.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// The server afterwards.
    pub next: ServerId,
    /// Where the messages that left stand among all sent.
    sent_start: u32,
    sent_len: u8,
    /// Whether the server is within the bounds.
    pub in_bounds: bool,
    /// Whether nothing changed and nothing was sent.
    pub is_nothing: bool,
    /// The laws that the step broke.
    pub broken: u64,
    /// The goals that it reached.
    pub goals: u64,
    /// The reads that it answers.
    pub answers: Answers,
    /// Its input's position among the names of actions; see `Action::NAMES`.
    pub name: u8,
}

/// The reads that a step answers, by context and index.
pub type Answers = [Option<(u8, u8)>; READS_MAX];

/// The answers among a step's actions.
#[must_use]
pub fn answers(actions: &[Action]) -> Answers {
    let mut answers = Answers::default();
    let ready = actions.iter().filter_map(|action| match action {
        Action::ReadReady { context, index } => Some((*context as u8, index.0 as u8)),
        _ => None,
    });
    answers.iter_mut().zip(ready).for_each(|(slot, answer)| *slot = Some(answer));
    answers
}

#[derive(Default)]
struct Shared {
    servers: Vec<Arc<Server>>,
    server_ids: FxHashMap<Arc<Server>, ServerId>,
    facts: Vec<Facts>,
    /// For each server one content hash per permutation.
    server_hashes: Vec<u64>,
    messages: Vec<Arc<Envelope>>,
    message_ids: FxHashMap<Arc<Envelope>, MessageId>,
    message_facts: Vec<MessageFacts>,
    message_hashes: Vec<u64>,
    outcomes: Vec<Outcome>,
    /// For each outcome what it came of.
    inputs: Vec<(ServerId, Code)>,
    sent: Vec<MessageId>,
    steps: FxHashMap<u64, u32>,
    /// The configurations of the cluster that were met, by number less one.
    memberships: Vec<Masks>,
    /// What the assertions said that stopped a server.
    panics: Vec<String>,
}

/// The tables of one run.
pub struct Tables {
    shared: Mutex<Shared>,
    identity: u64,
}

static RUNS: AtomicU64 = AtomicU64::new(1);

impl Default for Tables {
    fn default() -> Self {
        Self { shared: Mutex::default(), identity: RUNS.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Tables {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The server of this number.
    #[must_use]
    pub fn server(&self, id: ServerId) -> Arc<Server> {
        Arc::clone(&self.lock().servers[id as usize])
    }

    /// The message of this number.
    #[must_use]
    pub fn message(&self, id: MessageId) -> Arc<Envelope> {
        Arc::clone(&self.lock().messages[usize::from(id)])
    }

    /// How many distinct servers, messages and steps there are.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize, usize) {
        let shared = self.lock();
        (shared.servers.len(), shared.messages.len(), shared.outcomes.len())
    }

    /// Every distinct server so far, with its facts.
    pub(crate) fn servers(&self) -> Vec<(Arc<Server>, Facts)> {
        let shared = self.lock();
        shared.servers.iter().cloned().zip(shared.facts.iter().copied()).collect()
    }

    /// Every distinct message so far, with its facts.
    pub(crate) fn messages(&self) -> Vec<(Arc<Envelope>, MessageFacts)> {
        let shared = self.lock();
        shared.messages.iter().cloned().zip(shared.message_facts.iter().copied()).collect()
    }

    /// Every distinct step so far: the server, what happened to it, and what came of it.
    pub(crate) fn steps(&self) -> Vec<(ServerId, Code, Outcome)> {
        let shared = self.lock();
        shared.inputs.iter().zip(&shared.outcomes).map(|(&(id, code), &outcome)| (id, code, outcome)).collect()
    }

    /// What stopped servers, in their own words.
    #[must_use]
    pub fn panics(&self) -> Vec<String> {
        self.lock().panics.clone()
    }

    /// The number of a server; its facts and hashes are made the first time.
    pub fn intern_server(&self, server: &Server, permutations: &Permutations) -> ServerId {
        if let Some(&id) = self.lock().server_ids.get(server) {
            return id;
        }
        let facts = Facts::of(server, &server.state(), |membership| self.number(Masks::of(membership)));
        let hashes: Vec<u64> =
            permutations.iter().map(|permutation| content_hash(&server.permute(|id| permutation.apply(id)))).collect();
        let mut shared = self.lock();
        if let Some(&id) = shared.server_ids.get(server) {
            return id;
        }
        let id = ServerId::try_from(shared.servers.len()).expect("fewer than 2^32 servers");
        let server = Arc::new(server.clone());
        shared.servers.push(Arc::clone(&server));
        shared.server_ids.insert(server, id);
        shared.facts.push(facts);
        shared.server_hashes.extend(hashes);
        id
    }

    fn number(&self, masks: Masks) -> MembershipNumber {
        let mut shared = self.lock();
        let known = shared.memberships.iter().position(|each| *each == masks);
        let at = known.unwrap_or_else(|| {
            shared.memberships.push(masks);
            shared.memberships.len() - 1
        });
        MembershipNumber::try_from(at + 1).expect("fewer than 2^8 configurations of the cluster")
    }

    /// The configuration of this number.
    #[must_use]
    pub fn membership(&self, number: MembershipNumber) -> Masks {
        self.lock().memberships[usize::from(number) - 1]
    }

    fn intern_message(&self, envelope: &Envelope, permutations: &Permutations) -> MessageId {
        let mut shared = self.lock();
        if let Some(&id) = shared.message_ids.get(envelope) {
            return id;
        }
        let id = MessageId::try_from(shared.messages.len()).expect("fewer than 2^16 distinct messages");
        let facts = MessageFacts::of(envelope);
        let hashes = permutations.iter().map(|p| content_hash(&permute_envelope(envelope, |id| p.apply(id))));
        shared.message_hashes.extend(hashes);
        let envelope = Arc::new(envelope.clone());
        shared.messages.push(Arc::clone(&envelope));
        shared.message_ids.insert(envelope, id);
        shared.message_facts.push(facts);
        id
    }

    /// The input that a code stands for, to this server.
    #[must_use]
    pub fn input(&self, configuration: &Configuration, server: ServerId, code: Code) -> Input {
        let state = || self.server(server).state();
        let fetched = || state().fetching.expect("only what is being fetched can arrive or fail").1;
        match code {
            Code::SnapshotTaken(index, trail) => {
                let index = Index(u64::from(index));
                let term = self.server(server).log().term(index).expect("what is applied is in the log");
                let compact_through = Index(index.0.saturating_sub(u64::from(trail)));
                Input::Event(Event::SnapshotTaken { last: EntryId { index, term }, compact_through })
            }
            Code::SnapshotFetched => Input::Event(Event::SnapshotFetched { last: fetched() }),
            Code::SnapshotFetchFailed => Input::Event(Event::SnapshotFetchFailed { last: fetched() }),
            Code::ElectionTimeout => Input::Event(Event::ElectionTimeout),
            Code::MinimumElectionTimeout => Input::Event(Event::MinimumElectionTimeout),
            Code::HeartbeatTimeout => Input::Event(Event::HeartbeatTimeout),
            Code::QuorumCheckTimeout => Input::Event(Event::QuorumCheckTimeout),
            Code::ClientRequest => Input::client_request(),
            Code::ReadRequest(context) => Input::Event(Event::ReadRequest { context: u64::from(context) }),
            Code::LeaseReadRequest(context) => Input::Event(Event::LeaseReadRequest { context: u64::from(context) }),
            Code::FollowerReadRequest(context) => {
                Input::Event(Event::FollowerReadRequest { context: u64::from(context) })
            }
            Code::LeaseTimeout(round) => Input::Event(Event::LeaseTimeout { round: u64::from(round) }),
            Code::StepDown => Input::Event(Event::StepDown),
            Code::TransferLeadership(target) => {
                Input::Event(Event::TransferLeadership { target: NodeId(u64::from(target) + 1) })
            }
            Code::TransferTimeout => Input::Event(Event::TransferTimeout),
            Code::ChangeMembership(target) => {
                let target = &configuration.targets.1[usize::from(target)];
                Input::Event(Event::ChangeMembership { target: Arc::new(target.membership()) })
            }
            Code::Receive(message) => Input::Event(Event::Receive((*self.message(message)).clone())),
            Code::Persisted(writes) => Input::Event(Event::Persisted { writes: usize::from(writes) }),
            Code::Crash(survive) => Input::Crash { survive: usize::from(survive) },
            Code::Wipe => Input::Wipe,
            Code::BackUp => Input::BackUp,
            Code::RollBack => Input::RollBack,
        }
    }

    /// Runs the real step and notes what came of it.
    fn run(&self, configuration: &Configuration, permutations: &Permutations, id: ServerId, code: Code) -> u32 {
        let key = code.key(id);
        if let Some(&outcome) = self.lock().steps.get(&key) {
            return outcome;
        }
        let server = self.server(id);
        let input = self.input(configuration, id, code);
        let name = crate::action::name_position(input.name());
        let outcome = match server.step(configuration, &input) {
            Ok(stepped) => self.outcome(configuration, permutations, (id, &server), &input, &stepped, name),
            Err(message) => {
                self.lock().panics.push(format!("{}: {message}", input.name()));
                let broken = Law::ServerLaws.bit();
                Outcome {
                    next: id,
                    sent_start: 0,
                    sent_len: 0,
                    in_bounds: true,
                    is_nothing: false,
                    broken,
                    goals: 0,
                    answers: Answers::default(),
                    name,
                }
            }
        };
        let mut shared = self.lock();
        if let Some(&outcome) = shared.steps.get(&key) {
            return outcome;
        }
        let position = u32::try_from(shared.outcomes.len()).expect("fewer than 2^32 steps");
        shared.outcomes.push(outcome);
        shared.inputs.push((id, code));
        shared.steps.insert(key, position);
        position
    }

    fn outcome(
        &self,
        configuration: &Configuration,
        permutations: &Permutations,
        (id, server): (ServerId, &Server),
        input: &Input,
        stepped: &Stepped,
        name: u8,
    ) -> Outcome {
        let mut broken = laws::of_step(configuration, server, input, stepped);
        if server.step_with_log_ahead(configuration, input).as_ref() != Ok(stepped) {
            broken |= Law::LogAheadChangesNothing.bit();
        }
        if !is_alike_when_writing_through(configuration, server, input) {
            broken |= Law::WritingThroughChangesNothing.bit();
        }
        let next = self.intern_server(&stepped.server, permutations);
        let mut sent: Vec<MessageId> =
            stepped.sent.iter().map(|envelope| self.intern_message(envelope, permutations)).collect();
        sent.sort_unstable();
        sent.dedup();
        let mut shared = self.lock();
        let (before, after) = (shared.facts[id as usize], shared.facts[next as usize]);
        let in_bounds = after.term <= configuration.term_max
            && after.log.len() <= u32::from(configuration.log_max)
            && after.pending <= configuration.pending_max
            && after.read_round <= configuration.reads_max;
        let goals = laws::goals_of_step(&before, &after, input, &stepped.actions);
        let answers = answers(&stepped.actions);
        let sent_start = u32::try_from(shared.sent.len()).expect("fewer than 2^32 messages sent");
        let sent_len = u8::try_from(sent.len()).expect("fewer than 256 messages in one step");
        let is_nothing = next == id && sent.is_empty() && answers == Answers::default();
        shared.sent.extend(sent);
        Outcome { next, sent_start, sent_len, in_bounds, is_nothing, broken, goals, answers, name }
    }
}

/// Whether a step that writes as it goes ends where the step and the reports of its writes end, with the same messages.
fn is_alike_when_writing_through(configuration: &Configuration, server: &Server, input: &Input) -> bool {
    let Input::Event(event) = input else { return true };
    if !server.in_flight.is_empty() {
        return true;
    }
    match (server.step_writing_through(event), server.step_until_durable(configuration, event)) {
        (Ok(one), Ok(other)) => one.server == other.server && sorted_hashes(&one.sent) == sorted_hashes(&other.sent),
        (one, other) => one.is_err() == other.is_err(),
    }
}

fn sorted_hashes(sent: &[Envelope]) -> Vec<u64> {
    let mut hashes: Vec<u64> = sent.iter().map(content_hash).collect();
    hashes.sort_unstable();
    hashes
}

pub(crate) fn content_hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// One thread's copies of the tables.
#[derive(Default)]
pub struct Copies {
    identity: u64,
    facts: Vec<Facts>,
    server_hashes: Vec<u64>,
    message_facts: Vec<MessageFacts>,
    message_hashes: Vec<u64>,
    outcomes: Vec<Outcome>,
    sent: Vec<MessageId>,
    memberships: Vec<Masks>,
    steps: FxHashMap<u64, u32>,
}

impl Copies {
    /// Makes these the copies of `tables`, with at least `servers` servers and `messages` messages.
    pub fn bring_up_to_date(&mut self, tables: &Tables, servers: usize, messages: usize) {
        let known = self.identity == tables.identity;
        if known && self.facts.len() >= servers && self.message_facts.len() >= messages {
            return;
        }
        if !known {
            *self = Self { identity: tables.identity, ..Self::default() };
        }
        self.catch_up(tables);
    }

    fn catch_up(&mut self, tables: &Tables) {
        fn extend<T: Copy>(own: &mut Vec<T>, all: &[T]) {
            own.extend_from_slice(&all[own.len()..]);
        }
        let shared = tables.lock();
        extend(&mut self.facts, &shared.facts);
        extend(&mut self.server_hashes, &shared.server_hashes);
        extend(&mut self.message_facts, &shared.message_facts);
        extend(&mut self.message_hashes, &shared.message_hashes);
        extend(&mut self.outcomes, &shared.outcomes);
        extend(&mut self.sent, &shared.sent);
        extend(&mut self.memberships, &shared.memberships);
    }

    /// A server's facts.
    #[must_use]
    pub fn facts(&self, id: ServerId) -> &Facts {
        &self.facts[id as usize]
    }

    /// The configurations of the cluster, by number less one.
    #[must_use]
    pub fn memberships(&self) -> &[Masks] {
        &self.memberships
    }

    /// A message's facts.
    #[must_use]
    pub fn message_facts(&self, id: MessageId) -> MessageFacts {
        self.message_facts[usize::from(id)]
    }

    /// A server's content hash under each of `count` permutations.
    #[must_use]
    pub fn server_hashes(&self, id: ServerId, count: usize) -> &[u64] {
        &self.server_hashes[id as usize * count..][..count]
    }

    /// A message's content hash under each of `count` permutations.
    #[must_use]
    pub fn message_hashes(&self, id: MessageId, count: usize) -> &[u64] {
        &self.message_hashes[usize::from(id) * count..][..count]
    }

    /// What comes of an input.
    pub fn step(
        &mut self,
        tables: &Tables,
        configuration: &Configuration,
        permutations: &Permutations,
        id: ServerId,
        code: Code,
    ) -> u32 {
        let key = code.key(id);
        if let Some(&outcome) = self.steps.get(&key) {
            return outcome;
        }
        let outcome = tables.run(configuration, permutations, id, code);
        if outcome as usize >= self.outcomes.len() {
            self.catch_up(tables);
        }
        self.steps.insert(key, outcome);
        outcome
    }

    /// The outcome of this number.
    #[must_use]
    pub fn outcome(&self, outcome: u32) -> &Outcome {
        &self.outcomes[outcome as usize]
    }

    /// The messages that left, ascending by number.
    #[must_use]
    pub fn sent(&self, outcome: &Outcome) -> &[MessageId] {
        &self.sent[outcome.sent_start as usize..][..usize::from(outcome.sent_len)]
    }
}
