"""Slurm's notice goes to the task alone, which passes it on and reports the status of the run."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SAVES_FIRST = """
import signal, sys, time
def stop(*_):
    time.sleep(float(sys.argv[2]))
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
open(sys.argv[1], "w").close()
while True:
    time.sleep(60)
"""


def task(folder: Path, *command: str, node: int = 0) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        ["bash", str(ROOT / "scripts/slurm/task.sh"), *command],
        env=os.environ | {"SLURM_NODEID": str(node), "STATUS_FILE": str(folder / "status")},
    )


@pytest.mark.parametrize("seconds", ["0", "1.5"])
def test_a_run_that_saves_on_sigterm_ends_the_task_with_its_status(tmp_path: Path, seconds: str) -> None:
    ready = tmp_path / "ready"
    process = task(tmp_path, sys.executable, "-c", SAVES_FIRST, str(ready), seconds)
    while not ready.exists():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75
    assert (tmp_path / "status").read_text() == "75\n"


@pytest.mark.parametrize(("code", "status"), [("0", 0), ("2", 2)])
def test_the_status_of_a_run_that_ends_by_itself(tmp_path: Path, code: str, status: int) -> None:
    assert task(tmp_path, "bash", "-c", f"exit {code}").wait() == status
    assert (tmp_path / "status").read_text() == f"{status}\n"


def test_only_the_head_reports(tmp_path: Path) -> None:
    assert task(tmp_path, "true", node=1).wait() == 0
    assert not (tmp_path / "status").exists()
