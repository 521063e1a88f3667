//! What both sides of a handshake say of themselves and of each other: features, lives, and what they remember.
//!
//! The lists are blocks of bytes within the versioned bodies, with a bound of their own, so that nothing of a hostile
//! block is allocated before it was found to be sound.

use super::body::view;
use super::{EncodeError, Frame, FrameError, kind, write};
use crate::history::{HistoryId, Lineage};
use crate::life::{Life, Lives, Remembered};
use crate::types::{EntryId, GroupId, HardState, NodeId, Term};
use pack_io::{Decode as _, Decoder, DeserializeView, Encode as _, Encoder, SerialError, Serialize, varint_len};
use std::num::NonZeroU64;
use std::vec::Vec;

/// A bit of [`Introduction::features`]: the server understands configurations that name a history.
pub const FEATURE_HISTORIES: u64 = 1;

/// The largest block of lives, in bytes: a hello with the longest addresses and sixteen ancestors must stay within a frame of
/// connection control.
/// About a dozen lives of usual numbers; at least three of any.
pub const LIVES_BYTES_MAX: usize = 180;

/// What a server says of itself, and of the other, on either side of a handshake.
///
/// A server of 0.6 says nothing of it, and skips it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Introduction {
    /// What the server can do beyond what the versions say, as bits: [`FEATURE_HISTORIES`]. Bits that are not known are
    /// ignored.
    pub features: u64,
    /// The newest lives of its data directory, ascending by count; at most as many as [`LIVES_BYTES_MAX`] has room for are sent.
    pub lives: Vec<Life>,
    /// What it remembers of the server that it speaks to, if it remembers any.
    pub remembered: Option<Remembered>,
    /// The history that its log belongs to, as far as that is committed; `None` of a server that has none yet, and of one that
    /// says nothing of it.
    pub history: Option<Lineage>,
}

impl Introduction {
    /// What says nothing, as before.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What a server says of itself that refuses another one. A server of 0.6 says nothing of it, and skips it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Refuser {
    /// As in [`Introduction::features`].
    pub features: u64,
    /// As in [`Introduction::history`].
    pub history: Option<Lineage>,
}

impl Refuser {
    /// What says nothing, as before.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn life_len(life: &Life) -> usize {
    let Life { count, id: _, hard_state: HardState { term, vote }, last } = life;
    let vote = vote.map_or(0, |vote| varint_len(vote.0));
    varint_len(*count) + 8 + varint_len(term.0) + 1 + vote + varint_len(last.index.0) + varint_len(last.term.0)
}

/// The newest lives, as many as there is room for.
pub(super) fn encode_lives(lives: &[Life]) -> Result<Vec<u8>, EncodeError> {
    let mut room = LIVES_BYTES_MAX;
    let fits = |life: &&Life| {
        let left = room.checked_sub(life_len(life));
        room = left.unwrap_or(0);
        left.is_some()
    };
    let count = lives.iter().rev().take_while(fits).count().min(Lives::KEPT_MAX);
    let mut encoder = Encoder::new();
    let encoded = lives[lives.len() - count..].iter().try_for_each(|life| encode_life(life, &mut encoder));
    encoded.map_err(|_| EncodeError::Field { field: "lives" })?;
    Ok(encoder.into_inner())
}

fn encode_life(life: &Life, encoder: &mut Encoder) -> pack_io::Result<()> {
    let Life { count, id, hard_state, last } = life;
    encoder.write_varint_u64(*count)?;
    encoder.write_bytes(&id.to_le_bytes())?;
    encoder.write_varint_u64(hard_state.term.0)?;
    encoder.write_byte(u8::from(hard_state.vote.is_some()))?;
    if let Some(vote) = hard_state.vote {
        encoder.write_varint_u64(vote.0)?;
    }
    encoder.write_varint_u64(last.index.0)?;
    encoder.write_varint_u64(last.term.0)
}

