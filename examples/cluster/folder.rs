//! A folder that belongs to one run of a demonstration at a time. A run removes what an earlier one left, so a second one at
//! the same time would take the data from under the nodes of the first.

use fs4::{FileExt, TryLockError};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// Says who has the folder. Beside the nodes' directories; never removed, for another run may be about to lock it.
const OWNER: &str = "in-use-by";
/// The lock of a node's log, from the node's directory.
const LOG_LOCKS: [&str; 2] = ["LOCK", "log/LOCK"];

/// The folder is this run's until this is dropped, or the process ends in whatever way.
#[derive(Debug)]
pub(crate) struct Folder {
    _owner: File,
}

impl Folder {
    /// Takes a folder for a run that is described like this, and creates it if it is missing. Waits `patience` for nodes of an
    /// earlier run that was killed: they end by themselves.
    ///
    /// # Errors
    /// It is another run's, or its nodes do not end.
    pub(crate) fn take(dir: &Path, run: &str, patience: Duration) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut owner = File::options().read(true).write(true).create(true).truncate(false).open(dir.join(OWNER))?;
        match FileExt::try_lock(&owner) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use(dir, &mut owner)),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let deadline = Instant::now() + patience;
        for node in nodes(dir)? {
            while is_at_work(&node)? {
                if Instant::now() > deadline {
                    return Err(busy(format!(
                        "a node of an earlier run is still at work in {}: end that process, or choose another folder with \
                         --dir",
                        node.display()
                    )));
                }
                thread::sleep(Duration::from_millis(50));
            }
        }
        owner.set_len(0)?;
        owner.rewind()?;
        write!(owner, "process {}, {run}", std::process::id())?;
        owner.sync_all()?;
        Ok(Self { _owner: owner })
    }
}

fn in_use(dir: &Path, owner: &mut File) -> io::Error {
    let mut who = String::new();
    // Where a lock keeps others from reading, nobody can tell.
    let known = owner.read_to_string(&mut who).is_ok() && !who.trim().is_empty();
    let who = if known { who.trim() } else { "another process" };
    busy(format!(
        "the folder {} is in use by {who}: nothing in it was touched. End that run first, or choose another folder with --dir",
        dir.display()
    ))
}

fn busy(message: String) -> io::Error {
    io::Error::new(ErrorKind::ResourceBusy, message)
}

/// The directories of nodes.
fn nodes(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let paths = fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
    let is_node = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.strip_prefix("node-").is_some_and(|rest| rest.parse::<u64>().is_ok()) && path.is_dir()
    };
    Ok(paths.into_iter().filter(is_node).collect())
}

fn is_at_work(node: &Path) -> io::Result<bool> {
    LOG_LOCKS.iter().try_fold(false, |found, lock| Ok(found || is_locked(&node.join(lock))?))
}

fn is_locked(lock: &Path) -> io::Result<bool> {
    let file = match File::options().read(true).write(true).open(lock) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    match FileExt::try_lock(&file) {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A second `cluster -- serve` in the same folder deleted the directories of the first one, which went on acknowledging
    /// into files that nobody could open any more.
    #[test]
    fn a_second_run_in_the_same_folder_is_refused_and_says_whose_it_is() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let first = Folder::take(dir.path(), "cluster serve", Duration::ZERO).expect("it is free");
        let refused = Folder::take(dir.path(), "cluster churn", Duration::ZERO).expect_err("it is taken");
        let said = refused.to_string();
        for part in [
            &format!("process {}, cluster serve", std::process::id()),
            "--dir",
            "in use",
            &dir.path().display().to_string(),
        ] {
            assert!(said.contains(part), "{part} is missing: {said}");
        }
        drop(first);
        Folder::take(dir.path(), "cluster churn", Duration::ZERO).expect("it is free again");
    }

    /// The run was killed and its nodes are about to end: their data is theirs until then.
    #[test]
    fn a_node_that_outlives_its_run_keeps_its_directory() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let log = dir.path().join("node-2");
        let open = || {
            raft_io::log::wal::WalLog::open(
                &log,
                raft_io::log::wal::WalOptions::new(raft_io::ClusterId(1), 2u64.into()),
            )
        };
        let node = open().expect("a log");
        let refused = Folder::take(dir.path(), "cluster serve", Duration::ZERO).expect_err("a node is at work");
        assert!(refused.to_string().contains("node-2") && refused.to_string().contains("--dir"), "{refused}");
        drop(node);
        Folder::take(dir.path(), "cluster serve", Duration::ZERO).expect("it is free now");
    }
}
