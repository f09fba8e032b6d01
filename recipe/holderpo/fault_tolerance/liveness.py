"""Notices that a process which training depends on has died, where verl would wait for it forever, or continue with fewer
samples."""

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.actor import ActorHandle

from recipe.holderpo.fault_tolerance.signals import main_thread_interrupt
from recipe.holderpo.report.finished import finished

CHECK_EVERY_SECONDS = 5.0

Processes = Callable[[], Sequence[ActorHandle]]
Note = Callable[[Hashable, Any], None]


def finished_in(process: Any) -> tuple[int, int]:
    """Runs in the process: how much it has finished, and how many tokens its engine's requests have; a number that stands
    still is all that is read from it. A vLLM server has its engine in another process, and knows whether that is dead.

    It does not ask the engine itself: that does not answer while it loads weights, and never if it dies meanwhile.
    """
    engine = getattr(process, "engine", None)
    if getattr(engine, "errored", False):
        raise engine.dead_error  # type: ignore[union-attr]
    return finished(), tokens_of(engine)


def tokens_of(engine: Any) -> int:
    """Tokens of the requests that a vLLM engine has in hand: private to vLLM 0.24's output processor."""
    requests = getattr(getattr(engine, "output_processor", None), "request_states", {})
    detokenizers = [request.detokenizer for request in [*requests.values()]]
    return sum(one.num_output_tokens() for one in detokenizers if one is not None)


def check_alive(processes: Sequence[ActorHandle], seconds: float) -> dict[ActorHandle, tuple[int, int]]:
    """Call each process, and wait `seconds` for the answers; one that is busy does not answer, and is not lost.

    Returns:
        what those that answered say, `finished_in`.

    Raises:
        RayError: what Ray, or the process, says instead: ActorDiedError, EngineDeadError.
    """
    calls = {process.__ray_call__.remote(finished_in): process for process in processes}  # type: ignore[attr-defined]
    answered, _ = ray.wait([*calls], num_returns=len(calls), timeout=seconds)
    return dict(zip((calls[call] for call in answered), ray.get(answered), strict=True))


@contextmanager
def liveness_checks(
    processes: Processes, note: Note = lambda *_: None, every: float = CHECK_EVERY_SECONDS
) -> Iterator[None]:
    """Check the processes every few seconds, in a thread; when one is lost, end whatever the main thread is waiting for.

    To be entered in the main thread.

    Args:
        note: called with each process that answered, and what it has finished.

    Raises:
        RayError: as `check_alive`.
    """
    lost: list[Exception] = []
    done = threading.Event()

    def watch(interrupt: Callable[[], None]) -> None:
        while not done.wait(every):
            try:
                for process, done_there in check_alive(processes(), seconds=every).items():
                    note(process, done_there)
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
