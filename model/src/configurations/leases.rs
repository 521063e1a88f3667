//! The configurations with leases: the clocks hold what a lease asks of them, and everything else may happen.

use super::CORE;
use crate::config::{Configuration, Network};
use crate::laws::Goal;

const WITH_LEASES: Configuration = Configuration {
    reads_max: 2,
    check_quorum: true,
    leases: true,
    heartbeats: false,
    client_requests: false,
    campaigners: 2,
    goals: &[Goal::Leader, Goal::Commit, Goal::Reelection, Goal::Read, Goal::LeaseRead],
    ..CORE
};

/// For `check`.
pub(super) const LEASES: Configuration = Configuration {
    name: "leases",
    purpose: "reads by leases, while leaders change and are told to lead no more",
    step_downs: true,
    golden: Some(2_832_461),
    ..WITH_LEASES
};
pub(super) const TRANSFER: Configuration = Configuration {
    name: "leases-transfer",
    purpose: "leadership handed over by a leader that has a lease until it does, and requests that come late",
    reads_max: 1,
    transfers_max: 1,
    campaigners: 1,
    network: Network::Lossy { messages_max: 2, duplication: false },
    goals: &[Goal::Leader, Goal::Commit, Goal::Reelection, Goal::Read, Goal::LeaderByTransfer, Goal::TransferEnded],
    golden: Some(9_493_468),
    ..WITH_LEASES
};
pub(super) const CRASHES: Configuration = Configuration {
    name: "leases-crashes",
    purpose: "a server that starts again and keeps the promise that it gave before",
    log_max: 1,
    crashes_max: 1,
    golden: Some(2_104_029),
    ..WITH_LEASES
};
pub(super) const HEARTBEATS: Configuration = Configuration {
    name: "leases-heartbeats",
    purpose: "leases that heartbeats renew",
    reads_max: 1,
    log_max: 1,
    heartbeats: true,
    golden: Some(342_991),
    ..WITH_LEASES
};

/// For `conform`.
pub(super) const CONFORM: Configuration = Configuration {
    name: "conform-leases",
    purpose: "leases that heartbeats renew, promises that outlive terms, and leaders that are told to lead no more",
    log_max: 1,
    reads_max: 1,
    campaigners: 1,
    heartbeats: true,
    step_downs: true,
    symmetry: false,
    drop_dead: false,
    goals: &[Goal::Leader, Goal::Commit, Goal::LeaseRead, Goal::ToldToStepDown],
    golden: Some(38_364),
    ..WITH_LEASES
};
pub(super) const CONFORM_CRASHES: Configuration = Configuration {
    name: "conform-leases-crashes",
    purpose: "a server that starts again and keeps the promise that it gave before; a leader that gives its lease up",
    term_max: 1,
    log_max: 1,
    reads_max: 1,
    crashes_max: 1,
    transfers_max: 1,
    campaigners: 1,
    heartbeats: true,
    symmetry: false,
    drop_dead: false,
    goals: &[Goal::Leader, Goal::Commit, Goal::LeaseRead],
    golden: Some(126_028),
    ..WITH_LEASES
};
