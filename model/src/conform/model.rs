//! The code's side: every state and transition of the model.

use super::graph::{Graph, StateId, Variables};
use crate::action::{Action, name_position, names};
use crate::check;
use crate::cluster::{Cluster, State};
use crate::config::Configuration;
use crate::render;
use stateright::Model;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

/// Explores a configuration one state after the other. stateright's checkers keep no transitions, so the walk is our own;
/// what is walked is the same model.
///
/// Returns the names of the goals and actions that should have been reached and were not as well.
pub(super) fn explore(configuration: &Configuration, mut watch: impl FnMut(usize)) -> (Graph, Vec<String>) {
    let mut walk = Walk::new(Cluster::new(configuration.clone()), render::state);
    walk.finish(&mut watch);
    let missing = check::never_reached(&walk.cluster);
    let Walk { cluster, mut graph, representatives, .. } = walk;
    graph.set_render(Box::new(move |id| render::state(&cluster, &representatives[id as usize])));
    (graph, missing)
}

/// The position of an action's name among all names.
fn position(cluster: &Cluster, state: &State, action: Action) -> u8 {
    match action {
        Action::Step { server, code, .. } => {
            let server = state.servers()[usize::from(server)];
            name_position(cluster.tables().input(cluster.configuration(), server, code).name())
        }
        Action::DropMessage(_) => name_position("DropMessage"),
    }
}

/// A state in the spec's words.
type Render = fn(&Cluster, &State) -> Variables;

struct Walk {
    cluster: Cluster,
    render: Render,
    graph: Graph,
    known: HashMap<State, StateId>,
    /// Several states of the model may be one in the spec's words (sizes in bytes, for instance, are not in them); the
    /// first found stands for all when it is shown.
    representatives: Vec<State>,
    /// Where the first found of those that are one went on to: all others have to go there too, and nowhere else. Without
    /// that, two states that each do half of what the spec permits would pass for one that does it all.
    went: HashMap<StateId, Vec<(u8, StateId)>>,
    queue: VecDeque<(State, StateId)>,
}

impl Walk {
    fn new(cluster: Cluster, render: Render) -> Self {
        Self {
            cluster,
            render,
            graph: Graph::default(),
            known: HashMap::new(),
            representatives: Vec::new(),
            went: HashMap::new(),
            queue: VecDeque::new(),
        }
    }

    /// Walks everywhere.
    fn finish(&mut self, mut watch: impl FnMut(usize)) {
        for state in self.cluster.init_states() {
            let id = self.add(state);
            self.graph.add_initial(id);
        }
        let names: Vec<&str> = names().collect();
        let mut actions = Vec::new();
        let mut count = 0;
        while let Some((state, from)) = self.queue.pop_front() {
            self.cluster.actions(&state, &mut actions);
            let mut went: Vec<(u8, StateId)> = Vec::new();
            for action in actions.drain(..) {
                let Some(next) = self.cluster.next_state(&state, action) else { continue };
                let to = self.add(next);
                let name = position(&self.cluster, &state, action);
                self.graph.add_transition(from, names[usize::from(name)], to);
                if to != from {
                    went.push((name, to));
                }
            }
            self.compare_with_those_alike(from, went);
            count += 1;
            if count % 256 == 0 {
                watch(self.graph.states());
            }
        }
    }

    fn compare_with_those_alike(&mut self, from: StateId, mut went: Vec<(u8, StateId)>) {
        went.sort_unstable();
        went.dedup();
        match self.went.entry(from) {
            Entry::Vacant(entry) => _ = entry.insert(went),
            Entry::Occupied(entry) if *entry.get() != went => self.graph.add_ambiguous(from),
            Entry::Occupied(_) => {}
        }
    }

    fn add(&mut self, state: State) -> StateId {
        if let Some(&id) = self.known.get(&state) {
            return id;
        }
        let id = self.graph.add_state(&(self.render)(&self.cluster, &state));
        if id as usize == self.representatives.len() {
            self.representatives.push(state.clone());
        }
        self.known.insert(state.clone(), id);
        self.queue.push_back((state, id));
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conform::graph::differences;

    fn walked(render: Render) -> Graph {
        let configuration = crate::configurations::named("conform-monotone").expect("a configuration");
        let mut walk = Walk::new(Cluster::new(configuration.clone()), render);
        walk.finish(|_| {});
        walk.graph
    }

    #[test]
    fn states_that_are_one_in_words_must_go_on_alike() {
        let graph = walked(render::state);
        assert_eq!(differences(&graph, &graph, 1).1, 0);
        let too_few_words = walked(|cluster, state| {
            let mut variables = render::state(cluster, state);
            variables.remove("pending").expect("a variable of the spec");
            variables
        });
        let (found, count) = differences(&too_few_words, &too_few_words, 1);
        assert!(count > 0 && found[0].text[0].contains("go on differently"), "{count}: {found:?}");
    }
}
