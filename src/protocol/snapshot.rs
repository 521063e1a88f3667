//! Snapshots and log compaction (dissertation §5).
//!
//! In this version a leader that no longer holds what a follower needs says so with [`Action::SnapshotNeeded`](crate::Action::SnapshotNeeded).
