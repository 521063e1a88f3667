//! Every server's directory is put back to every point of a recorded run, while the others go on: with the real log on a disk
//! in memory, the real nodes, and the comparison that handshakes make. Who knew the later state must have kept the server out;
//! where nobody did, what it costs is counted.
//!
//! The whole takes minutes: `RAFT_IO_ROLLBACK=whole cargo test --release --all-features --test identity_points`. Otherwise
//! every few points are tried.

#![cfg(all(feature = "persistence", feature = "testkit"))]

use raft_io::life::{Lives, Remembered};
use raft_io::log::{LogView, RaftLog, Read, WalLog, WalOptions};
use raft_io::node::{Action, Event, RaftNode};
use raft_io::peers::PeerMemory;
use raft_io::testkit::disk::{FaultyDisk, Image};
use raft_io::{ClusterId, EntryId, Envelope, GroupId, HardState, Index, NodeId, Payload, RaftConfig, Term};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

const GROUP: GroupId = GroupId(0);
const WRITES: u64 = 200;
/// When the leader is cut off, and another one elected.
const ELECTIONS: [u64; 3] = [50, 100, 150];
/// When each server is started again, one after the other.
const RESTARTS: [u64; 3] = [30, 80, 130];

/// Every so many writes connections are probed.
const PING: u64 = 10;

fn config(id: u64) -> RaftConfig {
    let mut config = RaftConfig::new(id, [1, 2, 3_u64]);
    (config.election_ticks, config.seed) = (10, 7);
    config
}

type State = (HardState, EntryId);
/// By who spoke and who listened.
type Heard = BTreeMap<(u64, u64), State>;

struct Server {
    disk: FaultyDisk,
    node: RaftNode<WalLog>,
    memory: PeerMemory,
    lives: Lives,
}

impl Server {
    fn open(id: u64, disk: FaultyDisk) -> Self {
        let options = WalOptions::new(ClusterId(7), NodeId(id)).segment_bytes(64 << 10);
        let log = WalLog::open_in(Arc::new(disk.clone()), options).expect("the directory opens");
        let (memory, lives) = (log.peer_memory(), log.lives().clone());
        Self { disk, node: RaftNode::with_log(config(id), log).expect("the log is whole"), memory, lives }
    }

    fn state(&self) -> State {
        (self.node.log().hard_state(), self.node.log().last())
    }
}

/// Servers that see each other or not, and what came of it.
#[derive(Default)]
struct Cluster {
    servers: BTreeMap<u64, Server>,
    cut_off: BTreeSet<u64>,
    leaders: BTreeMap<Term, u64>,
    /// Terms that had two leaders.
    doubled: BTreeSet<Term>,
    /// What the first held when the second heard it last.
    heard: Heard,
}

impl Cluster {
    fn start(&mut self, id: u64, disk: FaultyDisk) {
        let server = Server::open(id, disk);
        for (other, peer) in &self.servers {
            greet(id, &server, *other, peer);
        }
        self.servers.insert(id, server);
    }

    fn restart(&mut self, id: u64) {
        let Server { disk, node, .. } = self.servers.remove(&id).expect("it runs");
        drop(node);
        self.start(id, disk);
    }

    /// Lets one server step, and delivers all that follows from it.
    fn step(&mut self, id: u64, event: Event) {
        let mut queue = VecDeque::from([(id, event)]);
        while let Some((id, event)) = queue.pop_front() {
            let server = self.servers.get_mut(&id).expect("it runs");
            let Ok(actions) = server.node.step(event) else { continue };
            let held = server.memory.held();
            if server.node.is_leader() {
                let term = server.node.protocol().term();
                if *self.leaders.entry(term).or_insert(id) != id {
                    self.doubled.insert(term);
                }
            }
            for action in actions {
                if let Action::Send(envelope) = action {
                    let to = envelope.to.0;
                    if self.servers.contains_key(&to) && !self.cut_off.contains(&id) && !self.cut_off.contains(&to) {
                        self.hear(&envelope, held);
                        queue.push_back((to, Event::Receive(envelope)));
                    }
                }
            }
        }
    }

    /// As the transport does it: what the message says, and what goes out with it.
    fn hear(&mut self, envelope: &Envelope, held: EntryId) {
        let notes = self.servers[&envelope.to.0].memory.notes(envelope.from).expect("they were introduced");
        notes.note_held(GROUP, held);
        notes.note(GROUP, envelope.to, &envelope.message);
        let state = self.servers[&envelope.from.0].state();
        self.heard.insert((envelope.from.0, envelope.to.0), state);
    }

    /// As a connection is probed now and then: followers hear of each other too.
    fn ping(&mut self) {
        for (from, to) in [(1, 2), (2, 1), (1, 3), (3, 1), (2, 3), (3, 2)] {
            if !self.cut_off.contains(&from) && !self.cut_off.contains(&to) {
                let held = self.servers[&from].memory.held();
                self.servers[&to].memory.notes(NodeId(from)).expect("they were introduced").note_held(GROUP, held);
                self.heard.insert((from, to), self.servers[&from].state());
            }
        }
    }

    fn tick(&mut self) {
        for id in self.servers.keys().copied().collect::<Vec<_>>() {
            self.step(id, Event::Tick);
        }
    }

    fn leader(&self) -> Option<u64> {
        let leads = |id: &&u64| self.servers[id].node.is_leader() && !self.cut_off.contains(id);
        self.servers.keys().find(leads).copied()
    }

    fn elect(&mut self, patience: u64) -> Option<u64> {
        for _ in 0..patience {
            if let Some(leader) = self.leader() {
                return Some(leader);
            }
            self.tick();
        }
        None
    }

    fn write(&mut self, command: u64) {
        let leader = self.elect(500).expect("somebody leads");
        self.step(leader, Event::Propose(command.to_le_bytes().to_vec().into()));
        let last = self.servers[&leader].node.log().last().index;
        for _ in 0..100 {
            self.tick();
            if self.servers[&leader].node.applied_index() >= last {
                return;
            }
        }
        panic!("write {command} is not acknowledged");
    }
}

/// Both sides compare, as in a handshake. In the recorded run nobody lost anything.
fn greet(id: u64, server: &Server, other: u64, peer: &Server) {
    for ((a, one), (b, two)) in [((id, server), (other, peer)), ((other, peer), (id, server))] {
        let known = two.memory.remembered(NodeId(a)).unwrap_or_default();
        assert_eq!(one.lives.check(&known), Ok(()), "server {a} lost nothing of what {b} knows: {known:?}");
        let admitted = two.memory.admit(NodeId(a), one.lives.incarnation(), one.lives.as_slice(), true);
        assert!(admitted.expect("nobody is accused who lost nothing").is_none());
    }
}

/// What the run left at one point.
struct Moment {
    /// The writes that were acknowledged by then.
    acknowledged: u64,
    images: BTreeMap<u64, Image>,
    states: BTreeMap<u64, State>,
    /// What the second remembers of the first.
    remembered: BTreeMap<(u64, u64), Remembered>,
    heard: Heard,
    leaders: BTreeMap<Term, u64>,
}

impl Moment {
    fn of(cluster: &Cluster, acknowledged: u64) -> Self {
        let servers = &cluster.servers;
        let pairs = || servers.keys().flat_map(|a| servers.keys().map(move |b| (*a, *b))).filter(|(a, b)| a != b);
        let known = |(a, b): (u64, u64)| servers[&b].memory.remembered(NodeId(a)).map(|known| ((a, b), known));
        Self {
            acknowledged,
            images: servers.iter().map(|(id, server)| (*id, server.disk.live_image())).collect(),
            states: servers.iter().map(|(id, server)| (*id, server.state())).collect(),
            remembered: pairs().filter_map(known).collect(),
            heard: cluster.heard.clone(),
            leaders: cluster.leaders.clone(),
        }
    }
}

/// 200 writes, 3 elections with a leader that is cut off and appends in vain, and restarts one after the other.
fn recorded_run() -> Vec<Moment> {
    let mut cluster = Cluster::default();
    (1..=3).for_each(|id| cluster.start(id, FaultyDisk::new()));
    let mut moments = vec![Moment::of(&cluster, 0)];
    let mut isolated = None;
    for number in 1..=WRITES {
        if ELECTIONS.contains(&number) {
            let leader = cluster.elect(500).expect("somebody leads");
            cluster.cut_off.insert(leader);
            for vain in 1000..1003_u64 {
                cluster.step(leader, Event::Propose(vain.to_le_bytes().to_vec().into()));
            }
            isolated = Some(number + 5);
        }
        if isolated == Some(number) {
            cluster.cut_off.clear();
        }
        cluster.write(number);
        if number % PING == 0 {
            cluster.ping();
        }
        if let Some(id) = RESTARTS.iter().position(|point| *point == number) {
            cluster.restart(id as u64 + 1);
        }
        moments.push(Moment::of(&cluster, number));
    }
    assert!(cluster.leaders.len() > ELECTIONS.len() && cluster.doubled.is_empty(), "{:?}", cluster.leaders);
    moments
}

