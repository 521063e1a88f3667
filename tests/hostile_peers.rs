//! Law 4: no message from a peer panics a server, makes it break a promise of its own, or keep memory without bound.
//!
//! One real protocol among peers that say whatever they like: seeded messages, most of them close to what the server
//! would believe, some absurd. Safety of the cluster is not to be had from such peers; what must hold is what the server
//! promises alone: persist first, one vote a term, terms and commits that only grow, nothing committed that is removed.
//! The laws that it asserts about itself are asserted after every step.

use raft_io::message::{
    AppendEntriesRequest, AppendEntriesResponse, AppendResult, ConfirmLeaderRequest, ConfirmLeaderResponse,
    InstallSnapshotRequest, Message, PreVoteRequest, PreVoteResponse, ReadIndexRequest, ReadIndexResponse,
    RequestVoteRequest, RequestVoteResponse, TimeoutNowRequest,
};
use raft_io::testkit::log_suite::Random;
use raft_io::{
    Action, Actions, Entries, Entry, EntryId, Envelope, Event, HistoryId, Index, LogView, Membership, MemoryLog,
    NodeId, Payload, Protocol, RaftConfig, RaftLog, RoleKind, Term, Write,
};
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

const SELF: NodeId = NodeId(1);

/// The server, its disk and what it has promised.
struct Server {
    config: RaftConfig,
    protocol: Protocol,
    disk: MemoryLog,
    /// With what is in flight to the disk.
    log: MemoryLog,
    in_flight: VecDeque<Write>,
    /// Writes on the disk that the protocol does not know of yet.
    unreported: usize,
    applied: Index,
    /// How far the disk ever reached in each term.
    reached: BTreeMap<Term, Index>,
    votes: BTreeMap<Term, NodeId>,
    /// The term of each entry applied in this life.
    committed: BTreeMap<Index, Term>,
    random: Random,
    roles_seen: BTreeMap<RoleKind, u32>,
    restored: u32,
    /// How often another configuration came into force.
    changed: u32,
    /// The last number that a read at a follower had.
    contexts: u64,
    /// How many of these were answered.
    answered: u32,
}

