//! The keys of the load, by number, so that a history of a million operations stays small.
//!
//! Each kind of key sees its own operations. The ledger is written once per key and never again:
//! reading it back finds every lost write one by one. Those that are shared come in generations, which follow each other in
//! number and never touch the same key.

/// SET, SET NX, DEL, GET.
pub(crate) const REGISTERS: u32 = 160;
/// INCR, GET. Only ever grows.
pub(crate) const COUNTERS: u32 = 80;
/// APPEND, SET, GET.
pub(crate) const LISTS: u32 = 60;
/// Keys that many clients share, of one generation.
pub(crate) const SHARED: u32 = REGISTERS + COUNTERS + LISTS;

const LEDGER_FIRST: u32 = 1_000_000;
const LEDGER_PER_CLIENT: u32 = 1_000_000;

/// The number of a client's next ledger key.
pub(crate) fn ledger(client: u32, sequence: u32) -> u32 {
    LEDGER_FIRST + client * LEDGER_PER_CLIENT + sequence % LEDGER_PER_CLIENT
}

pub(crate) fn is_ledger(key: u32) -> bool {
    key >= LEDGER_FIRST
}

pub(crate) fn is_register(key: u32) -> bool {
    !is_ledger(key) && key % SHARED < REGISTERS
}

pub(crate) fn is_counter(key: u32) -> bool {
    !is_ledger(key) && (REGISTERS..REGISTERS + COUNTERS).contains(&(key % SHARED))
}

/// The key as the server sees it.
pub(crate) fn name(key: u32) -> String {
    if is_ledger(key) {
        let rest = key - LEDGER_FIRST;
        format!("ledger:{}:{}", rest / LEDGER_PER_CLIENT, rest % LEDGER_PER_CLIENT)
    } else if is_register(key) {
        format!("register:{key}")
    } else if is_counter(key) {
        format!("counter:{key}")
    } else {
        format!("list:{key}")
    }
}
