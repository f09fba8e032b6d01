"""What the rewards of a step say, against counts made by hand."""

import pytest

from recipe.holderpo.training.metrics import reward_metrics


def test_groups_without_variance_and_means_over_responses() -> None:
    keys = ["a_0_0", "a_1_0", "b_0_0", "b_1_0", "c_0_0"]
    extras = [{"score": 1.0, "acc": 1.0, "truncated": float(i % 2), "note": "text"} for i in range(5)]
    found = reward_metrics(keys, [1.0, 0.0, 0.5, 0.5, 1.0], extras)
    assert found == {
        "group/zero_variance_fraction": pytest.approx(2 / 3),
        "group/all_right_fraction": pytest.approx(2 / 3),
        "group/all_wrong_fraction": 0.0,
        "reward/truncated": pytest.approx(2 / 5),
    }


def test_groups_all_wrong_and_all_right_are_told_apart() -> None:
    keys = [f"{group}_{episode}_0" for group in "abcd" for episode in (0, 1)]
    found = reward_metrics(keys, [0.0, 0.0, 1.0, 1.0, 0.0, 1.0, -0.1, -0.1], [{}] * 8)
    assert (found["group/all_wrong_fraction"], found["group/all_right_fraction"]) == (0.5, 0.25)
    assert found["group/zero_variance_fraction"] == 0.75


def test_an_episodes_numbers_are_those_of_its_last_sample() -> None:
    """Samples arrive in any order; the tenth comes after the second."""
    keys = ["a_0_10", "a_0_2", "a_1_0", "a_0_0"]
    extras = [{"steps": 11.0}, {"steps": 99.0}, {"steps": 1.0}, {}]
    assert reward_metrics(keys, [1.0, 1.0, 0.0, 1.0], extras)["reward/steps"] == 6.0


def test_an_episode_whose_last_sample_has_no_numbers_has_none() -> None:
    assert reward_metrics(["a_0_0", "a_0_1"], [1.0, 1.0], [{"steps": 1.0}, {}]) == {
        "group/zero_variance_fraction": 1.0, "group/all_wrong_fraction": 0.0, "group/all_right_fraction": 1.0,
    }  # fmt: skip
