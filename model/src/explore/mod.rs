//! The explorer: a model in the browser, step by step.
//!
//! stateright has an explorer of its own, which shows states as their debug text and explores ahead in the background.
//! Here a person is to see the spec's words, which of them a step changed, and the space-time diagram of the way there;
//! so this is a page of ours over the same model. A link names the configuration and the steps, each by a short mark
//! made from its words: it leads to the same state in every run, whatever the numbers inside.
//!
//! Lives here: what the page is told ([`Explorer`]). How it is asked: [`server`].

pub mod server;

use crate::action::Action;
use crate::cluster::{Cluster, State};
use crate::config::Configuration;
use crate::configurations::{ALL, CONFORMANCE, NIGHTLY, named};
use crate::counterexample::diagram::{self, Layout};
use crate::counterexample::{Fate, Happening, Trace, changes, happening, label, page, words};
use crate::laws::Law;
use crate::render;
use crate::server::Input;
use raft_io::Event;
use serde_json::{Value as Json, json};
use stateright::Model;
use std::collections::HashMap;
use std::hash::Hasher;
use std::sync::{Mutex, PoisonError};

/// The models that were asked for, each with what is known of it.
#[derive(Default)]
pub struct Explorer {
    clusters: Mutex<HashMap<&'static str, Cluster>>,
}

/// Something that the page asked for and does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExploreError {
    /// No configuration of that name.
    #[error("no configuration is called {0:?}; there are: {names}", names = names().join(", "))]
    UnknownConfiguration(String),
    /// A link whose steps are not possible: of another version, or damaged.
    #[error("step {0} of this link is not possible here: the link is from another version, or damaged")]
    UnknownStep(usize),
}

/// The names of all configurations.
#[must_use]
pub fn names() -> Vec<&'static str> {
    configurations().map(|configuration| configuration.name).collect()
}

fn configurations() -> impl Iterator<Item = &'static Configuration> {
    [ALL, NIGHTLY, CONFORMANCE].into_iter().flatten()
}

/// One thing that can happen next.
struct Choice {
    mark: String,
    label: String,
    /// What becomes of messages, where there is a choice.
    aside: String,
    action: Action,
    happening: Happening,
    next: State,
}

impl Explorer {
    /// What the page shows after the steps that `path` names, joined by dots.
    ///
    /// # Errors
    /// There is no such configuration, or no such step.
    pub fn state(&self, configuration: &str, path: &str) -> Result<Json, ExploreError> {
        let cluster = self.cluster(configuration)?;
        let state = cluster.init_states().into_iter().next().expect("a model has a first state");
        let mut states: Vec<(State, Option<Action>)> = vec![(state, None)];
        for (at, mark) in path.split('.').filter(|mark| !mark.is_empty()).enumerate() {
            let (state, taken) = states.last_mut().expect("it is never empty");
            let choice = choices(&cluster, state).into_iter().find(|choice| choice.mark == mark);
            let choice = choice.ok_or(ExploreError::UnknownStep(at + 1))?;
            *taken = Some(choice.action);
            states.push((choice.next, None));
        }
        let (last, _) = states.last().expect("it is never empty");
        let trace = Trace { laws: cluster.broken_laws(last), ..Trace::of_path(&cluster, &states) };
        let choices: Vec<Json> =
            choices(&cluster, last).iter().map(|choice| choice_data(&cluster, &trace, choice)).collect();
        let mut data = page::data(&trace);
        data["diagram"] = Json::String(diagram::drawing(&trace, Layout::NARROW));
        data["choices"] = Json::Array(choices);
        data["purpose"] = Json::String(cluster.configuration().purpose.to_string());
        Ok(data)
    }

    fn cluster(&self, name: &str) -> Result<Cluster, ExploreError> {
        let configuration = named(name).ok_or_else(|| ExploreError::UnknownConfiguration(name.to_string()))?;
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        let cluster = clusters.entry(configuration.name).or_insert_with(|| Cluster::new(configuration.clone()));
        Ok(cluster.clone())
    }
}

/// What can happen next, by words; the marks are the same in every run.
fn choices(cluster: &Cluster, state: &State) -> Vec<Choice> {
    let mut actions = Vec::new();
    cluster.actions(state, &mut actions);
    let choice = |action: Action| {
        let next = cluster.next_state(state, action)?;
        let happening = happening(cluster, state, action, &next);
        let (label, aside) = (label(&happening), aside(&happening));
        Some(Choice { mark: String::new(), label, aside, action, happening, next })
    };
    let mut choices: Vec<Choice> = actions.into_iter().filter_map(choice).collect();
    choices.sort_by(|one, other| (&one.label, &one.aside).cmp(&(&other.label, &other.aside)));
    let mut taken = Vec::new();
    for choice in &mut choices {
        let mut number = mark_of(&format!("{}{}", choice.label, choice.aside));
        while taken.contains(&number) {
            number = (number + 1) % MARKS;
        }
        taken.push(number);
        choice.mark = letters(number);
    }
    choices
}

/// How many marks there are: four letters out of 32.
const MARKS: u64 = 1 << 20;

fn mark_of(words: &str) -> u64 {
    let mut hasher = rustc_hash::FxHasher::default();
    hasher.write(words.as_bytes());
    hasher.finish() >> 44
}

fn letters(number: u64) -> String {
    let alphabet = b"abcdefghijklmnopqrstuvwxyz234567";
    (0..4).map(|at| char::from(alphabet[(number >> (5 * at)) as usize % 32])).collect()
}

/// What sets actions apart that have the same words: which messages stay, and which are lost.
fn aside(happening: &Happening) -> String {
    let Happening::Step { input, stays, sent, .. } = happening else { return String::new() };
    let lost = sent.iter().filter(|(_, fate)| *fate == Fate::Lost).map(|(envelope, _)| words::message(envelope));
    let mut parts: Vec<String> = lost.map(|message| format!("loses {message}")).collect();
    if *stays && matches!(input, Input::Event(Event::Receive(_))) {
        parts.push("the message stays on its way".to_string());
    }
    parts.join(", ")
}

fn choice_data(cluster: &Cluster, trace: &Trace, choice: &Choice) -> Json {
    let after = render::state(cluster, &choice.next);
    let changes = changes::changes(&trace.servers, trace.state(trace.steps.len()), &after);
    let broken: Vec<&str> = cluster.broken_laws(&choice.next).into_iter().map(Law::name).collect();
    let server = match &choice.happening {
        Happening::Step { server, .. } => words::node(*server),
        Happening::DropMessage(_) => String::new(),
    };
    json!({
        "mark": choice.mark,
        "label": choice.label,
        "aside": choice.aside,
        "server": server,
        "changes": changes,
        "broken": broken,
    })
}

/// The page for everything.
#[must_use]
pub fn page(configuration: &str) -> String {
    let options = configurations().map(|each| {
        let title = format!("{}: {}", each.bounds(), each.purpose);
        format!("<option value=\"{0}\" title=\"{1}\">{0}</option>", each.name, diagram::escape(&title))
    });
    page::fill(
        include_str!("../assets/explore.html"),
        &[
            ("style", &format!("{}\n{}", diagram::STYLE, page::STYLE)),
            ("explore-style", include_str!("../assets/explore.css")),
            ("legend", page::LEGEND),
            ("options", &options.collect::<String>()),
            ("configuration", configuration),
            ("script", &format!("{}\n{}", page::STATE_SCRIPT, include_str!("../assets/explore.js"))),
        ],
    )
}
