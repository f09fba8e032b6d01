"""What the page shows of some runs, as values for JSON."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import yaml

from recipe.holderpo.config.free_keys import FREE_KEYS, is_free
from recipe.holderpo.config.values import leaves
from recipe.holderpo.report.effect import LARGEST_CLIP_FRACTION, SMALLEST_EFFECT, reach
from recipe.holderpo.report.events import Event, read_events
from recipe.holderpo.report.page.answers import answers
from recipe.holderpo.report.page.episodes import episodes
from recipe.holderpo.report.page.tokens import tokens
from recipe.holderpo.report.record import accuracy

Json = dict[str, Any]
Records = list[dict[str, float]]

DIGITS = 4
"""Significant ones of every number."""
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The one in C where PyYAML was built with it: ten times as fast."""
SEED = "seed"
LENGTH = "trainer.total_training_steps"  # free when a run resumes, but another training
SAME_TRAINING = (
    *(key for keys in FREE_KEYS.values() for key in keys if key != LENGTH),
    *("cache_dir", SEED, "*.seed", "*_seed"),
)
"""Keys in which the runs of one group may differ, as those of `FREE_KEYS`."""
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
NO_CONFIG = "no config.yaml"
# 97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom; beyond, the normal distribution's.
T = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16, 2.145, 2.131, 2.12, 2.11)
NORMAL = 1.96
FEWEST = 3
"""Values of which there is an interval."""


def page_data(records: Mapping[Path, Records]) -> Json:
    """Everything on the page.

    Args:
        records: of each run's folder, at least one.
    """
    folders = [*records]
    names, configs = _names(folders), [_settings(folder) for folder in folders]
    differing = _differing(configs)
    groups = _groups(configs, differing)
    runs = [
        _run(name, group, config, records[folder], read_events(folder))
        for name, group, config, folder in zip(names, groups, configs, folders, strict=True)
    ]
    return {
        "runs": runs,
        "differences": {key: [_text(config.get(key)) for config in configs] for key in differing},
        "results": _results(runs, [config.get(SEED) for config in configs]),
        "answers": answers(dict(zip(names, folders, strict=True))),
        "episodes": episodes(dict(zip(names, folders, strict=True))),
        "tokens": tokens(
            {name: (folder, config) for name, folder, config in zip(names, folders, configs, strict=True)}
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


def _settings(run_dir: Path) -> Json:
    """Full key -> value of a run's config, in which the run's own folder has no name; {} where there is none to be read."""
    try:
        config = yaml.load((run_dir / "config.yaml").read_text(), LOADER)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    settings = dict(leaves(config)) if isinstance(config, dict) else {}
    own = settings.get("run_dir")
    return {key: _without(value, own) if isinstance(own, str) and own else value for key, value in settings.items()}


def _without(value: Any, folder: str) -> Any:
    if isinstance(value, list):
        return [_without(one, folder) for one in value]
    return f"...{value.removeprefix(folder)}" if isinstance(value, str) and value.startswith(folder) else value


def _differing(configs: Sequence[Json]) -> list[str]:
    """Keys in which trainings differ; runs without a config have none."""
    known = [config for config in configs if config]
    return [
        key
        for key in sorted({key for config in known for key in config})
        if len({_text(config.get(key)) for config in known}) > 1 and not is_free(key, SAME_TRAINING)
    ]


def _groups(configs: Sequence[Json], differing: Sequence[str]) -> list[str]:
    """The name of each run's group, whose trainings are the same: values of as few keys as tell the groups apart."""
    named, tell = [""] * len(configs), 1
    last = Counter(key.rsplit(".", 1)[-1] for key in differing)
    for key in sorted(differing, key=lambda key: key != "algo_name"):
        short = key.rsplit(".", 1)[-1]
        shown = short if last[short] == 1 else key
        finer = [f"{name}, {shown}={_text(config.get(key))}" for name, config in zip(named, configs, strict=True)]
        groups = {name for name, config in zip(finer, configs, strict=True) if config}
        if len(groups) > tell:
            named, tell = finer, len(groups)
    return [
        name.removeprefix(", ") or "all runs" if config else NO_CONFIG
        for name, config in zip(named, configs, strict=True)
    ]


def _text(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, default=str)


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
    if len(values) >= FEWEST:
        half = (T[len(values) - 2] if len(values) - 2 < len(T) else NORMAL) * stdev(values) / math.sqrt(len(values))
        found[f"{name}_interval"] = [_rounded(fmean(values) - half), _rounded(fmean(values) + half)]
    return found
