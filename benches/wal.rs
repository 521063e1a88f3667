//! Appending to the durable log and syncing it, by batch size, against the floor: the same bytes
//! written to a file full of zeros, and fdatasync. The floor keeps nothing in order, checks nothing
//! and can recover nothing; it is what the disk allows.
//!
//! `cargo bench --bench wal`. Ends with a table of ratios measured alternately in the same run, which
//! is what to compare: the absolute times are the disk's. `RAFT_IO_BENCH_DIR` chooses the disk; on one
//! in memory what remains is the log's own work.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use raft_io::action::Write;
use raft_io::log::{LogView, RaftLog, WalLog, WalOptions};
use raft_io::{ClusterId, Entry, EntryId, NodeId, Payload, Term};
use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
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
    file: File,
    offset: u64,
    bytes: Vec<u8>,
}

impl Floor {
    fn new(name: &str, batch: usize) -> Self {
        let path = place(name).join("floor");
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(true).open(path).expect("a file");
        (0..FLOOR_BYTES >> 20).for_each(|_| file.write_all(&[0; 1 << 20]).expect("zeros"));
        file.sync_all().expect("a sync");
        // What the log writes for the same batch: see docs/FORMAT.md.
        let bytes = vec![0x5a; 48 + 9 + 25 + batch * (5 + COMMAND_BYTES)];
        Self { file, offset: 0, bytes }
    }

    fn round(&mut self) {
        if self.offset + self.bytes.len() as u64 > FLOOR_BYTES {
            self.offset = 0;
        }
        self.file.write_all_at(&self.bytes, self.offset).expect("a write");
        self.file.sync_data().expect("a sync");
        self.offset += self.bytes.len() as u64;
    }
}

struct Log {
    log: WalLog,
    command: Payload,
    writes: Vec<Write>,
    batch: usize,
}

impl Log {
    fn new(name: &str, batch: usize) -> Self {
        let options = WalOptions::new(ClusterId(1), NodeId(1));
        let log = WalLog::open(place(name), options).expect("a new log opens");
        let command = Payload::Command(vec![0x5a; COMMAND_BYTES].into());
        Self { log, command, writes: Vec::new(), batch }
    }

    fn round(&mut self) {
        let first = self.log.last().index.next();
        let id = |position| EntryId { index: first.plus(position), term: Term(1) };
        let entry = |position| Entry { id: id(position), payload: self.command.clone() };
        let write = Write { entries: (0..self.batch).map(entry).collect(), ..Write::default() };
        self.writes.push(write);
        self.log.append(black_box(&mut self.writes)).expect("an append");
        self.log.sync().expect("a sync");
        if self.log.last().index.0 - self.log.base().index.0 > COMPACT_EVERY {
            self.log.compact(self.log.last().index).expect("a compaction");
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
    }
    let _ = std::fs::remove_dir_all(root());
}
