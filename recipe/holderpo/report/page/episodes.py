"""The episodes of validations that the page shows as dialogues, of tasks that have some."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipe.holderpo.report.page.lines import shortened
from recipe.holderpo.tasks.registry import load, tasks

BYTES = 1_500_000
"""Of all episodes, at most."""
LONGEST = 4_000

Json = dict[str, Any]


def episodes(runs: Mapping[str, Path]) -> list[Json]:
    """For each run that has some, of its last validation: {"run", "step", "all": how many there are, "rows": the first for
    which there is room}. What cannot be read is named on standard error."""
    found = []
    for task in tasks().values():
        for name, folder in runs.items() if task.episodes else ():
            try:
                if (last := load(str(task.episodes))(folder)) is not None:
                    found.append((name, last[0], [_row(episode) for episode in last[1]]))
            except (OSError, ValueError, KeyError, TypeError) as error:
                print(f"note: the episodes of {folder} are left out: {type(error).__name__} {error}", file=sys.stderr)
    return [
        {"run": name, "step": step, "all": len(rows), "rows": _that_fit(rows, BYTES // len(found))}
        for name, step, rows in found
    ]


def _that_fit(rows: list[Json], room: int) -> list[Json]:
    found = []
    for row in rows:
        room -= len(json.dumps(row))
        if room < 0:
            break
        found.append(row)
    return found


def _row(episode: Json) -> Json:
    texts = {name: shortened(episode[name], LONGEST) for name in ("task", "kind", "split")}
    return {**texts, "won": bool(episode["won"]), "steps": [_step(step) for step in episode["steps"]]}


def _step(step: Json) -> Json:
    made: Json = {name: shortened(step.get(name), LONGEST) for name in ("saw", "answer")}
    return made | {
        "admissible": bool(step.get("admissible")),
        "commands": [str(one) for one in step.get("commands", ())],
    }
