//! TCP against those who do not mean well, or are not who they should be: strangers, other
//! clusters, wrong ids, garbage, damage in transit, crowds of idle sockets.
#![cfg(feature = "tcp")]

mod transport_support;

use bytes::Bytes;
use raft_io::transport::tcp::CloseReason;
use raft_io::transport::{RaftTransport, TcpConfig, TcpTransport, TransportEvent};
use raft_io::wire::{self, Frame, FrameError, Hello, Limits, Purpose, Refusal};
use raft_io::{ClusterId, GroupId, NodeId};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use transport_support::proxy::{Mode, Proxy};
use transport_support::{CLUSTER, DEADLINE, Inbox, append_bytes, config, envelope, eventually, refusal, vote};

/// A started server 1 that expects node 2, and never finds it.
struct Server {
    transport: TcpTransport,
    inbox: Inbox,
    events: Arc<Mutex<Vec<String>>>,
}

fn server(config: TcpConfig) -> Server {
    let events = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&events);
    // Nothing listens at port 1.
    let config = config.peer(2, "127.0.0.1:1").on_event(move |event| sink.lock().unwrap().push(event.to_string()));
    let transport = TcpTransport::bind(config).unwrap();
    let inbox = Inbox::new();
    transport.start(inbox.receiver());
    Server { transport, inbox, events }
}

impl Server {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.transport.local_addr()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    /// A connection that has shaken hands as node 2.
    fn connect_as_two(&self) -> TcpStream {
        let mut stream = self.connect();
        stream.write_all(&control(&Frame::Hello(hello()))).unwrap();
        assert!(matches!(read_frame(&mut stream), Some(Frame::Welcome(_))));
        stream
    }

    fn reported(&self, text: &str) -> bool {
        self.events.lock().unwrap().iter().any(|event| event.contains(text))
    }

    /// A real peer still gets through.
    fn assert_serves(&self) {
        let before = self.inbox.len();
        let mut stream = self.connect_as_two();
        stream.write_all(&message(7)).unwrap();
        assert_eq!(self.inbox.wait_for(before + 1)[before], (GroupId(0), envelope(2, 1, vote(7))));
    }
}

fn hello() -> Hello {
    Hello {
        cluster: ClusterId(CLUSTER),
        from: NodeId(2),
        to: NodeId(1),
        incarnation: 1,
        version_first: 1,
        version_last: 1,
        frame_bytes_max: 1 << 20,
        client_address: None,
        peer_address: None,
        purpose: Purpose::Messages,
        introduction: raft_io::wire::Introduction::default(),
    }
}

fn control(frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::encode_control(frame, &mut bytes).unwrap();
    bytes
}

fn message(term: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::encode_message(GroupId(0), &vote(term), &Limits::default(), &mut bytes).unwrap();
    bytes
}

/// The next frame, `None` at the end of the stream.
fn read_frame(stream: &mut TcpStream) -> Option<Frame> {
    let mut bytes = vec![0; 4];
    match stream.read_exact(&mut bytes) {
        Err(error) if is_end(&error) => return None,
        result => result.unwrap(),
    }
    let length = u32::from_le_bytes(bytes[..].try_into().unwrap()) as usize;
    bytes.resize(8 + length, 0);
    stream.read_exact(&mut bytes[4..]).unwrap();
    Some(wire::decode_borrowed(&bytes, &Limits::default()).unwrap())
}

fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

/// Reads until the other side closes, whatever it says before.
fn assert_closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) => assert!(is_end(&error), "not closed: {error}"),
    }
}

