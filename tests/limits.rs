//! What is accepted can be carried: by the transport in one message, and by the log in one write.

#![cfg(all(feature = "tcp", feature = "persistence"))]

mod driver_support;

use bytes::Bytes;
use driver_support::snapshots::{Hooks, Ledger};
use driver_support::{PATIENCE, Recorder, config};
use raft_io::driver::{DriverOptions, HeldUp, Raft, RequestError, Snapshots, StartError};
use raft_io::error::{ProposeError, StepError};
use raft_io::log::{Locked, Memberships, RaftLog, Read, SharedLog, WalLog, WalOptions};
use raft_io::node::{Event, NodeError, RaftNode};
use raft_io::snapshot::MemorySnapshots;
use raft_io::transport::{MemoryNetwork, MessageLimits, RaftTransport, TcpConfig, TcpTransport};
use raft_io::{
    ClusterId, Entry, EntryId, GroupId, HardState, Index, LogView, Membership, MemoryLog, NodeId, Payload, RaftConfig,
    RoleKind, Term, Write,
};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

const MIB: usize = 1 << 20;

/// A server's way into the world with frames of this size, on a port of its own.
fn bind(id: u64, frame_bytes_max: usize) -> TcpTransport {
    let mut config = TcpConfig::new(7, id, "127.0.0.1:0");
    config.frame_bytes_max = frame_bytes_max;
    TcpTransport::bind(config).unwrap()
}

/// Three servers over TCP with frames of this size, one of which leads.
fn three(frame_bytes_max: usize, change: impl Fn(&mut RaftConfig)) -> Vec<Raft<Recorder>> {
    let transports: Vec<_> = (1..=3).map(|id| bind(id, frame_bytes_max)).collect();
    let membership = (1..).zip(&transports).fold(Membership::new([1, 2, 3_u64]), |membership, (id, transport)| {
        membership.with_address(id, transport.local_addr().to_string())
    });
    let start = |(id, transport)| {
        let mut config = config(id, &[]);
        config.membership = membership.clone();
        // The first one leads, if none is unwell.
        config.priority = if id == 1 { RaftConfig::PRIORITY_MAX } else { 0 };
        change(&mut config);
        Raft::start(config, Locked::<MemoryLog>::default(), transport, Recorder::default()).unwrap()
    };
    let servers: Vec<_> = (1..).zip(transports).map(start).collect();
    servers[0].wait_for(PATIENCE, |status| status.role == RoleKind::Leader && status.applied_index.0 > 0).unwrap();
    servers
}

fn problems(error: StartError) -> Vec<(&'static str, String)> {
    let StartError::Config(error) = error else { panic!("{error}") };
    error.problems.into_iter().map(|problem| (problem.field, problem.value)).collect()
}

/// With frames of 16 MiB a leader accepted a command of 20 MiB, which no frame carries, and nothing was committed any more.
#[test]
fn a_node_does_not_start_with_commands_that_no_message_carries() {
    let start = |frame_bytes_max, change: &dyn Fn(&mut RaftConfig)| {
        let mut config = config(1, &[1]);
        change(&mut config);
        let log = Locked::<MemoryLog>::default();
        Raft::start(config, log, bind(1, frame_bytes_max), Recorder::default()).map(|raft| raft.shutdown())
    };
    let error = start(16 * MIB, &|config| config.command_bytes_max = 32 * MIB).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("command_bytes_max = 33554432 (the transport carries 16776192 bytes"), "{text}");
    assert_eq!(problems(error).len(), 1);
    // The largest that fits, and one byte more.
    let largest = 16 * MIB - 1024 - Entry::OVERHEAD_BYTES;
    start(16 * MIB, &|config| config.command_bytes_max = largest).unwrap();
    start(16 * MIB, &|config| config.command_bytes_max = largest + 1).unwrap_err();
    // All that is wrong at once, what is wrong with the rest of the configuration included.
    let error = start(4096, &|config| config.heartbeat_ticks = 0).unwrap_err();
    let fields: Vec<_> = problems(error).into_iter().map(|(field, _)| field).collect();
    assert_eq!(fields, ["heartbeat_ticks", "command_bytes_max", "append_bytes_max", "membership"]);
    // Nor does a transport of somebody else's that carries nothing.
    struct Narrow;
    impl RaftTransport for Narrow {
        fn start(&self, _: Arc<dyn raft_io::transport::Receiver>) {}
        fn send(&self, _: raft_io::GroupId, _: raft_io::Envelope) {}
        fn limits(&self) -> MessageLimits {
            MessageLimits { entry_bytes_max: 64 * MIB, entries_max: 0 }
        }
        fn shutdown(&self) {}
    }
    let error = Raft::start(config(1, &[1]), Locked::<MemoryLog>::default(), Narrow, Recorder::default()).unwrap_err();
    assert_eq!(problems(error), [("append_entries_max", "0".to_string())]);
}

