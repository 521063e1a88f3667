//! The named configurations: what each is for, its bounds, and how many states it has.

use crate::config::{Configuration, Network};
use crate::laws::Goal;

/// What the configurations have in common: three servers, everything small, nothing optional.
const CORE: Configuration = Configuration {
    name: "core",
    purpose: "",
    servers: 3,
    term_max: 2,
    log_max: 2,
    pending_max: 1,
    crashes_max: 0,
    network: Network::Lossy { messages_max: 1, duplication: false },
    pre_vote: false,
    check_quorum: false,
    heartbeats: true,
    client_requests: true,
    inflight_max: 1,
    single_entry_appends: true,
    campaigners: 3,
    symmetry: true,
    drop_dead: true,
    goals: &[Goal::Leader, Goal::Commit, Goal::Reelection, Goal::Truncation],
    golden: None,
};

/// Those that `check --all` runs, in this order.
pub const ALL: &[Configuration] = &[CORE];

/// Those that only `check --nightly` runs beside them.
pub const NIGHTLY: &[Configuration] = &[];

/// Those whose states and transitions are compared with TLC's: no symmetry, nothing dropped.
pub const CONFORMANCE: &[Configuration] = &[Configuration {
    name: "conform-replication",
    purpose: "a leader and its followers: appends, acknowledgements, commits",
    term_max: 1,
    campaigners: 1,
    goals: &[Goal::Leader, Goal::Commit],
    ..SPEC
}];

/// What the conformance configurations have in common.
const SPEC: Configuration = Configuration { symmetry: false, drop_dead: false, ..CORE };

/// The configuration of this name.
#[must_use]
pub fn named(name: &str) -> Option<&'static Configuration> {
    [ALL, NIGHTLY, CONFORMANCE].into_iter().flatten().find(|configuration| configuration.name == name)
}
