//! Snapshots in memory: for tests, examples and clusters within one process.

use super::assembly::Assembly;
use super::catalogue::{Catalogue, Item};
use super::chunk::{self, Chunk, ChunkRequest};
use super::{
    CHUNK_BYTES, CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, Header, ReceiveError, SnapshotError, SnapshotInfo, SnapshotReader,
    SnapshotReceiver, SnapshotStore, SnapshotWriter,
};
use crate::types::{EntryId, GroupId};
use bytes::Bytes;
use std::boxed::Box;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::vec::Vec;

/// A [`SnapshotStore`] that forgets everything with the process. Clones are handles to the same
/// store, as a data directory that survives a restart of a node in a test.
#[derive(Clone)]
pub struct MemorySnapshots {
    shared: Arc<Shared>,
}

struct Shared {
    group: GroupId,
    chunk_bytes: u32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    catalogue: Catalogue<Chunks>,
    /// What has arrived of snapshots that nobody is receiving at the moment.
    partial: BTreeMap<EntryId, Partial>,
    /// What was no snapshot of the log that this store belongs to.
    aside: Vec<Arc<Item<Chunks>>>,
}

/// The chunks of a snapshot, each with its checksum.
type Chunks = Vec<(Bytes, u32)>;

struct Partial {
    assembly: Assembly,
    chunks: Chunks,
}

impl MemorySnapshots {
    /// An empty store for the snapshots of one group.
    #[must_use]
    pub fn new(group: GroupId) -> Self {
        Self::with_chunk_bytes(group, CHUNK_BYTES)
    }

    /// What was [set aside](SnapshotStore::set_aside), in that order.
    #[must_use]
    pub fn aside(&self) -> Vec<SnapshotInfo> {
        self.shared.state().aside.iter().map(|item| item.info.clone()).collect()
    }

    /// An empty store that makes chunks of this size, brought within [`CHUNK_BYTES_MIN`] and
    /// [`CHUNK_BYTES_MAX`].
    #[must_use]
    pub fn with_chunk_bytes(group: GroupId, chunk_bytes: u32) -> Self {
        let chunk_bytes = chunk_bytes.clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX);
        Self { shared: Arc::new(Shared { group, chunk_bytes, state: Mutex::default() }) }
    }
}

impl Shared {
    /// Nothing that runs under the lock can panic half-way, so a poisoned lock still guards a valid
    /// state.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sweep(state: &mut State) {
        for item in state.catalogue.sweep() {
            state.catalogue.release(item.info.last);
        }
    }

    fn complete(&self, info: &SnapshotInfo, chunks: Chunks) {
        self.state().catalogue.insert(info.clone(), chunks);
    }
}

impl SnapshotStore for MemorySnapshots {
    fn begin(&self, last: EntryId, metadata: Bytes) -> Result<Box<dyn SnapshotWriter>, SnapshotError> {
        let shared = Arc::clone(&self.shared);
        let header = Header::draw(shared.group, last, shared.chunk_bytes, metadata)?;
        shared.state().catalogue.claim(last)?;
        let (chain, buffer) = (header.seed(), Vec::new());
        Ok(Box::new(MemoryWriter { shared, header, chain, buffer, total: 0, chunks: Vec::new() }))
    }

    fn list(&self) -> Vec<SnapshotInfo> {
        self.shared.state().catalogue.list()
    }

    fn open(&self, last: EntryId) -> Result<Box<dyn SnapshotReader>, SnapshotError> {
        let item = self.shared.state().catalogue.find(last)?;
        let reader = MemoryReader { shared: Arc::clone(&self.shared), item: Some(item), chunk: 0, at: 0 };
        Ok(Box::new(reader))
    }

    fn chunk(&self, request: ChunkRequest) -> Result<Chunk, SnapshotError> {
        let state = self.shared.state();
        let item = state.catalogue.find(request.snapshot)?;
        let found = usize::try_from(request.chunk).ok().and_then(|number| item.place.get(number));
        match found {
            Some((data, checksum)) => Ok(Chunk::of(&item.info, request.chunk, *checksum, data.clone())),
            None => {
                let (last, chunk, chunks) = (request.snapshot, request.chunk, item.info.chunks());
                Err(SnapshotError::NoSuchChunk { last, chunk, chunks })
            }
        }
    }

    fn receive(&self, last: EntryId) -> Result<Box<dyn SnapshotReceiver>, SnapshotError> {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.state();
        state.catalogue.claim(last)?;
        let found = state.partial.remove(&last);
        state.partial.clear();
        drop(state);
        let new = || Partial { assembly: Assembly::new(shared.group, last), chunks: Vec::new() };
        let partial = Some(found.unwrap_or_else(new));
        Ok(Box::new(MemoryReceiver { shared: Arc::clone(&shared), last, partial }))
    }

