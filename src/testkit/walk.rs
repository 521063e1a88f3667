//! Random schedules: which command comes next, as a function of two numbers and the state.
//!
//! A walk is a sequence of script commands, so one that fails is a script to replay, to shorten and to keep.

use super::cluster::{Cluster, MoveError};
use super::script::Script;
use super::words;
use crate::action::RoleKind;
use crate::membership::Membership;
use crate::types::NodeId;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, SeedableRng};
use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

/// How often each kind of command comes, in parts of 256, before what is impossible is left out.
const WEIGHTS: &[(Kind, u8)] = &[
    (Kind::Deliver, 87),
    (Kind::DeliverAll, 14),
    (Kind::Persisted, 40),
    (Kind::Sync, 8),
    (Kind::ElectionTimeout, 12),
    (Kind::MinimumElectionTimeout, 10),
    (Kind::HeartbeatTimeout, 13),
    (Kind::QuorumCheckTimeout, 4),
    (Kind::ClientRequest, 20),
    (Kind::ReadRequest, 3),
    (Kind::FollowerReadRequest, 2),
    (Kind::TransferLeadership, 2),
    (Kind::TransferTimeout, 1),
    (Kind::SnapshotTaken, 3),
    (Kind::SnapshotFetched, 4),
    (Kind::SnapshotFetchFailed, 1),
    (Kind::Drop, 8),
    (Kind::Duplicate, 8),
    (Kind::Crash, 4),
    (Kind::Restart, 6),
    (Kind::Partition, 3),
    (Kind::Heal, 3),
];

/// The same where servers can come to the cluster. A change needs a leader that stays for a while and learners that catch up.
const WEIGHTS_WITH_CHANGES: &[(Kind, u8)] = &[
    (Kind::Deliver, 73),
    (Kind::ChangeMembership, 12),
    (Kind::DeliverAll, 28),
    (Kind::Persisted, 40),
    (Kind::Sync, 6),
    (Kind::ElectionTimeout, 6),
    (Kind::MinimumElectionTimeout, 8),
    (Kind::HeartbeatTimeout, 18),
    (Kind::QuorumCheckTimeout, 4),
    (Kind::ClientRequest, 14),
    (Kind::ReadRequest, 3),
    (Kind::FollowerReadRequest, 2),
    (Kind::TransferLeadership, 2),
    (Kind::TransferTimeout, 2),
    (Kind::SnapshotTaken, 4),
    (Kind::SnapshotFetched, 6),
    (Kind::SnapshotFetchFailed, 1),
    (Kind::Drop, 5),
    (Kind::Duplicate, 6),
    (Kind::Crash, 3),
    (Kind::Restart, 6),
    (Kind::Partition, 2),
    (Kind::Heal, 5),
];

/// The same with leases: timeouts come from clocks, which run apart as far as leases allow.
const WEIGHTS_WITH_LEASES: &[(Kind, u8)] = &[
    (Kind::Deliver, 68),
    (Kind::DeliverAll, 24),
    (Kind::Tick, 70),
    (Kind::Persisted, 24),
    (Kind::Sync, 4),
    (Kind::ClientRequest, 10),
    (Kind::ReadRequest, 3),
    (Kind::FollowerReadRequest, 4),
    (Kind::LeaseReadRequest, 16),
    (Kind::TransferLeadership, 3),
    (Kind::StepDown, 1),
    (Kind::SnapshotTaken, 2),
    (Kind::SnapshotFetched, 4),
    (Kind::Drop, 3),
    (Kind::Duplicate, 4),
    (Kind::Crash, 4),
    (Kind::Restart, 6),
    (Kind::Partition, 4),
    (Kind::Heal, 2),
];

#[derive(Clone, Copy, Debug)]
enum Kind {
    Tick,
    LeaseReadRequest,
    StepDown,
    Deliver,
    ChangeMembership,
    DeliverAll,
    Persisted,
    Sync,
    ElectionTimeout,
    MinimumElectionTimeout,
    HeartbeatTimeout,
    QuorumCheckTimeout,
    ClientRequest,
    ReadRequest,
    FollowerReadRequest,
    TransferLeadership,
    TransferTimeout,
    SnapshotTaken,
    SnapshotFetched,
    SnapshotFetchFailed,
    Drop,
    Duplicate,
    Crash,
    Restart,
    Partition,
    Heal,
}

