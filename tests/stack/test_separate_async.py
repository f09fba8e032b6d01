"""The trainer with devices of its own for sampling, which no preset uses on a CPU: with a checkpoint engine of the tests'."""

from collections.abc import Callable
from pathlib import Path

import pytest
from fault_injection.watched_run import Run

from recipe.holderpo.fault_tolerance.signals import ExitStatus

pytestmark = pytest.mark.stack

SEPARATE = (
    "trainer.v1.trainer_mode=separate_async",
    "trainer.v1.separate_async.parameter_sync_step=2",
    "actor_rollout_ref.rollout.nnodes=1",
    "actor_rollout_ref.rollout.n_gpus_per_node=1",
    "actor_rollout_ref.rollout.checkpoint_engine.backend=file",
    "actor_rollout_ref.rollout.checkpoint_engine.custom_backend_module=file_checkpoint_engine",
    "ray_kwargs.ray_init.num_gpus=2",
)


def test_separate_async_trains_with_one_p_per_step_until_it_collapses(
    new_run: Callable[..., Run], small_overrides: list[str]
) -> None:
    """Two updates per step, each with the step's p by the sign of the advantage; weights go to the server apart, and come
    back in its samples. The third step in a row beyond a limit ends the run with a status of its own."""
    run = new_run(
        *small_overrides, *SEPARATE, "trainer.total_training_steps=1000", "logger=tensorboard",
        "algo=holder_signed", "holder.schedule=linear", "holder.steps=3", "holder.p_end=-1", "holder.delta_end=0",
        "guard.grad_norm_max=1e-9", "guard.steps=3",
    )  # fmt: skip
    run.start({"PYTHONPATH": str(Path(__file__).parent)})
    assert run.wait() == ExitStatus.GUARD, run.said[-5000:]
    records = run.records()
    assert [(r["holder/p_positive"], r["holder/p_negative"]) for r in records] == [(-2, 2), (-1.5, 0.5), (-1, -1)]
    # The loss has used them: groups have advantages of both signs, and in the last step one p.
    assert all(r["holder/p_positive"] < r["holder/p_mean"] < r["holder/p_negative"] for r in records[:2])
    assert records[2]["holder/p_mean"] == pytest.approx(-1)
    # each update is a batch of its own here, so its gradient norm has no spread
    assert all(record["actor/grad_norm"] > 0 and record["actor/grad_norm_std"] == 0 for record in records)
    # The server began with random weights: without the transfer its probabilities would be of another model.
    assert all(record["training/rollout_probs_diff_max"] < 1e-3 for record in records)
    assert max(record["training/off_policy/trajectory_staleness/max"] for record in records) <= 2
    (error,) = (line for line in run.said.splitlines() if line.startswith("error: "))
    assert "gradient norm is" in error and "in every step since 1" in error
    assert list(run.run_dir.glob("tensorboard/events.*"))
    assert run.left_over() == []
