//! The configurations in which the cluster's membership changes. Servers have roles here, so no two are alike: no symmetry.

use super::CORE;
use crate::config::{Configuration, Network};
use crate::laws::Goal;
use crate::membership::Target;

/// What they have in common: one change, no heartbeats and no commands.
const CHANGES: Configuration = Configuration {
    changes_max: 1,
    symmetry: false,
    heartbeats: false,
    client_requests: false,
    campaigners: 2,
    goals: &[Goal::Leader, Goal::Commit, Goal::Reelection],
    ..CORE
};

const TWO_MESSAGES: Network = Network::Lossy { messages_max: 2, duplication: false };

/// By the names that `spec/MCMembership.tla` gives to those that are compared.
type Targets = (&'static str, &'static [Target]);
const REPLACEMENT: Targets = ("Replacement", &[Target::of_voters(&[1, 3])]);
const WITHOUT_FIRST: Targets = ("WithoutFirst", &[Target::of_voters(&[2, 3])]);
const WITHOUT_THIRD: Targets = ("WithoutThird", &[Target::of_voters(&[1, 2])]);
const JOINING: Targets =
    ("Joining", &[Target { voters: &[1], learners: &[2], promoting: &[] }, Target::of_voters(&[1, 2])]);
const READMISSION: Targets = (
    "Readmission",
    &[Target { voters: &[1], learners: &[2], promoting: &[] }, Target::of_voters(&[1]), Target::of_voters(&[1, 2])],
);
const PROMOTION: Targets = ("Promotion", &[Target { voters: &[1, 2], learners: &[3], promoting: &[3] }]);
/// Of four voters one goes: each leader may want another one to.
const ONE_OF_FOUR: Targets = ("OneOfFour", &[Target::of_voters(&[1, 2, 3]), Target::of_voters(&[2, 3, 4])]);

/// For `check`.
pub(super) const SINGLE: Configuration = Configuration {
    name: "membership-single",
    purpose: "two leaders that each remove one of four servers: the flaw of single-server changes",
    servers: 4,
    term_max: 3,
    log_max: 3,
    targets: ONE_OF_FOUR,
    changes_max: 2,
    network: TWO_MESSAGES,
    goals: &[Goal::Leader, Goal::Commit, Goal::Reelection, Goal::ChangeTakenBack],
    golden: Some(10_056_552),
    ..CHANGES
};
pub(super) const JOINT: Configuration = Configuration {
    name: "membership-joint",
    purpose: "a voter is replaced by a learner through a joint configuration, while leaders change",
    log_max: 4,
    voters: &[1, 2],
    learners: &[3],
    targets: REPLACEMENT,
    campaigners: 3,
    heartbeats: true,
    network: TWO_MESSAGES,
    goals: WITH_JOINT,
    golden: Some(4_368_485),
    ..CHANGES
};
pub(super) const LEARNERS: Configuration = Configuration {
    name: "membership-learners",
    purpose: "a learner that becomes a voter by itself once it has caught up, while leaders change",
    log_max: 4,
    campaigners: 3,
    voters: &[1, 2],
    learners: &[3],
    targets: PROMOTION,
    heartbeats: true,
    goals: &[Goal::Leader, Goal::Commit, Goal::Reelection, Goal::Promotion],
    golden: Some(378_613),
    ..CHANGES
};
pub(super) const LEAVING: Configuration = Configuration {
    name: "membership-leaving",
    purpose: "a leader that removes itself, hands over and leaves",
    log_max: 3,
    targets: WITHOUT_FIRST,
    heartbeats: true,
    goals: WITH_LEAVING,
    golden: Some(346_670),
    ..CHANGES
};
pub(super) const SNAPSHOTS: Configuration = Configuration {
    name: "membership-snapshots",
    purpose: "a joiner that learns who belongs to the cluster from a snapshot, and a crash",
    servers: 2,
    crashes_max: 1,
    log_max: 4,
    voters: &[1],
    targets: JOINING,
    changes_max: 2,
    snapshots_max: 2,
    trails: &[0, 1],
    heartbeats: true,
    goals: &[Goal::Leader, Goal::Commit, Goal::Reelection, Goal::SnapshotRestored, Goal::MembershipBySnapshot],
    golden: Some(405_583),
    ..CHANGES
};
pub(super) const READS: Configuration = Configuration {
    name: "membership-reads",
    purpose: "reads at a leader that removes itself, while another one leads",
    log_max: 3,
    targets: WITHOUT_FIRST,
    reads_max: 1,
    network: TWO_MESSAGES,
    goals: &[Goal::Leader, Goal::Commit, Goal::Reelection, Goal::Read, Goal::LeaderLeft],
    golden: Some(1_083_219),
    ..CHANGES
};
pub(super) const TRANSFER: Configuration = Configuration {
    name: "membership-transfer",
    purpose: "leadership handed over while the cluster changes through a joint configuration",
    log_max: 4,
    voters: &[1, 2],
    learners: &[3],
    targets: REPLACEMENT,
    transfers_max: 1,
    heartbeats: true,
    campaigners: 1,
    network: TWO_MESSAGES,
    goals: &[
        Goal::Leader,
        Goal::Commit,
        Goal::Reelection,
        Goal::LeaderByTransfer,
        Goal::TransferEnded,
        Goal::JointLeft,
    ],
    golden: Some(1_279_786),
    ..CHANGES
};
pub(super) const CRASHES: Configuration = Configuration {
    name: "membership-crashes",
    purpose: "a joint configuration, two writes in flight and a crash that loses any suffix of them",
    pending_max: 2,
    crashes_max: 1,
    campaigners: 2,
    network: Network::Lossy { messages_max: 1, duplication: false },
    goals: &[Goal::Leader, Goal::Commit, Goal::Reelection, Goal::JointLeft, Goal::LostWrite, Goal::ChangeTakenBack],
    golden: Some(416_814),
    ..JOINT
};
pub(super) const WIPED: Configuration = Configuration {
    name: "membership-wiped",
    purpose: "a learner that is removed, wiped, added again and gets a vote, within one term; what it said before comes late",
    servers: 2,
    term_max: 1,
    log_max: 5,
    voters: &[1],
    targets: READMISSION,
    changes_max: 4,
    wipes_max: 1,
    heartbeats: true,
    campaigners: 1,
    network: TWO_MESSAGES,
    goals: &[Goal::Leader, Goal::Commit],
    golden: Some(130_182),
    ..CHANGES
};

