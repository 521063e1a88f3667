//! The bytes of one record: a batch of writes behind a header that says which log, which opening
//! and which position it was written for, and what stands before it. `docs/FORMAT.md` has the boxes.
//!
//! wal-db frames a record as `crc32c(length ‖ payload) u32 | length u32 | payload`; this module
//! writes and reads the payload, and reads whole frames for recovery and for cold reads.

use super::view::TermRun;
use crate::action::Write;
use crate::life::Remembered;
use crate::membership::{Membership, MembershipError};
use crate::types::{Entry, EntryId, GroupId, HardState, Index, NodeId, Payload, Term};
use bytes::Bytes;
use std::sync::Arc;
use std::vec::Vec;

/// wal-db's frame before each payload, in bytes.
pub(super) const FRAME_BYTES: usize = 8;
/// Our header at the start of each payload, in bytes.
pub(super) const HEADER_BYTES: usize = 40;
/// The version of everything in a record.
const FORMAT: u8 = 1;

const OP_GROUP: u8 = 1;
const OP_HARD_STATE: u8 = 2;
const OP_TRUNCATE_FROM: u8 = 3;
const OP_ENTRIES: u8 = 4;
/// As 0.4.0 wrote it: a checkpoint that knows of no snapshot. Only read.
const OP_CHECKPOINT_0_4: u8 = 5;
/// A checkpoint that knows of no configurations. Only read.
const OP_CHECKPOINT_WITHOUT_MEMBERSHIP: u8 = 6;
const OP_CHECKPOINT: u8 = 7;
/// As [`OP_ENTRIES`], with configurations among the entries. A code of its own spares recovery the heads of all others.
const OP_ENTRIES_WITH_MEMBERSHIPS: u8 = 8;
/// What peers said to be durable.
const OP_PEERS: u8 = 9;

const KIND_NOOP: u8 = 0;
const KIND_COMMAND: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;

/// Why intact bytes could not be understood.
pub(super) type Malformed = &'static str;

/// What makes a record self-identifying: a stale or foreign one never verifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The checksum of the record before this one; ties the log into one chain.
    pub(super) chain: u32,
    /// The log's random identity.
    pub(super) incarnation: u64,
    /// Which opening of the log wrote it; only grows.
    pub(super) opening: u64,
    /// Its own position.
    pub(super) lsn: u64,
    /// Everything before this position was durable when it was written; ≤ `lsn`.
    pub(super) durable: u64,
}

impl Header {
    pub(super) fn encode(&self, out: &mut [u8]) {
        out[0] = FORMAT;
        out[1..4].fill(0);
        out[4..8].copy_from_slice(&self.chain.to_le_bytes());
        out[8..16].copy_from_slice(&self.incarnation.to_le_bytes());
        out[16..24].copy_from_slice(&self.opening.to_le_bytes());
        out[24..32].copy_from_slice(&self.lsn.to_le_bytes());
        out[32..40].copy_from_slice(&self.durable.to_le_bytes());
    }

    /// Reads the fixed fields; whether the format is ours is [`Header::is_supported`].
    fn decode(bytes: &[u8]) -> Self {
        Self {
            chain: u32_at(bytes, 4),
            incarnation: u64_at(bytes, 8),
            opening: u64_at(bytes, 16),
            lsn: u64_at(bytes, 24),
            durable: u64_at(bytes, 32),
        }
    }

    /// Whether the header before `payload` has the version written here.
    pub(super) fn is_supported(payload: &[u8]) -> bool {
        payload[..4] == [FORMAT, 0, 0, 0]
    }

    /// Cheap test whether a frame at `lsn` could begin with these bytes.
    pub(super) fn could_start(bytes: &[u8], incarnation: u64, lsn: u64) -> bool {
        let payload = &bytes[FRAME_BYTES..];
        u64_at(payload, 24) == lsn && u64_at(payload, 8) == incarnation
    }
}

/// The length that a frame's first bytes claim for its payload; `None` if it cannot be a record.
pub(super) fn payload_len(frame: &[u8]) -> Option<usize> {
    let len = u32_at(frame, 4) as usize;
    (len >= HEADER_BYTES).then_some(len)
}

