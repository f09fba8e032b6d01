"""What the page shows of some runs, as values for JSON."""

import json
import math
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from recipe.holderpo import atomic
from recipe.holderpo.report.effect import LARGEST_CLIP_FRACTION, SMALLEST_EFFECT, reach
from recipe.holderpo.report.record import accuracy, read_run
from recipe.holderpo.report.statistics import interval

Json = dict[str, Any]
Records = list[dict[str, float]]

DIGITS = 4
"""Significant ones of every number."""
SAMPLES_BYTES = 1_500_000
"""Of texts in all, at most."""
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The one in C where PyYAML was built with it: ten times as fast."""
SEEDS = ("seed", "data_loader_seed")
"""Last parts of keys in which runs of one group may differ."""
MACHINES = ("ray_kwargs", "transfer_queue", "env")
"""Groups of keys that say where a run was made."""
SAMPLED, GREEDY, REACH = "accuracy, sampled", "accuracy, greedy", "|p| x spread of log-ratios"
MARKS = {
    "guard/nonfinite_updates": "update skipped: not finite",
    "checkpoint/failed": "a checkpoint could not be saved",
}


def page_data(run_dirs: Sequence[Path]) -> Json:
    """Everything on the page.

    Raises:
        ConfigError: a folder has no record that can be read, or an empty one.
    """
    names = _names(run_dirs)
    records = [read_run(folder) for folder in run_dirs]
    configs = [_settings(folder) for folder in run_dirs]
    differing = _differing(configs)
    groups = _groups(configs, differing)
    runs = [
        _run(name, group, config, own) for name, group, config, own in zip(names, groups, configs, records, strict=True)
    ]
    return {
        "runs": runs,
        "differences": {key: [_text(config.get(key)) for config in configs] for key in differing},
        "results": _results(groups, configs, records),
        "samples": _samples(names, run_dirs),
        "no_effect_below": SMALLEST_EFFECT,
        "clips_too_much_above": LARGEST_CLIP_FRACTION,
    }


def _run(name: str, group: str, config: Json, records: Records) -> Json:
    metrics: dict[str, list[Any]] = {}
    for number, record in enumerate(records):
        values = {SAMPLED: accuracy(record, greedy=False), GREEDY: accuracy(record, greedy=True), REACH: reach(record)}
        for key, value in (record | values).items():
            if value is not None and key not in ("step", "time"):
                metrics.setdefault(key, [None] * len(records))[number] = _rounded(value)
    samples = (config.get("data.train_batch_size") or 0) * (config.get("actor_rollout_ref.rollout.n") or 0)
    tokens = accumulate(record.get("perf/total_num_tokens", 0.0) for record in records)
    return {
        "name": name,
        "group": group,
        "x": {
            "step": [int(record["step"]) for record in records],
            "samples": [int(record["step"]) * samples for record in records],
            "tokens": [int(count) for count in tokens],
            "seconds": [round(record.get("time", 0.0) - records[0].get("time", 0.0), 1) for record in records],
        },
        "metrics": metrics,
        "marks": [[n, text] for n, r in enumerate(records) for key, text in MARKS.items() if r.get(key)],
    }


def _names(run_dirs: Sequence[Path]) -> list[str]:
    """The folders' own names, or their paths where two have the same."""
    short = [folder.resolve().name for folder in run_dirs]
    return [name if short.count(name) == 1 else str(folder) for name, folder in zip(short, run_dirs, strict=True)]


def _settings(run_dir: Path) -> Json:
    """Full key -> value of a run's config; {} where there is none."""
    try:
        config = yaml.load((run_dir / "config.yaml").read_text(), LOADER)
    except (OSError, yaml.YAMLError):
        return {}
    return dict(_leaves(config))


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield key, value
        return
    for name, item in value.items():
        yield from _leaves(item, f"{key}.{name}" if key else str(name))


def _differing(configs: Sequence[Json]) -> list[str]:
    """Keys in which runs differ, but for seeds and what is named after a run."""
    keys = sorted({key for config in configs for key in config})
    return [
        key
        for key in keys
        if key.rsplit(".", 1)[-1] not in SEEDS
        and key.split(".")[0] not in MACHINES
        and len({_text(_without_name(config.get(key), config)) for config in configs}) > 1
    ]


