//! Handshakes between servers of which one lost data: each side finds out by what the other remembers, refuses by name and
//! says what to do; and whoever lost nothing is let in.

#![cfg(feature = "tcp")]

mod transport_support;

use raft_io::life::{Life, Lives, Remembered};
use raft_io::message::{AppendEntriesResponse, AppendResult};
use raft_io::peers::PeerMemory;
use raft_io::transport::{RaftTransport, TcpConfig, TcpTransport};
use raft_io::wire::{self, Frame, Hello, Introduction, Limits, Purpose, Refusal, Welcome};
use raft_io::{ClusterId, EntryId, GroupId, HardState, Index, Message, NodeId, Term};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use transport_support::{CLUSTER, DEADLINE, Inbox, config, envelope, eventually, refusal, refused, vote};

const DIRECTORY: u64 = 7 << 32;

fn life(count: u64, id: u64, term: u64, last: (u64, u64)) -> Life {
    let hard_state = HardState { term: Term(term), vote: None };
    Life { count, id, hard_state, last: EntryId::new(last.0, last.1) }
}

/// A directory with these lives, of which the last one goes on.
fn lives(lives: &[Life]) -> Lives {
    Lives::new(DIRECTORY | lives.last().unwrap().count, lives.iter().copied())
}

/// A server under test: number 1, whose directory has two lives.
struct Server {
    transport: TcpTransport,
    inbox: Inbox,
    memory: PeerMemory,
    events: Arc<Mutex<Vec<String>>>,
}

fn own_lives() -> Lives {
    lives(&[life(1, 10, 0, (0, 0)), life(2, 20, 4, (7, 4))])
}

fn server(config: TcpConfig, memory: PeerMemory) -> Server {
    let events = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&events);
    let config = config.on_event(move |event| sink.lock().unwrap().push(event.to_string()));
    let transport = TcpTransport::bind(config).unwrap();
    let inbox = Inbox::new();
    transport.introduce(&own_lives(), &memory);
    transport.start(inbox.receiver());
    Server { transport, inbox, memory, events }
}

/// One with peer 2, where nobody listens.
fn acceptor() -> Server {
    server(config(1).peer(2, "127.0.0.1:1"), PeerMemory::volatile(GroupId(0)))
}