/// A record whose checksum holds.
#[derive(Clone, Copy)]
pub(super) struct Frame<'a> {
    pub(super) crc: u32,
    pub(super) header: Header,
    pub(super) payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Reads the frame that fills `bytes` exactly; `None` if the checksum does not hold.
    pub(super) fn verify(bytes: &'a [u8]) -> Option<Self> {
        let crc = u32_at(bytes, 0);
        if crc != crc32c::crc32c(&bytes[4..]) {
            return None;
        }
        let payload = &bytes[FRAME_BYTES..];
        Some(Self { crc, header: Header::decode(payload), payload })
    }

    /// The operations, in order.
    pub(super) fn ops(&self) -> Ops<'a> {
        Ops { payload: self.payload, at: HEADER_BYTES, group: None }
    }
}

/// A compaction, and the state of a group right after it, so that everything before may be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Checkpoint {
    pub(super) hard_state: HardState,
    pub(super) snapshot: EntryId,
    pub(super) base: EntryId,
    /// The configuration as of `snapshot`; `None` only of a checkpoint that an older version wrote.
    pub(super) membership: Option<Arc<Membership>>,
    /// The base if no entry is left.
    pub(super) last: EntryId,
    /// The terms of the entries in `(base, last]`.
    pub(super) terms: Vec<TermRun>,
}

/// Encodes records into one reused buffer.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    buffer: Vec<u8>,
    /// Why the last configuration of this record that cannot be read back would not be.
    refused: Option<MembershipError>,
}

impl Encoder {
    /// A buffer that one large record grew is given back.
    const BUFFER_BYTES_KEPT: usize = 4 << 20;

    pub(super) fn begin(&mut self, group: GroupId) {
        if self.buffer.capacity() > Self::BUFFER_BYTES_KEPT {
            self.buffer = Vec::new();
        }
        self.buffer.clear();
        self.refused = None;
        self.buffer.resize(HEADER_BYTES, 0);
        self.u8(OP_GROUP);
        self.u64(group.0);
    }

    /// The payload's size so far, in bytes.
    pub(super) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Why this record must not be written, if it must not.
    pub(super) fn refused(&self) -> Option<MembershipError> {
        self.refused
    }

    /// Puts the header in front and hands out the payload.
    pub(super) fn finish(&mut self, header: &Header) -> &[u8] {
        header.encode(&mut self.buffer[..HEADER_BYTES]);
        &self.buffer
    }

    /// A write, with the checkpoint that its compaction is recorded as.
    pub(super) fn write(&mut self, write: &Write, checkpoint: Option<&Checkpoint>) {
        if let Some(hard_state) = write.hard_state {
            self.u8(OP_HARD_STATE);
            self.hard_state(hard_state);
        }
        if let Some(checkpoint) = checkpoint {
            self.checkpoint(checkpoint);
        }
        if let Some(first) = write.truncate_from {
            self.u8(OP_TRUNCATE_FROM);
            self.u64(first.0);
        }
        // One operation per run of equal terms, so that recovery reads no entry's own head.
        for run in write.entries.chunk_by(|a, b| a.id.term == b.id.term) {
            self.entries(run);
        }
    }

    /// What peers said to be durable.
    #[cold]
    pub(super) fn peers(&mut self, peers: &[(NodeId, Remembered)]) {
        self.u8(OP_PEERS);
        self.u32(peers.len() as u32);
        for (peer, Remembered { life: _, term, acknowledged, vote }) in peers {
            self.u64(peer.0);
            self.u64(term.0);
            self.id(*acknowledged);
            self.u8(u8::from(vote.is_some()));
            let (term, to) = vote.unwrap_or_default();
            self.u64(term.0);
            self.u64(to.0);
        }
    }

