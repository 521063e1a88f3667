//! Scripts against the real protocol, for the tests of what the dissertation claims.

use raft_io::testkit::script::Script;
use raft_io::{NodeId, Protocol, RoleKind};

/// A cluster and what it did.
pub(crate) struct Story(pub(crate) Script);

impl Story {
    pub(crate) fn new(setup: &str) -> Self {
        let mut story = Self(Script::default());
        story.run(setup);
        story
    }

    /// Runs commands, separated by semicolons, and returns what they print.
    pub(crate) fn run(&mut self, commands: &str) -> String {
        let commands = commands.split(';').map(str::trim);
        commands.map(|command| self.0.run(command).unwrap_or_else(|error| panic!("{command}: {error}"))).collect()
    }

    pub(crate) fn node(&self, id: u64) -> &Protocol {
        self.0.cluster().and_then(|cluster| cluster.protocol(NodeId(id))).expect("a running node")
    }

    pub(crate) fn leads(&self, id: u64) -> bool {
        self.node(id).role() == RoleKind::Leader
    }
}
