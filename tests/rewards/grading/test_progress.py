"""The measure of a process's progress, on real processes that work, starve, sleep, are stopped or are gone."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from recipe.holderpo.rewards.grading.progress import Progress

SPIN = "print(flush=True)\nwhile True: pass"
SLEEP = "import time; print(flush=True); time.sleep(3600)"
# A name that reads like the fields of a running process, for whoever looks for the first bracket.
MISNAMED = "import time; open('/proc/self/comm', 'w').write('a) R 1 (b'); print(flush=True); time.sleep(3600)"
LIMIT = 0.1  # seconds


@contextmanager
def running(code: str, nice: int = 0) -> Iterator[int]:
    """A Python process on this test's first CPU; its process id, once its imports are done."""
    cpu = min(os.sched_getaffinity(0))
    command = f"import os; os.sched_setaffinity(0, [{cpu}]); os.nice({nice}); {code}"
    with subprocess.Popen([sys.executable, "-c", command], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"\n"
            yield process.pid
        finally:
            process.kill()


def watch(pid: int) -> Progress:
    """The process's progress once it exceeds the limit."""
    progress = Progress(pid)
    while not progress.exceeds(LIMIT):
        time.sleep(0.02)
    return progress


def test_work_is_counted_as_cpu_time() -> None:
    with running(SPIN) as pid:
        progress = watch(pid)
        assert progress.cpu >= LIMIT and progress.idle == 0
        assert Progress(pid).cpu == 0 and Progress(pid).cpu_at_start >= LIMIT


def test_a_process_that_gets_hardly_any_cpu_is_not_idle() -> None:
    """At nice 19 beside a busy loop on the same CPU, so for many times the limit."""
    with running(SPIN), running(SPIN, nice=19) as pid:
        progress = watch(pid)
        assert progress.cpu >= LIMIT and progress.idle == 0


@pytest.mark.parametrize("code", [SLEEP, MISNAMED])
def test_a_process_that_sleeps_is_idle(code: str) -> None:
    with running(code) as pid:
        progress = watch(pid)
        assert progress.idle >= LIMIT > progress.cpu


def test_a_process_that_is_stopped_is_idle() -> None:
    with running(SPIN) as pid:
        os.kill(pid, signal.SIGSTOP)
        while psutil.Process(pid).status() != psutil.STATUS_STOPPED:
            time.sleep(0.02)
        progress = watch(pid)
        assert progress.idle >= LIMIT > progress.cpu


def test_a_process_that_has_ended_is_idle() -> None:
    with running(SLEEP) as pid:
        os.kill(pid, signal.SIGKILL)
        assert watch(pid).idle >= LIMIT  # dead, and not waited for
    assert watch(pid).idle >= LIMIT  # gone
