//! A snapshot that becomes the bytes of a backup.

use super::BackupInfo;
use super::format;
use crate::snapshot::SnapshotReader;
use std::boxed::Box;
use std::fmt;
use std::io::{self, Read};
use std::vec::Vec;

/// A backup that is being taken: the bytes of the file, to be read. It holds one chunk in memory, and the snapshot that it is
/// made of open: the node's store keeps that until this was read to its end or is dropped, within the bounds of
/// [`Raft::backup`](crate::Raft::backup). Nothing else waits for it.
///
/// ```no_run
/// # fn backup<M: raft_io::StateMachine>(raft: &raft_io::Raft<M>) -> std::io::Result<()> {
/// use std::time::Duration;
///
/// let mut backup = raft.backup(Duration::from_secs(60)).map_err(std::io::Error::other)?;
/// let mut file = std::fs::File::create_new("cluster.backup")?;
/// std::io::copy(&mut backup, &mut file)?;
/// file.sync_all()?;
/// println!("up to entry {}", backup.info().last);
/// # Ok(())
/// # }
/// ```
pub struct Backup {
    info: BackupInfo,
    content: Box<dyn SnapshotReader>,
    /// Bytes that are ready, and how many of them were handed out.
    ready: Vec<u8>,
    at: usize,
    /// How much of the content was read, in bytes.
    read: u64,
    /// The checksum of the chunk before.
    chain: u32,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Content,
    Done,
}

impl Backup {
    pub(crate) fn new(info: BackupInfo, content: Box<dyn SnapshotReader>) -> Self {
        let ready = format::encode_header(&info);
        let mut seed = [0; 4];
        seed.copy_from_slice(&ready[ready.len() - 4..]);
        Self { info, content, ready, at: 0, read: 0, chain: u32::from_le_bytes(seed), stage: Stage::Content }
    }

    /// What it says of itself.
    #[must_use]
    pub fn info(&self) -> &BackupInfo {
        &self.info
    }

    /// Makes the next chunk ready, with what follows the last one.
    fn load(&mut self) -> io::Result<()> {
        let left = self.info.bytes - self.read;
        // At most a chunk.
        let count = left.min(u64::from(self.info.chunk_bytes)) as usize;
        let is_last = left <= u64::from(self.info.chunk_bytes);
        self.ready.clear();
        self.at = 0;
        self.ready.resize(count, 0);
        let filled = self.content.read_exact(&mut self.ready);
        // Only the end of the stream says that what was read was the whole.
        let ended = filled.and_then(|()| if is_last { self.content.read(&mut [0]) } else { Ok(0) });
        match ended {
            Ok(0) => {}
            Ok(_) => {
                return self.fail(io::Error::new(io::ErrorKind::InvalidData, "the snapshot is longer than it says"));
            }
            Err(error) => return self.fail(error),
        }
        self.read += count as u64;
        self.chain = format::checksum(self.chain, &self.ready, is_last.then_some(self.info.bytes));
        self.ready.extend_from_slice(&self.chain.to_le_bytes());
        if is_last {
            self.ready.extend_from_slice(&format::encode_trailer(self.info.bytes, self.chain));
            self.stage = Stage::Done;
        }
        Ok(())
    }

    /// Hands out nothing of a chunk that was read in part.
    fn fail(&mut self, error: io::Error) -> io::Result<()> {
        self.ready.clear();
        Err(error)
    }
}

/// The bytes of the file. The end of the stream is the end of the whole backup; an error leaves it cut, which whoever reads it
/// will notice. Errors are those of the snapshot's reader, and [`BackupEnded`](crate::driver::BackupEnded).
impl Read for Backup {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.ready.len() && self.stage == Stage::Content && !buffer.is_empty() {
            self.load()?;
        }
        let rest = &self.ready[self.at..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Ok(count)
    }
}

impl fmt::Debug for Backup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backup").field("info", &self.info).field("read", &self.read).finish_non_exhaustive()
    }
}
