//! Snapshots between servers that mean well: fetched beside the messages, resumed, refused with a reason.
#![cfg(all(feature = "tcp", feature = "testkit"))]

mod transport_support;

use raft_io::snapshot::{ChunkRequest, MemorySnapshots, SnapshotStore};
use raft_io::testkit::snapshot_suite::{content, read, take};
use raft_io::transport::{FetchError, MemoryNetwork, RaftTransport, TcpConfig, TcpTransport};
use raft_io::{ClusterId, EntryId, GroupId, NodeId};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use transport_support::proxy::{Mode, Proxy};
use transport_support::snapshots::{GROUP, PATIENT, Serving, fetch, fetch_into};
use transport_support::{Inbox, config, envelope, eventually, vote};

const CHUNK: u32 = 4096;

fn last() -> EntryId {
    EntryId::new(300, 7)
}

fn store() -> MemorySnapshots {
    MemorySnapshots::with_chunk_bytes(GROUP, CHUNK)
}

/// A store with one snapshot of so many chunks.
fn filled(chunks: usize) -> (MemorySnapshots, Vec<u8>) {
    let (store, bytes) = (store(), content(1, chunks * CHUNK as usize - 5));
    take(&store, last(), b"members", &bytes).unwrap();
    (store, bytes)
}

/// Server 1, which serves a store, and server 2, which fetches.
fn pair<S: SnapshotStore>(store: S, one: TcpConfig, two: TcpConfig) -> (TcpTransport, TcpTransport) {
    let (one, two) = (TcpTransport::bind(one).unwrap(), TcpTransport::bind(two).unwrap());
    one.set_address(2, two.local_addr().to_string()).unwrap();
    two.set_address(1, one.local_addr().to_string()).unwrap();
    one.start(Serving::of(store, &Inbox::new()));
    two.start(Inbox::new().receiver());
    (one, two)
}

#[test]
fn a_snapshot_is_fetched_chunk_by_chunk_over_one_connection() {
    let (from, bytes) = filled(20);
    let (one, two) = pair(from.clone(), config(1), config(2));
    let to = store();
    let mut receiver = to.receive(last()).unwrap();
    let info = fetch_into(&mut *receiver, &two, 1, u64::MAX).unwrap();
    assert_eq!(info, from.newest());
    assert_eq!(read(&to, last()).unwrap(), bytes);
    eventually("all are counted", || one.stats().sent_chunks == 20);
    let (sent, received) = (one.stats(), two.stats());
    assert_eq!((sent.sent_chunk_bytes, sent.snapshot_connections), (bytes.len() as u64, 1));
    assert_eq!((received.received_chunks, received.received_chunk_bytes), (20, bytes.len() as u64));
}

/// The peak of this process's memory, in bytes.
#[cfg(target_os = "linux")]
fn peak_memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

#[cfg(not(target_os = "linux"))]
fn peak_memory() -> usize {
    0
}

#[cfg(feature = "persistence")]
#[test]
fn a_large_snapshot_takes_little_memory_and_delays_no_message() {
    use raft_io::snapshot::SnapshotFiles;
    use raft_io::snapshot::files::SnapshotOptions;
    use std::io::{Read, Write};
    const MIB: usize = 64;
    let directory = tempfile::tempdir().unwrap();
    let open = |name| SnapshotFiles::open(directory.path().join(name), SnapshotOptions::new().group(GROUP)).unwrap();
    let (from, to) = (open("from"), open("to"));
    let piece = content(9, 1 << 20);
    let mut writer = from.begin(last(), bytes::Bytes::new()).unwrap();
    for _ in 0..MIB {
        writer.write_all(&piece).unwrap();
    }
    writer.finish().unwrap();

    let (one, two) = (TcpTransport::bind(config(1)).unwrap(), TcpTransport::bind(config(2)).unwrap());
    one.set_address(2, two.local_addr().to_string()).unwrap();
    two.set_address(1, one.local_addr().to_string()).unwrap();
    let at_two = Inbox::new();
    one.start(Serving::of(from, &Inbox::new()));
    two.start(at_two.receiver());
    eventually("messages flow", || one.stats().peers[&NodeId(2)].connected);

    let (before, done) = (peak_memory(), AtomicBool::new(false));
    let slowest = thread::scope(|scope| {
        let fetching = scope.spawn(|| {
            let mut receiver = to.receive(last()).unwrap();
            let info = fetch_into(&mut *receiver, &two, 1, u64::MAX);
            done.store(true, Ordering::Release);
            assert_eq!(info.unwrap().unwrap().bytes, (MIB << 20) as u64);
        });
        let (mut slowest, mut count) = (Duration::ZERO, 0);
        while !done.load(Ordering::Acquire) {
            let began = Instant::now();
            count += 1;
            one.send(GROUP, envelope(1, 2, vote(count as u64)));
            at_two.wait_for(count);
            slowest = slowest.max(began.elapsed());
        }
        fetching.join().unwrap();
        assert!(count > 10, "{count} messages went by meanwhile");
        slowest
    });
    // A message behind the snapshot would have waited for all of it; on a busy machine a thread waits, too.
    assert!(slowest < Duration::from_secs(2), "a message took {slowest:?}");
    let grew = peak_memory() - before;
    assert!(grew < (MIB << 20) / 3, "{grew} bytes of memory for {MIB} MiB");
    let (mut reader, mut back) = (to.open(last()).unwrap(), vec![0; 1 << 20]);
    for _ in 0..MIB {
        reader.read_exact(&mut back).unwrap();
        assert!(back == piece);
    }
}

