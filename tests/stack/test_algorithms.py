"""A baseline in the recipe's trainer, and the Hölder loss in verl's own, each in a run of two steps."""

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


def test_a_baseline_of_verls_trains_until_it_collapses(new_run: Callable[..., Run], small_overrides: list[str]) -> None:
    """With filtered groups; the other presets differ from this one and the Hölder loss in numbers. The second step in a row
    beyond a limit ends the run with a status of its own."""
    run = new_run(
        *small_overrides, "algo=dapo", "logger=tensorboard", "trainer.total_training_steps=1000",
        "guard.grad_norm_max=1e-9", "guard.steps=2",
    )  # fmt: skip
    run.start()
    assert run.wait() == ExitStatus.GUARD, run.said[-5000:]
    records = run.records()
    assert [r["step"] for r in records] == [1, 2] and "holder/p" not in records[0]
    assert all(r["actor/grad_norm"] > 0 and math.isfinite(r["actor/pg_loss"]) for r in records)
    assert all(r["group/zero_variance_fraction"] == 0 for r in records), "such groups are replaced"
    (error,) = (line for line in run.said.splitlines() if line.startswith("error: "))
    assert "gradient norm is" in error and "in every step since 1" in error
    assert list(run.run_dir.glob("tensorboard/events.*"))
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
