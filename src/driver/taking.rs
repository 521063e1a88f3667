//! What a caller holds while a snapshot that it asked for is being taken.

use super::error::TakeSnapshotError;
use super::inside::NodeKey;
use super::raft::{deadline, now};
use super::slot::{Completion, Outcome};
use super::snapshots::Answer;
use crate::snapshot::SnapshotInfo;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// A snapshot that was asked for. Await it, or [`wait`](Self::wait) for it; dropping it does not cancel
/// the snapshot.
#[must_use = "whether it was taken is known only here"]
pub struct TakingSnapshot {
    node: NodeKey,
    stage: Stage,
}

enum Stage {
    Refused(Option<TakeSnapshotError>),
    Open(Completion<(), Answer>),
}

impl TakingSnapshot {
    pub(super) fn new(node: NodeKey, result: Result<Completion<(), Answer>, TakeSnapshotError>) -> Self {
        let stage = match result {
            Ok(completion) => Stage::Open(completion),
            Err(error) => Stage::Refused(Some(error)),
        };
        Self { node, stage }
    }

    /// Waits for at most `timeout` until the log begins with the snapshot.
    ///
    /// # Errors
    /// [`TakeSnapshotError`]; the log keeps what the snapshot would have covered.
    pub fn wait(self, timeout: Duration) -> Result<SnapshotInfo, TakeSnapshotError> {
        match self.stage {
            Stage::Refused(error) => Err(error.unwrap_or(TakeSnapshotError::Shutdown)),
            Stage::Open(completion) if self.node.would_wait_for_itself(timeout) => match completion.wait(now()) {
                Outcome::Expired(_) => Err(TakeSnapshotError::CalledFromWithin),
                outcome => settle(outcome),
            },
            Stage::Open(completion) => settle(completion.wait(deadline(timeout))),
        }
    }
}

impl Future for TakingSnapshot {
    type Output = Result<SnapshotInfo, TakeSnapshotError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.stage {
            Stage::Refused(error) => Poll::Ready(Err(error.take().unwrap_or(TakeSnapshotError::Shutdown))),
            Stage::Open(completion) => completion.poll(context).map(settle),
        }
    }
}

fn settle(outcome: Outcome<(), Answer>) -> Answer {
    match outcome {
        Outcome::Done(answer) => answer,
        Outcome::Expired(_) => Err(TakeSnapshotError::DeadlineExceeded),
        Outcome::Abandoned(_) => Err(TakeSnapshotError::Shutdown),
    }
}

impl fmt::Debug for TakingSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TakingSnapshot").finish_non_exhaustive()
    }
}
