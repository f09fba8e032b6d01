"""Wrong values end the command before Ray starts, with one line that names the key, the value and what is allowed."""

import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from recipe.holderpo.config import ConfigError, check_config
from recipe.holderpo.main import check, resolve

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


def _command(tmp_path: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "recipe.holderpo.main", f"run_dir={tmp_path}/run", *overrides]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("overrides", BAD)
def test_the_error_names_key_value_and_what_is_allowed(overrides: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        config = compose("holderpo", overrides=[*overrides.split(), "run_dir=never-made"])
    with pytest.raises(ConfigError) as caught:
        check_config(resolve(config))
    line = str(caught.value)
    assert "\n" not in line
    for part in BAD[overrides]:
        assert part in line


def test_the_default_config_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        check_config(resolve(compose("holderpo", overrides=["run_dir=never-made"])))


def test_the_command_ends_with_that_line_and_writes_nothing(tmp_path: Path) -> None:
    done = _command(tmp_path, "holder.schedule=exponential")
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: holder.schedule is 'exponential'; allowed are"), done.stderr
    assert not (tmp_path / "run").exists()


def test_what_verl_refuses_is_one_line_too(tmp_path: Path) -> None:
    done = _command(
        tmp_path, "embedded_model=null", "embedded_data=null", f"data.train_files={__file__}", f"data.val_files={__file__}",
        "actor_rollout_ref.model.path=some/hub-id", "actor_rollout_ref.actor.loss_agg_mode=median",
    )  # fmt: skip
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and "median" in lines[0], done.stderr


def test_an_unknown_key_is_named(tmp_path: Path) -> None:
    done = _command(tmp_path, "holder.p_begin=2")
    assert done.returncode != 0 and "holder.p_begin" in done.stderr


def test_a_key_of_holder_is_refused_where_the_loss_is_a_baseline(tmp_path: Path) -> None:
    done = _command(tmp_path, "algo=grpo", "holder.p_start=1")
    assert done.returncode != 0 and "holder" in done.stderr


@pytest.mark.parametrize("algo", ["holder", "holder_static", "grpo", "dr_grpo", "gspo", "gmpo", "dapo"])
@pytest.mark.parametrize("scale", [(1, 4), (2, 8), (50, 8)], ids=["4 GPUs", "16 GPUs", "400 GPUs"])
def test_the_gpu_preset_passes_our_checks_and_verls(
    algo: str, scale: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two overrides take a config from a laptop to a cluster."""
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    data = tmp_path / "data.parquet"
    data.touch()
    overrides = [
        *("hardware=gpu", f"algo={algo}", "embedded_model=null", "embedded_data=null"),
        *(f"data.train_files={data}", f"data.val_files={data}", "actor_rollout_ref.model.path=some/hub-id"),
        *("data.train_batch_size=800", "actor_rollout_ref.actor.ppo_mini_batch_size=400"),
        *(f"trainer.nnodes={scale[0]}", f"trainer.n_gpus_per_node={scale[1]}", "run_dir=never-made"),
    ]
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        check(resolve(compose("holderpo", overrides=overrides)))
