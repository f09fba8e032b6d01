"""Intervals and tests over paired seeds: percentile bootstrap, sign-flip permutation, Holm."""

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
EXACT_UP_TO = 14  # seeds: 2^14 sign flips are all looked at, more are drawn


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """95 % percentile-bootstrap interval of the mean over seeds."""
    array = np.asarray(values, float)
    draws = np.random.default_rng(seed).integers(len(array), size=(RESAMPLES, len(array)))
    low, high = np.percentile(array[draws].mean(1), [2.5, 97.5])
    return float(low), float(high)


def sign_flip_p(differences: Sequence[float], seed: int = 0) -> float:
    """Two-sided p-value of the mean difference: how often it is as large if each seed's sign were a coin's.

    Exact up to 14 seeds, by 10,000 draws (the data's own signs counted among them) beyond."""
    array = np.asarray(differences, float)
    signs: NDArray[np.float64]
    if len(array) <= EXACT_UP_TO:
        signs = np.array(list(product((-1.0, 1.0), repeat=len(array))))
        return float(np.mean(np.abs(signs @ array) >= abs(array.sum()) - 1e-12))
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), size=(RESAMPLES, len(array)))
    as_large = np.sum(np.abs(signs @ array) >= abs(array.sum()) - 1e-12)
    return float((as_large + 1) / (RESAMPLES + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: the k-th smallest of n times n - k + 1, not below those before it, at most 1."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = largest
    return adjusted


def interquartile_mean(values: Sequence[float]) -> float:
    """Mean of the middle half; the values at its edges count by their share in it."""
    array = np.sort(np.asarray(values, float))
    edges = np.arange(len(array) + 1) / len(array)
    weights = np.clip(np.minimum(edges[1:], 0.75) - np.maximum(edges[:-1], 0.25), 0, None)
    return float(weights @ array / weights.sum())


def probability_of_improvement(values: Sequence[float], others: Sequence[float]) -> float:
    """How often one of `values` is above one of `others`, over all pairs, ties half."""
    first, second = np.asarray(values, float)[:, None], np.asarray(others, float)[None]
    return float(np.mean((first > second) + 0.5 * (first == second)))
