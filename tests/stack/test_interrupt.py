"""Ctrl-C: the run ends soon, says how to go on, and leaves no process of ours."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recipe.holderpo.checkpoint import MANIFEST

pytestmark = pytest.mark.stack

ROOT = Path(__file__).parents[2]
MARK = "HOLDERPO_TEST_MARK"


def _marked_processes(mark: str) -> list[str]:
    """Command lines of the processes that inherited the mark through their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:120])
        except (OSError, ProcessLookupError):
            continue
    return found


def test_ctrl_c(small_overrides: list[str], tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    overrides = [f"run_dir={run_dir}", "holder.steps=40", "trainer.total_training_steps=40", "trainer.save_freq=2"]
    shared_memory_before = set(Path("/dev/shm").iterdir())
    run = subprocess.Popen(
        [sys.executable, "-m", "recipe.holderpo.main", *small_overrides, *overrides],
        cwd=ROOT,
        env=os.environ | {MARK: str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    saved = run_dir / "checkpoints" / "global_step_2" / MANIFEST
    deadline = time.monotonic() + 400
    while not saved.exists():
        assert run.poll() is None, run.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.5)
    run.send_signal(signal.SIGINT)
    interrupted = time.monotonic()
    output, _ = run.communicate(timeout=60)
    seconds = time.monotonic() - interrupted
    assert run.returncode == 130 and "go on from the last checkpoint" in output, output
    while left := _marked_processes(str(tmp_path)):
        assert time.monotonic() - interrupted < 15, left
        time.sleep(0.2)
    assert seconds < 15
    assert {p for p in Path("/dev/shm").iterdir() if p.name.startswith(("psm_", "verl_"))} <= shared_memory_before
