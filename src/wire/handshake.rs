//! What two servers tell each other before any message: who they are, and why not.

use super::body::view;
use super::{EncodeError, FrameError, kind, write};
use crate::types::{ClusterId, NodeId};
use pack_io::{DeserializeView, Encoder, Serialize};
use std::string::{String, ToString};
use thiserror::Error;

/// The longest address that a server advertises to clients, in bytes.
pub const CLIENT_ADDRESS_BYTES_MAX: usize = 256;

/// Begins the body of a hello, so that a stray client of another protocol is told apart.
const MAGIC: [u8; 8] = *b"raft-io\0";

/// The first frame of a connection, from the server that opened it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Hello {
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// Who it is.
    pub from: NodeId,
    /// Whom it wants to speak to.
    pub to: NodeId,
    /// Of its data directory: the high 32 bits were drawn at random when that was created, the low 32 count how often it was
    /// opened. Another random number for the same id, or a smaller count, means that the server lost state. 0: it keeps none.
    pub incarnation: u64,
    /// The lowest protocol version that it speaks.
    pub version_first: u8,
    /// The highest protocol version that it speaks.
    pub version_last: u8,
    /// The largest frame that it accepts, in bytes.
    pub frame_bytes_max: u32,
    /// Where clients reach it, if it says so; at most [`CLIENT_ADDRESS_BYTES_MAX`] bytes.
    pub client_address: Option<String>,
    /// Where peers reach it, `HOST:PORT`, if it says so; at most [`CLIENT_ADDRESS_BYTES_MAX`] bytes. An unspecified host
    /// means the one that the connection comes from.
    pub peer_address: Option<String>,
    /// What it opened the connection for. The versions above are those of that.
    pub purpose: Purpose,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[non_exhaustive]
pub enum Purpose {
    /// Messages, from the server that opened it.
    #[default]
    Messages,
    /// Chunks of snapshots, to the server that opened it and asks for them.
    Snapshots,
    /// Something that a newer version does.
    Other {
        /// Its code.
        code: u8,
    },
}

impl Purpose {
    const fn code(self) -> u8 {
        match self {
            Self::Messages => 0,
            Self::Snapshots => 1,
            Self::Other { code } => code,
        }
    }

    const fn of(code: u8) -> Self {
        match code {
            0 => Self::Messages,
            1 => Self::Snapshots,
            code => Self::Other { code },
        }
    }
}

/// The answer that lets messages flow.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Welcome {
    /// Who answers.
    pub from: NodeId,
    /// Its incarnation, as in [`Hello::incarnation`].
    pub incarnation: u64,
    /// The protocol version of the messages on this connection.
    pub version: u8,
    /// The largest frame that it accepts, in bytes.
    pub frame_bytes_max: u32,
    /// Where clients reach it, if it says so; at most [`CLIENT_ADDRESS_BYTES_MAX`] bytes.
    pub client_address: Option<String>,
}

/// Why a server refuses a connection; it closes it after saying so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The hello names another cluster.
    #[error("this server belongs to cluster {cluster}")]
    ForeignCluster {
        /// The cluster of the server that refuses.
        cluster: ClusterId,
    },
    /// The hello is for another server: an address list is wrong.
    #[error("this server is node {id}")]
    WrongReceiver {
        /// The id of the server that refuses.
        id: NodeId,
    },
    /// The sender is none of the peers of the server that refuses.
    #[error("the sender is not a member of the cluster")]
    UnknownSender,
    /// The sender claims the id of the server that refuses: two servers were given one id.
    #[error("the sender claims this server's own id")]
    OwnId,
    /// No protocol version in common.
    #[error("this server speaks the protocol versions {first} to {last}")]
    Version {
        /// The lowest that the server that refuses speaks.
        first: u8,
        /// The highest.
        last: u8,
    },
    /// A field of the hello is not acceptable, such as a frame limit below the handshake's own.
    #[error("a field of the handshake is not acceptable")]
    Unacceptable,
    /// The sender's data directory is not the one that it had under its id: it was wiped or replaced. It may have forgotten
    /// votes and entries that it acknowledged, and is never let in again under this id.
    #[error(
        "the sender's data directory is not the one it had: it was wiped or replaced, and may have forgotten votes and \
         acknowledged entries; remove its id from the cluster, and add the server under a new id"
    )]
    OtherData,
    /// The sender's data directory was opened less often than the one that was seen under its id: it is a copy, or was
    /// rolled back.
    #[error(
        "the sender's data directory is an older copy of the one it had: it was cloned or rolled back, and may have \
         forgotten votes and acknowledged entries; stop it, remove its id from the cluster, and add the server under a new id"
    )]
    OlderData,
    /// The server is shutting down.
    #[error("this server is shutting down")]
    ShuttingDown,
    /// A reason that a newer version gives.
    #[error("reason {code}, which this version does not know")]
    Other {
        /// Its code.
        code: u16,
    },
}

