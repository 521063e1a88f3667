//! The floors of the house, checked from the sources: what may import what, who may see the disk, the network, clocks
//! and threads, and how long a file may get. CONTRIBUTING.md draws the floors.

mod sources;

use sources::{Source, below, code_of, shipped_code_of};
use std::collections::BTreeMap;

/// The rooms, by path below `src/` without `.rs`; a room owns everything below its path. A room may import rooms of a
/// smaller floor, itself, and what `ALSO` grants.
const FLOORS: &[(&str, u8)] = &[
    ("types", 0),
    ("history", 1),
    ("membership", 1),
    ("message", 1),
    ("error", 1),
    ("transition", 1),
    ("life", 1),
    // Every thread of the driver and of the transports is started through it.
    ("threads", 1),
    // Whose files lie in it: the log, the snapshots, the memory of the peers.
    ("directory", 1),
    ("peers", 2),
    ("quorum", 2),
    ("config", 2),
    ("event", 2),
    ("action", 2),
    ("log/mod", 3),
    ("log/shared", 4),
    ("log/write_through", 4),
    // Above the log's directory, which its files lie in too.
    ("snapshot/files", 6),
    ("snapshot", 4),
    ("protocol", 5),
    ("log/memory", 5),
    ("log/wal", 5),
    ("wire", 5),
    ("transport", 5),
    ("ticker", 6),
    // The table's bytes in a snapshot need streams, the table itself does not.
    ("session/stream", 7),
    ("session", 6),
    ("trace", 6),
    // Whole directories are restored, of the log and of the snapshots.
    ("backup", 7),
    ("node", 7),
    ("driver", 8),
    ("testkit", 9),
];

/// Imports within a floor, or upwards, that are right all the same: (from, to).
const ALSO: &[(&str, &str)] = &[
    // Bytes become messages below the sockets.
    ("transport", "wire"),
    // An entry may be a configuration, and a message may bring one; a configuration is made of ids.
    ("types", "membership"),
    ("message", "membership"),
    // A configuration says which history it belongs to; messages, and errors about them, too.
    ("membership", "history"),
    ("message", "history"),
    ("error", "history"),
];

/// The rooms above, which need the other wing's rooms at most through the traits: (from, to) that no floor forbids.
const NEVER: &[(&str, &str)] = &[
    // The ticker serves the protocol; storage and network are none of its business.
    ("ticker", "log/memory"),
    ("ticker", "log/wal"),
    ("ticker", "wire"),
    ("ticker", "transport"),
    // A trace tells of the protocol; what is stored and sent is none of its business.
    ("trace", "log/memory"),
    ("trace", "log/wal"),
    ("trace", "wire"),
    ("trace", "transport"),
    // RaftNode is no_std and synchronous: it reaches messages, not sockets or files.
    ("node", "log/wal"),
    ("node", "wire"),
    ("node", "transport"),
    // Snapshots are the state machine's and the driver's; the protocol knows what they cover.
    ("protocol", "snapshot"),
    ("ticker", "snapshot"),
    ("trace", "snapshot"),
    ("node", "snapshot"),
    // Sessions are the state machine's: they know indexes and nothing else of the cluster.
    ("session", "protocol"),
    ("session", "log"),
    ("session", "snapshot"),
    ("session", "transport"),
    ("session", "wire"),
    ("session/stream", "snapshot"),
    // The driver works on traits: which log, which store and which transport is the user's choice.
    ("driver", "log/wal"),
    ("driver", "snapshot/files"),
    ("driver", "wire"),
    ("driver", "transport/tcp"),
];

/// Words that only some rooms may say, in `testkit` nothing is forbidden: (path, rooms that may, why).
const GUARDED: &[(&str, &[&str], &str)] = &[
    ("wal_db", &["log/wal"], "only log/wal sees wal-db"),
    ("pack_io", &["wire"], "only wire sees pack-io"),
    ("std::time", &["driver", "transport"], "only driver and transport see clocks"),
    ("std::thread", &["threads", "driver", "transport"], "only driver and transport see threads"),
    ("thread::Builder", &["threads"], "every thread is started in one place, where a test can refuse it"),
    ("std::net", &["transport"], "only transport sees the network"),
    // The transport remembers across restarts who its peers are, by the same door as the log.
    ("std::fs", &["directory", "log/wal", "trace", "backup"], "only directory, log/wal, trace and backup see files"),
    ("rand", &["ticker", "log/wal", "transport", "driver"], "the protocol knows no chance (law 1)"),
    ("rand_chacha", &["ticker", "log/wal", "transport", "driver"], "the protocol knows no chance (law 1)"),
];

