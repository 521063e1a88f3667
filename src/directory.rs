//! The little of a file system that the log, the snapshots and the file of the peers' identities need: one flat directory of
//! files with positioned reads and writes. A trait, so that tests can put a disk beneath them that fails on demand and loses
//! what was never synced.

#[cfg(feature = "persistence")]
pub(crate) mod media;

use std::any::Any;
use std::boxed::Box;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::string::String;
use std::sync::Arc;
use std::vec::Vec;

/// Holds a lock until it is dropped.
pub type LockGuard = Box<dyn Any + Send + Sync>;

/// One directory of files.
pub trait Directory: Send + Sync {
    /// Where it is, for messages.
    fn path(&self) -> &Path;

    /// The names of the regular files in it, in any order.
    ///
    /// # Errors
    /// The directory cannot be read.
    fn names(&self) -> io::Result<Vec<String>>;

    /// The names of what is no regular file: directories, symbolic links, devices. A log neither deletes nor replaces those.
    /// None unless overridden.
    ///
    /// # Errors
    /// The directory cannot be read.
    fn others(&self) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// How much space is free for new files, in bytes; `None` if that is not known, as it is unless overridden.
    fn free_bytes(&self) -> Option<u64> {
        None
    }

    /// The name of the file system that it lies on, such as `ext4`; `None` if that is not known, as it is unless overridden.
    fn file_system(&self) -> Option<String> {
        None
    }

    /// Whether what this directory writes is still found at its path: nobody moved, deleted or replaced it. Asked at each
    /// sync of the log. Always unless overridden.
    ///
    /// # Errors
    /// It is not there, or another one is.
    fn check_in_place(&self) -> io::Result<()> {
        Ok(())
    }

    /// Creates a file, or empties the one that is there. Its name is durable after
    /// [`Directory::sync`].
    ///
    /// # Errors
    /// The file cannot be created.
    fn create(&self, name: &str) -> io::Result<Arc<dyn RawFile>>;

    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if there is none.
    fn open(&self, name: &str) -> io::Result<Arc<dyn RawFile>>;

    /// Renames a file, replacing the target at once. Durable after [`Directory::sync`].
    ///
    /// # Errors
    /// The file cannot be renamed.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. Durable after [`Directory::sync`].
    ///
    /// # Errors
    /// The file cannot be removed.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes every create, rename and remove so far durable.
    ///
    /// # Errors
    /// Any of them may be lost.
    fn sync(&self) -> io::Result<()>;

    /// Takes the exclusive lock on a file, creating it if needed; `None` if someone else has it.
    ///
    /// # Errors
    /// The file cannot be created or locked.
    fn try_lock(&self, name: &str) -> io::Result<Option<LockGuard>>;
}

/// One open file. All methods take `&self` and an offset, so that readers and the writer share it.
pub trait RawFile: Send + Sync {
    /// Writes all of `bytes` at `offset`, growing the file if needed.
    ///
    /// # Errors
    /// Any part may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Reads at `offset`; fewer bytes than asked for are not yet the end, 0 bytes are.
    ///
    /// # Errors
    /// Nothing was read.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Makes every write so far durable, and the file's length with it.
    ///
    /// # Errors
    /// Any write since the last sync may be lost, whatever a later sync says.
    fn sync(&self) -> io::Result<()>;

    /// The length in bytes.
    ///
    /// # Errors
    /// The length is not known.
    fn size(&self) -> io::Result<u64>;

    /// Whether the file still has a name: nobody deleted it. Asked at each sync of the log. Always unless overridden.
    ///
    /// # Errors
    /// That is not known.
    fn has_name(&self) -> io::Result<bool> {
        Ok(true)
    }
}

/// Fills `buffer` from `offset` as far as the file reaches; returns how far that is.
pub(crate) fn read_full(file: &dyn RawFile, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(offset + filled as u64, &mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// A directory of the operating system.
#[derive(Debug)]
pub struct OsDirectory {
    path: PathBuf,
    /// Open as long as this lives, so that its identity stays its own: what comes to its path later has another.
    #[cfg(unix)]
    handle: fs::File,
}

impl OsDirectory {
    /// The directory at `path`, created if it is missing.
    ///
    /// # Errors
    /// It cannot be created.
    pub fn new(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        fs::create_dir_all(&path)?;
        // A directory is durable only when its name in its parent is, and so on upwards. Also of those
        // that exist: who created them may have died before that.
        for (distance, parent) in parents(&path).enumerate() {
            if let Err(error) = sync_directory(parent) {
                if !is_out_of_reach(error.kind(), distance) {
                    return Err(error);
                }
            }
        }
        // Where it is does not change with the process's current directory.
        let path = std::path::absolute(&path)?;
        Ok(Self {
            #[cfg(unix)]
            handle: fs::File::open(&path)?,
            path,
        })
    }

    /// The directory at `path`, which is there already.
    #[cfg(feature = "tcp")]
    pub(crate) fn existing(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        if !fs::metadata(&path)?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self {
            #[cfg(unix)]
            handle: fs::File::open(&path)?,
            path,
        })
    }

    /// The names of all regular files, or of everything else.
    fn names_of(&self, regular: bool) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let kind = match entry.file_type() {
                // Somebody removed it just now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                kind => kind?,
            };
            if kind.is_file() == regular {
                // A name that is not Unicode is none of ours.
                names.extend(entry.file_name().into_string());
            }
        }
        Ok(names)
    }

    fn open_with(&self, name: &str, options: &fs::OpenOptions) -> io::Result<fs::File> {
        options.open(self.path.join(name))
    }
}

