//! TCP between servers that mean well: delivery, restart, change of address, stalls, shutdown.
#![cfg(feature = "tcp")]

mod transport_support;

use bytes::Bytes;
use raft_io::transport::{RaftTransport, TcpConfig, TcpTransport, TransportError};
use raft_io::{GroupId, Message, NodeId};
use std::time::{Duration, Instant};
use transport_support::proxy::{Mode, Proxy};
use transport_support::{DEADLINE, Inbox, append, append_bytes, config, envelope, eventually, vote};

/// Two transports that know each other, started and connected both ways.
fn pair(one: TcpConfig, two: TcpConfig) -> ((TcpTransport, Inbox), (TcpTransport, Inbox)) {
    let (one, two) = (TcpTransport::bind(one).unwrap(), TcpTransport::bind(two).unwrap());
    one.set_address(2, two.local_addr().to_string()).unwrap();
    two.set_address(1, one.local_addr().to_string()).unwrap();
    let (at_one, at_two) = (Inbox::new(), Inbox::new());
    one.start(at_one.receiver());
    two.start(at_two.receiver());
    wait_connected(&one, 2);
    wait_connected(&two, 1);
    ((one, at_one), (two, at_two))
}

fn wait_connected(transport: &TcpTransport, peer: u64) {
    eventually("the way to the peer is open", || transport.stats().peers[&NodeId(peer)].connected);
}

#[test]
fn messages_of_every_size_arrive_in_order() {
    let ((one, at_one), (two, at_two)) = pair(config(1), config(2));
    let large = Bytes::from(vec![0xa5; 3 << 20]);
    for term in 1..=500 {
        one.send(GroupId(9), envelope(1, 2, vote(term)));
    }
    one.send(GroupId(9), envelope(1, 2, append_bytes(501, [large.clone(), Bytes::new(), large])));
    one.send(GroupId(9), envelope(1, 2, append(502, &[])));
    two.send(GroupId(3), envelope(2, 1, append(1, &["a", "b"])));
    let messages = at_two.wait_for(502);
    assert!(messages.iter().all(|(group, envelope)| *group == GroupId(9) && envelope.from == NodeId(1)));
    assert!(messages.iter().all(|(_, envelope)| envelope.to == NodeId(2)));
    assert!(messages.iter().map(|(_, envelope)| envelope.message.term().0).eq(1..=502));
    let Message::AppendEntriesRequest(append_501) = &messages[500].1.message else { panic!("not an append") };
    assert_eq!(append_501.entries.iter().map(|entry| entry.payload.len()).collect::<Vec<_>>(), [3 << 20, 0, 3 << 20]);
    assert_eq!(at_one.wait_for(1)[0], (GroupId(3), envelope(2, 1, append(1, &["a", "b"]))));
    // A message may arrive before its sender has counted it.
    eventually("all are counted", || one.stats().sent_messages == 502);
    let (sent, received) = (one.stats(), two.stats());
    assert_eq!(received.received_messages, 502);
    assert_eq!((sent.dropped_full, sent.dropped_disconnected, sent.dropped_oversized), (0, 0, 0));
}

#[test]
fn a_handshake_tells_incarnation_and_client_address() {
    let first = config(1).client_address("10.0.0.1:6379").incarnation(11);
    let ((one, _), (two, _)) = pair(first, config(2).incarnation(22));
    assert_eq!(two.client_address(NodeId(1)).as_deref(), Some("10.0.0.1:6379"));
    assert_eq!(one.client_address(NodeId(2)), None);
    assert_eq!(two.stats().peers[&NodeId(1)].incarnation, Some(11));
    assert_eq!(one.stats().peers[&NodeId(2)].incarnation, Some(22));
    assert_eq!(one.client_address(NodeId(3)), None);
}

/// Sends until one message arrives: while a connection is being made, messages are lost.
fn send_until_received(from: &TcpTransport, inbox: &Inbox, make: impl Fn() -> raft_io::Envelope) {
    let before = inbox.len();
    eventually("a message arrives", || {
        from.send(GroupId(0), make());
        inbox.len() > before
    });
}

