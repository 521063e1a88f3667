//! Why a chunk of a snapshot was not fetched.

use std::string::String;
use thiserror::Error;

/// Why a chunk did not come. Nothing was received.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FetchError {
    /// This transport, or the peer's version, knows nothing of snapshots. Ask another server.
    #[error("snapshots cannot be fetched this way")]
    Unsupported,
    /// There is no connection to the peer, or it broke. Try again after a pause, or another server.
    #[error("the peer cannot be reached: {reason}")]
    Unreachable {
        /// What the system said.
        reason: String,
    },
    /// Nothing came in time. Try again, with more time if the line is slow.
    #[error("nothing came in time")]
    TimedOut,
    /// The peer does not have that chunk, or no longer. Ask which snapshot it has now.
    #[error("the peer does not have it")]
    NotFound,
    /// The peer refuses this server. Until something is configured differently it will do so again.
    #[error("the peer refuses: {reason}")]
    Refused {
        /// Its reason.
        reason: String,
    },
    /// What came was damaged on its way, or is no answer to the request. Ask again.
    #[error("what came is not the chunk: {reason}")]
    Corrupt {
        /// What is wrong with it.
        reason: String,
    },
    /// The own transport was shut down.
    #[error("the transport was shut down")]
    Shutdown,
}
