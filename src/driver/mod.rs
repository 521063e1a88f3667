//! The production loop: protocol, log and apply threads behind one handle.
