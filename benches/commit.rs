//! What committing costs in a cluster within one thread: 64 B commands, applied on the leader, by size and batch.

mod in_memory;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use in_memory::InMemory;

/// A cluster is replaced after so many entries, so that its logs stay small.
const ENTRIES_MAX: u64 = 1 << 18;

fn command() -> Bytes {
    Bytes::from(vec![7; 64])
}

fn commit(criterion: &mut Criterion) {
    for nodes in [1, 3, 5] {
        let mut group = criterion.benchmark_group(format!("commit/{nodes}_nodes"));
        for batch in [1, 64, 256] {
            group.throughput(Throughput::Elements(batch));
            group.bench_function(BenchmarkId::from_parameter(batch), |bencher| {
                let mut cluster = InMemory::new(nodes);
                bencher.iter(|| {
                    if cluster.applied_by_leader().commands >= ENTRIES_MAX {
                        check(&mut cluster);
                        cluster = InMemory::new(nodes);
                    }
                    if batch == 1 {
                        cluster.commit(command());
                    } else {
                        cluster.commit_batch((0..batch).map(|_| command()).collect());
                    }
                });
                check(&mut cluster);
            });
        }
        group.finish();
    }
}

/// Every node has applied the same.
fn check(cluster: &mut InMemory) {
    cluster.heartbeat();
    let applied = cluster.applied();
    assert!(applied[0].commands > 0 && applied.iter().all(|sum| *sum == applied[0]), "{applied:?}");
}

fn heartbeat(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("heartbeat_round");
    for nodes in [3, 5] {
        let mut cluster = InMemory::new(nodes);
        group.bench_function(format!("{nodes}_nodes"), |bencher| bencher.iter(|| cluster.heartbeat()));
    }
    group.finish();
}

criterion_group!(benches, commit, heartbeat);
criterion_main!(benches);
