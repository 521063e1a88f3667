//! Who is a peer: as configured, as the cluster's configuration says, or because it came by itself.

use super::config::{TcpConfig, TransportError};
use super::events::TransportEvent;
use super::peer::Peer;
use super::{Shared, Start};
use crate::transport::address::normalise;
use crate::transport::{AddressError, same_address};
use crate::types::NodeId;
use crate::wire::{Hello, Purpose};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::string::{String, ToString};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::vec::Vec;

/// The most guests at a time: each has a thread that answers it. One more takes the place of one that is gone.
const GUESTS_MAX: usize = 32;

pub(super) fn peer(config: &TcpConfig, id: NodeId, address: String) -> Peer {
    Peer::new(id, address, config.queue_messages_max, config.queue_bytes_max)
}

impl Shared {
    /// Where peers find this server.
    pub(super) fn peer_address(&self) -> String {
        self.config.peer_address.clone().unwrap_or_else(|| self.local_address.to_string())
    }

    /// As the addresses of a configuration are checked: it can be one, and is nobody else's.
    pub(super) fn check_new_address(&self, id: NodeId, address: &str) -> Result<(), TransportError> {
        let refused = |reason| TransportError::Address { peer: id, address: address.to_string(), reason };
        normalise(address).map_err(refused)?;
        if self.config.shared_addresses {
            return Ok(());
        }
        if same_address(address, &self.peer_address()) {
            return Err(refused(AddressError::Own));
        }
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        let other =
            peers.values().find(|peer| peer.id != id && !peer.is_guest() && same_address(&peer.address(), address));
        match other {
            Some(other) => Err(TransportError::SharedAddress { peers: [other.id, id], address: address.to_string() }),
            None => Ok(()),
        }
    }

    /// A peer's name led to this address. Where another peer's did too, one of the two is not found, whatever the texts say.
    pub(super) fn note_place(&self, peer: &Peer, place: Option<SocketAddr>) {
        peer.set_place(place);
        let Some(address) = place.filter(|_| !self.config.shared_addresses) else { return };
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        let others: Vec<NodeId> = peers
            .values()
            .filter(|other| other.id != peer.id && other.place() == place)
            .map(|other| other.id)
            .collect();
        drop(peers);
        for other in others {
            let pair = [peer.id.min(other), peer.id.max(other)];
            if self.same_place.lock().unwrap_or_else(PoisonError::into_inner).insert(pair) {
                self.monitor.report(&TransportEvent::SamePlace { peers: pair, address });
            }
        }
    }

    /// Changes where a peer is to be found, or adds one. Start and this must not both start the thread of a new peer, nor
    /// neither.
    pub(super) fn set_address(self: &Arc<Self>, start: &MutexGuard<'_, Start>, id: NodeId, address: String) {
        match self.peer(id) {
            Some(peer) => peer.set_address(address),
            None => drop(self.add(start, id, address)),
        }
    }

    /// A peer without a thread is none: where the system starts no more, the next word of its membership, or its next hello,
    /// tries again.
    fn add(self: &Arc<Self>, start: &MutexGuard<'_, Start>, id: NodeId, address: String) -> Option<Arc<Peer>> {
        let peer = Arc::new(peer(&self.config, id, address));
        if matches!(**start, Start::Running) {
            if let Err(error) = self.spawn_peer(&peer) {
                self.monitor.report(&TransportEvent::NoThread { peer: id, error });
                return None;
            }
        }
        self.peers.write().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::clone(&peer));
        Some(peer)
    }

    /// The cluster has these members. As long as nobody is known to be one, peers are those that were configured.
    pub(super) fn set_members(self: &Arc<Self>, members: &BTreeMap<NodeId, Option<String>>) {
        if members.is_empty() || self.is_closed() {
            return;
        }
        let start = self.start();
        for (&id, address) in members.iter().filter(|(id, _)| **id != self.config.id) {
            if let Some(address) = address {
                self.set_address(&start, id, address.clone());
            }
        }
        let mut parted = Vec::new();
        self.peers.write().unwrap_or_else(PoisonError::into_inner).retain(|id, peer| {
            let is_member = members.contains_key(id);
            if is_member {
                peer.set_member();
            }
            let stays = is_member || peer.is_guest();
            if !stays {
                parted.push(Arc::clone(peer));
            }
            stays
        });
        drop(start);
        parted.iter().for_each(|peer| self.part_with(peer));
    }

    fn part_with(&self, peer: &Peer) {
        self.count_disconnected(peer.shutdown());
    }

    /// Who says hello, if it is a peer or can be answered all the same. Guests get no snapshots: those are for who is known to
    /// need one.
    pub(super) fn peer_or_guest(self: &Arc<Self>, hello: &Hello, from: SocketAddr) -> Option<Arc<Peer>> {
        let address = hello.peer_address.as_ref().map(|address| seen_from(address, from));
        if hello.purpose == Purpose::Snapshots {
            return self.peer(hello.from).filter(|peer| !peer.is_guest());
        }
        if let Some(peer) = self.peer(hello.from) {
            peer.hear_address(address);
            return Some(peer);
        }
        let address = address?;
        let start = self.start();
        if !matches!(*start, Start::Running) {
            return None;
        }
        // It may have come twice at the same time.
        let peer = match self.peer(hello.from) {
            Some(peer) => peer,
            None => {
                self.make_room()?;
                self.add(&start, hello.from, String::new())?
            }
        };
        peer.hear_address(Some(address));
        Some(peer)
    }

    /// Parts with a guest that is gone, if there are too many. Without one there is no room.
    fn make_room(&self) -> Option<()> {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        let guests: Vec<_> = peers.values().filter(|peer| peer.is_guest()).cloned().collect();
        if guests.len() < GUESTS_MAX {
            return Some(());
        }
        let gone = guests.into_iter().find(|peer| !peer.is_present())?;
        peers.remove(&gone.id);
        drop(peers);
        self.part_with(&gone);
        Some(())
    }
}

/// Who listens on every address of its own is reached at the one that it comes from.
fn seen_from(address: &str, from: SocketAddr) -> String {
    match address.parse::<SocketAddr>() {
        Ok(listens) if listens.ip().is_unspecified() => SocketAddr::new(from.ip(), listens.port()).to_string(),
        _ => address.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unspecified_host_is_the_one_that_the_connection_comes_from() {
        let from = "10.0.0.7:50123".parse().unwrap();
        assert_eq!(seen_from("0.0.0.0:7000", from), "10.0.0.7:7000");
        assert_eq!(seen_from("[::]:7000", "[fe80::1]:50123".parse().unwrap()), "[fe80::1]:7000");
        assert_eq!(seen_from("10.0.0.9:7000", from), "10.0.0.9:7000");
        assert_eq!(seen_from("db-7:7000", from), "db-7:7000");
    }
}
