//! Who is a peer over TCP: as the cluster's configuration says, and whoever comes by itself.
#![cfg(feature = "tcp")]

mod transport_support;

use raft_io::snapshot::{ChunkRequest, MemorySnapshots, SnapshotStore};
use raft_io::transport::{AddressError, FetchError, RaftTransport, TcpTransport, TransportError, TransportEvent};
use raft_io::wire::{self, Frame, Hello, Limits, Purpose, Refusal};
use raft_io::{ClusterId, EntryId, GroupId, NodeId};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use transport_support::snapshots::{GROUP, Serving, fetch_into};
use transport_support::{CLUSTER, DEADLINE, Inbox, config, envelope, eventually, refusal, vote};

fn members(members: &[(u64, Option<String>)]) -> BTreeMap<NodeId, Option<String>> {
    members.iter().map(|(id, address)| (NodeId(*id), address.clone())).collect()
}

fn started(id: u64) -> (TcpTransport, Inbox) {
    let transport = TcpTransport::bind(config(id)).unwrap();
    let inbox = Inbox::new();
    transport.start(inbox.receiver());
    (transport, inbox)
}

fn at(transport: &TcpTransport) -> Option<String> {
    Some(transport.local_addr().to_string())
}

/// Until the way is open, messages are lost.
fn send_until_received(from: &TcpTransport, inbox: &Inbox, ids: (u64, u64), term: u64) {
    eventually("a message arrives", || {
        from.send(GroupId(0), envelope(ids.0, ids.1, vote(term)));
        inbox.messages().iter().any(|(_, envelope)| envelope.message.term().0 == term)
    });
}

/// A server whose configuration is newer: it is heard, and answered where it says that it is.
#[test]
fn a_server_that_nobody_told_of_is_answered() {
    let ((known, at_known), (guest, at_guest)) = (started(1), started(2));
    guest.members(GroupId(0), &members(&[(1, at(&known)), (2, at(&guest))]));
    send_until_received(&guest, &at_known, (2, 1), 1);
    send_until_received(&known, &at_guest, (1, 2), 2);
    let stats = known.stats();
    let peer = &stats.peers[&NodeId(2)];
    assert_eq!((Some(peer.address.clone()), peer.connected, peer.accepted), (at(&guest), true, true));
    assert_eq!(stats.refused.values().sum::<u64>(), 0);
}

#[test]
fn a_snapshot_is_fetched_from_a_server_that_came_by_itself() {
    let joiner = TcpTransport::bind(config(4)).unwrap();
    let inbox = Inbox::new();
    joiner.start(inbox.receiver());
    let (store, last) = (MemorySnapshots::with_chunk_bytes(GROUP, 512), EntryId::new(9, 2));
    let mut writer = store.begin(last, "members".into()).unwrap();
    writer.write_all(&[7; 2000]).unwrap();
    writer.finish().unwrap();
    let leader = TcpTransport::bind(config(1)).unwrap();
    leader.start(Serving::of(store, &Inbox::new()));
    let request = ChunkRequest { snapshot: last, chunk: 0 };
    let unknown = joiner.fetch_chunk(GROUP, NodeId(1), request, DEADLINE);
    assert!(matches!(unknown, Err(FetchError::Unreachable { .. })), "{unknown:?}");
    leader.members(GROUP, &members(&[(1, at(&leader)), (4, at(&joiner))]));
    send_until_received(&leader, &inbox, (1, 4), 1);
    let own = MemorySnapshots::with_chunk_bytes(GROUP, 512);
    let mut receiver = own.receive(last).unwrap();
    let info = fetch_into(&mut *receiver, &joiner, 1, 100).unwrap().expect("the whole");
    assert_eq!((info.bytes, &info.metadata[..]), (2000, &b"members"[..]));
}

#[test]
fn members_are_connected_moved_and_parted_with() {
    let ((one, at_one), (two, at_two), (three, at_three)) = (started(1), started(2), started(3));
    let all = members(&[(1, at(&one)), (2, at(&two)), (3, at(&three))]);
    for transport in [&one, &two, &three] {
        transport.members(GroupId(0), &all);
    }
    send_until_received(&one, &at_two, (1, 2), 1);
    send_until_received(&one, &at_three, (1, 3), 1);
    send_until_received(&three, &at_one, (3, 1), 1);
    // Two moves. What is said of it again changes nothing.
    let (moved, at_moved) = started(2);
    let all = members(&[(1, at(&one)), (2, at(&moved)), (3, None)]);
    one.members(GroupId(0), &all);
    one.members(GroupId(0), &all);
    send_until_received(&one, &at_moved, (1, 2), 2);
    assert_eq!(Some(one.stats().peers[&NodeId(2)].address.clone()), at(&moved));
    assert_eq!(Some(one.stats().peers[&NodeId(3)].address.clone()), at(&three), "no address is no other address");
    // Three leaves, and is a stranger from then on.
    one.members(GroupId(0), &members(&[(1, at(&one)), (2, at(&moved))]));
    let before = one.stats().dropped_misaddressed;
    three.shutdown();
    eventually("it is gone", || one.stats().peers.get(&NodeId(3)).is_none_or(|peer| !peer.accepted));
    one.send(GroupId(0), envelope(1, 9, vote(3)));
    assert_eq!(one.stats().dropped_misaddressed, before + 1);
    drop(two);
}

