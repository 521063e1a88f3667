//! Keys and values in many small maps, so that the state can be frozen at no cost and copied in small
//! parts: a write after that copies the one map that it touches, if the frozen state still has it.

use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;

/// How many maps. Of a million keys a thousand are copied at a time.
const SHARDS: usize = 1024;

/// A map from keys to values. A clone shares everything with the original until either is written to.
#[derive(Clone)]
pub(super) struct Shards {
    maps: Vec<Arc<HashMap<Bytes, Bytes>>>,
    keys: usize,
}

impl Default for Shards {
    fn default() -> Self {
        let empty = Arc::new(HashMap::new());
        Self { maps: vec![empty; SHARDS], keys: 0 }
    }
}

impl Shards {
    /// How many keys.
    pub(super) fn len(&self) -> usize {
        self.keys
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&Bytes> {
        self.maps[place(key)].get(key)
    }

    pub(super) fn contains_key(&self, key: &[u8]) -> bool {
        self.get(key).is_some()
    }

    /// The value before. The key is copied: a slice of the command would keep a whole batch in memory.
    pub(super) fn insert(&mut self, key: &[u8], value: Bytes) -> Option<Bytes> {
        let map = Arc::make_mut(&mut self.maps[place(key)]);
        if let Some(old) = map.get_mut(key) {
            return Some(std::mem::replace(old, value));
        }
        self.keys += 1;
        map.insert(Bytes::copy_from_slice(key), value)
    }

    pub(super) fn remove(&mut self, key: &[u8]) -> Option<Bytes> {
        let shared = &mut self.maps[place(key)];
        // What is not there copies nothing.
        shared.contains_key(key).then_some(())?;
        self.keys -= 1;
        Arc::make_mut(shared).remove(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.maps.iter().flat_map(|map| map.iter())
    }
}

/// FNV-1a: where a key lies is nobody's business but this map's.
fn place(key: &[u8]) -> usize {
    let hash = key
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    (hash ^ (hash >> 32)) as usize % SHARDS
}
