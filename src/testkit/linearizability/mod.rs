//! Linearizability of recorded histories (Herlihy and Wing 1990; dissertation §6.3).
//!
//! Lives here: the check itself and what it needs to know about an object. The key-value object is
//! in [`KeyValue`]. Does not live here: recording; a recorder stamps each call and return from one
//! clock and hands the stamps over.
//!
//! A history is linearizable when every operation can be given one instant between its call and its
//! return such that the object, taking the operations in the order of these instants, gives every
//! answer that was recorded. An operation whose outcome is unknown never returned: it may take
//! effect at any time after its call, or never.
//!
//! # The search
//!
//! A configuration says which operations have taken effect and what state that left. The search
//! goes depth first from the empty configuration, in the family of Wing and Gong, with what
//! keeps it near linear on real histories:
//!
//! - Operations stand in the order of their returns, so a configuration is a *frontier* (everything
//!   before it took effect) and the few operations that took effect *ahead* of it. Its size follows
//!   the concurrency, not the length of the history.
//! - A configuration is entered once (Lowe 2017); the set of visited ones holds them whole, not
//!   their hashes, so a collision cannot change a verdict.
//! - An operation that may come next and whose answer shows that it only read takes effect at once,
//!   without a choice: in any completion, moving it to the front changes no other answer.
//! - A state is not left while an answer still to come needs it and nothing can bring it back. Where
//!   values are unique, this finds a wrong guess one step later instead of at the next read.
//! - Operations of unknown outcome are tried last, only where they change the state, and of several
//!   alike the one called first.
//!
//! In the worst case, dozens of blind writes to one object at the same time, the search is still
//! exponential: it then gives up with [`Verdict::Undecided`], which is not a pass.
//!
//! Objects that do not interact are checked apart ([`check_each`]): a history is linearizable if
//! and only if its restriction to each object is (Herlihy and Wing, theorem 1).

mod key_value;

pub use key_value::{KeyValue, KeyValueInput, KeyValueOutput};

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::hash::Hash;
use std::vec::Vec;

/// What an object does, one operation at a time.
pub trait Specification {
    /// The object's state.
    type State: Clone + Eq + Hash;
    /// An operation with its arguments.
    type Input: PartialEq;
    /// An answer.
    type Output;

    /// The state before the first operation.
    fn initial(&self) -> Self::State;

    /// What `input` does to an object in `state`, provided that it then answers `output`; `None`
    /// stands for an answer that nobody saw, and is possible in every state.
    fn step(&self, state: &Self::State, input: &Self::Input, output: Option<&Self::Output>) -> Step<Self::State>;

    /// The only state in which `input` can answer `output`, when there is exactly one. Makes the
    /// search faster; `None` is always right.
    fn only_state_before(&self, input: &Self::Input, output: &Self::Output) -> Option<Self::State> {
        let _ = (input, output);
        None
    }

    /// Whether `input`, in some state, may answer `output` and leave `after`. Makes the search
    /// faster; `true` is always right.
    fn may_lead_to(&self, after: &Self::State, input: &Self::Input, output: Option<&Self::Output>) -> bool {
        let _ = (after, input, output);
        true
    }
}

/// What a step of a [`Specification`] leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<S> {
    /// The object does not give this answer in this state.
    Impossible,
    /// Possible, and the answer shows that the operation only read: wherever the object gives this
    /// answer, the state stays as it is. A write that happens to write what is there already is
    /// not this, because elsewhere it would not.
    Unchanged,
    /// Possible, and leaves this state.
    Changed(S),
}

/// One operation of a history. Stamps come from one monotonic clock of any unit; operations that
/// share a stamp count as concurrent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation<I, O> {
    /// What was asked.
    pub input: I,
    /// When it was called.
    pub called: u64,
    /// When it returned, at or after `called`, and the answer; `None` when the outcome is unknown.
    pub returned: Option<(u64, O)>,
}

impl<I, O> Operation<I, O> {
    /// An operation that returned.
    pub fn completed(input: I, called: u64, returned: u64, output: O) -> Self {
        Self { input, called, returned: Some((returned, output)) }
    }

    /// An operation whose outcome is unknown.
    pub fn unknown(input: I, called: u64) -> Self {
        Self { input, called, returned: None }
    }
}

/// An operation on an object with this specification.
pub type OperationOf<S> = Operation<<S as Specification>::Input, <S as Specification>::Output>;

/// The outcome of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The history is linearizable.
    Linearizable {
        /// Positions in the history, in an order that explains every answer. Operations of unknown
        /// outcome that need not have happened are left out.
        order: Vec<usize>,
    },
    /// No order explains the history.
    Violation {
        /// The longest explanation found of a part of the history: positions in their order.
        order: Vec<usize>,
        /// Positions of operations that would have to follow and cannot.
        stuck: Vec<usize>,
    },
    /// The search gave up: neither a proof nor a refutation.
    Undecided {
        /// How many configurations it visited.
        configurations: usize,
    },
}

