#!/usr/bin/env bash
# One would guess: bytes of a file that were written and synced can be overwritten in place, whatever else fills the volume. Logs
# that write their segments full of zeros beforehand rely on it. ext4 and tmpfs keep that promise.
#
# What is: btrfs writes every overwrite to a new place. On a full volume not one of 1,024 overwrites inside a synced file
# succeeds: ENOSPC at the first. posix_fallocate covers the first write of each block only; the second overwrite of the same blocks
# fails. With the attribute NOCOW, set while the file is empty (chattr +C), all succeed, as on ext4.
#
# Seen with: Linux 6.18, btrfs-progs 6.2, e2fsprogs 1.47.0 (Debian 12).
#
# Needs root, a free loop device and Python 3. Exit 0: as described; 1: the behaviour changed; 2: it cannot run here.
set -euo pipefail
[ "$(id -u)" = 0 ] && losetup -f >/dev/null 2>&1 || { echo "needs root and loop devices"; exit 2; }
for package in e2fsprogs btrfs-progs; do
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
dpkg-query -W -f '${Package} ${Version}\n' e2fsprogs btrfs-progs

cat >"$dir/probe.py" <<'PY'
import errno, os, subprocess, sys
folder, way = sys.argv[1:]
blocks, block = 1024, 4096
path = f"{folder}/log"
file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
if way == "nocow":
    subprocess.run(["chattr", "+C", path], check=True)
if way == "fallocate":
    os.posix_fallocate(file, 0, blocks * block)
else:
    os.pwrite(file, os.urandom(blocks * block), 0)
os.fsync(file)
os.sync()
other = os.open(f"{folder}/other", os.O_WRONLY | os.O_CREAT, 0o600)
chunk = os.urandom(1 << 20)
try:
    while True:
        os.write(other, chunk)
except OSError as full:
    assert full.errno == errno.ENOSPC
try:
    os.fsync(other)
except OSError:
    pass
def overwrite():
    done = 0
    try:
        for i in range(blocks):
            os.pwrite(file, os.urandom(block), i * block)
            os.fdatasync(file)
            done += 1
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
    return done
print(overwrite(), overwrite())
PY

changed=0
expect() { # file system, way, first pass, second pass: "all" or "few"
    rm -f "$dir/image"
    truncate -s 200M "$dir/image"
    case $1 in
    ext4) mkfs.ext4 -q -F "$dir/image" ;;
    btrfs) mkfs.btrfs -q -f "$dir/image" >/dev/null 2>&1 ;;
    esac
    loop=$(losetup -f --show "$dir/image")
    mount "$loop" "$dir/mnt" || { echo "$1 cannot be mounted here"; exit 2; }
    result=$(python3 "$dir/probe.py" "$dir/mnt" "$2")
    read -r first second <<<"$result"
    tidy
    printf '%-6s %-10s %4d of 1024 overwrites on the full volume, then %4d of 1024\n' "$1" "$2" "$first" "$second"
    for pair in "$first $3" "$second $4"; do
        case $pair in
        "1024 all") ;;
        *" few") [ "${pair% *}" -lt 1024 ] || changed=1 ;;
        *) changed=1 ;;
        esac
    done
}
expect ext4 written all all
expect btrfs written few few
expect btrfs fallocate all few
expect btrfs nocow all all
[ $changed = 0 ] || echo "changed"
exit $changed

# Output seen:
#   ext4   written    1024 of 1024 overwrites on the full volume, then 1024 of 1024
#   btrfs  written       0 of 1024 overwrites on the full volume, then    0 of 1024
#   btrfs  fallocate  1024 of 1024 overwrites on the full volume, then    0 of 1024
#   btrfs  nocow      1024 of 1024 overwrites on the full volume, then 1024 of 1024
