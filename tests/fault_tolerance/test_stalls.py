"""A driver that waits for a stuck run is interrupted, told why, and has ended what it started."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import ray

from recipe.holderpo.config.settings import StallSettings
from recipe.holderpo.fault_tolerance.progress import PROGRESS_FILE, Status, write_status
from recipe.holderpo.fault_tolerance.stalls import STALLS, Stalled, stall_checks

FOR_EVER = 3600.0  # seconds: longer than any test may take
STUCK = Status(step=4, phase="update_actor", seconds=500.0, limit_s=400.0, median_s=40.0)
GRACE = 100.0
WELL = Status(step=4, phase="update_actor", seconds=5.0, limit_s=400.0, median_s=40.0)
PATIENT = StallSettings(start_s=10**6, floor_s=10**6, medians=10.0)


def child() -> psutil.Process:
    code = "import time\ntime.sleep(3600)"
    return psutil.Process(subprocess.Popen([sys.executable, "-c", code]).pid)


def gone(process: psutil.Process) -> bool:
    return process.wait(timeout=60) is not None


def after(seconds: float, run_dir: Path, status: Status) -> None:
    threading.Timer(seconds, write_status, (run_dir, status)).start()


def test_a_stuck_run_is_ended(tmp_path: Path) -> None:
    stopped, kept = child(), child()
    stopped.suspend()
    write_status(tmp_path, STUCK)  # of an earlier start: it does not count
    after(2, tmp_path, STUCK)
    with (
        pytest.raises(Stalled, match="stuck: step 4 has made no progress for 500 s in update_actor") as error,
        stall_checks(tmp_path, PATIENT, lambda: False, GRACE, keep=lambda: [kept.pid]),
    ):
        assert not (tmp_path / PROGRESS_FILE).exists()
        threading.Event().wait(FOR_EVER)
    assert f"(process {stopped.pid}, stopped)" in str(error.value) and not error.value.stopping
    assert gone(stopped) and kept.is_running()
    kept.kill()
    (folder,) = (tmp_path / STALLS).iterdir()
    (report,) = folder.iterdir()
    assert str(folder) in str(error.value) and f"(process {stopped.pid}, stopped)" in report.read_text()


def test_one_that_gets_on_is_left_in_peace(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with stall_checks(tmp_path, PATIENT, lambda: False, GRACE):
        write_status(tmp_path, WELL)
        time.sleep(3)
    assert not (tmp_path / STALLS).exists() and capfd.readouterr().err == ""


def test_the_processes_of_a_cluster_are_left_to_it(tmp_path: Path) -> None:
    process = child()
    after(1, tmp_path, STUCK)
    with pytest.raises(Stalled), stall_checks(tmp_path, PATIENT, lambda: False, GRACE, own_ray=False):
        time.sleep(FOR_EVER)
    assert process.is_running() and not ray.is_initialized()
    process.kill()


def test_a_trainer_that_reports_nothing(tmp_path: Path) -> None:
    settings = StallSettings.model_construct(start_s=2.0, floor_s=2.0, medians=10.0)
    with (
        pytest.raises(Stalled, match=r"no trainer \d+ s after the start of Ray"),
        stall_checks(tmp_path, settings, lambda: False, GRACE),
    ):
        time.sleep(FOR_EVER)
    after(0.5, tmp_path, WELL)
    with (
        pytest.raises(Stalled, match=r"reported nothing for \d+ s \(the last: step 4, update_actor\)"),
        stall_checks(tmp_path, settings, lambda: False, GRACE),
    ):
        time.sleep(FOR_EVER)


def test_a_disk_that_does_not_answer(tmp_path: Path) -> None:
    """Reading from a pipe without a writer waits for ever, as a read from a lost file server does."""
    settings = StallSettings.model_construct(start_s=2.0, floor_s=2.0, medians=10.0)
    with pytest.raises(Stalled, match="no trainer"), stall_checks(tmp_path, settings, lambda: False, GRACE):
        os.mkfifo(tmp_path / PROGRESS_FILE)
        time.sleep(FOR_EVER)


LOST_DISK = """
import sys, threading, time
from pathlib import Path
from recipe.holderpo.config.settings import StallSettings
from recipe.holderpo.fault_tolerance import stalls
stalls.DISK_SECONDS = 1.0
Path.mkdir = lambda *_, **__: threading.Event().wait()
settings = StallSettings.model_construct(start_s=1.0, floor_s=1.0, medians=10.0)
with stalls.stall_checks(Path(sys.argv[1]), settings, lambda: False, 100.0):
    time.sleep(3600)
"""


def test_where_nothing_can_be_written_the_command_says_so_and_ends(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", LOST_DISK, str(tmp_path)], capture_output=True, text=True)
    assert ended.returncode == 1 and ended.stderr.startswith("error: stuck: no trainer"), ended.stderr
    assert f"{tmp_path} does not answer" in ended.stderr


def test_a_run_that_is_to_stop_says_what_it_does(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    asked = threading.Event()
    with stall_checks(tmp_path, PATIENT, asked.is_set, GRACE):
        write_status(tmp_path, WELL)
        time.sleep(2.5)
        asked.set()
        time.sleep(2.5)
    said = capfd.readouterr().err
    assert said == "SIGTERM: the run ends when step 4 (now in update_actor) is finished and saved\n"


def test_stuck_while_it_is_to_stop(tmp_path: Path) -> None:
    waiting = Status(step=4, phase="gen", seconds=25.0, limit_s=400.0, median_s=2.0)
    after(1, tmp_path, waiting)
    with (
        pytest.raises(Stalled, match="no progress for 25 s in gen") as error,
        stall_checks(tmp_path, PATIENT, lambda: True, GRACE),
    ):
        time.sleep(FOR_EVER)
    assert error.value.stopping


def test_an_interrupt_from_elsewhere_stays_one(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), stall_checks(tmp_path, PATIENT, lambda: False, GRACE):
        raise KeyboardInterrupt
