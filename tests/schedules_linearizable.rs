//! Random schedules with membership changes, as their clients see them: what was written and read is linearizable.
//!
//! The laws that the simulator checks speak of logs; this speaks of answers. Clients write one register and read it, at
//! whoever believes to lead, deposed leaders and leaders without a vote included, and at whoever follows, learners included.

use bytes::Bytes;
use raft_io::testkit::cluster::Cluster;
use raft_io::testkit::linearizability::{KeyValue, KeyValueInput as In, KeyValueOutput as Out, Operation, check};
use raft_io::testkit::log_suite::Random;
use raft_io::testkit::script::Script;
use raft_io::testkit::walk::choose;
use raft_io::{EntryId, Index, LogView, NodeId, Payload, Protocol, RoleKind};
use std::collections::BTreeMap;

/// A command that nobody has heard of yet.
struct Write {
    at: NodeId,
    id: EntryId,
    value: Bytes,
    called: u64,
}

/// A read that has no answer yet.
struct Read {
    at: NodeId,
    called: u64,
    /// What its server must have applied, once that is known.
    index: Option<Index>,
}

/// What clients did and heard.
#[derive(Default)]
struct Clients {
    now: u64,
    writes: Vec<Write>,
    reads: BTreeMap<u64, Read>,
    /// The command that each index was applied with, if it was one.
    applied: BTreeMap<Index, Option<Bytes>>,
    history: Vec<Operation<In, Out>>,
    answered_reads: u32,
    /// Of these, how many were answered by a server that did not lead, and by one without a vote.
    answered_by_followers: u32,
    answered_by_learners: u32,
}

impl Clients {
    /// A command of the schedule runs, and its answers are heard.
    fn run(&mut self, script: &mut Script, command: &str) {
        self.now += 1;
        let taken = script.cluster().map_or(0, |cluster| cluster.commands().len());
        let words: Vec<&str> = command.split(' ').collect();
        if let ["read_request" | "lease_read_request" | "follower_read_request", at, context] = words[..] {
            let at = NodeId(at.parse().expect("a server"));
            self.reads.insert(context.parse().expect("a number"), Read { at, called: self.now, index: None });
        }
        let output = script.run(command).unwrap_or_else(|error| panic!("{command}: {error}"));
        let cluster = script.cluster().expect("a cluster");
        let new = cluster.commands()[taken..].iter();
        if let ["client_request", at, ..] = words[..] {
            let at = NodeId(at.parse().expect("a server"));
            self.writes.extend(new.map(|(id, value)| Write { at, id: *id, value: value.clone(), called: self.now }));
        }
        for line in output.lines().filter_map(|line| line.strip_prefix("  read ")) {
            let words: Vec<&str> = line.split(' ').collect();
            let context = words[0].parse().expect("a number");
            match words[1..] {
                ["ready", "at", index] => {
                    let read = self.reads.get_mut(&context).expect("a read");
                    read.index = Some(Index(index.parse().expect("an index")));
                }
                ["aborted"] => _ = self.reads.remove(&context),
                _ => {}
            }
        }
        self.hear(cluster);
    }

    fn hear(&mut self, cluster: &Cluster) {
        for id in cluster.ids() {
            let (Some(applied), Some(disk)) = (cluster.applied(id), cluster.disk(id)) else { continue };
            for entry in disk.range(self.known().next(), applied.next()) {
                let command = if let Payload::Command(command) = &entry.payload { Some(command.clone()) } else { None };
                self.applied.insert(entry.id.index, command);
            }
        }
        let (now, has_applied) =
            (self.now, |at, index| cluster.protocol(at).is_some() && cluster.applied(at) >= Some(index));
        let (done, waiting): (Vec<Write>, Vec<Write>) = self.writes.drain(..).partition(|write| {
            let holds =
                cluster.disk(write.at).and_then(|disk| LogView::term(disk, write.id.index)) == Some(write.id.term);
            has_applied(write.at, write.id.index) && holds
        });
        self.writes = waiting;
        for Write { value, called, .. } in done {
            self.history.push(Operation::completed(In::Set(value), called, now, Out::Done));
        }
        // A server that crashes answers nothing any more.
        self.reads.retain(|_, read| cluster.protocol(read.at).is_some());
        let is_done = |read: &Read| read.index.is_some_and(|index| has_applied(read.at, index));
        let done: Vec<u64> = self.reads.iter().filter(|(_, read)| is_done(read)).map(|(context, _)| *context).collect();
        for context in done {
            let Some(read) = self.reads.remove(&context) else { continue };
            let until = cluster.applied(read.at).expect("a server");
            let value = self.applied.range(..=until).rev().find_map(|(_, command)| command.clone());
            self.history.push(Operation::completed(In::Get, read.called, now, Out::Value(value)));
            self.answered_reads += 1;
            let server = cluster.protocol(read.at).filter(|server| server.role() == RoleKind::Follower);
            self.answered_by_followers += u32::from(server.is_some());
            let is_learner = |server: &Protocol| server.membership().is_learner(server.id());
            self.answered_by_learners += u32::from(server.is_some_and(is_learner));
        }
    }

