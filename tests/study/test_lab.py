"""A run of the lab: the same bits again, advantages as verl's, and what each setting changes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

from recipe.holderpo.embedded.tiny_model import TinyModelConfig, build_model, build_tokenizer, save_model
from recipe.holderpo.study.lab import Batch, Run
from recipe.holderpo.study.plan import EXPERIMENTS, REPORTED_SEEDS, TUNING_SEEDS, runs
from recipe.holderpo.study.settings import RULES, RunSettings, settings_of
from recipe.holderpo.tasks.clock.problems import WORDS

SETTINGS = RunSettings(arm="p2", seed=5, steps=2, prompts=4, samples=4, mini_batch_prompts=1, epochs=2, lr=1e-3)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, tokenizer = tmp_path_factory.mktemp("start"), build_tokenizer(WORDS)
    shape = TinyModelConfig(hidden_size=64, intermediate_size=64, num_layers=1, num_heads=2, initializer_range=0.1)
    save_model(build_model(shape, tokenizer, 1), tokenizer, folder)
    return folder


class RunWithRewards(Run):
    """An untrained model is never right: half of its answers are said to be, by their second token's parity."""

    def _rewards(self, tokens: torch.Tensor, answers: list[str]) -> torch.Tensor:
        return (tokens[:, 1] % 2).float()


def test_a_run_repeats_bit_by_bit_and_its_record_names_its_settings(start: Path) -> None:
    first, second = (RunWithRewards(SETTINGS, start).run() for _ in range(2))
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    assert first["steps"]["updates"] == [8.0, 8.0]
    assert settings_of(json.loads(json.dumps(first))) == SETTINGS
    other = RunWithRewards(replace(SETTINGS, seed=6), start).run()
    assert other["steps"] != first["steps"]


def test_advantages_are_verls(start: Path) -> None:
    rewards = torch.tensor([1.0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 1])
    batch = Batch(torch.zeros(12, 1), torch.ones(12, 1), torch.zeros(12, 1), rewards).set_advantages(4)
    index = np.repeat(np.arange(3), 4)
    expected, _ = compute_grpo_outcome_advantage(rewards[:, None], torch.ones(12, 1), index)
    torch.testing.assert_close(batch.advantages, expected[:, 0], rtol=0, atol=1e-6)


def test_the_first_update_is_on_policy_and_later_ones_are_not(start: Path) -> None:
    run = RunWithRewards(SETTINGS, start)
    updates = run.update(run.sample(run.task.problems[0][:4]), 2.0)
    assert max(abs(updates[0][name]) for name in ("log_ratio_max", "log_ratio_min")) < 1e-5
    assert updates[-1]["log_ratio_std"] > 0.01


def test_updates_end_at_the_largest_kl(start: Path) -> None:
    run = RunWithRewards(replace(SETTINGS, max_kl=1e-3), start)
    updates = run.update(run.sample(run.task.problems[0][:4]), 2.0)
    assert 1 <= len(updates) < 8
    assert all(update["ppo_kl"] <= 1e-3 for update in updates)


def test_adam_is_emptied_where_asked_for(start: Path) -> None:
    for reset, steps in ((False, 16), (True, 8)):
        run = RunWithRewards(replace(SETTINGS, reset_adam=reset), start)
        for step in (1, 2):
            run.step(step)
        counts = {int(state["step"]) for state in run.optimizer.state.values()}
        assert counts == {steps}


def test_a_rule_observes_the_steps(start: Path) -> None:
    run = RunWithRewards(replace(SETTINGS, arm="dispersion"), start)
    assert run.rule.next_p(1) == 0.0
    spread = run.step(1)["log_ratio_std"]
    expected = -0.5 / spread  # the schedule's end, 0.5 to -0.5 in two steps, over the first step's spread
    assert run.rule.next_p(2) == pytest.approx(max(-8.0, expected), rel=1e-3)


def test_validation_draws_the_same_for_every_arm(start: Path) -> None:
    values = {
        RunWithRewards(replace(SETTINGS, arm=arm, seed=seed), start).validate(5) for arm, seed in (("p2", 1), ("p0", 2))
    }
    assert len(values) == 1


def test_the_plans_runs_have_names_of_their_own_and_known_rules() -> None:
    for experiment in EXPERIMENTS:
        planned = runs(experiment, 2)
        assert len({run.key for run in planned}) == len(planned), experiment
        assert {run.arm for run in planned} <= set(RULES)
        assert {run.seed for run in planned} <= set(TUNING_SEEDS if experiment == "tuning" else REPORTED_SEEDS)
    assert not set(TUNING_SEEDS) & set(REPORTED_SEEDS)
