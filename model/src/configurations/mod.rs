//! The named configurations: what each is for, its bounds, and how many states it has.

mod branches;
mod follower_reads;
mod leases;
mod loss;
mod membership;
mod reads;

use crate::config::{Configuration, Network};
use crate::laws::Goal;
use crate::mutants::configurations::MUTANTS;

/// What the configurations have in common: three servers, everything small, nothing optional.
const CORE: Configuration = Configuration {
    name: "core",
    purpose: "",
    servers: 3,
    voters: &[],
    learners: &[],
    targets: ("{}", &[]),
    term_max: 2,
    log_max: 2,
    pending_max: 1,
    crashes_max: 0,
    reads_max: 0,
    transfers_max: 0,
    snapshots_max: 0,
    changes_max: 0,
    wipes_max: 0,
    restorable: 0,
    trails: &[0],
    network: Network::Lossy { messages_max: 1, duplication: false },
    pre_vote: false,
    check_quorum: false,
    leases: false,
    step_downs: false,
    heartbeats: true,
    client_requests: true,
    inflight_max: 1,
    window_by_bytes: false,
    single_entry_appends: true,
    campaigners: 3,
    readers: 0,
    symmetry: true,
    drop_dead: true,
    goals: &[Goal::Leader, Goal::Commit, Goal::Reelection, Goal::Truncation],
    golden: None,
};

