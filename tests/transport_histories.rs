//! Handshakes between servers whose logs belong to different histories: each side finds out alone, refuses by name and says
//! what to do; and only a member of the own lineage can tell a server that it lost data.

#![cfg(feature = "tcp")]

mod transport_support;

use raft_io::life::{Life, Lives, Remembered};
use raft_io::peers::PeerMemory;
use raft_io::transport::{RaftTransport, TcpConfig, TcpTransport};
use raft_io::wire::{self, FEATURE_HISTORIES, Frame, Hello, Introduction, Limits, Purpose, Refusal, Refuser, Welcome};
use raft_io::{ClusterId, EntryId, GroupId, HardState, History, HistoryId, Index, NodeId, Term};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use transport_support::{CLUSTER, DEADLINE, Inbox, config, envelope, eventually, refusal, refused, vote};

fn id(bits: u128) -> HistoryId {
    HistoryId::from_bits(bits << 64 | bits)
}

fn history(bits: u128) -> Arc<History> {
    Arc::new(History::new(id(bits), EntryId::new(1, 1)))
}

fn child(parent: &History, bits: u128, lost: &[u64]) -> Arc<History> {
    Arc::new(History::child(Some(parent), id(bits), EntryId::new(8, 5), lost.iter().copied()))
}

/// A recovery of `parent` with its first entry there.
fn child_at(parent: &History, bits: u128, index: u64) -> Arc<History> {
    Arc::new(History::child(Some(parent), id(bits), EntryId::new(index, 99 << 20), [99_u64]))
}

fn life(count: u64, id: u64) -> Life {
    Life { count, id, hard_state: HardState::default(), last: EntryId::ZERO }
}

struct Server {
    transport: TcpTransport,
    inbox: Inbox,
    events: Arc<Mutex<Vec<String>>>,
}

fn server(config: TcpConfig, history: Option<&Arc<History>>) -> Server {
    let events = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&events);
    let mut config = config.on_event(move |event| sink.lock().unwrap().push(event.to_string()));
    config.backoff_last = std::time::Duration::from_millis(50);
    let server = Server { transport: TcpTransport::bind(config).unwrap(), inbox: Inbox::new(), events };
    let lives = Lives::new(7 << 32 | 2, [life(1, 10), life(2, 20)]);
    server.transport.introduce(&lives, &PeerMemory::volatile(GroupId(0)));
    if let Some(history) = history {
        server.transport.history(GroupId(0), history);
    }
    server.transport.start(server.inbox.receiver());
    server
}

impl Server {
    fn reported(&self, text: &str) -> bool {
        self.events.lock().unwrap().iter().any(|event| event.contains(text))
    }

    fn connected(&self, to: u64) -> bool {
        self.transport.stats().peers.get(&NodeId(to)).is_some_and(|peer| peer.connected && peer.accepted)
    }

