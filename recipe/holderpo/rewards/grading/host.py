"""The process that owns the grading processes: `python -m recipe.holderpo.rewards.grading.host WORKERS TIMEOUT MEMORY_MB`.

One thread and one event loop. It reads requests from its input, one JSON object {"id", "answer", "truth"} per line, and
writes JSON lines to its output: {"ready": true} once a grading process can work, {"id", "equal", "fault"} for each request,
in the order in which they are done, and {"alive": true} every second. It ends when its input does.

The client starts it with an empty environment. The grading processes are forked from it and inherit that.
"""

import gc
import json
import os
import selectors
import signal
import sys
import time
from collections import deque
from dataclasses import dataclass

from recipe.holderpo.rewards.grading import verify, worker
from recipe.holderpo.rewards.grading.progress import Progress

# An answer whose process died (killed from outside, or by itself) is tried so often in all.
ATTEMPTS = 3
# A grading process is replaced after so many answers: what it leaks, or was made to keep, ends with it.
ANSWERS_PER_PROCESS = 500
# The host gives up when so many grading processes in a row die before they are ready.
MAX_FAILED_STARTS = 10
# Seconds between two checks of the time limit, and between two signs of life.
CHECK_SECONDS = 0.2
ALIVE_SECONDS = 1.0


@dataclass
class Request:
    id: int
    message: bytes
    attempts: int = 0


@dataclass
class Worker:
    """A grading process."""

    pid: int
    channel: int
    progress: Progress  # since the request was sent
    ready: bool = False
    request: Request | None = None
    answers: int = 0


class Host:
    """Hands requests to grading processes and replaces those that die, are slow or have done enough.

    Args:
        workers: number of grading processes.
        timeout: limit for one answer: seconds of CPU time, or of idleness.
        memory_mb: address space of a grading process, MiB.
        requests: descriptor that requests are read from.
        output: descriptor that lines are written to.
    """

    def __init__(self, workers: int, timeout: float, memory_mb: int, requests: int, output: int):
        self._timeout, self._memory_mb = timeout, memory_mb
        self._requests, self._output = requests, output
        self._unfinished_line = b""
        self._waiting: deque[Request] = deque()
        self._workers: dict[int, Worker] = {}  # by channel
        self._ready = False
        self._failed_starts = 0
        self._last_check = self._last_line = 0.0
        self._selector = (
            selectors.PollSelector()
        )  # unlike epoll, this is no descriptor that grading processes could inherit
        self._selector.register(requests, selectors.EVENT_READ)
        for _ in range(workers):
            self._start_worker()

    def run(self) -> None:
        """Grade until the input ends. Exits the process if grading processes cannot start."""
        while True:
            self._send_requests()
            # Found before reading, killed after it: one that has answered while the host itself was held up is not late.
            late = self._late_workers()
            for key, _ in self._selector.select(0 if late else CHECK_SECONDS):
                if key.fd != self._requests:
                    self._receive(self._workers[key.fd])
                elif not self._read_requests():
                    return
            for slow in late:
                if slow.request is not None:
                    self._give_verdict(slow, False, "timeout")
                    self._replace(slow)
            if self._ready and time.monotonic() - self._last_line >= ALIVE_SECONDS:
                self._write_line({"alive": True})

    def close(self) -> None:
        for old in list(self._workers.values()):
            self._end(old)

    def _read_requests(self) -> bool:
        data = os.read(self._requests, 1 << 16)
        *lines, self._unfinished_line = (self._unfinished_line + data).split(b"\n")
        for line in lines:
            request = Request(json.loads(line)["id"], line)
            if len(line) > worker.MAX_REQUEST:
                self._write_line({"id": request.id, "equal": False, "fault": "unreadable"})
            else:
                self._waiting.append(request)
        return bool(data)

    def _send_requests(self) -> None:
        for idle in [each for each in self._workers.values() if each.ready and each.request is None]:
            if not self._waiting:
                return
            idle.request = request = self._waiting.popleft()
            request.attempts += 1
            idle.progress = Progress(idle.pid)
            worker.limit_cpu(idle.pid, idle.progress.cpu_at_start + 2 * self._timeout)  # should this process be held up
            try:
                os.write(idle.channel, request.message)
            except OSError:  # it is dead, or has left an earlier request unread
                self._replace_dead(idle)

    def _late_workers(self) -> list[Worker]:
        if time.monotonic() - self._last_check < CHECK_SECONDS:
            return []
        self._last_check = time.monotonic()
        busy = [each for each in self._workers.values() if each.request is not None]
        return [each for each in busy if each.progress.exceeds(self._timeout)]

    def _receive(self, sender: Worker) -> None:
        try:
            message = os.read(sender.channel, worker.MAX_REPLY)
        except ConnectionError:
            message = b""
        if not message:
            self._replace_dead(sender)
        elif message == worker.READY and not sender.ready:
            sender.ready, self._failed_starts = True, 0
            if not self._ready:
                self._ready = True
                self._write_line({"ready": True})
        elif message in worker.REPLIES and sender.request is not None:
            self._give_verdict(sender, *worker.REPLIES[message])
            sender.answers += 1
            if sender.answers >= ANSWERS_PER_PROCESS or message == worker.OUT_OF_MEMORY:
                self._replace(sender)
        else:  # our code does not send that: the text has taken the process over
            if sender.request is not None:
                self._give_verdict(sender, False, "crash")
            self._replace(sender)

    def _give_verdict(self, busy: Worker, equal: bool, fault: str | None) -> None:
        assert busy.request is not None
        self._write_line({"id": busy.request.id, "equal": equal, "fault": fault})
        busy.request = None

    def _write_line(self, content: dict[str, object]) -> None:
        os.write(self._output, json.dumps(content).encode() + b"\n")
        self._last_line = time.monotonic()

    def _start_worker(self) -> None:
        pid, channel = worker.start(self._memory_mb)
        self._workers[channel] = Worker(pid, channel, Progress(pid))
        self._selector.register(channel, selectors.EVENT_READ)

    def _replace(self, old: Worker) -> None:
        self._end(old)
        self._start_worker()

    def _replace_dead(self, dead: Worker) -> None:
        """Replace a process that the host did not kill; its request is tried again, up to ATTEMPTS times."""
        status = self._end(dead)
        if not dead.ready:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:  # a status above 0 comes with a traceback, which says more
                sys.exit(1 if status > 0 else f"grading processes are ended by signal {-status} before they are ready")
        if dead.request is not None:
            if status != -signal.SIGXCPU and dead.request.attempts < ATTEMPTS:
                self._waiting.appendleft(dead.request)
                dead.request = None
            else:
                self._give_verdict(dead, False, "timeout" if status == -signal.SIGXCPU else "crash")
        self._start_worker()

    def _end(self, old: Worker) -> int:
        """Kill a grading process, unless it is dead. Returns its exit status, minus a signal's number if that ended it."""
        self._selector.unregister(old.channel)
        del self._workers[old.channel]
        os.close(old.channel)
        os.kill(old.pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(old.pid, 0)[1])


def main(arguments: list[str]) -> None:
    workers, timeout, memory_mb = arguments
    verify.end_with_parent()
    # What libraries print must not get between the verdicts.
    output = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    verify.warm_up()
    gc.freeze()  # the grading processes share these objects' memory; a collection there would copy it
    host = Host(int(workers), float(timeout), int(memory_mb), sys.stdin.fileno(), output)
    try:
        host.run()
    finally:
        host.close()


if __name__ == "__main__":
    main(sys.argv[1:])