/// Those that `check --all` runs, in this order.
pub const ALL: &[Configuration] = &[
    Configuration {
        purpose: "election, replication, commits, heartbeats; messages get lost and overtake",
        golden: Some(512_262),
        ..CORE
    },
    Configuration {
        name: "core-bytes",
        purpose: "the same, with windows that bytes narrow: the states are those of `core`",
        window_by_bytes: true,
        golden: Some(512_262),
        ..CORE
    },
    Configuration {
        name: "core-duplication",
        purpose: "the same, and messages arrive twice",
        network: Network::Lossy { messages_max: 1, duplication: true },
        golden: Some(581_312),
        ..CORE
    },
    Configuration {
        name: "core-two-messages",
        purpose: "two messages on their way at once",
        log_max: 1,
        network: Network::Lossy { messages_max: 2, duplication: false },
        client_requests: false,
        golden: Some(1_464_552),
        ..CORE
    },
    Configuration {
        name: "core-monotone",
        purpose: "a network that forgets nothing: any message may arrive at any later time",
        log_max: 1,
        network: Network::Monotone,
        heartbeats: false,
        client_requests: false,
        campaigners: 2,
        golden: Some(154_341),
        ..CORE
    },
    Configuration {
        name: "fsync",
        purpose: "two writes in flight and a crash that loses any suffix of them",
        pending_max: 2,
        crashes_max: 1,
        goals: WITH_LOST_WRITE,
        golden: Some(4_082_189),
        ..CORE
    },
    Configuration {
        name: "fsync-two-crashes",
        purpose: "two crashes",
        log_max: 1,
        pending_max: 2,
        crashes_max: 2,
        client_requests: false,
        goals: &[Goal::Leader, Goal::Commit, Goal::Reelection, Goal::Truncation, Goal::LostWrite],
        golden: Some(911_722),
        ..CORE
    },
    Configuration {
        name: "pre-vote",
        purpose: "questions before campaigns",
        log_max: 1,
        pre_vote: true,
        client_requests: false,
        golden: Some(3_841_373),
        ..CORE
    },
    Configuration {
        name: "check-quorum",
        purpose: "pre-vote, stickiness, and leaders that step down",
        log_max: 1,
        pre_vote: true,
        check_quorum: true,
        heartbeats: false,
        client_requests: false,
        goals: WITH_STEP_DOWN,
        golden: Some(1_773_533),
        ..CORE
    },
    Configuration {
        name: "conflicts",
        purpose: "longer logs that differ, two appends in flight, several entries in each",
        log_max: 3,
        inflight_max: 2,
        single_entry_appends: false,
        golden: Some(7_892_824),
        ..CORE
    },
    Configuration {
        name: "figure-8",
        purpose: "four terms: an old entry on a majority, and a leader that does not have it (Figure 3.7)",
        term_max: 4,
        campaigners: 2,
        heartbeats: false,
        network: Network::Lossy { messages_max: 2, duplication: false },
        client_requests: false,
        golden: Some(1_799_492),
        ..CORE
    },
    Configuration { name: "three-terms", purpose: "three terms", term_max: 3, golden: Some(4_085_136), ..CORE },
    Configuration {
        name: "four-servers",
        purpose: "an even number of servers",
        servers: 4,
        campaigners: 2,
        log_max: 1,
        network: Network::Lossy { messages_max: 2, duplication: false },
        heartbeats: false,
        client_requests: false,
        golden: Some(43_427),
        ..CORE
    },
    Configuration {
        name: "five-servers",
        purpose: "a quorum of three",
        servers: 5,
        campaigners: 2,
        log_max: 1,
        network: Network::Lossy { messages_max: 2, duplication: false },
        heartbeats: false,
        client_requests: false,
        golden: Some(237_256),
        ..CORE
    },
    reads::READS,
    reads::LATE,
    reads::AGAIN,
    reads::HEARTBEATS,
    Configuration {
        name: "transfer",
        purpose: "leadership handed over, with pre-votes and check-quorum; heartbeats repeat the request",
        transfers_max: 1,
        pre_vote: true,
        check_quorum: true,
        campaigners: 1,
        goals: WITH_TRANSFER,
        golden: Some(3_606_936),
        ..CORE
    },
    Configuration {
        name: "transfer-appends",
        purpose: "leadership handed over to a server that is brought up to date first, while clients go on to propose",
        log_max: 3,
        transfers_max: 1,
        check_quorum: true,
        inflight_max: 2,
        heartbeats: false,
        campaigners: 1,
        network: Network::Lossy { messages_max: 2, duplication: false },
        goals: WITH_TRANSFER,
        golden: Some(6_922_976),
        ..CORE
    },
    Configuration {
        name: "transfer-late",
        purpose: "requests to campaign that come late, while others campaign by themselves",
        term_max: 3,
        log_max: 3,
        transfers_max: 2,
        network: Network::Lossy { messages_max: 2, duplication: false },
        heartbeats: false,
        client_requests: false,
        campaigners: 2,
        goals: WITH_TRANSFER,
        golden: Some(2_592_648),
        ..CORE
    },
    Configuration {
        name: "transfer-crashes",
        purpose: "a crash during a transfer, and messages that come twice",
        transfers_max: 1,
        crashes_max: 1,
        network: Network::Lossy { messages_max: 1, duplication: true },
        campaigners: 1,
        goals: WITH_TRANSFER,
        golden: Some(739_224),
        ..CORE
    },
    Configuration {
        name: "snapshots",
        purpose: "a follower that needs what its leader has forgotten, while leaders change",
        snapshots_max: 1,
        campaigners: 2,
        goals: WITH_SNAPSHOTS,
        golden: Some(1_749_287),
        ..CORE
    },
    Configuration {
        name: "snapshots-crashes",
        purpose: "snapshots, two writes in flight and a crash that loses any suffix of them",
        snapshots_max: 1,
        crashes_max: 1,
        pending_max: 2,
        campaigners: 2,
        client_requests: false,
        goals: WITH_SNAPSHOTS,
        golden: Some(3_122_904),
        ..CORE
    },
    Configuration {
        name: "snapshots-trail",
        purpose: "two snapshots one after the other, of which the log keeps some of what they cover",
        term_max: 1,
        log_max: 3,
        snapshots_max: 2,
        trails: &[0, 1],
        campaigners: 1,
        goals: &[Goal::Leader, Goal::Commit, Goal::SnapshotRestored],
        golden: Some(3_215_274),
        ..CORE
    },
    Configuration {
        name: "snapshots-check-quorum",
        purpose: "snapshots under check-quorum and pre-vote, while leaders change",
        log_max: 1,
        pre_vote: true,
        check_quorum: true,
        snapshots_max: 1,
        campaigners: 2,
        client_requests: false,
        goals: WITH_SNAPSHOTS,
        golden: Some(5_053_456),
        ..CORE
    },
    Configuration {
        name: "snapshots-transfer",
        purpose: "snapshots and transfers of leadership at once",
        snapshots_max: 1,
        transfers_max: 1,
        check_quorum: true,
        campaigners: 1,
        heartbeats: false,
        network: Network::Lossy { messages_max: 2, duplication: false },
        client_requests: false,
        goals: WITH_SNAPSHOTS,
        golden: Some(799_679),
        ..CORE
    },
    follower_reads::LEARNER,
    follower_reads::LATE,
    follower_reads::AGAIN,
    follower_reads::CRASHES,
    follower_reads::FETCH,
    follower_reads::MEMBERS,
    follower_reads::LEASES,
    leases::LEASES,
    leases::TRANSFER,
    leases::CRASHES,
    leases::HEARTBEATS,
    membership::SINGLE,
    membership::JOINT,
    membership::LEARNERS,
    membership::LEAVING,
    membership::SNAPSHOTS,
    membership::READS,
    membership::TRANSFER,
    membership::CRASHES,
    membership::WIPED,
    loss::ROLLED_BACK,
    loss::WIPED,
    loss::CRASHES,
    loss::SNAPSHOTS,
];

