//! Membership changes: joint consensus, single-server changes, learners (dissertation §4).
//!
//! A cluster's voters are fixed by its configuration in this version.
