"""Rules of p: the schedule as a rule, and what every rule promises."""

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from holderpo_core import Schedule, ScheduledP


@given(st.floats(-20, 20), st.floats(-20, 20), st.integers(2, 60))
def test_a_scheduled_p_starts_and_ends_exactly_and_is_linear(p_start: float, p_end: float, total: int) -> None:
    rule = ScheduledP(Schedule("linear", p_start, p_end), total)
    values = [rule.next_p(step) for step in range(1, total + 1)]
    assert (values[0], values[-1]) == (p_start, p_end)
    for step, p in enumerate(values):
        assert math.isclose(p, p_start + (p_end - p_start) * step / (total - 1), rel_tol=1e-12, abs_tol=1e-12)


def test_a_constant_p_is_a_rule_too() -> None:
    assert [ScheduledP(Schedule("constant", math.inf), 5).next_p(step) for step in (1, 3, 5)] == [math.inf] * 3


def test_its_state_is_json_and_the_step_alone_decides() -> None:
    rule = ScheduledP(Schedule("cosine", 2.0, -2.0), 9)
    undisturbed = [rule.next_p(step) for step in range(1, 10)]
    rule.observe(4, {"holder/log_ratio_max": 3.0})
    resumed = ScheduledP(Schedule("cosine", 2.0, -2.0), 9)
    resumed.load_state_dict(json.loads(json.dumps(rule.state_dict())))
    assert [resumed.next_p(step) for step in range(5, 10)] == undisturbed[4:]