const WITH_TRANSFER: &[Goal] =
    &[Goal::Leader, Goal::Commit, Goal::Reelection, Goal::LeaderByTransfer, Goal::TransferEnded];
const WITH_SNAPSHOTS: &[Goal] = &[Goal::Leader, Goal::Commit, Goal::Reelection, Goal::SnapshotRestored];

const WITH_LOST_WRITE: &[Goal] =
    &[Goal::Leader, Goal::Commit, Goal::Reelection, Goal::Truncation, Goal::CommitOfAnOlderTerm, Goal::LostWrite];

const WITH_STEP_DOWN: &[Goal] = &[Goal::Leader, Goal::Commit, Goal::Reelection, Goal::Truncation, Goal::StepDown];

/// Those that only `check --nightly` runs beside them.
pub const NIGHTLY: &[Configuration] = &[
    Configuration {
        name: "check-quorum-heartbeats",
        purpose: "check-quorum with heartbeats",
        golden: Some(17_078_431),
        log_max: 1,
        pre_vote: true,
        check_quorum: true,
        client_requests: false,
        goals: WITH_STEP_DOWN,
        ..CORE
    },
    Configuration {
        name: "fsync-two-messages",
        purpose: "a crash, with two messages on their way",
        golden: Some(6_707_580),
        log_max: 1,
        crashes_max: 1,
        network: Network::Lossy { messages_max: 2, duplication: false },
        client_requests: false,
        goals: &[Goal::Leader, Goal::Commit, Goal::Reelection, Goal::Truncation, Goal::LostWrite],
        ..CORE
    },
    membership::CHECK_QUORUM,
    membership::TWO_CHANGES,
];

/// Those whose states and transitions are compared with TLC's: no symmetry, nothing dropped.
pub const CONFORMANCE: &[Configuration] = &[
    Configuration {
        name: "conform-election",
        purpose: "pre-vote, check-quorum and heartbeats",
        term_max: 1,
        log_max: 1,
        campaigners: 1,
        pre_vote: true,
        check_quorum: true,
        client_requests: false,
        goals: &[Goal::Leader, Goal::Commit, Goal::StepDown],
        golden: Some(30_720),
        ..SPEC
    },
    Configuration {
        name: "conform-pre-vote",
        purpose: "two campaigners over two terms, with pre-votes",
        log_max: 1,
        campaigners: 2,
        pre_vote: true,
        heartbeats: false,
        client_requests: false,
        golden: Some(41_778),
        ..SPEC
    },
    CONFORM_REPLICATION,
    Configuration {
        name: "conform-windows",
        purpose: "appends, acknowledgements, heartbeats, and windows that bytes narrow",
        window_by_bytes: true,
        ..CONFORM_REPLICATION
    },
    Configuration {
        name: "conform-conflicts",
        purpose: "logs that differ, two writes in flight, appends of several entries",
        campaigners: 2,
        pending_max: 2,
        heartbeats: false,
        inflight_max: 2,
        single_entry_appends: false,
        golden: Some(19_499),
        ..SPEC
    },
    Configuration {
        name: "conform-crashes",
        purpose: "two writes in flight and a crash",
        log_max: 1,
        campaigners: 2,
        pending_max: 2,
        crashes_max: 1,
        heartbeats: false,
        client_requests: false,
        golden: Some(24_858),
        ..SPEC
    },
    reads::CONFORM_AGAIN,
    Configuration {
        name: "conform-transfer",
        purpose: "leadership handed over, with check-quorum",
        check_quorum: true,
        heartbeats: false,
        client_requests: false,
        campaigners: 1,
        transfers_max: 1,
        goals: WITH_TRANSFER,
        golden: Some(22_579),
        ..SPEC
    },
    Configuration {
        name: "conform-snapshots-crashes",
        purpose: "snapshots, two writes in flight and a crash",
        term_max: 1,
        log_max: 1,
        campaigners: 1,
        pending_max: 2,
        crashes_max: 1,
        snapshots_max: 1,
        client_requests: false,
        goals: &[Goal::Leader, Goal::Commit, Goal::SnapshotRestored, Goal::LostWrite],
        golden: Some(27_577),
        ..SPEC
    },
    Configuration {
        name: "conform-snapshots",
        purpose: "a follower that needs what its leader has forgotten, with a trail and without",
        term_max: 1,
        campaigners: 1,
        snapshots_max: 2,
        heartbeats: false,
        network: Network::Lossy { messages_max: 2, duplication: false },
        trails: &[0, 1],
        goals: &[Goal::Leader, Goal::Commit, Goal::SnapshotRestored],
        golden: Some(26_950),
        ..SPEC
    },
    Configuration {
        name: "conform-monotone",
        purpose: "a network that never forgets a message",
        log_max: 1,
        campaigners: 1,
        network: Network::Monotone,
        heartbeats: false,
        client_requests: false,
        goals: &[Goal::Leader, Goal::Commit],
        golden: Some(2_831),
        ..SPEC
    },
    leases::CONFORM,
    follower_reads::CONFORM,
    follower_reads::CONFORM_HEARTBEATS,
    membership::CONFORM_JOINT,
    membership::CONFORM_LEAVING,
    membership::CONFORM_ROLLED_BACK,
    membership::CONFORM_SNAPSHOTS,
    membership::CONFORM_WIPED,
    loss::CONFORM,
    branches::PRE_CANDIDATE,
    branches::ALONE,
    branches::PIPELINES,
    branches::LATE_CONFIRMATIONS,
    branches::OVERTAKEN_FETCH,
];

