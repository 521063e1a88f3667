//! Leadership transfer (dissertation §3.10).
//!
//! In this version leadership moves by elections alone.
