//! Small configurations for `conform`, each for branches of the spec that the larger ones do not take.
//! `scripts/spec-branches` lists those.

use super::SPEC;
use crate::config::{Configuration, Network};
use crate::laws::Goal;

const TWO_MESSAGES: Network = Network::Lossy { messages_max: 2, duplication: false };

/// Two servers, one of which campaigns, with a single term.
const PAIR: Configuration = Configuration {
    servers: 2,
    term_max: 1,
    log_max: 1,
    campaigners: 1,
    network: TWO_MESSAGES,
    heartbeats: false,
    client_requests: false,
    goals: &[Goal::Leader, Goal::Commit],
    ..SPEC
};

pub(super) const PRE_CANDIDATE: Configuration = Configuration {
    name: "conform-pre-candidate",
    purpose: "a pre-candidate that votes for another, and messages that overtake each other",
    campaigners: 2,
    pre_vote: true,
    golden: Some(2_867),
    ..PAIR
};
pub(super) const ALONE: Configuration = Configuration {
    name: "conform-alone",
    purpose: "the only voter, which asks nobody before it campaigns, and a learner",
    voters: &[1],
    learners: &[2],
    network: Network::Lossy { messages_max: 1, duplication: false },
    pre_vote: true,
    heartbeats: true,
    golden: Some(85),
    ..PAIR
};
pub(super) const PIPELINES: Configuration = Configuration {
    name: "conform-pipelines",
    purpose: "several appends that leave in one step, and answers that come late or twice",
    log_max: 3,
    network: Network::Lossy { messages_max: 2, duplication: true },
    client_requests: true,
    inflight_max: 2,
    golden: Some(1_306),
    ..PAIR
};
pub(super) const LATE_CONFIRMATIONS: Configuration = Configuration {
    name: "conform-late-confirmations",
    purpose: "confirmations of rounds that overtake each other",
    reads_max: 2,
    heartbeats: true,
    goals: &[Goal::Leader, Goal::Commit, Goal::Read],
    golden: Some(6_214),
    ..PAIR
};
pub(super) const OVERTAKEN_FETCH: Configuration = Configuration {
    name: "conform-overtaken-fetch",
    purpose: "a learner that gets by itself what it is fetching in a snapshot",
    voters: &[1],
    learners: &[2],
    log_max: 2,
    snapshots_max: 1,
    heartbeats: true,
    goals: &[Goal::Leader, Goal::Commit, Goal::SnapshotRestored],
    golden: Some(2_999),
    ..PAIR
};