#[test]
fn whoever_is_not_a_peer_is_refused_with_a_reason_and_counted() {
    let server = server(config(1));
    let cases = [
        (Hello { cluster: ClusterId(666), ..hello() }, Refusal::ForeignCluster { cluster: ClusterId(CLUSTER) }),
        (Hello { to: NodeId(3), ..hello() }, Refusal::WrongReceiver { id: NodeId(1) }),
        (Hello { from: NodeId(9), ..hello() }, Refusal::UnknownSender),
        (Hello { from: NodeId(1), ..hello() }, Refusal::OwnId),
        (Hello { version_first: 2, version_last: 7, ..hello() }, Refusal::Version { first: 1, last: 1 }),
        (Hello { frame_bytes_max: 10, ..hello() }, Refusal::Unacceptable),
    ];
    for (hello, reason) in cases {
        let mut stream = server.connect();
        stream.write_all(&control(&Frame::Hello(hello))).unwrap();
        assert_eq!(refusal(read_frame(&mut stream)), Some(reason));
        // Nothing said afterwards is heard.
        let _ = stream.write_all(&message(1));
        assert_closed(&mut stream);
        assert_eq!(server.transport.stats().refused.get(reason.name()), Some(&1), "{reason}");
    }
    assert!(server.reported("belongs to cluster 42"));
    server.assert_serves();
    assert_eq!(server.inbox.len(), 1, "nothing of the refused was delivered");
}

#[test]
fn a_server_of_another_cluster_is_refused_and_told_why() {
    let server = server(config(1));
    let reasons = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&reasons);
    let mut foreign = config(2).peer(1, server.transport.local_addr().to_string()).on_event(move |event| {
        if let TransportEvent::RefusedBy { reason, .. } = event {
            sink.lock().unwrap().push(*reason);
        }
    });
    foreign.cluster = ClusterId(666);
    let foreign = TcpTransport::bind(foreign).unwrap();
    foreign.start(Inbox::new().receiver());
    eventually("it was refused several times", || foreign.stats().refused_by_peers >= 3);
    assert_eq!(*reasons.lock().unwrap(), [Refusal::ForeignCluster { cluster: ClusterId(CLUSTER) }], "reported once");
    assert!(!foreign.stats().peers[&NodeId(1)].connected);
}

#[test]
fn a_server_at_anothers_address_is_not_taken_for_it() {
    let three = TcpTransport::bind(config(3)).unwrap();
    let one = TcpTransport::bind(config(1).peer(2, three.local_addr().to_string())).unwrap();
    three.set_address(1, one.local_addr().to_string()).unwrap();
    one.start(Inbox::new().receiver());
    three.start(Inbox::new().receiver());
    eventually("node 3 refuses to be node 2", || three.stats().refused.get("wrong_receiver").is_some_and(|n| *n > 0));
    eventually("node 3 is a guest of node 1, and not node 2", || {
        let peers = one.stats().peers;
        peers.get(&NodeId(3)).is_some_and(|peer| peer.accepted && peer.connected) && !peers[&NodeId(2)].connected
    });
}

#[test]
fn a_wrong_answer_at_a_peers_address_is_not_believed() {
    // Something that welcomes everyone as node 5.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let one = TcpTransport::bind(config(1).peer(2, listener.local_addr().unwrap().to_string())).unwrap();
    one.start(Inbox::new().receiver());
    for _ in 0..2 {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        assert!(matches!(read_frame(&mut stream), Some(Frame::Hello(hello)) if hello.to == NodeId(2)));
        let welcome = wire::Welcome {
            from: NodeId(5),
            incarnation: 0,
            version: 1,
            frame_bytes_max: 1 << 20,
            client_address: Some("10.6.6.6:1".into()),
            introduction: Default::default(),
        };
        stream.write_all(&control(&Frame::Welcome(welcome))).unwrap();
        assert_closed(&mut stream);
    }
    assert_eq!((one.stats().connects, one.client_address(NodeId(2))), (0, None));
}

