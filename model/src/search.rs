//! Breadth-first search through a cluster's states, level by level, on several threads.
//!
//! All states of one depth are looked at before any of the next, whatever the number of threads: the depth is exact, and
//! the way to what is found is a shortest one. stateright's own checker is the reference (`tests/search.rs` compares the
//! two); it keeps the whole way with every state that it generates, and is breadth-first on one thread alone
//! (docs/adr/0008-a-search-of-our-own.md).

use crate::action::Action;
use crate::cluster::{Cluster, State};
use rustc_hash::FxHashMap;
use stateright::Model;
use std::any::Any;
use std::collections::hash_map::Entry;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex, MutexGuard, PoisonError, RwLock};

/// How a search stands; others may read it while it goes on.
#[derive(Debug, Default)]
pub struct Counts {
    /// Distinct states found.
    pub states: AtomicU64,
    /// Steps taken, to new states or known ones.
    pub steps: AtomicU64,
    /// States looked at.
    pub looked_at: AtomicU64,
    /// How many states the longest way has.
    pub depth: AtomicU64,
    /// Ends the search: others may set it.
    pub stop: AtomicBool,
}

/// How a search ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Every state was looked at, and nothing was found.
    Nothing,
    /// A shortest way to a state that was looked for: its states, each with the action that follows.
    Way(Vec<(State, Option<Action>)>),
    /// It was stopped.
    Stopped,
}

/// How many states a thread takes at a time.
const CHUNK: usize = 128;
/// How many tables the known states are in, by the highest bits of their fingerprints, so that threads rarely meet.
const SHARDS: usize = 16;

/// Looks for a state of which `is_wanted` says yes.
pub fn search(cluster: &Cluster, threads: usize, counts: &Counts, is_wanted: impl Fn(&State) -> bool + Sync) -> Found {
    let search = Search::new(cluster, counts, threads.max(1));
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|| search.work(&is_wanted));
        }
        search.work(&is_wanted);
    });
    if let Some(payload) = lock(&search.panicked).take() {
        resume_unwind(payload);
    }
    let wanted = lock(&search.wanted).take();
    match wanted {
        Some((_, fingerprint)) => Found::Way(search.way_to(fingerprint)),
        None if counts.stop.load(Ordering::Relaxed) => Found::Stopped,
        None => Found::Nothing,
    }
}

struct Search<'a> {
    cluster: &'a Cluster,
    counts: &'a Counts,
    known: Known,
    level: RwLock<Vec<State>>,
    /// Up to where the level's states are taken.
    taken: AtomicUsize,
    next_level: Mutex<Vec<State>>,
    barrier: Barrier,
    /// The first state of the level that was looked for: its position, and its fingerprint.
    wanted: Mutex<Option<(usize, u64)>>,
    panicked: Mutex<Option<Box<dyn Any + Send>>>,
}

/// The fingerprints of all states found, each with that of the state before it.
struct Known(Vec<Mutex<FxHashMap<u64, u64>>>);

impl Known {
    fn new() -> Self {
        Self((0..SHARDS).map(|_| Mutex::default()).collect())
    }

    fn shard(&self, fingerprint: u64) -> MutexGuard<'_, FxHashMap<u64, u64>> {
        lock(&self.0[shard_of(fingerprint)])
    }

    /// Adds what is not known; the others go from `found`. Goes shard by shard: a look into a table is a cache miss, and the
    /// processor waits for many at once where no lock stands between them.
    fn add_new(&self, found: &mut Vec<Successor>, by_shard: &mut [Vec<u32>; SHARDS]) {
        for (at, (next, _)) in found.iter().enumerate() {
            by_shard[shard_of(next.fingerprint())].push(at as u32);
        }
        for (shard, positions) in by_shard.iter_mut().enumerate().filter(|(_, positions)| !positions.is_empty()) {
            let mut known = lock(&self.0[shard]);
            for at in positions.drain(..) {
                let (next, before) = &mut found[at as usize];
                match known.entry(next.fingerprint()) {
                    Entry::Vacant(entry) => _ = entry.insert(*before),
                    Entry::Occupied(_) => *before = KNOWN,
                }
            }
        }
        found.retain(|(_, before)| *before != KNOWN);
    }
}

/// A state, and the fingerprint of the one before it.
type Successor = (State, u64);

/// No state has this fingerprint: stands in a successor that was known.
const KNOWN: u64 = 0;