/// A frame holds a 64th of its bytes in entries, so a batch of empty commands that had few bytes was never sent.
#[test]
fn a_batch_of_many_small_commands_is_sent_in_as_many_messages_as_it_needs() {
    let servers = three(MIB, |config| {
        config.append_bytes_max = MIB - 1024;
        config.command_bytes_max = MIB - 2048;
        // More than a frame carries, and than a configuration says by default.
        config.append_entries_max = usize::MAX;
    });
    let proposals = servers[0].propose_batch(vec![Bytes::new(); 100_000]);
    let last = proposals.into_iter().next_back().unwrap().wait(PATIENCE).unwrap();
    assert_eq!(last.response, 100_000);
    let largest = servers[0].propose(vec![7; MIB - 2048]).wait(PATIENCE).unwrap();
    for server in &servers {
        server.wait_for(PATIENCE, |status| status.applied_index >= largest.id.index).unwrap();
    }
}

/// A batch beyond what a record of the log holds was accepted, and the log stopped for good.
#[test]
fn a_batch_beyond_what_the_log_stores_in_one_write_is_refused_and_nothing_else() {
    let directory = std::env::temp_dir().join(format!("raft-io-limits-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&directory);
    let log = WalLog::open(&directory, WalOptions::new(ClusterId(7), NodeId(1))).unwrap();
    let limit_bytes = log.write_bytes_max();
    let transport = MemoryNetwork::new().transport(1);
    let raft = Raft::start(config(1, &[1]), log, transport, Recorder::default()).unwrap();
    raft.wait_for(PATIENCE, |status| status.role == RoleKind::Leader).unwrap();
    let command = Bytes::from(vec![7; MIB]);
    let refused = raft.propose_batch(vec![command.clone(); 300]).pop().unwrap().wait(PATIENCE).unwrap_err();
    let bytes = 300 * (MIB + Entry::OVERHEAD_BYTES);
    assert_eq!(refused, RequestError::BatchTooLarge { commands: 300, bytes, limit_bytes });
    assert_eq!(raft.propose_batch(vec![command; 2]).pop().unwrap().wait(PATIENCE).unwrap().response, 2);
    raft.shutdown();
    std::fs::remove_dir_all(&directory).unwrap();
}

/// A log in memory that stores little in one write, and notes how much each had.
#[derive(Clone, Debug, Default)]
struct Narrow {
    log: Locked<MemoryLog>,
    writes: Arc<Mutex<Vec<usize>>>,
}

const NARROW_BYTES: usize = 1000;

impl LogView for Narrow {
    fn hard_state(&self) -> HardState {
        self.log.hard_state()
    }

    fn base(&self) -> EntryId {
        self.log.base()
    }

    fn snapshot(&self) -> EntryId {
        self.log.snapshot()
    }

    fn memberships(&self) -> Memberships {
        self.log.memberships()
    }

    fn last(&self) -> EntryId {
        self.log.last()
    }

    fn term(&self, index: Index) -> Option<Term> {
        self.log.term(index)
    }

    fn read(&self, first: Index, end: Index, bytes_max: usize) -> Read {
        self.log.read(first, end, bytes_max)
    }

    fn write_bytes_max(&self) -> usize {
        NARROW_BYTES
    }
}

impl RaftLog for Narrow {
    type Error = Infallible;

    fn append(&mut self, writes: &mut Vec<Write>) -> Result<(), Infallible> {
        self.writes.lock().unwrap().extend(writes.iter().map(|write| write.entries.size_bytes()));
        self.log.append(writes)
    }

    fn sync(&mut self) -> Result<(), Infallible> {
        self.log.sync()
    }

    fn read_blocking(&self, first: Index, end: Index, bytes_max: usize) -> Result<Read, Infallible> {
        self.log.read_blocking(first, end, bytes_max)
    }
}

impl SharedLog for Narrow {
    type Reader = Self;

    fn reader(&self) -> Self {
        self.clone()
    }

    fn read_cold(reader: &Self, first: Index, end: Index, bytes_max: usize) -> Result<Read, Infallible> {
        reader.read_blocking(first, end, bytes_max)
    }
}

fn narrow(id: u64) -> RaftConfig {
    let mut config = config(id, &[id]);
    (config.command_bytes_max, config.append_bytes_max) = (NARROW_BYTES - Entry::OVERHEAD_BYTES, NARROW_BYTES);
    config
}

/// What waited for the log to become idle was appended as one write, however much that was.
#[test]
fn proposals_that_wait_together_are_written_in_as_many_writes_as_they_need() {
    let log = Narrow::default();
    let transport = MemoryNetwork::new().transport(1);
    let raft = Raft::start(narrow(1), log.clone(), transport, Recorder::default()).unwrap();
    raft.wait_for(PATIENCE, |status| status.role == RoleKind::Leader).unwrap();
    // While the log cannot be written, all that is proposed waits.
    let writes = log.writes.lock().unwrap();
    let proposals: Vec<_> = (0..100).map(|_| raft.propose(vec![7; 384])).collect();
    drop(writes);
    let responses = proposals.into_iter().map(|proposal| proposal.wait(PATIENCE).unwrap().response);
    assert!(responses.eq(1..=100));
    let writes = log.writes.lock().unwrap();
    assert!(writes.iter().all(|bytes| *bytes <= NARROW_BYTES), "{writes:?}");
    // The leader's first entry is the rest.
    assert!((1..=200).contains(&(writes.iter().sum::<usize>() - 100 * 400)), "{writes:?}");
    assert!(writes.contains(&800), "two fit into one: {writes:?}");
}

/// Without the driver it is the same: a configuration is compared with its log, and a batch with what it stores.
#[test]
fn a_node_of_the_quick_start_keeps_to_what_its_log_stores() {
    let mut wide = narrow(1);
    wide.command_bytes_max += 1;
    let error = RaftNode::with_log(wide, Narrow::default()).unwrap_err();
    assert!(error.to_string().contains("command_bytes_max = 985 (the log stores 1000 in one write)"), "{error}");
    let mut node = RaftNode::with_log(narrow(1), Narrow::default()).unwrap();
    while !node.is_leader() {
        node.step(Event::Tick).unwrap();
    }
    let batch = |commands| Event::ProposeBatch(vec![Bytes::from_static(&[7; 484]); commands]);
    let refused = node.step(batch(3)).map(|_| ()).unwrap_err();
    let expected = ProposeError::BatchTooLarge { commands: 3, bytes: 1500, limit_bytes: NARROW_BYTES };
    assert_eq!(refused, NodeError::Step(StepError::Propose(expected)));
    node.step(batch(2)).unwrap();
}

/// Three servers, each with frames of its own size, whose logs outlive them.
struct Servers {
    logs: Vec<Locked<MemoryLog>>,
    running: Vec<Raft<Ledger>>,
}

impl Servers {
    fn start(logs: Vec<Locked<MemoryLog>>, frames: [usize; 3], has_store: bool) -> Self {
        let transports: Vec<_> = (1..).zip(frames).map(|(id, frame)| bind(id, frame)).collect();
        let addressed = |membership: Membership, (id, transport): (u64, &TcpTransport)| {
            membership.with_address(id, transport.local_addr().to_string())
        };
        let membership = (1..).zip(&transports).fold(Membership::new([1, 2, 3_u64]), addressed);
        let start = |(id, (transport, log)): (u64, (TcpTransport, &Locked<MemoryLog>))| {
            let mut config = config(id, &[]);
            config.membership = membership.clone();
            // The first one leads, while it is well.
            config.priority = if id == 1 { 3 } else { 2 };
            config.command_bytes_max = config.command_bytes_max.min(frames[id as usize - 1] - 2048);
            config.append_bytes_max = config.append_bytes_max.min(frames[id as usize - 1] - 2048);
            let mut options = DriverOptions::default();
            options.snapshots = has_store.then(|| Snapshots::new(MemorySnapshots::new(GroupId(0))));
            Raft::start_with(config, options, log.clone(), transport, Ledger::new(&Arc::<Hooks>::default())).unwrap()
        };
        let running = (1..).zip(transports.into_iter().zip(&logs)).map(start).collect();
        Self { logs, running }
    }

    fn at(&self, id: usize) -> &Raft<Ledger> {
        &self.running[id - 1]
    }

    fn first_leads(&self) {
        let leads = |status: &raft_io::driver::Status| {
            status.role == RoleKind::Leader && status.applied_index == status.last_index
        };
        self.at(1).wait_for(PATIENCE, leads).unwrap();
    }

    fn stop(self) -> Vec<Locked<MemoryLog>> {
        self.running.iter().for_each(Raft::shutdown);
        self.logs
    }
}

/// The largest entry that this log holds.
fn largest(log: &Locked<MemoryLog>) -> usize {
    let Read::Entries(entries) = log.read(Index(1), Index::MAX, usize::MAX) else { return 0 };
    entries.iter().map(Entry::size_bytes).max().unwrap_or(0)
}

/// A leader accepted what one of its voters did not take: nothing was committed any more once it needed that one.
#[test]
fn a_leader_refuses_what_one_of_the_voters_does_not_take() {
    let logs = (0..3).map(|_| Locked::default()).collect();
    let servers = Servers::start(logs, [16 * MIB, 16 * MIB, MIB], false);
    servers.first_leads();
    let leader = servers.at(1);
    // What a peer takes is known from the handshake.
    servers.at(3).wait_for(PATIENCE, |status| status.applied_index.0 > 0).unwrap();
    let limit_bytes = MIB - 1024 - Entry::OVERHEAD_BYTES;
    let refused = RequestError::TooLargeForPeer { peer: NodeId(3), bytes: 4 * MIB, limit_bytes };
    assert_eq!(leader.propose(vec![7; 4 * MIB]).wait(PATIENCE).unwrap_err(), refused);
    let batch = vec![Bytes::from_static(b"small"), Bytes::from(vec![7; 4 * MIB])];
    assert_eq!(leader.propose_batch(batch).pop().unwrap().wait(PATIENCE).unwrap_err(), refused);
    // As much together goes there in pieces, and so does the largest that it takes.
    let pieces = vec![Bytes::from(vec![7; MIB / 2]); 8];
    leader.propose_batch(pieces).pop().unwrap().wait(PATIENCE).unwrap();
    let last = leader.propose(vec![7; limit_bytes]).wait(PATIENCE).unwrap().id.index;
    servers.at(3).wait_for(PATIENCE, |status| status.applied_index >= last).unwrap();
    servers.stop();
}

/// A log that holds a larger entry than the transport carries by now: whoever lacked the entry never got it, nor anything
/// behind it.
#[test]
fn an_entry_from_before_the_frames_became_smaller_comes_with_a_snapshot() {
    let large = |log: &Locked<MemoryLog>| largest(log) > 4 * MIB;
    let committed = |has_store| {
        let mut logs = Vec::new();
        for id in 1..=3 {
            let mut log = Locked::new(MemoryLog::new());
            let noop = Entry { id: EntryId::new(1, 1), payload: Payload::Noop };
            let command = Payload::Command(Bytes::from(vec![7; 4 * MIB]));
            let command = Entry { id: EntryId::new(2, 1), payload: command };
            // The third was down.
            let entries = [noop, command].into_iter().take(if id == 3 { 1 } else { 2 }).collect();
            let hard_state = Some(HardState { term: Term(1), vote: None });
            let Ok(()) = log.append(&mut vec![Write { hard_state, entries, ..Write::default() }]);
            logs.push(log);
        }
        let servers = Servers::start(logs, [MIB; 3], has_store);
        servers.first_leads();
        servers
    };
    let servers = committed(true);
    let last = servers.at(1).propose("x").wait(PATIENCE).unwrap().id.index;
    let status = servers.at(3).wait_for(PATIENCE, |status| status.applied_index >= last).unwrap();
    assert_eq!(status.counters.snapshots_fetched, 1);
    assert_eq!(servers.at(3).stale_read(Ledger::commands).unwrap().len(), 2);
    assert!(!large(&servers.logs[0]) && !large(&servers.logs[2]));
    servers.stop();
    // Without a store the others go on, and the status says what is the matter.
    let servers = committed(false);
    servers.at(1).propose("x").wait(PATIENCE).unwrap();
    let held_up =
        HeldUp::EntryTooLarge { index: Index(2), bytes: 4 * MIB + Entry::OVERHEAD_BYTES, limit_bytes: MIB - 1024 };
    let told = |status: &raft_io::driver::Status| status.peers[1].held_up.as_ref() == Some(&held_up);
    let status = servers.at(1).wait_for(PATIENCE, told).unwrap();
    assert!(status.counters.entries_too_large >= 1 && status.prometheus().contains("raft_entries_too_large_total"));
    servers.at(1).propose("y").wait(PATIENCE).unwrap();
    servers.stop();
}

/// One that is not committed either: a leader that nobody could follow led on for ever.
#[test]
fn a_leader_whose_next_entry_nobody_takes_steps_down_and_lets_another_lead() {
    let mut logs = Vec::new();
    for id in 1..=3 {
        let mut log = Locked::new(MemoryLog::new());
        let noop = Entry { id: EntryId::new(1, 1), payload: Payload::Noop };
        let command = Entry { id: EntryId::new(2, 1), payload: Payload::Command(Bytes::from(vec![7; 4 * MIB])) };
        let entries = [noop, command].into_iter().take(if id == 1 { 2 } else { 1 }).collect();
        let hard_state = Some(HardState { term: Term(1), vote: None });
        let Ok(()) = log.append(&mut vec![Write { hard_state, entries, ..Write::default() }]);
        logs.push(log);
    }
    let servers = Servers::start(logs, [MIB; 3], false);
    let elected = |status: &raft_io::driver::Status| {
        let leader = status.leader.as_ref().map(|leader| leader.id.0 as usize);
        status.commit_index > Index(1) && leader.is_some_and(|id| id != 1)
    };
    let status = servers.at(1).wait_for(PATIENCE, elected).unwrap();
    let leader = status.leader.unwrap().id.0 as usize;
    let last = servers.at(leader).propose("x").wait(PATIENCE).unwrap().id.index;
    servers.at(1).wait_for(PATIENCE, |status| status.applied_index >= last).unwrap();
    assert!(servers.logs.iter().all(|log| largest(log) < MIB), "it was replaced");
    servers.stop();
}