/// Lives that ascend by count, the first of them at least 1.
pub(super) fn decode_lives(kind: u16, bytes: &[u8]) -> Result<Vec<Life>, FrameError> {
    let body = |what| FrameError::Body { kind, what };
    if bytes.len() > LIVES_BYTES_MAX {
        return Err(body("a list of lives that is too long"));
    }
    let mut decoder = Decoder::new(bytes);
    let mut lives: Vec<Life> = Vec::new();
    while !decoder.is_empty() {
        let life = decode_life(&mut decoder).map_err(|_| body("a list of lives that ends in the middle of one"))?;
        let life = life.ok_or(body("a vote that is neither given nor not"))?;
        if life.count <= lives.last().map_or(0, |before| before.count) {
            return Err(body("lives that do not ascend"));
        }
        lives.push(life);
    }
    Ok(lives)
}

fn decode_life(decoder: &mut Decoder<'_>) -> Result<Option<Life>, SerialError> {
    let count = decoder.read_varint_u64()?;
    let id = decode_id(decoder)?;
    let term = Term(decoder.read_varint_u64()?);
    let vote = match decoder.read_byte()? {
        0 => None,
        1 => Some(NodeId(decoder.read_varint_u64()?)),
        _ => return Ok(None),
    };
    let (index, last_term) = (decoder.read_varint_u64()?, decoder.read_varint_u64()?);
    Ok(Some(Life { count, id, hard_state: HardState { term, vote }, last: EntryId::new(index, last_term) }))
}

fn decode_id(decoder: &mut Decoder<'_>) -> Result<u64, SerialError> {
    let mut id = [0; 8];
    for byte in &mut id {
        *byte = decoder.read_byte()?;
    }
    Ok(u64::from_le_bytes(id))
}

const HAS_LIFE: u8 = 1;
const HAS_VOTE: u8 = 2;

/// Nothing for a server that is not remembered.
pub(super) fn encode_remembered(remembered: Option<&Remembered>) -> Result<Vec<u8>, EncodeError> {
    let Some(remembered) = remembered else { return Ok(Vec::new()) };
    let mut encoder = Encoder::new();
    encode_memory(remembered, &mut encoder).map_err(|_| EncodeError::Field { field: "remembered" })?;
    Ok(encoder.into_inner())
}

fn encode_memory(remembered: &Remembered, encoder: &mut Encoder) -> pack_io::Result<()> {
    let Remembered { life, term, acknowledged, vote } = remembered;
    let flags = if life.is_some() { HAS_LIFE } else { 0 } | if vote.is_some() { HAS_VOTE } else { 0 };
    encoder.write_byte(flags)?;
    if let Some((count, id)) = life {
        encoder.write_varint_u64(*count)?;
        encoder.write_bytes(&id.to_le_bytes())?;
    }
    encoder.write_varint_u64(term.0)?;
    encoder.write_varint_u64(acknowledged.index.0)?;
    encoder.write_varint_u64(acknowledged.term.0)?;
    if let Some((term, to)) = vote {
        encoder.write_varint_u64(term.0)?;
        encoder.write_varint_u64(to.0)?;
    }
    Ok(())
}

pub(super) fn decode_remembered(kind: u16, bytes: &[u8]) -> Result<Option<Remembered>, FrameError> {
    let body = |what| FrameError::Body { kind, what };
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut decoder = Decoder::new(bytes);
    match decode_memory(&mut decoder) {
        Ok(Some(remembered)) if decoder.is_empty() => Ok(Some(remembered)),
        Ok(_) => Err(body("a memory of a peer that has no form that this version knows")),
        Err(_) => Err(body("a memory of a peer that ends too early")),
    }
}

fn decode_memory(decoder: &mut Decoder<'_>) -> Result<Option<Remembered>, SerialError> {
    let flags = decoder.read_byte()?;
    if flags & !(HAS_LIFE | HAS_VOTE) != 0 {
        return Ok(None);
    }
    let life = match flags & HAS_LIFE {
        0 => None,
        _ => Some((decoder.read_varint_u64()?, decode_id(decoder)?)),
    };
    let term = Term(decoder.read_varint_u64()?);
    let (index, acknowledged_term) = (decoder.read_varint_u64()?, decoder.read_varint_u64()?);
    let vote = match flags & HAS_VOTE {
        0 => None,
        _ => Some((Term(decoder.read_varint_u64()?), NodeId(decoder.read_varint_u64()?))),
    };
    Ok(Some(Remembered { life, term, acknowledged: EntryId::new(index, acknowledged_term), vote }))
}

