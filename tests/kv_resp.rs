//! The kv example's parser on every kind of input, and its state machine.

#![cfg(all(feature = "persistence", feature = "tcp"))]

#[allow(dead_code, unused_imports, reason = "a program of its own, of which this test looks at some rooms")]
#[path = "../examples/kv/server/mod.rs"]
mod server;

use bytes::Bytes;
use proptest::prelude::*;
use raft_io::EntryId;
use raft_io::driver::StateMachine;
use server::resp::{Decoder, ProtocolError, REQUEST_BYTES_MAX, write_request};
use server::store::{Operation, Reply, SET_IF_ABSENT, SET_RETURNS_OLD, Store, encode};
use std::collections::BTreeMap;

type Requests = Vec<Vec<Vec<u8>>>;

/// Everything that a decoder gives out when the bytes arrive in these pieces.
fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Requests, Option<ProtocolError>) {
    let mut decoder = Decoder::default();
    let mut requests = Vec::new();
    for piece in pieces {
        decoder.feed(piece);
        loop {
            match decoder.next() {
                Ok(Some(request)) => requests.push(request.from(0).map(<[u8]>::to_vec).collect()),
                Ok(None) => break,
                Err(error) => {
                    decoder.compact();
                    return (requests, Some(error));
                }
            }
            if requests.len() % 2 == 0 {
                decoder.compact();
            }
        }
        decoder.compact();
    }
    (requests, None)
}

fn words(line: &[&str]) -> Vec<Vec<u8>> {
    line.iter().map(|word| word.as_bytes().to_vec()).collect()
}

#[test]
fn inline_commands() {
    let text = b"PING\r\n\r\n  set  k \"a \\\"b\\\" \\n\" \r\nget 'it is'\nECHO \"\"\r\n";
    let (requests, error) = decode([&text[..]]);
    assert_eq!(error, None);
    let expected =
        [words(&["PING"]), words(&["set", "k", "a \"b\" \n"]), words(&["get", "it is"]), words(&["ECHO", ""])];
    assert_eq!(requests, expected);
}

#[test]
fn empty_and_null_arrays_are_requests_for_nothing() {
    assert_eq!(decode([&b"*0\r\n*-1\r\n*1\r\n$4\r\nPING\r\n"[..]]), (vec![words(&["PING"])], None));
}

#[test]
fn broken_framing() {
    let line = [b'x'; 1 << 16];
    let cases: [(&[u8], ProtocolError); 12] = [
        (b"*x\r\n", ProtocolError::ArrayLength),
        (b"*\r\n", ProtocolError::ArrayLength),
        (b"*65537\r\n", ProtocolError::ArrayLength),
        (b"*99999999999999999999999\r\n", ProtocolError::ArrayLength),
        (b"*1\r\n$x\r\n", ProtocolError::BulkLength),
        (b"*1\r\n$-1\r\n", ProtocolError::BulkLength),
        (b"*1\r\n$4294967296\r\n", ProtocolError::BulkLength),
        (b"*1\r\n+PING\r\n", ProtocolError::ExpectedBulk(b'+')),
        (b"*1\r\n\r\n", ProtocolError::ExpectedBulk(b'\r')),
        (b"*1\r\n$4\r\nPINGxx", ProtocolError::Unterminated),
        (b"get 'k\r\n", ProtocolError::UnbalancedQuotes),
        (&line, ProtocolError::LineTooLong),
    ];
    for (bytes, expected) in cases {
        assert_eq!(decode([bytes]), (vec![], Some(expected)), "{}", bytes[..bytes.len().min(40)].escape_ascii());
    }
}

