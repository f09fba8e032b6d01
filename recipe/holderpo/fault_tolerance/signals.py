"""All signals that a run's processes send and receive, and the exit statuses that answer them.

SIGTERM is what Slurm and Kubernetes send some time before they kill: the run saves and exits with a status of its own. The
signal reaches the driver; the trainer is an actor on any node, so the request travels as a file in the run's folder, which
is on a disk that all nodes share. The trainer looks for it once per step.
SIGINT is Ctrl-C: the run ends without saving. SIGUSR1 is sent by a thread to its own process, to end whatever the main
thread waits for; SIGUSR2 asks a process to write its stacks (stacks.py).
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from types import FrameType

STOP_REQUEST = "stop"
INTERRUPT_AGAIN_SECONDS = 30.0


class ExitStatus(IntEnum):
    """How the commands end; another status than these is an error."""

    FINISHED = 0
    REFUSED = 2
    """A wrong config, or input that cannot be used."""
    GUARD = 3
    """Stopped by `guard`: a collapse, or an update that is not finite."""
    STOPPED = 75
    """Stopped by SIGTERM (EX_TEMPFAIL of sysexits.h): the same command again resumes."""
    INTERRUPTED = 130
    """Ctrl-C."""


class Stopped(Exception):
    """Raised in the trainer after the checkpoint of the step at which it was asked to stop."""


def stop_requested(run_dir: str | Path) -> bool:
    """Whether SIGTERM has asked the run to stop. For the trainer."""
    return (Path(run_dir) / STOP_REQUEST).exists()


class StopRequest:
    """In the `with` block, SIGTERM asks the trainer to stop. If it has not within `grace_s` seconds, KeyboardInterrupt is
    raised in the main thread."""

    def __init__(self, run_dir: str | Path, grace_s: float):
        self.file = Path(run_dir) / STOP_REQUEST
        self.given = False
        self.timer = threading.Timer(grace_s, os.kill, (os.getpid(), signal.SIGINT))
        self.timer.daemon = True

    def __enter__(self) -> "StopRequest":
        self.file.unlink(missing_ok=True)  # of a run that was killed before it could stop
        self.before = signal.getsignal(signal.SIGTERM)
        self.listen()
        return self

    def listen(self) -> None:
        """To be called again after `ray.init`, which installs a handler of its own."""
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, _signal: int, _frame: FrameType | None) -> None:
        if not self.given:
            self.given = True
            self.file.touch()
            self.timer.start()

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self.before)
        self.timer.cancel()
        self.file.unlink(missing_ok=True)


def exit_on_sigterm() -> None:
    """As long as nothing is to be saved."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(ExitStatus.STOPPED))


def report_sigterm(message: str) -> None:
    """Print a message and stay: another process saves first, and its end ends this one."""
    signal.signal(signal.SIGTERM, lambda *_: print(message, flush=True))


def interrupt_on_sigint() -> None:
    """Ctrl-C raises KeyboardInterrupt; a shell lets its background jobs ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def wait_forwarding(process: "subprocess.Popen[bytes]") -> tuple[int, bool]:
    """Wait for a child process. SIGTERM and Ctrl-C are passed on to it.

    Returns:
        its exit status, and whether there was such a signal.
    """
    heard = []

    def pass_on(number: int) -> None:
        heard.append(number)
        process.send_signal(number)

    signal.signal(signal.SIGTERM, lambda *_: pass_on(signal.SIGTERM))
    while True:
        try:
            return process.wait(), bool(heard)
        except KeyboardInterrupt:
            pass_on(signal.SIGINT)


@contextmanager
def main_thread_interrupt() -> Iterator[Callable[[], None]]:
    """Yields a function for another thread, which raises KeyboardInterrupt in the main thread, whatever that waits for,
    until the `with` block has been left. To be entered in the main thread.

    The interrupt is repeated, since Python or a library may swallow it where it arrives."""
    left, main_thread = threading.Event(), threading.get_ident()

    def raise_interrupt(*_: object) -> None:
        if not left.is_set():
            raise KeyboardInterrupt  # nothing else gets through ray.get

    def interrupt() -> None:
        while not left.is_set():
            signal.pthread_kill(main_thread, signal.SIGUSR1)
            left.wait(INTERRUPT_AGAIN_SECONDS)

    signal.signal(signal.SIGUSR1, raise_interrupt)
    try:
        yield interrupt
    finally:
        left.set()