    fn entries(&mut self, run: &[Entry]) {
        let payload_bytes: usize = run.iter().map(|entry| 5 + entry.payload.len()).sum();
        self.buffer.reserve(payload_bytes + 25);
        let code_at = self.buffer.len();
        self.u8(OP_ENTRIES);
        self.id(run[0].id);
        self.u32(run.len() as u32);
        let length_at = self.buffer.len();
        self.u32(0);
        for entry in run {
            match &entry.payload {
                Payload::Noop => {
                    self.u8(KIND_NOOP);
                    self.u32(0);
                }
                Payload::Command(command) => {
                    self.u8(KIND_COMMAND);
                    self.u32(command.len() as u32);
                    self.buffer.extend_from_slice(command);
                }
                Payload::Membership(membership) => {
                    self.buffer[code_at] = OP_ENTRIES_WITH_MEMBERSHIPS;
                    self.u8(KIND_MEMBERSHIP);
                    self.membership(membership);
                }
            }
        }
        // Larger ones are refused as a whole, by size, before anything is written.
        let length = (self.buffer.len() - length_at - 4) as u32;
        self.buffer[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }

    fn checkpoint(&mut self, checkpoint: &Checkpoint) {
        self.u8(OP_CHECKPOINT);
        self.hard_state(checkpoint.hard_state);
        self.id(checkpoint.snapshot);
        self.id(checkpoint.base);
        self.id(checkpoint.last);
        self.u32(checkpoint.terms.len() as u32);
        for run in &checkpoint.terms {
            self.id(EntryId { index: run.first, term: run.term });
        }
        self.membership(checkpoint.membership.as_deref().unwrap_or(&Membership::default()));
    }

    /// A length and the bytes; none for the empty configuration, which has no encoding.
    #[cold]
    fn membership(&mut self, membership: &Membership) {
        if *membership == Membership::default() {
            return self.u32(0);
        }
        let bytes = membership.encode();
        if let Err(error) = Membership::decode(&bytes) {
            self.refused = Some(error);
        }
        self.u32(bytes.len() as u32);
        self.buffer.extend_from_slice(&bytes);
    }

    fn hard_state(&mut self, hard_state: HardState) {
        self.u64(hard_state.term.0);
        self.u8(u8::from(hard_state.vote.is_some()));
        self.u64(hard_state.vote.unwrap_or_default().0);
    }

    fn id(&mut self, id: EntryId) {
        self.u64(id.index.0);
        self.u64(id.term.0);
    }

    fn u8(&mut self, value: u8) {
        self.buffer.push(value);
    }

    fn u32(&mut self, value: u32) {
        self.buffer.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.buffer.extend_from_slice(&value.to_le_bytes());
    }
}

/// One operation of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Op<'a> {
    HardState(HardState),
    TruncateFrom(Index),
    Entries(EntriesOp<'a>),
    Checkpoint(Checkpoint),
    Peers(Vec<(NodeId, Remembered)>),
}

/// A run of entries of one term, not yet taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EntriesOp<'a> {
    pub(super) first: EntryId,
    pub(super) count: u32,
    /// The configurations among the entries, ascending.
    pub(super) memberships: Vec<(Index, Arc<Membership>)>,
    bytes: &'a [u8],
}

impl<'a> EntriesOp<'a> {
    fn read(cursor: &mut Cursor<'a>, code: u8) -> Result<Self, Malformed> {
        let (first, count) = (cursor.id()?, cursor.u32()?);
        let len = cursor.u32()? as usize;
        let mut entries = Self { first, count, memberships: Vec::new(), bytes: cursor.take(len)? };
        if code == OP_ENTRIES_WITH_MEMBERSHIPS {
            let mut cursor = Cursor { bytes: entries.bytes, at: 0 };
            for position in 0..count as usize {
                match (cursor.u8()?, cursor.u32()? as usize) {
                    (KIND_MEMBERSHIP, len) => {
                        entries.memberships.push((first.index.plus(position), cursor.membership(len)?));
                    }
                    (KIND_NOOP | KIND_COMMAND, len) => drop(cursor.take(len)?),
                    _ => return Err("an unknown kind of entry"),
                }
            }
        }
        Ok(entries)
    }

    /// Appends the entries to `out`; their commands are slices of `source`, which these bytes are
    /// part of.
    pub(super) fn decode_into(&self, source: &Bytes, out: &mut Vec<Entry>) -> Result<(), Malformed> {
        out.reserve((self.count as usize).min(self.bytes.len()));
        let mut cursor = Cursor { bytes: self.bytes, at: 0 };
        let mut memberships = self.memberships.iter();
        for position in 0..self.count as usize {
            let kind = cursor.u8()?;
            let len = cursor.u32()? as usize;
            let content = cursor.take(len)?;
            let known = if kind == KIND_MEMBERSHIP { memberships.next() } else { None };
            let payload = match (kind, known) {
                (KIND_NOOP, _) if len == 0 => Payload::Noop,
                (KIND_COMMAND, _) => Payload::Command(source.slice_ref(content)),
                (KIND_MEMBERSHIP, Some((_, membership))) => Payload::Membership(Arc::clone(membership)),
                _ => return Err("an unknown kind of entry"),
            };
            let id = EntryId { index: self.first.index.plus(position), term: self.first.term };
            out.push(Entry { id, payload });
        }
        if cursor.at == self.bytes.len() { Ok(()) } else { Err("bytes behind the last entry of a run") }
    }
}

/// The operations of a record and the group of each.
#[derive(Clone)]
pub(super) struct Ops<'a> {
    payload: &'a [u8],
    at: usize,
    group: Option<GroupId>,
}

