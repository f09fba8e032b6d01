"""Updates that are not finite, and runs that have collapsed: beyond the limits of `guard` for several steps in a row."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from recipe.holderpo.config.settings import GuardSettings

if TYPE_CHECKING:  # the command imports this module before the config has been checked
    import torch

GRAD_NORM = "actor/grad_norm"
FIRST_LOG_RATIO = "holder/first_log_ratio_max"


class Collapsed(Exception):
    """The run is beyond its limits. args: in words; the first of the steps in a row that were."""

    def __str__(self) -> str:
        return str(self.args[0])


class NotFinite(Exception):
    """An update was not finite and guard.on_nonfinite is stop."""


class CollapseDetector:
    """Counts steps in a row beyond the limits. The count is its state: a resumed run continues it."""

    def __init__(self, limits: GuardSettings):
        self.limits = limits
        self.since: int | None = None

    def count(self, step: int, metrics: Mapping[str, float]) -> list[str]:
        """Count a finished step, once however often this is called for it.

        Returns:
            What is beyond its limit, in words.
        """
        found = exceeded(self.limits, metrics)
        if not found:
            self.since = None
        elif self.since is None:
            self.since = step
        return found

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Count a finished step.

        Raises:
            Collapsed: it is the last of `limits.steps` in a row.
        """
        found = self.count(step, metrics)
        if self.since is not None and step - self.since + 1 >= self.limits.steps:
            raise Collapsed(f"{'; '.join(found)}, and something was in every step since {self.since}", self.since)

    def state_dict(self) -> dict[str, Any]:
        return {"since": self.since}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.since = state["since"]


def exceeded(limits: GuardSettings, metrics: Mapping[str, float]) -> list[str]:
    """What is beyond its limit in a step, in words. A metric that the run does not have is an error, not a pass.

    Raises:
        KeyError: a limit's metric is not there.
    """
    found = []
    for name, limit, value, above in (
        ("entropy", limits.entropy_min, lambda: metrics["actor/entropy"], False),
        ("entropy", limits.entropy_max, lambda: metrics["actor/entropy"], True),
        ("gradient norm", limits.grad_norm_max, lambda: metrics[GRAD_NORM], True),
        ("|log ratio|", limits.log_ratio_max, lambda: _largest_log_ratio(metrics), True),
        ("|log ratio| of the first update", limits.first_log_ratio_max, lambda: metrics[FIRST_LOG_RATIO], True),
    ):
        if limit is None:
            continue
        number = value()
        inside = number <= limit if above else number >= limit  # NaN is not inside
        if not inside:
            found.append(f"{name} is {number:.3g}, {'above' if above else 'below'} {limit:.3g}")
    return found


def _largest_log_ratio(metrics: Mapping[str, float]) -> float:
    return max(abs(metrics["holder/log_ratio_max"]), abs(metrics["holder/log_ratio_min"]))


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
    """Whether every update of the step was: verl skips one whose gradient norm is not, and the step's mean shows it."""
    return math.isfinite(metrics.get(GRAD_NORM, 0.0))  # none: no update, as while only a critic is trained
