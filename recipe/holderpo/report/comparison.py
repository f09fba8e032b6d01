"""Several runs in one table and one picture: what each learnt, and what p did in it."""

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recipe.holderpo import atomic
from recipe.holderpo.report.effect import reach
from recipe.holderpo.report.record import accuracy
from recipe.holderpo.report.text_table import text_table

Runs = Mapping[str, list[dict[str, float]]]

# Okabe and Ito's palette without its yellow, which white swallows.
COLORS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
NONE = "-"


def comparison_table(runs: Runs) -> str:
    """A row for each run: sampled accuracy before, at its best and at the end, and means over the run."""
    head = ["", "first", "best", "last", "|p| x spread", "sequence clip", "gradient norm", "s/step"]
    rows = []
    for name, records in runs.items():
        found = [value for record in records if (value := accuracy(record, greedy=False)) is not None]
        cells = [f"{100 * value:.1f} %" for value in (found[0], max(found), found[-1])] if found else [NONE] * 3
        reaches = [value for record in records if (value := reach(record)) is not None]
        cells.append(f"{fmean(reaches):.2f}" if reaches else NONE)
        cells.append(_mean(records, "holder/sequence_clip_fraction", "{:.1%}"))
        cells.append(_mean(records, "actor/grad_norm", "{:.2f}"))
        cells.append(_mean(records, "timing_s/step", "{:.1f}"))
        rows.append([name, *cells])
    return text_table([head, *rows])


def plot_comparison(runs: Runs, out_png: Path, title: str) -> None:
    """Draw `comparison_figure` into a PNG file of 1650 x 880 pixels."""
    with atomic.new_file(out_png) as part:
        comparison_figure(runs, title).savefig(part, dpi=110, format="png")


def comparison_figure(runs: Runs, title: str = "") -> Figure:
    """Six panels over the global step, a line for each run: accuracy, |p| x spread of log-ratios, KL(old, new) per token,
    share of sequences that the clip binds, gradient norm, entropy."""
    figure = Figure(figsize=(15, 8), layout="constrained")
    figure.suptitle(title, fontsize=15, parse_math=False)
    panels = figure.subplots(2, 3).flat
    names = (
        ("Held-out accuracy, sampled", lambda record: accuracy(record, greedy=False)),
        ("|p| x spread of log-ratios, last update", reach),
        ("KL(old, new) in the step, nats per token", lambda record: record.get("holder/ppo_kl")),
        ("Sequences beyond the clip", lambda record: record.get("holder/sequence_clip_fraction")),
        ("Gradient norm before clipping", lambda record: record.get("actor/grad_norm")),
        ("Policy entropy, nats per token", lambda record: record.get("actor/entropy")),
    )
    for axes, (panel, value_of) in zip(panels, names, strict=True):
        axes.set_title(panel, fontsize=13)
        axes.set_xlabel("step", fontsize=11)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        for index, (name, records) in enumerate(runs.items()):
            points = [(record["step"], value) for record in records if (value := value_of(record)) is not None]
            if points:
                _line(axes, points, name, COLORS[index % len(COLORS)])
    for axes in [axes for axes in figure.axes if axes.lines][
        :1
    ]:  # a panel may have none, as accuracy without validation
        axes.legend(fontsize=10, framealpha=0.85)
    return figure


def _line(axes: Axes, points: list[tuple[float, float]], name: str, color: str) -> None:
    steps, values = zip(*points, strict=True)
    axes.plot(steps, values, color=color, label=name, linewidth=1.6, marker="o", markersize=4 if len(steps) < 30 else 0)


def _mean(records: list[dict[str, float]], key: str, form: str) -> str:
    values = [record[key] for record in records if key in record]
    return form.format(fmean(values)) if values else NONE
