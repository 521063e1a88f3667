//! A seeded simulator, fault injection, conformance suites and checkers for users' own tests.
