//! The adapter below the faulty disk: what the log and the snapshots ask of their directories reaches the operating system,
//! each write, sync, creation, renaming and removal, in the same order. `strace` watches a run; without it there is nothing
//! to compare.

#![cfg(all(feature = "persistence", feature = "testkit", target_os = "linux"))]

use bytes::Bytes;
use raft_io::action::{Compaction, Write};
use raft_io::log::wal::{Directory, LockGuard, OsDirectory, RawFile};
use raft_io::log::{LogView, RaftLog, WalLog, WalOptions};
use raft_io::snapshot::files::SnapshotOptions;
use raft_io::snapshot::{SnapshotFiles, SnapshotStore};
use raft_io::testkit::disk::FaultyDisk;
use raft_io::{ClusterId, Entry, EntryId, HardState, Membership, NodeId, Payload, Term};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

const PLACE: &str = "RAFT_IO_TEST_SYSTEM_CALLS_PLACE";

type Journal = Arc<Mutex<Vec<String>>>;

/// A directory that writes down what is asked of it.
struct Recorded {
    inner: FaultyDisk,
    room: &'static str,
    journal: Journal,
}

struct RecordedFile {
    inner: Arc<dyn RawFile>,
    name: String,
    journal: Journal,
}

impl Recorded {
    fn note(&self, operation: &str) {
        self.journal.lock().unwrap().push(format!("{operation} in {}", self.room));
    }

    fn file(&self, name: &str, inner: Arc<dyn RawFile>) -> Arc<dyn RawFile> {
        Arc::new(RecordedFile { inner, name: format!("{name} in {}", self.room), journal: Arc::clone(&self.journal) })
    }
}

