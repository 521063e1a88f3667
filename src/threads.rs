//! The door through which the library starts every thread of its own, so that a test can have the system refuse one.

use std::format;
use std::io;
use std::string::String;
use std::thread::{Builder, JoinHandle};

/// Starts a thread.
///
/// # Errors
/// The system gives none; the error says which it was to be. `body` is dropped, here.
pub(crate) fn spawn<R: Send + 'static>(
    name: String,
    body: impl FnOnce() -> R + Send + 'static,
) -> io::Result<JoinHandle<R>> {
    let named = format!("the thread {name}");
    #[cfg(feature = "testkit")]
    let refused = refusals::ask();
    #[cfg(not(feature = "testkit"))]
    let refused: io::Result<()> = Ok(());
    let spawned = refused.and_then(|()| Builder::new().name(name).spawn(body));
    spawned.map_err(|error| io::Error::new(error.kind(), format!("{named}: {error}")))
}

#[cfg(feature = "testkit")]
pub(crate) mod refusals {
    use std::cell::Cell;
    use std::io;
    use std::marker::PhantomData;

    std::thread_local! {
        /// How many threads this one may start before the system refuses; without end if `None`.
        static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
        static REFUSED: Cell<u64> = const { Cell::new(0) };
    }

    /// As long as it lives, the system gives the calling thread only so many threads more, as it does when a process has
    /// reached its limit. Threads that others start are not concerned.
    #[derive(Debug)]
    pub struct ThreadsRefused {
        /// It belongs to its thread.
        _own: PhantomData<*const ()>,
    }

    impl ThreadsRefused {
        /// From the thread after `count` more on.
        #[must_use]
        pub fn after(count: u64) -> Self {
            LEFT.set(Some(count));
            REFUSED.set(0);
            Self { _own: PhantomData }
        }

        /// How many were refused so far.
        #[must_use]
        pub fn count(&self) -> u64 {
            REFUSED.get()
        }
    }

    impl Drop for ThreadsRefused {
        fn drop(&mut self) {
            LEFT.set(None);
        }
    }

    pub(super) fn ask() -> io::Result<()> {
        match LEFT.get() {
            Some(0) => {
                REFUSED.set(REFUSED.get() + 1);
                Err(io::Error::new(io::ErrorKind::WouldBlock, "injected: no more threads"))
            }
            left => {
                LEFT.set(left.map(|left| left - 1));
                Ok(())
            }
        }
    }
}