impl Verdict {
    /// Whether an order was found.
    #[must_use]
    pub const fn is_linearizable(&self) -> bool {
        matches!(self, Self::Linearizable { .. })
    }
}

/// Visits at most this many configurations of one object unless told otherwise.
pub const CONFIGURATIONS_MAX: usize = 4 << 20;

/// Checks the history of one object, visiting at most [`CONFIGURATIONS_MAX`] configurations.
///
/// # Panics
/// If an operation returned before it was called, or there are more than 2^32 of them.
pub fn check<S: Specification>(specification: &S, history: &[OperationOf<S>]) -> Verdict {
    check_within(specification, history, CONFIGURATIONS_MAX)
}

/// Checks the history of one object, visiting at most `configurations_max` configurations.
///
/// # Panics
/// If an operation returned before it was called, or there are more than 2^32 of them.
pub fn check_within<S: Specification>(
    specification: &S,
    history: &[OperationOf<S>],
    configurations_max: usize,
) -> Verdict {
    let all: Vec<&OperationOf<S>> = history.iter().collect();
    Search::new(specification, &all).run(configurations_max)
}

/// The outcome of [`check_each`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary<K> {
    /// How many objects occur in the history.
    pub objects: usize,
    /// How many operations were checked.
    pub operations: usize,
    /// How many of them have an unknown outcome.
    pub unknown: usize,
    /// The objects whose part is not proven linearizable, in key order; positions are those in the
    /// whole history. Empty when the history is linearizable.
    pub failures: Vec<(K, Verdict)>,
}

impl<K> Summary<K> {
    /// Whether every object's history is proven linearizable.
    #[must_use]
    pub fn is_linearizable(&self) -> bool {
        self.failures.is_empty()
    }
}

impl<K: fmt::Debug> fmt::Display for Summary<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { objects, operations, unknown, failures } = self;
        write!(f, "{operations} operations on {objects} objects ({unknown} of unknown outcome): ")?;
        if failures.is_empty() {
            return f.write_str("linearizable");
        }
        write!(f, "{} objects not linearizable", failures.len())?;
        for (key, verdict) in failures {
            write!(f, "; {key:?}: {verdict:?}")?;
        }
        Ok(())
    }
}

/// Checks a history over many objects of one kind, each apart, with [`CONFIGURATIONS_MAX`] for each.
///
/// # Panics
/// If an operation returned before it was called, or there are more than 2^32 of them.
pub fn check_each<S, K>(specification: &S, history: &[(K, OperationOf<S>)]) -> Summary<K>
where
    S: Specification,
    K: Ord + Clone,
{
    let mut positions_by_key: BTreeMap<&K, Vec<usize>> = BTreeMap::new();
    for (position, (key, _)) in history.iter().enumerate() {
        positions_by_key.entry(key).or_default().push(position);
    }
    let mut failures = Vec::new();
    for (key, positions) in &positions_by_key {
        let part: Vec<_> = positions.iter().map(|position| &history[*position].1).collect();
        let whole = |part: Vec<usize>| part.into_iter().map(|position| positions[position]).collect();
        match Search::new(specification, &part).run(CONFIGURATIONS_MAX) {
            Verdict::Linearizable { .. } => {}
            Verdict::Violation { order, stuck } => {
                failures.push(((*key).clone(), Verdict::Violation { order: whole(order), stuck: whole(stuck) }));
            }
            undecided @ Verdict::Undecided { .. } => failures.push(((*key).clone(), undecided)),
        }
    }
    Summary {
        objects: positions_by_key.len(),
        operations: history.len(),
        unknown: history.iter().filter(|(_, operation)| operation.returned.is_none()).count(),
        failures,
    }
}

/// A set of operations that took effect, and the state that they left.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Configuration<S> {
    /// Every operation ranked before this one took effect, this one did not.
    frontier: u32,
    /// Ranks beyond the frontier that took effect, ascending.
    ahead: Vec<u32>,
    state: S,
}

impl<S> Configuration<S> {
    fn has_taken_effect(&self, rank: u32) -> bool {
        rank < self.frontier || self.ahead.binary_search(&rank).is_ok()
    }

