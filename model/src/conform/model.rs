//! The code's side: every state and transition of the model.

use super::graph::{Graph, StateId};
use crate::action::{Action, name_position, names};
use crate::cluster::{Cluster, State};
use crate::config::Configuration;
use crate::render;
use stateright::Model;
use std::collections::{HashMap, VecDeque};

/// Explores a configuration one state after the other. stateright's checkers keep no transitions, so the walk is our own;
/// what is walked is the same model.
pub(super) fn explore(configuration: &Configuration, mut watch: impl FnMut(usize)) -> Graph {
    let mut walk = Walk::new(Cluster::new(configuration.clone()));
    for state in walk.cluster.init_states() {
        let id = walk.add(state);
        walk.graph.add_initial(id);
    }
    let names: Vec<&str> = names().collect();
    let mut actions = Vec::new();
    let mut count = 0;
    while let Some((state, from)) = walk.queue.pop_front() {
        walk.cluster.actions(&state, &mut actions);
        for action in actions.drain(..) {
            let Some(next) = walk.cluster.next_state(&state, action) else { continue };
            let to = walk.add(next);
            walk.graph.add_transition(from, names[usize::from(position(&walk.cluster, action))], to);
        }
        count += 1;
        if count % 256 == 0 {
            watch(walk.graph.states());
        }
    }
    let Walk { cluster, mut graph, representatives, .. } = walk;
    graph.set_render(Box::new(move |id| render::state(&cluster, &representatives[id as usize])));
    graph
}

/// The position of an action's name among all names.
fn position(cluster: &Cluster, action: Action) -> u8 {
    match action {
        Action::Step { code, .. } => name_position(cluster.tables().input(code).name()),
        Action::DropMessage(_) => name_position("DropMessage"),
    }
}

struct Walk {
    cluster: Cluster,
    graph: Graph,
    known: HashMap<State, StateId>,
    /// Several states of the model may be one in the spec's words (sizes in bytes, for instance, are not in them); the
    /// first found stands for all when it is shown.
    representatives: Vec<State>,
    queue: VecDeque<(State, StateId)>,
}

impl Walk {
    fn new(cluster: Cluster) -> Self {
        let graph = Graph::default();
        Self { cluster, graph, known: HashMap::new(), representatives: Vec::new(), queue: VecDeque::new() }
    }

    fn add(&mut self, state: State) -> StateId {
        if let Some(&id) = self.known.get(&state) {
            return id;
        }
        let id = self.graph.add_state(&render::state(&self.cluster, &state));
        if id as usize == self.representatives.len() {
            self.representatives.push(state.clone());
        }
        self.known.insert(state.clone(), id);
        self.queue.push_back((state, id));
        id
    }
}
