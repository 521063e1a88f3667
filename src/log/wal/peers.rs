//! MEMORY: what the log remembers of the peers' lives, replaced as a whole like the manifest: written beside, synced,
//! renamed, and the directory synced. What they said to be durable changes too often for that: it goes with the records
//! (`record.rs`), and is put back from the newest of them.

use super::error::WalError;
use crate::directory::Directory;
use crate::life::Remembered;
use crate::peers::{FileIn, PeerMemory};
use crate::types::{GroupId, NodeId};
use std::boxed::Box;
use std::collections::BTreeMap;
use std::string::ToString;
use std::sync::Arc;

const MEMORY: &str = "MEMORY";
pub(super) const MEMORY_NEW: &str = "MEMORY.tmp";

/// Reads what the log remembers of its peers, and adds what its records say.
pub(super) fn load(
    directory: &Arc<dyn Directory>,
    group: GroupId,
    noted: &BTreeMap<NodeId, Remembered>,
) -> Result<PeerMemory, WalError> {
    let file_path = directory.path().join(MEMORY);
    let file = FileIn { directory: Arc::clone(directory), name: MEMORY.to_string() };
    let bytes = file.read().map_err(|source| WalError::Io { operation: "reading", file: file_path.clone(), source })?;
    let memory = PeerMemory::kept(group, bytes.as_deref(), Box::new(file));
    let memory = memory.map_err(|reason| WalError::PeerMemory { file: file_path.clone(), reason })?;
    noted.iter().for_each(|(peer, position)| memory.restore(*peer, position));
    Ok(memory)
}
