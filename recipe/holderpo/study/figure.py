"""The study's figure: learning curves of the arms at each clip, with intervals over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from recipe.holderpo import atomic
from recipe.holderpo.study.plan import ARMS, CLIPS, REPORTED_SEEDS, complete_seeds, grid
from recipe.holderpo.study.statistics import interval

Record = Mapping[str, Any]
COLORS = dict(
    zip(
        (*ARMS, "p1"),
        ("#56B4E9", "#000000", "#D55E00", "#0072B2", "#CC79A7", "#009E73", "#7F7F7F", "#E69F00"),
        strict=True,
    )
)
NAMES = {"p1": "GRPO (p = 1, token clip)"}


def plot_study(records: Sequence[Record], out_png: Path) -> None:
    """Draw `study_figure` into a PNG file of 1650 x 550 pixels."""
    with atomic.new_file(out_png) as part:
        study_figure(records).savefig(part, dpi=110, format="png")


def study_figure(records: Sequence[Record]) -> Figure:
    """A panel for each clip: mean held-out accuracy by step, a line for each arm of the grid, 95 % intervals over seeds.

    Those seeds that all arms have."""
    by_key = {record["key"]: record for record in records}
    seeds = complete_seeds("grid", by_key)
    figure = Figure(figsize=(15, 5), layout="constrained")
    figure.suptitle(f"Clock task, learning rate 2e-4, {len(seeds)} seeds, 95 % intervals", fontsize=14)
    for axes, clip in zip(figure.subplots(1, 3, sharey=True), CLIPS, strict=True):
        axes.set_title(f"clip {clip:g}", fontsize=13)
        axes.set_xlabel("step", fontsize=11)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        for run in grid(REPORTED_SEEDS[0]) if seeds else ():
            if run.clip == clip:
                curves = [by_key[replace(run, seed=seed).key]["accuracy"] for seed in seeds]
                steps = sorted(map(int, curves[0]))
                values = np.array([[curve[str(step)] for step in steps] for curve in curves])
                low, high = zip(*(interval(list(column)) for column in values.T), strict=True)
                axes.plot(
                    steps, values.mean(0), color=COLORS[run.arm], label=NAMES.get(run.arm, run.arm), linewidth=1.8
                )
                axes.fill_between(steps, low, high, color=COLORS[run.arm], alpha=0.12, linewidth=0)
    figure.axes[0].set_ylabel("held-out accuracy, sampled", fontsize=11)
    if seeds:
        figure.axes[-1].legend(fontsize=9, framealpha=0.85)
    return figure
