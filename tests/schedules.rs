//! Random schedules against every law of the cluster, and a phase that shows that it lives afterwards.
//!
//! A case is a list of numbers; `testkit::walk` turns them into script commands that are possible at that moment. A
//! case that fails is shrunk and printed as a script: save it below `tests/scenarios/` and run it.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};
use raft_io::testkit::liveness::{ROUNDS_MAX, healing, unsettled};
use raft_io::testkit::log_suite::Random;
use raft_io::testkit::script::Script;
use raft_io::testkit::walk::{choose, walk};
use raft_io::{LogView, Membership, Payload, Protocol};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A script under construction, with what was run so far.
struct Schedule {
    script: Script,
    commands: Vec<String>,
}

impl Schedule {
    fn new(setup: &str) -> Self {
        let mut schedule = Self { script: Script::default(), commands: Vec::new() };
        schedule.run(setup).expect("a valid setup");
        schedule
    }

    fn run(&mut self, command: &str) -> Result<(), TestCaseError> {
        self.commands.push(command.to_string());
        // The protocol stops itself with a panic when a law of its own is broken.
        match catch_unwind(AssertUnwindSafe(|| self.script.run(command))) {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(self.failed(&error.to_string())),
            Err(_) => Err(self.failed("the protocol stopped itself, see above")),
        }
    }

    fn failed(&self, error: &str) -> TestCaseError {
        TestCaseError::fail(format!("{error}\n\nReplay this script:\n\n{}\n", self.commands.join("\n")))
    }

    fn choose(&mut self, kind: u8, pick: u32) -> Result<(), TestCaseError> {
        let chosen = self.script.cluster().and_then(|cluster| choose(cluster, kind, pick));
        chosen.map_or(Ok(()), |command| self.run(&command))
    }

    /// Every server is up and every way open, and nobody asks for anything: soon one leads, all logs are equal, committed
    /// and applied, reads have ended, and a change of the configuration that had begun is done.
    fn heal_and_settle(&mut self) -> Result<(), TestCaseError> {
        for command in healing(self.script.cluster().expect("a cluster")) {
            self.run(&command)?;
        }
        for _ in 0..ROUNDS_MAX {
            if unsettled(self.script.cluster().expect("a cluster")).is_none() {
                return Ok(());
            }
            self.run("run 1")?;
        }
        let what = unsettled(self.script.cluster().expect("a cluster"));
        what.map_or(Ok(()), |what| Err(self.failed(&format!("healed, but within the rounds allowed {what}"))))
    }

    /// A settled cluster takes a proposal, and it commits everywhere.
    fn commit(&mut self) -> Result<(), TestCaseError> {
        let mut proposed = None;
        for _ in 0..ROUNDS_MAX {
            self.run("run 1")?;
            let cluster = self.script.cluster().expect("a cluster");
            // A proposal may be lost with its leader; then it is made again to the next.
            let taken = proposed.is_some_and(|(leader, term)| {
                cluster.leader() == Some(leader) && cluster.protocol(leader).is_some_and(|leader| leader.term() == term)
            });
            if let (Some(leader), false) = (cluster.leader(), taken) {
                let (term, before) = (cluster.protocol(leader).map(Protocol::term), cluster.commands().len());
                self.run(&format!("client_request {leader} last"))?;
                let cluster = self.script.cluster().expect("a cluster");
                proposed = term.filter(|_| cluster.commands().len() > before).map(|term| (leader, term));
            }
            if proposed.is_some() && self.all_applied() {
                return Ok(());
            }
        }
        Err(self.failed("healed, but within the rounds allowed no proposal was committed everywhere"))
    }

    /// Whether the last command taken is applied by every member, and the cluster is at rest again.
    fn all_applied(&self) -> bool {
        let cluster = self.script.cluster().expect("a cluster");
        let Some((last, _)) = cluster.commands().last() else { return false };
        let holds = |id| cluster.disk(id).is_some_and(|disk| LogView::term(disk, last.index) == Some(last.term));
        cluster.leader().is_some_and(holds) && unsettled(cluster).is_none()
    }
}

