"""Wrong values end the command before Ray starts, with one line that names the key, the value and what is allowed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# override -> what the one line must contain
BAD = {
    "holder.schedule=exponential": ["holder.schedule", "exponential", "linear"],
    "holder.p_start=nan": ["holder.p_start", "nan"],
    "holder.p_start=two": ["holder.p_start", "two"],
    "holder.p_end=inf": ["holder.p_end", "inf"],
    "holder.p_end=null": ["holder.p_end", "null", "finite number"],
    "holder.steps=1": ["holder.steps", "1", "at least 2"],
    "holder.steps=2.5": ["holder.steps", "2.5"],
    "holder.power=3": ["holder.power", "3", "null"],
    "holder.schedule=power holder.power=0": ["holder.power", "0", "above 0"],
    "holder.clip_level=word": ["holder.clip_level", "word", "sequence"],
    "actor_rollout_ref.actor.clip_ratio_low=-0.1": ["clip_ratio_low", "-0.1", "from 0 to 0.999999"],
    "actor_rollout_ref.actor.clip_ratio_high=big": ["clip_ratio_high", "big", "a number"],
    "actor_rollout_ref.actor.optim.lr=0": ["optim.lr", "0"],
    "actor_rollout_ref.actor.ppo_mini_batch_size=5": ["ppo_mini_batch_size", "5", "divisors", "32"],
    "actor_rollout_ref.rollout.n=1": ["rollout.n", "1", "at least 2"],
    "actor_rollout_ref.rollout.temperature=0": ["rollout.temperature", "0"],
    "algorithm.adv_estimator=gae": ["adv_estimator", "gae", "one advantage a sequence"],
    "trainer.v1.trainer_mode=turbo": ["trainer.v1.trainer_mode", "turbo", "sync"],
    "deterministic=maybe": ["deterministic", "maybe", "True"],
    "deterministic=true trainer.v1.trainer_mode=colocate_async": ["trainer_mode", "colocate_async", "sync"],
    "trainer.total_training_steps=0": ["total_training_steps", "0", "from 1"],
    "trainer.device=cuda": ["trainer.device", "cuda", "hardware=cpu"],
    "seed=-1": ["seed", "-1", "from 0"],
    "embedded_data=null data.train_files=/no/such.parquet": ["data.train_files", "/no/such.parquet", "existing files"],
    "embedded_model=huge": ["embedded_model", "huge", "tiny"],
}


@pytest.mark.parametrize("overrides", BAD)
def test_wrong_value_is_one_line_in_under_ten_seconds(overrides: str, tmp_path: Path) -> None:
    started = time.monotonic()
    command = [sys.executable, "-m", "recipe.holderpo.main", f"run_dir={tmp_path}/run", *overrides.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, env=dict(os.environ))
    seconds = time.monotonic() - started
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    for part in BAD[overrides]:
        assert part in lines[0]
    assert seconds < 10
    assert not (tmp_path / "run").exists(), "nothing may be written for a config that is refused"


def test_an_unknown_key_is_named(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "recipe.holderpo.main", f"run_dir={tmp_path}/run", "holder.p_begin=2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and "holder.p_begin" in done.stderr


def test_a_key_of_holder_is_refused_where_the_loss_is_a_baseline(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "recipe.holderpo.main", f"run_dir={tmp_path}/run", "algo=grpo", "holder.p_start=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and "holder" in done.stderr
