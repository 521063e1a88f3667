//! One server as the model sees it: the real protocol, the real log, and the writes between the two.
//!
//! Lives here: what a driver does around [`Protocol::step`], in its barest form. Does not live here: anything of Raft.

use crate::config::Configuration;
use bytes::Bytes;
use raft_io::action::Durable;
use raft_io::log::WriteThrough;
use raft_io::{
    Action, ActionSink, Compaction, DiskId, Entries, Entry, Envelope, Event, LogView, MemoryLog, Message, NodeId,
    Protocol, RaftLog, Transition, Write, message::InstallSnapshotRequest, protocol::ProtocolState, types::Payload,
};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// The command that every client proposes. What it says makes no difference to the protocol.
pub const COMMAND: &[u8] = b"x";

/// A server with its disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    /// The shipped protocol.
    pub protocol: Protocol,
    /// What survives a crash: the real log with every write that was reported durable.
    pub disk: MemoryLog,
    /// Writes that came out of the protocol and are not yet durable, oldest first.
    pub in_flight: Vec<Write>,
    /// A copy of the disk that somebody made.
    pub backup: Option<MemoryLog>,
    /// Whether the disk was put back to its copy.
    pub rolled_back: bool,
}

/// One thing that can happen to a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// An event of the protocol. `Persisted` makes as many writes durable first.
    Event(Event),
    /// The server loses all but the oldest `survive` writes in flight, and starts again from its disk.
    Crash {
        /// How many writes had reached the disk.
        survive: usize,
    },
    /// The server was removed, and starts again with an empty disk.
    Wipe,
    /// Somebody makes a copy of the server's disk.
    BackUp,
    /// The copy takes the place of the disk, and the server starts again from it.
    RollBack,
}

impl Input {
    /// A client proposes the command.
    #[must_use]
    pub fn client_request() -> Self {
        Self::Event(Event::Propose(Bytes::from_static(COMMAND)))
    }

    /// The name of the transition in the spec.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Event(event) => event.transition().name(),
            Self::Crash { .. } => "Crash",
            Self::Wipe => "Wipe",
            Self::BackUp => "BackUp",
            Self::RollBack => "RollBack",
        }
    }

    /// The transition, unless it is a crash.
    #[must_use]
    pub fn transition(&self) -> Option<Transition> {
        match self {
            Self::Event(event) => Some(event.transition()),
            Self::Crash { .. } | Self::Wipe | Self::BackUp | Self::RollBack => None,
        }
    }

    /// Whether the server's life ends with this, and another one begins.
    #[must_use]
    pub fn ends_life(&self) -> bool {
        matches!(self, Self::Crash { .. } | Self::Wipe | Self::RollBack)
    }

    /// Whether the disk loses what it held durably.
    #[must_use]
    pub fn loses_data(&self) -> bool {
        matches!(self, Self::Wipe | Self::RollBack)
    }

    /// The same input to the server of the other name.
    #[must_use]
    pub fn permute(&self, rename: impl Fn(NodeId) -> NodeId) -> Self {
        match self {
            Self::Event(Event::Receive(envelope)) => Self::Event(Event::Receive(permute_envelope(envelope, rename))),
            Self::Event(Event::TransferLeadership { target }) => {
                Self::Event(Event::TransferLeadership { target: rename(*target) })
            }
            Self::Event(Event::ChangeMembership { target }) => {
                Self::Event(Event::ChangeMembership { target: Arc::new(target.rename(rename)) })
            }
            other => other.clone(),
        }
    }
}

/// The same message between the servers of the other names: its ends name servers, and configurations do.
#[must_use]
pub fn permute_envelope(envelope: &Envelope, rename: impl Fn(NodeId) -> NodeId) -> Envelope {
    let rename = &rename;
    let mut message = envelope.message.clone();
    match &mut message {
        Message::AppendEntriesRequest(request) => request.entries = permute_entries(request.entries.iter(), rename),
        Message::InstallSnapshotRequest(InstallSnapshotRequest { membership, .. }) => {
            *membership = Arc::new(membership.rename(rename));
        }
        _ => {}
    }
    Envelope { from: rename(envelope.from), to: rename(envelope.to), message }
}

fn permute_entries<'a>(entries: impl Iterator<Item = &'a Entry>, rename: impl Fn(NodeId) -> NodeId) -> Entries {
    let renamed = entries.map(|entry| match &entry.payload {
        Payload::Membership(membership) => {
            Entry { id: entry.id, payload: Payload::Membership(Arc::new(membership.rename(&rename))) }
        }
        _ => entry.clone(),
    });
    renamed.collect()
}

