"""What the page shows of some runs, as values for JSON."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from statistics import fmean
from typing import Any

from recipe.holderpo.report.effect import LARGEST_CLIP_FRACTION, SMALLEST_EFFECT, reach
from recipe.holderpo.report.events import Event, read_events
from recipe.holderpo.report.groups import SEED, Records, as_text, differing_keys, group_names, settings_of
from recipe.holderpo.report.interval import FEWEST, NORMAL, T, interval
from recipe.holderpo.report.page.answers import answers
from recipe.holderpo.report.page.episodes import episodes
from recipe.holderpo.report.page.tokens import tokens
from recipe.holderpo.report.record import accuracy

Json = dict[str, Any]

DIGITS = 4
"""Significant ones of every number."""
SAMPLED, GREEDY, REWARD, REACH = (
    "accuracy, sampled",
    "accuracy, greedy",
    "critic/score/mean",
    "|p| x spread of log-ratios",
)
MARKS = {
    "guard/nonfinite_updates": "update skipped: not finite",
    "checkpoint/failed": "a checkpoint could not be saved",
}


def page_data(records: Mapping[Path, Records]) -> Json:
    """Everything on the page.

    Args:
        records: of each run's folder, at least one.
    """
    folders = [*records]
    names, configs = _names(folders), [settings_of(folder) for folder in folders]
    differing = differing_keys(configs)
    groups = group_names(configs, differing)
    runs = [
        _run(name, group, config, records[folder], read_events(folder))
        for name, group, config, folder in zip(names, groups, configs, folders, strict=True)
    ]
    return {
        "runs": runs,
        "differences": {key: [as_text(config.get(key)) for config in configs] for key in differing},
        "results": _results(runs, [config.get(SEED) for config in configs]),
        "answers": answers(dict(zip(names, folders, strict=True))),
        "episodes": episodes(dict(zip(names, folders, strict=True))),
        "tokens": tokens(
            {
                name: (folder, config, records[folder][-1]["step"])
                for name, folder, config in zip(names, folders, configs, strict=True)
            }
        ),
        "no_effect_below": SMALLEST_EFFECT,
        "clips_too_much_above": LARGEST_CLIP_FRACTION,
        "t": [*T, NORMAL],
        "fewest": FEWEST,
    }


def _run(name: str, group: str, config: Json, records: Records, events: Sequence[Event]) -> Json:
    metrics: dict[str, list[Any]] = {}
    for number, record in enumerate(records):
        values = {SAMPLED: accuracy(record, greedy=False), GREEDY: accuracy(record, greedy=True), REACH: reach(record)}
        for key, value in (record | values).items():
            if value is not None and key not in ("step", "time"):
                metrics.setdefault(key, [None] * len(records))[number] = _rounded(value)
    steps = [int(record["step"]) for record in records]
    batch, n = config.get("data.train_batch_size"), config.get("actor_rollout_ref.rollout.n")
    samples = batch * n if isinstance(batch, int) and isinstance(n, int) else None
    tokens = [record.get("perf/total_num_tokens", 0.0) for record in records]
    times = [record.get("time", math.nan) for record in records]
    return {
        "name": name,
        "group": group,
        "x": {
            "step": steps,
            "samples": [None if samples is None else step * samples for step in steps],
            "tokens": [_whole(count) for count in accumulate(tokens)],
            "seconds": [_whole(time - times[0]) for time in times],
        },
        "metrics": metrics,
        "marks": _marks(records, events),
    }


def _marks(records: Records, events: Sequence[Event]) -> list[list[Any]]:
    """[number of the record, text] of what went wrong in a step, and of what happened to the run after it."""
    wrong = [[n, text] for n, record in enumerate(records) for key, text in MARKS.items() if record.get(key)]
    last = len(records) - 1
    after = [next((n for n, record in enumerate(records) if record["step"] >= event.step), last) for event in events]
    return wrong + [[n, event.text] for n, event in zip(after, events, strict=True)]


def _whole(value: float) -> int | None:
    return round(value) if math.isfinite(value) else None


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names, or their paths where two have the same."""
    short = [folder.resolve().name for folder in folders]
    return [name if short.count(name) == 1 else str(folder) for name, folder in zip(short, folders, strict=True)]


def _rounded(value: float) -> float | str:
    """Four significant digits; JSON has no infinities, so they are words."""
    if not math.isfinite(value):
        return str(float(value))
    number = float(f"{value:.{DIGITS}g}")
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


def _results(runs: Sequence[Json], seeds: Sequence[Any]) -> Json:
    """Of the measure that most runs have, at the step at which most of them have it last: a row for each group, with mean and
    interval over its seeds, and its difference from the first group over the seeds that both have."""
    measure = max((SAMPLED, GREEDY, REWARD), key=lambda name: sum(name in run["metrics"] for run in runs))
    values = [_values(run, measure) for run in runs]
    last = Counter(max(found) for found in values if found)
    step = max(last, key=lambda one: (last[one], one), default=0)
    by_seed: dict[str, dict[Any, list[float]]] = {run["group"]: {} for run in runs}
    for number, (run, seed, found) in enumerate(zip(runs, seeds, values, strict=True)):
        if step in found:  # a run without a seed stands for itself
            by_seed[run["group"]].setdefault(("run", number) if seed is None else seed, []).append(found[step])
    means = {group: {seed: fmean(all_runs) for seed, all_runs in own.items()} for group, own in by_seed.items()}
    first = runs[0]["group"]
    rows = []
    for group, own in means.items():
        pairs = [value - means[first][seed] for seed, value in own.items() if seed in means[first] and group != first]
        rows.append(
            {
                "group": group,
                "seeds": len(own),
                **_mean_and_interval([*own.values()], "mean"),
                **_mean_and_interval(pairs, "difference"),
                "pairs": len(pairs),
            }
        )
    missing = [run["name"] for run, found in zip(runs, values, strict=True) if step not in found]
    return {"measure": measure, "step": step, "rows": rows, "missing": missing}


def _values(run: Json, measure: str) -> dict[int, float]:
    """By step, where it is a number."""
    found = zip(run["x"]["step"], run["metrics"].get(measure, []), strict=False)
    return {step: value for step, value in found if isinstance(value, int | float)}


def _mean_and_interval(values: Sequence[float], name: str) -> Json:
    """Mean, and of three values or more the 95 % interval by Student's t."""
    found: Json = {name: _rounded(fmean(values))} if values else {}
    if (ends := interval(values)) is not None:
        found[f"{name}_interval"] = [*map(_rounded, ends)]
    return found
