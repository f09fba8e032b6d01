"""How long a process has worked or done nothing: a limit on these is the same on an idle and on a busy machine."""

import os
import time
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# States of /proc/<pid>/stat in which the machine holds a process up: it waits for a CPU (R), or for memory or a disk (D).
_HELD_UP = "RD"


class Progress:
    """The CPU time and the idle time of one single-threaded process since this object was made.

    A process is idle while it sleeps, is stopped or has ended. One that could run and gets no CPU is not idle.

    Attributes:
        cpu_at_start: CPU time of the process before that, seconds.
        cpu, idle: seconds since then, as of the last call of `exceeds`.
    """

    def __init__(self, pid: int):
        self._pid = pid
        self._seen = time.monotonic()
        self.cpu_at_start = _state_and_cpu(pid)[1]
        self.cpu = self.idle = 0.0

    def exceeds(self, limit: float) -> bool:
        """Whether the process has used `limit` seconds of CPU time, or has been idle for as long.

        Idle time is counted from one call to the next, so this is to be called several times within the limit."""
        (state, cpu), now = _state_and_cpu(self._pid), time.monotonic()
        cpu -= self.cpu_at_start
        if state not in _HELD_UP and cpu <= self.cpu:
            self.idle += now - self._seen
        self._seen, self.cpu = now, cpu
        return max(self.cpu, self.idle) >= limit


def _state_and_cpu(pid: int) -> tuple[str, float]:
    """State letter and CPU seconds (user and system) of a process; ("X", 0.0) if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return "X", 0.0
    fields = stat.rpartition(")")[2].split()  # the name before it, in brackets, may hold anything
    return fields[0], (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND
