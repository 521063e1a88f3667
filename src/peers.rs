//! What a server remembers of its peers, across its own restarts: who they are, and what they said to be durable.
//!
//! A peer that comes back with less than it had must be kept out ([`life`](crate::life)), so its newest life is stored
//! durably before its hello is answered. What it acknowledges changes with every message: that is noted in memory, and goes
//! with what the log writes anyway, never with a sync of its own. A loss of power may forget the last of it; what is left is
//! still true.
//!
//! Lives here: the memory, its bytes, and who is let in. Does not live here: where the bytes are stored, which is the log's
//! (`log/wal/peers.rs`) or the transport's affair.

mod bytes;
#[cfg(any(feature = "persistence", feature = "tcp"))]
mod store;

use crate::life::{Life, Lives, LostData, Remembered};
use crate::message::{AppendResult, Message};
use crate::types::{EntryId, GroupId, NodeId};
use bytes::{decode, encode};
use std::boxed::Box;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::vec::Vec;
#[cfg(any(feature = "persistence", feature = "tcp"))]
pub(crate) use store::FileIn;
use thiserror::Error;

/// How many low bits of an incarnation count the openings; the others are the directory's random number.
const OPENING_BITS: u32 = 32;
/// More often than any directory is opened. In what servers of 0.4 say these bits are random: what exceeds this counts nothing.
const OPENINGS_MAX: u64 = 1 << 25;
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
    /// Counts what is to be stored; grows under the lock of `known`.
    version: AtomicU64,
    /// The version that the store has. Less than `version` while it is written, and if that failed: then the next handshake
    /// tries again. Grows under the lock of `known`.
    saved: AtomicU64,
    /// Held while the store is written, and never by the thread that writes the log: a sync may take its time.
    saving: Mutex<()>,
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
    /// Something is not written because it belongs to a life that is not stored yet. Changes under the lock of `known`.
    held_back: AtomicBool,
}

#[derive(Default)]
struct Known {
    /// What its last handshake said of its directory; 0 for one that keeps no data.
    incarnation: u64,
    position: Arc<Mutex<Remembered>>,
    /// Its newest life, until that is stored.
    unstored: Option<Unstored>,
}

/// The store has an older life of a peer, or none.
struct Unstored {
    /// The version that brings the new one.
    version: u64,
    /// What was remembered before. The log goes on writing this, because all of it belongs to the life that is stored.
    before: Remembered,
}

impl Known {
    /// What the log may write, if the store has this version: after a restart it counts for the life that the store has.
    fn writable(&mut self, saved: u64) -> Remembered {
        self.unstored.take_if(|unstored| unstored.version <= saved);
        self.unstored.as_ref().map_or_else(|| *lock(&self.position), |unstored| unstored.before)
    }

