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
    """Delete what processes of the run with this temporary folder, which has ended, have left: also the memory through which
    verl sends weights to vLLM on a CPU, whose names have no mark.

    What a process of another run uses stays: one that can be seen from here, which those of other containers that share
    /dev/shm cannot."""
    left = [*SHM.glob("verl_weights_*"), *(SHM.glob(f"{mark}*") if (mark := _mark(folder)) is not None else ())]
    used: set[str] = set()
    for process in Path("/proc").glob("[0-9]*") if left else ():
        with suppress(OSError):  # gone meanwhile, or another user's
            if f"TMPDIR={folder}".encode() not in (process / "environ").read_bytes().split(b"\0"):
                used |= set(re.findall(r"/dev/shm/(\w+)", (process / "maps").read_text()))
    for file in left:
        if file.name not in used:
            with suppress(OSError):  # another user's
                file.unlink()