const GAVE_UP_RECEIVER: u8 = 1;
const ID_BYTES: usize = 16;
const ANCESTOR_BYTES: usize = 8;

/// Nothing for a server without a history.
pub(super) fn encode_lineage(lineage: Option<&Lineage>) -> Result<Vec<u8>, EncodeError> {
    let Some(Lineage { id, ancestors, gave_up_receiver }) = lineage else { return Ok(Vec::new()) };
    if ancestors.len() > Lineage::ANCESTORS_MAX {
        return Err(EncodeError::Field { field: "history" });
    }
    let mut out = Vec::with_capacity(1 + ID_BYTES + ANCESTOR_BYTES * ancestors.len());
    out.push(if *gave_up_receiver { GAVE_UP_RECEIVER } else { 0 });
    out.extend_from_slice(&id.to_bits().to_le_bytes());
    ancestors.iter().for_each(|ancestor| out.extend_from_slice(&ancestor.get().to_le_bytes()));
    Ok(out)
}

/// Flags that a later version adds are ignored.
pub(super) fn decode_lineage(kind: u16, bytes: &[u8]) -> Result<Option<Lineage>, FrameError> {
    let Some((flags, said)) = bytes.split_first() else { return Ok(None) };
    let lineage = decode_ids(said).map(|(id, ancestors)| Lineage {
        id,
        ancestors,
        gave_up_receiver: flags & GAVE_UP_RECEIVER != 0,
    });
    let no_form = FrameError::Body { kind, what: "a history that has no form that this version knows" };
    lineage.map(Some).ok_or(no_form)
}

fn decode_ids(said: &[u8]) -> Option<(HistoryId, Vec<NonZeroU64>)> {
    let (id, ancestors) = said.split_first_chunk::<ID_BYTES>()?;
    let bits = u128::from_le_bytes(*id);
    let id = Some(HistoryId::from_bits(bits)).filter(|id| id.to_bits() == bits)?;
    if ancestors.len() % ANCESTOR_BYTES != 0 || ancestors.len() / ANCESTOR_BYTES > Lineage::ANCESTORS_MAX {
        return None;
    }
    let ancestor = |bytes: &[u8]| NonZeroU64::new(u64::from_le_bytes(bytes.try_into().expect("eight bytes")));
    Some((id, ancestors.chunks_exact(ANCESTOR_BYTES).map(ancestor).collect::<Option<_>>()?))
}

#[derive(Serialize, DeserializeView)]
#[pack_io(version = 1)]
struct PositionBody {
    group: u64,
    index: u64,
    term: u64,
}

pub(super) fn encode_position(group: GroupId, last: EntryId, encoder: &mut Encoder) -> Result<(), EncodeError> {
    write(encoder, &PositionBody { group: group.0, index: last.index.0, term: last.term.0 })
}

pub(super) fn decode_position(body: &[u8]) -> Result<Frame, FrameError> {
    let PositionBody { group, index, term } = view(kind::POSITION, body)?;
    Ok(Frame::Position { group: GroupId(group), last: EntryId::new(index, term) })
}

#[derive(Serialize, DeserializeView)]
#[pack_io(version = 1)]
struct HistoryBody<'a> {
    history: &'a [u8],
}

pub(super) fn encode_history(lineage: &Lineage, encoder: &mut Encoder) -> Result<(), EncodeError> {
    write(encoder, &HistoryBody { history: &encode_lineage(Some(lineage))? })
}

pub(super) fn decode_history(body: &[u8]) -> Result<Frame, FrameError> {
    let HistoryBody { history } = view(kind::HISTORY, body)?;
    let lineage = decode_lineage(kind::HISTORY, history)?;
    let lineage = lineage.ok_or(FrameError::Body { kind: kind::HISTORY, what: "a history without an identity" })?;
    Ok(Frame::History { lineage })
}
