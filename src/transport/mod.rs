//! How messages travel between servers.

mod memory;
#[cfg(feature = "tcp")]
pub mod tcp;

use crate::message::Envelope;
use crate::types::{GroupId, NodeId};
use std::string::String;
use std::sync::Arc;

/// What a transport delivers to. The driver implements it.
pub trait Receiver: Send + Sync + 'static {
    /// A message arrived from a server that the transport has identified. Called from the
    /// transport's threads; returns quickly.
    fn receive(&self, group: GroupId, envelope: Envelope);
}

/// Carries messages between servers. Loss, duplication and reordering are allowed, invention and
/// corruption are not: `envelope.from` of a delivered message is the server that sent it.
pub trait RaftTransport: Send + Sync + 'static {
    /// Begins to deliver. Called once, before the first send.
    fn start(&self, receiver: Arc<dyn Receiver>);

    /// Sends a message to `envelope.to`. Never blocks; drops the message when the way is closed or
    /// its queue full.
    fn send(&self, group: GroupId, envelope: Envelope);

    /// What `peer` advertises to clients, learnt from its handshake; `None` until connected.
    fn client_address(&self, peer: NodeId) -> Option<String> {
        let _ = peer;
        None
    }

    /// Stops delivering and joins the transport's threads. Later sends are dropped.
    fn shutdown(&self);
}
