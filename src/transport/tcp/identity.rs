//! Who this server is, who the peers are, and who is let in.
//!
//! A server that lost its data and comes back under its id has forgotten its votes and entries that it acknowledged: it
//! could help to elect a second leader of a term, or to undo what is committed. So each side of a handshake says the lives
//! of its data directory and what it remembers of the other, both compare, and each refuses the other by name
//! ([`crate::life`], [`crate::peers`]). A server that is told that it lost data itself takes part in nothing any more:
//! others, who know less, must not be led into counting on it.
//!
//! Each side also says which history its log belongs to, once that is committed: in handshakes, and to servers that it has
//! met already. Two servers of histories of which neither
//! goes on from the other refuse each other, whatever their numbers are; and once this server's log has a history, only a
//! member that shows the same lineage can tell it that it lost data.

use super::Shared;
use super::events::TransportEvent;
use super::peer::Peer;
use crate::directory::{Directory, OsDirectory};
use crate::history::{History, HistoryId, Lineage};
use crate::life::Lives;
use crate::peers::{FileIn, NotWhoItWas, PeerMemory, PeerStore};
use crate::transport::Receiver;
use crate::types::{GroupId, NodeId};
use crate::wire::{FEATURE_HISTORIES, Hello, Introduction, Refusal, Refuser};
use std::boxed::Box;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
#[cfg(feature = "persistence")]
use std::string::String;
use std::string::ToString;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

/// Who this server is, and what it remembers of its peers.
pub(super) struct Recognition {
    /// Of its data directory; none of a server that keeps no data, or was not told of it.
    lives: OnceLock<Lives>,
    /// The log's once there is one.
    memory: RwLock<PeerMemory>,
    /// The history of this server's log, as far as it is committed.
    history: RwLock<Option<Arc<History>>>,
    /// Which peer found that this server lost data.
    lost: OnceLock<NodeId>,
    /// Who is to be told that. Weak: the transport outlives whom it delivers to.
    receiver: OnceLock<Weak<dyn Receiver>>,
    pub(super) greeting: Greeting,
}

/// The time between a start and the first message: every peer is greeted first, for any of them may know that this server
/// lost data, and the others must not be led into counting on it before. A peer that cannot be reached at once is not
/// waited for.
#[derive(Default)]
pub(super) struct Greeting {
    state: Mutex<Ungreeted>,
    changed: Condvar,
}

#[derive(Default)]
struct Ungreeted {
    peers: BTreeSet<NodeId>,
    /// When everybody has been waited for long enough; `None` before the start.
    deadline: Option<Instant>,
}

