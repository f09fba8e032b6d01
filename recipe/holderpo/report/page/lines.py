"""Files of lines of JSON that a run has written for some of its steps, each named after its step."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from recipe.holderpo import atomic


def of_steps(folder: Path) -> list[Path]:
    """The files STEP.jsonl of a folder, in the order of their steps."""
    return sorted((file for file in folder.glob("*.jsonl") if file.stem.isdecimal()), key=lambda file: int(file.stem))


def objects(file: Path, fits: Callable[[dict[str, Any]], bool] = lambda row: True) -> Iterator[dict[str, Any]]:
    """The lines that are objects of JSON and fit; how many others there are is said on standard error."""
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
        if isinstance(row, dict) and fits(row):
            yield row
        else:
            damaged += 1
    if damaged:
        print(f"note: {file}: {damaged} lines are damaged, and left out", file=sys.stderr)


def shortened(value: Any, longest: int) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= longest else f"{text[:longest]} ... ({len(text) - longest} more characters)"