/// The directories that hold the name of `path`, of its parent, and so on.
fn parents(path: &Path) -> impl Iterator<Item = &Path> {
    let relative = path.is_relative();
    let named = path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty());
    // The first part of a relative path is a name in the current directory.
    named.chain(relative.then_some(Path::new(".")))
}

/// Whether a failed sync says that a directory above the log's is not ours to sync, rather than that its
/// names may be lost.
fn is_out_of_reach(kind: io::ErrorKind, distance: usize) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    kind == PermissionDenied || (distance > 0 && matches!(kind, InvalidInput | ReadOnlyFilesystem | Unsupported))
}

impl Directory for OsDirectory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn names(&self) -> io::Result<Vec<String>> {
        self.names_of(true)
    }

    fn others(&self) -> io::Result<Vec<String>> {
        self.names_of(false)
    }

    #[cfg(feature = "persistence")]
    fn free_bytes(&self) -> Option<u64> {
        fs4::available_space(&self.path).ok()
    }

    #[cfg(all(feature = "persistence", target_os = "linux"))]
    fn file_system(&self) -> Option<String> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        media::file_system_of(&fs::canonicalize(&self.path).ok()?, &mounts)
    }

    #[cfg(unix)]
    fn check_in_place(&self) -> io::Result<()> {
        use std::os::unix::fs::MetadataExt;
        let (own, found) = (self.handle.metadata()?, fs::metadata(&self.path)?);
        let same = (own.dev(), own.ino()) == (found.dev(), found.ino());
        if same { Ok(()) } else { Err(io::Error::new(io::ErrorKind::NotFound, "another directory is there")) }
    }

    /// The standard library tells no identity of a directory here: only whether there is one.
    #[cfg(not(unix))]
    fn check_in_place(&self) -> io::Result<()> {
        if fs::metadata(&self.path)?.is_dir() { Ok(()) } else { Err(io::ErrorKind::NotADirectory.into()) }
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn RawFile>> {
        let mut options = fs::OpenOptions::new();
        let file = self.open_with(name, options.read(true).write(true).create(true).truncate(true))?;
        Ok(Arc::new(OsFile(file)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn RawFile>> {
        Ok(Arc::new(OsFile(self.open_with(name, fs::OpenOptions::new().read(true).write(true))?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        sync_directory(&self.path)
    }

    #[cfg(feature = "persistence")]
    fn try_lock(&self, name: &str) -> io::Result<Option<LockGuard>> {
        let mut options = fs::OpenOptions::new();
        let file = self.open_with(name, options.read(true).write(true).create(true).truncate(false))?;
        // Not `file.try_lock()`: newer standard libraries have a method of that name.
        match fs4::FileExt::try_lock(&file) {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(fs4::TryLockError::WouldBlock) => Ok(None),
            Err(fs4::TryLockError::Error(error)) => Err(error),
        }
    }

    /// What needs a lock is not compiled.
    #[cfg(not(feature = "persistence"))]
    fn try_lock(&self, _: &str) -> io::Result<Option<LockGuard>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(unix)]
fn sync_directory(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

/// Elsewhere a directory cannot be opened for syncing; NTFS journals its metadata itself.
#[cfg(not(unix))]
fn sync_directory(_path: &Path) -> io::Result<()> {
    Ok(())
}

#[derive(Debug)]
struct OsFile(fs::File);

impl RawFile for OsFile {
    #[cfg(unix)]
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(&self.0, bytes, offset)
    }

    #[cfg(windows)]
    fn write_at(&self, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match std::os::windows::fs::FileExt::seek_write(&self.0, bytes, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    bytes = &bytes[count..];
                    offset += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    #[cfg(unix)]
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(&self.0, buffer, offset)
    }

    #[cfg(windows)]
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_read(&self.0, buffer, offset)
    }

    fn sync(&self) -> io::Result<()> {
        // fdatasync: it also writes a changed length, and skips only the times.
        self.0.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    #[cfg(unix)]
    fn has_name(&self) -> io::Result<bool> {
        Ok(std::os::unix::fs::MetadataExt::nlink(&self.0.metadata()?) > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a path like `data` or `data/node-1` the topmost new directory's name was never synced: after
    /// a loss of power the whole log could be gone, and the node would start anew and vote again.
    #[test]
    fn every_directory_that_holds_a_name_of_the_path_is_synced() {
        let parents = |path| parents(Path::new(path)).map(|parent| parent.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(parents("data"), ["."]);
        assert_eq!(parents("data/node-1"), ["data", "."]);
        assert_eq!(parents("./data"), [".", "."]);
        #[cfg(unix)]
        assert_eq!(parents("/srv/raft/node-1"), ["/srv/raft", "/srv", "/"]);
    }
}
