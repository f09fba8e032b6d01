"""What happened to a run beside its steps: where it stopped, resumed, and restarted by itself, and why."""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from recipe.holderpo.report.page.lines import objects

EVENTS_FILE, TOKENS = "events.jsonl", "tokens"


class Event(NamedTuple):
    step: int
    """The last step that counts: the one that the run goes on from, or stopped after."""
    text: str


def note_event(run_dir: Path, step: int, text: str) -> None:
    """Append to the run's events. Where that cannot be done it is said, and the run goes on."""
    try:
        with (run_dir / EVENTS_FILE).open("a") as lines:
            lines.write(json.dumps({"time": time.time(), "step": step, "text": text}) + "\n")
    except OSError as error:
        print(f"note: {run_dir / EVENTS_FILE} cannot be written: {error.strerror}", file=sys.stderr, flush=True)


def forget(run_dir: Path) -> None:
    """Delete what an earlier training in this folder has left for its page: the run begins again."""
    (run_dir / EVENTS_FILE).unlink(missing_ok=True)
    shutil.rmtree(run_dir / TOKENS, ignore_errors=True)


def read_events(run_dir: Path) -> list[Event]:
    """In their order; none of a run without any. Damaged lines are left out, and said on standard error."""
    file = run_dir / EVENTS_FILE
    return [Event(row["step"], row["text"]) for row in objects(file, _is_event)] if file.is_file() else []


def _is_event(row: dict[str, Any]) -> bool:
    return isinstance(row.get("step"), int) and isinstance(row.get("text"), str)
