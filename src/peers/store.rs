//! A file that holds a memory: the log's or one of the transport's own.

use super::{FILE_BYTES_MAX, PeerStore};
use crate::directory::{Directory, read_full};
use std::format;
use std::io;
use std::string::String;
use std::vec;
use std::vec::Vec;

/// The file `name` of a directory, replaced as a whole: written beside, synced, renamed, and the directory synced.
pub(crate) struct FileIn<D> {
    pub(crate) directory: D,
    pub(crate) name: String,
}

/// Where a file is written before it replaces the one before it.
pub(crate) fn beside(name: &str) -> String {
    format!("{name}.tmp")
}

impl<D: AsRef<dyn Directory>> FileIn<D> {
    /// What it holds; `None` if it is not there. No more is read than any memory has.
    pub(crate) fn read(&self) -> io::Result<Option<Vec<u8>>> {
        let file = match self.directory.as_ref().open(&self.name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let size = file.size()?;
        if size > FILE_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file of the peers' identities is too large"));
        }
        let mut bytes = vec![0; size as usize];
        let filled = read_full(&*file, 0, &mut bytes)?;
        bytes.truncate(filled);
        Ok(Some(bytes))
    }
}

impl<D: AsRef<dyn Directory> + Send + Sync> PeerStore for FileIn<D> {
    fn store(&self, bytes: &[u8]) -> io::Result<()> {
        let (directory, beside) = (self.directory.as_ref(), beside(&self.name));
        // A file of its own each time: after a failed sync nothing is built on what the page cache shows.
        let file = directory.create(&beside)?;
        file.write_at(0, bytes)?;
        file.sync()?;
        directory.rename(&beside, &self.name)?;
        directory.sync()
    }
}
