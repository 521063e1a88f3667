//! Both stores of snapshots keep their contract; files on a real disk, too.
#![cfg(feature = "testkit")]

use raft_io::GroupId;
use raft_io::snapshot::MemorySnapshots;
use raft_io::testkit::snapshot_suite::{self, Fixture};

struct InMemory;

impl Fixture for InMemory {
    type Store = MemorySnapshots;

    fn create(&mut self) -> MemorySnapshots {
        MemorySnapshots::with_chunk_bytes(GroupId(3), 4096)
    }

    fn reopen(&mut self, store: MemorySnapshots) -> MemorySnapshots {
        store.clone()
    }
}

#[test]
fn memory_keeps_the_contract() {
    snapshot_suite::run(&mut InMemory);
}

#[cfg(feature = "persistence")]
mod files {
    use super::*;
    use bytes::Bytes;
    use raft_io::EntryId;
    use raft_io::snapshot::files::SnapshotOptions;
    use raft_io::snapshot::{ChunkRequest, ReceiveError, SnapshotError, SnapshotFiles, SnapshotStore};
    use raft_io::testkit::disk::{FaultyDisk, Image};
    use raft_io::testkit::snapshot_suite::{content, read, take, transfer};
    use std::fs;
    use std::io::{Read, Write};
    use std::path::PathBuf;
    use std::sync::Arc;
    use tempfile::TempDir;

    fn options() -> SnapshotOptions {
        SnapshotOptions::new().group(GroupId(3)).chunk_bytes(4096)
    }

    #[derive(Default)]
    struct OnDisk {
        directories: Vec<TempDir>,
    }

    impl Fixture for OnDisk {
        type Store = SnapshotFiles;

        fn create(&mut self) -> SnapshotFiles {
            let directory = tempfile::tempdir().unwrap();
            let store = SnapshotFiles::open(directory.path().join("snapshots"), options()).unwrap();
            self.directories.push(directory);
            store
        }

        fn reopen(&mut self, store: SnapshotFiles) -> SnapshotFiles {
            let path = store.path().to_path_buf();
            drop(store);
            SnapshotFiles::open(path, options()).unwrap()
        }
    }

    struct OnFaultyDisk;

    impl Fixture for OnFaultyDisk {
        type Store = OnADisk;

        fn create(&mut self) -> OnADisk {
            let disk = FaultyDisk::new();
            // Fewer bytes than asked for are not yet the end.
            disk.shorten_reads(1000);
            let store = SnapshotFiles::open_in(Arc::new(disk.clone()), options()).unwrap();
            OnADisk { store, disk }
        }

        fn reopen(&mut self, OnADisk { store, disk }: OnADisk) -> OnADisk {
            drop(store);
            let store = SnapshotFiles::open_in(Arc::new(disk.clone()), options()).unwrap();
            OnADisk { store, disk }
        }
    }

    struct OnADisk {
        store: SnapshotFiles,
        disk: FaultyDisk,
    }

    impl SnapshotStore for OnADisk {
        fn begin(
            &self,
            last: EntryId,
            metadata: Bytes,
        ) -> Result<Box<dyn raft_io::snapshot::SnapshotWriter>, SnapshotError> {
            self.store.begin(last, metadata)
        }

        fn list(&self) -> Vec<raft_io::snapshot::SnapshotInfo> {
            self.store.list()
        }

        fn open(&self, last: EntryId) -> Result<Box<dyn raft_io::snapshot::SnapshotReader>, SnapshotError> {
            self.store.open(last)
        }

        fn chunk(&self, request: ChunkRequest) -> Result<raft_io::snapshot::Chunk, SnapshotError> {
            self.store.chunk(request)
        }

        fn receive(&self, last: EntryId) -> Result<Box<dyn raft_io::snapshot::SnapshotReceiver>, SnapshotError> {
            self.store.receive(last)
        }

        fn retain(&self, last: EntryId) {
            self.store.retain(last);
        }
    }

    #[test]
    fn files_keep_the_contract() {
        snapshot_suite::run(&mut OnDisk::default());
    }

