"""The Hölder loss in verl's own trainer."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fault_injection.smallest_run import verls_own_command
from fault_injection.watched_run import ROOT, Run, environment

from recipe.holderpo.startup.server import INTERPRETER, ForkServer

pytestmark = pytest.mark.stack
NOT_COMPILED = {"TORCH_COMPILE_DISABLE": "1"}  # as hardware=cpu has it


def test_constant_p_in_verls_own_main(
    small_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`python -m verl.trainer.main_ppo`, the plugin and overrides of `policy_loss` are all that a constant p needs."""
    arguments, variables = verls_own_command([*small_overrides, "trainer.total_training_steps=2"], tmp_path)
    constant_p = ["actor_rollout_ref.actor.policy_loss.p=0.5", "actor_rollout_ref.actor.policy_loss.clip_level=token"]
    own = Run(tmp_path, [])  # for its temporary folder
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    with ForkServer() as server:  # which is of use to verl's own command, too
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                *arguments,
                *constant_p,
                f"++ray_kwargs.ray_init.runtime_env.py_executable='{INTERPRETER}'",
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | environment(own.base) | variables | server.for_a_node() | NOT_COMPILED,
        )
    own.end()
    assert done.returncode == 0, done.stderr[-6000:]
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(logged) == 2
    assert all("actor/holder/rho_mean" in row["data"] for row in logged)