fn cases(setup: &'static str, cases: u32, length: usize) {
    let defaults = Config::default();
    let max_shrink_iters = defaults.max_shrink_iters.min(20_000);
    let config = Config { cases, failure_persistence: None, max_shrink_iters, ..defaults };
    let numbers = prop::collection::vec((any::<u8>(), any::<u32>()), length / 2..length);
    let found = TestRunner::new(config).run(&numbers, |numbers| {
        let mut schedule = Schedule::new(setup);
        numbers.into_iter().try_for_each(|(kind, pick)| schedule.choose(kind, pick))?;
        schedule.heal_and_settle()?;
        schedule.commit()
    });
    match found {
        Ok(()) => {}
        // The numbers mean nothing to a reader; the reason holds the script.
        Err(TestError::Fail(reason, _)) => panic!("{reason}"),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn three_servers() {
    cases("cluster 3 disk=manual", 100, 400);
}

#[test]
fn three_servers_without_pre_vote() {
    cases("cluster 3 disk=manual pre_vote=false", 100, 400);
}

#[test]
fn three_servers_without_check_quorum() {
    cases("cluster 3 disk=manual check_quorum=false", 100, 400);
}

/// The protocol of the paper's Figure 2, without the additions; the most leaders, and the most conflicts.
#[test]
fn three_servers_with_neither() {
    cases("cluster 3 disk=manual pre_vote=false check_quorum=false", 150, 500);
}

#[test]
fn five_servers_with_neither() {
    cases("cluster 5 disk=manual pre_vote=false check_quorum=false", 100, 700);
}

#[test]
fn five_servers() {
    cases("cluster 5 disk=manual", 60, 700);
}

/// One entry a message, a window of two, and hardly anything in memory.
#[test]
fn three_servers_with_narrow_limits() {
    cases(
        "cluster 3 disk=manual pre_vote=false check_quorum=false append_bytes_max=1 inflight_messages_max=2 entries_in_memory=2",
        100,
        500,
    );
}

/// A window that bytes close, and not the number of messages: of commands of every size.
#[test]
fn windows_are_narrow_by_bytes() {
    cases(
        "cluster 3 disk=manual pre_vote=false append_bytes_max=60 inflight_bytes_max=60 entries_in_memory=8",
        60,
        500,
    );
    cases(
        "cluster 3 servers=4 disk=manual append_bytes_max=100 inflight_bytes_max=150 uncommitted_bytes_max=200 command_bytes_max=100",
        40,
        500,
    );
}

/// Disks that sync within the step give schedules with more messages between the same number of commands.
#[test]
fn five_servers_with_fast_disks() {
    cases("cluster 5 pre_vote=false check_quorum=false", 60, 500);
}

/// A cluster of one and of two: the quorum is everyone.
#[test]
fn one_and_two_servers() {
    cases("cluster 1 disk=manual", 30, 150);
    cases("cluster 2 disk=manual pre_vote=false", 50, 300);
}

/// Members come and go: two of five servers belong to the cluster only once it takes them.
#[test]
fn members_come_and_go() {
    cases("cluster 3 servers=5 disk=manual", 80, 600);
}

#[test]
fn members_come_and_go_without_pre_vote_and_check_quorum() {
    cases("cluster 3 servers=5 disk=manual pre_vote=false check_quorum=false", 120, 600);
}

/// From one server to several and back, with every quorum as small as it gets.
#[test]
fn members_come_to_a_cluster_of_one() {
    cases("cluster 1 servers=4 pre_vote=false check_quorum=false", 100, 500);
    cases("cluster 2 servers=4 disk=manual", 60, 500);
}

/// Clocks run apart as far as the longest lease allows, and crashes, transfers and partitions come in between.
#[test]
fn leases_hold_while_the_clocks_do() {
    cases("cluster 3 disk=manual lease_ticks=9", 40, 600);
    cases("cluster 3 lease_ticks=4 election_ticks=5 pre_vote=false", 60, 600);
}

/// Such walks get somewhere: leaders change, and most lease reads are answered without a message.
#[test]
fn a_walk_with_leases_reads_by_them() {
    let (mut terms, mut at_once, mut reads) = (0, 0, 0);
    for seed in 0..20 {
        let (mut random, mut script) = (Random(seed), Script::default());
        script.run("cluster 3 lease_ticks=4 election_ticks=5 pre_vote=false").expect("a cluster");
        for _ in 0..1000 {
            let number = random.draw();
            let cluster = script.cluster().expect("a cluster");
            let Some(command) = choose(cluster, number as u8, (number >> 32) as u32) else { continue };
            let output = script.run(&command).unwrap_or_else(|error| panic!("seed {seed}, {command}: {error}"));
            assert!(!output.contains("too fast"), "seed {seed}, {command}: {output}");
            reads += u32::from(command.starts_with("lease_read_request"));
            at_once += u32::from(command.starts_with("lease_read_request") && output.contains(" ready at "));
        }
        let cluster = script.cluster().expect("a cluster");
        let reached = cluster.ids().filter_map(|id| cluster.disk(id)).map(|disk| disk.hard_state().term.0);
        terms += reached.max().unwrap_or(0);
    }
    assert!(terms > 60, "20 walks reached {terms} terms");
    assert!(at_once > 100, "{at_once} of {reads} lease reads were answered at once");
}

/// The same seed gives the same walk (law 1), and a walk gets somewhere: leaders change and entries commit.
#[test]
fn a_seeded_walk_is_reproducible_and_gets_somewhere() {
    let setup = "cluster 3 disk=manual pre_vote=false check_quorum=false";
    let (mut commits, mut terms) = (0, 0);
    for seed in 0..20 {
        let first = walk(setup, seed, 600).unwrap_or_else(|error| panic!("{error}"));
        let second = walk(setup, seed, 600).unwrap_or_else(|error| panic!("{error}"));
        let (first, second) = (first.cluster().expect("a cluster"), second.cluster().expect("a cluster"));
        for id in first.ids() {
            assert_eq!(first.protocol(id), second.protocol(id), "seed {seed}");
            assert_eq!(first.disk(id), second.disk(id), "seed {seed}");
            terms += first.protocol(id).map_or(0, |protocol| protocol.term().0);
        }
        commits += first.committed_index().0;
    }
    assert!(commits > 100, "20 walks committed {commits} entries");
    assert!(terms > 100, "20 walks reached {terms} terms in sum");
}

/// The walks change the membership in every way: by joint configurations that are left, by promotions, down to few voters
/// and up to many, in clusters that commit meanwhile.
#[test]
fn a_walk_changes_the_membership_in_every_way() {
    let (mut changes, mut joint, mut promoted, mut sizes) = (0, 0, 0, BTreeSet::new());
    for seed in 0..60 {
        let script =
            walk("cluster 3 servers=5 disk=manual check_quorum=false", seed, 1000).unwrap_or_else(|e| panic!("{e}"));
        let cluster = script.cluster().expect("a cluster");
        let disks = cluster.ids().filter_map(|id| cluster.disk(id));
        let Some(longest) = disks.max_by_key(|disk| LogView::last(*disk).index) else { continue };
        let mut before = Membership::new([1, 2, 3]);
        for entry in longest.iter() {
            let Payload::Membership(membership) = &entry.payload else { continue };
            changes += 1;
            joint += u32::from(membership.is_joint());
            promoted += u32::from(before.promoting().iter().any(|id| membership.is_voter(*id)));
            sizes.insert(membership.voters().len());
            before = Membership::clone(membership);
        }
    }
    assert!(changes > 60 && joint > 10 && promoted > 10, "{changes} changes, {joint} joint, {promoted} promoted");
    assert!(sizes.is_superset(&(1..=4).collect()), "of {sizes:?} voters");
}