/// The command that these numbers choose, if its kind is possible now.
#[must_use]
pub fn choose(cluster: &Cluster, kind: u8, pick: u32) -> Option<String> {
    let mut below = 0u32;
    let weights = match (cluster.has_leases(), cluster.has_joiners()) {
        (true, _) => WEIGHTS_WITH_LEASES,
        (false, true) => WEIGHTS_WITH_CHANGES,
        (false, false) => WEIGHTS,
    };
    let (kind, _) = *weights.iter().find(|(_, weight)| {
        below += u32::from(*weight);
        u32::from(kind) < below
    })?;
    let running = cluster.ids().filter(|id| cluster.protocol(*id).is_some()).collect::<Vec<_>>();
    let down = cluster.ids().filter(|id| cluster.protocol(*id).is_none()).collect::<Vec<_>>();
    let with_writes = running.iter().copied().filter(|id| cluster.writes(*id) != (0, 0)).collect::<Vec<_>>();
    let is_fetching = |id: &NodeId| cluster.protocol(*id).is_some_and(|protocol| protocol.fetching().is_some());
    let fetching = running.iter().copied().filter(is_fetching).collect::<Vec<_>>();
    // The high part of the number chooses whom, the low part how much.
    let detail = pick as usize % 251;
    let one = |nodes: &[NodeId]| (!nodes.is_empty()).then(|| nodes[(pick / 251) as usize % nodes.len()]);
    let timeout = |name: &str| one(&running).map(|id| format!("{name} {id}"));
    let (network, heartbeat) = (cluster.network(), cluster.leader().map(|id| format!("heartbeat_timeout {id}")));
    match kind {
        // Changes wait for answers: where nothing is on its way, the leader asks again.
        Kind::Deliver if cluster.has_joiners() && !cluster.has_leases() && network.in_flight().is_empty() => heartbeat,
        Kind::Deliver => on_message(cluster, "deliver", pick),
        Kind::ChangeMembership => change_membership(cluster, pick),
        Kind::Drop => on_message(cluster, "drop_message", pick),
        Kind::Duplicate => on_message(cluster, "duplicate_message", pick),
        Kind::DeliverAll => (!cluster.network().in_flight().is_empty()).then(|| "deliver all".to_string()),
        Kind::Persisted => one(&with_writes).map(|id| {
            let (in_flight, unreported) = cluster.writes(id);
            format!("persisted {id} {}", 1 + detail % (in_flight + unreported))
        }),
        Kind::Sync => {
            let waiting = with_writes.into_iter().filter(|id| cluster.writes(*id).0 > 0).collect::<Vec<_>>();
            one(&waiting).map(|id| format!("sync {id} {}", 1 + detail % cluster.writes(id).0))
        }
        Kind::ElectionTimeout => timeout("election_timeout"),
        Kind::MinimumElectionTimeout => timeout("minimum_election_timeout"),
        Kind::HeartbeatTimeout => heartbeat,
        Kind::QuorumCheckTimeout => timeout("quorum_check_timeout"),
        Kind::ClientRequest => {
            let leader = one(&running).filter(|_| detail % 8 == 0).or_else(|| cluster.leader())?;
            let first = cluster.commands().len();
            let batch = (0..=detail % 3).map(|at| format!(" c{}", first + at)).collect::<String>();
            Some(format!("client_request {leader}{batch}"))
        }
        Kind::ReadRequest => {
            let leader = one(&running).filter(|_| detail % 8 == 0).or_else(|| cluster.leader())?;
            Some(format!("read_request {leader} {}", cluster.reads()))
        }
        Kind::FollowerReadRequest => one(&running).map(|id| format!("follower_read_request {id} {}", cluster.reads())),
        Kind::Tick => one(&running).and_then(|id| {
            // Who is ahead waits for whom it may not leave further behind.
            let id = cluster.waits_for_clock_of(id).unwrap_or(id);
            cluster.waits_for_clock_of(id).is_none().then(|| format!("tick {id} 1"))
        }),
        Kind::LeaseReadRequest => {
            let leads = |id: &NodeId| cluster.protocol(*id).is_some_and(|server| server.role() == RoleKind::Leader);
            let leaders = running.iter().copied().filter(leads).collect::<Vec<_>>();
            one(&leaders).map(|id| format!("lease_read_request {id} {}", cluster.reads()))
        }
        Kind::StepDown => timeout("step_down"),
        Kind::TransferLeadership => {
            let ids = cluster.ids().collect::<Vec<_>>();
            let leader = one(&running).filter(|_| detail % 8 == 0).or_else(|| cluster.leader())?;
            Some(format!("transfer_leadership {leader} {}", ids[detail / 8 % ids.len()]))
        }
        Kind::TransferTimeout => cluster.leader().map(|id| format!("transfer_timeout {id}")),
        Kind::SnapshotTaken => {
            let id = one(&running)?;
            let protocol = cluster.protocol(id)?;
            let (oldest, applied) = (protocol.snapshot().index.0, protocol.applied_through().0);
            let index = applied - (detail as u64 / 16).min(applied.checked_sub(oldest)?);
            // Few logs keep a trail that reaches far back, so that followers need snapshots.
            (index > 0)
                .then(|| format!("snapshot_taken {id} {index} through={}", index.saturating_sub(detail as u64 % 4)))
        }
        Kind::SnapshotFetched => one(&fetching).map(|id| format!("snapshot_fetched {id}")),
        Kind::SnapshotFetchFailed => one(&fetching).map(|id| format!("snapshot_fetch_failed {id}")),
        Kind::Crash => one(&running).map(|id| format!("crash {id} keep={}", detail % (cluster.writes(id).0 + 1))),
        Kind::Restart => one(&down).map(|id| format!("restart {id}")),
        Kind::Partition => {
            let ids = cluster.ids().collect::<Vec<_>>();
            // A leader that is alone goes by its lease while the others elect another.
            let alone = cluster.leader().filter(|_| cluster.has_leases());
            let is_left = |id: &NodeId| alone.map_or((detail >> id.0.min(63)) & 1 == 0, |leader| *id == leader);
            let (left, right): (Vec<_>, Vec<_>) = ids.into_iter().partition(is_left);
            let words = |ids: Vec<NodeId>| ids.iter().map(|id| format!(" {id}")).collect::<String>();
            (!left.is_empty() && !right.is_empty()).then(|| format!("partition{} |{}", words(left), words(right)))
        }
        Kind::Heal => Some("heal".to_string()),
    }
}

