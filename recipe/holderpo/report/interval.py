"""95 % intervals of a mean over runs, by Student's t."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

# 97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom; beyond, the normal distribution's.
T = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16, 2.145, 2.131, 2.12, 2.11)
NORMAL = 1.96
FEWEST = 3
"""Values of which there is an interval."""


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The interval of the mean; None of fewer than three values."""
    if len(values) < FEWEST:
        return None
    half = (T[len(values) - 2] if len(values) - 2 < len(T) else NORMAL) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half
