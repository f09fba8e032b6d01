"""What the user watches: one line per step, and on a terminal a bar with the remaining time below the lines."""

import math
import os
import sys
import threading
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import TextIO

import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from recipe.holderpo.report import effect
from recipe.holderpo.report.record import accuracy, parse_line

LINE_WIDTH = 120
POLL_SECONDS = 0.2
STARTING = "starting Ray, vLLM and the trainer ..."


def step_line(metrics: dict[str, float], total_steps: int) -> str:
    """One step as a line of at most 120 columns (up to 9999 steps and |p| < 100), from a record of `read_metrics`.

    Only what the record holds is named: validation where there was one, p and the ratios where the loss is Hölder's.
    The seconds are those of the step without its validation.
    """
    width = len(str(total_steps))
    parts = [f"step {int(metrics['step']):{width + 1}d}/{total_steps}"]
    if "holder/p" in metrics:
        parts.append(f"p {metrics['holder/p']:+.2f}")
    if "critic/score/mean" in metrics:
        parts.append(f"reward {_short(metrics['critic/score/mean'])}")
    sampled, greedy = accuracy(metrics, greedy=False), accuracy(metrics, greedy=True)
    if sampled is not None:
        parts.append(f"acc {sampled:.2f}" + ("" if greedy is None else f" (greedy {greedy:.2f})"))
    elif greedy is not None:
        parts.append(f"greedy acc {greedy:.2f}")
    if "holder/p" in metrics and "holder/rho_min" in metrics:
        parts.append(f"rho {_short(metrics['holder/rho_min'])}-{_short(metrics['holder/rho_max'])}")
    # A baseline's own; it is measured as if it had the sequence clip, too.
    clip_fraction = metrics.get("actor/pg_clipfrac", metrics.get("holder/clip_fraction"))
    if clip_fraction is not None:
        parts.append(f"clip {clip_fraction:.0%}")
    if "actor/entropy" in metrics:
        parts.append(f"entropy {_short(metrics['actor/entropy'])}")
    if "actor/grad_norm" in metrics:
        parts.append(f"grad {_short(metrics['actor/grad_norm'])}")
    if "timing_s/step" in metrics:
        parts.append(f"{_seconds(metrics['timing_s/step'])}")
    if metrics.get("checkpoint/failed"):
        parts.append("SAVE FAILED")
    if metrics.get("guard/nonfinite_updates"):
        parts.append("NOT FINITE")
    line = "  ".join(parts)
    return line if len(line) <= LINE_WIDTH else " ".join(parts)


def _short(value: float) -> str:
    """Two decimals, or two significant figures where these would say nothing or take too much room."""
    if not math.isfinite(value) or value == 0 or 0.005 <= abs(value) < 999.5:
        return f"{value:.2f}" if abs(value) < 99.995 else f"{value:.0f}"
    return f"{value:.0e}"


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 999.95 else f"{value:.0f} s"


class Progress:
    """Follows a metrics.jsonl that other processes write, from a background thread, until the `with` block is left.

    Prints `step_line` for each line written after the block was entered; lines that were there before, and those that
    `RunRecord.resume_from` keeps of them, are not printed again. On a terminal a bar below the lines shows the elapsed
    and the remaining time; elsewhere the output is plain lines without control characters. What was written before the
    end of the block is printed, whatever the reason for leaving it.

    Args:
        metrics_path: need not exist yet.
        total_steps: global step of the run's last step.
        clip_level: `holder.clip_level` of a run with the Hölder loss, for which a line says, once, that p or the clip has no
            effect (`report.effect`); None for other losses.
        started: unix seconds from which the time to the first step is counted; this process's start by default.
        stream: where to write; standard output by default.
    """

    def __init__(
        self,
        metrics_path: str | Path,
        total_steps: int,
        stream: TextIO | None = None,
        started: float | None = None,
        clip_level: str | None = None,
    ):
        self._started = psutil.Process().create_time() if started is None else started
        self._follower = Follower(metrics_path)
        self._total_steps = total_steps
        self._clip_level = clip_level
        self._trained: deque[dict[str, float]] = deque(maxlen=effect.STEPS)
        self._noted: set[str] = set()
        self._stream = sys.stdout if stream is None else stream
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._bar = _starting_bar(self._stream) if self._stream.isatty() else None
        self._waiting = True  # for the first step

    def __enter__(self) -> "Progress":
        self._follower.new_records()  # an earlier part of the run
        if self._bar is not None:
            self._task = self._bar.add_task("", total=None)
            self._bar.start()
        else:
            print(STARTING, file=self._stream, flush=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._bar is not None:
            self._bar.live.transient = self._waiting  # "starting ..." is deleted: nothing is starting any more
            self._bar.stop()

    def _run(self) -> None:
        stopping = False
        while not stopping:
            stopping = self._stop.wait(POLL_SECONDS)  # once more after the stop: what was written last
            for record in self._follower.new_records():
                self._show(record)
            if self._bar is not None:
                self._bar.refresh()

    def _show(self, record: dict[str, float]) -> None:
        step = int(record["step"])
        if self._waiting and step > 0:
            self._waiting = False
            self._print(f"first step done {record['time'] - self._started:.0f} s after the start")
            if self._bar is not None:
                self._bar.columns = _step_columns()
        if self._bar is not None and not self._waiting:
            self._bar.update(self._task, completed=step, total=self._total_steps)
        self._print(step_line(record, self._total_steps))
        if self._clip_level is not None and step > 0:
            self._trained.append(record)
            for name, line in effect.without_effect([*self._trained], self._clip_level).items():
                if name not in self._noted:
                    self._noted.add(name)
                    self._print(line)

    def _print(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, soft_wrap=True)  # the terminal wraps a line that is too long for it
        else:
            print(text, file=self._stream, flush=True)


def _starting_bar(stream: TextIO) -> Bar:
    """The line below the others until the first step; from then on its columns are `_step_columns`."""
    return Bar(
        STARTING,
        TimeElapsedColumn(),
        console=Console(file=stream, markup=False, emoji=False, highlight=False, force_jupyter=False),
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
        speed_estimate_period=math.inf,  # the mean over the steps that this process saw; a step may take minutes
    )


def _step_columns() -> tuple[str | ProgressColumn, ...]:
    bar, done, elapsed, remaining = BarColumn(None), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    return "{task.percentage:3.0f}%", bar, done, "steps,", elapsed, "elapsed,", remaining, "left"


class Follower:
    """Reads what is new in a metrics.jsonl, also when the file is replaced by a shorter one in between (resume)."""

    def __init__(self, path: str | Path):
        self._path = Path(path)
        self._inode = -1
        self._offset = 0
        self._seen: set[tuple[float, float]] = set()  # (step, time): the same in lines that a resume keeps

    def new_records(self) -> list[dict[str, float]]:
        """Records of the complete lines that no earlier call returned, in the order of the file. No file: none."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return []
        with file:
            status = os.fstat(file.fileno())
            if status.st_ino != self._inode or status.st_size < self._offset:
                self._inode, self._offset = status.st_ino, 0
            file.seek(self._offset)
            complete, newline, _unfinished = file.read().rpartition(b"\n")
        self._offset += len(complete) + len(newline)
        records = [parse_line(line) for line in complete.split(b"\n")] if newline else []
        new = [record for record in records if (record["step"], record["time"]) not in self._seen]
        self._seen.update((record["step"], record["time"]) for record in new)
        return new