#[test]
fn many_large_arguments_do_not_add_up_beyond_the_limit() {
    let mut decoder = Decoder::default();
    decoder.feed(b"*1000\r\n");
    let mut bulk = b"$4000000\r\n".to_vec();
    bulk.resize(bulk.len() + 4_000_000, b'x');
    bulk.extend_from_slice(b"\r\n");
    let refused = (1..).find(|_| {
        decoder.feed(&bulk);
        decoder.next().is_err()
    });
    assert_eq!(refused, Some(REQUEST_BYTES_MAX / 4_000_000 + 1));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn requests_come_out_as_they_went_in_however_they_are_cut(
        requests in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 1..5), 0..8),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
    ) {
        let mut bytes = Vec::new();
        requests.iter().for_each(|request| write_request(&mut bytes, request));
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]);
        prop_assert_eq!(decode(pieces), (requests, None));
    }

    #[test]
    fn any_bytes_decode_the_same_in_one_piece_and_byte_by_byte(
        bytes in prop::collection::vec(
            prop_oneof![Just(b'*'), Just(b'$'), Just(b'\r'), Just(b'\n'), Just(b'1'), Just(b'"'), any::<u8>()],
            0..200,
        ),
    ) {
        prop_assert_eq!(decode([&bytes[..]]), decode(bytes.chunks(1)));
    }

    #[test]
    fn any_bytes_in_the_log_are_applied_without_a_panic_and_alike(
        commands in prop::collection::vec(prop::collection::vec(prop_oneof![0u8..13, any::<u8>()], 0..30), 0..40),
    ) {
        let (mut one, mut other) = (Store::default(), Store::default());
        for (position, command) in commands.into_iter().enumerate() {
            let (id, command) = (EntryId::new(position as u64 + 1, 1), Bytes::from(command));
            prop_assert_eq!(one.apply(id, &command), other.apply(id, &command));
        }
        prop_assert_eq!(one.fingerprint(), other.fingerprint());
    }

    /// Against a map, and with the hash of a store that was given only the outcome.
    #[test]
    fn the_store_is_a_map_and_its_hash_depends_on_nothing_else(
        steps in prop::collection::vec((0u8..6, 0u8..4, "[a-z0-9]{0,12}"), 0..80),
    ) {
        let mut store = Store::default();
        let mut map: BTreeMap<String, String> = BTreeMap::new();
        for (kind, key, text) in steps {
            let key = key.to_string();
            let before = map.get(&key).cloned();
            let (operation, flags, arguments, expected) = match kind {
                0 => (Operation::Set, 0, vec![key.clone(), text.clone()], Reply::Ok),
                1 => {
                    let expected = before.as_ref().map_or(Reply::Nil, |old| Reply::Bulk(old.clone().into()));
                    (Operation::Set, SET_IF_ABSENT | SET_RETURNS_OLD, vec![key.clone(), text.clone()], expected)
                }
                2 => (Operation::Delete, 0, vec![key.clone()], Reply::Integer(before.is_some().into())),
                3 => {
                    let length = before.as_ref().map_or(0, String::len) + text.len();
                    (Operation::Append, 0, vec![key.clone(), text.clone()], Reply::Integer(length as i64))
                }
                4 => (Operation::Count, 0, vec![], Reply::Integer(map.len() as i64)),
                _ => {
                    let expected = before.as_ref().map_or(Reply::Nil, |old| Reply::Bulk(old.clone().into()));
                    (Operation::Get, 0, vec![key.clone()], expected)
                }
            };
            match kind {
                0 => drop(map.insert(key, text)),
                1 => drop(map.entry(key).or_insert(text)),
                2 => drop(map.remove(&key)),
                3 => map.entry(key).or_default().push_str(&text),
                _ => {}
            }
            prop_assert_eq!(apply(&mut store, operation, flags, &arguments), expected);
        }
        let mut fresh = Store::default();
        for (key, value) in &map {
            apply(&mut fresh, Operation::Set, 0, &[key.clone(), value.clone()]);
        }
        prop_assert_eq!(store.fingerprint().state, fresh.fingerprint().state);
        prop_assert_eq!(store.fingerprint().keys, map.len());
        apply(&mut fresh, Operation::Append, 0, &["0".into(), "!".into()]);
        prop_assert_ne!(store.fingerprint().state, fresh.fingerprint().state);
    }
}

fn apply(store: &mut Store, operation: Operation, flags: u8, arguments: &[String]) -> Reply {
    let mut command = Vec::new();
    encode(&mut command, operation, flags, arguments.iter().map(String::as_bytes));
    store.apply(EntryId::new(1, 1), &command.into())
}
