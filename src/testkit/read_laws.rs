//! The laws of reads, checked over a cluster's history: the checker's part for them.

use super::laws::{Checked, Law, check};
use crate::action::{Action, RoleKind};
use crate::types::{Index, NodeId};
use std::collections::BTreeMap;
use std::format;

/// The reads that have no answer yet.
#[derive(Clone, Debug, Default)]
pub(super) struct ReadLaws {
    /// By reader and context: what was committed, by whoever, when the read began.
    waiting: BTreeMap<(NodeId, u64), Index>,
}

impl ReadLaws {
    /// A read begins at a server, unless it refuses.
    pub(super) fn begun(&mut self, id: NodeId, context: u64, committed: Index) {
        self.waiting.insert((id, context), committed);
    }

    /// The server refused it: there will be no answer.
    pub(super) fn refused(&mut self, id: NodeId, context: u64) {
        self.waiting.remove(&(id, context));
    }

    /// The server's life ends, and its reads with it.
    pub(super) fn crashed(&mut self, id: NodeId) {
        self.waiting.retain(|(reader, _), _| *reader != id);
    }

    /// A server with this role took a step with these actions.
    pub(super) fn stepped(&mut self, id: NodeId, role: Option<RoleKind>, actions: &[Action]) -> Checked {
        let once = Law::EveryReadEndsOnce;
        for action in actions {
            let (context, index) = match action {
                Action::ReadReady { context, index } => (*context, Some(*index)),
                Action::ReadAborted { context } => (*context, None),
                _ => continue,
            };
            let begun = self.waiting.remove(&(id, context));
            check(begun.is_some(), once, || format!("node {id} answers read {context}, which waits for no answer"))?;
            if let (Some(committed), Some(index)) = (begun, index) {
                check(index >= committed, Law::LinearizableRead, || {
                    format!("node {id} answers read {context} at {index}; {committed} was committed when it began")
                })?;
            }
        }
        let forgotten = self.waiting.keys().find(|(reader, _)| *reader == id && role != Some(RoleKind::Leader));
        check(forgotten.is_none(), once, || format!("node {id} leads no more and has not answered {forgotten:?}"))
    }
}
