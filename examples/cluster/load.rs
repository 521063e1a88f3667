//! The load: clients that work without a pause and write down what they saw.

use crate::client::{CallError, Client};
use crate::keys;
use crate::linearizability::{KeyValueInput as In, KeyValueOutput as Out, Operation};
use crate::nodes::Nodes;
use crate::server::reply::Value;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// One operation on a key, stamped in nanoseconds since the start of the run.
pub(crate) type Recorded = (u32, Operation<In, Out>);

/// What the clients share.
pub(crate) struct Shared {
    pub(crate) epoch: Instant,
    pause: Duration,
    /// How long one generation of shared keys is used; for ever unless given.
    generation: Option<Duration>,
    nodes: Nodes,
    stop: AtomicBool,
    /// Grows when a node is back, came or goes: clients go where they belong now.
    homecomings: AtomicU32,
    pub(crate) completed: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) unknown: AtomicU64,
}

impl Shared {
    pub(crate) fn now(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    fn generation(&self) -> u32 {
        self.generation.map_or(0, |lasts| (self.epoch.elapsed().as_millis() / lasts.as_millis().max(1)) as u32)
    }
}

/// What one client saw.
#[derive(Default)]
pub(crate) struct Notes {
    pub(crate) operations: Vec<Recorded>,
    /// Replies that no correct server gives.
    pub(crate) unexpected: Vec<String>,
}

/// The running clients.
pub(crate) struct Load {
    pub(crate) shared: Arc<Shared>,
    workers: Vec<JoinHandle<Notes>>,
}

impl Load {
    /// Each client rests for `pause` between two operations. A `generation` keeps the history of each key short.
    pub(crate) fn start(
        nodes: &Nodes,
        connections: u32,
        seed: u64,
        pause: Duration,
        generation: Option<Duration>,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            epoch: Instant::now(),
            pause,
            generation,
            nodes: nodes.clone(),
            stop: AtomicBool::new(false),
            homecomings: AtomicU32::new(0),
            completed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
        });
        let mut load = Self { shared, workers: Vec::new() };
        for client in 0..connections {
            let shared = Arc::clone(&load.shared);
            let random = Random(seed.wrapping_mul(0x9e37_79b9).wrapping_add(u64::from(client)));
            let worker = Worker { shared, client, random, sequence: 0, connection: None, notes: Notes::default() };
            load.workers.push(thread::Builder::new().stack_size(256 << 10).spawn(move || worker.run())?);
        }
        Ok(load)
    }

    /// Tells clients to go to the nodes where they belong now.
    pub(crate) fn call_home(&self) {
        self.shared.homecomings.fetch_add(1, Ordering::Relaxed);
    }

    /// Lets every client finish what it is doing, and takes their notes.
    pub(crate) fn stop(self) -> Result<Vec<Notes>, String> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let joined = self.workers.into_iter().map(JoinHandle::join);
        joined.map(|notes| notes.map_err(|_| "a client panicked".to_owned())).collect()
    }
}

struct Connection {
    client: Client,
    node: usize,
    /// The value of `homecomings` when it was last looked at.
    homecomings: u32,
}

struct Worker {
    shared: Arc<Shared>,
    client: u32,
    random: Random,
    /// Counts this client's operations: makes its values unique.
    sequence: u32,
    connection: Option<Connection>,
    notes: Notes,
}

impl Worker {
    fn run(mut self) -> Notes {
        while !self.shared.stop.load(Ordering::Relaxed) {
            if !self.is_connected() {
                thread::sleep(Duration::from_millis(5));
                continue;
            }
            self.sequence += 1;
            let (key, input) = self.choose();
            self.perform(key, input);
            if !self.shared.pause.is_zero() {
                thread::sleep(self.shared.pause);
            }
        }
        self.notes
    }

    /// Connects to the client's own node, or to the next one that is up; goes home when it may.
    fn is_connected(&mut self) -> bool {
        let homecomings = self.shared.homecomings.load(Ordering::Relaxed);
        if self.connection.as_ref().is_some_and(|connection| connection.homecomings == homecomings) {
            return true;
        }
        let serving = self.shared.nodes.serving();
        let mut order = (0..serving.len()).map(|offset| serving[(self.client as usize + offset) % serving.len()]);
        match &mut self.connection {
            Some(connection) if Some(connection.node) == order.clone().next() => connection.homecomings = homecomings,
            connection => {
                *connection = order.find_map(|node| {
                    let client = Client::connect(self.shared.nodes.port(node)).ok()?;
                    Some(Connection { client, node, homecomings })
                });
            }
        }
        self.connection.is_some()
    }

