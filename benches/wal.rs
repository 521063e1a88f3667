//! Appending to the durable log and syncing it, by batch size, against the floor: the same bytes
//! written to a file full of zeros, and fdatasync. The floor keeps nothing in order, checks nothing
//! and can recover nothing; it is what the disk allows.
//!
//! `cargo bench --bench wal`. Ends with a table of ratios measured alternately in the same run, which
//! is what to compare: the absolute times are the disk's. `RAFT_IO_BENCH_DIR` chooses the disk; on one
//! in memory what remains is the log's own work.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use raft_io::action::{Compaction, Write};
use raft_io::log::wal::{Directory, OsDirectory, RawFile};
use raft_io::log::{LogView, RaftLog, WalLog, WalOptions};
use raft_io::{ClusterId, Entry, EntryId, NodeId, Payload, Term};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const COMMAND_BYTES: usize = 256;
const BATCHES: [usize; 3] = [1, 16, 256];
const FLOOR_BYTES: u64 = 64 << 20;
/// Entries between compactions, so that the bench does not fill the disk.
const COMPACT_EVERY: u64 = 200_000;

/// `RAFT_IO_BENCH_DIR`, or a directory on the disk that the build is on.
fn root() -> PathBuf {
    let chosen = std::env::var_os("RAFT_IO_BENCH_DIR").map(PathBuf::from);
    chosen.unwrap_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR"))).join("bench-wal")
}

/// An empty directory below it.
fn place(name: &str) -> PathBuf {
    let place = root().join(name);
    let _ = std::fs::remove_dir_all(&place);
    std::fs::create_dir_all(&place).expect("a place for the bench");
    place
}

struct Floor {
    file: Arc<dyn RawFile>,
    offset: u64,
    bytes: Vec<u8>,
}

impl Floor {
    fn new(name: &str, batch: usize) -> Self {
        let directory = OsDirectory::new(place(name)).expect("a directory");
        let file = directory.create("floor").expect("a file");
        (0..FLOOR_BYTES >> 20).for_each(|chunk| file.write_at(chunk << 20, &[0; 1 << 20]).expect("zeros"));
        file.sync().expect("a sync");
        // What the log writes for the same batch: see docs/FORMAT.md.
        let bytes = vec![0x5a; 48 + 9 + 25 + batch * (5 + COMMAND_BYTES)];
        Self { file, offset: 0, bytes }
    }

    fn round(&mut self) {
        if self.offset + self.bytes.len() as u64 > FLOOR_BYTES {
            self.offset = 0;
        }
        self.file.write_at(self.offset, &self.bytes).expect("a write");
        self.file.sync().expect("a sync");
        self.offset += self.bytes.len() as u64;
    }
}

fn open(place: &Path) -> WalLog {
    WalLog::open(place, WalOptions::new(ClusterId(1), NodeId(1))).expect("a log opens")
}

struct Log {
    log: WalLog,
    command: Payload,
    writes: Vec<Write>,
    batch: usize,
}

impl Log {
    fn new(name: &str, batch: usize) -> Self {
        let log = open(&place(name));
        let command = Payload::Command(vec![0x5a; COMMAND_BYTES].into());
        Self { log, command, writes: Vec::new(), batch }
    }

    fn append(&mut self) {
        let first = self.log.last().index.next();
        let id = |position| EntryId { index: first.plus(position), term: Term(1) };
        let entry = |position| Entry { id: id(position), payload: self.command.clone() };
        let write = Write { entries: (0..self.batch).map(entry).collect(), ..Write::default() };
        self.writes.push(write);
        self.log.append(black_box(&mut self.writes)).expect("an append");
    }

    fn round(&mut self) {
        self.append();
        self.log.sync().expect("a sync");
        if self.log.last().index.0 - self.log.base().index.0 > COMPACT_EVERY {
            let base = self.log.last();
            self.writes.push(Write {
                compaction: Some(Compaction { snapshot: base, base, membership: Arc::default() }),
                ..Write::default()
            });
            self.log.append(&mut self.writes).expect("a compaction");
            self.log.sync().expect("a sync");
        }
    }
}

fn append_and_sync(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wal append and sync");
    group.sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    for batch in BATCHES {
        group.throughput(Throughput::Elements(batch as u64));
        let mut floor = Floor::new("criterion-floor", batch);
        group.bench_function(BenchmarkId::new("floor", batch), |bencher| bencher.iter(|| floor.round()));
        let mut log = Log::new("criterion-log", batch);
        group.bench_function(BenchmarkId::new("log", batch), |bencher| bencher.iter(|| log.round()));
    }
    group.finish();
}

/// The median time of a round of each, taken in turns so that both meet the same disk, and the mean,
/// which also has the segments that the log creates.
fn print_ratios() {
    println!("\nbatch   floor p50     log p50   p50 ratio   floor mean    log mean  mean ratio   log entries/s");
    for batch in BATCHES {
        let mut floor = Floor::new("ratio-floor", batch);
        let mut log = Log::new("ratio-log", batch);
        let (mut floor_times, mut log_times) = (Vec::new(), Vec::new());
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(4) {
            for _ in 0..16 {
                floor_times.push(timed(|| floor.round()));
            }
            for _ in 0..16 {
                log_times.push(timed(|| log.round()));
            }
        }
        let (floor_p50, log_p50) = (median(&mut floor_times), median(&mut log_times));
        let (floor_mean, log_mean) = (mean(&floor_times), mean(&log_times));
        let per_second = batch as f64 / log_mean * 1e6;
        println!(
            "{batch:5} {floor_p50:8.1} µs {log_p50:8.1} µs {:11.2} {floor_mean:9.1} µs {log_mean:8.1} µs {:11.2} {per_second:15.0}",
            floor_p50 / log_p50,
            floor_mean / log_mean,
        );
    }
}

/// How long it takes to open a log whose files the system still has in memory, by its size.
fn print_opening() {
    println!("\n   log size   entries     opening");
    for (size_mib, batch) in [(64, 16), (64, 1024), (512, 1024)] {
        let mut log = Log::new("opening", batch);
        let rounds = (size_mib << 20) / (batch * (5 + COMMAND_BYTES));
        for _ in 0..rounds {
            log.append();
        }
        log.log.close().expect("a log closes");
        let started = Instant::now();
        let log = open(&root().join("opening"));
        let milliseconds = started.elapsed().as_secs_f64() * 1e3;
        assert_eq!(log.last().index.0, (rounds * batch) as u64, "everything is there");
        println!("{size_mib:7} MiB {:9} {milliseconds:8.1} ms", log.last().index);
    }
}

fn timed(round: impl FnOnce()) -> f64 {
    let started = Instant::now();
    round();
    started.elapsed().as_secs_f64() * 1e6
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn mean(times: &[f64]) -> f64 {
    times.iter().sum::<f64>() / times.len() as f64
}

criterion_group!(benches, append_and_sync);

fn main() {
    benches();
    Criterion::default().configure_from_args().final_summary();
    // Under `cargo test` the rounds above are enough to show that it works.
    if std::env::args().any(|argument| argument == "--bench") {
        print_ratios();
        print_opening();
    }
    let _ = std::fs::remove_dir_all(root());
}
