//! What a server remembers of its peers, across its own restarts: who they are, and what they said to be durable.
//!
//! A peer that comes back with less than it had must be kept out ([`life`](crate::life)), so its newest life is stored
//! durably before its hello is answered. What it acknowledges changes with every message: that is noted in memory, and goes
//! with what the log writes anyway, never with a sync of its own. A loss of power may forget the last of it; what is left is
//! still true.
//!
//! Lives here: the memory, its bytes, and who is let in. Does not live here: where the bytes are stored, which is the log's
//! (`log/wal/peers.rs`) or the transport's affair.

use crate::life::{Life, Lives, LostData, Remembered};
use crate::message::{AppendResult, Message};
use crate::types::{EntryId, GroupId, NodeId, Term};
use std::boxed::Box;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::vec::Vec;
use thiserror::Error;

/// How many low bits of an incarnation count the openings; the others are the directory's random number.
const OPENING_BITS: u32 = 32;
/// More often than any directory is opened. In what servers of 0.4 say these bits are random: what exceeds this counts nothing.
const OPENINGS_MAX: u64 = 1 << 25;
const MAGIC: &[u8; 8] = b"RAFTPEER";
const FORMAT: u32 = 2;
/// As 0.6.0 and before wrote it: ids and incarnations. Only read.
const FORMAT_OF_INCARNATIONS: u32 = 1;
const HEAD_BYTES: usize = 8 + 4 + 4;
const INCARNATION_BYTES: usize = 16;
const PEER_BYTES: usize = 80;
const HAS_LIFE: u64 = 1;
const HAS_VOTE: u64 = 2;
/// More than the ids of any cluster in all its time; bounds what a damaged file can make us read.
pub(crate) const FILE_BYTES_MAX: u64 = 16 << 20;

/// Where a memory is kept. `store` replaces what is there as a whole, durably.
pub(crate) trait PeerStore: Send + Sync {
    fn store(&self, bytes: &[u8]) -> io::Result<()>;
}

/// What a server remembers of its peers. Clones share it: the log keeps it, the transport asks and tells it.
#[derive(Clone)]
pub struct PeerMemory {
    shared: Arc<Shared>,
}

struct Shared {
    /// Of which group positions are noted: terms of others are none of its.
    group: GroupId,
    known: Mutex<BTreeMap<NodeId, Known>>,
    store: Option<Box<dyn PeerStore>>,
    /// The store lacks something, because it failed; the next handshake tries again.
    unsaved: AtomicBool,
    dirty: Arc<Dirty>,
    /// What this server's own log holds durably, to be told to the peers.
    held: Mutex<EntryId>,
}

/// Whether something was noted that the log has not written yet.
#[derive(Default)]
struct Dirty {
    /// Anything.
    any: AtomicBool,
    /// A term or a vote: rare, and what a second leader of a term is told by.
    urgent: AtomicBool,
}

#[derive(Default)]
struct Known {
    /// What its last handshake said of its directory; 0 for one that keeps no data.
    incarnation: u64,
    position: Arc<Mutex<Remembered>>,
}

/// A peer is not who it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum NotWhoItWas {
    /// Its directory has another random number: it was wiped or replaced.
    #[error("its data directory is not the one that it had")]
    OtherData,
    /// Its directory was opened fewer times than was seen: it is an older copy.
    #[error("its data directory was opened less often than was seen")]
    OlderData,
    /// Its directory lost what was seen of it.
    #[error(transparent)]
    Lost(#[from] LostData),
}

fn directory(incarnation: u64) -> u64 {
    incarnation >> OPENING_BITS
}

