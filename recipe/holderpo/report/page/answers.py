"""The answers of validations that the page shows: verl's files generations/STEP.jsonl."""

import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from recipe.holderpo import atomic

BYTES = 1_500_000
"""Of all texts, at most."""
LONGEST = 6_000
"""Characters of a text that are shown."""

VERLS = {"input": "input", "output": "output", "truth": "gts"}

Json = dict[str, Any]


def answers(runs: Mapping[str, Path]) -> list[Json]:
    """For each run, of its first and its last two validations: {"run", "step", "all": how many there are, "rows": the first
    for which there is room}. Lines that are no objects of JSON are left out, not counted, and named on standard error."""
    shown = [(name, file) for name, folder in runs.items() for file in _shown(folder / "generations")]
    return [{"run": name, "step": int(file.stem), **_rows(file, BYTES // len(shown))} for name, file in shown]


def _shown(folder: Path) -> list[Path]:
    files = sorted((file for file in folder.glob("*.jsonl") if file.stem.isdecimal()), key=lambda file: int(file.stem))
    return files[:1] + files[-2:] if len(files) > 2 else files


def _rows(file: Path, room: int) -> Json:
    rows, count = list[Json](), 0
    for row in _objects(file):
        count += 1
        made: Json = {name: _shortened(row.get(key)) for name, key in VERLS.items()}
        made["score"] = _number(row.get("score"))
        room -= len(json.dumps(made))
        if room >= 0:
            rows.append(made)
    return {"all": count, "rows": rows}


def _objects(file: Path) -> Iterator[Json]:
    try:
        lines = atomic.complete_lines(file)
    except OSError as error:
        print(f"note: {file} is left out: {error.strerror}", file=sys.stderr)
        return
    damaged = 0
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            yield row
        else:
            damaged += 1
    if damaged:
        print(f"note: {file}: {damaged} lines are damaged, and left out", file=sys.stderr)


def _shortened(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ... ({len(text) - LONGEST} more characters)"


def _number(value: Any) -> float | str | None:
    """Also of what JSON has no number for."""
    if isinstance(value, int | float) and math.isfinite(value):
        return value
    return None if value is None else str(value)
