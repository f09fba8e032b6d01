"""The trainer's side of grading: sends answers to the grading host, replaces it should it die, and loses none of them."""

import atexit
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from threading import Lock, Thread
from typing import IO, Any

from recipe.holderpo.config.values import wrong_settings
from recipe.holderpo.rewards.grading.progress import Progress
from recipe.holderpo.rewards.grading.settings import GradingSettings

# A host is replaced when it has used so many seconds of CPU time, or has been idle for so many, before it was ready ...
START_SECONDS = 120.0
# ... and then, since its last line. It writes one every second. A busy machine does not count against it.
SILENT_SECONDS = 60.0
# So many hosts in a row that end without having graded anything are an error.
MAX_USELESS_HOSTS = 4
CLOSED = "the grader is closed"


@dataclass(frozen=True)
class Verdict:
    equal: bool
    """Whether the two answers were found equal; False where there is a fault."""
    fault: str | None = None
    """Why nothing was found: "timeout" | "crash" (died, or out of memory) | "unreadable" (no parse); else None."""


class Grader:
    """A grading host and the answers that are pending there. Thread-safe; not for use in a fork of this process.

    Args:
        workers: grading processes, 1 to 256.
        timeout: limit for one answer, 0.001 to 86,400 seconds of CPU time of its grading process, or of idleness (it sleeps
            or is stopped). Time in which the process waits for a CPU is not counted.
        memory_mb: address space of a grading process, 1,024 to 1,048,576 MiB.

    Raises:
        ValueError: an argument is out of its bounds.
    """

    def __init__(self, workers: int = 2, timeout: float = 5.0, memory_mb: int = 2048):
        _check_limits(workers, timeout, memory_mb)
        host = (sys.executable, "-m", "recipe.holderpo.rewards.grading.host")
        self._command = [*host, str(workers), str(timeout), str(memory_mb)]
        self._owner = os.getpid()
        self._ids = count()
        self._lock = Lock()  # for the next three
        self._pending: dict[int, tuple[bytes, Future[Verdict]]] = {}
        self._unsent = bytearray()
        self._end: str | None = None  # why no more answers are taken
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._thread = Thread(target=self._run, daemon=True, name="grader")
        self._thread.start()

    def submit(self, answer: str, truth: str) -> "Future[Verdict]":
        """The verdict on one answer, to come. Does not block.

        Raises:
            RuntimeError: the grader is closed, its hosts do not work, or this process is a fork of the grader's.
        """
        if os.getpid() != self._owner:
            raise RuntimeError("this grader belongs to the process that this one was forked from")
        future: Future[Verdict] = Future()
        with self._lock:
            if self._end is not None:
                raise RuntimeError(self._end)
            key = next(self._ids)
            line = json.dumps({"id": key, "answer": answer, "truth": truth}).encode() + b"\n"
            self._pending[key] = line, future
            self._unsent += line
        self._wake_thread()
        return future

    def close(self) -> None:
        """End the host and its processes; pending answers are cancelled. No effect in a fork of the grader's process."""
        if os.getpid() != self._owner:
            return
        with self._lock:
            self._end = self._end or CLOSED
        self._wake_thread()
        self._thread.join()

    def _wake_thread(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full: the thread is about to wake up
            self._wake.send(b"x")

    def _run(self) -> None:
        """The grader's thread: starts one host after the other, until it is closed or they turn out to be useless."""
        useless, error = 0, "the grader's thread failed"
        try:
            while self._end is None and useless < MAX_USELESS_HOSTS:
                useful, how = self._run_host()
                useless = 0 if useful else useless + 1
                error = f"{useless} grading hosts in a row graded nothing; the last {how}"
        finally:
            with self._lock:
                self._end = self._end or error
                pending, self._pending = self._pending, {}
            for _, future in pending.values():
                if self._end == CLOSED:
                    future.cancel()
                elif future.set_running_or_notify_cancel():
                    future.set_exception(RuntimeError(error))

    def _run_host(self) -> tuple[bool, str]:
        """Start a host, serve it until it ends, is stuck or the grader is closed, and kill what is left of it.

        Returns:
            Whether it was of use: it graded something, or it was ready and there was nothing to do; and how it ended.
        """
        try:
            with tempfile.TemporaryFile() as errors, self._start_host(errors) as self._host:
                try:
                    useful, stuck = self._serve(self._host)
                finally:
                    with contextlib.suppress(ProcessLookupError):  # the host leads a group, which its processes are in
                        os.killpg(self._host.pid, signal.SIGKILL)
                    self._host.wait()
                errors.seek(0)
                said = errors.read().decode(errors="replace").strip().splitlines() or ["nothing on stderr"]
        except OSError as error:
            return False, f"could not be used: {error}"
        return useful, "gave no sign of life" if stuck else f"had exit status {self._host.returncode}: {said[-1]}"

    def _start_host(self, errors: IO[bytes]) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=_empty_environment(),
            cwd="/",
            bufsize=0,
            start_new_session=True,  # Ctrl-C at the trainer's terminal is the trainer's
        )

    def _serve(self, host: "subprocess.Popen[bytes]") -> tuple[bool, bool]:
        """Exchange lines with a host, which gets all that is pending, until it ends or the grader is closed.

        Returns:
            Whether it was of use, and whether it is stuck.
        """
        assert host.stdin is not None and host.stdout is not None
        requests, verdicts = host.stdin.fileno(), host.stdout.fileno()
        os.set_blocking(requests, False)
        with self._lock:
            self._unsent = bytearray().join(line for line, _ in self._pending.values())
        ready = graded = stuck = False
        received, progress = b"", Progress(host.pid)
        while self._end is None:
            # Judged before reading: a host that has written while this process itself was held up is not stuck.
            stuck = progress.exceeds(SILENT_SECONDS if ready else START_SECONDS)
            self._send(requests)
            if verdicts in self._wait(requests, verdicts, 0.0 if stuck else 1.0):
                data = os.read(verdicts, 1 << 16)
                if not data:
                    break
                *lines, received = (received + data).split(b"\n")
                if lines:
                    ready, progress = True, Progress(host.pid)
                for line in lines:
                    graded |= self._receive(json.loads(line))
            elif stuck:
                break
        with self._lock:
            return graded or (ready and not self._pending), stuck

    def _send(self, requests: int) -> None:
        with self._lock, contextlib.suppress(BlockingIOError, BrokenPipeError):  # it does not read now, or has ended
            del self._unsent[: os.write(requests, self._unsent[: 1 << 16])]

    def _wait(self, requests: int, verdicts: int, seconds: float) -> set[int]:
        """Wait until the host has written, or can be written to and something is unsent, or `_wake_thread` was called.

        Returns:
            The descriptors for which that is so.
        """
        poll = select.poll()
        poll.register(verdicts, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        if self._unsent:
            poll.register(requests, select.POLLOUT)
        ready = {descriptor for descriptor, _ in poll.poll(1000 * seconds)}
        if self._woken.fileno() in ready:
            self._woken.recv(1 << 12)
        return ready

    def _receive(self, line: dict[str, Any]) -> bool:
        """Whether the line is a verdict, which is given to whom it concerns."""
        if "id" not in line:
            return False
        with self._lock:
            _, future = self._pending.pop(line["id"])
        if future.set_running_or_notify_cancel():
            future.set_result(Verdict(line["equal"], line["fault"]))
        return True


def _check_limits(workers: int, timeout: float, memory_mb: int) -> None:
    limits = {"workers": workers, "timeout": timeout, "memory_mb": memory_mb}
    if wrong := wrong_settings("", limits, GradingSettings):
        raise ValueError("\n".join(wrong))


def _empty_environment() -> dict[str, str]:
    """No variable of the trainer's, which may hold secrets; only what finds Python's modules."""
    path = os.pathsep.join(str(Path(entry or ".").resolve()) for entry in sys.path)
    return {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent", "PYTHONPATH": path}


_shared: dict[tuple[int, float, int], Grader] = {}
_shared_lock = Lock()


def shared_grader(workers: int, timeout: float, memory_mb: int) -> Grader:
    """One grader per process for every set of limits, closed when the process ends. Thread-safe; a fork gets its own.

    Raises:
        ValueError: as `Grader`.
    """
    _check_limits(workers, timeout, memory_mb)  # 2.0 would find the grader of 2
    key = (workers, timeout, memory_mb)
    with _shared_lock:
        if key not in _shared:
            _shared[key] = Grader(*key)
            atexit.register(_shared[key].close)
        return _shared[key]


def _forget_shared() -> None:
    """In a forked process, where no thread serves the graders of its parent, and where a lock may be held for ever."""
    global _shared_lock
    _shared_lock = Lock()
    _shared.clear()


os.register_at_fork(after_in_child=_forget_shared)