impl Server {
    /// Shakes hands as node 2.
    fn greet(&self, incarnation: u64, introduction: Introduction) -> (TcpStream, Option<Frame>) {
        let mut stream = TcpStream::connect(self.transport.local_addr()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let hello = Hello {
            cluster: ClusterId(CLUSTER),
            from: NodeId(2),
            to: NodeId(1),
            incarnation,
            version_first: 1,
            version_last: 1,
            frame_bytes_max: 1 << 20,
            client_address: None,
            peer_address: None,
            purpose: Purpose::Messages,
            introduction,
        };
        stream.write_all(&control(&Frame::Hello(hello))).unwrap();
        let answer = read_frame(&mut stream);
        (stream, answer)
    }

    fn says(&self, lives: &Lives, remembered: Option<Remembered>) -> (TcpStream, Option<Frame>) {
        let introduction =
            Introduction { features: 1 << 63, lives: lives.as_slice().to_vec(), remembered, history: None };
        self.greet(lives.incarnation(), introduction)
    }

    fn lets_in(&self, lives: &Lives) -> TcpStream {
        let (stream, answer) = self.says(lives, None);
        assert!(matches!(answer, Some(Frame::Welcome(_))), "{answer:?}");
        stream
    }

    /// As node 2, a guest: it says where it is to be answered.
    fn comes(&self, lives: &Lives) -> TcpStream {
        let mut stream = TcpStream::connect(self.transport.local_addr()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let hello = Hello {
            cluster: ClusterId(CLUSTER),
            from: NodeId(2),
            to: NodeId(1),
            incarnation: lives.incarnation(),
            version_first: 1,
            version_last: 1,
            frame_bytes_max: 1 << 20,
            client_address: None,
            peer_address: Some("127.0.0.1:1".into()),
            purpose: Purpose::Messages,
            introduction: Introduction { lives: lives.as_slice().to_vec(), ..Introduction::default() },
        };
        stream.write_all(&control(&Frame::Hello(hello))).unwrap();
        assert!(matches!(read_frame(&mut stream), Some(Frame::Welcome(_))));
        stream
    }

    fn refuses(&self, lives: &Lives) -> Refusal {
        match self.says(lives, None).1 {
            Some(Frame::Refusal { reason, .. }) => reason,
            other => panic!("{other:?}"),
        }
    }

    fn reported(&self, text: &str) -> bool {
        self.events.lock().unwrap().iter().any(|event| event.contains(text))
    }
}

fn control(frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::encode_control(frame, &mut bytes).unwrap();
    bytes
}

fn message(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::encode_message(GroupId(0), message, &Limits::default(), &mut bytes).unwrap();
    bytes
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

/// The next frame, `None` at the end of the stream.
fn read_frame(stream: &mut TcpStream) -> Option<Frame> {
    let mut bytes = vec![0; 4];
    stream.read_exact(&mut bytes).ok()?;
    let length = u32::from_le_bytes(bytes[..].try_into().unwrap()) as usize;
    bytes.resize(8 + length, 0);
    stream.read_exact(&mut bytes[4..]).unwrap();
    Some(wire::decode_borrowed(&bytes, &Limits::default()).unwrap())
}

/// The copy was made before the life that was seen: both of them have as many openings, and the same incarnation.
#[test]
fn an_older_copy_that_was_opened_as_often_is_refused_by_its_life() {
    let server = acceptor();
    let first = life(1, 100, 0, (0, 0));
    drop(server.lets_in(&lives(&[first, life(2, 200, 3, (9, 3))])));
    let copy = lives(&[first, life(2, 201, 3, (2, 3))]);
    assert_eq!(server.refuses(&copy), Refusal::LostLife { count: 2 });
    assert!(server.reported("older copy") && server.reported("add the server under a new id"));
    assert_eq!(server.transport.stats().refused["lost_life"], 1);
    // It cannot open it often enough to be let in.
    let again = lives(&[first, life(2, 201, 3, (2, 3)), life(3, 301, 3, (2, 3))]);
    assert_eq!(server.refuses(&again), Refusal::LostLife { count: 2 });
    // The one that was there is still who it was.
    drop(server.lets_in(&lives(&[first, life(2, 200, 3, (9, 3))])));
}

/// The copy was made while the server ran, and put back without an opening in between: its lives fit, its log does not.
#[test]
fn a_hot_copy_is_refused_by_what_it_had_acknowledged() {
    let server = acceptor();
    let before = life(1, 100, 0, (0, 0));
    let mut stream = server.lets_in(&lives(&[before]));
    stream.write_all(&message(&accepted(3, 5))).unwrap();
    stream.write_all(&message(&accepted(3, 9))).unwrap();
    server.inbox.wait_for(2);
    let after = |term, last| lives(&[before, life(2, 200, term, last)]);
    assert_eq!(server.refuses(&after(3, (8, 3))), Refusal::LostEntries { index: Index(9) });
    assert_eq!(server.refuses(&after(2, (99, 2))), Refusal::LostTerm { term: Term(3) });
    // A leader of a later term may have removed the entry rightly.
    drop(server.lets_in(&after(4, (8, 3))));
}

/// A leader acknowledges nothing to anybody: nobody knew that its own copy of what it had committed was gone.
#[test]
fn a_leader_tells_what_it_holds_itself() {
    let server = acceptor();
    let before = life(1, 100, 0, (0, 0));
    let mut stream = server.lets_in(&lives(&[before]));
    stream.write_all(&control(&Frame::Position { group: GroupId(9), last: EntryId::new(99, 99) })).unwrap();
    stream.write_all(&control(&Frame::Position { group: GroupId(0), last: EntryId::new(9, 3) })).unwrap();
    eventually("it is noted", || server.memory.remembered(NodeId(2)).unwrap().acknowledged == EntryId::new(9, 3));
    let copy = lives(&[before, life(2, 200, 3, (8, 3))]);
    assert_eq!(server.refuses(&copy), Refusal::LostEntries { index: Index(9) });
}

/// Every server of a cluster remembers, and tells the one that lost data: it must not go on with those who know less.
#[test]
fn a_server_that_lost_data_is_told_so_and_takes_part_in_nothing_any_more() {
    let server = acceptor();
    let two = lives(&[life(1, 100, 0, (0, 0))]);
    let mut stream = server.lets_in(&two);
    let knows = |life, term| Remembered { life: Some(life), term: Term(term), ..Remembered::default() };
    // The life that goes on now may have spoken in any term.
    assert!(matches!(server.says(&two, Some(knows((2, 20), 99))).1, Some(Frame::Welcome(_))));
    // It began in term 4.
    let (_, answer) = server.says(&two, Some(knows((1, 10), 5)));
    assert_eq!(refusal(answer), Some(Refusal::OwnDataLost));
    eventually("it is reported", || server.reported("this server's data directory lost what node 2 remembers of it"));
    assert!(server.reported("add it under a new id"));
    // Also not with those who were let in before, and remember nothing.
    let received = server.inbox.len();
    let _ = stream.write_all(&message(&vote(5)));
    assert_eq!(read_frame(&mut stream), None);
    assert_eq!(refusal(server.says(&two, None).1), Some(Refusal::OwnDataLost));
    assert_eq!(server.inbox.len(), received);
    server.transport.send(GroupId(0), envelope(1, 2, vote(6)));
    assert_eq!(server.transport.stats().dropped_disconnected, 1);
}

/// As the side that opens the connection.
#[test]
fn a_server_finds_at_its_peer_what_either_of_them_lost() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let memory = PeerMemory::volatile(GroupId(0));
    let known = lives(&[life(1, 100, 0, (0, 0))]);
    assert!(memory.admit(NodeId(2), known.incarnation(), known.as_slice(), true).unwrap().is_none());
    let one = server(config(1).peer(2, listener.local_addr().unwrap().to_string()), memory);
    let answer = |introduction: Introduction| {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let Some(Frame::Hello(hello)) = read_frame(&mut stream) else { panic!("no hello") };
        assert_eq!(hello.introduction.lives, own_lives().as_slice());
        assert_eq!(hello.introduction.remembered.unwrap().life, Some((1, 100)));
        let (from, incarnation) = (NodeId(2), known.incarnation());
        let welcome =
            Welcome { from, incarnation, version: 1, frame_bytes_max: 1 << 20, client_address: None, introduction };
        stream.write_all(&control(&Frame::Welcome(welcome))).unwrap();
        assert!(matches!(read_frame(&mut stream), None | Some(Frame::Ping)));
    };
    answer(Introduction { lives: vec![life(1, 101, 0, (0, 0))], ..Introduction::default() });
    eventually("it is reported", || one.reported("lacks its opening number 1"));
    let lost = Remembered { life: Some((1, 11)), ..Remembered::default() };
    answer(Introduction { lives: known.as_slice().to_vec(), remembered: Some(lost), ..Introduction::default() });
    eventually("it is reported", || {
        one.reported("this server's data directory lost what node 2 remembers of it (lost_life)")
    });
    assert!(!one.transport.stats().peers[&NodeId(2)].connected);
}

/// A hello has room for a dozen lives. A copy that was opened more often than that seemed to be known to nobody: but its own list
/// is longer, and it is told which life the other remembers.
#[test]
fn a_copy_that_was_opened_often_finds_itself_what_its_hello_has_no_room_for() {
    let original = lives(&[life(1, 10, 0, (0, 0)), life(2, 20, 0, (0, 0))]);
    for (openings, found) in [(40, true), (64, true), (70, false)] {
        let memory = PeerMemory::volatile(GroupId(0));
        assert!(memory.admit(NodeId(1), original.incarnation(), original.as_slice(), true).unwrap().is_none());
        let two = server(config(2).peer(1, "127.0.0.1:1"), memory);
        let events = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&events);
        let config = config(1).peer(2, two.transport.local_addr().to_string());
        let config = config.on_event(move |event| sink.lock().unwrap().push(event.to_string()));
        let copy = TcpTransport::bind(config).unwrap();
        // The second life of the copy is another one than that which was seen.
        let opened: Vec<Life> =
            (1..=openings).map(|count| life(count, 10 * count + u64::from(count > 1), 0, (0, 0))).collect();
        copy.introduce(&lives(&opened), &PeerMemory::volatile(GroupId(0)));
        copy.start(Inbox::new().receiver());
        let connected = || copy.stats().peers[&NodeId(2)].connected;
        let lost = || events.lock().unwrap().iter().any(|event| event.contains("lost what node 2 remembers of it"));
        eventually("it is found, or let in", || connected() || lost());
        assert_eq!((lost(), connected()), (found, !found), "after {openings} openings");
    }
}

/// A peer that refuses says it too.
#[test]
fn a_refusal_that_names_a_loss_is_believed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let memory = PeerMemory::volatile(GroupId(0));
    let one = server(config(1).peer(2, listener.local_addr().unwrap().to_string()), memory);
    let (mut stream, _) = listener.accept().unwrap();
    assert!(matches!(read_frame(&mut stream), Some(Frame::Hello(_))));
    stream.write_all(&control(&refused(Refusal::LostEntries { index: Index(9) }))).unwrap();
    eventually("it is reported", || one.reported("(lost_entries)"));
    assert_eq!(refusal(one.says(&lives(&[life(1, 100, 0, (0, 0))]), None).1), Some(Refusal::OwnDataLost));
}