    #[test]
    fn files_keep_the_contract_on_a_disk_that_reads_short() {
        snapshot_suite::run(&mut OnFaultyDisk);
    }

    fn names(store: &SnapshotFiles) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(store.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn complete_file(store: &SnapshotFiles, last: EntryId) -> PathBuf {
        store.path().join(format!("{:016x}-{:016x}.snapshot", last.index.0, last.term.0))
    }

    /// The layout of docs/FORMAT.md, spelt out without the encoder.
    #[test]
    fn a_file_is_laid_out_as_documented() {
        let directory = tempfile::tempdir().unwrap();
        let store = SnapshotFiles::open(directory.path(), SnapshotOptions::new().group(GroupId(9)).chunk_bytes(512));
        let store = store.unwrap();
        let bytes = content(1, 600);
        let info = take(&store, EntryId::new(300, 7), b"who", &bytes).unwrap();
        let le = |number: u64| number.to_le_bytes();
        let fields = [&le(9)[..], &le(300), &le(7), &le(info.identity), &le(512), b"who"].concat();
        let mut file = [b"RAFTSNAP", &1u32.to_le_bytes()[..], &63u32.to_le_bytes(), &fields].concat();
        file.extend(crc32c::crc32c(&file).to_le_bytes());
        let seed = crc32c::crc32c(&fields);
        let first = crc32c::crc32c_append(seed, &bytes[..512]);
        let second = crc32c::crc32c_append(crc32c::crc32c_append(first, &bytes[512..]), &le(600));
        file.extend([&bytes[..512], &first.to_le_bytes(), &bytes[512..], &second.to_le_bytes()].concat());
        let trailer = [b"RAFTDONE", &le(600)[..], &second.to_le_bytes()].concat();
        file.extend(&trailer);
        file.extend(crc32c::crc32c(&trailer).to_le_bytes());
        assert_eq!(fs::read(complete_file(&store, EntryId::new(300, 7))).unwrap(), file);
        assert_eq!(names(&store), ["000000000000012c-0000000000000007.snapshot", "LOCK"]);
    }

    /// What a peer receives is the same file, byte by byte.
    #[test]
    fn a_received_file_equals_the_one_sent() {
        let mut fixture = OnDisk::default();
        let (from, to) = (fixture.create(), fixture.create());
        let last = EntryId::new(7, 2);
        take(&from, last, b"members", &content(2, 50_000)).unwrap();
        transfer(&from, &to, last).unwrap();
        assert_eq!(fs::read(complete_file(&from, last)).unwrap(), fs::read(complete_file(&to, last)).unwrap());
    }

    #[test]
    fn a_directory_is_opened_once_and_by_its_own_group_and_version() {
        let mut fixture = OnDisk::default();
        let store = fixture.create();
        let path = store.path().to_path_buf();
        assert!(matches!(SnapshotFiles::open(&path, options()), Err(SnapshotError::Locked { .. })));
        let last = EntryId::new(1, 1);
        take(&store, last, b"", b"x").unwrap();
        let file = complete_file(&store, last);
        let reader = store.open(last).unwrap();
        drop(store);
        assert!(matches!(SnapshotFiles::open(&path, options()), Err(SnapshotError::Locked { .. })), "a reader is open");
        drop(reader);
        let wrong = SnapshotFiles::open(&path, options().group(GroupId(4)));
        assert!(matches!(wrong, Err(SnapshotError::WrongGroup { found: GroupId(3), expected: GroupId(4), .. })));
        let mut bytes = fs::read(&file).unwrap();
        bytes[8] = 2;
        let checksum = crc32c::crc32c(&bytes[..56]).to_le_bytes();
        bytes[56..60].copy_from_slice(&checksum);
        fs::write(&file, &bytes).unwrap();
        assert!(matches!(SnapshotFiles::open(&path, options()), Err(SnapshotError::Unsupported { offset: 8, .. })));
    }

    #[test]
    fn opening_removes_what_is_left_over_and_nothing_else() {
        let mut fixture = OnDisk::default();
        let (from, store) = (fixture.create(), fixture.create());
        for index in [5, 6, 7] {
            take(&from, EntryId::new(index, 1), b"", &content(index, 9000)).unwrap();
        }
        for index in [5, 7] {
            let mut receiver = store.receive(EntryId::new(index, 1)).unwrap();
            receiver.accept(&from.chunk(receiver.next()).unwrap()).unwrap();
            drop(receiver);
            // Another begins only after this was saved from it.
            let name = format!("{index:016x}-0000000000000001.partial");
            fs::rename(store.path().join(&name), store.path().join(format!("{name}.kept"))).unwrap();
        }
        transfer(&from, &store, EntryId::new(6, 1)).unwrap();
        let path = store.path().to_path_buf();
        drop(store);
        for index in [5, 7] {
            let name = path.join(format!("{index:016x}-0000000000000001.partial"));
            fs::rename(name.with_extension("partial.kept"), &name).unwrap();
        }
        for name in ["0000000000000009-0000000000000001.tmp", "MANIFEST.tmp", "9-1.tmp", "notes.partial"] {
            fs::write(path.join(name), "x").unwrap();
        }
        let store = SnapshotFiles::open(&path, options()).unwrap();
        let kept = [
            "0000000000000006-0000000000000001.snapshot",
            "0000000000000007-0000000000000001.partial",
            "9-1.tmp",
            "LOCK",
            "MANIFEST.tmp",
            "notes.partial",
        ];
        assert_eq!(names(&store), kept);
        assert_eq!(store.receive(EntryId::new(7, 1)).unwrap().next().chunk, 1);
    }

    /// A snapshot that somebody copied under another name is neither used nor deleted, and is named.
    #[test]
    fn what_looks_like_a_snapshot_and_is_none_is_named_and_left_alone() {
        let mut fixture = OnDisk::default();
        let store = fixture.create();
        take(&store, EntryId::new(5, 1), b"", &content(5, 9000)).unwrap();
        assert_eq!(store.foreign_files(), &[] as &[PathBuf], "its own are none");
        let path = store.path().to_path_buf();
        drop(store);
        let foreign = [
            "0000000000000005-0000000000000001 (copy).snapshot",
            "0000000000000006-000000000000000A.snapshot",
            "backup.SNAPSHOT",
            "notes.partial",
        ];
        let others = ["0000000000000009-0000000000000001-0000000000000007.foreign", "9-1.tmp", "README"];
        foreign.iter().chain(&others).for_each(|name| fs::write(path.join(name), name).unwrap());
        fs::create_dir(path.join("0000000000000007-0000000000000001.snapshot")).unwrap();
        let mut expected: Vec<_> = foreign.iter().map(ToString::to_string).collect();
        expected.push("0000000000000007-0000000000000001.snapshot".to_string());
        #[cfg(unix)]
        {
            let link = "0000000000000008-0000000000000001.partial";
            std::os::unix::fs::symlink(path.join("README"), path.join(link)).unwrap();
            expected.push(link.to_string());
        }
        expected.sort();
        for _ in 0..2 {
            let store = SnapshotFiles::open(&path, options()).unwrap();
            let name = |file: &PathBuf| file.strip_prefix(&path).unwrap().to_str().unwrap().to_string();
            let mut named: Vec<_> = store.foreign_files().iter().map(name).collect();
            named.sort();
            assert_eq!(named, expected);
            assert_eq!(store.list().iter().map(|info| info.last).collect::<Vec<_>>(), [EntryId::new(5, 1)]);
            store.retain(EntryId::new(5, 1));
        }
        for name in foreign.iter().chain(&others) {
            assert_eq!(fs::read(path.join(name)).unwrap(), name.as_bytes(), "left alone");
        }
        assert!(path.join("0000000000000007-0000000000000001.snapshot").is_dir());
    }

    /// A partial file in which anything is wrong is used up to there.
    #[test]
    fn only_what_verifies_is_resumed_from() {
        let mut fixture = OnDisk::default();
        let (from, to) = (fixture.create(), fixture.create());
        let last = EntryId::new(7, 2);
        let bytes = content(2, 4 * 4096 + 9);
        take(&from, last, b"members", &bytes).unwrap();
        let mut receiver = to.receive(last).unwrap();
        for _ in 0..4 {
            receiver.accept(&from.chunk(receiver.next()).unwrap()).unwrap();
        }
        drop(receiver);
        let partial = to.path().join("0000000000000007-0000000000000002.partial");
        let whole = fs::read(&partial).unwrap();
        let header_bytes = 60 + 7;
        assert_eq!(whole.len(), header_bytes + 4 * 4100);
        let damage = |offset: usize| {
            let mut bytes = whole.clone();
            bytes[offset] ^= 4;
            bytes
        };
        let cases = (0..whole.len()).step_by(97).map(|offset| {
            let usable = offset.checked_sub(header_bytes).map_or(0, |at| at / 4100);
            [(damage(offset), usable), (whole[..offset].to_vec(), usable)]
        });
        for (bytes, usable) in cases.flatten().chain([(whole.clone(), 4)]) {
            fs::write(&partial, bytes).unwrap();
            assert_eq!(to.receive(last).unwrap().next().chunk, usable as u64);
        }
        // More behind it than was ever received changes nothing either.
        transfer(&from, &to, last).unwrap();
        assert_eq!(read(&to, last).unwrap(), bytes);
    }

    /// A store whose file of the newer of two snapshots holds these bytes.
    fn with_file(image: &Image, name: &str, bytes: Vec<u8>) -> SnapshotFiles {
        let mut image = image.clone();
        image.insert(name.to_string(), bytes);
        SnapshotFiles::open_in(Arc::new(FaultyDisk::from_image(&image)), options()).unwrap()
    }

    #[test]
    fn every_flipped_bit_of_a_file_is_reported() {
        let disk = FaultyDisk::new();
        let store = SnapshotFiles::open_in(Arc::new(disk.clone()), options().chunk_bytes(600)).unwrap();
        let (older, last) = (EntryId::new(3, 1), EntryId::new(7, 2));
        take(&store, older, b"", b"an older one").unwrap();
        take(&store, last, b"members", &content(2, 2 * 600 + 99)).unwrap();
        let (image, file) = (disk.live_image(), complete_file(&store, last));
        let name = file.file_name().unwrap().to_str().unwrap();
        let good = &image[name];
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let store = with_file(&image, name, bad);
            let found = read(&store, last).expect_err("a flipped bit is found");
            let SnapshotError::Corrupt { file: found, offset, .. } = &found else { panic!("bit {bit}: {found}") };
            assert!(found == &file && *offset <= (bit / 8) as u64, "bit {bit}: byte {offset}");
            // From now on it is not there, and what came before it is.
            assert_eq!(store.newest().map(|info| info.last), Some(older));
            assert_eq!(store.damaged().len(), 1);
            assert!(matches!(store.open(last), Err(SnapshotError::Corrupt { .. })));
        }
        for length in (0..good.len()).chain([good.len() + 1, good.len() + 604]) {
            let mut bad = good.clone();
            bad.resize(length, 0);
            let found = read(&with_file(&image, name, bad), last).expect_err("a wrong length is found");
            assert!(matches!(found, SnapshotError::Corrupt { .. }), "{length} bytes: {found}");
        }
    }

