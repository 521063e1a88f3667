//! Which nodes the present thread works for.
//!
//! A node runs the code that it was given on its own threads, and on those that step it: a client's, the transport's. Until
//! that code returns the thread does nothing else, so a call that waits for the node from there would wait for itself: it
//! is refused by name instead. Waiting for *another* node of the same process is no matter.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::vec::Vec;

/// Tells the nodes of this process apart; ids of servers do not, for tests run whole clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NodeKey(u64);

static NEXT: AtomicU64 = AtomicU64::new(0);

std::thread_local! {
    /// The nodes that this thread works for, the innermost last. One of them may step another.
    static INSIDE: RefCell<Vec<NodeKey>> = const { RefCell::new(Vec::new()) };
}

impl NodeKey {
    pub(super) fn new() -> Self {
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// This thread works for the node until the result is dropped.
    pub(super) fn enter(self) -> Inside {
        // While a thread's locals are being dropped nobody waits any more.
        let _ = INSIDE.try_with(|inside| inside.borrow_mut().push(self));
        Inside(())
    }

    /// Whether a wait for so long would keep this node from ever answering. One that does not wait keeps nobody.
    pub(super) fn would_wait_for_itself(self, timeout: Duration) -> bool {
        !timeout.is_zero() && self.is_entered()
    }

    /// Whether a call that waits for this node would keep it from ever answering.
    pub(super) fn is_entered(self) -> bool {
        INSIDE.try_with(|inside| inside.borrow().contains(&self)).unwrap_or(false)
    }
}

/// Whether this thread works for any node: it must not wait for threads to end.
pub(super) fn is_inside() -> bool {
    INSIDE.try_with(|inside| !inside.borrow().is_empty()).unwrap_or(false)
}

/// This thread works for a node while it lives.
pub(super) struct Inside(());

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = INSIDE.try_with(|inside| inside.borrow_mut().pop());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_works_for_the_nodes_that_it_entered() {
        let [one, other] = [NodeKey::new(), NodeKey::new()];
        assert!(!is_inside() && !one.is_entered());
        let outer = one.enter();
        {
            let _inner = other.enter();
            assert!(one.is_entered() && other.is_entered());
            std::thread::scope(|scope| scope.spawn(|| assert!(!one.is_entered() && !is_inside())).join()).unwrap();
        }
        assert!(one.is_entered() && !other.is_entered());
        drop(outer);
        assert!(!is_inside());
    }
}