fn permute_compaction(compaction: &Compaction, rename: impl Fn(NodeId) -> NodeId) -> Compaction {
    Compaction { membership: Arc::new(compaction.membership.rename(rename)), ..compaction.clone() }
}

/// What came of an input.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Stepped {
    /// The server afterwards.
    pub server: Server,
    /// Every action but `Persist` and `Send`, in order.
    pub actions: Vec<Action>,
    /// The messages that left at once, in order.
    pub sent: Vec<Envelope>,
}

impl Stepped {
    fn new(server: Server, actions: Vec<Action>) -> Self {
        let (mut others, mut sent) = (Vec::new(), Vec::new());
        for action in actions {
            match action {
                Action::Persist(_) => {}
                Action::Send(envelope) => sent.push(envelope),
                other => others.push(other),
            }
        }
        Self { server, actions: others, sent }
    }
}

/// Writes within the step, and keeps the other actions.
struct Sink<'a, 'log> {
    log: &'a WriteThrough<'log, MemoryLog>,
    actions: &'a mut Vec<Action>,
}

impl ActionSink for Sink<'_, '_> {
    fn push(&mut self, action: Action) {
        self.actions.push(action);
    }

    fn persist(&mut self, write: Write) -> Option<Durable> {
        self.log.write(write)
    }
}

impl Server {
    /// A server with an empty disk.
    ///
    /// # Panics
    /// If the configuration breaks the library's rules.
    #[must_use]
    pub fn new(configuration: &Configuration, id: NodeId) -> Self {
        Self::start(configuration, id, MemoryLog::new())
    }

    fn start(configuration: &Configuration, id: NodeId, disk: MemoryLog) -> Self {
        let config = configuration.raft_config(id);
        let protocol = Protocol::new(&config, &disk).unwrap_or_else(|error| panic!("RestoreError: {error}"));
        Self { protocol, disk, in_flight: Vec::new(), backup: None, rolled_back: false }
    }

    /// What comes of an input, or the message of the assertion that stopped the server.
    ///
    /// # Errors
    /// The server stopped itself.
    pub fn step(&self, configuration: &Configuration, input: &Input) -> Result<Stepped, String> {
        self.carry_out(configuration, input, false)
    }

    /// As [`step`](Self::step), but with a log that is ahead of its reports: it holds every write in flight. The protocol
    /// promises that this makes no difference.
    ///
    /// # Errors
    /// The server stopped itself.
    pub fn step_with_log_ahead(&self, configuration: &Configuration, input: &Input) -> Result<Stepped, String> {
        self.carry_out(configuration, input, true)
    }

    /// As [`step`](Self::step), but each write is durable within the step (`WriteThrough`). Only without writes in flight.
    ///
    /// # Errors
    /// The server stopped itself.
    pub fn step_writing_through(&self, event: &Event) -> Result<Stepped, String> {
        quietly(|| {
            let (mut disk, mut buffer) = (self.disk.clone(), Vec::new());
            let mut protocol = self.protocol.clone();
            let mut actions = Vec::new();
            let log = WriteThrough::new(&mut disk, &mut buffer);
            let _ = protocol.step(&log, event.clone(), &mut Sink { log: &log, actions: &mut actions });
            let Ok(()) = log.finish();
            Stepped::new(Self { protocol, disk, in_flight: Vec::new(), ..self.clone() }, actions)
        })
    }

    /// The event, and then the reports of all writes that it leads to, until none is in flight.
    ///
    /// # Errors
    /// The server stopped itself.
    pub fn step_until_durable(&self, configuration: &Configuration, event: &Event) -> Result<Stepped, String> {
        let mut stepped = self.step(configuration, &Input::Event(event.clone()))?;
        while !stepped.server.in_flight.is_empty() {
            let reported = Input::Event(Event::Persisted { writes: stepped.server.in_flight.len() });
            let next = stepped.server.step(configuration, &reported)?;
            stepped.server = next.server;
            stepped.sent.extend(next.sent);
            stepped.actions.extend(next.actions);
        }
        Ok(stepped)
    }

