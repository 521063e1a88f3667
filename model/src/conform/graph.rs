//! A graph of states and transitions, of either side, and what one has beyond the other.

use super::{Difference, Side};
use crate::value::Value;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

/// The position of a state in its graph.
pub type StateId = u32;

/// The variables of a state.
pub(super) type Variables = BTreeMap<String, Value>;

/// For each state the shortest way to it: its length, and the state and action before.
type Ways = HashMap<StateId, (u32, Option<(StateId, u8)>)>;

/// A state's content in 128 bits: equal for equal variables, and for no others but by an accident that will not happen.
type Digest = u128;

fn digest(variables: &Variables) -> Digest {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, variables).hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(1) << 64 | half(2)
}

/// States and the transitions between them.
#[derive(Default)]
pub struct Graph {
    digests: Vec<Digest>,
    ids: HashMap<Digest, StateId>,
    /// (from, action, to), with `from != to`.
    transitions: HashSet<(StateId, u8, StateId)>,
    actions: Vec<String>,
    initial: Vec<StateId>,
    /// States that stand for several ones, of which not all go on alike.
    ambiguous: Vec<StateId>,
    /// Gives a state's variables again.
    render: Option<Box<dyn Fn(StateId) -> Variables>>,
}

impl Graph {
    /// Adds a state, or finds it.
    pub(super) fn add_state(&mut self, variables: &Variables) -> StateId {
        let digest = digest(variables);
        let next = StateId::try_from(self.digests.len()).expect("fewer than 2^32 states");
        let id = *self.ids.entry(digest).or_insert(next);
        if id == next {
            self.digests.push(digest);
        }
        id
    }

    /// Notes that a state is an initial one.
    pub(super) fn add_initial(&mut self, state: StateId) {
        self.initial.push(state);
    }

    /// Adds a transition. One that leads nowhere is not counted: whether an action that changes nothing is enabled makes
    /// no difference.
    pub(super) fn add_transition(&mut self, from: StateId, action: &str, to: StateId) {
        if from == to {
            return;
        }
        let position = self.actions.iter().position(|each| each == action).unwrap_or_else(|| {
            self.actions.push(action.to_string());
            self.actions.len() - 1
        });
        self.transitions.insert((from, u8::try_from(position).expect("few actions"), to));
    }

    /// Notes that a state stands for several ones, of which not all go on alike.
    pub(super) fn add_ambiguous(&mut self, state: StateId) {
        self.ambiguous.push(state);
    }

    /// Says how a state's variables are had again.
    pub(super) fn set_render(&mut self, render: Box<dyn Fn(StateId) -> Variables>) {
        self.render = Some(render);
    }

    /// How many distinct states there are.
    #[must_use]
    pub fn states(&self) -> usize {
        self.digests.len()
    }

    /// How many distinct transitions there are.
    #[must_use]
    pub fn transitions(&self) -> usize {
        self.transitions.len()
    }

    fn variables(&self, state: StateId) -> Variables {
        self.render.as_ref().map_or_else(Variables::new, |render| render(state))
    }

    fn shortest_ways(&self) -> Ways {
        let mut following: HashMap<StateId, Vec<(u8, StateId)>> = HashMap::new();
        for &(from, action, to) in &self.transitions {
            following.entry(from).or_default().push((action, to));
        }
        let mut ways: Ways = self.initial.iter().map(|&state| (state, (0, None))).collect();
        let mut queue: VecDeque<StateId> = self.initial.iter().copied().collect();
        while let Some(state) = queue.pop_front() {
            let length = ways[&state].0;
            for &(action, to) in following.get(&state).into_iter().flatten() {
                ways.entry(to).or_insert_with(|| {
                    queue.push_back(to);
                    (length + 1, Some((state, action)))
                });
            }
        }
        ways
    }
}

/// What one side has and the other has not: at most `most` of them, shortest way first, and how many there are.
pub(super) fn differences(spec: &Graph, code: &Graph, most: usize) -> (Vec<Difference>, usize) {
    let mut found = Vec::new();
    let mut count = 0;
    for (side, own, other) in [(Side::Spec, spec, code), (Side::Code, code, spec)] {
        let beyond = beyond(own, other);
        count += beyond.len();
        if beyond.is_empty() {
            continue;
        }
        let ways = own.shortest_ways();
        let length = |state: &StateId| ways.get(state).map_or(u32::MAX, |way| way.0);
        let mut beyond: Vec<_> = beyond.into_iter().map(|item| (length(&item.from()), item)).collect();
        beyond.sort_by_key(|(length, item)| (*length, item.from()));
        for (_, item) in beyond.into_iter().take(most) {
            found.push(describe(side, own, other, &ways, item));
        }
    }
    (found, count)
}

/// Something that only one side has.
#[derive(Clone, Copy)]
enum Beyond {
    /// An initial state.
    Initial(StateId),
    /// A transition from a state that both have. What it leads to may be unknown to the other side.
    Transition(StateId, u8, StateId),
    /// A state that is several ones, which differ in what they do next.
    Ambiguous(StateId),
}

impl Beyond {
    fn from(self) -> StateId {
        match self {
            Self::Initial(state) | Self::Transition(state, ..) | Self::Ambiguous(state) => state,
        }
    }
}