impl Server {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        // Some of these servers join, and hear from liars who belongs to the cluster.
        let servers = [0, 1, 2, 3, 3, 5][random.draw() as usize % 6];
        let mut config = RaftConfig::new(SELF, 1..=servers);
        config.joins = servers == 0;
        config.pre_vote = random.draw() % 2 == 0;
        config.check_quorum = random.draw() % 2 == 0;
        config.lease_ticks = [None, Some(5)][random.draw() as usize % 2].filter(|_| config.check_quorum);
        config.append_bytes_max = [1, 40, 1 << 20][random.draw() as usize % 3];
        config.inflight_messages_max = [1, 2, 256][random.draw() as usize % 3];
        let disk = MemoryLog::new();
        let protocol = Protocol::new(&config, &disk).expect("a valid configuration");
        let (in_flight, reached, votes, committed, roles_seen) = Default::default();
        Self {
            config,
            protocol,
            log: disk.clone(),
            disk,
            in_flight,
            unreported: 0,
            applied: Index(0),
            reached,
            votes,
            committed,
            random,
            roles_seen,
            restored: 0,
            changed: 0,
            contexts: 0,
            answered: 0,
        }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random.draw() % bound
    }

    fn act(&mut self) {
        match self.below(100) {
            0..60 => {
                let envelope = self.envelope();
                self.step(Event::Receive(envelope));
            }
            60..65 => self.step(Event::ElectionTimeout),
            65 => self.step(Event::MinimumElectionTimeout),
            66..69 => self.step(Event::HeartbeatTimeout),
            69 => self.step(Event::QuorumCheckTimeout),
            70..72 => self.step(Event::Propose("x".into())),
            72 if self.below(2) == 0 => self.transfer(),
            72 => {
                let target = Arc::new(self.some_membership());
                self.step(Event::ChangeMembership { target });
            }
            73 => self.read(),
            74..84 => self.sync(),
            84..96 if self.unreported > 0 => {
                let writes = 1 + self.below(self.unreported as u64) as usize;
                self.unreported -= writes;
                self.step(Event::Persisted { writes });
            }
            96 => self.restart(),
            97 => {
                let last = EntryId { index: self.applied, term: self.disk.term(self.applied).unwrap_or_default() };
                let compact_through = Index(self.applied.0.saturating_sub(self.below(2)));
                self.step(Event::SnapshotTaken { last, compact_through });
            }
            98 => {
                let (_, last) = self.protocol.fetching().unwrap_or((SELF, EntryId::ZERO));
                self.step(Event::SnapshotFetched { last });
            }
            99 if self.below(4) == 0 => {
                let (_, last) = self.protocol.fetching().unwrap_or((SELF, EntryId::ZERO));
                self.step(Event::SnapshotFetchFailed { last });
            }
            // Of one server no two reads have the same number; its peers know some of them.
            99 => {
                self.contexts += 1;
                self.step(Event::FollowerReadRequest { context: self.contexts });
            }
            _ => {}
        }
    }

    /// Somebody wants another server to lead, whether there is one or not; or it took too long.
    fn transfer(&mut self) {
        match self.below(4) {
            0 => self.step(Event::TransferTimeout),
            target => self.step(Event::TransferLeadership { target: NodeId(target) }),
        }
    }

    /// A client reads, a lease is over, or the server is to lead no more.
    fn read(&mut self) {
        match self.below(8) {
            0..3 => self.step(Event::ReadRequest { context: 0 }),
            3..6 => self.step(Event::LeaseReadRequest { context: 0 }),
            6 => {
                let round = self.near(1);
                self.step(Event::LeaseTimeout { round });
            }
            _ => self.step(Event::StepDown),
        }
    }

    /// Some of the writes in flight reach the disk.
    fn sync(&mut self) {
        let count = self.below(self.in_flight.len() as u64 + 1) as usize;
        let writes: Vec<Write> = self.in_flight.drain(..count).collect();
        let term = self.disk.hard_state().term;
        for write in writes {
            let Ok(()) = self.disk.append(&mut vec![write]);
            let reached = self.reached.entry(self.disk.hard_state().term).or_default();
            *reached = self.disk.last().index.max(*reached);
        }
        self.unreported += count;
        let durable = self.disk.hard_state();
        assert!(durable.term >= term, "the durable term fell");
        if let Some(vote) = durable.vote {
            assert_eq!(*self.votes.entry(durable.term).or_insert(vote), vote, "two votes in {}", durable.term);
        }
    }

    fn restart(&mut self) {
        self.sync();
        self.in_flight.clear();
        self.log = self.disk.clone();
        self.unreported = 0;
        self.protocol = Protocol::new(&self.config, &self.disk).expect("the log holds what was written");
        self.applied = self.disk.snapshot().index;
        // The commit index is volatile: liars may now tell of another history.
        self.committed.clear();
    }

    fn step(&mut self, event: Event) {
        let (term, commit) = (self.protocol.term(), self.protocol.commit_index());
        let mut actions = Actions::new();
        let _refused = self.protocol.step(&self.disk, event, &mut actions);
        *self.roles_seen.entry(self.protocol.role()).or_default() += 1;
        assert!(self.protocol.term() >= term && self.protocol.commit_index() >= commit, "terms and commits only grow");
        for action in actions {
            match action {
                Action::Persist(write) => {
                    assert!(write.truncate_from.is_none_or(|first| first > commit), "a committed entry is removed");
                    let Ok(()) = self.log.append(&mut vec![write.clone()]);
                    self.in_flight.push_back(write);
                }
                Action::MembershipChanged { .. } => self.changed += 1,
                Action::ReadReady { context: 1.., .. } => self.answered += 1,
                Action::Send(envelope) => self.check_sent(&envelope),
                Action::Apply { through } => self.apply(through),
                Action::RestoreSnapshot { last } => {
                    assert!(
                        last.index > self.applied && self.disk.snapshot() == last,
                        "restores what is durable and new"
                    );
                    self.applied = last.index;
                    self.restored += 1;
                }
                _ => {}
            }
        }
        self.check_membership();
    }

    /// Whoever made them: the configurations that the server goes by are those in its log.
    fn check_membership(&self) {
        let snapshot = self.log.snapshot().index;
        let in_log = self.log.memberships();
        let first = in_log.at_snapshot.unwrap_or_else(|| Arc::new(self.config.membership.clone()));
        let later =
            self.log.iter().filter(|entry| entry.id.index > snapshot).filter_map(|entry| match &entry.payload {
                Payload::Membership(membership) => Some((entry.id.index, membership)),
                _ => None,
            });
        let expected = std::iter::once((snapshot, &first)).chain(later);
        assert!(self.protocol.memberships().eq(expected), "goes by {:?}", self.protocol.state().memberships);
    }

    fn check_sent(&mut self, envelope: &Envelope) {
        let durable = self.disk.hard_state();
        let term = envelope.message.term();
        assert!(durable.term >= term, "{envelope:?} speaks of a term that is not durable");
        let vote = match &envelope.message {
            Message::RequestVoteRequest(_) => Some(SELF),
            Message::RequestVoteResponse(response) if response.granted => Some(envelope.to),
            _ => None,
        };
        if let Some(vote) = vote {
            assert!(
                durable.term > term || durable.vote == Some(vote),
                "{envelope:?} tells of a vote that is not durable"
            );
        }
        let Message::AppendEntriesResponse(response) = envelope.message else { return };
        if let AppendResult::Accepted { match_index } = response.result {
            // The disk may have got beyond it since: to a later term, or to what a leader that contradicts itself sent.
            let reached = self.reached.get(&term).is_some_and(|reached| *reached >= match_index);
            assert!(reached || durable.term > term, "{envelope:?} is not durable");
        }
    }

    fn apply(&mut self, through: Index) {
        assert!(through > self.applied && through <= self.disk.last().index, "applies what is durable, once");
        for index in self.applied.0 + 1..=through.0 {
            let term = self.disk.term(Index(index)).expect("an entry to apply");
            assert_eq!(*self.committed.entry(Index(index)).or_insert(term), term, "applies another entry at {index}");
        }
        self.applied = through;
    }

    /// A number at or near `centre`, or one that makes no sense.
    fn near(&mut self, centre: u64) -> u64 {
        match self.below(400) {
            0 => u64::MAX,
            1 => (1 << 62) + 1,
            2 => 0,
            _ => centre.saturating_add(self.below(4)).saturating_sub(1 + self.below(2)),
        }
    }

    /// A term like the present one; hardly ever the last, after which there are no more elections.
    fn some_term(&mut self) -> Term {
        let present = self.protocol.term().0;
        let leads = self.protocol.role() == RoleKind::Leader;
        Term(match self.below(100) {
            0 => self.near(present),
            // A leader must be let alone for a while to do something.
            1..10 if !leads => present + 1,
            10..15 => present.saturating_sub(1),
            _ => present,
        })
    }

    /// The id of an entry that the server holds, or of one that it might.
    fn some_id(&mut self) -> EntryId {
        let (last, commit) = (self.protocol.last().index.0, self.protocol.commit_index().0);
        let index = match self.below(4) {
            0 => self.near(commit),
            1 => self.below(last + 2),
            _ => self.near(last),
        };
        let held = if index == self.protocol.last().index.0 {
            Some(self.protocol.last().term)
        } else {
            self.disk.term(Index(index))
        };
        let term = match self.below(8) {
            0 => self.near(self.protocol.last().term.0),
            _ => held.map_or(self.protocol.term().0, |term| term.0),
        };
        EntryId::new(index, term)
    }

    /// Some servers with a vote, some without, and changes of all kinds; now and then nobody at all.
    fn some_membership(&mut self) -> Membership {
        let present = Membership::clone(self.protocol.membership());
        let id = NodeId(self.below(6));
        match self.below(16) {
            0 => Membership::default(),
            1 => Membership::default().with_learner(SELF).with_promotion(id),
            2 => present.settled().joint_from(&Membership::new([id])),
            3 => Membership::new([id]).joint_from(&present),
            4 => present.with_address(self.below(9), "somewhere"),
            5..7 => present.without(id),
            7..9 => present.with_learner(id),
            9..11 => present.with_promotion(id),
            11..13 => present.settled(),
            _ => present.with_voter(id),
        }
    }

    fn some_payload(&mut self) -> Payload {
        if self.below(4) == 0 { Payload::Membership(Arc::new(self.some_membership())) } else { Payload::Noop }
    }

    fn envelope(&mut self) -> Envelope {
        // Strangers may say what they like too.
        let peers = self.config.membership.voters().len().max(2) as u64 - 1;
        let from = if self.below(50) == 0 { self.below(9) } else { 2 + self.below(peers) };
        let to = if self.below(100) == 0 { NodeId(2) } else { SELF };
        Envelope { from: NodeId(from), to, message: self.message() }
    }

    fn message(&mut self) -> Message {
        let term = self.some_term();
        let granted = self.below(4) > 0;
        // Mostly what the server waits for.
        let kind = match self.protocol.role() {
            _ if self.below(2) == 0 => self.below(16),
            RoleKind::PreCandidate => 1,
            RoleKind::Candidate => 3,
            RoleKind::Leader => 9,
            RoleKind::Follower if self.protocol.state().reads_asked > 0 && self.below(2) == 0 => 15,
            RoleKind::Follower => 5,
        };
        match kind {
            0 => {
                let campaign_term = Term(term.0.saturating_add(u64::from(self.below(9) > 0)));
                Message::PreVoteRequest(PreVoteRequest { term, campaign_term, last: self.some_id() })
            }
            1 => {
                let campaign_term = Term(self.near(self.protocol.term().0 + 1));
                Message::PreVoteResponse(PreVoteResponse { term, campaign_term, granted })
            }
            2 => {
                let leadership_transfer = self.below(2) == 0;
                Message::RequestVoteRequest(RequestVoteRequest { term, last: self.some_id(), leadership_transfer })
            }
            3 | 4 => Message::RequestVoteResponse(RequestVoteResponse { term, granted }),
            5..8 => Message::AppendEntriesRequest(self.append(term)),
            10 => Message::ConfirmLeaderRequest(ConfirmLeaderRequest { term, round: self.some_round() }),
            11 => {
                let leader_term = if self.below(3) > 0 { term } else { self.some_term() };
                Message::ConfirmLeaderResponse(ConfirmLeaderResponse { term, leader_term, round: self.some_round() })
            }
            14 => Message::ReadIndexRequest(ReadIndexRequest { term, context: self.below(4) }),
            15 => {
                let context = self.near(self.contexts);
                let (index, commit) = (self.some_id().index, self.some_id().index);
                Message::ReadIndexResponse(ReadIndexResponse { term, context, index, commit })
            }
            12 => Message::TimeoutNowRequest(TimeoutNowRequest { term }),
            13 => {
                let (last, membership) = (self.some_id(), Arc::new(self.some_membership()));
                let session = Index(self.below(3));
                Message::InstallSnapshotRequest(InstallSnapshotRequest { term, last, membership, session })
            }
            _ => {
                let result = match self.below(5) {
                    0..3 => AppendResult::Accepted { match_index: self.some_id().index },
                    3 => AppendResult::Rejected { prev_index: self.some_id().index, hint: self.some_id() },
                    _ => AppendResult::StaleTerm,
                };
                Message::AppendEntriesResponse(AppendEntriesResponse {
                    disk: Default::default(),
                    term,
                    result,
                    session: Some(Index::ZERO),
                })
            }
        }
    }

    fn some_round(&mut self) -> u64 {
        self.near(self.protocol.state().read_round + 1)
    }

    fn append(&mut self, term: Term) -> AppendEntriesRequest {
        let prev = self.some_id();
        let mut id = prev;
        let mut entries = Vec::new();
        for _ in 0..self.below(4) {
            id.index = Index(id.index.0.wrapping_add(u64::from(self.below(60) > 0)));
            let held = self.disk.term(id.index).unwrap_or(term);
            id.term = match self.below(12) {
                0 => Term(self.near(term.0)),
                1..7 => held,
                _ => term,
            };
            entries.push(Entry { id, payload: self.some_payload() });
        }
        let commit = self.some_id().index;
        let session = Index(self.below(3));
        // Of this cluster there is none; whoever names one is not of it.
        let history = (self.below(8) == 0).then(|| HistoryId::from_bits(u128::from(self.below(4))));
        AppendEntriesRequest {
            acknowledged: Default::default(),
            disk: Default::default(),
            history,
            term,
            prev,
            entries: Entries::from(entries),
            commit,
            session,
        }
    }
}

