//! Membership changes through the driver: each of them ends once, and says how (dissertation §4).

#![cfg(feature = "std")]

mod driver_support;

use driver_support::{PATIENCE, Recorder, block_on, config};
use raft_io::driver::{
    DriverOptions, HeldUp, LeaderHint, MemberPart, MembershipChangeError, NodeRole, NotLeaderReason, Raft,
    RequestError, Status, UnknownReason,
};
use raft_io::error::ChangeError;
use raft_io::log::{Locked, LogView};
use raft_io::transport::MemoryNetwork;
use raft_io::{Index, Membership, MemoryLog, NodeId, RaftConfig, RoleKind};
use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

/// Servers on one network, whose logs outlive them.
#[derive(Default)]
struct Servers {
    network: MemoryNetwork,
    logs: BTreeMap<u64, Locked<MemoryLog>>,
    rafts: BTreeMap<u64, Raft<Recorder>>,
}

impl Servers {
    fn with(voters: &[u64]) -> Self {
        let mut servers = Self::default();
        for &id in voters {
            servers.start(config(id, voters));
        }
        servers
    }

    fn start(&mut self, config: RaftConfig) -> &Raft<Recorder> {
        let id = config.id.0;
        let log = self.logs.entry(id).or_default().clone();
        let raft = Raft::start(config, log, self.network.transport(id), Recorder::default()).unwrap();
        self.rafts.insert(id, raft);
        self.at(id)
    }

    fn join(&mut self, id: u64) -> &Raft<Recorder> {
        self.start(config(id, &[]))
    }

    fn stop(&mut self, id: u64) {
        self.rafts.remove(&id).unwrap().shutdown();
    }

    fn at(&self, id: u64) -> &Raft<Recorder> {
        &self.rafts[&id]
    }