/// What `own` has beyond `other`. Transitions between states that `other` does not have follow from the one that first
/// left the common ground, so they are not told again.
fn beyond(own: &Graph, other: &Graph) -> Vec<Beyond> {
    let theirs: Vec<Option<StateId>> = own.digests.iter().map(|digest| other.ids.get(digest).copied()).collect();
    let their_actions: Vec<Option<u8>> = own
        .actions
        .iter()
        .map(|name| other.actions.iter().position(|each| each == name).map(|position| position as u8))
        .collect();
    let initial =
        own.initial.iter().filter(|&&state| theirs[state as usize].is_none_or(|their| !other.initial.contains(&their)));
    let mut found: Vec<Beyond> = initial.map(|&state| Beyond::Initial(state)).collect();
    found.extend(own.ambiguous.iter().map(|&state| Beyond::Ambiguous(state)));
    for &(from, action, to) in &own.transitions {
        let Some(their_from) = theirs[from as usize] else { continue };
        let same = match (their_actions[usize::from(action)], theirs[to as usize]) {
            (Some(action), Some(to)) => other.transitions.contains(&(their_from, action, to)),
            _ => false,
        };
        if !same {
            found.push(Beyond::Transition(from, action, to));
        }
    }
    found
}

fn describe(side: Side, own: &Graph, other: &Graph, ways: &Ways, item: Beyond) -> Difference {
    let mut path = Vec::new();
    let mut at = item.from();
    while let Some((_, Some((before, action)))) = ways.get(&at) {
        path.push(own.actions[usize::from(*action)].clone());
        at = *before;
    }
    path.reverse();
    let line = |(name, value): (&String, &Value)| format!("{name} = {value}");
    let text = match item {
        Beyond::Initial(state) => own.variables(state).iter().map(line).collect(),
        Beyond::Ambiguous(state) => {
            let mut text = vec!["several states that are one in the spec's words and go on differently:".to_string()];
            text.extend(own.variables(state).iter().map(line).map(|line| format!("  {line}")));
            text
        }
        Beyond::Transition(from, action, to) => {
            let name = &own.actions[usize::from(action)];
            path.push(name.clone());
            let (before, after) = (own.variables(from), own.variables(to));
            let mut text = vec!["in the state in which".to_string()];
            text.extend(before.iter().map(line).map(|line| format!("  {line}")));
            text.push(format!("{name} leads to"));
            text.extend(
                after
                    .iter()
                    .filter(|(name, value)| before.get(*name) != Some(value))
                    .map(line)
                    .map(|line| format!("  {line}")),
            );
            text.extend(alternatives(own, other, from, name));
            text
        }
    };
    Difference { side, path, text }
}

/// Where the same action leads from the same state on the other side.
fn alternatives(own: &Graph, other: &Graph, from: StateId, action: &str) -> Vec<String> {
    let Some(&their_from) = other.ids.get(&own.digests[from as usize]) else { return Vec::new() };
    let Some(position) = other.actions.iter().position(|each| each == action) else {
        return vec![format!("the other side never takes {action}")];
    };
    let mut text = vec![format!("on the other side {action} leads from there to")];
    let before = other.variables(their_from);
    let mut targets: Vec<StateId> = other
        .transitions
        .iter()
        .filter(|(from, action, _)| (*from, usize::from(*action)) == (their_from, position))
        .map(|(_, _, to)| *to)
        .collect();
    targets.sort_unstable();
    if targets.is_empty() {
        text.push("  nothing".to_string());
    }
    for to in targets.into_iter().take(4) {
        let after = other.variables(to);
        let changed = after.iter().filter(|(name, value)| before.get(*name) != Some(value));
        let changed: Vec<String> = changed.map(|(name, value)| format!("{name} = {value}")).collect();
        text.push(format!("  {}", changed.join("; ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(number: i64) -> Variables {
        Variables::from([("x".to_string(), Value::Int(number))])
    }

    /// The states 0 to `states - 1`, and these transitions.
    fn graph(transitions: &[(i64, &str, i64)]) -> Graph {
        let mut graph = Graph::default();
        let initial = graph.add_state(&state(0));
        graph.add_initial(initial);
        for &(from, action, to) in transitions {
            let (from, to) = (graph.add_state(&state(from)), graph.add_state(&state(to)));
            graph.add_transition(from, action, to);
        }
        graph
    }

    #[test]
    fn equal_graphs_do_not_differ_however_they_were_made() {
        let one = graph(&[(0, "A", 1), (1, "B", 2), (2, "B", 2)]);
        let other = graph(&[(1, "B", 2), (0, "A", 1)]);
        assert_eq!(differences(&one, &other, 9).1, 0);
    }

    #[test]
    fn a_transition_too_many_shows_with_the_way_to_it_on_the_side_that_has_it() {
        let spec = graph(&[(0, "A", 1), (1, "B", 2), (0, "C", 2), (2, "A", 0)]);
        let code = graph(&[(0, "A", 1), (1, "B", 2), (0, "C", 2)]);
        let (found, count) = differences(&spec, &code, 9);
        assert_eq!((count, found[0].side, found[0].path.join(" ")), (1, Side::Spec, "C A".to_string()));
        assert_eq!(differences(&code, &spec, 9).0[0].side, Side::Code);
    }

    #[test]
    fn another_name_or_an_unknown_state_is_a_difference_and_what_follows_is_not_told_again() {
        let spec = graph(&[(0, "A", 1), (1, "B", 2)]);
        assert_eq!(differences(&spec, &graph(&[(0, "A", 1), (1, "C", 2)]), 9).1, 2);
        assert_eq!(differences(&spec, &graph(&[(0, "A", 1)]), 9).1, 1);
        assert_eq!(
            differences(&graph(&[(0, "A", 1), (1, "B", 5), (5, "B", 6), (6, "B", 7)]), &graph(&[(0, "A", 1)]), 9).1,
            1
        );
    }
}