/// During a rolling upgrade: it says an incarnation and nothing else, and is told nothing that it does not skip.
#[test]
fn a_server_of_0_6_0_is_let_in_and_known_by_its_incarnation() {
    let server = acceptor();
    for opening in [1, 2] {
        let (mut stream, answer) = server.greet(DIRECTORY | opening, Introduction::default());
        assert!(matches!(answer, Some(Frame::Welcome(_))), "{answer:?}");
        stream.write_all(&message(&accepted(3, 9))).unwrap();
        server.inbox.wait_for(opening as usize);
    }
    let (_, answer) = server.greet(DIRECTORY | 1, Introduction::default());
    assert_eq!(refusal(answer), Some(Refusal::OlderData));
    // Upgraded, it says its first life, which holds what it said before; an older copy of it does not.
    let upgraded = |last| lives(&[life(3, 300, 3, last)]);
    assert_eq!(server.refuses(&upgraded((8, 3))), Refusal::LostEntries { index: Index(9) });
    drop(server.lets_in(&upgraded((9, 3))));
}

/// A server that joined was spoken to before anybody made it a member: its first life was remembered by nobody, and its
/// directory could be wiped right after it got its vote.
#[test]
fn a_guest_is_remembered_as_soon_as_it_is_a_member() {
    let server = server(config(1), PeerMemory::volatile(GroupId(0)));
    let first = lives(&[life(1, 100, 0, (0, 0))]);
    let mut stream = server.comes(&first);
    stream.write_all(&message(&vote(1))).unwrap();
    server.inbox.wait_for(1);
    assert_eq!(server.memory.remembered(NodeId(2)), None, "the number of strangers is unbounded");
    let members = [(NodeId(1), None), (NodeId(2), None)].into_iter().collect();
    server.transport.members(GroupId(0), &members);
    stream.write_all(&message(&accepted(3, 9))).unwrap();
    server.inbox.wait_for(2);
    let expected = Remembered { life: Some((1, 100)), term: Term(3), acknowledged: EntryId::new(9, 3), vote: None };
    assert_eq!(server.memory.remembered(NodeId(2)), Some(expected));
    assert_eq!(server.refuses(&lives(&[life(1, 101, 0, (0, 0))])), Refusal::LostLife { count: 1 });
}

