//! The configurations in which clients read at servers that follow.

use super::CORE;
use crate::config::{Configuration, Network};
use crate::laws::Goal;
use crate::membership::Target;

/// What they have in common: three voters, of whom two may lead one after the other.
const WITH_READERS: Configuration = Configuration {
    reads_max: 2,
    readers: 1,
    heartbeats: false,
    client_requests: false,
    campaigners: 2,
    goals: &[Goal::Leader, Goal::Commit, Goal::Reelection, Goal::Read, Goal::FollowerRead, Goal::ReadAborted],
    ..CORE
};

/// A reader without a vote: of three voters a leader and a reader would be a quorum, and no other leader could commit
/// anything that the two do not know of.
const WITH_LEARNER: Configuration = Configuration { servers: 4, voters: &[1, 2, 3], learners: &[4], ..WITH_READERS };

const TWO_MESSAGES: Network = Network::Lossy { messages_max: 2, duplication: false };

/// For `check`.
pub(super) const LEARNER: Configuration = Configuration {
    name: "follower-reads",
    purpose: "reads at a learner, whose leader may not know of the next one",
    client_requests: true,
    golden: Some(1_222_248),
    ..WITH_LEARNER
};
pub(super) const LATE: Configuration = Configuration {
    name: "follower-reads-late",
    purpose: "reads at a learner, of which questions, confirmations and answers come late",
    reads_max: 1,
    network: TWO_MESSAGES,
    golden: Some(2_274_898),
    ..WITH_LEARNER
};
pub(super) const AGAIN: Configuration = Configuration {
    name: "follower-reads-again",
    purpose: "reads of a follower that asks again with each heartbeat",
    log_max: 1,
    heartbeats: true,
    golden: Some(11_305_799),
    ..WITH_READERS
};
pub(super) const CRASHES: Configuration = Configuration {
    name: "follower-reads-crashes",
    purpose: "reads at all servers, two writes in flight and a crash that loses any suffix of them",
    log_max: 1,
    pending_max: 2,
    crashes_max: 1,
    readers: 3,
    golden: Some(1_065_811),
    ..WITH_READERS
};
pub(super) const FETCH: Configuration = Configuration {
    name: "follower-reads-fetch",
    purpose: "reads of a follower that needs what its leader has forgotten",
    reads_max: 1,
    snapshots_max: 1,
    heartbeats: true,
    goals: &[Goal::Leader, Goal::Commit, Goal::Reelection, Goal::FollowerRead, Goal::SnapshotRestored],
    golden: Some(6_477_563),
    ..WITH_READERS
};
pub(super) const MEMBERS: Configuration = Configuration {
    name: "follower-reads-members",
    purpose: "reads at a learner that is removed, while leaders change",
    log_max: 3,
    targets: ("WithoutLearner", &[Target::of_voters(&[1, 2, 3])]),
    changes_max: 1,
    symmetry: false,
    golden: Some(1_032_997),
    ..WITH_LEARNER
};
pub(super) const LEASES: Configuration = Configuration {
    name: "follower-reads-leases",
    purpose: "reads at all servers, while leaders answer their own by leases",
    log_max: 1,
    readers: 3,
    check_quorum: true,
    leases: true,
    goals: &[Goal::Leader, Goal::Commit, Goal::Reelection, Goal::FollowerRead, Goal::LeaseRead, Goal::ReadAborted],
    golden: Some(1_858_113),
    ..WITH_READERS
};

/// For `conform`.
pub(super) const CONFORM: Configuration = Configuration {
    name: "conform-follower-reads",
    purpose: "reads at a follower and at a learner, while leaders change",
    servers: 3,
    voters: &[1, 2],
    learners: &[3],
    readers: 2,
    symmetry: false,
    drop_dead: false,
    golden: Some(33_360),
    ..WITH_READERS
};
pub(super) const CONFORM_HEARTBEATS: Configuration = Configuration {
    name: "conform-follower-reads-heartbeats",
    purpose: "reads of a follower that asks again with each heartbeat, and rounds that they repeat",
    servers: 2,
    voters: &[],
    learners: &[],
    log_max: 1,
    heartbeats: true,
    campaigners: 1,
    goals: &[Goal::Leader, Goal::Commit, Goal::FollowerRead],
    golden: Some(25_168),
    ..CONFORM
};
pub(super) const CONFORM_CRASHES: Configuration = Configuration {
    name: "conform-follower-reads-crashes",
    purpose: "reads at a learner, and a crash",
    log_max: 1,
    crashes_max: 1,
    readers: 1,
    golden: Some(50_500),
    ..CONFORM
};
pub(super) const CONFORM_ROUNDS: Configuration = Configuration {
    name: "conform-follower-reads-rounds",
    purpose: "reads of a learner that asks again with each heartbeat, and rounds that they repeat",
    term_max: 1,
    log_max: 1,
    heartbeats: true,
    campaigners: 1,
    readers: 1,
    goals: &[Goal::Leader, Goal::Commit, Goal::FollowerRead, Goal::ReadAborted],
    golden: Some(166_799),
    ..CONFORM
};
