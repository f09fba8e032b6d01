"""Tables of the study from its records; every number in docs/study/results.md comes from here."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from recipe.holderpo.atomic import write_text
from recipe.holderpo.study import statistics
from recipe.holderpo.study.figure import plot_study
from recipe.holderpo.study.plan import EXPERIMENTS, complete_seeds
from recipe.holderpo.study.probe import probe_table
from recipe.holderpo.study.settings import RULES, RunSettings

Record = Mapping[str, Any]
COLLAPSE = 0.02
LEAST_EFFECT = 0.1  # of |p| x spread


class Outcome(NamedTuple):
    """What a run comes to: see docs/study/plan.md, "Measures and tests"."""

    final: float
    area: float
    collapsed: bool
    effect: float  # mean of |p| x spread at a step's last update


def outcome(record: Record) -> Outcome:
    accuracy = {int(step): value for step, value in record["accuracy"].items()}
    later = [accuracy[step] for step in sorted(accuracy) if step > 0]
    final = fmean(later[-2:])
    sizes = [_size_of_p(record["settings"]["arm"], p) for p in record["steps"]["p_mean"]]
    spreads = record["steps"]["last_log_ratio_std"]
    effect = fmean(size * spread for size, spread in zip(sizes, spreads, strict=True))
    return Outcome(final, fmean(later), final < accuracy[0] - COLLAPSE, effect)


def _size_of_p(arm: str, p_mean: float) -> float:
    """|p|: of an arm whose order differs by sign, the larger one's, which its mean over responses does not show."""
    order = RULES[arm](2).next_p(1)
    return abs(p_mean) if isinstance(order, float) else max(abs(order.positive), abs(order.negative))  # type: ignore[union-attr]


def condition(settings: RunSettings) -> str:
    """What a run is, apart from its seed."""
    return settings.key.rsplit(",", 1)[0] if "," in settings.key else ""


def table(experiment: str, records: Sequence[Record]) -> list[str]:
    """A Markdown table of an experiment: a row for each condition, with those seeds that all of its conditions have."""
    by_key = {record["key"]: record for record in records}
    seeds = complete_seeds(experiment, by_key)
    if not seeds:
        return []
    runs = list(EXPERIMENTS[experiment](seeds[0]))
    outcomes = {condition(run): [outcome(by_key[replace(run, seed=seed).key]) for seed in seeds] for run in runs}
    baselines = {condition(run): condition(_baseline(run)) for run in runs}
    rows: list[list[str]] = []
    compared: list[tuple[int, float]] = []
    for name, found in outcomes.items():
        finals = [one.final for one in found]
        row = [f"{fmean(finals):.3f} [{_span(finals)}]", f"{fmean(one.area for one in found):.3f}"]
        row += [f"{sum(one.collapsed for one in found)}", f"{fmean(one.effect for one in found):.2f}"]
        base = outcomes.get(baselines[name])
        if base is not None and base is not found:
            differences = [a.final - b.final for a, b in zip(found, base, strict=True)]
            compared.append((len(rows), statistics.sign_flip_p(differences)))
            better = statistics.probability_of_improvement(finals, [one.final for one in base])
            row += [f"{fmean(differences):+.3f} [{_span(differences, sign='+')}]", f"{better:.2f}"]
        else:
            row += ["", ""]
        rows.append([name or "arm=", *row])
    adjusted = dict(zip([i for i, _ in compared], statistics.holm([p for _, p in compared]), strict=True))
    head = ["run", "final [95 %]", "area", "collapsed", "\\|p\\| x spread", "minus p0 [95 %]", "P(better)", "p, Holm"]
    lines = [
        f"### {experiment}: {len(seeds)} seeds ({seeds[0]} to {seeds[-1]})",
        "",
        _line(head),
        _line(["---"] * len(head)),
    ]
    return lines + [_line([*row, f"{adjusted[i]:.3f}" if i in adjusted else ""]) for i, row in enumerate(rows)] + [""]


def _baseline(run: RunSettings) -> RunSettings:
    """The run that it is compared with: p = 0 under the same settings, with the sequence clip."""
    return replace(run, arm="p0", clip_level="sequence" if run.arm == "p1" else run.clip_level)


def _span(values: Sequence[float], sign: str = "") -> str:
    low, high = statistics.interval(values)
    return f"{low:{sign}.3f}, {high:{sign}.3f}"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def write_report(records: Sequence[Record], probed: Mapping[str, list[dict[str, Any]]], folder: Path) -> None:
    """Write `tables.md` and `study.png` into the folder.

    Args:
        probed: clip -> rows of the probe.
    """
    lines = [
        "# The study's tables",
        "",
        "Made by `python -m recipe.holderpo.study report`; what they mean: results.md.",
        "",
    ]
    for experiment in EXPERIMENTS:
        lines += table(experiment, records)
    for clip, rows in probed.items():
        lines += [f"### The frozen-batch probe, clip {clip}", "", *probe_table(rows), ""]
    plot_study(records, folder / "study.png")
    write_text(folder / "tables.md", "\n".join(lines).rstrip() + "\n")
