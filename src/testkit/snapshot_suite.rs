//! What every [`SnapshotStore`] must do, as a suite to run against an implementation.

use super::log_suite::Random;
use crate::snapshot::{
    Chunk, ChunkRequest, METADATA_BYTES_MAX, ReceiveError, SnapshotError, SnapshotInfo, SnapshotStore,
};
use crate::types::EntryId;
use bytes::Bytes;
use std::io::{Read, Write};
use std::vec;
use std::vec::Vec;

/// Makes the stores under test.
pub trait Fixture {
    /// The store under test.
    type Store: SnapshotStore;

    /// A new, empty store, in a place of its own.
    fn create(&mut self) -> Self::Store;

    /// Closes the store and opens it again in its place.
    fn reopen(&mut self, store: Self::Store) -> Self::Store;
}

/// Runs every check.
///
/// # Panics
/// If the store does not keep the contract.
pub fn run<F: Fixture>(fixture: &mut F) {
    keeps_contents_of_every_size(fixture);
    an_unfinished_snapshot_leaves_nothing(fixture);
    says_why_not(fixture);
    travels_chunk_by_chunk(fixture);
    refuses_chunks_that_do_not_fit(fixture);
    resumes_where_receiving_ended(fixture);
    never_mixes_two_snapshots(fixture);
    retains_the_newest_and_what_is_open(fixture);
    receives_one_at_a_time(fixture);
    sets_aside_what_is_not_of_its_log(fixture);
}

/// Bytes that differ from place to place.
#[must_use]
pub fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| random.draw().to_le_bytes()).collect();
    bytes.truncate(length);
    bytes
}

/// Takes a snapshot.
///
/// # Errors
/// The store's.
pub fn take(
    store: &impl SnapshotStore,
    last: EntryId,
    metadata: &[u8],
    content: &[u8],
) -> Result<SnapshotInfo, SnapshotError> {
    let mut writer = store.begin(last, Bytes::copy_from_slice(metadata))?;
    // Pieces that fit no chunk.
    for piece in content.chunks(777) {
        writer.write_all(piece)?;
    }
    writer.flush()?;
    writer.finish()
}

/// Reads a snapshot to its end.
///
/// # Errors
/// The store's.
pub fn read(store: &impl SnapshotStore, last: EntryId) -> Result<Vec<u8>, SnapshotError> {
    let mut reader = store.open(last)?;
    let mut content = Vec::new();
    let mut piece = [0; 1000];
    loop {
        match reader.read(&mut piece)? {
            0 => return Ok(content),
            count => content.extend_from_slice(&piece[..count]),
        }
    }
}

/// Fetches a snapshot from one store into another.
///
/// # Errors
/// Either store's.
pub fn transfer(
    from: &impl SnapshotStore,
    to: &impl SnapshotStore,
    last: EntryId,
) -> Result<SnapshotInfo, ReceiveError> {
    let mut receiver = to.receive(last)?;
    loop {
        if let Some(info) = receiver.accept(&from.chunk(receiver.next())?)? {
            return Ok(info);
        }
    }
}

fn id(index: u64) -> EntryId {
    EntryId::new(index, 1 + index / 10)
}

/// The chunk size of a store, found out with an empty snapshot.
fn chunk_bytes(store: &impl SnapshotStore) -> usize {
    take(store, EntryId::new(1, 1), b"", b"").expect("an empty snapshot is taken").chunk_bytes as usize
}

fn lasts(store: &impl SnapshotStore) -> Vec<EntryId> {
    store.list().iter().map(|info| info.last).collect()
}

