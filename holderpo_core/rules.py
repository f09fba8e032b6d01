"""Rules of p: what decides the order of the Hölder mean in each training step."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from holderpo_core.order import Order, SignedP, TrajectoryP
from holderpo_core.schedule import Schedule


class PRule(Protocol):
    """Decides p for each training step, and may carry state from step to step (a moving average, a controller).

    In step N, counted from 1, a trainer calls `next_p(N)` once and keeps the answer for the whole step, then `observe`
    once with the step's metrics. The state is part of a checkpoint: it is read after `observe` and restored before the
    next `next_p`.

    Attributes:
        reads_reward: whether `observe` needs `reward/mean`, for which the trainer has to fetch the step's rewards.
    """

    reads_reward: ClassVar[bool]

    def next_p(self, step: int) -> Order:
        """The order of training step `step`, counted from 1."""
        ...

    def observe(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take in the metrics of a finished step that are known before its checkpoint: the loss's (`holder/*`), the
        update's (`actor/*`) and, with `reads_reward`, the mean reward of its samples (`reward/mean`)."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The rule's state as JSON values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        ...


class _Stateless:
    """A rule that is a function of the step alone."""

    reads_reward: ClassVar[bool] = False

    def observe(self, step: int, metrics: Mapping[str, float]) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


@dataclass(frozen=True)
class ScheduledP(_Stateless):
    """p from a `Schedule`, a constant one included.

    Args:
        total_steps: length of the run, which the schedule spans where its own `steps` is None.
    """

    schedule: Schedule
    total_steps: int

    def next_p(self, step: int) -> float:
        return self.schedule.p_at(step - 1, self.total_steps)


@dataclass(frozen=True)
class SignedSchedule(_Stateless):
    """p = center - delta for positive advantages and center + delta for negative ones, both from a `Schedule`.

    delta > 0 is the pessimistic side (`SignedP`), delta < 0 the optimistic one.
    """

    center: Schedule
    delta: Schedule
    total_steps: int

    def next_p(self, step: int) -> SignedP:
        center, delta = (schedule.p_at(step - 1, self.total_steps) for schedule in (self.center, self.delta))
        return SignedP(positive=center - delta, negative=center + delta)


@dataclass(frozen=True)
class TrajectoryRule(_Stateless):
    """`TrajectoryP` in every step."""

    def next_p(self, step: int) -> TrajectoryP:
        return TrajectoryP()


class MovingAverage:
    """An exponential moving average that starts at its first value: average += (1 - decay) (value - average)."""

    def __init__(self, decay: float):
        self.decay = decay
        self.value: float | None = None

    def add(self, value: float) -> None:
        """Take in a value; one that is not finite is left out, as the update that it comes from was."""
        if math.isfinite(value):
            self.value = value if self.value is None else self.value + (1 - self.decay) * (value - self.value)


class _FromSpread:
    """A rule whose state is a moving average of the spread of log-ratios within responses, `holder/log_ratio_std`."""

    METRIC = "holder/log_ratio_std"
    reads_reward: ClassVar[bool] = False

    def __init__(self, spread_decay: float, spread_min: float, p_max: float):
        self.spread = MovingAverage(spread_decay)
        self.spread_min = spread_min
        self.p_max = p_max

    def scaled(self, amount: float) -> float:
        """amount / spread, at most p_max in size; 0 before the first step has been measured."""
        if self.spread.value is None:
            return 0.0
        p = amount / max(self.spread.value, self.spread_min)
        return max(-self.p_max, min(self.p_max, p))

    def observe(self, step: int, metrics: Mapping[str, float]) -> None:
        self.spread.add(metrics[self.METRIC])

    def state_dict(self) -> dict[str, Any]:
        return {"spread": self.spread.value}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.spread.value = state["spread"]


class DispersionP(_FromSpread):
    """p in units of the measured spread: p = q / max(spread, spread_min), |p| <= p_max, q from a `Schedule`.

    The same q concentrates the weights equally at any learning rate, length and number of updates: for Gaussian log-ratios
    ESS = exp(-(p spread)^2) = exp(-q^2). The first step, of which no spread is known, has p = 0.

    Args:
        spread_decay: of the moving average, in [0, 1); 0 is the last step's spread alone.
        spread_min: nats, above 0: what a smaller spread counts as.
        p_max: largest |p|, above 0.
    """

    def __init__(self, schedule: Schedule, total_steps: int, spread_decay: float, spread_min: float, p_max: float):
        super().__init__(spread_decay, spread_min, p_max)
        self.schedule = schedule
        self.total_steps = total_steps

    def next_p(self, step: int) -> float:
        return self.scaled(self.schedule.p_at(step - 1, self.total_steps))


class TargetEss(_FromSpread):
    """p at which the effective sample size of the weights is a target: |p| = sqrt(-ln target) / spread, as for Gaussian
    log-ratios. The first step, of which no spread is known, has p = 0.

    Args:
        target: effective sample size over the number of tokens, in (0, 1]; 1 is p = 0.
        sign: 1 for p >= 0; -1 for p <= 0; 0 for `SignedP`, p <= 0 where the advantage is positive and >= 0 where negative.
        spread_decay, spread_min, p_max: as in `DispersionP`.
    """

    def __init__(self, target: float, sign: int, spread_decay: float, spread_min: float, p_max: float):
        super().__init__(spread_decay, spread_min, p_max)
        self.target = target
        self.sign = sign

    def next_p(self, step: int) -> Order:
        size = self.scaled(math.sqrt(-math.log(self.target)))
        return SignedP(positive=-size, negative=size) if self.sign == 0 else self.sign * size


class RewardP:
    """p = exp(-rate * mean reward) in (0, 1], of the step before; 1 in the first step.

    A stand-in for APMPO (arXiv 2605.04066), known at second hand only: its own clip, which widens with the reward too, is not
    part of it.
    """

    METRIC = "reward/mean"
    reads_reward: ClassVar[bool] = True

    def __init__(self, rate: float):
        self.rate = rate
        self.reward = 0.0

    def next_p(self, step: int) -> float:
        return math.exp(-self.rate * max(0.0, self.reward))

    def observe(self, step: int, metrics: Mapping[str, float]) -> None:
        if math.isfinite(metrics[self.METRIC]):
            self.reward = metrics[self.METRIC]

    def state_dict(self) -> dict[str, Any]:
        return {"reward": self.reward}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.reward = state["reward"]
