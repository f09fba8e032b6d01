"""Runs of the study as files: what is missing is run, several at a time; records are joined; runs are repeated."""

import json
import random
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from recipe.holderpo.atomic import write_text
from recipe.holderpo.study.settings import RunSettings, settings_of

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
    return [json.loads(line) for line in path.read_text().splitlines()]


def collect(folder: Path, path: Path) -> int:
    """Write the records of `folder` into one file, sorted by key, with what is in the file already; their number."""
    known = {record["key"]: record for record in (read_records(path) if path.exists() else [])}
    known |= {record["key"]: record for record in (json.loads(file.read_text()) for file in folder.glob("*.json"))}
    write_text(path, "".join(json.dumps(known[key], separators=(",", ":")) + "\n" for key in sorted(known)))
    return len(known)


def rerun(path: Path, count: int, seed: int) -> bool:
    """Repeat `count` random runs of the records; whether every number of theirs is the same."""
    from recipe.holderpo.study.lab import Run
    from recipe.holderpo.study.tasks import ensure_start

    same = True
    for record in random.Random(seed).sample(read_records(path), count):
        settings = settings_of(record)
        again = Run(settings, ensure_start(CACHE, settings.task, settings.start, settings.size)).run()
        equal = all(again[part] == record[part] for part in ("accuracy", "steps"))
        print(f"{'identical' if equal else 'DIFFERENT'}  {settings.key}", flush=True)
        same = same and equal
    return same
