"""What only the whole stack can show."""

import json
import math
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch
from fault_injection import faults
from fault_injection.faults import STEPS
from fault_injection.watched_run import Run

from recipe.holderpo.report.record import read_metrics

pytestmark = pytest.mark.stack

ROOT = Path(__file__).parents[2]
Records = list[dict[str, float]]
Train = Callable[..., Records]

RUN = (
    *faults.SETTINGS,
    f"trainer.test_freq={STEPS}",
    "actor_rollout_ref.rollout.val_kwargs.n=8",
    "keep_checkpoints=10",
)


@pytest.fixture(scope="module")
def whole_run(train: Train, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Records]:
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    return run_dir, train(run_dir, *RUN)


def test_p_is_that_of_the_schedule_in_every_step(whole_run: tuple[Path, Records]) -> None:
    _, records = whole_run
    assert [r["step"] for r in records] == list(range(1, STEPS + 1))
    assert [r["holder/p"] for r in records] == pytest.approx([2 - 4 * i / (STEPS - 1) for i in range(STEPS)], abs=1e-12)
    assert records[0]["holder/p"] == 2.0 and records[-1]["holder/p"] == -2.0  # exactly


def test_every_key_of_the_record_is_documented(whole_run: tuple[Path, Records]) -> None:
    documented = []
    for line in (ROOT / "docs/metrics.md").read_text().splitlines():
        if line.startswith("| `"):
            names = re.findall(r"`([^`]+)`", line.split(" | ")[0])
            # `x_max`, `_mean` and `x` (`/min`) name x_mean and x/min
            stems = [names[0].rsplit("_", 1)[0] if n.startswith("_") else names[0].rsplit("/", 1)[0] for n in names]
            documented += [s + n if n.startswith(("_", "/")) else n for s, n in zip(stems, names, strict=True)]
    keys = {key for record in whole_run[1] for key in record}
    assert {"step", "holder/p", "val-core/arithmetic/acc/mean@8"} <= keys
    patterns = [re.sub(r"<[^>]+>", "*", name).replace("@n", "@*").replace("...", "*") for name in documented]
    assert [key for key in sorted(keys) if not any(fnmatchcase(key, p) for p in patterns)] == []


def test_every_rollout_comes_from_exactly_the_trainers_weights(whole_run: tuple[Path, Records]) -> None:
    """vLLM's probabilities of the tokens it sampled against the trainer's, after up to five updates at a high rate."""
    _, records = whole_run
    for record in records:
        assert record["training/rollout_probs_diff_max"] < 1e-6, f"step {record['step']}"
    moved = max(record["holder/log_ratio_max"] for record in records)
    assert moved > 1e-2, "the weights must have moved by far more than the difference allowed"


def test_a_run_that_was_told_to_stop_becomes_the_undisturbed_one(
    whole_run: tuple[Path, Records], small_overrides: list[str], tmp_path: Path
) -> None:
    """From step 2 on, with a SIGTERM on the way: p, learning rate, data order, texts, metrics, weights and optimiser state.

    `python -m fault_injection.faults` does worse things to a run."""
    whole_dir, whole = whole_run
    fault = next(fault for fault in faults.FAULTS if fault.name == "SIGTERM")
    outcome = faults.trial(fault, Run(whole_dir.parent, [*small_overrides, *RUN]), tmp_path, random.Random(1))
    assert (outcome.problem, outcome.steps_lost, outcome.starts, outcome.left_over) == (None, 0, 2, [])
    resumed_dir = tmp_path / "run"
    resumed = read_metrics(resumed_dir / "metrics.jsonl")
    assert "val-core/arithmetic/acc/mean@8" in whole[-1] and "val-core/arithmetic_greedy/acc/mean@1" in whole[-1]
    for expected, got in zip(whole, resumed, strict=True):
        assert got["holder/p"] == expected["holder/p"] and got["actor/lr"] == expected["actor/lr"]
        for key in expected:
            if "/acc/mean@" in key:  # verl's best@n is a bootstrap with a random seed
                assert got[key] == pytest.approx(expected[key], abs=1e-9), key
    for part in ("model", "optim"):
        name = f"checkpoints/global_step_{STEPS}/actor/{part}_world_size_1_rank_0.pt"
        expected_state, state = (torch.load(folder / name, weights_only=False) for folder in (whole_dir, resumed_dir))
        _assert_same(expected_state, state, part)


