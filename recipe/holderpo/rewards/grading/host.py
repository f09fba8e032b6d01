"""The process that owns the grading processes: `python -m recipe.holderpo.rewards.grading.host WORKERS TIMEOUT MEMORY_MB`.

Reads one JSON object a line from its input, {"id", "answer", "truth"}, and writes one for each to its output, in the order
in which they are done: {"id", "equal", "fault"}. Ends when its input does. The client starts it with an empty environment,
and everything below inherits that; only JSON comes back from here, so nothing that a grading process could forge is
unpickled by the trainer.
"""

import json
import multiprocessing
import os
import sys
from collections.abc import Iterable
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import partial
from multiprocessing import resource_tracker
from threading import Lock
from typing import TextIO

from pebble import ProcessExpired, ProcessFuture, ProcessPool

from recipe.holderpo.rewards.grading import verify

# An answer whose process died (killed from outside, or by itself) is tried so often in all.
ATTEMPTS = 3
# A grading process is replaced after so many answers: what it leaks, or was made to keep, ends with it.
ANSWERS_A_PROCESS = 500


def grade(answer: str, truth: str, timeout: float) -> bool | None:
    verify.limit_cpu(2 * timeout)
    return verify.verify(answer, truth)


class Host:
    def __init__(self, workers: int, timeout: float, memory_mb: int, output: TextIO):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["recipe.holderpo.rewards.grading.preload"])
        self.pool = ProcessPool(
            max_workers=workers,
            max_tasks=ANSWERS_A_PROCESS,
            initializer=verify.protect,
            initargs=(memory_mb,),
            context=context,
        )
        self.timeout, self.output, self.lock = timeout, output, Lock()

    def submit(self, request: dict[str, str], attempt: int = 1) -> None:
        future = self.pool.schedule(
            grade, args=(request["answer"], request["truth"], self.timeout), timeout=self.timeout
        )
        future.add_done_callback(partial(self.done, request, attempt))

    def done(self, request: dict[str, str], attempt: int, future: ProcessFuture) -> None:
        equal, fault = None, None
        error = future.exception()
        if error is None:
            equal = future.result()
            fault = "unreadable" if equal is None else None
        elif isinstance(error, FutureTimeoutError):
            fault = "timeout"
        elif isinstance(error, ProcessExpired):  # the process is gone
            if attempt < ATTEMPTS:
                return self.submit(request, attempt + 1)
            fault = "crash"
        elif not hasattr(
            error, "traceback"
        ):  # pebble's own: the pool itself is broken, and the client starts another host
            os._exit(1)
        else:  # raised by math-verify or sympy, MemoryError included
            fault = "crash" if isinstance(error, MemoryError) else "unreadable"
        with self.lock:
            print(json.dumps({"id": request["id"], "equal": equal, "fault": fault}), file=self.output, flush=True)

    def run(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.submit(json.loads(line))
        self.pool.stop()
        self.pool.join()


def main(arguments: list[str]) -> None:
    workers, timeout, memory_mb = arguments
    # Started before the session begins, this outlives the others when the client kills them all, and removes their
    # semaphores from /dev/shm.
    resource_tracker.ensure_running()
    os.setsid()  # Ctrl-C at the trainer's terminal is the trainer's
    # What libraries print must not get between the answers.
    output = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    Host(int(workers), float(timeout), int(memory_mb), output).run(sys.stdin)


if __name__ == "__main__":
    main(sys.argv[1:])
