//! The model: a cluster of real servers and a network between them, as a stateright [`Model`].
//!
//! Lives here: which actions there are in a state, and what each leads to. Nothing of Raft is said here a second time: a
//! server's part comes from its real step ([`tables`](crate::tables)).

mod disks;

use crate::action::{Action, name_position};
use crate::config::{Configuration, Network};
pub use crate::facts::ReadHistory;
use crate::facts::{Facts, PackedLog, READS_MAX, SERVERS_MAX};
use crate::laws::{self, Goal, Law};
use crate::membership::Masks;
use crate::server::Server;
use crate::symmetry::{Permutation, Permutations, mix};
use crate::tables::{Code, Copies, MessageId, Outcome, ServerId, Tables};
use raft_io::{NodeId, RoleKind};
use smallvec::SmallVec;
use stateright::{Model, Property};
use std::cell::RefCell;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A state of the cluster, by numbers.
#[derive(Debug, PartialEq, Eq)]
pub struct State {
    servers: [ServerId; SERVERS_MAX],
    /// The messages on their way, ascending.
    messages: SmallVec<[MessageId; 8]>,
    /// Who ever led: a mask of positions for each term, term 0 in the lowest byte.
    leaders: u64,
    /// Everything committed so far, with the term of the server that committed it first.
    committed: PackedLog,
    /// With leases, for each server the last round of confirmation that it heard in each term: 2 bits a term, term 0 in the
    /// lowest.
    heard: [u16; SERVERS_MAX],
    /// The reads that began, by context from 1 on.
    reads: [Option<ReadHistory>; READS_MAX],
    transfers: u8,
    snapshots: u8,
    changes: u8,
    crashes: u8,
    losses: u8,
    /// The laws that the last step broke.
    broken: u64,
    /// The same for all states that count as one.
    fingerprint: u64,
}

impl Clone for State {
    fn clone(&self) -> Self {
        // The derived one would clone message by message.
        Self { messages: SmallVec::from_slice(&self.messages), ..*self }
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.fingerprint.hash(state);
    }
}

impl State {
    /// The servers' numbers.
    #[must_use]
    pub fn servers(&self) -> &[ServerId; SERVERS_MAX] {
        &self.servers
    }

    /// The messages on their way.
    #[must_use]
    pub fn messages(&self) -> &[MessageId] {
        &self.messages
    }

    /// Who ever led: (term, position), ascending.
    pub fn leaders(&self) -> impl Iterator<Item = (u8, u8)> + '_ {
        let masks = self.leaders.to_le_bytes();
        (0..8_u8).flat_map(move |term| {
            (0..SERVERS_MAX as u8).filter(move |at| masks[usize::from(term)] & 1 << at != 0).map(move |at| (term, at))
        })
    }

    /// Everything committed so far.
    #[must_use]
    pub fn committed(&self) -> PackedLog {
        self.committed
    }

    /// The same for all states that count as one.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// With leases, the last round that the server at a position heard in each term: (term, round), ascending.
    pub fn heard(&self, at: usize) -> impl Iterator<Item = (u8, u8)> + '_ {
        let heard = self.heard[at];
        (0..8_u8).map(move |term| (term, round_of(heard, term))).filter(|(_, round)| *round > 0)
    }

    /// The reads that began, by context from 1 on.
    pub fn reads(&self) -> impl Iterator<Item = ReadHistory> + '_ {
        self.reads.iter().flatten().copied()
    }

    /// How many transfers of leadership began.
    #[must_use]
    pub fn transfers(&self) -> u8 {
        self.transfers
    }

    /// How many snapshots were taken.
    #[must_use]
    pub fn snapshots(&self) -> u8 {
        self.snapshots
    }

    /// How many changes of the configuration were asked for.
    #[must_use]
    pub fn changes(&self) -> u8 {
        self.changes
    }

    /// How often a disk lost what it held.
    #[must_use]
    pub fn losses(&self) -> u8 {
        self.losses
    }

    /// How many crashes there were.
    #[must_use]
    pub fn crashes(&self) -> u8 {
        self.crashes
    }
}

fn round_of(heard: u16, term: u8) -> u8 {
    (heard >> (2 * term) & 3) as u8
}

/// The cluster of one configuration. Clones share what was found.
#[derive(Clone)]
pub struct Cluster {
    configuration: Arc<Configuration>,
    /// The configuration that the cluster begins with.
    initial: Masks,
    permutations: Arc<Permutations>,
    tables: Arc<Tables>,
    /// The laws that count, as a mask; what breaks another one goes on, or ends there if a server stopped itself.
    watched: u64,
    found: Arc<Found>,
}

/// What a run has found so far.
#[derive(Default)]
struct Found {
    goals: AtomicU64,
    names: AtomicU64,
}

thread_local! {
    static COPIES: RefCell<Copies> = RefCell::default();
}

impl Cluster {
    /// The cluster of a configuration, with every law watched.
    #[must_use]
    pub fn new(configuration: Configuration) -> Self {
        Self::watching(configuration, Law::ALL)
    }

    /// The cluster of a configuration in which only these laws count.
    #[must_use]
    pub fn watching(configuration: Configuration, laws: &[Law]) -> Self {
        let permutations = Permutations::new(
            configuration.servers,
            configuration.campaigners,
            configuration.readers,
            configuration.symmetry,
        );
        Self {
            initial: Masks::of(&configuration.initial()),
            configuration: Arc::new(configuration),
            permutations: Arc::new(permutations),
            tables: Arc::default(),
            watched: laws.iter().fold(0, |mask, law| mask | law.bit()),
            found: Arc::default(),
        }
    }

    /// The configuration.
    #[must_use]
    pub fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    /// The renamings under which states count as one.
    #[must_use]
    pub fn permutations(&self) -> &Permutations {
        &self.permutations
    }

    /// Whether a law counts.
    #[must_use]
    pub fn watches(&self, law: Law) -> bool {
        self.watched & law.bit() != 0
    }

    /// The distinct servers, messages and steps so far.
    #[must_use]
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The goals reached so far.
    pub fn goals_reached(&self) -> impl Iterator<Item = Goal> + use<> {
        let reached = self.found.goals.load(Ordering::Relaxed);
        Goal::ALL.iter().copied().filter(move |goal| reached & goal.bit() != 0)
    }