#[test]
fn a_killed_server_is_gone_on_with_where_it_ended() {
    let (from, bytes) = filled(10);
    let (one, two) = pair(from.clone(), config(1), config(2));
    let to = store();
    let mut receiver = to.receive(last()).unwrap();
    fetch_into(&mut *receiver, &two, 1, 4).unwrap();
    let address = one.local_addr();
    one.shutdown();
    let gone = fetch_into(&mut *receiver, &two, 1, 1).unwrap_err();
    assert!(matches!(gone, FetchError::Unreachable { .. }), "{gone}");
    let mut again = config(1).peer(2, two.local_addr().to_string());
    again.listen = address.to_string();
    let again = TcpTransport::bind(again).unwrap();
    again.start(Serving::of(from, &Inbox::new()));
    // The puller may have been restarted, too.
    drop(receiver);
    let mut receiver = to.receive(last()).unwrap();
    assert_eq!(receiver.next().chunk, 4);
    assert!(fetch_into(&mut *receiver, &two, 1, u64::MAX).unwrap().is_some());
    assert_eq!(read(&to, last()).unwrap(), bytes);
    eventually("all are counted", || again.stats().sent_chunks == 6);
}

#[test]
fn what_a_peer_does_not_have_is_said_and_the_connection_lives() {
    let (from, _) = filled(3);
    let (one, two) = pair(from, config(1), config(2));
    let other = EntryId::new(301, 7);
    assert_eq!(fetch(&two, 1, other, 0), Err(FetchError::NotFound));
    assert_eq!(fetch(&two, 1, last(), 3), Err(FetchError::NotFound));
    let request = ChunkRequest { snapshot: last(), chunk: 1 };
    assert_eq!(two.fetch_chunk(GroupId(4), NodeId(1), request, PATIENT), Err(FetchError::NotFound));
    assert_eq!(fetch(&two, 1, last(), 1).unwrap().number, 1);
    assert_eq!(one.stats().snapshot_connections, 1);
    // Whoever waits for ever, and whoever does not wait.
    assert_eq!(two.fetch_chunk(GROUP, NodeId(1), request, Duration::MAX).unwrap().number, 1);
    assert_eq!(two.fetch_chunk(GROUP, NodeId(1), request, Duration::ZERO), Err(FetchError::TimedOut));
    // A server that serves none, and one that nobody knows.
    assert_eq!(fetch(&one, 2, last(), 0), Err(FetchError::NotFound));
    for nobody in [2, 9] {
        assert!(matches!(fetch(&two, nobody, last(), 0), Err(FetchError::Unreachable { .. })));
    }
}