#[test]
fn a_peer_that_welcomes_and_closes_is_not_dialled_in_a_tight_loop() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = config(1).peer(2, listener.local_addr().unwrap().to_string());
    config.backoff_first = Duration::from_millis(80);
    config.backoff_last = Duration::from_millis(320);
    let one = TcpTransport::bind(config).unwrap();
    let began = Instant::now();
    one.start(Inbox::new().receiver());
    for _ in 0..4 {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        assert!(matches!(read_frame(&mut stream), Some(Frame::Hello(_))));
        let welcome = wire::Welcome {
            from: NodeId(2),
            incarnation: 0,
            version: 1,
            frame_bytes_max: 1 << 20,
            client_address: None,
            introduction: Default::default(),
        };
        stream.write_all(&control(&Frame::Welcome(welcome))).unwrap();
    }
    // Three pauses, each at least half of 80, 160 and 320 ms.
    assert!(began.elapsed() >= Duration::from_millis(280), "four connections in {:?}", began.elapsed());
}

#[test]
fn garbage_is_closed_and_counted() {
    let server = server(config(1));
    let text: &[u8] = b"GET / HTTP/1.1\r\nHost: raft\r\n\r\n";
    let zeros: &[u8] = &[0; 4096];
    let mut bad_magic = control(&Frame::Hello(hello()));
    let magic = bad_magic.windows(7).position(|window| window == b"raft-io").unwrap();
    bad_magic[magic] = b'R';
    let checksum = crc32c::crc32c(&bad_magic[8..]).to_le_bytes();
    bad_magic[4..8].copy_from_slice(&checksum);
    let not_a_hello = message(1);
    for (count, garbage) in (1..).zip([text, zeros, &bad_magic, &not_a_hello]) {
        let mut stream = server.connect();
        stream.write_all(garbage).unwrap();
        assert_closed(&mut stream);
        eventually("it is counted", || server.transport.stats().strangers == count);
    }
    let stats = server.transport.stats();
    // The text and the zeros fail on their length, the hello without magic on its content.
    assert_eq!((stats.frames_oversized, stats.frames_malformed), (2, 1));
    assert!(server.reported("closed a connection from 127.0.0.1"));
    server.assert_serves();
    assert_eq!(server.inbox.len(), 1);
}

#[test]
fn a_frame_that_claims_four_gigabytes_is_closed_at_its_header() {
    let server = server(config(1));
    // A stranger, and a peer after its handshake.
    for mut stream in [server.connect(), server.connect_as_two()] {
        let before = server.transport.stats().frames_oversized;
        stream.write_all(&u32::MAX.to_le_bytes()).unwrap();
        stream.write_all(&[0; 16]).unwrap();
        assert_closed(&mut stream);
        eventually("it is counted", || server.transport.stats().frames_oversized == before + 1);
    }
    server.assert_serves();
}

#[test]
fn a_peer_that_breaks_the_format_after_its_handshake_is_closed() {
    let server = server(config(1));
    let mut wrong_checksum = message(3);
    *wrong_checksum.last_mut().unwrap() ^= 1;
    let mut stream = server.connect_as_two();
    stream.write_all(&message(2)).unwrap();
    stream.write_all(&wrong_checksum).unwrap();
    stream.write_all(&message(4)).unwrap();
    assert_closed(&mut stream);
    eventually("it is counted", || server.transport.stats().frames_corrupt == 1);
    assert!(server.reported("checksum"));
    let mut stream = server.connect_as_two();
    // A second hello has no place here, and cannot change who speaks.
    stream.write_all(&control(&Frame::Hello(Hello { from: NodeId(3), ..hello() }))).unwrap();
    stream.write_all(&message(5)).unwrap();
    assert_closed(&mut stream);
    let terms: Vec<_> = server.inbox.messages().iter().map(|(_, envelope)| envelope.message.term().0).collect();
    assert_eq!(terms, [2], "only what came before the damage");
    server.assert_serves();
}

