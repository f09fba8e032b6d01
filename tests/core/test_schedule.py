"""Schedules of p: end points, formulas of Table 5, monotony, mirror symmetry, and errors."""

import itertools
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holderpo_core import SHAPES, Schedule, Shape

ANNEALED: tuple[Shape, ...] = ("linear", "cosine", "power", "cubic")
ends = st.floats(-50, 50)
shapes = st.sampled_from(ANNEALED)
LINEAR: dict[str, Any] = {"shape": "linear", "p_start": 2.0, "p_end": -2.0}
schedule_test = settings(max_examples=200, deadline=None)


def test_every_shape_is_tested() -> None:
    assert {*ANNEALED, "constant"} == set(SHAPES)


@schedule_test
@given(shapes, ends, ends, st.integers(2, 3000), st.integers(0, 5000))
def test_end_points_are_exact_and_p_stays_at_the_end(
    shape: Shape, p_start: float, p_end: float, steps: int, after: int
) -> None:
    for schedule, total in ((Schedule(shape, p_start, p_end), steps), (Schedule(shape, p_start, p_end, steps), 7)):
        assert schedule.p_at(0, total) == p_start
        assert schedule.p_at(steps - 1, total) == p_end
        assert schedule.p_at(steps - 1 + after, total) == p_end


@schedule_test
@given(shapes, ends, ends, st.integers(2, 300))
def test_p_is_monotone_between_its_ends(shape: Shape, p_start: float, p_end: float, steps: int) -> None:
    schedule = Schedule(shape, p_start, p_end)
    values = [schedule.p_at(step, steps) for step in range(steps)]
    sign = 1 if p_end >= p_start else -1
    assert all(sign * (b - a) >= -1e-14 * abs(p_end - p_start) for a, b in itertools.pairwise(values))
    assert min(p_start, p_end) <= min(values) and max(values) <= max(p_start, p_end)


@schedule_test
@given(shapes, ends, ends, st.integers(2, 300), st.data())
def test_descent_mirrors_ascent(shape: Shape, low: float, high: float, steps: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, steps - 1))
    up, down = Schedule(shape, low, high).p_at(step, steps), Schedule(shape, high, low).p_at(step, steps)
    assert up + down == pytest.approx(low + high, abs=1e-12)


@pytest.mark.parametrize("step", range(11))
@pytest.mark.parametrize(("p_start", "p_end"), [(-2.0, 3.0), (3.0, -2.0)])
def test_formulas_of_table_5(step: int, p_start: float, p_end: float) -> None:
    u = step / 10
    low, high = min(p_start, p_end), max(p_start, p_end)
    middle, half = (low + high) / 2, (high - low) / 2
    up = p_end > p_start
    table = {
        Schedule("linear", p_start, p_end): low + (high - low) * u if up else high - (high - low) * u,
        Schedule("cosine", p_start, p_end): middle + (-half if up else half) * math.cos(math.pi * u),
        Schedule("power", p_start, p_end): low + (high - low) * u**2 if up else high - (high - low) * u**2,
        Schedule("power", p_start, p_end, power=3.5): p_start + (p_end - p_start) * u**3.5,
        Schedule("cubic", p_start, p_end): middle + (half if up else -half) * (2 * u - 1) ** 3,
    }
    for schedule, expected in table.items():
        assert schedule.p_at(step, 11) == pytest.approx(expected, abs=1e-14), schedule


@pytest.mark.parametrize("p", [2.0, 0.0, -3.5, math.inf, -math.inf])
def test_constant(p: float) -> None:
    for schedule in (Schedule("constant", p), Schedule("constant", p, p), Schedule("constant", p, steps=5)):
        assert {schedule.p_at(step, 10) for step in (0, 3, 4, 9, 100)} == {p}


def test_run_of_one_step_uses_p_start() -> None:
    assert Schedule("linear", 2, -2).p_at(0, 1) == 2.0
    assert Schedule("linear", 2, -2).p_at(1, 1) == 2.0


def test_steps_overrides_the_run() -> None:
    assert [Schedule("linear", 2, -2, steps=5).p_at(step, 100) for step in range(7)] == [2, 1, 0, -1, -2, -2, -2]
    assert [Schedule("linear", 2, -2).p_at(step, 5) for step in range(5)] == [2, 1, 0, -1, -2]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shape": "sine"}, r"holder.schedule is 'sine'; allowed are constant, linear, cosine, power, cubic"),
        ({"p_start": math.inf}, "holder.p_start is inf; allowed is a finite number unless holder.schedule is constant"),
        ({"p_start": math.nan}, "holder.p_start is nan; allowed is a finite number"),
        ({"p_start": "2"}, "holder.p_start is '2'; allowed is a number"),
        ({"p_start": None}, "holder.p_start is None; allowed is a number"),
        ({"p_end": None}, "holder.p_end is null; holder.schedule=linear needs a finite number"),
        ({"p_end": -math.inf}, "holder.p_end is -inf; allowed is a finite number"),
        ({"p_end": True}, "holder.p_end is True; allowed is a finite number"),
        (
            {"shape": "constant"},
            "holder.p_end is -2.0 while holder.schedule is constant; allowed is null or holder.p_start",
        ),
        (
            {"shape": "constant", "p_start": math.nan, "p_end": None},
            "holder.p_start is nan; allowed is any real number",
        ),
        ({"steps": 1}, "holder.steps is 1; allowed is an integer of at least 2, or null"),
        ({"steps": 2.5}, "holder.steps is 2.5; allowed is an integer"),
        ({"power": 2.0}, "holder.power is 2.0 while holder.schedule is linear; allowed is null"),
        ({"shape": "power", "power": 0.0}, "holder.power is 0.0; allowed is a finite number above 0"),
        ({"shape": "power", "power": math.inf}, "holder.power is inf; allowed is a finite number above 0"),
        ({"shape": "power", "power": "2"}, "holder.power is '2'; allowed is a finite number above 0"),
    ],
)
def test_wrong_fields(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        Schedule(**(LINEAR | fields))
    assert "\n" not in str(error.value)


def test_all_wrong_fields_are_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"holder\.") as error:
        Schedule("linear", math.inf, None, steps=1, power=2.0)
    keys = [line.split()[0] for line in str(error.value).splitlines()]
    assert keys == ["holder.p_start", "holder.p_end", "holder.steps", "holder.power"]


@pytest.mark.parametrize("step", [-1, 1.0, True, "3", None])
def test_wrong_step(step: Any) -> None:
    with pytest.raises(ValueError, match=r"step is .*; allowed is an integer of at least 0"):
        Schedule("linear", 2.0, -2.0).p_at(step, 10)


@pytest.mark.parametrize("total", [0, -5, 10.0, None])
def test_wrong_total(total: Any) -> None:
    with pytest.raises(ValueError, match=r"total_steps is .*; allowed is an integer of at least 1"):
        Schedule("linear", 2.0, -2.0).p_at(0, total)
