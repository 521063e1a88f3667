//! Damaged, missing and foreign files beneath the durable log: opening recovers everything that was
//! acknowledged or refuses with an error that names the file and the place; it never opens short.

#![cfg(all(feature = "persistence", feature = "testkit"))]

use raft_io::action::Write;
use raft_io::log::{LogView, RaftLog, Read, SharedLog, WalError, WalLog, WalOptions};
use raft_io::testkit::disk::{FaultyDisk, Image};
use raft_io::testkit::log_suite::{Cut, Model, Shape};
use raft_io::{ClusterId, GroupId, HardState, Index, NodeId, Term};
use std::sync::Arc;

fn options() -> WalOptions {
    WalOptions::new(ClusterId(7), NodeId(1)).segment_bytes(4096)
}

fn open(image: &Image) -> Result<(WalLog, FaultyDisk), WalError> {
    let disk = FaultyDisk::from_image(image);
    WalLog::open_in(Arc::new(disk.clone()), options()).map(|log| (log, disk))
}

fn shape(entries: u8, bytes: u16) -> Shape {
    Shape { hard_state: true, entries, bytes, ..Shape::default() }
}

/// Appends and syncs one write per shape.
fn write_synced(log: &mut WalLog, model: &mut Model, shapes: &[Shape]) {
    for shape in shapes {
        let write = shape.write(model);
        model.write(&write);
        log.append(&mut vec![write]).expect("an append succeeds");
        log.sync().expect("a sync succeeds");
    }
}

/// A closed log over several segments, some of it purged.
fn closed_log() -> (Image, Model) {
    let disk = FaultyDisk::new();
    let mut log = WalLog::open_in(Arc::new(disk.clone()), options()).expect("a new log opens");
    let mut model = Model::default();
    let configuring = Shape { memberships: 0b110, ..shape(3, 300) };
    write_synced(&mut log, &mut model, &[configuring, shape(4, 700), shape(2, 400), configuring]);
    let cut = Cut { held: true, base: 8, ahead: 2, membership: 5 };
    write_synced(&mut log, &mut model, &[Shape { compaction: Some(cut), ..Shape::default() }]);
    write_synced(&mut log, &mut model, &[shape(4, 600), Shape { truncate: 1, ..configuring }, shape(1, 100)]);
    assert_eq!(model.memberships().later.len(), 4, "two on each side of the checkpoint");
    log.close().expect("a log closes");
    // The segment that was prepared ahead goes; every other file is needed.
    drop(WalLog::open_in(Arc::new(disk.clone()), options()).expect("a closed log opens"));
    (disk.durable_image(), model)
}

fn segments(image: &Image) -> Vec<String> {
    image.keys().filter(|name| name.ends_with(".wal")).cloned().collect()
}

/// The file and the offset that the error names.
fn place(error: &WalError) -> (String, u64) {
    let (WalError::Corrupt { file, offset, .. } | WalError::Unsupported { file, offset, .. }) = error else {
        panic!("not an error that names a place: {error}");
    };
    (file.file_name().expect("a name").to_string_lossy().into_owned(), *offset)
}

/// A closed log in one segment that begins anew in the middle of what it holds.
fn log_begun_anew() -> (Image, Model) {
    let disk = FaultyDisk::new();
    let mut log = WalLog::open_in(Arc::new(disk.clone()), options()).expect("a new log opens");
    let mut model = Model::default();
    let anew = Some(Cut { held: false, base: 1, ahead: 0, membership: 7 });
    write_synced(
        &mut log,
        &mut model,
        &[shape(4, 30), Shape { compaction: anew, ..shape(2, 20) }, Shape { memberships: 1, ..shape(2, 20) }],
    );
    assert_eq!((log.base().index, log.last().index, model.entries.len()), (Index(2), Index(6), 4));
    log.close().expect("a log closes");
    (disk.durable_image(), model)
}

#[test]
fn any_flipped_bit_is_harmless_or_refused() {
    let (image, model) = closed_log();
    assert!(segments(&image).len() >= 2, "the log has several segments: {:?}", segments(&image));
    let (harmless, refused) = flip_every_bit(&image, &model);
    assert!(harmless > 5_000 && refused > 20_000, "{harmless} flips were harmless, {refused} refused");
    let (image, model) = log_begun_anew();
    let (harmless, refused) = flip_every_bit(&image, &model);
    assert!(harmless > 5_000 && refused > 4_000, "{harmless} flips were harmless, {refused} refused");
}