#[test]
fn a_restarted_peer_is_found_again_and_its_incarnation_noticed() {
    let ((one, at_one), (two, _)) = pair(config(1), config(2).incarnation(5));
    let address = two.local_addr();
    two.shutdown();
    eventually("the loss is noticed", || {
        let stats = one.stats();
        !stats.peers[&NodeId(2)].connected && !stats.peers[&NodeId(2)].accepted
    });
    one.send(GroupId(0), envelope(1, 2, vote(1)));
    assert_eq!(one.stats().dropped_disconnected, 1, "without a way a message is lost at once");
    let mut again = config(2).incarnation(6).peer(1, one.local_addr().to_string());
    again.listen = address.to_string();
    let again = TcpTransport::bind(again).unwrap();
    let at_two = Inbox::new();
    again.start(at_two.receiver());
    send_until_received(&one, &at_two, || envelope(1, 2, vote(2)));
    send_until_received(&again, &at_one, || envelope(2, 1, vote(3)));
    eventually("the next opening is recorded", || one.stats().peers[&NodeId(2)].incarnation == Some(6));
}

#[test]
fn a_peer_that_starts_late_is_connected_without_waiting_out_the_back_off() {
    let mut patient = config(1);
    patient.backoff_last = Duration::from_secs(3600);
    patient.backoff_first = Duration::from_secs(3600);
    // Nobody listens at the first address, so that the first attempt fails.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let one = TcpTransport::bind(patient.peer(2, nobody.to_string())).unwrap();
    one.start(Inbox::new().receiver());
    eventually("the first attempt failed", || one.stats().connect_failures == 1);
    let mut two = config(2).peer(1, one.local_addr().to_string());
    two.listen = nobody.to_string();
    let two = TcpTransport::bind(two).unwrap();
    two.start(Inbox::new().receiver());
    // Its hello is the sign that it lives.
    wait_connected(&one, 2);
}

#[test]
fn a_changed_address_is_followed_while_connected() {
    let ((one, _), (two, at_two)) = pair(config(1), config(2));
    send_until_received(&one, &at_two, || envelope(1, 2, vote(1)));
    // It does not show up by itself: node 1 has to go by the address.
    let moved = TcpTransport::bind(config(2).peer(1, "127.0.0.1:1")).unwrap();
    let at_moved = Inbox::new();
    moved.start(at_moved.receiver());
    one.set_address(2, moved.local_addr().to_string()).unwrap();
    send_until_received(&one, &at_moved, || envelope(1, 2, vote(2)));
    assert_eq!(one.stats().peers[&NodeId(2)].address, moved.local_addr().to_string());
    two.shutdown();
}

#[test]
fn names_are_resolved_at_each_connect() {
    let two = TcpTransport::bind(config(2)).unwrap();
    let names = Names::default();
    let one = TcpTransport::bind(config(1).peer(2, "two.test:1").resolver(names.lookup())).unwrap();
    two.set_address(1, one.local_addr().to_string()).unwrap();
    let at_two = Inbox::new();
    one.start(Inbox::new().receiver());
    two.start(at_two.receiver());
    eventually("the name is not found", || one.stats().connect_failures > 0);
    // The same name, which leads somewhere now.
    names.set("two.test:1", two.local_addr());
    send_until_received(&one, &at_two, || envelope(1, 2, vote(1)));
}

/// A name server that did not answer kept a peer from being dialled at its other address, and the test of names asked the
/// machine's own resolver, which was too slow on one of two runs.
#[test]
fn a_name_that_nobody_resolves_holds_up_no_other_name() {
    let two = TcpTransport::bind(config(2)).unwrap();
    let names = Names::default();
    let (never, hold) = std::sync::mpsc::channel::<()>();
    let hold = std::sync::Mutex::new(hold);
    let known = names.lookup();
    let lookup = move |name: &str| {
        if name.starts_with("slow") {
            // Until the test ends.
            let _ = hold.lock().unwrap().recv();
        }
        known(name)
    };
    let mut one = config(1).peer(2, "slow.test:1").resolver(lookup);
    one.connect_timeout = Duration::from_millis(20);
    let one = TcpTransport::bind(one).unwrap();
    let at_two = Inbox::new();
    one.start(Inbox::new().receiver());
    two.start(at_two.receiver());
    eventually("the lookup takes too long", || one.stats().connect_failures > 0);
    names.set("two.test:1", two.local_addr());
    one.set_address(2, "two.test:1").unwrap();
    send_until_received(&one, &at_two, || envelope(1, 2, vote(1)));
    drop(never);
}

