//! The lives of a log's directory, and what it remembers of the peers: kept across openings and crashes, and read from
//! what 0.6.0 wrote.

#![cfg(all(feature = "persistence", feature = "testkit"))]

mod log_support;

use log_support::{compaction, open, u32_at, write};
use raft_io::action::Write;
use raft_io::life::{Life, Lives, Remembered};
use raft_io::log::wal::{Directory, LockGuard, RawFile};
use raft_io::log::{Locked, LogView, RaftLog, WalError, WalLog, WalOptions};
use raft_io::message::{AppendEntriesResponse, AppendResult, RequestVoteResponse};
use raft_io::peers::NotWhoItWas;
use raft_io::testkit::disk::{FaultyDisk, Image};
use raft_io::testkit::log_suite::Random;
use raft_io::{ClusterId, EntryId, GroupId, HardState, Index, MemoryLog, Message, NodeId, Term};
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

const TWO: NodeId = NodeId(2);
const OWN: NodeId = NodeId(1);

fn term(term: u64, vote: Option<u64>) -> Write {
    Write { hard_state: Some(HardState { term: Term(term), vote: vote.map(NodeId) }), ..Write::default() }
}

fn synced(log: &mut WalLog, writes: impl IntoIterator<Item = Write>) {
    log.append(&mut writes.into_iter().collect()).expect("an append succeeds");
    log.sync().expect("a sync succeeds");
}

fn accepted(term: u64, match_index: u64) -> Message {
    let result = AppendResult::Accepted { match_index: Index(match_index) };
    Message::AppendEntriesResponse(AppendEntriesResponse {
        disk: Default::default(),
        term: Term(term),
        result,
        session: Some(Index::ZERO),
    })
}

fn life(count: u64, id: u64) -> Life {
    Life { count, id, hard_state: HardState::default(), last: EntryId::ZERO }
}

/// Behind one lock it said neither, so that its node was unknown to its peers and knew none.
#[test]
fn a_log_behind_a_lock_says_its_lives_and_remembers_the_peers() {
    let disk = FaultyDisk::new();
    let log = open(&disk).expect("a new log opens");
    let (lives, memory) = (log.lives().clone(), log.peer_memory());
    let locked = Locked::new(log);
    assert_eq!(RaftLog::lives(&locked), Some(lives));
    let same = RaftLog::peer_memory(&locked).expect("it remembers");
    assert!(memory.admit(TWO, 7 << 32 | 1, &[life(1, 10)], true).unwrap().is_none());
    assert_eq!(same.remembered(TWO).unwrap().life, Some((1, 10)));
    assert_eq!(RaftLog::lives(&Locked::new(MemoryLog::new())), None, "in memory there is nothing to lose");
}

#[test]
fn each_opening_is_a_life_that_says_what_it_found() {
    let disk = FaultyDisk::new();
    let mut log = open(&disk).unwrap();
    synced(&mut log, [term(4, Some(3)), write(1, &[2, 4], 10)]);
    drop(log);
    let mut log = open(&disk).unwrap();
    synced(&mut log, [term(5, None), Write { truncate_from: Some(Index(2)), ..Write::default() }]);
    drop(log);
    let log = open(&disk).unwrap();
    let lives = log.lives().as_slice();
    let found: Vec<_> =
        lives.iter().map(|life| (life.count, life.hard_state.term.0, life.hard_state.vote, life.last)).collect();
    let expected =
        [(1, 0, None, EntryId::ZERO), (2, 4, Some(NodeId(3)), EntryId::new(2, 4)), (3, 5, None, EntryId::new(1, 2))];
    assert_eq!(found, expected);
    assert!(lives[0].id != lives[1].id && lives[1].id != lives[2].id);
    assert_eq!(log.lives().incarnation(), log.incarnation());
}

#[test]
fn the_list_of_lives_is_bounded() {
    let disk = FaultyDisk::new();
    for _ in 0..Lives::KEPT_MAX + 9 {
        drop(open(&disk).unwrap());
    }
    let log = open(&disk).unwrap();
    let counts: Vec<_> = log.lives().as_slice().iter().map(|life| life.count).collect();
    assert_eq!(counts, (11..=74).collect::<Vec<_>>());
}

/// The manifest as 0.6.0 wrote it: format 1, without lives.
fn of_0_6_0(image: &Image) -> Image {
    let mut image = image.clone();
    let manifest = image.get_mut("MANIFEST").unwrap();
    let segments = u32_at(manifest, 12) as usize;
    manifest.truncate(56 + 32 * segments);
    manifest[8..12].copy_from_slice(&1u32.to_le_bytes());
    let crc = crc32c::crc32c(manifest);
    manifest.extend_from_slice(&crc.to_le_bytes());
    image
}

