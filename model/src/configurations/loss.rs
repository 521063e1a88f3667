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
