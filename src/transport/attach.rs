//! Why a transport does not take a node.

use thiserror::Error;

/// Why no node can start on this transport. Whatever it serves already goes on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AttachError {
    /// A node was started on it, or on a clone of it: it delivers to one.
    #[error("a node was started on this transport already; give each node, and each group, a transport of its own")]
    InUse,
    /// It is shut down and delivers nothing any more. Make another.
    #[error("this transport is shut down; make another for this start")]
    Shutdown,
}
