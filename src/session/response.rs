//! What a session keeps of a response.

use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;

/// A response of the state machine that a session can keep, count and store in a snapshot.
///
/// It must depend on the applied entries alone, as the state does: it becomes a part of it.
pub trait SessionResponse: Clone {
    /// Appends the response as bytes.
    fn encode(&self, out: &mut Vec<u8>);

    /// The response of these bytes; `None` if they are none. Never panics, whatever the bytes.
    fn decode(bytes: Bytes) -> Option<Self>;

    /// How many bytes [`SessionResponse::encode`] appends, exactly: this is what the limits count, so
    /// all replicas must count alike.
    fn encoded_len(&self) -> usize {
        let mut bytes = Vec::new();
        self.encode(&mut bytes);
        bytes.len()
    }
}

impl SessionResponse for () {
    fn encode(&self, _out: &mut Vec<u8>) {}

    fn decode(bytes: Bytes) -> Option<Self> {
        bytes.is_empty().then_some(())
    }
}

impl SessionResponse for u64 {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_le_bytes());
    }

    fn decode(bytes: Bytes) -> Option<Self> {
        Some(Self::from_le_bytes(bytes.as_ref().try_into().ok()?))
    }

    fn encoded_len(&self) -> usize {
        size_of::<Self>()
    }
}

impl SessionResponse for Bytes {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn decode(bytes: Bytes) -> Option<Self> {
        Some(bytes)
    }

    fn encoded_len(&self) -> usize {
        self.len()
    }
}

impl SessionResponse for Vec<u8> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn decode(bytes: Bytes) -> Option<Self> {
        Some(bytes.into())
    }

    fn encoded_len(&self) -> usize {
        self.len()
    }
}

impl SessionResponse for String {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }

    fn decode(bytes: Bytes) -> Option<Self> {
        Self::from_utf8(bytes.into()).ok()
    }

    fn encoded_len(&self) -> usize {
        self.len()
    }
}