fn shard_of(fingerprint: u64) -> usize {
    (fingerprint >> 58) as usize % SHARDS
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one thread has of a level, and room for its work.
#[derive(Default)]
struct Share {
    next: Vec<State>,
    actions: Vec<Action>,
    successors: Vec<Successor>,
    by_shard: [Vec<u32>; SHARDS],
}

impl<'a> Search<'a> {
    fn new(cluster: &'a Cluster, counts: &'a Counts, threads: usize) -> Self {
        let known = Known::new();
        let mut level = cluster.init_states();
        // An initial state has itself before it.
        level.retain(|state| {
            known.shard(state.fingerprint()).insert(state.fingerprint(), state.fingerprint()).is_none()
        });
        counts.states.store(level.len() as u64, Ordering::Relaxed);
        counts.depth.store(u64::from(!level.is_empty()), Ordering::Relaxed);
        Self {
            cluster,
            counts,
            known,
            level: RwLock::new(level),
            taken: AtomicUsize::new(0),
            next_level: Mutex::default(),
            barrier: Barrier::new(threads),
            wanted: Mutex::default(),
            panicked: Mutex::default(),
        }
    }

    /// One thread, from the first level to the last.
    fn work(&self, is_wanted: &impl Fn(&State) -> bool) {
        let mut share = Share::default();
        loop {
            {
                let level = self.level.read().unwrap_or_else(PoisonError::into_inner);
                if level.is_empty() {
                    return;
                }
                // A thread that panics must still come to the barrier, where the others wait.
                if let Err(payload) = catch_unwind(AssertUnwindSafe(|| self.work_on(&level, &mut share, is_wanted))) {
                    *lock(&self.panicked) = Some(payload);
                    self.counts.stop.store(true, Ordering::Relaxed);
                }
            }
            self.hand_over(&mut share.next);
            if self.barrier.wait().is_leader() {
                self.descend();
            }
            self.barrier.wait();
        }
    }

    /// Looks at states of the level until all are taken.
    fn work_on(&self, level: &[State], share: &mut Share, is_wanted: &impl Fn(&State) -> bool) {
        while !self.counts.stop.load(Ordering::Relaxed) {
            let start = self.taken.fetch_add(CHUNK, Ordering::Relaxed);
            if start >= level.len() {
                return;
            }
            let chunk = &level[start..level.len().min(start + CHUNK)];
            for (at, state) in chunk.iter().enumerate() {
                if is_wanted(state) {
                    self.note_wanted(start + at, state.fingerprint());
                }
                self.cluster.actions(state, &mut share.actions);
                let nexts = share.actions.drain(..).filter_map(|action| self.cluster.next_state(state, action));
                share.successors.extend(nexts.map(|next| (next, state.fingerprint())));
            }
            self.counts.looked_at.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            self.counts.steps.fetch_add(share.successors.len() as u64, Ordering::Relaxed);
            self.known.add_new(&mut share.successors, &mut share.by_shard);
            self.counts.states.fetch_add(share.successors.len() as u64, Ordering::Relaxed);
            share.next.extend(share.successors.drain(..).map(|(next, _)| next));
        }
    }

    fn note_wanted(&self, position: usize, fingerprint: u64) {
        let mut wanted = lock(&self.wanted);
        if wanted.is_none_or(|(first, _)| position < first) {
            *wanted = Some((position, fingerprint));
        }
    }

    fn hand_over(&self, next: &mut Vec<State>) {
        let mut all = lock(&self.next_level);
        if all.is_empty() {
            std::mem::swap(&mut *all, next);
        } else {
            all.append(next);
        }
    }

    /// The next level becomes this one; none, if something was found.
    fn descend(&self) {
        let mut level = self.level.write().unwrap_or_else(PoisonError::into_inner);
        level.clear();
        std::mem::swap(&mut *level, &mut *lock(&self.next_level));
        if lock(&self.wanted).is_some() || self.counts.stop.load(Ordering::Relaxed) {
            level.clear();
        }
        self.taken.store(0, Ordering::Relaxed);
        self.counts.depth.fetch_add(u64::from(!level.is_empty()), Ordering::Relaxed);
    }

    /// A way to a state: the fingerprints lead back to the beginning, and from there it is walked again.
    fn way_to(&self, fingerprint: u64) -> Vec<(State, Option<Action>)> {
        let mut fingerprints = vec![fingerprint];
        loop {
            let last = fingerprints[fingerprints.len() - 1];
            let before = self.known.shard(last)[&last];
            if before == last {
                break;
            }
            fingerprints.push(before);
        }
        let first = fingerprints.pop();
        let initial = self.cluster.init_states().into_iter().find(|state| Some(state.fingerprint()) == first);
        let mut state = initial.expect("the way begins in an initial state");
        let mut way = Vec::new();
        while let Some(fingerprint) = fingerprints.pop() {
            let (action, next) = self.step_to(&state, fingerprint);
            way.push((std::mem::replace(&mut state, next), Some(action)));
        }
        way.push((state, None));
        way
    }

    /// The step from a state to one of this fingerprint: with symmetry perhaps not the one that was found, but one that
    /// differs in the servers' names alone.
    fn step_to(&self, state: &State, fingerprint: u64) -> (Action, State) {
        let mut actions = Vec::new();
        self.cluster.actions(state, &mut actions);
        let steps = actions.into_iter().filter_map(|action| Some((action, self.cluster.next_state(state, action)?)));
        let mut steps = steps.filter(|(_, next)| next.fingerprint() == fingerprint);
        steps.next().expect("a state that leads to another leads there again")
    }
}