fn keeps_contents_of_every_size<F: Fixture>(fixture: &mut F) {
    let mut store = fixture.create();
    assert_eq!((store.list(), store.newest()), (vec![], None), "a new store is empty");
    let size = chunk_bytes(&store);
    let lengths = [0, 1, 7, size - 1, size, size + 1, 2 * size, 3 * size + 5];
    for (length, index) in lengths.into_iter().zip(2..) {
        let (content, metadata) = (content(index, length), vec![index as u8; index as usize]);
        let info = take(&store, id(index), &metadata, &content).expect("a snapshot is taken");
        assert_eq!((info.last, info.bytes, &info.metadata[..]), (id(index), length as u64, &metadata[..]));
        assert_eq!(info.chunks(), length.div_ceil(size).max(1) as u64);
        assert_eq!(store.newest(), Some(info));
        assert_eq!(read(&store, id(index)).expect("it reads back"), content, "{length} bytes come back");
    }
    let before = store.list();
    assert!(before.windows(2).all(|pair| pair[0].last < pair[1].last && pair[0].identity != pair[1].identity));
    store = fixture.reopen(store);
    assert_eq!(store.list(), before, "complete snapshots survive reopening");
    for (length, index) in lengths.into_iter().zip(2..) {
        assert_eq!(read(&store, id(index)).expect("it reads back"), content(index, length));
    }
}

fn an_unfinished_snapshot_leaves_nothing<F: Fixture>(fixture: &mut F) {
    let mut store = fixture.create();
    let size = chunk_bytes(&store);
    for reopen in [false, true] {
        let mut writer = store.begin(id(5), Bytes::new()).expect("it begins");
        writer.write_all(&content(1, 3 * size)).expect("it is written");
        assert_eq!(lasts(&store), [EntryId::new(1, 1)], "nothing is listed before it is finished");
        drop(writer);
        if reopen {
            store = fixture.reopen(store);
        }
        assert_eq!(lasts(&store), [EntryId::new(1, 1)]);
        assert!(matches!(store.open(id(5)), Err(SnapshotError::NotFound { last }) if last == id(5)));
    }
    take(&store, id(5), b"", b"again").expect("it can be begun anew");
    assert_eq!(read(&store, id(5)).expect("it reads back"), b"again");
}

fn says_why_not<F: Fixture>(fixture: &mut F) {
    let store = fixture.create();
    let last = id(3);
    let large = Bytes::from(vec![0; METADATA_BYTES_MAX + 1]);
    assert!(matches!(store.begin(last, large.clone()), Err(SnapshotError::MetadataTooLarge { bytes: 65_537 })));
    drop(store.begin(last, large.slice(1..)).expect("64 KiB of metadata fit"));
    let writer = store.begin(last, Bytes::new()).expect("it begins");
    assert!(matches!(store.begin(last, Bytes::new()), Err(SnapshotError::Busy { .. })));
    assert!(matches!(store.receive(last), Err(SnapshotError::Busy { .. })));
    writer.finish().expect("it is finished");
    assert!(matches!(store.begin(last, Bytes::new()), Err(SnapshotError::Exists { .. })));
    assert!(matches!(store.receive(last), Err(SnapshotError::Exists { .. })));
    let absent = ChunkRequest { snapshot: id(4), chunk: 0 };
    assert!(matches!(store.chunk(absent), Err(SnapshotError::NotFound { .. })));
    for chunk in [1, u64::MAX] {
        let beyond = store.chunk(ChunkRequest { snapshot: last, chunk });
        assert!(matches!(beyond, Err(SnapshotError::NoSuchChunk { chunks: 1, .. })));
    }
    let receiver = store.receive(id(9)).expect("it begins");
    assert!(matches!(store.receive(id(9)), Err(SnapshotError::Busy { .. })));
    drop(receiver);
    store.receive(id(9)).expect("its names are free again").abandon();
    store.begin(id(9), Bytes::new()).expect("its names are free again");
}

