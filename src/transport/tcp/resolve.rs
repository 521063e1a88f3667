//! From a peer's name to its addresses.
//!
//! A lookup cannot be interrupted and may take half a minute when a name server is down. It runs on a thread of its own,
//! so that a connection attempt waits for it no longer than for an address. The next attempt waits for the same lookup
//! again: there is never more than one for each name.

use crate::threads;
use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::string::{String, ToString};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::vec::Vec;
use std::{format, io, vec};

/// What finds the addresses of a name.
type Lookup = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// What a lookup's thread has found.
type Found = Receiver<io::Result<Vec<SocketAddr>>>;

/// Resolves names.
#[derive(Clone)]
pub(super) struct Resolver {
    lookup: Arc<Lookup>,
    /// By name: the lookups that somebody stopped waiting for.
    late: Arc<Mutex<BTreeMap<String, Found>>>,
}

impl Resolver {
    pub(super) fn new(lookup: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static) -> Self {
        Self { lookup: Arc::new(lookup), late: Arc::default() }
    }

    /// The machine's own.
    pub(super) fn of_the_machine() -> Self {
        Self::new(|name| Ok(name.to_socket_addrs()?.collect()))
    }

    /// The addresses of a name, if they are known within `timeout`. What is an address already is asked of nobody.
    pub(super) fn resolve(&self, name: &str, timeout: Duration) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = name.parse() {
            return Ok(vec![address]);
        }
        let late = || self.late.lock().unwrap_or_else(PoisonError::into_inner);
        let running = late().remove(name);
        let found = running.map_or_else(|| self.begin(name), Ok)?;
        match found.recv_timeout(timeout) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => {
                late().insert(name.to_string(), found);
                let why = format!("the addresses of {name} were not found within {timeout:?}; the lookup goes on");
                Err(io::Error::new(io::ErrorKind::TimedOut, why))
            }
            // A lookup of the user's own may panic: the connection attempt fails, as with any other error.
            Err(RecvTimeoutError::Disconnected) => Err(io::Error::other(format!("the lookup of {name} panicked"))),
        }
    }

    fn begin(&self, name: &str) -> io::Result<Found> {
        let (sender, found) = mpsc::sync_channel(1);
        let (lookup, name) = (Arc::clone(&self.lookup), name.to_string());
        threads::spawn("raft-resolve".to_string(), move || {
            // If the transport is gone by now, nobody needs the answer.
            let _ = sender.send(lookup(&name));
        })?;
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name server that answered after minutes held up every attempt to connect to that peer, though the name had got
    /// another address long since.
    #[test]
    fn a_slow_lookup_is_waited_for_no_longer_than_an_address() {
        let (answer, answers) = mpsc::channel::<u16>();
        let (answers, asked) = (Mutex::new(answers), Arc::new(Mutex::new(0)));
        let count = Arc::clone(&asked);
        let resolver = Resolver::new(move |_| {
            *count.lock().expect("nobody panicked") += 1;
            let port = answers.lock().expect("nobody panicked").recv().expect("an answer");
            Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))])
        });
        for _ in 0..3 {
            let waited = resolver.resolve("slow:1", Duration::from_millis(1));
            assert_eq!(waited.expect_err("it is slow").kind(), io::ErrorKind::TimedOut);
        }
        answer.send(7).expect("somebody waits");
        let found = resolver.resolve("slow:1", Duration::from_secs(60)).expect("an address");
        assert_eq!(found, [SocketAddr::from(([127, 0, 0, 1], 7))]);
        assert_eq!(*asked.lock().expect("nobody panicked"), 1, "one lookup at a time");
        // Nobody is asked for what is an address.
        let found = resolver.resolve("127.0.0.1:9", Duration::ZERO).expect("an address");
        assert_eq!(found, [SocketAddr::from(([127, 0, 0, 1], 9))]);
        // The next attempt asks anew.
        answer.send(8).expect("somebody waits");
        assert_eq!(resolver.resolve("slow:1", Duration::from_secs(60)).expect("an address")[0].port(), 8);
    }

    #[test]
    fn a_lookup_that_panics_fails_the_attempt_alone() {
        let resolver = Resolver::new(|_| panic!("the user's own mistake"));
        let failed = resolver.resolve("name:1", Duration::from_secs(60)).expect_err("it panicked");
        assert!(failed.to_string().contains("the lookup of name:1 panicked"), "{failed}");
    }
}
