//! Servers whose disk is put back to a copy, and that are told.

use super::SPEC;
use crate::config::{Configuration, Network};
use crate::laws::Goal;

const GOALS: &[Goal] = &[Goal::Leader, Goal::Commit, Goal::LossFound, Goal::LossTold, Goal::CommitWithoutTheLost];

/// For `check`.
pub(super) const ROLLED_BACK: Configuration = Configuration {
    name: "rolled-back",
    purpose: "a follower whose disk is put back to any earlier state, while the others go on; answers and refusals come late",
    term_max: 1,
    log_max: 2,
    restorable: 1,
    campaigners: 1,
    heartbeats: true,
    symmetry: false,
    network: Network::Lossy { messages_max: 2, duplication: false },
    goals: GOALS,
    golden: Some(5_377_587),
    ..SPEC
};

pub(super) const WIPED: Configuration = Configuration {
    name: "rolled-back-wiped",
    purpose: "a learner whose disk is put back, that is removed, wiped and added again; appends to either disk come late",
    wipes_max: 1,
    restorable: 1,
    goals: GOALS,
    golden: Some(1_357_850),
    ..super::membership::WIPED
};
pub(super) const CRASHES: Configuration = Configuration {
    name: "rolled-back-crashes",
    purpose: "a follower whose disk is put back, two writes in flight, and a crash",
    pending_max: 2,
    crashes_max: 1,
    network: Network::Lossy { messages_max: 1, duplication: true },
    golden: Some(465_048),
    ..ROLLED_BACK
};
pub(super) const SNAPSHOTS: Configuration = Configuration {
    name: "rolled-back-snapshots",
    purpose: "a follower whose disk is put back to before a snapshot, its own or one that it fetched",
    snapshots_max: 1,
    network: Network::Lossy { messages_max: 1, duplication: false },
    goals: &[Goal::Leader, Goal::Commit, Goal::LossFound, Goal::LossTold, Goal::SnapshotRestored],
    golden: Some(728_679),
    ..ROLLED_BACK
};

/// For `conform`.
pub(super) const CONFORM: Configuration = Configuration {
    name: "conform-rolled-back",
    purpose: "a follower whose disk is put back to any earlier state, and is told",
    log_max: 1,
    client_requests: false,
    network: Network::Lossy { messages_max: 1, duplication: false },
    golden: Some(15_040),
    ..ROLLED_BACK
};