fn travels_chunk_by_chunk<F: Fixture>(fixture: &mut F) {
    let (from, mut to) = (fixture.create(), fixture.create());
    let size = chunk_bytes(&from);
    let lengths = [0, 1, size - 1, size, size + 1, 4 * size, 4 * size + 3];
    for (length, index) in lengths.into_iter().zip(2..) {
        let bytes = content(index, length);
        let sent = take(&from, id(index), b"members", &bytes).expect("a snapshot is taken");
        let mut receiver = to.receive(id(index)).expect("it begins");
        assert_eq!(receiver.progress(), (0, None));
        let mut received = 0;
        for number in 0..sent.chunks() {
            assert_eq!(receiver.next(), ChunkRequest { snapshot: id(index), chunk: number });
            let chunk = from.chunk(receiver.next()).expect("a chunk is read");
            assert_eq!(chunk.is_last(), number + 1 == sent.chunks());
            received += chunk.data.len() as u64;
            let complete = receiver.accept(&chunk).expect("it fits");
            assert_eq!(complete, chunk.is_last().then(|| sent.clone()), "the last chunk completes it");
            if !chunk.is_last() {
                assert_eq!(receiver.progress(), (received, Some(length as u64)));
            }
            assert_eq!(to.newest().is_some_and(|newest| newest.last == id(index)), chunk.is_last());
        }
        let again = from.chunk(ChunkRequest { snapshot: id(index), chunk: 0 }).expect("a chunk is read");
        let after_the_end = receiver.accept(&again);
        assert!(matches!(after_the_end, Err(ReceiveError::Store(SnapshotError::Exists { .. }))));
        drop(receiver);
        assert_eq!(read(&to, id(index)).expect("it reads back"), bytes);
    }
    let before = to.list();
    to = fixture.reopen(to);
    assert_eq!(to.list(), before, "what was received survives reopening");
    assert_eq!(transfer(&to, &fixture.create(), id(8)).expect("it travels on").identity, before[6].identity);
}

/// Every way to be wrong, one at a time; `before` is the checksum of the chunk before.
fn wrong_chunks(good: &Chunk, before: Option<u32>) -> Vec<Chunk> {
    let mut wrong = Vec::new();
    let mut push = |change: &dyn Fn(&mut Chunk)| {
        let mut chunk = good.clone();
        change(&mut chunk);
        wrong.push(chunk);
    };
    push(&|chunk| chunk.snapshot = EntryId::new(chunk.snapshot.index, chunk.snapshot.term.0 + 1));
    push(&|chunk| chunk.identity ^= 1);
    push(&|chunk| chunk.number += 1);
    push(&|chunk| chunk.number = u64::MAX);
    if good.is_last() {
        push(&|chunk| chunk.total_bytes += 1);
        push(&|chunk| chunk.total_bytes += u64::from(chunk.chunk_bytes));
    }
    push(&|chunk| chunk.total_bytes = 0);
    push(&|chunk| chunk.total_bytes = chunk.number * u64::from(chunk.chunk_bytes) + chunk.data.len() as u64);
    push(&|chunk| chunk.total_bytes = u64::MAX);
    push(&|chunk| chunk.chunk_bytes -= 1);
    push(&|chunk| chunk.chunk_bytes = 0);
    push(&|chunk| chunk.chunk_bytes = u32::MAX);
    push(&|chunk| chunk.metadata = Bytes::from_static(b"other"));
    push(&|chunk| chunk.metadata = Bytes::from(vec![0; METADATA_BYTES_MAX + 1]));
    push(&|chunk| chunk.checksum ^= 1 << 31);
    push(&|chunk| chunk.data = chunk.data.slice(1..));
    push(&|chunk| chunk.data = Bytes::new());
    push(&|chunk| {
        let mut data = chunk.data.to_vec();
        data.push(0);
        chunk.data = data.into();
    });
    for position in [0, good.data.len() / 2, good.data.len() - 1] {
        push(&|chunk| {
            let mut data = chunk.data.to_vec();
            data[position] ^= 1;
            chunk.data = data.into();
        });
    }
    if let Some(before) = before {
        // A peer that cuts elsewhere, under checksums that hold.
        for length in [0, good.data.len() - 1] {
            push(&|chunk| {
                chunk.data = chunk.data.slice(..length);
                chunk.checksum = crc32c::crc32c_append(before, &chunk.data);
                if chunk.is_last() {
                    chunk.checksum = crc32c::crc32c_append(chunk.checksum, &chunk.total_bytes.to_le_bytes());
                }
            });
        }
    }
    wrong.retain(|chunk| chunk != good);
    wrong
}

