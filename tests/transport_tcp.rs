//! TCP between servers that mean well: delivery, restart, change of address, stalls, shutdown.
#![cfg(feature = "tcp")]

mod transport_support;

use bytes::Bytes;
use raft_io::transport::{RaftTransport, TcpConfig, TcpTransport};
use raft_io::{GroupId, Message, NodeId};
use transport_support::{Inbox, append, append_bytes, envelope, eventually, vote};

const CLUSTER: u64 = 42;

fn config(id: u64) -> TcpConfig {
    TcpConfig::new(CLUSTER, id, "127.0.0.1:0")
}

/// Two transports that know each other, started and connected both ways.
fn pair(one: TcpConfig, two: TcpConfig) -> ((TcpTransport, Inbox), (TcpTransport, Inbox)) {
    let (one, two) = (TcpTransport::bind(one).unwrap(), TcpTransport::bind(two).unwrap());
    one.set_address(2, two.local_addr().to_string());
    two.set_address(1, one.local_addr().to_string());
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
    let (sent, received) = (one.stats(), two.stats());
    assert_eq!((sent.sent_messages, received.received_messages), (502, 502));
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
