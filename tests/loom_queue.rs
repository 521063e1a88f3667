//! Every interleaving of the transports' queue, under loom. The queue's own source file is compiled
//! here, with loom's primitives in the place of the standard library's.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release --test loom_queue`
#![cfg(loom)]
#![allow(dead_code, unreachable_pub)]

#[path = "../src/transport/queue.rs"]
mod queue;

mod sync {
    pub(super) use loom::sync::{Condvar, Mutex, MutexGuard};
}

use loom::sync::Arc;
use loom::thread;
use queue::{BoundedQueue, Popped, Refused};
use std::collections::VecDeque;

/// Takes everything until `count` items came or the queue closed.
fn drain(queue: &BoundedQueue<u32>, count: usize) -> Vec<u32> {
    let (mut batch, mut items) = (VecDeque::new(), Vec::new());
    while items.len() < count {
        match queue.pop_all(&mut batch, None) {
            Popped::Items => items.extend(batch.drain(..)),
            Popped::Nudged => {}
            Popped::Closed => break,
            Popped::Timeout => unreachable!("there is no timeout"),
        }
    }
    items
}

#[test]
fn nothing_is_lost_and_each_senders_order_is_kept() {
    loom::model(|| {
        let queue = Arc::new(BoundedQueue::new(8, 8));
        let (two, one) = (Arc::clone(&queue), Arc::clone(&queue));
        let senders = [
            thread::spawn(move || [10, 11].map(|item| two.push(item, 1).unwrap()).len()),
            thread::spawn(move || [20].map(|item| one.push(item, 1).unwrap()).len()),
        ];
        let items = drain(&queue, 3);
        assert_eq!(items.iter().filter(|item| **item < 20).collect::<Vec<_>>(), [&10, &11]);
        assert!(items.contains(&20));
        assert_eq!(queue.load(), (0, 0));
        assert_eq!(senders.map(|sender| sender.join().unwrap()), [2, 1]);
    });
}

#[test]
fn a_sleeping_receiver_is_woken_by_an_item_a_nudge_and_the_end() {
    for wake in [0, 1, 2] {
        loom::model(move || {
            let queue = Arc::new(BoundedQueue::new(1, 1));
            let other = Arc::clone(&queue);
            let waker = thread::spawn(move || match wake {
                0 => other.push(7, 1).unwrap(),
                1 => other.nudge(),
                _ => assert_eq!(other.close(), 0),
            });
            let mut batch = VecDeque::new();
            let popped = queue.pop_all(&mut batch, None);
            assert_eq!(popped, [Popped::Items, Popped::Nudged, Popped::Closed][wake]);
            assert_eq!(batch.len(), usize::from(wake == 0));
            waker.join().unwrap();
        });
    }
}

#[test]
fn an_item_and_a_nudge_at_once_are_both_seen() {
    loom::model(|| {
        let queue = Arc::new(BoundedQueue::new(8, 8));
        let (pushing, nudging) = (Arc::clone(&queue), Arc::clone(&queue));
        let sender = thread::spawn(move || pushing.push(1, 1).unwrap());
        let nudger = thread::spawn(move || nudging.nudge());
        let (mut batch, mut seen) = (VecDeque::new(), (0, 0));
        while seen != (1, 1) {
            match queue.pop_all(&mut batch, None) {
                Popped::Items => seen.0 += batch.drain(..).count(),
                Popped::Nudged => seen.1 += 1,
                other => panic!("{other:?}"),
            }
        }
        sender.join().unwrap();
        nudger.join().unwrap();
    });
}

#[test]
fn the_bounds_hold_whoever_comes_first() {
    loom::model(|| {
        let queue = Arc::new(BoundedQueue::new(2, 10));
        let senders: Vec<_> = (0..2)
            .map(|_| {
                let queue = Arc::clone(&queue);
                thread::spawn(move || queue.push(1, 6))
            })
            .collect();
        let results: Vec<_> = senders.into_iter().map(|sender| sender.join().unwrap()).collect();
        assert_eq!(results.iter().filter(|result| **result == Err(Refused::Full)).count(), 1);
        assert_eq!(queue.load(), (1, 6));
    });
}

/// What was accepted before the way shut was either received or counted as lost, never both.
#[test]
fn shutting_the_way_accounts_for_every_item() {
    loom::model(|| {
        let queue = Arc::new(BoundedQueue::new(8, 8));
        let other = Arc::clone(&queue);
        let sender =
            thread::spawn(move || usize::from(other.push(1, 1).is_ok()) + usize::from(other.push(2, 1).is_ok()));
        let mut lost = queue.set_open(false);
        assert_eq!(queue.load(), (0, 0));
        queue.set_open(true);
        let accepted = sender.join().unwrap();
        let (mut batch, mut received) = (VecDeque::new(), 0);
        if queue.load().0 > 0 {
            assert_eq!(queue.pop_all(&mut batch, None), Popped::Items);
            received = batch.len();
        }
        lost += queue.close();
        assert_eq!(accepted, received + lost);
        assert_eq!(queue.push(3, 1), Err(Refused::Closed));
    });
}

#[test]
fn a_closed_queue_ends_its_receiver_however_full() {
    loom::model(|| {
        let queue = Arc::new(BoundedQueue::new(8, 8));
        let (pushing, closing) = (Arc::clone(&queue), Arc::clone(&queue));
        let sender = thread::spawn(move || pushing.push(1, 1).is_ok());
        let closer = thread::spawn(move || closing.close());
        let received = drain(&queue, usize::MAX).len();
        let (accepted, lost) = (sender.join().unwrap(), closer.join().unwrap());
        assert_eq!(usize::from(accepted), received + lost);
        assert!(queue.is_closed());
    });
}