/// The leader, or rarely another server, is to bring a configuration about that differs a little from its present one.
fn change_membership(cluster: &Cluster, pick: u32) -> Option<String> {
    let detail = pick as usize % 251;
    let running = cluster.ids().filter(|id| cluster.protocol(*id).is_some()).collect::<Vec<_>>();
    let one = |ids: &[NodeId]| (!ids.is_empty()).then(|| ids[(pick / 251) as usize % ids.len()]);
    let leader = one(&running).filter(|_| detail % 16 == 0).or_else(|| cluster.leader())?;
    let present = cluster.protocol(leader)?.membership().settled();
    let outside = cluster.ids().filter(|id| !present.contains(*id)).collect::<Vec<_>>();
    let (voters, learners) = (present.voters(), present.learners());
    let target = match detail / 16 {
        0 => present.with_learner(one(&outside)?),
        1..=3 => present.with_promotion(one(&outside).or_else(|| one(learners))?),
        4 | 5 => present.with_voter(one(learners)?),
        6 => present.with_learner(one(voters)?),
        7 | 8 => present.without(one(&present.members())?),
        // Whoever is ready takes the place of a voter.
        9..=11 => present.with_learner(one(voters)?).with_voter(one(learners)?),
        // Of the members some get a vote, others lose theirs.
        _ => {
            let has_vote = |id: &NodeId| (pick >> (8 + id.0.min(23))) & 1 == 0;
            let some = present.members().into_iter().filter(has_vote).collect::<Vec<_>>();
            let members = present.members();
            let rest = members.into_iter().filter(|id| !some.contains(id));
            rest.fold(Membership::new(some.clone()), |target, id| target.with_learner(id))
        }
    };
    Some(format!("change_membership {leader} {}", words::of_membership(&target)))
}

/// A command about one of the messages in flight that can arrive.
fn on_message(cluster: &Cluster, verb: &str, pick: u32) -> Option<String> {
    let network = cluster.network();
    let open = network.in_flight().iter().enumerate().filter(|(_, m)| network.is_open(m.from, m.to));
    let open = open.map(|(position, _)| position).collect::<Vec<_>>();
    // Half of the picks fall on the oldest messages: else hardly an exchange would come to its end.
    let chosen = if pick % 2 == 0 {
        (pick / 2) as usize % open.len().clamp(1, 3)
    } else {
        (pick / 2) as usize % open.len().max(1)
    };
    let position = *open.get(chosen)?;
    let envelope = &network.in_flight()[position];
    let at = 1 + network.on_way(envelope.from, envelope.to).take_while(|earlier| *earlier < position).count();
    let at = if at == 1 { String::new() } else { format!(" at={at}") };
    Some(format!("{verb} {} {}{at}", envelope.from, envelope.to))
}

/// A walk that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("seed {seed}: {error}\n\nReplay this script:\n\n{script}")]
pub struct WalkError {
    /// The seed that leads there.
    pub seed: u64,
    /// What happened at the last command.
    pub error: MoveError,
    /// Every command up to the failure.
    pub script: String,
}

/// Runs `steps` commands chosen from a seed, after the setup command given (`cluster 3 disk=manual`).
///
/// # Errors
/// The law that was broken, with the script that breaks it.
pub fn walk(setup: &str, seed: u64, steps: usize) -> Result<Script, WalkError> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut script = Script::default();
    let mut commands = std::vec![setup.to_string()];
    let failed = |error, commands: &[String]| WalkError { seed, error, script: commands.join("\n") };
    script.run(setup).map_err(|error| failed(error, &commands))?;
    for _ in 0..steps {
        let number = random.next_u64();
        let chosen = script.cluster().and_then(|cluster| choose(cluster, number as u8, (number >> 32) as u32));
        if let Some(command) = chosen {
            commands.push(command.clone());
            script.run(&command).map_err(|error| failed(error, &commands))?;
        }
    }
    Ok(script)
}