#[test]
fn frames_of_unknown_kinds_are_skipped() {
    let server = server(config(1));
    let mut stream = server.connect_as_two();
    let mut unknown = message(1);
    unknown[9..11].copy_from_slice(&999u16.to_le_bytes());
    let checksum = crc32c::crc32c(&unknown[8..]).to_le_bytes();
    unknown[4..8].copy_from_slice(&checksum);
    stream.write_all(&unknown).unwrap();
    stream.write_all(&message(2)).unwrap();
    assert_eq!(server.inbox.wait_for(1)[0].1.message, vote(2));
    assert_eq!(server.transport.stats().frames_unknown, 1);
}

#[test]
fn damage_in_transit_is_never_delivered() {
    let two = TcpTransport::bind(config(2)).unwrap();
    let proxy = Proxy::to(two.local_addr());
    let one = TcpTransport::bind(config(1).peer(2, proxy.address.to_string())).unwrap();
    two.set_address(1, one.local_addr().to_string()).unwrap();
    let at_two = Inbox::new();
    one.start(Inbox::new().receiver());
    two.start(at_two.receiver());
    let command = Bytes::from(vec![0x5a; 3000]);
    let send = |term| one.send(GroupId(0), envelope(1, 2, append_bytes(term, [command.clone()])));
    eventually("a message arrives", || {
        send(1);
        at_two.len() > 0
    });
    for round in 1..=5 {
        proxy.set(Mode::Corrupt);
        eventually("damage is noticed", || {
            send(round);
            let stats = two.stats();
            stats.frames_corrupt + stats.frames_oversized + stats.frames_malformed >= round
        });
        proxy.set(Mode::Pass);
        let before = at_two.len();
        eventually("a message arrives again", || {
            send(round);
            at_two.len() > before
        });
    }
    assert!(two.stats().frames_corrupt > 0);
    for (_, envelope) in at_two.messages() {
        let term = envelope.message.term().0;
        assert_eq!(envelope.message, append_bytes(term, [command.clone()]));
        assert!((1..=5).contains(&term));
    }
}

#[test]
fn a_newer_connection_of_a_peer_replaces_the_older() {
    let server = server(config(1));
    let mut old = server.connect_as_two();
    let mut new = server.connect_as_two();
    assert_closed(&mut old);
    new.write_all(&message(1)).unwrap();
    assert_eq!(server.inbox.wait_for(1)[0].1, envelope(2, 1, vote(1)));
    assert_eq!(server.transport.stats().replaced_connections, 1);
    eventually("it is reported", || server.reported("a newer connection took its place"));
    assert!(server.transport.stats().peers[&NodeId(2)].accepted);
}

/// A server whose disk was replaced came back under its id, voted a second time in a term, and two leaders acknowledged
/// writes.
#[test]
fn a_peer_that_lost_its_data_or_brings_an_older_copy_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let known = || config(1).identities(folder.path().join("peers"));
    let incarnation = |directory: u64, opening: u64| directory << 32 | opening;
    let greet = |server: &Server, incarnation| {
        let mut stream = server.connect();
        stream.write_all(&control(&Frame::Hello(Hello { incarnation, ..hello() }))).unwrap();
        read_frame(&mut stream)
    };
    let first = server(known());
    for opening in [3, 3, 4] {
        assert!(matches!(greet(&first, incarnation(7, opening)), Some(Frame::Welcome(_))));
    }
    first.transport.shutdown();
    // What was seen outlives the server that saw it.
    let second = server(known());
    assert_eq!(refusal(greet(&second, incarnation(8, 9))), Some(Refusal::OtherData));
    assert_eq!(refusal(greet(&second, incarnation(7, 2))), Some(Refusal::OlderData));
    assert!(second.reported("wiped or replaced") && second.reported("cloned or rolled back"));
    assert!(matches!(greet(&second, incarnation(7, 4)), Some(Frame::Welcome(_))));
    let stats = second.transport.stats();
    assert_eq!((stats.refused["other_data"], stats.refused["older_data"]), (1, 1));
    assert_eq!(stats.peers[&NodeId(2)].incarnation, Some(incarnation(7, 4)));
}

