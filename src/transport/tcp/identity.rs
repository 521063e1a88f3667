//! Who the peers are: the same servers as ever, with all that they know.
//!
//! A server that lost its data and comes back under its id has forgotten its votes and entries that it acknowledged: it
//! could help to elect a second leader of a term, or to undo what is committed. So each data directory has a random
//! number and counts how often it was opened, a handshake says both, and a server remembers of each peer what it saw
//! last, across its own restarts if it is told where.

use super::events::TransportEvent;
use crate::types::NodeId;
use crate::wire::Refusal;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::vec::Vec;

/// How many low bits of an incarnation count the openings; the others are the directory's random number.
const OPENING_BITS: u32 = 32;
/// More often than any directory is opened. In what servers of 0.4 say these bits are random: what exceeds this counts nothing.
const OPENINGS_MAX: u64 = 1 << 25;
const MAGIC: &[u8; 8] = b"RAFTPEER";
const FORMAT: u32 = 1;
const HEAD_BYTES: usize = 8 + 4 + 4;
const ENTRY_BYTES: usize = 16;
/// More than the ids of any cluster in all its time; bounds what a damaged file can make us read.
const FILE_BYTES_MAX: u64 = 16 << 20;

fn directory(incarnation: u64) -> u64 {
    incarnation >> OPENING_BITS
}

fn openings(incarnation: u64) -> u64 {
    incarnation & ((1 << OPENING_BITS) - 1)
}

/// What is known of the peers' data directories.
pub(super) struct Identities {
    path: Option<PathBuf>,
    known: Mutex<BTreeMap<NodeId, u64>>,
}

impl Identities {
    /// Those in the file, which need not exist yet; without one they are remembered while the process lives.
    pub(super) fn open(path: Option<PathBuf>) -> io::Result<Self> {
        let known = match path.as_deref().map(read).transpose() {
            Ok(known) => known.unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { path, known: Mutex::new(known) })
    }

    /// Whether `peer` is who it was, or is new. A peer of incarnation 0 keeps no data that it could lose. Who is to be known
    /// for good is remembered: members are, for of strangers there may be any number.
    pub(super) fn check(
        &self,
        peer: NodeId,
        incarnation: u64,
        for_good: bool,
    ) -> Result<Option<TransportEvent>, Refusal> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get(&peer) {
            Some(&before) if before == incarnation => return Ok(None),
            Some(&before) if directory(before) != directory(incarnation) => return Err(Refusal::OtherData),
            Some(&before) if before > incarnation && openings(before) <= OPENINGS_MAX => {
                return Err(Refusal::OlderData);
            }
            None if incarnation == 0 => return Ok(None),
            _ if !for_good => return Ok(None),
            _ => {}
        }
        known.insert(peer, incarnation);
        let saved = self.path.as_deref().map_or(Ok(()), |path| write(path, &known));
        // What is remembered in memory alone is better than a cluster that does not run.
        Ok(saved.err().map(|error| TransportEvent::IdentityNotSaved { peer, error }))
    }
}

fn read(path: &Path) -> io::Result<BTreeMap<NodeId, u64>> {
    let damaged = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let size = fs::metadata(path)?.len();
    if size > FILE_BYTES_MAX {
        return Err(damaged("the file of the peers' identities is too large"));
    }
    let bytes = fs::read(path)?;
    let (body, crc) =
        bytes.split_last_chunk().ok_or_else(|| damaged("the file of the peers' identities is too short"))?;
    if u32::from_le_bytes(*crc) != crc32c::crc32c(body) {
        return Err(damaged("the checksum of the file of the peers' identities does not hold"));
    }
    let count = body.len().saturating_sub(HEAD_BYTES) / ENTRY_BYTES;
    let u32_at = |at: usize| u32::from_le_bytes([body[at], body[at + 1], body[at + 2], body[at + 3]]);
    let whole = body.len() == HEAD_BYTES + count * ENTRY_BYTES && body.starts_with(MAGIC);
    if !whole || u32_at(8) != FORMAT || u32_at(12) as usize != count {
        return Err(damaged("the file of the peers' identities has no form that this version knows"));
    }
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    let entries = body[HEAD_BYTES..].chunks_exact(ENTRY_BYTES);
    Ok(entries.map(|entry| (NodeId(number(&entry[..8])), number(&entry[8..]))).collect())
}