/// The rooms behind the feature `std`; every other room is `no_std + alloc`.
const WITH_STD: &[&str] = &[
    "directory",
    "peers",
    "log/shared",
    "log/wal",
    "snapshot",
    "snapshot/files",
    "session/stream",
    "threads",
    "wire",
    "transport",
    "trace",
    "backup",
    "driver",
    "testkit",
];

/// Lines of a file, at most.
const LINES_MAX: usize = 600;
/// Files that are longer for now, with their allowance; it only shrinks.
const LONGER: &[(&str, usize)] = &[];

#[test]
fn rooms_import_only_downwards() {
    let sources = below("src", "rs");
    assert!(sources.len() > 10, "the sources were not found");
    assert_eq!(import_violations(&sources), Vec::<String>::new());
}

#[test]
fn disk_network_clocks_and_threads_stay_in_their_rooms() {
    assert_eq!(guarded_violations(&below("src", "rs")), Vec::<String>::new());
}

#[test]
fn the_protocol_wing_does_without_std() {
    assert_eq!(std_violations(&below("src", "rs")), Vec::<String>::new());
}

#[test]
fn files_stay_short() {
    let folders = ["src", "model", "tests", "examples", "benches", "fuzz"];
    let sources: Vec<Source> = folders.iter().flat_map(|folder| below(folder, "rs")).collect();
    let sources: Vec<Source> = sources.into_iter().filter(|source| !source.path.contains("/target/")).collect();
    assert_eq!(length_violations(&sources, LONGER), Vec::<String>::new());
}

/// The room that owns a path below `src/` (without `.rs`), if the table knows it.
fn room_of(path: &str) -> Option<&'static str> {
    let path = path.strip_suffix("/mod").unwrap_or(path);
    let owns = |room: &str| {
        let own = room.strip_suffix("/mod").unwrap_or(room);
        // `log/mod` is the trait's file alone; its siblings have rooms of their own.
        path == own || (own == room && path.starts_with(&format!("{room}/")))
    };
    FLOORS.iter().map(|(room, _)| *room).find(|room| owns(room))
}

fn floor_of(room: &str) -> u8 {
    FLOORS.iter().find(|(name, _)| *name == room).map(|(_, floor)| *floor).expect("a room of the table")
}

/// A source's path below `src/` without `.rs`; `None` for `lib.rs`, which names every room.
fn place_of(source: &Source) -> Option<&str> {
    let place = source.path.strip_prefix("src/")?.strip_suffix(".rs")?;
    (place != "lib").then_some(place)
}

fn import_violations(sources: &[Source]) -> Vec<String> {
    let exports = exports_of(sources);
    let mut violations = Vec::new();
    for source in sources {
        let Some(place) = place_of(source) else { continue };
        let Some(room) = room_of(place) else {
            violations.push(format!("{}: on no floor; give it a place in FLOORS", source.path));
            continue;
        };
        for path in crate_paths(&shipped_code_of(&source.text), place) {
            let Some(target) = resolve(&path, &exports) else {
                violations.push(format!("{}: crate::{} leads to no room", source.path, path.join("::")));
                continue;
            };
            let target_room = room_of(&target).expect("resolved to a room");
            let downwards = floor_of(target_room) < floor_of(room) || target_room == room;
            let within = |rooms: &str| target == rooms || target.starts_with(&format!("{rooms}/"));
            if let Some((_, never)) = NEVER.iter().find(|(from, to)| *from == room && within(to)) {
                violations.push(format!("{}: {room} must not import {never}", source.path));
            } else if !downwards && !ALSO.contains(&(room, target_room)) {
                violations.push(format!("{}: {room} must not import {target_room}", source.path));
            }
        }
    }
    violations.sort();
    violations.dedup();
    violations
}

/// Names that a module re-exports from its children: `log` exports `MemoryLog` of `log/memory`. The crate root is "".
fn exports_of(sources: &[Source]) -> BTreeMap<(String, String), String> {
    let mut exports = BTreeMap::new();
    for source in sources {
        let parent = match source.path.as_str() {
            "src/lib.rs" => String::new(),
            path => match path.strip_prefix("src/").and_then(|path| path.strip_suffix("/mod.rs")) {
                Some(folder) => format!("{folder}/"),
                None => continue,
            },
        };
        let code = shipped_code_of(&source.text);
        for (at, _) in code.match_indices("pub use ") {
            for path in use_tree(&code[at + "pub use ".len()..]).0 {
                if let [child @ .., name] = path.as_slice() {
                    let child = child.iter().map(String::as_str).filter(|part| !matches!(*part, "self" | "crate"));
                    let target = format!("{parent}{}", child.collect::<Vec<_>>().join("/"));
                    let module = parent.trim_end_matches('/').to_string();
                    exports.insert((module, name.clone()), target.trim_end_matches('/').to_string());
                }
            }
        }
    }
    exports
}

