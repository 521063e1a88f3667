//! The search against stateright's own checker, and on several threads against one.

use raft_model::cluster::{Cluster, State};
use raft_model::configurations::named;
use raft_model::search::{Counts, Found, search};
use stateright::{Checker, HasDiscoveries, Model};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

fn cluster(name: &str) -> Cluster {
    Cluster::new(named(name).expect("a configuration").clone())
}

/// States, steps and depth of a whole search.
fn explored(name: &str, threads: usize) -> (u64, u64, u64) {
    let counts = Counts::default();
    assert_eq!(search(&cluster(name), threads, &counts, |_| false), Found::Nothing);
    let looked_at = counts.looked_at.load(Ordering::Relaxed);
    let [states, steps, depth] =
        [&counts.states, &counts.steps, &counts.depth].map(|count| count.load(Ordering::Relaxed));
    assert_eq!(states, looked_at);
    (states, steps, depth)
}

fn way(name: &str, threads: usize, is_wanted: impl Fn(&State) -> bool + Sync) -> Vec<State> {
    match search(&cluster(name), threads, &Counts::default(), is_wanted) {
        Found::Way(way) => way.into_iter().map(|(state, _)| state).collect(),
        other => panic!("{name} has no way: {other:?}"),
    }
}

#[test]
fn stateright_finds_the_same_states_steps_and_depth() {
    for name in ["four-servers", "conform-replication", "conform-monotone"] {
        let checker = cluster(name).checker().threads(1).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let reference = (checker.unique_state_count(), checker.state_count(), checker.max_depth());
        let (states, steps, depth) = explored(name, 1);
        // stateright counts the initial state as a step.
        assert_eq!((states as usize, steps as usize + 1, depth as usize), reference, "{name}");
    }
}

#[test]
fn threads_make_no_difference() {
    for name in ["four-servers", "conform-replication"] {
        let alone = explored(name, 1);
        assert_eq!(explored(name, 2), alone, "{name}");
        assert_eq!(explored(name, 5), alone, "{name}");
    }
}

#[test]
fn a_way_is_a_shortest_one_on_any_number_of_threads() {
    let is_second_leader = |state: &State| state.leaders().any(|(term, _)| term == 2);
    let alone = way("four-servers", 1, is_second_leader);
    let depth_before = |states: &[State]| states.iter().position(is_second_leader);
    assert_eq!(depth_before(&alone), Some(alone.len() - 1));
    for threads in [2, 4] {
        assert_eq!(way("four-servers", threads, is_second_leader).len(), alone.len());
    }
    // Nothing is found in fewer steps: the states of all smaller depths are known to lack it.
    let shallow =
        search(&cluster("four-servers"), 1, &Counts::default(), |state| state.leaders().any(|(term, _)| term == 1));
    assert!(matches!(shallow, Found::Way(shorter) if shorter.len() < alone.len()));
    assert_eq!(way("four-servers", 3, |_| true).len(), 1);
}

#[test]
fn a_stopped_search_says_so_and_a_panic_comes_through() {
    let counts = Counts::default();
    counts.stop.store(true, Ordering::Relaxed);
    assert_eq!(search(&cluster("four-servers"), 2, &counts, |_| false), Found::Stopped);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        search(&cluster("four-servers"), 3, &Counts::default(), |state| {
            assert!(state.leaders().next().is_none(), "a leader");
            false
        })
    }));
    assert!(panicked.is_err());
}
