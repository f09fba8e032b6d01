"""Shared memory that processes of a run leave in /dev/shm when they are killed, as Ray ends those of a run that is through.

vLLM's rings between an engine and its workers have hundreds of megabytes, and names that Python draws by chance. `mark_names`
has them begin with a mark of the run, and `remove_shared_memory` deletes what has it. Unnecessary once vLLM unlinks a ring as
soon as all who use it have it mapped.
"""

import os
import re
from contextlib import suppress
from multiprocessing import shared_memory
from pathlib import Path

SHM = Path("/dev/shm")
_FOLDER = re.compile(r"holderpo-([0-9a-f]{6})-\d+")  # of run_files.temporary_folder


def mark_names() -> None:
    """In a process of a run with a temporary folder: give the shared memory that it makes a name with the run's mark.

    Raises AttributeError if this Python keeps the beginning of names elsewhere than 3.11 and 3.12 do."""
    if (mark := _mark(Path(os.environ.get("TMPDIR", "")))) is not None:
        _ = shared_memory._SHM_NAME_PREFIX  # type: ignore[attr-defined]
        shared_memory._SHM_NAME_PREFIX = f"/{mark}"  # type: ignore[attr-defined]


def _mark(temporary_folder: Path) -> str | None:
    """Seven characters: Python's names have 14, and its own part of them needs some."""
    found = _FOLDER.fullmatch(temporary_folder.name)
    return None if found is None else f"h{found[1]}"


def remove_shared_memory(folder: Path) -> None:
    """Delete what processes of the run with this temporary folder, which has ended, have left."""
    if (mark := _mark(folder)) is not None:
        for left in SHM.glob(f"{mark}*"):
            _unlink(left)
    _remove_weights(folder)


def _unlink(file: Path) -> None:
    with suppress(OSError):  # another user's, or gone
        file.unlink()


def _remove_weights(folder: Path) -> None:
    """Unlink the shared memory through which verl sends weights to vLLM on a CPU, and which its killed owner has left,
    unless a process of another run than that with this temporary folder uses it: one that can be seen from here, which
    those of other containers that share /dev/shm cannot."""
    used: set[str] = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # gone meanwhile, or another user's
            if f"TMPDIR={folder}".encode() not in (process / "environ").read_bytes().split(b"\0"):
                used |= set(re.findall(r"/dev/shm/(verl_weights_\w+)", (process / "maps").read_text()))
    for left in SHM.glob("verl_weights_*"):
        if left.name not in used:
            _unlink(left)