fn refuses_chunks_that_do_not_fit<F: Fixture>(fixture: &mut F) {
    let (from, to) = (fixture.create(), fixture.create());
    let size = chunk_bytes(&from);
    let bytes = content(3, 2 * size + 100);
    let sent = take(&from, id(7), b"members", &bytes).expect("a snapshot is taken");
    let mut receiver = to.receive(id(7)).expect("it begins");
    let (mut complete, mut before) = (None, None);
    while complete.is_none() {
        let next = receiver.next();
        let good = from.chunk(next).expect("a chunk is read");
        for wrong in wrong_chunks(&good, before) {
            let refused = receiver.accept(&wrong).expect_err("a wrong chunk is refused");
            assert!(!matches!(refused, ReceiveError::Store(_)), "the store is not to blame: {refused}");
            assert_eq!(receiver.next(), next, "a refused chunk changes nothing");
        }
        complete = receiver.accept(&good).expect("the right one fits all the same");
        before = Some(good.checksum);
    }
    assert_eq!(complete, Some(sent));
    assert_eq!(read(&to, id(7)).expect("it reads back"), bytes);
}

fn resumes_where_receiving_ended<F: Fixture>(fixture: &mut F) {
    let (from, mut to) = (fixture.create(), fixture.create());
    let size = chunk_bytes(&from);
    let bytes = content(4, 6 * size);
    let sent = take(&from, id(7), b"members", &bytes).expect("a snapshot is taken");
    let mut complete = None;
    for number in 0..6 {
        let mut receiver = to.receive(id(7)).expect("it is gone on with");
        assert_eq!(receiver.next().chunk, number);
        complete = receiver.accept(&from.chunk(receiver.next()).expect("a chunk is read")).expect("it fits");
        drop(receiver);
        if number % 2 == 0 {
            to = fixture.reopen(to);
        }
    }
    assert_eq!(complete, Some(sent));
    assert_eq!(read(&to, id(7)).expect("it reads back"), bytes);

    let to = fixture.create();
    let mut receiver = to.receive(id(7)).expect("it begins");
    receiver.accept(&from.chunk(receiver.next()).expect("a chunk is read")).expect("it fits");
    receiver.abandon();
    assert_eq!(to.receive(id(7)).expect("it begins").next().chunk, 0, "what was abandoned is forgotten");
}

fn never_mixes_two_snapshots<F: Fixture>(fixture: &mut F) {
    let (one, two) = (fixture.create(), fixture.create());
    let size = chunk_bytes(&one);
    // Two servers' snapshots of one entry: of the same length, and all but equal.
    let bytes = [content(5, 4 * size), content(6, 4 * size)];
    take(&one, id(7), b"members", &bytes[0]).expect("a snapshot is taken");
    take(&two, id(7), b"members", &bytes[1]).expect("a snapshot is taken");
    let mut to = fixture.create();
    for reopen in [false, true] {
        let mut receiver = to.receive(id(7)).expect("it begins");
        for _ in receiver.next().chunk..2 {
            receiver.accept(&one.chunk(receiver.next()).expect("a chunk is read")).expect("it fits");
        }
        if reopen {
            drop(receiver);
            to = fixture.reopen(to);
            receiver = to.receive(id(7)).expect("it is gone on with");
        }
        let other = receiver.accept(&two.chunk(receiver.next()).expect("a chunk is read"));
        assert!(matches!(other, Err(ReceiveError::OtherSnapshot { .. })), "{other:?}");
        assert_eq!(receiver.next().chunk, 2);
    }
    let mut receiver = to.receive(id(7)).expect("it is gone on with");
    receiver.restart().expect("it begins anew");
    let mut complete = None;
    while complete.is_none() {
        complete = receiver.accept(&two.chunk(receiver.next()).expect("a chunk is read")).expect("it fits");
    }
    assert_eq!(read(&to, id(7)).expect("it reads back"), bytes[1]);
}