#[test]
fn a_manifest_of_0_6_0_opens_and_starts_its_list() {
    let disk = FaultyDisk::new();
    let mut log = open(&disk).unwrap();
    synced(&mut log, [term(4, None), write(1, &[4], 10)]);
    drop(log);
    drop(open(&disk).unwrap());
    let upgraded = FaultyDisk::from_image(&of_0_6_0(&disk.live_image()));
    let lives = open(&upgraded).unwrap().lives().clone();
    let found: Vec<_> = lives.as_slice().iter().map(|life| (life.count, life.hard_state.term, life.last)).collect();
    assert_eq!(found, [(3, Term(4), EntryId::new(1, 4))]);
    assert_eq!(open(&upgraded).unwrap().lives().as_slice().len(), 2);
}

/// A manifest that a later version wrote was called damaged, with the advice to give up the node.
#[test]
fn a_manifest_of_a_later_version_is_not_called_damaged() {
    let disk = FaultyDisk::new();
    drop(open(&disk).unwrap());
    let mut image = disk.live_image();
    let manifest = image.get_mut("MANIFEST").unwrap();
    let length = manifest.len();
    manifest.truncate(length - 4);
    manifest[8..12].copy_from_slice(&3u32.to_le_bytes());
    manifest.extend_from_slice(b"more than this version knows");
    let crc = crc32c::crc32c(manifest);
    manifest.extend_from_slice(&crc.to_le_bytes());
    let error = open(&FaultyDisk::from_image(&image)).unwrap_err();
    assert!(matches!(error, WalError::Unsupported { what: "the manifest's format", .. }), "{error}");
}

#[test]
fn every_damage_to_the_list_is_found() {
    let disk = FaultyDisk::new();
    drop(open(&disk).unwrap());
    drop(open(&disk).unwrap());
    let image = disk.live_image();
    let manifest = &image["MANIFEST"];
    for at in 0..manifest.len() {
        let mut image = image.clone();
        image.get_mut("MANIFEST").unwrap()[at] ^= 0x10;
        assert!(open(&FaultyDisk::from_image(&image)).is_err(), "a flipped bit in byte {at}");
        image.insert("MANIFEST".into(), manifest[..at].to_vec());
        assert!(open(&FaultyDisk::from_image(&image)).is_err(), "cut at {at}");
    }
}

/// What a handshake says must be there whatever happens next: a peer that remembers a life which a loss of power took back
/// would refuse the server for good.
#[test]
fn no_crash_takes_back_a_life_that_a_handshake_may_have_said() {
    let disk = FaultyDisk::new();
    let mut log = open(&disk).unwrap();
    synced(&mut log, [term(1, None), write(1, &[1], 10)]);
    drop(log);
    let random = &mut Random(7);
    for round in 0..5 {
        let log = open(&disk).unwrap();
        let known =
            Remembered { life: log.lives().current(), term: Term(1), acknowledged: EntryId::new(1, 1), vote: None };
        for image in disk.crash_images(random, 40) {
            let after = open(&FaultyDisk::from_image(&image)).unwrap();
            assert_eq!(after.lives().check(&known), Ok(()), "round {round}");
        }
        drop(log);
    }
}

/// Every operation of an opening fails once, and what is left is opened again: the peer that knew the life before is never
/// told that it is missing.
#[test]
fn an_opening_that_fails_anywhere_accuses_nobody() {
    let disk = FaultyDisk::new();
    let mut log = open(&disk).unwrap();
    synced(&mut log, [term(3, Some(1)), write(1, &[3], 10)]);
    let known = Remembered {
        life: log.lives().current(),
        term: Term(3),
        acknowledged: EntryId::new(1, 3),
        vote: Some((Term(3), OWN)),
    };
    drop(log);
    let image = disk.live_image();
    let mut failed = 0;
    for count in 0.. {
        let disk = FaultyDisk::from_image(&image);
        disk.watch(Random(count + 1), 4);
        disk.fail_operation_after(count);
        let opened = open(&disk);
        let done = opened.is_ok();
        drop(opened);
        disk.repair();
        let images = disk.take_watched().into_iter().chain(disk.crash_images(&mut Random(count + 1), 4));
        for image in images.chain([disk.live_image()]) {
            let log = open(&FaultyDisk::from_image(&image)).unwrap();
            assert_eq!(log.lives().check(&known), Ok(()), "operation {count}");
        }
        if done {
            break;
        }
        failed += 1;
    }
    assert!(failed > 20, "{failed} operations failed");
}

