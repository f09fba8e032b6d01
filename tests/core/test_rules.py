"""Rules of p: each by hand, and resumed in the middle of a run."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holderpo_core import (
    DispersionP,
    Order,
    PRule,
    RewardP,
    Schedule,
    ScheduledP,
    SignedP,
    SignedSchedule,
    TargetEss,
    TrajectoryP,
    TrajectoryRule,
)

TOTAL = 9
SPREAD: dict[str, float] = {"spread_decay": 0.5, "spread_min": 0.05, "p_max": 8.0}
RULES: dict[str, Callable[[], PRule]] = {
    "schedule": lambda: ScheduledP(Schedule("cosine", 2.0, -2.0), TOTAL),
    "signed": lambda: SignedSchedule(Schedule("constant", 0.5), Schedule("linear", 2.0, 0.0), TOTAL),
    "dispersion": lambda: DispersionP(Schedule("linear", 0.5, -0.5), TOTAL, **SPREAD),
    "ess": lambda: TargetEss(0.9, 0, **SPREAD),
    "pmpo_like": TrajectoryRule,
    "apmpo_like": lambda: RewardP(0.8),
}


def metrics_of(step: int) -> dict[str, float]:
    return {"holder/log_ratio_std": 0.05 + 0.03 * (step % 4), "reward/mean": 0.1 * step}


def orders(rule: PRule, first: int, last: int) -> list[Order]:
    found = []
    for step in range(first, last + 1):
        found.append(rule.next_p(step))
        rule.observe(step, metrics_of(step))
    return found


@pytest.mark.parametrize("name", RULES)
def test_a_resumed_rule_continues_as_the_undisturbed_one(name: str) -> None:
    undisturbed = orders(RULES[name](), 1, TOTAL)
    for saved_at in range(1, TOTAL):
        before, after = RULES[name](), RULES[name]()
        orders(before, 1, saved_at)
        after.load_state_dict(json.loads(json.dumps(before.state_dict(), allow_nan=False)))
        assert orders(after, saved_at + 1, TOTAL) == undisturbed[saved_at:]


@given(st.floats(-20, 20), st.floats(-20, 20), st.integers(2, 60))
def test_a_scheduled_p_starts_and_ends_exactly_and_is_linear(p_start: float, p_end: float, total: int) -> None:
    rule = ScheduledP(Schedule("linear", p_start, p_end), total)
    values = [rule.next_p(step) for step in range(1, total + 1)]
    assert (values[0], values[-1]) == (p_start, p_end)
    for step, p in enumerate(values):
        assert math.isclose(p, p_start + (p_end - p_start) * step / (total - 1), rel_tol=1e-12, abs_tol=1e-12)


def test_a_constant_p_is_a_rule_too() -> None:
    assert [ScheduledP(Schedule("constant", math.inf), 5).next_p(step) for step in (1, 3, 5)] == [math.inf] * 3


def test_signed_orders_are_the_center_less_and_plus_delta() -> None:
    found = orders(SignedSchedule(Schedule("linear", 1.0, 0.0), Schedule("linear", 2.0, 0.0), 3), 1, 3)
    assert found == [SignedP(-1.0, 3.0), SignedP(-0.5, 1.5), SignedP(0.0, 0.0)]


def test_dispersion_divides_by_a_moving_average_of_the_spread() -> None:
    rule = DispersionP(Schedule("constant", 0.4), TOTAL, spread_decay=0.75, spread_min=0.02, p_max=3.0)
    assert rule.next_p(1) == 0.0, "no spread is known"
    rule.observe(1, {"holder/log_ratio_std": 0.2})
    assert rule.next_p(2) == pytest.approx(0.4 / 0.2)
    rule.observe(2, {"holder/log_ratio_std": 0.6})
    assert rule.next_p(3) == pytest.approx(0.4 / (0.75 * 0.2 + 0.25 * 0.6))
    rule.observe(3, {"holder/log_ratio_std": math.nan})
    assert rule.next_p(4) == pytest.approx(0.4 / 0.3), "an update that was skipped says nothing"
    for step in range(4, 40):
        rule.observe(step, {"holder/log_ratio_std": 0.0})
    assert rule.next_p(40) == 3.0, "p_max, although the average is below spread_min"
    small = DispersionP(Schedule("constant", -0.04), TOTAL, spread_decay=0.0, spread_min=0.02, p_max=3.0)
    small.observe(1, {"holder/log_ratio_std": 1e-9})
    assert small.next_p(2) == pytest.approx(-2.0), "spread_min"


@pytest.mark.parametrize("sign", [1, -1, 0])
def test_the_target_is_the_sample_size_of_gaussian_log_ratios(sign: int) -> None:
    rule = TargetEss(0.8, sign, spread_decay=0.0, spread_min=0.01, p_max=50.0)
    assert rule.next_p(1) == (SignedP(0.0, 0.0) if sign == 0 else 0.0)
    rule.observe(1, {"holder/log_ratio_std": 0.25})
    order: Any = rule.next_p(2)
    p = order.negative if sign == 0 else order
    assert math.exp(-((p * 0.25) ** 2)) == pytest.approx(0.8)
    assert (p > 0) == (sign >= 0)
    assert sign != 0 or order.positive == -order.negative


def test_p_falls_with_the_reward_of_the_step_before() -> None:
    rule = RewardP(0.8)
    found = orders(rule, 1, 3)
    assert found == [1.0, pytest.approx(math.exp(-0.08)), pytest.approx(math.exp(-0.16))]
    rule.observe(4, {"reward/mean": -3.0})
    assert rule.next_p(5) == 1.0


def test_a_trajectory_rule_leaves_p_to_each_response() -> None:
    assert orders(TrajectoryRule(), 1, 2) == [TrajectoryP(), TrajectoryP()]