/// A resolver of the test's own.
#[derive(Clone, Default)]
struct Names(std::sync::Arc<std::sync::Mutex<std::collections::BTreeMap<String, std::net::SocketAddr>>>);

impl Names {
    fn set(&self, name: &str, address: std::net::SocketAddr) {
        self.0.lock().unwrap().insert(name.to_string(), address);
    }

    fn lookup(&self) -> impl Fn(&str) -> std::io::Result<Vec<std::net::SocketAddr>> + Send + Sync + 'static {
        let names = self.clone();
        move |name| {
            let found = names.0.lock().unwrap().get(name).copied();
            found.map(|address| vec![address]).ok_or_else(|| std::io::ErrorKind::NotFound.into())
        }
    }
}

#[test]
fn a_peer_added_at_run_time_is_connected() {
    let one = TcpTransport::bind(config(1)).unwrap();
    let two = TcpTransport::bind(config(2).peer(1, one.local_addr().to_string())).unwrap();
    let at_one = Inbox::new();
    one.start(at_one.receiver());
    two.start(Inbox::new().receiver());
    eventually("it is a guest", || one.stats().peers.get(&NodeId(2)).is_some_and(|peer| peer.accepted));
    one.set_address(2, two.local_addr().to_string()).unwrap();
    send_until_received(&two, &at_one, || envelope(2, 1, vote(1)));
    wait_connected(&one, 2);
}

#[test]
fn a_half_open_connection_is_given_up_and_made_anew() {
    let one = TcpTransport::bind(config(1)).unwrap();
    let two = TcpTransport::bind(config(2)).unwrap();
    let proxy = Proxy::to(two.local_addr());
    one.set_address(2, proxy.address.to_string()).unwrap();
    two.set_address(1, one.local_addr().to_string()).unwrap();
    let at_two = Inbox::new();
    one.start(Inbox::new().receiver());
    two.start(at_two.receiver());
    send_until_received(&one, &at_two, || envelope(1, 2, vote(1)));
    proxy.set(Mode::Swallow);
    // The sockets stay open and take what is sent; only the probes tell.
    eventually("both sides notice the silence", || {
        one.stats().silent_connections > 0 && two.stats().silent_connections > 0
    });
    proxy.set(Mode::Pass);
    send_until_received(&one, &at_two, || envelope(1, 2, vote(2)));
    assert!(proxy.connections() >= 2);
}

#[test]
fn an_idle_connection_is_kept_alive() {
    let ((one, _), (two, at_two)) = pair(config(1), config(2));
    // Several times the silence that would end it.
    let sent = one.stats().sent_bytes;
    eventually("probes went out for three silences", || one.stats().sent_bytes - sent >= 31 * 20);
    let (one_stats, two_stats) = (one.stats(), two.stats());
    assert_eq!((one_stats.connects, two_stats.connects), (1, 1));
    assert_eq!((one_stats.silent_connections, two_stats.silent_connections), (0, 0));
    one.send(GroupId(0), envelope(1, 2, vote(1)));
    at_two.wait_for(1);
}

