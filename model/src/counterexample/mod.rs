//! A way through the model, told to a person: as text, as a picture in a page, and as a script that replays it.
//!
//! Lives here: [`Trace`], what all of these are made of, and what makes them for a broken law. A trace
//! holds nothing but words and messages, so that it outlives the tables of the run it came from.

pub mod changes;
pub mod diagram;
pub mod page;
pub mod script;
pub mod text;
pub mod words;

use crate::action::Action;
use crate::check::Violation;
use crate::cluster::{Cluster, State};
use crate::config::Configuration;
use crate::laws::Law;
use crate::render;
use crate::server::Input;
use changes::Variables;
use raft_io::{Envelope, Event, NodeId};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// What became of a message that left a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is on its way.
    OnItsWay,
    /// It found no room among the messages on their way.
    Lost,
    /// Its receiver can have no use for it: the rule of dead messages.
    Dead,
}

/// What happened in one step.
#[derive(Clone, Debug)]
pub enum Happening {
    /// A server took an input.
    Step {
        /// The server.
        server: NodeId,
        /// What it took.
        input: Input,
        /// Whether the message that it handled is still on its way.
        stays: bool,
        /// The messages that left, in order.
        sent: Vec<(Envelope, Fate)>,
    },
    /// A message was lost.
    DropMessage(Envelope),
}

/// One step of a trace.
#[derive(Clone, Debug)]
pub struct Step {
    /// What happened, in words: `HandleRequestVoteRequest(s1 -> s2, term 2)`.
    pub label: String,
    /// What happened.
    pub happening: Happening,
    /// The state afterwards.
    pub after: Variables,
    /// What the step changed, one change each.
    pub changes: Vec<String>,
}

/// A way through the model.
#[derive(Clone, Debug)]
pub struct Trace {
    /// Within which bounds.
    pub configuration: Configuration,
    /// The servers' names.
    pub servers: Vec<String>,
    /// The state in which it begins.
    pub start: Variables,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// The laws that the last step, or the state after it, breaks.
    pub laws: Vec<Law>,
    /// What the server said that stopped itself, if one did.
    pub message: Option<String>,
}

impl Trace {
    /// The trace of a broken law.
    #[must_use]
    pub fn of_violation(cluster: &Cluster, violation: &Violation) -> Self {
        let message = violation.message.clone();
        Self { laws: violation.laws.clone(), message, ..Self::of_path(cluster, &violation.path) }
    }

    /// The trace of a path: its states, each with the action that follows.
    #[must_use]
    pub fn of_path(cluster: &Cluster, path: &[(State, Option<Action>)]) -> Self {
        let configuration = cluster.configuration().clone();
        let servers: Vec<String> = configuration.ids().map(words::node).collect();
        let mut states = path.iter().map(|(state, _)| render::state(cluster, state));
        let start = states.next().unwrap_or_default();
        let mut steps: Vec<Step> = Vec::new();
        let pairs = path.iter().zip(path.iter().skip(1));
        for (((state, action), (next, _)), after) in pairs.zip(states) {
            let Some(action) = action else { break };
            let before = steps.last().map_or(&start, |step| &step.after);
            let changes = changes::changes(&servers, before, &after);
            let happening = happening(cluster, state, *action, next);
            steps.push(Step { label: label(&happening), happening, after, changes });
        }
        Self { configuration, servers, start, steps, laws: Vec::new(), message: None }
    }

    /// The state after so many steps.
    #[must_use]
    pub fn state(&self, steps: usize) -> &Variables {
        if steps == 0 { &self.start } else { &self.steps[steps - 1].after }
    }

    /// The laws that are broken, and after how many steps.
    #[must_use]
    pub fn verdict(&self) -> String {
        let names: Vec<&str> = self.laws.iter().map(|law| law.name()).collect();
        format!("{} broken after {} steps", names.join(", "), self.steps.len())
    }
}

/// What an action does in a state, and what becomes of the messages that it sends.
#[must_use]
pub fn happening(cluster: &Cluster, state: &State, action: Action, next: &State) -> Happening {
    let (server, code, keep, lost) = match action {
        Action::Step { server, code, keep, lost, .. } => (server, code, keep, lost),
        Action::DropMessage(id) => return Happening::DropMessage((*cluster.tables().message(id)).clone()),
    };
    let tables = cluster.tables();
    let id = state.servers()[usize::from(server)];
    let (before, input) = (tables.server(id), tables.input(cluster.configuration(), id, code));
    let on_their_way: Vec<_> = next.messages().iter().map(|&id| tables.message(id)).collect();
    let fate = |envelope: &Envelope| match () {
        () if on_their_way.iter().any(|each| **each == *envelope) => Fate::OnItsWay,
        () if lost != 0 => Fate::Lost,
        () => Fate::Dead,
    };
    // A server that stops itself sends nothing.
    let stepped = before.step(cluster.configuration(), &input);
    let sent = stepped.map_or_else(|_| Vec::new(), |stepped| stepped.sent);
    let sent = sent.into_iter().map(|envelope| (envelope.clone(), fate(&envelope))).collect();
    let stays = keep && matches!(input, Input::Event(Event::Receive(_)));
    Happening::Step { server: before.protocol.id(), input, stays, sent }
}

/// What happened, in the spec's words.
#[must_use]
pub fn label(happening: &Happening) -> String {
    match happening {
        Happening::Step { server, input, .. } => words::input(*server, input),
        Happening::DropMessage(envelope) => format!("DropMessage({})", words::message(envelope)),
    }
}

/// What was written about a broken law.
#[derive(Clone, Debug)]
pub struct Files {
    /// The page.
    pub page: PathBuf,
    /// The picture in it, alone.
    pub picture: PathBuf,
    /// The scenario script.
    pub script: PathBuf,
}

/// Writes the page, its picture and the script into a directory, as `NAME.html`, `NAME.svg` and `NAME.txt`.
///
/// # Errors
/// The directory or a file cannot be written.
pub fn write_files(trace: &Trace, directory: &Path, name: &str) -> io::Result<Files> {
    fs::create_dir_all(directory)?;
    let path = |extension: &str| directory.join(format!("{name}.{extension}"));
    let files = Files { page: path("html"), picture: path("svg"), script: path("txt") };
    fs::write(&files.page, page::of_counterexample(trace))?;
    fs::write(&files.picture, diagram::picture(trace))?;
    fs::write(&files.script, script::of_trace(trace).text)?;
    Ok(files)
}