/// It told what its log holds before its first message as a member, and that was dropped: a copy of a moment before was let in.
#[test]
fn what_a_new_member_holds_is_remembered_before_its_first_message() {
    let server = server(config(1), PeerMemory::volatile(GroupId(0)));
    let first = lives(&[life(1, 100, 0, (0, 0))]);
    let mut stream = server.comes(&first);
    let members = [(NodeId(1), None), (NodeId(2), None)].into_iter().collect();
    server.transport.members(GroupId(0), &members);
    stream.write_all(&control(&Frame::Position { group: GroupId(0), last: EntryId::new(9, 3) })).unwrap();
    let held = || server.memory.remembered(NodeId(2)).map(|known| known.acknowledged);
    eventually("it is noted", || held() == Some(EntryId::new(9, 3)));
}

/// What a server remembered in a file of its own goes on to count when its log begins to remember.
#[test]
fn the_peers_file_of_0_6_0_counts_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("peers");
    let mut file = b"RAFTPEER\x01\0\0\0\x01\0\0\0".to_vec();
    file.extend_from_slice(&2u64.to_le_bytes());
    file.extend_from_slice(&(DIRECTORY | 5).to_le_bytes());
    let crc = crc32c::crc32c(&file);
    file.extend_from_slice(&crc.to_le_bytes());
    std::fs::write(&path, &file).unwrap();
    let server = server(config(1).peer(2, "127.0.0.1:1").identities(&path), PeerMemory::volatile(GroupId(0)));
    let (_, answer) = server.greet(8 << 32 | 9, Introduction::default());
    assert_eq!(refusal(answer), Some(Refusal::OtherData));
    let (_, answer) = server.greet(DIRECTORY | 4, Introduction::default());
    assert_eq!(refusal(answer), Some(Refusal::OlderData));
    drop(server.lets_in(&lives(&[life(6, 600, 0, (0, 0))])));
    assert_eq!(std::fs::read(&path).unwrap(), file, "the log remembers from now on");
}

