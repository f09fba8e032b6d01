"""Short runs of the real stack (verl, Ray, FSDP2 on gloo, vLLM) with an untrained model of some ten thousand parameters."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_injection.smallest_run import smallest_run

from recipe.holderpo.report.record import read_metrics

ROOT = Path(__file__).parents[2]
Records = list[dict[str, float]]


@pytest.fixture(scope="session")
def small_overrides(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides for the smallest real run: 8 prompts x 4 samples, mini-batches of 4 prompts, no validation."""
    return smallest_run(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def train(small_overrides: list[str]) -> Callable[..., Records]:
    """`train(run_dir, *overrides)`: run the command as a user would and return its metrics.jsonl."""

    def run(run_dir: Path, *overrides: str) -> Records:
        command = [sys.executable, "-m", "recipe.holderpo.main", *small_overrides, f"run_dir={run_dir}", *overrides]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, env=dict(os.environ))
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
        return read_metrics(run_dir / "metrics.jsonl")

    return run
