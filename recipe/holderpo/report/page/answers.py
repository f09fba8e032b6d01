"""The answers of validations that the page shows: verl's files generations/STEP.jsonl."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipe.holderpo.report.page.lines import objects, of_steps, shortened
from recipe.holderpo.rewards.grading.answers import extract_answer

BYTES = 1_500_000
"""Of all texts, at most."""
LONGEST = 6_000
"""Characters of a text that are shown."""

WHY = {
    "truncated": "cut off at the length limit",
    "no_answer": "no answer was found",
    "timeout": "the comparison with the truth took too long",
    "crash": "the comparison with the truth ran out of memory or died",
    "unreadable": "neither the truth's text nor an expression",
}
"""The faults of `recipe.holderpo.rewards.math`."""

VERLS = {"input": "input", "output": "output", "truth": "gts"}

Json = dict[str, Any]


def answers(runs: Mapping[str, Path]) -> list[Json]:
    """For each run, of its first and its last two validations: {"run", "step", "all": how many there are, "rows": the first
    for which there is room}. Lines that are no objects of JSON are left out, not counted, and named on standard error."""
    shown = [(name, file) for name, folder in runs.items() for file in _shown(folder / "generations")]
    return [{"run": name, "step": int(file.stem), **_rows(file, BYTES // len(shown))} for name, file in shown]


def _shown(folder: Path) -> list[Path]:
    files = of_steps(folder)
    return files[:1] + files[-2:] if len(files) > 2 else files


def _rows(file: Path, room: int) -> Json:
    rows, count = list[Json](), 0
    for row in objects(file):
        count += 1
        made: Json = {name: shortened(row.get(key), LONGEST) for name, key in VERLS.items()}
        made["score"] = _number(row.get("score"))
        made |= _verdict(row)
        room -= len(json.dumps(made))
        if room >= 0:
            rows.append(made)
    return {"all": count, "rows": rows}


def _verdict(row: Json) -> Json:
    """The answer that the grader of mathematics has read, and why it scored so; {} for another reward function's rows."""
    if not row.keys() >= WHY.keys():
        return {}
    fault = next((name for name in WHY if row[name]), None)
    equal = "the same as the truth" if row.get("acc") else "another answer than the truth"
    answer = extract_answer(str(row.get("output"))) or ""
    return {"answer": shortened(answer, LONGEST), "why": WHY[fault] if fault else equal}


def _number(value: Any) -> float | str | None:
    """Also of what JSON has no number for."""
    if isinstance(value, int | float) and math.isfinite(value):
        return value
    return None if value is None else str(value)
