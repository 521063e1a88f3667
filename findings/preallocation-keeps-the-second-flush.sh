#!/usr/bin/env bash
# One would guess: a log that reserves its space with posix_fallocate pays one device flush for each fdatasync, because the
# file's size no longer changes.
#
# What is: on ext4 and xfs the first write into a reserved block still changes metadata (the extent turns from "unwritten" into
# "written"), so each fdatasync commits the file system's journal too: two flushes, exactly as many as for a file that grows.
# Only blocks that were written before, with zeros for example, take one. On btrfs nothing helps: every overwrite goes to a new
# place, and 4 KiB of data become about 90 KB on the device, whatever was prepared.
#
# Seen with: Linux 6.18, e2fsprogs 1.47.0, xfsprogs 6.1.0, btrfs-progs 6.2 (Debian 12).
#
# Needs root, a free loop device and Python 3. Exit 0: as described; 1: the behaviour changed; 2: it cannot run here.
set -euo pipefail
[ "$(id -u)" = 0 ] && losetup -f >/dev/null 2>&1 || { echo "needs root and loop devices"; exit 2; }
for package in e2fsprogs xfsprogs btrfs-progs; do
    dpkg -s "$package" >/dev/null 2>&1 || apt-get install -y -qq --no-install-recommends "$package" >/dev/null
done
dir=$(mktemp -d)
loop=""
tidy() {
    umount "$dir/mnt" 2>/dev/null || true
    [ -z "$loop" ] || losetup -d "$loop"
    loop=""
}
trap 'tidy; rm -rf "$dir"' EXIT
mkdir "$dir/mnt"
uname -sr
dpkg-query -W -f '${Package} ${Version}\n' e2fsprogs xfsprogs btrfs-progs

cat >"$dir/probe.py" <<'PY'
import os, sys
path, way, device = sys.argv[1:]
size, count = 8 << 20, 200
file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
if way == "zeros":
    os.pwrite(file, bytes(size), 0)
elif way == "fallocate":
    os.posix_fallocate(file, 0, size)
os.fsync(file)
os.sync()
def seen():
    fields = [int(field) for field in open(f"/sys/block/{device}/stat").read().split()]
    return fields[6] * 512, fields[15]          # bytes written, flushes
bytes_before, flushes_before = seen()
for i in range(count):
    os.pwrite(file, b"x" * 4096, i * 4096)
    os.fdatasync(file)
bytes_after, flushes_after = seen()
print((flushes_after - flushes_before) / count, (bytes_after - bytes_before) // count)
PY

changed=0
expect() { # file system, way, flushes at least, at most, bytes at least
    rm -f "$dir/image"
    truncate -s 400M "$dir/image"
    case $1 in
    ext4) mkfs.ext4 -q -F "$dir/image" ;;
    xfs) mkfs.xfs -q -f "$dir/image" ;;
    btrfs) mkfs.btrfs -q -f "$dir/image" >/dev/null 2>&1 ;;
    esac
    loop=$(losetup -f --show "$dir/image")
    mount "$loop" "$dir/mnt" || { echo "$1 cannot be mounted here"; exit 2; }
    result=$(python3 "$dir/probe.py" "$dir/mnt/log" "$2" "$(basename "$loop")")
    read -r flushes bytes <<<"$result"
    tidy
    printf '%-6s %-10s %s flushes and %6d bytes for each write of 4096 bytes with fdatasync\n' "$1" "$2" "$flushes" "$bytes"
    awk -v f="$flushes" -v b="$bytes" -v low="$3" -v high="$4" -v least="$5" \
        'BEGIN { exit !(f >= low && f <= high && b >= least) }' || { echo "  changed: expected $3 to $4 flushes, $5 bytes or more"; changed=1; }
}
for fs in ext4 xfs; do
    expect $fs grow 1.8 2.2 4096
    expect $fs fallocate 1.8 2.2 4096
    expect $fs zeros 0.9 1.2 4096
done
for way in grow fallocate zeros; do expect btrfs $way 1.8 2.2 40000; done
exit $changed

# Output seen:
#   ext4   grow       2.0 flushes and   9216 bytes for each write of 4096 bytes with fdatasync
#   ext4   fallocate  2.0 flushes and   7168 bytes for each write of 4096 bytes with fdatasync
#   ext4   zeros      1.0 flushes and   4096 bytes for each write of 4096 bytes with fdatasync
#   xfs    grow       2.0 flushes and   5181 bytes for each write of 4096 bytes with fdatasync
#   xfs    fallocate  2.0 flushes and   5120 bytes for each write of 4096 bytes with fdatasync
#   xfs    zeros      1.0 flushes and   4096 bytes for each write of 4096 bytes with fdatasync
#   btrfs  grow       2.0 flushes and  90112 bytes for each write of 4096 bytes with fdatasync
#   btrfs  fallocate  2.0 flushes and  90624 bytes for each write of 4096 bytes with fdatasync
#   btrfs  zeros      2.0 flushes and  90624 bytes for each write of 4096 bytes with fdatasync
