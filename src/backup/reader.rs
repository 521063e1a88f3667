//! A backup that is being read: nothing is handed out that is not verified.

use super::format::{self, CHECKSUM_BYTES, FIXED_BYTES, Header, TRAILER_BYTES};
use super::{BackupError, BackupInfo};
use std::fmt;
use std::io::{self, Read};
use std::vec::Vec;

/// A backup that is being read, from any [`Read`]. It holds one chunk in memory.
///
/// Reading from it gives the content, the state that the machine wrote: each chunk once it is verified. The end of the stream
/// is the end of the whole backup and nothing else. Errors carry a [`BackupError`] (`BackupError::from` takes it out).
pub struct BackupReader<R> {
    source: R,
    header: Header,
    /// How many bytes were taken from the source.
    offset: u64,
    /// The chunk to be read next.
    next: u64,
    /// The checksum of the chunk before it.
    chain: u32,
    /// The content of the chunk before `next`, verified.
    buffer: Vec<u8>,
    /// How much of `buffer` was handed out, in bytes.
    at: usize,
    /// Something did not hold: nothing more is handed out.
    failed: bool,
}

impl<R: Read> BackupReader<R> {
    /// Reads what a backup says of itself, and checks that.
    ///
    /// # Errors
    /// [`BackupError`]: it is none, is of another format, or its header is damaged.
    pub fn open(mut source: R) -> Result<Self, BackupError> {
        let (mut fixed, mut offset) = ([0; FIXED_BYTES], 0);
        match fill(&mut source, &mut fixed, &mut offset) {
            // What is cut within its first bytes may be anything.
            Err(BackupError::Cut { .. }) if !fixed[..offset as usize].starts_with(b"RAFTBACK") => {
                return Err(BackupError::NotABackup);
            }
            filled => filled?,
        }
        let mut bytes = fixed.to_vec();
        bytes.resize(format::header_bytes(&fixed)?, 0);
        fill(&mut source, &mut bytes[FIXED_BYTES..], &mut offset)?;
        let header = format::decode_header(&bytes)?;
        let chain = header.seed;
        Ok(Self { source, header, offset, next: 0, chain, buffer: Vec::new(), at: 0, failed: false })
    }

    /// What it says of itself.
    #[must_use]
    pub fn info(&self) -> &BackupInfo {
        &self.header.info
    }

    /// How much of the file was read so far, in bytes.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether some of the content was read already.
    #[cfg(feature = "persistence")]
    pub(super) fn is_begun(&self) -> bool {
        self.next > 0 || self.failed
    }

    /// Reads the rest and checks it; nothing is kept.
    ///
    /// # Errors
    /// [`BackupError`]: it is damaged, cut, or cannot be read.
    pub fn verify(mut self) -> Result<BackupInfo, BackupError> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(self.header.info)
    }

    fn damaged(&self, reason: &'static str) -> BackupError {
        BackupError::Damaged { offset: self.offset, reason }
    }

    /// Reads the next chunk; it is the caller's only once it is verified, the last one once all of the file is.
    fn load(&mut self) -> Result<(), BackupError> {
        let (total, chunk_bytes) = (self.header.info.bytes, u64::from(self.header.info.chunk_bytes));
        let left = total - self.next * chunk_bytes;
        let is_last = self.next + 1 == format::chunks(&self.header.info);
        // At most a chunk.
        let count = left.min(chunk_bytes) as usize;
        let begin = self.offset;
        self.buffer.resize(count + CHECKSUM_BYTES, 0);
        fill(&mut self.source, &mut self.buffer, &mut self.offset)?;
        let mut stored = [0; CHECKSUM_BYTES];
        stored.copy_from_slice(&self.buffer[count..]);
        self.buffer.truncate(count);
        let chain = format::checksum(self.chain, &self.buffer, is_last.then_some(total));
        if chain != u32::from_le_bytes(stored) {
            return Err(BackupError::Damaged { offset: begin, reason: "the checksum of a chunk does not hold" });
        }
        if is_last {
            self.check_end(chain)?;
        }
        (self.chain, self.next, self.at) = (chain, self.next + 1, 0);
        Ok(())
    }

    fn check_end(&mut self, chain: u32) -> Result<(), BackupError> {
        let mut trailer = [0; TRAILER_BYTES];
        let expected = format::encode_trailer(self.header.info.bytes, chain);
        let begin = self.offset;
        fill(&mut self.source, &mut trailer, &mut self.offset)?;
        if trailer != expected {
            return Err(BackupError::Damaged { offset: begin, reason: "its trailer is not the one of this content" });
        }
        match fill(&mut self.source, &mut [0], &mut self.offset) {
            Err(BackupError::Cut { .. }) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => Err(self.damaged("something follows its end")),
        }
    }
}

/// Fills the buffer, or says where the source ends.
fn fill(source: &mut impl Read, buffer: &mut [u8], offset: &mut u64) -> Result<(), BackupError> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => return Err(BackupError::Cut { offset: *offset }),
            Ok(count) => {
                filled += count;
                *offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(BackupError::Io { source }),
        }
    }
    Ok(())
}

impl<R: Read> Read for BackupReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.failed {
            return Err(self.damaged("it did not hold before").into());
        }
        if buffer.is_empty() {
            return Ok(0);
        }
        // Also the only chunk of an empty content is verified.
        while self.at == self.buffer.len() && self.next < format::chunks(&self.header.info) {
            if let Err(error) = self.load() {
                self.failed = true;
                self.buffer.clear();
                self.at = 0;
                return Err(error.into());
            }
        }
        let rest = &self.buffer[self.at..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Ok(count)
    }
}

impl<R> fmt::Debug for BackupReader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackupReader")
            .field("info", &self.header.info)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}
