//! A log and its snapshots on one disk.

use raft_io::log::wal::{Directory, LockGuard, RawFile};
use raft_io::testkit::disk::FaultyDisk;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One of the directories of a disk. A sync of it makes its own names durable, and no others.
pub(crate) struct Part {
    disk: FaultyDisk,
    path: PathBuf,
}

impl Part {
    pub(crate) fn of(disk: &FaultyDisk, name: &str) -> Arc<Self> {
        Arc::new(Self { disk: disk.clone(), path: name.into() })
    }

    fn full(&self, name: &str) -> String {
        format!("{}/{name}", self.path.display())
    }
}

impl Directory for Part {
    fn path(&self) -> &Path {
        &self.path
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let prefix = self.full("");
        Ok(self.disk.names()?.iter().filter_map(|name| name.strip_prefix(&prefix)).map(str::to_owned).collect())
    }

    fn free_bytes(&self) -> Option<u64> {
        self.disk.free_bytes()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn RawFile>> {
        self.disk.create(&self.full(name))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn RawFile>> {
        self.disk.open(&self.full(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(&self.full(from), &self.full(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(&self.full(name))
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.sync_names(&self.full(""))
    }

    /// Each life of a node has a disk of its own here.
    fn try_lock(&self, _: &str) -> io::Result<Option<LockGuard>> {
        Ok(Some(Box::new(())))
    }
}
