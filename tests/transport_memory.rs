//! The network in memory: order, faults, restart, shutdown.
#![cfg(feature = "std")]

mod transport_support;

use raft_io::transport::{MemoryNetwork, RaftTransport};
use raft_io::{GroupId, Message, NodeId};
use transport_support::{Inbox, append, envelope, vote};

#[test]
fn messages_arrive_in_order_with_sender_and_group() {
    let network = MemoryNetwork::new();
    let (one, two) = (network.transport(1), network.transport(2));
    let inbox = Inbox::new();
    two.start(inbox.receiver());
    for term in 1..=1000 {
        one.send(GroupId(7), envelope(1, 2, vote(term)));
    }
    let messages = inbox.wait_for(1000);
    assert!(messages.iter().all(|(group, envelope)| *group == GroupId(7) && envelope.from == NodeId(1)));
    assert!(messages.iter().map(|(_, envelope)| envelope.message.term().0).eq(1..=1000));
    assert_eq!((network.delivered(), network.dropped()), (1000, 0));
}

#[test]
fn what_was_sent_before_the_start_is_delivered_after_it() {
    let network = MemoryNetwork::new();
    let (one, two) = (network.transport(1), network.transport(2));
    one.send(GroupId(0), envelope(1, 2, append(3, &["x"])));
    let inbox = Inbox::new();
    two.start(inbox.receiver());
    assert_eq!(inbox.wait_for(1)[0].1, envelope(1, 2, append(3, &["x"])));
}

#[test]
fn a_partition_cuts_both_ways_and_heals() {
    let network = MemoryNetwork::new();
    let (one, two, three) = (network.transport(1), network.transport(2), network.transport(3));
    let (at_one, at_two, at_three) = (Inbox::new(), Inbox::new(), Inbox::new());
    one.start(at_one.receiver());
    two.start(at_two.receiver());
    three.start(at_three.receiver());
    network.partition([1]);
    one.send(GroupId(0), envelope(1, 2, vote(1)));
    two.send(GroupId(0), envelope(2, 1, vote(2)));
    two.send(GroupId(0), envelope(2, 3, vote(3)));
    assert_eq!(at_three.wait_for(1)[0].1.message, vote(3));
    network.heal();
    one.send(GroupId(0), envelope(1, 2, vote(4)));
    two.send(GroupId(0), envelope(2, 1, vote(5)));
    assert_eq!(at_two.wait_for(1)[0].1.message, vote(4));
    assert_eq!(at_one.wait_for(1)[0].1.message, vote(5));
    assert_eq!((network.delivered(), network.dropped()), (3, 2));
}

#[test]
fn a_cut_is_one_way() {
    let network = MemoryNetwork::new();
    let (one, two) = (network.transport(1), network.transport(2));
    let (at_one, at_two) = (Inbox::new(), Inbox::new());
    one.start(at_one.receiver());
    two.start(at_two.receiver());
    network.cut(1, 2);
    one.send(GroupId(0), envelope(1, 2, vote(1)));
    two.send(GroupId(0), envelope(2, 1, vote(2)));
    assert_eq!(at_one.wait_for(1)[0].1.message, vote(2));
    assert_eq!((at_two.len(), network.dropped()), (0, 1));
}

#[test]
fn a_filter_drops_what_it_picks() {
    let network = MemoryNetwork::new();
    let (one, two) = (network.transport(1), network.transport(2));
    let inbox = Inbox::new();
    two.start(inbox.receiver());
    network.drop_if(|_, envelope| matches!(envelope.message, Message::RequestVoteRequest(_)));
    one.send(GroupId(0), envelope(1, 2, vote(1)));
    one.send(GroupId(0), envelope(1, 2, append(1, &["kept"])));
    assert_eq!(inbox.wait_for(1)[0].1.message, append(1, &["kept"]));
    assert_eq!(network.dropped(), 1);
}

#[test]
fn a_node_cannot_speak_for_another() {
    let network = MemoryNetwork::new();
    let (one, two) = (network.transport(1), network.transport(2));
    let inbox = Inbox::new();
    two.start(inbox.receiver());
    one.send(GroupId(0), envelope(3, 2, vote(1)));
    one.send(GroupId(0), envelope(1, 2, vote(2)));
    assert_eq!(inbox.wait_for(1)[0].1.message, vote(2));
    assert_eq!(network.dropped(), 1);
}

#[test]
fn a_second_transport_of_a_node_takes_over() {
    let network = MemoryNetwork::new();
    let one = network.transport(1);
    let (before, after) = (network.transport(2), network.transport(2));
    let (old, new) = (Inbox::new(), Inbox::new());
    before.start(old.receiver());
    after.start(new.receiver());
    one.send(GroupId(0), envelope(1, 2, vote(1)));
    assert_eq!(new.wait_for(1)[0].1.message, vote(1));
    assert_eq!(old.len(), 0);
    before.send(GroupId(0), envelope(2, 2, vote(2)));
    assert_eq!(network.dropped(), 1, "the first transport is out of the network");
}

#[test]
fn shutdown_ends_delivery_and_is_idempotent() {
    let network = MemoryNetwork::new();
    let (one, two) = (network.transport(1), network.transport(2));
    let inbox = Inbox::new();
    two.start(inbox.receiver());
    one.send(GroupId(0), envelope(1, 2, vote(1)));
    inbox.wait_for(1);
    two.shutdown();
    two.shutdown();
    assert_eq!(inbox.holders(), 1, "the transport let go of its receiver");
    one.send(GroupId(0), envelope(1, 2, vote(2)));
    assert_eq!((inbox.len(), network.dropped()), (1, 1));
}

#[test]
fn a_receiver_may_shut_its_own_transport_down() {
    let network = MemoryNetwork::new();
    let (one, two) = (network.transport(1), network.transport(2));
    let inbox = Inbox::new();
    let own = two.clone();
    two.start(inbox.receiver_then(move || own.shutdown()));
    one.send(GroupId(0), envelope(1, 2, vote(1)));
    one.send(GroupId(0), envelope(1, 2, vote(2)));
    inbox.wait_for(1);
    two.shutdown();
    assert_eq!(inbox.len(), 1);
}
