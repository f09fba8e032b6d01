"""The launcher on two hosts: two addresses of this machine, a Ray node each, training over both."""

import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from fault_injection.watched_run import HEAD, Run, TwoNodeRun

from recipe.holderpo.fault_tolerance.signals import ExitStatus

pytestmark = pytest.mark.stack


def ours(run: TwoNodeRun) -> list[str]:
    """Command lines of processes that belong to a Ray cluster on the run's port."""
    lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    return [line for line in lines if f"{HEAD}:{run.port}" in line]


def nothing_left(run: TwoNodeRun) -> bool:
    deadline = time.monotonic() + 600  # a last resort: Ray's agents end some time after their node
    while ours(run) and time.monotonic() < deadline:
        time.sleep(0.5)
    return not ours(run)


def current_cluster_is(run: TwoNodeRun) -> bool:
    """Whether Ray's note of this machine's current cluster, which a later `ray.init` would follow, is of this run."""
    note = Path("/tmp/ray/ray_current_cluster")
    return note.exists() and note.read_text().strip() == f"{HEAD}:{run.port}"


@pytest.fixture
def two_nodes(new_run: Callable[..., Run], small_overrides: list[str]) -> TwoNodeRun:
    run = new_run(*small_overrides, kind=TwoNodeRun)
    assert isinstance(run, TwoNodeRun)
    return run


def test_colocate_async_with_kl_and_entropy_terms_over_two_hosts(two_nodes: TwoNodeRun) -> None:
    """A rank on each; p is annealed on both."""
    two_nodes.overrides = [
        *two_nodes.overrides, "trainer.v1.trainer_mode=colocate_async", "trainer.total_training_steps=3",
        "logger=tensorboard", "actor_rollout_ref.actor.use_kl_loss=true", "actor_rollout_ref.actor.entropy_coeff=0.001",
    ]  # fmt: skip
    two_nodes.start()
    assert (
        two_nodes.wait_until(lambda: False) is False and two_nodes.process is not None and two_nodes.other is not None
    )
    assert two_nodes.process.returncode == 0, two_nodes.said[-5000:]
    assert "2 nodes with 1 GPUs each are there" in two_nodes.said
    records = two_nodes.records()
    assert [(r["step"], r["holder/p"]) for r in records] == [(1, 2.0), (2, 0.0), (3, -2.0)]
    assert all(r["actor/grad_norm"] > 0 for r in records)
    assert records[-1]["actor/kl_loss"] > 0, "the policy has moved away from the reference"
    (events,) = two_nodes.run_dir.glob("tensorboard/events.*")
    assert b"sampled accuracy" in events.read_bytes(), "the final table"
    assert two_nodes.other.wait() == 0, two_nodes.said[-5000:]
    assert not current_cluster_is(two_nodes) and nothing_left(two_nodes)
    assert (two_nodes.folder / "token").stat().st_mode & 0o777 == 0o600


def test_a_node_with_another_token_is_refused_and_sigterm_ends_a_waiting_head(two_nodes: TwoNodeRun) -> None:
    head = two_nodes.process = two_nodes.node(0)
    assert two_nodes.wait_until(lambda: "waiting for 1 more" in two_nodes.said), two_nodes.said
    other_token = two_nodes.folder / "other"
    other_token.write_text("f" * 64)
    other_token.chmod(0o600)
    stranger = two_nodes.node(1, {"RAY_AUTH_TOKEN_PATH": str(other_token)}, said="stranger.txt")
    assert stranger.wait() == ExitStatus.REFUSED
    last = (two_nodes.folder / "stranger.txt").read_text().splitlines()[-1]
    assert last.startswith("error: this node could not join") and "token" in last.lower()
    head.terminate()  # as Slurm does
    assert head.wait() == ExitStatus.STOPPED and nothing_left(two_nodes)


def test_a_wrong_config_costs_no_start_of_a_cluster(two_nodes: TwoNodeRun) -> None:
    two_nodes.overrides = [*two_nodes.overrides, "actor_rollout_ref.model.path=/no/such/model", "seed=-1"]
    assert two_nodes.node(0).wait() == ExitStatus.REFUSED
    errors = [line for line in two_nodes.said.splitlines() if line.startswith("error: ")]
    assert [line.split()[1] for line in errors] == ["seed", "actor_rollout_ref.model.path"]
    assert not list(two_nodes.base.iterdir())
