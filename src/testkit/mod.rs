//! A seeded simulator, fault injection, conformance suites and checkers for users' own tests.

#[cfg(feature = "persistence")]
pub mod disk;
pub mod linearizability;
pub mod log_suite;