impl Refusal {
    /// A short name, for counters.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::ForeignCluster { .. } => "foreign_cluster",
            Self::WrongReceiver { .. } => "wrong_receiver",
            Self::UnknownSender => "unknown_sender",
            Self::OwnId => "own_id",
            Self::Version { .. } => "version",
            Self::Unacceptable => "unacceptable",
            Self::ShuttingDown => "shutting_down",
            Self::OtherData => "other_data",
            Self::OlderData => "older_data",
            Self::Other { .. } => "other",
        }
    }
}

/// What a server says that opens a connection for messages: the first version, so that its bytes are the
/// same as ever.
#[derive(Serialize)]
#[pack_io(version = 1)]
struct MessagesHelloBody<'a> {
    magic: [u8; 8],
    cluster: u64,
    from: u64,
    to: u64,
    incarnation: u64,
    version_first: u8,
    version_last: u8,
    frame_bytes_max: u32,
    client_address: Option<&'a str>,
}

/// What a server says that tells no address for its peers.
#[derive(Serialize)]
#[pack_io(version = 2)]
struct UnaddressedHelloBody<'a> {
    magic: [u8; 8],
    cluster: u64,
    from: u64,
    to: u64,
    incarnation: u64,
    version_first: u8,
    version_last: u8,
    frame_bytes_max: u32,
    client_address: Option<&'a str>,
    #[pack_io(since = 2)]
    purpose: u8,
}

#[derive(Serialize, DeserializeView)]
#[pack_io(version = 3)]
struct HelloBody<'a> {
    magic: [u8; 8],
    cluster: u64,
    from: u64,
    to: u64,
    incarnation: u64,
    version_first: u8,
    version_last: u8,
    frame_bytes_max: u32,
    client_address: Option<&'a str>,
    #[pack_io(since = 2)]
    purpose: u8,
    #[pack_io(since = 3)]
    peer_address: Option<&'a str>,
}

#[derive(Serialize, DeserializeView)]
#[pack_io(version = 1)]
struct WelcomeBody<'a> {
    from: u64,
    incarnation: u64,
    version: u8,
    frame_bytes_max: u32,
    client_address: Option<&'a str>,
}

/// `detail` is the cluster, the id, or `first | last << 8`, by code.
#[derive(Serialize, DeserializeView)]
#[pack_io(version = 1)]
struct RefusalBody {
    code: u16,
    detail: u64,
}

pub(super) fn encode_hello(hello: &Hello, encoder: &mut Encoder) -> Result<(), EncodeError> {
    let Hello { cluster, from, to, incarnation, version_first, version_last, frame_bytes_max, .. } = *hello;
    let (magic, cluster, from, to) = (MAGIC, cluster.0, from.0, to.0);
    let client_address = short("client_address", hello.client_address.as_deref())?;
    let peer_address = short("peer_address", hello.peer_address.as_deref())?;
    match (hello.purpose.code(), peer_address) {
        (0, None) => write(
            encoder,
            &MessagesHelloBody {
                magic,
                cluster,
                from,
                to,
                incarnation,
                version_first,
                version_last,
                frame_bytes_max,
                client_address,
            },
        ),
        (purpose, None) => write(
            encoder,
            &UnaddressedHelloBody {
                magic,
                cluster,
                from,
                to,
                incarnation,
                version_first,
                version_last,
                frame_bytes_max,
                client_address,
                purpose,
            },
        ),
        (purpose, peer_address) => write(
            encoder,
            &HelloBody {
                magic,
                cluster,
                from,
                to,
                incarnation,
                version_first,
                version_last,
                frame_bytes_max,
                client_address,
                purpose,
                peer_address,
            },
        ),
    }
}

pub(super) fn encode_welcome(welcome: &Welcome, encoder: &mut Encoder) -> Result<(), EncodeError> {
    let body = WelcomeBody {
        from: welcome.from.0,
        incarnation: welcome.incarnation,
        version: welcome.version,
        frame_bytes_max: welcome.frame_bytes_max,
        client_address: short("client_address", welcome.client_address.as_deref())?,
    };
    write(encoder, &body)
}

