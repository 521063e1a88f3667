//! The configurations with reads that a leader answers without an entry of the log.

use super::CORE;
use crate::config::{Configuration, Network};
use crate::laws::Goal;

pub(super) const WITH_READS: &[Goal] = &[Goal::Leader, Goal::Commit, Goal::Reelection, Goal::Read, Goal::ReadAborted];

pub(super) const READS: Configuration = Configuration {
    name: "reads",
    purpose: "reads without an entry of the log, two at a time, while leaders change",
    reads_max: 2,
    heartbeats: false,
    client_requests: false,
    campaigners: 2,
    goals: WITH_READS,
    golden: Some(40_666),
    ..CORE
};
pub(super) const TWO_MESSAGES: Configuration = Configuration {
    name: "reads-two-messages",
    purpose: "reads whose confirmations come late",
    reads_max: 2,
    network: Network::Lossy { messages_max: 2, duplication: false },
    heartbeats: false,
    client_requests: false,
    campaigners: 2,
    goals: WITH_READS,
    golden: Some(1_573_613),
    ..CORE
};
pub(super) const AGAIN: Configuration = Configuration {
    name: "reads-again",
    purpose: "a server that leads twice, by way of check-quorum: confirmations of its earlier term come late",
    reads_max: 2,
    network: Network::Lossy { messages_max: 2, duplication: false },
    check_quorum: true,
    heartbeats: false,
    client_requests: false,
    campaigners: 1,
    goals: &[Goal::Leader, Goal::Commit, Goal::Reelection, Goal::Read, Goal::ReadAborted, Goal::StepDown],
    golden: Some(5_168_265),
    ..CORE
};
pub(super) const HEARTBEATS: Configuration = Configuration {
    name: "reads-heartbeats",
    purpose: "reads whose rounds heartbeats repeat",
    reads_max: 2,
    client_requests: false,
    goals: WITH_READS,
    golden: Some(10_890_040),
    ..CORE
};
