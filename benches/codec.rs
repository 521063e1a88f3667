//! The codec on an append of 16 entries of 64 bytes: encode into a reused buffer and decode to
//! shared slices, beside a hand-written baseline that moves the same bytes without versions,
//! limits or checks.
//!
//! `cargo bench --bench codec`

use bytes::{Buf, BufMut, Bytes};
use criterion::{Criterion, criterion_group, criterion_main};
use raft_io::message::AppendEntriesRequest;
use raft_io::wire::{self, Limits};
use raft_io::{Entry, EntryId, GroupId, Index, Message, Payload, Term};
use std::hint::black_box;

const ENTRIES: u64 = 16;
const COMMAND_BYTES: usize = 64;

fn request() -> AppendEntriesRequest {
    let entry = |index| Entry {
        id: EntryId::new(index, 3),
        payload: Payload::Command(Bytes::from(vec![index as u8; COMMAND_BYTES])),
    };
    AppendEntriesRequest {
        acknowledged: Default::default(),
        disk: Default::default(),
        history: None,
        session: Index(0),
        term: Term(3),
        prev: EntryId::new(1000, 3),
        entries: (1001..1001 + ENTRIES).map(entry).collect(),
        commit: Index(990),
    }
}

/// Fixed-width fields and a length before each command, nothing else.
fn baseline_encode(request: &AppendEntriesRequest, buffer: &mut Vec<u8>) {
    buffer.put_u64_le(request.term.0);
    buffer.put_u64_le(request.prev.index.0);
    buffer.put_u64_le(request.prev.term.0);
    buffer.put_u64_le(request.commit.0);
    buffer.put_u32_le(request.entries.len() as u32);
    for entry in request.entries.iter() {
        buffer.put_u64_le(entry.id.term.0);
        if let Payload::Command(command) = &entry.payload {
            buffer.put_u32_le(command.len() as u32);
            buffer.put_slice(command);
        }
    }
}

fn baseline_decode(frame: &Bytes) -> AppendEntriesRequest {
    let mut rest = frame.clone();
    let term = Term(rest.get_u64_le());
    let prev = EntryId::new(rest.get_u64_le(), rest.get_u64_le());
    let commit = Index(rest.get_u64_le());
    let count = u64::from(rest.get_u32_le());
    let entries = (1..=count).map(|distance| {
        let id = EntryId::new(prev.index.0 + distance, rest.get_u64_le());
        let length = rest.get_u32_le() as usize;
        Entry { id, payload: Payload::Command(rest.split_to(length)) }
    });
    AppendEntriesRequest {
        acknowledged: Default::default(),
        disk: Default::default(),
        history: None,
        term,
        prev,
        entries: entries.collect(),
        commit,
        session: Index(0),
    }
}

fn codec(criterion: &mut Criterion) {
    let limits = Limits::default();
    let message = Message::AppendEntriesRequest(request());
    let mut frame = Vec::new();
    wire::encode_message(GroupId(0), &message, &limits, &mut frame).expect("within the limits");
    let frame = Bytes::from(frame);
    let mut plain = Vec::new();
    baseline_encode(&request(), &mut plain);
    let plain = Bytes::from(plain);
    assert_eq!(baseline_decode(&plain), request());
    println!("frame: {} bytes, baseline: {} bytes", frame.len(), plain.len());

    let mut encode = criterion.benchmark_group("encode_16x64");
    let mut buffer = Vec::with_capacity(4096);
    encode.bench_function("frame", |bencher| {
        bencher.iter(|| {
            buffer.clear();
            wire::encode_message(GroupId(0), black_box(&message), &limits, &mut buffer).expect("within the limits");
            black_box(buffer.len())
        });
    });
    let request = request();
    encode.bench_function("baseline", |bencher| {
        bencher.iter(|| {
            buffer.clear();
            baseline_encode(black_box(&request), &mut buffer);
            black_box(buffer.len())
        });
    });
    encode.finish();

    let mut decode = criterion.benchmark_group("decode_16x64");
    decode.bench_function("frame", |bencher| {
        bencher.iter(|| wire::decode(black_box(&frame), &limits).expect("a frame"));
    });
    decode.bench_function("baseline", |bencher| bencher.iter(|| baseline_decode(black_box(&plain))));
    decode.finish();

    let mut checksum = criterion.benchmark_group("checksum_16x64");
    checksum.bench_function("crc32c", |bencher| bencher.iter(|| crc32c::crc32c(black_box(&frame))));
    checksum.finish();
}

criterion_group!(benches, codec);
criterion_main!(benches);
