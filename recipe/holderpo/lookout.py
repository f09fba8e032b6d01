"""Notices that a process which sampling depends on is gone. verl waits for its samples for ever, or goes on with fewer."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import ray

EVERY_SECONDS = 5.0


class Lookout:
    """Asks processes for a sign of life now and then, without waiting for it; busy is not lost.

    Args:
        ask: one Ray call to each of them, which says nothing but that it is there.
    """

    def __init__(self, ask: Callable[[], Sequence[Any]], every: float = EVERY_SECONDS):
        self._ask, self._every = ask, every
        self._unanswered: list[Any] = []
        self._asked = time.monotonic()

    def look(self, wait: float = 0.0) -> None:
        """Take the answers that are there, and ask again when it is time.

        Args:
            wait: seconds to wait for all answers to a question that is asked now; 0: not at all.

        Raises:
            RayError: what Ray, or the process, says instead of an answer: ActorDiedError, EngineDeadError.
        """
        if wait or (not self._unanswered and time.monotonic() - self._asked >= self._every):
            self._unanswered, self._asked = [*self._unanswered, *self._ask()], time.monotonic()
        if self._unanswered:
            answered, self._unanswered = ray.wait(
                self._unanswered, num_returns=len(self._unanswered), timeout=wait, fetch_local=False
            )
            ray.get(answered)
