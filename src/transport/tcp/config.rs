//! What a TCP transport needs to know before it binds.

use super::events::{EventHandler, TransportEvent};
use super::identity::IdentitiesPlace;
use super::resolve::Resolver;
#[cfg(feature = "persistence")]
use crate::directory::Directory;
use crate::transport::address::normalise;
use crate::transport::{AddressError, same_address};
use crate::types::{ClusterId, NodeId};
use crate::wire::{CLIENT_ADDRESS_BYTES_MAX, CONTROL_FRAME_BYTES_MAX};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::string::String;
use std::sync::Arc;
use std::time::Duration;
use std::vec::Vec;
use thiserror::Error;

/// The configuration of a [`TcpTransport`](super::TcpTransport). [`TcpConfig::new`] sets defaults
/// that suit a cluster in one data centre.
#[derive(Clone)]
#[non_exhaustive]
pub struct TcpConfig {
    /// The cluster that this server belongs to; others are refused.
    pub cluster: ClusterId,
    /// This server.
    pub id: NodeId,
    /// Where to listen for peers, `HOST:PORT`; port 0 picks a free one.
    pub listen: String,
    /// The other servers' addresses, `HOST:PORT`, resolved anew at every connect. This server's
    /// own id may be among them and is ignored. What the cluster's configuration says of its members prevails.
    pub peers: BTreeMap<NodeId, String>,
    /// Whether several servers may have one address: something between them tells by other means who is meant. Default
    /// false: a peer at this server's own address, and two peers at one, are mistakes and are refused.
    pub shared_addresses: bool,
    /// Where clients reach this server, told to every peer. At most 256 bytes.
    pub client_address: Option<String>,
    /// Where peers reach this server, `HOST:PORT`, told to those that it connects to, for one that has not heard of this
    /// server, or knows it at another place, answers there. At most 256 bytes. Default: where it listens.
    pub peer_address: Option<String>,
    /// Identifies this server's data directory and how often it was opened: what `WalLog::incarnation` says. Default 0: what
    /// the log says that the driver introduces, or a server that keeps no data.
    pub incarnation: u64,
    /// Where to remember the peers' incarnations, so that one that lost its data is refused; a file in this server's data
    /// directory. Default none: the log remembers them if it can, as `WalLog` does; otherwise they are remembered while the
    /// transport lives. With such a log, what the file holds is read, and goes on in the log's directory.
    pub identities: Option<PathBuf>,
    /// The largest frame to accept, in bytes; frames beyond what a *peer* accepts are not sent to
    /// it. The entries of one message get all of it but 1 KiB, and one of them for each 64 bytes: a node does not start
    /// with a `command_bytes_max` (plus 16) or an `append_bytes_max` that does not fit, nor with less than 64 KiB, which
    /// any membership fits into. The same on every server. Default 16 MiB.
    pub frame_bytes_max: usize,
    /// The most messages that wait for one peer. Default 4096.
    pub queue_messages_max: usize,
    /// The most bytes that wait for one peer, though one message of any size. Default 64 MiB.
    pub queue_bytes_max: usize,
    /// How long a connection attempt to one address may take, and how long it waits for the lookup of a name. Default 1 s.
    pub connect_timeout: Duration,
    /// How long a handshake may take as a whole, on either side. Default 2 s.
    pub handshake_timeout: Duration,
    /// How often a connection is probed, busy or not. Default 1 s.
    pub ping_interval: Duration,
    /// A connection on which nothing came back for this long is dead. At least twice
    /// `ping_interval`. Default 4 s.
    pub silence_max: Duration,
    /// The first pause after a failed connection attempt; each further one is twice as long, and
    /// each is drawn from the upper half of its length. Default 50 ms.
    pub backoff_first: Duration,
    /// The longest pause between attempts. Default 2 s.
    pub backoff_last: Duration,
    /// The most inbound connections that are in their handshake at a time. One more displaces the
    /// oldest. Default 64.
    pub handshakes_max: usize,
    #[cfg(feature = "persistence")]
    identities_in: Option<(Arc<dyn Directory>, String)>,
    on_event: Option<EventHandler>,
    pub(super) resolver: Resolver,
}

