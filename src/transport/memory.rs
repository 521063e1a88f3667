//! A network in memory: for tests and single-process clusters.
