"""p is asked for once per step, kept, and comes back with a checkpoint, whatever the rule depends on."""

import json
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from holderpo_core import Order, Schedule, ScheduledP, SignedP, TrajectoryP
from recipe.holderpo.training.step_p import StepP, order_metrics


class Controller:
    """A rule with a memory: p falls by the largest log-ratio that it was ever shown, and counts how often it is asked."""

    reads_reward: ClassVar[bool] = False

    def __init__(self) -> None:
        self.largest, self.asked = 0.0, 0

    def next_p(self, step: int) -> float:
        self.asked += 1
        return 2.0 - self.largest

    def observe(self, step: int, metrics: Mapping[str, float]) -> None:
        self.largest = max(self.largest, metrics["holder/log_ratio_max"])

    def state_dict(self) -> dict[str, Any]:
        return {"largest": self.largest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.largest = state["largest"]


def steps(p: StepP, first: int, ratios: list[float]) -> list[float]:
    """The p of each step; it is read by several micro-batches, and the rule sees the step's metrics at its end."""
    values: list[float] = []
    for step, ratio in enumerate(ratios, start=first):
        read = {p.at(step) for _ in range(3)}
        assert len(read) == 1
        p.observe(step, {"holder/log_ratio_max": ratio})
        order = p.at(step)
        assert order in read, "the step's p does not change when its metrics are known"
        assert isinstance(order, float)
        values.append(order)
    return values


def test_a_rule_is_asked_once_per_step_and_its_answer_kept() -> None:
    rule = Controller()
    assert steps(StepP(rule), 1, [0.5, 0.1, 1.5, 0.0]) == [2.0, 1.5, 1.5, 0.5]
    assert rule.asked == 4


def test_a_resumed_run_has_the_undisturbed_runs_p() -> None:
    ratios = [0.3, 0.9, 0.2, 1.1, 0.4, 2.0]
    undisturbed = steps(StepP(Controller()), 1, ratios)
    for saved_at in range(1, 6):
        before, after = StepP(Controller()), StepP(Controller())
        steps(before, 1, ratios[:saved_at])
        after.load_state_dict(json.loads(json.dumps(before.state_dict())))
        assert after.at(saved_at) == undisturbed[saved_at - 1], "p of the restored step, without asking again"
        assert steps(after, saved_at + 1, ratios[saved_at:]) == undisturbed[saved_at:]


@pytest.mark.parametrize("p", [math.inf, -math.inf, 0.1])
def test_every_p_survives_the_manifest(p: float) -> None:
    before, after = (StepP(ScheduledP(Schedule("constant", p), 9)) for _ in range(2))
    after.load_state_dict(json.loads(json.dumps(before.state_dict(), allow_nan=False)))
    assert after.p is None, "no step yet"
    before.at(3)
    after.load_state_dict(json.loads(json.dumps(before.state_dict(), allow_nan=False)))
    assert (after.step, after.p) == (3, p)


@pytest.mark.parametrize("order", [SignedP(-2.0, math.inf), TrajectoryP(), SignedP(0.0, 0.5)])
def test_every_order_survives_the_manifest(order: Order) -> None:
    before, after = (StepP(ScheduledP(Schedule("constant", 0.0), 9)) for _ in range(2))
    before.step, before.p = 4, order
    after.load_state_dict(json.loads(json.dumps(before.state_dict(), allow_nan=False)))
    assert (after.step, after.p) == (4, order)


def test_the_record_has_a_number_for_every_order() -> None:
    assert order_metrics(1.5, 9.0) == {"holder/p": 1.5}
    assert order_metrics(TrajectoryP(), 0.25) == {"holder/p": 0.25}
    signed = {"holder/p": 0.5, "holder/p_positive": -2.0, "holder/p_negative": 2.0}
    assert order_metrics(SignedP(-2.0, 2.0), 0.5) == signed
