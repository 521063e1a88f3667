//! What a transport knows of one peer.

use super::events::PeerStats;
use super::stream::Socket;
use super::transfer::Lane;
use crate::history::Lineage;
use crate::message::Message;
use crate::transport::PeerTrouble;
use crate::transport::queue::BoundedQueue;
use crate::types::{GroupId, NodeId};
use crate::wire::Introduction;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::string::String;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::vec::Vec;

pub(super) struct Peer {
    pub(super) id: NodeId,
    /// What is to be sent to it; open only while connected.
    pub(super) queue: BoundedQueue<(GroupId, Message)>,
    /// The way on which snapshots are fetched from it.
    pub(super) lane: Lane,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// As configured; empty for a server that has shown up by itself.
    address: String,
    /// Whether the cluster's configuration names it, with an address or without.
    is_member: bool,
    /// What it said of itself when it last showed up: tried when it is not at `address`.
    heard_address: Option<String>,
    /// Somebody else answered at `address`: the other one comes first now.
    heard_first: bool,
    /// How often `address` changed.
    address_version: u64,
    /// The connection that this server opened, from before its handshake on.
    outbound: Option<Arc<Socket>>,
    connected: bool,
    /// Where its name led at the last attempt to connect, if somebody answered there.
    place: Option<SocketAddr>,
    /// Hellos in its name that were refused, by reason.
    claims_refused: BTreeMap<&'static str, u64>,
    /// Why there is no connection.
    trouble: Option<PeerTrouble>,
    /// The connections that the peer opened, each with its serial number: for messages and for snapshots.
    inbound: [Option<(u64, Arc<Socket>)>; 2],
    /// What its last handshake said of its data.
    said: Option<(u64, Introduction)>,
    /// The largest frame that it accepts, as it said last.
    frame_bytes_max: Option<usize>,
    client_address: Option<String>,
    /// Final.
    closed: bool,
}

/// What a connection that the peer opened is for; there is at most one of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Messages,
    Snapshots,
}

