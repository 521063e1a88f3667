//! The configurations with reads that a leader answers without an entry of the log.

use super::CORE;
use crate::config::{Configuration, Network};
use crate::laws::Goal;

const TWO_MESSAGES: Network = Network::Lossy { messages_max: 2, duplication: false };

/// For `check`.
pub(super) const READS: Configuration = Configuration {
    name: "reads",
    purpose: "reads without an entry of the log, two at a time, while leaders change",
    reads_max: 2,
    heartbeats: false,
    client_requests: false,
    campaigners: 2,
    goals: &[Goal::Leader, Goal::Commit, Goal::Reelection, Goal::Read, Goal::ReadAborted],
    golden: Some(41_244),
    ..CORE
};
pub(super) const LATE: Configuration = Configuration {
    name: "reads-two-messages",
    purpose: "reads whose confirmations come late",
    network: TWO_MESSAGES,
    golden: Some(1_602_457),
    ..READS
};
pub(super) const AGAIN: Configuration = Configuration {
    name: "reads-again",
    purpose: "a server that leads twice, by way of check-quorum: confirmations of its earlier term come late",
    network: TWO_MESSAGES,
    check_quorum: true,
    campaigners: 1,
    goals: &[Goal::Leader, Goal::Commit, Goal::Reelection, Goal::Read, Goal::ReadAborted, Goal::StepDown],
    golden: Some(5_433_891),
    ..READS
};
pub(super) const HEARTBEATS: Configuration = Configuration {
    name: "reads-heartbeats",
    purpose: "reads whose rounds heartbeats repeat",
    heartbeats: true,
    campaigners: 3,
    golden: Some(11_586_392),
    ..READS
};

/// For `conform`.
pub(super) const CONFORM: Configuration = Configuration {
    name: "conform-reads",
    purpose: "reads without an entry of the log, with two leaders",
    symmetry: false,
    drop_dead: false,
    golden: Some(85_129),
    ..READS
};
pub(super) const CONFORM_AGAIN: Configuration = Configuration {
    name: "conform-reads-again",
    servers: 2,
    symmetry: false,
    drop_dead: false,
    golden: Some(21_837),
    ..AGAIN
};
pub(super) const CONFORM_ROUNDS: Configuration = Configuration {
    name: "conform-read-rounds",
    purpose: "rounds of confirmation that heartbeats repeat",
    term_max: 1,
    log_max: 1,
    heartbeats: true,
    campaigners: 1,
    goals: &[Goal::Leader, Goal::Commit, Goal::Read],
    golden: Some(85_173),
    ..CONFORM
};