#[test]
fn what_peers_said_goes_with_the_next_write_and_is_there_after_a_crash() {
    let disk = FaultyDisk::new();
    let mut log = open(&disk).unwrap();
    let memory = log.peer_memory();
    assert!(memory.admit(TWO, 5 << 32 | 1, &[life(1, 10)], true).unwrap().is_none());
    let notes = memory.notes(TWO).unwrap();
    notes.note(GroupId(0), OWN, &accepted(4, 7));
    notes.note(GroupId(0), OWN, &Message::RequestVoteResponse(RequestVoteResponse { term: Term(5), granted: true }));
    // Of another group: terms there say nothing of terms here.
    notes.note(GroupId(9), OWN, &accepted(99, 99));
    let expected =
        Remembered { life: Some((1, 10)), term: Term(5), acknowledged: EntryId::new(7, 4), vote: Some((Term(5), OWN)) };
    assert_eq!(memory.remembered(TWO), Some(expected));
    let syncs = disk.syncs();
    let before = open(&FaultyDisk::from_image(&disk.durable_image())).unwrap().peer_memory().remembered(TWO);
    assert_eq!(
        before,
        Some(Remembered { life: Some((1, 10)), ..Remembered::default() }),
        "the life is durable at once"
    );
    synced(&mut log, [write(1, &[1], 10)]);
    assert_eq!(disk.syncs(), syncs + 1, "no sync of its own");
    let after = open(&FaultyDisk::from_image(&disk.durable_image())).unwrap();
    assert_eq!(after.peer_memory().remembered(TWO), Some(expected));
}

/// A purge removes the records that said what peers had acknowledged: the checkpoint says it again.
#[test]
fn a_purge_forgets_nothing_of_the_peers() {
    let disk = FaultyDisk::new();
    let mut log = open(&disk).unwrap();
    let memory = log.peer_memory();
    assert!(memory.admit(TWO, 5 << 32 | 1, &[life(1, 10)], true).unwrap().is_none());
    memory.notes(TWO).unwrap().note(GroupId(0), OWN, &accepted(4, 7));
    let expected = memory.remembered(TWO);
    for index in 1..40 {
        synced(&mut log, [write(index, &[4], 900)]);
    }
    let segments = |disk: &FaultyDisk| disk.durable_image().keys().filter(|name| name.ends_with(".wal")).count();
    synced(&mut log, [compaction((39, 4), (39, 4))]);
    drop(log);
    let log = open(&disk).unwrap();
    assert!(segments(&disk) <= 2, "{} segments are left", segments(&disk));
    assert_eq!((log.base().index, log.peer_memory().remembered(TWO)), (Index(39), expected));
}

/// The disk of a log, where the file of what is remembered of the peers waits, or finds no space.
#[derive(Clone)]
struct Gated {
    disk: FaultyDisk,
    gate: Arc<(Mutex<Gate>, Condvar)>,
}

#[derive(Clone, Copy, PartialEq)]
enum Gate {
    Open,
    Full,
    Shut,
    /// Shut, and somebody waits.
    Waiting,
}

impl Gated {
    fn set(&self, gate: Gate) {
        *self.gate.0.lock().unwrap() = gate;
        self.gate.1.notify_all();
    }

    fn wait_while(&self, condition: impl Fn(Gate) -> bool) -> Gate {
        let (gate, ended) = self
            .gate
            .1
            .wait_timeout_while(self.gate.0.lock().unwrap(), Duration::from_secs(20), |gate| condition(*gate))
            .unwrap();
        assert!(!ended.timed_out(), "it waits for ever");
        *gate
    }
}