/// Before the cluster's configuration is known, those of the program are all there is: a server that joins has none.
#[test]
fn without_members_the_configured_peers_stay() {
    let (one, at_one) = started(1);
    let two = TcpTransport::bind(config(2).peer(1, at(&one).unwrap())).unwrap();
    two.start(Inbox::new().receiver());
    two.members(GroupId(0), &members(&[]));
    send_until_received(&two, &at_one, (2, 1), 1);
    two.members(GroupId(0), &members(&[(2, at(&two)), (3, None)]));
    assert_eq!(two.stats().peers.len(), 0, "the cluster's configuration prevails");
}

/// Two moved, and its port became three's before anybody told the cluster: one went on to dial three for two, though it
/// heard from two where that is.
#[test]
fn a_member_whose_place_another_took_is_found_when_it_shows_up() {
    let ((one, at_one), (two, at_two), (three, _)) = (started(1), started(2), started(3));
    one.members(GroupId(0), &members(&[(1, at(&one)), (2, at(&three))]));
    eventually("three says that it is not two", || one.stats().refused_by_peers > 0);
    two.members(GroupId(0), &members(&[(1, at(&one)), (2, at(&two))]));
    send_until_received(&two, &at_one, (2, 1), 1);
    send_until_received(&one, &at_two, (1, 2), 2);
    assert_eq!(one.stats().peers[&NodeId(2)].address, at(&three).unwrap(), "the configuration has not changed");
}

/// A member is looked for where it says that it is when there is nobody where it should be.
#[test]
fn a_member_at_another_place_than_it_should_be_is_found_when_it_shows_up() {
    let ((one, at_one), (two, at_two)) = (started(1), started(2));
    one.members(GroupId(0), &members(&[(1, at(&one)), (2, Some("127.0.0.1:1".into()))]));
    two.members(GroupId(0), &members(&[(1, at(&one)), (2, at(&two))]));
    send_until_received(&two, &at_one, (2, 1), 1);
    send_until_received(&one, &at_two, (1, 2), 2);
    assert_eq!(one.stats().peers[&NodeId(2)].address, "127.0.0.1:1", "the configuration has not changed");
}

fn hello(from: u64, peer_address: Option<&str>) -> Vec<u8> {
    hello_to(from, 1, peer_address)
}

fn hello_to(from: u64, to: u64, peer_address: Option<&str>) -> Vec<u8> {
    let hello = Hello {
        cluster: ClusterId(CLUSTER),
        from: NodeId(from),
        to: NodeId(to),
        incarnation: 1,
        version_first: wire::PROTOCOL,
        version_last: wire::PROTOCOL,
        frame_bytes_max: 1 << 20,
        client_address: None,
        peer_address: peer_address.map(Into::into),
        purpose: Purpose::Messages,
        introduction: raft_io::wire::Introduction::default(),
    };
    let mut bytes = Vec::new();
    wire::encode_control(&Frame::Hello(hello), &mut bytes).unwrap();
    bytes
}

fn answer(stream: &mut TcpStream) -> Frame {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut bytes = vec![0; 4];
    stream.read_exact(&mut bytes).unwrap();
    let length = u32::from_le_bytes(bytes[..].try_into().unwrap()) as usize;
    bytes.resize(8 + length, 0);
    stream.read_exact(&mut bytes[4..]).unwrap();
    wire::decode_borrowed(&bytes, &Limits::default()).unwrap()
}

/// Whoever reaches the port can call itself anything; it must not cost more than a bounded number of threads.
#[test]
fn guests_are_few_and_say_where_they_are() {
    let mut patient = config(1);
    patient.silence_max = Duration::from_secs(60);
    let one = TcpTransport::bind(patient).unwrap();
    one.start(Inbox::new().receiver());
    let knock = |from: u64, address: Option<&str>| {
        let mut stream = TcpStream::connect(one.local_addr()).unwrap();
        stream.write_all(&hello(from, address)).unwrap();
        let frame = answer(&mut stream);
        (stream, frame)
    };
    let (_, refused) = knock(99, None);
    assert_eq!(refusal(Some(refused)), Some(Refusal::UnknownSender), "it could not be answered");
    let mut guests = Vec::new();
    for id in 100..132 {
        let (stream, frame) = knock(id, Some("127.0.0.1:1"));
        assert!(matches!(frame, Frame::Welcome(_)), "{frame:?}");
        guests.push(stream);
    }
    let (_, refused) = knock(132, Some("127.0.0.1:1"));
    assert_eq!(refusal(Some(refused)), Some(Refusal::UnknownSender), "the house is full");
    // A member has its place whatever strangers do.
    let (two, at_two) = started(2);
    one.members(GroupId(0), &members(&[(1, at(&one)), (2, at(&two))]));
    send_until_received(&one, &at_two, (1, 2), 1);
    // One that leaves makes room.
    drop(guests.pop());
    eventually("there is room again", || {
        std::thread::sleep(Duration::from_millis(10));
        matches!(knock(133, Some("127.0.0.1:1")).1, Frame::Welcome(_))
    });
    assert!(one.stats().peers.len() <= 33);
}

