"""p of the step in progress."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from holderpo_core import Order, PRule, SignedP, TrajectoryP
from recipe.holderpo.report.record import from_plain, plain_metrics

TRAJECTORY = "trajectory"  # `TrajectoryP` in a manifest


class StepP:
    """Asks the rule of p once per step and keeps the answer for the whole step, however often it is read.

    The answer and the rule's own state are saved with a checkpoint.
    """

    def __init__(self, rule: PRule):
        self.rule = rule
        self.step = 0
        self.p: Order | None = None

    def at(self, step: int) -> Order:
        """The order of training step `step`, counted from 1."""
        if step != self.step or self.p is None:
            self.step, self.p = step, self.rule.next_p(step)
        return self.p

    def observe(self, step: int, metrics: Mapping[str, float]) -> None:
        """Hand the metrics of a finished step to the rule."""
        self.rule.observe(step, metrics)

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "p": _to_plain(self.p), "rule": self.rule.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.step = state["step"]
        self.p = _from_plain(state["p"])
        self.rule.load_state_dict(state["rule"])


def order_metrics(order: Order, p_mean: float) -> dict[str, float]:
    """What a step's record says of its order: `holder/p`, and both orders where they differ by sign.

    Args:
        p_mean: mean p over the step's responses, as the loss measured it, for an order that has no number of its own.
    """
    if isinstance(order, SignedP):
        return {"holder/p": p_mean, "holder/p_positive": order.positive, "holder/p_negative": order.negative}
    return {"holder/p": p_mean if isinstance(order, TrajectoryP) else order}


def _to_plain(order: Order | None) -> Any:
    """As JSON can hold it, which has no infinity."""
    if isinstance(order, SignedP):
        return plain_metrics(asdict(order))
    if isinstance(order, TrajectoryP):
        return TRAJECTORY
    return None if order is None else plain_metrics({"p": order})["p"]


def _from_plain(plain: Any) -> Order | None:
    if isinstance(plain, dict):
        return SignedP(**from_plain(plain))
    if plain == TRAJECTORY:
        return TrajectoryP()
    return None if plain is None else from_plain({"p": plain})["p"]
