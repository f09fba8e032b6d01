"""Notices that a process which training depends on has died, where verl would wait for it forever, or continue with fewer
samples."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.actor import ActorHandle

from recipe.holderpo.fault_tolerance.signals import main_thread_interrupt

CHECK_EVERY_SECONDS = 5.0

Processes = Callable[[], Sequence[ActorHandle]]


def raise_if_engine_is_dead(process: Any) -> None:
    """Runs in the process. That of a vLLM server has an engine in another, and knows whether it is dead.

    It does not ask the engine itself: that does not answer while it loads weights, and never if it dies meanwhile.
    """
    engine = getattr(process, "engine", None)
    if getattr(engine, "errored", False):
        raise engine.dead_error  # type: ignore[union-attr]


def check_alive(processes: Sequence[ActorHandle], seconds: float) -> None:
    """Call each process, and wait `seconds` for the answers; one that is busy does not answer, and is not lost.

    Raises:
        RayError: what Ray, or the process, says instead: ActorDiedError, EngineDeadError.
    """
    calls = [process.__ray_call__.remote(raise_if_engine_is_dead) for process in processes]  # type: ignore[attr-defined]
    answered, _ = ray.wait(calls, num_returns=len(calls), timeout=seconds, fetch_local=False)
    ray.get(answered)


@contextmanager
def liveness_checks(processes: Processes, every: float = CHECK_EVERY_SECONDS) -> Iterator[None]:
    """Check the processes every few seconds, in a thread; when one is lost, end whatever the main thread is waiting for.

    To be entered in the main thread.

    Raises:
        RayError: as `check_alive`.
    """
    lost: list[Exception] = []
    done = threading.Event()

    def watch(interrupt: Callable[[], None]) -> None:
        while not done.wait(every):
            try:
                check_alive(processes(), seconds=every)
            except Exception as error:
                lost.append(error)
                return interrupt()

    try:
        with main_thread_interrupt() as interrupt:
            threading.Thread(target=watch, args=(interrupt,), name="liveness", daemon=True).start()
            yield
    except KeyboardInterrupt as error:
        if lost:
            raise lost[0] from error
        raise
    finally:
        done.set()
