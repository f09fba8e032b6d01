"""What a run is said to have left."""

import shlex
import subprocess
import sys
from pathlib import Path

from fault_injection.watched_run import Run

LEAVES_A_SEMAPHORE = """
import multiprocessing, os, time
from multiprocessing import resource_tracker
lock = multiprocessing.get_context("spawn").Lock()
input()
os.kill(resource_tracker._resource_tracker._pid, 9)
os.kill(os.getpid(), 9)
"""


def start() -> "subprocess.Popen[bytes]":
    """A command whose child makes a semaphore, and is killed, with what would remove it, when it reads a line."""
    child = f"{shlex.quote(sys.executable)} -c {shlex.quote(LEAVES_A_SEMAPHORE)}; true"
    return subprocess.Popen(["sh", "-c", child], stdin=subprocess.PIPE)


def end(process: "subprocess.Popen[bytes]") -> None:
    process.communicate(b"\n")


def shared(run: Run) -> list[str]:
    return [found for found in run.left_over(seconds=0) if found.startswith("/dev/shm/sem.mp-")]


def test_a_semaphore_is_left_by_the_run_that_used_it(tmp_path: Path) -> None:
    run, another = Run(tmp_path / "run", []), Run(tmp_path / "another", [])
    run.process = start()
    another.process = start()
    runs = (run, another)
    for each in runs:
        assert each.wait_until(lambda each=each: bool(each.below("") and each.semaphores))  # type: ignore[misc]
        assert shared(each) == [], "it is in use"
    end(run.process)
    run.wait()
    (left,) = shared(run)
    assert sys.executable in left
    assert shared(another) == []
    end(another.process)
    for each in runs:
        for name in each.semaphores:
            Path("/dev/shm", name).unlink()
        each.end()