    /// Sound in itself, but of another content.
    #[test]
    fn an_exchanged_trailer_is_found() {
        let disk = FaultyDisk::new();
        let store = SnapshotFiles::open_in(Arc::new(disk.clone()), options()).unwrap();
        for index in [3, 7] {
            take(&store, EntryId::new(index, 2), b"", &content(index, 9000)).unwrap();
        }
        let image = disk.live_image();
        let mut files = image.iter().filter(|(name, _)| name.ends_with(".snapshot"));
        let ((_, other), (name, good)) = (files.next().unwrap(), files.next().unwrap());
        let trailer = good.len() - 24;
        let store = with_file(&image, name, [&good[..trailer], &other[trailer..]].concat());
        let found = read(&store, EntryId::new(7, 2)).unwrap_err();
        assert!(matches!(found, SnapshotError::Corrupt { offset, .. } if offset == trailer as u64), "{found}");
    }

    #[test]
    fn a_damaged_chunk_is_not_sent_and_a_damaged_snapshot_is_replaced() {
        let mut fixture = OnDisk::default();
        let (from, to) = (fixture.create(), fixture.create());
        let last = EntryId::new(7, 2);
        let bytes = content(2, 3 * 4096);
        take(&from, last, b"", &bytes).unwrap();
        transfer(&from, &to, last).unwrap();
        let file = complete_file(&from, last);
        let mut bad = fs::read(&file).unwrap();
        bad[60 + 4100 + 5] ^= 1;
        fs::write(&file, bad).unwrap();
        let chunk = |chunk| ChunkRequest { snapshot: last, chunk };
        from.chunk(chunk(0)).unwrap();
        assert!(matches!(from.chunk(chunk(1)), Err(SnapshotError::Corrupt { offset: 4160, .. })));
        assert!(matches!(from.chunk(chunk(0)), Err(SnapshotError::Corrupt { .. })), "nothing of it is served any more");
        assert_eq!(from.newest(), None);
        // Fetched back from the peer that has it.
        transfer(&to, &from, last).unwrap();
        assert_eq!(read(&from, last).unwrap(), bytes);
        assert!(from.damaged().is_empty());
    }

