//! Loss of power, failed syncs and a full disk beneath the durable log: what was acknowledged is
//! there, what is there was attempted, in order and whole, and a mere crash never makes opening
//! refuse.

#![cfg(all(feature = "persistence", feature = "testkit"))]

use raft_io::action::Write;
use raft_io::log::{LogView, RaftLog, WalError, WalLog, WalOptions};
use raft_io::testkit::disk::{FaultyDisk, Image};
use raft_io::testkit::log_suite::{Cut, Model, Op, Random, Shape};
use raft_io::{ClusterId, NodeId};
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

fn open(disk: &FaultyDisk) -> Result<WalLog, WalError> {
    // Small segments, so that the sequences below roll and purge many times.
    let options = WalOptions::new(ClusterId(7), NodeId(1)).segment_bytes(4096).cache_bytes(400);
    WalLog::open_in(Arc::new(disk.clone()), options)
}

/// A log at work, with every state that it went through.
struct Run {
    disk: FaultyDisk,
    log: Option<WalLog>,
    /// The state after each write. The first is the empty log.
    states: Vec<Model>,
    /// The last of them that was acknowledged as durable.
    acknowledged: usize,
}

impl Run {
    fn new(disk: FaultyDisk) -> Result<Self, WalError> {
        let log = Some(open(&disk)?);
        Ok(Self { disk, log, states: vec![Model::default()], acknowledged: 0 })
    }

    fn state(&self) -> &Model {
        &self.states[self.states.len() - 1]
    }

    fn log(&mut self) -> &mut WalLog {
        self.log.as_mut().expect("the log is open")
    }

    fn append(&mut self, shapes: &[Shape]) -> Result<(), WalError> {
        let mut writes: Vec<Write> = Vec::new();
        for shape in shapes {
            let mut next = self.state().clone();
            writes.push(shape.write(&next));
            next.write(&writes[writes.len() - 1]);
            self.states.push(next);
        }
        self.log().append(&mut writes)
    }

    fn acknowledge(&mut self) {
        self.acknowledged = self.states.len() - 1;
    }

    fn step(&mut self, op: &Op) -> Result<(), WalError> {
        match op {
            Op::Append(shapes) => self.append(shapes)?,
            Op::Sync => {
                self.log().sync()?;
                self.acknowledge();
            }
            Op::Reopen => {
                self.log().sync()?;
                self.acknowledge();
                self.log = None;
                self.log = Some(open(&self.disk)?);
            }
        }
        Ok(())
    }

    /// The acknowledged states and what may lie behind them.
    fn possible(&self, acknowledged: usize) -> &[Model] {
        &self.states[acknowledged..]
    }
}

/// Opens what is on the disk; it must be one of the possible states.
fn recover(disk: &FaultyDisk, possible: &[Model]) -> (WalLog, Model) {
    let log = match open(disk) {
        Ok(log) => log,
        Err(error) => panic!("a crash made opening refuse: {error}"),
    };
    let recovered = Model::of(&log).expect("the log reads back");
    assert!(possible.contains(&recovered), "acknowledged ⊆ recovered ⊆ attempted does not hold for {recovered:?}");
    (log, recovered)
}

fn hash(image: &Image) -> u64 {
    let mut hasher = DefaultHasher::new();
    image.hash(&mut hasher);
    hasher.finish()
}

/// Checks each image that was not seen under the same expectation; on some, also crashes during and
/// after the recovery.
fn check_images(images: Vec<Image>, possible: &[Model], random: &mut Random) -> usize {
    let mut seen = HashSet::new();
    let distinct = images.into_iter().filter(|image| seen.insert(hash(image)));
    let mut checked = 0;
    for image in distinct {
        checked += 1;
        let disk = FaultyDisk::from_image(&image);
        let nested = random.draw() % 8 == 0;
        if nested {
            disk.watch(random.clone(), 2);
        }
        let (mut log, recovered) = recover(&disk, possible);
        if !nested {
            continue;
        }
        // What an opened log shows may be acknowledged to others: it must survive from then on.
        let during = disk.take_watched();
        let after = disk.crash_images(random, 2);
        for image in during.iter().chain(&after) {
            recover(&FaultyDisk::from_image(image), std::slice::from_ref(&recovered));
        }
        let compaction = (random.draw() % 2 == 0).then(|| Cut::random(|| random.draw()));
        let shape = Shape { hard_state: true, compaction, entries: 2, bytes: 30, new_term: true, ..Shape::default() };
        let mut next = recovered.clone();
        let write = shape.write(&next);
        next.write(&write);
        disk.watch(random.clone(), 2);
        log.append(&mut vec![write]).expect("an append succeeds");
        log.sync().expect("a sync succeeds");
        let either = [recovered, next.clone()];
        for image in disk.take_watched() {
            recover(&FaultyDisk::from_image(&image), &either);
        }
        recover(&FaultyDisk::from_image(&disk.durable_image()), std::slice::from_ref(&next));
    }
    checked
}

#[test]
fn power_loss_at_any_moment_keeps_what_was_acknowledged() {
    let mut checked = 0;
    for seed in 0..16 {
        let mut random = Random(seed);
        let disk = FaultyDisk::new();
        disk.watch(Random(seed), 2);
        let mut run = Run::new(disk).expect("a new log opens");
        checked += check_images(run.disk.take_watched(), run.possible(0), &mut random);
        for _ in 0..24 {
            let before = run.acknowledged;
            run.step(&Op::random(|| random.draw())).expect("a step succeeds");
            checked += check_images(run.disk.take_watched(), run.possible(before), &mut random);
            let now = run.disk.crash_images(&mut random, 3);
            checked += check_images(now, run.possible(run.acknowledged), &mut random);
        }
    }
    assert!(checked > 3_000, "only {checked} crash images were checked");
}

