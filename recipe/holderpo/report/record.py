"""The run's record, `metrics.jsonl`: one JSON object per line, each step once however often the run was resumed.

docs/metrics.md describes the keys. Only the standard library is imported: the file is followed and read by processes
that have no use for torch, Ray or verl.
"""

import json
import math
import numbers
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipe.holderpo import atomic
from recipe.holderpo.config.errors import ConfigError

METRICS_FILE = "metrics.jsonl"

# JSON has no NaN and no infinities. p = inf is a legal value and a NaN gradient norm must stay visible, so null would
# lose something. Python's float() reads these three names.
_NON_FINITE = ("NaN", "Infinity", "-Infinity")

_ACCURACY = re.compile(r"val-core/(?P<source>.+)/acc/mean@\d+")
GREEDY_SUFFIX = "_greedy"


class RunRecord:
    """Appends to `<run_dir>/metrics.jsonl`; the folder is made if there is none.

    Attributes:
        resumed_at: the global step that the run resumed from; 0 for a fresh run, None before `resume_from`.
        last_step: the step of the last line that `resume_from` kept or `step` wrote; None without one.
        path: the file.
    """

    def __init__(self, run_dir: str | Path):
        self.resumed_at: int | None = None
        self.last_step: int | None = None
        self._held: dict[str, Any] = {}
        self.path = Path(run_dir) / METRICS_FILE
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def resume_from(self, step: int) -> None:
        """Call once before the first `step`: the lines of later steps are dropped, since this run records them again.

        So is an unfinished last line (the process was killed while writing). The file is replaced atomically.

        Args:
            step: the restored global step; 0 is a fresh run, which starts with an empty file.
        """
        old = read_metrics(self.path) if step > 0 and self.path.exists() else []
        kept = [record for record in old if record["step"] <= step]
        atomic.write_text(self.path, "".join(_line(record) for record in kept), sync=True)
        self.resumed_at = step
        self.last_step = int(kept[-1]["step"]) if kept else None

    @property
    def lacks_line(self) -> bool:
        """Whether the step that the run resumed at (0: before the first) has no line yet, as when the run ended between its
        checkpoint and the end of its validation."""
        return self.resumed_at is not None and (self.last_step is None or self.last_step < self.resumed_at)

    def hold(self, metrics: dict[str, Any]) -> None:
        """Keep the metrics of the step that a checkpoint is saved of, whose line is not written yet, for `state_dict`."""
        self._held = plain_metrics(metrics)

    def write_held_line(self, validation: Mapping[str, Any] | None = None) -> None:
        """Append the line of the step that the run resumed at: the metrics restored with it, and those of its validation."""
        assert self.resumed_at is not None
        self.step(self.resumed_at, from_plain(self._held) | dict(validation or {}))

    def state_dict(self) -> dict[str, Any]:
        return {"held": self._held}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._held = state["held"]

    def step(self, step: int, metrics: dict[str, Any]) -> None:
        """Append one line: "step", "time" (unix seconds) and the metrics, on disk when this returns.

        Args:
            step: global step, above `last_step`; 0 for the validation before training.
            metrics: scalars by name. Python and NumPy integers and floats are taken; NaN and infinities are written as
                the strings "NaN", "Infinity", "-Infinity". Names that begin with "_" are left out: verl passes notes to
                its own logger under such names.

        Raises:
            TypeError: a value is not a number.
            ValueError: the last line is of this step or a later one.
        """
        if self.last_step is not None and step <= self.last_step:
            raise ValueError(f"step {step} cannot follow step {self.last_step}: each step is recorded once, in order")
        line = _line({"step": step, "time": time.time()} | metrics)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self.last_step = step


def plain_metrics(metrics: dict[str, Any]) -> dict[str, int | float | str]:
    """Metrics as JSON can hold them, without those whose names begin with "_".

    Raises:
        TypeError: a value is not a number, as for `RunRecord.step`.
    """
    return {key: _plain(key, value) for key, value in metrics.items() if not key.startswith("_")}


