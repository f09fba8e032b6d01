"""The grading processes: what they withstand, and that no right answer is lost beside what they do not."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import psutil
import pytest

from recipe.holderpo.rewards.grading.client import MAX_USELESS_HOSTS, Grader, Verdict, shared_grader
from recipe.holderpo.rewards.math import compute_score, compute_score_async

# Towers of powers, which no machine works out in time: they end in a timeout, or out of memory first.
ENDLESS = ["9^{9^{9^9}}", "8^{8^{8^8}}", "7^{7^{7^{7^7}}}"]
RIGHT = [("\\sqrt{8}", "2\\sqrt{2}"), ("(1,2]", "(1, 2]"), ("x+1", "1+x"), ("\\{1,2\\}", "\\{2,1\\}")]
TIMEOUT = 2.0
DEADLINE = 600.0  # seconds; for a test that would wait for ever


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    made = Grader(workers=2, timeout=TIMEOUT)
    yield made
    made.close()


def right(grader: Grader, number: int) -> list[Any]:
    return [grader.submit(*RIGHT[i % len(RIGHT)]) for i in range(number)]


def host_of(grader: Grader) -> psutil.Process:
    assert grader._host is not None
    return psutil.Process(grader._host.pid)


def processes(grader: Grader) -> list[psutil.Process]:
    return host_of(grader).children()


def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=DEADLINE)
    assert not alive


def run_script(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE, cwd=Path.cwd()
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_symbolic_answers(grader: Grader) -> None:
    assert [future.result() for future in right(grader, len(RIGHT))] == [Verdict(True)] * len(RIGHT)
    assert grader.submit("x+2", "1+x").result() == Verdict(False)


def test_slow_answers_cost_themselves_alone(grader: Grader) -> None:
    """12 slow ones first, right ones behind them: every right one is found, the slow ones are cut off."""
    slow = [grader.submit(ENDLESS[i % len(ENDLESS)], "1") for i in range(12)]
    assert [future.result() for future in right(grader, 20)] == [Verdict(True)] * 20
    verdicts = [future.result() for future in slow]
    assert {verdict.fault for verdict in verdicts} <= {"timeout", "crash"}
    assert "timeout" in {verdict.fault for verdict in verdicts}


def test_no_answer_is_lost_when_every_process_is_killed_in_turn(grader: Grader) -> None:
    grader.submit(*RIGHT[0]).result()
    killed: set[int] = set()
    for _ in range(4):
        futures = right(grader, 100)
        while not (alive := [process for process in processes(grader) if process.pid not in killed]):
            time.sleep(0.05)
        alive[0].kill()
        killed.add(alive[0].pid)
        assert [future.result() for future in futures] == [Verdict(True)] * 100
    assert len(killed) == 4


def test_no_answer_is_lost_when_the_host_is_killed(grader: Grader) -> None:
    grader.submit(*RIGHT[0]).result()
    futures = right(grader, 50)
    host, workers = host_of(grader), processes(grader)
    host.kill()
    assert [future.result() for future in futures] == [Verdict(True)] * 50
    assert len(workers) == 2
    assert_gone([host, *workers])


def test_a_host_that_is_killed_again_and_again_with_nothing_to_do_is_no_error(grader: Grader) -> None:
    for _ in range(MAX_USELESS_HOSTS):
        grader.submit(*RIGHT[0]).result()
        host = host_of(grader)
        host.kill()
        while grader._host is None or grader._host.pid == host.pid:
            time.sleep(0.05)
    assert grader.submit(*RIGHT[0]).result() == Verdict(True)


def test_a_stopped_process_costs_one_answer(grader: Grader) -> None:
    grader.submit(*RIGHT[0]).result()
    stopped = processes(grader)[0]
    stopped.suspend()
    verdicts = [future.result() for future in right(grader, 20)]
    assert sorted(verdict.fault or "" for verdict in verdicts) == [""] * 19 + ["timeout"]
    assert sum(verdict.equal for verdict in verdicts) == 19
    assert_gone([stopped])


def test_a_stopped_host_is_replaced(monkeypatch: pytest.MonkeyPatch, grader: Grader) -> None:
    monkeypatch.setattr("recipe.holderpo.rewards.grading.client.SILENT_SECONDS", 5.0)
    grader.submit(*RIGHT[0]).result()
    host, workers = host_of(grader), processes(grader)
    host.suspend()
    assert [future.result() for future in right(grader, 4)] == [Verdict(True)] * 4
    assert len(workers) == 2
    assert_gone([host, *workers])


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exit 1", "had exit status 1: nothing on stderr"),
        ("echo first >&2; echo the reason >&2; exit 7", "had exit status 7: the reason"),
        ("kill -9 $$", "had exit status -9"),
        ("exec sleep 1000", "gave no sign of life"),
    ],
)
def test_hosts_that_do_not_work_are_an_error_not_a_wrong_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, reason: str
) -> None:
    monkeypatch.setattr("recipe.holderpo.rewards.grading.client.START_SECONDS", 1.0)
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    broken = Grader(workers=1)
    for _ in range(2):  # whether that is known at the time of the submission or only afterwards
        with pytest.raises(RuntimeError, match=f"{MAX_USELESS_HOSTS} grading hosts in a row .* {reason}"):
            broken.submit("x", "y").result()


def test_a_host_program_that_is_missing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(RuntimeError, match=r"could not be used: .*No such file"):
        Grader().submit("x", "y").result()


def test_closing_leaves_no_process_and_cancels_what_is_pending() -> None:
    made = Grader(workers=2)
    made.submit(*RIGHT[0]).result()
    family = [host_of(made), *processes(made)]
    pending = [made.submit(ENDLESS[0], "1") for _ in range(3)]
    made.close()
    assert len(family) == 3
    assert_gone(family)
    for future in pending:
        with pytest.raises(CancelledError):
            future.result()
    with pytest.raises(RuntimeError, match="closed"):
        made.submit("x", "y")


KILLED_CLIENT = """
import os, time
from recipe.holderpo.rewards.grading.client import Grader
grader = Grader()
grader.submit("x+1", "1+x").result()
if os.fork() == 0:  # holds a copy of the pipe whose end would tell the host
    time.sleep(60)
    os._exit(0)
