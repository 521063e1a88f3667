//! A snapshot of the store as bytes: a header, each key and its value behind their lengths, then the sessions.
//!
//! The store of snapshots has checksums of its own; the hashes here are those by which replicas are
//! compared, so a restored one goes on with them, and what does not add up to them is refused.

use super::sessions;
use super::shards::Shards;
use super::store::{Reply, Store, digest};
use bytes::Bytes;
use raft_io::session::SessionsImage;
use raft_io::{EntryId, Sessions};
use std::io::{self, BufReader, BufWriter, Read, Write};

/// The name and version of the format.
const MAGIC: &[u8; 8] = b"raft-kv2";
/// The version before, which ends behind the keys and values.
const MAGIC_WITHOUT_SESSIONS: &[u8; 8] = b"raft-kv1";
/// Longer than any key or value that a command can bring.
const LENGTH_MAX: u32 = 64 << 20;

/// The state of a store at one moment.
pub(super) struct Frozen {
    pub(super) values: Shards,
    pub(super) state: u128,
    pub(super) history: u128,
    pub(super) applied: EntryId,
    pub(super) sessions: SessionsImage<Reply>,
}

impl Frozen {
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut out = BufWriter::with_capacity(64 << 10, out);
        out.write_all(MAGIC)?;
        for number in [self.applied.index.0, self.applied.term.0, self.values.len() as u64] {
            out.write_all(&number.to_le_bytes())?;
        }
        out.write_all(&self.state.to_le_bytes())?;
        out.write_all(&self.history.to_le_bytes())?;
        for part in self.values.iter().flat_map(|(key, value)| [key, value]) {
            let length = u32::try_from(part.len()).map_err(io::Error::other)?;
            out.write_all(&length.to_le_bytes())?;
            out.write_all(part)?;
        }
        self.sessions.write_to(&mut out)?;
        out.flush()
    }
}

impl Store {
    /// All of the content, or nothing.
    pub(super) fn thaw(content: &mut dyn Read) -> io::Result<Self> {
        let mut content = BufReader::with_capacity(64 << 10, content);
        let magic = array::<8>(&mut content)?;
        if ![MAGIC, MAGIC_WITHOUT_SESSIONS].contains(&&magic) {
            return Err(invalid("it is no snapshot of this store, or of a newer version"));
        }
        let mut number = || array::<8>(&mut content).map(u64::from_le_bytes);
        let (index, term, keys) = (number()?, number()?, number()?);
        let state = u128::from_le_bytes(array(&mut content)?);
        let history = u128::from_le_bytes(array(&mut content)?);
        let (mut values, mut sum) = (Shards::default(), 0u128);
        for _ in 0..keys {
            let (key, value) = (part(&mut content)?, part(&mut content)?);
            sum = sum.wrapping_add(digest(&[&key, &value]));
            values.insert(&key, Bytes::from(value));
        }
        let sessions = match &magic {
            MAGIC => Sessions::read_from(&mut content)?,
            _ => Sessions::new(sessions::LIMITS),
        };
        if content.read(&mut [0])? != 0 {
            return Err(invalid("there is more than its keys, values and sessions"));
        }
        if (values.len() as u64, sum) != (keys, state) {
            return Err(invalid("its keys and values do not have its hash"));
        }
        Ok(Self { values, state, history, applied: EntryId::new(index, term), sessions })
    }

    /// The state as it is now. Costs one reference for each of the maps and of the sessions.
    pub(super) fn freeze(&self) -> Frozen {
        let Self { values, state, history, applied, sessions } = self;
        let (values, sessions) = (values.clone(), sessions.image());
        Frozen { values, state: *state, history: *history, applied: *applied, sessions }
    }
}

fn array<const N: usize>(content: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    content.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// No more is allocated than there is, whatever the length claims.
fn part(content: &mut impl Read) -> io::Result<Vec<u8>> {
    let length = u32::from_le_bytes(array(content)?);
    if length > LENGTH_MAX {
        return Err(invalid("a key or value is longer than any can be"));
    }
    let mut bytes = Vec::new();
    content.take(length.into()).read_to_end(&mut bytes)?;
    if bytes.len() != length as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    bytes.shrink_to_fit();
    Ok(bytes)
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
