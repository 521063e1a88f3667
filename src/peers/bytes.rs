//! The bytes of a memory: `docs/FORMAT.md`, MEMORY.

use super::{Known, lock};
use crate::life::Remembered;
use crate::types::{EntryId, NodeId, Term};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::vec::Vec;

const MAGIC: &[u8; 8] = b"RAFTPEER";
const FORMAT: u32 = 2;
/// As 0.6.0 and before wrote it: ids and incarnations. Only read.
const FORMAT_OF_INCARNATIONS: u32 = 1;
const HEAD_BYTES: usize = 8 + 4 + 4;
const INCARNATION_BYTES: usize = 16;
const PEER_BYTES: usize = 80;
const HAS_LIFE: u64 = 1;
const HAS_VOTE: u64 = 2;

pub(super) fn encode(known: &BTreeMap<NodeId, Known>) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD_BYTES + known.len() * PEER_BYTES + 4);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&FORMAT.to_le_bytes());
    out.extend_from_slice(&(known.len() as u32).to_le_bytes());
    for (peer, known) in known {
        let Remembered { life, term, acknowledged, vote } = *lock(&known.position);
        let flags = if life.is_some() { HAS_LIFE } else { 0 } | if vote.is_some() { HAS_VOTE } else { 0 };
        let ((count, id), (vote_term, to)) = (life.unwrap_or_default(), vote.unwrap_or_default());
        let fields = [peer.0, known.incarnation, flags, count, id, term.0];
        let fields = fields.into_iter().chain([acknowledged.index.0, acknowledged.term.0, vote_term.0, to.0]);
        fields.for_each(|field| out.extend_from_slice(&field.to_le_bytes()));
    }
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

pub(super) fn decode(bytes: &[u8]) -> Result<BTreeMap<NodeId, Known>, &'static str> {
    let (body, crc) = bytes.split_last_chunk().ok_or("the file of the peers' identities is too short")?;
    if u32::from_le_bytes(*crc) != crc32c::crc32c(body) {
        return Err("the checksum of the file of the peers' identities does not hold");
    }
    let no_form = "the file of the peers' identities has no form that this version knows";
    let u32_at =
        |at: usize| body.get(at..at + 4).map_or(0, |bytes| u32::from_le_bytes(bytes.try_into().expect("four")));
    let (peer_bytes, count) = match u32_at(8) {
        FORMAT => (PEER_BYTES, u32_at(12) as usize),
        FORMAT_OF_INCARNATIONS => (INCARNATION_BYTES, u32_at(12) as usize),
        _ => return Err(no_form),
    };
    if !body.starts_with(MAGIC) || body.len() < HEAD_BYTES || (body.len() - HEAD_BYTES) / peer_bytes != count {
        return Err(no_form);
    }
    if (body.len() - HEAD_BYTES) % peer_bytes != 0 {
        return Err(no_form);
    }
    let number = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let peer = |bytes: &[u8]| {
        let mut position = Remembered::default();
        if bytes.len() == PEER_BYTES {
            let at = |position: usize| number(bytes, position * 8);
            position.life = (at(2) & HAS_LIFE != 0).then(|| (at(3), at(4)));
            position.term = Term(at(5));
            position.acknowledged = EntryId::new(at(6), at(7));
            position.vote = (at(2) & HAS_VOTE != 0).then(|| (Term(at(8)), NodeId(at(9))));
        }
        let known = Known { incarnation: number(bytes, 8), position: Arc::new(Mutex::new(position)), unstored: None };
        (NodeId(number(bytes, 0)), known)
    };
    Ok(body[HEAD_BYTES..].chunks_exact(peer_bytes).map(peer).collect())
}