impl TcpConfig {
    /// A server with its address and no peers yet.
    pub fn new(cluster: impl Into<ClusterId>, id: impl Into<NodeId>, listen: impl Into<String>) -> Self {
        Self {
            cluster: cluster.into(),
            id: id.into(),
            listen: listen.into(),
            peers: BTreeMap::new(),
            shared_addresses: false,
            client_address: None,
            peer_address: None,
            incarnation: 0,
            identities: None,
            frame_bytes_max: 16 << 20,
            queue_messages_max: 4096,
            queue_bytes_max: 64 << 20,
            connect_timeout: Duration::from_secs(1),
            handshake_timeout: Duration::from_secs(2),
            ping_interval: Duration::from_secs(1),
            silence_max: Duration::from_secs(4),
            backoff_first: Duration::from_millis(50),
            backoff_last: Duration::from_secs(2),
            handshakes_max: 64,
            #[cfg(feature = "persistence")]
            identities_in: None,
            on_event: None,
            resolver: Resolver::of_the_machine(),
        }
    }

    /// Adds a peer, or changes its address.
    #[must_use]
    pub fn peer(mut self, id: impl Into<NodeId>, address: impl Into<String>) -> Self {
        self.peers.insert(id.into(), address.into());
        self
    }

    /// Sets [`TcpConfig::client_address`].
    #[must_use]
    pub fn client_address(mut self, address: impl Into<String>) -> Self {
        self.client_address = Some(address.into());
        self
    }

    /// Sets [`TcpConfig::peer_address`].
    #[must_use]
    pub fn peer_address(mut self, address: impl Into<String>) -> Self {
        self.peer_address = Some(address.into());
        self
    }

    /// Sets [`TcpConfig::incarnation`].
    #[must_use]
    pub fn incarnation(mut self, incarnation: u64) -> Self {
        self.incarnation = incarnation;
        self
    }

    /// Sets [`TcpConfig::identities`].
    #[must_use]
    pub fn identities(mut self, file: impl Into<PathBuf>) -> Self {
        self.identities = Some(file.into());
        self
    }

    /// As [`TcpConfig::identities`], in a file of this directory: a disk in memory, or one that fails on demand.
    #[cfg(feature = "persistence")]
    #[must_use]
    pub fn identities_in(mut self, directory: Arc<dyn Directory>, name: impl Into<String>) -> Self {
        self.identities_in = Some((directory, name.into()));
        self
    }

    pub(super) fn identities_place(&self) -> Option<IdentitiesPlace> {
        #[cfg(feature = "persistence")]
        if let Some((directory, name)) = self.identities_in.clone() {
            return Some(IdentitiesPlace::In(directory, name));
        }
        self.identities.clone().map(IdentitiesPlace::Path)
    }

    /// Calls `handler` on what an operator may want to see: connections made, lost, refused. It
    /// runs on the transport's threads and must return quickly; what strangers can cause is
    /// reported at most a few times per second.
    #[must_use]
    pub fn on_event(mut self, handler: impl Fn(&TransportEvent) + Send + Sync + 'static) -> Self {
        self.on_event = Some(Arc::new(handler));
        self
    }

    /// Finds the addresses of peers by `lookup` instead of the machine's resolver. It gets `HOST:PORT` as configured, at
    /// each connect, unless that is an address already. It runs on a thread of its own: a connection attempt waits for it
    /// at most for [`TcpConfig::connect_timeout`], and fails if it panics.
    #[must_use]
    pub fn resolver(mut self, lookup: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static) -> Self {
        self.resolver = Resolver::new(lookup);
        self
    }

    pub(super) fn event_handler(&self) -> Option<EventHandler> {
        self.on_event.clone()
    }