def _line(record: dict[str, Any]) -> str:
    return json.dumps(plain_metrics(record), allow_nan=False) + "\n"


def _plain(key: str, value: Any) -> int | float | str:
    """A number that JSON can hold. NumPy registers its scalar types with `numbers`, so NumPy itself is not needed."""
    if isinstance(value, numbers.Integral):
        return int(value)
    if not isinstance(value, numbers.Real):
        raise TypeError(
            f"metric {key!r} must be an int or a float (Python's or NumPy's), got {type(value).__name__}: {value!r}"
        )
    number = float(value)
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    return number


def read_metrics(path: str | Path) -> list[dict[str, float]]:
    """The records of a metrics.jsonl in the order of the file, non-finite values as floats again.

    A last line that is still being written, or was left unfinished by a kill, is left out.

    Raises:
        FileNotFoundError: no such file.
        ConfigError: it cannot be read, or any other line is none of a record's, or its step does not come after the one
            before; the message names file and line.
    """
    try:
        lines = atomic.complete_lines(Path(path))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    records = list[dict[str, float]]()
    for number, line in enumerate(lines, start=1):
        try:
            record = parse_line(line)
            if records and record["step"] <= records[-1]["step"]:
                raise ValueError(
                    f"step {record['step']} after step {records[-1]['step']}: each is recorded once, in order"
                )
        except ValueError as error:
            raise ConfigError(f"{path}, line {number}: {error}; allowed are lines as the run wrote them") from None
        records.append(record)
    return records


def read_run(run_dir: str | Path) -> list[dict[str, float]]:
    """The records of a run, of which there is at least one.

    Raises:
        ConfigError: the folder has no record that can be read, or an empty one.
    """
    path = Path(run_dir) / METRICS_FILE
    try:
        records = read_metrics(path)
    except FileNotFoundError:
        raise ConfigError(f"{run_dir} has no {METRICS_FILE}; allowed is the folder of a run") from None
    if not records:
        raise ConfigError(f"no step is recorded in {path}; allowed is a run that has finished its first")
    return records


def last_step(path: str | Path) -> int:
    """The highest step in a metrics.jsonl; 0 where there is none yet."""
    return max((int(record["step"]) for record in read_metrics(path)), default=0) if Path(path).exists() else 0


def parse_line(line: str | bytes) -> dict[str, float]:
    """One line of metrics.jsonl.

    Raises:
        ValueError: it is not a JSON object of numbers with a "step", from 0.
    """
    try:
        record = json.loads(line if isinstance(line, str) else line.decode())
        if not isinstance(record, dict) or "step" not in record:
            raise ValueError(f'not a JSON object with a "step": {line[:80]!r}')
        record = from_plain(record)
        for key, value in record.items():
            if type(value) not in (int, float):
                raise ValueError(f"{key} is {value!r:.80}, which is no number")
            float(value)
    except (RecursionError, OverflowError) as error:  # brackets, or digits, without end
        raise ValueError(f"{type(error).__name__}: {error}") from None
    if not (record["step"] >= 0 and float(record["step"]).is_integer()):
        raise ValueError(f"step is {record['step']!r}, which is no whole number from 0")
    return record


def from_plain(metrics: dict[str, Any]) -> dict[str, float]:
    """The inverse of `plain_metrics`."""
    return {key: float(value) if value in _NON_FINITE else value for key, value in metrics.items()}


def accuracy(metrics: dict[str, float], *, greedy: bool) -> float | None:
    """Validation accuracy of a step in [0, 1], or None where it has none.

    The mean over data sources of verl's `val-core/<data source>/acc/mean@n`. Data sources that end in "_greedy" are
    those sampled at temperature 0.
    """
    values = []
    for key, value in metrics.items():
        match = _ACCURACY.fullmatch(key) if key.startswith("val-core/") else None
        if match is not None and match["source"].endswith(GREEDY_SUFFIX) == greedy:
            values.append(value)
    return sum(values) / len(values) if values else None