/// It took any text, though a configuration with it would not have been bound: the peer was never found, and nobody said why.
#[test]
fn an_address_at_which_nobody_can_be_is_refused_while_it_runs() {
    let one = TcpTransport::bind(config(1).peer(2, "127.0.0.1:7002").peer(3, "three.test:7003")).unwrap();
    one.start(Inbox::new().receiver());
    let refused = |id: u64, address: &str| match one.set_address(id, address) {
        Err(TransportError::Address { peer, address: told, reason }) => {
            assert_eq!((peer, told.as_str()), (NodeId(id), address));
            Some(reason)
        }
        other => panic!("{address}: {other:?}"),
    };
    assert_eq!(refused(2, "nowhere"), Some(AddressError::NoPort));
    assert_eq!(refused(4, "four.test:0"), Some(AddressError::Port));
    assert_eq!(refused(2, &one.local_addr().to_string()), Some(AddressError::Own));
    let taken = one.set_address(2, "THREE.test.:7003");
    assert!(matches!(taken, Err(TransportError::SharedAddress { peers: [NodeId(3), NodeId(2)], .. })), "{taken:?}");
    let peers: Vec<_> = one.stats().peers.into_iter().map(|(id, peer)| (id.0, peer.address)).collect();
    assert_eq!(peers, [(2, "127.0.0.1:7002".to_string()), (3, "three.test:7003".to_string())], "nothing changed");
    one.set_address(3, "three.test:7003").unwrap();
    one.set_address(3, "elsewhere.test:7003").unwrap();
    one.set_address(2, "three.test:7003").unwrap();
    one.set_address(1, "anything").unwrap();
}

/// Two names were of one server. One of the two members was never found, and each attempt said only who it was not.
#[test]
fn two_names_that_lead_to_one_server_are_named_once() {
    let (two, _inbox) = started(2);
    let place = two.local_addr();
    let told = |shared_addresses: bool| {
        let events = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&events);
        let mut config = config(1).peer(2, "two.test:1").peer(3, "three.test:1").peer(4, "127.0.0.1:1");
        config.shared_addresses = shared_addresses;
        (config.backoff_first, config.backoff_last) = (Duration::from_millis(2), Duration::from_millis(5));
        let config = config.resolver(move |_| Ok(vec![place])).on_event(move |event| {
            if let TransportEvent::SamePlace { .. } = event {
                sink.lock().unwrap().push(event.to_string());
            }
        });
        let one = TcpTransport::bind(config).unwrap();
        one.start(Inbox::new().receiver());
        eventually("both were tried many times", || {
            let stats = one.stats();
            stats.refused_by_peers >= 10 && stats.peers[&NodeId(2)].connected
        });
        let events = events.lock().unwrap();
        events.clone()
    };
    assert_eq!(told(false), [format!("the addresses of nodes 2 and 3 both lead to {place}; one of them is wrong")]);
    assert_eq!(told(true), [""; 0], "that is meant");
}

/// Who was refused was counted for all together: an operator could not tell whose directory was put back.
#[test]
fn refused_hellos_are_counted_for_the_member_that_they_claim_to_be_of() {
    let one = TcpTransport::bind(config(1).peer(2, "127.0.0.1:1")).unwrap();
    one.start(Inbox::new().receiver());
    let knock = |from: u64, address: Option<&str>, to: u64| {
        let mut stream = TcpStream::connect(one.local_addr()).unwrap();
        stream.write_all(&hello_to(from, to, address)).unwrap();
        refusal(Some(answer(&mut stream)))
    };
    for _ in 0..3 {
        assert_eq!(knock(2, None, 7), Some(Refusal::WrongReceiver { id: NodeId(1) }));
    }
    assert_eq!(knock(9, None, 1), Some(Refusal::UnknownSender), "of no member");
    eventually("it is counted", || one.stats().peers[&NodeId(2)].claims_refused.get("wrong_receiver") == Some(&3));
    let stats = one.stats();
    assert_eq!((stats.peers.len(), stats.refused["wrong_receiver"], stats.refused["unknown_sender"]), (1, 3, 1));
}