impl Peer {
    pub(super) fn new(id: NodeId, address: String, messages_max: usize, bytes_max: usize) -> Self {
        let queue = BoundedQueue::new(messages_max, bytes_max);
        queue.set_open(false);
        Self { id, queue, lane: Lane::default(), state: Mutex::new(State { address, ..State::default() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where to look for it, one after the other, and the version of that.
    pub(super) fn addresses(&self) -> (Vec<String>, u64) {
        let state = self.state();
        let configured = (!state.address.is_empty()).then(|| state.address.clone());
        let heard = state.heard_address.clone().filter(|heard| *heard != state.address);
        let mut addresses: Vec<String> = configured.into_iter().chain(heard).collect();
        if state.heard_first {
            addresses.reverse();
        }
        (addresses, state.address_version)
    }

    /// Somebody else answered at this one of its addresses: the next attempt begins with the other.
    pub(super) fn is_not_at(&self, name: &str) {
        let mut state = self.state();
        state.heard_first = state.address == name;
    }

    /// The address as configured, or as it said itself without one.
    pub(super) fn address(&self) -> String {
        self.state().address()
    }

    pub(super) fn address_version(&self) -> u64 {
        self.state().address_version
    }

    /// Changes the address and gives up a connection to the one before.
    pub(super) fn set_address(&self, address: String) {
        let mut state = self.state();
        if state.address != address {
            state.address = address;
            (state.heard_first, state.place) = (false, None);
            state.address_version += 1;
            state.close_outbound();
            drop(state);
            self.lane.reset();
        }
        self.queue.nudge();
    }

    /// Takes note of a connection to the address of this version, so that others can end it; false
    /// if the address changed meanwhile.
    pub(super) fn begin_outbound(&self, socket: &Arc<Socket>, version: u64) -> bool {
        let mut state = self.state();
        let current = state.address_version == version && !state.closed;
        if current {
            state.outbound = Some(Arc::clone(socket));
        }
        current
    }

    pub(super) fn set_connected(&self) {
        let mut state = self.state();
        (state.connected, state.trouble) = (true, None);
        drop(state);
        self.queue.set_open(true);
    }

    /// Forgets the outbound connection and returns how many messages were lost with it.
    pub(super) fn end_outbound(&self) -> usize {
        let mut state = self.state();
        state.close_outbound();
        state.outbound = None;
        state.connected = false;
        drop(state);
        self.queue.set_open(false)
    }

    /// Makes `socket` the peer's way in, and closes the one before; whether there was one.
    pub(super) fn begin_inbound(&self, way: Way, serial: u64, socket: Arc<Socket>) -> bool {
        let mut state = self.state();
        if state.closed {
            socket.end();
        }
        let before = state.inbound[way as usize].replace((serial, socket));
        drop(state);
        if let Some((_, before)) = &before {
            before.end();
        }
        before.is_some()
    }

    /// Forgets an inbound connection; false if another took its place already.
    pub(super) fn end_inbound(&self, way: Way, serial: u64) -> bool {
        let inbound = &mut self.state().inbound[way as usize];
        let current = inbound.as_ref().is_some_and(|(current, _)| *current == serial);
        if let Some((_, socket)) = inbound.take_if(|_| current) {
            socket.end();
        }
        current
    }

    /// Ends every connection, either way.
    pub(super) fn disconnect(&self) {
        let state = self.state();
        state.close_outbound();
        for (_, socket) in state.inbound.iter().flatten() {
            socket.end();
        }
        drop(state);
        self.lane.reset();
    }

    /// Closes everything for good and returns how many messages were lost.
    pub(super) fn shutdown(&self) -> usize {
        let mut state = self.state();
        state.closed = true;
        state.close_outbound();
        for (_, socket) in state.inbound.iter().flatten() {
            socket.end();
        }
        drop(state);
        self.lane.close();
        self.queue.close()
    }

    pub(super) fn set_place(&self, place: Option<SocketAddr>) {
        self.state().place = place;
    }

    pub(super) fn place(&self) -> Option<SocketAddr> {
        self.state().place
    }

    /// Somebody who claimed to be this peer was refused. Whether it was this peer, nobody knows.
    pub(super) fn count_refused_claim(&self, reason: &'static str) {
        *self.state().claims_refused.entry(reason).or_default() += 1;
    }

    /// A connection failed, or ended.
    pub(super) fn note_trouble(&self, trouble: PeerTrouble) {
        self.state().trouble = Some(trouble);
    }

    pub(super) fn trouble(&self) -> Option<PeerTrouble> {
        self.state().trouble.clone()
    }

    /// Records what a handshake said.
    pub(super) fn learn(&self, incarnation: u64, said: Introduction, client_address: Option<String>) {
        let mut state = self.state();
        state.client_address = client_address;
        // The other connection may have told a newer history while this handshake was under way.
        let told = state.said.take().filter(|(before, _)| *before == incarnation).and_then(|(_, said)| said.history);
        let is_newer = |told: &Lineage| said.history.as_ref().is_none_or(|said| told.goes_on_from(said));
        let history = told.filter(is_newer).or_else(|| said.history.clone());
        state.said = Some((incarnation, Introduction { history, ..said }));
    }

    /// It has told, after its handshake, which history its log belongs to.
    pub(super) fn learn_history(&self, lineage: Lineage) {
        if let Some((_, said)) = &mut self.state().said {
            said.history = Some(lineage);
        }
    }

    /// The largest frame with messages that it accepts.
    pub(super) fn learn_limit(&self, frame_bytes_max: u32) {
        self.state().frame_bytes_max = Some(frame_bytes_max as usize);
    }

    pub(super) fn frame_bytes_max(&self) -> Option<usize> {
        self.state().frame_bytes_max
    }

    /// What its last handshake said of its data.
    pub(super) fn said(&self) -> Option<(u64, Introduction)> {
        self.state().said.clone()
    }

    /// Where it says that it is to be found.
    pub(super) fn hear_address(&self, address: Option<String>) {
        if let Some(address) = address {
            self.state().heard_address = Some(address);
        }
    }

    /// Whether it showed up by itself, unknown to whoever configures this server.
    pub(super) fn is_guest(&self) -> bool {
        let state = self.state();
        state.address.is_empty() && !state.is_member
    }

    /// The cluster's configuration names it.
    pub(super) fn set_member(&self) {
        self.state().is_member = true;
    }

    /// Whether there is a connection, either way.
    pub(super) fn is_present(&self) -> bool {
        let state = self.state();
        state.connected || state.inbound.iter().any(Option::is_some)
    }

    pub(super) fn client_address(&self) -> Option<String> {
        self.state().client_address.clone()
    }

    pub(super) fn stats(&self) -> PeerStats {
        let (queued_messages, queued_bytes) = self.queue.load();
        let state = self.state();
        PeerStats {
            address: state.address(),
            connected: state.connected,
            accepted: state.inbound[Way::Messages as usize].is_some(),
            incarnation: state.said.as_ref().map(|(incarnation, _)| *incarnation),
            client_address: state.client_address.clone(),
            claims_refused: state.claims_refused.iter().map(|(name, count)| (String::from(*name), *count)).collect(),
            queued_messages,
            queued_bytes,
        }
    }
}

impl State {
    fn close_outbound(&self) {
        if let Some(socket) = &self.outbound {
            socket.end();
        }
    }

    fn address(&self) -> String {
        let heard = self.heard_address.as_ref().filter(|_| self.address.is_empty());
        heard.unwrap_or(&self.address).clone()
    }
}
