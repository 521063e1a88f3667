//! The bounds in which mutants must die: for each kind of mistake the smallest ones known that show it.
//!
//! No message is dropped by the rule of dead messages here: a mutant may well find a use for one.

use crate::config::{Configuration, Network};
use crate::membership::Target;

/// What they have in common: three servers of which the first two campaign, one message on its way, nothing optional.
const SMALL: Configuration = Configuration {
    name: "",
    purpose: "",
    servers: 3,
    voters: &[],
    learners: &[],
    targets: ("{}", &[]),
    term_max: 1,
    log_max: 1,
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
    heartbeats: false,
    client_requests: false,
    inflight_max: 1,
    window_by_bytes: false,
    single_entry_appends: true,
    campaigners: 2,
    readers: 0,
    symmetry: true,
    drop_dead: false,
    goals: &[],
    golden: None,
};

/// What those have in common in which the membership changes: servers with roles, so that no two are alike.
const CHANGES: Configuration =
    Configuration { term_max: 2, changes_max: 1, symmetry: false, network: TWO_MESSAGES, ..SMALL };

/// What those have in common in which the disk of the last server is put back to a copy.
const ROLLED_BACK: Configuration =
    Configuration { restorable: 1, campaigners: 1, heartbeats: true, symmetry: false, ..SMALL };

/// What those have in common in which leaders answer reads by leases.
const LEASES: Configuration = Configuration {
    term_max: 2,
    reads_max: 1,
    check_quorum: true,
    leases: true,
    heartbeats: true,
    network: TWO_MESSAGES,
    ..SMALL
};

/// What those have in common in which clients read at a learner.
const FOLLOWER_READS: Configuration =
    Configuration { servers: 4, voters: &[1, 2, 3], learners: &[4], term_max: 2, reads_max: 1, readers: 1, ..SMALL };

/// Two messages on their way: one can be late.
const TWO_MESSAGES: Network = Network::Lossy { messages_max: 2, duplication: false };

