//! Exhaustive model checking of raft-io: a stateright model over the shipped
//! [`Protocol::step`](raft_io::Protocol::step), the real log and the real messages.

pub mod action;
pub mod check;
pub mod cluster;
pub mod commands;
pub mod config;
pub mod configurations;
pub mod conform;
pub mod counterexample;
pub mod ending;
pub mod explore;
pub mod facts;
pub mod laws;
pub mod membership;
pub mod mutants;
pub mod proofs;
pub mod render;
pub mod search;
pub mod server;
pub mod session;
pub mod simulate;
pub mod symmetry;
pub mod tables;
pub mod terminal;
pub mod tlc;
pub mod trace;
pub mod value;
