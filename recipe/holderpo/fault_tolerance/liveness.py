"""Notices that a process which training depends on is gone. verl waits for its samples, weights or data for ever, or goes on
with fewer samples."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.actor import ActorHandle

EVERY_SECONDS = 5.0
INTERRUPT_AGAIN_SECONDS = 30.0

Processes = Callable[[], Sequence[ActorHandle]]


def alive(process: Any) -> None:
    """Runs in the process. That of a vLLM server has an engine in another, which it knows to be dead or not.

    It does not ask the engine itself: that answers nothing while it loads weights, and never when it dies meanwhile.
    """
    engine = getattr(process, "engine", None)
    if getattr(engine, "errored", False):
        raise engine.dead_error  # type: ignore[union-attr]


def check(processes: Sequence[ActorHandle], seconds: float) -> None:
    """Ask each for a sign of life, and wait so long for the answers; one that is busy has none, and is not lost.

    Raises:
        RayError: what Ray, or the process, says instead: ActorDiedError, EngineDeadError.
    """
    calls = [process.__ray_call__.remote(alive) for process in processes]  # type: ignore[attr-defined]
    answered, _ = ray.wait(calls, num_returns=len(calls), timeout=seconds, fetch_local=False)
    ray.get(answered)


@contextmanager
def lookout(processes: Processes, every: float = EVERY_SECONDS) -> Iterator[None]:
    """Check them again and again, in a thread, and end whatever the main thread is waiting for when one is lost.

    To be entered in the main thread: a signal (SIGUSR1) is what ends Ray's waiting, and Python's.

    Raises:
        RayError: as `check`.
    """
    lost: list[Exception] = []
    done, main_thread = threading.Event(), threading.get_ident()

    def interrupt(*_: Any) -> None:
        if not done.is_set():
            raise KeyboardInterrupt  # nothing else gets through ray.get

    def watch() -> None:
        while not lost and not done.wait(every):
            try:
                check(processes(), seconds=every)
            except Exception as error:
                lost.append(error)
        while not done.is_set():
            signal.pthread_kill(main_thread, signal.SIGUSR1)
            done.wait(INTERRUPT_AGAIN_SECONDS)  # Python, or a library, may have swallowed it where it came

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