/// Where a path from the crate's root leads: the longest module prefix that is in a room, following re-exports.
fn resolve(path: &[String], exports: &BTreeMap<(String, String), String>) -> Option<String> {
    let mut module = String::new();
    for name in path {
        if let Some(target) = exports.get(&(module.clone(), name.clone())) {
            module.clone_from(target);
            continue;
        }
        let child = if module.is_empty() { name.clone() } else { format!("{module}/{name}") };
        if name.starts_with(char::is_uppercase) || room_of(&child).is_none() {
            break;
        }
        module = child;
    }
    room_of(&module).map(|_| module)
}

/// Every path that starts with `crate::` or climbs with `super::`, from the crate's root.
fn crate_paths(code: &str, place: &str) -> Vec<Vec<String>> {
    let module: Vec<String> = place.strip_suffix("/mod").unwrap_or(place).split('/').map(str::to_string).collect();
    let mut paths = Vec::new();
    for (at, _) in word_matches(code, "crate::") {
        paths.extend(use_tree(&code[at + "crate::".len()..]).0);
    }
    for (at, _) in word_matches(code, "super::") {
        if code[..at].ends_with("::") {
            continue;
        }
        let (mut base, mut rest) = (module.clone(), &code[at..]);
        while let Some(above) = rest.strip_prefix("super::") {
            base.pop();
            rest = above;
        }
        if !base.is_empty() {
            paths.extend(use_tree(rest).0.into_iter().map(|path| [base.clone(), path].concat()));
        } else {
            paths.extend(use_tree(rest).0);
        }
    }
    paths
}

/// Parses `a::{b, c::D}` into the paths it names, and how many bytes it took.
fn use_tree(text: &str) -> (Vec<Vec<String>>, usize) {
    let mut prefix: Vec<String> = Vec::new();
    let mut at = 0;
    loop {
        at += text[at..].len() - text[at..].trim_start().len();
        if text[at..].starts_with('{') {
            at += 1;
            let mut paths = Vec::new();
            loop {
                at += text[at..].len() - text[at..].trim_start_matches([' ', '\n', ',']).len();
                if at >= text.len() || text[at..].starts_with('}') {
                    return (paths, (at + 1).min(text.len()));
                }
                let (inner, length) = use_tree(&text[at..]);
                paths.extend(inner.into_iter().map(|path| [prefix.clone(), path].concat()));
                // `as Name`, and whatever this parser does not know.
                at += length.max(1);
                at += text[at..].find([',', '}']).unwrap_or(text.len() - at);
            }
        }
        let name = text[at..].find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len() - at);
        if name == 0 {
            return (vec![prefix], at);
        }
        prefix.push(text[at..at + name].to_string());
        at += name;
        match text[at..].strip_prefix("::") {
            Some(_) => at += 2,
            None => return (vec![prefix], at),
        }
    }
}

/// Occurrences of `needle` that begin a word.
fn word_matches<'a>(code: &'a str, needle: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    let begins = |at: usize| !code[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    code.match_indices(needle).filter(move |(at, _)| begins(*at))
}

/// Whether the code says `path` as a path of its own: `std::time` but not `std::time_of`, `my::std::time`.
fn says(code: &str, path: &str) -> bool {
    word_matches(code, path).any(|(at, _)| {
        let next = code[at + path.len()..].chars().next();
        let ends = !next.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
        // A crate's name counts as a path only when something of it is named or used.
        let is_path = path.contains("::") || code[at + path.len()..].starts_with("::") || code[..at].ends_with("use ");
        ends && is_path && !code[..at].trim_end_matches("::").ends_with("crate") && !code[..at].ends_with("::")
    })
}

fn guarded_violations(sources: &[Source]) -> Vec<String> {
    let mut violations = Vec::new();
    for source in sources {
        let Some(room) = place_of(source).and_then(room_of) else { continue };
        let code = expand_std_groups(&shipped_code_of(&source.text));
        for (path, rooms, why) in GUARDED {
            if room != "testkit" && !rooms.contains(&room) && says(&code, path) {
                violations.push(format!("{}: {path}: {why}", source.path));
            }
        }
    }
    violations
}

