"""Several runs in one table and one picture: what each learnt, and what p did in it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recipe.holderpo import atomic
from recipe.holderpo.report.effect import reach
from recipe.holderpo.report.interval import interval
from recipe.holderpo.report.record import accuracy
from recipe.holderpo.report.text_table import text_table

Runs = Mapping[str, list[dict[str, float]]]
Groups = Mapping[str, Sequence[list[dict[str, float]]]]
"""Name -> the records of each of its runs."""

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


def plot_comparison(groups: Groups, out_png: Path, title: str) -> None:
    """Draw `comparison_figure` into a PNG file of 1650 x 880 pixels."""
    with atomic.new_file(out_png) as part:
        comparison_figure(groups, title).savefig(part, dpi=110, format="png")


def comparison_figure(groups: Groups, title: str = "") -> Figure:
    """Six panels over the global step, a line for each group: accuracy, |p| x spread of log-ratios, KL(old, new) per token,
    share of sequences that the clip binds, gradient norm, entropy.

    Of several runs of a group the line is their mean at the steps that all have, with its 95 % interval from three runs on
    (Student's t), and the runs themselves are thin."""
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
        for index, (name, runs) in enumerate(groups.items()):
            curves = [
                {record["step"]: value for record in run if (value := value_of(record)) is not None} for run in runs
            ]
            _draw(axes, [curve for curve in curves if curve], name, COLORS[index % len(COLORS)])
    for axes in [axes for axes in figure.axes if axes.lines][
        :1
    ]:  # a panel may have none, as accuracy without validation
        axes.legend(fontsize=10, framealpha=0.85)
    return figure


def _draw(axes: Axes, curves: list[dict[float, float]], name: str, color: str) -> None:
    """A group's curves, step -> value each."""
    if not curves:
        return
    steps = sorted(set.intersection(*map(set, curves)))
    columns = [[curve[step] for curve in curves] for step in steps]
    if len(curves) > 1:
        name = f"{name} (mean of {len(curves)})"
        for curve in curves:
            axes.plot([*curve], [*curve.values()], color=color, linewidth=0.7, alpha=0.4, label="_")
        ends = [(step, *found) for step, column in zip(steps, columns, strict=True) if (found := interval(column))]
        if ends:
            at, low, high = zip(*ends, strict=True)
            axes.fill_between(at, low, high, color=color, alpha=0.15, linewidth=0)
    marker = 4 if len(steps) < 30 else 0
    axes.plot(steps, [*map(fmean, columns)], color=color, label=name, linewidth=1.6, marker="o", markersize=marker)


def _mean(records: list[dict[str, float]], key: str, form: str) -> str:
    values = [record[key] for record in records if key in record]
    return form.format(fmean(values)) if values else NONE