/// The way out is as closed to such a server as the way in: it must not be counted on for an acknowledgement.
#[test]
fn nothing_is_sent_to_a_peer_that_lost_its_data() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let config = config(1).peer(2, listener.local_addr().unwrap().to_string());
    let events: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&events);
    let config = config.on_event(move |event| seen.lock().unwrap().push(event.to_string()));
    let one = TcpTransport::bind(config).unwrap();
    one.start(Inbox::new().receiver());
    for incarnation in [1 << 32 | 1, 2 << 32 | 1] {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        assert!(matches!(read_frame(&mut stream), Some(Frame::Hello(_))));
        let welcome = wire::Welcome {
            from: NodeId(2),
            incarnation,
            version: 1,
            frame_bytes_max: 1 << 20,
            client_address: None,
            introduction: Default::default(),
        };
        stream.write_all(&control(&Frame::Welcome(welcome))).unwrap();
        eventually("it is answered", || {
            let stats = one.stats();
            if incarnation >> 32 == 1 { stats.connects == 1 } else { stats.connect_failures == 1 }
        });
    }
    assert!(!one.stats().peers[&NodeId(2)].connected);
    eventually("it is reported", || events.lock().unwrap().iter().any(|event| event.contains("wiped or replaced")));
}

#[test]
fn a_handshake_that_trickles_in_ends_at_its_deadline() {
    let mut config = config(1);
    config.handshake_timeout = Duration::from_millis(300);
    let server = server(config);
    let mut stream = server.connect();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let began = Instant::now();
    let frame = control(&Frame::Hello(hello()));
    // Byte by byte, each well within any limit for a single read.
    let closed = frame.iter().any(|byte| {
        let written = stream.write_all(&[*byte]);
        let answer = stream.read(&mut [0; 1]);
        written.is_err() || matches!(&answer, Ok(0)) || answer.is_err_and(|error| is_end(&error))
    });
    assert!(closed, "the whole hello took {:?} and was not cut off", began.elapsed());
    assert!(server.transport.stats().silent_connections >= 1);
    server.assert_serves();
}

#[test]
fn a_crowd_of_silent_sockets_does_not_keep_a_peer_out() {
    let mut config = config(1);
    config.handshake_timeout = Duration::from_secs(60);
    config.handshakes_max = 8;
    let server = server(config);
    let crowd: Vec<_> = (0..300).map(|_| server.connect()).collect();
    server.assert_serves();
    // All but the last few were shown out.
    eventually("the crowd is displaced", || server.transport.stats().displaced_handshakes >= 300 - 8);
    server.assert_serves();
    let began = Instant::now();
    server.transport.shutdown();
    assert!(began.elapsed() < Duration::from_secs(2), "shutdown took {:?}", began.elapsed());
    drop(crowd);
}

#[test]
fn what_strangers_cause_is_reported_a_few_times_per_second_only() {
    let server = server(config(1));
    let began = Instant::now();
    for count in 1..=100 {
        let mut stream = server.connect();
        stream.write_all(&[0xff; 64]).unwrap();
        assert_closed(&mut stream);
        eventually("it is counted", || server.transport.stats().strangers == count);
    }
    let seconds = began.elapsed().as_secs() as usize + 1;
    let reported = server.events.lock().unwrap().iter().filter(|event| event.contains("closed a connection")).count();
    assert!((1..=5 * seconds).contains(&reported), "{reported} reports in {seconds} seconds");
}

#[test]
fn reasons_read_like_sentences() {
    let reason = CloseReason::Frame(FrameError::Length { claimed: 1 << 32, limit: 1024 });
    let event = TransportEvent::Closed { peer: NodeId(2), reason };
    assert_eq!(event.to_string(), "node 2 disconnected: a frame claims 4294967296 bytes, outside 20 to 1024");
}
