//! What can happen next in a cluster: a step of one server, or the loss of a message.

use crate::tables::{Code, MessageId};
use raft_io::Transition;

/// One action of the model, hence of the spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// One server takes an input.
    Step {
        /// Its position.
        server: u8,
        /// The input.
        code: Code,
        /// Whether the message that it handles stays on its way (duplication).
        keep: bool,
        /// Which of the messages that leave find no room, as a mask over those that are new on their way.
        lost: u16,
        /// What comes of it.
        outcome: u32,
    },
    /// A message is lost.
    DropMessage(MessageId),
}

/// The names that are not transitions of the protocol.
const ENVIRONMENT: [&str; 5] = ["Crash", "Wipe", "BackUp", "RollBack", "DropMessage"];

/// The names of all actions: the transitions, then what the environment does.
pub fn names() -> impl Iterator<Item = &'static str> {
    Transition::ALL.iter().map(|transition| transition.name()).chain(ENVIRONMENT)
}

/// The position of a name among [`names`].
///
/// # Panics
/// If no action is called that.
#[must_use]
pub fn name_position(name: &str) -> u8 {
    names().position(|each| each == name).unwrap_or_else(|| panic!("no action is called {name}")) as u8
}