print(grader._host.pid, flush=True)
time.sleep(3600)
"""


def test_a_client_that_is_killed_leaves_no_process_and_no_shared_memory() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED_CLIENT], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    ) as client:
        assert client.stdout is not None
        host = psutil.Process(int(client.stdout.readline()))
        family = [host, *host.children()]
        assert len(family) == 3
        for process in [psutil.Process(client.pid), *family]:
            assert "/dev/shm" not in Path(f"/proc/{process.pid}/maps").read_text()
        (fork,) = [child for child in psutil.Process(client.pid).children() if child != host]
        client.kill()
        assert_gone(family)
        assert fork.is_running()
        fork.kill()


FORK = """
import os, sys
from recipe.holderpo.rewards.grading.client import shared_grader
from recipe.holderpo.rewards.math import compute_score

def grade():  # right and wrong ones in turn
    return [compute_score("", f"\\\\boxed{{2^{{x+{i + i % 2}}}}}", f"2^{{{i}+x}}")["score"] for i in range(20)]

expected = [1.0, 0.0] * 10
assert grade() == expected
grader = shared_grader(2, 5.0, 2048)
host = grader._host.pid
child = os.fork()
if child == 0:
    assert grade() == expected
    try:
        grader.submit("x", "y")
    except RuntimeError as error:
        assert "forked" in str(error)
        sys.exit(0)  # with what is registered for the exit, which is to leave the parent's host alone
    sys.exit(1)