    fn carry_out(&self, configuration: &Configuration, input: &Input, log_ahead: bool) -> Result<Stepped, String> {
        let mut stepped = quietly(|| match input {
            Input::Crash { survive } => {
                let server = Self::start(configuration, self.protocol.id(), self.disk_with(*survive));
                let server = Self { backup: self.backup.clone(), rolled_back: self.rolled_back, ..server };
                Stepped { server, actions: Vec::new(), sent: Vec::new() }
            }
            Input::Wipe => {
                let empty = MemoryLog::on_disk(DiskId(self.disk.disk().0 + 1));
                let server = Self::start(configuration, self.protocol.id(), empty);
                Stepped { server, actions: Vec::new(), sent: Vec::new() }
            }
            Input::BackUp => {
                let server = Self { backup: Some(self.disk.clone()), ..self.clone() };
                Stepped { server, actions: Vec::new(), sent: Vec::new() }
            }
            Input::RollBack => {
                let copy = self.backup.clone().expect("only a copy can be put back");
                let server = Self::start(configuration, self.protocol.id(), copy);
                let server = Self { rolled_back: true, ..server };
                Stepped { server, actions: Vec::new(), sent: Vec::new() }
            }
            Input::Event(event) => self.step_protocol(event, log_ahead),
        })?;
        // So that the order of what waits for one write does not tell states apart that are alike.
        if configuration.symmetry {
            stepped.server = stepped.server.permute(|id| id);
        }
        Ok(stepped)
    }

    fn step_protocol(&self, event: &Event, log_ahead: bool) -> Stepped {
        let durable = if let Event::Persisted { writes } = event { *writes } else { 0 };
        let disk = self.disk_with(durable);
        let ahead = log_ahead.then(|| self.disk_with(self.in_flight.len()));
        let log = ahead.as_ref().unwrap_or(&disk);
        let mut protocol = self.protocol.clone();
        let mut in_flight = self.in_flight[durable..].to_vec();
        let mut actions = Vec::new();
        // Whether a proposal is refused shows in the state: nothing changes.
        let _ = protocol.step(log, event.clone(), &mut actions);
        protocol.check(log);
        in_flight.extend(actions.iter().filter_map(|action| match action {
            Action::Persist(write) => Some(write.clone()),
            _ => None,
        }));
        let waiting: Vec<_> = protocol.state().writes.iter().map(|write| write.hard_state).collect();
        let written: Vec<_> = in_flight.iter().map(|write| write.hard_state).collect();
        assert_eq!(waiting, written, "EveryWriteIsWaitedFor: the protocol and its driver count the same writes");
        let server = Self { protocol, disk, in_flight, backup: self.backup.clone(), rolled_back: self.rolled_back };
        Stepped::new(server, actions)
    }

    /// The disk once the oldest `writes` in flight are on it.
    fn disk_with(&self, writes: usize) -> MemoryLog {
        let mut disk = self.disk.clone();
        let Ok(()) = disk.append(&mut self.in_flight[..writes].to_vec());
        disk
    }

    /// The log as decided: with every write in flight.
    #[must_use]
    pub fn log(&self) -> MemoryLog {
        self.disk_with(self.in_flight.len())
    }

    /// The protocol's state as data.
    #[must_use]
    pub fn state(&self) -> ProtocolState {
        self.protocol.state()
    }

    /// The server that stands in this one's place after every server was renamed.
    #[must_use]
    pub fn permute(&self, rename: impl Fn(NodeId) -> NodeId) -> Self {
        let rename = &rename;
        let renamed = |state: raft_io::HardState| raft_io::HardState { vote: state.vote.map(rename), ..state };
        let in_flight = self.in_flight.iter().map(|write| Write {
            hard_state: write.hard_state.map(renamed),
            compaction: write.compaction.as_ref().map(|compaction| permute_compaction(compaction, rename)),
            entries: permute_entries(write.entries.iter(), rename),
            truncate_from: write.truncate_from,
        });
        Self {
            protocol: self.protocol.permute(rename),
            disk: permute_log(&self.disk, rename),
            in_flight: in_flight.collect(),
            backup: self.backup.as_ref().map(|backup| permute_log(backup, rename)),
            rolled_back: self.rolled_back,
        }
    }
}

fn permute_log(log: &MemoryLog, rename: impl Fn(NodeId) -> NodeId) -> MemoryLog {
    let mut permuted = MemoryLog::on_disk(log.disk());
    let hard_state = log.hard_state();
    let hard_state = raft_io::HardState { vote: hard_state.vote.map(&rename), ..hard_state };
    let entries = permute_entries(log.iter(), &rename);
    // A log that was never compacted knows no configuration but its entries'.
    let compaction = log.memberships().at_snapshot.map(|membership| {
        let membership = Arc::new(membership.rename(&rename));
        Compaction { snapshot: log.snapshot(), base: log.base(), membership }
    });
    let Ok(()) =
        permuted.append(&mut vec![Write { hard_state: Some(hard_state), compaction, truncate_from: None, entries }]);
    permuted
}

/// Runs `step`; a panic becomes its message.
pub(crate) fn quietly<T>(step: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(step)).map_err(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_string()
    })
}
