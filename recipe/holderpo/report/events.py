"""What happened to a run beside its steps: where it stopped, resumed, and restarted by itself, and why."""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import NamedTuple

from recipe.holderpo import atomic

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
    """In their order; those of a run that has none, or of damaged lines, are left out."""
    file, found = run_dir / EVENTS_FILE, []
    for line in atomic.complete_lines(file) if file.is_file() else ():
        try:
            made = json.loads(line)
            found.append(Event(int(made["step"]), str(made["text"])))
        except (ValueError, TypeError, KeyError):
            continue
    return found