/// Conformance beyond [`CONFORMANCE`], for the night.
pub const CONFORMANCE_NIGHTLY: &[Configuration] = &[
    Configuration {
        name: "conform-everything",
        purpose: "two servers with every feature at once, and duplicated messages",
        servers: 2,
        campaigners: 2,
        pending_max: 2,
        crashes_max: 1,
        network: Network::Lossy { messages_max: 1, duplication: true },
        pre_vote: true,
        check_quorum: true,
        inflight_max: 2,
        single_entry_appends: false,
        goals: &[Goal::Leader, Goal::Commit, Goal::Reelection, Goal::LostWrite, Goal::StepDown],
        golden: Some(150_364),
        ..SPEC
    },
    reads::CONFORM,
    reads::CONFORM_ROUNDS,
    Configuration {
        name: "conform-transfer-heartbeats",
        purpose: "two servers that hand over to each other: requests to campaign repeated and late, proposals between them",
        servers: 2,
        term_max: 3,
        log_max: 3,
        pre_vote: true,
        check_quorum: true,
        campaigners: 1,
        transfers_max: 2,
        goals: WITH_TRANSFER,
        golden: Some(178_478),
        ..SPEC
    },
    Configuration {
        name: "conform-snapshots-heartbeats",
        purpose: "a snapshot that heartbeats offer again, with a trail and without",
        term_max: 1,
        campaigners: 1,
        snapshots_max: 1,
        trails: &[0, 1],
        golden: Some(154_297),
        goals: &[Goal::Leader, Goal::Commit, Goal::SnapshotRestored],
        ..SPEC
    },
    Configuration {
        name: "conform-snapshots-leaders",
        purpose: "snapshots while leaders change, and heartbeats that offer them again",
        log_max: 1,
        campaigners: 2,
        client_requests: false,
        snapshots_max: 1,
        golden: Some(173_209),
        goals: &[Goal::Leader, Goal::Commit, Goal::SnapshotRestored],
        ..SPEC
    },
    membership::CONFORM_LEARNERS,
    leases::CONFORM_CRASHES,
    follower_reads::CONFORM_CRASHES,
    follower_reads::CONFORM_ROUNDS,
];

/// What the conformance configurations have in common.
const SPEC: Configuration = Configuration { symmetry: false, drop_dead: false, ..CORE };

const CONFORM_REPLICATION: Configuration = Configuration {
    name: "conform-replication",
    purpose: "appends, acknowledgements, heartbeats",
    term_max: 1,
    campaigners: 1,
    goals: &[Goal::Leader, Goal::Commit],
    golden: Some(15_369),
    ..SPEC
};

/// The configuration of this name.
#[must_use]
pub fn named(name: &str) -> Option<&'static Configuration> {
    [ALL, NIGHTLY, CONFORMANCE, CONFORMANCE_NIGHTLY, MUTANTS]
        .into_iter()
        .flatten()
        .find(|configuration| configuration.name == name)
}
