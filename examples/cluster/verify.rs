//! The verdicts: nothing acknowledged is lost, the history is linearizable, the replicas are equal.

use crate::client::{Client, NodeStatus};
use crate::keys;
use crate::linearizability::{KeyValue, KeyValueInput as In, KeyValueOutput as Out, Operation, Summary, check_each};
use crate::load::{Notes, Recorded, Shared, understand, words};
use crate::nodes::{Nodes, await_some};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZero;
use std::thread;
use std::time::{Duration, Instant};

/// One verdict.
#[derive(Clone, Debug)]
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) holds: bool,
    pub(crate) detail: String,
}

/// Keys read back in one pipeline.
const READ_BACK_AT_ONCE: usize = 200;

/// Reads every key that was ever named, as one more client whose reads belong to the history.
pub(crate) fn read_back(shared: &Shared, port: u16, operations: &[Recorded]) -> Result<Vec<Recorded>, String> {
    let keys: BTreeSet<u32> = operations.iter().map(|(key, _)| *key).collect();
    let keys: Vec<u32> = keys.into_iter().collect();
    let mut client = Client::connect(port).map_err(|error| format!("cannot connect to read back: {error}"))?;
    let mut reads = Vec::with_capacity(keys.len());
    for some in keys.chunks(READ_BACK_AT_ONCE) {
        let requests: Vec<Vec<Bytes>> = some.iter().map(|key| words(*key, &In::Get)).collect();
        let called = shared.now();
        let replies = client.pipeline(&requests).map_err(|error| format!("reading back failed: {error}"))?;
        let returned = shared.now();
        for (key, reply) in some.iter().zip(replies) {
            let output = understand(&In::Get, &reply)
                .ok_or_else(|| format!("reading {} back answered {reply:?}", keys::name(*key)))?;
            reads.push((*key, Operation::completed(In::Get, called, returned, output)));
        }
    }
    Ok(reads)
}

/// Whether each acknowledged write that can be told apart is there: every ledger entry with its
/// value, every counter at least as high as its acknowledged increments.
pub(crate) fn check_lost(operations: &[Recorded], reads: &[Recorded]) -> Check {
    let found: BTreeMap<u32, &Option<Bytes>> = reads
        .iter()
        .filter_map(|(key, read)| match &read.returned {
            Some((_, Out::Value(value))) => Some((*key, value)),
            _ => None,
        })
        .collect();
    let (mut entries, mut lost) = (0u64, 0u64);
    let mut increments: BTreeMap<u32, u64> = BTreeMap::new();
    for (key, operation) in operations {
        match (&operation.input, &operation.returned) {
            (In::Set(value), Some((_, Out::Done))) if keys::is_ledger(*key) => {
                entries += 1;
                lost += u64::from(found.get(key).and_then(|found| found.as_ref()) != Some(value));
            }
            (In::Increment, Some((_, Out::Number(_)))) => *increments.entry(*key).or_default() += 1,
            _ => {}
        }
    }
    for (key, acknowledged) in &increments {
        let value = found.get(key).and_then(|found| found.as_ref());
        let number = value.and_then(|value| std::str::from_utf8(value).ok()?.parse::<u64>().ok()).unwrap_or(0);
        lost += acknowledged.saturating_sub(number);
    }
    let sum: u64 = increments.values().sum();
    Check {
        name: "acknowledged writes lost",
        holds: lost == 0 && entries > 0 && sum > 0,
        detail: format!("{lost}  (read back one by one: {entries} ledger entries, {sum} increments)"),
    }
}

/// Checks the history key by key, on every processor.
pub(crate) fn check_history(history: Vec<Recorded>) -> Check {
    let workers = thread::available_parallelism().map_or(1, NonZero::get);
    let mut parts: Vec<Vec<Recorded>> = vec![Vec::new(); workers];
    for recorded in history {
        parts[recorded.0 as usize % workers].push(recorded);
    }
    let summaries: Vec<Summary<u32>> = thread::scope(|scope| {
        let checks: Vec<_> = parts.iter().map(|part| scope.spawn(|| check_each(&KeyValue, part))).collect();
        checks.into_iter().map(|check| check.join().expect("the checker does not panic")).collect()
    });
    let sum = |field: fn(&Summary<u32>) -> usize| summaries.iter().map(field).sum::<usize>();
    let (operations, objects, unknown) =
        (sum(|part| part.operations), sum(|part| part.objects), sum(|part| part.unknown));
    let failures: Vec<String> = summaries
        .iter()
        .zip(&parts)
        .flat_map(|(summary, part)| summary.failures.iter().map(move |failure| (failure, part)))
        .map(|((key, verdict), part)| {
            let stuck = match verdict {
                crate::linearizability::Verdict::Violation { stuck, .. } => {
                    let shown: Vec<String> = stuck.iter().map(|at| format!("{:?}", part[*at].1)).collect();
                    format!("violation; cannot follow: {}", shown.join(", "))
                }
                other => format!("{other:?}"),
            };
            format!("{}: {stuck}", keys::name(*key))
        })
        .collect();
    let mut detail = format!("{operations} operations on {objects} keys, {unknown} of unknown outcome");
    for failure in failures.iter().take(3) {
        detail.push_str(&format!("; {failure}"));
    }
    Check { name: "history linearizable", holds: failures.is_empty() && operations > 0, detail }
}

/// Waits until every member stands at the same command, and compares what they hold there.
pub(crate) fn check_replicas(nodes: &Nodes, patience: Duration) -> Check {
    let mut last: Vec<Option<NodeStatus>> = Vec::new();
    let members = nodes.serving();
    let agreed = await_some(
        Instant::now() + patience,
        || {},
        || {
            last = members.iter().map(|node| nodes.status(*node)).collect();
            let statuses: Vec<NodeStatus> = last.iter().flatten().cloned().collect();
            let level = statuses.len() == members.len()
                && statuses.iter().all(|status| status.hash_index == statuses[0].hash_index);
            level.then_some(statuses)
        },
    );
    let name = "replicas equal";
    let Some(statuses) = agreed else {
        let detail = format!("the replicas do not come to the same position: {last:?}");
        return Check { name, holds: false, detail };
    };
    let first = &statuses[0];
    let holds = statuses.iter().all(|status| status.hashes == first.hashes && status.keys == first.keys);
    let hashes: Vec<&str> = statuses.iter().map(|status| &status.hashes.0[..12]).collect();
    let detail = format!("{} keys after entry {}: {}", first.keys, first.hash_index, hashes.join(" = "));
    Check { name, holds, detail: if holds { detail } else { detail.replace(" = ", " / ") } }
}

/// Replies that make no sense are failures too.
pub(crate) fn check_replies(notes: &[Notes]) -> Check {
    let unexpected: Vec<&String> = notes.iter().flat_map(|notes| &notes.unexpected).collect();
    let detail = match unexpected.first() {
        None => "every reply answers its request".to_owned(),
        Some(first) => format!("{} unexpected, the first: {first}", unexpected.len()),
    };
    Check { name: "replies understood", holds: unexpected.is_empty(), detail }
}
