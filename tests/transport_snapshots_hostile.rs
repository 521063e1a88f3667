//! Snapshots against those who do not mean well: pullers that stall, crowd, or say what has no place; servers that
//! lie; and servers of before there were snapshots.
#![cfg(feature = "tcp")]

mod transport_support;

use bytes::Bytes;
use raft_io::snapshot::{Chunk, ChunkRequest, MemorySnapshots, SnapshotStore};
use raft_io::transport::{FetchError, RaftTransport, TcpConfig, TcpTransport};
use raft_io::wire::{self, Frame, Hello, Limits, Purpose, Refusal, Welcome};
use raft_io::{ClusterId, EntryId, GroupId, NodeId};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};
use transport_support::snapshots::{GROUP, Serving, fetch};
use transport_support::{CLUSTER, DEADLINE, Inbox, config, eventually, refusal, refused, vote};

const LIMITS: Limits = Limits { frame_bytes_max: wire::CHUNK_FRAME_BYTES_MAX };

fn last() -> EntryId {
    EntryId::new(300, 7)
}

/// A started server 1 with a snapshot of 8 chunks of 1 MiB, which expects node 2.
fn server(mut config: TcpConfig) -> (TcpTransport, Inbox) {
    config.peers.insert(NodeId(2), "127.0.0.1:1".into());
    let store = MemorySnapshots::with_chunk_bytes(GROUP, 1 << 20);
    let mut writer = store.begin(last(), Bytes::from_static(b"members")).unwrap();
    writer.write_all(&vec![7; 8 << 20]).unwrap();
    writer.finish().unwrap();
    let (transport, inbox) = (TcpTransport::bind(config).unwrap(), Inbox::new());
    transport.start(Serving::of(store, &inbox));
    (transport, inbox)
}

fn hello() -> Hello {
    Hello {
        cluster: ClusterId(CLUSTER),
        from: NodeId(2),
        to: NodeId(1),
        incarnation: 1,
        version_first: wire::TRANSFER_PROTOCOL,
        version_last: wire::TRANSFER_PROTOCOL,
        frame_bytes_max: wire::CHUNK_FRAME_BYTES_MAX as u32,
        client_address: None,
        peer_address: None,
        purpose: Purpose::Snapshots,
        introduction: raft_io::wire::Introduction::default(),
    }
}

fn control(frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::encode_control(frame, &mut bytes).unwrap();
    bytes
}

fn request(chunk: u64) -> ChunkRequest {
    ChunkRequest { snapshot: last(), chunk }
}

fn transfer(frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::encode_transfer(frame, &mut bytes).unwrap();
    bytes
}

fn asking(chunk: u64) -> Vec<u8> {
    transfer(&Frame::ChunkRequest { group: GROUP, request: request(chunk) })
}

/// The next frame, `None` at the end of the stream.
fn read_frame(stream: &mut TcpStream) -> Option<Frame> {
    let mut bytes = vec![0; 4];
    stream.read_exact(&mut bytes).ok()?;
    let length = u32::from_le_bytes(bytes[..].try_into().unwrap()) as usize;
    bytes.resize(8 + length, 0);
    stream.read_exact(&mut bytes[4..]).ok()?;
    Some(wire::decode(&Bytes::from(bytes), &LIMITS).unwrap())
}

fn greet(transport: &TcpTransport, hello: Hello) -> TcpStream {
    let mut stream = TcpStream::connect(transport.local_addr()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(&control(&Frame::Hello(hello))).unwrap();
    stream
}

/// A connection that has shaken hands as node 2, to fetch.
fn puller(transport: &TcpTransport) -> TcpStream {
    let mut stream = greet(transport, hello());
    assert!(matches!(read_frame(&mut stream), Some(Frame::Welcome(welcome)) if welcome.version == 65));
    stream
}

fn assert_serves(transport: &TcpTransport) {
    let mut stream = puller(transport);
    for number in [0, 7] {
        stream.write_all(&asking(number)).unwrap();
        let Some(Frame::Chunk { group: GROUP, chunk }) = read_frame(&mut stream) else { panic!("no chunk") };
        assert_eq!((chunk.number, chunk.data.len()), (number, 1 << 20));
    }
}

fn assert_closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    if let Err(error) = stream.read_to_end(&mut rest) {
        let ends = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
        assert!(ends.contains(&error.kind()), "not closed: {error}");
    }
}

