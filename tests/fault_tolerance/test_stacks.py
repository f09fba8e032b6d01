"""Stacks of real processes: asleep, forked, stopped, without a handler."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from recipe.holderpo.fault_tolerance import stacks

BEGIN = """
import os, sys, threading, time
from recipe.holderpo.fault_tolerance.stacks import write_stacks_on_signal
def waits_in_a_thread(): threading.Event().wait()
def waits_for_a_lock(): lock = threading.Lock(); lock.acquire(); os.write(1, f"{os.getpid()}\\n".encode()); lock.acquire()
def waits_in_a_fork(): os.write(1, f"{os.getpid()}\\n".encode()); time.sleep(3600)
"""
WITH = BEGIN + "write_stacks_on_signal()\nthreading.Thread(target=waits_in_a_thread, daemon=True).start()\n"
ALONE = WITH + "waits_for_a_lock()"
FORKED = WITH + "waits_in_a_fork() if os.fork() == 0 else waits_for_a_lock()"
WITHOUT = BEGIN + "waits_for_a_lock()"

Started = Callable[[str, int], list[psutil.Process]]


@pytest.fixture
def started() -> Iterator[Started]:
    """Start Python with some code, and read the ids of so many processes that it prints."""
    running = []

    def start(code: str, ids: int) -> list[psutil.Process]:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        found = [psutil.Process(int(process.stdout.readline())) for _ in range(ids)]
        running.append((process, found))
        return sorted(found, key=lambda one: one.pid != process.pid)

    yield start
    for process, found in running:
        for one in found:
            one.kill()
        process.wait()


def test_all_threads_of_a_process_that_waits_in_c_code(started: Started) -> None:
    (found,) = stacks.stacks(started(ALONE, 1))
    assert "in waits_for_a_lock" in found.text and "in waits_in_a_thread" in found.text and found.trouble is None
    (again,) = stacks.stacks([found.process])
    assert again.text.count("in waits_for_a_lock") == 1, "not what was written before"


def test_a_forked_process_writes_into_a_file_of_its_own(started: Started) -> None:
    parent, child = stacks.stacks(started(FORKED, 2))
    assert "in waits_in_a_fork" in child.text and "waits_for_a_lock" not in child.text
    assert "in waits_for_a_lock" in parent.text and "waits_in_a_fork" not in parent.text


def test_a_stopped_process_is_named_first(started: Started) -> None:
    stopped, other = (*started(ALONE, 1), *started(ALONE, 1))
    stopped.send_signal(signal.SIGSTOP)
    found = stacks.stacks([other, stopped])
    assert [one.trouble for one in found] == [None, "stopped"]
    text = stacks.report(found)
    assert f"(process {stopped.pid}, stopped)" in text and "(no Python stack)" in text
    assert text.index(f"process {stopped.pid}") < text.index(f"process {other.pid}")


def test_a_process_without_the_handler_is_left_in_peace(started: Started) -> None:
    (process,) = started(WITHOUT, 1)
    (found,) = stacks.stacks([process])
    assert found.text == "" and found.trouble is None and process.status() != psutil.STATUS_ZOMBIE


def test_the_runs_processes_are_those_started_here_and_those_with_its_mark(
    started: Started, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "holderpo-run-1"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(stacks.tempfile, "tempdir", str(folder))
    (process,) = started(ALONE, 1)
    assert process in stacks.processes_of_run()
    monkeypatch.setattr(stacks, "psutil", psutil)
    monkeypatch.setattr(psutil.Process, "children", lambda self, recursive: [])
    assert process in stacks.processes_of_run(), "by its mark alone"
    monkeypatch.setattr(stacks.tempfile, "tempdir", "/tmp/holderpo-another-1")
    assert process not in stacks.processes_of_run()
    monkeypatch.setattr(stacks.tempfile, "tempdir", str(tmp_path))
    assert stacks.processes_of_run() == [], "where TMPDIR is anybody's"


def test_a_handler_of_somebody_elses_stays(started: Started) -> None:
    taken = "import signal\nsignal.signal(signal.SIGUSR2, lambda *_: None)\n"
    (process,) = started(taken + ALONE, 1)
    (found,) = stacks.stacks([process])
    assert found.text == "" and found.file is None