    /// Shakes hands as another server.
    fn greet(&self, from: u64, introduction: Introduction) -> (TcpStream, Option<Frame>) {
        let mut stream = TcpStream::connect(self.transport.local_addr()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let hello = Hello {
            cluster: ClusterId(CLUSTER),
            from: NodeId(from),
            to: NodeId(1),
            incarnation: from << 32 | 1,
            version_first: 1,
            version_last: 1,
            frame_bytes_max: 1 << 20,
            client_address: None,
            peer_address: Some("127.0.0.1:1".into()),
            purpose: Purpose::Messages,
            introduction,
        };
        stream.write_all(&control(&Frame::Hello(hello))).unwrap();
        let answer = read_frame(&mut stream);
        (stream, answer)
    }
}

fn control(frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::encode_control(frame, &mut bytes).unwrap();
    bytes
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

/// Two servers with each other as peers.
fn pair(one: Option<&Arc<History>>, two: Option<&Arc<History>>) -> (Server, Server) {
    let two = server(config(2).peer(1, "127.0.0.1:1"), two);
    let one = server(config(1).peer(2, two.transport.local_addr().to_string()), one);
    two.transport.set_address(1, one.transport.local_addr().to_string()).unwrap();
    (one, two)
}

/// Two clusters were given one number, and each other's addresses. Only messages of a leader were compared; all else went from one
/// cluster to the other, votes included.
#[test]
fn servers_of_two_histories_refuse_each_other_by_name() {
    let (one, two) = pair(Some(&history(1)), Some(&history(2)));
    for (server, theirs) in [(&one, id(2)), (&two, id(1))] {
        eventually("it is told", || {
            server.reported("refuses this server: the log of the server that refuses belongs to")
        });
        assert!(server.reported(&theirs.to_string()), "the other side's history");
        assert!(server.reported("give each cluster a number of its own"));
        eventually("it tells", || server.transport.stats().refused.contains_key("other_history"));
    }
    one.transport.send(GroupId(0), envelope(1, 2, vote(5)));
    assert!(!one.connected(2) && !two.connected(1));
    assert_eq!((one.inbox.len(), two.inbox.len()), (0, 0));
    let trouble = one.transport.trouble(NodeId(2)).expect("it is known why");
    assert!(format!("{trouble:?}").contains("belongs to history"), "{trouble:?}");
}

/// A history that is not committed may still be taken back: it counts for nothing. Once it is, whoever is of another one is parted
/// with.
#[test]
fn a_history_counts_from_when_it_is_committed() {
    let (one, two) = pair(Some(&history(1)), None);
    eventually("they are connected", || one.connected(2) && two.connected(1));
    two.transport.history(GroupId(0), &history(2));
    eventually("they are parted", || !one.connected(2) && !two.connected(1) && one.reported("belongs to history"));
    let (one, two) = pair(None, None);
    one.transport.history(GroupId(0), &history(1));
    two.transport.history(GroupId(0), &history(1));
    eventually("they are connected", || one.connected(2) && two.connected(1));
}

/// Two servers of two clusters met before either had a history. Only handshakes said one, so neither heard of the other's, and
/// they went on for as long as their connection held.
#[test]
fn servers_that_met_before_their_histories_are_parted_when_these_differ() {
    let (one, two) = pair(None, None);
    eventually("they are connected", || one.connected(2) && two.connected(1));
    one.transport.history(GroupId(0), &history(1));
    two.transport.history(GroupId(0), &history(2));
    for (server, other) in [(&one, 2), (&two, 1)] {
        eventually("it is refused", || server.reported("refuses this server") && !server.connected(other));
    }
    // Of one cluster: they stay together, on the connections that they have, when a recovery goes on from it, too.
    let (one, two) = pair(None, None);
    eventually("they are connected", || one.connected(2) && two.connected(1));
    for settled in [history(1), child(&history(1), 2, &[3])] {
        one.transport.history(GroupId(0), &settled);
        two.transport.history(GroupId(0), &settled);
        one.transport.send(GroupId(0), envelope(1, 2, vote(5)));
        two.transport.send(GroupId(0), envelope(2, 1, vote(5)));
    }
    one.inbox.wait_for(2);
    two.inbox.wait_for(2);
    assert_eq!([&one, &two].map(|server| server.transport.stats().connects), [1, 1]);
}

/// Nothing that a server says in a history goes to somebody who was not told of it.
#[test]
fn a_history_is_told_before_the_messages_that_follow_it() {
    for features in [FEATURE_HISTORIES, 0] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = server(config(1).peer(2, listener.local_addr().unwrap().to_string()), None);
        let (mut stream, _) = listener.accept().unwrap();
        assert!(matches!(read_frame(&mut stream), Some(Frame::Hello(hello)) if hello.introduction.history.is_none()));
        let welcome = Welcome {
            from: NodeId(2),
            incarnation: 0,
            version: 1,
            frame_bytes_max: 1 << 20,
            client_address: None,
            introduction: Introduction { features, ..Introduction::default() },
        };
        stream.write_all(&control(&Frame::Welcome(welcome))).unwrap();
        eventually("it is connected", || one.transport.stats().connects == 1);
        one.transport.history(GroupId(0), &history(1));
        one.transport.send(GroupId(0), envelope(1, 2, vote(5)));
        let mut told = Vec::new();
        loop {
            match read_frame(&mut stream).expect("the connection holds") {
                Frame::History { lineage } => told.push(lineage),
                Frame::Message { .. } => break,
                _ => {}
            }
        }
        // A server of 0.6 would count it among the frames that it does not know.
        let expected = if features == 0 { Vec::new() } else { vec![history(1).lineage(NodeId(2))] };
        assert_eq!(told, expected);
    }
}

/// After a recovery the survivor still is of the parent, and has to be brought along; the server that was given up is not let in.
#[test]
fn a_child_of_a_history_speaks_with_survivors_and_not_with_servers_that_were_given_up() {
    let parent = history(1);
    let recovered = child(&parent, 2, &[3]);
    let (one, two) = pair(Some(&recovered), Some(&parent));
    eventually("they are connected", || one.connected(2) && two.connected(1));
    let (one, two) = pair(Some(&child(&parent, 2, &[2, 3])), Some(&parent));
    eventually("either refuses", || [&one, &two].iter().all(|server| server.reported("refuses this server")));
    let (one, two) = pair(Some(&recovered), Some(&child(&parent, 3, &[1])));
    eventually("siblings refuse", || [&one, &two].iter().all(|server| server.reported("refuses this server")));
    assert!(!one.connected(2) && !two.connected(1));
}

/// A cluster of its own, after so many recoveries.
fn recovered(cluster: u128, times: u64) -> Arc<History> {
    let mut history = History::new(id(cluster * 1000), EntryId::new(1, 1));
    for time in 1..=times {
        let since = EntryId::new(10 * time, time << 20);
        history = History::child(Some(&history), id(cluster * 1000 + u128::from(time)), since, [99_u64]);
    }
    Arc::new(history)
}

/// A handshake said the newest four ancestors, and a server that was not told all left it to the other. Where both had been
/// recovered five times, both did: messages went from one cluster into the other, and since one spoke with the other as with its
/// own, what that remembered of somebody else stopped this one for good.
#[test]
fn two_clusters_that_were_recovered_often_have_nothing_to_say_to_each_other() {
    let parent = recovered(3, 40);
    let sibling = |bits| child_at(&parent, bits, 1000);
    for (ours, theirs) in [(recovered(1, 5), recovered(2, 5)), (sibling(1), sibling(2))] {
        let (one, two) = pair(Some(&ours), Some(&theirs));
        for server in [&one, &two] {
            eventually("it is told", || server.reported("refuses this server: the log of the server that refuses"));
        }
        assert!(!one.connected(2) && !two.connected(1));
    }
    let says = Refuser { features: FEATURE_HISTORIES, history: Some(recovered(2, 5).lineage(NodeId(1))) };
    assert!(!hears(Some(&recovered(1, 5)), Some(says), true), "it is stopped by another cluster");
    let (one, two) = pair(Some(&recovered(1, 0)), Some(&recovered(1, 64)));
    eventually("a survivor comes late", || one.connected(2) && two.connected(1));
}

/// A server that ran as a cluster of its own comes as one that joins: it is no guest here.
#[test]
fn a_guest_of_another_history_is_refused() {
    let one = server(config(1), Some(&history(1)));
    let of = |history: Option<u128>| Introduction {
        features: FEATURE_HISTORIES,
        history: history.map(|bits| self::history(bits).lineage(NodeId(1))),
        ..Introduction::default()
    };
    let (_, answer) = one.greet(4, of(Some(2)));
    assert_eq!(refusal(answer), Some(Refusal::OtherHistory { history: id(1) }));
    assert!(one.transport.stats().peers.is_empty(), "nobody is to answer it");
    for welcome in [of(None), of(Some(1)), Introduction::default()] {
        let (_, answer) = one.greet(4, welcome);
        assert!(matches!(answer, Some(Frame::Welcome(_))), "{answer:?}");
    }
}

/// This server was stopped by whoever came with a memory of somebody of its name: a server that is no member, and an older copy of a
/// member, which is itself refused.
#[test]
fn what_a_copy_or_a_stranger_remembers_stops_nobody() {
    let one = server(config(1).peer(2, "127.0.0.1:1"), None);
    one.transport.members(GroupId(0), &BTreeMap::from([(NodeId(1), None), (NodeId(2), None)]));
    let knows_more = || Some(Remembered { life: Some((2, 99)), term: Term(50), ..Remembered::default() });
    let said = |lives: &[Life]| Introduction { features: 1, lives: lives.to_vec(), remembered: None, history: None };
    let (_, answer) = one.greet(2, said(&[life(1, 200)]));
    assert!(matches!(answer, Some(Frame::Welcome(_))), "{answer:?}");
    // A copy of the member, and a server that is none.
    let (_, answer) = one.greet(2, Introduction { remembered: knows_more(), ..said(&[life(1, 201)]) });
    assert_eq!(refusal(answer), Some(Refusal::LostLife { count: 1 }));
    let (_, answer) = one.greet(9, Introduction { remembered: knows_more(), ..said(&[life(1, 900)]) });
    assert!(matches!(answer, Some(Frame::Welcome(_))), "{answer:?}");
    // Of another history, as the member that it is here.
    one.transport.history(GroupId(0), &history(1));
    let foreign = Some(history(2).lineage(NodeId(1)));
    let (_, answer) =
        one.greet(2, Introduction { remembered: knows_more(), history: foreign, ..said(&[life(1, 200)]) });
    assert_eq!(refusal(answer), Some(Refusal::OtherHistory { history: id(1) }));
    assert!(!one.reported("lost what node"));
    // The member itself, which may be of any cluster until it shows the history of this one.
    let (_, answer) = one.greet(2, Introduction { remembered: knows_more(), ..said(&[life(1, 200)]) });
    assert!(matches!(answer, Some(Frame::Welcome(_))), "{answer:?}");
    assert!(!one.reported("lost what node"));
    let ours = Some(history(1).lineage(NodeId(1)));
    let (_, answer) = one.greet(2, Introduction { remembered: knows_more(), history: ours, ..said(&[life(1, 200)]) });
    assert_eq!(refusal(answer), Some(Refusal::OwnDataLost));
    assert!(one.reported("lost what node 2 remembers"));
}

/// What becomes of a server of `ours` whose peer answers its hello with this refusal of a loss; `known`: as a member.
fn hears(ours: Option<&Arc<History>>, by: Option<Refuser>, known: bool) -> bool {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let config = if known { config(1).peer(2, &address) } else { config(1) };
    let one = server(config, ours);
    if !known {
        // It came by itself, and is answered where it says.
        let mut stream = TcpStream::connect(one.transport.local_addr()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let guest = Hello {
            cluster: ClusterId(CLUSTER),
            from: NodeId(2),
            to: NodeId(1),
            incarnation: 0,
            version_first: 1,
            version_last: 1,
            frame_bytes_max: 1 << 20,
            client_address: None,
            peer_address: Some(address),
            purpose: Purpose::Messages,
            introduction: Introduction::default(),
        };
        stream.write_all(&control(&Frame::Hello(guest))).unwrap();
        assert!(matches!(read_frame(&mut stream), Some(Frame::Welcome(_))));
    }
    let (mut stream, _) = listener.accept().unwrap();
    assert!(matches!(read_frame(&mut stream), Some(Frame::Hello(_))));
    let reason = Refusal::LostEntries { index: Index(9) };
    let refusal = by.map_or_else(|| refused(reason), |by| Frame::Refusal { reason, by });
    stream.write_all(&control(&refusal)).unwrap();
    eventually("it is reported", || one.reported("without entry 9"));
    one.reported("(lost_entries)")
}

/// At the peer's address was a server of a new cluster of the same number, which had no leader yet and so no history, and had met a
/// server of this one's id. What it said of that stopped this one, which had nothing to do with either.
#[test]
fn a_server_of_a_new_cluster_without_a_history_stops_nobody() {
    let memory = PeerMemory::volatile(GroupId(0));
    assert!(memory.admit(NodeId(1), 99 << 32 | 1, &[life(1, 500)], true).unwrap().is_none());
    let two = TcpTransport::bind(config(2)).unwrap();
    two.introduce(&Lives::new(8 << 32 | 1, [life(1, 80)]), &memory);
    let inbox = Inbox::new();
    two.start(inbox.receiver());
    let one = server(config(1).peer(2, two.local_addr().to_string()), Some(&history(1)));
    eventually("it is refused more than once", || one.transport.stats().refused_by_peers > 1);
    assert!(one.reported("data directory is not the one it had") && !one.reported("lost what node"));
}

/// A member that has only just caught up knows of no commit, so it shows no history when it comes. It may be this cluster's all the
/// same, and this server an older copy: that counts from when the member knows its history.
#[test]
fn a_member_is_believed_as_soon_as_it_shows_the_history() {
    let one = server(config(1).peer(2, "127.0.0.1:1"), Some(&history(1)));
    let remembered = Some(Remembered { life: Some((2, 99)), term: Term(50), ..Remembered::default() });
    let said = Introduction { features: FEATURE_HISTORIES, lives: vec![life(1, 200)], remembered, history: None };
    let (mut stream, answer) = one.greet(2, said);
    assert!(matches!(answer, Some(Frame::Welcome(_))), "{answer:?}");
    assert!(!one.reported("lost what node"));
    stream.write_all(&control(&Frame::History { lineage: history(1).lineage(NodeId(1)) })).unwrap();
    eventually("it believes", || one.reported("lost what node 2 remembers"));
}

/// Any server that answered at a peer's address stopped this one by saying that it had lost data.
#[test]
fn a_refusal_that_names_a_loss_is_believed_of_a_member_of_the_own_lineage_only() {
    let (ours, other) = (history(1), history(2));
    let says = |history: Option<&History>| {
        Some(Refuser { features: FEATURE_HISTORIES, history: history.map(|history| history.lineage(NodeId(1))) })
    };
    assert!(hears(None, None, true), "a server of 0.6 in a cluster without a history");
    assert!(hears(None, says(Some(&ours)), true), "put back to before its cluster had one");
    assert!(hears(Some(&ours), says(Some(&ours)), true));
    assert!(hears(Some(&ours), says(Some(&child(&ours, 3, &[3]))), true), "a child of it");
    assert!(!hears(Some(&ours), says(None), true), "of a new cluster, perhaps");
    assert!(!hears(Some(&ours), says(Some(&other)), true), "of another cluster");
    assert!(!hears(Some(&ours), says(Some(&child(&ours, 3, &[1]))), true), "of one that gave this server up");
    assert!(!hears(Some(&ours), None, true), "no server of 0.6 is a member of a cluster with a history");
    assert!(!hears(None, None, false) && !hears(Some(&ours), says(Some(&ours)), false), "a guest");
}
