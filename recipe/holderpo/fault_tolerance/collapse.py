"""Watches a run's metrics for updates that are not finite, and for limits that it stays beyond: a run that has collapsed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command imports this module before the config has been checked
    import torch

GRAD_NORM = "actor/grad_norm"


class Collapsed(Exception):
    """The run is beyond its limits. args: in words; the first of the steps in a row that were."""

    def __str__(self) -> str:
        return str(self.args[0])


class NotFinite(Exception):
    """An update was not finite and guard.on_nonfinite is stop."""


@dataclass(frozen=True)
class Limits:
    """Bounds of a healthy run; None: not watched.

    entropy_min, entropy_max: of the policy, in nats a token. grad_norm_max: before clipping. log_ratio_max: of |log ratio|
    of any token. steps: so many in a row beyond any of them are a collapse.
    """

    entropy_min: float | None = None
    entropy_max: float | None = None
    grad_norm_max: float | None = None
    log_ratio_max: float | None = None
    steps: int = 5

    def exceeded(self, metrics: Mapping[str, float]) -> list[str]:
        """What is beyond its limit in a step, in words. A metric that the run does not have is an error, not a pass.

        Raises:
            KeyError: a limit's metric is not there.
        """
        found = []
        for name, limit, value, above in (
            ("entropy", self.entropy_min, lambda: metrics["actor/entropy"], False),
            ("entropy", self.entropy_max, lambda: metrics["actor/entropy"], True),
            ("gradient norm", self.grad_norm_max, lambda: metrics[GRAD_NORM], True),
            ("|log ratio|", self.log_ratio_max, lambda: _envelope(metrics), True),
        ):
            if limit is None:
                continue
            number = value()
            inside = number <= limit if above else number >= limit  # NaN is not inside
            if not inside:
                found.append(f"{name} is {number:.3g}, {'above' if above else 'below'} {limit:.3g}")
        return found


def _envelope(metrics: Mapping[str, float]) -> float:
    return max(abs(metrics["holder/log_ratio_max"]), abs(metrics["holder/log_ratio_min"]))


class Watch:
    """Counts steps in a row beyond the limits."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self.since: int | None = None

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Look at a finished step.

        Raises:
            Collapsed: it is the last of `limits.steps` in a row.
        """
        found = self.limits.exceeded(metrics)
        if not found:
            self.since = None
            return
        self.since = step if self.since is None else self.since
        if step - self.since + 1 >= self.limits.steps:
            raise Collapsed(f"{'; '.join(found)}, and something was in every step since {self.since}", self.since)


def nonfinite_samples(fields: "Mapping[str, torch.Tensor]") -> dict[int, list[str]]:
    """Which samples have a NaN or an infinity, and in which field: {row: names}.

    Args:
        fields: (B, T) floats by name, for instance old_log_probs and advantages.
    """
    found: dict[int, list[str]] = {}
    for name, values in fields.items():
        for row in (~values.isfinite()).any(-1).nonzero().flatten().tolist():
            found.setdefault(row, []).append(name)
    return found


def is_finite_update(metrics: Mapping[str, float]) -> bool:
    """Whether every update of the step was: verl leaves out one whose gradient norm is not, and the step's mean shows it."""
    return math.isfinite(metrics.get(GRAD_NORM, 0.0))  # none: no update, as while only a critic is trained