#[test]
fn a_chunk_damaged_on_its_way_is_refused_and_fetched_again() {
    let (from, bytes) = filled(8);
    let one = TcpTransport::bind(config(1).peer(2, "127.0.0.1:1")).unwrap();
    one.start(Serving::of(from, &Inbox::new()));
    let proxy = Proxy::to(one.local_addr());
    let two = TcpTransport::bind(config(2).peer(1, proxy.address.to_string())).unwrap();
    let to = store();
    let mut receiver = to.receive(last()).unwrap();
    fetch_into(&mut *receiver, &two, 1, 2).unwrap();
    for mode in [Mode::CorruptBack, Mode::Corrupt] {
        proxy.set(mode);
        let next = receiver.next();
        let damaged = fetch_into(&mut *receiver, &two, 1, 1).unwrap_err();
        let expected = match mode {
            Mode::CorruptBack => matches!(damaged, FetchError::Corrupt { .. }),
            // The server does not answer what it cannot read.
            _ => matches!(damaged, FetchError::Unreachable { .. }),
        };
        assert!(expected, "{mode:?}: {damaged}");
        assert_eq!(receiver.next(), next);
        proxy.set(Mode::Pass);
        fetch_into(&mut *receiver, &two, 1, 2).unwrap();
    }
    assert!(two.stats().frames_corrupt > 0 && one.stats().frames_corrupt > 0);
    assert!(fetch_into(&mut *receiver, &two, 1, u64::MAX).unwrap().is_some());
    assert_eq!(read(&to, last()).unwrap(), bytes);
}

#[test]
fn a_foreign_cluster_is_refused() {
    let (from, _) = filled(1);
    let one = TcpTransport::bind(config(1).peer(2, "127.0.0.1:1")).unwrap();
    one.start(Serving::of(from, &Inbox::new()));
    let mut foreign = config(2).peer(1, one.local_addr().to_string());
    foreign.cluster = ClusterId(666);
    let foreign = TcpTransport::bind(foreign).unwrap();
    let refused = fetch(&foreign, 1, last(), 0).unwrap_err();
    assert_eq!(refused, FetchError::Refused { reason: "this server belongs to cluster 42".into() });
    let stranger = TcpTransport::bind(config(5).peer(1, one.local_addr().to_string())).unwrap();
    assert!(matches!(fetch(&stranger, 1, last(), 0), Err(FetchError::Refused { .. })));
    assert_eq!((one.stats().refused["foreign_cluster"], one.stats().refused["unknown_sender"]), (1, 1));
    assert_eq!(one.stats().sent_chunks, 0);
}

/// Holds whoever comes until it is opened.
#[derive(Default)]
struct Door {
    /// Whether it is open, and how many came.
    state: Mutex<(bool, usize)>,
    changed: Condvar,
}

impl Door {
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.1 += 1;
        self.changed.notify_all();
        while !state.0 {
            state = self.changed.wait(state).unwrap();
        }
    }

    fn wait_for(&self, count: usize) {
        let mut state = self.state.lock().unwrap();
        while state.1 < count {
            state = self.changed.wait(state).unwrap();
        }
    }

    fn open(&self) {
        self.state.lock().unwrap().0 = true;
        self.changed.notify_all();
    }
}

/// As `pair`; the server's answers wait at the door.
fn pair_with_door(one: TcpConfig, two: TcpConfig) -> (TcpTransport, TcpTransport, Arc<Door>) {
    let (from, _) = filled(5);
    let door = Arc::new(Door::default());
    let (one, two) = (TcpTransport::bind(one).unwrap(), TcpTransport::bind(two).unwrap());
    one.set_address(2, two.local_addr().to_string()).unwrap();
    two.set_address(1, one.local_addr().to_string()).unwrap();
    let own = Arc::clone(&door);
    one.start(Serving::after(from, &Inbox::new(), move |_, _| own.pass()));
    two.start(Inbox::new().receiver());
    (one, two, door)
}

fn assert_shutdown_is_prompt(two: &TcpTransport, fetching: thread::ScopedJoinHandle<'_, Result<u64, FetchError>>) {
    let began = Instant::now();
    two.shutdown();
    assert_eq!(fetching.join().unwrap(), Err(FetchError::Shutdown));
    assert!(began.elapsed() < Duration::from_secs(2), "shutdown took {:?}", began.elapsed());
    assert_eq!(fetch(two, 1, last(), 0), Err(FetchError::Shutdown));
}

