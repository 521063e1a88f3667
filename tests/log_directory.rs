//! The log's directory on a real file system: what it deletes there, and what it leaves alone.

#![cfg(feature = "persistence")]

use raft_io::action::Write;
use raft_io::log::{LogView, RaftLog, WalError, WalLog, WalOptions};
use raft_io::{ClusterId, Entry, EntryId, Index, NodeId, Payload};
use std::fs;
use std::path::Path;

fn options() -> WalOptions {
    WalOptions::new(ClusterId(7), NodeId(1)).segment_bytes(4096)
}

fn append(log: &mut WalLog, bytes: usize) {
    let id = EntryId::new(log.last().index.next(), 1);
    let entry = Entry { id, payload: Payload::Command(vec![5; bytes].into()) };
    log.append(&mut vec![Write { entries: vec![entry].into(), ..Write::default() }]).expect("an append succeeds");
    log.sync().expect("a sync succeeds");
}

/// A log with a few segments, closed.
fn make(path: &Path) -> Index {
    let mut log = WalLog::open(path, options()).expect("a new log opens");
    (0..6).for_each(|_| append(&mut log, 1500));
    log.last().index
}

/// The story of the operator who kept `backup.wal` beside the log, and whose file manager had made a copy of a segment: the
/// next opening deleted both, in silence.
#[test]
fn only_what_the_log_made_is_deleted_and_the_rest_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    let last = make(path);
    let foreign = [
        "backup.wal",
        "0000000000000001 (copy).wal",
        "00000000000000AB.wal",
        "0000000000000001.WAL",
        "1.wal",
        // The name of a segment, with a number that no manifest set aside: from another log.
        "00000000000000ff.wal",
        "ffffffffffffffff.wal",
    ];
    for name in foreign {
        fs::write(path.join(name), name).expect("a file");
    }
    fs::write(path.join("peers"), "of the transport").expect("a file");
    // A directory and links with names that the log might give itself next.
    let manifest = fs::read(path.join("MANIFEST")).expect("a manifest");
    let next = u64::from_le_bytes(manifest[48..56].try_into().expect("eight bytes"));
    let mut others = vec![format!("{next:016x}.wal")];
    fs::create_dir(path.join(&others[0])).expect("a directory");
    #[cfg(unix)]
    {
        let (target, link) = (path.join("precious"), format!("{:016x}.wal", next + 1));
        fs::write(&target, "precious").expect("a file");
        std::os::unix::fs::symlink(&target, path.join(&link)).expect("a link");
        others.push(link);
        // Also one with a number that it gave before.
        std::os::unix::fs::symlink(&target, path.join("0000000000000009.wal")).expect("a link");
        others.push("0000000000000009.wal".to_string());
    }
    // What it did make and does not list: gone.
    fs::write(path.join("000000000000000f.wal"), vec![0; 4096]).expect("a file");
    fs::write(path.join("MANIFEST.tmp"), "half").expect("a file");

    for _ in 0..3 {
        let mut log = WalLog::open(path, options()).expect("it opens");
        let mut named: Vec<_> =
            log.foreign_files().iter().map(|file| file.file_name().unwrap().to_str().unwrap().to_string()).collect();
        named.sort();
        let mut expected: Vec<_> = foreign.iter().map(ToString::to_string).chain(others.clone()).collect();
        expected.sort();
        assert_eq!(named, expected);
        (0..4).for_each(|_| append(&mut log, 1500));
    }
    for name in foreign {
        assert_eq!(fs::read(path.join(name)).expect("it is still there"), name.as_bytes());
    }
    assert!(path.join(&others[0]).is_dir());
    #[cfg(unix)]
    assert_eq!(fs::read(path.join("precious")).expect("it is still there"), b"precious");
    assert!(!path.join("000000000000000f.wal").exists() && !path.join("MANIFEST.tmp").exists());
    assert_eq!(WalLog::open(path, options()).expect("it opens").last().index, last.plus(12));
}

/// A segment that 0.6.0 was making when it died has the number that its manifest gives next, and zeros in it.
#[test]
fn a_half_made_segment_of_an_older_version_is_removed_and_a_full_one_with_its_number_is_not() {
    for (bytes, stays) in [(vec![], false), (vec![0; 9000], false), (b"not of this log".to_vec(), true)] {
        let folder = tempfile::tempdir().expect("a folder");
        make(folder.path());
        let manifest = fs::read(folder.path().join("MANIFEST")).expect("a manifest");
        let next = u64::from_le_bytes(manifest[48..56].try_into().expect("eight bytes"));
        let file = folder.path().join(format!("{next:016x}.wal"));
        fs::write(&file, &bytes).expect("a file");
        let log = WalLog::open(folder.path(), options()).expect("it opens");
        assert_eq!(log.foreign_files().len(), usize::from(stays));
        assert_eq!(file.exists(), stays, "{bytes:?}");
    }
}

/// Somebody opens the wrong directory: it is refused before anything in it is touched.
#[test]
fn the_log_of_another_node_keeps_its_leftovers() {
    let folder = tempfile::tempdir().expect("a folder");
    make(folder.path());
    let leftovers = ["MANIFEST.tmp", "000000000000000f.wal"].map(|name| folder.path().join(name));
    leftovers.iter().for_each(|file| fs::write(file, "half").expect("a file"));
    let other = WalLog::open(folder.path(), WalOptions::new(ClusterId(7), NodeId(2)));
    assert!(matches!(other, Err(WalError::WrongNode { .. })));
    let other = WalLog::open(folder.path(), WalOptions::new(ClusterId(8), NodeId(1)));
    assert!(matches!(other, Err(WalError::WrongCluster { .. })));
    assert!(leftovers.iter().all(|file| file.exists()));
}

