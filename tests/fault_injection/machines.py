"""What some faults need of the machine: each function takes the run's folder, and returns what is put before the command."""

import sys
from pathlib import Path

IN_OWN_MOUNTS = ("unshare", "--map-root-user", "--mount", "sh", "-ec")

# A disk with room for another checkpoint or two, but for a ballast that leaves only half of one: made, filled with the
# run's checkpoints and mounted over their folder.
SMALL_DISK = """
mount -t tmpfs -o size=$1 small "$3.disk"; cp -a "$3/." "$3.disk/"; mount --bind "$3.disk" "$3"
head -c $2 /dev/zero > "$3/ballast"; shift 3; exec "$@"
"""


def small_disk(run_dir: Path) -> list[str]:
    folder = run_dir / "checkpoints"
    checkpoint = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    folder.with_suffix(".disk").mkdir()
    return [*IN_OWN_MOUNTS, SMALL_DISK, "sh", str(4 * checkpoint), str(5 * checkpoint // 2), str(folder)]


# The run's folder through a process that may be stopped (FUSE; Debian's package bindfs), as on a network's disk.
FUSE_DISK = 'bindfs -o nonempty "$1" "$1"; shift; exec "$@"'


def fuse_disk(run_dir: Path) -> list[str]:
    return [*IN_OWN_MOUNTS, FUSE_DISK, "sh", str(run_dir)]


# A pipe that is full and has a reader who never reads, in the place of the console.
FULL_PIPE = """
import os, sys
reader, writer = os.pipe()
os.set_inheritable(reader, True)
os.set_blocking(writer, False)
try:
    while True:
        os.write(writer, bytes(4096))
except BlockingIOError:
    os.set_blocking(writer, True)
os.dup2(writer, 1)
os.dup2(writer, 2)
os.execv(sys.argv[1], sys.argv[1:])
"""


def no_console(_: Path) -> list[str]:
    return [sys.executable, "-c", FULL_PIPE]