#[test]
fn whoever_may_not_fetch_is_refused_with_a_reason() {
    let (server, _) = server(config(1));
    let cases = [
        (Hello { cluster: ClusterId(666), ..hello() }, Refusal::ForeignCluster { cluster: ClusterId(CLUSTER) }),
        (Hello { to: NodeId(3), ..hello() }, Refusal::WrongReceiver { id: NodeId(1) }),
        (Hello { from: NodeId(9), ..hello() }, Refusal::UnknownSender),
        (Hello { from: NodeId(1), ..hello() }, Refusal::OwnId),
        // Of messages and of the transfer, each asked for as the other.
        (Hello { version_first: 1, version_last: 1, ..hello() }, Refusal::Version { first: 65, last: 65 }),
        (Hello { purpose: Purpose::Messages, ..hello() }, Refusal::Version { first: 1, last: 1 }),
        (Hello { frame_bytes_max: wire::CHUNK_FRAME_BYTES_MAX as u32 - 1, ..hello() }, Refusal::Unacceptable),
        (Hello { purpose: Purpose::Other { code: 9 }, ..hello() }, Refusal::Unacceptable),
    ];
    for (hello, reason) in cases {
        let mut stream = greet(&server, hello);
        let _ = stream.write_all(&asking(0));
        assert_eq!(refusal(read_frame(&mut stream)), Some(reason));
        assert_closed(&mut stream);
    }
    assert_eq!((server.stats().snapshot_connections, server.stats().sent_chunks), (0, 0));
    assert_serves(&server);
}

#[test]
fn what_is_no_request_ends_the_connection() {
    let (server, inbox) = server(config(1));
    let mut message = Vec::new();
    wire::encode_message(GroupId(0), &vote(3), &Limits::default(), &mut message).unwrap();
    let chunk = Chunk {
        snapshot: last(),
        identity: 0,
        number: 0,
        total_bytes: 0,
        chunk_bytes: 512,
        metadata: Bytes::new(),
        checksum: 0,
        data: Bytes::new(),
    };
    let mut damaged = asking(0);
    *damaged.last_mut().unwrap() ^= 1;
    let oversized = [&u32::MAX.to_le_bytes()[..], &[0; 16]].concat();
    let cases = [
        message,
        control(&Frame::Hello(hello())),
        control(&Frame::Ping),
        transfer(&Frame::Chunk { group: GROUP, chunk }),
        damaged,
        oversized,
        b"GET / HTTP/1.1\r\nHost: raft\r\n\r\n".to_vec(),
    ];
    for bytes in cases {
        let mut stream = puller(&server);
        stream.write_all(&bytes).unwrap();
        let _ = stream.write_all(&asking(0));
        assert_closed(&mut stream);
    }
    eventually("damage is counted", || (server.stats().frames_corrupt, server.stats().frames_oversized) == (1, 2));
    assert_eq!((server.stats().sent_chunks, inbox.len()), (0, 0), "and nothing after it was heard");
    // What a later version may ask is skipped.
    let mut stream = puller(&server);
    let mut later = asking(0);
    later[9..11].copy_from_slice(&100u16.to_le_bytes());
    let checksum = crc32c::crc32c(&later[8..]).to_le_bytes();
    later[4..8].copy_from_slice(&checksum);
    stream.write_all(&[later, asking(u64::MAX)].concat()).unwrap();
    let none = Frame::NoChunk { group: GROUP, request: request(u64::MAX) };
    assert_eq!(read_frame(&mut stream), Some(none));
}

#[test]
fn one_connection_per_peer_and_beside_its_messages() {
    let (server, inbox) = server(config(1));
    let messages = Hello { version_first: 1, version_last: 1, purpose: Purpose::Messages, ..hello() };
    let mut talking = greet(&server, messages);
    assert!(matches!(read_frame(&mut talking), Some(Frame::Welcome(_))));
    let mut pullers: Vec<TcpStream> = (0..5).map(|_| puller(&server)).collect();
    for old in &mut pullers[..4] {
        assert_closed(old);
    }
    pullers[4].write_all(&asking(0)).unwrap();
    assert!(matches!(read_frame(&mut pullers[4]), Some(Frame::Chunk { .. })));
    let mut message = Vec::new();
    wire::encode_message(GroupId(0), &vote(3), &Limits::default(), &mut message).unwrap();
    talking.write_all(&message).unwrap();
    assert_eq!(inbox.wait_for(1)[0].1.message, vote(3));
    assert!(server.stats().peers[&NodeId(2)].accepted, "the messages' connection was not displaced");
}

#[test]
fn pullers_that_stall_are_given_up() {
    let mut impatient = config(1);
    impatient.ping_interval = Duration::from_millis(50);
    impatient.silence_max = Duration::from_millis(300);
    let (server, _) = server(impatient);
    // One that asks for nothing, and one that never ends its request.
    let began = Instant::now();
    assert_closed(&mut puller(&server));
    let mut trickling = puller(&server);
    trickling.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let closed = asking(0).iter().any(|byte| {
        let written = trickling.write_all(&[*byte]);
        written.is_err() || matches!(trickling.read(&mut [0; 1]), Ok(0))
    });
    assert!(closed || trickling.read(&mut [0; 1]).is_ok_and(|read| read == 0), "the whole request was waited for");
    assert!(began.elapsed() < DEADLINE / 2);
    // One that asks for much and reads nothing: the sockets' buffers fill, and then its thread is free again.
    let mut deaf = puller(&server);
    for chunk in (0..8).cycle().take(64) {
        if deaf.write_all(&asking(chunk)).is_err() {
            break;
        }
    }
    eventually("the server gave up", || {
        deaf.set_nonblocking(true).unwrap();
        // A connection that was given up takes nothing any more.
        let written = deaf.write(&asking(0));
        matches!(written, Err(error) if error.kind() != ErrorKind::WouldBlock)
    });
    assert!(server.stats().sent_chunks < 64, "it answered all the same");
    assert_serves(&server);
    let began = Instant::now();
    server.shutdown();
    assert!(began.elapsed() < Duration::from_secs(2), "shutdown took {:?}", began.elapsed());
}