fn openings(incarnation: u64) -> u64 {
    incarnation & ((1 << OPENING_BITS) - 1)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic under one of these locks leaves what is remembered as the last whole change left it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PeerMemory {
    /// One that lasts as long as the process.
    #[must_use]
    pub fn volatile(group: GroupId) -> Self {
        Self::new(group, BTreeMap::new(), None)
    }

    /// One that is kept in `store`, which holds `bytes` now, if anything.
    pub(crate) fn kept(group: GroupId, bytes: Option<&[u8]>, store: Box<dyn PeerStore>) -> Result<Self, &'static str> {
        Ok(Self::new(group, bytes.map(decode).transpose()?.unwrap_or_default(), Some(store)))
    }

    fn new(group: GroupId, known: BTreeMap<NodeId, Known>, store: Option<Box<dyn PeerStore>>) -> Self {
        Self {
            shared: Arc::new(Shared {
                group,
                known: Mutex::new(known),
                store,
                unsaved: AtomicBool::new(false),
                dirty: Arc::default(),
                held: Mutex::default(),
            }),
        }
    }

    /// The group whose terms and entries are noted.
    #[must_use]
    pub fn group(&self) -> GroupId {
        self.shared.group
    }

    /// What is remembered of a peer.
    #[must_use]
    pub fn remembered(&self, peer: NodeId) -> Option<Remembered> {
        lock(&self.shared.known).get(&peer).map(|known| *lock(&known.position))
    }

    /// Whether `peer` is who it was, or is new, by what its handshake says. If it is, and is to be known for good, it is
    /// remembered durably before this returns: members are, the number of strangers is unbounded. A peer of incarnation 0
    /// keeps no data that it could lose.
    ///
    /// A failure to store it is handed out beside: what is remembered in memory alone is better than a cluster that stands
    /// still.
    ///
    /// # Errors
    /// It lost what it had, and must be kept out. Nothing changed.
    pub fn admit(
        &self,
        peer: NodeId,
        incarnation: u64,
        lives: &[Life],
        for_good: bool,
    ) -> Result<Option<io::Error>, NotWhoItWas> {
        let mut known = lock(&self.shared.known);
        let lives = Lives::new(incarnation, lives.iter().copied());
        if let Some(before) = known.get(&peer) {
            check_incarnation(before.incarnation, incarnation)?;
            lives.check(&lock(&before.position))?;
        } else if incarnation == 0 && lives.current().is_none() {
            return Ok(None);
        }
        // Somebody who is remembered already is told apart by the life of now, or what this life says counts for the last one.
        if !for_good && !known.contains_key(&peer) {
            return Ok(None);
        }
        let now = known.entry(peer).or_default();
        let seen = lock(&now.position).life;
        let is_known = now.incarnation == incarnation && (lives.current().is_none() || seen == lives.current());
        if is_known && !self.shared.unsaved.load(Ordering::SeqCst) {
            return Ok(None);
        }
        now.incarnation = incarnation;
        if let Some(life) = lives.current() {
            lock(&now.position).life = Some(life);
        }
        Ok(self.save(&known).err())
    }

    /// Takes over what another memory knows and this one does not; where they name different directories of a peer, this one
    /// prevails.
    pub(crate) fn merge(&self, other: &Self) -> io::Result<()> {
        if Arc::ptr_eq(&self.shared, &other.shared) {
            return Ok(());
        }
        let mut known = lock(&self.shared.known);
        let mut changed = false;
        for (peer, theirs) in &*lock(&other.shared.known) {
            let before = known.get(peer).map(|known| (known.incarnation, *lock(&known.position)));
            let ours = known.entry(*peer).or_default();
            if ours.incarnation == 0 {
                ours.incarnation = theirs.incarnation;
            } else if directory(ours.incarnation) != directory(theirs.incarnation) {
                continue;
            }
            if check_incarnation(ours.incarnation, theirs.incarnation).is_ok() {
                ours.incarnation = theirs.incarnation;
            }
            let position = *lock(&theirs.position);
            lock(&ours.position).merge(&position);
            changed |= before != Some((ours.incarnation, *lock(&ours.position)));
        }
        if changed { self.save(&known) } else { Ok(()) }
    }

    /// The own log holds entries up to this one durably, which is of the current term. Only then it stands for good while
    /// the term lasts: what is of an older term, a leader of this one may remove.
    pub(crate) fn set_held(&self, last: EntryId) {
        *lock(&self.shared.held) = last;
    }

    /// What the own log holds durably; [`EntryId::ZERO`] while that may still be removed.
    #[must_use]
    pub fn held(&self) -> EntryId {
        *lock(&self.shared.held)
    }

    /// A handle to note what a peer says, if it is remembered at all.
    #[must_use]
    pub fn notes(&self, peer: NodeId) -> Option<PeerNotes> {
        let position = Arc::clone(&lock(&self.shared.known).get(&peer)?.position);
        Some(PeerNotes { group: self.shared.group, position, dirty: Arc::clone(&self.shared.dirty) })
    }

    /// What was noted, if the log should write it now: so many bytes in so many records were written since it last did.
    pub(crate) fn take_due(&self, bytes: u64, records: u64) -> Option<Vec<(NodeId, Remembered)>> {
        /// For each peer of a note, which has 49 bytes for it: less than a hundredth of what goes to the device, where a
        /// record that is synced costs a page of 4 KiB at least. Terms and votes are rare, and do not wait.
        const BYTES_BETWEEN: u64 = 8 << 10;
        const RECORDS_BETWEEN: u64 = 8;
        let dirty = &self.shared.dirty;
        let is_long_ago = || {
            let peers = lock(&self.shared.known).len() as u64;
            bytes >= BYTES_BETWEEN * peers || records >= RECORDS_BETWEEN * peers
        };
        let is_worth_a_look = records >= RECORDS_BETWEEN || bytes >= BYTES_BETWEEN;
        let due = dirty.urgent.load(Ordering::Relaxed)
            || (is_worth_a_look && dirty.any.load(Ordering::Relaxed) && is_long_ago());
        due.then(|| self.take_all())
    }

    /// Writes down what was noted and is nowhere yet, before an orderly end.
    pub(crate) fn save_noted(&self) -> io::Result<()> {
        let noted = self.shared.dirty.any.swap(false, Ordering::SeqCst);
        if noted { self.save(&lock(&self.shared.known)) } else { Ok(()) }
    }

    /// Everything that is noted, to be written now.
    pub(crate) fn take_all(&self) -> Vec<(NodeId, Remembered)> {
        let dirty = &self.shared.dirty;
        // The store does not have the newest life of some peer: after a restart its positions would count for an older life,
        // which never reached them. The next handshake stores it, and then they are written.
        if self.shared.unsaved.load(Ordering::SeqCst) {
            return Vec::new();
        }
        // Before the look: what is noted from here on marks it again.
        dirty.urgent.store(false, Ordering::SeqCst);
        dirty.any.store(false, Ordering::SeqCst);
        let known = lock(&self.shared.known);
        known.iter().map(|(peer, known)| (*peer, *lock(&known.position))).collect()
    }

    /// Puts back what the log wrote.
    pub(crate) fn restore(&self, peer: NodeId, position: &Remembered) {
        let mut known = lock(&self.shared.known);
        // Positions count with the life that they were noted under, or a later one; that stands in the store.
        let position = Remembered { life: None, ..*position };
        if let Some(known) = known.get_mut(&peer) {
            lock(&known.position).merge(&position);
        }
    }

    fn save(&self, known: &BTreeMap<NodeId, Known>) -> io::Result<()> {
        let Some(store) = &self.shared.store else { return Ok(()) };
        let saved = store.store(&encode(known));
        self.shared.unsaved.store(saved.is_err(), Ordering::SeqCst);
        saved
    }
}