#[test]
fn a_stalled_peer_does_not_delay_another_and_its_queue_is_bounded() {
    let mut first = config(1);
    first.queue_messages_max = 64;
    first.queue_bytes_max = 1 << 20;
    first.silence_max = Duration::from_secs(60);
    let one = TcpTransport::bind(first).unwrap();
    let stalled = TcpTransport::bind(config(2).peer(1, one.local_addr().to_string())).unwrap();
    let healthy = TcpTransport::bind(config(3).peer(1, one.local_addr().to_string())).unwrap();
    let proxy = Proxy::to(stalled.local_addr());
    one.set_address(2, proxy.address.to_string()).unwrap();
    one.set_address(3, healthy.local_addr().to_string()).unwrap();
    let (at_stalled, at_healthy) = (Inbox::new(), Inbox::new());
    one.start(Inbox::new().receiver());
    stalled.start(at_stalled.receiver());
    healthy.start(at_healthy.receiver());
    wait_connected(&one, 2);
    wait_connected(&one, 3);
    proxy.set(Mode::Stall);
    let large = Bytes::from(vec![1; 256 << 10]);
    eventually("the stalled queue is full", || {
        one.send(GroupId(0), envelope(1, 2, append_bytes(1, [large.clone()])));
        one.stats().dropped_full > 0
    });
    let peer = &one.stats().peers[&NodeId(2)];
    assert!(peer.queued_bytes <= 1 << 20, "{} bytes are queued", peer.queued_bytes);
    let began = Instant::now();
    for term in 1..=50 {
        one.send(GroupId(0), envelope(1, 3, vote(term)));
        at_healthy.wait_for(term as usize);
    }
    assert!(began.elapsed() < DEADLINE / 2);
    // Shutdown does not wait for the stalled writer either; on Windows, where nothing wakes it, not for ever.
    let shutdown_max = Duration::from_secs(if cfg!(windows) { 8 } else { 3 });
    let began = Instant::now();
    one.shutdown();
    assert!(began.elapsed() < shutdown_max, "shutdown took {:?}", began.elapsed());
    proxy.set(Mode::Pass);
}

/// A probe behind a large frame on a slow line comes late; that bytes arrive at all is proof enough.
#[test]
fn a_slow_line_with_a_large_frame_is_not_taken_for_dead() {
    let one = TcpTransport::bind(config(1)).unwrap();
    let two = TcpTransport::bind(config(2).peer(1, one.local_addr().to_string())).unwrap();
    let proxy = Proxy::to(two.local_addr());
    one.set_address(2, proxy.address.to_string()).unwrap();
    let at_two = Inbox::new();
    one.start(Inbox::new().receiver());
    two.start(at_two.receiver());
    wait_connected(&one, 2);
    proxy.set(Mode::Throttle);
    let began = Instant::now();
    one.send(GroupId(0), envelope(1, 2, append_bytes(1, [Bytes::from(vec![1; 4 << 20])])));
    at_two.wait_for(1);
    let silence_max = config(1).silence_max;
    assert!(began.elapsed() > 2 * silence_max, "the line was too fast to prove anything: {:?}", began.elapsed());
    assert_eq!((one.stats().connects, proxy.connections()), (1, 1));
}

#[test]
fn shutdown_joins_everything_frees_the_port_and_is_idempotent() {
    let ((one, at_one), (two, _)) = pair(config(1), config(2));
    let address = one.local_addr();
    let began = Instant::now();
    one.shutdown();
    one.shutdown();
    assert!(began.elapsed() < Duration::from_secs(2), "shutdown took {:?}", began.elapsed());
    assert_eq!(at_one.holders(), 1, "nobody holds the receiver any more");
    one.send(GroupId(0), envelope(1, 2, vote(1)));
    assert_eq!(one.stats().sent_messages, 0);
    assert_eq!(one.stats().dropped_disconnected, 1);
    let mut successor = config(1);
    successor.listen = address.to_string();
    TcpTransport::bind(successor).unwrap();
    two.shutdown();
}

#[test]
fn shutdown_is_prompt_while_nobody_answers() {
    // A port that is open and never says a word: the handshake is under way.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut first = config(1).peer(2, silent.local_addr().unwrap().to_string());
    first.handshake_timeout = Duration::from_secs(60);
    let one = TcpTransport::bind(first.peer(3, "127.0.0.1:1")).unwrap();
    one.start(Inbox::new().receiver());
    let held = silent.accept().unwrap();
    let began = Instant::now();
    one.shutdown();
    assert!(began.elapsed() < Duration::from_secs(2), "shutdown took {:?}", began.elapsed());
    drop(held);
}

#[test]
fn the_last_handle_shuts_down() {
    let ((one, at_one), (two, _)) = pair(config(1), config(2));
    let clone = one.clone();
    drop(one);
    assert!(clone.stats().peers[&NodeId(2)].connected, "a handle is left");
    drop(clone);
    assert_eq!(at_one.holders(), 1);
    eventually("the peer notices", || !two.stats().peers[&NodeId(1)].connected);
}