    /// Marks an operation; the frontier moves over everything that is now done without a gap.
    fn take_effect(&mut self, rank: u32) {
        if rank != self.frontier {
            let place = self.ahead.binary_search(&rank).unwrap_or_else(|place| place);
            self.ahead.insert(place, rank);
            return;
        }
        self.frontier += 1;
        let adjacent = self.ahead.iter().enumerate().take_while(|(offset, rank)| {
            // `offset` counts the ranks already absorbed, each of which moves the frontier by one.
            **rank == self.frontier + *offset as u32
        });
        let absorbed = adjacent.count();
        self.ahead.drain(..absorbed);
        self.frontier += absorbed as u32;
    }
}

/// One level of the depth-first search.
struct Level<S> {
    configuration: Configuration<S>,
    /// Length of the order when the configuration was entered.
    order_len: usize,
    /// Ranks still to try, the next one last.
    untried: Vec<u32>,
}

/// The longest order that led nowhere, and the operations that cannot follow it.
#[derive(Default)]
struct DeadEnd {
    order: Vec<u32>,
    stuck: Vec<u32>,
}

impl DeadEnd {
    fn keep(&mut self, order: &[u32], stuck: impl FnOnce() -> Vec<u32>) {
        if order.len() > self.order.len() || self.stuck.is_empty() {
            *self = Self { order: order.to_vec(), stuck: stuck() };
        }
    }
}

struct Search<'a, S: Specification> {
    specification: &'a S,
    history: &'a [&'a OperationOf<S>],
    /// Positions in the history: completed operations by return, then unknown ones by call. An
    /// index into this is a *rank*.
    ranked: Vec<usize>,
    /// How many operations returned; ranks from here on have unknown outcomes.
    completed: u32,
    /// At each completed rank, the earliest call from that rank to the last completed one.
    earliest_call_from: Vec<u64>,
    /// For each unknown rank, counted from `completed`: the unknown rank before it that asks the same.
    twin_before: Vec<Option<u32>>,
    /// The completed ranks that can only take effect in a state, ascending.
    needing: HashMap<S::State, Vec<u32>>,
}

impl<'a, S: Specification> Search<'a, S> {
    fn new(specification: &'a S, history: &'a [&'a OperationOf<S>]) -> Self {
        assert!(u32::try_from(history.len()).is_ok(), "a history holds fewer than 2^32 operations");
        for operation in history {
            let returned = operation.returned.as_ref().map_or(u64::MAX, |(at, _)| *at);
            assert!(operation.called <= returned, "an operation returned at {returned}, before its call");
        }
        let mut ranked: Vec<usize> = (0..history.len()).collect();
        ranked.sort_by_key(|position| match &history[*position].returned {
            Some((at, _)) => (false, *at, history[*position].called),
            None => (true, history[*position].called, 0),
        });
        let completed = history.iter().filter(|operation| operation.returned.is_some()).count();
        let mut earliest_call_from: Vec<u64> =
            ranked[..completed].iter().map(|position| history[*position].called).collect();
        for rank in (1..completed).rev() {
            earliest_call_from[rank - 1] = earliest_call_from[rank - 1].min(earliest_call_from[rank]);
        }
        let unknown = &ranked[completed..];
        let twin_before = (0..unknown.len()).map(|place| {
            let input = &history[unknown[place]].input;
            let twin = unknown[..place].iter().rposition(|other| history[*other].input == *input);
            twin.map(|twin| (completed + twin) as u32)
        });
        let twin_before = twin_before.collect();
        let mut needing: HashMap<S::State, Vec<u32>> = HashMap::new();
        for (rank, position) in ranked[..completed].iter().enumerate() {
            let Operation { input, returned, .. } = history[*position];
            let output = returned.as_ref().map(|(_, output)| output);
            if let Some(state) = output.and_then(|output| specification.only_state_before(input, output)) {
                needing.entry(state).or_default().push(rank as u32);
            }
        }
        let completed = completed as u32;
        Self { specification, history, ranked, completed, earliest_call_from, twin_before, needing }
    }

    fn operation(&self, rank: u32) -> &'a OperationOf<S> {
        self.history[self.ranked[rank as usize]]
    }

    fn step(&self, state: &S::State, rank: u32) -> Step<S::State> {
        let operation = self.operation(rank);
        let output = operation.returned.as_ref().map(|(_, output)| output);
        self.specification.step(state, &operation.input, output)
    }

    /// Ranks that may take effect next: those called no later than the earliest return among the
    /// operations that are still to take effect, which is that of the frontier.
    fn candidates(&self, configuration: &Configuration<S::State>) -> impl Iterator<Item = u32> {
        self.called_by(configuration, self.returned_at(configuration.frontier))
    }