impl fmt::Debug for PeerMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerMemory").field("group", &self.shared.group).finish_non_exhaustive()
    }
}

fn check_incarnation(before: u64, now: u64) -> Result<(), NotWhoItWas> {
    if before == now || before == 0 {
        Ok(())
    } else if directory(before) != directory(now) {
        Err(NotWhoItWas::OtherData)
    } else if before > now && openings(before) <= OPENINGS_MAX {
        Err(NotWhoItWas::OlderData)
    } else {
        Ok(())
    }
}

/// Notes what one peer says.
#[derive(Clone)]
pub struct PeerNotes {
    group: GroupId,
    position: Arc<Mutex<Remembered>>,
    dirty: Arc<Dirty>,
}

impl PeerNotes {
    /// A message came from the peer to server `own`. What it says of the peer's own state was durable there before it was
    /// sent (law PersistFirst).
    pub fn note(&self, group: GroupId, own: NodeId, message: &Message) {
        if group != self.group {
            return;
        }
        self.change(|position| {
            let term = message.term();
            position.note_term(term);
            match message {
                Message::AppendEntriesResponse(response) => {
                    if let AppendResult::Accepted { match_index } = response.result {
                        position.note_acknowledged(term, match_index);
                    }
                }
                Message::RequestVoteResponse(response) if response.granted => position.note_vote(term, own),
                _ => {}
            }
        });
    }

    /// The peer's log holds entries up to this one durably, of the peer's current term.
    pub fn note_held(&self, group: GroupId, last: EntryId) {
        if group == self.group {
            self.change(|position| {
                position.note_term(last.term);
                position.note_acknowledged(last.term, last.index);
            });
        }
    }

    fn change(&self, note: impl FnOnce(&mut Remembered)) {
        let mut position = lock(&self.position);
        let before = *position;
        note(&mut position);
        if *position == before {
            return;
        }
        let urgent = (position.term, position.vote) != (before.term, before.vote);
        drop(position);
        self.dirty.any.store(true, Ordering::SeqCst);
        if urgent {
            self.dirty.urgent.store(true, Ordering::SeqCst);
        }
    }
}

impl fmt::Debug for PeerNotes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerNotes").field("group", &self.group).finish_non_exhaustive()
    }
}