assert grade() == expected
assert os.waitpid(child, 0)[1] == 0
assert grade() == expected and grader._host.pid == host
"""


def test_a_forked_process_has_a_grader_of_its_own() -> None:
    run_script(FORK)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"workers": 0}, "workers is 0; allowed is a whole number from 1 to 256"),
        ({"workers": 257}, "workers is 257; allowed is a whole number from 1 to 256"),
        ({"workers": True}, "workers is True; allowed is a whole number from 1 to 256"),
        ({"workers": 2.0}, "workers is 2.0; allowed is a whole number from 1 to 256"),
        ({"timeout": 0}, "timeout is 0; allowed is a number from 0.001 to 86400"),
        ({"timeout": -1.0}, "timeout is -1.0; allowed is a number from 0.001 to 86400"),
        ({"timeout": 86_401}, "timeout is 86401; allowed is a number from 0.001 to 86400"),
        ({"timeout": float("nan")}, "timeout is nan; allowed is a number from 0.001 to 86400"),
        ({"timeout": "5"}, "timeout is '5'; allowed is a number from 0.001 to 86400"),
        ({"memory_mb": 1023}, "memory_mb is 1023; allowed is a whole number from 1024 to 1048576"),
        ({"memory_mb": (1 << 20) + 1}, "memory_mb is 1048577; allowed is a whole number from 1024 to 1048576"),
        ({"memory_mb": None}, "memory_mb is None; allowed is a whole number from 1024 to 1048576"),
    ],
)
def test_limits_that_are_out_of_bounds_are_an_error(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        Grader(**limits)
    assert str(caught.value) == message
    with pytest.raises(ValueError) as caught:
        compute_score("", "\\boxed{2^{x+1}}", "2^{1+x}", **limits)
    assert str(caught.value) == message


def test_the_greatest_limits_that_are_allowed_are_no_error() -> None:
    made = Grader(workers=1, timeout=86_400, memory_mb=1 << 20)
    assert made.submit(*RIGHT[0]).result() == Verdict(True)
    made.close()


def test_a_grading_process_inherits_no_secrets_and_no_descriptors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOLDERPO_TEST_TOKEN", "secret")
    made = Grader(workers=3)
    made.submit(*RIGHT[0]).result()
    while len(processes(made)) < 3 or any(len(os.listdir(f"/proc/{p.pid}/fd")) > 3 for p in processes(made)):
        time.sleep(0.05)  # the last one is still starting
    host = host_of(made)
    for process in [host, *processes(made)]:
        assert set(process.environ()) <= {"PATH", "LANG", "HOME", "PYTHONPATH", "LC_CTYPE"}
        assert process.environ()["HOME"] == "/nonexistent"

    def descriptors(process: psutil.Process) -> dict[str, str]:
        folder = Path(f"/proc/{process.pid}/fd")
        return {name.name: os.readlink(name) for name in folder.iterdir()}

    of_host = set(descriptors(host).values())
    channels = set()
    for process in processes(made):
        found = descriptors(process)
        assert found["0"].startswith("socket:") and found["0"] not in of_host
        assert found == {"0": found["0"], "1": "/dev/null", "2": "/dev/null"}
        channels.add(found["0"])
    assert len(channels) == 3
    made.close()


PROTECTED = """
import ctypes, json, os, resource, signal, socket
from recipe.holderpo.rewards.grading import verify

verify.warm_up()
parent, one_end, _ = os.getppid(), *socket.socketpair()
libc = ctypes.CDLL(None, use_errno=True)

def call(number, *arguments):  # a system call without a function in Python
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "")

attempts = dict(
    socket=socket.socket, message=lambda: one_end.sendmsg([b"x"]), read=lambda: open("/etc/hostname"),
    write=lambda: os.open("/tmp/x", os.O_CREAT), node=lambda: os.mknod("/tmp/x"), unlink=lambda: os.unlink("/tmp/x"),
    attribute=lambda: os.setxattr("/tmp", "user.x", b""), times=lambda: os.utime("/tmp"), environ=lambda: open(
    f"/proc/{parent}/environ"), descriptor=lambda: os.open(f"/proc/{parent}/fd/0", os.O_RDONLY),
    process=lambda: os.pidfd_open(parent), steal=lambda: call(438, 3, 0, 0), fork=os.fork,
    program=lambda: os.execv("/bin/true", ["true"]), signal=lambda: os.kill(parent, 0),
    priority=lambda: os.setpriority(os.PRIO_PROCESS, parent, 19),
    limit=lambda: resource.prlimit(parent, resource.RLIMIT_CPU, (1, 1)),
    own_limit=lambda: resource.prlimit(0, resource.RLIMIT_AS, (-1, -1)),
)
verify.protect(1024)