impl Directory for Recorded {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn names(&self) -> io::Result<Vec<String>> {
        self.inner.names()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn RawFile>> {
        self.note(&format!("create {name}"));
        Ok(self.file(name, self.inner.create(name)?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn RawFile>> {
        Ok(self.file(name, self.inner.open(name)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.note(&format!("rename {from} to {to}"));
        self.inner.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.note(&format!("remove {name}"));
        self.inner.remove(name)
    }

    fn sync(&self) -> io::Result<()> {
        self.note("sync the directory");
        Directory::sync(&self.inner)
    }

    fn try_lock(&self, name: &str) -> io::Result<Option<LockGuard>> {
        self.inner.try_lock(name)
    }
}

impl RawFile for RecordedFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.journal.lock().unwrap().push(format!("write {} at {offset} to {}", bytes.len(), self.name));
        self.inner.write_at(offset, bytes)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read_at(offset, buffer)
    }

    fn sync(&self) -> io::Result<()> {
        self.journal.lock().unwrap().push(format!("sync {}", self.name));
        self.inner.sync()
    }

    fn size(&self) -> io::Result<u64> {
        self.inner.size()
    }
}

/// Everything that a log and a store do: made, filled, rolled, purged, closed, opened again.
fn work(open: impl Fn(&'static str) -> Arc<dyn Directory>) {
    for life in 0..2 {
        let options = WalOptions::new(ClusterId(7), NodeId(1)).segment_bytes(4096);
        let mut log = WalLog::open_in(open("log"), options).expect("a log opens");
        let store = SnapshotFiles::open_in(open("snapshots"), SnapshotOptions::new()).expect("a store opens");
        for round in 0..12 {
            let last = log.last().index;
            let hard_state = (round % 3 == 0).then_some(HardState { term: Term(life + 1), vote: None });
            let id = EntryId { index: last.next(), term: Term(life + 1) };
            let entries = vec![Entry { id, payload: Payload::Command(vec![5; 900].into()) }].into();
            log.append(&mut vec![Write { hard_state, entries, ..Write::default() }]).expect("an append succeeds");
            log.sync().expect("a sync succeeds");
        }
        let last = log.last();
        let mut writer = store.begin(last, Bytes::from_static(b"who")).expect("a snapshot begins");
        writer.write_all(&[7; 3000]).expect("it is written");
        writer.finish().expect("it is finished");
        let membership = Arc::new(Membership::new([1]));
        let compaction = Some(Compaction { snapshot: last, base: last, membership });
        log.append(&mut vec![Write { compaction, ..Write::default() }]).expect("an append succeeds");
        log.sync().expect("a sync succeeds");
        store.retain(last);
        log.close().expect("it closes");
    }
}

/// The part of the run that is watched.
#[test]
fn work_that_is_watched() {
    let Ok(place) = std::env::var(PLACE) else { return };
    let place = PathBuf::from(place);
    work(|room| Arc::new(OsDirectory::new(place.join(room)).expect("a directory")));
}

/// `/place/log/NAME` as `NAME in log`.
fn named(path: &str, place: &str) -> Option<String> {
    let (room, name) = path.strip_prefix(place)?.strip_prefix('/')?.split_once('/')?;
    Some(format!("{name} in {room}"))
}

/// The path behind a descriptor: `5</place/log/NAME>`.
fn path_of(descriptor: &str) -> &str {
    descriptor.split_once('<').map_or("", |(_, path)| path.trim_end_matches([')', '>']))
}

/// A line of strace as the journal says it; `None` if it concerns something else.
fn said(line: &str, place: &str) -> Option<String> {
    let call = line.split_once(' ').map_or(line, |(pid, call)| if pid.parse::<u32>().is_ok() { call } else { line });
    let (name, rest) = call.trim_start().split_once('(')?;
    let (arguments, result) = rest.rsplit_once(" = ")?;
    let arguments: Vec<&str> = arguments.trim_end().trim_end_matches(')').split(", ").collect();
    let quoted: Vec<&str> = rest.split('"').skip(1).step_by(2).collect();
    let text = match name {
        "openat" if arguments[2].contains("O_TRUNC") => format!("create {}", named(quoted[0], place)?),
        "pwrite64" => {
            let count = result.split_whitespace().next()?;
            let offset = arguments.last()?;
            format!("write {count} at {offset} to {}", named(path_of(arguments[0]), place)?)
        }
        "fsync" | "fdatasync" => {
            let path = path_of(arguments[0]);
            match named(path, place) {
                Some(file) => format!("sync {file}"),
                None => format!("sync the directory in {}", path.strip_prefix(place)?.strip_prefix('/')?),
            }
        }
        "rename" | "renameat" | "renameat2" => {
            let (from, to) = (named(quoted[0], place)?, named(quoted[1], place)?);
            format!("rename {} to {to}", from.split(" in ").next()?)
        }
        "unlink" | "unlinkat" => format!("remove {}", named(quoted[0], place)?),
        _ => return None,
    };
    let failed = result.trim_start().starts_with('-') && !result.contains("ENOENT");
    assert!(!failed, "a system call failed: {line}");
    Some(text)
}

/// The simulated disk cannot see whether a sync of the adapter's really syncs, and in which order: the system can.
#[test]
fn the_system_sees_what_the_simulated_disk_sees() {
    let journal = Journal::default();
    // Both lives see the same disks.
    let disks = [FaultyDisk::new(), FaultyDisk::new()];
    work(|room| {
        let inner = disks[usize::from(room == "snapshots")].clone();
        Arc::new(Recorded { inner, room, journal: Arc::clone(&journal) })
    });
    let expected = journal.lock().unwrap().clone();
    assert!(expected.len() > 100, "a short run: {expected:?}");

    let folder = tempfile::tempdir().expect("a folder");
    let place = std::fs::canonicalize(folder.path()).expect("a path").to_str().expect("a path").to_string();
    let watched = folder.path().with_extension("strace");
    let program = std::env::current_exe().expect("this program");
    let traced = Command::new("strace")
        .args(["-f", "-y", "-s", "0", "-e", "trace=openat,pwrite64,fsync,fdatasync,/^rename,/^unlink", "-o"])
        .arg(&watched)
        .arg(program)
        .args(["--exact", "work_that_is_watched", "--test-threads", "1"])
        .env(PLACE, &place)
        .output();
    let output = match traced {
        Err(error) => return println!("skipped: no strace: {error}"),
        Ok(output) => output,
    };
    let lines = std::fs::read_to_string(&watched).unwrap_or_default();
    let _ = std::fs::remove_file(&watched);
    if lines.is_empty() {
        return println!("skipped: strace may not watch here: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(output.status.success(), "the watched run failed: {}", String::from_utf8_lossy(&output.stdout));
    let seen: Vec<String> = lines.lines().filter_map(|line| said(line, &place)).collect();
    for (number, (expected, seen)) in expected.iter().zip(&seen).enumerate() {
        assert_eq!(seen, expected, "operation {number} of the run");
    }
    assert_eq!(seen.len(), expected.len(), "the system saw more or less: {:?}", seen.get(expected.len()));
    println!("{} operations, each seen by the system", seen.len());
}