    fn set_aside(&self, last: EntryId) -> Result<(), SnapshotError> {
        let mut state = self.shared.state();
        let item = state.catalogue.find(last)?;
        state.catalogue.remove(last);
        state.aside.push(item);
        Ok(())
    }

    fn retain(&self, last: EntryId) {
        let mut state = self.shared.state();
        state.catalogue.doom_before(last);
        Shared::sweep(&mut state);
        if let Some(newest) = state.catalogue.newest() {
            state.partial.retain(|partial, _| *partial > newest);
        }
    }
}

impl fmt::Debug for MemorySnapshots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySnapshots").field("complete", &self.list()).finish_non_exhaustive()
    }
}

struct MemoryWriter {
    shared: Arc<Shared>,
    header: Header,
    chain: u32,
    /// The chunk that is being filled; full only until it is known whether it is the last.
    buffer: Vec<u8>,
    total: u64,
    chunks: Chunks,
}

impl MemoryWriter {
    fn close_chunk(&mut self, total_if_last: Option<u64>) {
        let data = Bytes::from(mem::take(&mut self.buffer));
        self.chain = chunk::checksum(self.chain, &data, total_if_last);
        self.chunks.push((data, self.chain));
    }
}

impl io::Write for MemoryWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let chunk_bytes = self.header.chunk_bytes as usize;
        if self.buffer.len() == chunk_bytes {
            self.close_chunk(None);
        }
        let taken = bytes.len().min(chunk_bytes - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        self.total += taken as u64;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl SnapshotWriter for MemoryWriter {
    fn finish(mut self: Box<Self>) -> Result<SnapshotInfo, SnapshotError> {
        self.close_chunk(Some(self.total));
        let info = self.header.info(self.total);
        self.shared.complete(&info, mem::take(&mut self.chunks));
        Ok(info)
    }
}

impl Drop for MemoryWriter {
    fn drop(&mut self) {
        self.shared.state().catalogue.release(self.header.last);
    }
}

struct MemoryReader {
    shared: Arc<Shared>,
    /// `None` only while it is dropped.
    item: Option<Arc<Item<Chunks>>>,
    chunk: usize,
    /// What of that chunk was read, in bytes.
    at: usize,
}

impl MemoryReader {
    fn item(&self) -> &Item<Chunks> {
        self.item.as_ref().expect("a reader holds its snapshot until it is dropped")
    }
}

impl io::Read for MemoryReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some((data, _)) = self.item().place.get(self.chunk) {
            let rest = &data[self.at..];
            let count = rest.len().min(buffer.len());
            if count > 0 || buffer.is_empty() {
                buffer[..count].copy_from_slice(&rest[..count]);
                self.at += count;
                return Ok(count);
            }
            (self.chunk, self.at) = (self.chunk + 1, 0);
        }
        Ok(0)
    }
}

impl SnapshotReader for MemoryReader {
    fn info(&self) -> &SnapshotInfo {
        &self.item().info
    }
}

impl Drop for MemoryReader {
    fn drop(&mut self) {
        self.item = None;
        Shared::sweep(&mut self.shared.state());
    }
}

struct MemoryReceiver {
    shared: Arc<Shared>,
    last: EntryId,
    /// `None` once complete or abandoned.
    partial: Option<Partial>,
}

impl SnapshotReceiver for MemoryReceiver {
    fn next(&self) -> ChunkRequest {
        let first = ChunkRequest { snapshot: self.last, chunk: 0 };
        self.partial.as_ref().map_or(first, |partial| partial.assembly.next())
    }

    fn progress(&self) -> (u64, Option<u64>) {
        self.partial.as_ref().map_or((0, None), |partial| partial.assembly.progress())
    }

    fn accept(&mut self, chunk: &Chunk) -> Result<Option<SnapshotInfo>, ReceiveError> {
        let Some(partial) = self.partial.as_mut() else {
            return Err(SnapshotError::Exists { last: self.last }.into());
        };
        let header = partial.assembly.check(chunk)?;
        let info = chunk.is_last().then(|| header.info(chunk.total_bytes));
        partial.chunks.push((chunk.data.clone(), chunk.checksum));
        partial.assembly.advance(header, chunk);
        if let Some(info) = &info {
            self.shared.complete(info, mem::take(&mut partial.chunks));
            self.partial = None;
        }
        Ok(info)
    }

    fn restart(&mut self) -> Result<(), SnapshotError> {
        if self.partial.is_none() {
            return Err(SnapshotError::Exists { last: self.last });
        }
        self.partial = Some(Partial { assembly: Assembly::new(self.shared.group, self.last), chunks: Vec::new() });
        Ok(())
    }

    fn abandon(mut self: Box<Self>) {
        self.partial = None;
    }
}

impl Drop for MemoryReceiver {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if let Some(partial) = self.partial.take() {
            state.partial.insert(self.last, partial);
        }
        state.catalogue.release(self.last);
    }
}