/// What peers of a server with this seed make it do.
fn suffer(seed: u64) -> (BTreeMap<RoleKind, u32>, [u32; 3]) {
    let mut server = Server::new(seed);
    for _ in 0..400 {
        server.act();
    }
    (server.roles_seen, [server.restored, server.changed, server.answered])
}

#[test]
fn whatever_peers_say_a_server_keeps_its_own_promises() {
    let (mut roles, mut restored, mut changed, mut answered) = (BTreeMap::<RoleKind, u32>::new(), 0, 0, 0);
    for seed in 0..4_000 {
        match catch_unwind(AssertUnwindSafe(|| suffer(seed))) {
            Ok((seen, [snapshots, changes, reads])) => {
                seen.into_iter().for_each(|(role, count)| *roles.entry(role).or_default() += count);
                restored += snapshots;
                changed += changes;
                answered += reads;
            }
            Err(_) => panic!("seed {seed}: see above"),
        }
    }
    // The peers are plausible enough to bring it into every role.
    for role in [RoleKind::Follower, RoleKind::PreCandidate, RoleKind::Candidate, RoleKind::Leader] {
        assert!(roles.get(&role).is_some_and(|count| *count > 10_000), "{role:?} in {roles:?}");
    }
    assert!(restored > 500, "only {restored} snapshots were restored");
    assert!(changed > 20_000, "only {changed} configurations came into force");
    assert!(answered > 500, "only {answered} reads at followers were answered");
}