    /// The names of the actions taken so far.
    pub fn names_taken(&self) -> impl Iterator<Item = &'static str> + use<> {
        let taken = self.found.names.load(Ordering::Relaxed);
        crate::action::names().enumerate().filter(move |(at, _)| taken & 1_u64 << at != 0).map(|(_, name)| name)
    }

    /// The laws that a state breaks, or the step that led to it.
    #[must_use]
    pub fn broken_laws(&self, state: &State) -> Vec<Law> {
        let broken = self.judge(state);
        Law::ALL.iter().copied().filter(|law| broken & law.bit() != 0).collect()
    }

    /// Whether neither the state nor the step that led to it breaks a law.
    #[must_use]
    pub fn keeps_the_laws(&self, state: &State) -> bool {
        self.judge(state) == 0
    }

    fn judge(&self, state: &State) -> u64 {
        self.with_copies(state, |copies| {
            let facts: SmallVec<[&Facts; SERVERS_MAX]> =
                self.present(state).iter().map(|&id| copies.facts(id)).collect();
            let (configuration, initial) = (&*self.configuration, self.initial);
            let memberships = laws::Memberships { configuration, initial, known: copies.memberships() };
            let broken = laws::of_state(memberships, &facts, state.leaders, state.committed);
            let stale = state.reads().any(|read| !read.is_linearizable());
            let stale = if stale { Law::LinearizableRead.bit() } else { 0 };
            (broken | stale | state.broken) & self.watched
        })
    }

    fn present<'a>(&self, state: &'a State) -> &'a [ServerId] {
        &state.servers[..usize::from(self.configuration.servers)]
    }

    /// This thread's copies of the tables, with everything that `state` names.
    fn with_copies<T>(&self, state: &State, look: impl FnOnce(&mut Copies) -> T) -> T {
        COPIES.with_borrow_mut(|copies| {
            let servers = self.present(state).iter().max().map_or(0, |&id| id as usize + 1);
            let messages = state.messages.last().map_or(0, |&id| usize::from(id) + 1);
            copies.bring_up_to_date(&self.tables, servers, messages);
            look(copies)
        })
    }

    /// Whether a leader's lease has to be over before this server's election timeouts can pass: what the clocks hold.
    fn is_bound(&self, copies: &Copies, state: &State, position: u8) -> bool {
        let heard = state.heard[usize::from(position)];
        heard != 0
            && self.present(state).iter().any(|&id| {
                let leader = copies.facts(id);
                let leads = leader.role == RoleKind::Leader && leader.position != position;
                leads && round_of(heard, leader.term) > leader.lease_over
            })
    }

    /// The inputs that a server may get from its own side: timeouts, clients, its disk, a crash. `bound` keeps its election
    /// timeouts from passing.
    fn own_codes(
        &self,
        copies: &Copies,
        (position, bound): (u8, bool),
        facts: &Facts,
        state: &State,
        mut offer: impl FnMut(Code),
    ) {
        let configuration = &self.configuration;
        self.disk_codes(copies, facts, state, &mut offer);
        // It does nothing any more.
        if facts.lost {
            return;
        }
        let leads = facts.role == RoleKind::Leader;
        if !leads && position < configuration.campaigners && !bound {
            offer(Code::ElectionTimeout);
        }
        if (facts.leader_is_recent || facts.follower_reads > 0) && !bound {
            offer(Code::MinimumElectionTimeout);
        }
        if leads && configuration.heartbeats {
            offer(Code::HeartbeatTimeout);
        }
        if leads && configuration.check_quorum {
            offer(Code::QuorumCheckTimeout);
        }
        if leads && configuration.step_downs {
            offer(Code::StepDown);
        }
        if leads && configuration.client_requests {
            offer(Code::ClientRequest);
        }
        let reads = state.reads().count() as u8;
        if leads && reads < configuration.reads_max {
            offer(Code::ReadRequest(reads + 1));
            if configuration.leases {
                offer(Code::LeaseReadRequest(reads + 1));
            }
        }
        if facts.follows && configuration.reads_at(position) && reads < configuration.reads_max {
            offer(Code::FollowerReadRequest(reads + 1));
        }
        if configuration.leases {
            (facts.lease_over + 1..=facts.read_round).for_each(|round| offer(Code::LeaseTimeout(round)));
        }
        if leads && state.transfers < configuration.transfers_max {
            let targets = (0..configuration.servers).filter(|target| *target != position);
            targets.for_each(|target| offer(Code::TransferLeadership(target)));
        }
        if leads && state.changes < configuration.changes_max {
            (0..configuration.targets.1.len()).for_each(|target| offer(Code::ChangeMembership(target as u8)));
        }
        if facts.hands_over {
            offer(Code::TransferTimeout);
        }
        if state.snapshots < configuration.snapshots_max {
            for index in (facts.snapshot.0 + 1).max(facts.knows_from)..=facts.applied {
                configuration.trails.iter().for_each(|&trail| offer(Code::SnapshotTaken(index, trail)));
            }
        }
        if facts.fetching {
            offer(Code::SnapshotFetched);
            offer(Code::SnapshotFetchFailed);
        }
        (1..=facts.pending).for_each(|writes| offer(Code::Persisted(writes)));
    }

    fn offer(&self, copies: &mut Copies, state: &State, server: u8, code: Code, actions: &mut Vec<Action>) {
        let id = state.servers[usize::from(server)];
        let number = copies.step(&self.tables, &self.configuration, &self.permutations, id, code);
        let outcome = copies.outcome(number);
        let stopped = outcome.broken & Law::ServerLaws.bit() != 0;
        // A step that breaks a law is shown even where it leads beyond the bounds.
        let shown = outcome.in_bounds || outcome.broken & self.watched != 0;
        if !shown || (stopped && self.watched & Law::ServerLaws.bit() == 0) {
            return;
        }
        let handled = if let Code::Receive(message) = code { Some(message) } else { None };
        let (removes, keeps) = match self.configuration.network {
            Network::Monotone => (false, true),
            Network::Lossy { duplication, .. } => (true, duplication && handled.is_some()),
        };
        let mut each = |keep: bool| {
            let removed = if keep { None } else { handled };
            if outcome.is_nothing
                && removed.is_none()
                && outcome.broken & self.watched == 0
                && !matches!(code, Code::Crash(_) | Code::Wipe | Code::RollBack | Code::SnapshotTaken(..))
            {
                // Nothing changes.
                return;
            }
            self.each_loss(copies.sent(outcome), state, removed, |lost| {
                actions.push(Action::Step { server, code, keep, lost, outcome: number });
            });
        };
        if removes {
            each(false);
        }
        if keeps {
            each(true);
        }
    }

    /// Every choice of what finds no room among the messages that are new on their way, as masks.
    fn each_loss(&self, sent: &[MessageId], state: &State, removed: Option<MessageId>, mut choose: impl FnMut(u16)) {
        let Network::Lossy { messages_max, .. } = self.configuration.network else { return choose(0) };
        let stays = |id: &MessageId| state.messages.contains(id) && Some(*id) != removed;
        let fresh = sent.iter().filter(|id| !stays(id)).count();
        let room = messages_max.saturating_sub(state.messages.len() - usize::from(removed.is_some()));
        if fresh <= room {
            return choose(0);
        }
        let excess = (fresh - room) as u32;
        (0..1_u16 << fresh).filter(|mask| mask.count_ones() == excess).for_each(choose);
    }

    fn take_step(
        &self,
        copies: &Copies,
        state: &State,
        (server, code, keep, lost): (u8, Code, bool, u16),
        outcome: &Outcome,
    ) -> State {
        let mut next = state.clone();
        next.servers[usize::from(server)] = outcome.next;
        next.broken = outcome.broken & self.watched;
        next.snapshots += u8::from(matches!(code, Code::SnapshotTaken(..)));
        next.crashes += u8::from(matches!(code, Code::Crash(_)));
        next.losses += u8::from(matches!(code, Code::Wipe));
        // One that is refused is no step.
        next.transfers += u8::from(matches!(code, Code::TransferLeadership(_)));
        next.changes += u8::from(matches!(code, Code::ChangeMembership(_)));
        if let (Code::Receive(message), false) = (code, keep) {
            next.messages.retain(|id| *id != message);
        }
        let mut fresh = 0;
        for &id in copies.sent(outcome) {
            if let Err(position) = next.messages.binary_search(&id) {
                if lost & 1 << fresh == 0 {
                    next.messages.insert(position, id);
                }
                fresh += 1;
            }
        }
        if let Code::ReadRequest(context) | Code::LeaseReadRequest(context) | Code::FollowerReadRequest(context) = code
        {
            next.reads[usize::from(context) - 1] =
                Some(ReadHistory { floor: state.committed.len() as u8, index: None });
        }
        for (context, index) in outcome.answers.into_iter().flatten() {
            if let Some(read) = &mut next.reads[usize::from(context) - 1] {
                read.index = Some(index);
            }
        }
        let after = copies.facts(outcome.next);
        if let (Code::Receive(message), true) = (code, self.configuration.leases) {
            let asks = copies.message_facts(message).asks.filter(|(term, _)| *term == after.term);
            let heard = &mut next.heard[usize::from(server)];
            if let Some((term, round)) = asks.filter(|(term, round)| *round > round_of(*heard, *term)) {
                *heard = *heard & !(3 << (2 * term)) | u16::from(round) << (2 * term);
            }
        }
        if after.role == RoleKind::Leader {
            next.leaders |= 1 << (8 * after.term + server);
        }
        if u32::from(after.commit) > next.committed.len() {
            next.committed = next.committed.commit(after.log, u32::from(after.commit), after.term);
        }
        let terms_led = next.leaders.to_le_bytes().into_iter().filter(|mask| *mask != 0).count();
        let reelection = if terms_led > 1 { Goal::Reelection.bit() } else { 0 };
        let others_lead = after.role == RoleKind::Leader && server >= self.configuration.campaigners;
        let by_transfer = if others_lead { Goal::LeaderByTransfer.bit() } else { 0 };
        self.note(outcome.goals | reelection | by_transfer, outcome.name);
        next
    }

    fn note(&self, goals: u64, name: u8) {
        if self.found.goals.load(Ordering::Relaxed) & goals != goals {
            self.found.goals.fetch_or(goals, Ordering::Relaxed);
        }
        if self.found.names.load(Ordering::Relaxed) & 1_u64 << name == 0 {
            self.found.names.fetch_or(1_u64 << name, Ordering::Relaxed);
        }
    }

    /// Drops dead messages if the configuration says so, and gives the state its fingerprint.
    fn finish(&self, copies: &Copies, mut state: State) -> State {
        if self.configuration.drop_dead {
            let servers = state.servers;
            state.messages.retain(|id| {
                let message = copies.message_facts(*id);
                !message.is_dead(copies.facts(servers[usize::from(message.to)]))
            });
        }
        state.fingerprint = self.fingerprint(copies, &state);
        state
    }

    /// The least hash under any permutation. Servers and messages know their names themselves, so their hashes can be
    /// added in any order.
    fn fingerprint(&self, copies: &Copies, state: &State) -> u64 {
        let least = match self.permutations.len() {
            1 => self.least_sum(copies, state, [0; 1]),
            2 => self.least_sum(copies, state, [0; 2]),
            6 => self.least_sum(copies, state, [0; 6]),
            count => self.least_sum(copies, state, SmallVec::<[u64; 120]>::from_elem(0, count)),
        };
        let reads = state.reads().fold(0, |bits, read| bits << 16 | read.bits());
        let counts = u64::from(state.changes) << 56
            | u64::from(state.snapshots) << 48
            | u64::from(state.transfers) << 40
            | u64::from(state.crashes) << 32
            | u64::from(state.losses) << 24;
        let rest = mix(reads) ^ mix(counts ^ mix(state.broken));
        // Never 0, which the search keeps for itself.
        let committed = state.committed.0 as u64 ^ mix((state.committed.0 >> 64) as u64);
        mix(least ^ mix(committed.wrapping_add(mix(rest)))).max(1)
    }

    /// The least of the sums, one per permutation. The usual numbers of permutations come as arrays, so that the compiler
    /// knows how many there are: this is the hottest loop of all.
    fn least_sum(&self, copies: &Copies, state: &State, mut sums: impl AsMut<[u64]>) -> u64 {
        let sums = sums.as_mut();
        let count = sums.len();
        let mut add =
            |hashes: &[u64]| sums.iter_mut().zip(hashes).for_each(|(sum, hash)| *sum = sum.wrapping_add(*hash));
        self.present(state).iter().for_each(|&id| add(copies.server_hashes(id, count)));
        state.messages.iter().for_each(|&id| add(copies.message_hashes(id, count)));
        for (term, mask) in state.leaders.to_le_bytes().into_iter().enumerate().filter(|(_, mask)| *mask != 0) {
            add(self.permutations.leader_hashes(term, mask));
        }
        for (at, &heard) in state.heard.iter().enumerate().filter(|(_, heard)| **heard != 0) {
            let place = |permutation: &Permutation| permutation.apply(NodeId(at as u64 + 1)).0;
            let hash = |place: u64| mix(0x6865 << 48 | place << 16 | u64::from(heard));
            sums.iter_mut().zip(self.permutations.iter()).for_each(|(sum, permutation)| {
                *sum = sum.wrapping_add(hash(place(permutation)));
            });
        }
        sums.iter().copied().min().unwrap_or(0)
    }
}