    /// Ranks still to take effect that were called by `deadline`.
    fn called_by(&self, configuration: &Configuration<S::State>, deadline: u64) -> impl Iterator<Item = u32> {
        let frontier = configuration.frontier;
        let returned = (frontier..self.completed)
            .take_while(move |rank| self.earliest_call_from[*rank as usize] <= deadline)
            .filter(move |rank| self.operation(*rank).called <= deadline);
        let unknown = (self.completed..self.ranked.len() as u32)
            .take_while(move |rank| self.operation(*rank).called <= deadline)
            .filter(move |rank| {
                let twin = self.twin_before[(*rank - self.completed) as usize];
                twin.is_none_or(|twin| configuration.has_taken_effect(twin))
            });
        returned.chain(unknown).filter(move |rank| !configuration.has_taken_effect(*rank))
    }

    /// The stamp of an operation's return; unknown ones never returned.
    fn returned_at(&self, rank: u32) -> u64 {
        self.operation(rank).returned.as_ref().map_or(u64::MAX, |(at, _)| *at)
    }

    /// An operation whose answer needs the state `left`, when nothing that can precede it may bring
    /// that state back.
    fn stranded(&self, left: &S::State, configuration: &Configuration<S::State>) -> Option<u32> {
        let needing = self.needing.get(left)?;
        let from = needing.partition_point(|rank| *rank < configuration.frontier);
        let first = *needing[from..].iter().find(|rank| !configuration.has_taken_effect(**rank))?;
        let mut rescuers = self.called_by(configuration, self.returned_at(first));
        let rescued = rescuers.any(|rank| {
            let operation = self.operation(rank);
            let output = operation.returned.as_ref().map(|(_, output)| output);
            rank != first && self.specification.may_lead_to(left, &operation.input, output)
        });
        (!rescued).then_some(first)
    }

    /// Lets everything take effect that can and only reads.
    fn absorb_reads(&self, configuration: &mut Configuration<S::State>, order: &mut Vec<u32>) {
        while configuration.frontier < self.completed {
            let reads: Vec<u32> = self
                .candidates(configuration)
                .take_while(|rank| *rank < self.completed)
                .filter(|rank| self.step(&configuration.state, *rank) == Step::Unchanged)
                .collect();
            if reads.is_empty() {
                return;
            }
            for rank in reads {
                configuration.take_effect(rank);
                order.push(rank);
            }
        }
    }

    fn level(&self, mut configuration: Configuration<S::State>, order: &mut Vec<u32>) -> Level<S::State> {
        self.absorb_reads(&mut configuration, order);
        let mut untried = Vec::new();
        if !self.is_explained(&configuration) {
            untried.extend(self.candidates(&configuration));
            untried.reverse();
        }
        Level { configuration, order_len: order.len(), untried }
    }

    /// Every operation that returned has taken effect; the others need not.
    fn is_explained(&self, configuration: &Configuration<S::State>) -> bool {
        configuration.frontier >= self.completed
    }

    fn run(&self, configurations_max: usize) -> Verdict {
        let mut visited: HashSet<Configuration<S::State>> = HashSet::new();
        let mut order: Vec<u32> = Vec::new();
        let mut longest = DeadEnd::default();
        let start = Configuration { frontier: 0, ahead: Vec::new(), state: self.specification.initial() };
        let mut levels = std::vec![self.level(start, &mut order)];
        while let Some(level) = levels.last_mut() {
            if self.is_explained(&level.configuration) {
                return Verdict::Linearizable { order: self.positions(&order) };
            }
            let Some(rank) = level.untried.pop() else {
                longest.keep(&order, || self.candidates(&level.configuration).collect());
                levels.pop();
                order.truncate(levels.last().map_or(0, |level| level.order_len));
                continue;
            };
            let Step::Changed(state) = self.step(&level.configuration.state, rank) else { continue };
            if rank >= self.completed && state == level.configuration.state {
                continue;
            }
            let Configuration { frontier, ahead, .. } = &level.configuration;
            let mut next = Configuration { frontier: *frontier, ahead: ahead.clone(), state };
            next.take_effect(rank);
            let left = &level.configuration.state;
            order.push(rank);
            if next.state != *left {
                if let Some(stranded) = self.stranded(left, &next) {
                    longest.keep(&order, || std::vec![stranded]);
                    order.pop();
                    continue;
                }
            }
            let next = self.level(next, &mut order);
            if !visited.insert(next.configuration.clone()) {
                order.truncate(levels.last().map_or(0, |level| level.order_len));
                continue;
            }
            if visited.len() > configurations_max {
                return Verdict::Undecided { configurations: visited.len() };
            }
            levels.push(next);
        }
        Verdict::Violation { order: self.positions(&longest.order), stuck: self.positions(&longest.stuck) }
    }

    fn positions(&self, ranks: &[u32]) -> Vec<usize> {
        ranks.iter().map(|rank| self.ranked[*rank as usize]).collect()
    }
}