/// The commands of a log.
fn commands(log: &WalLog) -> BTreeSet<u64> {
    let end = log.last().index.next();
    let mut next = log.base().index.next();
    let mut found = BTreeSet::new();
    while next < end {
        let Ok(Read::Entries(entries)) = log.read_blocking(next, end, usize::MAX) else { panic!("the log reads back") };
        for entry in entries.iter() {
            if let Payload::Command(command) = &entry.payload {
                found.insert(u64::from_le_bytes(command[..].try_into().expect("eight bytes")));
            }
        }
        next = Index(next.0 + entries.len() as u64);
    }
    found
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    tried: u64,
    /// The copy holds all that the directory held.
    nothing_lost: u64,
    /// Somebody reachable refused it.
    refused: u64,
    /// It was let in, and did no harm.
    harmless: u64,
    /// It was let in by servers that had not heard of a later state, and acknowledged writes were lost.
    lost_unknown: u64,
    /// It was let in by servers that had not heard of a later state, and a term had two leaders.
    doubled_unknown: u64,
    /// The same by servers of which one had heard of it. Must not be while they go on running.
    lost_known: u64,
    doubled_known: u64,
}

/// Whether the others go on running, or were killed at that moment and know what they had written down.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Others {
    Running,
    Killed,
}

/// Puts one server back, lets it meet those that are reachable, and each of them alone if they let it in.
fn put_back((moment, moments): (&Moment, &[Moment]), id: u64, reachable: &[u64], others: Others, tally: &mut Tally) {
    let (before, copy) = (moments, moments.last().expect("up to the copy's"));
    tally.tried += 1;
    let returned = Server::open(id, FaultyDisk::from_image(&copy.images[&id]));
    let knows = |other: &u64| match others {
        Others::Running => moment.remembered.get(&(id, *other)).copied().unwrap_or_default(),
        Others::Killed => {
            let memory = Server::open(*other, FaultyDisk::from_image(&moment.images[other])).memory;
            memory.remembered(NodeId(id)).unwrap_or_default()
        }
    };
    if reachable.iter().any(|other| returned.lives.check(&knows(other)).is_err()) {
        tally.refused += 1;
        return;
    }
    if copy.states[&id] == moment.states[&id] {
        tally.nothing_lost += 1;
        return;
    }
    // What a server holds only goes on: who heard it last in a state that it never had up to the copy's, heard it later.
    let known = reachable.iter().any(|other| {
        let heard = moment.heard.get(&(id, *other));
        heard.is_some_and(|heard| before.iter().all(|before| before.states[&id] != *heard))
    });
    let (mut lost, mut doubled) = (false, false);
    for other in reachable {
        let mut cluster = Cluster { leaders: moment.leaders.clone(), ..Cluster::default() };
        let returned = Server::open(id, FaultyDisk::from_image(&copy.images[&id]));
        let peer = Server::open(*other, FaultyDisk::from_image(&moment.images[other]));
        for (a, one, two) in [(id, &returned, &peer), (*other, &peer, &returned)] {
            let _ = two.memory.admit(NodeId(a), one.lives.incarnation(), one.lives.as_slice(), true);
        }
        cluster.servers = [(id, returned), (*other, peer)].into();
        if let Some(leader) = cluster.elect(200) {
            let held = commands(cluster.servers[&leader].node.log());
            lost |= !(1..=moment.acknowledged).all(|number| held.contains(&number));
        }
        doubled |= !cluster.doubled.is_empty();
    }
    match (known, lost, doubled) {
        (_, false, false) => tally.harmless += 1,
        (true, lost, doubled) => {
            tally.lost_known += u64::from(lost);
            tally.doubled_known += u64::from(doubled);
        }
        (false, lost, doubled) => {
            tally.lost_unknown += u64::from(lost);
            tally.doubled_unknown += u64::from(doubled);
        }
    }
}

#[test]
fn a_server_put_back_to_any_point_is_kept_out_by_whoever_heard_it_since() {
    let whole = std::env::var("RAFT_IO_ROLLBACK").is_ok_and(|value| value == "whole");
    let step = if whole { 1 } else { 9 };
    let moments = recorded_run();
    // The end, and while a leader that was cut off has not heard of the election.
    for (now, others) in
        [200, 52, 102, 152, 90].into_iter().flat_map(|now| [(now, Others::Running), (now, Others::Killed)])
    {
        let mut tally = Tally::default();
        for point in (0..now).step_by(step).chain([now - 1]) {
            for id in 1..=3 {
                let peers: Vec<u64> = (1..=3).filter(|other| *other != id).collect();
                for reachable in [&peers[..], &peers[..1], &peers[1..]] {
                    put_back((&moments[now], &moments[..=point]), id, reachable, others, &mut tally);
                }
            }
        }
        println!("put back at {now}, the others {others:?}: {tally:?}");
        if others == Others::Running {
            assert_eq!((tally.lost_known, tally.doubled_known), (0, 0), "at {now}: {tally:?}");
        }
        assert!(tally.refused > tally.tried / 2, "at {now}: {tally:?}");
    }
}