def _assert_same(expected: object, got: object, where: str) -> None:
    if isinstance(expected, torch.Tensor):
        assert isinstance(got, torch.Tensor)
        a, b = (t.full_tensor() if hasattr(t, "full_tensor") else t for t in (expected, got))
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=lambda message: f"{where}: {message}")
    elif isinstance(expected, dict):
        assert isinstance(got, dict) and expected.keys() == got.keys(), where
        for key in expected:
            _assert_same(expected[key], got[key], f"{where}.{key}")
    elif isinstance(expected, list | tuple):
        assert isinstance(got, list | tuple) and len(expected) == len(got), where
        for i, (a, b) in enumerate(zip(expected, got, strict=True)):
            _assert_same(a, b, f"{where}[{i}]")
    else:
        assert expected == got, where


LOGGED_TO = {"holder_static": ("wandb", "wandb/offline-run-*"), "dapo": ("tensorboard", "tensorboard/events.*")}


@pytest.mark.parametrize("algo", LOGGED_TO)
def test_every_kind_of_algo_trains(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algo: str) -> None:
    """Our loss with a constant p, and verl's own with filtered groups; the other presets differ from these in numbers."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger, files = LOGGED_TO[algo]
    records = train(tmp_path / "run", f"algo={algo}", f"logger={logger}", "trainer.total_training_steps=2")
    assert [r["step"] for r in records] == [1, 2]
    assert any(r["actor/grad_norm"] > 0 for r in records)
    assert all(math.isfinite(r["actor/pg_loss"]) for r in records)
    if algo == "holder_static":
        assert [r["holder/p"] for r in records] == [0.0, 0.0]
    assert list((tmp_path / "run").glob(files)), f"nothing at {files}"


def test_colocate_async_anneals_p_on_two_ranks_with_kl_and_entropy_terms(train: Train, tmp_path: Path) -> None:
    records = train(
        tmp_path / "run",
        "trainer.v1.trainer_mode=colocate_async",
        "trainer.n_gpus_per_node=2",
        "trainer.total_training_steps=3",
        "actor_rollout_ref.actor.use_kl_loss=true",
        "actor_rollout_ref.actor.entropy_coeff=0.001",
    )
    assert [r["holder/p"] for r in records] == [2.0, 0.0, -2.0]
    assert all(r["actor/grad_norm"] > 0 for r in records)
    assert records[-1]["actor/kl_loss"] > 0, "the policy has moved away from the reference"


def test_constant_p_in_verls_own_main(
    whole_run: tuple[Path, Records], small_overrides: list[str], tmp_path: Path
) -> None:
    """`python -m verl.trainer.main_ppo`, the plugin and overrides of `policy_loss` are all that a constant p needs."""
    config_dir = whole_run[0]  # config.yaml: the CPU settings, spelt out
    command = [
        sys.executable, "-m", "verl.trainer.main_ppo", f"--config-path={config_dir}", "--config-name=config",
        "actor_rollout_ref.actor.policy_loss.p=0.5", "actor_rollout_ref.actor.policy_loss.clip_level=token",
        "actor_rollout_ref.rollout.agent.default_agent_loop=single_turn_agent", "trainer.total_training_steps=2",
        "trainer.save_freq=-1", f"trainer.default_local_dir={tmp_path}", "trainer.rollout_data_dir=null",
        "trainer.logger=[file]", "trainer.resume_mode=disable", f"hydra.run.dir={tmp_path}/hydra",
    ]  # fmt: skip
    log = tmp_path / "log.jsonl"
    env = os.environ | {"VERL_PLATFORM": "cpu", "VLLM_CPU_KVCACHE_SPACE": "1", "VERL_FILE_LOGGER_PATH": str(log)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, env=env)
    assert done.returncode == 0, done.stderr[-6000:]
    logged = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(logged) == 2
    assert all("actor/holder/rho_mean" in row["data"] for row in logged)
