"""The grading processes: what they withstand, and that no right answer is lost beside what they do not."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import psutil
import pytest

from recipe.holderpo.rewards.grading.client import Grader, Verdict, shared_grader
from recipe.holderpo.rewards.math import compute_score, compute_score_async

# What robustness.md's measurements name: slow or large with math-verify's own limits off.
SLOW = [
    "9^{9^{9^9}}",
    "10000000!",
    "\\cup".join(f"[{i},{i + 1}]" for i in range(0, 120, 2)),
    "\\int_0^1 \\sin(x^x) dx",
    "\\operatorname{zeros}(20000,20000)",
    "(" * 40 + "1" + ")" * 40,
]
RIGHT = [("\\sqrt{8}", "2\\sqrt{2}"), ("(1,2]", "(1, 2]"), ("x+1", "1+x"), ("\\{1,2\\}", "\\{2,1\\}")]


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    made = Grader(workers=2, timeout=2.0)
    yield made
    made.close()


def processes(grader: Grader) -> list[psutil.Process]:
    """The grading processes (the leaves below the host that run no fork server or tracker of their own)."""
    host, found = psutil.Process(grader._host.pid), []
    for process in host.children(recursive=True):
        try:
            if process.parent() != host and not process.children():
                found.append(process)
        except psutil.NoSuchProcess:  # just replaced
            continue
    return found


def test_symbolic_answers(grader: Grader) -> None:
    assert [grader.submit(a, t).result() for a, t in RIGHT] == [Verdict(True)] * len(RIGHT)
    assert grader.submit("x+2", "1+x").result() == Verdict(False)


def test_slow_answers_cost_themselves_alone(grader: Grader) -> None:
    """30 slow ones first, right ones behind them: every right one is found, the slow ones are cut off."""
    slow = [grader.submit(SLOW[i % len(SLOW)], "1") for i in range(30)]
    right = [grader.submit(*RIGHT[i % len(RIGHT)]) for i in range(20)]
    assert all(future.result(timeout=300) == Verdict(True) for future in right)
    verdicts = [future.result(timeout=300) for future in slow]
    assert not any(verdict.equal for verdict in verdicts)
    assert {verdict.fault for verdict in verdicts} <= {None, "timeout", "crash", "unreadable"}


def test_no_answer_is_lost_when_every_process_is_killed_in_turn(grader: Grader) -> None:
    grader.submit(*RIGHT[0]).result()
    killed = set()
    for _ in range(4):
        futures = [grader.submit(*RIGHT[i % len(RIGHT)]) for i in range(100)]
        while not (alive := [process for process in processes(grader) if process.pid not in killed]):
            time.sleep(0.05)  # the last one's successor is still starting
        victim = alive[0]
        victim.kill()
        killed.add(victim.pid)
        assert [future.result(timeout=120) for future in futures] == [Verdict(True)] * 100
    assert len(killed) == 4


def test_no_answer_is_lost_when_the_host_is_killed(grader: Grader) -> None:
    futures = [grader.submit(*RIGHT[i % len(RIGHT)]) for i in range(50)]
    workers = processes(grader)
    os.kill(grader._host.pid, signal.SIGKILL)
    assert [future.result(timeout=60) for future in futures] == [Verdict(True)] * 50
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive, "grading processes must end with their host"


def test_a_host_whose_pool_is_stuck_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipe.holderpo.rewards.grading.client.STUCK_SECONDS", 8.0)
    made = Grader(workers=1, timeout=2.0)
    try:
        assert made.submit(*RIGHT[0]).result(timeout=60) == Verdict(True)
        host = psutil.Process(made._host.pid)
        (worker,) = processes(made)
        worker.suspend()  # neither dead nor answering, as one that waits for a lock
        host.suspend()
        assert made.submit(*RIGHT[1]).result(timeout=60) == Verdict(True)
        assert not host.is_running() and not worker.is_running()
    finally:
        made.close()


def test_a_timeout_is_believed_once_the_pool_has_gone_on(grader: Grader) -> None:
    """Unit by unit: which verdicts are given out when; the numbers are those of answers that the grader owes."""
    timeout, right = Verdict(False, "timeout"), Verdict(True)
    sent: list[str] = []

    class Held(Grader):
        def __init__(self, owed: str) -> None:
            self._held, self._workers = {}, 2
            self._owed = {key: ("", Future()) for key in owed}

        def _send(self, line: str) -> None:
            sent.append(json.loads(line)["id"])

    one = Held("abcd")
    assert one._believed("a", timeout) == []  # perhaps the pool is stuck
    assert one._believed("b", right) == [("a", timeout), ("b", right)]  # it was not
    three = Held("abcde")
    assert [three._believed(key, timeout) for key in "abc"] == [
        [],
        [],
        [("a", timeout)],
    ]  # two processes, a third timeout
    last = Held("a")
    assert last._believed("a", timeout) == [] and sent == ["probe"]
    assert last._believed("probe", right) == [("a", timeout), ("probe", right)]


def test_a_host_that_cannot_start_is_an_error_not_a_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    broken = Grader(workers=1)
    for _ in range(2):  # whether the host has ended by the time of the submission or only afterwards
        with pytest.raises(RuntimeError, match=r"exit status 1.*no word"):
            broken.submit("x", "y").result(timeout=30)


def test_closing_leaves_no_process() -> None:
    made = Grader(workers=2)
    made.submit(*RIGHT[0]).result()
    family = [psutil.Process(made._host.pid), *psutil.Process(made._host.pid).children(recursive=True)]
    made.close()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive


def test_a_grading_process_has_no_secrets_no_files_and_no_network(
    grader: Grader, monkeypatch: pytest.MonkeyPatch
) -> None:
    grader.submit(*RIGHT[0]).result()
    for process in [psutil.Process(grader._host.pid), *processes(grader)]:
        assert set(process.environ()) <= {"PATH", "LANG", "HOME", "PYTHONPATH", "LC_CTYPE"}
        assert process.environ()["HOME"] == "/nonexistent"
    probe = (
        "import json, os, signal, socket, subprocess\n"
        "from recipe.holderpo.rewards.grading import preload, verify\n"
        "parent = os.getppid()\n"
        "verify.protect(1024)\n"
        "def outcome(attempt):\n"
        "    try: attempt()\n"
        "    except BaseException as error: return type(error).__name__\n"
        "    return 'done'\n"
        "os.close(0)\n"
        "attempts = dict(\n"
        "    socket=socket.socket, read=lambda: open('/etc/hostname'), write=lambda: os.open('/tmp/x', os.O_CREAT),\n"
        "    environ=lambda: open(f'/proc/{parent}/environ'), unlink=lambda: os.unlink('/tmp/x'), fork=os.fork,\n"
        "    program=lambda: os.execv('/bin/true', ['true']), signal=lambda: os.kill(parent, 0),\n"
        "    memory=lambda: bytearray(2 << 30),\n"
        ")\n"
        "found = {name: outcome(attempt) for name, attempt in attempts.items()}\n"
        "found['right'] = verify.verify('2\\\\sqrt{2}', '\\\\sqrt{8}')\n"
        "found['rounded'] = verify.verify('1.4142136', '\\\\sqrt{2}')\n"
        "print(json.dumps(found))\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=120, cwd=Path.cwd())
    assert done.returncode == 0, done.stderr
    denied = dict.fromkeys(
        ("socket", "read", "write", "environ", "unlink", "fork", "program", "signal"), "PermissionError"
    )
    assert json.loads(done.stdout) == denied | {"memory": "MemoryError", "right": True, "rounded": True}


def test_a_failure_inside_the_verifier_is_a_fault_not_a_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    from math_verify import grader as math_verify_grader

    from recipe.holderpo.rewards.grading.verify import verify

    assert verify("x+1", "1+x") is True and verify("x+2", "1+x") is False

    def fail(*args: object, **kwargs: object) -> bool:
        raise MemoryError

    monkeypatch.setattr(math_verify_grader, "sympy_expr_eq", fail)
    with pytest.raises(MemoryError):
        verify("x+2", "1+x")


def test_text_from_a_model_is_not_evaluated() -> None:
    """The guard is on: sympy's lambdify refuses, and no source that is compiled has the marker's name in it."""
    probe = (
        "import sys\n"
        "from recipe.holderpo.rewards.grading import preload, verify\n"
        "verify.install_guard()\n"
        "import sympy.core.evalf\n"
        "try: sympy.core.evalf.lambdify([], 1)\n"
        "except NotImplementedError: print('guarded')\n"
        "marker, seen = 'holderpomarker', []\n"
        "def audit(event, args):\n"
        "    if event in ('compile', 'exec') and marker in str(args[0]): seen.append(event)\n"
        "sys.addaudithook(audit)\n"
        "texts = '\\\\mbox{#}', '\\\\hat{#}', '\\\\int_0^1 # dx', '\\\\sum_{n=1}^{9} \\\\text{#}'\n"
        "for text in (t.replace('#', marker) for t in texts):\n"
        "    for truth in ('1', '1.5', 'x'):\n"
        "        try: verify.verify(text, truth)\n"
        "        except Exception: pass\n"
        "print(seen)\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=120, cwd=Path.cwd())
    assert done.stdout.split("\n")[:2] == ["guarded", "[]"], done.stdout + done.stderr


SCORES = {
    ("\\boxed{12}", "12"): ("score", 1.0),
    ("\\boxed{13}", "12"): ("score", 0.0),
    ("\\boxed{2\\sqrt{2}}", "\\sqrt{8}"): ("score", 1.0),
    ("<answer> \\frac{1}{2} </answer>", "0.5"): ("score", 1.0),
    ("\\boxed{9.60}", '["9.6", "9.7"]'): ("score", 1.0),
    ("12", "12"): ("no_answer", 1.0),
    ("\\boxed{" + "9" * 2000 + "}", "9"): ("unreadable", 1.0),
}


@pytest.mark.parametrize(("solution", "truth"), SCORES)
def test_compute_score(solution: str, truth: str) -> None:
    key, value = SCORES[solution, truth]
    score = compute_score("math", solution, truth)
    assert score[key] == value and score["score"] == score["acc"]
    assert asyncio.run(compute_score_async("math", solution, truth)) == score


def test_a_truncated_response_scores_nothing() -> None:
    score = compute_score("math", "\\boxed{12}", "12", {"truncated": True})
    assert score["score"] == 0 and score["truncated"] == 1


def test_faults_are_counted() -> None:
    assert compute_score("math", "\\boxed{10000000!}", "\\frac{1}{2}", timeout=1.0)["timeout"] == 1.0
    assert shared_grader(2, 1.0, 2048) is shared_grader(2, 1.0, 2048)
