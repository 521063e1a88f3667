//! How a log on a disk is opened.

use crate::types::{ClusterId, GroupId, NodeId};

/// Whose log to open, and how much memory and space to use.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct WalOptions {
    /// The cluster that the log must belong to.
    pub cluster: ClusterId,
    /// The node that the log must belong to.
    pub node: NodeId,
    /// The group whose writes it holds. 0 unless set.
    pub group: GroupId,
    /// The size of a segment file in bytes; at least 4096. Each is written full of zeros before it
    /// is used. May differ from one opening to the next. 16 MiB unless set.
    pub segment_bytes: u64,
    /// How much of the newest entries to keep in memory, in bytes as [`Entry::size_bytes`] counts
    /// them. The last run of entries always stays. 32 MiB unless set.
    ///
    /// [`Entry::size_bytes`]: crate::Entry::size_bytes
    pub cache_bytes: usize,
}

impl WalOptions {
    /// The smallest segment, in bytes.
    pub const SEGMENT_BYTES_MIN: u64 = 4096;

    /// The defaults for this node of this cluster.
    #[must_use]
    pub fn new(cluster: ClusterId, node: NodeId) -> Self {
        Self { cluster, node, group: GroupId(0), segment_bytes: 16 << 20, cache_bytes: 32 << 20 }
    }

    /// The size that segments really have.
    pub(super) fn real_segment_bytes(&self) -> u64 {
        self.segment_bytes.max(Self::SEGMENT_BYTES_MIN)
    }

    /// Sets [`WalOptions::group`].
    #[must_use]
    pub fn group(mut self, group: GroupId) -> Self {
        self.group = group;
        self
    }

    /// Sets [`WalOptions::segment_bytes`]; less than the minimum counts as the minimum.
    #[must_use]
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = bytes;
        self
    }

    /// Sets [`WalOptions::cache_bytes`].
    #[must_use]
    pub fn cache_bytes(mut self, bytes: usize) -> Self {
        self.cache_bytes = bytes;
        self
    }
}
