//! A directory as it is on the disk, with changes that stay in memory: what opening would find and do, without doing it.

use crate::directory::{Directory, LockGuard, RawFile, read_full};
use std::boxed::Box;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::string::{String, ToString};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::vec::Vec;

/// Reads come from the files; every change stays in memory and is gone with this. Nothing on the disk is written, created,
/// locked or synced, so it may be another process's directory, which works on: then what is read may be of different moments.
#[derive(Debug)]
pub struct ShadowDirectory {
    path: PathBuf,
    /// The files that were opened or changed; `None` for a name that is gone.
    files: Mutex<BTreeMap<String, Option<Arc<ShadowFile>>>>,
}

impl ShadowDirectory {
    /// The directory at `path`.
    ///
    /// # Errors
    /// There is none.
    pub fn new(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        fs::read_dir(&path)?;
        Ok(Self { path, files: Mutex::default() })
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<String, Option<Arc<ShadowFile>>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn names_on_disk(&self, regular: bool) -> io::Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_type()?.is_file() == regular {
                names.extend(entry.file_name().into_string());
            }
        }
        Ok(names)
    }

    fn find(&self, name: &str) -> io::Result<Arc<ShadowFile>> {
        let mut files = self.files();
        match files.get(name) {
            Some(Some(file)) => Ok(Arc::clone(file)),
            Some(None) => Err(io::ErrorKind::NotFound.into()),
            None => {
                let file = Arc::new(ShadowFile::on_disk(fs::File::open(self.path.join(name))?)?);
                files.insert(name.to_string(), Some(Arc::clone(&file)));
                Ok(file)
            }
        }
    }
}

impl Directory for ShadowDirectory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = self.names_on_disk(true)?;
        for (name, file) in &*self.files() {
            if file.is_some() {
                names.insert(name.clone());
            } else {
                names.remove(name);
            }
        }
        Ok(names.into_iter().collect())
    }

    fn others(&self) -> io::Result<Vec<String>> {
        Ok(self.names_on_disk(false)?.into_iter().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn RawFile>> {
        let file = Arc::new(ShadowFile::default());
        self.files().insert(name.to_string(), Some(Arc::clone(&file)));
        Ok(file)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn RawFile>> {
        Ok(self.find(name)?)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let file = self.find(from)?;
        let mut files = self.files();
        files.insert(from.to_string(), None);
        files.insert(to.to_string(), Some(file));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.find(name)?;
        self.files().insert(name.to_string(), None);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn try_lock(&self, _name: &str) -> io::Result<Option<LockGuard>> {
        // What is changed here is nobody else's.
        Ok(Some(Box::new(())))
    }
}

/// One file: what is on the disk, and what was written over it.
#[derive(Debug, Default)]
struct ShadowFile {
    disk: Option<fs::File>,
    written: Mutex<Written>,
}

#[derive(Debug, Default)]
struct Written {
    size: u64,
    /// In the order of their writing, each with its offset: later ones prevail.
    parts: Vec<(u64, Vec<u8>)>,
}

impl ShadowFile {
    fn on_disk(file: fs::File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self { disk: Some(file), written: Mutex::new(Written { size, parts: Vec::new() }) })
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RawFile for ShadowFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut written = self.written();
        written.size = written.size.max(offset + bytes.len() as u64);
        written.parts.push((offset, bytes.to_vec()));
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let written = self.written();
        let count = written.size.saturating_sub(offset).min(buffer.len() as u64) as usize;
        let buffer = &mut buffer[..count];
        buffer.fill(0);
        if let Some(file) = &self.disk {
            read_full(&DiskFile(file), offset, buffer)?;
        }
        for (start, bytes) in &written.parts {
            let (first, end) = (offset.max(*start), (offset + count as u64).min(start + bytes.len() as u64));
            if first < end {
                let to = (first - offset) as usize..(end - offset) as usize;
                buffer[to].copy_from_slice(&bytes[(first - start) as usize..(end - start) as usize]);
            }
        }
        Ok(count)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.written().size)
    }
}

/// A file of the operating system that is only read.
struct DiskFile<'a>(&'a fs::File);

impl RawFile for DiskFile<'_> {
    fn write_at(&self, _offset: u64, _bytes: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    #[cfg(unix)]
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self.0, buffer, offset)
    }

    #[cfg(windows)]
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_read(self.0, buffer, offset)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_seen_here_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("kept"), b"0123456789").unwrap();
        fs::write(dir.path().join("gone"), b"x").unwrap();
        let shadow = ShadowDirectory::new(dir.path()).unwrap();
        let read = |name: &str| {
            let file = shadow.open(name).unwrap();
            let mut bytes = std::vec![0; 32];
            let count = read_full(&*file, 0, &mut bytes).unwrap();
            bytes.truncate(count);
            bytes
        };
        let kept = shadow.open("kept").unwrap();
        kept.write_at(2, b"ab").unwrap();
        kept.write_at(3, b"cd").unwrap();
        kept.write_at(9, b"ef").unwrap();
        assert_eq!((read("kept"), kept.size().unwrap()), (b"01acd5678ef".to_vec(), 11));
        shadow.remove("gone").unwrap();
        shadow.create("new").unwrap().write_at(0, b"n").unwrap();
        shadow.rename("new", "newer").unwrap();
        assert_eq!(shadow.names().unwrap(), ["kept", "newer"]);
        assert_eq!(read("newer"), b"n");
        assert_eq!(shadow.open("gone").map(|_| ()).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(fs::read(dir.path().join("kept")).unwrap(), b"0123456789");
        let mut on_disk: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        on_disk.sort();
        assert_eq!(on_disk, ["gone", "kept"]);
        assert!(ShadowDirectory::new(dir.path().join("missing")).is_err());
    }
}