/// For `check` in the night.
pub(super) const CHECK_QUORUM: Configuration = Configuration {
    name: "membership-check-quorum",
    purpose: "a leader that removes itself, with pre-votes and check-quorum",
    pre_vote: true,
    check_quorum: true,
    goals: &[Goal::Leader, Goal::Commit, Goal::Reelection, Goal::LeaderLeft, Goal::StepDown],
    golden: Some(30_150_276),
    ..LEAVING
};

pub(super) const TWO_CHANGES: Configuration = Configuration {
    name: "membership-two-changes",
    purpose: "two leaders, and two changes of several voters each",
    servers: 4,
    term_max: 3,
    log_max: 5,
    voters: &[1, 2, 3],
    learners: &[4],
    targets: (
        "TwoReplaced",
        &[Target { voters: &[1, 3, 4], learners: &[2], promoting: &[] }, Target::of_voters(&[2, 3, 4])],
    ),
    changes_max: 2,
    network: TWO_MESSAGES,
    single_entry_appends: false,
    goals: WITH_JOINT,
    golden: Some(27_481_043),
    ..CHANGES
};

const WITH_JOINT: &[Goal] = &[Goal::Leader, Goal::Commit, Goal::Reelection, Goal::JointLeft];
const WITH_LEAVING: &[Goal] = &[Goal::Leader, Goal::Commit, Goal::Reelection, Goal::LeaderLeft];

/// For `conform`.
pub(super) const CONFORM_JOINT: Configuration = Configuration {
    name: "conform-membership-joint",
    heartbeats: false,
    campaigners: 2,
    network: TWO_MESSAGES,
    drop_dead: false,
    golden: Some(8_234),
    ..JOINT
};
pub(super) const CONFORM_LEAVING: Configuration = Configuration {
    name: "conform-membership-leaving",
    heartbeats: false,
    campaigners: 1,
    network: TWO_MESSAGES,
    drop_dead: false,
    golden: Some(2_962),
    ..LEAVING
};
pub(super) const CONFORM_ROLLED_BACK: Configuration = Configuration {
    name: "conform-membership-rolled-back",
    purpose: "a change that a later leader takes back",
    targets: WITHOUT_THIRD,
    goals: &[Goal::Leader, Goal::Commit, Goal::Reelection, Goal::ChangeTakenBack],
    drop_dead: false,
    golden: Some(4_693),
    ..CHANGES
};
pub(super) const CONFORM_SNAPSHOTS: Configuration = Configuration {
    name: "conform-membership-snapshots",
    purpose: "a joiner that learns who belongs to the cluster from a snapshot",
    crashes_max: 0,
    snapshots_max: 1,
    trails: &[0],
    drop_dead: false,
    golden: Some(4_655),
    ..SNAPSHOTS
};
pub(super) const CONFORM_WIPED: Configuration = Configuration {
    name: "conform-membership-wiped",
    network: Network::Lossy { messages_max: 1, duplication: false },
    drop_dead: false,
    golden: Some(2_831),
    ..WIPED
};
pub(super) const CONFORM_LEARNERS: Configuration = Configuration {
    name: "conform-membership-learners",
    log_max: 3,
    campaigners: 2,
    drop_dead: false,
    golden: Some(133_447),
    ..LEARNERS
};