/// Something at a peer's address that takes one connection per answer, and says it whatever is asked.
fn liar(answers: Vec<Vec<u8>>, welcome: Frame) -> TcpTransport {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let two = TcpTransport::bind(config(2).peer(1, listener.local_addr().unwrap().to_string())).unwrap();
    thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            assert!(
                matches!(read_frame(&mut stream), Some(Frame::Hello(hello)) if hello.purpose == Purpose::Snapshots)
            );
            stream.write_all(&control(&welcome)).unwrap();
            if read_frame(&mut stream).is_some() {
                let _ = stream.write_all(&answer);
            }
        }
    });
    two
}

fn welcome(from: u64, version: u8) -> Frame {
    let (from, incarnation, frame_bytes_max) = (NodeId(from), 0, 1024);
    Frame::Welcome(Welcome {
        from,
        incarnation,
        version,
        frame_bytes_max,
        client_address: None,
        introduction: Default::default(),
    })
}

fn chunk(snapshot: EntryId, number: u64) -> Chunk {
    Chunk {
        snapshot,
        identity: 1,
        number,
        total_bytes: 9_000,
        chunk_bytes: 512,
        metadata: Bytes::new(),
        checksum: 0,
        data: Bytes::from(vec![1; 512]),
    }
}

#[test]
fn answers_to_other_questions_are_not_believed() {
    let answer = |group, chunk| transfer(&Frame::Chunk { group, chunk });
    let mut damaged = answer(GROUP, chunk(last(), 3));
    damaged[200] ^= 1;
    let lies = vec![
        answer(GROUP, chunk(last(), 4)),
        answer(GROUP, chunk(EntryId::new(300, 8), 3)),
        answer(GroupId(9), chunk(last(), 3)),
        transfer(&Frame::NoChunk { group: GROUP, request: request(4) }),
        transfer(&Frame::ChunkRequest { group: GROUP, request: request(3) }),
        control(&Frame::Pong),
        damaged,
        [&u32::MAX.to_le_bytes()[..], &[0; 16]].concat(),
    ];
    let count = lies.len();
    let two = liar(lies, welcome(1, 65));
    for lie in 0..count {
        let found = fetch(&two, 1, last(), 3);
        assert!(matches!(found, Err(FetchError::Corrupt { .. })), "lie {lie}: {found:?}");
    }
    assert_eq!((two.stats().received_chunks, two.stats().frames_oversized), (0, 1));
    // Half an answer is the end of a connection, and no damage.
    let two = liar(vec![answer(GROUP, chunk(last(), 3))[..300].to_vec()], welcome(1, 65));
    let half = fetch(&two, 1, last(), 3);
    assert!(matches!(half, Err(FetchError::Unreachable { .. })), "{half:?}");
    // Of the right chunk whatever it says is passed on: only a store can tell whether it fits.
    let two = liar(vec![answer(GROUP, chunk(last(), 3))], welcome(1, 65));
    assert_eq!(fetch(&two, 1, last(), 3), Ok(chunk(last(), 3)));
}

#[test]
fn servers_that_are_not_who_they_should_be_are_not_asked() {
    let answer = transfer(&Frame::Chunk { group: GROUP, chunk: chunk(last(), 0) });
    assert!(fetch(&liar(vec![answer.clone()], welcome(1, 65)), 1, last(), 0).is_ok(), "the right one is");
    for wrong in [welcome(5, 65), welcome(1, 1), welcome(1, 66), Frame::Pong] {
        let two = liar(vec![answer.clone()], wrong);
        assert!(matches!(fetch(&two, 1, last(), 0), Err(FetchError::Unreachable { .. })));
        assert_eq!(two.client_address(NodeId(1)), None);
    }
}

/// A server of 0.4.0 overlooks the purpose, which it does not know, and finds a version that it does not speak. It
/// says so, and its connection for messages is not displaced.
#[test]
fn a_server_of_before_there_were_snapshots_is_told_apart() {
    let two = liar(vec![Vec::new()], refused(Refusal::Version { first: 1, last: 1 }));
    assert_eq!(fetch(&two, 1, last(), 0), Err(FetchError::Unsupported));
    let two = liar(vec![Vec::new()], refused(Refusal::ShuttingDown));
    assert!(matches!(fetch(&two, 1, last(), 0), Err(FetchError::Unreachable { .. })));
}
