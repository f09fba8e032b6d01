"""step_grpo and gigpo against their definitions, written out in Python's own numbers."""

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from verl.trainer.config import AlgoConfig
from verl.trainer.ppo import core_algos

from recipe.holderpo.tasks.alfworld.advantage import EPSILON, gigpo, step_grpo
from recipe.holderpo.tasks.registry import EXTRA_FIELDS

SCORES = st.integers(-100, 100).map(lambda tenths: tenths / 10)


@given(st.lists(st.tuples(st.sampled_from("abc"), SCORES), min_size=1, max_size=20), st.booleans())
def test_definition(samples: list[tuple[str, float]], divide: bool) -> None:
    index = np.array([group for group, _ in samples], dtype=object)
    lengths = [1 + i % 4 for i in range(len(samples))]
    mask = torch.tensor([[1.0] * n + [0.0] * (4 - n) for n in lengths])
    rewards = torch.zeros(len(samples), 4)
    for row, (_, score) in enumerate(samples):
        rewards[row, lengths[row] - 1] = score
    advantages, returns = step_grpo(rewards, mask, index, config=AlgoConfig(norm_adv_by_std_in_grpo=divide))
    assert returns is advantages
    for row, (group, score) in enumerate(samples):
        scores = [s for g, s in samples if g == group]
        expected = score - statistics.fmean(scores) if len(scores) > 1 else 0.0
        if divide and len(scores) > 1:
            expected /= statistics.stdev(scores) + EPSILON
        torch.testing.assert_close(advantages[row].double(), expected * mask[row].double(), rtol=1e-4, atol=1e-5)


def test_a_penalised_step_stands_below_the_right_ones_beside_it() -> None:
    rewards = torch.tensor([[0.0, 10.0], [0.0, 9.9], [0.0, 0.0], [0.0, -0.1]])  # a won episode, a lost one
    advantages, _ = step_grpo(rewards, torch.ones(4, 2), np.array(["g"] * 4))
    won, won_but_wrong, lost, lost_and_wrong = advantages[:, 0].tolist()
    assert won > won_but_wrong > 0 > lost > lost_and_wrong


def test_verl_finds_them_by_name() -> None:
    assert core_algos.get_adv_estimator_fn("step_grpo") is step_grpo
    assert core_algos.get_adv_estimator_fn("gigpo") is gigpo


def test_without_penalties_and_with_one_sample_an_episode_it_is_verls_grpo() -> None:
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(12, 5, generator=generator)
    mask = (torch.arange(5) < torch.randint(1, 6, (12, 1), generator=generator)).float()
    index = np.repeat(np.array(["x", "y", "z"]), 4)
    expected, _ = core_algos.compute_grpo_outcome_advantage(rewards * mask, mask, index)
    torch.testing.assert_close(step_grpo(rewards * mask, mask, index)[0], expected, rtol=1e-5, atol=1e-6)


@given(SCORES, st.integers(2, 50))
def test_a_group_of_equal_scores_teaches_nothing(score: float, samples: int) -> None:
    rewards = torch.zeros(samples, 3)
    rewards[:, -1] = score
    assert step_grpo(rewards, torch.ones(samples, 3), np.array(["g"] * samples))[0].abs().max() < 1e-7


@contextmanager
def extra_fields(samples: list[dict[str, Any]]) -> Iterator[None]:
    token = EXTRA_FIELDS.set(samples)
    yield
    EXTRA_FIELDS.reset(token)


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), SCORES, SCORES), min_size=1, max_size=16),
    st.booleans(),
)
def test_gigpo_by_its_definition(samples: list[tuple[str, str, float, float]], divide: bool) -> None:
    """A = A_episode over the group + A_step over the group's steps with the same anchor, 0 for an anchor seen once."""

    def normalised(value: float, others: list[float]) -> float:
        if len(others) == 1:
            return 0.0
        return (value - statistics.fmean(others)) / (statistics.stdev(others) + EPSILON if divide else 1)

    rewards = torch.tensor([[0.0, score] for _, _, score, _ in samples], dtype=torch.float64)
    index = np.array([group for group, _, _, _ in samples], dtype=object)
    fields = [{"anchor": anchor, "step_return": value} for _, anchor, _, value in samples]
    with extra_fields(fields):
        found, _ = gigpo(rewards, torch.ones(len(samples), 2), index, config=AlgoConfig(norm_adv_by_std_in_grpo=divide))
    for row, (group, anchor, score, value) in enumerate(samples):
        episode = normalised(score, [s for g, _, s, _ in samples if g == group])
        step = normalised(value, [v for g, a, _, v in samples if (g, a) == (group, anchor)])
        assert found[row].tolist() == pytest.approx([episode + step] * 2, rel=1e-6, abs=1e-6)


def test_gigpo_without_a_state_seen_twice_is_step_grpo() -> None:
    rewards = torch.tensor([[1.0], [2.0], [4.0]])
    index = np.array(["g"] * 3)
    fields = [{"anchor": name, "step_return": value} for name, value in (("a", 5.0), ("b", 1.0))] + [{}]
    with extra_fields(fields):
        found, _ = gigpo(rewards, torch.ones(3, 1), index)
    assert found.tolist() == step_grpo(rewards, torch.ones(3, 1), index)[0].tolist()


def test_gigpo_tells_steps_of_one_episode_apart_by_where_they_led() -> None:
    """Two won episodes from the same state: the one that wins sooner took the better step."""
    fields = [{"anchor": "desk", "step_return": 10 * 0.95**steps} for steps in (1, 6)]
    with extra_fields(fields):
        found, _ = gigpo(torch.tensor([[10.0], [10.0]]), torch.ones(2, 1), np.array(["g", "g"]))
    assert found[0] > 0.5 and found[1] < -0.5


def test_gigpo_outside_our_trainer_is_an_error() -> None:
    with pytest.raises(LookupError):
        gigpo(torch.ones(2, 1), torch.ones(2, 1), np.array(["g", "g"]))