impl Greeting {
    pub(super) fn begin(&self, peers: impl IntoIterator<Item = NodeId>, patience: Duration) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = Ungreeted { peers: peers.into_iter().collect(), deadline: Some(Instant::now() + patience) };
    }

    /// The peer was spoken to, or could not be.
    pub(super) fn greeted(&self, peer: NodeId) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.peers.remove(&peer) && state.peers.is_empty() {
            self.changed.notify_all();
        }
    }

    /// Everybody who waits goes on: the transport ends.
    pub(super) fn end(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).peers.clear();
        self.changed.notify_all();
    }

    /// Waits until every peer was greeted, or long enough.
    pub(super) fn wait(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(deadline) = state.deadline.filter(|_| !state.peers.is_empty()) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.peers.clear();
                self.changed.notify_all();
                return;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Recognition {
    pub(super) fn new(memory: PeerMemory) -> Self {
        Self {
            lives: OnceLock::new(),
            memory: RwLock::new(memory),
            history: RwLock::default(),
            lost: OnceLock::new(),
            receiver: OnceLock::new(),
            greeting: Greeting::default(),
        }
    }

    /// What the log's directory says and remembers counts from now on. What was remembered elsewhere before is added to it.
    pub(super) fn introduce(&self, lives: &Lives, memory: &PeerMemory) -> io::Result<()> {
        // A transport is one server's, and the first log speaks for it.
        if self.lives.set(lives.clone()).is_err() {
            return Ok(());
        }
        let mut current = self.memory.write().unwrap_or_else(PoisonError::into_inner);
        let merged = memory.merge(&current);
        *current = memory.clone();
        merged
    }

    pub(super) fn set_receiver(&self, receiver: &Arc<dyn Receiver>) {
        let _ = self.receiver.set(Arc::downgrade(receiver));
    }

    pub(super) fn memory(&self) -> PeerMemory {
        self.memory.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether this server lost data, as a peer found.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.get().is_some()
    }

    pub(super) fn incarnation(&self, configured: u64) -> u64 {
        if configured == 0 { self.lives.get().map_or(0, Lives::incarnation) } else { configured }
    }

    /// What this server says to a peer.
    pub(super) fn introduction(&self, to: NodeId) -> Introduction {
        Introduction {
            features: FEATURE_HISTORIES,
            lives: self.lives.get().map(|lives| lives.as_slice().to_vec()).unwrap_or_default(),
            remembered: self.memory().remembered(to),
            history: self.lineage(to),
        }
    }

    /// What this server says to one that it refuses.
    pub(super) fn refuser(&self, to: NodeId) -> Refuser {
        Refuser { features: FEATURE_HISTORIES, history: self.lineage(to) }
    }

    pub(super) fn history_id(&self) -> Option<HistoryId> {
        self.history.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(|history| history.id())
    }

    pub(super) fn history(&self) -> Option<Arc<History>> {
        self.history.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn lineage(&self, to: NodeId) -> Option<Lineage> {
        self.history().map(|history| history.lineage(to))
    }

    /// Whether this server may speak with `peer`, by what that says of its history. Where one of the two has none that is
    /// committed, nothing is known against it.
    fn check_history(&self, peer: NodeId, theirs: Option<&Lineage>) -> Result<(), Refusal> {
        match (self.history(), theirs) {
            (Some(ours), Some(theirs)) if !ours.speaks_with(peer, theirs) => {
                Err(Refusal::OtherHistory { history: ours.id() })
            }
            _ => Ok(()),
        }
    }
}

impl Shared {
    /// As [`Shared::recognise`], by a hello, which says only the newest lives. False if the peer is to be told first what is
    /// remembered of it: it is admitted with the first word that it says after that.
    pub(super) fn recognise_hello(&self, hello: &Hello) -> Result<bool, Refusal> {
        let (id, said) = (hello.from, &hello.introduction);
        self.identity.check_history(id, said.history.as_ref())?;
        let known = self.identity.memory().knows(id, hello.incarnation, &said.lives);
        if self.identity.is_lost() || known != Ok(false) {
            return self.recognise(id, hello.incarnation, said).map(|()| true);
        }
        self.check_own_lives(id, said).map(|()| false)
    }

    /// Whether a peer is who it was, and this server is who it was for the peer, by what the peer said in a handshake.
    pub(super) fn recognise(&self, id: NodeId, incarnation: u64, said: &Introduction) -> Result<(), Refusal> {
        if self.identity.is_lost() {
            return Err(Refusal::OwnDataLost);
        }
        // First: what a server of another history remembers, or lost, is none of this one's affair.
        self.identity.check_history(id, said.history.as_ref())?;
        let is_member = self.is_member(id);
        let admitted = self.identity.memory().admit(id, incarnation, &said.lives, is_member);
        let not_saved = admitted.map_err(refusal)?;
        self.check_own_lives(id, said)?;
        if let Some(error) = not_saved {
            self.monitor.report(&TransportEvent::IdentityNotSaved { peer: id, error });
        }
        Ok(())
    }

    /// Only of one that was found to be who it was, and that is believed.
    fn check_own_lives(&self, id: NodeId, said: &Introduction) -> Result<(), Refusal> {
        let (Some(lives), Some(remembered)) = (self.identity.lives.get(), &said.remembered) else { return Ok(()) };
        match lives.check(remembered) {
            Err(lost) if self.believes(id, said.history.as_ref()) => {
                self.lose(id, lost.into());
                Err(Refusal::OwnDataLost)
            }
            _ => Ok(()),
        }
    }

    /// Whether `id` is believed when it says that this server lost data: only a member is, and where this server's log has a
    /// history, only one that shows the same lineage. By mistake a copy of some server, or a server of another cluster of the
    /// same number, may be where a peer should be; it remembers others under the names of this cluster's servers, and must
    /// not stop them. That cluster may be so new that it has no history: from one that shows none, nothing is believed.
    /// This server voted for, and acknowledged entries to, nobody whose log lacked what is committed here, so such a member
    /// has nothing to tell that matters, or has it in its log already and tells it when it knows that it is committed.
    fn believes(&self, id: NodeId, theirs: Option<&Lineage>) -> bool {
        let is_kin = match (self.identity.history(), theirs) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(ours), Some(theirs)) => ours.speaks_with(id, theirs),
        };
        is_kin && self.is_member(id)
    }

    fn is_member(&self, id: NodeId) -> bool {
        self.peer(id).is_some_and(|peer| !peer.is_guest())
    }

    /// The history of this server's log is committed, or a child of it is. Connections to servers that turn out to be of
    /// another one end; the next handshake says why. All others are told, because their own history may be settled later.
    pub(super) fn set_history(&self, history: &Arc<History>) {
        *self.identity.history.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(history));
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        let is_other = |peer: &Peer| {
            let theirs = peer.said().and_then(|(_, said)| said.history);
            theirs.is_some_and(|theirs| !history.speaks_with(peer.id, &theirs))
        };
        peers.values().for_each(|peer| if is_other(peer) { peer.disconnect() } else { peer.queue.nudge() });
    }

    /// A peer tells which history its log belongs to, which was not committed when it shook hands. What it told is noted before
    /// the own history is read, as [`Shared::set_history`] does it the other way round: one of the two sees both.
    pub(super) fn hear_history(&self, peer: &Peer, theirs: Lineage) -> Result<(), Refusal> {
        peer.learn_history(theirs.clone());
        self.identity.check_history(peer.id, Some(&theirs)).inspect_err(|_| peer.disconnect())?;
        // It is believed now.
        peer.said().map_or(Ok(()), |(_, said)| self.check_own_lives(peer.id, &said))
    }

    /// A peer refuses this server. Some reasons mean that this server lost data.
    pub(super) fn hear_refusal(&self, peer: NodeId, reason: Refusal, by: &Refuser) {
        if reason.is_loss() && self.believes(peer, by.history.as_ref()) {
            self.lose(peer, reason);
        }
    }

    /// Takes this server out of everything: it lost data, which only some of its peers may know.
    fn lose(&self, found_by: NodeId, reason: Refusal) {
        if self.identity.lost.set(found_by).is_err() {
            return;
        }
        let event = TransportEvent::DataLost { peer: found_by, reason };
        self.monitor.report(&event);
        self.peers.read().unwrap_or_else(PoisonError::into_inner).values().for_each(|peer| peer.disconnect());
        if let Some(receiver) = self.identity.receiver.get().and_then(Weak::upgrade) {
            receiver.data_lost(event.to_string());
        }
    }

    /// Remembers a guest that has become a member, from the handshake that it had as a guest.
    pub(super) fn remember_member(&self, peer: &Peer) -> Result<(), Refusal> {
        match peer.said() {
            Some((incarnation, said)) => self.recognise(peer.id, incarnation, &said),
            None => Ok(()),
        }
    }
}

fn refusal(error: NotWhoItWas) -> Refusal {
    match error {
        NotWhoItWas::OtherData => Refusal::OtherData,
        NotWhoItWas::OlderData => Refusal::OlderData,
        NotWhoItWas::Lost(lost) => lost.into(),
    }
}

/// Where a transport remembers its peers, if its log does not.
#[derive(Clone)]
pub(super) enum IdentitiesPlace {
    /// A file, whose directory need not be there yet.
    Path(PathBuf),
    /// A file of this directory.
    #[cfg(feature = "persistence")]
    In(Arc<dyn Directory>, String),
}

impl IdentitiesPlace {
    pub(super) fn path(&self) -> PathBuf {
        match self {
            Self::Path(path) => path.clone(),
            #[cfg(feature = "persistence")]
            Self::In(directory, name) => directory.path().join(name),
        }
    }

    fn file(&self) -> io::Result<FileIn<Arc<dyn Directory>>> {
        match self {
            Self::Path(path) => {
                let no_name = || io::Error::new(io::ErrorKind::InvalidInput, "the path names no file in Unicode");
                let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(no_name)?.to_string();
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
                Ok(FileIn { directory: Arc::new(OsDirectory::existing(parent)?), name })
            }
            #[cfg(feature = "persistence")]
            Self::In(directory, name) => Ok(FileIn { directory: Arc::clone(directory), name: name.clone() }),
        }
    }
}

impl PeerStore for IdentitiesPlace {
    fn store(&self, bytes: &[u8]) -> io::Result<()> {
        self.file()?.store(bytes)
    }
}

