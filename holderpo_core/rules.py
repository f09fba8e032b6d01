"""Rules of p: what decides the order of the Hölder mean in each training step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from holderpo_core.schedule import Schedule


class PRule(Protocol):
    """Decides p for each training step, and may carry state from step to step (a moving average, a controller).

    In step N, counted from 1, a trainer calls `next_p(N)` once and keeps the answer for the whole step, then `observe`
    once with the step's metrics. The state is part of a checkpoint: it is read after `observe` and restored before the
    next `next_p`.
    """

    def next_p(self, step: int) -> float:
        """p of training step `step`, counted from 1."""
        ...

    def observe(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take in the metrics of a finished step that are known before its checkpoint: the loss's (`holder/*`) and the
        update's (`actor/*`)."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The rule's state as JSON values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        ...


@dataclass(frozen=True)
class ScheduledP:
    """p from a `Schedule`, a constant one included: a function of the step alone, without state.

    Args:
        total_steps: length of the run, which the schedule spans where its own `steps` is None.
    """

    schedule: Schedule
    total_steps: int

    def next_p(self, step: int) -> float:
        return self.schedule.p_at(step - 1, self.total_steps)

    def observe(self, step: int, metrics: Mapping[str, float]) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass
