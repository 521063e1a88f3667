//! A seeded simulator, fault injection, conformance suites and checkers for users' own tests.
//!
//! [`cluster`] runs the real protocol in one thread over a network and disks whose every move is explicit, with
//! [`faults`] among them; [`invariants`] checks the laws of the whole cluster after each move; [`script`] gives the
//! moves words, so that a schedule is a text to read, to write and to replay; [`walk`] chooses moves at random, from a
//! seed.

mod campaign_laws;
mod clocks;
pub mod cluster;
#[cfg(feature = "persistence")]
pub mod disk;
pub mod faults;
pub mod invariants;
mod laws;
pub mod linearizability;
pub mod liveness;
pub mod log_suite;
mod loss_laws;
mod membership_laws;
mod memberships;
pub mod network;
mod read_laws;
#[cfg(feature = "trace")]
pub mod recording;
pub mod render;
mod replication_laws;
pub mod script;
mod snapshot_laws;
pub mod snapshot_suite;
mod snapshots;
mod transfer_laws;
pub mod threads {
    //! Threads that the system refuses.

    pub use crate::threads::refusals::ThreadsRefused;
}
pub mod walk;
mod warm_end;
mod words;