    /// Who leads among these, once it has committed an entry of its term.
    fn leader_among(&self, ids: &[u64]) -> u64 {
        let began = Instant::now();
        loop {
            let leads = |status: &Status| {
                let committed = self.logs[&status.id.0].term(status.commit_index) == Some(status.term);
                status.role == RoleKind::Leader && committed
            };
            if let Some(leader) = ids.iter().find(|id| leads(&self.at(**id).status())) {
                return *leader;
            }
            assert!(began.elapsed() < PATIENCE, "nobody leads");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn leader(&self) -> u64 {
        self.leader_among(&self.rafts.keys().copied().collect::<Vec<_>>())
    }

    fn write(&self, id: u64, count: usize) {
        let proposals = (0..count).map(|_| self.at(id).propose("x"));
        for proposal in proposals.collect::<Vec<_>>() {
            proposal.wait(PATIENCE).unwrap();
        }
    }

    /// How many commands a server has applied, once it has all that this leader has.
    fn applied(&self, id: u64, leader: u64) -> usize {
        let last = self.at(leader).status().last_index;
        wait(self.at(id), |status| status.applied_index >= last);
        self.at(id).stale_read(|machine| machine.applied.len()).unwrap()
    }
}

fn wait(raft: &Raft<Recorder>, holds: impl FnMut(&Status) -> bool) -> Status {
    raft.wait_for(PATIENCE, holds).unwrap_or_else(|error| panic!("{error}: {:?}", raft.status()))
}

fn ids(ids: &[u64]) -> Vec<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

fn is_done(status: &Status, voters: &[u64], learners: &[u64]) -> bool {
    let membership = &status.membership;
    let members = membership.in_force.voters() == ids(voters) && membership.in_force.learners() == ids(learners);
    members && membership.is_committed && !membership.in_force.is_joint()
}

#[test]
fn a_learner_is_added_catches_up_and_is_given_a_vote() {
    let mut servers = Servers::with(&[1, 2, 3]);
    let leader = servers.leader();
    servers.write(leader, 100);
    servers.join(4);
    let added = servers.at(leader).add_learner(4, "somewhere:4", PATIENCE).wait().unwrap();
    assert_eq!(added.to_string(), "voters 1 2 3, learners 4");
    assert_eq!(added.address(NodeId(4)), Some("somewhere:4"));
    assert_eq!(servers.applied(4, leader), 100);
    let status = wait(servers.at(4), |status| is_done(status, &[1, 2, 3], &[4]));
    assert_eq!((status.membership.part, status.role), (MemberPart::Learner, NodeRole::Follower));
    let promoted = servers.at(leader).promote(4, PATIENCE);
    assert_eq!(block_on(promoted).0.unwrap().to_string(), "voters 1 2 3 4");
    let status = wait(servers.at(4), |status| is_done(status, &[1, 2, 3, 4], &[]));
    assert_eq!(status.membership.part, MemberPart::Voter);
    let peers = servers.at(leader).status().peers;
    assert!(peers.iter().all(|peer| peer.part == MemberPart::Voter), "{peers:?}");
    assert_eq!(peers.len(), 3);
}

#[test]
fn a_voter_gets_its_vote_by_itself_once_it_has_caught_up() {
    let mut servers = Servers::with(&[1, 2, 3]);
    let leader = servers.leader();
    servers.write(leader, 1000);
    servers.join(4);
    let added = servers.at(leader).add_voter(4, "", PATIENCE).wait().unwrap();
    assert_eq!(*added, Membership::new([1, 2, 3, 4_u64]));
    assert_eq!(servers.applied(4, leader), 1000);
    // Asking again finds it done.
    let index = servers.at(leader).status().membership.index;
    assert_eq!(servers.at(leader).add_voter(4, "", PATIENCE).wait(), Ok(added));
    assert_eq!(servers.at(leader).status().membership.index, index);
}

/// Nothing waits for a server that is not there (§4.2.1): it is a learner until it has caught up.
#[test]
fn a_voter_that_is_not_there_costs_nothing_and_gets_its_vote_when_it_comes() {
    let mut servers = Servers::with(&[1, 2, 3]);
    let leader = servers.leader();
    let error = servers.at(leader).add_voter(4, "", Duration::from_millis(300)).wait().unwrap_err();
    // What is in force is said, and what is not: it was "the configuration may still come to be in force".
    let MembershipChangeError::VotePending { server: NodeId(4), membership, answers: false, held_up, .. } = &error
    else {
        panic!("{error:?}");
    };
    assert!(matches!(held_up, Some(HeldUp::Silent { .. })), "{held_up:?}");
    assert_eq!((membership.learners(), membership.promoting()), (&ids(&[4])[..], &ids(&[4])[..]), "{membership}");
    let said = error.to_string();
    assert!(
        said.contains("node 4 is a member now") && said.contains("it does not answer, it has said nothing for "),
        "{said}"
    );
    servers.write(leader, 10);
    let status = servers.at(leader).status();
    assert!(is_done(&status, &[1, 2, 3], &[4]), "{status:?}");
    assert_eq!(status.membership.in_force.promoting(), ids(&[4]));
    assert!(status.peers.iter().any(|peer| peer.id == NodeId(4) && !peer.active && peer.part == MemberPart::Learner));
    servers.join(4);
    wait(servers.at(4), |status| is_done(status, &[1, 2, 3, 4], &[]));
}

#[test]
fn a_removed_server_counts_no_more_and_removing_it_again_is_done_already() {
    let mut servers = Servers::with(&[1, 2, 3]);
    let leader = servers.leader();
    let (removed, kept) = if leader == 1 { (2, 3) } else { (1, if leader == 2 { 3 } else { 2 }) };
    let membership = servers.at(leader).remove(removed, PATIENCE).wait().unwrap();
    assert_eq!(membership.voters(), ids(&[leader.min(kept), leader.max(kept)]));
    servers.stop(removed);
    servers.write(leader, 10);
    assert_eq!(servers.at(leader).remove(removed, PATIENCE).wait(), Ok(membership));
    assert_eq!(servers.at(leader).remove(99, PATIENCE).wait().unwrap().voters().len(), 2);
    // Of two the last but one cannot go unnoticed, of one none can.
    servers.at(leader).remove(kept, PATIENCE).wait().unwrap();
    let refused = servers.at(leader).remove(leader, PATIENCE).wait();
    assert_eq!(refused, Err(MembershipChangeError::Refused(ChangeError::NoVoters)));
    servers.stop(kept);
    servers.write(leader, 10);
}

/// §4.2.2: it manages the cluster until that is committed, then another leads, without an election timeout.
#[test]
fn a_leader_that_removes_itself_answers_and_hands_over() {
    let servers = Servers::with(&[1, 2, 3]);
    let leader = servers.leader();
    servers.write(leader, 10);
    let began = servers.at(leader).status();
    let membership = servers.at(leader).remove(leader, PATIENCE).wait().unwrap();
    let rest: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    assert_eq!(membership.voters(), ids(&rest));
    let next = servers.leader_among(&rest);
    let status = servers.at(next).status();
    assert!(status.term > began.term);
    servers.write(next, 10);
    let left = wait(servers.at(leader), |status| status.role == RoleKind::Follower);
    assert_eq!(left.membership.part, MemberPart::None);
    assert_eq!(left.transfer_target, None);
}

#[test]
fn a_leader_that_demotes_itself_hands_over_and_follows() {
    let servers = Servers::with(&[1, 2, 3]);
    let leader = servers.leader();
    servers.at(leader).demote(leader, PATIENCE).wait().unwrap();
    let rest: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    let next = servers.leader_among(&rest);
    servers.write(next, 10);
    assert_eq!(servers.applied(leader, next), 10);
    assert_eq!(servers.at(leader).status().membership.part, MemberPart::Learner);
    servers.at(next).promote(leader, PATIENCE).wait().unwrap();
}

/// §4.3: both majorities decide, then the new one alone.
#[test]
fn all_three_servers_are_replaced_at_once() {
    let mut servers = Servers::with(&[1, 2, 3]);
    let leader = servers.leader();
    servers.write(leader, 100);
    let joiners = [4, 5, 6];
    joiners.iter().for_each(|id| drop(servers.join(*id).status()));
    for id in joiners {
        servers.at(leader).add_learner(id, format!("host:{id}"), PATIENCE).wait().unwrap();
    }
    let target = Membership::new(joiners).with_address(5, "elsewhere:5");
    let reached = servers.at(leader).change_membership(target, PATIENCE).wait().unwrap();
    let addresses: Vec<_> = reached.addresses().map(|(_, address)| address).collect();
    assert_eq!((reached.voters(), &addresses[..]), (&ids(&joiners)[..], &["host:4", "elsewhere:5", "host:6"][..]));
    let next = servers.leader_among(&joiners);
    [1, 2, 3].iter().for_each(|id| servers.stop(*id));
    servers.write(next, 10);
    for id in joiners {
        assert_eq!(servers.applied(id, next), 110);
    }
}

#[test]
fn requests_at_the_same_time_do_not_lose_each_others_changes() {
    let servers = Servers::with(&[1, 2, 3]);
    let leader = servers.leader();
    let raft = servers.at(leader);
    let changes: Vec<_> = (10..30_u64).map(|id| raft.add_learner(id, format!("host:{id}"), PATIENCE)).collect();
    changes.into_iter().for_each(|change| drop(change.wait().unwrap()));
    let status = raft.status();
    assert_eq!(status.membership.in_force.learners(), ids(&(10..30).collect::<Vec<_>>()));
    assert_eq!(status.membership.open_changes, 0);
    let removals: Vec<_> = (10..30_u64).map(|id| raft.remove(id, PATIENCE)).collect();
    removals.into_iter().for_each(|change| drop(change.wait().unwrap()));
    assert_eq!(*raft.status().membership.in_force, Membership::new([1, 2, 3_u64]));
}

#[test]
fn what_cannot_be_is_refused_and_says_why() {
    let servers = Servers::with(&[1, 2, 3]);
    let leader = servers.leader();
    let raft = servers.at(leader);
    let refused = |change: raft_io::driver::MembershipChange| change.wait().unwrap_err();
    let stranger = NodeId(9);
    use MembershipChangeError as Error;
    assert_eq!(refused(raft.demote(9, PATIENCE)), Error::NotAMember { server: stranger });
    assert_eq!(refused(raft.set_address(9, "a", PATIENCE)), Error::NotAMember { server: stranger });
    assert_eq!(refused(raft.promote(9, PATIENCE)), Error::Refused(ChangeError::NotALearner { server: stranger }));
    assert_eq!(refused(raft.add_learner(1, "", PATIENCE)), Error::IsVoter { server: NodeId(1) });
    let none = raft.change_membership(Membership::default(), PATIENCE);
    assert_eq!(refused(none), Error::Refused(ChangeError::NoVoters));
    let follower = if leader == 1 { 2 } else { 1 };
    wait(servers.at(follower), |status| status.leader.is_some());
    let Error::NotLeader { leader: Some(LeaderHint { id, .. }), .. } =
        refused(servers.at(follower).remove(3, PATIENCE))
    else {
        panic!("a follower changes the membership");
    };
    assert_eq!(id, NodeId(leader));
    assert_eq!(*raft.status().membership.in_force, Membership::new([1, 2, 3_u64]));
}

/// A learner that is silent is waited for, and then the error says what for.
#[test]
fn a_deadline_says_what_was_waited_for() {
    let servers = Servers::with(&[1, 2, 3]);
    let leader = servers.leader();
    let raft = servers.at(leader);
    raft.add_learner(4, "", PATIENCE).wait().unwrap();
    let promotion = raft.promote(4, Duration::from_millis(500));
    let status = wait(raft, |status| status.membership.waiting_for.is_some());
    assert_eq!(status.membership.open_changes, 1);
    let error = promotion.wait().unwrap_err();
    let silent = Some(ChangeError::LearnerSilent { server: NodeId(4) });
    assert_eq!(error, MembershipChangeError::DeadlineExceeded { appended: None, refusal: silent });
    assert_eq!(raft.status().membership.open_changes, 0);
    assert!(is_done(&raft.status(), &[1, 2, 3], &[4]));
}

/// Law 5: whoever loses its leadership with a configuration in its log cannot tell what becomes of it.
#[test]
fn without_a_quorum_the_outcome_is_unknown() {
    let servers = Servers::with(&[1, 2, 3]);
    let leader = servers.leader();
    let raft = servers.at(leader);
    let [one, other]: [u64; 2] = (1..=3).filter(|id| *id != leader).collect::<Vec<_>>().try_into().unwrap();
    servers.network.partition([leader]);
    let short = raft.remove(one, Duration::from_millis(50));
    let error = raft.remove(one, PATIENCE).wait().unwrap_err();
    let expired = short.wait().unwrap_err();
    match (expired, error) {
        (
            MembershipChangeError::DeadlineExceeded { appended: Some(id), .. },
            MembershipChangeError::OutcomeUnknown { id: same, reason: UnknownReason::LeadershipLost },
        ) => assert_eq!(id, same),
        // A check of the quorum came in between: then nobody has answered since.
        (
            MembershipChangeError::DeadlineExceeded { appended: None, refusal: Some(refusal), .. },
            MembershipChangeError::NotLeader { .. },
        ) => assert!(matches!(refusal, ChangeError::WouldLoseQuorum { .. }), "{refusal}"),
        other => panic!("{other:?}"),
    }
    // The other two go on; what the old leader has alone is taken back.
    let next = servers.leader_among(&[one, other]);
    servers.network.heal();
    servers.write(next, 10);
    wait(raft, |status| is_done(status, &[1, 2, 3], &[]) && status.role == RoleKind::Follower);
}

#[test]
fn a_shutdown_ends_what_waits() {
    let mut servers = Servers::with(&[1]);
    let leader = servers.leader();
    servers.at(leader).add_learner(4, "", PATIENCE).wait().unwrap();
    let waiting = servers.at(leader).promote(4, PATIENCE);
    let raft = servers.rafts.remove(&leader).unwrap();
    raft.shutdown();
    assert_eq!(waiting.wait(), Err(MembershipChangeError::Shutdown));
    assert_eq!(raft.remove(4, PATIENCE).wait(), Err(MembershipChangeError::Shutdown));
}

/// `RaftConfig::membership` is what an empty log begins with, once: a program may be started with the same line for ever.
#[test]
fn the_log_remembers_who_belongs_to_the_cluster() {
    let mut servers = Servers::with(&[1]);
    let leader = servers.leader();
    let recorded = servers.logs[&1].memberships();
    assert_eq!(recorded.at_snapshot.as_deref(), Some(&Membership::new([1_u64])));
    assert_eq!(servers.at(1).status().membership.overruled, None);
    servers.join(2);
    servers.at(leader).add_voter(2, "", PATIENCE).wait().unwrap();
    servers.join(3);
    servers.at(leader).add_learner(3, "", PATIENCE).wait().unwrap();
    wait(servers.at(2), |status| is_done(status, &[1, 2], &[3]));
    wait(servers.at(3), |status| is_done(status, &[1, 2], &[3]));
    [1, 2, 3].iter().for_each(|id| servers.stop(*id));
    // The first with the line that it always had, the second with another one, the third still as one that joins.
    servers.start(config(1, &[1]));
    servers.start(config(2, &[2, 7]));
    servers.join(3);
    for (id, overruled) in [(1, Some(vec![1])), (2, Some(vec![2, 7])), (3, None)] {
        let status = servers.at(id).status();
        assert_eq!(status.membership.in_force.to_string(), "voters 1 2, learners 3", "node {id}");
        assert_eq!(status.membership.overruled.as_deref().cloned(), overruled.map(Membership::new), "node {id}");
    }
    let next = servers.leader_among(&[1, 2]);
    servers.write(next, 10);
    assert_eq!(servers.applied(3, next), 10);
}

/// It knows nobody, so it must not lead itself; it must not forget either that it has joined.
#[test]
fn a_server_that_joins_never_campaigns_before_it_is_asked() {
    let mut servers = Servers::default();
    servers.join(7);
    thread::sleep(Duration::from_millis(1000));
    let status = servers.at(7).status();
    assert_eq!((status.role, status.term.0, status.last_index), (NodeRole::Follower, 0, Index::ZERO));
    assert_eq!((status.membership.part, status.membership.in_force.is_empty()), (MemberPart::None, true));
    let refused = servers.at(7).propose("x").wait(PATIENCE).unwrap_err();
    assert!(matches!(refused, RequestError::NotLeader { reason: NotLeaderReason::NoLeader, .. }), "{refused}");
    servers.stop(7);
    servers.join(7);
    for id in [1, 2, 3] {
        servers.start(config(id, &[1, 2, 3]));
    }
    let leader = servers.leader_among(&[1, 2, 3]);
    servers.at(leader).add_voter(7, "", PATIENCE).wait().unwrap();
}

/// Before there were membership changes a log said nothing of members.
#[test]
fn a_log_of_before_is_told_once_too() {
    use raft_io::{Entry, EntryId, HardState, Payload, RaftLog, Term, Write};
    let mut servers = Servers::default();
    let mut log = Locked::<MemoryLog>::default();
    let hard_state = Some(HardState { term: Term(3), vote: Some(NodeId(1)) });
    let entry = |index: u64| Entry { id: EntryId::new(index, 3_u64), payload: Payload::Command("x".into()) };
    let entries = (1..=5).map(entry).collect();
    log.append(&mut vec![Write { hard_state, compaction: None, truncate_from: None, entries }]).unwrap();
    servers.logs.insert(1, log.clone());
    servers.start(config(1, &[1]));
    assert_eq!(servers.leader(), 1);
    assert_eq!(servers.applied(1, 1), 5);
    assert_eq!(log.memberships().at_snapshot.as_deref(), Some(&Membership::new([1_u64])));
    servers.stop(1);
    servers.start(config(1, &[1, 2, 3]));
    assert_eq!(servers.leader(), 1, "what is written down counts");
}

/// A failed first write is an error of the start, and the next start tries again.
#[test]
fn a_log_that_takes_nothing_does_not_start() {
    use driver_support::FaultyLog;
    use std::sync::atomic::Ordering;
    let (log, faults) = FaultyLog::new();
    faults.fail_sync.store(true, Ordering::SeqCst);
    let transport = MemoryNetwork::new().transport(1);
    let error = Raft::start_with(config(1, &[1]), DriverOptions::default(), log, transport, Recorder::default());
    let text = error.unwrap_err().to_string();
    assert!(text.contains("does not take the configuration") && text.contains("the disk is gone"), "{text}");
}
