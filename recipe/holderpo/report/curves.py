"""The run's picture, `curves.png`: what is learnt, p, and the quantities of the paper's Figs. 2 and 3."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from recipe.holderpo import atomic
from recipe.holderpo.report.effect import reach
from recipe.holderpo.report.record import accuracy, read_metrics

Records = list[dict[str, float]]
CURVES_FILE = "curves.png"

# Okabe and Ito's palette, whose colours colour-blind readers can distinguish too.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#7F7F7F"


def plot_curves(metrics_path: str | Path, out_png: str | Path, title: str) -> None:
    """Draw `curves_figure` of a metrics.jsonl into a PNG file of 1650 x 960 pixels."""
    figure = curves_figure(read_metrics(metrics_path), title)
    with atomic.new_file(Path(out_png)) as part:
        figure.savefig(part, dpi=110, format="png")


def curves_figure(records: Records, title: str = "") -> Figure:
    """Six panels over the global step, from the records of `read_metrics`.

    Accuracy and reward; p; largest and smallest token log-ratio (arXiv 2605.12058, Fig. 2); policy entropy and gradient
    norm (Fig. 3); entropy of the weights W(p), effective sample size, and |p| x spread of log-ratios. A panel without
    values says so.
    """
    figure = Figure(figsize=(15, 8.7), layout="constrained")
    figure.suptitle(title, fontsize=15, parse_math=False)  # a folder's name may have dollars
    learning, order, envelopes, entropy, gradient, weights = figure.subplots(2, 3).flat

    _panel(learning, "Accuracy and reward", "")
    _line(learning, _series(records, "critic/score/mean"), "mean training reward", GREY)
    _line(learning, _accuracies(records, greedy=False), "validation accuracy", BLUE)
    _line(learning, _accuracies(records, greedy=True), "validation accuracy, greedy", ORANGE)

    _panel(order, "Order of the Hölder mean", "p")
    _line(order, _series(records, "holder/p"), "p", BLUE)

    _panel(envelopes, "Token log-ratio in the step (envelopes)", "log-ratio")
    _line(envelopes, _series(records, "holder/log_ratio_max"), "largest", ORANGE)
    _line(envelopes, _series(records, "holder/log_ratio_min"), "smallest", BLUE)

    _panel(entropy, "Policy entropy", "nats per token")
    _line(entropy, _series(records, "actor/entropy"), "entropy", BLUE)

    _panel(gradient, "Gradient norm before clipping", "L2 norm")
    _line(gradient, _series(records, "actor/grad_norm"), "gradient norm", BLUE)

    _panel(weights, "Weights W(p) over the tokens of a response", "1 = uniform")
    _line(weights, _series(records, "holder/effective_sample_size"), "effective sample size / tokens", ORANGE)
    _line(weights, _series(records, "holder/weight_entropy"), "entropy / log(tokens)", BLUE)
    reaches = [(r["step"], value) for r in records if (value := reach(r)) is not None]
    _line(weights, reaches, "|p| x spread of log-ratios, last update", GREEN)

    trained = any(record["step"] > 0 for record in records)
    for axes in figure.axes:
        _finish(axes, "not recorded by this loss" if trained else "no training step yet")
        axes.set_xlim(_step_limits(records))
    return figure


def _series(records: Records, key: str) -> list[tuple[float, float]]:
    """(step, value) of the records that hold the key."""
    return [(record["step"], record[key]) for record in records if key in record]


def _accuracies(records: Records, greedy: bool) -> list[tuple[float, float]]:
    return [(r["step"], value) for r in records if (value := accuracy(r, greedy=greedy)) is not None]


def _panel(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, fontsize=13)
    axes.set_xlabel("step", fontsize=11)
    axes.set_ylabel(unit, fontsize=11)
    axes.tick_params(labelsize=10)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _line(axes: Axes, points: list[tuple[float, float]], label: str, color: str) -> None:
    if points:
        steps, values = zip(*points, strict=True)
        # Markers keep a value visible that has no neighbour to be joined with.
        axes.plot(
            steps, values, color=color, label=label, linewidth=1.6, marker="o", markersize=4 if len(steps) < 30 else 2
        )


def _step_limits(records: Records) -> tuple[float, float]:
    """The same for all panels, with room for a marker at both ends."""
    steps = [record["step"] for record in records]
    margin = max(0.5, 0.03 * (max(steps) - min(steps)))
    return min(steps) - margin, max(steps) + margin


def _finish(axes: Axes, without_values: str) -> None:
    """Legend for several lines, whole steps on the axis, and a note where there is nothing to see."""
    if not axes.lines:
        axes.set_xticks([])
        axes.set_yticks([])
        _note(axes, without_values)
        return
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.lines])
    if not np.isfinite(values).any():
        _note(axes, f"{values[-1]:+} in the last step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.ticklabel_format(axis="y", useOffset=False)
    if len(axes.lines) > 1:
        axes.legend(fontsize=10, framealpha=0.85)


def _note(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=12, color=GREY)
