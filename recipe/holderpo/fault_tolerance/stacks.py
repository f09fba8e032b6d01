"""What every process of a run is doing: the Python stacks of all its threads, written by the process itself on a signal.

A process that has called `write_stacks_on_signal` has a file in memory with the run's mark in its name, into which
faulthandler writes, also where the process waits in C code. Others read it through /proc: no ptrace is needed, which
containers refuse.
"""

import faulthandler
import fcntl
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

SIGNAL = signal.SIGUSR2
ANSWER_SECONDS = 5.0
LONGEST_NAME = 60
ABOVE = 600  # a number that neither a forked process's inherited files nor Ray's get
STOPPED, AT_DISK = "stopped", "waits for a disk"
NOT_RUNNING = {psutil.STATUS_STOPPED: STOPPED, psutil.STATUS_TRACING_STOP: STOPPED, psutil.STATUS_DISK_SLEEP: AT_DISK}
_file = -1


def _mark() -> str:
    """TMPDIR is a folder of the run's own on each node (`run_files.temporary_folder`)."""
    return f"holderpo-stacks:{tempfile.gettempdir()}"


def write_stacks_on_signal() -> None:
    """To be called once in each process of a run; one that is forked from it has a file of its own. A handler that somebody
    else has set stays."""
    if signal.getsignal(SIGNAL) is not signal.SIG_DFL:
        return
    try:
        _take_signal()
    except OSError as error:  # a limit on open files below ABOVE
        print(f"holderpo: this process cannot write its stacks: {error}", file=sys.stderr)
        return
    os.register_at_fork(after_in_child=_take_signal)


def _take_signal() -> None:
    global _file
    made = os.memfd_create(_mark())
    if _file >= 0:
        os.close(_file)  # the parent's
    _file = fcntl.fcntl(made, fcntl.F_DUPFD_CLOEXEC, ABOVE)
    os.close(made)
    faulthandler.register(SIGNAL, file=_file, all_threads=True)


@dataclass
class Found:
    """A process of the run, and what it answered."""

    process: psutil.Process
    file: Path | None
    """Where it writes its stacks; None for one that does not (Ray's own, written in C++)."""
    name: str
    state: str
    text: str = ""

    @property
    def trouble(self) -> str | None:
        """Why it may be the one that the others wait for; None if nothing is to be seen."""
        if self.state in NOT_RUNNING.values():
            return self.state
        return "does not answer" if self.file is not None and not self.text else None

    def __str__(self) -> str:
        return f"{self.name} (process {self.process.pid}, {self.trouble or self.state})"


def processes_of_run() -> list[psutil.Process]:
    """This machine's: what this process has started, and what has the run's mark. On a cluster that was up before TMPDIR is
    not the run's own, and the mark says nothing: to walk the threads of another run's process could crash it."""
    below = psutil.Process().children(recursive=True)
    has_own_folder = Path(tempfile.gettempdir()).name.startswith("holderpo-")
    marked = [one for one in psutil.process_iter() if _file_of(one) is not None] if has_own_folder else []
    return [*dict.fromkeys([*below, *marked])]


def stacks(processes: Iterable[psutil.Process]) -> list[Found]:
    """Ask all of them, and wait for the answers for a few seconds."""
    found = [one for process in processes if (one := _found(process)) is not None]
    asked = [one for one in found if one.file is not None and one.state not in NOT_RUNNING.values()]
    lengths = [_length(one.file) for one in asked]
    for one in asked:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(one.process.pid, SIGNAL)
    end = time.monotonic() + ANSWER_SECONDS
    before: list[int] = []
    while time.monotonic() < end:
        now = [_length(one.file) for one in asked]
        if now == before and all(length > old for length, old in zip(now, lengths, strict=True)):
            break  # all have begun, and none goes on
        before = now
        time.sleep(0.2)
    for one, length in zip(asked, lengths, strict=True):
        one.text = _read(one.file, length)
        if not one.text and (later := _found(one.process)) is not None:
            one.state = later.state  # it may have been stopped just before it was asked
    return found


def report(found: Sequence[Found]) -> str:
    """All of it, those in trouble first."""
    lines = [f"{socket.gethostname()}, {len(found)} processes"]
    for one in sorted(found, key=lambda one: one.trouble is None):
        lines += [f"\n=== {one}", one.text.strip() or "(no Python stack)"]
    return "\n".join(lines) + "\n"


def _found(process: psutil.Process) -> Found | None:
    try:
        status = process.status()
        words = process.cmdline() or [process.name()]
        name = " ".join([Path(words[0]).name, *words[1:]])[:LONGEST_NAME].strip()
        return Found(process, _file_of(process), name, NOT_RUNNING.get(status, status))
    except psutil.Error:
        return None  # it has ended meanwhile


def _file_of(process: psutil.Process) -> Path | None:
    """The file into which a process of this run writes its stacks."""
    with suppress(OSError):
        for entry in Path(f"/proc/{process.pid}/fd").iterdir():
            if (
                entry.name.isdigit()
                and int(entry.name) >= ABOVE
                and os.readlink(entry) == f"/memfd:{_mark()} (deleted)"
            ):
                return entry
    return None


def _length(file: Path | None) -> int:
    with suppress(OSError):
        return file.stat().st_size if file else 0
    return 0


def _read(file: Path | None, start: int) -> str:
    with suppress(OSError):
        return file.read_bytes()[start:].decode(errors="replace") if file else ""
    return ""
