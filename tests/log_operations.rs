//! Every operation of the log's disk fails once, at every point: reading, opening, creating, renaming, removing, measuring,
//! listing, writing, syncing. The log stops or goes on as documented, and nothing acknowledged is lost.

#![cfg(all(feature = "persistence", feature = "testkit"))]

use raft_io::log::{RaftLog, WalError, WalLog, WalOptions};
use raft_io::testkit::disk::FaultyDisk;
use raft_io::testkit::log_suite::{Model, Op, Random};
use raft_io::{ClusterId, NodeId};
use std::collections::BTreeMap;
use std::sync::Arc;

fn open(disk: &FaultyDisk) -> Result<WalLog, WalError> {
    let options = WalOptions::new(ClusterId(7), NodeId(1)).segment_bytes(4096).cache_bytes(100);
    WalLog::open_in(Arc::new(disk.clone()), options)
}

/// A log at work, with every state that it went through.
struct Run {
    disk: FaultyDisk,
    log: Option<WalLog>,
    states: Vec<Model>,
    acknowledged: usize,
}

impl Run {
    fn state(&self) -> &Model {
        self.states.last().expect("there is a first state")
    }

    fn log(&mut self) -> Result<&mut WalLog, WalError> {
        if self.log.is_none() {
            self.log = Some(open(&self.disk)?);
        }
        Ok(self.log.as_mut().expect("it was opened"))
    }

    fn step(&mut self, op: &Op) -> Result<(), WalError> {
        match op {
            Op::Append(shapes) => {
                for shape in shapes {
                    let mut next = self.state().clone();
                    let write = shape.write(&next);
                    next.write(&write);
                    self.states.push(next);
                    self.log()?.append(&mut vec![write])?;
                }
            }
            Op::Sync | Op::Reopen => {
                self.log()?.sync()?;
                self.acknowledged = self.states.len() - 1;
                if *op == Op::Reopen {
                    self.log = None;
                    self.log()?;
                }
            }
        }
        Ok(())
    }

    /// Reads all of it, some of it from the disk.
    fn read(&mut self) -> Result<Model, String> {
        Model::of(self.log().map_err(|error| error.to_string())?)
    }

    fn possible(&self) -> &[Model] {
        &self.states[self.acknowledged..]
    }
}

/// An error of the disk is passed on as that, with the file: not taken for damage, nor for the end of the log.
fn assert_of_the_disk(error: &WalError) {
    let text = error.to_string();
    assert!(matches!(error, WalError::Io { .. }), "not the disk's error: {text}");
    assert!(text.contains("faulty-disk") && text.contains("injected"), "neither file nor cause: {text}");
}

#[test]
fn whichever_operation_fails_the_log_loses_nothing_and_says_which() {
    let mut outcomes: BTreeMap<&str, u32> = BTreeMap::new();
    for seed in 0..6 {
        for count in 0.. {
            let disk = FaultyDisk::new();
            disk.fail_operation_after(count);
            let mut run = Run { disk: disk.clone(), log: None, states: vec![Model::default()], acknowledged: 0 };
            let mut random = Random(seed);
            let failed = (0..20).find_map(|_| run.step(&Op::random(|| random.draw())).err());
            if disk.operations() <= count {
                break;
            }
            match &failed {
                Some(error) => {
                    assert_of_the_disk(error);
                    if let Some(log) = run.log.as_mut() {
                        assert!(
                            log.append(&mut Vec::new()).is_err() && log.sync().is_err(),
                            "a stopped log takes nothing"
                        );
                    }
                    *outcomes.entry("stopped").or_default() += 1;
                }
                None => {
                    // A segment that was not prepared, a file that was not removed: the log is as it must be.
                    let read = run.read().expect("it reads back");
                    assert_eq!(read, *run.state());
                    *outcomes.entry("went on").or_default() += 1;
                }
            }
            drop(run.log.take());
            // The process is dead, the page cache lives; then the power goes.
            for disk in [disk.clone(), FaultyDisk::from_image(&disk.durable_image())] {
                let log = open(&disk).unwrap_or_else(|error| panic!("seed {seed}, operation {count}: {error}"));
                let recovered = Model::of(&log).expect("it reads back");
                assert!(run.possible().contains(&recovered), "seed {seed}, operation {count}, after {failed:?}");
            }
        }
    }
    println!("operations that failed: {outcomes:?}");
    assert!(outcomes["stopped"] > 500 && outcomes["went on"] > 20, "{outcomes:?}");
}

/// Opening a log that is whole: whichever operation fails, opening fails or gives all of it. A log that ends where reading
/// failed would give less, and its next record would overwrite the rest.
#[test]
fn an_error_of_reading_is_never_taken_for_the_end_of_the_log() {
    let mut outcomes: BTreeMap<&str, u32> = BTreeMap::new();
    for seed in 0..10 {
        let disk = FaultyDisk::new();
        let mut run = Run { disk: disk.clone(), log: None, states: vec![Model::default()], acknowledged: 0 };
        let mut random = Random(seed);
        (0..40).for_each(|_| run.step(&Op::random(|| random.draw())).expect("a step succeeds"));
        run.step(&Op::Sync).expect("a sync succeeds");
        let whole = run.state().clone();
        drop(run.log.take());
        let image = disk.live_image();
        for count in 0.. {
            let disk = FaultyDisk::from_image(&image);
            disk.fail_operation_after(count);
            let opened = open(&disk);
            if disk.operations() <= count {
                break;
            }
            match opened {
                Ok(log) => {
                    // The failure may come with a cold read: then that fails, and the next does not.
                    let read = Model::of(&log).or_else(|_| Model::of(&log)).expect("it reads back");
                    assert_eq!(read, whole, "seed {seed}, operation {count}");
                    *outcomes.entry("opened").or_default() += 1;
                }
                Err(error) => {
                    assert_of_the_disk(&error);
                    *outcomes.entry("refused").or_default() += 1;
                }
            }
            disk.repair();
            let log = open(&disk).unwrap_or_else(|error| panic!("seed {seed}, operation {count}: {error}"));
            assert_eq!(Model::of(&log).expect("it reads back"), whole, "seed {seed}, operation {count}");
        }
    }
    println!("operations of an opening that failed: {outcomes:?}");
    assert!(outcomes["refused"] > 200 && outcomes["opened"] > 10, "{outcomes:?}");
}