fn encode(known: &BTreeMap<NodeId, Known>) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD_BYTES + known.len() * PEER_BYTES + 4);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&FORMAT.to_le_bytes());
    out.extend_from_slice(&(known.len() as u32).to_le_bytes());
    for (peer, known) in known {
        let Remembered { life, term, acknowledged, vote } = *lock(&known.position);
        let flags = if life.is_some() { HAS_LIFE } else { 0 } | if vote.is_some() { HAS_VOTE } else { 0 };
        let ((count, id), (vote_term, to)) = (life.unwrap_or_default(), vote.unwrap_or_default());
        let fields = [peer.0, known.incarnation, flags, count, id, term.0];
        let fields = fields.into_iter().chain([acknowledged.index.0, acknowledged.term.0, vote_term.0, to.0]);
        fields.for_each(|field| out.extend_from_slice(&field.to_le_bytes()));
    }
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

fn decode(bytes: &[u8]) -> Result<BTreeMap<NodeId, Known>, &'static str> {
    let (body, crc) = bytes.split_last_chunk().ok_or("the file of the peers' identities is too short")?;
    if u32::from_le_bytes(*crc) != crc32c::crc32c(body) {
        return Err("the checksum of the file of the peers' identities does not hold");
    }
    let no_form = "the file of the peers' identities has no form that this version knows";
    let u32_at =
        |at: usize| body.get(at..at + 4).map_or(0, |bytes| u32::from_le_bytes(bytes.try_into().expect("four")));
    let (peer_bytes, count) = match u32_at(8) {
        FORMAT => (PEER_BYTES, u32_at(12) as usize),
        FORMAT_OF_INCARNATIONS => (INCARNATION_BYTES, u32_at(12) as usize),
        _ => return Err(no_form),
    };
    if !body.starts_with(MAGIC) || body.len() < HEAD_BYTES || (body.len() - HEAD_BYTES) / peer_bytes != count {
        return Err(no_form);
    }
    if (body.len() - HEAD_BYTES) % peer_bytes != 0 {
        return Err(no_form);
    }
    let number = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let peer = |bytes: &[u8]| {
        let mut position = Remembered::default();
        if bytes.len() == PEER_BYTES {
            let at = |position: usize| number(bytes, position * 8);
            position.life = (at(2) & HAS_LIFE != 0).then(|| (at(3), at(4)));
            position.term = Term(at(5));
            position.acknowledged = EntryId::new(at(6), at(7));
            position.vote = (at(2) & HAS_VOTE != 0).then(|| (Term(at(8)), NodeId(at(9))));
        }
        let known = Known { incarnation: number(bytes, 8), position: Arc::new(Mutex::new(position)) };
        (NodeId(number(bytes, 0)), known)
    };
    Ok(body[HEAD_BYTES..].chunks_exact(peer_bytes).map(peer).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{HardState, Index, Term};

    const PEER: NodeId = NodeId(2);

    /// A store that is out of space while it is told to be.
    #[derive(Default)]
    struct Full(AtomicBool);

    impl PeerStore for Arc<Full> {
        fn store(&self, _: &[u8]) -> io::Result<()> {
            if self.0.load(Ordering::SeqCst) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        }
    }

    fn life(count: u64) -> Life {
        Life { count, id: 70 + count, hard_state: HardState::default(), last: EntryId::ZERO }
    }

    fn admit(memory: &PeerMemory, count: u64, for_good: bool) {
        let lives: Vec<Life> = (1..=count).map(life).collect();
        let _ = memory.admit(PEER, 7 << 32 | count, &lives, for_good).expect("nothing is lost");
    }

    /// The volume was full when a peer came back in its next life. Its terms were written beside the life before, so that after
    /// a restart it seemed to have begun with less than it had said, and was refused for ever.
    #[test]
    fn nothing_is_written_of_a_life_that_is_not_stored() {
        let full = Arc::new(Full::default());
        let memory = PeerMemory::kept(GroupId(0), None, Box::new(Arc::clone(&full))).unwrap();
        admit(&memory, 1, true);
        full.0.store(true, Ordering::SeqCst);
        admit(&memory, 2, true);
        let notes = memory.notes(PEER).unwrap();
        notes.note_held(GroupId(0), EntryId::new(Index(9), Term(3)));
        assert_eq!(memory.take_all(), Vec::new());
        full.0.store(false, Ordering::SeqCst);
        admit(&memory, 2, true);
        assert_eq!(memory.take_all()[0].1.life, Some((2, 72)), "once it is stored");
    }

    /// A server that was removed is a guest, and goes on saying things. They counted for the life in which it was a member.
    #[test]
    fn a_guest_that_is_remembered_has_the_life_of_now() {
        let memory = PeerMemory::volatile(GroupId(0));
        admit(&memory, 1, true);
        admit(&memory, 2, false);
        memory.notes(PEER).unwrap().note_held(GroupId(0), EntryId::new(Index(9), Term(3)));
        assert_eq!(memory.remembered(PEER).unwrap().life, Some((2, 72)));
    }
}