def outcome(attempt):
    try:
        attempt()
    except BaseException as error:
        return type(error).__name__
    return "done"

found = {name: outcome(attempt) for name, attempt in attempts.items()}
found["memory"] = outcome(lambda: bytearray(2 << 30))
found["right"] = verify.verify("2\\sqrt{2}", "\\sqrt{8}")
found["rounded"] = verify.verify("1.4142136", "\\sqrt{2}")
print(json.dumps(found), flush=True)
os._exit(0)
"""


def test_a_protected_process_can_grade_and_nothing_else() -> None:
    found = json.loads(run_script(PROTECTED))
    assert {name: found.pop(name) for name in ("memory", "right", "rounded")} == {
        "memory": "MemoryError",
        "right": True,
        "rounded": True,
    }
    assert len(found) == 18 and set(found.values()) == {"PermissionError"}, found


def test_a_failure_inside_the_verifier_is_a_fault_not_a_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    from math_verify import grader as math_verify_grader

    from recipe.holderpo.rewards.grading.verify import verify

    assert verify("x+1", "1+x") is True and verify("x+2", "1+x") is False

    def fail(*args: object, **kwargs: object) -> bool:
        raise MemoryError

    monkeypatch.setattr(math_verify_grader, "sympy_expr_eq", fail)
    with pytest.raises(MemoryError):
        verify("x+2", "1+x")


def test_math_verify_cannot_hide_that_memory_ran_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """It calls sympy's simplify within `except Exception: pass`, and then says "not equal"."""
    from math_verify import grader as math_verify_grader

    from recipe.holderpo.rewards.grading.verify import verify

    simplify, calls = math_verify_grader.simplify, list[int]()

    def fail(times: int) -> None:
        def failing(*args: Any) -> Any:
            calls.append(1)
            if len(calls) <= times:
                raise MemoryError
            return simplify(*args)

        calls.clear()
        monkeypatch.setattr(math_verify_grader, "simplify", failing)

    wrong, right = ("x+2", "x+1"), ("(x+1)^2", "x^2+2x+1")
    fail(0)
    assert (verify(*wrong), verify(*right)) == (False, True) and len(calls) == 2
    for answer in (wrong, right):
        fail(2)
        with pytest.raises(MemoryError):
            verify(*answer)
        assert len(calls) == 2
    fail(1)
    assert verify(*right) is True  # found in the second attempt
    with pytest.raises(Exception) as caught:  # outside, a MemoryError is an Exception as ever
        raise MemoryError
    assert caught.type is MemoryError and MemoryError.__mro__ == (MemoryError, Exception, BaseException, object)


def test_text_from_a_model_is_not_evaluated() -> None:
    """The guard is on: sympy's lambdify refuses, and no source that is compiled has the marker's name in it."""
    probe = (
        "import sys\n"
        "from recipe.holderpo.rewards.grading import verify\n"
        "verify.warm_up()\n"
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
    ("\\boxed{(x+1)^2}", "x^2+2x+1"): ("score", 1.0),
    ("\\boxed{(x+1)^2}", "x^2+x+1"): ("score", 0.0),
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
    # A list of 10^9 terms, in sympy, inside an `except Exception` of math-verify's. No limit on time that comes first.
    score = compute_score("math", "\\boxed{(x+y)^{1000000000}}", "x+y-1", timeout=3600.0, memory_mb=1024)
    assert score == {**dict.fromkeys(score, 0.0), "crash": 1.0} and {"score", "acc"} <= score.keys()
    assert shared_grader(2, 1.0, 2048) is shared_grader(2, 1.0, 2048)