/// A server that lost data spoke first to one that did not know, got its vote, and only then to the one that knew.
#[test]
fn nobody_is_spoken_to_before_everybody_was_greeted() {
    let [knows, knows_not] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let address = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
    let mut config = config(1).peer(2, address(&knows)).peer(3, address(&knows_not));
    (config.connect_timeout, config.silence_max) = (DEADLINE, DEADLINE * 2);
    let one = server(config, PeerMemory::volatile(GroupId(0)));
    let (mut three, _) = knows_not.accept().unwrap();
    assert!(matches!(read_frame(&mut three), Some(Frame::Hello(_))));
    let introduction = Introduction::default();
    let (from, incarnation) = (NodeId(3), 3 << 32 | 1);
    let welcome =
        Welcome { from, incarnation, version: 1, frame_bytes_max: 1 << 20, client_address: None, introduction };
    three.write_all(&control(&Frame::Welcome(welcome))).unwrap();
    three.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
    assert!(three.read(&mut [0; 1]).is_err(), "it is welcome, and waits all the same");
    one.transport.send(GroupId(0), envelope(1, 3, vote(5)));
    let (mut two, _) = knows.accept().unwrap();
    assert!(matches!(read_frame(&mut two), Some(Frame::Hello(_))));
    two.write_all(&control(&refused(Refusal::LostEntries { index: Index(9) }))).unwrap();
    three.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(read_frame(&mut three), None, "not a word");
    assert!(one.reported("(lost_entries)"));
}