impl Directory for Gated {
    fn path(&self) -> &Path {
        self.disk.path()
    }
    fn names(&self) -> io::Result<Vec<String>> {
        self.disk.names()
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn RawFile>> {
        if name == "MEMORY.tmp" {
            if self.wait_while(|_| false) == Gate::Shut {
                self.set(Gate::Waiting);
            }
            if self.wait_while(|gate| gate == Gate::Waiting) == Gate::Full {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        self.disk.create(name)
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn RawFile>> {
        self.disk.open(name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn sync(&self) -> io::Result<()> {
        self.disk.sync()
    }
    fn try_lock(&self, name: &str) -> io::Result<Option<LockGuard>> {
        self.disk.try_lock(name)
    }
}

/// While the life of one peer was being stored, or could not be, a checkpoint went without what any of them had said to be
/// durable, and its purge removed the records that did say it. After a loss of power a peer that came back with an older
/// copy of its directory was let in. It may be the very peer whose new life is being stored.
#[test]
fn a_purge_while_a_life_is_not_stored_forgets_nothing_of_the_peers() {
    for (back, gate) in [(TWO, Gate::Shut), (TWO, Gate::Full), (NodeId(3), Gate::Shut), (NodeId(3), Gate::Full)] {
        let gated = Gated { disk: FaultyDisk::new(), gate: Arc::new((Mutex::new(Gate::Open), Condvar::new())) };
        let options = WalOptions::new(ClusterId(7), OWN).segment_bytes(4096).cache_bytes(300);
        let mut log = WalLog::open_in(Arc::new(gated.clone()), options).unwrap();
        let memory = log.peer_memory();
        assert!(memory.admit(TWO, 5 << 32 | 1, &[life(1, 10)], true).unwrap().is_none());
        memory.notes(TWO).unwrap().note(GroupId(0), OWN, &accepted(4, 7));
        let expected = memory.remembered(TWO);
        for index in 1..40 {
            synced(&mut log, [write(index, &[4], 900)]);
        }
        let lost_power = || {
            let log = open(&FaultyDisk::from_image(&gated.disk.durable_image())).unwrap();
            (log.base().index, log.peer_memory().remembered(TWO))
        };
        assert_eq!(lost_power(), (Index(0), expected), "the records say it");
        let found = HardState { term: Term(4), vote: None };
        let lives = [life(1, 10), Life { hard_state: found, last: EntryId::new(9, 4), ..life(2, 20) }];
        gated.set(gate);
        std::thread::scope(|scope| {
            let other = memory.clone();
            let admitted = scope.spawn(move || other.admit(back, 5 << 32 | 2, &lives, true).expect("it lost nothing"));
            if gate == Gate::Shut {
                assert!(gated.wait_while(|gate| gate == Gate::Shut) == Gate::Waiting);
            } else {
                assert!(admitted.join().unwrap().is_some(), "no space");
            }
            // It says more already, in the life that a loss of power may forget.
            memory.notes(TWO).unwrap().note(GroupId(0), OWN, &accepted(4, 30));
            synced(&mut log, [compaction((39, 4), (39, 4))]);
            let (base, remembered) = lost_power();
            gated.set(Gate::Open);
            assert_eq!(base, Index(39));
            let still = if back == TWO { expected } else { memory.remembered(TWO) };
            assert_eq!(remembered, still, "after the purge, while the life of {back} is not stored");
        });
        // Once it is stored, the next record says all of it.
        assert!(memory.admit(back, 5 << 32 | 2, &lives, true).unwrap().is_none());
        synced(&mut log, [write(40, &[4], 10)]);
        assert_eq!(lost_power(), (Index(39), memory.remembered(TWO)));
    }
}

/// Terms and votes are written at once, positions now and then.
#[test]
fn what_is_remembered_costs_the_log_less_than_a_hundredth() {
    let bytes = |noted: bool| {
        let disk = FaultyDisk::new();
        let options = WalOptions::new(ClusterId(7), OWN);
        let mut log = WalLog::open_in(Arc::new(disk.clone()), options.segment_bytes(8 << 20)).unwrap();
        let memory = log.peer_memory();
        let peers = if noted { 2..7 } else { 2..2 };
        for peer in peers.clone() {
            assert!(memory.admit(NodeId(peer), peer << 32 | 1, &[life(1, peer)], true).unwrap().is_none());
        }
        for index in 1..2000 {
            for peer in peers.clone() {
                memory.notes(NodeId(peer)).unwrap().note(GroupId(0), OWN, &accepted(4, index));
            }
            synced(&mut log, [write(index, &[4], 1000)]);
        }
        let image = disk.live_image();
        // Behind the records a segment is full of zeros.
        let used = |name: &String| image[name].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        log_support::segments(&image).iter().map(used).sum::<usize>()
    };
    let (without, with) = (bytes(false), bytes(true));
    assert!(with > without && (with - without) * 100 < without, "{without} bytes became {with}");
}

/// A file that is damaged may be what keeps a wiped server out.
#[test]
fn a_damaged_memory_of_the_peers_stops_the_opening() {
    let disk = FaultyDisk::new();
    let log = open(&disk).unwrap();
    assert!(log.peer_memory().admit(TWO, 5 << 32 | 1, &[life(1, 10)], true).unwrap().is_none());
    drop(log);
    let image = disk.live_image();
    for at in 0..image["MEMORY"].len() {
        let mut image = image.clone();
        image.get_mut("MEMORY").unwrap()[at] ^= 1;
        let error = open(&FaultyDisk::from_image(&image)).unwrap_err();
        assert!(matches!(&error, WalError::PeerMemory { file, .. } if file.ends_with("MEMORY")), "{at}: {error}");
    }
}

/// The file of the peers' identities lies on the log's own disk, and is lost with it at every point at which that can fail:
/// a peer that was let in is known ever after, and one that was not may be known or not.
#[test]
fn a_crash_while_a_peer_is_written_down_forgets_none_that_was_let_in() {
    let (first, second) = ([life(1, 10)], [life(1, 10), life(2, 20)]);
    let known = |image: &Image| open(&FaultyDisk::from_image(image)).unwrap().peer_memory().remembered(TWO);
    for count in 0.. {
        let disk = FaultyDisk::new();
        let log = open(&disk).unwrap();
        let memory = log.peer_memory();
        assert!(memory.admit(TWO, 5 << 32 | 1, &first, true).unwrap().is_none());
        disk.watch(Random(count + 1), 8);
        disk.fail_operation_after(count);
        let saved = memory.admit(TWO, 5 << 32 | 2, &second, true).unwrap();
        let now = disk.crash_images(&mut Random(count + 1), 8);
        for image in disk.take_watched().iter().chain(&now) {
            let life = known(image).expect("it was let in").life;
            assert!(life == Some((1, 10)) || life == Some((2, 20)), "operation {count}: {life:?}");
        }
        // It is remembered in memory, come what may.
        assert_eq!(memory.admit(TWO, 5 << 32 | 1, &first, true).unwrap_err(), NotWhoItWas::OlderData);
        if saved.is_none() {
            for image in &now {
                assert_eq!(known(image).unwrap().life, Some((2, 20)), "it was let in");
            }
            assert!(count >= 4, "create, write, sync, rename and sync of the directory");
            break;
        }
        // The next handshake tries again.
        disk.repair();
        assert!(memory.admit(TWO, 5 << 32 | 2, &second, true).unwrap().is_none());
        assert_eq!(known(&disk.durable_image()).unwrap().life, Some((2, 20)));
        let other = memory.admit(TWO, 5 << 32 | 3, &[life(3, 30)], true);
        assert!(other.unwrap().is_none(), "older than all that it keeps");
    }
}

/// An orderly end forgets nothing, though nothing was written since.
#[test]
fn what_peers_said_last_is_written_down_when_the_log_is_closed() {
    let disk = FaultyDisk::new();
    let log = open(&disk).unwrap();
    let memory = log.peer_memory();
    assert!(memory.admit(TWO, 5 << 32 | 1, &[life(1, 10)], true).unwrap().is_none());
    memory.notes(TWO).unwrap().note(GroupId(0), OWN, &accepted(4, 7));
    drop(log);
    let log = open(&FaultyDisk::from_image(&disk.durable_image())).unwrap();
    assert_eq!(log.peer_memory().remembered(TWO), memory.remembered(TWO));
}

/// Killed at the same operation of its opening ten times over, a server starts at last, and is who it was.
#[test]
fn openings_that_are_killed_ten_times_over_accuse_nobody() {
    let disk = FaultyDisk::new();
    let mut log = open(&disk).unwrap();
    synced(&mut log, [term(3, Some(1)), write(1, &[3], 10)]);
    let lives = log.lives().clone();
    let knows = |memory: &raft_io::peers::PeerMemory| {
        assert!(memory.admit(OWN, lives.incarnation(), lives.as_slice(), true).unwrap().is_none());
        memory.notes(OWN).unwrap().note(GroupId(0), TWO, &accepted(3, 1));
    };
    drop(log);
    let image = disk.live_image();
    for count in 0.. {
        let mut image = image.clone();
        let mut killed = 0;
        for _ in 0..10 {
            let disk = FaultyDisk::from_image(&image);
            disk.fail_operation_after(count);
            killed += u32::from(open(&disk).is_err());
            // What the system has is there after a kill; nothing was lost with the power.
            image = disk.live_image();
        }
        let log = open(&FaultyDisk::from_image(&image)).unwrap();
        let memory = raft_io::peers::PeerMemory::volatile(GroupId(0));
        knows(&memory);
        let now = log.lives();
        let admitted = memory.admit(OWN, now.incarnation(), now.as_slice(), true);
        assert!(admitted.unwrap().is_none(), "operation {count}");
        if killed == 0 {
            assert!(count > 20, "{count} operations");
            break;
        }
    }
}