    /// The last index that any server applied.
    fn known(&self) -> Index {
        self.applied.keys().next_back().copied().unwrap_or(Index::ZERO)
    }

    /// Whoever got no answer does not know what became of its command.
    fn history(mut self) -> (Vec<Operation<In, Out>>, [u32; 3]) {
        let unknown = self.writes.drain(..).map(|write| Operation::unknown(In::Set(write.value), write.called));
        self.history.extend(unknown);
        (self.history, [self.answered_reads, self.answered_by_followers, self.answered_by_learners])
    }
}

/// What the clients of one schedule saw, and how many of their reads were answered: by anybody, by followers, by learners.
fn schedule(setup: &str, seed: u64, steps: usize) -> (Vec<Operation<In, Out>>, [u32; 3]) {
    let (mut random, mut script, mut clients) = (Random(seed), Script::default(), Clients::default());
    script.run(setup).expect("a valid setup");
    for step in 0..steps {
        let number = random.draw();
        let cluster = script.cluster().expect("a cluster");
        let leads = |id: &NodeId| cluster.protocol(*id).is_some_and(|server| server.role() == RoleKind::Leader);
        let leaders: Vec<NodeId> = cluster.ids().filter(leads).collect();
        let command = match leaders.get(number as usize % leaders.len().max(1)) {
            Some(leader) if step % 8 == 0 => Some(format!("read_request {leader} {}", cluster.reads())),
            _ if step % 8 == 4 => {
                let running: Vec<NodeId> = cluster.ids().filter(|id| cluster.protocol(*id).is_some()).collect();
                let reader = running.get(number as usize % running.len().max(1));
                reader.map(|reader| format!("follower_read_request {reader} {}", cluster.reads()))
            }
            _ => choose(cluster, number as u8, (number >> 32) as u32),
        };
        if let Some(command) = command {
            clients.run(&mut script, &command);
        }
    }
    clients.history()
}

fn check_schedules(setup: &str, seeds: std::ops::Range<u64>, steps: usize) -> [u32; 3] {
    let mut answered = [0; 3];
    for seed in seeds {
        let (history, reads) = schedule(setup, seed, steps);
        let verdict = check(&KeyValue, &history);
        assert!(verdict.is_linearizable(), "{setup}, seed {seed}: {verdict:?}");
        answered.iter_mut().zip(reads).for_each(|(sum, reads)| *sum += reads);
    }
    answered
}

#[test]
fn clients_of_a_cluster_that_changes_see_one_register() {
    let [reads, of_followers, of_learners] = check_schedules("cluster 3 servers=5 disk=manual", 0..25, 600);
    assert!(reads > 250 && of_followers > 100 && of_learners > 20, "{reads}, {of_followers}, {of_learners} answers");
    let [reads, ..] = check_schedules("cluster 3 servers=5 pre_vote=false check_quorum=false", 100..125, 600);
    assert!(reads > 250, "only {reads} reads were answered");
}

#[test]
fn clients_of_a_cluster_that_stays_see_one_register() {
    let [reads, of_followers, _] =
        check_schedules("cluster 3 disk=manual pre_vote=false check_quorum=false", 200..220, 600);
    assert!(reads > 100 && of_followers > 10, "{reads} reads were answered, {of_followers} by followers");
    let [reads, of_followers, of_learners] = check_schedules("cluster 3 learners=4,5 disk=manual", 500..520, 600);
    assert!(of_followers > 50 && of_learners > 15, "{reads}, {of_followers}, {of_learners} answers");
}

#[test]
fn clients_that_read_by_leases_see_one_register() {
    let [reads, ..] = check_schedules("cluster 3 lease_ticks=4 election_ticks=5", 300..330, 800);
    let [more, ..] = check_schedules("cluster 3 disk=manual lease_ticks=9 pre_vote=false", 400..420, 800);
    assert!(reads + more > 300, "only {reads} and {more} reads were answered");
}

/// A read that answers what was there before another read had its answer, or what nobody wrote, is found.
#[test]
fn a_stale_answer_is_found() {
    let (history, _) = schedule("cluster 3 servers=5 disk=manual", 1, 600);
    let is_read = |operation: &&Operation<In, Out>| matches!(operation.returned, Some((_, Out::Value(Some(_)))));
    let last = history.iter().filter(is_read).max_by_key(|read| read.called).expect("a read").clone();
    for value in [None, Some(Bytes::from_static(b"of nobody"))] {
        let mut stale = history.clone();
        stale
            .push(Operation { returned: last.returned.clone().map(|(at, _)| (at, Out::Value(value))), ..last.clone() });
        assert!(!check(&KeyValue, &stale).is_linearizable());
    }
}
