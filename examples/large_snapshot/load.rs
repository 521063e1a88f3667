//! Clients that write at a steady rate, and how long each write took.
//!
//! The time of a write counts from when it was due, not from when its client came to send it: a stall is then seen by
//! every write that it held up, as the users of a server see it.

use crate::nodes::Client;
use hdrhistogram::Histogram;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What happens while a write is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    WarmUp,
    Before,
    Taking,
    Fetching,
    Installing,
    After,
}

impl Phase {
    pub(crate) const ALL: [Self; 6] =
        [Self::WarmUp, Self::Before, Self::Taking, Self::Fetching, Self::Installing, Self::After];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::WarmUp => "warm-up",
            Self::Before => "before",
            Self::Taking => "snapshot",
            Self::Fetching => "fetch",
            Self::Installing => "install",
            Self::After => "after",
        }
    }
}

struct Shared {
    phase: AtomicUsize,
    stop: AtomicBool,
    acknowledged: AtomicU64,
    failed: AtomicU64,
    first_failure: Mutex<Option<String>>,
    /// One for each phase, in microseconds.
    latencies: Mutex<Vec<Histogram<u64>>>,
}

pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

/// What the clients saw.
pub(crate) struct Seen {
    pub(crate) acknowledged: u64,
    pub(crate) failed: u64,
    pub(crate) first_failure: Option<String>,
    pub(crate) latencies: Vec<Histogram<u64>>,
}

impl Load {
    /// `rate` writes per second over `blocks` blocks, to the node at `port`.
    pub(crate) fn start(port: u16, clients: u64, rate: u64, blocks: u64) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            phase: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            first_failure: Mutex::new(None),
            latencies: Mutex::new(Phase::ALL.iter().map(|_| histogram()).collect()),
        });
        let began = Instant::now();
        let mut threads = Vec::new();
        for number in 0..clients {
            let (shared, client) = (Arc::clone(&shared), Client::connect(port)?);
            let schedule = Schedule { began, number, clients, rate, blocks };
            threads.push(thread::spawn(move || write(&shared, client, &schedule)));
        }
        Ok(Self { shared, clients: threads })
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.shared.phase.store(phase as usize, Ordering::SeqCst);
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::SeqCst)
    }

    /// Ends the load; every write has its answer then.
    pub(crate) fn stop(self) -> Seen {
        self.shared.stop.store(true, Ordering::SeqCst);
        for client in self.clients {
            let _ = client.join();
        }
        let lock = |failure: &Mutex<Option<String>>| failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        let latencies = std::mem::take(&mut *self.shared.latencies.lock().unwrap_or_else(PoisonError::into_inner));
        Seen {
            acknowledged: self.shared.acknowledged.load(Ordering::SeqCst),
            failed: self.shared.failed.load(Ordering::SeqCst),
            first_failure: lock(&self.shared.first_failure),
            latencies,
        }
    }
}

pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 120_000_000, 3).expect("these bounds are valid")
}

struct Schedule {
    began: Instant,
    number: u64,
    clients: u64,
    rate: u64,
    blocks: u64,
}

fn write(shared: &Shared, mut client: Client, schedule: &Schedule) {
    let mut measured: Vec<Histogram<u64>> = Phase::ALL.iter().map(|_| histogram()).collect();
    for turn in 0.. {
        let number = turn * schedule.clients + schedule.number;
        let due = schedule.began + Duration::from_secs_f64(number as f64 / schedule.rate as f64);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if shared.stop.load(Ordering::SeqCst) {
            break;
        }
        let phase = shared.phase.load(Ordering::SeqCst);
        // Spread over the whole state, in the same order in every run.
        let block = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % schedule.blocks;
        match client.call(&format!("write {block} {number}")) {
            Ok(_) => {
                shared.acknowledged.fetch_add(1, Ordering::SeqCst);
                measured[phase].saturating_record(due.elapsed().as_micros() as u64);
            }
            Err(error) => {
                shared.failed.fetch_add(1, Ordering::SeqCst);
                let mut first = shared.first_failure.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert_with(|| error.to_string());
            }
        }
    }
    let mut latencies = shared.latencies.lock().unwrap_or_else(PoisonError::into_inner);
    for (all, own) in latencies.iter_mut().zip(&measured) {
        all.add(own).expect("both have the same bounds");
    }
}
