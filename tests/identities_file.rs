//! The file in which a transport remembers its peers lies on the same seam as the log: what it asks of its directory, in which
//! order, and what a loss of power leaves of it.

#![cfg(all(feature = "tcp", feature = "persistence", feature = "testkit"))]

mod transport_support;

use raft_io::log::wal::{Directory, LockGuard, RawFile};
use raft_io::testkit::disk::{FaultyDisk, Image};
use raft_io::testkit::log_suite::Random;
use raft_io::transport::{RaftTransport, TcpTransport};
use raft_io::wire::{self, Frame, Hello, Introduction, Limits, Purpose, Refusal};
use raft_io::{ClusterId, NodeId};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use transport_support::{CLUSTER, DEADLINE, Inbox, config, refusal};

type Journal = Arc<Mutex<Vec<String>>>;

/// A directory on a disk in memory that writes down what is asked of it.
struct Recorded(FaultyDisk, Journal);

struct RecordedFile(Arc<dyn RawFile>, String, Journal);

impl Recorded {
    fn note(&self, operation: String) {
        self.1.lock().unwrap().push(operation);
    }
}

impl Directory for Recorded {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn names(&self) -> io::Result<Vec<String>> {
        self.0.names()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn RawFile>> {
        self.note(format!("create {name}"));
        Ok(Arc::new(RecordedFile(self.0.create(name)?, name.to_string(), Arc::clone(&self.1))))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn RawFile>> {
        self.0.open(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.note(format!("rename {from} to {to}"));
        self.0.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.note(format!("remove {name}"));
        self.0.remove(name)
    }

    fn sync(&self) -> io::Result<()> {
        self.note("sync the directory".to_string());
        Directory::sync(&self.0)
    }

    fn try_lock(&self, name: &str) -> io::Result<Option<LockGuard>> {
        self.0.try_lock(name)
    }
}

impl RawFile for RecordedFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.2.lock().unwrap().push(format!("write {} at {offset}", self.1));
        self.0.write_at(offset, bytes)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, buffer)
    }

    fn sync(&self) -> io::Result<()> {
        self.2.lock().unwrap().push(format!("sync {}", self.1));
        self.0.sync()
    }

    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }
}

/// Server 1, which remembers server 2 in a file of this directory.
fn server(directory: Arc<dyn Directory>) -> TcpTransport {
    let transport = TcpTransport::bind(config(1).peer(2, "127.0.0.1:1").identities_in(directory, "peers")).unwrap();
    transport.start(Inbox::new().receiver());
    transport
}

/// Server 2 says hello, from the directory of this number in this opening.
fn greet(server: &TcpTransport, directory: u64, opening: u64) -> Option<Frame> {
    let mut stream = TcpStream::connect(server.local_addr()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let hello = Hello {
        cluster: ClusterId(CLUSTER),
        from: NodeId(2),
        to: NodeId(1),
        incarnation: directory << 32 | opening,
        version_first: 1,
        version_last: 1,
        frame_bytes_max: 1 << 20,
        client_address: None,
        peer_address: None,
        purpose: Purpose::Messages,
        introduction: Introduction::default(),
    };
    let mut bytes = Vec::new();
    wire::encode_control(&Frame::Hello(hello), &mut bytes).unwrap();
    stream.write_all(&bytes).unwrap();
    let mut bytes = vec![0; 4];
    stream.read_exact(&mut bytes).ok()?;
    let length = u32::from_le_bytes(bytes[..].try_into().unwrap()) as usize;
    bytes.resize(8 + length, 0);
    stream.read_exact(&mut bytes[4..]).unwrap();
    Some(wire::decode_borrowed(&bytes, &Limits::default()).unwrap())
}

fn is_welcome(answer: Option<Frame>) -> bool {
    matches!(answer, Some(Frame::Welcome(_)))
}

/// It went around the seam, so that no simulated disk saw whether it was synced, and when.
#[test]
fn the_file_is_replaced_as_a_whole_and_synced_in_order() {
    let journal = Journal::default();
    let one = server(Arc::new(Recorded(FaultyDisk::new(), Arc::clone(&journal))));
    assert_eq!(*journal.lock().unwrap(), [""; 0], "nothing to remember");
    let expected = [
        "create peers.tmp",
        "write peers.tmp at 0",
        "sync peers.tmp",
        "rename peers.tmp to peers",
        "sync the directory",
    ];
    for opening in [1, 2] {
        assert!(is_welcome(greet(&one, 7, opening)));
        assert_eq!(std::mem::take(&mut *journal.lock().unwrap()), expected, "before the answer");
    }
    assert!(is_welcome(greet(&one, 7, 2)));
    assert_eq!(*journal.lock().unwrap(), [""; 0], "nothing new");
}

/// Whatever a loss of power leaves, who was let in is known.
#[test]
fn a_peer_that_was_let_in_is_known_after_any_loss_of_power() {
    let disk = FaultyDisk::new();
    let one = server(Arc::new(disk.clone()));
    let mut random = Random(7);
    let knows = |image: &Image| {
        let after = server(Arc::new(FaultyDisk::from_image(image)));
        let answer = refusal(greet(&after, 8, 1));
        answer == Some(Refusal::OtherData)
    };
    for opening in 1..=4 {
        disk.watch(Random(opening), 8);
        assert!(is_welcome(greet(&one, 7, opening)));
        let answered = disk.crash_images(&mut random, 16);
        assert!(!answered.is_empty() && answered.iter().all(knows), "opening {opening}");
        // While it was written: as before or as after, and never unreadable.
        let during = disk.take_watched();
        let known = during.iter().filter(|image| knows(image)).count();
        assert!(opening == 1 || known == during.len(), "opening {opening}: {known} of {}", during.len());
    }
}

/// A full disk forgets nothing in memory, and the next hello writes it.
#[test]
fn what_could_not_be_written_is_written_at_the_next_hello() {
    let disk = FaultyDisk::new();
    let one = server(Arc::new(disk.clone()));
    for failure in 0..5 {
        disk.fail_operation_after(failure);
        assert!(is_welcome(greet(&one, 7, failure + 1)));
        disk.repair();
        assert!(is_welcome(greet(&one, 7, failure + 1)));
        let after = server(Arc::new(FaultyDisk::from_image(&disk.durable_image())));
        assert_eq!(refusal(greet(&after, 7, failure)), Some(Refusal::OlderData));
    }
}
