//! What the clients' notes say about speed: per tenth of a second, and as a whole.

use crate::linearizability::KeyValueInput;
use crate::load::Recorded;
use hdrhistogram::Histogram;

/// The length of a bucket in nanoseconds.
pub(crate) const BUCKET: u64 = 100_000_000;

/// Longer latencies count as this one, in nanoseconds.
const LATENCY_MAX: u64 = 60_000_000_000;

/// Operations that returned within one bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Bucket {
    pub(crate) count: usize,
    /// Latencies in nanoseconds; `None` when nothing returned.
    pub(crate) median: Option<u64>,
    pub(crate) p99: Option<u64>,
}

/// What happened when, in nanoseconds since the start of the load.
#[derive(Clone, Debug, Default)]
pub(crate) struct Events {
    pub(crate) killed_node: usize,
    pub(crate) new_leader_node: usize,
    /// The kill was ordered, and the process was gone.
    pub(crate) killed: u64,
    pub(crate) gone: u64,
    pub(crate) new_leader: u64,
    /// The first write called after the process was gone to be acknowledged.
    pub(crate) next_write: Option<u64>,
    pub(crate) restarted: u64,
    pub(crate) caught_up: u64,
    /// Entries the restarted node lacked when it first answered.
    pub(crate) lag: u64,
    pub(crate) end: u64,
    /// The parts of the run, in order.
    pub(crate) phases: Vec<Phase>,
    /// What else happened, in order.
    pub(crate) marks: Vec<Mark>,
}

/// A part of the run, from when to when.
#[derive(Clone, Debug)]
pub(crate) struct Phase {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) name: &'static str,
}

/// Something that happened at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    pub(crate) at: u64,
    /// How it is drawn.
    pub(crate) class: &'static str,
    pub(crate) label: String,
}

pub(crate) struct Timeline {
    pub(crate) buckets: Vec<Bucket>,
    /// All latencies in nanoseconds.
    pub(crate) latencies: Histogram<u64>,
    /// Completed operations per second over the whole load.
    pub(crate) per_second: f64,
    /// The same from the start to the kill.
    pub(crate) per_second_before: f64,
    pub(crate) writes_acknowledged: usize,
}

pub(crate) fn is_write(input: &KeyValueInput) -> bool {
    *input != KeyValueInput::Get
}

pub(crate) fn measure<'a>(operations: impl Iterator<Item = &'a Recorded>, events: &mut Events) -> Timeline {
    let mut latencies = Histogram::new_with_bounds(1, LATENCY_MAX, 3).expect("these bounds are valid");
    let mut by_bucket: Vec<Vec<u64>> = vec![Vec::new(); (events.end / BUCKET + 1) as usize];
    let (mut completed, mut before, mut writes_acknowledged) = (0u64, 0u64, 0);
    for (_, operation) in operations {
        let Some((returned, _)) = operation.returned else { continue };
        let latency = returned - operation.called;
        completed += 1;
        before += u64::from(returned <= events.killed);
        latencies.saturating_record(latency);
        if let Some(bucket) = by_bucket.get_mut((returned / BUCKET) as usize) {
            bucket.push(latency);
        }
        if is_write(&operation.input) {
            writes_acknowledged += 1;
            if operation.called >= events.gone {
                events.next_write = Some(events.next_write.map_or(returned, |first| first.min(returned)));
            }
        }
    }
    // The leader is noticed by asking now and then; an acknowledged write proves it, if that was earlier.
    events.new_leader = events.new_leader.min(events.next_write.unwrap_or(u64::MAX));
    let rate = |count: u64, nanoseconds: u64| count as f64 / (nanoseconds.max(1) as f64 / 1e9);
    Timeline {
        buckets: by_bucket.into_iter().map(summarize).collect(),
        latencies,
        per_second: rate(completed, events.end),
        per_second_before: rate(before, events.killed),
        writes_acknowledged,
    }
}

fn summarize(mut latencies: Vec<u64>) -> Bucket {
    latencies.sort_unstable();
    let quantile = |per_cent: usize| {
        let rank = (latencies.len() * per_cent).div_ceil(100);
        latencies.get(rank.saturating_sub(1)).copied()
    };
    Bucket { count: latencies.len(), median: quantile(50), p99: quantile(99) }
}