fn retains_the_newest_and_what_is_open<F: Fixture>(fixture: &mut F) {
    let mut store = fixture.create();
    let size = chunk_bytes(&store);
    for index in 2..=5 {
        take(&store, id(index), b"", &content(index, 2 * size)).expect("a snapshot is taken");
    }
    store.retain(id(3));
    assert_eq!(lasts(&store), [id(3), id(4), id(5)]);
    store.retain(id(3));
    assert_eq!(lasts(&store), [id(3), id(4), id(5)], "to repeat it changes nothing");
    let mut slow = store.open(id(3)).expect("it is open");
    let mut start = vec![0; 10];
    slow.read_exact(&mut start).expect("it reads");
    // One that nobody has: it is no reason to delete those that are there.
    store.retain(id(90));
    assert_eq!(lasts(&store), [id(3), id(5)], "the newest and what is open stay");
    let served = store.chunk(ChunkRequest { snapshot: id(3), chunk: 1 });
    assert_eq!(served.expect("what is open is served").data, content(3, 2 * size)[size..]);
    slow.read_to_end(&mut start).expect("a slow reader finishes");
    assert_eq!(start, content(3, 2 * size));
    drop(slow);
    assert_eq!(lasts(&store), [id(5)], "the last reader takes it along");
    store = fixture.reopen(store);
    assert_eq!(lasts(&store), [id(5)]);
    assert_eq!(read(&store, id(5)).expect("it reads back"), content(5, 2 * size));
}

fn receives_one_at_a_time<F: Fixture>(fixture: &mut F) {
    let (from, mut to) = (fixture.create(), fixture.create());
    let size = chunk_bytes(&from);
    for index in 3..=5 {
        take(&from, id(index), b"", &content(index, 3 * size)).expect("a snapshot is taken");
    }
    let receive_one = |to: &F::Store, index| {
        let mut receiver = to.receive(id(index)).expect("it begins");
        receiver.accept(&from.chunk(receiver.next()).expect("a chunk is read")).expect("it fits");
        receiver
    };
    drop(receive_one(&to, 3));
    drop(receive_one(&to, 4));
    assert_eq!(to.receive(id(3)).expect("it begins").next().chunk, 0, "a newer one takes its place");
    drop(receive_one(&to, 4));
    // Overtaken by a complete one.
    transfer(&from, &to, id(5)).expect("it travels");
    drop(receive_one(&to, 4));
    let working = receive_one(&to, 3);
    to.retain(id(5));
    assert_eq!(working.next().chunk, 1, "what is being received is left alone");
    drop(working);
    to.retain(id(5));
    assert_eq!(to.receive(id(3)).expect("it begins").next().chunk, 0, "what was overtaken is gone");
    drop(receive_one(&to, 4));
    to = fixture.reopen(to);
    to.retain(id(5));
    assert_eq!(to.receive(id(4)).expect("it begins").next().chunk, 0, "also after reopening");
}

/// The name is free for another one, and what was set aside does not come back.
fn sets_aside_what_is_not_of_its_log<F: Fixture>(fixture: &mut F) {
    let store = fixture.create();
    match store.set_aside(id(3)) {
        // A store that cannot: its users are told so by name.
        Err(SnapshotError::OtherHistory { .. }) => return,
        refused => assert!(matches!(refused, Err(SnapshotError::NotFound { .. })), "{refused:?}"),
    }
    for index in [2, 3, 4] {
        take(&store, id(index), b"foreign", &content(index, 2000)).expect("a snapshot is taken");
    }
    let mut reader = store.open(id(3)).expect("it is complete");
    store.set_aside(id(3)).expect("it is complete");
    assert_eq!(lasts(&store), [id(2), id(4)]);
    assert!(matches!(store.open(id(3)), Err(SnapshotError::NotFound { .. })));
    let own = content(33, 3000);
    take(&store, id(3), b"own", &own).expect("its name is free");
    let mut read_on = Vec::new();
    reader.read_to_end(&mut read_on).expect("who reads it goes on");
    assert_eq!(read_on, content(3, 2000));
    drop(reader);
    store.set_aside(id(4)).expect("the newest goes like any other");
    let store = fixture.reopen(store);
    assert_eq!(lasts(&store), [id(2), id(3)]);
    assert_eq!(read(&store, id(3)).expect("it reads back"), own);
    store.retain(id(3));
    assert_eq!(lasts(&store), [id(3)]);
}
