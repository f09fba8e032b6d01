"""The Hölder loss in verl's own trainer."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fault_injection.watched_run import ROOT, Run, environment
from omegaconf import OmegaConf

from recipe.holderpo.config.compose import compose_config
from recipe.holderpo.startup.server import INTERPRETER, ForkServer

pytestmark = pytest.mark.stack


def test_constant_p_in_verls_own_main(
    small_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    with ForkServer() as server:  # which is of use to verl's own command, too
        done = subprocess.run(
            [*command, f"++ray_kwargs.ray_init.runtime_env.py_executable='{INTERPRETER}'"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | environment(own.base) | variables | server.for_a_node(),
        )
    own.end()
    assert done.returncode == 0, done.stderr[-6000:]
    logged = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(logged) == 2
    assert all("actor/holder/rho_mean" in row["data"] for row in logged)
