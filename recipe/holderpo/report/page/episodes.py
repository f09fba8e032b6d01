"""The episodes of ALFWorld's validations that the page shows as dialogues."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipe.holderpo.report.page.lines import shortened
from recipe.holderpo.tasks.alfworld.report import TRANSCRIPTS, read_transcripts
from recipe.holderpo.tasks.alfworld.task_types import TASKS

BYTES = 1_500_000
"""Of all episodes, at most."""
LONGEST = 4_000

Json = dict[str, Any]


def episodes(runs: Mapping[str, Path]) -> list[Json]:
    """For each run that has some, of its last validation: {"run", "step", "all": how many there are, "rows": the first for
    which there is room, those that were lost before those that were won}. What cannot be read is named on standard error."""
    found, folders = [], {name: folder for name, folder in runs.items() if (folder / TRANSCRIPTS).is_dir()}
    for name, folder in folders.items():
        try:
            step, last = max(read_transcripts(folder).items())
            found.append({"run": name, "step": step, **_rows(last, BYTES // len(folders))})
        except (OSError, ValueError, KeyError, TypeError) as error:
            print(f"note: {folder / TRANSCRIPTS} is left out: {type(error).__name__} {error}", file=sys.stderr)
    return found


def _rows(every: list[Json], room: int) -> Json:
    rows = []
    for episode in sorted(every, key=lambda one: bool(one["won"])):
        made = {
            "task": shortened(episode["task"], LONGEST),
            "kind": TASKS.get(episode["task_type"], str(episode["task_type"])),
            "split": str(episode["split"]),
            "won": bool(episode["won"]),
            "steps": [_step(step) for step in episode["steps"]],
        }
        room -= len(json.dumps(made))
        if room < 0:
            break
        rows.append(made)
    return {"all": len(every), "rows": rows}


def _step(step: Json) -> Json:
    made: Json = {name: shortened(step.get(name), LONGEST) for name in ("saw", "answer")}
    return made | {
        "admissible": bool(step.get("admissible")),
        "commands": [str(one) for one in step.get("commands", ())],
    }