/// Returns how many flipped bits were harmless and how many refused.
fn flip_every_bit(image: &Image, model: &Model) -> (usize, usize) {
    let (mut harmless, mut refused) = (0, 0);
    for (name, bytes) in image {
        // What is full of zeros behind the records is long and all alike: there one bit per byte.
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        for position in 0..bytes.len() {
            let bits = if position < used { 0..8 } else { position % 8..position % 8 + 1 };
            for bit in bits {
                let mut damaged = image.clone();
                damaged.get_mut(name).expect("the file")[position] ^= 1 << bit;
                match open(&damaged) {
                    Ok((log, _)) => {
                        harmless += 1;
                        let found = Model::of(&log).expect("the log reads back");
                        assert_eq!(found, *model, "opened short after bit {bit} of byte {position} of {name}");
                    }
                    Err(error) => {
                        refused += 1;
                        let (file, offset) = place(&error);
                        assert_eq!(file, *name, "{error}");
                        assert!(offset as usize <= position, "{error} for byte {position}");
                    }
                }
            }
        }
    }
    (harmless, refused)
}

/// Entries that are not in memory are checked when they are read.
#[test]
fn damage_behind_an_open_log_is_found_by_the_read() {
    let (image, model) = closed_log();
    let disk = FaultyDisk::from_image(&image);
    let log = WalLog::open_in(Arc::new(disk.clone()), options().cache_bytes(0)).expect("a closed log opens");
    let first = model.base.index.next();
    assert_eq!(log.read(first, first.next(), 1), Read::Cold);
    let name = &segments(&image)[0];
    let used = image[name].iter().rposition(|byte| *byte != 0).expect("records");
    disk.flip(name, used - 400);
    let mut damaged = 0;
    for entry in &model.entries {
        match log.read_blocking(entry.id.index, entry.id.index.next(), usize::MAX) {
            Ok(Read::Entries(found)) => assert_eq!(found[0], *entry),
            Ok(other) => panic!("{other:?}"),
            Err(error) => {
                assert_eq!(place(&error).0, segments(&image)[0]);
                damaged += 1;
            }
        }
    }
    assert!(damaged > 0 && damaged < model.entries.len(), "{damaged} entries are damaged");
}

#[test]
fn a_missing_file_is_refused() {
    let (image, _) = closed_log();
    for name in image.keys().filter(|name| *name != "RESERVE") {
        let mut damaged = image.clone();
        damaged.remove(name);
        let error = open(&damaged).err().unwrap_or_else(|| panic!("opened without {name}"));
        assert_eq!(place(&error), (name.clone(), 0), "{error}");
    }
}

#[test]
fn a_shortened_file_is_refused() {
    let (image, _) = closed_log();
    for (name, bytes) in image.iter().filter(|(name, _)| *name != "WATERMARK" && *name != "RESERVE") {
        let mut damaged = image.clone();
        damaged.insert(name.clone(), bytes[..bytes.len() - 1].to_vec());
        let error = open(&damaged).err().unwrap_or_else(|| panic!("opened with a shorter {name}"));
        assert_eq!(place(&error).0, *name, "{error}");
    }
}

/// Nothing is in it; and logs of versions before 0.7 have none.
#[test]
fn a_missing_or_short_reserve_is_made_again() {
    let (image, model) = closed_log();
    for bytes in [None, Some(0), Some(100)] {
        let mut other = image.clone();
        other.remove("RESERVE");
        other.extend(bytes.map(|bytes| ("RESERVE".to_string(), vec![0; bytes])));
        let disk = FaultyDisk::from_image(&other);
        let log = WalLog::open_in(Arc::new(disk.clone()), options()).expect("it opens");
        model.assert_equals(&log);
        assert_eq!(disk.durable_image()["RESERVE"].len(), image["RESERVE"].len());
    }
}