/// The memory that a configured file holds, which need not exist yet; without one it lasts while the process lives.
pub(super) fn open(place: Option<IdentitiesPlace>) -> io::Result<PeerMemory> {
    let Some(place) = place else { return Ok(PeerMemory::volatile(GroupId(0))) };
    let bytes = match place.file().and_then(|file| file.read()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        bytes => bytes?,
    };
    let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_string());
    PeerMemory::kept(GroupId(0), bytes.as_deref(), Box::new(place)).map_err(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn open(path: Option<&Path>) -> io::Result<PeerMemory> {
        super::open(path.map(|path| IdentitiesPlace::Path(path.to_path_buf())))
    }

    const TWO: NodeId = NodeId(2);

    fn incarnation(directory: u64, opening: u64) -> u64 {
        directory << 32 | opening
    }

    fn accepts(identities: &PeerMemory, incarnation: u64) -> Result<(), NotWhoItWas> {
        identities.admit(TWO, incarnation, &[], true).map(|error| assert!(error.is_none(), "{error:?}"))
    }

    #[test]
    fn a_peer_that_starts_again_is_who_it_was() {
        let identities = open(None).unwrap();
        for opening in [1, 1, 2, 5] {
            assert_eq!(accepts(&identities, incarnation(77, opening)), Ok(()));
        }
        assert_eq!(accepts(&identities, incarnation(77, 4)), Err(NotWhoItWas::OlderData));
        assert_eq!(accepts(&identities, incarnation(78, 9)), Err(NotWhoItWas::OtherData));
        assert_eq!(accepts(&identities, incarnation(77, 5)), Ok(()), "a refusal changes nothing");
    }

    #[test]
    fn a_peer_without_data_of_its_own_is_taken_as_it_is_until_it_has_some() {
        let identities = open(None).unwrap();
        assert_eq!(accepts(&identities, 0), Ok(()));
        assert_eq!(accepts(&identities, incarnation(3, 1)), Ok(()));
        assert_eq!(accepts(&identities, 0), Err(NotWhoItWas::OtherData));
    }

    /// A server of 0.4 said a random number; after its upgrade it says the same directory, and how often that was opened.
    #[test]
    fn a_peer_that_was_upgraded_is_who_it_was() {
        let identities = open(None).unwrap();
        assert_eq!(accepts(&identities, incarnation(9, 0xfeed_beef)), Ok(()));
        assert_eq!(accepts(&identities, incarnation(9, 17)), Ok(()));
        assert_eq!(accepts(&identities, incarnation(9, 16)), Err(NotWhoItWas::OlderData));
    }

    /// Whoever passed by was written down for ever, until the file was too large to be read.
    #[test]
    fn strangers_are_not_remembered_but_known_when_they_are_members() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peers");
        let identities = open(Some(&path)).unwrap();
        for id in 100..120 {
            assert!(identities.admit(NodeId(id), incarnation(id, 1), &[], false).is_ok_and(|error| error.is_none()));
        }
        assert!(!path.exists());
        assert_eq!(accepts(&identities, incarnation(5, 3)), Ok(()));
        assert_eq!(identities.admit(TWO, incarnation(6, 1), &[], false).err(), Some(NotWhoItWas::OtherData));
    }

    #[test]
    fn what_was_seen_is_remembered_across_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peers");
        let again = || open(Some(&path)).unwrap();
        assert_eq!(accepts(&again(), incarnation(5, 1)), Ok(()));
        assert_eq!(accepts(&again(), incarnation(5, 3)), Ok(()));
        assert_eq!(accepts(&again(), incarnation(5, 2)), Err(NotWhoItWas::OlderData));
        assert_eq!(accepts(&again(), incarnation(6, 1)), Err(NotWhoItWas::OtherData));
    }

    #[test]
    fn a_damaged_file_is_an_error_and_not_a_fresh_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peers");
        accepts(&open(Some(&path)).unwrap(), incarnation(5, 1)).unwrap();
        let bytes = fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            fs::write(&path, flipped).unwrap();
            let error = open(Some(&path)).expect_err("damage is seen");
            assert!(error.to_string().contains("peers' identities"), "{error}");
        }
        for length in 0..bytes.len() {
            fs::write(&path, &bytes[..length]).unwrap();
            assert!(open(Some(&path)).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_written_is_reported_and_the_peer_remembered() {
        let identities = open(Some(Path::new("/nowhere/at/all/peers"))).unwrap();
        assert!(identities.admit(TWO, incarnation(5, 1), &[], true).unwrap().is_some());
        assert_eq!(identities.admit(TWO, incarnation(6, 1), &[], true).err(), Some(NotWhoItWas::OtherData));
    }
}
