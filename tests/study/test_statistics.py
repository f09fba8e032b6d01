"""The study's statistics, against closed forms and brute force."""

from itertools import product
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe.holderpo.study.statistics import (
    holm,
    interquartile_mean,
    interval,
    probability_of_improvement,
    sign_flip_p,
)

VALUES = st.lists(st.floats(-1, 1), min_size=2, max_size=9)


def test_the_interval_is_that_of_the_normal_theory_for_many_seeds() -> None:
    values = np.random.default_rng(0).normal(0.3, 0.1, 400)
    low, high = interval(list(values))
    half = 1.96 * values.std(ddof=1) / 20
    assert low == pytest.approx(values.mean() - half, abs=5e-4)
    assert high == pytest.approx(values.mean() + half, abs=5e-4)


@given(VALUES)
def test_sign_flips_are_counted_exactly(differences: list[float]) -> None:
    observed = abs(sum(differences))
    flips = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in product((-1, 1), repeat=len(differences))
    ]
    assert sign_flip_p(differences) == pytest.approx(fmean(flip >= observed - 1e-12 for flip in flips))


def test_drawn_sign_flips_agree_with_all_of_them() -> None:
    differences = np.random.default_rng(1).normal(0.02, 0.05, 20)
    signs = 1 - 2 * ((np.arange(2**20)[:, None] >> np.arange(20)) & 1)
    expected = np.mean(np.abs(signs @ differences) >= abs(differences.sum()) - 1e-12)
    assert sign_flip_p(list(differences)) == pytest.approx(expected, abs=0.015)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_its_step_down_procedure_rejects(p_values: list[float]) -> None:
    for level in (0.01, 0.05, 0.3):
        rejected: set[int] = set()
        for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
            if p_values[index] * (len(p_values) - rank) > level:
                break
            rejected.add(index)
        assert {i for i, p in enumerate(holm(p_values)) if p <= level} == rejected


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=12))
def test_the_interquartile_mean_is_that_of_four_copies(values: list[float]) -> None:
    """Of n values each four times, the middle half are the 2 n in the middle."""
    copies = sorted(values * 4)
    middle = copies[len(values) : 3 * len(values)]
    assert interquartile_mean(values) == pytest.approx(fmean(middle), abs=1e-9)


@given(VALUES, VALUES)
def test_probability_of_improvement_is_mann_whitneys_u(first: list[float], second: list[float]) -> None:
    """U from the sum of ranks, ties at their middle."""
    pooled = sorted(first + second)
    ranks = [pooled.index(value) + (pooled.count(value) + 1) / 2 for value in first]
    u = sum(ranks) - len(first) * (len(first) + 1) / 2
    assert probability_of_improvement(first, second) == pytest.approx(u / (len(first) * len(second)))
