//! Code that is not this library's, and what becomes of its panics.
//!
//! A node calls the state machine, the log, the transport, the store of snapshots, and whatever wakers and looks clients
//! bring along. Each of those calls is made through this module, so that a panic there ends as the guide says: the node
//! goes on and counts it, or it stops with a reason that names the place. None is lost, none unwinds through the driver.

use std::any::Any;
use std::boxed::Box;
use std::fmt;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::string::{String, ToString};

/// A place where a node runs code that it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum CodePlace {
    /// [`StateMachine::apply`](super::StateMachine::apply).
    Apply,
    /// [`StateMachine::snapshot`](super::StateMachine::snapshot).
    Snapshot,
    /// The log on the log's thread: [`append`](crate::RaftLog::append), [`sync`](crate::RaftLog::sync).
    Log,
    /// The log's reader, wherever it is asked.
    LogReader,
    /// [`RaftTransport::send`](crate::RaftTransport::send) and what is called with it.
    Transport,
}

impl CodePlace {
    /// Its name, as in the code.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Apply => "StateMachine::apply",
            Self::Snapshot => "StateMachine::snapshot",
            Self::Log => "SharedLog",
            Self::LogReader => "SharedLog::Reader",
            Self::Transport => "RaftTransport",
        }
    }
}

impl fmt::Display for CodePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a panic said. What it carried is dropped here, and may panic in turn.
pub(super) fn panic_message(panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    discard(panic);
    text.unwrap_or_else(|| "a panic without a message".to_string())
}

/// Drops what is not ours.
pub(super) fn discard<T>(value: T) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(value))) {
        // It could go on like this for ever.
        mem::forget(panic);
    }
}

/// Runs what is not ours; or what its panic said.
pub(super) fn contain<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(panic_message)
}
