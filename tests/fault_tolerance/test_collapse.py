"""Collapse and non-finite updates, seen in metrics alone."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recipe.holderpo.config.settings import GuardSettings
from recipe.holderpo.fault_tolerance.collapse import (
    Collapsed,
    CollapseDetector,
    exceeded,
    is_finite_update,
    nonfinite_samples,
)

HEALTHY = {"actor/entropy": 0.5, "actor/grad_norm": 1.0, "holder/log_ratio_max": 0.1, "holder/log_ratio_min": -0.2}
HEALTHY |= {"holder/first_log_ratio_max": 0.01}
LIMITS = GuardSettings(
    entropy_min=0.1, entropy_max=2.0, grad_norm_max=10.0, log_ratio_max=1.0, first_log_ratio_max=0.05, steps=3
)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("actor/entropy", 0.01, "entropy is 0.01, below 0.1"),
        ("actor/entropy", 7.0, "entropy is 7, above 2"),
        ("actor/grad_norm", 11.0, "gradient norm is 11, above 10"),
        ("actor/grad_norm", math.nan, "gradient norm is nan, above 10"),
        ("holder/log_ratio_max", 3.0, "|log ratio| is 3, above 1"),
        ("holder/first_log_ratio_max", 0.2, "|log ratio| of the first update is 0.2, above 0.05"),
        ("holder/log_ratio_min", -math.inf, "|log ratio| is inf, above 1"),
    ],
)
def test_what_is_beyond_is_named(key: str, value: float, said: str) -> None:
    assert exceeded(LIMITS, HEALTHY) == []
    assert exceeded(LIMITS, HEALTHY | {key: value}) == [said]
    assert exceeded(GuardSettings(), {}) == [], "nothing is watched that was not asked for"


def test_a_limit_without_its_metric_is_an_error() -> None:
    with pytest.raises(KeyError, match="log_ratio_max"):
        exceeded(LIMITS, {"actor/entropy": 0.5, "actor/grad_norm": 1.0})


@given(st.lists(st.booleans(), max_size=30), st.integers(1, 4))
def test_a_collapse_is_so_many_steps_in_a_row(bad: list[bool], steps: int) -> None:
    detector = CollapseDetector(GuardSettings(entropy_min=0.1, steps=steps))
    runs = "".join("x" if b else "." for b in bad)
    expected = runs.find("x" * steps)
    for step, is_bad in enumerate(bad, start=1):
        metrics = HEALTHY | ({"actor/entropy": 0.0} if is_bad else {})
        if expected >= 0 and step == expected + steps:
            with pytest.raises(Collapsed, match=f"since {expected + 1}$") as caught:
                detector.step(step, metrics)
            assert caught.value.args[1] == expected + 1
            return
        detector.step(step, metrics)
    assert expected < 0


def test_a_resumed_run_counts_on() -> None:
    """Two steps beyond before the checkpoint, one after it: three in a row."""
    limits, low = GuardSettings(entropy_min=0.1, steps=3), HEALTHY | {"actor/entropy": 0.0}
    before, after = CollapseDetector(limits), CollapseDetector(limits)
    before.step(4, low)
    before.step(5, low)
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    with pytest.raises(Collapsed, match=r"since 4$"):
        after.step(6, low)


def test_a_step_is_counted_once_however_often_it_is_looked_at() -> None:
    """Before its checkpoint, whose count must include it, and at its end."""
    low = HEALTHY | {"actor/entropy": 0.0}
    detector = CollapseDetector(GuardSettings(entropy_min=0.1, steps=2))
    assert detector.count(2, low) == ["entropy is 0, below 0.1"] and detector.since == 2
    assert detector.count(3, HEALTHY) == [] and detector.since is None
    detector.count(4, low)
    detector.step(4, low)
    with pytest.raises(Collapsed, match=r"since 4$"):
        detector.step(5, low)


def test_updates_that_are_not_finite() -> None:
    assert is_finite_update(HEALTHY)
    assert not is_finite_update({"actor/grad_norm": math.inf}) and not is_finite_update({"actor/grad_norm": math.nan})


def test_the_offending_samples_are_named() -> None:
    log_probs, advantages = torch.zeros(4, 3), torch.ones(4, 3)
    log_probs[1, 2] = math.nan
    advantages[1, 0], advantages[3, 1] = math.inf, -math.inf
    fields = {"old_log_probs": log_probs, "advantages": advantages}
    assert nonfinite_samples(fields) == {1: ["old_log_probs", "advantages"], 3: ["advantages"]}
    assert nonfinite_samples({"advantages": torch.ones(2, 2)}) == {}
