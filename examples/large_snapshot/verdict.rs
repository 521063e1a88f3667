//! What a run comes to: figures, and a verdict for each criterion.

use crate::load::{Phase, histogram};
use crate::run::{Outcome, Plan, speed};
use serde_json::{Value, json};

/// How much resident memory a process may add to its baseline, in bytes.
const MEMORY_MAX: u64 = 256 << 20;
/// How much slower the 99th percentile may become.
const SLOWDOWN_MAX: f64 = 2.0;

pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) holds: bool,
    pub(crate) detail: String,
}

/// Milliseconds at a quantile, of all writes in these phases.
fn latency(outcome: &Outcome, phases: &[Phase], quantile: f64) -> f64 {
    let mut all = histogram();
    for phase in phases {
        all.add(&outcome.seen.latencies[*phase as usize]).expect("both have the same bounds");
    }
    all.value_at_quantile(quantile) as f64 / 1000.0
}

const DURING: [Phase; 3] = [Phase::Taking, Phase::Fetching, Phase::Installing];

pub(crate) fn checks(outcome: &Outcome) -> Vec<Check> {
    let mut checks = Vec::new();
    let grown: Vec<u64> = outcome.memory.iter().map(|memory| memory.peak.saturating_sub(memory.baseline)).collect();
    let (holds, detail) = if grown.is_empty() {
        (true, "not measured: it takes /proc of Linux".to_owned())
    } else {
        let each: Vec<String> =
            grown.iter().map(|bytes| format!("+{:.1}", *bytes as f64 / f64::from(1 << 20))).collect();
        (grown.iter().all(|bytes| *bytes < MEMORY_MAX), format!("{} MiB, of {} each", each.join(" "), MEMORY_MAX >> 20))
    };
    checks.push(Check { name: "resident memory bounded", holds, detail });

    // The newcomer becomes a follower of the term that it hears of; the others stay what they were.
    let (before, after) = (&outcome.statuses_before[..3], &outcome.statuses_after);
    let same = before
        .iter()
        .zip(after)
        .all(|(old, new)| (old.term, old.leads, old.role_changes) == (new.term, new.leads, new.role_changes));
    let one_term = after.iter().all(|status| status.term == after[0].term);
    let terms: Vec<String> = after.iter().map(|status| status.term.to_string()).collect();
    checks.push(Check { name: "no election", holds: same && one_term, detail: format!("terms {}", terms.join(" ")) });

    let (before, during) = (latency(outcome, &[Phase::Before], 0.99), latency(outcome, &DURING, 0.99));
    let ratio = during / before.max(0.001);
    let detail = format!("{before:.1} ms before, {during:.1} ms during: {ratio:.2} of at most {SLOWDOWN_MAX}");
    checks.push(Check { name: "p99 of writes", holds: ratio <= SLOWDOWN_MAX, detail });

    let failed = outcome.seen.failed;
    let reason = outcome.seen.first_failure.as_ref().map_or(String::new(), |failure| format!(", the first: {failure}"));
    checks.push(Check { name: "every write served", holds: failed == 0, detail: format!("{failed} failed{reason}") });

    let (applied, sum, writes) = &outcome.states[0];
    let equal = outcome.states.iter().all(|state| state == &outcome.states[0]);
    let sums: Vec<&str> = outcome.states.iter().map(|(_, sum, _)| sum.as_str()).collect();
    let detail = if equal { format!("{sum} after entry {applied}") } else { sums.join(" ≠ ") };
    checks.push(Check { name: "states equal", holds: equal, detail });

    let acknowledged = outcome.seen.acknowledged;
    let lost = acknowledged.saturating_sub(*writes);
    let detail = format!("{lost} of {acknowledged}");
    checks.push(Check { name: "acknowledged writes lost", holds: lost == 0, detail });

    let newcomer = outcome.statuses_after[3];
    let by_snapshot = newcomer.fetches == 1 && newcomer.first > 1 && newcomer.has_snapshot && newcomer.votes;
    let detail = format!("{} fetched, its log begins at entry {}", newcomer.fetches, newcomer.first);
    checks.push(Check { name: "joined by the snapshot", holds: by_snapshot, detail });
    checks
}

pub(crate) fn print(plan: &Plan, outcome: &Outcome, checks: &[Check]) {
    println!();
    println!("  {:<10} {:>8} {:>10} {:>10} {:>10}", "writes", "number", "p50 ms", "p99 ms", "max ms");
    for phase in &Phase::ALL[1..] {
        let count = outcome.seen.latencies[*phase as usize].len();
        let at = |quantile| latency(outcome, &[*phase], quantile);
        println!("  {:<10} {count:>8} {:>10.1} {:>10.1} {:>10.1}", phase.name(), at(0.5), at(0.99), at(1.0));
    }
    println!();
    for (phase, time) in DURING.iter().zip(&outcome.took) {
        println!("  {:<10} {}", phase.name(), speed(outcome.snapshot_bytes, *time));
    }
    let limit = plan.bytes_per_second.map_or("none".to_owned(), |limit| format!("{} MiB/s", limit >> 20));
    println!("  {:<10} {limit}", "limit");
    println!();
    for memory in &outcome.memory {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        println!(
            "  node {}     resident {:.1} MiB before, {:.1} MiB at most",
            memory.node,
            mib(memory.baseline),
            mib(memory.peak)
        );
    }
    println!();
    for check in checks {
        let mark = if check.holds { "ok  " } else { "FAIL" };
        println!("  {:<25} {mark}  {}", check.name, check.detail);
    }
    println!();
}

pub(crate) fn json(plan: &Plan, outcome: &Outcome, checks: &[Check]) -> Value {
    let phases = Phase::ALL[1..].iter().map(|phase| {
        let at = |quantile| latency(outcome, &[*phase], quantile);
        let writes = outcome.seen.latencies[*phase as usize].len();
        json!({ "phase": phase.name(), "writes": writes, "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1.0) })
    });
    let memory = outcome
        .memory
        .iter()
        .map(|memory| json!({ "node": memory.node, "baseline_bytes": memory.baseline, "peak_bytes": memory.peak }));
    let verdicts =
        checks.iter().map(|check| json!({ "name": check.name, "holds": check.holds, "detail": check.detail }));
    json!({
        "snapshot_bytes": outcome.snapshot_bytes,
        "limit_bytes_per_second": plan.bytes_per_second,
        "writes_per_second": plan.rate,
        "seconds": { "snapshot": outcome.took[0].as_secs_f64(), "fetch": outcome.took[1].as_secs_f64(), "install": outcome.took[2].as_secs_f64() },
        "disk_stalls": outcome.statuses_after.iter().map(|status| status.disk_stalls).sum::<u64>(),
        "latencies": phases.collect::<Vec<_>>(),
        "memory": memory.collect::<Vec<_>>(),
        "checks": verdicts.collect::<Vec<_>>(),
        "holds": checks.iter().all(|check| check.holds),
    })
}