pub(super) fn encode_refusal(refusal: &Refusal, encoder: &mut Encoder) -> Result<(), EncodeError> {
    let (code, detail) = match *refusal {
        Refusal::ForeignCluster { cluster } => (1, cluster.0),
        Refusal::WrongReceiver { id } => (2, id.0),
        Refusal::UnknownSender => (3, 0),
        Refusal::OwnId => (4, 0),
        Refusal::Version { first, last } => (5, u64::from(first) | u64::from(last) << 8),
        Refusal::Unacceptable => (6, 0),
        Refusal::ShuttingDown => (7, 0),
        Refusal::OtherData => (8, 0),
        Refusal::OlderData => (9, 0),
        Refusal::Other { code } => (code, 0),
    };
    write(encoder, &RefusalBody { code, detail })
}

pub(super) fn decode_hello(body: &[u8]) -> Result<Hello, FrameError> {
    let hello: HelloBody<'_> = view(kind::HELLO, body)?;
    if hello.magic != MAGIC {
        return Err(FrameError::Body { kind: kind::HELLO, what: "not the magic of raft-io" });
    }
    Ok(Hello {
        cluster: ClusterId(hello.cluster),
        from: NodeId(hello.from),
        to: NodeId(hello.to),
        incarnation: hello.incarnation,
        version_first: hello.version_first,
        version_last: hello.version_last,
        frame_bytes_max: hello.frame_bytes_max,
        client_address: address(kind::HELLO, hello.client_address)?,
        peer_address: address(kind::HELLO, hello.peer_address)?,
        purpose: Purpose::of(hello.purpose),
    })
}

pub(super) fn decode_welcome(body: &[u8]) -> Result<Welcome, FrameError> {
    let welcome: WelcomeBody<'_> = view(kind::WELCOME, body)?;
    Ok(Welcome {
        from: NodeId(welcome.from),
        incarnation: welcome.incarnation,
        version: welcome.version,
        frame_bytes_max: welcome.frame_bytes_max,
        client_address: address(kind::WELCOME, welcome.client_address)?,
    })
}

pub(super) fn decode_refusal(body: &[u8]) -> Result<Refusal, FrameError> {
    let RefusalBody { code, detail } = view(kind::REFUSAL, body)?;
    Ok(match code {
        1 => Refusal::ForeignCluster { cluster: ClusterId(detail) },
        2 => Refusal::WrongReceiver { id: NodeId(detail) },
        3 => Refusal::UnknownSender,
        4 => Refusal::OwnId,
        5 => {
            let [first, last, ..] = detail.to_le_bytes();
            Refusal::Version { first, last }
        }
        6 => Refusal::Unacceptable,
        7 => Refusal::ShuttingDown,
        8 => Refusal::OtherData,
        9 => Refusal::OlderData,
        code => Refusal::Other { code },
    })
}

fn short<'a>(field: &'static str, address: Option<&'a str>) -> Result<Option<&'a str>, EncodeError> {
    match address {
        Some(address) if address.len() > CLIENT_ADDRESS_BYTES_MAX => Err(EncodeError::Field { field }),
        address => Ok(address),
    }
}

/// An address ends up in logs and in replies to clients: no control characters.
fn address(kind: u16, address: Option<&str>) -> Result<Option<String>, FrameError> {
    match address {
        Some(address) if address.len() > CLIENT_ADDRESS_BYTES_MAX || address.chars().any(char::is_control) => {
            Err(FrameError::Body { kind, what: "an address is too long or not printable" })
        }
        address => Ok(address.map(ToString::to_string)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// A hello as 0.4.0 reads it, which knows neither purposes nor addresses of peers.
    #[derive(DeserializeView)]
    #[pack_io(version = 1)]
    struct HelloOfBefore<'a> {
        magic: [u8; 8],
        cluster: u64,
        from: u64,
        to: u64,
        incarnation: u64,
        version_first: u8,
        version_last: u8,
        frame_bytes_max: u32,
        client_address: Option<&'a str>,
    }

    #[test]
    fn an_older_server_skips_the_address_of_a_peer() {
        let hello = Hello {
            cluster: ClusterId(7),
            from: NodeId(1),
            to: NodeId(2),
            incarnation: 3,
            version_first: 1,
            version_last: 1,
            frame_bytes_max: 4096,
            client_address: Some("client:1".to_string()),
            peer_address: Some("peer:1".to_string()),
            purpose: Purpose::Messages,
        };
        let mut encoder = Encoder::new();
        encode_hello(&hello, &mut encoder).unwrap();
        let body: Vec<u8> = encoder.into_inner();
        assert_eq!(decode_hello(&body), Ok(hello));
        let read: HelloOfBefore<'_> = view(kind::HELLO, &body).unwrap();
        assert_eq!((read.magic, read.cluster, read.from, read.to), (MAGIC, 7, 1, 2));
        assert_eq!((read.incarnation, read.version_first, read.version_last), (3, 1, 1));
        assert_eq!((read.frame_bytes_max, read.client_address), (4096, Some("client:1")));
    }
}
