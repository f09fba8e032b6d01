"""Runs of the study as files: what is missing is run, several at a time; records are joined; runs are repeated."""

import json
import random
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from recipe.holderpo.atomic import write_text
from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.study.settings import RULES, RunSettings, settings_of

CACHE = Path(".cache/holderpo")


def run_one(settings: RunSettings, model_folder: Path, folder: Path) -> tuple[str, dict[str, float], float]:
    """Run in this process, and write the record; its key, accuracies and seconds."""
    from recipe.holderpo.study.lab import Run

    record = Run(settings, model_folder).run()
    write_text(folder / f"{settings.key}.json", json.dumps(record))
    return settings.key, record["accuracy"], record["seconds"]


def run_all(wanted: Iterable[RunSettings], folder: Path, known: Path, jobs: int) -> None:
    """Run what has no record yet, neither in `folder` nor in the file of `collect`, so many at a time, in order; a line for
    each that is finished."""
    from recipe.holderpo.study.tasks import ensure_start

    folder.mkdir(parents=True, exist_ok=True)
    done = {file.stem for file in folder.glob("*.json")}
    done |= {record["key"] for record in (read_records(known) if known.exists() else [])}
    missing = [settings for settings in dict.fromkeys(wanted) if settings.key not in done]
    starts = {(s.task, s.start, s.size) for s in missing}
    models = {start: ensure_start(CACHE, *start) for start in sorted(starts)}
    print(f"{len(missing)} runs to do", flush=True)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(run_one, s, models[s.task, s.start, s.size], folder) for s in missing]
        for count, future in enumerate(as_completed(futures), 1):
            key, accuracy, seconds = future.result()
            curve = " ".join(f"{value:.3f}" for value in accuracy.values())
            print(f"{count}/{len(missing)}  {key}  {curve}  {seconds:.0f} s", flush=True)


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records in the file of `collect`.

    Raises:
        ConfigError: there is no such file, or a line of it is no record.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); `run` and `collect` make it") from None
    return [read_record(line, f"line {number} of {path}") for number, line in enumerate(lines, 1)]


def read_record(text: bytes, where: str) -> dict[str, Any]:
    """A run's record, with what the tables are made of.

    Raises:
        ConfigError: it is none; where: what the message calls it.
    """
    try:
        record = json.loads(text)
        settings = settings_of(record)
        if settings.arm not in RULES or record["key"] != settings.key:
            raise ValueError("its key is not that of a run with its settings")
        numbers = [*record["accuracy"].values()]
        if not {"0", str(settings.steps)} <= {*record["accuracy"]}:
            raise ValueError("its accuracy has not the first and the last step")
        for name in ("p_mean", "last_log_ratio_std"):
            numbers += record["steps"][name]
            if len(record["steps"][name]) != settings.steps:
                raise ValueError(f"its {name} has not a number for each step")
        if not all(type(value) in (int, float) for value in numbers):
            raise ValueError("it has values that are no numbers")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ConfigError(f"{where} is no record of a run: {why}") from None
    assert isinstance(record, dict)
    return record


def collect(folder: Path, path: Path) -> int:
    """Write the records of `folder` into one file, sorted by key, with what is in the file already; their number.

    Raises:
        ConfigError: there is no such folder, or something in it, or in the file, is no record.
    """
    if not folder.is_dir():
        raise ConfigError(f"--out is {str(folder)!r}, which is no folder; allowed is that of `run`")
    known = {record["key"]: record for record in (read_records(path) if path.exists() else [])}
    for file in sorted(folder.glob("*.json")):
        record = read_record(file.read_bytes(), str(file))
        known[record["key"]] = record
    write_text(path, "".join(json.dumps(known[key], separators=(",", ":")) + "\n" for key in sorted(known)))
    return len(known)


def rerun(path: Path, count: int, seed: int) -> bool:
    """Repeat `count` random runs of the records; whether every number of theirs is the same.

    Raises:
        ConfigError: there are not as many.
    """
    records = read_records(path)
    if not 1 <= count <= len(records):
        raise ConfigError(f"--count is {count}; allowed is a whole number from 1 to the {len(records)} runs in {path}")
    from recipe.holderpo.study.lab import Run
    from recipe.holderpo.study.tasks import ensure_start

    same = True
    for record in random.Random(seed).sample(records, count):
        settings = settings_of(record)
        again = Run(settings, ensure_start(CACHE, settings.task, settings.start, settings.size)).run()
        equal = all(again[part] == record[part] for part in ("accuracy", "steps"))
        print(f"{'identical' if equal else 'DIFFERENT'}  {settings.key}", flush=True)
        same = same and equal
    return same
