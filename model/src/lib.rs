//! Exhaustive model checking of raft-io: the stateright model over the shipped
//! [`Protocol::step`](raft_io::Protocol::step) lives here.