#[test]
fn a_receiver_may_shut_its_own_transport_down() {
    let ((one, _), (two, _)) = pair(config(1), config(2));
    two.shutdown();
    let own = TcpTransport::bind(config(2).peer(1, one.local_addr().to_string())).unwrap();
    let (inbox, inside) = (Inbox::new(), own.clone());
    own.start(inbox.receiver_then(move || inside.shutdown()));
    one.set_address(2, own.local_addr().to_string()).unwrap();
    send_until_received(&one, &inbox, || envelope(1, 2, vote(1)));
    eventually("it is down", || !own.stats().peers[&NodeId(1)].accepted);
}

#[test]
fn messages_for_nobody_are_counted() {
    let ((one, _), (_two, at_two)) = pair(config(1), config(2));
    one.send(GroupId(0), envelope(1, 9, vote(1)));
    one.send(GroupId(0), envelope(1, 1, vote(2)));
    one.send(GroupId(0), envelope(2, 2, vote(3)));
    assert_eq!(one.stats().dropped_misaddressed, 3);
    one.send(GroupId(0), envelope(1, 2, vote(4)));
    assert_eq!(at_two.wait_for(1)[0].1.message, vote(4));
}

#[test]
fn a_message_that_the_peer_would_not_take_is_not_sent() {
    let mut small = config(2);
    small.frame_bytes_max = 2048;
    let ((one, _), (_two, at_two)) = pair(config(1), small);
    one.send(GroupId(0), envelope(1, 2, append_bytes(1, [Bytes::from(vec![0; 4096])])));
    one.send(GroupId(0), envelope(1, 2, vote(2)));
    assert_eq!(at_two.wait_for(1)[0].1.message, vote(2));
    eventually("it is counted", || one.stats().sent_messages == 1);
    let stats = one.stats();
    assert_eq!((stats.dropped_oversized, stats.connects), (1, 1));
}

/// An append beyond what the peer takes in one frame, by its bytes or by its number of entries, was never sent.
#[test]
fn an_append_goes_to_a_peer_with_smaller_frames_in_pieces() {
    let mut small = config(2);
    small.frame_bytes_max = 4096;
    let ((one, _), (_two, at_two)) = pair(config(1), small);
    let commands = [vec![Bytes::from(vec![7; 1000]); 9], vec![Bytes::new(); 300]].concat();
    let whole = append_bytes(1, commands);
    one.send(GroupId(0), envelope(1, 2, whole.clone()));
    let (bytes, entries) = (4096 - 1024, 4096 / 64);
    let narrow = one.limits_of(NodeId(2));
    assert_eq!((narrow.entry_bytes_max, narrow.entries_max), (bytes, entries));
    let Message::AppendEntriesRequest(whole) = whole else { panic!("an append") };
    let mut came = Vec::new();
    let mut pieces = 0;
    while came.len() < whole.entries.len() {
        pieces += 1;
        let (_, envelope) = at_two.wait_for(pieces).swap_remove(pieces - 1);
        let Message::AppendEntriesRequest(piece) = envelope.message else { panic!("an append") };
        assert_eq!(piece.prev, came.last().map_or(whole.prev, |entry: &raft_io::Entry| entry.id));
        assert!(piece.entries.size_bytes() <= bytes && piece.entries.len() <= entries);
        assert_eq!((piece.term, piece.commit), (whole.term, whole.commit));
        came.extend(piece.entries.iter().cloned());
    }
    assert_eq!(came, whole.entries[..]);
    assert_eq!(one.stats().dropped_oversized, 0);
}

#[test]
fn a_taken_port_and_a_broken_rule_are_typed_errors() {
    let one = TcpTransport::bind(config(1)).unwrap();
    let mut second = config(1);
    second.listen = one.local_addr().to_string();
    assert!(matches!(TcpTransport::bind(second), Err(TransportError::Bind { .. })));
    let broken = TcpTransport::bind(config(1).client_address("a\nb"));
    assert!(matches!(broken, Err(TransportError::Config { field: "client_address", .. })));
    let mut broken = config(1);
    broken.silence_max = broken.ping_interval;
    assert!(matches!(TcpTransport::bind(broken), Err(TransportError::Config { field: "silence_max", .. })));
}