/// Writes out `use std::{thread, time::Instant};`, so that a group hides nothing.
fn expand_std_groups(code: &str) -> String {
    let mut expanded = code.to_string();
    for (at, _) in word_matches(code, "std::{") {
        for path in use_tree(&code[at..]).0 {
            expanded.push('\n');
            expanded.push_str(&path.join("::"));
        }
    }
    expanded
}

fn std_violations(sources: &[Source]) -> Vec<String> {
    let mut violations = Vec::new();
    for source in sources {
        let Some(room) = place_of(source).and_then(room_of) else { continue };
        let code = shipped_code_of(&source.text);
        if !WITH_STD.contains(&room) && word_matches(&code, "std::").next().is_some() {
            violations.push(format!("{}: names std::, but {room} is no_std + alloc", source.path));
        }
    }
    violations
}

fn length_violations(sources: &[Source], longer: &[(&str, usize)]) -> Vec<String> {
    let mut violations = Vec::new();
    for source in sources {
        let lines = source.text.lines().count();
        let allowance = longer.iter().find(|(path, _)| *path == source.path).map(|(_, lines)| *lines);
        match allowance {
            None if lines > LINES_MAX => {
                violations.push(format!("{}: {lines} lines, over {LINES_MAX}: split it", source.path));
            }
            Some(allowed) if lines > allowed => {
                violations.push(format!("{}: {lines} lines, over its allowance of {allowed}", source.path));
            }
            Some(allowed) if lines <= LINES_MAX || lines + 50 < allowed => {
                violations.push(format!("{}: {lines} lines: lower its allowance of {allowed}", source.path));
            }
            _ => {}
        }
    }
    for (path, _) in longer {
        if !sources.iter().any(|source| source.path == *path) {
            violations.push(format!("{path}: has an allowance but does not exist"));
        }
    }
    violations
}

mod the_checks_themselves {
    use super::*;

    fn house(files: &[(&str, &str)]) -> Vec<Source> {
        let root = ("src/lib.rs", "pub use protocol::Protocol;\npub use types::{Entry, Term};\n");
        let log = ("src/log/mod.rs", "mod memory;\npub use memory::MemoryLog;\n");
        let all = [root, log].into_iter().chain(files.iter().copied());
        all.map(|(path, text)| Source { path: path.to_string(), text: text.to_string() }).collect()
    }

    fn imports(path: &str, text: &str) -> Vec<String> {
        import_violations(&house(&[(path, text)]))
    }

    #[test]
    fn downward_imports_pass() {
        assert_eq!(imports("src/message.rs", "use crate::types::{Entry, Term};\n"), [""; 0]);
        assert_eq!(imports("src/message.rs", "use crate::{Entry, types::Term as T};\n"), [""; 0]);
        assert_eq!(imports("src/log/memory.rs", "use super::RaftLog;\nuse crate::action::Write;\n"), [""; 0]);
        assert_eq!(imports("src/protocol/election.rs", "use super::Protocol;\nuse crate::protocol::x::Y;\n"), [""; 0]);
        assert_eq!(imports("src/node.rs", "use crate::log::{LogView, MemoryLog};\nuse crate::Protocol;\n"), [""; 0]);
        assert_eq!(imports("src/transport/tcp/mod.rs", "use crate::wire::Frame;\n"), [""; 0]);
    }

    #[test]
    fn an_upward_import_is_found_in_every_spelling() {
        let found = ["src/types.rs: types must not import protocol"];
        assert_eq!(imports("src/types.rs", "use crate::protocol::Protocol;\n"), found);
        assert_eq!(imports("src/types.rs", "use crate::Protocol;\n"), found);
        assert_eq!(imports("src/types.rs", "use crate::{\n    types::Term,\n    Protocol,\n};\n"), found);
        assert_eq!(imports("src/types.rs", "fn f() { crate::protocol::run(); }\n"), found);
        assert_eq!(imports("src/types.rs", "use super::protocol::Protocol;\n"), found);
    }