/// Killed, not closed: only the marks beside the log tell an acknowledged last record from a torn
/// one.
#[test]
fn damage_to_the_last_acknowledged_record_names_its_entries() {
    let disk = FaultyDisk::new();
    let mut log = WalLog::open_in(Arc::new(disk.clone()), options()).expect("a new log opens");
    let mut model = Model::default();
    write_synced(&mut log, &mut model, &[shape(3, 50), shape(2, 60)]);
    let mut killed = disk.live_image();
    let name = segments(&killed)[0].clone();
    let segment = killed.get_mut(&name).expect("the segment");
    let last = segment.iter().rposition(|byte| *byte != 0).expect("a record");
    segment[last] ^= 1;
    match open(&killed) {
        Err(WalError::Corrupt { file, offset, first, last: through, .. }) => {
            assert!(file.ends_with(&name) && offset > 0 && (offset as usize) < last);
            assert_eq!((first, through), (Index(4), Some(Index(5))));
        }
        other => panic!("{other:?}"),
    }
}

/// The marks may lag after a loss of power; then a later record tells.
#[test]
fn damage_before_a_later_record_is_refused_without_the_watermark() {
    let disk = FaultyDisk::new();
    let mut log = WalLog::open_in(Arc::new(disk.clone()), options()).expect("a new log opens");
    let stale = disk.live_image()["WATERMARK"].clone();
    write_synced(&mut log, &mut Model::default(), &[shape(2, 50), shape(2, 60), shape(2, 60)]);
    let mut image = disk.live_image();
    image.insert("WATERMARK".into(), stale);
    let (opened, _) = open(&image).expect("a lagging watermark is no damage");
    assert_eq!(opened.last().index, Index(6));
    let name = segments(&image)[0].clone();
    image.get_mut(&name).expect("the segment")[230] ^= 1;
    match open(&image) {
        Err(WalError::Corrupt { file, first, last: None, .. }) => {
            assert!(file.ends_with(&name));
            assert_eq!(first, Index(3));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_torn_tail_is_cut() {
    let disk = FaultyDisk::new();
    let mut log = WalLog::open_in(Arc::new(disk.clone()), options()).expect("a new log opens");
    let mut model = Model::default();
    write_synced(&mut log, &mut model, &[shape(2, 50)]);
    let before = disk.live_image();
    let unsynced = shape(3, 400).write(&model);
    log.append(&mut vec![unsynced]).expect("an append succeeds");
    let mut torn = disk.live_image();
    let name = segments(&torn)[0].clone();
    let segment = torn.get_mut(&name).expect("the segment");
    let end = segment.iter().rposition(|byte| *byte != 0).expect("a record");
    segment[end - 600..].fill(0);
    let (reopened, repaired) = open(&torn).expect("a torn tail is no damage");
    model.assert_equals(&reopened);
    assert_eq!(repaired.durable_image()[&name], before[&name], "the torn record is gone from the medium");
}

/// Segments of an older copy of the same log have the right identity and places, but another chain.
#[test]
fn a_segment_from_another_time_is_refused() {
    let disk = FaultyDisk::new();
    let mut log = WalLog::open_in(Arc::new(disk.clone()), options()).expect("a new log opens");
    let mut model = Model::default();
    write_synced(&mut log, &mut model, &[shape(2, 50)]);
    let fork = disk.live_image();
    drop(log);
    let continued = |bytes: u16| {
        let (mut log, disk) = open(&fork).expect("a copy opens");
        let mut model = model.clone();
        write_synced(&mut log, &mut model, &[Shape { new_term: bytes % 2 == 0, ..shape(2, 60) }]);
        log.close().expect("a log closes");
        disk.durable_image()
    };
    let (one, other) = (continued(60), continued(61));
    let mut mixed = one.clone();
    let name = segments(&one)[0].clone();
    mixed.insert(name.clone(), other[&name].clone());
    assert_ne!(one[&name], other[&name]);
    let error = open(&mixed).expect_err("another history");
    assert_eq!(place(&error).0, name, "{error}");
}

/// A record of another history of the same log, with the right identity and place and an intact
/// checksum, between records of this one.
#[test]
fn a_record_from_another_history_breaks_the_chain() {
    let disk = FaultyDisk::new();
    let mut log = WalLog::open_in(Arc::new(disk.clone()), options()).expect("a new log opens");
    write_synced(&mut log, &mut Model::default(), &[shape(1, 10)]);
    drop(log);
    let fork = disk.live_image();
    let name = segments(&fork)[0].clone();
    let end = |image: &Image| image[&name].iter().rposition(|byte| *byte != 0).expect("a record") + 1;
    let continued = |vote: u64| {
        let (mut log, disk) = open(&fork).expect("a copy opens");
        let hard_state = Some(HardState { term: Term(1 << 40), vote: Some(NodeId(vote << 56)) });
        log.append(&mut vec![Write { hard_state, ..Write::default() }]).expect("an append succeeds");
        log.sync().expect("a sync succeeds");
        let first = disk.live_image();
        log.append(&mut vec![Write { hard_state, ..Write::default() }]).expect("an append succeeds");
        log.sync().expect("a sync succeeds");
        (first, disk.live_image())
    };
    let ((_, one), (other_first, _)) = (continued(1), continued(2));
    let (start, stop) = (end(&fork), end(&other_first));
    let mut mixed = one.clone();
    mixed.get_mut(&name).expect("the segment")[start..stop].copy_from_slice(&other_first[&name][start..stop]);
    assert_ne!(mixed, one);
    open(&one).expect("one history opens");
    let error = open(&mixed).expect_err("two histories in one");
    assert_eq!(place(&error), (name.clone(), stop as u64), "{error}");
}

#[test]
fn a_foreign_directory_is_refused() {
    let (image, _) = closed_log();
    let with = |options: WalOptions| {
        WalLog::open_in(Arc::new(FaultyDisk::from_image(&image)), options).expect_err("a foreign directory")
    };
    let error = with(WalOptions::new(ClusterId(8), NodeId(1)));
    assert!(matches!(error, WalError::WrongCluster { found: ClusterId(7), expected: ClusterId(8) }), "{error}");
    let error = with(WalOptions::new(ClusterId(7), NodeId(2)));
    assert!(matches!(error, WalError::WrongNode { found: NodeId(1), expected: NodeId(2) }), "{error}");
    let error = with(options().group(GroupId(3)));
    assert!(matches!(error, WalError::WrongGroup { found: GroupId(0), expected: GroupId(3) }), "{error}");
    let (log, disk) = open(&image).expect("nothing was touched");
    drop(log);
    assert_eq!(segments(&disk.live_image()), segments(&image));
}

#[test]
fn a_second_opening_finds_the_log_locked() {
    let place = tempfile::tempdir().expect("a place for the log");
    let mut log = WalLog::open(place.path(), options()).expect("a new log opens");
    let incarnation = log.incarnation();
    log.append(&mut vec![Write { entries: shape(2, 9).write(&Model::default()).entries, ..Write::default() }])
        .expect("an append succeeds");
    log.sync().expect("a sync succeeds");
    let error = WalLog::open(place.path(), options()).expect_err("a second opening");
    assert!(matches!(&error, WalError::Locked { directory } if directory == place.path()), "{error}");
    let reader = log.reader();
    drop(log);
    let log = WalLog::open(place.path(), options()).expect("a closed log opens, whatever its readers do");
    // The same directory, opened once more.
    assert_eq!((log.last(), log.incarnation()), (reader.last(), incarnation + 1));
    let elsewhere = tempfile::tempdir().expect("a place for the log");
    let other = WalLog::open(elsewhere.path(), options()).expect("a new log opens");
    assert_ne!(other.incarnation() >> 32, incarnation >> 32, "each directory has its own identity");
}

/// A read while a sync is under way answers at once.
#[test]
fn a_reader_does_not_wait_for_a_sync() {
    let disk = FaultyDisk::new();
    let mut log = WalLog::open_in(Arc::new(disk.clone()), options()).expect("a new log opens");
    let reader = log.reader();
    let mut model = Model::default();
    write_synced(&mut log, &mut model, &[shape(2, 50)]);
    let next = shape(1, 20).write(&model);
    model.write(&next);
    log.append(&mut vec![next]).expect("an append succeeds");
    let held = disk.hold_syncs();
    let syncing = std::thread::spawn(move || {
        log.sync().expect("a sync succeeds");
        log
    });
    held.wait_until_one_waits();
    assert_eq!(reader.last(), model.last());
    assert!(matches!(reader.read(Index(1), Index(4), usize::MAX), Read::Entries(found) if found.len() == 3));
    assert!(!syncing.is_finished(), "the sync is still held");
    held.release();
    drop(syncing.join().expect("the sync ends"));
}
