"""When a run is told that p or the clip does nothing."""

import io
import math
from pathlib import Path
from typing import Any

import pytest

from recipe.holderpo.report.console import Progress
from recipe.holderpo.report.effect import STEPS, reach, without_effect
from recipe.holderpo.report.record import RunRecord

QUIET = {"holder/p": 2.0, "holder/log_ratio_std": 0.01, "holder/clip_fraction": 0.0, "holder/rho_min": 0.98}
QUIET |= {"holder/rho_max": 1.03}


def steps(number: int, **changes: float) -> list[dict[str, float]]:
    return [
        QUIET | {f"holder/{key}": value for key, value in changes.items()} | {"step": i + 1.0} for i in range(number)
    ]


def test_reach_is_that_of_the_larger_order() -> None:
    assert reach({"holder/p": -2.0, "holder/log_ratio_std": 0.25}) == 0.5
    signed = {"holder/p": 0.0, "holder/p_positive": -1.0, "holder/p_negative": 3.0, "holder/log_ratio_std": 0.1}
    assert reach(signed) == pytest.approx(0.3)
    assert reach({"holder/p": math.inf, "holder/log_ratio_std": 0.0}) == 0.0
    assert reach({"holder/log_ratio_std": 0.3}) is None, "a baseline"


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, {"p", "no clip"}),
        ({"log_ratio_std": 0.06}, {"no clip"}),
        ({"clip_fraction": 0.01}, {"p"}),
        ({"log_ratio_std": 0.06, "clip_fraction": 0.2}, set()),
        ({"log_ratio_std": 0.06, "clip_fraction": 0.31}, {"clip"}),
        ({"p": 0.0}, {"no clip"}),  # on purpose
        ({"p": 0.0, "p_positive": -2.0, "p_negative": 2.0}, {"p", "no clip"}),
    ],
)
def test_what_is_without_effect_has_a_line(changes: dict[str, float], names: set[str]) -> None:
    found = without_effect(steps(STEPS, **changes), "sequence")
    assert found.keys() == names and all(line.startswith("note: ") and "\n" not in line for line in found.values())
    assert without_effect(steps(STEPS - 1, **changes), "sequence") == {}
    assert without_effect(steps(STEPS, **changes), "none").keys() == names - {"no clip"}


@pytest.mark.parametrize("changes", [{"log_ratio_std": 0.06}, {"clip_fraction": 0.01}])
def test_one_step_that_differs_is_enough_for_silence(changes: dict[str, float]) -> None:
    silent = "p" if "log_ratio_std" in changes else "no clip"
    assert silent not in without_effect([*steps(STEPS - 1), *steps(1, **changes)], "sequence")
    assert silent in without_effect([*steps(1, **changes), *steps(STEPS)], "sequence")


def said(tmp_path: Path, records: list[dict[str, Any]], clip_level: str | None) -> list[str]:
    stream, record = io.StringIO(), RunRecord(tmp_path)
    record.resume_from(0)
    with Progress(record.path, 99, stream, clip_level=clip_level):
        for metrics in records:
            record.step(int(metrics["step"]), {k: v for k, v in metrics.items() if k != "step"})
    return [line for line in stream.getvalue().splitlines() if line.startswith("note: ")]


def test_a_run_is_told_once(tmp_path: Path) -> None:
    notes = said(tmp_path, steps(3 * STEPS), "sequence")
    assert len(notes) == 2 and "at most 0.02 in 20 steps" in notes[0] and "from 0.98 to 1.03" in notes[1]


def test_a_baseline_is_not_told(tmp_path: Path) -> None:
    assert said(tmp_path, steps(2 * STEPS), None) == []