#[test]
fn shutdown_ends_a_fetch_that_waits_for_its_answer() {
    let (one, two, door) = pair_with_door(config(1), config(2));
    thread::scope(|scope| {
        let fetching = scope.spawn(|| fetch(&two, 1, last(), 0).map(|chunk| chunk.number));
        door.wait_for(1);
        // Others that wait for their turn, most likely, when it comes.
        let others: Vec<_> =
            (0..3).map(|_| scope.spawn(|| fetch(&two, 1, last(), 1).map(|chunk| chunk.number))).collect();
        let deadline = Instant::now() + Duration::from_millis(50);
        eventually("a while passes", || Instant::now() > deadline);
        let began = Instant::now();
        assert_shutdown_is_prompt(&two, fetching);
        for other in others {
            assert_eq!(other.join().unwrap(), Err(FetchError::Shutdown));
        }
        assert!(began.elapsed() < Duration::from_secs(2), "the others took {:?}", began.elapsed());
    });
    door.open();
    one.shutdown();
}

#[test]
fn shutdown_ends_a_fetch_that_waits_for_a_handshake() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut patient = config(2).peer(1, silent.local_addr().unwrap().to_string());
    patient.handshake_timeout = Duration::from_secs(60);
    // Not started: nothing but the fetch connects.
    let two = TcpTransport::bind(patient).unwrap();
    thread::scope(|scope| {
        let fetching = scope.spawn(|| fetch(&two, 1, last(), 0).map(|chunk| chunk.number));
        let held = silent.accept().unwrap();
        assert_shutdown_is_prompt(&two, fetching);
        drop(held);
    });
}

/// The answer that comes too late must not pass for that to the next question.
#[test]
fn a_late_answer_is_nobodys() {
    let (one, two, door) = pair_with_door(config(1), config(2));
    let request = |chunk| ChunkRequest { snapshot: last(), chunk };
    let impatient = Duration::from_millis(100);
    assert_eq!(two.fetch_chunk(GROUP, NodeId(1), request(3), impatient), Err(FetchError::TimedOut));
    door.open();
    assert_eq!(fetch(&two, 1, last(), 0).unwrap().number, 0);
    assert_eq!(fetch(&two, 1, last(), 1).unwrap().number, 1);
    assert_eq!(one.stats().snapshot_connections, 2);
}

#[test]
fn fetches_from_one_peer_take_turns() {
    let (from, _) = filled(40);
    let (one, two) = pair(from.clone(), config(1), config(2));
    thread::scope(|scope| {
        for reader in 0..4 {
            let (two, from) = (&two, &from);
            scope.spawn(move || {
                for chunk in (0..40).filter(|chunk| chunk % 4 == reader && *chunk != 39) {
                    let expected = from.chunk(ChunkRequest { snapshot: last(), chunk }).unwrap();
                    assert_eq!(fetch(two, 1, last(), chunk).unwrap(), expected);
                }
            });
        }
    });
    assert_eq!(one.stats().snapshot_connections, 1);
}

#[test]
fn an_idle_connection_is_closed_and_made_anew() {
    let mut impatient = config(1);
    impatient.ping_interval = Duration::from_millis(20);
    impatient.silence_max = Duration::from_millis(100);
    for (one, two) in [(impatient.clone(), config(2)), (config(1), impatient.clone())] {
        let (mut one, mut two) = (one, two);
        (one.id, two.id) = (NodeId(1), NodeId(2));
        let server_closes = one.silence_max < two.silence_max;
        let (one, two) = pair(filled(5).0, one, two);
        assert_eq!(fetch(&two, 1, last(), 0).unwrap().number, 0);
        // Nothing tells when it is closed: the one who is patient has nothing to say about it.
        let deadline = Instant::now() + Duration::from_millis(400);
        eventually("a while passes", || Instant::now() > deadline);
        assert_eq!(fetch(&two, 1, last(), 1).unwrap().number, 1, "closed by the server: {server_closes}");
        assert_eq!(one.stats().snapshot_connections, 2, "closed by the server: {server_closes}");
    }
}