impl<'a> Ops<'a> {
    fn op(&mut self) -> Result<Option<(GroupId, Op<'a>)>, Malformed> {
        let mut cursor = Cursor { bytes: self.payload, at: self.at };
        let mut code = cursor.u8()?;
        while code == OP_GROUP {
            self.group = Some(GroupId(cursor.u64()?));
            self.at = cursor.at;
            if cursor.at == self.payload.len() {
                return Ok(None);
            }
            code = cursor.u8()?;
        }
        let group = self.group.ok_or("an operation of no group")?;
        let op = match code {
            OP_HARD_STATE => Op::HardState(cursor.hard_state()?),
            OP_TRUNCATE_FROM => Op::TruncateFrom(cursor.id_index()?),
            OP_ENTRIES | OP_ENTRIES_WITH_MEMBERSHIPS => Op::Entries(EntriesOp::read(&mut cursor, code)?),
            OP_CHECKPOINT | OP_CHECKPOINT_WITHOUT_MEMBERSHIP | OP_CHECKPOINT_0_4 => {
                Op::Checkpoint(cursor.checkpoint(code)?)
            }
            OP_PEERS => Op::Peers(cursor.peers()?),
            _ => return Err("an unknown operation"),
        };
        self.at = cursor.at;
        Ok(Some((group, op)))
    }
}

impl<'a> Iterator for Ops<'a> {
    type Item = Result<(GroupId, Op<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.payload.len() {
            return None;
        }
        let result = self.op();
        if result.is_err() {
            self.at = self.payload.len();
        }
        result.transpose()
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or("an operation that ends early")?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn peers(&mut self) -> Result<Vec<(NodeId, Remembered)>, Malformed> {
        (0..self.u32()?).map(|_| self.peer()).collect()
    }

    fn peer(&mut self) -> Result<(NodeId, Remembered), Malformed> {
        let (peer, term, index, acknowledged_term) = (self.u64()?, self.u64()?, self.u64()?, self.u64()?);
        let (has_vote, vote) = (self.u8()?, (Term(self.u64()?), NodeId(self.u64()?)));
        let acknowledged = EntryId::new(index, acknowledged_term);
        let vote = (has_vote != 0).then_some(vote);
        Ok((NodeId(peer), Remembered { life: None, term: Term(term), acknowledged, vote }))
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32_at(self.take(4)?, 0))
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64_at(self.take(8)?, 0))
    }

    fn id_index(&mut self) -> Result<Index, Malformed> {
        let index = Index(self.u64()?);
        if index <= Index::MAX { Ok(index) } else { Err("an index out of range") }
    }

    fn id(&mut self) -> Result<EntryId, Malformed> {
        let (index, term) = (self.id_index()?, Term(self.u64()?));
        if term <= Term::MAX { Ok(EntryId { index, term }) } else { Err("a term out of range") }
    }

    fn hard_state(&mut self) -> Result<HardState, Malformed> {
        let (term, has_vote, vote) = (Term(self.u64()?), self.u8()?, NodeId(self.u64()?));
        if term > Term::MAX || has_vote > 1 {
            return Err("a hard state out of range");
        }
        Ok(HardState { term, vote: (has_vote == 1).then_some(vote) })
    }

    fn checkpoint(&mut self, code: u8) -> Result<Checkpoint, Malformed> {
        let hard_state = self.hard_state()?;
        let snapshot = if code == OP_CHECKPOINT_0_4 { None } else { Some(self.id()?) };
        let (base, last) = (self.id()?, self.id()?);
        // What was forgotten is covered by a snapshot, or it is lost.
        let snapshot = snapshot.unwrap_or(base);
        let count = self.u32()?;
        let mut run = || self.id().map(|id| TermRun { first: id.index, term: id.term });
        let terms = (0..count).map(|_| run()).collect::<Result<_, _>>()?;
        let membership = if code == OP_CHECKPOINT {
            let len = self.u32()? as usize;
            Some(self.membership(len)?)
        } else {
            None
        };
        Ok(Checkpoint { hard_state, snapshot, base, membership, last, terms })
    }

    fn membership(&mut self, len: usize) -> Result<Arc<Membership>, Malformed> {
        let bytes = self.take(len)?;
        if bytes.is_empty() {
            return Ok(Arc::default());
        }
        Membership::decode(bytes).map(Arc::new).map_err(|error| match error {
            MembershipError::Format { .. } => "a configuration in an unknown format",
            _ => "a configuration that is none",
        })
    }
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
