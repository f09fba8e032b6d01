"""Whether a run gets on. The trainer knows in which phase of a step it is and what is being finished meanwhile; every second
it writes that into a file, which the driver reads (stalls.py).

Progress is a phase that begins or ends, a sample, a turn of an episode, a token, a micro-batch, bytes of a checkpoint: on a
busy machine they come late, in a stuck run not at all.
"""

import json
import logging
import os
import statistics
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recipe.holderpo.atomic import write_text
from recipe.holderpo.config.settings import StallSettings

logger = logging.getLogger(__name__)

PROGRESS_FILE = "progress.json"
MICRO_BATCHES = "HOLDERPO_MICRO_BATCHES"
"""Environment variable: the file that the first rank touches at its micro-batches, during which it answers no call."""
EVERY_SECONDS, SUSPENDED_SECONDS = 1.0, 30.0
START, SAVE = "start", "save_checkpoint"
REMEMBERED = 50  # durations of each phase

Source = Callable[[], Any]
"""Says something else when something was finished."""


class MicroBatches:
    """Touches the file of `MICRO_BATCHES`, once a second at most; for a hook of a module's forward pass."""

    def __init__(self, file: Path) -> None:
        self.file, self.next = file, 0.0

    def __call__(self, *_: Any) -> None:
        if (now := time.monotonic()) >= self.next:
            self.next = now + EVERY_SECONDS
            with suppress(OSError):  # a full disk, or one that is away for a moment: no reason to end a step
                self.file.touch()


@dataclass(frozen=True)
class Status:
    """Of a run, as the trainer sees it."""

    step: int
    phase: str
    seconds: float
    """Since something was finished."""
    limit_s: float | None
    """After so many seconds the run is stuck; None: never."""
    median_s: float | None
    """How long this phase has taken so far; None: it has not been finished yet."""


class Progress:
    """The trainer's phases and what is finished in them. `phase` and `note` may be called from any thread.

    Args:
        settings: group `stall` of the config.
        micro_batches: the file that `MicroBatches` touches.
        clock: seconds; not the time of day, which may be set back.
    """

    def __init__(
        self, settings: StallSettings, micro_batches: Path, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings, self._clock, self._lock = settings, clock, threading.Lock()
        self._phases: list[tuple[str, float]] = [(START, clock())]  # the innermost last
        self._last = clock()
        self._sources: dict[str, Source] = {"micro-batches": lambda: modified(micro_batches)}
        self._seen: dict[Hashable, Any] = {}
        self._durations: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        self.step = 0

    @contextmanager
    def phase(self, name: str, source: Source | None = None) -> Iterator[None]:
        """A part of a step; a phase in it ends before it does. The source is asked as long as it lasts."""
        with self._lock:
            if source is not None:
                self._sources[name] = source
            began = self._last = self._clock()
            self._phases.append((name, began))
        try:
            yield
        finally:
            with self._lock:
                self._last = self._clock()
                self._phases.remove((name, began))
                self._sources.pop(name, None)
                self._durations[name].append(self._last - began)

    def note(self, source: Hashable, value: Any) -> None:
        """What a source of progress says now: it gets on if that is not what it said before."""
        with self._lock:
            if self._seen.get(source) != value:
                self._seen[source], self._last = value, self._clock()

    def forgive(self, seconds: float) -> None:
        """So long this process was not running at all: suspended, and with it the others."""
        with self._lock:
            self._last += seconds

    def ask_sources(self) -> None:
        """Some ask a disk, which may not answer."""
        with self._lock:
            sources = dict(self._sources)
        for name, source in sources.items():
            self.note(name, source())

    def status(self) -> Status:
        with self._lock:
            name, _ = self._phases[-1]
            median = statistics.median(self._durations[name]) if self._durations[name] else None
            return Status(self.step, name, self._clock() - self._last, self._limit(name, median or 0.0), median)

    def _limit(self, phase: str, median: float) -> float | None:
        if self._settings.floor_s is None:
            return None
        if phase == START:
            return self._settings.start_s
        return max(self._settings.floor_s, self._settings.medians * median)


@contextmanager
def progress_reports(progress: Progress, run_dir: Path) -> Iterator[None]:
    """Write the status into the run's folder every second, in a thread; none where the disk does not answer, which the driver
    sees."""
    done = threading.Event()

    def write() -> None:
        before = time.monotonic()
        while not done.wait(EVERY_SECONDS):
            before, pause = time.monotonic(), time.monotonic() - before
            if pause > SUSPENDED_SECONDS:
                progress.forgive(pause)
            try:
                progress.ask_sources()
                write_status(run_dir, progress.status())
            except Exception:  # without reports the run would be taken for stuck
                logger.exception("progress could not be reported")

    thread = threading.Thread(target=write, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()


def micro_batches(run_dir: Path) -> Path:
    return run_dir / "micro_batches"


def write_status(run_dir: Path, status: Status) -> None:
    file = run_dir / PROGRESS_FILE
    try:
        write_text(file, json.dumps(asdict(status)))
    except OSError:  # a full disk; a file can be touched there, which says that the trainer is there
        with suppress(OSError):
            file.touch()


def read_status(run_dir: Path) -> tuple[Status | None, int]:
    """The last status, and when it was written, in ns on the trainer's clock; None, 0: nothing has been written yet."""
    file = run_dir / PROGRESS_FILE
    try:
        return Status(**json.loads(file.read_text())), modified(file)
    except FileNotFoundError:
        return None, 0


def modified(file: Path) -> int:
    """When a file was last changed, in ns; 0: it is not there."""
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


def bytes_below(folder: Path) -> int:
    """The size of all files below a folder, 0 where there is none; files that go meanwhile do not count."""
    total = 0
    for parent, _, names in os.walk(folder):  # which passes over folders that go meanwhile
        for name in names:
            with suppress(OSError):
                total += os.stat(os.path.join(parent, name)).st_size
    return total