    /// A change of the position which that version stores; notes what was before if it brings another life.
    fn change(&mut self, saved: u64, version: u64, change: impl FnOnce(&mut Remembered)) {
        let stored = self.writable(saved);
        let mut position = lock(&self.position);
        let life = position.life;
        change(&mut position);
        if position.life != life {
            self.unstored = Some(Unstored { version, before: stored });
        }
    }
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
                version: AtomicU64::new(0),
                saved: AtomicU64::new(0),
                saving: Mutex::new(()),
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
        if is_known && self.is_saved() {
            return Ok(None);
        }
        now.incarnation = incarnation;
        if let Some(life) = lives.current() {
            let (saved, version) = self.versions();
            now.change(saved, version, |position| position.life = Some(life));
        }
        self.changed(known);
        Ok(self.save().err())
    }

    /// As [`PeerMemory::admit`], but changes nothing. False if the handshake leaves it open, because the life that is remembered
    /// is older than all that it says: then the peer must be told that life, and compare it with its own list, which is
    /// longer, before it is admitted and what is remembered is overwritten.
    pub(crate) fn knows(&self, peer: NodeId, incarnation: u64, lives: &[Life]) -> Result<bool, NotWhoItWas> {
        let known = lock(&self.shared.known);
        let Some(before) = known.get(&peer) else { return Ok(true) };
        let lives = Lives::new(incarnation, lives.iter().copied());
        let position = lock(&before.position);
        check_incarnation(before.incarnation, incarnation)?;
        lives.check(&position)?;
        Ok(lives.current().is_none() || lives.include(&position))
    }

    /// Takes over what another memory knows and this one does not; where they name different directories of a peer, this one
    /// prevails.
    pub(crate) fn merge(&self, other: &Self) -> io::Result<()> {
        if Arc::ptr_eq(&self.shared, &other.shared) {
            return Ok(());
        }
        let mut known = lock(&self.shared.known);
        let mut changed = false;
        let (saved, version) = self.versions();
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
            ours.change(saved, version, |ours| ours.merge(&position));
            changed |= before != Some((ours.incarnation, *lock(&ours.position)));
        }
        if !changed {
            return Ok(());
        }
        self.changed(known);
        self.save()
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
        if !noted {
            return Ok(());
        }
        self.changed(lock(&self.shared.known));
        self.save()
    }

    /// Everything that is noted, to be written now. Of a peer whose newest life is not stored this is what was noted before:
    /// after a restart anything newer would count for an older life, which never reached it. It is written later, once the
    /// life is stored.
    pub(crate) fn take_all(&self) -> Vec<(NodeId, Remembered)> {
        let dirty = &self.shared.dirty;
        let mut known = lock(&self.shared.known);
        // Before the look: what is noted from here on marks it again.
        dirty.urgent.store(false, Ordering::SeqCst);
        dirty.any.store(false, Ordering::SeqCst);
        let (saved, _) = self.versions();
        let taken: Vec<_> = known.iter_mut().map(|(peer, known)| (*peer, known.writable(saved))).collect();
        if known.values().any(|known| known.unstored.is_some()) {
            dirty.held_back.store(true, Ordering::SeqCst);
            dirty.any.store(true, Ordering::SeqCst);
        }
        // A peer that the store does not have at all.
        taken.into_iter().filter(|(_, position)| *position != Remembered::default()).collect()
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

    /// The version that the store has, and the one that the next [`PeerMemory::changed`] makes. Stands while `known` is locked.
    fn versions(&self) -> (u64, u64) {
        (self.shared.saved.load(Ordering::SeqCst), self.shared.version.load(Ordering::SeqCst) + 1)
    }

    /// Something of it is to be stored.
    fn changed(&self, known: MutexGuard<'_, BTreeMap<NodeId, Known>>) {
        self.shared.version.fetch_add(1, Ordering::SeqCst);
        drop(known);
    }

    fn is_saved(&self) -> bool {
        self.shared.version.load(Ordering::SeqCst) == self.shared.saved.load(Ordering::SeqCst)
    }

    /// Stores what was changed before the call. One after the other, each with all that is known by then: so nothing newer is
    /// replaced by something older, and a call that waited has nothing left to do.
    fn save(&self) -> io::Result<()> {
        let saving = lock(&self.shared.saving);
        let known = lock(&self.shared.known);
        if self.is_saved() {
            return Ok(());
        }
        let version = self.shared.version.load(Ordering::SeqCst);
        let bytes = encode(&known);
        // The log takes this lock with each write. It must not wait for the sync of another file.
        drop(known);
        self.shared.store.as_ref().map_or(Ok(()), |store| store.store(&bytes))?;
        let known = lock(&self.shared.known);
        self.shared.saved.store(version, Ordering::SeqCst);
        let dirty = &self.shared.dirty;
        if dirty.held_back.swap(false, Ordering::SeqCst) {
            dirty.urgent.store(true, Ordering::SeqCst);
        }
        drop((known, saving));
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{HardState, Index, Term};
    use std::sync::mpsc::{self, Sender};
    use std::thread;
    use std::time::Duration;

    const PEER: NodeId = NodeId(2);
    const PATIENCE: Duration = Duration::from_secs(10);

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
        let before = Remembered { life: Some((1, 71)), ..Remembered::default() };
        assert_eq!(memory.take_all(), [(PEER, before)], "what was noted before");
        full.0.store(false, Ordering::SeqCst);
        admit(&memory, 2, true);
        assert_eq!(memory.take_all()[0].1.life, Some((2, 72)), "once it is stored");
    }

    /// A store that waits before each write until it is let on.
    struct Slow {
        entered: Mutex<Sender<()>>,
        leave: Mutex<mpsc::Receiver<()>>,
        stored: Mutex<Vec<Vec<u8>>>,
    }

    impl PeerStore for Arc<Slow> {
        fn store(&self, bytes: &[u8]) -> io::Result<()> {
            lock(&self.entered).send(()).expect("the test listens");
            lock(&self.leave).recv_timeout(PATIENCE).expect("the test lets it on");
            lock(&self.stored).push(bytes.to_vec());
            Ok(())
        }
    }

    /// A peer came back, and its life was stored and synced under the lock that the log's thread takes with each write: every
    /// proposal waited for the sync of another file, and for two on a slow disk.
    #[test]
    fn the_log_does_not_wait_while_a_life_is_stored() {
        let ((entered, is_in), (go, leave)) = (mpsc::channel(), mpsc::channel());
        let slow = Arc::new(Slow { entered: entered.into(), leave: leave.into(), stored: Mutex::default() });
        let memory = PeerMemory::kept(GroupId(0), None, Box::new(Arc::clone(&slow))).unwrap();
        thread::scope(|scope| {
            let first = scope.spawn(|| admit(&memory, 1, true));
            is_in.recv_timeout(PATIENCE).expect("it is being stored");
            let (done, log) = mpsc::channel();
            let writes = memory.clone();
            // Not in the scope: if it waits, the test ends all the same.
            thread::spawn(move || done.send((writes.take_due(u64::MAX, u64::MAX), writes.take_all())));
            let nothing = log.recv_timeout(PATIENCE).expect("the log waits for nothing");
            assert_eq!(nothing, (None, Vec::new()), "of a life that is not stored yet");
            assert!(!first.is_finished(), "it is let in only once that is durable");
            // Meanwhile another one comes: both are stored in the end, whoever is the last.
            let other = scope.spawn(|| memory.admit(NodeId(3), 8 << 32 | 1, &[life(1)], true).map(|_| ()));
            while memory.remembered(NodeId(3)).is_none() {
                thread::yield_now();
            }
            go.send(()).expect("it waits");
            is_in.recv_timeout(PATIENCE).expect("the other is being stored");
            assert!(first.join().is_ok() && !memory.is_saved());
            go.send(()).expect("it waits");
            assert_eq!(other.join().expect("no panic"), Ok(()));
        });
        assert!(memory.is_saved());
        let known = decode(lock(&slow.stored).last().expect("two")).expect("its own bytes");
        assert_eq!(known.keys().copied().collect::<Vec<_>>(), [PEER, NodeId(3)]);
        assert_eq!(memory.take_all().len(), 2);
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
