"""The grading host alone, with a stand-in for math-verify that does whatever its text says."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from recipe.holderpo.rewards.grading.worker import MAX_REQUEST

# Runs the host without sympy. Prints how many grading processes it has started when it ends.
HOST = """
import json, os, sys, time
from recipe.holderpo.rewards.grading import host, verify, worker

def stand_in(answer, truth):
    return eval(answer, globals() | {"truth": truth})

def spin(seconds=float("inf")):
    while time.process_time() < seconds:
        pass
    return True

def fail(error):
    raise error

started = []

def start(memory_mb, start=worker.start):
    started.append(start(memory_mb))
    return started[-1]

verify.verify, verify.warm_up, verify.install_guard, worker.start = stand_in, lambda: None, lambda: None, start
BEFORE
try:
    host.main(sys.argv[1:])
finally:
    print(len(started), file=sys.stderr)
"""
TIMEOUT = 0.5


class Host:
    def __init__(self, workers: int = 1, before: str = ""):
        command = [sys.executable, "-c", HOST.replace("BEFORE", before), str(workers), str(TIMEOUT), "1024"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=Path.cwd())

    def line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        content: dict[str, Any] = json.loads(self.process.stdout.readline())
        return content

    def send(self, *answers: str) -> None:
        assert self.process.stdin is not None
        for key, answer in enumerate(answers):
            print(json.dumps({"id": key, "answer": answer, "truth": "1"}), file=self.process.stdin)
        self.process.stdin.flush()

    def verdicts(self, number: int) -> list[tuple[bool, str | None]]:
        found: dict[int, tuple[bool, str | None]] = {}
        while len(found) < number:
            line = self.line()
            if "id" in line:
                assert line["id"] not in found
                found[line["id"]] = line["equal"], line["fault"]
        return [found[key] for key in range(number)]

    def processes(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def end(self) -> int:
        """Close its input; the number of grading processes that it had started."""
        processes = self.processes()
        _, errors = self.process.communicate()
        assert self.process.returncode == 0, errors
        assert not any(process.is_running() for process in processes)
        return int(errors.splitlines()[-1])


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host()
    yield made
    made.process.kill()
    made.process.communicate()


OUTCOMES = {
    "True": (True, None),
    "False": (False, None),
    "None": (False, "unreadable"),
    "1 / 0": (False, "unreadable"),
    "fail(MemoryError)": (False, "crash"),
    "bytearray(2 << 30)": (False, "crash"),
    "os._exit(0)": (False, "crash"),
    "fail(SystemExit)": (False, "crash"),
    "spin()": (False, "timeout"),
    "os.read(0, 1)": (False, "timeout"),  # waits for what does not come
    # Taken over, it writes into its channel what it likes.
    "os.write(0, b'x')": (False, "crash"),
    "os.write(0, b'equal and more')": (False, "crash"),
    "os.write(0, bytes(100000))": (False, "crash"),
    "os.write(0, worker.READY)": (False, "crash"),
    """os.write(0, b'{"id": 0, "equal": true, "fault": null}')""": (False, "crash"),
    "os.dup2(1, 0)": (False, "crash"),  # closes it
    "time" + " " * MAX_REQUEST: (False, "unreadable"),
}


def test_each_outcome_is_one_verdict_and_costs_no_other_answer(host: Host) -> None:
    answers = [answer for outcome in OUTCOMES for answer in (outcome, "truth == '1'")]
    host.send(*answers)
    assert host.verdicts(len(answers)) == [v for outcome in OUTCOMES.values() for v in (outcome, (True, None))]
    host.end()


def test_a_process_that_dies_is_replaced_and_its_answer_tried_three_times(host: Host) -> None:
    host.send("os._exit(1)", "True")
    assert host.verdicts(2) == [(False, "crash"), (True, None)]
    assert host.end() == 1 + 3


def test_a_process_is_replaced_after_so_many_answers() -> None:
    made = Host(before="host.ANSWERS_PER_PROCESS = 3")
    made.send(*["True"] * 7)
    assert made.verdicts(7) == [(True, None)] * 7
    assert made.end() == 3


def test_a_reply_that_nothing_was_asked_for_ends_the_process(host: Host) -> None:
    """Text that has taken a process over can forge its own verdict, and must not leave one for the next answer."""
    host.line()
    (process,) = host.processes()
    host.send("os.write(0, b'equal')")
    assert host.verdicts(1) == [(True, None)]
    while process.is_running():  # the second reply, which is the true one, is on its way
        time.sleep(0.02)
    assert host.end() == 2


def test_the_host_says_that_it_is_ready_and_then_that_it_is_alive(host: Host) -> None:
    assert [host.line() for _ in range(3)] == [{"ready": True}, {"alive": True}, {"alive": True}]


def test_a_host_without_protected_processes_ends_with_the_reason() -> None:
    made = Host(before="verify.protect = lambda memory_mb: fail(OSError('no filter here'))")
    assert made.process.wait() == 1
    output, errors = made.process.communicate()
    assert output == "" and errors.splitlines()[-2:] == ["OSError: no filter here", "10"]


def test_an_answer_that_is_there_in_time_counts_even_if_the_host_was_stopped(host: Host) -> None:
    host.line()
    (process,) = host.processes()
    host.send(f"spin({TIMEOUT / 2})")
    while sum(process.cpu_times()[:2]) < TIMEOUT / 5:
        time.sleep(0.01)
    os.kill(host.process.pid, signal.SIGSTOP)
    while process.status() != psutil.STATUS_SLEEPING:  # it has answered
        time.sleep(0.01)
    time.sleep(3 * TIMEOUT)
    os.kill(host.process.pid, signal.SIGCONT)
    assert host.verdicts(1) == [(True, None)]
    assert host.end() == 1


def test_the_kernel_ends_a_process_that_the_host_cannot_watch(host: Host) -> None:
    host.line()
    (process,) = host.processes()
    host.send("spin()")
    while sum(process.cpu_times()[:2]) < TIMEOUT / 5:
        time.sleep(0.01)
    os.kill(host.process.pid, signal.SIGSTOP)
    while process.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.05)
    os.kill(host.process.pid, signal.SIGCONT)
    assert host.verdicts(1) == [(False, "timeout")]
    assert host.end() == 2
