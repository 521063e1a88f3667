//! RaftTransport over TCP (docs/FORMAT.md).
