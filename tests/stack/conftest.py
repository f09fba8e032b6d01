"""Short runs of the real stack (verl, Ray, FSDP2 on gloo, vLLM) with an untrained model of some ten thousand parameters."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from recipe.holderpo.local.arithmetic import ensure_arithmetic_data
from recipe.holderpo.local.tiny_model import TinyModelConfig, build_model, build_tokenizer, save_model
from recipe.holderpo.report.record import read_metrics

ROOT = Path(__file__).parents[2]
Records = list[dict[str, float]]


@pytest.fixture(scope="session")
def small_overrides(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides for the smallest real run: 8 prompts x 4 samples, mini-batches of 4 prompts, no validation."""
    folder = tmp_path_factory.mktemp("small")
    tokenizer = build_tokenizer()
    model = build_model(
        TinyModelConfig(hidden_size=64, intermediate_size=64, num_layers=1, num_heads=2), tokenizer, seed=1
    )
    (folder / "model").mkdir()
    save_model(model, tokenizer, folder / "model")
    train, val = ensure_arithmetic_data(folder)
    return [
        "embedded_model=null",
        "embedded_data=null",
        f"actor_rollout_ref.model.path={folder}/model",
        f"data.train_files={train}",
        f"data.val_files={val}",
        f"reward.custom_reward_function.path={ROOT}/tests/stack/any_reward.py",
        "data.train_batch_size=8",
        "actor_rollout_ref.rollout.n=4",
        "actor_rollout_ref.actor.ppo_mini_batch_size=4",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=16",
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=16",
        "trainer.val_before_train=false",
        "trainer.test_freq=-1",
        "trainer.save_freq=-1",
    ]


@pytest.fixture(scope="session")
def train(small_overrides: list[str]) -> Callable[..., Records]:
    """`train(run_dir, *overrides)`: run the command as a user would and return its metrics.jsonl."""

    def run(run_dir: Path, *overrides: str) -> Records:
        command = [sys.executable, "-m", "recipe.holderpo.main", *small_overrides, f"run_dir={run_dir}", *overrides]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, env=dict(os.environ))
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
        return read_metrics(run_dir / "metrics.jsonl")

    return run