/// Those that only mutants need.
pub const MUTANTS: &[Configuration] = &[
    Configuration { name: "mutant-election", purpose: "two candidates of one term", ..SMALL },
    Configuration { name: "mutant-leases", purpose: "a lease, and a leader of the next term", ..LEASES },
    Configuration {
        name: "mutant-leases-crash",
        purpose: "a promise that a crash must not take away",
        crashes_max: 1,
        ..LEASES
    },
    Configuration {
        name: "mutant-leases-term",
        purpose: "a promise that a later term must not take away",
        term_max: 3,
        campaigners: 3,
        ..LEASES
    },
    Configuration {
        name: "mutant-leases-transfer",
        purpose: "a lease and a transfer, and a request to campaign that comes late",
        transfers_max: 1,
        log_max: 2,
        heartbeats: false,
        campaigners: 1,
        ..LEASES
    },
    Configuration { name: "mutant-vote-lost", purpose: "a voter that crashes", crashes_max: 1, ..SMALL },
    Configuration {
        name: "mutant-late-vote",
        purpose: "votes of an earlier term",
        term_max: 2,
        campaigners: 3,
        ..SMALL
    },
    Configuration {
        name: "mutant-five-servers",
        purpose: "votes of an earlier term that make a quorum of five with those of this one",
        servers: 5,
        term_max: 2,
        network: TWO_MESSAGES,
        ..SMALL
    },
    Configuration {
        name: "mutant-two-terms",
        purpose: "logs of two leaders, with heartbeats",
        term_max: 2,
        heartbeats: true,
        ..SMALL
    },
    Configuration {
        name: "mutant-longer-log",
        purpose: "logs of one term that differ in length",
        term_max: 2,
        log_max: 2,
        heartbeats: true,
        client_requests: true,
        ..SMALL
    },
    Configuration {
        name: "mutant-three-terms",
        purpose: "a third leader finds the logs of two others",
        term_max: 3,
        log_max: 2,
        ..SMALL
    },
    Configuration {
        name: "mutant-three-terms-heartbeats",
        purpose: "a third leader's heartbeats on the logs of two others",
        term_max: 3,
        log_max: 2,
        heartbeats: true,
        ..SMALL
    },
    Configuration {
        name: "mutant-figure-8",
        purpose: "the dissertation's Figure 3.7 with three servers",
        term_max: 4,
        log_max: 2,
        network: TWO_MESSAGES,
        ..SMALL
    },
    Configuration {
        name: "mutant-second-leadership",
        purpose: "a leader of five that led before",
        servers: 5,
        term_max: 3,
        log_max: 2,
        network: TWO_MESSAGES,
        ..SMALL
    },
    Configuration {
        name: "mutant-late-append",
        purpose: "every append can come again at any later time",
        log_max: 2,
        campaigners: 1,
        network: Network::Monotone,
        client_requests: true,
        ..SMALL
    },
    Configuration {
        name: "mutant-late-leader",
        purpose: "what a deposed leader sent or is answered comes late, after a crash",
        term_max: 2,
        crashes_max: 1,
        network: TWO_MESSAGES,
        ..SMALL
    },
    Configuration {
        name: "mutant-commit-lost",
        purpose: "a crash between an append and its durability",
        term_max: 2,
        crashes_max: 1,
        ..SMALL
    },
    Configuration {
        name: "mutant-late-heartbeat",
        purpose: "heartbeats that overtake each other",
        campaigners: 1,
        network: TWO_MESSAGES,
        heartbeats: true,
        ..SMALL
    },
    Configuration {
        name: "mutant-repeated-append",
        purpose: "an append comes twice",
        campaigners: 1,
        network: Network::Lossy { messages_max: 1, duplication: true },
        ..SMALL
    },
    Configuration {
        name: "mutant-pre-vote",
        purpose: "two pre-candidates of one term",
        network: TWO_MESSAGES,
        pre_vote: true,
        ..SMALL
    },
    Configuration {
        name: "mutant-pre-candidates",
        purpose: "a pre-candidate between two candidates of its term",
        campaigners: 3,
        network: TWO_MESSAGES,
        pre_vote: true,
        ..SMALL
    },
    Configuration {
        name: "mutant-pre-vote-rounds",
        purpose: "pre-votes of two terms",
        term_max: 2,
        network: TWO_MESSAGES,
        pre_vote: true,
        ..SMALL
    },
    Configuration {
        name: "mutant-check-quorum",
        purpose: "one leader that checks its quorum",
        campaigners: 1,
        check_quorum: true,
        ..SMALL
    },
    Configuration {
        name: "mutant-step-down",
        purpose: "a leader that steps down and another candidate of its term",
        network: TWO_MESSAGES,
        check_quorum: true,
        ..SMALL
    },
    Configuration {
        name: "mutant-snapshots",
        purpose: "a follower that needs what its leader has forgotten",
        campaigners: 1,
        snapshots_max: 1,
        heartbeats: true,
        ..SMALL
    },
    Configuration {
        name: "mutant-snapshots-crash",
        purpose: "the same, and a crash that loses any suffix of two writes",
        campaigners: 1,
        pending_max: 2,
        crashes_max: 1,
        snapshots_max: 1,
        heartbeats: true,
        ..SMALL
    },
    Configuration {
        name: "mutant-snapshots-leaders",
        purpose: "snapshots while leaders change",
        term_max: 2,
        log_max: 2,
        snapshots_max: 1,
        heartbeats: true,
        ..SMALL
    },
    Configuration {
        name: "mutant-reads",
        purpose: "a read while leaders change",
        term_max: 2,
        log_max: 2,
        reads_max: 1,
        ..SMALL
    },
    Configuration {
        name: "mutant-late-confirmation",
        purpose: "two reads, and confirmations that come late",
        term_max: 2,
        log_max: 2,
        reads_max: 2,
        network: TWO_MESSAGES,
        ..SMALL
    },
    Configuration {
        name: "mutant-earlier-confirmation",
        purpose: "a leader that crashes and leads again, and confirmations of its earlier term",
        term_max: 3,
        log_max: 2,
        crashes_max: 1,
        reads_max: 2,
        network: TWO_MESSAGES,
        // The mistake is about an answer of the present term, which is not dead: without the others it shows in minutes.
        drop_dead: true,
        ..SMALL
    },
    Configuration {
        name: "mutant-transfer",
        purpose: "leadership handed over while a client proposes",
        term_max: 2,
        log_max: 2,
        campaigners: 1,
        client_requests: true,
        transfers_max: 1,
        ..SMALL
    },
    Configuration {
        name: "mutant-transfer-votes",
        purpose: "leadership handed over, with pre-votes and check-quorum, beside another who wants to lead",
        term_max: 2,
        pre_vote: true,
        check_quorum: true,
        transfers_max: 1,
        ..SMALL
    },
    Configuration {
        name: "mutant-late-transfer",
        purpose: "a request to campaign that comes twice, or in a later term",
        term_max: 3,
        network: Network::Lossy { messages_max: 2, duplication: true },
        transfers_max: 1,
        ..SMALL
    },
    Configuration {
        name: "mutant-membership-joint",
        purpose: "a joint configuration of whose two majorities one has nobody of the other",
        servers: 4,
        log_max: 4,
        voters: &[1, 2, 4],
        learners: &[3],
        targets: ("MostReplaced", &[Target::of_voters(&[1, 3])]),
        campaigners: 3,
        ..CHANGES
    },
    Configuration {
        name: "mutant-membership-old",
        purpose: "a joint configuration that is left by one leader and goes on under another",
        servers: 4,
        term_max: 3,
        log_max: 4,
        voters: &[1, 2, 3],
        learners: &[4],
        targets: ("SecondReplaced", &[Target::of_voters(&[1, 3, 4])]),
        single_entry_appends: false,
        ..CHANGES
    },
    Configuration {
        name: "mutant-membership-learner",
        purpose: "three voters and a learner",
        servers: 4,
        voters: &[1, 3, 4],
        learners: &[2],
        campaigners: 3,
        changes_max: 0,
        ..CHANGES
    },
    Configuration {
        name: "mutant-membership-promoted",
        purpose: "one voter and a learner from the beginning, that gets a vote",
        servers: 2,
        voters: &[1],
        learners: &[2],
        log_max: 3,
        heartbeats: true,
        targets: ("BothVote", &[Target::of_voters(&[1, 2])]),
        ..CHANGES
    },
    Configuration {
        name: "mutant-membership-wiped-reads",
        purpose: "a voter that is removed, wiped and made one again, while a read waits",
        servers: 2,
        voters: &[1],
        term_max: 1,
        log_max: 6,
        campaigners: 1,
        heartbeats: true,
        reads_max: 1,
        targets: (
            "Readmission",
            &[
                Target { voters: &[1], learners: &[2], promoting: &[] },
                Target::of_voters(&[1]),
                Target::of_voters(&[1, 2]),
            ],
        ),
        changes_max: 5,
        wipes_max: 1,
        ..CHANGES
    },
    Configuration {
        name: "mutant-rolled-back-terms",
        purpose: "a follower whose disk is put back to what it held in an earlier term of its leader",
        servers: 2,
        term_max: 2,
        log_max: 2,
        campaigners: 1,
        step_downs: true,
        ..ROLLED_BACK
    },
    Configuration {
        name: "mutant-rolled-back-reads",
        purpose: "a follower whose disk is put back while a read waits for its confirmation",
        reads_max: 1,
        network: TWO_MESSAGES,
        ..ROLLED_BACK
    },
    Configuration {
        name: "mutant-rolled-back-conflicts",
        purpose: "a follower whose disk is put back to where it held another entry, in the same term",
        term_max: 2,
        crashes_max: 1,
        campaigners: 2,
        ..ROLLED_BACK
    },
    Configuration {
        name: "mutant-membership-shrinking",
        purpose: "three voters of which one is to be left, in two changes",
        log_max: 3,
        targets: ("Shrinking", &[Target::of_voters(&[1, 2]), Target::of_voters(&[1])]),
        changes_max: 2,
        network: Network::Lossy { messages_max: 1, duplication: false },
        ..CHANGES
    },
    Configuration {
        name: "mutant-membership-reads",
        purpose: "a read at a leader that removed itself from four, while another one leads",
        servers: 4,
        log_max: 3,
        reads_max: 1,
        targets: ("WithoutFirstOfFour", &[Target::of_voters(&[2, 3, 4])]),
        ..CHANGES
    },
    Configuration {
        name: "mutant-follower-reads",
        purpose: "a read at a learner while leaders change",
        log_max: 2,
        client_requests: true,
        ..FOLLOWER_READS
    },
    Configuration {
        name: "mutant-follower-reads-late",
        purpose: "two reads at a follower, and answers that come late",
        servers: 3,
        voters: &[],
        learners: &[],
        log_max: 2,
        reads_max: 2,
        network: TWO_MESSAGES,
        ..FOLLOWER_READS
    },
    Configuration {
        name: "mutant-follower-reads-again",
        purpose: "two reads at a follower that asks again, while its leader commits",
        servers: 2,
        voters: &[],
        learners: &[],
        term_max: 1,
        log_max: 2,
        reads_max: 2,
        campaigners: 1,
        network: TWO_MESSAGES,
        heartbeats: true,
        client_requests: true,
        ..FOLLOWER_READS
    },
    Configuration {
        name: "mutant-follower-reads-logs",
        purpose: "a read at a learner whose log is not its leader's",
        heartbeats: true,
        ..FOLLOWER_READS
    },
];