/// Foreign files are no log: one may begin beside them. A segment without a manifest is a damaged log.
#[test]
fn a_new_log_begins_beside_foreign_files_and_never_over_segments() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("backup.wal"), "precious").expect("a file");
    assert_eq!(make(folder.path()), Index(6));
    assert_eq!(fs::read(folder.path().join("backup.wal")).expect("it is still there"), b"precious");
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("0000000000000001.wal"), "precious").expect("a file");
    assert!(matches!(WalLog::open(folder.path(), options()), Err(WalError::Corrupt { .. })));
    assert_eq!(fs::read(folder.path().join("0000000000000001.wal")).expect("it is still there"), b"precious");
}

/// The story of the second demonstration in one folder: it deleted the first one's directories, and that went on
/// acknowledging into files without names. And its neighbours: moved, replaced by a copy, made anew, emptied.
#[cfg(unix)]
#[test]
fn a_log_whose_directory_was_moved_deleted_or_replaced_acknowledges_nothing_more() {
    let copy = |from: &Path, to: &Path| {
        fs::create_dir(to).expect("a directory");
        for entry in fs::read_dir(from).expect("a directory") {
            let entry = entry.expect("an entry");
            fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
        }
    };
    type Harm<'a> = (&'a str, Box<dyn Fn(&Path, &Path) + 'a>);
    let harms: Vec<Harm<'_>> = vec![
        ("moved", Box::new(|path, aside| fs::rename(path, aside).unwrap())),
        ("deleted", Box::new(|path, _| fs::remove_dir_all(path).unwrap())),
        (
            "made anew",
            Box::new(|path, _| {
                fs::remove_dir_all(path).unwrap();
                fs::create_dir(path).unwrap();
            }),
        ),
        (
            "replaced by a copy",
            Box::new(|path, aside| {
                fs::rename(path, aside).unwrap();
                copy(aside, path);
            }),
        ),
        (
            "replaced by another log",
            Box::new(|path, aside| {
                fs::rename(path, aside).unwrap();
                make(path);
            }),
        ),
        (
            "emptied",
            Box::new(|path, _| {
                fs::read_dir(path).unwrap().for_each(|entry| fs::remove_file(entry.unwrap().path()).unwrap());
            }),
        ),
    ];
    for (name, harm) in harms {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, aside) = (folder.path().join("log"), folder.path().join("aside"));
        let mut log = WalLog::open(&path, options()).expect("a new log opens");
        append(&mut log, 100);
        harm(&path, &aside);
        let entry = Entry { id: EntryId::new(2, 1), payload: Payload::Noop };
        let written = log.append(&mut vec![Write { entries: vec![entry].into(), ..Write::default() }]);
        let refused = written.and_then(|()| log.sync()).expect_err("nothing more is acknowledged");
        assert!(matches!(&refused, WalError::Displaced { .. }), "{name}: {refused}");
        assert!(refused.to_string().contains("moved, deleted or replaced"), "{name}: {refused}");
        assert!(matches!(log.sync(), Err(WalError::Poisoned { .. })), "{name}");
        drop(log);
        if name == "moved" {
            // What was acknowledged is where the directory went.
            assert!(WalLog::open(&aside, options()).expect("it opens").last().index >= Index(1));
        }
    }
}

/// The same directory by another road is the same directory.
#[cfg(unix)]
#[test]
fn a_directory_behind_a_link_is_in_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let (real, link) = (folder.path().join("real"), folder.path().join("link"));
    fs::create_dir(&real).expect("a directory");
    std::os::unix::fs::symlink(&real, &link).expect("a link");
    let mut log = WalLog::open(&link, options()).expect("a new log opens");
    (0..8).for_each(|_| append(&mut log, 1500));
    // Moved, and reached by the same path all the same.
    fs::rename(&real, folder.path().join("elsewhere")).expect("a move");
    fs::remove_file(&link).expect("a link");
    std::os::unix::fs::symlink(folder.path().join("elsewhere"), &link).expect("a link");
    (0..8).for_each(|_| append(&mut log, 1500));
    log.close().expect("it closes");
}

/// The name of the file system below a log is read from the system's table of mounts; a log in memory says so.
#[cfg(target_os = "linux")]
#[test]
fn a_log_says_what_its_file_system_does_not_promise() {
    let Ok(mounts) = fs::read_to_string("/proc/self/mountinfo") else { return };
    if !mounts.lines().any(|line| line.contains(" /dev/shm ") && line.contains(" - tmpfs ")) {
        return println!("skipped: /dev/shm is not in memory here");
    }
    let Ok(folder) = tempfile::tempdir_in("/dev/shm") else { return println!("skipped: /dev/shm is not ours") };
    let log = WalLog::open(folder.path().join("log"), options()).expect("a new log opens");
    let warning = log.media_warning().expect("tmpfs promises little");
    assert!(warning.contains("lies on tmpfs") && warning.contains("/dev/shm/"), "{warning}");
}
