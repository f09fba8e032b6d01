"""Accuracy of sampled answers, with standard errors. Pure functions on counts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A mean over problems and its standard error, both fractions of 1."""

    value: float
    standard_error: float


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Unbiased estimate, from `samples` of which `right` are right, that at least one of k samples is right.

    1 - C(samples - right, k) / C(samples, k), the estimator of arXiv 2107.03374 (Eq. 1).

    Raises:
        ValueError: unless 0 <= right <= samples and 1 <= k <= samples.
    """
    if not 0 <= right <= samples or not 1 <= k <= samples:
        raise ValueError(f"pass@{k} of {right} right in {samples}; allowed is 0 <= right <= samples, 1 <= k <= samples")
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)


def mean_over_problems(values: Sequence[float]) -> Estimate:
    """The mean over problems, and its standard error: the sample standard deviation over the root of their number.

    The error covers the draw of the problems and, for sampled answers, the sampling too. It is nan for one problem.

    Raises:
        ValueError: there are no values.
    """
    n = len(values)
    if n == 0:
        raise ValueError("no problems to average over")
    mean = math.fsum(values) / n
    variance = math.fsum((v - mean) ** 2 for v in values) / (n - 1) if n > 1 else math.nan
    return Estimate(mean, math.sqrt(variance / n))


def average(estimates: Sequence[Estimate]) -> Estimate:
    """The unweighted mean over benchmarks, as the paper's last column; their errors are independent."""
    n = len(estimates)
    error = math.sqrt(math.fsum(e.standard_error**2 for e in estimates)) / n
    return Estimate(math.fsum(e.value for e in estimates) / n, error)
