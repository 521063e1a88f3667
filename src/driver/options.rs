//! What concerns the driver alone and not the protocol.

use crate::error::ConfigProblem;
use crate::types::GroupId;
use std::string::ToString;
use std::time::Duration;
use std::vec::Vec;

/// The driver's own limits; the defaults suit a server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct DriverOptions {
    /// The group whose messages this node sends and takes. Default 0.
    pub group: GroupId,
    /// The most proposals without an answer, at least 1; further ones are `Overloaded`. Default
    /// 65,536.
    pub proposals_max: usize,
    /// The most linearizable reads without an answer, at least 1; further ones are `Overloaded`.
    /// Default 65,536.
    pub reads_max: usize,
    /// What the apply thread reads from the log at once, in bytes, at least 1. Default 1 MiB.
    pub apply_bytes_max: usize,
    /// The most cold reads for lagging followers that wait for the reader thread, at least 1;
    /// further ones are dropped, which Raft repairs like any lost message. Default 64.
    pub cold_reads_max: usize,
    /// How long a shutdown waits for open requests before it answers proposals `OutcomeUnknown` and
    /// reads `Shutdown`. Default 1 s.
    pub drain_timeout: Duration,
    /// Where every step is recorded, for `raft-model trace` to validate. Default `None`: nowhere. A trace that cannot be
    /// written ends; the node goes on, and its status says why.
    #[cfg(feature = "trace")]
    pub trace: Option<crate::trace::TraceOptions>,
}

impl Default for DriverOptions {
    fn default() -> Self {
        Self {
            group: GroupId(0),
            proposals_max: 65_536,
            reads_max: 65_536,
            apply_bytes_max: 1 << 20,
            cold_reads_max: 64,
            drain_timeout: Duration::from_secs(1),
            #[cfg(feature = "trace")]
            trace: None,
        }
    }
}

impl DriverOptions {
    /// Every broken rule.
    pub(super) fn problems(&self) -> Vec<ConfigProblem> {
        let at_least_1 = [
            ("proposals_max", self.proposals_max),
            ("reads_max", self.reads_max),
            ("apply_bytes_max", self.apply_bytes_max),
            ("cold_reads_max", self.cold_reads_max),
        ];
        let broken = at_least_1.into_iter().filter(|&(_, value)| value == 0);
        broken
            .map(|(field, value)| ConfigProblem { field, value: value.to_string(), rule: "must be at least 1" })
            .collect()
    }
}
