"""The launcher on two hosts: two addresses of this machine, a Ray node each, training over both."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from recipe.holderpo.report.record import read_metrics

pytestmark = pytest.mark.stack

ROOT = Path(__file__).parents[2]
PORT = "6399"
HEAD, OTHER = "127.0.0.2", "127.0.0.3"


def start(rank: int, folder: Path, *overrides: str, **environment: str) -> subprocess.Popen[str]:
    env = os.environ | {
        "NNODES": "2", "NODE_RANK": str(rank), "HEAD_ADDR": HEAD, "NODE_ADDR": (HEAD, OTHER)[rank], "RAY_PORT": PORT,
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"), "NODE_WAIT_S": "200",
    }  # fmt: skip
    command = [sys.executable, "-m", "recipe.holderpo.launch", *overrides]
    return subprocess.Popen(
        command, cwd=ROOT, env=env | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def ours() -> set[int]:
    """Processes of this user that belong to a Ray cluster on our port."""
    found = set()
    for process in psutil.process_iter(["cmdline"]):
        if any(f"{HEAD}:{PORT}" in part for part in process.info["cmdline"] or []):
            found.add(process.pid)
    return found


def current_cluster_is_ours() -> bool:
    note = Path("/tmp/ray/ray_current_cluster")
    return note.exists() and note.read_text().strip() == f"{HEAD}:{PORT}"


@pytest.fixture
def nothing_left() -> Iterator[None]:
    yield
    deadline = time.monotonic() + 20
    while left := ours():
        assert time.monotonic() < deadline, [psutil.Process(pid).cmdline()[:3] for pid in left]
        time.sleep(0.5)


def test_training_over_two_hosts(small_overrides: list[str], tmp_path: Path, nothing_left: None) -> None:
    overrides = [*small_overrides, f"run_dir={tmp_path}/run", "trainer.total_training_steps=2"]
    other = start(1, tmp_path, *overrides)
    head = start(0, tmp_path, *overrides)
    head_output, _ = head.communicate(timeout=500)
    assert head.returncode == 0, head_output[-4000:]
    assert "2 nodes with 1 GPUs each are there" in head_output
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [(r["step"], r["holder/p"]) for r in records] == [(1, 2.0), (2, -2.0)]
    assert all(r["actor/grad_norm"] > 0 for r in records)
    other_output, _ = other.communicate(timeout=60)
    assert other.returncode == 0, other_output
    assert not current_cluster_is_ours()
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600


def test_what_is_missing_is_one_line(small_overrides: list[str], tmp_path: Path, nothing_left: None) -> None:
    """A second node that never comes, one with another token, one with too few GPUs: and nothing is left running."""
    overrides = [*small_overrides, f"run_dir={tmp_path}/run"]
    alone = start(0, tmp_path, *overrides, NODE_WAIT_S="25")
    stranger_token = tmp_path / "other"
    stranger_token.write_text("f" * 64)
    stranger_token.chmod(0o600)
    stranger = start(1, tmp_path, *overrides, RAY_AUTH_TOKEN_PATH=str(stranger_token))
    output, _ = stranger.communicate(timeout=120)
    assert stranger.returncode == 2 and "token" in output.splitlines()[-1].lower(), output
    output, _ = alone.communicate(timeout=120)
    assert alone.returncode == 2, output
    assert output.splitlines()[-1].startswith("error: NNODES is 2; after 25 s 1 joined (127.0.0.2), 1 did not"), output

    fitting = [
        *overrides,
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=8",
    ]
    interrupted = start(0, tmp_path, *overrides)
    assert interrupted.stdout is not None
    while "waiting for 1 more" not in (line := interrupted.stdout.readline()):
        assert line, "the head ended before it was up"
    interrupted.terminate()  # as Slurm does
    interrupted.communicate(timeout=60)
    assert interrupted.returncode == 75 and not ours()

    head = start(0, tmp_path, *fitting, "trainer.n_gpus_per_node=2")
    small = start(1, tmp_path, *fitting, "trainer.n_gpus_per_node=1")
    output, _ = head.communicate(timeout=120)
    assert head.returncode == 2, output
    assert "trainer.n_gpus_per_node is 2; node 127.0.0.3 has 1" in output.splitlines()[-1]
    small.communicate(timeout=60)

    missing = start(0, tmp_path, *overrides, "actor_rollout_ref.model.path=/no/such/model")
    output, _ = missing.communicate(timeout=60)
    assert missing.returncode == 2
    assert output.splitlines()[-1].startswith("error: actor_rollout_ref.model.path is '/no/such/model'")