    fn choose(&mut self) -> (u32, In) {
        let unique = Bytes::from(format!("{}.{};", self.client, self.sequence));
        let generation = self.shared.generation() * keys::SHARED;
        let register = generation + self.random.below(keys::REGISTERS);
        let counter = generation + keys::REGISTERS + self.random.below(keys::COUNTERS);
        let list = generation + keys::REGISTERS + keys::COUNTERS + self.random.below(keys::LISTS);
        match self.random.below(100) {
            0..40 => (generation + self.random.below(keys::SHARED), In::Get),
            40..65 => (register, In::Set(unique)),
            65..68 => (register, In::SetIfAbsent(unique)),
            68..70 => (register, In::Delete),
            70..85 => (counter, In::Increment),
            85..94 => (list, In::Append(unique)),
            94..95 => (list, In::Set(unique)),
            _ => (keys::ledger(self.client, self.sequence), In::Set(unique)),
        }
    }

    fn perform(&mut self, key: u32, input: In) {
        let Some(connection) = &mut self.connection else { return };
        let called = self.shared.now();
        let reply = connection.client.call(&words(key, &input));
        let returned = self.shared.now();
        let completed = match reply {
            Ok(Value::Error(message)) if is_refusal(&message) => {
                self.shared.refused.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Ok(Value::Error(message)) if message.starts_with("UNKNOWN") => None,
            Ok(value) => match understand(&input, &value) {
                Some(output) => Some(output),
                None => {
                    let message = format!("{:?} on {} answered {value:?}", input, keys::name(key));
                    self.notes.unexpected.push(message);
                    None
                }
            },
            Err(error) => {
                self.connection = None;
                if matches!(error, CallError::NotSent) {
                    self.shared.refused.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                None
            }
        };
        let counter = if completed.is_some() { &self.shared.completed } else { &self.shared.unknown };
        counter.fetch_add(1, Ordering::Relaxed);
        let returned = completed.map(|output| (returned, output));
        self.notes.operations.push((key, Operation { input, called, returned }));
    }
}

/// Replies that say that the command did not run.
fn is_refusal(message: &str) -> bool {
    ["CLUSTERDOWN", "BUSY"].iter().any(|code| message.starts_with(code))
}

/// The request for an operation.
pub(crate) fn words(key: u32, input: &In) -> Vec<Bytes> {
    let key = Bytes::from(keys::name(key));
    let word = Bytes::from_static;
    match input {
        In::Get => vec![word(b"GET"), key],
        In::Set(value) => vec![word(b"SET"), key, value.clone()],
        In::SetIfAbsent(value) => vec![word(b"SET"), key, value.clone(), word(b"NX")],
        In::SetIfPresent(value) => vec![word(b"SET"), key, value.clone(), word(b"XX")],
        In::Delete => vec![word(b"DEL"), key],
        In::Increment => vec![word(b"INCR"), key],
        In::Append(value) => vec![word(b"APPEND"), key, value.clone()],
    }
}

/// A reply as the answer that it is; `None` if it is none to this operation.
pub(crate) fn understand(input: &In, reply: &Value) -> Option<Out> {
    match (input, reply) {
        (In::Get, Value::Bulk(value)) => Some(Out::Value(Some(Bytes::copy_from_slice(value)))),
        (In::Get, Value::Nil) => Some(Out::Value(None)),
        (In::Set(_) | In::SetIfAbsent(_) | In::SetIfPresent(_), Value::Simple(text)) if text == "OK" => Some(Out::Done),
        (In::SetIfAbsent(_) | In::SetIfPresent(_), Value::Nil) => Some(Out::ConditionFailed),
        (In::Delete, Value::Integer(count @ 0..=1)) => Some(Out::Deleted(*count == 1)),
        (In::Increment, Value::Integer(number)) => Some(Out::Number(*number)),
        (In::Append(_), Value::Integer(length)) => usize::try_from(*length).ok().map(Out::Length),
        _ => None,
    }
}

/// splitmix64: reproducible choices.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u128::from(word ^ word >> 31) * u128::from(bound)) >> 64) as u32
    }
}
