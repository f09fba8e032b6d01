"""The groups of tokens that the page shows: the run's files tokens/STEP.jsonl, which its trainer has kept."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipe.holderpo.report.events import TOKENS
from recipe.holderpo.report.page.lines import objects, of_steps, shortened

BYTES = 2_000_000
"""Of all groups, at most."""
LONGEST_PROMPT = 2_000
LIMITS = ("inf", "-inf")

Json = dict[str, Any]


def tokens(runs: Mapping[str, tuple[Path, Json, float]]) -> list[Json]:
    """For each run, of the first, the middle and the last step that it kept: {"run", "step", "clip": level, low and high of
    its loss, "samples": as many as there is room for}. Lines that are no such samples are left out, and
    named on standard error.

    Args:
        runs: name -> the run's folder, its settings, full key -> value, and its last step: later ones are of a training
            that it went back from.
    """
    shown = [
        (name, config, file)
        for name, (folder, config, last) in runs.items()
        for file in _first_middle_last(folder / TOKENS, last)
    ]
    return [
        {"run": name, "step": int(file.stem), "clip": _clip(config), "samples": _samples(file, BYTES // len(shown))}
        for name, config, file in shown
    ]


def _first_middle_last(folder: Path, last: float) -> list[Path]:
    files = [file for file in of_steps(folder) if int(file.stem) <= last]
    return [files[i] for i in sorted({0, len(files) // 2, len(files) - 1})] if files else []


def _clip(config: Json) -> Json:
    """Of the Hölder loss; of a baseline, what that loss would have with the same ratios."""
    low, high = (config.get(f"actor_rollout_ref.actor.clip_ratio_{side}") for side in ("low", "high"))
    ratios = {"low": low if _is_number(low) else 0.2, "high": high if _is_number(high) else 0.2}
    return {"level": str(config.get("holder.clip_level", "sequence")), **ratios}


def _samples(file: Path, room: int) -> list[Json]:
    found = []
    for row in objects(file, _is_sample):
        made = {**row, "prompt": shortened(row["prompt"], LONGEST_PROMPT)}
        room -= len(json.dumps(made, ensure_ascii=False).encode())
        if room < 0:
            break
        found.append(made)
    return found


def _is_sample(row: Json) -> bool:
    """Whether it is one whose numbers can be computed with."""
    columns = [row.get(name) for name in ("tokens", "mask", "log_ratio", "log_prob")]
    if not all(isinstance(column, list) and column and len(column) == len(columns[0] or []) for column in columns):
        return False
    texts, mask, log_ratio, log_prob = columns
    return (
        all(isinstance(row.get(name), str) for name in ("group", "sample", "prompt"))
        and all(isinstance(text, str) for text in texts or ())
        and all(value in (0, 1) for value in mask or ())
        and all(_is_number(value) for value in [*(log_ratio or ()), *(log_prob or ())])
        and all(_is_number(row.get(name)) for name in ("advantage", "reward"))
        and (row.get("p") is None or row["p"] in LIMITS or _is_number(row["p"]))
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
