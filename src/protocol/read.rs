//! Linearizable reads without a log entry: ReadIndex and leases (dissertation §6.4).
//!
//! In this version a linearizable read is a proposal.