/// Replaces the file as a whole: written beside, synced, renamed, and the directory synced.
fn write(path: &Path, known: &BTreeMap<NodeId, u64>) -> io::Result<()> {
    let mut out = Vec::with_capacity(HEAD_BYTES + known.len() * ENTRY_BYTES + 4);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&FORMAT.to_le_bytes());
    out.extend_from_slice(&(known.len() as u32).to_le_bytes());
    for (peer, incarnation) in known {
        out.extend_from_slice(&peer.0.to_le_bytes());
        out.extend_from_slice(&incarnation.to_le_bytes());
    }
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    let mut beside = path.as_os_str().to_owned();
    beside.push(".tmp");
    let beside = PathBuf::from(beside);
    let mut file = File::create(&beside)?;
    file.write_all(&out)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&beside, path)?;
    sync_parent(path)
}

#[cfg(unix)]
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

/// Elsewhere a directory cannot be synced, and a rename is as durable as it gets.
#[cfg(not(unix))]
fn sync_parent(_path: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    const TWO: NodeId = NodeId(2);

    fn incarnation(directory: u64, opening: u64) -> u64 {
        directory << OPENING_BITS | opening
    }

    fn accepts(identities: &Identities, incarnation: u64) -> Result<(), Refusal> {
        identities.check(TWO, incarnation, true).map(|event| assert!(event.is_none(), "{event:?}"))
    }

    #[test]
    fn a_peer_that_starts_again_is_who_it_was() {
        let identities = Identities::open(None).unwrap();
        for opening in [1, 1, 2, 5] {
            assert_eq!(accepts(&identities, incarnation(77, opening)), Ok(()));
        }
        assert_eq!(accepts(&identities, incarnation(77, 4)), Err(Refusal::OlderData));
        assert_eq!(accepts(&identities, incarnation(78, 9)), Err(Refusal::OtherData));
        assert_eq!(accepts(&identities, incarnation(77, 5)), Ok(()), "a refusal changes nothing");
    }

    #[test]
    fn a_peer_without_data_of_its_own_is_taken_as_it_is_until_it_has_some() {
        let identities = Identities::open(None).unwrap();
        assert_eq!(accepts(&identities, 0), Ok(()));
        assert_eq!(accepts(&identities, incarnation(3, 1)), Ok(()));
        assert_eq!(accepts(&identities, 0), Err(Refusal::OtherData));
    }

    /// A server of 0.4 said a random number; after its upgrade it says the same directory, and how often that was opened.
    #[test]
    fn a_peer_that_was_upgraded_is_who_it_was() {
        let identities = Identities::open(None).unwrap();
        assert_eq!(accepts(&identities, incarnation(9, 0xfeed_beef)), Ok(()));
        assert_eq!(accepts(&identities, incarnation(9, 17)), Ok(()));
        assert_eq!(accepts(&identities, incarnation(9, 16)), Err(Refusal::OlderData));
    }

    /// Whoever passed by was written down for ever, until the file was too large to be read.
    #[test]
    fn strangers_are_not_remembered_but_known_when_they_are_members() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peers");
        let identities = Identities::open(Some(path.clone())).unwrap();
        for id in 100..120 {
            assert!(identities.check(NodeId(id), incarnation(id, 1), false).is_ok_and(|event| event.is_none()));
        }
        assert!(!path.exists());
        assert_eq!(accepts(&identities, incarnation(5, 3)), Ok(()));
        assert_eq!(identities.check(TWO, incarnation(6, 1), false).err(), Some(Refusal::OtherData));
    }

    #[test]
    fn what_was_seen_is_remembered_across_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peers");
        let open = || Identities::open(Some(path.clone())).unwrap();
        assert_eq!(accepts(&open(), incarnation(5, 1)), Ok(()));
        assert_eq!(accepts(&open(), incarnation(5, 3)), Ok(()));
        assert_eq!(accepts(&open(), incarnation(5, 2)), Err(Refusal::OlderData));
        assert_eq!(accepts(&open(), incarnation(6, 1)), Err(Refusal::OtherData));
    }

    #[test]
    fn a_damaged_file_is_an_error_and_not_a_fresh_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peers");
        accepts(&Identities::open(Some(path.clone())).unwrap(), incarnation(5, 1)).unwrap();
        let bytes = fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            fs::write(&path, flipped).unwrap();
            let error = Identities::open(Some(path.clone())).err().expect("damage is seen");
            assert!(error.to_string().contains("peers' identities"), "{error}");
        }
        for length in 0..bytes.len() {
            fs::write(&path, &bytes[..length]).unwrap();
            assert!(Identities::open(Some(path.clone())).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_written_is_reported_and_the_peer_remembered() {
        let identities = Identities::open(Some(PathBuf::from("/nowhere/at/all/peers"))).unwrap();
        let event = identities.check(TWO, incarnation(5, 1), true).unwrap();
        assert!(matches!(event, Some(TransportEvent::IdentityNotSaved { peer: TWO, .. })), "{event:?}");
        assert_eq!(identities.check(TWO, incarnation(6, 1), true).err(), Some(Refusal::OtherData));
    }
}
