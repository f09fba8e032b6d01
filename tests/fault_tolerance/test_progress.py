"""What counts as progress, and after how long without it a run is taken for stuck."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe.holderpo.atomic import part_of
from recipe.holderpo.config.settings import StallSettings
from recipe.holderpo.fault_tolerance.progress import (
    PROGRESS_FILE,
    MicroBatches,
    Progress,
    Status,
    bytes_below,
    progress_reports,
    read_status,
    write_status,
)
from recipe.holderpo.fault_tolerance.stalls import Look, why_stuck

SETTINGS = StallSettings(start_s=1000.0, floor_s=100.0, medians=4.0)


class Clock:
    """Seconds, as the test says."""

    def __init__(self) -> None:
        self.now = 5000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def progress(clock: Clock, tmp_path: Path) -> Progress:
    return Progress(SETTINGS, tmp_path / "micro_batches", clock)


def spend(progress: Progress, clock: Clock, phase: str, seconds: float) -> None:
    with progress.phase(phase):
        clock.now += seconds


def test_a_phases_limit_follows_its_own_median(progress: Progress, clock: Clock) -> None:
    for gen, save in ((10.0, 1.0), (70.0, 1.0), (30.0, 1.0)):
        spend(progress, clock, "gen", gen)
        spend(progress, clock, "save_checkpoint", save)
    with progress.phase("gen"):
        assert progress.status() == Status(step=0, phase="gen", seconds=0.0, limit_s=120.0, median_s=30.0)
    with progress.phase("save_checkpoint"):
        assert progress.status().limit_s == 100.0, "4 x 1 s is below the floor"
    with progress.phase("testing"):
        assert progress.status() == Status(step=0, phase="testing", seconds=0.0, limit_s=100.0, median_s=None)


def test_the_innermost_phase_counts_and_its_end_is_progress(progress: Progress, clock: Clock) -> None:
    assert (progress.status().phase, progress.status().limit_s) == ("start", 1000.0)
    with progress.phase("step"):
        clock.now += 7
        with progress.phase("gen"):
            clock.now += 3
            assert (progress.status().phase, progress.status().seconds) == ("gen", 3.0)
        assert (progress.status().phase, progress.status().seconds) == ("step", 0.0)
    assert progress.status().phase == "start"


def test_only_what_changes_is_progress(progress: Progress, clock: Clock) -> None:
    progress.note("a worker", (3, 0))
    for _ in range(5):
        clock.now += 10
        progress.note("a worker", (3, 0))
    assert progress.status().seconds == 50.0
    progress.note("a worker", (3, 1))
    assert progress.status().seconds == 0.0
    clock.now += 10
    progress.note("another", (3, 1))
    assert progress.status().seconds == 0.0


def test_a_phases_own_source_is_asked_while_it_lasts(progress: Progress, clock: Clock, tmp_path: Path) -> None:
    with progress.phase("save_checkpoint", lambda: bytes_below(tmp_path)):
        progress.ask_sources()
        clock.now += 60
        progress.ask_sources()
        assert progress.status().seconds == 60.0
        (tmp_path / "deep").mkdir()
        (tmp_path / "deep" / "shard").write_bytes(bytes(12))
        progress.ask_sources()
        assert progress.status().seconds == 0.0 and bytes_below(tmp_path) == 12
    clock.now += 5
    (tmp_path / "deep" / "other").write_bytes(bytes(12))
    progress.ask_sources()
    assert progress.status().seconds == 5.0


def test_micro_batches_are_progress(progress: Progress, clock: Clock, tmp_path: Path) -> None:
    hook = MicroBatches(tmp_path / "micro_batches")
    progress.ask_sources()
    clock.now += 60
    hook("module", "inputs")
    progress.ask_sources()
    assert progress.status().seconds == 0.0


def test_micro_batches_touch_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr("recipe.holderpo.fault_tolerance.progress.time.monotonic", clock)
    touched: Iterator[int] = iter(range(100))
    hook = MicroBatches(tmp_path / "file")
    monkeypatch.setattr(Path, "touch", lambda self: next(touched))
    for _ in range(30):
        hook()
        clock.now += 0.1
    assert next(touched) == 3


def test_the_status_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_status(tmp_path) == (None, 0)
    status = Status(step=3, phase="gen", seconds=1.5, limit_s=None, median_s=None)
    write_status(tmp_path, status)
    read, written = read_status(tmp_path)
    assert read == status and written == (tmp_path / PROGRESS_FILE).stat().st_mtime_ns


def test_a_disk_without_room_still_shows_that_the_trainer_is_there(tmp_path: Path) -> None:
    status = Status(step=3, phase="gen", seconds=1.5, limit_s=9.0, median_s=None)
    write_status(tmp_path, status)
    _, before = read_status(tmp_path)
    part_of(tmp_path / PROGRESS_FILE).mkdir()  # nothing can be written there
    write_status(tmp_path, Status(step=4, phase="gen", seconds=0.5, limit_s=9.0, median_s=None))
    read, written = read_status(tmp_path)
    assert read == status and written > before


@pytest.mark.timeout(120)  # a last resort: without reports it would wait for ever
def test_a_folder_that_goes_meanwhile_does_not_end_the_reports(
    progress: Progress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recipe.holderpo.fault_tolerance.progress.EVERY_SECONDS", 0.02)
    calls = []

    def source() -> int:
        calls.append(True)
        raise FileNotFoundError("pruned")

    with progress_reports(progress, tmp_path):
        with progress.phase("save_checkpoint", source):
            while len(calls) < 3:
                time.sleep(0.01)
        while read_status(tmp_path)[0] is None:
            time.sleep(0.01)


def test_time_in_which_nothing_ran_is_forgiven(progress: Progress, clock: Clock) -> None:
    clock.now += 500
    progress.forgive(480.0)
    assert progress.status().seconds == 20.0


def test_a_disk_without_room_ends_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MicroBatches(tmp_path / "no such folder" / "file")("module", "inputs")


# What the driver makes of it


def look(seconds: float, limit: float | None = 100.0, median: float | None = None, phase: str = "gen") -> Look:
    return Look(Status(7, phase, seconds, limit, median), written=1, fresh=0.0)


@pytest.mark.parametrize(
    ("seen", "now", "grace_s", "said"),
    [
        (look(99.0), 1.0, None, None),
        (look(101.0), 1.0, None, "step 7 has made no progress for 101 s in gen"),
        (
            look(401.0, 400.0, 40.0),
            1.0,
            None,
            "step 7 has made no progress for 401 s in gen, which otherwise takes 40 s",
        ),
        (look(399.0, 400.0, 40.0), 1.0, None, None),
        (look(0.0), 99.0, None, None),
        (look(0.0), 101.0, None, "the trainer's process has reported nothing for 101 s (the last: step 7, gen)"),
        (Look(None, 0, 0.0), 999.0, None, None),
        (Look(None, 0, 0.0), 1001.0, None, "no trainer 1001 s after the start of Ray (stall.start_s=1000)"),
        (look(21.0), 1.0, 100.0, "step 7 has made no progress for 21 s in gen"),
        (look(19.0), 1.0, 100.0, None),
        (look(29.0, 100.0, 10.0), 1.0, 100.0, None),
        (
            look(31.0, 100.0, 10.0),
            1.0,
            100.0,
            "step 7 has made no progress for 31 s in gen, which otherwise takes 10 s",
        ),
        (look(99.0), 1.0, 600.0, None),
        (look(99.0, 100.0, phase="save_checkpoint"), 99.0, 100.0, None),
        (look(900.0, 1000.0, phase="start"), 1.0, 100.0, None),
        (look(0.0), 21.0, 100.0, "the trainer's process has reported nothing for 21 s (the last: step 7, gen)"),
    ],
)
def test_when_a_run_is_stuck(seen: Look, now: float, grace_s: float | None, said: str | None) -> None:
    assert why_stuck(seen, SETTINGS, now, grace_s) == said


@given(
    seconds=st.floats(0, 1e6),
    silent=st.floats(0, 1e6),
    limit=st.floats(100, 1e6),
    median=st.floats(0, 1e4) | st.none(),
    grace_s=st.floats(1, 1e5),
)
def test_a_run_that_is_to_stop_is_never_waited_for_longer(
    seconds: float, silent: float, limit: float, median: float | None, grace_s: float
) -> None:
    seen = look(seconds, limit, median)
    if why_stuck(seen, SETTINGS, silent) is not None:
        assert why_stuck(seen, SETTINGS, silent, grace_s) is not None
    never = SETTINGS.model_copy(update={"floor_s": None})
    assert why_stuck(seen, never, silent, grace_s) is None
