"""The study's tables and figure from made-up records, against numbers worked out by hand."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipe.holderpo.study.figure import study_figure
from recipe.holderpo.study.plan import REPORTED_SEEDS, grid, unclipped
from recipe.holderpo.study.report import outcome, table, write_report
from recipe.holderpo.study.settings import RunSettings

FINALS = {"p-2": 0.3, "p0": 0.2, "p1": 0.25, "p2": 0.5, "signed": 0.6, "2to-2": 0.4, "-2to2": 0.35, "optimistic": 0.1}


def record(run: RunSettings, final: float, p_mean: float = 2.0) -> dict[str, Any]:
    """Two steps, of which the second has twice the spread of the first."""
    accuracy = {"0": 0.25, "5": 0.0, "20": final - 0.1, "25": final + 0.1}
    steps = {"p_mean": [p_mean, -p_mean], "last_log_ratio_std": [0.1, 0.2]}
    return {"key": run.key, "settings": asdict(run), "accuracy": accuracy, "steps": steps}


def test_what_a_run_comes_to() -> None:
    found = outcome(record(RunSettings(arm="p2", seed=21), final=0.5))
    assert found.final == pytest.approx(0.5)
    assert found.area == pytest.approx((0.0 + 0.4 + 0.6) / 3)
    assert not found.collapsed
    assert found.effect == pytest.approx(2 * 0.15)
    assert outcome(record(RunSettings(arm="p2", seed=21), final=0.229)).collapsed
    assert not outcome(record(RunSettings(arm="p2", seed=21), final=0.231)).collapsed
    signed = outcome(record(RunSettings(arm="signed", seed=21), final=0.5, p_mean=0.1))
    assert signed.effect == pytest.approx(2 * 0.15), "the larger |p| of the two, not their mean"


def test_a_table_compares_with_p0_over_the_seeds_that_are_complete() -> None:
    records = [record(run, FINALS[run.arm] + 0.01 * (seed - 22)) for seed in (21, 22, 23) for run in unclipped(seed)]
    records.append(record(RunSettings(arm="p2", clip=None, seed=24), 0.9))  # a seed without the others
    lines = table("unclipped", records)
    assert lines[0] == "### unclipped: 3 seeds (21 to 23)"
    rows = {cells[1].strip(): [cell.strip() for cell in cells] for line in lines[4:8] for cells in [line.split("|")]}
    assert set(rows) == {f"arm={arm},clip=None" for arm in ("p-2", "p0", "p2", "signed")}
    _, _, final, area, collapsed, _, difference, better, p, _ = rows["arm=p2,clip=None"]
    assert final == "0.500 [0.490, 0.510]"
    assert area == "0.333"
    assert collapsed == "0"
    assert difference == "+0.300 [+0.300, +0.300]"
    assert better == "1.00"
    assert p == "0.750", "a quarter of the eight sign flips, times three comparisons"
    assert rows["arm=p0,clip=None"][6:9] == ["", "", ""]
    assert rows["arm=p0,clip=None"][4] == "3"


def test_an_experiment_without_a_complete_seed_has_no_table() -> None:
    assert table("unclipped", [record(RunSettings(arm="p2", clip=None, seed=21), 0.9)]) == []


def test_grpo_is_compared_with_p0_of_the_sequence_clip() -> None:
    records = [record(run, FINALS[run.arm]) for run in grid(21)]
    row = next(line for line in table("grid", records) if "arm=p1,clip=0.03" in line)
    assert "+0.050" in row


def test_the_figure_has_the_means_and_says_how_many_seeds(tmp_path: Path) -> None:
    records = [record(run, FINALS[run.arm] + 0.02 * (seed - 21)) for seed in (21, 22) for run in grid(seed)]
    figure = study_figure(records)
    assert "2 seeds" in str(figure.get_suptitle())
    lines = {str(line.get_label()): line for line in figure.axes[1].lines}
    assert np.asarray(lines["p2"].get_ydata()) == pytest.approx([0.25, 0.0, 0.41, 0.61])
    assert len(lines) == 8
    write_report(records, {}, tmp_path)
    assert (tmp_path / "study.png").stat().st_size > 10_000
    assert "### grid: 2 seeds" in (tmp_path / "tables.md").read_text()
    assert REPORTED_SEEDS[0] == 21