/// A limit on silence is not one on the time that a chunk takes: the same chunk for ever is nobody's.
#[test]
fn a_slow_line_is_not_given_up_while_bytes_come() {
    let from = MemorySnapshots::with_chunk_bytes(GROUP, 1 << 20);
    take(&from, last(), b"", &content(2, 1 << 20)).unwrap();
    let one = TcpTransport::bind(config(1).peer(2, "127.0.0.1:1")).unwrap();
    one.start(Serving::of(from, &Inbox::new()));
    let proxy = Proxy::to(one.local_addr());
    let two = TcpTransport::bind(config(2).peer(1, proxy.address.to_string())).unwrap();
    proxy.set(Mode::ThrottleBack);
    let began = Instant::now();
    let timeout = Duration::from_millis(400);
    let chunk = two.fetch_chunk(GROUP, NodeId(1), ChunkRequest { snapshot: last(), chunk: 0 }, timeout).unwrap();
    assert_eq!(chunk.data.len(), 1 << 20);
    assert!(began.elapsed() > timeout, "the line was too fast to prove anything: {:?}", began.elapsed());
}

#[test]
fn a_changed_address_is_followed() {
    let (from, _) = filled(5);
    let (one, two) = pair(from.clone(), config(1), config(2));
    fetch(&two, 1, last(), 0).unwrap();
    let moved = TcpTransport::bind(config(1).peer(2, "127.0.0.1:1")).unwrap();
    moved.start(Serving::of(from, &Inbox::new()));
    two.set_address(1, moved.local_addr().to_string()).unwrap();
    assert_eq!(fetch(&two, 1, last(), 1).unwrap().number, 1);
    eventually("it came from there", || moved.stats().sent_chunks == 1);
    assert_eq!(one.stats().sent_chunks, 1);
}

#[test]
fn a_fetch_that_waits_at_the_address_before_is_given_up() {
    let (_one, two, door) = pair_with_door(config(1), config(2));
    let began = Instant::now();
    thread::scope(|scope| {
        let fetching = scope.spawn(|| fetch(&two, 1, last(), 0).map(|chunk| chunk.number));
        door.wait_for(1);
        two.set_address(1, "127.0.0.1:1").unwrap();
        assert!(matches!(fetching.join().unwrap(), Err(FetchError::Unreachable { .. })));
    });
    assert!(began.elapsed() < PATIENT / 2, "it took {:?}", began.elapsed());
    door.open();
}

#[test]
fn memory_fetches_unless_it_is_cut() {
    let (from, bytes) = filled(6);
    let network = MemoryNetwork::new();
    let (one, two) = (network.transport(1), network.transport(2));
    let unreachable = |answer| assert!(matches!(answer, Err(FetchError::Unreachable { .. })), "{answer:?}");
    unreachable(fetch(&two, 1, last(), 0));
    let inbox = Inbox::new();
    one.start(Serving::of(from.clone(), &inbox));
    two.start(Inbox::new().receiver());
    let to = store();
    let mut receiver = to.receive(last()).unwrap();
    fetch_into(&mut *receiver, &two, 1, 2).unwrap();
    assert_eq!(fetch(&two, 1, EntryId::new(9, 9), 0), Err(FetchError::NotFound));
    assert_eq!(fetch(&one, 2, last(), 0), Err(FetchError::NotFound));
    network.partition([1]);
    unreachable(fetch(&two, 1, last(), 2));
    network.heal();
    for (from, to) in [(1, 2), (2, 1)] {
        network.cut(from, to);
        unreachable(fetch(&two, 1, last(), 2));
        network.heal();
    }
    assert!(fetch_into(&mut *receiver, &two, 1, u64::MAX).unwrap().is_some());
    assert_eq!(read(&to, last()).unwrap(), bytes);
    // Its successor takes over, and has another store.
    let again = network.transport(1);
    unreachable(fetch(&two, 1, last(), 0));
    again.start(Serving::of(store(), &Inbox::new()));
    drop(one);
    assert_eq!(fetch(&two, 1, last(), 0), Err(FetchError::NotFound));
    eventually("nobody holds the first receiver any more", || inbox.holders() == 1);
    again.shutdown();
    unreachable(fetch(&two, 1, last(), 0));
    two.shutdown();
    assert_eq!(fetch(&two, 1, last(), 0), Err(FetchError::Shutdown));
}

/// A link that breaks while the answer is on its way.
#[test]
fn memory_loses_an_answer_with_its_link() {
    let network = MemoryNetwork::new();
    let (one, two) = (network.transport(1), network.transport(2));
    let breaking = network.clone();
    one.start(Serving::after(filled(1).0, &Inbox::new(), move |from, _| breaking.partition([from])));
    assert!(matches!(fetch(&two, 1, last(), 0), Err(FetchError::Unreachable { .. })));
}
