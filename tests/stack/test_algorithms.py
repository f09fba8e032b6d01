"""Baselines, trainer modes and verl's own main, each in a run of two or three steps."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_injection.watched_run import ROOT, Run, environment
from omegaconf import OmegaConf

from recipe.holderpo.config.compose import compose_config
from recipe.holderpo.fault_tolerance.signals import ExitStatus

pytestmark = pytest.mark.stack


def test_a_baseline_of_verls_trains(new_run: Callable[..., Run], small_overrides: list[str]) -> None:
    """With filtered groups; the other presets differ from this one and the Hölder loss in numbers."""
    run = new_run(*small_overrides, "algo=dapo", "logger=tensorboard", "trainer.total_training_steps=2")
    run.start()
    assert run.wait() == 0, run.said[-5000:]
    records = run.records()
    assert [r["step"] for r in records] == [1, 2]
    assert any(r["actor/grad_norm"] > 0 for r in records) and all(math.isfinite(r["actor/pg_loss"]) for r in records)
    assert "holder/p" not in records[0]
    assert list(run.run_dir.glob("tensorboard/events.*"))


def test_colocate_async_on_two_ranks_with_further_terms_until_it_collapses(
    new_run: Callable[..., Run], small_overrides: list[str]
) -> None:
    """p of each step, KL and entropy terms; then the third step in a row beyond a limit ends the run with its own status."""
    run = new_run(
        *small_overrides, "trainer.v1.trainer_mode=colocate_async", "trainer.n_gpus_per_node=2",
        "trainer.total_training_steps=1000", "holder.steps=3", "actor_rollout_ref.actor.use_kl_loss=true",
        "actor_rollout_ref.actor.entropy_coeff=0.001", "guard.grad_norm_max=1e-9", "guard.steps=3",
    )  # fmt: skip
    run.start()
    assert run.wait() == ExitStatus.GUARD, run.said[-5000:]
    records = run.records()
    assert [r["holder/p"] for r in records] == [2.0, 0.0, -2.0]
    assert all(r["actor/grad_norm"] > 0 for r in records)
    assert records[-1]["actor/kl_loss"] > 0, "the policy has moved away from the reference"
    (error,) = (line for line in run.said.splitlines() if line.startswith("error: "))
    assert "gradient norm is" in error and "in every step since 1" in error
    assert run.left_over() == []


def test_constant_p_in_verls_own_main(small_overrides: list[str], tmp_path: Path) -> None:
    """`python -m verl.trainer.main_ppo`, the plugin and overrides of `policy_loss` are all that a constant p needs."""
    config = compose_config([*small_overrides, f"run_dir={tmp_path}/run"])  # the CPU settings, spelt out
    OmegaConf.save(config, tmp_path / "config.yaml")
    command = [
        sys.executable, "-m", "verl.trainer.main_ppo", f"--config-path={tmp_path}", "--config-name=config",
        "actor_rollout_ref.actor.policy_loss.p=0.5", "actor_rollout_ref.actor.policy_loss.clip_level=token",
        "actor_rollout_ref.rollout.agent.default_agent_loop=single_turn_agent", "trainer.total_training_steps=2",
        "trainer.save_freq=-1", f"trainer.default_local_dir={tmp_path}/checkpoints", "trainer.rollout_data_dir=null",
        "trainer.logger=[file]", "trainer.resume_mode=disable", f"hydra.run.dir={tmp_path}/hydra",
    ]  # fmt: skip
    log = tmp_path / "log.jsonl"
    variables = {"VERL_PLATFORM": "cpu", "VLLM_CPU_KVCACHE_SPACE": "1", "VERL_FILE_LOGGER_PATH": str(log)}
    own = Run(tmp_path, [])  # for its temporary folder
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment(own.base) | variables,
    )
    own.end()
    assert done.returncode == 0, done.stderr[-6000:]
    logged = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(logged) == 2
    assert all("actor/holder/rho_mean" in row["data"] for row in logged)
