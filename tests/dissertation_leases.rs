//! One test per claim of §6.4.1 of the dissertation, "Using clocks to reduce messaging for read-only queries"; each quotes the
//! claim. Where this implementation differs, the test says how and why.

#[allow(dead_code, reason = "each test uses its part")]
mod dissertation_support;

use dissertation_support::Story;

/// Three servers, of which node 1 leads term 1; nobody has confirmed it yet.
fn led() -> Story {
    Story::new("cluster 3 lease_ticks=5; minimum_election_timeout all; election_timeout 1; stabilize")
}

fn is_answered_at_once(script: &mut Story, context: u64) -> bool {
    let output = script.run(&format!("lease_read_request 1 {context}"));
    let at_once = output.contains(&format!("read {context} ready"));
    assert_eq!(at_once, !output.contains("→"), "{output}");
    at_once
}

/// "Once the leader's heartbeats were acknowledged by a majority of the cluster, the leader would assume that no other server will
/// become leader for about an election timeout, and it could extend its lease accordingly". Here the time begins with the
/// question and not with the answer.
#[test]
fn acknowledged_heartbeats_extend_the_lease() {
    let mut script = led();
    assert!(!is_answered_at_once(&mut script, 0));
    script.run("drop_message all; heartbeat_timeout 1; deliver all");
    assert!(script.run("status").lines().all(|line| line != "  has a lease"));
    script.run("deliver all");
    assert!(is_answered_at_once(&mut script, 1));
    script.run("heartbeat_timeout 1; stabilize; lease_timeout 1 2");
    assert!(is_answered_at_once(&mut script, 2));
    script.run("lease_timeout 1 3");
    assert!(!is_answered_at_once(&mut script, 3));
}

/// "The leader would then reply to read-only queries during that period without any communication."
#[test]
fn a_lease_read_needs_no_communication() {
    let mut script = led();
    script.run("heartbeat_timeout 1; stabilize; partition 1 | 2 3");
    assert!((0..9).all(|context| is_answered_at_once(&mut script, context)));
}

/// "The leadership transfer mechanism presented in Chapter 3 allows the leader to be replaced early; a leader would need to expire
/// its lease before transferring leadership." It stays without one when the transfer fails: the request may still arrive.
#[test]
fn a_leader_gives_its_lease_up_before_it_hands_over() {
    let mut script = led();
    script.run("heartbeat_timeout 1; stabilize; transfer_leadership 1 2");
    assert!(!is_answered_at_once(&mut script, 0));
    script.run("transfer_timeout 1; heartbeat_timeout 1; deliver 1 3; deliver 3 1");
    assert!(!script.run("status").contains("has a lease"));
}

/// "If the assumptions are violated, the system could return arbitrarily stale information."
#[test]
fn beyond_the_bound_reads_may_be_stale() {
    let mut script = led();
    script
        .run("heartbeat_timeout 1; stabilize; partition 1 | 2 3; tick 3 10; tick 2 10; election_timeout 2; stabilize");
    let committed = script.run("client_request 2 x; stabilize");
    assert!(committed.contains("2 Persisted") || committed.contains("commit 3"), "{committed}");
    assert!(is_answered_at_once(&mut script, 0), "by a leader that knows nothing of it");
}