impl Model for Cluster {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut servers = [0; SERVERS_MAX];
        for (at, id) in self.configuration.ids().enumerate() {
            servers[at] = self.tables.intern_server(&Server::new(&self.configuration, id), &self.permutations);
        }
        let state = State {
            servers,
            messages: SmallVec::new(),
            leaders: 0,
            committed: PackedLog::default(),
            heard: [0; SERVERS_MAX],
            reads: [None; READS_MAX],
            transfers: 0,
            snapshots: 0,
            changes: 0,
            crashes: 0,
            losses: 0,
            broken: 0,
            fingerprint: 0,
        };
        vec![self.with_copies(&state, |copies| self.finish(copies, state.clone()))]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.with_copies(state, |copies| {
            for server in 0..self.configuration.servers {
                let facts = *copies.facts(state.servers[usize::from(server)]);
                let bound = self.configuration.leases && self.is_bound(copies, state, server);
                let mut codes = SmallVec::<[Code; 16]>::new();
                self.own_codes(copies, (server, bound), &facts, state, |code| codes.push(code));
                codes.into_iter().for_each(|code| self.offer(copies, state, server, code, actions));
            }
            for &message in &state.messages {
                let server = copies.message_facts(message).to;
                self.offer(copies, state, server, Code::Receive(message), actions);
            }
        });
        if let Network::Lossy { .. } = self.configuration.network {
            actions.extend(state.messages.iter().map(|&message| Action::DropMessage(message)));
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        Some(self.with_copies(state, |copies| match action {
            Action::Step { server, code, keep, lost, outcome } => {
                let outcome = *copies.outcome(outcome);
                copies.bring_up_to_date(&self.tables, outcome.next as usize + 1, 0);
                let next = self.take_step(copies, state, (server, code, keep, lost), &outcome);
                self.finish(copies, next)
            }
            Action::DropMessage(message) => {
                self.note(0, name_position("DropMessage"));
                let mut next = state.clone();
                next.messages.retain(|id| *id != message);
                next.broken = 0;
                self.finish(copies, next)
            }
        }))
    }

    /// One property for all laws: a state has only to be looked at once. `Cluster::broken_laws` says which.
    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always("Laws", |cluster: &Self, state: &State| cluster.keeps_the_laws(state))]
    }
}
