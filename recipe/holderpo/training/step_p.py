"""p of the step in progress."""

from collections.abc import Mapping
from typing import Any

from holderpo_core import PRule
from recipe.holderpo.report.record import from_plain, plain_metrics


class StepP:
    """Asks the rule of p once per step and keeps the answer for the whole step, however often it is read.

    The answer and the rule's own state are saved with a checkpoint.
    """

    def __init__(self, rule: PRule):
        self.rule = rule
        self.step = 0
        self.p: float | None = None

    def at(self, step: int) -> float:
        """p of training step `step`, counted from 1."""
        if step != self.step or self.p is None:
            self.step, self.p = step, self.rule.next_p(step)
        return self.p

    def observe(self, step: int, metrics: Mapping[str, float]) -> None:
        """Hand the metrics of a finished step to the rule."""
        self.rule.observe(step, metrics)

    def state_dict(self) -> dict[str, Any]:
        p = {} if self.p is None else plain_metrics({"p": self.p})  # JSON has no infinity
        return {"step": self.step, **p, "rule": self.rule.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.step = state["step"]
        self.p = from_plain({"p": state["p"]})["p"] if "p" in state else None
        self.rule.load_state_dict(state["rule"])
