//! What two servers tell each other before any message: who they are, and why not.

use super::body::view;
use super::introduction::{
    Introduction, decode_lineage, decode_lives, decode_remembered, encode_lineage, encode_lives, encode_remembered,
};
use super::{EncodeError, FrameError, kind, write};
use crate::types::{ClusterId, NodeId};
use pack_io::{DeserializeView, Encoder, Serialize};
use std::string::{String, ToString};

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
    /// What it can do, the lives of its data directory, and what it remembers of the other.
    pub introduction: Introduction,
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
    /// As in [`Hello::introduction`].
    pub introduction: Introduction,
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

/// What a server says that keeps no data.
#[derive(Serialize)]
#[pack_io(version = 3)]
struct AddressedHelloBody<'a> {
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

/// What a server says that has no history yet.
#[derive(Serialize)]
#[pack_io(version = 4)]
struct IntroducedHelloBody<'a> {
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
    #[pack_io(since = 4)]
    features: u64,
    #[pack_io(since = 4)]
    lives: &'a [u8],
    #[pack_io(since = 4)]
    remembered: &'a [u8],
}

#[derive(Serialize, DeserializeView)]
#[pack_io(version = 5)]
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
    #[pack_io(since = 4)]
    features: u64,
    #[pack_io(since = 4)]
    lives: &'a [u8],
    #[pack_io(since = 4)]
    remembered: &'a [u8],
    #[pack_io(since = 5)]
    history: &'a [u8],
}

/// What a server answers that keeps no data.
#[derive(Serialize)]
#[pack_io(version = 1)]
struct UnintroducedWelcomeBody<'a> {
    from: u64,
    incarnation: u64,
    version: u8,
    frame_bytes_max: u32,
    client_address: Option<&'a str>,
}

/// What a server answers that has no history yet.
#[derive(Serialize)]
#[pack_io(version = 2)]
struct IntroducedWelcomeBody<'a> {
    from: u64,
    incarnation: u64,
    version: u8,
    frame_bytes_max: u32,
    client_address: Option<&'a str>,
    #[pack_io(since = 2)]
    features: u64,
    #[pack_io(since = 2)]
    lives: &'a [u8],
    #[pack_io(since = 2)]
    remembered: &'a [u8],
}

#[derive(Serialize, DeserializeView)]
#[pack_io(version = 3)]
struct WelcomeBody<'a> {
    from: u64,
    incarnation: u64,
    version: u8,
    frame_bytes_max: u32,
    client_address: Option<&'a str>,
    #[pack_io(since = 2)]
    features: u64,
    #[pack_io(since = 2)]
    lives: &'a [u8],
    #[pack_io(since = 2)]
    remembered: &'a [u8],
    #[pack_io(since = 3)]
    history: &'a [u8],
}

impl<'a> IntroducedHelloBody<'a> {
    fn with_history(self, history: &'a [u8]) -> HelloBody<'a> {
        HelloBody {
            magic: self.magic,
            cluster: self.cluster,
            from: self.from,
            to: self.to,
            incarnation: self.incarnation,
            version_first: self.version_first,
            version_last: self.version_last,
            frame_bytes_max: self.frame_bytes_max,
            client_address: self.client_address,
            purpose: self.purpose,
            peer_address: self.peer_address,
            features: self.features,
            lives: self.lives,
            remembered: self.remembered,
            history,
        }
    }
}

pub(super) fn encode_hello(hello: &Hello, encoder: &mut Encoder) -> Result<(), EncodeError> {
    let Hello { cluster, from, to, incarnation, version_first, version_last, frame_bytes_max, .. } = *hello;
    let (magic, cluster, from, to) = (MAGIC, cluster.0, from.0, to.0);
    let client_address = short("client_address", hello.client_address.as_deref())?;
    let peer_address = short("peer_address", hello.peer_address.as_deref())?;
    let Introduction { features, lives, remembered, history } = &hello.introduction;
    if !hello.introduction.is_empty() {
        let (lives, remembered) = (encode_lives(lives)?, encode_remembered(remembered.as_ref())?);
        let body = IntroducedHelloBody {
            magic,
            cluster,
            from,
            to,
            incarnation,
            version_first,
            version_last,
            frame_bytes_max,
            client_address,
            purpose: hello.purpose.code(),
            peer_address,
            features: *features,
            lives: &lives,
            remembered: &remembered,
        };
        return match history {
            None => write(encoder, &body),
            Some(history) => write(encoder, &body.with_history(&encode_lineage(Some(history))?)),
        };
    }
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
            &AddressedHelloBody {
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
    let Welcome { from, incarnation, version, frame_bytes_max, .. } = *welcome;
    let client_address = short("client_address", welcome.client_address.as_deref())?;
    if welcome.introduction.is_empty() {
        let body = UnintroducedWelcomeBody { from: from.0, incarnation, version, frame_bytes_max, client_address };
        return write(encoder, &body);
    }
    let Introduction { features, lives, remembered, history } = &welcome.introduction;
    let (lives, remembered) = (&encode_lives(lives)?[..], &encode_remembered(remembered.as_ref())?[..]);
    let (from, features) = (from.0, *features);
    match encode_lineage(history.as_ref())?.as_slice() {
        [] => {
            let body = IntroducedWelcomeBody {
                from,
                incarnation,
                version,
                frame_bytes_max,
                client_address,
                features,
                lives,
                remembered,
            };
            write(encoder, &body)
        }
        history => {
            let body = WelcomeBody {
                from,
                incarnation,
                version,
                frame_bytes_max,
                client_address,
                features,
                lives,
                remembered,
                history,
            };
            write(encoder, &body)
        }
    }
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
        introduction: introduction(kind::HELLO, hello.features, (hello.lives, hello.remembered, hello.history))?,
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
        introduction: introduction(
            kind::WELCOME,
            welcome.features,
            (welcome.lives, welcome.remembered, welcome.history),
        )?,
    })
}

fn introduction(
    kind: u16,
    features: u64,
    (lives, remembered, history): (&[u8], &[u8], &[u8]),
) -> Result<Introduction, FrameError> {
    Ok(Introduction {
        features,
        lives: decode_lives(kind, lives)?,
        remembered: decode_remembered(kind, remembered)?,
        history: decode_lineage(kind, history)?,
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
    fn an_older_server_skips_what_came_later() {
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
            introduction: Introduction { features: u64::MAX, ..Introduction::default() },
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
