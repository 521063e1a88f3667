//! Every interleaving of the driver's hand-written pieces:
//! `RUSTFLAGS="--cfg loom" cargo test --release --test loom_driver`.
//!
//! The pieces stand on `driver/sync.rs` alone, so they are compiled into this test as they are.

#![cfg(loom)]
#![allow(dead_code, unreachable_pub)]

#[path = "../src/driver/feed.rs"]
mod feed;
#[path = "../src/driver/mailbox.rs"]
mod mailbox;
#[path = "../src/driver/signal.rs"]
mod signal;
#[path = "../src/driver/slot.rs"]
mod slot;
#[path = "../src/driver/sync.rs"]
mod sync;

use feed::Feed;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;
use mailbox::{Mail, Mailbox};
use signal::Signal;
use slot::{Outcome, slot};
use std::sync::Arc as StdArc;
use std::sync::atomic::{AtomicUsize as StdAtomicUsize, Ordering as StdOrdering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

/// A deadline that has passed: loom has no clock.
fn past() -> Option<Instant> {
    Some(Instant::now())
}

#[test]
fn a_waiting_thread_gets_the_answer() {
    loom::model(|| {
        let (completer, completion) = slot::<u32, u32>();
        let other = thread::spawn(move || {
            assert!(completer.begin());
            completer.note(7);
            if let Some(wake) = completer.complete(42) {
                wake.wake();
            }
        });
        assert_eq!(completion.wait(None), Outcome::Done(42));
        other.join().unwrap();
    });
}

#[test]
fn a_deadline_and_the_begin_of_the_work_agree() {
    loom::model(|| {
        let (completer, completion) = slot::<u32, u32>();
        let other = thread::spawn(move || {
            let begun = completer.begin();
            if begun {
                completer.note(7);
            }
            // What was cancelled may still be completed; nobody hears of it.
            if let Some(wake) = completer.complete(42) {
                wake.wake();
            }
            begun
        });
        let outcome = completion.wait(past());
        let begun = other.join().unwrap();
        match outcome {
            Outcome::Done(42) | Outcome::Expired(Some(7)) => assert!(begun),
            Outcome::Expired(None) => assert!(!begun, "work goes on that was said not to have begun"),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_deadline_that_meets_the_begin_ends_with_the_note() {
    loom::model(|| {
        let (completer, completion) = slot::<u32, u32>();
        let other = thread::spawn(move || {
            if completer.begin() {
                completer.note(7);
            }
            // The work goes on, long after the deadline.
            completer
        });
        let outcome = completion.wait(past());
        assert!(matches!(outcome, Outcome::Expired(None | Some(7))), "{outcome:?}");
        drop(other.join().unwrap());
    });
}

/// As a read does, which may be given up until its answer is there.
#[test]
fn a_deadline_and_an_answer_without_a_beginning_agree() {
    loom::model(|| {
        let (completer, completion) = slot::<(), u32>();
        let other = thread::spawn(move || {
            let looked = !completer.is_cancelled();
            if looked {
                if let Some(wake) = completer.complete(42) {
                    wake.wake();
                }
            }
            looked
        });
        let outcome = completion.wait(past());
        let looked = other.join().unwrap();
        match outcome {
            Outcome::Done(42) => assert!(looked),
            // It may have looked in vain.
            Outcome::Expired(None) => {}
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_completer_that_is_dropped_leaves_nobody_waiting() {
    loom::model(|| {
        let (completer, completion) = slot::<u32, u32>();
        let other = thread::spawn(move || {
            completer.begin();
            completer.note(7);
            drop(completer);
        });
        assert_eq!(completion.wait(None), Outcome::Abandoned(Some(7)));
        other.join().unwrap();
    });
}

struct CountingWaker(StdAtomicUsize);

impl Wake for CountingWaker {
    fn wake(self: StdArc<Self>) {
        self.0.fetch_add(1, StdOrdering::SeqCst);
    }
}

#[test]
fn a_pending_task_is_woken() {
    loom::model(|| {
        let (completer, completion) = slot::<u32, u32>();
        let count = StdArc::new(CountingWaker(StdAtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        let other = thread::spawn(move || {
            if let Some(wake) = completer.complete(42) {
                wake.wake();
            }
        });
        let first = completion.poll(&Context::from_waker(&waker));
        other.join().unwrap();
        match first {
            Poll::Ready(outcome) => assert_eq!(outcome, Outcome::Done(42)),
            Poll::Pending => {
                assert_eq!(count.0.load(StdOrdering::SeqCst), 1, "nobody woke the task");
                assert_eq!(completion.poll(&Context::from_waker(&waker)), Poll::Ready(Outcome::Done(42)));
            }
        }
    });
}

#[test]
fn a_mailbox_loses_no_post_and_no_wake_up() {
    loom::model(|| {
        let mailbox = Arc::new(Mailbox::<Vec<u32>>::new());
        let posters: Vec<_> = [1, 2]
            .map(|number| {
                let mailbox = mailbox.clone();
                thread::spawn(move || {
                    if mailbox.post(|content| content.push(number)).unwrap() {
                        mailbox.wake();
                    }
                })
            })
            .into();
        let mut got = Vec::new();
        while got.len() < 2 {
            match mailbox.take() {
                Mail::Content(content) => got.extend(content),
                other => panic!("{other:?}"),
            }
        }
        got.sort_unstable();
        assert_eq!(got, [1, 2]);
        assert_eq!(mailbox.poll(), Mail::Nothing);
        for poster in posters {
            poster.join().unwrap();
        }
    });
}

#[test]
fn a_closed_mailbox_gives_what_it_took_and_then_ends() {
    loom::model(|| {
        let mailbox = Arc::new(Mailbox::<Vec<u32>>::new());
        let poster = {
            let mailbox = mailbox.clone();
            thread::spawn(move || {
                let post = mailbox.post(|content| content.push(1));
                if post == Some(true) {
                    mailbox.wake();
                }
                post.is_some()
            })
        };
        let closer = {
            let mailbox = mailbox.clone();
            thread::spawn(move || mailbox.close())
        };
        let mut got = 0;
        loop {
            match mailbox.take() {
                Mail::Content(content) => got += content.len(),
                Mail::Closed => break,
                Mail::Nothing => panic!("take does not return empty-handed"),
            }
        }
        closer.join().unwrap();
        let taken = poster.join().unwrap();
        assert_eq!(got, usize::from(taken), "a post was taken and lost, or refused and kept");
    });
}

#[test]
fn a_reader_of_a_feed_sees_every_change_in_order() {
    loom::model(|| {
        let feed = Arc::new(Feed::new(8));
        feed.publish(0);
        let mut reader = Feed::subscribe(&feed);
        let publisher = {
            let feed = feed.clone();
            thread::spawn(move || {
                feed.publish(1);
                feed.publish(2);
                feed.close();
            })
        };
        let mut seen = Vec::new();
        while let Some(change) = reader.next(None) {
            seen.push(change);
        }
        assert_eq!(seen, [0, 1, 2]);
        publisher.join().unwrap();
    });
}

#[test]
fn a_sleeping_reader_of_a_feed_is_woken_by_a_change() {
    loom::model(|| {
        let feed = Arc::new(Feed::new(8));
        feed.publish(0);
        let mut reader = Feed::subscribe(&feed);
        assert_eq!(reader.next(None), Some(0));
        let publisher = {
            let feed = feed.clone();
            thread::spawn(move || feed.publish(1))
        };
        assert_eq!(reader.next(None), Some(1));
        publisher.join().unwrap();
    });
}

#[test]
fn a_slow_reader_of_a_feed_counts_what_it_missed() {
    loom::model(|| {
        let feed = Arc::new(Feed::new(1));
        feed.publish(0);
        let mut reader = Feed::subscribe(&feed);
        let publisher = {
            let feed = feed.clone();
            thread::spawn(move || {
                feed.publish(1);
                feed.publish(2);
                feed.close();
            })
        };
        let mut seen = Vec::new();
        while let Some(change) = reader.next(None) {
            seen.push(change);
        }
        assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "{seen:?}");
        assert_eq!(seen.last(), Some(&2));
        assert_eq!(seen.len() as u64 + reader.missed(), 3);
        publisher.join().unwrap();
    });
}

#[test]
fn a_change_behind_a_lock_is_not_missed() {
    loom::model(|| {
        let signal = Arc::new(Signal::new());
        let state = Arc::new(Mutex::new(0));
        let changer = {
            let (signal, state) = (signal.clone(), state.clone());
            thread::spawn(move || {
                for _ in 0..2 {
                    *state.lock().unwrap() += 1;
                    signal.notify();
                }
            })
        };
        let found = signal.wait_until(None, || {
            let now = *state.lock().unwrap();
            (now == 2).then_some(now)
        });
        assert_eq!(found, Some(2));
        changer.join().unwrap();
    });
}

#[test]
fn a_change_of_a_number_is_not_missed() {
    loom::model(|| {
        let signal = Arc::new(Signal::new());
        let applied = Arc::new(AtomicUsize::new(0));
        let changer = {
            let (signal, applied) = (signal.clone(), applied.clone());
            thread::spawn(move || {
                applied.store(1, Ordering::SeqCst);
                signal.notify();
            })
        };
        let found = signal.wait_until(None, || (applied.load(Ordering::SeqCst) == 1).then_some(()));
        assert_eq!(found, Some(()));
        changer.join().unwrap();
    });
}