def _without_name(value: Any, config: Json) -> Any:
    """A value that has the run's name or folder in it, without them."""
    if isinstance(value, list):
        return [_without_name(one, config) for one in value]
    if isinstance(value, str):
        for name in (config.get("run_dir"), config.get("run")):
            value = value.replace(str(name), "") if name else value
    return value


def _groups(configs: Sequence[Json], differing: Sequence[str]) -> list[str]:
    """The name of each run's group, whose configs are the same but for seeds: values of as few keys as tell groups apart."""
    named, tell = [""] * len(configs), 1
    for key in sorted(differing, key=lambda key: key != "algo_name"):
        finer = [
            f"{name}, {key.rsplit('.', 1)[-1]}={_text(config.get(key))}"
            for name, config in zip(named, configs, strict=True)
        ]
        if len(set(finer)) > tell:
            named, tell = finer, len(set(finer))
    return [name.removeprefix(", ") or "all runs" for name in named]


def _text(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def _rounded(value: float) -> float | str:
    """Four significant digits; JSON has no infinities, so they are words."""
    if not math.isfinite(value):
        return str(value)
    number = float(f"{value:.{DIGITS}g}")
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


def _results(groups: Sequence[str], configs: Sequence[Json], records: Sequence[Records]) -> list[Json]:
    """A row for each group: last accuracy or reward, mean and interval over its runs; and its difference from the first group
    in the seeds that both have."""
    last = [_last(own) for own in records]
    by_seed = {
        group: {
            config.get("seed"): value
            for name, config, value in zip(groups, configs, last, strict=True)
            if name == group
        }
        for group in dict.fromkeys(groups)
    }
    first = next(iter(by_seed), "")
    rows = []
    for group, of_seed in by_seed.items():
        values = [value for value, name in zip(last, groups, strict=True) if name == group and value is not None]
        differences = [
            value - other
            for seed, value in of_seed.items()
            if value is not None and (other := by_seed[first].get(seed)) is not None
        ]
        rows.append(
            {
                "group": group,
                "runs": len(values),
                **_mean_and_interval(values, "last"),
                **(_mean_and_interval(differences, "difference") if group != first else {}),
                "pairs": len(differences) if group != first else 0,
            }
        )
    return rows


def _last(records: Records) -> float | None:
    """The last validation's sampled accuracy, or greedy, or the last step's reward."""
    for value_of in (
        lambda record: accuracy(record, greedy=False),
        lambda record: accuracy(record, greedy=True),
        lambda record: record.get("critic/score/mean"),
    ):
        found = [value for record in records if (value := value_of(record)) is not None]
        if found:
            return float(found[-1])
    return None


def _mean_and_interval(values: Sequence[float], name: str) -> Json:
    """Mean, and of three values or more a 95 % bootstrap interval."""
    found: Json = {name: _rounded(fmean(values))} if values else {}
    if len(values) >= 3:
        found[f"{name}_interval"] = [_rounded(end) for end in interval(values)]
    return found


def _samples(names: Sequence[str], run_dirs: Sequence[Path]) -> list[Json]:
    """Answers of validations, of each the first rows that there is room for: the last validations first."""
    files = {
        name: sorted((folder / "generations").glob("*.jsonl"), key=_step_of)
        for name, folder in zip(names, run_dirs, strict=True)
    }
    shown = [(name, file) for name, own in files.items() for file in (own[:1] + own[-2:] if len(own) > 2 else own)]
    room, rows = SAMPLES_BYTES // max(1, len(shown)), list[Json]()
    for name, file in shown:
        left = room
        for line in atomic.complete_lines(file):
            left -= len(line)
            if left < 0:
                break
            row = json.loads(line)
            rows.append(
                {
                    "run": name,
                    "step": row.get("step", file.stem),
                    "input": _string(row.get("input")),
                    "output": _string(row.get("output")),
                    "truth": _string(row.get("gts")),
                    "score": row.get("score"),
                }
            )
    return rows


def _step_of(file: Path) -> int:
    return int(file.stem) if file.stem.isdecimal() else -1


def _string(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
