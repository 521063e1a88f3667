//! What is known of the file system that a directory lies on, as far as its name tells (`docs/FORMAT.md`, What is assumed of
//! the media).

#![cfg_attr(not(target_os = "linux"), allow(dead_code))] // Only there a table of mounts is read.

use std::path::{Path, PathBuf};
use std::string::{String, ToString};
use std::vec::Vec;

/// What a file system of this name does not promise that a log relies on; `None` where nothing is known against it.
pub(crate) fn warning(file_system: &str) -> Option<&'static str> {
    let family = file_system.split('.').next().unwrap_or_default();
    match family {
        "btrfs" | "bcachefs" | "zfs" => Some(
            "it copies on write, so that a full volume refuses even what overwrites a prepared segment: the log stops then; \
             keep some of the volume free, or on btrfs give the empty directory the attribute NOCOW (chattr +C) first",
        ),
        "fuse" | "fuseblk" | "9p" | "nfs" | "nfs4" | "cifs" | "smb3" | "ceph" => Some(
            "a directory's sync may answer before its names are on the medium, and a lock may not be seen through another \
             mount: a loss of power may take acknowledged entries; use a local file system",
        ),
        "tmpfs" | "ramfs" => Some("it is in memory: a loss of power takes everything"),
        _ => None,
    }
}

/// The file system that holds a path, from a table of mounts in the form of `/proc/self/mountinfo`.
pub(crate) fn file_system_of(path: &Path, mounts: &str) -> Option<String> {
    let mut found: Option<(usize, &str)> = None;
    for line in mounts.lines() {
        let Some((mount, file_system)) = line.split_once(" - ") else { continue };
        let Some(point) = mount.split(' ').nth(4).map(unescape) else { continue };
        let depth = point.components().count();
        // Of two at one place the later one is seen.
        if path.starts_with(&point) && found.is_none_or(|(deepest, _)| deepest <= depth) {
            found = file_system.split(' ').next().map(|name| (depth, name));
        }
    }
    found.map(|(_, name)| name.to_string())
}

/// Blanks and the like stand there as a backslash and three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let escaped = tail.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match escaped.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_mount_says_what_a_path_lies_on() {
        let mounts = "22 1 0:21 / / rw - overlay overlay rw\n\
                      23 22 0:22 / /data rw,noatime shared:1 - ext4 /dev/sda1 rw\n\
                      24 23 0:23 /sub /data/with\\040blank rw - btrfs /dev/sdb rw\n\
                      25 23 0:24 / /data/far rw - fuse.sshfs me@there:/ rw\n\
                      26 23 0:25 / /data/twice rw - ext4 /dev/sdc rw\n\
                      27 23 0:26 / /data/twice rw - xfs /dev/sdd rw\n\
                      not a line\n";
        let on = |path| file_system_of(Path::new(path), mounts);
        assert_eq!(on("/srv/raft").as_deref(), Some("overlay"));
        assert_eq!(on("/data").as_deref(), Some("ext4"));
        assert_eq!(on("/database").as_deref(), Some("overlay"), "not below /data");
        assert_eq!(on("/data/with blank/log").as_deref(), Some("btrfs"));
        assert_eq!(on("/data/far/log").as_deref(), Some("fuse.sshfs"));
        assert_eq!(on("/data/twice/log").as_deref(), Some("xfs"));
        assert_eq!(file_system_of(Path::new("/x"), ""), None);
    }

    #[test]
    fn what_is_known_against_a_file_system_is_said() {
        for name in ["btrfs", "fuse.sshfs", "fuse.bindfs", "fuse", "nfs4", "tmpfs"] {
            assert!(warning(name).is_some(), "{name}");
        }
        for name in ["ext4", "xfs", "overlay", "apfs", ""] {
            assert_eq!(warning(name), None, "{name}");
        }
    }
}