/// Runs a sequence until a step fails, or to its end.
fn run_until_failure(disk: FaultyDisk, seed: u64, steps: usize) -> Run {
    let mut random = Random(seed);
    let Ok(mut run) = Run::new(disk.clone()) else {
        return Run { disk, log: None, states: vec![Model::default()], acknowledged: 0 };
    };
    for _ in 0..steps {
        if run.step(&Op::random(|| random.draw())).is_err() {
            return run;
        }
    }
    // Dropping the log cannot report a failure; the step before was the last.
    run.log = None;
    run
}

/// The process dies and the page cache survives; then the power goes.
fn check_failed(run: &mut Run, random: &mut Random) {
    if let Some(log) = run.log.as_mut() {
        assert!(log.sync().is_err(), "a failed sync is never retried");
        assert!(log.append(&mut Vec::new()).is_err(), "a stopped log takes nothing");
    }
    run.log = None;
    let power_loss = run.disk.crash_images(random, 3);
    check_images(power_loss, run.possible(run.acknowledged), random);
    run.disk.repair();
    let (log, recovered) = recover(&run.disk, run.possible(run.acknowledged));
    // After a failed sync the page cache shows what the medium never got. What the reopened log
    // shows must nevertheless be on the medium now.
    recover(&FaultyDisk::from_image(&run.disk.durable_image()), std::slice::from_ref(&recovered));
    drop(log);
}

#[test]
fn a_failed_sync_stops_the_log_and_loses_nothing_acknowledged() {
    let mut failures = 0;
    for seed in 0..6 {
        for count in 0.. {
            let disk = FaultyDisk::new();
            disk.fail_sync_after(count);
            let mut run = run_until_failure(disk.clone(), seed, 24);
            if disk.syncs() <= count {
                break;
            }
            failures += 1;
            check_failed(&mut run, &mut Random(count));
        }
    }
    assert!(failures > 150, "only {failures} syncs were made to fail");
}

#[test]
fn a_full_disk_stops_the_log_and_loses_nothing_acknowledged() {
    let mut failures = 0;
    for seed in 0..3 {
        for space in (0..).step_by(211) {
            let disk = FaultyDisk::new();
            disk.fill_after(space);
            let mut run = run_until_failure(disk.clone(), seed, 16);
            if !disk.is_full() {
                break;
            }
            failures += 1;
            check_failed(&mut run, &mut Random(space));
        }
    }
    assert!(failures > 100, "only {failures} disks were full");
}

#[test]
fn a_failed_sync_while_opening_changes_nothing() {
    let disk = FaultyDisk::new();
    let mut run = Run::new(disk.clone()).expect("a new log opens");
    let mut random = Random(5);
    for _ in 0..30 {
        run.step(&Op::random(|| random.draw())).expect("a step succeeds");
    }
    let mut refused = 0;
    for count in 0.. {
        // Unsynced writes in the page cache, as after a kill.
        run.append(&[Shape { hard_state: true, truncate: 1, entries: 3, bytes: 50, ..Shape::default() }])
            .expect("append");
        run.log = None;
        disk.fail_sync_after(count);
        match open(&disk) {
            Err(WalError::Io { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
            Ok(log) => run.log = Some(log),
        }
        disk.repair();
        let opened = run.log.take();
        drop(opened);
        let (log, recovered) = recover(&disk, run.possible(run.acknowledged));
        run.acknowledged = run.states.iter().rposition(|state| *state == recovered).expect("one of the states");
        run.states.truncate(run.acknowledged + 1);
        recover(&FaultyDisk::from_image(&disk.durable_image()), std::slice::from_ref(&recovered));
        run.log = Some(log);
        if refused <= count {
            break;
        }
    }
    assert!(refused >= 4, "only {refused} syncs belong to opening");
}

/// A client can choose bytes that look like a record. Torn behind them, the record that carries
/// them is still a torn tail.
#[test]
fn a_command_that_holds_a_record_does_not_confuse_recovery() {
    let disk = FaultyDisk::new();
    let mut run = Run::new(disk.clone()).expect("a new log opens");
    run.append(&[Shape { hard_state: true, entries: 1, bytes: 20, new_term: true, ..Shape::default() }])
        .expect("append");
    run.step(&Op::Sync).expect("a sync succeeds");
    let image = disk.live_image();
    let (_, segment) = image.iter().find(|(name, _)| name.ends_with(".wal")).expect("a segment");
    let mut command = segment[..200].to_vec();
    command.resize(3000, 0x55);
    let mut write = Shape { entries: 1, ..Shape::default() }.write(run.state());
    let id = write.entries[0].id;
    write.entries = vec![raft_io::Entry { id, payload: raft_io::Payload::Command(command.into()) }].into();
    let mut next = run.state().clone();
    next.write(&write);
    run.states.push(next);
    run.log().append(&mut vec![write]).expect("an append succeeds");
    let images = disk.crash_images(&mut Random(1), 50);
    let checked = check_images(images, run.possible(run.acknowledged), &mut Random(2));
    assert!(checked > 10, "the record is torn in {checked} ways");
    assert_eq!(run.log().last().index.0, 2);
}
