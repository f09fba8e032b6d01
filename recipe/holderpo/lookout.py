"""Notices that a process which training depends on is gone. verl waits for its samples, weights or data for ever, or goes on
with fewer samples."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError

EVERY_SECONDS = 5.0
HEALTH_SECONDS = 60.0

Ask = Callable[[], Sequence[Any]]


def check(ask: Ask, seconds: float = HEALTH_SECONDS) -> None:
    """Ask once, and wait so long for the answers; busy is not lost.

    Args:
        ask: one Ray call to each process, which says nothing but that it is there.

    Raises:
        RayError: what Ray, or the process, says instead of an answer: ActorDiedError, EngineDeadError.
    """
    _unanswered(ask(), seconds)


def _unanswered(calls: Sequence[Any], seconds: float) -> Sequence[Any]:
    answered, unanswered = ray.wait([*calls], num_returns=len(calls), timeout=seconds, fetch_local=False)
    ray.get(answered)
    return unanswered


@contextmanager
def lookout(ask: Ask, every: float = EVERY_SECONDS) -> Iterator[None]:
    """Ask now and then, in a thread, and end whatever the main thread is waiting for when a process is lost.

    To be entered in the main thread: a signal (SIGUSR1) is what ends Ray's waiting, and Python's.

    Raises:
        RayError: as `check`.
    """
    lost: list[RayError] = []
    done, main_thread = threading.Event(), threading.get_ident()

    def interrupt(*_: Any) -> None:
        if not done.is_set():
            raise KeyboardInterrupt  # nothing else gets through ray.get

    def watch() -> None:
        calls: Sequence[Any] = ()
        while not done.wait(every):
            try:
                calls = _unanswered(calls or ask(), 0)
            except RayError as error:
                lost.append(error)
                signal.pthread_kill(main_thread, signal.SIGUSR1)
                return

    signal.signal(signal.SIGUSR1, interrupt)
    threading.Thread(target=watch, name="lookout", daemon=True).start()
    try:
        yield
    except KeyboardInterrupt as error:
        if lost:
            raise lost[0] from error
        raise
    finally:
        done.set()