    pub(super) fn validate(&self) -> Result<(), TransportError> {
        let invalid = |field, rule| Err(TransportError::Config { field, rule });
        self.check_addresses()?;
        if !is_advertisable(self.client_address.as_deref()) {
            return invalid("client_address", "must have at most 256 bytes and no control characters");
        }
        if !is_advertisable(self.peer_address.as_deref()) {
            return invalid("peer_address", "must have at most 256 bytes and no control characters");
        }
        if self.frame_bytes_max < CONTROL_FRAME_BYTES_MAX || u32::try_from(self.frame_bytes_max).is_err() {
            return invalid("frame_bytes_max", "must be at least 1024 and below 4 GiB");
        }
        if self.queue_messages_max == 0 || self.handshakes_max == 0 {
            return invalid("queue_messages_max, handshakes_max", "must be at least 1");
        }
        let durations = [
            self.connect_timeout,
            self.handshake_timeout,
            self.ping_interval,
            self.silence_max,
            self.backoff_first,
            self.backoff_last,
        ];
        if durations.iter().any(|duration| *duration < Duration::from_millis(1)) {
            return invalid("timeouts and intervals", "must be at least 1 ms each");
        }
        if self.silence_max < self.ping_interval.saturating_mul(2) {
            return invalid("silence_max", "must be at least twice ping_interval");
        }
        Ok(())
    }
}

impl TcpConfig {
    /// Each peer's address can be one, and is nobody else's.
    fn check_addresses(&self) -> Result<(), TransportError> {
        let refused = |(id, address): (NodeId, &String), reason| {
            Err(TransportError::Address { peer: id, address: address.clone(), reason })
        };
        let peers: Vec<_> = self.peers.iter().map(|(id, address)| (*id, address)).collect();
        let others: Vec<_> = peers.into_iter().filter(|(id, _)| *id != self.id).collect();
        let own = self.peer_address.as_ref().unwrap_or(&self.listen);
        for (position, peer) in others.iter().enumerate() {
            if let Err(reason) = normalise(peer.1) {
                return refused(*peer, reason);
            }
            if self.shared_addresses {
                continue;
            }
            if same_address(peer.1, own) {
                return refused(*peer, AddressError::Own);
            }
            if let Some((first, _)) = others[..position].iter().find(|(_, address)| same_address(address, peer.1)) {
                let (peers, address) = ([*first, peer.0], peer.1.clone());
                return Err(TransportError::SharedAddress { peers, address });
            }
        }
        Ok(())
    }
}

fn is_advertisable(address: Option<&str>) -> bool {
    address.is_none_or(|text| text.len() <= CLIENT_ADDRESS_BYTES_MAX && !text.chars().any(char::is_control))
}

impl fmt::Debug for TcpConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpConfig")
            .field("cluster", &self.cluster)
            .field("id", &self.id)
            .field("listen", &self.listen)
            .field("peers", &self.peers)
            .field("client_address", &self.client_address)
            .field("peer_address", &self.peer_address)
            .field("incarnation", &self.incarnation)
            .field("identities", &self.identities)
            .finish_non_exhaustive()
    }
}

/// Why a transport could not be set up, or a peer's address not be changed. Nothing was bound, or changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The address to listen on cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address as configured.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// What is remembered of the peers cannot be read. A damaged file is not replaced: what it said may be what keeps a
    /// wiped server out.
    #[error("cannot read who the peers are from {}: {source}", file.display())]
    Identities {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// A peer cannot be found at its address.
    #[error("node {peer} cannot be found at \"{address}\": {reason}")]
    Address {
        /// The peer.
        peer: NodeId,
        /// Its address as configured.
        address: String,
        /// What is wrong with it.
        reason: AddressError,
    },
    /// Two peers have one address. If that is meant, [`TcpConfig::shared_addresses`] says so.
    #[error("nodes {} and {} are both at {address}; give each its own address, or set shared_addresses", peers[0], peers[1])]
    SharedAddress {
        /// The two.
        peers: [NodeId; 2],
        /// The address, as it is configured for the second.
        address: String,
    },
    /// A field of the configuration breaks its rule.
    #[error("invalid transport configuration: {field} {rule}")]
    Config {
        /// The field.
        field: &'static str,
        /// The rule that it breaks.
        rule: &'static str,
    },
}
