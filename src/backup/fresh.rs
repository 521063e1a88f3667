//! A directory that counts only once it is whole: a log that is being made in it has no manifest until the end.
//!
//! Opening refuses a log whose other files are there without the manifest, and one in which a restore has begun and not
//! ended. So whatever becomes of the process, of the power or of the disk half-way, no node starts on what is there.

use super::RestoreBackupError;
use crate::log::wal::{Directory, LockGuard, MANIFEST, RESTORING, RawFile};
use std::boxed::Box;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::format;
use std::io;
use std::path::Path;
use std::string::{String, ToString};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::vec::Vec;

const LOCK: &str = "LOCK";
/// What lies at the top of every ext4.
const LOST_AND_FOUND: &str = "lost+found";

/// A directory in which nothing was. The manifest of a log that is made in it has another name for the time being.
pub(super) struct Fresh {
    inner: Arc<dyn Directory>,
    /// The log has written its manifest.
    has_manifest: AtomicBool,
    /// The files that were made in it. Anything else came from elsewhere meanwhile.
    made: Mutex<BTreeSet<String>>,
    _lock: LockGuard,
}

fn io_error(
    directory: &dyn Directory,
    operation: &'static str,
    name: &str,
) -> impl FnOnce(io::Error) -> RestoreBackupError {
    let file = if name.is_empty() { directory.path().to_path_buf() } else { directory.path().join(name) };
    move |source| RestoreBackupError::Io { operation, file, source }
}

impl Fresh {
    /// Takes an empty directory; `within` is another one that may lie in it.
    pub(super) fn claim(inner: Arc<dyn Directory>, within: &Path) -> Result<Arc<Self>, RestoreBackupError> {
        // First a look: what is somebody else's stays as it is, without so much as a lock.
        check_empty(&*inner, within)?;
        let before = inner.names().map_err(io_error(&*inner, "listing", ""))?;
        let lock = inner.try_lock(LOCK).map_err(io_error(&*inner, "locking", LOCK))?;
        let directory = inner.path().to_path_buf();
        let lock = lock.ok_or(RestoreBackupError::Locked { directory })?;
        check_empty(&*inner, within)?;
        let made = [LOCK.to_string()].into_iter().filter(|lock| !before.contains(lock)).collect();
        Ok(Arc::new(Self { inner, has_manifest: AtomicBool::new(false), made: Mutex::new(made), _lock: lock }))
    }

    /// From here on no log opens in it, whatever happens, until it is published.
    pub(super) fn begin(&self) -> Result<(), RestoreBackupError> {
        let created = self.create(RESTORING).and_then(|file| file.sync());
        created.map_err(io_error(&*self.inner, "creating", RESTORING))?;
        self.inner.sync().map_err(io_error(&*self.inner, "syncing", ""))
    }

    /// The log counts from here on. It is closed.
    pub(super) fn publish(&self) -> Result<(), RestoreBackupError> {
        self.rename_to(RESTORING, MANIFEST).map_err(io_error(&*self.inner, "renaming", RESTORING))?;
        let synced = self.inner.sync().and_then(|()| self.inner.check_in_place());
        synced.map_err(io_error(&*self.inner, "syncing", ""))
    }

    fn made(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rename_to(&self, from: &str, to: &str) -> io::Result<()> {
        self.check_made(to)?;
        self.inner.rename(from, to)?;
        let mut made = self.made();
        made.remove(from);
        made.insert(to.to_string());
        Ok(())
    }

    /// That no file of somebody else has this name: it would be replaced.
    fn check_made(&self, name: &str) -> io::Result<()> {
        if self.made().contains(name) || !self.inner.names()?.iter().any(|found| found == name) {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("somebody else made {name} meanwhile")))
    }

    /// Removes everything that was made in it, and nothing else. What cannot be removed stays, and does not open.
    pub(super) fn abandon(&self) {
        let mut names: Vec<String> = self.made().iter().cloned().collect();
        // A log that was published stops counting first; what says that a restore did not end goes last.
        names.sort_by_key(|name| (name != MANIFEST, name == RESTORING || name == LOCK, name == RESTORING));
        let mut all = true;
        for name in names {
            if name == RESTORING && !all {
                break;
            }
            let removed = self.inner.remove(&name);
            all &= removed.is_ok() || removed.is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        }
        let _ = self.inner.sync();
    }
}

/// That nothing is in it but what a restore that just begins may find.
fn check_empty(directory: &dyn Directory, within: &Path) -> Result<(), RestoreBackupError> {
    let listing = || io_error(directory, "listing", "");
    let files = directory.names().map_err(listing())?;
    let others = directory.others().map_err(listing())?;
    let is_nested =
        |name: &str| within.parent() == Some(directory.path()) && within.file_name() == Some(OsStr::new(name));
    let found = files.iter().find(|name| *name != LOCK);
    let found = found.or_else(|| others.iter().find(|name| *name != LOST_AND_FOUND && !is_nested(name)));
    match found {
        Some(found) => {
            let found =
                if found == RESTORING { "the rest of a restore that did not end".to_string() } else { found.clone() };
            Err(RestoreBackupError::NotEmpty { directory: directory.path().to_path_buf(), found })
        }
        None => Ok(()),
    }
}

/// As a log sees it that is made in it.
impl Directory for Fresh {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = self.inner.names()?;
        names.retain(|name| name != RESTORING);
        names.extend(self.has_manifest.load(Ordering::SeqCst).then(|| MANIFEST.to_string()));
        Ok(names)
    }

    fn others(&self) -> io::Result<Vec<String>> {
        self.inner.others()
    }

    fn free_bytes(&self) -> Option<u64> {
        self.inner.free_bytes()
    }

    fn file_system(&self) -> Option<String> {
        self.inner.file_system()
    }

    fn check_in_place(&self) -> io::Result<()> {
        self.inner.check_in_place()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn RawFile>> {
        self.check_made(name)?;
        // It may be there though creating it failed.
        self.made().insert(name.to_string());
        self.inner.create(name)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn RawFile>> {
        match name {
            MANIFEST if self.has_manifest.load(Ordering::SeqCst) => self.inner.open(RESTORING),
            MANIFEST => Err(io::ErrorKind::NotFound.into()),
            name => self.inner.open(name),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        if to != MANIFEST {
            return self.rename_to(from, to);
        }
        self.rename_to(from, RESTORING)?;
        self.has_manifest.store(true, Ordering::SeqCst);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)?;
        self.made().remove(name);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }

    /// It is locked already, by this.
    fn try_lock(&self, _: &str) -> io::Result<Option<LockGuard>> {
        Ok(Some(Box::new(())))
    }
}