    #[test]
    fn retaining_deletes_damaged_ones_and_never_the_newest_that_is_not() {
        let mut fixture = OnDisk::default();
        let store = fixture.create();
        for index in 1..=4 {
            take(&store, EntryId::new(index, 1), b"", &content(index, 9000)).unwrap();
        }
        for index in [2, 4] {
            let file = complete_file(&store, EntryId::new(index, 1));
            let mut bad = fs::read(&file).unwrap();
            bad[5000] ^= 1;
            fs::write(&file, bad).unwrap();
            read(&store, EntryId::new(index, 1)).unwrap_err();
        }
        store.retain(EntryId::new(4, 1));
        let complete: Vec<_> = store.list().iter().map(|info| info.last.index.0).collect();
        assert_eq!((complete, store.damaged().len()), (vec![3], 1), "3 is the newest; 4 is kept as evidence");
        assert_eq!(read(&store, EntryId::new(3, 1)).unwrap(), content(3, 9000));
    }

    /// What the state machine did not manage to write is not a snapshot, and its own errors pass.
    #[test]
    fn errors_pass_through_streams() {
        let error = SnapshotError::from(std::io::Error::other("the state machine's own"));
        assert!(matches!(error, SnapshotError::Io { operation: "streaming", .. }));
        let corrupt = || SnapshotError::Corrupt { file: "f".into(), offset: 3, reason: "r" };
        let carried = std::io::Error::from(corrupt());
        assert_eq!(carried.kind(), std::io::ErrorKind::InvalidData);
        assert!(matches!(SnapshotError::from(carried), SnapshotError::Corrupt { offset: 3, .. }));
        assert!(ReceiveError::from(corrupt()).to_string().contains("damaged at byte 3"));
    }

    /// A few chunks of memory, whatever the size: measured by the size of what is handed around.
    #[test]
    fn a_large_snapshot_is_streamed() {
        let mut fixture = OnDisk::default();
        let store = fixture.create();
        let last = EntryId::new(1, 1);
        let mut writer = store.begin(last, Bytes::new()).unwrap();
        let piece = content(1, 1 << 20);
        for _ in 0..64 {
            writer.write_all(&piece).unwrap();
        }
        assert_eq!(writer.finish().unwrap().bytes, 64 << 20);
        let mut reader = store.open(last).unwrap();
        let mut back = vec![0; 1 << 20];
        for _ in 0..64 {
            reader.read_exact(&mut back).unwrap();
            assert!(back == piece);
        }
        assert_eq!(reader.read(&mut back).unwrap(), 0);
    }
}
