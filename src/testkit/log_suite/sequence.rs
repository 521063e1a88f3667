//! Sequences of steps, drawn at random: whatever the numbers in them, they are legal.

use super::{Model, membership};
use crate::action::{Compaction, Write};
use crate::types::{Entry, EntryId, HardState, NodeId, Payload, Term};
use std::sync::Arc;
use std::vec;
use std::vec::Vec;

/// One step of a sequence. Its numbers are taken modulo what the log's state allows, so that any
/// sequence is legal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Append writes, as one batch.
    Append(Vec<Shape>),
    /// Sync.
    Sync,
    /// Close and open again, after a sync.
    Reopen,
}

/// What one write looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Whether it has a hard state.
    pub hard_state: bool,
    /// What it forgets.
    pub compaction: Option<Cut>,
    /// How many of the last entries it removes.
    pub truncate: u8,
    /// How many entries it appends.
    pub entries: u8,
    /// The size of each command in bytes; the first entry of a new term is a no-op.
    pub bytes: u16,
    /// Whether its entries are of a new term.
    pub new_term: bool,
    /// Which of its entries carry a configuration: bit 0 stands for the first.
    pub memberships: u8,
}

/// What a compaction looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Whether the log holds the entry that becomes the base.
    pub held: bool,
    /// Which entry becomes the base, counted from the base that there is.
    pub base: u8,
    /// How far the snapshot reaches beyond the base, in entries.
    pub ahead: u8,
    /// Which configuration comes with it; 0 for the empty one. A log stores what it is told, whatever its entries say.
    pub membership: u8,
}

impl Cut {
    /// The compaction of this shape that fits the model.
    #[must_use]
    pub fn compaction(&self, model: &Model) -> Compaction {
        let (last, snapshot) = (model.last(), model.snapshot);
        let count = model.entries.len();
        let base = if self.held {
            let position = usize::from(self.base) % (count + 1);
            position.checked_sub(1).map_or(model.base, |position| model.entries[position].id)
        } else {
            // Of a newer term than all that the log holds, inside of what it holds or behind it.
            let position = 1 + usize::from(self.base) % (count + 3);
            EntryId { index: model.base.index.plus(position), term: last.term.max(snapshot.term).next() }
        };
        let through = base.index.plus(usize::from(self.ahead)).min(last.index.max(base.index));
        let covered = model.entries.iter().find(|entry| self.held && entry.id.index == through);
        let covered = covered.map_or(base, |entry| entry.id);
        let snapshot = EntryId { index: covered.index.max(snapshot.index), term: covered.term.max(snapshot.term) };
        let membership = match self.membership {
            0 => Arc::default(),
            seed => membership(u64::from(seed) + 1000),
        };
        Compaction { snapshot, base, membership }
    }
}

impl Shape {
    /// The write of this shape that fits the model.
    #[must_use]
    pub fn write(&self, model: &Model) -> Write {
        let compaction = self.compaction.map(|cut| cut.compaction(model));
        let mut compacted = model.clone();
        compacted.write(&Write { compaction: compaction.clone(), ..Write::default() });
        let model = &compacted;
        let removed = usize::from(self.truncate) % (model.entries.len() + 1);
        let kept = model.entries.len() - removed;
        let before = kept.checked_sub(1).map_or(model.base, |position| model.entries[position].id);
        // Terms only grow, so that a replacing entry differs from the one it replaces.
        let term = Term(model.last().term.0.max(1) + u64::from(self.new_term || removed > 0));
        let entry = |position: usize| {
            let index = before.index.plus(position + 1);
            let noop = position == 0 && term != before.term;
            let configures = u32::try_from(position).ok().and_then(|bit| self.memberships.checked_shr(bit));
            let fill = (index.0 ^ term.0).to_le_bytes()[0];
            let payload = match configures {
                Some(bits) if bits & 1 == 1 => Payload::Membership(membership(index.0 << 8 | term.0)),
                _ if noop => Payload::Noop,
                _ => Payload::Command(vec![fill; self.bytes.into()].into()),
            };
            Entry { id: EntryId { index, term }, payload }
        };
        let vote = self.new_term.then(|| NodeId(u64::from(self.bytes)));
        Write {
            hard_state: self.hard_state.then(|| HardState { term: model.hard_state.term.next(), vote }),
            compaction,
            truncate_from: (removed > 0).then(|| before.index.next()),
            entries: (0..usize::from(self.entries)).map(entry).collect(),
        }
    }
}

impl Op {
    /// A random step, from a source of random numbers.
    pub fn random(mut next: impl FnMut() -> u64) -> Self {
        match next() % 16 {
            0 | 1 => Self::Reopen,
            2..=5 => Self::Sync,
            _ => Self::Append((0..next() % 4).map(|_| Shape::random(&mut next)).collect()),
        }
    }
}

impl Shape {
    /// A random write, from a source of random numbers.
    pub fn random(mut next: impl FnMut() -> u64) -> Self {
        let bits = next();
        Self {
            hard_state: bits & 3 == 0,
            compaction: (bits >> 40 & 7 == 0).then(|| Cut::random(&mut next)),
            truncate: if bits & 0x1c == 0 { (bits >> 8) as u8 % 8 } else { 0 },
            entries: (bits >> 16) as u8 % 6,
            // Some are large, so that a log of small segments fills and purges several.
            bytes: (bits >> 24) as u16 % if bits >> 44 & 7 == 0 { 1500 } else { 120 },
            new_term: bits & 0xe0 == 0,
            memberships: if bits >> 48 & 3 == 0 { (bits >> 52) as u8 } else { 0 },
        }
    }
}

impl Cut {
    /// A random compaction, from a source of random numbers.
    pub fn random(mut next: impl FnMut() -> u64) -> Self {
        let bits = next();
        let (base, ahead, membership) = ((bits >> 8) as u8, (bits >> 16) as u8 % 4, (bits >> 24) as u8 % 8);
        Self { held: bits & 3 != 0, base, ahead, membership }
    }
}

/// A small generator with a state of 64 bits (SplitMix64), for seeded sequences.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// The writes of these shapes, which are carried out on the model.
pub fn writes_of(shapes: &[Shape], model: &mut Model) -> Vec<Write> {
    let write = |shape: &Shape| {
        let write = shape.write(model);
        model.write(&write);
        write
    };
    shapes.iter().map(write).collect()
}
