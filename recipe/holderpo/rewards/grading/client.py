"""The trainer's side of grading: sends answers to the grading host, restarts it should it die, and loses none of them."""

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from threading import Lock, Thread

# How often in a row the host may die without having graded anything before that is an error.
MAX_BARREN_STARTS = 3
# A host that owes answers gives one within `timeout` and a little, or its pool is stuck (a process that is killed while it
# holds the pool's lock takes it with it): after so many seconds more it is replaced.
STUCK_SECONDS = 15.0


@dataclass(frozen=True)
class Verdict:
    equal: bool
    """Whether the two answers were found equal; False where there is a fault."""
    fault: str | None = None
    """Why nothing was found: "timeout" | "crash" (killed, or out of memory) | "unreadable" (no parse); else None."""


class Grader:
    """A grading host and the answers that it owes. Thread-safe.

    workers: grading processes; timeout: seconds of wall-clock time an answer, after which its process is killed;
    memory_mb: address space of a grading process, MiB."""

    def __init__(self, workers: int = 2, timeout: float = 5.0, memory_mb: int = 2048):
        self._command = [
            sys.executable,
            "-m",
            "recipe.holderpo.rewards.grading.host",
            str(workers),
            str(timeout),
            str(memory_mb),
        ]
        self._lock = Lock()
        self._ids = count()
        self._owed: dict[str, tuple[str, Future[Verdict]]] = {}
        self._held: dict[str, Verdict] = {}
        self._workers = workers
        self._barren_starts = 0
        self._closed = False
        self._why_closed = "the grader is closed"
        self._patience = timeout + STUCK_SECONDS
        self._moved = time.monotonic()
        self._errors = tempfile.TemporaryFile(mode="w+", errors="replace")  # noqa: SIM115 - as long as the host
        self._start()
        Thread(target=self._watch, daemon=True, name="grader-watch").start()

    def submit(self, answer: str, truth: str) -> "Future[Verdict]":
        """The verdict on one answer, to come. Raises RuntimeError once the grader is closed or its host cannot start."""
        future: Future[Verdict] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError(self._why_closed)
            key = str(next(self._ids))
            line = json.dumps({"id": key, "answer": answer, "truth": truth}) + "\n"
            if not self._owed:
                self._moved = time.monotonic()
            self._owed[key] = (line, future)
            self._send(line)
        return future

    def close(self) -> None:
        """End the host and its processes. What is still owed is cancelled."""
        with self._lock:
            self._closed = True
            owed, self._owed = list(self._owed.values()), {}
        for _, future in owed:
            future.cancel()
        _kill_family(self._host)
        self._host.wait()

    def _start(self) -> None:
        self._host = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=_empty_environment(),
            cwd="/",
            text=True,
        )
        Thread(target=self._receive, args=(self._host,), daemon=True, name="grader").start()

    def _send(self, line: str) -> None:
        assert self._host.stdin is not None
        try:
            self._host.stdin.write(line)
            self._host.stdin.flush()
        except OSError:
            pass  # it died: `_receive` sees that and sends everything owed to the next one

    def _receive(self, host: "subprocess.Popen[str]") -> None:
        assert host.stdout is not None
        for line in host.stdout:
            answer = json.loads(line)
            with self._lock:
                self._barren_starts = 0
                self._moved = time.monotonic()
                given = [
                    (self._owed.pop(key)[1], verdict)
                    for key, verdict in self._believed(answer["id"], Verdict(answer["equal"] is True, answer["fault"]))
                    if key in self._owed
                ]
            for future, verdict in given:
                if future.set_running_or_notify_cancel():
                    future.set_result(verdict)
        _kill_family(host)  # what it left, before its number can be given to another
        host.wait()
        with self._lock:
            if self._closed:
                return
            self._barren_starts += 1
            if self._barren_starts <= MAX_BARREN_STARTS:
                self._moved = time.monotonic()
                self._held = {}
                self._start()
                for line, _ in self._owed.values():
                    self._send(line)
                return
            self._errors.seek(0)
            said = self._errors.read().strip().splitlines() or ["no word"]
            status = f"exit status {host.returncode}"
            self._why_closed = f"the grading host ends ({status}) without grading anything: {said[-1]}"
            self._closed = True
            owed, self._owed = list(self._owed.values()), {}
        error = RuntimeError(self._why_closed)
        for _, future in owed:
            future.set_exception(error)

    def _believed(self, key: str, verdict: Verdict) -> list[tuple[str, Verdict]]:
        """The verdicts that may be given now that this one is there.

        In a pool that is stuck, each running answer ends in a timeout that is not its own. So a timeout is held back until
        the pool has shown that it goes on: by another verdict, or by more timeouts than it has processes. Where nothing else
        is owed, a probe is sent for that. Held answers stay owed: another host is asked for them too."""
        if verdict.fault != "timeout":
            believed = [*self._held.items(), (key, verdict)]
            self._held = {}
            return believed
        self._held[key] = verdict
        if len(self._held) > self._workers:
            oldest = next(iter(self._held))
            return [(oldest, self._held.pop(oldest))]
        if self._held.keys() >= self._owed.keys():
            self._send(json.dumps({"id": "probe", "answer": "1", "truth": "1"}) + "\n")
        return []

    def _watch(self) -> None:
        while not self._closed:
            time.sleep(1.0)
            # Without the lock, which a write to a host that does not read may hold.
            if self._owed and time.monotonic() - self._moved > self._patience:
                _kill_family(self._host)  # `_receive` starts another


def _kill_family(host: "subprocess.Popen[str]") -> None:
    """Kill a host and all that it started but its resource tracker: it leads a session of its own, once it has begun one.

    No-op once it has been waited for."""
    if host.returncode is None:
        host.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(host.pid, signal.SIGKILL)


def _empty_environment() -> dict[str, str]:
    """No variable of the trainer's, which may hold secrets; only what finds Python's modules."""
    path = os.pathsep.join(str(Path(entry or ".").resolve()) for entry in sys.path)
    return {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent", "PYTHONPATH": path}


_shared: dict[tuple[int, float, int], Grader] = {}
_shared_lock = Lock()


def shared_grader(workers: int, timeout: float, memory_mb: int) -> Grader:
    """One grader a process for every set of limits, ended with the process. Thread-safe."""
    key = (workers, timeout, memory_mb)
    with _shared_lock:
        if key not in _shared:
            _shared[key] = Grader(*key)
            atexit.register(_shared[key].close)
        return _shared[key]
