//! MEMORY: what the log remembers of the peers' lives, replaced as a whole like the manifest: written beside, synced,
//! renamed, and the directory synced. What they said to be durable changes too often for that: it goes with the records
//! (`record.rs`), and is put back from the newest of them.

use super::directory::{Directory, read_full};
use super::error::WalError;
use crate::life::Remembered;
use crate::peers::{FILE_BYTES_MAX, PeerMemory, PeerStore};
use crate::types::{GroupId, NodeId};
use std::boxed::Box;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::vec;

const MEMORY: &str = "MEMORY";
pub(super) const MEMORY_NEW: &str = "MEMORY.tmp";

struct DirectoryStore {
    directory: Arc<dyn Directory>,
}

impl PeerStore for DirectoryStore {
    fn store(&self, bytes: &[u8]) -> io::Result<()> {
        // A file of its own each time: after a failed sync nothing is built on what the page cache shows.
        let file = self.directory.create(MEMORY_NEW)?;
        file.write_at(0, bytes)?;
        file.sync()?;
        self.directory.rename(MEMORY_NEW, MEMORY)?;
        self.directory.sync()
    }
}

/// Reads what the log remembers of its peers, and adds what its records say.
pub(super) fn load(
    directory: &Arc<dyn Directory>,
    group: GroupId,
    noted: &BTreeMap<NodeId, Remembered>,
) -> Result<PeerMemory, WalError> {
    let file_path = directory.path().join(MEMORY);
    let io = |source| WalError::Io { operation: "reading", file: file_path.clone(), source };
    let bytes = match directory.open(MEMORY) {
        Ok(file) => {
            let mut bytes = vec![0; file.size().map_err(io)?.min(FILE_BYTES_MAX) as usize];
            let filled = read_full(&*file, 0, &mut bytes).map_err(io)?;
            bytes.truncate(filled);
            Some(bytes)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(io(error)),
    };
    let store = DirectoryStore { directory: Arc::clone(directory) };
    let memory = PeerMemory::kept(group, bytes.as_deref(), Box::new(store));
    let memory = memory.map_err(|reason| WalError::PeerMemory { file: file_path.clone(), reason })?;
    noted.iter().for_each(|(peer, position)| memory.restore(*peer, position));
    Ok(memory)
}