    #[test]
    fn wings_do_not_import_each_other() {
        assert_eq!(
            imports("src/protocol/mod.rs", "use crate::log::{LogView, MemoryLog};\n"),
            ["src/protocol/mod.rs: protocol must not import log/memory"]
        );
        assert_eq!(
            imports("src/log/wal/mod.rs", "use super::super::protocol::Protocol;\n"),
            ["src/log/wal/mod.rs: log/wal must not import protocol"]
        );
        assert_eq!(
            imports("src/driver/mod.rs", "use crate::transport::{RaftTransport, tcp::Tcp};\n"),
            ["src/driver/mod.rs: driver must not import transport/tcp"]
        );
        assert_eq!(
            imports("src/wire/mod.rs", "use crate::transport::Receiver;\n"),
            ["src/wire/mod.rs: wire must not import transport"]
        );
    }

    #[test]
    fn a_room_without_a_floor_is_found() {
        assert_eq!(imports("src/attic.rs", ""), ["src/attic.rs: on no floor; give it a place in FLOORS"]);
        assert_eq!(
            imports("src/node.rs", "use crate::attic::Box;\n"),
            ["src/node.rs: crate::attic::Box leads to no room"]
        );
    }

    #[test]
    fn comments_strings_and_unit_tests_are_not_code() {
        let text = "//! [`x`](crate::Protocol)\n/* crate::node /* crate::x */ */\nconst S: &str = \"crate::node\";\n\
                    const R: &str = r#\"crate::\"node\"#;\nconst C: char = '\"'; fn f<'a>(x: &'a str) {}\n\
                    #[cfg(test)]\nmod tests { use crate::Protocol; }\n";
        assert_eq!(imports("src/types.rs", text), [""; 0]);
        let hidden = format!("{text}\n").replace("#[cfg(test)]\n", "");
        assert_eq!(imports("src/types.rs", &hidden), ["src/types.rs: types must not import protocol"]);
        assert_eq!(code_of("a // b\n'c' \"d\\\"\" é"), "a     \n            ");
    }

    #[test]
    fn guarded_words_are_found() {
        let found = |path: &str, text: &str| guarded_violations(&house(&[(path, text)]));
        assert_eq!(found("src/wire.rs", "use wal_db::Wal;\n"), ["src/wire.rs: wal_db: only log/wal sees wal-db"]);
        assert_eq!(found("src/log/wal/store.rs", "use wal_db::Wal;\nuse std::fs::File;\n"), [""; 0]);
        assert_eq!(
            found("src/log/wal/store.rs", "use std::{fs, thread};\n"),
            ["src/log/wal/store.rs: std::thread: only driver and transport see threads"]
        );
        assert_eq!(
            found("src/node.rs", "let now = std::time::Instant::now();\n"),
            ["src/node.rs: std::time: only driver and transport see clocks"]
        );
        assert_eq!(found("src/node.rs", "use core::time::Duration;\n"), [""; 0]);
        assert_eq!(
            found("src/protocol/mod.rs", "use rand::Rng;\n"),
            ["src/protocol/mod.rs: rand: the protocol knows no chance (law 1)"]
        );
        assert_eq!(found("src/testkit/net.rs", "use std::thread;\nuse rand::Rng;\n"), [""; 0]);
    }

    #[test]
    fn std_in_the_protocol_wing_is_found() {
        let found = |path: &str, text: &str| std_violations(&house(&[(path, text)]));
        assert_eq!(
            found("src/protocol/tail.rs", "use std::vec::Vec;\n"),
            ["src/protocol/tail.rs: names std::, but protocol is no_std + alloc"]
        );
        assert_eq!(found("src/protocol/tail.rs", "use alloc::vec::Vec; // not std::vec\n"), [""; 0]);
        assert_eq!(found("src/driver/mod.rs", "use std::sync::Arc;\n"), [""; 0]);
    }

    #[test]
    fn long_files_and_stale_allowances_are_found() {
        let lines = |count: usize| "x\n".repeat(count);
        let found = |count: usize, longer: &[(&str, usize)]| {
            length_violations(&[Source { path: "src/a.rs".to_string(), text: lines(count) }], longer)
        };
        assert_eq!(found(LINES_MAX, &[]), [""; 0]);
        assert_eq!(found(601, &[]), ["src/a.rs: 601 lines, over 600: split it"]);
        assert_eq!(found(700, &[("src/a.rs", 700)]), [""; 0]);
        assert_eq!(found(701, &[("src/a.rs", 700)]), ["src/a.rs: 701 lines, over its allowance of 700"]);
        assert_eq!(found(500, &[("src/a.rs", 700)]), ["src/a.rs: 500 lines: lower its allowance of 700"]);
        assert_eq!(found(10, &[("src/b.rs", 700)]), ["src/b.rs: has an allowance but does not exist"]);
    }
}
